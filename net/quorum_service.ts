/**
 * The quorum service of a member (04 §6): drives the state machine of quorum.ts with a UDP socket,
 * timers, the slot's block on the device, and the server of this mount. It must run where nothing
 * can delay it for long: its own worker, socket and device handle.
 *
 * Invariants: effects are carried out in order, and a failed record ends the service before what
 * follows it; STOP is recorded only when the server is down; with the gate closed nothing is sent
 * or written, STOP and END included (04 §6.5).
 */

import { FormatError } from "../format/bytes.ts";
import {
  QUORUM_EVENT_BEGIN,
  QUORUM_EVENT_ELECT,
  QUORUM_EVENT_END,
  QUORUM_EVENT_FENCE,
  QUORUM_EVENT_STOP,
  QUORUM_EVENT_TERM,
  QUORUM_MAX_SLOTS,
} from "../format/constants.ts";
import { QUORUM_MSG_HEARTBEAT, QUORUM_MSG_TYPES, QuorumMessage } from "../format/quorum.ts";
import type { Device } from "../fs/device.ts";
import type { Ipv4Addr, Random, Reactor, TimerId, UdpSocket } from "../fs/env.ts";
import { assert } from "../fs/errors.ts";
import type { Gate } from "../fs/gate.ts";
import type { Log } from "./log.ts";
import {
  type Effect,
  ELECTION_JITTER_MS,
  ELECTION_TIMEOUT_MS,
  Quorum,
  type Received,
  type Role,
  type ServerState,
  votesNeeded,
} from "./quorum.ts";
import { QuorumTraffic } from "./quorum_status.ts";
import {
  checkSlots,
  mayLead,
  olderMayLead,
  presentSlots,
  previousLeaders,
  type SlotRecord,
  type Slots,
  SmallBlocks,
} from "./quorum_blocks.ts";

/** The server as the quorum service sees it; a proxy when it runs in another worker. */
export interface ServerControl {
  /** Becomes "starting" before `start` returns, and is never "down" while a server could write. */
  readonly state: ServerState;
  /**
   * Begins to start for this term. `inherited`: leaders whom our slot's block named when this mount
   * began and who are not known to be fenced; they must be, besides those on the device.
   */
  start(term: number, inherited: readonly bigint[]): void;
  /** Begins to stop; no effect when down or stopping. */
  stop(): void;
  /** Called after every change of `state`; the quorum service sets it. */
  onState: () => void;
}

export interface QuorumEnv {
  readonly reactor: Reactor;
  readonly random: Random;
  /** Metadata device. */
  readonly device: Device;
  readonly fsid: bigint;
  readonly slots: Slots;
  /** Mount option `quorum_slot_nr`. */
  readonly slot: number;
  readonly rid: bigint;
  readonly gate: Gate;
  /** Mount option `quorum_heartbeat_timeout_ms`, read anew whenever it matters. */
  readonly heartbeatTimeoutMs: () => number;
  readonly server: ServerControl;
  /** True only if that mount can certainly never write again (net/host_record.ts, assume_fenced). */
  readonly knownDead: (rid: bigint) => boolean;
  readonly log: Log;
  /** The service ended by itself: this member does not vote or lead any more (04 §6.6). */
  readonly onFailure: (error: unknown) => void;
}

type Phase = "new" | "running" | "leaving" | "ended";

export class QuorumService {
  readonly #env: QuorumEnv;
  readonly #blocks: SmallBlocks;
  readonly #message = QuorumMessage.alloc();
  #quorum: Quorum | null = null;
  #phase: Phase = "new";
  #socket: UdpSocket | null = null;
  #timer: TimerId | null = null;
  #timerAt = 0;
  /** When the leader last iterated: whoever was away for too long may have been replaced. */
  #lastTurn = 0;
  #serverDown: (() => void)[] = [];
  /**
   * Unstopped leaders of our own slot. Our ELECT overwrites theirs, and a STOP of ours would hide
   * an older FENCE (04 §4.4): until a server of ours is up, which takes that they are fenced, STOP
   * is not recorded, so that whoever leads next still fences them.
   */
  #inherited: bigint[] = [];
  /** ELECT was recorded and STOP not yet: somebody has to fence us. */
  #unaccounted = false;
  #serverEvent = 0;
  readonly #traffic = new QuorumTraffic();

  constructor(env: QuorumEnv) {
    this.#env = env;
    this.#blocks = new SmallBlocks(env.device, env.fsid);
  }

  get role(): Role {
    return this.#quorum?.role ?? "follower";
  }
  get term(): number {
    return this.#quorum?.term ?? 0;
  }
  /** No leadership of this mount lacks its STOP: nobody has to fence it. */
  get accounted(): boolean {
    return !this.#unaccounted;
  }

