/**
 * Which inodes this mount is using: kernel lookup counts and open counts per inode number, and the
 * open map made of them (02 §6.1, 04 §23). One open-addressing table in typed arrays, about 40
 * bytes an inode: only the kernel bounds how many inodes it remembers.
 *
 * Invariants: an inode has an entry exactly while one of its counts is not zero; its open map bit
 * is set exactly then. Counts are raised only while the inode's lock is held (by the operation that
 * found or made it) or while another reference exists.
 */

import { assert } from "./errors.ts";

/** Bytes of one open map group: 1024 bits. */
export const OPEN_MAP_BYTES = 128;
const GROUP_INODES = 1024;
const MIN_CAPACITY = 64;

/** Told when an inode's last reference went, after its open map bit was cleared. */
export type UnusedHook = (ino: number, unlinked: boolean) => void;

export class InodeRefs {
  /** Inode numbers; 0 marks a free slot. */
  #inos = new Float64Array(MIN_CAPACITY);
  #lookups = new Float64Array(MIN_CAPACITY);
  #opens = new Uint32Array(MIN_CAPACITY);
  #unlinked = new Uint8Array(MIN_CAPACITY);
  #shift = 32 - Math.log2(MIN_CAPACITY);
  #count = 0;

  /** What happens with an inode that became unused; set once by who deletes unlinked inodes. */
  onUnused: UnusedHook = () => {};

  /** Inodes in use. */
  get size(): number {
    return this.#count;
  }

  #home(ino: number): number {
    const hi = (ino / 0x1_0000_0000) | 0;
    return Math.imul((ino | 0) ^ Math.imul(hi, 0x85ebca6b), 0x9e3779b1) >>> this.#shift;
  }

  /** The slot of `ino`, or the free slot where it belongs. */
  #slot(ino: number): number {
    const inos = this.#inos;
    const mask = inos.length - 1;
    let i = this.#home(ino);
    while (inos[i] !== 0 && inos[i] !== ino) i = (i + 1) & mask;
    return i;
  }

  #findOrAdd(ino: number): number {
    let i = this.#slot(ino);
    if (this.#inos[i] === 0) {
      assert(ino > 0, "an inode number is positive");
      if (this.#count * 2 >= this.#inos.length) {
        this.#resize(this.#inos.length * 2);
        i = this.#slot(ino);
      }
      this.#inos[i] = ino;
      this.#count++;
    }
    return i;
  }

  #resize(capacity: number): void {
    const inos = this.#inos;
    const lookups = this.#lookups;
    const opens = this.#opens;
    const unlinked = this.#unlinked;
    this.#inos = new Float64Array(capacity);
    this.#lookups = new Float64Array(capacity);
    this.#opens = new Uint32Array(capacity);
    this.#unlinked = new Uint8Array(capacity);
    this.#shift = 32 - Math.log2(capacity);
    for (let i = 0; i < inos.length; i++) {
      if (inos[i] === 0) continue;
      const j = this.#slot(inos[i]);
      this.#inos[j] = inos[i];
      this.#lookups[j] = lookups[i];
      this.#opens[j] = opens[i];
      this.#unlinked[j] = unlinked[i];
    }
  }

  /** Empties slot `i` and moves later entries of its run back, so that no tombstones are needed. */
  #removeAt(i: number): void {
    const mask = this.#inos.length - 1;
    let hole = i;
    for (let j = (i + 1) & mask; this.#inos[j] !== 0; j = (j + 1) & mask) {
      const home = this.#home(this.#inos[j]);
      if (((j - home) & mask) < ((j - hole) & mask)) continue;
      this.#inos[hole] = this.#inos[j];
      this.#lookups[hole] = this.#lookups[j];
      this.#opens[hole] = this.#opens[j];
      this.#unlinked[hole] = this.#unlinked[j];
      hole = j;
    }
    this.#inos[hole] = 0;
    this.#lookups[hole] = 0;
    this.#opens[hole] = 0;
    this.#unlinked[hole] = 0;
    this.#count--;
    if (this.#inos.length > MIN_CAPACITY && this.#count * 8 < this.#inos.length) {
      this.#resize(this.#inos.length / 2);
    }
  }

  #dropIfUnused(i: number): void {
    if (this.#lookups[i] !== 0 || this.#opens[i] !== 0) return;
    const ino = this.#inos[i];
    const unlinked = this.#unlinked[i] !== 0;
    this.#removeAt(i);
    this.onUnused(ino, unlinked);
  }

  /** The kernel was (or is about to be) told of `ino` in `n` entry replies. */
  addLookup(ino: number, n = 1): void {
    // First the slot: making room replaces the arrays.
    const i = this.#findOrAdd(ino);
    this.#lookups[i] += n;
  }

  /** FORGET, or an entry reply that found nobody. */
  forget(ino: number, n: number): void {
    const i = this.#slot(ino);
    assert(this.#inos[i] === ino && this.#lookups[i] >= n, "more lookups forgotten than counted");
    this.#lookups[i] -= n;
    this.#dropIfUnused(i);
  }

  /** An open handle, or anything else of ours that must keep the inode from being deleted. */
  open(ino: number): void {
    const i = this.#findOrAdd(ino);
    this.#opens[i]++;
  }

  /** Ends one `open`. */
  release(ino: number): void {
    const i = this.#slot(ino);
    assert(this.#inos[i] === ino && this.#opens[i] > 0, "an inode was released but not open");
    this.#opens[i]--;
    this.#dropIfUnused(i);
  }

  /**
   * Remembers whether the inode has lost its last link, so that it is deleted when it becomes
   * unused. False when nothing uses it: then `onUnused` will not be called.
   */
  setUnlinked(ino: number, unlinked: boolean): boolean {
    const i = this.#slot(ino);
    if (this.#inos[i] !== ino) return false;
    this.#unlinked[i] = unlinked ? 1 : 0;
    return true;
  }

  isUsed(ino: number): boolean {
    return this.#inos[this.#slot(ino)] === ino;
  }

  lookupCount(ino: number): number {
    return this.#lookups[this.#slot(ino)];
  }

  openCount(ino: number): number {
    return this.#opens[this.#slot(ino)];
  }

  /** Fills the 128 bytes of the open map of `group` (inode number / 1024): bit = ino mod 1024. */
  openMap(group: number, bits: Uint8Array): void {
    assert(bits.length === OPEN_MAP_BYTES, "an open map has 1024 bits");
    bits.fill(0);
    const first = group * GROUP_INODES;
    for (let bit = group === 0 ? 1 : 0; bit < GROUP_INODES; bit++) {
      if (this.isUsed(first + bit)) bits[bit >> 3] |= 1 << (bit & 7);
    }
  }

  /** Forgets every reference, as at the kernel's DESTROY; unlinked inodes are reported. */
  forgetAll(): void {
    const unlinked: number[] = [];
    this.#inos.forEach((ino, i) => {
      if (ino !== 0 && this.#unlinked[i] !== 0) unlinked.push(ino);
    });
    this.#inos = new Float64Array(MIN_CAPACITY);
    this.#lookups = new Float64Array(MIN_CAPACITY);
    this.#opens = new Uint32Array(MIN_CAPACITY);
    this.#unlinked = new Uint8Array(MIN_CAPACITY);
    this.#shift = 32 - Math.log2(MIN_CAPACITY);
    this.#count = 0;
    for (const ino of unlinked) this.onUnused(ino, true);
  }
}
