/**
 * Reading directories by position (02 §7.5). Positions are stable for ever: `.` is 0, `..` is 1,
 * entries have the position they were created at. An entry that exists throughout is seen once.
 */

import { DIRENT_FIRST_POS, DT_DIR, TYPE_READDIR } from "../../format/constants.ts";
import { ENOTDIR } from "../../format/errno.ts";
import { lastInodeKey, readdirKey } from "../../format/item_keys.ts";
import { errnoError } from "../errors.ts";
import type { Fs } from "../fs.ts";
import { readInode } from "../inode.ts";
import type { Op } from "../op.ts";
import { Entry } from "./entries.ts";
import { lookupParent } from "./names.ts";

const DOT = new TextEncoder().encode(".");
const DOTDOT = new TextEncoder().encode("..");

/**
 * One entry; false when there is no room for it. `pos` + 1 is where to continue after it, `type` the
 * stored type (see `dtOf`), `name` is valid only during the call.
 */
export type VisitEntry = (ino: number, pos: number, type: number, name: Uint8Array) => boolean;

/**
 * Visits the entries at positions ≥ `pos`, in order, until `visit` returns false or none is left.
 * The operation may run again from its start: collect from scratch in every run.
 */
export function readdir(op: Op, fs: Fs, dir: number, pos: number, visit: VisitEntry): void {
  const h = readInode(op, fs, dir);
  if (!h.isDir) throw errnoError(ENOTDIR);
  if (pos <= 0 && !visit(dir, 0, DT_DIR, DOT)) return;
  if (pos <= 1) {
    const parent = h.inode.nlink === 0 ? dir : lookupParent(op, fs, dir);
    if (!visit(parent, 1, DT_DIR, DOTDOT)) return;
  }
  const last = lastInodeKey(dir, TYPE_READDIR);
  let key = readdirKey(dir, Math.max(pos, DIRENT_FIRST_POS));
  for (;;) {
    const item = fs.items.next(op, h.lock, key, last);
    if (item === null) return;
    const entry = Entry.of(fs, item, "SC_DIRENT_READDIR_NAME_LEN");
    const at = item.key.second;
    if (!visit(entry.ino, at, entry.type, entry.name)) return;
    key = readdirKey(dir, at + 1);
  }
}
