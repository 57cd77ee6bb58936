/**
 * What mending each problem of filesystem items means. A problem record names what is wrong; what is
 * right is looked up again here, with the changes that this round has made already.
 *
 * Counts that depend on other items (sizes and link counts of directories, block counts) are taken
 * from the check that found them wrong: when mending changes them the next round's check says so.
 */

import {
  DT_DIR,
  FIRST_FREE_INO,
  INODE_FLAG_RETENTION,
  INODE_FLAG_TRUNCATE,
  ROOT_INO,
  SEF_OFFLINE,
  SEF_UNWRITTEN,
  SM_MAX,
  TYPE_DATA_EXTENT,
  TYPE_DIRENT,
  TYPE_INODE_INDEX_DATA_SEQ,
  TYPE_INODE_INDEX_META_SEQ,
  TYPE_LINK_BACKREF,
  TYPE_READDIR,
  TYPE_SYMLINK,
  TYPE_XATTR,
  ZONE_FS,
  ZONE_INODE_INDEX,
  ZONE_QUOTA,
  ZONE_XATTR_INDX,
  ZONE_XATTR_TOTL,
} from "../../../format/constants.ts";
import { bytesEqual } from "../../../format/bytes.ts";
import { fnv1a64, xattrNameHash } from "../../../format/hash.ts";
import { type Inode, inodeKey, orphanKey, quotaRuleKey } from "../../../format/items.ts";
import { Key } from "../../../format/key.ts";
import { SrchFile } from "../../../format/srch.ts";
import { appendSrch } from "../../srch_file.ts";
import { isExact, rawU64, viewOf } from "../raw.ts";
import type { ProblemCode, Values } from "../problems.ts";
import { type Entries, isDirMode } from "./entries.ts";
import { type ItemPatch, parseKey } from "./item_patch.ts";
import { type Round, SEQ_LIMIT } from "./round.ts";
import type { ServerTrees } from "./server_trees.ts";

const U64_MAX = 0xffff_ffff_ffff_ffffn;
const S_IFMT = 0o170000;
const S_IFREG = 0o100000;
const S_IFLNK = 0o120000;

const num = (values: Values, name: string): number => Number(values[name]);
const text = (values: Values, name: string): string => String(values[name]);

export class Fixers {
  /** Search entries whose parity is to be turned. */
  readonly #search: { hash: bigint; ino: number; id: number }[] = [];
  /** What was done that the report does not say by itself. */
  readonly notes: string[] = [];
  /** Inodes that have been dealt with as a whole. */
  readonly #removed = new Set<number>();

  constructor(
    private readonly round: Round,
    private readonly servers: ServerTrees,
    private readonly patch: ItemPatch,
    private readonly entries: Entries,
    private readonly lossy: boolean,
  ) {}

