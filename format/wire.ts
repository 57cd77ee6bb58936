/**
 * Messages between client and server (04 §10, §13, §19): frame header, payloads, commands and the
 * translation of errors. Payloads that are on-disk structures too (log_trees, srch_compact,
 * log_merge_*, volume_options) are where those are.
 */

import { BtreeRoot } from "./btree.ts";
import { checkSize, getU64, setU64, View } from "./bytes.ts";
import { EINVAL, EIO, ENOENT, ENOLINK, ENOMEM, ENOSPC } from "./errno.ts";
import { Key } from "./key.ts";

// Commands, 04 §19.1
export const CMD_GREETING = 0;
export const CMD_ALLOC_INODES = 1;
export const CMD_GET_LOG_TREES = 2;
export const CMD_COMMIT_LOG_TREES = 3;
export const CMD_SYNC_LOG_TREES = 4;
export const CMD_GET_ROOTS = 5;
export const CMD_GET_LAST_SEQ = 6;
export const CMD_LOCK = 7;
export const CMD_LOCK_RECOVER = 8;
export const CMD_SRCH_GET_COMPACT = 9;
export const CMD_SRCH_COMMIT_COMPACT = 10;
export const CMD_GET_LOG_MERGE = 11;
export const CMD_COMMIT_LOG_MERGE = 12;
export const CMD_OPEN_INO_MAP = 13;
export const CMD_GET_VOLOPT = 14;
export const CMD_SET_VOLOPT = 15;
export const CMD_CLEAR_VOLOPT = 16;
export const CMD_RESIZE_DEVICES = 17;
export const CMD_STATFS = 18;
export const CMD_FAREWELL = 19;
export const CMD_NR = 20;

/** Command names by number, for messages. */
export const CMD_NAMES: readonly string[] = [
  "GREETING",
  "ALLOC_INODES",
  "GET_LOG_TREES",
  "COMMIT_LOG_TREES",
  "SYNC_LOG_TREES",
  "GET_ROOTS",
  "GET_LAST_SEQ",
  "LOCK",
  "LOCK_RECOVER",
  "SRCH_GET_COMPACT",
  "SRCH_COMMIT_COMPACT",
  "GET_LOG_MERGE",
  "COMMIT_LOG_MERGE",
  "OPEN_INO_MAP",
  "GET_VOLOPT",
  "SET_VOLOPT",
  "CLEAR_VOLOPT",
  "RESIZE_DEVICES",
  "STATFS",
  "FAREWELL",
];

/** Most payload bytes of a frame. */
export const NET_MAX_DATA_LEN = 1100;
/** `net_header.flags`: a response. */
export const NET_FLAG_RESPONSE = 1;
/** First invalid wire error. */
export const NET_ERROR_NR = 7;

// `greeting.flags`
export const GREETING_FLAG_FAREWELL = 1;
export const GREETING_FLAG_QUORUM = 2;

// Lock modes, 04 §19.7
export const LOCK_NULL = 0;
export const LOCK_READ = 1;
export const LOCK_WRITE = 2;
export const LOCK_WRITE_ONLY = 3;
export const LOCK_MODE_NR = 4;

/** Most locks of a LOCK_RECOVER response. */
export const LOCK_RECOVER_MAX = 22;

/** Errno of each wire error (04 §10). */
const ERRNO_OF_WIRE: readonly number[] = [0, ENOENT, ENOMEM, EIO, ENOSPC, EINVAL, ENOLINK];

/** The wire error for an errno; everything without a code of its own is EINVAL. */
export function errnoToWire(errno: number): number {
  const wire = ERRNO_OF_WIRE.indexOf(errno);
  return wire >= 0 ? wire : 5;
}

/** The errno of a valid wire error (0 … 6). */
export function wireToErrno(wire: number): number {
  const errno = ERRNO_OF_WIRE[wire];
  if (errno === undefined) throw new Error(`wire error ${wire} does not exist`);
  return errno;
}

/**
 * Header of a frame (04 §10), 32 bytes.
 *
 *      0 le64             seq
 *      8 le64             recv_seq
 *     16 le64             id
 *     24 le16             data_len
 *     26 u8               cmd
 *     27 u8               flags
 *     28 u8               error
 *     29 u8[3]            pad
 */
