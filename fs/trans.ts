/**
 * The client's transaction (03 §11, §12): one is open at any time after mount; a commit writes it and
 * opens the next.
 *
 *   none ── open() ──► open ── commit ──► writing ──COMMIT_LOG_TREES──► reopening ──GET──► open
 *
 * Invariants:
 * - Holds are taken only while open, and an operation applies in the same turn of the event loop, so
 *   everything a commit finds belongs together. Items do not change from "writing" to the next
 *   "open"; reading goes on.
 * - Order on the devices: file data, metadata blocks, a flush of both, then the super write that is
 *   the commit point (03 §2 R3), by the server after COMMIT_LOG_TREES. The data device is flushed
 *   before that message; the metadata device too, unless the server runs in this process
 *   (`ServerLink.ownServer`): that flushes the same device itself between receiving the message and
 *   writing the super, and the blocks were written before the message was submitted.
 * - The next transaction's blocks are used after GET_LOG_TREES is answered, which an own server gets
 *   together with COMMIT_LOG_TREES, to be done in this order by one server commit (03 §28 point 8).
 * - A transaction cannot be given up: a step that fails is repeated after 2 s, from where it stopped,
 *   until it succeeds or the mount is aborted (ENOLINK). Where stored structures of its own (log
 *   tree, allocators) are damaged, which no repetition mends, it is aborted: nothing of it is stable.
 * - A hold is only given when the metadata lists can take what the commit will write (`Room`).
 */

import { CMD_COMMIT_LOG_TREES, CMD_GET_LOG_TREES, CMD_SYNC_LOG_TREES } from "../format/wire.ts";
import { FormatError } from "../format/bytes.ts";
import { EIO, ENOLINK } from "../format/errno.ts";
import { LogTrees } from "../format/log_trees.ts";
import { type BlockCache, BlockWriter } from "./block_cache.ts";
import { setBloom } from "./bloom.ts";
import { insertList } from "./btree_log.ts";
import { DataAllocator, type DataPiece } from "./data_alloc.ts";
import type { Device } from "./device.ts";
import type { DirtyItem } from "./dirty_items.ts";
import { sleep, type TimerId, type Timers } from "./env.ts";
import {
  asCorrupt,
  assert,
  AssertionError,
  CorruptError,
  errnoError,
  errnoOf,
  FsError,
  isDamage,
  noSpace,
} from "./errors.ts";
import type { ItemCache } from "./item_cache.ts";
import type { ServerLink } from "./link.ts";
import { type AllocTree, ListAllocator } from "./meta_alloc.ts";
import type { Op } from "./op.ts";
import type { Roots } from "./roots.ts";
import { appendSrch } from "./srch_file.ts";
import { Room } from "./trans_room.ts";

export interface HoldOptions {
  /** Refused with ENOSPC when metadata space is low (02 §2.1). */
  allocating: boolean;
  /** Data blocks that `allocData` must be able to give; default 0. */
  dataBlocks?: number;
  /** Upper bound of the items that the operation changes; default 64. */
  items?: number;
}

/** A commit's deadline after the previous one, even when nothing is dirty: the cluster relies on it. */
const COMMIT_INTERVAL_MS = 10_000;
const RETRY_MS = 2_000;
/** Commit work between two looks at other events. */
const SLICE_MS = 1;
const INSERT_CHUNK = 512;
const WRITE_CHUNK_BLOCKS = 16;
const CLEAN_CHUNK_PAGES = 64;
const DEFAULT_ITEMS = 64;
/** Data space below which the server is asked for more (256 MiB), 03 §11.4. */
const DATA_REFILL_BLOCKS = 65536;
const NO_PAYLOAD = new Uint8Array(0);

export interface TransEnv {
  readonly link: ServerLink;
  readonly cache: BlockCache;
  readonly meta: Device;
  readonly data: Device;
  readonly metaBlocks: number;
  readonly dataBlocks: number;
  readonly clock: Timers;
  readonly items: ItemCache;
  readonly roots: Roots;
  readonly limits: { readonly dirtyItemBytes: number };
  readonly log: (line: string) => void;
  /**
   * A commit met something that cannot be, or damage that no repetition gets around; the transaction
   * was aborted.
   */
  readonly onDefect: (e: AssertionError | FsError) => void;
}

