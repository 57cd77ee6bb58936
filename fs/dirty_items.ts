/**
 * What the open transaction must write: the dirty items of the item cache, as the list of pages that
 * have some. Every page with a dirty item is in the list (`listed`); pages stay in it until the
 * commit, even when their dirty items were forgotten again.
 */

import { ITEM_FLAG_DELETION, ZONE_INODE_INDEX } from "../format/constants.ts";
import type { TreeItem } from "./btree.ts";
import {
  comparePages,
  ITEM_COMMITTED,
  ITEM_DELETED,
  ITEM_DELTA,
  ITEM_DIRTY,
  ITEM_PERSISTENT,
  type Page,
} from "./item_page.ts";
import type { ClusterLock } from "./lock_client.ts";

/** Bytes of an item in a btree leaf, for a value of `len` bytes. */
export const leafBytes = (len: number): number => 56 + (len + 7 & ~7);

/** An item as the log tree takes it, and where it is cached. */
export interface DirtyItem extends TreeItem {
  readonly page: Page;
  readonly index: number;
}

export class DirtyItems {
  /** Items. */
  count = 0;
  /** What they take in btree leaves. */
  bytes = 0;
  /** Counts every item that became dirty, also those that were forgotten again. */
  added = 0;
  #pages: Page[] = [];
  /** Pages in which an item became dirty since the last scan. */
  #unscanned: Page[] = [];

  /** An item of `page` with a value of `len` bytes became dirty. */
  add(page: Page, len: number): void {
    page.dirty++;
    this.count++;
    this.added++;
    this.bytes += leafBytes(len);
    if (page.listed) this.#toScan(page);
    else this.list(page);
  }

  /** A dirty item of `page` is no more. */
  remove(page: Page, len: number): void {
    page.dirty--;
    this.count--;
    this.bytes -= leafBytes(len);
  }

  /** `page` has dirty items. */
  list(page: Page): void {
    if (page.listed) return;
    page.listed = true;
    this.#pages.push(page);
    this.#toScan(page);
  }

  #toScan(page: Page): void {
    if (page.unscanned) return;
    page.unscanned = true;
    this.#unscanned.push(page);
  }

  /** Shows every page in which an item became dirty since the last scan. */
  scan(visit: (page: Page) => void): void {
    for (let page = this.#unscanned.at(-1); page !== undefined; page = this.#unscanned.at(-1)) {
      visit(page);
      this.#unscanned.pop();
      page.unscanned = false;
    }
  }

  /** All of them in key order, in lists of about `chunk`; nothing may be changed meanwhile. */
  *collect(chunk: number): Generator<DirtyItem[]> {
    const pages = this.#pages.filter((p) => p.dirty > 0).sort(comparePages);
    let list: DirtyItem[] = [];
    for (const page of pages) {
      for (let i = 0; i < page.count; i++) {
        const flags = page.flags(i);
        if ((flags & ITEM_DIRTY) === 0) continue;
        list.push({
          key: page.key(i),
          seq: page.seq(i),
          flags: (flags & ITEM_DELETED) !== 0 ? ITEM_FLAG_DELETION : 0,
          val: page.val(i),
          page,
          index: i,
        });
      }
      if (list.length >= chunk) {
        yield list;
        list = [];
      }
    }
    if (list.length > 0) yield list;
  }

  /**
   * An item of the open transaction `transSeq` meets the item of its key that the log tree of this
   * mount holds, with the given flags (−1: none). True if both go, because no other tree has an item
   * of that key that a deletion would have to hide:
   *
   * - what was created where nothing was, and found nothing here either, is ITEM_COMMITTED until it
   *   is deleted or its lock is lost;
   * - the key of an inode index item names the transaction that wrote it, which only one mount had
   *   open; what is stored of it here was written by that transaction, to this tree.
   */
  meets({ key, flags, page, index }: DirtyItem, storedFlags: number, transSeq: number): boolean {
    const cached = page.flags(index);
    if ((flags & ITEM_FLAG_DELETION) === 0) {
      // It was created over a deletion, which hid something.
      const created = (cached & (ITEM_PERSISTENT | ITEM_COMMITTED | ITEM_DELTA)) === 0;
      if (created) page.setFlags(index, cached | ITEM_PERSISTENT);
      return false;
    }
    const stored = storedFlags >= 0 && (storedFlags & ITEM_FLAG_DELETION) === 0;
    if (key.zone !== ZONE_INODE_INDEX) return stored && (cached & ITEM_COMMITTED) !== 0;
    return stored || (storedFlags < 0 && key.second === transSeq);
  }

  /** The locks that they are under. */
  locks(): Set<ClusterLock> {
    const locks = new Set<ClusterLock>();
    for (const page of this.#pages) if (page.dirty > 0) locks.add(page.lock);
    return locks;
  }

  /** After the commit: takes a page off the list; null at the end, when nothing is dirty any more. */
  takePage(): Page | null {
    const page = this.#pages.pop();
    if (page !== undefined) {
      page.listed = false;
      return page;
    }
    for (const p of this.#unscanned) p.unscanned = false;
    this.#unscanned = [];
    this.count = 0;
    this.bytes = 0;
    return null;
  }
}
