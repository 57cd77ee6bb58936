/** Inode number pools: 02 §5.1. */

import assert from "node:assert/strict";
import { ENOSPC } from "../../format/errno.ts";
import { CMD_ALLOC_INODES } from "../../format/wire.ts";
import { FsError } from "../../fs/errors.ts";
import { DEFAULT_MOUNT_OPTIONS } from "../../fs/options.ts";
import type { Op } from "../../fs/op.ts";
import { mount, type TestMount, unmount } from "../helpers/engine.ts";
import { LocalCluster } from "../helpers/local_cluster.ts";

const take = (m: TestMount, isDir: boolean) =>
  m.fs.runner.run((op: Op) => {
    const ino = m.fs.inos.peek(op, isDir);
    op.apply();
    assert.equal(m.fs.inos.take(isDir), ino);
    return ino;
  });

Deno.test("directories and files have pools of their own; numbers are unique and ascend", async () => {
  const cluster = await LocalCluster.make();
  const m = await mount(cluster);
  const files: number[] = [];
  const dirs: number[] = [];
  for (let i = 0; i < 25000; i++) files.push(await take(m, false));
  for (let i = 0; i < 100; i++) dirs.push(await take(m, true));
  assert.equal(new Set([...files, ...dirs]).size, 25100);
  assert.ok(files[0]! >= 1024);
  assert.equal(files[10239]! - files[0]!, 10239);
  assert.ok(!files.some((f) => dirs.some((d) => Math.floor(f / 1024) === Math.floor(d / 1024))));
  const asked = cluster.requests.filter((c) => c === CMD_ALLOC_INODES).length;
  assert.ok(asked <= 5, `${asked} requests for 25100 numbers`);
  await unmount(cluster, m);
});

Deno.test("ino_alloc_per_lock: one pool that uses the first numbers of each group", async () => {
  const cluster = await LocalCluster.make();
  const options = { ...DEFAULT_MOUNT_OPTIONS, vfs: [], inoAllocPerLock: 10 };
  const m = await mount(cluster, { options });
  const all: number[] = [];
  for (let i = 0; i < 500; i++) all.push(await take(m, i % 3 === 0));
  assert.equal(new Set(all).size, 500);
  assert.ok(all.every((ino) => ino % 1024 < 10));
  await unmount(cluster, m);
});

Deno.test("no numbers left: ENOSPC", async () => {
  const cluster = await LocalCluster.make();
  const m = await mount(cluster);
  const submit = m.link.submit.bind(m.link);
  m.link.submit = (cmd, payload, complete) =>
    cmd === CMD_ALLOC_INODES
      ? queueMicrotask(() => complete(0, new Uint8Array(16)))
      : submit(cmd, payload, complete);
  await assert.rejects(
    async () => await take(m, false),
    (e) => e instanceof FsError && e.errno === ENOSPC,
  );
  await unmount(cluster, m);
});
