/**
 * Operations on names: look up, create, link, unlink, read symbolic links (02 §5, §7, §8). Rename is
 * in rename.ts, reading directories in readdir.ts.
 *
 * Each is one operation with one hold: everything that can fail is checked while gathering, under
 * the WRITE locks of all inodes involved; what the kernel believes of a name is never trusted.
 * Operations that answer with an inode number count one kernel lookup for it in `fs.refs`: whoever
 * does not pass the number on to the kernel must `forget` it. They leave its handle in `op.result`.
 */

import {
  DIRENT_FIRST_POS,
  INODE_FLAG_RETENTION,
  LINK_MAX,
  QUOTA_OP_INODE,
  ROOT_INO,
  SYMLINK_MAX_SIZE,
  TYPE_LINK_BACKREF,
  XATTR_PART_SIZE,
  ZONE_FS,
} from "../../format/constants.ts";
import {
  EEXIST,
  EINVAL,
  EISDIR,
  EMLINK,
  ENAMETOOLONG,
  ENOENT,
  ENOTDIR,
  ENOTEMPTY,
  EPERM,
} from "../../format/errno.ts";
import { direntHash } from "../../format/hash.ts";
import { backrefKey, lastInodeKey, orphanKey, symlinkKey } from "../../format/item_keys.ts";
import { Inode } from "../../format/items.ts";
import { Key } from "../../format/key.ts";
import { LOCK_READ, LOCK_WRITE, LOCK_WRITE_ONLY } from "../../format/wire.ts";
import { ROOT_CALLER } from "../caller.ts";
import { CorruptError, errnoError } from "../errors.ts";
import type { Fs } from "../fs.ts";
import {
  direntType,
  findInode,
  gatherUpdate,
  InodeHandle,
  isDir,
  isLnk,
  isReg,
  lockInode,
  readInode,
  S_IFLNK,
  S_IFMT,
  S_ISGID,
  writeInode,
} from "../inode.ts";
import type { ClusterLock } from "../lock_client.ts";
import type { Op } from "../op.ts";
import { inheritAcl, type InheritedAcl, noAcl, storeInheritedAcl } from "./acl.ts";
import {
  addLink,
  checkName,
  corruption,
  type Entry,
  findEntry,
  gatherAddLink,
  gatherOldLink,
  type Link,
  type OldLink,
  removeLink,
} from "./entries.ts";

const DOT = 0x2e;
const ALL_PERMISSIONS = 0o7777;
const EMPTY = new Uint8Array(0);

// Upper bounds of the items that an operation changes: an inode's own and its index items are five,
// a link is three, a symlink's target at most five.
const CREATE_ITEMS = 20;
const LINK_ITEMS = 14;

const isDot = (name: Uint8Array): boolean => name.length === 1 && name[0] === DOT;
const isDotDot = (name: Uint8Array): boolean =>
  name.length === 2 && name[0] === DOT && name[1] === DOT;

/**
 * The inode that `name` in `dir` leads to, or 0 when there is no such name; "." and ".." work on
 * any directory. ENAMETOOLONG; ENOENT when the inode went away in between. Counts one lookup.
 */
export function lookup(op: Op, fs: Fs, dir: number, name: Uint8Array): number {
  checkName(name);
  let ino: number;
  if (isDot(name)) ino = dir;
  else if (isDotDot(name)) ino = lookupParent(op, fs, dir);
  else {
    const lock = fs.locks.inode(dir);
    op.lock(lock, LOCK_READ);
    const entry = findEntry(op, fs, lock, dir, name, direntHash(name));
    if (entry === null) return 0;
    ino = entry.ino;
  }
  const h = ino === dir ? readInode(op, fs, ino) : linkedInode(op, fs, dir, ino, LOCK_READ);
  if (ino === dir && h.inode.nlink === 0) throw errnoError(ENOENT);
  op.apply();
  fs.refs.addLookup(ino);
  op.result = h;
  return ino;
}

/**
 * The inode that an entry in `dir` leads to; with both locks held it is there and has links, or the
 * volume is damaged.
 */
export function linkedInode(
  op: Op,
  fs: Fs,
  dir: number,
  ino: number,
  mode: number,
): InodeHandle {
  const h = findInode(op, fs, ino, mode);
  if (h === null) throw new CorruptError(`an entry in directory ${dir}: no inode ${ino}`);
  if (h.inode.nlink === 0) {
    throw new CorruptError(`an entry in directory ${dir}: inode ${ino} has no links`);
  }
  return h;
}

