/**
 * The serving side of a FUSE mount: reads requests from the session's descriptor, hands them to a
 * dispatcher, writes the answers; parks what cannot be answered at once. It knows the protocol's
 * framing and nothing of files.
 *
 * Invariants: the descriptor is always read, whatever is parked (design §4.5); every request but
 * FORGET, BATCH_FORGET and INTERRUPT is answered exactly once; a request is read so that a WRITE's
 * payload is page aligned; request objects and buffers are reused when they are answered.
 */

import { EAGAIN, EINTR, EIO, ENODEV, ENOENT, ENOSYS, strerror } from "../../format/errno.ts";
import { FormatError, setU64 } from "../../format/bytes.ts";
import { Cancel } from "../op.ts";
import { assert, AssertionError, FsError } from "../errors.ts";
import { errno, Iovecs, libc, POLLIN } from "../sys/libc.ts";
import { Arena, mapMemory, PAGE } from "../sys/memory.ts";
import type { FdHandle, SystemReactor } from "../sys/reactor.ts";
import {
  BATCH_FORGET,
  FORGET,
  IN_HEADER,
  INTERRUPT,
  MAX_IO,
  OPCODES,
  OUT_HEADER,
  WRITE,
  WRITE_IN,
} from "./abi.ts";
import { type Buffer, bufferOf, FuseRequest, OUT_BYTES } from "./request.ts";

/** Requests handled before the other sources get a look. */
const BATCH = 64;
/** One in so many requests of a lone caller is followed by a look for another's. */
const PROBE = 8;
/** An answer's header and payload, in whole pages. */
const FRAME_BYTES = OUT_BYTES + PAGE;
/** Parts of an answer's data: each block of the largest read on its own, edges included. */
const MAX_PARTS = MAX_IO / PAGE + 1;
/** Data up to this is copied behind the header: cheaper than telling the kernel where it is. */
const COPIED_BYTES = 16 << 10;
const NOTHING: Buffer = bufferOf(new Uint8Array(0));

/**
 * A handler's result: payload bytes in `req.out` (plus `req.parts`), or a negated errno where an
 * error is too ordinary to be thrown, or `NO_ANSWER`.
 */
export type Answer = number | Promise<number>;

/** Answers one request; throws FsError. */
export type Handler = (req: FuseRequest) => Answer;
/** For requests without an answer; below any errno. */
export const NO_ANSWER = -0x10000;

export interface SessionOptions {
  /** By opcode; ENOSYS for what is missing. */
  handlers: readonly (Handler | undefined)[];
  /** A request's wait should end: `req` is parked. */
  onInterrupt: (req: FuseRequest) => void;
  /** Defects and protocol surprises, one line each. */
  log: (line: string) => void;
  /** The session is over: unmounted, or aborted. Nothing is answered any more. */
  onEnd: (why: string) => void;
}

export class FuseSession {
  /** Requests answered or dropped so far. */
  served = 0;
  private readonly inputs: Buffer[] = [];
  private readonly idle: FuseRequest[] = [];
  private readonly arena = new Arena(1 << 20);
  private readonly dataPool = new Map<number, Uint8Array[]>();
  private readonly parked = new Map<number, FuseRequest>();
  private readonly iovecs = new Iovecs(1 + MAX_PARTS);
  private readonly handle: FdHandle;
  private current: FuseRequest;
  private over = false;
  /** The last line about a number that cannot be: it may be met again and again. */
  private lastLine = "";
  /** Requests come faster than they are answered. */
  private several = false;

  constructor(
    reactor: SystemReactor,
    private readonly fd: number,
    private readonly options: SessionOptions,
  ) {
    this.current = this.takeRequest();
    this.handle = reactor.watch(fd, POLLIN, () => this.serve());
  }

  /** Requests that wait for their answer. */
  get parkedCount(): number {
    return this.parked.size;
  }

  /** Calls `visit` for every request that waits for its answer. */
  forEachParked(visit: (req: FuseRequest) => void): void {
    for (const req of [...this.parked.values()]) visit(req);
  }

  /**
   * A page-aligned buffer of at least `bytes` for `req.parts`; goes back by itself when the request
   * is answered.
   */
  takeData(req: FuseRequest, bytes: number): Uint8Array {
    assert(req.dataBuffer === null, "a request has two data buffers");
    const size = sizeClass(bytes);
    return req.dataBuffer = this.dataPool.get(size)?.pop() ?? mapMemory(size);
  }

  /** Stops serving; for sessions that end otherwise than by unmounting. */
  close(): void {
    this.end("closed");
  }

  /**
   * Handles what is there, up to a batch; true when there may be more. A lone caller has nothing
   * for us after its request is answered, so a second read is only tried while that was of use.
   */
  private serve(): boolean {
    const limit = this.several || this.served % PROBE === 0 ? BATCH : 1;
    for (let i = 0; i < limit; i++) {
      if (this.over) return false;
      const input = this.current.in.bytes;
      const n = libc.read(this.fd, input as Uint8Array<ArrayBuffer>, input.length);
      if (n < 0) {
        const code = errno();
        if (code === EAGAIN) {
          this.several = i > 1;
          return false;
        }
        // ENOENT: the request was interrupted before we could read it.
        if (code === EINTR || code === ENOENT) continue;
        this.end(code === ENODEV ? "unmounted" : `session read: ${strerror(code)}`);
        return false;
      }
      this.handleRequest(n);
    }
    return limit > 1;
  }

