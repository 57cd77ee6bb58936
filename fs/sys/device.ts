/**
 * Block devices and image files as `Device`s: O_DIRECT wherever the file accepts it, exclusive use,
 * and errors that name path, offset and what is wrong.
 *
 * Exclusive use: a block device is opened O_EXCL, which fails while anything on this host has it
 * mounted or claimed; an image file is locked with flock(2), and refused while a loop device stands
 * on it. Both last until `close` or the end of the process.
 */

import {
  EAGAIN,
  EBUSY,
  EINTR,
  EINVAL,
  EIO,
  ENOTBLK,
  errnoNumber,
  strerror,
} from "../../format/errno.ts";
import type { Device } from "../device.ts";
import { assert, DeviceError } from "../errors.ts";
import type { Gate } from "../gate.ts";
import {
  addressOf,
  closeFd,
  cString,
  errno,
  Iovecs,
  libc,
  LOCK_EX,
  LOCK_NB,
  O_CLOEXEC,
  O_DIRECT,
  O_EXCL,
  O_RDONLY,
  O_RDWR,
} from "./libc.ts";
import { Arena, PAGE } from "./memory.ts";

export interface OpenDeviceOptions {
  write: boolean;
  /** Refuse a device that anything else on this host uses, and keep others out. */
  exclusive?: boolean;
  /** Checked before every write and flush. */
  gate?: Gate;
  /** Fewer bytes than this are "too small". */
  minBytes?: number;
}

const BLKGETSIZE64 = 0x80081272;
const BLKSSZGET = 0x1268;
const BLKROGET = 0x125e;
/** Buffers in one pwritev. */
const MAX_IOVECS = 64;

/** Opens a block device or an image file. Throws DeviceError, one line, naming path and reason. */
export function openDevice(path: string, options: OpenDeviceOptions): BlockDevice {
  const access = (options.write ? O_RDWR : O_RDONLY) | O_CLOEXEC;
  // The kind first: opening a fifo or a device of another kind could block or have effects.
  const kind = fileKind(path, path);
  const excl = kind.isBlockDevice && options.exclusive === true ? O_EXCL : 0;
  const name = cString(path);
  let direct = true;
  let fd = libc.open(name, access | O_DIRECT | excl, 0);
  if (fd < 0 && errno() === EINVAL) {
    direct = false;
    fd = libc.open(name, access | excl, 0);
  }
  if (fd < 0) throw openError(path, errno());
  try {
    // Again on what was really opened.
    const opened = fileKind(path, `/proc/self/fd/${fd}`);
    let size = opened.size;
    if (opened.isBlockDevice) {
      size = blockDeviceSize(path, fd);
      const sector = sectorSize(path, fd);
      if (sector > PAGE) {
        throw new DeviceError(
          path,
          `logical sectors of ${sector} bytes are larger than ${PAGE}`,
          EINVAL,
        );
      }
    } else if (options.exclusive === true) {
      lockImage(path, fd);
    }
    const least = options.minBytes ?? PAGE;
    if (size < least) {
      throw new DeviceError(path, `${size} bytes are too small, at least ${least} needed`, EINVAL);
    }
    return new BlockDevice(path, fd, size, opened.isBlockDevice, direct, options);
  } catch (e) {
    closeFd(fd);
    throw e;
  }
}

/** Throws DeviceError when a block device is mounted or claimed by anything on this host. */
export function probeExclusive(path: string): void {
  openDevice(path, { write: false, exclusive: true }).close();
}

/** Whether `path` is a block device; DeviceError when it is neither that nor a regular file. */
export function isBlockDevice(path: string): boolean {
  return fileKind(path, path).isBlockDevice;
}

export class BlockDevice implements Device {
  private readonly arena = new Arena();
  private readonly iovecs = new Iovecs(MAX_IOVECS);
  private readonly gate: Gate | null;
  private readonly writable: boolean;
  private closed = false;

  constructor(
    readonly name: string,
    readonly fd: number,
    readonly size: number,
    readonly isBlockDevice: boolean,
    /** Whether I/O bypasses the page cache: then buffers must be page aligned. */
    readonly direct: boolean,
    options: OpenDeviceOptions,
  ) {
    this.gate = options.gate ?? null;
    this.writable = options.write;
  }

