/**
 * Checks of one btree block: the cheap one that every block passes when it is read from a device,
 * so that the functions of btree_block.ts cannot leave it or loop, and the full one of 01 §10.7
 * for checkers. Neither throws, whatever the bytes are.
 */

import {
  type BlockBytes,
  blockLevel,
  compareItem,
  findLeafItem,
  firstItem,
  HEIGHT,
  ITEM_ROOT,
  itemBytes,
  itemFlags,
  itemKey,
  itemValLen,
  itemValOff,
  LEFT,
  link,
  midFreeLen,
  nextItem,
  nrItems,
  PARENT,
  RIGHT,
  roundUp8,
  totalItemBytes,
} from "./btree_block.ts";
import {
  BTREE_HEADER_BYTES,
  BTREE_ITEM_BYTES,
  BTREE_MAX_VAL_LEN,
  LEAF_ITEM_HASH_OFF,
  LG_SIZE,
} from "./constants.ts";
import { Key } from "./key.ts";

/** Padding: of the block, of an item's AVL node, of its key, of its end. */
const PAD = 41;
const NODE_PAD = 7;
const KEY_PAD = 35;
const KEY_END = 40;
const ITEM_PAD = 53;

/** More slots than this do not fit before the end of any block. */
const MAX_ITEMS = Math.floor((LG_SIZE - BTREE_HEADER_BYTES) / BTREE_ITEM_BYTES);

/**
 * What must hold so that every function here stays inside the block and ends, checked once when a
 * block comes from a device: null, or what is wrong. Whether the block is right is the business of
 * `verifyBtreeBlock`.
 */
export function checkBtreeShape(b: BlockBytes): string | null {
  const v = b.v, nr = nrItems(b), leaf = blockLevel(b) === 0;
  const itemsEnd = BTREE_HEADER_BYTES + BTREE_ITEM_BYTES * nr;
  const end = leaf ? LEAF_ITEM_HASH_OFF : LG_SIZE;
  if (itemsEnd + midFreeLen(b) > end) return `${nr} items and the free middle do not fit`;

  const root = link(v, ITEM_ROOT);
  if (nr === 0 ? root !== 0 : !isSlot(root, itemsEnd)) return `item_root ${root} is no item`;
  if (root !== 0 && v.getUint16(root + PARENT, true) !== 0) return "the AVL root has a parent";
  let total = 0;
  for (let item = BTREE_HEADER_BYTES; item < itemsEnd; item += BTREE_ITEM_BYTES) {
    // A child whose parent link agrees with every link to it cannot be part of a loop below the root.
    const left = link(v, item + LEFT), right = link(v, item + RIGHT);
    if (left !== 0 && !(isSlot(left, itemsEnd) && link(v, left + PARENT) === item)) {
      return `left link of the item at ${item} is wrong`;
    }
    if (right !== 0 && !(isSlot(right, itemsEnd) && link(v, right + PARENT) === item)) {
      return `right link of the item at ${item} is wrong`;
    }
    const parent = link(v, item + PARENT);
    if (item === root ? parent !== 0 : !isSlot(parent, itemsEnd)) {
      return `parent link of the item at ${item} is wrong`;
    }
    const len = itemValLen(b, item);
    if (len > 0) {
      const off = itemValOff(b, item);
      if (len > BTREE_MAX_VAL_LEN || off < itemsEnd || off % 8 !== 0 || off + len > end) {
        return `value of ${len} bytes at ${off} is out of place`;
      }
    }
    total += itemBytes(len);
  }
  if (total !== totalItemBytes(b)) return `total_item_bytes is ${totalItemBytes(b)}, not ${total}`;
  let visited = 0;
  for (let item = firstItem(b), last = 0; item !== 0; item = nextItem(b, item)) {
    if (last !== 0 && compareStored(v, last, item) >= 0) return "keys are out of order";
    last = item;
    visited++;
  }
  if (visited !== nr) return `the AVL tree holds ${visited} of ${nr} items`;
  if (leaf) {
    let filled = 0;
    const seen = new Uint8Array(nr);
    for (let at = LEAF_ITEM_HASH_OFF; at < LG_SIZE; at += 2) {
      const item = v.getUint16(at, true);
      if (item === 0) continue;
      if (!isSlot(item, itemsEnd)) return `hash bucket value ${item} is no item`;
      const slot = (item - BTREE_HEADER_BYTES) / BTREE_ITEM_BYTES;
      if (seen[slot] !== 0) return `slot ${slot} is in two hash buckets`;
      seen[slot] = 1;
      filled++;
    }
    if (filled !== nr) return `${filled} hash buckets for ${nr} items`;
  }
  return null;
}

