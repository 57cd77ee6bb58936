/** Arguments and results of ioctls about the volume: walks, paths, searches, totals, quotas, space (05 §9). */

import { checkSize, getU64, setU64, View } from "./bytes.ts";

/**
 * Position in an inode index (05 §9.1), 24 bytes.
 *
 *      0 le64             major
 *      8 le64             ino
 *     16 le32             minor
 *     20 u8[4]            pad
 */
export class IocWalkInodesEntry extends View {
  static readonly SIZE = 24;
  /** The sequence. */
  get major(): bigint {
    return this.v.getBigUint64(this.o, true);
  }
  set major(n: bigint) {
    this.v.setBigUint64(this.o, n, true);
  }
  get ino(): bigint {
    return this.v.getBigUint64(this.o + 8, true);
  }
  set ino(n: bigint) {
    this.v.setBigUint64(this.o + 8, n, true);
  }
  /** Always 0. */
  get minor(): number {
    return this.v.getUint32(this.o + 16, true);
  }
  set minor(n: number) {
    this.v.setUint32(this.o + 16, n, true);
  }
}
checkSize(IocWalkInodesEntry.SIZE, 8 + 8 + 4 + 4, "IocWalkInodesEntry");

/**
 * WALK_INODES (05 §9.1), 72 bytes.
 *
 *      0 ioc_walk_inodes_entry first
 *     24 ioc_walk_inodes_entry last
 *     48 le64             entries_ptr
 *     56 le32             nr_entries
 *     60 u8               index
 *     61 u8[11]           pad
 */
export class IocWalkInodes extends View {
  static readonly SIZE = 72;
  /** Inclusive. */
  get first(): IocWalkInodesEntry {
    return new IocWalkInodesEntry(this.v, this.o);
  }
  /** Inclusive. */
  get last(): IocWalkInodesEntry {
    return new IocWalkInodesEntry(this.v, this.o + 24);
  }
  get entriesPtr(): bigint {
    return this.v.getBigUint64(this.o + 48, true);
  }
  set entriesPtr(n: bigint) {
    this.v.setBigUint64(this.o + 48, n, true);
  }
  get nrEntries(): number {
    return this.v.getUint32(this.o + 56, true);
  }
  set nrEntries(n: number) {
    this.v.setUint32(this.o + 56, n, true);
  }
  /** 0 meta_seq, 1 data_seq. */
  get index(): number {
    return this.v.getUint8(this.o + 60);
  }
  set index(n: number) {
    this.v.setUint8(this.o + 60, n);
  }
}
checkSize(IocWalkInodes.SIZE, 24 + 24 + 8 + 4 + 1 + 11, "IocWalkInodes");

/**
 * INO_PATH (05 §9.2), 40 bytes.
 *
 *      0 le64             ino
 *      8 le64             dir_ino
 *     16 le64             dir_pos
 *     24 le64             result_ptr
 *     32 le16             result_bytes
 *     34 u8[6]            pad
 */
export class IocInoPath extends View {
  static readonly SIZE = 40;
  get ino(): bigint {
    return this.v.getBigUint64(this.o, true);
  }
  set ino(n: bigint) {
    this.v.setBigUint64(this.o, n, true);
  }
  get dirIno(): bigint {
    return this.v.getBigUint64(this.o + 8, true);
  }
  set dirIno(n: bigint) {
    this.v.setBigUint64(this.o + 8, n, true);
  }
  get dirPos(): bigint {
    return this.v.getBigUint64(this.o + 16, true);
  }
  set dirPos(n: bigint) {
    this.v.setBigUint64(this.o + 16, n, true);
  }
  get resultPtr(): bigint {
    return this.v.getBigUint64(this.o + 24, true);
  }
  set resultPtr(n: bigint) {
    this.v.setBigUint64(this.o + 24, n, true);
  }
  get resultBytes(): number {
    return this.v.getUint16(this.o + 32, true);
  }
  set resultBytes(n: number) {
    this.v.setUint16(this.o + 32, n, true);
  }
}
checkSize(IocInoPath.SIZE, 8 + 8 + 8 + 8 + 2 + 6, "IocInoPath");

