/**
 * Mending directory entries (01 §15.3): one link is three items with one value. Where they disagree
 * the value that most of them give counts; what is missing is made from it. An entry that leads to
 * no inode goes. An inode without a name gets one in lost+found.
 */

import {
  DIRENT_FIRST_POS,
  DT_BLK,
  DT_CHR,
  DT_DIR,
  DT_FIFO,
  DT_LNK,
  DT_REG,
  DT_SOCK,
  NAME_MAX,
  ROOT_INO,
  TYPE_DIRENT,
  TYPE_LINK_BACKREF,
  ZONE_FS,
} from "../../../format/constants.ts";
import { bytesEqual, toHex } from "../../../format/bytes.ts";
import { direntHash } from "../../../format/hash.ts";
import {
  backrefKey,
  Dirent,
  direntKey,
  type Inode,
  INODE_COUNT_LIMIT,
  orphanKey,
  readdirKey,
} from "../../../format/items.ts";
import { Key } from "../../../format/key.ts";
import { assert } from "../../errors.ts";
import { isExact, rawU64, viewOf } from "../raw.ts";
import { nameText } from "../text.ts";
import { DirentIndex, type IndexSpace, posOf } from "./dirent_index.ts";
import type { ItemPatch } from "./item_patch.ts";

const U32 = 0xffff_ffff;
const S_IFMT = 0o170000;
const S_IFDIR = 0o040000;
const NONE = new Uint8Array(0);
/** Names of an inode that are counted for each of them. */
const MOST_COUNTED = 1000;
const LOST_FOUND = new TextEncoder().encode("lost+found");

/** Entry type of a mode; undefined for modes that no file has. */
export function entryType(mode: number): number | undefined {
  switch (mode & S_IFMT) {
    case 0o010000:
      return DT_FIFO;
    case 0o020000:
      return DT_CHR;
    case S_IFDIR:
      return DT_DIR;
    case 0o060000:
      return DT_BLK;
    case 0o100000:
      return DT_REG;
    case 0o120000:
      return DT_LNK;
    case 0o140000:
      return DT_SOCK;
    default:
      return undefined;
  }
}

export const isDirMode = (mode: number): boolean => (mode & S_IFMT) === S_IFDIR;

interface StoredEntry {
  readonly key: Key;
  readonly ino: number;
  readonly name: Uint8Array;
  /** Its hash is that of its name, so the name is what was written. */
  readonly sure: boolean;
}

export class Entries {
  #lostFound = 0;
  /** Of the directory looked through last. */
  #index: DirentIndex | null = null;

  constructor(
    private readonly patch: ItemPatch,
    /** Seconds and nanoseconds for new inodes. */
    private readonly now: { readonly sec: number; readonly nsec: number },
    /** Entries may be removed. */
    private readonly lossy: boolean,
    /** Is told of each entry that goes. */
    private readonly log: (line: string) => void,
    private readonly space: IndexSpace,
  ) {}

  [Symbol.dispose](): void {
    this.#index?.close();
    this.#index = null;
  }

  /**
   * Makes the items of position `pos` in directory `dir` agree; `child` is an inode that has, or may
   * have, a backref there. False if that would lose something and must not.
   */
  mend(dir: number, pos: number, child: number): boolean {
    if (!isExact(dir) || !isExact(pos)) return false;
    const found: StoredEntry[] = [];
    const add = (key: Key) => {
      if (found.some((e) => e.key.equals(key))) return;
      const entry = parse(key, this.patch.get(key));
      if (entry !== null) found.push(entry);
    };
    add(readdirKey(dir, pos));
    for (const ino of [child, ...found.map((e) => e.ino)]) {
      if (isExact(ino)) add(backrefKey(ino, dir, pos));
    }
    for (const { name } of [...found]) add(direntKey(dir, direntHash(name), pos));
    if (!found.some((e) => e.key.type === TYPE_DIRENT)) {
      for (const e of this.#direntsAt(dir, pos)) {
        add(e.key);
        add(backrefKey(e.ino, dir, pos));
      }
    }
    const winner = this.#elect(dir, pos, found);
    if (winner === null) {
      if (!this.lossy) return false;
      this.#removeAll(found, dir, pos, child);
      return true;
    }
    const possible = pos >= DIRENT_FIRST_POS && pos < INODE_COUNT_LIMIT - 1;
    this.#write(dir, possible ? pos : this.#newPos(dir), winner, found);
    return true;
  }

