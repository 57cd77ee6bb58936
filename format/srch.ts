/**
 * Search files (01 §14): structures, the encoding of entries, and the geometry of the radix of
 * blocks. Entries are encoded and decoded on 32-bit words; no bigint is made.
 */

import { BlockHeader, BlockRef } from "./block.ts";
import { AllocListHead } from "./alloc.ts";
import { checkSize, FormatError, getU64, setU64, View } from "./bytes.ts";
import {
  LG_SIZE,
  SRCH_BLOCK_ENTRIES_BYTES,
  SRCH_BLOCK_SAFE_BYTES,
  SRCH_PARENT_REFS,
  TYPE_SRCH_BLOCKS,
  TYPE_SRCH_BUSY,
  TYPE_SRCH_LOG,
  TYPE_SRCH_PENDING,
  ZONE_SRCH,
} from "./constants.ts";
import { Key } from "./key.ts";

/**
 * A search entry: an xattr of that name hash was made or removed (01 §14), 24 bytes.
 *
 *      0 le64             hash
 *      8 le64             ino
 *     16 le64             id
 */
export class SrchEntry extends View {
  static readonly SIZE = 24;
  /** Of the xattr's full name (01 §6.4). */
  get hash(): bigint {
    return this.v.getBigUint64(this.o, true);
  }
  set hash(n: bigint) {
    this.v.setBigUint64(this.o, n, true);
  }
  get hashLo(): number {
    return this.v.getUint32(this.o, true);
  }
  set hashLo(n: number) {
    this.v.setUint32(this.o, n, true);
  }
  get hashHi(): number {
    return this.v.getUint32(this.o + 4, true);
  }
  set hashHi(n: number) {
    this.v.setUint32(this.o + 4, n, true);
  }
  /** Inode number, ≥ 1. */
  get ino(): number {
    return getU64(this.v, this.o + 8);
  }
  set ino(n: number) {
    setU64(this.v, this.o + 8, n);
  }
  /** Xattr id. */
  get id(): number {
    return getU64(this.v, this.o + 16);
  }
  set id(n: number) {
    setU64(this.v, this.o + 16, n);
  }
  /** Negative, zero or positive as this sorts before, with or after `e`: by hash, ino, id. */
  compare(e: SrchEntry): number {
    for (let field = 0; field < 24; field += 8) {
      for (const word of [4, 0]) {
        const a = this.v.getUint32(this.o + field + word, true);
        const b = e.v.getUint32(e.o + field + word, true);
        if (a !== b) return a < b ? -1 : 1;
      }
    }
    return 0;
  }
  set(hash: bigint, ino: number, id: number): void {
    this.hash = hash;
    this.ino = ino;
    this.id = id;
  }
}
checkSize(SrchEntry.SIZE, 8 + 8 + 8, "SrchEntry");

/**
 * A search file (01 §14.1), 88 bytes.
 *
 *      0 srch_entry       first
 *     24 srch_entry       last
 *     48 block_ref        ref
 *     64 le64             blocks
 *     72 le64             entries
 *     80 u8               height
 *     81 u8[7]            pad
 */
export class SrchFile extends View {
  static readonly SIZE = 88;
  /** Smallest entry in the file. */
  get first(): SrchEntry {
    return new SrchEntry(this.v, this.o);
  }
  /** Greatest entry in the file. */
  get last(): SrchEntry {
    return new SrchEntry(this.v, this.o + 24);
  }
  /** Root of the block radix. */
  get ref(): BlockRef {
    return new BlockRef(this.v, this.o + 48);
  }
  /** Number of logical blocks 0 … blocks−1, never sparse. */
  get blocks(): number {
    return getU64(this.v, this.o + 64);
  }
  set blocks(n: number) {
    setU64(this.v, this.o + 64, n);
  }
  /** Total entries. */
  get entries(): number {
    return getU64(this.v, this.o + 72);
  }
  set entries(n: number) {
    setU64(this.v, this.o + 72, n);
  }
  /** Radix height; 0 = empty file. */
  get height(): number {
    return this.v.getUint8(this.o + 80);
  }
  set height(n: number) {
    this.v.setUint8(this.o + 80, n);
  }
}
checkSize(SrchFile.SIZE, 24 + 24 + 16 + 8 + 8 + 1 + 7, "SrchFile");

