/**
 * Changes of filesystem items, made as one more finalized log tree.
 *
 * The items of a volume are spread over fs_root and log trees, and the newest version of each key
 * counts (01 §12.2). So a repair does not look for the tree in which a wrong item stands: it writes
 * right versions, and deletion items, into a log tree of its own, of a mount that never was, which
 * the next log merge takes into fs_root like any other. Why that is sound:
 *
 * - The items' seq is greater than every seq on the volume (the super block's, all max_item_seq,
 *   finalize_seq and the seq of a running merge), and the super block's seq is raised to it: they
 *   win now, and lose against whatever is written later (03 §7 Q1).
 * - All other log trees are finalized already, so there is no active tree with older versions
 *   (03 §16.1), and any later one gets greater seqs (Q3). In a merge that takes this tree as an input
 *   all others are inputs as well, or have been merged before; among inputs the greatest seq wins
 *   (03 §6.10).
 * - While a merge is running (a STATUS item), finalize_seq is not below its seq, so this tree is no
 *   input of it; readers look at it over fs_root until a later merge takes it.
 * - Totals add up instead of replacing each other. Without a running merge all log trees are inputs,
 *   and readers add them all as this tree's seq is beyond that of fs_root's item; with one, this tree
 *   is none and is always added (01 §12.2 steps 2 and 3). The delta is made accordingly.
 * - Bloom bits are set for the lock of each item, and nr is 1 under a fresh rid that owns nothing.
 */

import { BloomBlock } from "../../../format/bloom.ts";
import {
  ITEM_FLAG_DELETION,
  LOG_TREES_FINALIZED,
  MAGIC_BLOOM,
  TYPE_INODE_INDEX_META_SEQ,
  ZONE_INODE_INDEX,
  ZONE_XATTR_TOTL,
} from "../../../format/constants.ts";
import { FormatError } from "../../../format/bytes.ts";
import { Inode, inodeKey, xattrTotlKey, XattrTotlVal } from "../../../format/items.ts";
import { Key } from "../../../format/key.ts";
import { lockRangeOfItem } from "../../../format/lock_ranges.ts";
import { LogTrees } from "../../../format/log_trees.ts";
import { BlockWriter } from "../../block_cache.ts";
import { forEachItem, lookup, type TreeItem } from "../../btree.ts";
import { assert } from "../../errors.ts";
import { ItemTrees } from "../../resolve.ts";
import { ChangeSet } from "./change_set.ts";
import type { Round } from "./round.ts";
import type { ServerTrees } from "./server_trees.ts";
import { DIRTY_BLOCKS, TreeBuilder } from "./tree_builder.ts";

const EMPTY = new Uint8Array(0);
/** What an inode that is being changed takes, with its index items later on. */
const EDIT_BYTES = 1024;
/** Inodes that are being changed at a time. */
const MOST_EDITS = 10_000;
/** Of the memory that a repair has, what the changes of one round may take. */
const MEMORY_SHARE = 1 / 4;
/** Least memory for changes, so that every round changes something. */
const LEAST_BYTES = 1 << 18;

interface InodeEdit {
  /** meta_seq of the stored inode, null for one that is new. */
  readonly oldMetaSeq: bigint | null;
  readonly inode: Inode;
}

export class ItemPatch {
  readonly #changes = new ChangeSet();
  readonly #inodes = new Map<number, InodeEdit>();
  readonly #trees: ItemTrees;
  /** Inodes more, or less, than the volume counts. */
  inodeDelta = 0;
  /** Version of everything that is written, and meta_seq of inodes that change. */
  readonly seq: number;

  constructor(private readonly round: Round) {
    this.#trees = new ItemTrees(round.cache, round.cx.sb);
    this.seq = round.nextSeq();
  }

  /** No more changes should be made in this round: the rest waits for the next one. */
  get isFull(): boolean {
    const most = Math.max(LEAST_BYTES, this.round.cx.memory * MEMORY_SHARE);
    return this.#changes.bytes + this.#inodes.size * EDIT_BYTES >= most;
  }

