/**
 * The C library as far as the program needs it, by FFI: one table of symbols per isolate, errno,
 * iovecs. Every call is synchronous and stays on the fast path where it matters: results are i32,
 * lengths u32 (the kernel looks at no more), addresses are buffers. A 64-bit offset must be a bigint
 * and costs about 100 ns: nothing next to the device.
 *
 * A system call that fails returns -1; read `errno()` before calling anything else.
 */

import { FsError } from "../errors.ts";
import { strerror } from "../../format/errno.ts";

const library = Deno.dlopen("libc.so.6", {
  __errno_location: { parameters: [], result: "pointer" },
  mmap: { parameters: ["pointer", "usize", "i32", "i32", "i32", "i64"], result: "pointer" },
  madvise: { parameters: ["pointer", "usize", "i32"], result: "i32" },
  munmap: { parameters: ["pointer", "usize"], result: "i32" },
  open: { parameters: ["buffer", "i32", "u32"], result: "i32" },
  close: { parameters: ["i32"], result: "i32" },
  read: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  write: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  readv: { parameters: ["i32", "buffer", "i32"], result: "i32" },
  writev: { parameters: ["i32", "buffer", "i32"], result: "i32" },
  pread: { parameters: ["i32", "buffer", "u32", "i64"], result: "i32" },
  pwrite: { parameters: ["i32", "buffer", "u32", "i64"], result: "i32" },
  pwritev: { parameters: ["i32", "buffer", "i32", "i64"], result: "i32" },
  _exit: { parameters: ["i32"], result: "void" },
  dup2: { parameters: ["i32", "i32"], result: "i32" },
  fdatasync: { parameters: ["i32"], result: "i32" },
  fcntl: { parameters: ["i32", "i32", "i32"], result: "i32" },
  flock: { parameters: ["i32", "i32"], result: "i32" },
  ioctl: { parameters: ["i32", "u32", "buffer"], result: "i32" },
  poll: { parameters: ["buffer", "u32", "i32"], result: "i32" },
  eventfd: { parameters: ["u32", "i32"], result: "i32" },
  pipe2: { parameters: ["buffer", "i32"], result: "i32" },
  clock_gettime: { parameters: ["i32", "buffer"], result: "i32" },
  getrandom: { parameters: ["buffer", "u32", "u32"], result: "i32" },
  socket: { parameters: ["i32", "i32", "i32"], result: "i32" },
  bind: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  listen: { parameters: ["i32", "i32"], result: "i32" },
  accept4: { parameters: ["i32", "buffer", "buffer", "i32"], result: "i32" },
  connect: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  getsockname: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
  setsockopt: { parameters: ["i32", "i32", "i32", "buffer", "u32"], result: "i32" },
  getsockopt: { parameters: ["i32", "i32", "i32", "buffer", "buffer"], result: "i32" },
  shutdown: { parameters: ["i32", "i32"], result: "i32" },
  send: { parameters: ["i32", "buffer", "u32", "i32"], result: "i32" },
  recv: { parameters: ["i32", "buffer", "u32", "i32"], result: "i32" },
  sendto: { parameters: ["i32", "buffer", "u32", "i32", "buffer", "u32"], result: "i32" },
  recvfrom: { parameters: ["i32", "buffer", "u32", "i32", "buffer", "buffer"], result: "i32" },
  process_vm_readv: {
    parameters: ["i32", "buffer", "u32", "buffer", "u32", "u32"],
    result: "i32",
  },
  process_vm_writev: {
    parameters: ["i32", "buffer", "u32", "buffer", "u32", "u32"],
    result: "i32",
  },
});

/** The symbols of this isolate. */
export const libc = library.symbols;

/** Calls that may block for long, off the calling thread; they lose errno and return -1 only. */
const blocking = Deno.dlopen("libc.so.6", {
  umount2: { parameters: ["buffer", "i32"], result: "i32", nonblocking: true },
  write: { parameters: ["i32", "buffer", "usize"], result: "isize", nonblocking: true },
});