  allocBuffer(bytes: number): Uint8Array {
    return this.arena.alloc(bytes);
  }

  /** Bytes that it has now: `size` is what it had when it was opened. Throws DeviceError. */
  sizeNow(): number {
    if (this.isBlockDevice) return blockDeviceSize(this.name, this.fd);
    return fileKind(this.name, `/proc/self/fd/${this.fd}`).size;
  }

  /** Whether it takes no writes: a block device can be opened for them, and says so with the first. */
  isReadOnly(): boolean {
    if (!this.isBlockDevice) return false;
    const words = new Uint32Array(1);
    if (libc.ioctl(this.fd, BLKROGET, new Uint8Array(words.buffer)) !== 0) {
      const code = errno();
      throw new DeviceError(
        this.name,
        `cannot ask whether it is read-only: ${strerror(code)}`,
        code,
      );
    }
    return words[0] !== 0;
  }

  read(buf: Uint8Array, off: number): void {
    this.check("read", buf.length, off);
    let done = 0;
    while (done < buf.length) {
      const part = done === 0 ? buf : buf.subarray(done);
      const n = libc.pread(
        this.fd,
        part as Uint8Array<ArrayBuffer>,
        part.length,
        BigInt(off + done),
      );
      if (n > 0) done += n;
      else if (n === 0) {
        throw this.error("read", buf.length, off, `short read of ${done} bytes: end of device`);
      } else {
        const code = errno();
        if (code !== EINTR) throw this.failed("read", buf, off, code);
      }
    }
  }

  write(buf: Uint8Array, off: number): void {
    this.checkWrite(buf.length, off);
    this.writeAll(buf, off);
  }

  writev(bufs: readonly Uint8Array[], off: number): void {
    let total = 0;
    for (const b of bufs) total += b.length;
    if (total === 0) return;
    this.checkWrite(total, off);
    let at = off;
    for (let first = 0; first < bufs.length; first += MAX_IOVECS) {
      const count = Math.min(MAX_IOVECS, bufs.length - first);
      let length = 0;
      for (let i = 0; i < count; i++) {
        const b = bufs[first + i];
        assert(b !== undefined && b.length > 0, "empty buffer in a vectored write");
        this.iovecs.set(i, b);
        length += b.length;
      }
      const n = libc.pwritev(
        this.fd,
        this.iovecs.bytes as Uint8Array<ArrayBuffer>,
        count,
        BigInt(at),
      );
      if (n !== length) {
        // Cut short or interrupted: the same again one by one, which also finds the reason.
        let each = at;
        for (let i = 0; i < count; i++) {
          const b = bufs[first + i];
          if (b === undefined) break;
          this.writeAll(b, each);
          each += b.length;
        }
      }
      at += length;
    }
  }

  flush(): void {
    assert(!this.closed, `${this.name}: flush after close`);
    this.gate?.check();
    while (libc.fdatasync(this.fd) !== 0) {
      const code = errno();
      if (code !== EINTR) throw new DeviceError(this.name, `flush failed: ${strerror(code)}`, code);
    }
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    closeFd(this.fd);
  }

  private writeAll(buf: Uint8Array, off: number): void {
    let done = 0;
    while (done < buf.length) {
      const part = done === 0 ? buf : buf.subarray(done);
      const n = libc.pwrite(
        this.fd,
        part as Uint8Array<ArrayBuffer>,
        part.length,
        BigInt(off + done),
      );
      if (n > 0) done += n;
      else if (n === 0) throw this.error("write", buf.length, off, `short write of ${done} bytes`);
      else {
        const code = errno();
        if (code !== EINTR) throw this.failed("write", buf, off, code);
      }
    }
  }

  private checkWrite(length: number, off: number): void {
    assert(this.writable, `${this.name}: write to a device opened for reading`);
    this.check("write", length, off);
    this.gate?.check();
  }

