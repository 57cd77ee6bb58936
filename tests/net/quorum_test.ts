/**
 * The quorum: rules of the state machine one by one, then whole elections on a simulated network
 * with crashes, losses and partitions, against the invariants of 04 §28 (1–6).
 */

import assert from "node:assert/strict";
import {
  MAGIC_QUORUM,
  QUORUM_BLKNO,
  QUORUM_BLOCKS,
  QUORUM_EVENT_BEGIN,
  QUORUM_EVENT_ELECT,
  QUORUM_EVENT_END,
  QUORUM_EVENT_FENCE,
  QUORUM_EVENT_STOP,
  SM_SIZE,
} from "../../format/constants.ts";
import { sealBlock } from "../../format/crc32c.ts";
import {
  QUORUM_MSG_HEARTBEAT,
  QUORUM_MSG_REQUEST_VOTE,
  QUORUM_MSG_RESIGNATION,
  QUORUM_MSG_VOTE,
  QuorumBlock,
  QuorumMessage,
} from "../../format/quorum.ts";
import { Gate } from "../../fs/gate.ts";
import { MemDevice } from "../../fs/memory_device.ts";
import {
  type Effect,
  Quorum,
  type Received,
  type ServerState,
  votesNeeded,
} from "../../net/quorum.ts";
import { mayLead, type Slots, SmallBlocks } from "../../net/quorum_blocks.ts";
import { QuorumService, type ServerControl } from "../../net/quorum_service.ts";
import { SeededRandom, type SimReactor, SimWorld } from "../helpers/sim_reactor.ts";

const FSID = 0x0123456789abcdefn;

// The state machine, rule by rule

class Machine {
  readonly q: Quorum;
  now = 1000;
  server: ServerState = "down";
  constructor(slot: number, n: number, term = 4) {
    this.q = new Quorum({ slot, votesNeeded: votesNeeded(n), term, deadline: 1300 });
  }
  step(message: Received | null = null): string[] {
    const effects = this.q.step({
      now: this.now,
      message,
      server: this.server,
      heartbeatTimeoutMs: 10_000,
      electionTimeoutMs: 300,
    });
    return effects.filter((e) => e.do !== "log").map(effectText);
  }
  expire(): string[] {
    this.now = this.q.deadline;
    return this.step();
  }
}

function effectText(e: Effect): string {
  const events = ["BEGIN", "TERM", "ELECT", "FENCE", "STOP", "END"];
  const types = ["REQUEST_VOTE", "VOTE", "HEARTBEAT", "RESIGNATION"];
  switch (e.do) {
    case "record":
      return `${events[e.event]} ${e.term}`;
    case "send":
      return `${types[e.type]} ${e.term} to ${e.to}`;
    case "startServer":
      return `start ${e.term}`;
    case "stopServer":
      return "stop";
    case "log":
      return e.line;
  }
}

const msg = (type: number, term: number, from: number): Received => ({ type, term, from });

Deno.test("votes needed per number of slots", () => {
  assert.deepEqual([1, 2, 3, 4, 5, 6, 7, 15].map(votesNeeded), [1, 1, 2, 3, 3, 4, 4, 8]);
});

Deno.test("a lone member elects itself in one iteration, recording before sending", () => {
  const m = new Machine(0, 1);
  assert.deepEqual(m.step(), [], "not before its deadline");
  assert.deepEqual(m.expire(), [
    "TERM 5",
    "REQUEST_VOTE 5 to others",
    "ELECT 5",
    "HEARTBEAT 5 to others",
    "start 5",
  ]);
  m.server = "starting";
  assert.deepEqual(m.step(), []);
  m.server = "up";
  assert.deepEqual(m.step(), ["FENCE 5"]);
  assert.deepEqual(m.step(), [], "FENCE is recorded once");
  assert.deepEqual(m.expire(), ["HEARTBEAT 5 to others"]);
});

