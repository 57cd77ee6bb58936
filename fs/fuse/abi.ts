/**
 * The kernel's FUSE interface as bytes: version 7.45 and older, down to the first that carries the
 * features in `WANTED` (7.40). Numbers, structure sizes, and the encoders of what we answer; what
 * the kernel sends is read in place by `FuseRequest`. All integers are little-endian, structures
 * are packed by design of the interface.
 *
 * Node ids are inode numbers, 1 is the root; generations are 0.
 */

import { Inode } from "../../format/items.ts";
import { setU64 } from "../../format/bytes.ts";

export const KERNEL_MAJOR = 7;
export const KERNEL_MINOR = 45;
/** Older kernels lack what correctness rests on (direct I/O with mmap, invalidation by us). */
export const LEAST_MINOR = 39;

export const ROOT_NODE = 1;

// Opcodes.
export const LOOKUP = 1;
export const FORGET = 2;
export const GETATTR = 3;
export const SETATTR = 4;
export const READLINK = 5;
export const SYMLINK = 6;
export const MKNOD = 8;
export const MKDIR = 9;
export const UNLINK = 10;
export const RMDIR = 11;
export const RENAME = 12;
export const LINK = 13;
export const OPEN = 14;
export const READ = 15;
export const WRITE = 16;
export const STATFS = 17;
export const RELEASE = 18;
export const FSYNC = 20;
export const SETXATTR = 21;
export const GETXATTR = 22;
export const LISTXATTR = 23;
export const REMOVEXATTR = 24;
export const FLUSH = 25;
export const INIT = 26;
export const OPENDIR = 27;
export const READDIR = 28;
export const RELEASEDIR = 29;
export const FSYNCDIR = 30;
export const ACCESS = 34;
export const CREATE = 35;
export const INTERRUPT = 36;
export const DESTROY = 38;
export const IOCTL = 39;
export const BATCH_FORGET = 42;
export const FALLOCATE = 43;
export const RENAME2 = 45;
export const LSEEK = 46;
export const COPY_FILE_RANGE = 47;
export const SYNCFS = 50;
export const TMPFILE = 51;
export const STATX = 52;
export const COPY_FILE_RANGE_64 = 53;
export const OPCODES = 54;

// INIT flags; the second group counts from bit 32, `flags2`.
const ASYNC_READ = 1 << 0;
const ATOMIC_O_TRUNC = 1 << 3;
const EXPORT_SUPPORT = 1 << 4;
const BIG_WRITES = 1 << 5;
const DONT_MASK = 1 << 6;
const HAS_IOCTL_DIR = 1 << 11;
const ASYNC_DIO = 1 << 15;
const PARALLEL_DIROPS = 1 << 18;
const POSIX_ACL = 1 << 20;
const MAX_PAGES = 1 << 22;
const EXPLICIT_INVAL_DATA = 1 << 25;
const HANDLE_KILLPRIV_V2 = 1 << 28;
const SETXATTR_EXT = 1 << 29;
const INIT_EXT = 1 << 30;
const DIRECT_IO_ALLOW_MMAP = 1 << (36 - 32);

/**
 * What we take of what the kernel offers (design §5). Never WRITEBACK_CACHE (§6), nor the lock
 * flags: the kernel's local locks are what 02 §22.4 wants. Nor READDIRPLUS: names are valid for no
 * time, so the kernel asks for each again and what came with the listing was made in vain.
 */
export const WANTED_FLAGS = ASYNC_READ | ATOMIC_O_TRUNC | EXPORT_SUPPORT | BIG_WRITES | DONT_MASK |
  HAS_IOCTL_DIR | ASYNC_DIO | PARALLEL_DIROPS | MAX_PAGES |
  EXPLICIT_INVAL_DATA | HANDLE_KILLPRIV_V2 | SETXATTR_EXT | INIT_EXT;
/** Only with the `acl` mount option. */
export const ACL_FLAG = POSIX_ACL;
export const WANTED_FLAGS2 = DIRECT_IO_ALLOW_MMAP;
/** Without these a mount would be wrong, not only slow. */
export const NEEDED_FLAGS = DONT_MASK | EXPLICIT_INVAL_DATA | HANDLE_KILLPRIV_V2 | SETXATTR_EXT |
  INIT_EXT | MAX_PAGES;
export const NEEDED_FLAGS2 = DIRECT_IO_ALLOW_MMAP;

