/**
 * Reading and writing file data (02 §15, design §4.4).
 *
 * A write is one operation per piece: map the blocks, update items, put the payload in place, all in
 * one apply, which device errors cannot fail: whole blocks of a large payload go to the device at
 * once, and whatever could not be written there stays in memory, like small payloads, until the
 * commit writes it. So an extent that is committed never points at data that was not written. Reads
 * look into the dirty pages first.
 *
 * A request that has to wait for offline data starts over afterwards, holding nothing meanwhile.
 * Everything completes without a promise when nothing has to be waited for.
 */

import { INODE_FLAG_TRUNCATE, QUOTA_OP_DATA, SM_SIZE } from "../../format/constants.ts";
import { LOCK_READ, LOCK_WRITE } from "../../format/wire.ts";
import { EFBIG, EPERM } from "../../format/errno.ts";
import type { Caller } from "../caller.ts";
import { assert, CorruptError, DeviceError, errnoError } from "../errors.ts";
import type { Fs } from "../fs.ts";
import { gatherUpdate, type InodeHandle, writeInode } from "../inode.ts";
import type { Cancel, Op } from "../op.ts";
import type { ReadParts } from "../read_parts.ts";
import { killSuidgidMode } from "./attr.ts";
import { FileExtents, nextExtent } from "./extent_items.ts";
import { firstOffline, isOnline, mapForWrite, type MappedRun, unmappedBlocks } from "./extents.ts";
import {
  dataAllocator,
  getFile,
  MAX_FILE_SIZE,
  offlineIn,
  OfflineWait,
  readEnd,
  retryAfterWait,
  touch,
  zeroBeyond,
} from "./file.ts";
import { finishTruncate } from "./truncate.ts";
import { type RequestId, WAIT_READ, WAIT_WRITE } from "./wait.ts";
import { dropCapability } from "./xattr.ts";

/** Whole blocks of a write from this size on are not kept in memory. */
const DIRECT_BYTES = 64 * 1024;

/** Changes of extents in one hold: a write that meets more goes on in another (03 §11.4). */
const PIECE_STEPS = 16;
/** Item changes that a step of mapping causes at most, and those around it. */
const STEP_ITEMS = 4;

/** At most this much is read or written at once; the kernel's requests are smaller. */
export const MAX_IO_BYTES = 1 << 22;

export interface ReadRequest {
  ino: number;
  offset: number;
  length: number;
  caller: Caller;
  id: RequestId;
  /** Ends waits, for a caller that is being killed. */
  cancel?: Cancel;
}

export interface WriteRequest {
  ino: number;
  offset: number;
  /** Not kept: whatever stays in memory is copied. */
  data: Uint8Array;
  /** `data` begins at a page-aligned address. */
  aligned?: boolean;
  /** O_APPEND: `offset` is ignored, the true size counts. */
  append: boolean;
  /** O_DIRECT: whole blocks go to the device whatever their number. */
  direct: boolean;
  /** O_SYNC, O_DSYNC: answered when committed. */
  sync: boolean;
  /** The kernel asks for suid and sgid to be dropped. */
  killSuidgid: boolean;
  /** The kernel writes pages of a shared mapping: no claim, no allocation limit, the old lock. */
  pageWrite: boolean;
  caller: Caller;
  id: RequestId;
  /** As of a read; what was written until then counts. */
  cancel?: Cancel;
}

/** A piece that has to finish an interrupted truncate first. */
export const TRUNCATE_FIRST: unique symbol = Symbol("an interrupted truncate comes first");

// ---- reading ----

/**
 * Reads up to `length` bytes at `offset`, returns how many there are before the end of the file.
 * `parts` gets them. When the result is no promise, they are windows that are good until anything
 * else runs; otherwise they are copied to `memory()`, `length` bytes. Waits for offline data in the
 * requested range. EISDIR, EINVAL, ENOENT, EINTR, EIO.
 */
