/**
 * Mending inodes: their fields, link counts, and inodes of which only the other items are left.
 */

import {
  DIRENT_FIRST_POS,
  DT_DIR,
  FIRST_FREE_INO,
  INODE_FLAG_RETENTION,
  INODE_FLAG_TRUNCATE,
  ROOT_INO,
  SM_MAX,
  TYPE_DATA_EXTENT,
  TYPE_DIRENT,
  TYPE_INODE_INDEX_DATA_SEQ,
  TYPE_LINK_BACKREF,
  TYPE_READDIR,
  TYPE_SYMLINK,
  TYPE_XATTR,
  ZONE_INODE_INDEX,
} from "../../../format/constants.ts";
import {
  backrefKey,
  Dirent,
  type Inode,
  inodeKey,
  orphanKey,
  readdirKey,
} from "../../../format/items.ts";
import { Key } from "../../../format/key.ts";
import { isExact, rawU64, viewOf } from "../raw.ts";
import { entryType, isDirMode } from "./entries.ts";
import { SEQ_LIMIT } from "./round.ts";
import { type FixScope, LAST_NUMBER, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG } from "./fixers_scope.ts";

const S_IFIFO = 0o010000;
const S_IFCHR = 0o020000;
const S_IFBLK = 0o060000;
const S_IFSOCK = 0o140000;
const FORMATS = [S_IFIFO, S_IFCHR, S_IFDIR, S_IFBLK, S_IFREG, S_IFLNK, S_IFSOCK];
/** Names of an inode that are looked at for its type. */
const MOST_NAMES = 1000;

export function fixLinkCount(s: FixScope, ino: number, found: number): boolean {
  const inode = s.patch.peekInode(ino);
  if (inode === null) return false;
  if (found === 0 && inode.nlink > 0) return s.connect(ino);
  if (inode.nlink === 0 && s.patch.get(orphanKey(ino)) !== null) {
    s.patch.remove(orphanKey(ino));
  }
  // Names that this round has made, or removed, count as well.
  const names = isDirMode(inode.mode) ? 0 : s.entries.backrefs(ino).length;
  return s.edit(ino, (i) => i.nlink = names > 0 ? names : found);
}

/** Block counts follow the extents. */
export function fixBlockCount(s: FixScope, ino: number, field: string, found: number): boolean {
  // What was found is what there was before: the next round counts again.
  if (s.cut.has(ino)) return true;
  const inode = s.patch.inode(ino);
  if (inode === null) return false;
  const online = field === "online_blocks";
  const before = rawU64(inode.v, inode.o + (online ? 32 : 40));
  if (online) inode.onlineBlocks = found;
  else inode.offlineBlocks = found;
  if (found < before) {
    const what = `it counts ${before} ${online ? "" : "offline "}blocks, its extents have ${found}`;
    s.notes.push(`inode ${ino}: ${what}: what it had there is lost`);
  }
  return true;
}

/** A number beyond the third key fields of an inode's items of a type; those of impossible ones change. */
function beyond(s: FixScope, ino: number, type: number, least: number): number {
  let beyond = least;
  for (const { key } of s.each(ino, type, type)) {
    const n = Number(key.thirdBig);
    if (n < LAST_NUMBER) beyond = Math.max(beyond, n + 1);
  }
  return beyond;
}

export function fixInodeField(s: FixScope, ino: number, field: string): boolean {
  // No mount ever makes an inode of that number.
  if (field === "number") return s.removeFile(ino);
  return s.edit(ino, (i) => {
    const v = i.v, o = i.o;
    switch (field) {
      case "mode":
        i.mode = i.mode & 0o7777 | guessFormat(s, ino);
        break;
      case "flags": {
        const known = INODE_FLAG_TRUNCATE |
          (s.round.cx.fmtVers >= 2 ? INODE_FLAG_RETENTION : 0);
        i.flags &= (i.mode & S_IFMT) === S_IFREG ? known : known & ~INODE_FLAG_TRUNCATE;
        break;
      }
      case "rdev":
        i.rdev = 0;
        break;
      case "size":
        v.setUint32(o + 4, v.getUint32(o + 4, true) & 0x7fff_ffff, true);
        break;
      case "data_seq":
        moveDataSeq(s, ino, i);
        break;
      case "next_readdir_pos":
        i.nextReaddirPos = beyond(s, ino, TYPE_DIRENT, DIRENT_FIRST_POS);
        break;
      case "next_xattr_id":
        i.nextXattrId = beyond(s, ino, TYPE_XATTR, 0);
        break;
      default:
        for (let at = 96; at < 160; at += 16) {
          const nsec = v.getUint32(o + at + 8, true);
          if (nsec >= 1e9) v.setUint32(o + at + 8, 0, true);
          v.setUint32(o + at + 12, 0, true);
        }
    }
  });
}

