/**
 * Finding fs_root and logs_root of a volume whose super block is gone. Every btree block of the volume
 * is read; a root is a block that no other block refers to, of the newest tree that is whole. Copy on
 * write leaves many older trees behind, or parts of them; what tells them apart:
 *
 * - A reference holds 64 random bits of its block (01 §5.3), so a tree whose references all find their
 *   blocks is one that was there as a whole, at some time.
 * - Versions of items and numbers of transactions only grow (03 §7): the tree of log trees with the
 *   greatest is the newest, and so is the fs_root with the newest item.
 * - fs_root has the root inode and no deletions, and no log_trees item names it as a log tree.
 *
 * Trees of the server that can be made anew are not looked for: search files, merges, free space.
 *
 * Memory: about half a kilobyte a btree block of the volume, that is a hundredth of its metadata.
 */

import {
  blockLevel,
  firstItem,
  itemFlags,
  itemKey,
  itemSeq,
  itemVal,
  itemValLen,
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
import type { CheckOptions } from "../check.ts";
import { fieldU64, isExact, rawU64, viewOf } from "../raw.ts";
import { MetaSource, type RawBlock, type Ref } from "../source.ts";
import { SEQ_LIMIT } from "./round.ts";

type Kind = "fs" | "logs";

interface TreeBlock extends Ref {
  readonly level: number;
  readonly kind: Kind;
  /** Leaves: greatest version of an item, or of a log tree. */
  readonly newest: number;
  readonly items: number;
  readonly deletions: boolean;
  /** Leaves: it has the root inode. */
  readonly rootInode: boolean;
  readonly first: Key;
  readonly last: Key;
}

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
  readonly logsRoots: readonly RootCandidate[];
  /** Greatest numbers seen anywhere, in old trees too. */
  readonly greatestSeq: number;
  readonly greatestIno: number;
  /** End of the blocks that anything lies in, on each device. */
  readonly metaEnd: number;
  readonly dataEnd: number;
  /** Btree blocks of the volume. */
  readonly blocks: number;
  /** The format version that the items are of. */
  readonly fmtVers: number;
}

type Measured = RootCandidate & { deletions: boolean; rootInode: boolean };

/**
 * Whether a top of fs_root is not its root: a root's last bound is all-ones (01 §10.5), and a root that
 * is a leaf has no other leaves beside it; older versions of it overlap it.
 */
function isPart(top: TreeBlock, leaves: readonly TreeBlock[]): boolean {
  if (top.level > 0) return !top.last.equals(Key.ONES);
  return top.items > MKFS_ITEMS &&
    leaves.some((leaf) => leaf.first.compare(top.last) > 0 || leaf.last.compare(top.first) < 0);
}

/** Items of fs_root as mkfs makes it: whatever else is found is of log trees. */
const MKFS_ITEMS = 2;

const ROOT_INODE = Key.of(ZONE_FS, 1, TYPE_INODE);
/** Candidates of each kind that are worth a closer look. */
const MOST = 64;

export function findRoots(
  meta: Device,
  fsid: bigint,
  _options: Pick<CheckOptions, "memory" | "tempDir">,
  onRead: (blocks: number, total: number) => void,
): FoundRoots {
  const source = new MetaSource(meta, Number(fsid & 0xffff_ffffn), Number(fsid >> 32n));
  const finder = new RootFinder(source);
  finder.scan(onRead);
  return finder.roots();
}

class RootFinder {
  readonly #blocks = new Map<number, TreeBlock>();
  /** Blocks that a parent refers to, as `blkno.seq`. */
  readonly #children = new Set<string>();
  /** Roots of log trees, of any time. */
  readonly #logTrees = new Set<string>();
  #greatestSeq = 1;
  #greatestIno = 1;
  #metaEnd = 0;
  #dataEnd = 0;
  #fmtVers = FMT_VERS_MIN;

