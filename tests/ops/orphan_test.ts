/** Deletion of inodes without links: who does it, when, and what a crash leaves (02 §6). */

import assert from "node:assert/strict";
import { ENOENT } from "../../format/errno.ts";
import { inodeKey } from "../../format/item_keys.ts";
import { CMD_OPEN_INO_MAP, LOCK_WRITE } from "../../format/wire.ts";
import { getattr } from "../../fs/ops/attr.ts";
import { create, link, lookup, rmdir, symlink, tmpfile, unlink } from "../../fs/ops/names.ts";
import { rename } from "../../fs/ops/rename.ts";
import { setXattr } from "../../fs/ops/xattr.ts";
import { LocalCluster, settle } from "../helpers/local_cluster.ts";
import { assertSound, committedItems, LocalFs, newLocalFs } from "../helpers/local_fs.ts";
import { SeededRandom } from "../helpers/sim_reactor.ts";

const b = (s: string): Uint8Array => new TextEncoder().encode(s);
const FILE = 0o100644;
const DIR = 0o040755;

const keys = (c: LocalCluster): string[] => committedItems(c).map((i) => i.key.toString());
const itemsOf = (c: LocalCluster, ino: number): string[] =>
  keys(c).filter((k) => k.startsWith(`16.${ino}.`));
const orphans = (c: LocalCluster): string[] => keys(c).filter((k) => k.startsWith("8."));

/** A file made and let go of by the kernel, under `name` in the root. */
async function file(m: LocalFs, name: string): Promise<number> {
  const ino = await m.run((op, fs) => create(op, fs, 1, b(name), FILE));
  m.fs.refs.forget(ino, 1);
  return ino;
}

Deno.test("orphans: what nobody uses is deleted right after its unlink", async () => {
  const m = await newLocalFs();
  const f = await file(m, "f");
  await m.run((op, fs) => unlink(op, fs, 1, b("f")));
  await m.fs.orphans.drain();
  await assert.rejects(m.run((op, fs) => getattr(op, fs, f)), { errno: ENOENT });
  await m.sync();
  assert.deepEqual([itemsOf(m.cluster, f), orphans(m.cluster)], [[], []]);
  assertSound(m.cluster);
  await m.unmount();
});

Deno.test("orphans: an open file lives until its last use ends", async () => {
  const m = await newLocalFs();
  const f = await m.run((op, fs) => create(op, fs, 1, b("f"), FILE));
  m.fs.refs.open(f);
  await m.run((op, fs) => unlink(op, fs, 1, b("f")));
  m.fs.refs.forget(f, 1);
  await m.fs.orphans.drain();
  assert.equal(await m.run((op, fs) => getattr(op, fs, f).nlink), 0);
  await m.sync();
  assert.deepEqual(orphans(m.cluster), [`8.0.4.${f}.0.0`]);
  assertSound(m.cluster);
  m.fs.refs.release(f);
  await m.fs.orphans.drain();
  await m.sync();
  assert.deepEqual([itemsOf(m.cluster, f), orphans(m.cluster)], [[], []]);
  await m.unmount();
});

Deno.test("orphans: rename over the last link and rmdir delete too", async () => {
  const m = await newLocalFs();
  const f = await file(m, "f");
  await file(m, "g");
  await m.run((op, fs) => rename(op, fs, 1, b("g"), 1, b("f"), 0));
  const d = await m.run((op, fs) => create(op, fs, 1, b("d"), DIR));
  m.fs.refs.forget(d, 1);
  await m.run((op, fs) => rmdir(op, fs, 1, b("d")));
  await m.fs.orphans.drain();
  await m.sync();
  assert.deepEqual([itemsOf(m.cluster, f), itemsOf(m.cluster, d), orphans(m.cluster)], [
    [],
    [],
    [],
  ]);
  assertSound(m.cluster);
  await m.unmount();
});

Deno.test("orphans: unmount deletes what the kernel lets go of at last", async () => {
  const m = await newLocalFs();
  const f = await m.run((op, fs) => create(op, fs, 1, b("f"), FILE));
  await m.run((op, fs) => tmpfile(op, fs, 1, FILE));
  await m.run((op, fs) => unlink(op, fs, 1, b("f")));
  m.fs.refs.forgetAll();
  await m.unmount();
  assert.deepEqual([itemsOf(m.cluster, f), orphans(m.cluster)], [[], []]);
  assertSound(m.cluster);
});

