/**
 * What the tests of the storage engine share: seeded randomness, a cache over a device in memory,
 * an allocator that knows every block it gave out, and a check of a whole tree.
 */

import assert from "node:assert/strict";
import type { BtreeRoot } from "../../format/btree.ts";
import { firstItem, itemKey, nextItem } from "../../format/btree_block.ts";
import { verifyBtreeBlock } from "../../format/btree_verify.ts";
import { LG_SIZE } from "../../format/constants.ts";
import type { Key } from "../../format/key.ts";
import { BlockCache, BlockWriter, type MetaAllocator } from "../../fs/block_cache.ts";
import { type Tree, walkBlocks, type WriteTree } from "../../fs/btree.ts";
import type { Random } from "../../fs/env.ts";
import { noSpace } from "../../fs/errors.ts";
import { MemDevice } from "../../fs/memory_device.ts";

export const FSID = 0x0123456789abcdefn;

/** xorshift32: the same seed gives the same sequence. */
export function seededRandom(seed: number): Random {
  let s = seed | 1;
  const u32 = () => {
    s ^= s << 13;
    s ^= s >>> 17;
    s ^= s << 5;
    return s >>> 0;
  };
  return {
    u32,
    u64: () => BigInt(u32()) << 32n | BigInt(u32()),
    below: (n) => u32() % n,
  };
}

/** Numbers from 2 on, in order; nothing freed is given out before `commit`. */
export class CountingAlloc implements MetaAllocator {
  readonly used = new Set<number>();
  private free: number[];
  private freed: number[] = [];
  /** Allocations that still succeed. */
  left = Infinity;

  constructor(blocks: number) {
    this.free = Array.from({ length: blocks - 2 }, (_, i) => blocks - 1 - i);
  }

  allocMeta(): number {
    const blkno = this.left-- > 0 ? this.free.pop() : undefined;
    if (blkno === undefined) throw noSpace();
    this.used.add(blkno);
    return blkno;
  }

  freeMeta(blkno: number): void {
    assert.ok(this.used.delete(blkno), `block ${blkno} is freed but not in use`);
    this.freed.push(blkno);
  }

  commit(): void {
    this.free.push(...this.freed.reverse());
    this.freed = [];
  }
}

export interface TestTree extends WriteTree {
  readonly dev: MemDevice;
  readonly alloc: CountingAlloc;
}

export function newTree(blocks = 2048, limitBytes?: number): TestTree {
  const dev = new MemDevice(blocks * LG_SIZE);
  const cache = newCache(dev, 1, limitBytes);
  return { dev, cache, writer: new BlockWriter(cache), alloc: new CountingAlloc(blocks) };
}

export function newCache(dev: MemDevice, seed = 1, limitBytes?: number): BlockCache {
  const random = seededRandom(seed);
  return new BlockCache(dev, FSID, limitBytes === undefined ? { random } : { random, limitBytes });
}

/** Verifies every block of the tree; returns its block numbers and its keys in order. */
export function checkTree(
  t: Tree,
  root: BtreeRoot,
  logTree = true,
): { blocks: number[]; keys: Key[] } {
  const blocks: number[] = [];
  const keys: Key[] = [];
  walkBlocks(t, root, (b) => {
    assert.equal(b.error, null, `block ${b.blkno}: ${b.error?.message}`);
    assert.deepEqual(verifyBtreeBlock(b.block!, { ...b, logTree }), [], `block ${b.blkno}`);
    blocks.push(b.blkno);
    if (b.level > 0) return;
    for (let i = firstItem(b.block!); i !== 0; i = nextItem(b.block!, i)) {
      keys.push(itemKey(b.block!, i));
    }
  });
  assert.equal(new Set(blocks).size, blocks.length, "a block is reached twice");
  for (let i = 1; i < keys.length; i++) assert.ok(keys[i - 1]!.compare(keys[i]!) < 0);
  return { blocks, keys };
}
