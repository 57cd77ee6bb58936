/**
 * Btrees on metadata blocks (03 §6.1–6.6): point operations, iteration, leaf reads for caches, and a
 * walk over all blocks for checkers. Bulk insertion into log trees is in btree_log.ts.
 *
 * A tree is named by its `BtreeRoot`, a live view wherever it is stored (a super block, a log_trees
 * value); changes copy the whole path on write and update the root in place. What changes between
 * two roots never touches a block of the older one.
 *
 * Invariants (03 §6.1): all leaves at the same depth, at most 20 levels; a parent's item key is an
 * inclusive upper bound of its child's keys; the right edge of a full tree ends with all-ones keys.
 * Blocks are split and joined on the way down, so a parent always has room when its child splits.
 * A change that fails may leave the path dirtied, split or joined, never wrong. Empty leaves are
 * tolerated anywhere.
 *
 * Items handed out are windows into blocks: good until the next change of the tree or 64 further
 * block reads, whichever is first.
 *
 * Log merging (03 §6.9–6.11: lower subtrees, merging inputs, freeing whole trees) will have its own
 * file on top of `walkDirty`.
 */

import { BlockRef } from "../format/block.ts";
import type { BtreeRoot } from "../format/btree.ts";
import {
  blockLevel,
  compactValues,
  compareItem,
  findItemGE,
  findItemLE,
  findLeafItem,
  firstItem,
  hasRoom,
  initBtreeBlock,
  insertItem,
  itemFlags,
  itemKey,
  itemSeq,
  itemVal,
  itemValLen,
  itemValOff,
  lastItem,
  midFreeLen,
  moveItems,
  nextItem,
  nrItems,
  prevItem,
  removeItem,
  setParentKey,
  totalItemBytes,
  updateItem,
} from "../format/btree_block.ts";
import { LeafFiller } from "../format/btree_fill.ts";
import { getU64 } from "../format/bytes.ts";
import {
  BTREE_JOIN_LOW,
  BTREE_MAX_HEIGHT,
  BTREE_PARENT_FREE,
  MAGIC_BTREE,
} from "../format/constants.ts";
import { EEXIST } from "../format/errno.ts";
import { Key } from "../format/key.ts";
import type { Block, BlockCache, BlockWriter, MetaAllocator } from "./block_cache.ts";
import { asCorrupt, assert, CorruptError, errnoError, FsError, noEntry } from "./errors.ts";

/**
 * Where a tree's blocks are read, and changed if writer and allocator are there. Through a tree
 * with a writer only structures of our own are reached: a block that does not match its reference
 * is corruption, not staleness (03 §3.5).
 */
export interface Tree {
  readonly cache: BlockCache;
  readonly writer?: BlockWriter;
  readonly alloc?: MetaAllocator;
}

export interface WriteTree extends Tree {
  readonly writer: BlockWriter;
  readonly alloc: MetaAllocator;
}

export interface TreeItem {
  readonly key: Key;
  /** Version; 0 in server and allocator trees (01 §12.1). */
  readonly seq: number;
  /** ITEM_FLAG_DELETION or 0. */
  readonly flags: number;
  readonly val: Uint8Array;
}

/** An inclusive range that readers shrink. */
export interface KeyRange {
  start: Key;
  end: Key;
}

/** Bytes of a child reference in a parent block. */
const REF_BYTES = BlockRef.SIZE;
/** Free bytes beyond what is moved that a join's destination must have: one maximal item. */
const JOIN_SLACK = 952;
/** Blocks filled to less than this many percent are compacted rather than split. */
const SPLIT_PERCENT = 80;
/** A walk restarts at most a few times per level; more means it goes in circles. */
const MAX_RESTARTS = 4 * BTREE_MAX_HEIGHT;

// Point operations, 03 §6.5.

/** The item with exactly this key, or null. */
export function lookup(t: Tree, root: BtreeRoot, key: Key): TreeItem | null {
  const leaf = leafFor(t, root, key);
  if (leaf === null) return null;
  const item = findLeafItem(leaf, key);
  return item === 0 ? null : window(leaf, item, key);
}

/** The item with the least key ≥ `key`, or null. */
export function next(t: Tree, root: BtreeRoot, key: Key): TreeItem | null {
  for (;;) {
    const leaf = leafFor(t, root, key);
    if (leaf === null) return null;
    const item = findItemGE(leaf, key);
    if (item !== 0) return window(leaf, item, itemKey(leaf, item));
    const after = keyAfterLeaf(t, root, key);
    if (after === null) return null;
    key = after;
  }
}