export class NetHeader extends View {
  static readonly SIZE = 32;
  /** Sender's message sequence, ≥ 1. */
  get seq(): number {
    return getU64(this.v, this.o);
  }
  set seq(n: number) {
    setU64(this.v, this.o, n);
  }
  /** Highest seq the sender has received from the peer. */
  get recvSeq(): number {
    return getU64(this.v, this.o + 8);
  }
  set recvSeq(n: number) {
    setU64(this.v, this.o + 8, n);
  }
  /** Request id, ≥ 1; a response repeats the request's. */
  get id(): number {
    return getU64(this.v, this.o + 16);
  }
  set id(n: number) {
    setU64(this.v, this.o + 16, n);
  }
  /** Payload bytes, ≤ 1100. */
  get dataLen(): number {
    return this.v.getUint16(this.o + 24, true);
  }
  set dataLen(n: number) {
    this.v.setUint16(this.o + 24, n, true);
  }
  /** CMD_*. */
  get cmd(): number {
    return this.v.getUint8(this.o + 26);
  }
  set cmd(n: number) {
    this.v.setUint8(this.o + 26, n);
  }
  /** Bit 0: RESPONSE. */
  get flags(): number {
    return this.v.getUint8(this.o + 27);
  }
  set flags(n: number) {
    this.v.setUint8(this.o + 27, n);
  }
  /** 0 or a wire error; only in responses. */
  get error(): number {
    return this.v.getUint8(this.o + 28);
  }
  set error(n: number) {
    this.v.setUint8(this.o + 28, n);
  }
  get isResponse(): boolean {
    return (this.flags & NET_FLAG_RESPONSE) !== 0;
  }
}
checkSize(NetHeader.SIZE, 8 + 8 + 8 + 2 + 1 + 1 + 1 + 3, "NetHeader");

/**
 * Payload of GREETING, both ways (04 §13.1), 40 bytes.
 *
 *      0 le64             fsid
 *      8 le64             fmt_vers
 *     16 le64             server_term
 *     24 le64             rid
 *     32 le64             flags
 */
export class Greeting extends View {
  static readonly SIZE = 40;
  get fsid(): bigint {
    return this.v.getBigUint64(this.o, true);
  }
  set fsid(n: bigint) {
    this.v.setBigUint64(this.o, n, true);
  }
  get fmtVers(): number {
    return getU64(this.v, this.o + 8);
  }
  set fmtVers(n: number) {
    setU64(this.v, this.o + 8, n);
  }
  /** Request: the last term received, 0 before the first; response: the server's. */
  get serverTerm(): number {
    return getU64(this.v, this.o + 16);
  }
  set serverTerm(n: number) {
    setU64(this.v, this.o + 16, n);
  }
  get rid(): bigint {
    return this.v.getBigUint64(this.o + 24, true);
  }
  set rid(n: bigint) {
    this.v.setBigUint64(this.o + 24, n, true);
  }
  /** GREETING_FLAG_*; 0 in responses. */
  get flags(): number {
    return getU64(this.v, this.o + 32);
  }
  set flags(n: number) {
    setU64(this.v, this.o + 32, n);
  }
}
checkSize(Greeting.SIZE, 8 + 8 + 8 + 8 + 8, "Greeting");

/**
 * Response of ALLOC_INODES (04 §19.3), 16 bytes.
 *
 *      0 le64             ino
 *      8 le64             nr
 */
export class NetAllocInodes extends View {
  static readonly SIZE = 16;
  /** First inode number. */
  get ino(): number {
    return getU64(this.v, this.o);
  }
  set ino(n: number) {
    setU64(this.v, this.o, n);
  }
  /** May be fewer than asked for; 0 when none are left. */
  get nr(): number {
    return getU64(this.v, this.o + 8);
  }
  set nr(n: number) {
    setU64(this.v, this.o + 8, n);
  }
}
checkSize(NetAllocInodes.SIZE, 8 + 8, "NetAllocInodes");

/**
 * Response of GET_ROOTS (04 §19.5), 72 bytes.
 *
 *      0 btree_root       fs_root
 *     24 btree_root       logs_root
 *     48 btree_root       srch_root
 */
export class NetRoots extends View {
  static readonly SIZE = 72;
  get fsRoot(): BtreeRoot {
    return new BtreeRoot(this.v, this.o);
  }
  get logsRoot(): BtreeRoot {
    return new BtreeRoot(this.v, this.o + 24);
  }
  get srchRoot(): BtreeRoot {
    return new BtreeRoot(this.v, this.o + 48);
  }
}
checkSize(NetRoots.SIZE, 24 + 24 + 24, "NetRoots");

/**
 * A single number: request of ALLOC_INODES, response of GET_LAST_SEQ (04 §19.3, §19.6), 8 bytes.
 *
 *      0 le64             value
 */
export class NetU64 extends View {
  static readonly SIZE = 8;
  get value(): number {
    return getU64(this.v, this.o);
  }
  set value(n: number) {
    setU64(this.v, this.o, n);
  }
}
checkSize(NetU64.SIZE, 8, "NetU64");

/**
 * Payload of LOCK, all four uses (04 §19.7), 48 bytes.
 *
 *      0 key              key
 *     32 le64             write_seq
 *     40 u8               old_mode
 *     41 u8               new_mode
 *     42 u8[6]            pad
 */
export class NetLock extends View {
  static readonly SIZE = 48;
  /** Start key of the lock's range. */
  get key(): Key {
    return Key.read(this.v, this.o);
  }
  set key(k: Key) {
    k.write(this.v, this.o);
  }
  get writeSeq(): number {
    return getU64(this.v, this.o + 32);
  }
  set writeSeq(n: number) {
    setU64(this.v, this.o + 32, n);
  }
  /** LOCK_*. */
  get oldMode(): number {
    return this.v.getUint8(this.o + 40);
  }
  set oldMode(n: number) {
    this.v.setUint8(this.o + 40, n);
  }
  /** LOCK_*. */
  get newMode(): number {
    return this.v.getUint8(this.o + 41);
  }
  set newMode(n: number) {
    this.v.setUint8(this.o + 41, n);
  }
}
checkSize(NetLock.SIZE, 32 + 8 + 1 + 1 + 6, "NetLock");