  /** Mends one problem; false if it is none of items, or cannot be mended. Throws FsError. */
  mend(code: ProblemCode, values: Values): boolean {
    const { entries } = this;
    const ino = num(values, "ino");
    if (this.#removed.has(ino)) return true;
    switch (code) {
      case "index-missing":
      case "index-extra": {
        const type = values["index"] === "meta_seq"
          ? TYPE_INODE_INDEX_META_SEQ
          : TYPE_INODE_INDEX_DATA_SEQ;
        const key = Key.of(ZONE_INODE_INDEX, 0, type, num(values, "seq"), ino);
        return this.#setOrRemove(key, code === "index-missing");
      }
      case "orphan-missing":
      case "orphan-extra":
        return this.#setOrRemove(orphanKey(ino), code === "orphan-missing");
      case "indx-missing":
      case "indx-extra": {
        const key = indxKey(text(values, "key"));
        return key !== null && this.#setOrRemove(key, code === "indx-missing");
      }
      case "totl":
        return this.#total(values);
      case "srch-missing":
      case "srch-extra": {
        const hash = BigInt(`0x${text(values, "hash")}`);
        this.#search.push({ hash, ino, id: num(values, "id") });
        return true;
      }
      case "item-stale":
        return this.#rewriteItem(text(values, "key"));
      case "quota-rule":
        return this.#quota(text(values, "key"));
      case "entry-without-twin":
      case "twin-without-entry":
      case "entry-twins-differ":
        return entries.mend(num(values, "dir"), num(values, "pos"), num(values, "child"));
      case "entry-value":
        return this.#entryValue(text(values, "key"));
      case "entry-type":
        return this.#entryType(ino, num(values, "dir"));
      case "dir-pos-twice":
        return entries.spread(num(values, "dir"), num(values, "pos"));
      case "inode-unlinked" as ProblemCode:
        return this.#connect(ino);
      case "dir-name-twice":
        entries.separate(ino, nameBytes(text(values, "name")));
        return true;
      case "dir-next-pos":
        return this.#edit(
          ino,
          (i) => i.nextReaddirPos = Math.max(safe(i, 48), num(values, "pos") + 1),
        );
      case "xattr-next-id":
        return this.#edit(ino, (i) => i.nextXattrId = Math.max(safe(i, 56), num(values, "id") + 1));
      case "inode-nlink":
        return this.#linkCount(ino, num(values, "found"));
      case "inode-size":
        return this.#edit(ino, (i) => i.size = num(values, "found"));
      case "inode-blocks":
        return this.#edit(ino, (i) => {
          if (values["field"] === "online_blocks") i.onlineBlocks = num(values, "found");
          else i.offlineBlocks = num(values, "found");
        });
      case "inode-field":
        return this.#field(ino, text(values, "field"));
      case "inode-length":
        return this.#edit(ino, () => {});
      case "inode-next-ino":
        // The counter cannot follow: no mount ever makes an inode of that number.
        return ino >= SEQ_LIMIT && this.lossy && this.#removeFile(ino);
      case "inode-missing":
        return this.#missingInode(ino);
      case "root-inode":
        return this.#rootInode();
      case "dir-parents":
        return this.#parents(ino);
      case "dir-parent-missing": {
        const parent = this.patch.peekInode(num(values, "parent"));
        if (parent !== null && isDirMode(parent.mode)) return true;
        return this.#moveToLostFound(ino);
      }
      case "dir-cycle":
        return this.#moveToLostFound(ino);
      case "entries-in-file":
        return this.#removeRange(ino, TYPE_DIRENT, TYPE_READDIR);
      case "extents-in-other":
        return this.#removeRange(ino, TYPE_DATA_EXTENT, TYPE_DATA_EXTENT);
      case "symlink":
        return this.#symlink(ino);
      case "extent-item":
        return this.#extentItem(ino, num(values, "end"), num(values, "count"));
      case "extent-outside":
        return this.#extentOutside(ino);
      case "extent-file-overlap":
        return this.#extentOverlap(ino);
      case "xattr":
        return this.#removeXattr(ino, parseInt(text(values, "hash"), 16), num(values, "id"));
      case "xattr-name-twice":
        return this.#sameXattrs(ino, nameBytes(text(values, "name")));
      case "xattr-headless":
        return this.#removeHeadless(ino);
      case "xattr-id-twice":
        return this.#separateXattrs(ino, num(values, "id"));
      default:
        return false;
    }
  }

  /** Ends the round's changes of items. */
  finish(): void {
    if (this.#search.length === 0) return;
    const file = SrchFile.alloc();
    this.#search.sort((a, b) => a.hash < b.hash ? -1 : a.hash > b.hash ? 1 : a.ino - b.ino);
    for (const { hash, ino, id } of this.#search) appendSrch(this.round.t, file, hash, ino, id);
    this.servers.addSearchLog(file);
  }

  #setOrRemove(key: Key, set: boolean): boolean {
    if (set) this.patch.set(key);
    else this.patch.remove(key);
    return true;
  }

  #edit(ino: number, change: (inode: Inode) => void): boolean {
    const inode = this.patch.inode(ino);
    if (inode === null) return false;
    change(inode);
    return true;
  }

  /** A key's newest version stands in fs_root: it is put over the older ones in log trees. */
  #rewriteItem(name: string): boolean {
    const key = parseKey(name);
    if (key === null) return false;
    if (key.zone === ZONE_XATTR_TOTL) {
      this.patch.confirmTotal(key);
      return true;
    }
    const val = this.patch.get(key);
    if (val === null) this.patch.remove(key);
    else this.patch.set(key, val);
    return true;
  }

  #total(values: Values): boolean {
    const parts = text(values, "name").split(".").map(BigInt) as [bigint, bigint, bigint];
    const total = BigInt(values["foundTotal"] ?? 0), count = BigInt(values["foundCount"] ?? 0);
    this.patch.setTotal(...parts, total, count);
    return true;
  }

  /** A rule under the wrong hash or number is filed anew; one that means nothing goes. */
  #quota(name: string): boolean {
    const key = parseKey(name);
    if (key === null) return false;
    const val = this.patch.get(key);
    if (val === null) return true;
    this.patch.remove(key);
    const rule = viewOf(val);
    let valid = rule.getUint8(33) <= 1 && (rule.getUint8(34) & ~1) === 0;
    for (let i = 35; i < 38; i++) if (rule.getUint8(i) > 3) valid = false;
    for (let i = 38; i < 41; i++) {
      const flags = rule.getUint8(i);
      if ((flags & ~1) !== 0 || flags === 1 && rule.getUint8(i - 3) === 0) valid = false;
    }
    for (let i = 41; i < 48; i++) rule.setUint8(i, 0);
    if (!valid) return this.lossy;
    const hash = fnv1a64(val);
    const same = this.patch.range(
      quotaRuleKey(hash, 0),
      Key.of(ZONE_QUOTA, 0, key.type, hash, U64_MAX, 255),
    );
    if (same.some((item) => bytesEqual(item.val, val))) return true;
    let nr = 0;
    while (same.some((item) => item.key.thirdBig === BigInt(nr))) nr++;
    this.patch.set(quotaRuleKey(hash, nr), val);
    return true;
  }

  #entryValue(name: string): boolean {
    const key = parseKey(name);
    if (key === null) return false;
    const first = Number(key.firstBig),
      second = Number(key.secondBig),
      third = Number(key.thirdBig);
    const val = this.patch.get(key);
    const target = val === null || val.length < 8 ? 0 : rawU64(viewOf(val), 0);
    const canonical = key.fourth === 0 && (key.type !== TYPE_READDIR || third === 0) &&
      isExact(first) && isExact(third) && (key.type === TYPE_DIRENT || isExact(second));
    let done = true;
    if (!canonical) {
      // No reader looks there.
      if (!this.lossy) return false;
      this.patch.remove(key);
    } else if (key.type === TYPE_DIRENT) done = this.entries.mend(first, third, target);
    else if (key.type === TYPE_READDIR) done = this.entries.mend(first, second, target);
    else if (key.type === TYPE_LINK_BACKREF) done = this.entries.mend(second, third, first);
    else return false;
    // A dirent whose key has another hash or position than its value was not among those mended.
    const still = this.patch.get(key);
    if (
      still !== null && val !== null && key.type === TYPE_DIRENT && this.#isMisfiled(key, still)
    ) {
      this.patch.remove(key);
    }
    return done;
  }

  #isMisfiled(key: Key, val: Uint8Array): boolean {
    const v = viewOf(val);
    return v.getUint32(8, true) !== key.secondLo || v.getUint32(12, true) !== key.secondHi ||
      v.getBigUint64(16, true) !== key.thirdBig;
  }

  #entryType(ino: number, dir: number): boolean {
    let done = true;
    for (const name of this.entries.backrefs(ino)) {
      if (name.dir === dir && !this.entries.mend(dir, name.pos, ino)) done = false;
    }
    return done;
  }

  #linkCount(ino: number, found: number): boolean {
    const inode = this.patch.peekInode(ino);
    if (inode === null) return false;
    if (found === 0 && inode.nlink > 0) return this.#connect(ino);
    if (inode.nlink === 0 && this.patch.get(orphanKey(ino)) !== null) {
      this.patch.remove(orphanKey(ino));
    }
    return this.#edit(ino, (i) => i.nlink = found);
  }

  #connect(ino: number): boolean {
    const name = this.entries.connect(ino);
    if (name === null) return false;
    this.notes.push(`inode ${ino} is now /lost+found/${name}`);
    return true;
  }

  /** A number beyond the third key fields of an inode's items of a type. */
  #beyond(ino: number, type: number, least: number): number {
    let beyond = least;
    for (const { key } of this.#range(ino, type, type)) {
      const n = Number(key.thirdBig);
      if (isExact(n)) beyond = Math.max(beyond, n + 1);
    }
    return beyond;
  }

  #field(ino: number, field: string): boolean {
    // No mount ever makes an inode of that number.
    if (field === "number") return this.#removeFile(ino);
    return this.#edit(ino, (i) => {
      const v = i.v, o = i.o;
      switch (field) {
        case "mode":
          i.mode = i.mode & 0o7777 | this.#guessFormat(ino);
          break;
        case "flags": {
          const known = INODE_FLAG_TRUNCATE |
            (this.round.cx.fmtVers >= 2 ? INODE_FLAG_RETENTION : 0);
          i.flags &= (i.mode & S_IFMT) === S_IFREG ? known : known & ~INODE_FLAG_TRUNCATE;
          break;
        }
        case "rdev":
          i.rdev = 0;
          break;
        case "size":
          v.setUint32(o + 4, v.getUint32(o + 4, true) & 0x7fff_ffff, true);
          break;
        case "data_seq":
          this.#moveDataSeq(ino, i);
          break;
        case "next_readdir_pos":
          i.nextReaddirPos = this.#beyond(ino, TYPE_DIRENT, 2);
          break;
        case "next_xattr_id":
          i.nextXattrId = this.#beyond(ino, TYPE_XATTR, 0);
          break;
        default:
          for (let at = 96; at < 160; at += 16) {
            const nsec = v.getUint32(o + at + 8, true);
            if (nsec >= 1e9) v.setUint32(o + at + 8, 0, true);
            v.setUint32(o + at + 12, 0, true);
          }
      }
    });
  }

  /** A data_seq from the future becomes that of this repair, with its index item. */
  #moveDataSeq(ino: number, i: Inode): void {
    const old = i.v.getBigUint64(i.o + 16, true);
    i.dataSeq = this.patch.seq;
    if ((i.mode & S_IFMT) !== S_IFREG) return;
    this.patch.remove(Key.of(ZONE_INODE_INDEX, 0, TYPE_INODE_INDEX_DATA_SEQ, old, ino));
    this.patch.set(Key.of(ZONE_INODE_INDEX, 0, TYPE_INODE_INDEX_DATA_SEQ, this.patch.seq, ino));
  }

  /** The file type that an inode's items speak of. */
  #guessFormat(ino: number): number {
    const has = (type: number) => this.#range(ino, type, type).length > 0;
    if (has(TYPE_DIRENT) || has(TYPE_READDIR)) return 0o040000;
    if (has(TYPE_SYMLINK)) return S_IFLNK;
    for (const { val } of this.#range(ino, TYPE_LINK_BACKREF, TYPE_LINK_BACKREF)) {
      const mode = [0o010000, 0o020000, 0o040000, 0o060000, S_IFREG, S_IFLNK, 0o140000][
        val[24] ?? -1
      ];
      if (mode !== undefined) return mode;
    }
    return S_IFREG;
  }

  /** Items of an inode without its inode item: a new one keeps what can be kept. */
  #missingInode(ino: number): boolean {
    if (!isExact(ino)) return false;
    const format = this.#guessFormat(ino);
    const items = this.#range(ino, 0, 255);
    if (items.length === 0) return true;
    if (ino !== ROOT_INO && ino < FIRST_FREE_INO) return this.#removeFile(ino);
    if (format === S_IFLNK && !this.#range(ino, TYPE_SYMLINK, TYPE_SYMLINK).length) {
      // A symlink without its target is nothing.
      return this.#removeFile(ino);
    }
    const permissions = ino === ROOT_INO ? 0o755 : isDirMode(format) ? 0o700 : 0o600;
    const inode = this.entries.makeInode(ino, format | permissions);
    let nextXattr = 0, nextPos = 2, names = 0, subdirs = 0, end = 0, target = 0;
    for (const { key, val } of items) {
      if (key.type === TYPE_XATTR) nextXattr = Math.max(nextXattr, Number(key.thirdBig) + 1);
      else if (key.type === TYPE_DIRENT) {
        nextPos = Math.max(nextPos, Number(key.thirdBig) + 1);
        names += val.length - 32;
        if (val[24] === DT_DIR) subdirs++;
      } else if (key.type === TYPE_DATA_EXTENT) end = Math.max(end, Number(key.secondBig) + 1);
      else if (key.type === TYPE_SYMLINK) target += val.length;
    }
    inode.nextXattrId = nextXattr;
    inode.nextReaddirPos = nextPos;
    inode.dataVersion = 1;
    inode.dataSeq = this.patch.seq;
    inode.nlink = isDirMode(format)
      ? 2 + subdirs
      : Math.max(1, items.filter(({ key }) => key.type === TYPE_LINK_BACKREF).length);
    if (isDirMode(format)) inode.size = names;
    else if (format === S_IFLNK) inode.size = target;
    else if (format === S_IFREG) {
      inode.size = Math.min(end, SM_MAX) * 4096;
      this.patch.set(Key.of(ZONE_INODE_INDEX, 0, TYPE_INODE_INDEX_DATA_SEQ, this.patch.seq, ino));
    }
    if (ino >= this.round.sb.nextIno) this.round.sb.nextIno = ino + 1;
    if (ino !== ROOT_INO && this.entries.backrefs(ino).length === 0) this.#connect(ino);
    this.notes.push(`inode ${ino} was made anew: owner, permissions and times are unknown`);
    return true;
  }

  #rootInode(): boolean {
    const inode = this.patch.inode(ROOT_INO);
    if (inode !== null) {
      inode.mode = inode.mode & 0o7777 | 0o040000;
      return true;
    }
    // What is left of it is taken up with the other inodes that are missing.
    if (this.#range(ROOT_INO, 0, 255).length > 0) return true;
    const made = this.entries.makeInode(ROOT_INO, 0o040755);
    made.nlink = 2;
    return true;
  }

  /** A directory has one name; the root none. */
  #parents(ino: number): boolean {
    const names = this.entries.backrefs(ino);
    const keep = ino === ROOT_INO ? 0 : 1;
    const inode = this.patch.peekInode(ino);
    if (inode === null) return false;
    if (inode.nlink === 0 && names.length > 0) {
      return this.#edit(ino, (i) => i.nlink = 2);
    }
    if (names.length < keep) return this.#connect(ino);
    if (!this.lossy) return false;
    for (const { dir, pos } of names.slice(keep)) this.entries.remove(dir, pos, ino);
    return true;
  }

  /** A directory that the root cannot be reached from gets a place in lost+found. */
  #moveToLostFound(ino: number): boolean {
    for (const { dir, pos } of this.entries.backrefs(ino)) this.entries.remove(dir, pos, ino);
    return this.#connect(ino);
  }

  #range(ino: number, first: number, last: number): { key: Key; val: Uint8Array }[] {
    return this.patch.range(
      Key.of(ZONE_FS, ino, first),
      Key.of(ZONE_FS, ino, last, U64_MAX, U64_MAX, 255),
    );
  }

  #removeRange(ino: number, first: number, last: number): boolean {
    if (!this.lossy) return false;
    for (const { key } of this.#range(ino, first, last)) this.patch.remove(key);
    return true;
  }

  /** An inode with everything it has. Its blocks and the marks of its xattrs are found later. */
  #removeFile(ino: number): boolean {
    if (!this.lossy) return false;
    const inode = this.patch.peekInode(ino);
    for (const { dir, pos } of this.entries.backrefs(ino)) this.entries.remove(dir, pos, ino);
    for (const { key } of this.#range(ino, 0, 255)) {
      if (!key.equals(inodeKey(ino))) this.patch.remove(key);
    }
    if (inode !== null) {
      this.patch.removeInode(ino);
      this.patch.inodeDelta--;
      if (this.patch.get(orphanKey(ino)) !== null) this.patch.remove(orphanKey(ino));
    }
    this.#removed.add(ino);
    this.notes.push(`inode ${ino} was removed`);
    return true;
  }

  #symlink(ino: number): boolean {
    const inode = this.patch.peekInode(ino);
    if (inode === null) return false;
    if ((inode.mode & S_IFMT) !== S_IFLNK) {
      return this.#removeRange(ino, TYPE_SYMLINK, TYPE_SYMLINK);
    }
    const parts = this.#range(ino, TYPE_SYMLINK, TYPE_SYMLINK);
    let bytes = 0, whole = parts.length > 0;
    parts.forEach(({ key, val }, i) => {
      bytes += val.length;
      const last = i === parts.length - 1;
      if (key.secondBig !== BigInt(i) || key.thirdBig !== 0n || key.fourth !== 0) whole = false;
      if (!last && val.length !== 896 || last && val.at(-1) !== 0) whole = false;
    });
    if (!whole || bytes < 2 || bytes > 4096) return this.#removeFile(ino);
    return this.#edit(ino, (i) => i.size = bytes);
  }

  #extentItem(ino: number, end: number, count: number): boolean {
    const items = this.#range(ino, TYPE_DATA_EXTENT, TYPE_DATA_EXTENT).filter(({ key }) =>
      Number(key.secondBig) === end && Number(key.thirdBig) === count
    );
    for (const { key, val } of items) {
      const misplaced = key.fourth !== 0 || val.length !== 16 || end > SM_MAX || count < 1 ||
        end - count + 1 < 0;
      const v = viewOf(val);
      const blkno = misplaced ? 0 : rawU64(v, 0);
      let flags = misplaced ? 0 : v.getUint8(8) & (SEF_OFFLINE | SEF_UNWRITTEN);
      if (blkno !== 0 && flags === SEF_OFFLINE) flags |= SEF_UNWRITTEN;
      if (blkno === 0 && flags !== 0) flags = SEF_OFFLINE;
      if (misplaced || blkno === 0 && flags === 0) {
        if (!this.lossy) return false;
        this.patch.remove(key);
        continue;
      }
      const mended = new Uint8Array(16);
      mended.set(val.subarray(0, 8));
      mended[8] = flags;
      this.patch.set(key, mended);
    }
    return true;
  }

  #extentOutside(ino: number): boolean {
    if (!this.lossy) return false;
    for (const { key, val } of this.#range(ino, TYPE_DATA_EXTENT, TYPE_DATA_EXTENT)) {
      if (val.length !== 16) continue;
      const blkno = rawU64(viewOf(val), 0), len = Number(key.thirdBig);
      if (blkno !== 0 && (blkno < 64 || blkno + len > this.round.cx.dataBlocks)) {
        this.patch.remove(key);
      }
    }
    this.notes.push(`inode ${ino} lost extents that lay outside the device`);
    return true;
  }

  /** Of extents that overlap the later one gives way. */
  #extentOverlap(ino: number): boolean {
    if (!this.lossy) return false;
    let free = 0;
    const extents = this.#range(ino, TYPE_DATA_EXTENT, TYPE_DATA_EXTENT)
      .map(({ key, val }) => ({ key, val, end: Number(key.secondBig), len: Number(key.thirdBig) }))
      .filter((e) => e.val.length === 16 && e.end <= SM_MAX && e.len >= 1 && e.len <= e.end + 1)
      .sort((a, b) => a.end - a.len - (b.end - b.len) || a.end - b.end);
    for (const { key, val, end, len } of extents) {
      const start = end - len + 1, cut = free - start;
      if (cut > 0) {
        this.patch.remove(key);
        if (cut < len) {
          const rest = val.slice(), v = viewOf(rest), blkno = rawU64(v, 0);
          if (blkno !== 0) v.setBigUint64(0, BigInt(blkno + cut), true);
          this.patch.set(Key.of(ZONE_FS, ino, TYPE_DATA_EXTENT, end, len - cut), rest);
        }
      }
      free = Math.max(free, end + 1);
    }
    return true;
  }

  #removeXattr(ino: number, hash: number, id: number): boolean {
    const parts = this.#range(ino, TYPE_XATTR, TYPE_XATTR).filter(({ key }) =>
      key.secondLo === hash && Number(key.thirdBig) === id
    );
    if (!this.lossy) return false;
    for (const { key } of parts) this.patch.remove(key);
    this.notes.push(`an attribute of inode ${ino} was removed`);
    return true;
  }

  /** Of attributes with one name the one made last stays. */
  #sameXattrs(ino: number, name: Uint8Array): boolean {
    if (!this.lossy) return false;
    const ids: number[] = [], hash = xattrNameHash(name);
    for (const { key, val } of this.#range(ino, TYPE_XATTR, TYPE_XATTR)) {
      if (key.fourth !== 0 || Number(key.secondBig) !== hash || val[2] !== name.length) continue;
      if (bytesEqual(val.subarray(8, 8 + name.length), name)) ids.push(Number(key.thirdBig));
    }
    ids.sort((a, b) => a - b).pop();
    for (const id of ids) this.#removeXattr(ino, hash, id);
    return true;
  }

  /** Parts that no first part announces. */
  #removeHeadless(ino: number): boolean {
    if (!this.lossy) return false;
    const parts = this.#range(ino, TYPE_XATTR, TYPE_XATTR);
    const idOf = (key: Key) => `${key.secondBig}.${key.thirdBig}`;
    const heads = new Set(parts.filter(({ key }) => key.fourth === 0).map(({ key }) => idOf(key)));
    for (const { key } of parts) if (!heads.has(idOf(key))) this.patch.remove(key);
    return true;
  }

  /** Attributes that share an id: all but the first get new ones. */
  #separateXattrs(ino: number, id: number): boolean {
    const inode = this.patch.inode(ino);
    if (inode === null) return false;
    let first: bigint | null = null;
    const moved = new Map<bigint, number>();
    for (const { key, val } of this.#range(ino, TYPE_XATTR, TYPE_XATTR)) {
      if (Number(key.thirdBig) !== id) continue;
      first ??= key.secondBig;
      if (key.secondBig === first) continue;
      let other = moved.get(key.secondBig);
      if (other === undefined) {
        other = Math.max(inode.nextXattrId, id + 1);
        inode.nextXattrId = other + 1;
        moved.set(key.secondBig, other);
      }
      this.patch.remove(key);
      this.patch.set(Key.of(ZONE_FS, ino, TYPE_XATTR, key.secondBig, other, key.fourth), val);
    }
    return true;
  }
}

/** A le64 of an inode, as a number that may be too great for the format. */
const safe = (i: Inode, at: number): number => {
  const n = rawU64(i.v, i.o + at);
  return isExact(n) ? n : 0;
};

/** A key of zone 14 as reports print it: hexadecimal first, second and third, decimal fourth. */
function indxKey(name: string): Key | null {
  const parts = name.split(".");
  if (parts.length !== 4) return null;
  const [first, second, third] = parts.map((p) => BigInt(`0x${p}`)) as [bigint, bigint, bigint];
  return Key.of(ZONE_XATTR_INDX, first, 0, second, third, Number(parts[3]));
}

/** The bytes of a name that a report prints with \xNN. */
function nameBytes(name: string): Uint8Array {
  const bytes: number[] = [];
  for (let i = 0; i < name.length; i++) {
    if (name[i] === "\\" && name[i + 1] === "x") {
      bytes.push(parseInt(name.slice(i + 2, i + 4), 16));
      i += 3;
    } else bytes.push(name.charCodeAt(i));
  }
  return Uint8Array.from(bytes);
}
