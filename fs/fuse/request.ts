/**
 * One request of the kernel: its header, its arguments in place, and the buffer its answer is
 * encoded into. Requests are answered in any order; the session reuses a request object and its
 * buffers once it is answered, so a handler that suspends keeps the object. Names are copied (`name`)
 * because they are handed to operations that may run again later, when the arguments are gone.
 */

import { getU64 } from "../../format/bytes.ts";
import { EFBIG, EINVAL } from "../../format/errno.ts";
import type { Caller } from "../caller.ts";
import { errnoError } from "../errors.ts";
import { Cancel } from "../op.ts";
import { ReadParts } from "../read_parts.ts";
import { IN_HEADER, OUT_HEADER } from "./abi.ts";

/** Bytes of answer payload in `req.out`: the largest xattr value, or a long directory. */
export const OUT_BYTES = 64 << 10;

/** Names of a request, and bytes of each, that are copied without a buffer of their own. */
const KEPT_NAMES = 2;
const KEPT_BYTES = 256;

/**
 * Place for a name. Every new array has memory from malloc and is swept up later, which costs more
 * than all else that is done with a name: so there is one window for each length, made when needed.
 */
class KeptName {
  readonly bytes = new Uint8Array(KEPT_BYTES);
  readonly #windows: Uint8Array[] = [];

  /** The first `length` bytes. */
  window(length: number): Uint8Array {
    return this.#windows[length] ??= this.bytes.subarray(0, length);
  }
}

/** A buffer with a view of it. */
export interface Buffer {
  readonly bytes: Uint8Array;
  readonly view: DataView;
}

export function bufferOf(bytes: Uint8Array): Buffer {
  return { bytes, view: new DataView(bytes.buffer, bytes.byteOffset, bytes.length) };
}

export class FuseRequest implements Caller {
  opcode = 0;
  /** The kernel's number of the request; unique among those not yet answered. */
  unique = 0;
  /** The inode. */
  ino = 0;
  uid = 0;
  gid = 0;
  pid = 0;
  /** Set by handlers of requests that create something. */
  umask = 0;
  /** Bytes of the request, header included. */
  length = 0;
  /** The request. Once its handler suspended, only a WRITE still has it. */
  in: Buffer;
  /** Where the answer's payload goes: `OUT_BYTES` from byte 0. */
  readonly out: Buffer;
  /** Sent after the payload in `out`: data where it is. */
  readonly parts = new ReadParts();
  /** The session's: memory that `parts` may be in. */
  dataBuffer: Uint8Array | null = null;
  /** Ends the waits of the operation behind the request. */
  cancel = new Cancel();
  /** Undoes what an answer that finds nobody (ENOENT) told the kernel about. */
  undo: (() => void) | null = null;

  readonly #names = Array.from({ length: KEPT_NAMES }, () => new KeptName());
  /** Names of this request so far. */
  #named = 0;

  /** `frame` has room for the answer's header and `OUT_BYTES`. */
  constructor(input: Buffer, readonly frame: Buffer) {
    this.in = input;
    this.out = bufferOf(frame.bytes.subarray(OUT_HEADER, OUT_HEADER + OUT_BYTES));
  }

  /** Reads the header; throws EINVAL when the length is not what was received. */
  decode(received: number): void {
    const v = this.in.view;
    this.length = v.getUint32(0, true);
    this.opcode = v.getUint32(4, true);
    this.unique = getU64(v, 8);
    this.ino = getU64(v, 16);
    this.uid = v.getUint32(24, true);
    this.gid = v.getUint32(28, true);
    this.pid = v.getUint32(32, true);
    this.umask = 0;
    this.undo = null;
    this.#named = 0;
    if (this.length !== received) throw errnoError(EINVAL);
  }

  /** Argument fields, by their offset in the argument structure. */
  u32(o: number): number {
    return this.in.view.getUint32(IN_HEADER + o, true);
  }
  i32(o: number): number {
    return this.in.view.getInt32(IN_HEADER + o, true);
  }
  /** EFBIG beyond 2^53−1: only offsets and sizes can be so large. */
  u64(o: number): number {
    const v = this.in.view, at = IN_HEADER + o;
    const hi = v.getUint32(at + 4, true);
    if (hi >= 0x20_0000) throw errnoError(EFBIG);
    return hi * 0x1_0000_0000 + v.getUint32(at, true);
  }

  /** A position that is only looked from: what is beyond 2^53−1 is behind every end. */
  position(o: number): number {
    const v = this.in.view, at = IN_HEADER + o;
    const hi = v.getUint32(at + 4, true);
    if (hi >= 0x20_0000) return Number.MAX_SAFE_INTEGER;
    return hi * 0x1_0000_0000 + v.getUint32(at, true);
  }
  big(o: number): bigint {
    return this.in.view.getBigUint64(IN_HEADER + o, true);
  }
  /**
   * A time of two's complement seconds at `sec`, nanoseconds at `nsec`. What numbers cannot count
   * exactly, ±285 million years, is the limit itself, as the kernel does with the limits of others.
   */
  time(sec: number, nsec: number): { sec: number; nsec: number } {
    const seconds = this.i32(sec + 4) * 0x1_0000_0000 + this.u32(sec);
    if (seconds > Number.MAX_SAFE_INTEGER) return { sec: Number.MAX_SAFE_INTEGER, nsec: 0 };
    if (seconds < Number.MIN_SAFE_INTEGER) return { sec: Number.MIN_SAFE_INTEGER, nsec: 0 };
    return { sec: seconds, nsec: this.u32(nsec) };
  }

  /** The NUL-terminated string at `o` of the arguments, good until the request is answered. */
  name(o: number): Uint8Array {
    const bytes = this.in.bytes, start = IN_HEADER + o;
    let end = start;
    while (end < this.length && bytes[end] !== 0) end++;
    if (end >= this.length) throw errnoError(EINVAL);
    const length = end - start;
    if (length > KEPT_BYTES || this.#named === KEPT_NAMES) return bytes.slice(start, end);
    const kept = this.#names[this.#named++]!, to = kept.bytes;
    // Names are short: a loop beats the calls that copying otherwise makes.
    for (let i = 0; i < length; i++) to[i] = bytes[start + i]!;
    return kept.window(length);
  }

  /** The `length` bytes at `o` of the arguments, in place. */
  window(o: number, length: number): Uint8Array {
    const start = IN_HEADER + o;
    if (start + length > this.length) throw errnoError(EINVAL);
    return this.in.bytes.subarray(start, start + length);
  }
}
