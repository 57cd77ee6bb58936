/**
 * The connection of a mount to whoever leads (04 §12.2, §14): finds the leader on the device,
 * connects, greets, keeps the association over reconnects and changes of server, for as long as
 * the mount lives; says farewell at its end.
 *
 * Invariants: nothing is sent on a socket before its greeting was answered; fsid and format version
 * are checked on the device before connecting (H1); every handler and completion of the old socket
 * has returned before the next attempt begins, since all of them run synchronously (§28, 18);
 * responses to requests of a former server are dropped (H8). Nothing is sent to a server outside of
 * this process before the metadata device was flushed, see `ServerLink.ownServer`.
 */

import { FormatError } from "../format/bytes.ts";
import { ipv4Text } from "../format/block.ts";
import { EMSGSIZE, strerror } from "../format/errno.ts";
import {
  CMD_FAREWELL,
  CMD_GREETING,
  CMD_NAMES,
  Greeting,
  GREETING_FLAG_FAREWELL,
  GREETING_FLAG_QUORUM,
} from "../format/wire.ts";
import type { Device } from "../fs/device.ts";
import type { Random, Reactor, Stream, TimerId } from "../fs/env.ts";
import { assert, FsError } from "../fs/errors.ts";
import type { Gate } from "../fs/gate.ts";
import type { ServerLink } from "../fs/link.ts";
import { type Completion, Connection } from "./connection.ts";
import { encodeFrame, type FrameHeader, FrameReader, ProtocolError } from "./frame.ts";
import { findLeader, type Leader } from "./leader.ts";
import type { Log } from "./log.ts";
import { MountedClientsReader } from "./mounted_clients.ts";
import { SmallBlocks } from "./quorum_blocks.ts";
import { responseSize } from "./requests.ts";

export const CONNECT_TIMEOUT_MS = 1_000;
export const RETRY_DELAY_MS = 100;
/** While a farewell is unanswered, how often the own mounted-client item is looked for (H13). */
const FAREWELL_POLL_MS = 1_000;

export interface ClientEnv {
  readonly reactor: Reactor;
  /** Metadata device. */
  readonly device: Device;
  readonly random: Random;
  readonly fsid: bigint;
  readonly fmtVers: number;
  readonly rid: bigint;
  /** This mount's quorum slot; negative: none. */
  readonly slot: number;
  /** Mount option `tcp_keepalive_timeout_ms`. */
  readonly keepaliveMs: number;
  readonly gate: Gate;
  readonly log: Log;
}

/** Serves a request of the server; see ServerLink.setHandler. */
export type Handler = (payload: Uint8Array, respond: (payload: Uint8Array) => void) => void;

/** `idle` between attempts, `closed` for good. */
export type ClientState = "idle" | "connecting" | "greeting" | "active" | "closed";

export class ClientConnection implements ServerLink {
  readonly #env: ClientEnv;
  readonly #blocks: SmallBlocks;
  readonly #mounted: MountedClientsReader;
  readonly #connection: Connection;
  readonly #handlers = new Map<number, Handler>();
  #state: ClientState = "idle";
  /** Term of the last server that accepted a greeting; 0: none yet. */
  #serverTerm = 0;
  #ownServer = false;
  /** Slot of the leader that is being connected. */
  #leaderSlot = -1;
  #delay = RETRY_DELAY_MS;
  #stream: Stream | null = null;
  #reader: FrameReader | null = null;
  #timer: TimerId | null = null;
  /** A greeting was sent: a server may know this mount, whether or not we heard its answer. */
  #known = false;
  #farewell: { resolve: () => void } | null = null;
  #farewellTimer: TimerId | null = null;
  /** Said since a server last accepted us: an attempt is made ten times a second. */
  readonly #said = new Set<string>();

