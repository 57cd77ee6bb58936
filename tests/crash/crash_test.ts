/**
 * The whole stack crashes everywhere: a mount (or two) with the real server's storage, locks and
 * open maps over devices that record; a crash after any of their writes and flushes keeps any part
 * of what was not flushed, page by page, so that blocks are torn. Then: the volume is sound as it
 * is (03 §24: nothing is ever repaired), the next server takes over, also when it crashes while it
 * does; nothing that was acknowledged is missing; the volume mounts, works, and unmounts clean.
 *
 * A sample of the points of a few runs is tried. SCOUTFS_CRASH_SEEDS is the number of runs,
 * SCOUTFS_CRASH_POINTS how many points of each, or "all".
 */

import assert from "node:assert/strict";
import { SM_SIZE } from "../../format/constants.ts";
import { FsError } from "../../fs/errors.ts";
import { MemDevice } from "../../fs/memory_device.ts";
import { makeFilesystem } from "../../fs/mkfs.ts";
import { getattr } from "../../fs/ops/attr.ts";
import { write } from "../../fs/ops/data.ts";
import { create, lookup, readlink, unlink } from "../../fs/ops/names.ts";
import { readdir } from "../../fs/ops/readdir.ts";
import { getXattr, listXattr } from "../../fs/ops/xattr.ts";
import { checkVolume } from "../helpers/check_volume.ts";
import { readBytes } from "../helpers/read_bytes.ts";
import { LocalCluster } from "../helpers/local_cluster.ts";
import { LocalFs } from "../helpers/local_fs.ts";
import { SeededRandom } from "../helpers/sim_reactor.ts";
import { Timeline } from "../helpers/timeline.ts";
import { describe, type Kind, type Node, type State, TICK, utf8, Workload } from "./workload.ts";

const META_BYTES = 256 << 20;
/** A client of a server gets 512 MiB of data space at least. */
const dataBytes = (mounts: number) => mounts === 1 ? 64 << 20 : 2 ** 30;
const text = (u: Uint8Array): string => new TextDecoder().decode(u);

/** Points to try of a workload with `length` of them: all, or a sorted sample. */
function samplePoints(length: number, few: number, random: SeededRandom): number[] {
  const how = Deno.env.get("SCOUTFS_CRASH_POINTS") ?? String(few);
  const all = Array.from({ length: length + 1 }, (_, i) => i);
  if (how === "all") return all;
  const chance = Number(how) / all.length;
  return all.filter(() => random.below(1 << 30) < chance * (1 << 30));
}

function newVolume(seed: number, dataBytes: number): Timeline {
  const blank = Timeline.blank(META_BYTES, dataBytes);
  makeFilesystem(blank.meta, blank.data, {
    fsid: 0x5566778811223344n + BigInt(seed),
    uuid: new Uint8Array(16).fill(seed),
    time: { sec: 1_600_000_000, nsec: 0 },
    fmtVers: 2,
    metaBytes: META_BYTES,
    dataBytes,
    slots: [{ nr: 0, addr: 0x7f000001, port: 7 }],
  });
  return Timeline.from(blank.meta, blank.data);
}

/** What a whole run left to be crashed. */
interface Recording {
  readonly volume: Timeline;
  readonly states: readonly State[];
  /** `started[i]`: the point at which operation i began. */
  readonly started: readonly number[];
  /** At this point, everything up to this state had been acknowledged as durable. */
  readonly acks: readonly { readonly point: number; readonly state: number }[];
}

async function record(seed: number, mounts: number, steps: number): Promise<Recording> {
  const random = new SeededRandom(seed);
  const volume = newVolume(seed, dataBytes(mounts));
  const cluster = await LocalCluster.open(volume.meta, volume.data, seed);
  cluster.ownServer = seed % 2 !== 0;
  const paranoid = seed % 2 === 0 ? { random, suspendPerMille: 30 } : null;
  const options = { dataPreallocBlocks: seed % 3 === 0 ? 64 : 2048 };
  const mount = () => LocalFs.mount(cluster, { paranoid, options });
  const mounted: LocalFs[] = [];
  for (let i = 0; i < mounts; i++) mounted.push(await mount());
  const work = new Workload(mounted[0]!, random);
  const started = [0];
  const acks: { point: number; state: number }[] = [];
  const acknowledge = (state: number) => void acks.push({ point: volume.length, state });
  const syncs: Promise<void>[] = [];
  for (let i = 1; i <= steps; i++) {
    started.push(volume.length);
    if (random.oneIn(4)) work.mount = mounted[random.below(mounts)]!;
    await work.step();
    // Some syncs are waited for, others go on beside the next operations.
    if (random.oneIn(8)) {
      const done = work.mount.sync().then(() => acknowledge(i));
      if (random.oneIn(2)) await done;
      else syncs.push(done);
    }
    if (random.oneIn(40)) {
      const at = mounted.indexOf(work.mount);
      work.release(work.mount);
      await work.mount.unmount();
      acknowledge(i);
      work.mount = mounted[at] = await mount();
    }
  }
  await Promise.all(syncs);
  for (const m of mounted) {
    work.release(m);
    await m.unmount();
  }
  acknowledge(steps);
  cluster.stop();
  return { volume, states: work.states, started, acks };
}

