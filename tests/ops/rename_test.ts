/** rename: the rules of 02 §9 one by one, and the locks it takes. */

import assert from "node:assert/strict";
import {
  EEXIST,
  EINVAL,
  EISDIR,
  ENAMETOOLONG,
  ENOENT,
  ENOTDIR,
  ENOTEMPTY,
  EPERM,
} from "../../format/errno.ts";
import { Inode } from "../../format/items.ts";
import { gatherUpdate, lockInode, writeInode } from "../../fs/inode.ts";
import { getattr } from "../../fs/ops/attr.ts";
import { create, link, lookup } from "../../fs/ops/names.ts";
import { rename, RENAME_NOREPLACE } from "../../fs/ops/rename.ts";
import { LocalCluster } from "../helpers/local_cluster.ts";
import { assertSound, LocalFs, newLocalFs } from "../helpers/local_fs.ts";
import { SeededRandom } from "../helpers/sim_reactor.ts";

const b = (s: string): Uint8Array => new TextEncoder().encode(s);
const FILE = 0o100644;
const DIR = 0o040755;

const newFs = (): Promise<LocalFs> =>
  newLocalFs({ paranoid: { random: new SeededRandom(5), suspendPerMille: 80 } });
const make = (m: LocalFs, dir: number, name: string, mode: number): Promise<number> =>
  m.run((op, fs) => create(op, fs, dir, b(name), mode));
const move = (m: LocalFs, od: number, o: string, nd: number, n: string, flags = 0): Promise<void> =>
  m.run((op, fs) => rename(op, fs, od, b(o), nd, b(n), flags));
const look = (m: LocalFs, dir: number, name: string): Promise<number> =>
  m.run((op, fs) => lookup(op, fs, dir, b(name)));

async function inode(m: LocalFs, ino: number): Promise<Inode> {
  return await m.run((op, fs) => {
    const copy = Inode.alloc();
    copy.copyFrom(getattr(op, fs, ino));
    return copy;
  });
}

Deno.test("rename: refusals", async () => {
  const m = await newFs();
  const d = await make(m, 1, "d", DIR);
  const e = await make(m, 1, "e", DIR);
  const f = await make(m, 1, "f", FILE);
  await make(m, 1, "g", FILE);
  await make(m, e, "x", FILE);
  await assert.rejects(move(m, 1, "f", 1, "g", 2), { errno: EINVAL });
  await assert.rejects(move(m, 1, "f", 1, "g", 4), { errno: EINVAL });
  await assert.rejects(move(m, 1, "f", 1, "n".repeat(256)), { errno: ENAMETOOLONG });
  await assert.rejects(move(m, 1, "none", 1, "g"), { errno: ENOENT });
  await assert.rejects(move(m, 1, "f", 1, "g", RENAME_NOREPLACE), { errno: EEXIST });
  await assert.rejects(move(m, 1, "f", 1, "f", RENAME_NOREPLACE), { errno: EEXIST });
  await assert.rejects(move(m, 1, "f", 1, "d"), { errno: EISDIR });
  await assert.rejects(move(m, 1, "d", 1, "f"), { errno: ENOTDIR });
  await assert.rejects(move(m, 1, "d", 1, "e"), { errno: ENOTEMPTY });
  await assert.rejects(move(m, 1, "f", f, "n"), { errno: ENOTDIR });
  await move(m, 1, "f", d, "f", RENAME_NOREPLACE);
  assert.equal(await look(m, d, "f"), f);
  await m.sync();
  assertSound(m.cluster);
  await m.unmount();
});

Deno.test("rename: no directory moves below itself or over one above it", async () => {
  const m = await newFs();
  const a = await make(m, 1, "a", DIR);
  const c = await make(m, a, "c", DIR);
  const e = await make(m, c, "e", DIR);
  await make(m, e, "f", FILE);
  await assert.rejects(move(m, 1, "a", a, "n"), { errno: EINVAL });
  await assert.rejects(move(m, 1, "a", c, "n"), { errno: EINVAL });
  await assert.rejects(move(m, 1, "a", e, "n"), { errno: EINVAL });
  await assert.rejects(move(m, a, "c", e, "n"), { errno: EINVAL });
  await assert.rejects(move(m, c, "e", 1, "a"), { errno: EINVAL });
  await assert.rejects(move(m, c, "e", a, "c"), { errno: EINVAL });
  await move(m, c, "e", 1, "up");
  await move(m, 1, "a", e, "down");
  assert.equal(await look(m, e, "down"), a);
  assert.equal(await look(m, a, ".."), e);
  await m.sync();
  assertSound(m.cluster);
  await m.unmount();
});

