/**
 * The client engine as a whole, over the real server state and lock server: several mounts run
 * random operations on shared items, with forced suspensions, evictions, revocations and commits in
 * between, against a plain map. Then the volume is read by a mount that knows nothing, and its books
 * are checked.
 */

import assert from "node:assert/strict";
import { metaSeqKey } from "../../format/item_keys.ts";
import { TYPE_INODE_INDEX_META_SEQ } from "../../format/constants.ts";
import { LOCK_READ, LOCK_WRITE, LOCK_WRITE_ONLY } from "../../format/wire.ts";
import { AssertionError, FsError } from "../../fs/errors.ts";
import type { Item } from "../../fs/item.ts";
import { Cancel, type Op } from "../../fs/op.ts";
import { mount, testKey, type TestMount, unmount } from "../helpers/engine.ts";
import { LocalCluster, settle } from "../helpers/local_cluster.ts";
import { checkOwnership } from "../helpers/ownership.ts";
import { SeededRandom } from "../helpers/sim_reactor.ts";
import { verifyItems } from "../helpers/verify_items.ts";

/** A few inode groups far from what filesystem operations use. */
const INOS = [5000, 5001, 5900, 6200, 9000];
const ITEMS = 40;

function value(random: SeededRandom): Uint8Array {
  const val = new Uint8Array(random.below(8) === 0 ? random.below(896) : random.below(60));
  for (let i = 0; i < val.length; i++) val[i] = random.below(256);
  return val;
}

const hex = (val: Uint8Array): string => val.toHex();

/** `val` cut or repeated to the length of an item that there is. */
function sameLength(item: Item | null, val: Uint8Array): Uint8Array {
  if (item === null) return val;
  return Uint8Array.from(
    { length: item.length },
    (_, i) => val[i % Math.max(1, val.length)] ?? i & 255,
  );
}

/**
 * One operation on two random items, perhaps in two lock groups, with an index item. Values that
 * keep their length are changed in place, before anything else happens in their pages.
 */
function change(m: TestMount, model: Map<string, string>, random: SeededRandom) {
  const [a, b] = [0, 1].map(() => ({
    ino: INOS[random.below(INOS.length)]!,
    n: random.below(ITEMS),
    what: random.below(3),
    val: value(random),
  }));
  const { fs } = m;
  return fs.runner.run((op: Op) => {
    const steps = [a!, b!].map((s) => {
      const key = testKey(s.ino, s.n);
      const lock = fs.locks.inode(s.ino);
      op.lock(lock, LOCK_WRITE);
      const item = fs.items.lookup(op, lock, key);
      assert.equal(item === null ? undefined : hex(item.val), model.get(`${key}`), `${key}`);
      return { ...s, key, lock, item, val: s.what === 1 ? sameLength(item, s.val) : s.val };
    });
    if (steps[0]!.key.equals(steps[1]!.key)) steps.pop();
    const t = op.transSeq();
    const index = fs.locks.index(TYPE_INODE_INDEX_META_SEQ, t);
    op.lock(index, LOCK_WRITE_ONLY);
    op.hold({ allocating: true, items: 4 });
    op.apply();
    for (const { item, what, val } of steps) {
      if (item === null || what !== 1) continue;
      val.forEach((byte, i) => item.view.setUint8(item.off + i, byte));
    }
    // Last what was changed in place: what the others do may have moved it.
    for (
      const { key, lock, item, what, val } of steps.toSorted((x, y) =>
        x.what === 1 ? 1 : y.what === 1 ? -1 : 0
      )
    ) {
      if (item === null) fs.items.create(op, lock, key, val);
      else if (what === 0) fs.items.delete(op, lock, key);
      else if (what === 1) fs.items.updateAt(op, lock, item, item.view, item.off, item.length);
      else fs.items.update(op, lock, key, val);
      if (item !== null && what === 0) model.delete(`${key}`);
      else model.set(`${key}`, hex(val));
    }
    const indexKey = metaSeqKey(t, steps[0]!.ino);
    fs.items.createForce(op, index, indexKey, new Uint8Array(0), steps[0]!.lock);
    model.set(`${indexKey}`, "");
  });
}

