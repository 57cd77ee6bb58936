/**
 * The resolved items of a volume as one stream in key order (01 §12.2): a k-way merge of the leaves
 * of fs_root and of all log item trees. Of each key the version with the greatest seq is handed on,
 * unless it is a deletion; totals are summed by the rules of 03 §22.
 *
 * Guarantees: each key at most once, ascending as far as the trees are; no allocation per item.
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
  /** The newest logged version of a key is older than the one in fs_root. */
  stale(b: RawBlock, item: number): void;
}

const SEQ = 40;
const VAL_OFF = 48;
const VAL_LEN = 50;
const FLAGS = 52;

class Cursor {
  leaf: Leaf | null = null;
  index = 0;
  /** Offset of the current item. */
  item = 0;
  v: DataView = new DataView(new ArrayBuffer(0));

  constructor(readonly tree: StreamTree) {}

  /** Moves to the next item; false at the end. */
  advance(): boolean {
    for (;;) {
      if (this.leaf !== null && this.index < this.leaf.nr) {
        this.item = this.leaf.order[this.index++] as number;
        return true;
      }
      this.leaf = this.tree.walk.next();
      if (this.leaf === null) return false;
      this.v = this.leaf.b.v;
      this.index = 0;
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
  const live: Cursor[] = [];
  for (const tree of trees) {
    const c = new Cursor(tree);
    if (c.advance()) live.push(c);
  }
  const same: Cursor[] = [];
  while (live.length > 0) {
    let least = live[0] as Cursor;
    if (
      live.length === 1 && merged === null &&
      least.v.getUint8(least.item + KEY + 25) !== ZONE_XATTR_TOTL
    ) {
      if (least.v.getUint8(least.item + FLAGS) !== ITEM_FLAG_DELETION) {
        sink.item(least.block, least.item);
      }
      if (!least.advance()) live.length = 0;
      continue;
    }
    same.length = 0;
    same.push(least);
    for (let i = 1; i < live.length; i++) {
      const c = live[i] as Cursor;
      const order = compareStored(c.v, c.item + KEY, least.v, least.item + KEY);
      if (order > 0) continue;
      if (order < 0) {
        same.length = 0;
        least = c;
      }
      same.push(c);
    }
    if (merged !== null) checkMerged(same, sink, merged);
    resolve(same, sink);
    for (const c of same) {
      if (!c.advance()) live.splice(live.indexOf(c), 1);
    }
  }
}

function checkMerged(
  same: readonly Cursor[],
  sink: ItemSink,
  merged: (v: DataView, key: number) => boolean,
): void {
  let input: Cursor | null = null, fs: Cursor | null = null;
  for (const c of same) {
    if (c.tree.cls === "fs") fs = c;
    else if (c.tree.cls === "input" && (input === null || isNewer(c, input))) input = c;
  }
  if (input === null || fs !== null && !isNewer(input, fs)) return;
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
