/**
 * The extents of one file (01 §15.7, 02 §14): the algorithms, pure over a map that can find, drop
 * and put extents. Nothing here waits, allocates blocks by itself, or knows of items.
 *
 * Invariants (02 §14.1): extents never overlap; neighbours are merged whenever they are logically
 * contiguous, have equal flags and are both unmapped or physically contiguous; (blkno 0, flags 0) is
 * never stored; `onlineDelta` and `offlineDelta` tell by how much the file's counters change.
 */

import { SEF_OFFLINE, SEF_UNWRITTEN } from "../../format/constants.ts";
import { EINVAL, EIO, EPERM } from "../../format/errno.ts";
import { assert, FsError } from "../errors.ts";

/** Logical blocks [start, start+len); `blkno` of the first, 0 when unmapped. */
export interface Extent {
  readonly start: number;
  readonly len: number;
  readonly blkno: number;
  readonly flags: number;
}

/** The greatest block number that a file has (02 §14.5). */
export const MAX_BLOCK = 2 ** 52 - 1;

/** Largest allocation of one fallocate step: 128 MiB (02 §16.3). */
const FALLOCATE_MAX_BLOCKS = 32768;

/** A run of data blocks as an allocator hands them out. */
export interface DataRun {
  blkno: number;
  len: number;
}

/**
 * Between 1 and `count` free blocks. By this and later calls together `needed` blocks have to be had,
 * `own` of them by this one if it gives so many: what is preallocated must leave the others.
 */
export type AllocateData = (count: number, needed: number, own: number) => DataRun;

/** Takes back blocks of the data device. */
export type FreeData = (blkno: number, len: number) => void;

/** `data_prealloc_blocks` and `data_prealloc_contig_only` (02 §14.4). */
export interface PreallocPolicy {
  readonly blocks: number;
  readonly contigOnly: boolean;
}

/**
 * Blocks mapped for a write. `fresh`: they held nothing of the file before, so bytes of them that
 * the write does not cover must become zero.
 */
export interface MappedRun {
  readonly start: number;
  len: number;
  readonly blkno: number;
  readonly fresh: boolean;
}

/** Appends a run, or lengthens the last one that it continues. */
function pushRun(out: MappedRun[], start: number, len: number, blkno: number, fresh: boolean) {
  const last = out.at(-1);
  if (last !== undefined && last.fresh === fresh && last.blkno + last.len === blkno) {
    last.len += len;
  } else out.push({ start, len, blkno, fresh });
}

export function isOnline(blkno: number, flags: number): boolean {
  return blkno !== 0 && (flags & SEF_UNWRITTEN) === 0;
}

export function isOffline(flags: number): boolean {
  return (flags & SEF_OFFLINE) !== 0;
}

/** What only looks at extents needs of a map. */
export interface ExtentLookup {
  /** The first extent whose last block is ≥ `block`. */
  next(block: number): Extent | null;
}

/** An extent map with its storage left open. */
export abstract class ExtentMap implements ExtentLookup {
  onlineDelta = 0;
  offlineDelta = 0;

  /** The first extent whose last block is ≥ `block`. */
  abstract next(block: number): Extent | null;
  protected abstract drop(e: Extent): void;
  protected abstract put(start: number, len: number, blkno: number, flags: number): void;

  /**
   * Makes [start, start+len) the given mapping; (0, 0) removes it. The range must lie inside one
   * extent or be free, otherwise EINVAL (02 §14.2).
   */
  set(start: number, len: number, blkno: number, flags: number): void {
    assert(len > 0 && start >= 0, "an extent is not empty");
    const end = start + len;
    const found = this.next(start);
    const inside = found !== null && found.start < end ? found : null;
    const removing = blkno === 0 && flags === 0;
    let left: Extent | null = null;
    let right: Extent | null = null;
    if (inside !== null) {
      const insideEnd = inside.start + inside.len;
      if (start < inside.start || end > insideEnd) {
        throw new FsError(EINVAL, `blocks ${start}+${len} are not inside one extent`);
      }
      if (!removing && end === insideEnd) right = this.next(end);
    } else {
      if (removing) return;
      right = found;
    }
    if (!removing && start > 0 && (inside === null || inside.start === start)) {
      left = this.next(start - 1);
    }
    if (left !== null && !(left.start + left.len === start && mergeable(left, blkno, flags))) {
      left = null;
    }
    if (right !== null && !(right.start === end && continues(blkno, flags, len, right))) {
      right = null;
    }

    if (inside !== null) this.#drop(inside);
    if (left !== null) this.#drop(left);
    if (right !== null) this.#drop(right);
    if (inside !== null && inside.start < start) {
      this.#put(inside.start, start - inside.start, inside.blkno, inside.flags);
    }
    if (!removing) {
      const mergedStart = left === null ? start : left.start;
      this.#put(
        mergedStart,
        (right === null ? end : right.start + right.len) - mergedStart,
        left === null ? blkno : left.blkno,
        flags,
      );
    }
    if (inside !== null && inside.start + inside.len > end) {
      const shift = end - inside.start;
      const at = inside.blkno === 0 ? 0 : inside.blkno + shift;
      this.#put(end, inside.len - shift, at, inside.flags);
    }
  }

  #drop(e: Extent): void {
    if (isOnline(e.blkno, e.flags)) this.onlineDelta -= e.len;
    else if (isOffline(e.flags)) this.offlineDelta -= e.len;
    this.drop(e);
  }

  #put(start: number, len: number, blkno: number, flags: number): void {
    if (isOnline(blkno, flags)) this.onlineDelta += len;
    else if (isOffline(flags)) this.offlineDelta += len;
    this.put(start, len, blkno, flags);
  }
}