/**
 * Fixed part of a parent of the radix; 4094 references follow (01 §14.2), 32 bytes.
 *
 *      0 block_header     hdr
 *     32 block_ref[4094]  refs
 */
export class SrchParent extends View {
  static readonly SIZE = 32;
  get hdr(): BlockHeader {
    return new BlockHeader(this.v, this.o);
  }
  /** Reference to child `i`, 0 … 4093; unused ones are zero. */
  ref(i: number): BlockRef {
    return new BlockRef(this.v, this.o + 32 + 16 * i);
  }
}
checkSize(SrchParent.SIZE, 32, "SrchParent");

/**
 * Fixed part of a block of entries (01 §14.3), 112 bytes.
 *
 *      0 block_header     hdr
 *     32 srch_entry       first
 *     56 srch_entry       last
 *     80 srch_entry       tail
 *    104 le32             entry_nr
 *    108 le32             entry_bytes
 *    112 u8[65424]        entries
 */
export class SrchBlock extends View {
  static readonly SIZE = 112;
  get hdr(): BlockHeader {
    return new BlockHeader(this.v, this.o);
  }
  /** Smallest entry in the block. */
  get first(): SrchEntry {
    return new SrchEntry(this.v, this.o + 32);
  }
  /** Greatest entry in the block. */
  get last(): SrchEntry {
    return new SrchEntry(this.v, this.o + 56);
  }
  /** Entry encoded last; base for the next delta. */
  get tail(): SrchEntry {
    return new SrchEntry(this.v, this.o + 80);
  }
  /** Number of encoded entries. */
  get entryNr(): number {
    return this.v.getUint32(this.o + 104, true);
  }
  set entryNr(n: number) {
    this.v.setUint32(this.o + 104, n, true);
  }
  /** Bytes used in `entries`. */
  get entryBytes(): number {
    return this.v.getUint32(this.o + 108, true);
  }
  set entryBytes(n: number) {
    this.v.setUint32(this.o + 108, n, true);
  }
}
checkSize(SrchBlock.SIZE, 32 + 24 + 24 + 24 + 4 + 4, "SrchBlock");

/**
 * An input of a compaction with the progress in it (01 §13.3), 104 bytes.
 *
 *      0 srch_file        sfl
 *     88 le64             blk
 *     96 le64             pos
 */
export class SrchCompactInput extends View {
  static readonly SIZE = 104;
  /** The input file. */
  get sfl(): SrchFile {
    return new SrchFile(this.v, this.o);
  }
  /** Progress: logical block (01 §13.3). */
  get blk(): number {
    return getU64(this.v, this.o + 88);
  }
  set blk(n: number) {
    setU64(this.v, this.o + 88, n);
  }
  /** Progress: byte offset in it, or radix level when deleting. */
  get pos(): number {
    return getU64(this.v, this.o + 96);
  }
  set pos(n: number) {
    setU64(this.v, this.o + 96, n);
  }
}
checkSize(SrchCompactInput.SIZE, 88 + 8 + 8, "SrchCompactInput");

/**
 * A compaction of search files (01 §13.3), 584 bytes.
 *
 *      0 alloc_list_head  meta_avail
 *     32 alloc_list_head  meta_freed
 *     64 le64             id
 *     72 u8               nr
 *     73 u8               flags
 *     74 u8[6]            pad
 *     80 srch_file        out
 *    168 srch_compact_input[4] in
 */