export const libcNonblocking = blocking.symbols;

const errnoAddress = libc.__errno_location();
if (errnoAddress === null) throw new Error("the C library has no errno");
const errnoCell = new Int32Array(Deno.UnsafePointerView.getArrayBuffer(errnoAddress, 4));

/** errno of the last failed call of this isolate. */
export function errno(): number {
  return errnoCell[0] ?? 0;
}

/** An FsError of `errno()`: `what: Text`. */
export function sysError(what: string, code: number = errno()): FsError {
  return new FsError(code, `${what}: ${strerror(code)}`);
}

const encoder = new TextEncoder();

/** A NUL-terminated copy of `s`. */
export function cString(s: string): Uint8Array<ArrayBuffer> {
  const bytes = encoder.encode(s);
  const out = new Uint8Array(bytes.length + 1);
  out.set(bytes);
  return out;
}

/** Closes `fd`; failure to close is a defect, not an error to report. */
export function closeFd(fd: number): void {
  libc.close(fd);
}

/**
 * A fixed array of iovecs. It keeps the buffers it points to referenced, since the kernel only
 * knows their addresses.
 */
export class Iovecs {
  readonly bytes: Uint8Array;
  private readonly words: BigUint64Array;
  private readonly u32: Uint32Array;
  private readonly held: (Uint8Array | null)[];

  constructor(count: number) {
    this.words = new BigUint64Array(count * 2);
    this.u32 = new Uint32Array(this.words.buffer);
    this.bytes = new Uint8Array(this.words.buffer);
    this.held = new Array<Uint8Array | null>(count).fill(null);
  }

  /** Entry `i` becomes `buf`, which must not be empty. */
  set(i: number, buf: Uint8Array): void {
    this.words[2 * i] = addressOf(buf);
    this.words[2 * i + 1] = BigInt(buf.length);
    this.held[i] = buf;
  }

  /** Only the length of entry `i` changes: at most that of the buffer it was set to. */
  setLength(i: number, length: number): void {
    // Little-endian: the low word of the length; the high one stays zero.
    this.u32[4 * i + 2] = length;
  }
}

/** Where the memory of buffers begins: it never moves, and asking costs more than a lookup here. */
const addresses = new WeakMap<ArrayBufferLike, number>();

/** The address of the first byte of `buf`, which must stay referenced while anyone uses it. */
export function addressOf(buf: Uint8Array): bigint {
  let base = addresses.get(buf.buffer);
  if (base === undefined) {
    const all = new Uint8Array(buf.buffer as ArrayBuffer);
    // User space ends at 2^47, or 2^56 where it is larger: not beyond what a number can hold here.
    base = Number(Deno.UnsafePointer.value(Deno.UnsafePointer.of(all)));
    if (!Number.isSafeInteger(base + buf.byteOffset)) {
      throw new RangeError("an address beyond 2^53");
    }
    addresses.set(buf.buffer, base);
  }
  return BigInt(base + buf.byteOffset);
}

// open(2), fcntl(2), poll(2), socket(2) and so on: Linux on x86-64 and arm64 agree on these but for
// O_DIRECT.
export const O_RDONLY = 0;
export const O_RDWR = 2;
export const O_EXCL = 0o200;
export const O_NONBLOCK = 0o4000;
export const O_CLOEXEC = 0o2000000;
export const O_DIRECT = Deno.build.arch === "aarch64" ? 0o200000 : 0o40000;
export const F_GETFL = 3;
export const F_SETFL = 4;
export const LOCK_EX = 2;
export const LOCK_NB = 4;
export const POLLIN = 1;
export const POLLOUT = 4;
export const POLLERR = 8;
export const POLLHUP = 16;
export const CLOCK_REALTIME = 0;
export const CLOCK_MONOTONIC = 1;
export const MNT_DETACH = 2;
