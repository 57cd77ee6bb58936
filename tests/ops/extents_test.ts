// Extents (02 §14): every algorithm against a plain array of blocks.

import assert from "node:assert/strict";
import fc from "fast-check";
import { SEF_OFFLINE, SEF_UNWRITTEN } from "../../format/constants.ts";
import { FsError } from "../../fs/errors.ts";
import {
  type Extent,
  ExtentMap,
  firstOffline,
  isOffline,
  isOnline,
  mapForWrite,
  type MappedRun,
  planAllocation,
  preallocateExtents,
  type PreallocPolicy,
  removeExtents,
  seekData,
  seekHole,
  unmappedBlocks,
} from "../../fs/ops/extents.ts";

/** Extents in a sorted array; refuses what the item cache would refuse. */
class ArrayMap extends ExtentMap {
  extents: Extent[] = [];
  changes = 0;

  next(block: number): Extent | null {
    return this.extents.find((e) => e.start + e.len > block) ?? null;
  }
  protected drop(e: Extent): void {
    const i = this.extents.findIndex((x) => x.start === e.start && x.len === e.len);
    assert.ok(i >= 0, "dropped extent exists");
    this.extents.splice(i, 1);
    this.changes++;
  }
  protected put(start: number, len: number, blkno: number, flags: number): void {
    assert.ok(
      this.extents.every((x) => x.start + x.len <= start || x.start >= start + len),
      "put extent overlaps",
    );
    this.extents.push({ start, len, blkno, flags });
    this.extents.sort((a, b) => a.start - b.start);
    this.changes++;
  }
}

/** Throws when an invariant of 02 §14.1 is broken. */
function checkMap(map: ArrayMap): void {
  let before: Extent | null = null;
  let online = 0;
  let offline = 0;
  const used = new Set<number>();
  for (const e of map.extents) {
    assert.ok(e.len > 0 && (e.blkno !== 0 || e.flags !== 0), "no empty extents");
    assert.ok(e.blkno !== 0 || e.flags === SEF_OFFLINE, "unmapped extents are just offline");
    if (before !== null) {
      assert.ok(before.start + before.len <= e.start, "no overlap");
      const touching = before.start + before.len === e.start && before.flags === e.flags;
      const physical = before.blkno === 0 ? e.blkno === 0 : before.blkno + before.len === e.blkno;
      assert.ok(!(touching && physical), `unmerged ${JSON.stringify([before, e])}`);
    }
    if (isOnline(e.blkno, e.flags)) online += e.len;
    else if (isOffline(e.flags)) offline += e.len;
    if (e.blkno !== 0) {
      for (let i = 0; i < e.len; i++) {
        assert.ok(!used.has(e.blkno + i), "block used once");
        used.add(e.blkno + i);
      }
    }
    before = e;
  }
  assert.equal(map.onlineDelta, online, "online count");
  assert.equal(map.offlineDelta, offline, "offline count");
}

/** Blocks from 64 on, in order; short runs when told so. Frees are remembered, not reused. */
class Pool {
  nextBlkno = 64;
  readonly out = new Set<number>();
  readonly requests: number[] = [];
  constructor(readonly shrink: (count: number) => number = (n) => n) {}

  /** Blocks promised in all: what is left of them must always suffice for what is still needed. */
  promised = Infinity;

  allocate = (count: number, needed: number, own: number) => {
    assert.ok(own >= 1 && own <= needed, "only what is needed is allocated");
    assert.ok(this.promised >= needed, "earlier allocations left what is needed");
    count = Math.min(count, own + this.promised - needed);
    this.requests.push(count);
    const len = Math.max(1, Math.min(count, this.shrink(count)));
    const blkno = this.nextBlkno;
    // A gap now and then keeps neighbours from merging by luck.
    this.nextBlkno += len + (len < count ? 1 : 0);
    for (let i = 0; i < len; i++) this.out.add(blkno + i);
    this.promised -= len;
    return { blkno, len };
  };
  free = (blkno: number, len: number) => {
    for (let i = 0; i < len; i++) {
      assert.ok(this.out.delete(blkno + i), "freed block was allocated");
    }
  };
}

const DEFAULT: PreallocPolicy = { blocks: 2048, contigOnly: true };

function write(map: ExtentMap, pool: Pool, from: number, end: number, policy = DEFAULT) {
  const runs: MappedRun[] = [];
  let b = from;
  while (b < end) {
    const next = mapForWrite(
      map,
      b,
      end,
      map.onlineDelta,
      policy,
      false,
      pool.allocate,
      8,
      runs,
    );
    assert.ok(next > b, "progress");
    b = next;
  }
  return runs;
}

