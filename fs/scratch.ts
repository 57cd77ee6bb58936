/**
 * Buffers that operations fill while applying, before the item cache copies what is in them: one set
 * per mount, because making small typed arrays costs more than all else in a create. An operation
 * runs without interruption from filling one to handing it over.
 */

import { NAME_MAX } from "../format/constants.ts";
import { Dirent, Inode } from "../format/items.ts";

export class Scratch {
  /** The value of a new inode. */
  readonly inode = Inode.alloc();
  /** The value of a directory entry with its name. */
  readonly entry = Dirent.at(new Uint8Array(Dirent.SIZE + NAME_MAX));
  readonly entryBytes = new Uint8Array(this.entry.v.buffer);
}
