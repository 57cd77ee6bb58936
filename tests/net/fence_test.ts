/** Fence requests, the directory tree of 04 §18.1, the hook's contract, and proofs of death. */

import assert from "node:assert/strict";
import { type FenceAgent, type FenceRequest, FenceRequests } from "../../net/fence.ts";
import { FenceDirectory, FenceHook } from "../../net/fence_agents.ts";
import { HostRecords, linuxProcesses, type ProcessTable, readFile } from "../../net/host_record.ts";
import { previousLeaders, type SlotRecord } from "../../net/quorum_blocks.ts";
import { SimWorld } from "../helpers/sim_reactor.ts";

const FSID = 0x0123456789abcdefn;
const RID = 0xfeedfacecafef00dn;
const DEAD = 0x0000_1234_5678_9abcn;
const IP = 0xc000020a;

class ManualAgent implements FenceAgent {
  readonly asked = new Map<bigint, (ok: boolean) => void>();
  publish(request: FenceRequest, answer: (ok: boolean) => void): void {
    this.asked.set(request.rid, answer);
  }
  withdraw(rid: bigint): void {
    this.asked.delete(rid);
  }
}

function newRequests(knownDead: (rid: bigint) => boolean = () => false) {
  const world = new SimWorld(1);
  const agent = new ManualAgent();
  const requests = new FenceRequests({
    timers: world.process(1),
    agents: [agent],
    knownDead,
    log: () => {},
  });
  return { world, agent, requests };
}

Deno.test("one request per rid; the first answer counts; 30 s are the limit", async () => {
  const { world, agent, requests } = newRequests();
  requests.start(DEAD, IP, "client_reconnect");
  requests.start(DEAD, IP, "client_recovery");
  assert.equal(agent.asked.size, 1);
  agent.asked.get(DEAD)!(true);
  agent.asked.get(DEAD)!(false);
  assert.equal(requests.stateOf(DEAD), "fenced");
  assert.equal(requests.nextSettled()?.reason, "client_reconnect");
  requests.start(7n, IP, "client_recovery");
  await world.run(29_999);
  assert.equal(requests.stateOf(7n), "pending");
  await world.run(1);
  assert.equal(requests.stateOf(7n), "error");
  requests.clear();
  assert.ok(requests.isEmpty);
});

Deno.test("the known dead are fenced without asking; death may be proved later", () => {
  const dead = new Set([DEAD]);
  const { agent, requests } = newRequests((rid) => dead.has(rid));
  requests.start(DEAD, IP, "client_recovery");
  assert.equal(requests.stateOf(DEAD), "fenced");
  assert.equal(agent.asked.size, 0);
  requests.start(7n, IP, "client_recovery");
  requests.recheck();
  assert.equal(requests.stateOf(7n), "pending");
  dead.add(7n);
  requests.recheck();
  assert.equal(requests.stateOf(7n), "fenced");
});

Deno.test("waiting for leaders: an error fails at once (H4), silence after the limit", async () => {
  for (const how of ["fence", "error", "silence"] as const) {
    const { world, agent, requests } = newRequests();
    requests.start(DEAD, IP, "quorum_block_leader");
    let result: boolean | null = null;
    requests.untilAllFenced(15_000).then((r) => result = r);
    await world.run(100);
    assert.equal(result, null);
    if (how !== "silence") agent.asked.get(DEAD)!(how === "fence");
    await world.run(how === "silence" ? 15_000 : 1);
    assert.equal(result, how === "fence");
  }
});

Deno.test("whom a new leader has to fence (04 §8)", () => {
  const slot = (
    nr: number,
    e: { elect?: [bigint, number]; fence?: [bigint, number]; stop?: number },
  ): SlotRecord => {
    const never = { writeNr: 0, rid: 0n, term: 0 };
    const at = (v?: [bigint, number]) => v ? { writeNr: 1, rid: v[0], term: v[1] } : never;
    const stop = { writeNr: 1, rid: 1n, term: e.stop ?? 0 };
    return { slot: nr, events: [never, never, at(e.elect), at(e.fence), stop, never] };
  };
  const rids = (records: SlotRecord[], term: number, own = 99n) =>
    previousLeaders(records, term, own).map((l) => l.rid);
  assert.deepEqual(rids([slot(0, { elect: [5n, 3], fence: [5n, 3], stop: 3 })], 4), []);
  assert.deepEqual(rids([slot(0, { elect: [5n, 3], fence: [5n, 3] })], 4), [5n]);
  assert.deepEqual(rids([slot(0, { elect: [6n, 4], fence: [5n, 3] })], 5), [6n, 5n]);
  assert.deepEqual(rids([slot(0, { elect: [99n, 5], fence: [5n, 3] })], 5), [5n], "not ourselves");
  assert.deepEqual(rids([slot(0, { elect: [7n, 9] })], 5), [], "a later leader is left alone");
  const fencedBefore = [slot(0, { elect: [5n, 3] }), slot(1, { elect: [6n, 4], fence: [6n, 4] })];
  assert.deepEqual(rids(fencedBefore, 5), [6n], "what term 4 fenced is done");
});

