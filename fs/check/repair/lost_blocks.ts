/**
 * Leaves of item trees that no tree refers to: found by reading every block that is not in use.
 *
 * When a parent or a root is lost, what was below it is intact but unreachable. Copy on write says
 * which blocks that is (01 §5.4): whatever the stable super block leads to is in no free list, so a
 * leaf that is neither referenced nor free belongs to what was lost. Such a leaf is `live`. A leaf in
 * a free block is an older copy; it can only help where the newer one is gone.
 *
 * Memory: half a kilobyte a leaf; of copies the newest that fit into a sixteenth of the budget.
 *
 * Relies on: a check of this volume (owners of all blocks).
 * Guarantees: a leaf that is handed out has the right checksum, fsid, magic, number and shape, and is
 * sound unless it is live; a live one lies wholly within one hole.
 */

import {
  blockLevel,
  firstItem,
  itemFlags,
  itemKey,
  lastItem,
  nextItem,
} from "../../../format/btree_block.ts";
import {
  LG_SIZE,
  MAGIC_BTREE,
  META_DEV_START_BLKNO,
  SM_SIZE,
  ZONE_FS,
  ZONE_INODE_INDEX,
  ZONE_LOG_MERGE_COMPLETE,
} from "../../../format/constants.ts";
import { checkBtreeShape } from "../../../format/btree_verify.ts";
import { blockCrcOk } from "../../../format/crc32c.ts";
import { Key, maxKey } from "../../../format/key.ts";
import { DeviceError } from "../../errors.ts";
import { checkBlock } from "../btree_check.ts";
import type { BadBlock, CheckContext } from "../context.ts";
import { FS_ROOT, isMergeItemOf } from "../names.ts";
import { KIND_FREE, KIND_NOBODY, KIND_USED } from "../owners.ts";
import type { ProblemCode } from "../problems.ts";
import { rawU64, viewOf } from "../raw.ts";
import type { RawBlock } from "../source.ts";
import { SEQ_LIMIT } from "./round.ts";

/** Owners of leaves that a completed request of a merge leads to (01 §13.4). */
const isMerged = (owner: string): boolean => isMergeItemOf(owner, ZONE_LOG_MERGE_COMPLETE);

/** Keys of a tree that can be read no more, because a block of `level` is lost. */
export interface Hole {
  /** "fs_root", or any other name for log trees. */
  readonly tree: string;
  readonly level: number;
  readonly lo: Key;
  readonly hi: Key;
  /** The leaf that the hole is made by leaving it out: it can be read, but is not where its parents say. */
  readonly stray?: LooseLeaf;
}

/** The tree of a hole that log trees have left which are not known at all. */
export const LOG_TREES = "log trees";

/**
 * The tree of a hole that says: some reference is missing from a parent, without leaving a trace
 * there, as the keys belong to its neighbour then. Live leaves alone can fill it.
 */
export const LEAKED = "what leaked";

/** What the loss of a leaf leaves in other places. */
const TRACES: readonly ProblemCode[] = [
  "root-inode",
  "inode-missing",
  "inode-count",
  "inode-nlink",
  "inode-size",
  "extents-missing",
  "inode-blocks",
  "entry-without-twin",
  "twin-without-entry",
  "dir-parents",
  "dir-parent-missing",
  "orphan-missing",
  "orphan-extra",
  "index-missing",
  "index-extra",
  "xattr",
  "xattr-headless",
  "symlink",
  "srch-extra",
  "indx-missing",
  "indx-extra",
  "totl",
  "data-leak",
  "quota-rule",
  // Inputs of a merge are missing.
  "merge",
];

/** Whether blocks that are neither used nor free may be leaves of which items are missed. */
export const mayHaveLeaked = (counts: ReadonlyMap<ProblemCode, number>): boolean =>
  counts.has("meta-leak") && tracesOfLoss(counts).length > 0;

/** Those of the problems that the loss of items leaves in other places. */
export const tracesOfLoss = (counts: ReadonlyMap<ProblemCode, number>): ProblemCode[] =>
  TRACES.filter((code) => counts.has(code));

export interface LooseLeaf {
  readonly blkno: number;
  readonly seqLo: number;
  readonly seqHi: number;
  readonly first: Key;
  readonly last: Key;
  /** Greatest version of its items. */
  readonly newest: number;
  /** Some of its items are deletions: it is of a log tree. */
  readonly deletions: boolean;
  /** Part of what was lost, not an older copy. */
  readonly live: boolean;
  /** Else its items can be read in key order, but it cannot stay as it is. */
  readonly sound: boolean;
  /**
   * Where it is from, as far as that is known: of a completed request of a merge, so that it stands for
   * leaves of fs_root; or of a log tree that nothing leads to, so that it fills no other tree's hole.
   */
  readonly from?: "merge" | "lost log tree";
}

/** What a leaf that was found takes in memory, and copies that are kept in any case. */
const LEAF_BYTES = 512;
const LEAST_COPIES = 1000;

