/** Quotas: which rule decides, what it reads, who is refused (02 §19). */

import assert from "node:assert/strict";
import {
  QUOTA_NAME_SELECT,
  QUOTA_OP_DATA,
  QUOTA_OP_INODE,
  QUOTA_RULE_TOTL_COUNT,
  QUOTA_SOURCE_GID,
  QUOTA_SOURCE_UID,
} from "../../format/constants.ts";
import { EDQUOT, EIO } from "../../format/errno.ts";
import { fnv1a64 } from "../../format/hash.ts";
import { quotaRuleKey } from "../../format/item_keys.ts";
import { QuotaRuleVal } from "../../format/items.ts";
import { LOCK_WRITE } from "../../format/wire.ts";
import { create, link } from "../../fs/ops/names.ts";
import { compareRules } from "../../fs/ops/quota.ts";
import { setXattr } from "../../fs/ops/xattr.ts";
import { write } from "../../fs/ops/data.ts";
import { LocalCluster, settle } from "../helpers/local_cluster.ts";
import { LocalFs, newLocalFs } from "../helpers/local_fs.ts";
import { SeededRandom } from "../helpers/sim_reactor.ts";

const b = (s: string): Uint8Array => new TextEncoder().encode(s);
const FILE = 0o100644;
const as = (uid: number, gid = 100) => ({ uid, gid, pid: 0, umask: 0 });

interface RuleText {
  op: number;
  limit: number;
  prio?: number;
  flags?: number;
  /** value, source, flags of the three names. */
  names: [number, number, number][];
}

function rule(r: RuleText): QuotaRuleVal {
  const val = QuotaRuleVal.alloc();
  val.op = r.op;
  val.limit = BigInt(r.limit);
  val.prio = r.prio ?? 0;
  val.ruleFlags = r.flags ?? 0;
  r.names.forEach(([value, source, flags], i) => {
    val.setNameVal(i, BigInt(value));
    val.setNameSource(i, source);
    val.setNameFlags(i, flags);
  });
  return val;
}

/** Stores a rule as the ioctl will. */
async function addRule(m: LocalFs, r: RuleText): Promise<void> {
  const { bytes } = rule(r);
  await m.run((op, fs) => {
    const lock = fs.locks.quota();
    op.lock(lock, LOCK_WRITE);
    const key = quotaRuleKey(fnv1a64(bytes), 0);
    assert.equal(fs.items.lookup(op, lock, key), null);
    op.hold({ allocating: true });
    op.apply();
    fs.items.create(op, lock, key, bytes);
    fs.quota.drop();
  });
}

let made = 0;
const make = (m: LocalFs, uid: number, gid = 100): Promise<number> =>
  m.run((op, fs) => create(op, fs, 1, b(`f${made++}`), FILE), as(uid, gid));
const total = (m: LocalFs, ino: number, name: string, value: number): Promise<void> =>
  m.run((op, fs) => setXattr(op, fs, ino, b(`scoutfs.totl.${name}`), b(`${value}`), 0));

Deno.test("quotas: creation is refused while the total has reached the limit", async () => {
  const m = await newLocalFs({
    paranoid: { random: new SeededRandom(8), suspendPerMille: 60 },
  });
  // Per user: totals named 7.UID.0 count inodes.
  await addRule(m, {
    op: QUOTA_OP_INODE,
    limit: 2,
    flags: QUOTA_RULE_TOTL_COUNT,
    names: [[7, 0, 0], [0, QUOTA_SOURCE_UID, 0], [0, 0, 0]],
  });
  const f = await make(m, 5);
  await total(m, f, "x.7.5.0", 1000);
  await total(m, f, "y.7.5.0", 1000);
  // Only what is committed counts, and a result is believed for five seconds.
  await make(m, 5);
  await m.sync();
  await make(m, 5);
  await m.cluster.timers.advance(5001);
  await assert.rejects(make(m, 5), { errno: EDQUOT });
  await make(m, 6);
  // Links are free.
  await m.run((op, fs) => link(op, fs, f, 1, b("link")), as(5));
  await m.run((op, fs) => setXattr(op, fs, f, b("user.a"), b("v"), 0), as(5));
  await m.unmount();
});