Deno.test("the directory: files, modes, any write counts, requests vanish when withdrawn", async () => {
  const root = Deno.makeTempDirSync({ prefix: "scoutfs-fence-" });
  try {
    const world = new SimWorld(2);
    const reactor = world.process(1);
    const dir = new FenceDirectory(reactor, root, FSID, RID);
    assert.equal(dir.dir, `${root}/fs/scoutfs/f.012345.r.feedfa/fence`);
    const answers: string[] = [];
    const publish = (rid: bigint): string => {
      const request: FenceRequest = {
        rid,
        ip: IP,
        reason: "client_recovery",
        createdAt: reactor.now(),
        state: "pending",
      };
      dir.publish(request, (ok) => answers.push(`${rid} ${ok}`));
      return `${dir.dir}/${rid.toString(16).padStart(16, "0")}`;
    };
    const a = publish(DEAD);
    const b = publish(7n);
    const read = (path: string): string => Deno.readTextFileSync(path);
    assert.equal(read(`${a}/rid`), "0000123456789abc");
    assert.equal(read(`${a}/ipv4_addr`), "192.0.2.10");
    assert.equal(read(`${a}/reason`), "client_recovery");
    assert.equal(read(`${a}/fenced`) + read(`${a}/error`), "00");
    assert.equal(Deno.statSync(`${a}/reason`).mode! & 0o777, 0o444);
    assert.equal(Deno.statSync(`${a}/fenced`).mode! & 0o777, 0o644);
    await world.run(2_500);
    assert.equal(read(`${a}/elapsed_secs`), "2");
    assert.deepEqual(answers, []);
    Deno.writeTextFileSync(`${a}/fenced`, "0"); // any content
    Deno.writeTextFileSync(`${b}/error`, "1\n");
    await world.run(500);
    assert.deepEqual(answers.sort(), [`${DEAD} true`, "7 false"].sort());
    assert.equal(read(`${a}/fenced`) + read(`${b}/error`), "11");
    dir.withdraw(DEAD);
    assert.throws(() => Deno.statSync(a), Deno.errors.NotFound);
    dir.close();
    assert.deepEqual([...Deno.readDirSync(`${root}/fs/scoutfs`)], []);
  } finally {
    Deno.removeSync(root, { recursive: true });
  }
});

Deno.test("the hook: environment in, exit status out", async () => {
  const root = Deno.makeTempDirSync({ prefix: "scoutfs-hook-" });
  try {
    const script = `${root}/fence`;
    Deno.writeTextFileSync(
      script,
      `#!/bin/sh\necho "$1 $SCOUTFS_FENCED_REQ_RID $SCOUTFS_FENCED_REQ_IP" >> ${root}/log\n` +
        `test "$SCOUTFS_FENCED_REQ_RID" != 0000000000000007\n`,
      { mode: 0o755 },
    );
    const hook = new FenceHook(script, ["arg"], () => {});
    const ask = (rid: bigint): Promise<boolean> =>
      new Promise((resolve) =>
        hook.publish(
          { rid, ip: IP, reason: "client_reconnect", createdAt: 0, state: "pending" },
          resolve,
        )
      );
    assert.deepEqual(await Promise.all([ask(DEAD), ask(7n)]), [true, false]);
    assert.equal(
      Deno.readTextFileSync(`${root}/log`),
      "arg 0000123456789abc 192.0.2.10\narg 0000000000000007 192.0.2.10\n",
    );
    const missing = new FenceHook(`${root}/absent`, [], () => {});
    const ok = await new Promise<boolean>((resolve) =>
      missing.publish(
        { rid: 1n, ip: IP, reason: "client_reconnect", createdAt: 0, state: "pending" },
        resolve,
      )
    );
    assert.equal(ok, false);
  } finally {
    Deno.removeSync(root, { recursive: true });
  }
});

