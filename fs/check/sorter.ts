/**
 * External sorting of fixed-size records of 32-bit words, ascending by their first `keyWords`
 * words. Records gather in memory; a full buffer is sorted and spilled to a temporary file as a
 * run, and reading merges the runs: all at once, or, where they are too many for the memory, groups of
 * them first. Time is n log n whatever the memory.
 *
 * Lifecycle: push … push, then one `forEach`, then `close`.
 */

import { assert } from "../errors.ts";
import { TempFile } from "./temp_file.ts";

/** Words of memory below which a sorter does not spill. */
const MIN_WORDS = 1 << 16;
/** So few are sorted by comparing. */
const FEW_RECORDS = 4096;
/** Words of each run that merging holds at a time, at least. */
const MERGE_WORDS = 1 << 12;
/** So many runs are merged together whatever the memory. */
const LEAST_MERGED = 16;

export interface SorterOptions {
  /** Words of a record. */
  readonly words: number;
  /** Leading words to sort by, most significant first. */
  readonly keyWords: number;
  /** Bytes of memory to use. */
  readonly memory: number;
  /** Directory of the temporary file. */
  readonly tempDir: string | undefined;
}

/** Where a run is in the file: offset and length in words. */
interface StoredRun {
  readonly at: number;
  readonly words: number;
}

interface Run {
  /** Which of the runs that are merged it is. */
  readonly index: number;
  at: number;
  left: number;
  buf: Uint32Array<ArrayBuffer>;
  pos: number;
  end: number;
}

export class Sorter {
  readonly words: number;
  readonly #keyWords: number;
  readonly #capacity: number;
  readonly #memory: number;
  readonly #tempDir: string | undefined;
  #buf: Uint32Array<ArrayBuffer>;
  #records = 0;
  #runs: StoredRun[] = [];
  #file: TempFile | null = null;
  #written = 0;
  /** Records pushed in all. */
  count = 0;

  constructor(options: SorterOptions) {
    this.words = options.words;
    this.#keyWords = options.keyWords;
    this.#memory = options.memory;
    this.#tempDir = options.tempDir;
    // Half for records; order arrays and the sorted copy take the rest.
    const records = Math.floor(Math.max(MIN_WORDS, options.memory / 4 / 3) / options.words);
    this.#capacity = records;
    this.#buf = new Uint32Array(Math.min(records, 1024) * options.words);
  }

