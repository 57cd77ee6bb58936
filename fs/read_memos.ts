/**
 * Where files were read last: for a few inodes the size and the extent that the last read found, so
 * that the next one in the same extent needs neither the inode's nor the extent's item.
 *
 * Invariant: a memo is only used while nothing can have changed it: under the same grant of the
 * inode's lock (no other node), and before any further hold on a transaction (nobody here).
 */

/** A power of two; inodes that share a place replace each other. */
const PLACES = 64;

export class ReadMemo {
  ino = 0;
  /** `ClusterLock.refreshGen`. */
  grant = 0;
  /** `Trans.holds`. */
  holds = 0;
  /** Bytes. */
  size = 0;
  /** The extent: blocks [start, end) of the file, online, from `blkno` on. */
  start = 0;
  end = 0;
  blkno = 0;
}

export class ReadMemos {
  readonly #places = Array.from({ length: PLACES }, () => new ReadMemo());

  /** The memo of `ino`, or the one that may become it. */
  at(ino: number): ReadMemo {
    return this.#places[ino & (PLACES - 1)]!;
  }
}
