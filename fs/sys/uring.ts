/**
 * Reads that go on by themselves, through an io_uring of the calling thread: mapped rings, atomics,
 * and one system call, `io_uring_enter`, which submits, and waits when asked to. Completions are
 * only processed inside that call (DEFER_TASKRUN), so nothing interrupts the loop's own wait, and
 * whoever needs a read that is under way sleeps for it as for a plain read.
 *
 * Invariants: at most `ENTRIES` reads are under way, so neither ring overflows; a buffer stays
 * referenced until its read has ended, because the kernel knows only its address.
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
const PROT_READ_WRITE = 3;
const MAP_SHARED_POPULATE = 0x8001;

const PARAMS_BYTES = 120;
const SQE_BYTES = 64;
const CQE_BYTES = 16;
/** Reads under way at most. */
const ENTRIES = 32;

interface Reading {
  /** Kept from being collected. */
  readonly buf: Uint8Array;
  readonly done: (ok: boolean) => void;
}

/** Reads of one file descriptor. */
export class RingReader implements ReadAhead {
  readonly #fd: number;
  readonly #ring: number;
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
  readonly #readings: (Reading | null)[] = new Array<Reading | null>(ENTRIES).fill(null);
  readonly #free: number[] = Array.from({ length: ENTRIES }, (_, i) => i);
  #reaping = false;

  /** Null where the kernel has no io_uring for us. */
  static open(fd: number): RingReader | null {
    const params = new DataView(new ArrayBuffer(PARAMS_BYTES));
    params.setUint32(8, SETUP_SINGLE_ISSUER | SETUP_DEFER_TASKRUN, true);
    const bytes = new Uint8Array(params.buffer);
    const ring = calls.setup(SYS_IO_URING_SETUP, ENTRIES, bytes);
    if (ring < 0) return null;
    if ((params.getUint32(20, true) & FEAT_SINGLE_MMAP) === 0) {
      closeFd(ring);
      return null;
    }
    return new RingReader(fd, ring, params);
  }

  private constructor(fd: number, ring: number, params: DataView) {
    this.#fd = fd;
    this.#ring = ring;
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

  start(buf: Uint8Array, off: number, done: (ok: boolean) => void): boolean {
    const slot = this.#free.pop();
    if (slot === undefined) return false;
    this.#readings[slot] = { buf, done };
    const tail = this.#sq[this.#sqTail]!;
    const index = tail & this.#sqMask;
    const at = index * SQE_BYTES, v = this.#sqes;
    for (let i = 0; i < SQE_BYTES; i += 8) v.setFloat64(at + i, 0);
    v.setUint8(at, OP_READ);
    v.setInt32(at + 4, this.#fd, true);
    v.setBigUint64(at + 8, BigInt(off), true);
    v.setBigUint64(at + 16, addressOf(buf), true);
    v.setUint32(at + 24, buf.length, true);
    v.setUint32(at + 32, slot, true);
    this.#sq[this.#sqArray + index] = index;
    Atomics.store(this.#sq, this.#sqTail, tail + 1);
    if (this.#enter(1, 0) === 1) return true;
    // Refused: the kernel took nothing.
    Atomics.store(this.#sq, this.#sqTail, tail);
    this.#release(slot);
    return false;
  }

  reap(wait: boolean): void {
    if (this.#free.length === ENTRIES) return;
    assert(!this.#reaping, "reads that ended are reaped while they are");
    this.#reaping = true;
    this.#enter(0, wait && !this.#ended() ? 1 : 0);
    const cq = this.#sq;
    let head = cq[this.#cqHead]!;
    while (head !== Atomics.load(cq, this.#cqTail)) {
      const at = (head & this.#cqMask) * CQE_BYTES;
      const slot = this.#cqes.getUint32(at, true);
      const result = this.#cqes.getInt32(at + 8, true);
      Atomics.store(cq, this.#cqHead, ++head);
      const { buf, done } = this.#release(slot);
      done(result === buf.length);
    }
    this.#reaping = false;
  }

  /** The reads under way are waited for; the ring is not used again. */
  close(): void {
    while (this.#free.length < ENTRIES) this.reap(true);
    closeFd(this.#ring);
  }

  #ended(): boolean {
    return this.#sq[this.#cqHead] !== Atomics.load(this.#sq, this.#cqTail);
  }

  #release(slot: number): Reading {
    const reading = this.#readings[slot];
    assert(reading !== null && reading !== undefined, "a read ended that was not under way");
    this.#readings[slot] = null;
    this.#free.push(slot);
    return reading;
  }

  /** Returns how many submissions the kernel took. */
  #enter(submit: number, wait: number): number {
    for (;;) {
      const n = calls.enter(
        SYS_IO_URING_ENTER,
        this.#ring,
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

function mapRing(ring: number, bytes: number, off: bigint): ArrayBuffer {
  const at = libc.mmap(null, BigInt(bytes), PROT_READ_WRITE, MAP_SHARED_POPULATE, ring, off);
  if (at === null || Deno.UnsafePointer.value(at) === 0xffffffffffffffffn) {
    throw sysError("cannot map an io_uring");
  }
  return Deno.UnsafePointerView.getArrayBuffer(at, bytes);
}