/** What a search of the device found. */
export interface Loose {
  readonly leaves: readonly LooseLeaf[];
  /**
   * Those of them beside which there is no other one, where free space is not known: whether they are
   * older copies cannot be told, but they are all that is left of their keys.
   */
  readonly alone: readonly LooseLeaf[];
  /** There are more than memory is meant for. */
  readonly more: boolean;
  /** All blocks that are in use and that nothing refers to are whole: no live leaf is missing. */
  readonly complete: boolean;
  /** The live ones are those of a log tree that nothing leads to, and of holes, but nothing else. */
  readonly lostLogTree?: boolean;
  /** There are leaves that may be part of a log tree that is not whole. */
  readonly remains?: boolean;
}

export const NOTHING_LOOSE: Loose = { leaves: [], alone: [], more: false, complete: false };

export const holds = (hole: Hole, key: Key): boolean =>
  key.compare(hole.lo) >= 0 && key.compare(hole.hi) <= 0;

/** Whether a leaf may be one that a tree has lost. */
export const mayBeOf = ({ from }: LooseLeaf, tree: string): boolean =>
  from === undefined || from === "merge" && tree === FS_ROOT;

/** The hole that a bad block may leave when its tree is written anew; null if it can be believed. */
export function expectedHole(cx: CheckContext, bad: BadBlock): Hole | null {
  const { level, lo, hi } = bad;
  if (!bad.lost) {
    const b = cx.source.acquire();
    const rules = cx.source.read(b, bad.ref, MAGIC_BTREE);
    const whole = (level > 0 || rules === 0) && checkBtreeShape(b) === null &&
      blockLevel(b) === level;
    cx.source.release(b);
    if (whole) return null;
  }
  return { tree: bad.tree, level, lo, hi };
}

/**
 * Leaves that can fill `holes`. `freeKnown`: every free block is in a list or extent that could be
 * read, so that blocks in none of them are in use. `merging`: a merge has results that are not part
 * of fs_root yet; their leaves stand for those that they replace, as the merge will be given up.
 * `logTrees`: how many the volume has. `onRead` is told of blocks read, of how many.
 */
export function findLooseLeaves(
  cx: CheckContext,
  holes: readonly Hole[],
  freeKnown: boolean,
  { merging, logTrees }: { readonly merging: boolean; readonly logTrees: number },
  onRead: (blocks: number, total: number) => void,
): Loose {
  const live: LooseLeaf[] = [], stale: LooseLeaf[] = [];
  const most = Math.max(LEAST_COPIES, Math.floor(cx.memory / 16 / LEAF_BYTES));
  const lost = new Set(cx.badBlocks.map(({ ref }) => ref.blkno));
  let unknown = 0, found = 0;
  const runs: { start: number; len: number; inUse: boolean; merged: boolean }[] = [];
  let total = 0, done = 0;
  const add = (start: number, len: number, inUse: boolean, merged = false) => {
    runs.push({ start, len, inUse, merged });
    total += len;
  };
  const { owners } = cx;
  const copies = holes.some((h) => h.tree !== LEAKED);
  owners.forEachRun(META_DEV_START_BLKNO, (start, len, kind) => {
    if (kind === KIND_FREE && !copies) return;
    if (kind !== KIND_USED) add(start, len, kind === KIND_NOBODY && freeKnown);
    else if (merging) {
      for (let blkno = start; blkno < start + len; blkno++) {
        if (isMerged(owners.name(owners.of(blkno)))) add(blkno, 1, true, true);
      }
    }
  });
  const head = cx.meta.allocBuffer(SM_SIZE), v = viewOf(head), b = cx.source.acquire();
  for (const { start, len, inUse, merged } of runs) {
    for (let blkno = start; blkno < start + len; blkno++) {
      onRead(done++, total);
      const ours = readHead(cx, head, blkno) && hasHeader(cx, v, blkno);
      if (inUse && !lost.has(blkno) && !(ours && isWhole(cx, b, blkno))) unknown++;
      if (!ours || !looksLikeLeaf(v) || !cx.source.readRaw(b, blkno)) continue;
      const leaf = looseLeaf(b, blkno, holes, inUse);
      if (leaf?.live === true) live.push(merged ? { ...leaf, from: "merge" } : leaf);
      else if (leaf !== null) {
        found++;
        if (stale.push(leaf) > 2 * most) keepNewest(stale, most);
      }
    }
  }
  cx.source.release(b);
  keepNewest(stale, most);
  const more = found > stale.length;
  if (overlapTooMuch(live, holes, logTrees, merging)) {
    const copied = live.filter((l) => l.sound).map((l) => ({ ...l, live: false }));
    const leaves = [...copied, ...stale];
    return { leaves, alone: [], more, complete: false };
  }
  // Of those that were dropped nobody knows any more what they lie beside.
  const alone = freeKnown || more ? [] : standAlone(stale);
  return { leaves: [...live, ...stale], alone, more, complete: freeKnown && unknown === 0 };
}