  /**
   * Between two problems, when nobody holds an inode that `inode` gave out: such inodes become changes
   * like others if they are many.
   */
  settle(): void {
    if (this.#inodes.size >= MOST_EDITS) this.#settleInodes();
  }

  /** A number for a new inode: the counter may have been damaged, and then begins anew. */
  newIno(): number {
    while (this.peekInode(this.round.sb.nextIno) !== null) this.round.sb.nextIno++;
    return this.round.sb.nextIno++;
  }

  /** The item as it is, changes of this repair included; null if there is none. Throws FsError. */
  get(key: Key): Uint8Array | null {
    const change = this.#changes.get(key);
    if (change !== undefined) return change === null ? null : change.slice();
    return this.#trees.item(key)?.val ?? null;
  }

  /** The items of [first, last], which share zone and first field, as they are. Throws FsError. */
  range(first: Key, last: Key): { key: Key; val: Uint8Array }[] {
    return [...this.each(first, last)];
  }

  /** The first item of [first, last], or null. Throws FsError. */
  first(first: Key, last: Key): { key: Key; val: Uint8Array } | null {
    return this.each(first, last).next().value ?? null;
  }

  /** What `range` returns, one by one; nothing may be changed meanwhile. Throws FsError. */
  *each(first: Key, last: Key): Generator<{ key: Key; val: Uint8Array }, undefined> {
    const changes = this.#changes.range(first, last);
    let change = changes.next();
    const changedUpTo = function* (key: Key | null) {
      while (!change.done && (key === null || change.value.key.compare(key) < 0)) {
        const { key: changed, val } = change.value;
        if (val !== null) yield { key: changed, val: val.slice() };
        change = changes.next();
      }
    };
    for (const item of this.#trees.items(first, last)) {
      yield* changedUpTo(item.key);
      if (!change.done && change.value.key.equals(item.key)) continue;
      yield { key: item.key, val: item.val };
    }
    yield* changedUpTo(null);
    return undefined;
  }

  set(key: Key, val: Uint8Array = EMPTY): void {
    assert(key.zone !== ZONE_XATTR_TOTL, "totals are changed by deltas");
    this.#put(key, val);
  }

  remove(key: Key): void {
    this.#put(key, null);
  }

  #put(key: Key, val: Uint8Array | null): void {
    if (lockOf(key) !== null) this.#changes.put(key, val);
  }

  /**
   * An inode to be changed in place; null if there is none, or its item has no usable length. It is
   * written, and indexed anew, with the rest.
   */
  inode(ino: number): Inode | null {
    const edit = this.#inodes.get(ino);
    if (edit !== undefined) return edit.inode;
    const inode = this.peekInode(ino);
    if (inode === null) return null;
    const oldMetaSeq = metaSeqOf(inode);
    this.#inodes.set(ino, { oldMetaSeq, inode });
    return inode;
  }

  /** A copy of an inode as it is, of full size; null if there is none. */
  peekInode(ino: number): Inode | null {
    const edit = this.#inodes.get(ino);
    if (edit !== undefined) return edit.inode;
    const val = this.get(inodeKey(ino));
    if (val === null || val.length < Inode.V1_SIZE) return null;
    const bytes = new Uint8Array(Inode.sizeOf(this.round.cx.fmtVers));
    bytes.set(val.subarray(0, bytes.length));
    return new Inode(new DataView(bytes.buffer));
  }

  /** A zeroed inode that did not exist. */
  newInode(ino: number): Inode {
    const bytes = new Uint8Array(Inode.sizeOf(this.round.cx.fmtVers));
    const inode = new Inode(new DataView(bytes.buffer));
    this.#inodes.set(ino, { oldMetaSeq: null, inode });
    return inode;
  }

  /** The inode's item and its index items go. */
  removeInode(ino: number): void {
    const inode = this.peekInode(ino);
    this.#inodes.delete(ino);
    this.remove(inodeKey(ino));
    if (inode !== null) {
      this.remove(indexKey(metaSeqOf(inode), ino));
    }
  }

  /** Makes the total a.b.c be (total, count). */
  setTotal(a: bigint, b: bigint, c: bigint, total: bigint, count: bigint): void {
    const key = xattrTotlKey(a, b, c);
    const stored = this.#storedTotal(key);
    const delta = XattrTotlVal.alloc();
    delta.total = BigInt.asUintN(64, total - stored.total);
    delta.count = BigInt.asIntN(64, count - stored.count);
    this.#put(key, delta.bytes);
  }

  /**
   * Before a merge is abandoned: totals of which it has put a part into fs_root already are made to
   * come out right when their log trees are added once more.
   */
  settleTotals(): void {
    const { items, cache } = this.round;
    const from = Key.of(ZONE_XATTR_TOTL, 0n, 0);
    for (const { lt } of items.logTrees) {
      if (lt.itemRoot.height === 0) continue;
      const keys: Key[] = [];
      forEachItem({ cache }, lt.itemRoot, from, ({ key }) => {
        if (key.zone !== ZONE_XATTR_TOTL) return false;
        keys.push(key);
        return true;
      });
      for (const key of keys) this.confirmTotal(key);
    }
  }