/** File data that must be on the data device before a commit (02 §15.5). */
export interface CommitHook {
  /** Is anything unwritten, or written and not yet flushed? */
  dirty(): boolean;
  /**
   * Writes it all; DeviceError leaves the rest dirty and is retried. `slice` is to be awaited between
   * pieces of work: it lets other events be served when this went on for long.
   */
  write(slice: () => Promise<void>): void | Promise<void>;
}

type State = "none" | "open" | "writing" | "reopening" | "dead";

/** A promise with its ends. */
class Gate {
  readonly promise: Promise<void>;
  pass: () => void = () => {};
  fail: (e: FsError) => void = () => {};

  constructor() {
    this.promise = new Promise((resolve, reject) => {
      this.pass = resolve;
      this.fail = reject;
    });
    this.promise.catch(() => {});
  }
}

/** One commit under way. */
interface Cycle {
  /** The server has it: fsync is answered. */
  readonly durable: Gate;
  /** Items are clean: locks may go. */
  readonly clean: Gate;
  /** The next transaction is open. */
  readonly opened: Gate;
}

interface SrchEntry {
  hash: bigint;
  ino: number;
  id: number;
}

/** What exists while a transaction does. */
interface Opened {
  /** The received value, kept up to date in place; becomes the commit's message. */
  readonly lt: LogTrees;
  readonly tree: AllocTree;
  readonly data: DataAllocator;
  readonly room: Room;
}

export class Trans {
  /** Holds that were asked for: while it stays the same no operation changed an item. */
  holds = 0;
  #state: State = "none";
  #open: Opened | null = null;
  #seq = 0;
  #cycle: Cycle | null = null;
  #commits = 0;
  #srch: SrchEntry[] = [];
  #inodeDelta = 0;
  #deadline: TimerId | null = null;
  #closing = false;
  #reclaiming: Promise<void> | null = null;
  #sliceEnd = 0;
  readonly #writer: BlockWriter;
  readonly #hooks: CommitHook[] = [];
  #drain: (() => Promise<void>) | null = null;

