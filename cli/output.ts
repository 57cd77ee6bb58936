/**
 * Standard output and error of commands. Output is gathered and written in large pieces; a reader
 * that went away (`scoutfs print DEV | head`) ends the process quietly as it would a C program.
 */

import { FormatError } from "../format/bytes.ts";
import { EIO, errnoNumber } from "../format/errno.ts";
import { FsError } from "../fs/errors.ts";

const encoder = new TextEncoder();
const FLUSH_AT = 65536;

function writeAll(to: { writeSync(p: Uint8Array): number }, bytes: Uint8Array): void {
  let rest = bytes;
  while (rest.length > 0) {
    try {
      rest = rest.subarray(to.writeSync(rest));
    } catch (e) {
      if (e instanceof Deno.errors.BrokenPipe) Deno.exit(141);
      if (!(e instanceof Deno.errors.WouldBlock)) throw e;
    }
  }
}

/** A line, at once, on standard output. */
export function printLine(line: string): void {
  writeAll(Deno.stdout, encoder.encode(line + "\n"));
}

/** A line on standard error. */
export function printError(line: string): void {
  writeAll(Deno.stderr, encoder.encode(line + "\n"));
}

/** A line on standard error, if anybody takes it: for work that must be finished in any case. */
export function tryPrintError(line: string): void {
  tryWriteError(line + "\n");
}

/** Text on standard error, if anybody takes it. */
export function tryWriteError(text: string): void {
  for (let rest = encoder.encode(text); rest.length > 0;) {
    try {
      rest = rest.subarray(Deno.stderr.writeSync(rest));
    } catch (e) {
      if (!(e instanceof Deno.errors.WouldBlock)) return;
    }
  }
}

/** Gathered text for standard output; `flush` writes what is left. */
export class Output {
  #pieces: string[] = [];
  #length = 0;

  write(text: string): void {
    this.#pieces.push(text);
    this.#length += text.length;
    if (this.#length >= FLUSH_AT) this.flush();
  }

  flush(): void {
    if (this.#length === 0) return;
    writeAll(Deno.stdout, encoder.encode(this.#pieces.join("")));
    this.#pieces = [];
    this.#length = 0;
  }
}

/** The errno of an error of ours or of the runtime; undefined for a defect. */
export function errnoOfFailure(e: unknown): number | undefined {
  if (e instanceof FsError) return e.errno;
  if (e instanceof FormatError) return EIO;
  const code = e instanceof Error && "code" in e ? e.code : undefined;
  return typeof code === "string" ? errnoNumber(code) : undefined;
}