/**
 * Header of INO_PATH's result; the path with its NUL follows (05 §9.2), 24 bytes.
 *
 *      0 le64             dir_ino
 *      8 le64             dir_pos
 *     16 le16             path_bytes
 *     18 u8[6]            pad
 */
export class IocInoPathResult extends View {
  static readonly SIZE = 24;
  get dirIno(): number {
    return getU64(this.v, this.o);
  }
  set dirIno(n: number) {
    setU64(this.v, this.o, n);
  }
  get dirPos(): number {
    return getU64(this.v, this.o + 8);
  }
  set dirPos(n: number) {
    setU64(this.v, this.o + 8, n);
  }
  /** Including the NUL. */
  get pathBytes(): number {
    return this.v.getUint16(this.o + 16, true);
  }
  set pathBytes(n: number) {
    this.v.setUint16(this.o + 16, n, true);
  }
}
checkSize(IocInoPathResult.SIZE, 8 + 8 + 2 + 6, "IocInoPathResult");

/**
 * SEARCH_XATTRS (05 §9.9), 56 bytes.
 *
 *      0 le64             next_ino
 *      8 le64             last_ino
 *     16 le64             name_ptr
 *     24 le64             inodes_ptr
 *     32 le64             output_flags
 *     40 le64             nr_inodes
 *     48 le16             name_bytes
 *     50 u8[6]            pad
 */
export class IocSearchXattrs extends View {
  static readonly SIZE = 56;
  get nextIno(): bigint {
    return this.v.getBigUint64(this.o, true);
  }
  set nextIno(n: bigint) {
    this.v.setBigUint64(this.o, n, true);
  }
  get lastIno(): bigint {
    return this.v.getBigUint64(this.o + 8, true);
  }
  set lastIno(n: bigint) {
    this.v.setBigUint64(this.o + 8, n, true);
  }
  get namePtr(): bigint {
    return this.v.getBigUint64(this.o + 16, true);
  }
  set namePtr(n: bigint) {
    this.v.setBigUint64(this.o + 16, n, true);
  }
  get inodesPtr(): bigint {
    return this.v.getBigUint64(this.o + 24, true);
  }
  set inodesPtr(n: bigint) {
    this.v.setBigUint64(this.o + 24, n, true);
  }
  /** Written back. */
  get outputFlags(): bigint {
    return this.v.getBigUint64(this.o + 32, true);
  }
  set outputFlags(n: bigint) {
    this.v.setBigUint64(this.o + 32, n, true);
  }
  get nrInodes(): bigint {
    return this.v.getBigUint64(this.o + 40, true);
  }
  set nrInodes(n: bigint) {
    this.v.setBigUint64(this.o + 40, n, true);
  }
  get nameBytes(): number {
    return this.v.getUint16(this.o + 48, true);
  }
  set nameBytes(n: number) {
    this.v.setUint16(this.o + 48, n, true);
  }
}
checkSize(IocSearchXattrs.SIZE, 8 + 8 + 8 + 8 + 8 + 8 + 2 + 6, "IocSearchXattrs");

/**
 * STATFS_MORE (05 §9.10), 48 bytes.
 *
 *      0 le64             fsid
 *      8 le64             rid
 *     16 le64             committed_seq
 *     24 le64             total_meta_blocks
 *     32 le64             total_data_blocks
 *     40 le64             reserved_meta_blocks
 */
export class IocStatfsMore extends View {
  static readonly SIZE = 48;
  get fsid(): bigint {
    return this.v.getBigUint64(this.o, true);
  }
  set fsid(n: bigint) {
    this.v.setBigUint64(this.o, n, true);
  }
  get rid(): bigint {
    return this.v.getBigUint64(this.o + 8, true);
  }
  set rid(n: bigint) {
    this.v.setBigUint64(this.o + 8, n, true);
  }
  get committedSeq(): number {
    return getU64(this.v, this.o + 16);
  }
  set committedSeq(n: number) {
    setU64(this.v, this.o + 16, n);
  }
  get totalMetaBlocks(): number {
    return getU64(this.v, this.o + 24);
  }
  set totalMetaBlocks(n: number) {
    setU64(this.v, this.o + 24, n);
  }
  get totalDataBlocks(): number {
    return getU64(this.v, this.o + 32);
  }
  set totalDataBlocks(n: number) {
    setU64(this.v, this.o + 32, n);
  }
  get reservedMetaBlocks(): number {
    return getU64(this.v, this.o + 40);
  }
  set reservedMetaBlocks(n: number) {
    setU64(this.v, this.o + 40, n);
  }
}
checkSize(IocStatfsMore.SIZE, 8 + 8 + 8 + 8 + 8 + 8, "IocStatfsMore");

