/**
 * Ioctls about the volume: WALK_INODES, INO_PATH, GET_REFERRING_ENTRIES, GET_ALLOCATED_INOS,
 * STATFS_MORE, ALLOC_DETAIL (05 §9), and our own one that lists extents as FIEMAP would, which FUSE
 * does not forward.
 */

import { View } from "../../format/bytes.ts";
import { INODE_GROUP_SIZE, ZONE_FS } from "../../format/constants.ts";
import {
  IOC_ALLOC_DETAIL_AVAIL,
  IOC_ALLOC_DETAIL_META,
  IOC_REFERRING_ENTRY_LAST,
  IOC_REFERRING_ENTRY_NAME_OFF,
  IocAllocDetail,
  IocAllocDetailEntry,
  IocGetAllocatedInos,
  IocGetReferringEntries,
  IocInoPath,
  IocInoPathResult,
  IocStatfsMore,
  IocWalkInodes,
  IocWalkInodesEntry,
  referringEntryBytes,
} from "../../format/ioctl.ts";
import { EINVAL, ENAMETOOLONG, EOVERFLOW } from "../../format/errno.ts";
import { Key } from "../../format/key.ts";
import { LOCK_READ } from "../../format/wire.ts";
import { CAP_DAC_READ_SEARCH, CAP_SYS_ADMIN } from "../caller.ts";
import { errnoError } from "../errors.ts";
import type { Fs } from "../fs.ts";
import type { Op } from "../op.ts";
import { dtOf } from "./entries.ts";
import {
  argument,
  clampU64,
  type IoctlReply,
  type IoctlRequest,
  requireCapability,
  requireReadable,
  returns,
  returnsStruct,
} from "./ioctl_request.ts";
import { inoPath, nextBackref } from "./paths.ts";
import { fiemap } from "./seek.ts";
import { allocPools, readSuper } from "./statfs.ts";
import { stableSeq, walkInodes } from "./walk.ts";

/** Entries of one call: bounds the memory of a request, callers ask again. */
const MAX_ENTRIES = 1 << 16;

/** 05 §9.1. */
export async function walkInodesIoctl(fs: Fs, rq: IoctlRequest): Promise<IoctlReply> {
  const arg = argument(rq, IocWalkInodes);
  const { first, last } = arg;
  if (!rq.syncArrives && fs.items.dirtyItems > 0) await fs.trans.sync();
  const found = await walkInodes(
    fs,
    arg.index,
    { seq: first.major, ino: first.ino },
    { seq: last.major, ino: last.ino },
    Math.min(arg.nrEntries, MAX_ENTRIES),
  );
  const out = new Uint8Array(found.length * IocWalkInodesEntry.SIZE);
  found.forEach(({ seq, ino }, i) => {
    const entry = IocWalkInodesEntry.at(out, i * IocWalkInodesEntry.SIZE);
    entry.major = BigInt(seq);
    entry.ino = BigInt(ino);
  });
  fs.callerMemory.write(rq.caller.pid, arg.entriesPtr, out);
  return returns(found.length);
}

/** 05 §9.2. */
export async function inoPathIoctl(fs: Fs, rq: IoctlRequest): Promise<IoctlReply> {
  requireCapability(fs, rq, CAP_DAC_READ_SEARCH);
  const arg = argument(rq, IocInoPath);
  const { path, dir, pos } = await fs.runner.run(
    (op) => inoPath(op, fs, clampU64(arg.ino), clampU64(arg.dirIno), clampU64(arg.dirPos)),
    rq.caller,
  );
  const out = new Uint8Array(IocInoPathResult.SIZE + path.length + 1);
  if (out.length > arg.resultBytes) throw errnoError(ENAMETOOLONG);
  const result = IocInoPathResult.at(out);
  result.dirIno = dir;
  result.dirPos = pos;
  result.pathBytes = path.length + 1;
  out.set(path, IocInoPathResult.SIZE);
  fs.callerMemory.write(rq.caller.pid, arg.resultPtr, out);
  return returns(0);
}

