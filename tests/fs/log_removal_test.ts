/**
 * What a log tree keeps of items that are deleted: a deletion where any other tree may have the item,
 * nothing where none has. The truth is what a reader of all trees sees.
 */

import assert from "node:assert/strict";
import fc from "fast-check";
import { ITEM_FLAG_DELETION } from "../../format/constants.ts";
import { metaSeqKey } from "../../format/item_keys.ts";
import { Key } from "../../format/key.ts";
import { LogTrees } from "../../format/log_trees.ts";
import { LOCK_READ, LOCK_WRITE, LOCK_WRITE_ONLY } from "../../format/wire.ts";
import { TYPE_INODE_INDEX_META_SEQ } from "../../format/constants.ts";
import { BlockCache } from "../../fs/block_cache.ts";
import { forEachItem } from "../../fs/btree.ts";
import { forEachLogTree } from "../../fs/forest.ts";
import type { Op } from "../../fs/op.ts";
import { collectItems } from "../helpers/check_namespace.ts";
import { mount, testKey, type TestMount, unmount } from "../helpers/engine.ts";
import { LocalCluster } from "../helpers/local_cluster.ts";
import { checkOwnership } from "../helpers/ownership.ts";

const INO = 5000;

/** Stores test item `n`, new or not; null deletes it. */
function set(m: TestMount, n: number, val: Uint8Array | null): void | Promise<void> {
  const { fs } = m;
  return fs.runner.run((op: Op) => {
    const lock = fs.locks.inode(INO), key = testKey(INO, n);
    op.lock(lock, LOCK_WRITE);
    const found = fs.items.lookup(op, lock, key);
    if (val === null && found === null) return;
    op.hold({ allocating: false, items: 4 });
    op.apply();
    if (val === null) fs.items.delete(op, lock, key);
    else if (found === null) fs.items.create(op, lock, key, val);
    else fs.items.update(op, lock, key, val);
  });
}

const bytes = (n: number): Uint8Array => new Uint8Array([n, n >> 8]);

/** What all trees hold of test item `n`, by the mounts' order: "item", "deletion" or nothing. */
function stored(cluster: LocalCluster, key: Key): string[] {
  const cache = new BlockCache(cluster.meta, cluster.store.fsid, { random: cluster.random });
  const found: { rid: bigint; what: string }[] = [];
  forEachLogTree({ cache }, cluster.superBlock().logsRoot, (window) => {
    const lt = LogTrees.at(window.bytes.slice());
    forEachItem({ cache }, lt.itemRoot, key, (i) => {
      if (!i.key.equals(key)) return false;
      const what = (i.flags & ITEM_FLAG_DELETION) !== 0 ? "deletion" : "item";
      found.push({ rid: lt.rid, what });
      return false;
    });
  });
  return found.sort((a, b) => a.rid < b.rid ? -1 : 1).map((f) => f.what);
}

/** Numbers of the test items that a reader of all trees sees. */
function visible(cluster: LocalCluster): number[] {
  const cache = new BlockCache(cluster.meta, cluster.store.fsid, { random: cluster.random });
  const sb = cluster.superBlock();
  const prefix = testKey(INO, 0);
  return collectItems(cache, { fsRoot: sb.fsRoot, logsRoot: sb.logsRoot })
    .filter(({ key }) => key.zone === prefix.zone && key.first === INO && key.type === prefix.type)
    .map(({ key }) => key.second);
}

Deno.test("what was created and committed here is removed without a trace", async () => {
  const cluster = await LocalCluster.make();
  const m = await mount(cluster);
  for (const n of [1, 2]) await set(m, n, bytes(n));
  await m.fs.trans.commit();
  await set(m, 1, bytes(7));
  await m.fs.trans.commit();
  assert.deepEqual(stored(cluster, testKey(INO, 1)), ["item"]);
  await set(m, 1, null);
  await m.fs.trans.commit();
  assert.deepEqual(stored(cluster, testKey(INO, 1)), []);
  // And again, over nothing.
  await set(m, 1, bytes(8));
  await m.fs.trans.commit();
  await set(m, 1, null);
  await set(m, 1, bytes(9));
  await m.fs.trans.commit();
  assert.deepEqual(visible(cluster), [1, 2]);
  await set(m, 1, null);
  await m.fs.trans.commit();
  assert.deepEqual(stored(cluster, testKey(INO, 1)), []);
  await unmount(cluster, m);
});

Deno.test("what another tree may have is hidden, also when it was created anew meanwhile", async () => {
  const cluster = await LocalCluster.make();
  const first = await mount(cluster);
  for (const n of [1, 2]) await set(first, n, bytes(n));
  await first.fs.trans.commit();
  await unmount(cluster, first);

  const m = await mount(cluster);
  // The last item of a leaf is never removed.
  await set(m, 3, bytes(3));
  await set(m, 1, null);
  await m.fs.trans.commit();
  assert.deepEqual(visible(cluster), [2, 3]);
  // Created where a deletion lies beneath.
  await set(m, 1, bytes(3));
  await m.fs.trans.commit();
  assert.deepEqual(visible(cluster), [1, 2, 3]);
  await set(m, 1, null);
  await m.fs.trans.commit();
  assert.deepEqual(visible(cluster), [2, 3]);
  assert.deepEqual(stored(cluster, testKey(INO, 1)).sort(), ["deletion", "item"]);
  await unmount(cluster, m);
});