  private check(what: string, length: number, off: number): void {
    assert(!this.closed, `${this.name}: ${what} after close`);
    assert(
      Number.isSafeInteger(off) && off >= 0 && off % PAGE === 0 && length > 0 &&
        length % PAGE === 0,
      `${this.name}: ${what} of ${length} bytes at offset ${off} is not aligned to ${PAGE}`,
    );
    if (off + length > this.size) {
      throw this.error(what, length, off, `beyond the end of the device (${this.size} bytes)`);
    }
  }

  private failed(what: string, buf: Uint8Array, off: number, code: number): DeviceError {
    assert(
      code !== EINVAL || !this.direct || addressOf(buf) % BigInt(PAGE) === 0n,
      `${this.name}: ${what} with a buffer that is not page aligned`,
    );
    return this.error(what, buf.length, off, strerror(code), code);
  }

  private error(
    what: string,
    length: number,
    off: number,
    why: string,
    code?: number,
  ): DeviceError {
    return new DeviceError(this.name, `${what} of ${length} bytes at offset ${off}: ${why}`, code);
  }
}

/** `at` is what is looked at, `path` what messages call it. */
function fileKind(path: string, at: string): { isBlockDevice: boolean; size: number } {
  let info: Deno.FileInfo;
  try {
    info = Deno.statSync(at);
  } catch (e) {
    const code = errnoNumber((e as { code?: string }).code ?? "") ?? EIO;
    throw new DeviceError(path, strerror(code), code);
  }
  const isBlock = info.isBlockDevice === true;
  if (!isBlock && !info.isFile) {
    throw new DeviceError(path, "neither a block device nor an image file", ENOTBLK);
  }
  return { isBlockDevice: isBlock, size: info.size };
}

function openError(path: string, code: number): DeviceError {
  if (code === EBUSY) {
    return new DeviceError(
      path,
      "in use: mounted, or opened exclusively by another program",
      EBUSY,
    );
  }
  return new DeviceError(path, `cannot open: ${strerror(code)}`, code);
}

function blockDeviceSize(path: string, fd: number): number {
  const words = new Uint32Array(2);
  if (libc.ioctl(fd, BLKGETSIZE64, new Uint8Array(words.buffer)) !== 0) {
    throw new DeviceError(path, `cannot read its size: ${strerror(errno())}`, errno());
  }
  return (words[1] ?? 0) * 0x1_0000_0000 + (words[0] ?? 0);
}

function sectorSize(path: string, fd: number): number {
  const words = new Uint32Array(1);
  if (libc.ioctl(fd, BLKSSZGET, new Uint8Array(words.buffer)) !== 0) {
    throw new DeviceError(path, `cannot read its sector size: ${strerror(errno())}`, errno());
  }
  return words[0] ?? 0;
}

function lockImage(path: string, fd: number): void {
  if (libc.flock(fd, LOCK_EX | LOCK_NB) !== 0) {
    const code = errno();
    if (code === EAGAIN) {
      throw new DeviceError(path, "in use: another program has this image file locked", EBUSY);
    }
    throw new DeviceError(path, `cannot lock: ${strerror(code)}`, code);
  }
  const loop = loopDeviceOver(fd);
  if (loop !== null) {
    throw new DeviceError(path, `in use: ${loop} stands on this image file`, EBUSY);
  }
}

/** The loop device whose backing file is the file open as `fd`. */
function loopDeviceOver(fd: number): string | null {
  const own = Deno.statSync(`/proc/self/fd/${fd}`);
  let blocks: Iterable<Deno.DirEntry>;
  try {
    blocks = Deno.readDirSync("/sys/block");
  } catch {
    return null; // No sysfs here, hence no loop devices to find.
  }
  for (const { name } of blocks) {
    if (!name.startsWith("loop")) continue;
    try {
      const backing = Deno.readTextFileSync(`/sys/block/${name}/loop/backing_file`).trimEnd();
      const info = Deno.statSync(backing);
      if (info.dev === own.dev && info.ino === own.ino) return `/dev/${name}`;
    } catch {
      continue; // Not bound, or its file is out of sight.
    }
  }
  return null;
}
