/**
 * ioctl(2) for commands: opens a path of the mount, passes a structure, gives errno back. Embedded
 * pointers are addresses of buffers of this process; whoever passes one keeps the buffer referenced.
 */

import { strerror } from "../format/errno.ts";
import { FsError } from "../fs/errors.ts";
import { addressOf, closeFd, cString, errno, libc, O_CLOEXEC, O_RDONLY } from "../fs/sys/libc.ts";
import { errnoText } from "./command.ts";

/** The address of `buf`'s first byte, for a pointer field. */
export const pointerTo = addressOf;

/** The path a command acts on: its own option, the environment, or the current directory. */
export function mountPath(option: string | undefined): string {
  return option ?? Deno.env.get("SCOUTFS_MOUNT_PATH") ?? ".";
}

/** A failed ioctl. */
export class IoctlError extends FsError {
  constructor(errno: number) {
    super(errno, `ioctl failed: ${errnoText(errno)}`);
  }
}

/** An open file or directory of a mount. */
export class OpenPath implements Disposable {
  readonly #fd: number;

  /** Throws `failed to open 'PATH': …`. */
  constructor(path: string) {
    this.#fd = libc.open(cString(path) as Uint8Array<ArrayBuffer>, O_RDONLY | O_CLOEXEC, 0);
    if (this.#fd < 0) {
      const code = errno();
      throw new FsError(code, `failed to open '${path}': ${strerror(code)} (${code})`);
    }
  }

  /** What ioctl(2) returns; throws IoctlError. `argument` is written for commands that give results. */
  ioctl(command: number, argument: Uint8Array): number {
    const result = libc.ioctl(this.#fd, command, argument as Uint8Array<ArrayBuffer>);
    if (result < 0) throw new IoctlError(errno());
    return result;
  }

  [Symbol.dispose](): void {
    closeFd(this.#fd);
  }
}
