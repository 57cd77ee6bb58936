// File data on a mount in memory (02 §14–16): random writes, truncates, fallocates and reads
// against plain arrays of bytes, with commits, crashes and remounts; then single rules.

import assert from "node:assert/strict";
import {
  SEF_UNWRITTEN,
  SM_SIZE,
  TYPE_DATA_EXTENT,
  TYPE_INODE,
  ZONE_FS,
} from "../../format/constants.ts";
import { EFBIG, EINTR, EISDIR, ENODATA, ENOSPC, EOPNOTSUPP, EPERM } from "../../format/errno.ts";
import { Inode } from "../../format/items.ts";
import { LOCK_WRITE } from "../../format/wire.ts";
import { ROOT_CALLER } from "../../fs/caller.ts";
import { errnoOf } from "../../fs/errors.ts";
import { gatherUpdate, getInode, writeInode } from "../../fs/inode.ts";
import { write, type WriteRequest } from "../../fs/ops/data.ts";
import { decodeExtent, FileExtents } from "../../fs/ops/extent_items.ts";
import { type Extent, isOffline, isOnline, removeExtents } from "../../fs/ops/extents.ts";
import { FALLOC_FL_KEEP_SIZE, fallocate } from "../../fs/ops/fallocate.ts";
import { create, unlink } from "../../fs/ops/names.ts";
import { fiemap, lseek, SEEK_DATA, SEEK_HOLE } from "../../fs/ops/seek.ts";
import { freeBlocks, truncate } from "../../fs/ops/truncate.ts";
import { WAIT_READ } from "../../fs/ops/wait.ts";
import { getXattr, setXattr } from "../../fs/ops/xattr.ts";
import { assertSound, committedItems, LocalFs, newLocalFs } from "../helpers/local_fs.ts";
import { LocalCluster, settle } from "../helpers/local_cluster.ts";
import { checkOwnership } from "../helpers/ownership.ts";
import { readBytes } from "../helpers/read_bytes.ts";
import { SeededRandom } from "../helpers/sim_reactor.ts";
import { SlowReads } from "../helpers/slow_reads.ts";

const S_IFREG = 0o100000;
const caller = { ...ROOT_CALLER, umask: 0o022 };
let nextId = 1;

function bytesOf(name: string): Uint8Array {
  return new TextEncoder().encode(name);
}

async function newFile(m: LocalFs, name: string): Promise<number> {
  return await m.run((op, fs) => create(op, fs, 1, bytesOf(name), S_IFREG | 0o644, 0), caller);
}

async function put(
  m: LocalFs,
  ino: number,
  offset: number,
  data: Uint8Array,
  how: Partial<WriteRequest> = {},
): Promise<number> {
  return await write(m.fs, {
    ino,
    offset,
    data,
    append: false,
    direct: false,
    sync: false,
    killSuidgid: false,
    pageWrite: false,
    caller,
    id: nextId++,
    ...how,
  });
}

async function get(m: LocalFs, ino: number, offset: number, length: number): Promise<Uint8Array> {
  return await readBytes(m.fs, { ino, offset, length, caller, id: nextId++ });
}

async function resize(m: LocalFs, ino: number, size: number): Promise<void> {
  await truncate(m.fs, ino, size, caller, nextId++);
}

async function inodeOf(m: LocalFs, ino: number): Promise<Inode> {
  return await m.run((op, fs) => Inode.at(getInode(op, fs, ino, 1).inode.bytes.slice()));
}

async function extentsOf(m: LocalFs, ino: number): Promise<Extent[]> {
  return await m.run((op, fs) => {
    const h = getInode(op, fs, ino, 1);
    const map = new FileExtents(op, fs, h, 0, 2 ** 52);
    const all: Extent[] = [];
    for (let e = map.next(0); e !== null; e = map.next(e.start + e.len)) all.push(e);
    return all;
  });
}

