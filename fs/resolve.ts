/**
 * The items of a volume as they are now: of fs_root and all log trees the newest version of each
 * key, deletions taken out, totals summed (01 §12.2). For readers of a stable super without
 * cluster locks: the library and checkers. The item cache has its own way (fs/forest.ts).
 *
 * Memory: one leaf of each tree at a time.
 */

import { BtreeRoot } from "../format/btree.ts";
import { ITEM_FLAG_DELETION, ZONE_LOG_MERGE_STATUS, ZONE_XATTR_TOTL } from "../format/constants.ts";
import { XattrTotlVal } from "../format/items.ts";
import { Key } from "../format/key.ts";
import { LogMergeStatus } from "../format/merge.ts";
import type { SuperBlock } from "../format/super.ts";
import type { BlockCache } from "./block_cache.ts";
import { type KeyRange, lookup, readItems, type Tree, type TreeItem } from "./btree.ts";
import { CorruptError } from "./errors.ts";
import { forEachLogTree, mergeVersions } from "./forest.ts";

/** Where a version of an item stands, which decides how totals add up (01 §12.2). */
type Source = "fs" | "input" | "log";

interface SourceTree {
  source: Source;
  root: BtreeRoot;
}

interface Total {
  key: Key;
  seq: number;
  fs: XattrTotlVal | null;
  fsSeq: number;
  input: XattrTotlVal;
  inputSeq: number;
  log: XattrTotlVal;
}

/** The trees that hold items, fs_root first. Roots are copies: good for the super's lifetime. */
export class ItemTrees {
  readonly #t: Tree;
  readonly #trees: SourceTree[];

  /** `logTrees`: item trees to use instead of those that logs_root names; totals are left out. */
  constructor(cache: BlockCache, superBlock: SuperBlock, logTrees?: readonly BtreeRoot[]) {
    this.#t = { cache };
    this.#trees = [{ source: "fs", root: superBlock.fsRoot }];
    if (logTrees !== undefined) {
      for (const root of logTrees) this.#trees.push({ source: "log", root });
      return;
    }
    const mergeSeq = this.#mergeSeq(superBlock.logMerge);
    forEachLogTree(this.#t, superBlock.logsRoot, (lt) => {
      if (lt.itemRoot.height === 0) return;
      const isInput = lt.isFinalized && (mergeSeq === 0 || lt.finalizeSeq < mergeSeq);
      const root = BtreeRoot.alloc();
      root.copyFrom(lt.itemRoot);
      this.#trees.push({ source: isInput ? "input" : "log", root });
    });
  }

  #mergeSeq(logMerge: BtreeRoot): number {
    const item = lookup(this.#t, logMerge, Key.of(ZONE_LOG_MERGE_STATUS, 0, 0));
    if (item === null) return 0;
    if (item.val.length !== LogMergeStatus.SIZE) {
      throw new CorruptError(`merge status item of ${item.val.length} bytes`);
    }
    return LogMergeStatus.at(item.val).seq;
  }

  /** The current items of [first, last], inclusive, in key order, values in memory of their own. */
  *items(first: Key, last: Key): Generator<TreeItem, void, undefined> {
    let key = first;
    while (key.compare(last) <= 0) {
      const range: KeyRange = { start: key, end: last };
      const items = this.#read(key, range);
      yield* items;
      if (range.end.compare(last) >= 0) return;
      key = range.end.inc();
    }
  }

  /** The item with exactly this key, or null. */
  item(key: Key): TreeItem | null {
    const range: KeyRange = { start: key, end: key };
    return this.#read(key, range)[0] ?? null;
  }

  /** Reads the leaves that cover `key`; shrinks the range to what all of them cover. */
  #read(key: Key, range: KeyRange): TreeItem[] {
    let items: TreeItem[] = [];
    const totals = new Map<string, Total>();
    for (const tree of this.#trees) {
      const leaf: TreeItem[] = [];
      readItems(this.#t, tree.root, key, range, (item) => {
        if (item.key.zone === ZONE_XATTR_TOTL) addTotal(totals, tree.source, item);
        else leaf.push({ ...item, val: item.val.slice() });
      });
      items = mergeVersions(items, leaf);
    }
    // Later leaves may have shrunk the range after earlier items were collected.
    const { start, end } = range;
    const inside = (k: Key) => k.compare(start) >= 0 && k.compare(end) <= 0;
    items = items.filter((i) => (i.flags & ITEM_FLAG_DELETION) === 0 && inside(i.key));
    if (totals.size === 0) return items;
    for (const total of totals.values()) {
      const item = inside(total.key) ? resolveTotal(total) : null;
      if (item !== null) items.push(item);
    }
    return items.sort((a, b) => a.key.compare(b.key));
  }
}

function addTotal(totals: Map<string, Total>, source: Source, item: TreeItem): void {
  if (item.val.length !== XattrTotlVal.SIZE) {
    throw new CorruptError(`total ${item.key} of ${item.val.length} bytes`);
  }
  const name = item.key.toString();
  let t = totals.get(name);
  if (t === undefined) {
    const zero = () => XattrTotlVal.alloc();
    t = { key: item.key, seq: 0, fs: null, fsSeq: 0, input: zero(), inputSeq: 0, log: zero() };
    totals.set(name, t);
  }
  t.seq = Math.max(t.seq, item.seq);
  const val = XattrTotlVal.at(item.val.slice());
  if (source === "fs") {
    t.fs = val;
    t.fsSeq = item.seq;
  } else if (source === "input") {
    add(t.input, val);
    t.inputSeq = Math.max(t.inputSeq, item.seq);
  } else {
    add(t.log, val);
  }
}

function add(to: XattrTotlVal, from: XattrTotlVal): void {
  to.total = BigInt.asUintN(64, to.total + from.total);
  to.count = BigInt.asIntN(64, to.count + from.count);
}

function resolveTotal(t: Total): TreeItem | null {
  const sum = XattrTotlVal.alloc();
  if (t.fs !== null) add(sum, t.fs);
  const countsInput = t.fs !== null ? t.inputSeq > t.fsSeq : t.input.count > 0n;
  if (countsInput) add(sum, t.input);
  add(sum, t.log);
  if (sum.total === 0n && sum.count === 0n) return null;
  return { key: t.key, seq: t.seq, flags: 0, val: sum.bytes };
}
