/**
 * Metadata blocks as a checker reads them: in large ordered reads, judged by the five rules of a
 * reference (01 §5.2), never trusted. A block that breaks a rule is handed over all the same, with
 * the rules it breaks: what can still be believed of it is the reader's business.
 *
 * Relies on: block numbers on the device, and the fsid of the super block.
 * Guarantees: every block is judged by its own bytes as they were read now; only a defect throws, a
 * device that cannot read is one of the rules.
 */

import { LG_SIZE, SM_SIZE } from "../../format/constants.ts";
import { blockCrcOk } from "../../format/crc32c.ts";
import type { Device, ReadAhead } from "../device.ts";
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

/** Blocks of the largest single read. */
const MAX_RUN = 16;

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
    /** Reads of the same device that go on by themselves, where there are any. */
    readonly ahead: ReadAhead | null = null,
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

  /** Reads what can be read of a block, the rest as zeros; false when that is nothing. */
  readPages(into: RawBlock, blkno: number): boolean {
    let any = false;
    for (let at = 0; at < LG_SIZE; at += SM_SIZE) {
      const page = into.buf.subarray(at, at + SM_SIZE);
      try {
        this.dev.read(page, blkno * LG_SIZE + at);
        any = true;
      } catch (e) {
        if (!(e instanceof DeviceError)) throw e;
        page.fill(0);
      }
    }
    return any;
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
   * Begins to read blocks, given in ascending order, into the consecutive blocks of `window`,
   * neighbours on the device together.
   */
  readOrdered(blknos: Float64Array, window: Uint8Array): OrderedRead {
    return new OrderedRead(this, blknos, window);
  }

  /** Fills `buf` from block `blkno` on; false when that is not possible. */
  readRun(buf: Uint8Array, blkno: number): boolean {
    return this.#readRun(buf, blkno) === 0;
  }

  /** Bytes that a read which went on by itself has brought. */
  count(bytes: number): void {
    this.bytesRead += bytes;
    this.onRead?.();
  }
}

/** Reads that are under way, or that are made when their result is asked for. */
export class OrderedRead {
  readonly #unreadable: Uint8Array;
  /** Runs [first, end) that are still to be read by ourselves. */
  readonly #left: { first: number; end: number }[] = [];
  #underWay = 0;

  constructor(
    private readonly source: MetaSource,
    private readonly blknos: Float64Array,
    private readonly window: Uint8Array,
  ) {
    const count = blknos.length;
    this.#unreadable = new Uint8Array(count);
    for (let first = 0, end = 0; first < count; first = end) {
      end = first + 1;
      while (
        end < first + MAX_RUN && end < count &&
        blknos[end] === (blknos[first] as number) + end - first
      ) end++;
      this.#start(first, end);
    }
  }

  /** Whether block `slot` could not be read; known after `finish`. */
  unreadable(slot: number): boolean {
    return this.#unreadable[slot] === 1;
  }

  /** Waits until everything has been read. */
  finish(): void {
    while (this.#underWay > 0) this.source.ahead?.reap(true);
    for (const { first, end } of this.#left) {
      if (this.source.readRun(this.#slots(first, end), this.blknos[first] as number)) continue;
      // One bad sector must not cost its neighbours.
      for (let i = first; i < end; i++) {
        const good = this.source.readRun(this.#slots(i, i + 1), this.blknos[i] as number);
        this.#unreadable[i] = good ? 0 : 1;
      }
    }
    this.#left.length = 0;
  }

  #slots(first: number, end: number): Uint8Array {
    return this.window.subarray(first * LG_SIZE, end * LG_SIZE);
  }

  #start(first: number, end: number): void {
    const { ahead } = this.source, buf = this.#slots(first, end);
    const begun = ahead !== null &&
      ahead.start(buf, (this.blknos[first] as number) * LG_SIZE, (ok) => {
        this.#underWay--;
        if (ok) this.source.count(buf.length);
        else this.#left.push({ first, end });
      });
    if (begun) this.#underWay++;
    else this.#left.push({ first, end });
  }
}
