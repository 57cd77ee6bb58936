/** Operations on names, item by item, against the worked examples of 02 §25 and the rules of §5–§8. */

import assert from "node:assert/strict";
import {
  EEXIST,
  EINVAL,
  EISDIR,
  EMLINK,
  ENAMETOOLONG,
  ENOENT,
  ENOTDIR,
  ENOTEMPTY,
  EPERM,
} from "../../format/errno.ts";
import { direntHash } from "../../format/hash.ts";
import { Inode } from "../../format/items.ts";
import { gatherUpdate, lockInode, writeInode } from "../../fs/inode.ts";
import { getattr } from "../../fs/ops/attr.ts";
import { dtOf } from "../../fs/ops/entries.ts";
import {
  create,
  link,
  lookup,
  lookupParent,
  readlink,
  rmdir,
  symlink,
  tmpfile,
  unlink,
} from "../../fs/ops/names.ts";
import { inoPath } from "../../fs/ops/paths.ts";
import { readdir } from "../../fs/ops/readdir.ts";
import { rename } from "../../fs/ops/rename.ts";
import { SeededRandom } from "../helpers/sim_reactor.ts";
import { assertSound, committedItems, type LocalFs, newLocalFs } from "../helpers/local_fs.ts";

const b = (s: string): Uint8Array => new TextEncoder().encode(s);
const text = (u: Uint8Array): string => new TextDecoder().decode(u);
const DIR = 0o040755;
const FILE = 0o100644;
const USER = { uid: 1000, gid: 100, pid: 0, umask: 0o022 };

/** Every operation of these tests runs twice and suspends at random. */
const paranoid = (seed = 1) => ({ random: new SeededRandom(seed), suspendPerMille: 60 });
const newFs = (seed = 1): Promise<LocalFs> => newLocalFs({ paranoid: paranoid(seed), seed });

async function inode(m: LocalFs, ino: number): Promise<Inode> {
  return await m.run((op, fs) => {
    const copy = Inode.alloc();
    copy.copyFrom(getattr(op, fs, ino));
    return copy;
  });
}

const keys = (m: LocalFs): string[] => committedItems(m.cluster).map((i) => i.key.toString());

async function refused(
  m: LocalFs,
  errno: number,
  fn: Parameters<LocalFs["run"]>[0],
): Promise<void> {
  await assert.rejects(m.run(fn), { errno });
}

interface Listed {
  ino: number;
  pos: number;
  name: string;
  type: number;
}

async function list(m: LocalFs, dir: number, pos = 0, limit = Infinity): Promise<Listed[]> {
  return await m.run((op, fs) => {
    const entries: Listed[] = [];
    readdir(op, fs, dir, pos, (ino, at, type, from, off, length) => {
      if (entries.length >= limit) return false;
      entries.push({
        ino,
        pos: at,
        name: text(from.subarray(off, off + length)),
        type: dtOf(type),
      });
      return true;
    });
    return entries;
  });
}