  private handleRequest(received: number): void {
    const req = this.current;
    this.served++;
    let answer: Answer;
    try {
      req.decode(received);
      if (req.opcode === INTERRUPT) {
        this.interrupt(req);
        return;
      }
      const handler = req.opcode < OPCODES ? this.options.handlers[req.opcode] : undefined;
      if (handler === undefined) {
        this.answerError(req, ENOSYS);
        return;
      }
      answer = handler(req);
    } catch (e) {
      this.fail(req, e);
      return;
    }
    if (typeof answer === "number") {
      this.answer(req, answer);
      return;
    }
    this.park(req, answer);
  }

  /** `req` is answered when `answer` settles; the next one gets an object of its own. */
  private park(req: FuseRequest, answer: Promise<number>): void {
    this.parked.set(req.unique, req);
    const next = this.takeRequest();
    if (req.opcode !== WRITE) {
      // Everything else was copied out: the large buffer serves the next request.
      this.inputs.push(next.in);
      next.in = req.in;
      req.in = NOTHING;
    }
    this.current = next;
    answer.then(
      (length) => {
        this.parked.delete(req.unique);
        this.answer(req, length);
        this.giveBack(req);
      },
      (e) => {
        this.parked.delete(req.unique);
        this.fail(req, e);
        this.giveBack(req);
      },
    );
  }

  private interrupt(req: FuseRequest): void {
    const target = this.parked.get(req.u64(0));
    // Otherwise it was answered meanwhile.
    if (target !== undefined) this.options.onInterrupt(target);
  }

  private fail(req: FuseRequest, e: unknown): void {
    let code = EIO;
    if (e instanceof FsError) {
      code = e.errno;
    } else if (e instanceof FormatError) {
      const line = `error: request ${req.opcode} on inode ${req.ino}: ${e.message}`;
      if (line !== this.lastLine) this.options.log(line);
      this.lastLine = line;
    } else {
      const what = e instanceof AssertionError ? "assertion failed" : "defect";
      const stack = e instanceof Error ? e.stack ?? e.message : String(e);
      this.options.log(`error: ${what} in request ${req.opcode} on inode ${req.ino}: ${stack}`);
    }
    // These two are never answered.
    if (req.opcode !== FORGET && req.opcode !== BATCH_FORGET) this.answerError(req, code);
  }

  private answerError(req: FuseRequest, code: number): void {
    this.writeHeader(req, OUT_HEADER, -code);
    this.write(req, OUT_HEADER);
    this.releaseData(req);
  }

  private answer(req: FuseRequest, length: number): void {
    if (length < 0) {
      if (length !== NO_ANSWER) this.answerError(req, -length);
      return;
    }
    const { parts } = req;
    const total = OUT_HEADER + length + parts.length;
    this.writeHeader(req, total, 0);
    if (parts.count === 0) {
      this.write(req, total);
    } else if (parts.length <= COPIED_BYTES) {
      parts.copyTo(req.frame.bytes, OUT_HEADER + length);
      this.write(req, total);
    } else {
      this.iovecs.set(0, req.frame.bytes.subarray(0, OUT_HEADER + length));
      for (let i = 0; i < parts.count; i++) this.iovecs.set(i + 1, parts.part(i));
      const iovecs = this.iovecs.bytes as Uint8Array<ArrayBuffer>;
      const n = libc.writev(this.fd, iovecs, parts.count + 1);
      if (n !== total) this.writeFailed(req, errno());
    }
    this.releaseData(req);
  }

  private writeHeader(req: FuseRequest, total: number, error: number): void {
    const v = req.frame.view;
    v.setUint32(0, total, true);
    v.setInt32(4, error, true);
    setU64(v, 8, req.unique);
  }

  private write(req: FuseRequest, length: number): void {
    const n = libc.write(this.fd, req.frame.bytes as Uint8Array<ArrayBuffer>, length);
    if (n !== length) this.writeFailed(req, errno());
  }

  private writeFailed(req: FuseRequest, code: number): void {
    // Nobody waits any more: what the answer would have told the kernel is taken back.
    req.undo?.();
    if (code === ENOENT || code === ENODEV) return;
    this.options.log(
      `error: answer to request ${req.opcode} on inode ${req.ino} refused: ${strerror(code)}`,
    );
    // Where the kernel did not take the answer the caller would wait for ever.
    this.writeHeader(req, OUT_HEADER, -EIO);
    libc.write(this.fd, req.frame.bytes as Uint8Array<ArrayBuffer>, OUT_HEADER);
  }

  private end(why: string): void {
    if (this.over) return;
    this.over = true;
    this.handle.remove();
    this.options.onEnd(why);
  }

  private takeRequest(): FuseRequest {
    const input = this.inputs.pop() ?? newInput();
    const req = this.idle.pop();
    if (req !== undefined) {
      req.in = input;
      return req;
    }
    return new FuseRequest(input, bufferOf(this.arena.alloc(FRAME_BYTES)));
  }

  private giveBack(req: FuseRequest): void {
    if (req.in !== NOTHING) this.inputs.push(req.in);
    req.in = NOTHING;
    req.undo = null;
    req.cancel = new Cancel();
    this.idle.push(req);
  }

  private releaseData(req: FuseRequest): void {
    if (req.parts.count > 0) req.parts.clear();
    const buffer = req.dataBuffer;
    if (buffer === null) return;
    req.dataBuffer = null;
    const pool = this.dataPool.get(buffer.length);
    if (pool === undefined) this.dataPool.set(buffer.length, [buffer]);
    else pool.push(buffer);
  }
}

/** Data buffers come in powers of two, so that they can be reused. */
function sizeClass(bytes: number): number {
  let size = PAGE;
  while (size < bytes) size *= 2;
  return size;
}

/** The payload of a WRITE begins at a page. */
function newInput(): Buffer {
  const lead = PAGE - IN_HEADER - WRITE_IN;
  return bufferOf(mapMemory(PAGE + MAX_IO).subarray(lead));
}
