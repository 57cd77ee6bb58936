/**
 * Fence requests of a server (04 §18.1): "cut this mount off from the devices, then tell me". Each
 * is fenced, errored, or errored by its 30 s limit; whatever agents are configured are asked, the
 * first answer counts. A mount that is known dead needs no agent.
 *
 * Invariants: one request per rid; the state only changes away from pending, once; "fenced" is
 * never assumed from anything but an agent's answer or a proof of death.
 */

import type { TimerId, Timers } from "../fs/env.ts";
import type { Log } from "./log.ts";
import { ipv4Text } from "../format/block.ts";

export type FenceReason = "client_recovery" | "client_reconnect" | "quorum_block_leader";
export type FenceState = "pending" | "fenced" | "error";

/** Limit for agents to serve a request. */
export const FENCE_LIMIT_MS = 30_000;

export interface FenceRequest {
  readonly rid: bigint;
  /** IPv4 address as a number. */
  readonly ip: number;
  readonly reason: FenceReason;
  /** Monotonic milliseconds. */
  readonly createdAt: number;
  readonly state: FenceState;
}

/** Something that can fence: a daemon watching a directory, a command, an oracle in tests. */
export interface FenceAgent {
  /**
   * Sets out to fence; calls `answer(true)` when that mount can never write again, `answer(false)`
   * when fencing failed; not from inside this call. Throws FsError when it cannot even begin.
   */
  publish(request: FenceRequest, answer: (ok: boolean) => void): void;
  /** The request is gone; the agent may still answer, in vain. */
  withdraw(rid: bigint): void;
}

export interface FenceEnv {
  readonly timers: Timers;
  readonly agents: readonly FenceAgent[];
  /** True only if that mount can certainly never write again. */
  readonly knownDead: (rid: bigint) => boolean;
  readonly log: Log;
}

export const ridText = (rid: bigint): string => rid.toString(16).padStart(16, "0");

/** `f.XXXXXX.r.YYYYYY`: what messages and directories call a mount of a volume. */
export function mountName(fsid: bigint, rid: bigint): string {
  return `f.${ridText(fsid).slice(0, 6)}.r.${ridText(rid).slice(0, 6)}`;
}

interface Entry extends FenceRequest {
  state: FenceState;
  timer: TimerId | null;
}

export class FenceRequests {
  /** Called after a request left the pending state. */
  onChange: () => void = () => {};
  readonly #env: FenceEnv;
  readonly #requests = new Map<bigint, Entry>();

  constructor(env: FenceEnv) {
    this.#env = env;
  }

  /** Starts a request; no effect if there is one for `rid` (its first reason stays). */
  start(rid: bigint, ip: number, reason: FenceReason): void {
    if (this.#requests.has(rid)) return;
    const { timers, agents, knownDead, log } = this.#env;
    const entry: Entry = {
      rid,
      ip,
      reason,
      createdAt: timers.now(),
      state: "pending",
      timer: null,
    };
    this.#requests.set(rid, entry);
    if (knownDead(rid)) {
      log(`fencing ${ridText(rid)} (${reason}): its mount is known to be dead`);
      this.#settle(entry, "fenced");
      return;
    }
    log(`fencing ${ridText(rid)} at ${ipv4Text(ip)} (${reason})`);
    entry.timer = timers.setTimer(FENCE_LIMIT_MS, () => {
      entry.timer = null;
      log(`fencing ${ridText(rid)} was not confirmed within ${FENCE_LIMIT_MS / 1000} s`);
      this.#settle(entry, "error");
    });
    for (const agent of agents) {
      agent.publish(entry, (ok) => this.#settle(entry, ok ? "fenced" : "error"));
    }
  }

  stateOf(rid: bigint): FenceState | null {
    return this.#requests.get(rid)?.state ?? null;
  }

  /** Requests that an agent or proof of death may still settle: looks for such proof again. */
  recheck(): void {
    for (const entry of this.#requests.values()) {
      if (entry.state === "pending" && this.#env.knownDead(entry.rid)) {
        this.#settle(entry, "fenced");
      }
    }
  }

  get isEmpty(): boolean {
    return this.#requests.size === 0;
  }
  get anyPending(): boolean {
    return this.#some("pending");
  }
  get anyErrored(): boolean {
    return this.#some("error");
  }

  /** Any one request that is not pending any more. */
  nextSettled(): FenceRequest | null {
    for (const entry of this.#requests.values()) if (entry.state !== "pending") return entry;
    return null;
  }

  remove(rid: bigint): void {
    const entry = this.#requests.get(rid);
    if (entry === undefined) return;
    this.#requests.delete(rid);
    this.#stopTimer(entry);
    for (const agent of this.#env.agents) agent.withdraw(rid);
  }

  /** The server stops: all requests vanish; the next leader makes its own. */
  clear(): void {
    for (const rid of [...this.#requests.keys()]) this.remove(rid);
    this.onChange();
  }

  /**
   * Resolves with true when every request is fenced, false when one errored or time ran out (04 §8;
   * an error is a failure, H4) or the requests were cleared.
   */
  untilAllFenced(ms: number): Promise<boolean> {
    const { timers } = this.#env;
    const before = this.onChange;
    return new Promise((resolve) => {
      const finish = (fenced: boolean): void => {
        timers.clearTimer(limit);
        this.onChange = before;
        resolve(fenced);
      };
      const look = (): void => {
        if (this.anyErrored) finish(false);
        else if (!this.anyPending) finish(true);
      };
      const limit = timers.setTimer(ms, () => finish(false));
      this.onChange = look;
      look();
    });
  }

  #some(state: FenceState): boolean {
    for (const entry of this.#requests.values()) if (entry.state === state) return true;
    return false;
  }

  #settle(entry: Entry, state: "fenced" | "error"): void {
    if (entry.state !== "pending" || this.#requests.get(entry.rid) !== entry) return;
    entry.state = state;
    this.#stopTimer(entry);
    this.#env.log(`fence request for ${ridText(entry.rid)}: ${state}`);
    this.onChange();
  }

  #stopTimer(entry: Entry): void {
    if (entry.timer !== null) this.#env.timers.clearTimer(entry.timer);
    entry.timer = null;
  }
}
