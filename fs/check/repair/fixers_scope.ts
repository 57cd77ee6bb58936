/**
 * What all that mends items shares: the round, its changes so far, and what was done that the report
 * does not say by itself.
 */

import { ZONE_FS } from "../../../format/constants.ts";
import { type Inode, INODE_COUNT_LIMIT, inodeKey, orphanKey } from "../../../format/items.ts";
import { Key } from "../../../format/key.ts";
import type { Values } from "../problems.ts";
import { type Entries, isDirMode } from "./entries.ts";
import type { ItemPatch } from "./item_patch.ts";
import type { Round } from "./round.ts";

export const U64_MAX = 0xffff_ffff_ffff_ffffn;
export const S_IFMT = 0o170000;
export const S_IFDIR = 0o040000;
export const S_IFREG = 0o100000;
export const S_IFLNK = 0o120000;

/** Positions and ids from here on are damage: no counter can be beyond them. */
export const LAST_NUMBER = INODE_COUNT_LIMIT - 1;

/** A value of a problem record. */
export const num = (values: Values, name: string): number => Number(values[name]);
export const text = (values: Values, name: string): string => String(values[name]);

/** Blocks that an inode counts beyond those of its extents with right flags. */
export interface UncountedBlocks {
  readonly ino: number;
  online: number;
  offline: number;
}

export class FixScope {
  /** Lines for the user. */
  readonly notes: string[] = [];
  /** Inodes that have been dealt with as a whole. */
  readonly removed = new Set<number>();
  /** Inodes whose extents outside the device have been dealt with. */
  readonly sifted = new Set<number>();
  /** Inodes of which extents got other lengths or flags: the next round counts their blocks again. */
  readonly cut = new Set<number>();
  /** Of the inode whose extents had wrong flags last. */
  uncounted: UncountedBlocks | null = null;

  constructor(
    readonly round: Round,
    readonly patch: ItemPatch,
    readonly entries: Entries,
    /** What loses something may be done. */
    readonly lossy: boolean,
  ) {}

  setOrRemove(key: Key, set: boolean): boolean {
    if (set) this.patch.set(key);
    else this.patch.remove(key);
    return true;
  }

  edit(ino: number, change: (inode: Inode) => void): boolean {
    const inode = this.patch.inode(ino);
    if (inode === null) return false;
    change(inode);
    return true;
  }

  /** Whether an inode is of a type by now: this round may have mended its mode. */
  isOf(ino: number, format: number): boolean {
    const inode = this.patch.peekInode(ino);
    return inode !== null && (inode.mode & S_IFMT) === format;
  }

  /** The items of an inode, of types first to last. */
  range(ino: number, first: number, last: number): { key: Key; val: Uint8Array }[] {
    return [...this.each(ino, first, last)];
  }

  /** The same one by one, as there may be millions; nothing may be changed meanwhile. */
  each(ino: number, first: number, last: number): Iterable<{ key: Key; val: Uint8Array }> {
    return this.patch.each(...rangeOf(ino, first, last));
  }

  /** Whether an inode has items of types first to last. */
  has(ino: number, first: number, last: number): boolean {
    return this.patch.first(...rangeOf(ino, first, last)) !== null;
  }

  /** The keys of the items of an inode, of types first to last. */
  keys(ino: number, first: number, last: number): Key[] {
    const keys: Key[] = [];
    for (const { key } of this.each(ino, first, last)) keys.push(key);
    return keys;
  }

  removeRange(ino: number, first: number, last: number): boolean {
    if (!this.lossy) return false;
    for (const key of this.keys(ino, first, last)) this.patch.remove(key);
    return true;
  }

  /** The same, which is said: `what` are these items. */
  loseRange(ino: number, first: number, last: number, what: string): boolean {
    if (!this.lossy || !this.has(ino, first, last)) return this.lossy;
    this.notes.push(`inode ${ino}: ${what} were removed`);
    return this.removeRange(ino, first, last);
  }

  /** Gives an inode that has no name one in lost+found. */
  connect(ino: number): boolean {
    const names = this.entries.backrefs(ino).length;
    // This round has found one already.
    if (names > 0) return this.edit(ino, (i) => i.nlink = isDirMode(i.mode) ? i.nlink : names);
    const name = this.entries.connect(ino);
    if (name === null) return false;
    this.notes.push(`inode ${ino} is now /lost+found/${name}`);
    return true;
  }

  /** An inode with everything it has. Its blocks and the marks of its xattrs are found later. */
  removeFile(ino: number): boolean {
    if (!this.lossy) return false;
    const inode = this.patch.peekInode(ino);
    for (const { dir, pos } of this.entries.backrefs(ino)) this.entries.removeName(dir, pos, ino);
    for (const key of this.keys(ino, 0, 255)) {
      if (!key.equals(inodeKey(ino))) this.patch.remove(key);
    }
    if (inode !== null) {
      this.patch.removeInode(ino);
      this.patch.inodeDelta--;
      if (this.patch.get(orphanKey(ino)) !== null) this.patch.remove(orphanKey(ino));
    }
    this.removed.add(ino);
    this.notes.push(`inode ${ino} was removed`);
    return true;
  }
}

/** First and last key of the items of an inode, of types first to last. */
const rangeOf = (ino: number, first: number, last: number): [Key, Key] => [
  Key.of(ZONE_FS, ino, first),
  Key.of(ZONE_FS, ino, last, U64_MAX, U64_MAX, 255),
];
