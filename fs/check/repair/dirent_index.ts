/**
 * The dirent items of one directory by the position that they give: their keys begin with the hash of
 * the name, so that only reading all of them tells which have a position. Any number of them takes as
 * much memory as there may be (sorter.ts, word_store.ts).
 *
 * Lifecycle: made once of all keys, then any reading, then `close`.
 */

import { TYPE_DIRENT, ZONE_FS } from "../../../format/constants.ts";
import { Key } from "../../../format/key.ts";
import { hiWord, joinWords, loWord } from "../raw.ts";
import { Sorter } from "../sorter.ts";
import { WordStore } from "../word_store.ts";

/** Position and hash, two words each, and the last field of the key. */
const WORDS = 5;
const POS_WORDS = 2;

export interface IndexSpace {
  /** Bytes that the index and its sorting may take, each. */
  readonly memory: number;
  readonly tempDir: string | undefined;
}

/** Position in the key of a dirent or backref item, rounded above 2^53. */
export const posOf = (key: Key): number => joinWords(key.thirdHi, key.thirdLo);

export class DirentIndex {
  readonly #words: WordStore;

  /** `keys` of the dirent items of directory `dir`, in key order. */
  constructor(readonly dir: number, keys: Iterable<Key>, { memory, tempDir }: IndexSpace) {
    const sorter = new Sorter({ words: WORDS, keyWords: POS_WORDS, memory, tempDir });
    this.#words = new WordStore(memory, tempDir);
    try {
      for (const key of keys) {
        const at = sorter.slot(), buf = sorter.buffer;
        buf[at] = key.thirdHi;
        buf[at + 1] = key.thirdLo;
        buf[at + 2] = key.secondHi;
        buf[at + 3] = key.secondLo;
        buf[at + 4] = key.fourth;
      }
      // Those of one position stay in key order.
      sorter.forEach((w, at) => {
        for (let k = 0; k < WORDS; k++) this.#words.push(w[at + k] as number);
      });
    } finally {
      sorter.close();
    }
  }

  /** Whether it takes a temporary file. */
  get spilled(): boolean {
    return this.#words.spilled;
  }

  /** Keys of the items that give position `pos`, in key order. */
  keysAt(pos: number): Key[] {
    const keys: Key[] = [], dirHi = hiWord(this.dir), dirLo = loWord(this.dir);
    for (let i = this.#below(pos); i < this.#length && this.#pos(i) === pos; i++) {
      const [thirdHi, thirdLo, secondHi, secondLo, fourth] = Array.from(
        { length: WORDS },
        (_, k) => this.#words.get(i * WORDS + k),
      ) as [number, number, number, number, number];
      keys.push(
        Key.words(
          ZONE_FS,
          dirHi,
          dirLo,
          TYPE_DIRENT,
          secondHi,
          secondLo,
          thirdHi,
          thirdLo,
          fourth,
        ),
      );
    }
    // Positions beyond 2^53 can be the same when they are rounded.
    return keys.sort((a, b) => a.compare(b));
  }

  /** The greatest position below `limit`; -1 if there is none. */
  greatestBelow(limit: number): number {
    const i = this.#below(limit);
    return i === 0 ? -1 : this.#pos(i - 1);
  }

  close(): void {
    this.#words.close();
  }

  get #length(): number {
    return this.#words.length / WORDS;
  }

  #pos(i: number): number {
    return joinWords(this.#words.get(i * WORDS), this.#words.get(i * WORDS + 1));
  }

  /** How many give a position below `pos`. */
  #below(pos: number): number {
    let from = 0, to = this.#length;
    while (from < to) {
      const mid = Math.floor((from + to) / 2);
      if (this.#pos(mid) < pos) from = mid + 1;
      else to = mid;
    }
    return from;
  }
}
