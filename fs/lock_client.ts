/**
 * Cluster locks of this mount (04 §20, §21): which key ranges may be cached and changed here.
 *
 * Invariants:
 * - One request per lock is unanswered at any time; invalidations of a lock run one by one in order.
 * - Operations pin locks (`users`); a pinned lock's mode never becomes weaker than its pins. The
 *   one thread makes "hold" and "pin" the same: there is no other way to use a lock.
 * - While an invalidation waits, the lock is closed (`openMode`): only operations that hold it
 *   already, and kernel page write-out, may pin it in what it loses.
 * - A lock without mode, users, waiters and messages does not exist (is not in the maps).
 * - Items are cached only under locks that are not NULL (item_cache.ts).
 */

import {
  INODE_GROUP_SIZE,
  TYPE_INODE_INDEX_DATA_SEQ,
  TYPE_INODE_INDEX_META_SEQ,
  ZONE_FS,
  ZONE_INODE_INDEX,
  ZONE_LOCK,
  ZONE_ORPHAN,
  ZONE_QUOTA,
  ZONE_XATTR_INDX,
  ZONE_XATTR_TOTL,
} from "../format/constants.ts";
import { ENOLINK } from "../format/errno.ts";
import { Key } from "../format/key.ts";
import { FormatError } from "../format/bytes.ts";
import {
  indexLockRange,
  INDX_LOCK_RANGE,
  inodeLockRange,
  type LockRange,
  ORPHAN_LOCK_RANGE,
  QUOTA_LOCK_RANGE,
  RENAME_LOCK_RANGE,
  TOTL_LOCK_RANGE,
} from "../format/lock_ranges.ts";
import {
  CMD_LOCK,
  CMD_LOCK_RECOVER,
  LOCK_NULL,
  LOCK_READ,
  LOCK_WRITE,
  LOCK_WRITE_ONLY,
  LockRecover,
  NetLock,
} from "../format/wire.ts";
import { assert, AssertionError, errnoError, FsError } from "./errors.ts";
import type { Page } from "./item_page.ts";
import type { ServerLink } from "./link.ts";
import { LockSet, type Op } from "./op.ts";

/** Does a granted mode satisfy a wanted one (04 §20.1)? */
export function satisfies(granted: number, wanted: number): boolean {
  return granted === wanted || (granted === LOCK_WRITE && wanted === LOCK_READ);
}

export const readable = (mode: number): boolean => mode === LOCK_READ || mode === LOCK_WRITE;
export const writable = (mode: number): boolean => mode === LOCK_WRITE || mode === LOCK_WRITE_ONLY;

/** What is left of `mode` when it is reduced to `next` (04 §21.4: LOCK_READ or LOCK_NULL). */
function reduced(mode: number, next: number): number {
  return next === LOCK_READ && readable(mode) ? LOCK_READ : LOCK_NULL;
}

// Kinds of locks in the order in which they are taken (02 §1.4).
export const RANK_RENAME = 0;
export const RANK_INODE = 1;
export const RANK_QUOTA = 2;
export const RANK_ORPHAN = 3;
export const RANK_TOTL = 4;
export const RANK_INDX = 5;
export const RANK_INDEX = 6;

interface Waiter {
  readonly mode: number;
  readonly writeOut: boolean;
  readonly resolve: () => void;
  readonly reject: (e: FsError) => void;
}

interface Invalidation {
  readonly prev: number;
  readonly next: number;
  readonly payload: Uint8Array;
  readonly respond: (payload: Uint8Array) => void;
}

/** One cluster lock. Everybody may read it; only the lock client and the item cache change it. */
export class ClusterLock {
  /** What local users may have. */
  mode = LOCK_NULL;
  /** What operations that do not hold the lock may still get: less than `mode` while closed. */
  openMode = LOCK_NULL;
  /** The mode before the invalidation that is in progress, else LOCK_NULL. */
  invalidatingMode = LOCK_NULL;
  /** Version floor of items written under it (04 §20.4). */
  writeSeq = 0;
  /** Grows whenever the lock becomes readable after it was not. */
  refreshGen = 0;
  /** When it last became readable, in ticks of `LockClient.tick`: older roots do not serve it. */
  readableSince = 0;
  /** The transaction in which an item under this lock was changed last. */
  dirtySeq = 0;
  /** The log tree (nr) whose bloom filter has this lock's bits. */
  bloomNr = 0;
  /** Item cache: pages in key order. */
  pages: Page[] = [];

