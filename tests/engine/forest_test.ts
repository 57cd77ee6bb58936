/** Search files, bloom blocks, and reading the forest against a model of versions. */

import assert from "node:assert/strict";
import fc from "fast-check";
import { BlockRef } from "../../format/block.ts";
import { BloomBlock } from "../../format/bloom.ts";
import { BtreeRoot } from "../../format/btree.ts";
import {
  ITEM_FLAG_DELETION,
  LG_SIZE,
  MAGIC_SRCH_BLOCK,
  SRCH_BLOCK_SAFE_BYTES,
} from "../../format/constants.ts";
import { bloomBits } from "../../format/hash.ts";
import { Key } from "../../format/key.ts";
import { inodeLockRange } from "../../format/lock_ranges.ts";
import { LogTrees, logTreesKey } from "../../format/log_trees.ts";
import { SrchBlock, SrchFile, SrchParent } from "../../format/srch.ts";
import { setBloom, testBloom } from "../../fs/bloom.ts";
import { force, type TreeItem } from "../../fs/btree.ts";
import { insertList } from "../../fs/btree_log.ts";
import { CorruptError, StaleError } from "../../fs/errors.ts";
import {
  forEachLogTree,
  type ForestRoots,
  inodeCount,
  nextKeyHint,
  readForest,
} from "../../fs/forest.ts";
import { appendSrch, readSrch, walkSrchBlocks } from "../../fs/srch_file.ts";
import { newCache, newTree, seededRandom, type TestTree } from "./support.ts";

function commit(t: TestTree): void {
  t.writer.write();
  t.alloc.commit();
}

// Search files.

interface Entry {
  hash: bigint;
  ino: number;
  id: number;
}

function entriesOf(t: TestTree, file: SrchFile): Entry[] {
  const out: Entry[] = [];
  readSrch({ cache: newCache(t.dev, 5) }, file, (e) => {
    out.push({ hash: e.hash, ino: e.ino, id: e.id });
  });
  return out;
}

Deno.test("what is appended to a search file is read back, in order, with true bounds", () => {
  const entry = fc.record({
    hash: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    ino: fc.integer({ min: 1, max: 2 ** 40 }),
    id: fc.nat(1000),
  }, { noNullPrototype: true });
  fc.assert(
    fc.property(fc.array(fc.array(entry, { maxLength: 40 }), { maxLength: 5 }), (transactions) => {
      const t = newTree(), file = SrchFile.alloc();
      const all: Entry[] = [];
      for (const entries of transactions) {
        for (const e of entries) appendSrch(t, file, e.hash, e.ino, e.id);
        all.push(...entries);
        commit(t);
        assert.deepEqual(entriesOf(t, file), all);
        assert.equal(file.entries, all.length);
        assert.equal(file.blocks, all.length > 0 ? 1 : 0);
        if (all.length === 0) continue;
        const sorted = all.toSorted((a, b) =>
          a.hash !== b.hash ? (a.hash < b.hash ? -1 : 1) : a.ino - b.ino || a.id - b.id
        );
        const [first, last] = [sorted[0]!, sorted.at(-1)!];
        assert.deepEqual([file.first.hash, file.first.ino, file.first.id], [
          first.hash,
          first.ino,
          first.id,
        ]);
        assert.deepEqual([file.last.hash, file.last.ino, file.last.id], [
          last.hash,
          last.ino,
          last.id,
        ]);
      }
    }),
    { numRuns: 50 },
  );
});

