/**
 * Frames on a TCP stream (04 §10): a 32-byte header and at most 1100 payload bytes. Encoding makes
 * one array per message, which is kept for resends; `recv_seq` is stored at each transmission.
 * Decoding is incremental, validates a header before its payload arrives, and hands out windows
 * into the received bytes: valid only during the call.
 */

import { CMD_GREETING, CMD_NR, errnoToWire, wireToErrno } from "../format/wire.ts";

export const HEADER_BYTES = 32;
export const MAX_PAYLOAD = 1100;
const FLAG_RESPONSE = 1;
const MAX_WIRE_ERROR = 6;
const TWO32 = 0x1_0000_0000;
/** High words from here on make a number beyond 2^53−1. */
const HIGH_LIMIT = 0x20_0000;

/** The peer broke the protocol: the socket is closed (04 §11.3). */
export class ProtocolError extends Error {
  override readonly name = "ProtocolError";
}

/** The header of the frame being dispatched; one object per reader, overwritten by the next. */
export interface FrameHeader {
  seq: number;
  recvSeq: number;
  id: number;
  dataLen: number;
  cmd: number;
  response: boolean;
  /** Linux errno, 0 for success. */
  errno: number;
}

/** Which end of the connection reads: the server gets greeting requests, the client responses. */
export type Side = "client" | "server";

function putU64(b: Uint8Array, o: number, n: number): void {
  const hi = Math.floor(n / TWO32);
  b[o] = n;
  b[o + 1] = n >>> 8;
  b[o + 2] = n >>> 16;
  b[o + 3] = n >>> 24;
  b[o + 4] = hi;
  b[o + 5] = hi >>> 8;
  b[o + 6] = hi >>> 16;
  b[o + 7] = hi >>> 24;
}

function takeU64(b: Uint8Array, o: number): number {
  const hi = (b[o + 4] | b[o + 5] << 8 | b[o + 6] << 16 | b[o + 7] << 24) >>> 0;
  if (hi >= HIGH_LIMIT) throw new ProtocolError("header number beyond 2^53−1");
  return hi * TWO32 + ((b[o] | b[o + 1] << 8 | b[o + 2] << 16 | b[o + 3] << 24) >>> 0);
}

/** A whole frame with recv_seq 0; `payload` is copied. An error response carries no payload. */
export function encodeFrame(
  seq: number,
  id: number,
  cmd: number,
  response: boolean,
  errno: number,
  payload: Uint8Array | null,
): Uint8Array {
  const length = errno !== 0 || payload === null ? 0 : payload.length;
  if (length > MAX_PAYLOAD) throw new RangeError(`payload of ${length} bytes`);
  const frame = new Uint8Array(HEADER_BYTES + length);
  putU64(frame, 0, seq);
  putU64(frame, 16, id);
  frame[24] = length;
  frame[25] = length >>> 8;
  frame[26] = cmd;
  frame[27] = response ? FLAG_RESPONSE : 0;
  frame[28] = errnoToWire(errno);
  if (length > 0) frame.set(payload!, HEADER_BYTES);
  return frame;
}

/** Stores recv_seq of the frame at byte `at` of `bytes`, just before it is transmitted. */
export function stampRecvSeq(bytes: Uint8Array, at: number, recvSeq: number): void {
  putU64(bytes, at + 8, recvSeq);
}

/** Gets each frame; may call `stop` or `pause` of the reader. */
export type FrameSink = (header: FrameHeader, payload: Uint8Array) => void;

