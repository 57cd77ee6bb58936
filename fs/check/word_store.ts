/**
 * A long list of 32-bit words that is written once and read anywhere, in as much memory as it may
 * have: chunks that do not fit are in a temporary file.
 *
 * Lifecycle: push … push, then get, then `close`.
 */

import { TempFile } from "./temp_file.ts";

/** Words of a chunk. */
const CHUNK = 1 << 14;
/** Chunks that are in memory at least. */
const MIN_CHUNKS = 4;

export class WordStore {
  /** Chunks that are in memory; which, in the order in which they came; which are in the file. */
  readonly #chunks: (Uint32Array<ArrayBuffer> | null)[] = [];
  readonly #resident: number[] = [];
  #oldest = 0;
  readonly #limit: number;
  #file: TempFile | null = null;
  /** Chunks below this are in the file too. */
  #stored = 0;
  /** The chunk used last. */
  #at = -1;
  #chunk: Uint32Array<ArrayBuffer> = new Uint32Array(0);
  length = 0;

  constructor(memory: number, private readonly tempDir: string | undefined) {
    this.#limit = Math.max(MIN_CHUNKS, Math.floor(memory / 4 / CHUNK));
  }

  push(word: number): void {
    const at = this.length % CHUNK, index = (this.length - at) / CHUNK;
    if (at === 0) this.#enter(index, new Uint32Array(CHUNK));
    else if (index !== this.#at) this.#use(index);
    this.#chunk[at] = word;
    this.length++;
  }

  get(i: number): number {
    const index = Math.floor(i / CHUNK);
    if (index !== this.#at) this.#use(index);
    return this.#chunk[i - index * CHUNK] as number;
  }

  /** Whether words went to the temporary file. */
  get spilled(): boolean {
    return this.#file !== null;
  }

  close(): void {
    this.#file?.close();
    this.#file = null;
    this.#chunks.length = 0;
    this.length = 0;
  }

  #use(index: number): void {
    const chunk = this.#chunks[index] ?? null;
    if (chunk !== null) {
      this.#at = index;
      this.#chunk = chunk;
      return;
    }
    const loaded = new Uint32Array(CHUNK);
    this.#file?.read(loaded, index * CHUNK);
    this.#enter(index, loaded);
  }

  #enter(index: number, chunk: Uint32Array<ArrayBuffer>): void {
    if (this.#resident.length - this.#oldest >= this.#limit) this.#evict();
    this.#chunks[index] = chunk;
    this.#resident.push(index);
    this.#at = index;
    this.#chunk = chunk;
  }

  /** Drops the chunk that came first. All full chunks before it are in the file then. */
  #evict(): void {
    const index = this.#resident[this.#oldest++] as number;
    if (this.#oldest > 1024) {
      this.#resident.splice(0, this.#oldest);
      this.#oldest = 0;
    }
    if (index >= this.#stored) {
      this.#file ??= new TempFile(this.tempDir);
      this.#file.write(this.#chunks[index] as Uint32Array<ArrayBuffer>, index * CHUNK);
      this.#stored = index + 1;
    }
    this.#chunks[index] = null;
  }
}