/** Whether an extent that ends where (blkno, flags) begins merges with it. */
function mergeable(left: Extent, blkno: number, flags: number): boolean {
  if (left.flags !== flags) return false;
  return left.blkno === 0 ? blkno === 0 : blkno !== 0 && left.blkno + left.len === blkno;
}

/** Whether `right`, which begins where (blkno, flags, len) ends, merges with it. */
function continues(blkno: number, flags: number, len: number, right: Extent): boolean {
  if (right.flags !== flags) return false;
  return blkno === 0 ? right.blkno === 0 : right.blkno !== 0 && blkno + len === right.blkno;
}

/** Which blocks to allocate for a hole at a block (02 §14.4): [start, start+count) contains it. */
export function planAllocation(
  map: ExtentLookup,
  block: number,
  hole: Extent | null,
  online: number,
  policy: PreallocPolicy,
): { start: number; count: number } {
  const limit = policy.blocks;
  if (policy.contigOnly) {
    if (block <= 1 || block !== online) return { start: block, count: 1 };
    const room = hole === null ? limit : hole.start - block;
    return { start: block, count: Math.min(block, room, limit) };
  }
  let start = block - block % limit;
  let count = limit;
  let e = map.next(start);
  if (e !== null && e.start < block) {
    count -= block - start;
    start = block;
    e = map.next(block);
  }
  if (e !== null && e.start > start && e.start < start + count) count = e.start - start;
  return { start, count: Math.max(1, Math.min(count, online)) };
}

/**
 * Maps blocks [from, end) for a write (02 §14.4), appending what each run became to `out`, and
 * returns the block that it reached: `end`, or less after `maxSteps` steps (at least one block).
 * `online` is the file's online count before. Whole runs are mapped at once, with the result of the
 * specification's block-by-block rule.
 */
export function mapForWrite(
  map: ExtentMap,
  from: number,
  end: number,
  online: number,
  policy: PreallocPolicy,
  staging: boolean,
  allocate: AllocateData,
  maxSteps: number,
  out: MappedRun[],
): number {
  const deltaBefore = map.onlineDelta;
  let b = from;
  for (let step = 0; b < end && step < maxSteps; step++) {
    const e = map.next(b);
    if (e !== null && e.start <= b && e.blkno !== 0) {
      if (isOffline(e.flags) && !staging) {
        throw new FsError(EIO, `write into offline block ${b} with reserved space`);
      }
      const len = Math.min(e.start + e.len, end) - b;
      const blkno = e.blkno + (b - e.start);
      const fresh = e.flags !== 0;
      if (fresh) map.set(b, len, blkno, 0);
      pushRun(out, b, len, blkno, fresh);
      b += len;
      continue;
    }

    const offline = e !== null && e.start <= b;
    let plan: { start: number; count: number };
    let flags = SEF_UNWRITTEN;
    if (offline) {
      if (!staging) throw new FsError(EPERM, `write into offline block ${b}`);
      plan = { start: b, count: Math.min(e.start + e.len - b, policy.blocks) };
      flags |= SEF_OFFLINE;
    } else {
      const nowOnline = online + map.onlineDelta - deltaBefore;
      plan = planAllocation(map, b, e, nowOnline, policy);
      // A sparse or scattered write gets its blocks one by one: the run's blocks at once are the same.
      if (policy.contigOnly && b !== nowOnline) {
        const hole = e === null ? end : Math.min(e.start, end);
        plan.count = Math.max(plan.count, Math.min(hole - b, policy.blocks));
      }
    }
    const room = e === null ? end : Math.min(end, offline ? e.start + e.len : e.start);
    const own = plan.start === b ? room - b : 1;
    const run = allocate(plan.count, unmappedBlocks(map, b, end), own);
    assert(run.len >= 1 && run.len <= plan.count, "the allocator gave what was asked for");
    const start = plan.start + run.len <= b ? b + 1 - run.len : plan.start;
    const runEnd = start + run.len;
    const len = Math.min(runEnd, end) - b;
    const blkno = run.blkno + (b - start);
    if (start < b) map.set(start, b - start, run.blkno, flags);
    map.set(b, len, blkno, 0);
    if (b + len < runEnd) map.set(b + len, runEnd - b - len, blkno + len, flags);
    pushRun(out, b, len, blkno, true);
    b += len;
  }
  return b;
}

