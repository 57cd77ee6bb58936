/**
 * Undoing a repair: a device that saves what it is about to overwrite in a file, and the way back.
 *
 * The file is a header of one page (a line of JSON), then records, each a page of description and
 * the old bytes. Invariants: a page of a device is saved at most once, with what it held before the
 * first change; a record is durable before the write that it is about; so whatever a crash leaves,
 * the whole records of the file bring back the old volume, and a torn record at the end belongs to a
 * write that never began.
 *
 * Restoring may be interrupted and repeated: it only writes what the file says.
 */

import { crc32c } from "../../../format/crc32c.ts";
import { EEXIST, EINVAL } from "../../../format/errno.ts";
import type { Device } from "../../device.ts";
import { FsError } from "../../errors.ts";

const PAGE = 4096;
const MAGIC = "scoutfs-undo-1";
const RECORD_MAGIC = 0x5c0d0001;
/** Largest piece that one record saves. */
const MAX_RECORD = 1 << 20;

/** Which volume a file is about. */
export interface UndoIdentity {
  /** 16 hexadecimal digits; what the metadata super block said, "unknown" if it could not be read. */
  readonly fsid: string;
  /** Names and bytes of the two devices, metadata first. */
  readonly devices: readonly { readonly name: string; readonly size: number }[];
}

/** Collects the old contents of both devices of one repair. */
export class UndoFile {
  readonly #file: Deno.FsFile;
  bytesSaved = 0;

  /** Creates `path`, which must not exist: an undo file is never overwritten. */
  constructor(readonly path: string, identity: UndoIdentity) {
    try {
      this.#file = Deno.openSync(path, { createNew: true, write: true });
    } catch (e) {
      if (e instanceof Deno.errors.AlreadyExists) {
        throw new FsError(EEXIST, `${path}: the undo file exists already`);
      }
      throw new FsError(EINVAL, `${path}: ${e instanceof Error ? e.message : e}`);
    }
    this.#write(page(JSON.stringify({ magic: MAGIC, ...identity }) + "\n"));
    this.#file.syncSync();
  }

  /** Makes the old bytes at `off` of device `index` durable. */
  save(index: number, old: Uint8Array, off: number): void {
    const head = new Uint8Array(PAGE), v = new DataView(head.buffer);
    v.setUint32(4, RECORD_MAGIC, true);
    v.setUint32(8, index, true);
    v.setUint32(12, old.length, true);
    v.setBigUint64(16, BigInt(off), true);
    v.setUint32(24, crc32c(old), true);
    v.setUint32(0, crc32c(head, 4, 24), true);
    this.#write(head);
    this.#write(old);
    this.#file.syncDataSync();
    this.bytesSaved += old.length;
  }

  close(): void {
    this.#file.close();
  }

  #write(bytes: Uint8Array): void {
    try {
      for (let at = 0; at < bytes.length;) at += this.#file.writeSync(bytes.subarray(at));
    } catch (e) {
      throw new FsError(EINVAL, `${this.path}: ${e instanceof Error ? e.message : e}`);
    }
  }
}

/** A device whose first overwriting of each page is preceded by saving it. */
export class UndoDevice implements Device {
  readonly #saved = new Set<number>();

  constructor(
    private readonly dev: Device,
    private readonly file: UndoFile,
    /** 0 for the metadata device, 1 for the data device. */
    private readonly index: number,
  ) {}

  get name(): string {
    return this.dev.name;
  }
  get size(): number {
    return this.dev.size;
  }
  allocBuffer(bytes: number): Uint8Array {
    return this.dev.allocBuffer(bytes);
  }
  read(buf: Uint8Array, off: number): void {
    this.dev.read(buf, off);
  }
  write(buf: Uint8Array, off: number): void {
    this.#save(off, buf.length);
    this.dev.write(buf, off);
  }
  writev(bufs: readonly Uint8Array[], off: number): void {
    let len = 0;
    for (const b of bufs) len += b.length;
    this.#save(off, len);
    this.dev.writev(bufs, off);
  }
  flush(): void {
    this.dev.flush();
  }
  close(): void {
    this.dev.close();
  }

  #save(off: number, len: number): void {
    const end = off + len;
    for (let at = off; at < end;) {
      if (this.#saved.has(at / PAGE)) {
        at += PAGE;
        continue;
      }
      let stop = at;
      while (stop < end && stop - at < MAX_RECORD && !this.#saved.has(stop / PAGE)) stop += PAGE;
      const old = this.dev.allocBuffer(stop - at);
      this.dev.read(old, at);
      this.file.save(this.index, old, at);
      for (; at < stop; at += PAGE) this.#saved.add(at / PAGE);
    }
  }
}

