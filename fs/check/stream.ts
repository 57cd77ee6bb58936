/**
 * The resolved items of a volume as one stream in key order (01 §12.2): a k-way merge of the leaves
 * of fs_root and of all log item trees. Of each key the version with the greatest seq is handed on,
 * unless it is a deletion; totals are summed by the rules of 03 §22.
 *
 * Relies on: leaves in key order, whose items each have a key and a length that can be read
 * (item_versions.ts has taken out the others).
 * Guarantees: each key at most once, ascending as far as the trees are; no allocation per item. Told
 * besides: keys of which fs_root has a newer version than any log tree, and keys that a merge has gone
 * past without merging them, or would merge a second time.
 */

import { type BlockBytes, KEY } from "../../format/btree_block.ts";
import { ITEM_FLAG_DELETION, ZONE_XATTR_TOTL } from "../../format/constants.ts";
import { Key } from "../../format/key.ts";
import type { RawBlock } from "./source.ts";
import { compareStored } from "./stored_key.ts";
import type { Leaf, TreeWalk } from "./tree_walk.ts";

/** Which part of the forest a tree is, for totals (01 §12.2). */
export type TreeClass = "fs" | "input" | "log";

export interface StreamTree {
  readonly walk: TreeWalk;
  readonly cls: TreeClass;
  /** Looks at every leaf before its items are merged. */
  onLeaf(leaf: Leaf): void;
}

export interface ItemSink {
  /** A visible item, good during the call. */
  item(b: RawBlock, item: number): void;
  /** A total that exists: its key at byte `item + KEY`. */
  totl(b: RawBlock, item: number, total: bigint, count: bigint): void;
  /** A merge has gone past a key of one of its inputs without bringing it into fs_root. */
  unmerged?(b: RawBlock, item: number): void;
  /** A merge would add a total to fs_root that is part of it already. */
  remerged?(b: RawBlock, item: number): void;
  /** The newest logged version of a key is older than the one in fs_root. */
  stale(b: RawBlock, item: number): void;
}

const SEQ = 40;
const VAL_OFF = 48;
const VAL_LEN = 50;
const FLAGS = 52;

class Cursor {
  leaf: Leaf | null = null;
  #next = 0;
  /** Offset of the current item. */
  item = 0;
  v: DataView = new DataView(new ArrayBuffer(0));

  /** `index`: which of the trees it is. */
  constructor(readonly tree: StreamTree, readonly index: number) {}

