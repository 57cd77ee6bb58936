/**
 * Volumes written bottom-up, straight from the format: sorted items become full leaves, then parents,
 * with no engine in between. For states that no mount would leave soon (merges and compactions in
 * the middle), for volumes of millions of inodes in a minute, and as a second opinion on the format:
 * slots, AVL trees and hash tables are laid out otherwise than the engine does.
 *
 * Blocks are taken in ascending order; `hole` leaves free ones between. `finish` makes the free
 * extents of everything that was not taken and writes the super and quorum blocks.
 */

import {
  AllocListBlock,
  AllocListHead,
  AllocRoot,
  extentOrder,
  freeExtentKey,
  freeExtentOrderKey,
} from "../../format/alloc.ts";
import { BlockRef } from "../../format/block.ts";
import { BloomBlock } from "../../format/bloom.ts";
import { BtreeRoot } from "../../format/btree.ts";
import {
  ALLOC_LIST_MAX_BLOCKS,
  BTREE_HEADER_BYTES,
  BTREE_ITEM_BYTES,
  DATA_DEV_START_BLKNO,
  LEAF_ITEM_HASH_NR,
  LEAF_ITEM_HASH_OFF,
  LG_SIZE,
  MAGIC_ALLOC_LIST,
  MAGIC_BLOOM,
  MAGIC_BTREE,
  MAGIC_QUORUM,
  MAGIC_SRCH_BLOCK,
  MAGIC_SRCH_PARENT,
  MAGIC_SUPER,
  META_DEV_START_BLKNO,
  QUORUM_BLKNO,
  QUORUM_BLOCKS,
  SM_SIZE,
  SRCH_BLOCK_SAFE_BYTES,
  SUPER_BLKNO,
} from "../../format/constants.ts";
import { sealBlock } from "../../format/crc32c.ts";
import { bloomBits, keyBucket } from "../../format/hash.ts";
import { Key } from "../../format/key.ts";
import { lockRangeOfItem } from "../../format/lock_ranges.ts";
import { QuorumBlock } from "../../format/quorum.ts";
import {
  appendSrchEntry,
  SrchBlock,
  SrchEntry,
  SrchFile,
  srchHeight,
  SrchParent,
} from "../../format/srch.ts";
import { SuperBlock } from "../../format/super.ts";
import type { Device } from "../../fs/device.ts";
import { assert } from "../../fs/errors.ts";

export interface BuildItem {
  readonly key: Key;
  readonly val: Uint8Array;
  readonly seq?: number;
  readonly flags?: number;
}

export interface Run {
  readonly start: number;
  readonly len: number;
}

export interface BuilderOptions {
  readonly fsid: bigint;
  readonly metaBlocks: number;
  readonly dataBlocks: number;
  readonly fmtVers?: number;
  /** Most items in a btree block: small trees become tall. */
  readonly maxItems?: number;
  /** Most entries in a block of a search file. */
  readonly maxEntries?: number;
}

export interface Entry {
  readonly hash: bigint;
  readonly ino: number;
  readonly id: number;
}

interface Child {
  readonly last: Key;
  readonly ref: BlockRef;
}

const round8 = (n: number): number => (n + 7) & ~7;

export class VolumeBuilder {
  readonly super = SuperBlock.at(new Uint8Array(SM_SIZE));
  readonly fmtVers: number;
  #next = META_DEV_START_BLKNO;
  #seq = 1n;
  /** Free blocks below #next. */
  readonly #holes: Run[] = [];
  readonly #buf: Uint8Array;
  readonly #v: DataView;
  /** Blocks written so far. */
  written = 0;

  constructor(
    readonly meta: Device,
    readonly data: Device,
    private readonly options: BuilderOptions,
  ) {
    this.#buf = meta.allocBuffer(LG_SIZE);
    this.#v = new DataView(this.#buf.buffer, this.#buf.byteOffset, LG_SIZE);
    this.fmtVers = options.fmtVers ?? 2;
  }

  /** Takes a block. */
  alloc(): number {
    assert(this.#next < this.options.metaBlocks, "metadata device of the builder is full");
    return this.#next++;
  }

  /** Leaves `len` blocks free. */
  hole(len: number): void {
    this.#holes.push({ start: this.#next, len });
    this.#next += len;
  }

  /** Takes `len` blocks that the caller lists as free somewhere. */
  take(len: number): number[] {
    return Array.from({ length: len }, () => this.alloc());
  }

  #begin(magic: number): void {
    this.#buf.fill(0);
    this.#v.setUint32(4, magic, true);
  }

