/**
 * One btree block: the quick complete check that sound blocks pass without an allocation, the slow
 * one that says what is wrong, and the order of the items that can be believed.
 */

import {
  type BlockBytes,
  blockLevel,
  compareItem,
  firstItem,
  HEIGHT,
  itemFlags,
  itemValLen,
  itemValOff,
  KEY,
  LEFT,
  link,
  midFreeLen,
  nextItem,
  nrItems,
  RIGHT,
} from "../../format/btree_block.ts";
import {
  type BtreeExpectation,
  type BtreeFinding,
  checkBtreeShape,
  verifyBtreeBlock,
} from "../../format/btree_verify.ts";
import {
  BTREE_HEADER_BYTES,
  BTREE_ITEM_BYTES,
  BTREE_MAX_VAL_LEN,
  ITEM_FLAG_DELETION,
  LEAF_ITEM_HASH_NR,
  LEAF_ITEM_HASH_OFF,
  LG_SIZE,
} from "../../format/constants.ts";
import { keyBucket } from "../../format/hash.ts";
import { Key } from "../../format/key.ts";
import { compareStored } from "./stored_key.ts";

/** More slots than this do not fit in any block. */
export const MAX_ITEMS = Math.floor((LG_SIZE - BTREE_HEADER_BYTES) / BTREE_ITEM_BYTES);

/** Units of 8 bytes that values take, marked with the number of the check that saw them. */
const taken = new Uint32Array(LG_SIZE / 8);
let generation = 0;

/**
 * Everything wrong with a block, as `verifyBtreeBlock` says it; empty for a sound one. Damage that
 * only the shape check sees comes as rule 0.
 */
export function checkBlock(b: BlockBytes, expect: BtreeExpectation): BtreeFinding[] {
  const shape = checkBtreeShape(b);
  if (shape === null && passesQuickly(b, expect)) return [];
  const findings = verifyBtreeBlock(b, expect);
  if (findings.length === 0 && shape !== null) return [{ rule: 0, message: shape }];
  return findings;
}

/** Whether a block of sound shape keeps all rules of 01 §10.7; false also for mkfs' odd heights. */
function passesQuickly(b: BlockBytes, expect: BtreeExpectation): boolean {
  const v = b.v, level = blockLevel(b), nr = nrItems(b), leaf = level === 0;
  if (level !== expect.level) return false;
  if (v.getUint32(41, true) !== 0 || v.getUint32(44, true) !== 0) return false;
  const itemsEnd = BTREE_HEADER_BYTES + BTREE_ITEM_BYTES * nr;
  const lowest = itemsEnd + midFreeLen(b);
  if (++generation === 0xffff_ffff) {
    taken.fill(0);
    generation = 1;
  }
  for (let item = BTREE_HEADER_BYTES; item < itemsEnd; item += BTREE_ITEM_BYTES) {
    if (v.getUint8(item + 7) !== 0 || v.getUint8(item + 35) !== 0) return false;
    if (v.getUint32(item + 36, true) !== 0 || v.getUint8(item + 53) !== 0) return false;
    if (v.getUint16(item + 54, true) !== 0) return false;
    const left = link(v, item + LEFT), right = link(v, item + RIGHT);
    const l = left === 0 ? 0 : v.getUint8(left + HEIGHT);
    const r = right === 0 ? 0 : v.getUint8(right + HEIGHT);
    if (l - r > 1 || r - l > 1 || v.getUint8(item + HEIGHT) !== 1 + (l > r ? l : r)) return false;
    const len = itemValLen(b, item), off = itemValOff(b, item), flags = itemFlags(b, item);
    if (flags !== 0 && !(leaf && expect.logTree && flags === ITEM_FLAG_DELETION && len === 0)) {
      return false;
    }
    if (len === 0) {
      if (off !== 0 || !leaf) return false;
      continue;
    }
    if (off < lowest || !leaf && len !== 16) return false;
    for (let unit = off >> 3, end = off + len + 7 >> 3; unit < end; unit++) {
      if (taken[unit] === generation) return false;
      taken[unit] = generation;
    }
  }
  if (nr === 0) return leaf;
  const first = firstItem(b);
  if (compareItem(b, first, expect.lo) < 0) return false;
  let last = first;
  for (let i = link(v, 32); i !== 0; i = link(v, i + RIGHT)) last = i;
  if (leaf) {
    return compareItem(b, last, expect.hi) <= 0 && hashFindsAll(v, itemsEnd);
  }
  return compareItem(b, last, expect.rightSpine ? Key.ONES : expect.hi) === 0;
}

function hashFindsAll(v: DataView, itemsEnd: number): boolean {
  for (let item = BTREE_HEADER_BYTES; item < itemsEnd; item += BTREE_ITEM_BYTES) {
    let bucket = keyBucket(v, item + KEY);
    for (let probes = 0;; probes++) {
      const at = v.getUint16(LEAF_ITEM_HASH_OFF + 2 * bucket, true);
      if (at === item) break;
      if (at === 0 || probes === LEAF_ITEM_HASH_NR) return false;
      if (++bucket === LEAF_ITEM_HASH_NR) bucket = 0;
    }
  }
  return true;
}

/**
 * The items of a block in key order, as offsets in `order`; returns how many. For a block of sound
 * shape these are all; of any other those whose key lies in [lo, hi] and whose value lies in the
 * block, each key once.
 */
export function itemOrder(b: BlockBytes, lo: Key, hi: Key, order: Uint16Array): number {
  if (checkBtreeShape(b) === null) {
    let n = 0;
    const leaf = blockLevel(b) === 0;
    for (let item = firstItem(b); item !== 0; item = nextItem(b, item)) {
      // Keys out of bounds belong to no reader's search; handing them out would break the order.
      if (leaf && (n === 0 && compareItem(b, item, lo) < 0)) continue;
      order[n++] = item;
    }
    while (leaf && n > 0 && compareItem(b, order[n - 1] as number, hi) > 0) n--;
    return n;
  }
  const leaf = blockLevel(b) === 0;
  const end = leaf ? LEAF_ITEM_HASH_OFF : LG_SIZE;
  const nr = Math.min(nrItems(b), Math.floor((end - BTREE_HEADER_BYTES) / BTREE_ITEM_BYTES));
  const items: number[] = [];
  for (let slot = 0; slot < nr; slot++) {
    const item = BTREE_HEADER_BYTES + BTREE_ITEM_BYTES * slot;
    const len = itemValLen(b, item), off = itemValOff(b, item);
    if (len > BTREE_MAX_VAL_LEN || len > 0 && (off < BTREE_HEADER_BYTES || off + len > end)) {
      continue;
    }
    if (compareItem(b, item, lo) < 0 || compareItem(b, item, hi) > 0) continue;
    items.push(item);
  }
  items.sort((x, y) => compareStored(b.v, x + KEY, b.v, y + KEY) || x - y);
  let n = 0;
  for (const item of items) {
    if (n > 0 && compareStored(b.v, order[n - 1]! + KEY, b.v, item + KEY) === 0) continue;
    order[n++] = item;
  }
  return n;
}
