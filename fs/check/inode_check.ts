/**
 * One inode with all its items (01 §15, 02 §24): they are neighbours in key order, so everything
 * that an inode must agree on with itself is checked while they stream past, with a handful of
 * numbers of state. What it must agree on with other places goes to the fact book.
 *
 * Lifecycle per inode: `begin`, `item` for each of its items in key order, `end`.
 *
 * Relies on: items with keys and lengths that their types allow (item_versions.ts), each key once,
 * ascending, their bytes within the block.
 * Guarantees: what an inode's items contradict about it is reported; entries, index items and orphans
 * are told to the fact book once, extents to the space sorter, parents of directories to their list.
 */

import { KEY } from "../../format/btree_block.ts";
import {
  DATA_DEV_START_BLKNO,
  DIRENT_FIRST_POS,
  DT_BLK,
  DT_CHR,
  DT_DIR,
  DT_FIFO,
  DT_LNK,
  DT_REG,
  DT_SOCK,
  INODE_FLAG_RETENTION,
  INODE_FLAG_TRUNCATE,
  NAME_MAX,
  ROOT_INO,
  SEF_OFFLINE,
  SEF_UNWRITTEN,
  SM_MAX,
  SM_SIZE,
  SYMLINK_MAX_SIZE,
  TYPE_DATA_EXTENT,
  TYPE_DIRENT,
  TYPE_INODE,
  TYPE_LINK_BACKREF,
  TYPE_READDIR,
  TYPE_SYMLINK,
  TYPE_XATTR,
  XATTR_PART_SIZE,
} from "../../format/constants.ts";
import { nameFingerprint } from "../../format/hash.ts";
import { Inode, INODE_COUNT_LIMIT } from "../../format/items.ts";
import type { WalkContext } from "./context.ts";
import {
  FACT_BACKREF,
  FACT_DATA_INDEX,
  FACT_META_INDEX,
  FACT_ORPHAN,
  FACT_READDIR,
  type FactBook,
  SIDE_ITEM,
  SIDE_SOURCE,
} from "./facts.ts";
import type { Directories } from "./parents.ts";
import { isZero, joinWords, rawU64 } from "./raw.ts";
import type { RawBlock } from "./source.ts";
import type { ExtentSink } from "./space.ts";
import { keyText, nameText } from "./text.ts";
import { XattrCheck } from "./xattr_check.ts";

const VAL_OFF = 48;
const VAL_LEN = 50;
const S_IFMT = 0o170000;
const S_IFREG = 0o100000;
const S_IFDIR = 0o040000;
const S_IFLNK = 0o120000;
const S_IFCHR = 0o020000;
const S_IFBLK = 0o060000;

const NO_TYPE = 255;
/** Entry type of a mode's file type, by its uppermost four bits. */
const ENTRY_TYPE = new Uint8Array(16).fill(NO_TYPE);
ENTRY_TYPE[0o01] = DT_FIFO;
ENTRY_TYPE[S_IFCHR >>> 12] = DT_CHR;
ENTRY_TYPE[S_IFDIR >>> 12] = DT_DIR;
ENTRY_TYPE[S_IFBLK >>> 12] = DT_BLK;
ENTRY_TYPE[S_IFREG >>> 12] = DT_REG;
ENTRY_TYPE[S_IFLNK >>> 12] = DT_LNK;
ENTRY_TYPE[0o14] = DT_SOCK;

const TIMES = ["atime", "ctime", "mtime", "crtime"] as const;

const FNV_INIT = 0x811c9dc5;
const FNV_PRIME = 0x01000193;

const DIRENT_BYTES = 32;

export class InodeCheck {
  // The inode.
  #inoHi = 0;
  #inoLo = 0;
  #ino = 0;
  #present = false;
  #format = 0;
  #nlink = 0;
  #size = 0;
  #truncating = false;
  #storedOnline = 0;
  #storedOffline = 0;
  #nextPos = 0;
  #nextXattr = 0;
  // What its items add up to.
  #backrefs = 0;
  #entries = 0;
  #names = 0;
  #subdirs = 0;
  #symlinkParts = 0;
  #symlinkBytes = 0;
  #symlinkEnd = 0;
  #lastPartShort = false;
  #online = 0;
  #offline = 0;
  #extentEnd = -1;
  #extentBlkno = 0;
  #extentFlags = 0;
  #extentLen = 0;
  /** The last block that is written, −1 without one. */
  #lastWritten = -1;
  #strayItems = 0;
  /** The last entry's name, and all names with its hash when there are several. */
  readonly #nameWords = new Uint32Array(NAME_MAX + 1 >> 2);
  readonly #name = new Uint8Array(this.#nameWords.buffer);
  #nameLen = 0;
  readonly #sameHash = new Set<string>();
  /** Of the entry looked at last: low word of its name's hash, and a hash of its whole value. */
  #nameHash = 0;
  #valueHash = 0;
  #hashHi = 0;
  #hashLo = 0;
  readonly #xattrs: XattrCheck;
  /** Totals of the whole volume. */
  inodes = 0;
  directories = 0;

