/** The client's transaction: write order, repeated steps, crashes at any point, space, the end. */

import assert from "node:assert/strict";
import { TYPE_INODE_INDEX_META_SEQ } from "../../format/constants.ts";
import { EIO, ENOLINK, ENOSPC } from "../../format/errno.ts";
import { metaSeqKey, xattrTotlKey } from "../../format/item_keys.ts";
import { XattrTotlVal } from "../../format/items.ts";
import { Key } from "../../format/key.ts";
import { LogTrees } from "../../format/log_trees.ts";
import {
  CMD_COMMIT_LOG_TREES,
  CMD_GET_LOG_TREES,
  CMD_NAMES,
  LOCK_READ,
  LOCK_WRITE,
  LOCK_WRITE_ONLY,
} from "../../format/wire.ts";
import { BlockCache } from "../../fs/block_cache.ts";
import { forEachItem, walkBlocks } from "../../fs/btree.ts";
import type { Device } from "../../fs/device.ts";
import { FsError } from "../../fs/errors.ts";
import { forEachLogTree } from "../../fs/forest.ts";
import type { ServerLink } from "../../fs/link.ts";
import { MemDevice } from "../../fs/memory_device.ts";
import type { Op } from "../../fs/op.ts";
import { readSrch } from "../../fs/srch_file.ts";
import { collectItems } from "../helpers/check_namespace.ts";
import { mount, testKey, type TestMount, unmount } from "../helpers/engine.ts";
import { LocalCluster, settle } from "../helpers/local_cluster.ts";
import { checkOwnership } from "../helpers/ownership.ts";
import { SeededRandom } from "../helpers/sim_reactor.ts";

const INO = 5000;

/** Puts `val` under test item `n`; `also` runs in apply. */
function put(
  m: TestMount,
  n: number,
  val: Uint8Array,
  also: (op: Op) => void = () => {},
  dataBlocks = 0,
) {
  const { fs } = m;
  return fs.runner.run((op: Op) => {
    const lock = fs.locks.inode(INO);
    op.lock(lock, LOCK_WRITE);
    op.lock(fs.locks.totl(), LOCK_WRITE_ONLY);
    const found = fs.items.lookup(op, lock, testKey(INO, n));
    op.hold({ allocating: true, items: 4, dataBlocks });
    op.apply();
    if (found === null) fs.items.create(op, lock, testKey(INO, n), val);
    else fs.items.update(op, lock, testKey(INO, n), val);
    also(op);
  });
}

/** A device that notes its writes and flushes in a log shared with others. */
function noting(dev: MemDevice, log: string[]): Device {
  return {
    name: dev.name,
    size: dev.size,
    allocBuffer: (n) => dev.allocBuffer(n),
    read: (buf, off) => dev.read(buf, off),
    write: (buf, off) => {
      log.push(`${dev.name} write`);
      dev.write(buf, off);
    },
    writev: (bufs, off) => {
      log.push(`${dev.name} write`);
      dev.writev(bufs, off);
    },
    flush: () => {
      log.push(`${dev.name} flush`);
      dev.flush();
    },
    close: () => {},
  };
}

const whose = (own: boolean) => own ? "own server" : "another server";

for (const ownServer of [false, true]) {
  Deno.test(`commit: data, then metadata, flushes, then the messages (${whose(ownServer)})`, async () => {
    const cluster = await LocalCluster.make();
    cluster.ownServer = ownServer;
    const log: string[] = [];
    const m = await mount(cluster, {
      meta: noting(cluster.meta, log),
      data: noting(cluster.data, log),
    });
    const { fs, link } = m;
    const submit = link.submit.bind(link);
    link.submit = (cmd, payload, complete) => {
      log.push(CMD_NAMES[cmd]!);
      submit(cmd, payload, complete);
    };
    let unwritten = 1;
    fs.trans.beforeCommit({
      dirty: () => unwritten > 0,
      write: () => {
        if (unwritten-- > 0) fs.data.write(fs.data.allocBuffer(4096), 1 << 20);
      },
    });
    await put(m, 1, new Uint8Array(10));
    log.length = 0;
    await fs.trans.commit();
    const short = log.filter((line, i) => line !== log[i - 1]);
    assert.deepEqual(short, [
      "data write",
      "meta write",
      "data flush",
      // The own server flushes what both have written.
      ...(ownServer ? [] : ["meta flush"]),
      CMD_NAMES[CMD_COMMIT_LOG_TREES],
      CMD_NAMES[CMD_GET_LOG_TREES],
    ]);
    log.length = 0;
    await fs.trans.commit();
    assert.deepEqual(log, [CMD_NAMES[CMD_COMMIT_LOG_TREES], CMD_NAMES[CMD_GET_LOG_TREES]]);
    await unmount(cluster, m);
  });
}

