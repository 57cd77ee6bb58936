/** Where a file has data: SEEK_DATA and SEEK_HOLE (02 §16.5), listing extents as FIEMAP does (§16.4). */

import { SEF_UNWRITTEN, SM_SIZE } from "../../format/constants.ts";
import { LOCK_READ } from "../../format/wire.ts";
import { EINVAL, ENXIO, EOVERFLOW } from "../../format/errno.ts";
import { errnoError } from "../errors.ts";
import type { Fs } from "../fs.ts";
import type { Op } from "../op.ts";
import { nextExtent } from "./extent_items.ts";
import { isOffline, seekData, seekHole } from "./extents.ts";
import { blocksOf, getFile } from "./file.ts";

export const SEEK_DATA = 3;
export const SEEK_HOLE = 4;

/** Flags of a listed extent, as in linux/fiemap.h. */
export const FIEMAP_EXTENT_LAST = 0x1;
export const FIEMAP_EXTENT_UNKNOWN = 0x2;
export const FIEMAP_EXTENT_DELALLOC = 0x4;
export const FIEMAP_EXTENT_UNWRITTEN = 0x800;

/** One extent as FIEMAP reports it; bytes. */
export interface FiemapExtent {
  logical: number;
  physical: number;
  length: number;
  flags: number;
}

/**
 * The next data or hole at or after `offset`: offline extents are data, unwritten ones holes. ENXIO
 * beyond the end of the file or when no data follows; EINVAL for another `whence`; EOVERFLOW for what is
 * found beyond 2^53.
 */
export function lseek(op: Op, fs: Fs, ino: number, offset: number, whence: number): number {
  if (whence !== SEEK_DATA && whence !== SEEK_HOLE) throw errnoError(EINVAL);
  const h = getFile(op, fs, ino, LOCK_READ);
  const { size } = h.inode;
  if (offset < 0 || offset >= size) throw errnoError(ENXIO);
  const map = { next: (block: number) => nextExtent(op, fs, h, block) };
  const found = whence === SEEK_HOLE ? seekHole(map, offset, size) : seekData(map, offset, size);
  if (found < 0) throw errnoError(ENXIO);
  if (found > Number.MAX_SAFE_INTEGER) throw errnoError(EOVERFLOW);
  return found;
}

/**
 * The extents that intersect [start, start+length), whole, at most `max`; those beyond the size too.
 * The final one has LAST when the range was looked at to its end.
 */
export function fiemap(
  op: Op,
  fs: Fs,
  ino: number,
  start: number,
  length: number,
  max: number,
): FiemapExtent[] {
  if (length <= 0) throw errnoError(EINVAL);
  const h = getFile(op, fs, ino, LOCK_READ);
  const end = blocksOf(start + length);
  const found: FiemapExtent[] = [];
  for (let b = Math.floor(start / SM_SIZE);;) {
    const e = nextExtent(op, fs, h, b);
    if (e === null || e.start >= end) {
      const last = found.at(-1);
      if (last !== undefined) last.flags |= FIEMAP_EXTENT_LAST;
      return found;
    }
    if (found.length === max) return found;
    const offline = isOffline(e.flags);
    found.push({
      logical: e.start * SM_SIZE,
      physical: offline ? 0 : e.blkno * SM_SIZE,
      length: e.len * SM_SIZE,
      flags: offline
        ? FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_DELALLOC
        : (e.flags & SEF_UNWRITTEN) !== 0
        ? FIEMAP_EXTENT_UNWRITTEN
        : 0,
    });
    b = e.start + e.len;
  }
}
