/** A device or image file opened for reading by plain system calls: for checkers beside a mount's own. */

import type { Device } from "../../fs/device.ts";
import { DeviceError } from "../../fs/errors.ts";

export class ImageDevice implements Device {
  readonly size: number;
  readonly #file: Deno.FsFile;

  constructor(readonly name: string) {
    this.#file = Deno.openSync(name);
    this.size = this.#file.seekSync(0, Deno.SeekMode.End);
  }

  allocBuffer(bytes: number): Uint8Array {
    return new Uint8Array(bytes);
  }

  read(buf: Uint8Array, off: number): void {
    this.#file.seekSync(off, Deno.SeekMode.Start);
    for (let at = 0; at < buf.length;) {
      const n = this.#file.readSync(buf.subarray(at));
      if (n === null) throw new DeviceError(this.name, `short read at ${off + at}`);
      at += n;
    }
  }

  write(): never {
    throw new DeviceError(this.name, "opened for reading");
  }

  writev(): never {
    throw new DeviceError(this.name, "opened for reading");
  }

  flush(): void {}

  close(): void {
    this.#file.close();
  }
}
