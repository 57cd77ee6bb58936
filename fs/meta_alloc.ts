/**
 * Metadata block allocation from lists (03 §4, 01 §11.2): the allocator of a transaction, and the
 * server's operations that fill, empty and join lists.
 *
 * A list is a chain of blocks of block numbers. Invariants: `total_nr` counts the numbers of the
 * whole chain, `first_nr` those of its first block; a transaction uses only the first blocks; what
 * it frees goes to the freed list and is never allocated again by it.
 */

import { AllocListBlock, type AllocListHead, type AllocRoot } from "../format/alloc.ts";
import { BlockRef } from "../format/block.ts";
import {
  ALLOC_LIST_MAX_BLOCKS,
  MAGIC_ALLOC_LIST,
  META_DEV_START_BLKNO,
} from "../format/constants.ts";
import { EIO } from "../format/errno.ts";
import type { Block, BlockCache, BlockWriter, MetaAllocator } from "./block_cache.ts";
import type { WriteTree } from "./btree.ts";
import { asCorrupt, assert, AssertionError, CorruptError, FsError, noSpace } from "./errors.ts";
import { extentCost, insertExtent, takeFront } from "./extent_alloc.ts";

/** Free slots below which a freed list's first block is not used again (03 §4.2). */
const LIST_ROTATE = 2046;

/** What a transaction can still allocate and free. */
export interface Remaining {
  readonly avail: number;
  readonly freed: number;
}

export interface ListAllocatorOptions {
  /** Block numbers must be below this: `total_meta_blocks`. */
  deviceBlocks: number;
  /** Remember every block of the transaction and refuse to allocate or free one twice. */
  paranoid?: boolean;
}

/** A tree context whose blocks come from lists. */
export interface AllocTree extends WriteTree {
  readonly writer: BlockWriter;
  readonly alloc: ListAllocator;
}

/**
 * The allocator of a transaction over two list heads, which it changes in place. Nothing is dirtied
 * before the first allocation or free; that one takes two blocks for the lists themselves.
 */
export class ListAllocator implements MetaAllocator {
  readonly deviceBlocks: number;
  private availBlock: AllocListBlock | null = null;
  private freedBlock: AllocListBlock | null = null;
  private readonly paranoid: { given: Set<number>; returned: Set<number> } | null;

  constructor(
    private readonly t: { readonly cache: BlockCache; readonly writer: BlockWriter },
    readonly avail: AllocListHead,
    readonly freed: AllocListHead,
    options: ListAllocatorOptions,
  ) {
    this.deviceBlocks = options.deviceBlocks;
    this.paranoid = options.paranoid === true ? { given: new Set(), returned: new Set() } : null;
  }

  allocMeta(): number {
    if (this.availBlock === null) this.begin();
    const list = this.availBlock!;
    if (list.nr === 0) throw noSpace();
    const blkno = entryOf(list, list.start);
    this.checkRange(blkno);
    consume(list, this.avail, 1);
    const seen = this.paranoid;
    if (seen !== null) {
      if (seen.given.has(blkno) || seen.returned.has(blkno)) {
        throw new AssertionError(`block ${blkno} is allocated twice`);
      }
      seen.given.add(blkno);
    }
    return blkno;
  }

  freeMeta(blkno: number): void {
    this.checkRange(blkno);
    if (this.freedBlock === null) this.begin();
    const list = this.freedBlock!;
    if (list.nr === ALLOC_LIST_MAX_BLOCKS) throw new FsError(EIO, "the freed list is full");
    if (this.paranoid !== null) {
      if (this.paranoid.returned.has(blkno)) {
        throw new AssertionError(`block ${blkno} is freed twice`);
      }
      this.paranoid.returned.add(blkno);
    }
    push(list, this.freed, blkno);
  }

  /** Whether fewer than `n` allocations or frees are left (03 §4.4). */
  low(n: number): boolean {
    return this.avail.firstNr < n || ALLOC_LIST_MAX_BLOCKS - this.freed.firstNr < n;
  }

  /** As `low` counts, but anticipating that the first use will begin a new freed block. */
  remaining(): Remaining {
    let freed = ALLOC_LIST_MAX_BLOCKS - this.freed.firstNr;
    if (this.freedBlock === null && freed < LIST_ROTATE) freed = ALLOC_LIST_MAX_BLOCKS - 2;
    return { avail: this.avail.firstNr, freed };
  }

