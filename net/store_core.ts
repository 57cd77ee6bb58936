/**
 * The transaction of the server (03 §13): dirty and stable super, sequence counter, the two double
 * buffers of metadata space, and commits that many requests share.
 *
 * Invariants:
 * - Nothing that the stable super references is overwritten. Blocks come from the active avail list
 *   only, freed blocks go to the active freed list only; lists of clients are spliced onto the
 *   idle freed list; lists are filled from `meta_alloc[A]` and drained into `meta_alloc[F]`.
 *   Roles change only after a super write (§13.2).
 * - Only the super write switches state. Before it every block that it reaches is written and
 *   flushed, after it the device is flushed again, and only then is anybody answered. A failure
 *   is reported to all who wait; what is dirty stays so and the next commit starts over. Blocks
 *   that were written are clean by then and move again when changed, so that a super that reached
 *   the device in spite of the error stays valid.
 * - Steps of work run one after the other; whatever a step leaves behind, also when it throws an
 *   FsError, is consistent, because it will be in the next commit (03 T18). Anything else that is
 *   thrown is a defect: the store stops without writing, and the server with it. It also does where
 *   its structures are found damaged, since no later attempt would fare better.
 */

import type { AllocListHead, AllocRoot } from "../format/alloc.ts";
import { LG_SIZE, SM_SIZE, SUPER_BLKNO, ZONE_LOG_TREES } from "../format/constants.ts";
import { sealBlock } from "../format/crc32c.ts";
import { ENOLINK, ENOSPC } from "../format/errno.ts";
import { Key } from "../format/key.ts";
import { LogTrees } from "../format/log_trees.ts";
import { SuperBlock } from "../format/super.ts";
import { BlockCache, BlockWriter } from "../fs/block_cache.ts";
import { forEachItem, prev, type Tree } from "../fs/btree.ts";
import type { Device } from "../fs/device.ts";
import type { Random } from "../fs/env.ts";
import { asCorrupt, assert, CorruptError, FsError, isDamage } from "../fs/errors.ts";
import { extentCost, moveExtents, type Zones } from "../fs/extent_alloc.ts";
import {
  absorbList,
  type AllocTree,
  emptyList,
  fillList,
  ListAllocator,
  recycleList,
} from "../fs/meta_alloc.ts";
import { type DataPolicy, dataPolicy, type MetaPolicy, metaPolicy } from "./reserve.ts";

export interface StoreOptions {
  /** Block seqs. */
  random: Random;
  /**
   * How many clients share the volume, for reserves; mounted-client items are counted without it.
   */
  clientCount?: () => number;
  /** Sends SYNC_LOG_TREES to a client (03 §16.2); unknown or disconnected ones are ignored. */
  sendSync?: (rid: bigint) => void;
  /** Runs `turn` soon, after the requests of this loop turn have arrived. Default: a microtask. */
  schedule?: (turn: () => void) => void;
  /** One line for the administrator. */
  log?: (line: string) => void;
  /**
   * The server's own structures (log trees, allocators, lists) are provably damaged where a client's
   * transaction needs them: it could only ask for ever. Nothing more is written.
   */
  onDamage?: (e: FsError) => void;
  /** Block cache bytes. */
  cacheBytes?: number;
  /** Instead of `metaPolicy` of net/reserve.ts: tests that want many small commits. */
  metaPolicy?: (totalBlocks: number, clients: number) => MetaPolicy;
  /** Bytes of the data device now, for resizing; without it the data device cannot grow. */
  dataDeviceSize?: () => number;
}

/**
 * Work in steps. Each call changes structures and says whether the work is finished; if not, it is
 * called again after a commit. A step starts with room for `holdBudget` blocks.
 */
export type Step = () => boolean;

interface Work {
  step: Step;
  /** Run when the commit after the last step failed. */
  undo: (() => void) | undefined;
  resolve: () => void;
  reject: (e: unknown) => void;
}

/** Byte offset of the super block. */
const SUPER_OFFSET = SUPER_BLKNO * SM_SIZE;

/** Commits that one handler may cause only to get room, before it is told ENOSPC. */
const ROOM_COMMITS = 8;

const LAST_NR = 0xffff_ffff_ffff_ffffn;

