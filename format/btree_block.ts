/**
 * The inside of a btree block (01 §10.2–10.6): a dense array of items, an AVL tree over it, in
 * leaves a hash table, and values packed from the end downwards.
 *
 *   0 hdr · 32 item_root · 34 nr_items · 36 total_item_bytes · 38 mid_free_len · 40 level · 41 pad
 *   48 items of 56 bytes → · free middle · ← values · E · hash table (leaves: E = 62512)
 *
 * An item is named by the byte offset of its 56 bytes in the block, 0 meaning none; that is also
 * what hash buckets hold. AVL links hold the distance from byte 32, so 32 less. A name is good
 * until the next removal, which moves the last slot.
 *
 * Functions here trust the block: whoever reads one from a device calls `checkBtreeShape`
 * (btree_verify.ts) once, after which nothing here leaves the block or loops. They never look at
 * the block header.
 */

import {
  BTREE_HEADER_BYTES,
  BTREE_ITEM_BYTES,
  BTREE_LEAF_FREE,
  BTREE_MAX_VAL_LEN,
  BTREE_PARENT_FREE,
  LEAF_ITEM_HASH_NR,
  LEAF_ITEM_HASH_OFF,
  LG_SIZE,
} from "./constants.ts";
import { FormatError, getU64, setU64 } from "./bytes.ts";
import { keyBucket } from "./hash.ts";
import { compareKeyAt, Key } from "./key.ts";

/** One block of memory, 65536 bytes, seen both ways. */
export interface BlockBytes {
  readonly buf: Uint8Array;
  readonly v: DataView;
}

// The fixed part.
export const ITEM_ROOT = 32;
const NR_ITEMS = 34;
const TOTAL_ITEM_BYTES = 36;
export const MID_FREE_LEN = 38;
export const LEVEL = 40;
// An item.
export const PARENT = 0;
export const LEFT = 2;
export const RIGHT = 4;
export const HEIGHT = 6;
export const KEY = 8;
export const SEQ = 40;
export const VAL_OFF = 48;
export const VAL_LEN = 50;
export const FLAGS = 52;

/** Links are distances from here. */
const LINK_BASE = ITEM_ROOT;

const EMPTY = new Uint8Array(0);

/** Bytes that an item with a value of `valLen` occupies. */
export function itemBytes(valLen: number): number {
  return BTREE_ITEM_BYTES + roundUp8(valLen);
}

export function roundUp8(n: number): number {
  return (n + 7) & ~7;
}

/** Makes a zeroed block an empty btree block of `level` (0 = leaf). */
export function initBtreeBlock(b: BlockBytes, level: number): void {
  b.v.setUint8(LEVEL, level);
  b.v.setUint16(MID_FREE_LEN, level === 0 ? BTREE_LEAF_FREE : BTREE_PARENT_FREE, true);
}

/** The fixed part of a leaf laid out anew: AVL root as a link, items, their bytes, lowest value. */
export function setLeafCounts(
  b: BlockBytes,
  root: number,
  nr: number,
  bytes: number,
  valuesFrom: number,
): void {
  const v = b.v;
  v.setUint16(ITEM_ROOT, root, true);
  v.setUint16(NR_ITEMS, nr, true);
  v.setUint16(TOTAL_ITEM_BYTES, bytes, true);
  v.setUint16(MID_FREE_LEN, valuesFrom - BTREE_HEADER_BYTES - BTREE_ITEM_BYTES * nr, true);
}

export function blockLevel(b: BlockBytes): number {
  return b.v.getUint8(LEVEL);
}

export function nrItems(b: BlockBytes): number {
  return b.v.getUint16(NR_ITEMS, true);
}

/** The block's fill (03 §6.1). */
export function totalItemBytes(b: BlockBytes): number {
  return b.v.getUint16(TOTAL_ITEM_BYTES, true);
}

export function midFreeLen(b: BlockBytes): number {
  return b.v.getUint16(MID_FREE_LEN, true);
}

/** Whether a new item with `valLen` bytes of value fits without compacting. */
export function hasRoom(b: BlockBytes, valLen: number): boolean {
  return midFreeLen(b) >= itemBytes(valLen);
}

export function itemKey(b: BlockBytes, item: number): Key {
  return Key.read(b.v, item + KEY);
}

/** Order of the item's key relative to `key`, without allocating. */
export function compareItem(b: BlockBytes, item: number, key: Key): number {
  return compareKeyAt(b.v, item + KEY, key);
}

