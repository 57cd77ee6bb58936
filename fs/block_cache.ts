/**
 * Metadata blocks in memory (03 §3): a cache of verified clean blocks bounded in bytes, and writers,
 * each a set of dirty blocks that are written together.
 *
 * Invariants:
 * - At most one cached block per number. A clean block never changes: changing copies it to a newly
 *   allocated number with a new random seq (03 §3.3), or, where nobody else reads it, moves it.
 * - Every block that came from the device was verified when it came (01 §5.2); btree blocks also
 *   passed `checkBtreeShape`, so that no walk can leave them or loop.
 * - Dirty blocks stay in memory until written or forgotten. Clean ones leave least recently used
 *   first, but the 64 used last always stay: a block handed out is good until 64 others have been
 *   read or made, and whoever needs it longer copies what it needs or pins it.
 * - Memory: the limit, or 64 blocks more than were ever dirty at once if that is greater. Buffers
 *   are reused, never returned.
 */

import { BlockRef } from "../format/block.ts";
import { type BlockBytes } from "../format/btree_block.ts";
import { checkBtreeShape } from "../format/btree_verify.ts";
import { LG_SHIFT, LG_SIZE, MAGIC_BTREE } from "../format/constants.ts";
import { blockCrc, sealBlock, storedCrc } from "../format/crc32c.ts";
import { getU64, setU64 } from "../format/bytes.ts";
import type { Device } from "./device.ts";
import type { Random } from "./env.ts";
import { asCorrupt, assert, CorruptError, StaleError } from "./errors.ts";

/** Clean blocks that are never evicted: more than any one operation looks at. */
const KEPT_BLOCKS = 64;
/** Buffers are allocated this many blocks at a time. */
const SLAB_BLOCKS = 16;
/** Neighbouring blocks written by one call. */
const MAX_RUN = 64;
const DEFAULT_LIMIT = 64 * 1024 * 1024;

// Block header fields (01 §4).
const HDR_MAGIC = 4;
const HDR_FSID = 8;
const HDR_SEQ = 16;
const HDR_BLKNO = 24;

const TWO32 = 0x1_0000_0000;

/** Hands out and takes back metadata blocks of one transaction (03 §4.3). */
export interface MetaAllocator {
  /** A free block number; throws ENOSPC. */
  allocMeta(): number;
  /** The block is unreferenced once the transaction is stable. */
  freeMeta(blkno: number): void;
}

/** A metadata block in memory. Its identity is fixed while it is cached. */
export class Block implements BlockBytes {
  readonly v: DataView;
  blkno = 0;
  seqLo = 0;
  seqHi = 0;
  magic = 0;
  /** The writer in which it is dirty; null if clean. */
  writer: BlockWriter | null = null;
  /** Uses that outlast 64 other blocks; it is not evicted while there are any. */
  pins = 0;
  /** Of a list block: its entries are known to ascend. Taking some from the front keeps that. */
  ascending = false;
  /** Neighbours in the order of last use; both null while dirty. */
  newer: Block | null = null;
  older: Block | null = null;

  constructor(readonly buf: Uint8Array) {
    this.v = new DataView(buf.buffer, buf.byteOffset, LG_SIZE);
  }

  get dirty(): boolean {
    return this.writer !== null;
  }
}

export interface BlockCacheOptions {
  /** Bytes of buffers; default 64 MiB, at least 64 blocks. */
  limitBytes?: number;
  /** Source of block seqs. */
  random: Random;
}

export class BlockCache {
  /** Blocks that had to be read from the device, and blocks found in memory. */
  misses = 0;
  hits = 0;
  readonly random: Random;
  private readonly fsidLo: number;
  private readonly fsidHi: number;
  private readonly limitBlocks: number;
  private readonly blocks = new Map<number, Block>();
  /** Buffers that have not been used yet. */
  private fresh: Block[] = [];
  private allocated = 0;
  private clean = 0;
  private newest: Block | null = null;
  private oldest: Block | null = null;

  constructor(readonly dev: Device, readonly fsid: bigint, options: BlockCacheOptions) {
    this.random = options.random;
    this.fsidLo = Number(fsid & 0xffff_ffffn);
    this.fsidHi = Number(fsid >> 32n);
    const blocks = Math.floor((options.limitBytes ?? DEFAULT_LIMIT) / LG_SIZE);
    this.limitBlocks = Math.max(blocks, KEPT_BLOCKS);
  }

  /** Bytes of buffers held. */
  get memoryBytes(): number {
    return this.allocated * LG_SIZE;
  }

  /** Blocks of the device. */
  get deviceBlocks(): number {
    return Math.floor(this.dev.size / LG_SIZE);
  }

