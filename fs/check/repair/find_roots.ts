/**
 * Finding fs_root and logs_root of a volume whose super block is gone. Every btree block of the volume
 * is read; a root is a block that no other block refers to, of the newest tree that is whole. Copy on
 * write leaves many older trees behind, or parts of them; what tells them apart:
 *
 * - A reference holds 64 random bits of its block (01 §5.3), so a tree whose references all find their
 *   blocks is one that was there as a whole, at some time.
 * - Versions of items and numbers of transactions only grow (03 §7): the tree of log trees with the
 *   greatest is the newest, and so is the fs_root with the newest item.
 * - fs_root has the root inode and no deletions, and no log_trees item names it as a log tree. One that
 *   was mended can be without: then log trees have the root inode (salvage.ts).
 *
 * Trees of the server that can be made anew are not looked for: search files, merges, free space.
 *
 * Memory: what the check may use; a record of each btree block is in a table that spills (block_table.ts).
 */

import {
  blockLevel,
  firstItem,
  itemFlags,
  itemKey,
  itemSeq,
  itemVal,
  lastItem,
  nextItem,
  nrItems,
} from "../../../format/btree_block.ts";
import { checkBtreeShape } from "../../../format/btree_verify.ts";
import {
  FMT_VERS_MAX,
  FMT_VERS_MIN,
  LG_SIZE,
  MAGIC_BTREE,
  META_DEV_START_BLKNO,
  SM_SIZE,
  TYPE_DATA_EXTENT,
  TYPE_INODE,
  ZONE_FS,
  ZONE_INODE_INDEX,
  ZONE_LOG_TREES,
} from "../../../format/constants.ts";
import { blockCrcOk } from "../../../format/crc32c.ts";
import { Key } from "../../../format/key.ts";
import { Inode } from "../../../format/items.ts";
import { LogTrees } from "../../../format/log_trees.ts";
import type { Device } from "../../device.ts";
import { DeviceError } from "../../errors.ts";
import { type CheckOptions, DEFAULT_MEMORY } from "../check.ts";
import { fieldU64, hiWord, isExact, joinWords, loWord, rawU64, viewOf } from "../raw.ts";
import { MetaSource, type RawBlock, type Ref } from "../source.ts";
import { WordStore } from "../word_store.ts";
import { BlockTable } from "./block_table.ts";
import { SEQ_LIMIT } from "./round.ts";

/** Words of a block's record. */
const FLAGS = 0;
const SEQ_HI = 1;
const SEQ_LO = 2;
/** Of the whole tree below it: greatest version, items, references that lead nowhere. */
const NEWEST_HI = 3;
const NEWEST_LO = 4;
const ITEMS_HI = 5;
const ITEMS_LO = 6;
const MISSING = 7;
/** Of leaves: least and greatest key. */
const FIRST = 8;
const LAST = 15;
const WORDS = 22;

/** Flags; the level is in the lowest byte. */
const LEVEL_MASK = 0xff;
/** There is a btree block. */
const IS_BLOCK = 1 << 8;
/** Of a tree of log trees, not of one of items. */
const IS_LOGS = 1 << 9;
/** Of the whole tree: it has deletions; it has the root inode. */
const HAS_DELETIONS = 1 << 10;
const HAS_ROOT_INODE = 1 << 11;
/** The last key is all-ones: nothing is to the right of it. */
const ENDS = 1 << 12;
/** A parent refers to it; it is the root of a log tree. */
const IS_CHILD = 1 << 13;
const IS_LOG_TREE = 1 << 14;

const INHERITED = HAS_DELETIONS | HAS_ROOT_INODE;

/** A tree that could be the one that the super block named. */
export interface RootCandidate extends Ref {
  readonly height: number;
  /** References that lead nowhere. */
  readonly missing: number;
  /** Greatest version in it. */
  readonly newest: number;
  readonly items: number;
  /** fs_root: its own root is lost, and this is some block below it. */
  readonly isPart: boolean;
}

