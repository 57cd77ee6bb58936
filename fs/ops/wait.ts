/**
 * Waiting for offline data (02 §17.3, §17.4). A waiter is a record in this mount's list while its
 * operation holds nothing: no claim, no lock, no hold. It is woken to start over whenever offline
 * blocks of its inode disappear, the inode's lock is lost, a signal comes (EINTR), or an error is
 * injected (DATA_WAIT_ERR). Waiting is local to the mount.
 */

import { errnoError, FsError } from "../errors.ts";
import { EINTR } from "../../format/errno.ts";

/** Operation bits of waiters (05 §7.2). */
export {
  IOC_WAIT_OP_CHANGE_SIZE as WAIT_CHANGE_SIZE,
  IOC_WAIT_OP_READ as WAIT_READ,
  IOC_WAIT_OP_WRITE as WAIT_WRITE,
} from "../../format/ioctl.ts";

/** Names a request so that a signal finds its wait: the FUSE request's unique number. */
export type RequestId = number | bigint;

/** One line of DATA_WAITING: waiters of one block, their operation bits ored. */
export interface WaitingEntry {
  ino: number;
  iblock: number;
  op: number;
}

interface Waiter {
  readonly ino: number;
  readonly iblock: number;
  readonly op: number;
  readonly id: RequestId;
  readonly resolve: () => void;
  readonly reject: (e: FsError) => void;
}

export class DataWaiters {
  readonly #byIno = new Map<number, Set<Waiter>>();
  readonly #byId = new Map<RequestId, Waiter>();
  #changes = 0;
  #closed: FsError | null = null;

  /**
   * To be sampled while the lock under which the offline extent was seen is still held, and given
   * to `park`: a wake-up in between is not lost.
   */
  get changes(): number {
    return this.#changes;
  }

  get size(): number {
    return this.#byId.size;
  }

  /** Resolves when it is time to look again; rejects with EINTR or the injected error. */
  park(
    ino: number,
    iblock: number,
    op: number,
    id: RequestId,
    sampledChanges: number,
  ): Promise<void> {
    if (this.#closed !== null) return Promise.reject(this.#closed);
    if (this.#changes !== sampledChanges) return Promise.resolve();
    return new Promise((resolve, reject) => {
      const waiter: Waiter = { ino, iblock, op, id, resolve, reject };
      const waiters = this.#byIno.get(ino);
      if (waiters === undefined) this.#byIno.set(ino, new Set([waiter]));
      else waiters.add(waiter);
      this.#byId.set(id, waiter);
    });
  }

  /** Offline blocks of `ino` became fewer. */
  wake(ino: number): void {
    this.#changes++;
    const waiters = this.#byIno.get(ino);
    if (waiters === undefined) return;
    for (const w of [...waiters]) {
      this.#remove(w);
      w.resolve();
    }
  }

  /** The lock of the inodes `first`…`last` was lost. */
  wakeRange(first: number, last: number): void {
    this.#changes++;
    if (this.#byIno.size === 0) return;
    for (const ino of [...this.#byIno.keys()]) if (ino >= first && ino <= last) this.wake(ino);
  }

  /** A signal for the request: its wait, if it waits, ends with EINTR. Whether it did wait. */
  interrupt(id: RequestId): boolean {
    const waiter = this.#byId.get(id);
    if (waiter === undefined) return false;
    this.#remove(waiter);
    waiter.reject(errnoError(EINTR));
    return true;
  }

  /** DATA_WAIT_ERR: `errno` to every waiter of blocks `first`…`last` with one of the op bits. */
  fail(ino: number, first: number, last: number, op: number, errno: number): number {
    this.#changes++;
    let found = 0;
    for (const w of [...this.#byIno.get(ino) ?? []]) {
      if (w.iblock < first || w.iblock > last || (w.op & op) === 0) continue;
      this.#remove(w);
      w.reject(errnoError(errno));
      found++;
    }
    return found;
  }

  /** Unmount: everybody waiting, and whoever comes later, gets `errno`. */
  close(errno: number): void {
    this.#closed = errnoError(errno);
    for (const w of [...this.#byId.values()]) {
      this.#remove(w);
      w.reject(this.#closed);
    }
  }

  /** Waiters strictly after (ino, iblock) in that order, one entry per position, at most `max`. */
  list(afterIno: number, afterBlock: number, max: number): WaitingEntry[] {
    const found: WaitingEntry[] = [];
    for (const w of this.#byId.values()) {
      if (w.ino > afterIno || (w.ino === afterIno && w.iblock > afterBlock)) {
        found.push({ ino: w.ino, iblock: w.iblock, op: w.op });
      }
    }
    found.sort((a, b) => a.ino - b.ino || a.iblock - b.iblock);
    const merged: WaitingEntry[] = [];
    for (const e of found) {
      const last = merged.at(-1);
      if (last !== undefined && last.ino === e.ino && last.iblock === e.iblock) last.op |= e.op;
      else if (merged.length === max) break;
      else merged.push(e);
    }
    return merged;
  }

  #remove(w: Waiter): void {
    this.#byId.delete(w.id);
    const waiters = this.#byIno.get(w.ino)!;
    waiters.delete(w);
    if (waiters.size === 0) this.#byIno.delete(w.ino);
  }
}
