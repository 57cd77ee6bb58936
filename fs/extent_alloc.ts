/**
 * Free space as extent trees (03 §5, 01 §11.1): every free extent is two items with empty values,
 * one by its last block, one by its size; `total_len` is the sum of lengths.
 *
 * Invariants: the two indexes hold the same extents; extents of one tree neither overlap nor touch
 * (insertion merges); after a failure a tree is as it was before the operation. Blocks are taken
 * from the front of the largest extents (by order) with the lowest end.
 */

import {
  type AllocRoot,
  decodeFreeExtent,
  type Extent,
  extentOrder,
  freeExtentKey,
  freeExtentOrderKey,
} from "../format/alloc.ts";
import {
  DATA_ALLOC_MAX_ZONES,
  SM_MAX,
  ZONE_FREE_EXTENT_BLKNO,
  ZONE_FREE_EXTENT_ORDER,
} from "../format/constants.ts";
import { EEXIST, ENOENT } from "../format/errno.ts";
import { Key } from "../format/key.ts";
import { forEachItem, insert, next, remove, type Tree, type WriteTree } from "./btree.ts";
import { asCorrupt, assert, CorruptError, FsError } from "./errors.ts";
import type { AllocTree } from "./meta_alloc.ts";

export type { Extent };

const NO_VALUE = new Uint8Array(0);
/** First possible key of the order index. */
const ORDER_START = Key.of(ZONE_FREE_EXTENT_ORDER, 0, 0);
/** Orders of all possible extents are below this. */
const ORDERS = extentOrder(SM_MAX) + 1;

/**
 * Metadata blocks allocated, and freed, by one insertion or removal of an extent in a tree of that
 * height, at most (03 §5.5).
 */
export function extentCost(height: number): number {
  return 15 * (1 + height);
}

/** Adds a run of free blocks, merging it with its neighbours; an overlap is corruption. */
export function insertExtent(t: WriteTree, root: AllocRoot, start: number, len: number): void {
  assert(len > 0, "an empty extent cannot be inserted");
  const changes: Change[] = [];
  let unionStart = start, unionEnd = start + len;
  const after = extentFrom(t, root, start);
  if (after !== null) {
    if (after.start < unionEnd) throw new CorruptError(`free ${text(start, len)} is free already`);
    if (after.start === unionEnd) {
      changes.push({ add: false, start: after.start, len: after.len });
      unionEnd += after.len;
    }
  }
  const before = start === 0 ? null : extentFrom(t, root, start - 1);
  if (before !== null && before.start + before.len === start) {
    changes.push({ add: false, start: before.start, len: before.len });
    unionStart = before.start;
  }
  changes.push({ add: true, start: unionStart, len: unionEnd - unionStart });
  apply(t, root, changes);
}

/** Takes a run of blocks that must lie inside one free extent. */
export function removeExtent(t: WriteTree, root: AllocRoot, start: number, len: number): void {
  assert(len > 0, "an empty extent cannot be removed");
  const e = extentFrom(t, root, start);
  if (e === null || e.start > start || e.start + e.len < start + len) {
    throw new CorruptError(`${text(start, len)} to be taken is not free`);
  }
  cut(t, root, e, start, len);
}

/** Takes up to `count` blocks from the front of the first extent by size; null if there is none. */
export function takeFront(t: WriteTree, root: AllocRoot, count: number): Extent | null {
  assert(count > 0, "no blocks asked for");
  const e = firstBySize(t, root, ORDER_START);
  if (e === null) return null;
  const len = Math.min(count, e.len);
  cut(t, root, e, e.start, len);
  return { start: e.start, len };
}

/** The free extent that contains `blkno`, or the first after it; null if there is none. */
export function extentFrom(t: Tree, root: AllocRoot, blkno: number): Extent | null {
  const item = next(t, root.root, freeExtentKey(blkno, 1));
  if (item === null || item.key.zone !== ZONE_FREE_EXTENT_BLKNO) return null;
  return decode(item.key, item.val);
}

/** Visits the free extents in ascending order of their blocks. */
export function forEachExtent(t: Tree, root: AllocRoot, visit: (e: Extent) => void): void {
  forEachItem(t, root.root, Key.of(ZONE_FREE_EXTENT_BLKNO, 0, 0), (item) => {
    if (item.key.zone !== ZONE_FREE_EXTENT_BLKNO) return false;
    visit(decode(item.key, item.val));
    return true;
  });
}

/** Where data extents should come from (03 §5.4). Bit n of byte n/8 stands for zone n. */
export interface Zones {
  /** Blocks in a zone. */
  readonly blocks: number;
  /** Zones that only this mount uses. */
  readonly exclusive: Uint8Array;
  /** Zones that nobody uses. */
  readonly vacant: Uint8Array;
}

/** A full bitmap of zones. */
export const ZONE_BITMAP_BYTES = DATA_ALLOC_MAX_ZONES / 8;

/** How a move ended: all of it, no more free extents, or no more metadata blocks for it. */
export interface Moved {
  readonly blocks: number;
  readonly why: "complete" | "empty" | "budget" | "low";
}

export interface MoveOptions {
  readonly zones?: Zones;
  /** Metadata allocations, and frees, after which to stop with `budget`. */
  readonly budget?: number;
}

/**
 * Moves extents from `src` to `dst` until `total` blocks moved (03 §5.3). However it ends, both
 * roots are consistent and hold what `blocks` says; the caller persists both, and may go on in a
 * later commit.
 */
