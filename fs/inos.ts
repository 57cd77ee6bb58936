/**
 * Inode numbers of this mount (02 §5.1): pools of numbers got from the server, handed out one by
 * one, never returned. Directories have a pool of their own unless `ino_alloc_per_lock` is below
 * 1024.
 */

import { INODE_GROUP_SIZE } from "../format/constants.ts";
import { FormatError } from "../format/bytes.ts";
import { CMD_ALLOC_INODES, NetAllocInodes, NetU64 } from "../format/wire.ts";
import { assert, noSpace } from "./errors.ts";
import type { ServerLink } from "./link.ts";
import type { Op } from "./op.ts";

const BATCH = 10 * INODE_GROUP_SIZE;
/** Numbers left in a pool at which the next batch is fetched while operations go on. */
const PREFETCH_AT = BATCH / 2;

class Pool {
  /** The next number to hand out; `next === end`: empty. */
  next = 0;
  end = 0;
  /** The batch after this one; start === end: none. */
  spareNext = 0;
  spareEnd = 0;
  flight: Promise<void> | null = null;
}

export class Inos {
  readonly #dirs = new Pool();
  readonly #others = new Pool();

  constructor(
    private readonly link: ServerLink,
    private readonly options: { readonly inoAllocPerLock: number },
  ) {}

  #pool(isDir: boolean): Pool {
    return isDir && this.options.inoAllocPerLock >= INODE_GROUP_SIZE ? this.#dirs : this.#others;
  }

  /**
   * The number that `take` will hand out if it is called in this run; takes nothing. Suspends for a
   * new batch; throws ENOSPC when the server has no numbers left.
   */
  peek(op: Op, isDir: boolean): number {
    const pool = this.#pool(isDir);
    if (pool.next === pool.end && pool.spareNext < pool.spareEnd) this.#shift(pool);
    if (pool.next === pool.end) op.waitPinned(this.#fetch(pool));
    return pool.next;
  }

  /** In apply: the number that `peek` showed is used. */
  take(isDir: boolean): number {
    const pool = this.#pool(isDir);
    assert(pool.next < pool.end, "an inode number is taken that was not looked at");
    const ino = pool.next++;
    const perLock = this.options.inoAllocPerLock;
    const inGroup = pool.next % INODE_GROUP_SIZE;
    if (perLock < INODE_GROUP_SIZE && inGroup >= perLock) {
      pool.next = Math.min(pool.end, pool.next + INODE_GROUP_SIZE - inGroup);
    }
    if (pool.end - pool.next === PREFETCH_AT && pool.spareNext === pool.spareEnd) {
      // Whoever needs the batch asks again and gets the error.
      this.#fetch(pool).catch(() => {});
    }
    return ino;
  }

  #shift(pool: Pool): void {
    pool.next = pool.spareNext;
    pool.end = pool.spareEnd;
    pool.spareNext = pool.spareEnd = 0;
  }

  #fetch(pool: Pool): Promise<void> {
    pool.flight ??= this.#request(pool).finally(() => pool.flight = null);
    return pool.flight;
  }

  async #request(pool: Pool): Promise<void> {
    const count = NetU64.alloc();
    count.value = BATCH;
    const payload = await this.link.request(CMD_ALLOC_INODES, count.bytes);
    if (payload.length !== NetAllocInodes.SIZE) throw new FormatError("inodes of a wrong size");
    const { ino, nr } = NetAllocInodes.at(payload);
    if (nr === 0) throw noSpace();
    pool.spareNext = ino;
    pool.spareEnd = ino + nr;
    if (pool.next === pool.end) this.#shift(pool);
  }
}