Deno.test("proof of death: only what is certain", () => {
  const root = Deno.makeTempDirSync({ prefix: "scoutfs-host-" });
  try {
    const here = { machineId: "m", hardwareId: "h", bootId: "b1", pidNamespace: "pid:[1]" };
    const state = { identity: { ...here }, process: { startTime: "100", state: "S", threads: 5 } };
    let process: ReturnType<ProcessTable["process"]> = state.process;
    let identity: ReturnType<ProcessTable["identity"]> = state.identity;
    const records = new HostRecords(root, FSID, {
      identity: () => identity,
      process: () => process,
    });
    assert.equal(records.provablyDead(DEAD), false, "no record");
    assert.ok(records.record(DEAD, 4711));
    const dead = (): boolean => records.provablyDead(DEAD);
    assert.equal(dead(), false, "it runs");
    process = { startTime: "100", state: "T", threads: 5 };
    assert.equal(dead(), false, "it is stopped, and may go on");
    process = { startTime: "100", state: "Z", threads: 2 };
    assert.equal(dead(), false, "another thread may still write");
    process = { startTime: "100", state: "Z", threads: 1 };
    assert.equal(dead(), true, "a zombie");
    process = { startTime: "101", state: "S", threads: 5 };
    assert.equal(dead(), true, "its pid belongs to another");
    process = null;
    assert.equal(dead(), true, "no such process");
    process = "unknown";
    assert.equal(dead(), false, "/proc hides processes");
    process = null;
    identity = { ...here, pidNamespace: "pid:[2]" };
    assert.equal(dead(), false, "pids of another namespace say nothing");
    identity = { ...here, bootId: "b2", pidNamespace: "pid:[2]" };
    assert.equal(dead(), true, "the machine has booted since");
    identity = { ...here, bootId: "b2", hardwareId: "other" };
    assert.equal(dead(), false, "a clone of the machine");
    identity = { ...here, machineId: "other" };
    assert.equal(dead(), false, "another machine");
    identity = null;
    assert.equal(dead(), false, "who are we?");
    identity = here;
    assert.equal(new HostRecords(root, FSID + 1n, linuxProcesses).provablyDead(DEAD), false);
    const [file] = [...Deno.readDirSync(`${root}/0123456789abcdef`)];
    Deno.writeTextFileSync(`${root}/0123456789abcdef/${file.name}`, '{"rid":');
    assert.equal(dead(), false, "a torn record");
    records.forget(DEAD);
    records.forget(DEAD);
  } finally {
    Deno.removeSync(root, { recursive: true });
  }
});

Deno.test("a process that ends while its file is read has none", async () => {
  const child = new Deno.Command("true").spawn();
  // Nobody has asked for its status yet: it stays, as a zombie, which has no environment to read.
  const state = () => {
    const now = linuxProcesses.process(child.pid);
    assert.ok(now !== null && now !== "unknown", "it stays until its status is asked for");
    return now.state;
  };
  while (state() !== "Z");
  assert.equal(readFile(`/proc/${child.pid}/environ`), null);
  await child.status;
});

Deno.test("proof of death of a real process", async () => {
  const root = Deno.makeTempDirSync({ prefix: "scoutfs-host-" });
  try {
    const records = new HostRecords(root, FSID);
    const child = new Deno.Command("sleep", { args: ["60"] }).spawn();
    assert.ok(records.record(DEAD, child.pid));
    assert.ok(records.record(RID, Deno.pid));
    assert.equal(records.provablyDead(DEAD), false);
    child.kill("SIGKILL");
    await child.status;
    assert.equal(records.provablyDead(DEAD), true);
    assert.equal(records.provablyDead(RID), false);
    assert.deepEqual(records.deadMounts(), [DEAD]);
    records.prune(new Set([DEAD]));
    assert.deepEqual(records.deadMounts(), [DEAD], "the volume still remembers it");
    const timers = new SimWorld(3).process(1);
    const left = new FenceDirectory(timers, root, FSID, DEAD);
    FenceDirectory.removeLeftovers(root, FSID, records.deadMounts());
    assert.throws(() => Deno.statSync(left.dir), Deno.errors.NotFound);
    records.prune(new Set());
    assert.deepEqual(records.deadMounts(), []);
  } finally {
    Deno.removeSync(root, { recursive: true });
  }
});
