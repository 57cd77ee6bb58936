/** Free extent trees against a plain set of blocks; moves, zones, failures. */

import assert from "node:assert/strict";
import fc from "fast-check";
import {
  AllocListBlock,
  AllocListHead,
  AllocRoot,
  decodeFreeExtent,
  type Extent,
  extentOrder,
  freeExtentKeyOrder,
} from "../../format/alloc.ts";
import { BlockRef } from "../../format/block.ts";
import { MAGIC_ALLOC_LIST, ZONE_FREE_EXTENT_BLKNO } from "../../format/constants.ts";
import { ENOSPC } from "../../format/errno.ts";
import { CorruptError, FsError } from "../../fs/errors.ts";
import {
  extentFrom,
  forEachExtent,
  insertExtent,
  markZones,
  moveExtents,
  removeExtent,
  takeFront,
  ZONE_BITMAP_BYTES,
} from "../../fs/extent_alloc.ts";
import { type AllocTree, ListAllocator } from "../../fs/meta_alloc.ts";
import type { Tree } from "../../fs/btree.ts";
import { checkTree, newTree } from "./support.ts";

/** The maximal runs of a set of blocks. */
function runs(blocks: ReadonlySet<number>): Extent[] {
  const out: Extent[] = [];
  for (const b of [...blocks].sort((x, y) => x - y)) {
    const last = out.at(-1);
    if (last !== undefined && last.start + last.len === b) last.len++;
    else out.push({ start: b, len: 1 });
  }
  return out;
}

/** Both indexes hold exactly the runs of `blocks`; the total is right. */
function assertExtents(t: Tree, root: AllocRoot, blocks: ReadonlySet<number>): void {
  const expected = runs(blocks);
  const { keys } = checkTree(t, root.root, false);
  const byBlock: Extent[] = [], bySize: Extent[] = [];
  for (const key of keys) {
    const e = decodeFreeExtent(key);
    if (key.zone === ZONE_FREE_EXTENT_BLKNO) byBlock.push(e);
    else {
      assert.equal(freeExtentKeyOrder(key), extentOrder(e.len));
      bySize.push(e);
    }
  }
  assert.deepEqual(byBlock, expected);
  assert.deepEqual(bySize.toSorted((a, b) => a.start - b.start), expected);
  assert.equal(root.totalLen, blocks.size);
  const visited: Extent[] = [];
  forEachExtent(t, root, (e) => visited.push(e));
  assert.deepEqual(visited, expected);
}

const range = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i);

Deno.test("any sequence of inserts, removes and takes equals a set of blocks", () => {
  const op = fc.record({
    what: fc.constantFrom("insert", "insert", "remove", "take", "commit"),
    start: fc.integer({ min: 64, max: 900 }),
    len: fc.integer({ min: 1, max: 60 }),
  });
  fc.assert(
    fc.property(fc.array(op, { maxLength: 120, size: "max" }), (ops) => {
      const t = newTree(), root = AllocRoot.alloc();
      const model = new Set<number>();
      for (const { what, start, len } of ops) {
        const span = range(start, start + len);
        if (what === "insert") {
          if (span.some((b) => model.has(b))) {
            assert.throws(() => insertExtent(t, root, start, len), CorruptError);
          } else {
            insertExtent(t, root, start, len);
            span.forEach((b) => model.add(b));
          }
        } else if (what === "remove") {
          if (span.every((b) => model.has(b))) {
            removeExtent(t, root, start, len);
            span.forEach((b) => model.delete(b));
          } else assert.throws(() => removeExtent(t, root, start, len), CorruptError);
        } else if (what === "take") {
          const e = takeFront(t, root, len);
          const best = runs(model).sort((a, b) =>
            extentOrder(b.len) - extentOrder(a.len) || a.start + a.len - b.start - b.len
          )[0];
          assert.deepEqual(
            e,
            best === undefined ? null : { start: best.start, len: Math.min(len, best.len) },
          );
          if (e !== null) {
            range(e.start, e.start + e.len).forEach((b) =>
              model.delete(b)
            );
          }
        } else {
          t.writer.write();
          t.alloc.commit();
        }
        assertExtents(t, root, model);
        const at = extentFrom(t, root, start);
        assert.deepEqual(
          at,
          runs(model).find((e) => e.start + e.len > start) ?? null,
        );
      }
    }),
    { numRuns: 60 },
  );
});

