/**
 * Repair of what inodes hold, where what else is stored tells what was there: the flags of extents by
 * the inode's block counts, attributes by their names and lengths.
 */

import assert from "node:assert/strict";
import {
  QUOTA_NAME_SELECT,
  QUOTA_SOURCE_UID,
  SEF_OFFLINE,
  SEF_UNWRITTEN,
  TYPE_DATA_EXTENT,
  TYPE_XATTR,
  ZONE_FS,
} from "../../format/constants.ts";
import { fnv1a64, xattrNameHash } from "../../format/hash.ts";
import { xattrKey } from "../../format/item_keys.ts";
import { DataExtentVal, extentKey, quotaRuleKey, QuotaRuleVal } from "../../format/items.ts";
import { Key } from "../../format/key.ts";
import { repairVolume } from "../../fs/check/repair/repair.ts";
import { setXattr } from "../../fs/ops/xattr.ts";
import { ItemTrees } from "../../fs/resolve.ts";
import { VolumeReader } from "../../fs/reader.ts";
import { openVolume } from "../../fs/volume.ts";
import { newLocalFs } from "../helpers/local_fs.ts";
import { SeededRandom } from "../helpers/sim_reactor.ts";
import { firstKey } from "./item_cases.ts";
import {
  bytes,
  copyOf,
  fill,
  healthyVolume,
  manifest,
  mustMend,
  problemsOf,
  repairOptions,
  Surgeon,
  type Volume,
} from "./repair_support.ts";

const log = (lines: string[]) => ({
  ...repairOptions(),
  log: (line: string) => lines.push(line),
});

/** The first extent of a file. */
function extentOf(v: Volume, path: string): { s: Surgeon; ino: number; key: Key } {
  const s = new Surgeon(v.meta), ino = v.inos.get(path)!;
  return { s, ino, key: firstKey(s, ino, TYPE_DATA_EXTENT) };
}

function setFlags(s: Surgeon, key: Key, flags: number): void {
  assert.ok(s.editItem(key, (val) => void (DataExtentVal.at(val).flags = flags)) > 0);
}

/** A file of which the first extent is offline: mapped, for what was preallocated, or not. */
async function offlineVolume(
  mapped: boolean,
): Promise<{ v: Volume; s: Surgeon; ino: number; key: Key }> {
  const v = await healthyVolume(), { s, ino, key } = extentOf(v, "file39");
  s.editItem(key, (val) => {
    const e = DataExtentVal.at(val);
    e.flags = mapped ? SEF_OFFLINE | SEF_UNWRITTEN : SEF_OFFLINE;
    if (!mapped) e.blkno = 0;
  });
  s.editInode(ino, (inode) => {
    inode.onlineBlocks -= key.third;
    inode.offlineBlocks += key.third;
  });
  repairVolume(v.meta, v.data, repairOptions());
  assert.deepEqual(problemsOf(v.meta, v.data), []);
  return { v, s, ino, key };
}

Deno.test("repair: written blocks that the inode counts stay so, whatever their flags say", async () => {
  for (const flags of [SEF_OFFLINE, 4, SEF_OFFLINE | 8, SEF_UNWRITTEN | 4]) {
    const v = await healthyVolume(), { s, key } = extentOf(v, "file39"), lines: string[] = [];
    const healthy = manifest(v.meta, v.data);
    setFlags(s, key, flags);
    mustMend(v, healthy, ["extent-item"], [], log(lines));
    assert.equal(DataExtentVal.at(s.value(key)!).flags, 0, `flags ${flags}`);
    assert.ok(!lines.some((line) => /lost/.test(line)), lines.join("\n"));
  }
});

Deno.test("repair: offline blocks that the inode counts stay offline", async () => {
  for (const mapped of [false, true]) {
    const { v, s, ino, key } = await offlineVolume(mapped), lines: string[] = [];
    const healthy = manifest(v.meta, v.data);
    const right = s.value(key)!;
    setFlags(s, key, mapped ? SEF_OFFLINE : 0);
    mustMend(v, healthy, ["extent-item"], [], log(lines));
    assert.deepEqual(s.value(key), right);
    assert.ok(!lines.some((line) => /lost|removed/.test(line)), lines.join("\n"));
    assert.ok(healthy.get("/file39")?.includes("offline"), `inode ${ino}`);
  }
});