export class StoreCore {
  readonly cache: BlockCache;
  readonly writer: BlockWriter;
  /** What the next commit will make stable; changed by steps only. */
  readonly dirty: SuperBlock;
  /** The super that is on the device. */
  readonly stable: SuperBlock;
  /** Reads trees of either super; what does not match its reference there is corruption. */
  readonly readTree: Tree;
  /** Mounted-client items in the dirty super. */
  mountedCount = 0;
  /** Server commits written since opening. */
  commits = 0;

  private readonly superBuf: Uint8Array;
  private readonly trees: readonly [AllocTree, AllocTree];
  private readonly availHeads: readonly AllocListHead[];
  private readonly freedHeads: readonly AllocListHead[];
  private readonly metaRoots: readonly AllocRoot[];
  private active: 0 | 1;
  private availRoot: 0 | 1;
  private counterValue: number;
  /** Why nothing is done any more. */
  private refusal: FsError | null = null;
  private queue: Work[] = [];
  private scheduled = false;
  private meta: MetaPolicy;
  private data: DataPolicy;
  private policyClients = -1;
  private readonly turn = () => this.runTurn();

  /** `superBuf`: the 4 KiB super block, verified by the caller; it becomes the dirty super. */
  constructor(readonly dev: Device, superBuf: Uint8Array, readonly options: StoreOptions) {
    assert(superBuf.length === SM_SIZE, `super block of ${superBuf.length} bytes`);
    this.superBuf = dev.allocBuffer(SM_SIZE);
    this.superBuf.set(superBuf);
    const dirty = this.dirty = SuperBlock.at(this.superBuf);
    this.stable = SuperBlock.alloc();
    this.stable.copyFrom(dirty);
    this.cache = new BlockCache(dev, dirty.hdr.fsid, {
      random: options.random,
      ...(options.cacheBytes === undefined ? {} : { limitBytes: options.cacheBytes }),
    });
    this.writer = new BlockWriter(this.cache);
    this.readTree = { cache: this.cache, writer: this.writer };
    this.availHeads = [dirty.serverMetaAvail(0), dirty.serverMetaAvail(1)];
    this.freedHeads = [dirty.serverMetaFreed(0), dirty.serverMetaFreed(1)];
    this.metaRoots = [dirty.metaAlloc(0), dirty.metaAlloc(1)];
    const allocTree = (i: number): AllocTree => ({
      cache: this.cache,
      writer: this.writer,
      alloc: new ListAllocator(
        { cache: this.cache, writer: this.writer },
        this.availHeads[i]!,
        this.freedHeads[i]!,
        { deviceBlocks: Math.floor(dev.size / LG_SIZE) },
      ),
    });
    this.trees = [allocTree(0), allocTree(1)];
    // 03 §14 steps 3 and 4: all lists and both trees hold free blocks only, so any choice is safe.
    this.active = this.availHeads[1]!.totalNr > this.availHeads[0]!.totalNr ? 1 : 0;
    this.availRoot = this.metaRoots[1]!.totalLen > this.metaRoots[0]!.totalLen ? 1 : 0;
    this.counterValue = dirty.seq;
    this.meta = metaPolicy(dirty.totalMetaBlocks, 1);
    this.data = dataPolicy(dirty.totalDataBlocks, 1);
  }

  // Counter, 03 §7

  get counter(): number {
    return this.counterValue;
  }

  counterNext(): number {
    return ++this.counterValue;
  }

  counterRaise(n: number): void {
    if (n > this.counterValue) this.counterValue = n;
  }

  // Space

  /** The tree context of the transaction: blocks from and to the active lists. */
  get tree(): AllocTree {
    return this.trees[this.active];
  }

  /** Where lists given back by clients are spliced. */
  get idleFreed(): AllocListHead {
    return this.freedHeads[1 - this.active]!;
  }

  /** `meta_alloc[A]`: the tree that blocks are taken from. */
  get metaAvail(): AllocRoot {
    return this.metaRoots[this.availRoot]!;
  }

  /** `meta_alloc[F]`: the tree that freed blocks return to. */
  get metaFreed(): AllocRoot {
    return this.metaRoots[1 - this.availRoot]!;
  }

  get metaPolicy(): MetaPolicy {
    this.refreshPolicy();
    return this.meta;
  }

  get dataPolicy(): DataPolicy {
    this.refreshPolicy();
    return this.data;
  }

  /** After the device totals changed. */
  totalsChanged(): void {
    this.policyClients = -1;
  }