Deno.test("a search file of many blocks: radix, bounds of every block's first entry, copy on write", () => {
  const t = newTree(), file = SrchFile.alloc(), random = seededRandom(3);
  const all: Entry[] = [];
  const old: { file: SrchFile; count: number }[] = [];
  for (let i = 0; i < 12_000; i++) {
    const e = { hash: random.u64(), ino: 1 + random.below(1 << 30), id: random.below(1 << 20) };
    // new extremes at the beginning of later blocks, which the reference misses (T11)
    appendSrch(t, file, e.hash, e.ino, e.id);
    all.push(e);
    if (i % 3000 === 2999) {
      commit(t);
      const copy = SrchFile.alloc();
      copy.copyFrom(file);
      old.push({ file: copy, count: all.length });
    }
  }
  assert.ok(file.blocks > 2);
  assert.equal(file.height, 2);
  assert.deepEqual(entriesOf(t, file), all);
  const hashes = all.map((e) => e.hash).sort((a, b) => (a < b ? -1 : 1));
  assert.equal(file.first.hash, hashes[0]);
  assert.equal(file.last.hash, hashes.at(-1));

  const blocks: [number, number, number][] = [];
  walkSrchBlocks(t, file, (b, level, blk) => {
    blocks.push([b.blkno, level, blk]);
    if (level > 0) return;
    const block = new SrchBlock(b.v, 0);
    assert.equal(block.entryBytes > SRCH_BLOCK_SAFE_BYTES, blk < file.blocks - 1);
  });
  assert.deepEqual(blocks.map((b) => b[1]), [1, ...new Array(file.blocks).fill(0)]);
  assert.deepEqual(
    blocks.slice(1).map((b) => b[2]),
    Array.from({ length: file.blocks }, (_, i) => i),
  );
  assert.deepEqual(blocks.map((b) => b[0]).toSorted(), [...t.alloc.used].toSorted());

  // no block of the last state was written over by what followed it
  const [last] = old.slice(-1);
  assert.equal(entriesOf(t, last!.file).length, last!.count);
});

Deno.test("a search file that contradicts itself is corrupt, one that is replaced is stale", () => {
  const t = newTree(), file = SrchFile.alloc();
  appendSrch(t, file, 7n, 8, 9);
  commit(t);
  const reader = { cache: newCache(t.dev) };
  const sparse = SrchFile.alloc();
  sparse.copyFrom(file);
  sparse.blocks = 2;
  assert.throws(() => readSrch(reader, sparse, () => {}), /2 blocks has height 1/);
  const stale = SrchFile.alloc();
  stale.copyFrom(file);
  stale.ref.seqLo ^= 1;
  assert.throws(() => readSrch(reader, stale, () => {}), StaleError);

  const block = new SrchBlock(t.writer.dirty(file.ref, MAGIC_SRCH_BLOCK, t.alloc).v, 0);
  block.entryBytes += 1;
  commit(t);
  assert.throws(() => readSrch(reader, file, () => {}), CorruptError);
});

Deno.test("parents of a search file hold their children in order", () => {
  const t = newTree(), file = SrchFile.alloc();
  for (let i = 0; i < 6000; i++) appendSrch(t, file, BigInt(i) << 40n, 2 ** 40 + i * 2 ** 30, i);
  assert.ok(file.blocks > 1);
  walkSrchBlocks(t, file, (b, level) => {
    if (level !== 1) return;
    const parent = new SrchParent(b.v, 0);
    for (let i = 0; i < 5; i++) assert.equal(parent.ref(i).isNull, i >= file.blocks);
  });
});

// Bloom blocks.

Deno.test("bloom bits: the worked example, and copies on write only when bits are added", () => {
  const t = newTree(), ref = BlockRef.alloc();
  const a = Key.of(16, 1024, 0), b = Key.of(4, 0, 4);
  assert.equal(testBloom(t.cache, ref, bloomBits(a)), false, "no block, no bits");
  assert.equal(setBloom(t, ref, a), true);
  assert.equal(setBloom(t, ref, a), false);
  assert.equal(setBloom(t, ref, b), true);
  const block = t.cache.peek(ref.blkno)!;
  assert.equal(new BloomBlock(block.v, 0).totalSet, 6);
  const bytes = [51369, 45292, 22675, 3883, 31528, 53537].map((at) => block.buf[at]);
  assert.deepEqual(bytes, [0x02, 0x01, 0x08, 0x20, 0x01, 0x10]);
  commit(t);
  const before = ref.blkno;
  assert.equal(setBloom(t, ref, b), false);
  assert.equal(ref.blkno, before);
  assert.equal(t.writer.dirtyCount, 0);
  assert.equal(testBloom(t.cache, ref, bloomBits(a)), true);
  assert.equal(testBloom(t.cache, ref, bloomBits(Key.of(16, 2048, 0))), false);
  assert.equal(setBloom(t, ref, Key.of(16, 2048, 0)), true);
  assert.notEqual(ref.blkno, before);
});

// The forest.

