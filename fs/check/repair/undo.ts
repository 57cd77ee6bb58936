/**
 * Undoing a repair: a device that saves what it is about to overwrite in a file, and the way back.
 *
 * The file is a header of one page (a line of JSON), then records, each a page of description, some
 * followed by bytes: old bytes of a device; the checksum of a super block that is about to be written;
 * the end. Invariants: a page of a device is saved at most once, with what it held before the first
 * change; a record is durable before the write that it is about; so whatever a crash leaves, the whole
 * records of the file bring back the old volume, and a torn record at the end belongs to a write that
 * never began.
 *
 * Restoring may be interrupted and repeated: it only writes what the file says. A volume that somebody
 * else has changed since is recognised by its super block, which is none that the file knows.
 */

import { bytesEqual } from "../../../format/bytes.ts";
import { crc32c } from "../../../format/crc32c.ts";
import { SM_SIZE, SUPER_BLKNO } from "../../../format/constants.ts";
import { EEXIST, EINVAL, EIO } from "../../../format/errno.ts";
import type { Device } from "../../device.ts";
import { assert, DeviceError, FsError } from "../../errors.ts";
import { readSuperBlock } from "../../volume.ts";
import { hex16 } from "../raw.ts";
import { FixedArea } from "./fixed_area.ts";

const PAGE = 4096;
const MAGIC = "scoutfs-undo-3";
const SUPER_OFF = SUPER_BLKNO * SM_SIZE;
/** So much of a device's name fits into the header, however it is escaped. */
const NAME = 250;
/** Kinds of records. */
const OLD_BYTES = 0x5c0d0001;
const NEW_SUPER = 0x5c0d0002;
const END = 0x5c0d0003;
/** Largest piece that one record saves. */
const MAX_RECORD = 1 << 20;
/** So much is brought back between two flushes, and with them looks at who uses the volume. */
const FLUSH_BYTES = 64 << 20;

/** Which volume a file is about. */
export interface UndoIdentity {
  /** 16 hexadecimal digits; what the metadata super block said, "unknown" if it could not be read. */
  readonly fsid: string;
  /**
   * The two devices, metadata first: names, bytes, and the checksums of their super blocks before the
   * repair (`superCrc`).
   */
  readonly devices: readonly {
    readonly name: string;
    readonly size: number;
    readonly superCrc: number;
  }[];
}

/** Which volume is about to be mended. */
export function undoIdentity(meta: Device, data: Device): UndoIdentity {
  let fsid = "unknown";
  try {
    fsid = hex16(readSuperBlock(meta).hdr.fsid);
  } catch (e) {
    if (!(e instanceof FsError)) throw e;
  }
  const devices = [meta, data].map((dev) => ({
    name: dev.name,
    size: dev.size,
    superCrc: superCrc(dev),
  }));
  return { fsid, devices };
}

/** Collects the old contents of both devices of one repair. */
export class UndoFile {
  readonly #file: Deno.FsFile;
  bytesSaved = 0;
  /** Pages that could not be read before they were overwritten: nothing brings them back. */
  pagesLost = 0;
  #failed = false;

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
    const devices = identity.devices.map((dev) => ({ ...dev, name: dev.name.slice(-NAME) }));
    this.#write(page(JSON.stringify({ magic: MAGIC, ...identity, devices }) + "\n"));
    this.#file.syncSync();
  }

  /** Makes the old bytes at `off` of device `index` durable. */
  save(index: number, old: Uint8Array, off: number): void {
    this.#write(recordHead(OLD_BYTES, index, old.length, off, crc32c(old)));
    this.#write(old);
    this.#file.syncDataSync();
    this.bytesSaved += old.length;
  }

  /** Device `index` is about to get a super block with this checksum. */
  noteSuper(index: number, crc: number): void {
    this.#write(recordHead(NEW_SUPER, index, 0, SUPER_OFF, crc));
    this.#file.syncDataSync();
  }

  /** Nothing more is going to be changed. A file that could not take all stays unfinished. */
  end(): void {
    if (this.#failed) return;
    this.#write(recordHead(END, 0, 0, 0, 0));
    this.#file.syncDataSync();
  }

  close(): void {
    this.#file.close();
  }

  #write(bytes: Uint8Array): void {
    try {
      for (let at = 0; at < bytes.length;) at += this.#file.writeSync(bytes.subarray(at));
    } catch (e) {
      this.#failed = true;
      throw new FsError(EINVAL, `${this.path}: ${e instanceof Error ? e.message : e}`);
    }
  }
}

