/**
 * One round of a repair: everything that changes goes into new blocks, the allocators of both
 * devices are written anew from what is referenced, and one write of the super block switches from
 * the old volume to the mended one.
 *
 * Relies on: a check of exactly this volume (owners of all blocks, items of the server trees).
 * Guarantees: before `commit` has flushed all blocks nothing reachable from the stable super block
 * has been overwritten; a crash at any point leaves the old volume or the new one, whole.
 *
 * After a round nothing is handed out any more (03 §11.3): every log tree is finalized and owns no
 * space, compactions have no blocks in hand, the server's lists are one list of blocks to begin
 * with, and all other free space is in meta_alloc[0] and data_alloc, in canonical form.
 */

import {
  AllocListBlock,
  type AllocListHead,
  type AllocRoot,
  extentOrder,
  freeExtentKey,
  freeExtentOrderKey,
} from "../../../format/alloc.ts";
import type { BtreeRoot } from "../../../format/btree.ts";
import type { BlockRef } from "../../../format/block.ts";
import {
  ALLOC_LIST_MAX_BLOCKS,
  BTREE_ITEM_BYTES,
  BTREE_LEAF_FREE,
  BTREE_PARENT_FREE,
  DATA_ALLOC_MAX_ZONES,
  DATA_ALLOC_ZONE_BLOCKS_MIN,
  FIRST_FREE_INO,
  MAGIC_ALLOC_LIST,
  MAGIC_SUPER,
  META_DEV_START_BLKNO,
  SM_SIZE,
  SUPER_BLKNO,
  SUPER_FLAG_META_DEV,
} from "../../../format/constants.ts";
import { sealBlock } from "../../../format/crc32c.ts";
import { type LogMergeComplete, logMergeRangeKey } from "../../../format/merge.ts";
import { SuperBlock } from "../../../format/super.ts";
import { BlockCache, BlockWriter } from "../../block_cache.ts";
import { walkBlocks, type WriteTree } from "../../btree.ts";
import type { Random } from "../../env.ts";
import { assert, FsError } from "../../errors.ts";
import type { CheckContext } from "../context.ts";
import type { ServerItems } from "../pass_roots.ts";
import { COUNTER_LIMIT, fieldU64, rawU64, refBlkno } from "../raw.ts";
import { findBlankBlocks } from "./blank_blocks.ts";
import { BlockPool, FreeBlocks } from "./free_blocks.ts";
import type { Runs } from "./run_list.ts";
import { DIRTY_BLOCKS, TreeBuilder } from "./tree_builder.ts";

const NO_VALUE = new Uint8Array(0);
/** A version from here on is damage: the counter must not follow it. */
export const SEQ_LIMIT = COUNTER_LIMIT;
/** Blocks that stay free for the estimate of what the allocators themselves need. */
const LIST_SLACK = 128;

export interface RoundOptions {
  readonly random: Random;
  /** All references could be followed (see FreeBlocks). */
  readonly complete: boolean;
  /** Blocks about which claims contradict each other. */
  readonly conflicts: ReadonlySet<number>;
  /** Free blocks that hold copies of something lost, the best first: written last, if at all. */
  readonly spared: readonly number[];
}

export class Round {
  /** The super block that will be written. */
  readonly sb: SuperBlock;
  readonly cache: BlockCache;
  readonly writer: BlockWriter;
  readonly alloc: FreeBlocks;
  /** Where changes are made. */
  readonly t: WriteTree;
  readonly complete: boolean;
  /** Free runs of the data device if data_alloc must be written anew. They are closed with the round. */
  dataRuns: Runs & { close(): void } | null = null;
  /** Free data extents are not what they should be. */
  dataSpaceWrong = false;
  /** No merge is under way any more. */
  mergeAbandoned = false;
  /** Something else than free space changed. */
  changed = false;

  constructor(
    readonly cx: CheckContext,
    readonly items: ServerItems,
    readonly options: RoundOptions,
  ) {
    this.sb = SuperBlock.alloc();
    this.sb.copyFrom(cx.sb);
    this.complete = options.complete;
    this.cache = new BlockCache(cx.meta, cx.sb.hdr.fsid, {
      random: options.random,
      limitBytes: Math.min(cx.memory / 4, 256 << 20),
    });
    this.writer = new BlockWriter(this.cache);
    this.alloc = new FreeBlocks(cx.owners, {
      complete: options.complete,
      conflicts: options.conflicts,
      blank: options.complete ? [] : findBlankBlocks(cx),
      spared: options.spared,
      kept: this.#entriesOf(items.merge.completions.map(({ c }) => c)),
    });
    this.t = { cache: this.cache, writer: this.writer, alloc: this.alloc };
    this.#normalizeCounters();
  }

  [Symbol.dispose](): void {
    this.dataRuns?.close();
    this.dataRuns = null;
  }

  /** The newest version that anything can have so far. */
  get newest(): number {
    return this.sb.seq;
  }

