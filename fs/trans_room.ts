/**
 * Will the transaction's metadata lists hold what its commit writes? (03 §9.6, §11.4.) The commit
 * cannot be given up, so the answer must never be too hopeful.
 *
 * What a commit of D dirty items of B leaf bytes allocates at most: each leaf of the log tree that
 * gets an item is copied and may split once although nearly nothing is added; further splits are
 * paid for by bytes; parents are few against leaves. The number of leaves that get items is at most
 * D. Where that is not enough, the leaves are counted now and then, and in between each item that
 * became dirty is taken for another leaf. What was counted stays right while the transaction is
 * open, as its log tree does not change.
 */

import { findItemGE, itemKey, itemValOff } from "../format/btree_block.ts";
import { BlockRef } from "../format/block.ts";
import type { BtreeRoot } from "../format/btree.ts";
import { MAGIC_BTREE } from "../format/constants.ts";
import type { Key } from "../format/key.ts";
import type { LogTrees } from "../format/log_trees.ts";
import type { BlockCache } from "./block_cache.ts";
import { CorruptError } from "./errors.ts";
import type { ItemCache } from "./item_cache.ts";
import { ITEM_DIRTY, type Page } from "./item_page.ts";
import type { AllocTree } from "./meta_alloc.ts";

/** Bytes that pay for one block made by splitting: a quarter of a leaf. */
const SPLIT_BYTES = 15616;
/** Bloom block, both allocator blocks twice, the tree's root and its growth. */
const BASE_BLOCKS = 16;
/** Places in the key space that one operation changes. */
const OP_PLACES = 8;
/** Least children of a parent, on average: it joins below a quarter. */
const PARENT_CHILDREN = 200;
const SRCH_ENTRIES_PER_BLOCK = 2000;

/** Counting begins with so many new dirty items; a commit gives what is missing with fewer. */
const COUNT_AT_LEAST = 16;

export class Room {
  /** Leaves of the log tree that counted dirty items belong to, by block number. */
  readonly #leaves = new Set<number>();
  /** `DirtyItems.added` at the last count. */
  #countedAt: number;

  constructor(
    private readonly tree: AllocTree,
    private readonly lt: LogTrees,
    private readonly items: ItemCache,
  ) {
    this.#countedAt = items.dirty.added;
  }

  /**
   * May an operation dirty `more` items, beside those that are, with so many srch entries, and
   * `other` blocks for the data allocators? The items of one operation lie in a few places next to
   * each other; what that guess lacks is in `BASE_BLOCKS`, and the next hold counts them exactly.
   */
  suffices(more: number, srchEntries: number, other: number): boolean {
    const { avail, freed } = this.tree.alloc.remaining();
    const room = Math.min(avail, freed) - BASE_BLOCKS - other -
      (srchEntries > 0 ? 4 + Math.ceil(srchEntries / SRCH_ENTRIES_PER_BLOCK) : 0);
    const { dirty } = this.items;
    const places = Math.min(more, OP_PLACES + Math.ceil(more / 32));
    const uncounted = dirty.added - this.#countedAt;
    if (this.#need(this.#leaves.size + uncounted + places, more) <= room) return true;
    if (uncounted < COUNT_AT_LEAST || this.lt.itemRoot.height === 0) return false;
    dirty.scan((page) => this.#look(page));
    this.#countedAt = dirty.added;
    return this.#need(this.#leaves.size + places, more) <= room;
  }

  #need(leaves: number, more: number): number {
    const { height } = this.lt.itemRoot;
    const hits = height === 0 ? 0 : leaves;
    const parents = height < 2 ? 0 : (height - 1) * (1 + Math.ceil(hits / PARENT_CHILDREN)) * 2;
    // An item that is dirtied is of any size: 1 KiB covers the largest.
    return 2 * hits + parents + Math.ceil((this.items.dirtyBytes + more * 1024) / SPLIT_BYTES);
  }

  /** Finds the leaves that a page's dirty items belong to. */
  #look(page: Page): void {
    const { tree, lt } = this;
    for (let i = 0; i < page.count;) {
      if ((page.flags(i) & ITEM_DIRTY) === 0) {
        i++;
        continue;
      }
      const { blkno, end } = findLeaf(tree.cache, lt.itemRoot, page.key(i));
      this.#leaves.add(blkno);
      if (end === null) return;
      do i++; while (i < page.count && page.compareKey(i, end) <= 0);
    }
  }
}

/** The leaf that covers `key` and the last key that it covers (null: no bound); reads parents only. */
function findLeaf(
  cache: BlockCache,
  root: BtreeRoot,
  key: Key,
): { blkno: number; end: Key | null } {
  let ref: BlockRef = root.ref;
  let end: Key | null = null;
  for (let level = root.height - 1; level > 0; level--) {
    const b = cache.read(ref, MAGIC_BTREE);
    const item = findItemGE(b, key);
    if (item === 0) throw new CorruptError(`btree block ${b.blkno} has no child for ${key}`);
    // Bounds only become tighter on the way down.
    end = itemKey(b, item);
    ref = new BlockRef(b.v, itemValOff(b, item));
  }
  return { blkno: ref.blkno, end };
}
