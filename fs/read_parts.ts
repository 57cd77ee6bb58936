/**
 * The bytes of a read's answer, as windows of the memory they are in: caches, dirty pages, zeros. The
 * windows are good until anything else runs; who answers later copies them (`moveTo`).
 */

export class ReadParts {
  readonly #parts: Uint8Array[] = [];
  #count = 0;
  #length = 0;

  /** Bytes. */
  get length(): number {
    return this.#length;
  }

  get count(): number {
    return this.#count;
  }

  /** Part `i`, never empty. */
  part(i: number): Uint8Array {
    return this.#parts[i]!;
  }

  clear(): void {
    this.#parts.length = 0;
    this.#count = 0;
    this.#length = 0;
  }

  /** Appends `bytes`; what follows the last part in memory lengthens it. */
  add(bytes: Uint8Array): void {
    if (bytes.length === 0) return;
    this.#length += bytes.length;
    const last = this.#parts[this.#count - 1];
    if (
      last !== undefined && last.buffer === bytes.buffer &&
      last.byteOffset + last.length === bytes.byteOffset
    ) {
      this.#parts[this.#count - 1] = new Uint8Array(
        last.buffer,
        last.byteOffset,
        last.length + bytes.length,
      );
      return;
    }
    this.#parts.push(bytes);
    this.#count++;
  }

  /** Keeps only the bytes [skip, skip + length). */
  trim(skip: number, length: number): void {
    let before = skip;
    let left = length;
    let kept = 0;
    for (let i = 0; i < this.#count && left > 0; i++) {
      const part = this.#parts[i]!;
      if (before >= part.length) {
        before -= part.length;
        continue;
      }
      const take = Math.min(part.length - before, left);
      this.#parts[kept++] = take === part.length ? part : part.subarray(before, before + take);
      before = 0;
      left -= take;
    }
    this.#parts.length = kept;
    this.#count = kept;
    this.#length = length - left;
  }

  /** Copies everything to `dst` from byte `at` on. */
  copyTo(dst: Uint8Array, at: number): void {
    for (let i = 0; i < this.#count; i++) {
      const part = this.#parts[i]!;
      dst.set(part, at);
      at += part.length;
    }
  }

  /** Copies everything to the beginning of `dst`, which then is the only part. */
  moveTo(dst: Uint8Array): void {
    const { length } = this;
    this.copyTo(dst, 0);
    this.clear();
    this.add(dst.subarray(0, length));
  }
}
