/**
 * Whole clusters on a simulated network: mounting, failing over, recovering, fencing, leaving,
 * with the real server store underneath.
 */

import assert from "node:assert/strict";
import { QUORUM_EVENT_ELECT, QUORUM_EVENT_STOP } from "../../format/constants.ts";
import { ENOSPC } from "../../format/errno.ts";
import { LogTrees } from "../../format/log_trees.ts";
import {
  CMD_GET_LOG_TREES,
  CMD_GET_ROOTS,
  CMD_OPEN_INO_MAP,
  OpenInoMap,
  OpenInoMapArgs,
} from "../../format/wire.ts";
import { SmallBlocks } from "../../net/quorum_blocks.ts";
import { FsError } from "../../fs/errors.ts";
import type { ServerStore } from "../../net/store.ts";
import { FSID, SimCluster, type SimNode } from "../helpers/sim_cluster.ts";

const EMPTY = new Uint8Array(0);

async function mounted(c: SimCluster, node: SimNode, ms = 60_000): Promise<void> {
  await c.world.until(ms, () => node.client.state === "active", "mounted");
}

/** Runs the world until the promise settles; rethrows its failure. */
async function complete<T>(c: SimCluster, p: Promise<T>, what: string, ms = 120_000): Promise<T> {
  let result: { value: T } | { error: unknown } | null = null;
  p.then((value) => result = { value }, (error) => result = { error });
  await c.world.until(ms, () => result !== null, what);
  const done = result as { value: T } | { error: unknown } | null;
  assert.ok(done !== null);
  if ("error" in done) throw done.error;
  return done.value;
}

Deno.test("a lone node elects itself, serves itself, leaves a clean volume", async () => {
  const c = new SimCluster(1, { slots: 1 });
  const a = c.node(0);
  await mounted(c, a, 2_000);
  assert.equal(a.client.serverTerm, 1);
  assert.deepEqual(c.mountedRids(), [a.rid]);
  const lt = LogTrees.at(
    await complete(c, a.client.request(CMD_GET_LOG_TREES, EMPTY), "log trees"),
  );
  assert.equal(lt.rid, a.rid);
  await complete(c, a.unmount(), "unmounted", 5_000);
  const blocks = new SmallBlocks(c.meta, FSID);
  assert.ok(blocks.readSuper().mountedClients.ref.isNull, "no mounted client is left");
  const { events } = blocks.readSlot(0);
  assert.equal(events[QUORUM_EVENT_STOP].term, events[QUORUM_EVENT_ELECT].term);
});

Deno.test("a lone node after a crash: provably dead needs neither wait nor human", async () => {
  const c = new SimCluster(2, { slots: 1, fence: "absent" });
  const a = c.node(0);
  await mounted(c, a, 2_000);
  a.crash();
  const b = c.node(0, { knownDead: (rid) => rid === a.rid });
  await mounted(c, b, 2_000);
  await c.world.until(2_000, () => !c.mountedRids().includes(a.rid), "the dead mount is reclaimed");
  await complete(c, b.client.request(CMD_GET_LOG_TREES, EMPTY), "log trees");
  await complete(c, b.unmount(), "unmounted", 5_000);
});

Deno.test("a lone node after a crash, not provably dead: waits for fencing, for ever if need be", async () => {
  const c = new SimCluster(3, { slots: 1, fence: "absent" });
  const a = c.node(0);
  await mounted(c, a, 2_000);
  a.crash();
  const b = c.node(0);
  await c.world.run(120_000);
  assert.notEqual(b.client.state, "active", "never served before the old mount is fenced");
  assert.ok(!c.reclaimed.has(a.rid));
  c.fence = "kill";
  await mounted(c, b, 120_000);
  await c.world.until(60_000, () => !c.mountedRids().includes(a.rid), "reclaimed");
});

Deno.test("failing fencing stops the server; the next attempt asks again", async () => {
  const c = new SimCluster(4, { slots: 1, fence: "refuse" });
  const a = c.node(0);
  await mounted(c, a, 2_000);
  a.crash();
  const b = c.node(0);
  await c.world.run(60_000);
  assert.notEqual(b.client.state, "active");
  c.fence = "kill";
  await mounted(c, b);
});

