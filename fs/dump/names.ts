/**
 * Other names with the same hashes, for dumps whose names must not be read. A replacement has the
 * length and the hash of the original, so every key, hash, size and order on the volume stays right.
 *
 * Directory entry names (01 §6.2): 32 sampled bits of the name and its FNV-1a are kept. The remaining
 * bits are drawn at random and the last bytes found by meeting in the middle: states reached
 * forwards from random choices, and states that lead to the wanted hash backwards from others. The
 * byte between them is what the two states differ in, as one step of FNV-1a xors the byte into the low
 * eight bits: so only the upper 24 have to meet. Names of up to 7 bytes have no other name with their
 * hash and are kept; of 8 bytes, some.
 *
 * Xattr names (01 §6.3): the last four bytes are solved for the crc; with fewer than five bytes after
 * the prefix there is nothing to choose.
 *
 * Replacements are a function of secret and name: equal names stay equal.
 */

import { fnv1a32, fnv1a64Words } from "../../format/hash.ts";

const FNV32_INIT = 0x811c9dc5;
const FNV32_PRIME = 0x01000193;
/** Its inverse modulo 2^32. */
const FNV32_UNPRIME = inverse(FNV32_PRIME);

/** Shortest name that can have another with its hash. */
export const MIN_REPLACEABLE = 8;

const SLASH = 0x2f;
const NICE = new TextEncoder().encode(
  "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_",
);
const IS_NICE = new Uint8Array(256);
for (const c of NICE) IS_NICE[c] = 1;

/** Random words from a seed (xorshift128). */
export class Randomness {
  #a: number;
  #b: number;
  #c: number;
  #d: number;

  constructor(secret: Uint8Array, of: Uint8Array) {
    const s = fnv1a64Words(secret), n = fnv1a64Words(of);
    this.#a = s.hi | 1;
    this.#b = s.lo ^ n.hi;
    this.#c = n.lo;
    this.#d = fnv1a32(of) ^ fnv1a32(secret);
    for (let i = 0; i < 16; i++) this.word();
  }

  word(): number {
    let t = this.#d;
    t ^= t << 11;
    t ^= t >>> 8;
    this.#d = this.#c;
    this.#c = this.#b;
    this.#b = this.#a;
    this.#a = t ^ this.#a ^ (this.#a >>> 19);
    return this.#a >>> 0;
  }

  below(n: number): number {
    return this.word() % n;
  }

  niceByte(): number {
    return NICE[this.below(NICE.length)]!;
  }
}

function inverse(odd: number): number {
  let x = odd;
  for (let i = 0; i < 5; i++) x = Math.imul(x, 2 - Math.imul(odd, x));
  return x;
}

/** The bits of each byte that the hash samples. */
function sampledBits(bytes: number): Uint8Array {
  const bits = bytes * 8, skip = Math.max(1, bits >>> 5), mask = new Uint8Array(bytes);
  for (let i = 0, at = 0; i < 32 && at < bits; i++, at += skip) {
    mask[at >>> 3] = mask[at >>> 3]! | 0x80 >> (at & 7);
  }
  return mask;
}

/** All bytes that may take the place of `byte` where the bits of `mask` must stay. */
function choicesOf(byte: number, mask: number, preferNice: boolean): Uint8Array {
  const fits: number[] = [];
  for (let c = 1; c < 256; c++) if (c !== SLASH && ((c ^ byte) & mask) === 0) fits.push(c);
  const nice = fits.filter((c) => IS_NICE[c] === 1);
  return Uint8Array.from(preferNice && nice.length >= 4 ? nice : fits);
}

/** Names from this length on have enough freedom for readable bytes alone. */
const LONG_NAME = 16;
const MAX_FORWARD = 1 << 13;
const TABLE_BITS = 16;
const TABLE_SIZE = 1 << TABLE_BITS;
const MAX_BACKWARD = 1 << 20;
/** Combinations of the window: enough for several solutions, also where a part of them is tried. */
const WANTED = 2 ** 42;

export class NameReplacer {
  /** States reached forwards, found by their upper 24 bits. */
  readonly #states = new Uint32Array(TABLE_SIZE);
  /** 1 + number of the combination; 0 = empty. */
  readonly #combination = new Uint32Array(TABLE_SIZE);
  readonly #choices = new Map<number, Uint8Array>();

  constructor(private readonly secret: Uint8Array) {}

  /** Another directory entry name of the same length and hash; `name` itself when there is none. */
  entryName(name: Uint8Array): Uint8Array {
    if (name.length < MIN_REPLACEABLE) return name;
    const random = new Randomness(this.secret, name);
    const choices = this.#choicesFor(name);
    // The window of bytes that are searched: [from, split) forwards, (split, end) backwards.
    let from = name.length, combinations = 1;
    while (from > 0 && combinations < WANTED) combinations *= choices[--from]!.length;
    let split = from, forward = 1;
    if (combinations < WANTED) {
      // Hardly any name has the hash: no combination may be left out.
      while (forward * choices[split]!.length <= MAX_FORWARD) forward *= choices[split++]!.length;
    } else {
      while (forward < MAX_FORWARD) forward *= choices[split++]!.length;
      forward = MAX_FORWARD;
    }
    for (let attempt = 0; attempt < 4; attempt++) {
      const found = this.#search(name, choices, from, split, forward, random);
      if (found !== null) return found;
    }
    return name;
  }