/** All test items of an inode in order, through `next`. */
function list(m: TestMount, ino: number, model: Map<string, string>) {
  const { fs } = m;
  return fs.runner.run((op: Op) => {
    const lock = fs.locks.inode(ino);
    op.lock(lock, LOCK_READ);
    const found: [string, string][] = [];
    const last = testKey(ino, 2 ** 40);
    for (let key = testKey(ino, 0);;) {
      const item = fs.items.next(op, lock, key, last);
      if (item === null) break;
      found.push([`${item.key}`, hex(item.val)]);
      key = item.key.inc();
    }
    const expected: [string, string][] = [];
    for (let n = 0; n < ITEMS; n++) {
      const val = model.get(`${testKey(ino, n)}`);
      if (val !== undefined) expected.push([`${testKey(ino, n)}`, val]);
    }
    assert.deepEqual(found, expected);
  });
}

async function torture(seed: number, mounts: number, steps: number): Promise<void> {
  const random = new SeededRandom(seed);
  const cluster = await LocalCluster.make({ seed, metaBytes: 128 << 20, dataBytes: 256 << 20 });
  const model = new Map<string, string>();
  const all: TestMount[] = [];
  for (let i = 0; i < mounts; i++) {
    const limits = {
      itemCacheBytes: 4000,
      dirtyItemBytes: 20000,
      blockCacheBytes: 4 << 20,
      dataCacheBytes: 0,
    };
    all.push(await mount(cluster, { suspendPerMille: 60, limits }));
  }
  let pending: (void | Promise<void>)[] = [];
  for (let step = 0; step < steps; step++) {
    const m = all[random.below(mounts)]!;
    const what = random.below(20);
    if (what < 14) pending.push(change(m, model, random));
    else if (what < 17) pending.push(list(m, INOS[random.below(INOS.length)]!, model));
    else if (what === 17) pending.push(m.fs.trans.sync());
    else if (what === 18) pending.push(cluster.timers.advance(random.below(4000)));
    if (random.below(6) === 0) {
      await Promise.all(pending);
      pending = [];
      await settle();
      for (const { fs } of all) {
        assert.equal(fs.runner.active, 0);
        if (fs.trans.state === "open") verifyItems(fs.items, fs.locks.all());
      }
    }
  }
  await Promise.all(pending);
  for (const m of all) assert.deepEqual(m.lines, []);
  for (const m of all) await unmount(cluster, m);

  const reader = await mount(cluster);
  for (const ino of INOS) await list(reader, ino, model);
  const seqs = [...model.keys()].filter((k) => k.startsWith("4.0.4.")).map((k) =>
    Number(k.split(".")[3])
  );
  for (const seq of new Set(seqs)) {
    await reader.fs.runner.run((op: Op) => {
      const lock = reader.fs.locks.index(TYPE_INODE_INDEX_META_SEQ, seq);
      op.lock(lock, LOCK_READ);
      for (const ino of INOS) {
        const item = reader.fs.items.lookup(op, lock, metaSeqKey(seq, ino));
        assert.equal(item !== null, model.has(`${metaSeqKey(seq, ino)}`), `index ${seq} ${ino}`);
      }
    });
  }
  await unmount(cluster, reader);
  assert.deepEqual(checkOwnership(cluster.meta).problems, []);
  cluster.stop();
}

for (let seed = 1; seed <= 6; seed++) {
  Deno.test(`engine: one mount, random operations, seed ${seed}`, () => torture(seed, 1, 600));
  Deno.test(`engine: three mounts, random operations, seed ${seed}`, () => torture(seed, 3, 600));
}