/** The directory that `ino`'s first link is in; the root is its own parent. ENOENT without links. */
export function lookupParent(op: Op, fs: Fs, ino: number): number {
  if (ino === ROOT_INO) return ROOT_INO;
  const lock = fs.locks.inode(ino);
  op.lock(lock, LOCK_READ);
  const last = lastInodeKey(ino, TYPE_LINK_BACKREF);
  const item = fs.items.next(op, lock, backrefKey(ino, 0, 0), last);
  if (item === null) throw errnoError(ENOENT);
  return item.key.second;
}

/** A directory that entries are to be changed in: WRITE lock, ENOENT when removed. */
export function lockDirectory(op: Op, fs: Fs, dir: number): InodeHandle {
  const h = lockInode(op, fs, dir);
  if (!h.isDir) throw errnoError(ENOTDIR);
  if (h.inode.nlink === 0) throw errnoError(ENOENT);
  return h;
}

/** What the common part of creation (02 §5.2) prepares while gathering. */
interface NewInode {
  readonly h: InodeHandle;
  readonly acl: InheritedAcl;
  readonly sec: number;
  readonly nsec: number;
}

/**
 * 02 §5.2 up to the hold: number, lock, all fields. `parent` is the directory, locked WRITE. EIO when
 * the number is in use, which is the case where the volume counts them wrongly; the next one may not be.
 */
function prepareInode(
  op: Op,
  fs: Fs,
  parent: InodeHandle,
  mode: number,
  nlink: number,
  rdev: number,
): NewInode {
  const caller = op.caller ?? ROOT_CALLER;
  const directory = isDir(mode);
  const ino = fs.inos.peek(op, directory);
  const lock = fs.locks.inode(ino);
  op.lock(lock, LOCK_WRITE);
  const used = fs.items.next(op, lock, firstItemKey(ino), lastInodeKey(ino, 255));
  if (used !== null) {
    fs.inos.take(directory);
    throw new CorruptError(`${ino} was given out as a new inode's number, but has items`);
  }

  const from = parent.inode;
  const setgid = (from.mode & S_ISGID) !== 0;
  const gid = setgid ? from.gid : caller.gid;
  if (fs.quota.applies(op)) {
    fs.quota.check({ op: QUOTA_OP_INODE, proj: from.proj, uid: caller.uid, gid });
  }
  if (setgid && directory) mode |= S_ISGID;
  const acl = isLnk(mode) ? noAcl(mode) : inheritAcl(op, fs, parent, mode, gid, caller);

  const h = InodeHandle.fresh(op, fs, ino, lock);
  const inode = h.edit();
  const { sec, nsec } = fs.clock.realtime();
  inode.nextReaddirPos = DIRENT_FIRST_POS;
  inode.version = 1 + acl.xattrs.length;
  inode.nlink = nlink;
  inode.uid = caller.uid;
  inode.gid = gid;
  inode.mode = acl.mode;
  inode.rdev = rdev;
  inode.setTime(Inode.ATIME, sec, nsec);
  inode.setTime(Inode.MTIME, sec, nsec);
  inode.setTime(Inode.CTIME, sec, nsec);
  inode.setTime(Inode.CRTIME, sec, nsec);
  copyProject(from, inode);
  return { h, acl, sec, nsec };
}

/** The parent's project id, an opaque 64-bit number, becomes the child's. */
function copyProject(from: Inode, to: Inode): void {
  if (!from.hasProj) return;
  const off = Inode.V1_SIZE;
  to.v.setUint32(to.o + off, from.v.getUint32(from.o + off, true), true);
  to.v.setUint32(to.o + off + 4, from.v.getUint32(from.o + off + 4, true), true);
}

/** 02 §5.2 after the hold: takes the number, stores the inode, its index items and ACLs. */
function storeNewInode(op: Op, fs: Fs, made: NewInode, t: number): void {
  const { h, acl } = made;
  fs.inos.take(isDir(h.inode.mode));
  h.inode.dataSeq = t;
  storeInheritedAcl(op, fs, h, acl);
  writeInode(op, fs, h, t);
  fs.trans.addInodes(op, 1);
  fs.refs.addLookup(h.ino);
}

