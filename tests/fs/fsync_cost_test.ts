/** What one fsync of an appended block writes, counted: blocks, device calls, flushes, messages. */

import assert from "node:assert/strict";
import { LG_SIZE } from "../../format/constants.ts";
import { Key } from "../../format/key.ts";
import { LogTrees } from "../../format/log_trees.ts";
import { CMD_COMMIT_LOG_TREES, CMD_GET_LOG_TREES } from "../../format/wire.ts";
import { BlockCache } from "../../fs/block_cache.ts";
import { forEachItem } from "../../fs/btree.ts";
import { ROOT_CALLER } from "../../fs/caller.ts";
import { forEachLogTree } from "../../fs/forest.ts";
import type { MemDevice } from "../../fs/memory_device.ts";
import { write } from "../../fs/ops/data.ts";
import { create } from "../../fs/ops/names.ts";
import { LocalCluster } from "../helpers/local_cluster.ts";
import { LocalFs } from "../helpers/local_fs.ts";

const caller = { ...ROOT_CALLER, umask: 0o022 };

/** Counts the calls of a device and its 64 KiB blocks from now on. */
function counting(dev: MemDevice) {
  const n = { blocks: 0, small: 0, calls: 0, reads: 0, flushes: 0 };
  const { writev, read, flush } = dev;
  // A plain write is one of a single buffer.
  dev.writev = (bufs, off) => {
    const bytes = bufs.reduce((sum, b) => sum + b.length, 0);
    n.calls++;
    if (bytes < LG_SIZE) n.small++;
    else n.blocks += bytes / LG_SIZE;
    writev.call(dev, bufs, off);
  };
  dev.read = (buf, off) => {
    n.reads++;
    read.call(dev, buf, off);
  };
  dev.flush = () => {
    n.flushes++;
    flush.call(dev);
  };
  return n;
}

/** Items in all log trees, deletions included. */
function logItems(cluster: LocalCluster): number {
  const cache = new BlockCache(cluster.meta, cluster.store.fsid, { random: cluster.random });
  let count = 0;
  forEachLogTree({ cache }, cluster.superBlock().logsRoot, (window) => {
    const { itemRoot } = LogTrees.at(window.bytes.slice());
    forEachItem({ cache }, itemRoot, Key.ZEROS, () => void count++);
  });
  return count;
}

Deno.test("an fsync of an appended block writes six metadata blocks, however many came before", async () => {
  const cluster = await LocalCluster.make({ metaBytes: 1 << 30, dataBytes: 1 << 30 });
  const m = await LocalFs.mount(cluster);
  const name = new TextEncoder().encode("log");
  const ino = await m.run((op, fs) => create(op, fs, 1, name, 0o100644, 0), caller);
  let id = 1;
  const append = async () => {
    const data = new Uint8Array(4096).fill(id);
    await write(m.fs, {
      ino,
      offset: 0,
      data,
      append: true,
      direct: false,
      sync: false,
      killSuidgid: false,
      pageWrite: false,
      caller,
      id: id++,
    });
    await m.sync();
  };
  // The first ones begin with blocks of one each, and with empty lists.
  for (let i = 0; i < 20; i++) await append();
  const items = logItems(cluster);
  const meta = counting(cluster.meta), data = counting(cluster.data);
  const rounds = 400;
  let least = Infinity;
  for (let i = 0; i < rounds; i++) {
    const before = meta.blocks;
    cluster.requests.length = 0;
    await append();
    least = Math.min(least, meta.blocks - before);
    assert.deepEqual(cluster.requests, [CMD_COMMIT_LOG_TREES, CMD_GET_LOG_TREES]);
  }
  // The mount: a leaf and its two lists; the server: the same. Now and then lists are refilled.
  assert.equal(least, 6);
  assert.ok(meta.blocks <= 6.25 * rounds, `${meta.blocks} blocks in ${rounds} commits`);
  assert.equal(meta.small, rounds, "one super block each");
  assert.ok(meta.calls <= 3.6 * rounds, `${meta.calls} writes in ${rounds} commits`);
  assert.ok(meta.reads <= 0.1 * rounds, `${meta.reads} reads in ${rounds} commits`);
  assert.equal(meta.flushes, 2 * rounds, "before the super block and behind it");
  assert.deepEqual(data, { ...data, blocks: 0, calls: rounds, reads: 0, flushes: rounds });
  assert.equal(logItems(cluster), items, "no item more for 400 blocks");
  await m.unmount();
});
