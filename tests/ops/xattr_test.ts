/** Extended attributes: items, size boundaries, the order of checks, tags and ACLs (02 §12, §13). */

import assert from "node:assert/strict";
import { E2BIG, EEXIST, EINVAL, ENODATA, EOPNOTSUPP, EPERM, ERANGE } from "../../format/errno.ts";
import { Inode, XattrTotlVal } from "../../format/items.ts";
import { gatherUpdate, lockInode, writeInode } from "../../fs/inode.ts";
import { getattr, setattr } from "../../fs/ops/attr.ts";
import {
  type Acl,
  ACL_GROUP,
  ACL_GROUP_OBJ,
  ACL_MASK,
  ACL_OTHER,
  ACL_USER,
  ACL_USER_OBJ,
  encodeAcl,
} from "../../fs/ops/acl_rules.ts";
import { create, symlink, tmpfile, unlink } from "../../fs/ops/names.ts";
import {
  getXattr,
  listXattr,
  removeXattr,
  setXattr,
  XATTR_CREATE,
  XATTR_REPLACE,
} from "../../fs/ops/xattr.ts";
import { SeededRandom } from "../helpers/sim_reactor.ts";
import { assertSound, committedItems, type LocalFs, newLocalFs } from "../helpers/local_fs.ts";

const b = (s: string): Uint8Array => new TextEncoder().encode(s);
const text = (u: Uint8Array): string => new TextDecoder().decode(u);
const FILE = 0o100644;
const DIR = 0o040755;
const USER = { uid: 1000, gid: 100, pid: 0, umask: 0o022 };

const newFs = (how: Parameters<typeof newLocalFs>[0] = {}): Promise<LocalFs> =>
  newLocalFs({ paranoid: { random: new SeededRandom(3), suspendPerMille: 60 }, ...how });

const file = (m: LocalFs, name = "f", mode = FILE): Promise<number> =>
  m.run((op, fs) => create(op, fs, 1, b(name), mode));
const set = (m: LocalFs, ino: number, name: string, value: Uint8Array | string, flags = 0) =>
  m.run((op, fs) =>
    setXattr(op, fs, ino, b(name), typeof value === "string" ? b(value) : value, flags)
  );
const get = (m: LocalFs, ino: number, name: string): Promise<Uint8Array> =>
  m.run((op, fs) => getXattr(op, fs, ino, b(name)));
const remove = (m: LocalFs, ino: number, name: string): Promise<void> =>
  m.run((op, fs) => removeXattr(op, fs, ino, b(name)));
const names = async (m: LocalFs, ino: number): Promise<string[]> =>
  text(await m.run((op, fs) => listXattr(op, fs, ino))).split("\0").slice(0, -1).sort();

async function inode(m: LocalFs, ino: number): Promise<Inode> {
  return await m.run((op, fs) => {
    const copy = Inode.alloc();
    copy.copyFrom(getattr(op, fs, ino));
    return copy;
  });
}

const keys = (m: LocalFs, prefix: string): string[] =>
  committedItems(m.cluster).map((i) => i.key.toString()).filter((k) => k.startsWith(prefix));

function totals(m: LocalFs): Record<string, [bigint, bigint]> {
  const all: Record<string, [bigint, bigint]> = {};
  for (const { key, val } of committedItems(m.cluster)) {
    if (key.zone !== 12) continue;
    const t = XattrTotlVal.at(val);
    all[`${key.firstBig}.${key.secondBig}.${key.thirdBig}`] = [t.total, t.count];
  }
  return all;
}

Deno.test("xattrs: the worked example (25.3)", async () => {
  const m = await newFs();
  const f = await file(m);
  await set(m, f, "user.k", "v");
  await set(m, f, "scoutfs.totl.acct.1.2.3", "5");
  await set(m, f, "scoutfs.totl.acct.1.2.3", "7");
  await set(m, f, "scoutfs.hide.srch.tag", "x");
  const i = await inode(m, f);
  assert.deepEqual([i.nextXattrId, i.version], [3, 5]);
  await m.sync();
  assert.deepEqual(keys(m, `16.${f}.8.`), [
    `16.${f}.8.${0x7034034f}.2.0`,
    `16.${f}.8.${0xe0dd2011}.1.0`,
    `16.${f}.8.${0xe5136121}.0.0`,
  ]);
  const stored = committedItems(m.cluster).find((x) =>
    x.key.toString().endsWith(".0.0") &&
    x.key.secondLo === 0xe5136121
  )!;
  assert.deepEqual([...stored.val], [1, 0, 6, 0, 0, 0, 0, 0, ...b("user.kv")]);
  assert.deepEqual(totals(m), { "1.2.3": [7n, 1n] });
  assert.deepEqual(await names(m, f), ["scoutfs.totl.acct.1.2.3", "user.k"]);
  assertSound(m.cluster);
  await remove(m, f, "scoutfs.totl.acct.1.2.3");
  await m.sync();
  assert.deepEqual(totals(m), {});
  assertSound(m.cluster);
  await m.unmount();
});