Deno.test("orphans: another mount's use keeps an inode; its last use leaves it to a scan", async () => {
  const cluster = await LocalCluster.make();
  const one = await LocalFs.mount(cluster);
  const two = await LocalFs.mount(cluster);
  const f = await file(one, "f");
  assert.equal(await two.run((op, fs) => lookup(op, fs, 1, b("f"))), f);
  two.fs.refs.open(f);
  await one.run((op, fs) => unlink(op, fs, 1, b("f")));
  await one.fs.orphans.drain();
  assert.equal(await two.run((op, fs) => getattr(op, fs, f).nlink), 0);
  await one.fs.orphans.scan();
  assert.equal(await two.run((op, fs) => getattr(op, fs, f).nlink), 0);
  two.fs.refs.release(f);
  two.fs.refs.forget(f, 1);
  await two.fs.orphans.drain();
  // It did not unlink it, so it does not know; a scan (with the logs, the first one) finds it.
  await two.fs.orphans.scan();
  await assert.rejects(one.run((op, fs) => getattr(op, fs, f)), { errno: ENOENT });
  await one.sync();
  await two.sync();
  assert.deepEqual([itemsOf(cluster, f), orphans(cluster)], [[], []]);
  assertSound(cluster);
  await one.unmount();
  await two.unmount();
});

Deno.test("orphans: the open map is asked for once per grant, not per inode", async () => {
  const m = await newLocalFs();
  for (let i = 0; i < 50; i++) await file(m, `f${i}`);
  const before = m.cluster.requests.length;
  for (let i = 0; i < 50; i++) await m.run((op, fs) => unlink(op, fs, 1, b(`f${i}`)));
  await m.fs.orphans.drain();
  const asked = m.cluster.requests.slice(before).filter((c) => c === CMD_OPEN_INO_MAP);
  assert.equal(asked.length, 1);
  await m.sync();
  assert.deepEqual(orphans(m.cluster), []);
  assertSound(m.cluster);
  await m.unmount();
});

Deno.test("orphans: a file that lived within one transaction leaves nothing to be written", async () => {
  const m = await newLocalFs();
  // The root and its index item are changed in any case.
  await file(m, "stays");
  const dirty = m.fs.items.dirtyItems;
  const gone = [await file(m, "a"), await file(m, "b")];
  for (const name of ["a", "b"]) await m.run((op, fs) => unlink(op, fs, 1, b(name)));
  await m.fs.orphans.drain();
  assert.equal(m.fs.items.dirtyItems, dirty);
  await m.sync();
  for (const ino of gone) assert.deepEqual(itemsOf(m.cluster, ino), []);
  assert.deepEqual(orphans(m.cluster), []);
  assertSound(m.cluster);
  await m.unmount();
});

Deno.test("orphans: what was committed before is deleted from the trees", async () => {
  const m = await newLocalFs();
  // Linked again and unlinked again: its orphan item has a history.
  const t = await m.run((op, fs) => tmpfile(op, fs, 1, FILE));
  await m.sync();
  await m.run((op, fs) => link(op, fs, t, 1, b("t")));
  const f = await file(m, "f");
  await m.sync();
  await m.run((op, fs) => unlink(op, fs, 1, b("t")));
  await m.run((op, fs) => unlink(op, fs, 1, b("f")));
  await m.sync();
  assert.ok(orphans(m.cluster).includes(`8.0.4.${t}.0.0`));
  m.fs.refs.forget(t, 2);
  await m.fs.orphans.drain();
  await m.sync();
  assert.deepEqual([itemsOf(m.cluster, t), itemsOf(m.cluster, f), orphans(m.cluster)], [
    [],
    [],
    [],
  ]);
  assertSound(m.cluster);
  await m.unmount();
});