/** The item with the greatest key ≤ `key`, or null. */
export function prev(t: Tree, root: BtreeRoot, key: Key): TreeItem | null {
  for (;;) {
    const leaf = leafFor(t, root, key);
    if (leaf === null) return null;
    const item = findItemLE(leaf, key);
    if (item !== 0) return window(leaf, item, itemKey(leaf, item));
    const before = keyBeforeLeaf(t, root, key);
    if (before === null) return null;
    key = before;
  }
}

/** Adds an item with seq 0; throws EEXIST. */
export function insert(t: WriteTree, root: BtreeRoot, key: Key, val: Uint8Array): void {
  const { leaf } = walkDirty(t, root, key, INSERT, val.length);
  if (findLeafItem(leaf, key) !== 0) throw errnoError(EEXIST);
  insertItem(leaf, key, 0, 0, val);
}

/** Replaces an item's value, keeping seq and flags; throws ENOENT. */
export function update(t: WriteTree, root: BtreeRoot, key: Key, val: Uint8Array): void {
  if (root.height === 0) throw noEntry();
  const { leaf } = walkDirty(t, root, key, INSERT, val.length);
  const item = findLeafItem(leaf, key);
  if (item === 0) throw noEntry();
  updateItem(leaf, item, val);
}

/** Updates the item, or inserts it. */
export function force(t: WriteTree, root: BtreeRoot, key: Key, val: Uint8Array): void {
  const { leaf } = walkDirty(t, root, key, INSERT, val.length);
  const item = findLeafItem(leaf, key);
  if (item === 0) insertItem(leaf, key, 0, 0, val);
  else updateItem(leaf, item, val);
}

/** Removes an item; throws ENOENT. The last item takes the tree's last block with it. */
export function remove(t: WriteTree, root: BtreeRoot, key: Key): void {
  if (root.height === 0) throw noEntry();
  const { leaf } = walkDirty(t, root, key, DELETE, 0);
  const item = findLeafItem(leaf, key);
  if (item === 0) throw noEntry();
  if (root.height === 1 && nrItems(leaf) === 1) {
    t.alloc.freeMeta(leaf.blkno);
    root.ref.zero();
    root.height = 0;
    return;
  }
  removeItem(leaf, item);
}

/**
 * Makes the path to an existing item writable; throws ENOENT. Its value may be overwritten through
 * the returned window.
 */
export function dirtyItem(t: WriteTree, root: BtreeRoot, key: Key): TreeItem {
  if (root.height === 0) throw noEntry();
  const { leaf } = walkDirty(t, root, key, PLAIN, 0);
  const item = findLeafItem(leaf, key);
  if (item === 0) throw noEntry();
  return window(leaf, item, key);
}

/** Visits items from `from` on in key order until `visit` returns false. It must not change the tree. */
export function forEachItem(
  t: Tree,
  root: BtreeRoot,
  from: Key,
  visit: (item: TreeItem) => boolean | void,
): void {
  for (let key: Key | null = from; key !== null; key = keyAfterLeaf(t, root, key)) {
    const leaf = leafFor(t, root, key);
    if (leaf === null) return;
    leaf.pins++;
    try {
      for (let item = findItemGE(leaf, key); item !== 0; item = nextItem(leaf, item)) {
        if (visit(window(leaf, item, itemKey(leaf, item))) === false) return;
      }
    } finally {
      leaf.pins--;
    }
  }
}

/**
 * Leaf reads for caches (03 §6.6): shrinks `range` to what the leaf for `key` covers and visits the
 * leaf's items within it in key order; `visit` reads no blocks. False, without shrinking, if the
 * tree is empty.
 */
export function readItems(
  t: Tree,
  root: BtreeRoot,
  key: Key,
  range: KeyRange,
  visit: (item: TreeItem) => void,
): boolean {
  if (root.height === 0) return false;
  let b = rootBlock(t, root);
  while (blockLevel(b) > 0) {
    const i = childFor(b, key), before = prevItem(b, i);
    if (before !== 0 && compareItem(b, before, range.start) >= 0) {
      range.start = itemKey(b, before).inc();
    }
    if (compareItem(b, i, range.end) < 0) range.end = itemKey(b, i);
    b = childBlock(t, b, i);
  }
  for (let item = findItemGE(b, range.start); item !== 0; item = nextItem(b, item)) {
    if (compareItem(b, item, range.end) > 0) break;
    visit(window(b, item, itemKey(b, item)));
  }
  return true;
}