/** Links that one call of GET_REFERRING_ENTRIES looks at (02 §10.3). */
const MAX_REFERRING = 1024;

interface Referring {
  readonly dir: number;
  readonly pos: number;
  readonly type: number;
  readonly name: Uint8Array;
}

/** 05 §9.17. */
export async function getReferringEntries(fs: Fs, rq: IoctlRequest): Promise<IoctlReply> {
  requireCapability(fs, rq, CAP_DAC_READ_SEARCH);
  const arg = argument(rq, IocGetReferringEntries);
  const ino = clampU64(arg.ino);
  const { links, complete } = await fs.runner.run(
    (op) => referring(op, fs, ino, clampU64(arg.dirIno), clampU64(arg.dirPos)),
    rq.caller,
  );
  const room = clampU64(arg.entriesBytes);
  let bytes = 0;
  let nr = 0;
  for (const { name } of links) {
    const more = referringEntryBytes(name.length);
    if (bytes + more > room) break;
    bytes += more;
    nr++;
  }
  if (nr === 0 && links.length > 0) throw errnoError(EINVAL);
  const out = new Uint8Array(bytes);
  const v = new DataView(out.buffer);
  let at = 0;
  for (let i = 0; i < nr; i++) {
    const { dir, pos, type, name } = links[i]!;
    const size = referringEntryBytes(name.length);
    v.setBigUint64(at, BigInt(dir), true);
    v.setBigUint64(at + 8, BigInt(pos), true);
    v.setBigUint64(at + 16, BigInt(ino), true);
    v.setUint16(at + 24, size, true);
    v.setUint8(at + 26, complete && i === links.length - 1 ? IOC_REFERRING_ENTRY_LAST : 0);
    v.setUint8(at + 27, dtOf(type));
    v.setUint8(at + 28, name.length);
    out.set(name, at + IOC_REFERRING_ENTRY_NAME_OFF);
    at += size;
  }
  fs.callerMemory.write(rq.caller.pid, arg.entriesPtr, out);
  return returns(nr);
}

function referring(
  op: Op,
  fs: Fs,
  ino: number,
  dir: number,
  pos: number,
): { links: Referring[]; complete: boolean } {
  const links: Referring[] = [];
  for (;;) {
    const found = nextBackref(op, fs, ino, dir, pos);
    if (found === null) return { links, complete: true };
    if (links.length === MAX_REFERRING) return { links, complete: false };
    const { entry } = found;
    links.push({ dir: found.dir, pos: found.pos, type: entry.type, name: entry.name.slice() });
    dir = found.dir;
    pos = found.pos + 1;
  }
}

/** 05 §9.16: numbers of one group that own any item. */
export async function getAllocatedInos(fs: Fs, rq: IoctlRequest): Promise<IoctlReply> {
  requireReadable(rq);
  requireCapability(fs, rq, CAP_SYS_ADMIN);
  const arg = argument(rq, IocGetAllocatedInos);
  if (arg.inosPtr % 8n !== 0n || arg.inosBytes < 8n) throw errnoError(EINVAL);
  const start = clampU64(arg.startIno);
  const room = Math.floor(clampU64(arg.inosBytes) / 8);
  const inos = await fs.runner.run((op) => allocatedInos(op, fs, start, room), rq.caller);
  const out = new BigUint64Array(inos.map(BigInt));
  fs.callerMemory.write(rq.caller.pid, arg.inosPtr, new Uint8Array(out.buffer));
  return returns(inos.length);
}

function allocatedInos(op: Op, fs: Fs, start: number, room: number): number[] {
  const lock = fs.locks.inode(start);
  op.lock(lock, LOCK_READ);
  const found: number[] = [];
  const end = start - start % INODE_GROUP_SIZE + INODE_GROUP_SIZE;
  for (let ino = start; ino < end && found.length < room;) {
    const item = fs.items.next(op, lock, Key.of(ZONE_FS, ino, 0), lock.end);
    if (item === null) break;
    found.push(item.key.first);
    ino = item.key.first + 1;
  }
  return found;
}

