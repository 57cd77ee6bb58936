/**
 * Requests on open files: open, data, allocation. A file handle is the open's flags: all that an
 * open means besides is counted per inode.
 */

import { getattr } from "../ops/attr.ts";
import { read, write } from "../ops/data.ts";
import { fallocate } from "../ops/fallocate.ts";
import { lseek } from "../ops/seek.ts";
import { setattrJob } from "../ops/setattr.ts";
import { setU64 } from "../../format/bytes.ts";
import * as abi from "./abi.ts";
import { run } from "./name_handlers.ts";
import type { FuseRequest } from "./request.ts";
import type { HandlerTable, ServeContext } from "./serve.ts";
import type { Answer } from "./session.ts";

const O_TRUNC = 0o1000;
const O_APPEND = 0o2000;
const O_DSYNC = 0o10000;
const O_DIRECT = Deno.build.arch === "aarch64" ? 0o200000 : 0o40000;

export function fileHandlers(context: ServeContext, table: HandlerTable): void {
  const { fs } = context;

  const open = (req: FuseRequest, flags: number): Answer => {
    const ino = req.ino;
    return run(fs, req, (op) => {
      const inode = getattr(op, fs, ino);
      op.apply();
      fs.refs.open(ino);
      req.undo = () => {
        context.cache.released(ino, flags);
        fs.refs.release(ino);
      };
      return abi.putOpen(req.out.view, 0, flags, context.cache.opened(ino, inode, flags));
    });
  };
  table[abi.OPEN] = (req) => {
    const flags = req.u32(0);
    // The kernel has checked that the caller may write, also with O_RDONLY.
    if ((flags & O_TRUNC) === 0) return open(req, flags);
    const killSuidgid = (req.u32(4) & abi.OPEN_KILL_SUIDGID) !== 0;
    const cut = setattrJob(fs, req.ino, { size: 0, killSuidgid }, req, req.unique);
    return cut instanceof Promise ? cut.then(() => open(req, flags)) : open(req, flags);
  };
  table[abi.RELEASE] = (req) => {
    context.cache.released(req.ino, req.u32(8));
    fs.refs.release(req.ino);
    return 0;
  };

  table[abi.READ] = (req) => {
    const length = Math.min(req.u32(16), abi.MAX_IO);
    const done = read(
      fs,
      {
        ino: req.ino,
        offset: req.position(8),
        length,
        caller: req,
        id: req.unique,
        cancel: req.cancel,
      },
      req.parts,
      () => context.takeData(req, length),
    );
    return done instanceof Promise ? done.then(() => 0) : 0;
  };
  table[abi.WRITE] = (req) => {
    const writeFlags = req.u32(20), openFlags = req.u32(32), ino = req.ino;
    const pageWrite = (writeFlags & abi.WRITE_CACHE) !== 0;
    const written = write(fs, {
      ino,
      offset: req.u64(8),
      data: req.window(abi.WRITE_IN, req.u32(16)),
      aligned: true,
      append: !pageWrite && (openFlags & O_APPEND) !== 0,
      direct: (openFlags & O_DIRECT) !== 0,
      sync: !pageWrite && (openFlags & O_DSYNC) !== 0,
      killSuidgid: (writeFlags & abi.WRITE_KILL_SUIDGID) !== 0,
      pageWrite,
      caller: req,
      id: req.unique,
      cancel: req.cancel,
    });
    const put = (n: number): number => {
      // The kernel counts its own times for stores to mappings.
      if (pageWrite) context.notifier.invalidateAttributes(ino);
      req.out.view.setUint32(0, n, true);
      req.out.view.setUint32(4, 0, true);
      return abi.WRITE_OUT;
    };
    return written instanceof Promise ? written.then(put) : put(written);
  };

  table[abi.FALLOCATE] = (req) => {
    const done = fallocate(fs, {
      ino: req.ino,
      offset: req.u64(8),
      length: req.u64(16),
      mode: req.u32(24),
      caller: req,
    });
    const ino = req.ino;
    const put = (): number => {
      context.notifier.invalidateAttributes(ino);
      return 0;
    };
    return done instanceof Promise ? done.then(put) : put();
  };
  table[abi.LSEEK] = (req) => {
    const ino = req.ino, offset = req.position(8), whence = req.u32(16);
    return run(fs, req, (op) => {
      setU64(req.out.view, 0, lseek(op, fs, ino, offset, whence));
      return abi.LSEEK_OUT;
    });
  };
}