/** Extents and counters of the committed state (02 §24.8), and who owns which block. */
function checkData(cluster: LocalCluster): void {
  const inodes = new Map<number, Inode>();
  const extents = new Map<number, Extent[]>();
  for (const { key, val } of committedItems(cluster)) {
    if (key.zone !== ZONE_FS) continue;
    if (key.type === TYPE_INODE) inodes.set(key.first, Inode.read(val, 2));
    if (key.type !== TYPE_DATA_EXTENT) continue;
    const list = extents.get(key.first) ?? [];
    list.push(decodeExtent(key, val, cluster.superBlock().totalDataBlocks));
    extents.set(key.first, list);
  }
  for (const [ino, inode] of inodes) {
    let online = 0;
    let offline = 0;
    let before: Extent | null = null;
    for (const e of extents.get(ino) ?? []) {
      if (isOnline(e.blkno, e.flags)) online += e.len;
      else if (isOffline(e.flags)) offline += e.len;
      if (before !== null) {
        const end = before.start + before.len;
        assert.ok(end <= e.start, `extents of ${ino} overlap`);
        const merged = end === e.start && before.flags === e.flags &&
          (e.blkno === 0 ? before.blkno === 0 : before.blkno + before.len === e.blkno);
        assert.ok(!merged, `extents of ${ino} are not merged`);
      }
      before = e;
    }
    assert.equal(inode.onlineBlocks, online, `online blocks of inode ${ino}`);
    assert.equal(inode.offlineBlocks, offline, `offline blocks of inode ${ino}`);
  }
  const { problems } = checkOwnership(cluster.meta);
  assert.deepEqual(problems, []);
}

const errno = async (p: Promise<unknown>): Promise<number> => {
  try {
    await p;
    return 0;
  } catch (e) {
    return errnoOf(e);
  }
};

/** A file's expected bytes, growing as needed. */
class Model {
  bytes = new Uint8Array(0);
  resize(size: number): void {
    const next = new Uint8Array(size);
    next.set(this.bytes.subarray(0, size));
    this.bytes = next;
  }
  write(offset: number, data: Uint8Array): void {
    if (offset + data.length > this.bytes.length) this.resize(offset + data.length);
    this.bytes.set(data, offset);
  }
}

function firstDifference(a: Uint8Array, b: Uint8Array): number {
  if (a.length !== b.length) return Math.min(a.length, b.length);
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return i;
  return -1;
}

interface Trial {
  seed: number;
  steps: number;
  contigOnly: boolean;
  preallocBlocks: number;
  paranoid: boolean;
}

