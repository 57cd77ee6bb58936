/**
 * Blocks that nobody claims and that hold nothing of this volume, for repairs of volumes whose free
 * lists are lost together with trees that may have had anything: whatever those had was a block with
 * this volume's header, so a block without one can be written.
 */

import {
  LG_SIZE,
  MAGIC_ALLOC_LIST,
  MAGIC_BLOOM,
  MAGIC_BTREE,
  MAGIC_SRCH_BLOCK,
  MAGIC_SRCH_PARENT,
  META_DEV_START_BLKNO,
  SM_SIZE,
} from "../../../format/constants.ts";
import { DeviceError } from "../../errors.ts";
import type { CheckContext } from "../context.ts";
import { KIND_FREE, KIND_NOBODY } from "../owners.ts";
import { rawU64, viewOf } from "../raw.ts";

const MAGICS: ReadonlySet<number> = new Set([
  MAGIC_ALLOC_LIST,
  MAGIC_BLOOM,
  MAGIC_BTREE,
  MAGIC_SRCH_BLOCK,
  MAGIC_SRCH_PARENT,
]);

/** Free blocks with which any repair can begin; the next round knows of all others. */
const ENOUGH = 4096;

/** Blank blocks in ascending order, as many as there are too few of those known to be free. */
export function findBlankBlocks(cx: CheckContext): number[] {
  let free = 0;
  cx.owners.forEachRun(META_DEV_START_BLKNO, (_, len, kind) => {
    if (kind === KIND_FREE) free += len;
  });
  const found: number[] = [];
  const head = cx.meta.allocBuffer(SM_SIZE), v = viewOf(head);
  cx.owners.forEachRun(META_DEV_START_BLKNO, (start, len, kind) => {
    if (kind !== KIND_NOBODY) return;
    for (let blkno = start; blkno < start + len && free + found.length < ENOUGH; blkno++) {
      if (isBlank(cx, head, v, blkno)) found.push(blkno);
    }
  });
  return found;
}

function isBlank(cx: CheckContext, head: Uint8Array, v: DataView, blkno: number): boolean {
  try {
    cx.meta.read(head, blkno * LG_SIZE);
  } catch (e) {
    // Nobody knows what it holds.
    if (e instanceof DeviceError) return false;
    throw e;
  }
  const ours = v.getUint32(8, true) === cx.source.fsidLo &&
    v.getUint32(12, true) === cx.source.fsidHi;
  return !ours && rawU64(v, 24) !== blkno && !MAGICS.has(v.getUint32(4, true));
}