  /** Whether `n` more would exceed the `budget` of allocations or frees since `before`. */
  usedSince(before: Remaining, n: number, budget: number): boolean {
    const { avail, freed } = this.remaining();
    return before.avail - avail + n > budget || before.freed - freed + n > budget;
  }

  /** Whether that many extent changes in a tree and `extra` other blocks can be afforded. */
  hasRoom(root: AllocRoot, extents: number, extra: number): boolean {
    const need = 1 + extentCost(root.root.height) * extents + extra;
    const { avail, freed } = this.remaining();
    return avail >= need && freed >= need;
  }

  /**
   * Ends the transaction's use, right before its writer is written. The next allocation begins
   * another transaction, or goes on with this one if that write failed.
   */
  finish(): void {
    this.availBlock = this.freedBlock = null;
    this.paranoid?.given.clear();
    this.paranoid?.returned.clear();
  }

  /** Whether `head` is one of the two that this transaction uses. */
  uses(head: AllocListHead): boolean {
    return sameView(head, this.avail) || sameView(head, this.freed);
  }

  /** The first use in a transaction (03 §4.2). */
  private begin(): void {
    const { t: { cache, writer }, avail, freed } = this;
    if (!avail.ref.isNull && cache.peek(avail.ref.blkno)?.writer === writer) {
      // finished, but the write failed: the transaction goes on with the blocks it has
      this.availBlock = readFirst(cache, avail);
      this.freedBlock = readFirst(cache, freed);
      return;
    }
    if (avail.ref.isNull || avail.firstNr < 2) throw noSpace();
    // All that can fail comes before the first change.
    const old = readFirst(cache, avail);
    const availOld = avail.ref.blkno;
    const availNew = entryOf(old, old.start), freedNew = entryOf(old, old.start + 1);
    this.checkRange(availNew);
    this.checkRange(freedNew);
    const freedOld = BlockRef.alloc();
    freedOld.copyFrom(freed.ref);
    const rotate = !freedOld.isNull && ALLOC_LIST_MAX_BLOCKS - freed.firstNr < LIST_ROTATE;
    if (!freedOld.isNull) readFirst(cache, freed);
    if (rotate) {
      freed.ref.zero();
      freed.firstNr = 0;
    }

    const freedBlock = listOf(writer.moveTo(freed.ref, MAGIC_ALLOC_LIST, freedNew));
    if (rotate) freedBlock.next.copyFrom(freedOld);
    const block = writer.moveTo(avail.ref, MAGIC_ALLOC_LIST, availNew);
    const availBlock = listOf(block);
    consume(availBlock, avail, 2);
    if (!block.ascending) sortEntries(availBlock);
    block.ascending = true;
    this.availBlock = availBlock;
    this.freedBlock = freedBlock;
    this.freeMeta(availOld);
    if (!freedOld.isNull && !rotate) this.freeMeta(freedOld.blkno);
  }

  private checkRange(blkno: number): void {
    checkBlkno(blkno, this.deviceBlocks);
  }
}

// The server's list operations, 03 §4.5. None may be applied to the heads in use by the allocator.

/**
 * If the first block of `list` has fewer than `lo` numbers, moves blocks from `root` into it, up to
 * `target` as far as the allocator's room goes. Throws ENOSPC when the root runs dry before; what
 * was moved stays moved.
 */
export function fillList(
  t: AllocTree,
  list: AllocListHead,
  root: AllocRoot,
  lo: number,
  target: number,
): void {
  assert(!t.alloc.uses(list), "a list in use is filled");
  assert(target <= ALLOC_LIST_MAX_BLOCKS, "a list block is filled beyond its end");
  if (list.firstNr >= lo) return;
  const block = dirtyFirst(t, list);
  while (block.nr < target && t.alloc.hasRoom(root, 1, 0)) {
    const e = takeFront(t, root, target - block.nr);
    if (e === null) throw noSpace();
    for (let i = 0; i < e.len; i++) push(block, list, e.start + i);
  }
}

