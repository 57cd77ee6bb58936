/**
 * rename (02 §9). One hold: after a crash either the old or the new state exists, and a name that
 * is replaced never disappears. The rename lock makes moves between directories wait for each
 * other anywhere in the cluster, so that two of them cannot make a loop together.
 */

import { INODE_FLAG_RETENTION, LINK_MAX, ROOT_INO } from "../../format/constants.ts";
import { EEXIST, EINVAL, EISDIR, EMLINK, ENOENT, ENOTDIR, EPERM } from "../../format/errno.ts";
import { direntHash } from "../../format/hash.ts";
import { Inode } from "../../format/items.ts";
import { LOCK_WRITE } from "../../format/wire.ts";
import { errnoError } from "../errors.ts";
import type { Fs } from "../fs.ts";
import {
  direntType,
  gatherUpdate,
  type InodeHandle,
  type InodeUpdate,
  writeInode,
} from "../inode.ts";
import type { Op } from "../op.ts";
import { addLink, checkName, findEntry, gatherAddLink, removeLink } from "./entries.ts";
import {
  becomeOrphan,
  gatherOrphan,
  gatherRemoval,
  isLastLink,
  linkedInode,
  lockDirectory,
  lookupParent,
  newLink,
  refuseFull,
} from "./names.ts";
import { LoopCheck } from "./paths.ts";

/** renameat2's flags. */
export const RENAME_NOREPLACE = 1;

/** Upper bound of the items changed: four inodes with their index items, three links, an orphan. */
const RENAME_ITEMS = 30;

/**
 * Moves `name` of `oldDir` to `newName` of `newDir`. Errors: EINVAL (other flags than NOREPLACE, a
 * directory below itself or over one that holds it), ENOENT, ENOTEMPTY, EEXIST (NOREPLACE), EISDIR,
 * ENOTDIR, EPERM (retention), ENAMETOOLONG, ENOSPC.
 */
export function rename(
  op: Op,
  fs: Fs,
  oldDir: number,
  name: Uint8Array,
  newDir: number,
  newName: Uint8Array,
  flags: number,
): void {
  if ((flags & ~RENAME_NOREPLACE) !== 0) throw errnoError(EINVAL);
  checkName(newName);
  checkName(name);
  const across = oldDir !== newDir;
  if (across) op.lock(fs.locks.rename(), LOCK_WRITE);

  const od = lockDirectory(op, fs, oldDir);
  const nd = across ? lockDirectory(op, fs, newDir) : od;
  const from = findEntry(op, fs, od.lock, oldDir, name, direntHash(name));
  if (from === null) throw errnoError(ENOENT);
  const newHash = direntHash(newName);
  const over = findEntry(op, fs, nd.lock, newDir, newName, newHash);
  const noReplace = (flags & RENAME_NOREPLACE) !== 0;
  if (over !== null && over.ino === from.ino) {
    // Two names of one inode, or one name: nothing changes.
    if (noReplace) throw errnoError(EEXIST);
    return;
  }
  if (across) refuseLoop(op, fs, oldDir, newDir, from.ino, over === null ? 0 : over.ino);
  const oi = linkedInode(op, fs, oldDir, from.ino, LOCK_WRITE);
  const ni = over === null ? null : linkedInode(op, fs, newDir, over.ino, LOCK_WRITE);
  if (ni !== null) {
    if (oi.isDir !== ni.isDir) throw errnoError(oi.isDir ? ENOTDIR : EISDIR);
    if (ni.isDir) refuseFull(ni);
    if (noReplace) throw errnoError(EEXIST);
  }
  refuseRetained(oi);
  if (ni !== null) refuseRetained(ni);

  if (oi.isDir && across && nd.inode.nlink >= LINK_MAX) throw errnoError(EMLINK);
  const oldLink = gatherRemoval(op, fs, od, from, oi);
  const overLink = over === null || ni === null ? null : gatherRemoval(op, fs, nd, over, ni);
  const link = newLink(nd, newHash, oi);
  gatherAddLink(op, fs, link, false);
  const last = ni !== null && isLastLink(ni);
  if (last) gatherOrphan(op, fs);
  const updates: InodeUpdate[] = [{ h: od, dataSeq: false }, { h: oi, dataSeq: false }];
  if (across) updates.push({ h: nd, dataSeq: false });
  if (ni !== null) updates.push({ h: ni, dataSeq: false });
  const t = gatherUpdate(op, fs, updates, { allocating: true, items: RENAME_ITEMS });

  op.apply();
  const { sec, nsec } = fs.clock.realtime();
  nd.edit().nextReaddirPos += 1;
  if (overLink !== null) removeLink(op, fs, overLink);
  addLink(op, fs, link, direntType(oi.inode.mode), newName);
  removeLink(op, fs, oldLink);

  od.edit().size -= name.length;
  if (ni === null) nd.inode.size += newName.length;
  else {
    const i = ni.edit();
    i.nlink -= 1;
    if (ni.isDir) {
      i.nlink -= 1;
      nd.inode.nlink -= 1;
    }
    if (last) becomeOrphan(op, fs, ni.ino, ni.lock);
  }
  if (oi.isDir && across) {
    od.inode.nlink -= 1;
    nd.inode.nlink += 1;
  }
  for (const { h } of updates) {
    const i = h.edit();
    if (h === od || h === nd) i.setTime(Inode.MTIME, sec, nsec);
    i.setTime(Inode.CTIME, sec, nsec);
    i.bumpVersion();
    writeInode(op, fs, h, t);
  }
}

function refuseRetained(h: InodeHandle): void {
  if ((h.inode.flags & INODE_FLAG_RETENTION) !== 0) throw errnoError(EPERM);
}

/**
 * The ancestry check of 02 §9: EINVAL when a directory would move below itself, or when what is
 * replaced holds the source. Pins the ancestors READ: with the rename lock, none of them moves.
 */
function refuseLoop(op: Op, fs: Fs, od: number, nd: number, oi: number, ni: number): void {
  const below = childTowards(op, fs, od, nd) || childTowards(op, fs, nd, od);
  if (below !== 0 && (below === oi || below === ni)) throw errnoError(EINVAL);
}

/** The direct child of `ancestor` that is `dir` or above it; 0 when it is not an ancestor. */
function childTowards(op: Op, fs: Fs, ancestor: number, dir: number): number {
  const loop = new LoopCheck();
  while (dir !== ROOT_INO) {
    loop.pass(dir);
    const parent = lookupParent(op, fs, dir);
    if (parent === ancestor) return dir;
    dir = parent;
  }
  return 0;
}
