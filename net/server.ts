/**
 * The server of a quorum member (04 §15): DOWN → STARTING → UP → STOPPING → DOWN, started and
 * stopped by the quorum service only.
 *
 * Invariants (04 §28): the super is read only after every earlier leader was fenced (8), and in
 * the term for which this server was elected; "down" means that this server will never write
 * again (9); a failed start leaves nothing behind.
 */

import { ipv4Text } from "../format/block.ts";
import { EIO } from "../format/errno.ts";
import type { Device } from "../fs/device.ts";
import type { Listener, Reactor } from "../fs/env.ts";
import { assert, FsError } from "../fs/errors.ts";
import type { Gate } from "../fs/gate.ts";
import { type FenceAgent, FenceRequests, mountName } from "./fence.ts";
import type { Log } from "./log.ts";
import { type ServerState, votesNeeded } from "./quorum.ts";
import { presentSlots, previousLeaders, type Slots, SmallBlocks } from "./quorum_blocks.ts";
import type { ServerControl } from "./quorum_service.ts";
import { ServerSocket } from "./server_socket.ts";
import { ServerTerm } from "./server_term.ts";
import type { ServerStore } from "./store_api.ts";

/** How long a starting server waits until earlier leaders are fenced (04 §8). */
export const LEADER_FENCE_WAIT_MS = 15_000;

/** What the store needs of the server. */
export interface StoreHooks {
  readonly clientCount: () => number;
  readonly sendSync: (rid: bigint) => void;
}

export interface ServerEnv {
  readonly reactor: Reactor;
  /** Metadata device: the super block and quorum blocks are read from it. */
  readonly device: Device;
  readonly fsid: bigint;
  readonly slots: Slots;
  /** Our slot: its address is where the server listens. */
  readonly slot: number;
  /** This mount's rid. */
  readonly rid: bigint;
  readonly gate: Gate;
  /** Mount option `tcp_keepalive_timeout_ms`. */
  readonly keepaliveMs: number;
  /** Opens the volume's structures; `superBuf` is the super block read after fencing, owned. */
  readonly openStore: (superBuf: Uint8Array, hooks: StoreHooks) => ServerStore;
  readonly fenceAgents: readonly FenceAgent[];
  /** True only if that mount can certainly never write again. */
  readonly knownDead: (rid: bigint) => boolean;
  readonly log: Log;
}

export class Server implements ServerControl {
  onState: () => void = () => {};
  /** Told why a term could not begin, before the state becomes "down". */
  onStartFailed: (error: unknown) => void = () => {};
  readonly #env: ServerEnv;
  readonly #fences: FenceRequests;
  #state: ServerState = "down";
  #term: ServerTerm | null = null;
  #store: ServerStore | null = null;
  #listener: Listener | null = null;
  /** Greetings that arrived before the server was up. */
  #early: { socket: ServerSocket; id: number; payload: Uint8Array }[] = [];
  #earlySockets = new Set<ServerSocket>();
  #stopRequested = false;