/**
 * Moves numbers of `from` into the first block of `list`, up to `target` as far as the allocator's
 * room goes, and frees the emptied blocks: what was freed is used again without a detour through a
 * tree of extents. Only for numbers that nothing refers to once the transaction is stable, and a
 * list that is used after that.
 */
export function recycleList(
  t: AllocTree,
  list: AllocListHead,
  from: AllocListHead,
  target: number,
): void {
  assert(!t.alloc.uses(list) && !t.alloc.uses(from), "a list in use is recycled");
  assert(target <= ALLOC_LIST_MAX_BLOCKS, "a list block is filled beyond its end");
  let to: AllocListBlock | null = null;
  while (!from.ref.isNull && list.firstNr < target && !t.alloc.low(4)) {
    to ??= dirtyFirst(t, list);
    const room = target - list.firstNr;
    if (from.firstNr > room) {
      const block = dirtyFirst(t, from);
      for (let i = 0; i < room; i++) push(to, list, entryOf(block, block.start + i));
      consume(block, from, room);
      return;
    }
    // What can fail comes first.
    const block = readFirst(t.cache, from);
    const nr = block.nr;
    const following = block.next.isNull ? null : readList(t.cache, block.next);
    t.alloc.freeMeta(from.ref.blkno);
    for (let i = 0; i < nr; i++) push(to, list, entryOf(block, block.start + i));
    from.ref.copyFrom(block.next);
    from.firstNr = following === null ? 0 : following.nr;
    from.totalNr -= nr;
  }
}

/**
 * Moves the numbers of `list` into `root` as extents and frees the emptied list blocks; stops early
 * when the allocator's room ends. A list that becomes empty has no block.
 */
export function emptyList(t: AllocTree, root: AllocRoot, list: AllocListHead): void {
  assert(!t.alloc.uses(list), "a list in use is emptied");
  let block: AllocListBlock | null = null;
  while (!list.ref.isNull && t.alloc.hasRoom(root, 1, 1)) {
    if (list.firstNr === 0) {
      const emptied = readFirst(t.cache, list);
      const following = emptied.next.isNull ? null : readList(t.cache, emptied.next);
      t.alloc.freeMeta(list.ref.blkno);
      list.ref.copyFrom(emptied.next);
      list.firstNr = following === null ? 0 : following.nr;
      block = null;
      continue;
    }
    if (block === null) {
      block = dirtyFirst(t, list);
      sortEntries(block);
    }
    const start = entryOf(block, block.start);
    let len = 1;
    while (len < block.nr && entryOf(block, block.start + len) === start + len) len++;
    checkBlkno(start, t.alloc.deviceBlocks);
    checkBlkno(start + len - 1, t.alloc.deviceBlocks);
    insertExtent(t, root, start, len);
    consume(block, list, len);
  }
}

/** Puts all blocks of `src` in front of `dst`; `src` becomes zero. */
export function spliceList(t: AllocTree, dst: AllocListHead, src: AllocListHead): void {
  assert(!t.alloc.uses(dst) && !t.alloc.uses(src), "a list in use is spliced");
  if (src.ref.isNull) return;
  let block = dirtyFirst(t, src);
  for (let count = 1; !block.next.isNull; count++) {
    if (count > t.alloc.deviceBlocks) throw new CorruptError("a block list does not end");
    block = listOf(t.writer.dirty(block.next, MAGIC_ALLOC_LIST, t.alloc));
  }
  block.next.copyFrom(dst.ref);
  dst.ref.copyFrom(src.ref);
  dst.firstNr = src.firstNr;
  dst.totalNr += src.totalNr;
  src.zero();
}

/**
 * As `spliceList`, but the numbers of a short `src` are copied into the first block of `dst` and its
 * block is freed, so that chains of nearly empty blocks do not build up.
 */
export function absorbList(t: AllocTree, dst: AllocListHead, src: AllocListHead): void {
  assert(!t.alloc.uses(dst) && !t.alloc.uses(src), "a list in use is absorbed");
  const fits = dst.firstNr + src.firstNr <= ALLOC_LIST_MAX_BLOCKS - LIST_ROTATE;
  if (src.ref.isNull || dst.ref.isNull || !fits || !readFirst(t.cache, src).next.isNull) {
    spliceList(t, dst, src);
    return;
  }
  const to = dirtyFirst(t, dst);
  const from = readFirst(t.cache, src);
  t.alloc.freeMeta(src.ref.blkno); // the last thing that can fail
  for (let i = 0; i < from.nr; i++) push(to, dst, from.entry(from.start + i));
  src.zero();
}

