/**
 * Bulk insertion into log trees (03 §6.7), the only way items get there: runs of items that belong to
 * one leaf are merged into it at once where they are many against what it holds, and inserted one
 * by one where they are few.
 *
 * A deletion item hides what other trees may hold of its key. Where it is known that there is no such
 * item (`meets`), the stored one is removed instead, and leaves that became small are joined. Only
 * the last item of a leaf stays as a deletion, so that no leaf is empty, and no tree beside a bloom
 * filter (03 T3).
 */

import {
  compareItem,
  findLeafItem,
  hasRoom,
  insertItem,
  itemBytes,
  itemFlags,
  itemVal,
  nrItems,
  removeItem,
  setItemVersion,
  totalItemBytes,
  updateItem,
} from "../format/btree_block.ts";
import { type Meets, MERGE_BYTES } from "../format/btree_fill.ts";
import type { BtreeRoot } from "../format/btree.ts";
import { BTREE_JOIN_LOW, ZONE_XATTR_TOTL } from "../format/constants.ts";
import type { Key } from "../format/key.ts";
import type { Block } from "./block_cache.ts";
import {
  adopt,
  BULK,
  DELETE,
  type DirtyLeaf,
  FILLER,
  INSERT,
  newSibling,
  type TreeItem,
  walkDirty,
  type WriteTree,
} from "./btree.ts";
import { AssertionError, CorruptError } from "./errors.ts";

/** A run that is not shorter than this part of a leaf's items is merged, not inserted. */
const DENSE = 4;

/** How far a bulk insertion got: the number of items that are in the tree. */
export interface InsertProgress {
  done: number;
}

/**
 * Puts items, strictly ascending by key, into a log tree (03 §6.7) with their seq and flags. Where
 * the key exists value and version are replaced, but totl deltas are added to what is stored; a
 * zero result stays. When it throws, calling it again with the same `progress` continues after the
 * last item applied, so that no delta counts twice (T4).
 */
export function insertList<T extends TreeItem>(
  t: WriteTree,
  root: BtreeRoot,
  items: readonly T[],
  progress: InsertProgress = { done: 0 },
  meets: Meets<T> = () => false,
): void {
  while (progress.done < items.length) {
    const first = items[progress.done]!;
    const path = walkDirty(t, root, first.key, BULK, 0);
    let { leaf } = path;
    const fill = totalItemBytes(leaf);
    const run = runLength(path, items, progress.done);
    if (run * DENSE >= nrItems(leaf) && !isTotal(first)) {
      mergeRun(t, root, path, items, progress.done, progress.done + run, meets);
      progress.done += run;
    } else if (!hasRoom(leaf, first.val.length)) {
      leaf = walkDirty(t, root, first.key, INSERT, first.val.length).leaf;
      putLogItem(leaf, first, meets);
      progress.done++;
      continue;
    } else {
      for (let n = 0; n < run; n++) {
        const item = items[progress.done]!;
        if (!hasRoom(leaf, item.val.length)) break;
        putLogItem(leaf, item, meets);
        progress.done++;
      }
    }
    const shrunk = totalItemBytes(leaf) < Math.min(fill, BTREE_JOIN_LOW);
    if (shrunk && path.parent !== null) walkDirty(t, root, first.key, DELETE, 0);
  }
}

/** How many of the items from `from` on belong to the leaf and can be merged into it at once. */
function runLength(path: DirtyLeaf, items: readonly TreeItem[], from: number): number {
  const { leaf, parent, parentItem } = path;
  let bytes = totalItemBytes(leaf);
  let i = from;
  for (; i < items.length; i++) {
    const item = items[i]!;
    bytes += itemBytes(item.val.length);
    if (bytes > MERGE_BYTES) break;
    if (i > from && items[i - 1]!.key.compare(item.key) >= 0) {
      throw unsorted(items[i - 1]!.key, item.key);
    }
    if (parent !== null && compareItem(parent, parentItem, item.key) < 0) break;
    // Totals are added, one by one, not replaced.
    if (isTotal(item) !== isTotal(items[from]!)) break;
  }
  // A full leaf takes at least one, by a walk that splits it.
  return Math.max(1, i - from);
}

/** Merges items[from … to) into a leaf whose parent has room for another child. */
function mergeRun<T extends TreeItem>(
  t: WriteTree,
  root: BtreeRoot,
  path: DirtyLeaf,
  items: readonly T[],
  from: number,
  to: number,
  meets: Meets<T>,
): void {
  const { leaf } = path;
  const left = FILLER.planMerge(leaf, items, from, to, meets)
    ? newSibling(t, root, path.parent, leaf)
    : null;
  FILLER.apply(leaf, left === null ? null : left.block);
  if (left !== null) adopt(left);
}

const isTotal = (item: TreeItem): boolean => item.key.zone === ZONE_XATTR_TOTL;

function unsorted(a: Key, b: Key): AssertionError {
  return new AssertionError(`items for a log tree are not in order: ${a}, ${b}`);
}

function putLogItem<T extends TreeItem>(leaf: Block, item: T, meets: Meets<T>): void {
  const found = findLeafItem(leaf, item.key);
  if (found !== 0 || item.flags !== 0) {
    const leavesSome = nrItems(leaf) > (found === 0 ? 0 : 1);
    if (meets(item, found === 0 ? -1 : itemFlags(leaf, found)) && leavesSome) {
      if (found !== 0) removeItem(leaf, found);
      return;
    }
  }
  if (found === 0) {
    insertItem(leaf, item.key, item.seq, item.flags, item.val);
    return;
  }
  if (isTotal(item)) addDelta(itemVal(leaf, found), item.val, item.key);
  else updateItem(leaf, found, item.val);
  setItemVersion(leaf, found, item.seq, item.flags);
}

/** Adds a totl delta (total, count) to a stored one, modulo 2^64 each (03 §6.8). */
export function addDelta(stored: Uint8Array, delta: Uint8Array, key: Key): void {
  if (stored.length !== 16 || delta.length !== 16) {
    throw new CorruptError(`totl item ${key} has ${stored.length} and ${delta.length} bytes`);
  }
  const to = new DataView(stored.buffer, stored.byteOffset, 16);
  const from = new DataView(delta.buffer, delta.byteOffset, 16);
  for (let o = 0; o < 16; o += 8) {
    to.setBigUint64(o, to.getBigUint64(o, true) + from.getBigUint64(o, true), true);
  }
}