async function trial({ seed, steps, contigOnly, preallocBlocks, paranoid }: Trial): Promise<void> {
  const random = new SeededRandom(seed);
  const cluster = await LocalCluster.make({ dataBytes: 256 << 20, seed });
  const how = {
    options: { dataPreallocBlocks: preallocBlocks, dataPreallocContigOnly: contigOnly },
    paranoid: paranoid ? { random, suspendPerMille: 30 } : null,
    readAhead: new SlowReads(cluster.data, random),
  };
  let m = await LocalFs.mount(cluster, how);
  const inos: number[] = [];
  const models: Model[] = [];
  for (let i = 0; i < 3; i++) {
    inos.push(await newFile(m, `f${i}`));
    models.push(new Model());
  }
  await m.fs.trans.commit();
  let synced = models.map((f) => f.bytes.slice());
  let commits = m.fs.trans.commits;
  const MAX = 3 << 20;
  const length = () => {
    const kind = random.below(4);
    return 1 + random.below(kind === 0 ? 5000 : kind === 1 ? 70_000 : kind === 2 ? 300 : 1 << 20);
  };
  const place = () => {
    const at = random.below(MAX);
    return random.below(2) === 0 ? at : at - at % SM_SIZE;
  };
  /** Bytes changed since the last commit: after a crash they may be old or new. */
  let touched = models.map(() => new Uint8Array(0));
  const touch = (i: number, from: number, to: number) => {
    if (touched[i]!.length < to) {
      const grown = new Uint8Array(Math.max(to, 2 * MAX));
      grown.set(touched[i]!);
      touched[i] = grown;
    }
    touched[i]!.fill(1, from, to);
  };
  for (let step = 0; step < steps; step++) {
    const i = random.below(inos.length);
    const ino = inos[i]!;
    const model = models[i]!;
    const dice = random.below(100);
    const where = `seed ${seed} step ${step} file ${i} dice ${dice}`;
    if (dice < 45) {
      const data = new Uint8Array(length());
      for (let k = 0; k < data.length; k++) data[k] = random.below(256) | 1;
      const append = random.below(4) === 0 && model.bytes.length < MAX;
      const offset = append ? model.bytes.length : place();
      const direct = random.below(5) === 0;
      assert.equal(
        await put(m, ino, append ? 123 : offset, data, { append, direct }),
        data.length,
        where,
      );
      touch(i, Math.min(offset, model.bytes.length), offset + data.length);
      model.write(offset, data);
    } else if (dice < 58) {
      const size = random.below(5) === 0 ? model.bytes.length : place();
      await resize(m, ino, size);
      touch(i, Math.min(size, model.bytes.length), Math.max(size, model.bytes.length));
      model.resize(size);
    } else if (dice < 66) {
      const offset = place();
      const len = length();
      const mode = random.below(2) === 0 ? FALLOC_FL_KEEP_SIZE : 0;
      await fallocate(m.fs, { ino, mode, offset, length: len, caller });
      if (mode === 0 && offset + len > model.bytes.length) {
        touch(i, model.bytes.length, offset + len);
        model.resize(offset + len);
      }
    } else if (dice < 90) {
      const offset = place();
      const len = length();
      const got = await get(m, ino, offset, len);
      const want = model.bytes.subarray(offset, offset + len);
      const at = firstDifference(got, want);
      assert.equal(at, -1, `${where}: byte ${offset + at} of a read of ${len} at ${offset}`);
    } else if (dice < 95) {
      await m.fs.trans.commit();
      synced = models.map((f) => f.bytes.slice());
      commits = m.fs.trans.commits;
      touched = models.map(() => new Uint8Array(0));
    } else if (dice < 97) {
      await m.unmount();
      checkData(cluster);
      m = await LocalFs.mount(cluster, how);
      synced = models.map((f) => f.bytes.slice());
      commits = m.fs.trans.commits;
      touched = models.map(() => new Uint8Array(0));
    } else {
      const strict = m.fs.trans.commits === commits;
      await m.crash();
      checkData(cluster);
      m = await LocalFs.mount(cluster, how);
      for (let k = 0; k < inos.length; k++) {
        const { size } = await inodeOf(m, inos[k]!);
        const now = new Uint8Array(size);
        for (let off = 0; off < size; off += 1 << 20) {
          now.set(await get(m, inos[k]!, off, 1 << 20), off);
        }
        if (strict) {
          assert.equal(size, synced[k]!.length, `${where}: size after a crash`);
          for (let b = 0; b < size; b++) {
            if (touched[k]![b] === 1 || now[b] === synced[k]![b]) continue;
            assert.fail(`${where}: synced byte ${b} of file ${k} was lost`);
          }
        }
        models[k]!.bytes = now;
      }
      await m.fs.trans.commit();
      synced = models.map((f) => f.bytes.slice());
      commits = m.fs.trans.commits;
      touched = models.map(() => new Uint8Array(0));
    }
  }
  for (let i = 0; i < inos.length; i++) {
    const all = models[i]!.bytes;
    for (let off = 0; off < all.length; off += 1 << 20) {
      const got = await get(m, inos[i]!, off, 1 << 20);
      assert.equal(firstDifference(got, all.subarray(off, off + (1 << 20))), -1, `file ${i}`);
    }
  }
  await m.unmount();
  checkData(cluster);
  assertSound(cluster);
  assert.ok(m.fs.claims.idle);
}

for (const seed of [1, 2, 3, 4, 5, 6]) {
  Deno.test(`file data equals plain bytes, through crashes and remounts (seed ${seed})`, async () => {
    await trial({
      seed,
      steps: 150,
      contigOnly: seed % 3 !== 0,
      preallocBlocks: seed % 2 === 0 ? 2048 : 64,
      paranoid: seed > 3,
    });
  });
}

