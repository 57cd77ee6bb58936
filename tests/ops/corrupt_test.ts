/** Stored contradictions: EIO for that access, counted and logged once, and nothing is changed (02 §23). */

import assert from "node:assert/strict";
import { SEF_OFFLINE } from "../../format/constants.ts";
import { EIO, ENOLINK } from "../../format/errno.ts";
import { direntHash, xattrNameHash } from "../../format/hash.ts";
import { add64 } from "../../format/bytes.ts";
import {
  backrefKey,
  direntKey,
  extentKey,
  inodeKey,
  readdirKey,
  symlinkKey,
  xattrKey,
} from "../../format/item_keys.ts";
import { DataExtentVal, Inode } from "../../format/items.ts";
import { Key } from "../../format/key.ts";
import { LOCK_WRITE } from "../../format/wire.ts";
import { ROOT_CALLER } from "../../fs/caller.ts";
import { CorruptError } from "../../fs/errors.ts";
import { getattr } from "../../fs/ops/attr.ts";
import { read, write } from "../../fs/ops/data.ts";
import { create, link, lookup, readlink, rmdir, symlink, unlink } from "../../fs/ops/names.ts";
import { setattrJob } from "../../fs/ops/setattr.ts";
import { ReadParts } from "../../fs/read_parts.ts";
import { inoPath } from "../../fs/ops/paths.ts";
import { readdir } from "../../fs/ops/readdir.ts";
import { rename } from "../../fs/ops/rename.ts";
import { getXattr, listXattr, removeXattr, setXattr } from "../../fs/ops/xattr.ts";
import { committedItems, type LocalFs, newLocalFs } from "../helpers/local_fs.ts";

const b = (s: string): Uint8Array => new TextEncoder().encode(s);
const FILE = 0o100644;

/** Replaces an item's value by what `change` makes of it; null removes the item. */
async function damage(
  m: LocalFs,
  ino: number,
  key: Key,
  change: (val: Uint8Array) => Uint8Array | null,
): Promise<void> {
  await m.run((op, fs) => {
    const lock = fs.locks.inode(ino);
    op.lock(lock, LOCK_WRITE);
    const item = fs.items.lookup(op, lock, key);
    assert.ok(item !== null);
    const val = change(item.val.slice());
    op.hold({ allocating: false });
    op.apply();
    if (val === null) fs.items.delete(op, lock, key);
    else fs.items.update(op, lock, key, val);
  });
}

async function eio(m: LocalFs, fn: Parameters<LocalFs["run"]>[0]): Promise<void> {
  await assert.rejects(m.run(fn), { errno: EIO });
}

/** A new file `name` in the root, its position, and the key of its readdir item. */
async function made(m: LocalFs, name: string): Promise<{ ino: number; pos: number; key: Key }> {
  const ino = await m.run((op, fs) => create(op, fs, 1, b(name), FILE));
  const pos = (await m.run((op, fs) => getattr(op, fs, 1).nextReaddirPos)) - 1;
  return { ino, pos, key: readdirKey(1, pos) };
}

Deno.test("corruption: entries without a name", async () => {
  const m = await newLocalFs();
  const f = await made(m, "f");
  await damage(m, 1, f.key, (v) => v.subarray(0, 32));
  await eio(m, (op, fs) => readdir(op, fs, 1, 0, () => true));
  await eio(m, (op, fs) => readdir(op, fs, 1, 0, () => true));
  assert.equal(m.fs.corruptions.get("SC_DIRENT_READDIR_NAME_LEN"), 2);
  assert.equal(m.log.filter((l) => l.includes("SC_DIRENT_READDIR_NAME_LEN")).length, 1);
  await damage(m, f.ino, backrefKey(f.ino, 1, f.pos), (v) => v.subarray(0, 20));
  await eio(m, (op, fs) => inoPath(op, fs, f.ino, 0, 0));
  assert.equal(m.fs.corruptions.get("SC_DIRENT_BACKREF_NAME_LEN"), 1);
  // The name itself still leads there.
  assert.equal(await m.run((op, fs) => lookup(op, fs, 1, b("f"))), f.ino);
  await m.unmount();
});