  /**
   * The block that `ref` refers to. Throws StaleError when what is there is not it, also after
   * reading the device once more; DeviceError; CorruptError for a number that no block has.
   */
  read(ref: BlockRef, magic: number): Block {
    return this.get(blknoOf(ref), ref.seqLo, ref.seqHi, magic);
  }

  /** As `read`, of a reference in its parts. */
  get(blkno: number, seqLo: number, seqHi: number, magic: number): Block {
    const b = this.blocks.get(blkno);
    if (b !== undefined) {
      if (b.seqLo === seqLo && b.seqHi === seqHi && b.magic === magic) {
        this.hits++;
        if (b !== this.newest && b.writer === null) {
          this.unlist(b);
          this.list(b);
        }
        return b;
      }
      if (b.writer !== null) throw new StaleError(blkno, "is being replaced in this transaction");
      this.blocks.delete(blkno);
    }
    return this.load(blkno, seqLo, seqHi, magic);
  }

  /**
   * As `get`, of structures that only we change: what does not match there is corruption, not an
   * old reference (03 §3.5).
   */
  getOwned(blkno: number, seqLo: number, seqHi: number, magic: number): Block {
    try {
      return this.get(blkno, seqLo, seqHi, magic);
    } catch (e) {
      if (e instanceof StaleError) throw new CorruptError(e.message);
      throw e;
    }
  }

  /** As `read`, of structures that only we change. */
  readOwned(ref: BlockRef, magic: number): Block {
    return this.getOwned(blknoOf(ref), ref.seqLo, ref.seqHi, magic);
  }

  /** The cached block of that number, dirty or clean, or null. */
  peek(blkno: number): Block | null {
    return this.blocks.get(blkno) ?? null;
  }

  /** Forgets a clean block, so that the next read asks the device. */
  drop(blkno: number): void {
    const b = this.blocks.get(blkno);
    if (b === undefined) return;
    assert(b.writer === null, `block ${blkno} is dirty and cannot be dropped`);
    this.blocks.delete(blkno);
  }

  /** A zeroed or copied block under a new number and seq, dirty in `writer`. */
  make(writer: BlockWriter, blkno: number, magic: number, from: Block | null): Block {
    this.checkFree(blkno);
    const b = this.take();
    if (from === null) b.buf.fill(0);
    else b.buf.set(from.buf);
    b.ascending = false;
    return this.begin(b, writer, blkno, magic);
  }

  /** As `make` from `from`, a clean block that is not cached any more: its memory becomes the new one's. */
  move(writer: BlockWriter, blkno: number, magic: number, from: Block): Block {
    if (from.pins > 0) return this.make(writer, blkno, magic, from);
    this.checkFree(blkno);
    if (this.blocks.get(from.blkno) === from) this.blocks.delete(from.blkno);
    this.unlist(from);
    return this.begin(from, writer, blkno, magic);
  }

  /** @internal Throws CorruptError unless a number that was just allocated is that of no dirty block. */
  checkFree(blkno: number): void {
    const old = this.blocks.get(blkno);
    // An allocator whose stored lists name a block twice.
    if (old !== undefined && old.writer !== null) {
      throw new CorruptError(`metadata block ${blkno} is in use, but was said to be free`);
    }
    assert(blkno > 1 && blkno < this.deviceBlocks, `block ${blkno} is outside the device`);
  }

  private begin(b: Block, writer: BlockWriter, blkno: number, magic: number): Block {
    b.blkno = blkno;
    b.seqLo = this.random.u32() >>> 0;
    b.seqHi = this.random.u32() >>> 0;
    b.magic = magic;
    b.writer = writer;
    const v = b.v;
    v.setUint32(HDR_MAGIC, magic, true);
    v.setUint32(HDR_FSID, this.fsidLo, true);
    v.setUint32(HDR_FSID + 4, this.fsidHi, true);
    v.setUint32(HDR_SEQ, b.seqLo, true);
    v.setUint32(HDR_SEQ + 4, b.seqHi, true);
    setU64(v, HDR_BLKNO, blkno);
    this.blocks.set(blkno, b);
    return b;
  }

  /** A dirty block was written. */
  cleaned(b: Block): void {
    b.writer = null;
    this.list(b);
  }

  /** A dirty block will never be written: its content is gone for everyone who looks it up. */
  forget(b: Block): void {
    if (this.blocks.get(b.blkno) === b) this.blocks.delete(b.blkno);
    this.cleaned(b);
  }