export function read(
  fs: Fs,
  rq: ReadRequest,
  parts: ReadParts,
  memory: () => Uint8Array,
): number | Promise<number> {
  let copy: Uint8Array | null = null;
  const attempt = () =>
    fs.claims.withShared(
      rq.ino,
      () => fs.runner.run((op) => readOnce(op, fs, rq, parts, copy), rq.caller, rq.cancel),
    );
  const settle = (r: number | OfflineWait) => {
    if (!(r instanceof OfflineWait)) return r;
    copy ??= memory();
    return retryAfterWait(fs, rq, WAIT_READ, r, attempt);
  };
  const result = attempt();
  if (!(result instanceof Promise)) return settle(result);
  // Answered later: every further run happens after this line.
  copy = memory();
  return result.then(settle);
}

function readOnce(
  op: Op,
  fs: Fs,
  rq: ReadRequest,
  parts: ReadParts,
  copy: Uint8Array | null,
): number | OfflineWait {
  const { offset, length } = rq;
  assert(length <= MAX_IO_BYTES, "a read request is larger than one may be");
  if (readAgain(op, fs, rq, parts)) {
    if (copy !== null) parts.moveTo(copy);
    return length;
  }
  const h = getFile(op, fs, rq.ino, LOCK_READ);
  const first = Math.floor(offset / SM_SIZE);
  const wait = offlineIn(op, fs, h, first, Math.ceil((offset + length) / SM_SIZE));
  if (wait !== null) return wait;
  parts.clear();
  const bytes = Math.min(length, h.inode.size - offset);
  if (bytes <= 0) return 0;
  readBlocks(op, fs, h, first, Math.ceil((offset + bytes) / SM_SIZE), parts);
  const skip = offset - first * SM_SIZE;
  if (skip !== 0 || parts.length !== bytes) parts.trim(skip, bytes);
  assert(parts.length === bytes, "a read found fewer bytes than there are");
  if (copy !== null) parts.moveTo(copy);
  return bytes;
}

/**
 * A read of whole blocks in the extent that the last read of the file found, if nothing changed
 * since; false when it is another one.
 */
function readAgain(op: Op, fs: Fs, rq: ReadRequest, parts: ReadParts): boolean {
  const { ino, offset, length } = rq;
  const memo = fs.readMemos.at(ino);
  // Rehearsals must look at the same items each time.
  if (memo.ino !== ino || memo.holds !== fs.trans.holds || op.paranoia !== null) return false;
  if (length === 0 || offset + length > memo.size || (offset | length) % SM_SIZE !== 0) {
    return false;
  }
  const first = offset / SM_SIZE;
  const end = first + length / SM_SIZE;
  if (first < memo.start || end > memo.end) return false;
  const lock = fs.locks.inode(ino);
  op.lock(lock, LOCK_READ);
  if (memo.grant !== lock.refreshGen) return false;
  const blkno = memo.blkno + (first - memo.start);
  fs.clean.begin();
  parts.clear();
  fs.clean.follow(ino, first, end, blkno + (end - first), memo.end, memo.grant);
  readData(fs, blkno, end - first, memo.grant, parts);
  return true;
}

/** The blocks [first, end) of a file: from the dirty pages, the data device, or zeros. */
function readBlocks(
  op: Op,
  fs: Fs,
  h: InodeHandle,
  first: number,
  end: number,
  parts: ReadParts,
): void {
  fs.clean.begin();
  for (let b = first; b < end;) {
    const e = nextExtent(op, fs, h, b);
    const start = e === null ? end : Math.min(end, Math.max(b, e.start));
    addZeros(parts, start - b);
    b = start;
    if (e === null || b >= end) break;
    const stop = Math.min(end, e.start + e.len);
    if (isOnline(e.blkno, e.flags)) {
      const blkno = e.blkno + (b - e.start);
      const grant = h.lock.refreshGen;
      // What comes next is asked for before this is waited for.
      if (stop === end) {
        const memo = fs.readMemos.at(h.ino);
        memo.ino = h.ino;
        memo.grant = grant;
        memo.holds = fs.trans.holds;
        memo.size = h.inode.size;
        memo.start = e.start;
        memo.end = e.start + e.len;
        memo.blkno = e.blkno;
        fs.clean.follow(h.ino, first, end, blkno + (stop - b), e.start + e.len, grant);
      }
      readData(fs, blkno, stop - b, grant, parts);
    } else addZeros(parts, stop - b);
    b = stop;
  }
}