Deno.test("xattrs: a total made and removed in one transaction leaves nothing", async () => {
  const m = await newFs();
  const f = await file(m);
  await set(m, f, "scoutfs.totl.1.2.3", "18446744073709551615");
  await remove(m, f, "scoutfs.totl.1.2.3");
  await m.sync();
  assert.deepEqual(keys(m, "12."), []);
  assert.deepEqual(keys(m, `16.${f}.8.`), []);
  assert.equal((await inode(m, f)).nextXattrId, 1);
  assertSound(m.cluster);
  await m.unmount();
});

Deno.test("xattrs: every size boundary, growing and shrinking", async () => {
  const m = await newFs();
  const f = await file(m);
  const name = "user.size";
  const head = 8 + name.length;
  const sizes = [0, 1];
  for (const parts of [1, 2, 3, 73]) {
    for (const d of [-1, 0, 1]) sizes.push(parts * 896 - head + d);
  }
  sizes.push(65534, 65535);
  const fill = (n: number, seed: number): Uint8Array =>
    new Uint8Array(n).map((_, i) => (i * 7 + seed) & 255);
  const order = [...sizes, ...[...sizes].reverse(), 65535, 0, 896 * 5, 1];
  for (const [step, n] of order.entries()) {
    const value = fill(n, step);
    await set(m, f, name, value);
    assert.deepEqual(await get(m, f, name), value, `${n} bytes`);
    if (step % 7 === 0) {
      await m.fs.trans.commit();
      assert.equal(keys(m, `16.${f}.8.`).length, Math.ceil((head + n) / 896));
      assertSound(m.cluster);
    }
  }
  assert.equal((await inode(m, f)).nextXattrId, 1);
  await assert.rejects(set(m, f, name, new Uint8Array(65536)), { errno: E2BIG });
  await remove(m, f, name);
  await m.sync();
  assert.deepEqual(keys(m, `16.${f}.8.`), []);
  await m.unmount();
});

Deno.test("xattrs: names of every length, and what is refused", async () => {
  const m = await newFs();
  const f = await file(m);
  for (const n of [6, 254, 255]) {
    const name = "user." + "n".repeat(n - 5);
    await set(m, f, name, "v");
    assert.deepEqual(await get(m, f, name), b("v"));
  }
  await assert.rejects(set(m, f, "user." + "n".repeat(251), "v"), { errno: ERANGE });
  await assert.rejects(get(m, f, "user." + "n".repeat(251)), { errno: ENODATA });
  for (const name of ["system.other", "os2.x", "nodot"]) {
    await assert.rejects(set(m, f, name, "v"), { errno: EOPNOTSUPP });
    await assert.rejects(get(m, f, name), { errno: EOPNOTSUPP });
    await assert.rejects(remove(m, f, name), { errno: EOPNOTSUPP });
  }
  await assert.rejects(get(m, f, "user.none"), { errno: ENODATA });
  await assert.rejects(remove(m, f, "user.none"), { errno: ENODATA });
  await assert.rejects(set(m, f, "user.none", "v", XATTR_REPLACE), { errno: ENODATA });
  await set(m, f, "user.once", "v", XATTR_CREATE);
  await assert.rejects(set(m, f, "user.once", "v", XATTR_CREATE), { errno: EEXIST });
  await set(m, f, "user.once", "w", XATTR_REPLACE);
  await assert.rejects(set(m, f, "user.once", "w", 3), { errno: EINVAL });
  await assert.rejects(set(m, f, "user.once", "w", 4), { errno: EINVAL });
  await m.sync();
  assertSound(m.cluster);
  await m.unmount();
});

