/**
 * Extended attributes (02 §12): one attribute is the bytes {header, name, value} cut into parts of
 * 896; tags in `scoutfs.` names make the same hold change totals, the xattr index and the search
 * log. The two ACL attributes have rules of their own, in acl.ts.
 *
 * Invariants: an attribute's parts are 0 … n−1 without gaps, each but the last 896 bytes; its id is
 * below the inode's next_xattr_id, unique in the inode, kept while the value changes.
 */

import {
  INODE_FLAG_RETENTION,
  TYPE_XATTR,
  XATTR_MAX_NAME_LEN,
  XATTR_MAX_VAL_LEN,
  XATTR_PART_SIZE,
  ZONE_FS,
} from "../../format/constants.ts";
import { E2BIG, EEXIST, EINVAL, ENODATA, EOPNOTSUPP, EPERM, ERANGE } from "../../format/errno.ts";
import { srchNameHash, xattrNameHash } from "../../format/hash.ts";
import { lastInodeKey, xattrIndxKey, xattrKey, xattrTotlKey } from "../../format/item_keys.ts";
import { Xattr } from "../../format/items.ts";
import { Key } from "../../format/key.ts";
import { LOCK_READ, LOCK_WRITE_ONLY } from "../../format/wire.ts";
import { CAP_SYS_ADMIN, ROOT_CALLER } from "../caller.ts";
import { CorruptError, errnoError } from "../errors.ts";
import type { Fs } from "../fs.ts";
import { gatherUpdate, type InodeHandle, lockInode, writeInode } from "../inode.ts";
import type { Item } from "../item.ts";
import type { ClusterLock } from "../lock_client.ts";
import type { Op } from "../op.ts";
import { getAcl, setAcl } from "./acl.ts";
import {
  isAclXattr,
  isSupportedXattr,
  isUserXattr,
  parseIndxName,
  parseNumber,
  parseTags,
  parseTotlName,
  TAG_HIDE,
  TAG_INDX,
  TAG_SRCH,
  TAG_TOTL,
  XATTR_NAME_CAPABILITY,
} from "./tags.ts";

/** setxattr's flags. */
export const XATTR_CREATE = 1;
export const XATTR_REPLACE = 2;

const EMPTY = new Uint8Array(0);
const U32_MAX = 0xffff_ffff;
const LAST_PART = 255;
/** Beside the parts: the inode's own and its index items, a total or xattr index item. */
const XATTR_ITEMS = 6;

/** How many parts an attribute of `bytes` (header, name and value) has. */
const partsOf = (bytes: number): number => Math.ceil(bytes / XATTR_PART_SIZE);

/** The greatest key of any attribute of `ino` with that name hash. */
function lastOfHash(ino: number, hash: number): Key {
  const { firstHi, firstLo } = xattrKey(ino, hash, 0, 0);
  return Key.words(ZONE_FS, firstHi, firstLo, TYPE_XATTR, 0, hash, U32_MAX, U32_MAX, LAST_PART);
}

/** An attribute found by its part 0; windows are valid until the run ends. */
export interface FoundXattr {
  readonly hash: number;
  readonly id: number;
  readonly name: Uint8Array;
  /** Header, name and value together. */
  readonly bytes: number;
  readonly valLen: number;
  /** The bytes of part 0. */
  readonly head: Uint8Array;
}

/** Checks what a search position led to: a part 0 with header and whole name (02 §12.2). */
export function readHead(item: Item): FoundXattr {
  const { key, val } = item;
  if (key.fourth !== 0) throw new CorruptError(`xattr part ${key} without a part 0`);
  if (key.secondHi !== 0) throw new CorruptError(`xattr ${key} has a hash of more than 32 bits`);
  if (val.length < Xattr.SIZE) throw new CorruptError(`xattr ${key} of ${val.length} bytes`);
  const { nameLen, valLen } = Xattr.at(val);
  const bytes = Xattr.SIZE + nameLen + valLen;
  if (nameLen === 0 || val.length !== Math.min(bytes, XATTR_PART_SIZE)) {
    throw new CorruptError(`xattr ${key} of ${val.length} bytes has lengths ${nameLen}, ${valLen}`);
  }
  return {
    hash: key.secondLo,
    id: key.third,
    name: val.subarray(Xattr.SIZE, Xattr.SIZE + nameLen),
    bytes,
    valLen,
    head: val,
  };
}

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