// Every block of a tree, for checkers.

/** A block as its ancestors describe it, and its content or why it could not be read. */
export interface TreeBlock {
  readonly blkno: number;
  readonly seq: bigint;
  readonly level: number;
  /** Inclusive bounds of the keys below. */
  readonly lo: Key;
  readonly hi: Key;
  /** On the right edge of the tree. */
  readonly rightSpine: boolean;
  readonly block: Block | null;
  readonly error: FsError | null;
}

/**
 * Visits every block, parents before their children, in key order. What cannot be read is reported
 * and passed over. `visit` returns false to leave out a block's children; who walks trees that may
 * be corrupt does so for blocks met before, as nothing else bounds a walk of shared children.
 */
export function walkBlocks(
  t: Tree,
  root: BtreeRoot,
  visit: (block: TreeBlock) => boolean | void,
): void {
  if (root.height === 0) return;
  walkBelow(t, root.ref, root.height - 1, Key.ZEROS, Key.ONES, true, visit);
}

function walkBelow(
  t: Tree,
  ref: BlockRef,
  level: number,
  lo: Key,
  hi: Key,
  rightSpine: boolean,
  visit: (block: TreeBlock) => boolean | void,
): void {
  let block: Block | null = null, error: FsError | null = null;
  try {
    block = checkLevel(readRef(t, ref.v, ref.o), level);
  } catch (e) {
    if (!(e instanceof FsError)) throw e;
    error = e;
  }
  const { seq } = ref, blkno = Number(ref.v.getBigUint64(ref.o, true));
  if (visit({ blkno, seq, level, lo, hi, rightSpine, block, error }) === false) return;
  if (block === null || level === 0) return;

  // copied: the block may leave the cache before its last child has been walked
  const children: { ref: BlockRef; key: Key }[] = [];
  for (let item = firstItem(block); item !== 0; item = nextItem(block, item)) {
    if (itemValLen(block, item) !== REF_BYTES) continue;
    children.push({ ref: BlockRef.at(itemVal(block, item).slice()), key: itemKey(block, item) });
  }
  let start = lo;
  for (let i = 0; i < children.length; i++) {
    const { ref, key } = children[i]!;
    const right = rightSpine && i === children.length - 1;
    walkBelow(t, ref, level - 1, start, key, right, visit);
    start = key.inc();
  }
}

// Reading walks.

function window(b: Block, item: number, key: Key): TreeItem {
  try {
    return { key, seq: itemSeq(b, item), flags: itemFlags(b, item), val: itemVal(b, item) };
  } catch (e) {
    throw asCorrupt(e, `btree block ${b.blkno}, item ${key}`);
  }
}

function readBlock(t: Tree, blkno: number, seqLo: number, seqHi: number): Block {
  return t.writer === undefined
    ? t.cache.get(blkno, seqLo, seqHi, MAGIC_BTREE)
    : t.cache.getOwned(blkno, seqLo, seqHi, MAGIC_BTREE);
}

/** The block referred to at byte `o` of `v`. */
function readRef(t: Tree, v: DataView, o: number): Block {
  let blkno: number;
  try {
    blkno = getU64(v, o);
  } catch (e) {
    throw asCorrupt(e, "btree block reference");
  }
  return readBlock(t, blkno, v.getUint32(o + 8, true), v.getUint32(o + 12, true));
}

function checkLevel(b: Block, level: number): Block {
  if (blockLevel(b) === level) return b;
  throw new CorruptError(`btree block ${b.blkno} has level ${blockLevel(b)}, expected ${level}`);
}

function rootBlock(t: Tree, root: BtreeRoot): Block {
  const height = root.height, v = root.v, o = root.o;
  if (height > BTREE_MAX_HEIGHT) throw new CorruptError(`btree root has height ${height}`);
  return checkLevel(readRef(t, v, o), height - 1);
}

/** The item of a parent block that covers `key`. */
function childFor(parent: Block, key: Key): number {
  const item = findItemGE(parent, key);
  if (item !== 0) return item;
  const level = blockLevel(parent);
  throw new CorruptError(`btree block ${parent.blkno} of level ${level} has no child for ${key}`);
}

