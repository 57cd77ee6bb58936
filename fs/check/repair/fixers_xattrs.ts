/**
 * Mending extended attributes (01 §15.4): of what is broken, or there twice, the rest is kept.
 */

import {
  TYPE_XATTR,
  XATTR_MAX_NAME_LEN,
  XATTR_PART_SIZE,
  ZONE_FS,
} from "../../../format/constants.ts";
import { bytesEqual } from "../../../format/bytes.ts";
import { xattrNameHash } from "../../../format/hash.ts";
import { Key } from "../../../format/key.ts";
import { ACL_ENTRY_BYTES, ACL_HEADER_BYTES, ACL_VERSION } from "../../ops/acl_rules.ts";
import { isAclXattr, isSupportedXattr, startsWith, XATTR_NAME_ACL_ACCESS } from "../../ops/tags.ts";
import { viewOf } from "../raw.ts";
import { isAclValue, isPossibleXattr } from "../xattr_rules.ts";
import { type FixScope, LAST_NUMBER, S_IFLNK, S_IFMT } from "./fixers_scope.ts";

const HEADER = 8;

interface Part {
  readonly key: Key;
  readonly val: Uint8Array;
}

/**
 * Removes a broken attribute, unless all its parts are there: then its padding is zeroed, it is filed
 * under the hash of its name, a length gets right that this hash or an ACL proves, and an ACL gets what
 * all ACLs have.
 */
export function mendXattr(s: FixScope, ino: number, hash: number, id: number): boolean {
  if (!s.lossy) return false;
  const ofId = s.range(ino, TYPE_XATTR, TYPE_XATTR)
    .filter(({ key }) => Number(key.thirdBig) === id);
  const reported = ofId.filter(({ key }) => key.secondLo === hash);
  const readable = reported.filter((part) => isUnder(part, hash));
  // An id is that of one attribute: a part under another hash is one of its parts.
  const parts = [readable, reported, ofId, withRightLength(readable, hash)].find(isWhole);
  const mended = parts === undefined ? null : mendedXattr(parts, hash);
  if (parts === undefined || mended === null) {
    if (isWhole(ofId.filter((part) => !reported.includes(part)))) {
      // The attribute is under its own hash, and stays.
      for (const { key } of reported) s.patch.remove(key);
      return true;
    }
    dropXattr(s, ino, hash, id);
    if (hash === ACCESS_HASH || reported.some(isAccessAcl)) restrictGroup(s, ino);
    return true;
  }
  const right = xattrNameHash(mended.name);
  const there = ofId.filter((part) => right !== hash && isUnder(part, right));
  for (const { key } of reported) s.patch.remove(key);
  // Another copy of it is where readers look.
  if (parts !== ofId && isWhole(there)) return true;
  for (const part of ofId) {
    if (parts === ofId || isUnder(part, right)) s.patch.remove(part.key);
  }
  for (const { key: { thirdBig, fourth } } of parts) {
    const from = fourth * XATTR_PART_SIZE;
    const val = mended.bytes.slice(from, from + XATTR_PART_SIZE);
    s.patch.set(Key.of(ZONE_FS, ino, TYPE_XATTR, right, thirdBig, fourth), val);
  }
  return true;
}

const isUnder = ({ key }: Part, hash: number): boolean =>
  key.secondHi === 0 && key.secondLo === hash;

/** Whether these are all parts of one attribute, and nothing else. */
function isWhole(parts: readonly Part[]): boolean {
  const sorted = inOrder(parts), head = sorted[0]?.val;
  if (head === undefined || head.length < HEADER) return false;
  const nameLen = head[2]!;
  let missing = HEADER + nameLen + viewOf(head).getUint16(0, true);
  if (nameLen < 1 || head.length < HEADER + nameLen) return false;
  for (const [i, { key, val }] of sorted.entries()) {
    if (key.fourth !== i || missing === 0) return false;
    if (val.length !== Math.min(missing, XATTR_PART_SIZE)) return false;
    missing -= val.length;
  }
  return missing === 0;
}

/**
 * The parts with the length of the name that they leave, if the hash is that of such a name, or with the
 * length of the value that they leave, if that is an ACL: one that is cut off is none.
 */
