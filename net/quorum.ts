/**
 * The quorum state machine (04 §6) without I/O, clock or randomness of its own: one call of `step`
 * is one iteration of the loop of §6.2, `Effect`s come out and must be carried out in order.
 *
 * Invariants (04 §28): the term never decreases; a term or an election is recorded on disk before
 * anything that depends on it is sent; one mount supports at most one candidate per term, itself
 * included (H6): candidacy is a vote for oneself that lasts for the term, whatever becomes of the
 * candidate, and nobody votes in the term in which it started.
 */

import {
  QUORUM_EVENT_ELECT,
  QUORUM_EVENT_FENCE,
  QUORUM_EVENT_STOP,
  QUORUM_EVENT_TERM,
} from "../format/constants.ts";
import {
  QUORUM_MSG_HEARTBEAT as HEARTBEAT,
  QUORUM_MSG_REQUEST_VOTE as REQUEST_VOTE,
  QUORUM_MSG_RESIGNATION as RESIGNATION,
  QUORUM_MSG_VOTE as VOTE,
} from "../format/quorum.ts";
import { assert } from "../fs/errors.ts";

/** Names of the message types of 04 §5, by number. */
export const MESSAGE_NAMES = ["REQUEST_VOTE", "VOTE", "HEARTBEAT", "RESIGNATION"] as const;

export const ELECTION_TIMEOUT_MS = 250;
/** Uniform random milliseconds 0 … 99 are added to every election timeout. */
export const ELECTION_JITTER_MS = 100;
export const HEARTBEAT_INTERVAL_MS = 100;

export type Role = "follower" | "candidate" | "leader";
export type ServerState = "down" | "starting" | "up" | "stopping";

/** A received datagram that passed the checks of 04 §5. */
export interface Received {
  readonly type: number;
  readonly term: number;
  readonly from: number;
}

/** What the driver must do, in order; a failed `record` ends the service before the rest. */
export type Effect =
  | { readonly do: "record"; readonly event: number; readonly term: number }
  | {
    readonly do: "send";
    readonly type: number;
    readonly term: number;
    readonly to: number | "others";
  }
  | { readonly do: "startServer"; readonly term: number }
  | { readonly do: "stopServer" }
  | { readonly do: "log"; readonly line: string };

export interface QuorumParams {
  /** Our slot number. */
  readonly slot: number;
  /** Votes that win an election (`votesNeeded`). */
  readonly votesNeeded: number;
  /** Greatest term found on disk. */
  readonly term: number;
  /** First deadline, in the driver's milliseconds. */
  readonly deadline: number;
}

/** What one iteration sees of the world. */
export interface StepInput {
  /** Monotonic milliseconds. */
  readonly now: number;
  /** A valid datagram, or null for a timeout or another wake-up. */
  readonly message: Received | null;
  readonly server: ServerState;
  /** Mount option `quorum_heartbeat_timeout_ms`, read anew every iteration. */
  readonly heartbeatTimeoutMs: number;
  /** Election timeout including its jitter, drawn anew every iteration. */
  readonly electionTimeoutMs: number;
}

/** Votes that win, of `n` configured slots (04 §3). */
export function votesNeeded(n: number): number {
  assert(n >= 1 && n <= 15, `${n} quorum slots`);
  return n <= 2 ? 1 : Math.floor(n / 2) + 1;
}

export class Quorum {
  role: Role = "follower";
  term: number;
  /** Iterate again at this time at the latest. */
  deadline: number;
  /** Term of the server to account for with STOP; 0: none. */
  serverTerm = 0;
  /** The slot that has our vote of this term; null: still to give. Our own slot when spent. */
  #votedFor: number | null;
  readonly #votes = new Set<number>();
  #fenceRecorded = false;
  readonly #slot: number;
  readonly #needed: number;
  #effects: Effect[] = [];

  constructor(params: QuorumParams) {
    this.#slot = params.slot;
    this.#needed = params.votesNeeded;
    this.term = params.term;
    this.deadline = params.deadline;
    this.#votedFor = params.slot;
  }

  /** The slot that has our vote of this term; −1: none. */
  get voteFor(): number {
    return this.#votedFor ?? -1;
  }
  /** The slots that voted for us, by bit. */
  get voteBits(): number {
    let bits = 0;
    for (const slot of this.#votes) bits |= 1 << slot;
    return bits;
  }

  /** One iteration of 04 §6.2, steps 1 to 12 in order. */
  step(input: StepInput): Effect[] {
    this.#effects = [];
    const { now, server } = input;
    let message = input.message;

    if (message !== null && message.term < this.term) message = null;
    if (message !== null && message.term > this.term) this.#adoptTerm(message, input);
    if (message !== null && message.type === HEARTBEAT) this.#hearHeartbeat(message, input);
    if (message !== null && message.type === RESIGNATION) this.#hearResignation(input);
    if (this.role !== "leader" && message === null && now >= this.deadline) {
      if (server !== "down") {
        // Our server of an earlier leadership is still stopping: do not compete with it.
        this.deadline = now + input.electionTimeoutMs;
        this.#stopUnwantedServer(server);
        return this.#effects;
      }
      if (this.serverTerm > 0) this.#accountForServer(input); // STOP before another ELECT
      this.#standForElection(input);
    }
    if (message !== null && message.type === VOTE) this.#countVote(message);
    if (this.role === "candidate" && this.#votes.size >= this.#needed) this.#becomeLeader(input);
    this.#recordFence(server);
    this.#stopUnwantedServer(server);
    // A server started in this very iteration has not had the chance to leave "down".
    if (this.serverTerm > 0 && server === "down" && !this.#startedNow()) {
      this.#accountForServer(input);
    }
    if (this.role === "leader" && now >= this.deadline) {
      this.#emit({ do: "send", type: HEARTBEAT, term: this.term, to: "others" });
      this.deadline = now + HEARTBEAT_INTERVAL_MS;
    }
    if (message !== null && message.type === REQUEST_VOTE) this.#vote(message);
    return this.#effects;
  }

  /** On the way out (04 §6.5): a leader whose server still stops keeps its followers calm. */
  heartbeatWhileLeaving(now: number): Effect[] {
    this.#effects = [];
    if (this.role === "leader") {
      this.#emit({ do: "send", type: HEARTBEAT, term: this.term, to: "others" });
    }
    this.deadline = now + HEARTBEAT_INTERVAL_MS;
    return this.#effects;
  }

  /** The server is down and the service ends: what is left to record and send. */
  leave(): Effect[] {
    this.#effects = [];
    if (this.serverTerm > 0) this.#resign();
    return this.#effects;
  }

  #emit(effect: Effect): void {
    this.#effects.push(effect);
  }

  #startedNow(): boolean {
    return this.#effects.some((e) => e.do === "startServer");
  }

