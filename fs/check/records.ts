/** Records of 32-bit words in growing memory, as they are gathered before they go somewhere else. */

const FIRST_RECORDS = 16;

export class Records {
  #buf: Uint32Array<ArrayBuffer>;
  #words = 0;

  /**
   * `words` is the length of a record. With `overflow` no more than about `most` words are kept: then
   * everything so far goes there.
   */
  constructor(
    readonly words: number,
    private readonly most: number,
    private readonly overflow: ((records: ArrayBuffer) => void) | null,
  ) {
    this.#buf = new Uint32Array(FIRST_RECORDS * words);
  }

  /** Index in `buffer` of the first word of a new record, which the caller stores at once. */
  slot(): number {
    let at = this.#words;
    if (at === this.#buf.length && at >= this.most && this.overflow !== null) {
      this.overflow(this.take());
      at = 0;
    }
    if (at === this.#buf.length) {
      const grown = new Uint32Array(2 * at);
      grown.set(this.#buf);
      this.#buf = grown;
    }
    this.#words += this.words;
    return at;
  }

  /** Where `slot` points into; asked after `slot`. */
  get buffer(): Uint32Array {
    return this.#buf;
  }

  /** All words, in memory of their own; nothing is left here. */
  take(): ArrayBuffer {
    const taken = this.#buf.slice(0, this.#words).buffer;
    this.#words = 0;
    return taken;
  }
}
