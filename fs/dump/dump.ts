/**
 * Making a metadata dump: the super block, the quorum blocks and every block that the super leads
 * to, damaged or not, into a file (dump_file.ts) that `restore` makes a volume of again.
 *
 * Nothing is demanded of the volume: whatever can be read of it is dumped. Without a super block that is
 * every block that carries the filesystem's number. Only a device that holds nothing of a volume is
 * refused.
 */

import { FormatError } from "../../format/bytes.ts";
import {
  LG_SIZE,
  MAGIC_SUPER,
  META_DEV_START_BLKNO,
  QUORUM_BLKNO,
  QUORUM_BLOCKS,
  SM_MAX,
  SM_SIZE,
  SUPER_BLKNO,
} from "../../format/constants.ts";
import { blockCrcOk } from "../../format/crc32c.ts";
import { EINVAL } from "../../format/errno.ts";
import { SuperBlock } from "../../format/super.ts";
import type { Device } from "../device.ts";
import { DeviceError, FsError } from "../errors.ts";
import {
  DUMP_OBSCURED,
  DUMP_UNREFERENCED,
  DumpWriter,
  LARGE_META,
  type Sink,
  SMALL_DATA,
  SMALL_META,
} from "./dump_file.ts";
import { readSuperBlock } from "../volume.ts";
import { Obscurer } from "./obscure.ts";
import { hasLargeMagic, visitReachable } from "./reach.ts";

export interface DumpOptions {
  /** Only its super block is dumped. */
  readonly data?: Device;
  /**
   * Also free blocks that carry the volume's fsid and one of its magics. Such blocks that are
   * neither used nor free, as the reference leaves some (03 T2), are always dumped.
   */
  readonly unreferenced?: boolean;
  /** Secret for the replacement of names; see obscure.ts. */
  readonly obscure?: Uint8Array;
  /** Seconds since 1970, for the header. */
  readonly time: number;
  /** A line about something that could not be dumped. */
  readonly warn: (line: string) => void;
  readonly onBlock?: (blocks: number) => void;
}

export interface DumpResult {
  readonly blocks: number;
  /** Of these, not referenced. */
  readonly unreferenced: number;
  readonly unreadable: number;
  /** Size of the file. */
  readonly bytes: number;
}

/** mkfs writes up to this block whatever the size (01 §2.4). */
const MKFS_LAST_BLKNO = 1030;
/** Blocks read at once when the whole device is looked through. */
const SCAN_BLOCKS = 16;

/** Dumps the metadata on `meta` into `sink`. Throws FsError when it holds no volume at all. */
export function dumpVolume(meta: Device, sink: Sink, options: DumpOptions): DumpResult {
  const fixed = readFixed(meta, options.warn);
  let sb = SuperBlock.at(fixed), fsid = sb.hdr.fsid;
  const lost = sb.hdr.magic !== MAGIC_SUPER && !looksLikeSuper(sb);
  const all = lost || options.unreferenced === true;
  if (lost) {
    const found = commonFsid(meta, fsidOf(options.data));
    if (found === null) throw new FsError(EINVAL, `${meta.name}: no ScoutFS super block found`);
    options.warn(`${meta.name}: no super block: all blocks of its filesystem are dumped`);
    // Nothing leads to the blocks: all are looked for.
    sb = SuperBlock.alloc();
    fsid = found;
  } else if (sb.hdr.magic !== MAGIC_SUPER) options.warn(`${meta.name}: the super block is damaged`);
  else if (!sb.isMetaDev && blockCrcOk(fixed.subarray(0, SM_SIZE))) {
    throw new FsError(EINVAL, `${meta.name}: this is a data device, not a metadata device`);
  }
  const obscurer = options.obscure === undefined ? null : new Obscurer(options.obscure);
  const writer = new DumpWriter(sink, {
    flags: (obscurer === null ? 0 : DUMP_OBSCURED) |
      (all ? DUMP_UNREFERENCED : 0),
    fsid,
    metaBytes: meta.size - meta.size % SM_SIZE,
    dataBytes: options.data === undefined
      ? claimedDataBytes(sb)
      : options.data.size - options.data.size % SM_SIZE,
    time: options.time,
  });
  for (let i = 0; i <= QUORUM_BLOCKS; i++) {
    writer.add(
      SMALL_META,
      (SUPER_BLKNO + i) * SM_SIZE,
      fixed.subarray(i * SM_SIZE, (i + 1) * SM_SIZE),
    );
  }
  if (options.data !== undefined) dumpDataSuper(options.data, writer, options.warn);

  let blocks = 0, unreadable = 0, unreferenced = 0;
  const add = (blkno: number, bytes: Uint8Array): void => {
    obscurer?.block(bytes);
    writer.add(LARGE_META, blkno * LG_SIZE, bytes);
    blocks++;
    options.onBlock?.(blocks);
  };
  const reached = visitReachable(meta, sb, {
    block: (blkno, bytes) => {
      // The walk still needs the bytes as they are.
      add(blkno, obscurer === null ? bytes : bytes.slice());
    },
    unreadable: (blkno, why) => {
      unreadable++;
      options.warn(`metadata block ${blkno} cannot be read: ${why}`);
    },
  });
  const wanted = all
    ? (blkno: number) => !reached.has(blkno)
    : (blkno: number) => !reached.has(blkno) && !reached.isFree(blkno);
  const total = Math.min(Math.floor(meta.size / LG_SIZE), claimedMetaBlocks(sb));
  unreferenced = scanUnreferenced(meta, fsid, total, wanted, add, (blkno) => {
    // Nobody references it; without a super block that is not known.
    if (!lost) return;
    unreadable++;
    options.warn(`metadata block ${blkno} cannot be read`);
  });
  writer.end();
  return { blocks, unreferenced, unreadable, bytes: writer.bytes };
}