Deno.test("rename: counts, sizes, positions, times and versions", async () => {
  const m = await newFs();
  const a = await make(m, 1, "a", DIR);
  const c = await make(m, 1, "c", DIR);
  const s = await make(m, a, "sub", DIR);
  const t = await make(m, c, "target", DIR);
  const before = await inode(m, s);
  await move(m, a, "sub", c, "target");
  const [ai, ci, si, ti] = [
    await inode(m, a),
    await inode(m, c),
    await inode(m, s),
    await inode(m, t),
  ];
  assert.deepEqual([ai.nlink, ai.size, ai.nextReaddirPos], [2, 0, 3]);
  // The replaced name's length stays accounted.
  assert.deepEqual([ci.nlink, ci.size, ci.nextReaddirPos], [3, 6, 4]);
  assert.deepEqual([si.nlink, ti.nlink], [2, 0]);
  assert.equal(si.version, before.version + 1);
  assert.equal(si.mtime.nsec, before.mtime.nsec);
  for (const i of [ai, ci]) {
    assert.deepEqual([i.mtime.sec, i.mtime.nsec], [si.ctime.sec, si.ctime.nsec]);
  }
  assert.equal(ti.ctime.nsec, si.ctime.nsec);
  assert.equal(await look(m, c, "target"), s);
  assert.equal(await look(m, s, ".."), c);
  await m.sync();
  assertSound(m.cluster);
  m.fs.refs.forgetAll();
  await m.unmount();
  assertSound(m.cluster);
});

Deno.test("rename: two names of one inode stay as they are", async () => {
  const m = await newFs();
  const f = await make(m, 1, "f", FILE);
  await m.run((op, fs) => link(op, fs, f, 1, b("g")));
  const before = await inode(m, f);
  await move(m, 1, "f", 1, "g");
  await move(m, 1, "f", 1, "f");
  const after = await inode(m, f);
  assert.deepEqual([after.version, after.nlink], [before.version, 2]);
  assert.deepEqual([await look(m, 1, "f"), await look(m, 1, "g")], [f, f]);
  await m.unmount();
});

Deno.test("rename: retention protects both sides", async () => {
  const m = await newFs();
  const f = await make(m, 1, "f", FILE);
  await make(m, 1, "g", FILE);
  await m.run((op, fs) => {
    const h = lockInode(op, fs, f);
    const t = gatherUpdate(op, fs, [{ h, dataSeq: false }], { allocating: false });
    op.apply();
    h.edit().flags = 2;
    writeInode(op, fs, h, t);
  });
  await assert.rejects(move(m, 1, "f", 1, "h"), { errno: EPERM });
  await assert.rejects(move(m, 1, "g", 1, "f"), { errno: EPERM });
  await m.unmount();
});

Deno.test("rename: two mounts cannot make a loop together", async () => {
  for (let seed = 1; seed <= 12; seed++) {
    const cluster = await LocalCluster.make({ seed });
    const paranoid = (n: number) => ({ random: new SeededRandom(n), suspendPerMille: 150 });
    const one = await LocalFs.mount(cluster, { paranoid: paranoid(seed) });
    const two = await LocalFs.mount(cluster, { paranoid: paranoid(seed + 100) });
    const a = await make(one, 1, "a", DIR);
    const c = await make(two, 1, "c", DIR);
    const results = await Promise.allSettled([
      move(one, 1, "a", c, "a"),
      move(two, 1, "c", a, "c"),
    ]);
    const failed = results.filter((r) => r.status === "rejected");
    assert.equal(failed.length, 1, `seed ${seed}`);
    await one.sync();
    await two.sync();
    assertSound(cluster);
    await one.unmount();
    await two.unmount();
    assertSound(cluster);
  }
});