Deno.test("repair: an extent that means nothing and is not counted goes", async () => {
  const v = await healthyVolume(), { s, ino, key } = extentOf(v, "file39"), lines: string[] = [];
  const healthy = manifest(v.meta, v.data);
  s.insertItem(extentKey(ino, key.second + 1000, 5), DataExtentVal.alloc().bytes);
  mustMend(v, healthy, ["extent-item"], [], log(lines));
  assert.ok(lines.includes(`inode ${ino}: an extent that means nothing was removed`));
});

const ACL = "system.posix_acl_access", DEFAULT_ACL = "system.posix_acl_default";

/** As `setfacl -m u:1000:rw,g::---,m::rwx` leaves it: the mask is in the mode, not the group's rights. */
function acl(users = 1): Uint8Array {
  const entries = [[1, 6, -1]];
  for (let i = 0; i < users; i++) entries.push([2, 6, 1000 + i]);
  entries.push([4, 0, -1], [16, 7, -1], [32, 0, -1]);
  const out = new Uint8Array(4 + 8 * entries.length), v = new DataView(out.buffer);
  v.setUint32(0, 2, true);
  entries.forEach(([tag, perm, id], i) => {
    v.setUint16(4 + 8 * i, tag!, true);
    v.setUint16(6 + 8 * i, perm!, true);
    v.setUint32(8 + 8 * i, id!, true);
  });
  return out;
}

let made: Promise<Volume> | null = null;

/** A volume on which /file0 has an access ACL, /a a default ACL, and /a/b one of three parts, /a/b/c an access ACL
 * of three parts. */
async function aclVolume(): Promise<Volume> {
  return copyOf(
    await (made ??= (async () => {
      const m = await newLocalFs({ fmtVers: 2 }), inos = await fill(m, 1, 13);
      const set = (path: string, name: string, value: Uint8Array) =>
        m.run((op, fs) => setXattr(op, fs, inos.get(path)!, bytes(name), value, 0));
      await set("file0", ACL, acl());
      await set("a", DEFAULT_ACL, acl());
      await set("a/b", DEFAULT_ACL, acl(250));
      await set("a/b/c", ACL, acl(250));
      await m.sync();
      await m.unmount();
      const { meta, data } = m.cluster;
      return { meta: meta.snapshot(), data: data.snapshot(), inos };
    })()),
  );
}

/** All items of an attribute. */
function attrOf(v: Volume, path: string, name: string): { s: Surgeon; ino: number; keys: Key[] } {
  const s = new Surgeon(v.meta), ino = v.inos.get(path)!, hash = xattrNameHash(bytes(name));
  for (let id = 0; id < 20; id++) {
    const keys: Key[] = [];
    while (s.value(xattrKey(ino, hash, id, keys.length)) !== null) {
      keys.push(xattrKey(ino, hash, id, keys.length));
    }
    if (keys.length > 0) return { s, ino, keys };
  }
  throw new Error(`${path} has no attribute ${name}`);
}

/** Files an item elsewhere. */
function move(s: Surgeon, from: Key, to: Key): void {
  const val = s.value(from)!;
  s.removeItem(from);
  s.insertItem(to, val);
}

const underOther = (key: Key): Key =>
  xattrKey(key.first, (key.secondLo ^ 64) >>> 0, key.third, key.fourth);