/** Byte offset of a child's reference in its parent. */
function refOffset(parent: Block, item: number): number {
  const len = itemValLen(parent, item);
  if (len === REF_BYTES) return itemValOff(parent, item);
  throw new CorruptError(`btree block ${parent.blkno} has a child reference of ${len} bytes`);
}

function childBlock(t: Tree, parent: Block, item: number): Block {
  return checkLevel(readRef(t, parent.v, refOffset(parent, item)), blockLevel(parent) - 1);
}

function leafFor(t: Tree, root: BtreeRoot, key: Key): Block | null {
  if (root.height === 0) return null;
  let b = rootBlock(t, root);
  while (blockLevel(b) > 0) b = childBlock(t, b, childFor(b, key));
  return b;
}

/** The first key beyond the leaf that covers `key`; null if it is the last leaf. */
function keyAfterLeaf(t: Tree, root: BtreeRoot, key: Key): Key | null {
  let after: Key | null = null;
  if (root.height === 0) return null;
  for (let b = rootBlock(t, root); blockLevel(b) > 0;) {
    const i = childFor(b, key);
    if (nextItem(b, i) !== 0) after = itemKey(b, i).inc();
    b = childBlock(t, b, i);
  }
  // the key found is ≥ the one asked for at every level, so iteration always advances
  return after;
}

/** The last key before the leaf that covers `key`; null if it is the first leaf. */
function keyBeforeLeaf(t: Tree, root: BtreeRoot, key: Key): Key | null {
  let before: Key | null = null;
  for (let b = rootBlock(t, root); blockLevel(b) > 0;) {
    const i = childFor(b, key), p = prevItem(b, i);
    if (p !== 0) before = itemKey(b, p);
    b = childBlock(t, b, i);
  }
  return before;
}

// Changing walks, 03 §6.2–6.4.

/** @internal Works for one change of a tree at a time, whichever tree it is. */
export const FILLER = new LeafFiller();

const PLAIN = 0;
/** @internal */
export const INSERT = 1;
/** @internal */
export const DELETE = 2;
/** @internal */
export const BULK = 3;

/** @internal A writable leaf, and the parent's item that covers it (null and 0 for a root leaf). */
export interface DirtyLeaf {
  readonly leaf: Block;
  readonly parent: Block | null;
  readonly parentItem: number;
}

/**
 * @internal Makes the path to the leaf for `key` writable. With INSERT every block on it gets room for an
 * item with `valLen` bytes, and an empty tree gets a leaf; with BULK only the parents get room. With
 * DELETE they are also joined with a neighbour when little filled. Otherwise the tree must not be
 * empty.
 */
export function walkDirty(
  t: WriteTree,
  root: BtreeRoot,
  key: Key,
  mode: number,
  valLen: number,
): DirtyLeaf {
  if (root.height === 0) {
    assert(mode === INSERT || mode === BULK, "a changing walk of an empty tree");
    const leaf = newBlock(t, 0);
    root.ref.set(leaf.blkno, leaf.seqHi, leaf.seqLo);
    root.height = 1;
    return { leaf, parent: null, parentItem: 0 };
  }
  restart: for (let restarts = 0; restarts < MAX_RESTARTS; restarts++) {
    if (root.height > BTREE_MAX_HEIGHT) {
      throw new CorruptError(`btree root has height ${root.height}`);
    }
    let level = root.height - 1;
    let parent: Block | null = null, parentItem = 0;
    let ref = root.ref;
    for (;;) {
      const b = checkLevel(t.writer.dirty(ref, MAGIC_BTREE, t.alloc), level);
      const wide = mode === PLAIN || (mode === BULK && level === 0);
      if (!wide && split(t, root, parent, b, level > 0 ? REF_BYTES : valLen)) continue restart;
      if (mode === DELETE && parent !== null && join(t, root, parent, parentItem, b)) {
        continue restart;
      }
      if (level === 0) return { leaf: b, parent, parentItem };
      parent = b;
      parentItem = childFor(b, key);
      ref = new BlockRef(b.v, refOffset(b, parentItem));
      level--;
    }
  }
  throw new CorruptError(`the walk to ${key} in btree ${root.ref.blkno} does not end`);
}

function newBlock(t: WriteTree, level: number): Block {
  const b = t.writer.dirty(BlockRef.alloc(), MAGIC_BTREE, t.alloc);
  initBtreeBlock(b, level);
  return b;
}

