/**
 * A device in memory, for tests and the simulator: sparse, it can record every write and flush, be
 * rebuilt as it would be after a crash at any point of that record, and fail on command.
 *
 * Invariant: a stored page is never changed in place, a write replaces it; so snapshots, the record
 * and devices made by replay share pages without copying. A crash keeps every write that a later
 * flush covered, and any subset of the pages written after the last flush.
 */

import type { Device } from "./device.ts";
import { assert, DeviceError } from "./errors.ts";

/** The unit of offsets and lengths, and of what a crash keeps or loses. */
export const MEM_PAGE = 4096;

/** One recorded operation; `bytes` must not be changed. */
export type DeviceRecord =
  | { readonly kind: "write"; readonly off: number; readonly bytes: Uint8Array }
  | { readonly kind: "flush" };

/**
 * A failure to inject: the `nth` (0 = the next) operation of this kind fails with EIO, is cut short
 * (a write stores only its first page, then fails; a read fails as a short read), or, silently,
 * reads or writes with one bit flipped. `from`/`to` restrict it to operations touching those bytes.
 */
export interface Fault {
  op: "read" | "write" | "flush";
  kind: "fail" | "short" | "corrupt";
  nth: number;
  /** Stays in force after it first struck. */
  sticky?: boolean;
  from?: number;
  to?: number;
}

export interface MemDeviceOptions {
  name?: string;
  /** Keep `log` (from the start; `startRecording` begins a new one). */
  record?: boolean;
  /** Called before every write; throws to refuse it, as the write gate of a mount does. */
  beforeWrite?: () => void;
}

export class MemDevice implements Device {
  readonly name: string;
  /** Operations so far. */
  reads = 0;
  writes = 0;
  flushes = 0;
  private recording: DeviceRecord[] | null;
  private base: Map<number, Uint8Array> = new Map();
  private pages: Map<number, Uint8Array> = new Map();
  private faults: Fault[] = [];
  private closed = false;
  private readonly beforeWrite: (() => void) | undefined;

  constructor(readonly size: number, options: MemDeviceOptions = {}) {
    assert(size > 0 && size % MEM_PAGE === 0, `device size ${size} is not a multiple of 4096`);
    this.name = options.name ?? "memory";
    this.recording = options.record === true ? [] : null;
    this.beforeWrite = options.beforeWrite;
  }

  /** A device holding a copy of `image`, padded with zeros to a multiple of 4096. */
  static fromImage(image: Uint8Array, options: MemDeviceOptions = {}): MemDevice {
    const dev = new MemDevice(Math.ceil(image.length / MEM_PAGE) * MEM_PAGE, {
      ...options,
      record: false,
    });
    for (let off = 0; off < image.length; off += MEM_PAGE) {
      const part = image.subarray(off, off + MEM_PAGE);
      if (part.every((b) => b === 0)) continue;
      const page = new Uint8Array(MEM_PAGE);
      page.set(part);
      dev.pages.set(off / MEM_PAGE, page);
    }
    if (options.record === true) dev.startRecording();
    return dev;
  }

  /** The recorded operations since recording began; empty when not recording. */
  get log(): readonly DeviceRecord[] {
    return this.recording ?? [];
  }

  /** Begins a new record whose base is the present content. */
  startRecording(): void {
    this.recording = [];
    this.base = new Map(this.pages);
  }

  allocBuffer(bytes: number): Uint8Array {
    assert(bytes > 0 && bytes % MEM_PAGE === 0, `buffer size ${bytes} is not a multiple of 4096`);
    return new Uint8Array(bytes);
  }

  read(buf: Uint8Array, off: number): void {
    this.check("read", buf.length, off);
    this.reads++;
    const fault = this.strike("read", off, buf.length);
    if (fault === "fail") throw this.error("read", buf.length, off, "Input/output error");
    if (fault === "short") throw this.error("read", buf.length, off, "short read of 0 bytes");
    for (let at = 0; at < buf.length; at += MEM_PAGE) {
      const page = this.pages.get((off + at) / MEM_PAGE);
      if (page === undefined) buf.fill(0, at, at + MEM_PAGE);
      else buf.set(page, at);
    }
    if (fault === "corrupt") flipBit(buf);
  }

  write(buf: Uint8Array, off: number): void {
    this.writev([buf], off);
  }

  writev(bufs: readonly Uint8Array[], off: number): void {
    let len = 0;
    for (const b of bufs) len += b.length;
    this.check("write", len, off);
    this.beforeWrite?.();
    this.writes++;
    const fault = this.strike("write", off, len);
    if (fault === "fail") throw this.error("write", len, off, "Input/output error");
    const bytes = new Uint8Array(fault === "short" ? MEM_PAGE : len);
    let at = 0;
    for (const b of bufs) {
      if (at >= bytes.length) break;
      bytes.set(b.subarray(0, bytes.length - at), at);
      at += b.length;
    }
    if (fault === "corrupt") flipBit(bytes);
    this.store(bytes, off);
    this.recording?.push({ kind: "write", off, bytes });
    if (fault === "short") throw this.error("write", len, off, `short write of ${MEM_PAGE} bytes`);
  }

