/**
 * Item keys (01 §7): 32 stored bytes, compared as zone, first, type, second, third, fourth. In
 * memory the three 64-bit fields are pairs of 32-bit words so that comparing never leaves the range
 * of small integers; they are kept signed, since V8 keeps an integer above 2^31−1 in an object of its
 * own. A Key is immutable by convention; arithmetic makes new ones.
 *
 *   0 first le64 · 8 second le64 · 16 third le64 · 24 fourth u8 · 25 zone u8 · 26 type u8 · 27 pad 0
 */

import { FormatError } from "./bytes.ts";

const TWO32 = 0x1_0000_0000;
const U32_MAX = 0xffff_ffff;

export class Key {
  /** Stored bytes. */
  static readonly SIZE = 32;

  // Declared, not defined: else each would be stored twice, first as undefined.
  declare readonly zone: number;
  declare readonly type: number;
  declare readonly fourth: number;
  declare private readonly w0: number;
  declare private readonly w1: number;
  declare private readonly w2: number;
  declare private readonly w3: number;
  declare private readonly w4: number;
  declare private readonly w5: number;

  private constructor(
    zone: number,
    firstHi: number,
    firstLo: number,
    type: number,
    secondHi: number,
    secondLo: number,
    thirdHi: number,
    thirdLo: number,
    fourth: number,
  ) {
    this.zone = zone;
    this.w0 = firstHi | 0;
    this.w1 = firstLo | 0;
    this.type = type;
    this.w2 = secondHi | 0;
    this.w3 = secondLo | 0;
    this.w4 = thirdHi | 0;
    this.w5 = thirdLo | 0;
    this.fourth = fourth;
  }

  /** The words, unsigned. */
  get firstHi(): number {
    return this.w0 >>> 0;
  }
  get firstLo(): number {
    return this.w1 >>> 0;
  }
  get secondHi(): number {
    return this.w2 >>> 0;
  }
  get secondLo(): number {
    return this.w3 >>> 0;
  }
  get thirdHi(): number {
    return this.w4 >>> 0;
  }
  get thirdLo(): number {
    return this.w5 >>> 0;
  }

  /** The smallest key. */
  static readonly ZEROS = new Key(0, 0, 0, 0, 0, 0, 0, 0, 0);
  /** The largest key: every field all-ones. */
  static readonly ONES = new Key(
    255,
    U32_MAX,
    U32_MAX,
    255,
    U32_MAX,
    U32_MAX,
    U32_MAX,
    U32_MAX,
    255,
  );

  /** A key of its fields in the printed order `zone.first.type.second.third.fourth`. */
  static of(
    zone: number,
    first: number | bigint,
    type: number,
    second: number | bigint = 0,
    third: number | bigint = 0,
    fourth = 0,
  ): Key {
    return new Key(
      zone,
      high(first),
      low(first),
      type,
      high(second),
      low(second),
      high(third),
      low(third),
      fourth,
    );
  }

  /** A key of unsigned 32-bit words. */
  static words(
    zone: number,
    firstHi: number,
    firstLo: number,
    type: number,
    secondHi: number,
    secondLo: number,
    thirdHi: number,
    thirdLo: number,
    fourth: number,
  ): Key {
    return new Key(
      zone,
      firstHi,
      firstLo,
      type,
      secondHi,
      secondLo,
      thirdHi,
      thirdLo,
      fourth,
    );
  }

  /** The key stored at byte `off`. */
  static read(v: DataView, off: number): Key {
    return new Key(
      v.getUint8(off + 25),
      v.getUint32(off + 4, true),
      v.getUint32(off, true),
      v.getUint8(off + 26),
      v.getUint32(off + 12, true),
      v.getUint32(off + 8, true),
      v.getUint32(off + 20, true),
      v.getUint32(off + 16, true),
      v.getUint8(off + 24),
    );
  }

  /** Stores the 32 bytes at byte `off`, padding zero (it is hashed, 01 §6.5). */
  write(v: DataView, off: number): void {
    v.setUint32(off, this.firstLo, true);
    v.setUint32(off + 4, this.firstHi, true);
    v.setUint32(off + 8, this.secondLo, true);
    v.setUint32(off + 12, this.secondHi, true);
    v.setUint32(off + 16, this.thirdLo, true);
    v.setUint32(off + 20, this.thirdHi, true);
    v.setUint32(off + 24, this.fourth | this.zone << 8 | this.type << 16, true);
    v.setUint32(off + 28, 0, true);
  }

  /** The stored bytes in a buffer of their own. */
  toBytes(): Uint8Array {
    const bytes = new Uint8Array(Key.SIZE);
    this.write(new DataView(bytes.buffer), 0);
    return bytes;
  }

  /** Negative, zero or positive as this key sorts before, with or after `k`. */
  compare(k: Key): number {
    if (this.zone !== k.zone) return this.zone - k.zone;
    if (this.w0 !== k.w0) return this.firstHi < k.firstHi ? -1 : 1;
    if (this.w1 !== k.w1) return this.firstLo < k.firstLo ? -1 : 1;
    if (this.type !== k.type) return this.type - k.type;
    if (this.w2 !== k.w2) return this.secondHi < k.secondHi ? -1 : 1;
    if (this.w3 !== k.w3) return this.secondLo < k.secondLo ? -1 : 1;
    if (this.w4 !== k.w4) return this.thirdHi < k.thirdHi ? -1 : 1;
    if (this.w5 !== k.w5) return this.thirdLo < k.thirdLo ? -1 : 1;
    return this.fourth - k.fourth;
  }

  equals(k: Key): boolean {
    return this.w1 === k.w1 && this.w3 === k.w3 && this.w5 === k.w5 && this.type === k.type &&
      this.zone === k.zone && this.fourth === k.fourth && this.w0 === k.w0 &&
      this.w2 === k.w2 && this.w4 === k.w4;
  }