Deno.test("an operation that fails at any point leaves the extents as they were", () => {
  let failures = 0;
  for (let left = 0; left < 8; left++) {
    for (const what of ["insert", "remove", "take"] as const) {
      const t = newTree(), root = AllocRoot.alloc();
      const model = new Set<number>();
      // enough for a tree of two levels, whose leaves split under more inserts
      for (let i = 0; i < 700; i++) {
        insertExtent(t, root, 100 + 10 * i, 3);
        for (const b of range(100 + 10 * i, 103 + 10 * i)) model.add(b);
      }
      t.writer.write();
      t.alloc.commit();
      t.alloc.left = left;
      try {
        for (let i = 0; i < 600; i++) {
          const at = 100 + 10 * i;
          if (what === "insert") {
            insertExtent(t, root, at + 5, 2);
            [at + 5, at + 6].forEach((b) => model.add(b));
          } else if (what === "remove") {
            removeExtent(t, root, at + 1, 1);
            model.delete(at + 1);
          } else {
            const e = takeFront(t, root, 2)!;
            range(e.start, e.start + e.len).forEach((b) => model.delete(b));
          }
        }
      } catch (e) {
        assert.ok(e instanceof FsError && e.errno === ENOSPC);
        failures++;
      }
      t.alloc.left = Infinity;
      assertExtents(t, root, model);
    }
  }
  assert.ok(failures >= 10, `${failures} failures`);
});

/** A tree context with a real list allocator over `avail` blocks. */
function listTree(avail: number): AllocTree {
  const { cache, writer } = newTree(12_000);
  const head = AllocListHead.alloc(), ref = BlockRef.alloc();
  const list = new AllocListBlock(writer.moveTo(ref, MAGIC_ALLOC_LIST, 2).v, 0);
  for (let i = 0; i < avail; i++) list.setEntry(i, 3 + i);
  list.nr = head.firstNr = head.totalNr = avail;
  head.ref.copyFrom(ref);
  writer.write();
  const freed = AllocListHead.alloc();
  const alloc = new ListAllocator({ cache, writer }, head, freed, {
    deviceBlocks: 12_000,
    paranoid: true,
  });
  return { cache, writer, alloc };
}

Deno.test("moves stop for their total, an empty source, the budget, or low lists", () => {
  const t = listTree(2000), src = AllocRoot.alloc(), dst = AllocRoot.alloc();
  for (let i = 0; i < 300; i++) insertExtent(t, src, 1000 + 20 * i, 10);
  assert.deepEqual(moveExtents(t, dst, src, 95), { blocks: 95, why: "complete" });
  assert.equal(dst.totalLen, 95);
  assert.equal(src.totalLen, 2905);
  assert.deepEqual(moveExtents(t, dst, src, 5000, { budget: 59 }), { blocks: 0, why: "budget" });
  assert.deepEqual(moveExtents(t, dst, src, 5000), { blocks: 2905, why: "empty" });
  assert.equal(dst.totalLen, 3000);
  assert.ok(src.root.isZero());
  assertExtents(t, dst, new Set(range(0, 300).flatMap((i) => range(1000 + 20 * i, 1010 + 20 * i))));

  const poor = listTree(90), from = AllocRoot.alloc(), to = AllocRoot.alloc();
  insertExtent(poor, from, 500, 100);
  insertExtent(poor, from, 700, 100);
  assert.deepEqual(moveExtents(poor, to, from, 200), { blocks: 0, why: "low" });
  assert.equal(from.totalLen, 200);
});