/** Many items under few inodes, changed many at a time: pages split, shrink, join and are evicted. */
async function bulk(seed: number): Promise<void> {
  const random = new SeededRandom(seed);
  const cluster = await LocalCluster.make({ seed, metaBytes: 2 ** 30, dataBytes: 256 << 20 });
  const limits = {
    itemCacheBytes: 60000,
    dirtyItemBytes: 200000,
    blockCacheBytes: 8 << 20,
    dataCacheBytes: 0,
  };
  const m = await mount(cluster, { limits, suspendPerMille: seed % 2 === 0 ? 5 : 0 });
  const { fs } = m;
  const ino = 7000;
  const lock = () => fs.locks.inode(ino);
  const model = new Map<number, string>();
  const range = 6000;
  for (let step = 0; step < 150; step++) {
    const what = random.below(5);
    const from = random.below(range);
    const stride = what === 0 ? 1 : 1 + random.below(40);
    const count = 1 + random.below(200);
    const vals = Array.from({ length: count }, () => value(random));
    await fs.runner.run((op: Op) => {
      op.lock(lock(), LOCK_WRITE);
      const found = vals.map((_, i) => {
        const n = from + i * stride;
        const item = fs.items.lookup(op, lock(), testKey(ino, n));
        assert.equal(item === null ? undefined : hex(item.val), model.get(n));
        return item !== null;
      });
      op.hold({ allocating: true, items: count });
      op.apply();
      vals.forEach((val, i) => {
        const n = from + i * stride;
        const key = testKey(ino, n);
        if (what >= 3 && found[i]) {
          fs.items.delete(op, lock(), key);
          model.delete(n);
        } else if (what < 3) {
          if (found[i]) fs.items.update(op, lock(), key, val);
          else fs.items.create(op, lock(), key, val);
          model.set(n, hex(val));
        }
      });
    });
    if (random.below(5) === 0) await fs.trans.commit();
    if (random.below(10) === 0) await cluster.timers.advance(random.below(20000));
    if (fs.trans.state === "open") verifyItems(fs.items, fs.locks.all());
    if (fs.items.dirtyItems === 0 && fs.trans.state === "open") {
      for (let i = 0; i < 100; i++) fs.items.trim();
      assert.ok(fs.items.bytes <= limits.itemCacheBytes, "clean items are evicted to the limit");
    }
  }
  const check = (who: TestMount) =>
    who.fs.runner.run((op: Op) => {
      const l = who.fs.locks.inode(ino);
      op.lock(l, LOCK_READ);
      const found: [number, string][] = [];
      for (let key = testKey(ino, 0);;) {
        const item = who.fs.items.next(op, l, key, l.end);
        if (item === null) break;
        found.push([item.key.second, hex(item.val)]);
        key = item.key.inc();
      }
      assert.deepEqual(found, [...model].sort((a, b) => a[0] - b[0]));
    });
  await check(m);
  const other = await mount(cluster);
  await check(other);
  for (const who of [m, other]) await unmount(cluster, who);
  assert.deepEqual(checkOwnership(cluster.meta).problems, []);
  cluster.stop();
}

for (let seed = 1; seed <= 4; seed++) {
  Deno.test(`engine: large pages, seed ${seed}`, () => bulk(seed));
}

Deno.test("an operation whose locks and items are cached runs without a promise", async () => {
  const cluster = await LocalCluster.make();
  const m = await mount(cluster);
  const model = new Map<string, string>();
  const random = new SeededRandom(3);
  for (let i = 0; i < 200; i++) await change(m, model, random);
  const sent = cluster.requests.length;
  for (let i = 0; i < 200; i++) assert.equal(change(m, model, random), undefined);
  assert.equal(cluster.requests.length, sent);
  await unmount(cluster, m);
});

Deno.test("failing or waiting after apply is a defect that ends the mount", async () => {
  const cluster = await LocalCluster.make();
  for (const misdeed of ["throw", "wait", "read"]) {
    const m = await mount(cluster);
    const { fs } = m;
    let defects = 0;
    fs.hooks.onDefect = () => defects++;
    await assert.rejects(async () =>
      await fs.runner.run((op: Op) => {
        const lock = fs.locks.inode(5000);
        op.lock(lock, LOCK_WRITE);
        op.hold({ allocating: false });
        op.apply();
        if (misdeed === "throw") throw new FsError(5);
        if (misdeed === "wait") op.wait(Promise.resolve());
        fs.items.lookup(op, lock, testKey(5000, 1));
      }), AssertionError);
    assert.equal(defects, 1);
    assert.equal(fs.trans.state, "dead");
    await cluster.disconnect(m.link);
  }
});

