/**
 * The tree of directories: a parent for each directory but the root, and every chain of parents
 * ends at the root (02 §24).
 *
 * Directories come in ascending inode order. Sorting them by their parents finds the place of each
 * one's parent in that order; then chains are followed from place to place. The lists and sorts spill
 * to disk; what must be in memory is two bits a directory.
 *
 * Relies on: each directory told once, in ascending inode order, with the parent that its first backref
 * names. How many backrefs it has is judged where they are read (inode_check.ts).
 * Guarantees (after `check`): each directory whose parent is no directory has been reported, and one
 * directory of each circle; every other one is below the root, below one of those, or lacks a parent.
 */

import { hiWord, joinWords, loWord } from "./raw.ts";
import { Sorter } from "./sorter.ts";
import { WordStore } from "./word_store.ts";

/** Instead of a parent: an unlinked directory needs none, a directory without a backref lacks it. */
const NEEDS_NONE = 0;
const LACKS_ONE = -1;

/** Directories as they come, in ascending inode order, for a `ParentMap` elsewhere. */
export class Directories {
  #pairs: number[] = [];
  #pendingIno = -1;
  #pendingParent = -1;

  /** The parent that a backref of directory `ino` names; told before `exists`. */
  add(ino: number, parent: number): void {
    this.#pendingIno = ino;
    this.#pendingParent = parent;
  }

  /** Directory `ino` is there. Unlinked ones need no parent. */
  exists(ino: number, unlinked: boolean): void {
    const known = this.#pendingIno === ino;
    this.#pairs.push(ino, known ? this.#pendingParent : unlinked ? NEEDS_NONE : LACKS_ONE);
  }

  /** Inode and parent of each as doubles; nothing is left here. */
  take(): ArrayBuffer {
    const taken = Float64Array.from(this.#pairs).buffer;
    this.#pairs = [];
    return taken;
  }
}

/** Words of a directory: inode and parent. */
const WORDS = 4;
/** Instead of the place of a parent: the chain ends well; there is no parent; it is no directory. */
const END = 0xffff_ffff;
const LACKING = 0xffff_fffe;
const MISSING = 0xffff_fffd;

/** States of a directory; 0 is one not looked at yet. */
const ON_PATH = 1;
const GOOD = 2;
const BAD = 3;

export class ParentMap {
  readonly #dirs: WordStore;
  readonly #byParent: Sorter;
  readonly #byPlace: Sorter;
  readonly #links: WordStore;

  constructor(memory: number, tempDir: string | undefined) {
    const sorter = { memory: memory / 4, tempDir };
    this.#dirs = new WordStore(memory / 4, tempDir);
    this.#links = new WordStore(memory / 4, tempDir);
    this.#byParent = new Sorter({ words: 3, keyWords: 2, ...sorter });
    this.#byPlace = new Sorter({ words: 2, keyWords: 1, ...sorter });
  }

  /** Adds what `Directories` gathered. */
  append(directories: ArrayBuffer): void {
    const pairs = new Float64Array(directories), dirs = this.#dirs;
    for (let i = 0; i < pairs.length; i += 2) {
      const ino = pairs[i] as number, parent = pairs[i + 1] as number;
      const place = this.count;
      dirs.push(hiWord(ino));
      dirs.push(loWord(ino));
      dirs.push(hiWord(parent));
      dirs.push(loWord(parent));
      if (parent !== NEEDS_NONE && parent !== LACKS_ONE) {
        const at = this.#byParent.slot(), words = this.#byParent.buffer;
        words[at] = hiWord(parent);
        words[at + 1] = loWord(parent);
        words[at + 2] = place;
      }
    }
  }

  get count(): number {
    return this.#dirs.length / WORDS;
  }

  /** Whether something had to be put aside on disk. */
  get spilled(): boolean {
    return this.#dirs.spilled || this.#byParent.spilled || this.#byPlace.spilled ||
      this.#links.spilled;
  }

  /**
   * Visits directories from which the root is not reached: `missing` when the parent is no
   * directory, `cycle` for one directory of each circle. The map is of no use afterwards.
   */
  check(
    root: number,
    missing: (ino: number, parent: number) => void,
    cycle: (ino: number) => void,
  ): void {
    this.#findParents();
    this.#makeLinks(root);
    this.#follow(missing, cycle);
    this.#dirs.close();
    this.#links.close();
  }

  #ino(place: number): number {
    return joinWords(this.#dirs.get(place * WORDS), this.#dirs.get(place * WORDS + 1));
  }

  /** Goes through directories and parents side by side, both ascending. */
  #findParents(): void {
    const n = this.count;
    let candidate = 0;
    this.#byParent.forEach((words, at) => {
      const parent = joinWords(words[at] as number, words[at + 1] as number);
      while (candidate < n && this.#ino(candidate) < parent) candidate++;
      const found = candidate < n && this.#ino(candidate) === parent;
      const to = this.#byPlace.slot(), out = this.#byPlace.buffer;
      out[to] = words[at + 2] as number;
      out[to + 1] = found ? candidate : MISSING;
    });
    this.#byParent.close();
  }

  #makeLinks(root: number): void {
    const n = this.count, links = this.#links;
    // Those without a parent that could be looked for.
    const upTo = (end: number) => {
      for (let place = links.length; place < end; place++) {
        const needsNone = this.#dirs.get(place * WORDS + 2) === 0 &&
          this.#dirs.get(place * WORDS + 3) === 0;
        links.push(needsNone || this.#ino(place) === root ? END : LACKING);
      }
    };
    this.#byPlace.forEach((words, at) => {
      const place = words[at] as number;
      upTo(place);
      links.push(this.#ino(place) === root ? END : words[at + 1] as number);
    });
    upTo(n);
    this.#byPlace.close();
  }

  #follow(missing: (ino: number, parent: number) => void, cycle: (ino: number) => void): void {
    const n = this.count, links = this.#links, states = new States(n);
    for (let first = 0; first < n; first++) {
      if (states.get(first) !== 0) continue;
      // Once to where the chain ends, or comes to what is known, and once more to note that.
      let end = GOOD;
      for (let at = first;;) {
        const state = states.get(at);
        if (state !== 0) {
          if (state === ON_PATH) cycle(this.#ino(at));
          end = state === GOOD ? GOOD : BAD;
          break;
        }
        states.set(at, ON_PATH);
        const next = links.get(at);
        if (next === END) break;
        if (next >= MISSING) {
          // One that lacks a parent is reported with the directory itself.
          if (next === MISSING) {
            const parent = this.#dirs.get(at * WORDS + 2), low = this.#dirs.get(at * WORDS + 3);
            missing(this.#ino(at), joinWords(parent, low));
          }
          end = BAD;
          break;
        }
        at = next;
      }
      for (let at = first; at < n && states.get(at) === ON_PATH; at = links.get(at)) {
        states.set(at, end);
      }
    }
  }
}

/** Two bits a directory. */
class States {
  readonly #bits: Uint8Array;

  constructor(n: number) {
    this.#bits = new Uint8Array(Math.ceil(n / 4));
  }

  get(i: number): number {
    return (this.#bits[i >>> 2] as number) >>> 2 * (i & 3) & 3;
  }

  set(i: number, state: number): void {
    const at = i >>> 2, shift = 2 * (i & 3);
    this.#bits[at] = (this.#bits[at] as number) & ~(3 << shift) | state << shift;
  }
}
