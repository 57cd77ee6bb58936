/**
 * Search files (03 §20.1, 01 §14): appending entries to the log of a transaction, reading all
 * entries, and visiting all blocks for checkers and for freeing.
 *
 * A file is a radix of blocks that is never sparse: logical blocks 0 … blocks−1, of which the last
 * may be partly filled. Sorting and compaction (03 §20.4–20.6) will stand on what is here.
 */

import { BlockRef } from "../format/block.ts";
import { MAGIC_SRCH_BLOCK, MAGIC_SRCH_PARENT, SRCH_PARENT_REFS } from "../format/constants.ts";
import {
  appendSrchEntry,
  forEachSrchEntry,
  SrchBlock,
  SrchEntry,
  type SrchFile,
  srchHeight,
  SrchParent,
  srchParentIndex,
} from "../format/srch.ts";
import type { Block } from "./block_cache.ts";
import type { Tree, WriteTree } from "./btree.ts";
import { asCorrupt, assert, CorruptError } from "./errors.ts";

/** Appends an entry: an xattr whose name hashes to `hash` was made or removed. */
export function appendSrch(
  t: WriteTree,
  file: SrchFile,
  hash: bigint,
  ino: number,
  id: number,
): void {
  const entry = SrchEntry.alloc();
  entry.set(hash, ino, id);
  let blk = Math.max(file.blocks - 1, 0);
  if (!appendSrchEntry(dirtySrchBlock(t, file, blk), entry)) {
    blk++;
    const fits = appendSrchEntry(dirtySrchBlock(t, file, blk), entry);
    assert(fits, "an empty search block takes no entry");
  }
  file.blocks = blk + 1;
  if (file.entries === 0 || entry.compare(file.first) < 0) file.first.copyFrom(entry);
  if (file.entries === 0 || entry.compare(file.last) > 0) file.last.copyFrom(entry);
  file.entries++;
}

/**
 * Visits every entry in stored order; the view is only valid during the call. Throws StaleError if
 * the file is out of date, CorruptError for blocks that contradict themselves.
 */
export function readSrch(
  t: Tree,
  file: SrchFile,
  visit: (entry: SrchEntry, blk: number) => void,
): void {
  const { blocks, height, ref } = file;
  if (blocks > 0 && height < srchHeight(blocks - 1)) {
    throw new CorruptError(`search file of ${blocks} blocks has height ${height}`);
  }
  for (let blk = 0; blk < blocks; blk++) {
    let at = ref;
    for (let level = height - 1; level > 0; level--) {
      const parent = new SrchParent(readBlock(t, at, level).v, 0);
      at = parent.ref(srchParentIndex(level, blk));
    }
    const block = readBlock(t, at, 0);
    block.pins++;
    try {
      forEachSrchEntry(new SrchBlock(block.v, 0), (entry) => visit(entry, blk));
    } catch (e) {
      throw asCorrupt(e, `search block ${block.blkno}`);
    } finally {
      block.pins--;
    }
  }
}

/** Visits every block, parents before their children: the first logical block below, its level. */
export function walkSrchBlocks(
  t: Tree,
  file: SrchFile,
  visit: (block: Block, level: number, blk: number) => void,
): void {
  if (file.height === 0) return;
  walkBelow(t, file.ref, file.height - 1, 0, file.blocks, visit);
}

function walkBelow(
  t: Tree,
  ref: BlockRef,
  level: number,
  blk: number,
  blocks: number,
  visit: (block: Block, level: number, blk: number) => void,
): void {
  const block = readBlock(t, ref, level);
  block.pins++;
  try {
    visit(block, level, blk);
    if (level === 0) return;
    const parent = new SrchParent(block.v, 0);
    const span = SRCH_PARENT_REFS ** (level - 1);
    for (let i = 0; i < SRCH_PARENT_REFS && blk + i * span < blocks; i++) {
      walkBelow(t, parent.ref(i), level - 1, blk + i * span, blocks, visit);
    }
  } finally {
    block.pins--;
  }
}

function readBlock(t: Tree, ref: BlockRef, level: number): Block {
  const magic = level > 0 ? MAGIC_SRCH_PARENT : MAGIC_SRCH_BLOCK;
  return t.writer === undefined ? t.cache.read(ref, magic) : t.cache.readOwned(ref, magic);
}

/** Makes the path to logical block `blk` writable; makes the block if it is the next new one. */
export function dirtySrchBlock(t: WriteTree, file: SrchFile, blk: number): SrchBlock {
  assert(blk <= file.blocks, "a search file must not become sparse");
  if (file.height === 0) {
    const first = t.writer.dirty(file.ref, MAGIC_SRCH_BLOCK, t.alloc);
    file.height = 1;
    return new SrchBlock(first.v, 0);
  }
  for (const height = srchHeight(blk); file.height < height; file.height++) {
    const ref = BlockRef.alloc();
    const root = new SrchParent(t.writer.dirty(ref, MAGIC_SRCH_PARENT, t.alloc).v, 0);
    root.ref(0).copyFrom(file.ref);
    file.ref.copyFrom(ref);
  }
  let ref = file.ref;
  for (let level = file.height - 1; level > 0; level--) {
    const parent = new SrchParent(t.writer.dirty(ref, MAGIC_SRCH_PARENT, t.alloc).v, 0);
    ref = parent.ref(srchParentIndex(level, blk));
  }
  return new SrchBlock(t.writer.dirty(ref, MAGIC_SRCH_BLOCK, t.alloc).v, 0);
}