  /** A new value of the server's sequence counter (03 §7). */
  nextSeq(): number {
    return ++this.sb.seq;
  }

  /** New inodes get numbers beyond `ino`. */
  raiseNextIno(ino: number): void {
    if (ino < this.sb.nextIno || ino >= SEQ_LIMIT) return;
    this.sb.nextIno = ino + 1;
    this.changed = true;
  }

  /** Volume options that mean nothing are cleared (01 §8.5). */
  clearOptions(): void {
    const { volopt } = this.sb, z = fieldU64(volopt, 8), total = fieldU64(this.sb, 104);
    const valid = (volopt.setBits & 1n) !== 0n && z >= DATA_ALLOC_ZONE_BLOCKS_MIN &&
      z >= Math.floor(total / DATA_ALLOC_MAX_ZONES) && z <= total;
    volopt.zero();
    if (valid) {
      volopt.setBits = 1n;
      volopt.dataAllocZoneBlocks = z;
    }
    this.changed = true;
  }

  /** A block is no longer referred to. */
  release(blkno: number): void {
    if (blkno >= META_DEV_START_BLKNO && blkno < this.cx.metaBlocks) this.alloc.freeMeta(blkno);
  }

  releaseRef(ref: BlockRef): void {
    if (!ref.isNull) this.release(refBlkno(ref));
  }

  /** All blocks of a tree are no longer referred to; those that cannot be reached wait. */
  releaseTree(root: BtreeRoot): void {
    if (root.height === 0 || root.ref.isNull) return;
    const seen = new Set<number>();
    try {
      walkBlocks({ cache: this.cache }, root, ({ blkno }) => {
        if (seen.has(blkno)) return false;
        seen.add(blkno);
        this.release(blkno);
        return true;
      });
    } catch (e) {
      if (!(e instanceof FsError)) throw e;
    }
  }

  /** The blocks of a list are no longer referred to. What it lists is free already. */
  releaseList(head: AllocListHead): void {
    this.#walkList(head, (blkno) => this.release(blkno), () => {});
  }

  #walkList(
    head: AllocListHead,
    block: (blkno: number) => void,
    entry: (blkno: number) => void,
  ): void {
    const seen = new Set<number>();
    let ref = head.ref;
    try {
      while (!ref.isNull && !seen.has(refBlkno(ref))) {
        seen.add(refBlkno(ref));
        const b = this.cache.read(ref, MAGIC_ALLOC_LIST);
        block(b.blkno);
        const list = new AllocListBlock(b.v);
        const end = Math.min(list.start + list.nr, ALLOC_LIST_MAX_BLOCKS);
        for (let i = list.start; i < end; i++) entry(rawU64(b.v, AllocListBlock.SIZE + 8 * i));
        ref = list.next;
      }
    } catch (e) {
      if (!(e instanceof FsError)) throw e;
    }
  }

  /** Free blocks that completions of a log merge list, where these must stay. */
  #entriesOf(completions: readonly LogMergeComplete[]): Set<number> {
    const entries = new Set<number>();
    if (this.mayRevertMerge) return entries;
    for (const c of completions) {
      for (const head of [c.metaAvail, c.metaFreed]) {
        this.#walkList(head, () => {}, (blkno) => entries.add(blkno));
      }
    }
    return entries;
  }

  /**
   * Whether merge requests and completions that are not spliced in can become ranges again: their
   * keys leave out the zone of the range's start, so that two can be the same (03 T8).
   */
  get mayRevertMerge(): boolean {
    const { ranges, requests, completions } = this.items.merge;
    const starts = [
      ...ranges.map((r) => r.start),
      ...requests.map(({ r }) => r.start),
      ...completions.map(({ c }) => c.start),
    ].map((start) => logMergeRangeKey(start).toString());
    return new Set(starts).size === starts.length;
  }

  /** Whether fs_root may be changed: not while a completion has blocks of it in its freed list. */
  get fsRootIsOurs(): boolean {
    return this.mayRevertMerge ||
      this.items.merge.completions.every(({ c }) => c.metaAvail.isZero() && c.metaFreed.isZero());
  }

  /** Makes seq and next_ino numbers to count on with (03 §7). */
  #normalizeCounters(): void {
    const { sb, items } = this;
    const seq = fieldU64(sb, 72);
    let most = seq < SEQ_LIMIT ? Math.max(1, seq) : 1;
    const raise = (n: number) => {
      if (n < SEQ_LIMIT) most = Math.max(most, n);
    };
    for (const { lt } of items.logTrees) {
      for (const n of [lt.maxItemSeq, lt.getTransSeq, lt.commitTransSeq, lt.finalizeSeq]) raise(n);
    }
    if (items.merge.status !== null) raise(items.merge.status.seq);
    sb.seq = most;
    const nextIno = fieldU64(sb, 80);
    if (nextIno >= SEQ_LIMIT || nextIno < FIRST_FREE_INO) sb.nextIno = FIRST_FREE_INO;
  }

  /** Writes everything and switches to it. Throws FsError with nothing switched. */
  commit(): void {
    const { sb, cx } = this;
    if (this.dataRuns !== null) this.#writeDataAlloc(this.dataRuns);
    this.#writeMetaAlloc();
    for (const root of [sb.fsRoot, sb.logsRoot, sb.logMerge, sb.mountedClients, sb.srchRoot]) {
      root.bytes.fill(0, 17);
    }
    this.writer.write();
    cx.data.flush();
    cx.meta.flush();
    writeSuper(this);
    this.writer.forgetAll();
  }

  #writeDataAlloc(runs: Runs): void {
    this.releaseTree(this.sb.dataAlloc.root);
    buildExtents(this.t, this.sb.dataAlloc, runs);
  }

  #writeMetaAlloc(): void {
    const { sb, alloc } = this;
    for (let i = 0; i < 2; i++) {
      this.releaseTree(sb.metaAlloc(i).root);
      this.releaseList(sb.serverMetaAvail(i));
      this.releaseList(sb.serverMetaFreed(i));
      sb.metaAlloc(i).zero();
      sb.serverMetaAvail(i).zero();
      sb.serverMetaFreed(i).zero();
    }
    const structure = 1 + extentBlocks(alloc.runs);
    const spare = Math.max(0, Math.floor((alloc.available - structure) / 2));
    const pool = new BlockPool(alloc, structure + Math.min(this.#firstList(), spare));
    const t: WriteTree = { cache: this.cache, writer: this.writer, alloc: pool };
    buildExtents(t, sb.metaAlloc(0), alloc.remaining());
    this.#writeFirstList(t, sb.serverMetaAvail(0), pool);
  }

  /** Blocks for the server's first transaction: an eighth of the device, as a running one keeps. */
  #firstList(): number {
    const eighth = Math.floor(this.cx.metaBlocks / 8);
    return Math.max(512, Math.min(ALLOC_LIST_MAX_BLOCKS - LIST_SLACK, eighth));
  }

  #writeFirstList(t: WriteTree, head: AllocListHead, pool: BlockPool): void {
    const b = t.writer.dirty(head.ref, MAGIC_ALLOC_LIST, t.alloc);
    const list = new AllocListBlock(b.v);
    const blknos = pool.left.sort((x, y) => x - y);
    assert(blknos.length <= ALLOC_LIST_MAX_BLOCKS, "the server's first list has too many blocks");
    blknos.forEach((blkno, i) => list.setEntry(i, blkno));
    list.nr = blknos.length;
    head.totalNr = blknos.length;
    head.firstNr = blknos.length;
  }
}

