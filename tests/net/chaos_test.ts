/**
 * Mounts that take, use and lose locks and commit, while sockets break, hosts are cut off, leaders
 * and clients crash and come back: conflicting modes never coexist, nobody is reclaimed alive, and
 * when it is calm again every request is granted (04 §28, 7, 10–13, 15, 19–22, 28, 31).
 */

import assert from "node:assert/strict";
import { SimCluster, type SimNode, slotAddr } from "../helpers/sim_cluster.ts";
import { SeededRandom } from "../helpers/sim_reactor.ts";

interface Chaos {
  slots: number;
  plain: number;
  rounds: number;
  /** Longest calm between two events. */
  calmMs: number;
  /** Longest pause of a mount between two locks. */
  pauseMs: number;
  events: ("break" | "crash" | "cut" | "heal" | "start")[];
}

async function chaos(seed: number, options: Chaos): Promise<SimCluster> {
  const c = new SimCluster(seed, { slots: options.slots });
  const random = new SeededRandom(seed * 31 + 7);
  const seats: { slot: number | null; addr: number; node: SimNode | null }[] = [];
  for (let slot = 0; slot < options.slots; slot++) {
    seats.push({ slot, addr: slotAddr(slot), node: null });
  }
  for (let i = 0; i < options.plain; i++) {
    seats.push({ slot: null, addr: 0x0a000101 + i, node: null });
  }
  const start = (seat: typeof seats[number]): void => {
    const node = c.node(seat.slot, { addr: seat.addr, pauseMs: options.pauseMs });
    seat.node = node;
    node.mount.work().catch((e) => {
      if (node.alive) throw e;
    });
  };
  for (const seat of seats) start(seat);
  await c.world.run(5_000);

  for (let round = 0; round < options.rounds; round++) {
    await c.world.run(random.below(options.calmMs));
    for (const seat of seats) if (seat.node?.alive === false) seat.node = null; // fenced
    const seat = seats[random.below(seats.length)];
    switch (options.events[random.below(options.events.length)]) {
      case "break":
        c.world.breakConnections(1 + random.below(3));
        break;
      case "crash":
        seat.node?.crash();
        seat.node = null;
        break;
      case "cut":
        for (const other of seats) if (other !== seat) c.world.cut(seat.addr, other.addr);
        break;
      case "heal":
        c.world.healAll();
        break;
      case "start":
        if (seat.node === null) start(seat);
        break;
    }
  }

  // Calm: everybody gets what it waits for.
  c.world.healAll();
  const living = (): SimNode[] => [...c.nodes.values()].filter((n) => n.alive);
  for (const n of living()) n.mount.stop();
  await c.world.run(200_000);
  // Two members that elect themselves at once may well fence each other: one by one then.
  for (let i = 0; i < 20; i++) {
    const empty = seats.find((s) => s.slot !== null && s.node?.alive !== true);
    if (empty === undefined) break;
    start(empty);
    await c.world.run(40_000);
  }
  for (const n of living()) n.mount.stop();
  await c.world.until(
    400_000,
    () =>
      c.leader?.server.running?.recovery.finished === true &&
      living().every((n) => n.mount.satisfied && n.client.state === "active"),
    `seed ${seed}: calm again\n${c.log.slice(-40).join("\n")}`,
  );
  const mounted = new Set(c.mountedRids());
  for (const n of living()) assert.ok(mounted.has(n.rid), "every living mount has its item");
  assert.equal(mounted.size, living().length, "every dead mount was reclaimed");
  assert.ok([...c.nodes.values()].some((n) => n.mount.grants > 10), "the mounts did work");
  return c;
}

Deno.test("one server, breaking sockets: nobody is fenced", async () => {
  for (let seed = 1; seed <= 3; seed++) {
    const c = await chaos(seed, {
      slots: 1,
      plain: 3,
      rounds: 40,
      calmMs: 200,
      pauseMs: 60,
      events: ["break"],
    });
    assert.deepEqual([...c.fenced], []);
    assert.ok([...c.nodes.values()].every((n) => n.client.serverTerm === 1));
  }
});

Deno.test("clients crash and come back", async () => {
  for (let seed = 11; seed <= 13; seed++) {
    await chaos(seed, {
      slots: 1,
      plain: 4,
      rounds: 25,
      calmMs: 8_000,
      pauseMs: 1_500,
      events: ["break", "start"],
    });
  }
});

Deno.test("three members and two clients: crashes, partitions, failovers", async () => {
  for (let seed = 21; seed <= 26; seed++) {
    await chaos(seed, {
      slots: 3,
      plain: 2,
      rounds: 30,
      calmMs: 8_000,
      pauseMs: 1_500,
      events: ["break", "crash", "start", "start", "cut", "heal", "heal"],
    });
  }
});

Deno.test("two members, each able to elect itself: fencing decides", async () => {
  for (let seed = 41; seed <= 46; seed++) {
    await chaos(seed, {
      slots: 2,
      plain: 1,
      rounds: 25,
      calmMs: 12_000,
      pauseMs: 1_500,
      events: ["break", "crash", "start", "start", "heal"],
    });
  }
});