/** Order of the keys of two items of the block, without allocating. */
function compareStored(v: DataView, a: number, c: number): number {
  return v.getUint8(a + 33) - v.getUint8(c + 33) ||
    v.getUint32(a + 12, true) - v.getUint32(c + 12, true) ||
    v.getUint32(a + 8, true) - v.getUint32(c + 8, true) ||
    v.getUint8(a + 34) - v.getUint8(c + 34) ||
    v.getUint32(a + 20, true) - v.getUint32(c + 20, true) ||
    v.getUint32(a + 16, true) - v.getUint32(c + 16, true) ||
    v.getUint32(a + 28, true) - v.getUint32(c + 28, true) ||
    v.getUint32(a + 24, true) - v.getUint32(c + 24, true) ||
    v.getUint8(a + 32) - v.getUint8(c + 32);
}

function isSlot(item: number, itemsEnd: number): boolean {
  return item >= BTREE_HEADER_BYTES && item < itemsEnd &&
    (item - BTREE_HEADER_BYTES) % BTREE_ITEM_BYTES === 0;
}

/** What a checker knows about a block from its ancestors (01 §10.7). */
export interface BtreeExpectation {
  readonly level: number;
  /** Inclusive bounds of the keys. */
  readonly lo: Key;
  readonly hi: Key;
  /** On the right edge of a full tree, where a parent's greatest key is all-ones. */
  readonly rightSpine: boolean;
  /** In log item trees leaves may hold deletion items. */
  readonly logTree: boolean;
}

/** One broken rule; `rule` is its number in 01 §10.7. */
export interface BtreeFinding {
  readonly rule: number;
  readonly message: string;
}

/**
 * Everything wrong with a block, by the rules of 01 §10.7 from the level on (the header is checked
 * where the block is read). Accepts any bytes: it never throws and always ends. Under-full and
 * empty leaves and the AVL heights that mkfs writes are fine.
 */
export function verifyBtreeBlock(b: BlockBytes, expect: BtreeExpectation): BtreeFinding[] {
  const findings: BtreeFinding[] = [];
  const found = (rule: number, message: string) => {
    findings.push({ rule, message });
  };
  const level = blockLevel(b), nr = nrItems(b), leaf = level === 0;
  if (level !== expect.level) found(1, `level is ${level}, expected ${expect.level}`);
  if (!allZero(b.buf, PAD, BTREE_HEADER_BYTES)) found(1, "block padding is not zero");

  const end = leaf ? LEAF_ITEM_HASH_OFF : LG_SIZE;
  const itemsEnd = BTREE_HEADER_BYTES + BTREE_ITEM_BYTES * nr;
  if (itemsEnd > end) {
    found(2, `${nr} items do not fit`);
    return findings;
  }
  verifyTree(b, itemsEnd, found);
  verifyItems(b, itemsEnd, expect, found);
  verifyValues(b, itemsEnd, end, found);
  if (leaf) verifyHash(b, itemsEnd, found);
  else if (nr === 0) found(9, "a parent block has no items");
  else {
    const greatest = greatestKey(b, itemsEnd);
    const bound = expect.rightSpine ? Key.ONES : expect.hi;
    if (!greatest.equals(bound)) found(9, `greatest key is ${greatest}, must be ${bound}`);
  }
  for (let item = BTREE_HEADER_BYTES; item < itemsEnd; item += BTREE_ITEM_BYTES) {
    if (!leaf && itemValLen(b, item) !== 16) {
      found(9, `child ${itemKey(b, item)} has a value of ${itemValLen(b, item)} bytes, not 16`);
    }
    const flags = itemFlags(b, item);
    const deletion = leaf && expect.logTree && flags === 1 && itemValLen(b, item) === 0;
    if (flags !== 0 && !deletion) found(10, `item ${itemKey(b, item)} has flags ${flags}`);
  }
  return findings;
}

