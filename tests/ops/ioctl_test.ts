// The private ioctls (05 §9) on a mount in memory, the caller's memory being a plain buffer.

import assert from "node:assert/strict";
import {
  EFAULT,
  EINVAL,
  ENAMETOOLONG,
  ENOENT,
  ENOTTY,
  EOVERFLOW,
  EPERM,
} from "../../format/errno.ts";
import {
  IOC_ALLOC_DETAIL,
  IOC_DATA_WAITING,
  IOC_GET_ALLOCATED_INOS,
  IOC_GET_ATTR_X,
  IOC_GET_REFERRING_ENTRIES,
  IOC_IAX_CRTIME,
  IOC_IAX_PROJECT_ID,
  IOC_IAX_SIZE,
  IOC_INO_PATH,
  IOC_LISTXATTR_HIDDEN,
  IOC_RELEASE,
  IOC_STAT_MORE,
  IOC_STATFS_MORE,
  IOC_WALK_INODES,
  IocAllocDetail,
  IocAllocDetailEntry,
  IocDataWaiting,
  IocDataWaitingEntry,
  IocGetAllocatedInos,
  IocGetReferringEntries,
  IocInodeAttrX,
  IocInoPath,
  IocInoPathResult,
  IocListxattrHidden,
  IocStatfsMore,
  IocStatMore,
  IocWalkInodes,
  IocWalkInodesEntry,
} from "../../format/ioctl.ts";
import type { Caller } from "../../fs/caller.ts";
import type { CallerMemory } from "../../fs/caller_memory.ts";
import { errnoError, errnoOf } from "../../fs/errors.ts";
import { create, link } from "../../fs/ops/names.ts";
import { ioctl, type IoctlReply, type IoctlRequest } from "../../fs/ops/ioctl.ts";
import { IOC_PRIVATE_FIEMAP, PrivateFiemap } from "../../fs/ops/ioctl_volume.ts";
import { statfs } from "../../fs/ops/statfs.ts";
import { write } from "../../fs/ops/data.ts";
import { setXattr } from "../../fs/ops/xattr.ts";
import { type LocalFs, newLocalFs } from "../helpers/local_fs.ts";

const root: Caller = { uid: 0, gid: 0, pid: 77, umask: 0o022 };
const user: Caller = { uid: 1000, gid: 1000, pid: 77, umask: 0o022 };
const S_IFDIR = 0o040000;
const S_IFREG = 0o100000;
const text = (s: string) => new TextEncoder().encode(s);

/** 64 KiB of a process, at address 0x10000. */
class FakeMemory implements CallerMemory {
  static readonly BASE = 0x10000n;
  readonly bytes = new Uint8Array(65536);
  #window(addr: bigint, length: number): Uint8Array {
    const at = Number(addr - FakeMemory.BASE);
    if (length > 0 && (at < 0 || at + length > this.bytes.length)) throw errnoError(EFAULT);
    return this.bytes.subarray(at, at + length);
  }
  read(_pid: number, addr: bigint, buf: Uint8Array): void {
    buf.set(this.#window(addr, buf.length));
  }
  write(_pid: number, addr: bigint, buf: Uint8Array): void {
    this.#window(addr, buf.length).set(buf);
  }
}

interface Bench {
  m: LocalFs;
  memory: FakeMemory;
  call(cmd: number, input: Uint8Array, how?: Partial<IoctlRequest>): Promise<IoctlReply>;
}

async function bench(fmtVers = 2): Promise<Bench> {
  const m = await newLocalFs({ fmtVers });
  const memory = new FakeMemory();
  m.fs.callerMemory = memory;
  return {
    m,
    memory,
    call: async (cmd, input, how = {}) =>
      await ioctl(m.fs, {
        ino: 1,
        cmd,
        arg: FakeMemory.BASE + 60000n,
        input,
        openFlags: 0,
        readOnly: false,
        syncArrives: false,
        caller: root,
        id: 1,
        ...how,
      }),
  };
}

async function make(m: LocalFs, dir: number, name: string, mode: number): Promise<number> {
  return await m.run((op, fs) => create(op, fs, dir, text(name), mode, 0), root);
}

async function put(m: LocalFs, ino: number, offset: number, bytes: number): Promise<void> {
  await write(m.fs, {
    ino,
    offset,
    data: new Uint8Array(bytes).fill(1),
    append: false,
    direct: false,
    sync: false,
    killSuidgid: false,
    pageWrite: false,
    caller: root,
    id: 9,
  });
}

const fails = async (p: Promise<unknown>, errno: number) => {
  await assert.rejects(p, (e) => errnoOf(e) === errno);
};

