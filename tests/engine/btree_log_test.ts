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
import { forEachItem, type TreeItem } from "../../fs/btree.ts";
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
