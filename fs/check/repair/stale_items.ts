/**
 * Items of older copies of lost leaves. Copy on write leaves a leaf's former contents in free blocks
 * until they are written again; where the newest is lost they are the best that is left. What they
 * say was true once, so each item is judged by what can be read today:
 *
 * - Only keys in a hole count, and not between those of a leaf that was found, and only where no tree
 *   has a version as new (01 §12.2). What is in log trees is newer than what has been merged (03 §16.1):
 *   an item that the lost leaf of fs_root held is older than all that is logged, and one of a log tree
 *   newer than all that is merged. Others are copies of leaves that are not lost, in which the item was
 *   deleted.
 * - The inode must exist: each inode has one meta_seq index item (01 §15.2). Only when such items are
 *   in a hole themselves is this left open.
 * - Of the three items of a directory entry, one that can be read must say the same.
 * - Blocks of an extent must be neither free nor anybody's: they belonged to the lost items.
 * - What can be derived from inodes and attributes (index items, orphans, totals) is not taken from
 *   copies: the passes over items make it anew.
 */

import type { BtreeRoot } from "../../../format/btree.ts";
import {
  firstItem,
  itemFlags,
  itemKey,
  itemSeq,
  itemVal,
  nextItem,
} from "../../../format/btree_block.ts";
import {
  ITEM_FLAG_DELETION,
  SEF_OFFLINE,
  TYPE_DATA_EXTENT,
  TYPE_DIRENT,
  TYPE_INODE_INDEX_META_SEQ,
  TYPE_LINK_BACKREF,
  TYPE_READDIR,
  ZONE_FS,
  ZONE_INODE_INDEX,
  ZONE_QUOTA,
} from "../../../format/constants.ts";
import { backrefKey, extentSearchKey, lastInodeKey, readdirKey } from "../../../format/items.ts";
import { Key, maxKey } from "../../../format/key.ts";
import { forEachItem, lookup, type TreeItem } from "../../btree.ts";
import { ItemTrees } from "../../resolve.ts";
import { FS_ROOT } from "../names.ts";
import { isExact, rawU64, viewOf } from "../raw.ts";
import type { RawBlock } from "../source.ts";
import type { Run } from "./free_blocks.ts";
import { holds, type Hole, LOG_TREES, type LooseLeaf, mayBeOf } from "./lost_blocks.ts";
import type { Round } from "./round.ts";

const U64_MAX = 0xffff_ffff_ffff_ffffn;
const FIRST_INDEX = Key.of(ZONE_INODE_INDEX, 0, TYPE_INODE_INDEX_META_SEQ, 0n);
const LAST_INDEX = Key.of(
  ZONE_INODE_INDEX,
  0,
  TYPE_INODE_INDEX_META_SEQ,
  U64_MAX,
  U64_MAX,
  255,
);

export interface Lost {
  /** All holes, and those of which live leaves are missing. */
  readonly holes: readonly Hole[];
  readonly open: readonly Hole[];
  /** Leaves that were found: between their first and last key nothing else was. */
  readonly live: readonly LooseLeaf[];
}

/** Whether a key lies within a leaf. */
class Spans {
  readonly #firsts: Key[] = [];
  /** The greatest last key of the leaf and all before it. */
  readonly #lasts: Key[] = [];

  constructor(leaves: readonly LooseLeaf[]) {
    for (const { first, last } of [...leaves].sort((a, b) => a.first.compare(b.first))) {
      this.#firsts.push(first);
      this.#lasts.push(maxKey(last, this.#lasts.at(-1) ?? last));
    }
  }

