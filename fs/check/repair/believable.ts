/**
 * Which items of a leaf with a wrong checksum can be believed. Most items say something twice: names
 * hash to their keys, numbers have limits, lengths are fixed. What fails such a test is wrong; what
 * has none is believed unless its bytes lie in a page of 4 KiB in which something was wrong, which is
 * what a torn or bad sector looks like.
 */

import {
  type BlockBytes,
  itemFlags,
  itemKey,
  itemVal,
  itemValLen,
  itemValOff,
} from "../../../format/btree_block.ts";
import {
  DATA_DEV_START_BLKNO,
  DT_WHT,
  SEF_OFFLINE,
  SEF_UNWRITTEN,
  SM_SIZE,
  TYPE_DATA_EXTENT,
  TYPE_DIRENT,
  TYPE_INODE,
  TYPE_LINK_BACKREF,
  TYPE_READDIR,
  TYPE_XATTR,
  ZONE_FS,
  ZONE_QUOTA,
} from "../../../format/constants.ts";
import { direntHash, fnv1a64, xattrNameHash } from "../../../format/hash.ts";
import { Dirent, Inode, Xattr } from "../../../format/items.ts";
import type { Key } from "../../../format/key.ts";
import { isZero, rawU64, viewOf } from "../raw.ts";

type Verdict = "right" | "unsure" | "wrong";

/** Offsets in an inode's value of le64 numbers, and of nanoseconds. */
const INODE_NUMBERS = [0, 8, 16, 24, 32, 40, 48, 56];
const INODE_NSECS = [104, 120, 136, 152];
const MODES = new Set([0o010000, 0o020000, 0o040000, 0o060000, 0o100000, 0o120000, 0o140000]);

/** Items (by offset) among `order` that can be believed; the rest is dropped. */
export function believableItems(
  b: BlockBytes,
  order: Uint16Array,
  nr: number,
  dataBlocks: number,
): Set<number> {
  const verdicts = new Map<number, Verdict>(), wrongPages = new Set<number>();
  for (let i = 0; i < nr; i++) {
    const item = order[i] as number;
    const verdict = judge(itemKey(b, item), itemVal(b, item), itemFlags(b, item), dataBlocks);
    verdicts.set(item, verdict);
    if (verdict === "wrong") { for (const page of pagesOf(b, item)) wrongPages.add(page); }
  }
  const believed = new Set<number>();
  for (const [item, verdict] of verdicts) {
    const torn = verdict === "unsure" && pagesOf(b, item).some((page) => wrongPages.has(page));
    if (verdict !== "wrong" && !torn) believed.add(item);
  }
  return believed;
}

/** Pages of the block in which an item's value lies. */
function pagesOf(b: BlockBytes, item: number): number[] {
  const len = itemValLen(b, item), off = itemValOff(b, item);
  if (len === 0) return [];
  const first = Math.floor(off / SM_SIZE), last = Math.floor((off + len - 1) / SM_SIZE);
  return first === last ? [first] : [first, last];
}

function judge(key: Key, val: Uint8Array, flags: number, dataBlocks: number): Verdict {
  if (val.length === 0) return flags === 0 && key.zone === ZONE_FS ? "wrong" : "right";
  if (key.zone === ZONE_QUOTA) return fnv1a64(val) === key.secondBig ? "right" : "wrong";
  if (key.zone !== ZONE_FS) return "unsure";
  switch (key.type) {
    case TYPE_INODE:
      return inode(val) ? "right" : "wrong";
    case TYPE_DIRENT:
    case TYPE_READDIR:
    case TYPE_LINK_BACKREF:
      return entry(key, val) ? "right" : "wrong";
    case TYPE_XATTR:
      return key.fourth !== 0 ? "unsure" : xattr(key, val);
    case TYPE_DATA_EXTENT:
      return extent(key, val, dataBlocks) ? "right" : "wrong";
    default:
      return "unsure";
  }
}

function inode(val: Uint8Array): boolean {
  if (val.length !== Inode.SIZE && val.length !== Inode.V1_SIZE) return false;
  const v = viewOf(val), { mode } = new Inode(v);
  return INODE_NUMBERS.every((at) => v.getUint32(at + 4, true) < 0x8000_0000) &&
    INODE_NSECS.every((at) => v.getUint32(at, true) < 1e9) &&
    mode < 0o200000 && MODES.has(mode & 0o170000);
}

function entry(key: Key, val: Uint8Array): boolean {
  if (val.length <= Dirent.SIZE) return false;
  const v = viewOf(val), { hi, lo } = direntHash(val, Dirent.SIZE);
  if (v.getUint32(8, true) !== lo || v.getUint32(12, true) !== hi) return false;
  if (val[24] as number > DT_WHT || !isZero(val, 25, 7)) return false;
  return key.type !== TYPE_DIRENT || key.secondLo === lo && key.secondHi === hi;
}

function xattr(key: Key, val: Uint8Array): Verdict {
  if (val.length < Xattr.SIZE + 1) return "wrong";
  const { nameLen } = Xattr.at(val);
  if (nameLen === 0 || Xattr.SIZE + nameLen > val.length) return "wrong";
  const name = val.subarray(Xattr.SIZE, Xattr.SIZE + nameLen);
  if (xattrNameHash(name) !== Number(key.secondBig)) return "wrong";
  // The name is right; its value may reach into a page that is not.
  return val.length === Xattr.SIZE + nameLen ? "right" : "unsure";
}

function extent(key: Key, val: Uint8Array, dataBlocks: number): boolean {
  if (val.length !== 16 || !isZero(val, 9, 7)) return false;
  if (((val[8] as number) & ~(SEF_OFFLINE | SEF_UNWRITTEN)) !== 0) return false;
  const blkno = rawU64(viewOf(val), 0), len = Number(key.thirdBig);
  if (blkno === 0) return ((val[8] as number) & SEF_OFFLINE) !== 0;
  return blkno >= DATA_DEV_START_BLKNO && blkno + len <= dataBlocks;
}
