/**
 * Reading the forest (03 §10): the items of a filesystem are the newest versions among fs_root and
 * the item trees of all log_trees items. Here is how they are merged for the item cache, and what
 * else is asked of all log trees.
 *
 * Roots come from a stable super and may be outdated at any moment: every function here throws
 * StaleError then, and the caller asks for new roots, a bounded number of times (03 §3.5, T1). An
 * empty log tree means "no items", also where its bloom block matches (T3).
 */

import type { BtreeRoot } from "../format/btree.ts";
import { ITEM_FLAG_DELETION, ZONE_LOG_TREES, ZONE_XATTR_TOTL } from "../format/constants.ts";
import { Key } from "../format/key.ts";
import { LogTrees } from "../format/log_trees.ts";
import { bloomBits, testBloom } from "./bloom.ts";
import type { BlockCache } from "./block_cache.ts";
import { forEachItem, type KeyRange, next, readItems, type Tree, type TreeItem } from "./btree.ts";
import { assert, CorruptError } from "./errors.ts";

export interface ForestRoots {
  readonly fsRoot: BtreeRoot;
  readonly logsRoot: BtreeRoot;
}

/** The current items of [start, end], in key order, their values in memory of their own. */
export interface ForestRead {
  readonly start: Key;
  readonly end: Key;
  readonly items: TreeItem[];
}

/**
 * Reads the leaves that cover `key`, within the range of a lock whose bloom bits are those of
 * `bloomKey` (its start), and merges them. The result covers `key` and says how far around it.
 */
export function readForest(
  cache: BlockCache,
  roots: ForestRoots,
  key: Key,
  lock: Readonly<KeyRange>,
  bloomKey: Key,
): ForestRead {
  assert(key.zone !== ZONE_XATTR_TOTL, "totals are not read through the item cache");
  const t: Tree = { cache };
  const bits = bloomBits(bloomKey);
  const range: KeyRange = { start: lock.start, end: lock.end };
  const readLeaf = (root: BtreeRoot): TreeItem[] => {
    const items: TreeItem[] = [];
    readItems(t, root, key, range, (item) => {
      items.push({ key: item.key, seq: item.seq, flags: item.flags, val: item.val.slice() });
    });
    return items;
  };

  let items = readLeaf(roots.fsRoot);
  forEachLogTree(t, roots.logsRoot, (lt) => {
    if (testBloom(cache, lt.bloomRef, bits)) items = mergeVersions(items, readLeaf(lt.itemRoot));
  });
  // later leaves may have shrunk the range after earlier items were collected
  const { start, end } = range;
  const current = items.filter((item) =>
    (item.flags & ITEM_FLAG_DELETION) === 0 &&
    item.key.compare(start) >= 0 && item.key.compare(end) <= 0
  );
  return { start, end, items: current };
}

/** Merges two lists in key order; of one key the greater seq stays, of equal ones the first. */
export function mergeVersions(a: TreeItem[], b: TreeItem[]): TreeItem[] {
  if (b.length === 0) return a;
  if (a.length === 0) return b;
  const merged: TreeItem[] = [];
  let i = 0, j = 0;
  while (i < a.length && j < b.length) {
    const x = a[i]!, y = b[j]!;
    const order = x.key.compare(y.key);
    if (order < 0) {
      merged.push(x);
      i++;
    } else if (order > 0) {
      merged.push(y);
      j++;
    } else {
      merged.push(y.seq > x.seq ? y : x);
      i++;
      j++;
    }
  }
  while (i < a.length) merged.push(a[i++]!);
  while (j < b.length) merged.push(b[j++]!);
  return merged;
}

/**
 * The least key ≥ `key` of any version in any tree, deletion items included; null if there is none
 * (03 §10.4). Only a hint where to look next under a lock.
 */
export function nextKeyHint(cache: BlockCache, roots: ForestRoots, key: Key): Key | null {
  const t: Tree = { cache };
  let least = next(t, roots.fsRoot, key)?.key ?? null;
  forEachLogTree(t, roots.logsRoot, (lt) => {
    const found = next(t, lt.itemRoot, key)?.key;
    if (found !== undefined && (least === null || found.compare(least) < 0)) least = found;
  });
  return least;
}

/**
 * Visits the log_trees items in key order until `visit` returns false. The view is a window: good
 * until the logs tree changes.
 */
export function forEachLogTree(
  t: Tree,
  logsRoot: BtreeRoot,
  visit: (lt: LogTrees, key: Key) => boolean | void,
): void {
  forEachItem(t, logsRoot, Key.ZEROS, (item) => {
    if (item.key.zone !== ZONE_LOG_TREES || item.val.length !== LogTrees.SIZE) {
      throw new CorruptError(`logs_root item ${item.key} has ${item.val.length} bytes`);
    }
    return visit(LogTrees.at(item.val), item.key);
  });
}

/** Inodes of the volume (03 §10.5): the super's count and the log trees' deltas. */
export function inodeCount(t: Tree, superCount: number, logsRoot: BtreeRoot): number {
  let count = superCount;
  forEachLogTree(t, logsRoot, (lt) => {
    count += lt.inodeCountDelta;
  });
  return count;
}