  constructor(private readonly source: MetaSource) {}

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
    const level = blockLevel(b), kind = kindOf(itemKey(b, firstItem(b)).zone, level);
    if (kind === null) return;
    let newest = 0, deletions = false, rootInode = false;
    for (let item = firstItem(b); item !== 0; item = nextItem(b, item)) {
      if (level > 0) {
        if (itemValLen(b, item) === 16) this.#children.add(nameOf(refAt(itemVal(b, item))));
        continue;
      }
      const key = itemKey(b, item);
      if (kind === "logs") newest = Math.max(newest, this.#logTree(itemVal(b, item)));
      else {
        if (rawU64(b.v, item + 40) < SEQ_LIMIT) newest = Math.max(newest, itemSeq(b, item));
        deletions ||= itemFlags(b, item) !== 0;
        rootInode ||= key.equals(ROOT_INODE);
        this.#item(key, itemVal(b, item));
      }
    }
    this.#greatestSeq = Math.max(this.#greatestSeq, newest);
    const seqLo = b.v.getUint32(16, true), seqHi = b.v.getUint32(20, true), items = nrItems(b);
    this.#blocks.set(blkno, {
      blkno,
      seqLo,
      seqHi,
      level,
      kind,
      newest,
      items,
      deletions,
      rootInode,
      first: itemKey(b, firstItem(b)),
      last: itemKey(b, lastItem(b)),
    });
  }

  #logTree(val: Uint8Array): number {
    if (val.length !== LogTrees.SIZE) return 0;
    const lt = LogTrees.at(val.slice());
    if (lt.itemRoot.height > 0) this.#logTrees.add(nameOf(refAt(lt.itemRoot.bytes)));
    let newest = 0;
    for (const at of [416, 424, 432, 440]) {
      const n = fieldU64(lt, at);
      if (n < SEQ_LIMIT) newest = Math.max(newest, n);
    }
    return newest;
  }

  #item(key: Key, val: Uint8Array): void {
    if (key.zone !== ZONE_FS) return;
    if (key.type === TYPE_INODE && val.length === Inode.SIZE) this.#fmtVers = FMT_VERS_MAX;
    const ino = Number(key.firstBig);
    if (ino < SEQ_LIMIT) this.#greatestIno = Math.max(this.#greatestIno, ino);
    if (key.type !== TYPE_DATA_EXTENT || val.length !== 16) return;
    const end = rawU64(viewOf(val), 0) + Number(key.thirdBig);
    if (isExact(end)) this.#dataEnd = Math.max(this.#dataEnd, end);
  }

  roots(): FoundRoots {
    const whole: RootCandidate[] = [], partial: RootCandidate[] = [];
    const logsRoots: RootCandidate[] = [], leaves: TreeBlock[] = [];
    for (const block of this.#blocks.values()) {
      const name = nameOf(block);
      if (this.#children.has(name)) continue;
      if (block.kind === "logs") logsRoots.push(this.#measureLogs(block));
      else if (!this.#logTrees.has(name)) {
        if (block.level === 0 && !block.deletions) leaves.push(block);
        const tree = this.#measure(block);
        if (tree.deletions) continue;
        if (tree.rootInode) whole.push({ ...tree, isPart: false });
        // The root inode may have been in what is missing.
        else if (tree.missing > 0 && block.level > 0) partial.push({ ...tree, isPart: false });
      }
    }
    const fsRoots = (whole.length > 0 ? whole : partial).map((root) => ({
      ...root,
      isPart: isPart(this.#blocks.get(root.blkno) as TreeBlock, leaves),
    }));
    const order = (a: RootCandidate, b: RootCandidate) =>
      Number(a.isPart) - Number(b.isPart) || b.newest - a.newest || a.missing - b.missing ||
      b.items - a.items || b.blkno - a.blkno;
    return {
      fsRoots: fsRoots.sort(order).slice(0, MOST),
      logsRoots: logsRoots.sort(order).slice(0, MOST),
      greatestSeq: this.#greatestSeq,
      greatestIno: this.#greatestIno,
      metaEnd: this.#metaEnd,
      dataEnd: this.#dataEnd,
      blocks: this.#blocks.size,
      fmtVers: this.#fmtVers,
    };
  }

  /** All of a tree, by what the scan saw of its blocks. */
  #measure(root: TreeBlock): Measured {
    const sum = {
      blkno: root.blkno,
      seqLo: root.seqLo,
      seqHi: root.seqHi,
      height: root.level + 1,
      missing: 0,
      newest: 0,
      items: 0,
      isPart: false,
      deletions: false,
      rootInode: false,
    };
    this.#walk(root, (leaf) => {
      if (leaf === null) sum.missing++;
      else {
        sum.newest = Math.max(sum.newest, leaf.newest);
        sum.items += leaf.items;
        sum.deletions ||= leaf.deletions;
        sum.rootInode ||= leaf.rootInode;
      }
    });
    return sum;
  }

  /** A tree of log trees, with what its log trees have lost. */
  #measureLogs(root: TreeBlock): RootCandidate {
    const sum = { ...this.#measure(root) };
    this.#walk(root, (leaf) => {
      if (leaf === null) return;
      this.#eachItem(leaf, (val) => {
        if (val.length !== LogTrees.SIZE) return;
        const { itemRoot } = LogTrees.at(val);
        if (itemRoot.height === 0) return;
        const ref = refAt(itemRoot.bytes), top = this.#blocks.get(ref.blkno);
        if (top === undefined || nameOf(top) !== nameOf(ref) || top.level !== itemRoot.height - 1) {
          sum.missing++;
        } else this.#walk(top, (b) => void (sum.missing += b === null ? 1 : 0));
      });
    });
    return sum;
  }

  /** Leaves of a tree, null for each block that is not there. */
  #walk(block: TreeBlock, visit: (leaf: TreeBlock | null) => void): void {
    if (block.level === 0) {
      visit(block);
      return;
    }
    this.#eachItem(block, (val) => {
      if (val.length !== 16) return visit(null);
      const ref = refAt(val), child = this.#blocks.get(ref.blkno);
      const right = child !== undefined && nameOf(child) === nameOf(ref) &&
        child.level === block.level - 1;
      if (right) this.#walk(child, visit);
      else visit(null);
    });
  }

  /** Values of a block's items, copied. */
  #eachItem(ref: Ref, visit: (val: Uint8Array) => void): void {
    const b = this.source.acquire(), vals: Uint8Array[] = [];
    if (this.source.read(b, ref, MAGIC_BTREE) === 0) {
      for (let item = firstItem(b); item !== 0; item = nextItem(b, item)) {
        vals.push(itemVal(b, item).slice());
      }
    }
    this.source.release(b);
    for (const val of vals) visit(val);
  }
}

function kindOf(zone: number, level: number): Kind | null {
  if (zone === ZONE_LOG_TREES) return "logs";
  // A parent on the right edge can have a single child, whose bound is all-ones.
  if (zone === Key.ONES.zone && level > 0) return "fs";
  return zone >= ZONE_INODE_INDEX && zone <= ZONE_FS ? "fs" : null;
}

function refAt(bytes: Uint8Array): Ref {
  const v = viewOf(bytes);
  return { blkno: rawU64(v, 0), seqLo: v.getUint32(8, true), seqHi: v.getUint32(12, true) };
}

const nameOf = ({ blkno, seqLo, seqHi }: Ref): string => `${blkno}.${seqHi}.${seqLo}`;
