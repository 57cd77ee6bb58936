/**
 * Records that units of the items' pass do not keep, in a temporary file until it is known that the
 * unit counts.
 */

import type { Overflow } from "./item_job.ts";
import { TempFile } from "./temp_file.ts";

interface Part {
  readonly what: Overflow["what"];
  readonly at: number;
  readonly len: number;
}

export class Overflows {
  readonly #parts = new Map<number, Part[]>();
  #file: TempFile | null = null;
  #end = 0;

  constructor(private readonly tempDir: string | undefined) {}

  keep({ unit, what, records }: Overflow): void {
    const file = this.#file ??= new TempFile(this.tempDir);
    const part = { what, at: this.#end, len: records.byteLength };
    file.writeBytes(new Uint8Array(records), part.at);
    this.#end += part.len;
    const parts = this.#parts.get(unit);
    if (parts === undefined) this.#parts.set(unit, [part]);
    else parts.push(part);
  }

  /** Visits the records of a unit in the order in which they came, and forgets them. */
  take(unit: number, visit: (what: Overflow["what"], records: ArrayBuffer) => void): void {
    for (const { what, at, len } of this.#parts.get(unit) ?? []) {
      const bytes = new Uint8Array(len);
      this.#file?.readBytes(bytes, at);
      visit(what, bytes.buffer);
    }
    this.drop(unit);
  }

  /** Forgets the records of a unit. */
  drop(unit: number): void {
    this.#parts.delete(unit);
    // Nothing is left in the file: it is written from its start again.
    if (this.#parts.size === 0) this.#end = 0;
  }

  [Symbol.dispose](): void {
    this.#file?.close();
    this.#file = null;
  }
}