  /** A position behind all entries of a directory, which has to be there. */
  #newPos(dir: number): number {
    const parent = this.patch.inode(dir);
    assert(parent !== null, `entries of inode ${dir}, which is not there`);
    const greatest = this.#indexOf(dir).greatestBelow(INODE_COUNT_LIMIT - 1);
    const next = rawU64(parent.v, parent.o + 48);
    const pos = Math.max(
      DIRENT_FIRST_POS,
      greatest + 1,
      next < INODE_COUNT_LIMIT ? next : 0,
    );
    parent.nextReaddirPos = pos + 1;
    return pos;
  }

  /** Removes an entry with all its items, and broken ones at its keys. */
  remove(dir: number, pos: number, child: number): void {
    const val = this.patch.get(readdirKey(dir, pos)) ?? this.patch.get(backrefKey(child, dir, pos));
    const entry = parse(readdirKey(dir, pos), val);
    if (entry !== null) this.patch.remove(direntKey(dir, direntHash(entry.name), pos));
    for (const e of this.#direntsAt(dir, pos)) this.patch.remove(e.key);
    this.patch.remove(readdirKey(dir, pos));
    this.patch.remove(backrefKey(child, dir, pos));
  }

  /** Removes those items of an entry that name `ino`: another inode's at this position stay. */
  removeName(dir: number, pos: number, ino: number): void {
    const twins = [readdirKey(dir, pos), backrefKey(ino, dir, pos)];
    const named = twins.map((key) => parse(key, this.patch.get(key)))
      .filter((e): e is StoredEntry => e?.ino === ino);
    const dirents = named.map(({ name }) => direntKey(dir, direntHash(name), pos))
      .map((key) => parse(key, this.patch.get(key)));
    for (const e of [...named, ...dirents, ...this.#direntsAt(dir, pos)]) {
      if (e?.ino === ino) this.patch.remove(e.key);
    }
    this.patch.remove(backrefKey(ino, dir, pos));
  }

  #removeAll(found: readonly StoredEntry[], dir: number, pos: number, child: number): void {
    for (const e of found) this.patch.remove(e.key);
    const gone = found.find((e) => e.sure) ?? found[0];
    if (gone !== undefined) this.#logRemoved(dir, gone);
    this.patch.remove(readdirKey(dir, pos));
    if (isExact(child)) this.patch.remove(backrefKey(child, dir, pos));
  }

  #logRemoved(dir: number, { name, ino }: StoredEntry): void {
    const target = this.patch.peekInode(ino);
    let why = "it was not known from enough of its items";
    if (!this.#isDir(dir)) why = `inode ${dir} is no directory`;
    else if (target === null) why = `inode ${ino} does not exist`;
    else if (entryType(target.mode) === undefined) why = `inode ${ino} cannot be what it means`;
    else if (!nameIsValid(name)) why = "no entry can have that name";
    this.log(`entry ${nameText(name)} of directory ${dir} was removed: ${why}`);
  }

  #isDir(ino: number): boolean {
    const inode = this.patch.peekInode(ino);
    return inode !== null && isDirMode(inode.mode);
  }

  /** The (inode, name) that most items give, of those that can be an entry; null if none can. */
  #elect(dir: number, pos: number, found: readonly StoredEntry[]): StoredEntry | null {
    if (!this.#isDir(dir)) return null;
    const candidates = found.filter((e) => {
      const target = this.patch.peekInode(e.ino);
      return target !== null && e.ino !== ROOT_INO && entryType(target.mode) !== undefined &&
        nameIsValid(e.name);
    });
    const votes = new Map<string, number>();
    const idOf = (e: StoredEntry) => `${e.ino}:${toHex(e.name)}`;
    for (const e of candidates) {
      votes.set(idOf(e), (votes.get(idOf(e)) ?? 0) + (e.sure ? 2 : 1));
    }
    let best: StoredEntry | null = null;
    for (const e of candidates) {
      if (best === null || (votes.get(idOf(e)) ?? 0) > (votes.get(idOf(best)) ?? 0)) best = e;
    }
    if (best === null) return null;
    const { ino, name } = best, id = idOf(best), most = votes.get(id);
    // Which of them is right would be a guess.
    const isTie = candidates.some((e) => idOf(e) !== id && votes.get(idOf(e)) === most);
    if (isTie && !this.lossy) return null;
    if (found.length > 1) return best;
    // A lone remainder must not take a name that is there already, nor give an inode one too many.
    if (this.find(dir, name).some((e) => posOf(e.key) !== pos)) return null;
    if (this.#isDir(ino) && !this.lossy) return null;
    return this.hasOthers(ino, dir, pos) && this.#hasAllNamesBut(ino, dir, pos) ? null : best;
  }

  /** How many of the readdir item of a position and an inode's backref to it there are. */
  twins(dir: number, pos: number, ino: number): number {
    if (!isExact(dir) || !isExact(pos)) return 0;
    return [readdirKey(dir, pos), backrefKey(ino, dir, pos)]
      .filter((key) => this.patch.get(key) !== null).length;
  }

  /**
   * Whether an inode has as many backrefs as it should have names without one that is here. Of inodes
   * with very many names that is not asked.
   */
  hasOthers(ino: number, dir: number, pos: number): boolean {
    const names = this.#namesOf(ino);
    if (names > MOST_COUNTED) return false;
    const others = this.backrefs(ino, names + 1).filter((n) => n.dir !== dir || n.pos !== pos);
    return others.length >= names;
  }

  /** How many names an inode should have. */
  #namesOf(ino: number): number {
    return this.#isDir(ino) ? 1 : Math.max(1, this.patch.peekInode(ino)?.nlink ?? 0);
  }

  /** Whether an inode has all the names that it should have even without this one. */
  #hasAllNamesBut(ino: number, dir: number, pos: number): boolean {
    const others = this.backrefs(ino).filter((n) =>
      (n.dir !== dir || n.pos !== pos) && this.isWhole(n.dir, n.pos, ino)
    );
    return others.length >= this.#namesOf(ino);
  }

  /** Whether the three items of a name of an inode agree. */
  isWhole(dir: number, pos: number, ino: number): boolean {
    if (!isExact(dir) || !isExact(pos) || !this.#isDir(dir)) return false;
    const val = this.patch.get(readdirKey(dir, pos));
    const entry = parse(readdirKey(dir, pos), val);
    if (val === null || entry?.ino !== ino) return false;
    return [direntKey(dir, direntHash(entry.name), pos), backrefKey(ino, dir, pos)]
      .every((key) => bytesEqual(this.patch.get(key) ?? NONE, val));
  }

  #write(dir: number, pos: number, winner: StoredEntry, found: readonly StoredEntry[]): void {
    const { patch } = this;
    const target = patch.peekInode(winner.ino);
    const val = entryValue(winner.ino, winner.name, pos, entryType(target?.mode ?? 0) ?? DT_REG);
    const keys = entryKeys(dir, pos, winner.ino, winner.name);
    for (const e of found) {
      if (!keys.some((key) => key.equals(e.key))) patch.remove(e.key);
    }
    for (const key of keys) {
      const stored = patch.get(key);
      if (stored === null || !bytesEqual(stored, val)) patch.set(key, val);
    }
  }

  /**
   * Of entries that share a position all but one get positions of their own: that which the readdir
   * item names stays. False if that would lose something and must not.
   */
  spread(dir: number, pos: number): boolean {
    const parent = this.patch.inode(dir), here = this.#direntsAt(dir, pos);
    if (parent === null) return false;
    if (here.length < 2) return true;
    const leads = ({ ino }: StoredEntry) => this.patch.peekInode(ino) !== null;
    if (!this.lossy && !here.every(leads)) return false;
    const named = parse(readdirKey(dir, pos), this.patch.get(readdirKey(dir, pos)));
    const isNamed = ({ ino, name }: StoredEntry) =>
      named !== null && ino === named.ino && bytesEqual(name, named.name);
    const stays = here.find((e) => leads(e) && isNamed(e)) ?? here.find(leads);
    for (const e of here) {
      if (e === stays) continue;
      const target = this.patch.peekInode(e.ino);
      this.patch.remove(e.key);
      this.patch.remove(backrefKey(e.ino, dir, pos));
      if (target === null) {
        this.#logRemoved(dir, e);
        continue;
      }
      const other = parent.nextReaddirPos++;
      const val = entryValue(e.ino, e.name, other, entryType(target.mode) ?? DT_REG);
      for (const key of entryKeys(dir, other, e.ino, e.name)) this.patch.set(key, val);
    }
    return true;
  }

  /** Entries of `dir` with that name. */
  find(dir: number, name: Uint8Array): StoredEntry[] {
    const hash = direntHash(name);
    const last = Key.words(
      ZONE_FS,
      Math.floor(dir / 2 ** 32),
      dir >>> 0,
      TYPE_DIRENT,
      hash.hi,
      hash.lo,
      U32,
      U32,
      255,
    );
    return this.patch.range(direntKey(dir, hash, 0), last)
      .map(({ key, val }) => parse(key, val))
      .filter((e): e is StoredEntry => e !== null && bytesEqual(e.name, name));
  }

  /** Entries of `dir` whose dirent item gives position `pos`, in key order. */
  #direntsAt(dir: number, pos: number): StoredEntry[] {
    return this.#indexOf(dir).keysAt(pos)
      .map((key) => parse(key, this.patch.get(key)))
      .filter((e) => e !== null);
  }

  /** The index is that of the items as they were when it was made: it is asked for positions of then. */
  #indexOf(dir: number): DirentIndex {
    if (this.#index?.dir === dir) return this.#index;
    this.#index?.close();
    this.#index = null;
    return this.#index = new DirentIndex(dir, this.#direntKeys(dir), this.space);
  }

  *#direntKeys(dir: number): Generator<Key> {
    const first = Key.of(ZONE_FS, dir, TYPE_DIRENT);
    const last = Key.words(
      ZONE_FS,
      first.firstHi,
      first.firstLo,
      TYPE_DIRENT,
      U32,
      U32,
      U32,
      U32,
      255,
    );
    for (const { key, val } of this.patch.each(first, last)) {
      if (parse(key, val) !== null) yield key;
    }
  }

  /** The names of an inode, no more than `most`: directory and position of each backref. */
  backrefs(ino: number, most = Infinity): { dir: number; pos: number }[] {
    const first = Key.of(ZONE_FS, ino, TYPE_LINK_BACKREF);
    const last = Key.words(
      ZONE_FS,
      first.firstHi,
      first.firstLo,
      TYPE_LINK_BACKREF,
      U32,
      U32,
      U32,
      U32,
      255,
    );
    const names: { dir: number; pos: number }[] = [];
    for (const { key } of this.patch.each(first, last)) {
      names.push({ dir: key.secondHi * 2 ** 32 + key.secondLo, pos: posOf(key) });
      if (names.length >= most) break;
    }
    return names;
  }

  /**
   * All names of directory `dir` that are called `name` get names of their own, but the first. False
   * if there is one for which that cannot be.
   */
  separate(dir: number, name: Uint8Array): boolean {
    let done = true;
    for (const e of this.find(dir, name).slice(1)) {
      const pos = posOf(e.key);
      const parent = this.patch.inode(dir), target = this.patch.peekInode(e.ino);
      if (parent === null || target === null) {
        done = false;
        continue;
      }
      const other = this.#nameLike(dir, name, pos);
      this.patch.remove(e.key);
      const val = entryValue(e.ino, other, pos, entryType(target.mode) ?? DT_REG);
      for (const key of entryKeys(dir, pos, e.ino, other)) this.patch.set(key, val);
      parent.size += other.length - name.length;
    }
    return done;
  }

  /** A name that `dir` does not have: `name` with a position behind it. */
  #nameLike(dir: number, name: Uint8Array, pos: number): Uint8Array {
    for (let n = 0;; n++) {
      const suffix = new TextEncoder().encode(n === 0 ? `.${pos}` : `.${pos}.${n}`);
      const other = new Uint8Array(Math.min(name.length, NAME_MAX - suffix.length) + suffix.length);
      other.set(name.subarray(0, other.length - suffix.length));
      other.set(suffix, other.length - suffix.length);
      if (this.find(dir, other).length === 0) return other;
    }
  }

  /**
   * Gives an inode without a name one in lost+found; returns it, or null without a root directory and
   * for the root itself.
   */
  connect(ino: number): string | null {
    if (ino === ROOT_INO) return null;
    const dir = this.#lostFoundDir();
    if (dir === 0) return null;
    const parent = this.patch.inode(dir), inode = this.patch.inode(ino);
    if (parent === null || inode === null) return null;
    let text = `#${ino}`;
    if (this.find(dir, new TextEncoder().encode(text)).length > 0) {
      text += `.${parent.nextReaddirPos}`;
    }
    this.#add(dir, parent, ino, inode, new TextEncoder().encode(text));
    if (!isDirMode(inode.mode)) inode.nlink = 1;
    if (this.patch.get(orphanKey(ino)) !== null) this.patch.remove(orphanKey(ino));
    return text;
  }

  #add(dir: number, parent: Inode, ino: number, inode: Inode, name: Uint8Array): void {
    const pos = Math.max(DIRENT_FIRST_POS, parent.nextReaddirPos);
    parent.nextReaddirPos = pos + 1;
    parent.size += name.length;
    if (isDirMode(inode.mode)) parent.nlink++;
    const val = entryValue(ino, name, pos, entryType(inode.mode) ?? DT_REG);
    for (const key of entryKeys(dir, pos, ino, name)) this.patch.set(key, val);
  }

  /** The directory /lost+found, made if need be; 0 if there is no root directory to have it. */
  #lostFoundDir(): number {
    if (this.#lostFound !== 0) return this.#lostFound;
    const root = this.patch.peekInode(ROOT_INO);
    if (root === null || !isDirMode(root.mode)) return 0;
    const taken = this.find(ROOT_INO, LOST_FOUND);
    const existing = taken.find((e) => {
      const target = this.patch.peekInode(e.ino);
      return target !== null && isDirMode(target.mode);
    });
    if (existing !== undefined) return this.#lostFound = existing.ino;
    const ino = this.patch.newIno();
    const inode = this.makeInode(ino, S_IFDIR | 0o700);
    inode.nlink = 2;
    const parent = this.patch.inode(ROOT_INO) as Inode;
    const name = taken.length === 0 ? LOST_FOUND : new TextEncoder().encode(`lost+found.${ino}`);
    this.#add(ROOT_INO, parent, ino, inode, name);
    return this.#lostFound = ino;
  }

  /** A new inode with nothing in it. */
  makeInode(ino: number, mode: number): Inode {
    const inode = this.patch.newInode(ino);
    inode.mode = mode;
    inode.nextReaddirPos = DIRENT_FIRST_POS;
    for (const ts of [inode.atime, inode.ctime, inode.mtime, inode.crtime]) {
      ts.set(this.now.sec, this.now.nsec);
    }
    this.patch.inodeDelta++;
    return inode;
  }
}