Deno.test("corruption: a link whose items disagree is neither removed nor moved", async () => {
  const m = await newLocalFs();
  const f = await made(m, "f");
  const g = await made(m, "g");
  await damage(m, f.ino, backrefKey(f.ino, 1, f.pos), () => null);
  await damage(m, 1, g.key, (v) => (v[0]! ^= 1, v));
  await m.sync();
  const before = committedItems(m.cluster).map((i) => i.key.toString());
  for (const name of ["f", "g"]) {
    await eio(m, (op, fs) => unlink(op, fs, 1, b(name)));
    await eio(m, (op, fs) => rename(op, fs, 1, b(name), 1, b("h"), 0));
  }
  await m.sync();
  assert.deepEqual(committedItems(m.cluster).map((i) => i.key.toString()), before);
  await m.unmount();
});

Deno.test("corruption: symbolic links", async () => {
  const m = await newLocalFs();
  const long = new Uint8Array(2000).fill(0x61);
  const make = (name: string): Promise<number> =>
    m.run((op, fs) => symlink(op, fs, 1, b(name), long));
  const [one, two, three, four, five] = [
    await make("1"),
    await make("2"),
    await make("3"),
    await make("4"),
    await make("5"),
  ];
  await damage(m, one, symlinkKey(one, 1), () => null);
  await damage(m, two, symlinkKey(two, 2), (v) => (v[v.length - 1] = 1, v));
  await damage(m, three, inodeKey(three), (v) => (v.fill(0, 0, 8), v));
  await damage(m, four, inodeKey(four), (v) => (v.fill(9, 0, 4), v));
  await damage(m, five, symlinkKey(five, 0), (v) => v.subarray(1));
  for (const ino of [one, two, three, four, five]) {
    await eio(m, (op, fs) => readlink(op, fs, ino));
  }
  assert.deepEqual([...m.fs.corruptions], [
    ["SC_SYMLINK_MISSING_ITEM", 1],
    ["SC_SYMLINK_NOT_NULL_TERM", 1],
    ["SC_SYMLINK_INODE_SIZE", 2],
  ]);
  await m.unmount();
});

Deno.test("corruption: inode items of a wrong length", async () => {
  const m = await newLocalFs();
  const f = await made(m, "f");
  await damage(m, f.ino, inodeKey(f.ino), (v) => v.subarray(0, 100));
  await eio(m, (op, fs) => getattr(op, fs, f.ino));
  await eio(m, (op, fs) => lookup(op, fs, 1, b("f")));
  await eio(m, (op, fs) => unlink(op, fs, 1, b("f")));
  await m.unmount();
});

Deno.test("corruption: an inode without links whose item has a wrong length stays", async () => {
  const m = await newLocalFs();
  const f = await made(m, "f");
  await m.run((op, fs) => unlink(op, fs, 1, b("f")));
  await damage(m, f.ino, inodeKey(f.ino), (v) => v.subarray(0, 100));
  m.fs.refs.forget(f.ino, 1);
  await m.fs.orphans.drain();
  assert.ok(m.log.some((l) => l.includes(`inode ${f.ino} could not be deleted`)), `${m.log}`);
  await made(m, "g");
  await m.unmount();
  assert.ok(committedItems(m.cluster).some((i) => i.key.equals(inodeKey(f.ino))));
});

Deno.test("corruption: a short old inode item is read and upgraded", async () => {
  const m = await newLocalFs();
  const f = await made(m, "f");
  await damage(m, f.ino, inodeKey(f.ino), (v) => v.subarray(0, 160));
  assert.equal(await m.run((op, fs) => getattr(op, fs, f.ino).proj), 0n);
  await m.run((op, fs) => setXattr(op, fs, f.ino, b("user.a"), b("v"), 0));
  await m.sync();
  const item = committedItems(m.cluster).find((i) => i.key.equals(inodeKey(f.ino)));
  assert.equal(item?.val.length, 168);
  await m.unmount();
});

Deno.test("corruption: extended attributes", async () => {
  const m = await newLocalFs();
  const f = await made(m, "f");
  const key = (name: string, id: number, part: number): Key =>
    xattrKey(f.ino, xattrNameHash(b(name)), id, part);
  for (const [id, name] of ["user.a", "user.b", "user.c", "user.d"].entries()) {
    await m.run((op, fs) => setXattr(op, fs, f.ino, b(name), new Uint8Array(2000), 0));
    if (name === "user.a") await damage(m, f.ino, key(name, id, 1), () => null);
    if (name === "user.b") await damage(m, f.ino, key(name, id, 0), () => null);
    if (name === "user.c") await damage(m, f.ino, key(name, id, 2), (v) => v.subarray(1));
    if (name === "user.d") await damage(m, f.ino, key(name, id, 0), (v) => v.subarray(0, 5));
    await eio(m, (op, fs) => getXattr(op, fs, f.ino, b(name)));
    await eio(m, (op, fs) => setXattr(op, fs, f.ino, b(name), b("new"), 0));
    await eio(m, (op, fs) => removeXattr(op, fs, f.ino, b(name)));
  }
  await eio(m, (op, fs) => listXattr(op, fs, f.ino));
  await m.unmount();
});

