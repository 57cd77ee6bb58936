/**
 * Block lists, the allocator of a transaction and the server's list operations: the first use step
 * by step, then every block accounted for over many commits, as on a server.
 */

import assert from "node:assert/strict";
import fc from "fast-check";
import { AllocListBlock, AllocListHead, AllocRoot } from "../../format/alloc.ts";
import { BlockRef } from "../../format/block.ts";
import { BtreeRoot } from "../../format/btree.ts";
import { ALLOC_LIST_MAX_BLOCKS, LG_SIZE, MAGIC_ALLOC_LIST } from "../../format/constants.ts";
import { EIO, ENOSPC } from "../../format/errno.ts";
import { Key } from "../../format/key.ts";
import { BlockCache, BlockWriter } from "../../fs/block_cache.ts";
import { force, remove } from "../../fs/btree.ts";
import { AssertionError, CorruptError, DeviceError, FsError } from "../../fs/errors.ts";
import { forEachExtent, insertExtent } from "../../fs/extent_alloc.ts";
import {
  type AllocTree,
  emptyList,
  fillList,
  ListAllocator,
  recycleList,
  spliceList,
  walkList,
} from "../../fs/meta_alloc.ts";
import { MemDevice } from "../../fs/memory_device.ts";
import { checkTree, CountingAlloc, newCache, seededRandom } from "./support.ts";

const isErrno = (errno: number) => (e: unknown) => e instanceof FsError && e.errno === errno;

interface Volume {
  dev: MemDevice;
  cache: BlockCache;
  writer: BlockWriter;
}

function newVolume(blocks: number): Volume {
  const dev = new MemDevice(blocks * LG_SIZE);
  const cache = newCache(dev);
  return { dev, cache, writer: new BlockWriter(cache) };
}

/** Puts a list block at `blkno` in front of the list. */
function seedList(t: Volume, head: AllocListHead, blkno: number, entries: number[], start = 0) {
  const ref = BlockRef.alloc();
  const list = new AllocListBlock(t.writer.moveTo(ref, MAGIC_ALLOC_LIST, blkno).v, 0);
  entries.forEach((entry, i) => list.setEntry(start + i, entry));
  list.start = start;
  list.nr = entries.length;
  list.next.copyFrom(head.ref);
  head.ref.copyFrom(ref);
  head.firstNr = entries.length;
  head.totalNr += entries.length;
  t.writer.write();
}

/** The list's blocks and its entries, with the counts of the head checked. */
function contents(cache: BlockCache, head: AllocListHead): { blocks: number[]; entries: number[] } {
  const blocks: number[] = [], entries: number[] = [];
  walkList(cache, head, (blkno, list) => {
    if (blocks.length === 0) assert.equal(list.nr, head.firstNr);
    blocks.push(blkno);
    for (let i = 0; i < list.nr; i++) entries.push(list.entry(list.start + i));
  });
  assert.equal(entries.length, head.totalNr);
  if (head.ref.isNull) assert.equal(head.firstNr, 0);
  return { blocks, entries };
}

const range = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i);

Deno.test("the first use takes two blocks for the lists, and frees the old ones", () => {
  const t = newVolume(100);
  const avail = AllocListHead.alloc(), freed = AllocListHead.alloc();
  seedList(t, avail, 10, [40, 30, 60, 50, 20]);
  const alloc = new ListAllocator(t, avail, freed, { deviceBlocks: 100, paranoid: true });
  assert.equal(t.writer.dirtyCount, 0, "nothing is dirtied before it is needed");
  assert.deepEqual(alloc.remaining(), { avail: 5, freed: ALLOC_LIST_MAX_BLOCKS });

  assert.equal(alloc.allocMeta(), 20, "what is left is sorted");
  assert.deepEqual(contents(t.cache, avail), { blocks: [40], entries: [50, 60] });
  assert.deepEqual(contents(t.cache, freed), { blocks: [30], entries: [10] });
  alloc.freeMeta(77);
  assert.equal(alloc.allocMeta(), 50);
  assert.equal(alloc.allocMeta(), 60);
  assert.throws(() => alloc.allocMeta(), isErrno(ENOSPC));
  assert.deepEqual(contents(t.cache, avail), { blocks: [40], entries: [] });
  alloc.finish();
  t.writer.write();

  // the next transaction finds an empty first block
  assert.throws(() => alloc.allocMeta(), isErrno(ENOSPC));
  assert.throws(() => alloc.freeMeta(60), isErrno(ENOSPC));
  assert.equal(t.writer.dirtyCount, 0);
});

