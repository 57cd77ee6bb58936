/**
 * A workload for mounts of damaged volumes: every kind of operation that the kernel can ask for, on
 * what the volume held before it was damaged, in an order that a seed chooses. Whatever an operation
 * meets, it ends with a result or an errno; anything else that is thrown is a failure of the mount.
 */

import {
  IOC_ALLOC_DETAIL,
  IOC_GET_ALLOCATED_INOS,
  IOC_GET_ATTR_X,
  IOC_GET_REFERRING_ENTRIES,
  IOC_IAX_ALL,
  IOC_INO_PATH,
  IOC_LISTXATTR_HIDDEN,
  IOC_STAT_MORE,
  IOC_STATFS_MORE,
  IOC_WALK_INODES,
  IocAllocDetail,
  IocGetAllocatedInos,
  IocGetReferringEntries,
  IocInodeAttrX,
  IocInoPath,
  IocListxattrHidden,
  IocWalkInodes,
} from "../../format/ioctl.ts";
import { ROOT_CALLER } from "../../fs/caller.ts";
import { FsError } from "../../fs/errors.ts";
import type { Fs } from "../../fs/fs.ts";
import * as abi from "../../fs/fuse/abi.ts";
import { getattr } from "../../fs/ops/attr.ts";
import { read, write } from "../../fs/ops/data.ts";
import { fallocate } from "../../fs/ops/fallocate.ts";
import { ioctl } from "../../fs/ops/ioctl.ts";
import { IOC_PRIVATE_FIEMAP, PrivateFiemap } from "../../fs/ops/ioctl_volume.ts";
import {
  create,
  link,
  lookup,
  readlink,
  rmdir,
  symlink,
  tmpfile,
  unlink,
} from "../../fs/ops/names.ts";
import { readdir } from "../../fs/ops/readdir.ts";
import { rename } from "../../fs/ops/rename.ts";
import { lseek, SEEK_DATA, SEEK_HOLE } from "../../fs/ops/seek.ts";
import { setattrJob } from "../../fs/ops/setattr.ts";
import { statfs } from "../../fs/ops/statfs.ts";
import { getXattr, listXattr, removeXattr, setXattr } from "../../fs/ops/xattr.ts";
import { ReadParts } from "../../fs/read_parts.ts";
import type { Op } from "../../fs/op.ts";
import type { LocalFs } from "../helpers/local_fs.ts";
import { settle } from "../helpers/local_cluster.ts";
import type { SeededRandom } from "../helpers/sim_reactor.ts";

/** What a volume holds: paths are not needed, only what operations name. */
export interface Population {
  readonly inos: readonly number[];
  readonly entries: readonly { readonly dir: number; readonly name: Uint8Array }[];
  readonly xattrs: readonly { readonly ino: number; readonly name: Uint8Array }[];
}

/** An operation neither ended nor let itself be interrupted. */
export class Hangs extends Error {}

const NAMES = ["a new one", "file1", "sub", "another", "hard"];
const ATTRIBUTES = [
  ["user.a", "small"],
  ["user.big", "y".repeat(5000)],
  ["scoutfs.srch.tag1", "x"],
  ["scoutfs.totl.size.1.2.1", "17"],
  ["scoutfs.indx.sort.3.77", ""],
  ["system.posix_acl_default", ""],
  ["security.capability", "c"],
] as const;
const MODES = [0o100644, 0o40755, 0o100600, 0o010644, 0o020600] as const;
/** Steps of virtual time that an operation may take before somebody kills its caller. */
const PATIENCE = 8;
const STEP_MS = 1000;

const bytes = (s: string): Uint8Array => new TextEncoder().encode(s);

/** One mount at work. */
export class Work {
  readonly #bytes = new Uint8Array(4096);
  readonly #view = new DataView(this.#bytes.buffer);
  readonly #made: number[] = [];
  #nextId = 1;
  /** Operations by their outcome: 0, or an errno. */
  readonly outcomes = new Map<number, number>();

