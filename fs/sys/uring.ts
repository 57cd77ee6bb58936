/**
 * Input and output that goes on by itself, through an io_uring of the calling thread: mapped rings,
 * atomics, and one system call, `io_uring_enter`, which submits, and waits when asked to.
 *
 * A ring is of one of two kinds. Of a deferred one completions are only processed inside that call
 * (DEFER_TASKRUN): nothing interrupts the loop's own wait, and whoever needs what is under way
 * sleeps for it as for a plain read. The descriptor of the other kind becomes readable when
 * something has ended, for loops that wait for other things too.
 *
 * Invariants: at most `ENTRIES` requests are under way, so neither ring overflows; a buffer stays
 * referenced until its request has ended, because the kernel knows only its address.
 */

import { EAGAIN, EBUSY, EINTR } from "../../format/errno.ts";
import type { ReadAhead } from "../device.ts";
import { assert } from "../errors.ts";
import { addressOf, closeFd, errno, libc, sysError } from "./libc.ts";

const { symbols: calls } = Deno.dlopen("libc.so.6", {
  setup: {
    name: "syscall",
    parameters: ["i64", "u32", "buffer"],
    result: "i32",
  },
  enter: {
    name: "syscall",
    parameters: ["i64", "i32", "u32", "u32", "u32", "pointer", "usize"],
    result: "i32",
  },
});

const SYS_IO_URING_SETUP = 425n;
const SYS_IO_URING_ENTER = 426n;
const SETUP_SINGLE_ISSUER = 1 << 12;
const SETUP_DEFER_TASKRUN = 1 << 13;
const FEAT_SINGLE_MMAP = 1;
const ENTER_GETEVENTS = 1;
const OFF_SQES = 0x10000000n;
const OP_READ = 22;
const OP_SPLICE = 30;
const PROT_READ_WRITE = 3;
const MAP_SHARED_POPULATE = 0x8001;

const PARAMS_BYTES = 120;
const SQE_BYTES = 64;
const CQE_BYTES = 16;
/** Requests under way at most. */
const ENTRIES = 32;

/** Told of a request's end, from `reap`: bytes, or a negated errno. */
type Done = (result: number) => void;

interface Request {
  /** Kept from being collected. */
  readonly buf: Uint8Array | null;
  readonly done: Done;
}

export class Ring {
  /** Readable when something has ended, unless the ring is deferred. */
  readonly fd: number;
  readonly #deferred: boolean;
  readonly #sq: Int32Array;
  readonly #sqTail: number;
  readonly #sqMask: number;
  readonly #sqArray: number;
  readonly #cqHead: number;
  readonly #cqTail: number;
  readonly #cqMask: number;
  readonly #cqes: DataView;
  readonly #sqes: DataView;
  /** By slot, which is the request's user_data. */
  readonly #requests: (Request | null)[] = new Array<Request | null>(ENTRIES).fill(null);
  readonly #free: number[] = Array.from({ length: ENTRIES }, (_, i) => i);
  #reaping = false;

  /** Null where the kernel has no io_uring for us. */
  static open(deferred: boolean): Ring | null {
    const params = new DataView(new ArrayBuffer(PARAMS_BYTES));
    if (deferred) params.setUint32(8, SETUP_SINGLE_ISSUER | SETUP_DEFER_TASKRUN, true);
    const bytes = new Uint8Array(params.buffer);
    const ring = calls.setup(SYS_IO_URING_SETUP, ENTRIES, bytes);
    if (ring < 0) return null;
    if ((params.getUint32(20, true) & FEAT_SINGLE_MMAP) === 0) {
      closeFd(ring);
      return null;
    }
    return new Ring(ring, params, deferred);
  }

  private constructor(ring: number, params: DataView, deferred: boolean) {
    this.fd = ring;
    this.#deferred = deferred;
    const sqEntries = params.getUint32(0, true), cqEntries = params.getUint32(4, true);
    const sq = (o: number) => params.getUint32(40 + o, true);
    const cq = (o: number) => params.getUint32(80 + o, true);
    const bytes = Math.max(sq(24) + sqEntries * 4, cq(20) + cqEntries * CQE_BYTES);
    const rings = mapRing(ring, bytes, 0n);
    this.#sq = new Int32Array(rings, 0, bytes >> 2);
    this.#sqTail = sq(4) >> 2;
    this.#sqMask = this.#sq[sq(8) >> 2]!;
    this.#sqArray = sq(24) >> 2;
    this.#cqHead = cq(0) >> 2;
    this.#cqTail = cq(4) >> 2;
    this.#cqMask = this.#sq[cq(8) >> 2]!;
    this.#cqes = new DataView(rings, cq(20), cqEntries * CQE_BYTES);
    this.#sqes = new DataView(mapRing(ring, sqEntries * SQE_BYTES, OFF_SQES));
  }

  /** Something is under way. */
  get busy(): boolean {
    return this.#free.length < ENTRIES;
  }

