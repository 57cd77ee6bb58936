/**
 * POSIX ACLs of inodes (02 §13): ordinary xattr items that also decide permission bits. Getting and
 * setting them, inheriting them at creation, and keeping them in step with chmod.
 */

import { EINVAL, EOPNOTSUPP, EPERM } from "../../format/errno.ts";
import { xattrNameHash } from "../../format/hash.ts";
import { xattrKey } from "../../format/item_keys.ts";
import { XATTR_PART_SIZE } from "../../format/constants.ts";
import { type Caller, CAP_FOWNER, CAP_FSETID, ROOT_CALLER } from "../caller.ts";
import { CorruptError, errnoError, FsError } from "../errors.ts";
import type { Fs } from "../fs.ts";
import {
  gatherUpdate,
  type InodeHandle,
  isDir,
  isLnk,
  lockInode,
  S_ISGID,
  writeInode,
} from "../inode.ts";
import type { Op } from "../op.ts";
import {
  type Acl,
  encodeAcl,
  equivalentMode,
  inheritedAccess,
  isMinimal,
  parseAcl,
  withMode,
} from "./acl_rules.ts";
import { startsWith, XATTR_NAME_ACL_ACCESS, XATTR_NAME_ACL_DEFAULT } from "./tags.ts";
import { encodeXattr, findXattr, getRawXattr, readValue, XattrItems } from "./xattr.ts";

const PERMISSION_BITS = 0o777;
/** The inode's own and its index items. */
const ACL_ITEMS = 5;

/** `mode` with S_ISGID only if the caller may keep it: in the file's group, or CAP_FSETID. */
export function keepSetgid(fs: Fs, caller: Caller, mode: number, gid: number): number {
  if ((mode & S_ISGID) === 0) return mode;
  const { credentials } = fs;
  const may = credentials.inGroup(caller, gid) || credentials.capable(caller, CAP_FSETID);
  return may ? mode : mode & ~S_ISGID;
}

/** The ACL stored under `name` on a locked inode, or null. EIO when it cannot be one. */
function storedAcl(op: Op, fs: Fs, h: InodeHandle, name: Uint8Array): Acl | null {
  if (h.inode.nextXattrId === 0) return null;
  const found = findXattr(op, fs, h.lock, h.ino, name, xattrNameHash(name));
  if (found === null) return null;
  const value = readValue(op, fs, h.lock, h.ino, found);
  try {
    return parseAcl(value);
  } catch (e) {
    if (e instanceof FsError) throw new CorruptError(`inode ${h.ino} has an invalid ACL`);
    throw e;
  }
}

/** The value of an ACL attribute; ENODATA, EOPNOTSUPP with `noacl`. */
export function getAcl(op: Op, fs: Fs, ino: number, name: Uint8Array): Uint8Array {
  if (!fs.options.acl) throw errnoError(EOPNOTSUPP);
  return getRawXattr(op, fs, ino, name);
}

/**
 * Sets (or with null removes) an ACL (02 §13.2). `killSgid` is the kernel's word on S_ISGID;
 * undefined: decided here. Errors: EOPNOTSUPP, EINVAL, EPERM, ENOSPC.
 */
export function setAcl(
  op: Op,
  fs: Fs,
  ino: number,
  name: Uint8Array,
  value: Uint8Array | null,
  killSgid?: boolean,
): void {
  if (!fs.options.acl) throw errnoError(EOPNOTSUPP);
  const acl = value === null ? null : parseAcl(value);
  const h = lockInode(op, fs, ino);
  const mode = h.inode.mode;
  if (isLnk(mode)) throw errnoError(EOPNOTSUPP);
  const caller = op.caller ?? ROOT_CALLER;
  if (caller.uid !== h.inode.uid && !fs.credentials.capable(caller, CAP_FOWNER)) {
    throw errnoError(EPERM);
  }
  let store = acl;
  let newMode = mode;
  if (startsWith(name, XATTR_NAME_ACL_ACCESS)) {
    if (acl !== null) {
      newMode = (mode & ~PERMISSION_BITS) | equivalentMode(acl);
      if (killSgid === undefined) newMode = keepSetgid(fs, caller, newMode, h.inode.gid);
      else if (killSgid) newMode &= ~S_ISGID;
      if (isMinimal(acl)) store = null;
    }
  } else if (!isDir(mode)) {
    if (acl !== null) throw errnoError(EINVAL);
    return;
  }
  const items = gatherAcl(op, fs, h, name, store);
  const t = gatherUpdate(op, fs, [{ h, dataSeq: false }], {
    allocating: true,
    items: ACL_ITEMS + (items?.items ?? 0),
  });

  op.apply();
  const now = fs.clock.realtime();
  const inode = h.edit();
  if (items !== null) items.apply(op, fs, now);
  else if (newMode !== mode) {
    inode.ctime.set(now.sec, now.nsec);
    inode.bumpVersion();
  }
  inode.mode = newMode;
  writeInode(op, fs, h, t);
}

