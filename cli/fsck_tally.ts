/**
 * What the rounds of a check and repair found, by code: how many problems there were, how many of them
 * the last check still found. Only counts are kept, so a problem that went while another one of its
 * code came in the same round is not seen as two.
 */

import { type ProblemCode, PROBLEMS } from "../fs/check/problems.ts";

export interface CodeTally {
  readonly code: ProblemCode;
  readonly found: number;
  readonly left: number;
}

/** Bits of the numbers by which problems are remembered. */
const HALF = 0x20_0000;

export class Tally {
  #before = new Map<ProblemCode, number>();
  #now = new Map<ProblemCode, number>();
  readonly #found = new Map<ProblemCode, number>();

  /** A check begins. */
  begin(): void {
    this.#before = this.#now;
    this.#now = new Map();
  }

  add(code: ProblemCode): void {
    const now = (this.#now.get(code) ?? 0) + 1;
    this.#now.set(code, now);
    if (now > (this.#before.get(code) ?? 0)) {
      this.#found.set(code, (this.#found.get(code) ?? 0) + 1);
    }
  }

  /** Errors and warnings in the order in which their codes were first found; infos are no problems. */
  get codes(): CodeTally[] {
    return [...this.#found]
      .filter(([code]) => PROBLEMS[code].severity !== "info")
      .map(([code, found]) => ({ code, found, left: this.#now.get(code) ?? 0 }));
  }
}

/** Lines that were shown already; beyond `limit` of them everything counts as new. */
export class Shown {
  readonly #hashes = new Set<number>();

  constructor(private readonly limit: number) {}

  /** Whether `text` is new; remembers it. */
  isNew(text: string): boolean {
    if (this.#hashes.size >= this.limit) return true;
    const hash = hash53(text);
    if (this.#hashes.has(hash)) return false;
    this.#hashes.add(hash);
    return true;
  }
}

/** Two FNV-1a hashes of different seeds, as one exact number. */
function hash53(text: string): number {
  let a = 0x811c9dc5, b = 0x9e3779b9;
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i);
    a = Math.imul(a ^ c, 0x01000193);
    b = Math.imul(b ^ c, 0x85ebca6b);
  }
  return (a >>> 0) * HALF + (b >>> 11);
}
