/**
 * A server that is up (04 §12.3, §13, §15.6, §16–18): its clients and what they ask for, from the
 * start of recovery until the stop. Locks, recovery, open maps, farewells, fence requests and the
 * volume's structures are rooms of their own; this one connects them.
 *
 * Invariants (04 §28): nothing of a client is handled before its greeting is complete (16); its
 * mounted-client item is durable before that (§13.3) and deleted last of all its resources (13,
 * 29); reclaim happens only after a farewell or fencing (12); a fenced client is not listened to
 * any more (11).
 */

import { InetAddr, ipv4Text } from "../format/block.ts";
import { FormatError } from "../format/bytes.ts";
import { EINVAL, EIO } from "../format/errno.ts";
import { Key } from "../format/key.ts";
import {
  CMD_FAREWELL,
  CMD_LOCK,
  CMD_NAMES,
  CMD_OPEN_INO_MAP,
  Greeting,
  GREETING_FLAG_FAREWELL,
  GREETING_FLAG_QUORUM,
} from "../format/wire.ts";
import type { Ipv4Addr, Reactor, TimerId } from "../fs/env.ts";
import { errnoOf, FsError } from "../fs/errors.ts";
import type { Gate } from "../fs/gate.ts";
import { Connection } from "./connection.ts";
import { FarewellWorker } from "./farewell.ts";
import { type FenceRequests, ridText } from "./fence.ts";
import { ProtocolError } from "./frame.ts";
import { LockServer } from "./lock_server.ts";
import type { Log } from "./log.ts";
import { OpenMaps } from "./omap.ts";
import { PENDING_GREETING, PENDING_LOCKS, Recovery } from "./recovery.ts";
import { requestRule, ROOTS_BYTES } from "./requests.ts";
import { type ClientEvents, ServerClient } from "./server_client.ts";
import type { ServerSocket, SocketEvents } from "./server_socket.ts";
import type { ServerStore } from "./store_api.ts";

/** How long a client may be without a socket before it is fenced (04 §12.3). */
export const RECONNECT_WAIT_MS = 20_000;
/** How often proofs of death are looked for again while somebody is missed. */
const RECHECK_MS = 1_000;
/** Farewell answers of destroyed connections must continue their seqs (H13); this many are kept. */
const MAX_LAST_SEQS = 1024;
/** The greeting response took seq 1. */
const FIRST_SEQ = 2;

export interface TermEnv {
  readonly reactor: Reactor;
  readonly gate: Gate;
  readonly log: Log;
  readonly term: number;
  readonly store: ServerStore;
  readonly fences: FenceRequests;
  readonly knownDead: (rid: bigint) => boolean;
  readonly votesNeeded: number;
  /** The server cannot go on: stop it. */
  readonly fatal: (error: unknown) => void;
}

/** A greeting request as plain values. */
interface GreetingRequest {
  readonly rid: bigint;
  readonly serverTerm: number;
  readonly farewell: boolean;
  readonly quorum: boolean;
}

export class ServerTerm implements ClientEvents, SocketEvents {
  readonly locks: LockServer;
  readonly recovery: Recovery;
  readonly openMaps: OpenMaps;
  readonly #env: TermEnv;
  readonly #farewells: FarewellWorker;
  readonly #clients = new Map<bigint, ServerClient>();
  readonly #sockets = new Set<ServerSocket>();
  readonly #lastSeqs = new Map<bigint, number>();
  readonly #reclaimed = new WeakSet<ServerClient>();
  #stopping = false;
  #reclaimBusy = false;
  #reclaiming: Promise<void> = Promise.resolve();
  #inFlight = 0;
  #lastRefusal = "";
  #drained: (() => void) | null = null;
  #recheckTimer: TimerId | null = null;