/** The attribute called `name`, or null: then every key of its hash is known not to exist. */
export function findXattr(
  op: Op,
  fs: Fs,
  lock: ClusterLock,
  ino: number,
  name: Uint8Array,
  hash: number,
): FoundXattr | null {
  const last = lastOfHash(ino, hash);
  let key = xattrKey(ino, hash, 0, 0);
  for (;;) {
    const item = fs.items.next(op, lock, key, last);
    if (item === null) return null;
    const found = readHead(item);
    if (sameBytes(found.name, name)) return found;
    key = xattrKey(ino, hash, found.id, LAST_PART).inc();
  }
}

/** The value, put together from all parts: a copy. */
export function readValue(
  op: Op,
  fs: Fs,
  lock: ClusterLock,
  ino: number,
  found: FoundXattr,
): Uint8Array {
  const whole = new Uint8Array(found.bytes);
  whole.set(found.head);
  for (let part = 1, at = XATTR_PART_SIZE; at < found.bytes; part++, at += XATTR_PART_SIZE) {
    whole.set(readPart(op, fs, lock, ino, found, part), at);
  }
  return whole.subarray(found.bytes - found.valLen);
}

function readPart(
  op: Op,
  fs: Fs,
  lock: ClusterLock,
  ino: number,
  found: FoundXattr,
  part: number,
): Uint8Array {
  const key = xattrKey(ino, found.hash, found.id, part);
  const item = fs.items.lookup(op, lock, key);
  const length = Math.min(XATTR_PART_SIZE, found.bytes - part * XATTR_PART_SIZE);
  if (item === null || item.val.length !== length) {
    throw new CorruptError(`xattr part ${key} must have ${length} bytes`);
  }
  return item.val;
}

/** The value of attribute `name`: a copy. ENODATA, EOPNOTSUPP (namespace). */
export function getXattr(op: Op, fs: Fs, ino: number, name: Uint8Array): Uint8Array {
  if (!isSupportedXattr(name)) throw errnoError(EOPNOTSUPP);
  if (name.length > XATTR_MAX_NAME_LEN) throw errnoError(ENODATA);
  if (isAclXattr(name)) return getAcl(op, fs, ino, name);
  return getRawXattr(op, fs, ino, name);
}

/** As `getXattr`, without the rules of ACLs. */
export function getRawXattr(op: Op, fs: Fs, ino: number, name: Uint8Array): Uint8Array {
  const lock = fs.locks.inode(ino);
  op.lock(lock, LOCK_READ);
  const found = findXattr(op, fs, lock, ino, name, xattrNameHash(name));
  if (found === null) throw errnoError(ENODATA);
  return readValue(op, fs, lock, ino, found);
}

/**
 * Visits the attributes of `ino` from (`hash`, `id`) on, in that order, until `visit` returns false;
 * `hidden`: has the name the hide tag?
 */
export function visitXattrs(
  op: Op,
  fs: Fs,
  ino: number,
  hash: number,
  id: number,
  visit: (found: FoundXattr, hidden: boolean) => boolean,
): void {
  const lock = fs.locks.inode(ino);
  op.lock(lock, LOCK_READ);
  const last = lastInodeKey(ino, TYPE_XATTR);
  let key = xattrKey(ino, hash, id, 0);
  for (;;) {
    const item = fs.items.next(op, lock, key, last);
    if (item === null) return;
    const found = readHead(item);
    const tags = parseTags(found.name);
    if (!visit(found, tags > 0 && (tags & TAG_HIDE) !== 0)) return;
    key = xattrKey(ino, found.hash, found.id, LAST_PART).inc();
  }
}

