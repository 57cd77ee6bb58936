/**
 * The format's CRC (01 §5.1): CRC-32C, reflected polynomial 0x82F63B78, initial register all ones,
 * no final inversion. The table implementation here is the reference for faster ones, which a
 * start-up routine may plug in once with `setCrc32c`.
 */

/** Register after processing `len` bytes of `bytes` from `off`; defaults: all of it. */
export type Crc32c = (bytes: Uint8Array, off?: number, len?: number) => number;

const POLYNOMIAL = 0x82f63b78;

/** Eight tables: slice k holds the effect of a byte that is followed by k more. */
const TABLES: Uint32Array[] = makeTables();

function makeTables(): Uint32Array[] {
  const tables = Array.from({ length: 8 }, () => new Uint32Array(256));
  const first = tables[0] as Uint32Array;
  for (let i = 0; i < 256; i++) {
    let c = i;
    for (let bit = 0; bit < 8; bit++) c = c & 1 ? c >>> 1 ^ POLYNOMIAL : c >>> 1;
    first[i] = c;
  }
  for (let k = 1; k < 8; k++) {
    const previous = tables[k - 1] as Uint32Array, table = tables[k] as Uint32Array;
    for (let i = 0; i < 256; i++) {
      const c = previous[i] as number;
      table[i] = c >>> 8 ^ (first[c & 255] as number);
    }
  }
  return tables;
}

const [T0, T1, T2, T3, T4, T5, T6, T7] = TABLES as [
  Uint32Array,
  Uint32Array,
  Uint32Array,
  Uint32Array,
  Uint32Array,
  Uint32Array,
  Uint32Array,
  Uint32Array,
];

/** Table implementation, eight bytes a step. */
export function crc32cTable(bytes: Uint8Array, off = 0, len = bytes.length - off): number {
  let c = 0xffff_ffff;
  let i = off;
  const end = off + len;
  for (; i + 8 <= end; i += 8) {
    c ^= bytes[i]! | bytes[i + 1]! << 8 | bytes[i + 2]! << 16 | bytes[i + 3]! << 24;
    c = T7[c & 255]! ^ T6[c >>> 8 & 255]! ^ T5[c >>> 16 & 255]! ^ T4[c >>> 24]! ^
      T3[bytes[i + 4]!]! ^ T2[bytes[i + 5]!]! ^ T1[bytes[i + 6]!]! ^ T0[bytes[i + 7]!]!;
  }
  for (; i < end; i++) c = c >>> 8 ^ T0[(c ^ bytes[i]!) & 255]!;
  return c >>> 0;
}

let implementation: Crc32c = crc32cTable;

/** The register after `len` bytes from `off`, unsigned. */
export function crc32c(bytes: Uint8Array, off = 0, len: number = bytes.length - off): number {
  return implementation(bytes, off, len);
}

/** Replaces the implementation for the whole isolate; it must give the same results. */
export function setCrc32c(faster: Crc32c): void {
  implementation = faster;
}

/** CRC of a whole block: everything after the crc field itself. */
export function blockCrc(block: Uint8Array): number {
  return implementation(block, 4, block.length - 4);
}

/** Stores the block's crc. */
export function sealBlock(block: Uint8Array): void {
  const crc = blockCrc(block);
  block[0] = crc;
  block[1] = crc >>> 8;
  block[2] = crc >>> 16;
  block[3] = crc >>> 24;
}

/** The stored crc field of a block. */
export function storedCrc(block: Uint8Array): number {
  return (block[0]! | block[1]! << 8 | block[2]! << 16 | block[3]! << 24) >>> 0;
}

/** Whether the stored crc is the computed one. */
export function blockCrcOk(block: Uint8Array): boolean {
  return storedCrc(block) === blockCrc(block);
}
