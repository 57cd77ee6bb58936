/** Arguments and results of ioctls about one file: attributes, release, stage, waiters, moves (05 §9). */

import { checkSize, getU64, setU64, View } from "./bytes.ts";

/**
 * RELEASE (05 §9.3), 24 bytes.
 *
 *      0 le64             offset
 *      8 le64             length
 *     16 le64             data_version
 */
export class IocRelease extends View {
  static readonly SIZE = 24;
  get offset(): bigint {
    return this.v.getBigUint64(this.o, true);
  }
  set offset(n: bigint) {
    this.v.setBigUint64(this.o, n, true);
  }
  get length(): bigint {
    return this.v.getBigUint64(this.o + 8, true);
  }
  set length(n: bigint) {
    this.v.setBigUint64(this.o + 8, n, true);
  }
  get dataVersion(): bigint {
    return this.v.getBigUint64(this.o + 16, true);
  }
  set dataVersion(n: bigint) {
    this.v.setBigUint64(this.o + 16, n, true);
  }
}
checkSize(IocRelease.SIZE, 8 + 8 + 8, "IocRelease");

/**
 * STAGE (05 §9.4), 32 bytes.
 *
 *      0 le64             data_version
 *      8 le64             buf_ptr
 *     16 le64             offset
 *     24 le32             length
 *     28 u8[4]            pad
 */
export class IocStage extends View {
  static readonly SIZE = 32;
  get dataVersion(): bigint {
    return this.v.getBigUint64(this.o, true);
  }
  set dataVersion(n: bigint) {
    this.v.setBigUint64(this.o, n, true);
  }
  get bufPtr(): bigint {
    return this.v.getBigUint64(this.o + 8, true);
  }
  set bufPtr(n: bigint) {
    this.v.setBigUint64(this.o + 8, n, true);
  }
  get offset(): bigint {
    return this.v.getBigUint64(this.o + 16, true);
  }
  set offset(n: bigint) {
    this.v.setBigUint64(this.o + 16, n, true);
  }
  get length(): number {
    return this.v.getInt32(this.o + 24, true);
  }
  set length(n: number) {
    this.v.setInt32(this.o + 24, n, true);
  }
}
checkSize(IocStage.SIZE, 8 + 8 + 8 + 4 + 4, "IocStage");

/**
 * STAT_MORE (05 §9.5), 56 bytes.
 *
 *      0 le64             meta_seq
 *      8 le64             data_seq
 *     16 le64             data_version
 *     24 le64             online_blocks
 *     32 le64             offline_blocks
 *     40 le64             crtime_sec
 *     48 le32             crtime_nsec
 *     52 u8[4]            pad
 */
export class IocStatMore extends View {
  static readonly SIZE = 56;
  get metaSeq(): number {
    return getU64(this.v, this.o);
  }
  set metaSeq(n: number) {
    setU64(this.v, this.o, n);
  }
  get dataSeq(): number {
    return getU64(this.v, this.o + 8);
  }
  set dataSeq(n: number) {
    setU64(this.v, this.o + 8, n);
  }
  get dataVersion(): bigint {
    return this.v.getBigUint64(this.o + 16, true);
  }
  set dataVersion(n: bigint) {
    this.v.setBigUint64(this.o + 16, n, true);
  }
  get onlineBlocks(): number {
    return getU64(this.v, this.o + 24);
  }
  set onlineBlocks(n: number) {
    setU64(this.v, this.o + 24, n);
  }
  get offlineBlocks(): number {
    return getU64(this.v, this.o + 32);
  }
  set offlineBlocks(n: number) {
    setU64(this.v, this.o + 32, n);
  }
  get crtimeSec(): bigint {
    return this.v.getBigInt64(this.o + 40, true);
  }
  set crtimeSec(n: bigint) {
    this.v.setBigInt64(this.o + 40, n, true);
  }
  get crtimeNsec(): number {
    return this.v.getUint32(this.o + 48, true);
  }
  set crtimeNsec(n: number) {
    this.v.setUint32(this.o + 48, n, true);
  }
}
checkSize(IocStatMore.SIZE, 8 + 8 + 8 + 8 + 8 + 8 + 4 + 4, "IocStatMore");

/**
 * DATA_WAITING (05 §9.6), 40 bytes.
 *
 *      0 le64             flags
 *      8 le64             after_ino
 *     16 le64             after_iblock
 *     24 le64             ents_ptr
 *     32 le16             ents_nr
 *     34 u8[6]            pad
 */
