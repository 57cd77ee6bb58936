/**
 * What mending each problem of filesystem items means. A problem record names what is wrong; what is
 * right is looked up again here, with the changes that this round has made already. What is more than
 * a line of it is in fixers_*.ts, by theme.
 *
 * Counts that depend on other items (sizes and link counts of directories, block counts) are taken
 * from the check that found them wrong: when mending changes them the next round's check says so.
 */

import {
  TYPE_DATA_EXTENT,
  TYPE_DIRENT,
  TYPE_INODE_INDEX_DATA_SEQ,
  TYPE_INODE_INDEX_META_SEQ,
  TYPE_READDIR,
  ZONE_INODE_INDEX,
  ZONE_XATTR_INDX,
} from "../../../format/constants.ts";
import { type Inode, orphanKey } from "../../../format/items.ts";
import { Key } from "../../../format/key.ts";
import { SrchFile } from "../../../format/srch.ts";
import { appendSrch } from "../../srch_file.ts";
import type { ProblemCode, Values } from "../problems.ts";
import { isExact, rawU64 } from "../raw.ts";
import { isDirMode } from "./entries.ts";
import {
  cutOverlappingExtents,
  fixExtentItem,
  fixSymlink,
  removeOutsideExtents,
} from "./fixers_data.ts";
import { fixTotal, refileQuotaRule, rewriteItem } from "./fixers_derived.ts";
import {
  fixEntryType,
  fixEntryValue,
  fixParents,
  isBackref,
  moveToLostFound,
  reachesRoot,
} from "./fixers_entries.ts";
import {
  fixBlockCount,
  fixInodeField,
  fixLinkCount,
  fixRootInode,
  remakeDirectory,
  remakeInode,
  restoreNamedType,
  restoreType,
} from "./fixers_inodes.ts";
import { giveUp } from "./fixers_give_up.ts";
import { type FixScope, LAST_NUMBER, num, S_IFDIR, S_IFREG, text } from "./fixers_scope.ts";
import {
  keepLastXattr,
  mendXattr,
  removeHeadlessXattrs,
  renumberXattrs,
  separateXattrs,
} from "./fixers_xattrs.ts";
import { SEQ_LIMIT } from "./round.ts";
import type { ServerTrees } from "./server_trees.ts";

/** What a search entry takes in memory. */
const SEARCH_BYTES = 128;

export class Fixers {
  /** Search entries whose parity is to be turned. */
  readonly #search: { hash: bigint; ino: number; id: number }[] = [];

  constructor(private readonly scope: FixScope, private readonly servers: ServerTrees) {}

  /** Search entries take memory until the round ends: the rest waits for the next one. */
  get isFull(): boolean {
    return this.#search.length >= Math.max(1000, this.scope.round.cx.memory / 8 / SEARCH_BYTES);
  }