export class SrchCompact extends View {
  static readonly SIZE = 584;
  get metaAvail(): AllocListHead {
    return new AllocListHead(this.v, this.o);
  }
  get metaFreed(): AllocListHead {
    return new AllocListHead(this.v, this.o + 32);
  }
  get id(): number {
    return getU64(this.v, this.o + 64);
  }
  set id(n: number) {
    setU64(this.v, this.o + 64, n);
  }
  /** Number of inputs, 1–4. */
  get nr(): number {
    return this.v.getUint8(this.o + 72);
  }
  set nr(n: number) {
    this.v.setUint8(this.o + 72, n);
  }
  get flags(): number {
    return this.v.getUint8(this.o + 73);
  }
  set flags(n: number) {
    this.v.setUint8(this.o + 73, n);
  }
  /** Output written so far. */
  get out(): SrchFile {
    return new SrchFile(this.v, this.o + 80);
  }
  /** Input `i`, 0 … 3; unused ones are zero. */
  in(i: number): SrchCompactInput {
    return new SrchCompactInput(this.v, this.o + 168 + 104 * i);
  }
}
checkSize(SrchCompact.SIZE, 32 + 32 + 8 + 1 + 1 + 6 + 88 + 416, "SrchCompact");

/** Key of a rotated log file by the block number of its root. */
export const srchLogKey = (rootBlkno: number): Key =>
  Key.of(ZONE_SRCH, 0, TYPE_SRCH_LOG, rootBlkno);
/** Key of a sorted file. */
export const srchBlocksKey = (blocks: number, rootBlkno: number): Key =>
  Key.of(ZONE_SRCH, 0, TYPE_SRCH_BLOCKS, blocks, rootBlkno);
export const srchPendingKey = (id: number): Key => Key.of(ZONE_SRCH, 0, TYPE_SRCH_PENDING, id);
export const srchBusyKey = (rid: bigint, id: number): Key =>
  Key.of(ZONE_SRCH, 0, TYPE_SRCH_BUSY, rid, id);

/** Height of the radix that reaches logical block `blk` (01 §14.2). */
export function srchHeight(blk: number): number {
  let height = 1;
  for (let reach = 1; blk >= reach; reach *= SRCH_PARENT_REFS) height++;
  return height;
}

/** Index of the reference towards logical block `blk` in its parent at `level` ≥ 1. */
export function srchParentIndex(level: number, blk: number): number {
  return Math.floor(blk / SRCH_PARENT_REFS ** (level - 1)) % SRCH_PARENT_REFS;
}

/**
 * Encodes `entry` as the successor of `prev` (01 §14.3) at byte `off` of `v`, which must have 26
 * bytes of room; returns the bytes used. A block's first entry follows the zero entry.
 */
export function encodeSrchEntry(
  v: DataView,
  off: number,
  entry: SrchEntry,
  prev: SrchEntry,
): number {
  let lengths = 0;
  let at = off + 2;
  for (let i = 0; i < 3; i++) {
    const field = 8 * i;
    const eLo = entry.v.getUint32(entry.o + field, true);
    const pLo = prev.v.getUint32(prev.o + field, true);
    const dLo = eLo - pLo | 0;
    const dHi = entry.v.getUint32(entry.o + field + 4, true) -
        prev.v.getUint32(prev.o + field + 4, true) - (eLo < pLo ? 1 : 0) | 0;
    // zig-zag: (d << 1) ^ (d >> 63)
    const sign = dHi >> 31;
    let lo = (dLo << 1 ^ sign) >>> 0;
    let hi = ((dHi << 1 | dLo >>> 31) ^ sign) >>> 0;
    let n = 0;
    while (hi !== 0 || lo !== 0) {
      v.setUint8(at++, lo & 255);
      lo = (lo >>> 8 | hi << 24) >>> 0;
      hi >>>= 8;
      n++;
    }
    lengths |= n << 4 * i;
  }
  v.setUint16(off, lengths, true);
  return at - off;
}