  /**
   * Room for one more record: the returned array and the index of its first word. The caller stores
   * the words at once.
   */
  slot(): number {
    if (this.#records === this.#capacity) this.#spill();
    const at = this.#records * this.words;
    this.#reserve(at + this.words);
    this.#records++;
    this.count++;
    return at;
  }

  /** Adds whole records. */
  append(records: Uint32Array): void {
    const w = this.words;
    for (let from = 0; from < records.length;) {
      if (this.#records === this.#capacity) this.#spill();
      const room = (this.#capacity - this.#records) * w;
      const part = records.subarray(from, from + room), at = this.#records * w;
      this.#reserve(at + part.length);
      this.#buf.set(part, at);
      this.#records += part.length / w;
      this.count += part.length / w;
      from += part.length;
    }
  }

  #reserve(words: number): void {
    if (words <= this.#buf.length) return;
    const grown = new Uint32Array(
      Math.min(this.#capacity * this.words, Math.max(words, 2 * this.#buf.length)),
    );
    grown.set(this.#buf);
    this.#buf = grown;
  }

  /** Where `slot` points into; asked after `slot`. */
  get buffer(): Uint32Array {
    return this.#buf;
  }

  /** Whether records went to the temporary file. */
  get spilled(): boolean {
    return this.#runs.length > 0;
  }

  /** Visits all records in order; the array and offset are good during the call. */
  forEach(visit: (words: Uint32Array, at: number) => void): void {
    if (this.#runs.length > 0) {
      if (this.#records > 0) this.#spill();
      this.#buf = new Uint32Array(0);
      this.#reduceRuns();
      this.#merge(this.#runs, visit);
      return;
    }
    const order = this.#sorted();
    for (let i = 0; i < this.#records; i++) {
      visit(this.#buf, (order === null ? i : order[i] as number) * this.words);
    }
  }

  close(): void {
    this.#file?.close();
    this.#file = null;
    this.#buf = new Uint32Array(0);
    this.#records = 0;
  }

  /** Record numbers in order, equal ones as they came; null when all are in order as they are. */
  #sorted(): Uint32Array | null {
    if (this.#inOrder()) return null;
    const n = this.#records, order = new Uint32Array(n);
    for (let i = 0; i < n; i++) order[i] = i;
    if (n > FEW_RECORDS) return this.#radixSorted(order);
    return order.sort((a, b) => this.#compareRecords(a, b) || a - b);
  }

  #inOrder(): boolean {
    for (let i = 1; i < this.#records; i++) if (this.#compareRecords(i - 1, i) > 0) return false;
    return true;
  }

  #compareRecords(a: number, b: number): number {
    const buf = this.#buf, w = this.words;
    for (let k = 0, x = a * w, y = b * w; k < this.#keyWords; k++, x++, y++) {
      if (buf[x] !== buf[y]) return (buf[x] as number) < (buf[y] as number) ? -1 : 1;
    }
    return 0;
  }

  /** By digits of 16 bits from the last, passing over those that are the same everywhere. */
  #radixSorted(first: Uint32Array<ArrayBuffer>): Uint32Array {
    const n = this.#records, w = this.words, buf = this.#buf;
    let order = first, other = new Uint32Array(n);
    const counts = new Uint32Array(65536);
    for (let word = this.#keyWords - 1; word >= 0; word--) {
      for (let shift = 0; shift < 32; shift += 16) {
        counts.fill(0);
        for (let i = 0, at = word; i < n; i++, at += w) {
          counts[(buf[at] as number) >>> shift & 0xffff]!++;
        }
        if (counts[(buf[word] as number) >>> shift & 0xffff] === n) continue;
        let sum = 0;
        for (let d = 0; d < 65536; d++) {
          const c = counts[d] as number;
          counts[d] = sum;
          sum += c;
        }
        for (let i = 0; i < n; i++) {
          const record = order[i] as number;
          const digit = (buf[record * w + word] as number) >>> shift & 0xffff;
          other[counts[digit]!++] = record;
        }
        [order, other] = [other, order];
      }
    }
    return order;
  }

  #spill(): void {
    const order = this.#sorted(), w = this.words;
    const run = this.#store((add) => {
      for (let i = 0; i < this.#records; i++) {
        add(this.#buf, (order === null ? i : order[i] as number) * w);
      }
    });
    this.#runs.push(run);
    this.#records = 0;
  }

  /** Writes the records that `give` adds behind all others in the file. */
  #store(give: (add: (words: Uint32Array, at: number) => void) => void): StoredRun {
    const w = this.words, start = this.#written;
    const file = this.#file ??= new TempFile(this.#tempDir);
    const chunk = new Uint32Array(Math.max(1, Math.floor(65536 / w)) * w);
    let fill = 0;
    const flush = () => {
      file.write(chunk.subarray(0, fill), this.#written);
      this.#written += fill;
      fill = 0;
    };
    give((words, at) => {
      for (let k = 0; k < w; k++) chunk[fill++] = words[at + k] as number;
      if (fill === chunk.length) flush();
    });
    if (fill > 0) flush();
    return { at: start, words: this.#written - start };
  }

  /** Merges neighbouring runs until so many are left as can be merged together. */
  #reduceRuns(): void {
    const together = Math.max(LEAST_MERGED, Math.floor(this.#memory / 4 / MERGE_WORDS));
    while (this.#runs.length > together) {
      const longer: StoredRun[] = [];
      for (let i = 0; i < this.#runs.length; i += together) {
        const group = this.#runs.slice(i, i + together);
        longer.push(
          group.length === 1
            ? group[0] as StoredRun
            : this.#store((add) => this.#merge(group, add)),
        );
      }
      this.#runs = longer;
    }
  }

  /** Visits the records of these runs in order, equal ones as they came. */
  #merge(stored: readonly StoredRun[], visit: (words: Uint32Array, at: number) => void): void {
    const w = this.words;
    const each = Math.max(MERGE_WORDS, Math.floor(this.#memory / 4 / stored.length));
    // A heap: the least head comes first, and none is less than the one above it.
    const heap: Run[] = [];
    for (const [index, { at, words }] of stored.entries()) {
      const buf = new Uint32Array(Math.max(1, Math.floor(Math.min(each, words) / w)) * w);
      const run = { index, at, left: words, buf, pos: 0, end: 0 };
      if (this.#refill(run)) heap.push(run);
    }
    for (let i = (heap.length >> 1) - 1; i >= 0; i--) this.#sink(heap, i);
    while (heap.length > 0) {
      const least = heap[0] as Run;
      visit(least.buf, least.pos);
      least.pos += w;
      if (least.pos === least.end && !this.#refill(least)) {
        const last = heap.pop() as Run;
        if (heap.length === 0) return;
        heap[0] = last;
      }
      this.#sink(heap, 0);
    }
  }

  /** Moves the run at `i` down to where it belongs. */
  #sink(heap: Run[], i: number): void {
    const run = heap[i] as Run, n = heap.length;
    for (let child = 2 * i + 1; child < n; child = 2 * i + 1) {
      if (child + 1 < n && this.#compare(heap[child + 1] as Run, heap[child] as Run) < 0) child++;
      if (this.#compare(run, heap[child] as Run) <= 0) break;
      heap[i] = heap[child] as Run;
      i = child;
    }
    heap[i] = run;
  }

  #compare(a: Run, b: Run): number {
    for (let k = 0; k < this.#keyWords; k++) {
      const x = a.buf[a.pos + k] as number, y = b.buf[b.pos + k] as number;
      if (x !== y) return x < y ? -1 : 1;
    }
    return a.index - b.index;
  }

  #refill(r: Run): boolean {
    const n = Math.min(r.left, r.buf.length);
    if (n === 0) return false;
    assert(this.#file !== null, "sorted runs without their file");
    this.#file.read(r.buf.subarray(0, n), r.at);
    r.at += n;
    r.left -= n;
    r.pos = 0;
    r.end = n;
    return true;
  }
}
