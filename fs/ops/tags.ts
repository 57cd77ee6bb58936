/**
 * What the name of an extended attribute says: its namespace, its tags, and the numbers at its end
 * (02 §12.1, §12.4, §12.6, §12.7). Names and values are bytes; nothing here touches items.
 */

const ascii = (s: string): Uint8Array => new TextEncoder().encode(s);

const USER = ascii("user.");
const TRUSTED = ascii("trusted.");
const SECURITY = ascii("security.");
const SCOUTFS = ascii("scoutfs.");
const TAG_BYTES = 5;
/** `scoutfs.` and one tag are 13 bytes; shorter than this is never parsed. */
const MIN_TAGGED_BYTES = 14;
/** The longest text of one number. */
const MAX_NUMBER_BYTES = 23;
const MAX_INDX_MAJOR = 255;
const U64_MAX = 0xffff_ffff_ffff_ffffn;

const DOT = 0x2e;

export const XATTR_NAME_ACL_ACCESS = ascii("system.posix_acl_access");
export const XATTR_NAME_ACL_DEFAULT = ascii("system.posix_acl_default");
export const XATTR_NAME_CAPABILITY = ascii("security.capability");

export const TAG_HIDE = 1;
export const TAG_INDX = 2;
export const TAG_SRCH = 4;
export const TAG_TOTL = 8;

const TAGS: readonly (readonly [Uint8Array, number])[] = [
  [ascii("hide."), TAG_HIDE],
  [ascii("indx."), TAG_INDX],
  [ascii("srch."), TAG_SRCH],
  [ascii("totl."), TAG_TOTL],
];

export function startsWith(name: Uint8Array, prefix: Uint8Array, at = 0): boolean {
  if (name.length < at + prefix.length) return false;
  for (let i = 0; i < prefix.length; i++) {
    if (name[at + i] !== prefix[i]) return false;
  }
  return true;
}

function equals(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && startsWith(a, b);
}

export const isUserXattr = (name: Uint8Array): boolean => startsWith(name, USER);

export const isAclXattr = (name: Uint8Array): boolean =>
  equals(name, XATTR_NAME_ACL_ACCESS) || equals(name, XATTR_NAME_ACL_DEFAULT);

/** May an attribute be called so? Otherwise EOPNOTSUPP (02 §12.1). */
export function isSupportedXattr(name: Uint8Array): boolean {
  return startsWith(name, USER) || startsWith(name, TRUSTED) || startsWith(name, SECURITY) ||
    startsWith(name, SCOUTFS) || isAclXattr(name);
}

/**
 * The tags of a name as a mask of TAG_*, 0 for an ordinary attribute, or -1 when the name begins
 * with `scoutfs.` but is malformed (EINVAL).
 */
export function parseTags(name: Uint8Array): number {
  if (name.length < MIN_TAGGED_BYTES || !startsWith(name, SCOUTFS)) return 0;
  let mask = 0;
  next:
  for (let at = SCOUTFS.length;; at += TAG_BYTES) {
    for (const [text, tag] of TAGS) {
      if (!startsWith(name, text, at)) continue;
      if ((mask & tag) !== 0) return -1;
      mask |= tag;
      continue next;
    }
    return mask === 0 ? -1 : mask;
  }
}

function digit(byte: number): number {
  if (byte >= 0x30 && byte <= 0x39) return byte - 0x30;
  if (byte >= 0x61 && byte <= 0x66) return byte - 0x61 + 10;
  if (byte >= 0x41 && byte <= 0x46) return byte - 0x41 + 10;
  return 99;
}

/**
 * The unsigned 64-bit number that `text` spells, or null (02 §12.6): 1 to 23 bytes, C prefixes, no
 * sign or space. An embedded NUL ends it, and one newline just before that NUL is tolerated.
 */
export function parseNumber(text: Uint8Array): bigint | null {
  if (text.length < 1 || text.length > MAX_NUMBER_BYTES) return null;
  let end = text.indexOf(0);
  if (end < 0) end = text.length;
  else if (end > 0 && text[end - 1] === 0x0a) end--;
  let at = 0;
  let base = 10;
  if (text[0] === 0x30 && end > 1) {
    if ((text[1] | 0x20) === 0x78 && end > 2 && digit(text[2]) < 16) {
      base = 16;
      at = 2;
    } else {
      base = 8;
      at = 1;
    }
  }
  if (at >= end) return null;
  let value = 0n;
  for (; at < end; at++) {
    const d = digit(text[at]);
    if (d >= base) return null;
    value = value * BigInt(base) + BigInt(d);
    if (value > U64_MAX) return null;
  }
  return value;
}

/** The last `count` dot-separated numbers of a name, in its order, or null. */
function trailingNumbers(name: Uint8Array, count: number): bigint[] | null {
  const numbers: bigint[] = [];
  let end = name.length;
  for (let i = 0; i < count; i++) {
    const dot = end > 0 ? name.lastIndexOf(DOT, end - 1) : -1;
    if (dot < 0) return null;
    const value = parseNumber(name.subarray(dot + 1, end));
    if (value === null) return null;
    numbers.unshift(value);
    end = dot;
  }
  return numbers;
}

export interface TotlName {
  readonly a: bigint;
  readonly b: bigint;
  readonly c: bigint;
}

/** The total that a name with the totl tag adds to, or null (EINVAL). */
export function parseTotlName(name: Uint8Array): TotlName | null {
  const n = trailingNumbers(name, 3);
  return n === null ? null : { a: n[0], b: n[1], c: n[2] };
}

export interface IndxName {
  readonly major: number;
  readonly minor: bigint;
}

/** The position that a name with the indx tag stands for, or null (EINVAL). */
export function parseIndxName(name: Uint8Array): IndxName | null {
  const n = trailingNumbers(name, 2);
  if (n === null || n[0] > BigInt(MAX_INDX_MAJOR)) return null;
  return { major: Number(n[0]), minor: n[1] };
}