/**
 * ALLOC_DETAIL (05 §9.12), 16 bytes.
 *
 *      0 le64             entries_ptr
 *      8 le64             entries_nr
 */
export class IocAllocDetail extends View {
  static readonly SIZE = 16;
  get entriesPtr(): bigint {
    return this.v.getBigUint64(this.o, true);
  }
  set entriesPtr(n: bigint) {
    this.v.setBigUint64(this.o, n, true);
  }
  get entriesNr(): bigint {
    return this.v.getBigUint64(this.o + 8, true);
  }
  set entriesNr(n: bigint) {
    this.v.setBigUint64(this.o + 8, n, true);
  }
}
checkSize(IocAllocDetail.SIZE, 8 + 8, "IocAllocDetail");

/**
 * A pool of blocks in ALLOC_DETAIL's result (05 §9.12), 24 bytes.
 *
 *      0 le64             id
 *      8 le64             blocks
 *     16 u8               type
 *     17 u8               flags
 *     18 u8[6]            pad
 */
export class IocAllocDetailEntry extends View {
  static readonly SIZE = 24;
  get id(): bigint {
    return this.v.getBigUint64(this.o, true);
  }
  set id(n: bigint) {
    this.v.setBigUint64(this.o, n, true);
  }
  get blocks(): number {
    return getU64(this.v, this.o + 8);
  }
  set blocks(n: number) {
    setU64(this.v, this.o + 8, n);
  }
  /** Always 0. */
  get type(): number {
    return this.v.getUint8(this.o + 16);
  }
  set type(n: number) {
    this.v.setUint8(this.o + 16, n);
  }
  /** Bit 0 metadata, bit 1 available. */
  get flags(): number {
    return this.v.getUint8(this.o + 17);
  }
  set flags(n: number) {
    this.v.setUint8(this.o + 17, n);
  }
}
checkSize(IocAllocDetailEntry.SIZE, 8 + 8 + 1 + 1 + 6, "IocAllocDetailEntry");

/**
 * RESIZE_DEVICES (05 §9.14), 16 bytes.
 *
 *      0 le64             new_total_meta_blocks
 *      8 le64             new_total_data_blocks
 */
export class IocResizeDevices extends View {
  static readonly SIZE = 16;
  get newTotalMetaBlocks(): bigint {
    return this.v.getBigUint64(this.o, true);
  }
  set newTotalMetaBlocks(n: bigint) {
    this.v.setBigUint64(this.o, n, true);
  }
  get newTotalDataBlocks(): bigint {
    return this.v.getBigUint64(this.o + 8, true);
  }
  set newTotalDataBlocks(n: bigint) {
    this.v.setBigUint64(this.o + 8, n, true);
  }
}
checkSize(IocResizeDevices.SIZE, 8 + 8, "IocResizeDevices");

/**
 * READ_XATTR_TOTALS (05 §9.15), 40 bytes.
 *
 *      0 le64[3]          pos_name
 *     24 le64             totals_ptr
 *     32 le64             totals_bytes
 */
export class IocReadXattrTotals extends View {
  static readonly SIZE = 40;
  get totalsPtr(): bigint {
    return this.v.getBigUint64(this.o + 24, true);
  }
  set totalsPtr(n: bigint) {
    this.v.setBigUint64(this.o + 24, n, true);
  }
  get totalsBytes(): bigint {
    return this.v.getBigUint64(this.o + 32, true);
  }
  set totalsBytes(n: bigint) {
    this.v.setBigUint64(this.o + 32, n, true);
  }
  posName(i: number): bigint {
    return this.v.getBigUint64(this.o + 8 * i, true);
  }
  setPosName(i: number, n: bigint): void {
    this.v.setBigUint64(this.o + 8 * i, n, true);
  }
}
checkSize(IocReadXattrTotals.SIZE, 24 + 8 + 8, "IocReadXattrTotals");

