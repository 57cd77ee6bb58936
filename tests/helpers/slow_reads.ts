/**
 * Reading ahead on a device in memory as badly as a real one may do it: reads end late, in any order,
 * some fail, and a block that was written meanwhile comes in its old or its new content.
 */

import type { Device, ReadAhead } from "../../fs/device.ts";
import { SM_SIZE } from "../../format/constants.ts";
import { DeviceError } from "../../fs/errors.ts";
import type { Random } from "../../fs/env.ts";

interface Reading {
  readonly buf: Uint8Array;
  readonly off: number;
  /** What was there when it began. */
  readonly before: Uint8Array;
  readonly done: (ok: boolean) => void;
}

export class SlowReads implements ReadAhead {
  started = 0;
  failed = 0;
  readonly #under: Reading[] = [];

  constructor(
    private readonly dev: Device,
    private readonly random: Random,
    private readonly options: { most?: number; failPerMille?: number } = {},
  ) {}

  /** Reads under way. */
  get pending(): number {
    return this.#under.length;
  }

  start(buf: Uint8Array, off: number, done: (ok: boolean) => void): boolean {
    if (this.#under.length >= (this.options.most ?? 8)) return false;
    this.started++;
    const before = new Uint8Array(buf.length);
    this.#read(before, off);
    // Until it has ended anything may be there.
    buf.fill(0xdd);
    this.#under.push({ buf, off, before, done });
    return true;
  }

  reap(wait: boolean): void {
    let ends = this.random.below(this.#under.length + 1);
    if (wait && ends === 0) ends = Math.min(1, this.#under.length);
    for (; ends > 0; ends--) {
      const [r] = this.#under.splice(this.random.below(this.#under.length), 1);
      const now = new Uint8Array(r!.buf.length);
      const read = this.#read(now, r!.off);
      for (let at = 0; at < now.length; at += SM_SIZE) {
        const from = this.random.below(2) === 0 ? r!.before : now;
        r!.buf.set(from.subarray(at, at + SM_SIZE), at);
      }
      const ok = read && this.random.below(1000) >= (this.options.failPerMille ?? 50);
      if (!ok) {
        this.failed++;
        r!.buf.fill(0xdd);
      }
      r!.done(ok);
    }
  }

  /** Whether the device could be read. */
  #read(into: Uint8Array, off: number): boolean {
    try {
      this.dev.read(into, off);
      return true;
    } catch (e) {
      if (e instanceof DeviceError) return false;
      throw e;
    }
  }
}
