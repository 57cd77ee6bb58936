/**
 * Will the transaction's metadata lists hold what its commit writes? (03 §9.6, §11.4.) The commit
 * cannot be given up, so the answer must never be too hopeful.
 *
 * What a commit of D dirty items of B leaf bytes allocates at most: each leaf of the log tree that
 * gets an item is copied and may split once although nearly nothing is added; further splits are
 * paid for by bytes; parents are few against leaves. The number of leaves that get items is at most
 * D, at most the leaves there are, and, where that is not enough, counted through the tree's
 * parents: exact for the items that were dirty then, and one per item since.
 */

import { compareItem, findItemGE, itemKey, itemValOff } from "../format/btree_block.ts";
import { BlockRef } from "../format/block.ts";
import type { BtreeRoot } from "../format/btree.ts";
import { MAGIC_BTREE } from "../format/constants.ts";
import type { Key } from "../format/key.ts";
import type { LogTrees } from "../format/log_trees.ts";
import type { BlockCache } from "./block_cache.ts";
import { CorruptError } from "./errors.ts";
import type { ItemCache } from "./item_cache.ts";
import type { AllocTree } from "./meta_alloc.ts";

/** Bytes that pay for one block made by splitting: a quarter of a leaf. */
const SPLIT_BYTES = 15616;
/** Bloom block, both allocator blocks twice, the tree's root and its growth. */
const BASE_BLOCKS = 16;
/** Least children of a parent, on average: it joins below a quarter. */
const PARENT_CHILDREN = 200;
const SRCH_ENTRIES_PER_BLOCK = 2000;

export class Room {
  /** Blocks that the log tree has at most. */
  #treeBlocks: number;
  /** Leaves that get items, as counted when `#countedAt` items were dirty. */
  #counted = 0;
  #countedAt = 0;

  constructor(
    private readonly tree: AllocTree,
    private readonly lt: LogTrees,
    private readonly items: ItemCache,
    /** Of the previous transaction in the same log tree. */
    before: Room | null,
  ) {
    if (lt.itemRoot.height === 0) this.#treeBlocks = 0;
    else this.#treeBlocks = before === null ? Infinity : before.#treeBlocks;
  }

  /**
   * May `more` items be dirtied, beside those that are, with so many srch entries, and `other`
   * blocks for the data allocators?
   */
  suffices(more: number, srchEntries: number, other: number): boolean {
    const { avail, freed } = this.tree.alloc.remaining();
    const room = Math.min(avail, freed);
    const extra = BASE_BLOCKS + other +
      (srchEntries > 0 ? 4 + Math.ceil(srchEntries / SRCH_ENTRIES_PER_BLOCK) : 0);
    if (this.#need(more) + extra <= room) return true;
    // Worth counting only if it can change the answer by much.
    const uncounted = this.items.dirtyItems - this.#countedAt;
    if (this.#treeBlocks === 0 || uncounted < 64 || uncounted < this.#counted / 4) return false;
    this.#count();
    return this.#need(more) + extra <= room;
  }

  #need(more: number): number {
    const { dirtyItems, dirtyBytes } = this.items;
    const hits = Math.min(
      this.#counted + Math.max(0, dirtyItems - this.#countedAt) + more,
      this.#treeBlocks,
    );
    const height = this.lt.itemRoot.height;
    const parents = height < 2 ? 0 : (height - 1) * (1 + Math.ceil(hits / PARENT_CHILDREN)) * 2;
    // An item that is dirtied is of any size: 1 KiB covers the largest.
    return 2 * hits + parents + Math.ceil((dirtyBytes + more * 1024) / SPLIT_BYTES);
  }

  #count(): void {
    const { tree, lt, items } = this;
    let leaves = 0;
    let end: Key | null = null;
    for (const list of items.collectDirty(1024)) {
      for (const { key } of list) {
        if (end !== null && key.compare(end) <= 0) continue;
        leaves++;
        end = leafEnd(tree.cache, lt.itemRoot, key);
      }
    }
    this.#counted = leaves;
    this.#countedAt = items.dirtyItems;
  }

  /** @internal The commit put its items into the tree: what the allocator had before and has now. */
  grew(before: { avail: number; freed: number }, after: { avail: number; freed: number }): void {
    const allocated = before.avail - after.avail;
    const freed = Math.max(0, before.freed - after.freed);
    this.#treeBlocks += Math.max(0, allocated - freed) + 2;
  }
}

/** The last key of the leaf that covers `key`; reads parents only. */
function leafEnd(cache: BlockCache, root: BtreeRoot, key: Key): Key | null {
  let ref: BlockRef = root.ref;
  let end: Key | null = null;
  for (let level = root.height - 1; level > 0; level--) {
    const b = cache.read(ref, MAGIC_BTREE);
    const item = findItemGE(b, key);
    if (item === 0) throw new CorruptError(`btree block ${b.blkno} has no child for ${key}`);
    if (end === null || compareItem(b, item, end) < 0) end = itemKey(b, item);
    ref = new BlockRef(b.v, itemValOff(b, item));
  }
  return end;
}
