/**
 * Hash functions of the format (01 §6). The 64-bit FNV runs on two 32-bit words; only where a
 * caller keeps the value as an opaque number is it made a bigint.
 */

import { FOREST_BLOOM_BITS, LEAF_ITEM_HASH_NR } from "./constants.ts";
import { crc32c } from "./crc32c.ts";
import { Key } from "./key.ts";

/** An unsigned 64-bit value as two unsigned words. */
export interface Words {
  readonly hi: number;
  readonly lo: number;
}

const FNV32_INIT = 0x811c9dc5;
const FNV32_PRIME = 0x01000193;
const FNV64_INIT_HI = 0xcbf29ce4;
const FNV64_INIT_LO = 0x84222325;
/** The 64-bit prime is 2^40 + 0x1b3. */
const FNV64_PRIME_LO = 0x1b3;

/** FNV-1a of 32 bits over `len` bytes from `off`, unsigned. */
export function fnv1a32(bytes: Uint8Array, off = 0, len: number = bytes.length - off): number {
  let h = FNV32_INIT;
  for (let i = off, end = off + len; i < end; i++) h = Math.imul(h ^ bytes[i]!, FNV32_PRIME);
  return h >>> 0;
}

/** FNV-1a of 64 bits over `len` bytes from `off`. */
export function fnv1a64Words(bytes: Uint8Array, off = 0, len: number = bytes.length - off): Words {
  let hi = FNV64_INIT_HI, lo = FNV64_INIT_LO;
  for (let i = off, end = off + len; i < end; i++) {
    lo = (lo ^ bytes[i]!) >>> 0;
    // (hi·2^32 + lo) · (2^40 + 0x1b3) mod 2^64; lo · 0x1b3 stays below 2^41.
    const product = lo * FNV64_PRIME_LO;
    hi = (Math.imul(hi, FNV64_PRIME_LO) + (lo << 8) + (product / 0x1_0000_0000 | 0)) >>> 0;
    lo = product >>> 0;
  }
  return { hi, lo };
}

/** FNV-1a of 64 bits, e.g. the search hash of an xattr name (01 §6.4). */
export function fnv1a64(bytes: Uint8Array, off = 0, len: number = bytes.length - off): bigint {
  const { hi, lo } = fnv1a64Words(bytes, off, len);
  return BigInt(hi) << 32n | BigInt(lo);
}

/** Every `skip`th bit of `skip` bytes: eight bits. The first bit of a byte is its highest. */
function everyBit(b: Uint8Array, at: number, skip: number): number {
  switch (skip) {
    case 1:
      return b[at]!;
    case 2:
      return b[at]! & 128 | b[at]! << 1 & 64 | b[at]! << 2 & 32 | b[at]! << 3 & 16 |
        b[at + 1]! >>> 4 & 8 | b[at + 1]! >>> 3 & 4 | b[at + 1]! >>> 2 & 2 | b[at + 1]! >>> 1 & 1;
    case 3:
      return b[at]! & 128 | b[at]! << 2 & 64 | b[at]! << 4 & 32 | b[at + 1]! >>> 2 & 16 |
        b[at + 1]! & 8 | b[at + 1]! << 2 & 4 | b[at + 2]! >>> 4 & 2 | b[at + 2]! >>> 2 & 1;
    case 4:
      return b[at]! & 128 | b[at]! << 3 & 64 | b[at + 1]! >>> 2 & 32 | b[at + 1]! << 1 & 16 |
        b[at + 2]! >>> 4 & 8 | b[at + 2]! >>> 1 & 4 | b[at + 3]! >>> 6 & 2 | b[at + 3]! >>> 3 & 1;
    case 5:
      return b[at]! & 128 | b[at]! << 4 & 64 | b[at + 1]! & 32 | b[at + 1]! << 4 & 16 |
        b[at + 2]! & 8 | b[at + 3]! >>> 4 & 4 | b[at + 3]! & 2 | b[at + 4]! >>> 4 & 1;
    case 6:
      return b[at]! & 128 | b[at]! << 5 & 64 | b[at + 1]! << 2 & 32 | b[at + 2]! >>> 1 & 16 |
        b[at + 3]! >>> 4 & 8 | b[at + 3]! << 1 & 4 | b[at + 4]! >>> 2 & 2 | b[at + 5]! >>> 5 & 1;
    case 7:
      return b[at]! & 128 | b[at]! << 6 & 64 | b[at + 1]! << 4 & 32 | b[at + 2]! << 2 & 16 |
        b[at + 3]! & 8 | b[at + 4]! >>> 2 & 4 | b[at + 5]! >>> 4 & 2 | b[at + 6]! >>> 6 & 1;
    default:
      // The names are so long that no byte has two of the bits.
      return everyFarBit(b, at, skip);
  }
}

