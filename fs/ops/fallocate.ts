/**
 * Preallocation of file space (02 §16.3): holes become unwritten extents, offline parts stay offline
 * and get space. Times and data_seq do not change; the size follows unless it is to be kept.
 */

import { QUOTA_OP_DATA, SM_SIZE } from "../../format/constants.ts";
import { LOCK_WRITE } from "../../format/wire.ts";
import { EFBIG, EINVAL, EOPNOTSUPP, EPERM } from "../../format/errno.ts";
import type { Caller } from "../caller.ts";
import { errnoError } from "../errors.ts";
import type { Fs } from "../fs.ts";
import { gatherUpdate, writeInode } from "../inode.ts";
import type { Op } from "../op.ts";
import { FileExtents } from "./extent_items.ts";
import { preallocateExtents } from "./extents.ts";
import { blocksOf, dataAllocator, getFile, MAX_FILE_SIZE, readEnd, zeroBeyond } from "./file.ts";
import { finishTruncate } from "./truncate.ts";

/** fallocate(2): the size of the file does not change. */
export const FALLOC_FL_KEEP_SIZE = 1;

/** Allocations of one hold (02 §16.3), and the item changes they cause at most. */
const STEP_PIECES = 8;
const STEP_ITEMS = STEP_PIECES * 4 + 4;

export interface FallocateRequest {
  ino: number;
  mode: number;
  offset: number;
  length: number;
  caller: Caller;
}

/**
 * Preallocates [offset, offset+length). EOPNOTSUPP for any mode but 0 and KEEP_SIZE, EINVAL, EFBIG,
 * ENOSPC, EDQUOT, EISDIR; a part may have been allocated when it fails. Retention refuses it with
 * EPERM, where the reference forgets to (02 §11.5).
 */
export function fallocate(fs: Fs, rq: FallocateRequest): void | Promise<void> {
  if ((rq.mode & ~FALLOC_FL_KEEP_SIZE) !== 0) throw errnoError(EOPNOTSUPP);
  if (rq.offset < 0 || rq.length < 0) throw errnoError(EINVAL);
  if (rq.length === 0) return;
  if (rq.offset + rq.length > MAX_FILE_SIZE) throw errnoError(EFBIG);
  return fs.claims.withExclusive(rq.ino, () => fallocateClaimed(fs, rq));
}

/** Block to continue at. */
type Progress = { block: number };
type Step = "done" | "more" | "finish truncate";

async function fallocateClaimed(fs: Fs, rq: FallocateRequest): Promise<void> {
  const progress: Progress = { block: Math.floor(rq.offset / SM_SIZE) };
  for (;;) {
    const step = await fs.runner.run((op) => fallocateStep(op, fs, rq, progress), rq.caller);
    if (step === "done") return;
    if (step === "finish truncate") await finishTruncate(fs, rq.ino);
  }
}

function fallocateStep(op: Op, fs: Fs, rq: FallocateRequest, progress: Progress): Step {
  const h = getFile(op, fs, rq.ino, LOCK_WRITE);
  const { inode } = h;
  if (inode.hasRetention) throw errnoError(EPERM);
  if (inode.isTruncating) return "finish truncate";
  if (fs.quota.applies(op)) {
    fs.quota.check({ op: QUOTA_OP_DATA, proj: inode.proj, uid: inode.uid, gid: inode.gid });
  }
  const stop = rq.offset + rq.length;
  const end = blocksOf(stop);
  const extents = new FileExtents(op, fs, h, progress.block, end, STEP_PIECES * 2 + 3);
  const reachable = Math.min(end, extents.horizon);
  const want = firstPieces(extents, progress.block, reachable);
  const growing = (rq.mode & FALLOC_FL_KEEP_SIZE) === 0 && stop > inode.size;
  const oldSize = inode.size;
  const endBlkno = growing ? readEnd(op, fs, h, oldSize) : 0;
  const seq = gatherUpdate(op, fs, [{ h, dataSeq: false }], {
    allocating: true,
    dataBlocks: want.blocks,
    items: STEP_ITEMS,
  });

  op.apply();
  const reached = want.blocks === 0 ? want.end : preallocateExtents(
    extents,
    progress.block,
    want.end,
    dataAllocator(op, fs),
    STEP_PIECES,
  );
  extents.account();
  const size = Math.min(stop, reached * SM_SIZE);
  if (growing && size > oldSize) {
    zeroBeyond(fs, endBlkno, oldSize);
    const changed = h.edit();
    changed.size = size;
    changed.bumpVersion();
    changed.bumpDataVersion();
  }
  writeInode(op, fs, h, seq);
  progress.block = reached;
  return reached >= end ? "done" : "more";
}

/** The largest range of one hold: so much space is asked for at once. */
const STEP_BLOCKS = 32768;

/** How far one hold gets from `first`, and how many blocks that has to allocate. */
function firstPieces(
  extents: FileExtents,
  first: number,
  end: number,
): { end: number; blocks: number } {
  let blocks = 0;
  let b = first;
  while (b < end && blocks < STEP_BLOCKS) {
    const e = extents.next(b);
    const covers = e !== null && e.start <= b;
    const stop = e === null ? end : Math.min(end, covers ? e.start + e.len : e.start);
    if (covers && e.blkno !== 0) {
      b = stop;
      continue;
    }
    const take = Math.min(stop - b, STEP_BLOCKS - blocks);
    blocks += take;
    b += take;
  }
  return { end: b, blocks };
}