/** Sets a 64-bit field of an inode. */
const setField = (m: LocalFs, ino: number, off: number, n: bigint): Promise<void> =>
  damage(m, ino, inodeKey(ino), (v) => {
    new DataView(v.buffer).setBigUint64(off, n, true);
    return v;
  });

const IO = { caller: ROOT_CALLER, id: 1 };
const put = async (m: LocalFs, ino: number, data = b("data")): Promise<number> =>
  await write(m.fs, {
    ...IO,
    ino,
    offset: 0,
    data,
    append: false,
    direct: false,
    sync: false,
    killSuidgid: false,
    pageWrite: false,
  });
const get = async (m: LocalFs, ino: number): Promise<number> =>
  await read(
    m.fs,
    { ...IO, ino, offset: 0, length: 100 },
    new ReadParts(),
    () => new Uint8Array(100),
  );

Deno.test("corruption: numbers that no inode has reached are EIO before anything changes", async () => {
  const m = await newLocalFs();
  const fields: [name: string, off: number][] = [
    ["meta_seq", 8],
    ["data_seq", 16],
    ["online_blocks", 32],
    ["offline_blocks", 40],
    ["next_readdir_pos", 48],
    ["next_xattr_id", 56],
    ["mode", 80],
  ];
  for (const [name, off] of fields) {
    const dir = await m.run((op, fs) => create(op, fs, 1, b(`dir ${name}`), 0o40755));
    const ino = await m.run((op, fs) => create(op, fs, dir, b("f"), FILE));
    for (const bad of [1n << 52n, (1n << 53n) - 1n, 1n << 63n, 0xffff_ffff_ffff_ffffn]) {
      await setField(m, ino, off, bad);
      await eio(m, (op, fs) => getattr(op, fs, ino));
      await eio(m, (op, fs) => lookup(op, fs, dir, b("f")));
      await eio(m, (op, fs) => unlink(op, fs, dir, b("f")));
      await eio(m, (op, fs) => rename(op, fs, dir, b("f"), 1, b("g"), 0));
      await eio(m, (op, fs) => link(op, fs, ino, 1, b("g")));
      await eio(m, (op, fs) => setXattr(op, fs, ino, b("user.a"), b("x"), 0));
      await assert.rejects(put(m, ino), { errno: EIO });
      await assert.rejects(async () => await setattrJob(m.fs, ino, { size: 3 }, null, 1), {
        errno: EIO,
      });
      assert.ok(m.log.some((line) => line.includes(`inode ${ino}: ${name} `)), `${m.log}`);
    }
    await setField(m, dir, off, 1n << 60n);
    await eio(m, (op, fs) => create(op, fs, dir, b("new"), FILE));
    await eio(m, (op, fs) => rmdir(op, fs, 1, b(`dir ${name}`)));
  }
  await made(m, "the mount lives");
  assert.ok(!m.log.some((line) => line.startsWith("defect")));
  await m.unmount();
});

Deno.test("corruption: sizes of what is no file; versions and times are never wrong", async () => {
  const m = await newLocalFs();
  const f = await made(m, "f");
  const dir = await m.run((op, fs) => create(op, fs, 1, b("dir"), 0o40755));
  await setField(m, dir, 0, 1n << 53n);
  await eio(m, (op, fs) => create(op, fs, dir, b("x"), FILE));
  await setField(m, f.ino, 0, 1n << 63n);
  await eio(m, (op, fs) => getattr(op, fs, f.ino));
  await setField(m, f.ino, 0, 0n);

  const most = 0xffff_ffff_ffff_ffffn;
  for (const off of [24, 64, Inode.ATIME, Inode.CTIME, Inode.MTIME, Inode.CRTIME]) {
    await setField(m, f.ino, off, most);
  }
  assert.equal(await put(m, f.ino), 4);
  await m.run((op, fs) => setXattr(op, fs, f.ino, b("user.a"), b("x"), 0));
  await m.run((op, fs) => rename(op, fs, 1, b("f"), 1, b("g"), 0));
  const inode = await m.run((op, fs) => {
    const { dataVersionBig, version, atime, crtime } = getattr(op, fs, f.ino);
    return { dataVersionBig, version, atime: atime.secBig, crtime: crtime.secBig };
  });
  // They wrapped: one change of contents, three changes in all.
  assert.deepEqual(inode, { dataVersionBig: 0n, version: 2, atime: -1n, crtime: -1n });
  await m.unmount();
});