export function moveExtents(
  t: AllocTree,
  dst: AllocRoot,
  src: AllocRoot,
  total: number,
  options: MoveOptions = {},
): Moved {
  const { zones, budget } = options;
  const before = t.alloc.remaining();
  const preferred = zones === undefined ? [] : [zones.exclusive, zones.vacant];
  let moved = 0;
  while (moved < total) {
    let e: Extent | null = null;
    while (e === null && zones !== undefined && preferred.length > 0) {
      e = zoneSearch(t, src, zones.blocks, preferred[0]!, total - moved);
      if (e === null) preferred.shift();
    }
    e ??= firstBySize(t, src, ORDER_START);
    if (e === null) return { blocks: moved, why: "empty" };
    const len = Math.min(e.len, total - moved);

    const cost = extentCost(src.root.height) + extentCost(dst.root.height);
    if (budget !== undefined && t.alloc.usedSince(before, cost, budget)) {
      return { blocks: moved, why: "budget" };
    }
    if (t.alloc.low(50 + cost)) return { blocks: moved, why: "low" };
    removeExtent(t, src, e.start, len);
    try {
      insertExtent(t, dst, e.start, len);
    } catch (error) {
      insertExtent(t, src, e.start, len);
      throw error;
    }
    moved += len;
  }
  return { blocks: moved, why: "complete" };
}

/** Sets the bits of all zones of `zoneBlocks` that a run of blocks intersects. */
export function markZones(bits: Uint8Array, zoneBlocks: number, start: number, len: number): void {
  const last = Math.min(Math.floor((start + len - 1) / zoneBlocks), bits.length * 8 - 1);
  for (let zone = Math.floor(start / zoneBlocks); zone <= last; zone++) {
    bits[zone >> 3]! |= 1 << (zone & 7);
  }
}

/**
 * A free extent that begins in one of the given zones, of the largest orders first; its length is
 * not clipped to the zone.
 */
function zoneSearch(
  t: Tree,
  root: AllocRoot,
  zoneBlocks: number,
  bits: Uint8Array,
  count: number,
): Extent | null {
  const first = nextZone(bits, 0);
  if (first < 0) return null;
  let order = ORDERS - 1, from = first;
  for (;;) {
    from = nextZone(bits, from);
    if (from < 0) {
      if (--order < 0) return null;
      from = first;
    }
    const minLen = 8 ** order;
    const f = firstBySize(t, root, freeExtentOrderKey(from * zoneBlocks, minLen));
    if (f === null) return null;
    const end = f.start + f.len;
    const lastZone = Math.floor((end - 1) / zoneBlocks);
    const zone = nextZone(bits, Math.floor(f.start / zoneBlocks));
    if (zone >= 0 && zone <= lastZone) {
      const start = Math.max(zone * zoneBlocks, f.start);
      return { start, len: Math.min(count, end - start) };
    }
    from = lastZone + 1;
    order = extentOrder(f.len);
  }
}

/** The lowest set bit ≥ `from`, or −1. */
function nextZone(bits: Uint8Array, from: number): number {
  for (let zone = from; zone < bits.length * 8; zone++) {
    if ((bits[zone >> 3]! >> (zone & 7) & 1) !== 0) return zone;
  }
  return -1;
}

/** The first extent of the order index at or after `key`. */
function firstBySize(t: Tree, root: AllocRoot, key: Key): Extent | null {
  const item = next(t, root.root, key);
  if (item === null || item.key.zone !== ZONE_FREE_EXTENT_ORDER) return null;
  return decode(item.key, item.val);
}

function decode(key: Key, val: Uint8Array): Extent {
  if (val.length !== 0) throw new CorruptError(`free extent ${key} has a value`);
  try {
    return decodeFreeExtent(key);
  } catch (e) {
    throw asCorrupt(e, "free extent");
  }
}

/** One extent to be added to or taken from both indexes. */
interface Change {
  readonly add: boolean;
  readonly start: number;
  readonly len: number;
}

/** Removes the run from within extent `e`. */
function cut(t: WriteTree, root: AllocRoot, e: Extent, start: number, len: number): void {
  const changes: Change[] = [{ add: false, start: e.start, len: e.len }];
  if (start > e.start) changes.push({ add: true, start: e.start, len: start - e.start });
  const rest = e.start + e.len - (start + len);
  if (rest > 0) changes.push({ add: true, start: start + len, len: rest });
  apply(t, root, changes);
}

/** Does all changes, or none if one fails. */
function apply(t: WriteTree, root: AllocRoot, changes: readonly Change[]): void {
  for (let i = 0; i < changes.length; i++) {
    try {
      change(t, root, changes[i]!);
    } catch (e) {
      for (let j = i - 1; j >= 0; j--) {
        const { add, start, len } = changes[j]!;
        change(t, root, { add: !add, start, len });
      }
      throw e;
    }
  }
}

function change(t: WriteTree, root: AllocRoot, { add, start, len }: Change): void {
  const byBlock = freeExtentKey(start, len), bySize = freeExtentOrderKey(start, len);
  changeIndex(t, root, add, byBlock);
  try {
    changeIndex(t, root, add, bySize);
  } catch (e) {
    changeIndex(t, root, !add, byBlock);
    throw e;
  }
  root.totalLen += add ? len : -len;
}

function changeIndex(t: WriteTree, root: AllocRoot, add: boolean, key: Key): void {
  try {
    if (add) insert(t, root.root, key, NO_VALUE);
    else remove(t, root.root, key);
  } catch (e) {
    if (e instanceof FsError && (e.errno === ENOENT || e.errno === EEXIST)) {
      throw new CorruptError(`the indexes of a free extent tree disagree about ${key}`);
    }
    throw e;
  }
}

function text(start: number, len: number): string {
  return `extent of ${len} blocks at ${start}`;
}
