/**
 * Changes of items that are to be written: for each key a value or a deletion, found again by key and
 * by range, visited in key order. A repair may have millions, so they are bytes in a few large arrays
 * and not objects: some 50 bytes each and the value.
 *
 * Records lie in chunks as they came; an overwritten one is left behind. An index of record numbers in
 * key order, in pages that split, leads to them.
 */

import { compareKeyAt, Key } from "../../../format/key.ts";
import { assert } from "../../errors.ts";
import { viewOf } from "../raw.ts";

const CHUNK_BYTES = 1 << 16;
/** No item has a greater value. */
const MOST_VALUE = 1 << 14;
/** A record: its key, the length of its value or DELETED, the value. */
const VAL_LEN = Key.SIZE;
const VAL = Key.SIZE + 4;
const DELETED = 0xffff_ffff;
/** Record numbers of a page of the index. */
const PAGE = 512;

interface Page {
  readonly records: Int32Array;
  nr: number;
}

export interface Change {
  readonly key: Key;
  /** Null to delete the item. */
  readonly val: Uint8Array | null;
}

export class ChangeSet {
  readonly #chunks: { readonly buf: Uint8Array; readonly v: DataView }[] = [];
  /** Bytes of the last chunk that are taken. */
  #fill = CHUNK_BYTES;
  /** Chunk and byte of each record, as one number: chunk * CHUNK_BYTES + byte. */
  #places = new Float64Array(256);
  #records = 0;
  readonly #pages: Page[] = [];
  #count = 0;

  /** Keys that have a change. */
  get count(): number {
    return this.#count;
  }

  /** Memory that the changes take. */
  get bytes(): number {
    return this.#chunks.length * CHUNK_BYTES + this.#places.byteLength +
      this.#pages.length * PAGE * 4;
  }

  /** The change of a key; undefined if it has none. The value is a window of what is kept. */
  get(key: Key): Uint8Array | null | undefined {
    const page = this.#pages[this.#pageOf(key)];
    if (page === undefined) return undefined;
    const at = this.#lowerBound(page, key);
    if (at === page.nr || this.#compare(page.records[at] as number, key) !== 0) return undefined;
    return this.#value(page.records[at] as number);
  }

  /** Stores a copy of `val`; null deletes the item. */
  put(key: Key, val: Uint8Array | null): void {
    const record = this.#store(key, val);
    let index = this.#pageOf(key), page = this.#pages[index];
    if (page === undefined) {
      page = { records: new Int32Array(PAGE), nr: 0 };
      this.#pages.push(page);
      index = 0;
    }
    let at = this.#lowerBound(page, key);
    if (at < page.nr && this.#compare(page.records[at] as number, key) === 0) {
      page.records[at] = record;
      return;
    }
    if (page.nr === PAGE) {
      // Changes mostly come in key order: then pages stay full.
      const keep = at === PAGE ? PAGE : PAGE >> 1;
      const other: Page = { records: new Int32Array(PAGE), nr: PAGE - keep };
      other.records.set(page.records.subarray(keep));
      page.nr = keep;
      this.#pages.splice(index + 1, 0, other);
      if (at >= keep) {
        page = other;
        at -= keep;
      }
    }
    page.records.copyWithin(at + 1, at, page.nr);
    page.records[at] = record;
    page.nr++;
    this.#count++;
  }

  /** Visits the changes of [first, last] in key order; values are windows of what is kept. */
  *range(first: Key, last: Key): Generator<Change, void, undefined> {
    for (let index = this.#pageOf(first); index < this.#pages.length; index++) {
      const page = this.#pages[index] as Page;
      for (let at = this.#lowerBound(page, first); at < page.nr; at++) {
        const record = page.records[at] as number;
        if (this.#compare(record, last) > 0) return;
        yield { key: this.#key(record), val: this.#value(record) };
      }
    }
  }

  /** The last page that can have the key; 0 when there is none. */
  #pageOf(key: Key): number {
    const pages = this.#pages;
    let from = 0, to = pages.length;
    // The first page whose first key is greater.
    while (from < to) {
      const mid = from + to >> 1;
      if (this.#compare((pages[mid] as Page).records[0] as number, key) <= 0) from = mid + 1;
      else to = mid;
    }
    return Math.max(0, from - 1);
  }

  /** The first place of a page whose key is not less. */
  #lowerBound(page: Page, key: Key): number {
    let from = 0, to = page.nr;
    while (from < to) {
      const mid = from + to >> 1;
      if (this.#compare(page.records[mid] as number, key) < 0) from = mid + 1;
      else to = mid;
    }
    return from;
  }

  #compare(record: number, key: Key): number {
    const place = this.#places[record] as number;
    const chunk = this.#chunks[Math.floor(place / CHUNK_BYTES)] as { v: DataView };
    return compareKeyAt(chunk.v, place % CHUNK_BYTES, key);
  }

  #key(record: number): Key {
    const place = this.#places[record] as number;
    const chunk = this.#chunks[Math.floor(place / CHUNK_BYTES)] as { v: DataView };
    return Key.read(chunk.v, place % CHUNK_BYTES);
  }

  #value(record: number): Uint8Array | null {
    const place = this.#places[record] as number, at = place % CHUNK_BYTES;
    const { buf, v } = this.#chunks[Math.floor(place / CHUNK_BYTES)] as {
      buf: Uint8Array;
      v: DataView;
    };
    const len = v.getUint32(at + VAL_LEN, true);
    return len === DELETED ? null : buf.subarray(at + VAL, at + VAL + len);
  }

  /** Appends a record; returns its number. */
  #store(key: Key, val: Uint8Array | null): number {
    const len = val?.length ?? 0;
    assert(len <= MOST_VALUE, `an item of ${len} bytes`);
    const bytes = VAL + (len + 3 & ~3);
    if (this.#fill + bytes > CHUNK_BYTES) {
      const buf = new Uint8Array(CHUNK_BYTES);
      this.#chunks.push({ buf, v: viewOf(buf) });
      this.#fill = 0;
    }
    const { buf, v } = this.#chunks[this.#chunks.length - 1] as { buf: Uint8Array; v: DataView };
    const at = this.#fill;
    key.write(v, at);
    v.setUint32(at + VAL_LEN, val === null ? DELETED : len, true);
    if (val !== null) buf.set(val, at + VAL);
    if (this.#records === this.#places.length) {
      const grown = new Float64Array(2 * this.#records);
      grown.set(this.#places);
      this.#places = grown;
    }
    this.#places[this.#records] = (this.#chunks.length - 1) * CHUNK_BYTES + at;
    this.#fill += bytes;
    return this.#records++;
  }
}
