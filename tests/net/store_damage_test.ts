/** A server whose own structures are damaged says so once, and writes nothing more. */

import assert from "node:assert/strict";
import { LG_SIZE } from "../../format/constants.ts";
import { EIO } from "../../format/errno.ts";
import { CMD_GET_LOG_TREES, CMD_GET_ROOTS } from "../../format/wire.ts";
import { CorruptError, type FsError } from "../../fs/errors.ts";
import type { MemDevice } from "../../fs/memory_device.ts";
import { Surgeon } from "../fsck/repair_support.ts";
import { LocalCluster } from "../helpers/local_cluster.ts";

const NOTHING = new Uint8Array(0);

async function devices(): Promise<{ meta: MemDevice; data: MemDevice }> {
  const cluster = await LocalCluster.make();
  cluster.stop();
  return { meta: cluster.meta.snapshot(), data: cluster.data.snapshot() };
}

Deno.test("a server that meets damage in its allocators stops before it writes", async () => {
  const { meta, data } = await devices();
  const { blkno } = new Surgeon(meta).superBlock().dataAlloc.root.ref;
  meta.write(new Uint8Array(LG_SIZE), blkno * LG_SIZE);
  const cluster = await LocalCluster.open(meta, data);
  const damage: FsError[] = [];
  cluster.onDamage = (e) => void damage.push(e);
  const link = await cluster.connect();
  const { writes } = meta;
  for (let i = 0; i < 3; i++) {
    await assert.rejects(link.request(CMD_GET_LOG_TREES, NOTHING), { errno: EIO });
  }
  assert.equal(damage.length, 1);
  assert.ok(damage[0]!.message.includes(`block ${blkno}`), damage[0]!.message);
  assert.equal(meta.writes, writes);
  // What is only read is still answered.
  assert.ok((await link.request(CMD_GET_ROOTS, NOTHING)).length > 0);
});

Deno.test("a server that could not count on does not begin", async () => {
  for (const seq of [2 ** 52, Number.MAX_SAFE_INTEGER]) {
    const { meta, data } = await devices();
    new Surgeon(meta).editSuper((sb) => sb.seq = seq);
    await assert.rejects(LocalCluster.open(meta, data), (e: unknown) => {
      assert.ok(e instanceof CorruptError);
      assert.match(e.message, /no volume has reached the sequence number \d+/);
      return true;
    });
  }
});
