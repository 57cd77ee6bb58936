/**
 * What other servers leave of log merges and srch compactions is preserved, and taken back from
 * departed clients (03 §23, T8, T14); log trees that nobody answers for are retired at start.
 */

import { deepStrictEqual as same, ok, strictEqual as equal } from "node:assert/strict";
import { SM_SIZE, SUPER_BLKNO } from "../../format/constants.ts";
import { Key } from "../../format/key.ts";
import {
  LOG_MERGE_STATUS_KEY,
  LogMergeRange,
  logMergeRangeKey,
  LogMergeRequest,
  logMergeRequestKey,
  LogMergeStatus,
} from "../../format/merge.ts";
import { mountedClientKey } from "../../format/mounted_client.ts";
import { srchBusyKey, SrchCompact, srchPendingKey } from "../../format/srch.ts";
import { insert, lookup, remove } from "../../fs/btree.ts";
import type { MemDevice } from "../../fs/memory_device.ts";
import { fillList } from "../../fs/meta_alloc.ts";
import { StoreCore } from "../../net/store_core.ts";
import { address, ModelClient, newVolume, openStore } from "../helpers/model_client.ts";
import { checkOwnership } from "../helpers/ownership.ts";
import { SeededRandom } from "../helpers/sim_reactor.ts";

const MiB = 1 << 20;

/** The volume's server transaction, to write what another server would have. */
function openCore(dev: MemDevice): StoreCore {
  const buf = new Uint8Array(SM_SIZE);
  dev.read(buf, SUPER_BLKNO * SM_SIZE);
  return new StoreCore(dev, buf, { random: new SeededRandom(3) });
}

function sound(dev: MemDevice) {
  const found = checkOwnership(dev);
  same(found.problems, []);
  return found;
}

async function mounted(dev: MemDevice, rids: bigint[]): Promise<void> {
  const store = openStore(dev);
  for (const rid of rids) await store.insertMountedClient(rid, address(), false);
}

Deno.test("reclaim: a busy compaction waits for another client with all it had", async () => {
  const dev = newVolume(256 * MiB, 64 * MiB);
  await mounted(dev, [5n, 6n]);
  const core = openCore(dev);
  const values = new Map<bigint, SrchCompact>();
  await core.run(() => {
    for (const rid of [5n, 6n]) {
      const sc = SrchCompact.alloc();
      sc.id = Number(rid) * 10;
      fillList(core.tree, sc.metaAvail, core.metaAvail, 20, 20);
      insert(core.tree, core.dirty.srchRoot, srchBusyKey(rid, sc.id), sc.bytes);
      values.set(rid, sc);
    }
    return true;
  });
  sound(dev);
  const store = openStore(dev);
  await store.start();
  await store.reclaim(5n);
  sound(dev);
  const after = openCore(dev);
  const { srchRoot } = after.dirty;
  same(lookup(after.readTree, srchRoot, srchPendingKey(50))?.val, values.get(5n)!.bytes);
  equal(lookup(after.readTree, srchRoot, srchBusyKey(5n, 50)), null);
  same(lookup(after.readTree, srchRoot, srchBusyKey(6n, 60))?.val, values.get(6n)!.bytes);
});

async function withRequests(dev: MemDevice, starts: [bigint, Key, Key][]): Promise<void> {
  const core = openCore(dev);
  await core.run(() => {
    const status = LogMergeStatus.alloc();
    status.nrRequests = starts.length;
    status.seq = core.counterNext();
    insert(core.tree, core.dirty.logMerge, LOG_MERGE_STATUS_KEY, status.bytes);
    for (const [rid, start, end] of starts) {
      const request = LogMergeRequest.alloc();
      request.rid = rid;
      request.seq = core.counterNext();
      request.start = start;
      request.end = end;
      fillList(core.tree, request.metaAvail, core.metaAvail, 30, 30);
      const key = logMergeRequestKey(rid, request.seq);
      insert(core.tree, core.dirty.logMerge, key, request.bytes);
    }
    return true;
  });
  sound(dev);
}

Deno.test("reclaim: merge requests become ranges again", async () => {
  const dev = newVolume(256 * MiB, 64 * MiB);
  await mounted(dev, [5n, 6n]);
  const a = Key.of(16, 1000, 4), b = Key.of(16, 2000, 4);
  await withRequests(dev, [[5n, Key.ZEROS, a.dec()], [6n, a, b.dec()], [5n, b, Key.ONES]]);
  const store = openStore(dev);
  await store.start();
  await store.reclaim(5n);
  await store.reclaim(5n);
  sound(dev);
  const core = openCore(dev);
  const status = lookup(core.readTree, core.dirty.logMerge, LOG_MERGE_STATUS_KEY)!;
  equal(LogMergeStatus.at(status.val).nrRequests, 1);
  for (const [start, end] of [[Key.ZEROS, a.dec()], [b, Key.ONES]] as const) {
    const item = lookup(core.readTree, core.dirty.logMerge, logMergeRangeKey(start))!;
    const range = LogMergeRange.at(item.val);
    ok(range.start.equals(start) && range.end.equals(end));
  }
});

Deno.test("reclaim: a range that would collide stays a request until the other is gone", async () => {
  const dev = newVolume(256 * MiB, 64 * MiB);
  await mounted(dev, [5n]);
  // the same key but for the zone, which range keys lose
  const low = Key.of(4, 1000, 4), high = Key.of(16, 1000, 4);
  await withRequests(dev, [[5n, low, high.dec()], [5n, high, Key.ONES]]);
  const store = openStore(dev);
  await store.start();
  await store.reclaim(5n);
  same(checkOwnership(dev).problems, ["rid 5 owns something but is not mounted"]);
  const core = openCore(dev);
  await core.run(() => {
    remove(core.tree, core.dirty.logMerge, logMergeRangeKey(low));
    return true;
  });
  await openStore(dev).start();
  sound(dev);
});

Deno.test("start: log trees of unknown mounts are retired", async () => {
  const dev = newVolume(256 * MiB, 64 * MiB);
  const store = openStore(dev);
  for (const rid of [5n, 6n, 7n]) {
    const c = new ModelClient(rid, dev, store, new SeededRandom(Number(rid)));
    await c.mount();
    await c.work();
    await c.commit();
  }
  const core = openCore(dev);
  await core.run(() => {
    remove(core.tree, core.dirty.mountedClients, mountedClientKey(6n));
    return true;
  });
  equal(checkOwnership(dev).problems.length, 1);
  const next = openStore(dev);
  await next.start();
  const found = sound(dev);
  same(found.logTrees.map((lt) => lt.isFinalized), [false, true, false]);
  same(next.mountedClients().map((m) => [m.rid, m.quorum, m.addr.port]), [[5n, true, 40000], [
    7n,
    true,
    40000,
  ]]);
  ok(next.isMountedClient(5n) && !next.isMountedClient(6n));
});
