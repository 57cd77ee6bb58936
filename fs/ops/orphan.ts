/**
 * Deleting inodes that have no links (02 §6): a background queue of those that became unused here,
 * and the scan for those that others or a crash left.
 *
 * What makes it safe: with the inode's WRITE lock held, nlink 0, no use here, and no bit in an open
 * map fetched under this same grant of the lock, nobody can reach the inode. Every step checks all
 * of that again. The orphan item goes in the same hold as the inode item, so whatever interrupts a
 * deletion, a later attempt finds the inode again and resumes.
 */

import {
  INODE_GROUP_SIZE,
  TYPE_DATA_EXTENT,
  TYPE_SYMLINK,
  TYPE_XATTR,
} from "../../format/constants.ts";
import { ENOLINK } from "../../format/errno.ts";
import {
  extentKey,
  inodeKey,
  lastInodeKey,
  orphanKey,
  symlinkKey,
  xattrKey,
} from "../../format/item_keys.ts";
import type { Key } from "../../format/key.ts";
import { ORPHAN_LOCK_RANGE } from "../../format/lock_ranges.ts";
import {
  CMD_OPEN_INO_MAP,
  LOCK_WRITE,
  LOCK_WRITE_ONLY,
  type NetRoots,
  OpenInoMap,
  OpenInoMapArgs,
} from "../../format/wire.ts";
import { next } from "../btree.ts";
import { sleep, type TimerId } from "../env.ts";
import { asCorrupt, assert, CorruptError, FsError } from "../errors.ts";
import { readForest } from "../forest.ts";
import type { Fs } from "../fs.ts";
import { deleteIndexItems, findInode, type InodeHandle, lockIndexItems } from "../inode.ts";
import type { ClusterLock } from "../lock_client.ts";
import type { Op } from "../op.ts";
import { deleteExtents } from "./truncate.ts";
import { gatherTagRemoval, readHead } from "./xattr.ts";

/** Unlinks wait while so many inodes are to be deleted. */
const QUEUE_LIMIT = 1024;
/** Inodes without data and attributes that are deleted in one hold. */
const BATCH = 32;
/** How long the first of them waits for company, in milliseconds. */
const COMPANY_MS = 5;
/** Items that one of them changes: two index items, its orphan item, its own. */
const BARE_ITEMS = 4;
/** A deletion never runs longer than this without letting others run, in milliseconds. */
const SLICE_MS = 1;
/** Longest wait of others for deletions to free space, in milliseconds. */
const SPACE_WAIT_MS = 3000;
/** Open maps kept; each is good only for one grant of its group's lock. */
const MAP_LIMIT = 64;
/** Inodes whose deletion failed that are remembered, so that the log is not filled with them. */
const UNDELETABLE_LIMIT = 1000;
/** Upper bound of the items that one step changes. */
const STEP_ITEMS = 12;
/** Users' inodes begin here: the root is never deleted. */
const FIRST_INO = 2;

/** What a step of a deletion found or did. */
const DONE = 0;
const EXTENTS = 1;
const STEPPED = 2;

/** No item of an inode has a greater type. */
const LAST_TYPE = 255;

interface GroupMap {
  readonly writeSeq: number;
  readonly map: OpenInoMap;
}

/** The deletions of one mount. */
export class Orphans {
  readonly #queue: number[] = [];
  readonly #queued = new Set<number>();
  readonly #maps = new Map<number, GroupMap>();
  #working: Promise<void> | null = null;
  /** Ends the wait for company. */
  #begin: () => void = () => {};
  #roomWaiters: (() => void)[] = [];
  #scanning: Promise<void> | null = null;
  #timer: TimerId | null = null;
  #stopped = false;
  #scannedLogs = false;
  /** What the log has of the last scan that stopped. */
  #lastStop = "";
  /** Inodes of which the log knows. */
  readonly #undeletable = new Set<number>();