/** The item's version (01 §12.1); throws FormatError above 2^53−1. */
export function itemSeq(b: BlockBytes, item: number): number {
  return getU64(b.v, item + SEQ);
}

export function itemFlags(b: BlockBytes, item: number): number {
  return b.v.getUint8(item + FLAGS);
}

export function itemValLen(b: BlockBytes, item: number): number {
  return b.v.getUint16(item + VAL_LEN, true);
}

/** Byte offset of the item's value in the block; meaningless when its length is 0. */
export function itemValOff(b: BlockBytes, item: number): number {
  return b.v.getUint16(item + VAL_OFF, true);
}

/** The live bytes of the item's value. */
export function itemVal(b: BlockBytes, item: number): Uint8Array {
  const len = itemValLen(b, item);
  if (len === 0) return EMPTY;
  const off = itemValOff(b, item);
  return b.buf.subarray(off, off + len);
}

/** Overwrites version and flags in place. */
export function setItemVersion(b: BlockBytes, item: number, seq: number, flags: number): void {
  setU64(b.v, item + SEQ, seq);
  b.v.setUint8(item + FLAGS, flags);
}

/** Replaces the key of a parent's item; the caller keeps the order. */
export function setParentKey(b: BlockBytes, item: number, key: Key): void {
  if (blockLevel(b) === 0) throw new Error("the key of a leaf item cannot change");
  key.write(b.v, item + KEY);
}

// Searching.

/** The leaf item with exactly this key, by the hash table; 0 if absent. */
export function findLeafItem(b: BlockBytes, key: Key): number {
  const v = b.v;
  let bucket = bucketOf(key);
  for (let probes = 0; probes < LEAF_ITEM_HASH_NR; probes++) {
    const item = v.getUint16(LEAF_ITEM_HASH_OFF + 2 * bucket, true);
    if (item === 0) return 0;
    if (compareKeyAt(v, item + KEY, key) === 0) return item;
    if (++bucket === LEAF_ITEM_HASH_NR) bucket = 0;
  }
  return 0;
}

/** The first item in key order whose key is ≥ `key`; 0 if none. */
export function findItemGE(b: BlockBytes, key: Key): number {
  const v = b.v;
  let item = link(v, ITEM_ROOT), found = 0;
  while (item !== 0) {
    const order = compareKeyAt(v, item + KEY, key);
    if (order === 0) return item;
    if (order > 0) {
      found = item;
      item = link(v, item + LEFT);
    } else item = link(v, item + RIGHT);
  }
  return found;
}

/** The last item in key order whose key is ≤ `key`; 0 if none. */
export function findItemLE(b: BlockBytes, key: Key): number {
  const v = b.v;
  let item = link(v, ITEM_ROOT), found = 0;
  while (item !== 0) {
    const order = compareKeyAt(v, item + KEY, key);
    if (order === 0) return item;
    if (order < 0) {
      found = item;
      item = link(v, item + RIGHT);
    } else item = link(v, item + LEFT);
  }
  return found;
}

/** The item with the least key; 0 if there is none. */
export function firstItem(b: BlockBytes): number {
  return descend(b.v, link(b.v, ITEM_ROOT), LEFT);
}

/** The item with the greatest key; 0 if there is none. */
export function lastItem(b: BlockBytes): number {
  return descend(b.v, link(b.v, ITEM_ROOT), RIGHT);
}

/** The following item in key order; 0 if none. */
export function nextItem(b: BlockBytes, item: number): number {
  return neighbour(b.v, item, RIGHT, LEFT);
}

/** The preceding item in key order; 0 if none. */
export function prevItem(b: BlockBytes, item: number): number {
  return neighbour(b.v, item, LEFT, RIGHT);
}

function descend(v: DataView, item: number, side: number): number {
  while (item !== 0) {
    const child = link(v, item + side);
    if (child === 0) break;
    item = child;
  }
  return item;
}

function neighbour(v: DataView, item: number, towards: number, away: number): number {
  const child = link(v, item + towards);
  if (child !== 0) return descend(v, child, away);
  let below = item, up = link(v, item + PARENT);
  while (up !== 0 && link(v, up + towards) === below) {
    below = up;
    up = link(v, up + PARENT);
  }
  return up;
}

// Changing.

/**
 * Adds an item; returns it. The caller has checked that there is room and that no item has the
 * key; throws FormatError when hash table and AVL tree disagree about that.
 */
export function insertItem(
  b: BlockBytes,
  key: Key,
  seq: number,
  flags: number,
  val: Uint8Array,
): number {
  const item = addItem(b, key, flags, val);
  setU64(b.v, item + SEQ, seq);
  return item;
}