Deno.test("a freed list that still has room is copied, one that is nearly full gets a new block", () => {
  for (const nr of [6139, 6140]) {
    const t = newVolume(20_000);
    const avail = AllocListHead.alloc(), freed = AllocListHead.alloc();
    seedList(t, avail, 10, [40, 30, 60, 50, 20]);
    seedList(t, freed, 11, range(1000, 1000 + nr));
    const rotates = ALLOC_LIST_MAX_BLOCKS - nr < 2046;
    const alloc = new ListAllocator(t, avail, freed, { deviceBlocks: 20_000 });
    assert.equal(alloc.remaining().freed, rotates ? ALLOC_LIST_MAX_BLOCKS - 2 : 2046);
    assert.equal(alloc.low(2046), true, "avail is low");
    alloc.allocMeta();
    const { blocks, entries } = contents(t.cache, freed);
    if (rotates) {
      assert.deepEqual(blocks, [30, 11]);
      assert.equal(freed.firstNr, 1);
      assert.deepEqual(entries, [10, ...range(1000, 1000 + nr)]);
      assert.equal(alloc.remaining().freed, ALLOC_LIST_MAX_BLOCKS - 1);
    } else {
      assert.deepEqual(blocks, [30]);
      assert.deepEqual(entries, [...range(1000, 1000 + nr), 10, 11]);
      assert.equal(alloc.remaining().freed, 2044);
    }
  }
});

Deno.test("entries beyond the end of the array are put before the first", () => {
  const t = newVolume(20_000);
  const avail = AllocListHead.alloc(), freed = AllocListHead.alloc();
  seedList(t, avail, 10, range(40, 60));
  seedList(t, freed, 11, [100, 101, 102], ALLOC_LIST_MAX_BLOCKS - 4);
  const alloc = new ListAllocator(t, avail, freed, { deviceBlocks: 20_000 });
  alloc.freeMeta(103);
  // of 10, 11 and 103 one found room at the end
  assert.deepEqual(contents(t.cache, freed).entries, [103, 11, 100, 101, 102, 10]);
});

Deno.test("a full freed list is an error, numbers outside the device are corruption", () => {
  const t = newVolume(9000);
  const avail = AllocListHead.alloc(), freed = AllocListHead.alloc();
  seedList(t, avail, 10, range(40, 60));
  const alloc = new ListAllocator(t, avail, freed, { deviceBlocks: 9000 });
  for (let n = 1; n < ALLOC_LIST_MAX_BLOCKS; n++) alloc.freeMeta(100 + n);
  assert.equal(alloc.low(1), true);
  assert.throws(() => alloc.freeMeta(99), isErrno(EIO));
  assert.throws(() => alloc.freeMeta(1), CorruptError);
  assert.throws(() => alloc.freeMeta(9000), CorruptError);

  const u = newVolume(100);
  const wild = AllocListHead.alloc();
  seedList(u, wild, 10, [20, 21, 100, 22]);
  const bad = new ListAllocator(u, wild, AllocListHead.alloc(), { deviceBlocks: 100 });
  assert.equal(bad.allocMeta(), 22);
  assert.throws(() => bad.allocMeta(), CorruptError);

  const wrong = AllocListHead.alloc();
  seedList(u, wrong, 11, [30, 31, 32]);
  wrong.firstNr = 2;
  const counts = new ListAllocator(u, wrong, AllocListHead.alloc(), { deviceBlocks: 100 });
  assert.throws(() => counts.allocMeta(), /its head says 2 of 3/);
});

Deno.test("paranoia: freeing or allocating a block twice is a defect", () => {
  const t = newVolume(100);
  const avail = AllocListHead.alloc();
  seedList(t, avail, 10, [20, 21, 22, 22, 23]);
  const alloc = new ListAllocator(t, avail, AllocListHead.alloc(), {
    deviceBlocks: 100,
    paranoid: true,
  });
  assert.equal(alloc.allocMeta(), 22);
  assert.throws(() => alloc.allocMeta(), AssertionError);
  alloc.freeMeta(50);
  assert.throws(() => alloc.freeMeta(50), AssertionError);
});

