/**
 * A page of the item cache: the items of one inclusive key range of one cluster lock, in key order,
 * packed into two buffers. Inside its range a page is authoritative: what it does not hold does
 * not exist (03 §9.1).
 *
 * `words` has 12 u32 per slot; slots 0 and 1 are the bounds, items follow:
 *
 *   0 firstHi  1 firstLo  2 type  3 secondHi  4 secondLo  5 thirdHi  6 thirdLo  7 fourth
 *   8 seqHi    9 seqLo   10 offset in vals   11 length | flags << 16
 *
 * The zone is the lock's. Values are appended to `vals` and overwritten only by a value of the same
 * length of the same item; when `vals` is full the live ones move to a new buffer. So a window
 * handed out never shows another item's bytes, though it may show its own item's older value.
 */

import { Key } from "../format/key.ts";
import { assert } from "./errors.ts";
import type { ClusterLock } from "./lock_client.ts";
import type { FillPin } from "./op.ts";

const SLOT = 12;
const BOUNDS = 2;
const SEQ = 8;
const VAL = 10;
const META = 11;
const LEN_MASK = 0xffff;
const TWO32 = 0x1_0000_0000;

/** Must be written by the open transaction. */
export const ITEM_DIRTY = 1 << 16;
/** An older version may exist in the trees: deleting it needs a deletion item. */
export const ITEM_PERSISTENT = 2 << 16;
/** Tombstone: invisible, to be written. */
export const ITEM_DELETED = 4 << 16;
/** A difference to be added (zone 12). */
export const ITEM_DELTA = 8 << 16;
/**
 * Instead of ITEM_PERSISTENT: it is stored in the present log tree of this mount, and no other tree
 * has an item of its key, so that deleting it removes it.
 */
export const ITEM_COMMITTED = 16 << 16;

export const PAGE_MAX_ITEMS = 128;
export const PAGE_MAX_VALS = 32768;
/** Buffers for values double up to this. */
const GROW_BYTES = 8192;
/** Items for which a page is made that is expected to fill. */
const FRESH_ITEMS = 64;
/** What the objects of a page cost beside its two buffers. */
const PAGE_OVERHEAD = 480;

/** Compares the key at `words[o…]` with `key` (the zones are equal). */
export function compareWords(words: Uint32Array, o: number, key: Key): number {
  let a = words[o]!;
  if (a !== key.firstHi) return a < key.firstHi ? -1 : 1;
  a = words[o + 1]!;
  if (a !== key.firstLo) return a < key.firstLo ? -1 : 1;
  a = words[o + 2]!;
  if (a !== key.type) return a - key.type;
  a = words[o + 3]!;
  if (a !== key.secondHi) return a < key.secondHi ? -1 : 1;
  a = words[o + 4]!;
  if (a !== key.secondLo) return a < key.secondLo ? -1 : 1;
  a = words[o + 5]!;
  if (a !== key.thirdHi) return a < key.thirdHi ? -1 : 1;
  a = words[o + 6]!;
  if (a !== key.thirdLo) return a < key.thirdLo ? -1 : 1;
  return words[o + 7]! - key.fourth;
}

/** Order of pages by zone and first key. */
export function comparePages(a: Page, b: Page): number {
  const zones = a.lock.start.zone - b.lock.start.zone;
  if (zones !== 0) return zones;
  const x = a.words;
  const y = b.words;
  for (let i = 0; i < 8; i++) if (x[i] !== y[i]) return x[i]! < y[i]! ? -1 : 1;
  return 0;
}

/** Index of the last of a lock's pages that starts at or before `key`; −1 when there is none. */
export function pageIndex(pages: readonly Page[], key: Key): number {
  let lo = 0;
  let hi = pages.length;
  while (lo < hi) {
    const mid = (lo + hi) >>> 1;
    if (pages[mid]!.compareStart(key) <= 0) lo = mid + 1;
    else hi = mid;
  }
  return lo - 1;
}

function putKey(words: Uint32Array, o: number, key: Key): void {
  words[o] = key.firstHi;
  words[o + 1] = key.firstLo;
  words[o + 2] = key.type;
  words[o + 3] = key.secondHi;
  words[o + 4] = key.secondLo;
  words[o + 5] = key.thirdHi;
  words[o + 6] = key.thirdLo;
  words[o + 7] = key.fourth;
}

export class Page {
  words: Uint32Array;
  vals: Uint8Array;
  /** All of `vals`. */
  view: DataView;
  /** Items, tombstones included. */
  count = 0;
  /** Bytes of `vals` in use, dead ones included. */
  top = 0;
  /** Bytes of `vals` that belong to live items. */
  live = 0;
  /** Items to be written. */
  dirty = 0;
  /** It is in the list of dirty pages. */
  listed = false;
  /** In the list of pages that `DirtyItems.scan` will show. */
  unscanned = false;
  /** Covered by a WRITE_ONLY lock without having been read. */
  blind = false;
  /** Used since the eviction hand came by last. */
  recent = true;
  /** The operation that had it read; kept while that is live. */
  pin: FillPin | null = null;
  /** In its lock's page list. */
  attached = true;
  // Neighbours in eviction order.
  older: Page | null = null;
  newer: Page | null = null;

