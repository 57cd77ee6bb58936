/**
 * Inodes as operations see them: the item's value is the truth, there is no inode cache beside the
 * item cache. Reading is a view over the cached value; changing edits a private copy that
 * `writeInode` puts back together with the index items (02 §3, §4).
 *
 * Invariants: every written inode item carries meta_seq = T and has exactly one meta_seq index item
 * at it; a regular file also has exactly one data_seq index item at its data_seq. The index values
 * that an inode's items have now are those of its item before the edit.
 */

import { groupStart } from "../format/lock_ranges.ts";
import { TYPE_INODE_INDEX_DATA_SEQ, TYPE_INODE_INDEX_META_SEQ } from "../format/constants.ts";
import { ENOENT } from "../format/errno.ts";
import { dataSeqKey, inodeKey, metaSeqKey } from "../format/item_keys.ts";
import { Inode } from "../format/items.ts";
import type { Key } from "../format/key.ts";
import { LOCK_READ, LOCK_WRITE, LOCK_WRITE_ONLY } from "../format/wire.ts";
import { assert, CorruptError, errnoError } from "./errors.ts";
import type { Fs } from "./fs.ts";
import type { Item } from "./item.ts";
import type { ClusterLock } from "./lock_client.ts";
import type { Op } from "./op.ts";
import type { HoldOptions } from "./trans.ts";

export const S_IFMT = 0o170000;
export const S_IFLNK = 0o120000;
export const S_IFREG = 0o100000;
export const S_IFBLK = 0o060000;
export const S_IFDIR = 0o040000;
export const S_IFCHR = 0o020000;
export const S_ISUID = 0o4000;
export const S_ISGID = 0o2000;
export const S_IXGRP = 0o010;

export const isDir = (mode: number): boolean => (mode & S_IFMT) === S_IFDIR;
export const isReg = (mode: number): boolean => (mode & S_IFMT) === S_IFREG;
export const isLnk = (mode: number): boolean => (mode & S_IFMT) === S_IFLNK;

const EMPTY = new Uint8Array(0);

/** One inode within one operation. */
export class InodeHandle {
  // Declared, not defined: else each would be stored twice, first as undefined.
  declare private readonly op: Op;
  declare readonly ino: number;
  declare readonly lock: ClusterLock;
  /** As it was found; null for a new inode. */
  declare readonly item: Item | null;
  /** No item exists yet. */
  declare isNew: boolean;
  /** The inode's fields: the cached value, to be changed through `edit` only. */
  declare inode: Inode;
  /** What its index items say now; -1 while `isNew`. */
  declare metaSeq: number;
  declare dataSeq: number;

  private constructor(op: Op, ino: number, lock: ClusterLock, item: Item | null, inode: Inode) {
    this.op = op;
    this.ino = ino;
    this.lock = lock;
    this.item = item;
    this.isNew = item === null;
    this.inode = inode;
    this.metaSeq = item === null ? -1 : inode.metaSeq;
    this.dataSeq = item === null ? -1 : inode.dataSeq;
  }

  /** An inode over its item's value; CorruptError for fields that no inode has. */
  static existing(op: Op, fs: Fs, ino: number, lock: ClusterLock, item: Item): InodeHandle {
    const inode = Inode.over(item.view, item.off, item.length, fs.fmtVers);
    const { fault } = inode;
    if (fault !== null) throw new CorruptError(`inode ${ino}: ${fault}`);
    return new InodeHandle(op, ino, lock, item, inode);
  }

  /** A new inode, all fields zero; `writeInode` creates its items. One per operation. */
  static fresh(op: Op, fs: Fs, ino: number, lock: ClusterLock): InodeHandle {
    const { inode } = fs.scratch;
    inode.zero();
    return new InodeHandle(op, ino, lock, null, inode);
  }

  /**
   * The fields, to be changed: in apply only (a new inode's also before), because it is the cached
   * value itself. `writeInode` must follow.
   */
  edit(): Inode {
    if (!this.isNew) {
      assert(this.op.applying, "an inode is changed while gathering");
      // A value of the shorter kind is upgraded when it is written.
      if (!this.inode.hasProj) {
        const copy = new Uint8Array(Inode.SIZE);
        copy.set(this.inode.bytes);
        this.inode = Inode.at(copy);
      }
    }
    return this.inode;
  }

  get isDir(): boolean {
    return isDir(this.inode.mode);
  }
  get isReg(): boolean {
    return isReg(this.inode.mode);
  }
}

/** Is `length` one that an inode item may have on this volume (02 §3.1)? */
function validLength(fs: Fs, length: number): boolean {
  return length === Inode.V1_SIZE || (length === Inode.SIZE && fs.fmtVers >= 2);
}

/**
 * Locks the inode's group in `mode` (LOCK_READ or LOCK_WRITE) and reads its item; null when it is
 * gone, EIO for a bad length or fields that no inode has: here, once, for every operation, so that
 * none finds out after its first change. The handle's `inode` is valid until the run ends.
 */
export function findInode(op: Op, fs: Fs, ino: number, mode: number): InodeHandle | null {
  const lock = fs.locks.inode(ino);
  op.lock(lock, mode);
  const item = fs.items.lookup(op, lock, inodeKey(ino));
  if (item === null) return null;
  if (!validLength(fs, item.length)) {
    throw new CorruptError(`inode ${ino}: item of ${item.length} bytes`);
  }
  return InodeHandle.existing(op, fs, ino, lock, item);
}

