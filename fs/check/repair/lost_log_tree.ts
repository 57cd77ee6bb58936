/**
 * A log tree that nothing leads to any more, because its item is missing from logs_root. Nothing else
 * may tell of it: its items hide what was there before, as if they had never been, and its blocks are
 * neither used nor free (01 §5.4). Among them are also the free blocks that it had in hand, with older
 * copies of itself and of anything else.
 *
 * What is looked for is a whole tree in such blocks, all of whose items
 *
 *   - are newer than all of fs_root and than the merge that is under way: so it has not been merged
 *     (03 §7, Q3 and Q4);
 *   - are in no log tree in the same version: so it is no older copy of one that is known, as one
 *     version of an item is written to one log tree only;
 *   - are under locks that one bloom block among these blocks names, as every log tree has one;
 *
 * and of several the one with the newest item. Log trees are copied on write: what is whole is what
 * the mount had at the end of some transaction, and with the newest item of the last one.
 *
 * Where not all free metadata blocks are known, older versions of known log trees are among the blocks, and
 * one of which every item has changed since looks like a lost tree: what is found there is a doubt only.
 *
 * Relies on: a check of this volume.
 * Guarantees: all leaves of the tree, or nothing.
 */

import { BlockRef } from "../../../format/block.ts";
import { BloomBlock } from "../../../format/bloom.ts";
import type { BtreeRoot } from "../../../format/btree.ts";
import {
  blockLevel,
  firstItem,
  itemKey,
  itemSeq,
  itemVal,
  lastItem,
  nextItem,
} from "../../../format/btree_block.ts";
import { checkBtreeShape } from "../../../format/btree_verify.ts";
import {
  BTREE_MAX_HEIGHT,
  MAGIC_BLOOM,
  MAGIC_BTREE,
  META_DEV_START_BLKNO,
  SM_SIZE,
} from "../../../format/constants.ts";
import { blockCrcOk } from "../../../format/crc32c.ts";
import { Key } from "../../../format/key.ts";
import { BlockCache } from "../../block_cache.ts";
import { lookup, walkBlocks } from "../../btree.ts";
import type { Random } from "../../env.ts";
import { FsError } from "../../errors.ts";
import { checkBlock } from "../btree_check.ts";
import type { CheckContext } from "../context.ts";
import { FS_ROOT } from "../names.ts";
import { KIND_NOBODY } from "../owners.ts";
import type { ServerItems } from "../pass_roots.ts";
import { rawU64, viewOf } from "../raw.ts";
import type { RawBlock } from "../source.ts";
import { lockOf } from "./item_patch.ts";
import { hasHeader, type LooseLeaf, readHead, soundLeaf } from "./lost_blocks.ts";

/** What a block that leaked takes in memory. */
const BLOCK_BYTES = 1024;
/** Offset of an item's version. */
const SEQ = 40;

/** A block all of whose tree is there. */
interface Whole {
  readonly blkno: number;
  readonly seqLo: number;
  readonly seqHi: number;
  readonly level: number;
  readonly first: Key;
  readonly last: Key;
  /** Greatest and least version of its items. */
  readonly newest: number;
  readonly oldest: number;
  /** Its children; of a leaf itself. */
  readonly below: readonly Whole[];
  readonly leaf: LooseLeaf | null;
}

/** What blocks that leaked tell. */
export interface LostLogTree {
  /** The leaves of a log tree that nothing leads to; empty if there is none for sure. */
  readonly leaves: readonly LooseLeaf[];
  /** No whole tree, but leaves that may be part of one: newer than what was merged, of no known tree. */
  readonly remains: boolean;
}

export const NO_LOG_TREE: LostLogTree = { leaves: [], remains: false };

export function findLostLogTree(
  cx: CheckContext,
  items: ServerItems,
  random: Random,
  onRead: (blocks: number, total: number) => void,
): LostLogTree {
  return new Search(cx, items, random).run(onRead);
}

class Search {
  readonly #cache: BlockCache;
  readonly #block: RawBlock;
  readonly #whole = new Map<number, Whole>();
  readonly #parents: number[][] = Array.from({ length: BTREE_MAX_HEIGHT }, () => []);
  readonly #blooms: number[] = [];

