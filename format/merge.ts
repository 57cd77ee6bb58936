/** Items of the `log_merge` tree (01 §13.4) and their keys. */

import { AllocListHead } from "./alloc.ts";
import { BtreeRoot } from "./btree.ts";
import { checkSize, getU64, setU64, View } from "./bytes.ts";
import {
  ZONE_LOG_MERGE_COMPLETE,
  ZONE_LOG_MERGE_FREEING,
  ZONE_LOG_MERGE_RANGE,
  ZONE_LOG_MERGE_REQUEST,
  ZONE_LOG_MERGE_STATUS,
} from "./constants.ts";
import { Key } from "./key.ts";

/**
 * The merge in progress (01 §13.4), 56 bytes.
 *
 *      0 key              next_range_key
 *     32 le64             nr_requests
 *     40 le64             nr_complete
 *     48 le64             seq
 */
export class LogMergeStatus extends View {
  static readonly SIZE = 56;
  /** Next position to hand out; zeros = from the start. */
  get nextRangeKey(): Key {
    return Key.read(this.v, this.o);
  }
  set nextRangeKey(k: Key) {
    k.write(this.v, this.o);
  }
  /** Outstanding REQUEST items. */
  get nrRequests(): number {
    return getU64(this.v, this.o + 32);
  }
  set nrRequests(n: number) {
    setU64(this.v, this.o + 32, n);
  }
  /** COMPLETE items to splice; forced to ≥ 8 while splicing. */
  get nrComplete(): number {
    return getU64(this.v, this.o + 40);
  }
  set nrComplete(n: number) {
    setU64(this.v, this.o + 40, n);
  }
  /** Merge seq: inputs are finalized trees with finalize_seq < seq. */
  get seq(): number {
    return getU64(this.v, this.o + 48);
  }
  set seq(n: number) {
    setU64(this.v, this.o + 48, n);
  }
}
checkSize(LogMergeStatus.SIZE, 32 + 8 + 8 + 8, "LogMergeStatus");

/**
 * A key range that is still to be merged (01 §13.4), 64 bytes.
 *
 *      0 key              start
 *     32 key              end
 */
export class LogMergeRange extends View {
  static readonly SIZE = 64;
  /** First key not yet requested. */
  get start(): Key {
    return Key.read(this.v, this.o);
  }
  set start(k: Key) {
    k.write(this.v, this.o);
  }
  /** Last key, inclusive. */
  get end(): Key {
    return Key.read(this.v, this.o + 32);
  }
  set end(k: Key) {
    k.write(this.v, this.o + 32);
  }
}
checkSize(LogMergeRange.SIZE, 32 + 32, "LogMergeRange");

/**
 * Work handed to a client (01 §13.4), 208 bytes.
 *
 *      0 alloc_list_head  meta_avail
 *     32 alloc_list_head  meta_freed
 *     64 btree_root       logs_root
 *     88 btree_root       root
 *    112 key              start
 *    144 key              end
 *    176 le64             input_seq
 *    184 le64             rid
 *    192 le64             seq
 *    200 le64             flags
 */
export class LogMergeRequest extends View {
  static readonly SIZE = 208;
  get metaAvail(): AllocListHead {
    return new AllocListHead(this.v, this.o);
  }
  get metaFreed(): AllocListHead {
    return new AllocListHead(this.v, this.o + 32);
  }
  /** Snapshot of logs_root when issued; may reference blocks reused since. */
  get logsRoot(): BtreeRoot {
    return new BtreeRoot(this.v, this.o + 64);
  }
  /** Subtree of fs_root to merge into. */
  get root(): BtreeRoot {
    return new BtreeRoot(this.v, this.o + 88);
  }
  get start(): Key {
    return Key.read(this.v, this.o + 112);
  }
  set start(k: Key) {
    k.write(this.v, this.o + 112);
  }
  /** Inclusive. */
  get end(): Key {
    return Key.read(this.v, this.o + 144);
  }
  set end(k: Key) {
    k.write(this.v, this.o + 144);
  }
  /** The status item's seq. */
  get inputSeq(): number {
    return getU64(this.v, this.o + 176);
  }
  set inputSeq(n: number) {
    setU64(this.v, this.o + 176, n);
  }
  get rid(): bigint {
    return this.v.getBigUint64(this.o + 184, true);
  }
  set rid(n: bigint) {
    this.v.setBigUint64(this.o + 184, n, true);
  }
  get ridLo(): number {
    return this.v.getUint32(this.o + 184, true);
  }
  set ridLo(n: number) {
    this.v.setUint32(this.o + 184, n, true);
  }
  get ridHi(): number {
    return this.v.getUint32(this.o + 188, true);
  }
  set ridHi(n: number) {
    this.v.setUint32(this.o + 188, n, true);
  }
  get seq(): number {
    return getU64(this.v, this.o + 192);
  }
  set seq(n: number) {
    setU64(this.v, this.o + 192, n);
  }
  /** Bit 0 = SUBTREE: root is one of several last-level parents of fs_root. */
  get flags(): number {
    return getU64(this.v, this.o + 200);
  }
  set flags(n: number) {
    setU64(this.v, this.o + 200, n);
  }
}
checkSize(LogMergeRequest.SIZE, 32 + 32 + 24 + 24 + 32 + 32 + 8 + 8 + 8 + 8, "LogMergeRequest");