Deno.test("xattrs: the order of checks", async () => {
  const m = await newFs();
  const f = await file(m);
  const asUser = (name: string, value: string | Uint8Array, flags = 0): Promise<void> =>
    m.run(
      (op, fs) => setXattr(op, fs, f, b(name), typeof value === "string" ? b(value) : value, flags),
      USER,
    );
  const big = new Uint8Array(65536);
  // A bad name is refused for everybody, before anything else.
  await assert.rejects(asUser("scoutfs.unknown", big), { errno: EINVAL });
  // totl and indx together come before lengths, flags and privileges.
  await assert.rejects(asUser("scoutfs.totl.indx.1.2.3", big, 3), { errno: EINVAL });
  await assert.rejects(asUser("scoutfs.hide." + "x".repeat(250), big, 3), { errno: ERANGE });
  await assert.rejects(asUser("scoutfs.hide.x", big, 3), { errno: E2BIG });
  await assert.rejects(asUser("scoutfs.hide.x", "v", 3), { errno: EINVAL });
  await assert.rejects(asUser("scoutfs.totl.x", "v"), { errno: EPERM });
  await assert.rejects(set(m, f, "scoutfs.totl.x", "v"), { errno: EINVAL });
  await assert.rejects(set(m, f, "scoutfs.indx.x", "v"), { errno: EINVAL });
  await assert.rejects(set(m, f, "scoutfs.totl.1.2.3", "x", XATTR_REPLACE), { errno: ENODATA });
  await assert.rejects(set(m, f, "scoutfs.totl.1.2.3", "x"), { errno: EINVAL });
  await assert.rejects(set(m, f, "scoutfs.indx.1.2", "x"), { errno: EINVAL });
  assert.deepEqual(await names(m, f), []);
  // Privileges are not needed for short scoutfs. names, which have no tags.
  await asUser("scoutfs.abc", "v");
  await m.sync();
  assertSound(m.cluster);
  await m.unmount();
});

Deno.test("xattrs: setting what changes nothing still writes the inode", async () => {
  const m = await newFs();
  const f = await file(m);
  await set(m, f, "scoutfs.indx.x.5.1000", "");
  await m.fs.trans.commit();
  const before = await inode(m, f);
  await set(m, f, "scoutfs.indx.x.5.1000", "");
  const after = await inode(m, f);
  assert.equal(after.metaSeq, m.fs.trans.seq);
  assert.deepEqual([after.version, after.ctime.nsec], [before.version, before.ctime.nsec]);
  await m.sync();
  assert.equal(keys(m, "14.").length, 1);
  assertSound(m.cluster);
  await remove(m, f, "scoutfs.indx.x.5.1000");
  await m.sync();
  assert.deepEqual(keys(m, "14."), []);
  assertSound(m.cluster);
  await m.unmount();
});

Deno.test("xattrs: format version 1 has no index tag and 160-byte inodes", async () => {
  const m = await newFs({ fmtVers: 1 });
  const f = await file(m);
  await assert.rejects(set(m, f, "scoutfs.indx.x.5.1000", ""), { errno: EOPNOTSUPP });
  await set(m, f, "scoutfs.totl.x.5.1000.3", "0x10");
  await m.sync();
  const stored = committedItems(m.cluster).find((x) => x.key.toString() === `16.${f}.4.0.0.0`)!;
  assert.equal(stored.val.length, 160);
  assert.deepEqual(totals(m), { "5.1000.3": [16n, 1n] });
  assertSound(m.cluster);
  await m.unmount();
});

Deno.test("xattrs: deleting an inode takes back totals, index items and search entries", async () => {
  const m = await newFs();
  const f = await file(m, "f");
  const g = await file(m, "g");
  for (const ino of [f, g]) {
    await set(m, ino, "scoutfs.totl.x.1.1.1", "10");
    await set(m, ino, "scoutfs.indx.x.9.9", "");
    await set(m, ino, "scoutfs.srch.x", "s");
    await set(m, ino, "user.big", new Uint8Array(5000));
  }
  await m.sync();
  assert.deepEqual(totals(m), { "1.1.1": [20n, 2n] });
  await m.run((op, fs) => unlink(op, fs, 1, b("f")));
  m.fs.refs.forget(f, 1);
  await m.fs.orphans.drain();
  await m.sync();
  assert.deepEqual(totals(m), { "1.1.1": [10n, 1n] });
  assert.equal(keys(m, "14.").length, 1);
  assert.deepEqual(keys(m, `16.${f}.`), []);
  assertSound(m.cluster);
  await m.unmount();
});

