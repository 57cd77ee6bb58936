/**
 * Bulk insertion into log trees against a plain map: runs of every density, appended, scattered and
 * replacing, with values of every size, through splits and failing allocations.
 */

import assert from "node:assert/strict";
import fc from "fast-check";
import { bytesEqual } from "../../format/bytes.ts";
import { BtreeRoot } from "../../format/btree.ts";
import { BTREE_MAX_VAL_LEN, ZONE_XATTR_TOTL } from "../../format/constants.ts";
import { Key } from "../../format/key.ts";
import { nrItems } from "../../format/btree_block.ts";
import { forEachItem, type TreeItem, walkBlocks } from "../../fs/btree.ts";
import { insertList } from "../../fs/btree_log.ts";
import { FsError } from "../../fs/errors.ts";
import { checkTree, newTree, seededRandom, type TestTree } from "./support.ts";

const keyOf = (n: number) => Key.of(16, 1 + (n >>> 10), 4, n & 1023, n % 7, n % 3);

/** Compares the tree with the model, byte for byte, and every block with the format's rules. */
function mustEqual(t: TestTree, root: BtreeRoot, model: Map<number, TreeItem>): void {
  checkTree(t, root);
  const wanted = [...model.keys()].sort((a, b) => a - b);
  let i = 0;
  forEachItem(t, root, Key.ZEROS, (item) => {
    const want = model.get(wanted[i++]!);
    const same = want !== undefined && want.key.equals(item.key) && want.seq === item.seq &&
      want.flags === item.flags && bytesEqual(want.val, item.val);
    if (!same) assert.fail(`item ${item.key} is not what it should be`);
  });
  assert.equal(i, wanted.length);
}

interface Run {
  from: number;
  step: number;
  count: number;
  size: number;
  seed: number;
}

const run = fc.record<Run>({
  from: fc.nat(40_000),
  step: fc.constantFrom(1, 1, 2, 5, 40, 300),
  count: fc.constantFrom(1, 3, 40, 200, 900),
  size: fc.constantFrom(0, 9, 41, 160, BTREE_MAX_VAL_LEN),
  seed: fc.nat(),
});

function itemsOf(r: Run, seq: number): TreeItem[] {
  const random = seededRandom(r.seed);
  return Array.from({ length: r.count }, (_, i): TreeItem => {
    const flags = random.below(5) === 0 ? 1 : 0;
    const val = new Uint8Array(flags === 1 ? 0 : r.size === 0 ? 0 : random.below(r.size + 1));
    for (let k = 0; k < val.length; k++) val[k] = random.below(256);
    return { key: keyOf(r.from + i * r.step), seq: seq * 1000 + i, flags, val };
  });
}

const numberOf = (r: Run, i: number) => r.from + i * r.step;

Deno.test("runs of any shape give the tree that a map says, in well-formed blocks", () => {
  fc.assert(
    fc.property(fc.array(run, { minLength: 1, maxLength: 6 }), (runs) => {
      const t = newTree(), root = BtreeRoot.alloc();
      const model = new Map<number, TreeItem>();
      runs.forEach((r, n) => {
        const items = itemsOf(r, n + 1);
        insertList(t, root, items);
        items.forEach((item, i) => model.set(numberOf(r, i), item));
        mustEqual(t, root, model);
        t.writer.write();
        t.alloc.commit();
      });
    }),
    { numRuns: 30 },
  );
});

Deno.test("a failing allocation anywhere: the same progress goes on and nothing is lost", () => {
  fc.assert(
    fc.property(run, run, (first, second) => {
      const t = newTree(), root = BtreeRoot.alloc();
      const model = new Map<number, TreeItem>();
      [first, second].forEach((r, n) => {
        const items = itemsOf(r, n + 1);
        const progress = { done: 0 };
        for (let blocks = 0; progress.done < items.length; blocks = (blocks + 1) % 4) {
          t.alloc.left = blocks;
          try {
            insertList(t, root, items, progress);
          } catch (e) {
            if (!(e instanceof FsError)) throw e;
            checkTree(t, root);
          }
        }
        t.alloc.left = Infinity;
        items.forEach((item, i) => model.set(numberOf(r, i), item));
        mustEqual(t, root, model);
        t.writer.write();
        t.alloc.commit();
      });
    }),
    { numRuns: 20 },
  );
});

Deno.test("appended runs leave full leaves behind, wherever in the tree they are appended", () => {
  const t = newTree(4096), root = BtreeRoot.alloc();
  const val = new Uint8Array(40);
  for (let round = 0; round < 40; round++) {
    // Two places that grow at their ends, one before the other.
    for (const place of [0, 50_000]) {
      insertList(
        t,
        root,
        Array.from({ length: 500 }, (_, i): TreeItem => ({
          key: keyOf(place + round * 500 + i),
          seq: 1,
          flags: 0,
          val,
        })),
      );
    }
    t.writer.write();
    t.alloc.commit();
  }
  const { blocks, keys } = checkTree(t, root);
  assert.equal(keys.length, 40_000);
  // 650 items of 96 bytes fill a leaf.
  assert.ok(blocks.length < 1.15 * 40_000 / 650, `${blocks.length} blocks`);
});

