/**
 * Repair of names: what one lost or misfiled item says of a name is weighed against what all others
 * say, and a name that can be known is not given up.
 */

import assert from "node:assert/strict";
import { TYPE_LINK_BACKREF, ZONE_FS } from "../../format/constants.ts";
import { direntHash } from "../../format/hash.ts";
import { backrefKey, Dirent, direntKey, inodeKey, readdirKey } from "../../format/items.ts";
import { Key } from "../../format/key.ts";
import { forEachItem } from "../../fs/btree.ts";
import { repairVolume } from "../../fs/check/repair/repair.ts";
import { create, link, symlink } from "../../fs/ops/names.ts";
import { setXattr } from "../../fs/ops/xattr.ts";
import { newLocalFs } from "../helpers/local_fs.ts";
import { entryFinder, type StoredEntry } from "./item_cases.ts";
import {
  bytes,
  healthyVolume,
  manifest,
  mustMend,
  problemsOf,
  repairOptions,
  Surgeon,
  type Volume,
} from "./repair_support.ts";

interface Patient {
  readonly v: Volume;
  readonly s: Surgeon;
  readonly healthy: Map<string, string>;
  readonly entry: (path: string) => StoredEntry;
}

async function patient(): Promise<Patient> {
  const v = await healthyVolume(), s = new Surgeon(v.meta);
  return { v, s, healthy: manifest(v.meta, v.data), entry: entryFinder(s, v) };
}

/** The value of an entry item. */
function entryValue(ino: number, name: string, pos: number, type: number): Uint8Array {
  const val = new Uint8Array(Dirent.SIZE + name.length), d = Dirent.at(val);
  const hash = direntHash(bytes(name));
  d.ino = ino;
  d.hashHi = hash.hi;
  d.hashLo = hash.lo;
  d.pos = pos;
  d.type = type;
  val.set(bytes(name), Dirent.SIZE);
  return val;
}

/** Repairs and finds all paths as they were, and no others but those of `more`. */
function mustRestore({ v, healthy }: Patient, codes: readonly string[], more: string[] = []): void {
  mustMend(v, healthy, codes);
  const paths = [...manifest(v.meta, v.data).keys()].sort();
  assert.deepEqual(paths, [...healthy.keys(), ...more].sort());
}

/** -p either restores all or leaves everything as it was. */
function preenKeeps({ v, healthy }: Patient): void {
  const before = problemsOf(v.meta, v.data).map((p) => p.message);
  const { commits } = repairVolume(v.meta, v.data, repairOptions("safe"));
  const after = problemsOf(v.meta, v.data).map((p) => p.message);
  if (commits === 0) assert.deepEqual(after, before);
  else {
    assert.deepEqual(after, []);
    assert.deepEqual(manifest(v.meta, v.data), healthy);
  }
}

/** Keys of the items of an inode, of one type if that is given. */
function items(s: Surgeon, ino: number, type?: number): Key[] {
  const keys: Key[] = [];
  for (const { root } of s.itemTrees()) {
    if (root.height === 0) continue;
    forEachItem({ cache: s.cache() }, root, Key.of(ZONE_FS, ino, type ?? 0), ({ key }) => {
      if (key.zone !== ZONE_FS || key.first !== ino) return false;
      if (type === undefined || key.type === type) keys.push(key);
      return true;
    });
  }
  return keys;
}

Deno.test("repair: a directory of which nothing is left is made anew for those that name it", async () => {
  const p = await patient(), a = p.v.inos.get("a")!;
  for (const key of items(p.s, a)) p.s.removeItem(key);
  mustMend(p.v, p.healthy, ["twin-without-entry", "dir-parent-missing"], ["/a"]);
  const now = manifest(p.v.meta, p.v.data);
  assert.deepEqual([...now.keys()].sort(), [...p.healthy.keys()].sort());
  for (const [path, what] of p.healthy) {
    if (path !== "/a") assert.equal(now.get(path), what, path);
  }
});

