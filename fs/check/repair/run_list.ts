/**
 * Runs of blocks in ascending order, any number of them, in as much memory as they may have: what does
 * not fit is in a temporary file (word_store.ts).
 *
 * Lifecycle: push … push, then any reading, then `close`.
 */

import { assert } from "../../errors.ts";
import { hiWord, joinWords, loWord } from "../raw.ts";
import { WordStore } from "../word_store.ts";
import type { Run } from "./free_blocks.ts";

/** Start and length, two words each. */
const WORDS = 4;

/** Told of runs in ascending order. */
export type RunVisitor = (start: number, len: number) => void;

/** Runs that ascend and do not touch, to be visited as often as need be. */
export interface Runs {
  forEach(visit: RunVisitor): void;
}

export class RunList implements Runs {
  readonly #words: WordStore;
  #end = 0;
  /** Blocks of all runs. */
  total = 0;

  /** `memory` in bytes. */
  constructor(memory: number, tempDir: string | undefined) {
    this.#words = new WordStore(memory, tempDir);
  }

  /** How many runs there are. */
  get length(): number {
    return this.#words.length / WORDS;
  }

  /** Whether runs went to the temporary file. */
  get spilled(): boolean {
    return this.#words.spilled;
  }

  push(start: number, len: number): void {
    assert(len > 0 && start >= this.#end, "runs are out of order");
    this.#end = start + len;
    this.total += len;
    this.#words.push(hiWord(start));
    this.#words.push(loWord(start));
    this.#words.push(hiWord(len));
    this.#words.push(loWord(len));
  }

  at(i: number): Run {
    const w = this.#words, at = WORDS * i;
    return {
      start: joinWords(w.get(at), w.get(at + 1)),
      len: joinWords(w.get(at + 2), w.get(at + 3)),
    };
  }

  forEach(visit: RunVisitor): void {
    const w = this.#words;
    for (let at = 0; at < w.length; at += WORDS) {
      visit(joinWords(w.get(at), w.get(at + 1)), joinWords(w.get(at + 2), w.get(at + 3)));
    }
  }

  close(): void {
    this.#words.close();
  }
}