/** What holes and unwritten blocks read as; never changed. */
const ZEROS = new Uint8Array(64 * 1024);

function addZeros(parts: ReadParts, blocks: number): void {
  for (let left = blocks * SM_SIZE; left > 0; left -= ZEROS.length) {
    parts.add(left >= ZEROS.length ? ZEROS : ZEROS.subarray(0, left));
  }
}

/** Reads mapped blocks, taking dirty pages from memory. */
function readData(fs: Fs, blkno: number, len: number, grant: number, parts: ReadParts): void {
  const { dirty, clean } = fs;
  if (dirty.pages === 0) {
    clean.read(blkno, len, grant, parts);
    return;
  }
  for (let i = 0; i < len;) {
    const page = dirty.page(blkno + i);
    if (page !== null) {
      parts.add(page);
      i++;
      continue;
    }
    let stop = i + 1;
    while (stop < len && !dirty.has(blkno + stop)) stop++;
    clean.read(blkno + i, stop - i, grant, parts);
    i = stop;
  }
}

// ---- writing ----

/**
 * Writes `data`, returns the number of bytes, all of them unless an error came after a part. Waits
 * while any of the file is offline. EPERM (retention), EFBIG, ENOSPC, EDQUOT, EISDIR, EINVAL, EINTR.
 */
export function write(fs: Fs, rq: WriteRequest): number | Promise<number> {
  assert(rq.data.length <= MAX_IO_BYTES, "a write request is larger than one may be");
  if (rq.data.length === 0) return 0;
  const attempt = () =>
    rq.pageWrite ? writePieces(fs, rq) : fs.claims.withExclusive(rq.ino, () => writePieces(fs, rq));
  const settle = (r: number | OfflineWait) =>
    r instanceof OfflineWait ? retryAfterWait(fs, rq, WAIT_WRITE, r, attempt) : r;
  const result = attempt();
  const written = result instanceof Promise ? result.then(settle) : settle(result);
  return rq.sync ? committed(fs, rq, written) : written;
}

async function committed(
  fs: Fs,
  rq: WriteRequest,
  written: number | Promise<number>,
): Promise<number> {
  const bytes = await written;
  const synced = fs.trans.sync();
  await (rq.cancel === undefined ? synced : Promise.race([synced, rq.cancel.promise]));
  return bytes;
}

/** How far a write got. */
interface Progress {
  /** Where the first byte went: the true size when appending. */
  start: number;
  done: number;
}

type PieceResult = number | OfflineWait | typeof TRUNCATE_FIRST;

/** Under the claim: one operation, and whatever more it takes. */
function writePieces(
  fs: Fs,
  rq: WriteRequest,
): number | OfflineWait | Promise<number | OfflineWait> {
  const progress: Progress = { start: rq.offset, done: 0 };
  const piece = () => fs.runner.run((op) => writePiece(op, fs, rq, progress), rq.caller, rq.cancel);
  const first = piece();
  if (first === rq.data.length) {
    relieve(fs);
    return first;
  }
  return writeRest(fs, rq, progress, piece, first);
}

async function writeRest(
  fs: Fs,
  rq: WriteRequest,
  progress: Progress,
  piece: () => PieceResult | Promise<PieceResult>,
  first: PieceResult | Promise<PieceResult>,
): Promise<number | OfflineWait> {
  try {
    let result = await first;
    for (;;) {
      if (result instanceof OfflineWait) {
        if (progress.done === 0) return result;
        break; // Released under us between two pieces: what was written counts.
      }
      if (result === TRUNCATE_FIRST) await finishTruncate(fs, rq.ino);
      else if (progress.done === rq.data.length) break;
      relieve(fs);
      result = await piece();
    }
  } catch (e) {
    if (progress.done === 0) throw e;
  }
  relieve(fs);
  return progress.done;
}

/**
 * Writes some of the oldest dirty pages when there are many. An error is not the writer's: the pages
 * stay, the commit meets it again, reports it and repeats.
 */
function relieve(fs: Fs): void {
  if (!fs.dirty.streaming) return;
  try {
    fs.dirty.flushStep();
  } catch (e) {
    if (!(e instanceof DeviceError)) throw e;
  }
}