Deno.test("after a failed write the transaction goes on with the list blocks it has", () => {
  const t = newVolume(100);
  const avail = AllocListHead.alloc(), freed = AllocListHead.alloc();
  seedList(t, avail, 10, range(20, 40));
  const alloc = new ListAllocator(t, avail, freed, { deviceBlocks: 100 });
  alloc.allocMeta();
  alloc.finish();
  t.dev.inject({ op: "write", kind: "fail", nth: 0 });
  assert.throws(() => t.writer.write(), DeviceError);
  assert.equal(t.writer.dirtyCount, 2);
  assert.equal(alloc.allocMeta(), 23);
  alloc.freeMeta(50);
  alloc.finish();
  t.writer.write();
  assert.deepEqual(contents(newCache(t.dev), avail), { blocks: [20], entries: range(24, 40) });
  assert.deepEqual(contents(newCache(t.dev), freed).entries, [10, 50]);
});

Deno.test("neighbouring blocks are written together, in order", () => {
  const dev = new MemDevice(300 * LG_SIZE, { record: true });
  const cache = newCache(dev), writer = new BlockWriter(cache);
  for (const blkno of [9, 5, 6, 100, 7, 101, ...range(150, 230)]) {
    writer.moveTo(BlockRef.alloc(), MAGIC_ALLOC_LIST, blkno);
  }
  let slices = 1;
  while (!writer.writeSlice(3)) slices++;
  const runs = dev.log.map((r) =>
    r.kind === "write" ? [r.off / LG_SIZE, r.bytes.length / LG_SIZE] : []
  );
  assert.deepEqual(runs, [[5, 3], [9, 1], [100, 2], [150, 64], [214, 16]]);
  assert.equal(slices, 4);
  assert.equal(writer.dirtyCount, 0);
});

/** A server's allocators and a tree, committed as 03 §13.4 says. */
class Server {
  readonly t: Volume;
  readonly metaAlloc = [AllocRoot.alloc(), AllocRoot.alloc()];
  readonly avail = [AllocListHead.alloc(), AllocListHead.alloc()];
  readonly freed = [AllocListHead.alloc(), AllocListHead.alloc()];
  /** Lists handed to clients. */
  readonly clients: AllocListHead[] = [];
  readonly tree = BtreeRoot.alloc();
  tx!: AllocTree;
  active = 0;
  /** Index of the extent tree that blocks are taken from. */
  source = 0;

  constructor(readonly blocks: number) {
    this.t = newVolume(blocks);
    seedList(this.t, this.avail[0]!, 2, range(4, 1200));
    seedList(this.t, this.avail[1]!, 3, range(1200, 2400));
    // the extents are made with blocks of their own
    const alloc = new CountingAlloc(2600);
    alloc.allocMeta = function () {
      const blkno = 2400 + this.used.size;
      this.used.add(blkno);
      return blkno;
    };
    const boot = { ...this.t, alloc };
    insertExtent(boot, this.metaAlloc[0]!, 2402, 1598);
    insertExtent(boot, this.metaAlloc[1]!, 4000, blocks - 4000);
    assert.deepEqual([...alloc.used], [2400, 2401]);
    this.t.writer.write();
    this.begin();
  }

  private begin(): void {
    const alloc = new ListAllocator(this.t, this.avail[this.active]!, this.freed[this.active]!, {
      deviceBlocks: this.blocks,
      paranoid: true,
    });
    this.tx = { ...this.t, alloc };
  }

  get idle(): number {
    return 1 - this.active;
  }

  commit(): void {
    fillList(this.tx, this.avail[this.idle]!, this.metaAlloc[this.source]!, 600, 1200);
    emptyList(this.tx, this.metaAlloc[1 - this.source]!, this.freed[this.idle]!);
    this.tx.alloc.finish();
    this.t.writer.write();
    this.active = this.idle;
    const [a, f] = [this.metaAlloc[this.source]!, this.metaAlloc[1 - this.source]!];
    if (a.totalLen < 2000 && f.totalLen > a.totalLen) this.source = 1 - this.source;
    this.begin();
  }

