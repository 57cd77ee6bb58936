/**
 * A connection (04 §11): the long-lived association between one client and one server, which
 * outlives sockets. It numbers messages, keeps what the peer may not have got, resends in seq order
 * after a socket was replaced, drops duplicates, and matches responses to requests.
 *
 * Invariants (04 §28, 14–17): per socket, seqs are transmitted in increasing order; a request is
 * kept until its response came, a response until the peer acknowledged it; a completion runs once.
 * Greetings are not its business: whoever owns the socket sends them and then calls `attach`.
 *
 * Everything submitted in one turn of the event loop goes out in one send.
 */

import { ENOLINK } from "../format/errno.ts";
import { CMD_LOCK } from "../format/wire.ts";
import { assert, FsError } from "../fs/errors.ts";
import type { Gate } from "../fs/gate.ts";
import {
  encodeFrame,
  type FrameHeader,
  HEADER_BYTES,
  ProtocolError,
  stampRecvSeq,
} from "./frame.ts";

/** Runs once, with the errno of the response (0: success) and its payload, valid only meanwhile. */
export type Completion = (errno: number, payload: Uint8Array) => void;

/** Serves a request: answer with `respond(id, …)` now or later; a throw closes the socket. */
export type RequestSink = (cmd: number, id: number, payload: Uint8Array) => void;

/** What a connection needs of a socket. */
export interface SendSide {
  /** Queues a copy. */
  send(bytes: Uint8Array): void;
}

export interface ConnectionEnv {
  readonly gate: Gate;
  readonly onRequest: RequestSink;
  /** First seq to use: a server's greeting response took 1 before the connection existed. */
  readonly firstSeq: number;
  /** Tells of a LOCK response whose key is not its request's (H8); true: drop it, keep waiting. */
  readonly ignoreMismatch: boolean;
}

/** A message that is not yet transmitted or not yet answered or acknowledged. */
class Message {
  prev: Message | null = null;
  next: Message | null = null;
  /** Transmitted on some socket. */
  sent = false;
  constructor(
    readonly seq: number,
    readonly id: number,
    readonly cmd: number,
    /** The encoded frame. */
    readonly frame: Uint8Array,
    /** Of requests; null marks a response. */
    readonly complete: Completion | null,
  ) {}
}

const BATCH_BYTES = 16384;
const EMPTY = new Uint8Array(0);
/** Bytes of a LOCK payload that name the lock. */
const KEY_BYTES = 32;

export class Connection {
  #nextSeq: number;
  #nextId = 1;
  #recvSeq = 0;
  /** Kept messages in seq order. */
  #head: Message | null = null;
  #tail: Message | null = null;
  /** The first kept message that was not transmitted on the present socket. */
  #unsent: Message | null = null;
  readonly #pending = new Map<number, Message>();
  /** Kept responses in seq order, from index #acked on. */
  #responses: Message[] = [];
  #acked = 0;
  #socket: SendSide | null = null;
  #flushQueued = false;
  #dead = false;
  readonly #batch = new Uint8Array(BATCH_BYTES);
  readonly #env: ConnectionEnv;
  readonly #flushNow = (): void => this.#flush();

  constructor(env: ConnectionEnv) {
    this.#env = env;
    this.#nextSeq = env.firstSeq;
  }

