/** Stored contradictions: EIO for that access, counted and logged once, and nothing is changed (02 §23). */

import assert from "node:assert/strict";
import { EIO } from "../../format/errno.ts";
import { xattrNameHash } from "../../format/hash.ts";
import { backrefKey, inodeKey, readdirKey, symlinkKey, xattrKey } from "../../format/item_keys.ts";
import type { Key } from "../../format/key.ts";
import { LOCK_WRITE } from "../../format/wire.ts";
import { getattr } from "../../fs/ops/attr.ts";
import { create, lookup, readlink, symlink, unlink } from "../../fs/ops/names.ts";
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
