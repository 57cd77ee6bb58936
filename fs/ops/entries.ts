/**
 * Directory entries as items: one link is a dirent, a readdir and a backref item with one and the
 * same value; all three change or none (02 §7.1–7.3). Names are bytes and never become strings.
 */

import { DT_WHT, NAME_MAX } from "../../format/constants.ts";
import { EINVAL, ENAMETOOLONG } from "../../format/errno.ts";
import type { Words } from "../../format/hash.ts";
import { backrefKey, direntKey, readdirKey } from "../../format/item_keys.ts";
import { Dirent } from "../../format/items.ts";
import { Key } from "../../format/key.ts";
import { CorruptError, errnoError } from "../errors.ts";
import type { Fs } from "../fs.ts";
import type { Item } from "../item.ts";
import type { ClusterLock } from "../lock_client.ts";
import type { Op } from "../op.ts";

const U32_MAX = 0xffff_ffff;

/** Throws ENAMETOOLONG or EINVAL for what cannot be a name; the kernel refuses NUL and `/`. */
export function checkName(name: Uint8Array): void {
  if (name.length > NAME_MAX) throw errnoError(ENAMETOOLONG);
  if (name.length === 0) throw errnoError(EINVAL);
}

/** Counts and logs a contradiction of 02 §23; the error to throw for it. */
export function corruption(fs: Fs, source: string, details: string): CorruptError {
  fs.reportCorruption(source, details);
  return new CorruptError(`${source}: ${details}`, true);
}

/** The fields of a stored entry. */
export class Entry extends Dirent {
  private constructor(readonly item: Item) {
    super(item.view, item.off);
  }

  /** The entry in an item; `source` names the corruption that a bad length is (02 §23). */
  static of(fs: Fs, item: Item, source: string): Entry {
    const nameLen = item.length - Dirent.SIZE;
    if (nameLen < 1 || nameLen > NAME_MAX) {
      throw corruption(fs, source, `item ${item.key} has a name of ${nameLen} bytes`);
    }
    const { view, off } = item;
    if ((view.getUint32(off + 4, true) | view.getUint32(off + 20, true)) >>> 21 !== 0) {
      throw new CorruptError(`entry ${item.key} has an inode number or position beyond 2^53`);
    }
    return new Entry(item);
  }

  /** A window of the value. */
  get name(): Uint8Array {
    return this.item.val.subarray(Dirent.SIZE);
  }
  get nameLen(): number {
    return this.item.length - Dirent.SIZE;
  }
  isNamed(name: Uint8Array): boolean {
    if (this.nameLen !== name.length) return false;
    const { vals, off } = this.item, from = off + Dirent.SIZE;
    for (let i = 0; i < name.length; i++) if (vals[from + i] !== name[i]) return false;
    return true;
  }
}

/**
 * The entry called `name` in directory `dir`, or null. Needs the directory's lock in a readable
 * mode; all positions of that hash are known afterwards, so that entries can be created there.
 */
export function findEntry(
  op: Op,
  fs: Fs,
  lock: ClusterLock,
  dir: number,
  name: Uint8Array,
  hash: Words,
): Entry | null {
  const first = direntKey(dir, hash, 0);
  const last = Key.words(
    first.zone,
    first.firstHi,
    first.firstLo,
    first.type,
    hash.hi,
    hash.lo,
    U32_MAX,
    U32_MAX,
    255,
  );
  let key = first;
  for (;;) {
    const item = fs.items.next(op, lock, key, last);
    if (item === null) return null;
    const entry = Entry.of(fs, item, "SC_DIRENT_NAME_LEN");
    if (entry.isNamed(name)) return entry;
    key = item.key.inc();
  }
}

/** One link: where it is, what it leads to, and the locks its items are under. */
export interface Link {
  readonly dir: number;
  readonly dirLock: ClusterLock;
  readonly pos: number;
  readonly hash: Words;
  readonly ino: number;
  readonly inoLock: ClusterLock;
}

/**
 * Makes sure that the items of a new link do not exist: that no entry has its name is not enough,
 * another name can have its hash. `fresh`: the inode is new, its items are known.
 */
export function gatherAddLink(op: Op, fs: Fs, link: Link, fresh: boolean): void {
  mustNotExist(op, fs, link.dirLock, direntKey(link.dir, link.hash, link.pos));
  mustNotExist(op, fs, link.dirLock, readdirKey(link.dir, link.pos));
  if (!fresh) mustNotExist(op, fs, link.inoLock, backrefKey(link.ino, link.dir, link.pos));
}

function mustNotExist(op: Op, fs: Fs, lock: ClusterLock, key: Key): void {
  if (fs.items.lookup(op, lock, key) !== null) {
    throw new CorruptError(`item ${key} exists at a position that was never used`);
  }
}

/** Apply: creates the three items. */
export function addLink(op: Op, fs: Fs, link: Link, type: number, name: Uint8Array): void {
  const { entry, entryBytes } = fs.scratch;
  entry.ino = link.ino;
  entry.hashHi = link.hash.hi;
  entry.hashLo = link.hash.lo;
  entry.pos = link.pos;
  entry.type = type;
  entryBytes.set(name, Dirent.SIZE);
  const val = entryBytes.subarray(0, Dirent.SIZE + name.length);
  fs.items.create(op, link.dirLock, direntKey(link.dir, link.hash, link.pos), val);
  fs.items.create(op, link.dirLock, readdirKey(link.dir, link.pos), val);
  fs.items.create(op, link.inoLock, backrefKey(link.ino, link.dir, link.pos), val);
}

/** A link that is there: its three items, all found and with one and the same value. */
export interface OldLink {
  readonly dirLock: ClusterLock;
  readonly inoLock: ClusterLock;
  readonly dirent: Item;
  readonly readdir: Item;
  readonly backref: Item;
}

/** The link of `entry`, a dirent in `dir`, to an inode under `inoLock`; EIO unless its items agree. */
export function gatherOldLink(
  op: Op,
  fs: Fs,
  dir: number,
  dirLock: ClusterLock,
  entry: Entry,
  inoLock: ClusterLock,
): OldLink {
  const { ino, pos, item } = entry;
  const readdir = fs.items.lookup(op, dirLock, readdirKey(dir, pos));
  const backref = fs.items.lookup(op, inoLock, backrefKey(ino, dir, pos));
  if (
    readdir === null || !readdir.hasValueOf(item) || backref === null || !backref.hasValueOf(item)
  ) {
    throw new CorruptError(`the items of the link to inode ${ino} at ${dir}:${pos} disagree`);
  }
  return { dirLock, inoLock, dirent: item, readdir, backref };
}

/** Apply: deletes the three items. */
export function removeLink(op: Op, fs: Fs, link: OldLink): void {
  const { dirLock, inoLock, dirent, readdir, backref } = link;
  fs.items.delete(op, dirLock, dirent.key, dirent);
  fs.items.delete(op, dirLock, readdir.key, readdir);
  fs.items.delete(op, inoLock, backref.key, backref);
}

/** The d_type of a stored entry type: DT_FIFO 1 … DT_WHT 14, DT_UNKNOWN 0 for greater ones. */
export function dtOf(type: number): number {
  if (type === 0) return 1;
  return type <= DT_WHT ? type * 2 : 0;
}
