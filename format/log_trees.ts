/** The value of a `logs_root` item: one mount's log tree with its allocators (01 §13.1). */

import { AllocListHead, AllocRoot } from "./alloc.ts";
import { BlockRef } from "./block.ts";
import { BtreeRoot } from "./btree.ts";
import { checkSize, getI64, getU64, setI64, setU64, View } from "./bytes.ts";
import { LOG_TREES_FINALIZED, ZONE_LOG_TREES } from "./constants.ts";
import { Key } from "./key.ts";
import { SrchFile } from "./srch.ts";

/**
 * A mount's log trees item (01 §13.1), 472 bytes.
 *
 *      0 alloc_list_head  meta_avail
 *     32 alloc_list_head  meta_freed
 *     64 btree_root       item_root
 *     88 block_ref        bloom_ref
 *    104 alloc_root       data_avail
 *    144 alloc_root       data_freed
 *    184 srch_file        srch_file
 *    272 le64             data_alloc_zone_blocks
 *    280 le64[16]         data_alloc_zones
 *    408 le64             inode_count_delta
 *    416 le64             get_trans_seq
 *    424 le64             commit_trans_seq
 *    432 le64             max_item_seq
 *    440 le64             finalize_seq
 *    448 le64             rid
 *    456 le64             nr
 *    464 le64             flags
 */
export class LogTrees extends View {
  static readonly SIZE = 472;
  /** Blocks the mount's transaction allocates from. */
  get metaAvail(): AllocListHead {
    return new AllocListHead(this.v, this.o);
  }
  /** Blocks the mount's committed transaction freed. */
  get metaFreed(): AllocListHead {
    return new AllocListHead(this.v, this.o + 32);
  }
  /** Log item tree. */
  get itemRoot(): BtreeRoot {
    return new BtreeRoot(this.v, this.o + 64);
  }
  /** Bloom block, zero if there is none (01 §12.3). */
  get bloomRef(): BlockRef {
    return new BlockRef(this.v, this.o + 88);
  }
  /** Data blocks the mount may allocate. */
  get dataAvail(): AllocRoot {
    return new AllocRoot(this.v, this.o + 104);
  }
  /** Data blocks freed by committed transactions. */
  get dataFreed(): AllocRoot {
    return new AllocRoot(this.v, this.o + 144);
  }
  /** Search log being appended to (01 §14). */
  get srchFile(): SrchFile {
    return new SrchFile(this.v, this.o + 184);
  }
  /** Size of the zones that `dataAllocZones` speaks of, 0 without (01 §11.6). */
  get dataAllocZoneBlocks(): number {
    return getU64(this.v, this.o + 272);
  }
  set dataAllocZoneBlocks(n: number) {
    setU64(this.v, this.o + 272, n);
  }
  /** Bitmap of 1024 data zones. */
  get dataAllocZones(): Uint8Array {
    return new Uint8Array(this.v.buffer, this.v.byteOffset + this.o + 280, 128);
  }
  /** Inodes created minus deleted by items of this tree. */
  get inodeCountDelta(): number {
    return getI64(this.v, this.o + 408);
  }
  set inodeCountDelta(n: number) {
    setI64(this.v, this.o + 408, n);
  }
  /** Seq given when the transaction was opened. */
  get getTransSeq(): number {
    return getU64(this.v, this.o + 416);
  }
  set getTransSeq(n: number) {
    setU64(this.v, this.o + 416, n);
  }
  /** Seq of the last committed transaction; ≤ get_trans_seq. */
  get commitTransSeq(): number {
    return getU64(this.v, this.o + 424);
  }
  set commitTransSeq(n: number) {
    setU64(this.v, this.o + 424, n);
  }
  /** Greatest item seq in the most recent commit. */
  get maxItemSeq(): number {
    return getU64(this.v, this.o + 432);
  }
  set maxItemSeq(n: number) {
    setU64(this.v, this.o + 432, n);
  }
  /** Seq assigned when finalized, else 0. */
  get finalizeSeq(): number {
    return getU64(this.v, this.o + 440);
  }
  set finalizeSeq(n: number) {
    setU64(this.v, this.o + 440, n);
  }
  /** Equals the key. */
  get rid(): bigint {
    return this.v.getBigUint64(this.o + 448, true);
  }
  set rid(n: bigint) {
    this.v.setBigUint64(this.o + 448, n, true);
  }
  get ridLo(): number {
    return this.v.getUint32(this.o + 448, true);
  }
  set ridLo(n: number) {
    this.v.setUint32(this.o + 448, n, true);
  }
  get ridHi(): number {
    return this.v.getUint32(this.o + 452, true);
  }
  set ridHi(n: number) {
    this.v.setUint32(this.o + 452, n, true);
  }
  /** Equals the key. */
  get nr(): number {
    return getU64(this.v, this.o + 456);
  }
  set nr(n: number) {
    setU64(this.v, this.o + 456, n);
  }
  /** Bit 0 = FINALIZED. */
  get flags(): number {
    return getU64(this.v, this.o + 464);
  }
  set flags(n: number) {
    setU64(this.v, this.o + 464, n);
  }
  get isFinalized(): boolean {
    return (this.v.getUint8(this.o + 464) & LOG_TREES_FINALIZED) !== 0;
  }
  /** Whether a transaction is open: handed out and not yet committed. */
  get isOpen(): boolean {
    return this.getTransSeq > this.commitTransSeq;
  }
  /** Whether the mount may have allocations in data zone `n` (01 §11.6). */
  hasZone(n: number): boolean {
    return (this.v.getUint8(this.o + 280 + (n >> 3)) >> (n & 7) & 1) !== 0;
  }
  setZone(n: number): void {
    const at = this.o + 280 + (n >> 3);
    this.v.setUint8(at, this.v.getUint8(at) | 1 << (n & 7));
  }
}
checkSize(
  LogTrees.SIZE,
  32 + 32 + 24 + 16 + 40 + 40 + 88 + 8 + 128 + 8 + 8 + 8 + 8 + 8 + 8 + 8 + 8,
  "LogTrees",
);

/** Key of log tree `nr` of mount `rid`. */
export const logTreesKey = (rid: bigint, nr: number): Key => Key.of(ZONE_LOG_TREES, rid, 0, nr);
