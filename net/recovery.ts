/**
 * Recovery after a server change (04 §16): which mounted clients still have to greet and to report
 * their locks. Pure bookkeeping plus one 30 s timer.
 *
 * Invariants (04 §28, 31): every rid pending at the start is cleared by recovering or by reclaim;
 * "finished" happens exactly once; nothing is granted while a rid has LOCKS pending.
 */

import type { TimerId, Timers } from "../fs/env.ts";
import { assert } from "../fs/errors.ts";

export const RECOVERY_TIMEOUT_MS = 30_000;

export const PENDING_GREETING = 1;
export const PENDING_LOCKS = 2;

export interface RecoveryEnv {
  readonly timers: Timers;
  /** All is recovered: answer what was queued. Called once, from `begin` or a `clear`. */
  readonly onFinished: () => void;
  /** The time is up for these: fence them. The timer is not set again. */
  readonly onTimeout: (rids: bigint[]) => void;
}

export class Recovery {
  readonly #env: RecoveryEnv;
  readonly #pending = new Map<bigint, number>();
  #greetings = 0;
  #locks = 0;
  #timer: TimerId | null = null;
  #state: "new" | "running" | "finished" | "stopped" = "new";

  constructor(env: RecoveryEnv) {
    this.#env = env;
  }

  /** Everybody who may hold resources has to come back. */
  begin(rids: readonly bigint[]): void {
    assert(this.#state === "new", "recovery begun twice");
    this.#state = "running";
    for (const rid of rids) this.#pending.set(rid, PENDING_GREETING | PENDING_LOCKS);
    this.#greetings = this.#locks = this.#pending.size;
    if (this.#pending.size > 0) {
      this.#timer = this.#env.timers.setTimer(RECOVERY_TIMEOUT_MS, () => {
        this.#timer = null;
        this.#env.onTimeout(this.pendingRids());
      });
    }
    this.#finishIfDone();
  }

  /** Whether any rid has not greeted yet: open-map requests wait. */
  get greetingsPending(): boolean {
    return this.#greetings > 0;
  }
  /** Whether any rid has locks to report: LOCK requests wait. */
  get locksPending(): boolean {
    return this.#locks > 0;
  }
  get finished(): boolean {
    return this.#state === "finished";
  }

  hasLocksPending(rid: bigint): boolean {
    return ((this.#pending.get(rid) ?? 0) & PENDING_LOCKS) !== 0;
  }

  pendingRids(): bigint[] {
    return [...this.#pending.keys()];
  }

  /** Clears PENDING_* bits of `rid`; returns whether any was set. */
  clear(rid: bigint, bits: number): boolean {
    const had = this.#pending.get(rid);
    if (had === undefined || (had & bits) === 0) return false;
    const gone = had & bits;
    if ((gone & PENDING_GREETING) !== 0) this.#greetings--;
    if ((gone & PENDING_LOCKS) !== 0) this.#locks--;
    if (had === gone) this.#pending.delete(rid);
    else this.#pending.set(rid, had & ~gone);
    this.#finishIfDone();
    return true;
  }

  /** The server stops: nothing is called any more. */
  stop(): void {
    this.#state = "stopped";
    this.#pending.clear();
    this.#greetings = this.#locks = 0;
    this.#stopTimer();
  }

  #finishIfDone(): void {
    if (this.#state !== "running" || this.#pending.size > 0) return;
    this.#state = "finished";
    this.#stopTimer();
    this.#env.onFinished();
  }

  #stopTimer(): void {
    if (this.#timer !== null) this.#env.timers.clearTimer(this.#timer);
    this.#timer = null;
  }
}