  constructor(
    private readonly m: LocalFs,
    private readonly random: SeededRandom,
    private readonly before: Population,
    /** Inodes that the damage is about: half of what is done is done to them. */
    private readonly damaged: readonly number[],
  ) {}

  /** Runs `count` operations; stops early when the mount has ended. */
  async run(count: number): Promise<void> {
    for (let i = 0; i < count && this.m.fs.trans.state !== "dead"; i++) await this.#one();
  }

  async #one(): Promise<void> {
    const { fs } = this.m;
    const id = this.#nextId++;
    let errno = 0;
    try {
      const what = OPERATIONS[this.random.below(OPERATIONS.length)]!;
      await this.finished(what(this, fs, id), id);
    } catch (e) {
      if (!(e instanceof FsError)) throw e;
      errno = e.errno;
    }
    this.outcomes.set(errno, (this.outcomes.get(errno) ?? 0) + 1);
  }

  /** Waits for `result`, letting time pass; what waits for offline data is interrupted. */
  async finished<T>(result: T | Promise<T>, id = 0): Promise<T> {
    if (!(result instanceof Promise)) return result;
    let over = false;
    const end = () => void (over = true);
    result.then(end, end);
    const { timers } = this.m.cluster;
    for (let i = 0; !over && i < PATIENCE; i++) {
      await settle();
      if (over) break;
      this.m.fs.waiters.interrupt(id);
      await timers.advance(STEP_MS);
    }
    await settle();
    if (!over) throw new Hangs("an operation does not end");
    return await result;
  }

  run1<T>(fn: (op: Op) => T): T | Promise<T> {
    return this.m.fs.runner.run(fn, ROOT_CALLER);
  }

  ino(): number {
    const { random, damaged, before } = this;
    if (damaged.length > 0 && random.oneIn(2)) return damaged[random.below(damaged.length)]!;
    if (this.#made.length > 0 && random.oneIn(4)) {
      return this.#made[random.below(this.#made.length)]!;
    }
    return before.inos[random.below(before.inos.length)] ?? 1;
  }

  /** A place: mostly one where something is, or was. */
  entry(): { dir: number; name: Uint8Array } {
    const { random, before } = this;
    const known = before.entries;
    if (known.length > 0 && !random.oneIn(4)) {
      const near = known.filter((e) => this.damaged.includes(e.dir));
      const from = near.length > 0 && random.oneIn(2) ? near : known;
      return from[random.below(from.length)]!;
    }
    return { dir: this.ino(), name: this.newName() };
  }

  newName(): Uint8Array {
    return bytes(NAMES[this.random.below(NAMES.length)]! + this.random.below(5));
  }

  attribute(): { ino: number; name: Uint8Array; value: Uint8Array } {
    const { random, before } = this;
    const [name, value] = ATTRIBUTES[random.below(ATTRIBUTES.length)]!;
    if (before.xattrs.length > 0 && random.oneIn(2)) {
      const known = before.xattrs[random.below(before.xattrs.length)]!;
      return { ...known, value: bytes(value) };
    }
    return { ino: this.ino(), name: bytes(name), value: bytes(value) };
  }

  below(n: number): number {
    return this.random.below(n);
  }

  /** An offset in a file: near its start mostly, sometimes far away. */
  offset(): number {
    const { random } = this;
    return random.oneIn(10) ? random.below(1 << 30) * 4096 : random.below(200_000);
  }

  /** The inode that an operation answers with, encoded as for the kernel. */
  answer(op: Op, ino: number): number {
    if (ino === 0 || op.result === null) return 0;
    abi.putEntry(this.#view, 0, ino, op.result.inode);
    this.#made.push(ino);
    if (this.random.oneIn(3)) queueMicrotask(() => this.m.fs.refs.forget(ino, 1));
    return ino;
  }

  attributes(op: Op, ino: number): void {
    const inode = getattr(op, this.m.fs, ino);
    abi.putAttrOut(this.#view, 0, ino, inode);
    abi.putStatx(this.#view, 0, ino, inode);
  }

  readdir(op: Op, dir: number, from: number): void {
    let left = 200;
    readdir(op, this.m.fs, dir, from, (ino, pos, type, names, off, length) => {
      abi.putDirent(this.#view, this.#bytes, 0, ino, pos + 1, type, names, off, length);
      return --left > 0;
    });
  }

  ioctl(cmd: number, input: Uint8Array, id: number): unknown {
    return ioctl(this.m.fs, {
      ino: this.ino(),
      cmd,
      arg: 0n,
      input,
      openFlags: 2,
      readOnly: false,
      syncArrives: true,
      caller: ROOT_CALLER,
      id,
    });
  }
}

type Operation = (w: Work, fs: Fs, id: number) => unknown;

const DATA = new Uint8Array(70_000).fill(0x77);

function putData(w: Work, fs: Fs, id: number): number | Promise<number> {
  const length = w.below(4) === 0 ? 1 + w.below(DATA.length) : 1 + w.below(9000);
  return write(fs, {
    ino: w.ino(),
    offset: w.offset(),
    data: DATA.subarray(0, length),
    append: w.below(4) === 0,
    direct: w.below(4) === 0,
    sync: w.below(8) === 0,
    killSuidgid: w.below(4) === 0,
    pageWrite: false,
    caller: ROOT_CALLER,
    id,
  });
}

function getData(w: Work, fs: Fs, id: number): number | Promise<number> {
  const length = 1 + w.below(100_000);
  const rq = { ino: w.ino(), offset: w.offset(), length, caller: ROOT_CALLER, id };
  return read(fs, rq, new ReadParts(), () => new Uint8Array(length));
}

function change(w: Work, fs: Fs, id: number): void | Promise<void> {
  const time = { sec: w.below(2) === 0 ? -5 : 1e9, nsec: 3 };
  const some = [
    { size: w.below(3) === 0 ? 0 : w.offset() },
    { size: w.below(40_000) },
    { mode: 0o600 },
    { uid: 5, gid: 6, killSuidgid: true },
    { atime: time, mtime: time, ctime: time },
  ];
  return setattrJob(fs, w.ino(), some[w.below(some.length)]!, ROOT_CALLER, id);
}

/** All of them; those that change names come more than once. */
const OPERATIONS: readonly Operation[] = [
  (w, fs) => {
    const { dir, name } = w.entry();
    return w.run1((op) => w.answer(op, lookup(op, fs, dir, name)));
  },
  (w, fs) => {
    const dir = w.ino();
    return w.run1((op) => w.answer(op, lookup(op, fs, dir, bytes(".."))));
  },
  (w) => {
    const ino = w.ino();
    return w.run1((op) => w.attributes(op, ino));
  },
  (w) => {
    const dir = w.ino(), from = w.below(3);
    return w.run1((op) => w.readdir(op, dir, from));
  },
  (w, fs) => {
    const ino = w.ino();
    return w.run1((op) => readlink(op, fs, ino));
  },
  getData,
  getData,
  putData,
  putData,
  change,
  change,
  ...Array<Operation>(3).fill((w, fs) => {
    const { dir, name } = w.entry(), mode = MODES[w.below(MODES.length)]!;
    return w.run1((op) => w.answer(op, create(op, fs, dir, name, mode)));
  }),
  (w, fs) => {
    const dir = w.ino(), name = w.newName();
    return w.run1((op) => w.answer(op, create(op, fs, dir, name, 0o100644)));
  },
  (w, fs) => {
    const dir = w.ino(), name = w.newName();
    return w.run1((op) => w.answer(op, symlink(op, fs, dir, name, DATA.subarray(0, 1500))));
  },
  (w, fs) => {
    const dir = w.ino();
    return w.run1((op) => w.answer(op, tmpfile(op, fs, dir, 0o100600)));
  },
  (w, fs) => {
    const ino = w.ino(), dir = w.ino(), name = w.newName();
    return w.run1((op) => {
      link(op, fs, ino, dir, name);
      w.answer(op, ino);
    });
  },
  ...Array<Operation>(3).fill((w, fs) => {
    const { dir, name } = w.entry();
    return w.run1((op) => unlink(op, fs, dir, name));
  }),
  (w, fs) => {
    const { dir, name } = w.entry();
    return w.run1((op) => rmdir(op, fs, dir, name));
  },
  ...Array<Operation>(2).fill((w, fs) => {
    const from = w.entry(), to = w.entry(), flags = w.below(5) === 0 ? 1 : 0;
    return w.run1((op) => rename(op, fs, from.dir, from.name, to.dir, to.name, flags));
  }),
  (w, fs) => {
    const { ino, name, value } = w.attribute();
    return w.run1((op) => setXattr(op, fs, ino, name, value, 0));
  },
  (w, fs) => {
    const { ino, name } = w.attribute();
    return w.run1((op) => getXattr(op, fs, ino, name));
  },
  (w, fs) => {
    const { ino, name } = w.attribute();
    return w.run1((op) => removeXattr(op, fs, ino, name));
  },
  (w, fs) => {
    const ino = w.ino();
    return w.run1((op) => listXattr(op, fs, ino));
  },
  (w, fs) =>
    fallocate(fs, {
      ino: w.ino(),
      mode: w.below(2),
      offset: w.offset(),
      length: 1 + w.below(100_000),
      caller: ROOT_CALLER,
    }),
  (w, fs) => {
    const ino = w.ino(), whence = w.below(2) === 0 ? SEEK_DATA : SEEK_HOLE, from = w.below(9000);
    return w.run1((op) => lseek(op, fs, ino, from, whence));
  },
  (w, fs) => {
    const ino = w.ino();
    fs.refs.open(ino);
    fs.refs.release(ino);
  },
  (_, fs) => fs.trans.sync(),
  (_, fs) => fs.orphans.scan(),
  (_, fs) => fs.orphans.drain(),
  (_, fs) => statfs(fs),
  (w, _, id) => w.ioctl(IOC_STAT_MORE, new Uint8Array(0), id),
  (w, _, id) => w.ioctl(IOC_STATFS_MORE, new Uint8Array(0), id),
  (w, _, id) => {
    const arg = IocInodeAttrX.alloc();
    arg.xMask = BigInt(w.below(IOC_IAX_ALL + 1));
    return w.ioctl(IOC_GET_ATTR_X, arg.bytes, id);
  },
  (w, _, id) => {
    const arg = IocListxattrHidden.alloc();
    arg.bufBytes = 4096;
    return w.ioctl(IOC_LISTXATTR_HIDDEN, arg.bytes, id);
  },
  (w, _, id) => {
    const arg = IocAllocDetail.alloc();
    arg.entriesNr = 1000n;
    return w.ioctl(IOC_ALLOC_DETAIL, arg.bytes, id);
  },
  (w, _, id) => {
    const arg = IocGetAllocatedInos.alloc();
    arg.startIno = BigInt(w.ino());
    arg.inosBytes = 8192n;
    return w.ioctl(IOC_GET_ALLOCATED_INOS, arg.bytes, id);
  },
  (w, _, id) => {
    const arg = IocGetReferringEntries.alloc();
    arg.ino = BigInt(w.ino());
    arg.entriesBytes = 65536n;
    return w.ioctl(IOC_GET_REFERRING_ENTRIES, arg.bytes, id);
  },
  (w, _, id) => {
    const arg = IocInoPath.alloc();
    arg.ino = BigInt(w.ino());
    arg.resultBytes = 4096;
    return w.ioctl(IOC_INO_PATH, arg.bytes, id);
  },
  (w, _, id) => {
    const arg = IocWalkInodes.alloc();
    arg.index = w.below(2);
    arg.last.major = 0xffff_ffff_ffff_ffffn;
    arg.last.ino = 0xffff_ffff_ffff_ffffn;
    arg.nrEntries = 1000;
    return w.ioctl(IOC_WALK_INODES, arg.bytes, id);
  },
  (w, _, id) => {
    const arg = PrivateFiemap.alloc();
    arg.length = 1n << 40n;
    arg.nr = 100n;
    return w.ioctl(IOC_PRIVATE_FIEMAP, arg.bytes, id);
  },
];