/** The super block and the 15 quorum blocks, one after the other; zeros for what cannot be read. */
function readFixed(meta: Device, warn: (line: string) => void): Uint8Array {
  const bytes = (1 + QUORUM_BLOCKS) * SM_SIZE;
  if (QUORUM_BLKNO !== SUPER_BLKNO + 1 || meta.size < SUPER_BLKNO * SM_SIZE + bytes) {
    throw new FsError(EINVAL, `${meta.name}: ${meta.size} bytes are too small for a volume`);
  }
  const fixed = meta.allocBuffer(bytes);
  for (let at = 0; at < bytes; at += SM_SIZE) {
    try {
      meta.read(fixed.subarray(at, at + SM_SIZE), SUPER_BLKNO * SM_SIZE + at);
    } catch (e) {
      if (!(e instanceof DeviceError)) throw e;
      fixed.fill(0, at, at + SM_SIZE);
      warn(e.message);
    }
  }
  return fixed;
}

/** Blocks of the metadata device in the super block's words; without end when they make no sense. */
function claimedMetaBlocks(sb: SuperBlock): number {
  try {
    return sb.totalMetaBlocks > MKFS_LAST_BLKNO ? sb.totalMetaBlocks : Infinity;
  } catch (e) {
    if (e instanceof FormatError) return Infinity;
    throw e;
  }
}

/** Size of the data device in the super block's words; 0 when that makes no sense. */
function claimedDataBytes(sb: SuperBlock): number {
  try {
    return sb.totalDataBlocks <= SM_MAX && sb.totalDataBlocks * SM_SIZE <= Number.MAX_SAFE_INTEGER
      ? sb.totalDataBlocks * SM_SIZE
      : 0;
  } catch (e) {
    if (e instanceof FormatError) return 0;
    throw e;
  }
}

/** The filesystem that a data device says it belongs to; null without a super block to believe. */
function fsidOf(data: Device | undefined): bigint | null {
  if (data === undefined) return null;
  try {
    return readSuperBlock(data).hdr.fsid;
  } catch (e) {
    if (e instanceof FsError) return null;
    throw e;
  }
}

/** The fsid that most blocks on the device carry, or `wanted` if any does; null if there are none. */
function commonFsid(meta: Device, wanted: bigint | null): bigint | null {
  const counts = new Map<bigint, number>();
  let best: bigint | null = null;
  scanBlocks(meta, Math.floor(meta.size / LG_SIZE), () => true, (_, bytes, v) => {
    if (!blockCrcOk(bytes)) return;
    const fsid = v.getBigUint64(8, true), count = (counts.get(fsid) ?? 0) + 1;
    counts.set(fsid, count);
    if (best === null || count > (counts.get(best) ?? 0)) best = fsid;
  }, () => {});
  return wanted !== null && counts.has(wanted) ? wanted : best;
}

/** A super block with a damaged magic still says its place and references something. */
function looksLikeSuper(sb: SuperBlock): boolean {
  return sb.hdr.v.getUint32(sb.hdr.o + 24, true) === SUPER_BLKNO && !sb.fsRoot.ref.isNull;
}

function dumpDataSuper(data: Device, writer: DumpWriter, warn: (line: string) => void): void {
  const block = data.allocBuffer(SM_SIZE);
  try {
    data.read(block, SUPER_BLKNO * SM_SIZE);
  } catch (e) {
    if (!(e instanceof DeviceError)) throw e;
    warn(e.message);
    return;
  }
  writer.add(SMALL_DATA, SUPER_BLKNO * SM_SIZE, block);
}

/** Hands on wanted blocks of this volume that nothing references; returns how many there are. */
function scanUnreferenced(
  meta: Device,
  fsid: bigint,
  total: number,
  wanted: (blkno: number) => boolean,
  add: (blkno: number, bytes: Uint8Array) => void,
  unreadable: (blkno: number) => void,
): number {
  let found = 0;
  scanBlocks(meta, total, wanted, (blkno, bytes, v) => {
    if (v.getBigUint64(8, true) !== fsid) return;
    found++;
    add(blkno, bytes);
  }, unreadable);
  return found;
}

/** Visits the wanted blocks with one of the format's magics, in large reads. */
function scanBlocks(
  meta: Device,
  total: number,
  wanted: (blkno: number) => boolean,
  visit: (blkno: number, bytes: Uint8Array, v: DataView) => void,
  unreadable: (blkno: number) => void,
): void {
  const window = meta.allocBuffer(SCAN_BLOCKS * LG_SIZE);
  let nr = 1;
  for (let first = META_DEV_START_BLKNO; first < total; first += nr) {
    nr = 1;
    if (!wanted(first)) continue;
    while (nr < SCAN_BLOCKS && first + nr < total && wanted(first + nr)) nr++;
    const run = window.subarray(0, nr * LG_SIZE);
    const whole = couldRead(meta, run, first);
    for (let i = 0; i < nr; i++) {
      const bytes = run.subarray(i * LG_SIZE, (i + 1) * LG_SIZE);
      // One bad sector must not cost its neighbours.
      if (!whole && !couldRead(meta, bytes, first + i)) {
        unreadable(first + i);
        continue;
      }
      const v = new DataView(bytes.buffer, bytes.byteOffset, LG_SIZE);
      if (hasLargeMagic(v)) visit(first + i, bytes, v);
    }
  }
}

function couldRead(meta: Device, into: Uint8Array, blkno: number): boolean {
  try {
    meta.read(into, blkno * LG_SIZE);
    return true;
  } catch (e) {
    if (e instanceof DeviceError) return false;
    throw e;
  }
}