/** All names without the hide tag, each with a NUL (02 §12.3). */
export function listXattr(op: Op, fs: Fs, ino: number): Uint8Array {
  const names: Uint8Array[] = [];
  let bytes = 0;
  visitXattrs(op, fs, ino, 0, 0, (found, hidden) => {
    if (!hidden) {
      names.push(found.name);
      bytes += found.name.length + 1;
    }
    return true;
  });
  const list = new Uint8Array(bytes);
  let at = 0;
  for (const name of names) {
    list.set(name, at);
    at += name.length + 1;
  }
  return list;
}

/** Header, name and value in one buffer, as it is cut into parts. */
export function encodeXattr(name: Uint8Array, value: Uint8Array): Uint8Array {
  const whole = new Uint8Array(Xattr.SIZE + name.length + value.length);
  const header = Xattr.at(whole);
  header.valLen = value.length;
  header.nameLen = name.length;
  whole.set(name, Xattr.SIZE);
  whole.set(value, Xattr.SIZE + name.length);
  return whole;
}

/**
 * One attribute's items about to change: gathered completely, applied without failing. `whole` null
 * removes it.
 */
export class XattrItems {
  private constructor(
    private readonly h: InodeHandle,
    private readonly hash: number,
    readonly id: number,
    /** Parts there are now; 0 for a new attribute. */
    private readonly oldParts: number,
    private readonly whole: Uint8Array | null,
  ) {}

  get isNew(): boolean {
    return this.oldParts === 0;
  }

  /** Items that `apply` changes. */
  get items(): number {
    return Math.max(this.oldParts, partsOf(this.whole?.length ?? 0));
  }

  /** Makes sure that every item it will touch is in memory and as it should be. */
  static gather(
    op: Op,
    fs: Fs,
    h: InodeHandle,
    hash: number,
    found: FoundXattr | null,
    whole: Uint8Array | null,
  ): XattrItems {
    const id = found === null ? h.inode.nextXattrId : found.id;
    const parts = found === null ? 0 : partsOf(found.bytes);
    for (let part = 1; part < parts; part++) readPart(op, fs, h.lock, h.ino, found!, part);
    const beyond = xattrKey(h.ino, hash, id, parts);
    const last = xattrKey(h.ino, hash, id, LAST_PART);
    if (fs.items.next(op, h.lock, beyond, last) !== null) {
      throw new CorruptError(`xattr part ${beyond} or later exists, which cannot be`);
    }
    return new XattrItems(h, hash, id, parts, whole);
  }

  /** Writes the items, and next_xattr_id, ctime and version of the inode, which is not yet stored. */
  apply(op: Op, fs: Fs, now: { sec: number; nsec: number }): void {
    const { h, hash, id, oldParts } = this;
    const inode = h.edit();
    const bytes = this.whole ?? EMPTY;
    const parts = partsOf(bytes.length);
    for (let part = 0; part < parts; part++) {
      const val = bytes.subarray(part * XATTR_PART_SIZE, (part + 1) * XATTR_PART_SIZE);
      const key = xattrKey(h.ino, hash, id, part);
      if (part < oldParts) fs.items.update(op, h.lock, key, val);
      else fs.items.create(op, h.lock, key, val);
    }
    for (let part = parts; part < oldParts; part++) {
      fs.items.delete(op, h.lock, xattrKey(h.ino, hash, id, part));
    }
    if (this.isNew) inode.nextXattrId = id + 1;
    inode.ctime.set(now.sec, now.nsec);
    inode.bumpVersion();
  }
}

