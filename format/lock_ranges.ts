/**
 * The key ranges of cluster locks (04 §20.2), and which lock covers an item (01 §12.3): its start
 * key names the lock on the wire and sets the bloom bits.
 */

import {
  INODE_GROUP_SIZE,
  TYPE_INODE_INDEX_DATA_SEQ,
  TYPE_INODE_INDEX_META_SEQ,
  TYPE_ORPHAN,
  TYPE_RENAME,
  ZONE_FS,
  ZONE_INODE_INDEX,
  ZONE_LOCK,
  ZONE_ORPHAN,
  ZONE_QUOTA,
  ZONE_XATTR_INDX,
  ZONE_XATTR_TOTL,
} from "./constants.ts";
import { Key } from "./key.ts";

/** Inclusive key range of a lock. */
export interface LockRange {
  readonly start: Key;
  readonly end: Key;
}

const U32_MAX = 0xffff_ffff;
const U64_MAX = 0xffff_ffff_ffff_ffffn;

/** First of the 1024 numbers that share a lock with `n`. */
export const groupStart = (n: number): number => n - n % INODE_GROUP_SIZE;

const wholeZone = (zone: number): LockRange => ({
  start: Key.of(zone, 0, 0),
  end: Key.words(zone, U32_MAX, U32_MAX, 255, U32_MAX, U32_MAX, U32_MAX, U32_MAX, 255),
});

/** All items of the 1024 inodes of `ino`'s group. */
export function inodeLockRange(ino: number): LockRange {
  const first = groupStart(ino);
  return {
    start: Key.of(ZONE_FS, first, 0),
    end: Key.of(ZONE_FS, first + INODE_GROUP_SIZE - 1, 255, U64_MAX, U64_MAX, 255),
  };
}

/** Index items of 1024 sequence numbers; `type` is that of the index (4 meta_seq, 8 data_seq). */
export function indexLockRange(type: number, seq: number): LockRange {
  const first = groupStart(seq);
  return {
    start: Key.of(ZONE_INODE_INDEX, 0, type, first),
    end: Key.of(ZONE_INODE_INDEX, 0, type, first + INODE_GROUP_SIZE - 1, U64_MAX),
  };
}

export const ORPHAN_LOCK_RANGE: LockRange = {
  start: Key.of(ZONE_ORPHAN, 0, TYPE_ORPHAN),
  end: Key.of(ZONE_ORPHAN, 0, TYPE_ORPHAN, U64_MAX),
};
export const QUOTA_LOCK_RANGE: LockRange = wholeZone(ZONE_QUOTA);
export const TOTL_LOCK_RANGE: LockRange = wholeZone(ZONE_XATTR_TOTL);
export const INDX_LOCK_RANGE: LockRange = wholeZone(ZONE_XATTR_INDX);
/** Covers no items; serialises renames across directories. */
export const RENAME_LOCK_RANGE: LockRange = {
  start: Key.of(ZONE_LOCK, 0, TYPE_RENAME),
  end: Key.of(ZONE_LOCK, 0, TYPE_RENAME),
};

/** The range of the lock that covers the item `key`; undefined when no lock does. */
export function lockRangeOfItem(key: Key): LockRange | undefined {
  switch (key.zone) {
    case ZONE_FS:
      return inodeLockRange(key.first);
    case ZONE_INODE_INDEX:
      return key.type === TYPE_INODE_INDEX_META_SEQ || key.type === TYPE_INODE_INDEX_DATA_SEQ
        ? indexLockRange(key.type, key.second)
        : undefined;
    case ZONE_ORPHAN:
      return ORPHAN_LOCK_RANGE;
    case ZONE_QUOTA:
      return QUOTA_LOCK_RANGE;
    case ZONE_XATTR_TOTL:
      return TOTL_LOCK_RANGE;
    case ZONE_XATTR_INDX:
      return INDX_LOCK_RANGE;
    default:
      return undefined;
  }
}
