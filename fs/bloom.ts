/**
 * Bloom blocks of log trees (03 §10.3): before an item is written its lock's start key must be set
 * in the bloom block of the log tree that gets it, or readers will not look there.
 */

import type { BlockRef } from "../format/block.ts";
import { BloomBlock } from "../format/bloom.ts";
import { MAGIC_BLOOM } from "../format/constants.ts";
import { bloomBits } from "../format/hash.ts";
import type { Key } from "../format/key.ts";
import type { BlockCache } from "./block_cache.ts";
import type { WriteTree } from "./btree.ts";

/**
 * Sets the bits of a lock's start key, making the block if there is none; false if they were set
 * already. The block is copied on write once per transaction that adds bits.
 */
export function setBloom(t: WriteTree, ref: BlockRef, lockStart: Key): boolean {
  if (!ref.isNull) {
    const block = t.cache.readOwned(ref, MAGIC_BLOOM);
    if (new BloomBlock(block.v, 0).testKey(lockStart)) return false;
  }
  new BloomBlock(t.writer.dirty(ref, MAGIC_BLOOM, t.alloc).v, 0).setKey(lockStart);
  return true;
}

/** The bits to test for a lock's start key. */
export { bloomBits };

/** Whether the log tree of that bloom block may have items of the lock whose bits these are. */
export function testBloom(cache: BlockCache, ref: BlockRef, bits: readonly number[]): boolean {
  if (ref.isNull) return false;
  const bloom = new BloomBlock(cache.read(ref, MAGIC_BLOOM).v, 0);
  for (const bit of bits) if (!bloom.test(bit)) return false;
  return true;
}