  private load(blkno: number, seqLo: number, seqHi: number, magic: number): Block {
    if (blkno < 2 || blkno >= this.deviceBlocks) {
      throw new CorruptError(`reference to metadata block ${blkno} of ${this.deviceBlocks}`);
    }
    this.misses++;
    const b = this.take();
    b.ascending = false;
    try {
      const off = blkno * LG_SIZE;
      this.dev.read(b.buf, off);
      if (this.mismatch(b, blkno, seqLo, seqHi, magic) !== null) {
        // A write by another node may have been under way.
        this.dev.read(b.buf, off);
        const why = this.mismatch(b, blkno, seqLo, seqHi, magic);
        if (why !== null) throw new StaleError(blkno, why);
      }
      const wrong = magic === MAGIC_BTREE ? checkBtreeShape(b) : null;
      if (wrong !== null) throw new CorruptError(`btree block ${blkno}: ${wrong}`);
    } catch (e) {
      this.fresh.push(b);
      throw e;
    }
    b.blkno = blkno;
    b.seqLo = seqLo;
    b.seqHi = seqHi;
    b.magic = magic;
    this.blocks.set(blkno, b);
    this.list(b);
    return b;
  }

  /** Why the block read is not the one wanted (01 §5.2); null if it is. */
  private mismatch(
    b: Block,
    blkno: number,
    seqLo: number,
    seqHi: number,
    magic: number,
  ): string | null {
    const v = b.v;
    const crc = blockCrc(b.buf);
    if (storedCrc(b.buf) !== crc) return `crc ${hex(storedCrc(b.buf))}, computed ${hex(crc)}`;
    const foundMagic = v.getUint32(HDR_MAGIC, true);
    if (foundMagic !== magic) return `magic ${hex(foundMagic)}, expected ${hex(magic)}`;
    const fsidLo = v.getUint32(HDR_FSID, true), fsidHi = v.getUint32(HDR_FSID + 4, true);
    if (fsidLo !== this.fsidLo || fsidHi !== this.fsidHi) {
      return `fsid ${hex(fsidHi)}${hex(fsidLo)}, expected ${hex(this.fsidHi)}${hex(this.fsidLo)}`;
    }
    const numberHi = v.getUint32(HDR_BLKNO + 4, true), numberLo = v.getUint32(HDR_BLKNO, true);
    if (numberHi * TWO32 + numberLo !== blkno) return `blkno ${numberHi * TWO32 + numberLo}`;
    const lo = v.getUint32(HDR_SEQ, true), hi = v.getUint32(HDR_SEQ + 4, true);
    if (lo !== seqLo || hi !== seqHi) {
      return `seq ${hex(hi)}${hex(lo)}, expected ${hex(seqHi)}${hex(seqLo)}`;
    }
    return null;
  }

  /** A buffer of unspecified content that is neither listed nor cached. */
  private take(): Block {
    const b = this.fresh.pop();
    if (b !== undefined) return b;
    if (this.allocated >= this.limitBlocks) {
      const oldest = this.evict();
      if (oldest !== null) return oldest;
    }
    const slab = this.dev.allocBuffer(SLAB_BLOCKS << LG_SHIFT);
    for (let i = SLAB_BLOCKS - 1; i > 0; i--) {
      this.fresh.push(new Block(slab.subarray(i * LG_SIZE, (i + 1) * LG_SIZE)));
    }
    this.allocated += SLAB_BLOCKS;
    return new Block(slab.subarray(0, LG_SIZE));
  }

  /** Takes the buffer of the clean block that was used longest ago, if more than the kept ones are. */
  private evict(): Block | null {
    for (let left = this.clean - KEPT_BLOCKS; left > 0; left--) {
      const b = this.oldest!;
      this.unlist(b);
      if (b.pins === 0) {
        if (this.blocks.get(b.blkno) === b) this.blocks.delete(b.blkno);
        return b;
      }
      this.list(b);
    }
    return null;
  }

  /** Lists a clean block, cached or replaced, as the one used last. */
  private list(b: Block): void {
    b.older = this.newest;
    if (this.newest !== null) this.newest.newer = b;
    else this.oldest = b;
    this.newest = b;
    this.clean++;
  }

  private unlist(b: Block): void {
    if (b.newer !== null) b.newer.older = b.older;
    else this.newest = b.older;
    if (b.older !== null) b.older.newer = b.newer;
    else this.oldest = b.newer;
    b.newer = b.older = null;
    this.clean--;
  }
}

/** Dirty blocks that are written together. */
export class BlockWriter {
  private blocks: Block[] = [];
  /** Blocks of the sorted list that the write under way has written; −1 when none is. */
  private written = -1;

  constructor(readonly cache: BlockCache) {}

  get dirtyCount(): number {
    return this.blocks.length;
  }

  get dirtyBytes(): number {
    return this.blocks.length * LG_SIZE;
  }

