/**
 * Paths of inodes for messages about a volume that may be damaged: by the link backrefs of an inode
 * and its parents, as far as they can be read. Nothing is ever reported here; what cannot be read
 * leads to no path.
 */

import { ROOT_INO } from "../../format/constants.ts";
import { FormatError } from "../../format/bytes.ts";
import { backrefKey, Dirent } from "../../format/items.ts";
import { Key } from "../../format/key.ts";
import { SuperBlock } from "../../format/super.ts";
import { BlockCache } from "../block_cache.ts";
import type { Device } from "../device.ts";
import type { Random } from "../env.ts";
import { FsError } from "../errors.ts";
import { ItemTrees } from "../resolve.ts";
import { readRawSuper } from "../volume.ts";
import { nameText } from "./text.ts";

const CACHE_BYTES = 16 << 20;
/** Directories whose paths are remembered. */
const REMEMBERED = 10_000;
/** Deeper, or longer, is taken for damage. */
const MAX_DEPTH = 1000;
const MAX_LENGTH = 4096;
const U64_MAX = 0xffff_ffff_ffff_ffffn;

/** Finds paths in the volume as the super block of this moment describes it. */
export class PathFinder {
  readonly #trees: ItemTrees | null;
  readonly #directories = new Map<number, string>([[ROOT_INO, ""]]);

  constructor(meta: Device, random: Random) {
    this.#trees = tolerant(() => {
      const sb = SuperBlock.at(readRawSuper(meta));
      const cache = new BlockCache(meta, sb.hdr.fsid, { random, limitBytes: CACHE_BYTES });
      return new ItemTrees(cache, sb);
    });
  }

  /**
   * The path of an inode by its first name; bytes that are not printable ASCII, and backslashes, are
   * written as \xNN. One whose parents do not lead to the root begins with the number of the last
   * that is known, as `<1030>/name`. Null when it has no name.
   */
  pathOf(ino: number): string | null {
    if (ino === ROOT_INO) return "/";
    const link = this.#firstLink(ino);
    return link === null ? null : `${this.#directory(link.dir, 0)}/${link.name}`;
  }

  #directory(ino: number, depth: number): string {
    const known = this.#directories.get(ino);
    if (known !== undefined) return known;
    const link = depth < MAX_DEPTH ? this.#firstLink(ino) : null;
    const path = link === null
      ? `<${ino}>`
      : `${this.#directory(link.dir, depth + 1)}/${link.name}`;
    if (path.length > MAX_LENGTH) return `<${ino}>`;
    if (this.#directories.size < REMEMBERED) this.#directories.set(ino, path);
    return path;
  }

  #firstLink(ino: number): { dir: number; name: string } | null {
    const trees = this.#trees;
    if (trees === null) return null;
    return tolerant(() => {
      const first = backrefKey(ino, 0, 0);
      const last = Key.of(first.zone, ino, first.type, U64_MAX, U64_MAX, 0xff);
      for (const { key, val } of trees.items(first, last)) {
        if (val.length <= Dirent.SIZE) continue;
        return { dir: key.second, name: nameText(val.subarray(Dirent.SIZE)) };
      }
      return null;
    });
  }
}

/** The result; null when what it needs is damaged. */
function tolerant<T>(read: () => T): T | null {
  try {
    return read();
  } catch (e) {
    // Offsets in blocks are believed while reading: a wrong one leads out of the block.
    if (e instanceof FsError || e instanceof FormatError || e instanceof RangeError) return null;
    throw e;
  }
}
