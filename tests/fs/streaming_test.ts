// Reads of large files that go past our memory (fs/ops/data.ts, Stream): what is answered, what has to
// wait for them, and that no block is ever seen that was another file's, or older than the reader.

import assert from "node:assert/strict";
import { SM_SIZE } from "../../format/constants.ts";
import { EINTR } from "../../format/errno.ts";
import { ROOT_CALLER } from "../../fs/caller.ts";
import { errnoOf } from "../../fs/errors.ts";
import { Cancel } from "../../fs/op.ts";
import { read, type Stream, write } from "../../fs/ops/data.ts";
import { create } from "../../fs/ops/names.ts";
import { truncate } from "../../fs/ops/truncate.ts";
import { ReadParts } from "../../fs/read_parts.ts";
import { LocalCluster, settle } from "../helpers/local_cluster.ts";
import { LocalFs } from "../helpers/local_fs.ts";
import { SeededRandom } from "../helpers/sim_reactor.ts";

const caller = { ...ROOT_CALLER, umask: 0o022 };
const PIECE = 128 << 10;
/** Files of more than 128 KiB are streamed. */
const LIMITS = { dataCacheBytes: 256 << 10 };
let id = 1;

const newFile = (m: LocalFs, name: string): Promise<number> =>
  m.run((op, fs) => create(op, fs, 1, new TextEncoder().encode(name), 0o100644, 0), caller);

async function put(
  m: LocalFs,
  ino: number,
  offset: number,
  data: Uint8Array,
  pageWrite = false,
): Promise<void> {
  const rq = { ino, offset, data, append: false, direct: true, sync: false, killSuidgid: false };
  assert.equal(await write(m.fs, { ...rq, pageWrite, caller, id: id++ }), data.length);
}

/** A stream that ends when the test says so. */
class HeldStream {
  readonly asked: { off: number; length: number }[] = [];
  end: (whole: boolean) => void = () => {};

  readonly stream: Stream = (off, length) => {
    this.asked.push({ off, length });
    return new Promise((resolve) => this.end = resolve);
  };
}

/** Starts a read; resolves to its length, what came in parts, and whether it was answered at once. */
async function start(m: LocalFs, ino: number, stream: Stream, cancel?: Cancel) {
  const parts = new ReadParts();
  const own = new Uint8Array(PIECE);
  const rq = { ino, offset: 0, length: PIECE, caller, id: id++, stream };
  const done = read(m.fs, { ...rq, ...(cancel && { cancel }) }, parts, () => own);
  const waited = done instanceof Promise;
  const length = await done;
  if (!waited) parts.moveTo(own);
  return { length, inParts: parts.length, own, waited };
}

async function withFile(body: (m: LocalFs, ino: number) => Promise<void>): Promise<void> {
  const cluster = await LocalCluster.make({ dataBytes: 64 << 20 });
  const m = await LocalFs.mount(cluster, { limits: LIMITS });
  const ino = await newFile(m, "f");
  await put(m, ino, 0, new Uint8Array(2 * PIECE).fill(7));
  await body(m, ino);
  assert.ok(m.fs.claims.idle);
  await m.unmount();
}

Deno.test("a large file's read is answered by its stream, once", () =>
  withFile(async (m, ino) => {
    const held = new HeldStream();
    const answer = start(m, ino, held.stream);
    await settle();
    assert.equal(held.asked.length, 1);
    const [{ off, length }] = held.asked;
    const there = new Uint8Array(length!);
    m.fs.data.read(there, off!);
    assert.ok(length === PIECE && there.every((b) => b === 7), "it is the file's data");
    held.end(true);
    const { length: bytes, inParts } = await answer;
    assert.deepEqual([bytes, inParts, held.asked.length], [PIECE, 0, 1]);
  }));

Deno.test("what a stream does not bring is read in the ordinary way", () =>
  withFile(async (m, ino) => {
    const held = new HeldStream();
    const answer = start(m, ino, held.stream);
    await settle();
    held.end(false);
    const cut = await answer;
    assert.deepEqual([cut.length, cut.inParts, held.asked.length], [PIECE, PIECE, 1]);
    assert.ok(cut.own.every((b) => b === 7));
    const refused = await start(m, ino, () => null);
    assert.deepEqual([refused.length, refused.waited], [PIECE, false]);
    assert.ok(refused.own.every((b) => b === 7));
  }));

Deno.test("dirty pages, small files, files' ends are not streamed", () =>
  withFile(async (m, ino) => {
    const never: Stream = () => assert.fail("streamed");
    await put(m, ino, 5 * SM_SIZE, new Uint8Array(SM_SIZE).fill(8), true);
    await put(m, ino, 5 * SM_SIZE + 9, new Uint8Array(3).fill(9));
    const dirty = await start(m, ino, never);
    assert.deepEqual([dirty.own[5 * SM_SIZE], dirty.own[5 * SM_SIZE + 10]], [8, 9]);
    const small = await newFile(m, "small");
    await put(m, small, 0, new Uint8Array(PIECE).fill(3));
    assert.ok((await start(m, small, never)).own.every((b) => b === 3));
    const odd = await newFile(m, "odd");
    await put(m, odd, 0, new Uint8Array(2 * PIECE - 1).fill(4));
    const parts = new ReadParts();
    const rq = { ino: odd, offset: PIECE, length: PIECE, caller, id: id++, stream: never };
    assert.equal(await read(m.fs, rq, parts, () => new Uint8Array(PIECE)), PIECE - 1);
  }));

