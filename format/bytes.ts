/**
 * Little-endian 64-bit access and the base class of every structure view. All integers of the
 * format are little-endian (01 §1). Values that count or number something are JavaScript numbers
 * and must fit 2^53−1; reading a greater one is a FormatError, never a silently rounded value.
 */

/** Stored bytes that cannot be what the format says: too short, or a number out of range. */
export class FormatError extends Error {
  override readonly name = "FormatError";
}

const TWO32 = 0x1_0000_0000;
/** High words from here on do not fit 2^53−1. */
const HIGH_LIMIT = 0x20_0000;

/** The le64 at byte `o` as a number; throws FormatError above 2^53−1. */
export function getU64(v: DataView, o: number): number {
  const hi = v.getUint32(o + 4, true);
  if (hi >= HIGH_LIMIT) throw tooLarge(v.getBigUint64(o, true));
  return hi * TWO32 + v.getUint32(o, true);
}

/** Stores the integer `n`, 0 … 2^53−1, as le64. */
export function setU64(v: DataView, o: number, n: number): void {
  const hi = Math.floor(n / TWO32);
  if (!(hi >= 0 && hi < HIGH_LIMIT) || n % 1 !== 0) {
    throw new FormatError(`${n} is not an integer between 0 and 2^53−1`);
  }
  v.setUint32(o, n >>> 0, true);
  v.setUint32(o + 4, hi, true);
}

/** The two's complement le64 at byte `o`; throws FormatError outside ±(2^53−1). */
export function getI64(v: DataView, o: number): number {
  const hi = v.getInt32(o + 4, true);
  if (hi >= HIGH_LIMIT || hi < -HIGH_LIMIT) throw tooLarge(v.getBigInt64(o, true));
  return hi * TWO32 + v.getUint32(o, true);
}

/** As `getU64`, of bytes without a view: for places where making one costs more than reading. */
export function getU64Bytes(b: Uint8Array, o: number): number {
  const lo = (b[o]! | b[o + 1]! << 8 | b[o + 2]! << 16 | b[o + 3]! << 24) >>> 0;
  const hi = (b[o + 4]! | b[o + 5]! << 8 | b[o + 6]! << 16 | b[o + 7]! << 24) >>> 0;
  if (hi >= HIGH_LIMIT) throw tooLarge(BigInt(hi) << 32n | BigInt(lo));
  return hi * TWO32 + lo;
}

/** Stores the integer `n`, −2^53 … 2^53−1, in two's complement. */
export function setI64(v: DataView, o: number, n: number): void {
  const hi = Math.floor(n / TWO32);
  if (!(hi >= -HIGH_LIMIT && hi < HIGH_LIMIT) || n % 1 !== 0) {
    throw new FormatError(`${n} is not an integer between −2^53 and 2^53−1`);
  }
  v.setUint32(o, n >>> 0, true);
  v.setInt32(o + 4, hi, true);
}

/** Adds `n`, below 2^32, to the 64-bit number at byte `o`, whatever it is; it wraps at 2^64. */
export function add64(v: DataView, o: number, n: number): void {
  const lo = v.getUint32(o, true) + n;
  v.setUint32(o, lo, true);
  if (lo >= TWO32) v.setUint32(o + 4, v.getUint32(o + 4, true) + 1, true);
}

function tooLarge(value: bigint): FormatError {
  return new FormatError(`64-bit value ${value} is beyond 2^53−1`);
}

/** A view class: what `View.at` and `View.alloc` need of it. */
export interface ViewClass<T extends View> {
  readonly SIZE: number;
  readonly name: string;
  new (v: DataView, o?: number): T;
}

/**
 * A structure as it lies in memory: accessors over `SIZE` bytes at byte `o` of `v`. Setters write
 * through; nested structures are live sub-views. Padding is never written by accessors.
 */
export abstract class View {
  // Declared, not defined: else each would be stored twice, first as undefined.
  declare readonly v: DataView;
  declare readonly o: number;

  constructor(v: DataView, o = 0) {
    this.v = v;
    this.o = o;
  }

  /** A zeroed structure in a buffer of its own. */
  static alloc<T extends View>(this: ViewClass<T>): T {
    return new this(new DataView(new ArrayBuffer(this.SIZE)));
  }

  /** The structure at byte `off` of `buf`; throws FormatError when `buf` ends before it does. */
  static at<T extends View>(this: ViewClass<T>, buf: Uint8Array, off = 0): T {
    if (off + this.SIZE > buf.length) {
      throw new FormatError(`${this.name} needs ${this.SIZE} bytes, has ${buf.length - off}`);
    }
    return new this(new DataView(buf.buffer, buf.byteOffset + off, buf.length - off));
  }

  /** The live bytes of the structure. */
  get bytes(): Uint8Array {
    return new Uint8Array(this.v.buffer, this.v.byteOffset + this.o, sizeOf(this));
  }

  copyFrom(other: this): void {
    this.bytes.set(other.bytes);
  }

  zero(): void {
    for (let i = this.o, end = this.o + sizeOf(this); i < end; i++) this.v.setUint8(i, 0);
  }

  isZero(): boolean {
    for (let i = this.o, end = this.o + sizeOf(this); i < end; i++) {
      if (this.v.getUint8(i) !== 0) return false;
    }
    return true;
  }
}

function sizeOf(view: View): number {
  return (view.constructor as unknown as ViewClass<View>).SIZE;
}

/** Load-time check that a class covers exactly the bytes the specification gives its structure. */
export function checkSize(actual: number, expected: number, name: string): void {
  if (actual !== expected) throw new Error(`${name} is ${actual} bytes, must be ${expected}`);
}

export function bytesEqual(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

/** Lower-case hexadecimal, two digits a byte. */
export function toHex(bytes: Uint8Array): string {
  let s = "";
  for (const b of bytes) s += (b < 16 ? "0" : "") + b.toString(16);
  return s;
}