  private refreshPolicy(): void {
    const clients = this.options.clientCount?.() ?? this.mountedCount;
    if (clients === this.policyClients) return;
    this.policyClients = clients;
    this.meta = (this.options.metaPolicy ?? metaPolicy)(this.dirty.totalMetaBlocks, clients);
    this.data = dataPolicy(this.dirty.totalDataBlocks, clients);
  }

  /** Gives back a client's list. */
  splice(list: AllocListHead): void {
    absorbList(this.tree, this.idleFreed, list);
  }

  /**
   * Makes what a client freed available, to itself as far as its list has room. What it freed in a
   * transaction that becomes stable with this one may be given back at once: it is used behind both.
   */
  takeFreed(avail: AllocListHead, freed: AllocListHead): void {
    const { clientKeeps, clientLow, clientTarget } = this.metaPolicy;
    const wanted = avail.firstNr < clientLow || this.isShort;
    if (!wanted && freed.totalNr <= clientKeeps) return;
    recycleList(this.tree, avail, freed, clientTarget);
    if (freed.totalNr > clientKeeps || this.isShort) this.splice(freed);
  }

  /** Refills a client's list as far as the reserve allows (see net/reserve.ts). */
  refillClientList(list: AllocListHead): void {
    const { clientLow, clientTarget, floor } = this.metaPolicy;
    if (list.firstNr >= clientLow) return;
    const spare = this.metaAvail.totalLen - floor;
    if (spare <= 0) return;
    const target = Math.min(clientTarget, list.firstNr + spare);
    fillList(this.tree, list, this.metaAvail, target, target);
  }

  /**
   * Moves up to `total` blocks of free extents, within what this transaction can afford. False:
   * call again after a commit. True: done, or `src` is empty.
   */
  moveExtents(dst: AllocRoot, src: AllocRoot, total: number, zones?: Zones): boolean {
    if (total <= 0) return true;
    const { moveBudget, commitBudget } = this.metaPolicy;
    const one = extentCost(dst.root.height) + extentCost(src.root.height);
    const budget = Math.min(Math.max(moveBudget, one), this.room() - commitBudget);
    const r = moveExtents(
      this.tree,
      dst,
      src,
      total,
      zones === undefined ? { budget } : { budget, zones },
    );
    return r.why === "complete" || r.why === "empty";
  }

  /** The smaller of the blocks that can still be allocated and freed in this transaction. */
  private room(): number {
    const { avail, freed } = this.tree.alloc.remaining();
    return Math.min(avail, freed);
  }

  // Items that several handlers look at

  /** The log_trees item of `rid` with the greatest nr, its value a copy. */
  newestLogTrees(rid: bigint): { key: Key; lt: LogTrees } | null {
    const item = prev(this.readTree, this.dirty.logsRoot, Key.of(ZONE_LOG_TREES, rid, 0, LAST_NR));
    if (item === null || item.key.zone !== ZONE_LOG_TREES || item.key.firstBig !== rid) return null;
    const lt = LogTrees.alloc();
    lt.bytes.set(exactly(item.val, LogTrees.SIZE, item.key));
    return { key: item.key, lt };
  }

  /**
   * Visits the log_trees items of the dirty super in key order; the view is only valid in the call.
   */
  forEachLogTrees(visit: (lt: LogTrees, key: Key) => void): void {
    forEachItem(this.readTree, this.dirty.logsRoot, Key.ZEROS, (item) => {
      visit(LogTrees.at(exactly(item.val, LogTrees.SIZE, item.key)), item.key);
    });
  }

  // Work and commits

  /**
   * Runs `step` until it is finished; resolves when a commit with all its effects is durable.
   * `undo` takes back what must not stay in effect when that commit fails; most effects may (03
   * §15).
   */
  run(step: Step, undo?: () => void): Promise<void> {
    if (this.refusal !== null) return Promise.reject(this.refusal);
    return new Promise((resolve, reject) => {
      this.queue.push({ step, undo, resolve, reject });
      this.schedule();
    });
  }

  /** Refuses everything from now on. */
  stop(): void {
    this.refuse(new FsError(ENOLINK, "the server is stopping"));
  }

  private refuse(why: FsError): void {
    const refusal = this.refusal ??= why;
    const queue = this.queue;
    this.queue = [];
    for (const work of queue) work.reject(refusal);
  }

  /** What is stored cannot be worked on. */
  private damaged(e: FsError): void {
    if (this.refusal !== null) return;
    this.refuse(e);
    this.options.onDamage?.(e);
  }

