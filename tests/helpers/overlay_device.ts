/**
 * A device that reads another one and keeps what is written to it in memory: many damaged versions
 * of one image, each costing only its changed pages.
 */

import type { Device } from "../../fs/device.ts";

const PAGE = 4096;

export class OverlayDevice implements Device {
  readonly #pages = new Map<number, Uint8Array>();

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
    return this.base.allocBuffer(bytes);
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
