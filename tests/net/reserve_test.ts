/** Reserves and fill targets (net/reserve.ts), and small volumes that fill up. */

import { ok, strictEqual as equal } from "node:assert/strict";
import fc from "fast-check";
import { extentCost } from "../../fs/extent_alloc.ts";
import { dataPolicy, metaPolicy } from "../../net/reserve.ts";
import { ModelClient, newVolume, openStore } from "../helpers/model_client.ts";
import { checkOwnership } from "../helpers/ownership.ts";
import { SeededRandom } from "../helpers/sim_reactor.ts";

const MiB = 1 << 20;
/** Large, so that few items fill a device. */
const ITEM_BYTES = 896;
const blocks = fc.oneof(
  fc.integer({ min: 2048, max: 1 << 17 }),
  fc.integer({ min: 2048, max: 2 ** 31 - 1 }),
);
const clients = fc.integer({ min: 0, max: 40 });

Deno.test("reserve: the reference's numbers on devices that mkfs takes without a warning", () => {
  for (const n of [0, 1, 2, 15]) {
    for (const total of [1 << 20, 1 << 24]) {
      const p = metaPolicy(total, n);
      equal(p.reserved, 16370 + Math.max(1, n) * 18311);
      equal(p.serverLow, 4092);
      equal(p.serverTarget, 8185);
      equal(p.clientLow, 4092);
      equal(p.clientTarget, 8185);
      equal(p.holdBudget, 500);
      equal(p.commitBudget, 500);
      equal(p.moveBudget, 250);
    }
  }
  const data = dataPolicy(1 << 24, 1);
  equal(data.low, 262144);
  equal(data.target, 1048576);
});

Deno.test("reserve: what the arguments for small devices rest on", () => {
  fc.assert(fc.property(blocks, clients, (total, n) => {
    const p = metaPolicy(total, n);
    // a refilled list lets the next handler start
    ok(p.serverLow >= p.holdBudget + p.commitBudget);
    ok(p.serverTarget <= 8185 && p.clientTarget <= 8185);
    // a budgeted move makes progress whatever trees fit the device: height 3 takes hundreds of blocks
    const height = total < 1 << 16 ? 2 : 4;
    ok(p.moveBudget >= 2 * extentCost(height) || total < 1 << 16);
    ok(p.moveBudget >= extentCost(2) + extentCost(3));
    ok(p.holdBudget + p.commitBudget >= 50 + 2 * extentCost(height));
    ok(p.commitMinimum >= 2 * (2 + extentCost(2)));
    // clients can work with what they get, and the reserve is more than what is never given
    ok(p.clientTarget >= 64 && p.clientLow >= 32);
    ok(p.reserved > p.floor + p.clientTarget);
    if (total < 1 << 20) ok(p.reserved <= total / 8);
  }));
  fc.assert(fc.property(fc.integer({ min: 100, max: 2 ** 40 }), clients, (total, n) => {
    const { low, target } = dataPolicy(total, n);
    // a pool that the client finds short is refilled or flagged
    ok(low >= 65536 && target >= 2 * low);
  }));
});

function sound(dev: ReturnType<typeof newVolume>): void {
  const { problems } = checkOwnership(dev);
  equal(problems.length, 0, problems.join("\n"));
}

/** Runs until the server says LOW; the transactions it took. */
async function fillMetadata(c: ModelClient): Promise<number> {
  for (let n = 0;; n++) {
    ok(n < 5000, "the device never became full");
    if (c.lt.metaAvail.isLow) return n;
    while (!c.mustStop) await c.create(ITEM_BYTES);
    await c.commit();
  }
}

Deno.test("reserve: 256 MiB of metadata fill up, and deletion goes on", async () => {
  const dev = newVolume(256 * MiB, 64 * MiB);
  const store = openStore(dev);
  const c = new ModelClient(7n, dev, store, new SeededRandom(7));
  await c.mount();
  ok(!c.lt.metaAvail.isLow);
  await fillMetadata(c);
  sound(dev);
  const used = c.lt.itemRoot.height;
  ok(used >= 2);
  // more than half of the device is in use: a file is one item here, and leaves are half full
  const perLeaf = 62464 / (56 + ITEM_BYTES);
  ok(c.files.length / perLeaf > 4096 / 4, `${c.files.length} files fit`);
  // deletions are not refused: every commit makes room for more
  const left = c.files.length - 15_000;
  for (let commits = 0; c.files.length > left; commits++) {
    ok(commits < 1000, "deleting makes no progress");
    while (!c.short) c.remove(c.files.at(-1)!);
    await c.commit();
  }
  sound(dev);
  await store.reclaim(7n);
  sound(dev);
  // a fresh server still works, and a fresh client is told how things stand
  const next = openStore(dev, 9);
  await next.start();
  const d = new ModelClient(8n, dev, next, new SeededRandom(8));
  await d.mount();
  await d.commit();
  sound(dev);
});

Deno.test("reserve: data fills up, comes back by deletion, and fills up again", async () => {
  const dev = newVolume(256 * MiB, 256 * MiB);
  const store = openStore(dev);
  const random = new SeededRandom(11);
  const c = new ModelClient(7n, dev, store, random);
  await c.mount();
  const fills: number[] = [];
  for (let cycle = 0; cycle < 3; cycle++) {
    let written = 0;
    for (let idle = 0; idle < 3;) {
      const n = c.write(await c.create(), 1 + random.below(2000));
      written += n;
      idle = n === 0 ? idle + 1 : 0;
      if (c.short || n === 0) await c.commit();
    }
    ok(c.lt.dataAvail.isLow);
    fills.push(written);
    while (c.files.length > 0) {
      while (c.files.length > 0 && !c.short) c.remove(c.files[random.below(c.files.length)]!);
      await c.commit();
    }
    sound(dev);
  }
  const device = 256 * MiB / 4096 - 64;
  for (const n of fills) equal(n, device);
  await store.reclaim(7n);
  sound(dev);
});

Deno.test("reserve: several clients share a small device until it is full", async () => {
  const dev = newVolume(256 * MiB, 64 * MiB);
  const store = openStore(dev);
  const all = [1n, 2n, 3n].map((rid) =>
    new ModelClient(rid, dev, store, new SeededRandom(Number(rid)))
  );
  for (const c of all) await c.mount();
  for (let turn = 0; all.some((c) => !c.lt.metaAvail.isLow); turn++) {
    ok(turn < 5000);
    for (const c of all) while (!c.mustStop) await c.create(ITEM_BYTES);
    await Promise.all(all.map((c) => c.commit()));
  }
  sound(dev);
  const left = all.map((c) => c.files.length - 3_000);
  for (let commits = 0; all.some((c, i) => c.files.length > left[i]!); commits++) {
    ok(commits < 1000, "deleting makes no progress");
    for (const c of all) while (!c.short) c.remove(c.files.at(-1)!);
    await Promise.all(all.map((c) => c.commit()));
  }
  for (const c of all) await store.reclaim(c.rid);
  sound(dev);
});