async function walk(b: Bench, index: number, from: bigint, to: bigint, nr = 100) {
  const arg = IocWalkInodes.alloc();
  arg.first.major = from;
  arg.last.major = to;
  arg.last.ino = 2n ** 64n - 1n;
  arg.last.minor = 0xffffffff;
  arg.entriesPtr = FakeMemory.BASE;
  arg.nrEntries = nr;
  arg.index = index;
  const { result } = await b.call(IOC_WALK_INODES, arg.bytes);
  return Array.from({ length: result }, (_, i) => {
    const e = IocWalkInodesEntry.at(b.memory.bytes, i * IocWalkInodesEntry.SIZE);
    return { seq: Number(e.major), ino: Number(e.ino) };
  });
}

const MAX = 2n ** 64n - 1n;

Deno.test("WALK_INODES: commits what applications did, orders by change, moves what changes again", async () => {
  const b = await bench();
  const one = await make(b.m, 1, "one", S_IFREG | 0o644);
  const two = await make(b.m, 1, "two", S_IFREG | 0o644);
  const first = await walk(b, 0, 0n, MAX);
  assert.deepEqual(first.map((e) => e.ino), [1, one, two].sort((x, y) => x - y));
  assert.deepEqual((await walk(b, 1, 0n, MAX)).map((e) => e.ino), [one, two]);
  await b.m.fs.trans.commit();
  await put(b.m, one, 0, 10);
  const seq = first.at(-1)!.seq;
  const second = await walk(b, 0, BigInt(seq + 1), MAX);
  assert.deepEqual(second.map((e) => e.ino), [one]);
  assert.ok(second[0]!.seq > seq);
  const all = await walk(b, 0, 0n, MAX);
  assert.deepEqual(all.map((e) => e.ino), [1, two, one]);
  assert.equal((await walk(b, 0, 5n, 4n)).length, 0);
  assert.equal((await walk(b, 0, 0n, MAX, 0)).length, 0);
  assert.equal((await walk(b, 0, 0n, MAX, 2)).length, 2);
  await fails(walk(b, 2, 0n, MAX), EINVAL);
  await b.m.unmount();
});

Deno.test("WALK_INODES crosses lock groups of sequence numbers", async () => {
  const b = await bench();
  const inos: number[] = [];
  for (let i = 0; i < 6; i++) {
    inos.push(await make(b.m, 1, `f${i}`, S_IFREG | 0o644));
    await b.m.fs.trans.commit();
    // As if other mounts had used many numbers meanwhile.
    for (let k = 0; k < 700; k++) b.m.cluster.store.counterNext();
    await b.m.fs.trans.commit();
  }
  const seen: number[] = [];
  let from = 0n;
  for (;;) {
    const [entry] = await walk(b, 1, from, MAX, 1);
    if (entry === undefined) break;
    seen.push(entry.ino);
    from = BigInt(entry.seq) + 1n;
  }
  assert.deepEqual(seen, inos);
  assert.deepEqual((await walk(b, 1, 0n, MAX)).map((e) => e.ino), inos);
  await b.m.unmount();
});

Deno.test("STAT_MORE and GET_ATTR_X", async () => {
  const b = await bench();
  const ino = await make(b.m, 1, "f", S_IFREG | 0o644);
  await put(b.m, ino, 0, 5000);
  const st = IocStatMore.at((await b.call(IOC_STAT_MORE, new Uint8Array(0), { ino })).output);
  assert.deepEqual([st.dataVersion, st.onlineBlocks, st.offlineBlocks], [1n, 2, 0]);
  assert.equal(st.metaSeq, b.m.fs.trans.seq);

  const arg = IocInodeAttrX.alloc();
  arg.xMask = BigInt(IOC_IAX_SIZE | IOC_IAX_CRTIME);
  b.memory.bytes.fill(0xaa);
  await b.call(IOC_GET_ATTR_X, arg.bytes, { ino });
  const at = 60000;
  const out = IocInodeAttrX.at(b.memory.bytes, at);
  assert.equal(out.size, 5000n);
  assert.equal(out.crtimeNsec, st.crtimeNsec);
  assert.equal(out.dataVersion, 0n, "what was not asked for is zero");
  assert.equal(b.memory.bytes[at + 88], 0xaa, "nothing behind the last field is touched");
  arg.xMask = 0n;
  assert.equal((await b.call(IOC_GET_ATTR_X, arg.bytes, { ino })).result, 0);
  arg.xMask = 1n << 20n;
  await fails(b.call(IOC_GET_ATTR_X, arg.bytes, { ino }), EINVAL);
  await fails(b.call(IOC_GET_ATTR_X, arg.bytes.subarray(0, 50), { ino }), EFAULT);
  await b.m.unmount();

  const old = await bench(1);
  arg.xMask = BigInt(IOC_IAX_PROJECT_ID);
  await fails(old.call(IOC_GET_ATTR_X, arg.bytes), 95);
  await old.m.unmount();
});

