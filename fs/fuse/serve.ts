/**
 * A volume served through FUSE: the table of handlers, one per opcode, and what belongs to none of
 * the groups in *_handlers.ts: the handshake, forgetting, durability, interrupts, the end.
 */

import { ENOSYS, EOPNOTSUPP } from "../../format/errno.ts";
import { assert, errnoError } from "../errors.ts";
import type { Fs } from "../fs.ts";
import { statfs } from "../ops/statfs.ts";
import type { SystemReactor } from "../sys/reactor.ts";
import * as abi from "./abi.ts";
import { attrHandlers } from "./attr_handlers.ts";
import { fileHandlers } from "./file_handlers.ts";
import { answerInit } from "./init.ts";
import { KernelCache } from "./kernel_cache.ts";
import { nameHandlers } from "./name_handlers.ts";
import { Notifier } from "./notify.ts";
import type { FuseRequest } from "./request.ts";
import { FuseSession, type Handler, NO_ANSWER } from "./session.ts";

/** What every handler may use. */
export interface ServeContext {
  readonly fs: Fs;
  readonly cache: KernelCache;
  readonly notifier: Notifier;
  readonly readOnly: boolean;
  /** sync(2) reaches us: the mount is on a block device. */
  readonly syncArrives: boolean;
  /** A page-aligned buffer for the answer's data, see FuseSession. */
  takeData(req: FuseRequest, bytes: number): Uint8Array;
}

export type HandlerTable = (Handler | undefined)[];

export interface ServeOptions {
  fs: Fs;
  reactor: SystemReactor;
  /** The mount's descriptor, nonblocking. */
  fd: number;
  readOnly: boolean;
  /** Mounted on a block device: the kernel sends SYNCFS and DESTROY. */
  blockDevice: boolean;
  log: (line: string) => void;
  /** DESTROY, which umount waits for on block devices: makes everything durable. */
  onDestroy: () => Promise<void>;
  /** No request will come any more. */
  onEnd: (why: string) => void;
  /** The kernel answered the handshake. */
  onInit?: () => void;
}

/** Begins to serve. */
export function serve(options: ServeOptions): FuseSession {
  const { fs, reactor, fd } = options;
  const handlers: HandlerTable = [];
  const notifier = new Notifier(reactor, fd, options.log);
  const context: ServeContext = {
    fs,
    cache: new KernelCache(notifier),
    notifier,
    readOnly: options.readOnly,
    syncArrives: options.blockDevice,
    takeData: (req, bytes) => session.takeData(req, bytes),
  };
  fs.hooks.onInvalidateInodes = (first, last) => invalidate(context, first, last);
  nameHandlers(context, handlers);
  attrHandlers(context, handlers);
  fileHandlers(context, handlers);

  handlers[abi.INIT] = (req) => {
    const length = answerInit(req, fs.options.acl);
    // The kernel knows the root without having looked it up.
    fs.refs.addLookup(abi.ROOT_NODE);
    options.onInit?.();
    return length;
  };
  handlers[abi.FORGET] = (req) => {
    forget(context, req.ino, req.u64(0));
    return NO_ANSWER;
  };
  handlers[abi.BATCH_FORGET] = (req) => {
    const count = req.u32(0);
    for (let i = 0, at = 8; i < count; i++, at += abi.FORGET_ONE) {
      forget(context, req.u64(at), req.u64(at + 8));
    }
    return NO_ANSWER;
  };
  handlers[abi.STATFS] = (req) => statfs(fs).then((s) => abi.putStatfs(req.out.view, 0, s));
  // While a device fails, commits take as long as that lasts; a killed process need not wait for it.
  const synced: Handler = (req) =>
    Promise.race([fs.trans.sync(), req.cancel.promise]).then(() => 0);
  handlers[abi.FSYNC] = synced;
  handlers[abi.FSYNCDIR] = synced;
  handlers[abi.SYNCFS] = synced;
  handlers[abi.DESTROY] = () => options.onDestroy().then(() => 0);
  // Generic code in the kernel does without these (02 §22.4).
  handlers[abi.COPY_FILE_RANGE] = unsupported;
  handlers[abi.COPY_FILE_RANGE_64] = unsupported;
  handlers[abi.FLUSH] = missing;
  handlers[abi.ACCESS] = missing;

  const session: FuseSession = new FuseSession(reactor, fd, {
    handlers,
    log: options.log,
    onEnd: options.onEnd,
    onInterrupt: (req) => interrupt(fs, req),
  });
  return session;
}

const unsupported: Handler = () => {
  throw errnoError(EOPNOTSUPP);
};
const missing: Handler = () => {
  throw errnoError(ENOSYS);
};

function forget(context: ServeContext, ino: number, count: number): void {
  assert(ino > 0, "FORGET of no inode");
  context.fs.refs.forget(ino, count);
  if (!context.fs.refs.isUsed(ino)) context.cache.forget(ino);
}

/** Takes back what the kernel caches of the inodes from `first` to `last`. */
async function invalidate(context: ServeContext, first: number, last: number): Promise<void> {
  const { refs } = context.fs;
  const known: number[] = [];
  for (let ino = first; ino <= last; ino++) if (ino > 0 && refs.isUsed(ino)) known.push(ino);
  await Promise.all(known.map((ino) => context.cache.revoked(ino)));
}

/**
 * A signal came for the caller of a parked request. Data waits end at any signal; other operations
 * only for a caller that is being killed, and only while they gather (design §4.5).
 */
function interrupt(fs: Fs, req: FuseRequest): void {
  if (fs.waiters.interrupt(req.unique)) return;
  if (isBeingKilled(req.pid)) req.cancel.cancel();
}

const SIGKILL_BIT = 1n << 8n;

function isBeingKilled(pid: number): boolean {
  if (pid === 0) return false;
  let status: string;
  try {
    status = Deno.readTextFileSync(`/proc/${pid}/status`);
  } catch {
    return true; // Gone already.
  }
  return [...status.matchAll(/^(?:SigPnd|ShdPnd):\s*([0-9a-f]+)/gm)].some((m) =>
    (BigInt(`0x${m[1]}`) & SIGKILL_BIT) !== 0n
  );
}