const WHOLE: readonly {
  name: string;
  path: string;
  attr: string;
  damage: (s: Surgeon, keys: Key[]) => void;
}[] = [
  {
    name: "padding",
    path: "file0",
    attr: ACL,
    damage: (s, keys) => void s.editItem(keys[0]!, (val) => val[4]! ^= 8),
  },
  {
    name: "the hash in its key",
    path: "file0",
    attr: ACL,
    damage: (s, keys) => move(s, keys[0]!, underOther(keys[0]!)),
  },
  {
    name: "padding, and the hash in its key",
    path: "file0",
    attr: ACL,
    damage: (s, keys) => {
      s.editItem(keys[0]!, (val) => val[7]! ^= 1);
      move(s, keys[0]!, underOther(keys[0]!));
    },
  },
  {
    name: "a bit of its name",
    path: "file0",
    attr: ACL,
    damage: (s, keys) => void s.editItem(keys[0]!, (val) => val[8 + 20]! ^= 2),
  },
  {
    name: "a bit of a name that may be one",
    path: "file0",
    attr: "user.big",
    damage: (s, keys) => void s.editItem(keys[0]!, (val) => val[8 + 6]! ^= 2),
  },
  {
    name: "the hash of all its parts",
    path: "file0",
    attr: "user.big",
    damage: (s, keys) => keys.forEach((key) => move(s, key, underOther(key))),
  },
  ...[0, 1, 7].map((part) => ({
    name: `the hash of part ${part}`,
    path: "file0",
    attr: "user.big",
    damage: (s: Surgeon, keys: Key[]) => move(s, keys[part]!, underOther(keys[part]!)),
  })),
  {
    name: "a hash of more than 32 bits",
    path: "file0",
    attr: "user.big",
    damage: (s, keys) => {
      const { first, secondBig, third } = keys[3]!;
      move(s, keys[3]!, Key.of(ZONE_FS, first, TYPE_XATTR, secondBig | 1n << 40n, third, 3));
    },
  },
  {
    name: "another copy of a part",
    path: "file0",
    attr: "user.big",
    damage: (s, keys) => s.insertItem(underOther(keys[0]!), s.value(keys[0]!)!),
  },
  {
    name: "another copy under a hash that is not its own",
    path: "file0",
    attr: ACL,
    damage: (s, keys) => s.insertItem(underOther(keys[0]!), s.value(keys[0]!)!),
  },
  ...[ACL, "user.big"].map((attr) => ({
    name: `the length of the name ${attr}`,
    path: "file0",
    attr,
    damage: (s: Surgeon, keys: Key[]) => void s.editItem(keys[0]!, (val) => val[2]! ^= 4),
  })),
  ...["a", "a/b"].map((path) => ({
    name: `the length of the ACL of ${path}`,
    path,
    attr: DEFAULT_ACL,
    damage: (s: Surgeon, keys: Key[]) => void s.editItem(keys[0]!, (val) => val[0]! ^= 1),
  })),
  {
    name: "the version of an ACL",
    path: "a",
    attr: DEFAULT_ACL,
    damage: (s, keys) => void s.editItem(keys[0]!, (val) => val[8 + DEFAULT_ACL.length]! ^= 1),
  },
  {
    name: "a permission in the third part of an ACL",
    path: "a/b",
    attr: DEFAULT_ACL,
    damage: (s, keys) =>
      void s.editItem(
        keys[2]!,
        (val) => new DataView(val.buffer, val.byteOffset).setUint16(val.length - 6, 64, true),
      ),
  },
];

for (const { name, path, attr, damage } of WHOLE) {
  Deno.test(`repair: an attribute is kept of which only this is wrong: ${name}`, async () => {
    const v = await aclVolume(), { s, keys } = attrOf(v, path, attr), lines: string[] = [];
    const healthy = manifest(v.meta, v.data);
    damage(s, keys);
    const copy = copyOf(v), writes = copy.meta.writes;
    mustMend(v, healthy, [], [], log(lines));
    assert.ok(!lines.some((line) => /was removed|lost/.test(line)), lines.join("\n"));
    // Nothing is done about it by what must lose nothing.
    repairVolume(copy.meta, copy.data, repairOptions("safe"));
    assert.equal(copy.meta.writes, writes);
  });
}

Deno.test("fsck: an ACL with which no mount can work is found", async () => {
  const damages: ((val: Uint8Array) => void)[] = [
    // Its version, a tag, a permission, an entry without a user.
    (val) => val[8 + DEFAULT_ACL.length] = 3,
    (val) => val[8 + DEFAULT_ACL.length + 4] = 64,
    (val) => val[8 + DEFAULT_ACL.length + 6]! |= 8,
    (val) => val.fill(255, 8 + DEFAULT_ACL.length + 16, 8 + DEFAULT_ACL.length + 20),
  ];
  for (const damage of damages) {
    for (const path of ["a", "a/b"]) {
      const v = await aclVolume(), { s, keys } = attrOf(v, path, DEFAULT_ACL);
      assert.deepEqual(problemsOf(v.meta, v.data), []);
      s.editItem(keys[0]!, damage);
      assert.deepEqual(problemsOf(v.meta, v.data).map((p) => p.code), ["xattr"]);
    }
  }
});

