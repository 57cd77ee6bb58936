/**
 * Transactions of clients: GET_LOG_TREES, COMMIT_LOG_TREES and the retirement of a log tree
 * (03 §15.2, §15.3, §16.3, §20.2).
 *
 * The value of an existing log_trees item is changed in place, in a leaf made writable first: from
 * then on every prefix of a handler's changes is a consistent item. A client gets blocks from its
 * item only by the answer, which waits for the commit; so the server may move blocks in and out of
 * a closed item freely, in as many commits as it takes, and opens the transaction in the last one.
 *
 * Finalizing all trees to start a merge (§16.2) belongs at the head of `getLogTrees`; a server that
 * starts no merges may leave it out (§28 point 6), and this one does not start any yet.
 */

import { FormatError } from "../format/bytes.ts";
import { ALLOC_FLAG_LOW, LOG_TREES_FINALIZED, SRCH_LOG_BLOCK_LIMIT } from "../format/constants.ts";
import { EINVAL, EIO, ENOENT } from "../format/errno.ts";
import type { Key } from "../format/key.ts";
import { LogTrees, logTreesKey } from "../format/log_trees.ts";
import { srchLogKey } from "../format/srch.ts";
import { dirtyItem, insert, lookup } from "../fs/btree.ts";
import { FsError } from "../fs/errors.ts";
import { exactly, type Step, type StoreCore } from "./store_core.ts";
import { dataZonesFor, recordDataZones } from "./store_zones.ts";

/** GET_LOG_TREES: answers with the item of `rid`'s open transaction, opening one if necessary. */
export function getLogTrees(core: StoreCore, rid: bigint, answer: LogTrees): Step {
  return () => {
    const lt = openableLogTrees(core, rid);
    if (!lt.isOpen) {
      if (!refill(core, lt)) return false;
      lt.getTransSeq = core.counterNext();
    }
    answer.copyFrom(lt);
    return true;
  };
}

/** The writable item of `rid`'s next transaction: its newest, or a new one if that is finalized. */
function openableLogTrees(core: StoreCore, rid: bigint): LogTrees {
  const newest = core.newestLogTrees(rid);
  if (newest !== null && !newest.lt.isFinalized) {
    if (newest.lt.getTransSeq < newest.lt.commitTransSeq) {
      throw new FsError(EINVAL, `log trees ${newest.key}: committed beyond what was opened`);
    }
    return writableLogTrees(core, newest.key);
  }
  const fresh = LogTrees.alloc();
  fresh.rid = rid;
  fresh.nr = newest === null ? 1 : newest.lt.nr + 1;
  const key = logTreesKey(rid, fresh.nr);
  insert(core.tree, core.dirty.logsRoot, key, fresh.bytes);
  return writableLogTrees(core, key);
}

/** The item's live value, in a leaf that belongs to this transaction. */
export function writableLogTrees(core: StoreCore, key: Key): LogTrees {
  return LogTrees.at(
    exactly(dirtyItem(core.tree, core.dirty.logsRoot, key).val, LogTrees.SIZE, key),
  );
}

/**
 * Takes back what the client freed and gives it what it may use. False: continue after a commit.
 */
function refill(core: StoreCore, lt: LogTrees): boolean {
  const { dirty } = core;
  core.takeFreed(lt.metaAvail, lt.metaFreed);
  if (!core.moveExtents(dirty.dataAlloc, lt.dataFreed, lt.dataFreed.totalLen)) return false;
  core.refillClientList(lt.metaAvail);
  setLow(lt.metaAvail, core.metaAvail.totalLen <= core.metaPolicy.reserved);
  const { low, target } = core.dataPolicy;
  if (lt.dataAvail.totalLen < low) {
    const want = Math.min(target - lt.dataAvail.totalLen, dirty.dataAlloc.totalLen);
    const zones = dataZonesFor(core, lt.rid);
    if (!core.moveExtents(lt.dataAvail, dirty.dataAlloc, want, zones)) return false;
  }
  setLow(lt.dataAvail, lt.dataAvail.totalLen < low);
  recordDataZones(core, lt);
  return true;
}