export interface FoundRoots {
  /** Best first. */
  readonly fsRoots: readonly RootCandidate[];
  /** Trees of which something is missing, the root inode perhaps; the largest first. */
  readonly torn: readonly RootCandidate[];
  /** Whole trees that could be an fs_root, but are without the root inode. */
  readonly rootless: readonly RootCandidate[];
  readonly logsRoots: readonly RootCandidate[];
  /** Least version of an item in leaves that fs_root may have had; Infinity without any. */
  readonly oldest: number;
  /** Greatest numbers seen anywhere, in old trees too. */
  readonly greatestSeq: number;
  readonly greatestIno: number;
  /** End of the blocks that anything lies in, on each device. */
  readonly metaEnd: number;
  readonly dataEnd: number;
  /** Btree blocks of the volume. */
  readonly blocks: number;
  /** Some leaf has an inode. */
  readonly inodes: boolean;
  /** The format version that the items are of. */
  readonly fmtVers: number;
}

/** Items of fs_root as mkfs makes it: whatever else is found is of log trees. */
const MKFS_ITEMS = 2;

const ROOT_INODE = Key.of(ZONE_FS, 1, TYPE_INODE);
/** Candidates of each kind that are worth a closer look. */
const MOST = 64;

export function findRoots(
  meta: Device,
  fsid: bigint,
  options: Pick<CheckOptions, "memory" | "tempDir">,
  onRead: (blocks: number, total: number) => void,
): FoundRoots {
  const source = new MetaSource(meta, Number(fsid & 0xffff_ffffn), Number(fsid >> 32n));
  const finder = new RootFinder(source, options.memory ?? DEFAULT_MEMORY, options.tempDir);
  try {
    finder.scan(onRead);
    finder.measure();
    return finder.roots();
  } finally {
    finder.close();
  }
}

class RootFinder {
  readonly #table: BlockTable;
  /** Blocks whose references are to be followed: parents as `blkno, level`, leaves of log trees. */
  readonly #parents: WordStore;
  readonly #logLeaves: WordStore;
  #levels = 0;
  #blocks = 0;
  #inodes = false;
  #oldest = Infinity;
  #greatestSeq = 1;
  #greatestIno = 1;
  #metaEnd = 0;
  #dataEnd = 0;
  #fmtVers = FMT_VERS_MIN;

  constructor(private readonly source: MetaSource, memory: number, tempDir: string | undefined) {
    this.#table = new BlockTable(WORDS, memory / 2, tempDir);
    this.#parents = new WordStore(memory / 16, tempDir);
    this.#logLeaves = new WordStore(memory / 16, tempDir);
  }

  close(): void {
    this.#table.close();
    this.#parents.close();
    this.#logLeaves.close();
  }

  scan(onRead: (blocks: number, total: number) => void): void {
    const { source } = this, total = Math.floor(source.dev.size / LG_SIZE);
    const head = source.dev.allocBuffer(SM_SIZE), v = viewOf(head), b = source.acquire();
    for (let blkno = META_DEV_START_BLKNO; blkno < total; blkno++) {
      onRead(blkno, total);
      try {
        source.dev.read(head, blkno * LG_SIZE);
      } catch (e) {
        if (!(e instanceof DeviceError)) throw e;
        continue;
      }
      const ours = v.getUint32(8, true) === source.fsidLo &&
        v.getUint32(12, true) === source.fsidHi && rawU64(v, 24) === blkno;
      if (!ours) continue;
      this.#metaEnd = blkno + 1;
      if (v.getUint32(4, true) !== MAGIC_BTREE || !source.readRaw(b, blkno)) continue;
      if (blockCrcOk(b.buf) && checkBtreeShape(b) === null && nrItems(b) > 0) this.#add(b, blkno);
    }
    source.release(b);
  }

