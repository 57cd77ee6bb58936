/**
 * The memory of the process that issued an ioctl: embedded pointers of its structures are read and
 * written there while it waits (05 §8). It may only be touched before the request is answered, and
 * under no lock: it may itself be a mapping of a file of this volume.
 */

import { EFAULT } from "../format/errno.ts";
import { errnoError } from "./errors.ts";

export interface CallerMemory {
  /** Fills `buf` from address `addr` of process `pid`; throws EFAULT. */
  read(pid: number, addr: bigint, buf: Uint8Array): void;
  /** Writes `buf` there; throws EFAULT, possibly after a part was written. */
  write(pid: number, addr: bigint, buf: Uint8Array): void;
}

/** For callers without a process: every embedded pointer is a bad address. */
export const noCallerMemory: CallerMemory = {
  read: (_pid, _addr, buf) => refuse(buf),
  write: (_pid, _addr, buf) => refuse(buf),
};

function refuse(buf: Uint8Array): void {
  if (buf.length > 0) throw errnoError(EFAULT);
}
