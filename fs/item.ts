/** Items as they are found, in the item cache or in the trees. */

import type { Key } from "../format/key.ts";
import type { Page } from "./item_page.ts";

/**
 * An item as it was found. `val` is a window of the cache: good for reading until the operation
 * ends. In apply it may be changed in place if `update` or `updateAt` of the same place follows.
 */
export class Item {
  // Declared, not defined: else each would be stored twice, first as undefined.
  declare readonly key: Key;
  /** @internal Where it was, to be tried before searching. */
  declare readonly page: Page;
  /** @internal Its index there. */
  declare readonly index: number;
  /** The value and others: for reading in place, where a window would cost more than the reading. */
  declare readonly view: DataView;
  /** The same bytes. */
  declare readonly vals: Uint8Array;
  /** Where the value begins in `view`. */
  declare readonly off: number;
  /** Bytes of the value. */
  declare readonly length: number;

  constructor(key: Key, page: Page, index: number) {
    this.key = key;
    this.page = page;
    this.index = index;
    this.view = page.view;
    this.vals = page.vals;
    this.off = page.offset(index);
    this.length = page.length(index);
  }

  get val(): Uint8Array {
    return this.vals.subarray(this.off, this.off + this.length);
  }

  /** Are the values equal? */
  hasValueOf(other: Item): boolean {
    if (this.length !== other.length) return false;
    const { vals, off } = this, { vals: otherVals, off: otherOff } = other;
    for (let i = 0; i < this.length; i++) {
      if (vals[off + i] !== otherVals[otherOff + i]) return false;
    }
    return true;
  }
}

/** An item as the trees give it. */
export interface ReadItem {
  readonly key: Key;
  readonly seq: number;
  readonly val: Uint8Array;
}
