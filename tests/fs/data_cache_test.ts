// Clean file data in memory (fs/data_cache.ts) against the device itself: eviction, changes, grants,
// reads ahead that end late or fail; and two mounts of one volume that change each other's files.

import { Buffer } from "node:buffer";
import assert from "node:assert/strict";
import { SM_SIZE } from "../../format/constants.ts";
import { ROOT_CALLER } from "../../fs/caller.ts";
import { DataCache } from "../../fs/data_cache.ts";
import { DeviceError } from "../../fs/errors.ts";
import { MemDevice } from "../../fs/memory_device.ts";
import { write } from "../../fs/ops/data.ts";
import { create } from "../../fs/ops/names.ts";
import { truncate } from "../../fs/ops/truncate.ts";
import { ReadParts } from "../../fs/read_parts.ts";
import { LocalCluster } from "../helpers/local_cluster.ts";
import { LocalFs } from "../helpers/local_fs.ts";
import { readBytes } from "../helpers/read_bytes.ts";
import { SeededRandom } from "../helpers/sim_reactor.ts";
import { SlowReads } from "../helpers/slow_reads.ts";

const caller = { ...ROOT_CALLER, umask: 0o022 };

/** Each block holds its number and a version. */
function blocks(blkno: number, len: number, version: number): Uint8Array {
  const bytes = new Uint8Array(len * SM_SIZE);
  const words = new Uint32Array(bytes.buffer);
  for (let i = 0; i < len; i++) {
    words.fill((blkno + i) * 1000 + version, i * (SM_SIZE / 4), (i + 1) * (SM_SIZE / 4));
  }
  return bytes;
}

function readAll(cache: DataCache, blkno: number, len: number, grant: number): Uint8Array {
  const parts = new ReadParts();
  cache.begin();
  cache.read(blkno, len, grant, parts);
  const bytes = new Uint8Array(len * SM_SIZE);
  assert.equal(parts.length, bytes.length);
  parts.moveTo(bytes);
  return bytes;
}

for (const seed of [1, 2, 3, 4]) {
  Deno.test(`data cache: reads equal the device (seed ${seed})`, () => {
    const BLOCKS = 16384;
    const random = new SeededRandom(seed);
    const dev = new MemDevice(BLOCKS * SM_SIZE);
    const ahead = new SlowReads(dev, random);
    // Twenty of the device's 64 MiB, so that chunks are evicted all the time.
    const cache = new DataCache(dev, seed === 1 ? null : ahead, 20 << 20);
    let grant = 1;
    let version = 0;
    const streams = [0, 0, 0].map(() => random.below(BLOCKS));
    const extents = 3; // Ahead of each reader, blocks of its file as they lie on the device.
    for (let step = 0; step < 1500; step++) {
      const dice = random.below(100);
      if (dice < 50) {
        const file = random.below(extents);
        const first = streams[file]!;
        const len = Math.min(1 + random.below(random.below(2) === 0 ? 8 : 256), BLOCKS - first);
        if (len <= 0) {
          streams[file] = random.below(BLOCKS);
          continue;
        }
        const end = first + len;
        cache.begin();
        cache.follow(file, first, end, end, BLOCKS, grant);
        const got = readAll(cache, first, len, grant);
        const want = new Uint8Array(len * SM_SIZE);
        dev.read(want, first * SM_SIZE);
        assert.ok(Buffer.compare(got, want) === 0, `seed ${seed} step ${step}: ${first}+${len}`);
        streams[file] = random.below(8) === 0 ? random.below(BLOCKS) : end;
      } else if (dice < 80) {
        // Often just ahead of a reader, where reads are under way.
        const near = streams[random.below(extents)]! + random.below(600);
        const blkno = Math.min(random.below(2) === 0 ? near : random.below(BLOCKS), BLOCKS - 1);
        const len = Math.min(1 + random.below(40), BLOCKS - blkno);
        version = (version + 1) % 1000;
        const bytes = blocks(blkno, len, version);
        // Either order is that of one turn.
        if (random.below(2) === 0) cache.forget(blkno, len);
        dev.write(bytes, blkno * SM_SIZE);
        cache.forget(blkno, len);
      } else if (dice < 82) {
        cache.forget(0, BLOCKS);
        assert.equal(cache.blocks, 0);
      } else if (dice < 85) {
        // The lock was lost: others write, and nothing tells us of what.
        grant++;
        const blkno = random.below(BLOCKS - 2000);
        dev.write(blocks(blkno, 2000, ++version % 1000), blkno * SM_SIZE);
      } else if (dice < 90) ahead.reap(false);
    }
    assert.ok(cache.blocks * SM_SIZE <= 20 << 20);
    if (seed > 1) assert.ok(ahead.started > 100 && ahead.failed > 0, "nothing was read ahead");
  });
}

