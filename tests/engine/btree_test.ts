/** Btrees against a plain model, with every block verified; failures, stale and corrupt blocks. */

import assert from "node:assert/strict";
import fc from "fast-check";
import { BtreeRoot } from "../../format/btree.ts";
import { totalItemBytes } from "../../format/btree_block.ts";
import { ITEM_FLAG_DELETION, LG_SIZE, ZONE_XATTR_TOTL } from "../../format/constants.ts";
import { sealBlock } from "../../format/crc32c.ts";
import { EEXIST, ENOENT, ENOSPC } from "../../format/errno.ts";
import { Key } from "../../format/key.ts";
import {
  dirtyItem,
  force,
  forEachItem,
  insert,
  type KeyRange,
  lookup,
  next,
  prev,
  readItems,
  remove,
  type TreeItem,
  update,
  walkBlocks,
} from "../../fs/btree.ts";
import { insertList } from "../../fs/btree_log.ts";
import { CorruptError, FsError, StaleError } from "../../fs/errors.ts";
import { checkTree, newCache, newTree, seededRandom, type TestTree } from "./support.ts";

const key = (n: number) => Key.of(16, n, 4);
const isErrno = (errno: number) => (e: unknown) => e instanceof FsError && e.errno === errno;

/** The tree's blocks are exactly those allocated, and its keys the model's. */
function assertTree(t: TestTree, root: BtreeRoot, keys: number[]): void {
  const found = checkTree(t, root);
  assert.deepEqual(found.keys.map((k) => k.first), keys.toSorted((a, b) => a - b));
  assert.deepEqual(found.blocks.toSorted(), [...t.alloc.used].toSorted());
}

Deno.test("an empty tree has nothing and refuses changes of items", () => {
  const t = newTree(), root = BtreeRoot.alloc();
  assert.equal(lookup(t, root, key(1)), null);
  assert.equal(next(t, root, Key.ZEROS), null);
  assert.equal(prev(t, root, Key.ONES), null);
  assert.throws(() => update(t, root, key(1), new Uint8Array(1)), isErrno(ENOENT));
  assert.throws(() => remove(t, root, key(1)), isErrno(ENOENT));
  assert.throws(() => dirtyItem(t, root, key(1)), isErrno(ENOENT));
  assert.equal(readItems(t, root, key(1), { start: Key.ZEROS, end: Key.ONES }, () => {}), false);
  assert.equal(root.isZero(), true);
  assert.equal(t.writer.dirtyCount, 0);
});

Deno.test("the last item takes the tree's last block with it", () => {
  const t = newTree(), root = BtreeRoot.alloc();
  insert(t, root, key(1), new Uint8Array(5));
  assert.equal(root.height, 1);
  assert.throws(() => insert(t, root, key(1), new Uint8Array(5)), isErrno(EEXIST));
  assert.throws(() => remove(t, root, key(2)), isErrno(ENOENT));
  remove(t, root, key(1));
  assert.equal(root.isZero(), true);
  assert.equal(t.alloc.used.size, 0);
});

for (const order of ["ascending", "descending", "random"] as const) {
  Deno.test(`grows to three levels and back, ${order}`, () => {
    const t = newTree(8192), root = BtreeRoot.alloc();
    const count = 70_000, random = seededRandom(7);
    const ns = Array.from({ length: count }, (_, i) => i);
    if (order === "descending") ns.reverse();
    if (order === "random") {
      for (let i = count - 1; i > 0; i--) {
        const j = random.below(i + 1);
        [ns[i], ns[j]] = [ns[j]!, ns[i]!];
      }
    }
    const val = new Uint8Array(896);
    for (const n of ns) {
      val[0] = n;
      insert(t, root, key(n), val);
    }
    assert.equal(root.height, 3);
    const { blocks } = checkTree(t, root);
    assert.equal(blocks.length, t.alloc.used.size);
    t.writer.write();
    t.alloc.commit();
    for (const n of [0, 1, count >> 1, count - 1]) {
      assert.equal(lookup(t, root, key(n))!.val[0], n & 255);
    }
    ns.forEach((n, i) => {
      remove(t, root, key(n));
      if (i % 20_000 === 0) checkTree(t, root);
    });
    assert.equal(root.isZero(), true);
    assert.equal(t.alloc.used.size, 0);
  });
}