export class IocDataWaiting extends View {
  static readonly SIZE = 40;
  get flags(): bigint {
    return this.v.getBigUint64(this.o, true);
  }
  set flags(n: bigint) {
    this.v.setBigUint64(this.o, n, true);
  }
  get afterIno(): bigint {
    return this.v.getBigUint64(this.o + 8, true);
  }
  set afterIno(n: bigint) {
    this.v.setBigUint64(this.o + 8, n, true);
  }
  get afterIblock(): bigint {
    return this.v.getBigUint64(this.o + 16, true);
  }
  set afterIblock(n: bigint) {
    this.v.setBigUint64(this.o + 16, n, true);
  }
  get entsPtr(): bigint {
    return this.v.getBigUint64(this.o + 24, true);
  }
  set entsPtr(n: bigint) {
    this.v.setBigUint64(this.o + 24, n, true);
  }
  get entsNr(): number {
    return this.v.getUint16(this.o + 32, true);
  }
  set entsNr(n: number) {
    this.v.setUint16(this.o + 32, n, true);
  }
}
checkSize(IocDataWaiting.SIZE, 8 + 8 + 8 + 8 + 2 + 6, "IocDataWaiting");

/**
 * A waiter in DATA_WAITING's result (05 §9.6), 24 bytes.
 *
 *      0 le64             ino
 *      8 le64             iblock
 *     16 u8               op
 *     17 u8[7]            pad
 */
export class IocDataWaitingEntry extends View {
  static readonly SIZE = 24;
  get ino(): number {
    return getU64(this.v, this.o);
  }
  set ino(n: number) {
    setU64(this.v, this.o, n);
  }
  get iblock(): number {
    return getU64(this.v, this.o + 8);
  }
  set iblock(n: number) {
    setU64(this.v, this.o + 8, n);
  }
  /** Bits: 1 read, 2 write, 4 change of size. */
  get op(): number {
    return this.v.getUint8(this.o + 16);
  }
  set op(n: number) {
    this.v.setUint8(this.o + 16, n);
  }
}
checkSize(IocDataWaitingEntry.SIZE, 8 + 8 + 1 + 7, "IocDataWaitingEntry");

/**
 * SETATTR_MORE (05 §9.7), 48 bytes.
 *
 *      0 le64             data_version
 *      8 le64             i_size
 *     16 le64             flags
 *     24 le64             ctime_sec
 *     32 le32             ctime_nsec
 *     36 le32             crtime_nsec
 *     40 le64             crtime_sec
 */
export class IocSetattrMore extends View {
  static readonly SIZE = 48;
  get dataVersion(): bigint {
    return this.v.getBigUint64(this.o, true);
  }
  set dataVersion(n: bigint) {
    this.v.setBigUint64(this.o, n, true);
  }
  get iSize(): bigint {
    return this.v.getBigUint64(this.o + 8, true);
  }
  set iSize(n: bigint) {
    this.v.setBigUint64(this.o + 8, n, true);
  }
  /** Bit 0: offline. */
  get flags(): bigint {
    return this.v.getBigUint64(this.o + 16, true);
  }
  set flags(n: bigint) {
    this.v.setBigUint64(this.o + 16, n, true);
  }
  get ctimeSec(): bigint {
    return this.v.getBigInt64(this.o + 24, true);
  }
  set ctimeSec(n: bigint) {
    this.v.setBigInt64(this.o + 24, n, true);
  }
  get ctimeNsec(): number {
    return this.v.getUint32(this.o + 32, true);
  }
  set ctimeNsec(n: number) {
    this.v.setUint32(this.o + 32, n, true);
  }
  get crtimeNsec(): number {
    return this.v.getUint32(this.o + 36, true);
  }
  set crtimeNsec(n: number) {
    this.v.setUint32(this.o + 36, n, true);
  }
  get crtimeSec(): bigint {
    return this.v.getBigInt64(this.o + 40, true);
  }
  set crtimeSec(n: bigint) {
    this.v.setBigInt64(this.o + 40, n, true);
  }
}
checkSize(IocSetattrMore.SIZE, 8 + 8 + 8 + 8 + 4 + 4 + 8, "IocSetattrMore");

/**
 * LISTXATTR_HIDDEN (05 §9.8), 24 bytes.
 *
 *      0 le64             id_pos
 *      8 le64             buf_ptr
 *     16 le32             buf_bytes
 *     20 le32             hash_pos
 */