  /** Seals and writes the block in the buffer; returns the reference to it. */
  #end(blkno = this.alloc()): BlockRef {
    const v = this.#v;
    this.#seq = BigInt.asUintN(64, this.#seq * 6364136223846793005n + 1442695040888963407n);
    v.setBigUint64(8, this.options.fsid, true);
    v.setBigUint64(16, this.#seq, true);
    v.setBigUint64(24, BigInt(blkno), true);
    sealBlock(this.#buf);
    this.meta.write(this.#buf, blkno * LG_SIZE);
    this.written++;
    const ref = BlockRef.alloc();
    ref.blkno = blkno;
    ref.v.setBigUint64(ref.o + 8, this.#seq, true);
    return ref;
  }

  /**
   * A tree of items given in ascending order of their keys. With `upTo` it is a part of a tree: its
   * greatest parent key is that and not all-ones.
   */
  tree(items: Iterable<BuildItem>, upTo: Key = Key.ONES): BtreeRoot {
    const root = BtreeRoot.alloc();
    let level = this.#leaves(items);
    if (level.length === 0) return root;
    let height = 1;
    while (level.length > 1) level = this.#parents(level, height++, upTo);
    root.ref.copyFrom((level[0] as Child).ref);
    root.height = height;
    return root;
  }

  #leaves(items: Iterable<BuildItem>): Child[] {
    const leaves: Child[] = [];
    const most = this.options.maxItems ?? Infinity;
    const block = new BlockFiller(this.#v, this.#buf, 0);
    let last: Key | null = null;
    this.#begin(MAGIC_BTREE);
    for (const { key, val, seq, flags } of items) {
      assert(last === null || last.compare(key) < 0, `items out of order: ${key} after ${last}`);
      if (block.nr === most || !block.hasRoom(val.length)) {
        block.end();
        leaves.push({ last: last as Key, ref: this.#end() });
        this.#begin(MAGIC_BTREE);
        block.reset();
      }
      block.add(key, val, seq ?? 1, flags ?? 0);
      last = key;
    }
    if (last !== null) {
      block.end();
      leaves.push({ last, ref: this.#end() });
    }
    return leaves;
  }

  #parents(children: readonly Child[], level: number, upTo: Key): Child[] {
    const parents: Child[] = [];
    const most = this.options.maxItems ?? Infinity;
    const block = new BlockFiller(this.#v, this.#buf, level);
    this.#begin(MAGIC_BTREE);
    let last: Key | null = null;
    for (const [i, child] of children.entries()) {
      if (block.nr === most || !block.hasRoom(16)) {
        block.end();
        parents.push({ last: last as Key, ref: this.#end() });
        this.#begin(MAGIC_BTREE);
        block.reset();
      }
      last = i === children.length - 1 ? upTo : child.last;
      block.add(last, child.ref.bytes, 0, 0);
    }
    block.end();
    parents.push({ last: last as Key, ref: this.#end() });
    return parents;
  }

  /** A copy of a block elsewhere, changed by `edit`. */
  copyBlock(bytes: Uint8Array, edit: (v: DataView) => void = () => {}): BlockRef {
    this.#buf.set(bytes);
    edit(this.#v);
    return this.#end();
  }

  /** An allocator tree of the given free extents. */
  extents(runs: readonly Run[]): AllocRoot {
    const root = AllocRoot.alloc();
    const byEnd = [...runs].sort((a, b) => a.start - b.start);
    const bySize = [...byEnd].sort((a, b) =>
      extentOrder(b.len) - extentOrder(a.len) || a.start - b.start
    );
    const none = new Uint8Array(0);
    root.root.copyFrom(this.tree([
      ...byEnd.map((r) => ({ key: freeExtentKey(r.start, r.len), val: none, seq: 0 })),
      ...bySize.map((r) => ({ key: freeExtentOrderKey(r.start, r.len), val: none, seq: 0 })),
    ]));
    root.totalLen = runs.reduce((sum, r) => sum + r.len, 0);
    return root;
  }

  /** A block list, in blocks of at most `perBlock` entries. */
  list(blknos: readonly number[], perBlock = ALLOC_LIST_MAX_BLOCKS): AllocListHead {
    const head = AllocListHead.alloc();
    for (let end = blknos.length; end > 0; end -= Math.min(end, perBlock)) {
      const part = blknos.slice(Math.max(0, end - perBlock), end);
      this.#begin(MAGIC_ALLOC_LIST);
      const b = new AllocListBlock(this.#v);
      b.next.copyFrom(head.ref);
      b.start = Math.min(3, ALLOC_LIST_MAX_BLOCKS - part.length);
      b.nr = part.length;
      part.forEach((blkno, i) => b.setEntry(b.start + i, blkno));
      head.ref.copyFrom(this.#end());
      head.firstNr = part.length;
    }
    head.totalNr = blknos.length;
    return head;
  }

  /** The bloom block of a log tree with these items. */
  bloom(items: Iterable<BuildItem>): BlockRef {
    this.#begin(MAGIC_BLOOM);
    const bits = new Set<number>();
    for (const { key } of items) {
      const range = lockRangeOfItem(key);
      assert(range !== undefined, `no lock covers ${key}`);
      for (const bit of bloomBits(range.start)) bits.add(bit);
    }
    for (const bit of bits) {
      const at = BloomBlock.SIZE + (bit >> 3);
      this.#buf[at] = this.#buf[at]! | 1 << (bit & 7);
    }
    this.#v.setUint32(32, bits.size, true);
    return this.#end();
  }

  /** A search file with these entries in this order. */
  srch(entries: readonly Entry[]): SrchFile {
    const file = SrchFile.alloc();
    if (entries.length === 0) return file;
    const most = this.options.maxEntries ?? Infinity;
    const refs: BlockRef[] = [];
    const entry = SrchEntry.alloc();
    let block: SrchBlock | null = null;
    const sorted = [...entries].sort(compareEntries);
    setEntry(file.first, sorted[0] as Entry);
    setEntry(file.last, sorted[sorted.length - 1] as Entry);
    for (const e of entries) {
      if (block === null || block.entryNr === most || block.entryBytes > SRCH_BLOCK_SAFE_BYTES) {
        if (block !== null) refs.push(this.#end());
        this.#begin(MAGIC_SRCH_BLOCK);
        block = new SrchBlock(this.#v);
      }
      setEntry(entry, e);
      assert(appendSrchEntry(block, entry), "a search entry must fit");
    }
    refs.push(this.#end());
    file.entries = entries.length;
    file.blocks = refs.length;
    file.height = srchHeight(refs.length - 1);
    if (refs.length === 1) {
      file.ref.copyFrom(refs[0] as BlockRef);
      return file;
    }
    assert(file.height === 2, "search files of the builder have at most two levels");
    this.#begin(MAGIC_SRCH_PARENT);
    const parent = new SrchParent(this.#v);
    refs.forEach((ref, i) => parent.ref(i).copyFrom(ref));
    file.ref.copyFrom(this.#end());
    return file;
  }

  /** Writes the allocator trees, of everything that was not taken, and the fixed blocks. */
  finish(dataFree: readonly Run[]): void {
    const sb = this.super;
    sb.dataAlloc.copyFrom(this.extents(dataFree));
    // The last tree describes everything behind its own blocks: one leaf, taken now.
    const freed = this.#holes.splice(1, 1);
    sb.metaAlloc(1).copyFrom(this.extents(freed));
    const count = this.#holes.length + 1;
    const most = Math.min(this.options.maxItems ?? 500, 500);
    let blocks = Math.ceil(2 * count / most), level = blocks;
    while (level > 1) {
      level = Math.ceil(level / most);
      blocks += level;
    }
    const after = this.#next + blocks;
    const rest = { start: after, len: this.options.metaBlocks - after };
    sb.metaAlloc(0).copyFrom(this.extents([...this.#holes, rest]));
    assert(this.#next === after, `${after - this.#next} blocks less than planned`);

    sb.fmtVers = this.fmtVers;
    sb.totalMetaBlocks = this.options.metaBlocks;
    sb.totalDataBlocks = this.options.dataBlocks;
    sb.uuid.set(Uint8Array.from({ length: 16 }, (_, i) => 0x40 + i));
    sb.qconf.version = 1;
    const addr = sb.qconf.slots(0).addr;
    addr.family = 1;
    addr.port = 12345;
    addr.addr = 0x7f000001;
    this.#small(this.meta, SUPER_BLKNO, MAGIC_SUPER, (block) => {
      sb.flags = 1;
      block.set(sb.bytes);
    });
    this.#small(this.data, SUPER_BLKNO, MAGIC_SUPER, (block) => {
      sb.flags = 0;
      block.set(sb.bytes);
    });
    for (let slot = 0; slot < QUORUM_BLOCKS; slot++) {
      this.#small(this.meta, QUORUM_BLKNO + slot, MAGIC_QUORUM, (block) => {
        if (slot === 0) this.#quorum(QuorumBlock.at(block));
      });
    }
  }

  /** A slot whose mount ran a server and ended properly. */
  #quorum(q: QuorumBlock): void {
    q.writeNr = 6;
    for (let e = 0; e < 6; e++) {
      const event = q.events(e);
      event.writeNr = e + 1;
      event.rid = 0x1234n;
      event.term = 1;
      event.ts.sec = 100 + e;
    }
  }

  #small(dev: Device, blkno: number, magic: number, fill: (block: Uint8Array) => void): void {
    const block = dev.allocBuffer(SM_SIZE), v = new DataView(block.buffer, block.byteOffset);
    fill(block);
    v.setUint32(4, magic, true);
    v.setBigUint64(8, this.options.fsid, true);
    v.setBigUint64(16, 1n, true);
    v.setBigUint64(24, BigInt(blkno), true);
    sealBlock(block);
    dev.write(block, blkno * SM_SIZE);
  }
}

/** All data blocks but those in `used`. */
export function freeData(total: number, used: readonly Run[]): Run[] {
  const free: Run[] = [];
  let at = DATA_DEV_START_BLKNO;
  for (const r of [...used].sort((a, b) => a.start - b.start)) {
    if (r.start > at) free.push({ start: at, len: r.start - at });
    at = r.start + r.len;
  }
  if (at < total) free.push({ start: at, len: total - at });
  return free;
}

export function compareEntries(a: Entry, b: Entry): number {
  if (a.hash !== b.hash) return a.hash < b.hash ? -1 : 1;
  return a.ino - b.ino || a.id - b.id;
}

function setEntry(to: SrchEntry, e: Entry): void {
  to.v.setBigUint64(to.o, e.hash, true);
  to.v.setBigUint64(to.o + 8, BigInt(e.ino), true);
  to.v.setBigUint64(to.o + 16, BigInt(e.id), true);
}

/** Lays sorted items out in a zeroed block (01 §10.2–10.4). */
class BlockFiller {
  nr = 0;
  #valuesAt: number;
  #total = 0;
  readonly #end: number;

  constructor(
    private readonly v: DataView,
    private readonly buf: Uint8Array,
    private readonly level: number,
  ) {
    this.#end = level === 0 ? LEAF_ITEM_HASH_OFF : LG_SIZE;
    this.#valuesAt = this.#end;
  }

  reset(): void {
    this.nr = 0;
    this.#total = 0;
    this.#valuesAt = this.#end;
  }

  hasRoom(len: number): boolean {
    return BTREE_HEADER_BYTES + BTREE_ITEM_BYTES * (this.nr + 1) + round8(len) <= this.#valuesAt;
  }

  add(key: Key, val: Uint8Array, seq: number, flags: number): void {
    const { v } = this, at = BTREE_HEADER_BYTES + BTREE_ITEM_BYTES * this.nr++;
    key.write(v, at + 8);
    v.setUint32(at + 40, seq >>> 0, true);
    v.setUint32(at + 44, Math.floor(seq / 2 ** 32), true);
    if (val.length > 0) {
      this.#valuesAt -= round8(val.length);
      this.buf.set(val, this.#valuesAt);
      v.setUint16(at + 48, this.#valuesAt, true);
      v.setUint16(at + 50, val.length, true);
    }
    v.setUint8(at + 52, flags);
    this.#total += BTREE_ITEM_BYTES + round8(val.length);
  }

  end(): void {
    const { v, nr } = this;
    v.setUint16(32, nr === 0 ? 0 : link(this.#balance(0, nr, 0)), true);
    v.setUint16(34, nr, true);
    v.setUint16(36, this.#total, true);
    v.setUint16(38, this.#valuesAt - BTREE_HEADER_BYTES - BTREE_ITEM_BYTES * nr, true);
    v.setUint8(40, this.level);
    if (this.level > 0) return;
    for (let i = 0; i < nr; i++) {
      const at = BTREE_HEADER_BYTES + BTREE_ITEM_BYTES * i;
      let bucket = keyBucket(v, at + 8);
      while (v.getUint16(LEAF_ITEM_HASH_OFF + 2 * bucket, true) !== 0) {
        bucket = (bucket + 1) % LEAF_ITEM_HASH_NR;
      }
      v.setUint16(LEAF_ITEM_HASH_OFF + 2 * bucket, at, true);
    }
  }

  /** Makes slots [from, to) a balanced tree; returns its root slot. */
  #balance(from: number, to: number, parent: number): number {
    const { v } = this, mid = (from + to) >> 1, at = BTREE_HEADER_BYTES + BTREE_ITEM_BYTES * mid;
    v.setUint16(at, parent, true);
    let height = 0;
    for (const [a, b, field] of [[from, mid, 2], [mid + 1, to, 4]] as const) {
      if (a >= b) continue;
      const child = this.#balance(a, b, link(mid));
      v.setUint16(at + field, link(child), true);
      height = Math.max(height, v.getUint8(BTREE_HEADER_BYTES + BTREE_ITEM_BYTES * child + 6));
    }
    v.setUint8(at + 6, height + 1);
    return mid;
  }
}

const link = (slot: number): number => 16 + BTREE_ITEM_BYTES * slot;