  constructor(
    private readonly cx: CheckContext,
    private readonly items: ServerItems,
    random: Random,
  ) {
    const limitBytes = Math.min(cx.memory / 16, 64 << 20);
    this.#cache = new BlockCache(cx.meta, cx.sb.hdr.fsid, { random, limitBytes });
    this.#block = cx.source.acquire();
  }

  run(onRead: (blocks: number, total: number) => void): LostLogTree {
    try {
      if (!this.#readBlocks(onRead)) return { leaves: [], remains: true };
      if (this.#whole.size === 0) return NO_LOG_TREE;
      for (const [level, blknos] of this.#parents.entries()) {
        for (const blkno of blknos) this.#join(blkno, level);
      }
      const merged = this.#newestMerged(), root = this.#newestRoot();
      const leaves = root !== null && root.oldest > merged ? leavesOf(root) : [];
      if (leaves.length > 0 && this.#isForeign(leaves) && this.#isBloomed(leaves)) {
        return { leaves: leaves.map(lostLeaf), remains: false };
      }
      const mayRemain = (at: Whole) =>
        at.level === 0 && at.newest > merged && this.#isForeign([at]);
      return { leaves: [], remains: [...this.#whole.values()].some(mayRemain) };
    } finally {
      this.cx.source.release(this.#block);
    }
  }

  /** Reads all blocks that are neither used nor free; false if there are too many. */
  #readBlocks(onRead: (blocks: number, total: number) => void): boolean {
    const { cx } = this, runs: { start: number; len: number }[] = [];
    let total = 0, done = 0;
    cx.owners.forEachRun(META_DEV_START_BLKNO, (start, len, kind) => {
      if (kind !== KIND_NOBODY) return;
      runs.push({ start, len });
      total += len;
    });
    if (total > cx.memory / 16 / BLOCK_BYTES) return false;
    const head = cx.meta.allocBuffer(SM_SIZE), v = viewOf(head), b = this.#block;
    for (const { start, len } of runs) {
      for (let blkno = start; blkno < start + len; blkno++) {
        onRead(done++, total);
        if (!readHead(cx, head, blkno) || !hasHeader(cx, v, blkno)) continue;
        const magic = v.getUint32(4, true);
        if (magic !== MAGIC_BTREE && magic !== MAGIC_BLOOM) continue;
        if (!cx.source.readRaw(b, blkno) || !blockCrcOk(b.buf)) continue;
        if (magic === MAGIC_BLOOM) this.#blooms.push(blkno);
        else if (blockLevel(b) > 0) this.#parents[blockLevel(b)]?.push(blkno);
        else {
          const leaf = soundLeaf(b, blkno);
          if (leaf === null) continue;
          let oldest = Infinity;
          for (let item = firstItem(b); item !== 0; item = nextItem(b, item)) {
            oldest = Math.min(oldest, itemSeq(b, item));
          }
          this.#whole.set(blkno, { ...leaf, oldest, level: 0, below: [], leaf });
        }
      }
    }
    return true;
  }

  /** A parent whose children are all there, and hold what it says. */
  #join(blkno: number, level: number): void {
    const b = this.#block;
    if (!this.cx.source.readRaw(b, blkno) || checkBtreeShape(b) !== null) return;
    if (firstItem(b) === 0) return;
    const hi = itemKey(b, lastItem(b)), lo = Key.ZEROS;
    if (checkBlock(b, { level, lo, hi, rightSpine: false, logTree: true }).length > 0) return;
    const below: Whole[] = [];
    let from = Key.ZEROS, newest = 0, oldest = Infinity;
    for (let item = firstItem(b); item !== 0; item = nextItem(b, item)) {
      const ref = BlockRef.at(itemVal(b, item)), upTo = itemKey(b, item);
      const child = this.#whole.get(rawU64(ref.v, ref.o));
      const fits = child !== undefined && child.level === level - 1 &&
        child.seqLo === ref.seqLo && child.seqHi === ref.seqHi &&
        child.first.compare(from) >= 0 && child.last.compare(upTo) <= 0;
      if (!fits) return;
      below.push(child);
      newest = Math.max(newest, child.newest);
      oldest = Math.min(oldest, child.oldest);
      if (!upTo.equals(Key.ONES)) from = upTo.inc();
    }
    const first = (below[0] as Whole).first, last = hi;
    const seqLo = b.v.getUint32(16, true), seqHi = b.v.getUint32(20, true);
    this.#whole.set(blkno, {
      ...{ blkno, seqLo, seqHi, level, first, last, newest, oldest, below },
      leaf: null,
    });
  }

  /** The root of the tree with the newest item. */
  #newestRoot(): Whole | null {
    let best: Whole | null = null;
    for (const at of this.#whole.values()) {
      if (at.level > 0 ? !at.last.equals(Key.ONES) : this.#isBeside(at)) continue;
      const newer = best === null || at.newest > best.newest ||
        at.newest === best.newest && at.level > best.level;
      if (newer) best = at;
    }
    return best;
  }

  /** Whether other leaves lie beside a leaf: one that is a root has none, as older versions overlap it. */
  #isBeside(leaf: Whole): boolean {
    for (const at of this.#whole.values()) {
      if (at.level > 0) continue;
      if (at.first.compare(leaf.last) > 0 || at.last.compare(leaf.first) < 0) return true;
    }
    return false;
  }