Deno.test("a stream of blocks preallocates as 02 §14.4, and truncating to the size frees the rest", async () => {
  const m = await newLocalFs();
  const ino = await newFile(m, "f");
  for (let b = 0; b < 5; b++) await put(m, ino, b * SM_SIZE, new Uint8Array(SM_SIZE).fill(b + 1));
  const [a, b] = await extentsOf(m, ino);
  assert.deepEqual([a!.start, a!.len, a!.flags], [0, 5, 0]);
  assert.deepEqual([b!.start, b!.len, b!.flags], [5, 3, SEF_UNWRITTEN]);
  assert.equal(b!.blkno, a!.blkno + 5);
  let inode = await inodeOf(m, ino);
  assert.deepEqual([inode.onlineBlocks, inode.dataVersion, inode.size], [5, 5, 5 * SM_SIZE]);
  await resize(m, ino, 5 * SM_SIZE);
  assert.equal((await extentsOf(m, ino)).length, 1);
  inode = await inodeOf(m, ino);
  assert.equal(inode.dataVersion, 5, "an unchanged size does not change the data version");
  assert.equal(inode.flags, 0);
  await m.unmount();
  checkData(m.cluster);
});

Deno.test("1 MiB writes make one extent, go straight to the device, and are read back", async () => {
  const m = await newLocalFs();
  const ino = await newFile(m, "f");
  const data = new Uint8Array(1 << 20);
  crypto.getRandomValues(data.subarray(0, 65536));
  for (let i = 0; i < 8; i++) {
    data[5] = i;
    await put(m, ino, i << 20, data, { aligned: true });
  }
  assert.equal(m.fs.dirty.pages, 0);
  assert.equal((await inodeOf(m, ino)).dataVersion, 8, "one hold each");
  const extents = await extentsOf(m, ino);
  assert.ok(extents.filter((e) => e.flags === 0).length <= 2, "no more than the pool's extents");
  for (let i = 0; i < 8; i++) {
    const got = await get(m, ino, i << 20, 1 << 20);
    data[5] = i;
    assert.equal(firstDifference(got, data), -1);
  }
  await m.unmount();
  checkData(m.cluster);
});

Deno.test("small writes stay in memory until the commit; a block is read at most once", async () => {
  const m = await newLocalFs();
  const ino = await newFile(m, "f");
  const before = m.cluster.data.writes;
  for (let i = 0; i < 100; i++) await put(m, ino, 0, bytesOf("0123456789"), { append: true });
  assert.equal(m.cluster.data.writes, before);
  assert.equal(m.cluster.data.reads, 0);
  await m.sync();
  assert.equal(m.cluster.data.writes, before + 1);
  assert.equal((await get(m, ino, 0, 5000)).length, 1000);
  await m.unmount();
});

Deno.test("a data device that fails delays the commit, and loses nothing", async () => {
  const m = await newLocalFs();
  const ino = await newFile(m, "f");
  m.cluster.data.inject({ op: "write", kind: "fail", nth: 0, sticky: true });
  const large = new Uint8Array(256 << 10).fill(7);
  assert.equal(await put(m, ino, 0, large), large.length, "the write itself does not fail");
  assert.equal(m.fs.dirty.pages, 64);
  let done = false;
  const sync = m.sync().then(() => done = true);
  await settle();
  await m.cluster.timers.advance(10_000);
  assert.ok(!done, "nothing is acknowledged before the data is on the device");
  assert.equal(firstDifference(await get(m, ino, 0, large.length), large), -1);
  m.cluster.data.clearFaults();
  await m.cluster.timers.advance(5_000);
  await sync;
  assert.equal(m.fs.dirty.pages, 0);
  await m.crash();
  checkData(m.cluster);
  const again = await LocalFs.mount(m.cluster);
  assert.equal(firstDifference(await get(again, ino, 0, large.length), large), -1);
  await again.unmount();
});

