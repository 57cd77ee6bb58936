/**
 * Btree blocks that `scanBlock` did not find sound: what is wrong with them, and the order of the
 * items that can be believed.
 *
 * Relies on: nothing; any bytes will do.
 * Guarantees: each rule of 01 §10.7 that the block breaks is told; the items handed on lie in the block,
 * with their values, in key order, each key once, within the bounds.
 */

import {
  type BlockBytes,
  blockLevel,
  compareItem,
  firstItem,
  itemValLen,
  itemValOff,
  KEY,
  nextItem,
  nrItems,
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
  LEAF_ITEM_HASH_NR,
  LEAF_ITEM_HASH_OFF,
  LG_SIZE,
} from "../../format/constants.ts";
import { keyBucket } from "../../format/hash.ts";
import type { Key } from "../../format/key.ts";
import { compareStored } from "./stored_key.ts";

/**
 * Everything wrong with a block that `scanBlock` did not pass, as `verifyBtreeBlock` says it; empty
 * for one that is only unusual. Damage that only the shape check sees comes as rule 0.
 */
export function checkBlock(b: BlockBytes, expect: BtreeExpectation): BtreeFinding[] {
  const findings = verifyBtreeBlock(b, expect), shape = checkBtreeShape(b);
  if (findings.length === 0 && shape !== null) return [{ rule: 0, message: shape }];
  return findings;
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
  const said = leaf ? hashedItems(b) ?? nrItems(b) : nrItems(b);
  const nr = Math.min(said, Math.floor((end - BTREE_HEADER_BYTES) / BTREE_ITEM_BYTES));
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
    if (n > 0 && compareStored(b.v, order[n - 1]! + KEY, b.v, item + KEY) === 0) {
      // Of two with one key the one that the hash table leads to has it rightly.
      if (leaf && !isHashed(b.v, order[n - 1]!) && isHashed(b.v, item)) order[n - 1] = item;
      continue;
    }
    order[n++] = item;
  }
  return n;
}

/** Whether a lookup of its key in the leaf's hash table comes to an item. */
function isHashed(v: DataView, item: number): boolean {
  let bucket = keyBucket(v, item + KEY);
  for (let probes = 0; probes < LEAF_ITEM_HASH_NR; probes++) {
    const found = v.getUint16(LEAF_ITEM_HASH_OFF + 2 * bucket, true);
    if (found === item) return true;
    if (found === 0) return false;
    bucket = (bucket + 1) % LEAF_ITEM_HASH_NR;
  }
  return false;
}

/** How many items a leaf's hash table leads to, if those fill the first slots: nr_items may be wrong. */
function hashedItems({ v }: BlockBytes): number | null {
  const slots = new Set<number>();
  let greatest = -1;
  for (let at = LEAF_ITEM_HASH_OFF; at < LG_SIZE; at += 2) {
    const item = v.getUint16(at, true);
    if (item === 0) continue;
    const slot = (item - BTREE_HEADER_BYTES) / BTREE_ITEM_BYTES;
    if (!Number.isInteger(slot) || slot < 0 || slots.has(slot)) return null;
    slots.add(slot);
    greatest = Math.max(greatest, slot);
  }
  return slots.size > 0 && greatest === slots.size - 1 ? slots.size : null;
}
