/** Ordered reads: whatever of them goes on by itself, fails or is refused, every block arrives. */

import assert from "node:assert/strict";
import { MetaSource } from "../../fs/check/source.ts";
import type { Device, ReadAhead } from "../../fs/device.ts";
import { DeviceError } from "../../fs/errors.ts";
import { MemDevice } from "../../fs/memory_device.ts";
import { LG_SIZE } from "../../format/constants.ts";

const BLOCKS = 400;

/** Takes what chance lets it, ends reads in another order, and some in failure. */
class ChanceReads implements ReadAhead {
  readonly #under: (() => void)[] = [];
  started = 0;

  constructor(private readonly dev: Device, private seed: number) {}

  #below(n: number): number {
    this.seed = Math.imul(this.seed, 1664525) + 1013904223 >>> 0;
    return Math.floor(this.seed / 0x1_0000_0000 * n);
  }

  start(buf: Uint8Array, off: number, done: (ok: boolean) => void): boolean {
    if (this.#under.length > 5 || this.#below(6) === 0) return false;
    this.started++;
    const fails = this.#below(5) === 0;
    this.#under.push(() => {
      if (!fails) this.dev.read(buf, off);
      done(!fails);
    });
    return true;
  }

  reap(wait: boolean): void {
    while (this.#under.length > 0 && (wait || this.#below(2) === 0)) {
      wait = false;
      this.#under.splice(this.#below(this.#under.length), 1)[0]!();
    }
  }
}

function makeDevice(bad: ReadonlySet<number>): Device {
  const dev = new MemDevice(BLOCKS * LG_SIZE);
  for (let i = 0; i < BLOCKS; i++) {
    dev.write(new Uint8Array(4096).fill(1 + i % 250), i * LG_SIZE);
  }
  const read = dev.read.bind(dev);
  dev.read = (buf, off) => {
    for (let at = off; at < off + buf.length; at += LG_SIZE) {
      if (bad.has(at / LG_SIZE)) throw new DeviceError("meta", "bad sector");
    }
    read(buf, off);
  };
  return dev;
}

Deno.test("ordered reads bring every block that can be read, in its place", () => {
  const bad = new Set([7, 60, 61, 200]), dev = makeDevice(bad);
  for (let seed = 0; seed < 200; seed++) {
    const real = makeDevice(new Set()), ahead = seed % 4 === 0 ? null : new ChanceReads(real, seed);
    const source = new MetaSource(dev, 0, 0, ahead);
    const blknos: number[] = [];
    for (let b = seed % 5; b < BLOCKS && blknos.length < 64; b += 1 + (b * seed >> 3) % 3) {
      blknos.push(b);
    }
    const window = new Uint8Array(blknos.length * LG_SIZE).fill(255);
    const reading = source.readOrdered(Float64Array.from(blknos), window);
    reading.finish();
    let readable = 0;
    blknos.forEach((blkno, i) => {
      if (reading.unreadable(i)) {
        assert.ok(bad.has(blkno));
        return;
      }
      readable++;
      assert.equal(window[i * LG_SIZE], 1 + blkno % 250, `block ${blkno}`);
      assert.equal(window[i * LG_SIZE + LG_SIZE - 1], 0);
    });
    assert.equal(source.bytesRead, readable * LG_SIZE);
    assert.ok(ahead === null || ahead.started > 0);
    if (ahead === null) assert.equal(readable, blknos.filter((b) => !bad.has(b)).length);
  }
});
