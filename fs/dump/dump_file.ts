/**
 * The file of a metadata dump: a header, then frames, each compressed and checked on its own, the
 * last of them empty. A file that is cut short, damaged or of another kind is found out by one
 * DumpError, before anything of the broken frame is used.
 *
 *   header, 64 bytes     0 magic "scoutfsd" · 8 version le32 · 12 flags le32 · 16 fsid 8 bytes
 *                        24 size of the metadata device in bytes le64 · 32 of the data device le64,
 *                        0 = unknown · 40 time in seconds le64 · 48 zero · 60 crc32c of bytes 0–59
 *   frame                0 "frm1" · 4 packed length le32 · 8 pieces le32 · 12 crc32c of the packed
 *                        bytes · 16 packed bytes: zstd of `pieces` places (le64 each), then contents
 *   last frame           "end1", packed length 8, pieces 0, crc, then le64: pieces in the whole file
 *
 * A place is the byte offset on its device / 4096 · 4 + kind: 0 = 4096 bytes of the metadata device,
 * 1 = 65536 bytes of it, 2 = 4096 bytes of the data device.
 */

import { constants, zstdCompressSync, zstdDecompressSync } from "node:zlib";
import { bytesEqual, FormatError, getU64, setU64 } from "../../format/bytes.ts";
import { LG_SIZE, SM_SIZE } from "../../format/constants.ts";
import { crc32c } from "../../format/crc32c.ts";
import { EINVAL } from "../../format/errno.ts";
import { FsError } from "../errors.ts";

/** A dump that cannot be used: says why, in one line. */
export class DumpError extends FsError {
  constructor(message: string) {
    super(EINVAL, message);
  }
}

const MAGIC = new TextEncoder().encode("scoutfsd");
const VERSION = 1;
const HEADER_BYTES = 64;
const FRAME_BYTES = 16;
const FRAME = 0x316d7266; // "frm1"
const END = 0x31646e65; // "end1"
/** Pieces in a frame: one MiB of blocks. */
const FRAME_PIECES = 16;
const MAX_FRAME = FRAME_PIECES * (LG_SIZE + 8);

/** Header flags. */
export const DUMP_OBSCURED = 1;
export const DUMP_UNREFERENCED = 2;

export const SMALL_META = 0;
export const LARGE_META = 1;
export const SMALL_DATA = 2;
export type PieceKind = typeof SMALL_META | typeof LARGE_META | typeof SMALL_DATA;

export interface DumpHeader {
  readonly flags: number;
  readonly fsid: bigint;
  /** Bytes. */
  readonly metaBytes: number;
  /** Bytes: what the super block says when the data device was not given; 0 = unknown. */
  readonly dataBytes: number;
  /** Seconds since 1970. */
  readonly time: number;
}

/** Where the bytes of a dump go; takes all of them before it returns. */
export type Sink = (bytes: Uint8Array) => void;

export const pieceBytes = (kind: PieceKind): number => kind === LARGE_META ? LG_SIZE : SM_SIZE;

export class DumpWriter {
  readonly #places: number[] = [];
  readonly #contents: Uint8Array[] = [];
  #pieces = 0;
  /** Bytes written to the sink. */
  bytes = 0;

  constructor(private readonly sink: Sink, header: DumpHeader) {
    const bytes = new Uint8Array(HEADER_BYTES), v = new DataView(bytes.buffer);
    bytes.set(MAGIC);
    v.setUint32(8, VERSION, true);
    v.setUint32(12, header.flags, true);
    v.setBigUint64(16, header.fsid, true);
    setU64(v, 24, header.metaBytes);
    setU64(v, 32, header.dataBytes);
    setU64(v, 40, header.time);
    v.setUint32(60, crc32c(bytes, 0, 60), true);
    this.#put(bytes);
  }

