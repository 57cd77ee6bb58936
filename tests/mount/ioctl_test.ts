/**
 * The private ioctls as programs written for the reference make them: raw ioctl(2) calls of other
 * processes on a real mount, with the numbers and offsets of 05 §8 and §9 written out here once
 * more, embedded pointers included.
 */

import assert from "node:assert/strict";
import { callIoctls, type IoctlCall, type IoctlResult } from "../helpers/ioctl_caller.ts";
import { mountTest, type TestVolume } from "../helpers/volume.ts";

const WALK_INODES = 0x4048e801;
const INO_PATH = 0x4028e802;
const STAT_MORE = 0x8038e805;
const DATA_WAITING = 0x4028e806;
const LISTXATTR_HIDDEN = 0xc018e808;
const STATFS_MORE = 0x8030e80a;
const ALLOC_DETAIL = 0x4010e80c;
const GET_ALLOCATED_INOS = 0x4018e810;
const GET_REFERRING_ENTRIES = 0x4028e811;
const GET_ATTR_X = 0x4068e812;

const EPERM = 1,
  ENOENT = 2,
  EFAULT = 14,
  EINVAL = 22,
  ENOTTY = 25,
  ENAMETOOLONG = 36,
  EOVERFLOW = 75;
const NOBODY = 65534;

/** A structure: [offset, bytes, value]…, zeros elsewhere. */
function struct(size: number, ...fields: [number, 1 | 2 | 4 | 8, number | bigint][]): string {
  const bytes = new Uint8Array(size);
  const v = new DataView(bytes.buffer);
  for (const [at, width, value] of fields) {
    if (width === 1) v.setUint8(at, Number(value));
    else if (width === 2) v.setUint16(at, Number(value), true);
    else if (width === 4) v.setUint32(at, Number(value), true);
    else v.setBigUint64(at, BigInt.asUintN(64, BigInt(value)), true);
  }
  return Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
}

