/** Values of filesystem items (01 §15); their keys are built in item_keys.ts. */

import { Timespec } from "./block.ts";
import { add64, checkSize, FormatError, getU64, setI64, setU64, View } from "./bytes.ts";
import { INODE_FLAG_RETENTION, INODE_FLAG_TRUNCATE } from "./constants.ts";

export * from "./item_keys.ts";
export * from "./lock_ranges.ts";

/** By the four bits of a mode's file type. */
const FILE_TYPES: readonly number[] = [0, 1, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1];
const REGULAR = 0o10;
/** No inode's counter has reached this: from there on counting could become inexact. */
export const INODE_COUNT_LIMIT = 2 ** 52;
/** Fields of an inode that are below INODE_COUNT_LIMIT on every volume, by their offsets. */
const COUNTED: readonly (readonly [off: number, name: string])[] = [
  [8, "meta_seq"],
  [16, "data_seq"],
  [32, "online_blocks"],
  [40, "offline_blocks"],
  [48, "next_readdir_pos"],
  [56, "next_xattr_id"],
];

/**
 * An inode item's value; format version 1 stores only the first 160 bytes (01 §15.1), 168 bytes.
 *
 *      0 le64             size
 *      8 le64             meta_seq
 *     16 le64             data_seq
 *     24 le64             data_version
 *     32 le64             online_blocks
 *     40 le64             offline_blocks
 *     48 le64             next_readdir_pos
 *     56 le64             next_xattr_id
 *     64 le64             version
 *     72 le32             nlink
 *     76 le32             uid
 *     80 le32             gid
 *     84 le32             mode
 *     88 le32             rdev
 *     92 le32             flags
 *     96 timespec         atime
 *    112 timespec         ctime
 *    128 timespec         mtime
 *    144 timespec         crtime
 *    160 le64             proj
 */
export class Inode extends View {
  static readonly SIZE = 168;
  /** Whether the value is long enough to hold `proj`. */
  declare readonly hasProj: boolean;

  /** The value ends at byte `end`. */
  constructor(v: DataView, o = 0, end: number = v.byteLength) {
    super(v, o);
    this.hasProj = o + Inode.SIZE <= end;
  }