/** The largest WRITE and READ: 256 pages. */
export const MAX_PAGES_VALUE = 256;
export const MAX_IO = MAX_PAGES_VALUE * 4096;

// Structure sizes.
export const IN_HEADER = 40;
export const OUT_HEADER = 16;
export const INIT_OUT = 64;
export const ENTRY_OUT = 128;
export const ATTR = 88;
export const ATTR_OUT = 104;
export const OPEN_OUT = 16;
export const CREATE_OUT = ENTRY_OUT + OPEN_OUT;
export const STATFS_OUT = 80;
export const STATX_OUT = 288;
export const WRITE_IN = 40;
export const WRITE_OUT = 8;
export const GETXATTR_OUT = 8;
export const LSEEK_OUT = 8;
export const IOCTL_IN = 32;
export const IOCTL_OUT = 16;
export const DIRENT = 24;
export const FORGET_ONE = 16;

// OPEN reply flags.
export const FOPEN_DIRECT_IO = 1 << 0;
export const FOPEN_KEEP_CACHE = 1 << 1;

// SETATTR valid bits.
export const FATTR_MODE = 1 << 0;
export const FATTR_UID = 1 << 1;
export const FATTR_GID = 1 << 2;
export const FATTR_SIZE = 1 << 3;
export const FATTR_ATIME = 1 << 4;
export const FATTR_MTIME = 1 << 5;
export const FATTR_FH = 1 << 6;
export const FATTR_ATIME_NOW = 1 << 7;
export const FATTR_MTIME_NOW = 1 << 8;
export const FATTR_CTIME = 1 << 10;
export const FATTR_KILL_SUIDGID = 1 << 11;

export const WRITE_CACHE = 1 << 0;
export const WRITE_KILL_SUIDGID = 1 << 2;
export const OPEN_KILL_SUIDGID = 1 << 0;
export const SETXATTR_ACL_KILL_SGID = 1 << 0;
export const IOCTL_COMPAT = 1 << 0;

// Notifications.
export const NOTIFY_INVAL_INODE = 2;
export const NOTIFY_INVAL_ENTRY = 3;

/** Seconds for which the kernel may keep attributes: until we take them back (design §6). */
const ATTR_VALID_SEC = 86_400;

/** Rounds the length of a directory record up to its alignment. */
export const align8 = (n: number): number => (n + 7) & ~7;

/** Device numbers: the kernel's own (major << 20 | minor) as FUSE carries them, and back. */
export const encodeRdev = (rdev: number): number => {
  const major = rdev >>> 20, minor = rdev & 0xfffff;
  return ((minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12)) >>> 0;
};
export const decodeRdev = (dev: number): number => {
  const major = dev >>> 8 & 0xfff, minor = (dev & 0xff) | (dev >>> 12 & 0xfff00);
  return (major << 20 | minor) >>> 0;
};

/** The time at byte `time` (`Inode.ATIME` …): seconds, two's complement, and nanoseconds. */
function putTime(v: DataView, secAt: number, nsecAt: number, inode: Inode, time: number): void {
  const from = inode.v, o = inode.o + time;
  v.setUint32(secAt, from.getUint32(o, true), true);
  v.setUint32(secAt + 4, from.getUint32(o + 4, true), true);
  v.setUint32(nsecAt, from.getUint32(o + 8, true), true);
}

/** `st_blocks` in units of 512 bytes (05 §2.2). */
function putBlocks(v: DataView, o: number, inode: Inode): void {
  // Up to 2^56, of which the upper word is that of an eighth of it.
  const blocks = inode.onlineBlocks + inode.offlineBlocks;
  v.setUint32(o, blocks * 8, true);
  v.setUint32(o + 4, blocks / 0x2000_0000, true);
}

/** struct fuse_attr at byte `o` of a zeroed or reused buffer. */
export function putAttr(v: DataView, o: number, ino: number, inode: Inode): void {
  setU64(v, o, ino);
  v.setUint32(o + 8, inode.sizeLo, true);
  v.setUint32(o + 12, inode.sizeHi, true);
  putBlocks(v, o + 16, inode);
  putTime(v, o + 24, o + 48, inode, Inode.ATIME);
  putTime(v, o + 32, o + 52, inode, Inode.MTIME);
  putTime(v, o + 40, o + 56, inode, Inode.CTIME);
  v.setUint32(o + 60, inode.mode, true);
  v.setUint32(o + 64, inode.nlink, true);
  v.setUint32(o + 68, inode.uid, true);
  v.setUint32(o + 72, inode.gid, true);
  v.setUint32(o + 76, encodeRdev(inode.rdev), true);
  v.setUint32(o + 80, 4096, true);
  v.setUint32(o + 84, 0, true);
}

