/**
 * Metadata blocks as a checker reads them: in large ordered reads, judged by the five rules of a
 * reference (01 §5.2), never trusted. A block that breaks a rule is handed over all the same, with
 * the rules it breaks: what can still be believed of it is the reader's business.
 */

import { LG_SIZE } from "../../format/constants.ts";
import { blockCrcOk } from "../../format/crc32c.ts";
import type { Device } from "../device.ts";
import { DeviceError } from "../errors.ts";
import { rawU64, viewOf } from "./raw.ts";

/** A block buffer, seen in all the ways that codecs and scans want it. */
export interface RawBlock {
  readonly buf: Uint8Array;
  readonly v: DataView;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
}

/** Views of a buffer of one block, which begins at a multiple of 4 in its memory. */
export function rawBlock(buf: Uint8Array): RawBlock {
  return {
    buf,
    v: viewOf(buf),
    u16: new Uint16Array(buf.buffer, buf.byteOffset, buf.length >> 1),
    u32: new Uint32Array(buf.buffer, buf.byteOffset, buf.length >> 2),
  };
}

/** Rules of 01 §5.2 that a block can break, as bits. */
export const BAD_READ = 1;
export const BAD_CRC = 2;
export const BAD_MAGIC = 4;
export const BAD_FSID = 8;
export const BAD_SEQ = 16;
export const BAD_BLKNO = 32;

/** A reference: block number and the two words of the seq it expects. */
export interface Ref {
  readonly blkno: number;
  readonly seqLo: number;
  readonly seqHi: number;
}

/** Largest single read. */
const MAX_RUN = 32;

export class MetaSource {
  bytesRead = 0;
  /** Called now and then with the bytes read so far. */
  onRead: (() => void) | undefined;
  readonly #free: RawBlock[] = [];
  readonly #freeWindows: Uint8Array[] = [];

  constructor(
    readonly dev: Device,
    readonly fsidLo: number,
    readonly fsidHi: number,
  ) {}

  /** A buffer of one block; give it back with `release`. */
  acquire(): RawBlock {
    const b = this.#free.pop();
    if (b !== undefined) return b;
    return rawBlock(this.dev.allocBuffer(LG_SIZE));
  }

  release(b: RawBlock): void {
    this.#free.push(b);
  }

  /** A buffer of `blocks` blocks for ordered reads. */
  acquireWindow(blocks: number): Uint8Array {
    const at = this.#freeWindows.findIndex((w) => w.length === blocks * LG_SIZE);
    if (at >= 0) return this.#freeWindows.splice(at, 1)[0] as Uint8Array;
    return this.dev.allocBuffer(blocks * LG_SIZE);
  }

  releaseWindow(w: Uint8Array): void {
    this.#freeWindows.push(w);
  }

  /** Reads one block; returns the rules it breaks. */
  read(into: RawBlock, ref: Ref, magic: number): number {
    const bad = this.#readRun(into.buf, ref.blkno);
    return bad !== 0 ? bad : this.judge(into, ref, magic);
  }

  /** Reads a block without judging it; false when it cannot be read. */
  readRaw(into: RawBlock, blkno: number): boolean {
    return this.#readRun(into.buf, blkno) === 0;
  }

  #readRun(buf: Uint8Array, blkno: number): number {
    try {
      this.dev.read(buf, blkno * LG_SIZE);
    } catch (e) {
      if (!(e instanceof DeviceError)) throw e;
      return BAD_READ;
    }
    this.bytesRead += buf.length;
    this.onRead?.();
    return 0;
  }

  /** The rules that a block in memory breaks. */
  judge(b: RawBlock, ref: Ref, magic: number): number {
    const v = b.v;
    let bad = 0;
    if (!blockCrcOk(b.buf)) bad |= BAD_CRC;
    if (v.getUint32(4, true) !== magic) bad |= BAD_MAGIC;
    if (v.getUint32(8, true) !== this.fsidLo || v.getUint32(12, true) !== this.fsidHi) {
      bad |= BAD_FSID;
    }
    if (v.getUint32(16, true) !== ref.seqLo || v.getUint32(20, true) !== ref.seqHi) bad |= BAD_SEQ;
    if (rawU64(v, 24) !== ref.blkno) bad |= BAD_BLKNO;
    return bad;
  }

  /**
   * Reads blocks given in ascending order into the consecutive blocks of `window`, neighbours on the
   * device with one call; `unreadable[i]` becomes 1 for those that fail.
   */
  readOrdered(
    blknos: Float64Array,
    count: number,
    window: Uint8Array,
    unreadable: Uint8Array,
  ): void {
    let first = 0;
    while (first < count) {
      let n = 1;
      while (
        n < MAX_RUN && first + n < count &&
        blknos[first + n] === (blknos[first] as number) + n
      ) n++;
      const run = window.subarray(first * LG_SIZE, (first + n) * LG_SIZE);
      if (this.#readRun(run, blknos[first] as number) === 0) {
        unreadable.fill(0, first, first + n);
      } else {
        // One bad sector must not cost its neighbours.
        for (let i = 0; i < n; i++) {
          const one = run.subarray(i * LG_SIZE, (i + 1) * LG_SIZE);
          unreadable[first + i] = this.#readRun(one, blknos[first + i] as number) === 0 ? 0 : 1;
        }
      }
      first += n;
    }
  }
}