/** A link whose next requests of a command fail, or are executed but answered with an error. */
function flaky(link: ServerLink, plan: { cmd: number; execute: boolean }[]): void {
  const submit = link.submit.bind(link);
  link.submit = (cmd, payload, complete) => {
    const at = plan.findIndex((p) => p.cmd === cmd);
    if (at < 0) return submit(cmd, payload, complete);
    const [fault] = plan.splice(at, 1);
    const fail = () => complete(EIO, new Uint8Array(0));
    if (fault!.execute) submit(cmd, payload, fail);
    else queueMicrotask(fail);
  };
}

for (const ownServer of [false, true]) {
  Deno.test(`a failing step of a commit is repeated alone: totals count once (${whose(ownServer)})`, async () => {
    for (let step = 0; step < 7; step++) {
      const cluster = await LocalCluster.make({ seed: step + 1 });
      cluster.ownServer = ownServer;
      const m = await mount(cluster);
      const { fs } = m;
      const key = xattrTotlKey(1n, 2n, 3n);
      const totl = (op: Op) => fs.items.delta(op, fs.locks.totl(), key, 5n, 1n);
      // A first commit, so that the second one adds to what is in the log tree.
      await put(m, 0, new Uint8Array(3), totl);
      await fs.trans.commit();
      for (let n = 1; n < 300; n++) await put(m, n, new Uint8Array(100).fill(n), totl);
      const plan: { cmd: number; execute: boolean }[] = [];
      flaky(m.link, plan);
      if (step === 0) cluster.meta.inject({ op: "write", kind: "fail", nth: 0 });
      if (step === 1) cluster.meta.inject({ op: "write", kind: "short", nth: 1 });
      if (step === 2) cluster.meta.inject({ op: "flush", kind: "fail", nth: 0 });
      if (step === 3) cluster.data.inject({ op: "flush", kind: "fail", nth: 0 });
      if (step === 4) plan.push({ cmd: CMD_COMMIT_LOG_TREES, execute: false });
      if (step === 5) plan.push({ cmd: CMD_COMMIT_LOG_TREES, execute: true });
      if (step === 6) {
        plan.push({ cmd: CMD_GET_LOG_TREES, execute: true });
        plan.push({ cmd: CMD_GET_LOG_TREES, execute: false });
      }
      let done = false;
      const commit = fs.trans.commit().then(() => done = true);
      await settle();
      // The answer that the next transaction is open says that a commit refused before it is stable.
      const told = ownServer && step === 5;
      assert.equal(done, told, `step ${step} was to fail`);
      // Reading goes on, changing waits.
      const blocked = put(m, 7, new Uint8Array(1));
      assert.equal(blocked instanceof Promise, !told);
      await cluster.timers.advance(6500);
      await commit;
      await blocked;
      assert.ok(
        (told || m.lines.length >= 1) && m.lines.every((l) => l.includes("trying again")),
        `${m.lines}`,
      );
      await unmount(cluster, m);
      const cache = new BlockCache(cluster.meta, cluster.store.fsid, { random: cluster.random });
      const items = collectItems(cache, cluster.superBlock());
      const total = items.find((i) => i.key.equals(key));
      assert.ok(total !== undefined);
      const val = XattrTotlVal.at(total.val);
      assert.equal(`${val.total} ${val.count}`, "1500 300", `step ${step}`);
      assert.equal(items.filter((i) => i.key.type === testKey(INO, 0).type).length, 300);
      assert.deepEqual(checkOwnership(cluster.meta).problems, []);
      cluster.stop();
    }
  });
}

