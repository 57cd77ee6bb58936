/**
 * Bringing back what lost blocks of item trees held (01 §10, 03 §3, §26).
 *
 * What is found goes into finalized log trees of its own, each item with the version it has: the
 * newest version of a key counts (01 §12.2), so nothing found can hide anything newer, whichever tree
 * it came from. They are log trees like those of item_patch.ts, and what is said there about merges
 * holds here; a merge that is under way is given up first, since it would forget what its inputs
 * delete (03 §16.1).
 *
 * Live leaves (lost_blocks.ts) stay where they are and get new parents, but where several cover the
 * same keys, being of several lost trees: those are merged into new leaves, as are those that are not
 * sound. Items of older copies are judged one by one (stale_items.ts). Totals are left out: a log
 * tree's are added to those of fs_root (01 §12.2), which may have them already; fixers.ts makes them
 * anew from the attributes.
 *
 * Memory: new blocks are written as soon as they take a quarter of the budget: they lie in free
 * space, and nothing refers to them before the super block does.
 */

import { firstItem, itemFlags, itemKey, itemVal, nextItem } from "../../../format/btree_block.ts";
import { BlockRef } from "../../../format/block.ts";
import type { BtreeRoot } from "../../../format/btree.ts";
import {
  ITEM_FLAG_DELETION,
  LG_SIZE,
  LOG_TREES_FINALIZED,
  MAGIC_BTREE,
  ZONE_XATTR_TOTL,
} from "../../../format/constants.ts";
import type { Key } from "../../../format/key.ts";
import { LogTrees } from "../../../format/log_trees.ts";
import type { BlockCache } from "../../block_cache.ts";
import { lookup, next, type TreeItem } from "../../btree.ts";
import { FsError } from "../../errors.ts";
import type { CheckContext } from "../context.ts";
import { rawU64 } from "../raw.ts";
import type { RawBlock } from "../source.ts";
import type { Run } from "./free_blocks.ts";
import { FS_ROOT } from "../names.ts";
import { holds, type Hole, LEAKED, type Loose, type LooseLeaf, mayBeOf } from "./lost_blocks.ts";
import { type Round, SEQ_LIMIT } from "./round.ts";
import type { ServerTrees } from "./server_trees.ts";
import { StaleItems } from "./stale_items.ts";
import { TreeBuilder } from "./tree_builder.ts";

/** Bytes that an item of an older copy takes while it is judged, roughly. */
const STALE_ITEM_BYTES = 1024;

export interface Salvaged {
  /** Leaves of lost parents that are part of a tree again, or whose items are. */
  readonly leaves: number;
  /** Items taken from older copies of lost leaves. */
  readonly staleItems: number;
  /** There are more of these than memory is meant for. */
  readonly more: boolean;
}

/**
 * Fills holes from loose leaves. All trees of the round must be readable by now: those with lost
 * blocks have been written anew without them.
 */
export function salvage(
  round: Round,
  servers: ServerTrees,
  holes: readonly Hole[],
  loose: Loose,
  leaks: readonly Run[],
): Salvaged {
  const inHole = loose.leaves.filter((leaf) =>
    holes.some((h) => leaf.first.compare(h.hi) <= 0 && leaf.last.compare(h.lo) >= 0)
  );
  const strays = holes.flatMap(({ stray }) => stray ?? []);
  if (inHole.length + strays.length === 0) return { leaves: 0, staleItems: 0, more: false };
  const work = new Salvage(round, servers);
  const torn = holes.filter((h) => h.tree !== LEAKED);
  const isIn = (leaf: LooseLeaf) => (h: Hole) => holds(h, leaf.first) && holds(h, leaf.last);
  const live = inHole.filter((leaf) =>
    leaf.live && (torn.some(isIn(leaf)) || holes.some(isIn(leaf)) && work.isNews(leaf))
  );
  const inFsRoot = torn.filter((h) => h.tree === FS_ROOT && h.level > 0);
  const alone = loose.alone.filter((leaf) => inFsRoot.some(isIn(leaf)) && !work.isCovered(leaf));
  live.push(...strays, ...alone);
  work.attach(live);
  // A hole whose live leaves have all been found has nothing left to be filled from copies.
  const fills = (leaf: LooseLeaf, h: Hole) => mayBeOf(leaf, h.tree) && holds(h, leaf.first);
  const open = torn.filter((h) =>
    h.level > 0 ? !loose.complete : !live.some((leaf) => fills(leaf, h))
  );
  const copies = inHole.filter((leaf) =>
    !leaf.live && open.some((h) => leaf.first.compare(h.hi) <= 0 && leaf.last.compare(h.lo) >= 0)
  );
  const staleItems = work.addStale(torn, open, live, copies, leaks);
  const any = live.length + staleItems > 0;
  return { leaves: live.length, staleItems, more: any && (loose.more || work.more) };
}

