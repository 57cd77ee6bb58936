/**
 * An accepted socket (04 §12.3): takes the greeting, holds everything behind it until the greeting
 * is settled, then feeds the connection it was bound to. A socket that ends before its greeting is
 * complete is just closed (H1).
 */

import { FormatError } from "../format/bytes.ts";
import { CMD_GREETING } from "../format/wire.ts";
import type { Stream } from "../fs/env.ts";
import { FsError } from "../fs/errors.ts";
import { encodeFrame, type FrameHeader, FrameReader, ProtocolError } from "./frame.ts";
import type { ServerClient } from "./server_client.ts";

/** What becomes of a socket. */
export interface SocketEvents {
  /** The greeting arrived; later frames wait until `bind` or `fail`. `payload` is a copy. */
  greeted(socket: ServerSocket, id: number, payload: Uint8Array): void;
  /** Once, however it ended. */
  closed(socket: ServerSocket, why: string): void;
}

/** A greeting response always has seq 1, whatever the connection's seqs (04 §12.4). */
const GREETING_SEQ = 1;

export class ServerSocket {
  /** Set by `bind`. */
  client: ServerClient | null = null;
  #closed = false;
  readonly #reader: FrameReader;

  constructor(readonly stream: Stream, private readonly events: SocketEvents) {
    this.#reader = new FrameReader("server", (h, payload) => this.#frame(h, payload));
    stream.onData = (bytes) => this.#guard(() => this.#reader.feed(bytes));
    stream.onClose = (why) => this.#end(why);
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** Queues the greeting response: the first thing on the socket. */
  answerGreeting(id: number, errno: number, payload: Uint8Array | null): void {
    if (this.#closed) return;
    this.stream.send(encodeFrame(GREETING_SEQ, id, CMD_GREETING, true, errno, payload));
  }

  /** The greeting is settled: from now on this socket carries the client's connection. */
  bind(client: ServerClient): void {
    this.client = client;
    this.#guard(() => this.#reader.resume());
  }

  /** Tears the socket down. */
  fail(why: string): void {
    if (this.#closed) return;
    this.stream.close();
    this.#end(why);
  }

  #frame(h: FrameHeader, payload: Uint8Array): void {
    if (this.client !== null) {
      if (h.cmd === CMD_GREETING) throw new ProtocolError("second greeting");
      this.client.connection?.receive(h, payload);
      return;
    }
    if (h.cmd !== CMD_GREETING) throw new ProtocolError("message before the greeting");
    this.#reader.pause();
    this.events.greeted(this, h.id, payload.slice());
  }

  /** Protocol errors close the socket (04 §11.3); anything else is a defect and surfaces. */
  #guard(run: () => void): void {
    try {
      run();
    } catch (e) {
      if (!(e instanceof ProtocolError || e instanceof FormatError || e instanceof FsError)) {
        throw e;
      }
      this.fail(e.message);
    }
  }

  #end(why: string): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#reader.stop();
    this.events.closed(this, why);
  }
}