Deno.test("a mount that could not get its predecessor fenced leaves that to the next one", async () => {
  const c = new SimCluster(13, { slots: 1, fence: "refuse" });
  const a = c.node(0);
  await mounted(c, a, 2_000);
  await c.world.run(500); // FENCE is recorded
  a.crash();
  const b = c.node(0);
  await c.world.run(30_000);
  await complete(c, b.unmount(), "given up", 40_000);
  c.fence = "absent";
  const d = c.node(0, { knownDead: (rid) => rid === b.rid });
  await c.world.run(60_000);
  assert.notEqual(d.client.state, "active");
  c.fence = "kill";
  await mounted(c, d);
  assert.ok(c.fenced.has(a.rid));
});

Deno.test("the leader crashes: another takes over, clients keep their requests", async () => {
  for (let seed = 1; seed <= 5; seed++) {
    const c = new SimCluster(seed, { slots: 3 });
    const nodes = [c.node(0), c.node(1), c.node(2)];
    const plain = c.node(null);
    for (const n of [...nodes, plain]) await mounted(c, n);
    const first = c.leader!;
    const firstTerm = first.term;
    await complete(c, plain.client.request(CMD_GET_LOG_TREES, EMPTY), "log trees");
    first.crash();
    // Asked while nobody serves: answered by the next server.
    const asked = plain.client.request(CMD_GET_ROOTS, EMPTY);
    assert.equal((await complete(c, asked, "roots")).length, 72);
    assert.ok(plain.client.serverTerm > firstTerm);
    await c.world.until(
      120_000,
      () =>
        c.leader?.server.running?.recovery.finished === true &&
        !c.mountedRids().includes(first.rid),
      "recovered, dead leader reclaimed",
    );
    for (const n of nodes) if (n !== first) assert.ok(n.alive, "the living were not fenced");
    assert.ok(plain.alive);
  }
});

Deno.test("a client that dies is fenced after 20 s and reclaimed", async () => {
  const c = new SimCluster(5, { slots: 1 });
  const a = c.node(0);
  const b = c.node(null);
  await mounted(c, a);
  await mounted(c, b);
  b.crash();
  await c.world.run(19_000);
  assert.ok(c.mountedRids().includes(b.rid));
  await c.world.until(10_000, () => !c.mountedRids().includes(b.rid), "reclaimed");
});

Deno.test("a client that is provably dead is reclaimed within seconds", async () => {
  const c = new SimCluster(6, { slots: 1, fence: "absent" });
  let dead = 0n;
  const a = c.node(0, { knownDead: (rid) => rid === dead });
  const b = c.node(null);
  await mounted(c, a);
  await mounted(c, b);
  b.crash();
  dead = b.rid;
  await c.world.until(3_000, () => !c.mountedRids().includes(b.rid), "reclaimed");
});

Deno.test("broken sockets do not matter: same term, every request once", async () => {
  const c = new SimCluster(7, { slots: 1 });
  const a = c.node(0);
  const b = c.node(null);
  await mounted(c, a);
  await mounted(c, b);
  let answers = 0;
  for (let i = 0; i < 200; i++) {
    b.client.request(CMD_GET_ROOTS, EMPTY).then(() => answers++);
    if (i % 10 === 0) c.world.breakConnections();
    await c.world.run(c.world.random.below(5));
  }
  await c.world.until(60_000, () => answers === 200, "all answered");
  assert.equal(b.client.serverTerm, 1);
  assert.deepEqual([...c.fenced], []);
});

Deno.test("lost greeting responses: the client is taken over, never fenced (H2)", async () => {
  for (let seed = 30; seed < 50; seed++) {
    const c = new SimCluster(seed, { slots: 1 });
    const a = c.node(0);
    await mounted(c, a);
    const b = c.node(null);
    for (let i = 0; i < 12; i++) {
      await c.world.run(c.world.random.below(6));
      c.world.breakConnections(2);
    }
    await complete(c, b.client.request(CMD_GET_LOG_TREES, EMPTY), "log trees");
    await c.world.run(60_000);
    assert.deepEqual([...c.fenced], [], `seed ${seed}`);
    assert.equal(c.leader!.server.running!.clientCount, 2);
  }
});

