/**
 * Reading directories by position (02 §7.5). Positions are stable for ever: `.` is 0, `..` is 1,
 * entries have the position they were created at. An entry that exists throughout is seen once.
 */

import { getU64Bytes } from "../../format/bytes.ts";
import { DIRENT_FIRST_POS, DT_DIR, NAME_MAX, TYPE_READDIR } from "../../format/constants.ts";
import { ENOTDIR } from "../../format/errno.ts";
import { lastInodeKey, readdirKey } from "../../format/item_keys.ts";
import { Dirent } from "../../format/items.ts";
import { CorruptError, errnoError } from "../errors.ts";
import type { Fs } from "../fs.ts";
import { readInode } from "../inode.ts";
import type { Op } from "../op.ts";
import { corruption } from "./entries.ts";
import { lookupParent } from "./names.ts";

/** Of `type` in a Dirent. */
const TYPE_OFF = 24;
const DOTS = new TextEncoder().encode("..");

/**
 * One entry; false when there is no room for it. `pos` + 1 is where to continue after it, `type` the
 * stored type (see `dtOf`); the name is the `length` bytes at byte `off` of `from`, valid only during
 * the call.
 */
export type VisitEntry = (
  ino: number,
  pos: number,
  type: number,
  from: Uint8Array,
  off: number,
  length: number,
) => boolean;

/**
 * Visits the entries at positions ≥ `pos`, in order, until `visit` returns false or none is left.
 * The operation may run again from its start: collect from scratch in every run.
 */
export function readdir(op: Op, fs: Fs, dir: number, pos: number, visit: VisitEntry): void {
  const h = readInode(op, fs, dir);
  if (!h.isDir) throw errnoError(ENOTDIR);
  if (pos <= 0 && !visit(dir, 0, DT_DIR, DOTS, 0, 1)) return;
  if (pos <= 1) {
    const parent = h.inode.nlink === 0 ? dir : lookupParent(op, fs, dir);
    if (!visit(parent, 1, DT_DIR, DOTS, 0, 2)) return;
  }
  const last = lastInodeKey(dir, TYPE_READDIR);
  const first = readdirKey(dir, Math.max(pos, DIRENT_FIRST_POS));
  fs.items.visit(op, h.lock, first, last, (page, i) => {
    const len = page.length(i), off = page.offset(i), { vals } = page;
    const nameLen = len - Dirent.SIZE;
    if (nameLen < 1 || nameLen > NAME_MAX) {
      const details = `item ${page.key(i)} has a name of ${nameLen} bytes`;
      throw corruption(fs, "SC_DIRENT_READDIR_NAME_LEN", details);
    }
    if (vals[off + 7] !== 0 || vals[off + 6]! > 0x1f) {
      throw new CorruptError(`entry ${page.key(i)} has an inode number beyond 2^53`);
    }
    const ino = getU64Bytes(vals, off);
    return visit(ino, page.second(i), vals[off + TYPE_OFF]!, vals, off + Dirent.SIZE, nameLen);
  });
}