Deno.test("a candidate needs a majority of different slots", () => {
  const m = new Machine(0, 5);
  assert.deepEqual(m.expire(), ["TERM 5", "REQUEST_VOTE 5 to others"]);
  assert.deepEqual(m.step(msg(QUORUM_MSG_VOTE, 5, 1)), []);
  assert.deepEqual(m.step(msg(QUORUM_MSG_VOTE, 5, 1)), [], "the same slot again");
  assert.deepEqual(m.step(msg(QUORUM_MSG_VOTE, 4, 2)), [], "a vote of an older term");
  assert.deepEqual(m.step(msg(QUORUM_MSG_VOTE, 5, 3)), [
    "ELECT 5",
    "HEARTBEAT 5 to others",
    "start 5",
  ]);
});

Deno.test("a candidate without enough votes tries again in the next term", () => {
  const m = new Machine(0, 3);
  m.expire();
  assert.deepEqual(m.expire(), ["TERM 6", "REQUEST_VOTE 6 to others"]);
  assert.deepEqual(m.step(msg(QUORUM_MSG_VOTE, 5, 1)), [], "a late vote of the former term");
});

Deno.test("a follower votes once per term, never in its starting term (H6)", () => {
  const m = new Machine(0, 3);
  assert.deepEqual(m.step(msg(QUORUM_MSG_REQUEST_VOTE, 4, 1)), [], "starting term");
  assert.deepEqual(m.step(msg(QUORUM_MSG_REQUEST_VOTE, 5, 1)), ["TERM 5", "VOTE 5 to 1"]);
  assert.deepEqual(m.step(msg(QUORUM_MSG_REQUEST_VOTE, 5, 2)), []);
  assert.deepEqual(m.step(msg(QUORUM_MSG_REQUEST_VOTE, 6, 2)), ["TERM 6", "VOTE 6 to 2"]);
});

Deno.test("a candidate and a leader do not vote for others in their term (H6)", () => {
  const m = new Machine(0, 3);
  m.expire();
  assert.deepEqual(m.step(msg(QUORUM_MSG_REQUEST_VOTE, 5, 1)), []);
  m.step(msg(QUORUM_MSG_VOTE, 5, 1));
  m.server = "down"; // the server failed at once
  assert.deepEqual(m.step(), ["STOP 5", "RESIGNATION 5 to others"]);
  assert.equal(m.q.role, "follower");
  assert.deepEqual(m.step(msg(QUORUM_MSG_REQUEST_VOTE, 5, 2)), [], "still the same term");
});

Deno.test("heartbeats hold followers and candidates back, a leader ignores them (H7)", () => {
  const m = new Machine(0, 3);
  m.step(msg(QUORUM_MSG_HEARTBEAT, 4, 1));
  assert.equal(m.q.deadline, m.now + 10_000);
  m.step(msg(QUORUM_MSG_RESIGNATION, 4, 1));
  assert.equal(m.q.deadline, m.now + 300);
  m.step(msg(QUORUM_MSG_HEARTBEAT, 3, 1));
  assert.equal(m.q.deadline, m.now + 300, "an old term is ignored");
  m.expire();
  m.step(msg(QUORUM_MSG_VOTE, 5, 1));
  m.server = "up";
  const before = m.q.deadline;
  m.step(msg(QUORUM_MSG_HEARTBEAT, 5, 1));
  assert.equal(m.q.deadline, before);
});

Deno.test("a higher term deposes a leader; STOP follows when its server is down", () => {
  const m = new Machine(0, 3);
  m.expire();
  m.step(msg(QUORUM_MSG_VOTE, 5, 1));
  m.server = "up";
  m.step();
  assert.deepEqual(m.step(msg(QUORUM_MSG_REQUEST_VOTE, 7, 2)), ["TERM 7", "stop", "VOTE 7 to 2"]);
  m.server = "stopping";
  assert.deepEqual(m.expire(), [], "no candidacy while the own server still stops");
  m.server = "down";
  assert.deepEqual(m.step(), ["STOP 5"]);
  assert.deepEqual(m.expire(), ["TERM 8", "REQUEST_VOTE 8 to others"]);
});

// Whole clusters

const addrOf = (slot: number): number => 0x0a000001 + slot;