  /**
   * Mends one problem; false if it is none of items, or cannot be mended. On a rung of the ladder
   * (escalation.ts) above the first what it is about goes. Throws FsError.
   */
  mend(code: ProblemCode, values: Values, rung = 0): boolean {
    const s = this.scope, { entries, patch } = s;
    const ino = num(values, "ino");
    if (s.removed.has(ino)) return true;
    if (rung > 0 && giveUp(s, code, values, rung)) return true;
    switch (code) {
      case "index-missing":
      case "index-extra": {
        const type = values["index"] === "meta_seq"
          ? TYPE_INODE_INDEX_META_SEQ
          : TYPE_INODE_INDEX_DATA_SEQ;
        const key = Key.of(ZONE_INODE_INDEX, 0, type, num(values, "seq"), ino);
        return s.setOrRemove(key, code === "index-missing");
      }
      case "orphan-missing":
        if (entries.backrefs(ino, 1).length === 0) {
          s.notes.push(`inode ${ino} counts no names and has none: the next mount removes it`);
        }
        return s.setOrRemove(orphanKey(ino), true);
      case "orphan-extra":
        return s.setOrRemove(orphanKey(ino), false);
      case "indx-missing":
      case "indx-extra": {
        const key = indxKey(text(values, "key"));
        return key !== null && s.setOrRemove(key, code === "indx-missing");
      }
      case "totl":
        return fixTotal(s, values);
      case "srch-missing":
      case "srch-extra": {
        const hash = BigInt(`0x${text(values, "hash")}`);
        this.#search.push({ hash, ino, id: num(values, "id") });
        return true;
      }
      case "item-stale":
        return rewriteItem(s, text(values, "key"));
      case "quota-rule":
        return refileQuotaRule(s, text(values, "key"));
      case "twin-without-entry":
        remakeDirectory(s, num(values, "dir"), num(values, "pos"), num(values, "child"));
        return entries.mend(num(values, "dir"), num(values, "pos"), num(values, "child"));
      case "entry-without-twin":
      case "entry-twins-differ":
        return entries.mend(num(values, "dir"), num(values, "pos"), num(values, "child"));
      case "entry-value":
        return fixEntryValue(s, text(values, "key"));
      case "entry-type":
        return restoreNamedType(s, ino) || fixEntryType(s, ino, num(values, "dir"));
      case "dir-pos-twice":
        return entries.spread(num(values, "dir"), num(values, "pos"));
      case "dir-name-twice":
        return entries.separate(ino, nameBytes(text(values, "name")));
      case "dir-next-pos":
        return s.edit(
          ino,
          (i) => i.nextReaddirPos = Math.max(safe(i, 48), num(values, "pos") + 1),
        );
      case "xattr-next-id":
        if (num(values, "id") >= LAST_NUMBER) return renumberXattrs(s, ino);
        return s.edit(ino, (i) => i.nextXattrId = Math.max(safe(i, 56), num(values, "id") + 1));
      case "inode-nlink":
        return fixLinkCount(s, ino, num(values, "found"));
      case "inode-size":
        return s.isOf(ino, S_IFREG) || s.edit(ino, (i) => i.size = num(values, "found"));
      case "inode-blocks":
      case "extents-missing":
        return fixBlockCount(s, ino, text(values, "field"), num(values, "found"));
      case "inode-field":
        return values["field"] === "rdev" && restoreNamedType(s, ino) ||
          fixInodeField(s, ino, text(values, "field"));
      case "inode-length":
        return s.edit(ino, () => {});
      case "inode-next-ino":
        // The counter cannot follow: no mount ever makes an inode of that number.
        return ino >= SEQ_LIMIT && s.lossy && s.removeFile(ino);
      case "inode-missing":
        return remakeInode(s, ino);
      case "root-inode":
        return fixRootInode(s);
      case "dir-parents":
        return fixParents(s, ino);
      case "dir-parent-missing": {
        const dir = num(values, "parent"), parent = patch.peekInode(dir);
        if (parent !== null && isDirMode(parent.mode)) return true;
        // That may have been a stray backref: this round has removed it then.
        const names = entries.backrefs(ino);
        if (names.length > 0 && names.every((name) => name.dir !== dir)) return true;
        return moveToLostFound(s, ino);
      }
      case "dir-cycle":
        return reachesRoot(s, ino) || moveToLostFound(s, ino);
      case "entries-in-file":
        return s.isOf(ino, S_IFDIR) || restoreType(s, ino, S_IFDIR) ||
          s.loseRange(ino, TYPE_DIRENT, TYPE_READDIR, "entries of what is no directory");
      case "extents-in-other":
        return s.isOf(ino, S_IFREG) || restoreType(s, ino, S_IFREG) ||
          s.loseRange(ino, TYPE_DATA_EXTENT, TYPE_DATA_EXTENT, "extents of what is no file");
      case "symlink":
        return restoreNamedType(s, ino) || fixSymlink(s, ino);
      case "extent-item":
        return fixExtentItem(s, ino, num(values, "end"), num(values, "count"));
      case "extent-outside":
        return removeOutsideExtents(s, ino);
      case "extent-file-overlap":
        return cutOverlappingExtents(s, ino);
      case "xattr":
        return mendXattr(s, ino, parseInt(text(values, "hash"), 16), num(values, "id"));
      case "xattr-name-twice":
        return keepLastXattr(s, ino, nameBytes(text(values, "name")));
      case "xattr-headless":
        return removeHeadlessXattrs(s, ino);
      case "xattr-id-twice":
        return separateXattrs(s, ino, num(values, "id"));
      default:
        return false;
    }
  }

  /**
   * Whether a problem is to be mended after all others of entries. An entry that leads to a missing
   * directory waits for those that are in this directory, which may have had it made anew; a lone
   * item, or a misfiled backref, until it is known whether its inode has all its names without it.
   */
  waits(code: ProblemCode, values: Values): boolean {
    if (code === "entry-value") return isBackref(text(values, "key"));
    const child = num(values, "child"), { patch, entries } = this.scope;
    if (code !== "entry-without-twin" && code !== "twin-without-entry" || !isExact(child)) {
      return false;
    }
    if (patch.peekInode(child) === null) return code === "entry-without-twin";
    const dir = num(values, "dir"), pos = num(values, "pos");
    const isAlone = entries.twins(dir, pos, child) === (code === "entry-without-twin" ? 0 : 1);
    return isAlone && entries.hasOthers(child, dir, pos);
  }

  /** Ends the round's changes of items. */
  finish(): void {
    if (this.#search.length === 0) return;
    const file = SrchFile.alloc();
    this.#search.sort((a, b) => a.hash < b.hash ? -1 : a.hash > b.hash ? 1 : a.ino - b.ino);
    for (const { hash, ino, id } of this.#search) {
      appendSrch(this.scope.round.t, file, hash, ino, id);
    }
    this.servers.addSearchLog(file);
  }
}

/** A le64 of an inode, as a number that may be too great for the format. */
const safe = (i: Inode, at: number): number => {
  const n = rawU64(i.v, i.o + at);
  return isExact(n) ? n : 0;
};

/** A key of zone 14 as reports print it: hexadecimal first, second and third, decimal fourth. */
function indxKey(name: string): Key | null {
  const parts = name.split(".");
  if (parts.length !== 4) return null;
  const [first, second, third] = parts.map((p) => BigInt(`0x${p}`)) as [bigint, bigint, bigint];
  return Key.of(ZONE_XATTR_INDX, first, 0, second, third, Number(parts[3]));
}

/** The bytes of a name that a report prints with \xNN. */
function nameBytes(name: string): Uint8Array {
  const bytes: number[] = [];
  for (let i = 0; i < name.length; i++) {
    if (name[i] === "\\" && name[i + 1] === "x") {
      bytes.push(parseInt(name.slice(i + 2, i + 4), 16));
      i += 3;
    } else bytes.push(name.charCodeAt(i));
  }
  return Uint8Array.from(bytes);
}