  constructor(env: ClientEnv) {
    this.#env = env;
    this.#blocks = new SmallBlocks(env.device, env.fsid);
    this.#mounted = new MountedClientsReader(env.device, env.fsid, env.random);
    this.#connection = new Connection({
      gate: env.gate,
      firstSeq: 1,
      ignoreMismatch: false,
      onRequest: (cmd, id, payload) => this.#serve(cmd, id, payload),
    });
  }

  get state(): ClientState {
    return this.#state;
  }
  /** See ServerLink. Whoever leads in this mount's slot is this process: there is one per slot. */
  get ownServer(): boolean {
    return this.#ownServer;
  }
  get serverTerm(): number {
    return this.#serverTerm;
  }

  /** Begins to look for a server, and never gives up. */
  start(): void {
    assert(this.#state === "idle" && this.#timer === null, "client started twice");
    this.#attemptAfter(0);
  }

  request(cmd: number, payload: Uint8Array): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      this.submit(cmd, payload, (errno, response) => {
        const size = responseSize(cmd);
        if (errno !== 0) {
          reject(new FsError(errno, `${CMD_NAMES[cmd]} request failed`));
        } else if (size !== undefined && response.length !== size) {
          reject(new FsError(EMSGSIZE, `${CMD_NAMES[cmd]} response of ${response.length} bytes`));
        } else resolve(response.slice());
      });
    });
  }

  /** See ServerLink. Throws ENOLINK when the link was shut down. */
  submit(cmd: number, payload: Uint8Array, complete: Completion): void {
    this.#env.gate.check();
    this.#connection.request(cmd, payload, complete);
  }

  setHandler(cmd: number, fn: Handler): void {
    this.#handlers.set(cmd, fn);
  }

  /**
   * Leaves the cluster (04 §17.1): resolves when the server has given back everything this mount
   * held, however long that takes; at once if no server ever knew this mount. Then it is closed.
   */
  async farewell(): Promise<void> {
    assert(this.#farewell === null, "farewell said twice");
    if (this.#state !== "closed" && this.#known) {
      await new Promise<void>((resolve) => {
        this.#farewell = { resolve };
        this.submit(CMD_FAREWELL, new Uint8Array(0), (_errno, payload) => {
          if (payload.length !== 0) throw new ProtocolError("FAREWELL response with a payload");
          resolve();
        });
        this.#pollFarewell();
      });
    }
    this.close();
  }

  /** Forced unmount, or the end after a farewell: fails what is pending with ENOLINK. */
  close(): void {
    if (this.#state === "closed") return;
    this.#state = "closed";
    const { reactor } = this.#env;
    if (this.#timer !== null) reactor.clearTimer(this.#timer);
    if (this.#farewellTimer !== null) reactor.clearTimer(this.#farewellTimer);
    this.#reader?.stop();
    this.#stream?.close();
    this.#stream = null;
    this.#connection.abort();
    this.#farewell?.resolve();
  }

  // Attempts (04 §14.2)

  #attemptAfter(ms: number): void {
    this.#timer = this.#env.reactor.setTimer(ms, () => {
      this.#timer = null;
      this.#attempt();
    });
  }

  #attempt(): void {
    const { reactor, gate, keepaliveMs } = this.#env;
    if (!gate.open) return this.close();
    if (this.#farewell !== null && this.#ownItemGone()) return this.#farewell.resolve();
    this.#delay = RETRY_DELAY_MS;
    const leader = this.#lookup();
    if (leader === null) return this.#attemptAfter(this.#delay);
    this.#state = "connecting";
    reactor.connectTcp(leader.addr, CONNECT_TIMEOUT_MS, { keepaliveMs }).then(
      (stream) => this.#connected(stream, leader),
      (e) => {
        if (this.#state === "closed") return;
        this.#sayOnce(`cannot connect to the server at ${addrText(leader)}: ${String(e)}`);
        this.#state = "idle";
        this.#attemptAfter(this.#delay);
      },
    );
  }

  #lookup(): Leader | null {
    try {
      const leader = findLeader(this.#blocks, this.#env.fmtVers);
      if (leader === null) this.#sayOnce("no server yet");
      return leader;
    } catch (e) {
      if (!(e instanceof FsError || e instanceof FormatError)) throw e;
      this.#sayOnce(`cannot look for the server: ${e.message}`);
      return null;
    }
  }

  #sayOnce(line: string): void {
    if (this.#said.has(line)) return;
    this.#said.add(line);
    this.#env.log(line);
  }

  #connected(stream: Stream, leader: Leader): void {
    if (this.#state === "closed") return stream.close();
    this.#state = "greeting";
    this.#stream = stream;
    this.#leaderSlot = leader.slot;
    const reader = new FrameReader("client", (h, payload) => this.#frame(h, payload));
    this.#reader = reader;
    stream.onData = (bytes) => this.#guard(stream, () => reader.feed(bytes));
    stream.onClose = (why) => this.#lost(stream, why);
    const { fsid, fmtVers, rid, slot } = this.#env;
    const greeting = Greeting.alloc();
    greeting.fsid = fsid;
    greeting.fmtVers = fmtVers;
    greeting.serverTerm = this.#serverTerm;
    greeting.rid = rid;
    greeting.flags = (slot >= 0 ? GREETING_FLAG_QUORUM : 0) |
      (this.#farewell !== null ? GREETING_FLAG_FAREWELL : 0);
    this.#known = true;
    const { seq, id } = this.#connection.takeGreetingNumbers();
    stream.send(encodeFrame(seq, id, CMD_GREETING, false, 0, greeting.bytes));
    this.#sayOnce(`connected to the server at ${addrText(leader)}`);
  }

  /** The socket is gone: keeps what is unanswered and tries again. */
  #lost(stream: Stream, why: string): void {
    if (this.#stream !== stream) return;
    this.#stream = null;
    this.#reader?.stop();
    this.#reader = null;
    this.#connection.detach();
    if (this.#state === "closed") return;
    this.#state = "idle";
    this.#sayOnce(`lost the server: ${why}`);
    this.#attemptAfter(this.#delay);
  }

  // Frames

  #frame(h: FrameHeader, payload: Uint8Array): void {
    if (h.cmd === CMD_GREETING) return this.#greeted(h, payload);
    if (this.#state !== "active") throw new ProtocolError("message before the greeting");
    this.#connection.receive(h, payload);
  }

  /** 04 §13.2. */
  #greeted(h: FrameHeader, payload: Uint8Array): void {
    if (h.errno !== 0) {
      throw new ProtocolError(`it refuses us: ${strerror(h.errno)} (${h.errno})`);
    }
    if (payload.length !== Greeting.SIZE) throw new ProtocolError("greeting of a wrong size");
    const g = Greeting.at(payload);
    const { fsid, fmtVers } = this.#env;
    if (g.fsid !== fsid || g.fmtVers !== fmtVers) {
      throw new ProtocolError("the server serves another filesystem or format version");
    }
    if (g.serverTerm !== this.#serverTerm) {
      this.#connection.peerRestarted();
      this.#env.log(`accepted by the server of term ${g.serverTerm}`);
    }
    this.#serverTerm = g.serverTerm;
    this.#ownServer = this.#leaderSlot === this.#env.slot;
    // What was submitted to the own server may tell of blocks that were left to it to flush.
    if (!this.#ownServer) this.#env.device.flush();
    this.#delay = 0;
    this.#said.clear();
    this.#state = "active";
    this.#connection.attach(this.#stream!);
  }

  #serve(cmd: number, id: number, payload: Uint8Array): void {
    const handler = this.#handlers.get(cmd);
    if (handler === undefined) throw new ProtocolError(`no handler for ${CMD_NAMES[cmd]}`);
    const term = this.#serverTerm;
    handler(payload, (response) => {
      // What a former server asked is not the present one's business (H8).
      if (this.#serverTerm !== term || this.#state === "closed") return;
      this.#connection.respond(cmd, id, 0, response);
    });
  }

  /** Protocol errors close the socket (04 §11.3); anything else is a defect and surfaces. */
  #guard(stream: Stream, run: () => void): void {
    try {
      run();
    } catch (e) {
      if (!(e instanceof ProtocolError || e instanceof FormatError || e instanceof FsError)) {
        throw e;
      }
      stream.close();
      this.#lost(stream, e.message);
    }
  }

  // Farewell

  /** Certain only if the tree could be read; anything else means "try on". */
  #ownItemGone(): boolean {
    try {
      return !this.#mounted.has(this.#env.rid);
    } catch (e) {
      if (!(e instanceof FsError || e instanceof FormatError)) throw e;
      this.#sayOnce(`cannot read the mounted clients: ${e.message}`);
      return false;
    }
  }

  #pollFarewell(): void {
    this.#farewellTimer = this.#env.reactor.setTimer(FAREWELL_POLL_MS, () => {
      this.#farewellTimer = null;
      if (this.#state === "closed") return;
      if (!this.#env.gate.open) return this.close();
      // While a greeting is being answered, our item may be about to be made.
      if (this.#state !== "greeting" && this.#ownItemGone()) return this.#farewell?.resolve();
      this.#pollFarewell();
    });
  }
}

const addrText = (l: Leader): string => `${ipv4Text(l.addr.addr)}:${l.addr.port}`;