Deno.test("what was read again, or lies in an earlier log tree, is hidden", async () => {
  const cluster = await LocalCluster.make();
  const m = await mount(cluster), other = await mount(cluster);
  for (const n of [1, 2, 3]) await set(m, n, bytes(n));
  await m.fs.trans.commit();
  // The lock goes and comes back: the cache is read anew.
  await set(other, 2, bytes(22));
  await other.fs.trans.commit();
  await set(m, 1, null);
  await set(m, 2, null);
  await m.fs.trans.commit();
  assert.deepEqual(visible(cluster), [3]);
  assert.ok(stored(cluster, testKey(INO, 1)).includes("deletion"));
  assert.ok(stored(cluster, testKey(INO, 2)).includes("deletion"));

  await set(m, 4, bytes(4));
  await m.fs.trans.commit();
  // As if the server had finalized the tree and opened the next one.
  m.fs.items.beginTransaction(m.fs.trans.seq, 99);
  await set(m, 4, null);
  await m.fs.trans.commit();
  assert.deepEqual(stored(cluster, testKey(INO, 4)), ["deletion"]);
  for (const x of [m, other]) await unmount(cluster, x);
});

Deno.test("index items of own transactions go, those of others are hidden", async () => {
  const cluster = await LocalCluster.make();
  const m = await mount(cluster);
  const { fs } = m;
  const t = fs.trans.seq;
  const change = (made: number[], gone: Key[]) =>
    fs.runner.run((op: Op) => {
      const lock = fs.locks.index(TYPE_INODE_INDEX_META_SEQ, t);
      op.lock(lock, LOCK_WRITE_ONLY);
      op.hold({ allocating: false });
      op.apply();
      for (const ino of made) {
        fs.items.createForce(op, lock, metaSeqKey(t, ino), new Uint8Array(0), null);
      }
      for (const key of gone) fs.items.deleteForce(op, lock, key, null);
    });
  const foreign = metaSeqKey(t - 1, 9);
  await change([1, 2, 3], [metaSeqKey(t, 4), foreign]);
  await change([], [metaSeqKey(t, 3)]);
  await fs.trans.commit();
  assert.ok(fs.trans.seq > t);
  const of = (ino: number) => stored(cluster, metaSeqKey(t, ino));
  assert.deepEqual([1, 2, 3, 4].map((ino) => of(ino).join()), ["item", "item", "", ""]);
  assert.deepEqual(stored(cluster, foreign), ["deletion"]);
  await change([], [metaSeqKey(t, 1)]);
  await fs.trans.commit();
  assert.deepEqual([1, 2].map((ino) => of(ino).join()), ["", "item"]);
  // A blind page knows of nothing: what is not stored here may be elsewhere.
  await change([], [metaSeqKey(t, 5)]);
  await fs.trans.commit();
  assert.deepEqual(of(5), ["deletion"]);
  await unmount(cluster, m);
});

/** One step of the property below; mostly of one mount, whose cache then lasts for a while. */
const who = fc.constantFrom(0, 0, 0, 0, 0, 0, 0, 1);
const n = fc.nat(2);
const step = fc.oneof(
  { weight: 6, arbitrary: fc.record({ who, n, val: fc.nat(9) }) },
  { weight: 6, arbitrary: fc.record({ who, n, val: fc.constant(-1) }) },
  { weight: 6, arbitrary: fc.record({ who, n: fc.constant(-1), val: fc.constant(0) }) },
  { weight: 1, arbitrary: fc.record({ who, n: fc.constant(-2), val: fc.constant(0) }) },
);

Deno.test("two mounts create, delete, commit and leave in any order: readers see the truth", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 40 }), async (steps) => {
      const cluster = await LocalCluster.make();
      // Items of a mount that is gone, to be hidden; and one in each tree that never goes.
      const former = await mount(cluster);
      const model = new Set<number>();
      for (const n of [0, 1, 2]) {
        await set(former, n, bytes(n));
        model.add(n);
      }
      await unmount(cluster, former);
      let ballast = 100;
      const begin = async () => {
        const m = await mount(cluster);
        await set(m, ballast, bytes(1));
        model.add(ballast++);
        return m;
      };
      const mounts = [await begin(), await begin()];
      for (const { who, n, val } of steps) {
        const m = mounts[who]!;
        if (n === -2) {
          await unmount(cluster, m);
          mounts[who] = await begin();
        } else if (n === -1) {
          await m.fs.trans.commit();
        } else {
          await set(m, n, val < 0 ? null : bytes(val));
          if (val < 0) model.delete(n);
          else model.add(n);
        }
      }
      for (const m of mounts) await m.fs.trans.commit();
      assert.deepEqual(visible(cluster), [...model].sort((a, b) => a - b));
      // And what a mount reads itself.
      const fresh = await mount(cluster);
      for (const n of [0, 1, 2]) {
        const there = await fresh.fs.runner.run((op: Op) => {
          const lock = fresh.fs.locks.inode(INO);
          op.lock(lock, LOCK_READ);
          return fresh.fs.items.lookup(op, lock, testKey(INO, n)) !== null;
        });
        assert.equal(there, model.has(n), `item ${n}`);
      }
      for (const m of [...mounts, fresh]) await unmount(cluster, m);
      assert.deepEqual(checkOwnership(cluster.meta).problems, []);
    }),
    { numRuns: 60 },
  );
});
