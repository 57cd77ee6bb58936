/**
 * What the open transaction must write: the dirty items of the item cache, as the list of pages that
 * have some. Every page with a dirty item is in the list (`listed`); pages stay in it until the
 * commit, even when their dirty items were forgotten again.
 */

import { ITEM_FLAG_DELETION } from "../format/constants.ts";
import type { TreeItem } from "./btree.ts";
import { comparePages, ITEM_DELETED, ITEM_DIRTY, type Page } from "./item_page.ts";
import type { ClusterLock } from "./lock_client.ts";

/** Bytes of an item in a btree leaf, for a value of `len` bytes. */
export const leafBytes = (len: number): number => 56 + (len + 7 & ~7);

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
  *collect(chunk: number): Generator<TreeItem[]> {
    const pages = this.#pages.filter((p) => p.dirty > 0).sort(comparePages);
    let list: TreeItem[] = [];
    for (const page of pages) {
      for (let i = 0; i < page.count; i++) {
        const flags = page.flags(i);
        if ((flags & ITEM_DIRTY) === 0) continue;
        list.push({
          key: page.key(i),
          seq: page.seq(i),
          flags: (flags & ITEM_DELETED) !== 0 ? ITEM_FLAG_DELETION : 0,
          val: page.val(i),
        });
      }
      if (list.length >= chunk) {
        yield list;
        list = [];
      }
    }
    if (list.length > 0) yield list;
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