Deno.test("names: mkdir and create leave the items of the worked example", async () => {
  const m = await newFs();
  const t = m.fs.trans.seq;
  const a = await m.run((op, fs) => create(op, fs, 1, b("a"), DIR), { ...USER, uid: 0, gid: 0 });
  assert.equal(a, 1024);
  const f = await m.run((op, fs) => create(op, fs, a, b("f"), FILE), USER);
  assert.equal(f, 11264);
  await m.sync();
  assert.deepEqual(keys(m), [
    `4.0.4.${t}.1.0`,
    `4.0.4.${t}.1024.0`,
    `4.0.4.${t}.11264.0`,
    `4.0.8.${t}.11264.0`,
    "16.1.4.0.0.0",
    `16.1.12.${0x61000000e40c292cn}.2.0`,
    "16.1.16.2.0.0",
    "16.1024.4.0.0.0",
    `16.1024.12.${0x66000000e30c2799n}.2.0`,
    "16.1024.16.2.0.0",
    "16.1024.20.1.2.0",
    "16.11264.4.0.0.0",
    "16.11264.20.1024.2.0",
  ]);
  const root = await inode(m, 1);
  assert.deepEqual([root.nlink, root.size, root.nextReaddirPos, root.metaSeq], [3, 1, 3, t]);
  const dir = await inode(m, a);
  assert.deepEqual(
    [dir.mode, dir.nlink, dir.size, dir.nextReaddirPos, dir.metaSeq, dir.dataSeq, dir.version],
    [DIR, 2, 1, 3, t, t, 2],
  );
  const file = await inode(m, f);
  assert.deepEqual(
    [file.mode, file.nlink, file.size, file.dataVersion, file.uid, file.gid, file.version],
    [FILE, 1, 0, 0, 1000, 100, 1],
  );
  assert.equal(file.nextReaddirPos, 2);
  assert.deepEqual([file.atime.sec, file.atime.nsec], [file.crtime.sec, file.crtime.nsec]);
  assert.deepEqual([file.ctime.sec, file.ctime.nsec], [dir.mtime.sec, dir.mtime.nsec]);
  assert.equal(m.fs.refs.lookupCount(f), 1);
  assertSound(m.cluster);
  await m.unmount();
});

Deno.test("names: the index items of an old inode move with its first change", async () => {
  const m = await newFs();
  const f = await m.run((op, fs) => create(op, fs, 1, b("f"), FILE));
  const t1 = m.fs.trans.seq;
  await m.fs.trans.commit();
  const t2 = m.fs.trans.seq;
  assert.ok(t2 > t1);
  await m.run((op, fs) => link(op, fs, f, 1, b("g")));
  await m.run((op, fs) => link(op, fs, f, 1, b("h")));
  await m.sync();
  const index = keys(m).filter((k) => k.startsWith("4."));
  // data_seq stays where it was: only contents move it.
  assert.deepEqual(index, [`4.0.4.${t2}.1.0`, `4.0.4.${t2}.${f}.0`, `4.0.8.${t1}.${f}.0`]);
  assertSound(m.cluster);
  await m.unmount();
});

Deno.test("names: rename within a directory and to the root, then removal (25.6, 25.7)", async () => {
  const m = await newFs();
  const a = await m.run((op, fs) => create(op, fs, 1, b("a"), DIR));
  const f = await m.run((op, fs) => create(op, fs, a, b("f"), FILE));
  await m.run((op, fs) => rename(op, fs, a, b("f"), a, b("g"), 0));
  await m.sync();
  assert.deepEqual(
    keys(m).filter((k) => /^16\.1024\.(12|16)|^16\.11264\.20/.test(k)),
    [`16.1024.12.${0x67000000e20c2606n}.3.0`, "16.1024.16.3.0.0", "16.11264.20.1024.3.0"],
  );
  let dir = await inode(m, a);
  assert.deepEqual([dir.nextReaddirPos, dir.size], [4, 1]);
  await m.run((op, fs) => rename(op, fs, a, b("g"), 1, b("h"), 0));
  await m.sync();
  assert.deepEqual(
    keys(m).filter((k) => /^16\.(1|1024)\.(12|16)|^16\.11264\.20/.test(k)),
    [
      `16.1.12.${0x61000000e40c292cn}.2.0`,
      `16.1.12.${0x68000000ed0c3757n}.3.0`,
      "16.1.16.2.0.0",
      "16.1.16.3.0.0",
      "16.11264.20.1.3.0",
    ],
  );
  dir = await inode(m, a);
  const root = await inode(m, 1);
  assert.deepEqual([dir.size, root.size, root.nextReaddirPos], [0, 2, 4]);
  assertSound(m.cluster);

  await m.run((op, fs) => unlink(op, fs, 1, b("h")));
  await m.sync();
  // Still known to the kernel: an orphan.
  assert.ok(keys(m).includes("8.0.4.11264.0.0"));
  assert.equal((await inode(m, f)).nlink, 0);
  assertSound(m.cluster);
  m.fs.refs.forget(f, 1);
  await m.fs.orphans.drain();
  await m.sync();
  assert.deepEqual(keys(m).filter((k) => k.includes("11264")), []);
  assertSound(m.cluster);
  await m.unmount();
});