const firstItemKey = (ino: number): Key => Key.of(ZONE_FS, ino, 0);

/** The parent's side of a new entry: position, size, times, and a subdirectory's link. */
function growParent(parent: InodeHandle, name: Uint8Array, made: NewInode, subdir: boolean): void {
  const p = parent.edit();
  p.nextReaddirPos += 1;
  p.size += name.length;
  p.setTime(Inode.MTIME, made.sec, made.nsec);
  p.setTime(Inode.CTIME, made.sec, made.nsec);
  p.bumpVersion();
  if (subdir) p.nlink += 1;
}

/** The place of an entry that is to be added to `parent`: its next position. */
export function newLink(parent: InodeHandle, hash: Link["hash"], h: InodeHandle): Link {
  return {
    dir: parent.ino,
    dirLock: parent.lock,
    pos: parent.inode.nextReaddirPos,
    hash,
    ino: h.ino,
    inoLock: h.lock,
  };
}

/**
 * create, mkdir and mknod (02 §5.3): the type bits of `mode` say what is made; `rdev` is
 * `major << 20 | minor` for devices, else 0. Umask and default ACLs are applied here. Returns the
 * new inode number and counts one lookup. EEXIST, ENAMETOOLONG, ENOENT (directory removed), EDQUOT,
 * ENOSPC.
 */
export function create(
  op: Op,
  fs: Fs,
  dir: number,
  name: Uint8Array,
  mode: number,
  rdev = 0,
): number {
  checkName(name);
  const type = mode & S_IFMT;
  if (type === 0 || isLnk(mode)) throw errnoError(EINVAL);
  return createEntry(op, fs, dir, name, type | (mode & ALL_PERMISSIONS), rdev, null);
}

/** symlink (02 §8): `target` without NUL, at most 4095 bytes (ENAMETOOLONG). */
export function symlink(
  op: Op,
  fs: Fs,
  dir: number,
  name: Uint8Array,
  target: Uint8Array,
): number {
  checkName(name);
  if (target.length + 1 > SYMLINK_MAX_SIZE) throw errnoError(ENAMETOOLONG);
  if (target.length === 0) throw errnoError(ENOENT);
  return createEntry(op, fs, dir, name, S_IFLNK | 0o777, 0, target);
}

function createEntry(
  op: Op,
  fs: Fs,
  dir: number,
  name: Uint8Array,
  mode: number,
  rdev: number,
  target: Uint8Array | null,
): number {
  const parent = lockDirectory(op, fs, dir);
  const hash = direntHash(name);
  if (findEntry(op, fs, parent.lock, dir, name, hash) !== null) throw errnoError(EEXIST);
  const subdir = isDir(mode);
  if (subdir && parent.inode.nlink >= LINK_MAX) throw errnoError(EMLINK);
  const made = prepareInode(op, fs, parent, mode, subdir ? 2 : 1, rdev);
  const { h } = made;
  const link = newLink(parent, hash, h);
  gatherAddLink(op, fs, link, true);
  const t = gatherUpdate(op, fs, [{ h: parent, dataSeq: false }, { h, dataSeq: true }], {
    allocating: true,
    items: CREATE_ITEMS + made.acl.items,
  });

  op.apply();
  if (target !== null) h.inode.size = target.length + 1;
  growParent(parent, name, made, subdir);
  storeNewInode(op, fs, made, t);
  if (target !== null) storeTarget(op, fs, h, target);
  addLink(op, fs, link, direntType(mode), name);
  writeInode(op, fs, parent, t);
  op.result = h;
  return h.ino;
}

function storeTarget(op: Op, fs: Fs, h: InodeHandle, target: Uint8Array): void {
  const stored = new Uint8Array(target.length + 1);
  stored.set(target);
  for (let nr = 0, at = 0; at < stored.length; nr++, at += XATTR_PART_SIZE) {
    const part = stored.subarray(at, Math.min(at + XATTR_PART_SIZE, stored.length));
    fs.items.create(op, h.lock, symlinkKey(h.ino, nr), part);
  }
}

/**
 * O_TMPFILE (02 §5.4): a regular file with no name, deleted when its last user goes unless it is
 * linked before. Counts one lookup.
 */