type Report = (rule: number, message: string) => void;

function allZero(bytes: Uint8Array, from: number, to: number): boolean {
  for (let i = from; i < to; i++) if (bytes[i] !== 0) return false;
  return true;
}

function greatestKey(b: BlockBytes, itemsEnd: number): Key {
  let greatest = Key.ZEROS;
  for (let item = BTREE_HEADER_BYTES; item < itemsEnd; item += BTREE_ITEM_BYTES) {
    if (compareItem(b, item, greatest) > 0) greatest = itemKey(b, item);
  }
  return greatest;
}

/** Rule 3: the AVL tree. */
function verifyTree(b: BlockBytes, itemsEnd: number, found: Report): void {
  const v = b.v;
  const seen = new Uint8Array(MAX_ITEMS);
  let visited = 0, wrongHeights = 0;
  let previous: Key | null = null;
  const rootLink = link(v, ITEM_ROOT);

  // In order with an explicit stack; a slot met twice is reported and not entered again.
  const stack: number[] = [];
  const enter = (item: number, parent: number): number => {
    if (item === 0) return 0;
    if (!isSlot(item, itemsEnd)) {
      found(3, `link ${item} under the item at ${parent} is no item`);
      return 0;
    }
    const slot = (item - BTREE_HEADER_BYTES) / BTREE_ITEM_BYTES;
    if (seen[slot] !== 0) {
      found(3, `slot ${slot} is linked twice in the AVL tree`);
      return 0;
    }
    seen[slot] = 1;
    visited++;
    if (link(v, item + PARENT) !== parent) found(3, `slot ${slot} has a wrong parent link`);
    return item;
  };
  let item = enter(rootLink, 0);
  while (item !== 0 || stack.length > 0) {
    while (item !== 0) {
      stack.push(item);
      item = enter(link(v, item + LEFT), item);
    }
    const at = stack.pop()!;
    const key = itemKey(b, at);
    if (previous !== null && previous.compare(key) >= 0) found(3, `key ${key} is out of order`);
    previous = key;
    item = enter(link(v, at + RIGHT), at);
    if (!heightRight(v, at, itemsEnd)) wrongHeights++;
  }
  const nr = (itemsEnd - BTREE_HEADER_BYTES) / BTREE_ITEM_BYTES;
  if (visited !== nr) found(3, `the AVL tree holds ${visited} of ${nr} items`);
  if (wrongHeights > 0 && !isMkfsChain(b, itemsEnd)) {
    found(3, `${wrongHeights} items have a wrong AVL height or balance`);
  }
}

function heightRight(v: DataView, item: number, itemsEnd: number): boolean {
  const left = link(v, item + LEFT), right = link(v, item + RIGHT);
  const l = left !== 0 && isSlot(left, itemsEnd) ? v.getUint8(left + HEIGHT) : 0;
  const r = right !== 0 && isSlot(right, itemsEnd) ? v.getUint8(right + HEIGHT) : 0;
  return Math.abs(r - l) <= 1 && v.getUint8(item + HEIGHT) === 1 + Math.max(l, r);
}

/** The left chain with inverted heights that mkfs writes (Note in 01 §10.3). */
function isMkfsChain(b: BlockBytes, itemsEnd: number): boolean {
  const v = b.v;
  const last = itemsEnd - BTREE_ITEM_BYTES;
  for (let item = BTREE_HEADER_BYTES; item <= last; item += BTREE_ITEM_BYTES) {
    const below = item === BTREE_HEADER_BYTES ? 0 : item - BTREE_ITEM_BYTES;
    if (link(v, item + LEFT) !== below || link(v, item + RIGHT) !== 0) return false;
    if (v.getUint8(item + HEIGHT) !== (item === last ? 0 : 1)) return false;
  }
  return true;
}

