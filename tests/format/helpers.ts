/** Small tools of the byte vector tests. */

import { sealBlock, storedCrc } from "../../format/crc32c.ts";

export const text = (s: string): Uint8Array => new TextEncoder().encode(s);

/** Bytes of hexadecimal digits; anything else between them is ignored. */
export function unhex(hex: string): Uint8Array {
  const digits = hex.replace(/[^0-9a-f]/g, "");
  return Uint8Array.from(
    { length: digits.length / 2 },
    (_, i) => parseInt(digits.slice(2 * i, 2 * i + 2), 16),
  );
}

/** Hexadecimal of little-endian 64-bit values. */
export function words(...values: bigint[]): string {
  const bytes = new Uint8Array(8 * values.length);
  const v = new DataView(bytes.buffer);
  for (const [i, value] of values.entries()) v.setBigUint64(8 * i, value, true);
  return [...bytes].map((b) => b.toString(16).padStart(2, "0")).join("");
}

/** Seals a block and returns the crc it got. */
export function sealed(block: Uint8Array): number {
  sealBlock(block);
  return storedCrc(block);
}
