/**
 * The progress line of a check: phase, share done, rate, time left. All are of the stage that is under
 * way (fs/check/progress.ts): the time left is what the pace of the last seconds makes of it.
 */

import type { Progress } from "../fs/check/check.ts";
import { tryWriteError } from "./output.ts";

const INTERVAL_MS = 200;
/** The pace is that of so many milliseconds. */
const PACE_MS = 10_000;
/** Before this share, and this time, there is no telling how long it takes. */
const LEAST_SHARE = 0.02;
const LEAST_MS = 1000;

interface Point {
  readonly at: number;
  readonly share: number;
  readonly bytes: number;
}

export class ProgressLine {
  /** The stage's first, and the last few, ascending. */
  #points: Point[] = [];
  #last = -Infinity;
  #shown = false;

  constructor(
    private readonly now: () => number = () => performance.now(),
    private readonly write: (text: string) => void = tryWriteError,
  ) {}

  /** `round`: of a repair, from 1 on. */
  show(p: Progress, round = 1): void {
    const at = this.now(), before = this.#points.at(-1);
    const begins = before === undefined || p.share < before.share || p.bytesRead < before.bytes;
    if (begins) this.#points = [];
    else if (at - this.#last < INTERVAL_MS) return;
    this.#last = at;
    this.#points.push({ at, share: p.share, bytes: p.bytesRead });
    const from = this.#paceFrom(at);
    const seconds = (at - from.at) / 1000;
    const rate = seconds > 0 ? (p.bytesRead - from.bytes) / 1e6 / seconds : 0;
    const speed = seconds > 0 ? (p.share - from.share) / seconds : 0;
    const known = p.share >= LEAST_SHARE && speed > 0 && seconds * 1000 >= LEAST_MS;
    this.write(
      `\r\x1b[K${round > 1 ? `round ${round}, ` : ""}${p.phase}: ` +
        `${(100 * p.share).toFixed(1)} %, ${rate.toFixed(0)} MB/s` +
        (known ? `, ${time((1 - p.share) / speed)} left` : ""),
    );
    this.#shown = true;
  }

  /** The point from which the pace counts; older ones are forgotten. */
  #paceFrom(at: number): Point {
    const points = this.#points;
    while (points.length > 2 && at - (points[1] as Point).at >= PACE_MS) points.shift();
    return points[0] as Point;
  }

  /** Takes the line away, so that other lines can be printed. */
  clear(): void {
    if (!this.#shown) return;
    this.write("\r\x1b[K");
    this.#shown = false;
  }
}

function time(seconds: number): string {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return `${Math.floor(s / 3600)} h ${Math.floor(s % 3600 / 60)} min`;
}