/**
 * Sets attribute `name` (02 §12.5). `flags` XATTR_CREATE or XATTR_REPLACE; `aclKillSgid` is what the
 * kernel said of S_ISGID when it is an access ACL, undefined if it said nothing. Errors: EOPNOTSUPP,
 * EINVAL, ERANGE, E2BIG, EPERM, ENODATA, EEXIST, ENOSPC.
 */
export function setXattr(
  op: Op,
  fs: Fs,
  ino: number,
  name: Uint8Array,
  value: Uint8Array,
  flags: number,
  aclKillSgid?: boolean,
): void {
  if (!isSupportedXattr(name)) throw errnoError(EOPNOTSUPP);
  if (isAclXattr(name)) setAcl(op, fs, ino, name, value, aclKillSgid);
  else changeXattr(op, fs, ino, name, value, flags);
}

/** Removes attribute `name`: ENODATA when there is none; otherwise as `setXattr`. */
export function removeXattr(op: Op, fs: Fs, ino: number, name: Uint8Array): void {
  if (!isSupportedXattr(name)) throw errnoError(EOPNOTSUPP);
  if (isAclXattr(name)) setAcl(op, fs, ino, name, null);
  else changeXattr(op, fs, ino, name, null, XATTR_REPLACE);
}

function changeXattr(
  op: Op,
  fs: Fs,
  ino: number,
  name: Uint8Array,
  value: Uint8Array | null,
  flags: number,
): void {
  const tags = parseTags(name);
  if (tags < 0) throw errnoError(EINVAL);
  const totl = (tags & TAG_TOTL) !== 0;
  const indx = (tags & TAG_INDX) !== 0;
  const h = lockInode(op, fs, ino);
  if (totl) op.lock(fs.locks.totl(), LOCK_WRITE_ONLY);
  else if (indx) op.lock(fs.locks.indx(), LOCK_WRITE_ONLY);

  const storable = name.length <= XATTR_MAX_NAME_LEN &&
    (value === null || value.length <= XATTR_MAX_VAL_LEN);
  const hash = xattrNameHash(name);
  const found = storable ? findXattr(op, fs, h.lock, ino, name, hash) : null;
  const whole = storable && value !== null ? encodeXattr(name, value) : null;
  const items = XattrItems.gather(op, fs, h, hash, found, whole);
  const oldValue = found !== null && totl ? readValue(op, fs, h.lock, ino, found) : EMPTY;
  const t = gatherUpdate(op, fs, [{ h, dataSeq: false }], {
    allocating: true,
    items: XATTR_ITEMS + items.items,
  });

  // The order of these checks is that of 02 §12.5.
  if (totl && indx) throw errnoError(EINVAL);
  if (name.length > XATTR_MAX_NAME_LEN) throw errnoError(ERANGE);
  if (value !== null && value.length > XATTR_MAX_VAL_LEN) throw errnoError(E2BIG);
  if (flags !== 0 && flags !== XATTR_CREATE && flags !== XATTR_REPLACE) throw errnoError(EINVAL);
  if (tags !== 0 && !fs.credentials.capable(op.caller ?? ROOT_CALLER, CAP_SYS_ADMIN)) {
    throw errnoError(EPERM);
  }
  const total = totl ? parseTotlName(name) : null;
  if (totl && total === null) throw errnoError(EINVAL);
  if (indx && fs.fmtVers < 2) throw errnoError(EOPNOTSUPP);
  const position = indx ? parseIndxName(name) : null;
  if (indx && position === null) throw errnoError(EINVAL);
  if ((h.inode.flags & INODE_FLAG_RETENTION) !== 0 && isUserXattr(name)) throw errnoError(EPERM);
  if (flags === XATTR_REPLACE && found === null) throw errnoError(ENODATA);
  if (flags === XATTR_CREATE && found !== null) throw errnoError(EEXIST);
  let nothing = value === null && found === null;
  let oldNumber: bigint | null = 0n;
  let newNumber: bigint | null = 0n;
  if (!nothing) {
    if (totl && found !== null) oldNumber = parseNumber(oldValue);
    if (oldNumber === null) throw errnoError(EINVAL);
    if (indx && value !== null && value.length > 0) throw errnoError(EINVAL);
    nothing = indx && value !== null && found !== null;
    if (totl && value !== null) newNumber = parseNumber(value);
    if (newNumber === null) throw errnoError(EINVAL);
  }

  op.apply();
  h.edit();
  if (!nothing) {
    items.apply(op, fs, fs.clock.realtime());
    const appeared = found === null;
    const changed = appeared || value === null;
    if (total !== null) {
      const count = changed ? (appeared ? 1n : -1n) : 0n;
      const by = BigInt.asUintN(64, newNumber - oldNumber);
      addToTotal(op, fs, xattrTotlKey(total.a, total.b, total.c), by, count);
    }
    if (position !== null) {
      const key = xattrIndxKey(position.major, position.minor, ino, items.id);
      if (appeared) fs.items.createForce(op, fs.locks.indx(), key, EMPTY, h.lock);
      else fs.items.deleteForce(op, fs.locks.indx(), key, h.lock);
    }
    if (changed && (tags & TAG_SRCH) !== 0) {
      fs.trans.appendSrch(op, srchNameHash(name), ino, items.id);
    }
  }
  writeInode(op, fs, h, t);
}