/** Leaves whose range of keys no other one touches. */
function standAlone(leaves: readonly LooseLeaf[]): LooseLeaf[] {
  const sorted = [...leaves].sort((a, b) => a.first.compare(b.first)), alone: LooseLeaf[] = [];
  let last: Key | null = null;
  sorted.forEach((leaf, i) => {
    const next = sorted[i + 1];
    const touched = last !== null && last.compare(leaf.first) >= 0 ||
      next !== undefined && next.first.compare(leaf.last) <= 0;
    if (!touched && !leaf.deletions) alone.push(leaf);
    last = maxKey(leaf.last, last ?? leaf.last);
  });
  return alone;
}

/** Of more copies than there is memory for the newest are the ones to keep. */
function keepNewest(leaves: LooseLeaf[], most: number): void {
  if (leaves.length <= most) return;
  leaves.sort((a, b) => b.newest - a.newest);
  leaves.length = most;
}

const isWhole = (cx: CheckContext, b: RawBlock, blkno: number): boolean =>
  cx.source.readRaw(b, blkno) && blockCrcOk(b.buf);

/**
 * Leaves of one tree never overlap: if more overlap than trees have holes, some are older copies, and
 * the free lists have forgotten them.
 */
function overlapTooMuch(
  live: readonly LooseLeaf[],
  holes: readonly Hole[],
  logTrees: number,
  merging: boolean,
): boolean {
  const trees = new Set(holes.map((h) => h.tree));
  if (trees.has(LOG_TREES)) return false;
  // What leaked may be of any tree, or what a completed request replaces.
  const most = trees.size + (trees.has(LEAKED) ? logTrees + (merging ? 1 : 0) : 0);
  let open: LooseLeaf[] = [];
  for (const leaf of [...live].sort((a, b) => a.first.compare(b.first))) {
    open = open.filter((o) => o.last.compare(leaf.first) >= 0);
    open.push(leaf);
    if (open.length > most) return true;
  }
  return false;
}

/** The first 4 KiB of a block say whether the rest is worth reading. */
export function readHead(cx: CheckContext, head: Uint8Array, blkno: number): boolean {
  try {
    cx.meta.read(head, blkno * LG_SIZE);
    return true;
  } catch (e) {
    if (!(e instanceof DeviceError)) throw e;
    return false;
  }
}

/** A block of this volume that is at its place. */
export const hasHeader = (cx: CheckContext, v: DataView, blkno: number): boolean =>
  v.getUint32(8, true) === cx.source.fsidLo && v.getUint32(12, true) === cx.source.fsidHi &&
  rawU64(v, 24) === blkno;

const looksLikeLeaf = (v: DataView): boolean =>
  v.getUint32(4, true) === MAGIC_BTREE && v.getUint16(34, true) > 0 && v.getUint8(40) === 0;

function looseLeaf(
  b: RawBlock,
  blkno: number,
  holes: readonly Hole[],
  inUse: boolean,
): LooseLeaf | null {
  if (!blockCrcOk(b.buf)) return null;
  const leaf = readableLeaf(b, blkno);
  if (leaf === null || !leaf.sound && !inUse) return null;
  const { first, last } = leaf;
  const live = inUse && holes.some((h) => holds(h, first) && holds(h, last));
  const near = holes.some((h) => first.compare(h.hi) <= 0 && last.compare(h.lo) >= 0);
  return live || near && leaf.sound ? { ...leaf, live } : null;
}

/** A leaf whose items can be part of any tree of items; null for one with anything wrong inside. */
export function soundLeaf(b: RawBlock, blkno: number): LooseLeaf | null {
  const leaf = readableLeaf(b, blkno);
  return leaf?.sound === true ? leaf : null;
}

/** A leaf whose items can be read in key order, sound or not; null for any other block. */
export function readableLeaf(b: RawBlock, blkno: number): LooseLeaf | null {
  const { v } = b;
  const everything = { level: 0, lo: Key.ZEROS, hi: Key.ONES, rightSpine: false, logTree: true };
  let sound = checkBlock(b, everything).length === 0;
  // Whatever else is wrong, the items of a sound shape can be read.
  if (!sound && checkBtreeShape(b) !== null || firstItem(b) === 0) return null;
  const first = itemKey(b, firstItem(b)), last = itemKey(b, lastItem(b));
  if (first.zone < ZONE_INODE_INDEX || last.zone > ZONE_FS) return null;
  let newest = 0, deletions = false;
  for (let item = firstItem(b); item !== 0; item = nextItem(b, item)) {
    const seq = rawU64(v, item + 40);
    if (seq >= SEQ_LIMIT) sound = false;
    else newest = Math.max(newest, seq);
    deletions ||= itemFlags(b, item) !== 0;
  }
  const seqLo = v.getUint32(16, true), seqHi = v.getUint32(20, true);
  return { blkno, seqLo, seqHi, first, last, newest, deletions, live: true, sound };
}
