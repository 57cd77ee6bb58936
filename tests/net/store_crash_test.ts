/**
 * The server crashes at every write that it and its clients make (03 §24): whatever reached the
 * device, the books balance, what was acknowledged is there, and the next server reclaims the rest.
 */

import { deepStrictEqual as same, ok, strictEqual as equal } from "node:assert/strict";
import { CMD_COMMIT_LOG_TREES } from "../../format/wire.ts";
import type { MemDevice } from "../../fs/memory_device.ts";
import { metaPolicy } from "../../net/reserve.ts";
import { ModelClient, newVolume, openStore } from "../helpers/model_client.ts";
import { checkOwnership } from "../helpers/ownership.ts";
import { SeededRandom } from "../helpers/sim_reactor.ts";

const MiB = 1 << 20;

/** Inodes that were acknowledged as committed when the record had `records` entries. */
interface Acknowledged {
  records: number;
  inodes: number;
}

/**
 * The inodes of a crash after `records` entries: at least what was acknowledged, at most the next.
 */
function checkInodes(found: number, acks: Acknowledged[], records: number): void {
  const after = acks.findIndex((a) => a.records > records);
  const before = acks[(after < 0 ? acks.length : after) - 1]?.inodes ?? 1;
  const next = after < 0 ? before : acks[after]!.inodes;
  ok(
    found >= Math.min(before, next) && found <= Math.max(before, next),
    `${found}, ${before}…${next}`,
  );
}

async function recover(dev: MemDevice, seed: number): Promise<void> {
  const store = openStore(dev, seed);
  await store.start();
  for (const { rid } of store.mountedClients()) await store.reclaim(rid);
  const found = checkOwnership(dev);
  same(found.problems, []);
  equal(found.mountedRids.length, 0);
  ok(found.logTrees.every((lt) => lt.isFinalized));
}

async function crashEverywhere(seed: number, rounds: number): Promise<void> {
  const random = new SeededRandom(seed);
  const dev = newVolume(256 * MiB, 64 * MiB);
  dev.startRecording();
  const store = openStore(dev, seed);
  const clients: ModelClient[] = [];
  const acks: Acknowledged[] = [];
  const acknowledge = () => {
    const gone = 1 + removed;
    const files = clients.reduce((n, c) => n + c.files.length, 0);
    acks.push({ records: dev.log.length, inodes: gone + files });
  };
  let removed = 0;
  for (let round = 0; round < rounds; round++) {
    if (clients.length < 2) {
      const c = new ModelClient(
        BigInt(100 + round),
        dev,
        store,
        new SeededRandom(seed * 99 + round),
      );
      await c.mount();
      clients.push(c);
    }
    for (const c of clients) {
      await c.work();
      await c.commit();
      acknowledge();
    }
    if (random.oneIn(4)) {
      const gone = clients.shift()!;
      removed += gone.files.length; // they stay, owned by the finalized tree
      await store.reclaim(gone.rid);
      acknowledge();
    }
  }
  const { log } = dev;
  for (let records = 0; records <= log.length; records++) {
    const crashed = dev.replay(records);
    const found = checkOwnership(crashed);
    same(found.problems, [], `after ${records} records`);
    checkInodes(found.inodes, acks, records);
    if (records % 5 === 0) await recover(crashed, seed + records);
    // and with any part of what was not flushed lost
    if (records % 3 === 0 || log[records]?.kind === "flush") {
      const torn = dev.replayKeeping(records, () => random.oneIn(2));
      const left = checkOwnership(torn);
      same(left.problems, [], `after a part of ${records} records`);
      checkInodes(left.inodes, acks, records);
    }
  }
}

for (const seed of [1, 2]) {
  Deno.test(`store: crash at every write, seed ${seed}`, () => crashEverywhere(seed, 10));
}

Deno.test("store: crash during reclaim and its repetition", async () => {
  const dev = newVolume(256 * MiB, 64 * MiB);
  // so small that a move stops after each extent
  const store = openStore(dev, 1, {
    metaPolicy: (total, clients) => ({ ...metaPolicy(total, clients), moveBudget: 1 }),
  });
  const c = new ModelClient(5n, dev, store, new SeededRandom(3));
  await c.mount();
  const files = [];
  for (let n = 0; n < 20; n++) {
    const file = await c.create();
    c.write(file, 1 + n % 3);
    files.push(file);
  }
  await c.commit();
  files.forEach((file, n) => n % 2 === 0 ? c.remove(file) : undefined);
  c.writeBack();
  await store.request(CMD_COMMIT_LOG_TREES, c.rid, c.lt.bytes);
  dev.startRecording();
  await store.reclaim(5n);
  const commits = dev.log.filter((r) => r.kind === "flush").length / 2;
  ok(commits > 8, `reclaim took ${commits} commits`);
  for (let records = 0; records <= dev.log.length; records++) {
    const crashed = dev.replay(records);
    same(checkOwnership(crashed).problems, []);
    await recover(crashed, records);
  }
});
