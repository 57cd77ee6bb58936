/**
 * Allocator structures (01 §11): extent trees, block lists, and the keys under which an extent
 * tree holds each free extent twice.
 */

import { BlockHeader, BlockRef } from "./block.ts";
import { BtreeRoot } from "./btree.ts";
import { checkSize, FormatError, getU64, setU64, View } from "./bytes.ts";
import {
  ALLOC_FLAG_LOW,
  ALLOC_LIST_MAX_BLOCKS,
  ZONE_FREE_EXTENT_BLKNO,
  ZONE_FREE_EXTENT_ORDER,
} from "./constants.ts";
import { Key } from "./key.ts";

/**
 * An extent tree of free blocks (01 §11.1), 40 bytes.
 *
 *      0 le64             total_len
 *      8 le32             flags
 *     12 le32             pad
 *     16 btree_root       root
 */
export class AllocRoot extends View {
  static readonly SIZE = 40;
  /** Sum of the lengths of all extents in the tree. */
  get totalLen(): number {
    return getU64(this.v, this.o);
  }
  set totalLen(n: number) {
    setU64(this.v, this.o, n);
  }
  /** The same, of whatever size. */
  get totalLenBig(): bigint {
    return this.v.getBigUint64(this.o, true);
  }
  /** ALLOC_FLAG_LOW or 0 (01 §11.5). */
  get flags(): number {
    return this.v.getUint32(this.o + 8, true);
  }
  set flags(n: number) {
    this.v.setUint32(this.o + 8, n, true);
  }
  get root(): BtreeRoot {
    return new BtreeRoot(this.v, this.o + 16);
  }
  get isLow(): boolean {
    return (this.flags & ALLOC_FLAG_LOW) !== 0;
  }
}
checkSize(AllocRoot.SIZE, 8 + 4 + 4 + 24, "AllocRoot");

/**
 * Head of a list of free metadata blocks (01 §11.2), 32 bytes.
 *
 *      0 block_ref        ref
 *     16 le64             total_nr
 *     24 le32             first_nr
 *     28 le32             flags
 */
export class AllocListHead extends View {
  static readonly SIZE = 32;
  /** First list block, zero when the list is empty. */
  get ref(): BlockRef {
    return new BlockRef(this.v, this.o);
  }
  /** Number of block numbers in all list blocks. */
  get totalNr(): number {
    return getU64(this.v, this.o + 16);
  }
  set totalNr(n: number) {
    setU64(this.v, this.o + 16, n);
  }
  /** `nr` of the first list block (0 if none). */
  get firstNr(): number {
    return this.v.getUint32(this.o + 24, true);
  }
  set firstNr(n: number) {
    this.v.setUint32(this.o + 24, n, true);
  }
  /** ALLOC_FLAG_LOW or 0 (01 §11.5). */
  get flags(): number {
    return this.v.getUint32(this.o + 28, true);
  }
  set flags(n: number) {
    this.v.setUint32(this.o + 28, n, true);
  }
  get isLow(): boolean {
    return (this.flags & ALLOC_FLAG_LOW) !== 0;
  }
}
checkSize(AllocListHead.SIZE, 16 + 8 + 4 + 4, "AllocListHead");

/**
 * Fixed part of a block of a list; entries follow (01 §11.2), 56 bytes.
 *
 *      0 block_header     hdr
 *     32 block_ref        next
 *     48 le32             start
 *     52 le32             nr
 *     56 le64[8185]       blknos
 */
export class AllocListBlock extends View {
  static readonly SIZE = 56;
  get hdr(): BlockHeader {
    return new BlockHeader(this.v, this.o);
  }
  /** Next list block, zero at the end. */
  get next(): BlockRef {
    return new BlockRef(this.v, this.o + 32);
  }
  /** Index of the first valid entry. */
  get start(): number {
    return this.v.getUint32(this.o + 48, true);
  }
  set start(n: number) {
    this.v.setUint32(this.o + 48, n, true);
  }
  /** Number of valid entries. */
  get nr(): number {
    return this.v.getUint32(this.o + 52, true);
  }
  set nr(n: number) {
    this.v.setUint32(this.o + 52, n, true);
  }
  /** Entry `i` of the array (0 … 8184); the valid ones are start … start+nr−1. */
  entry(i: number): number {
    return getU64(this.v, this.o + 56 + 8 * i);
  }
  setEntry(i: number, blkno: number): void {
    setU64(this.v, this.o + 56 + 8 * i, blkno);
  }
  /** Whether every valid entry is greater than the one before; looks at words, whatever they say. */
  get isAscending(): boolean {
    const { v } = this;
    const from = this.o + 56 + 8 * this.start, end = from + 8 * this.nr;
    let lastHi = 0, lastLo = 0;
    for (let at = from; at < end; at += 8) {
      const lo = v.getUint32(at, true), hi = v.getUint32(at + 4, true);
      if (hi < lastHi || (hi === lastHi && lo <= lastLo)) return false;
      lastHi = hi;
      lastLo = lo;
    }
    return true;
  }
}
checkSize(AllocListBlock.SIZE, 32 + 16 + 4 + 4, "AllocListBlock");

/** Order of an extent of `len` ≥ 1 blocks: floor(log8(len)) (01 §7.5). */
export function extentOrder(len: number): number {
  let order = 0;
  for (let limit = 8; limit <= len; limit *= 8) order++;
  return order;
}

/** Key of a free extent by its last block, for the run [start, start+len). */
export function freeExtentKey(start: number, len: number): Key {
  return Key.of(ZONE_FREE_EXTENT_BLKNO, start + len - 1, 0, len);
}

/** Key of a free extent by size: larger orders first. */
export function freeExtentOrderKey(start: number, len: number): Key {
  return freeOrderSearchKey(extentOrder(len), start + len - 1, len);
}

/** Position in the order index at (order, end, len). */
export function freeOrderSearchKey(order: number, end = 0, len = 0): Key {
  // first is 2^64−1 − order; orders are far below 2^32
  return Key.words(
    ZONE_FREE_EXTENT_ORDER,
    0xffff_ffff,
    0xffff_ffff - order,
    0,
    Math.floor(end / 0x1_0000_0000),
    end >>> 0,
    Math.floor(len / 0x1_0000_0000),
    len >>> 0,
    0,
  );
}

/** A run of blocks. */
export interface Extent {
  start: number;
  len: number;
}

/** The extent that a key of either free extent zone stands for; FormatError when impossible. */
export function decodeFreeExtent(key: Key): Extent {
  let end: number, len: number;
  if (key.zone === ZONE_FREE_EXTENT_BLKNO) {
    end = key.first;
    len = key.second;
  } else if (key.zone === ZONE_FREE_EXTENT_ORDER) {
    end = key.second;
    len = key.third;
  } else throw new FormatError(`${key} is not the key of a free extent`);
  if (len < 1 || end - len + 1 < 0) throw new FormatError(`free extent key ${key} wraps`);
  return { start: end - len + 1, len };
}

/** The order under which a key of the order index files its extent. */
export function freeExtentKeyOrder(key: Key): number {
  return Number(0xffff_ffff_ffff_ffffn - key.firstBig);
}

checkSize(AllocListBlock.SIZE + 8 * ALLOC_LIST_MAX_BLOCKS, 65536, "alloc_list_block with entries");