/** Block numbers of the leaves of the newest log tree, and its test items' versions. */
function logTree(cluster: LocalCluster): { leaves: number[]; seqs: Map<string, number> } {
  const cache = new BlockCache(cluster.meta, cluster.store.fsid, { random: cluster.random });
  const leaves: number[] = [];
  const seqs = new Map<string, number>();
  forEachLogTree({ cache }, cluster.superBlock().logsRoot, (window) => {
    const { itemRoot } = LogTrees.at(window.bytes.slice());
    walkBlocks({ cache }, itemRoot, (b) => {
      if (b.level === 0) leaves.push(b.blkno);
    });
    forEachItem({ cache }, itemRoot, Key.ZEROS, (i) => void seqs.set(`${i.key}`, i.seq));
  });
  return { leaves, seqs };
}

Deno.test("insertion that fails between two leaves goes on where it stopped", async () => {
  const cluster = await LocalCluster.make();
  const m = await mount(cluster);
  const { fs } = m;
  const key = xattrTotlKey(1n, 2n, 3n);
  const totl = (op: Op) => fs.items.delta(op, fs.locks.totl(), key, 5n, 1n);
  for (let n = 0; n < 2000; n++) await put(m, n, new Uint8Array(100), totl);
  await fs.trans.commit();
  for (let n = 0; n < 2000; n += 10) await put(m, n, new Uint8Array(100).fill(1), totl);
  const { leaves } = logTree(cluster);
  assert.ok(leaves.length >= 4);
  for (const blkno of leaves) fs.cache.drop(blkno);
  cluster.meta.inject({ op: "read", kind: "fail", nth: 2 });
  const commit = fs.trans.commit();
  await settle();
  await cluster.timers.advance(2500);
  await commit;
  assert.equal(m.lines.length, 1);
  await unmount(cluster, m);
  const cache = new BlockCache(cluster.meta, cluster.store.fsid, { random: cluster.random });
  const total = collectItems(cache, cluster.superBlock()).find((i) => i.key.equals(key));
  assert.ok(total !== undefined);
  assert.equal(XattrTotlVal.at(total.val).count, 2200n);
  assert.deepEqual(checkOwnership(cluster.meta).problems, []);
});

Deno.test("an item written for another object is newer than that object's lock", async () => {
  const cluster = await LocalCluster.make();
  const m = await mount(cluster);
  const { fs } = m;
  const t = fs.trans.seq;
  const index = fs.locks.index(TYPE_INODE_INDEX_META_SEQ, t);
  await fs.runner.run((op: Op) => op.lock(index, LOCK_WRITE_ONLY));
  const inode = fs.locks.inode(INO);
  await fs.runner.run((op: Op) => op.lock(inode, LOCK_WRITE));
  assert.ok(inode.writeSeq > index.writeSeq && index.writeSeq > t);
  await fs.runner.run((op: Op) => {
    op.lock(index, LOCK_WRITE_ONLY);
    op.lock(inode, LOCK_WRITE);
    op.hold({ allocating: true });
    op.apply();
    fs.items.createForce(op, index, metaSeqKey(t, 1), new Uint8Array(0), inode);
    fs.items.createForce(op, index, metaSeqKey(t, 2), new Uint8Array(0), null);
    // Of another transaction: of this one it would leave nothing to write.
    fs.items.deleteForce(op, index, metaSeqKey(t - 1, 3), inode);
  });
  await fs.trans.commit();
  const { seqs } = logTree(cluster);
  const seqOf = (seq: number, ino: number) => seqs.get(`${metaSeqKey(seq, ino)}`);
  assert.deepEqual([seqOf(t, 1), seqOf(t, 2), seqOf(t - 1, 3)], [
    inode.writeSeq,
    index.writeSeq,
    inode.writeSeq,
  ]);
  await unmount(cluster, m);
});

Deno.test("scattered changes of a large log tree never exceed the metadata lists", async () => {
  const cluster = await LocalCluster.make({ dataBytes: 64 << 20, metaBytes: 256 << 20 });
  const m = await mount(cluster);
  const count = 24000;
  for (let n = 0; n < count; n++) await put(m, n, new Uint8Array(400));
  await m.fs.trans.commit();
  assert.ok(logTree(cluster).leaves.length > 150);
  const random = new SeededRandom(4);
  for (let i = 0; i < 1500; i++) {
    await put(m, random.below(count), new Uint8Array(400).fill(i));
    if (m.lines.length > 0) break;
  }
  assert.deepEqual(m.lines, []);
  await unmount(cluster, m);
  assert.deepEqual(checkOwnership(cluster.meta).problems, []);
});