/** Rule 4: paddings and key bounds. */
function verifyItems(
  b: BlockBytes,
  itemsEnd: number,
  expect: BtreeExpectation,
  found: Report,
): void {
  for (let item = BTREE_HEADER_BYTES; item < itemsEnd; item += BTREE_ITEM_BYTES) {
    const padded = b.v.getUint8(item + NODE_PAD) !== 0 ||
      !allZero(b.buf, item + KEY_PAD, item + KEY_END) ||
      !allZero(b.buf, item + ITEM_PAD, item + BTREE_ITEM_BYTES);
    if (padded) found(4, `padding of item ${itemKey(b, item)} is not zero`);
    if (compareItem(b, item, expect.lo) < 0 || compareItem(b, item, expect.hi) > 0) {
      found(4, `key ${itemKey(b, item)} is outside ${expect.lo} … ${expect.hi}`);
    }
  }
}

/** Rules 5 to 7: values, their sum, the free middle. */
function verifyValues(b: BlockBytes, itemsEnd: number, end: number, found: Report): void {
  const lowest = itemsEnd + midFreeLen(b);
  const ranges: { off: number; end: number; item: number }[] = [];
  let total = 0;
  for (let item = BTREE_HEADER_BYTES; item < itemsEnd; item += BTREE_ITEM_BYTES) {
    const len = itemValLen(b, item), off = itemValOff(b, item);
    total += itemBytes(len);
    if (len === 0) {
      if (off !== 0) found(5, `item ${itemKey(b, item)} without a value has val_off ${off}`);
      continue;
    }
    if (len > BTREE_MAX_VAL_LEN || off % 8 !== 0 || off < lowest || off + len > end) {
      found(5, `item ${itemKey(b, item)} has its value of ${len} bytes at ${off}`);
    } else ranges.push({ off, end: off + roundUp8(len), item });
  }
  ranges.sort((a, c) => a.off - c.off);
  for (let i = 1; i < ranges.length; i++) {
    const a = ranges[i - 1]!, c = ranges[i]!;
    if (a.end > c.off) {
      found(5, `values of ${itemKey(b, a.item)} and ${itemKey(b, c.item)} overlap`);
    }
  }
  if (total !== totalItemBytes(b)) {
    found(6, `total_item_bytes is ${totalItemBytes(b)}, the items have ${total}`);
  }
  if (lowest > end) found(7, `the free middle of ${midFreeLen(b)} bytes ends at ${lowest}`);
  // All that it is made of and loses are multiples of 8 (01 §10.2).
  else if (lowest % 8 !== 0) found(7, `the free middle has ${midFreeLen(b)} bytes`);
}

/** Rule 8: the hash table of a leaf. */
function verifyHash(b: BlockBytes, itemsEnd: number, found: Report): void {
  let filled = 0, wild = false;
  for (let at = LEAF_ITEM_HASH_OFF; at < LG_SIZE; at += 2) {
    const item = b.v.getUint16(at, true);
    if (item === 0) continue;
    filled++;
    if (isSlot(item, itemsEnd)) continue;
    wild = true;
    found(8, `hash bucket ${(at - LEAF_ITEM_HASH_OFF) / 2} holds ${item}, which is no item`);
  }
  const nr = (itemsEnd - BTREE_HEADER_BYTES) / BTREE_ITEM_BYTES;
  if (filled !== nr) found(8, `${filled} hash buckets are used for ${nr} items`);
  if (wild) return;
  for (let item = BTREE_HEADER_BYTES; item < itemsEnd; item += BTREE_ITEM_BYTES) {
    const key = itemKey(b, item);
    if (findLeafItem(b, key) !== item) found(8, `item ${key} is not found by its hash`);
  }
}