/**
 * A total in READ_XATTR_TOTALS' result (05 §9.15), 40 bytes.
 *
 *      0 le64[3]          name
 *     24 le64             total
 *     32 le64             count
 */
export class IocXattrTotal extends View {
  static readonly SIZE = 40;
  get total(): bigint {
    return this.v.getBigUint64(this.o + 24, true);
  }
  set total(n: bigint) {
    this.v.setBigUint64(this.o + 24, n, true);
  }
  get count(): bigint {
    return this.v.getBigUint64(this.o + 32, true);
  }
  set count(n: bigint) {
    this.v.setBigUint64(this.o + 32, n, true);
  }
  name(i: number): bigint {
    return this.v.getBigUint64(this.o + 8 * i, true);
  }
  setName(i: number, n: bigint): void {
    this.v.setBigUint64(this.o + 8 * i, n, true);
  }
}
checkSize(IocXattrTotal.SIZE, 24 + 8 + 8, "IocXattrTotal");

/**
 * GET_ALLOCATED_INOS (05 §9.16), 24 bytes.
 *
 *      0 le64             start_ino
 *      8 le64             inos_ptr
 *     16 le64             inos_bytes
 */
export class IocGetAllocatedInos extends View {
  static readonly SIZE = 24;
  get startIno(): bigint {
    return this.v.getBigUint64(this.o, true);
  }
  set startIno(n: bigint) {
    this.v.setBigUint64(this.o, n, true);
  }
  get inosPtr(): bigint {
    return this.v.getBigUint64(this.o + 8, true);
  }
  set inosPtr(n: bigint) {
    this.v.setBigUint64(this.o + 8, n, true);
  }
  get inosBytes(): bigint {
    return this.v.getBigUint64(this.o + 16, true);
  }
  set inosBytes(n: bigint) {
    this.v.setBigUint64(this.o + 16, n, true);
  }
}
checkSize(IocGetAllocatedInos.SIZE, 8 + 8 + 8, "IocGetAllocatedInos");

/**
 * GET_REFERRING_ENTRIES (05 §9.17), 40 bytes.
 *
 *      0 le64             ino
 *      8 le64             dir_ino
 *     16 le64             dir_pos
 *     24 le64             entries_ptr
 *     32 le64             entries_bytes
 */
export class IocGetReferringEntries extends View {
  static readonly SIZE = 40;
  get ino(): bigint {
    return this.v.getBigUint64(this.o, true);
  }
  set ino(n: bigint) {
    this.v.setBigUint64(this.o, n, true);
  }
  get dirIno(): bigint {
    return this.v.getBigUint64(this.o + 8, true);
  }
  set dirIno(n: bigint) {
    this.v.setBigUint64(this.o + 8, n, true);
  }
  get dirPos(): bigint {
    return this.v.getBigUint64(this.o + 16, true);
  }
  set dirPos(n: bigint) {
    this.v.setBigUint64(this.o + 16, n, true);
  }
  get entriesPtr(): bigint {
    return this.v.getBigUint64(this.o + 24, true);
  }
  set entriesPtr(n: bigint) {
    this.v.setBigUint64(this.o + 24, n, true);
  }
  get entriesBytes(): bigint {
    return this.v.getBigUint64(this.o + 32, true);
  }
  set entriesBytes(n: bigint) {
    this.v.setBigUint64(this.o + 32, n, true);
  }
}
checkSize(IocGetReferringEntries.SIZE, 8 + 8 + 8 + 8 + 8, "IocGetReferringEntries");

/**
 * GET_QUOTA_RULES; rules are quota_rule_val (05 §9.20), 32 bytes.
 *
 *      0 le64[2]          iterator
 *     16 le64             rules_ptr
 *     24 le64             rules_nr
 */