function recordHead(
  kind: number,
  index: number,
  length: number,
  off: number,
  crc: number,
): Uint8Array {
  const head = new Uint8Array(PAGE), v = new DataView(head.buffer);
  v.setUint32(4, kind, true);
  v.setUint32(8, index, true);
  v.setUint32(12, length, true);
  v.setBigUint64(16, BigInt(off), true);
  v.setUint32(24, crc, true);
  v.setUint32(0, crc32c(head, 4, 24), true);
  return head;
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
    if (off <= SUPER_OFF && off + buf.length >= SUPER_OFF + SM_SIZE) {
      this.file.noteSuper(this.index, crc32c(buf, SUPER_OFF - off, SM_SIZE));
    }
    this.dev.write(buf, off);
  }
  writev(bufs: readonly Uint8Array[], off: number): void {
    let len = 0;
    for (const b of bufs) len += b.length;
    assert(off >= SUPER_OFF + SM_SIZE, "a super block is written by itself");
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
      this.#saveRun(at, stop);
      for (; at < stop; at += PAGE) this.#saved.add(at / PAGE);
    }
  }

  #saveRun(at: number, stop: number): void {
    const old = this.dev.allocBuffer(stop - at);
    try {
      this.dev.read(old, at);
    } catch (e) {
      if (!(e instanceof DeviceError)) throw e;
      // A page that cannot be read has nothing to be brought back to, its neighbours have.
      if (stop - at === PAGE) this.file.pagesLost++;
      else for (let page = at; page < stop; page += PAGE) this.#saveRun(page, page + PAGE);
      return;
    }
    this.file.save(this.index, old, at);
  }
}

export interface UndoResult {
  /** Bytes brought back. */
  readonly restored: number;
  /** The file does not say that the repair had ended: it was interrupted, or the file's end is lost. */
  readonly unfinished: boolean;
}

/**
 * Brings both devices back to what they were, and reads them again to see that they are. Throws
 * FsError before anything is written for a file that is damaged or not about these devices, and,
 * unless `force` is set, when the volume has been changed since; ChangedError when something else
 * writes to it meanwhile. `fixed`: the fixed blocks when the volume was found unused.
 */
export function applyUndo(
  path: string,
  meta: Device,
  data: Device,
  force: boolean,
  fixed = new FixedArea(meta),
): UndoResult {
  const devices = [fixed.guardMeta(meta), fixed.guardData(data)] as const;
  const refuse = (why: string) => new FsError(EINVAL, `${path}: ${why}`);
  const file = new UndoReader(path);
  try {
    const supers = checkIdentity(path, file.header(), devices).map((crc) => new Set([crc]));
    // All of the file is known good before anything is written.
    let restored = 0, unfinished = true;
    file.forEach(({ kind, index, off, crc, bytes }) => {
      unfinished = kind !== END;
      if (kind === NEW_SUPER) supers[index]?.add(crc);
      if (kind !== OLD_BYTES) return;
      const dev = devices[index];
      if (dev === undefined || off + bytes.length > dev.size) {
        throw refuse("a record lies outside the devices");
      }
    });
    for (const [i, dev] of devices.entries()) {
      if (force || supers[i]?.has(superCrc(dev)) === true) continue;
      throw refuse(
        `${dev.name} has been changed since that repair: it was mounted or mended, or is another ` +
          "volume's; --force restores it all the same",
      );
    }
    const flush = () => devices.forEach((dev) => dev.flush());
    let unflushed = 0;
    file.forEach(({ kind, index, off, bytes }) => {
      if (kind !== OLD_BYTES) return;
      // Blocks that the volume refers to are overwritten: the fixed blocks are looked at again.
      if (unflushed >= FLUSH_BYTES) {
        flush();
        unflushed = 0;
      }
      const dev = devices[index] as Device;
      const buf = dev.allocBuffer(bytes.length);
      buf.set(bytes);
      dev.write(buf, off);
      restored += bytes.length;
      unflushed += bytes.length;
    });
    flush();
    file.forEach(({ kind, index, off, bytes }) => {
      if (kind !== OLD_BYTES) return;
      const dev = devices[index] as Device;
      const buf = dev.allocBuffer(bytes.length);
      dev.read(buf, off);
      if (!bytesEqual(buf, bytes)) {
        throw new FsError(EIO, `${dev.name}: what was written at byte ${off} is not there`);
      }
    });
    return { restored, unfinished };
  } finally {
    file.close();
  }
}