/** A data_seq from the future becomes that of this repair, with its index item. */
function moveDataSeq(s: FixScope, ino: number, i: Inode): void {
  const old = i.v.getBigUint64(i.o + 16, true);
  i.dataSeq = s.patch.seq;
  if ((i.mode & S_IFMT) !== S_IFREG) return;
  s.patch.remove(Key.of(ZONE_INODE_INDEX, 0, TYPE_INODE_INDEX_DATA_SEQ, old, ino));
  s.patch.set(Key.of(ZONE_INODE_INDEX, 0, TYPE_INODE_INDEX_DATA_SEQ, s.patch.seq, ino));
}

/** The file type that an inode's items speak of. */
function guessFormat(s: FixScope, ino: number): number {
  const has = (type: number) => s.has(ino, type, type);
  if (has(TYPE_DIRENT) || has(TYPE_READDIR)) return 0o040000;
  if (has(TYPE_SYMLINK)) return S_IFLNK;
  for (const { val } of s.each(ino, TYPE_LINK_BACKREF, TYPE_LINK_BACKREF)) {
    const mode = FORMATS[val[24] ?? -1];
    if (mode !== undefined) return mode;
  }
  return S_IFREG;
}

/** All names of an inode say that it is of a type, and so do its items: its mode is what is wrong. */
export function restoreType(s: FixScope, ino: number, format: number): boolean {
  const names = s.range(ino, TYPE_LINK_BACKREF, TYPE_LINK_BACKREF), type = entryType(format);
  if (names.length === 0 || names.some(({ val }) => val[24] !== type)) return false;
  return s.edit(ino, (i) => i.mode = i.mode & 0o7777 | format);
}

/**
 * All items of all names of an inode say that it is of another type than its mode does, and so does
 * what it has, while nothing that it has speaks for the mode: the mode is what is wrong.
 */
export function restoreNamedType(s: FixScope, ino: number): boolean {
  const inode = s.patch.peekInode(ino), names = s.entries.backrefs(ino, MOST_NAMES + 1);
  if (inode === null || names.length === 0 || names.length > MOST_NAMES) return false;
  const types = s.range(ino, TYPE_LINK_BACKREF, TYPE_LINK_BACKREF).map(({ val }) => val[24]);
  const format = FORMATS.find((f) => entryType(f) === types[0]), now = inode.mode & S_IFMT;
  if (format === undefined || format === now || types.some((t) => t !== types[0])) return false;
  // Pipes and sockets have nothing of their own; both kinds of devices have the same.
  const isSilent = format === S_IFIFO || format === S_IFSOCK;
  const isDevice = (f: number) => f === S_IFCHR || f === S_IFBLK;
  if (!(isDevice(now) && isDevice(format))) {
    if (speaksFor(s, ino, inode, now)) return false;
    if (!isSilent && !speaksFor(s, ino, inode, format)) return false;
  }
  if (!names.every(({ dir, pos }) => s.entries.isWhole(dir, pos, ino))) return false;
  s.notes.push(`inode ${ino} has the type again that its names give`);
  return s.edit(ino, (i) => i.mode = i.mode & 0o7777 | format);
}

/** Whether an inode has what only inodes of a type have. */
function speaksFor(s: FixScope, ino: number, inode: Inode, format: number): boolean {
  const has = (type: number) => s.has(ino, type, type);
  switch (format) {
    case S_IFREG: {
      const seq = inode.v.getBigUint64(inode.o + 16, true);
      const index = Key.of(ZONE_INODE_INDEX, 0, TYPE_INODE_INDEX_DATA_SEQ, seq, ino);
      return has(TYPE_DATA_EXTENT) || s.patch.get(index) !== null;
    }
    case S_IFDIR:
      return has(TYPE_DIRENT) || has(TYPE_READDIR) ||
        inode.nlink === 2 && inode.sizeBig === 0n && s.entries.backrefs(ino, 2).length === 1;
    case S_IFLNK:
      return has(TYPE_SYMLINK);
    case S_IFCHR:
    case S_IFBLK:
      return inode.rdev !== 0;
    default:
      return false;
  }
}