function addItem(b: BlockBytes, key: Key, flags: number, val: Uint8Array): number {
  const v = b.v;
  if (val.length > BTREE_MAX_VAL_LEN || !hasRoom(b, val.length)) {
    throw new Error(`no room for a value of ${val.length} bytes in a btree block`);
  }
  const nr = nrItems(b);
  const item = BTREE_HEADER_BYTES + BTREE_ITEM_BYTES * nr;

  let parent = 0, side = ITEM_ROOT;
  for (let at = link(v, ITEM_ROOT); at !== 0;) {
    const order = compareKeyAt(v, at + KEY, key);
    if (order === 0) throw new FormatError(`item ${key} is already in the btree block`);
    parent = at;
    side = at + (order > 0 ? LEFT : RIGHT);
    at = link(v, side);
  }

  v.setUint16(NR_ITEMS, nr + 1, true);
  v.setUint16(MID_FREE_LEN, midFreeLen(b) - BTREE_ITEM_BYTES, true);
  v.setUint16(TOTAL_ITEM_BYTES, totalItemBytes(b) + itemBytes(val.length), true);
  b.buf.fill(0, item, item + BTREE_ITEM_BYTES);
  key.write(v, item + KEY);
  v.setUint8(item + FLAGS, flags);
  placeVal(b, item, val);

  setLink(v, side, item);
  setLink(v, item + PARENT, parent);
  v.setUint8(item + HEIGHT, 1);
  rebalance(v, parent);
  if (blockLevel(b) === 0) hashInsert(v, item);
  return item;
}

/**
 * Replaces the item's value: in place if it takes as much space, otherwise with new space from the
 * free middle, which must have room. (The reference takes new space always; 01 §10.6 is policy.)
 */
export function updateItem(b: BlockBytes, item: number, val: Uint8Array): void {
  const grown = roundUp8(val.length);
  if (grown > 0 && grown === roundUp8(itemValLen(b, item))) {
    b.buf.set(val, itemValOff(b, item));
    b.v.setUint16(item + VAL_LEN, val.length, true);
    return;
  }
  if (val.length > BTREE_MAX_VAL_LEN || midFreeLen(b) < grown) {
    throw new Error(`no room for a value of ${val.length} bytes in a btree block`);
  }
  const total = totalItemBytes(b) + grown - roundUp8(itemValLen(b, item));
  b.v.setUint16(TOTAL_ITEM_BYTES, total, true);
  placeVal(b, item, val);
}

/** Copies `val` to the low end of the value area. */
function placeVal(b: BlockBytes, item: number, val: Uint8Array): void {
  const v = b.v, len = val.length;
  v.setUint16(item + VAL_LEN, len, true);
  if (len === 0) {
    v.setUint16(item + VAL_OFF, 0, true);
    return;
  }
  // A free middle that is no multiple of 8 is damage: no value may be put at such a place because of it.
  const mid = midFreeLen(b) - roundUp8(len) & ~7;
  const off = BTREE_HEADER_BYTES + BTREE_ITEM_BYTES * nrItems(b) + mid;
  b.buf.set(val, off);
  v.setUint16(item + VAL_OFF, off, true);
  v.setUint16(MID_FREE_LEN, mid, true);
}

/** Removes the item; the item in the last slot takes its slot and so its name. */
export function removeItem(b: BlockBytes, item: number): void {
  const v = b.v;
  const nr = nrItems(b);
  const last = BTREE_HEADER_BYTES + BTREE_ITEM_BYTES * (nr - 1);
  const leaf = blockLevel(b) === 0;
  v.setUint16(TOTAL_ITEM_BYTES, totalItemBytes(b) - itemBytes(itemValLen(b, item)), true);

  if (leaf) hashDelete(v, item);
  unlink(v, item);
  if (item !== last) {
    if (leaf) hashMove(v, last, item);
    b.buf.copyWithin(item, last, last + BTREE_ITEM_BYTES);
    const parent = link(v, item + PARENT);
    if (parent === 0) setLink(v, ITEM_ROOT, item);
    else replaceChild(v, parent, last, item);
    const left = link(v, item + LEFT), right = link(v, item + RIGHT);
    if (left !== 0) setLink(v, left + PARENT, item);
    if (right !== 0) setLink(v, right + PARENT, item);
  }
  v.setUint16(NR_ITEMS, nr - 1, true);
  v.setUint16(MID_FREE_LEN, midFreeLen(b) + BTREE_ITEM_BYTES, true);
}

