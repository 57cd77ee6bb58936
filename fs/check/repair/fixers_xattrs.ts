/**
 * Mending extended attributes (01 §15.4): of what is broken, or there twice, the rest is kept.
 */

import { TYPE_XATTR, ZONE_FS } from "../../../format/constants.ts";
import { bytesEqual } from "../../../format/bytes.ts";
import { xattrNameHash } from "../../../format/hash.ts";
import { Key } from "../../../format/key.ts";
import { type FixScope, LAST_NUMBER } from "./fixers_scope.ts";

export function removeXattr(s: FixScope, ino: number, hash: number, id: number): boolean {
  const parts = s.range(ino, TYPE_XATTR, TYPE_XATTR).filter(({ key }) =>
    key.secondLo === hash && Number(key.thirdBig) === id
  );
  if (!s.lossy) return false;
  for (const { key } of parts) s.patch.remove(key);
  s.notes.push(`an attribute of inode ${ino} was removed`);
  return true;
}

/** Of attributes with one name the one made last stays. */
export function keepLastXattr(s: FixScope, ino: number, name: Uint8Array): boolean {
  if (!s.lossy) return false;
  const ids: number[] = [], hash = xattrNameHash(name);
  for (const { key, val } of s.range(ino, TYPE_XATTR, TYPE_XATTR)) {
    if (key.fourth !== 0 || Number(key.secondBig) !== hash || val[2] !== name.length) continue;
    if (bytesEqual(val.subarray(8, 8 + name.length), name)) ids.push(Number(key.thirdBig));
  }
  ids.sort((a, b) => a - b).pop();
  for (const id of ids) removeXattr(s, ino, hash, id);
  return true;
}

/** Parts that no first part announces. */
export function removeHeadlessXattrs(s: FixScope, ino: number): boolean {
  if (!s.lossy) return false;
  const parts = s.range(ino, TYPE_XATTR, TYPE_XATTR);
  const idOf = (key: Key) => `${key.secondBig}.${key.thirdBig}`;
  const heads = new Set(parts.filter(({ key }) => key.fourth === 0).map(({ key }) => idOf(key)));
  const headless = parts.filter(({ key }) => !heads.has(idOf(key)));
  for (const { key } of headless) s.patch.remove(key);
  if (headless.length > 0) s.notes.push(`inode ${ino}: the rest of a broken attribute was removed`);
  return true;
}

/** Attributes that share an id: all but the first get new ones. */
export function separateXattrs(s: FixScope, ino: number, id: number): boolean {
  const inode = s.patch.inode(ino);
  if (inode === null) return false;
  let first: bigint | null = null;
  const moved = new Map<bigint, number>();
  for (const { key, val } of s.range(ino, TYPE_XATTR, TYPE_XATTR)) {
    if (Number(key.thirdBig) !== id) continue;
    first ??= key.secondBig;
    if (key.secondBig === first) continue;
    let other = moved.get(key.secondBig);
    if (other === undefined) {
      other = Math.max(inode.nextXattrId, id + 1);
      inode.nextXattrId = other + 1;
      moved.set(key.secondBig, other);
    }
    s.patch.remove(key);
    s.patch.set(Key.of(ZONE_FS, ino, TYPE_XATTR, key.secondBig, other, key.fourth), val);
  }
  return true;
}

/** Attributes whose ids no counter can follow get new ones behind all others. */
export function renumberXattrs(s: FixScope, ino: number): boolean {
  const inode = s.patch.inode(ino);
  if (inode === null) return false;
  const parts = s.range(ino, TYPE_XATTR, TYPE_XATTR), moved = new Map<string, number>();
  let next = 0;
  for (const { key } of parts) {
    const id = Number(key.thirdBig);
    if (id < LAST_NUMBER) next = Math.max(next, id + 1);
  }
  for (const { key, val } of parts) {
    if (Number(key.thirdBig) < LAST_NUMBER) continue;
    const name = `${key.secondBig}.${key.thirdBig}`, id = moved.get(name) ?? next++;
    moved.set(name, id);
    s.patch.remove(key);
    s.patch.set(Key.of(ZONE_FS, ino, TYPE_XATTR, key.secondBig, id, key.fourth), val);
  }
  inode.nextXattrId = next;
  return true;
}
