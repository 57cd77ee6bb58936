/** Reading through the item cache: shared roots, reused blocks, corrupt blocks. */

import assert from "node:assert/strict";
import { LG_SIZE } from "../../format/constants.ts";
import { EIO } from "../../format/errno.ts";
import { LogTrees } from "../../format/log_trees.ts";
import { CMD_GET_ROOTS, LOCK_READ, LOCK_WRITE } from "../../format/wire.ts";
import { BlockCache } from "../../fs/block_cache.ts";
import { FsError } from "../../fs/errors.ts";
import { forEachLogTree } from "../../fs/forest.ts";
import type { Op } from "../../fs/op.ts";
import { mount, testKey, type TestMount, unmount } from "../helpers/engine.ts";
import { LocalCluster } from "../helpers/local_cluster.ts";

const read = (m: TestMount, ino: number, n: number) =>
  m.fs.runner.run((op: Op) => {
    const lock = m.fs.locks.inode(ino);
    op.lock(lock, LOCK_READ);
    const item = m.fs.items.lookup(op, lock, testKey(ino, n));
    return item === null ? null : item.val.slice();
  });

const write = (m: TestMount, ino: number, n: number, val: Uint8Array) =>
  m.fs.runner.run((op: Op) => {
    const lock = m.fs.locks.inode(ino);
    op.lock(lock, LOCK_WRITE);
    const found = m.fs.items.lookup(op, lock, testKey(ino, n));
    op.hold({ allocating: true, items: 1 });
    op.apply();
    if (found === null) m.fs.items.create(op, lock, testKey(ino, n), val);
    else m.fs.items.update(op, lock, testKey(ino, n), val);
  });

Deno.test("roots are asked for once for locks that were granted before, and again after a commit", async () => {
  const cluster = await LocalCluster.make();
  const m = await mount(cluster, {
    limits: {
      itemCacheBytes: 0,
      dirtyItemBytes: 1 << 20,
      blockCacheBytes: 1 << 22,
      dataCacheBytes: 0,
    },
  });
  const asked = () => cluster.requests.filter((c) => c === CMD_GET_ROOTS).length;
  const inos = [5000, 8000, 11000];
  for (const ino of inos) {
    await m.fs.runner.run((op: Op) => op.lock(m.fs.locks.inode(ino), LOCK_READ));
  }
  const before = asked();
  for (let round = 0; round < 5; round++) {
    for (const ino of inos) {
      await read(m, ino, 1);
      for (let i = 0; i < 10; i++) m.fs.items.trim();
    }
  }
  assert.equal(m.fs.items.pages, 0, "everything was evicted each time");
  assert.equal(asked() - before, 1);
  await m.fs.trans.commit();
  await read(m, 5000, 1);
  assert.equal(asked() - before, 2);
  await read(m, 20000, 1);
  assert.equal(asked() - before, 3, "this lock was granted after the roots were asked for");
  await unmount(cluster, m);
});

Deno.test("a reader whose blocks are reused meanwhile starts over with new roots", async () => {
  const cluster = await LocalCluster.make();
  const [writer, reader] = [await mount(cluster), await mount(cluster)];
  for (let i = 0; i < 300; i++) await write(writer, 5000, i, new Uint8Array(200).fill(i));
  await writer.fs.trans.commit();
  // Roots are fetched for this lock; the trees' blocks are then replaced and reused by commits.
  await reader.fs.runner.run((op: Op) => op.lock(reader.fs.locks.inode(900000), LOCK_READ));
  await read(reader, 900000, 1);
  for (let round = 0; round < 30; round++) {
    for (let i = 0; i < 300; i++) await write(writer, 5000, i, new Uint8Array(200).fill(round));
    await writer.fs.trans.commit();
  }
  for (const page of [...reader.fs.locks.inode(900000).pages]) assert.ok(page.count === 0);
  reader.fs.items.dropItems(reader.fs.locks.inode(900000));
  assert.equal(await read(reader, 900000, 1), null);
  assert.deepEqual(await read(reader, 5000, 7), new Uint8Array(200).fill(29));
  for (const m of [writer, reader]) await unmount(cluster, m);
});

Deno.test("a corrupt block is EIO for what needs it, not an endless retry, and nothing else", async () => {
  const cluster = await LocalCluster.make();
  const first = await mount(cluster);
  await write(first, 5000, 1, new Uint8Array(10));
  await unmount(cluster, first);
  let leaf = 0;
  const cache = new BlockCache(cluster.meta, cluster.store.fsid, { random: cluster.random });
  forEachLogTree({ cache }, cluster.superBlock().logsRoot, (window) => {
    const lt = LogTrees.at(window.bytes.slice());
    if (lt.itemRoot.height === 1) leaf = lt.itemRoot.ref.blkno;
  });
  assert.ok(leaf > 0);
  const block = cluster.meta.allocBuffer(LG_SIZE);
  cluster.meta.read(block, leaf * LG_SIZE);
  block[1000]! ^= 1;
  cluster.meta.write(block, leaf * LG_SIZE);

  const m = await mount(cluster);
  const isEio = (e: unknown) => e instanceof FsError && e.errno === EIO;
  for (let i = 0; i < 3; i++) await assert.rejects(async () => await read(m, 5000, 1), isEio);
  await write(m, 900000, 1, new Uint8Array([5]));
  await m.fs.trans.sync();
  assert.deepEqual(await read(m, 900000, 1), new Uint8Array([5]));
  await unmount(cluster, m);
});