Deno.test("repair: a lost leaf of directories loses no name of what was in them", async () => {
  const m = await newLocalFs({ fmtVers: 2 });
  const make = (dir: number, name: string, mode: number) =>
    m.run((op, fs) => create(op, fs, dir, bytes(name), mode, 0));
  const dirs: number[] = [], paths = [""];
  for (let d = 0; d < 10; d++) {
    dirs.push(await make(1, `dir${d}`, 0o40755));
    paths.push(`/dir${d}`);
  }
  for (let f = 0; f < 800; f++) {
    const d = f % dirs.length;
    m.fs.refs.forget(await make(dirs[d]!, `a file of number ${f}`, 0o100644), 1);
    paths.push(`/dir${d}/a file of number ${f}`);
  }
  for (const ino of dirs) m.fs.refs.forget(ino, 1);
  await m.sync();
  await m.unmount();
  const meta = m.cluster.meta.snapshot(), data = m.cluster.data.snapshot();
  const v: Volume = { meta, data, inos: new Map() }, s = new Surgeon(meta);
  const key = inodeKey(dirs[5]!);
  let wiped = 0;
  for (const { root } of s.itemTrees()) {
    if (root.height < 2 || s.value(key) === null) continue;
    const blkno = s.leafOf(root, key);
    if (blkno === null) continue;
    s.editBlock(blkno, ({ buf }) => void buf.fill(0), false);
    wiped++;
  }
  assert.ok(wiped > 0);
  mustMend(v, new Map(), []);
  assert.deepEqual([...manifest(meta, data).keys()].sort(), paths.sort());
});

/** The backref of `path` is filed under what `key` gives, instead of, or besides, its own. */
function misfile(
  { s, entry }: Patient,
  path: string,
  key: (e: StoredEntry) => Key,
  keepTrue = false,
): void {
  const e = entry(path), val = s.value(e.backref)!;
  if (!keepTrue) s.removeItem(e.backref);
  s.insertItem(key(e), val);
}

for (const keepTrue of [false, true]) {
  const how = keepTrue ? "a second time" : "alone";
  for (
    const [what, dirOf] of [
      ["another directory", (v: Volume) => v.inos.get("a")!],
      ["the root", () => 1],
      ["a missing directory with a lower number", () => 1000],
      ["a missing directory", () => 1500],
    ] as const
  ) {
    for (const path of ["a/b/c", "a/file4"]) {
      Deno.test(`repair: the backref of ${path} under ${what}, ${how}`, async () => {
        const p = await patient(), dir = dirOf(p.v);
        const damage = (q: Patient) =>
          misfile(q, path, (e) => backrefKey(e.ino, dir, e.pos + 20), keepTrue);
        damage(p);
        preenKeeps(p);
        const q = await patient();
        damage(q);
        mustRestore(q, []);
      });
    }
  }
  for (const path of ["a", "a/b"]) {
    Deno.test(`repair: the backref of ${path} under a directory below it, ${how}`, async () => {
      const damage = (q: Patient) =>
        misfile(q, path, (e) => backrefKey(e.ino, q.v.inos.get("a/b/c")!, e.pos), keepTrue);
      const p = await patient();
      damage(p);
      preenKeeps(p);
      const q = await patient();
      damage(q);
      mustRestore(q, ["twin-without-entry"]);
    });
  }
  for (const path of ["a/file4", "a/sym", "a/b/c"]) {
    for (const ino of [900, 777_777]) {
      Deno.test(`repair: the backref of ${path} under inode ${ino}, ${how}`, async () => {
        const p = await patient();
        misfile(p, path, (e) => backrefKey(ino, e.dir, e.pos), keepTrue);
        preenKeeps(p);
        const q = await patient();
        misfile(q, path, (e) => backrefKey(ino, e.dir, e.pos), keepTrue);
        mustRestore(q, ["inode-missing"]);
      });
    }
  }
}

