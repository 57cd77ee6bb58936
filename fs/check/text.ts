/** Keys and names of items as messages show them. */

import { KEY } from "../../format/btree_block.ts";

/** The key of the item at byte `item`. */
export function keyText(v: DataView, item: number): string {
  const k = item + KEY;
  return `${v.getUint8(k + 25)}.${v.getBigUint64(k, true)}.${v.getUint8(k + 26)}.${
    v.getBigUint64(k + 8, true)
  }.${v.getBigUint64(k + 16, true)}.${v.getUint8(k + 24)}`;
}

/** A name for messages: printable ASCII as it is, other bytes as \xNN. */
export function nameText(name: Uint8Array): string {
  let s = "";
  for (const c of name) {
    s += c >= 0x20 && c < 0x7f && c !== 0x5c
      ? String.fromCharCode(c)
      : `\\x${c.toString(16).padStart(2, "0")}`;
  }
  return s;
}