  /** Every block of the device, from what is on the device, exactly once. */
  check(): void {
    const cache = newCache(this.t.dev, 99);
    const owners = new Map<number, string>();
    const own = (blkno: number, who: string) => {
      const other = owners.get(blkno);
      assert.equal(other, undefined, `block ${blkno} is in ${other} and ${who}`);
      owners.set(blkno, who);
    };
    this.metaAlloc.forEach((root, i) => {
      for (const b of checkTree({ cache }, root.root, false).blocks) {
        own(b, `meta_alloc[${i}] tree`);
      }
      let total = 0, last = -2;
      forEachExtent({ cache }, root, (e) => {
        assert.ok(e.start > last + 1, "extents touch");
        last = e.start + e.len - 1;
        total += e.len;
        for (const b of range(e.start, e.start + e.len)) own(b, `meta_alloc[${i}]`);
      });
      assert.equal(total, root.totalLen);
    });
    for (const b of checkTree({ cache }, this.tree).blocks) own(b, "tree");
    for (const head of [...this.avail, ...this.freed, ...this.clients]) {
      const { blocks, entries } = contents(cache, head);
      for (const b of blocks) own(b, "list block");
      for (const b of entries) own(b, "list");
    }
    assert.equal(owners.size, this.blocks - 2, "blocks are lost");
  }
}

Deno.test("every block has exactly one owner after every commit of a server", () => {
  for (const seed of [1, 2, 3]) {
    const server = new Server(9000);
    server.check();
    const random = seededRandom(seed);
    const keys = new Set<number>();
    for (let commit = 0; commit < 40; commit++) {
      const { tx } = server;
      for (let i = random.below(60); i > 0; i--) {
        const n = random.below(5000);
        if (keys.has(n) && random.below(3) > 0) {
          remove(tx, server.tree, Key.of(16, n, 4));
          keys.delete(n);
        } else {
          force(tx, server.tree, Key.of(16, n, 4), new Uint8Array(random.below(896)));
          keys.add(n);
        }
      }
      if (random.below(3) === 0) {
        const list = AllocListHead.alloc();
        fillList(tx, list, server.metaAlloc[server.source]!, 1, 1 + random.below(700));
        server.clients.push(list);
      }
      if (random.below(3) === 0 && server.clients.length > 1) {
        const a = server.clients.shift()!, b = server.clients.shift()!;
        spliceList(tx, a, b);
        assert.ok(b.isZero());
        spliceList(tx, server.freed[server.idle]!, a);
        assert.ok(a.isZero());
      }
      if (random.below(3) === 0 && server.clients.length > 1) {
        const a = server.clients.shift()!, b = server.clients[0]!;
        recycleList(tx, b, a, 1 + random.below(900));
        if (!a.isZero()) server.clients.push(a);
      }
      server.commit();
      server.check();
    }
    assert.equal(checkTree(server.t, server.tree).keys.length, keys.size);
  }
});

Deno.test("numbers are given out in ascending order, also after a list was filled out of order", () => {
  const server = new Server(9000);
  const random = seededRandom(5);
  const owned: number[] = [];
  let mixed = 0;
  for (let commit = 0; commit < 40; commit++) {
    const { alloc } = server.tx;
    const given = Array.from({ length: 3 + random.below(40) }, () => alloc.allocMeta());
    assert.deepEqual(given, given.toSorted((a, b) => a - b));
    owned.push(...given);
    while (owned.length > 60) alloc.freeMeta(owned.splice(random.below(owned.length), 1)[0]!);
    if (random.below(3) === 0) {
      const idle = server.avail[server.idle]!;
      recycleList(server.tx, idle, server.freed[server.idle]!, 8185);
      const { entries } = contents(server.tx.cache, idle);
      if (entries.some((n, i) => i > 0 && n < entries[i - 1]!)) mixed++;
    }
    server.commit();
  }
  assert.ok(mixed > 5, `${mixed} lists were out of order`);
});