function entryKeys(dir: number, pos: number, ino: number, name: Uint8Array): Key[] {
  return [direntKey(dir, direntHash(name), pos), readdirKey(dir, pos), backrefKey(ino, dir, pos)];
}

function entryValue(ino: number, name: Uint8Array, pos: number, type: number): Uint8Array {
  const val = new Uint8Array(Dirent.SIZE + name.length);
  const d = Dirent.at(val), hash = direntHash(name);
  d.ino = ino;
  d.hashHi = hash.hi;
  d.hashLo = hash.lo;
  d.pos = pos;
  d.type = type;
  val.set(name, Dirent.SIZE);
  return val;
}

function parse(key: Key, val: Uint8Array | null): StoredEntry | null {
  if (val === null || val.length <= Dirent.SIZE || val.length > Dirent.SIZE + NAME_MAX) return null;
  const v = viewOf(val), ino = rawU64(v, 0);
  if (!isExact(ino)) return null;
  const name = val.slice(Dirent.SIZE), hash = direntHash(name);
  const sure = v.getUint32(8, true) === hash.lo && v.getUint32(12, true) === hash.hi;
  return { key, ino, name, sure };
}

function nameIsValid(name: Uint8Array): boolean {
  if (name.includes(0) || name.includes(0x2f)) return false;
  if (name[0] !== 0x2e) return true;
  return name.length > 2 || name.length === 2 && name[1] !== 0x2e;
}