/** Adds a difference to a total (02 §12.6); nothing is written for a difference of nothing. */
function addToTotal(op: Op, fs: Fs, key: Key, total: bigint, count: bigint): void {
  if (total !== 0n || count !== 0n) fs.items.delta(op, fs.locks.totl(), key, total, count);
}

/**
 * Gather: security.capability of an inode that is about to be written or to change owner, which
 * must lose it; null when it has none. `apply` the result in the same hold.
 */
export function dropCapability(op: Op, fs: Fs, h: InodeHandle): XattrItems | null {
  if (h.inode.nextXattrId === 0) return null;
  const hash = xattrNameHash(XATTR_NAME_CAPABILITY);
  const found = findXattr(op, fs, h.lock, h.ino, XATTR_NAME_CAPABILITY, hash);
  return found === null ? null : XattrItems.gather(op, fs, h, hash, found, null);
}

/**
 * Undoes what an attribute's tags did, when its inode is deleted (02 §6.4 step 2): locks and checks
 * while gathering, the returned function in apply. EIO when a total's value is not a number.
 */
export function gatherTagRemoval(
  op: Op,
  fs: Fs,
  h: InodeHandle,
  found: FoundXattr,
): (() => void) | null {
  const tags = parseTags(found.name);
  if (tags <= 0) return null;
  const name = found.name.slice();
  const { id } = found;
  const total = (tags & TAG_TOTL) !== 0 ? parseTotlName(name) : null;
  const position = (tags & TAG_INDX) !== 0 ? parseIndxName(name) : null;
  let value: bigint | null = 0n;
  if (total !== null) {
    op.lock(fs.locks.totl(), LOCK_WRITE_ONLY);
    value = parseNumber(found.head.subarray(Xattr.SIZE + name.length));
    if (value === null) {
      throw new CorruptError(`inode ${h.ino}: the value of an attribute with a total is no number`);
    }
  }
  if (position !== null) op.lock(fs.locks.indx(), LOCK_WRITE_ONLY);
  const minus = BigInt.asUintN(64, -value);
  return () => {
    if ((tags & TAG_SRCH) !== 0) fs.trans.appendSrch(op, srchNameHash(name), h.ino, id);
    if (total !== null) {
      addToTotal(op, fs, xattrTotlKey(total.a, total.b, total.c), minus, -1n);
    }
    if (position !== null) {
      const key = xattrIndxKey(position.major, position.minor, h.ino, id);
      fs.items.deleteForce(op, fs.locks.indx(), key, h.lock);
    }
  };
}