Deno.test("a truncate and another mount's write wait for the stream; a killed reader does not", () =>
  withFile(async (m, ino) => {
    const held = new HeldStream();
    let answer = start(m, ino, held.stream);
    await settle();
    let cut = false;
    const cutting = truncate(m.fs, ino, PIECE + SM_SIZE, caller, id++);
    const watched = Promise.resolve(cutting).then(() => cut = true);
    await settle();
    assert.equal(cut, false, "blocks are freed while they are read");
    held.end(true);
    assert.equal((await answer).length, PIECE);
    await watched;

    const other = await LocalFs.mount(m.cluster, { limits: LIMITS });
    answer = start(m, ino, held.stream);
    await settle();
    let wrote = false;
    const writing = put(other, ino, 0, new Uint8Array(PIECE).fill(2)).then(() => wrote = true);
    await settle();
    await settle();
    assert.equal(wrote, false, "the lock went while it was needed");
    held.end(true);
    assert.equal((await answer).length, PIECE);
    await writing;

    const cancel = new Cancel();
    const killed = start(m, ino, held.stream, cancel).then(() => 0, errnoOf);
    await settle();
    cancel.cancel();
    assert.equal(await killed, EINTR);
    held.end(true);
    await settle();
    await other.unmount();
  }));

for (const seed of [1, 2, 3]) {
  Deno.test(`streams beside writers and truncates of two mounts (seed ${seed})`, async () => {
    const random = new SeededRandom(seed);
    const cluster = await LocalCluster.make({ dataBytes: 64 << 20 });
    const mounts = [
      await LocalFs.mount(cluster, { limits: LIMITS }),
      await LocalFs.mount(cluster, { limits: LIMITS }),
    ];
    const BLOCKS = 96;
    // Each block of a file holds the file's tag and the number of the write, which only grows.
    const files = [];
    for (const name of ["a", "b", "c"]) {
      files.push({
        ino: await newFile(mounts[0]!, name),
        tag: name.charCodeAt(0),
        begun: 0,
        ended: 0,
      });
    }
    type File = typeof files[number];
    const rewrite = async (m: LocalFs, f: File) => {
      const version = ++f.begun;
      if (random.below(2) === 0) await truncate(m.fs, f.ino, 0, caller, id++);
      const words = new Uint32Array(BLOCKS * SM_SIZE / 4).fill(f.tag * 1_000_000 + version);
      await put(m, f.ino, 0, new Uint8Array(words.buffer));
      f.ended = version;
    };
    let streamed = 0;
    const look = async (m: LocalFs, f: File) => {
      const least = f.ended;
      const seen = new Uint8Array(PIECE);
      let whole = false;
      const stream: Stream = (off, length) => {
        const before = new Uint8Array(length);
        m.fs.data.read(before, off);
        const later = async () => {
          for (let n = random.below(300); n > 0; n--) await null;
          m.fs.data.read(seen, off);
          // The device may have been read at any time in between.
          for (let at = 0; at < length; at += SM_SIZE) {
            if (random.below(2) === 0) seen.set(before.subarray(at, at + SM_SIZE), at);
          }
          return whole = random.below(8) > 0;
        };
        return random.below(10) === 0 ? null : later();
      };
      const parts = new ReadParts();
      const own = new Uint8Array(PIECE);
      const offset = random.below(BLOCKS - PIECE / SM_SIZE) * SM_SIZE;
      const rq = { ino: f.ino, offset, length: PIECE, caller, id: id++, stream };
      const done = read(m.fs, rq, parts, () => own);
      if (typeof done === "number") parts.moveTo(own);
      const length = await done;
      if (whole) {
        streamed++;
        assert.equal(length, PIECE);
      }
      const words = new Uint32Array((whole ? seen : own).buffer, 0, length / 4);
      for (let at = 0; at < words.length; at += SM_SIZE / 4) {
        const version = words[at]! - f.tag * 1_000_000;
        assert.ok(version >= least && version <= f.begun, `block of version ${version}`);
      }
    };
    for (const f of files) await rewrite(mounts[0]!, f);
    const under = new Set<Promise<void>>();
    for (let step = 0; step < 1200; step++) {
      const m = mounts[random.below(2)]!;
      const f = files[random.below(files.length)]!;
      // One writer of a file at a time, so that versions grow.
      const writes = random.below(6) === 0 && f.begun === f.ended;
      const one = (writes ? rewrite(m, f) : look(m, f)).finally(() => under.delete(one));
      under.add(one);
      if (under.size >= 8) await Promise.race(under);
      if (random.below(200) === 0) await m.fs.trans.sync();
    }
    await Promise.all(under);
    assert.ok(streamed > 100, `only ${streamed} reads were streamed`);
    for (const m of mounts) await m.unmount();
  });
}
