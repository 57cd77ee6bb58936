/**
 * POSIX access control lists as values: the stored encoding and the arithmetic between lists and
 * permission bits (02 §13). Pure; the operations are in acl.ts.
 *
 * A valid list is ordered USER_OBJ, USER…, GROUP_OBJ, GROUP…, MASK, OTHER, has the three base
 * entries exactly once, and has MASK if it has any USER or GROUP.
 */

import { EINVAL, EOPNOTSUPP } from "../../format/errno.ts";
import { errnoError } from "../errors.ts";

export const ACL_VERSION = 2;
export const ACL_HEADER_BYTES = 4;
export const ACL_ENTRY_BYTES = 8;
const UNDEFINED_ID = 0xffff_ffff;

export const ACL_USER_OBJ = 1;
export const ACL_USER = 2;
export const ACL_GROUP_OBJ = 4;
export const ACL_GROUP = 8;
export const ACL_MASK = 16;
export const ACL_OTHER = 32;

export interface AclEntry {
  readonly tag: number;
  readonly perm: number;
  /** The user or group of USER and GROUP entries. */
  readonly id: number;
}

export type Acl = readonly AclEntry[];

/**
 * Parses and validates an attribute value; null for an empty list, which means removal. Throws
 * EINVAL, and EOPNOTSUPP for another version.
 */
export function parseAcl(value: Uint8Array): Acl | null {
  if (value.length === 0) return null;
  if (value.length < ACL_HEADER_BYTES) throw errnoError(EINVAL);
  const v = new DataView(value.buffer, value.byteOffset, value.byteLength);
  if (v.getUint32(0, true) !== ACL_VERSION) throw errnoError(EOPNOTSUPP);
  if ((value.length - ACL_HEADER_BYTES) % ACL_ENTRY_BYTES !== 0) throw errnoError(EINVAL);
  if (value.length === ACL_HEADER_BYTES) return null;
  const acl: AclEntry[] = [];
  for (let at = ACL_HEADER_BYTES; at < value.length; at += ACL_ENTRY_BYTES) {
    const tag = v.getUint16(at, true);
    const named = tag === ACL_USER || tag === ACL_GROUP;
    acl.push({
      tag,
      perm: v.getUint16(at + 2, true),
      id: named ? v.getUint32(at + 4, true) : UNDEFINED_ID,
    });
  }
  if (!isValidAcl(acl)) throw errnoError(EINVAL);
  return acl;
}

function isValidAcl(acl: Acl): boolean {
  let i = 0;
  let named = 0;
  const one = (tag: number): boolean => i < acl.length && acl[i].tag === tag && ++i > 0;
  const many = (tag: number): void => {
    while (one(tag)) named++;
  };
  for (const e of acl) {
    if (e.perm > 7) return false;
    if ((e.tag === ACL_USER || e.tag === ACL_GROUP) && e.id === UNDEFINED_ID) return false;
  }
  if (!one(ACL_USER_OBJ)) return false;
  many(ACL_USER);
  if (!one(ACL_GROUP_OBJ)) return false;
  many(ACL_GROUP);
  if (!one(ACL_MASK) && named > 0) return false;
  return one(ACL_OTHER) && i === acl.length;
}

export function encodeAcl(acl: Acl): Uint8Array {
  const value = new Uint8Array(ACL_HEADER_BYTES + acl.length * ACL_ENTRY_BYTES);
  const v = new DataView(value.buffer);
  v.setUint32(0, ACL_VERSION, true);
  acl.forEach((e, i) => {
    const at = ACL_HEADER_BYTES + i * ACL_ENTRY_BYTES;
    v.setUint16(at, e.tag, true);
    v.setUint16(at + 2, e.perm, true);
    v.setUint32(at + 4, e.id, true);
  });
  return value;
}

const hasMask = (acl: Acl): boolean => acl.some((e) => e.tag === ACL_MASK);

/** Does the list say no more than permission bits can? Then nothing needs storing. */
export const isMinimal = (acl: Acl): boolean => acl.length === 3;

/** The place in the mode of the bits that `tag` stands for, or -1: shared by all rules below. */
function modeShift(tag: number, masked: boolean): number {
  switch (tag) {
    case ACL_USER_OBJ:
      return 6;
    case ACL_GROUP_OBJ:
      return masked ? -1 : 3;
    case ACL_MASK:
      return 3;
    case ACL_OTHER:
      return 0;
    default:
      return -1;
  }
}

/** The nine permission bits equivalent to the list (02 §13.2). */
export function equivalentMode(acl: Acl): number {
  const masked = hasMask(acl);
  let bits = 0;
  for (const e of acl) {
    const shift = modeShift(e.tag, masked);
    if (shift >= 0) bits |= e.perm << shift;
  }
  return bits;
}

/** chmod: the list with the permission bits of `mode` put into it (02 §13.4). */
export function withMode(acl: Acl, mode: number): Acl {
  const masked = hasMask(acl);
  return acl.map((e) => {
    const shift = modeShift(e.tag, masked);
    return shift < 0 ? e : { ...e, perm: (mode >> shift) & 7 };
  });
}

/**
 * The access list of an inode created with `mode` below a directory with default list `acl`: only
 * what both allow (02 §13.3). The new permission bits are its `equivalentMode`.
 */
export function inheritedAccess(acl: Acl, mode: number): Acl {
  const masked = hasMask(acl);
  return acl.map((e) => {
    const shift = modeShift(e.tag, masked);
    return shift < 0 ? e : { ...e, perm: e.perm & (mode >> shift) };
  });
}
