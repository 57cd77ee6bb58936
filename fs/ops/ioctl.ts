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
import { EIO, ENOTTY } from "../../format/errno.ts";
import { asCorrupt, errnoError, FsError } from "../errors.ts";
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
import type { IoctlReply, IoctlRequest } from "./ioctl_request.ts";

export type { IoctlReply, IoctlRequest };

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
  try {
    const reply = handler(fs, rq);
    if (!(reply instanceof Promise)) return reply;
    return reply.catch((e: unknown) => {
      throw reported(fs, e);
    });
  } catch (e) {
    throw reported(fs, e);
  }
}

/** Parts of an ioctl are no operations, whose failures are reported by their driver. */
function reported(fs: Fs, e: unknown): unknown {
  const error = asCorrupt(e, "what an ioctl reads");
  if (error instanceof FsError && error.errno === EIO) fs.reportIoError(error);
  return error;
}