Deno.test("names: errors of create, link, unlink and rmdir", async () => {
  const m = await newFs();
  const d = await m.run((op, fs) => create(op, fs, 1, b("d"), DIR));
  const f = await m.run((op, fs) => create(op, fs, 1, b("f"), FILE));
  await m.run((op, fs) => create(op, fs, d, b("x"), FILE));
  const long = new Uint8Array(256).fill(0x78);
  await refused(m, EEXIST, (op, fs) => create(op, fs, 1, b("f"), FILE));
  await refused(m, EEXIST, (op, fs) => create(op, fs, 1, b("d"), DIR));
  await refused(m, ENAMETOOLONG, (op, fs) => create(op, fs, 1, long, FILE));
  await refused(m, ENAMETOOLONG, (op, fs) => lookup(op, fs, 1, long));
  await refused(m, EINVAL, (op, fs) => create(op, fs, 1, b("n"), 0o644));
  await refused(m, ENOTDIR, (op, fs) => create(op, fs, f, b("n"), FILE));
  await refused(m, ENOENT, (op, fs) => create(op, fs, 999, b("n"), FILE));
  await refused(m, EPERM, (op, fs) => link(op, fs, d, 1, b("n")));
  await refused(m, EEXIST, (op, fs) => link(op, fs, f, 1, b("d")));
  await refused(m, ENOENT, (op, fs) => link(op, fs, 4711, 1, b("n")));
  await refused(m, ENOENT, (op, fs) => unlink(op, fs, 1, b("nothing")));
  await refused(m, EISDIR, (op, fs) => unlink(op, fs, 1, b("d")));
  await refused(m, ENOTDIR, (op, fs) => rmdir(op, fs, 1, b("f")));
  await refused(m, ENOTEMPTY, (op, fs) => rmdir(op, fs, 1, b("d")));
  await refused(m, EINVAL, (op, fs) => readlink(op, fs, f));
  await refused(m, ENOTDIR, (op, fs) => readdir(op, fs, f, 0, () => true));
  assert.equal(await m.run((op, fs) => lookup(op, fs, 1, b("nothing"))), 0);
  await m.run((op, fs) => unlink(op, fs, d, b("x")));
  await m.run((op, fs) => rmdir(op, fs, 1, b("d")));
  // Removed but still known: nothing can be put into it.
  await refused(m, ENOENT, (op, fs) => create(op, fs, d, b("y"), FILE));
  await refused(m, ENOENT, (op, fs) => rename(op, fs, 1, b("f"), d, b("y"), 0));
  await m.sync();
  assertSound(m.cluster);
  await m.unmount();
});

Deno.test("names: a file with the greatest number of links gets no more", async () => {
  const m = await newFs();
  const f = await m.run((op, fs) => create(op, fs, 1, b("f"), FILE));
  await m.run((op, fs) => {
    const h = lockInode(op, fs, f);
    const t = gatherUpdate(op, fs, [{ h, dataSeq: false }], { allocating: false });
    op.apply();
    h.edit().nlink = 2 ** 31 - 1;
    writeInode(op, fs, h, t);
  });
  await refused(m, EMLINK, (op, fs) => link(op, fs, f, 1, b("g")));
  await m.unmount();
});

