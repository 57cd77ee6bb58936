/** Ioctls about one file: STAT_MORE, GET_ATTR_X, LISTXATTR_HIDDEN, DATA_WAITING (05 §9). */

import {
  IOC_IAX_ALL,
  IOC_IAX_B_RETENTION,
  IOC_IAX_CRTIME,
  IOC_IAX_CTIME,
  IOC_IAX_DATA_SEQ,
  IOC_IAX_DATA_VERSION,
  IOC_IAX_F_SIZE_OFFLINE,
  IOC_IAX_META_SEQ,
  IOC_IAX_OFFLINE_BLOCKS,
  IOC_IAX_ONLINE_BLOCKS,
  IOC_IAX_PROJECT_ID,
  IOC_IAX_RETENTION,
  IOC_IAX_SIZE,
  IocDataWaiting,
  IocDataWaitingEntry,
  IocInodeAttrX,
  IocListxattrHidden,
  IocStatMore,
} from "../../format/ioctl.ts";
import { EACCES, EINVAL, EOPNOTSUPP } from "../../format/errno.ts";
import type { Inode } from "../../format/items.ts";
import { LOCK_READ } from "../../format/wire.ts";
import { CAP_DAC_READ_SEARCH } from "../caller.ts";
import { errnoError } from "../errors.ts";
import type { Fs } from "../fs.ts";
import { getInode } from "../inode.ts";
import type { Op } from "../op.ts";
import {
  argument,
  clampU64,
  type IoctlReply,
  type IoctlRequest,
  isReadable,
  returns,
  returnsStruct,
} from "./ioctl_request.ts";
import { visitXattrs } from "./xattr.ts";

/** 05 §9.5. */
export function statMore(fs: Fs, rq: IoctlRequest): IoctlReply | Promise<IoctlReply> {
  return fs.runner.run((op) => {
    const { inode } = getInode(op, fs, rq.ino, LOCK_READ);
    const out = IocStatMore.alloc();
    out.metaSeq = inode.metaSeq;
    out.dataSeq = inode.dataSeq;
    out.dataVersion = inode.dataVersionBig;
    out.onlineBlocks = inode.onlineBlocks;
    out.offlineBlocks = inode.offlineBlocks;
    out.crtimeSec = inode.crtime.secBig;
    out.crtimeNsec = inode.crtime.nsec;
    return returnsStruct(out.bytes);
  }, rq.caller);
}

/** What each mask bit fills in, and where its fields end; ascending ends. */
const ATTR_X_FIELDS: readonly [bit: number, end: number, (to: IocInodeAttrX, i: Inode) => void][] =
  [
    [IOC_IAX_META_SEQ, 24, (to, i) => to.metaSeq = i.metaSeq],
    [IOC_IAX_DATA_SEQ, 32, (to, i) => to.dataSeq = i.dataSeq],
    [IOC_IAX_DATA_VERSION, 40, (to, i) => to.dataVersion = i.dataVersionBig],
    [IOC_IAX_ONLINE_BLOCKS, 48, (to, i) => to.onlineBlocks = i.onlineBlocks],
    [IOC_IAX_OFFLINE_BLOCKS, 56, (to, i) => to.offlineBlocks = i.offlineBlocks],
    [IOC_IAX_CTIME, 68, (to, i) => {
      to.ctimeSec = i.ctime.secBig;
      to.ctimeNsec = i.ctime.nsec;
    }],
    [IOC_IAX_CRTIME, 80, (to, i) => {
      to.crtimeSec = i.crtime.secBig;
      to.crtimeNsec = i.crtime.nsec;
    }],
    [IOC_IAX_SIZE, 88, (to, i) => to.size = i.sizeBig],
    [IOC_IAX_RETENTION, 96, (to, i) => to.bits = i.hasRetention ? BigInt(IOC_IAX_B_RETENTION) : 0n],
    [IOC_IAX_PROJECT_ID, 104, (to, i) => to.projectId = i.proj],
  ];

