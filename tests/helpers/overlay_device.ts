/**
 * A device that reads another one and keeps what is written to it in memory: many damaged versions
 * of one image, each costing only its changed pages.
 */

import { Buffer } from "node:buffer";
import type { Device } from "../../fs/device.ts";

const PAGE = 4096;
const BLOCK = 65536;
/** What the holes of a sparse image hold, once. */
const ZEROS = new Uint8Array(BLOCK);

export class OverlayDevice implements Device {
  readonly #pages = new Map<number, Uint8Array>();

  /** `base` is an `ImageCache` where many overlays are made of one image. */
  constructor(readonly base: Device) {}

  get name(): string {
    return this.base.name;
  }
  get size(): number {
    return this.base.size;
  }
  /** Bytes that differ, in whole pages. */
  get changedBytes(): number {
    return this.#pages.size * PAGE;
  }

  allocBuffer(bytes: number): Uint8Array {
    return new Uint8Array(bytes);
  }

  read(buf: Uint8Array, off: number): void {
    this.base.read(buf, off);
    for (let at = 0; at < buf.length; at += PAGE) {
      const page = this.#pages.get((off + at) / PAGE);
      if (page !== undefined) buf.set(page, at);
    }
  }

  write(buf: Uint8Array, off: number): void {
    for (let at = 0; at < buf.length; at += PAGE) {
      this.#pages.set((off + at) / PAGE, buf.slice(at, at + PAGE));
    }
  }

  writev(bufs: readonly Uint8Array[], off: number): void {
    let at = off;
    for (const b of bufs) {
      this.write(b, at);
      at += b.length;
    }
  }

  /** Forgets everything written. */
  reset(): void {
    this.#pages.clear();
  }

  flush(): void {}
  close(): void {}
}

/** A read-only device whose blocks stay in memory once read; takes buffers of any alignment. */
export class ImageCache implements Device {
  readonly #blocks = new Map<number, Uint8Array>();
  readonly #buffer: Uint8Array;

  constructor(readonly base: Device) {
    this.#buffer = base.allocBuffer(BLOCK);
  }

  get name(): string {
    return this.base.name;
  }
  get size(): number {
    return this.base.size;
  }

  allocBuffer(bytes: number): Uint8Array {
    return new Uint8Array(bytes);
  }

  read(buf: Uint8Array, off: number): void {
    for (let at = 0; at < buf.length;) {
      const index = Math.floor((off + at) / BLOCK), within = (off + at) % BLOCK;
      const part = this.#block(index).subarray(within, within + buf.length - at);
      buf.set(part, at);
      at += part.length;
    }
  }

  #block(index: number): Uint8Array {
    let block = this.#blocks.get(index);
    if (block === undefined) {
      const into = this.#buffer.subarray(0, Math.min(BLOCK, this.size - index * BLOCK));
      this.base.read(into, index * BLOCK);
      block = Buffer.compare(into, ZEROS) === 0 ? ZEROS : into.slice();
      this.#blocks.set(index, block);
    }
    return block;
  }

  write(): void {
    throw new Error(`${this.name} is read only`);
  }
  writev(): void {
    throw new Error(`${this.name} is read only`);
  }
  flush(): void {}
  close(): void {
    this.base.close();
  }
}