Deno.test("any sequence of changes and commits equals the model", () => {
  const change = fc.record({
    what: fc.constantFrom("insert", "insert", "update", "force", "remove", "dirty", "write", "run"),
    n: fc.nat(400),
    len: fc.oneof(fc.constant(0), fc.nat(896)),
  });
  fc.assert(
    fc.property(fc.array(change, { maxLength: 400, size: "max" }), (changes) => {
      const t = newTree(), root = BtreeRoot.alloc();
      const model = new Map<number, Uint8Array>();
      let stamp = 0;
      for (const c of changes) {
        const k = key(c.n), has = model.has(c.n);
        const val = new Uint8Array(c.len).fill(++stamp);
        switch (c.what) {
          case "insert":
            if (has) assert.throws(() => insert(t, root, k, val), isErrno(EEXIST));
            else insert(t, root, k, val);
            if (!has) model.set(c.n, val);
            break;
          case "update":
            if (has) update(t, root, k, val);
            else assert.throws(() => update(t, root, k, val), isErrno(ENOENT));
            if (has) model.set(c.n, val);
            break;
          case "force":
            force(t, root, k, val);
            model.set(c.n, val);
            break;
          case "remove":
            if (has) remove(t, root, k);
            else assert.throws(() => remove(t, root, k), isErrno(ENOENT));
            model.delete(c.n);
            break;
          case "dirty":
            if (!has) break;
            dirtyItem(t, root, k).val.fill(stamp);
            model.set(c.n, new Uint8Array(model.get(c.n)!.length).fill(stamp));
            break;
          case "write":
            t.writer.write();
            t.alloc.commit();
            break;
          case "run":
            for (let n = c.n; n < c.n + 60; n++) {
              if (model.has(n)) continue;
              insert(t, root, key(n), val);
              model.set(n, val);
            }
        }
        assertTree(t, root, [...model.keys()]);
      }
      const sorted = [...model.keys()].sort((a, b) => a - b);
      for (let n = 0; n < 470; n += 3) {
        const at = lookup(t, root, key(n));
        assert.deepEqual(at === null ? undefined : at.val.slice(), model.get(n)?.slice());
        assert.equal(next(t, root, key(n))?.key.first, sorted.find((x) => x >= n));
        assert.equal(prev(t, root, key(n))?.key.first, sorted.findLast((x) => x <= n));
      }
      const seen: number[] = [];
      forEachItem(t, root, Key.ZEROS, (item) => {
        seen.push(item.key.first);
      });
      assert.deepEqual(seen, sorted);
    }),
    { numRuns: 25 },
  );
});

Deno.test("what a root refers to never changes while another transaction goes on", () => {
  const t = newTree(), root = BtreeRoot.alloc();
  for (let n = 0; n < 500; n++) insert(t, root, key(n), new Uint8Array(300).fill(1));
  t.writer.write();
  t.alloc.commit();
  const old = BtreeRoot.alloc();
  old.copyFrom(root);
  for (let n = 0; n < 500; n += 2) remove(t, root, key(n));
  for (let n = 1; n < 500; n += 2) update(t, root, key(n), new Uint8Array(300).fill(2));
  const values = new Set<number>();
  let count = 0;
  forEachItem({ cache: t.cache }, old, Key.ZEROS, (item) => {
    count++;
    values.add(item.val[0]!);
  });
  assert.equal(count, 500);
  assert.deepEqual([...values], [1]);

  t.writer.forgetAll();
  const fresh = { cache: newCache(t.dev) };
  assert.equal(checkTree(fresh, old).keys.length, 500, "the device still holds the old tree");
});

Deno.test("readItems shrinks the range to the leaf and visits what is in it", () => {
  const t = newTree(), root = BtreeRoot.alloc();
  for (let n = 0; n < 1000; n++) insert(t, root, key(2 * n), new Uint8Array(200));
  assert.equal(root.height, 2);
  const covered: number[] = [];
  for (let at = Key.of(16, 0, 4); at.zone === 16;) {
    const range: KeyRange = { start: Key.of(16, 0, 0), end: Key.of(16, 5000, 255) };
    const items: TreeItem[] = [];
    assert.equal(
      readItems(t, root, at, range, (item) => {
        items.push(item);
      }),
      true,
    );
    assert.ok(range.start.compare(at) <= 0 && at.compare(range.end) <= 0);
    for (const i of items) {
      assert.ok(i.key.compare(range.start) >= 0 && i.key.compare(range.end) <= 0);
      covered.push(i.key.first);
    }
    if (range.end.equals(Key.of(16, 5000, 255))) break;
    at = range.end.inc();
  }
  assert.deepEqual(covered, Array.from({ length: 1000 }, (_, n) => 2 * n));
});