  constructor(private readonly fs: Fs) {
    fs.refs.onUnused = (ino, unlinked) => {
      if (unlinked && !this.#stopped) this.enqueue(ino);
    };
    fs.link.setHandler(CMD_OPEN_INO_MAP, (payload, respond) => {
      const map = OpenInoMap.alloc();
      const { groupNr, reqId } = OpenInoMapArgs.at(payload);
      map.args.groupNr = groupNr;
      map.args.reqId = reqId;
      fs.refs.openMap(groupNr, map.bits);
      respond(map.bytes);
    });
  }

  /** Inodes waiting to be deleted, with the one that is being deleted. */
  get pending(): number {
    return this.#queued.size;
  }

  /** Gather of an operation that makes an orphan: waits while too many are pending. */
  awaitRoom(op: Op): void {
    if (this.#queued.size < QUEUE_LIMIT || this.#stopped) return;
    op.wait(new Promise<void>((resolve) => this.#roomWaiters.push(resolve)));
  }

  /** Deletes `ino` in the background if nobody uses it. */
  enqueue(ino: number): void {
    if (this.#queued.has(ino)) return;
    this.#queued.add(ino);
    this.#queue.push(ino);
    if (this.#working === null) this.#working = this.#work();
    else if (this.#queue.length >= BATCH) this.#begin();
  }

  /** Resolves when nothing is pending. */
  async drain(): Promise<void> {
    while (this.#working !== null) {
      this.#begin();
      await this.#working;
    }
  }

  /**
   * Lets pending deletions free space, for whoever found none. Not without end: a deletion can need
   * space itself, and then waits for the one who waits here.
   */
  async makeSpace(): Promise<void> {
    if (this.#working === null) return;
    await Promise.race([this.drain(), sleep(this.fs.clock, SPACE_WAIT_MS)]);
  }

  async #work(): Promise<void> {
    const { clock } = this.fs;
    await this.#company();
    let since = clock.now();
    while (this.#queue.length > 0) {
      const inos = this.#take();
      await this.#deleteAll(inos);
      for (const ino of inos) this.#queued.delete(ino);
      if (this.#queued.size < QUEUE_LIMIT) this.#wakeRoomWaiters();
      if (clock.now() - since > SLICE_MS) {
        await this.#breathe();
        since = clock.now();
      }
    }
    this.#working = null;
  }

  /** Waits for more to delete, for a moment; at least until the operation that brought one ends. */
  async #company(): Promise<void> {
    const { clock } = this.fs;
    await new Promise<void>((resolve) => {
      const timer = clock.setTimer(COMPANY_MS, resolve);
      this.#begin = () => {
        clock.clearTimer(timer);
        resolve();
      };
    });
    this.#begin = () => {};
  }

  /** The next of the queue, under one lock. */
  #take(): number[] {
    const queue = this.#queue;
    const group = Math.floor(queue[0]! / INODE_GROUP_SIZE);
    let n = 1;
    while (n < BATCH && n < queue.length && Math.floor(queue[n]! / INODE_GROUP_SIZE) === group) n++;
    return queue.splice(0, n);
  }

  async #deleteAll(inos: readonly number[]): Promise<void> {
    let rest = inos;
    try {
      const ran = this.fs.runner.run((op) => this.#deleteBare(op, inos));
      rest = ran instanceof Promise ? await ran : ran;
    } catch (e) {
      // Each by itself shows which one it is.
      if (!(e instanceof FsError)) throw e;
    }
    for (const ino of rest) {
      try {
        await this.delete(ino);
      } catch (e) {
        if (!(e instanceof FsError)) throw e;
        if (e.errno === ENOLINK) {
          this.#giveUp();
          return;
        }
        this.#notDeleted(ino, e);
      }
    }
  }

  /** Logs what keeps an inode from being deleted, once for each inode as long as they are few. */
  #notDeleted(ino: number, e: FsError): void {
    if (this.#undeletable.has(ino) || this.#undeletable.size === UNDELETABLE_LIMIT) return;
    this.#undeletable.add(ino);
    this.fs.log(`inode ${ino} could not be deleted, will be tried again: ${e.message}`);
  }

  /** The mount was aborted: nothing will be deleted any more. */
  #giveUp(): void {
    this.#stopped = true;
    this.#queue.length = 0;
    this.#queued.clear();
    this.#wakeRoomWaiters();
  }

  #wakeRoomWaiters(): void {
    const waiters = this.#roomWaiters;
    if (waiters.length === 0) return;
    this.#roomWaiters = [];
    for (const wake of waiters) wake();
  }

  /** Lets requests be served that came meanwhile. */
  #breathe(): Promise<void> {
    return sleep(this.fs.clock, 0);
  }

  /**
   * Tries to delete one inode (02 §6.3, §6.4), in steps; returns without it when it is linked or in
   * use anywhere. Rejects with what a step met, e.g. EIO.
   */
  async delete(ino: number): Promise<void> {
    for (;;) {
      const ran = this.fs.runner.run((op) => this.#step(op, ino));
      const step = ran instanceof Promise ? await ran : ran;
      if (step === DONE) return;
      if (step === EXTENTS) await deleteExtents(this.fs, ino);
    }
  }

  #step(op: Op, ino: number): number {
    const h = this.#deletable(op, ino);
    if (h === null) return DONE;
    if (h.isReg) {
      const last = lastInodeKey(ino, TYPE_DATA_EXTENT);
      if (this.fs.items.next(op, h.lock, extentKey(ino, 0, 0), last) !== null) return EXTENTS;
    }
    if (this.#deleteXattr(op, h)) return STEPPED;
    this.#deleteInode(op, h);
    return DONE;
  }

  /** The inode if it may be deleted; null when it is gone, has links or is in use anywhere. */
  #deletable(op: Op, ino: number): InodeHandle | null {
    const { fs } = this;
    const h = findInode(op, fs, ino, LOCK_WRITE);
    // Used here: it comes back when it is not any more.
    if (h === null || h.inode.nlink > 0 || fs.refs.setUnlinked(ino, true)) return null;
    return this.#openElsewhere(op, h.lock, ino) ? null : h;
  }

  /**
   * Deletes those that have no items but their own, in one hold, and returns the others that are to
   * be deleted.
   */
  #deleteBare(op: Op, inos: readonly number[]): number[] {
    const { fs } = this;
    const bare: InodeHandle[] = [], others: number[] = [];
    for (const ino of inos) {
      const h = this.#deletable(op, ino);
      if (h === null) continue;
      const behind = inodeKey(ino).inc();
      if (fs.items.next(op, h.lock, behind, lastInodeKey(ino, LAST_TYPE)) !== null) {
        others.push(ino);
        continue;
      }
      lockIndexItems(op, fs, h);
      bare.push(h);
    }
    if (bare.length === 0) return others;
    op.lock(fs.locks.orphan(), LOCK_WRITE_ONLY);
    op.hold({ allocating: false, items: bare.length * BARE_ITEMS });
    op.apply();
    for (const h of bare) this.#removeInode(op, h);
    return others;
  }

  /** Is the inode in use by another mount? Asks at most once per grant of the group's lock. */
  #openElsewhere(op: Op, lock: ClusterLock, ino: number): boolean {
    const group = Math.floor(ino / INODE_GROUP_SIZE);
    const known = this.#maps.get(group);
    if (known === undefined || known.writeSeq !== lock.writeSeq) {
      op.waitPinned(this.#fetchMap(group, lock.writeSeq));
    }
    return known.map.test(ino % INODE_GROUP_SIZE);
  }

  async #fetchMap(group: number, writeSeq: number): Promise<void> {
    const map = await this.#requestMap(group);
    if (this.#maps.size >= MAP_LIMIT) this.#maps.clear();
    this.#maps.set(group, { writeSeq, map });
  }

  async #requestMap(group: number): Promise<OpenInoMap> {
    const request = OpenInoMap.alloc();
    request.args.groupNr = group;
    const bytes = await this.fs.link.request(CMD_OPEN_INO_MAP, request.args.bytes);
    return OpenInoMap.at(bytes);
  }

