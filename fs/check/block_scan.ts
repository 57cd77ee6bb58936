/**
 * One btree block in one pass while it is in the processor's cache: everything that 01 §10.7 asks of
 * a block, and the order of its items. Sound blocks, so nearly all, need nothing else.
 *
 * The items are visited in key order by the AVL tree; an item's 56 bytes are looked at once. Visiting
 * as many items as there are slots, each by the one parent that it names, in ascending order of
 * their keys, proves the tree whole; finding each from its own hash bucket while no further bucket
 * is in use proves the hash table.
 *
 * Relies on: nothing; any bytes will do.
 * Guarantees: a block that is passed keeps all rules of 01 §10.7. One that is not may still be right:
 * btree_check.ts says what is wrong with it.
 *
 * Words of an item at word `w`: 0 parent|left · 1 right|height · 2…9 key (01 §7.1) · 10, 11 seq ·
 * 12 value's offset|length · 13 flags.
 */

import { ITEM_ROOT, KEY } from "../../format/btree_block.ts";
import type { BtreeExpectation } from "../../format/btree_verify.ts";
import {
  BTREE_HEADER_BYTES,
  BTREE_ITEM_BYTES,
  BTREE_MAX_VAL_LEN,
  ITEM_FLAG_DELETION,
  LEAF_ITEM_HASH_NR,
  LEAF_ITEM_HASH_OFF,
  LG_SIZE,
} from "../../format/constants.ts";
import { compareKeyAt, Key } from "../../format/key.ts";
import type { RawBlock } from "./source.ts";

/** More slots than this do not fit in any block. */
export const MAX_ITEMS = Math.floor((LG_SIZE - BTREE_HEADER_BYTES) / BTREE_ITEM_BYTES);

// FNV-1a of 32 bits (01 §6.5): the prime and its powers, for runs of zero bytes.
const FNV_INIT = 0x811c9dc5;
const P = 0x01000193;
const P2 = Math.imul(P, P);
const P3 = Math.imul(P2, P);
const P4 = Math.imul(P3, P);
const P6 = Math.imul(P4, P2);

/** Links are distances from the AVL root's place. */
const LINK_BASE = ITEM_ROOT;

/** Deeper than any AVL tree of so many items. */
const MAX_DEPTH = 32;
const stack = new Uint16Array(MAX_DEPTH);

/** Units of 8 bytes that values take, a bit each. */
const taken = new Uint32Array(LG_SIZE / 8 / 32);

/** 1 for each offset, in units of 8, where an item can lie. */
const isSlot = new Uint8Array(LG_SIZE / 8);
for (let slot = 0; slot < MAX_ITEMS; slot++) {
  isSlot[BTREE_HEADER_BYTES + BTREE_ITEM_BYTES * slot >> 3] = 1;
}

/** Hash of a key's bytes, four of them in a word. */
function hashWord(h: number, word: number): number {
  // The upper bytes of a small number are zero: each only multiplies.
  if (word < 256) return Math.imul(h ^ word, P4);
  h = Math.imul(h ^ word & 255, P);
  if (word < 65536) return Math.imul(h ^ word >>> 8, P3);
  h = Math.imul(h ^ word >>> 8 & 255, P);
  h = Math.imul(h ^ word >>> 16 & 255, P);
  return Math.imul(h ^ word >>> 24, P);
}

/**
 * The items of a block that keeps all rules, in key order, as byte offsets in `order`; returns how
 * many, or −1 for a block that breaks a rule, or has the odd AVL heights of mkfs.
 */