  /**
   * Bytes of a regular file; of a directory the sum of its names' lengths; of a symlink its
   * target with the NUL; 0 otherwise. Sizes reach 2^63−1: exact up to 2^53−1, greater ones are
   * rounded down to a multiple of 2048, so that the last block is right but not the last byte;
   * what an application sees comes from `sizeBig` or the words.
   */
  get size(): number {
    const hi = this.sizeHi, lo = this.sizeLo;
    return hi * 0x1_0000_0000 + (hi < 0x20_0000 ? lo : (lo & ~0x7ff) >>> 0);
  }
  set size(n: number) {
    setU64(this.v, this.o, n);
  }
  /** The exact size. */
  get sizeBig(): bigint {
    return this.v.getBigUint64(this.o, true);
  }
  set sizeBig(n: bigint) {
    this.v.setBigUint64(this.o, n, true);
  }
  get sizeLo(): number {
    return this.v.getUint32(this.o, true);
  }
  get sizeHi(): number {
    return this.v.getUint32(this.o + 4, true);
  }
  /** Transaction seq of the last metadata change; indexed. */
  get metaSeq(): number {
    return getU64(this.v, this.o + 8);
  }
  set metaSeq(n: number) {
    setU64(this.v, this.o + 8, n);
  }
  /** Transaction seq of the last data change; indexed for regular files only. */
  get dataSeq(): number {
    return getU64(this.v, this.o + 16);
  }
  set dataSeq(n: number) {
    setU64(this.v, this.o + 16, n);
  }
  /**
   * Increments whenever data contents may change. Restoring sets it to any number: NaN, which equals
   * nothing, beyond 2^53−1; `dataVersionBig` is exact.
   */
  get dataVersion(): number {
    const hi = this.v.getUint32(this.o + 28, true);
    return hi < 0x20_0000 ? hi * 0x1_0000_0000 + this.v.getUint32(this.o + 24, true) : NaN;
  }
  set dataVersion(n: number) {
    setU64(this.v, this.o + 24, n);
  }
  get dataVersionBig(): bigint {
    return this.v.getBigUint64(this.o + 24, true);
  }
  /** The contents may have changed. */
  bumpDataVersion(): void {
    add64(this.v, this.o + 24, 1);
  }
  /** Blocks of written, mapped extents (01 §15.7). */
  get onlineBlocks(): number {
    return getU64(this.v, this.o + 32);
  }
  set onlineBlocks(n: number) {
    setU64(this.v, this.o + 32, n);
  }
  /** Blocks of offline extents. */
  get offlineBlocks(): number {
    return getU64(this.v, this.o + 40);
  }
  set offlineBlocks(n: number) {
    setU64(this.v, this.o + 40, n);
  }
  /** Directories: next entry position, starts at 2 (stored as 2 in every new inode). */
  get nextReaddirPos(): number {
    return getU64(this.v, this.o + 48);
  }
  set nextReaddirPos(n: number) {
    setU64(this.v, this.o + 48, n);
  }
  /** Next xattr id, starts at 0. */
  get nextXattrId(): number {
    return getU64(this.v, this.o + 56);
  }
  set nextXattrId(n: number) {
    setU64(this.v, this.o + 56, n);
  }
  /** Change counter (i_version), never meaningful as an absolute. */
  get version(): number {
    return getU64(this.v, this.o + 64);
  }
  set version(n: number) {
    setU64(this.v, this.o + 64, n);
  }
  /** One more change; wraps at 2^64. */
  bumpVersion(): void {
    add64(this.v, this.o + 64, 1);
  }
  /** Directories: 2 + subdirectories. */
  get nlink(): number {
    return this.v.getUint32(this.o + 72, true);
  }
  set nlink(n: number) {
    this.v.setUint32(this.o + 72, n, true);
  }
  get uid(): number {
    return this.v.getUint32(this.o + 76, true);
  }
  set uid(n: number) {
    this.v.setUint32(this.o + 76, n, true);
  }
  get gid(): number {
    return this.v.getUint32(this.o + 80, true);
  }
  set gid(n: number) {
    this.v.setUint32(this.o + 80, n, true);
  }
  /** POSIX st_mode (type and permission bits). */
  get mode(): number {
    return this.v.getUint32(this.o + 84, true);
  }
  set mode(n: number) {
    this.v.setUint32(this.o + 84, n, true);
  }
  /** Device nodes: (major << 20) | minor; else 0. */
  get rdev(): number {
    return this.v.getUint32(this.o + 88, true);
  }
  set rdev(n: number) {
    this.v.setUint32(this.o + 88, n, true);
  }
  /** INODE_FLAG_*. */
  get flags(): number {
    return this.v.getUint32(this.o + 92, true);
  }
  set flags(n: number) {
    this.v.setUint32(this.o + 92, n, true);
  }
  get atime(): Timespec {
    return new Timespec(this.v, this.o + Inode.ATIME);
  }
  get ctime(): Timespec {
    return new Timespec(this.v, this.o + Inode.CTIME);
  }
  get mtime(): Timespec {
    return new Timespec(this.v, this.o + Inode.MTIME);
  }
  /** Creation time. */
  get crtime(): Timespec {
    return new Timespec(this.v, this.o + Inode.CRTIME);
  }
  /** Sets the time at byte `time` (`ATIME` …), for places where a view of it costs too much. */
  setTime(time: number, sec: number, nsec: number): void {
    setI64(this.v, this.o + time, sec);
    this.v.setUint32(this.o + time + 8, nsec, true);
  }
  /** Offsets of the times. */
  static readonly ATIME = 96;
  static readonly CTIME = 112;
  static readonly MTIME = 128;
  static readonly CRTIME = 144;