/** 05 §9.10. */
export async function statfsMore(fs: Fs, _rq: IoctlRequest): Promise<IoctlReply> {
  const committed = await stableSeq(fs);
  const sb = readSuper(fs);
  const out = IocStatfsMore.alloc();
  out.fsid = sb.hdr.fsid;
  out.rid = fs.rid;
  out.committedSeq = committed;
  out.totalMetaBlocks = sb.totalMetaBlocks;
  out.totalDataBlocks = sb.totalDataBlocks;
  out.reservedMetaBlocks = fs.reservedMetaBlocks();
  return returnsStruct(out.bytes);
}

/** 05 §9.12. */
export function allocDetail(fs: Fs, rq: IoctlRequest): IoctlReply {
  const arg = argument(rq, IocAllocDetail);
  const pools = allocPools(fs);
  if (pools.length > clampU64(arg.entriesNr)) throw errnoError(EOVERFLOW);
  const out = new Uint8Array(pools.length * IocAllocDetailEntry.SIZE);
  pools.forEach((pool, i) => {
    const entry = IocAllocDetailEntry.at(out, i * IocAllocDetailEntry.SIZE);
    entry.id = pool.id;
    entry.blocks = pool.blocks;
    entry.flags = (pool.meta ? IOC_ALLOC_DETAIL_META : 0) |
      (pool.avail ? IOC_ALLOC_DETAIL_AVAIL : 0);
  });
  fs.callerMemory.write(rq.caller.pid, arg.entriesPtr, out);
  return returns(pools.length);
}

/**
 * `_IOW(0xE8, 128, 32)`, a number of ours: 0 u64 start · 8 u64 length (bytes) · 16 u64 extents_ptr ·
 * 24 u64 nr. Stores up to nr extents of 32 bytes (u64 logical, physical, length, flags; in bytes,
 * flags of linux/fiemap.h) and returns how many.
 */
export const IOC_PRIVATE_FIEMAP = 0x4020e880;

export async function getFiemap(fs: Fs, rq: IoctlRequest): Promise<IoctlReply> {
  const arg = argument(rq, PrivateFiemap);
  const nr = Math.min(clampU64(arg.nr), MAX_ENTRIES);
  const found = await fs.runner.run(
    (op) => fiemap(op, fs, rq.ino, clampU64(arg.start), clampU64(arg.length), nr),
    rq.caller,
  );
  const out = new BigUint64Array(found.length * 4);
  found.forEach((e, i) => {
    out[i * 4] = BigInt(e.logical);
    out[i * 4 + 1] = BigInt(e.physical);
    out[i * 4 + 2] = BigInt(e.length);
    out[i * 4 + 3] = BigInt(e.flags);
  });
  fs.callerMemory.write(rq.caller.pid, arg.extentsPtr, new Uint8Array(out.buffer));
  return returns(found.length);
}

/** The argument of IOC_PRIVATE_FIEMAP. */
export class PrivateFiemap extends View {
  static readonly SIZE = 32;
  get start(): bigint {
    return this.v.getBigUint64(this.o, true);
  }
  set start(n: bigint) {
    this.v.setBigUint64(this.o, n, true);
  }
  get length(): bigint {
    return this.v.getBigUint64(this.o + 8, true);
  }
  set length(n: bigint) {
    this.v.setBigUint64(this.o + 8, n, true);
  }
  get extentsPtr(): bigint {
    return this.v.getBigUint64(this.o + 16, true);
  }
  set extentsPtr(n: bigint) {
    this.v.setBigUint64(this.o + 16, n, true);
  }
  get nr(): bigint {
    return this.v.getBigUint64(this.o + 24, true);
  }
  set nr(n: bigint) {
    this.v.setBigUint64(this.o + 24, n, true);
  }
}