  private schedule(): void {
    if (this.scheduled) return;
    this.scheduled = true;
    (this.options.schedule ?? queueMicrotask)(this.turn);
  }

  /** One batch: a step of every queued work, one commit, the answers. */
  private runTurn(): void {
    this.scheduled = false;
    const batch = this.queue;
    this.queue = [];
    const finished: Work[] = [];
    const unfinished: Work[] = [];
    for (const work of batch) {
      try {
        this.makeRoom(finished, unfinished);
        (work.step() ? finished : unfinished).push(work);
      } catch (e) {
        const error = asCorrupt(e, "the server's structures");
        work.reject(error);
        if (isDamage(error)) this.damaged(error);
        else if (!(error instanceof FsError)) this.stop(); // a defect: what it touched stays unwritten
      }
    }
    if (finished.length + unfinished.length > 0) this.commitFor(finished, unfinished);
    if (unfinished.length > 0) this.queue = [...unfinished, ...this.queue];
    if (this.queue.length > 0) this.schedule();
  }

  /**
   * Commits and answers. On failure every work of the batch learns of it; the error is returned.
   */
  private commitFor(finished: Work[], unfinished: Work[]): { error: unknown } | null {
    try {
      this.commit();
    } catch (e) {
      const error = asCorrupt(e, "the server's structures");
      if (isDamage(error)) this.damaged(error);
      for (const work of finished.splice(0)) {
        work.undo?.();
        work.reject(error);
      }
      for (const work of unfinished.splice(0)) work.reject(error);
      return { error };
    }
    for (const work of finished.splice(0)) work.resolve();
    return null;
  }

  /** Commits until a step may begin (03 §13.3): each swaps lists and brings freed blocks nearer. */
  private makeRoom(finished: Work[], unfinished: Work[]): void {
    for (let tries = 0;; tries++) {
      const { holdBudget, commitBudget } = this.metaPolicy;
      if (this.room() >= holdBudget + commitBudget) return;
      if (tries === ROOM_COMMITS) {
        throw new FsError(ENOSPC, `${this.dev.name}: no metadata blocks left for the server`);
      }
      const failed = this.commitFor(finished, unfinished);
      if (failed !== null) throw failed.error;
    }
  }

  /** 03 §13.4. Throws with everything dirty kept. */
  private commit(): void {
    if (this.refusal !== null) throw this.refusal;
    const { alloc } = this.tree;
    this.refillIdle();
    this.drainIdle();
    alloc.finish();
    this.writer.write();
    this.dev.flush();
    this.dirty.seq = this.counterValue;
    this.dirty.hdr.seq = this.stable.hdr.seq + 1n;
    sealBlock(this.superBuf);
    this.dev.write(this.superBuf, SUPER_OFFSET);
    this.dev.flush();
    this.stable.copyFrom(this.dirty);
    this.commits++;
    this.active = this.active === 0 ? 1 : 0;
    const avail = this.metaAvail.totalLen, freed = this.metaFreed.totalLen;
    if (avail < 2 * this.metaPolicy.reserved && freed > avail) {
      this.availRoot = this.availRoot === 0 ? 1 : 0;
    }
  }

  /** Brings freed blocks back, when there are enough of them or space is short. */
  private drainIdle(): void {
    if (this.isShort || this.idleFreed.totalNr >= this.metaPolicy.drainAt) {
      emptyList(this.tree, this.metaFreed, this.idleFreed);
    }
  }

  /** Freed blocks are wanted, wherever they are. */
  private get isShort(): boolean {
    const { drainAt, reserved } = this.metaPolicy;
    return this.metaAvail.totalLen < reserved + drainAt;
  }

  private refillIdle(): void {
    const idle = this.availHeads[1 - this.active]!;
    const { serverLow, serverTarget, commitMinimum } = this.metaPolicy;
    try {
      fillList(this.tree, idle, this.metaAvail, serverLow, serverTarget);
    } catch (e) {
      const short = e instanceof FsError && e.errno === ENOSPC && idle.firstNr >= commitMinimum;
      if (!short) throw e;
    }
  }
}

/** `val`, checked to have the one length that server items of its kind have (01 §19.1). */
export function exactly(val: Uint8Array, size: number, key: Key): Uint8Array {
  if (val.length !== size) {
    throw new CorruptError(`item ${key} has ${val.length} bytes instead of ${size}`);
  }
  return val;
}