  /** Moves to the next item; false at the end. */
  advance(): boolean {
    for (;;) {
      if (this.leaf !== null && this.#next < this.leaf.nr) {
        this.item = this.leaf.order[this.#next++] as number;
        return true;
      }
      this.leaf = this.tree.walk.next();
      if (this.leaf === null) return false;
      this.v = this.leaf.b.v;
      this.#next = 0;
      this.tree.onLeaf(this.leaf);
    }
  }

  get block(): RawBlock {
    return (this.leaf as Leaf).b;
  }
}

/** Whether `a`'s current item is newer than `b`'s. */
function isNewer(a: Cursor, b: Cursor): boolean {
  const aHi = a.v.getUint32(a.item + SEQ + 4, true), bHi = b.v.getUint32(b.item + SEQ + 4, true);
  if (aHi !== bHi) return aHi > bHi;
  return a.v.getUint32(a.item + SEQ, true) > b.v.getUint32(b.item + SEQ, true);
}

/**
 * Merges the trees into `sink`. `merged`, while a merge is running, tells whether it is done with
 * the key at byte `key` of a block, so that fs_root must have what its inputs have.
 */
export function streamItems(
  trees: readonly StreamTree[],
  sink: ItemSink,
  merged: ((v: DataView, key: number) => boolean) | null = null,
): void {
  // By the keys of their current items, equal ones as the trees come.
  const live: Cursor[] = [], same: Cursor[] = [];
  for (const [index, tree] of trees.entries()) {
    const c = new Cursor(tree, index);
    if (c.advance()) insert(live, c);
  }
  while (live.length > 0) {
    const least = live[0] as Cursor;
    const single = live.length === 1 || !isSameKey(least, live[1] as Cursor);
    if (
      single && merged === null && least.v.getUint8(least.item + KEY + 25) !== ZONE_XATTR_TOTL
    ) {
      if (least.v.getUint8(least.item + FLAGS) !== ITEM_FLAG_DELETION) {
        sink.item(least.block, least.item);
      }
      if (!least.advance()) live.shift();
      // Mostly it is still the first.
      else if (live.length > 1 && !comesBefore(least, live[1] as Cursor)) moveBack(live);
      continue;
    }
    same.length = 0;
    same.push(least);
    for (let i = 1; i < live.length && isSameKey(least, live[i] as Cursor); i++) {
      same.push(live[i] as Cursor);
    }
    checkMerged(same, sink, merged);
    resolve(same, sink);
    const rest = live.length - same.length;
    for (let i = 0; i < rest; i++) live[i] = live[i + same.length] as Cursor;
    live.length = rest;
    for (const c of same) if (c.advance()) insert(live, c);
  }
}

const isSameKey = (a: Cursor, b: Cursor): boolean =>
  compareStored(a.v, a.item + KEY, b.v, b.item + KEY) === 0;

/** The first place of `live` from `from` on whose cursor comes after `c`. */
function placeOf(c: Cursor, live: readonly Cursor[], from: number): number {
  let to = live.length;
  while (from < to) {
    const mid = from + to >> 1;
    if (comesBefore(c, live[mid] as Cursor)) to = mid;
    else from = mid + 1;
  }
  return from;
}

function insert(live: Cursor[], c: Cursor): void {
  const place = placeOf(c, live, 0);
  live.push(c);
  for (let i = live.length - 1; i > place; i--) live[i] = live[i - 1] as Cursor;
  live[place] = c;
}

/** The first cursor comes after the second one now. */
function moveBack(live: Cursor[]): void {
  const c = live[0] as Cursor, place = placeOf(c, live, 2) - 1;
  for (let i = 0; i < place; i++) live[i] = live[i + 1] as Cursor;
  live[place] = c;
}

function comesBefore(a: Cursor, b: Cursor): boolean {
  const order = compareStored(a.v, a.item + KEY, b.v, b.item + KEY);
  return order < 0 || order === 0 && a.index < b.index;
}

/** What a merge has brought into fs_root must be there, what one has yet to add must not. */
function checkMerged(
  same: readonly Cursor[],
  sink: ItemSink,
  merged: ((v: DataView, key: number) => boolean) | null,
): void {
  let input: Cursor | null = null, fs: Cursor | null = null;
  for (const c of same) {
    if (c.tree.cls === "fs") fs = c;
    else if (c.tree.cls === "input" && (input === null || isNewer(c, input))) input = c;
  }
  if (input === null) return;
  if (fs !== null && !isNewer(input, fs)) {
    const isTotal = input.v.getUint8(input.item + KEY + 25) === ZONE_XATTR_TOTL;
    const done = merged !== null && merged(input.v, input.item + KEY);
    if (isTotal && !done) sink.remerged?.(input.block, input.item);
    return;
  }
  if (merged === null) return;
  // Nothing of a deletion is left, and a total that became nothing is gone.
  const leavesNothing = input.v.getUint8(input.item + FLAGS) === ITEM_FLAG_DELETION ||
    input.v.getUint8(input.item + KEY + 25) === ZONE_XATTR_TOTL;
  if (fs === null && leavesNothing) return;
  if (merged(input.v, input.item + KEY)) sink.unmerged?.(input.block, input.item);
}

function resolve(same: readonly Cursor[], sink: ItemSink): void {
  let newest = same[0] as Cursor, fs: Cursor | null = null, logged: Cursor | null = null;
  for (const c of same) {
    if (c !== newest && isNewer(c, newest)) newest = c;
    if (c.tree.cls === "fs") fs = c;
    else if (logged === null || isNewer(c, logged)) logged = c;
  }
  if (fs !== null && logged !== null && isNewer(fs, logged)) sink.stale(fs.block, fs.item);
  if (newest.v.getUint8(newest.item + KEY + 25) === ZONE_XATTR_TOTL) {
    resolveTotal(same, sink);
    return;
  }
  if (newest.v.getUint8(newest.item + FLAGS) === ITEM_FLAG_DELETION) return;
  sink.item(newest.block, newest.item);
}

/** The four steps of 01 §12.2. */
function resolveTotal(same: readonly Cursor[], sink: ItemSink): void {
  let total = 0n, count = 0n, fsSeq = -1n;
  let inTotal = 0n, inCount = 0n, inSeq = 0n, hasInput = false;
  for (const c of same) {
    const v = c.v, item = c.item;
    if (v.getUint16(item + VAL_LEN, true) !== 16) continue; // Reported with its tree.
    const off = v.getUint16(item + VAL_OFF, true), seq = v.getBigUint64(item + SEQ, true);
    const t = v.getBigUint64(off, true), n = v.getBigInt64(off + 8, true);
    if (c.tree.cls === "input") {
      inTotal += t;
      inCount += n;
      if (seq > inSeq) inSeq = seq;
      hasInput = true;
    } else {
      if (c.tree.cls === "fs") fsSeq = seq;
      total += t;
      count += n;
    }
  }
  const addInputs = fsSeq >= 0n ? inSeq > fsSeq : BigInt.asIntN(64, inCount) > 0n;
  if (hasInput && addInputs) {
    total += inTotal;
    count += inCount;
  }
  total = BigInt.asUintN(64, total);
  count = BigInt.asIntN(64, count);
  if (total === 0n && count === 0n) return;
  const c = same[0] as Cursor;
  sink.totl(c.block, c.item, total, count);
}

export const keyOf = (b: BlockBytes, item: number): Key => Key.read(b.v, item + KEY);
