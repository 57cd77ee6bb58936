/**
 * Answers whose data goes from a device to a descriptor of the kernel through a pipe, as pages that
 * the kernel reads into and hands on: the FUSE device puts them into the file's page cache without
 * copying them. This program never sees the bytes.
 *
 * A pipe gets an answer's header, then the data, read by a ring's own threads; then all of it goes
 * to the receiver in one step. A pipe holds one answer at a time, whole or not at all: one whose
 * data came in part, was refused or is not wanted any more is closed, and never used again.
 */

import { assert } from "../errors.ts";
import {
  closeFd,
  F_GETPIPE_SZ,
  F_SETPIPE_SZ,
  libc,
  O_CLOEXEC,
  O_NONBLOCK,
  POLLIN,
} from "./libc.ts";
import { SPLICE_F_MOVE, SPLICE_F_NONBLOCK } from "./libc.ts";
import { PAGE } from "./memory.ts";
import type { FdHandle, SystemReactor } from "./reactor.ts";
import { Ring } from "./uring.ts";

/** Answers under way at most. */
const MAX_PIPES = 16;
/** What pipes are asked to hold; ordinary users, and containers, may get half of it. */
const PIPE_BYTES = [2 << 20, 1 << 20];

interface Pipe {
  readonly from: number;
  readonly to: number;
}

export class Splicer {
  readonly #idle: Pipe[] = [];
  readonly #handle: FdHandle;
  #pipes = 0;

  /** Null where the kernel offers no io_uring or no pipes of a useful size. */
  static open(device: number, reactor: SystemReactor): Splicer | null {
    const most = largestAnswer();
    const ring = most === 0 ? null : Ring.open(false);
    return ring === null ? null : new Splicer(device, reactor, ring, most);
  }

  private constructor(
    private readonly device: number,
    reactor: SystemReactor,
    private readonly ring: Ring,
    /** Bytes of data in one answer at most. */
    readonly maxBytes: number,
  ) {
    this.#handle = reactor.watch(ring.fd, POLLIN, () => {
      ring.reap(false);
      return false;
    });
  }

  /**
   * Begins an answer of `header` and the `length` bytes at byte `off` of the device, whole pages.
   * Null when it is too long, or too many are under way.
   */
  begin(header: Uint8Array, off: number, length: number): Spliced | null {
    assert(off % PAGE === 0 && length % PAGE === 0 && length > 0, "data in pipes is whole pages");
    if (length > this.maxBytes) return null;
    const pipe = this.#take();
    if (pipe === null) return null;
    if (libc.write(pipe.to, header as Uint8Array<ArrayBuffer>, header.length) !== header.length) {
      this.#discard(pipe);
      return null;
    }
    const answer = new Spliced(pipe, header.length + length, (whole) => this.#free(pipe, whole));
    const begun = this.ring.spliceToPipe(
      this.device,
      off,
      pipe.to,
      length,
      (moved) => answer.end(moved === length),
    );
    if (begun) return answer;
    this.#discard(pipe);
    return null;
  }

  /** What is under way is waited for; all pipes are closed. */
  close(): void {
    this.#handle.remove();
    this.ring.close();
    for (const pipe of this.#idle.splice(0)) this.#discard(pipe);
    assert(this.#pipes === 0, "an answer outlives the pipes");
  }

  #take(): Pipe | null {
    const pipe = this.#idle.pop();
    if (pipe !== undefined) return pipe;
    if (this.#pipes === MAX_PIPES) return null;
    const made = makePipe();
    if (made === null) return null;
    if (capacity(made) < PAGE + this.maxBytes) {
      closePipe(made);
      return null;
    }
    this.#pipes++;
    return made;
  }

  #free(pipe: Pipe, empty: boolean): void {
    if (empty) this.#idle.push(pipe);
    else this.#discard(pipe);
  }

  #discard(pipe: Pipe): void {
    this.#pipes--;
    closePipe(pipe);
  }
}

/** One answer. Whoever began it calls `drop` in the end, sent or not. */
export class Spliced {
  /** Resolves when the data was read: true if all of it was. */
  readonly ended: Promise<boolean>;
  #resolve: (whole: boolean) => void = () => {};
  #underWay = true;
  #whole = false;
  #sent = false;
  #dropped = false;

  /** @internal `length` with the header; `free` gets the pipe back, and whether it is empty. */
  constructor(
    private readonly pipe: Pipe,
    readonly length: number,
    private readonly free: (empty: boolean) => void,
  ) {
    this.ended = new Promise((resolve) => this.#resolve = resolve);
  }

  /** @internal The data was read. */
  end(whole: boolean): void {
    this.#underWay = false;
    this.#whole = whole;
    if (this.#dropped) this.free(false);
    this.#resolve(whole);
  }

  /** All data was read. */
  get whole(): boolean {
    return this.#whole;
  }

  /** Sends header and data to `fd` in one step; false when it did not take all (see errno). */
  send(fd: number): boolean {
    assert(this.#whole && !this.#sent && !this.#dropped, "an answer is sent that is not there");
    const flags = SPLICE_F_MOVE | SPLICE_F_NONBLOCK;
    this.#sent = libc.splice(this.pipe.from, null, fd, null, this.length, flags) === this.length;
    return this.#sent;
  }

  /** It is not needed any more. */
  drop(): void {
    if (this.#dropped) return;
    this.#dropped = true;
    if (!this.#underWay) this.free(this.#sent);
  }
}

/** Bytes of data that an answer through a pipe can have here; 0 when there can be none. */
export function largestAnswer(): number {
  const ring = Ring.open(false);
  if (ring === null) return 0;
  ring.close();
  const pipe = makePipe();
  if (pipe === null) return 0;
  // A header takes a page's place.
  const bytes = capacity(pipe) - PAGE;
  closePipe(pipe);
  return bytes >= MIN_ANSWER ? bytes : 0;
}

/** Smaller ones are not worth a pipe. */
const MIN_ANSWER = 128 << 10;

function makePipe(): Pipe | null {
  const ends = new Int32Array(2);
  if (libc.pipe2(new Uint8Array(ends.buffer), O_CLOEXEC | O_NONBLOCK) !== 0) return null;
  const pipe = { from: ends[0]!, to: ends[1]! };
  for (const bytes of PIPE_BYTES) if (libc.fcntl(pipe.to, F_SETPIPE_SZ, bytes) >= bytes) break;
  return pipe;
}

const capacity = (pipe: Pipe): number => libc.fcntl(pipe.to, F_GETPIPE_SZ, 0);

function closePipe(pipe: Pipe): void {
  closeFd(pipe.from);
  closeFd(pipe.to);
}
