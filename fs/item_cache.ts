/**
 * The item cache (03 §9): the newest versions of items under the cluster locks that this mount
 * holds, and the changes of the open transaction. The items of a lock are pages of disjoint
 * covered ranges in key order (item_page.ts).
 *
 * Invariants:
 * - Pages exist only under locks that are granted, within their ranges; a page read from the trees
 *   only under READ or WRITE.
 * - What is cached wins over what is read: a read only adds what no page covers.
 * - Items are changed only by an operation in apply() with a hold, under its pinned lock; so a
 *   commit, which excludes holds, sees no change.
 * - A page with dirty items is in the dirty list and is never evicted. Eviction happens between
 *   operations only, so that what an operation gathered is there when it applies.
 *
 * Gathering uses `lookup` and `next`, which suspend or read the trees when something is not
 * covered. Changes assert what the gather phase made sure of, and cannot fail.
 */

import { Key } from "../format/key.ts";
import { ZONE_XATTR_TOTL } from "../format/constants.ts";
import { LOCK_READ, LOCK_WRITE, LOCK_WRITE_ONLY } from "../format/wire.ts";
import type { BlockCache } from "./block_cache.ts";
import { assert, AssertionError, CorruptError, StaleError } from "./errors.ts";
import { DirtyItems, leafBytes } from "./dirty_items.ts";
import { readForest } from "./forest.ts";
import { Item, type ReadItem } from "./item.ts";
import {
  ITEM_COMMITTED,
  ITEM_DELETED,
  ITEM_DELTA,
  ITEM_DIRTY,
  ITEM_PERSISTENT,
  Page,
  PAGE_MAX_ITEMS,
  pageIndex,
} from "./item_page.ts";
import type { ClusterLock } from "./lock_client.ts";
import type { Op } from "./op.ts";
import { PageQueue } from "./page_queue.ts";
import type { Roots } from "./roots.ts";

const EMPTY = new Uint8Array(0);
/** Of an item that some tree has. */
const STORED = ITEM_PERSISTENT | ITEM_COMMITTED;
/** Items of a page that is filled by a read: room for some more. */
const FILL_ITEMS = 96;

/** Fails an assertion about an item; the message costs nothing before that. */
function broken(key: Key, what: string): never {
  throw new AssertionError(`item ${key} ${what}`);
}

export class ItemCache {
  readonly #queue = new PageQueue();
  /** @internal What the open transaction must write. */
  readonly dirty = new DirtyItems();
  /** The open transaction. */
  #transSeq = 0;
  /** The log tree that it is written to. */
  #logNr = 0;
  /** Index of what `#locate` found. */
  #located = 0;

  constructor(
    private readonly blocks: BlockCache,
    private readonly roots: Roots,
    /** Read at each use. */
    private readonly limits: { readonly itemCacheBytes: number },
  ) {}

  /** Memory of all pages. */
  get bytes(): number {
    return this.#queue.bytes;
  }
  get pages(): number {
    return this.#queue.count;
  }
  /** Items that the open transaction must write. */
  get dirtyItems(): number {
    return this.dirty.count;
  }
  /** What these take in btree leaves. */
  get dirtyBytes(): number {
    return this.dirty.bytes;
  }

  // ---- gathering ----

  /** The item with exactly `key`, or null. Suspends while the range is not cached. */
  lookup(op: Op, lock: ClusterLock, key: Key): Item | null {
    this.#checkRead(op, lock, key);
    const page = this.#cover(op, lock, key);
    const i = page.search(key);
    const item = i < 0 || (page.flags(i) & ITEM_DELETED) !== 0 ? null : new Item(key, page, i);
    op.noteRead(item === null ? 0 : item.length);
    return item;
  }

  /** The first item with a key in [key, last], `last` bounded by the lock's end, or null. */
  next(op: Op, lock: ClusterLock, key: Key, last: Key): Item | null {
    this.#checkRead(op, lock, key);
    if (lock.end.compare(last) < 0) last = lock.end;
    let from = key;
    let found: Item | null = null;
    while (from.compare(last) <= 0) {
      const page = this.#cover(op, lock, from);
      let i = page.search(from);
      if (i < 0) i = ~i;
      while (i < page.count && (page.flags(i) & ITEM_DELETED) !== 0) i++;
      if (i < page.count) {
        const at = page.key(i);
        if (at.compare(last) <= 0) found = new Item(at, page, i);
        break;
      }
      const end = page.end;
      if (end.compare(last) >= 0) break;
      from = end.inc();
    }
    op.noteRead(found === null ? 0 : found.length);
    return found;
  }