function newDevice(): MemDevice {
  const device = new MemDevice(2 << 20);
  for (let i = 0; i < QUORUM_BLOCKS; i++) {
    const block = new Uint8Array(SM_SIZE);
    const { hdr } = QuorumBlock.at(block);
    hdr.magic = MAGIC_QUORUM;
    hdr.fsid = FSID;
    hdr.seq = 1n;
    hdr.blkno = QUORUM_BLKNO + i;
    sealBlock(block);
    device.write(block, (QUORUM_BLKNO + i) * SM_SIZE);
  }
  return device;
}

/** A server that takes its time, and fails now and then. */
class ModelServer implements ServerControl {
  state: ServerState = "down";
  onState: () => void = () => {};
  term = 0;
  ups = 0;
  constructor(
    readonly reactor: SimReactor,
    readonly random: SeededRandom,
    readonly failOneIn: number,
  ) {}
  start(term: number): void {
    assert.equal(this.state, "down");
    this.term = term;
    this.#enter("starting");
    this.reactor.setTimer(this.random.below(200), () => {
      if (this.state !== "starting") return;
      if (this.failOneIn > 0 && this.random.oneIn(this.failOneIn)) return this.#enter("down");
      this.ups++;
      this.#enter("up");
    });
  }
  stop(): void {
    if (this.state === "down" || this.state === "stopping") return;
    this.#enter("stopping");
    this.reactor.setTimer(this.random.below(400), () => this.#enter("down"));
  }
  #enter(state: ServerState): void {
    this.state = state;
    this.onState();
  }
}

interface Member {
  slot: number;
  rid: bigint;
  reactor: SimReactor;
  gate: Gate;
  server: ModelServer;
  service: QuorumService;
  failed: boolean;
}

class Election {
  readonly world: SimWorld;
  readonly device = newDevice();
  readonly slots: Slots;
  readonly members: (Member | null)[];
  readonly blocks: SmallBlocks;
  /** Mounts that recorded ELECT, by term. */
  readonly elected = new Map<number, bigint>();
  #nextRid = 1n;

  constructor(
    seed: number,
    readonly n: number,
    options: { udpLoss?: number; serverFails?: number } = {},
  ) {
    this.world = new SimWorld(seed, { udpLoss: options.udpLoss ?? 0, udpDuplicate: 20 });
    this.serverFails = options.serverFails ?? 0;
    this.slots = Array.from(
      { length: 15 },
      (_, i) => i < n ? { addr: addrOf(i), port: 42000 } : null,
    );
    this.members = this.slots.map(() => null);
    this.blocks = new SmallBlocks(this.device, FSID);
  }
  readonly serverFails: number;

  start(slot: number, knownDead: (rid: bigint) => boolean = () => false): Member {
    assert.equal(this.members[slot], null);
    const reactor = this.world.process(addrOf(slot));
    const random = new SeededRandom(this.world.random.u32());
    const gate = new Gate();
    const server = new ModelServer(reactor, random, this.serverFails);
    const rid = this.#nextRid++;
    const member: Member = {
      slot,
      rid,
      reactor,
      gate,
      server,
      failed: false,
      service: new QuorumService({
        reactor,
        random,
        device: this.#watch(slot, rid, gate),
        fsid: FSID,
        slots: this.slots,
        slot,
        rid,
        gate,
        heartbeatTimeoutMs: () => 10_000,
        server,
        knownDead,
        log: () => {},
        onFailure: () => member.failed = true,
      }),
    };
    member.service.start();
    this.members[slot] = member;
    return member;
  }