Deno.test("after a crash at any point every operation is there whole or not at all", async () => {
  const cluster = await LocalCluster.make({ metaBytes: 128 << 20, dataBytes: 256 << 20 });
  const m = await mount(cluster);
  const { fs } = m;
  const spread = [5000, 7000, 90000];
  const change = (round: number) =>
    fs.runner.run((op: Op) => {
      for (const ino of spread) op.lock(fs.locks.inode(ino), LOCK_WRITE);
      const found = spread.map((ino) => fs.items.lookup(op, fs.locks.inode(ino), testKey(ino, 1)));
      op.hold({ allocating: true, items: 3 });
      op.apply();
      const val = new Uint8Array(4);
      new DataView(val.buffer).setUint32(0, round, true);
      spread.forEach((ino, i) => {
        const lock = fs.locks.inode(ino);
        if (found[i] === null) fs.items.create(op, lock, testKey(ino, 1), val);
        else fs.items.update(op, lock, testKey(ino, 1), val);
      });
    });
  await change(1);
  await fs.trans.sync();
  cluster.meta.startRecording();
  /** From this record on, that round must survive. */
  const durable: { at: number; round: number }[] = [{ at: 0, round: 1 }];
  for (let round = 2; round <= 12; round++) {
    await change(round);
    if (round % 2 === 0) {
      await fs.trans.sync();
      durable.push({ at: cluster.meta.log.length, round });
    }
  }
  const random = new SeededRandom(9);
  const records = cluster.meta.log.length;
  for (let prefix = 0; prefix <= records; prefix += 1 + random.below(3)) {
    const crashed = cluster.meta.replayKeeping(prefix, () => random.below(2) === 0);
    const after = await LocalCluster.open(crashed, new MemDevice(cluster.data.size), prefix + 2);
    const reader = await mount(after);
    const values = await reader.fs.runner.run((op: Op) =>
      spread.map((ino) => {
        op.lock(reader.fs.locks.inode(ino), LOCK_READ);
        const item = reader.fs.items.lookup(op, reader.fs.locks.inode(ino), testKey(ino, 1));
        assert.ok(item !== null);
        return new DataView(item.val.slice().buffer).getUint32(0, true);
      })
    );
    const least = durable.filter((d) => d.at <= prefix).at(-1)!.round;
    assert.ok(values.every((v) => v === values[0]), `prefix ${prefix}: torn operation ${values}`);
    assert.ok(values[0]! >= least, `prefix ${prefix}: ${values[0]} although ${least} was durable`);
    await unmount(after, reader);
    assert.deepEqual(checkOwnership(after.meta).problems, [], `prefix ${prefix}`);
    after.stop();
  }
  await unmount(cluster, m);
});

Deno.test("data blocks: promised, given, given back, and found again after a commit", async () => {
  const cluster = await LocalCluster.make({ dataBytes: 64 << 20, metaBytes: 128 << 20 });
  const m = await mount(cluster);
  const { fs } = m;
  const mine: { blkno: number; len: number }[] = [];
  const take = (count: number) =>
    put(m, mine.length, new Uint8Array(1), (op) => {
      for (let left = count; left > 0;) {
        const piece = fs.trans.allocData(op, left);
        assert.ok(piece.len > 0 && piece.len <= left);
        mine.push(piece);
        left -= piece.len;
      }
    }, count);
  let failed: unknown = null;
  for (let i = 0; i < 1000 && failed === null; i++) {
    try {
      await take(1 + i % 300);
    } catch (e) {
      failed = e;
    }
  }
  assert.ok(failed instanceof FsError && failed.errno === ENOSPC);
  const seen = new Set<number>();
  let total = 0;
  for (const { blkno, len } of mine) {
    for (let b = blkno; b < blkno + len; b++) seen.add(b);
    total += len;
  }
  assert.equal(seen.size, total, "a block was given twice");
  assert.ok(total > 0.9 * (64 << 20) / 4096, `only ${total} blocks were given`);
  // Freed blocks come back, and the next hold waits for the commit that brings them.
  await put(m, 0, new Uint8Array(2), (op) => {
    for (const { blkno, len } of mine.splice(0)) fs.trans.freeData(op, blkno, len);
  });
  await take(2000);
  await put(m, 0, new Uint8Array(2), (op) => {
    for (const { blkno, len } of mine.splice(0)) fs.trans.freeData(op, blkno, len);
  });
  await unmount(cluster, m);
  assert.deepEqual(checkOwnership(cluster.meta).problems, []);
  cluster.stop();
});