class Forest {
  readonly t = newTree(16_384);
  readonly fsRoot = BtreeRoot.alloc();
  readonly logsRoot = BtreeRoot.alloc();
  readonly logs: LogTrees[] = [];

  get roots(): ForestRoots {
    return { fsRoot: this.fsRoot, logsRoot: this.logsRoot };
  }

  addLog(): LogTrees {
    const lt = LogTrees.alloc();
    lt.rid = BigInt(this.logs.length + 1);
    lt.nr = 1;
    this.logs.push(lt);
    return lt;
  }

  /** Stores the log_trees items. */
  commit(): void {
    for (const lt of this.logs) force(this.t, this.logsRoot, logTreesKey(lt.rid, lt.nr), lt.bytes);
    commit(this.t);
  }

  put(root: BtreeRoot, items: TreeItem[]): void {
    items.sort((a, b) => a.key.compare(b.key));
    insertList(this.t, root, items);
  }
}

const item = (n: number, seq: number, len: number, flags = 0): TreeItem => ({
  key: inodeKeyOf(n),
  seq,
  flags,
  val: new Uint8Array(flags === 0 ? len : 0).fill(seq),
});
/** Items spread over three lock groups. */
const inodeKeyOf = (n: number): Key => Key.of(16, n * 4, 4);

/** All items of a lock, read piece by piece from its start. */
function readLock(forest: Forest, ino: number): TreeItem[] {
  const lock = inodeLockRange(ino);
  const cache = newCache(forest.t.dev, 9);
  const items: TreeItem[] = [];
  for (let key = lock.start;;) {
    const read = readForest(cache, forest.roots, key, lock, lock.start);
    assert.ok(read.start.compare(key) <= 0 && read.end.compare(key) >= 0);
    assert.ok(read.start.compare(lock.start) >= 0 && read.end.compare(lock.end) <= 0);
    for (const i of read.items) {
      assert.ok(i.key.compare(read.start) >= 0 && i.key.compare(read.end) <= 0);
    }
    items.push(...read.items.filter((i) => i.key.compare(key) >= 0));
    if (read.end.compare(lock.end) === 0) return items;
    key = read.end.inc();
  }
}

Deno.test("the forest gives the newest version of every key, as a model does", () => {
  const write = fc.record({ n: fc.nat(767), len: fc.nat(896), dead: fc.boolean() });
  fc.assert(
    fc.property(
      fc.array(fc.array(write, { maxLength: 120, size: "max" }), { minLength: 1, maxLength: 6 }),
      fc.nat(100),
      (trees, gap) => {
        const forest = new Forest();
        const model = new Map<number, TreeItem>();
        const base: TreeItem[] = [];
        for (let n = 0; n < 768; n += 1 + gap) {
          const i = item(n, 1, 200);
          base.push(i);
          model.set(n, i);
        }
        forest.put(forest.fsRoot, base);
        trees.forEach((writes, index) => {
          const lt = forest.addLog();
          const newest = new Map<number, TreeItem>();
          for (const w of writes) {
            // later trees do not always hold the later versions
            const seq = 2 + (w.n * 31 + index * 17) % 50 + index;
            newest.set(w.n, item(w.n, seq, w.len, w.dead ? ITEM_FLAG_DELETION : 0));
          }
          forest.put(lt.itemRoot, [...newest.values()]);
          for (const [n, i] of newest) {
            setBloom(forest.t, lt.bloomRef, inodeLockRange(n * 4).start);
            if (i.seq > (model.get(n)?.seq ?? 0)) model.set(n, i);
          }
        });
        forest.commit();
        const found = [0, 1024, 2048].flatMap((ino) => readLock(forest, ino));
        const expected = [...model.values()].filter((i) => i.flags === 0)
          .sort((a, b) => a.key.compare(b.key));
        assert.deepEqual(
          found.map((i) => [i.key.first, i.seq, i.val.length]),
          expected.map((i) => [i.key.first, i.seq, i.val.length]),
        );
      },
    ),
    { numRuns: 30 },
  );
});

Deno.test("an empty log tree means no items, even where its bloom block matches (T3)", () => {
  const forest = new Forest();
  forest.put(forest.fsRoot, [item(1, 1, 10)]);
  const lt = forest.addLog();
  setBloom(forest.t, lt.bloomRef, inodeLockRange(4).start);
  forest.commit();
  const items = readLock(forest, 4);
  assert.deepEqual(items.map((i) => i.key.first), [4]);
});