Deno.test("repair: where an access ACL is lost the group's rights are not more than they were", async () => {
  const damages: readonly [string, string, (s: Surgeon, key: Key) => void][] = [
    ["file0", "xattr", (s, key) => void s.editItem(key, (val) => val[8 + ACL.length + 4] = 64)],
    ["file0", "xattr", (s, key) => void s.replaceItem(key, s.value(key)!.subarray(0, 71))],
    ["file0", "xattr", (s, key) => void s.replaceItem(key, s.value(key)!.subarray(0, 9))],
    ["a/b/c", "xattr-headless", (s, key) => void s.removeItem(key)],
  ];
  for (const [path, code, damage] of damages) {
    const v = await aclVolume(), { s, ino, keys } = attrOf(v, path, ACL), lines: string[] = [];
    const healthy = manifest(v.meta, v.data);
    damage(s, keys[0]!);
    mustMend(v, healthy, [code], ["/file0", "/a/b/hard", "/a/b/c"], log(lines));
    const reader = new VolumeReader(openVolume(v.meta, v.data), new SeededRandom(1));
    assert.equal(reader.inode(ino).mode & 0o777, 0o600);
    assert.ok(lines.some((line) => line.includes("lost its rights")), lines.join("\n"));
    assert.equal(
      [...reader.xattrs(ino)].some((x) => new TextDecoder().decode(x.name) === ACL),
      false,
    );
  }
});

Deno.test("repair: where all attributes are given up the group's rights are not more either", async () => {
  const v = await aclVolume(), { s, ino, keys } = attrOf(v, "file0", ACL);
  const healthy = manifest(v.meta, v.data);
  s.editItem(keys[0]!, (val) => val[4]! ^= 8);
  mustMend(v, healthy, ["xattr"], ["/file0", "/a/b/hard"], { ...repairOptions(), rung: 1 });
  const reader = new VolumeReader(openVolume(v.meta, v.data), new SeededRandom(1));
  assert.equal(reader.inode(ino).mode & 0o777, 0o600);
  assert.deepEqual([...reader.xattrs(ino)], []);
});

Deno.test("repair: a mode stays when an attribute goes that decides nothing", async () => {
  const v = await aclVolume(), { s, ino, keys } = attrOf(v, "file0", "user.big");
  const healthy = manifest(v.meta, v.data);
  s.removeItem(keys[2]!);
  mustMend(v, healthy, ["xattr"], ["/file0", "/a/b/hard"]);
  const reader = new VolumeReader(openVolume(v.meta, v.data), new SeededRandom(1));
  assert.equal(reader.inode(ino).mode & 0o777, 0o670);
});

/** A rule for user 1000, with an operation. */
function quotaRule(op: number): Uint8Array {
  const r = QuotaRuleVal.alloc();
  r.v.setBigUint64(0, 1000n, true);
  r.limit = 5000n;
  r.op = op;
  r.v.setUint8(35, QUOTA_SOURCE_UID);
  r.v.setUint8(38, QUOTA_NAME_SELECT);
  return r.bytes;
}

Deno.test("repair: a quota rule for no operation, which fails every create, is found and goes", async () => {
  const v = await healthyVolume(), s = new Surgeon(v.meta), lines: string[] = [];
  const healthy = manifest(v.meta, v.data), val = quotaRule(2), key = quotaRuleKey(fnv1a64(val), 0);
  s.insertItem(key, val);
  assert.deepEqual(problemsOf(v.meta, v.data).map((p) => p.message), [
    `quota rule ${key}: operation 2`,
  ]);
  mustMend(v, healthy, ["quota-rule"], [], log(lines));
  assert.ok(lines.includes(`quota rule ${key} was removed: it means nothing`), lines.join("\n"));
});

Deno.test("repair: a quota rule with one wrong bit becomes what its hash says", async () => {
  const right = quotaRule(0), key = quotaRuleKey(fnv1a64(right), 0);
  for (const bit of [0, 8 * 24 + 3, 8 * 33 + 1, 8 * 34 + 7, 8 * 35, 8 * 38 + 4, 8 * 47 + 7]) {
    const v = await healthyVolume(), s = new Surgeon(v.meta);
    const healthy = manifest(v.meta, v.data), val = right.slice();
    val[bit >>> 3]! ^= 1 << (bit & 7);
    s.insertItem(key, val);
    mustMend(v, healthy, ["quota-rule"]);
    const items = new ItemTrees(s.cache(), s.superBlock());
    assert.deepEqual(items.item(key)?.val, right, `bit ${bit}`);
  }
});
