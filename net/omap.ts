/**
 * Open inode maps at the server (04 §23): asks every other client which inodes of a group it has
 * open, answers the one who asked with the union. Nothing is persistent.
 *
 * Invariants: the requester's own bits are never included; an answer goes out only when every
 * client of the snapshot has answered or was reclaimed, and no mount that has yet to greet this
 * server was left out (§28, 33).
 */

import { OpenInoMap, OpenInoMapArgs } from "../format/wire.ts";
import { ProtocolError } from "./frame.ts";

/** A client as the open map machinery sees it. */
export interface OpenMapPeer {
  /** Sends an OPEN_INO_MAP request; the response comes to `OpenMaps.response`. */
  askOpenMap(payload: Uint8Array): void;
  /** Answers OPEN_INO_MAP request `id`. */
  answerOpenMap(id: number, payload: Uint8Array): void;
}

interface Asked {
  readonly from: OpenMapPeer;
  readonly id: number;
  readonly groupNr: number;
}

interface Gathering extends Asked {
  readonly map: OpenInoMap;
  readonly awaited: Set<OpenMapPeer>;
}

export class OpenMaps {
  readonly #clients = new Set<OpenMapPeer>();
  readonly #gathering = new Map<number, Gathering>();
  #queued: Asked[] = [];
  #nextReqId = 1;

  /** `greetingsPending`: whether some mount has yet to greet this server. */
  constructor(private readonly greetingsPending: () => boolean) {}

  /** First contact; idempotent. */
  addClient(client: OpenMapPeer): void {
    this.#clients.add(client);
  }

  /** Reclaimed: nothing is expected of it any more; may complete answers. */
  removeClient(client: OpenMapPeer): void {
    this.#clients.delete(client);
    this.#queued = this.#queued.filter((q) => q.from !== client);
    for (const [reqId, g] of [...this.#gathering]) {
      if (g.from === client) this.#gathering.delete(reqId);
      else if (g.awaited.delete(client)) this.#answerIfComplete(reqId, g);
    }
  }

  /** A client's request; the payload has the right size. */
  request(from: OpenMapPeer, id: number, payload: Uint8Array): void {
    this.#queued.push({ from, id, groupNr: OpenInoMapArgs.at(payload).groupNr });
    this.serveQueued();
  }

  /** Serves what was queued, unless greetings are still pending. */
  serveQueued(): void {
    if (this.greetingsPending()) return;
    const queued = this.#queued;
    this.#queued = [];
    for (const q of queued) this.#ask(q);
  }

  /** A client's bits; throws ProtocolError when malformed. */
  response(from: OpenMapPeer, payload: Uint8Array): void {
    if (payload.length !== OpenInoMap.SIZE) {
      throw new ProtocolError(`OPEN_INO_MAP response of ${payload.length} bytes`);
    }
    const theirs = OpenInoMap.at(payload);
    const { reqId } = theirs.args;
    const g = this.#gathering.get(reqId);
    if (g === undefined || !g.awaited.delete(from)) return;
    const union = g.map.bits;
    const bits = theirs.bits;
    for (let i = 0; i < union.length; i++) union[i] |= bits[i];
    this.#answerIfComplete(reqId, g);
  }

  #ask(q: Asked): void {
    const map = OpenInoMap.alloc();
    const reqId = this.#nextReqId++;
    map.args.groupNr = q.groupNr;
    map.args.reqId = reqId;
    const awaited = new Set(this.#clients);
    awaited.delete(q.from);
    const g: Gathering = { ...q, map, awaited };
    this.#gathering.set(reqId, g);
    for (const client of awaited) client.askOpenMap(map.args.bytes);
    this.#answerIfComplete(reqId, g);
  }

  #answerIfComplete(reqId: number, g: Gathering): void {
    if (g.awaited.size > 0) return;
    this.#gathering.delete(reqId);
    g.from.answerOpenMap(g.id, g.map.bytes);
  }
}
