/**
 * A record of some words for each metadata block that has one, found by the block's number, in as much
 * memory as it may have: pages that do not fit are in a temporary file. Blocks without a record cost
 * nothing where they are many together.
 *
 * Lifecycle: any reads and writes, then `close`.
 */

import { TempFile } from "../temp_file.ts";

/** Records of a page. */
const PAGE = 256;
const MIN_PAGES = 8;

interface Page {
  readonly index: number;
  readonly words: Uint32Array<ArrayBuffer>;
  changed: boolean;
}

export class BlockTable {
  /** Pages in memory, least recently used first. */
  readonly #pages = new Map<number, Page>();
  readonly #limit: number;
  #stored = new Set<number>();
  #file: TempFile | null = null;
  #current: Page | null = null;

  /** `words` of a record; `memory` in bytes. */
  constructor(
    private readonly words: number,
    memory: number,
    private readonly tempDir: string | undefined,
  ) {
    this.#limit = Math.max(MIN_PAGES, Math.floor(memory / 4 / words / PAGE));
  }

  /** Whether pages went to the temporary file. */
  get spilled(): boolean {
    return this.#file !== null;
  }

  /** Word `field` of a block's record, 0 where nothing was set. */
  get(blkno: number, field: number): number {
    const index = Math.floor(blkno / PAGE);
    const page = this.#current?.index === index ? this.#current : this.#use(index, false);
    return page === null ? 0 : page.words[blkno % PAGE * this.words + field] as number;
  }

  set(blkno: number, field: number, value: number): void {
    const index = Math.floor(blkno / PAGE);
    const page = this.#current?.index === index ? this.#current : this.#use(index, true) as Page;
    page.words[blkno % PAGE * this.words + field] = value;
    page.changed = true;
  }

  /** Visits in ascending order the blocks whose word `field` is not zero. `visit` may use the table. */
  forEach(field: number, visit: (blkno: number) => void): void {
    const indexes = [...new Set([...this.#pages.keys(), ...this.#stored])].sort((a, b) => a - b);
    for (const index of indexes) {
      for (let blkno = index * PAGE; blkno < (index + 1) * PAGE; blkno++) {
        if (this.get(blkno, field) !== 0) visit(blkno);
      }
    }
  }

  close(): void {
    this.#file?.close();
    this.#file = null;
    this.#pages.clear();
    this.#stored.clear();
    this.#current = null;
  }

  #use(index: number, make: boolean): Page | null {
    let page = this.#pages.get(index);
    if (page !== undefined) this.#pages.delete(index);
    else {
      const stored = this.#stored.has(index);
      if (!stored && !make) return null;
      if (this.#pages.size >= this.#limit) this.#evict();
      page = { index, words: new Uint32Array(PAGE * this.words), changed: false };
      if (stored) this.#file?.read(page.words, index * PAGE * this.words);
    }
    this.#pages.set(index, page);
    this.#current = page;
    return page;
  }

  /** Drops the page that was used least recently. */
  #evict(): void {
    const [page] = this.#pages.values();
    if (page === undefined) return;
    this.#pages.delete(page.index);
    if (this.#current === page) this.#current = null;
    if (!page.changed) return;
    this.#file ??= new TempFile(this.tempDir);
    this.#file.write(page.words, page.index * PAGE * this.words);
    this.#stored.add(page.index);
  }
}
