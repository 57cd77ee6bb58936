/** The changes of a repair: found by key and range, in order, and written without holding them all. */

import assert from "node:assert/strict";
import fc from "fast-check";
import { BtreeRoot } from "../../format/btree.ts";
import { LG_SIZE } from "../../format/constants.ts";
import { Key } from "../../format/key.ts";
import { BlockCache, BlockWriter } from "../../fs/block_cache.ts";
import { forEachItem } from "../../fs/btree.ts";
import { ChangeSet } from "../../fs/check/repair/change_set.ts";
import { TreeBuilder } from "../../fs/check/repair/tree_builder.ts";
import { MemDevice } from "../../fs/memory_device.ts";
import { SeededRandom } from "../helpers/sim_reactor.ts";

const keyOf = (n: number): Key => Key.of(16, Math.floor(n / 100), 12, n % 100, n, n % 7);

Deno.test("change set: says what a map and a sort would say", () => {
  const change = fc.record({
    n: fc.nat(4000),
    val: fc.option(fc.uint8Array({ maxLength: 40 }), { nil: null }),
  });
  fc.assert(
    fc.property(
      fc.array(change, { minLength: 0, maxLength: 3000, size: "max" }),
      fc.nat(4000),
      fc.nat(4000),
      (changes, a, b) => {
        const set = new ChangeSet(), model = new Map<number, Uint8Array | null>();
        for (const { n, val } of changes) {
          set.put(keyOf(n), val);
          model.set(n, val);
        }
        assert.equal(set.count, model.size);
        for (let n = 0; n <= 4000; n += 13) assert.deepEqual(set.get(keyOf(n)), model.get(n));
        const [first, last] = [keyOf(a), keyOf(b)].sort((x, y) => x.compare(y)) as [Key, Key];
        const expected = [...model].map(([n, val]) => ({ key: keyOf(n), val }))
          .filter(({ key }) => key.compare(first) >= 0 && key.compare(last) <= 0)
          .sort((x, y) => x.key.compare(y.key));
        const found = [...set.range(first, last)];
        assert.deepEqual(found.map(({ key }) => `${key}`), expected.map(({ key }) => `${key}`));
        assert.deepEqual(found.map(({ val }) => val), expected.map(({ val }) => val));
      },
    ),
    { numRuns: 30 },
  );
});

Deno.test("change set: a hundred thousand changes take little more than their bytes", () => {
  const set = new ChangeSet(), NR = 100_000, empty = new Uint8Array(0);
  for (let i = 0; i < NR; i++) set.put(keyOf(i * 7919 % NR), empty);
  assert.equal(set.count, NR);
  assert.ok(set.bytes < 64 * NR, `${set.bytes / NR} bytes each`);
  let last: Key | null = null, nr = 0;
  for (const { key } of set.range(Key.ZEROS, Key.ONES)) {
    assert.ok(last === null || last.compare(key) < 0);
    last = key;
    nr++;
  }
  assert.equal(nr, NR);
});

Deno.test("tree builder: a tree is written as it grows, with few blocks in memory", () => {
  const NR = 60_000, MOST = 20, meta = new MemDevice(2000 * LG_SIZE, { name: "meta" });
  const random = new SeededRandom(5);
  const cache = new BlockCache(meta, 77n, { random, limitBytes: 64 * LG_SIZE });
  const writer = new BlockWriter(cache);
  let next = 1030, most = 0;
  const alloc = {
    allocMeta() {
      most = Math.max(most, writer.dirtyCount);
      return next++;
    },
    freeMeta() {
      assert.fail("everything is new");
    },
  };
  const builder = new TreeBuilder({ cache, writer, alloc }, MOST);
  const val = (i: number) => new Uint8Array(30).fill(i % 251);
  for (let i = 0; i < NR; i++) builder.add(keyOf(i), val(i), 9);
  const root = BtreeRoot.alloc();
  builder.finish(root);
  assert.ok(most <= MOST + 3, `${most} blocks were dirty`);
  assert.ok(next - 1030 > 3 * MOST);
  writer.write();
  const other = new BlockCache(meta, 77n, { random });
  let i = 0;
  forEachItem({ cache: other }, root, Key.ZEROS, (item) => {
    assert.ok(item.key.equals(keyOf(i)));
    assert.deepEqual(item.val.slice(), val(i++));
    return true;
  });
  assert.equal(i, NR);
});
