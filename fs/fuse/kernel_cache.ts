/**
 * What the kernel may cache of file data, per inode (design §6): an open for reading of a wholly
 * online file that nobody here has open for writing may use the page cache, and keeps the pages of
 * earlier opens while the file's data_version is what they were read under. Everything else is
 * direct I/O (with shared mappings allowed): position, size and waiting are then ours.
 */

import type { Inode } from "../../format/items.ts";
import { isReg } from "../inode.ts";
import { FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE } from "./abi.ts";
import type { Notifier } from "./notify.ts";

const O_ACCMODE = 3;
const O_APPEND = 0o2000;
const O_DIRECT = Deno.build.arch === "aarch64" ? 0o200000 : 0o40000;

/** Do open flags allow writing? */
export const opensForWriting = (flags: number): boolean => (flags & O_ACCMODE) !== 0;

export class KernelCache {
  /** Opens for writing, of inodes that have any. */
  readonly #writers = new Map<number, number>();
  /** data_version under which the kernel's pages were read, of inodes that may have some. */
  readonly #versions = new Map<number, number>();

  constructor(private readonly notifier: Notifier) {}

  /** An open succeeded: counts it, returns the flags of its answer. */
  opened(ino: number, inode: Inode, flags: number): number {
    if (!isReg(inode.mode)) return 0;
    if (opensForWriting(flags)) {
      const writers = this.#writers.get(ino) ?? 0;
      this.#writers.set(ino, writers + 1);
      // From now on its pages are filled under other rules.
      if (writers === 0 && this.#versions.delete(ino)) this.notifier.invalidateData(ino);
      return FOPEN_DIRECT_IO;
    }
    if (
      this.#writers.has(ino) || inode.offlineBlocks > 0 || (flags & (O_APPEND | O_DIRECT)) !== 0
    ) return FOPEN_DIRECT_IO;
    const keep = this.#versions.get(ino) === inode.dataVersion;
    this.#versions.set(ino, inode.dataVersion);
    return keep ? FOPEN_KEEP_CACHE : 0;
  }

  /** The last close of an open with `flags`. */
  released(ino: number, flags: number): void {
    if (!opensForWriting(flags)) return;
    const writers = this.#writers.get(ino);
    if (writers === undefined) return;
    if (writers > 1) this.#writers.set(ino, writers - 1);
    else this.#writers.delete(ino);
  }

  /** The cluster lock is being lost: what was cached under it goes before it does. */
  async revoked(ino: number): Promise<void> {
    if (this.#versions.delete(ino) || this.#writers.has(ino)) {
      await this.notifier.invalidateData(ino);
    } else {
      this.notifier.invalidateAttributes(ino);
    }
  }

  /** The kernel does not know the inode any more. */
  forget(ino: number): void {
    this.#versions.delete(ino);
  }
}