export class IocListxattrHidden extends View {
  static readonly SIZE = 24;
  get idPos(): bigint {
    return this.v.getBigUint64(this.o, true);
  }
  set idPos(n: bigint) {
    this.v.setBigUint64(this.o, n, true);
  }
  get bufPtr(): bigint {
    return this.v.getBigUint64(this.o + 8, true);
  }
  set bufPtr(n: bigint) {
    this.v.setBigUint64(this.o + 8, n, true);
  }
  get bufBytes(): number {
    return this.v.getUint32(this.o + 16, true);
  }
  set bufBytes(n: number) {
    this.v.setUint32(this.o + 16, n, true);
  }
  get hashPos(): number {
    return this.v.getUint32(this.o + 20, true);
  }
  set hashPos(n: number) {
    this.v.setUint32(this.o + 20, n, true);
  }
}
checkSize(IocListxattrHidden.SIZE, 8 + 8 + 4 + 4, "IocListxattrHidden");

/**
 * DATA_WAIT_ERR (05 §9.11), 48 bytes.
 *
 *      0 le64             ino
 *      8 le64             data_version
 *     16 le64             offset
 *     24 le64             count
 *     32 le64             op
 *     40 le64             err
 */
export class IocDataWaitErr extends View {
  static readonly SIZE = 48;
  get ino(): bigint {
    return this.v.getBigUint64(this.o, true);
  }
  set ino(n: bigint) {
    this.v.setBigUint64(this.o, n, true);
  }
  get dataVersion(): bigint {
    return this.v.getBigUint64(this.o + 8, true);
  }
  set dataVersion(n: bigint) {
    this.v.setBigUint64(this.o + 8, n, true);
  }
  get offset(): bigint {
    return this.v.getBigUint64(this.o + 16, true);
  }
  set offset(n: bigint) {
    this.v.setBigUint64(this.o + 16, n, true);
  }
  get count(): bigint {
    return this.v.getBigUint64(this.o + 24, true);
  }
  set count(n: bigint) {
    this.v.setBigUint64(this.o + 24, n, true);
  }
  get op(): bigint {
    return this.v.getBigUint64(this.o + 32, true);
  }
  set op(n: bigint) {
    this.v.setBigUint64(this.o + 32, n, true);
  }
  get err(): bigint {
    return this.v.getBigInt64(this.o + 40, true);
  }
  set err(n: bigint) {
    this.v.setBigInt64(this.o + 40, n, true);
  }
}
checkSize(IocDataWaitErr.SIZE, 8 + 8 + 8 + 8 + 8 + 8, "IocDataWaitErr");

/**
 * MOVE_BLOCKS (05 §9.13), 48 bytes.
 *
 *      0 le64             from_fd
 *      8 le64             from_off
 *     16 le64             len
 *     24 le64             to_off
 *     32 le64             data_version
 *     40 le64             flags
 */
export class IocMoveBlocks extends View {
  static readonly SIZE = 48;
  get fromFd(): bigint {
    return this.v.getBigUint64(this.o, true);
  }
  set fromFd(n: bigint) {
    this.v.setBigUint64(this.o, n, true);
  }
  get fromOff(): bigint {
    return this.v.getBigUint64(this.o + 8, true);
  }
  set fromOff(n: bigint) {
    this.v.setBigUint64(this.o + 8, n, true);
  }
  get len(): bigint {
    return this.v.getBigUint64(this.o + 16, true);
  }
  set len(n: bigint) {
    this.v.setBigUint64(this.o + 16, n, true);
  }
  get toOff(): bigint {
    return this.v.getBigUint64(this.o + 24, true);
  }
  set toOff(n: bigint) {
    this.v.setBigUint64(this.o + 24, n, true);
  }
  get dataVersion(): bigint {
    return this.v.getBigUint64(this.o + 32, true);
  }
  set dataVersion(n: bigint) {
    this.v.setBigUint64(this.o + 32, n, true);
  }
  /** Bit 0: stage. */
  get flags(): bigint {
    return this.v.getBigUint64(this.o + 40, true);
  }
  set flags(n: bigint) {
    this.v.setBigUint64(this.o + 40, n, true);
  }
}
checkSize(IocMoveBlocks.SIZE, 8 + 8 + 8 + 8 + 8 + 8, "IocMoveBlocks");

/**
 * GET_ATTR_X and SET_ATTR_X (05 §9.18), 104 bytes.
 *
 *      0 le64             x_mask
 *      8 le64             x_flags
 *     16 le64             meta_seq
 *     24 le64             data_seq
 *     32 le64             data_version
 *     40 le64             online_blocks
 *     48 le64             offline_blocks
 *     56 le64             ctime_sec
 *     64 le32             ctime_nsec
 *     68 le32             crtime_nsec
 *     72 le64             crtime_sec
 *     80 le64             size
 *     88 le64             bits
 *     96 le64             project_id
 */