/** Reads a structure's fields. */
class Fields {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly #v: DataView;
  constructor(hex: string) {
    this.bytes = Uint8Array.from(hex.match(/../g) ?? [], (x) => parseInt(x, 16));
    this.#v = new DataView(this.bytes.buffer);
  }
  u64 = (at: number): number => Number(this.#v.getBigUint64(at, true));
  u32 = (at: number): number => this.#v.getUint32(at, true);
  u16 = (at: number): number => this.#v.getUint16(at, true);
  u8 = (at: number): number => this.bytes[at]!;
  text(at: number): string {
    const end = this.bytes.indexOf(0, at);
    return new TextDecoder().decode(this.bytes.subarray(at, end));
  }
}

interface Who {
  uid?: number;
  thread?: boolean;
}

async function one(call: IoctlCall, who: Who = {}): Promise<IoctlResult> {
  const [r] = await callIoctls([call], who);
  return r!;
}

const FIRST: [number, number] = [0, 0];
const LAST: [number | bigint, number | bigint] = [-1n, -1n];

function walkCall(
  path: string,
  index: number,
  nr: number,
  first: [number | bigint, number | bigint] = FIRST,
  last = LAST,
): IoctlCall {
  const argument = struct(
    72,
    [0, 8, first[0]],
    [8, 8, first[1]],
    [24, 8, last[0]],
    [32, 8, last[1]],
    [40, 4, 0xffffffff],
    [56, 4, nr],
    [60, 1, index],
  );
  return { path, command: WALK_INODES, argument, buffers: [{ at: 48, bytes: 24 * (nr + 1) }] };
}

/** Entries [major, ino] that a walk returned; the caller's memory behind them is untouched. */
function walked(r: IoctlResult): number[][] {
  assert.ok(r.result >= 0, `errno ${r.errno}`);
  const b = new Fields(r.buffers[0]!);
  assert.ok(b.bytes.subarray(24 * r.result).every((x) => x === 0xee), "memory behind the entries");
  return Array.from({ length: r.result }, (_, i) => {
    assert.equal(b.u64(24 * i + 16), 0, "minor and pad");
    return [b.u64(24 * i), b.u64(24 * i + 8)];
  });
}

async function walkInodes(v: TestVolume, syncArrives: boolean): Promise<void> {
  const ino = async (path: string) => (await Deno.lstat(`${v.mnt}/${path}`)).ino!;
  const [d, f, empty] = [await ino("d"), await ino("d/f"), await ino("d/empty")];
  const data = walked(await one(walkCall(v.mnt, 1, 100)));
  assert.deepEqual(data.map(([, i]) => i).sort(), [f, empty].sort(), "regular files only");
  const meta = walked(await one(walkCall(v.mnt, 0, 100)));
  assert.ok([1, d, f, empty].every((i) => meta.some((e) => e[1] === i)));
  assert.deepEqual(meta, meta.toSorted((a, b) => a[0]! - b[0]! || a[1]! - b[1]!));
  // Whoever asks, and from any thread.
  for (const who of [{ uid: NOBODY }, { thread: true }]) {
    assert.deepEqual(walked(await one(walkCall(v.mnt, 0, 100), who)), meta);
  }
  // In steps of one; on any file of the mount.
  const steps: number[][] = [];
  for (let first = FIRST;;) {
    const [e] = walked(await one(walkCall(`${v.mnt}/d/f`, 0, 1, first)));
    if (e === undefined) break;
    steps.push(e);
    first = [e[0]!, e[1]! + 1];
  }
  assert.deepEqual(steps, meta);
  // Both ends belong to the range.
  const [from, to] = [meta[1]!, meta[2]!];
  const range = walkCall(v.mnt, 0, 100, [from[0]!, from[1]!], [to[0]!, to[1]!]);
  assert.deepEqual(walked(await one(range)), meta.slice(1, 3));
  const backwards = walkCall(v.mnt, 0, 100, [to[0]!, to[1]!], [from[0]!, from[1]!]);
  assert.deepEqual(walked(await one(backwards)), []);
  assert.deepEqual(walked(await one(walkCall(v.mnt, 0, 0))), []);
  assert.equal((await one(walkCall(v.mnt, 2, 10))).errno, EINVAL);
  const { buffers: _, ...wild } = walkCall(v.mnt, 0, 10);
  assert.equal((await one({ ...wild, wild: [48] })).errno, EFAULT);

  // A change moves its inode to the end; what the walk shows is committed.
  // Where the kernel passes sync(2) on, as on block devices, that is the caller's part.
  await v.sh(syncArrives ? "touch d/empty && sync" : "touch d/empty");
  const after = walked(await one(walkCall(v.mnt, 0, 100)));
  assert.equal(after.at(-1)![1], empty);
  assert.ok(after.at(-1)![0]! > meta.at(-1)![0]!);
  assert.equal(after.length, meta.length);
  const more = new Fields(
    (await one({ path: v.mnt, command: STATFS_MORE, argument: struct(48) })).argument,
  );
  assert.ok(after.at(-1)![0]! <= more.u64(16), "not beyond committed_seq");
}

async function statMore(v: TestVolume): Promise<void> {
  const call = (path: string) => ({ path, command: STAT_MORE, argument: "ee".repeat(64) });
  const [file, dir, other] = await callIoctls([
    call(`${v.mnt}/d/f`),
    call(v.mnt),
    call(`${v.mnt}/d/empty`),
  ], { uid: NOBODY });
  assert.equal(file!.result, 0);
  const s = new Fields(file!.argument);
  assert.ok(s.u64(0) >= s.u64(8) && s.u64(8) > 0, "meta_seq and data_seq");
  assert.ok(s.u64(16) > 0, "data_version");
  assert.deepEqual([s.u64(24), s.u64(32)], [3, 0], "online and offline blocks");
  const born = (await v.sh("stat -c %W d/f")).trim();
  assert.equal(`${s.u64(40)}`, born);
  assert.ok(s.u32(48) < 1e9);
  assert.ok(s.bytes.subarray(56).every((b) => b === 0xee), "56 bytes are written");
  assert.equal(s.u32(52), 0, "the pad");
  assert.deepEqual([new Fields(dir!.argument).u64(16), dir!.result], [0, 0]);
  assert.deepEqual([24, 32, 16].map((at) => new Fields(other!.argument).u64(at)), [0, 0, 0]);
}

async function statfsMore(v: TestVolume): Promise<void> {
  const r = await one({ path: v.mnt, command: STATFS_MORE, argument: "ee".repeat(56) });
  assert.equal(r.result, 0);
  const s = new Fields(r.argument);
  assert.deepEqual([s.u64(24), s.u64(32)], [4096, 65536], "total blocks of either device");
  assert.ok(s.u64(16) > 0 && s.u64(40) > 0 && s.u64(40) < 4096);
  assert.ok(s.bytes.subarray(48).every((b) => b === 0xee));
  const shown = await v.scoutfs("statfs", "-p", v.mnt, "-s", "fsid");
  const fsid = new DataView(s.bytes.buffer).getBigUint64(0, true);
  assert.equal(shown.out.trim(), fsid.toString(16).padStart(16, "0"));
}

function inoPathCall(
  v: TestVolume,
  ino: number,
  dir: number,
  pos: number,
  bytes = 4096,
): IoctlCall {
  const argument = struct(40, [0, 8, ino], [8, 8, dir], [16, 8, pos], [32, 2, bytes]);
  return { path: v.mnt, command: INO_PATH, argument, buffers: [{ at: 24, bytes }] };
}

async function inoPath(v: TestVolume): Promise<void> {
  const { ino } = await Deno.stat(`${v.mnt}/d/f`);
  const paths: string[] = [];
  let [dir, pos] = [0, 0];
  for (;;) {
    const r = await one(inoPathCall(v, ino!, dir, pos));
    if (r.result < 0) {
      assert.equal(r.errno, ENOENT);
      break;
    }
    const b = new Fields(r.buffers[0]!);
    [dir, pos] = [b.u64(0), b.u64(8) + 1];
    const path = b.text(24);
    assert.equal(b.u16(16), path.length + 1, "path_bytes counts the NUL");
    paths.push(path);
  }
  assert.deepEqual(paths.sort(), ["d/e/hard", "d/f"]);
  assert.equal((await one(inoPathCall(v, ino!, 0, 0, 24 + 3))).errno, ENAMETOOLONG);
  assert.equal((await one(inoPathCall(v, ino!, 0, 0, 24 + 4))).result, 0);
  assert.equal((await one(inoPathCall(v, 1, 0, 0))).errno, ENOENT, "the root has no path");
  assert.equal((await one(inoPathCall(v, ino!, 0, 0), { uid: NOBODY })).errno, EPERM);
}

async function referringEntries(v: TestVolume): Promise<void> {
  const { ino } = await Deno.stat(`${v.mnt}/d/f`);
  const parents = [(await Deno.stat(`${v.mnt}/d`)).ino!, (await Deno.stat(`${v.mnt}/d/e`)).ino!];
  const call = (bytes: number): IoctlCall => ({
    path: v.mnt,
    command: GET_REFERRING_ENTRIES,
    argument: struct(40, [0, 8, ino!], [32, 8, bytes]),
    buffers: [{ at: 24, bytes }],
  });
  const r = await one(call(1024));
  assert.equal(r.result, 2);
  const b = new Fields(r.buffers[0]!);
  const found: [number, string, number][] = [];
  for (let at = 0, i = 0; i < 2; i++) {
    assert.equal(b.u64(at + 16), ino);
    assert.equal(b.u8(at + 27), 8, "DT_REG");
    assert.equal(b.u8(at + 26), i, "LAST");
    const name = b.text(at + 29);
    assert.equal(b.u8(at + 28), name.length);
    assert.equal(b.u16(at + 24), Math.ceil((29 + name.length + 1) / 16) * 16);
    assert.ok(b.u64(at + 8) >= 2, "readdir position");
    found.push([b.u64(at), name, at]);
    at += b.u16(at + 24);
  }
  assert.deepEqual(found.map(([dir, name]) => [dir, name]), [[parents[0], "f"], [
    parents[1],
    "hard",
  ]]);
  assert.equal((await one(call(32))).result, 1, "what fits");
  assert.equal((await one(call(31))).errno, EINVAL);
  assert.equal((await one(call(1024), { uid: NOBODY })).errno, EPERM);
}

async function getAttrX(v: TestVolume): Promise<void> {
  const path = `${v.mnt}/d/f`;
  const call = (mask: number) => ({
    path,
    command: GET_ATTR_X,
    argument: struct(104, [0, 8, mask]).slice(0, 32) + "ee".repeat(88),
  });
  const all = await one(call(0x3ff), { uid: NOBODY });
  assert.equal(all.result, 0);
  const a = new Fields(all.argument);
  const s = new Fields((await one({ path, command: STAT_MORE, argument: struct(56) })).argument);
  assert.deepEqual(
    [16, 24, 32, 40, 48].map(a.u64),
    [0, 8, 16, 24, 32].map(s.u64),
    "the fields that STAT_MORE gives too",
  );
  assert.deepEqual([a.u64(72), a.u32(68)], [s.u64(40), s.u32(48)], "crtime");
  const [ctime, nsec] = (await v.sh("stat -c %.9Z d/f")).trim().split(".").map(Number);
  assert.deepEqual([a.u64(56), a.u32(64)], [ctime, nsec]);
  assert.deepEqual([a.u64(80), a.u64(88), a.u64(96)], [10_000, 0, 0]);
  // Only the prefix up to the last field that was asked for is written.
  const some = new Fields((await one(call(1 << 2))).argument);
  assert.equal(some.u64(32), s.u64(16));
  assert.ok(some.bytes.subarray(40).every((b) => b === 0xee));
  const none = new Fields((await one(call(0))).argument);
  assert.ok(none.bytes.subarray(16).every((b) => b === 0xee));
  assert.equal((await one(call(1 << 10))).errno, EINVAL);
}

async function hiddenXattrs(v: TestVolume): Promise<void> {
  const names: string[] = [];
  let position = struct(24).slice(0, 16);
  let hash = "00000000";
  for (let i = 0; i < 20; i++) {
    const r = await one({
      path: `${v.mnt}/d/f`,
      command: LISTXATTR_HIDDEN,
      argument: position + "00".repeat(8) + struct(4, [0, 4, 256]) + hash,
      buffers: [{ at: 8, bytes: 256 }],
    });
    assert.ok(r.result >= 0, `errno ${r.errno}`);
    if (r.result === 0) break;
    const text = new TextDecoder().decode(new Fields(r.buffers[0]!).bytes.subarray(0, r.result));
    assert.ok(text.endsWith("\0"));
    names.push(...text.split("\0").slice(0, -1));
    position = r.argument.slice(0, 16);
    hash = r.argument.slice(40, 48);
  }
  const expected = Array.from({ length: 8 }, (_, i) => `scoutfs.hide.${"n".repeat(60)}-${i}`);
  assert.deepEqual(names.sort(), expected);
}

async function allocDetail(v: TestVolume): Promise<void> {
  const call = (nr: number): IoctlCall => ({
    path: v.mnt,
    command: ALLOC_DETAIL,
    argument: struct(16, [8, 8, nr]),
    buffers: [{ at: 0, bytes: 24 * nr }],
  });
  await v.sh("sync -f .");
  const r = await one(call(64));
  const b = new Fields(r.buffers[0]!);
  assert.equal(r.result, 7 + 4, "the server's pools and one mount's");
  const entries = Array.from({ length: r.result }, (_, i) => {
    const at = 24 * i;
    assert.equal(b.u8(at + 16), 0, "type");
    return { blocks: b.u64(at + 8), meta: (b.u8(at + 17) & 1) === 1, avail: b.u8(at + 17) >> 1 };
  });
  const free = (meta: boolean) =>
    entries.filter((e) => e.meta === meta).reduce((n, e) => n + e.blocks, 0);
  assert.ok(free(true) > 3000 && free(true) < 4096);
  // 64 reserved, 3 used by the file.
  assert.equal(free(false), 65536 - 64 - 3);
  assert.equal((await one(call(5))).errno, EOVERFLOW);
}

async function others(v: TestVolume): Promise<void> {
  const waiting = await one({
    path: v.mnt,
    command: DATA_WAITING,
    argument: struct(40, [32, 2, 4]),
    buffers: [{ at: 24, bytes: 96 }],
  });
  assert.equal(waiting.result, 0);
  const flags = { path: v.mnt, command: DATA_WAITING, argument: struct(40, [0, 8, 1], [32, 2, 4]) };
  assert.equal((await one(flags)).errno, EINVAL);

  const { ino } = await Deno.stat(`${v.mnt}/d/f`);
  const allocated: IoctlCall = {
    path: v.mnt,
    command: GET_ALLOCATED_INOS,
    argument: struct(24, [0, 8, ino!], [16, 8, 80]),
    buffers: [{ at: 8, bytes: 80 }],
  };
  const r = await one(allocated);
  assert.ok(r.result >= 1);
  assert.equal(new Fields(r.buffers[0]!).u64(0), ino);
  assert.equal((await one(allocated, { uid: NOBODY })).errno, EPERM);

  for (const command of [0x4048e863, 0x4040e801, 0x8048e801, 0x5401]) {
    const unknown = await one({ path: v.mnt, command, argument: struct(104) });
    assert.deepEqual([unknown.result, unknown.errno], [-1, ENOTTY], command.toString(16));
  }
}

for (const loop of [false, true]) {
  const where = loop ? "block devices" : "image files";
  mountTest(`raw ioctls of other processes on ${where}`, { loop }, async (v) => {
    await v.mount();
    await Deno.chmod(v.dir, 0o755);
    await v.sh(`
      mkdir -p d/e && head -c 10000 /dev/urandom > d/f && truncate -s 10000 d/f && ln d/f d/e/hard && : > d/empty
      for i in 0 1 2 3 4 5 6 7; do
        setfattr -n scoutfs.hide.$(printf n%.0s $(seq 60))-$i -v x d/f
      done
      setfattr -n user.seen -v 1 d/f && sync -f .
    `);
    await walkInodes(v, loop);
    await statMore(v);
    await statfsMore(v);
    await inoPath(v);
    await referringEntries(v);
    await getAttrX(v);
    await hiddenXattrs(v);
    await allocDetail(v);
    await others(v);
    assert.doesNotMatch(await v.log(), / error: /);
  });
}
