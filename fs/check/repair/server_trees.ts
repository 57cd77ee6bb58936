/**
 * The small trees of the server (01 §13): taking back what mounts that are gone left behind
 * (03 §23), putting log trees in order, and writing the trees anew from the items that could be
 * read.
 *
 * Recovery here needs no allocator: all free space is rebuilt from references, so a log tree, a
 * compaction or a merge request only has to let go of its lists and trees. What a mount committed
 * stays in its item tree, which becomes finalized; what it had not committed is gone, as after any
 * crash (03 §24).
 */

import { BloomBlock } from "../../../format/bloom.ts";
import { BlockRef } from "../../../format/block.ts";
import type { AllocListHead } from "../../../format/alloc.ts";
import type { BtreeRoot } from "../../../format/btree.ts";
import { LOG_TREES_FINALIZED, MAGIC_BLOOM } from "../../../format/constants.ts";
import { Key } from "../../../format/key.ts";
import { LogTrees, logTreesKey } from "../../../format/log_trees.ts";
import {
  LOG_MERGE_STATUS_KEY,
  type LogMergeComplete,
  logMergeCompleteKey,
  type LogMergeFreeing,
  logMergeFreeingKey,
  LogMergeRange,
  logMergeRangeKey,
  logMergeRequestKey,
} from "../../../format/merge.ts";
import {
  srchBlocksKey,
  type SrchCompact,
  SrchFile,
  srchLogKey,
  srchPendingKey,
} from "../../../format/srch.ts";
import { forEachItem } from "../../btree.ts";
import { FsError } from "../../errors.ts";
import { type ServerTree } from "../names.ts";
import type { LogTree } from "../pass_roots.ts";
import { refBlkno } from "../raw.ts";
import { lockOf } from "./item_patch.ts";
import { type Round, SEQ_LIMIT } from "./round.ts";
import { TreeBuilder } from "./tree_builder.ts";

const ALL_ONES = 0xffff_ffff_ffff_ffffn;

interface Entry {
  readonly key: Key;
  readonly val: Uint8Array;
}

export class ServerTrees {
  readonly logTrees: LogTrees[];
  readonly #srchFiles: { file: SrchFile; sorted: boolean }[];
  readonly #compactions: SrchCompact[];
  readonly #ranges: LogMergeRange[];
  readonly #requests: { key: Key; val: Uint8Array; start: Key; end: Key }[];
  readonly #completions: LogMergeComplete[];
  readonly #freeing: LogMergeFreeing[];
  #mergeAbandoned = false;
  readonly #dirty = new Set<ServerTree>();

