/**
 * Setting the size of a file (02 §11.2 step 4, §16.1, §16.2), and removing all of its extents when
 * it is deleted (§6.4 step 1). What does not fit into one hold is done in steps; the inode's
 * TRUNCATE flag makes the rest survive a crash, and whoever changes the file next finishes it.
 */

import { INODE_FLAG_TRUNCATE } from "../../format/constants.ts";
import { LOCK_WRITE } from "../../format/wire.ts";
import { EFBIG, EPERM } from "../../format/errno.ts";
import type { Caller } from "../caller.ts";
import { errnoError } from "../errors.ts";
import type { Fs } from "../fs.ts";
import { gatherUpdate, getInode, writeInode } from "../inode.ts";
import type { Op } from "../op.ts";
import { FileExtents } from "./extent_items.ts";
import { MAX_BLOCK, removeExtents } from "./extents.ts";
import {
  blocksOf,
  getFile,
  MAX_FILE_SIZE,
  offlineIn,
  OfflineWait,
  readEnd,
  retryAfterWait,
  touch,
  zeroBeyond,
} from "./file.ts";
import { type RequestId, WAIT_CHANGE_SIZE } from "./wait.ts";
import { dropCapability } from "./xattr.ts";

/** Extents changed in one hold (03 §11.4). */
const STEP_EXTENTS = 8;
/** Item changes that such a step causes at most, and the inode's. */
const STEP_ITEMS = STEP_EXTENTS * 3 + 4;

/** What one operation of a truncate left to do. */
type Step = "done" | "more" | "finish first";

/**
 * Sets the size of a regular file and frees what lies beyond it; also at an unchanged size, which
 * frees preallocation. Waits for offline data below a new size that is neither 0 nor the current
 * one. Takes the inode's claim. EPERM (retention), EFBIG, EISDIR, EINVAL, EINTR, EIO.
 */
export function truncate(
  fs: Fs,
  ino: number,
  size: number,
  caller: Caller | null,
  id: RequestId,
): void | Promise<void> {
  if (size > MAX_FILE_SIZE) throw errnoError(EFBIG);
  const attempt = () => fs.claims.withExclusive(ino, () => truncateClaimed(fs, ino, size, caller));
  const settle = (r: OfflineWait | void) =>
    r instanceof OfflineWait
      ? retryAfterWait<void>(fs, { ino, id }, WAIT_CHANGE_SIZE, r, attempt)
      : undefined;
  const result = attempt();
  return result instanceof Promise ? result.then(settle) : settle(result);
}

function truncateClaimed(
  fs: Fs,
  ino: number,
  size: number,
  caller: Caller | null,
): OfflineWait | void | Promise<OfflineWait | void> {
  const resize = () => fs.runner.run((op) => setSize(op, fs, ino, size), caller);
  const first = resize();
  if (first === "done") return;
  if (first instanceof OfflineWait) return first;
  return finishSize(fs, ino, resize, first);
}

async function finishSize(
  fs: Fs,
  ino: number,
  resize: () => Step | OfflineWait | Promise<Step | OfflineWait>,
  first: Step | OfflineWait | Promise<Step | OfflineWait>,
): Promise<OfflineWait | void> {
  let step = await first;
  while (step === "finish first") {
    await finishTruncate(fs, ino);
    step = await resize();
  }
  if (step instanceof OfflineWait) return step;
  if (step === "more") await finishTruncate(fs, ino);
}

/** Removes what an interrupted or just begun truncate left; under the inode's exclusive claim. */
export async function finishTruncate(fs: Fs, ino: number): Promise<void> {
  while (await fs.runner.run((op) => truncateStep(op, fs, ino)) === "more");
}

