/** Records of blocks that do not fit into memory, and the search for roots with little of it. */

import assert from "node:assert/strict";
import fc from "fast-check";
import { BlockTable } from "../../fs/check/repair/block_table.ts";
import { findRoots } from "../../fs/check/repair/find_roots.ts";
import { MemDevice } from "../../fs/memory_device.ts";
import { useFastCrc32c } from "../../fs/sys/crc.ts";
import { generate, generatedSize } from "./generate.ts";
import { healthyVolume, Surgeon } from "./repair_support.ts";
import { makeSample } from "./sample.ts";

const LITTLE = 1;

Deno.test("records of blocks are what was stored, whatever memory there is", () => {
  const op = fc.record({ blkno: fc.nat(20_000), field: fc.nat(2), value: fc.nat() });
  fc.assert(
    fc.property(
      fc.array(op, { maxLength: 400 }),
      fc.constantFrom(LITTLE, 1 << 20),
      (ops, memory) => {
        const table = new BlockTable(3, memory, undefined), model = new Map<string, number>();
        for (const { blkno, field, value } of ops) {
          table.set(blkno, field, value);
          model.set(`${blkno}.${field}`, value);
        }
        for (const { blkno } of ops) {
          for (const field of [0, 1, 2]) {
            assert.equal(table.get(blkno, field), model.get(`${blkno}.${field}`) ?? 0);
          }
        }
        const found: number[] = [];
        table.forEach(1, (blkno) => void found.push(blkno));
        const expected = new Set(
          ops.map((o) => o.blkno).filter((b) => (model.get(`${b}.1`) ?? 0) !== 0),
        );
        assert.deepEqual(found, [...expected].sort((a, b) => a - b));
        table.close();
      },
    ),
  );
});

Deno.test("a table that does not fit is in a file", () => {
  const table = new BlockTable(2, LITTLE, undefined);
  for (let blkno = 0; blkno < 100_000; blkno += 7) table.set(blkno, 1, blkno + 1);
  assert.ok(table.spilled);
  for (let blkno = 0; blkno < 100_000; blkno += 7) assert.equal(table.get(blkno, 1), blkno + 1);
  assert.equal(table.get(1, 1), 0);
  table.close();
});

Deno.test("the same roots are found with little memory", async () => {
  await useFastCrc32c();
  const inodes = 40_000, { metaBlocks, dataBlocks } = generatedSize(inodes);
  const large = { meta: new MemDevice(metaBlocks << 16), data: new MemDevice(dataBlocks << 12) };
  generate(large.meta, large.data, inodes);
  for (const { meta } of [await healthyVolume(), makeSample(), large]) {
    const sb = new Surgeon(meta).superBlock();
    const find = (memory: number) => findRoots(meta, sb.hdr.fsid, { memory }, () => {});
    const roots = find(1 << 30);
    assert.deepEqual(find(LITTLE), roots);
    assert.ok(roots.fsRoots.some(({ blkno }) => blkno === sb.fsRoot.ref.blkno));
    const logs = sb.logsRoot.isEmpty ? null : sb.logsRoot.ref.blkno;
    assert.ok(logs === null || roots.logsRoots[0]?.blkno === logs);
  }
});
