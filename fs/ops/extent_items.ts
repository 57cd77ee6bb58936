/**
 * The extent items of one file (02 §14.1) as an extent map. Gathering loads what an operation looks
 * at into a small sorted array; after `apply()` the algorithms of extents.ts change the array, and
 * each change goes to the item cache at once. So applying reads nothing.
 *
 * Invariant: the array holds every extent that has a block in [first−1, horizon), and the one after
 * it, if there is one: enough to merge with neighbours on both sides. All keys from the first one
 * looked for to the last extent's end are covered by the item cache.
 */

import {
  DATA_DEV_START_BLKNO,
  SEF_OFFLINE,
  SEF_UNWRITTEN,
  TYPE_DATA_EXTENT,
} from "../../format/constants.ts";
import { DataExtentVal, extentKey, lastInodeKey } from "../../format/items.ts";
import type { Key } from "../../format/key.ts";
import { assert, CorruptError } from "../errors.ts";
import type { Fs } from "../fs.ts";
import type { InodeHandle } from "../inode.ts";
import type { Op } from "../op.ts";
import { type Extent, ExtentMap, MAX_BLOCK } from "./extents.ts";

const KNOWN_FLAGS = SEF_OFFLINE | SEF_UNWRITTEN;

/** The first extent of the inode whose last block is ≥ `block`; while gathering. */
export function nextExtent(op: Op, fs: Fs, h: InodeHandle, block: number): Extent | null {
  const item = fs.items.next(
    op,
    h.lock,
    extentKey(h.ino, block, 0),
    lastInodeKey(h.ino, TYPE_DATA_EXTENT),
  );
  return item === null ? null : decodeExtent(item.key, item.val, fs.dataBlocks);
}

/**
 * An extent of its item; CorruptError for what 02 §14.1 rules out, and for blocks that are not those
 * of files on a data device of `deviceBlocks`: nothing else may be read, written or freed by it.
 */
export function decodeExtent(key: Key, val: Uint8Array, deviceBlocks: number): Extent {
  if (val.length !== DataExtentVal.SIZE) {
    throw new CorruptError(`data extent ${key}: value of ${val.length} bytes`);
  }
  const extent = DataExtentVal.at(val), { flags } = extent;
  if ((key.secondHi | key.thirdHi | extent.v.getUint32(extent.o + 4, true)) >>> 21 === 0) {
    const end = key.second, len = key.third, { blkno } = extent;
    const possible = end <= MAX_BLOCK && len > 0 && len <= end + 1 && key.fourth === 0 &&
      (flags & ~KNOWN_FLAGS) === 0 &&
      (blkno === 0 ? flags === SEF_OFFLINE : flags !== SEF_OFFLINE &&
        blkno >= DATA_DEV_START_BLKNO && blkno + len <= deviceBlocks);
    if (possible) return { start: end + 1 - len, len, blkno, flags };
  }
  const blkno = extent.v.getBigUint64(extent.o, true);
  throw new CorruptError(`data extent ${key}: block ${blkno}, flags ${flags}`);
}

export class FileExtents extends ExtentMap {
  readonly #op: Op;
  readonly #fs: Fs;
  readonly #h: InodeHandle;
  readonly #extents: Extent[] = [];
  /** Everything below this block is known; Infinity when nothing follows. */
  readonly horizon: number;

  /**
   * Loads the extents with blocks in [first−1, end) and the next one; stops after `max` of them,
   * which lowers the horizon. While gathering.
   */
  constructor(op: Op, fs: Fs, h: InodeHandle, first: number, end: number, max = Infinity) {
    super();
    this.#op = op;
    this.#fs = fs;
    this.#h = h;
    let horizon = Infinity;
    const lastKey = lastInodeKey(h.ino, TYPE_DATA_EXTENT);
    // No extent has length 0: whatever item is there is met, and judged.
    let key = extentKey(h.ino, Math.max(0, first - 1), 0);
    for (;;) {
      const item = fs.items.next(op, h.lock, key, lastKey);
      if (item === null) break;
      const e = decodeExtent(item.key, item.val, fs.dataBlocks);
      const before = this.#extents.at(-1);
      if (before !== undefined && before.start + before.len > e.start) {
        throw new CorruptError(`inode ${h.ino}: extents at blocks ${before.start} and ${e.start}`);
      }
      this.#extents.push(e);
      // From the very next key, so that no gap is left where a changed extent's item may go.
      key = item.key.inc();
      const complete = e.start >= end;
      if (complete || this.#extents.length >= max) {
        horizon = complete ? Math.max(e.start, end) : e.start;
        fs.items.next(op, h.lock, key, extentKey(h.ino, e.start + e.len - 1, MAX_BLOCK));
        break;
      }
    }
    this.horizon = horizon;
  }

  next(block: number): Extent | null {
    assert(block <= this.horizon, "extents are looked up beyond what was gathered");
    let lo = 0;
    let hi = this.#extents.length;
    while (lo < hi) {
      const mid = (lo + hi) >>> 1;
      const e = this.#extents[mid]!;
      if (e.start + e.len > block) hi = mid;
      else lo = mid + 1;
    }
    return this.#extents[lo] ?? null;
  }

  protected drop(e: Extent): void {
    const i = this.#extents.indexOf(e);
    assert(i >= 0, "an extent is dropped that is not there");
    this.#extents.splice(i, 1);
    this.#fs.items.delete(
      this.#op,
      this.#h.lock,
      extentKey(this.#h.ino, e.start + e.len - 1, e.len),
    );
  }

  protected put(start: number, len: number, blkno: number, flags: number): void {
    const e: Extent = { start, len, blkno, flags };
    let i = this.#extents.length;
    while (i > 0 && this.#extents[i - 1]!.start > start) i--;
    this.#extents.splice(i, 0, e);
    const val = DataExtentVal.alloc();
    val.blkno = blkno;
    val.flags = flags;
    const key = extentKey(this.#h.ino, start + len - 1, len);
    this.#fs.items.create(this.#op, this.#h.lock, key, val.bytes);
  }

  /**
   * Brings the inode's counters up to date and wakes waiters if offline blocks disappeared; to be
   * called before the inode is written. A counter that would become negative stays 0.
   */
  account(): void {
    const { onlineDelta, offlineDelta } = this;
    if (onlineDelta === 0 && offlineDelta === 0) return;
    const inode = this.#h.edit();
    inode.onlineBlocks = this.#adjusted(inode.onlineBlocks, onlineDelta, "online");
    inode.offlineBlocks = this.#adjusted(inode.offlineBlocks, offlineDelta, "offline");
    this.onlineDelta = 0;
    this.offlineDelta = 0;
    if (offlineDelta < 0) this.#fs.waiters.wake(this.#h.ino);
  }

  #adjusted(count: number, delta: number, what: string): number {
    if (count + delta >= 0) return count + delta;
    this.#fs.reportCorruption(
      "SC_INODE_BLOCK_COUNTS",
      `inode ${this.#h.ino}: ${what} blocks ${count} ${delta}`,
    );
    return 0;
  }
}