/** Cuts one socket's byte stream into validated frames. */
export class FrameReader {
  readonly #header: FrameHeader = {
    seq: 0,
    recvSeq: 0,
    id: 0,
    dataLen: 0,
    cmd: 0,
    response: false,
    errno: 0,
  };
  /** The beginning of a frame whose end has not arrived. */
  readonly #partial = new Uint8Array(HEADER_BYTES + MAX_PAYLOAD);
  #have = 0;
  #headerDone = false;
  #sawGreeting = false;
  #stopped = false;
  #paused = false;
  #feeding = false;
  /** Bytes that arrived while paused. */
  #held: Uint8Array[] = [];
  #heldBytes = 0;

  constructor(
    readonly side: Side,
    readonly sink: FrameSink,
    /** Most bytes kept while paused; a peer that sends more breaks the protocol. */
    readonly maxHeld: number = 1 << 20,
  ) {}

  /** Delivers nothing more; call when the socket is torn down. */
  stop(): void {
    this.#stopped = true;
    this.#held = [];
  }

  /** Keeps what arrives until `resume`: everything behind a greeting waits for it. */
  pause(): void {
    this.#paused = true;
  }

  /** Delivers what was held; throws like `feed`. */
  resume(): void {
    this.#paused = false;
    const held = this.#held;
    this.#held = [];
    this.#heldBytes = 0;
    for (const bytes of held) this.feed(bytes);
  }

  /** Takes arrived bytes, calls `sink` for every complete frame; throws ProtocolError. */
  feed(bytes: Uint8Array): void {
    if (this.#feeding) throw new Error("feed is not reentrant");
    this.#feeding = true;
    try {
      this.#consume(bytes);
    } finally {
      this.#feeding = false;
    }
  }

  #consume(bytes: Uint8Array): void {
    let at = 0;
    while (at < bytes.length && !this.#stopped) {
      if (this.#paused) {
        this.#hold(bytes.subarray(at));
        return;
      }
      if (this.#have === 0 && bytes.length - at >= HEADER_BYTES) {
        // The usual case: a whole header lies in the received bytes.
        this.#readHeader(bytes, at);
        const end = at + HEADER_BYTES + this.#header.dataLen;
        if (end <= bytes.length) {
          at += HEADER_BYTES;
          this.#deliver(bytes.subarray(at, end));
          at = end;
          continue;
        }
        this.#headerDone = true;
      }
      at = this.#gather(bytes, at);
    }
  }

  /** Moves bytes into the partial frame, delivers it when complete; returns how far it came. */
  #gather(bytes: Uint8Array, at: number): number {
    const want = this.#headerDone ? HEADER_BYTES + this.#header.dataLen : HEADER_BYTES;
    const n = Math.min(want - this.#have, bytes.length - at);
    this.#partial.set(bytes.subarray(at, at + n), this.#have);
    this.#have += n;
    if (this.#have < want) return at + n;
    if (!this.#headerDone) {
      this.#readHeader(this.#partial, 0);
      this.#headerDone = true;
      if (this.#header.dataLen > 0) return at + n;
    }
    this.#have = 0;
    this.#headerDone = false;
    this.#deliver(this.#partial.subarray(HEADER_BYTES, HEADER_BYTES + this.#header.dataLen));
    return at + n;
  }

  #deliver(payload: Uint8Array): void {
    if (this.#header.cmd === CMD_GREETING) this.#sawGreeting = true;
    this.sink(this.#header, payload);
  }

  #hold(bytes: Uint8Array): void {
    this.#heldBytes += bytes.length;
    if (this.#heldBytes > this.maxHeld) {
      throw new ProtocolError("too much sent behind an unfinished greeting");
    }
    this.#held.push(bytes.slice());
  }

  /** Decodes and checks the header at byte `o` (04 §10). */
  #readHeader(b: Uint8Array, o: number): void {
    const h = this.#header;
    h.seq = takeU64(b, o);
    h.recvSeq = takeU64(b, o + 8);
    h.id = takeU64(b, o + 16);
    h.dataLen = b[o + 24] | b[o + 25] << 8;
    h.cmd = b[o + 26];
    const flags = b[o + 27];
    const error = b[o + 28];
    h.response = (flags & FLAG_RESPONSE) !== 0;
    if (h.seq === 0 || h.id === 0) throw new ProtocolError("header with seq or id 0");
    if (h.cmd >= CMD_NR) throw new ProtocolError(`unknown command ${h.cmd}`);
    if ((flags & ~FLAG_RESPONSE) !== 0) throw new ProtocolError(`unknown header flags ${flags}`);
    if (error > MAX_WIRE_ERROR) throw new ProtocolError(`unknown error ${error}`);
    if (h.dataLen > MAX_PAYLOAD) throw new ProtocolError(`payload of ${h.dataLen} bytes`);
    if (!h.response && error !== 0) throw new ProtocolError("request with an error");
    if (h.cmd === CMD_GREETING) {
      if (this.#sawGreeting) throw new ProtocolError("second greeting on a socket");
      if (h.response !== (this.side === "client")) {
        throw new ProtocolError("greeting in the wrong direction");
      }
    }
    h.errno = wireToErrno(error);
  }
}