Deno.test("moves take from exclusive zones, then vacant ones, then anywhere", () => {
  const Z = 1000;
  const zones = (...set: number[]) => {
    const bits = new Uint8Array(ZONE_BITMAP_BYTES);
    for (const zone of set) bits[zone >> 3]! |= 1 << (zone & 7);
    return bits;
  };
  const t = listTree(2000), src = AllocRoot.alloc();
  insertExtent(t, src, 64, 5000);
  insertExtent(t, src, 7100, 300);
  insertExtent(t, src, 9100, 30);
  const taken = (total: number, exclusive: Uint8Array, vacant: Uint8Array) => {
    const dst = AllocRoot.alloc();
    const { blocks } = moveExtents(t, dst, src, total, { zones: { blocks: Z, exclusive, vacant } });
    const out: Extent[] = [];
    forEachExtent(t, dst, (e) => out.push(e));
    for (const e of out) {
      removeExtent(t, dst, e.start, e.len);
      insertExtent(t, src, e.start, e.len);
    }
    assert.equal(out.reduce((sum, e) => sum + e.len, 0), blocks);
    return out;
  };
  assert.deepEqual(taken(10, zones(3), zones(1)), [{ start: 3000, len: 10 }]);
  assert.deepEqual(taken(10, zones(), zones(1)), [{ start: 1000, len: 10 }]);
  assert.deepEqual(taken(10, zones(0), zones()), [{ start: 64, len: 10 }]);
  assert.deepEqual(taken(400, zones(7), zones(9)), [
    { start: 64, len: 70 },
    { start: 7100, len: 300 },
    { start: 9100, len: 30 },
  ]);
  assert.deepEqual(taken(10, zones(8, 500), zones(6)), [{ start: 64, len: 10 }]);
  // an extent is not clipped at the end of its zone
  assert.deepEqual(taken(2500, zones(2), zones()), [{ start: 2000, len: 2500 }]);

  const bits = new Uint8Array(ZONE_BITMAP_BYTES);
  markZones(bits, Z, 1999, 2);
  markZones(bits, Z, 1_023_999, 5000);
  assert.deepEqual(bits, zones(1, 2, 1023), "zones beyond the bitmap are left out");
});

Deno.test("zone search finds an extent in a wanted zone whenever one begins there", () => {
  const Z = 100;
  fc.assert(
    fc.property(
      fc.uniqueArray(fc.integer({ min: 0, max: 40 }), { minLength: 1, maxLength: 12 }),
      fc.uniqueArray(fc.integer({ min: 0, max: 20 }), { maxLength: 6 }),
      fc.integer({ min: 1, max: 130 }),
      (starts, wanted, len) => {
        const t = listTree(1500), src = AllocRoot.alloc(), dst = AllocRoot.alloc();
        const free = new Set<number>();
        for (const s of starts) {
          const span = range(64 + 50 * s, 64 + 50 * s + 5 + s);
          if (span.some((b) => free.has(b))) continue;
          insertExtent(t, src, span[0]!, span.length);
          span.forEach((b) => free.add(b));
        }
        const exclusive = new Uint8Array(ZONE_BITMAP_BYTES);
        wanted.forEach((zone) => markZones(exclusive, Z, zone * Z, 1));
        const vacant = new Uint8Array(ZONE_BITMAP_BYTES);
        const { blocks } = moveExtents(t, dst, src, len, {
          zones: { blocks: Z, exclusive, vacant },
        });
        assert.equal(blocks, Math.min(len, free.size));
        const out: Extent[] = [];
        forEachExtent(t, dst, (e) => out.push(e));
        // an extent that only reaches into a zone may be passed over (03 §5.4)
        const reachable = runs(free).some((e) => wanted.includes(Math.floor(e.start / Z)));
        if (reachable) {
          assert.ok(
            out.some((e) => wanted.some((z) => e.start < (z + 1) * Z && e.start + e.len > z * Z)),
          );
        }
      },
    ),
    { numRuns: 200 },
  );
});