  #add(b: RawBlock, blkno: number): void {
    const level = blockLevel(b), first = itemKey(b, firstItem(b)), last = itemKey(b, lastItem(b));
    const isLogs = first.zone === ZONE_LOG_TREES;
    // A parent on the right edge can have a single child, whose bound is all-ones.
    const isItems = first.zone >= ZONE_INODE_INDEX && first.zone <= ZONE_FS ||
      first.zone === Key.ONES.zone && level > 0;
    if (!isLogs && !isItems) return;
    let flags = level | IS_BLOCK | (isLogs ? IS_LOGS : 0) | (last.equals(Key.ONES) ? ENDS : 0);
    let newest = 0, oldest = Infinity;
    for (let item = firstItem(b); level === 0 && item !== 0; item = nextItem(b, item)) {
      const key = itemKey(b, item);
      if (isLogs) {
        newest = Math.max(newest, this.#newestOf(itemVal(b, item)));
        continue;
      }
      if (rawU64(b.v, item + 40) < SEQ_LIMIT) {
        newest = Math.max(newest, itemSeq(b, item));
        oldest = Math.min(oldest, itemSeq(b, item));
      }
      if (itemFlags(b, item) !== 0) flags |= HAS_DELETIONS;
      if (key.equals(ROOT_INODE)) flags |= HAS_ROOT_INODE;
      this.#item(key, itemVal(b, item));
    }
    const fromMkfs = (flags & HAS_ROOT_INODE) !== 0 && nrItems(b) <= MKFS_ITEMS;
    if ((flags & HAS_DELETIONS) === 0 && !fromMkfs) this.#oldest = Math.min(this.#oldest, oldest);
    this.#greatestSeq = Math.max(this.#greatestSeq, newest);
    this.#blocks++;
    this.#table.set(blkno, FLAGS, flags);
    this.#table.set(blkno, SEQ_HI, b.v.getUint32(20, true));
    this.#table.set(blkno, SEQ_LO, b.v.getUint32(16, true));
    if (level > 0) {
      this.#parents.push(blkno);
      this.#parents.push(level);
      this.#levels = Math.max(this.#levels, level);
      return;
    }
    this.#setSum(blkno, newest, nrItems(b), 0);
    this.#setKey(blkno, FIRST, first);
    this.#setKey(blkno, LAST, last);
    if (isLogs) this.#logLeaves.push(blkno);
  }