/**
 * Visits the blocks of a list, for checkers and statistics. Whether the counts of the head agree is
 * theirs to check. Throws StaleError if the head is out of date, CorruptError for a chain that does
 * not end or entries that do not fit.
 */
export function walkList(
  cache: BlockCache,
  head: AllocListHead,
  visit: (blkno: number, block: AllocListBlock) => void,
): void {
  const ref = BlockRef.alloc();
  ref.copyFrom(head.ref);
  for (let count = 0; !ref.isNull; count++) {
    if (count > cache.deviceBlocks) throw new CorruptError("a block list does not end");
    const block = listOf(cache.read(ref, MAGIC_ALLOC_LIST));
    const following = BlockRef.alloc();
    following.copyFrom(block.next);
    visit(ref.blkno, block);
    ref.copyFrom(following);
  }
}

// One list block.

/** The view of a list block, whose entries lie inside it. */
function listOf(b: Block): AllocListBlock {
  const list = new AllocListBlock(b.v, 0);
  if (list.start + list.nr > ALLOC_LIST_MAX_BLOCKS) {
    throw new CorruptError(`list block ${b.blkno} has ${list.nr} entries from ${list.start}`);
  }
  return list;
}

function readList(cache: BlockCache, ref: BlockRef): AllocListBlock {
  return listOf(cache.readOwned(ref, MAGIC_ALLOC_LIST));
}

function readFirst(cache: BlockCache, head: AllocListHead): AllocListBlock {
  return checkFirst(readList(cache, head.ref), head);
}

/** The first block, writable; a new one if the list has none. */
function dirtyFirst(t: AllocTree, head: AllocListHead): AllocListBlock {
  const block = t.writer.dirty(head.ref, MAGIC_ALLOC_LIST, t.alloc);
  block.ascending = false;
  return checkFirst(listOf(block), head);
}

function checkFirst(block: AllocListBlock, head: AllocListHead): AllocListBlock {
  if (block.nr === head.firstNr && head.firstNr <= head.totalNr) return block;
  throw new CorruptError(
    `list block ${head.ref.blkno} has ${block.nr} entries, its head says ${head.firstNr} of ${head.totalNr}`,
  );
}

function entryOf(list: AllocListBlock, i: number): number {
  try {
    return list.entry(i);
  } catch (e) {
    throw asCorrupt(e, `entry ${i} of a block list`);
  }
}

/** Adds a number behind the last one, or before the first if the end is reached. */
function push(list: AllocListBlock, head: AllocListHead, blkno: number): void {
  const start = list.start, nr = list.nr;
  if (start + nr < ALLOC_LIST_MAX_BLOCKS) list.setEntry(start + nr, blkno);
  else {
    list.setEntry(start - 1, blkno);
    list.start = start - 1;
  }
  list.nr = nr + 1;
  head.firstNr = nr + 1;
  head.totalNr++;
}

/** Removes the first `n` numbers. */
function consume(list: AllocListBlock, head: AllocListHead, n: number): void {
  const nr = list.nr - n;
  list.start = nr === 0 ? 0 : list.start + n;
  list.nr = nr;
  head.firstNr = nr;
  head.totalNr -= n;
}

function sortEntries(list: AllocListBlock): void {
  if (list.isAscending) return;
  const start = list.start, nr = list.nr;
  const entries = new Float64Array(nr);
  for (let i = 0; i < nr; i++) entries[i] = entryOf(list, start + i);
  entries.sort();
  for (let i = 0; i < nr; i++) list.setEntry(start + i, entries[i]!);
}

function checkBlkno(blkno: number, deviceBlocks: number): void {
  if (blkno < META_DEV_START_BLKNO || blkno >= deviceBlocks) {
    throw new CorruptError(`metadata block ${blkno} is outside the device (${deviceBlocks})`);
  }
}

function sameView(a: AllocListHead, b: AllocListHead): boolean {
  return a.v.buffer === b.v.buffer && a.v.byteOffset + a.o === b.v.byteOffset + b.o;
}