/** One operation of a write; returns the bytes it wrote. */
function writePiece(op: Op, fs: Fs, rq: WriteRequest, progress: Progress): PieceResult {
  op.writeOut = rq.pageWrite;
  if (fs.dirty.full) op.wait(fs.trans.sync());
  const h = getFile(op, fs, rq.ino, LOCK_WRITE);
  const { inode } = h;
  if (inode.hasRetention) throw errnoError(EPERM);
  if ((inode.flags & INODE_FLAG_TRUNCATE) !== 0) return TRUNCATE_FIRST;
  if (!rq.pageWrite && progress.done === 0 && fs.quota.applies(op)) {
    fs.quota.check({ op: QUOTA_OP_DATA, proj: inode.proj, uid: inode.uid, gid: inode.gid });
  }
  const start = rq.append && progress.done === 0 ? inode.size : progress.start;
  const pos = start + progress.done;
  const wanted = Math.min(rq.data.length - progress.done, MAX_FILE_SIZE - pos);
  if (wanted <= 0) throw errnoError(EFBIG);
  const wait = offlineIn(op, fs, h, 0, Math.ceil(inode.size / SM_SIZE));
  if (wait !== null) return wait;
  const mode = rq.killSuidgid ? killSuidgidMode(fs, rq.caller, inode.mode, inode.gid) : inode.mode;
  const capability = rq.pageWrite ? null : dropCapability(op, fs, h);

  const first = Math.floor(pos / SM_SIZE);
  const end = Math.ceil((pos + wanted) / SM_SIZE);
  const { dataPreallocBlocks: blocks, dataPreallocContigOnly: contigOnly } = fs.options;
  const from = contigOnly ? first : first - first % blocks;
  const extents = new FileExtents(op, fs, h, from, end);
  if (firstOffline(extents, first, end) >= 0) {
    throw new CorruptError(`inode ${rq.ino}: offline extents that its size or offline_blocks hide`);
  }
  const oldSize = inode.size;
  const edges = readEdges(fs, extents, pos, wanted);
  // Where the write begins behind the block in which the file ended, that block's rest shows.
  const endBlkno = first * SM_SIZE > oldSize ? readEnd(op, fs, h, oldSize) : 0;
  const seq = gatherUpdate(op, fs, [{ h, dataSeq: true }], {
    allocating: !rq.pageWrite,
    dataBlocks: unmappedBlocks(extents, first, end),
    items: PIECE_STEPS * STEP_ITEMS + 4 + (capability?.items ?? 0),
  });

  op.apply();
  const runs: MappedRun[] = [];
  const reached = mapForWrite(
    extents,
    first,
    end,
    inode.onlineBlocks,
    { blocks, contigOnly },
    false,
    dataAllocator(op, fs),
    PIECE_STEPS,
    runs,
  );
  const bytes = Math.min(wanted, reached * SM_SIZE - pos);
  const data = rq.data.subarray(progress.done, progress.done + bytes);
  zeroBeyond(fs, endBlkno, oldSize);
  storeRuns(fs, runs, pos, data, edges, oldSize, rq);
  extents.account();
  const changed = h.edit();
  if (pos + bytes > changed.size) changed.size = pos + bytes;
  changed.mode = mode;
  touch(fs, changed);
  capability?.apply(op, fs, changed.mtime);
  changed.dataSeq = seq;
  changed.bumpDataVersion();
  changed.bumpVersion();
  writeInode(op, fs, h, seq);
  progress.start = start;
  progress.done += bytes;
  return bytes;
}

/** Old contents of the first and last block of a write, where they are kept in part. */
interface Edges {
  head: Uint8Array | null;
  tail: Uint8Array | null;
}

const NO_EDGES: Edges = { head: null, tail: null };

/** Reads what a write keeps of blocks that it covers in part; may fail, hence while gathering. */
function readEdges(fs: Fs, extents: FileExtents, pos: number, bytes: number): Edges {
  const first = Math.floor(pos / SM_SIZE);
  const last = Math.floor((pos + bytes - 1) / SM_SIZE);
  const partHead = pos % SM_SIZE !== 0 || (first === last && bytes < SM_SIZE);
  const partTail = last !== first && (pos + bytes) % SM_SIZE !== 0;
  if (!partHead && !partTail) return NO_EDGES;
  const { headPage, tailPage } = fs.dirty;
  return {
    head: partHead ? readEdge(fs, extents, first, headPage) : null,
    tail: partTail ? readEdge(fs, extents, last, tailPage) : null,
  };
}

