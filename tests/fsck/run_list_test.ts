/** Free runs in more memory than there is, what is taken of them, and trees of free extents of them. */

import assert from "node:assert/strict";
import fc from "fast-check";
import { checkVolume } from "../../fs/check/check.ts";
import { FreeData } from "../../fs/check/repair/data_space.ts";
import type { Run } from "../../fs/check/repair/free_blocks.ts";
import { repairVolume } from "../../fs/check/repair/repair.ts";
import { RunList, type Runs } from "../../fs/check/repair/run_list.ts";
import { LG_SIZE, SM_SIZE } from "../../format/constants.ts";
import { MemDevice } from "../../fs/memory_device.ts";
import { useFastCrc32c } from "../../fs/sys/crc.ts";
import { SeededRandom } from "../helpers/sim_reactor.ts";
import { generateShape, shapeSize } from "./shapes.ts";

const LITTLE = 1;

function listed(runs: Runs): Run[] {
  const list: Run[] = [];
  runs.forEach((start, len) => void list.push({ start, len }));
  return list;
}

Deno.test("runs are what was stored, beyond 2^32 and beyond memory", () => {
  const count = 50_000, list = new RunList(LITTLE, undefined), all: Run[] = [];
  for (let i = 0, start = 2 ** 32 - 1000; i < count; i++) {
    const len = i % 17 === 0 ? 2 ** 33 + i : 1 + i % 9;
    all.push({ start, len });
    list.push(start, len);
    start += len + 1 + i % 3;
  }
  assert.ok(list.spilled);
  assert.equal(list.length, count);
  assert.equal(list.total, all.reduce((sum, { len }) => sum + len, 0));
  assert.deepEqual(listed(list), all);
  for (const i of [0, count - 1, 77, 40_000, 12]) assert.deepEqual(list.at(i), all[i]);
  assert.throws(() => list.push(5, 1), /out of order/);
  list.close();
});

Deno.test("what is taken of free data blocks was free, is taken once, and is left out of the rest", () => {
  const lens = fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 150 });
  const wants = fc.array(fc.integer({ min: 1, max: 60 }), { maxLength: 200 });
  fc.assert(fc.property(lens, wants, (runLens, wanted) => {
    const list = new RunList(LITTLE, undefined), free = new Set<number>();
    let at = 64;
    for (const len of runLens) {
      list.push(at, len);
      for (let i = 0; i < len; i++) free.add(at + i);
      at += len + 1;
    }
    const data = new FreeData(list);
    for (const want of wanted) {
      assert.equal(data.left, free.size);
      if (data.left === 0) break;
      const { start, len } = data.take(want);
      assert.ok(len >= 1 && len <= want);
      for (let i = 0; i < len; i++) assert.ok(free.delete(start + i), `block ${start + i}`);
    }
    const rest = listed(data).flatMap(({ start, len }) =>
      Array.from({ length: len }, (_, i) => start + i)
    );
    assert.deepEqual(rest, [...free]);
    data.close();
  }));
});

Deno.test("more free runs of the data device than memory holds are written as a sound tree", async () => {
  await useFastCrc32c();
  const count = 25_000, { metaBlocks, dataBlocks } = shapeSize("leaks", count);
  const meta = new MemDevice(metaBlocks * LG_SIZE), data = new MemDevice(dataBlocks * SM_SIZE);
  generateShape(meta, data, "leaks", count);
  const before = checkVolume(meta, data);
  assert.equal(before.counts.get("data-leak"), count);
  const { after, stopped } = repairVolume(meta, data, {
    mode: "safe",
    random: new SeededRandom(7),
    now: { sec: 1, nsec: 0 },
    memory: LITTLE,
  });
  assert.equal(stopped, null);
  assert.equal(after.errors + after.warnings, 0);
  assert.equal(after.stats.dataBlocksUsed, before.stats.dataBlocksUsed);
  assert.equal(
    after.stats.dataBlocksFree,
    before.stats.dataBlocksFree + before.stats.dataBlocksLeaked,
  );
});