  flush(): void {
    assert(!this.closed, `${this.name}: flush after close`);
    this.flushes++;
    if (this.strike("flush", 0, this.size) !== null) {
      throw new DeviceError(this.name, "flush failed: Input/output error");
    }
    this.recording?.push({ kind: "flush" });
  }

  close(): void {
    this.closed = true;
  }

  /** Makes a later operation fail; see `Fault`. */
  inject(fault: Fault): void {
    this.faults.push({ ...fault });
  }

  clearFaults(): void {
    this.faults = [];
  }

  /** A new device with the same content, recording nothing. */
  snapshot(): MemDevice {
    return this.derive(new Map(this.pages));
  }

  /** The device after exactly the first `prefix` recorded operations: a crash that loses nothing. */
  replay(prefix: number): MemDevice {
    return this.replayKeeping(prefix, () => true);
  }

  /**
   * The device as a crash after `prefix` recorded operations may leave it: of the pages written
   * since the last flush before that, only those for which `keep(record, page)` says so.
   */
  replayKeeping(prefix: number, keep: (record: number, page: number) => boolean): MemDevice {
    const log = this.log;
    assert(prefix >= 0 && prefix <= log.length, `prefix ${prefix} of ${log.length} records`);
    let flushed = prefix;
    while (flushed > 0 && log[flushed - 1]?.kind !== "flush") flushed--;
    const dev = this.derive(new Map(this.base));
    for (let i = 0; i < prefix; i++) {
      const r = log[i];
      if (r === undefined || r.kind === "flush") continue;
      if (i < flushed) {
        dev.store(r.bytes, r.off);
        continue;
      }
      for (let at = 0; at < r.bytes.length; at += MEM_PAGE) {
        const page = (r.off + at) / MEM_PAGE;
        if (keep(i, page)) dev.store(r.bytes.subarray(at, at + MEM_PAGE), r.off + at);
      }
    }
    return dev;
  }

  /** Makes the content of `other`, a device of the same size, the same; nothing is recorded. */
  copyTo(other: MemDevice): void {
    assert(other.size === this.size, "devices of different sizes have no equal content");
    other.pages = new Map(this.pages);
    if (other.recording !== null) other.startRecording();
  }

  /** All bytes, for small devices. */
  toImage(): Uint8Array {
    const image = new Uint8Array(this.size);
    for (const [page, bytes] of this.pages) image.set(bytes, page * MEM_PAGE);
    return image;
  }

  /** Bytes of memory that the stored pages stand for. */
  get storedBytes(): number {
    return this.pages.size * MEM_PAGE;
  }

  private derive(pages: Map<number, Uint8Array>): MemDevice {
    const dev = new MemDevice(this.size, { name: this.name });
    dev.pages = pages;
    dev.base = new Map(pages);
    return dev;
  }

  /** `bytes` become the device's own. */
  private store(bytes: Uint8Array, off: number): void {
    for (let at = 0; at < bytes.length; at += MEM_PAGE) {
      this.pages.set((off + at) / MEM_PAGE, bytes.subarray(at, at + MEM_PAGE));
    }
  }

  private check(what: string, len: number, off: number): void {
    assert(!this.closed, `${this.name}: ${what} after close`);
    assert(
      Number.isSafeInteger(off) && off >= 0 && off % MEM_PAGE === 0 && len > 0 &&
        len % MEM_PAGE === 0,
      `${this.name}: ${what} of ${len} bytes at offset ${off} is not aligned to 4096`,
    );
    if (off + len > this.size) {
      throw this.error(what, len, off, `beyond the end of the device (${this.size} bytes)`);
    }
  }

  private error(what: string, len: number, off: number, why: string): DeviceError {
    return new DeviceError(this.name, `${what} of ${len} bytes at offset ${off}: ${why}`);
  }

  private strike(op: Fault["op"], off: number, len: number): Fault["kind"] | null {
    for (let i = 0; i < this.faults.length; i++) {
      const f = this.faults[i];
      if (f === undefined || f.op !== op) continue;
      if (off + len <= (f.from ?? 0) || off >= (f.to ?? Infinity)) continue;
      if (f.nth > 0) {
        f.nth--;
        continue;
      }
      if (f.sticky !== true) this.faults.splice(i, 1);
      return f.kind;
    }
    return null;
  }
}

function flipBit(buf: Uint8Array): void {
  const at = buf.length >> 1;
  buf[at] = (buf[at] ?? 0) ^ 0x10;
}