/**
 * Moves items from one end of `src` into `dst` until at least `bytes` (item and value) were moved
 * or `src` is empty: its least keys in ascending order, or its greatest in descending order. The
 * destination must have room.
 */
export function moveItems(
  src: BlockBytes,
  dst: BlockBytes,
  bytes: number,
  from: "least" | "greatest",
): void {
  let moved = 0;
  while (moved < bytes && nrItems(src) > 0) {
    const item = from === "least" ? firstItem(src) : lastItem(src);
    const copy = addItem(dst, itemKey(src, item), itemFlags(src, item), itemVal(src, item));
    dst.v.setUint32(copy + SEQ, src.v.getUint32(item + SEQ, true), true);
    dst.v.setUint32(copy + SEQ + 4, src.v.getUint32(item + SEQ + 4, true), true);
    moved += itemBytes(itemValLen(src, item));
    removeItem(src, item);
  }
}

/** Packs the values, so that all free bytes are in the middle. */
export function compactValues(b: BlockBytes): void {
  const v = b.v, nr = nrItems(b);
  const order = new Uint32Array(nr);
  let valued = 0;
  for (let slot = 0; slot < nr; slot++) {
    const item = BTREE_HEADER_BYTES + BTREE_ITEM_BYTES * slot;
    if (itemValLen(b, item) > 0) order[valued++] = itemValOff(b, item) << 11 | slot;
  }
  const byOffset = order.subarray(0, valued).sort();
  let end = valuesEnd(b);
  for (let i = valued - 1; i >= 0; i--) {
    const item = BTREE_HEADER_BYTES + BTREE_ITEM_BYTES * (byOffset[i]! & 2047);
    const off = itemValOff(b, item), space = roundUp8(itemValLen(b, item));
    end -= space;
    if (end !== off) {
      b.buf.copyWithin(end, off, off + space);
      v.setUint16(item + VAL_OFF, end, true);
    }
  }
  v.setUint16(MID_FREE_LEN, end - BTREE_HEADER_BYTES - BTREE_ITEM_BYTES * nr, true);
}

function valuesEnd(b: BlockBytes): number {
  return blockLevel(b) === 0 ? LEAF_ITEM_HASH_OFF : LG_SIZE;
}

// The AVL tree (01 §10.3).

/** The item that the link at byte `at` leads to. */
export function link(v: DataView, at: number): number {
  const distance = v.getUint16(at, true);
  return distance === 0 ? 0 : distance + LINK_BASE;
}

function setLink(v: DataView, at: number, item: number): void {
  v.setUint16(at, item === 0 ? 0 : item - LINK_BASE, true);
}

function height(v: DataView, item: number): number {
  return item === 0 ? 0 : v.getUint8(item + HEIGHT);
}

/** Recomputes the height from the children's. */
function updateHeight(v: DataView, item: number): void {
  const l = height(v, link(v, item + LEFT)), r = height(v, link(v, item + RIGHT));
  v.setUint8(item + HEIGHT, 1 + (l > r ? l : r));
}

/** Makes `to` (0 = none) the child of `parent` (0 = the root) that `from` was. */
function replaceChild(v: DataView, parent: number, from: number, to: number): void {
  if (parent === 0) setLink(v, ITEM_ROOT, to);
  else if (link(v, parent + LEFT) === from) setLink(v, parent + LEFT, to);
  else setLink(v, parent + RIGHT, to);
}

/** Lowers `node` to the `side` (LEFT or RIGHT) of its child on the `other` side; returns that. */
function rotate(v: DataView, node: number, side: number, other: number): number {
  const raised = link(v, node + other);
  const inner = link(v, raised + side);
  const parent = link(v, node + PARENT);
  setLink(v, node + other, inner);
  if (inner !== 0) setLink(v, inner + PARENT, node);
  setLink(v, raised + side, node);
  setLink(v, node + PARENT, raised);
  setLink(v, raised + PARENT, parent);
  replaceChild(v, parent, node, raised);
  updateHeight(v, node);
  updateHeight(v, raised);
  return raised;
}

/**
 * Repairs heights and balance from `node` up, to the root or to the first node that is as it was:
 * nothing changes above it.
 */