function setLow(allocator: { flags: number }, low: boolean): void {
  const flags = low ? allocator.flags | ALLOC_FLAG_LOW : allocator.flags & ~ALLOC_FLAG_LOW;
  if (flags !== allocator.flags) allocator.flags = flags;
}

/** COMMIT_LOG_TREES with the client's value `sent`, which the caller no longer changes. */
export function commitLogTrees(core: StoreCore, rid: bigint, sent: LogTrees): Step {
  return () => {
    if (sent.rid !== rid) throw new FsError(EIO, "a log tree of another mount was committed");
    const key = logTreesKey(rid, sent.nr);
    const found = lookup(core.readTree, core.dirty.logsRoot, key);
    if (found === null) throw new FsError(ENOENT, `no log trees ${key}`);
    const item = LogTrees.at(exactly(found.val, LogTrees.SIZE, key));
    if (item.getTransSeq !== sent.getTransSeq) {
      throw new FsError(EIO, `log trees ${key}: commit of another transaction`);
    }
    if (item.isFinalized) throw new FsError(EIO, `log trees ${key} are finalized`); // T17
    // Resent. It waits for the commit all the same: what was found may be dirty only.
    if (item.commitTransSeq === sent.getTransSeq) return true;
    if (sent.flags !== item.flags) {
      throw new FsError(EINVAL, `log trees ${key}: flags were changed`);
    }
    const lt = writableLogTrees(core, key);
    if (sent.srchFile.blocks >= SRCH_LOG_BLOCK_LIMIT) rotateSrch(core, sent);
    lt.copyFrom(sent);
    lt.commitTransSeq = sent.getTransSeq;
    return true;
  };
}

/**
 * Refuses numbers that no volume can have (EINVAL): stored, they would stop every later reader of
 * the tree. The roots and lists themselves are the client's business (03 §15.3).
 */
export function checkNumbers(sent: LogTrees): void {
  const numbers = (): number =>
    sent.metaAvail.totalNr + sent.metaFreed.totalNr + sent.dataAvail.totalLen +
    sent.dataFreed.totalLen + sent.srchFile.blocks + sent.srchFile.entries + sent.nr +
    sent.dataAllocZoneBlocks + sent.inodeCountDelta + sent.getTransSeq + sent.commitTransSeq +
    sent.maxItemSeq + sent.finalizeSeq + sent.flags;
  try {
    numbers();
  } catch (e) {
    if (e instanceof FormatError) throw new FsError(EINVAL, `committed log trees: ${e.message}`);
    throw e;
  }
}

/** Makes the tree's srch file a LOG item and the field empty (03 §20.2). */
function rotateSrch(core: StoreCore, lt: LogTrees): void {
  const file = lt.srchFile;
  if (file.blocks === 0) return;
  insert(core.tree, core.dirty.srchRoot, srchLogKey(file.ref.blkno), file.bytes);
  file.zero();
}

/**
 * Takes everything back from the newest log tree of a `rid` that will not write any more and
 * finalizes it; items and bloom stay until they are merged (03 §23 step 2). False: continue
 * after a commit.
 */
export function retireLogTrees(core: StoreCore, rid: bigint): boolean {
  const newest = core.newestLogTrees(rid);
  if (newest === null || newest.lt.isFinalized) return true;
  const lt = writableLogTrees(core, newest.key);
  const { dataAlloc } = core.dirty;
  rotateSrch(core, lt);
  core.splice(lt.metaFreed);
  core.splice(lt.metaAvail);
  if (!core.moveExtents(dataAlloc, lt.dataAvail, lt.dataAvail.totalLen)) return false;
  if (!core.moveExtents(dataAlloc, lt.dataFreed, lt.dataFreed.totalLen)) return false;
  lt.dataAvail.flags = 0;
  lt.dataFreed.flags = 0;
  lt.dataAllocZoneBlocks = 0;
  lt.dataAllocZones.fill(0);
  lt.commitTransSeq = lt.getTransSeq;
  lt.flags |= LOG_TREES_FINALIZED;
  lt.finalizeSeq = core.counterNext();
  return true;
}