Deno.test("full metadata: ENOSPC for allocating operations, others go on, commits never fail", async () => {
  const cluster = await LocalCluster.make({ dataBytes: 64 << 20, metaBytes: 128 << 20 });
  const m = await mount(cluster);
  const { fs } = m;
  const random = new SeededRandom(1);
  let count = 0;
  let failed: unknown = null;
  while (failed === null) {
    try {
      const n = count % 16 === 0 ? random.below(1 << 20) : (1 << 20) + count;
      await put(m, n, new Uint8Array(896).fill(count));
      count++;
    } catch (e) {
      failed = e;
    }
    assert.ok(count < 100000, "the volume never fills");
  }
  assert.ok(failed instanceof FsError && failed.errno === ENOSPC, `${failed}`);
  assert.ok(count > 1000, `full after ${count} items`);
  for (let i = 0; i < 20; i++) {
    await fs.runner.run((op: Op) => {
      const lock = fs.locks.inode(INO);
      op.lock(lock, LOCK_WRITE);
      const item = fs.items.next(op, lock, testKey(INO, 0), lock.end);
      assert.ok(item !== null);
      op.hold({ allocating: false, items: 1 });
      op.apply();
      fs.items.delete(op, lock, item.key);
    });
    await fs.trans.commit();
  }
  assert.deepEqual(m.lines, []);
  await unmount(cluster, m);
  assert.deepEqual(checkOwnership(cluster.meta).problems, []);
  cluster.stop();
});

Deno.test("srch entries and the inode count are part of the commit", async () => {
  const cluster = await LocalCluster.make();
  const m = await mount(cluster);
  const { fs } = m;
  for (let i = 0; i < 50; i++) {
    await put(m, i, new Uint8Array(1), (op) => {
      fs.trans.appendSrch(op, BigInt(1000 + i % 7), 5000 + i, i);
      fs.trans.addInodes(op, i % 3 === 0 ? -1 : 2);
    });
    if (i === 20) await fs.trans.commit();
  }
  await fs.trans.sync();
  const cache = new BlockCache(cluster.meta, cluster.store.fsid, { random: cluster.random });
  const entries: string[] = [];
  let delta = 0;
  forEachLogTree({ cache }, cluster.superBlock().logsRoot, (window) => {
    const lt = LogTrees.at(window.bytes.slice());
    delta += lt.inodeCountDelta;
    readSrch({ cache }, lt.srchFile, (e) => {
      entries.push(`${e.hash} ${e.ino} ${e.id}`);
    });
  });
  const expected = Array.from({ length: 50 }, (_, i) => `${1000 + i % 7} ${5000 + i} ${i}`);
  assert.deepEqual(entries.sort(), expected.sort());
  assert.equal(delta, 33 * 2 - 17);
  await unmount(cluster, m);
});

Deno.test("an aborted mount writes nothing more; whatever waits fails with ENOLINK", async () => {
  const cluster = await LocalCluster.make();
  const m = await mount(cluster);
  const { fs } = m;
  await put(m, 1, new Uint8Array(5));
  cluster.meta.inject({ op: "write", kind: "fail", nth: 0, sticky: true });
  const sync = fs.trans.sync();
  await settle();
  const waiting = put(m, 2, new Uint8Array(5));
  const dead = (e: unknown) => e instanceof FsError && e.errno === ENOLINK;
  const all = [
    assert.rejects(sync, dead),
    assert.rejects(async () => await waiting, dead),
  ];
  fs.abort();
  cluster.meta.clearFaults();
  await Promise.all(all);
  const before = cluster.meta.writes;
  await cluster.timers.advance(30000);
  assert.equal(cluster.meta.writes, before);
  await assert.rejects(fs.trans.sync(), dead);
  await assert.rejects(async () => await put(m, 3, new Uint8Array(5)), dead);
  await cluster.disconnect(m.link);
});

Deno.test("SYNC_LOG_TREES makes an idle mount commit", async () => {
  const cluster = await LocalCluster.make();
  const m = await mount(cluster);
  m.link.sync();
  await settle();
  assert.equal(m.fs.trans.commits, 1);
  await unmount(cluster, m);
});