function withRightLength(parts: readonly Part[], hash: number): readonly Part[] {
  const [head, ...rest] = inOrder(parts);
  if (head === undefined || head.val.length < HEADER) return parts;
  const bytes = joined(parts), val = head.val.slice(), v = viewOf(val);
  const nameLen = bytes.length - HEADER - v.getUint16(0, true);
  if (nameLen > 0 && nameLen <= XATTR_MAX_NAME_LEN && HEADER + nameLen <= val.length) {
    if (xattrNameHash(val.subarray(HEADER, HEADER + nameLen)) === hash) val[2] = nameLen;
  }
  const end = HEADER + val[2]!, value = bytes.subarray(end);
  if (isAclXattr(val.subarray(HEADER, end)) && value.length > 0 && isAclValue(value)) {
    v.setUint16(0, value.length, true);
  }
  return [{ key: head.key, val }, ...rest];
}

function joined(parts: readonly Part[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((n, { val }) => n + val.length, 0));
  let at = 0;
  for (const { val } of inOrder(parts)) {
    bytes.set(val, at);
    at += val.length;
  }
  return bytes;
}

const inOrder = (parts: readonly Part[]): Part[] =>
  [...parts].sort((a, b) => a.key.fourth - b.key.fourth);

/** The bytes that a whole attribute should have; null if it means nothing. */
function mendedXattr(
  parts: readonly Part[],
  hash: number,
): { name: Uint8Array; bytes: Uint8Array } | null {
  const bytes = joined(parts);
  bytes.fill(0, 3, HEADER);
  const name = bytes.subarray(HEADER, HEADER + bytes[2]!);
  const value = bytes.subarray(HEADER + name.length);
  restoreName(name, hash);
  if (isAclXattr(name) && !isAclValue(value)) restoreAcl(value);
  return isPossibleXattr(name, value) ? { name, bytes } : null;
}

/** If turning one bit of a name gives it its hash, and turning one of the hash does not, it is turned. */
function restoreName(name: Uint8Array, hash: number): void {
  const wrong = (xattrNameHash(name) ^ hash) >>> 0;
  if ((wrong & wrong - 1) === 0 && isSupportedXattr(name)) return;
  for (let bit = 0; bit < 8 * name.length; bit++) {
    name[bit >>> 3]! ^= 1 << (bit & 7);
    if (xattrNameHash(name) === hash && isSupportedXattr(name)) return;
    name[bit >>> 3]! ^= 1 << (bit & 7);
  }
}

/** There is one version of ACLs, and there are three permissions. */
function restoreAcl(value: Uint8Array): void {
  if (value.length < ACL_HEADER_BYTES) return;
  const v = viewOf(value);
  v.setUint32(0, ACL_VERSION, true);
  for (let at = ACL_HEADER_BYTES; at + ACL_ENTRY_BYTES <= value.length; at += ACL_ENTRY_BYTES) {
    v.setUint16(at + 2, v.getUint16(at + 2, true) & 7, true);
  }
}

const ACCESS_HASH = xattrNameHash(XATTR_NAME_ACL_ACCESS);

const isAccessAcl = ({ key, val }: Part): boolean =>
  key.fourth === 0 && val[2] === XATTR_NAME_ACL_ACCESS.length &&
  startsWith(val, XATTR_NAME_ACL_ACCESS, HEADER);

/**
 * With an access ACL the mode has its mask where the rights of the owning group are without: these are
 * not known any more, and must not be more than they were.
 */
function restrictGroup(s: FixScope, ino: number): void {
  const inode = s.patch.peekInode(ino);
  if (inode === null || (inode.mode & S_IFMT) === S_IFLNK || (inode.mode & 0o070) === 0) return;
  if (s.range(ino, TYPE_XATTR, TYPE_XATTR).some(isAccessAcl)) return;
  s.edit(ino, (i) => i.mode &= ~0o070);
  s.notes.push(`inode ${ino}: its group lost its rights, which an access ACL that is lost decided`);
}

function dropXattr(s: FixScope, ino: number, hash: number, id: number): void {
  const parts = s.range(ino, TYPE_XATTR, TYPE_XATTR).filter(({ key }) =>
    key.secondLo === hash && Number(key.thirdBig) === id
  );
  if (parts.length === 0) return;
  for (const { key } of parts) s.patch.remove(key);
  s.notes.push(`an attribute of inode ${ino} was removed`);
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
  for (const id of ids) dropXattr(s, ino, hash, id);
  return true;
}

/** All attributes; what an access ACL decided is not to become more. */
export function removeAllXattrs(s: FixScope, ino: number): void {
  const parts = s.range(ino, TYPE_XATTR, TYPE_XATTR);
  for (const { key } of parts) s.patch.remove(key);
  if (parts.some((part) => isUnder(part, ACCESS_HASH) || isAccessAcl(part))) restrictGroup(s, ino);
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
  if (headless.some((part) => isUnder(part, ACCESS_HASH))) restrictGroup(s, ino);
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