function rebalance(v: DataView, node: number): void {
  while (node !== 0) {
    const left = link(v, node + LEFT), right = link(v, node + RIGHT);
    const l = height(v, left), r = height(v, right), before = v.getUint8(node + HEIGHT);
    if (r - l > 1) {
      if (height(v, link(v, right + LEFT)) > height(v, link(v, right + RIGHT))) {
        rotate(v, right, RIGHT, LEFT);
      }
      node = rotate(v, node, LEFT, RIGHT);
    } else if (l - r > 1) {
      if (height(v, link(v, left + RIGHT)) > height(v, link(v, left + LEFT))) {
        rotate(v, left, LEFT, RIGHT);
      }
      node = rotate(v, node, RIGHT, LEFT);
    } else {
      const now = 1 + (l > r ? l : r);
      if (now === before) return;
      v.setUint8(node + HEIGHT, now);
    }
    node = link(v, node + PARENT);
  }
}

/** Takes the item out of the AVL tree. */
function unlink(v: DataView, item: number): void {
  if (link(v, item + LEFT) !== 0 && link(v, item + RIGHT) !== 0) exchangeWithSuccessor(v, item);
  const child = link(v, item + LEFT) || link(v, item + RIGHT);
  const parent = link(v, item + PARENT);
  replaceChild(v, parent, item, child);
  if (child !== 0) setLink(v, child + PARENT, parent);
  rebalance(v, parent);
}

/** Exchanges the place and height of an item with two children with its in-order successor. */
function exchangeWithSuccessor(v: DataView, item: number): void {
  const left = link(v, item + LEFT), right = link(v, item + RIGHT);
  const parent = link(v, item + PARENT), itemHeight = v.getUint8(item + HEIGHT);
  const next = descend(v, right, LEFT);
  const nextParent = link(v, next + PARENT), nextRight = link(v, next + RIGHT);

  v.setUint8(item + HEIGHT, v.getUint8(next + HEIGHT));
  v.setUint8(next + HEIGHT, itemHeight);
  replaceChild(v, parent, item, next);
  setLink(v, next + PARENT, parent);
  setLink(v, next + LEFT, left);
  setLink(v, left + PARENT, next);
  if (next === right) {
    setLink(v, next + RIGHT, item);
    setLink(v, item + PARENT, next);
  } else {
    setLink(v, next + RIGHT, right);
    setLink(v, right + PARENT, next);
    setLink(v, nextParent + LEFT, item);
    setLink(v, item + PARENT, nextParent);
  }
  setLink(v, item + LEFT, 0);
  setLink(v, item + RIGHT, nextRight);
  if (nextRight !== 0) setLink(v, nextRight + PARENT, item);
}

// The leaf hash table (01 §10.4).

/** Where a key to be looked up is laid out for hashing; overwritten by every use. */
const HASHED = new DataView(new ArrayBuffer(Key.SIZE));

function bucketOf(key: Key): number {
  key.write(HASHED, 0);
  return keyBucket(HASHED, 0);
}

/** The bucket that holds `item`, searched from its key's own. */
function bucketHolding(v: DataView, item: number): number {
  let bucket = keyBucket(v, item + KEY);
  for (let probes = 0; probes < LEAF_ITEM_HASH_NR; probes++) {
    const at = LEAF_ITEM_HASH_OFF + 2 * bucket;
    if (v.getUint16(at, true) === item) return bucket;
    if (++bucket === LEAF_ITEM_HASH_NR) bucket = 0;
  }
  throw new FormatError("an item is missing from its leaf's hash table");
}

/** Enters an item, which lies in its slot, into the hash table of its leaf. */
export function hashInsert(v: DataView, item: number): void {
  let bucket = keyBucket(v, item + KEY);
  for (let probes = 0; probes < LEAF_ITEM_HASH_NR; probes++) {
    const at = LEAF_ITEM_HASH_OFF + 2 * bucket;
    if (v.getUint16(at, true) === 0) {
      v.setUint16(at, item, true);
      return;
    }
    if (++bucket === LEAF_ITEM_HASH_NR) bucket = 0;
  }
  throw new FormatError("a leaf's hash table is full");
}

function hashDelete(v: DataView, item: number): void {
  let bucket = bucketHolding(v, item);
  v.setUint16(LEAF_ITEM_HASH_OFF + 2 * bucket, 0, true);
  for (;;) {
    if (++bucket === LEAF_ITEM_HASH_NR) bucket = 0;
    const at = LEAF_ITEM_HASH_OFF + 2 * bucket;
    const moved = v.getUint16(at, true);
    if (moved === 0) return;
    v.setUint16(at, 0, true);
    hashInsert(v, moved);
  }
}

function hashMove(v: DataView, from: number, to: number): void {
  v.setUint16(LEAF_ITEM_HASH_OFF + 2 * bucketHolding(v, from), to, true);
}
