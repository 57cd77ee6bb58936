/**
 * File data that was written by applications and not yet by us: pages of the data device in memory,
 * by block number (02 §15.5). Reads look here first. A page leaves by a flush: of the oldest ones
 * when a stream fills the map, of everything before a commit tells the server of new extents.
 *
 * Invariants: a page belongs to a block that is mapped by a file, or was when it was written (a
 * freed block's page is dropped, so a flush never writes to what a later transaction reallocates);
 * a page that could not be written stays dirty. Memory is bounded: pages live in slabs that are
 * reused, and writers wait for a commit at `limitPages`.
 */

import type { Device } from "./device.ts";
import { SM_SIZE } from "../format/constants.ts";
import { assert } from "./errors.ts";

const SLAB_PAGES = 256;
/** Pages of one flush step: 1 MiB. */
const STEP_PAGES = 256;

export interface DirtyDataOptions {
  /** From so many pages on, each write that adds some also writes the oldest ones (16 MiB). */
  streamPages?: number;
  /** At so many pages writers wait: only reached while the device fails (64 MiB). */
  limitPages?: number;
  /** Blocks whose content on the device changed, or that are no file's any more. */
  onChange?: (blkno: number, len: number) => void;
}

export class DirtyData {
  readonly #dev: Device;
  readonly #changed: (blkno: number, len: number) => void;
  readonly #streamPages: number;
  readonly #limitPages: number;
  /** Block number → slot, oldest first. */
  readonly #slots = new Map<number, number>();
  readonly #slabs: Uint8Array[] = [];
  /** Free slots; the lowest of a slab are taken first so that a stream's pages are neighbours. */
  readonly #free: number[] = [];
  readonly #step = new Float64Array(STEP_PAGES);
  #bounce: Uint8Array | null = null;
  /** Old contents of the first and last block of the write that is being gathered. */
  readonly headPage: Uint8Array;
  readonly tailPage: Uint8Array;
  /** Old contents of the block in which a file ends whose end is being moved. */
  readonly endPage: Uint8Array;

  constructor(dev: Device, options: DirtyDataOptions = {}) {
    this.#dev = dev;
    this.#changed = options.onChange ?? (() => {});
    this.#streamPages = options.streamPages ?? 4096;
    this.#limitPages = options.limitPages ?? 16384;
    this.headPage = dev.allocBuffer(SM_SIZE);
    this.tailPage = dev.allocBuffer(SM_SIZE);
    this.endPage = dev.allocBuffer(SM_SIZE);
    assert(this.#streamPages < this.#limitPages, "streams are flushed before writers wait");
  }

  get pages(): number {
    return this.#slots.size;
  }

  /**
   * At least `bytes` of device memory for whoever needs some until its next call, within one run:
   * transfers that are not aligned.
   */
  scratch(bytes: number): Uint8Array {
    if (this.#bounce === null || this.#bounce.length < bytes) {
      const size = Math.max(2 * SM_SIZE, 2 ** Math.ceil(Math.log2(bytes)));
      this.#bounce = this.#dev.allocBuffer(size);
    }
    return this.#bounce;
  }

  /** A stream's worth is waiting: `flushStep` is due. */
  get streaming(): boolean {
    return this.#slots.size >= this.#streamPages;
  }

  /** No more pages may be added until a commit has written some. */
  get full(): boolean {
    return this.#slots.size >= this.#limitPages;
  }

  has(blkno: number): boolean {
    return this.#slots.size > 0 && this.#slots.has(blkno);
  }

  /** The dirty page of a block, live; null when the device has the truth. */
  page(blkno: number): Uint8Array | null {
    const slot = this.#slots.get(blkno);
    return slot === undefined ? null : this.#at(slot);
  }

  /** Makes a block dirty that is not yet; the content of the page returned is arbitrary. */
  add(blkno: number): Uint8Array {
    assert(!this.#slots.has(blkno), "a data block that is added is dirty already");
    let slot = this.#free.pop();
    if (slot === undefined) {
      const first = this.#slabs.length * SLAB_PAGES;
      this.#slabs.push(this.#dev.allocBuffer(SLAB_PAGES * SM_SIZE));
      for (let i = SLAB_PAGES - 1; i > 0; i--) this.#free.push(first + i);
      slot = first;
    }
    this.#slots.set(blkno, slot);
    return this.#at(slot);
  }

  /** Forgets pages of blocks that were freed, or overwritten on the device itself. */
  drop(blkno: number, len: number): void {
    this.#changed(blkno, len);
    if (this.#slots.size === 0) return;
    if (len > this.#slots.size) {
      for (const b of this.#slots.keys()) if (b >= blkno && b < blkno + len) this.#forget(b);
    } else {
      for (let b = blkno; b < blkno + len; b++) this.#forget(b);
    }
  }

  /**
   * Writes up to 1 MiB of the oldest pages; whether any were left. Throws DeviceError with all of
   * them still dirty.
   */
  flushStep(): boolean {
    let n = 0;
    for (const blkno of this.#slots.keys()) {
      this.#step[n++] = blkno;
      if (n === STEP_PAGES) break;
    }
    if (n === 0) return false;
    this.#writePages(this.#step.subarray(0, n).sort());
    return this.#slots.size > 0;
  }

  /** Writes every page; throws DeviceError with those unwritten still dirty. Does not flush the device. */
  flush(): void {
    while (this.flushStep());
  }

  /** For commits: is anything unwritten? (Whoever writes data dirties the inode's item as well.) */
  dirty(): boolean {
    return this.#slots.size > 0;
  }

  /** For commits: writes everything; `slice` lets others run in between when it is time. */
  async write(slice: () => Promise<void>): Promise<void> {
    while (this.flushStep()) await slice();
  }

  #at(slot: number): Uint8Array {
    const off = (slot % SLAB_PAGES) * SM_SIZE;
    return this.#slabs[(slot / SLAB_PAGES) | 0]!.subarray(off, off + SM_SIZE);
  }

  #forget(blkno: number): void {
    const slot = this.#slots.get(blkno);
    if (slot === undefined) return;
    this.#slots.delete(blkno);
    this.#free.push(slot);
  }

  /** Writes pages in ascending block order, each run of neighbours at once, then forgets them. */
  #writePages(blknos: Float64Array): void {
    for (let i = 0; i < blknos.length;) {
      let j = i + 1;
      while (j < blknos.length && blknos[j] === blknos[j - 1]! + 1) j++;
      this.#writeRun(blknos.subarray(i, j));
      i = j;
    }
    for (let i = blknos.length - 1; i >= 0; i--) this.#forget(blknos[i]!);
  }

  #writeRun(blknos: Float64Array): void {
    const bufs: Uint8Array[] = [];
    for (let i = 0; i < blknos.length;) {
      const slot = this.#slots.get(blknos[i]!)!;
      const room = Math.min(SLAB_PAGES - slot % SLAB_PAGES, blknos.length - i);
      let n = 1;
      while (n < room && this.#slots.get(blknos[i + n]!) === slot + n) n++;
      const off = (slot % SLAB_PAGES) * SM_SIZE;
      bufs.push(this.#slabs[(slot / SLAB_PAGES) | 0]!.subarray(off, off + n * SM_SIZE));
      i += n;
    }
    const at = blknos[0]! * SM_SIZE;
    this.#changed(blknos[0]!, blknos.length);
    if (bufs.length === 1) this.#dev.write(bufs[0]!, at);
    else this.#dev.writev(bufs, at);
  }
}
