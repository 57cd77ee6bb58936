/** The server's persistent state: requests, shared commits, errors, reclaim (03 §13–16, §23). */

import { deepStrictEqual as same, ok, rejects, strictEqual as equal } from "node:assert/strict";
import { EINVAL, EIO, ENOENT, ENOLINK } from "../../format/errno.ts";
import { LogTrees } from "../../format/log_trees.ts";
import { SrchCompact } from "../../format/srch.ts";
import { VolumeOptions } from "../../format/super.ts";
import * as wire from "../../format/wire.ts";
import { AssertionError, FsError } from "../../fs/errors.ts";
import type { MemDevice } from "../../fs/memory_device.ts";
import type { ServerStore } from "../../net/store.ts";
import { StoreCore } from "../../net/store_core.ts";
import { address, ModelClient, newVolume, openStore } from "../helpers/model_client.ts";
import { checkOwnership, type Ownership } from "../helpers/ownership.ts";
import { SeededRandom } from "../helpers/sim_reactor.ts";

const MiB = 1 << 20;
const NOTHING = new Uint8Array(0);
const RID = 0x1111_2222_3333_4444n;

const errno = (n: number) => (e: unknown) => e instanceof FsError && e.errno === n;

function sound(dev: MemDevice): Ownership {
  const found = checkOwnership(dev);
  same(found.problems, []);
  return found;
}

/** The volume is sound and STATFS tells what the checker counts. */
async function agree(dev: MemDevice, store: ServerStore): Promise<Ownership> {
  const found = sound(dev);
  const statfs = wire.NetStatfs.at(await store.request(wire.CMD_STATFS, RID, NOTHING));
  equal(statfs.freeMetaBlocks, found.freeMeta);
  equal(statfs.freeDataBlocks, found.freeData);
  equal(statfs.inodeCount, found.inodes);
  equal(statfs.totalMetaBlocks, found.superBlock.totalMetaBlocks);
  equal(statfs.totalDataBlocks, found.superBlock.totalDataBlocks);
  return found;
}

function clean(found: Ownership): void {
  equal(found.mountedRids.length, 0);
  ok(found.logTrees.every((lt) => lt.isFinalized));
}

function client(dev: MemDevice, store: ServerStore, rid = RID, seed = 1): ModelClient {
  return new ModelClient(rid, dev, store, new SeededRandom(seed));
}

Deno.test("store: mount, one transaction, unmount (03 §28)", async () => {
  const dev = newVolume(256 * MiB, 256 * MiB);
  const store = openStore(dev);
  await store.start();
  same(store.mountedClients(), []);
  const c = client(dev, store);
  await c.mount();
  const opened = await agree(dev, store);
  same(opened.mountedRids, [RID]);
  equal(opened.logTrees.length, 1);
  ok(opened.logTrees[0]!.isOpen);
  equal(opened.logTrees[0]!.nr, 1);

  c.write(await c.create(), 100);
  c.srch(1);
  await c.commit();
  const committed = await agree(dev, store);
  ok(committed.logTrees[0]!.itemRoot.height === 1);
  equal(committed.inodes, 2);

  await store.reclaim(RID);
  await store.reclaim(RID); // nothing is left to do
  const left = await agree(dev, store);
  clean(left);
  equal(left.logTrees[0]!.inodeCountDelta, 1);
  ok(left.superBlock.srchRoot.height === 1, "the search log was rotated");

  const again = client(dev, store);
  await again.mount();
  equal(again.lt.nr, 2);
  equal((await agree(dev, store)).logTrees.length, 2);
});

Deno.test("store: requests of one turn share one commit", async () => {
  const dev = newVolume(1024 * MiB, 4096 * MiB);
  const store = openStore(dev);
  const clients = [1n, 2n, 3n].map((rid) => client(dev, store, rid));
  dev.startRecording();
  await Promise.all(clients.map((c) => c.mount()));
  const flushes = dev.log.filter((r) => r.kind === "flush").length;
  // all mounted-client items, then all log trees
  equal(flushes, 4);
  await agree(dev, store);
  // COMMIT and GET sent together are executed in that order in one commit
  const c = clients[0]!;
  await c.create();
  dev.startRecording();
  await c.commit(true);
  equal(dev.log.filter((r) => r.kind === "flush").length, 1 + 2);
  await agree(dev, store);
});