  constructor(private readonly round: Round) {
    const { items } = round;
    this.logTrees = items.logTrees.map(({ lt }) => lt);
    this.#srchFiles = items.srchFiles.map(({ file, sorted }) => ({ file, sorted }));
    this.#compactions = items.compactions.map(({ sc }) => sc);
    this.#ranges = [...items.merge.ranges];
    this.#completions = items.merge.completions.map(({ c }) => c);
    this.#freeing = items.merge.freeing.map(({ f }) => f);
    this.#requests = items.merge.requests.map(({ r }) => ({
      key: logMergeRequestKey(r.rid, r.seq),
      val: r.bytes,
      start: r.start,
      end: r.end,
    }));
  }

  /** The log trees of the check, under the names that messages give them. */
  named(): [string, LogTrees][] {
    return this.round.items.logTrees.map(({ lt, what }) => [what, lt]);
  }

  /** No sequence number may be beyond the counter. */
  raiseSeq(seq: number): void {
    const { sb } = this.round;
    if (seq <= sb.seq || seq >= SEQ_LIMIT) return;
    sb.seq = seq;
    this.round.changed = true;
  }

  /** The tree must be written anew. */
  touch(tree: ServerTree): void {
    this.#dirty.add(tree);
    this.round.changed = true;
  }

  /**
   * Brings everything to the state after the departure of every mount. True when there was
   * something to bring there.
   */
  recover(): boolean {
    let recovered = false;
    for (const tree of this.round.items.logTrees) {
      if (this.#retire(tree)) recovered = true;
    }
    if (!this.round.sb.mountedClients.isEmpty) {
      this.touch("mounted_clients");
      recovered = true;
    }
    this.round.items.compactions.forEach(({ busy, sc }) => {
      if (busy) recovered = true;
      if (busy || this.#letGo(sc.metaAvail, sc.metaFreed)) this.touch("srch_root");
    });
    if (this.#cancelRequests()) recovered = true;
    return recovered;
  }

  /** A log tree as it is once its mount has been reclaimed (03 §23 step 2); false if it is so. */
  #retire({ lt }: LogTree): boolean {
    const { round } = this;
    const before = lt.bytes.slice();
    const wasOpen = !lt.isFinalized;
    for (const space of [lt.dataAvail, lt.dataFreed]) {
      if (space.root.height > 0) round.dataSpaceWrong = true;
      round.releaseTree(space.root);
      space.zero();
    }
    this.#letGo(lt.metaAvail, lt.metaFreed);
    if (!lt.srchFile.ref.isNull) {
      const file = SrchFile.alloc();
      file.copyFrom(lt.srchFile);
      this.addSearchLog(file);
    }
    lt.srchFile.zero();
    lt.dataAllocZoneBlocks = 0;
    lt.dataAllocZones.fill(0);
    while (lt.rid === 0n || lt.rid === ALL_ONES) lt.rid = round.options.random.u64();
    if (lt.maxItemSeq >= SEQ_LIMIT) lt.maxItemSeq = round.newest;
    if (lt.getTransSeq >= SEQ_LIMIT) lt.getTransSeq = 0;
    if (lt.commitTransSeq >= SEQ_LIMIT) lt.commitTransSeq = 0;
    if (lt.finalizeSeq >= SEQ_LIMIT) lt.finalizeSeq = 0;
    if (lt.commitTransSeq !== lt.getTransSeq) {
      lt.getTransSeq = lt.commitTransSeq = Math.max(lt.getTransSeq, lt.commitTransSeq);
    }
    lt.flags = LOG_TREES_FINALIZED;
    if (wasOpen || lt.finalizeSeq === 0) lt.finalizeSeq = round.nextSeq();
    lt.itemRoot.bytes.fill(0, 17);
    if (lt.nr === 0) lt.nr = 1;
    if (lt.bytes.every((b, i) => b === before[i])) return false;
    this.touch("logs_root");
    return wasOpen;
  }

  #letGo(...lists: AllocListHead[]): boolean {
    let had = false;
    for (const head of lists) {
      if (head.isZero()) continue;
      this.round.releaseList(head);
      head.zero();
      had = true;
    }
    return had;
  }

  /**
   * Merge requests become ranges again, and so do completions that are not part of fs_root yet: as
   * if the client had failed, their ranges will be merged once more. Those that cannot stay (T8).
   */
  #cancelRequests(): boolean {
    const { merge } = this.round.items;
    if (merge.status === null) return false;
    const revert = this.round.mayRevertMerge;
    let any = false;
    for (const { r } of merge.requests) {
      this.#letGo(r.metaAvail, r.metaFreed);
      this.touch("log_merge");
      any = true;
      if (!revert) continue;
      const own = logMergeRequestKey(r.rid, r.seq);
      this.#requests.splice(this.#requests.findIndex((x) => x.key.equals(own)), 1);
      this.#addRange(r.start, r.end);
    }
    for (const { c } of merge.completions) {
      if (!revert || c.metaAvail.isZero() && c.metaFreed.isZero()) continue;
      // The new blocks of its subtree are found free in the next round.
      this.#letGo(c.metaAvail, c.metaFreed);
      this.touch("log_merge");
      this.#completions.splice(this.#completions.indexOf(c), 1);
      this.#addRange(c.start, c.end);
    }
    return any;
  }

  /**
   * Gives up a merge whose items contradict each other: its inputs stay, and the next merge takes
   * them all once more. Applying an item twice changes nothing, but a total would be added twice:
   * `ItemPatch.settleTotals` sees to that.
   */
  abandonMerge(): void {
    const { merge } = this.round.items;
    for (const { r } of merge.requests) this.#letGo(r.metaAvail, r.metaFreed);
    for (const { c } of merge.completions) this.#letGo(c.metaAvail, c.metaFreed);
    this.#ranges.length = this.#requests.length = this.#completions.length = 0;
    this.#mergeAbandoned = true;
    this.round.mergeAbandoned = true;
    this.touch("log_merge");
  }

  /** Trees that were being freed: nothing refers to their blocks, so they are found free. */
  dropFreeing(): void {
    this.#freeing.length = 0;
    this.touch("log_merge");
  }

  #addRange(start: Key, end: Key): void {
    const range = LogMergeRange.alloc();
    range.start = start;
    range.end = end;
    this.#ranges.push(range);
  }

  /** Padding of roots in the values of items. */
  clearPads(): void {
    const { requests } = this.round.items.merge;
    for (const { r } of requests) {
      r.root.bytes.fill(0, 17);
      r.logsRoot.bytes.fill(0, 17);
    }
    for (const c of this.#completions) c.root.bytes.fill(0, 17);
    for (const f of this.#freeing) f.root.bytes.fill(0, 17);
    this.touch("log_merge");
  }

  /** Numbers in the merge status that only count items. */
  recountMerge(): void {
    if (this.round.items.merge.status !== null) this.touch("log_merge");
  }

  /** A finished, unsorted search file joins the others. */
  addSearchLog(file: SrchFile): void {
    this.#srchFiles.push({ file, sorted: false });
    this.touch("srch_root");
  }

  /** A search file is given up: `root` is its root block. Its blocks are found free later. */
  dropSearchFile(what: string): boolean {
    const at = this.round.items.srchFiles.findIndex((f) => f.what === what);
    if (at < 0) return false;
    const gone = this.round.items.srchFiles[at] as { file: SrchFile };
    const index = this.#srchFiles.findIndex(({ file }) => file === gone.file);
    if (index < 0) return false;
    this.#srchFiles.splice(index, 1);
    this.touch("srch_root");
    return true;
  }

  /** Compactions end; what they wrote so far is found free later. */
  dropCompactions(): void {
    this.#compactions.length = 0;
    this.touch("srch_root");
  }

  /** The volume has so many inodes: all of them count in the super block, none in log trees. */
  setInodeCount(inodes: number): void {
    this.round.sb.inodeCount = inodes;
    for (const lt of this.round.items.logTrees) lt.lt.inodeCountDelta = 0;
    this.touch("logs_root");
  }

  addLogTree(lt: LogTrees): void {
    this.logTrees.push(lt);
    this.touch("logs_root");
  }

  /**
   * A new bloom block for all items of a log tree (03 §10.3): bits that are missing hide items from
   * readers. False when the tree cannot be read.
   */
  rebuildBloom(lt: LogTrees): boolean {
    const { round } = this;
    const ref = BlockRef.alloc();
    const starts: Key[] = [];
    try {
      let last: Key | null = null;
      forEachItem({ cache: round.cache }, lt.itemRoot, Key.ZEROS, ({ key }) => {
        const start = lockOf(key);
        if (start === null || last !== null && start.equals(last)) return;
        last = start;
        starts.push(start);
      });
    } catch (e) {
      if (!(e instanceof FsError)) throw e;
      return false;
    }
    const bloom = new BloomBlock(round.writer.dirty(ref, MAGIC_BLOOM, round.alloc).v, 0);
    for (const start of starts) bloom.setKey(start);
    round.releaseRef(lt.bloomRef);
    lt.bloomRef.copyFrom(ref);
    this.touch("logs_root");
    return true;
  }

  /** Writes the trees that changed. */
  write(): void {
    const { sb } = this.round;
    const order = (a: Entry, b: Entry) => a.key.compare(b.key);
    if (this.#dirty.has("logs_root")) {
      this.#separate();
      const entries = this.logTrees.map((lt) => ({
        key: logTreesKey(lt.rid, lt.nr),
        val: lt.bytes,
      }));
      this.#rewrite(sb.logsRoot, entries.sort(order));
    }
    if (this.#dirty.has("mounted_clients")) this.#rewrite(sb.mountedClients, []);
    if (this.#dirty.has("srch_root")) this.#rewrite(sb.srchRoot, this.#srchEntries().sort(order));
    if (this.#dirty.has("log_merge")) this.#rewrite(sb.logMerge, this.#mergeEntries().sort(order));
  }

  /** No two log trees have one key, whatever damage made of their values. */
  #separate(): void {
    const taken = new Set<string>();
    for (const lt of this.logTrees) {
      while (taken.has(logTreesKey(lt.rid, lt.nr).toString())) lt.nr++;
      taken.add(logTreesKey(lt.rid, lt.nr).toString());
    }
  }

  #srchEntries(): Entry[] {
    const files = this.#srchFiles.map(({ file, sorted }) => {
      const root = refBlkno(file.ref);
      return {
        key: sorted ? srchBlocksKey(file.blocks, root) : srchLogKey(root),
        val: file.bytes,
      };
    });
    return [
      ...files,
      ...this.#compactions.map((sc) => ({ key: srchPendingKey(sc.id), val: sc.bytes })),
    ];
  }

  #mergeEntries(): Entry[] {
    const completions = this.#completions;
    const status = this.#mergeAbandoned ? null : this.round.items.merge.status;
    if (status !== null) {
      status.nrRequests = this.#requests.length;
      if (completions.length === 0) status.nrComplete = 0;
      else if (status.nrComplete < Math.max(8, completions.length)) {
        status.nrComplete = completions.length;
      }
    }
    return [
      ...status === null ? [] : [{ key: LOG_MERGE_STATUS_KEY, val: status.bytes }],
      ...this.#ranges.map((r) => ({ key: logMergeRangeKey(r.start), val: r.bytes })),
      ...this.#requests,
      ...completions.map((c) => ({ key: logMergeCompleteKey(c.seq), val: c.bytes })),
      ...this.#freeing.map((f) => ({ key: logMergeFreeingKey(f.seq), val: f.bytes })),
    ];
  }

  #rewrite(root: BtreeRoot, entries: readonly Entry[]): void {
    this.round.releaseTree(root);
    const builder = new TreeBuilder(this.round.t);
    let previous: Key | null = null;
    for (const { key, val } of entries) {
      if (previous !== null && previous.equals(key)) continue;
      builder.add(key, val);
      previous = key;
    }
    builder.finish(root);
  }
}
