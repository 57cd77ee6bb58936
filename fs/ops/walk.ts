/**
 * Walking the inode indexes (02 §4.4): which inodes changed since a sequence number.
 *
 * Guarantee: nothing is returned above the stable cutoff, the greatest sequence number at or below
 * which no mount has an open transaction; so what was walked once never grows behind the walker.
 */

import {
  TYPE_INODE_INDEX_DATA_SEQ,
  TYPE_INODE_INDEX_META_SEQ,
  ZONE_INODE_INDEX,
} from "../../format/constants.ts";
import { indexLockRange } from "../../format/items.ts";
import { Key } from "../../format/key.ts";
import { CMD_GET_LAST_SEQ, LOCK_READ, NetU64 } from "../../format/wire.ts";
import { EINVAL } from "../../format/errno.ts";
import { errnoError, StaleError } from "../errors.ts";
import { nextKeyHint } from "../forest.ts";
import type { Fs } from "../fs.ts";
import type { Op } from "../op.ts";

/** Index numbers of the interface (05 §9.1). */
export const WALK_META_SEQ = 0;
export const WALK_DATA_SEQ = 1;

/** A position in an index; either number may be as large as 2^64−1 in a request. */
export interface IndexPosition {
  seq: number | bigint;
  ino: number | bigint;
}

/** One inode of an index. */
export interface IndexEntry {
  seq: number;
  ino: number;
}

const U64_MAX = 0xffff_ffff_ffff_ffffn;

/** The greatest sequence number at which no mount has an open transaction. */
export async function stableSeq(fs: Fs): Promise<number> {
  return NetU64.at(await fs.link.request(CMD_GET_LAST_SEQ, new Uint8Array(0))).value;
}

/**
 * The entries of an index from `first` to `last`, inclusive, at most `max`. EINVAL for an unknown
 * index. An error after some entries were found returns those.
 */
export async function walkInodes(
  fs: Fs,
  index: number,
  first: IndexPosition,
  last: IndexPosition,
  max: number,
): Promise<IndexEntry[]> {
  if (index !== WALK_META_SEQ && index !== WALK_DATA_SEQ) throw errnoError(EINVAL);
  const type = index === WALK_META_SEQ ? TYPE_INODE_INDEX_META_SEQ : TYPE_INODE_INDEX_DATA_SEQ;
  const cutoff = await stableSeq(fs);
  const end = BigInt(last.seq) > BigInt(cutoff)
    ? Key.of(ZONE_INODE_INDEX, 0, type, cutoff, U64_MAX)
    : Key.of(ZONE_INODE_INDEX, 0, type, last.seq, last.ino);
  const found: IndexEntry[] = [];
  let key: Key | null = Key.of(ZONE_INODE_INDEX, 0, type, first.seq, first.ino);
  try {
    while (key !== null && key.compare(end) <= 0 && found.length < max) {
      const from: Key = key;
      const groupEnd = indexLockRange(type, from.second).end;
      const stop = groupEnd.compare(end) < 0 ? groupEnd : end;
      found.push(
        ...await fs.runner.run((op) => walkGroup(op, fs, type, from, stop, max - found.length)),
      );
      key = groupEnd.compare(end) < 0 && found.length < max
        ? await nextKey(fs, groupEnd.inc())
        : null;
    }
  } catch (e) {
    if (found.length === 0) throw e;
  }
  return found;
}

/** The entries of one lock's range. */
function walkGroup(op: Op, fs: Fs, type: number, from: Key, stop: Key, max: number): IndexEntry[] {
  const lock = fs.locks.index(type, from.second);
  op.lock(lock, LOCK_READ);
  const found: IndexEntry[] = [];
  for (let key = from; found.length < max;) {
    const item = fs.items.next(op, lock, key, stop);
    if (item === null) break;
    found.push({ seq: item.key.second, ino: item.key.third });
    key = item.key.inc();
  }
  return found;
}

/** Newer roots are asked for at most so often: each failure means that somebody committed. */
const STALE_RETRIES = 10;

/** The first key that any committed tree has at or after `key`, deleted items included. */
async function nextKey(fs: Fs, key: Key): Promise<Key | null> {
  for (let tries = 1;; tries++) {
    const roots = await fs.roots.fresh();
    try {
      return nextKeyHint(fs.cache, roots, key);
    } catch (e) {
      if (!(e instanceof StaleError)) throw e;
      if (tries === STALE_RETRIES) throw e.asDamage;
    }
  }
}