Deno.test("repair: -p does not decide between two items of a name", async () => {
  const p = await patient(), e = p.entry("a/file4"), other = p.entry("a/file7");
  // A dirent of one inode, a readdir item of another.
  p.s.removeItem(e.backref);
  p.s.removeItem(e.readdir);
  p.s.insertItem(e.readdir, entryValue(other.ino, "file4", e.pos, 4));
  assert.equal(repairVolume(p.v.meta, p.v.data, repairOptions("safe")).commits, 0);
  mustMend(p.v, p.healthy, [], ["/a/file4", "/a/file7"]);
  const q = await patient();
  q.s.removeItem(e.backref);
  q.s.removeItem(e.readdir);
  q.s.insertItem(e.readdir, entryValue(e.ino, "gile4", e.pos, 4));
  assert.equal(repairVolume(q.v.meta, q.v.data, repairOptions("safe")).commits, 0);
  mustMend(q.v, q.healthy, [], ["/a/file4"]);
});

for (const mode of ["safe", "all"] as const) {
  Deno.test(`repair: two entries of a name, the other name of which is taken, ${mode}`, async () => {
    const p = await patient(), dir = p.v.inos.get("a")!;
    const first = p.entry("a/file1"), second = p.entry("a/file4"), third = p.entry("a/file7");
    const rename = (e: StoredEntry, name: string) => {
      for (const key of [e.dirent, e.readdir, e.backref]) p.s.removeItem(key);
      const val = entryValue(e.ino, name, e.pos, 4);
      p.s.insertItem(direntKey(dir, direntHash(bytes(name)), e.pos), val);
      p.s.insertItem(readdirKey(dir, e.pos), val);
      p.s.insertItem(backrefKey(e.ino, dir, e.pos), val);
    };
    assert.ok(first.pos < second.pos);
    const taken = `file1.${second.pos}`;
    rename(second, "file1");
    rename(third, taken);
    p.s.editInode(dir, (i) => i.size += taken.length - third.name.length);
    const touched = ["/a/file4", "/a/file7"];
    mustMend(p.v, p.healthy, ["dir-name-twice"], touched, repairOptions(mode));
    const now = manifest(p.v.meta, p.v.data);
    assert.equal(now.get(`/a/${taken}`), p.healthy.get("/a/file7"));
    assert.equal(now.get(`/a/${taken}.1`), p.healthy.get("/a/file4"));
    assert.equal(now.size, p.healthy.size);
  });
}

Deno.test("repair: a directory without inode and backref keeps its name", async () => {
  const p = await patient(), b = p.v.inos.get("a/b")!;
  p.s.removeItem(inodeKey(b));
  for (const key of items(p.s, b, TYPE_LINK_BACKREF)) p.s.removeItem(key);
  mustMend(p.v, p.healthy, ["inode-missing"], ["/a/b"]);
  const now = manifest(p.v.meta, p.v.data);
  assert.deepEqual([...now.keys()].sort(), [...p.healthy.keys()].sort());
});

Deno.test("repair: an entry item under a directory of an impossible number", async () => {
  for (const what of ["dirent", "readdir"] as const) {
    const p = await patient(), e = p.entry("a/b/file26"), k = e[what], val = p.s.value(k)!;
    p.s.removeItem(k);
    const dir = BigInt(e.dir) + (1n << 52n);
    p.s.insertItem(Key.of(k.zone, dir, k.type, k.secondBig, k.thirdBig, k.fourth), val);
    mustRestore(p, ["inode-missing"]);
  }
});

Deno.test("repair: a new inode takes no number that is in use", async () => {
  const p = await patient(), e = p.entry("a/file4");
  for (const key of [e.dirent, e.readdir, e.backref]) p.s.removeItem(key);
  p.s.editSuper((sb) => sb.v.setBigUint64(sb.o + 80, 1n << 60n, true));
  mustMend(p.v, p.healthy, ["super-next-ino"], ["/a/file4"]);
  const now = manifest(p.v.meta, p.v.data);
  assert.equal(now.get(`/lost+found/#${e.ino}`), p.healthy.get("/a/file4"));
});