  /**
   * Makes the referenced block writable (03 §3.3): if it is not yet dirty here, copies it to a newly
   * allocated number, frees the old one and updates `ref` in place. An empty reference gets a
   * zeroed block. Throws what reading and allocating throw; then nothing has changed but what the
   * allocator's lists say about the one block.
   */
  dirty(ref: BlockRef, magic: number, alloc: MetaAllocator): Block {
    const old = blknoOf(ref);
    if (old === 0) return this.place(ref, magic, alloc.allocMeta(), null);
    const b = this.cache.readOwned(ref, magic);
    if (b.writer === this) return b;
    assert(b.writer === null, `block ${old} is dirty in another transaction`);
    const blkno = alloc.allocMeta();
    this.cache.checkFree(blkno);
    try {
      alloc.freeMeta(old);
    } catch (e) {
      alloc.freeMeta(blkno);
      throw e;
    }
    return this.place(ref, magic, blkno, b);
  }

  /**
   * As `dirty`, to a number that the caller took and with the old one left to the caller. The old
   * block leaves memory, so that nothing is copied: for blocks that only their owner reads, whoever
   * else comes asks the device.
   */
  moveTo(ref: BlockRef, magic: number, blkno: number): Block {
    const old = blknoOf(ref);
    if (old === 0) return this.place(ref, magic, blkno, null);
    const b = this.cache.readOwned(ref, magic);
    // Its owner has it for itself, unless something else that is stored refers to it too.
    if (b.writer !== null) throw new CorruptError(`metadata block ${old} is in use twice`);
    this.checkIdle();
    return this.add(ref, this.cache.move(this, blkno, magic, b));
  }

  /** Writes everything: crcs, then the blocks, neighbours together. Does not flush the device.
   * Throws DeviceError; then all blocks are still dirty and the write may be repeated. */
  write(): void {
    while (!this.writeSlice(Infinity));
  }

  /**
   * Does a part of `write`, at least `maxBlocks` blocks of it; true when all are written and clean.
   * Nothing may be dirtied between the slices of a write.
   */
  writeSlice(maxBlocks: number): boolean {
    const blocks = this.blocks;
    if (this.written < 0) {
      blocks.sort((a, b) => a.blkno - b.blkno);
      this.written = 0;
    }
    try {
      for (const end = this.written + maxBlocks; this.written < end;) {
        if (this.written >= blocks.length) break;
        this.written += this.writeRun(this.written);
      }
    } catch (e) {
      this.written = -1;
      throw e;
    }
    if (this.written < blocks.length) return false;
    for (const b of blocks) this.cache.cleaned(b);
    this.blocks = [];
    this.written = -1;
    return true;
  }

  /** As `write`, of all blocks but those of `kept`, which stay dirty. */
  writeBut(kept: ReadonlySet<Block>): void {
    this.checkIdle();
    const all = this.blocks;
    this.blocks = all.filter((b) => !kept.has(b));
    try {
      this.write();
    } finally {
      // What could not be written is dirty as before.
      this.blocks = this.blocks.concat(all.filter((b) => kept.has(b)));
    }
  }

  /** Gives up everything dirty, as if the transaction had never been. */
  forgetAll(): void {
    for (const b of this.blocks) this.cache.forget(b);
    this.blocks = [];
    this.written = -1;
  }

  private place(ref: BlockRef, magic: number, blkno: number, from: Block | null): Block {
    this.checkIdle();
    return this.add(ref, this.cache.make(this, blkno, magic, from));
  }

  private checkIdle(): void {
    assert(this.written < 0, "a block was dirtied while its writer is being written");
  }

  private add(ref: BlockRef, b: Block): Block {
    this.blocks.push(b);
    ref.set(b.blkno, b.seqHi, b.seqLo);
    return b;
  }

  /** Writes the run of neighbouring blocks that begins at index `first`; returns its length. */
  private writeRun(first: number): number {
    const start = this.blocks[first]!.blkno;
    const bufs: Uint8Array[] = [];
    for (let i = first; i < this.blocks.length && bufs.length < MAX_RUN; i++) {
      const b = this.blocks[i]!;
      if (b.blkno !== start + bufs.length) break;
      assert(getU64(b.v, HDR_BLKNO) === b.blkno, `block ${b.blkno} lost its header`);
      sealBlock(b.buf);
      bufs.push(b.buf);
    }
    this.cache.dev.writev(bufs, start * LG_SIZE);
    return bufs.length;
  }
}

/** The block number of a stored reference. */
function blknoOf(ref: BlockRef): number {
  try {
    return ref.blkno;
  } catch (e) {
    throw asCorrupt(e, "block reference");
  }
}

function hex(n: number): string {
  return n.toString(16).padStart(8, "0");
}