/** struct fuse_entry_out: the name may not be kept, the attributes may. Returns its size. */
export function putEntry(v: DataView, o: number, ino: number, inode: Inode): number {
  setU64(v, o, ino);
  setU64(v, o + 8, 0);
  setU64(v, o + 16, 0);
  setU64(v, o + 24, ATTR_VALID_SEC);
  setU64(v, o + 32, 0);
  putAttr(v, o + 40, ino, inode);
  return ENTRY_OUT;
}

/** struct fuse_attr_out. Returns its size. */
export function putAttrOut(v: DataView, o: number, ino: number, inode: Inode): number {
  setU64(v, o, ATTR_VALID_SEC);
  setU64(v, o + 8, 0);
  putAttr(v, o + 16, ino, inode);
  return ATTR_OUT;
}

/** struct fuse_open_out. Returns its size. */
export function putOpen(v: DataView, o: number, fh: number, flags: number): number {
  setU64(v, o, fh);
  v.setUint32(o + 8, flags, true);
  v.setUint32(o + 12, 0, true);
  return OPEN_OUT;
}

const STATX_BASIC_AND_BTIME = 0xfff;

/** struct fuse_statx_out, creation time included. Returns its size. */
export function putStatx(v: DataView, o: number, ino: number, inode: Inode): number {
  for (let i = 0; i < STATX_OUT; i += 4) v.setUint32(o + i, 0, true);
  setU64(v, o, ATTR_VALID_SEC);
  const s = o + 32;
  v.setUint32(s, STATX_BASIC_AND_BTIME, true);
  v.setUint32(s + 4, 4096, true);
  v.setUint32(s + 16, inode.nlink, true);
  v.setUint32(s + 20, inode.uid, true);
  v.setUint32(s + 24, inode.gid, true);
  v.setUint16(s + 28, inode.mode, true);
  setU64(v, s + 32, ino);
  v.setUint32(s + 40, inode.sizeLo, true);
  v.setUint32(s + 44, inode.sizeHi, true);
  putBlocks(v, s + 48, inode);
  let at = s + 64;
  for (const time of [Inode.ATIME, Inode.CRTIME, Inode.CTIME, Inode.MTIME]) {
    putTime(v, at, at + 8, inode, time);
    at += 16;
  }
  v.setUint32(s + 128, inode.rdev >>> 20, true);
  v.setUint32(s + 132, inode.rdev & 0xfffff, true);
  return STATX_OUT;
}

/**
 * struct fuse_dirent; the name is the `length` bytes at byte `from` of `names`. The caller has seen
 * that it fits. Returns its padded size.
 */
export function putDirent(
  v: DataView,
  bytes: Uint8Array,
  o: number,
  ino: number,
  next: number,
  type: number,
  names: Uint8Array,
  from: number,
  length: number,
): number {
  setU64(v, o, ino);
  setU64(v, o + 8, next);
  v.setUint32(o + 16, length, true);
  v.setUint32(o + 20, type, true);
  // Names are short: loops beat calls.
  let at = o + DIRENT;
  for (let i = 0; i < length; i++) bytes[at++] = names[from + i]!;
  const padded = o + align8(DIRENT + length);
  while (at < padded) bytes[at++] = 0;
  return padded - o;
}

/** Where to continue after the entry at `o`. */
export function setDirentNext(v: DataView, o: number, next: number): void {
  setU64(v, o + 8, next);
}

export interface StatfsValues {
  blocks: number;
  bfree: number;
  bavail: number;
  files: number;
  ffree: number;
  bsize: number;
  namelen: number;
}

/** struct fuse_statfs_out. Returns its size. */
export function putStatfs(v: DataView, o: number, s: StatfsValues): number {
  for (let i = 0; i < STATFS_OUT; i += 4) v.setUint32(o + i, 0, true);
  setU64(v, o, s.blocks);
  setU64(v, o + 8, s.bfree);
  setU64(v, o + 16, s.bavail);
  setU64(v, o + 24, s.files);
  setU64(v, o + 32, s.ffree);
  v.setUint32(o + 40, s.bsize, true);
  v.setUint32(o + 44, s.namelen, true);
  v.setUint32(o + 48, s.bsize, true);
  return STATFS_OUT;
}
