/**
 * Laying leaves out anew: merging a sorted run of items into a leaf, or dividing one in two. Where
 * many items of a leaf are new this costs a fraction of inserting them one by one: items go to
 * ascending slots, so the AVL tree is the perfectly balanced one and nothing is searched,
 * rotated or moved twice.
 *
 * `plan` decides and reads, `apply` writes; in between the caller gets the block for the left half,
 * which may fail. Values end up packed; what is laid out obeys all of 01 §10.7.
 */

import { FormatError, setU64 } from "./bytes.ts";
import {
  type BlockBytes,
  blockLevel,
  compareItem,
  firstItem,
  FLAGS,
  hashInsert,
  itemBytes,
  itemFlags,
  itemValLen,
  itemValOff,
  KEY,
  nextItem,
  roundUp8,
  SEQ,
  setLeafCounts,
  totalItemBytes,
  VAL_LEN,
  VAL_OFF,
} from "./btree_block.ts";
import {
  BTREE_HEADER_BYTES,
  BTREE_ITEM_BYTES,
  BTREE_LEAF_FREE,
  BTREE_MAX_VAL_LEN,
  LEAF_ITEM_HASH_OFF,
  LG_SIZE,
} from "./constants.ts";
import type { Key } from "./key.ts";

/** An item to be merged into a leaf. */
export interface NewItem {
  readonly key: Key;
  readonly seq: number;
  readonly flags: number;
  readonly val: Uint8Array;
}

/**
 * Asked about every item to be merged that replaces a stored one, whose flags are given, and about
 * deletions where nothing is stored (−1). True: neither of them is kept.
 */
export type Meets<T extends NewItem> = (item: T, storedFlags: number) => boolean;

/** What a leaf and a run may take together: two leaves, less what an uneven cut wastes. */
export const MERGE_BYTES = 2 * (BTREE_LEAF_FREE - itemBytes(BTREE_MAX_VAL_LEN));
/** Old items among the new ones, as a part of them, up to which a run counts as appended. */
const APPENDED = 1 / 8;
/** Links are distances from byte 32; slot 0 is at byte 48. */
const FIRST_LINK = BTREE_HEADER_BYTES - 32;

/** Merges and divisions of leaves, one after the other: its memory is used again and again. */
export class LeafFiller {
  readonly #old = { buf: new Uint8Array(LG_SIZE), v: new DataView(new ArrayBuffer(0)) };
  /** The items in key order: offsets in the old leaf, or the complement of an index of a new one. */
  readonly #order = new Int32Array(2 * BTREE_LEAF_FREE / BTREE_ITEM_BYTES);
  /** What each of them takes, in the same order. */
  readonly #sizes = new Int32Array(2 * BTREE_LEAF_FREE / BTREE_ITEM_BYTES);
  #count = 0;
  /** How many of them go to the left block. */
  #cut = 0;
  #items: readonly NewItem[] = [];

  constructor() {
    this.#old.v = new DataView(this.#old.buf.buffer);
  }

  /**
   * Prepares to merge items[from … to), strictly ascending, into `leaf`: together they must not take
   * more than `MERGE_BYTES`, replaced ones counted twice. An item that exists is replaced; those that
   * `meets` takes away are left out, unless the leaf would be empty. True: `apply` needs a block for the left
   * part.
   */
  planMerge<T extends NewItem>(
    leaf: BlockBytes,
    items: readonly T[],
    from: number,
    to: number,
    meets: Meets<T>,
  ): boolean {
    const order = this.#order, sizes = this.#sizes;
    let n = 0, bytes = 0, firstNew = -1, lastNew = 0, lastNewEnd = 0, added = 0;
    let old = firstItem(leaf);
    for (let i = from; i < to; i++) {
      const item = items[i]!;
      const { key, val } = item;
      if (val.length > BTREE_MAX_VAL_LEN) throw new FormatError(`item ${key} is too large`);
      let stored = -1;
      while (old !== 0) {
        const c = compareItem(leaf, old, key);
        if (c > 0) break;
        if (c < 0) {
          const size = itemBytes(itemValLen(leaf, old));
          order[n] = old;
          sizes[n++] = size;
          bytes += size;
        } else stored = itemFlags(leaf, old);
        old = nextItem(leaf, old);
      }
      if (stored >= 0 || item.flags !== 0) {
        const leavesSome = n > 0 || old !== 0 || i < to - 1;
        if (meets(item, stored) && leavesSome) continue;
      }
      added++;
      if (firstNew < 0) firstNew = n;
      lastNew = n;
      const size = itemBytes(val.length);
      order[n] = ~i;
      sizes[n++] = size;
      bytes += size;
      lastNewEnd = bytes;
    }
    for (; old !== 0; old = nextItem(leaf, old)) {
      const size = itemBytes(itemValLen(leaf, old));
      order[n] = old;
      sizes[n++] = size;
      bytes += size;
    }
    this.#count = n;
    this.#items = items;
    if (bytes <= BTREE_LEAF_FREE) {
      this.#cut = 0;
      return false;
    }
    // Where a run was appended more will follow: it leaves a full block behind. Else in the middle.
    const among = lastNew - firstNew + 1 - added;
    const appended = among <= added * APPENDED;
    const least = bytes / 2;
    this.#cutAt(appended ? Math.max(least, Math.min(lastNewEnd, BTREE_LEAF_FREE)) : least);
    return true;
  }

