/** Keys of filesystem items and of search items (01 §7.4), in the order of their zones and types. */

import {
  TYPE_DATA_EXTENT,
  TYPE_DIRENT,
  TYPE_INODE,
  TYPE_INODE_INDEX_DATA_SEQ,
  TYPE_INODE_INDEX_META_SEQ,
  TYPE_LINK_BACKREF,
  TYPE_ORPHAN,
  TYPE_QUOTA_RULE,
  TYPE_READDIR,
  TYPE_SYMLINK,
  TYPE_XATTR,
  ZONE_FS,
  ZONE_INODE_INDEX,
  ZONE_ORPHAN,
  ZONE_QUOTA,
  ZONE_XATTR_INDX,
  ZONE_XATTR_TOTL,
} from "./constants.ts";
import { type Words } from "./hash.ts";
import { Key } from "./key.ts";

const TWO32 = 0x1_0000_0000;

/** Position of `ino` in the metadata sequence index. */
export const metaSeqKey = (seq: number, ino: number): Key =>
  Key.of(ZONE_INODE_INDEX, 0, TYPE_INODE_INDEX_META_SEQ, seq, ino);

/** Position of `ino` in the data sequence index. */
export const dataSeqKey = (seq: number, ino: number): Key =>
  Key.of(ZONE_INODE_INDEX, 0, TYPE_INODE_INDEX_DATA_SEQ, seq, ino);

export const orphanKey = (ino: number): Key => Key.of(ZONE_ORPHAN, 0, TYPE_ORPHAN, ino);

/** Quota rule of that hash; `nr` counts up among rules that share it. */
export const quotaRuleKey = (hash: bigint, nr: number): Key =>
  Key.of(ZONE_QUOTA, 0, TYPE_QUOTA_RULE, hash, nr);

/** Total named a.b.c. */
export const xattrTotlKey = (a: bigint, b: bigint, c: bigint): Key =>
  Key.of(ZONE_XATTR_TOTL, a, 0, b, c);

/** The 200-bit number major:minor:ino:xid laid over the key (01 §15.11). */
export function xattrIndxKey(
  major: number,
  minor: bigint,
  ino: number | bigint,
  xid: number | bigint,
): Key {
  const inoBig = BigInt(ino), xidBig = BigInt(xid);
  return Key.of(
    ZONE_XATTR_INDX,
    BigInt(major) << 56n | minor >> 8n,
    0,
    (minor & 0xffn) << 56n | inoBig >> 8n,
    (inoBig & 0xffn) << 56n | xidBig >> 8n,
    Number(xidBig & 0xffn),
  );
}

export function decodeXattrIndxKey(
  key: Key,
): { major: number; minor: bigint; ino: bigint; xid: bigint } {
  const { firstBig: first, secondBig: second, thirdBig: third } = key;
  return {
    major: Number(first >> 56n),
    minor: BigInt.asUintN(64, first << 8n) | second >> 56n,
    ino: BigInt.asUintN(64, second << 8n) | third >> 56n,
    xid: BigInt.asUintN(64, third << 8n) | BigInt(key.fourth),
  };
}

export const inodeKey = (ino: number): Key => Key.of(ZONE_FS, ino, TYPE_INODE);

/** Part `part` of the xattr with that name hash and id. */
export const xattrKey = (ino: number, hash: number, id: number, part: number): Key =>
  Key.of(ZONE_FS, ino, TYPE_XATTR, hash, id, part);

/** Entry of directory `dir` whose name has that hash, at position `pos`. */
export const direntKey = (dir: number, hash: Words, pos: number): Key =>
  Key.words(
    ZONE_FS,
    Math.floor(dir / TWO32),
    dir >>> 0,
    TYPE_DIRENT,
    hash.hi,
    hash.lo,
    Math.floor(pos / TWO32),
    pos >>> 0,
    0,
  );

export const readdirKey = (dir: number, pos: number): Key =>
  Key.of(ZONE_FS, dir, TYPE_READDIR, pos);

/** Link of `ino` in directory `dir` at position `pos`. */
export const backrefKey = (ino: number, dir: number, pos: number): Key =>
  Key.of(ZONE_FS, ino, TYPE_LINK_BACKREF, dir, pos);

/** Part `nr` of a symlink's target. */
export const symlinkKey = (ino: number, nr: number): Key => Key.of(ZONE_FS, ino, TYPE_SYMLINK, nr);

/** Data extent of `len` logical blocks that ends with block `end`. */
export const extentKey = (ino: number, end: number, len: number): Key =>
  Key.of(ZONE_FS, ino, TYPE_DATA_EXTENT, end, len);

/** The first position a search for the extent containing or following logical block `iblock` starts at. */
export const extentSearchKey = (ino: number, iblock: number): Key => extentKey(ino, iblock, 1);

/** The greatest key that an item of inode `ino` and of that type can have. */
export const lastInodeKey = (ino: number, type: number): Key =>
  Key.words(
    ZONE_FS,
    Math.floor(ino / TWO32),
    ino >>> 0,
    type,
    0xffff_ffff,
    0xffff_ffff,
    0xffff_ffff,
    0xffff_ffff,
    255,
  );