Deno.test("insertList replaces, stores deletions, adds totl deltas, and resumes", () => {
  const t = newTree(), root = BtreeRoot.alloc();
  const item = (k: Key, seq: number, val: Uint8Array, flags = 0): TreeItem => ({
    key: k,
    seq,
    flags,
    val,
  });
  const pair = (total: bigint, count: bigint) => {
    const v = new DataView(new ArrayBuffer(16));
    v.setBigInt64(0, total, true);
    v.setBigInt64(8, count, true);
    return new Uint8Array(v.buffer);
  };
  const totl = Key.of(ZONE_XATTR_TOTL, 1, 0, 2, 3);
  insertList(t, root, [item(totl, 5, pair(10n, 1n)), item(key(1), 5, new Uint8Array(160))]);
  insertList(t, root, [
    item(totl, 6, pair(-10n, -1n)),
    item(key(1), 6, new Uint8Array(0), ITEM_FLAG_DELETION),
    item(key(2), 6, new Uint8Array([1, 2, 3])),
  ]);
  const sum = lookup(t, root, totl)!;
  assert.deepEqual([sum.seq, ...sum.val], [6, ...new Array(16).fill(0)], "a null sum stays");
  assert.deepEqual(
    [lookup(t, root, key(1))!.flags, lookup(t, root, key(1))!.val.length],
    [ITEM_FLAG_DELETION, 0],
  );
  assert.throws(
    () => insertList(t, root, [item(key(3), 7, sum.val), item(key(3), 7, sum.val)]),
    /not in order/,
  );
  assert.throws(() => insertList(t, root, [item(totl, 7, new Uint8Array(8))]), CorruptError);

  // out of space half-way, then on: every delta counts once
  const u = newTree(), grown = BtreeRoot.alloc();
  const items: TreeItem[] = [];
  for (let n = 0; n < 3000; n++) {
    items.push(item(Key.of(ZONE_XATTR_TOTL, n, 0), 9, pair(1n, 1n)));
  }
  insertList(u, grown, items);
  u.writer.write();
  u.alloc.commit();
  const progress = { done: 0 };
  for (let room = 1; progress.done < items.length; room++) {
    u.alloc.left = room;
    try {
      insertList(u, grown, items, progress);
    } catch (e) {
      assert.ok(isErrno(ENOSPC)(e));
    }
  }
  u.alloc.left = Infinity;
  checkTree(u, grown);
  forEachItem(u, grown, Key.ZEROS, (i) => assert.deepEqual(i.val.slice(), pair(2n, 2n)));
});

for (const what of ["insert", "remove"] as const) {
  Deno.test(`failing to allocate at any point of an ${what} leaves a tree that is right`, () => {
    let failures = 0;
    for (let left = 0; left < 14; left++) {
      const t = newTree(), root = BtreeRoot.alloc();
      const keys: number[] = [];
      for (let n = 0; n < 400; n++) {
        insert(t, root, key(n), new Uint8Array(800));
        keys.push(n);
      }
      t.writer.write();
      t.alloc.commit();
      t.alloc.left = left;
      try {
        for (let n = 400; n < 780; n++) {
          if (what === "insert") insert(t, root, key(n), new Uint8Array(800));
          else remove(t, root, key(n - 400));
          if (what === "insert") keys.push(n);
          else keys.shift();
        }
      } catch (e) {
        assert.ok(isErrno(ENOSPC)(e));
        failures++;
      }
      t.alloc.left = Infinity;
      const found = checkTree(t, root);
      assert.deepEqual(found.keys.map((k) => k.first), keys);
      assert.deepEqual(found.blocks.toSorted(), [...t.alloc.used].toSorted());
    }
    assert.ok(failures > 3, `${failures} failures`);
  });
}

/** Commits a two-level tree and returns it with a reader of its own. */
function committed(): {
  t: TestTree;
  root: BtreeRoot;
  reader: { cache: ReturnType<typeof newCache> };
} {
  const t = newTree(), root = BtreeRoot.alloc();
  for (let n = 0; n < 600; n++) insert(t, root, key(n), new Uint8Array(200));
  t.writer.write();
  t.alloc.commit();
  return { t, root, reader: { cache: newCache(t.dev) } };
}

/** Changes bytes of a committed block on the device, sealing it again. */
function damage(t: TestTree, blkno: number, change: (buf: Uint8Array) => void, seal = true): void {
  const buf = t.dev.allocBuffer(LG_SIZE);
  t.dev.read(buf, blkno * LG_SIZE);
  change(buf);
  if (seal) sealBlock(buf);
  t.dev.write(buf, blkno * LG_SIZE);
}

Deno.test("blocks that do not match their reference are stale to readers, corrupt to owners", () => {
  const offsets: [string, number][] = [["magic", 4], ["fsid", 8], ["seq", 16], ["blkno", 24]];
  for (const [what, at] of offsets) {
    const { t, root, reader } = committed();
    damage(t, root.ref.blkno, (buf) => buf[at]! ^= 1);
    assert.throws(() => lookup(reader, root, key(1)), StaleError, what);
    const owner = { ...reader, writer: t.writer };
    assert.throws(() => lookup(owner, root, key(1)), CorruptError, what);
  }
  const { t, root, reader } = committed();
  damage(t, root.ref.blkno, (buf) => buf[5000]! ^= 1, false);
  assert.throws(
    () => lookup(reader, root, key(1)),
    (e) => e instanceof StaleError && /crc/.test(e.message),
  );
  assert.equal(reader.cache.misses, 1);
  assert.notEqual(lookup(t, root, key(1)), null, "a verified block in memory is not read again");
});