/**
 * Fixed part of the response of LOCK_RECOVER; `nr` net_lock follow (04 §19.8), 8 bytes.
 *
 *      0 le16             nr
 *      2 u8[6]            pad
 */
export class LockRecover extends View {
  static readonly SIZE = 8;
  /** At most 22. */
  get nr(): number {
    return this.v.getUint16(this.o, true);
  }
  set nr(n: number) {
    this.v.setUint16(this.o, n, true);
  }
  /** Lock `i` of the payload. */
  lock(i: number): NetLock {
    return new NetLock(this.v, this.o + 8 + NetLock.SIZE * i);
  }
}
checkSize(LockRecover.SIZE, 2 + 6, "LockRecover");

/**
 * Request of OPEN_INO_MAP (04 §19.12), 16 bytes.
 *
 *      0 le64             group_nr
 *      8 le64             req_id
 */
export class OpenInoMapArgs extends View {
  static readonly SIZE = 16;
  get groupNr(): number {
    return getU64(this.v, this.o);
  }
  set groupNr(n: number) {
    setU64(this.v, this.o, n);
  }
  get reqId(): number {
    return getU64(this.v, this.o + 8);
  }
  set reqId(n: number) {
    setU64(this.v, this.o + 8, n);
  }
}
checkSize(OpenInoMapArgs.SIZE, 8 + 8, "OpenInoMapArgs");

/**
 * Response of OPEN_INO_MAP: which inodes of a group are open (04 §19.12), 144 bytes.
 *
 *      0 open_ino_map_args args
 *     16 u8[128]          bits
 */
export class OpenInoMap extends View {
  static readonly SIZE = 144;
  get args(): OpenInoMapArgs {
    return new OpenInoMapArgs(this.v, this.o);
  }
  get bits(): Uint8Array {
    return new Uint8Array(this.v.buffer, this.v.byteOffset + this.o + 16, 128);
  }
  /** Whether inode `i` of the group (0 … 1023) is open. */
  test(i: number): boolean {
    return (this.v.getUint8(this.o + 16 + (i >> 3)) >> (i & 7) & 1) !== 0;
  }
  setBit(i: number): void {
    const at = this.o + 16 + (i >> 3);
    this.v.setUint8(at, this.v.getUint8(at) | 1 << (i & 7));
  }
}
checkSize(OpenInoMap.SIZE, 16 + 128, "OpenInoMap");

/**
 * Request of RESIZE_DEVICES; 0 or the current value leaves a device alone (04 §19.14), 16 bytes.
 *
 *      0 le64             new_total_meta_blocks
 *      8 le64             new_total_data_blocks
 */
export class NetResizeDevices extends View {
  static readonly SIZE = 16;
  /** In units of 64 KiB. */
  get newTotalMetaBlocks(): number {
    return getU64(this.v, this.o);
  }
  set newTotalMetaBlocks(n: number) {
    setU64(this.v, this.o, n);
  }
  /** In units of 4 KiB. */
  get newTotalDataBlocks(): number {
    return getU64(this.v, this.o + 8);
  }
  set newTotalDataBlocks(n: number) {
    setU64(this.v, this.o + 8, n);
  }
}
checkSize(NetResizeDevices.SIZE, 8 + 8, "NetResizeDevices");

/**
 * Response of STATFS (04 §19.14), 56 bytes.
 *
 *      0 u8[16]           uuid
 *     16 le64             free_meta_blocks
 *     24 le64             total_meta_blocks
 *     32 le64             free_data_blocks
 *     40 le64             total_data_blocks
 *     48 le64             inode_count
 */
export class NetStatfs extends View {
  static readonly SIZE = 56;
  get uuid(): Uint8Array {
    return new Uint8Array(this.v.buffer, this.v.byteOffset + this.o, 16);
  }
  get freeMetaBlocks(): number {
    return getU64(this.v, this.o + 16);
  }
  set freeMetaBlocks(n: number) {
    setU64(this.v, this.o + 16, n);
  }
  get totalMetaBlocks(): number {
    return getU64(this.v, this.o + 24);
  }
  set totalMetaBlocks(n: number) {
    setU64(this.v, this.o + 24, n);
  }
  get freeDataBlocks(): number {
    return getU64(this.v, this.o + 32);
  }
  set freeDataBlocks(n: number) {
    setU64(this.v, this.o + 32, n);
  }
  get totalDataBlocks(): number {
    return getU64(this.v, this.o + 40);
  }
  set totalDataBlocks(n: number) {
    setU64(this.v, this.o + 40, n);
  }
  get inodeCount(): number {
    return getU64(this.v, this.o + 48);
  }
  set inodeCount(n: number) {
    setU64(this.v, this.o + 48, n);
  }
}
checkSize(NetStatfs.SIZE, 16 + 8 + 8 + 8 + 8 + 8, "NetStatfs");