  /** The shared device as one mount sees it, checking what it records. */
  #watch(slot: number, rid: bigint, gate: Gate): MemDevice {
    const { device } = this;
    const inner = new SmallBlocks(device, FSID);
    const watched: MemDevice = Object.create(device, {
      read: { value: (b: Uint8Array, off: number) => device.read(b, off) },
      flush: { value: () => device.flush() },
      allocBuffer: { value: (n: number) => device.allocBuffer(n) },
      write: {
        value: (b: Uint8Array, off: number) => {
          gate.check();
          assert.equal(off, (QUORUM_BLKNO + slot) * SM_SIZE, "writes its own block only");
          const before = inner.readSlot(slot);
          device.write(b, off);
          this.#check(rid, before, inner.readSlot(slot));
        },
      },
    });
    return watched;
  }

  #check(
    rid: bigint,
    before: ReturnType<SmallBlocks["readSlot"]>,
    after: ReturnType<SmallBlocks["readSlot"]>,
  ): void {
    for (let e = 0; e < 6; e++) {
      const now = after.events[e];
      if (now.writeNr === before.events[e].writeNr) {
        assert.deepEqual(now, before.events[e], "other events are preserved");
        continue;
      }
      assert.equal(now.rid, rid);
      assert.ok(now.term >= before.events[e].term, "terms do not go back (2)");
      if (e === QUORUM_EVENT_ELECT) {
        const other = this.elected.get(now.term);
        if (this.n >= 3) {
          assert.ok(other === undefined || other === rid, `two leaders of ${now.term}`);
        }
        this.elected.set(now.term, rid);
      }
      if (e === QUORUM_EVENT_FENCE || e === QUORUM_EVENT_STOP) {
        assert.equal(after.events[QUORUM_EVENT_ELECT].term, now.term);
      }
    }
  }

  crash(slot: number): void {
    const m = this.members[slot];
    assert.ok(m !== null);
    m.gate.close();
    m.reactor.crash();
    this.members[slot] = null;
  }

  leaders(): Member[] {
    return this.members.filter((m): m is Member =>
      m !== null && m.service.role === "leader" && m.server.state === "up"
    );
  }

  get oneLeader(): boolean {
    return this.leaders().length === 1;
  }
}

for (const n of [1, 2, 3, 5]) {
  Deno.test(`${n} members elect a leader and replace it after a crash`, async () => {
    for (let seed = 1; seed <= 10; seed++) {
      const e = new Election(seed, n);
      for (let slot = 0; slot < n; slot++) e.start(slot);
      if (n === 2) {
        // Each may elect itself; fencing would decide. Let the second come later.
        await e.world.until(20_000, () => e.leaders().length > 0, "a leader");
        continue;
      }
      await e.world.until(20_000, () => e.oneLeader, "a leader");
      const [first] = e.leaders();
      e.crash(first.slot);
      if (n === 1) {
        const second = e.start(0);
        assert.ok(mayLead(e.blocks.readSlot(0)));
        await e.world.run(9_900);
        assert.equal(second.service.role, "follower", "waits for a leader that may be alive");
      }
      await e.world.until(30_000, () => e.oneLeader, "another leader");
      assert.notEqual(e.leaders()[0].rid, first.rid);
      assert.ok(e.leaders()[0].service.term > first.service.term);
    }
  });
}

Deno.test("a lone slot does not wait for a leader that is known dead", async () => {
  const e = new Election(7, 1);
  const first = e.start(0);
  await e.world.until(1_000, () => e.oneLeader, "a leader");
  e.crash(0);
  e.start(0, (rid) => rid === first.rid);
  await e.world.until(1_000, () => e.oneLeader, "the next leader");
});

Deno.test("several slots do wait: another member may lead", async () => {
  const e = new Election(8, 2);
  const first = e.start(0);
  await e.world.until(1_000, () => e.oneLeader, "a leader");
  e.crash(0);
  e.start(0, (rid) => rid === first.rid);
  await e.world.run(9_000);
  assert.equal(e.leaders().length, 0);
});

Deno.test("a clean exit resigns, records STOP and END; followers elect at once", async () => {
  const e = new Election(3, 3);
  for (let slot = 0; slot < 3; slot++) e.start(slot);
  await e.world.until(20_000, () => e.oneLeader, "a leader");
  const [first] = e.leaders();
  let left = false;
  first.service.stop().then(() => left = true);
  await e.world.until(1_000, () => left, "stopped");
  const { events } = e.blocks.readSlot(first.slot);
  assert.equal(events[QUORUM_EVENT_STOP].term, events[QUORUM_EVENT_ELECT].term);
  assert.ok(events[QUORUM_EVENT_END].writeNr > events[QUORUM_EVENT_STOP].writeNr);
  assert.ok(events[QUORUM_EVENT_END].writeNr > events[QUORUM_EVENT_BEGIN].writeNr);
  e.members[first.slot] = null;
  const before = e.world.now;
  await e.world.until(5_000, () => e.oneLeader, "the next leader");
  assert.ok(e.world.now - before < 3_000);
});

