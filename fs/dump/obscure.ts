/**
 * Taking what users wrote out of a dump: names of directory entries and xattrs, values of xattrs,
 * targets of symlinks. Lengths, hashes, keys and everything else stay, so that the dumped volume
 * checks exactly as the original does.
 *
 * Kept: entry names of up to 7 bytes (and some of 8), for which no other has the same hash; xattr
 * names with fewer than 5 bytes after their prefix; names under `system.`, `security.` and those
 * `scoutfs.` names that make search entries, totals or index items; values of totals and POSIX ACLs;
 * everything that is not text: inode numbers, sizes, times, owners, positions. A name's 64-bit hash
 * is kept with it, so whoever guesses a name can confirm the guess.
 *
 * Bytes of leaves that hold no value (01 §10.2) may be remains of older names: they are zeroed. So
 * are values whose keys are of no kind that the format knows.
 */

import {
  BTREE_HEADER_BYTES,
  BTREE_ITEM_BYTES,
  LEAF_ITEM_HASH_OFF,
  LG_SIZE,
  MAGIC_BTREE,
  TYPE_DATA_EXTENT,
  TYPE_DIRENT,
  TYPE_INODE,
  TYPE_LINK_BACKREF,
  TYPE_READDIR,
  TYPE_SYMLINK,
  TYPE_XATTR,
  ZONE_FS,
} from "../../format/constants.ts";
import { blockCrcOk, sealBlock } from "../../format/crc32c.ts";
import { xattrNameHash } from "../../format/hash.ts";
import { NameReplacer } from "./names.ts";

const DIRENT_BYTES = 32;
const XATTR_BYTES = 8;
const KNOWN_NAMES = 1 << 16;

const text = new TextEncoder();
const ACL_NAMES = [
  text.encode("system.posix_acl_access"),
  text.encode("system.posix_acl_default"),
] as const;
const ACL_HASHES = ACL_NAMES.map(xattrNameHash);
const FREE_PREFIXES = [text.encode("user."), text.encode("trusted.")] as const;
const SCOUTFS_PREFIX = text.encode("scoutfs.");
const TAGS = ["hide.", "srch.", "totl.", "indx."] as const;
const TAG_BYTES = 5;

export class Obscurer {
  readonly #replacer: NameReplacer;
  readonly #known = new Map<string, Uint8Array>();

  constructor(secret: Uint8Array) {
    this.#replacer = new NameReplacer(secret);
  }

  /** Obscures a block in place; only leaves of btrees change. A right crc is right afterwards. */
  block(buf: Uint8Array): void {
    const v = new DataView(buf.buffer, buf.byteOffset, LG_SIZE);
    if (v.getUint32(4, true) !== MAGIC_BTREE || v.getUint8(40) !== 0) return;
    const sound = blockCrcOk(buf);
    const most = Math.floor((LEAF_ITEM_HASH_OFF - BTREE_HEADER_BYTES) / BTREE_ITEM_BYTES);
    const nr = Math.min(v.getUint16(34, true), most);
    const itemsEnd = BTREE_HEADER_BYTES + BTREE_ITEM_BYTES * nr;
    const live = new Uint8Array(LG_SIZE);
    live.fill(1, 0, itemsEnd);
    live.fill(1, LEAF_ITEM_HASH_OFF);
    for (let item = BTREE_HEADER_BYTES; item < itemsEnd; item += BTREE_ITEM_BYTES) {
      const off = v.getUint16(item + 48, true), len = v.getUint16(item + 50, true);
      if (len === 0 || off < itemsEnd || off + len > LEAF_ITEM_HASH_OFF) continue;
      // Values overlap only in damaged blocks: what is left of the later one is wiped below.
      if (live.subarray(off, off + len).includes(1)) continue;
      this.#value(buf, v, item, off, len);
      live.fill(1, off, off + len);
    }
    for (let i = itemsEnd; i < LEAF_ITEM_HASH_OFF; i++) if (live[i] === 0) buf[i] = 0;
    if (sound) sealBlock(buf);
  }

  #value(buf: Uint8Array, v: DataView, item: number, off: number, len: number): void {
    const zone = v.getUint8(item + 33), type = v.getUint8(item + 34);
    const val = buf.subarray(off, off + len);
    if (zone !== ZONE_FS) {
      // Zones up to 60 in steps of two hold numbers only.
      if (zone < 4 || zone > 60 || zone % 2 !== 0) val.fill(0);
      return;
    }
    switch (type) {
      case TYPE_INODE:
      case TYPE_DATA_EXTENT:
        return;
      case TYPE_DIRENT:
      case TYPE_READDIR:
      case TYPE_LINK_BACKREF:
        if (len > DIRENT_BYTES) this.#entryName(val.subarray(DIRENT_BYTES));
        return;
      case TYPE_SYMLINK:
        blank(val);
        return;
      case TYPE_XATTR:
        this.#xattr(val, v.getUint32(item + 16, true), v.getUint8(item + 32));
        return;
      default:
        val.fill(0);
    }
  }

  #entryName(name: Uint8Array): void {
    const known = String.fromCharCode(...name);
    let other = this.#known.get(known);
    if (other === undefined) {
      other = this.#replacer.entryName(name).slice();
      if (this.#known.size >= KNOWN_NAMES) this.#known.clear();
      this.#known.set(known, other);
    }
    name.set(other);
  }

  #xattr(val: Uint8Array, hash: number, part: number): void {
    if (part !== 0) {
      if (!ACL_HASHES.includes(hash)) blank(val);
      return;
    }
    const nameLen = val[2] ?? 0;
    const nameEnd = XATTR_BYTES + nameLen;
    if (nameLen === 0 || nameEnd > val.length) {
      val.fill(0, XATTR_BYTES);
      return;
    }
    const name = val.subarray(XATTR_BYTES, nameEnd), rest = val.subarray(nameEnd);
    const { keep, number } = namePolicy(name);
    if (!number) blank(rest);
    if (keep < nameLen) name.set(this.#replacer.xattrName(name, keep));
  }
}

/** An x in place of all but NULs. */
function blank(val: Uint8Array): void {
  for (let i = 0; i < val.length; i++) if (val[i] !== 0) val[i] = 0x78;
}

const startsWith = (name: Uint8Array, prefix: Uint8Array): boolean =>
  name.length >= prefix.length && prefix.every((b, i) => name[i] === b);

/** How many bytes of a name are kept, and whether its value is a number or ACL that must stay. */
function namePolicy(name: Uint8Array): { keep: number; number: boolean } {
  for (const prefix of FREE_PREFIXES) {
    if (startsWith(name, prefix)) return { keep: prefix.length, number: false };
  }
  if (startsWith(name, SCOUTFS_PREFIX)) {
    const tags = new Set<string>();
    let at = SCOUTFS_PREFIX.length;
    for (;;) {
      const tag = String.fromCharCode(...name.subarray(at, at + TAG_BYTES));
      if (!TAGS.some((t) => t === tag)) break;
      tags.add(tag);
      at += TAG_BYTES;
    }
    const derived = tags.has("srch.") || tags.has("totl.") || tags.has("indx.");
    return { keep: derived ? name.length : at, number: tags.has("totl.") };
  }
  return { keep: name.length, number: ACL_NAMES.some((a) => startsWith(name, a)) };
}
