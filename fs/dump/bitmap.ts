/** One bit for each block of a device. Numbers may exceed 31 bits: byte indices are divisions. */
export class Bitmap {
  readonly #bytes: Uint8Array;

  /** Of bits 0 to `size` - 1, all clear. */
  constructor(size: number) {
    this.#bytes = new Uint8Array(Math.ceil(size / 8));
  }

  has(n: number): boolean {
    return (this.#bytes[Math.floor(n / 8)]! >> n % 8 & 1) !== 0;
  }

  set(n: number): void {
    const at = Math.floor(n / 8);
    this.#bytes[at] = this.#bytes[at]! | 1 << n % 8;
  }

  /** Whole bytes at once: damaged trees may list the same large extents again and again. */
  setRun(first: number, length: number): void {
    const end = first + length, firstByte = Math.ceil(first / 8), endByte = Math.floor(end / 8);
    if (firstByte >= endByte) {
      for (let n = first; n < end; n++) this.set(n);
      return;
    }
    for (let n = first; n < firstByte * 8; n++) this.set(n);
    this.#bytes.fill(0xff, firstByte, endByte);
    for (let n = endByte * 8; n < end; n++) this.set(n);
  }
}
