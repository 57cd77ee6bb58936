/**
 * Mending what problems say about entries (01 §15.3): values, types, parents. What makes the three
 * items of an entry agree is in entries.ts.
 */

import {
  ROOT_INO,
  TYPE_DIRENT,
  TYPE_LINK_BACKREF,
  TYPE_READDIR,
} from "../../../format/constants.ts";
import { bytesEqual } from "../../../format/bytes.ts";
import { direntHash } from "../../../format/hash.ts";
import { backrefKey, Dirent, direntKey, readdirKey } from "../../../format/items.ts";
import { Key } from "../../../format/key.ts";
import { isExact, rawU64, viewOf } from "../raw.ts";
import { isDirMode } from "./entries.ts";
import { type FixScope } from "./fixers_scope.ts";
import { parseKey } from "./item_patch.ts";

const NONE = new Uint8Array(0);

export function fixEntryValue(s: FixScope, name: string): boolean {
  const key = parseKey(name);
  if (key === null) return false;
  const first = Number(key.firstBig),
    second = Number(key.secondBig),
    third = Number(key.thirdBig);
  const val = s.patch.get(key);
  const target = val === null || val.length < 8 ? 0 : rawU64(viewOf(val), 0);
  const canonical = key.fourth === 0 && (key.type !== TYPE_READDIR || third === 0) &&
    isExact(first) && isExact(third) && (key.type === TYPE_DIRENT || isExact(second));
  const pos = val === null || val.length <= Dirent.SIZE ? 0 : rawU64(viewOf(val), 16);
  const dir = key.type === TYPE_LINK_BACKREF ? second : first;
  if (canonical && val !== null && pos !== (key.type === TYPE_READDIR ? second : third)) {
    if (hasTwinAt(s, dir, pos, target, val)) {
      s.patch.remove(key);
      return s.entries.mend(dir, pos, target);
    }
  }
  let done = true;
  if (!canonical) {
    // No reader looks there.
    if (!s.lossy) return false;
    s.patch.remove(key);
    s.notes.push(`item ${key} was removed: no reader looks there`);
  } else if (key.type === TYPE_DIRENT) done = s.entries.mend(first, third, target);
  else if (key.type === TYPE_READDIR) done = s.entries.mend(first, second, target);
  else if (key.type === TYPE_LINK_BACKREF) done = s.entries.mend(second, third, first);
  else return false;
  // A dirent whose key has another hash or position than its value was not among those mended.
  const still = s.patch.get(key);
  if (
    still !== null && val !== null && key.type === TYPE_DIRENT && isMisfiled(key, still)
  ) {
    s.patch.remove(key);
  }
  return done;
}

/** Whether a key, as reports print it, is that of a backref. */
export const isBackref = (name: string): boolean => parseKey(name)?.type === TYPE_LINK_BACKREF;

/** Whether another item of an entry is where this value says that it belongs. */
function hasTwinAt(s: FixScope, dir: number, pos: number, ino: number, val: Uint8Array): boolean {
  if (!isExact(pos) || !isExact(ino)) return false;
  const hash = direntHash(val.subarray(Dirent.SIZE));
  return [direntKey(dir, hash, pos), readdirKey(dir, pos), backrefKey(ino, dir, pos)]
    .some((key) => bytesEqual(s.patch.get(key) ?? NONE, val));
}

function isMisfiled(key: Key, val: Uint8Array): boolean {
  const v = viewOf(val);
  return v.getUint32(8, true) !== key.secondLo || v.getUint32(12, true) !== key.secondHi ||
    v.getBigUint64(16, true) !== key.thirdBig;
}

export function fixEntryType(s: FixScope, ino: number, dir: number): boolean {
  let done = true;
  for (const name of s.entries.backrefs(ino)) {
    if (name.dir === dir && !s.entries.mend(dir, name.pos, ino)) done = false;
  }
  return done;
}

/** A directory has one name; the root none. */
export function fixParents(s: FixScope, ino: number): boolean {
  const names = s.entries.backrefs(ino);
  const keep = ino === ROOT_INO ? 0 : 1;
  const inode = s.patch.peekInode(ino);
  if (inode === null) return false;
  // This round has found that it is none.
  if (!isDirMode(inode.mode)) return true;
  if (inode.nlink === 0 && names.length > 0) {
    return s.edit(ino, (i) => i.nlink = 2);
  }
  if (names.length < keep) return s.connect(ino);
  // This round may have found its name.
  if (names.length === keep) return true;
  if (!s.lossy) return false;
  const isWhole = new Map(names.map((n) => [n, s.entries.isWhole(n.dir, n.pos, ino)]));
  names.sort((a, b) => Number(isWhole.get(b)) - Number(isWhole.get(a)));
  for (const { dir, pos } of names.slice(keep)) {
    s.entries.removeName(dir, pos, ino);
    s.notes.push(`directory ${ino} had another name, in directory ${dir}: it was removed`);
  }
  return true;
}

/** Whether the parents of a directory lead to the root, as they are by now. */
export function reachesRoot(s: FixScope, ino: number): boolean {
  const seen = new Set<number>();
  for (let dir = ino; dir !== ROOT_INO;) {
    const names = s.entries.backrefs(dir, 2), name = names[0];
    if (name === undefined || names.length > 1 || seen.has(dir)) return false;
    seen.add(dir);
    dir = name.dir;
  }
  return true;
}

/** A directory that the root cannot be reached from gets a place in lost+found. */
export function moveToLostFound(s: FixScope, ino: number): boolean {
  for (const { dir, pos } of s.entries.backrefs(ino)) s.entries.removeName(dir, pos, ino);
  return s.connect(ino);
}