Deno.test("quotas: writing is refused, overwriting too", async () => {
  const m = await newLocalFs();
  await addRule(m, {
    op: QUOTA_OP_DATA,
    limit: 100,
    names: [[1, 0, 0], [2, 0, 0], [50, QUOTA_SOURCE_GID, QUOTA_NAME_SELECT]],
  });
  const data = new Uint8Array(4096).fill(1);
  const put = async (ino: number): Promise<number> =>
    await write(m.fs, {
      ino,
      offset: 0,
      data,
      append: false,
      direct: false,
      sync: false,
      killSuidgid: false,
      pageWrite: false,
      caller: as(1),
      id: 0,
    });
  const mine = await make(m, 1, 50);
  const other = await make(m, 1, 51);
  assert.equal(await put(mine), 4096);
  await total(m, mine, "1.2.50", 100);
  await m.sync();
  await m.cluster.timers.advance(5001);
  await assert.rejects(put(mine), { errno: EDQUOT });
  assert.equal(await put(other), 4096);
  await total(m, mine, "1.2.50", 99);
  await m.sync();
  await m.cluster.timers.advance(5001);
  assert.equal(await put(mine), 4096);
  await m.unmount();
});

Deno.test("quotas: other mounts learn of new rules by losing the quota lock", async () => {
  const cluster = await LocalCluster.make();
  const one = await LocalFs.mount(cluster);
  const two = await LocalFs.mount(cluster);
  const f = await make(two, 5);
  await total(two, f, "1.1.1", 10);
  await two.sync();
  await addRule(one, { op: QUOTA_OP_INODE, limit: 10, names: [[1, 0, 0], [1, 0, 0], [1, 0, 0]] });
  await assert.rejects(make(two, 5), { errno: EDQUOT });
  await assert.rejects(make(one, 0), { errno: EDQUOT });
  await one.unmount();
  await two.unmount();
  await settle();
});

Deno.test("quotas: of several rules the greatest decides", async () => {
  const base = {
    op: QUOTA_OP_INODE,
    limit: 5,
    names: [[1, 0, 0], [1, 0, 0], [1, 0, 0]],
  } as RuleText;
  const names = (v: number): RuleText["names"] => [[v, 0, 0], [1, 0, 0], [1, 0, 0]];
  const ordered = [
    rule(base),
    rule({ ...base, flags: 1 }),
    rule({ ...base, limit: 6 }),
    rule({ ...base, op: QUOTA_OP_DATA, limit: 1 }),
    rule({ ...base, names: names(2) }),
    rule({ ...base, prio: 1 }),
    rule({ ...base, prio: 200, limit: 0 }),
  ];
  for (let i = 0; i < ordered.length; i++) {
    for (let j = 0; j < ordered.length; j++) {
      assert.equal(
        Math.sign(compareRules(ordered[i]!, ordered[j]!)),
        Math.sign(i - j),
        `${i} ${j}`,
      );
    }
  }
  const m = await newLocalFs();
  const f = await make(m, 5);
  await total(m, f, "1.1.1", 10);
  await addRule(m, base);
  // A rule of higher priority that allows user 5 outweighs the one that refuses everybody.
  await addRule(m, {
    op: QUOTA_OP_INODE,
    limit: 1000,
    prio: 9,
    names: [[1, 0, 0], [1, 0, 0], [5, QUOTA_SOURCE_UID, QUOTA_NAME_SELECT]],
  });
  await m.sync();
  await make(m, 5);
  await assert.rejects(make(m, 6), { errno: EDQUOT });
  await m.unmount();
});

Deno.test("quotas: none in format version 1; a damaged rule is EIO", async () => {
  const old = await newLocalFs({ fmtVers: 1 });
  await make(old, 5);
  await old.unmount();
  const m = await newLocalFs();
  await addRule(m, { op: 2, limit: 1, names: [[1, 0, 0], [1, 0, 0], [1, 0, 0]] });
  await assert.rejects(make(m, 5), { errno: EIO });
  await m.unmount();
});