Deno.test("numbers of 64 bits are added to word by word", () => {
  for (
    const [n, by, sum] of [
      [0xffff_ffffn, 1, 0x1_0000_0000n],
      [0xffff_ffff_ffff_ffffn, 1, 0n],
      [0x1f_ffff_ffff_fffen, 3, 0x20_0000_0000_0001n],
      [5n, 0xffff_ffff, 0x1_0000_0004n],
    ] as const
  ) {
    const v = new DataView(new ArrayBuffer(8));
    v.setBigUint64(0, n, true);
    add64(v, 0, by);
    assert.equal(v.getBigUint64(0, true), sum);
  }
});

Deno.test("corruption: entries that lead nowhere, and links that cannot be", async () => {
  const m = await newLocalFs();
  const f = await made(m, "f"), g = await made(m, "g");
  const dir = await m.run((op, fs) => create(op, fs, 1, b("dir"), 0o40755));
  await damage(m, f.ino, inodeKey(f.ino), () => null);
  await damage(m, g.ino, inodeKey(g.ino), (v) => (v.fill(0, 72, 76), v));
  for (const name of ["f", "g"]) {
    await eio(m, (op, fs) => lookup(op, fs, 1, b(name)));
    await eio(m, (op, fs) => unlink(op, fs, 1, b(name)));
    await eio(m, (op, fs) => rename(op, fs, 1, b(name), 1, b("h"), 0));
  }
  // A directory without entries whose links speak of a subdirectory, and one with too few.
  for (const nlink of [3, 1]) {
    await damage(m, dir, inodeKey(dir), (v) => (v[72] = nlink, v));
    await eio(m, (op, fs) => rmdir(op, fs, 1, b("dir")));
  }
  const far = direntKey(1, direntHash(b("dir")), 4);
  await damage(m, 1, far, (v) => (v.fill(255, 0, 8), v));
  await eio(m, (op, fs) => lookup(op, fs, 1, b("dir")));
  await damage(m, 1, readdirKey(1, 4), (v) => (v.fill(255, 0, 8), v));
  await eio(m, (op, fs) => readdir(op, fs, 1, 0, () => true));
  await made(m, "the mount lives");
  await m.unmount();
});

/** Adds an item. */
async function add(m: LocalFs, ino: number, key: Key, val: Uint8Array): Promise<void> {
  await m.run((op, fs) => {
    const lock = fs.locks.inode(ino);
    op.lock(lock, LOCK_WRITE);
    assert.equal(fs.items.lookup(op, lock, key), null);
    op.hold({ allocating: false });
    op.apply();
    fs.items.create(op, lock, key, val);
  });
}

Deno.test("corruption: extents that no file has", async () => {
  const m = await newLocalFs();
  const blocks = m.fs.dataBlocks;
  const bad: [key: (ino: number) => Key, blkno: number, flags: number][] = [
    [(ino) => extentKey(ino, 0, 1), blocks, 0],
    [(ino) => extentKey(ino, 1, 2), blocks - 1, 0],
    [(ino) => extentKey(ino, 0, 1), 63, 0],
    [(ino) => extentKey(ino, 0, 1), 100, 1],
    [(ino) => extentKey(ino, 0, 1), 0, 0],
    [(ino) => extentKey(ino, 0, 1), 100, 4],
    [(ino) => extentKey(ino, 0, 0), 100, 0],
    [(ino) => extentKey(ino, 0, 2), 100, 0],
    [(ino) => extentKey(ino, 2 ** 52, 1), 100, 0],
  ];
  for (const [i, [key, blkno, flags]] of bad.entries()) {
    const f = await made(m, `f${i}`);
    await setField(m, f.ino, 0, 4096n);
    const val = DataExtentVal.alloc();
    val.blkno = blkno;
    val.flags = flags;
    await add(m, f.ino, key(f.ino), val.bytes);
    if (i < 8) await assert.rejects(get(m, f.ino), { errno: EIO }, `extent ${i}`);
    await assert.rejects(async () => await setattrJob(m.fs, f.ino, { size: 0 }, null, 1), {
      errno: EIO,
    });
    // What cannot be freed is not deleted either, and the deletion ends.
    await m.run((op, fs) => unlink(op, fs, 1, b(`f${i}`)));
    m.fs.refs.forget(f.ino, 1);
    await m.fs.orphans.drain();
    assert.ok(m.log.some((l) => l.includes(`inode ${f.ino} could not be deleted`)), `extent ${i}`);
  }
  await made(m, "the mount lives");
  await m.unmount();
});