  /** The content of the control file `quorum/status` (05 §4.4). */
  statusText(): string {
    const quorum = this.#quorum;
    assert(quorum !== null, "the status of a quorum service that was not started");
    return this.#traffic.text({
      slot: this.#env.slot,
      role: quorum.role,
      term: quorum.term,
      serverTerm: quorum.serverTerm,
      serverEvent: this.#serverEvent,
      voteFor: quorum.voteFor,
      voteBits: quorum.voteBits,
      deadline: quorum.deadline,
    }, this.#env.reactor.now());
  }

  /** Binds the slot's address and records BEGIN; throws FsError when the mount must fail. */
  start(): void {
    assert(this.#phase === "new", "quorum service started twice");
    const { slots, slot, reactor, server } = this.#env;
    checkSlots(slots, slot);
    this.#socket = reactor.bindUdp(slots[slot]!, (bytes) => this.#receive(bytes));
    try {
      const records = this.#readableSlots();
      const term = startingTerm(records.readable);
      this.#inherited = previousLeaders(records.readable, Infinity, this.#env.rid)
        .filter((leader) => leader.slot === slot).map((leader) => leader.rid);
      this.#quorum = new Quorum({
        slot,
        votesNeeded: votesNeeded(presentSlots(slots).length),
        term,
        deadline: reactor.now() + this.#firstWait(records),
      });
      this.#record(QUORUM_EVENT_BEGIN, term);
    } catch (e) {
      this.#socket.close();
      throw e;
    }
    this.#phase = "running";
    server.onState = () => this.#serverChanged();
    this.#lastTurn = reactor.now();
    this.#arm();
  }

  /**
   * Leaves cleanly (04 §6.5, H17): waits until the server is down, records STOP and END, tells the
   * others. Resolves at once when the service has ended or the gate is closed.
   */
  async stop(): Promise<void> {
    if (this.#phase !== "running") return;
    this.#phase = "leaving";
    this.#env.server.stop();
    await this.#untilServerDown();
    if (!this.#env.gate.open || this.#phase !== "leaving") return this.#end();
    if (this.#carryOut(this.#quorum!.leave())) {
      this.#record(QUORUM_EVENT_END, this.#quorum!.term);
      this.#end();
    }
  }

  /** All readable blocks of configured slots, and whether every one was. */
  #readableSlots(): { readable: SlotRecord[]; complete: boolean } {
    const readable: SlotRecord[] = [];
    let complete = true;
    for (const nr of presentSlots(this.#env.slots)) {
      try {
        readable.push(this.#blocks.readSlot(nr));
      } catch (e) {
        complete = false;
        this.#env.log(`quorum: ${String(e)}`);
      }
    }
    return { readable, complete };
  }

  /**
   * A recorded leader may be alive: its heartbeats get the long timeout to arrive. Where ours is
   * the only slot nobody else can be leading it, so a leader that is known dead is not waited for.
   */
  #firstWait(records: { readable: SlotRecord[]; complete: boolean }): number {
    const leaders: bigint[] = [];
    for (const r of records.readable) {
      if (mayLead(r)) leaders.push(r.events[QUORUM_EVENT_ELECT].rid);
      if (olderMayLead(r)) leaders.push(r.events[QUORUM_EVENT_FENCE].rid);
    }
    if (records.complete && leaders.length === 0) return this.#electionTimeout();
    const alone = presentSlots(this.#env.slots).length === 1;
    if (records.complete && alone && leaders.every(this.#env.knownDead)) {
      return this.#electionTimeout();
    }
    return this.#env.heartbeatTimeoutMs();
  }

  #electionTimeout(): number {
    return ELECTION_TIMEOUT_MS + this.#env.random.below(ELECTION_JITTER_MS);
  }

  /** Validates a datagram (04 §5); what fails is as if it had not come. */
  #receive(bytes: Uint8Array): void {
    if (this.#phase !== "running" || bytes.length < QuorumMessage.SIZE) return;
    const message = QuorumMessage.at(bytes);
    if (!message.crcOk() || message.fsid !== this.#env.fsid) return;
    if (message.type >= QUORUM_MSG_TYPES || message.from >= QUORUM_MAX_SLOTS) return;
    if (this.#env.slots[message.from] === null) return;
    const term = readTerm(message);
    if (term === null) return;
    const now = this.#env.reactor.now();
    this.#traffic.received(message.from, term, message.type, now);
    if (message.type === QUORUM_MSG_HEARTBEAT) this.#traffic.heartbeat(now);
    else this.#traffic.leaderless();
    this.#turn({ type: message.type, term, from: message.from });
  }

  #serverChanged(): void {
    if (this.#env.server.state === "down") {
      const waiters = this.#serverDown;
      this.#serverDown = [];
      for (const resolve of waiters) resolve();
    }
    if (this.#phase === "running") this.#turn(null);
  }

  #untilServerDown(): Promise<void> {
    if (this.#env.server.state === "down") return Promise.resolve();
    return new Promise((resolve) => this.#serverDown.push(resolve));
  }

  /** One iteration of 04 §6.2, or of the heartbeats while leaving. */
  #turn(message: Received | null): void {
    const { reactor, gate, server } = this.#env;
    if (!gate.open) return this.#end();
    const now = reactor.now();
    if (this.#phase === "leaving") {
      if (server.state !== "down") this.#carryOut(this.#quorum!.heartbeatWhileLeaving(now));
    } else {
      if (this.#stalled(now)) return;
      this.#lastTurn = now;
      this.#carryOut(this.#quorum!.step({
        now,
        message,
        server: server.state,
        heartbeatTimeoutMs: this.#env.heartbeatTimeoutMs(),
        electionTimeoutMs: this.#electionTimeout(),
      }));
    }
    this.#arm();
  }

  /**
   * A leader that did not run for a whole heartbeat timeout (paused machine) may have been fenced
   * and replaced: it must not write again (04 §29). A lone slot has nobody to replace it.
   */
  #stalled(now: number): boolean {
    const { slots, gate, heartbeatTimeoutMs } = this.#env;
    if (this.role !== "leader" || presentSlots(slots).length === 1) return false;
    const away = now - this.#lastTurn;
    if (away <= heartbeatTimeoutMs()) return false;
    this.#env.log(`quorum: leader did not run for ${Math.round(away)} ms, cutting this mount off`);
    gate.close();
    this.#end();
    this.#env.onFailure(new Error("leader stalled for longer than the heartbeat timeout"));
    return true;
  }

  /** False when a record failed and the service is ending. */
  #carryOut(effects: readonly Effect[]): boolean {
    for (const e of effects) {
      switch (e.do) {
        case "record":
          try {
            this.#record(e.event, e.term);
          } catch (error) {
            this.#fail(error);
            return false;
          }
          break;
        case "send":
          this.#send(e.type, e.term, e.to);
          break;
        case "startServer":
          this.#env.server.start(e.term, this.#inherited);
          assert(this.#env.server.state !== "down", "a starting server must say so");
          break;
        case "stopServer":
          this.#env.server.stop();
          break;
        case "log":
          this.#env.log(`quorum: ${e.line}`);
          break;
      }
    }
    return true;
  }

  #record(event: number, term: number): void {
    const { slot, rid, reactor, gate } = this.#env;
    gate.check();
    if (event === QUORUM_EVENT_STOP && this.#inherited.length > 0) {
      this.#env.log("quorum: STOP not recorded, an earlier leader of this slot is not fenced yet");
      return;
    }
    if (event === QUORUM_EVENT_ELECT) this.#unaccounted = true;
    this.#blocks.record(slot, event, term, rid, reactor);
    if (event === QUORUM_EVENT_STOP) this.#unaccounted = false;
    if (event > QUORUM_EVENT_TERM && event < QUORUM_EVENT_END) this.#serverEvent = event;
    if (event === QUORUM_EVENT_FENCE) this.#inherited = [];
  }

  #send(type: number, term: number, to: number | "others"): void {
    if (!this.#env.gate.open) return;
    const m = this.#message;
    m.fsid = this.#env.fsid;
    m.term = term;
    m.type = type;
    m.from = this.#env.slot;
    m.seal();
    this.#env.slots.forEach((addr: Ipv4Addr | null, nr) => {
      const wanted = to === "others" ? nr !== this.#env.slot : nr === to;
      if (addr === null || !wanted) return;
      this.#socket!.send(m.bytes, addr);
      this.#traffic.sent(nr, term, type, this.#env.reactor.now());
    });
  }

  /** H5: a member that cannot keep its block must not go on leading. */
  #fail(error: unknown): void {
    if (this.#phase === "ended") return;
    this.#env.log(`quorum: service failed: ${String(error)}`);
    const quorum = this.#quorum!;
    this.#end();
    this.#env.server.stop();
    void this.#untilServerDown().then(() => {
      try {
        if (this.#env.gate.open) {
          if (quorum.serverTerm > 0) this.#recordLast(quorum);
          this.#record(QUORUM_EVENT_END, quorum.term);
        }
      } catch (e) {
        this.#env.log(`quorum: could not record the end: ${String(e)}`);
      }
      this.#env.onFailure(error);
    });
  }

  #recordLast(quorum: Quorum): void {
    for (const e of quorum.leave()) if (e.do === "record") this.#record(e.event, e.term);
  }

  #end(): void {
    this.#phase = "ended";
    if (this.#timer !== null) this.#env.reactor.clearTimer(this.#timer);
    this.#timer = null;
    this.#socket?.close();
  }

  #arm(): void {
    if (this.#phase !== "running" && this.#phase !== "leaving") return;
    const { reactor } = this.#env;
    const at = this.#quorum!.deadline;
    if (this.#timer !== null) {
      if (this.#timerAt === at) return;
      reactor.clearTimer(this.#timer);
    }
    this.#timerAt = at;
    this.#timer = reactor.setTimer(Math.max(0, at - reactor.now()), () => {
      this.#timer = null;
      this.#turn(null);
    });
  }
}

/** Greatest term of any event that was ever set (04 §6.1). */
function startingTerm(records: readonly SlotRecord[]): number {
  let term = 0;
  for (const r of records) {
    for (const e of r.events) if (e.rid !== 0n && e.term > term) term = e.term;
  }
  return term;
}

/** The datagram's term, or null when it is no sane number. */
function readTerm(message: QuorumMessage): number | null {
  try {
    return message.term;
  } catch (e) {
    if (e instanceof FormatError) return null;
    throw e;
  }
}