/** `into` filled with the block's data; null when it has none, or has it in memory. */
function readEdge(
  fs: Fs,
  extents: FileExtents,
  block: number,
  into: Uint8Array,
): Uint8Array | null {
  const e = extents.next(block);
  if (e === null || e.start > block || !isOnline(e.blkno, e.flags)) return null;
  const blkno = e.blkno + (block - e.start);
  if (fs.dirty.has(blkno)) return null;
  fs.data.read(into, blkno * SM_SIZE);
  return into;
}

/** Puts the payload in place; cannot fail. */
function storeRuns(
  fs: Fs,
  runs: readonly MappedRun[],
  pos: number,
  data: Uint8Array,
  edges: Edges,
  oldSize: number,
  rq: WriteRequest,
): void {
  const firstBlock = Math.floor(pos / SM_SIZE);
  const stop = pos + data.length;
  for (const run of runs) {
    let b = run.start;
    const runEnd = run.start + run.len;
    while (b < runEnd) {
      const at = b * SM_SIZE;
      assert(at < stop, "a write mapped blocks that it has no data for");
      const blkno = run.blkno + (b - run.start);
      if (at < pos || at + SM_SIZE > stop) {
        const old = b === firstBlock ? edges.head : edges.tail;
        storePartial(fs, blkno, run.fresh, old, oldSize, pos, data, at);
        b++;
        continue;
      }
      const whole = Math.min(runEnd, Math.floor(stop / SM_SIZE)) - b;
      storeWhole(fs, blkno, whole, data.subarray(at - pos, at - pos + whole * SM_SIZE), rq);
      b += whole;
    }
  }
}

/** A block of which the payload covers a part: it becomes a dirty page. */
function storePartial(
  fs: Fs,
  blkno: number,
  fresh: boolean,
  old: Uint8Array | null,
  oldSize: number,
  pos: number,
  data: Uint8Array,
  at: number,
): void {
  let page = fs.dirty.page(blkno);
  if (page === null) {
    page = fs.dirty.add(blkno);
    if (fresh) page.fill(0);
    else {
      assert(old !== null, "the old contents of a partly written block were read");
      page.set(old);
      // Behind the old end of the file the device may hold anything.
      if (oldSize < at + SM_SIZE) page.fill(0, Math.max(0, oldSize - at));
    }
  } else if (fresh) {
    throw new CorruptError(`data block ${blkno} is in use, but was said to be free; run fsck`);
  }
  const from = Math.max(at, pos);
  const to = Math.min(at + SM_SIZE, pos + data.length);
  page.set(data.subarray(from - pos, to - pos), from - at);
}

/** Whole blocks: to the device if they are many or the writer wants that, else dirty pages. */
function storeWhole(fs: Fs, blkno: number, len: number, data: Uint8Array, rq: WriteRequest): void {
  if (data.length >= DIRECT_BYTES || rq.direct) {
    try {
      fs.data.write(deviceBuffer(fs, data, rq), blkno * SM_SIZE);
      fs.dirty.drop(blkno, len);
      return;
    } catch (e) {
      // The mapping exists, so the data must reach the device before the commit, which repeats.
      if (!(e instanceof DeviceError)) throw e;
    }
  }
  for (let i = 0; i < len; i++) {
    const page = fs.dirty.page(blkno + i) ?? fs.dirty.add(blkno + i);
    page.set(data.subarray(i * SM_SIZE, (i + 1) * SM_SIZE));
  }
}

/** `data` itself if the device can take it from where it is, otherwise a copy that it can. */
function deviceBuffer(fs: Fs, data: Uint8Array, rq: WriteRequest): Uint8Array {
  if (rq.aligned === true && (data.byteOffset - rq.data.byteOffset) % SM_SIZE === 0) return data;
  const copy = fs.dirty.scratch(data.length).subarray(0, data.length);
  copy.set(data);
  return copy;
}