export class IocInodeAttrX extends View {
  static readonly SIZE = 104;
  /** IOC_IAX_*. */
  get xMask(): bigint {
    return this.v.getBigUint64(this.o, true);
  }
  set xMask(n: bigint) {
    this.v.setBigUint64(this.o, n, true);
  }
  /** Bit 0: SIZE_OFFLINE. */
  get xFlags(): bigint {
    return this.v.getBigUint64(this.o + 8, true);
  }
  set xFlags(n: bigint) {
    this.v.setBigUint64(this.o + 8, n, true);
  }
  get metaSeq(): number {
    return getU64(this.v, this.o + 16);
  }
  set metaSeq(n: number) {
    setU64(this.v, this.o + 16, n);
  }
  get dataSeq(): number {
    return getU64(this.v, this.o + 24);
  }
  set dataSeq(n: number) {
    setU64(this.v, this.o + 24, n);
  }
  get dataVersion(): bigint {
    return this.v.getBigUint64(this.o + 32, true);
  }
  set dataVersion(n: bigint) {
    this.v.setBigUint64(this.o + 32, n, true);
  }
  get onlineBlocks(): number {
    return getU64(this.v, this.o + 40);
  }
  set onlineBlocks(n: number) {
    setU64(this.v, this.o + 40, n);
  }
  get offlineBlocks(): number {
    return getU64(this.v, this.o + 48);
  }
  set offlineBlocks(n: number) {
    setU64(this.v, this.o + 48, n);
  }
  get ctimeSec(): bigint {
    return this.v.getBigInt64(this.o + 56, true);
  }
  set ctimeSec(n: bigint) {
    this.v.setBigInt64(this.o + 56, n, true);
  }
  get ctimeNsec(): number {
    return this.v.getUint32(this.o + 64, true);
  }
  set ctimeNsec(n: number) {
    this.v.setUint32(this.o + 64, n, true);
  }
  get crtimeNsec(): number {
    return this.v.getUint32(this.o + 68, true);
  }
  set crtimeNsec(n: number) {
    this.v.setUint32(this.o + 68, n, true);
  }
  get crtimeSec(): bigint {
    return this.v.getBigInt64(this.o + 72, true);
  }
  set crtimeSec(n: bigint) {
    this.v.setBigInt64(this.o + 72, n, true);
  }
  get size(): bigint {
    return this.v.getBigUint64(this.o + 80, true);
  }
  set size(n: bigint) {
    this.v.setBigUint64(this.o + 80, n, true);
  }
  get bits(): bigint {
    return this.v.getBigUint64(this.o + 88, true);
  }
  set bits(n: bigint) {
    this.v.setBigUint64(this.o + 88, n, true);
  }
  get projectId(): bigint {
    return this.v.getBigUint64(this.o + 96, true);
  }
  set projectId(n: bigint) {
    this.v.setBigUint64(this.o + 96, n, true);
  }
}
checkSize(
  IocInodeAttrX.SIZE,
  8 + 8 + 8 + 8 + 8 + 8 + 8 + 8 + 4 + 4 + 8 + 8 + 8 + 8,
  "IocInodeAttrX",
);

/**
 * PUNCH_OFFLINE (05 §9.24), 32 bytes.
 *
 *      0 le64             offset
 *      8 le64             len
 *     16 le64             data_version
 *     24 le64             flags
 */
export class IocPunchOffline extends View {
  static readonly SIZE = 32;
  get offset(): bigint {
    return this.v.getBigUint64(this.o, true);
  }
  set offset(n: bigint) {
    this.v.setBigUint64(this.o, n, true);
  }
  get len(): bigint {
    return this.v.getBigUint64(this.o + 8, true);
  }
  set len(n: bigint) {
    this.v.setBigUint64(this.o + 8, n, true);
  }
  get dataVersion(): bigint {
    return this.v.getBigUint64(this.o + 16, true);
  }
  set dataVersion(n: bigint) {
    this.v.setBigUint64(this.o + 16, n, true);
  }
  get flags(): bigint {
    return this.v.getBigUint64(this.o + 24, true);
  }
  set flags(n: bigint) {
    this.v.setBigUint64(this.o + 24, n, true);
  }
}
checkSize(IocPunchOffline.SIZE, 8 + 8 + 8 + 8, "IocPunchOffline");