Deno.test("a stream of single blocks allocates 1, 1, 2, 4, 8 … up to the limit", () => {
  const map = new ArrayMap();
  const pool = new Pool();
  for (let b = 0; b < 9000; b++) write(map, pool, b, b + 1);
  assert.deepEqual(pool.requests.slice(0, 13), [
    1,
    1,
    2,
    4,
    8,
    16,
    32,
    64,
    128,
    256,
    512,
    1024,
    2048,
  ]);
  assert.ok(pool.requests.slice(12).every((n) => n === 2048));
  checkMap(map);
  assert.equal(map.onlineDelta, 9000);
});

Deno.test("1 MiB at once ends in one extent without preallocation (02 §25.4)", () => {
  const map = new ArrayMap();
  const pool = new Pool();
  write(map, pool, 0, 256);
  assert.deepEqual(pool.requests, [1, 1, 2, 4, 8, 16, 32, 64, 128]);
  assert.deepEqual(map.extents, [{ start: 0, len: 256, blkno: 64, flags: 0 }]);
});

Deno.test("five blocks leave three unwritten (02 §25.4)", () => {
  const map = new ArrayMap();
  write(map, new Pool(), 0, 5);
  assert.deepEqual(map.extents, [
    { start: 0, len: 5, blkno: 64, flags: 0 },
    { start: 5, len: 3, blkno: 69, flags: SEF_UNWRITTEN },
  ]);
  checkMap(map);
});

Deno.test("a block after a hole is not preallocated; neither is one of a sparse file", () => {
  const map = new ArrayMap();
  const pool = new Pool();
  write(map, pool, 10, 11);
  write(map, pool, 100, 101);
  assert.deepEqual(pool.requests, [1, 1]);
});

Deno.test("the room up to the next extent bounds preallocation", () => {
  const map = new ArrayMap();
  const pool = new Pool();
  write(map, pool, 0, 8);
  map.set(12, 1, 5000, SEF_UNWRITTEN);
  write(map, pool, 8, 9);
  assert.equal(pool.requests.at(-1), 4);
  assert.deepEqual(map.next(12), { start: 12, len: 1, blkno: 5000, flags: SEF_UNWRITTEN });
});

Deno.test("region policy: aligned regions, limited by the online blocks, moved up to the block", () => {
  const policy = { blocks: 16, contigOnly: false };
  const map = new ArrayMap();
  assert.deepEqual(planAllocation(map, 20, null, 0, policy), { start: 16, count: 1 });
  assert.deepEqual(planAllocation(map, 20, null, 100, policy), { start: 16, count: 16 });
  map.set(18, 1, 500, 0);
  assert.deepEqual(planAllocation(map, 20, null, 100, policy), { start: 20, count: 12 });
  assert.deepEqual(planAllocation(map, 17, map.next(17), 100, policy), { start: 16, count: 2 });
  const pool = new Pool();
  const other = new ArrayMap();
  other.set(0, 4, 900, 0);
  write(other, pool, 30, 31, policy);
  assert.deepEqual(other.extents, [
    { start: 0, len: 4, blkno: 900, flags: 0 },
    { start: 27, len: 3, blkno: 64, flags: SEF_UNWRITTEN },
    { start: 30, len: 1, blkno: 67, flags: 0 },
  ]);
});

Deno.test("set refuses a range that is not inside one extent", () => {
  const map = new ArrayMap();
  map.set(4, 4, 100, 0);
  map.set(8, 4, 300, 0);
  const einval = (e: unknown) => e instanceof FsError && e.errno === 22;
  assert.throws(() => map.set(6, 4, 0, 0), einval);
  assert.throws(() => map.set(2, 4, 500, 0), einval);
  assert.throws(() => map.set(0, 20, 500, 0), einval);
  checkMap(map);
});

Deno.test("writing into offline blocks is refused unless staging", () => {
  const map = new ArrayMap();
  map.set(0, 256, 0, SEF_OFFLINE);
  const pool = new Pool();
  assert.throws(() => write(map, pool, 0, 1));
  const runs: MappedRun[] = [];
  mapForWrite(map, 0, 1, 0, DEFAULT, true, pool.allocate, 8, runs);
  // 02 §25.5: space for the whole extent, one block online.
  assert.deepEqual(map.extents, [
    { start: 0, len: 1, blkno: 64, flags: 0 },
    { start: 1, len: 255, blkno: 65, flags: SEF_OFFLINE | SEF_UNWRITTEN },
  ]);
  assert.throws(() => write(map, pool, 1, 2));
  mapForWrite(map, 1, 256, 1, DEFAULT, true, pool.allocate, 8, runs);
  assert.deepEqual(map.extents, [{ start: 0, len: 256, blkno: 64, flags: 0 }]);
  checkMap(map);
});

interface Op {
  kind: "write" | "remove" | "offline" | "prealloc";
  start: number;
  len: number;
}

const opArb: fc.Arbitrary<Op> = fc.record({
  kind: fc.constantFrom("write", "write", "write", "remove", "offline", "prealloc"),
  start: fc.oneof(fc.nat(60), fc.nat(400)),
  len: fc.integer({ min: 1, max: 90 }),
});