  /** Greatest number in a log_trees item. */
  #newestOf(val: Uint8Array): number {
    if (val.length !== LogTrees.SIZE) return 0;
    const lt = LogTrees.at(val.slice());
    let newest = 0;
    for (const at of [416, 424, 432, 440]) {
      const n = fieldU64(lt, at);
      if (n < SEQ_LIMIT) newest = Math.max(newest, n);
    }
    return newest;
  }

  #item(key: Key, val: Uint8Array): void {
    if (key.zone !== ZONE_FS) return;
    if (key.type === TYPE_INODE && val.length > 0) this.#inodes = true;
    if (key.type === TYPE_INODE && val.length === Inode.SIZE) this.#fmtVers = FMT_VERS_MAX;
    const ino = Number(key.firstBig);
    if (ino < SEQ_LIMIT) this.#greatestIno = Math.max(this.#greatestIno, ino);
    if (key.type !== TYPE_DATA_EXTENT || val.length !== 16) return;
    const end = rawU64(viewOf(val), 0) + Number(key.thirdBig);
    if (isExact(end)) this.#dataEnd = Math.max(this.#dataEnd, end);
  }

  #setSum(blkno: number, newest: number, items: number, missing: number): void {
    const t = this.#table;
    t.set(blkno, NEWEST_HI, hiWord(newest));
    t.set(blkno, NEWEST_LO, loWord(newest));
    t.set(blkno, ITEMS_HI, hiWord(items));
    t.set(blkno, ITEMS_LO, loWord(items));
    t.set(blkno, MISSING, missing);
  }

  #sum(blkno: number): { newest: number; items: number; missing: number } {
    const t = this.#table;
    return {
      newest: joinWords(t.get(blkno, NEWEST_HI), t.get(blkno, NEWEST_LO)),
      items: joinWords(t.get(blkno, ITEMS_HI), t.get(blkno, ITEMS_LO)),
      missing: t.get(blkno, MISSING),
    };
  }

  #setKey(blkno: number, at: number, k: Key): void {
    const words = [
      k.zone << 16 | k.type << 8 | k.fourth,
      k.firstHi,
      k.firstLo,
      k.secondHi,
      k.secondLo,
      k.thirdHi,
      k.thirdLo,
    ];
    words.forEach((word, i) => this.#table.set(blkno, at + i, word));
  }

  #key(blkno: number, at: number): Key {
    const w = Array.from({ length: 7 }, (_, i) => this.#table.get(blkno, at + i)) as [
      number,
      number,
      number,
      number,
      number,
      number,
      number,
    ];
    return Key.words(
      w[0] >>> 16,
      w[1],
      w[2],
      w[0] >>> 8 & 0xff,
      w[3],
      w[4],
      w[5],
      w[6],
      w[0] & 0xff,
    );
  }

  #flags(blkno: number): number {
    return this.#table.get(blkno, FLAGS);
  }

  #mark(blkno: number, flags: number): void {
    this.#table.set(blkno, FLAGS, this.#flags(blkno) | flags);
  }

  /** Whether the scan has seen the block that a reference names, at this level. */
  #isThere(ref: Ref, level: number): boolean {
    if (ref.blkno >= this.#metaEnd) return false;
    const flags = this.#flags(ref.blkno), t = this.#table;
    return (flags & IS_BLOCK) !== 0 && (flags & LEVEL_MASK) === level &&
      t.get(ref.blkno, SEQ_HI) === ref.seqHi && t.get(ref.blkno, SEQ_LO) === ref.seqLo;
  }

  /**
   * Sums up trees from their leaves, level by level: trees of items, then what leaves of log trees refer
   * to, then trees of log trees.
   */
  measure(): void {
    this.#sumParents(() => true);
    for (let i = 0; i < this.#logLeaves.length; i++) this.#sumLogLeaf(this.#logLeaves.get(i));
    this.#sumParents((blkno) => (this.#flags(blkno) & IS_LOGS) !== 0);
  }

  #sumParents(wanted: (blkno: number) => boolean): void {
    for (let level = 1; level <= this.#levels; level++) {
      for (let i = 0; i < this.#parents.length; i += 2) {
        const blkno = this.#parents.get(i);
        if (this.#parents.get(i + 1) === level && wanted(blkno)) this.#sumParent(blkno, level);
      }
    }
  }

  #sumParent(blkno: number, level: number): void {
    let newest = 0, items = 0, missing = 0, flags = 0;
    this.#eachValue(blkno, (val) => {
      const ref = val.length === 16 ? refAt(val) : null;
      if (ref === null || !this.#isThere(ref, level - 1)) {
        missing++;
        return;
      }
      const sum = this.#sum(ref.blkno);
      newest = Math.max(newest, sum.newest);
      items += sum.items;
      missing += sum.missing;
      flags |= this.#flags(ref.blkno) & (INHERITED | IS_LOGS);
      this.#mark(ref.blkno, IS_CHILD);
    });
    this.#setSum(blkno, newest, items, missing);
    this.#mark(blkno, flags);
  }

  /** What the log trees of a leaf have lost. */
  #sumLogLeaf(blkno: number): void {
    let missing = 0;
    this.#eachValue(blkno, (val) => {
      if (val.length !== LogTrees.SIZE) return;
      const { itemRoot } = LogTrees.at(val);
      if (itemRoot.height === 0) return;
      const ref = refAt(itemRoot.bytes);
      if (!this.#isThere(ref, itemRoot.height - 1)) missing++;
      else {
        missing += this.#table.get(ref.blkno, MISSING);
        this.#mark(ref.blkno, IS_LOG_TREE);
      }
    });
    this.#table.set(blkno, MISSING, missing);
  }

  /** Values of a block's items, copied. */
  #eachValue(blkno: number, visit: (val: Uint8Array) => void): void {
    const t = this.#table, b = this.source.acquire(), vals: Uint8Array[] = [];
    const ref = { blkno, seqHi: t.get(blkno, SEQ_HI), seqLo: t.get(blkno, SEQ_LO) };
    if (this.source.read(b, ref, MAGIC_BTREE) === 0) {
      for (let item = firstItem(b); item !== 0; item = nextItem(b, item)) {
        vals.push(itemVal(b, item).slice());
      }
    }
    this.source.release(b);
    for (const val of vals) visit(val);
  }

  roots(): FoundRoots {
    const whole = new Best(), partial = new Best(), wholeLeaves = new Best(), logs = new Best();
    const rootless = new Best();
    // The outermost keys of leaves that could be part of the same fs_root.
    let greatestFirst = Key.ZEROS, leastLast = Key.ONES;
    this.#table.forEach(FLAGS, (blkno) => {
      const flags = this.#flags(blkno), level = flags & LEVEL_MASK;
      if ((flags & IS_CHILD) !== 0) return;
      const root = {
        blkno,
        seqHi: this.#table.get(blkno, SEQ_HI),
        seqLo: this.#table.get(blkno, SEQ_LO),
        height: level + 1,
        ...this.#sum(blkno),
        // A root's last bound is all-ones (01 §10.5).
        isPart: level > 0 && (flags & ENDS) === 0,
      };
      if ((flags & IS_LOGS) !== 0) {
        logs.add(root);
        return;
      }
      if ((flags & (IS_LOG_TREE | HAS_DELETIONS)) !== 0) return;
      if (level === 0) {
        const first = this.#key(blkno, FIRST), last = this.#key(blkno, LAST);
        if (first.compare(greatestFirst) > 0) greatestFirst = first;
        if (last.compare(leastLast) < 0) leastLast = last;
      }
      if ((flags & HAS_ROOT_INODE) !== 0) (level === 0 ? wholeLeaves : whole).add(root);
      // The root inode may have been in what is missing.
      else if (root.missing > 0 && level > 0) partial.add(root);
      else if (level > 0 && !root.isPart) rootless.add(root);
    });
    for (const leaf of wholeLeaves.list()) {
      // A root that is a leaf has no other leaves beside it; older versions of it overlap it.
      const isPart = leaf.items > MKFS_ITEMS &&
        (greatestFirst.compare(this.#key(leaf.blkno, LAST)) > 0 ||
          leastLast.compare(this.#key(leaf.blkno, FIRST)) < 0);
      whole.add({ ...leaf, isPart });
    }
    return {
      fsRoots: (whole.isEmpty ? partial : whole).list(),
      torn: partial.list().sort((a, b) => b.items - a.items),
      oldest: this.#oldest,
      rootless: rootless.list(),
      logsRoots: logs.list(),
      greatestSeq: this.#greatestSeq,
      greatestIno: this.#greatestIno,
      metaEnd: this.#metaEnd,
      dataEnd: this.#dataEnd,
      blocks: this.#blocks,
      inodes: this.#inodes,
      fmtVers: this.#fmtVers,
    };
  }
}

/** The best of any number of candidates. */
class Best {
  #roots: RootCandidate[] = [];

  get isEmpty(): boolean {
    return this.#roots.length === 0;
  }

  add(root: RootCandidate): void {
    if (this.#roots.push(root) >= 2 * MOST) this.#roots = this.list();
  }

  /** Best first. */
  list(): RootCandidate[] {
    return this.#roots.sort((a, b) =>
      Number(a.isPart) - Number(b.isPart) || b.newest - a.newest || a.missing - b.missing ||
      b.items - a.items || b.blkno - a.blkno
    ).slice(0, MOST);
  }
}

function refAt(bytes: Uint8Array): Ref {
  const v = viewOf(bytes);
  return { blkno: rawU64(v, 0), seqLo: v.getUint32(8, true), seqHi: v.getUint32(12, true) };
}