/** Whether a leaf has something that none of the trees has, or only an older version. */
export function isNews(
  { source }: CheckContext,
  cache: BlockCache,
  roots: readonly BtreeRoot[],
  leaf: LooseLeaf,
): boolean {
  const has = (root: BtreeRoot, key: Key, seq: number): boolean => {
    try {
      const found = root.height > 0 ? lookup({ cache }, root, key) : null;
      return found !== null && found.seq >= seq;
    } catch (e) {
      // What no reader can reach is not there.
      if (!(e instanceof FsError)) throw e;
      return false;
    }
  };
  const b = source.acquire();
  let news = false;
  if (source.read(b, leaf, MAGIC_BTREE) === 0) {
    for (let item = firstItem(b); item !== 0 && !news; item = nextItem(b, item)) {
      const key = itemKey(b, item), stored = rawU64(b.v, item + 40);
      const seq = stored < SEQ_LIMIT ? stored : leaf.newest;
      news = key.zone !== ZONE_XATTR_TOTL && !roots.some((root) => has(root, key, seq));
    }
  }
  source.release(b);
  return news;
}

class Salvage {
  #builder: TreeBuilder;
  #newest = 0;
  #empty = true;
  readonly #budget: number;
  /** Not all items of older copies were looked at. */
  more = false;

  constructor(private readonly round: Round, private readonly servers: ServerTrees) {
    this.#builder = new TreeBuilder(round.t);
    this.#budget = Math.max(round.cx.memory / 4, 64 * LG_SIZE);
  }

  isNews(leaf: LooseLeaf): boolean {
    const { round, servers } = this;
    const roots = [round.sb.fsRoot, ...servers.logTrees.map((lt) => lt.itemRoot)];
    return isNews(round.cx, round.cache, roots, leaf);
  }

  /** Whether fs_root has something between the keys of a leaf: it is an older copy, then. */
  isCovered(leaf: LooseLeaf): boolean {
    const { cache, sb } = this.round;
    if (sb.fsRoot.height === 0) return false;
    try {
      const found = next({ cache }, sb.fsRoot, leaf.first);
      return found !== null && found.key.compare(leaf.last) <= 0;
    } catch (e) {
      if (!(e instanceof FsError)) throw e;
      return true;
    }
  }

  attach(leaves: readonly LooseLeaf[]): void {
    const sorted = [...leaves].sort((a, b) => a.first.compare(b.first));
    for (let from = 0; from < sorted.length;) {
      let end = from + 1, last = (sorted[from] as LooseLeaf).last;
      while (end < sorted.length && (sorted[end] as LooseLeaf).first.compare(last) <= 0) {
        const next = (sorted[end++] as LooseLeaf).last;
        if (next.compare(last) > 0) last = next;
      }
      const group = sorted.slice(from, end), only = group.length === 1 ? group[0] : undefined;
      if (only?.sound === true && !mayHoldTotals(only)) this.#addLeaf(only);
      else {
        for (const item of mergedItems(this.round, group)) {
          if (item.key.zone !== ZONE_XATTR_TOTL) this.#add(item);
        }
      }
      from = end;
    }
    this.#endTree();
  }