  /** @internal */
  requestPending = false;
  /** @internal Pins by mode. */
  readonly users: number[] = [0, 0, 0, 0];
  /** @internal Operations whose lock set contains it but that have not pinned it yet. */
  awaited = 0;
  /** @internal */
  readonly waiters: Waiter[] = [];
  /** @internal */
  readonly invalidations: Invalidation[] = [];
  /** @internal An invalidation is being worked on. */
  working = false;
  /** @internal Wakes that work when users have left. */
  onUnpinned: (() => void) | null = null;
  /** @internal Recently used, for choosing idle locks to give up. */
  recent = true;
  /** @internal Place in the ring of all locks; −1: does not exist any more. */
  ringIndex = -1;

  readonly start: Key;
  readonly end: Key;

  constructor(
    readonly rank: number,
    range: LockRange,
    /** Inode group locks: the first of its 1024 inode numbers; else −1. */
    readonly firstIno: number,
  ) {
    this.start = range.start;
    this.end = range.end;
  }

  /** Negative if this lock is to be taken before `other`. */
  compare(other: ClusterLock): number {
    return this.rank - other.rank || this.start.compare(other.start);
  }

  covers(key: Key): boolean {
    return this.start.compare(key) <= 0 && key.compare(this.end) <= 0;
  }

  get idle(): boolean {
    return !this.requestPending && this.awaited === 0 && this.waiters.length === 0 &&
      this.invalidations.length === 0 &&
      this.users[LOCK_READ] === 0 && this.users[LOCK_WRITE] === 0 &&
      this.users[LOCK_WRITE_ONLY] === 0;
  }

  toString(): string {
    return `lock ${this.start}`;
  }
}

/** What losing a lock asks of the rest of the engine. */
export interface LockHooks {
  /** The open transaction's number. */
  openSeq(): number;
  /** Resolves when all changes up to now are durable; rejects only after a forced shutdown. */
  makeDurable(): Promise<void>;
  /** Forgets the items of the lock's range; none may be dirty. */
  dropItems(lock: ClusterLock): void;
  /** The quota rules must be forgotten. */
  onInvalidateQuota(): void;
  /**
   * The inode group [firstIno, lastIno] is about to be reduced to `mode`: the kernel's pages (for
   * LOCK_READ only those that a mapping may dirty), attributes and names must go. Write-out that this
   * causes may still use the lock (`Op.writeOut`).
   */
  onInvalidateInodes(firstIno: number, lastIno: number, mode: number): void | Promise<void>;
}

const MAX_RECOVER_LOCKS = 22;

export class LockClient {
  readonly #inodes = new Map<number, ClusterLock>();
  /** What `inode` gave last, since the next one is often of the same group. */
  #lastInode: ClusterLock | null = null;
  readonly #metaIndex = new Map<number, ClusterLock>();
  readonly #dataIndex = new Map<number, ClusterLock>();
  readonly #single = new Map<number, ClusterLock>();
  /** All locks, in no order; the hand goes round to find idle ones. */
  readonly #ring: ClusterLock[] = [];
  #hand = 0;
  #refreshGen = 0;
  #recovering: ClusterLock[] = [];
  #failure: FsError | null = null;
  /** After shutdown invalidations are answered without work. */
  #stopped = false;
  /** Counts grants and root fetches, to tell which came first. */
  tick = 0;