Deno.test("store: random clients keep the books", async () => {
  for (let seed = 1; seed <= 6; seed++) {
    const random = new SeededRandom(seed);
    const dev = newVolume(256 * MiB, 512 * MiB);
    let store = openStore(dev, seed);
    let clients: ModelClient[] = [];
    let rid = 100n;
    for (let round = 0; round < 25; round++) {
      if (clients.length < 4 && random.oneIn(3)) {
        const c = client(dev, store, rid++, seed * 1000 + round);
        await c.mount();
        clients.push(c);
      }
      for (const c of clients) await c.work();
      await Promise.all(clients.map((c) => c.commit()));
      if (clients.length > 1 && random.oneIn(4)) {
        const gone = clients.splice(random.below(clients.length), 1)[0]!;
        await store.reclaim(gone.rid);
      }
      if (random.oneIn(6)) { // the server fails over
        store.stop();
        store = openStore(dev, seed + round);
        await store.start();
        for (const c of clients) {
          await c.work();
          c.writeBack();
          await c.resend(store);
        }
      }
      await agree(dev, store);
    }
    for (const c of clients) await store.reclaim(c.rid);
    clients = [];
    clean(await agree(dev, store));
  }
});

Deno.test("store: a resent request of a dead server's client", async () => {
  const dev = newVolume(256 * MiB, 256 * MiB);
  const first = openStore(dev);
  const c = client(dev, first);
  await c.mount();
  await c.create();
  c.writeBack();
  const value = c.lt.bytes.slice();
  const request = (store: ServerStore, cmd: number, payload: Uint8Array) =>
    store.request(cmd, RID, payload);
  await request(first, wire.CMD_COMMIT_LOG_TREES, value);
  const opened = await request(first, wire.CMD_GET_LOG_TREES, NOTHING);

  const second = openStore(dev, 2);
  await second.start();
  same(await request(second, wire.CMD_GET_LOG_TREES, NOTHING), opened);
  const before = LogTrees.at(opened).getTransSeq;
  // of a transaction that is over
  await rejects(request(second, wire.CMD_COMMIT_LOG_TREES, value), errno(EIO));
  await request(second, wire.CMD_COMMIT_LOG_TREES, opened);
  await request(second, wire.CMD_COMMIT_LOG_TREES, opened);
  const next = LogTrees.at(await request(second, wire.CMD_GET_LOG_TREES, NOTHING));
  ok(
    next.getTransSeq > before + 1000,
    "a server with mounted clients starts its counter with a gap",
  );
  await agree(dev, second);

  await second.reclaim(RID);
  await rejects(request(second, wire.CMD_COMMIT_LOG_TREES, next.bytes), errno(EIO)); // T17
  next.nr = 7;
  await rejects(request(second, wire.CMD_COMMIT_LOG_TREES, next.bytes), errno(ENOENT));
  await rejects(second.request(wire.CMD_COMMIT_LOG_TREES, 5n, next.bytes), errno(EIO));
  clean(await agree(dev, second));
});

Deno.test("store: a failed commit is told to all and the next one starts over", async () => {
  for (const op of ["write", "flush"] as const) {
    for (let nth = 0; nth < 12; nth++) {
      const dev = newVolume(256 * MiB, 256 * MiB);
      const store = openStore(dev);
      const a = client(dev, store, 1n), b = client(dev, store, 2n, 2);
      await a.mount();
      await b.mount();
      await a.work();
      await b.work();
      a.writeBack();
      b.writeBack();
      const stable = checkOwnership(dev);
      dev.inject({ op, kind: "fail", nth });
      const commits = [a, b].map((c) =>
        store.request(wire.CMD_COMMIT_LOG_TREES, c.rid, c.lt.bytes.slice())
      );
      const outcomes = await Promise.allSettled(commits);
      const failed = outcomes.filter((o) => o.status === "rejected").length;
      dev.clearFaults();
      ok(failed === 0 || failed === 2);
      if (failed === 2 && op === "write" && nth === 0) {
        equal(checkOwnership(dev).superBlock.hdr.seq, stable.superBlock.hdr.seq);
      }
      sound(dev);
      for (const c of [a, b]) await c.resend(store);
      await a.work();
      await a.commit();
      await agree(dev, store);
      await store.reclaim(1n);
      await store.reclaim(2n);
      clean(await agree(dev, store));
    }
  }
});