  /** Step 2: any message of a higher term makes us a follower in that term. */
  #adoptTerm(message: Received, input: StepInput): void {
    if (this.role === "leader") {
      const name = MESSAGE_NAMES[message.type];
      this.#emit({
        do: "log",
        line: `leader of term ${this.term} heard ${name} of term ${message.term} from slot ` +
          `${message.from}, stepping down`,
      });
    }
    assert(message.term > this.term, "terms only grow");
    this.role = "follower";
    this.term = message.term;
    this.#votedFor = null;
    this.#votes.clear();
    this.deadline = input.now +
      (message.type === HEARTBEAT ? input.heartbeatTimeoutMs : input.electionTimeoutMs);
    this.#emit({ do: "record", event: QUORUM_EVENT_TERM, term: this.term });
  }

  /** Step 3; a leader must not put off its own heartbeats (H7). */
  #hearHeartbeat(message: Received, input: StepInput): void {
    if (this.role === "leader") {
      this.#emit({
        do: "log",
        line: `slot ${message.from} also claims to lead term ${message.term}`,
      });
      return;
    }
    this.deadline = input.now + input.heartbeatTimeoutMs;
  }

  /** Step 4. */
  #hearResignation(input: StepInput): void {
    if (this.role === "follower") this.deadline = input.now + input.electionTimeoutMs;
  }

  /** Step 5: candidacy, recorded before it is announced. */
  #standForElection(input: StepInput): void {
    assert(
      this.role !== "leader" && input.server === "down",
      "only a member without server stands",
    );
    this.role = "candidate";
    this.term++;
    this.#votedFor = this.#slot;
    this.#votes.clear();
    this.#votes.add(this.#slot);
    this.deadline = input.now + input.electionTimeoutMs;
    this.#emit({ do: "record", event: QUORUM_EVENT_TERM, term: this.term });
    this.#emit({ do: "send", type: REQUEST_VOTE, term: this.term, to: "others" });
  }

  /** Step 6. */
  #countVote(message: Received): void {
    if (this.role === "candidate") this.#votes.add(message.from);
  }

  /** Step 7. */
  #becomeLeader(input: StepInput): void {
    assert(this.serverTerm === 0 && input.server === "down", "elected while a server is accounted");
    this.role = "leader";
    this.serverTerm = this.term;
    this.#fenceRecorded = false;
    this.deadline = input.now + HEARTBEAT_INTERVAL_MS;
    this.#emit({ do: "record", event: QUORUM_EVENT_ELECT, term: this.term });
    this.#emit({ do: "send", type: HEARTBEAT, term: this.term, to: "others" });
    this.#emit({ do: "startServer", term: this.term });
  }

  /** Step 8: our server is up, so every earlier leader is fenced. */
  #recordFence(server: ServerState): void {
    if (
      this.role === "leader" && this.term === this.serverTerm && !this.#fenceRecorded &&
      server === "up"
    ) {
      this.#emit({ do: "record", event: QUORUM_EVENT_FENCE, term: this.term });
      this.#fenceRecorded = true;
    }
  }

  /** Step 9. */
  #stopUnwantedServer(server: ServerState): void {
    const wanted = this.role === "leader" && this.term === this.serverTerm;
    if (!wanted && (server === "starting" || server === "up")) this.#emit({ do: "stopServer" });
  }

  /** Step 10: a server of ours is down. */
  #accountForServer(input: StepInput): void {
    if (this.role === "leader") {
      this.role = "follower";
      this.#votes.clear();
      this.deadline = input.now + input.electionTimeoutMs;
      this.#resign();
    } else {
      this.#emit({ do: "record", event: QUORUM_EVENT_STOP, term: this.serverTerm });
      this.serverTerm = 0;
    }
  }

  /** STOP is recorded before the others are told, so that no one need fence us. */
  #resign(): void {
    this.#emit({ do: "record", event: QUORUM_EVENT_STOP, term: this.serverTerm });
    this.#emit({ do: "send", type: RESIGNATION, term: this.serverTerm, to: "others" });
    this.serverTerm = 0;
  }

  /** Step 12. Steps 1 and 2 made the terms equal. */
  #vote(message: Received): void {
    assert(message.term === this.term, "vote for another term");
    if (this.role !== "follower" || this.#votedFor !== null) return;
    this.#votedFor = message.from;
    this.#emit({ do: "send", type: VOTE, term: this.term, to: message.from });
  }
}