export function tmpfile(op: Op, fs: Fs, dir: number, mode: number): number {
  const parent = lockDirectory(op, fs, dir);
  if (!isReg(mode)) throw errnoError(EINVAL);
  const made = prepareInode(op, fs, parent, mode, 0, 0);
  const { h } = made;
  op.lock(fs.locks.orphan(), LOCK_WRITE_ONLY);
  const t = gatherUpdate(op, fs, [{ h: parent, dataSeq: false }, { h, dataSeq: true }], {
    allocating: true,
    items: CREATE_ITEMS + made.acl.items,
  });

  op.apply();
  storeNewInode(op, fs, made, t);
  fs.refs.setUnlinked(h.ino, true);
  createOrphan(op, fs, h.ino, h.lock);
  writeInode(op, fs, parent, t);
  op.result = h;
  return h.ino;
}

/**
 * Another name for `ino` (02 §7.6). Counts one lookup. EEXIST, EMLINK, EPERM for directories. A
 * file without links can only be one made by O_TMPFILE; whether it may get a name (not with
 * O_EXCL) the kernel has checked.
 */
export function link(op: Op, fs: Fs, ino: number, dir: number, name: Uint8Array): void {
  checkName(name);
  const parent = lockDirectory(op, fs, dir);
  const target = lockInode(op, fs, ino);
  if (target.isDir) throw errnoError(EPERM);
  const hash = direntHash(name);
  if (findEntry(op, fs, parent.lock, dir, name, hash) !== null) throw errnoError(EEXIST);
  if (target.inode.nlink >= LINK_MAX) throw errnoError(EMLINK);
  const wasOrphan = target.inode.nlink === 0;
  if (wasOrphan) op.lock(fs.locks.orphan(), LOCK_WRITE_ONLY);
  const entry = newLink(parent, hash, target);
  gatherAddLink(op, fs, entry, false);
  const t = gatherUpdate(
    op,
    fs,
    [{ h: parent, dataSeq: false }, { h: target, dataSeq: false }],
    { allocating: true, items: LINK_ITEMS },
  );

  op.apply();
  const { sec, nsec } = fs.clock.realtime();
  if (wasOrphan) {
    fs.items.deleteForce(op, fs.locks.orphan(), orphanKey(ino), target.lock);
    fs.refs.setUnlinked(ino, false);
  }
  const p = parent.edit();
  p.nextReaddirPos += 1;
  p.size += name.length;
  p.setTime(Inode.MTIME, sec, nsec);
  p.setTime(Inode.CTIME, sec, nsec);
  p.bumpVersion();
  const i = target.edit();
  i.setTime(Inode.CTIME, sec, nsec);
  i.nlink += 1;
  i.bumpVersion();
  addLink(op, fs, entry, direntType(i.mode), name);
  writeInode(op, fs, parent, t);
  writeInode(op, fs, target, t);
  fs.refs.addLookup(ino);
  op.result = target;
}

/** Removes a name that is not a directory (02 §7.7). ENOENT, EISDIR, EPERM (retention). */
export function unlink(op: Op, fs: Fs, dir: number, name: Uint8Array): void {
  removeEntry(op, fs, dir, name, false);
}

/** Removes an empty directory (02 §7.7). ENOENT, ENOTDIR, ENOTEMPTY. */
export function rmdir(op: Op, fs: Fs, dir: number, name: Uint8Array): void {
  removeEntry(op, fs, dir, name, true);
}

/** ENOTEMPTY unless a directory is empty; EIO when its links say that it has subdirectories. */
export function refuseFull({ ino, inode }: InodeHandle): void {
  if (inode.size !== 0) throw errnoError(ENOTEMPTY);
  if (inode.nlink !== 2) {
    throw new CorruptError(`the empty directory ${ino} has ${inode.nlink} links`);
  }
}

/** The link of a stored entry that is to be removed; all its items are there and agree. */
export function gatherRemoval(
  op: Op,
  fs: Fs,
  parent: InodeHandle,
  entry: Entry,
  target: InodeHandle,
): OldLink {
  const { size, nlink } = parent.inode;
  if (size < entry.nameLen) {
    throw new CorruptError(`directory ${parent.ino} is shorter than the sum of its names`);
  }
  if (target.isDir) {
    if (nlink < 3) {
      throw new CorruptError(`directory ${parent.ino} has ${nlink} links, a child too`);
    }
    if (target.inode.nlink < 2) {
      throw new CorruptError(`directory ${target.ino} has ${target.inode.nlink} links`);
    }
  }
  return gatherOldLink(op, fs, parent.ino, parent.lock, entry, target.lock);
}