/** Gathers storing `acl`, or removing what is stored when it is null; null: nothing to do. */
function gatherAcl(
  op: Op,
  fs: Fs,
  h: InodeHandle,
  name: Uint8Array,
  acl: Acl | null,
): XattrItems | null {
  const hash = xattrNameHash(name);
  const found = findXattr(op, fs, h.lock, h.ino, name, hash);
  if (acl === null && found === null) return null;
  const whole = acl === null ? null : encodeXattr(name, encodeAcl(acl));
  return XattrItems.gather(op, fs, h, hash, found, whole);
}

/**
 * Gathers what chmod to `mode` does to the access ACL (02 §13.4); null without one. `apply` in the
 * hold of the mode change. EOPNOTSUPP for symlinks.
 */
export function gatherChmod(op: Op, fs: Fs, h: InodeHandle, mode: number): XattrItems | null {
  if (!fs.options.acl) return null;
  if (isLnk(h.inode.mode)) throw errnoError(EOPNOTSUPP);
  const acl = storedAcl(op, fs, h, XATTR_NAME_ACL_ACCESS);
  return acl === null ? null : gatherAcl(op, fs, h, XATTR_NAME_ACL_ACCESS, withMode(acl, mode));
}

/** What a new inode gets from its directory: its final mode, and ACLs in the order of their ids. */
export interface InheritedAcl {
  readonly mode: number;
  readonly xattrs: readonly { readonly hash: number; readonly whole: Uint8Array }[];
  /** Items that these are stored in. */
  readonly items: number;
}

const NONE: InheritedAcl["xattrs"] = [];

/** Nothing inherited, the mode as asked for. */
export const noAcl = (mode: number): InheritedAcl => ({ mode, xattrs: NONE, items: 0 });

/** 02 §13.3, for anything but symlinks: the default ACL of `parent`, or else the umask. */
export function inheritAcl(
  op: Op,
  fs: Fs,
  parent: InodeHandle,
  mode: number,
  gid: number,
  caller: Caller,
): InheritedAcl {
  const acl = fs.options.acl ? storedAcl(op, fs, parent, XATTR_NAME_ACL_DEFAULT) : null;
  if (acl === null) return noAcl(mode & ~(caller.umask & PERMISSION_BITS));
  const xattrs: { hash: number; whole: Uint8Array }[] = [];
  const add = (name: Uint8Array, a: Acl): void => {
    xattrs.push({ hash: xattrNameHash(name), whole: encodeXattr(name, encodeAcl(a)) });
  };
  if (isDir(mode)) add(XATTR_NAME_ACL_DEFAULT, acl);
  const access = inheritedAccess(acl, mode);
  mode = (mode & ~PERMISSION_BITS) | equivalentMode(access);
  if (!isMinimal(access)) {
    add(XATTR_NAME_ACL_ACCESS, access);
    mode = keepSetgid(fs, caller, mode, gid);
  }
  const items = xattrs.reduce((n, x) => n + Math.ceil(x.whole.length / XATTR_PART_SIZE), 0);
  return { mode, xattrs, items };
}

/** Apply: the inherited ACLs as the first xattrs of a new inode, which is not yet stored. */
export function storeInheritedAcl(op: Op, fs: Fs, h: InodeHandle, acl: InheritedAcl): void {
  let id = 0;
  for (const { hash, whole } of acl.xattrs) {
    for (let part = 0; part * XATTR_PART_SIZE < whole.length; part++) {
      const val = whole.subarray(part * XATTR_PART_SIZE, (part + 1) * XATTR_PART_SIZE);
      fs.items.create(op, h.lock, xattrKey(h.ino, hash, id, part), val);
    }
    id++;
  }
  h.inode.nextXattrId = id;
}