Deno.test("recycling moves numbers up to the target and frees the blocks that it emptied", () => {
  const server = new Server(9000);
  const { tx } = server;
  const listOf = (...counts: number[]) => {
    const list = AllocListHead.alloc();
    for (const n of counts) {
      const part = AllocListHead.alloc();
      fillList(tx, part, server.metaAlloc[server.source]!, n, n);
      spliceList(tx, list, part);
    }
    return list;
  };
  // A chain of 30, 20 and 10 numbers, onto 5 and a block behind them that stays as it is.
  const list = listOf(7, 5), from = listOf(10, 20, 30);
  const before = [...contents(tx.cache, list).entries, ...contents(tx.cache, from).entries];
  const [, behind] = contents(tx.cache, list).blocks;
  recycleList(tx, list, from, 45);
  assert.deepEqual([list.firstNr, list.totalNr, from.firstNr, from.totalNr], [45, 52, 10, 20]);
  assert.equal(contents(tx.cache, list).blocks[1], behind);
  recycleList(tx, list, from, 45);
  assert.equal(list.firstNr, 45, "nothing is moved to a list that has enough");
  const after = [...contents(tx.cache, list).entries, ...contents(tx.cache, from).entries];
  assert.deepEqual(after.sort((a, b) => a - b), before.sort((a, b) => a - b));
  recycleList(tx, list, from, 8185);
  assert.deepEqual([list.firstNr, list.totalNr], [65, 72]);
  assert.ok(from.ref.isNull && from.firstNr === 0 && from.totalNr === 0);
  server.clients.push(list);
  server.commit();
  server.check();
});

Deno.test("fill keeps what it moved when the extents run dry; empty stops when room ends", () => {
  const server = new Server(9000);
  const [small, list] = [AllocRoot.alloc(), AllocListHead.alloc()];
  insertExtent(server.tx, small, 50_000, 30);
  insertExtent(server.tx, small, 60_000, 5);
  assert.throws(() => fillList(server.tx, list, small, 10, 100), isErrno(ENOSPC));
  assert.equal(list.totalNr, 35);
  assert.equal(small.totalLen, 0);
  assert.ok(small.root.isZero());
  fillList(server.tx, list, small, 35, 100);
  assert.equal(list.totalNr, 35, "enough is there");

  // a list of runs so scattered that each costs an extent
  const scattered = AllocListHead.alloc(), into = AllocRoot.alloc();
  const own = newVolume(9000);
  const avail = AllocListHead.alloc(), freed = AllocListHead.alloc();
  seedList(own, avail, 10, range(20, 100));
  seedList(own, scattered, 11, range(0, 2000).map((i) => 8999 - 2 * i));
  const alloc = new ListAllocator(own, avail, freed, { deviceBlocks: 9000, paranoid: true });
  const tx = { ...own, alloc };
  const before = alloc.remaining();
  emptyList(tx, into, scattered);
  assert.equal(scattered.totalNr + into.totalLen, 2000);
  assert.ok(alloc.usedSince(before, 0, 0));
  assert.ok(!alloc.usedSince(before, 0, 80));
  assert.equal(alloc.hasRoom(into, 1, 1), scattered.totalNr === 0);
});

Deno.test("transactions never reuse what they freed, and lose nothing", () => {
  const step = fc.record({ allocs: fc.nat(8), frees: fc.nat(8), fail: fc.boolean() });
  fc.assert(
    fc.property(fc.array(fc.array(step, { maxLength: 8 }), { maxLength: 8 }), (transactions) => {
      const t = newVolume(400);
      const avail = AllocListHead.alloc(), freed = AllocListHead.alloc();
      seedList(t, avail, 2, range(3, 400));
      const inUse: number[] = [];
      for (const steps of transactions) {
        const alloc = new ListAllocator(t, avail, freed, { deviceBlocks: 400, paranoid: true });
        const freedNow = new Set<number>();
        for (const s of steps) {
          for (let i = 0; i < s.allocs && !alloc.low(3); i++) {
            const blkno = alloc.allocMeta();
            assert.ok(!freedNow.has(blkno) && !inUse.includes(blkno));
            inUse.push(blkno);
          }
          for (let i = 0; i < s.frees && inUse.length > 0 && !alloc.low(3); i++) {
            const blkno = inUse.shift()!;
            alloc.freeMeta(blkno);
            freedNow.add(blkno);
          }
        }
        alloc.finish();
        t.writer.write();
        const a = contents(t.cache, avail), f = contents(t.cache, freed);
        const all = [...a.blocks, ...a.entries, ...f.blocks, ...f.entries, ...inUse];
        assert.deepEqual(all.toSorted((x, y) => x - y), range(2, 400));
      }
    }),
    { numRuns: 100 },
  );
});