Deno.test("data cache: a second read does not reach the device; one in order is ahead of it", () => {
  const dev = new MemDevice(8192 * SM_SIZE);
  dev.write(blocks(0, 8192, 1), 0);
  const ahead = new SlowReads(dev, new SeededRandom(1), { failPerMille: 0, most: 32 });
  const cache = new DataCache(dev, ahead, 64 << 20);
  readAll(cache, 100, 50, 1);
  const before = dev.reads;
  assert.deepEqual(readAll(cache, 120, 30, 1), blocks(120, 30, 1));
  assert.equal(dev.reads, before);
  let waited: number | null = null;
  for (let b = 1024; b < 4096; b += 256) {
    cache.begin();
    cache.follow(7, b - 1024, b - 1024 + 256, b + 256, 4096 - 1024, 1);
    assert.ok(Buffer.compare(readAll(cache, b, 256, 1), blocks(b, 256, 1)) === 0);
    // Only the first request waits for the device, in a few large reads.
    waited ??= cache.counts.reads;
    assert.ok(waited <= 1 + 3);
    assert.equal(cache.counts.reads, waited);
  }
  assert.ok(ahead.started >= 2816 / 128);
});

Deno.test("data cache: a read ahead that failed is an error only for who needs it", () => {
  const dev = new MemDevice(4096 * SM_SIZE);
  const ahead = new SlowReads(dev, new SeededRandom(1), { failPerMille: 1000, most: 32 });
  const cache = new DataCache(dev, ahead, 64 << 20);
  cache.begin();
  cache.follow(7, 0, 256, 256, 4096, 1);
  assert.ok(ahead.pending > 0);
  readAll(cache, 0, 256, 1);
  const bad = { from: 300 * SM_SIZE, to: 301 * SM_SIZE };
  dev.inject({ op: "read", kind: "fail", nth: 0, sticky: true, ...bad });
  assert.throws(() => readAll(cache, 256, 256, 1), DeviceError);
  dev.clearFaults();
  assert.deepEqual(readAll(cache, 256, 256, 1), new Uint8Array(256 * SM_SIZE));
});

Deno.test("read parts: windows in order, neighbours joined, trimmed, moved", () => {
  const memory = new Uint8Array(4096).map((_, i) => i);
  const parts = new ReadParts();
  parts.add(memory.subarray(0, 100));
  parts.add(memory.subarray(100, 300));
  parts.add(memory.subarray(1000, 1010));
  assert.deepEqual([parts.count, parts.length], [2, 310]);
  parts.trim(299, 5);
  assert.deepEqual([parts.count, parts.length], [2, 5]);
  const out = new Uint8Array(8);
  parts.moveTo(out);
  assert.deepEqual([parts.count, parts.length], [1, 5]);
  assert.deepEqual([...out], [299 & 255, 1000 & 255, 1001 & 255, 1002 & 255, 1003 & 255, 0, 0, 0]);
  parts.trim(1, 2);
  assert.deepEqual([...parts.part(0)], [1000 & 255, 1001 & 255]);
});

Deno.test("two mounts never read each other's past", async () => {
  const random = new SeededRandom(9);
  const cluster = await LocalCluster.make({ dataBytes: 1 << 30 });
  const slow = () => new SlowReads(cluster.data, random);
  const mounts = [
    await LocalFs.mount(cluster, { readAhead: slow() }),
    await LocalFs.mount(cluster, { readAhead: slow() }),
  ];
  const [a] = mounts;
  const name = new TextEncoder().encode("f");
  const ino = await a!.run((op, fs) => create(op, fs, 1, name, 0o100644, 0), caller);
  let model = new Uint8Array(0);
  let id = 1;
  const SIZE = 4 << 20;
  for (let step = 0; step < 300; step++) {
    const m = mounts[random.below(2)]!;
    const dice = random.below(100);
    if (dice < 35) {
      const offset = random.below(SIZE / SM_SIZE) * SM_SIZE + (random.below(3) === 0 ? 77 : 0);
      const data = new Uint8Array(1 + random.below(random.below(3) === 0 ? 1 << 20 : 30_000));
      data.fill(1 + (step % 255));
      await write(m.fs, {
        ino,
        offset,
        data,
        append: false,
        direct: random.below(3) === 0,
        sync: random.below(10) === 0,
        killSuidgid: false,
        pageWrite: false,
        caller,
        id: id++,
      });
      if (offset + data.length > model.length) {
        const grown = new Uint8Array(offset + data.length);
        grown.set(model);
        model = grown;
      }
      model.set(data, offset);
    } else if (dice < 42) {
      const size = random.below(SIZE);
      await truncate(m.fs, ino, size, caller, id++);
      const cut = new Uint8Array(size);
      cut.set(model.subarray(0, size));
      model = cut;
    } else {
      // In order, so that reads ahead are under way when the lock goes.
      let offset = random.below(4) === 0 ? random.below(SIZE) : 0;
      for (let n = random.below(6); n >= 0 && offset < model.length; n--) {
        const length = random.below(3) === 0 ? 1 << 20 : 128 << 10;
        const got = await readBytes(m.fs, { ino, offset, length, caller, id: id++ });
        const want = model.subarray(offset, offset + length);
        assert.ok(Buffer.compare(got, want) === 0, `step ${step}: ${length} bytes at ${offset}`);
        offset += length;
      }
    }
  }
  for (const m of mounts) await m.unmount();
});