type Cell = "hole" | "online" | "unwritten" | "offline" | "reserved";

function cellsOf(map: ArrayMap, nr: number): Cell[] {
  const cells: Cell[] = new Array(nr).fill("hole");
  for (const e of map.extents) {
    const cell: Cell = isOffline(e.flags)
      ? e.blkno === 0 ? "offline" : "reserved"
      : e.flags === SEF_UNWRITTEN
      ? "unwritten"
      : "online";
    for (let b = e.start; b < Math.min(nr, e.start + e.len); b++) cells[b] = cell;
  }
  return cells;
}

Deno.test("random operations equal a plain array of blocks; blocks are neither lost nor shared", () => {
  const NR = 600;
  fc.assert(
    fc.property(
      fc.array(opArb, { maxLength: 60 }),
      fc.boolean(),
      fc.constantFrom(1, 8, 16, 2048),
      fc.constantFrom(0, 1, 3, 7),
      fc.constantFrom(0, 1, 5, 5000),
      (ops, contigOnly, blocks, shrinkTo, spare) => {
        const map = new ArrayMap();
        const pool = new Pool(shrinkTo === 0 ? undefined : () => shrinkTo);
        const policy = { blocks, contigOnly };
        let model = cellsOf(map, NR);
        for (const op of ops) {
          const end = op.start + op.len;
          const range = model.slice(op.start, end);
          if (op.kind === "write") {
            if (range.some((c) => c === "offline" || c === "reserved")) continue;
            const physical = new Map<number, number>();
            for (let b = op.start; b < end; b++) {
              const e = map.next(b);
              if (e !== null && e.start <= b) physical.set(b, e.blkno + b - e.start);
            }
            pool.promised = unmappedBlocks(map, op.start, end) + spare;
            const runs = write(map, pool, op.start, end, policy);
            pool.promised = Infinity;
            let b = op.start;
            for (const run of runs) {
              assert.equal(run.start, b, "runs cover the write in order");
              for (let i = 0; i < run.len; i++, b++) {
                assert.equal(run.fresh, model[b] !== "online", "fresh exactly where nothing was");
                if (physical.has(b)) assert.equal(run.blkno + i, physical.get(b), "in place");
                const e = map.next(b)!;
                assert.equal(e.blkno + b - e.start, run.blkno + i, "mapped as reported");
              }
            }
            assert.equal(b, end);
            // Preallocation turns holes elsewhere into unwritten blocks and changes nothing else.
            const now = cellsOf(map, NR);
            for (let i = 0; i < NR; i++) {
              if (i >= op.start && i < end) assert.equal(now[i], "online");
              else assert.ok(now[i] === model[i] || model[i] === "hole" && now[i] === "unwritten");
            }
            model = now;
          } else if (op.kind === "prealloc") {
            pool.promised = unmappedBlocks(map, op.start, end);
            for (let b = op.start; b < end;) b = preallocateExtents(map, b, end, pool.allocate, 8);
            pool.promised = Infinity;
            for (let b = op.start; b < end; b++) {
              if (model[b] === "hole") model[b] = "unwritten";
              else if (model[b] === "offline") model[b] = "reserved";
            }
          } else {
            const offline = op.kind === "offline";
            for (let b = op.start; b >= 0;) {
              const before = map.changes;
              b = removeExtents(map, b, end - 1, offline, pool.free, 8);
              assert.ok(map.changes - before <= 8 * 5, "a step stays small");
            }
            for (let b = op.start; b < end; b++) {
              if (!offline) model[b] = "hole";
              else if (model[b] !== "hole") model[b] = "offline";
            }
          }
          checkMap(map);
          assert.deepEqual(cellsOf(map, NR), model);
          assert.equal(
            unmappedBlocks(map, op.start, end),
            model.slice(op.start, end).filter((c) => c === "hole" || c === "offline").length,
          );
          const first = model.findIndex((c, i) =>
            i >= op.start && (c === "offline" || c === "reserved")
          );
          assert.equal(firstOffline(map, op.start, NR), first);
        }
        let mapped = 0;
        for (const e of map.extents) if (e.blkno !== 0) mapped += e.len;
        assert.equal(mapped, pool.out.size, "every allocated block is in the file");

        const size = 300 * 4096 + 17;
        for (const off of [0, 5000, 50 * 4096, 299 * 4096, size - 1]) {
          const isData = (b: number) => !["hole", "unwritten"].includes(model[b]!);
          let data = off;
          while (data < size && !isData(Math.floor(data / 4096))) {
            data = (data - data % 4096) + 4096;
          }
          assert.equal(seekData(map, off, size), data < size ? data : -1);
          let hole = off;
          while (hole < size && isData(Math.floor(hole / 4096))) hole = (hole - hole % 4096) + 4096;
          assert.equal(seekHole(map, off, size), Math.min(hole, size));
        }
      },
    ),
    { numRuns: 300 },
  );
});