  /** The newest version of fs_root or of the merge; Infinity where that cannot be told. */
  #newestMerged(): number {
    const { cx } = this;
    if (cx.badBlocks.some(({ tree }) => tree === FS_ROOT)) return Infinity;
    let newest = this.items.merge.status?.seq ?? 0;
    walkBlocks({ cache: this.#cache }, cx.sb.fsRoot, ({ level, block, error }) => {
      if (error !== null) newest = Infinity;
      if (block === null || level > 0) return;
      for (let item = firstItem(block); item !== 0; item = nextItem(block, item)) {
        newest = Math.max(newest, rawU64(block.v, item + SEQ));
      }
    });
    return newest;
  }

  /** Whether no log tree has any of the items in the same version. */
  #isForeign(leaves: readonly Whole[]): boolean {
    const roots = this.items.logTrees.map(({ lt }) => lt.itemRoot);
    const has = (root: BtreeRoot, key: Key, seq: number): boolean => {
      try {
        return root.height > 0 && lookup({ cache: this.#cache }, root, key)?.seq === seq;
      } catch (e) {
        // What cannot be read may be the same.
        if (!(e instanceof FsError)) throw e;
        return true;
      }
    };
    return this.#everyItem(leaves, (key, seq) => !roots.some((root) => has(root, key, seq)));
  }

  /** Whether some bloom block has the bits of all items. */
  #isBloomed(leaves: readonly Whole[]): boolean {
    const starts: Key[] = [];
    const known = this.#everyItem(leaves, (key) => {
      const start = lockOf(key);
      if (start !== null && starts.at(-1)?.equals(start) !== true) starts.push(start);
      return start !== null;
    });
    return known && this.#blooms.some((blkno) => {
      if (!this.cx.source.readRaw(this.#block, blkno)) return false;
      const bloom = new BloomBlock(this.#block.v, 0);
      return starts.every((start) => bloom.testKey(start));
    });
  }

  #everyItem(leaves: readonly Whole[], test: (key: Key, seq: number) => boolean): boolean {
    const b = this.#block;
    for (const leaf of leaves) {
      if (this.cx.source.read(b, leaf, MAGIC_BTREE) !== 0) return false;
      for (let item = firstItem(b); item !== 0; item = nextItem(b, item)) {
        if (!test(itemKey(b, item), itemSeq(b, item))) return false;
      }
    }
    return true;
  }
}

const lostLeaf = ({ leaf }: Whole): LooseLeaf => ({
  ...leaf as LooseLeaf,
  from: "lost log tree",
});

function leavesOf(tree: Whole): Whole[] {
  return tree.level === 0 ? [tree] : tree.below.flatMap(leavesOf);
}