  constructor(env: ServerEnv) {
    this.#env = env;
    this.#fences = new FenceRequests({
      timers: env.reactor,
      agents: env.fenceAgents,
      knownDead: env.knownDead,
      log: env.log,
    });
  }

  get state(): ServerState {
    return this.#state;
  }

  /** The running term's rooms, for status displays and tests; null unless up. */
  get running(): ServerTerm | null {
    return this.#state === "up" ? this.#term : null;
  }

  start(term: number, inherited: readonly bigint[]): void {
    assert(this.#state === "down", `server start while ${this.#state}`);
    this.#stopRequested = false;
    this.#enter("starting");
    this.#start(term, inherited).catch((e) => {
      this.#env.log(`server of term ${term} failed to start: ${String(e)}`);
      if (!this.#stopRequested) this.onStartFailed(e);
      void this.#tearDown();
    });
  }

  stop(): void {
    if (this.#state === "down" || this.#stopRequested) return;
    this.#stopRequested = true;
    if (this.#state === "starting") {
      this.#fences.clear(); // ends the wait for fencing; the start sees the request to stop
      return;
    }
    this.#enter("stopping");
    void this.#tearDown();
  }

  /** 04 §15.2. */
  async #start(term: number, inherited: readonly bigint[]): Promise<void> {
    const { reactor, slots, slot, log, fsid, rid, keepaliveMs } = this.#env;
    const addr = slots[slot]!;
    log(
      `${mountName(fsid, rid)} server of term ${term} starting at ${
        ipv4Text(addr.addr)
      }:${addr.port}`,
    );
    const blocks = new SmallBlocks(this.#env.device, fsid);
    await this.#fencePreviousLeaders(blocks, term, inherited);
    this.#listener = reactor.listenTcp(addr, { keepaliveMs }, (stream) => {
      const socket: ServerSocket = new ServerSocket(stream, {
        greeted: (s, id, payload) => this.#greeted(s, id, payload),
        closed: (s, why) => this.#closed(s, why),
      });
      if (this.#term === null) this.#earlySockets.add(socket);
      else this.#term.accepted(socket);
    });
    blocks.readSuper();
    const store = this.#env.openStore(blocks.copy(), {
      clientCount: () => this.#term?.clientCount ?? 0,
      sendSync: (client) => this.#term?.sendSync(client),
    });
    this.#store = store;
    await store.start();
    this.#checkNotStopped();
    this.#term = new ServerTerm({
      reactor,
      gate: this.#env.gate,
      log,
      term,
      store,
      fences: this.#fences,
      knownDead: this.#env.knownDead,
      votesNeeded: votesNeeded(presentSlots(slots).length),
      fatal: (e) => {
        log(`server of term ${term} stops: ${String(e)}`);
        this.stop();
      },
    });
    this.#enter("up");
    this.#term.begin();
    log(`server of term ${term} ready at ${ipv4Text(addr.addr)}:${addr.port}`);
    this.#admitEarly();
  }

  /** 04 §8; an errored request fails the start before the super is touched (H4). */
  async #fencePreviousLeaders(
    blocks: SmallBlocks,
    term: number,
    inherited: readonly bigint[],
  ): Promise<void> {
    const { slots, slot, rid, log } = this.#env;
    const records = presentSlots(slots).map((nr) => blocks.readSlot(nr));
    for (const old of previousLeaders(records, term, rid)) {
      log(`previous leader of term ${old.term} in slot ${old.slot} did not record its stop`);
      this.#fences.start(old.rid, slots[old.slot]!.addr, "quorum_block_leader");
    }
    for (const old of inherited) {
      this.#fences.start(old, slots[slot]!.addr, "quorum_block_leader");
    }
    const fenced = await this.#fences.untilAllFenced(LEADER_FENCE_WAIT_MS);
    this.#checkNotStopped();
    if (!fenced) throw new FsError(EIO, "previous leaders could not be fenced");
  }

  #checkNotStopped(): void {
    if (this.#stopRequested) throw new FsError(EIO, "asked to stop while starting");
  }

  #greeted(socket: ServerSocket, id: number, payload: Uint8Array): void {
    if (this.#term !== null) this.#term.greeted(socket, id, payload);
    else this.#early.push({ socket, id, payload });
  }

  #closed(socket: ServerSocket, why: string): void {
    this.#earlySockets.delete(socket);
    this.#term?.closed(socket, why);
  }

  #admitEarly(): void {
    const early = this.#early;
    this.#early = [];
    const term = this.#term!;
    for (const socket of this.#earlySockets) term.accepted(socket);
    this.#earlySockets.clear();
    for (const e of early) if (!e.socket.closed) term.greeted(e.socket, e.id, e.payload);
  }

  /** 04 §15.3; also after a failed start. */
  async #tearDown(): Promise<void> {
    this.#listener?.close();
    this.#listener = null;
    for (const socket of [...this.#earlySockets]) socket.fail("server stops");
    this.#early = [];
    try {
      if (this.#term !== null) await this.#term.stop();
    } catch (e) {
      this.#env.log(`server stop: ${String(e)}`);
    }
    this.#store?.stop();
    this.#fences.onChange = () => {};
    this.#fences.clear();
    this.#store = null;
    this.#term = null;
    this.#enter("down");
  }

  #enter(state: ServerState): void {
    this.#state = state;
    this.onState();
  }
}