/** The next server: takes over what it finds. Crashes itself first, sometimes, and is repeated. */
async function recover(
  meta: MemDevice,
  data: MemDevice,
  random: SeededRandom,
): Promise<LocalCluster> {
  for (let again = random.below(3); again > 0; again--) {
    const volume = Timeline.from(meta, data);
    const cluster = await LocalCluster.open(volume.meta, volume.data, random.u32());
    const m = await LocalFs.mount(cluster);
    await m.fs.orphans.scan();
    await m.sync();
    m.fs.abort();
    cluster.stop();
    ({ meta, data } = volume.crash(random.below(volume.length + 1), () => random.oneIn(2)));
    assert.deepEqual(checkVolume(meta, data).problems, [], "after a crash of the recovery");
  }
  return await LocalCluster.open(meta, data, random.u32());
}

const KINDS: Record<number, Kind> = { 0o04: "dir", 0o10: "file", 0o12: "link" };

/** What is there now, by inode number, and the number of the last operation that is in it. */
async function readAll(m: LocalFs): Promise<{ tick: number; found: State }> {
  const found = new Map<number, Node>();
  const visit = async (ino: number): Promise<void> => {
    const { mode, nlink, size } = await m.run((op, fs) => {
      const { mode, nlink, size } = getattr(op, fs, ino);
      return { mode, nlink, size };
    });
    const kind = KINDS[mode >> 12]!;
    const entries = new Map<string, number>();
    if (kind === "dir") {
      await m.run((op, fs) => {
        entries.clear();
        readdir(op, fs, ino, 2, (child, _pos, _type, from, off, length) => {
          entries.set(text(from.subarray(off, off + length)), child);
          return true;
        });
      });
      for (const [name, child] of entries) {
        assert.equal(await m.run((op, fs) => lookup(op, fs, ino, utf8(name))), child);
        m.fs.refs.forget(child, 1);
      }
    }
    const target = kind === "link" ? text(await m.run((op, fs) => readlink(op, fs, ino))) : "";
    const xattrs = new Map<string, string>();
    const listed = text(await m.run((op, fs) => listXattr(op, fs, ino)));
    for (const x of [...listed.split("\0").slice(0, -1), "scoutfs.hide.srch.h"]) {
      const value = await m.run((op, fs) => getXattr(op, fs, ino, utf8(x))).catch((e: unknown) => {
        if (!(e instanceof FsError) || !x.includes("hide")) throw e;
        return null;
      });
      if (value !== null) xattrs.set(x, text(value));
    }
    const bytes = kind === "file" ? await readFile(m, ino, size) : new Uint8Array(0);
    found.set(ino, { kind, ino, mode: mode & 0o7777, nlink, entries, xattrs, target, bytes });
    for (const child of entries.values()) if (!found.has(child)) await visit(child);
  };
  await visit(1);
  const root = found.get(1)!;
  const xattrs = new Map(root.xattrs);
  const tick = Number(xattrs.get(TICK) ?? 0);
  xattrs.delete(TICK);
  found.set(1, { ...root, xattrs });
  return { tick, found };
}

async function readFile(m: LocalFs, ino: number, size: number): Promise<Uint8Array> {
  const caller = { uid: 0, gid: 0, pid: 0, umask: 0 };
  const bytes = await readBytes(m.fs, { ino, offset: 0, length: size, caller, id: 1 });
  assert.equal(bytes.length, size, `inode ${ino}: bytes to the end of the file`);
  return bytes;
}

/** Compares what was found with the states it may be: `tick` or already some of the next one. */
function judge(found: State, tick: number, states: readonly State[], upper: number): void {
  const candidates = [tick, tick + 1].filter((i) =>
    i < states.length && i <= Math.max(upper, tick)
  );
  const seen = describe(found);
  const matching = candidates.some((i) => describe(states[i]!).join("\n") === seen.join("\n"));
  if (!matching) assert.deepEqual(seen, describe(states[tick]!));
  for (const node of found.values()) {
    if (node.kind === "file") judgeFile(node, tick, states, upper);
  }
}