  /** Seq and id for a greeting that its owner sends itself. */
  takeGreetingNumbers(): { seq: number; id: number } {
    return { seq: this.#nextSeq++, id: this.#nextId++ };
  }

  /** The seq that the next message will get. */
  get nextSeq(): number {
    return this.#nextSeq;
  }

  /** False after `abort` or `discard`: nothing can be submitted any more. */
  get alive(): boolean {
    return !this.#dead;
  }

  /** Requests that wait for their response. */
  get pendingRequests(): number {
    return this.#pending.size;
  }

  /** A new request; `payload` is copied. Throws ENOLINK once `abort`ed. */
  request(cmd: number, payload: Uint8Array | null, complete: Completion): void {
    this.#assertAlive();
    const id = this.#nextId++;
    const message = this.#append(cmd, id, false, 0, payload, complete);
    this.#pending.set(id, message);
  }

  /** The response to request `id`; `payload` is copied, and left out if `errno` is not 0. */
  respond(cmd: number, id: number, errno: number, payload: Uint8Array | null): void {
    this.#assertAlive();
    this.#responses.push(this.#append(cmd, id, true, errno, payload, null));
  }

  /** The greeting on `socket` is complete: transmits everything kept, in order, then what comes. */
  attach(socket: SendSide): void {
    this.#socket = socket;
    this.#unsent = this.#head;
    this.#flush();
  }

  /** The socket is gone; messages are kept for the next. */
  detach(): void {
    this.#socket = null;
  }

  get attached(): boolean {
    return this.#socket !== null;
  }

  /** The peer is another server than before (04 §11.6): its seqs start over, our responses are moot. */
  peerRestarted(): void {
    assert(this.#socket === null, "peer restarted under an established socket");
    this.#recvSeq = 0;
    for (let i = this.#acked; i < this.#responses.length; i++) this.#unlink(this.#responses[i]);
    this.#responses = [];
    this.#acked = 0;
  }

  /** Forgets everything and fails what is pending with ENOLINK; later submissions throw. */
  abort(): void {
    if (this.#dead) return;
    this.#dead = true;
    this.#socket = null;
    this.#head = this.#tail = this.#unsent = null;
    this.#responses = [];
    const pending = [...this.#pending.values()];
    this.#pending.clear();
    for (const message of pending) message.complete!(ENOLINK, EMPTY);
  }

  /** Drops all state without completing anything: the server's way to destroy a connection. */
  discard(): void {
    this.#dead = true;
    this.#socket = null;
    this.#head = this.#tail = this.#unsent = null;
    this.#responses = [];
    this.#pending.clear();
  }

  /** A frame other than a greeting arrived. What it throws must close the socket. */
  receive(h: FrameHeader, payload: Uint8Array): void {
    if (h.seq <= this.#recvSeq) return; // resent, seen already
    this.#recvSeq = h.seq;
    this.#release(h.recvSeq);
    if (h.response) this.#complete(h, payload);
    else this.#env.onRequest(h.cmd, h.id, payload);
  }

  #assertAlive(): void {
    if (this.#dead) throw new FsError(ENOLINK, "the connection was shut down");
  }

  #append(
    cmd: number,
    id: number,
    response: boolean,
    errno: number,
    payload: Uint8Array | null,
    complete: Completion | null,
  ): Message {
    const seq = this.#nextSeq++;
    const frame = encodeFrame(seq, id, cmd, response, errno, payload);
    const message = new Message(seq, id, cmd, frame, complete);
    message.prev = this.#tail;
    if (this.#tail === null) this.#head = message;
    else this.#tail.next = message;
    this.#tail = message;
    if (this.#unsent === null) this.#unsent = message;
    if (this.#socket !== null && !this.#flushQueued) {
      this.#flushQueued = true;
      queueMicrotask(this.#flushNow);
    }
    return message;
  }

  #unlink(m: Message): void {
    if (this.#unsent === m) this.#unsent = m.next;
    if (m.prev === null) this.#head = m.next;
    else m.prev.next = m.next;
    if (m.next === null) this.#tail = m.prev;
    else m.next.prev = m.prev;
  }

  /** Responses that the peer says it has. */
  #release(acknowledged: number): void {
    const responses = this.#responses;
    while (this.#acked < responses.length) {
      const m = responses[this.#acked];
      if (m.seq > acknowledged || !m.sent) break;
      this.#unlink(m);
      this.#acked++;
    }
    if (this.#acked === responses.length) {
      responses.length = 0;
      this.#acked = 0;
    } else if (this.#acked > 1024) {
      responses.splice(0, this.#acked);
      this.#acked = 0;
    }
  }

  #complete(h: FrameHeader, payload: Uint8Array): void {
    const m = this.#pending.get(h.id);
    if (m === undefined || m.cmd !== h.cmd) return; // answers a request of a previous server
    if (h.cmd === CMD_LOCK && h.errno === 0 && !sameKey(m.frame, payload)) {
      if (this.#env.ignoreMismatch) return;
      throw new ProtocolError("LOCK response for another lock than was asked for");
    }
    this.#pending.delete(h.id);
    this.#unlink(m);
    m.complete!(h.errno, payload);
  }

  #flush(): void {
    this.#flushQueued = false;
    const socket = this.#socket;
    if (socket === null || this.#unsent === null || !this.#env.gate.open) return;
    const batch = this.#batch;
    let n = 0;
    let m: Message | null = this.#unsent;
    for (; m !== null; m = m.next) {
      if (n + m.frame.length > BATCH_BYTES) {
        socket.send(batch.subarray(0, n));
        n = 0;
      }
      batch.set(m.frame, n);
      stampRecvSeq(batch, n, this.#recvSeq);
      m.sent = true;
      n += m.frame.length;
    }
    this.#unsent = null;
    socket.send(batch.subarray(0, n));
  }
}

function sameKey(requestFrame: Uint8Array, payload: Uint8Array): boolean {
  if (payload.length < KEY_BYTES) return false;
  for (let i = 0; i < KEY_BYTES; i++) {
    if (requestFrame[HEADER_BYTES + i] !== payload[i]) return false;
  }
  return true;
}