  /** The bytes that each byte of a replacement may be: the sampled bits as in `name`. */
  #choicesFor(name: Uint8Array): Uint8Array[] {
    const mask = sampledBits(name.length), preferNice = name.length >= LONG_NAME;
    return Array.from(name, (byte, i) => {
      const key = (preferNice ? 1 << 16 : 0) | mask[i]! << 8 | byte & mask[i]!;
      let choices = this.#choices.get(key);
      if (choices === undefined) {
        this.#choices.set(key, choices = choicesOf(byte, mask[i]!, preferNice));
      }
      return choices;
    });
  }

  #search(
    name: Uint8Array,
    choices: readonly Uint8Array[],
    from: number,
    split: number,
    forward: number,
    random: Randomness,
  ): Uint8Array | null {
    const out = name.slice(), end = name.length;
    for (let i = 0; i < from; i++) out[i] = choices[i]![random.below(choices[i]!.length)]!;
    this.#forwards(out, choices, from, split, forward);

    // Bytes after `split` count up from random ones; `after[i]` is the state before byte i.
    const digits = new Uint8Array(end), after = new Int32Array(end + 1);
    const allowed = new Uint8Array(256);
    for (const c of choices[split]!) allowed[c] = 1;
    let backward = 1;
    for (let i = split + 1; i < end; i++) {
      backward *= choices[i]!.length;
      digits[i] = random.below(choices[i]!.length);
    }
    after[end] = fnv1a32(name) | 0;
    let changed = end - 1;
    for (let tries = Math.min(backward, MAX_BACKWARD); tries > 0; tries--) {
      for (let i = changed; i > split; i--) {
        const byte = choices[i]![digits[i]!]!;
        out[i] = byte;
        after[i] = Math.imul(after[i + 1]!, FNV32_UNPRIME) ^ byte;
      }
      const x = Math.imul(after[split + 1]!, FNV32_UNPRIME) >>> 0;
      for (let at = slotOf(x); this.#combination[at] !== 0; at = (at + 1) % TABLE_SIZE) {
        const byte = this.#states[at]! ^ x;
        if (byte >>> 8 !== 0 || allowed[byte] === 0) continue;
        out[split] = byte;
        for (let i = from, rest = this.#combination[at]! - 1; i < split; i++) {
          const c = choices[i]!;
          out[i] = c[rest % c.length]!;
          rest = Math.floor(rest / c.length);
        }
        if (!out.every((b, i) => b === name[i])) return out;
      }
      changed = split + 1;
      while (changed < end) {
        const digit = digits[changed]! + 1;
        digits[changed] = digit < choices[changed]!.length ? digit : 0;
        if (digits[changed] !== 0) break;
        changed++;
      }
      if (changed === end) changed--;
    }
    return null;
  }

  /** The states after `out[0, from)` and each combination of the bytes [from, split). */
  #forwards(
    out: Uint8Array,
    choices: readonly Uint8Array[],
    from: number,
    split: number,
    forward: number,
  ): void {
    let prefix = FNV32_INIT | 0;
    for (let i = 0; i < from; i++) prefix = Math.imul(prefix ^ out[i]!, FNV32_PRIME);
    this.#combination.fill(0);
    for (let n = 0; n < forward; n++) {
      let h = prefix;
      for (let i = from, rest = n; i < split; i++) {
        const c = choices[i]!;
        h = Math.imul(h ^ c[rest % c.length]!, FNV32_PRIME);
        rest = Math.floor(rest / c.length);
      }
      let at = slotOf(h >>> 0);
      while (this.#combination[at] !== 0) at = (at + 1) % TABLE_SIZE;
      this.#states[at] = h >>> 0;
      this.#combination[at] = n + 1;
    }
  }

  /** Another xattr name of the same length and hash that begins with the same `keep` bytes. */
  xattrName(name: Uint8Array, keep: number): Uint8Array {
    const free = name.length - keep - 4;
    if (free < 1) return name;
    const random = new Randomness(this.secret, name);
    const wanted = crcBack(crcForth(0xffffffff, name, name.length), 4);
    let best: Uint8Array | null = null;
    for (let attempt = 0; attempt < 512; attempt++) {
      const out = name.slice();
      for (let i = keep; i < keep + free; i++) out[i] = random.niceByte();
      const bytes = (crcForth(0xffffffff, out, keep + free) ^ wanted) >>> 0;
      for (let i = 0; i < 4; i++) out[keep + free + i] = bytes >>> 8 * i & 0xff;
      const tail = out.subarray(keep + free);
      if (tail.includes(0) || out.every((b, i) => b === name[i])) continue;
      if (tail.every((c) => IS_NICE[c] === 1)) return out;
      best ??= out;
    }
    return best ?? name;
  }
}

/** Where the search for a state begins in the table: the low eight bits do not count. */
const slotOf = (state: number): number => Math.imul(state >>> 8, 0x9e3779b1) >>> (32 - TABLE_BITS);

const CRC_TABLE = new Uint32Array(256);
/** The entry of CRC_TABLE whose top byte is the index. */
const CRC_UNTABLE = new Uint8Array(256);
for (let i = 0; i < 256; i++) {
  let c = i;
  for (let k = 0; k < 8; k++) c = (c & 1) !== 0 ? c >>> 1 ^ 0x82f63b78 : c >>> 1;
  CRC_TABLE[i] = c;
  CRC_UNTABLE[c >>> 24] = i;
}

function crcForth(crc: number, bytes: Uint8Array, len: number): number {
  for (let i = 0; i < len; i++) crc = CRC_TABLE[(crc ^ bytes[i]!) & 0xff]! ^ crc >>> 8;
  return crc >>> 0;
}

/** The register that `n` zero bytes turn into `crc`; xor of the next bytes gives what they must be. */
function crcBack(crc: number, n: number): number {
  for (let i = 0; i < n; i++) {
    const entry = CRC_UNTABLE[crc >>> 24]!;
    crc = ((crc ^ CRC_TABLE[entry]!) << 8 | entry) >>> 0;
  }
  return crc;
}