Deno.test("leaving while the server is stopping still records STOP (H17)", async () => {
  const e = new Election(4, 1);
  const m = e.start(0);
  await e.world.until(1_000, () => e.oneLeader, "a leader");
  m.server.stop();
  assert.equal(m.server.state, "stopping");
  let left = false;
  m.service.stop().then(() => left = true);
  await e.world.until(1_000, () => left, "stopped");
  assert.ok(!mayLead(e.blocks.readSlot(0)));
});

Deno.test("a service that loses its block stops its server and records nothing (H5)", async () => {
  const e = new Election(5, 1);
  const m = e.start(0);
  await e.world.until(1_000, () => e.oneLeader, "a leader");
  e.blocks.record(0, QUORUM_EVENT_BEGIN, 9, 999n, m.reactor); // another mount takes the slot
  const steal = e.blocks.readSlot(0);
  m.server.stop(); // the next record is STOP
  await e.world.until(2_000, () => m.failed, "failed");
  assert.equal(m.server.state, "down");
  assert.deepEqual(e.blocks.readSlot(0), steal);
});

Deno.test("a closed gate silences a leader: no record, no datagram", async () => {
  const e = new Election(6, 2);
  const m = e.start(0);
  await e.world.until(1_000, () => e.oneLeader, "a leader");
  const before = e.blocks.readSlot(0);
  let heard = 0;
  e.world.process(addrOf(1)).bindUdp({ addr: addrOf(1), port: 42000 }, () => heard++);
  await e.world.run(500);
  assert.ok(heard >= 4);
  m.gate.close();
  await e.world.run(10);
  heard = 0;
  await e.world.run(2_000);
  assert.equal(heard, 0);
  await m.service.stop();
  assert.deepEqual(e.blocks.readSlot(0), before);
});

Deno.test("bad datagrams are as if they had not come", async () => {
  const e = new Election(9, 3);
  const m = e.start(0);
  const socket = e.world.process(addrOf(1)).bindUdp({ addr: addrOf(1), port: 42000 }, () => {});
  const send = (change: (m: QuorumMessage) => void, seal = true, extra = 0): void => {
    const buf = new Uint8Array(32 + extra);
    const q = QuorumMessage.at(buf);
    q.fsid = FSID;
    q.term = 50;
    q.type = QUORUM_MSG_HEARTBEAT;
    q.from = 1;
    change(q);
    if (seal) q.seal();
    socket.send(buf, { addr: addrOf(0), port: 42000 });
  };
  send((q) => q.fsid = 1n);
  send((q) => q.type = 4);
  send((q) => q.from = 3); // not configured
  send((q) => q.from = 200);
  send(() => {}, false); // crc
  socket.send(new Uint8Array(31), { addr: addrOf(0), port: 42000 });
  await e.world.run(50);
  assert.ok(m.service.term < 50);
  send(() => {}, true, 8); // longer ones count by their first 32 bytes
  await e.world.run(50);
  assert.equal(m.service.term, 50);
});

Deno.test("members crash, restart, lose packets and servers: never two leaders of a term", async () => {
  for (let seed = 1; seed <= 12; seed++) {
    const n = [3, 5, 4][seed % 3];
    const e = new Election(seed, n, { udpLoss: 100, serverFails: 6 });
    for (let slot = 0; slot < n; slot++) e.start(slot);
    const random = new SeededRandom(seed * 77);
    for (let round = 0; round < 25; round++) {
      await e.world.run(random.below(4_000));
      const slot = random.below(n);
      const what = random.below(4);
      const m = e.members[slot];
      if (what === 0 && m !== null) e.crash(slot);
      else if (what === 1 && m === null) e.start(slot);
      else if (what === 2) {
        for (let other = 0; other < n; other++) e.world.cut(addrOf(slot), addrOf(other));
      } else if (what === 3) e.world.healAll();
    }
    // Peace: exactly one leader, and it stays (6).
    e.world.healAll();
    e.world.net.udpLoss = 0;
    for (let slot = 0; slot < n; slot++) if (e.members[slot] === null) e.start(slot);
    await e.world.until(120_000, () => e.oneLeader, `seed ${seed}: one leader in the end`);
  }
});
