/**
 * Power loss at any write of the metadata device while names change: whatever the device kept, the
 * namespace is sound, operations are there wholly or not at all, and what a sync acknowledged is
 * there (02 §2.1, 03 §24).
 */

import assert from "node:assert/strict";
import { create, lookup, rmdir, unlink } from "../../fs/ops/names.ts";
import { readdir } from "../../fs/ops/readdir.ts";
import { rename } from "../../fs/ops/rename.ts";
import { setXattr } from "../../fs/ops/xattr.ts";
import { LocalCluster } from "../helpers/local_cluster.ts";
import { assertSound, LocalFs } from "../helpers/local_fs.ts";
import { SeededRandom } from "../helpers/sim_reactor.ts";

const b = (s: string): Uint8Array => new TextEncoder().encode(s);
const text = (u: Uint8Array): string => new TextDecoder().decode(u);

/** Crashes tried per history. */
const CRASHES = 60;

/** The names below the root, one level deep. */
async function tree(m: LocalFs): Promise<string[]> {
  return await m.run((op, fs) => {
    const names: string[] = [];
    readdir(op, fs, 1, 2, (dir, _pos, type, from, off, length) => {
      const name = text(from.subarray(off, off + length));
      names.push(name);
      if (type === 2) {
        readdir(op, fs, dir, 2, (_ino, _p, _t, from, off, length) => {
          names.push(`${name}/${text(from.subarray(off, off + length))}`);
          return true;
        });
      }
      return true;
    });
    return names.sort();
  });
}

/** One random change of the namespace by mount `m`. */
async function change(m: LocalFs, random: SeededRandom, n: number): Promise<void> {
  const dirs = ["d0", "d1", "d2"];
  const dir = await m.run((op, fs) => lookup(op, fs, 1, b(dirs[random.below(3)]!)));
  const to = await m.run((op, fs) => lookup(op, fs, 1, b(dirs[random.below(3)]!)));
  const file = (): string => `f${random.below(12)}`;
  const what = random.below(10);
  try {
    if (what < 5) {
      const ino = await m.run((op, fs) => create(op, fs, dir, b(file()), 0o100644));
      m.fs.refs.forget(ino, 1);
      const value = new Uint8Array(random.below(3000));
      await m.run((op, fs) => setXattr(op, fs, ino, b("scoutfs.srch.x"), value, 0));
      await m.run((op, fs) => setXattr(op, fs, ino, b("scoutfs.totl.x.1.2.3"), b(`${n}`), 0));
    } else if (what < 7) {
      await m.run((op, fs) => unlink(op, fs, dir, b(file())));
    } else if (what < 9) {
      await m.run((op, fs) => rename(op, fs, dir, b(file()), to, b(file()), 0));
    } else {
      await m.run((op, fs) => create(op, fs, 1, b(`n${n}`), 0o040755));
      if (n % 2 === 0) await m.run((op, fs) => rmdir(op, fs, 1, b(`n${n}`)));
    }
  } catch (e) {
    // Names that exist or do not: part of the game.
    assert.ok(e instanceof Error && "errno" in e, String(e));
  }
}

for (const seed of [1, 2, 3]) {
  Deno.test(`crashes: any prefix of the writes, whole or torn (seed ${seed})`, async () => {
    const random = new SeededRandom(seed);
    const cluster = await LocalCluster.make({ seed });
    cluster.ownServer = seed !== 2;
    const m = await LocalFs.mount(cluster);
    for (const d of ["d0", "d1", "d2"]) {
      await m.run((op, fs) => create(op, fs, 1, b(d), 0o040755));
    }
    await m.sync();
    cluster.meta.startRecording();
    // What was synced, with how many writes had been made when that was promised.
    const promised: { at: number; names: string[] }[] = [];
    for (let n = 0; n < 60; n++) {
      await change(m, random, n);
      if (random.below(6) === 0) {
        await m.fs.orphans.drain();
        const names = await tree(m);
        await m.sync();
        promised.push({ at: cluster.meta.log.length, names });
      }
    }
    await m.sync();
    const writes = cluster.meta.log.length;
    for (let i = 0; i < CRASHES; i++) {
      const at = random.below(writes + 1);
      const torn = random.below(2) === 0;
      const meta = torn
        ? cluster.meta.replayKeeping(at, () => random.below(2) === 0)
        : cluster.meta.replay(at);
      const again = await LocalCluster.open(meta, cluster.data.snapshot(), seed + i);
      assertSound(again);
      const survivor = await LocalFs.mount(again);
      // It goes on from there.
      const ino = await survivor.run((op, fs) => create(op, fs, 1, b("after"), 0o100644));
      survivor.fs.refs.forget(ino, 1);
      await survivor.fs.orphans.scan();
      await survivor.unmount();
      assertSound(again);
      again.stop();
    }
    // At each promise, what was not flushed does not matter.
    for (const { at, names } of promised) {
      const lost = cluster.meta.replayKeeping(at, () => false);
      const again = await LocalCluster.open(lost, cluster.data.snapshot(), 1);
      const survivor = await LocalFs.mount(again);
      assert.deepEqual(await tree(survivor), names, `synced at write ${at}`);
      await survivor.unmount();
      assertSound(again);
      again.stop();
    }
  });
}
