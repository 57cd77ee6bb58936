/** From inode numbers back to names, along link backrefs (02 §10). */

import { ROOT_INO, TYPE_LINK_BACKREF } from "../../format/constants.ts";
import { ENOENT } from "../../format/errno.ts";
import { backrefKey, lastInodeKey } from "../../format/item_keys.ts";
import { LOCK_READ } from "../../format/wire.ts";
import { CorruptError, errnoError } from "../errors.ts";
import type { Fs } from "../fs.ts";
import type { Op } from "../op.ts";
import { Entry } from "./entries.ts";

const SLASH = 0x2f;

/** Notices when a walk from child to parent goes in a circle, within three rounds of it. */
export class LoopCheck {
  #mark = 0;
  #steps = 0;
  #limit = 1;

  /** The walk comes by directory `dir`; CorruptError when it goes in a circle. */
  pass(dir: number): void {
    if (dir === this.#mark) throw new CorruptError(`directory ${dir} is below itself`);
    if (++this.#steps < this.#limit) return;
    this.#mark = dir;
    this.#steps = 0;
    this.#limit *= 2;
  }
}

/** One link of an inode, found by its backref. */
export interface Backref {
  readonly dir: number;
  readonly pos: number;
  /** The stored entry: type, name. A window of the item, valid until the run ends. */
  readonly entry: Entry;
}

/** The first link of `ino` at or after (`dir`, `pos`), by directory number, then position. */
export function nextBackref(
  op: Op,
  fs: Fs,
  ino: number,
  dir: number,
  pos: number,
): Backref | null {
  const lock = fs.locks.inode(ino);
  op.lock(lock, LOCK_READ);
  const last = lastInodeKey(ino, TYPE_LINK_BACKREF);
  const item = fs.items.next(op, lock, backrefKey(ino, dir, pos), last);
  if (item === null) return null;
  const entry = Entry.of(fs, item, "SC_DIRENT_BACKREF_NAME_LEN");
  return { dir: item.key.second, pos: item.key.third, entry };
}

/** A path from the root, without a leading slash or NUL, and where its last name is. */
export interface InoPath {
  readonly path: Uint8Array;
  readonly dir: number;
  readonly pos: number;
}

/**
 * The path of the first link of `ino` at or after (`dir`, `pos`) (02 §10.2); ENOENT when there is
 * none, as for the root. All its directories are locked READ together, so it is consistent.
 */
export function inoPath(op: Op, fs: Fs, ino: number, dir: number, pos: number): InoPath {
  if (ino === ROOT_INO) throw errnoError(ENOENT);
  const first = nextBackref(op, fs, ino, dir, pos);
  if (first === null) throw errnoError(ENOENT);
  const names: Uint8Array[] = [first.entry.name];
  let bytes = first.entry.name.length;
  const loop = new LoopCheck();
  for (let parent = first.dir; parent !== ROOT_INO;) {
    loop.pass(parent);
    const up = nextBackref(op, fs, parent, 0, 0);
    if (up === null) throw errnoError(ENOENT);
    names.push(up.entry.name);
    bytes += up.entry.name.length + 1;
    parent = up.dir;
  }
  const path = new Uint8Array(bytes);
  let at = 0;
  for (let i = names.length - 1; i >= 0; i--) {
    if (at > 0) path[at++] = SLASH;
    path.set(names[i], at);
    at += names[i].length;
  }
  return { path, dir: first.dir, pos: first.pos };
}
