/**
 * A temporary file of 32-bit words. It has no name from the moment it is open, so that nothing is left
 * of it however the program ends.
 */

import { assert } from "../errors.ts";

export class TempFile {
  readonly #file: Deno.FsFile;

  /** In `dir`, by default the system's directory of temporary files. */
  constructor(dir: string | undefined) {
    const path = Deno.makeTempFileSync({
      prefix: "scoutfs-fsck-",
      ...(dir === undefined ? {} : { dir }),
    });
    this.#file = Deno.openSync(path, { read: true, write: true });
    Deno.removeSync(path);
  }

  /** Stores words from word `at` of the file on. */
  write(words: Uint32Array<ArrayBuffer>, at: number): void {
    const bytes = bytesOf(words);
    this.#file.seekSync(at * 4, Deno.SeekMode.Start);
    for (let done = 0; done < bytes.length;) done += this.#file.writeSync(bytes.subarray(done));
  }

  /** Fills `words` from word `at` of the file on, where they have been stored. */
  read(words: Uint32Array<ArrayBuffer>, at: number): void {
    const bytes = bytesOf(words);
    this.#file.seekSync(at * 4, Deno.SeekMode.Start);
    for (let done = 0; done < bytes.length;) {
      const n = this.#file.readSync(bytes.subarray(done));
      assert(n !== null && n > 0, "a temporary file ended early");
      done += n;
    }
  }

  close(): void {
    this.#file.close();
  }
}

const bytesOf = (words: Uint32Array<ArrayBuffer>): Uint8Array<ArrayBuffer> =>
  new Uint8Array(words.buffer, words.byteOffset, words.byteLength);