/**
 * Work a client has done (01 §13.4), 208 bytes.
 *
 *      0 alloc_list_head  meta_avail
 *     32 alloc_list_head  meta_freed
 *     64 btree_root       root
 *     88 key              start
 *    120 key              end
 *    152 key              remain
 *    184 le64             rid
 *    192 le64             seq
 *    200 le64             flags
 */
export class LogMergeComplete extends View {
  static readonly SIZE = 208;
  /** Both heads are zeroed once the result has been spliced. */
  get metaAvail(): AllocListHead {
    return new AllocListHead(this.v, this.o);
  }
  /** Until spliced its entries are still referenced by fs_root. */
  get metaFreed(): AllocListHead {
    return new AllocListHead(this.v, this.o + 32);
  }
  /** Replacement subtree; can be higher than the request's `root` if that was the whole tree. */
  get root(): BtreeRoot {
    return new BtreeRoot(this.v, this.o + 64);
  }
  get start(): Key {
    return Key.read(this.v, this.o + 88);
  }
  set start(k: Key) {
    k.write(this.v, this.o + 88);
  }
  get end(): Key {
    return Key.read(this.v, this.o + 120);
  }
  set end(k: Key) {
    k.write(this.v, this.o + 120);
  }
  /** Next unmerged key if flag REMAIN, else equal to `end`. */
  get remain(): Key {
    return Key.read(this.v, this.o + 152);
  }
  set remain(k: Key) {
    k.write(this.v, this.o + 152);
  }
  get rid(): bigint {
    return this.v.getBigUint64(this.o + 184, true);
  }
  set rid(n: bigint) {
    this.v.setBigUint64(this.o + 184, n, true);
  }
  get ridLo(): number {
    return this.v.getUint32(this.o + 184, true);
  }
  set ridLo(n: number) {
    this.v.setUint32(this.o + 184, n, true);
  }
  get ridHi(): number {
    return this.v.getUint32(this.o + 188, true);
  }
  set ridHi(n: number) {
    this.v.setUint32(this.o + 188, n, true);
  }
  /** Equals the request's. */
  get seq(): number {
    return getU64(this.v, this.o + 192);
  }
  set seq(n: number) {
    setU64(this.v, this.o + 192, n);
  }
  /** Bit 0 = ERROR (never stored), bit 1 = REMAIN. */
  get flags(): number {
    return getU64(this.v, this.o + 200);
  }
  set flags(n: number) {
    setU64(this.v, this.o + 200, n);
  }
}
checkSize(LogMergeComplete.SIZE, 32 + 32 + 24 + 32 + 32 + 32 + 8 + 8 + 8, "LogMergeComplete");

/**
 * A merged log tree whose blocks are being freed (01 §13.4), 64 bytes.
 *
 *      0 btree_root       root
 *     24 key              key
 *     56 le64             seq
 */
export class LogMergeFreeing extends View {
  static readonly SIZE = 64;
  /** Log item tree whose blocks are being freed. */
  get root(): BtreeRoot {
    return new BtreeRoot(this.v, this.o);
  }
  /** Progress: everything reachable only below this key is already freed. */
  get key(): Key {
    return Key.read(this.v, this.o + 24);
  }
  set key(k: Key) {
    k.write(this.v, this.o + 24);
  }
  /** Unique. */
  get seq(): number {
    return getU64(this.v, this.o + 56);
  }
  set seq(n: number) {
    setU64(this.v, this.o + 56, n);
  }
}
checkSize(LogMergeFreeing.SIZE, 24 + 32 + 8, "LogMergeFreeing");

export const LOG_MERGE_STATUS_KEY = Key.of(ZONE_LOG_MERGE_STATUS, 0, 0);

/** Key of the range item of `start`: the zone is replaced, so ranges do not sort by start. */
export function logMergeRangeKey(start: Key): Key {
  return Key.words(
    ZONE_LOG_MERGE_RANGE,
    start.firstHi,
    start.firstLo,
    start.type,
    start.secondHi,
    start.secondLo,
    start.thirdHi,
    start.thirdLo,
    start.fourth,
  );
}

export const logMergeRequestKey = (rid: bigint, seq: number): Key =>
  Key.of(ZONE_LOG_MERGE_REQUEST, rid, 0, seq);
export const logMergeCompleteKey = (seq: number): Key => Key.of(ZONE_LOG_MERGE_COMPLETE, seq, 0);
export const logMergeFreeingKey = (seq: number): Key => Key.of(ZONE_LOG_MERGE_FREEING, seq, 0);