  /** The total stays what readers see, in a version newer than all; one that is set already stays so. */
  confirmTotal(key: Key): void {
    if (this.#changes.get(key) !== undefined) return;
    const val = this.#trees.item(key)?.val;
    const now = val === undefined ? XattrTotlVal.alloc() : XattrTotlVal.at(val);
    this.setTotal(key.firstBig, key.secondBig, key.thirdBig, now.total, now.count);
  }

  /** What a delta of this log tree will be added to. */
  #storedTotal(key: Key): { total: bigint; count: bigint } {
    const { items, cache, cx } = this.round;
    if (items.merge.status !== null && !this.round.mergeAbandoned) {
      const val = this.#trees.item(key)?.val;
      if (val === undefined) return { total: 0n, count: 0n };
      const now = XattrTotlVal.at(val);
      return { total: now.total, count: now.count };
    }
    let total = 0n, count = 0n;
    const add = (item: TreeItem | null) => {
      if (item === null || item.val.length !== XattrTotlVal.SIZE) return;
      const val = XattrTotlVal.at(item.val);
      total += val.total;
      count += val.count;
    };
    add(lookup({ cache }, cx.sb.fsRoot, key));
    for (const { lt } of items.logTrees) {
      if (lt.itemRoot.height > 0) add(lookup({ cache }, lt.itemRoot, key));
    }
    return { total, count };
  }

  /** Writes the log tree. Call it once, last. */
  write(servers: ServerTrees): void {
    const { round } = this;
    this.#settleInodes();
    const { count } = this.#changes;
    if (count === 0 && this.inodeDelta === 0) return;
    const lt = LogTrees.alloc();
    // Nothing refers to these blocks before the round is committed: they need not wait in memory.
    const writer = new BlockWriter(round.cache);
    const builder = new TreeBuilder({ ...round.t, writer }, DIRTY_BLOCKS);
    const bloom = count === 0
      ? null
      : new BloomBlock(round.writer.dirty(lt.bloomRef, MAGIC_BLOOM, round.alloc).v, 0);
    let lock: Key | null = null;
    for (const { key, val } of this.#changes.range(Key.ZEROS, Key.ONES)) {
      const start = lockOf(key);
      assert(start !== null, `no lock covers an item ${key}`);
      if (lock === null || !lock.equals(start)) bloom?.setKey(start);
      lock = start;
      builder.add(key, val ?? EMPTY, this.seq, val === null ? ITEM_FLAG_DELETION : 0);
    }
    builder.finish(lt.itemRoot);
    writer.write();
    lt.inodeCountDelta = this.inodeDelta;
    lt.getTransSeq = lt.commitTransSeq = lt.maxItemSeq = this.seq;
    lt.finalizeSeq = round.nextSeq();
    lt.flags = LOG_TREES_FINALIZED;
    lt.nr = 1;
    do lt.rid = round.options.random.u64(); while (
      lt.rid === 0n || lt.rid === 0xffff_ffff_ffff_ffffn ||
      servers.logTrees.some((other) => other.rid === lt.rid)
    );
    servers.addLogTree(lt);
  }

  /** Changed inodes get a new meta_seq, so that whoever follows the index sees that they changed. */
  #settleInodes(): void {
    for (const [ino, { oldMetaSeq, inode }] of this.#inodes) {
      if (oldMetaSeq !== null) this.remove(indexKey(oldMetaSeq, ino));
      inode.metaSeq = this.seq;
      this.set(indexKey(BigInt(this.seq), ino));
      this.set(inodeKey(ino), inode.bytes);
    }
    this.#inodes.clear();
  }
}

/**
 * Start of the lock that covers an item; null for keys that no item can have, which only mending the
 * tree itself takes away.
 */
export function lockOf(key: Key): Key | null {
  try {
    return lockRangeOfItem(key)?.start ?? null;
  } catch (e) {
    if (e instanceof FormatError) return null;
    throw e;
  }
}

const metaSeqOf = (inode: Inode): bigint => inode.v.getBigUint64(inode.o + 8, true);
const indexKey = (seq: bigint, ino: number): Key =>
  Key.of(ZONE_INODE_INDEX, 0, TYPE_INODE_INDEX_META_SEQ, seq, ino);

/** A key as reports print it; null if the text is none. */
export function parseKey(text: string): Key | null {
  const parts = text.split(".");
  if (parts.length !== 6 || parts.some((p) => !/^\d+$/.test(p))) return null;
  const [zone, first, type, second, third, fourth] = parts.map(BigInt) as [
    bigint,
    bigint,
    bigint,
    bigint,
    bigint,
    bigint,
  ];
  return Key.of(Number(zone), first, Number(type), second, third, Number(fourth));
}