  /**
   * Visits the items with keys in [key, last], `last` bounded by the lock's end, in order, until
   * `visit` returns false: as item `i` of a page, which both are good during the call only.
   */
  visit(
    op: Op,
    lock: ClusterLock,
    key: Key,
    last: Key,
    visit: (page: Page, i: number) => boolean,
  ): void {
    this.#checkRead(op, lock, key);
    if (lock.end.compare(last) < 0) last = lock.end;
    for (let from = key; from.compare(last) <= 0;) {
      const page = this.#cover(op, lock, from);
      let i = page.search(from);
      if (i < 0) i = ~i;
      for (; i < page.count; i++) {
        if ((page.flags(i) & ITEM_DELETED) !== 0) continue;
        if (page.compareKey(i, last) > 0) return;
        op.noteRead(page.length(i));
        if (!visit(page, i)) return;
      }
      if (page.compareEnd(last) >= 0) return;
      from = page.end.inc();
    }
  }

  #checkRead(op: Op, lock: ClusterLock, key: Key): void {
    assert(op.holdsLock(lock, LOCK_READ), "an item is read without its lock");
    assert(lock.covers(key), "an item is read under a lock that does not cover it");
  }

  /** The page that covers `key`; reads it from the trees if there is none. */
  #cover(op: Op, lock: ClusterLock, key: Key): Page {
    const page = this.#find(lock, key);
    if (page !== null) {
      page.recent = true;
      return page;
    }
    this.#fill(op, lock, key);
    const filled = this.#find(lock, key);
    assert(filled !== null, "a read did not cover the key that it was for");
    return filled;
  }

  #fill(op: Op, lock: ClusterLock, key: Key): void {
    assert(key.zone !== ZONE_XATTR_TOTL, "totals are not read through the item cache");
    assert(!op.applying, `item ${key} was not gathered before the operation's first change`);
    const roots = this.roots.usable(lock);
    if (roots === null) op.waitPinned(this.roots.fetch());
    let read: { start: Key; end: Key; items: readonly ReadItem[] };
    try {
      read = readForest(this.blocks, roots, key, lock, lock.start);
    } catch (e) {
      if (!(e instanceof StaleError)) throw e;
      this.roots.failed(roots, e);
      op.waitPinned(this.roots.fetch());
    }
    this.roots.succeeded();
    op.fillPin ??= { live: true };
    this.addRead(lock, read.start, read.end, read.items, op.fillPin);
  }

  /**
   * @internal Adds what was read from the trees where [start, end] is not covered yet. `items` are
   * in key order within the range.
   */
  addRead(
    lock: ClusterLock,
    start: Key,
    end: Key,
    items: readonly ReadItem[],
    pin: Page["pin"] = null,
  ): void {
    if (!lock.covers(start) || !lock.covers(end)) {
      throw new CorruptError(`a tree gave the range ${start} to ${end} for ${lock}`);
    }
    let at = 0;
    let from = start;
    while (from.compare(end) <= 0) {
      const i = pageIndex(lock.pages, from);
      const before = lock.pages[i];
      if (before !== undefined && before.compareEnd(from) >= 0) {
        const last = before.end;
        if (last.compare(end) >= 0) return;
        from = last.inc();
        continue;
      }
      const after = lock.pages[i + 1];
      const last = after !== undefined && after.compareStart(end) <= 0 ? after.start.dec() : end;
      while (at < items.length && items[at]!.key.compare(from) < 0) at++;
      let stop = at;
      while (stop < items.length && items[stop]!.key.compare(last) <= 0) stop++;
      this.#addHole(lock, i + 1, from, last, items, at, stop, pin);
      at = stop;
      if (last.compare(end) >= 0) return;
      from = last.inc();
    }
  }

  /** Covers the hole [from, last] with pages of items[at … stop), as pages from `index` on. */
  #addHole(
    lock: ClusterLock,
    index: number,
    from: Key,
    last: Key,
    items: readonly ReadItem[],
    at: number,
    stop: number,
    pin: Page["pin"],
  ): void {
    const fresh: Page[] = [];
    do {
      let n = Math.min(FILL_ITEMS, stop - at);
      let bytes = 0;
      for (let k = 0; k < n; k++) {
        bytes += items[at + k]!.val.length;
        if (bytes > 24576 && k > 0) n = k;
      }
      const next = at + n;
      const end = next < stop ? items[next]!.key.dec() : last;
      const page = new Page(lock, from, end, n, Math.min(bytes, 32768));
      for (let k = 0; k < n; k++) {
        const item = items[at + k]!;
        page.insert(k, item.key, item.seq, ITEM_PERSISTENT, item.val);
      }
      page.pin = pin;
      fresh.push(page);
      this.#queue.add(page);
      at = next;
      if (at < stop) from = items[at]!.key;
    } while (at < stop);
    lock.pages.splice(index, 0, ...fresh);
  }

  // ---- changes (03 §9.3) ----

  /** A new item; gather found it absent. */
  create(op: Op, lock: ClusterLock, key: Key, val: Uint8Array): void {
    const page = this.#covered(op, lock, key);
    const seq = this.#touch(op, lock, LOCK_WRITE, null);
    const i = page.search(key);
    if (i < 0) {
      this.#insert(page, ~i, key, seq, ITEM_DIRTY, val);
    } else {
      const flags = page.flags(i);
      if ((flags & ITEM_DELETED) === 0) broken(key, "is created but exists");
      this.#set(page, i, key, seq, flags & STORED | ITEM_DIRTY, val);
    }
  }

  /** A new value; gather found the item. `val` may be the window that gather returned. */
  update(op: Op, lock: ClusterLock, key: Key, val: Uint8Array): void {
    const page = this.#covered(op, lock, key);
    const seq = this.#touch(op, lock, LOCK_WRITE, null);
    const i = page.search(key);
    if (i < 0 || (page.flags(i) & ITEM_DELETED) !== 0) broken(key, "is updated but absent");
    this.#set(page, i, key, seq, page.flags(i) | ITEM_DIRTY, val);
  }

  /**
   * As `update` of an item that gather found, with the `length` bytes at byte `o` of `v`; free of
   * copying when that is where its value is, changed in place.
   */
  updateAt(op: Op, lock: ClusterLock, item: Item, v: DataView, o: number, length: number): void {
    const { key } = item;
    const page = this.#locate(op, lock, key, item);
    const i = this.#located;
    const seq = this.#touch(op, lock, LOCK_WRITE, null);
    if (i < 0 || (page.flags(i) & ITEM_DELETED) !== 0) broken(key, "is updated but absent");
    const flags = page.flags(i);
    if (page.view === v && page.offset(i) === o && page.length(i) === length) {
      if ((flags & ITEM_DIRTY) === 0) this.dirty.add(page, length);
      page.setVersion(i, seq, flags | ITEM_DIRTY);
      page.recent = true;
    } else {
      const val = new Uint8Array(v.buffer, v.byteOffset + o, length);
      this.#set(page, i, key, seq, flags | ITEM_DIRTY, val);
    }
  }

  /** Removes an item that gather found; faster with `found`. */
  delete(op: Op, lock: ClusterLock, key: Key, found: Item | null = null): void {
    const page = this.#locate(op, lock, key, found);
    const i = this.#located;
    const seq = this.#touch(op, lock, LOCK_WRITE, null);
    if (i < 0 || (page.flags(i) & ITEM_DELETED) !== 0) broken(key, "is deleted but absent");
    const flags = page.flags(i);
    if ((flags & STORED) === 0) this.#forget(page, i);
    else this.#set(page, i, key, seq, flags & STORED | ITEM_DELETED | ITEM_DIRTY, EMPTY);
  }

  /**
   * Writes an item blindly under a WRITE_ONLY lock. `primary` is the WRITE lock of the object on
   * whose behalf it is written (03 §7). `fresh`: no tree has an item of this key, so that deleting it
   * again in the same transaction leaves nothing to be written.
   */
  createForce(
    op: Op,
    lock: ClusterLock,
    key: Key,
    val: Uint8Array,
    primary: ClusterLock | null,
    fresh = false,
  ): void {
    const seq = this.#touchForce(op, lock, key, primary);
    const page = this.#blindPage(lock, key);
    const i = page.search(key);
    const flags = fresh ? ITEM_DIRTY : ITEM_PERSISTENT | ITEM_DIRTY;
    if (i < 0) this.#insert(page, ~i, key, seq, flags, val);
    else this.#set(page, i, key, seq, page.flags(i) & ITEM_PERSISTENT | flags, val);
  }

  /** Writes a deletion item blindly under a WRITE_ONLY lock. */
  deleteForce(op: Op, lock: ClusterLock, key: Key, primary: ClusterLock | null): void {
    const seq = this.#touchForce(op, lock, key, primary);
    const page = this.#blindPage(lock, key);
    const i = page.search(key);
    const flags = ITEM_PERSISTENT | ITEM_DELETED | ITEM_DIRTY;
    if (i < 0) this.#insert(page, ~i, key, seq, flags, EMPTY);
    else if ((page.flags(i) & ITEM_PERSISTENT) === 0) this.#forget(page, i);
    else this.#set(page, i, key, seq, flags, EMPTY);
  }

  #touchForce(op: Op, lock: ClusterLock, key: Key, primary: ClusterLock | null): number {
    assert(lock.covers(key), "an item is written under a lock that does not cover it");
    assert(primary === null || op.holdsLock(primary, LOCK_WRITE), "the primary lock is not held");
    return this.#touch(op, lock, LOCK_WRITE_ONLY, primary);
  }

  /** Adds a difference {total, count} to a total, under the WRITE_ONLY totl lock. */
  delta(op: Op, lock: ClusterLock, key: Key, total: bigint, count: bigint): void {
    assert(lock.covers(key), "an item is written under a lock that does not cover it");
    const seq = this.#touch(op, lock, LOCK_WRITE_ONLY, null);
    const page = this.#blindPage(lock, key);
    const i = page.search(key);
    const val = new Uint8Array(16);
    const v = new DataView(val.buffer);
    if (i >= 0) {
      if ((page.flags(i) & ITEM_DELTA) === 0) broken(key, "is not a difference");
      val.set(page.val(i));
    }
    v.setBigUint64(0, v.getBigUint64(0, true) + total, true);
    v.setBigUint64(8, v.getBigUint64(8, true) + count, true);
    const none = val.every((b) => b === 0);
    if (i >= 0) {
      if (none) this.#forget(page, i);
      else this.#set(page, i, key, seq, ITEM_DELTA | ITEM_DIRTY, val);
    } else if (!none) {
      this.#insert(page, ~i, key, seq, ITEM_DELTA | ITEM_DIRTY, val);
    }
  }

  /** Checks of every change; returns the item's version number. */
  #touch(op: Op, lock: ClusterLock, mode: number, primary: ClusterLock | null): number {
    op.assertHolding();
    assert(op.holdsLock(lock, mode), "an item is changed without its lock");
    const t = this.#transSeq;
    lock.dirtySeq = t;
    let seq = lock.writeSeq > t ? lock.writeSeq : t;
    if (primary !== null && primary.writeSeq > seq) seq = primary.writeSeq;
    return seq;
  }

  /** The page of `key`, which must be cached; the index there, as `search` gives it, in `#located`. */
  #locate(op: Op, lock: ClusterLock, key: Key, found: Item | null): Page {
    if (found !== null) {
      const { page, index } = found;
      if (page.attached && page.lock === lock && page.has(index, key)) {
        this.#located = index;
        return page;
      }
    }
    const page = this.#covered(op, lock, key);
    this.#located = page.search(key);
    return page;
  }

  #covered(_op: Op, lock: ClusterLock, key: Key): Page {
    const page = this.#find(lock, key);
    if (page === null || !lock.covers(key)) broken(key, "is changed without being cached");
    return page;
  }

  /** The page for `key` under a WRITE_ONLY lock; covers the hole around it if there is none. */
  #blindPage(lock: ClusterLock, key: Key): Page {
    const i = pageIndex(lock.pages, key);
    const before = lock.pages[i];
    if (before !== undefined && before.compareEnd(key) >= 0) return before;
    const after = lock.pages[i + 1];
    const page = new Page(
      lock,
      before === undefined ? lock.start : before.end.inc(),
      after === undefined ? lock.end : after.start.dec(),
      4,
      0,
    );
    page.blind = true;
    lock.pages.splice(i + 1, 0, page);
    this.#queue.add(page);
    return page;
  }

  #insert(page: Page, i: number, key: Key, seq: number, flags: number, val: Uint8Array): void {
    const before = page.bytes;
    if (!page.hasRoom(val.length)) {
      const { lock } = page;
      // Appending splits off an empty tail, so that ascending keys leave full pages behind.
      const at = i === page.count ? page.count - 1 : page.count >> 1;
      const right = page.split(at);
      lock.pages.splice(pageIndex(lock.pages, page.start) + 1, 0, right);
      this.#queue.add(right);
      if (right.dirty > 0) this.dirty.list(right);
      this.#queue.bytes += page.bytes - before;
      // The key before the right page's first one belongs to the left page's range.
      if (i > at) {
        page = right;
        i -= at;
      }
      return this.#insert(page, i, key, seq, flags, val);
    }
    page.insert(i, key, seq, flags, val);
    page.recent = true;
    this.dirty.add(page, val.length);
    this.#queue.bytes += page.bytes - before;
  }

  #set(page: Page, i: number, key: Key, seq: number, flags: number, val: Uint8Array): void {
    const before = page.bytes;
    const old = page.length(i);
    if ((page.flags(i) & ITEM_DIRTY) === 0) {
      this.dirty.add(page, val.length);
    } else {
      this.dirty.bytes += leafBytes(val.length) - leafBytes(old);
    }
    if (val.length > old && page.count > 1 && !page.hasRoom(val.length - old)) {
      // The page would become too large: the item moves through a split.
      const copy = val.slice();
      this.dirty.remove(page, val.length);
      page.remove(i);
      this.#insert(page, i, key, seq, flags, copy);
      return;
    }
    page.set(i, seq, flags, val);
    page.recent = true;
    this.#queue.bytes += page.bytes - before;
  }

  /** Removes an item without a trace. */
  #forget(page: Page, i: number): void {
    if ((page.flags(i) & ITEM_DIRTY) !== 0) this.dirty.remove(page, page.length(i));
    page.remove(i);
  }

  // ---- commit (03 §9.4, §9.5) ----

  /** @internal A transaction opened: items changed from now on belong to it and its log tree. */
  beginTransaction(seq: number, logNr: number): void {
    assert(this.dirty.count === 0, "a transaction opens while items of the last one are dirty");
    this.#transSeq = seq;
    if (logNr === this.#logNr) return;
    this.#logNr = logNr;
    for (let page = this.#queue.oldest; page !== null; page = page.newer) page.forgetTree();
  }

  /**
   * @internal The commit is durable: everything is clean, at most `pages` pages a call; true when
   * done.
   */
  markClean(pages: number): boolean {
    const packed = new Set<ClusterLock>();
    let page: Page | null = null;
    for (let n = 0; n < pages && (page = this.dirty.takePage()) !== null; n++) {
      if (!page.attached) continue;
      const before = page.count;
      page.markClean();
      if (page.blind) {
        // Nothing can be looked up here: only memory is lost by forgetting it.
        page.count = 0;
        packed.add(page.lock);
      } else if (page.count < before && page.count < PAGE_MAX_ITEMS / 4) {
        packed.add(page.lock);
      }
    }
    for (const lock of packed) this.#pack(lock);
    return page === null;
  }

  /** Joins neighbouring pages that became small; forgets clean blind ones. */
  #pack(lock: ClusterLock): void {
    const { pages } = lock;
    let kept = 0;
    for (const page of pages) {
      if (page.blind && page.count === 0) {
        this.#queue.remove(page);
        continue;
      }
      const last = kept > 0 ? pages[kept - 1]! : null;
      if (
        last !== null && !page.blind && !last.blind && page.dirty === 0 &&
        last.count + page.count <= PAGE_MAX_ITEMS / 2 && last.live + page.live <= 16384 &&
        last.touches(page)
      ) {
        const before = last.bytes;
        last.absorb(page);
        this.#queue.bytes += last.bytes - before;
        this.#queue.remove(page);
        continue;
      }
      pages[kept++] = page;
    }
    pages.length = kept;
  }

  // ---- invalidation and eviction ----

  /** @internal The lock is lost: forgets its items; none may be dirty. */
  dropItems(lock: ClusterLock): void {
    for (const page of lock.pages) {
      assert(page.dirty === 0, `${lock} is lost with dirty items`);
      this.#queue.remove(page);
    }
    lock.pages = [];
  }

  /** @internal Between operations: gives clean pages up, oldest first, while over the limit. */
  trim(): void {
    let looks = 32;
    while (this.#queue.bytes > this.limits.itemCacheBytes && looks-- > 0) {
      const page = this.#queue.oldest;
      if (page === null) return;
      if (page.pin !== null && !page.pin.live) page.pin = null;
      if (page.recent || page.dirty > 0 || page.listed || page.pin !== null) {
        page.recent = false;
        this.#queue.moveToEnd(page);
        continue;
      }
      const { lock } = page;
      const i = pageIndex(lock.pages, page.start);
      assert(lock.pages[i] === page, "a page is not where its lock has it");
      lock.pages.splice(i, 1);
      this.#queue.remove(page);
    }
  }

  // ---- pages of a lock ----

  #find(lock: ClusterLock, key: Key): Page | null {
    const i = pageIndex(lock.pages, key);
    if (i < 0) return null;
    const page = lock.pages[i]!;
    return page.compareEnd(key) >= 0 ? page : null;
  }
}
