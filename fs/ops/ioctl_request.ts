/** What ioctl handlers get and give, and the checks that they share (05 §8). */

import type { View, ViewClass } from "../../format/bytes.ts";
import { EBADF, EFAULT, EPERM } from "../../format/errno.ts";
import type { Caller } from "../caller.ts";
import { errnoError } from "../errors.ts";
import type { Fs } from "../fs.ts";
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

const NOTHING = new Uint8Array(0);

/** A plain return value. */
export const returns = (result: number): IoctlReply => ({ result, output: NOTHING });

/** A filled structure. */
export const returnsStruct = (output: Uint8Array): IoctlReply => ({ result: 0, output });

/** The argument of a W command as a view of its class; EFAULT when it is shorter than that. */
export function argument<T extends View>(rq: IoctlRequest, make: ViewClass<T>): T {
  const { input } = rq;
  if (input.length < make.SIZE) throw errnoError(EFAULT);
  return new make(new DataView(input.buffer, input.byteOffset, input.length));
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