/** 02 §16.1, and the removal too if it is small enough for the same hold. */
function setSize(op: Op, fs: Fs, ino: number, size: number): Step | OfflineWait {
  const h = getFile(op, fs, ino, LOCK_WRITE);
  const { inode } = h;
  const oldSize = inode.size;
  if (inode.hasRetention) throw errnoError(EPERM);
  if (inode.isTruncating) return "finish first";
  if (size > 0 && size !== oldSize) {
    const wait = offlineIn(op, fs, h, 0, blocksOf(size));
    if (wait !== null) return wait;
  }
  const shrinking = oldSize >= size;
  const end = blocksOf(size);
  const extents = new FileExtents(op, fs, h, end, MAX_BLOCK, STEP_EXTENTS + 3);
  const ending = Math.min(size, oldSize);
  const endBlkno = size === oldSize ? 0 : readEnd(op, fs, h, ending);
  const capability = dropCapability(op, fs, h);
  const seq = gatherUpdate(op, fs, [{ h, dataSeq: true }], {
    allocating: false,
    items: STEP_ITEMS + (capability?.items ?? 0),
  });

  op.apply();
  const changed = h.edit();
  zeroBeyond(fs, endBlkno, ending);
  let step: Step = "done";
  if (shrinking && !removeStep(op, fs, extents, end)) {
    changed.flags |= INODE_FLAG_TRUNCATE;
    step = "more";
  }
  extents.account();
  if (size !== oldSize) changed.bumpDataVersion();
  changed.size = size;
  touch(fs, changed);
  capability?.apply(op, fs, changed.mtime);
  changed.dataSeq = seq;
  changed.bumpVersion();
  writeInode(op, fs, h, seq);
  return step;
}

/** 02 §16.2: removes up to eight extents beyond the size; the last step clears the flag. */
function truncateStep(op: Op, fs: Fs, ino: number): Step {
  const h = getInode(op, fs, ino, LOCK_WRITE);
  if (!h.inode.isTruncating) return "done";
  const end = blocksOf(h.inode.size);
  const extents = new FileExtents(op, fs, h, end, MAX_BLOCK, STEP_EXTENTS + 3);
  const seq = gatherUpdate(op, fs, [{ h, dataSeq: false }], {
    allocating: false,
    items: STEP_ITEMS,
  });

  op.apply();
  const finished = removeStep(op, fs, extents, end);
  extents.account();
  if (finished) h.edit().flags &= ~INODE_FLAG_TRUNCATE;
  writeInode(op, fs, h, seq);
  return finished ? "done" : "more";
}

/** Removes up to eight extents from block `first` on; whether none are left. */
function removeStep(op: Op, fs: Fs, extents: FileExtents, first: number): boolean {
  const last = Math.min(MAX_BLOCK, extents.horizon - 1);
  const next = removeExtents(
    extents,
    first,
    last,
    false,
    (blkno, len) => freeBlocks(op, fs, blkno, len),
    STEP_EXTENTS,
  );
  return next < 0 && extents.horizon === Infinity;
}

/** Gives data blocks back; what was not yet written of them need not be. */
export function freeBlocks(op: Op, fs: Fs, blkno: number, len: number): void {
  fs.dirty.drop(blkno, len);
  fs.trans.freeData(op, blkno, len);
}

/**
 * Frees all blocks of an inode that nobody can reach any more (02 §6.4 step 1). Its inode item is
 * not touched: it goes next. Resumes where an interrupted attempt stopped.
 */
export async function deleteExtents(fs: Fs, ino: number): Promise<void> {
  while (!await fs.runner.run((op) => deleteStep(op, fs, ino)));
}

function deleteStep(op: Op, fs: Fs, ino: number): boolean {
  const h = getInode(op, fs, ino, LOCK_WRITE);
  const extents = new FileExtents(op, fs, h, 0, MAX_BLOCK, STEP_EXTENTS + 3);
  if (extents.next(0) === null) return true;
  op.hold({ allocating: false, items: STEP_ITEMS });
  op.apply();
  return removeStep(op, fs, extents, 0);
}