/** 05 §9.18: the argument is written back in place, up to the last field asked for. */
export async function getAttrX(fs: Fs, rq: IoctlRequest): Promise<IoctlReply> {
  const arg = argument(rq, IocInodeAttrX);
  const { xMask, xFlags } = arg;
  if (xMask === 0n) return returns(0);
  if ((xMask & ~BigInt(IOC_IAX_ALL)) !== 0n || (xFlags & ~BigInt(IOC_IAX_F_SIZE_OFFLINE)) !== 0n) {
    throw errnoError(EINVAL);
  }
  const mask = Number(xMask);
  if (fs.fmtVers < 2 && (mask & (IOC_IAX_RETENTION | IOC_IAX_PROJECT_ID)) !== 0) {
    throw errnoError(EOPNOTSUPP);
  }
  const out = IocInodeAttrX.alloc();
  out.xMask = xMask;
  out.xFlags = xFlags;
  const end = await fs.runner.run((op) => {
    const { inode } = getInode(op, fs, rq.ino, LOCK_READ);
    let filled = 0;
    for (const [bit, fieldEnd, fill] of ATTR_X_FIELDS) {
      if ((mask & bit) === 0) continue;
      fill(out, inode);
      filled = fieldEnd;
    }
    return filled;
  }, rq.caller);
  fs.callerMemory.write(rq.caller.pid, rq.arg, out.bytes.subarray(0, end));
  return returns(0);
}

/** 05 §9.8: names that are otherwise hidden, from a cursor that is moved on. */
export async function listHiddenXattrs(fs: Fs, rq: IoctlRequest): Promise<IoctlReply> {
  const arg = argument(rq, IocListxattrHidden);
  const room = arg.bufBytes;
  const { names, hash, id } = await fs.runner.run((op) => {
    const { inode } = getInode(op, fs, rq.ino, LOCK_READ);
    if (!mayRead(fs, inode, rq)) throw errnoError(EACCES);
    return hiddenNames(op, fs, rq.ino, arg.hashPos, arg.idPos, room);
  }, rq.caller);
  let at = 0;
  for (const name of names) {
    fs.callerMemory.write(rq.caller.pid, arg.bufPtr + BigInt(at), name);
    at += name.length;
  }
  const out = IocListxattrHidden.at(rq.input.slice(0, IocListxattrHidden.SIZE));
  out.hashPos = hash;
  out.idPos = id;
  return { result: at, output: out.bytes };
}

const CAP_DAC_OVERRIDE = 1;

/**
 * Read permission on the inode: who holds a readable descriptor had it, whatever granted it;
 * others need it by mode or capability.
 */
function mayRead(fs: Fs, inode: Inode, rq: IoctlRequest): boolean {
  if (isReadable(rq)) return true;
  const { caller } = rq;
  const { credentials } = fs;
  const shift = caller.uid === inode.uid ? 6 : credentials.inGroup(caller, inode.gid) ? 3 : 0;
  return (inode.mode >> shift & 4) !== 0 || credentials.capable(caller, CAP_DAC_OVERRIDE) ||
    credentials.capable(caller, CAP_DAC_READ_SEARCH);
}

/** The hidden names that fit into `room`, each with its NUL, and the position after the last. */
function hiddenNames(
  op: Op,
  fs: Fs,
  ino: number,
  hashPos: number,
  idPos: bigint,
  room: number,
): { names: Uint8Array[]; hash: number; id: bigint } {
  const names: Uint8Array[] = [];
  let hash = hashPos;
  let id = idPos;
  let used = 0;
  visitXattrs(op, fs, ino, hashPos, clampU64(idPos), (found, hidden) => {
    if (!hidden) return true;
    const bytes = found.name.length + 1;
    if (used + bytes > room) return false;
    const name = new Uint8Array(bytes);
    name.set(found.name);
    names.push(name);
    used += bytes;
    hash = found.hash;
    id = BigInt(found.id) + 1n;
    return true;
  });
  return { names, hash, id };
}

/** 05 §9.6: this mount's waiters after a position. */
export function dataWaiting(fs: Fs, rq: IoctlRequest): IoctlReply {
  const arg = argument(rq, IocDataWaiting);
  if (arg.flags !== 0n) throw errnoError(EINVAL);
  const found = fs.waiters.list(clampU64(arg.afterIno), clampU64(arg.afterIblock), arg.entsNr);
  const out = new Uint8Array(found.length * IocDataWaitingEntry.SIZE);
  found.forEach((w, i) => {
    const entry = IocDataWaitingEntry.at(out, i * IocDataWaitingEntry.SIZE);
    entry.ino = w.ino;
    entry.iblock = w.iblock;
    entry.op = w.op;
  });
  fs.callerMemory.write(rq.caller.pid, arg.entsPtr, out);
  return returns(found.length);
}
