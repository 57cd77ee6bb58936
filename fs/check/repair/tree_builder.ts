/**
 * Building a btree from items in key order (03 §6.1): leaves are filled one after the other, parents
 * grow above them. Every block is new, so what is built never touches what it replaces; leaves that
 * are there already can become part of the tree as they are.
 */

import type { BtreeRoot } from "../../../format/btree.ts";
import { hasRoom, initBtreeBlock, insertItem } from "../../../format/btree_block.ts";
import { BlockRef } from "../../../format/block.ts";
import { MAGIC_BTREE } from "../../../format/constants.ts";
import { Key } from "../../../format/key.ts";
import type { Block } from "../../block_cache.ts";
import type { WriteTree } from "../../btree.ts";
import { assert } from "../../errors.ts";

const REF_BYTES = 16;

/** New blocks that wait in memory until they are written together, where there may be many. */
export const DIRTY_BLOCKS = 64;

interface Level {
  block: Block;
  last: Key;
}

/** A new, empty btree block and the reference to it. */
export function newTreeBlock(t: WriteTree, level: number): { block: Block; ref: BlockRef } {
  const ref = BlockRef.alloc();
  const block = t.writer.dirty(ref, MAGIC_BTREE, t.alloc);
  initBtreeBlock(block, level);
  return { block, ref };
}

export class TreeBuilder {
  readonly #levels: (Level | undefined)[] = [];
  #previous: Key | null = null;
  /** A leaf as it is, not in its parent yet: the last one's bound is all-ones. */
  #leaf: { ref: Uint8Array; last: Key } | null = null;

  /**
   * With `mostDirty` whatever is finished is written when so many blocks are dirty: the writer must be
   * the builder's own then.
   */
  constructor(private readonly t: WriteTree, private readonly mostDirty: number = Infinity) {}

  /** Adds an item; keys ascend strictly. */
  add(key: Key, val: Uint8Array, seq = 0, flags = 0): void {
    const before = this.#previous;
    assert(before === null || before.compare(key) < 0, "items of a new tree are out of order");
    this.#previous = key;
    this.#settleLeaf();
    this.#put(0, key, val, seq, flags);
  }

  /** Adds a leaf as it is, with its least and greatest key. */
  addLeaf(ref: BlockRef, first: Key, last: Key): void {
    const before = this.#previous;
    assert(before === null || before.compare(first) < 0, "leaves of a new tree are out of order");
    this.#previous = last;
    this.#settleLeaf();
    const open = this.#levels[0];
    if (open !== undefined) this.#close(0, open, open.last);
    this.#levels[0] = undefined;
    this.#leaf = { ref: ref.bytes.slice(), last };
  }

  #settleLeaf(): void {
    const leaf = this.#leaf;
    if (leaf === null) return;
    this.#leaf = null;
    this.#put(1, leaf.last, leaf.ref, 0, 0);
  }

  #put(level: number, key: Key, val: Uint8Array, seq: number, flags: number): void {
    let at: Level | undefined = this.#levels[level];
    // Parents keep room for one more item: the one that closes them.
    if (at !== undefined && !hasRoom(at.block, val.length)) {
      this.#close(level, at, at.last);
      at = undefined;
    }
    if (at === undefined) {
      if (this.t.writer.dirtyCount >= this.mostDirty) this.#writeFinished();
      at = { block: newTreeBlock(this.t, level).block, last: key };
      this.#levels[level] = at;
    }
    insertItem(at.block, key, seq, flags, val);
    at.last = key;
  }

  #writeFinished(): void {
    this.t.writer.writeBut(new Set(this.#levels.flatMap((at) => at?.block ?? [])));
  }

  #close(level: number, at: Level, bound: Key): void {
    const ref = BlockRef.alloc();
    ref.set(at.block.blkno, at.block.seqHi, at.block.seqLo);
    assert(ref.bytes.length === REF_BYTES, "a child reference has 16 bytes");
    this.#put(level + 1, bound, ref.bytes, 0, 0);
  }

  /** Ends the tree; `root` becomes its root. */
  finish(root: BtreeRoot): void {
    root.zero();
    const leaf = this.#leaf;
    if (leaf !== null && this.#levels.length <= 1) {
      root.ref.bytes.set(leaf.ref);
      root.height = 1;
      return;
    }
    if (leaf !== null) this.#put(1, Key.ONES, leaf.ref, 0, 0);
    for (let level = 0; level < this.#levels.length; level++) {
      const at = this.#levels[level];
      if (at === undefined) continue;
      if (level === this.#levels.length - 1) {
        root.ref.set(at.block.blkno, at.block.seqHi, at.block.seqLo);
        root.height = level + 1;
        return;
      }
      this.#close(level, at, Key.ONES);
    }
  }
}