/** As `findInode`; ENOENT when the item is gone. */
export function getInode(op: Op, fs: Fs, ino: number, mode: number): InodeHandle {
  const h = findInode(op, fs, ino, mode);
  if (h === null) throw errnoError(ENOENT);
  return h;
}

export const readInode = (op: Op, fs: Fs, ino: number): InodeHandle =>
  getInode(op, fs, ino, LOCK_READ);

export const lockInode = (op: Op, fs: Fs, ino: number): InodeHandle =>
  getInode(op, fs, ino, LOCK_WRITE);

/** One inode that an operation will write. */
export interface InodeUpdate {
  readonly h: InodeHandle;
  /** Will data_seq become T? (A new inode's does anyway.) */
  readonly dataSeq: boolean;
}

/**
 * The last step of gathering an operation that writes inodes (02 §4.3): pins the index locks that
 * their new and old index items need, then takes the hold. Returns T. Throws ENOSPC for an
 * allocating hold when space is low.
 */
export function gatherUpdate(
  op: Op,
  fs: Fs,
  updates: readonly InodeUpdate[],
  hold: HoldOptions,
): number {
  const t = op.transSeq();
  for (const { h, dataSeq } of updates) {
    assert(op.holdsLock(h.lock, LOCK_WRITE), "an inode is written without its WRITE lock");
    lockIndex(op, fs, TYPE_INODE_INDEX_META_SEQ, t, h.metaSeq);
    if (h.isNew ? isReg(h.inode.mode) : dataSeq && h.isReg) {
      lockIndex(op, fs, TYPE_INODE_INDEX_DATA_SEQ, t, h.dataSeq);
    }
  }
  assert(op.hold(hold) === t, "the transaction changed within one run");
  return t;
}

/** Pins the index locks of a move from `old` (-1: new inode) to `t`. */
function lockIndex(op: Op, fs: Fs, type: number, t: number, old: number): void {
  if (t === old) return;
  op.lock(fs.locks.index(type, t), LOCK_WRITE_ONLY);
  if (old >= 0 && groupStart(old) !== groupStart(t)) {
    op.lock(fs.locks.index(type, old), LOCK_WRITE_ONLY);
  }
}

/**
 * Stores the edited fields in the open transaction `t` with meta_seq = t, and moves the index items
 * (02 §4.2). In apply only, after `gatherUpdate` promised this inode.
 */
export function writeInode(op: Op, fs: Fs, h: InodeHandle, t: number): void {
  const inode = h.edit();
  inode.metaSeq = t;
  if (h.metaSeq !== t) {
    moveIndex(op, fs, h, TYPE_INODE_INDEX_META_SEQ, metaSeqKey, t, h.metaSeq);
    h.metaSeq = t;
  }
  const dataSeq = inode.dataSeq;
  if (h.dataSeq !== dataSeq) {
    if (isReg(inode.mode)) {
      moveIndex(op, fs, h, TYPE_INODE_INDEX_DATA_SEQ, dataSeqKey, dataSeq, h.dataSeq);
    }
    h.dataSeq = dataSeq;
  }
  const length = Inode.sizeOf(fs.fmtVers);
  if (h.item !== null) {
    fs.items.updateAt(op, h.lock, h.item, inode.v, inode.o, length);
    return;
  }
  const val = new Uint8Array(inode.v.buffer, inode.v.byteOffset + inode.o, length);
  if (h.isNew) fs.items.create(op, h.lock, inodeKey(h.ino), val);
  else fs.items.update(op, h.lock, inodeKey(h.ino), val);
  h.isNew = false;
}

function moveIndex(
  op: Op,
  fs: Fs,
  h: InodeHandle,
  type: number,
  key: (seq: number, ino: number) => Key,
  seq: number,
  old: number,
): void {
  // No committed item has the number of the open transaction.
  const fresh = seq === fs.trans.seq;
  fs.items.createForce(op, fs.locks.index(type, seq), key(seq, h.ino), EMPTY, h.lock, fresh);
  if (old >= 0) fs.items.deleteForce(op, fs.locks.index(type, old), key(old, h.ino), h.lock);
}

/** Blind-deletes the index items of an inode that is being deleted (02 §6.4). */
export function deleteIndexItems(op: Op, fs: Fs, h: InodeHandle): void {
  const ino = h.ino;
  const meta = fs.locks.index(TYPE_INODE_INDEX_META_SEQ, h.metaSeq);
  fs.items.deleteForce(op, meta, metaSeqKey(h.metaSeq, ino), h.lock);
  if (!h.isReg) return;
  const data = fs.locks.index(TYPE_INODE_INDEX_DATA_SEQ, h.dataSeq);
  fs.items.deleteForce(op, data, dataSeqKey(h.dataSeq, ino), h.lock);
}

/** Pins the locks that `deleteIndexItems` needs. */
export function lockIndexItems(op: Op, fs: Fs, h: InodeHandle): void {
  op.lock(fs.locks.index(TYPE_INODE_INDEX_META_SEQ, h.metaSeq), LOCK_WRITE_ONLY);
  if (h.isReg) op.lock(fs.locks.index(TYPE_INODE_INDEX_DATA_SEQ, h.dataSeq), LOCK_WRITE_ONLY);
}

/** The file type of a directory entry for `mode` (02 §7.1): FIFO 0 … SOCK 6. */
export function direntType(mode: number): number {
  return (mode & S_IFMT) >> 13;
}