  constructor(private readonly env: TransEnv) {
    this.#writer = new BlockWriter(env.cache);
    env.link.setHandler(CMD_SYNC_LOG_TREES, (_payload, respond) => {
      respond(NO_PAYLOAD);
      if (this.#state === "open" && !this.#closing) this.#start();
    });
  }

  // ---- what others may ask ----

  /** "T": the number of the transaction that is or was open last. */
  get seq(): number {
    return this.#seq;
  }
  /** Commits since mount. */
  get commits(): number {
    return this.#commits;
  }
  get state(): State {
    return this.#state;
  }
  /** Data blocks that can be allocated before the next commit. */
  get dataAvailable(): number {
    return this.#open === null ? 0 : this.#open.data.available;
  }
  /** Data blocks that `allocData` can give without another hold. */
  get dataReserved(): number {
    return this.#open === null ? 0 : this.#open.data.reserved;
  }
  /** Data blocks that the next commit makes reusable. */
  get dataFreed(): number {
    return this.#open === null ? 0 : this.#open.data.freedBlocks;
  }

  /** File data to be written before each commit. */
  beforeCommit(hook: CommitHook): void {
    this.#hooks.push(hook);
  }

  /** What may free space when there is none: resolves when pending deletions are done. */
  onNoSpace(drain: () => Promise<void>): void {
    this.#drain = drain;
  }

  // ---- gathering ----

  /** @internal Op.transSeq. */
  openSeq(op: Op): number {
    if (this.#state !== "open") {
      if (this.#state === "dead") throw errnoError(ENOLINK);
      assert(this.#cycle !== null, "a hold before the first transaction is open");
      op.waitPinned(this.#cycle.opened.promise);
    }
    return this.#seq;
  }

  /** @internal Op.hold. */
  hold(op: Op, options: HoldOptions): number {
    this.holds++;
    const seq = this.openSeq(op);
    const { lt, data, room } = this.#opened();
    const { allocating } = options;
    if (allocating && lt.metaAvail.isLow) this.#noSpace(op, allocating);
    if (!room.suffices(options.items ?? DEFAULT_ITEMS, this.#srch.length, data.finishCost)) {
      if (this.clean) this.#noSpace(op, allocating);
      op.waitPinned(this.commit());
    }
    if (this.env.items.dirtyBytes > this.env.limits.dirtyItemBytes) op.waitPinned(this.commit());
    const blocks = options.dataBlocks ?? 0;
    if (blocks > 0) this.#reserveData(op, blocks, allocating);
    return seq;
  }

  #reserveData(op: Op, blocks: number, allocating: boolean): void {
    const { lt, data } = this.#opened();
    const low = lt.dataAvail.isLow;
    // On small devices the server's refills are small too.
    const refill = Math.min(DATA_REFILL_BLOCKS, Math.floor(data.availableAtOpen / 4));
    if (data.available < refill && !low && data.used) op.waitPinned(this.commit());
    switch (data.reserve(blocks)) {
      case "ok":
        return;
      case "room":
        if (this.clean) this.#noSpace(op, allocating);
        op.waitPinned(this.commit());
        break;
      case "empty":
        // ENOBUFS of the specification: what was freed, or the server's pool, comes with a commit.
        if (low || !data.used) this.#noSpace(op, allocating);
        op.waitPinned(this.commit());
    }
  }

  /**
   * ENOSPC, but only after a commit had its chance to free space, and for allocating operations also
   * the pending deletions, which are themselves of the other kind.
   */
  #noSpace(op: Op, allocating: boolean): never {
    const tried = op.once("space", () => ({ waited: false }));
    if (tried.waited) throw noSpace();
    tried.waited = true;
    if (allocating) op.wait(this.#reclaimSpace());
    op.waitPinned(this.commit());
  }

  #reclaimSpace(): Promise<void> {
    this.#reclaiming ??= (async () => {
      if (this.#drain !== null) await this.#drain();
      await this.commit();
    })().finally(() => this.#reclaiming = null);
    return this.#reclaiming;
  }

  // ---- applying ----

  /** Up to `count` neighbouring blocks, within what the hold's `dataBlocks` promised. */
  allocData(op: Op, count: number): DataPiece {
    op.assertHolding();
    return this.#opened().data.alloc(count);
  }

  /** Gives data blocks back; reusable after the next commit. */
  freeData(op: Op, blkno: number, len: number): void {
    op.assertHolding();
    this.#opened().data.free(blkno, len);
  }

  /** Inodes created (1) or deleted (−1). */
  addInodes(op: Op, n: number): void {
    op.assertHolding();
    this.#inodeDelta += n;
  }

  /** Records an entry of the search log (02 §12.8). */
  appendSrch(op: Op, hash: bigint, ino: number, id: number): void {
    op.assertHolding();
    this.#srch.push({ hash, ino, id });
  }

  // ---- commits ----

  /** Nothing would be lost without a commit. */
  get clean(): boolean {
    return this.env.items.dirtyItems === 0 && this.#srch.length === 0 && this.#inodeDelta === 0 &&
      (this.#open === null || !this.#open.data.used) && !this.#hooks.some((h) => h.dirty());
  }

  /**
   * Resolves when everything done up to now is durable; at once when nothing was. Rejects with
   * ENOLINK, and only after an abort.
   */
  sync(): Promise<void> {
    if (this.#state === "dead") return Promise.reject(errnoError(ENOLINK));
    if (this.#cycle !== null) return this.#cycle.durable.promise;
    if (this.clean) return Promise.resolve();
    return this.#start().durable.promise;
  }

  /** A whole commit, dirty or not: resolves when the next transaction is open. */
  commit(): Promise<void> {
    if (this.#state === "dead") return Promise.reject(errnoError(ENOLINK));
    return (this.#cycle ?? this.#start()).opened.promise;
  }

  /** @internal For a lock that goes: resolves when its items are clean. */
  makeClean(): Promise<void> {
    if (this.#state === "dead") return Promise.reject(errnoError(ENOLINK));
    // Closed: the last commit left nothing.
    if (this.#cycle === null && this.#state === "none") return Promise.resolve();
    return (this.#cycle ?? this.#start()).clean.promise;
  }

  /** Opens the first transaction; an error fails the mount. */
  async open(): Promise<void> {
    assert(this.#state === "none", "a transaction is opened twice");
    const lt = await this.#getLogTrees();
    try {
      this.#install(lt);
    } catch (e) {
      throw asCorrupt(e, "the log tree that the server gave");
    }
  }

  /** Unmount: one last whole commit; no operations any more. */
  async close(): Promise<void> {
    this.#closing = true;
    if (this.#state === "none" || this.#state === "dead") return;
    // One that is under way may have begun before the last change.
    while (this.#cycle !== null) await this.#cycle.opened.promise;
    for (let c: Cycle | null = this.#start(); c !== null; c = this.#cycle) await c.opened.promise;
    this.#clearDeadline();
    this.#state = "none";
  }

  /** Forced unmount: nothing is written any more, everything that waits fails. */
  abort(): void {
    if (this.#state === "dead") return;
    this.#state = "dead";
    this.#clearDeadline();
    const error = errnoError(ENOLINK);
    const cycle = this.#cycle;
    if (cycle !== null) {
      for (const g of [cycle.durable, cycle.clean, cycle.opened]) {
        g.fail(error);
      }
    }
  }

  #opened(): Opened {
    assert(this.#open !== null, "no transaction was ever open");
    return this.#open;
  }

  #start(): Cycle {
    assert(this.#state === "open" && this.#cycle === null, `a commit starts while ${this.#state}`);
    const cycle = { durable: new Gate(), clean: new Gate(), opened: new Gate() };
    this.#cycle = cycle;
    this.#state = "writing";
    this.#clearDeadline();
    this.#run(cycle).catch((e: unknown) => {
      if (this.#state === "dead" && e instanceof FsError) return;
      this.abort();
      if (isDamage(e)) {
        const what = `commit of transaction ${this.#seq}: ${e.message}; run fsck`;
        this.env.onDefect(new CorruptError(what, true));
        return;
      }
      const defect = new AssertionError(`commit of transaction ${this.#seq} is broken: ${e}`);
      defect.cause = e;
      this.env.onDefect(defect);
    });
    return cycle;
  }

  /** 03 §11.6, with the steps that may fail each repeated on its own. */
  async #run(cycle: Cycle): Promise<void> {
    const { env } = this;
    const { lt, tree, data } = this.#opened();
    const { items } = env;
    // The operation that asked may still be running.
    await null;
    this.#sliceEnd = env.clock.now() + SLICE_MS;
    const idle = this.clean;

    for (const hook of this.#hooks) {
      await this.#step("writing file data", () => hook.write(() => this.#slice()));
    }
    await this.#insertItems(lt, tree);
    await this.#step("writing allocators", () => {
      for (let e = this.#srch.at(-1); e !== undefined; e = this.#srch.at(-1)) {
        appendSrch(tree, lt.srchFile, e.hash, e.ino, e.id);
        this.#srch.pop();
      }
      data.finish();
      tree.alloc.finish();
    });
    lt.inodeCountDelta += this.#inodeDelta;
    this.#inodeDelta = 0;
    const wrote = this.#writer.dirtyCount > 0;
    await this.#step("writing metadata", async () => {
      while (!this.#writer.writeSlice(WRITE_CHUNK_BLOCKS)) await this.#slice();
    });
    if (!idle) await this.#step("flushing the data device", () => env.data.flush());
    if (wrote && !env.link.ownServer) {
      await this.#step("flushing the metadata device", () => env.meta.flush());
    }
    let { opened } = await this.#step("COMMIT_LOG_TREES", () => this.#commitLogTrees(lt));
    // Whatever was read before may lack what is evicted from now on.
    env.roots.forget();
    cycle.durable.pass();
    while (!items.markClean(CLEAN_CHUNK_PAGES)) await this.#slice();
    this.#state = "reopening";
    cycle.clean.pass();

    const next = await this.#step("GET_LOG_TREES", async () => {
      const asked = opened ?? this.#getLogTrees();
      opened = null;
      const lt = await asked;
      // A server that took the two requests in the other order told of the transaction that ends.
      return this.#follows(lt) ? lt : await this.#getLogTrees();
    });
    this.#install(next);
    this.#cycle = null;
    this.#commits++;
    cycle.opened.pass();
  }

  /** Dirty items into the log tree, and bloom bits for their locks: never one without the other. */
  async #insertItems(lt: LogTrees, tree: AllocTree): Promise<void> {
    const { items } = this.env;
    if (items.dirtyItems === 0) return;
    const seq = this.#seq;
    const meets = (item: DirtyItem, storedFlags: number) =>
      items.dirty.meets(item, storedFlags, seq);
    let maxSeq = 0;
    for (const list of items.dirty.collect(INSERT_CHUNK)) {
      for (const item of list) if (item.seq > maxSeq) maxSeq = item.seq;
      const progress = { done: 0 };
      await this.#step("writing items", () => insertList(tree, lt.itemRoot, list, progress, meets));
      await this.#slice();
    }
    lt.maxItemSeq = maxSeq;
    const { nr } = lt;
    await this.#step("writing the bloom filter", () => {
      for (const lock of items.dirty.locks()) {
        if (lock.bloomNr === nr) continue;
        setBloom(tree, lt.bloomRef, lock.start);
        lock.bloomNr = nr;
      }
    });
  }

  /** Runs a step of the commit until it succeeds. */
  async #step<T>(what: string, run: () => T | Promise<T>): Promise<T> {
    for (;;) {
      this.#checkAlive();
      try {
        const done = run();
        const result = done instanceof Promise ? await done : done;
        this.#checkAlive();
        return result;
      } catch (failure) {
        this.#checkAlive();
        const e = asCorrupt(failure, what);
        if (!(e instanceof FsError) || isDamage(e)) throw e;
        if (errnoOf(e) === ENOLINK) {
          this.abort();
          throw e;
        }
        this.env.log(`commit of transaction ${this.#seq}: ${what}: ${e.message}; trying again`);
      }
      await sleep(this.env.clock, RETRY_MS);
    }
  }

  #checkAlive(): void {
    if (this.#state === "dead") throw errnoError(ENOLINK);
  }

  /** Lets other events be served when this one has run for long. */
  async #slice(): Promise<void> {
    const { clock } = this.env;
    if (clock.now() < this.#sliceEnd) return;
    await sleep(clock, 0);
    this.#sliceEnd = clock.now() + SLICE_MS;
  }

  /**
   * COMMIT_LOG_TREES; resolves when the commit is durable. An own server gets GET_LOG_TREES right
   * behind it and makes both stable in one commit; `opened` is the promise of its answer. Not when
   * space is low: then the server's commit between the two brings freed blocks nearer to reuse.
   */
  async #commitLogTrees(lt: LogTrees): Promise<{ opened: Promise<LogTrees> | null }> {
    const { link } = this.env;
    const paired = link.ownServer && !lt.metaAvail.isLow && !lt.dataAvail.isLow;
    const committed = link.request(CMD_COMMIT_LOG_TREES, lt.bytes);
    if (!paired) {
      await committed;
      return { opened: null };
    }
    const opened = this.#getLogTrees();
    opened.catch(() => {}); // Looked at below, or in the next step.
    try {
      await committed;
    } catch (e) {
      // Sent again, it is refused once the transaction behind it was opened (03 §15.3). The other
      // answer then shows the tree as it is stable. (A server that finalizes it before it answers
      // would leave that open: merging, when it comes, must not do so behind a COMMIT.)
      if (errnoOf(e) !== EIO) throw e;
      const next = await opened;
      if (next.nr !== lt.nr || next.commitTransSeq !== lt.getTransSeq) throw e;
    }
    return { opened };
  }

  /** Does the server's answer open a transaction behind the one that ends? */
  #follows(next: LogTrees): boolean {
    return next.getTransSeq > this.#seq;
  }

  async #getLogTrees(): Promise<LogTrees> {
    const payload = await this.env.link.request(CMD_GET_LOG_TREES, NO_PAYLOAD);
    if (payload.length !== LogTrees.SIZE) throw new FormatError("a log tree of a wrong size");
    return LogTrees.at(payload);
  }

  /** The received transaction is the open one from now on. */
  #install(lt: LogTrees): void {
    const { env } = this;
    this.#checkAlive();
    const alloc = new ListAllocator(
      { cache: env.cache, writer: this.#writer },
      lt.metaAvail,
      lt.metaFreed,
      { deviceBlocks: env.metaBlocks },
    );
    const tree = { cache: env.cache, writer: this.#writer, alloc };
    this.#open = {
      lt,
      tree,
      data: new DataAllocator(lt, tree, env.dataBlocks),
      room: new Room(tree, lt, env.items),
    };
    assert(lt.getTransSeq > this.#seq, "transaction numbers do not grow");
    this.#seq = lt.getTransSeq;
    env.items.beginTransaction(this.#seq, lt.nr);
    this.#state = "open";
    this.#deadline = env.clock.setTimer(COMMIT_INTERVAL_MS, () => {
      this.#deadline = null;
      if (this.#state === "open") this.#start();
    });
  }

  #clearDeadline(): void {
    if (this.#deadline !== null) this.env.clock.clearTimer(this.#deadline);
    this.#deadline = null;
  }
}