  /** Deletes the first xattr item with what its tags did, in one hold; false when there is none. */
  #deleteXattr(op: Op, h: InodeHandle): boolean {
    const { fs } = this;
    const item = fs.items.next(
      op,
      h.lock,
      xattrKey(h.ino, 0, 0, 0),
      lastInodeKey(h.ino, TYPE_XATTR),
    );
    if (item === null) return false;
    const undo = item.key.fourth === 0 ? gatherTagRemoval(op, fs, h, readHead(item)) : null;
    op.hold({ allocating: false, items: STEP_ITEMS });
    op.apply();
    fs.items.delete(op, h.lock, item.key);
    if (undo !== null) undo();
    return true;
  }

  /** The last hold: index items, symlink target, orphan item and inode item. */
  #deleteInode(op: Op, h: InodeHandle): void {
    const { fs } = this;
    const { ino, lock } = h;
    op.lock(fs.locks.orphan(), LOCK_WRITE_ONLY);
    lockIndexItems(op, fs, h);
    const parts: Key[] = [];
    const last = lastInodeKey(ino, TYPE_SYMLINK);
    for (let key = symlinkKey(ino, 0);;) {
      const part = fs.items.next(op, lock, key, last);
      if (part === null) break;
      parts.push(part.key);
      key = part.key.inc();
    }
    op.hold({ allocating: false, items: STEP_ITEMS });
    op.apply();
    for (const key of parts) fs.items.delete(op, lock, key);
    this.#removeInode(op, h);
  }

  /** Apply: the inode's own item, and those that say where it is. */
  #removeInode(op: Op, h: InodeHandle): void {
    const { fs } = this;
    const { ino, lock } = h;
    deleteIndexItems(op, fs, h);
    fs.items.deleteForce(op, fs.locks.orphan(), orphanKey(ino), lock);
    fs.items.delete(op, lock, inodeKey(ino), h.item);
    fs.trans.addInodes(op, -1);
  }

  /** Begins the endless scans (02 §6.6). */
  start(): void {
    assert(this.#timer === null && !this.#stopped, "orphan scans are started once");
    this.#schedule();
  }

  /** Ends scanning and finishes what is pending, before the last commit. */
  async stop(): Promise<void> {
    this.#stopped = true;
    if (this.#timer !== null) this.fs.clock.clearTimer(this.#timer);
    this.#wakeRoomWaiters();
    if (this.#scanning !== null) await this.#scanning;
    await this.drain();
  }

  #schedule(): void {
    if (this.#stopped) return;
    const delay = this.fs.options.orphanScanDelayMs;
    const spread = 0.8 + this.fs.random.below(1000) / 2500;
    this.#timer = this.fs.clock.setTimer(delay * spread, () => {
      this.#scanning = this.scan().catch((failure: unknown) => {
        const e = asCorrupt(failure, "orphan item");
        if (!(e instanceof FsError)) throw e;
        const line = `the scan for orphans stopped: ${e.message}`;
        if (line !== this.#lastStop) this.fs.log(line);
        this.#lastStop = line;
      }).finally(() => {
        this.#scanning = null;
        this.#schedule();
      });
    });
  }

  /**
   * One scan: tries to delete what is listed as an orphan and nobody seems to use. Only the merged
   * tree is looked at, since most of what is in log trees is still open somewhere; but the first
   * scan of a mount reads those too, for what a crash has left.
   */
  async scan(): Promise<void> {
    const { fs } = this;
    const roots = await fs.roots.fresh();
    let group = -1;
    let map: OpenInoMap | null = null;
    for (const ino of this.#listed(roots)) {
      if (this.#stopped) return;
      if (fs.refs.isUsed(ino)) continue;
      const itsGroup = Math.floor(ino / INODE_GROUP_SIZE);
      if (map === null || itsGroup !== group) {
        group = itsGroup;
        map = await this.#requestMap(group);
      }
      if (map.test(ino % INODE_GROUP_SIZE)) continue;
      try {
        await this.delete(ino);
      } catch (e) {
        // A damaged one does not keep the others.
        if (!(e instanceof CorruptError)) throw e;
        this.#notDeleted(ino, e);
      }
    }
    this.#scannedLogs = true;
  }

  /** Orphan items in order, read from `roots` as needed. */
  *#listed(roots: NetRoots): Generator<number> {
    const { cache } = this.fs;
    const last = ORPHAN_LOCK_RANGE.end;
    let key = orphanKey(FIRST_INO);
    if (!this.#scannedLogs) {
      for (;;) {
        const read = readForest(cache, roots, key, ORPHAN_LOCK_RANGE, ORPHAN_LOCK_RANGE.start);
        for (const item of read.items) if (item.key.compare(key) >= 0) yield item.key.second;
        if (read.end.compare(last) >= 0) return;
        key = read.end.inc();
      }
    }
    for (;;) {
      const item = next({ cache }, roots.fsRoot, key);
      if (item === null || item.key.compare(last) > 0) return;
      key = item.key.inc();
      yield item.key.second;
    }
  }
}