Deno.test("gathers that differ between two runs are found in paranoid mode", async () => {
  const cluster = await LocalCluster.make();
  const m = await mount(cluster, { suspendPerMille: 0 });
  const { fs } = m;
  let runs = 0;
  await assert.rejects(async () =>
    await fs.runner.run((op: Op) => {
      const lock = fs.locks.inode(5000);
      op.lock(lock, LOCK_READ);
      if (runs++ % 2 === 0) fs.items.lookup(op, lock, testKey(5000, 1));
    }), AssertionError);
  await unmount(cluster, m);
});

Deno.test("a cancelled operation stops waiting for a lock and leaves nothing pinned", async () => {
  const cluster = await LocalCluster.make();
  const [a, b] = [await mount(cluster), await mount(cluster)];
  let release = () => {};
  const blocker = new Promise<void>((resolve) => release = resolve);
  let first = true;
  const held = a.fs.runner.run((op: Op) => {
    op.lock(a.fs.locks.inode(5000), LOCK_WRITE);
    if (first) {
      first = false;
      op.waitPinned(blocker);
    }
  });
  await settle();
  const cancel = new Cancel();
  const waiting = b.fs.runner.run(
    (op: Op) => op.lock(b.fs.locks.inode(5000), LOCK_READ),
    null,
    cancel,
  );
  await settle();
  assert.equal(b.fs.runner.active, 1);
  cancel.cancel();
  await assert.rejects(async () => await waiting, (e) => e instanceof FsError && e.errno === 4);
  assert.equal(b.fs.runner.active, 0);
  release();
  await held;
  await settle();
  // The lock came and nobody wanted it any more: it can go again at once.
  await a.fs.runner.run((op: Op) => op.lock(a.fs.locks.inode(5000), LOCK_WRITE));
  for (const m of [a, b]) await unmount(cluster, m);
});

Deno.test("what an operation has pinned stays while it waits", async () => {
  const cluster = await LocalCluster.make();
  const [a, b] = [await mount(cluster), await mount(cluster)];
  await a.fs.runner.run((op: Op) => op.lock(a.fs.locks.inode(5000), LOCK_WRITE));
  let release = () => {};
  const blocker = new Promise<void>((resolve) => release = resolve);
  let runs = 0;
  const held = a.fs.runner.run((op: Op) => {
    op.lock(a.fs.locks.inode(5000), LOCK_WRITE);
    if (++runs === 1) op.waitPinned(blocker);
  });
  let taken = false;
  const waiting = Promise.resolve(
    b.fs.runner.run((op: Op) => op.lock(b.fs.locks.inode(5000), LOCK_READ)),
  ).then(() => taken = true);
  await settle();
  assert.equal(taken, false);
  release();
  await held;
  await waiting;
  assert.equal(runs, 2);
  for (const m of [a, b]) await unmount(cluster, m);
});

Deno.test("locks asked for in opposite orders by two mounts do not deadlock", async () => {
  const cluster = await LocalCluster.make();
  const mounts = [await mount(cluster), await mount(cluster)];
  const jobs: unknown[] = [];
  for (let i = 0; i < 200; i++) {
    const { fs } = mounts[i % 2]!;
    const order = i % 4 < 2 ? [5000, 9000, 20000] : [20000, 9000, 5000];
    jobs.push(fs.runner.run((op: Op) => {
      for (const ino of order) op.lock(fs.locks.inode(ino), LOCK_WRITE);
    }));
    if (i % 7 === 0) await null;
  }
  await Promise.all(jobs);
  for (const m of mounts) await unmount(cluster, m);
});

Deno.test("an idle mount commits every ten seconds; sync of a clean one sends nothing", async () => {
  const cluster = await LocalCluster.make();
  const m = await mount(cluster);
  const sent = cluster.requests.length;
  await m.fs.trans.sync();
  assert.equal(cluster.requests.length, sent);
  for (let i = 1; i <= 3; i++) {
    await cluster.timers.advance(9999);
    assert.equal(m.fs.trans.commits, i - 1);
    await cluster.timers.advance(1);
    await settle();
    assert.equal(m.fs.trans.commits, i);
    await cluster.timers.advance(0);
  }
  await unmount(cluster, m);
});
