/**
 * A block device or image file as the engine sees it. Everything is synchronous: a metadata block
 * read costs about 20 µs, less than any asynchronous detour. Offsets and lengths are bytes and
 * multiples of 4096; buffers come from `allocBuffer` so that they suit direct I/O.
 *
 * A write is durable only after a `flush` that began after it returned. Implementations check the
 * write gate (a fenced or stopped node must not write) before every write.
 */
export interface Device {
  /** What messages call it: a path, or the name of an image in memory. */
  readonly name: string;
  /** Bytes. */
  readonly size: number;
  /** `bytes` (a multiple of 4096) of page-aligned memory, zeroed. Lives as long as the device. */
  allocBuffer(bytes: number): Uint8Array;
  /** Fills `buf` from byte `off`; throws DeviceError for errors and short reads. */
  read(buf: Uint8Array, off: number): void;
  /** Writes all of `buf` at byte `off`; throws DeviceError. */
  write(buf: Uint8Array, off: number): void;
  /** Writes the buffers one after the other at `off`; throws DeviceError. */
  writev(bufs: readonly Uint8Array[], off: number): void;
  /** Makes all completed writes durable; throws DeviceError. */
  flush(): void;
  close(): void;
}

/** Reads of a device that go on while its user does other things; for one thread. */
export interface ReadAhead {
  /**
   * Begins to fill `buf` from byte `off`; false when too much is under way already. `done` is called
   * from `reap`, once, saying whether all of it was read; until then `buf` belongs to the device.
   */
  start(buf: Uint8Array, off: number, done: (ok: boolean) => void): boolean;
  /** Calls `done` for the reads that ended; with `wait` sleeps until one has, if one is under way. */
  reap(wait: boolean): void;
}
