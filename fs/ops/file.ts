/** What the operations on a regular file's data have in common: checks, offline waits, times. */

import { SM_SIZE } from "../../format/constants.ts";
import { EINVAL, EISDIR } from "../../format/errno.ts";
import type { Inode } from "../../format/items.ts";
import { assert, errnoError } from "../errors.ts";
import type { Fs } from "../fs.ts";
import { getInode, type InodeHandle, isDir } from "../inode.ts";
import type { Op } from "../op.ts";
import { nextExtent } from "./extent_items.ts";
import { type AllocateData, firstOffline, isOnline } from "./extents.ts";
import type { RequestId } from "./wait.ts";

/** Offsets are exact JS numbers: what we write ends below 8 PiB. EFBIG beyond. */
export const MAX_FILE_SIZE = Number.MAX_SAFE_INTEGER;

/** Blocks that `bytes` take. */
export const blocksOf = (bytes: number): number => Math.ceil(bytes / SM_SIZE);

/** An operation that met offline data: what to wait for (02 §17.4). */
export class OfflineWait {
  constructor(
    readonly iblock: number,
    /** `DataWaiters.changes` under the lock. */
    readonly changes: number,
  ) {}
}

/**
 * The first offline block among [first, end) of a file; null when there is none. The counter makes
 * it free for files that have none. While gathering.
 */
export function offlineIn(
  op: Op,
  fs: Fs,
  h: InodeHandle,
  first: number,
  end: number,
): OfflineWait | null {
  if (h.inode.offlineBlocks === 0) return null;
  const map = { next: (block: number) => nextExtent(op, fs, h, block) };
  const block = firstOffline(map, first, end);
  return block < 0 ? null : new OfflineWait(block, fs.waiters.changes);
}

/** Repeats `attempt` until it no longer meets offline data. Call it with nothing claimed. */
export async function retryAfterWait<T>(
  fs: Fs,
  rq: { ino: number; id: RequestId },
  waitOp: number,
  first: OfflineWait,
  attempt: () => T | OfflineWait | Promise<T | OfflineWait>,
): Promise<T> {
  let wait = first;
  for (;;) {
    await fs.waiters.park(rq.ino, wait.iblock, waitOp, rq.id, wait.changes);
    const result = await attempt();
    if (!(result instanceof OfflineWait)) return result;
    wait = result;
  }
}

/** The inode as a regular file: EISDIR, EINVAL for others. */
export function getFile(op: Op, fs: Fs, ino: number, mode: number): InodeHandle {
  const h = getInode(op, fs, ino, mode);
  if (!h.isReg) throw errnoError(isDir(h.inode.mode) ? EISDIR : EINVAL);
  return h;
}

/** mtime = ctime = now. */
export function touch(fs: Fs, inode: Inode): void {
  const now = fs.clock.realtime();
  const { mtime, ctime } = inode;
  mtime.sec = ctime.sec = now.sec;
  mtime.nsec = ctime.nsec = now.nsec;
}

/**
 * Gathers what `zeroBeyond` needs: the data block in which byte `size` lies, read into the end page
 * of the dirty data; 0 when nothing is stored there. A write that never was committed may have left
 * anything behind the end of a file, so that whatever moves the end has to zero it (02 §15.3).
 */
export function readEnd(op: Op, fs: Fs, h: InodeHandle, size: number): number {
  if (size % SM_SIZE === 0) return 0;
  const block = Math.floor(size / SM_SIZE);
  const e = nextExtent(op, fs, h, block);
  if (e === null || e.start > block || !isOnline(e.blkno, e.flags)) return 0;
  const blkno = e.blkno + (block - e.start);
  if (!fs.dirty.has(blkno)) fs.data.read(fs.dirty.endPage, blkno * SM_SIZE);
  return blkno;
}

/** Zeroes the block that `readEnd` found from byte `size` of the file on. */
export function zeroBeyond(fs: Fs, blkno: number, size: number): void {
  if (blkno === 0) return;
  let page = fs.dirty.page(blkno);
  if (page === null) {
    page = fs.dirty.add(blkno);
    page.set(fs.dirty.endPage);
  }
  page.fill(0, size % SM_SIZE);
}

/**
 * Allocation after a hold that promised the blocks that are needed: what is asked for beyond them
 * may not use them up.
 */
export function dataAllocator(op: Op, fs: Fs): AllocateData {
  return (count, needed, own) => {
    const spare = fs.trans.dataReserved - needed;
    assert(spare >= 0, "a hold promised fewer data blocks than are needed");
    return fs.trans.allocData(op, Math.min(count, own + spare));
  };
}