Deno.test("a client that is refused asks on, says so once, and is admitted when it can be", async () => {
  const c = new SimCluster(14, { slots: 1 });
  const a = c.node(0, { noClient: true });
  await c.world.until(2_000, () => a.store !== null, "a server");
  const store = a.store as ServerStore, { insertMountedClient } = store;
  let asked = 0;
  store.insertMountedClient = () => {
    asked++;
    return Promise.reject(new FsError(ENOSPC));
  };
  const b = c.node(null);
  await c.world.run(10_000);
  assert.ok(asked > 50, `asked ${asked} times`);
  const said = (what: RegExp) => c.log.filter((line) => what.test(line)).length;
  assert.equal(said(/it refuses us: No space left on device \(28\)/), 1);
  assert.equal(said(/refused a greeting from 10\.0\.1\.1: ENOSPC/), 1);
  assert.equal(said(/connected to the server/), 1);
  store.insertMountedClient = insertMountedClient;
  await mounted(c, b, 2_000);
  await complete(c, b.unmount(), "unmounted", 5_000);
});

Deno.test("a new leader recovers who was in the middle of greeting, locking, committing", async () => {
  for (let seed = 60; seed < 72; seed++) {
    const c = new SimCluster(seed, { slots: 3 });
    const nodes = [
      c.node(0),
      c.node(1),
      c.node(2),
      c.node(null),
      c.node(null, { addr: 0x0a000102 }),
    ];
    for (const n of nodes.slice(0, 4)) await mounted(c, n);
    const failures: unknown[] = [];
    for (const n of nodes) n.mount.work().catch((e) => n.alive && failures.push(e));
    await c.world.run(c.world.random.below(400));
    const first = c.leader!;
    first.crash();
    await c.world.until(
      120_000,
      () => c.leader?.server.running?.recovery.finished === true,
      "recovered",
    );
    for (const n of nodes) n.mount.stop();
    const living = nodes.filter((n) => n !== first);
    await c.world.until(60_000, () => living.every((n) => n.mount.satisfied), "all granted");
    assert.deepEqual(failures, []);
    assert.deepEqual([...c.fenced].filter((rid) => rid !== first.rid), [], `seed ${seed}`);
  }
});

Deno.test("a partitioned client is fenced and does not come back", async () => {
  const c = new SimCluster(8, { slots: 1 });
  const a = c.node(0);
  const b = c.node(null);
  await mounted(c, a);
  await mounted(c, b);
  c.world.cut(a.addr, b.addr);
  b.client.request(CMD_GET_ROOTS, EMPTY).catch(() => {});
  await c.world.until(120_000, () => !c.mountedRids().includes(b.rid), "reclaimed");
  assert.ok(c.fenced.has(b.rid));
});

Deno.test("a short partition heals without fencing", async () => {
  const c = new SimCluster(9, { slots: 1 });
  const a = c.node(0);
  const b = c.node(null);
  await mounted(c, a);
  await mounted(c, b);
  c.world.cut(a.addr, b.addr);
  const asked = b.client.request(CMD_GET_ROOTS, EMPTY);
  await c.world.run(10_000);
  c.world.healAll();
  await complete(c, asked, "answered", 20_000);
  assert.equal(c.fenced.size, 0);
});

Deno.test("members leave while a majority stays; the last ones leave together", async () => {
  const c = new SimCluster(10, { slots: 3 });
  const nodes = [c.node(0), c.node(1), c.node(2)];
  for (const n of nodes) await mounted(c, n);
  const plain = c.node(null);
  await mounted(c, plain);
  const [leader] = nodes.filter((n) => n === c.leader);
  const others = nodes.filter((n) => n !== leader);
  // 3 members, 2 needed: one may go.
  await complete(c, others[0].unmount(), "first member left", 10_000);
  // 2 left, 2 needed: nobody may go while somebody else is mounted.
  let gone = 0;
  others[1].unmount().then(() => gone++);
  leader.unmount().then(() => gone++);
  await c.world.run(20_000);
  assert.equal(gone, 0);
  assert.ok(plain.client.state === "active");
  await complete(c, plain.unmount(), "the plain client left", 10_000);
  await c.world.until(20_000, () => gone === 2, "the last majority left together");
  assert.ok(new SmallBlocks(c.meta, FSID).readSuper().mountedClients.ref.isNull);
  assert.deepEqual([...c.fenced], []);
});