Deno.test("totals among dense runs are added, not replaced", () => {
  const t = newTree(), root = BtreeRoot.alloc();
  const pair = (total: bigint) => {
    const val = new Uint8Array(16);
    new DataView(val.buffer).setBigUint64(0, total, true);
    return val;
  };
  const items = Array.from({ length: 300 }, (_, i): TreeItem => ({
    key: Key.of(i < 100 ? 8 : i < 200 ? ZONE_XATTR_TOTL : 16, i, 0),
    seq: 1,
    flags: 0,
    val: pair(BigInt(i)),
  }));
  for (let round = 0; round < 3; round++) insertList(t, root, items);
  checkTree(t, root);
  let i = 0;
  forEachItem(t, root, Key.ZEROS, (item) => {
    const times = item.key.zone === ZONE_XATTR_TOTL ? 3n : 1n;
    assert.deepEqual(item.val, pair(BigInt(i++) * times));
  });
  assert.equal(i, 300);
});

Deno.test("deletions that need not be kept leave no item, no empty leaf and few small ones", () => {
  const kept = fc.record({
    // What is stored before, in permille of 6000 numbers, and what goes of it in each round.
    density: fc.constantFrom(20, 300, 1000),
    rounds: fc.array(
      fc.record({
        from: fc.nat(6000),
        step: fc.constantFrom(1, 1, 3, 50, 700),
        count: fc.constantFrom(1, 2, 60, 700, 3000),
        /** Of ten deletions so many must stay. */
        hiding: fc.constantFrom(0, 0, 3),
        adds: fc.boolean(),
      }),
      { minLength: 1, maxLength: 5 },
    ),
    seed: fc.nat(),
  });
  fc.assert(
    fc.property(kept, ({ density, rounds, seed }) => {
      const t = newTree(), root = BtreeRoot.alloc();
      const random = seededRandom(seed);
      const model = new Map<number, TreeItem>();
      const put = (items: Map<number, TreeItem>, hides: (n: number) => boolean) => {
        const numbers = [...items.keys()].sort((a, b) => a - b);
        const list = numbers.map((n) => items.get(n)!);
        const numberOf = new Map(list.map((item, i) => [item, numbers[i]!]));
        const asked = new Set<TreeItem>();
        insertList(t, root, list, { done: 0 }, (item, stored) => {
          const n = numberOf.get(item)!, old = model.get(n);
          assert.equal(stored, old === undefined ? -1 : old.flags, `stored flags of ${n}`);
          asked.add(item);
          return item.flags === 1 && !hides(n);
        });
        for (const [n, item] of items) {
          assert.equal(asked.has(item), item.flags === 1 || model.has(n), `asked about ${n}`);
          if (item.flags === 1 && !hides(n)) model.delete(n);
          else model.set(n, item);
        }
        return list;
      };
      const first = new Map<number, TreeItem>();
      for (let n = 0; n < 6000; n++) {
        if (random.below(1000) >= density) continue;
        first.set(n, { key: keyOf(n), seq: 1, flags: 0, val: new Uint8Array(random.below(200)) });
      }
      put(first, () => false);
      rounds.forEach((r, k) => {
        const items = new Map<number, TreeItem>();
        for (let i = 0; i < r.count; i++) {
          const n = r.from + i * r.step;
          const flags = r.adds && i % 4 === 0 ? 0 : 1;
          items.set(n, { key: keyOf(n), seq: k + 2, flags, val: new Uint8Array(flags ? 0 : 30) });
        }
        put(items, (n) => n % 10 < r.hiding);
        // The one item that a leaf keeps, so as not to be empty.
        const leaves = new Map<number, number>();
        walkBlocks(t, root, (b) => {
          if (b.level === 0) leaves.set(b.blkno, nrItems(b.block!));
        });
        const { keys } = checkTree(t, root);
        assert.ok(keys.length === 0 || [...leaves.values()].every((nr) => nr > 0), "an empty leaf");
        const seen = new Map<string, TreeItem>();
        forEachItem(t, root, Key.ZEROS, (item) => void seen.set(`${item.key}`, item));
        for (const item of model.values()) {
          const found = seen.get(`${item.key}`);
          assert.ok(found !== undefined && found.seq === item.seq && found.flags === item.flags);
          seen.delete(`${item.key}`);
        }
        for (const item of seen.values()) {
          assert.equal(item.flags, 1, "a deleted item is visible");
          const n = [...items].find(([, i]) => i.key.equals(item.key));
          assert.ok(n !== undefined && leaves.size >= 1, "a deletion that nobody made");
          model.set(n[0], n[1]);
        }
        t.writer.write();
        t.alloc.commit();
      });
      const items = model.size;
      const { blocks } = checkTree(t, root);
      assert.ok(blocks.length <= 4 + items / 80 + rounds.length, `${blocks.length} for ${items}`);
    }),
    { numRuns: 60 },
  );
});
