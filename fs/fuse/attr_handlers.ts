/** Requests on attributes, extended attributes, and ioctls. */

import { ENOTTY, ERANGE, EROFS } from "../../format/errno.ts";
import { assert, errnoError } from "../errors.ts";
import { getattr, type Time } from "../ops/attr.ts";
import { ioctl } from "../ops/ioctl.ts";
import { setattrJob, type SetattrRequest } from "../ops/setattr.ts";
import { getXattr, listXattr, removeXattr, setXattr } from "../ops/xattr.ts";
import * as abi from "./abi.ts";
import { run } from "./name_handlers.ts";
import { type FuseRequest, OUT_BYTES } from "./request.ts";
import type { HandlerTable, ServeContext } from "./serve.ts";
import type { Answer } from "./session.ts";

export function attrHandlers(context: ServeContext, table: HandlerTable): void {
  const { fs } = context;

  const attributes = (req: FuseRequest): Answer => {
    const ino = req.ino;
    return run(fs, req, (op) => abi.putAttrOut(req.out.view, 0, ino, getattr(op, fs, ino)));
  };
  table[abi.GETATTR] = attributes;
  table[abi.STATX] = (req) => {
    const ino = req.ino;
    return run(fs, req, (op) => abi.putStatx(req.out.view, 0, ino, getattr(op, fs, ino)));
  };
  table[abi.SETATTR] = (req) => {
    const changes = decodeSetattr(req, fs.clock.realtime());
    const changed = setattrJob(fs, req.ino, changes, req, req.unique);
    return changed instanceof Promise ? changed.then(() => attributes(req)) : attributes(req);
  };

  table[abi.GETXATTR] = (req) => {
    const ino = req.ino, room = req.u32(0), name = req.name(8);
    return run(fs, req, (op) => putSized(req, room, getXattr(op, fs, ino, name)));
  };
  table[abi.LISTXATTR] = (req) => {
    const ino = req.ino, room = req.u32(0);
    return run(fs, req, (op) => putSized(req, room, listXattr(op, fs, ino)));
  };
  table[abi.SETXATTR] = (req) => {
    const ino = req.ino, size = req.u32(0), flags = req.u32(4);
    const killSgid = (req.u32(8) & abi.SETXATTR_ACL_KILL_SGID) !== 0;
    const name = req.name(16);
    const value = req.window(16 + name.length + 1, size).slice();
    return run(fs, req, (op) => {
      setXattr(op, fs, ino, name, value, flags, killSgid);
      return 0;
    });
  };
  table[abi.REMOVEXATTR] = (req) => {
    const ino = req.ino, name = req.name(0);
    return run(fs, req, (op) => {
      removeXattr(op, fs, ino, name);
      return 0;
    });
  };

  table[abi.IOCTL] = (req) => {
    // The handle is the open's flags (file_handlers.ts).
    const openFlags = req.u32(0), flags = req.u32(8), cmd = req.u32(12);
    const inSize = req.u32(24), outSize = req.u32(28);
    if ((flags & abi.IOCTL_COMPAT) !== 0 || outSize > OUT_BYTES - abi.IOCTL_OUT) {
      throw errnoError(ENOTTY);
    }
    const answer = ioctl(fs, {
      ino: req.ino,
      cmd,
      arg: req.big(16),
      input: req.window(abi.IOCTL_IN, inSize).slice(),
      syncArrives: context.syncArrives,
      openFlags,
      caller: req,
      id: req.unique,
      readOnly: context.readOnly,
    });
    const put = (r: { result: number; output: Uint8Array }): number => {
      assert(r.output.length <= outSize, "an ioctl answers more than its command holds");
      const v = req.out.view;
      v.setInt32(0, r.result, true);
      for (let o = 4; o < abi.IOCTL_OUT; o += 4) v.setUint32(o, 0, true);
      req.out.bytes.set(r.output, abi.IOCTL_OUT);
      return abi.IOCTL_OUT + r.output.length;
    };
    return answer instanceof Promise ? answer.then(put) : put(answer);
  };

  if (context.readOnly) {
    for (const opcode of [abi.SETATTR, abi.SETXATTR, abi.REMOVEXATTR]) {
      table[opcode] = () => {
        throw errnoError(EROFS);
      };
    }
  }
}

/** An xattr's value or list: its length alone when the caller has no room yet. */
function putSized(req: FuseRequest, room: number, value: Uint8Array): number {
  if (room === 0) {
    req.out.view.setUint32(0, value.length, true);
    req.out.view.setUint32(4, 0, true);
    return abi.GETXATTR_OUT;
  }
  if (value.length > room) throw errnoError(ERANGE);
  assert(value.length <= OUT_BYTES, "a list of names is larger than any caller may ask for");
  req.out.bytes.set(value);
  return value.length;
}

/** struct fuse_setattr_in; `now` is the time for what asks for the present one. */
function decodeSetattr(req: FuseRequest, now: Time): SetattrRequest {
  const valid = req.u32(0);
  const has = (bit: number) => (valid & bit) !== 0;
  return {
    ...(has(abi.FATTR_SIZE) ? { size: req.u64(16) } : {}),
    ...(has(abi.FATTR_MODE) ? { mode: req.u32(68) } : {}),
    ...(has(abi.FATTR_UID) ? { uid: req.u32(76) } : {}),
    ...(has(abi.FATTR_GID) ? { gid: req.u32(80) } : {}),
    ...(has(abi.FATTR_ATIME) ? { atime: has(abi.FATTR_ATIME_NOW) ? now : req.time(32, 56) } : {}),
    ...(has(abi.FATTR_MTIME) ? { mtime: has(abi.FATTR_MTIME_NOW) ? now : req.time(40, 60) } : {}),
    ...(has(abi.FATTR_CTIME) ? { ctime: req.time(48, 64) } : {}),
    ...(has(abi.FATTR_KILL_SUIDGID) ? { killSuidgid: true } : {}),
  };
}