  hold(key: Key): boolean {
    let lo = 0, hi = this.#firsts.length;
    while (lo < hi) {
      const mid = (lo + hi) >> 1;
      if ((this.#firsts[mid] as Key).compare(key) <= 0) lo = mid + 1;
      else hi = mid;
    }
    const last = this.#lasts[lo - 1];
    return last !== undefined && last.compare(key) >= 0;
  }
}

interface Range {
  readonly first: number;
  readonly last: number;
}

export class StaleItems {
  readonly #best = new Map<string, TreeItem>();
  readonly #current: ItemTrees;
  readonly #roots: readonly BtreeRoot[];
  #merged: number | undefined;
  #logged: number | undefined;
  /** There were more items than memory is meant for. */
  overflow = false;

  /** Of leaves that were found, and may be of fs_root, or of a log tree that has lost some. */
  readonly #fsSpans: Spans;
  readonly #logSpans: Spans;
  private readonly holes: readonly Hole[];

  /** `logTrees`: item trees of all log trees, those with live leaves among them. */
  constructor(
    private readonly round: Round,
    private readonly lost: Lost,
    logTrees: readonly BtreeRoot[],
    private readonly limit: number,
  ) {
    this.holes = lost.holes;
    this.#fsSpans = new Spans(lost.live.filter((leaf) => mayBeOf(leaf, FS_ROOT)));
    this.#logSpans = new Spans(lost.live.filter((leaf) => mayBeOf(leaf, LOG_TREES)));
    this.#roots = [round.sb.fsRoot, ...logTrees].filter((root) => root.height > 0);
    this.#current = new ItemTrees(round.cache, round.sb, logTrees);
  }

  /** Takes from a leaf what is newer than what can be read. */
  offer(b: RawBlock): void {
    for (let item = firstItem(b); item !== 0; item = nextItem(b, item)) {
      const key = itemKey(b, item);
      if (key.zone !== ZONE_FS && key.zone !== ZONE_QUOTA) continue;
      if (!this.#isOpen(key)) continue;
      const seq = itemSeq(b, item), name = key.toString();
      const before = this.#best.get(name);
      if (before === undefined ? !this.#isNewest(key, seq) : before.seq >= seq) continue;
      if (before === undefined && this.#best.size >= this.limit) {
        this.overflow = true;
        return;
      }
      this.#best.set(name, { key, seq, flags: itemFlags(b, item), val: itemVal(b, item).slice() });
    }
  }

  /** Whether a key lies in a hole, and not in what was found of its tree. */
  #isOpen(key: Key): boolean {
    return this.lost.open.some((h) =>
      holds(h, key) && !(h.tree === FS_ROOT ? this.#fsSpans : this.#logSpans).hold(key)
    );
  }

  #isNewest(key: Key, seq: number): boolean {
    if (this.#newestVersion(key) >= seq) return false;
    const holes = this.holes.filter((h) => holds(h, key));
    const inFsRoot = holes.some((h) => h.tree === FS_ROOT);
    const inLogs = holes.some((h) => h.tree !== FS_ROOT);
    return inFsRoot && inLogs ||
      (inFsRoot ? seq < this.#oldestLogged() : seq > this.#newestMerged());
  }

  /** Version of the newest item, deletions among them, that a tree has; -1 if there is none. */
  #newestVersion(key: Key): number {
    let newest = -1;
    for (const root of this.#roots) {
      const item = lookup({ cache: this.round.cache }, root, key);
      if (item !== null) newest = Math.max(newest, item.seq);
    }
    return newest;
  }

  /** Version of the newest item that was merged. */
  #newestMerged(): number {
    return this.#merged ??= this.#bound([this.round.sb.fsRoot], 0, Math.max);
  }

  /** Version of the oldest item that was not merged. */
  #oldestLogged(): number {
    const roots = this.round.items.logTrees.map(({ lt }) => lt.itemRoot);
    return this.#logged ??= this.#bound(roots, Infinity, Math.min);
  }

  #bound(
    roots: readonly BtreeRoot[],
    start: number,
    pick: (a: number, b: number) => number,
  ): number {
    let bound = start;
    const { cache } = this.round;
    for (const root of roots) {
      forEachItem({ cache }, root, Key.ZEROS, ({ seq }) => void (bound = pick(bound, seq)));
    }
    return bound;
  }

  /** The items that nothing contradicts, in key order. `leaks`: data blocks that nobody has. */
  judge(leaks: readonly Run[]): TreeItem[] {
    const alive = this.#alive();
    const kept: TreeItem[] = [], extents: TreeItem[] = [];
    for (const item of this.#best.values()) {
      if (item.flags === ITEM_FLAG_DELETION) {
        // It hides what is older, else it says nothing.
        if (this.#newestVersion(item.key) >= 0) kept.push(item);
      } else if (item.key.zone === ZONE_QUOTA) kept.push(item);
      else if (!isExact(rawFirst(item.key)) || alive?.has(item.key.first) === false) continue;
      else if (item.key.type === TYPE_DATA_EXTENT) extents.push(item);
      else if (this.#agrees(item)) kept.push(item);
    }
    kept.push(...this.#ownedExtents(extents, leaks));
    return kept.sort((a, b) => a.key.compare(b.key));
  }

  /** Which of the inodes exist; null when their index items are lost as well. */
  #alive(): Set<number> | null {
    const lost = this.holes.some((h) =>
      h.lo.compare(LAST_INDEX) <= 0 && h.hi.compare(FIRST_INDEX) >= 0
    );
    if (lost) return null;
    const wanted = new Set<number>(), alive = new Set<number>();
    for (const { key } of this.#best.values()) if (key.zone === ZONE_FS) wanted.add(rawFirst(key));
    if (wanted.size === 0) return alive;
    for (const { key } of this.#current.items(FIRST_INDEX, LAST_INDEX)) {
      const ino = Number(key.thirdBig);
      if (wanted.has(ino)) alive.add(ino);
    }
    return alive;
  }

  /** Whether those of the two other items of an entry that can be read agree. */
  #agrees({ key, val }: TreeItem): boolean {
    const { type } = key;
    if (type !== TYPE_DIRENT && type !== TYPE_READDIR && type !== TYPE_LINK_BACKREF) return true;
    if (val.length < 32) return false;
    const target = rawU64(viewOf(val), 0), pos = rawU64(viewOf(val), 16);
    if (!isExact(target) || !isExact(pos)) return false;
    if (type === TYPE_LINK_BACKREF) {
      if (!isExact(Number(key.secondBig))) return false;
      return this.#confirms(readdirKey(Number(key.secondBig), pos), target);
    }
    return this.#confirms(backrefKey(target, key.first, pos), target);
  }

  #confirms(key: Key, target: number): boolean {
    if (this.holes.some((h) => holds(h, key))) return true;
    const twin = this.#current.item(key);
    return twin !== null && twin.val.length >= 32 && rawU64(viewOf(twin.val), 0) === target;
  }

  /** Extents whose blocks were in use by nothing but the lost items, newest versions first. */
  #ownedExtents(extents: TreeItem[], leaks: readonly Run[]): TreeItem[] {
    const owned: TreeItem[] = [], left = [...leaks].sort((a, b) => a.start - b.start);
    const byInode = new Map<number, Range[]>();
    for (const item of extents.sort((a, b) => b.seq - a.seq)) {
      const end = Number(item.key.secondBig), len = Number(item.key.thirdBig);
      if (item.val.length !== 16 || !isExact(end) || len < 1 || len > end + 1) continue;
      const range = { first: end - len + 1, last: end }, ino = item.key.first;
      const taken = byInode.get(ino) ?? [];
      if (taken.some((r) => r.first <= range.last && r.last >= range.first)) continue;
      if (this.#isMapped(ino, range)) continue;
      const v = viewOf(item.val), blkno = rawU64(v, 0);
      const offline = blkno === 0 && (v.getUint8(8) & SEF_OFFLINE) !== 0;
      if (!offline && !take(left, blkno, len)) continue;
      taken.push(range);
      byInode.set(ino, taken);
      owned.push(item);
    }
    return owned;
  }

  #isMapped(ino: number, range: Range): boolean {
    const last = lastInodeKey(ino, TYPE_DATA_EXTENT);
    for (const { key } of this.#current.items(extentSearchKey(ino, range.first), last)) {
      return Number(key.secondBig) - Number(key.thirdBig) + 1 <= range.last;
    }
    return false;
  }
}

const rawFirst = (key: Key): number => Number(key.firstBig);

/** Takes [start, start+len) out of the runs; false if they do not have all of it. */
function take(runs: Run[], start: number, len: number): boolean {
  let lo = 0, hi = runs.length;
  while (lo < hi) {
    const mid = (lo + hi) >> 1, run = runs[mid] as Run;
    if (run.start + run.len <= start) lo = mid + 1;
    else hi = mid;
  }
  const run = runs[lo];
  if (run === undefined || run.start > start || run.start + run.len < start + len) return false;
  const parts = [
    { start: run.start, len: start - run.start },
    { start: start + len, len: run.start + run.len - start - len },
  ].filter((r) => r.len > 0);
  runs.splice(lo, 1, ...parts);
  return true;
}
