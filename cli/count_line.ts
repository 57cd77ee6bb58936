/** The progress line of work whose end is not known before: how many blocks are done, and the rate. */

import { LG_SIZE } from "../format/constants.ts";
import { tryWriteError } from "./output.ts";
import { formatSize } from "./sizes.ts";

const INTERVAL_MS = 200;

/** Shown on standard error if that is a terminal. */
export class CountLine {
  readonly #begin: number;
  #last = -Infinity;
  #shown = false;

  /** `done`: what has been done with the blocks, e.g. "dumped". */
  constructor(
    private readonly done: string,
    private readonly shows: boolean = Deno.stderr.isTerminal(),
    private readonly now: () => number = () => performance.now(),
    private readonly write: (text: string) => void = tryWriteError,
  ) {
    this.#begin = now();
  }

  show(blocks: number): void {
    if (!this.shows) return;
    const at = this.now();
    if (at - this.#last < INTERVAL_MS) return;
    this.#last = at;
    const seconds = (at - this.#begin) / 1000, bytes = blocks * LG_SIZE;
    const rate = seconds > 0 ? `, ${formatSize(bytes / seconds, " ")}/s` : "";
    this.write(`\r\x1b[K${this.done} ${blocks} blocks (${formatSize(bytes, " ")})${rate}`);
    this.#shown = true;
  }

  /** Takes the line away, so that other lines can be printed. */
  clear(): void {
    if (!this.#shown) return;
    this.write("\r\x1b[K");
    this.#shown = false;
  }
}
