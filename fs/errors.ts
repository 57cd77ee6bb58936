/**
 * The errors of the engine. Every failure that can reach an application or an administrator is an
 * `FsError` with a Linux errno; everything else that is thrown is a defect.
 */

import { FormatError } from "../format/bytes.ts";
import { EINVAL, EIO, ENOENT, ENOSPC, errnoName, ESTALE } from "../format/errno.ts";

/** A failure with a Linux errno, e.g. `new FsError(ENOENT, "no entry 'a' in directory 1")`. */
export class FsError extends Error {
  override readonly name: string = "FsError";
  constructor(readonly errno: number, message?: string) {
    super(message ?? errnoName(errno));
  }
}

/** A device could not be read or written: names device, offset and length. */
export class DeviceError extends FsError {
  override readonly name = "DeviceError";
  constructor(readonly device: string, message: string, errno: number = EIO) {
    super(errno, `${device}: ${message}`);
  }
}

/**
 * A block did not match the reference that led to it (01 §5.2). Not corruption by itself: the
 * reference may be older than a reuse of the block; who retries how is 03 §3.5.
 */
export class StaleError extends FsError {
  override readonly name = "StaleError";
  constructor(readonly blkno: number, message: string) {
    super(ESTALE, `metadata block ${blkno}: ${message}`);
  }

  /** What it is when newer roots lead to the same block: no stale root but damage. */
  get asDamage(): FsError {
    return new FsError(EIO, `${this.message} (also with new roots)`);
  }
}

/** Stored structures contradict the format: names what and where. Surfaces as EIO. */
export class CorruptError extends FsError {
  override readonly name = "CorruptError";
  /** `reported`: the log has it already. */
  constructor(message: string, readonly reported = false) {
    super(EIO, `corruption: ${message}`);
  }
}

/** What a caught error means where stored bytes were read: a FormatError there is corruption. */
export function asCorrupt(e: unknown, where: string): unknown {
  return e instanceof FormatError ? new CorruptError(`${where}: ${e.message}`) : e;
}

/** Is it damage of what is stored, rather than a device that may answer again? */
export function isDamage(e: unknown): e is CorruptError | StaleError {
  return e instanceof CorruptError || e instanceof StaleError;
}

/** A broken invariant of our own code. Never an answer to bad input. */
export class AssertionError extends Error {
  override readonly name = "AssertionError";
}

export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new AssertionError(message);
}

/** Preallocated errors for answers that are ordinary on hot paths: no stack is captured per use. */
const plain = new Map<number, FsError>();

/** The shared error for `errno`; throw it where the message adds nothing. */
export function errnoError(errno: number): FsError {
  let e = plain.get(errno);
  if (e === undefined) {
    const limit = Error.stackTraceLimit;
    Error.stackTraceLimit = 0;
    e = new FsError(errno);
    Error.stackTraceLimit = limit;
    plain.set(errno, e);
  }
  return e;
}

export const noEntry = (): FsError => errnoError(ENOENT);
export const noSpace = (): FsError => errnoError(ENOSPC);
export const invalid = (): FsError => errnoError(EINVAL);

/** The errno of anything thrown: an FsError's own, EIO for the rest. */
export function errnoOf(e: unknown): number {
  return e instanceof FsError ? e.errno : EIO;
}
