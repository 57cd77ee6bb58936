/**
 * Data blocks inside a transaction (03 §12). Operations allocate and free in memory only, so that an
 * apply cannot fail: before its first change a hold has moved enough extents out of the
 * transaction's `data_avail` tree, and what is freed is listed. The commit puts unused extents
 * back and the freed ones into `data_freed`; neither list crosses a transaction.
 */

import { DATA_DEV_START_BLKNO } from "../format/constants.ts";
import type { Extent } from "../format/alloc.ts";
import type { LogTrees } from "../format/log_trees.ts";
import { assert } from "./errors.ts";
import { insertExtent, takeFront } from "./extent_alloc.ts";
import type { AllocTree } from "./meta_alloc.ts";

/** Blocks taken at least at a time: 8 MiB. */
const CACHED_BLOCKS = 2048;

/** Blocks that one mapping call got; never empty. */
export interface DataPiece {
  blkno: number;
  len: number;
}

export class DataAllocator {
  #lt: LogTrees;
  #tree: AllocTree;
  /** Taken out of `data_avail`, not yet used. The first is allocated from. */
  readonly #taken: Extent[] = [];
  #takenBlocks = 0;
  readonly #freed: Extent[] = [];
  #freedBlocks = 0;
  #openBlocks: number;

  constructor(lt: LogTrees, tree: AllocTree, private readonly deviceBlocks: number) {
    this.#lt = lt;
    this.#tree = tree;
    this.#openBlocks = lt.dataAvail.totalLen;
  }

  /** Blocks that can still be allocated. */
  get available(): number {
    return this.#lt.dataAvail.totalLen + this.#takenBlocks;
  }
  /** Blocks that `alloc` can give. */
  get reserved(): number {
    return this.#takenBlocks;
  }
  /** `available` when the transaction opened. */
  get availableAtOpen(): number {
    return this.#openBlocks;
  }
  /** Blocks freed in this transaction. */
  get freedBlocks(): number {
    return this.#freedBlocks;
  }
  /** Has anything been allocated or freed? */
  get used(): boolean {
    return this.#freedBlocks > 0 || this.available !== this.#openBlocks;
  }

  /** Metadata blocks that `finish` may need. */
  get finishCost(): number {
    const taken = this.#taken.length * 4 * (2 + this.#lt.dataAvail.root.height);
    return taken + (this.#freed.length === 0 ? 0 : 8 + (this.#freed.length >> 6));
  }

  /**
   * Takes extents until `count` blocks can be allocated without touching a tree. "room" when the
   * metadata allocator must be refilled first, "empty" when there are not so many.
   */
  reserve(count: number): "ok" | "room" | "empty" {
    const { dataAvail } = this.#lt;
    while (this.#takenBlocks < count) {
      if (!this.#tree.alloc.hasRoom(dataAvail, 1, 16 + this.finishCost)) return "room";
      const want = Math.max(count - this.#takenBlocks, CACHED_BLOCKS);
      const extent = takeFront(this.#tree, dataAvail, want);
      if (extent === null) return "empty";
      this.#taken.push(extent);
      this.#takenBlocks += extent.len;
    }
    return "ok";
  }

  /** At most `count` neighbouring blocks out of what was reserved. */
  alloc(count: number): DataPiece {
    const first = this.#taken[0];
    assert(first !== undefined && count > 0, "data blocks are allocated without a reservation");
    const len = Math.min(count, first.len);
    const piece = { blkno: first.start, len };
    if (len === first.len) this.#taken.shift();
    else this.#taken[0] = { start: first.start + len, len: first.len - len };
    this.#takenBlocks -= len;
    return piece;
  }

  /** The blocks may be reused once the commit and the next GET_LOG_TREES are done. */
  free(blkno: number, len: number): void {
    assert(
      len > 0 && blkno >= DATA_DEV_START_BLKNO && blkno + len <= this.deviceBlocks,
      `data blocks ${blkno}+${len} freed outside of the device`,
    );
    this.#freedBlocks += len;
    const last = this.#freed.at(-1);
    if (last !== undefined && last.start + last.len === blkno) {
      this.#freed[this.#freed.length - 1] = { start: last.start, len: last.len + len };
    } else if (last !== undefined && blkno + len === last.start) {
      this.#freed[this.#freed.length - 1] = { start: blkno, len: last.len + len };
    } else {
      this.#freed.push({ start: blkno, len });
    }
  }

  /** At the commit: brings the trees up to date. May fail and be called again. */
  finish(): void {
    for (let e = this.#freed.at(-1); e !== undefined; e = this.#freed.at(-1)) {
      insertExtent(this.#tree, this.#lt.dataFreed, e.start, e.len);
      this.#freed.pop();
    }
    for (let e = this.#taken.at(-1); e !== undefined; e = this.#taken.at(-1)) {
      insertExtent(this.#tree, this.#lt.dataAvail, e.start, e.len);
      this.#taken.pop();
      this.#takenBlocks -= e.len;
    }
  }
}
