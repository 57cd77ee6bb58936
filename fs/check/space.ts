/**
 * Who has which data block, without a map of the device: extents of files and free extents go to an
 * external sorter, and one ordered sweep finds overlaps, gaps and what is outside.
 *
 * Relies on: extents that lie on the device; those that do not are reported where they are found.
 * Guarantees (after `sweep`): every pair of neighbours in device order that overlaps has been
 * reported, every gap counted; `used` and `free` are the blocks of each kind.
 */

import { DATA_DEV_START_BLKNO } from "../../format/constants.ts";
import { extentName } from "./names.ts";
import { hiWord, joinWords, loWord } from "./raw.ts";
import type { Reporter } from "./report.ts";
import { Records } from "./records.ts";
import { Sorter } from "./sorter.ts";

/** start, len, owner as two words each, then the logical block of a file extent. */
const WORDS = 8;
const FREE_OWNER = 0x8000_0000;
const RECORDS_BETWEEN = 1 << 16;

/** Takes the data extents of files. */
export interface ExtentSink {
  addFile(start: number, len: number, inoHi: number, inoLo: number, iblock: number): void;
}

/** Extents of files that are gathered for a space map elsewhere. */
export class FileExtents implements ExtentSink {
  readonly #records: Records;
  used = 0;

  /** See `Records`. */
  constructor(most: number, overflow: ((records: ArrayBuffer) => void) | null) {
    this.#records = new Records(WORDS, most, overflow);
  }

  addFile(start: number, len: number, inoHi: number, inoLo: number, iblock: number): void {
    store(this.#records, start, len, inoHi, inoLo, hiWord(iblock), loWord(iblock));
    this.used += len;
  }

  take(): ArrayBuffer {
    return this.#records.take();
  }
}

function store(
  to: { slot(): number; readonly buffer: Uint32Array },
  start: number,
  len: number,
  o1: number,
  o2: number,
  i1: number,
  i2: number,
): void {
  const at = to.slot(), buf = to.buffer;
  buf[at] = hiWord(start);
  buf[at + 1] = loWord(start);
  buf[at + 2] = hiWord(len);
  buf[at + 3] = loWord(len);
  buf[at + 4] = o1;
  buf[at + 5] = o2;
  buf[at + 6] = i1;
  buf[at + 7] = i2;
}

export class SpaceMap {
  readonly #sorter: Sorter;
  readonly #names: string[] = [];
  used = 0;
  free = 0;
  leaked = 0;

  constructor(memory: number, tempDir: string | undefined) {
    this.#sorter = new Sorter({ words: WORDS, keyWords: 4, memory, tempDir });
  }

  defineFree(name: string): number {
    return this.#names.push(name) - 1;
  }

  addFree(start: number, len: number, owner: number): void {
    store(this.#sorter, start, len, FREE_OWNER, owner, 0, 0);
    this.free += len;
  }

  /** Adds what `FileExtents` gathered: its records and how many blocks they use. */
  addFiles(records: ArrayBuffer, used: number): void {
    this.#sorter.append(new Uint32Array(records));
    this.used += used;
  }

  /** One pass over all extents in device order. `done` is told now and then how far it is, 0 … 1. */
  sweep(
    total: number,
    report: Reporter,
    done: (share: number) => void,
  ): void {
    let end = DATA_DEV_START_BLKNO, records = 0;
    const holder = new Uint32Array(WORDS);
    this.#sorter.forEach((w, at) => {
      const start = joinWords(w[at] as number, w[at + 1] as number);
      const len = joinWords(w[at + 2] as number, w[at + 3] as number);
      const free = w[at + 4] === FREE_OWNER;
      if (++records % RECORDS_BETWEEN === 0) done(records / this.#sorter.count);
      if (start > end) this.#gap(end, start - end, report);
      if (start < end) {
        const overlap = Math.min(end, start + len) - start;
        const holderFree = holder[4] === FREE_OWNER;
        const code = free && holderFree
          ? "data-free-twice"
          : free || holderFree
          ? "data-free-in-use"
          : "data-block-twice";
        report.add(code, {
          start,
          len: overlap,
          first: this.#name(holder, 0),
          second: this.#name(w, at),
        });
      }
      if (start + len > end) {
        end = start + len;
        for (let k = 4; k < WORDS; k++) holder[k] = w[at + k] as number;
      }
    });
    if (end < total) this.#gap(end, total - end, report);
    this.#sorter.close();
  }

  #gap(start: number, len: number, report: Reporter): void {
    this.leaked += len;
    report.add("data-leak", { start, len });
  }

  #name(w: Uint32Array, at: number): string {
    if (w[at + 4] === FREE_OWNER) return this.#names[w[at + 5] as number] ?? "a free list";
    const ino = joinWords(w[at + 4] as number, w[at + 5] as number);
    return extentName(ino, joinWords(w[at + 6] as number, w[at + 7] as number));
  }
}
