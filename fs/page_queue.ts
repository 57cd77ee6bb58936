/** All pages of the item cache, the ones to be evicted first in front, and the memory they take. */

import type { Page } from "./item_page.ts";

export class PageQueue {
  /** Memory of all pages; who resizes a page corrects it. */
  bytes = 0;
  count = 0;
  #oldest: Page | null = null;
  #newest: Page | null = null;

  get oldest(): Page | null {
    return this.#oldest;
  }

  add(page: Page): void {
    this.bytes += page.bytes;
    this.count++;
    this.#append(page);
  }

  /** The page is gone from its lock. */
  remove(page: Page): void {
    this.bytes -= page.bytes;
    this.count--;
    page.attached = false;
    this.#unlink(page);
  }

  /** It gets another round. */
  moveToEnd(page: Page): void {
    this.#unlink(page);
    this.#append(page);
  }

  #append(page: Page): void {
    page.older = this.#newest;
    page.newer = null;
    if (this.#newest !== null) this.#newest.newer = page;
    else this.#oldest = page;
    this.#newest = page;
  }

  #unlink(page: Page): void {
    if (page.older !== null) page.older.newer = page.newer;
    else this.#oldest = page.newer;
    if (page.newer !== null) page.newer.older = page.older;
    else this.#newest = page.older;
    page.older = page.newer = null;
  }
}
