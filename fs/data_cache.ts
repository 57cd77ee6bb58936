/**
 * Clean file data in memory: blocks of the data device as they were read, and reading ahead of
 * whoever reads in order. Reads are answered with windows of this memory, without a copy.
 *
 * What is cached is keyed by the device's block, and valid for one *grant* of the cluster lock that
 * the reader holds (`ClusterLock.refreshGen`): a number that never comes again. While the grant
 * lasts no other node can change the file; once it is lost nothing read under it is ever found
 * again. So nothing has to be dropped when a lock goes, and nothing stale can survive it.
 *
 * Invariants:
 * - A valid block equals the device's. Whoever changes a block here (a dirty page, a write to the
 *   device, a block given back) calls `forget` in the same turn; DirtyData does, for all of them.
 * - A block that is forgotten while it is being read does not become valid by that.
 * - Memory that the device is reading into is neither evicted nor given to another grant.
 * - Windows are good until the next `begin`, and as long as nothing else runs.
 *
 * Chunks of 64 KiB are evicted by a clock: what was used once goes before what was used again, so
 * that one large file read once does not push out what is in use.
 */

import { SM_SIZE } from "../format/constants.ts";
import { assert } from "./errors.ts";
import type { Device, ReadAhead } from "./device.ts";
import type { ReadParts } from "./read_parts.ts";

/** Blocks of a chunk, the unit of memory: as many as bits in a mask. */
const CHUNK_BLOCKS = 16;
const CHUNK_BYTES = CHUNK_BLOCKS * SM_SIZE;
const ALL = (1 << CHUNK_BLOCKS) - 1;
/** Chunks whose memory is one piece, so that large reads need few. */
const SLAB_CHUNKS = 16;
/** One request may touch so many chunks at most: every block of 1 MiB in another one, and edges. */
const LEAST_CHUNKS = 320;

/** Read ahead and not used yet; otherwise "used" is 1 or 0. */
const FRESH = 2;

/** Files whose reading is followed. */
const STREAMS = 256;
/** So far ahead of a reader blocks are read; more are asked for when half of that is used up. */
const AHEAD_BLOCKS = 512;
/** Blocks of one read ahead: 512 KiB, so that the first is there soon. */
const AHEAD_PIECE = 128;
/** A first request from so many blocks on, at the file's beginning, counts as reading in order. */
const STREAM_BLOCKS = 16;

/** How far a file was read in order. */
interface Stream {
  /** The block after the last one read. */
  next: number;
  /** Blocks below were read ahead already. */
  ahead: number;
}

/** One read ahead under way: `count` neighbouring chunks' memory from `slot` on. */
interface Load {
  readonly slot: number;
  readonly from: number;
  readonly len: number;
}

export class DataCache {
  /** Reads of the device that readers waited for, and that went ahead of them; for tests. */
  readonly counts = { reads: 0, ahead: 0 };

  readonly #dev: Device;
  readonly #ahead: ReadAhead | null;
  /** Chunk number (block / 16) → slot. */
  readonly #slots = new Map<number, number>();
  readonly #slabs: Uint8Array[] = [];
  /** Per slot. */
  readonly #chunk: Float64Array;
  readonly #grant: Float64Array;
  /** Blocks that are there, that are being read, and that changed while being read. */
  readonly #valid: Uint16Array;
  readonly #loading: Uint16Array;
  readonly #stale: Uint16Array;
  /** Used again since the clock's hand passed. */
  readonly #used: Uint8Array;
  /** The last request that used it. */
  readonly #epochs: Float64Array;
  readonly #streams = new Map<number, Stream>();
  #made = 0;
  #hand = 0;
  #epoch = 0;

  /** `limitBytes` of memory at most, taken as it is needed. */
  constructor(dev: Device, ahead: ReadAhead | null, limitBytes: number) {
    this.#dev = dev;
    this.#ahead = ahead;
    const chunks = Math.max(LEAST_CHUNKS, Math.floor(limitBytes / CHUNK_BYTES));
    this.#chunk = new Float64Array(chunks);
    this.#grant = new Float64Array(chunks);
    this.#valid = new Uint16Array(chunks);
    this.#loading = new Uint16Array(chunks);
    this.#stale = new Uint16Array(chunks);
    this.#used = new Uint8Array(chunks);
    this.#epochs = new Float64Array(chunks);
  }

