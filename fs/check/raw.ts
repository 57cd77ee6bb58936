/**
 * Reading numbers that may be damaged. The accessors of format/ refuse a le64 above 2^53−1; a
 * checker must look at it, say so and go on. A value beyond 2^53 is rounded here, which every
 * comparison with a real limit still tells from a good one.
 */

import type { BlockRef } from "../../format/block.ts";
import type { View } from "../../format/bytes.ts";

const TWO32 = 0x1_0000_0000;

/** The le64 at byte `o`, rounded above 2^53. Never throws. */
export function rawU64(v: DataView, o: number): number {
  return v.getUint32(o + 4, true) * TWO32 + v.getUint32(o, true);
}

/** The le64 at byte `at` of a structure. */
export function fieldU64(view: View, at: number): number {
  return rawU64(view.v, view.o + at);
}

/** Block number of a reference, whatever it is. */
export function refBlkno(ref: BlockRef): number {
  return rawU64(ref.v, ref.o);
}

/** Whether a number of the format is one that our arithmetic holds exactly. */
export const isExact = (n: number): boolean => n <= Number.MAX_SAFE_INTEGER;

/**
 * From here on a counter of the volume is damage: a server counts from the greatest, leaves gaps of 2^20
 * and refuses to go beyond 2^52.
 */
export const COUNTER_LIMIT = 2 ** 52 - 2 ** 21;

/** High and low word of a number up to 2^53. */
export const hiWord = (n: number): number => Math.floor(n / TWO32);
export const loWord = (n: number): number => n >>> 0;
export const joinWords = (hi: number, lo: number): number => hi * TWO32 + lo;

/** `len` bytes at `off` are zero. */
export function isZero(bytes: Uint8Array, off: number, len: number): boolean {
  const end = off + len, at = bytes.byteOffset + off;
  let i = off;
  if (len >= 64) {
    // Most of it by words.
    const lead = (4 - at % 4) % 4, words = (len - lead) >> 2;
    for (; i < off + lead; i++) if (bytes[i] !== 0) return false;
    const w = new Uint32Array(bytes.buffer, at + lead, words);
    for (let k = 0; k < words; k++) if (w[k] !== 0) return false;
    i += 4 * words;
  }
  for (; i < end; i++) if (bytes[i] !== 0) return false;
  return true;
}

export const hex16 = (n: bigint): string => n.toString(16).padStart(16, "0");
export const viewOf = (b: Uint8Array): DataView => new DataView(b.buffer, b.byteOffset, b.length);
