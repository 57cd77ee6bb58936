/** Requests on names and directories: decoded, run as operations, answered with entries. */

import { EEXIST, ENOENT, ESTALE } from "../../format/errno.ts";
import type { Inode } from "../../format/items.ts";
import { assert, errnoError, FsError } from "../errors.ts";
import type { Fs } from "../fs.ts";
import type { Op } from "../op.ts";
import { dtOf } from "../ops/entries.ts";
import { create, link, lookup, readlink, rmdir, symlink, tmpfile, unlink } from "../ops/names.ts";
import { readdir } from "../ops/readdir.ts";
import { rename } from "../ops/rename.ts";
import * as abi from "./abi.ts";
import { type FuseRequest, OUT_BYTES } from "./request.ts";
import type { HandlerTable, ServeContext } from "./serve.ts";
import type { Answer } from "./session.ts";

const S_IFDIR = 0o040000;
const S_IFREG = 0o100000;
const O_EXCL = 0o200;

export function nameHandlers(context: ServeContext, table: HandlerTable): void {
  const { fs } = context;

  /** An operation that ends in an entry, whose inode number `make` returns. */
  const entry = (req: FuseRequest, make: (op: Op) => number): Answer =>
    run(fs, req, (op) => {
      const ino = make(op);
      if (ino === 0) return -ENOENT;
      req.undo = () => fs.refs.forget(ino, 1);
      return abi.putEntry(req.out.view, 0, ino, resultOf(op));
    });

  /** An operation with an empty answer. */
  const done = (req: FuseRequest, act: (op: Op) => void): Answer =>
    run(fs, req, (op) => {
      act(op);
      return 0;
    });

  /** A new file that is open at once. */
  const opened = (req: FuseRequest, flags: number, make: (op: Op) => number): Answer =>
    run(fs, req, (op) => {
      const ino = make(op);
      const inode = resultOf(op);
      fs.refs.open(ino);
      req.undo = () => {
        context.cache.released(ino, flags);
        fs.refs.release(ino);
        fs.refs.forget(ino, 1);
      };
      const v = req.out.view;
      const at = abi.putEntry(v, 0, ino, inode);
      return at + abi.putOpen(v, at, flags, context.cache.opened(ino, inode, flags));
    });

  table[abi.LOOKUP] = (req) => {
    const dir = req.ino, name = req.name(0);
    return entry(req, (op) => lookup(op, fs, dir, name));
  };
  table[abi.MKNOD] = (req) => {
    const dir = req.ino, mode = req.u32(0), rdev = abi.decodeRdev(req.u32(4));
    req.umask = req.u32(8);
    const name = req.name(16);
    return entry(req, (op) => create(op, fs, dir, name, mode, rdev));
  };
  table[abi.MKDIR] = (req) => {
    const dir = req.ino, mode = S_IFDIR | (req.u32(0) & 0o7777);
    req.umask = req.u32(4);
    const name = req.name(8);
    return entry(req, (op) => create(op, fs, dir, name, mode));
  };
  table[abi.SYMLINK] = (req) => {
    const dir = req.ino, name = req.name(0), target = req.name(name.length + 1);
    return entry(req, (op) => symlink(op, fs, dir, name, target));
  };
  table[abi.LINK] = (req) => {
    const dir = req.ino, ino = req.u64(0), name = req.name(8);
    return entry(req, (op) => {
      link(op, fs, ino, dir, name);
      return ino;
    });
  };
  table[abi.CREATE] = (req) => {
    const dir = req.ino, flags = req.u32(0), mode = S_IFREG | (req.u32(4) & 0o7777);
    req.umask = req.u32(8);
    const name = req.name(16);
    return opened(req, flags, (op) => {
      try {
        return create(op, fs, dir, name, mode);
      } catch (e) {
        // Somebody was faster: the kernel looks again and opens what is there.
        if (e instanceof FsError && e.errno === EEXIST && (flags & O_EXCL) === 0) {
          throw errnoError(ESTALE);
        }
        throw e;
      }
    });
  };
  table[abi.TMPFILE] = (req) => {
    const dir = req.ino, flags = req.u32(0), mode = S_IFREG | (req.u32(4) & 0o7777);
    req.umask = req.u32(8);
    return opened(req, flags, (op) => tmpfile(op, fs, dir, mode));
  };
  table[abi.UNLINK] = (req) => {
    const dir = req.ino, name = req.name(0);
    return done(req, (op) => unlink(op, fs, dir, name));
  };
  table[abi.RMDIR] = (req) => {
    const dir = req.ino, name = req.name(0);
    return done(req, (op) => rmdir(op, fs, dir, name));
  };
  const renamed = (req: FuseRequest, flags: number, names: number): Answer => {
    const dir = req.ino, newDir = req.u64(0);
    const name = req.name(names), newName = req.name(names + name.length + 1);
    return done(req, (op) => rename(op, fs, dir, name, newDir, newName, flags));
  };
  table[abi.RENAME] = (req) => renamed(req, 0, 8);
  table[abi.RENAME2] = (req) => renamed(req, req.u32(8), 16);
  table[abi.READLINK] = (req) => {
    const ino = req.ino;
    return run(fs, req, (op) => {
      const target = readlink(op, fs, ino);
      req.out.bytes.set(target);
      return target.length;
    });
  };

  table[abi.OPENDIR] = (req) => {
    const flags = req.u32(0);
    fs.refs.open(req.ino);
    const ino = req.ino;
    req.undo = () => fs.refs.release(ino);
    return abi.putOpen(req.out.view, 0, flags, 0);
  };
  table[abi.RELEASEDIR] = (req) => {
    fs.refs.release(req.ino);
    return 0;
  };
  table[abi.READDIR] = (req) => {
    const dir = req.ino, from = req.position(8), room = Math.min(req.u32(16), OUT_BYTES);
    const { view, bytes } = req.out;
    return run(fs, req, (op) => {
      let at = 0, previous = -1;
      readdir(op, fs, dir, from, (ino, pos, type, names, off, length) => {
        // An entry's cookie is the position of the next one that there is (06 NS-4).
        if (previous >= 0) abi.setDirentNext(view, previous, pos);
        if (at + abi.align8(abi.DIRENT + length) > room) return false;
        previous = at;
        at += abi.putDirent(view, bytes, at, ino, pos + 1, dtOf(type), names, off, length);
        return true;
      });
      return at;
    });
  };
}

/** Runs the operation of a request for its caller; it can be cancelled. */
export function run<T>(fs: Fs, req: FuseRequest, act: (op: Op) => T): T | Promise<T> {
  return fs.runner.run(act, req, req.cancel);
}

/** The inode that an operation has just found, made or changed, good until it ends. */
function resultOf(op: Op): Inode {
  assert(op.result !== null, "an operation leaves the inode that it answers with");
  return op.result.inode;
}