export interface UndoResult {
  /** Bytes brought back. */
  readonly restored: number;
  /** The file ends in a record that never became whole: the repair was interrupted there. */
  readonly torn: boolean;
}

/**
 * Brings both devices back to what they were, and reads them again to see that they are. Throws
 * FsError for a file that is not about these devices, before anything is written.
 */
export function applyUndo(path: string, meta: Device, data: Device): UndoResult {
  const devices = [meta, data] as const;
  let file: Deno.FsFile;
  try {
    file = Deno.openSync(path, { read: true });
  } catch (e) {
    throw new FsError(EINVAL, `${path}: ${e instanceof Error ? e.message : e}`);
  }
  try {
    checkIdentity(path, readPage(file), devices);
    // A record's device is known good before any record is written.
    let restored = 0;
    const torn = forEachRecord(file, (index, bytes, off) => {
      const dev = devices[index];
      if (dev === undefined || off + bytes.length > dev.size) {
        throw new FsError(EINVAL, `${path}: a record lies outside the devices`);
      }
    });
    file.seekSync(PAGE, Deno.SeekMode.Start);
    forEachRecord(file, (index, bytes, off) => {
      const dev = devices[index] as Device;
      const buf = dev.allocBuffer(bytes.length);
      buf.set(bytes);
      dev.write(buf, off);
      restored += bytes.length;
    });
    for (const dev of devices) dev.flush();
    file.seekSync(PAGE, Deno.SeekMode.Start);
    forEachRecord(file, (index, bytes, off) => {
      const dev = devices[index] as Device;
      const buf = dev.allocBuffer(bytes.length);
      dev.read(buf, off);
      for (let i = 0; i < bytes.length; i++) {
        if (buf[i] !== bytes[i]) {
          throw new FsError(EINVAL, `${dev.name}: byte ${off + i} was not restored`);
        }
      }
    });
    return { restored, torn };
  } finally {
    file.close();
  }
}

function checkIdentity(path: string, head: Uint8Array | null, devices: readonly Device[]): void {
  const refuse = (why: string) => new FsError(EINVAL, `${path}: ${why}`);
  let parsed: unknown;
  try {
    const text = new TextDecoder().decode(head ?? new Uint8Array(0));
    parsed = JSON.parse(text.slice(0, text.indexOf("\n")));
  } catch {
    throw refuse("this is no undo file");
  }
  if (typeof parsed !== "object" || parsed === null || !("magic" in parsed)) {
    throw refuse("this is no undo file");
  }
  const { magic, devices: sizes } = parsed as { magic: unknown; devices?: unknown };
  if (magic !== MAGIC || !Array.isArray(sizes)) throw refuse("this is no undo file");
  devices.forEach((dev, i) => {
    const size = (sizes[i] as { size?: unknown } | undefined)?.size;
    if (size !== dev.size) throw refuse(`${dev.name} is not a device that it is about`);
  });
}

/** Visits the whole records from the file's position on; true when a torn one follows them. */
function forEachRecord(
  file: Deno.FsFile,
  visit: (index: number, bytes: Uint8Array, off: number) => void,
): boolean {
  for (;;) {
    const head = readPage(file);
    if (head === null) return false;
    const v = new DataView(head.buffer);
    if (v.getUint32(0, true) !== crc32c(head, 4, 24) || v.getUint32(4, true) !== RECORD_MAGIC) {
      return true;
    }
    const bytes = new Uint8Array(v.getUint32(12, true));
    if (readFully(file, bytes) < bytes.length || crc32c(bytes) !== v.getUint32(24, true)) {
      return true;
    }
    visit(v.getUint32(8, true), bytes, Number(v.getBigUint64(16, true)));
  }
}

function page(text: string): Uint8Array {
  const bytes = new Uint8Array(PAGE);
  bytes.set(new TextEncoder().encode(text).subarray(0, PAGE));
  return bytes;
}

/** A page; null at the end of the file. A part of a page counts as one that is torn. */
function readPage(file: Deno.FsFile): Uint8Array<ArrayBuffer> | null {
  const bytes = new Uint8Array(PAGE);
  return readFully(file, bytes) === 0 ? null : bytes;
}

function readFully(file: Deno.FsFile, bytes: Uint8Array): number {
  let at = 0;
  while (at < bytes.length) {
    const n = file.readSync(bytes.subarray(at));
    if (n === null) break;
    at += n;
  }
  return at;
}