/**
 * One step of removing blocks [first, last] (02 §14.5), or of making them offline: changes at most
 * `maxExtents` extents from the front. Returns the block to continue at, or −1 when nothing is left.
 */
export function removeExtents(
  map: ExtentMap,
  first: number,
  last: number,
  makeOffline: boolean,
  free: FreeData,
  maxExtents: number,
): number {
  const end = Math.min(last, MAX_BLOCK) + 1;
  let b = first;
  for (let changed = 0;;) {
    const e = b < end ? map.next(b) : null;
    if (e === null || e.start >= end) return -1;
    const start = Math.max(e.start, b);
    const stop = Math.min(e.start + e.len, end);
    if (makeOffline && isOffline(e.flags) && e.blkno === 0) {
      b = stop;
      continue;
    }
    if (changed === maxExtents) return start;
    map.set(start, stop - start, 0, makeOffline ? SEF_OFFLINE : 0);
    if (e.blkno !== 0) free(e.blkno + (start - e.start), stop - start);
    changed++;
    b = stop;
  }
}

/**
 * One step of preallocating blocks [first, end) (02 §16.3): holes become unwritten, offline extents
 * keep being offline but get space; at most `maxPieces` allocations. Returns the block it reached.
 */
export function preallocateExtents(
  map: ExtentMap,
  first: number,
  end: number,
  allocate: AllocateData,
  maxPieces: number,
): number {
  let b = first;
  let pieces = 0;
  while (b < end) {
    const e = map.next(b);
    const covers = e !== null && e.start <= b;
    if (covers && e.blkno !== 0) {
      b = Math.min(e.start + e.len, end);
      continue;
    }
    if (pieces++ === maxPieces) return b;
    const stop = e === null ? end : Math.min(covers ? e.start + e.len : e.start, end);
    const count = Math.min(stop - b, FALLOCATE_MAX_BLOCKS);
    const run = allocate(count, unmappedBlocks(map, b, end), count);
    map.set(b, run.len, run.blkno, (covers ? e.flags : 0) | SEF_UNWRITTEN);
    b += run.len;
  }
  return b;
}

/** How many blocks of [first, end) have no space: what a write or fallocate may have to allocate. */
export function unmappedBlocks(map: ExtentLookup, first: number, end: number): number {
  let unmapped = end - first;
  for (let b = first; b < end;) {
    const e = map.next(b);
    if (e === null || e.start >= end) break;
    const stop = Math.min(e.start + e.len, end);
    if (e.blkno !== 0) unmapped -= stop - Math.max(e.start, b);
    b = stop;
  }
  return unmapped;
}

/** The first offline block of [first, end), or −1. */
export function firstOffline(map: ExtentLookup, first: number, end: number): number {
  for (let b = first; b < end;) {
    const e = map.next(b);
    if (e === null || e.start >= end) break;
    if (isOffline(e.flags)) return Math.max(e.start, b);
    b = e.start + e.len;
  }
  return -1;
}

/**
 * SEEK_DATA: the first byte ≥ `offset` with data (online or offline), below `size`; −1 when there
 * is none (02 §16.5).
 */
export function seekData(map: ExtentLookup, offset: number, size: number): number {
  let b = Math.floor(offset / 4096);
  for (;;) {
    const e = map.next(b);
    if (e === null || e.start * 4096 >= size) return -1;
    if (isOnline(e.blkno, e.flags) || isOffline(e.flags)) return Math.max(offset, e.start * 4096);
    b = e.start + e.len;
  }
}

/** SEEK_HOLE: the first byte ≥ `offset` in a hole or unwritten extent, at most `size`. */
export function seekHole(map: ExtentLookup, offset: number, size: number): number {
  let b = Math.floor(offset / 4096);
  for (;;) {
    if (b * 4096 >= size) return size;
    const e = map.next(b);
    const data = e !== null && e.start <= b &&
      (isOnline(e.blkno, e.flags) || isOffline(e.flags));
    if (!data) return Math.max(offset, b * 4096);
    b = e.start + e.len;
  }
}