  constructor(env: TermEnv) {
    this.#env = env;
    const { reactor, store } = env;
    this.recovery = new Recovery({
      timers: reactor,
      onFinished: () => this.#guard(() => this.#recoveryFinished()),
      onTimeout: (rids) => this.#guard(() => this.#fenceUnrecovered(rids)),
    });
    this.locks = new LockServer({
      nextSeq: () => store.counterNext(),
      raiseSeq: (n) => store.counterRaise(n),
      recovering: () => this.recovery.locksPending,
    });
    this.openMaps = new OpenMaps(() => this.recovery.greetingsPending);
    this.#farewells = new FarewellWorker({
      mounted: () => store.mountedClients(),
      votesNeeded: env.votesNeeded,
      locksPending: (rid) => this.recovery.hasLocksPending(rid),
      reclaim: (rid) => this.#reclaim(rid, false),
      respond: (r) => this.#answerFarewell(r.rid, r.id),
      onError: (e) => env.fatal(e),
    });
  }

  /** Clients with a connection, waiting ones included. */
  get clientCount(): number {
    let n = 0;
    for (const client of this.#clients.values()) if (client.connection !== null) n++;
    return n;
  }

  /** Sends SYNC_LOG_TREES; clients that are not connected are ignored. */
  sendSync(rid: bigint): void {
    this.#clients.get(rid)?.syncLogTrees();
  }

  /** Begins recovery and the reclaim of whom the start of the server fenced. */
  begin(): void {
    const { store, fences, knownDead, log } = this.#env;
    const mounted = store.mountedClients();
    if (mounted.length > 0) log(`waiting for ${mounted.length} clients to recover`);
    fences.onChange = () => this.#reclaimSettled();
    this.recovery.begin(mounted.map((m) => m.rid));
    this.#fenceUnrecovered(mounted.map((m) => m.rid).filter((rid) => knownDead(rid)));
    this.#reclaimSettled();
    this.#armRecheck();
  }

  /** 04 §15.3, steps 1 to 3: ends every connection, resolves when all handlers are done. */
  async stop(): Promise<void> {
    this.#stopping = true;
    const farewells = this.#farewells.stop();
    if (this.#recheckTimer !== null) this.#env.reactor.clearTimer(this.#recheckTimer);
    await farewells;
    await this.#reclaiming;
    for (const socket of [...this.#sockets]) socket.fail("server stops");
    if (this.#inFlight > 0) await new Promise<void>((resolve) => this.#drained = resolve);
    for (const client of this.#clients.values()) this.#destroy(client);
    this.recovery.stop();
  }

  // Sockets and greetings (04 §12.3, §12.4, §13.3)

  /** A socket exists; its greeting is still to come. */
  accepted(socket: ServerSocket): void {
    this.#sockets.add(socket);
  }

  greeted(socket: ServerSocket, id: number, payload: Uint8Array): void {
    this.#sockets.add(socket);
    this.#greet(socket, id, payload).catch((e) => {
      socket.fail("server failed");
      this.#env.fatal(e);
    });
  }

  closed(socket: ServerSocket, why: string): void {
    this.#sockets.delete(socket);
    const { client } = socket;
    if (client === null || client.socket !== socket) return; // never greeted, or replaced
    client.socket = null;
    client.connection?.detach();
    this.#env.log(`client ${ridText(client.rid)} disconnected: ${why}`);
    if (this.#stopping || client.connection === null) return;
    if (client.saidFarewell) this.#destroy(client);
    else this.#awaitReconnect(client);
  }

  async #greet(socket: ServerSocket, id: number, payload: Uint8Array): Promise<void> {
    const { store, fences } = this.#env;
    const g = this.#readGreeting(payload);
    if (g === null) return this.#refuse(socket, id, EINVAL, "wrong filesystem or format version");
    if (g.serverTerm === 0) {
      try {
        const addr = InetAddr.alloc();
        addr.setIpv4(socket.stream.peer.addr, socket.stream.peer.port);
        await store.insertMountedClient(g.rid, addr, g.quorum);
      } catch (e) {
        return this.#refuse(socket, id, errnoOf(e), e instanceof Error ? e.message : String(e));
      }
      this.#farewells.kick();
    } else if (!g.farewell && !store.isMountedClient(g.rid)) {
      return this.#refuse(socket, id, EINVAL, "its mount was reclaimed"); // H10
    }
    if (this.#stopping) return socket.fail("server stops");
    if (fences.stateOf(g.rid) === "fenced") {
      return this.#refuse(socket, id, EINVAL, "its mount was fenced");
    }
    this.#admit(socket, id, g);
  }

  /** Null unless everything fits this volume. */
  #readGreeting(payload: Uint8Array): GreetingRequest | null {
    const { store } = this.#env;
    if (payload.length !== Greeting.SIZE) return null;
    const g = Greeting.at(payload);
    try {
      const { fsid, fmtVers, rid, serverTerm, flags } = g;
      if (fsid !== store.fsid || fmtVers !== store.fmtVers) return null;
      if (rid === 0n || rid === 0xffff_ffff_ffff_ffffn) return null;
      return {
        rid,
        serverTerm,
        farewell: (flags & GREETING_FLAG_FAREWELL) !== 0,
        quorum: (flags & GREETING_FLAG_QUORUM) !== 0,
      };
    } catch (e) {
      if (e instanceof FormatError) return null;
      throw e;
    }
  }

  #refuse(socket: ServerSocket, id: number, errno: number, why: string): void {
    // A refused client asks again ten times a second, for ever: say it once.
    const line = `refused a greeting from ${ipv4Text(socket.stream.peer.addr)}: ${why}`;
    if (line !== this.#lastRefusal) this.#env.log(line);
    this.#lastRefusal = line;
    socket.answerGreeting(id, errno, null);
    socket.fail(why);
  }

  /** Binds an accepted greeting's rid to its socket, in one step (H2, H9). */
  #admit(socket: ServerSocket, id: number, g: GreetingRequest): void {
    const { term, log } = this.#env;
    const firstContact = g.serverTerm !== term;
    let client = this.#clients.get(g.rid);
    const known = client !== undefined && client.connection !== null;
    if (client !== undefined && known && client.greetingId >= id) {
      return socket.fail("a later attempt of this client was accepted");
    }
    if (!known && !firstContact && !g.farewell) return socket.fail("its connection was given up");
    if (client === undefined) {
      client = new ServerClient(g.rid, this);
      this.#clients.set(g.rid, client);
    }
    this.#rebind(client, socket, id);
    this.recovery.clear(g.rid, PENDING_GREETING);
    if (firstContact) {
      if (this.recovery.hasLocksPending(g.rid) && !client.recovering) {
        client.recoverLocks(Key.ZEROS);
      }
      this.openMaps.addClient(client);
      this.openMaps.serveQueued();
    }
    log(`client ${ridText(g.rid)} connected from ${addrText(socket.stream.peer)}`);
    if (socket.closed) this.#awaitReconnect(client);
    else socket.bind(client);
  }

  /** Takes the connection to a new socket: greeting response first, then what was kept. */
  #rebind(client: ServerClient, socket: ServerSocket, id: number): void {
    const { store, term, reactor } = this.#env;
    const replaced = client.socket;
    client.socket = null;
    client.connection?.detach();
    replaced?.fail("replaced by a newer socket");
    if (client.connection === null) client.connection = this.#newConnection(client);
    client.greetingId = id;
    client.peer = socket.stream.peer;
    client.saidFarewell = false;
    if (client.reconnectTimer !== null) reactor.clearTimer(client.reconnectTimer);
    client.reconnectTimer = null;
    if (socket.closed) return;
    const answer = Greeting.alloc();
    answer.fsid = store.fsid;
    answer.fmtVers = store.fmtVers;
    answer.serverTerm = term;
    answer.rid = client.rid;
    socket.answerGreeting(id, 0, answer.bytes);
    client.socket = socket;
    client.connection.attach(socket.stream);
  }

  #newConnection(client: ServerClient): Connection {
    const connection: Connection = new Connection({
      gate: this.#env.gate,
      firstSeq: this.#lastSeqs.get(client.rid) ?? FIRST_SEQ,
      ignoreMismatch: true,
      onRequest: (cmd, id, payload) => this.#serve(client, connection, cmd, id, payload),
    });
    return connection;
  }

  #awaitReconnect(client: ServerClient): void {
    const { reactor, fences } = this.#env;
    if (client.reconnectTimer !== null) return;
    client.reconnectTimer = reactor.setTimer(RECONNECT_WAIT_MS, () => {
      client.reconnectTimer = null;
      this.#guard(() => {
        fences.start(client.rid, client.peer.addr, "client_reconnect");
        this.#destroy(client);
      });
    });
    this.#armRecheck();
  }

  /** Drops the connection and all its messages; locks and open maps wait for reclaim (§12.3). */
  #destroy(client: ServerClient): void {
    const { connection } = client;
    if (client.reconnectTimer !== null) this.#env.reactor.clearTimer(client.reconnectTimer);
    client.reconnectTimer = null;
    client.connection = null;
    client.recovering = false;
    client.dropSocket("connection destroyed");
    this.#farewells.discard(client.rid);
    if (connection !== null) {
      this.#rememberSeq(client.rid, connection.nextSeq);
      connection.discard();
    }
    if (this.#reclaimed.has(client)) this.#clients.delete(client.rid);
  }

  #rememberSeq(rid: bigint, seq: number): void {
    this.#lastSeqs.delete(rid);
    this.#lastSeqs.set(rid, seq);
    if (this.#lastSeqs.size > MAX_LAST_SEQS) {
      const oldest = this.#lastSeqs.keys().next().value;
      if (oldest !== undefined) this.#lastSeqs.delete(oldest);
    }
  }

  // Requests (04 §15.6, §19.1)

  #serve(
    client: ServerClient,
    connection: Connection,
    cmd: number,
    id: number,
    payload: Uint8Array,
  ): void {
    const rule = requestRule(cmd);
    if (rule === null) throw new ProtocolError(`${CMD_NAMES[cmd]} is no request to a server`);
    if (payload.length !== rule.size) {
      if (rule.whenMalformed === "close") {
        throw new ProtocolError(`${CMD_NAMES[cmd]} request of ${payload.length} bytes`);
      }
      if (rule.whenMalformed === "einval") connection.respond(cmd, id, EINVAL, null);
      else connection.respond(cmd, id, 0, new Uint8Array(ROOTS_BYTES));
      return;
    }
    if (rule.storage) return this.#store(client, connection, cmd, id, payload);
    if (cmd === CMD_LOCK) this.locks.request(client, id, payload);
    else if (cmd === CMD_OPEN_INO_MAP) this.openMaps.request(client, id, payload);
    else if (cmd === CMD_FAREWELL) this.#farewells.add({ rid: client.rid, id });
  }

  #store(
    client: ServerClient,
    connection: Connection,
    cmd: number,
    id: number,
    payload: Uint8Array,
  ): void {
    this.#inFlight++;
    this.#env.store.request(cmd, client.rid, payload).then(
      (response) => {
        this.#requestDone();
        if (connection.alive) connection.respond(cmd, id, 0, response);
      },
      (e) => {
        this.#requestDone();
        this.#env.log(`${CMD_NAMES[cmd]} of client ${ridText(client.rid)} failed: ${String(e)}`);
        if (connection.alive) connection.respond(cmd, id, errnoOf(e), null);
        if (!(e instanceof FsError)) this.#env.fatal(e);
      },
    );
  }

  #requestDone(): void {
    this.#inFlight--;
    if (this.#inFlight === 0) this.#drained?.();
  }

  lockInvalidated(client: ServerClient, payload: Uint8Array): void {
    this.locks.invalidated(client, payload);
  }

  openMapAnswered(client: ServerClient, payload: Uint8Array): void {
    this.openMaps.response(client, payload);
  }

  locksRecovered(client: ServerClient, payload: Uint8Array): void {
    if (!this.recovery.hasLocksPending(client.rid)) return;
    const next = this.locks.recovered(client, payload);
    if (next !== null) return client.recoverLocks(next);
    this.recovery.clear(client.rid, PENDING_LOCKS);
    this.#farewells.kick();
  }

  // Farewell, fencing, reclaim (04 §16–18)

  #answerFarewell(rid: bigint, id: number): void {
    const client = this.#clients.get(rid);
    if (client === undefined) return;
    client.answerFarewell(id);
    // Without a socket the client finds out by its missing item; nobody must fence it.
    if (client.socket === null) this.#destroy(client);
  }

  #recoveryFinished(): void {
    this.#env.log("all clients recovered");
    this.openMaps.serveQueued();
    this.locks.recoveryFinished();
  }

  #fenceUnrecovered(rids: readonly bigint[]): void {
    const { store, fences } = this.#env;
    const addrs = new Map(store.mountedClients().map((m) => [m.rid, m.addr.addr]));
    for (const rid of rids) fences.start(rid, addrs.get(rid) ?? 0, "client_recovery");
  }

  /** 04 §18.3: reclaims who was fenced; an errored request stops the server. */
  #reclaimSettled(): void {
    if (this.#stopping || this.#reclaimBusy) return;
    this.#reclaimBusy = true;
    this.#reclaiming = this.#reclaimAll().catch((e) => this.#env.fatal(e));
  }

  async #reclaimAll(): Promise<void> {
    const { fences, log } = this.#env;
    try {
      while (!this.#stopping) {
        if (fences.anyErrored) throw new FsError(EIO, "a fence request failed");
        const request = fences.nextSettled();
        if (request === null) return;
        await this.#reclaim(request.rid, true);
        log(`reclaimed resources of fenced mount ${ridText(request.rid)}`);
        fences.remove(request.rid);
        this.recovery.clear(request.rid, PENDING_GREETING | PENDING_LOCKS);
        this.openMaps.serveQueued();
      }
    } finally {
      this.#reclaimBusy = false;
    }
  }

  /** 04 §18.3: everything that `rid` held; its mounted-client item goes last. */
  async #reclaim(rid: bigint, fenced: boolean): Promise<void> {
    const client = this.#clients.get(rid);
    if (client !== undefined) {
      if (fenced) this.#destroy(client);
      this.locks.removeHolder(client);
      this.openMaps.removeClient(client);
    }
    await this.#env.store.reclaim(rid);
    if (client === undefined) return;
    this.#reclaimed.add(client);
    if (client.connection === null) this.#clients.delete(rid);
  }

  /** While somebody is missed, a proof of its death may turn up: then nobody waits any longer. */
  #armRecheck(): void {
    if (this.#recheckTimer !== null || this.#stopping || !this.#anyoneMissed()) return;
    this.#recheckTimer = this.#env.reactor.setTimer(RECHECK_MS, () => {
      this.#recheckTimer = null;
      this.#guard(() => this.#recheck());
      this.#armRecheck();
    });
  }

  #anyoneMissed(): boolean {
    if (!this.recovery.finished || this.#env.fences.anyPending) return true;
    for (const client of this.#clients.values()) if (client.reconnectTimer !== null) return true;
    return false;
  }

  #recheck(): void {
    const { fences, knownDead } = this.#env;
    fences.recheck();
    this.#fenceUnrecovered(this.recovery.pendingRids().filter((rid) => knownDead(rid)));
    for (const client of [...this.#clients.values()]) {
      if (client.reconnectTimer === null || !knownDead(client.rid)) continue;
      fences.start(client.rid, client.peer.addr, "client_reconnect");
      this.#destroy(client);
    }
  }

  /** Timers and callbacks without a caller: what they cannot do stops the server. */
  #guard(run: () => void): void {
    try {
      run();
    } catch (e) {
      this.#env.fatal(e);
    }
  }
}

const addrText = (a: Ipv4Addr): string => `${ipv4Text(a.addr)}:${a.port}`;