function judgeFile(
  node: Node,
  tick: number,
  states: readonly State[],
  upper: number,
): void {
  const versions: Uint8Array[] = [];
  for (let i = tick; i <= Math.min(Math.max(upper, tick + 1), states.length - 1); i++) {
    const bytes = states[i]!.get(node.ino)?.bytes;
    if (bytes !== undefined && versions.at(-1) !== bytes) versions.push(bytes);
  }
  const what = `inode ${node.ino} of state ${tick}`;
  const sizes = [tick, tick + 1].flatMap((i) => states[i]?.get(node.ino)?.bytes.length ?? []);
  const size = node.bytes.length;
  assert.ok(
    size >= Math.min(...sizes) && size <= Math.max(...sizes),
    `${what}: size ${size}, not in ${sizes}`,
  );
  for (let at = 0; at < size; at += SM_SIZE) {
    const page = node.bytes.subarray(at, at + SM_SIZE);
    assert.ok(
      versions.some((v) => beginsLike(v, at, page)),
      `${what}: block ${at / SM_SIZE} holds what it never held (of ${versions.length} versions)`,
    );
  }
}

/** Is `page` what the file `v` has at `at`, zeros behind its end? */
function beginsLike(v: Uint8Array, at: number, page: Uint8Array): boolean {
  for (let i = 0; i < page.length; i++) if (page[i] !== (v[at + i] ?? 0)) return false;
  return true;
}

/** The volume is used again and left clean. */
async function useAndLeave(m: LocalFs, meta: MemDevice, data: MemDevice): Promise<void> {
  await m.fs.orphans.scan();
  const name = utf8("after-the-crash");
  const ino = await m.run((op, fs) => create(op, fs, 1, name, 0o100644));
  const caller = { uid: 0, gid: 0, pid: 0, umask: 0 };
  const payload = utf8("it works".repeat(2000));
  await write(m.fs, {
    ino,
    offset: 0,
    data: payload,
    append: false,
    direct: false,
    sync: true,
    killSuidgid: false,
    pageWrite: false,
    caller,
    id: 1,
  });
  assert.deepEqual(await readFile(m, ino, payload.length), payload);
  m.fs.refs.forget(ino, 1);
  await m.run((op, fs) => unlink(op, fs, 1, name));
  await m.unmount();
  const left = checkVolume(meta, data, { clean: true });
  assert.deepEqual(left.problems, [], "after use and unmount");
  assert.deepEqual(left.orphans, [], "orphans are deleted");
}

async function crashAt(run: Recording, point: number, random: SeededRandom): Promise<void> {
  const lossy = random.below(3);
  const crashed = run.volume.crash(point, () => lossy === 0 || (lossy === 1 && random.oneIn(2)));
  assert.deepEqual(checkVolume(crashed.meta, crashed.data).problems, [], "as the crash left it");
  const cluster = await recover(crashed.meta, crashed.data, random);
  const taken = checkVolume(cluster.meta, cluster.data, { clean: true });
  assert.deepEqual(taken.problems, [], "after recovery");
  const m = await LocalFs.mount(cluster);
  const { tick, found } = await readAll(m);
  const lower = Math.max(0, ...run.acks.filter((a) => a.point <= point).map((a) => a.state));
  const upper = run.started.findLastIndex((at) => at <= point);
  assert.ok(tick >= lower, `state ${lower} was acknowledged, only ${tick} is there`);
  assert.ok(tick <= upper, `state ${tick} is there, but only ${upper} had begun`);
  judge(found, tick, run.states, upper);
  await useAndLeave(m, cluster.meta, cluster.data);
  cluster.stop();
}

const SEEDS = Number(Deno.env.get("SCOUTFS_CRASH_SEEDS") ?? 2);

for (const mounts of [1, 2]) {
  for (let seed = 1; seed <= SEEDS; seed++) {
    const who = mounts === 1 ? "one mount" : "two mounts";
    Deno.test(`crashes anywhere lose nothing acknowledged: ${who}, seed ${seed}`, async () => {
      const run = await record(seed, mounts, 150);
      const random = new SeededRandom(seed * 1000);
      for (const point of samplePoints(run.volume.length, 75, random)) {
        const trial = random.u32();
        try {
          await crashAt(run, point, new SeededRandom(trial));
        } catch (e) {
          throw new Error(`crash after ${point} of ${run.volume.length}, trial ${trial}`, {
            cause: e,
          });
        }
      }
    });
  }
}
