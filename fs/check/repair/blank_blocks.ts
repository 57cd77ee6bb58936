/**
 * Blocks that nobody claims and that mending needs nothing of, for repairs of volumes whose free lists are
 * lost together with trees that may have had anything. Whatever those had was a block with this volume's
 * header, so a block without one can be written; and of those with one only leaves with items of files,
 * and of log trees, are ever looked for: lists, parents, search files, bloom blocks and the server's
 * other trees are all made anew.
 */

import { blockLevel, firstItem, itemKey, nrItems } from "../../../format/btree_block.ts";
import { checkBtreeShape } from "../../../format/btree_verify.ts";
import {
  LG_SIZE,
  MAGIC_ALLOC_LIST,
  MAGIC_BLOOM,
  MAGIC_BTREE,
  MAGIC_SRCH_BLOCK,
  MAGIC_SRCH_PARENT,
  META_DEV_START_BLKNO,
  SM_SIZE,
  ZONE_FS,
  ZONE_INODE_INDEX,
  ZONE_LOG_TREES,
} from "../../../format/constants.ts";
import { blockCrcOk } from "../../../format/crc32c.ts";
import { DeviceError } from "../../errors.ts";
import type { CheckContext } from "../context.ts";
import { KIND_FREE, KIND_NOBODY } from "../owners.ts";
import { rawU64, viewOf } from "../raw.ts";
import type { RawBlock } from "../source.ts";

const MAGICS: ReadonlySet<number> = new Set([
  MAGIC_ALLOC_LIST,
  MAGIC_BLOOM,
  MAGIC_BTREE,
  MAGIC_SRCH_BLOCK,
  MAGIC_SRCH_PARENT,
]);

/** Free blocks with which any repair can begin; the next round knows of all others. */
const ENOUGH = 4096;
/** With so few of them a repair may not even begin. */
const FEW = 512;

/** Such blocks in ascending order, as many as there are too few of those known to be free. */
export function findBlankBlocks(cx: CheckContext): number[] {
  let free = 0;
  cx.owners.forEachRun(META_DEV_START_BLKNO, (_, len, kind) => {
    if (kind === KIND_FREE) free += len;
  });
  const found: number[] = [];
  const head = cx.meta.allocBuffer(SM_SIZE), v = viewOf(head), b = cx.source.acquire();
  const search = (wanted: (blkno: number) => boolean) => {
    cx.owners.forEachRun(META_DEV_START_BLKNO, (start, len, kind) => {
      if (kind !== KIND_NOBODY) return;
      for (let blkno = start; blkno < start + len && free + found.length < ENOUGH; blkno++) {
        if (wanted(blkno)) found.push(blkno);
      }
    });
  };
  search((blkno) => isBlank(cx, head, v, blkno));
  // What still says something of the past goes last.
  if (free + found.length < FEW) search((blkno) => isMadeAnew(cx, b, blkno));
  cx.source.release(b);
  return found.sort((a, c) => a - c);
}

/** A block of this volume, whole, that holds nothing which is looked for. */
function isMadeAnew(cx: CheckContext, b: RawBlock, blkno: number): boolean {
  if (!cx.source.readRaw(b, blkno)) return false;
  const { v } = b, magic = v.getUint32(4, true);
  const ours = v.getUint32(8, true) === cx.source.fsidLo &&
    v.getUint32(12, true) === cx.source.fsidHi && rawU64(v, 24) === blkno;
  if (!ours || !MAGICS.has(magic) || !blockCrcOk(b.buf)) return false;
  if (magic !== MAGIC_BTREE) return true;
  if (checkBtreeShape(b) !== null || nrItems(b) === 0) return false;
  const { zone } = itemKey(b, firstItem(b));
  return blockLevel(b) > 0 ||
    zone !== ZONE_LOG_TREES && !(zone >= ZONE_INODE_INDEX && zone <= ZONE_FS);
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
