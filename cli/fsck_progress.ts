/** The progress line of a check: phase, share done, rate, time left. */

import type { Progress } from "../fs/check/check.ts";

const encoder = new TextEncoder();
const INTERVAL_MS = 200;

export class ProgressLine {
  readonly #start = performance.now();
  #last = 0;
  #shown = false;

  show(p: Progress): void {
    const now = performance.now();
    if (now - this.#last < INTERVAL_MS) return;
    this.#last = now;
    const seconds = (now - this.#start) / 1000;
    const rate = p.bytesRead / 1e6 / Math.max(seconds, 0.001);
    const left = p.share > 0.01 ? `, ${time(seconds / p.share - seconds)} left` : "";
    this.#write(
      `\r\x1b[K${p.phase}: ${(100 * p.share).toFixed(1)} %, ${rate.toFixed(0)} MB/s${left}`,
    );
    this.#shown = true;
  }

  /** Takes the line away, so that other lines can be printed. */
  clear(): void {
    if (!this.#shown) return;
    this.#write("\r\x1b[K");
    this.#shown = false;
  }

  #write(text: string): void {
    Deno.stderr.writeSync(encoder.encode(text));
  }
}

function time(seconds: number): string {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return `${Math.floor(s / 3600)} h ${Math.floor(s % 3600 / 60)} min`;
}
