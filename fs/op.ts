/**
 * Operations and the driver that runs them: gather, then apply.
 *
 * An operation is a synchronous function of an `Op`. It first *gathers*: takes cluster locks, looks
 * items up, checks everything that can fail, takes a hold on the open transaction. When something
 * is not there it *suspends*: one preallocated value is thrown, the driver gets what is missing and
 * runs the function again from its start. Then it *applies*: changes items and memory, which can
 * neither suspend nor fail. One thread runs everything, so an apply is atomic against every other
 * operation and against commits.
 *
 * ```ts
 * fs.runner.run((op) => {
 *   op.lock(fs.locks.inode(dir), LOCK_WRITE);            // any order: see below
 *   const dirent = fs.items.lookup(op, fs.locks.inode(dir), direntKey);
 *   if (dirent !== null) throw errnoError(EEXIST);       // before apply everything may fail
 *   const ino = fs.inos.peek(op, false);                 // may suspend, takes nothing yet
 *   op.lock(fs.locks.inode(ino), LOCK_WRITE);
 *   const t = op.transSeq();                             // the index locks depend on it
 *   op.lock(fs.locks.index(TYPE_INODE_INDEX_META_SEQ, t), LOCK_WRITE_ONLY);
 *   op.hold({ allocating: true, items: 6 });             // last step of gathering
 *   op.apply();                                          // from here on nothing throws
 *   fs.inos.take(false);
 *   fs.items.create(op, fs.locks.inode(ino), inodeKey(ino), value);
 *   …
 * }, caller)
 * ```
 *
 * Rules for authors:
 * - Every change of memory, except through `once`, belongs after `apply()`: gathering runs again
 *   and again. An operation that changes no items may call `apply()` without a hold.
 * - What is read in gather (items are windows of the cache) is only good for this run; lock objects
 *   too: ask the lock client for them in every run, an idle one may have been freed in between.
 * - Locks may be asked for in any order and again. The operation's set of locks is remembered:
 *   when one is missing all pins are dropped and the whole set is taken in the order of 02 §1.4
 *   before the next run, so that nodes cannot wait for each other in a circle.
 * - Everything that was waited for stays (locks pinned, read pages in memory) until the operation
 *   ends, so each run gets further than the one before.
 * - Never catch what you do not know: a suspension passes through `throw`. Never await inside.
 */

import { asCorrupt, assert, AssertionError, CorruptError, FsError, StaleError } from "./errors.ts";
import type { Random } from "./env.ts";
import { EINTR, EIO } from "../format/errno.ts";
import type { Caller } from "./caller.ts";
import type { InodeHandle } from "./inode.ts";
import { type ClusterLock, type LockClient, satisfies } from "./lock_client.ts";
import { LOCK_WRITE } from "../format/wire.ts";
import type { HoldOptions, Trans } from "./trans.ts";

/** What a suspending operation throws. Only the driver catches it. */
export const SUSPEND: unique symbol = Symbol("suspended operation");
/** What ends a rehearsal at its first change, in paranoid mode. */
const REHEARSED: unique symbol = Symbol("rehearsed operation");

/** Wanted locks with their modes; the pins of an operation. A few entries, so plain scans. */
export class LockSet {
  /** The first `size` entries count; arrays that shrink would be allocated anew each time. */
  readonly locks: ClusterLock[] = [];
  readonly modes: number[] = [];
  size = 0;

  add(lock: ClusterLock, mode: number): void {
    this.locks[this.size] = lock;
    this.modes[this.size++] = mode;
  }

  /** Is `lock` in the set in a mode that allows `mode`? */
  has(lock: ClusterLock, mode: number): boolean {
    for (let i = 0; i < this.size; i++) {
      if (this.locks[i] === lock && satisfies(this.modes[i]!, mode)) return true;
    }
    return false;
  }