  /** Bytes stored by format version 1. */
  static readonly V1_SIZE = 160;
  /** Bytes of a value written in format version `fmtVers`. */
  static sizeOf(fmtVers: number): number {
    return fmtVers >= 2 ? Inode.SIZE : Inode.V1_SIZE;
  }
  /**
   * The inode in an item value. 160 bytes are always a value, 168 in format version 2 only
   * (01 §16); anything else is a FormatError. `proj` of the shorter one reads as 0.
   */
  static read(val: Uint8Array, fmtVers: number): Inode {
    if (val.length !== Inode.V1_SIZE && (val.length !== Inode.SIZE || fmtVers < 2)) {
      throw new FormatError(`inode value of ${val.length} bytes in format version ${fmtVers}`);
    }
    return new Inode(new DataView(val.buffer, val.byteOffset, val.length));
  }
  /** As `read`, of `length` bytes at byte `o` of what may be a larger buffer. */
  static over(v: DataView, o: number, length: number, fmtVers: number): Inode {
    if (length !== Inode.V1_SIZE && (length !== Inode.SIZE || fmtVers < 2)) {
      throw new FormatError(`inode value of ${length} bytes in format version ${fmtVers}`);
    }
    return new Inode(v, o, o + length);
  }
  /** The live bytes: 160 of a value of format version 1, else 168. */
  override get bytes(): Uint8Array {
    const length = this.hasProj ? Inode.SIZE : Inode.V1_SIZE;
    return new Uint8Array(this.v.buffer, this.v.byteOffset + this.o, length);
  }
  /** Project id, inherited from the parent directory; 0 where format version 1 has no room. */
  get proj(): bigint {
    return this.hasProj ? this.v.getBigUint64(this.o + 160, true) : 0n;
  }
  set proj(n: bigint) {
    if (!this.hasProj) throw new FormatError("an inode of format version 1 has no project id");
    this.v.setBigUint64(this.o + 160, n, true);
  }
  /**
   * The field that makes the inode unusable, or null: a number that no volume can have reached, on
   * which nothing could be counted, or a mode of no file type. What passes can be read and changed
   * without a FormatError; counters can still grow by 2^52. Any time and any version is legal.
   */
  get fault(): string | null {
    const { v, o } = this;
    // The upper words of COUNTED in one look.
    const counts = v.getUint32(o + 12, true) | v.getUint32(o + 20, true) |
      v.getUint32(o + 36, true) | v.getUint32(o + 44, true) |
      v.getUint32(o + 52, true) | v.getUint32(o + 60, true);
    const type = v.getUint32(o + 84, true) >>> 12, size = v.getUint32(o + 4, true);
    const fits = counts >>> 20 === 0 && FILE_TYPES[type] === 1 &&
      (type === REGULAR ? size >>> 31 === 0 : size >>> 20 === 0);
    return fits ? null : this.#faultyField(type);
  }

  #faultyField(type: number): string {
    const { v, o } = this;
    if (FILE_TYPES[type] !== 1) return `mode 0${this.mode.toString(8)}`;
    for (const [off, name] of COUNTED) {
      if (v.getUint32(o + off + 4, true) >>> 20 !== 0) {
        return `${name} ${v.getBigUint64(o + off, true)}`;
      }
    }
    return `size ${this.sizeBig}`;
  }

  get hasRetention(): boolean {
    return (this.flags & INODE_FLAG_RETENTION) !== 0;
  }
  /** Whether a truncate was interrupted: extents beyond size are still to be removed. */
  get isTruncating(): boolean {
    return (this.flags & INODE_FLAG_TRUNCATE) !== 0;
  }
}
checkSize(
  Inode.SIZE,
  8 + 8 + 8 + 8 + 8 + 8 + 8 + 8 + 8 + 4 + 4 + 4 + 4 + 4 + 4 + 16 + 16 + 16 + 16 + 8,
  "Inode",
);

/**
 * Fixed part of a directory entry, its readdir twin and its link backref; the name follows (01 §15.3), 32 bytes.
 *
 *      0 le64             ino
 *      8 le64             hash
 *     16 le64             pos
 *     24 u8               type
 *     25 u8[7]            pad
 *     32 u8[]             name
 */
export class Dirent extends View {
  static readonly SIZE = 32;
  /** Target inode. */
  get ino(): number {
    return getU64(this.v, this.o);
  }
  set ino(n: number) {
    setU64(this.v, this.o, n);
  }
  /** Of the name (01 §6.2). */
  get hash(): bigint {
    return this.v.getBigUint64(this.o + 8, true);
  }
  set hash(n: bigint) {
    this.v.setBigUint64(this.o + 8, n, true);
  }
  get hashLo(): number {
    return this.v.getUint32(this.o + 8, true);
  }
  set hashLo(n: number) {
    this.v.setUint32(this.o + 8, n, true);
  }
  get hashHi(): number {
    return this.v.getUint32(this.o + 12, true);
  }
  set hashHi(n: number) {
    this.v.setUint32(this.o + 12, n, true);
  }
  /** Unique position in the directory, ≥ 2. */
  get pos(): number {
    return getU64(this.v, this.o + 16);
  }
  set pos(n: number) {
    setU64(this.v, this.o + 16, n);
  }
  /** DT_* of constants.ts. */
  get type(): number {
    return this.v.getUint8(this.o + 24);
  }
  set type(n: number) {
    this.v.setUint8(this.o + 24, n);
  }
}
checkSize(Dirent.SIZE, 8 + 8 + 8 + 1 + 7, "Dirent");

