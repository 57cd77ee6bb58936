/**
 * The private ioctls (05 §8, §9): a table from command number to handler. The kernel delivers the
 * restricted form: of a W command the structure comes with the request, of an R command the reply
 * carries exactly one, everything else goes through the memory of the calling process, and only
 * after the cluster locks were let go, since that memory may be a mapping of a file of this volume.
 *
 * RELEASE, STAGE, SETATTR_MORE, SEARCH_XATTRS, DATA_WAIT_ERR, MOVE_BLOCKS, RESIZE_DEVICES,
 * READ_XATTR_TOTALS, SET_ATTR_X, the quota rules, READ_XATTR_INDEX, PUNCH_OFFLINE and
 * INJECT_TOTL_DELTA belong into this table too; until they are there they answer ENOTTY, like every
 * unknown command.
 */

import {
  IOC_ALLOC_DETAIL,
  IOC_DATA_WAITING,
  IOC_GET_ALLOCATED_INOS,
  IOC_GET_ATTR_X,
  IOC_GET_REFERRING_ENTRIES,
  IOC_INO_PATH,
  IOC_LISTXATTR_HIDDEN,
  IOC_STAT_MORE,
  IOC_STATFS_MORE,
  IOC_WALK_INODES,
} from "../../format/ioctl.ts";
import { EBADF, EFAULT, ENOTTY, EPERM } from "../../format/errno.ts";
import type { Caller } from "../caller.ts";
import { errnoError } from "../errors.ts";
import type { Fs } from "../fs.ts";
import { dataWaiting, getAttrX, listHiddenXattrs, statMore } from "./ioctl_file.ts";
import {
  allocDetail,
  getAllocatedInos,
  getFiemap,
  getReferringEntries,
  inoPathIoctl,
  IOC_PRIVATE_FIEMAP,
  statfsMore,
  walkInodesIoctl,
} from "./ioctl_volume.ts";
import type { RequestId } from "./wait.ts";

export interface IoctlRequest {
  /** The file or directory that the descriptor is open on. */
  ino: number;
  /** Unsigned 32 bits. */
  cmd: number;
  /** The third argument as the caller gave it. */
  arg: bigint;
  /** The caller's structure for W commands, else empty. */
  input: Uint8Array;
  /** open(2) flags of the descriptor. */
  openFlags: number;
  readOnly: boolean;
  /** sync(2) reaches this mount: otherwise what promises committed state commits first. */
  syncArrives: boolean;
  caller: Caller;
  id: RequestId;
}

export interface IoctlReply {
  /** What ioctl(2) returns. */
  result: number;
  /** The structure for R commands, else empty. */
  output: Uint8Array;
}

type Handler = (fs: Fs, rq: IoctlRequest) => IoctlReply | Promise<IoctlReply>;

const HANDLERS: ReadonlyMap<number, Handler> = new Map<number, Handler>([
  [IOC_WALK_INODES, walkInodesIoctl],
  [IOC_INO_PATH, inoPathIoctl],
  [IOC_STAT_MORE, statMore],
  [IOC_DATA_WAITING, dataWaiting],
  [IOC_LISTXATTR_HIDDEN, listHiddenXattrs],
  [IOC_STATFS_MORE, statfsMore],
  [IOC_ALLOC_DETAIL, allocDetail],
  [IOC_GET_ALLOCATED_INOS, getAllocatedInos],
  [IOC_GET_REFERRING_ENTRIES, getReferringEntries],
  [IOC_GET_ATTR_X, getAttrX],
  [IOC_PRIVATE_FIEMAP, getFiemap],
]);

/** Carries out one ioctl; throws or rejects FsError, ENOTTY for what is not known. */
export function ioctl(fs: Fs, rq: IoctlRequest): IoctlReply | Promise<IoctlReply> {
  const handler = HANDLERS.get(rq.cmd);
  if (handler === undefined) throw errnoError(ENOTTY);
  return handler(fs, rq);
}

const NOTHING = new Uint8Array(0);

/** A plain return value. */
export const returns = (result: number): IoctlReply => ({ result, output: NOTHING });

/** A filled structure. */
export const returnsStruct = (output: Uint8Array): IoctlReply => ({ result: 0, output });

/** The argument of a W command as `make` views it; EFAULT when it is shorter than that. */
export function argument<T>(
  rq: IoctlRequest,
  view: { readonly SIZE: number; at(bytes: Uint8Array): T },
): T {
  if (rq.input.length < view.SIZE) throw errnoError(EFAULT);
  return view.at(rq.input);
}

/** EPERM unless the calling process has the capability. */
export function requireCapability(fs: Fs, rq: IoctlRequest, cap: number): void {
  if (!fs.credentials.capable(rq.caller, cap)) throw errnoError(EPERM);
}

const O_ACCMODE = 3;
const O_WRONLY = 1;

export const isReadable = (rq: IoctlRequest): boolean => (rq.openFlags & O_ACCMODE) !== O_WRONLY;

/** EBADF unless the descriptor can be read. */
export function requireReadable(rq: IoctlRequest): void {
  if (!isReadable(rq)) throw errnoError(EBADF);
}

/** A u64 of a request as a number; what is beyond 2^53−1 is as good as infinite. */
export const clampU64 = (n: bigint): number =>
  n > BigInt(Number.MAX_SAFE_INTEGER) ? Number.MAX_SAFE_INTEGER : Number(n);
