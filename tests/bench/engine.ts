/**
 * What the storage engine costs by itself, on a device in memory: `deno run -A tests/bench/engine.ts`.
 * Prints one line per measurement, the least processor time of several rounds. Pin it to one core
 * (`taskset -c 0`) and compare only runs on the same machine.
 */

import process from "node:process";

import { AllocListBlock, AllocListHead, AllocRoot } from "../../format/alloc.ts";
import { BlockRef } from "../../format/block.ts";
import { BtreeRoot } from "../../format/btree.ts";
import { checkBtreeShape } from "../../format/btree_verify.ts";
import { ALLOC_LIST_MAX_BLOCKS, LG_SIZE, MAGIC_ALLOC_LIST } from "../../format/constants.ts";
import { blockCrc } from "../../format/crc32c.ts";
import { Key } from "../../format/key.ts";
import { BlockCache, BlockWriter } from "../../fs/block_cache.ts";
import { forEachItem, insert, lookup, next, type TreeItem } from "../../fs/btree.ts";
import { insertList } from "../../fs/btree_log.ts";
import { insertExtent, takeFront } from "../../fs/extent_alloc.ts";
import { type AllocTree, ListAllocator } from "../../fs/meta_alloc.ts";
import { MemDevice } from "../../fs/memory_device.ts";
import { useFastCrc32c } from "../../fs/sys/crc.ts";
import { seededRandom } from "../engine/support.ts";

const ROUNDS = 7;
const DEVICE_BLOCKS = 40_000;

interface Bench extends AllocTree {
  readonly dev: MemDevice;
  /** Ends the transaction and gives the next one a full list. */
  commit(): void;
}

function newBench(limitBytes?: number): Bench {
  const dev = new MemDevice(DEVICE_BLOCKS * LG_SIZE);
  const random = seededRandom(1);
  const cache = new BlockCache(
    dev,
    1n,
    limitBytes === undefined ? { random } : { random, limitBytes },
  );
  const writer = new BlockWriter(cache);
  let from = 2;
  const begin = () => {
    const avail = AllocListHead.alloc(), ref = BlockRef.alloc();
    const list = new AllocListBlock(writer.moveTo(ref, MAGIC_ALLOC_LIST, from).v, 0);
    const nr = Math.min(ALLOC_LIST_MAX_BLOCKS, DEVICE_BLOCKS - from - 1);
    for (let i = 0; i < nr; i++) list.setEntry(i, from + 1 + i);
    list.nr = avail.firstNr = avail.totalNr = nr;
    avail.ref.copyFrom(ref);
    writer.write();
    return new ListAllocator({ cache, writer }, avail, AllocListHead.alloc(), {
      deviceBlocks: DEVICE_BLOCKS,
    });
  };
  const bench = {
    dev,
    cache,
    writer,
    alloc: begin(),
    commit() {
      from += ALLOC_LIST_MAX_BLOCKS - bench.alloc.avail.firstNr + 1;
      bench.alloc.finish();
      writer.write();
      bench.alloc = begin();
    },
  };
  return bench;
}

/** Prints the least time of `ROUNDS` runs of `run`, which does `count` things each. */
function measure(name: string, count: number, run: (round: number) => void): void {
  run(-1);
  let least = Infinity;
  for (let round = 0; round < ROUNDS; round++) {
    const start = process.cpuUsage();
    run(round);
    const { user, system } = process.cpuUsage(start);
    least = Math.min(least, (user + system) * 1000 / count);
  }
  const text = least < 10_000 ? `${least.toFixed(0)} ns` : `${(least / 1000).toFixed(1)} µs`;
  console.log(`${name.padEnd(58)} ${text}`);
}

const keyOf = (n: number) => Key.of(16, 1024 + n, 4);
const VALUE = new Uint8Array(168);

function tree(count: number, limitBytes?: number): { t: Bench; root: BtreeRoot; keys: Key[] } {
  const t = newBench(limitBytes), root = BtreeRoot.alloc();
  const keys = Array.from({ length: count }, (_, n) => keyOf(n));
  for (const key of keys) {
    insert(t, root, key, VALUE);
    if (t.writer.dirtyCount > 50) t.commit();
  }
  t.commit();
  return { t, root, keys };
}

console.log(`crc32c: ${await useFastCrc32c()}`);
{
  const block = new Uint8Array(LG_SIZE);
  measure("crc of a block", 100, () => {
    for (let i = 0; i < 100; i++) blockCrc(block);
  });
}
for (const count of [250, 100_000]) {
  const { t, root, keys } = tree(count);
  const random = seededRandom(3);
  const probes = Array.from({ length: 20_000 }, () => keys[random.below(count)]!);
  const what = `tree of ${count}, height ${root.height}`;
  measure(`lookup, ${what}`, probes.length, () => {
    for (const key of probes) if (lookup(t, root, key) === null) throw new Error("lost item");
  });
  measure(`next, ${what}`, probes.length, () => {
    for (const key of probes) if (next(t, root, key) === null) throw new Error("lost item");
  });
  measure(`iteration, an item, ${what}`, count, () => forEachItem(t, root, Key.ZEROS, () => {}));
  if (count === 250) {
    const leaf = t.cache.peek(root.ref.blkno)!;
    measure("shape check of a leaf when read", 100, () => {
      for (let i = 0; i < 100; i++) {
        if (checkBtreeShape(leaf) !== null) throw new Error("misshapen");
      }
    });
  }
}
{
  const { t, root, keys } = tree(300_000, 8 * 1024 * 1024);
  const random = seededRandom(4);
  const before = t.cache.misses;
  measure("lookup that reads its leaf (device in memory)", 2000, () => {
    for (let i = 0; i < 2000; i++) lookup(t, root, keys[random.below(keys.length)]!);
  });
  if (t.cache.misses - before < 8000) throw new Error("the cache held the tree");
}
{
  const count = 50_000;
  const random = seededRandom(5);
  const order = Array.from({ length: count }, (_, n) => keyOf(n));
  measure("insert, ascending, an item", count, () => {
    const t = newBench(), root = BtreeRoot.alloc();
    for (const key of order) insert(t, root, key, VALUE);
  });
  const shuffled = order.toSorted(() => random.below(3) - 1);
  measure("insert, random, an item", count, () => {
    const t = newBench(), root = BtreeRoot.alloc();
    for (const key of shuffled) insert(t, root, key, VALUE);
  });
}
for (const changed of [10, 1000, 10_000]) {
  const { t, root, keys } = tree(100_000);
  const random = seededRandom(6);
  measure(`commit of ${changed} random items into 100000, an item`, changed, (round) => {
    const picked = new Set<number>();
    while (picked.size < changed) picked.add(random.below(keys.length));
    const items: TreeItem[] = [...picked].sort((a, b) => a - b)
      .map((n) => ({ key: keys[n]!, seq: round + 2, flags: 0, val: VALUE }));
    insertList(t, root, items);
    t.commit();
  });
}
{
  const t = newBench(), root = AllocRoot.alloc();
  for (let i = 0; i < 20_000; i++) insertExtent(t, root, 100 + 30 * i, 10);
  measure("extent: take 2 blocks from the front", 2000, () => {
    for (let i = 0; i < 2000; i++) takeFront(t, root, 2);
  });
  let at = 10_000_000;
  measure("extent: insert without a neighbour", 2000, () => {
    for (let i = 0; i < 2000; i++, at += 50) insertExtent(t, root, at, 10);
  });
}
