/** The INIT handshake: what we take of what the kernel offers. */

import { EPROTO } from "../../format/errno.ts";
import { FsError } from "../errors.ts";
import {
  ACL_FLAG,
  INIT_OUT,
  KERNEL_MAJOR,
  KERNEL_MINOR,
  LEAST_MINOR,
  MAX_IO,
  MAX_PAGES_VALUE,
  NEEDED_FLAGS,
  NEEDED_FLAGS2,
  WANTED_FLAGS,
  WANTED_FLAGS2,
} from "./abi.ts";
import type { FuseRequest } from "./request.ts";

/** Requests of background kinds (read-ahead, asynchronous direct I/O) that the kernel sends at once. */
const MAX_BACKGROUND = 512;

/** Answers INIT; throws FsError when the kernel is too old to serve files correctly on. */
export function answerInit(req: FuseRequest, acl: boolean): number {
  const major = req.u32(0), minor = req.u32(4);
  const flags = req.u32(12), flags2 = req.length >= 40 + 20 ? req.u32(16) : 0;
  if (
    major !== KERNEL_MAJOR || minor < LEAST_MINOR || (flags & NEEDED_FLAGS) !== NEEDED_FLAGS ||
    (flags2 & NEEDED_FLAGS2) !== NEEDED_FLAGS2
  ) {
    throw new FsError(
      EPROTO,
      `the kernel's FUSE ${major}.${minor} lacks what is needed: Linux 6.6 or newer is required`,
    );
  }
  const v = req.out.view;
  for (let i = 0; i < INIT_OUT; i += 4) v.setUint32(i, 0, true);
  v.setUint32(0, KERNEL_MAJOR, true);
  v.setUint32(4, Math.min(minor, KERNEL_MINOR), true);
  v.setUint32(8, MAX_IO, true);
  v.setUint32(12, (flags & (WANTED_FLAGS | (acl ? ACL_FLAG : 0))) >>> 0, true);
  v.setUint16(16, MAX_BACKGROUND, true);
  v.setUint16(18, MAX_BACKGROUND - MAX_BACKGROUND / 4, true);
  v.setUint32(20, MAX_IO, true);
  v.setUint32(24, 1, true);
  v.setUint16(28, MAX_PAGES_VALUE, true);
  v.setUint32(32, (flags2 & WANTED_FLAGS2) >>> 0, true);
  return INIT_OUT;
}