export class IocGetQuotaRules extends View {
  static readonly SIZE = 32;
  get rulesPtr(): bigint {
    return this.v.getBigUint64(this.o + 16, true);
  }
  set rulesPtr(n: bigint) {
    this.v.setBigUint64(this.o + 16, n, true);
  }
  get rulesNr(): bigint {
    return this.v.getBigUint64(this.o + 24, true);
  }
  set rulesNr(n: bigint) {
    this.v.setBigUint64(this.o + 24, n, true);
  }
  iterator(i: number): bigint {
    return this.v.getBigUint64(this.o + 8 * i, true);
  }
  setIterator(i: number, n: bigint): void {
    this.v.setBigUint64(this.o + 8 * i, n, true);
  }
}
checkSize(IocGetQuotaRules.SIZE, 16 + 8 + 8, "IocGetQuotaRules");

/**
 * A position in an xattr index (05 §9.23), 24 bytes.
 *
 *      0 le64             minor
 *      8 le64             ino
 *     16 u8               major
 *     17 u8[7]            pad
 */
export class IocXattrIndexEntry extends View {
  static readonly SIZE = 24;
  get minor(): bigint {
    return this.v.getBigUint64(this.o, true);
  }
  set minor(n: bigint) {
    this.v.setBigUint64(this.o, n, true);
  }
  get ino(): bigint {
    return this.v.getBigUint64(this.o + 8, true);
  }
  set ino(n: bigint) {
    this.v.setBigUint64(this.o + 8, n, true);
  }
  get major(): number {
    return this.v.getUint8(this.o + 16);
  }
  set major(n: number) {
    this.v.setUint8(this.o + 16, n);
  }
}
checkSize(IocXattrIndexEntry.SIZE, 8 + 8 + 1 + 7, "IocXattrIndexEntry");

/**
 * READ_XATTR_INDEX (05 §9.23), 72 bytes.
 *
 *      0 le64             flags
 *      8 ioc_xattr_index_entry first
 *     32 ioc_xattr_index_entry last
 *     56 le64             entries_ptr
 *     64 le64             entries_nr
 */
export class IocReadXattrIndex extends View {
  static readonly SIZE = 72;
  get flags(): bigint {
    return this.v.getBigUint64(this.o, true);
  }
  set flags(n: bigint) {
    this.v.setBigUint64(this.o, n, true);
  }
  get first(): IocXattrIndexEntry {
    return new IocXattrIndexEntry(this.v, this.o + 8);
  }
  get last(): IocXattrIndexEntry {
    return new IocXattrIndexEntry(this.v, this.o + 32);
  }
  get entriesPtr(): bigint {
    return this.v.getBigUint64(this.o + 56, true);
  }
  set entriesPtr(n: bigint) {
    this.v.setBigUint64(this.o + 56, n, true);
  }
  get entriesNr(): bigint {
    return this.v.getBigUint64(this.o + 64, true);
  }
  set entriesNr(n: bigint) {
    this.v.setBigUint64(this.o + 64, n, true);
  }
}
checkSize(IocReadXattrIndex.SIZE, 8 + 24 + 24 + 8 + 8, "IocReadXattrIndex");

/**
 * INJECT_TOTL_DELTA (05 §9.25), 40 bytes.
 *
 *      0 le64[3]          name
 *     24 le64             total
 *     32 le64             count
 */
export class IocInjectTotlDelta extends View {
  static readonly SIZE = 40;
  get total(): bigint {
    return this.v.getBigInt64(this.o + 24, true);
  }
  set total(n: bigint) {
    this.v.setBigInt64(this.o + 24, n, true);
  }
  get count(): bigint {
    return this.v.getBigInt64(this.o + 32, true);
  }
  set count(n: bigint) {
    this.v.setBigInt64(this.o + 32, n, true);
  }
  name(i: number): bigint {
    return this.v.getBigUint64(this.o + 8 * i, true);
  }
  setName(i: number, n: bigint): void {
    this.v.setBigUint64(this.o + 8 * i, n, true);
  }
}
checkSize(IocInjectTotlDelta.SIZE, 24 + 8 + 8, "IocInjectTotlDelta");