  constructor(
    private readonly link: ServerLink,
    private readonly hooks: LockHooks,
    /** Read at each use: it may be changed while mounted. */
    private readonly limits: { readonly lockIdleCount: number },
  ) {
    link.setHandler(CMD_LOCK, (payload, respond) => this.#invalidate(payload, respond));
    link.setHandler(CMD_LOCK_RECOVER, (payload, respond) => this.#recover(payload, respond));
  }

  /** The lock of the inode group that contains `ino`. */
  inode(ino: number): ClusterLock {
    const last = this.#lastInode;
    if (last !== null && last.ringIndex >= 0) {
      const nr = ino - last.firstIno;
      if (nr >= 0 && nr < INODE_GROUP_SIZE) return last;
    }
    const group = Math.floor(ino / INODE_GROUP_SIZE);
    return this.#lastInode = this.#inodes.get(group) ?? this.#addInode(group);
  }

  #addInode(group: number): ClusterLock {
    const first = group * INODE_GROUP_SIZE;
    const lock = new ClusterLock(RANK_INODE, inodeLockRange(first), first);
    return this.#add(this.#inodes, group, lock);
  }

  /** The lock of the index items of `type` (TYPE_INODE_INDEX_…) around sequence number `seq`. */
  index(type: number, seq: number): ClusterLock {
    const map = type === TYPE_INODE_INDEX_META_SEQ ? this.#metaIndex : this.#dataIndex;
    const group = Math.floor(seq / INODE_GROUP_SIZE);
    const lock = map.get(group);
    if (lock !== undefined) return lock;
    assert(
      type === TYPE_INODE_INDEX_META_SEQ || type === TYPE_INODE_INDEX_DATA_SEQ,
      `no index of type ${type}`,
    );
    return this.#add(map, group, new ClusterLock(RANK_INDEX, indexLockRange(type, seq), -1));
  }

  /** WRITE_ONLY only. */
  orphan(): ClusterLock {
    return this.#one(ZONE_ORPHAN, RANK_ORPHAN, ORPHAN_LOCK_RANGE);
  }

  /** WRITE only; it covers no items. */
  rename(): ClusterLock {
    return this.#one(ZONE_LOCK, RANK_RENAME, RENAME_LOCK_RANGE);
  }

  /** WRITE_ONLY only. */
  totl(): ClusterLock {
    return this.#one(ZONE_XATTR_TOTL, RANK_TOTL, TOTL_LOCK_RANGE);
  }

  /** WRITE_ONLY only. */
  indx(): ClusterLock {
    return this.#one(ZONE_XATTR_INDX, RANK_INDX, INDX_LOCK_RANGE);
  }

  /** READ or WRITE. */
  quota(): ClusterLock {
    return this.#one(ZONE_QUOTA, RANK_QUOTA, QUOTA_LOCK_RANGE);
  }

  #one(zone: number, rank: number, range: LockRange): ClusterLock {
    return this.#single.get(zone) ??
      this.#add(this.#single, zone, new ClusterLock(rank, range, -1));
  }

