/**
 * What the quorum service of a member tells about itself (05 §4.4): the messages it exchanged with
 * each slot, heartbeats that came late, and the text of the `quorum/status` file.
 */

import type { Role } from "./quorum.ts";

/** A message to or from a slot. */
interface Exchange {
  term: number;
  type: number;
  /** Monotonic milliseconds. */
  at: number;
}

/** A heartbeat that followed the one before by so many whole seconds. */
interface Delay {
  count: number;
  /** Monotonic milliseconds of the last one. */
  at: number;
}

/** The state of the machine at one moment. */
export interface QuorumState {
  readonly slot: number;
  readonly role: Role;
  readonly term: number;
  /** Term of the server that is to be accounted for; 0: none. */
  readonly serverTerm: number;
  /** QUORUM_EVENT_… that concerned the server last; 0: none did. */
  readonly serverEvent: number;
  /** The slot that has our vote of this term; −1: none. */
  readonly voteFor: number;
  /** Slots that voted for us, by bit. */
  readonly voteBits: number;
  /** Monotonic milliseconds of the next timeout. */
  readonly deadline: number;
}

const ROLE_NUMBERS: Record<Role, number> = { follower: 0, candidate: 1, leader: 2 };

/** The messages of one quorum service. */
export class QuorumTraffic {
  readonly #sent = new Map<number, Exchange>();
  readonly #received = new Map<number, Exchange>();
  readonly #delays = new Map<number, Delay>();
  #lastHeartbeat: number | null = null;

  sent(slot: number, term: number, type: number, now: number): void {
    note(this.#sent, slot, term, type, now);
  }

  received(slot: number, term: number, type: number, now: number): void {
    note(this.#received, slot, term, type, now);
  }

  /** A leader's heartbeat arrived. */
  heartbeat(now: number): void {
    const last = this.#lastHeartbeat;
    this.#lastHeartbeat = now;
    if (last === null) return;
    const secs = Math.floor((now - last) / 1000);
    if (secs < 1) return;
    const delay = this.#delays.get(secs);
    if (delay === undefined) this.#delays.set(secs, { count: 1, at: now });
    else {
      delay.count++;
      delay.at = now;
    }
  }

  /** There is no leader whose next heartbeat could be late. */
  leaderless(): void {
    this.#lastHeartbeat = null;
  }

  /** The content of `quorum/status`. */
  text(state: QuorumState, now: number): string {
    const votes = state.voteBits.toString(2).replaceAll("0", "").length;
    const lines = [
      `quorum_slot_nr ${state.slot}`,
      `term ${state.term}`,
      `server_start_term ${state.serverTerm}`,
      `server_event ${state.serverEvent}`,
      `role ${ROLE_NUMBERS[state.role]} (${state.role})`,
      `vote_for ${state.voteFor}`,
      `vote_bits 0x${state.voteBits.toString(16)} (count ${votes})`,
      `timeout_in_secs ${seconds(state.deadline - now)}`,
    ];
    for (const [name, map] of [["send to", this.#sent], ["recv from", this.#received]] as const) {
      for (const [slot, x] of [...map].sort((a, b) => a[0] - b[0])) {
        lines.push(
          `last_${name} ${slot} term ${x.term} type ${x.type} secs_since ${seconds(now - x.at)}`,
        );
      }
    }
    if (this.#delays.size > 0) {
      lines.push("HB Delay(s)      Count  Secs Since");
      for (const [secs, d] of [...this.#delays].sort((a, b) => a[0] - b[0])) {
        const [delay, count] = [String(secs).padStart(11), String(d.count).padStart(9)];
        lines.push(`${delay}  ${count}  ${seconds(now - d.at)}`);
      }
    }
    return lines.map((line) => `${line}\n`).join("");
  }
}

function note(
  map: Map<number, Exchange>,
  slot: number,
  term: number,
  type: number,
  at: number,
): void {
  const x = map.get(slot);
  if (x === undefined) map.set(slot, { term, type, at });
  else Object.assign(x, { term, type, at });
}

/** Milliseconds as seconds with nine decimals; not below zero. */
function seconds(ms: number): string {
  return (Math.max(0, ms) / 1000).toFixed(9);
}