function everyFarBit(b: Uint8Array, at: number, skip: number): number {
  let bits = 0;
  for (let bit = 0; bit < 8 * skip; bit += skip) {
    bits = bits << 1 | b[at + (bit >>> 3)]! >>> (7 - (bit & 7)) & 1;
  }
  return bits;
}

/** Up to 32 sampled bits of a name, the high half of its directory entry hash (01 §6.2). */
export function nameFingerprint(name: Uint8Array, off: number, len: number): number {
  if (len < 4) {
    let bits = 0;
    for (let i = 0; i < len; i++) bits |= name[off + i]! << 24 - 8 * i;
    return bits >>> 0;
  }
  // 8 · len / 32 bits lie between two of them, but one at least.
  const skip = len >>> 2;
  return (everyBit(name, off, skip) << 24 | everyBit(name, off + skip, skip) << 16 |
    everyBit(name, off + 2 * skip, skip) << 8 | everyBit(name, off + 3 * skip, skip)) >>> 0;
}

/** The hash of a directory entry's name (01 §6.2). */
export function direntHash(name: Uint8Array, off = 0, len: number = name.length - off): Words {
  return { hi: nameFingerprint(name, off, len), lo: fnv1a32(name, off, len) };
}

/** The hash of a full xattr name as keys hold it (01 §6.3). */
export function xattrNameHash(name: Uint8Array): number {
  return crc32c(name);
}

/** The search hash of a full xattr name (01 §6.4). */
export const srchNameHash = (name: Uint8Array): bigint => fnv1a64(name);

/** The prime's fourth power: what four zero bytes multiply a hash by. */
const FNV32_PRIME_4 = 0x502c3f11;

/** The leaf hash table bucket of the key stored at byte `off` of `v` (01 §6.5). */
export function keyBucket(v: DataView, off: number): number {
  let h = FNV32_INIT;
  for (let at = off, end = off + Key.SIZE; at < end; at += 4) {
    const word = v.getUint32(at, true);
    if (word === 0) {
      h = Math.imul(h, FNV32_PRIME_4);
      continue;
    }
    h = Math.imul(h ^ word & 255, FNV32_PRIME);
    h = Math.imul(h ^ word >>> 8 & 255, FNV32_PRIME);
    h = Math.imul(h ^ word >>> 16 & 255, FNV32_PRIME);
    h = Math.imul(h ^ word >>> 24, FNV32_PRIME);
  }
  return (h >>> 0) % LEAF_ITEM_HASH_NR;
}

/** The three bloom bit numbers of a lock's start key (01 §6.6). */
export function bloomBits(key: Key): [number, number, number] {
  const { hi, lo } = fnv1a64Words(key.toBytes());
  // bit i is taken from the low word of hash >> 19·i
  const second = (hi << 13 | lo >>> 19) >>> 0;
  const third = hi >>> 6;
  return [lo % FOREST_BLOOM_BITS, second % FOREST_BLOOM_BITS, third % FOREST_BLOOM_BITS];
}