Deno.test("a leader leaves cleanly: the next takes over without fencing anybody", async () => {
  const c = new SimCluster(11, { slots: 3 });
  const nodes = [c.node(0), c.node(1), c.node(2)];
  for (const n of nodes) await mounted(c, n);
  const first = c.leader!;
  await complete(c, first.unmount(), "left", 20_000);
  await c.world.until(
    60_000,
    () => c.leader?.server.running?.recovery.finished === true,
    "a new leader, all recovered",
  );
  assert.deepEqual([...c.fenced], []);
  assert.equal(c.mountedRids().length, 2);
});

Deno.test("a farewell whose response is lost still completes", async () => {
  for (let seed = 20; seed < 30; seed++) {
    const c = new SimCluster(seed, { slots: 1 });
    const a = c.node(0);
    const b = c.node(null);
    await mounted(c, a);
    await mounted(c, b);
    let left = false;
    b.unmount().then(() => left = true);
    for (let i = 0; i < 10 && !left; i++) {
      await c.world.run(c.world.random.below(4));
      c.world.breakConnections();
    }
    await c.world.until(60_000, () => left, "left");
    await c.world.run(60_000);
    assert.deepEqual([...c.fenced], [], "nobody is fenced after leaving (32)");
  }
});

Deno.test("open maps: the union of the others, once everybody has greeted", async () => {
  const c = new SimCluster(12, { slots: 1 });
  const nodes = [c.node(0), c.node(null), c.node(null, { addr: 0x0a000102 })];
  nodes.forEach((n, i) =>
    n.client.setHandler(CMD_OPEN_INO_MAP, (payload, respond) => {
      const map = OpenInoMap.alloc();
      map.args.bytes.set(payload);
      map.setBit(i * 7);
      respond(map.bytes);
    })
  );
  for (const n of nodes) await mounted(c, n);
  const args = OpenInoMapArgs.alloc();
  args.groupNr = 5;
  const answer = await complete(c, nodes[1].client.request(CMD_OPEN_INO_MAP, args.bytes), "map");
  const map = OpenInoMap.at(answer);
  assert.equal(map.args.groupNr, 5);
  const bits = [...Array(1024).keys()].filter((i) => map.test(i));
  assert.deepEqual(bits, [0, 14], "everybody's but the requester's");
  // A dead client is waited for until it is reclaimed.
  nodes[2].crash();
  const second = nodes[1].client.request(CMD_OPEN_INO_MAP, args.bytes);
  const again = OpenInoMap.at(await complete(c, second, "map after reclaim"));
  assert.ok(again.test(0) && !again.test(14));
});

Deno.test("a server of another process is only told what is flushed; the own one flushes itself", async () => {
  const c = new SimCluster(31, { slots: 2 });
  const a = c.node(0);
  await mounted(c, a);
  assert.equal(a.client.ownServer, true);
  const b = c.node(1);
  let flushes = 0;
  const flush = b.device.flush.bind(b.device);
  b.device.flush = () => {
    assert.notEqual(b.client.state, "active", "flushed before anything is sent");
    flushes++;
    flush();
  };
  await mounted(c, b);
  assert.equal(b.client.ownServer, false);
  assert.equal(flushes, 1);
  b.device.flush = flush;
  await complete(c, a.unmount(), "unmounted");
  await c.world.until(120_000, () => b.client.state === "active" && c.leader === b, "b leads");
  await complete(c, b.client.request(CMD_GET_LOG_TREES, EMPTY), "log trees");
  assert.equal(b.client.ownServer, true);
  await complete(c, b.unmount(), "unmounted");
});
