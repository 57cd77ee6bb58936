/**
 * The log of mounts in the background: plain lines in one file of the runtime directory, each with
 * its time, the mount's name and, if it is one, `error` or `warning` (05 §15).
 */

import { EIO, strerror } from "../../format/errno.ts";
import { FsError } from "../../fs/errors.ts";
import { errnoOfFailure } from "../output.ts";

/** A log that has grown to this is kept once, as `mount.log.1`. */
const ROTATE_BYTES = 4 << 20;

export class MountLog {
  readonly path: string;

  constructor(runtimeDir: string) {
    try {
      Deno.mkdirSync(runtimeDir, { recursive: true });
    } catch (e) {
      const code = errnoOfFailure(e) ?? EIO;
      throw new FsError(code, `runtime directory ${runtimeDir}: ${strerror(code)}`);
    }
    this.path = `${runtimeDir}/mount.log`;
  }

  /** Appends one line. A log that cannot be written must not end a mount. */
  write(line: string): void {
    const text = `${new Date().toISOString()} ${line.replaceAll("\n", "\n    ")}\n`;
    try {
      Deno.writeTextFileSync(this.path, text, { append: true, mode: 0o640 });
      if (Deno.statSync(this.path).size > ROTATE_BYTES) {
        Deno.renameSync(this.path, `${this.path}.1`);
      }
    } catch {
      // Full or gone: there is nobody to tell.
    }
  }
}