Deno.test("a truncate of many extents goes on after a crash", async () => {
  const m = await newLocalFs();
  const ino = await newFile(m, "f");
  for (let b = 0; b < 60; b++) await put(m, ino, b * 2 * SM_SIZE, new Uint8Array(SM_SIZE).fill(1));
  await put(m, ino, 0, bytesOf("kept"));
  await m.sync();
  // One step only, as if the mount died in between.
  await m.run((op, fs) => {
    const h = getInode(op, fs, ino, LOCK_WRITE);
    const seq = gatherUpdate(op, fs, [{ h, dataSeq: true }], { allocating: false });
    op.apply();
    const inode = h.edit();
    inode.size = 2;
    inode.flags |= 1;
    inode.dataSeq = seq;
    writeInode(op, fs, h, seq);
  });
  await m.sync();
  await m.crash();
  const again = await LocalFs.mount(m.cluster);
  assert.equal(await put(again, ino, 100_000, bytesOf("x")), 1);
  const got = await get(again, ino, 0, 200_000);
  assert.equal(got.length, 100_001);
  assert.deepEqual((await extentsOf(again, ino)).filter((e) => e.flags === 0).map((e) => e.start), [
    0,
    24,
  ]);
  assert.equal((await inodeOf(again, ino)).flags, 0);
  for (let b = 60; b < 120; b++) {
    await put(again, ino, b * 2 * SM_SIZE, new Uint8Array(SM_SIZE).fill(1));
  }
  await resize(again, ino, 0);
  assert.deepEqual(await extentsOf(again, ino), []);
  await again.unmount();
  checkData(again.cluster);
});

Deno.test("no space: ENOSPC, then deletions make room again", async () => {
  const cluster = await LocalCluster.make({ dataBytes: 16 << 20 });
  const m = await LocalFs.mount(cluster);
  const total = cluster.superBlock().totalDataBlocks - 64;
  for (let round = 0; round < 3; round++) {
    const ino = await newFile(m, `f${round}`);
    const piece = new Uint8Array(1 << 20).fill(round + 1);
    let written = 0;
    let failed = 0;
    while (failed === 0) {
      try {
        const n = await put(m, ino, written, piece);
        written += n;
        if (n < piece.length) failed = ENOSPC;
      } catch (e) {
        failed = errnoOf(e);
      }
    }
    assert.equal(failed, ENOSPC);
    // What is left is less than one request.
    assert.ok(written > total * SM_SIZE - (2 << 20), `round ${round}: only ${written} bytes fit`);
    assert.equal(
      await errno(fallocate(m.fs, {
        ino,
        mode: 0,
        offset: written,
        length: 4 << 20,
        caller,
      }) as Promise<void>),
      ENOSPC,
    );
    assert.equal((await get(m, ino, written - 1, 1))[0], round + 1);
    await m.sync();
    checkData(cluster);
    if (round === 0) await resize(m, ino, 0);
    await m.run((op, fs) => unlink(op, fs, 1, bytesOf(`f${round}`)), caller);
    m.fs.refs.forget(ino, 1);
  }
  await m.unmount();
  checkData(cluster);
});

Deno.test("fallocate: modes, sizes, counters", async () => {
  const m = await newLocalFs();
  const ino = await newFile(m, "f");
  const bad = async (mode: number) =>
    await fallocate(m.fs, { ino, mode, offset: 0, length: 1, caller });
  assert.equal(await errno(bad(2)), EOPNOTSUPP);
  assert.equal(await errno(bad(16)), EOPNOTSUPP);
  await fallocate(m.fs, { ino, mode: FALLOC_FL_KEEP_SIZE, offset: 0, length: 40_000, caller });
  let inode = await inodeOf(m, ino);
  assert.deepEqual([inode.size, inode.onlineBlocks, inode.dataVersion], [0, 0, 0]);
  const { mtime } = inode;
  await fallocate(m.fs, { ino, mode: 0, offset: 0, length: 50_000, caller });
  inode = await inodeOf(m, ino);
  assert.deepEqual([inode.size, inode.onlineBlocks, inode.dataVersion], [50_000, 0, 1]);
  assert.deepEqual([inode.mtime.sec, inode.mtime.nsec], [mtime.sec, mtime.nsec]);
  assert.ok((await get(m, ino, 0, 50_000)).every((b) => b === 0));
  await put(m, ino, 10, bytesOf("abc"));
  const got = await get(m, ino, 0, 4096);
  assert.deepEqual([got[9], got[10], got[13], got[4095]], [0, 97, 0, 0]);
  await m.unmount();
  checkData(m.cluster);
});