  /** Begins to fill `buf` from byte `off` of `fd`; false when too much is under way. */
  read(fd: number, buf: Uint8Array, off: number, done: Done): boolean {
    const at = this.#prepare(OP_READ, fd, buf.length);
    if (at < 0) return false;
    const v = this.#sqes;
    v.setBigUint64(at + 8, BigInt(off), true);
    v.setBigUint64(at + 16, addressOf(buf), true);
    return this.#submit(buf, done);
  }

  /** Begins to move `length` bytes from byte `off` of `from` into a pipe; false as with `read`. */
  spliceToPipe(from: number, off: number, pipe: number, length: number, done: Done): boolean {
    const at = this.#prepare(OP_SPLICE, pipe, length);
    if (at < 0) return false;
    const v = this.#sqes;
    v.setBigInt64(at + 8, -1n, true);
    v.setBigUint64(at + 16, BigInt(off), true);
    v.setInt32(at + 44, from, true);
    return this.#submit(null, done);
  }

  /** The next entry with what all kinds of requests have; −1 when too much is under way. */
  #prepare(opcode: number, fd: number, length: number): number {
    if (this.#free.length === 0) return -1;
    const at = (this.#sq[this.#sqTail]! & this.#sqMask) * SQE_BYTES, v = this.#sqes;
    for (let i = 0; i < SQE_BYTES; i += 8) v.setFloat64(at + i, 0);
    v.setUint8(at, opcode);
    v.setInt32(at + 4, fd, true);
    v.setUint32(at + 24, length, true);
    v.setUint32(at + 32, this.#free.at(-1)!, true);
    return at;
  }

  #submit(buf: Uint8Array | null, done: Done): boolean {
    const slot = this.#free.pop()!;
    this.#requests[slot] = { buf, done };
    const tail = this.#sq[this.#sqTail]!;
    const index = tail & this.#sqMask;
    this.#sq[this.#sqArray + index] = index;
    Atomics.store(this.#sq, this.#sqTail, tail + 1);
    if (this.#enter(1, 0) === 1) return true;
    // Refused: the kernel took nothing.
    Atomics.store(this.#sq, this.#sqTail, tail);
    this.#release(slot);
    return false;
  }

  /** Tells of what has ended; with `wait` sleeps until something has, if something is under way. */
  reap(wait: boolean): void {
    if (!this.busy) return;
    assert(!this.#reaping, "requests that ended are reaped while they are");
    this.#reaping = true;
    const sleep = wait && !this.#ended();
    if (sleep || this.#deferred) this.#enter(0, sleep ? 1 : 0);
    const cq = this.#sq;
    let head = cq[this.#cqHead]!;
    while (head !== Atomics.load(cq, this.#cqTail)) {
      const at = (head & this.#cqMask) * CQE_BYTES;
      const slot = this.#cqes.getUint32(at, true);
      const result = this.#cqes.getInt32(at + 8, true);
      Atomics.store(cq, this.#cqHead, ++head);
      this.#release(slot).done(result);
    }
    this.#reaping = false;
  }

  /** What is under way is waited for; the ring is not used again. */
  close(): void {
    while (this.busy) this.reap(true);
    closeFd(this.fd);
  }

  #ended(): boolean {
    return this.#sq[this.#cqHead] !== Atomics.load(this.#sq, this.#cqTail);
  }

  #release(slot: number): Request {
    const request = this.#requests[slot];
    assert(request !== null && request !== undefined, "a request ended that was not under way");
    this.#requests[slot] = null;
    this.#free.push(slot);
    return request;
  }

  /** Returns how many submissions the kernel took. */
  #enter(submit: number, wait: number): number {
    for (;;) {
      const n = calls.enter(
        SYS_IO_URING_ENTER,
        this.fd,
        submit,
        wait,
        ENTER_GETEVENTS,
        null,
        0n,
      );
      if (n >= 0) return n;
      const code = errno();
      if (code === EINTR) continue;
      if (code === EAGAIN || code === EBUSY) return 0;
      throw sysError("io_uring_enter", code);
    }
  }
}

/** Reads of one file descriptor that go ahead of whoever wants them. */
export class RingReader implements ReadAhead {
  /** Null where the kernel has no io_uring for us. */
  static open(fd: number): RingReader | null {
    const ring = Ring.open(true);
    return ring === null ? null : new RingReader(fd, ring);
  }

  private constructor(private readonly fd: number, private readonly ring: Ring) {}

  start(buf: Uint8Array, off: number, done: (ok: boolean) => void): boolean {
    return this.ring.read(this.fd, buf, off, (result) => done(result === buf.length));
  }

  reap(wait: boolean): void {
    this.ring.reap(wait);
  }

  /** The reads under way are waited for; the reader is not used again. */
  close(): void {
    this.ring.close();
  }
}

function mapRing(ring: number, bytes: number, off: bigint): ArrayBuffer {
  const at = libc.mmap(null, BigInt(bytes), PROT_READ_WRITE, MAP_SHARED_POPULATE, ring, off);
  if (at === null || Deno.UnsafePointer.value(at) === 0xffffffffffffffffn) {
    throw sysError("cannot map an io_uring");
  }
  return Deno.UnsafePointerView.getArrayBuffer(at, bytes);
}