/**
 * Decodes the entry at byte `off` of `v`, the successor of `prev`, into `out` (which may be
 * `prev`); returns the bytes it takes. Throws FormatError when it passes byte `end`.
 */
export function decodeSrchEntry(
  v: DataView,
  off: number,
  end: number,
  prev: SrchEntry,
  out: SrchEntry,
): number {
  let at = off + 2;
  if (at > end) throw new FormatError(`search entry at ${off} passes the end of its block`);
  const lengths = v.getUint16(off, true);
  for (let i = 0; i < 3; i++) {
    const field = 8 * i;
    const n = Math.min(lengths >>> 4 * i & 15, 8);
    if (at + n > end) throw new FormatError(`search entry at ${off} passes the end of its block`);
    let lo = 0, hi = 0;
    for (let b = 0; b < n; b++) {
      if (b < 4) lo |= v.getUint8(at++) << 8 * b;
      else hi |= v.getUint8(at++) << 8 * (b - 4);
    }
    // un-zig-zag: (z >> 1) ^ -(z & 1)
    const sign = -(lo & 1);
    const dLo = ((lo >>> 1 | hi << 31) ^ sign) >>> 0;
    const dHi = (hi >>> 1 ^ sign) >>> 0;
    const sum = prev.v.getUint32(prev.o + field, true) + dLo;
    out.v.setUint32(
      out.o + field + 4,
      prev.v.getUint32(prev.o + field + 4, true) + dHi + (sum > 0xffff_ffff ? 1 : 0),
      true,
    );
    out.v.setUint32(out.o + field, sum, true);
  }
  return at - off;
}

/**
 * Visits the entries of a block in stored order: `visit(entry, bytes)`, where the entry is one
 * view, valid during the call, and `bytes` what its encoding takes. Throws FormatError for a block
 * whose counts contradict its entries.
 */
export function forEachSrchEntry(
  block: SrchBlock,
  visit: (entry: SrchEntry, bytes: number) => void,
): void {
  const entry = SrchEntry.alloc();
  const base = block.o + SrchBlock.SIZE;
  const nr = block.entryNr, bytes = block.entryBytes;
  if (bytes > SRCH_BLOCK_ENTRIES_BYTES) {
    throw new FormatError(`search block claims ${bytes} bytes of entries`);
  }
  let at = 0;
  for (let i = 0; i < nr; i++) {
    if (at > SRCH_BLOCK_SAFE_BYTES) {
      throw new FormatError(`search block entry ${i} starts at ${at}`);
    }
    const n = decodeSrchEntry(block.v, base + at, base + bytes, entry, entry);
    visit(entry, n);
    at += n;
  }
  if (at !== bytes) {
    throw new FormatError(`search block has ${at} bytes of entries, claims ${bytes}`);
  }
}

/**
 * Appends `entry` to a block of a log file (01 §14.3), whose first, last and tail follow. False
 * when the block is full and the entry belongs in the next one.
 */
export function appendSrchEntry(block: SrchBlock, entry: SrchEntry): boolean {
  const used = block.entryBytes;
  if (used > SRCH_BLOCK_SAFE_BYTES) return false;
  const nr = block.entryNr;
  const { first, last, tail } = block;
  const n = encodeSrchEntry(block.v, block.o + SrchBlock.SIZE + used, entry, tail);
  if (nr === 0 || entry.compare(first) < 0) first.copyFrom(entry);
  if (nr === 0 || entry.compare(last) > 0) last.copyFrom(entry);
  tail.copyFrom(entry);
  block.entryNr = nr + 1;
  block.entryBytes = used + n;
  return true;
}

checkSize(SrchParent.SIZE + 16 * SRCH_PARENT_REFS, LG_SIZE, "SrchParent with references");
checkSize(SrchBlock.SIZE + SRCH_BLOCK_ENTRIES_BYTES, LG_SIZE, "SrchBlock with entries");