Deno.test("INO_PATH and GET_REFERRING_ENTRIES: every link, relative paths, capabilities", async () => {
  const b = await bench();
  const dir = await make(b.m, 1, "dir", S_IFDIR | 0o755);
  const ino = await make(b.m, dir, "name", S_IFREG | 0o644);
  await b.m.run((op, fs) => link(op, fs, ino, 1, text("other")), root);
  const arg = IocInoPath.alloc();
  arg.ino = BigInt(ino);
  arg.resultPtr = FakeMemory.BASE;
  arg.resultBytes = 4096;
  const paths: string[] = [];
  for (;;) {
    try {
      await b.call(IOC_INO_PATH, arg.bytes);
    } catch (e) {
      assert.equal(errnoOf(e), ENOENT);
      break;
    }
    const result = IocInoPathResult.at(b.memory.bytes);
    const bytes = b.memory.bytes.subarray(24, 24 + result.pathBytes);
    assert.equal(bytes.at(-1), 0);
    paths.push(new TextDecoder().decode(bytes.subarray(0, -1)));
    arg.dirIno = BigInt(result.dirIno);
    arg.dirPos = BigInt(result.dirPos) + 1n;
  }
  assert.deepEqual(paths, ["other", "dir/name"]);
  arg.dirIno = arg.dirPos = 0n;
  arg.resultBytes = 24 + 5;
  await fails(b.call(IOC_INO_PATH, arg.bytes), ENAMETOOLONG);
  await fails(b.call(IOC_INO_PATH, arg.bytes, { caller: user }), EPERM);
  arg.ino = 1n;
  await fails(b.call(IOC_INO_PATH, arg.bytes), ENOENT);

  const refs = IocGetReferringEntries.alloc();
  refs.ino = BigInt(ino);
  refs.entriesPtr = FakeMemory.BASE;
  refs.entriesBytes = 4096n;
  assert.equal((await b.call(IOC_GET_REFERRING_ENTRIES, refs.bytes)).result, 2);
  const v = new DataView(b.memory.bytes.buffer);
  assert.deepEqual(
    [
      v.getBigUint64(0, true),
      v.getUint16(24, true),
      v.getUint8(26),
      v.getUint8(27),
      v.getUint8(28),
    ],
    [1n, 48, 0, 8, 5],
  );
  assert.deepEqual([v.getBigUint64(48, true), v.getUint8(48 + 26)], [BigInt(dir), 1]);
  refs.entriesBytes = 48n;
  assert.equal((await b.call(IOC_GET_REFERRING_ENTRIES, refs.bytes)).result, 1);
  assert.equal(v.getUint8(26), 0, "the last one is not among these");
  refs.entriesBytes = 47n;
  await fails(b.call(IOC_GET_REFERRING_ENTRIES, refs.bytes), EINVAL);
  refs.ino = 999_999n;
  assert.equal((await b.call(IOC_GET_REFERRING_ENTRIES, refs.bytes)).result, 0);
  await b.m.unmount();
});

Deno.test("GET_ALLOCATED_INOS: one group, in order", async () => {
  const b = await bench();
  const inos: number[] = [];
  for (let i = 0; i < 5; i++) inos.push(await make(b.m, 1, `f${i}`, S_IFREG | 0o644));
  const arg = IocGetAllocatedInos.alloc();
  arg.startIno = BigInt(inos[1]!);
  arg.inosPtr = FakeMemory.BASE;
  arg.inosBytes = 800n;
  assert.equal((await b.call(IOC_GET_ALLOCATED_INOS, arg.bytes)).result, 4);
  const found = new BigUint64Array(b.memory.bytes.buffer, 0, 4);
  assert.deepEqual([...found].map(Number), inos.slice(1));
  await fails(b.call(IOC_GET_ALLOCATED_INOS, arg.bytes, { openFlags: 1 }), 9);
  await fails(b.call(IOC_GET_ALLOCATED_INOS, arg.bytes, { caller: user }), EPERM);
  arg.inosBytes = 7n;
  await fails(b.call(IOC_GET_ALLOCATED_INOS, arg.bytes), EINVAL);
  await b.m.unmount();
});