Deno.test("xattrs: retention forbids user attributes only", async () => {
  const m = await newFs();
  const f = await file(m);
  await set(m, f, "user.old", "v");
  await m.run((op, fs) => {
    const h = lockInode(op, fs, f);
    const t = gatherUpdate(op, fs, [{ h, dataSeq: false }], { allocating: false });
    op.apply();
    h.edit().flags = 2;
    writeInode(op, fs, h, t);
  });
  await assert.rejects(set(m, f, "user.new", "v"), { errno: EPERM });
  await assert.rejects(remove(m, f, "user.old"), { errno: EPERM });
  await set(m, f, "trusted.x", "v");
  await set(m, f, "scoutfs.hide.x", "v");
  await assert.rejects(m.run((op, fs) => setattr(op, fs, f, { mode: 0o600 })), { errno: EPERM });
  await assert.rejects(m.run((op, fs) => unlink(op, fs, 1, b("f"))), { errno: EPERM });
  await m.unmount();
});

// ---- ACLs ----

const ACCESS = "system.posix_acl_access";
const DEFAULT = "system.posix_acl_default";
const entry = (tag: number, perm: number, id = 0xffff_ffff) => ({ tag, perm, id });
const minimal = (u: number, g: number, o: number): Acl => [
  entry(ACL_USER_OBJ, u),
  entry(ACL_GROUP_OBJ, g),
  entry(ACL_OTHER, o),
];
const extended = (u: number, g: number, m: number, o: number): Acl => [
  entry(ACL_USER_OBJ, u),
  entry(ACL_USER, 7, 1234),
  entry(ACL_GROUP_OBJ, g),
  entry(ACL_GROUP, 5, 50),
  entry(ACL_MASK, m),
  entry(ACL_OTHER, o),
];

Deno.test("ACLs: the access ACL and the mode follow each other", async () => {
  const m = await newFs();
  const f = await file(m, "f", 0o100600);
  await set(m, f, ACCESS, encodeAcl(extended(6, 4, 6, 4)));
  assert.equal((await inode(m, f)).mode, 0o100664);
  assert.deepEqual(await get(m, f, ACCESS), encodeAcl(extended(6, 4, 6, 4)));
  await m.run((op, fs) => setattr(op, fs, f, { mode: 0o750 }));
  assert.equal((await inode(m, f)).mode, 0o100750);
  assert.deepEqual(await get(m, f, ACCESS), encodeAcl(extended(7, 4, 5, 0)));
  // Only base entries: nothing is stored any more.
  await set(m, f, ACCESS, encodeAcl(minimal(7, 1, 1)));
  assert.equal((await inode(m, f)).mode, 0o100711);
  await assert.rejects(get(m, f, ACCESS), { errno: ENODATA });
  await set(m, f, ACCESS, encodeAcl(extended(6, 4, 6, 4)));
  await remove(m, f, ACCESS);
  assert.equal((await inode(m, f)).mode, 0o100664);
  await remove(m, f, ACCESS);
  await assert.rejects(set(m, f, ACCESS, new Uint8Array([2, 0, 0, 0, 9])), { errno: EINVAL });
  await assert.rejects(set(m, f, DEFAULT, encodeAcl(minimal(7, 7, 7))), { errno: EINVAL });
  await remove(m, f, DEFAULT);
  await assert.rejects(
    m.run((op, fs) => setXattr(op, fs, f, b(ACCESS), encodeAcl(minimal(7, 7, 7)), 0), USER),
    { errno: EPERM },
  );
  await m.sync();
  assertSound(m.cluster);
  await m.unmount();
});