  constructor(
    private readonly cx: WalkContext,
    private readonly facts: FactBook,
    private readonly space: ExtentSink | null,
    private readonly parents: Directories,
    private readonly nextIno: number,
    private readonly maxSeq: number,
  ) {
    this.#xattrs = new XattrCheck(cx, facts);
  }

  begin(inoHi: number, inoLo: number): void {
    this.#inoHi = inoHi;
    this.#inoLo = inoLo;
    this.#ino = joinWords(inoHi, inoLo);
    this.#present = false;
    this.#backrefs = 0;
    this.#entries = 0;
    this.#names = 0;
    this.#subdirs = 0;
    this.#symlinkParts = 0;
    this.#symlinkBytes = 0;
    this.#symlinkEnd = 0;
    this.#lastPartShort = false;
    this.#online = 0;
    this.#offline = 0;
    this.#extentEnd = -1;
    this.#lastWritten = -1;
    this.#strayItems = 0;
    if (this.#sameHash.size > 0) this.#sameHash.clear();
    this.#nameLen = 0;
    this.#xattrs.begin(inoHi, inoLo);
  }

  item(b: RawBlock, item: number): void {
    const v = b.v, type = v.getUint8(item + KEY + 26);
    const off = v.getUint16(item + VAL_OFF, true), len = v.getUint16(item + VAL_LEN, true);
    if (type === TYPE_INODE) {
      this.#takeInode(b, off, len);
      return;
    }
    if (!this.#present) this.#strayItems++;
    switch (type) {
      case TYPE_XATTR:
        this.#xattrs.part(b, item, off, len);
        break;
      case TYPE_DIRENT:
        this.#dirent(b, item, off, len);
        break;
      case TYPE_READDIR:
        this.#readdir(b, item, off, len);
        break;
      case TYPE_LINK_BACKREF:
        this.#backref(b, item, off, len);
        break;
      case TYPE_SYMLINK:
        this.#symlink(b, item, off, len);
        break;
      case TYPE_DATA_EXTENT:
        this.#extent(b, item, off, len);
        break;
    }
  }

  end(): void {
    if (this.#strayItems > 0) {
      this.cx.report.add("inode-missing", { ino: this.#ino, items: this.#strayItems });
    }
    this.#xattrs.end(this.#present ? this.#nextXattr : -1, this.#nlink === 0);
    if (!this.#present) return;
    this.inodes++;
    this.#finish();
  }

  #takeInode(b: RawBlock, off: number, len: number): void {
    const { report } = this.cx, ino = this.#ino;
    if (len !== Inode.V1_SIZE && (len !== Inode.SIZE || this.cx.fmtVers < 2)) {
      report.add("inode-length", { ino, len });
      if (len < Inode.V1_SIZE) return;
    }
    this.#present = true;
    const v = b.v, mode = v.getUint32(off + 84, true), flags = v.getUint32(off + 92, true);
    const format = mode & S_IFMT;
    this.#format = format;
    this.#nlink = v.getUint32(off + 72, true);
    this.#size = rawU64(v, off);
    this.#truncating = (flags & INODE_FLAG_TRUNCATE) !== 0;
    this.#storedOnline = rawU64(v, off + 32);
    this.#storedOffline = rawU64(v, off + 40);
    this.#nextPos = rawU64(v, off + 48);
    this.#nextXattr = rawU64(v, off + 56);
    if (ENTRY_TYPE[format >>> 12] === NO_TYPE || mode > 0o177777) {
      this.#badField("mode", `0o${mode.toString(8)}`);
    }
    if (flags !== 0) {
      const known = INODE_FLAG_TRUNCATE | (this.cx.fmtVers >= 2 ? INODE_FLAG_RETENTION : 0);
      if ((flags & ~known) !== 0) this.#badField("flags", flags);
      if ((flags & INODE_FLAG_TRUNCATE) !== 0 && format !== S_IFREG) this.#badField("flags", flags);
    }
    if (ino >= this.nextIno) report.add("inode-next-ino", { ino, nextIno: this.nextIno });
    if (ino !== ROOT_INO && ino < 1024) this.#badField("number", ino);
    for (let at = 0; at < 4; at++) {
      const nsec = v.getUint32(off + 104 + 16 * at, true);
      const pad = v.getUint32(off + 108 + 16 * at, true);
      if (nsec >= 1_000_000_000) this.#badField(TIMES[at] as string, nsec);
      if (pad !== 0) this.#badField(`${TIMES[at]} padding`, pad);
    }
    const rdev = v.getUint32(off + 88, true);
    if (rdev !== 0 && format !== S_IFCHR && format !== S_IFBLK) this.#badField("rdev", rdev);
    if (v.getUint32(off + 4, true) >= 0x8000_0000) {
      this.#badField("size", v.getBigUint64(off, true).toString());
    }
    // No filesystem has given out so many, and nothing could count on.
    if (this.#nextPos >= INODE_COUNT_LIMIT) this.#badField("next_readdir_pos", this.#nextPos);
    if (this.#nextXattr >= INODE_COUNT_LIMIT) this.#badField("next_xattr_id", this.#nextXattr);
    const metaSeq = rawU64(v, off + 8), dataSeq = rawU64(v, off + 16);
    if (metaSeq > this.maxSeq) this.#badField("meta_seq", metaSeq);
    if (dataSeq > this.maxSeq) this.#badField("data_seq", dataSeq);
    this.facts.addShort(
      FACT_META_INDEX,
      SIDE_SOURCE,
      v.getUint32(off + 12, true),
      v.getUint32(off + 8, true),
      this.#inoHi,
      this.#inoLo,
    );
    if (this.#format === S_IFREG) {
      this.facts.addShort(
        FACT_DATA_INDEX,
        SIDE_SOURCE,
        v.getUint32(off + 20, true),
        v.getUint32(off + 16, true),
        this.#inoHi,
        this.#inoLo,
      );
    }
    if (this.#nlink === 0) {
      this.facts.addShort(FACT_ORPHAN, SIDE_SOURCE, this.#inoHi, this.#inoLo, 0, 0);
    }
    if (this.#format === S_IFDIR) this.directories++;
  }

  /** What a directory entry, its readdir twin and its backref have in common; false if unusable. */
  #entryValue(b: RawBlock, item: number, off: number, len: number, kind: string): boolean {
    const v = b.v;
    const nameLen = len - DIRENT_BYTES;
    if (nameLen < 1 || nameLen > NAME_MAX) {
      this.#badEntry(kind, v, item, `a name of ${nameLen} bytes`);
      return false;
    }
    const tail = v.getUint32(off + 24, true), pad = v.getUint32(off + 28, true);
    if (tail > 0xff || pad !== 0) this.#badEntry(kind, v, item, "padding is not zero");
    // The name's own hash, another one of it, and bytes that no name has, in one go.
    const { buf } = b, start = off + DIRENT_BYTES, end = off + len;
    let hash = FNV_INIT, other = tail ^ pad, special = 0;
    for (let i = start; i < end; i++) {
      const c = buf[i]!;
      if (c === 0 || c === 0x2f) special++;
      hash = Math.imul(hash ^ c, FNV_PRIME);
      other = Math.imul(other, 0x9e3779b1) + c | 0;
    }
    hash >>>= 0;
    const storedLo = v.getUint32(off + 8, true), storedHi = v.getUint32(off + 12, true);
    if (storedLo !== hash || storedHi !== nameFingerprint(buf, start, nameLen)) {
      this.#badEntry(kind, v, item, "the hash is not that of the name");
    }
    this.#nameHash = hash;
    other = Math.imul(other ^ storedHi, 0x85ebca6b) ^ storedLo;
    this.#valueHash = (other ^ other >>> 15) >>> 0;
    if (special > 0) this.#badEntry(kind, v, item, "the name has a NUL or a slash");
    if (buf[start] === 0x2e && (nameLen === 1 || nameLen === 2 && buf[start + 1] === 0x2e)) {
      this.#badEntry(kind, v, item, "the name is . or ..");
    }
    return true;
  }

  #entryFact(
    cls: number,
    side: number,
    b: RawBlock,
    off: number,
    dirHi: number,
    dirLo: number,
  ): void {
    const v = b.v;
    this.facts.add(
      cls,
      side,
      dirHi,
      dirLo,
      v.getUint32(off + 20, true),
      v.getUint32(off + 16, true),
      0,
      0,
      0,
      this.#valueHash,
      this.#nameHash,
      v.getUint32(off + 4, true),
      v.getUint32(off, true),
    );
  }

  #dirent(b: RawBlock, item: number, off: number, len: number): void {
    if (!this.#entryValue(b, item, off, len, "dirent")) return;
    const { report } = this.cx, v = b.v, key = item + KEY;
    if (
      v.getUint32(key + 8, true) !== v.getUint32(off + 8, true) ||
      v.getUint32(key + 12, true) !== v.getUint32(off + 12, true)
    ) this.#badEntry("dirent", v, item, "the key has another hash");
    if (
      v.getUint32(key + 16, true) !== v.getUint32(off + 16, true) ||
      v.getUint32(key + 20, true) !== v.getUint32(off + 20, true)
    ) this.#badEntry("dirent", v, item, "the key has another position");
    if (v.getUint8(key + 24) !== 0) {
      this.#badEntry("dirent", v, item, "the key's last field is not zero");
    }
    const pos = rawU64(v, off + 16);
    if (pos < DIRENT_FIRST_POS || pos >= INODE_COUNT_LIMIT - 1) {
      this.#badEntry("dirent", v, item, `position ${pos}`);
    } else if (this.#present && pos >= this.#nextPos) {
      report.add("dir-next-pos", { ino: this.#ino, pos, next: this.#nextPos });
    }
    this.#unique(b, off, len, v.getUint32(key + 12, true), v.getUint32(key + 8, true));
    this.#entries++;
    this.#names += len - DIRENT_BYTES;
    if (v.getUint8(off + 24) === DT_DIR) this.#subdirs++;
    this.#entryFact(FACT_READDIR, SIDE_SOURCE, b, off, this.#inoHi, this.#inoLo);
    this.#entryFact(FACT_BACKREF, SIDE_SOURCE, b, off, this.#inoHi, this.#inoLo);
  }

  /** Names of equal hash are neighbours; only those can be equal. */
  #unique(b: RawBlock, off: number, len: number, hashHi: number, hashLo: number): void {
    const start = off + DIRENT_BYTES;
    if (this.#nameLen > 0 && hashHi === this.#hashHi && hashLo === this.#hashLo) {
      // Rare: only now are names worth an allocation.
      if (this.#sameHash.size === 0) {
        this.#sameHash.add(nameText(this.#name.subarray(0, this.#nameLen)));
      }
      const name = nameText(b.buf.subarray(start, off + len));
      if (this.#sameHash.has(name)) {
        this.cx.report.add("dir-name-twice", { ino: this.#ino, name });
      }
      this.#sameHash.add(name);
      return;
    }
    this.#hashHi = hashHi;
    this.#hashLo = hashLo;
    if (this.#sameHash.size > 0) this.#sameHash.clear();
    this.#nameLen = len - DIRENT_BYTES;
    if ((start & 3) === 0) {
      const { u32 } = b, words = this.#nameWords, end = off + len + 3 >> 2;
      for (let from = start >> 2, to = 0; from < end; from++, to++) words[to] = u32[from]!;
    } else this.#name.set(b.buf.subarray(start, off + len));
  }

  #readdir(b: RawBlock, item: number, off: number, len: number): void {
    if (!this.#entryValue(b, item, off, len, "readdir entry")) return;
    const v = b.v, key = item + KEY;
    if (
      v.getUint32(key + 8, true) !== v.getUint32(off + 16, true) ||
      v.getUint32(key + 12, true) !== v.getUint32(off + 20, true) ||
      !isZero(b.buf, key + 16, 9)
    ) {
      this.cx.report.add("entry-value", {
        ino: this.#ino,
        kind: "readdir entry",
        key: keyText(v, item),
        why: "the key has another position",
      });
    }
    this.#entryFact(FACT_READDIR, SIDE_ITEM, b, off, this.#inoHi, this.#inoLo);
  }

  #backref(b: RawBlock, item: number, off: number, len: number): void {
    this.#backrefs++;
    if (!this.#entryValue(b, item, off, len, "link backref")) return;
    const { report } = this.cx, v = b.v, key = item + KEY;
    if (v.getUint32(off, true) !== this.#inoLo || v.getUint32(off + 4, true) !== this.#inoHi) {
      this.#badEntry("link backref", v, item, `the value says inode ${rawU64(v, off)}`);
    }
    if (
      v.getUint32(key + 16, true) !== v.getUint32(off + 16, true) ||
      v.getUint32(key + 20, true) !== v.getUint32(off + 20, true)
    ) this.#badEntry("link backref", v, item, "the key has another position");
    if (v.getUint8(key + 24) !== 0) {
      this.#badEntry("link backref", v, item, "the key's last field is not zero");
    }
    const type = v.getUint8(off + 24);
    if (this.#present && type !== ENTRY_TYPE[this.#format >>> 12]) {
      report.add("entry-type", { ino: this.#ino, type, dir: rawU64(v, key + 8) });
    }
    this.#entryFact(
      FACT_BACKREF,
      SIDE_ITEM,
      b,
      off,
      v.getUint32(key + 12, true),
      v.getUint32(key + 8, true),
    );
    if (this.#present && this.#format === S_IFDIR && this.#backrefs === 1) {
      this.parents.add(this.#ino, rawU64(v, key + 8));
    }
  }

  #symlink(b: RawBlock, item: number, off: number, len: number): void {
    const v = b.v, key = item + KEY, nr = rawU64(v, key + 8);
    const bad = (why: string) => this.cx.report.add("symlink", { ino: this.#ino, why });
    if (!isZero(b.buf, key + 16, 9)) bad(`part ${nr} has a key with more fields`);
    if (nr !== this.#symlinkParts) bad(`part ${this.#symlinkParts} is missing`);
    if (this.#lastPartShort) bad(`part ${this.#symlinkParts - 1} is short`);
    if (len === 0) {
      bad(`part ${nr} is empty`);
      return;
    }
    this.#symlinkParts = nr + 1;
    this.#symlinkBytes += len;
    this.#lastPartShort = len !== XATTR_PART_SIZE;
    this.#symlinkEnd = b.buf[off + len - 1] as number;
  }

  #extent(b: RawBlock, item: number, off: number, len: number): void {
    const { report } = this.cx, v = b.v, key = item + KEY, ino = this.#ino;
    const end = rawU64(v, key + 8), count = rawU64(v, key + 16), start = end - count + 1;
    if (len !== 16) {
      this.#badExtent(end, count, `a value of ${len} bytes`);
      return;
    }
    if (v.getUint8(key + 24) !== 0) this.#badExtent(end, count, "the key's last field is not zero");
    if (end > SM_MAX || count < 1 || start < 0) {
      this.#badExtent(end, count, "it lies outside any file");
      return;
    }
    const blkno = rawU64(v, off), tail = v.getUint32(off + 8, true), flags = tail & 255;
    if (tail > 255 || v.getUint32(off + 12, true) !== 0) {
      this.#badExtent(end, count, "padding is not zero");
    }
    if ((flags & ~(SEF_OFFLINE | SEF_UNWRITTEN)) !== 0) {
      this.#badExtent(end, count, `unknown flags ${flags}`);
    } else if (blkno === 0 && flags !== SEF_OFFLINE || blkno !== 0 && flags === SEF_OFFLINE) {
      this.#badExtent(end, count, `flags ${flags} with block ${blkno}`);
    }
    if (start <= this.#extentEnd) {
      report.add("extent-file-overlap", { ino, start, count });
    } else if (
      this.#extentEnd >= 0 && start === this.#extentEnd + 1 && flags === this.#extentFlags
    ) {
      const joined = blkno === 0
        ? this.#extentBlkno === 0
        : this.#extentBlkno !== 0 && blkno === this.#extentBlkno + this.#extentLen;
      if (joined) report.add("extent-file-touch", { ino, start, count });
    }
    this.#extentEnd = end;
    this.#extentBlkno = blkno;
    this.#extentFlags = flags;
    this.#extentLen = count;
    if (blkno !== 0 && (flags & SEF_UNWRITTEN) === 0) {
      this.#online += count;
      this.#lastWritten = end;
    } else if ((flags & SEF_OFFLINE) !== 0) this.#offline += count;
    if (blkno === 0) return;
    if (blkno < DATA_DEV_START_BLKNO || blkno + count > this.cx.dataBlocks) {
      report.add("extent-outside", { ino, blkno, count });
      return;
    }
    this.space?.addFile(blkno, count, this.#inoHi, this.#inoLo, start);
  }

  // Methods, not functions made on the way: these paths are taken for every item.

  #badField(field: string, value: number | string): void {
    this.cx.report.add("inode-field", { ino: this.#ino, field, value });
  }

  #badEntry(kind: string, v: DataView, item: number, why: string): void {
    this.cx.report.add("entry-value", { ino: this.#ino, kind, key: keyText(v, item), why });
  }

  #badExtent(end: number, count: number, why: string): void {
    this.cx.report.add("extent-item", { ino: this.#ino, end, count, why });
  }

  #wrong(
    code: "inode-size" | "inode-nlink" | "inode-blocks" | "extents-missing",
    field: string,
    value: number,
    found: number,
  ): void {
    this.cx.report.add(code, { ino: this.#ino, field, value, found });
  }

  /** What the inode says against what its items add up to. */
  #finish(): void {
    const { report } = this.cx, ino = this.#ino, size = this.#size;
    const isDir = this.#format === S_IFDIR;
    if (isDir) {
      if (size !== this.#names) this.#wrong("inode-size", "size", size, this.#names);
      if (this.#nlink !== 0 || this.#entries > 0) {
        const links = 2 + this.#subdirs;
        if (this.#nlink !== links) this.#wrong("inode-nlink", "nlink", this.#nlink, links);
      }
      const expected = ino === ROOT_INO || this.#nlink === 0 ? 0 : 1;
      if (this.#backrefs !== expected) {
        report.add("dir-parents", { ino, backrefs: this.#backrefs, expected });
      }
      if (this.#nextPos < DIRENT_FIRST_POS) {
        report.add("inode-field", { ino, field: "next_readdir_pos", value: this.#nextPos });
      }
      this.parents.exists(ino, this.#nlink === 0);
    } else {
      if (this.#nlink !== this.#backrefs) {
        this.#wrong("inode-nlink", "nlink", this.#nlink, this.#backrefs);
      }
      if (this.#entries > 0) report.add("entries-in-file", { ino, entries: this.#entries });
    }
    if (ino === ROOT_INO && !isDir) report.add("root-inode", { why: "it is no directory" });
    if (this.#format === S_IFLNK) this.#finishSymlink(size);
    else if (this.#symlinkParts > 0) {
      report.add("symlink", { ino, why: "it is no symlink, but has a target" });
    }
    if (this.#format !== S_IFREG) {
      if (this.#extentEnd >= 0) report.add("extents-in-other", { ino });
      if (!isDir && this.#format !== S_IFLNK && size !== 0) {
        this.#wrong("inode-size", "size", size, 0);
      }
    }
    // A file that is being deleted loses its extents before its inode (02 §6.4).
    if (this.#nlink > 0) {
      const visible = this.#format !== S_IFREG ? Infinity : Math.ceil(size / SM_SIZE);
      if (this.#lastWritten >= visible && !this.#truncating) {
        report.add("extent-beyond-size", { ino, size, last: this.#lastWritten });
      }
      const online = this.#storedOnline, offline = this.#storedOffline;
      this.#wrongBlocks("online_blocks", online, this.#online);
      this.#wrongBlocks("offline_blocks", offline, this.#offline);
    }
  }

  /** A count beyond what the extents have may be all that tells of lost ones. */
  #wrongBlocks(field: string, value: number, found: number): void {
    if (value === found) return;
    this.#wrong(value > found ? "extents-missing" : "inode-blocks", field, value, found);
  }

  #finishSymlink(size: number): void {
    const ino = this.#ino;
    const bad = (why: string) => this.cx.report.add("symlink", { ino, why });
    if (size < 1 || size > SYMLINK_MAX_SIZE) bad(`size ${size}`);
    else if (this.#symlinkBytes !== size) {
      bad(`its parts have ${this.#symlinkBytes} bytes, size is ${size}`);
    } else if (this.#symlinkEnd !== 0) bad("the target does not end in NUL");
  }
}