  /** Items of older copies that nothing contradicts; how many. */
  addStale(
    holes: readonly Hole[],
    open: readonly Hole[],
    live: readonly LooseLeaf[],
    leaves: readonly LooseLeaf[],
    leaks: readonly Run[],
  ): number {
    if (leaves.length === 0) return 0;
    const { round, servers } = this, { source } = round.cx;
    const limit = Math.floor(this.#budget / STALE_ITEM_BYTES);
    let items: TreeItem[];
    try {
      const roots = servers.logTrees.map((lt) => lt.itemRoot);
      const stale = new StaleItems(round, { holes, open, live }, roots, limit);
      const b = source.acquire();
      for (const leaf of [...leaves].sort((x, y) => y.newest - x.newest)) {
        if (source.readRaw(b, leaf.blkno)) stale.offer(b);
      }
      source.release(b);
      this.more = stale.overflow;
      items = stale.judge(leaks);
    } catch (e) {
      // A tree that is not to be mended: what cannot be judged is not used.
      if (!(e instanceof FsError)) throw e;
      return 0;
    }
    for (const item of items) this.#add(item);
    this.#endTree();
    return items.length;
  }

  #addLeaf(leaf: LooseLeaf): void {
    const ref = BlockRef.alloc();
    ref.set(leaf.blkno, leaf.seqHi, leaf.seqLo);
    this.#builder.addLeaf(ref, leaf.first, leaf.last);
    this.#newest = Math.max(this.#newest, leaf.newest);
    this.#empty = false;
    this.#spill();
  }

  #add({ key, val, seq, flags }: TreeItem): void {
    this.#builder.add(key, val, seq, flags);
    this.#newest = Math.max(this.#newest, seq);
    this.#empty = false;
    this.#spill();
  }

  #spill(): void {
    if (this.round.writer.dirtyBytes < this.#budget) return;
    this.#endTree();
    this.round.writer.write();
  }

  /** Makes what has been added a log tree of a mount that never was. */
  #endTree(): void {
    if (this.#empty) return;
    const { round, servers } = this, { items, options } = round;
    if (items.merge.status !== null && !round.mergeAbandoned) servers.abandonMerge();
    const lt = LogTrees.alloc();
    this.#builder.finish(lt.itemRoot);
    servers.raiseSeq(this.#newest);
    lt.getTransSeq = lt.commitTransSeq = lt.maxItemSeq = this.#newest;
    lt.finalizeSeq = round.nextSeq();
    lt.flags = LOG_TREES_FINALIZED;
    lt.nr = 1;
    do lt.rid = options.random.u64(); while (
      lt.rid === 0n || lt.rid === 0xffff_ffff_ffff_ffffn ||
      servers.logTrees.some((other) => other.rid === lt.rid)
    );
    servers.addLogTree(lt);
    servers.rebuildBloom(lt);
    this.#builder = new TreeBuilder(round.t);
    this.#newest = 0;
    this.#empty = true;
  }
}

/** Where reading a leaf has come to. */
interface Cursor {
  readonly block: RawBlock;
  readonly leaf: LooseLeaf;
  item: number;
  key: Key;
}

/** The items of leaves that overlap, in key order, of each key the newest version. */
function* mergedItems(round: Round, leaves: readonly LooseLeaf[]): Generator<TreeItem> {
  const { source } = round.cx;
  const open: Cursor[] = [];
  let next = 0;
  for (;;) {
    let least: Key | null = null;
    for (const { key } of open) if (least === null || key.compare(least) < 0) least = key;
    const leaf = leaves[next];
    if (leaf !== undefined && (least === null || leaf.first.compare(least) <= 0)) {
      next++;
      const block = source.acquire();
      const ref = { blkno: leaf.blkno, seqLo: leaf.seqLo, seqHi: leaf.seqHi };
      if (source.read(block, ref, MAGIC_BTREE) !== 0) source.release(block);
      else open.push({ block, leaf, item: firstItem(block), key: leaf.first });
      continue;
    }
    if (least === null) return;
    let best: TreeItem | null = null;
    for (let i = open.length - 1; i >= 0; i--) {
      const at = open[i] as Cursor, { block } = at;
      if (!at.key.equals(least)) continue;
      const val = itemVal(block, at.item).slice(), flags = itemFlags(block, at.item);
      const stored = rawU64(block.v, at.item + 40);
      const item = { key: least, seq: stored < SEQ_LIMIT ? stored : at.leaf.newest, flags, val };
      const usable = flags === 0 || flags === ITEM_FLAG_DELETION && val.length === 0;
      if (usable && (best === null || item.seq > best.seq)) best = item;
      at.item = nextItem(block, at.item);
      if (at.item === 0) {
        source.release(block);
        open.splice(i, 1);
      } else at.key = itemKey(block, at.item);
    }
    if (best !== null) yield best;
  }
}

const mayHoldTotals = ({ first, last }: LooseLeaf): boolean =>
  first.zone <= ZONE_XATTR_TOTL && last.zone >= ZONE_XATTR_TOTL;