  /** The following key; ones wraps to zeros. */
  inc(): Key {
    let { zone, firstHi, firstLo, type, secondHi, secondLo, thirdHi, thirdLo, fourth } = this;
    if (fourth < 255) fourth++;
    else {
      fourth = 0;
      thirdLo = (thirdLo + 1) >>> 0;
      if (thirdLo === 0) thirdHi = (thirdHi + 1) >>> 0;
      if (thirdLo === 0 && thirdHi === 0) {
        secondLo = (secondLo + 1) >>> 0;
        if (secondLo === 0) secondHi = (secondHi + 1) >>> 0;
        if (secondLo === 0 && secondHi === 0) {
          type = (type + 1) & 255;
          if (type === 0) {
            firstLo = (firstLo + 1) >>> 0;
            if (firstLo === 0) firstHi = (firstHi + 1) >>> 0;
            if (firstLo === 0 && firstHi === 0) zone = (zone + 1) & 255;
          }
        }
      }
    }
    return new Key(zone, firstHi, firstLo, type, secondHi, secondLo, thirdHi, thirdLo, fourth);
  }

  /** The preceding key; zeros wraps to ones. */
  dec(): Key {
    let { zone, firstHi, firstLo, type, secondHi, secondLo, thirdHi, thirdLo, fourth } = this;
    if (fourth > 0) fourth--;
    else {
      fourth = 255;
      const borrowSecond = thirdLo === 0 && thirdHi === 0;
      if (thirdLo === 0) thirdHi = (thirdHi - 1) >>> 0;
      thirdLo = (thirdLo - 1) >>> 0;
      if (borrowSecond) {
        const borrowType = secondLo === 0 && secondHi === 0;
        if (secondLo === 0) secondHi = (secondHi - 1) >>> 0;
        secondLo = (secondLo - 1) >>> 0;
        if (borrowType) {
          const borrowFirst = type === 0;
          type = (type - 1) & 255;
          if (borrowFirst) {
            const borrowZone = firstLo === 0 && firstHi === 0;
            if (firstLo === 0) firstHi = (firstHi - 1) >>> 0;
            firstLo = (firstLo - 1) >>> 0;
            if (borrowZone) zone = (zone - 1) & 255;
          }
        }
      }
    }
    return new Key(zone, firstHi, firstLo, type, secondHi, secondLo, thirdHi, thirdLo, fourth);
  }

  /** As a number; FormatError above 2^53−1. */
  get first(): number {
    return join(this.firstHi, this.firstLo);
  }
  /** As a number; FormatError above 2^53−1. */
  get second(): number {
    return join(this.secondHi, this.secondLo);
  }
  /** As a number; FormatError above 2^53−1. */
  get third(): number {
    return join(this.thirdHi, this.thirdLo);
  }
  get firstBig(): bigint {
    return joinBig(this.firstHi, this.firstLo);
  }
  get secondBig(): bigint {
    return joinBig(this.secondHi, this.secondLo);
  }
  get thirdBig(): bigint {
    return joinBig(this.thirdHi, this.thirdLo);
  }

  /** `zone.first.type.second.third.fourth` in decimal. */
  toString(): string {
    return `${this.zone}.${this.firstBig}.${this.type}.${this.secondBig}.${this.thirdBig}.${this.fourth}`;
  }
}

/** Compares the key stored at byte `off` with `key`, without allocating. */
export function compareKeyAt(v: DataView, off: number, key: Key): number {
  const zone = v.getUint8(off + 25);
  if (zone !== key.zone) return zone - key.zone;
  let w = v.getUint32(off + 4, true);
  if (w !== key.firstHi) return w < key.firstHi ? -1 : 1;
  w = v.getUint32(off, true);
  if (w !== key.firstLo) return w < key.firstLo ? -1 : 1;
  w = v.getUint8(off + 26);
  if (w !== key.type) return w - key.type;
  w = v.getUint32(off + 12, true);
  if (w !== key.secondHi) return w < key.secondHi ? -1 : 1;
  w = v.getUint32(off + 8, true);
  if (w !== key.secondLo) return w < key.secondLo ? -1 : 1;
  w = v.getUint32(off + 20, true);
  if (w !== key.thirdHi) return w < key.thirdHi ? -1 : 1;
  w = v.getUint32(off + 16, true);
  if (w !== key.thirdLo) return w < key.thirdLo ? -1 : 1;
  return v.getUint8(off + 24) - key.fourth;
}

/** Whether the inclusive ranges [a, b] and [c, d] share a key. */
export function rangesOverlap(a: Key, b: Key, c: Key, d: Key): boolean {
  return b.compare(c) >= 0 && a.compare(d) <= 0;
}

export const minKey = (a: Key, b: Key): Key => a.compare(b) <= 0 ? a : b;
export const maxKey = (a: Key, b: Key): Key => a.compare(b) >= 0 ? a : b;

function high(n: number | bigint): number {
  return typeof n === "number" ? checked(n) : Number(BigInt.asUintN(64, n) >> 32n);
}

function low(n: number | bigint): number {
  return typeof n === "number" ? n >>> 0 : Number(BigInt.asUintN(32, n));
}

function checked(n: number): number {
  if (!Number.isSafeInteger(n) || n < 0) throw new FormatError(`${n} cannot be a key field`);
  return Math.floor(n / TWO32);
}

function join(hi: number, lo: number): number {
  if (hi >= 0x20_0000) throw new FormatError(`key field ${joinBig(hi, lo)} is beyond 2^53−1`);
  return hi * TWO32 + lo;
}

function joinBig(hi: number, lo: number): bigint {
  return BigInt(hi) << 32n | BigInt(lo);
}