/** Items of an inode without its inode item: a new one keeps what can be kept. */
export function remakeInode(s: FixScope, ino: number): boolean {
  if (!isExact(ino)) return false;
  const format = guessFormat(s, ino);
  if (!s.has(ino, 0, 255)) return true;
  if (s.lossy && refileBackrefs(s, ino)) return true;
  // Of such numbers no mount makes any.
  const isPossible = ino >= FIRST_FREE_INO && ino < SEQ_LIMIT;
  if (ino !== ROOT_INO && !isPossible) return s.removeFile(ino);
  if (format === S_IFLNK && !s.has(ino, TYPE_SYMLINK, TYPE_SYMLINK)) {
    // A symlink without its target is nothing.
    return s.removeFile(ino);
  }
  const permissions = ino === ROOT_INO ? 0o755 : isDirMode(format) ? 0o700 : 0o600;
  const inode = s.entries.makeInode(ino, format | permissions);
  let names = 0, subdirs = 0, end = 0, target = 0, links = 0;
  for (const { key, val } of s.each(ino, 0, 255)) {
    if (key.type === TYPE_DIRENT) {
      names += val.length - 32;
      if (val[24] === DT_DIR) subdirs++;
    } else if (key.type === TYPE_DATA_EXTENT) end = Math.max(end, Number(key.secondBig) + 1);
    else if (key.type === TYPE_SYMLINK) target += val.length;
    else if (key.type === TYPE_LINK_BACKREF) links++;
  }
  inode.nextXattrId = beyond(s, ino, TYPE_XATTR, 0);
  inode.nextReaddirPos = beyond(s, ino, TYPE_DIRENT, DIRENT_FIRST_POS);
  inode.dataVersion = 1;
  inode.dataSeq = s.patch.seq;
  inode.nlink = isDirMode(format) ? 2 + subdirs : Math.max(1, links);
  if (isDirMode(format)) inode.size = names;
  else if (format === S_IFLNK) inode.size = target;
  else if (format === S_IFREG) {
    inode.size = Math.min(end, SM_MAX) * 4096;
    s.patch.set(Key.of(ZONE_INODE_INDEX, 0, TYPE_INODE_INDEX_DATA_SEQ, s.patch.seq, ino));
  }
  if (ino >= s.round.sb.nextIno) s.round.sb.nextIno = ino + 1;
  // If its entries do not give it a name, the next round gives it one in lost+found.
  s.notes.push(`inode ${ino} was made anew: owner, permissions and times are unknown`);
  return true;
}

/**
 * Backrefs under the number of a missing inode, of which nothing else is there, are those of the
 * inodes that they name; false if it is not so.
 */
function refileBackrefs(s: FixScope, ino: number): boolean {
  const all = s.range(ino, 0, 255);
  for (const { key, val } of all) {
    if (key.type !== TYPE_LINK_BACKREF || val.length <= Dirent.SIZE || key.fourth !== 0) {
      return false;
    }
    const named = rawU64(viewOf(val), 0), dir = Number(key.secondBig), pos = Number(key.thirdBig);
    if (named === ino || !isExact(named) || s.patch.peekInode(named) === null) return false;
    if (!isExact(dir) || !isExact(pos)) return false;
    const entry = s.patch.get(readdirKey(dir, pos));
    if (entry !== null && entry.length >= 8 && rawU64(viewOf(entry), 0) === ino) return false;
  }
  for (const { key, val } of all) {
    const named = rawU64(viewOf(val), 0);
    const own = backrefKey(named, Number(key.secondBig), Number(key.thirdBig));
    s.patch.remove(key);
    if (s.patch.get(own) === null) s.patch.set(own, val);
    s.notes.push(`a backref of inode ${named} was filed under inode ${ino}, which does not exist`);
  }
  return true;
}

/** A directory of which nothing is left is made anew for an inode that has its only name there. */
export function remakeDirectory(s: FixScope, dir: number, pos: number, child: number): void {
  if (!s.lossy || !isExact(dir) || !isExact(child) || s.removed.has(dir)) return;
  if (dir < FIRST_FREE_INO || dir >= s.round.sb.nextIno) return;
  if (s.patch.peekInode(dir) !== null || s.patch.get(inodeKey(dir)) !== null) return;
  if (s.patch.peekInode(child) === null || s.entries.hasOthers(child, dir, pos)) return;
  if (!isExact(pos) || s.patch.get(backrefKey(child, dir, pos)) === null) return;
  s.entries.makeInode(dir, S_IFDIR | 0o700).nlink = 2;
  s.notes.push(`directory ${dir} was made anew: owner, permissions and times are unknown`);
}

export function fixRootInode(s: FixScope): boolean {
  const inode = s.patch.inode(ROOT_INO);
  if (inode !== null) {
    inode.mode = inode.mode & 0o7777 | 0o040000;
    return true;
  }
  // What is left of it is taken up with the other inodes that are missing.
  if (s.range(ROOT_INO, 0, 255).length > 0) return true;
  const made = s.entries.makeInode(ROOT_INO, 0o040755);
  made.nlink = 2;
  return true;
}
