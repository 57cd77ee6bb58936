/** Reading and changing attributes, all but the size (02 §11.1, §11.2 step 5). */

import { INODE_FLAG_RETENTION } from "../../format/constants.ts";
import { EPERM } from "../../format/errno.ts";
import type { Inode } from "../../format/items.ts";
import { type Caller, ROOT_CALLER } from "../caller.ts";
import { errnoError } from "../errors.ts";
import type { Fs } from "../fs.ts";
import {
  gatherUpdate,
  isDir,
  lockInode,
  readInode,
  S_IFMT,
  S_ISGID,
  S_ISUID,
  S_IXGRP,
  writeInode,
} from "../inode.ts";
import type { Op } from "../op.ts";
import { gatherChmod, keepSetgid } from "./acl.ts";
import { dropCapability } from "./xattr.ts";

const ALL_PERMISSIONS = 0o7777;
/** The inode's own and its index items. */
const SETATTR_ITEMS = 5;

/** The inode's fields, valid until the run ends. ENOENT when the inode is gone. */
export function getattr(op: Op, fs: Fs, ino: number): Inode {
  return readInode(op, fs, ino).inode;
}

export interface Time {
  readonly sec: number;
  readonly nsec: number;
}

/** What a setattr changes; what is absent stays. `ctime` is now unless given. */
export interface AttrChanges {
  /** Permission bits; type bits are ignored. */
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly atime?: Time;
  readonly mtime?: Time;
  readonly ctime?: Time;
  /** The change ends set-id bits and file capabilities: chown, truncate without CAP_FSETID. */
  readonly killSuidgid?: boolean;
}

/**
 * The mode after something that ends set-id rights. S_ISGID without S_IXGRP is not such a right, but
 * it stays only for callers who could set it, as in the kernel.
 */
export function killSuidgidMode(fs: Fs, caller: Caller, mode: number, gid: number): number {
  if (isDir(mode)) return mode;
  if ((mode & S_IXGRP) !== 0) return mode & ~(S_ISUID | S_ISGID);
  return keepSetgid(fs, caller, mode & ~S_ISUID, gid);
}

/**
 * chmod, chown, utimes: one non-allocating hold. Ownership and permission were checked by the
 * kernel. EPERM with retention; EOPNOTSUPP for the mode of a symlink when ACLs are enabled.
 */
export function setattr(op: Op, fs: Fs, ino: number, changes: AttrChanges): void {
  const h = lockInode(op, fs, ino);
  if ((h.inode.flags & INODE_FLAG_RETENTION) !== 0) throw errnoError(EPERM);
  const { uid, gid, atime, mtime, ctime } = changes;
  const kill = changes.killSuidgid === true;
  const caller = op.caller ?? ROOT_CALLER;
  let mode = h.inode.mode;
  if (changes.mode !== undefined) {
    mode = (mode & S_IFMT) | (changes.mode & ALL_PERMISSIONS);
    mode = keepSetgid(fs, caller, mode, gid ?? h.inode.gid);
  }
  if (kill) mode = killSuidgidMode(fs, caller, mode, h.inode.gid);
  const acl = changes.mode === undefined ? null : gatherChmod(op, fs, h, mode);
  const capability = kill ? dropCapability(op, fs, h) : null;
  const t = gatherUpdate(op, fs, [{ h, dataSeq: false }], {
    allocating: false,
    items: SETATTR_ITEMS + (acl?.items ?? 0) + (capability?.items ?? 0),
  });

  op.apply();
  const now = fs.clock.realtime();
  const inode = h.edit();
  if (acl !== null) acl.apply(op, fs, now);
  if (capability !== null) capability.apply(op, fs, now);
  inode.mode = mode;
  if (uid !== undefined) inode.uid = uid;
  if (gid !== undefined) inode.gid = gid;
  if (atime !== undefined) inode.atime.set(atime.sec, atime.nsec);
  if (mtime !== undefined) inode.mtime.set(mtime.sec, mtime.nsec);
  const changed = ctime ?? now;
  inode.ctime.set(changed.sec, changed.nsec);
  inode.bumpVersion();
  writeInode(op, fs, h, t);
}