  constructor(readonly lock: ClusterLock, start: Key, end: Key, items: number, valBytes: number) {
    this.words = new Uint32Array((BOUNDS + items) * SLOT);
    this.vals = new Uint8Array(valBytes);
    this.view = new DataView(this.vals.buffer);
    putKey(this.words, 0, start);
    putKey(this.words, SLOT, end);
  }

  /** Memory it takes. */
  get bytes(): number {
    return this.words.byteLength + this.vals.byteLength + PAGE_OVERHEAD;
  }

  /** First key of the range against `key`. */
  compareStart(key: Key): number {
    return compareWords(this.words, 0, key);
  }

  /** Last key of the range against `key`. */
  compareEnd(key: Key): number {
    return compareWords(this.words, SLOT, key);
  }

  get start(): Key {
    return this.#keyAt(0);
  }

  set start(key: Key) {
    putKey(this.words, 0, key);
  }

  get end(): Key {
    return this.#keyAt(SLOT);
  }
  set end(key: Key) {
    putKey(this.words, SLOT, key);
  }

  #keyAt(o: number): Key {
    const w = this.words;
    return Key.words(
      this.lock.start.zone,
      w[o]!,
      w[o + 1]!,
      w[o + 2]!,
      w[o + 3]!,
      w[o + 4]!,
      w[o + 5]!,
      w[o + 6]!,
      w[o + 7]!,
    );
  }

  key(i: number): Key {
    return this.#keyAt((BOUNDS + i) * SLOT);
  }

  /** Second field of the key of item `i`; FormatError above 2^53−1. */
  second(i: number): number {
    const o = (BOUNDS + i) * SLOT;
    const hi = this.words[o + 3]!;
    return hi < 0x20_0000 ? hi * TWO32 + this.words[o + 4]! : this.key(i).second;
  }

  /** Key of item `i` against `key`, of any zone. */
  compareKey(i: number, key: Key): number {
    const zones = this.lock.start.zone - key.zone;
    return zones !== 0 ? zones : compareWords(this.words, (BOUNDS + i) * SLOT, key);
  }

  seq(i: number): number {
    const o = (BOUNDS + i) * SLOT + SEQ;
    return this.words[o]! * TWO32 + this.words[o + 1]!;
  }

  flags(i: number): number {
    return this.words[(BOUNDS + i) * SLOT + META]! & ~LEN_MASK;
  }

  setFlags(i: number, flags: number): void {
    const o = (BOUNDS + i) * SLOT + META;
    this.words[o] = this.words[o]! & LEN_MASK | flags;
  }

  length(i: number): number {
    return this.words[(BOUNDS + i) * SLOT + META]! & LEN_MASK;
  }

  offset(i: number): number {
    return this.words[(BOUNDS + i) * SLOT + VAL]!;
  }

  /** Window of item `i`'s value. */
  val(i: number): Uint8Array {
    const off = this.offset(i);
    return this.vals.subarray(off, off + this.length(i));
  }

  /** Index of the item with `key`, or ~index of the first one after it. */
  search(key: Key): number {
    const { words } = this;
    let lo = 0;
    let hi = this.count;
    while (lo < hi) {
      const mid = (lo + hi) >>> 1;
      const c = compareWords(words, (BOUNDS + mid) * SLOT, key);
      if (c === 0) return mid;
      if (c < 0) lo = mid + 1;
      else hi = mid;
    }
    return ~lo;
  }

  /** Is item `i` the one with `key`? */
  has(i: number, key: Key): boolean {
    return i < this.count && compareWords(this.words, (BOUNDS + i) * SLOT, key) === 0;
  }

  /** Room for another item with a value of `len` bytes, splitting apart? */
  hasRoom(len: number): boolean {
    return this.count < PAGE_MAX_ITEMS && (this.live + len <= PAGE_MAX_VALS || this.count < 2);
  }

  /** Puts a new item at index `i`. */
  insert(i: number, key: Key, seq: number, flags: number, val: Uint8Array): void {
    this.#growSlots();
    const { words } = this;
    const o = (BOUNDS + i) * SLOT;
    if (i < this.count) words.copyWithin(o + SLOT, o, (BOUNDS + this.count) * SLOT);
    putKey(words, o, key);
    words[o + VAL] = 0;
    words[o + META] = 0;
    this.count++;
    this.set(i, seq, flags, val);
  }

  #growSlots(): void {
    const slots = this.words.length / SLOT - BOUNDS;
    if (this.count < slots) return;
    assert(this.count < PAGE_MAX_ITEMS, "a page is full");
    const grown = new Uint32Array(
      (BOUNDS + Math.min(PAGE_MAX_ITEMS, Math.max(4, slots * 2))) * SLOT,
    );
    grown.set(this.words);
    this.words = grown;
  }

  /** Replaces seq and flags of item `i`. */
  setVersion(i: number, seq: number, flags: number): void {
    const o = (BOUNDS + i) * SLOT;
    this.words[o + SEQ] = Math.floor(seq / TWO32);
    this.words[o + SEQ + 1] = seq >>> 0;
    this.words[o + META] = this.words[o + META]! & LEN_MASK | flags;
  }

  /** Replaces seq, flags and value of item `i`; `val` may be the item's own window. */
  set(i: number, seq: number, flags: number, val: Uint8Array): void {
    const o = (BOUNDS + i) * SLOT;
    const old = this.words[o + META]! & LEN_MASK;
    const len = val.length;
    if (old !== len) {
      this.live -= old;
      this.words[o + META] = 0;
      this.#reserve(len);
      this.words[o + VAL] = this.top;
      this.top += len;
      this.live += len;
    }
    // `#reserve` may have moved everything: `words` and `vals` are read again.
    if (len > 0) this.vals.set(val, this.words[o + VAL]!);
    this.words[o + SEQ] = Math.floor(seq / TWO32);
    this.words[o + SEQ + 1] = seq >>> 0;
    this.words[o + META] = len | flags;
  }

  /** Makes `len` bytes at `top` available. */
  #reserve(len: number): void {
    if (this.top + len <= this.vals.length) return;
    const need = this.live + len;
    const vals = new Uint8Array(Math.max(64, need < GROW_BYTES ? need * 2 : need * 1.5 >>> 0));
    let top = 0;
    if (this.live === this.top) {
      vals.set(this.vals.subarray(0, this.top));
      top = this.top;
    } else {
      for (let i = 0; i < this.count; i++) {
        const o = (BOUNDS + i) * SLOT;
        const n = this.words[o + META]! & LEN_MASK;
        const off = this.words[o + VAL]!;
        for (let k = 0; k < n; k++) vals[top + k] = this.vals[off + k]!;
        this.words[o + VAL] = top;
        top += n;
      }
    }
    this.vals = vals;
    this.view = new DataView(vals.buffer);
    this.top = top;
    assert(top === this.live, "live bytes of a page are miscounted");
  }

  /** Forgets item `i`. */
  remove(i: number): void {
    const o = (BOUNDS + i) * SLOT;
    this.live -= this.words[o + META]! & LEN_MASK;
    this.words.copyWithin(o, o + SLOT, (BOUNDS + this.count) * SLOT);
    this.count--;
  }

  /**
   * Moves the items from index `at` on, and the range from that item's key on, to a new page. The
   * caller puts it behind this one.
   */
  split(at: number): Page {
    assert(at > 0 && at < this.count, "a split leaves a page empty");
    const first = this.key(at);
    const n = this.count - at;
    let bytes = 0;
    for (let i = at; i < this.count; i++) bytes += this.length(i);
    // Behind a page that was full to its end more of the same will follow.
    const items = n === 1 ? FRESH_ITEMS : Math.min(PAGE_MAX_ITEMS, n + 8);
    const room = n === 1 ? Math.max(bytes, this.live >> 1) : bytes + 64;
    const right = new Page(this.lock, first, this.end, items, room);
    for (let i = at; i < this.count; i++) {
      right.insert(i - at, this.key(i), this.seq(i), this.flags(i), this.val(i));
      if ((this.flags(i) & ITEM_DIRTY) !== 0) right.dirty++;
    }
    right.blind = this.blind;
    right.pin = this.pin;
    this.end = first.dec();
    this.count = at;
    this.live -= bytes;
    this.dirty -= right.dirty;
    return right;
  }

  /** Does `next` begin where this page ends? */
  touches(next: Page): boolean {
    return next.compareStart(this.end.inc()) === 0;
  }

  /** Takes over range and items of the page right behind it. */
  absorb(next: Page): void {
    for (let i = 0; i < next.count; i++) {
      this.insert(this.count, next.key(i), next.seq(i), next.flags(i), next.val(i));
    }
    this.dirty += next.dirty;
    this.end = next.end;
    this.pin ??= next.pin;
  }

  /**
   * The transaction is committed: forgets tombstones and differences, the others become clean, and
   * those that were created committed (03 §9.5).
   */
  markClean(): void {
    const { words } = this;
    let kept = 0;
    for (let i = 0; i < this.count; i++) {
      const o = (BOUNDS + i) * SLOT;
      const meta = words[o + META]!;
      if ((meta & (ITEM_DELETED | ITEM_DELTA)) !== 0) {
        this.live -= meta & LEN_MASK;
        continue;
      }
      const to = (BOUNDS + kept) * SLOT;
      if (to !== o) words.copyWithin(to, o, o + SLOT);
      words[to + META] = meta & ~ITEM_DIRTY |
        ((meta & ITEM_PERSISTENT) === 0 ? ITEM_COMMITTED : 0);
      kept++;
    }
    this.count = kept;
    this.dirty = 0;
  }

  /** Another log tree takes what is written from now on: what is committed is in another one. */
  forgetTree(): void {
    for (let i = 0; i < this.count; i++) {
      const flags = this.flags(i);
      if ((flags & ITEM_COMMITTED) !== 0) {
        this.setFlags(i, flags & ~ITEM_COMMITTED | ITEM_PERSISTENT);
      }
    }
  }
}