/** Would the inode lose its last link if one of its names went? */
export function isLastLink(h: InodeHandle): boolean {
  return h.inode.nlink === (h.isDir ? 2 : 1);
}

/**
 * Gather for an inode about to lose its last link: the orphan lock, and room in the deletion queue.
 */
export function gatherOrphan(op: Op, fs: Fs): void {
  op.lock(fs.locks.orphan(), LOCK_WRITE_ONLY);
  fs.orphans.awaitRoom(op);
}

/** An inode that has links has no orphan item in any tree: the one that it gets now is the first. */
function createOrphan(op: Op, fs: Fs, ino: number, lock: ClusterLock): void {
  fs.items.createForce(op, fs.locks.orphan(), orphanKey(ino), EMPTY, lock, true);
}

/** Apply: the inode just lost its last link. It is deleted when nobody uses it (02 §6). */
export function becomeOrphan(op: Op, fs: Fs, ino: number, lock: ClusterLock): void {
  createOrphan(op, fs, ino, lock);
  if (!fs.refs.setUnlinked(ino, true)) fs.orphans.enqueue(ino);
}

function removeEntry(op: Op, fs: Fs, dir: number, name: Uint8Array, directory: boolean): void {
  checkName(name);
  const parent = lockInode(op, fs, dir);
  const entry = findEntry(op, fs, parent.lock, dir, name, direntHash(name));
  if (entry === null) throw errnoError(ENOENT);
  const target = linkedInode(op, fs, dir, entry.ino, LOCK_WRITE);
  if (target.isDir !== directory) throw errnoError(directory ? ENOTDIR : EISDIR);
  if (directory) refuseFull(target);
  if ((target.inode.flags & INODE_FLAG_RETENTION) !== 0) throw errnoError(EPERM);
  const link = gatherRemoval(op, fs, parent, entry, target);
  const last = isLastLink(target);
  if (last) gatherOrphan(op, fs);
  const t = gatherUpdate(
    op,
    fs,
    [{ h: parent, dataSeq: false }, { h: target, dataSeq: false }],
    { allocating: false, items: LINK_ITEMS },
  );

  op.apply();
  const { sec, nsec } = fs.clock.realtime();
  if (last) becomeOrphan(op, fs, target.ino, target.lock);
  removeLink(op, fs, link);
  const p = parent.edit();
  p.setTime(Inode.MTIME, sec, nsec);
  p.setTime(Inode.CTIME, sec, nsec);
  p.size -= name.length;
  p.bumpVersion();
  const i = target.edit();
  i.setTime(Inode.CTIME, sec, nsec);
  i.bumpVersion();
  i.nlink -= 1;
  if (directory) {
    p.nlink -= 1;
    i.nlink -= 1;
  }
  writeInode(op, fs, parent, t);
  writeInode(op, fs, target, t);
}

/** The target of a symbolic link (02 §8): a copy, without the NUL. EINVAL for other inodes. */
export function readlink(op: Op, fs: Fs, ino: number): Uint8Array {
  const h = readInode(op, fs, ino);
  if (!isLnk(h.inode.mode)) throw errnoError(EINVAL);
  const size = h.inode.size;
  if (size < 1 || size > SYMLINK_MAX_SIZE) {
    throw corruption(fs, "SC_SYMLINK_INODE_SIZE", `symlink ${ino} has size ${size}`);
  }
  const target = new Uint8Array(size);
  for (let nr = 0, at = 0; at < size; nr++, at += XATTR_PART_SIZE) {
    const item = fs.items.lookup(op, h.lock, symlinkKey(ino, nr));
    if (item === null) {
      throw corruption(fs, "SC_SYMLINK_MISSING_ITEM", `symlink ${ino} has no part ${nr}`);
    }
    const length = Math.min(XATTR_PART_SIZE, size - at);
    if (item.val.length !== length) {
      throw new CorruptError(`part ${nr} of symlink ${ino} has ${item.val.length} bytes`);
    }
    target.set(item.val, at);
  }
  if (target[size - 1] !== 0) {
    throw corruption(fs, "SC_SYMLINK_NOT_NULL_TERM", `symlink ${ino} of size ${size}`);
  }
  return target.subarray(0, target.indexOf(0));
}