Deno.test("a wrong level names the block and the level", () => {
  const { t, root, reader } = committed();
  damage(t, root.ref.blkno, (buf) => {
    buf[40] = 2;
  });
  assert.throws(
    () => lookup(reader, root, key(1)),
    (e) =>
      e instanceof CorruptError &&
      e.message.includes(`btree block ${root.ref.blkno} has level 2, expected 1`),
  );
});

Deno.test("a parent without a child for a key is corrupt", () => {
  const { t, root, reader } = committed();
  let last = -1;
  damage(t, root.ref.blkno, (buf) => {
    const v = new DataView(buf.buffer);
    const nr = v.getUint16(34, true);
    for (let i = 0; i < nr; i++) if (v.getUint8(48 + 56 * i + 8 + 25) === 255) last = i;
    Key.of(16, 590, 4).write(v, 48 + 56 * last + 8);
  });
  assert.throws(() => lookup(reader, root, key(599)), /has no child for 16.599.4.0.0.0/);
});

Deno.test("empty leaves anywhere are passed over in both directions", () => {
  const { t, root, reader } = committed();
  const leaves: { blkno: number; keys: number[] }[] = [];
  walkBlocks(t, root, (b) => {
    if (b.level > 0) return;
    leaves.push({ blkno: b.blkno, keys: [b.lo.first, Number(b.hi.firstBig)] });
    assert.ok(totalItemBytes(b.block!) > 0);
  });
  assert.ok(leaves.length >= 3);
  // a middle leaf and the last one lose all items
  for (const leaf of [leaves[1]!, leaves.at(-1)!]) {
    damage(t, leaf.blkno, (buf) => {
      const v = new DataView(buf.buffer);
      v.setUint32(32, 0, true);
      v.setUint16(36, 0, true);
      v.setUint16(38, 62464, true);
      buf.fill(0, 62512);
    });
  }
  const left = checkTree(reader, root).keys.map((k) => k.first);
  assert.ok(left.length > 0 && left.length < 600);
  const seen: number[] = [];
  forEachItem(reader, root, Key.ZEROS, (i) => {
    seen.push(i.key.first);
  });
  assert.deepEqual(seen, left);
  for (let n = 0; n < 600; n += 7) {
    assert.equal(next(reader, root, key(n))?.key.first, left.find((x) => x >= n));
    assert.equal(prev(reader, root, key(n))?.key.first, left.findLast((x) => x <= n));
  }
  const range = { start: Key.ZEROS, end: Key.ONES };
  assert.equal(readItems(reader, root, Key.of(16, 599, 4), range, () => assert.fail()), true);
  // and the tree can be changed: the empty leaf is joined away
  for (const n of left) remove({ ...t, cache: t.cache }, root, key(n));
});

Deno.test("walkBlocks reports unreadable blocks and goes on", () => {
  const { t, root, reader } = committed();
  const leaves: number[] = [];
  walkBlocks(t, root, (b) => {
    if (b.level === 0) leaves.push(b.blkno);
  });
  damage(t, leaves[1]!, (buf) => buf[16]! ^= 1);
  const errors: number[] = [], good: number[] = [];
  walkBlocks(reader, root, (b) => {
    (b.error === null ? good : errors).push(b.blkno);
  });
  assert.deepEqual(errors, [leaves[1]]);
  assert.deepEqual(good, [root.ref.blkno, ...leaves.filter((b) => b !== leaves[1])]);
});

Deno.test("memory stays bounded while a tree larger than the cache is read and changed", () => {
  const limit = 80 * LG_SIZE;
  const t = newTree(4096, limit), root = BtreeRoot.alloc();
  for (let n = 0; n < 20_000; n++) {
    insert(t, root, key(n), new Uint8Array(800));
    if (t.writer.dirtyCount > 10) {
      t.writer.write();
      t.alloc.commit();
    }
  }
  t.writer.write();
  t.alloc.commit();
  let count = 0;
  forEachItem(t, root, Key.ZEROS, (outer) => {
    if (count++ % 1000 !== 0) return;
    // a visit may read more blocks than are kept: the leaf visited is pinned
    const before = outer.key.first;
    for (let n = 0; n < 20_000; n += 64) lookup(t, root, key(n));
    assert.equal(outer.key.first, before);
  });
  assert.equal(count, 20_000);
  assert.ok(t.cache.memoryBytes <= limit + 16 * LG_SIZE, `${t.cache.memoryBytes} bytes`);
});