Deno.test("store: what no client may send", async () => {
  const dev = newVolume(256 * MiB, 256 * MiB);
  const store = openStore(dev);
  const c = client(dev, store);
  await c.mount();
  const commit = (change: (lt: LogTrees) => void) => {
    const sent = LogTrees.at(c.lt.bytes.slice());
    change(sent);
    return store.request(wire.CMD_COMMIT_LOG_TREES, RID, sent.bytes);
  };
  await rejects(commit((lt) => void (lt.flags = 1)), errno(EINVAL));
  await rejects(commit((lt) => void lt.bytes.fill(255, 16, 24)), errno(EINVAL));
  await rejects(commit((lt) => void (lt.rid = 3n)), errno(EIO));
  const sizes = new Uint8Array(16).fill(255);
  await rejects(store.request(wire.CMD_RESIZE_DEVICES, RID, sizes), errno(EINVAL));
  await c.commit();
  await agree(dev, store);
});

Deno.test("store: a defect stops the store before anything is written", async () => {
  const dev = newVolume(256 * MiB, 256 * MiB);
  const buf = dev.allocBuffer(4096);
  dev.read(buf, 65536);
  const core = new StoreCore(dev, buf, { random: new SeededRandom(1) });
  const fine = core.run(() => true);
  const broken = core.run(() => {
    throw new AssertionError("a defect");
  });
  dev.startRecording();
  const refused = rejects(fine, errno(ENOLINK));
  await rejects(broken, AssertionError);
  await refused;
  await rejects(core.run(() => true), errno(ENOLINK));
  equal(dev.log.length, 0);
});

Deno.test("store: stopping refuses everything and writes nothing", async () => {
  const dev = newVolume(256 * MiB, 256 * MiB);
  const store = openStore(dev);
  const c = client(dev, store);
  await c.mount();
  const pending = store.request(wire.CMD_ALLOC_INODES, RID, new Uint8Array(8));
  const refused = rejects(pending, FsError);
  dev.startRecording();
  store.stop();
  await refused;
  await rejects(store.reclaim(RID), FsError);
  equal(dev.log.length, 0);
});

Deno.test("store: inode numbers, roots, last seq", async () => {
  const dev = newVolume(256 * MiB, 256 * MiB);
  const store = openStore(dev);
  const ask = wire.NetU64.alloc();
  ask.value = 10240;
  const alloc = async () =>
    wire.NetAllocInodes.at(await store.request(wire.CMD_ALLOC_INODES, RID, ask.bytes));
  const one = await alloc(), two = await alloc();
  equal(one.ino, 1024);
  equal(one.nr, 10240);
  equal(two.ino, 1024 + 10240);
  const all = new Uint8Array(8).fill(255);
  const rest = wire.NetAllocInodes.at(await store.request(wire.CMD_ALLOC_INODES, RID, all));
  equal(rest.ino, 1024 + 20480);
  equal((await alloc()).nr, 0);
  await rejects(store.request(wire.CMD_ALLOC_INODES, RID, NOTHING), errno(EINVAL));

  const roots = async () => wire.NetRoots.at(await store.request(wire.CMD_GET_ROOTS, RID, NOTHING));
  ok((await roots()).logsRoot.isEmpty);
  const last = async () =>
    wire.NetU64.at(await store.request(wire.CMD_GET_LAST_SEQ, RID, NOTHING)).value;
  const c = client(dev, store);
  await c.mount();
  ok(!(await roots()).logsRoot.isEmpty);
  equal(await last(), c.lt.getTransSeq - 1);
  for (let i = 0; i < 10; i++) store.counterNext();
  equal(await last(), c.lt.getTransSeq - 1);
  await c.commit();
  equal(await last(), c.lt.getTransSeq - 1);
  await store.reclaim(RID);
  const idle = await last();
  equal(idle, c.lt.getTransSeq); // finalizing drew another one
  store.counterRaise(idle + 100);
  equal(await last(), idle + 99);
  store.counterRaise(5);
  equal(await last(), idle + 99);
});