Deno.test("seek and fiemap", async () => {
  const m = await newLocalFs();
  const ino = await newFile(m, "f");
  await put(m, ino, 10 * SM_SIZE, new Uint8Array(2 * SM_SIZE).fill(1));
  await put(m, ino, 20 * SM_SIZE, bytesOf("end"));
  const seek = (off: number, whence: number) => m.run((op, fs) => lseek(op, fs, ino, off, whence));
  assert.equal(await seek(0, SEEK_DATA), 10 * SM_SIZE);
  assert.equal(await seek(10 * SM_SIZE + 5, SEEK_DATA), 10 * SM_SIZE + 5);
  assert.equal(await seek(0, SEEK_HOLE), 0);
  assert.equal(await seek(10 * SM_SIZE, SEEK_HOLE), 12 * SM_SIZE);
  assert.equal(await seek(20 * SM_SIZE, SEEK_HOLE), 20 * SM_SIZE + 3);
  assert.equal(await errno(seek(20 * SM_SIZE + 3, SEEK_HOLE)), 6);
  const list = await m.run((op, fs) => fiemap(op, fs, ino, 0, 2 ** 40, 100));
  assert.deepEqual(list.map((e) => [e.logical / SM_SIZE, e.length / SM_SIZE, e.flags]), [
    [10, 2, 0],
    [20, 1, 1],
  ]);
  const part = await m.run((op, fs) => fiemap(op, fs, ino, 11 * SM_SIZE, 10, 100));
  assert.deepEqual(part.map((e) => [e.logical / SM_SIZE, e.flags]), [[10, 1]]);
  await m.unmount();
});

Deno.test("retention, directories, sizes beyond the limit", async () => {
  const m = await newLocalFs();
  const ino = await newFile(m, "f");
  assert.equal(await errno(put(m, 1, 0, bytesOf("x"))), EISDIR);
  assert.equal(await errno(get(m, 1, 0, 10)), EISDIR);
  assert.equal(await errno(put(m, ino, Number.MAX_SAFE_INTEGER, bytesOf("x"))), EFBIG);
  assert.equal(await errno((async () => await resize(m, ino, 2 ** 60))()), EFBIG);
  await put(m, ino, 2 ** 45, bytesOf("far"));
  assert.equal((await get(m, ino, 2 ** 45 + 1, 10)).length, 2);
  await m.run((op, fs) => {
    const h = getInode(op, fs, ino, LOCK_WRITE);
    const seq = gatherUpdate(op, fs, [{ h, dataSeq: false }], { allocating: false });
    op.apply();
    h.edit().flags |= 2;
    writeInode(op, fs, h, seq);
  });
  assert.equal(await errno(put(m, ino, 0, bytesOf("x"))), EPERM);
  assert.equal(await errno(resize(m, ino, 0)), EPERM);
  assert.equal(
    await errno(
      (async () => await fallocate(m.fs, { ino, mode: 0, offset: 0, length: 1, caller }))(),
    ),
    EPERM,
  );
  assert.equal((await get(m, ino, 2 ** 45, 3)).length, 3);
  await m.unmount();
});

/** Makes blocks [first, last] offline, as RELEASE does; `online` brings them back, as STAGE. */
async function release(m: LocalFs, ino: number, first: number, last: number): Promise<void> {
  await m.run((op, fs) => {
    const h = getInode(op, fs, ino, LOCK_WRITE);
    const map = new FileExtents(op, fs, h, first, last + 1);
    const seq = gatherUpdate(op, fs, [{ h, dataSeq: false }], { allocating: false });
    op.apply();
    removeExtents(map, first, last, true, (b, n) => freeBlocks(op, fs, b, n), 8);
    map.account();
    writeInode(op, fs, h, seq);
  });
}

async function punch(m: LocalFs, ino: number, first: number, len: number): Promise<void> {
  await m.run((op, fs) => {
    const h = getInode(op, fs, ino, LOCK_WRITE);
    const map = new FileExtents(op, fs, h, first, first + len);
    const seq = gatherUpdate(op, fs, [{ h, dataSeq: false }], { allocating: false });
    op.apply();
    map.set(first, len, 0, 0);
    map.account();
    writeInode(op, fs, h, seq);
  });
}