export function scanBlock(b: RawBlock, expect: BtreeExpectation, order: Uint16Array): number {
  const { buf, u16, u32 } = b;
  const level = u32[10]! & 255, nr = u16[17]!, leaf = level === 0;
  if (level !== expect.level || u32[10]! !== level || u32[11]! !== 0) return -1;
  const itemsEnd = BTREE_HEADER_BYTES + BTREE_ITEM_BYTES * nr;
  const end = leaf ? LEAF_ITEM_HASH_OFF : LG_SIZE;
  const lowest = itemsEnd + u16[19]!;
  if (lowest > end || (lowest & 7) !== 0) return -1;
  const rootLink = u16[ITEM_ROOT >> 1]!;
  if (nr === 0) return leaf && rootLink === 0 && u16[18] === 0 && filledBuckets(u32) === 0 ? 0 : -1;

  taken.fill(0);
  let total = 0, n = 0, depth = 0;
  // The item before, in key order.
  let zone0 = -1, firstHi0 = 0, firstLo0 = 0, type0 = 0, secondHi0 = 0, secondLo0 = 0;
  let thirdHi0 = 0, thirdLo0 = 0, fourth0 = 0;
  // Hash of the key's first field, which neighbours share.
  let firstHash = hashWord(hashWord(FNV_INIT, 0), 0);

  let item = rootLink + LINK_BASE, parentLink = 0;
  if (rootLink === 0) return -1;
  for (;;) {
    // Down to the least item that has not been visited.
    while (item !== 0) {
      if ((item & 7) !== 0 || item >= itemsEnd || isSlot[item >> 3] === 0) return -1;
      if (depth === MAX_DEPTH) return -1;
      const links = u32[item >> 2]!;
      if ((links & 0xffff) !== parentLink) return -1;
      stack[depth++] = item;
      parentLink = item - LINK_BASE;
      const left = links >>> 16;
      item = left === 0 ? 0 : left + LINK_BASE;
    }
    if (depth === 0) break;
    const at = stack[--depth]!, w = at >> 2;
    if (n === nr) return -1;
    order[n++] = at;

    // Node: balance, height, its padding.
    const left = u32[w]! >>> 16, rightHeight = u32[w + 1]!, right = rightHeight & 0xffff;
    const l = left === 0 ? 0 : buf[left + LINK_BASE + 6]!;
    const r = right === 0 || right >= LG_SIZE - LINK_BASE - 6 ? 0 : buf[right + LINK_BASE + 6]!;
    if (l - r > 1 || r - l > 1 || rightHeight >>> 16 !== 1 + (l > r ? l : r)) return -1;

    // Key: padding, order.
    const firstLo = u32[w + 2]!, firstHi = u32[w + 3]!, secondLo = u32[w + 4]!;
    const secondHi = u32[w + 5]!, thirdLo = u32[w + 6]!, thirdHi = u32[w + 7]!;
    const rest = u32[w + 8]!;
    if (rest >= 0x0100_0000 || u32[w + 9] !== 0) return -1;
    const fourth = rest & 255, zone = rest >>> 8 & 255, type = rest >>> 16;
    const sameFirst = firstLo === firstLo0 && firstHi === firstHi0;
    const ascends = zone !== zone0
      ? zone > zone0
      : !sameFirst
      ? firstHi !== firstHi0 ? firstHi > firstHi0 : firstLo > firstLo0
      : type !== type0
      ? type > type0
      : secondHi !== secondHi0
      ? secondHi > secondHi0
      : secondLo !== secondLo0
      ? secondLo > secondLo0
      : thirdHi !== thirdHi0
      ? thirdHi > thirdHi0
      : thirdLo !== thirdLo0
      ? thirdLo > thirdLo0
      : fourth > fourth0;
    if (!ascends) return -1;
    zone0 = zone;
    type0 = type;
    secondHi0 = secondHi;
    secondLo0 = secondLo;
    thirdHi0 = thirdHi;
    thirdLo0 = thirdLo;
    fourth0 = fourth;

    // Value and flags.
    const val = u32[w + 12]!, off = val & 0xffff, len = val >>> 16, flags = u32[w + 13]!;
    if (flags !== 0) {
      if (flags !== ITEM_FLAG_DELETION || !leaf || !expect.logTree || len !== 0) return -1;
    }
    if (len === 0) {
      if (off !== 0 || !leaf) return -1;
    } else {
      if ((off & 7) !== 0 || off < lowest || off + len > end || len > BTREE_MAX_VAL_LEN) return -1;
      if (!leaf && len !== 16) return -1;
      if (!take(off >> 3, len + 7 >> 3)) return -1;
    }
    total += BTREE_ITEM_BYTES + (len + 7 & ~7);

    if (leaf) {
      if (!sameFirst) firstHash = hashWord(hashWord(FNV_INIT, firstLo), firstHi);
      let h = hashWord(hashWord(firstHash, secondLo), secondHi);
      h = hashWord(hashWord(h, thirdLo), thirdHi);
      h = Math.imul(h ^ fourth, P);
      h = Math.imul(h ^ zone, P);
      h = Math.imul(h ^ type, P6);
      let bucket = (h >>> 0) % LEAF_ITEM_HASH_NR, probes = 0;
      for (;;) {
        const found = u16[(LEAF_ITEM_HASH_OFF >> 1) + bucket]!;
        if (found === at) break;
        if (found === 0 || ++probes > LEAF_ITEM_HASH_NR) return -1;
        if (++bucket === LEAF_ITEM_HASH_NR) bucket = 0;
      }
    }
    firstLo0 = firstLo;
    firstHi0 = firstHi;

    parentLink = at - LINK_BASE;
    item = right === 0 ? 0 : right + LINK_BASE;
  }
  if (n !== nr || total !== u16[18] || leaf && filledBuckets(u32) !== nr) return -1;
  if (compareKeyAt(b.v, order[0]! + KEY, expect.lo) < 0) return -1;
  const last = order[n - 1]! + KEY;
  if (leaf) return compareKeyAt(b.v, last, expect.hi) <= 0 ? n : -1;
  return compareKeyAt(b.v, last, expect.rightSpine ? Key.ONES : expect.hi) === 0 ? n : -1;
}

/** Marks `count` units from `unit`; false when one of them is taken already. */
function take(unit: number, count: number): boolean {
  let word = unit >> 5, bit = unit & 31;
  while (count > 0) {
    const here = count < 32 - bit ? count : 32 - bit;
    const mask = here === 32 ? -1 : (1 << here) - 1 << bit;
    const before = taken[word]! | 0;
    if ((before & mask) !== 0) return false;
    taken[word++] = before | mask;
    count -= here;
    bit = 0;
  }
  return true;
}

function filledBuckets(u32: Uint32Array): number {
  // Two buckets a word: each that is not zero carries into the bit above its lower 15, or has it.
  let filled = 0;
  for (let w = LEAF_ITEM_HASH_OFF >> 2; w < LG_SIZE >> 2; w++) {
    const pair = u32[w]!;
    filled += ((pair & 0x7fff_7fff) + 0x7fff_7fff | pair) >>> 15 & 0x0001_0001;
  }
  return (filled & 0xffff) + (filled >>> 16);
}
