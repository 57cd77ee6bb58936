/** Keys where they are stored: comparing without making Key objects. */

/** Order of the keys stored at byte `a` of `va` and byte `b` of `vb` (01 §7.2). */
export function compareStored(va: DataView, a: number, vb: DataView, b: number): number {
  let x = va.getUint8(a + 25), y = vb.getUint8(b + 25);
  if (x !== y) return x - y;
  x = va.getUint32(a + 4, true);
  y = vb.getUint32(b + 4, true);
  if (x !== y) return x < y ? -1 : 1;
  x = va.getUint32(a, true);
  y = vb.getUint32(b, true);
  if (x !== y) return x < y ? -1 : 1;
  x = va.getUint8(a + 26);
  y = vb.getUint8(b + 26);
  if (x !== y) return x - y;
  x = va.getUint32(a + 12, true);
  y = vb.getUint32(b + 12, true);
  if (x !== y) return x < y ? -1 : 1;
  x = va.getUint32(a + 8, true);
  y = vb.getUint32(b + 8, true);
  if (x !== y) return x < y ? -1 : 1;
  x = va.getUint32(a + 20, true);
  y = vb.getUint32(b + 20, true);
  if (x !== y) return x < y ? -1 : 1;
  x = va.getUint32(a + 16, true);
  y = vb.getUint32(b + 16, true);
  if (x !== y) return x < y ? -1 : 1;
  return va.getUint8(a + 24) - vb.getUint8(b + 24);
}