/**
 * Header of an xattr, at the start of its first part; name and value follow (01 §15.4), 8 bytes.
 *
 *      0 le16             val_len
 *      2 u8               name_len
 *      3 u8[5]            pad
 *      8 u8[]             name
 */
export class Xattr extends View {
  static readonly SIZE = 8;
  /** Value length 0–65535. */
  get valLen(): number {
    return this.v.getUint16(this.o, true);
  }
  set valLen(n: number) {
    this.v.setUint16(this.o, n, true);
  }
  /** 1–255. */
  get nameLen(): number {
    return this.v.getUint8(this.o + 2);
  }
  set nameLen(n: number) {
    this.v.setUint8(this.o + 2, n);
  }
}
checkSize(Xattr.SIZE, 2 + 1 + 5, "Xattr");

/**
 * Where the data of an extent is (01 §15.7), 16 bytes.
 *
 *      0 le64             blkno
 *      8 u8               flags
 *      9 u8[7]            pad
 */
export class DataExtentVal extends View {
  static readonly SIZE = 16;
  /** First small block on the data device; 0 = unmapped. */
  get blkno(): number {
    return getU64(this.v, this.o);
  }
  set blkno(n: number) {
    setU64(this.v, this.o, n);
  }
  /** SEF_*. */
  get flags(): number {
    return this.v.getUint8(this.o + 8);
  }
  set flags(n: number) {
    this.v.setUint8(this.o + 8, n);
  }
}
checkSize(DataExtentVal.SIZE, 8 + 1 + 7, "DataExtentVal");

/**
 * A quota rule (01 §15.9), 48 bytes.
 *
 *      0 le64[3]          name_val
 *     24 le64             limit
 *     32 u8               prio
 *     33 u8               op
 *     34 u8               rule_flags
 *     35 u8[3]            name_source
 *     38 u8[3]            name_flags
 *     41 u8[7]            pad
 */
export class QuotaRuleVal extends View {
  static readonly SIZE = 48;
  get limit(): bigint {
    return this.v.getBigUint64(this.o + 24, true);
  }
  set limit(n: bigint) {
    this.v.setBigUint64(this.o + 24, n, true);
  }
  /** Priority 0–255. */
  get prio(): number {
    return this.v.getUint8(this.o + 32);
  }
  set prio(n: number) {
    this.v.setUint8(this.o + 32, n);
  }
  /** 0 inode creation, 1 data allocation. */
  get op(): number {
    return this.v.getUint8(this.o + 33);
  }
  set op(n: number) {
    this.v.setUint8(this.o + 33, n);
  }
  /** Bit 0 TOTL_COUNT: compare the count instead of the total. */
  get ruleFlags(): number {
    return this.v.getUint8(this.o + 34);
  }
  set ruleFlags(n: number) {
    this.v.setUint8(this.o + 34, n);
  }
  nameVal(i: number): bigint {
    return this.v.getBigUint64(this.o + 8 * i, true);
  }
  setNameVal(i: number, n: bigint): void {
    this.v.setBigUint64(this.o + 8 * i, n, true);
  }
  nameSource(i: number): number {
    return this.v.getUint8(this.o + 35 + i);
  }
  setNameSource(i: number, n: number): void {
    this.v.setUint8(this.o + 35 + i, n);
  }
  nameFlags(i: number): number {
    return this.v.getUint8(this.o + 38 + i);
  }
  setNameFlags(i: number, n: number): void {
    this.v.setUint8(this.o + 38 + i, n);
  }
}
checkSize(QuotaRuleVal.SIZE, 24 + 8 + 1 + 1 + 1 + 3 + 3 + 7, "QuotaRuleVal");

/**
 * A total, or in log trees a change of one (01 §15.10), 16 bytes.
 *
 *      0 le64             total
 *      8 le64             count
 */
export class XattrTotlVal extends View {
  static readonly SIZE = 16;
  /** Sum of the contributing xattr values mod 2^64. */
  get total(): bigint {
    return this.v.getBigUint64(this.o, true);
  }
  set total(n: bigint) {
    this.v.setBigUint64(this.o, n, true);
  }
  /** Number of contributing xattrs (signed in deltas). */
  get count(): bigint {
    return this.v.getBigInt64(this.o + 8, true);
  }
  set count(n: bigint) {
    this.v.setBigInt64(this.o + 8, n, true);
  }
}
checkSize(XattrTotlVal.SIZE, 8 + 8, "XattrTotlVal");