Deno.test("names: special files and set-group-id directories", async () => {
  const m = await newFs();
  const made: [string, number, number][] = [
    ["fifo", 0o010644, 0],
    ["chr", 0o020644, 5 << 20 | 7],
    ["blk", 0o060644, 0xfff << 20 | 0xfffff],
    ["sock", 0o140644, 0],
  ];
  for (const [name, mode, rdev] of made) {
    const ino = await m.run((op, fs) => create(op, fs, 1, b(name), mode, rdev));
    const i = await inode(m, ino);
    assert.deepEqual([i.mode, i.rdev], [mode, rdev >>> 0]);
  }
  const groupDir = await m.run(
    (op, fs) => create(op, fs, 1, b("s"), 0o042775),
    { uid: 7, gid: 77, pid: 0, umask: 0 },
  );
  assert.equal((await inode(m, groupDir)).mode, 0o042775);
  const sub = await m.run((op, fs) => create(op, fs, groupDir, b("sub"), DIR), USER);
  const file = await m.run((op, fs) => create(op, fs, groupDir, b("file"), 0o100666), USER);
  const [s, f] = [await inode(m, sub), await inode(m, file)];
  assert.deepEqual([s.gid, s.uid, s.mode], [77, 1000, 0o042755]);
  assert.deepEqual([f.gid, f.mode], [77, 0o100644]);
  assert.deepEqual(
    (await list(m, 1)).map((e) => [e.name, e.type]),
    [[".", 4], ["..", 4], ["fifo", 1], ["chr", 2], ["blk", 6], ["sock", 12], ["s", 4]],
  );
  await m.sync();
  assertSound(m.cluster);
  await m.unmount();
});

Deno.test("names: symbolic links of every length boundary", async () => {
  const m = await newFs();
  for (const n of [1, 2, 894, 895, 896, 897, 1791, 1792, 4094, 4095]) {
    const target = new Uint8Array(n).map((_, i) => 33 + (i % 90));
    const ino = await m.run((op, fs) => symlink(op, fs, 1, b(`l${n}`), target), USER);
    const i = await inode(m, ino);
    assert.deepEqual([i.mode, i.size, i.nlink, i.version], [0o120777, n + 1, 1, 1]);
    assert.deepEqual(await m.run((op, fs) => readlink(op, fs, ino)), target);
  }
  await refused(m, ENAMETOOLONG, (op, fs) => symlink(op, fs, 1, b("z"), new Uint8Array(4096)));
  await refused(m, ENOENT, (op, fs) => symlink(op, fs, 1, b("z"), new Uint8Array(0)));
  await refused(m, EEXIST, (op, fs) => symlink(op, fs, 1, b("l1"), b("x")));
  await m.sync();
  assertSound(m.cluster);
  // All parts go with the inode.
  const ino = await m.run((op, fs) => lookup(op, fs, 1, b("l4095")));
  await m.run((op, fs) => unlink(op, fs, 1, b("l4095")));
  m.fs.refs.forget(ino, 2);
  await m.fs.orphans.drain();
  await m.sync();
  assert.deepEqual(keys(m).filter((k) => k.startsWith(`16.${ino}.`)), []);
  assertSound(m.cluster);
  await m.unmount();
});

Deno.test("names: O_TMPFILE files vanish, or live on once linked", async () => {
  const m = await newFs();
  const before = await inode(m, 1);
  const t = await m.run((op, fs) => tmpfile(op, fs, 1, 0o100666), USER);
  const after = await inode(m, 1);
  assert.deepEqual([after.version, after.size, after.mtime.sec, after.nextReaddirPos], [
    before.version,
    before.size,
    before.mtime.sec,
    before.nextReaddirPos,
  ]);
  assert.equal(after.metaSeq, m.fs.trans.seq);
  const i = await inode(m, t);
  assert.deepEqual([i.nlink, i.mode, i.version], [0, 0o100644, 1]);
  await m.sync();
  assertSound(m.cluster);
  const u = await m.run((op, fs) => tmpfile(op, fs, 1, FILE));
  await m.run((op, fs) => link(op, fs, u, 1, b("named")));
  assert.equal((await inode(m, u)).nlink, 1);
  m.fs.refs.forget(t, 1);
  m.fs.refs.forget(u, 2);
  await m.fs.orphans.drain();
  await m.sync();
  assertSound(m.cluster);
  assert.deepEqual(keys(m).filter((k) => k.startsWith(`16.${t}.`) || k.startsWith("8.")), []);
  assert.equal(await m.run((op, fs) => lookup(op, fs, 1, b("named"))), u);
  await m.unmount();
});

