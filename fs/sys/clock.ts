/** The real clock and randomness of fs/env.ts. */

import type { Clock, Random } from "../env.ts";
import { assert } from "../errors.ts";
import { CLOCK_MONOTONIC, CLOCK_REALTIME, libc, sysError } from "./libc.ts";

export class SystemClock implements Clock {
  private readonly words = new Uint32Array(4);
  private readonly bytes = new Uint8Array(this.words.buffer);

  now(): number {
    this.read(CLOCK_MONOTONIC);
    return this.sec() * 1000 + (this.words[2] ?? 0) / 1e6;
  }

  monotonic(): { sec: number; nsec: number } {
    this.read(CLOCK_MONOTONIC);
    return { sec: this.sec(), nsec: this.words[2] ?? 0 };
  }

  realtime(): { sec: number; nsec: number } {
    this.read(CLOCK_REALTIME);
    return { sec: this.sec(), nsec: this.words[2] ?? 0 };
  }

  private read(clock: number): void {
    if (libc.clock_gettime(clock, this.bytes) !== 0) throw sysError("clock_gettime");
  }

  private sec(): number {
    return (this.words[1] ?? 0) * 0x1_0000_0000 + (this.words[0] ?? 0);
  }
}

/** Cryptographic randomness, drawn in blocks. */
export class SystemRandom implements Random {
  private readonly pool = new Uint32Array(256);
  private next = this.pool.length;

  u32(): number {
    if (this.next === this.pool.length) {
      crypto.getRandomValues(this.pool);
      this.next = 0;
    }
    return this.pool[this.next++] ?? 0;
  }

  u64(): bigint {
    return (BigInt(this.u32()) << 32n) | BigInt(this.u32());
  }

  below(n: number): number {
    assert(Number.isInteger(n) && n > 0 && n <= 0x1_0000_0000, `random number below ${n}`);
    // Rejection keeps it uniform.
    const limit = 0x1_0000_0000 - (0x1_0000_0000 % n);
    for (;;) {
      const v = this.u32();
      if (v < limit) return v % n;
    }
  }
}
