/**
 * The ladder of a repair. What is found again and again although it was mended is mended in a harsher
 * way, so that no mistake of a fixer, and no damage that it was not made for, can go on for ever:
 *
 *   0  It is mended (fixers.ts, structure.ts).
 *   1  What it is about is taken away: an entry with its three items, all attributes or extents of an
 *      inode, an inode item, which is made anew from what is left. A tree is written anew as a whole;
 *      search files, compactions and merges are given up.
 *   2  An inode goes with everything that it has, a directory with all its entries: what they led to
 *      is put below lost+found. A tree of items is never given up.
 *
 * Each step says what is lost (fixers_give_up.ts). Only what may lose something climbs.
 *
 * The same problem is counted by its code and all its values; one whose values change all the time by
 * its code and the object that it is about. Memory: the problems counted first, as many as fit.
 */

import type { ProblemCode, Values } from "../problems.ts";

export const RUNGS = 3;
/** Rounds in which the same problem is mended on the first rung, and on each other. */
const FIRST = 3;
const EACH = 2;
/** The same, for other problems of one kind about the same object. */
const FIRST_OF_KIND = 8;
/** Rounds after which nothing is left to be tried. */
export const MOST_VAIN_ROUNDS = FIRST + EACH * (RUNGS - 1);

/** Problems that are counted, and what one takes. */
const MOST = 50_000;
const BYTES = 512;

export class Ladder {
  readonly #tries = new Map<string, { tries: number; round: number }>();
  readonly #most: number;
  #round = 0;
  /** Problems of this round. */
  climbs = 0;

  /** `first`: the rung of what is there in the first round. */
  constructor(private readonly first: number, memory: number) {
    this.#most = Math.min(MOST, Math.floor(memory / 32 / BYTES));
  }

  nextRound(): void {
    this.#round++;
    this.climbs = 0;
  }

  /** The rung on which a problem of this round is to be mended. */
  climb(code: ProblemCode, values: Values): number {
    this.climbs++;
    const same = this.#count(`${code} ${Object.values(values).join(" ")}`);
    const kind = this.#count(`${code} of ${objectOf(values)}`);
    return Math.min(
      RUNGS - 1,
      Math.max(
        this.#round === 1 ? this.first : 0,
        rungAfter(same, FIRST),
        rungAfter(kind, FIRST_OF_KIND),
      ),
    );
  }

  /** Rounds before this one in which it was there. */
  #count(name: string): number {
    const known = this.#tries.get(name);
    if (known === undefined) {
      if (this.#tries.size < this.#most) this.#tries.set(name, { tries: 1, round: this.#round });
      return 0;
    }
    if (known.round !== this.#round) {
      known.tries++;
      known.round = this.#round;
    }
    return known.tries - 1;
  }
}

const rungAfter = (tries: number, first: number): number =>
  tries < first ? 0 : 1 + Math.floor((tries - first) / EACH);

/** What a problem is about. */
function objectOf(values: Values): string {
  const { dir, pos, ino, key, what, first } = values;
  if (dir !== undefined && pos !== undefined) return `${dir} ${pos}`;
  return String(ino ?? key ?? what ?? first ?? "");
}
