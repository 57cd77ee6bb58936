/**
 * One client at the server: from its first greeting in this server's term until it is reclaimed.
 * Its connection may be waiting for a new socket, or be destroyed, while locks and open maps still
 * count it.
 *
 * Invariant: rebinding a rid to another socket is one synchronous step (H9): the connection object
 * stays, the socket under it changes.
 */

import {
  CMD_FAREWELL,
  CMD_LOCK,
  CMD_LOCK_RECOVER,
  CMD_OPEN_INO_MAP,
  CMD_SYNC_LOG_TREES,
} from "../format/wire.ts";
import type { Key } from "../format/key.ts";
import type { Ipv4Addr, TimerId } from "../fs/env.ts";
import type { Completion, Connection } from "./connection.ts";
import { ProtocolError } from "./frame.ts";
import type { LockHolder } from "./lock_server.ts";
import type { OpenMapPeer } from "./omap.ts";
import type { ServerSocket } from "./server_socket.ts";

/** What a client's messages lead to. */
export interface ClientEvents {
  lockInvalidated(client: ServerClient, payload: Uint8Array): void;
  locksRecovered(client: ServerClient, payload: Uint8Array): void;
  openMapAnswered(client: ServerClient, payload: Uint8Array): void;
}

export class ServerClient implements LockHolder, OpenMapPeer {
  /** Null once destroyed. */
  connection: Connection | null = null;
  /** The live socket under the connection. */
  socket: ServerSocket | null = null;
  /** Message id of the greeting of the present or last socket: ranks attempts (04 §12.4). */
  greetingId = 0;
  /** Where the last socket came from. */
  peer: Ipv4Addr = { addr: 0, port: 0 };
  /** Runs while waiting for a new socket. */
  reconnectTimer: TimerId | null = null;
  /** Its FAREWELL was answered: it will not come back. */
  saidFarewell = false;
  /** A LOCK_RECOVER request is unanswered. */
  recovering = false;
  readonly #keyBytes = new Uint8Array(32);
  readonly #keyView = new DataView(this.#keyBytes.buffer);
  readonly #invalidated: Completion;
  readonly #opened: Completion;

  constructor(readonly rid: bigint, readonly events: ClientEvents) {
    this.#invalidated = (errno, payload) => {
      if (errno !== 0) throw new ProtocolError("LOCK response with an error");
      this.events.lockInvalidated(this, payload);
    };
    this.#opened = (errno, payload) => {
      if (errno !== 0) throw new ProtocolError("OPEN_INO_MAP response with an error");
      this.events.openMapAnswered(this, payload);
    };
  }

  get reachable(): boolean {
    return this.connection !== null;
  }

  /** Closes the socket; its end is handled like any other loss. */
  dropSocket(why: string): void {
    this.socket?.fail(why);
  }

  grantLock(id: number, payload: Uint8Array): void {
    this.connection!.respond(CMD_LOCK, id, 0, payload);
  }

  invalidateLock(payload: Uint8Array): void {
    this.connection!.request(CMD_LOCK, payload, this.#invalidated);
  }

  /** Asks for the locks at or after `from` (04 §19.8). */
  recoverLocks(from: Key): void {
    if (this.connection === null) return;
    this.recovering = true;
    from.write(this.#keyView, 0);
    this.connection.request(CMD_LOCK_RECOVER, this.#keyBytes, (errno, payload) => {
      this.recovering = false;
      if (errno !== 0) throw new ProtocolError("LOCK_RECOVER response with an error");
      this.events.locksRecovered(this, payload);
    });
  }

  askOpenMap(payload: Uint8Array): void {
    this.connection?.request(CMD_OPEN_INO_MAP, payload, this.#opened);
  }

  answerOpenMap(id: number, payload: Uint8Array): void {
    this.connection?.respond(CMD_OPEN_INO_MAP, id, 0, payload);
  }

  /** Asks the client to commit soon (03 §16.2); it need not arrive. */
  syncLogTrees(): void {
    this.connection?.request(CMD_SYNC_LOG_TREES, null, () => {});
  }

  answerFarewell(id: number): void {
    this.saidFarewell = true;
    this.connection?.respond(CMD_FAREWELL, id, 0, null);
  }
}