/** The value of a parent's item that refers to `b`. */
function refTo(b: Block): Uint8Array {
  const ref = BlockRef.alloc();
  ref.set(b.blkno, b.seqHi, b.seqLo);
  return ref.bytes;
}

/** Makes room in `b` for an item with `valLen` bytes (03 §6.3); true if that split it. */
function split(
  t: WriteTree,
  root: BtreeRoot,
  parent: Block | null,
  b: Block,
  valLen: number,
): boolean {
  if (hasRoom(b, valLen)) return false;
  const fill = totalItemBytes(b);
  if (Math.floor(fill * 100 / BTREE_PARENT_FREE) < SPLIT_PERCENT) {
    compactValues(b);
    return false;
  }
  const leaf = blockLevel(b) === 0;
  if (leaf) FILLER.planDivision(b);
  const left = newSibling(t, root, parent, b);
  if (leaf) FILLER.apply(b, left.block);
  else moveItems(b, left.block, Math.floor(fill / 2), "least");
  adopt(left);
  return true;
}

/** @internal An empty block for the lesser keys of its right neighbour, and the parent it will get. */
export interface Sibling {
  readonly block: Block;
  readonly parent: Block;
}

/** @internal A left neighbour for `b`, and a parent for both if `b` is the root; all that can fail. */
export function newSibling(t: WriteTree, root: BtreeRoot, parent: Block | null, b: Block): Sibling {
  const level = blockLevel(b);
  const block = newBlock(t, level);
  if (parent === null) {
    assert(root.height < BTREE_MAX_HEIGHT, "a btree cannot grow above its greatest height");
    try {
      parent = newBlock(t, level + 1);
    } catch (e) {
      t.alloc.freeMeta(block.blkno);
      throw e;
    }
    insertItem(parent, Key.ONES, 0, 0, refTo(b));
    root.ref.set(parent.blkno, parent.seqHi, parent.seqLo);
    root.height++;
  }
  assert(hasRoom(parent, REF_BYTES), "the parent of a splitting block is full");
  return { block, parent };
}

/** @internal Enters a new left neighbour, which has its items by now, into the parent. */
export function adopt(left: Sibling): void {
  insertItem(left.parent, itemKey(left.block, lastItem(left.block)), 0, 0, refTo(left.block));
}

/**
 * Fills up a block below the low watermark from a neighbour (03 §6.4); true if that changed
 * anything. `parentItem` is the block's item in `parent`.
 */
function join(
  t: WriteTree,
  root: BtreeRoot,
  parent: Block,
  parentItem: number,
  b: Block,
): boolean {
  if (totalItemBytes(b) >= BTREE_JOIN_LOW) return false;
  const leftItem = prevItem(parent, parentItem);
  const siblingItem = leftItem !== 0 ? leftItem : nextItem(parent, parentItem);
  if (siblingItem === 0) return false;
  const ref = new BlockRef(parent.v, refOffset(parent, siblingItem));
  const sibling = checkLevel(t.writer.dirty(ref, MAGIC_BTREE, t.alloc), blockLevel(b));

  const fill = totalItemBytes(sibling);
  const all = fill <= 2 * BTREE_JOIN_LOW;
  const isRoot = root.ref.blkno === parent.blkno;
  const shrinks = all && isRoot && nrItems(parent) === 2;
  // what can fail comes first
  if (all) t.alloc.freeMeta(sibling.blkno);
  if (shrinks) t.alloc.freeMeta(parent.blkno);

  const amount = all ? fill : BTREE_JOIN_LOW;
  if (midFreeLen(b) < amount + JOIN_SLACK) compactValues(b);
  moveItems(sibling, b, amount, leftItem !== 0 ? "greatest" : "least");
  if (leftItem === 0) {
    // A bound that ends the parent's range stays, also where the parent does not go (01 §10.5).
    const keepBound = all && (nextItem(parent, siblingItem) === 0 || nrItems(b) === 0);
    const bound = keepBound ? itemKey(parent, siblingItem) : itemKey(b, lastItem(b));
    setParentKey(parent, parentItem, bound);
  } else if (!all) setParentKey(parent, siblingItem, itemKey(sibling, lastItem(sibling)));
  if (all) removeItem(parent, siblingItem);
  if (shrinks) {
    root.ref.set(b.blkno, b.seqHi, b.seqLo);
    root.height--;
  }
  return true;
}
