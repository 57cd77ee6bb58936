/**
 * How far a check is. A stage is what takes one share of 0 … 1: the check, which reads all metadata
 * once, and where facts disagree a second reading. Within a stage the share never goes back; a new
 * stage begins at 0.
 */

import type { Progress } from "./context.ts";
import type { MetaSource } from "./source.ts";
import { LG_SIZE } from "../../format/constants.ts";

/** Told not more often than once in so many bytes of reading. */
const INTERVAL_BYTES = 4 << 20;

export class ProgressTeller {
  #phase = "";
  #share = 0;
  /** The part of the stage that reading is, and the bytes read when it began. */
  #part = 0;
  #start = 0;
  #told = 0;

  /** `used`: blocks that are to be read, as far as is known. */
  constructor(
    private readonly source: MetaSource,
    private readonly used: number,
    private readonly tell: ((p: Progress) => void) | undefined,
  ) {
    if (tell === undefined) return;
    source.onRead = () => {
      if (source.bytesRead - this.#told >= INTERVAL_BYTES) this.#reading();
    };
  }

  /** Begins a stage, of which all reading is the first `part`. */
  stage(part: number): void {
    this.#share = 0;
    this.#part = part;
    this.#start = this.source.bytesRead;
  }

  /** Names what is done now. */
  phase(name: string): void {
    this.#phase = name;
    this.#send(this.#share);
  }

  /** So much of what comes after reading has been done. */
  rest(done: number): void {
    this.#send(this.#part + (1 - this.#part) * Math.min(1, done));
  }

  #reading(): void {
    const bytes = this.source.bytesRead - this.#start;
    const done = Math.min(1, bytes / (Math.max(1, this.used) * LG_SIZE));
    this.#send(this.#part * done);
  }

  #send(share: number): void {
    this.#share = Math.max(this.#share, share);
    this.#told = this.source.bytesRead;
    this.tell?.({ phase: this.#phase, share: this.#share, bytesRead: this.#told });
  }
}
