/**
 * kill -9 of the mount under load, again and again: after each, the devices are sound as they are,
 * the next mount recovers without a human, and nothing that fsync or syncfs acknowledged is lost.
 * SCOUTFS_KILL_ROUNDS is the number of kills for each kind of device.
 *
 * Every fact that writers establish has a key and a history of values; what is found after a kill
 * must be the last acknowledged value of each key or a later one that was being written.
 */

import assert from "node:assert/strict";
import { checkVolume } from "../helpers/check_volume.ts";
import { ImageDevice } from "../helpers/image_device.ts";
import { SeededRandom } from "../helpers/sim_reactor.ts";
import { mountTest, run, type TestVolume } from "../helpers/volume.ts";

const ROUNDS = Number(Deno.env.get("SCOUTFS_KILL_ROUNDS") ?? 5);
const BLOCK = 4096;
const BLOCKS = 512;

/** What a key is: text, or null for something that is not there. */
type Value = string | null;

interface History {
  values: Value[];
  /** Index of the newest value whose system call returned, and of the newest acknowledged one. */
  done: number;
  acked: number;
}

class Journal {
  readonly #keys = new Map<string, History>();
  acks = 0;

  #history(key: string): History {
    let h = this.#keys.get(key);
    if (h === undefined) this.#keys.set(key, h = { values: [null], done: 0, acked: 0 });
    return h;
  }

  /** The newest value, written or not. */
  latest(key: string): Value {
    return this.#history(key).values.at(-1)!;
  }

  /** Runs the system calls that give `key` a new value. */
  async change(key: string, value: Value, calls: () => Promise<void>): Promise<void> {
    const h = this.#history(key);
    h.values.push(value);
    const index = h.values.length - 1;
    await calls();
    h.done = index;
  }

  /** Runs a sync that covers `keys` (all of them if none are given). */
  async sync(sync: () => Promise<void>, ...keys: string[]): Promise<void> {
    const covered = (keys.length === 0 ? [...this.#keys.keys()] : keys)
      .map((key) => ({ h: this.#history(key), done: this.#history(key).done }));
    await sync();
    for (const { h, done } of covered) h.acked = Math.max(h.acked, done);
    this.acks++;
  }

  /** After a kill: `found` is what is there now, and becomes the only truth. */
  settle(key: string, found: Value): void {
    const h = this.#history(key);
    const at = h.values.lastIndexOf(found);
    const promised = h.values[h.acked];
    assert.ok(
      at >= h.acked,
      `${key}: '${found}' is there, but '${promised}' was acknowledged (${h.acked} of ${
        h.values.length - 1
      }, found as ${at})`,
    );
    this.#keys.set(key, { values: [found], done: 0, acked: 0 });
  }

  keys(prefix: string): string[] {
    return [...this.#keys.keys()].filter((k) => k.startsWith(prefix));
  }
}

/** The content of a block, file or record that stands for `value`. */
function fill(value: string, bytes: number): Uint8Array {
  const text = new TextEncoder().encode(`${value}\n`);
  const out = new Uint8Array(bytes);
  for (let at = 0; at < bytes; at += text.length) {
    out.set(text.subarray(0, Math.min(text.length, bytes - at)), at);
  }
  return out;
}

/** Which value a content stands for; fails when it is torn or foreign. */
function valueOf(content: Uint8Array, what: string): Value {
  if (content.every((b) => b === 0)) return null;
  const value = new TextDecoder().decode(content.subarray(0, content.indexOf(10)));
  assert.deepEqual(content, fill(value, content.length), `${what} is torn: begins with '${value}'`);
  return value;
}

type Step = () => Promise<void>;

async function fsyncDir(path: string): Promise<void> {
  using dir = await Deno.open(path);
  await dir.sync();
}

/** Endless writers, each returning one step of its work. */
function writers(v: TestVolume, journal: Journal, random: SeededRandom): Step[] {
  const { mnt } = v;
  let count = 0;

  const appendTo = (file: string): Step => async () => {
    const key = `append:${file}`;
    const records = Number(journal.latest(key) ?? 0) + 1;
    using f = await Deno.open(`${mnt}/${file}`, { append: true, create: true });
    await journal.change(key, `${records}`, async () => {
      await f.write(fill(`record ${records}`, BLOCK));
    });
    await journal.sync(() => f.sync(), key);
  };

  /** Each writer has blocks of its own. */
  const overwrite = (writer: number): Step => async () => {
    using f = await Deno.open(`${mnt}/blocks`, { write: true, create: true });
    const keys: string[] = [];
    for (let n = 1 + random.below(4); n > 0; n--) {
      const i = 2 * random.below(BLOCKS / 2) + writer;
      const key = `block:${i}`;
      const value = `block ${i} version ${++count}`;
      await f.seek(i * BLOCK, Deno.SeekMode.Start);
      await journal.change(key, value, async () => void await f.write(fill(value, BLOCK)));
      keys.push(key);
    }
    await journal.sync(() => f.syncData(), ...keys);
  };

  /** Creates, replaces by rename, and removes files of a directory. */
  const names = (dir: string): Step => async () => {
    await Deno.mkdir(`${mnt}/${dir}`, { recursive: true });
    const name = `${dir}/file-${random.below(20)}`;
    const key = `name:${name}`;
    const there = journal.latest(key) !== null;
    if (there && random.oneIn(3)) {
      await journal.change(key, null, () => Deno.remove(`${mnt}/${name}`));
      await journal.sync(() => fsyncDir(`${mnt}/${dir}`), key);
      return;
    }
    const length = 100 + random.below(30_000);
    const value = `${length} bytes: content ${++count} of ${name}`;
    const bytes = fill(value, length);
    const path = there ? `${mnt}/${dir}/new` : `${mnt}/${name}`;
    const write = async () => {
      using f = await Deno.open(path, { write: true, create: true, truncate: true });
      await f.write(bytes.subarray(0, 100));
      for (let at = 100; at < bytes.length;) at += await f.write(bytes.subarray(at));
      await f.sync();
    };
    if (there) {
      await write();
      await journal.change(key, value, () => Deno.rename(path, `${mnt}/${name}`));
      await journal.sync(() => fsyncDir(`${mnt}/${dir}`), key);
    } else {
      await journal.change(key, value, write);
      await journal.sync(() => fsyncDir(`${mnt}/${dir}`), key);
    }
  };
  return [appendTo("log-a"), appendTo("log-b"), overwrite(0), overwrite(1), names("x"), names("y")];
}

/** Compares everything with the journal. */
async function verify(v: TestVolume, journal: Journal): Promise<void> {
  const read = (path: string) => Deno.readFile(`${v.mnt}/${path}`).catch(() => null);
  for (const key of journal.keys("append:")) {
    const bytes = await read(key.slice(7)) ?? new Uint8Array(0);
    const whole = Math.floor(bytes.length / BLOCK);
    for (let i = 0; i < whole; i++) {
      const record = bytes.subarray(i * BLOCK, (i + 1) * BLOCK);
      assert.equal(valueOf(record, `${key} record ${i + 1}`), `record ${i + 1}`);
    }
    journal.settle(key, whole === 0 ? null : `${whole}`);
    if (bytes.length % BLOCK !== 0) await Deno.truncate(`${v.mnt}/${key.slice(7)}`, whole * BLOCK);
  }
  const blocks = await read("blocks") ?? new Uint8Array(0);
  for (const key of journal.keys("block:")) {
    const at = Number(key.slice(6)) * BLOCK;
    const found = blocks.subarray(at, at + BLOCK);
    journal.settle(key, found.length === 0 ? null : valueOf(found, key));
  }
  for (const key of journal.keys("name:")) {
    const bytes = await read(key.slice(5));
    // What was being created may be there in part.
    const part = bytes === null || bytes.length === 0 ? null : valueOf(bytes, key);
    const value = part !== null && parseInt(part) === bytes!.length ? part : null;
    if (value === null && bytes !== null) await Deno.remove(`${v.mnt}/${key.slice(5)}`);
    journal.settle(key, value);
  }
}

/** Runs all writers until `acks` more acknowledgements came, then kills the mount under them. */
async function loadAndKill(
  v: TestVolume,
  journal: Journal,
  random: SeededRandom,
  syncfs: boolean,
): Promise<void> {
  const target = journal.acks + 20 + random.below(150);
  let killed = false;
  let reached = () => {};
  const enough = new Promise<void>((resolve) => reached = resolve);
  const loop = async (step: Step) => {
    try {
      while (!killed) {
        await step();
        if (journal.acks >= target) reached();
      }
    } catch (e) {
      if (!killed) {
        reached();
        throw e;
      }
    }
  };
  const steps = writers(v, journal, random);
  if (syncfs) {
    steps.push(async () => {
      await journal.sync(async () => {
        const r = await run("sync", ["-f", v.mnt]);
        if (r.code !== 0) throw new Error(r.err);
      });
      await new Promise((resolve) => setTimeout(resolve, 20));
    });
  }
  const running = steps.map(loop);
  await Promise.race([enough, Promise.all(running)]);
  killed = true;
  await v.kill();
  // Before the dead mount goes: no call may end up in the directory below.
  await Promise.all(running);
  await v.crash();
}

async function killRounds(v: TestVolume, seed: number, syncfs: boolean): Promise<void> {
  const random = new SeededRandom(seed);
  const journal = new Journal();
  let slowest = 0;
  const check = (clean: boolean) => {
    using devices = new DisposableStack();
    const open = (path: string) => devices.adopt(new ImageDevice(path), (d) => d.close());
    const { problems } = checkVolume(open(v.meta), open(v.data), { clean });
    assert.deepEqual(problems, []);
  };
  await v.mount();
  for (let round = 1; round <= ROUNDS; round++) {
    await loadAndKill(v, journal, random, syncfs);
    check(false);
    const before = performance.now();
    await v.mount();
    slowest = Math.max(slowest, performance.now() - before);
    await verify(v, journal);
    if (round % 10 !== 0 && round !== ROUNDS) continue;
    await v.umountAndWait();
    check(true);
    await v.mount();
  }
  console.log(
    `${ROUNDS} kills, ${journal.acks} acknowledgements, slowest recovery ${Math.round(slowest)} ms`,
  );
}

mountTest("kill -9 under load loses nothing acknowledged: image files, fsync", {}, (v) => {
  return killRounds(v, 1, false);
});

mountTest(
  "kill -9 under load loses nothing acknowledged: block devices, fsync and syncfs",
  { loop: true },
  (v) => killRounds(v, 2, true),
);