Deno.test("a program's capabilities go with a write and with a change of size", async () => {
  const m = await newLocalFs();
  const ino = await newFile(m, "program");
  const name = bytesOf("security.capability");
  const give = () => m.run((op, fs) => setXattr(op, fs, ino, name, new Uint8Array(20), 0), caller);
  const has = () => errno(m.run((op, fs) => getXattr(op, fs, ino, name), caller));
  await give();
  assert.equal(await has(), 0);
  await resize(m, ino, 5000);
  assert.equal(await has(), ENODATA);
  await give();
  await put(m, ino, 10, new Uint8Array(10));
  assert.equal(await has(), ENODATA);
  await give();
  await resize(m, ino, 0);
  assert.equal(await has(), ENODATA);
  await m.unmount();
  checkData(m.cluster);
  assertSound(m.cluster);
});

Deno.test("a commit serves reads while it writes much file data", async () => {
  const m = await newLocalFs();
  const ino = await newFile(m, "f");
  await m.fs.trans.commit();
  // Small pieces stay in memory: 15 MiB of them.
  const piece = new Uint8Array(60 * 1024);
  for (let i = 0; i < 256; i++) await put(m, ino, i * piece.length, piece.fill(i | 1));
  const pages = m.fs.dirty.pages;
  assert.ok(pages > 3000);
  let slices = 0;
  await m.fs.dirty.write(() => {
    slices++;
    return Promise.resolve();
  });
  assert.ok(slices >= pages / 256 - 1, "one look at the others a MiB");
  assert.equal(m.fs.dirty.pages, 0);
  assert.deepEqual(await get(m, ino, 100 * piece.length, piece.length), piece.fill(100 | 1));
  await m.unmount();
});

Deno.test("offline data: online parts are read, others wait, signals and unmount end the wait", async () => {
  const m = await newLocalFs();
  const ino = await newFile(m, "f");
  await put(m, ino, 0, new Uint8Array(10 * SM_SIZE).fill(5));
  await release(m, ino, 4, 7);
  const inode = await inodeOf(m, ino);
  assert.deepEqual([inode.onlineBlocks, inode.offlineBlocks, inode.size], [6, 4, 10 * SM_SIZE]);
  assert.equal((await get(m, ino, 0, 4 * SM_SIZE)).length, 4 * SM_SIZE);
  const seek = await m.run((op, fs) => lseek(op, fs, ino, 0, SEEK_HOLE));
  assert.equal(seek, 10 * SM_SIZE, "offline extents are data");

  let reading = -1;
  const waiting = get(m, ino, 3 * SM_SIZE, 2 * SM_SIZE).then((b) => reading = b.length);
  await settle();
  assert.deepEqual(m.fs.waiters.list(0, 0, 10), [{ ino, iblock: 4, op: WAIT_READ }]);
  assert.ok(m.fs.claims.idle, "a parked waiter holds nothing");
  assert.equal(reading, -1);
  await punch(m, ino, 4, 2);
  await waiting;
  assert.equal(reading, 2 * SM_SIZE);

  const write = errno(put(m, ino, 0, bytesOf("x")));
  const id = nextId - 1;
  const cut = errno((async () => await resize(m, ino, 5 * SM_SIZE))());
  await settle();
  assert.equal(await cut, 0, "nothing is offline below the new size");
  assert.ok(
    !m.fs.waiters.interrupt(id),
    "the truncate removed the offline extent: the write went on",
  );
  assert.equal(await write, 0);

  await put(m, ino, 0, new Uint8Array(10 * SM_SIZE).fill(5));
  await release(m, ino, 0, 9);
  const stuck = errno(put(m, ino, 0, bytesOf("x")));
  const stuckId = nextId - 1;
  const grow = errno((async () => await resize(m, ino, 20 * SM_SIZE))());
  await settle();
  assert.deepEqual(m.fs.waiters.list(0, 0, 10), [{ ino, iblock: 0, op: 2 | 4 }]);
  assert.ok(m.fs.waiters.interrupt(stuckId));
  assert.equal(await stuck, EINTR);
  m.fs.waiters.close(EINTR);
  assert.equal(await grow, EINTR);
  await m.unmount();
  checkData(m.cluster);
});
