/**
 * A temporary file. It has no name from the moment it is open, so that nothing is left of it however
 * the program ends.
 *
 * What goes wrong with it (a full disk, a directory that cannot be written) is a TempFileError: the
 * check cannot go on, and the volume has nothing to do with it.
 */

import { EIO, ENOSPC } from "../../format/errno.ts";
import { FsError } from "../errors.ts";

export class TempFileError extends FsError {
  override readonly name = "TempFileError";
}

export class TempFile {
  readonly #file: Deno.FsFile;
  readonly #dir: string;

  /** In `dir`, by default the system's directory of temporary files. */
  constructor(dir: string | undefined) {
    this.#dir = dir ?? Deno.env.get("TMPDIR") ?? "/tmp";
    this.#file = this.#guarded(() => {
      const path = Deno.makeTempFileSync({
        prefix: "scoutfs-fsck-",
        ...(dir === undefined ? {} : { dir }),
      });
      try {
        return Deno.openSync(path, { read: true, write: true });
      } finally {
        Deno.removeSync(path);
      }
    });
  }

  /** Stores words from word `at` of the file on. */
  write(words: Uint32Array<ArrayBuffer>, at: number): void {
    this.writeBytes(bytesOf(words), at * 4);
  }

  /** Stores bytes from byte `at` of the file on. */
  writeBytes(bytes: Uint8Array, at: number): void {
    this.#guarded(() => {
      this.#file.seekSync(at, Deno.SeekMode.Start);
      for (let done = 0; done < bytes.length;) done += this.#file.writeSync(bytes.subarray(done));
    });
  }

  /** Fills `words` from word `at` of the file on, where they have been stored. */
  read(words: Uint32Array<ArrayBuffer>, at: number): void {
    this.readBytes(bytesOf(words), at * 4);
  }

  /** Fills `bytes` from byte `at` of the file on, where they have been stored. */
  readBytes(bytes: Uint8Array, at: number): void {
    this.#guarded(() => {
      this.#file.seekSync(at, Deno.SeekMode.Start);
      for (let done = 0; done < bytes.length;) {
        const n = this.#file.readSync(bytes.subarray(done));
        if (n === null || n === 0) throw new TempFileError(EIO, this.#text("it ends too early"));
        done += n;
      }
    });
  }

  close(): void {
    this.#file.close();
  }

  #guarded<T>(work: () => T): T {
    try {
      return work();
    } catch (e) {
      if (e instanceof TempFileError || !(e instanceof Error)) throw e;
      const full = "code" in e && e.code === "ENOSPC";
      throw new TempFileError(full ? ENOSPC : EIO, this.#text(e.message));
    }
  }

  #text(why: string): string {
    return `a temporary file in ${this.#dir} cannot be used: ${why}; ` +
      "--temp-dir names another directory";
  }
}

const bytesOf = (words: Uint32Array<ArrayBuffer>): Uint8Array<ArrayBuffer> =>
  new Uint8Array(words.buffer, words.byteOffset, words.byteLength);