  /** Adds a piece; its bytes are copied. */
  add(kind: PieceKind, off: number, bytes: Uint8Array): void {
    this.#places.push(off / SM_SIZE * 4 + kind);
    this.#contents.push(bytes.slice());
    this.#pieces++;
    if (this.#places.length === FRAME_PIECES) this.#frame();
  }

  end(): void {
    if (this.#places.length > 0) this.#frame();
    const total = new Uint8Array(8);
    setU64(new DataView(total.buffer), 0, this.#pieces);
    this.#head(END, 0, total);
  }

  #frame(): void {
    const nr = this.#places.length;
    let length = nr * 8;
    for (const c of this.#contents) length += c.length;
    const raw = new Uint8Array(length), v = new DataView(raw.buffer);
    let at = nr * 8;
    for (let i = 0; i < nr; i++) {
      setU64(v, 8 * i, this.#places[i]!);
      raw.set(this.#contents[i]!, at);
      at += this.#contents[i]!.length;
    }
    this.#places.length = 0;
    this.#contents.length = 0;
    const packed = zstdCompressSync(raw, { params: { [constants.ZSTD_c_compressionLevel]: 3 } });
    this.#head(FRAME, nr, packed);
  }

  #head(what: number, pieces: number, packed: Uint8Array): void {
    const head = new Uint8Array(FRAME_BYTES), v = new DataView(head.buffer);
    v.setUint32(0, what, true);
    v.setUint32(4, packed.length, true);
    v.setUint32(8, pieces, true);
    v.setUint32(12, crc32c(packed), true);
    this.#put(head);
    this.#put(packed);
  }

  #put(bytes: Uint8Array): void {
    this.sink(bytes);
    this.bytes += bytes.length;
  }
}

/** Fills as much of `into` as there is; returns how many bytes that were, 0 at the end. */
export type Reader = (into: Uint8Array) => number;

/** Reads a dump from its start to its end. All methods throw DumpError. */
export class DumpReader {
  readonly header: DumpHeader;
  #at = 0;

  constructor(private readonly read: Reader, private readonly name: string) {
    const bytes = new Uint8Array(HEADER_BYTES), v = new DataView(bytes.buffer);
    const got = this.#fill(bytes);
    if (got < MAGIC.length || !bytesEqual(bytes.subarray(0, MAGIC.length), MAGIC)) {
      throw new DumpError(`${name}: not a metadata dump`);
    }
    if (got < HEADER_BYTES) throw this.#broken("is cut short in its header");
    if (v.getUint32(60, true) !== crc32c(bytes, 0, 60)) throw this.#broken("has a damaged header");
    const version = v.getUint32(8, true);
    if (version !== VERSION) {
      throw new DumpError(`${name}: metadata dump of version ${version}, only ${VERSION} is known`);
    }
    this.header = {
      flags: v.getUint32(12, true),
      fsid: v.getBigUint64(16, true),
      metaBytes: getU64(v, 24),
      dataBytes: getU64(v, 32),
      time: getU64(v, 40),
    };
  }

  /** Gives all pieces in the file's order; returns their number. The bytes are the callee's. */
  forEach(visit: (kind: PieceKind, off: number, bytes: Uint8Array) => void): number {
    let pieces = 0;
    for (;;) {
      const head = new Uint8Array(FRAME_BYTES), v = new DataView(head.buffer);
      const start = this.#at;
      if (this.#fill(head) < FRAME_BYTES) throw this.#broken("is cut short");
      const what = v.getUint32(0, true), length = v.getUint32(4, true), nr = v.getUint32(8, true);
      if (
        what !== FRAME && what !== END || length > MAX_FRAME + 65536 || nr > FRAME_PIECES ||
        (what === END ? length !== 8 || nr !== 0 : nr === 0)
      ) {
        throw this.#broken(`is damaged at byte ${start}`);
      }
      const packed = new Uint8Array(length);
      if (this.#fill(packed) < length) throw this.#broken("is cut short");
      if (crc32c(packed) !== v.getUint32(12, true)) {
        throw this.#broken(`is damaged at byte ${start}: wrong checksum`);
      }
      if (what === END) {
        const total = getU64(new DataView(packed.buffer), 0);
        if (total !== pieces) throw this.#broken(`has ${pieces} of ${total} blocks`);
        return pieces;
      }
      this.#pieces(packed, nr, start, visit);
      pieces += nr;
    }
  }

  #pieces(
    packed: Uint8Array,
    nr: number,
    start: number,
    visit: (kind: PieceKind, off: number, bytes: Uint8Array) => void,
  ): void {
    let raw: Uint8Array;
    try {
      const unpacked = zstdDecompressSync(packed, { maxOutputLength: MAX_FRAME });
      // Not as a Buffer, whose slice() does not copy.
      raw = new Uint8Array(unpacked.buffer, unpacked.byteOffset, unpacked.length);
    } catch (e) {
      throw this.#broken(
        `cannot be unpacked at byte ${start}: ${e instanceof Error ? e.message : e}`,
      );
    }
    const v = new DataView(raw.buffer, raw.byteOffset, raw.length);
    let at = nr * 8;
    for (let i = 0; i < nr; i++) {
      const kind = at > raw.length ? 3 : v.getUint8(8 * i) % 4;
      if (kind === 3) throw this.#broken(`makes no sense at byte ${start}`);
      const piece = kind as PieceKind, length = pieceBytes(piece);
      let off: number;
      try {
        off = Math.floor(getU64(v, 8 * i) / 4) * SM_SIZE;
      } catch (e) {
        if (!(e instanceof FormatError)) throw e;
        throw this.#broken(`makes no sense at byte ${start}`);
      }
      const device = piece === SMALL_DATA ? this.header.dataBytes : this.header.metaBytes;
      if (at + length > raw.length || off + length > device) {
        throw this.#broken(`makes no sense at byte ${start}`);
      }
      visit(piece, off, raw.subarray(at, at + length));
      at += length;
    }
  }

  #fill(into: Uint8Array): number {
    let at = 0;
    while (at < into.length) {
      const n = this.read(into.subarray(at));
      if (n === 0) break;
      at += n;
    }
    this.#at += at;
    return at;
  }

  #broken(how: string): DumpError {
    return new DumpError(`${this.name}: the metadata dump ${how}`);
  }
}