Deno.test("store: volume options and their failed commit", async () => {
  const dev = newVolume(256 * MiB, 64 * 1024 * MiB);
  const store = openStore(dev);
  const get = async () => VolumeOptions.at(await store.request(wire.CMD_GET_VOLOPT, RID, NOTHING));
  const opt = VolumeOptions.alloc();
  opt.setOption(0, 1n << 21n);
  await store.request(wire.CMD_SET_VOLOPT, RID, opt.bytes);
  equal((await get()).dataAllocZoneBlocks, 1 << 21);
  equal(checkOwnership(dev).superBlock.volopt.dataAllocZoneBlocks, 1 << 21);
  const bad = VolumeOptions.alloc();
  for (const [option, value] of [[0, 4096n], [0, 1n << 40n], [1, 1n]] as const) {
    bad.zero();
    bad.setOption(option, value);
    await rejects(store.request(wire.CMD_SET_VOLOPT, RID, bad.bytes), errno(EINVAL));
  }
  dev.inject({ op: "write", kind: "fail", nth: 0 });
  await rejects(store.request(wire.CMD_CLEAR_VOLOPT, RID, opt.bytes), errno(EIO));
  dev.clearFaults();
  // the next commit, of something else, must not carry the change
  await store.insertMountedClient(9n, address(), false);
  equal(checkOwnership(dev).superBlock.volopt.dataAllocZoneBlocks, 1 << 21);
  await store.request(wire.CMD_CLEAR_VOLOPT, RID, opt.bytes);
  ok((await get()).isZero());
});

Deno.test("store: data zones are recorded and kept apart", async () => {
  const zoneBlocks = 1 << 20;
  const dev = newVolume(256 * MiB, 64 * 1024 * MiB, { zoneBlocks });
  const store = openStore(dev);
  const clients = [1n, 2n, 3n].map((rid) => client(dev, store, rid));
  for (const c of clients) await c.mount();
  const zones = clients.map((c) => [...Array(16).keys()].filter((z) => c.lt.hasZone(z)));
  ok(zones.every((z) => z.length > 0));
  // no two begin in the same zone; extents are not clipped, so neighbours may meet at an edge
  equal(new Set(zones.map((z) => z[0])).size, 3);
  ok(clients.every((c) => c.lt.dataAllocZoneBlocks === zoneBlocks));
  await agree(dev, store);
});

Deno.test("store: devices grow", async () => {
  const dev = newVolume(256 * MiB, 256 * MiB);
  const store = openStore(dev, 1, { dataDeviceSize: () => 512 * MiB });
  const ask = wire.NetResizeDevices.alloc();
  const resize = () => store.request(wire.CMD_RESIZE_DEVICES, RID, ask.bytes);
  await resize();
  ask.newTotalDataBlocks = 100000;
  await resize();
  await resize();
  equal((await agree(dev, store)).superBlock.totalDataBlocks, 100000);
  ask.newTotalDataBlocks = 90000;
  await rejects(resize(), errno(EINVAL));
  ask.newTotalDataBlocks = 512 * 256 + 1;
  await rejects(resize(), errno(EINVAL));
  ask.newTotalDataBlocks = 0;
  ask.newTotalMetaBlocks = 4097;
  await rejects(resize(), errno(EINVAL));
  const c = client(dev, store);
  await c.mount();
  await agree(dev, store);
});

Deno.test("store: background work is answered with none", async () => {
  const store = openStore(newVolume(256 * MiB, 256 * MiB));
  const compact = await store.request(wire.CMD_SRCH_GET_COMPACT, RID, NOTHING);
  equal(SrchCompact.at(compact).nr, 0);
  await rejects(store.request(wire.CMD_GET_LOG_MERGE, RID, NOTHING), errno(ENOENT));
  await rejects(store.request(wire.CMD_COMMIT_LOG_MERGE, RID, new Uint8Array(208)), errno(ENOENT));
  await rejects(
    store.request(wire.CMD_SRCH_COMMIT_COMPACT, RID, new Uint8Array(584)),
    errno(ENOENT),
  );
});