Deno.test("corruption: offline extents that the inode does not know of are not written", async () => {
  const m = await newLocalFs();
  const f = await made(m, "f");
  const val = DataExtentVal.alloc();
  val.flags = SEF_OFFLINE;
  await add(m, f.ino, extentKey(f.ino, 3, 4), val.bytes);
  await assert.rejects(put(m, f.ino), { errno: EIO });
  await made(m, "the mount lives");
  await m.unmount();
});

Deno.test("corruption: a number that was given out as new is in use", async () => {
  const m = await newLocalFs();
  const f = await made(m, "f");
  await add(m, f.ino + 1, inodeKey(f.ino + 1), new Uint8Array(168));
  await eio(m, (op, fs) => create(op, fs, 1, b("g"), FILE));
  assert.equal(await m.run((op, fs) => create(op, fs, 1, b("g"), FILE)), f.ino + 2);
  await m.unmount();
});

Deno.test("corruption: attributes whose keys cannot be, and an id that is in use", async () => {
  const m = await newLocalFs();
  const f = await made(m, "f");
  await m.run((op, fs) => setXattr(op, fs, f.ino, b("user.a"), b("v"), 0));
  const { firstHi, firstLo, zone, type } = xattrKey(f.ino, 0, 0, 0);
  const hash = xattrNameHash(b("user.a"));
  const val = new Uint8Array([1, 0, 1, 0, 0, 0, 0, 0, 0x78, 0x79]);
  await add(m, f.ino, Key.words(zone, firstHi, firstLo, type, 7, hash, 0, 0, 0), val);
  await eio(m, (op, fs) => listXattr(op, fs, f.ino));
  const g = await made(m, "g");
  const other = xattrNameHash(b("user.b"));
  await add(m, g.ino, xattrKey(g.ino, other, 0, 0), val);
  await eio(m, (op, fs) => setXattr(op, fs, g.ino, b("user.b"), b("v"), 0));
  await made(m, "the mount lives");
  await m.unmount();
});

Deno.test("corruption: directories below one another in a circle", async () => {
  const m = await newLocalFs();
  const dirs = [1];
  for (const name of ["x", "y", "z"]) {
    dirs.push(await m.run((op, fs) => create(op, fs, dirs.at(-1)!, b(name), 0o40755)));
  }
  const [, x, y, z] = dirs as [number, number, number, number];
  const away = await m.run((op, fs) => create(op, fs, 1, b("away"), 0o40755));
  // x is below y instead of the root.
  const old = await m.run((op, fs) => {
    const lock = fs.locks.inode(x);
    op.lock(lock, LOCK_WRITE);
    return fs.items.lookup(op, lock, backrefKey(x, 1, 2))!.val.slice();
  });
  await damage(m, x, backrefKey(x, 1, 2), () => null);
  await add(m, x, backrefKey(x, y, 9), old);
  await eio(m, (op, fs) => inoPath(op, fs, z, 0, 0));
  await eio(m, (op, fs) => rename(op, fs, y, b("z"), away, b("z"), 0));
  await m.unmount();
});

Deno.test("corruption: where a commit's own structures are damaged the mount ends with one line", async () => {
  const m = await newLocalFs();
  const f = await made(m, "f"), g = await made(m, "g");
  await put(m, f.ino);
  await m.sync();
  // Both files have the same block.
  const item = committedItems(m.cluster).find((i) => i.key.equals(extentKey(f.ino, 0, 1)))!;
  await add(m, g.ino, extentKey(g.ino, 0, 1), item.val.slice());
  let ended: unknown = null;
  m.fs.hooks.onDefect = (e) => ended = e;
  for (const { ino } of [f, g]) await setattrJob(m.fs, ino, { size: 0 }, null, 1);
  await assert.rejects(m.sync(), { errno: ENOLINK });
  assert.ok(ended instanceof CorruptError);
  const lines = m.log.filter((l) => l.startsWith("the mount cannot go on"));
  assert.equal(lines.length, 1);
  assert.match(lines[0]!, /^the mount cannot go on: .* is free already; run fsck$/);
  assert.equal(m.fs.trans.state, "dead");
});