  /** A request begins: windows given before are not used any more. */
  begin(): void {
    this.#epoch++;
  }

  /**
   * Appends the `len` blocks from `blkno` on to `parts`, read under `grant`. Throws DeviceError.
   */
  read(blkno: number, len: number, grant: number, parts: ReadParts): void {
    const end = blkno + len;
    const last = Math.floor((end - 1) / CHUNK_BLOCKS);
    // Neighbouring memory becomes one window.
    let runSlot = -1, runFrom = 0, runLen = 0;
    for (let chunk = Math.floor(blkno / CHUNK_BLOCKS); chunk <= last; chunk++) {
      const base = chunk * CHUNK_BLOCKS;
      const from = Math.max(blkno - base, 0);
      const count = Math.min(end - base, CHUNK_BLOCKS) - from;
      const slot = this.#slotFor(chunk, grant);
      const mask = maskOf(from, count);
      if ((this.#valid[slot]! & mask) !== mask) this.#fill(slot, mask, end - base);
      const at = slot * CHUNK_BLOCKS + from;
      if (at === runSlot * CHUNK_BLOCKS + runFrom + runLen && slot % SLAB_CHUNKS !== 0) {
        runLen += count;
        continue;
      }
      if (runSlot >= 0) parts.add(this.#memory(runSlot, runFrom, runLen));
      runSlot = slot;
      runFrom = from;
      runLen = count;
    }
    parts.add(this.#memory(runSlot, runFrom, runLen));
  }

  /**
   * Tells of a read of blocks [first, end) of a file that is in an extent whose blocks up to
   * `extentEnd` (a block of the file) follow on the device from `blkno` (that of `end`) on. Readers
   * in order get what follows read ahead.
   */
  follow(
    ino: number,
    first: number,
    end: number,
    blkno: number,
    extentEnd: number,
    grant: number,
  ): void {
    if (this.#ahead === null) return;
    const s = this.#stream(ino, first, end);
    if (s === null) return;
    const from = Math.max(s.ahead, end);
    const to = Math.min(end + AHEAD_BLOCKS, extentEnd);
    if (from - end > AHEAD_BLOCKS / 2 || from >= to) return;
    const reached = this.#readAhead(this.#ahead, blkno + (from - end), to - from, grant);
    s.ahead = from + reached;
  }

  /** Blocks that change: what is cached of them is not valid any more. */
  forget(blkno: number, len: number): void {
    if (this.#slots.size === 0) return;
    const first = Math.floor(blkno / CHUNK_BLOCKS);
    const last = Math.floor((blkno + len - 1) / CHUNK_BLOCKS);
    let emptied = -1;
    if (last - first > this.#slots.size) {
      for (const [chunk, slot] of this.#slots) {
        if (chunk < first || chunk > last) continue;
        if (this.#forgetIn(slot, chunk, blkno, len) && emptied < 0) emptied = slot;
      }
    } else {
      for (let chunk = first; chunk <= last; chunk++) {
        const slot = this.#slots.get(chunk);
        if (slot === undefined) continue;
        if (this.#forgetIn(slot, chunk, blkno, len) && emptied < 0) emptied = slot;
      }
    }
    // Memory that is of no use goes first; what a file had mostly lies together.
    if (emptied >= 0) this.#hand = emptied;
  }

  /** Blocks that reads would find here, whatever their grant. */
  get blocks(): number {
    let n = 0;
    for (let slot = 0; slot < this.#made; slot++) n += bits(this.#valid[slot]!);
    return n;
  }

  /** Whether nothing is left of the chunk. */
  #forgetIn(slot: number, chunk: number, blkno: number, len: number): boolean {
    const base = chunk * CHUNK_BLOCKS;
    const from = Math.max(blkno - base, 0);
    const mask = maskOf(from, Math.min(blkno + len - base, CHUNK_BLOCKS) - from);
    this.#valid[slot]! &= ~mask;
    this.#stale[slot]! |= this.#loading[slot]! & mask;
    if (this.#valid[slot] !== 0) return false;
    this.#used[slot] = 0;
    return true;
  }

  /** The slot of a chunk, for a reader under `grant`. */
  #slotFor(chunk: number, grant: number): number {
    let slot = this.#slots.get(chunk);
    if (slot === undefined) {
      slot = this.#takeSlot();
      this.#slots.set(chunk, slot);
      this.#chunk[slot] = chunk;
      this.#grant[slot] = grant;
      this.#used[slot] = 0;
    } else {
      this.#used[slot] = this.#used[slot] === FRESH ? 0 : 1;
      if (this.#grant[slot] !== grant) {
        this.#settle(slot, ALL);
        this.#valid[slot] = 0;
        this.#grant[slot] = grant;
      }
    }
    this.#epochs[slot] = this.#epoch;
    return slot;
  }

  /** Makes the blocks of `mask` valid, waiting for the device; the request goes on to block `end`. */
  #fill(slot: number, mask: number, end: number): void {
    this.#settle(slot, mask);
    let missing = mask & ~this.#valid[slot]!;
    while (missing !== 0) {
      const from = 31 - Math.clz32(missing & -missing);
      let count = 1;
      while ((missing >> (from + count)) & 1) count++;
      // What the request takes of the following chunks comes by the same read, if it can.
      const reach = from + count === CHUNK_BLOCKS
        ? this.#neighbours(slot, from, end - from)
        : count;
      this.counts.reads++;
      this.#dev.read(
        this.#memory(slot, from, reach),
        (this.#chunk[slot]! * CHUNK_BLOCKS + from) * SM_SIZE,
      );
      this.#markValid(slot, from, reach);
      missing &= ~maskOf(from, count);
    }
  }

  /** Memory of `len` blocks from block `from` of `slot` on, which may go into the slots behind it. */
  #memory(slot: number, from: number, len: number): Uint8Array {
    const at = (slot % SLAB_CHUNKS) * CHUNK_BYTES + from * SM_SIZE;
    return this.#slabs[Math.floor(slot / SLAB_CHUNKS)]!.subarray(at, at + len * SM_SIZE);
  }

  /**
   * How many blocks from `from` of `slot` on, at most `wanted`, can be read at once: into the slots
   * behind it, as long as their memory is one piece and the chunks behind go or come there.
   */
  #neighbours(slot: number, from: number, wanted: number): number {
    const chunk = this.#chunk[slot]!, grant = this.#grant[slot]!;
    let len = CHUNK_BLOCKS - from;
    for (let i = 1; len < wanted && (slot + i) % SLAB_CHUNKS !== 0; i++) {
      const next = slot + i;
      const has = this.#slots.get(chunk + i);
      if (has === undefined) {
        if (!this.#takeThis(next)) break;
        this.#slots.set(chunk + i, next);
        this.#chunk[next] = chunk + i;
        this.#grant[next] = grant;
        this.#used[next] = this.#used[slot]!;
      } else if (
        has !== next || this.#grant[next] !== grant || this.#loading[next] !== 0 ||
        this.#valid[next] !== 0
      ) break;
      this.#epochs[next] = this.#epoch;
      len += Math.min(CHUNK_BLOCKS, wanted - len);
    }
    return len;
  }

  #markValid(slot: number, from: number, len: number): void {
    for (let s = slot, at = from, left = len; left > 0; s++, at = 0) {
      const count = Math.min(left, CHUNK_BLOCKS - at);
      this.#valid[s]! |= maskOf(at, count);
      left -= count;
    }
  }

  // ---- reading ahead ----

  /** The stream that a read goes on; null when it does not follow what was read before. */
  #stream(ino: number, first: number, end: number): Stream | null {
    const s = this.#streams.get(ino);
    if (s === undefined) {
      if (this.#streams.size >= STREAMS) {
        for (const oldest of this.#streams.keys()) {
          this.#streams.delete(oldest);
          break;
        }
      }
      const made = { next: end, ahead: end };
      this.#streams.set(ino, made);
      return first === 0 && end >= STREAM_BLOCKS ? made : null;
    }
    const follows = first === s.next || (first < s.next && end > s.next);
    s.next = end;
    if (!follows) s.ahead = end;
    return follows ? s : null;
  }

  /** Starts reading blocks that are neither there nor coming; returns how far that went. */
  #readAhead(ahead: ReadAhead, blkno: number, len: number, grant: number): number {
    let done = 0;
    while (done < len) {
      const at = blkno + done;
      const chunk = Math.floor(at / CHUNK_BLOCKS);
      const from = at - chunk * CHUNK_BLOCKS;
      const count = Math.min(len - done, CHUNK_BLOCKS - from);
      const has = this.#slots.get(chunk);
      // What is there in part, or of another grant, is left to the reader.
      if (has !== undefined) {
        done += count;
        continue;
      }
      const slot = this.#takeSlot();
      this.#slots.set(chunk, slot);
      this.#chunk[slot] = chunk;
      this.#grant[slot] = grant;
      this.#used[slot] = FRESH;
      this.#epochs[slot] = this.#epoch;
      const wanted = Math.min(len - done, AHEAD_PIECE);
      const reach = from + count === CHUNK_BLOCKS ? this.#neighbours(slot, from, wanted) : count;
      const load: Load = { slot, from, len: reach };
      this.#markLoading(load);
      const started = ahead.start(
        this.#memory(slot, from, reach),
        at * SM_SIZE,
        (ok) => this.#loaded(load, ok),
      );
      if (!started) {
        this.#loaded(load, false);
        break;
      }
      this.counts.ahead++;
      done += reach;
    }
    return done;
  }

  #markLoading({ slot, from, len }: Load): void {
    for (let s = slot, at = from, left = len; left > 0; s++, at = 0) {
      const count = Math.min(left, CHUNK_BLOCKS - at);
      this.#loading[s]! |= maskOf(at, count);
      left -= count;
    }
  }

  /** A read ahead ended. One that failed leaves nothing: the reader meets the error itself. */
  #loaded({ slot, from, len }: Load, ok: boolean): void {
    for (let s = slot, at = from, left = len; left > 0; s++, at = 0) {
      const count = Math.min(left, CHUNK_BLOCKS - at);
      const mask = maskOf(at, count);
      if (ok) this.#valid[s]! |= mask & ~this.#stale[s]!;
      this.#loading[s]! &= ~mask;
      this.#stale[s]! &= ~mask;
      left -= count;
    }
  }

  /** Waits until none of the blocks of `mask` is being read. */
  #settle(slot: number, mask: number): void {
    if ((this.#loading[slot]! & mask) === 0) return;
    assert(this.#ahead !== null, "a block is being read by nobody");
    this.#ahead.reap(false);
    while ((this.#loading[slot]! & mask) !== 0) this.#ahead.reap(true);
  }

  // ---- memory ----

  /** A slot for a chunk that has none. */
  #takeSlot(): number {
    if (this.#made < this.#chunk.length) {
      if (this.#made % SLAB_CHUNKS === 0) {
        this.#slabs.push(this.#dev.allocBuffer(SLAB_CHUNKS * CHUNK_BYTES));
      }
      return this.#made++;
    }
    for (let turns = 0;; turns++) {
      assert(turns <= 2 * this.#made, "all cached data is in use");
      const slot = this.#hand;
      this.#hand = (slot + 1) % this.#made;
      if (this.#used[slot] === 1) this.#used[slot] = 0;
      else if (this.#evict(slot)) return slot;
    }
  }

  /** Takes one particular slot if the clock would have taken it next. */
  #takeThis(slot: number): boolean {
    if (this.#made < this.#chunk.length) {
      if (slot !== this.#made) return false;
      this.#made++;
      return true;
    }
    if (slot !== this.#hand || this.#used[slot] === 1 || !this.#evict(slot)) return false;
    this.#hand = (slot + 1) % this.#made;
    return true;
  }

  #evict(slot: number): boolean {
    if (this.#loading[slot] !== 0 || this.#epochs[slot] === this.#epoch) return false;
    const chunk = this.#chunk[slot]!;
    if (this.#slots.get(chunk) === slot) this.#slots.delete(chunk);
    this.#valid[slot] = 0;
    return true;
  }
}

const maskOf = (from: number, count: number): number => ((1 << count) - 1) << from;

function bits(mask: number): number {
  let n = 0;
  for (let m = mask; m !== 0; m &= m - 1) n++;
  return n;
}