Deno.test("orphans: many are deleted in one hold, others of them by themselves", async () => {
  const m = await newLocalFs({ paranoid: { random: new SeededRandom(1), suspendPerMille: 50 } });
  const names = Array.from({ length: 20 }, (_, i) => `f${i}`);
  const inos: number[] = [];
  for (const name of names) inos.push(await file(m, name));
  const [tagged, damaged, open] = inos;
  await m.run((op, fs) => setXattr(op, fs, tagged!, b("scoutfs.totl.x.1.2.3"), b("9"), 0));
  const linked = inos.at(-1)!;
  await m.run((op, fs) => link(op, fs, linked, 1, b("other")));
  const target = await m.run((op, fs) => symlink(op, fs, 1, b("s"), b("t".repeat(2000))));
  m.fs.refs.forget(target, 1);
  m.fs.refs.forget(linked, 1);
  m.fs.refs.open(open!);
  await m.sync();
  for (const name of [...names, "s"]) await m.run((op, fs) => unlink(op, fs, 1, b(name)));
  await m.run((op, fs) => {
    const lock = fs.locks.inode(damaged!);
    op.lock(lock, LOCK_WRITE);
    assert.ok(fs.items.lookup(op, lock, inodeKey(damaged!)) !== null);
    op.hold({ allocating: false });
    op.apply();
    fs.items.update(op, lock, inodeKey(damaged!), new Uint8Array(100));
  });
  await m.fs.orphans.drain();
  assert.ok(m.log.some((l) => l.includes(`inode ${damaged} could not be deleted`)), `${m.log}`);
  await m.sync();
  const left = [damaged, open, linked];
  for (const ino of [...inos, target]) {
    assert.equal(itemsOf(m.cluster, ino).length > 0, left.includes(ino), `inode ${ino}`);
  }
  assert.deepEqual(orphans(m.cluster), [damaged, open].map((ino) => `8.0.4.${ino}.0.0`));
  m.fs.refs.release(open!);
  await m.fs.orphans.drain();
  await m.unmount();
});

Deno.test("orphans: bare inodes share a hold", async () => {
  const m = await newLocalFs();
  for (let i = 0; i < 30; i++) await file(m, `f${i}`);
  await m.sync();
  for (let i = 0; i < 30; i++) await m.run((op, fs) => unlink(op, fs, 1, b(`f${i}`)));
  const before = m.fs.trans.holds;
  await m.fs.orphans.drain();
  assert.equal(m.fs.trans.holds, before + 1);
  await m.unmount();
});

Deno.test("orphans: a crash leaves them; the next mount's first scan deletes them", async () => {
  const m = await newLocalFs();
  const f = await m.run((op, fs) => create(op, fs, 1, b("f"), FILE));
  await m.run((op, fs) => setXattr(op, fs, f, b("scoutfs.srch.totl.1.2.3"), b("9"), 0));
  await m.run((op, fs) => unlink(op, fs, 1, b("f")));
  await m.sync();
  await m.crash();
  assert.deepEqual(orphans(m.cluster), [`8.0.4.${f}.0.0`]);
  const { meta, data } = m.cluster;
  m.cluster.stop();
  const cluster = await LocalCluster.open(meta, data, 9);
  const again = await LocalFs.mount(cluster);
  assertSound(cluster);
  await cluster.timers.advance(12_000);
  await settle();
  await again.fs.orphans.drain();
  await again.sync();
  assert.deepEqual([itemsOf(cluster, f), orphans(cluster)], [[], []]);
  assertSound(cluster);
  await again.unmount();
});

Deno.test("orphans: a deletion that a crash interrupted is resumed", async () => {
  const m = await newLocalFs();
  const f = await file(m, "f");
  for (let i = 0; i < 5; i++) {
    await m.run((op, fs) => setXattr(op, fs, f, b(`scoutfs.totl.x${i}.1.2.3`), b("9"), 0));
  }
  await m.sync();
  await m.run((op, fs) => unlink(op, fs, 1, b("f")));
  // Stop after some steps, commit what was done, and die.
  let steps = 0;
  const run = m.fs.runner.run.bind(m.fs.runner);
  const never = new Promise<never>(() => {});
  m.fs.runner.run = (fn, caller, cancel) => ++steps > 3 ? never : run(fn, caller ?? null, cancel);
  await m.cluster.timers.advance(10);
  await settle();
  assert.ok(steps > 3);
  await m.sync();
  await m.crash();
  assert.ok(itemsOf(m.cluster, f).length > 1);
  assertSound(m.cluster);
  const again = await LocalFs.mount(m.cluster);
  await again.fs.orphans.scan();
  await again.sync();
  assert.deepEqual([itemsOf(m.cluster, f), orphans(m.cluster)], [[], []]);
  assertSound(m.cluster);
  await again.unmount();
});