Deno.test("ACLs: inheritance, with and without mask, instead of the umask", async () => {
  const m = await newFs();
  const d = await m.run((op, fs) => create(op, fs, 1, b("d"), DIR));
  const make = (name: string, mode: number): Promise<number> =>
    m.run((op, fs) => create(op, fs, d, b(name), mode), { ...USER, umask: 0o077 });
  assert.equal((await inode(m, await make("plain", 0o100666))).mode, 0o100600);

  const acl = extended(7, 7, 6, 4);
  await set(m, d, DEFAULT, encodeAcl(acl));
  const f = await make("f", 0o100640);
  const fi = await inode(m, f);
  assert.deepEqual([fi.mode, fi.nextXattrId, fi.version], [0o100640, 1, 2]);
  assert.deepEqual(await get(m, f, ACCESS), encodeAcl(extended(6, 7, 4, 0)));
  await assert.rejects(get(m, f, DEFAULT), { errno: ENODATA });
  const s = await make("s", 0o040777);
  const si = await inode(m, s);
  assert.deepEqual([si.mode, si.nextXattrId, si.version], [0o040764, 2, 3]);
  assert.deepEqual(await get(m, s, DEFAULT), encodeAcl(acl));
  assert.deepEqual(await get(m, s, ACCESS), encodeAcl(extended(7, 7, 6, 4)));
  const t = await m.run((op, fs) => tmpfile(op, fs, d, 0o100666), USER);
  assert.equal((await inode(m, t)).mode, 0o100664);
  const l = await m.run((op, fs) => symlink(op, fs, d, b("l"), b("x")), USER);
  assert.deepEqual([(await inode(m, l)).mode, await names(m, l)], [0o120777, []]);

  await set(m, d, DEFAULT, encodeAcl(minimal(7, 5, 0)));
  const g = await make("g", 0o100666);
  assert.equal((await inode(m, g)).mode, 0o100640);
  assert.deepEqual(await names(m, g), []);
  await remove(m, d, DEFAULT);
  assert.equal((await inode(m, await make("h", 0o100666))).mode, 0o100600);
  await m.sync();
  assertSound(m.cluster);
  await m.unmount();
});

Deno.test("ACLs: set-group-id is lost by those who may not have it", async () => {
  const m = await newFs();
  const f = await m.run((op, fs) => create(op, fs, 1, b("f"), 0o102770), { ...USER, umask: 0 });
  await m.run((op, fs) => setattr(op, fs, f, { gid: 7 }));
  assert.equal((await inode(m, f)).mode, 0o102770);
  const setAs = (kill?: boolean): Promise<void> =>
    m.run(
      (op, fs) => setXattr(op, fs, f, b(ACCESS), encodeAcl(extended(7, 7, 7, 0)), 0, kill),
      USER,
    );
  await setAs(false);
  assert.equal((await inode(m, f)).mode, 0o102770);
  await setAs();
  assert.equal((await inode(m, f)).mode, 0o100770);
  await m.run((op, fs) => setattr(op, fs, f, { mode: 0o2770 }));
  await m.run((op, fs) => setattr(op, fs, f, { mode: 0o2771 }), USER);
  assert.equal((await inode(m, f)).mode, 0o100771);
  await m.unmount();
});

Deno.test("ACLs: noacl turns them off", async () => {
  const m = await newFs({ options: { acl: false } });
  const f = await file(m);
  await assert.rejects(set(m, f, ACCESS, encodeAcl(minimal(7, 7, 7))), { errno: EOPNOTSUPP });
  await assert.rejects(get(m, f, ACCESS), { errno: EOPNOTSUPP });
  await m.unmount();
});

Deno.test("attributes: chown ends set-id bits and file capabilities", async () => {
  const m = await newFs();
  const f = await file(m, "f", 0o106755);
  await set(m, f, "security.capability", new Uint8Array(20));
  await m.run((op, fs) => setattr(op, fs, f, { uid: 5, gid: 6, killSuidgid: true }));
  const i = await inode(m, f);
  assert.deepEqual([i.mode, i.uid, i.gid], [0o100755, 5, 6]);
  assert.deepEqual(await names(m, f), []);
  const g = await file(m, "g", 0o106644);
  await m.run((op, fs) => setattr(op, fs, g, { killSuidgid: true }));
  assert.equal((await inode(m, g)).mode, 0o102644);
  await m.sync();
  assertSound(m.cluster);
  await m.unmount();
});

Deno.test("attributes: times are set exactly, ctime is now unless given", async () => {
  const m = await newFs();
  const f = await file(m);
  const before = await inode(m, f);
  await m.run((op, fs) =>
    setattr(op, fs, f, { atime: { sec: -5, nsec: 1 }, mtime: { sec: 2 ** 40, nsec: 999_999_999 } })
  );
  const i = await inode(m, f);
  assert.deepEqual([i.atime.sec, i.atime.nsec], [-5, 1]);
  assert.deepEqual([i.mtime.sec, i.mtime.nsec], [2 ** 40, 999_999_999]);
  assert.ok(i.ctime.nsec !== before.ctime.nsec);
  assert.deepEqual([i.version, i.crtime.nsec], [before.version + 1, before.crtime.nsec]);
  await m.unmount();
});
