/**
 * What is done about a problem of items that comes back although it was mended (escalation.ts): what
 * it is about goes. The rounds that follow connect what has lost its name and count anew.
 */

import {
  ROOT_INO,
  TYPE_DATA_EXTENT,
  TYPE_DIRENT,
  TYPE_READDIR,
  ZONE_FS,
} from "../../../format/constants.ts";
import { inodeKey } from "../../../format/items.ts";
import type { ProblemCode, Values } from "../problems.ts";
import { isExact } from "../raw.ts";
import { type FixScope, num, text } from "./fixers_scope.ts";
import { removeAllXattrs } from "./fixers_xattrs.ts";
import { parseKey } from "./item_patch.ts";

/** Problems of items; inode counts and totals are made anew from these. */
const OF_ITEMS =
  /^(index-|orphan-|indx-|srch-(missing|extra)|item-stale|inode-(?!count|next)|entry-|twin-|dir-|entries-in|extents-(in|missing)|symlink|extent-(item|file|outside)|xattr|quota-rule)/;
export const isOfItems = (code: ProblemCode): boolean => OF_ITEMS.test(code);

/**
 * Takes away what a problem is about; false if it is about nothing that can go, and is to be mended as
 * always.
 */
export function giveUp(s: FixScope, code: ProblemCode, values: Values, rung: number): boolean {
  if (!s.lossy || !isOfItems(code)) return false;
  const key = values["key"] === undefined ? null : parseKey(text(values, "key"));
  if (values["dir"] !== undefined && values["pos"] !== undefined) {
    return giveUpEntry(s, num(values, "dir"), num(values, "pos"), num(values, "child"), rung);
  }
  if (key !== null && (rung === 1 || key.zone !== ZONE_FS)) {
    s.patch.remove(key);
    s.notes.push(`item ${key} was removed: it could not be mended`);
    return true;
  }
  const ino = key !== null
    ? Number(key.firstBig)
    : values["ino"] !== undefined
    ? num(values, "ino")
    : indexedIno(code, values);
  if (!isExact(ino)) return false;
  return rung > 1 ? giveUpInode(s, code, ino) : giveUpPart(s, code, ino);
}

/** The entry at a position of a directory; on the last rung all entries of the directory. */
function giveUpEntry(s: FixScope, dir: number, pos: number, child: number, rung: number): boolean {
  if (!isExact(dir) || !isExact(pos)) return false;
  s.entries.remove(dir, pos, isExact(child) ? child : 0);
  if (rung === 1) {
    s.notes.push(
      `the entry at position ${pos} of directory ${dir} was removed: it could not be mended`,
    );
    return true;
  }
  s.removeRange(dir, TYPE_DIRENT, TYPE_READDIR);
  s.notes.push(`all entries of directory ${dir} were removed: they could not be mended`);
  return true;
}

/** That part of an inode which problems of this kind are about. */
function giveUpPart(s: FixScope, code: ProblemCode, ino: number): boolean {
  const lost = (what: string, first: number, last: number): boolean => {
    s.removeRange(ino, first, last);
    s.notes.push(`inode ${ino} lost its ${what}: they could not be mended`);
    return true;
  };
  if (s.patch.get(inodeKey(ino)) === null) return giveUpInode(s, code, ino);
  if (/^(xattr|srch-|indx-)/.test(code)) {
    removeAllXattrs(s, ino);
    s.notes.push(`inode ${ino} lost its attributes: they could not be mended`);
    return true;
  }
  if (/^(extent|inode-blocks$)/.test(code)) {
    return lost("contents", TYPE_DATA_EXTENT, TYPE_DATA_EXTENT);
  }
  if (/^(dir-n|dir-pos|entries-)/.test(code)) return lost("entries", TYPE_DIRENT, TYPE_READDIR);
  if (code === "symlink") return giveUpInode(s, code, ino);
  s.patch.removeInode(ino);
  s.patch.inodeDelta--;
  s.removed.add(ino);
  s.notes.push(`the inode item of inode ${ino} was removed: it could not be mended`);
  return true;
}

/** An inode with all its items; the root directory is made anew. */
function giveUpInode(s: FixScope, code: ProblemCode, ino: number): boolean {
  // What is derived from an inode that is not there is mended as always.
  if (code !== "inode-missing" && s.patch.get(inodeKey(ino)) === null) return false;
  return ino === ROOT_INO ? s.removeRange(ino, 0, 255) : s.removeFile(ino);
}

/** The inode of an entry of an attribute index, whose keys reports print in hexadecimal. */
function indexedIno(code: ProblemCode, values: Values): number {
  if (!code.startsWith("indx-")) return NaN;
  const ino = text(values, "key").split(".")[2];
  return ino === undefined ? NaN : parseInt(ino, 16);
}
