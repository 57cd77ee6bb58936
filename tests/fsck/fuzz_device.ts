/**
 * Devices for many damaged versions of one volume, made cheap: all versions share the volume's
 * blocks, a version has only those that were written, and every buffer that a run asks for comes
 * back when the run is over. Blocks can be made unreadable.
 *
 * Invariant: after `Buffers.reclaim` nothing of the run before may be used any more.
 */

import { Buffer } from "node:buffer";
import { LG_SIZE, SM_SIZE } from "../../format/constants.ts";
import type { Device } from "../../fs/device.ts";
import { assert, DeviceError } from "../../fs/errors.ts";
import { MemDevice } from "../../fs/memory_device.ts";

/** The blocks of a volume, read once. */
export class Image {
  readonly #blocks = new Map<number, Uint8Array>();
  readonly size: number;

  readonly #buffer: Uint8Array;

  constructor(readonly base: Device) {
    this.size = base.size;
    this.#buffer = base.allocBuffer(LG_SIZE);
  }

  /** A block as it is on the base; never to be changed. */
  block(index: number): Uint8Array {
    let block = this.#blocks.get(index);
    if (block === undefined) {
      const into = this.#buffer.subarray(0, Math.min(LG_SIZE, this.size - index * LG_SIZE));
      this.base.read(into, index * LG_SIZE);
      const blank = into.length === LG_SIZE && Buffer.compare(into, ZEROS) === 0;
      block = blank ? ZEROS : into.slice();
      this.#blocks.set(index, block);
    }
    return block;
  }

  /** Indexes of the blocks that hold something, of those that were read so far. */
  filled(): number[] {
    return [...this.#blocks].filter(([, block]) => block !== ZEROS).map(([index]) => index);
  }
}

const ZEROS = new Uint8Array(LG_SIZE);

/** Buffers that are used again from run to run. */
export class Buffers {
  readonly #free = new Map<number, Uint8Array[]>();
  readonly #used: Uint8Array[] = [];

  get(bytes: number): Uint8Array {
    const free = this.#free.get(bytes)?.pop();
    const buf = free ?? new Uint8Array(bytes);
    if (free !== undefined) buf.fill(0);
    this.#used.push(buf);
    return buf;
  }

  /** The run is over. */
  reclaim(): void {
    for (const buf of this.#used) {
      const free = this.#free.get(buf.length);
      if (free === undefined) this.#free.set(buf.length, [buf]);
      else free.push(buf);
    }
    this.#used.length = 0;
  }
}

export class FuzzDevice implements Device {
  readonly #changed = new Map<number, Uint8Array>();
  /** Blocks of 4 KiB whose reading fails until they are written. */
  readonly #unreadable = new Set<number>();

  constructor(
    readonly name: string,
    private readonly image: Image,
    private readonly buffers: Buffers,
  ) {}

  get size(): number {
    return this.image.size;
  }

  /** Indexes of the blocks of 64 KiB that were written. */
  get changed(): number[] {
    return [...this.#changed.keys()];
  }

  /** Indexes of the blocks of 64 KiB of which a part cannot be read. */
  get unreadable(): number[] {
    const per = LG_SIZE / SM_SIZE;
    return [...new Set([...this.#unreadable].map((blkno) => Math.floor(blkno / per)))];
  }

  makeUnreadable(blkno: number): void {
    this.#unreadable.add(blkno);
  }

  allocBuffer(bytes: number): Uint8Array {
    return this.buffers.get(bytes);
  }

  read(buf: Uint8Array, off: number): void {
    this.#check("read", buf.length, off);
    if (this.#unreadable.size > 0) {
      for (let at = off; at < off + buf.length; at += SM_SIZE) {
        if (!this.#unreadable.has(at / SM_SIZE)) continue;
        throw new DeviceError(this.name, `read of ${buf.length} bytes at offset ${off}: damaged`);
      }
    }
    for (let at = 0; at < buf.length;) {
      const index = Math.floor((off + at) / LG_SIZE), within = (off + at) % LG_SIZE;
      const block = this.block(index), n = Math.min(LG_SIZE - within, buf.length - at);
      // Most of what a search of all blocks reads holds nothing.
      if (block === ZEROS) buf.fill(0, at, at + n);
      else buf.set(n === block.length ? block : block.subarray(within, within + n), at);
      at += n;
    }
  }

  /** A block as it is now; not to be changed. */
  block(index: number): Uint8Array {
    return this.#changed.get(index) ?? this.image.block(index);
  }

  write(buf: Uint8Array, off: number): void {
    this.#check("write", buf.length, off);
    for (let at = 0; at < buf.length;) {
      const index = Math.floor((off + at) / LG_SIZE), within = (off + at) % LG_SIZE;
      const n = Math.min(LG_SIZE - within, buf.length - at);
      let block = this.#changed.get(index);
      if (block === undefined) {
        const old = this.image.block(index);
        block = this.buffers.get(old.length);
        if (n < old.length) block.set(old);
        this.#changed.set(index, block);
      }
      block.set(buf.subarray(at, at + n), within);
      at += n;
    }
    if (this.#unreadable.size > 0) {
      for (let at = off; at < off + buf.length; at += SM_SIZE) {
        this.#unreadable.delete(at / SM_SIZE);
      }
    }
  }

  writev(bufs: readonly Uint8Array[], off: number): void {
    let at = off;
    for (const b of bufs) {
      this.write(b, at);
      at += b.length;
    }
  }

  flush(): void {}
  close(): void {}

  /** A device of its own with the same content. */
  copy(): MemDevice {
    const dev = new MemDevice(this.size, { name: this.name });
    for (const index of new Set([...this.image.filled(), ...this.#changed.keys()])) {
      dev.write(this.block(index), index * LG_SIZE);
    }
    return dev;
  }

  #check(what: string, length: number, off: number): void {
    const aligned = Number.isSafeInteger(off) && off >= 0 && off % SM_SIZE === 0 && length > 0 &&
      length % SM_SIZE === 0;
    // The text is made for those that fail only: a run reads many thousand times.
    if (!aligned) {
      assert(false, `${this.name}: ${what} of ${length} bytes at offset ${off} is not aligned`);
    }
    if (off + length > this.size) {
      throw new DeviceError(this.name, `${what} at offset ${off}: beyond the end of the device`);
    }
  }
}