  /** Prepares to divide `leaf`, which has two items or more: `apply` gives half of it away. */
  planDivision(leaf: BlockBytes): void {
    let n = 0;
    for (let item = firstItem(leaf); item !== 0; item = nextItem(leaf, item)) {
      this.#order[n] = item;
      this.#sizes[n++] = itemBytes(itemValLen(leaf, item));
    }
    this.#count = n;
    this.#items = [];
    this.#cutAt(totalItemBytes(leaf) / 2);
  }

  /** As many items as fit into `bytes` go to the left, but not all. */
  #cutAt(bytes: number): void {
    const sizes = this.#sizes, last = this.#count - 1;
    let cut = 0;
    for (let left = 0; cut < last; cut++) {
      left += sizes[cut]!;
      if (left > bytes) break;
    }
    this.#cut = cut;
  }

  /**
   * Lays `leaf` out as planned; the lesser keys go to `left`, an empty leaf, if the plan cuts. Neither
   * block's header is touched.
   */
  apply(leaf: BlockBytes, left: BlockBytes | null): void {
    if ((left === null) !== (this.#cut === 0)) throw new Error("a cut leaf has two parts");
    this.#old.buf.set(leaf.buf);
    if (left !== null) this.#fill(left, 0, this.#cut);
    this.#fill(leaf, this.#cut, this.#count);
    this.#items = [];
  }

  /** Makes a leaf of order[from … to). */
  #fill(b: BlockBytes, from: number, to: number): void {
    const { v: ov } = this.#old;
    const { v } = b;
    if (blockLevel(b) !== 0) throw new Error("only leaves are laid out anew");
    b.buf.fill(0, 32);
    let bytes = 0, end = LEAF_ITEM_HASH_OFF;
    for (let i = from, item = BTREE_HEADER_BYTES; i < to; i++, item += BTREE_ITEM_BYTES) {
      const at = this.#order[i]!;
      let len: number;
      if (at >= 0) {
        for (let o = KEY; o < VAL_OFF; o += 4) {
          v.setUint32(item + o, ov.getUint32(at + o, true), true);
        }
        v.setUint8(item + FLAGS, itemFlags(this.#old, at));
        len = itemValLen(this.#old, at);
        end -= roundUp8(len);
        copyWords(v, end, ov, itemValOff(this.#old, at), len);
      } else {
        const { key, seq, flags, val } = this.#items[~at]!;
        key.write(v, item + KEY);
        setU64(v, item + SEQ, seq);
        v.setUint8(item + FLAGS, flags);
        len = val.length;
        end -= roundUp8(len);
        if (len > 0) b.buf.set(val, end);
      }
      if (len > 0) {
        v.setUint16(item + VAL_OFF, end, true);
        v.setUint16(item + VAL_LEN, len, true);
      }
      bytes += itemBytes(len);
      hashInsert(v, item);
    }
    const root = balance(v, 0, to - from, 0);
    setLeafCounts(b, root, to - from, bytes, end);
  }
}

/** Copies `len` bytes between places that are multiples of 4; up to 3 more where these are free. */
function copyWords(to: DataView, at: number, from: DataView, off: number, len: number): void {
  let i = 0;
  for (; i + 4 <= len; i += 4) to.setUint32(at + i, from.getUint32(off + i, true), true);
  for (; i < len; i++) to.setUint8(at + i, from.getUint8(off + i));
}

/** Links slots [lo, hi) as a balanced tree below `parent`; all are links, 0 meaning none. */
function balance(v: DataView, lo: number, hi: number, parent: number): number {
  if (lo === hi) return 0;
  const mid = (lo + hi) >>> 1;
  const link = FIRST_LINK + BTREE_ITEM_BYTES * mid;
  const left = balance(v, lo, mid, link), right = balance(v, mid + 1, hi, link);
  // The right half has as many slots as the left or one less.
  const height = 32 - Math.clz32(hi - lo);
  v.setUint32(link + 32, parent | left << 16, true);
  v.setUint32(link + 36, right | height << 16, true);
  return link;
}