  /** Adds `lock`, or raises READ to WRITE. */
  merge(lock: ClusterLock, mode: number): void {
    let at = 0;
    while (at < this.size && this.locks[at] !== lock) at++;
    if (at === this.size) return this.add(lock, mode);
    const old = this.modes[at]!;
    if (satisfies(old, mode)) return;
    assert(mode === LOCK_WRITE, `${lock} wanted in modes ${old} and ${mode} by one operation`);
    this.modes[at] = mode;
  }

  clear(): void {
    this.size = 0;
  }
}

/** Ends the waits of the operations it was given to, as for a killed process. */
export class Cancel {
  #error: FsError | null = null;
  #promise: Promise<never> | null = null;
  #reject: (e: FsError) => void = () => {};

  get error(): FsError | null {
    return this.#error;
  }

  /** Operations that wait or will wait fail with `errno`; one that applies is not disturbed. */
  cancel(errno = EINTR): void {
    if (this.#error !== null) return;
    this.#error = new FsError(errno);
    this.#reject(this.#error);
  }

  /** Never resolves; rejects on `cancel`. */
  get promise(): Promise<never> {
    if (this.#promise === null) {
      this.#promise = new Promise((_, reject) => this.#reject = reject);
      this.#promise.catch(() => {});
      if (this.#error !== null) this.#reject(this.#error);
    }
    return this.#promise;
  }
}

/** Reading ahead of an operation: pages it caused to be read are not evicted while it is live. */
export interface FillPin {
  live: boolean;
}

const GATHER = 0;
const APPLY = 1;

/** How a suspended run is to be continued. */
const WAIT_LOCKS = 0;
const WAIT_PINNED = 1;
const WAIT_FREE = 2;

export class Op {
  caller: Caller | null = null;
  /** Kernel page write-out and truncation under a lock that is being revoked (design §6). */
  writeOut = false;
  /** The inode whose number is the operation's result, for whoever answers with its fields. */
  result: InodeHandle | null = null;
  /** @internal Pages read for this operation. */
  fillPin: FillPin | null = null;
  /** @internal Locks that the driver took before this run. */
  readonly held = new LockSet();
  /** @internal Locks that this run asked for and has. */
  readonly pins = new LockSet();
  /** @internal Locks that this run asked for and has not. */
  readonly missing = new LockSet();
  /** @internal */
  readonly waits: Promise<unknown>[] = [];
  /** @internal */
  resume = WAIT_LOCKS;
  /** @internal Paranoid mode. */
  paranoia: Paranoia | null = null;

  #phase = GATHER;
  #rehearsing = false;
  #holding = false;
  #kept: Map<string, unknown> | null = null;

  constructor(
    private readonly locks: LockClient,
    private readonly trans: Trans,
  ) {}

  /** Pins `lock` for `mode` until the operation ends; suspends until it is granted. */
  lock(lock: ClusterLock, mode: number): void {
    assert(this.#phase === GATHER, "a lock is asked for after the operation's first change");
    if (this.paranoia !== null) this.#scrutinise(lock.start.secondLo ^ lock.start.firstLo, mode);
    if (this.pins.has(lock, mode)) return;
    if (this.locks.tryPin(this, lock, mode)) {
      this.pins.add(lock, mode);
      return;
    }
    this.missing.add(lock, mode);
    this.resume = WAIT_LOCKS;
    throw SUSPEND;
  }

  /** As `lock` for each; suspends once for all that are missing. */
  lockAll(locks: readonly ClusterLock[], mode: number): void {
    assert(this.#phase === GATHER, "locks are asked for after the operation's first change");
    for (const lock of locks) {
      if (this.paranoia !== null) this.#scrutinise(lock.start.secondLo ^ lock.start.firstLo, mode);
      if (this.pins.has(lock, mode)) continue;
      if (this.locks.tryPin(this, lock, mode)) this.pins.add(lock, mode);
      else this.missing.add(lock, mode);
    }
    if (this.missing.size > 0) {
      this.resume = WAIT_LOCKS;
      throw SUSPEND;
    }
  }

  /** Does this operation have `lock` in a mode that allows `mode`? */
  holdsLock(lock: ClusterLock, mode: number): boolean {
    return this.pins.has(lock, mode);
  }

  /**
   * Suspends until `p` settles; the operation fails if it rejects. All locks are let go meanwhile:
   * for waits that may depend on other operations.
   */
  wait(p: Promise<unknown>): never {
    return this.#suspend(p, WAIT_FREE);
  }

  /** As `wait`, keeping the locks: only for what never waits for a cluster lock. */
  waitPinned(p: Promise<unknown>): never {
    return this.#suspend(p, WAIT_PINNED);
  }

  #suspend(p: Promise<unknown>, resume: number): never {
    if (this.#phase !== GATHER) {
      p.catch(() => {});
      throw new AssertionError("an operation waits after its first change");
    }
    this.waits.push(p);
    this.resume = resume;
    throw SUSPEND;
  }

  /** A value that survives re-runs: `make` runs once per operation (and may suspend). */
  once<T>(slot: string, make: () => T): T {
    this.#kept ??= new Map();
    if (!this.#kept.has(slot)) this.#kept.set(slot, make());
    return this.#kept.get(slot) as T;
  }

  /** The open transaction's number, "T" of 02 §1.1; suspends while a commit is written. */
  transSeq(): number {
    return this.trans.openSeq(this);
  }

  /**
   * A hold on the open transaction (03 §11.3), to be the last step of gathering; returns T. There
   * is nothing to release: nothing else runs between here and the operation's end.
   *
   * Throws ENOSPC (after pending deletions and a commit were waited for) and, after a forced
   * shutdown, ENOLINK. With `dataBlocks` that many blocks can be had from `trans.allocData`.
   */
  hold(options: HoldOptions): number {
    assert(this.#phase === GATHER, "a hold is taken after the operation's first change");
    if (this.paranoia !== null) {
      this.#scrutinise(2, options.allocating ? 1 : 0);
      this.paranoia.atHold = true;
    }
    const seq = this.trans.hold(this, options);
    this.#holding = true;
    return seq;
  }

  /** Gathering is over: from here on nothing may suspend or fail. */
  apply(): void {
    if (this.#phase === APPLY) return;
    assert(this.missing.size === 0 && this.waits.length === 0, "apply with something missing");
    if (this.#rehearsing) throw REHEARSED;
    if (this.paranoia !== null) this.paranoia.compare();
    this.#phase = APPLY;
  }

  get applying(): boolean {
    return this.#phase === APPLY;
  }

  /** @internal Changes of items and transaction state check this. */
  assertHolding(): void {
    assert(this.#phase === APPLY && this.#holding, "a change outside apply() with a hold");
  }

  /** @internal Gather reads check this. */
  assertGathering(): void {
    assert(this.#phase === GATHER, "an item is fetched after the operation's first change");
  }

  /** @internal Paranoid mode: a gather read and the length of what it found. */
  noteRead(length: number): void {
    if (this.paranoia !== null) this.#scrutinise(length, 3);
  }

  #scrutinise(a: number, b: number): void {
    const p = this.paranoia!;
    p.mix(a);
    p.mix(b);
    if (this.#phase === GATHER && p.forceSuspension()) {
      this.waits.push(Promise.resolve());
      this.resume = WAIT_PINNED;
      throw SUSPEND;
    }
  }

  /** @internal */
  beginRun(rehearsing: boolean): void {
    this.#phase = GATHER;
    this.#holding = false;
    this.#rehearsing = rehearsing;
  }

  /** @internal The first run begins. */
  beginOp(caller: Caller | null, paranoia: Paranoia | null): void {
    this.caller = caller;
    this.paranoia = paranoia;
    this.writeOut = false;
    this.beginRun(false);
  }

  /** @internal The locks that this run took are held for the next one. */
  keepPins(): void {
    const { pins, held } = this;
    for (let i = 0; i < pins.size; i++) held.add(pins.locks[i]!, pins.modes[i]!);
    pins.clear();
  }

  /** @internal Lets go of the locks that this run took. */
  dropPins(): void {
    if (this.pins.size > 0) this.locks.unpin(this.pins);
  }

  /** @internal Lets go of the locks that the driver took for this run. */
  dropHeld(): void {
    if (this.held.size > 0) this.locks.unpin(this.held);
  }

  /** @internal The operation is over. */
  endOp(): void {
    this.dropPins();
    this.dropHeld();
    this.missing.clear();
    this.waits.length = 0;
    if (this.fillPin !== null) {
      this.fillPin.live = false;
      this.fillPin = null;
    }
    this.#kept = null;
    this.result = null;
    this.caller = null;
    this.paranoia = null;
  }
}

/** Settings of paranoid mode: tests, the simulator, debugging. */
export interface ParanoidOptions {
  random: Random;
  /** Of 1000 gather steps, how many suspend although nothing is missing. */
  suspendPerMille: number;
}

/** What paranoid mode knows of one operation. */
class Paranoia {
  #hash = 0;
  #rehearsed = 0;
  /** So that an operation ends: forced suspensions become impossible after so many. */
  #left = 8;
  /** This run got as far as its hold. */
  atHold = false;

  constructor(private readonly options: ParanoidOptions) {}

  mix(n: number): void {
    this.#hash = Math.imul(this.#hash ^ (n & 0xffffffff), 0x01000193) >>> 0;
  }

  forceSuspension(): boolean {
    if (this.#left === 0 || this.options.random.below(1000) >= this.options.suspendPerMille) {
      return false;
    }
    this.#left--;
    return true;
  }

  begin(): void {
    this.#hash = 0x811c9dc5;
    this.atHold = false;
  }

  rehearsed(): void {
    this.#rehearsed = this.#hash;
    this.#left = 0;
    this.begin();
  }

  compare(): void {
    assert(this.#hash === this.#rehearsed, "two gathers of one operation saw different things");
  }
}

export interface OpRunnerOptions {
  paranoid?: ParanoidOptions | null;
  /**
   * A defect, or damage that was found too late: an operation failed after its first change. Memory
   * can no longer be trusted.
   */
  onDefect?: (e: AssertionError | CorruptError) => void;
  /** An operation failed with EIO: told before its caller. */
  onIoError?: (e: FsError) => void;
}

/** Runs operations; see the head of the file. */
export class OpRunner {
  readonly #idle: Op[] = [];
  readonly #paranoid: ParanoidOptions | null;
  readonly #onDefect: (e: AssertionError | CorruptError) => void;
  readonly #onIoError: (e: FsError) => void;
  #active = 0;

  constructor(
    private readonly locks: LockClient,
    private readonly trans: Trans,
    /** Runs after every operation: trims caches. */
    private readonly afterOp: () => void,
    options: OpRunnerOptions = {},
  ) {
    this.#paranoid = options.paranoid ?? null;
    this.#onDefect = options.onDefect ?? (() => {});
    this.#onIoError = options.onIoError ?? (() => {});
  }

  /** Operations that run or are suspended. */
  get active(): number {
    return this.#active;
  }

  /**
   * Runs `fn` to its result; a promise only if it had to suspend. Throws or rejects with what `fn`
   * throws (FsError), and with the error of `cancel` while suspended.
   */
  run<T>(fn: (op: Op) => T, caller: Caller | null = null, cancel?: Cancel): T | Promise<T> {
    const op = this.#idle.pop() ?? new Op(this.locks, this.trans);
    const paranoid = this.#paranoid;
    op.beginOp(caller, paranoid === null ? null : new Paranoia(paranoid));
    this.#active++;
    let result: T;
    try {
      result = paranoid === null ? fn(op) : this.#runTwice(op, fn);
    } catch (e) {
      if (e === SUSPEND) return this.#drive(op, fn, cancel);
      throw this.#failed(op, e);
    }
    this.#end(op);
    return result;
  }

  async #drive<T>(op: Op, fn: (op: Op) => T, cancel: Cancel | undefined): Promise<T> {
    for (;;) {
      try {
        assert(!op.applying, "an operation suspended after its first change");
        await this.#provide(op, cancel);
      } catch (e) {
        throw this.#failed(op, e);
      }
      let result: T;
      try {
        op.beginRun(false);
        result = op.paranoia === null ? fn(op) : this.#runTwice(op, fn);
      } catch (e) {
        if (e === SUSPEND) continue;
        throw this.#failed(op, e);
      }
      this.#end(op);
      return result;
    }
  }

  /** Gets what the last run missed. */
  async #provide(op: Op, cancel: Cancel | undefined): Promise<void> {
    if (cancel !== undefined && cancel.error !== null) {
      for (const p of op.waits) p.catch(() => {});
      throw cancel.error;
    }
    let ready: Promise<unknown>;
    if (op.resume === WAIT_LOCKS) {
      const wanted = new LockSet();
      for (let i = 0; i < op.pins.size; i++) wanted.merge(op.pins.locks[i]!, op.pins.modes[i]!);
      for (let i = 0; i < op.missing.size; i++) {
        wanted.merge(op.missing.locks[i]!, op.missing.modes[i]!);
      }
      op.missing.clear();
      const acquired = this.locks.acquireAll(wanted, op.writeOut);
      // After asking, so that none of them is freed or revoked in between without need.
      op.dropPins();
      op.dropHeld();
      if (cancel !== undefined) {
        acquired.then((set) => cancel.error !== null && this.locks.unpin(set), () => {});
      }
      ready = acquired.then((set) => {
        if (cancel !== undefined && cancel.error !== null) return;
        for (let i = 0; i < set.size; i++) op.held.add(set.locks[i]!, set.modes[i]!);
      });
    } else {
      // What earlier runs needed stays too: else two operations can take turns in losing it.
      if (op.resume === WAIT_PINNED) {
        op.keepPins();
      } else {
        op.dropHeld();
        op.dropPins();
      }
      ready = Promise.all(op.waits);
      op.waits.length = 0;
    }
    if (cancel === undefined) await ready;
    else await Promise.race([ready, cancel.promise]);
  }

  /** Paranoid mode: rehearse the gather, then run, and compare what the two saw. */
  #runTwice<T>(op: Op, fn: (op: Op) => T): T {
    const p = op.paranoia!;
    p.begin();
    op.beginRun(true);
    let failure: unknown = null;
    try {
      fn(op);
    } catch (e) {
      if (e === SUSPEND) throw e;
      if (e !== REHEARSED) failure = e;
    }
    p.rehearsed();
    // Not let go: what waits to revoke one of them would make the second run suspend.
    op.keepPins();
    op.beginRun(false);
    try {
      const result = fn(op);
      assert(failure === null, `only the rehearsal of an operation failed: ${failure}`);
      p.compare();
      return result;
    } catch (e) {
      // The space that the rehearsal's hold took may leave too little room for another one.
      if (e === SUSPEND) assert(p.atHold, "an operation suspended although its rehearsal did not");
      throw e;
    }
  }

  #failed(op: Op, failure: unknown): unknown {
    const applying = op.applying;
    this.#end(op);
    // What an operation reads is stored; numbers of requests were checked before. Roots that may be
    // outdated are renewed where they are used: what does not match here is damage.
    const e = failure instanceof StaleError
      ? failure.asDamage
      : asCorrupt(failure, "a stored item");
    if (!applying) {
      if (e instanceof FsError && e.errno === EIO) this.#onIoError(e);
      return e;
    }
    if (e instanceof CorruptError) {
      // Found only now, e.g. space that is in use although it was said to be free.
      this.#onDefect(e);
      return e;
    }
    const defect = new AssertionError(`an operation failed after its first change: ${e}`);
    defect.cause = e;
    this.#onDefect(defect);
    return defect;
  }

  #end(op: Op): void {
    op.endOp();
    this.#active--;
    if (this.#idle.length < 64) this.#idle.push(op);
    this.afterOp();
  }
}