  #add(map: Map<number, ClusterLock>, id: number, lock: ClusterLock): ClusterLock {
    map.set(id, lock);
    lock.ringIndex = this.#ring.length;
    this.#ring.push(lock);
    return lock;
  }

  /** Number of locks known here, with and without a mode. */
  get count(): number {
    return this.#ring.length;
  }

  /** Every lock, in no order, for diagnostics. */
  all(): readonly ClusterLock[] {
    return this.#ring;
  }

  #map(lock: ClusterLock): [Map<number, ClusterLock>, number] {
    const { start } = lock;
    if (lock.rank === RANK_INODE) return [this.#inodes, lock.firstIno / INODE_GROUP_SIZE];
    if (lock.rank !== RANK_INDEX) return [this.#single, start.zone];
    const map = start.type === TYPE_INODE_INDEX_META_SEQ ? this.#metaIndex : this.#dataIndex;
    return [map, start.second / INODE_GROUP_SIZE];
  }

  /** The existing lock that starts exactly at `key`. */
  #find(key: Key): ClusterLock | null {
    const { zone, type } = key;
    let lock: ClusterLock | undefined;
    if (zone === ZONE_FS) {
      lock = this.#inodes.get(Math.floor(key.first / INODE_GROUP_SIZE));
    } else if (zone === ZONE_INODE_INDEX) {
      const map = type === TYPE_INODE_INDEX_META_SEQ ? this.#metaIndex : this.#dataIndex;
      lock = map.get(Math.floor(key.second / INODE_GROUP_SIZE));
    } else {
      lock = this.#single.get(zone);
    }
    return lock !== undefined && lock.start.equals(key) ? lock : null;
  }

  // ---- pins ----

  #usable(lock: ClusterLock, mode: number, writeOut: boolean): boolean {
    return satisfies(lock.openMode, mode) || (writeOut && satisfies(lock.mode, mode));
  }

  /** @internal Op.lock: pins if nothing has to be waited for. */
  tryPin(op: Op, lock: ClusterLock, mode: number): boolean {
    if (
      !this.#usable(lock, mode, op.writeOut) &&
      !(satisfies(lock.mode, mode) && (op.pins.has(lock, mode) || op.held.has(lock, mode)))
    ) return false;
    if (this.#failure !== null) throw this.#failure;
    lock.users[mode]!++;
    lock.recent = true;
    return true;
  }

  /** @internal Lets go of all pins of `set` and empties it. */
  unpin(set: LockSet): void {
    const { locks, modes, size } = set;
    for (let i = 0; i < size; i++) {
      const lock = locks[i]!;
      const left = --lock.users[modes[i]!]!;
      if (left < 0) throw new AssertionError(`${lock} unpinned more often than pinned`);
      if (lock.invalidations.length > 0) this.#advance(lock);
      else if (lock.mode === LOCK_NULL) this.#freeIfIdle(lock);
    }
    set.clear();
  }

  /**
   * @internal Pins all of `wanted`, in order, asking for all that are missing at once; a lock that
   * was granted early but not yet pinned may be lost again meanwhile and is then asked for again.
   */
  async acquireAll(wanted: LockSet, writeOut: boolean): Promise<LockSet> {
    const order = Array.from({ length: wanted.size }, (_, i) => i);
    order.sort((a, b) => wanted.locks[a]!.compare(wanted.locks[b]!));
    const locks = order.map((i) => this.#existing(wanted.locks[i]!));
    const modes = order.map((i) => wanted.modes[i]!);
    for (const lock of locks) lock.awaited++;
    const taken = new LockSet();
    let at = 0;
    try {
      for (let i = 0; i < locks.length; i++) {
        const lock = locks[i]!;
        if (!this.#usable(lock, modes[i]!, writeOut)) this.#ask(lock, modes[i]!);
      }
      for (; at < locks.length; at++) {
        const lock = locks[at]!;
        const mode = modes[at]!;
        if (this.#failure !== null) throw this.#failure;
        if (this.#usable(lock, mode, writeOut)) {
          lock.users[mode]!++;
        } else {
          await new Promise<void>((resolve, reject) => {
            lock.waiters.push({ mode, writeOut, resolve, reject });
            this.#ask(lock, mode);
          });
        }
        lock.recent = true;
        lock.awaited--;
        taken.add(lock, mode);
      }
    } catch (e) {
      for (let i = at; i < locks.length; i++) {
        locks[i]!.awaited--;
        this.#freeIfIdle(locks[i]!);
      }
      this.unpin(taken);
      throw e;
    }
    this.#shrink();
    return taken;
  }

  /** `lock`, or what replaced it since it was freed. */
  #existing(lock: ClusterLock): ClusterLock {
    if (lock.ringIndex >= 0) return lock;
    const [map, id] = this.#map(lock);
    return map.get(id) ?? this.#add(map, id, lock);
  }

  // ---- requests and grants (04 §21.2, §21.3) ----

  /** Asks the server for `mode` unless a message is under way that will be followed up. */
  #ask(lock: ClusterLock, mode: number): void {
    if (lock.requestPending || lock.invalidations.length > 0 || this.#failure !== null) return;
    lock.requestPending = true;
    const msg = NetLock.alloc();
    msg.key = lock.start;
    msg.oldMode = lock.mode;
    msg.newMode = mode;
    this.link.submit(CMD_LOCK, msg.bytes, (errno, payload) => this.#granted(lock, errno, payload));
  }

  #granted(lock: ClusterLock, errno: number, payload: Uint8Array): void {
    assert(lock.requestPending, `${lock} was granted without having been asked for`);
    lock.requestPending = false;
    if (errno !== 0) {
      const error = new FsError(errno, `${lock} could not be had`);
      for (const w of lock.waiters.splice(0)) w.reject(error);
      this.#freeIfIdle(lock);
      return;
    }
    if (payload.length !== NetLock.SIZE) throw new FormatError("lock grant of a wrong size");
    const msg = NetLock.at(payload);
    const { oldMode, newMode } = msg;
    assert(
      lock.pages.length === 0 || (readable(oldMode) && readable(newMode)),
      `${lock} granted ${oldMode}→${newMode} while its items are cached`,
    );
    if (readable(newMode) && !readable(lock.mode)) {
      lock.refreshGen = ++this.#refreshGen;
      lock.readableSince = ++this.tick;
    }
    lock.mode = newMode;
    lock.writeSeq = msg.writeSeq;
    lock.openMode = lock.invalidations.length > 0
      ? reduced(newMode, lock.invalidations[0]!.next)
      : newMode;
    this.#serve(lock);
  }

  /** Pins for the waiters that can be served; asks again for the others. */
  #serve(lock: ClusterLock): void {
    const { waiters } = lock;
    let kept = 0;
    for (const w of waiters) {
      if (this.#usable(lock, w.mode, w.writeOut)) {
        lock.users[w.mode]!++;
        w.resolve();
      } else {
        waiters[kept++] = w;
      }
    }
    waiters.length = kept;
    if (kept > 0) this.#ask(lock, waiters[0]!.mode);
    else this.#freeIfIdle(lock);
  }

  #freeIfIdle(lock: ClusterLock): void {
    if (lock.mode !== LOCK_NULL || lock.ringIndex < 0 || !lock.idle) return;
    assert(lock.pages.length === 0, `${lock} is freed with cached items`);
    const [map, id] = this.#map(lock);
    map.delete(id);
    const last = this.#ring.pop()!;
    if (last !== lock) {
      this.#ring[lock.ringIndex] = last;
      last.ringIndex = lock.ringIndex;
    }
    lock.ringIndex = -1;
  }

  /** Gives up one idle lock when there are too many (04 §21.5). */
  #shrink(): void {
    const ring = this.#ring;
    if (ring.length <= this.limits.lockIdleCount || this.#failure !== null) return;
    for (let looked = 0; looked < 64 && ring.length > 0; looked++) {
      if (this.#hand >= ring.length) this.#hand = 0;
      const lock = ring[this.#hand]!;
      if (!lock.idle) {
        this.#hand++;
      } else if (lock.mode === LOCK_NULL) {
        this.#freeIfIdle(lock);
      } else if (lock.recent) {
        lock.recent = false;
        this.#hand++;
      } else {
        this.#ask(lock, LOCK_NULL);
        return;
      }
    }
  }

  // ---- invalidation (04 §21.4) ----

  #invalidate(payload: Uint8Array, respond: (payload: Uint8Array) => void): void {
    if (payload.length !== NetLock.SIZE) throw new FormatError("lock request of a wrong size");
    const msg = NetLock.at(payload);
    const { oldMode: prev, newMode: next } = msg;
    if (!(next === LOCK_NULL || (next === LOCK_READ && prev === LOCK_WRITE))) {
      throw new FormatError(`invalidation of a lock from mode ${prev} to ${next}`);
    }
    const lock = this.#find(msg.key);
    if (lock === null) {
      respond(payload);
      return;
    }
    lock.invalidations.push({ prev, next, payload: payload.slice(), respond });
    this.#advance(lock);
  }

  /** Begins the first invalidation once nobody uses what it takes away. */
  #advance(lock: ClusterLock): void {
    const inv = lock.invalidations[0]!;
    if (lock.working) {
      lock.onUnpinned?.();
      return;
    }
    lock.openMode = reduced(lock.mode, inv.next);
    if (!this.#vacated(lock, inv.next)) return;
    lock.working = true;
    this.#work(lock, inv).catch((e) => {
      // Only a forced shutdown ends here; the server will fence this mount.
      if (!(e instanceof FsError)) throw e;
      this.fail(e);
    });
  }

  #vacated(lock: ClusterLock, next: number): boolean {
    const { users } = lock;
    return users[LOCK_WRITE] === 0 && users[LOCK_WRITE_ONLY] === 0 &&
      (next === LOCK_READ || users[LOCK_READ] === 0);
  }

  async #work(lock: ClusterLock, inv: Invalidation): Promise<void> {
    const { prev, next } = inv;
    if (!this.#stopped && lock.firstIno >= 0 && lock.mode !== LOCK_NULL) {
      const last = lock.firstIno + INODE_GROUP_SIZE - 1;
      const done = this.hooks.onInvalidateInodes(lock.firstIno, last, next);
      if (done !== undefined) await done;
      while (!this.#vacated(lock, next)) {
        await new Promise<void>((resolve) => lock.onUnpinned = resolve);
        lock.onUnpinned = null;
      }
    }
    lock.invalidatingMode = lock.mode;
    lock.mode = reduced(lock.mode, next);
    lock.openMode = lock.mode;
    if (!this.#stopped) {
      if (writable(prev) && lock.dirtySeq === this.hooks.openSeq()) await this.hooks.makeDurable();
      if (lock.rank === RANK_QUOTA && !readable(next)) this.hooks.onInvalidateQuota();
    }
    if (next !== LOCK_READ) this.hooks.dropItems(lock);
    lock.invalidatingMode = LOCK_NULL;
    lock.working = false;
    lock.invalidations.shift();
    inv.respond(inv.payload);
    if (lock.invalidations.length > 0) this.#advance(lock);
    else this.#serve(lock);
  }

  // ---- recovery and the end (04 §21.6, §21.8) ----

  #recover(payload: Uint8Array, respond: (payload: Uint8Array) => void): void {
    if (payload.length !== Key.SIZE) throw new FormatError("lock recovery of a wrong size");
    const from = Key.read(new DataView(payload.buffer, payload.byteOffset, payload.length), 0);
    if (from.equals(Key.ZEROS) || this.#recovering.length === 0) {
      this.#recovering = [...this.#ring].sort((a, b) => a.start.compare(b.start));
    }
    const found: ClusterLock[] = [];
    for (const lock of this.#recovering) {
      if (found.length === MAX_RECOVER_LOCKS) break;
      if (lock.start.compare(from) < 0) continue;
      if (lock.mode !== LOCK_NULL || lock.invalidatingMode !== LOCK_NULL) found.push(lock);
    }
    const bytes = new Uint8Array(LockRecover.SIZE + found.length * NetLock.SIZE);
    const page = LockRecover.at(bytes);
    page.nr = found.length;
    found.forEach((lock, i) => {
      const entry = page.lock(i);
      const mode = lock.invalidatingMode !== LOCK_NULL ? lock.invalidatingMode : lock.mode;
      entry.key = lock.start;
      entry.writeSeq = lock.writeSeq;
      entry.oldMode = mode;
      entry.newMode = mode;
    });
    if (found.length === 0) this.#recovering = [];
    respond(bytes);
  }

  /** Unmounted, all is committed: invalidations are answered without work from now on. */
  stop(): void {
    this.#stopped = true;
    this.fail(errnoError(ENOLINK));
  }

  /** From now on every lock call fails with `error`; waiting ones do at once. */
  fail(error: FsError): void {
    if (this.#failure !== null) return;
    this.#failure = error;
    for (const lock of this.#ring) for (const w of lock.waiters.splice(0)) w.reject(error);
  }
}