Deno.test("LISTXATTR_HIDDEN: hidden names only, in chunks", async () => {
  const b = await bench();
  const ino = await make(b.m, 1, "f", S_IFREG | 0o600);
  const names = ["scoutfs.hide.alpha", "scoutfs.hide.beta", "user.shown", "scoutfs.hide.gamma"];
  for (const n of names) {
    await b.m.run((op, fs) => setXattr(op, fs, ino, text(n), text("v"), 0), root);
  }
  const arg = IocListxattrHidden.alloc();
  arg.bufPtr = FakeMemory.BASE;
  arg.bufBytes = 25;
  const found: string[] = [];
  for (;;) {
    const { result, output } = await b.call(IOC_LISTXATTR_HIDDEN, arg.bytes, { ino });
    if (result === 0) break;
    const list = new TextDecoder().decode(b.memory.bytes.subarray(0, result));
    found.push(...list.split("\0").slice(0, -1));
    arg.bytes.set(output);
  }
  assert.deepEqual(found.sort(), names.filter((n) => n.includes("hide")).sort());
  await fails(b.call(IOC_LISTXATTR_HIDDEN, arg.bytes, { ino, caller: user, openFlags: 1 }), 13);
  await b.m.unmount();
});

Deno.test("DATA_WAITING lists waiters after a position", async () => {
  const b = await bench();
  const ends = [5, 6].map((iblock, i) =>
    b.m.fs.waiters.park(9, iblock, 1, 100 + i, b.m.fs.waiters.changes).catch(errnoOf)
  );
  const arg = IocDataWaiting.alloc();
  arg.entsPtr = FakeMemory.BASE;
  arg.entsNr = 10;
  assert.equal((await b.call(IOC_DATA_WAITING, arg.bytes)).result, 2);
  const entry = IocDataWaitingEntry.at(b.memory.bytes, IocDataWaitingEntry.SIZE);
  assert.deepEqual([entry.ino, entry.iblock, entry.op], [9, 6, 1]);
  arg.afterIno = 9n;
  arg.afterIblock = 5n;
  assert.equal((await b.call(IOC_DATA_WAITING, arg.bytes)).result, 1);
  arg.flags = 1n;
  await fails(b.call(IOC_DATA_WAITING, arg.bytes), EINVAL);
  b.m.fs.waiters.close(5);
  assert.deepEqual(await Promise.all(ends), [5, 5]);
  await b.m.unmount();
});

Deno.test("statfs, STATFS_MORE and ALLOC_DETAIL agree", async () => {
  const b = await bench();
  const ino = await make(b.m, 1, "f", S_IFREG | 0o644);
  await put(b.m, ino, 0, 1 << 20);
  await b.m.fs.trans.commit();
  const st = await statfs(b.m.fs);
  const more = IocStatfsMore.at((await b.call(IOC_STATFS_MORE, new Uint8Array(0))).output);
  assert.equal(more.fsid, b.m.fs.fsid);
  assert.equal(more.rid, b.m.fs.rid);
  assert.equal(st.blocks, more.totalMetaBlocks * 16 + more.totalDataBlocks);
  assert.equal(st.files - st.ffree, 2);
  assert.ok(more.committedSeq < b.m.fs.trans.seq);
  const arg = IocAllocDetail.alloc();
  arg.entriesPtr = FakeMemory.BASE;
  arg.entriesNr = 100n;
  const { result } = await b.call(IOC_ALLOC_DETAIL, arg.bytes);
  let meta = 0;
  let data = 0;
  for (let i = 0; i < result; i++) {
    const e = IocAllocDetailEntry.at(b.memory.bytes, i * IocAllocDetailEntry.SIZE);
    if ((e.flags & 1) !== 0) meta += e.blocks;
    else data += e.blocks;
  }
  assert.equal(st.bfree, meta * 16 + data);
  assert.equal(data, more.totalDataBlocks - 64 - 256);
  arg.entriesNr = 3n;
  await fails(b.call(IOC_ALLOC_DETAIL, arg.bytes), EOVERFLOW);
  await b.m.unmount();
});

Deno.test("the private FIEMAP; unknown commands, those of later times, bad addresses", async () => {
  const b = await bench();
  const ino = await make(b.m, 1, "f", S_IFREG | 0o644);
  await put(b.m, ino, 8192, 4096);
  const arg = PrivateFiemap.alloc();
  arg.length = MAX;
  arg.extentsPtr = FakeMemory.BASE;
  arg.nr = 10n;
  assert.equal((await b.call(IOC_PRIVATE_FIEMAP, arg.bytes, { ino })).result, 1);
  const words = new BigUint64Array(b.memory.bytes.buffer, 0, 4);
  assert.deepEqual([words[0], words[2], words[3]], [8192n, 4096n, 1n]);
  arg.extentsPtr = 8n;
  await fails(b.call(IOC_PRIVATE_FIEMAP, arg.bytes, { ino }), EFAULT);
  await fails(b.call(0x5401, new Uint8Array(0)), ENOTTY);
  await fails(b.call(IOC_RELEASE, new Uint8Array(24)), ENOTTY);
  await b.m.unmount();
});