Deno.test("names: positions are stable, in order of creation, and never reused", async () => {
  const m = await newFs();
  const d = await m.run((op, fs) => create(op, fs, 1, b("d"), DIR));
  for (let i = 0; i < 500; i++) await m.run((op, fs) => create(op, fs, d, b(`f${i}`), FILE));
  for (let i = 0; i < 500; i += 3) await m.run((op, fs) => unlink(op, fs, d, b(`f${i}`)));
  await m.run((op, fs) => rename(op, fs, d, b("f1"), d, b("again"), 0));
  await m.run((op, fs) => create(op, fs, d, b("f0"), FILE));
  const want = [".", ".."];
  for (let i = 2; i < 500; i++) if (i % 3 !== 0) want.push(`f${i}`);
  want.push("again", "f0");
  const all = await list(m, d);
  assert.deepEqual(all.map((e) => e.name), want);
  // In pieces, from every offset, the same entries.
  const seen: Listed[] = [];
  for (let pos = 0;;) {
    const piece = await list(m, d, pos, 7);
    if (piece.length === 0) break;
    seen.push(...piece);
    pos = piece.at(-1)!.pos + 1;
  }
  assert.deepEqual(seen, all);
  assert.equal(all.at(-1)!.pos, 503);
  await m.sync();
  assertSound(m.cluster);
  await m.unmount();
});

Deno.test("names: dot, dot-dot and paths", async () => {
  const m = await newFs();
  const a = await m.run((op, fs) => create(op, fs, 1, b("a"), DIR));
  const c = await m.run((op, fs) => create(op, fs, a, b("c"), DIR));
  const f = await m.run((op, fs) => create(op, fs, c, b("file"), FILE));
  await m.run((op, fs) => link(op, fs, f, 1, b("other")));
  const look = (dir: number, name: string) => m.run((op, fs) => lookup(op, fs, dir, b(name)));
  assert.deepEqual(
    [await look(c, "."), await look(c, ".."), await look(1, ".."), await look(1, ".")],
    [c, a, 1, 1],
  );
  assert.equal(await m.run((op, fs) => lookupParent(op, fs, c)), a);
  const path = (ino: number, dir = 0, pos = 0) =>
    m.run((op, fs) => {
      const p = inoPath(op, fs, ino, dir, pos);
      return [text(p.path), p.dir, p.pos];
    });
  assert.deepEqual(await path(c), ["a/c", a, 2]);
  assert.deepEqual(await path(f), ["other", 1, 3]);
  assert.deepEqual(await path(f, 1, 4), ["a/c/file", c, 2]);
  await refused(m, ENOENT, (op, fs) => inoPath(op, fs, 1, 0, 0));
  await refused(m, ENOENT, (op, fs) => inoPath(op, fs, f, c, 3));
  await m.unmount();
});

Deno.test("names: different names with one hash are told apart", async () => {
  const m = await newFs();
  // Of 32-byte names the fingerprint takes the highest bit of each byte; their FNV is equal too.
  const [x, y] = ["aaaaaaaaaaaaaaaaaaaaaaaaaaa0<;Ti", "aaaaaaaaaaaaaaaaaaaaaaaaaaa0@:0P"].map(b);
  assert.deepEqual(direntHash(x), direntHash(y));
  const a = await m.run((op, fs) => create(op, fs, 1, x, FILE));
  assert.equal(await m.run((op, fs) => lookup(op, fs, 1, y)), 0);
  const c = await m.run((op, fs) => create(op, fs, 1, y, FILE));
  await refused(m, EEXIST, (op, fs) => create(op, fs, 1, y, FILE));
  assert.equal(await m.run((op, fs) => lookup(op, fs, 1, x)), a);
  assert.equal(await m.run((op, fs) => lookup(op, fs, 1, y)), c);
  await m.run((op, fs) => unlink(op, fs, 1, x));
  assert.equal(await m.run((op, fs) => lookup(op, fs, 1, x)), 0);
  assert.equal(await m.run((op, fs) => lookup(op, fs, 1, y)), c);
  await m.sync();
  assertSound(m.cluster);
  await m.unmount();
});