Deno.test("a log tree without the lock's bloom bits is not read", () => {
  const forest = new Forest();
  const lt = forest.addLog();
  forest.put(lt.itemRoot, [item(1, 5, 10), item(300, 5, 10)]);
  setBloom(forest.t, lt.bloomRef, inodeLockRange(4).start);
  forest.commit();
  assert.equal(readLock(forest, 4).length, 1);
  assert.equal(readLock(forest, 1200).length, 0);
});

Deno.test("nothing anywhere covers the whole lock at once", () => {
  const forest = new Forest();
  const lock = inodeLockRange(5000);
  const cache = newCache(forest.t.dev);
  const read = readForest(cache, forest.roots, Key.of(16, 5000, 4), lock, lock.start);
  assert.deepEqual(read, { start: lock.start, end: lock.end, items: [] });
  assert.equal(nextKeyHint(cache, forest.roots, Key.ZEROS), null);
});

Deno.test("reused blocks are stale, at any depth", () => {
  const forest = new Forest();
  const lt = forest.addLog();
  forest.put(lt.itemRoot, [item(1, 5, 10)]);
  setBloom(forest.t, lt.bloomRef, inodeLockRange(4).start);
  forest.commit();
  for (const blkno of [forest.logsRoot.ref.blkno, lt.bloomRef.blkno, lt.itemRoot.ref.blkno]) {
    const buf = forest.t.dev.allocBuffer(LG_SIZE);
    forest.t.dev.read(buf, blkno * LG_SIZE);
    forest.t.dev.write(new Uint8Array(LG_SIZE), blkno * LG_SIZE);
    assert.throws(() => readLock(forest, 4), StaleError);
    forest.t.dev.write(buf, blkno * LG_SIZE);
  }
  assert.equal(readLock(forest, 4).length, 1);
});

Deno.test("the hint is the least key of any tree; the inode count sums all deltas", () => {
  const forest = new Forest();
  forest.put(forest.fsRoot, [item(10, 1, 5), item(30, 1, 5)]);
  const a = forest.addLog(), b = forest.addLog(), empty = forest.addLog();
  forest.put(a.itemRoot, [item(20, 3, 5, ITEM_FLAG_DELETION)]);
  forest.put(b.itemRoot, [item(15, 3, 5), item(40, 3, 5)]);
  a.inodeCountDelta = 7;
  b.inodeCountDelta = -3;
  empty.inodeCountDelta = 1;
  forest.commit();
  const cache = newCache(forest.t.dev);
  const hints = [0, 11, 16, 21, 31].map((n) =>
    nextKeyHint(cache, forest.roots, inodeKeyOf(n))!.first / 4
  );
  assert.deepEqual(hints, [10, 15, 20, 30, 40]);
  assert.equal(nextKeyHint(cache, forest.roots, inodeKeyOf(41)), null);
  assert.equal(inodeCount({ cache }, 100, forest.logsRoot), 105);
  const rids: bigint[] = [];
  forEachLogTree({ cache }, forest.logsRoot, (lt, key) => {
    assert.equal(lt.rid, key.firstBig);
    rids.push(lt.rid);
  });
  assert.deepEqual(rids, [1n, 2n, 3n]);
});

Deno.test("a hundred log trees are read with few blocks in memory", () => {
  const forest = new Forest();
  const count = 100;
  for (let i = 0; i < count; i++) {
    const lt = forest.addLog();
    forest.put(lt.itemRoot, [item(i, 2 + i, 20), item(200, 2 + i, 30)]);
    setBloom(forest.t, lt.bloomRef, inodeLockRange(0).start);
  }
  forest.commit();
  const cache = newCache(forest.t.dev, 3, 64 * LG_SIZE);
  const lock = inodeLockRange(0);
  const { items } = readForest(cache, forest.roots, Key.of(16, 4, 4), lock, lock.start);
  assert.deepEqual(items.map((i) => [i.key.first / 4, i.seq, i.val[0]]), [
    ...Array.from({ length: count }, (_, i) => [i, 2 + i, 2 + i]),
    [200, 1 + count, 1 + count],
  ]);
  assert.ok(cache.memoryBytes <= 80 * LG_SIZE);
});