/** The one write that makes a round the volume's state. */
export function writeSuper(round: Pick<Round, "sb" | "cx">): void {
  const { sb, cx } = round;
  const block = cx.meta.allocBuffer(SM_SIZE);
  sb.hdr.magic = MAGIC_SUPER;
  sb.hdr.blkno = SUPER_BLKNO;
  sb.hdr.seq = BigInt.asUintN(64, sb.hdr.seq + 1n);
  sb.flags = SUPER_FLAG_META_DEV;
  sb.v.setBigUint64(sb.o + 32, 0n, true);
  block.set(sb.bytes);
  sealBlock(block);
  cx.meta.write(block, SUPER_BLKNO * SM_SIZE);
  cx.meta.flush();
}

/** Blocks that a new tree of `extents` free extents takes, at most. */
function extentBlocks(extents: number): number {
  const perLeaf = Math.floor(BTREE_LEAF_FREE / BTREE_ITEM_BYTES) - 1;
  const perParent = Math.floor(BTREE_PARENT_FREE / (BTREE_ITEM_BYTES + 16)) - 1;
  let level = Math.ceil(2 * extents / perLeaf), blocks = level;
  while (level > 1) {
    level = Math.ceil(level / perParent);
    blocks += level;
  }
  return blocks;
}

/** Writes a tree of free extents (01 §11.1). */
export function buildExtents(t: WriteTree, root: AllocRoot, runs: Runs): void {
  root.zero();
  // Nothing refers to these blocks yet: they need not wait in memory.
  const writer = new BlockWriter(t.cache);
  const builder = new TreeBuilder({ ...t, writer }, DIRTY_BLOCKS);
  const orders = new Set<number>();
  let total = 0;
  runs.forEach((start, len) => {
    builder.add(freeExtentKey(start, len), NO_VALUE);
    orders.add(extentOrder(len));
    total += len;
  });
  if (total === 0) return;
  // The order of the other index: larger orders first, then the last block, then the length. There
  // are a handful of orders, whatever the number of runs.
  for (const order of [...orders].sort((a, b) => b - a)) {
    runs.forEach((start, len) => {
      if (extentOrder(len) === order) builder.add(freeExtentOrderKey(start, len), NO_VALUE);
    });
  }
  builder.finish(root.root);
  writer.write();
  root.totalLen = total;
}