/** The checksum of a device's super block, whatever it holds. */
export function superCrc(dev: Device): number {
  if (dev.size < SUPER_OFF + SM_SIZE) return 0;
  const block = dev.allocBuffer(SM_SIZE);
  try {
    dev.read(block, SUPER_OFF);
  } catch (e) {
    if (e instanceof FsError) return 0; // It cannot be read: as good as none.
    throw e;
  }
  return crc32c(block);
}

/** Checks that a file is about these devices; the checksums of their super blocks before the repair. */
function checkIdentity(
  path: string,
  head: Uint8Array | null,
  devices: readonly Device[],
): number[] {
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
  const { magic, devices: saved } = parsed as Record<string, unknown>;
  if (magic !== MAGIC || !Array.isArray(saved)) throw refuse("this is no undo file");
  return devices.map((dev, i) => {
    const { size, superCrc } = Object(saved[i]) as Record<string, unknown>;
    if (typeof superCrc !== "number") throw refuse("this is no undo file");
    if (size !== dev.size) throw refuse(`${dev.name} is not a device that it is about`);
    return superCrc;
  });
}

interface UndoRecord {
  readonly kind: number;
  readonly index: number;
  readonly off: number;
  readonly crc: number;
  readonly bytes: Uint8Array;
}

/** Reads the records of an undo file. */
class UndoReader {
  readonly #file: Deno.FsFile;

  constructor(private readonly path: string) {
    this.#file = this.#guard(() => {
      // Opening a pipe would wait for somebody to write to it.
      if (!Deno.statSync(path).isFile) throw new Error("this is no undo file");
      return Deno.openSync(path, { read: true });
    });
  }

  close(): void {
    this.#file.close();
  }

  /** The first page; null if the file is shorter. */
  header(): Uint8Array | null {
    const page = new Uint8Array(PAGE);
    return this.#readFully(page) < PAGE ? null : page;
  }

  /**
   * Visits the whole records. One that is torn is the last: it was being written when the repair was
   * interrupted. If anything that once was a record follows, the file is damaged: throws FsError.
   */
  forEach(visit: (r: UndoRecord) => void): void {
    this.#file.seekSync(PAGE, Deno.SeekMode.Start);
    const head = new Uint8Array(PAGE);
    while (this.#readFully(head) === PAGE) {
      const record = decodeHead(head);
      if (record === null) {
        this.#mustEnd();
        return;
      }
      const bytes = new Uint8Array(record.length);
      if (this.#readFully(bytes) < bytes.length) return;
      if (record.kind === OLD_BYTES && crc32c(bytes) !== record.crc) {
        this.#mustEnd();
        return;
      }
      visit({ ...record, bytes });
    }
  }

  #mustEnd(): void {
    const page = new Uint8Array(PAGE);
    while (this.#readFully(page) === PAGE) {
      if (decodeHead(page) !== null) {
        throw new FsError(EINVAL, `${this.path}: the file is damaged, nothing was restored`);
      }
    }
  }

  #readFully(bytes: Uint8Array): number {
    return this.#guard(() => {
      let at = 0;
      while (at < bytes.length) {
        const n = this.#file.readSync(bytes.subarray(at));
        if (n === null) break;
        at += n;
      }
      return at;
    });
  }

  #guard<T>(run: () => T): T {
    try {
      return run();
    } catch (e) {
      throw new FsError(EINVAL, `${this.path}: ${e instanceof Error ? e.message : e}`);
    }
  }
}

function decodeHead(
  head: Uint8Array<ArrayBuffer>,
): { kind: number; index: number; length: number; off: number; crc: number } | null {
  const v = new DataView(head.buffer, head.byteOffset);
  const kind = v.getUint32(4, true);
  if (v.getUint32(0, true) !== crc32c(head, 4, 24)) return null;
  if (kind !== OLD_BYTES && kind !== NEW_SUPER && kind !== END) return null;
  return {
    kind,
    index: v.getUint32(8, true),
    length: v.getUint32(12, true),
    off: Number(v.getBigUint64(16, true)),
    crc: v.getUint32(24, true),
  };
}

function page(text: string): Uint8Array {
  const bytes = new Uint8Array(PAGE);
  bytes.set(new TextEncoder().encode(text).subarray(0, PAGE));
  return bytes;
}
