/**
 * Problems of items that wait to be mended: any number, in little memory. They are text in a temporary
 * file, in the order in which they came, apart by rank: all of one rank are mended before the next.
 *
 * Lifecycle: push … push, then `forEach`, then disposal.
 */

import type { ProblemCode, Values } from "../problems.ts";
import { TempFile } from "../temp_file.ts";

/** Characters of a rank that gather in memory. */
const CHUNK = 1 << 16;

/** Code and values; a number beyond 2^53 is its text in a list. */
type Line = [ProblemCode, Record<string, string | number | [string]>];

interface Rank {
  pending: string[];
  chars: number;
  /** Parts of the file. */
  readonly parts: { readonly at: number; readonly len: number }[];
}

export class ProblemQueue {
  readonly #ranks: Rank[];
  #file: TempFile | null = null;
  #end = 0;
  readonly #counts = new Map<ProblemCode, number>();
  readonly #encoder = new TextEncoder();
  readonly #decoder = new TextDecoder();

  constructor(ranks: number, private readonly tempDir: string | undefined) {
    this.#ranks = Array.from({ length: ranks }, () => ({ pending: [], chars: 0, parts: [] }));
  }

  /** Codes that are waiting. */
  get codes(): ProblemCode[] {
    return [...this.#counts.keys()];
  }

  push(rank: number, code: ProblemCode, values: Values): void {
    this.#counts.set(code, (this.#counts.get(code) ?? 0) + 1);
    const stored: Line[1] = {};
    for (const [name, value] of Object.entries(values)) {
      stored[name] = typeof value === "bigint" ? [value.toString()] : value;
    }
    const line = JSON.stringify([code, stored] satisfies Line);
    const to = this.#ranks[rank] as Rank;
    to.pending.push(line);
    to.chars += line.length;
    if (to.chars >= CHUNK) this.#spill(to);
  }

  /** Visits all in order until `visit` says false. */
  forEach(visit: (code: ProblemCode, values: Values) => boolean): void {
    for (const { parts, pending } of this.#ranks) {
      for (const { at, len } of parts) {
        const bytes = new Uint8Array(len);
        this.#file?.readBytes(bytes, at);
        if (!this.#visit(this.#decoder.decode(bytes).split("\n"), visit)) return;
      }
      if (!this.#visit(pending, visit)) return;
    }
  }

  #visit(
    lines: readonly string[],
    visit: (code: ProblemCode, values: Values) => boolean,
  ): boolean {
    for (const line of lines) {
      const [code, stored] = JSON.parse(line) as Line;
      const values: Record<string, string | number | bigint> = {};
      for (const [name, value] of Object.entries(stored)) {
        values[name] = Array.isArray(value) ? BigInt(value[0]) : value;
      }
      if (!visit(code, values)) return false;
    }
    return true;
  }

  #spill(rank: Rank): void {
    const bytes = this.#encoder.encode(rank.pending.join("\n"));
    const file = this.#file ??= new TempFile(this.tempDir);
    file.writeBytes(bytes, this.#end);
    rank.parts.push({ at: this.#end, len: bytes.length });
    this.#end += bytes.length;
    rank.pending = [];
    rank.chars = 0;
  }

  [Symbol.dispose](): void {
    this.#file?.close();
    this.#file = null;
  }
}