Deno.test("repair: a dirent that is filed under another directory", async () => {
  const damage = ({ v, s, entry }: Patient) => {
    const e = entry("a/b/file8"), val = s.value(e.dirent)!;
    s.removeItem(e.dirent);
    s.insertItem(direntKey(v.inos.get("a/b/c")!, direntHash(e.name), e.pos), val);
  };
  const p = await patient(), q = await patient();
  damage(p);
  preenKeeps(p);
  damage(q);
  mustRestore(q, ["entry-without-twin"]);
});

Deno.test("repair: it is said that a file without a name, which counts none, will go", async () => {
  const p = await patient(), e = p.entry("a/file4"), lines: string[] = [];
  for (const key of [e.dirent, e.readdir, e.backref]) p.s.removeItem(key);
  p.s.editInode(e.ino, (i) => i.nlink = 0);
  const log = (line: string) => void lines.push(line);
  mustMend(p.v, p.healthy, ["orphan-missing"], ["/a/file4"], { ...repairOptions(), log });
  assert.deepEqual(lines, [
    `inode ${e.ino} counts no names and has none: the next mount removes it`,
  ]);
});

Deno.test("repair: a root with a wrong mode is not moved", async () => {
  for (const wrong of [0o100755, 0o010755]) {
    const p = await patient(), lines: string[] = [];
    p.s.editInode(1, (i) => i.mode = wrong);
    const log = (line: string) => void lines.push(line);
    mustMend(p.v, p.healthy, ["root-inode"], [], { ...repairOptions(), log });
    assert.deepEqual(lines, []);
  }
});

/** An inode of `made` type with a name or two; its mode becomes `wrong`. */
async function mistyped(made: number, rdev: number, wrong: number, links = 1): Promise<void> {
  const m = await newLocalFs({ fmtVers: 2 });
  const ino = made === 0o120777
    ? await m.run((op, fs) => symlink(op, fs, 1, bytes("name"), bytes("target")))
    : await m.run((op, fs) => create(op, fs, 1, bytes("name"), made, rdev));
  if (links > 1) await m.run((op, fs) => link(op, fs, ino, 1, bytes("other")));
  await m.run((op, fs) => setXattr(op, fs, ino, bytes("user.a"), bytes("value"), 0));
  m.fs.refs.forget(ino, 1);
  await m.sync();
  await m.unmount();
  const v = { meta: m.cluster.meta.snapshot(), data: m.cluster.data.snapshot(), inos: new Map() };
  const healthy = manifest(v.meta, v.data);
  new Surgeon(v.meta).editInode(ino, (i) => i.mode = wrong);
  for (const mode of ["safe", "all"] as const) {
    const q = { ...v, meta: v.meta.snapshot(), data: v.data.snapshot() };
    // What needs -y is left as it is by -p.
    if (mode === "safe" && repairVolume(q.meta, q.data, repairOptions(mode)).commits === 0) {
      continue;
    }
    mustMend(q, healthy, [], [], repairOptions(mode));
  }
}

for (
  const [what, made, rdev, wrong] of [
    ["a file becomes a symlink", 0o100644, 0, 0o120644],
    ["a file becomes a socket", 0o100644, 0, 0o140644],
    ["a file becomes a directory", 0o100644, 0, 0o040644],
    ["a directory becomes a block device", 0o040755, 0, 0o060755],
    ["a directory becomes a socket", 0o040755, 0, 0o140755],
    ["a directory becomes a file", 0o040755, 0, 0o100755],
    ["a symlink becomes a file", 0o120777, 0, 0o100777],
    ["a symlink becomes a block device", 0o120777, 0, 0o060777],
    ["a character device becomes a block device", 0o020600, 0x103, 0o060600],
    ["a character device becomes a fifo", 0o020600, 0x103, 0o010600],
    ["a fifo becomes a character device", 0o010600, 0, 0o020600],
    ["a socket becomes a file", 0o140755, 0, 0o100755],
  ] as const
) {
  Deno.test(`repair: a mode that all names contradict: ${what}`, async () => {
    await mistyped(made, rdev, wrong);
    if (made !== 0o040755) await mistyped(made, rdev, wrong, 2);
  });
}
