/** Repair of what lies below the items: blocks, trees, allocators, what crashed mounts leave. */

import assert from "node:assert/strict";
import { AllocListBlock } from "../../format/alloc.ts";
import { sealBlock } from "../../format/crc32c.ts";
import { create } from "../../fs/ops/names.ts";
import { LocalCluster } from "../helpers/local_cluster.ts";
import { LocalFs, newLocalFs } from "../helpers/local_fs.ts";
import { checkVolume, isSound } from "../../fs/check/check.ts";
import { repairVolume } from "../../fs/check/repair/repair.ts";
import {
  firstItem,
  insertItem,
  itemKey,
  itemSeq,
  itemVal,
  nextItem,
} from "../../format/btree_block.ts";
import {
  LG_SIZE,
  SM_SIZE,
  SUPER_BLKNO,
  TYPE_DATA_EXTENT,
  ZONE_FS,
  ZONE_INODE_INDEX,
} from "../../format/constants.ts";
import { walkBlocks } from "../../fs/btree.ts";
import { LogTrees, logTreesKey } from "../../format/log_trees.ts";
import { DeviceError } from "../../fs/errors.ts";
import { MemDevice } from "../../fs/memory_device.ts";
import { generate, generatedSize } from "./generate.ts";
import { Key } from "../../format/key.ts";
import { forEachCrash } from "./crash_points.ts";
import { makeSample } from "./sample.ts";
import {
  bytes,
  copyOf,
  fill,
  healthyVolume,
  manifest,
  mustKeep,
  mustMend,
  problemsOf,
  repairOptions,
  Surgeon,
  type Volume,
} from "./repair_support.ts";

interface Case {
  readonly name: string;
  readonly codes: readonly string[];
  readonly touched?: readonly string[];
  damage(s: Surgeon, v: Volume): void;
}

/** Leaves of the log tree that has most of them. */
function logLeaves(s: Surgeon): number[] {
  let most: number[] = [];
  for (const { name, root } of s.itemTrees()) {
    if (name !== "log" || root.height === 0) continue;
    const leaves = s.blocksOf(root).filter((b) => b.level === 0).map((b) => b.blkno);
    if (leaves.length > most.length) most = leaves;
  }
  return most;
}

const CASES: readonly Case[] = [
  {
    name: "total_len of free extents",
    codes: ["extent-total"],
    damage: (s) => s.editSuper((sb) => sb.metaAlloc(0).totalLen += 3),
  },
  {
    name: "total_len of free data extents",
    codes: ["extent-total"],
    damage: (s) => s.editSuper((sb) => sb.dataAlloc.totalLen -= 3),
  },
  {
    name: "a free list that forgot its blocks",
    codes: ["meta-leak"],
    damage: (s) =>
      s.editSuper((sb) => {
        for (let i = 0; i < 2; i++) sb.serverMetaFreed(i).zero();
        sb.serverMetaAvail(0).zero();
      }),
  },
  {
    name: "free data extents that are gone",
    codes: ["data-leak"],
    damage: (s) => s.editSuper((sb) => sb.dataAlloc.zero()),
  },
  {
    name: "free metadata extents that are gone",
    codes: ["meta-leak"],
    damage: (s) =>
      s.editSuper((sb) => {
        sb.metaAlloc(0).zero();
        sb.metaAlloc(1).zero();
      }),
  },
  {
    name: "a block in use that is listed as free",
    codes: ["meta-free-in-use"],
    damage: (s) => {
      const sb = s.superBlock(), leaf = logLeaves(s)[0] as number;
      for (let i = 0; i < 2; i++) {
        const head = sb.serverMetaAvail(i);
        if (head.ref.isNull || head.firstNr === 0) continue;
        s.editBlock(head.ref.blkno, ({ v }) => {
          const list = new AllocListBlock(v);
          list.setEntry(list.start, leaf);
        });
        return;
      }
    },
  },
  {
    name: "a leaf with a wrong checksum",
    codes: ["block-crc"],
    damage: (s) => s.editBlock(logLeaves(s)[0] as number, ({ buf }) => void (buf[0]! ^= 1), false),
  },
  {
    name: "a leaf whose hash table is wrong",
    codes: ["btree-hash"],
    damage: (s) => s.editBlock(logLeaves(s)[0] as number, ({ buf }) => buf.fill(0, 65536 - 1000)),
  },
  {
    name: "a block of the tree of log trees with a wrong checksum",
    codes: ["block-crc"],
    damage: (s) =>
      s.editBlock(s.superBlock().logsRoot.ref.blkno, ({ buf }) => void (buf[0]! ^= 1), false),
  },
  {
    name: "the block of free extents is of another kind",
    codes: ["block-magic"],
    damage: (s) =>
      s.editBlock(s.superBlock().metaAlloc(0).root.ref.blkno, ({ buf }) => buf.fill(7)),
  },
  {
    name: "a bloom block that does not exist",
    codes: ["ref-range"],
    damage: (s) =>
      s.editBlock(s.superBlock().logsRoot.ref.blkno, (b) => {
        for (let item = firstItem(b); item !== 0; item = nextItem(b, item)) {
          LogTrees.at(itemVal(b, item)).bloomRef.blkno += 2 ** 40;
        }
      }),
  },
  {
    name: "padding and flags of the super block",
    codes: ["root-pad"],
    damage: (s) => s.editSuper((sb) => void (sb.fsRoot.bytes[20] = 1)),
  },
];

for (const c of CASES) {
  Deno.test(`repair: ${c.name}`, async () => {
    const v = await healthyVolume();
    const healthy = manifest(v.meta, v.data);
    c.damage(new Surgeon(v.meta), v);
    mustMend(v, healthy, c.codes, c.touched);
  });
}

Deno.test("repair: a lost leaf costs its items and nothing else", async () => {
  const v = await healthyVolume();
  const healthy = manifest(v.meta, v.data);
  const s = new Surgeon(v.meta), leaves = logLeaves(s);
  assert.ok(leaves.length > 2, `the log tree has ${leaves.length} leaves`);
  s.editBlock(leaves[1] as number, ({ buf }) => buf.fill(0));
  const result = repairVolume(v.meta, v.data, repairOptions());
  assert.ok(result.lossy);
  assert.deepEqual(problemsOf(v.meta, v.data), []);
  const now = manifest(v.meta, v.data);
  const kept = [...healthy].filter(([path, what]) => now.get(path) === what).length;
  assert.ok(kept * 4 > healthy.size, `only ${kept} of ${healthy.size} are left`);
});

Deno.test("repair: -p leaves alone what cannot be mended without loss", async () => {
  const v = await healthyVolume();
  const s = new Surgeon(v.meta);
  s.editBlock(logLeaves(s)[1] as number, ({ buf }) => buf.fill(0));
  const writes = v.meta.writes;
  const result = repairVolume(v.meta, v.data, repairOptions("safe"));
  assert.equal(result.lossy, false);
  assert.equal(result.stopped, null, "what may not be lost is no reason to stop");
  assert.ok(result.after.errors > 0);
  assert.equal(result.commits === 0, v.meta.writes === writes);
  const now = problemsOf(v.meta, v.data);
  assert.ok(now.some((p) => p.code.startsWith("block-")));
});

Deno.test("repair: -p clears what is reserved in the data device's super block", async () => {
  const v = await healthyVolume(), off = SUPER_BLKNO * SM_SIZE, sound = v.data.snapshot();
  const block = v.data.allocBuffer(SM_SIZE);
  v.data.read(block, off);
  block[32] = 7;
  block[SM_SIZE - 1] = 7;
  sealBlock(block);
  v.data.write(block, off);
  assert.ok(problemsOf(v.meta, v.data).every((p) => p.code === "super-reserved"));
  // Whichever read of it fails, that is the device's failure.
  let thrown = 0;
  for (let nth = 0, struck = true; struck; nth++) {
    const w = copyOf(v), read = w.data.read.bind(w.data);
    let reads = 0;
    w.data.read = (buf, at) => {
      if (at <= off && off < at + buf.length && reads++ === nth) {
        throw new DeviceError(w.data.name, "read error");
      }
      read(buf, at);
    };
    try {
      repairVolume(w.meta, w.data, repairOptions("safe"));
    } catch (e) {
      if (!(e instanceof DeviceError)) throw e;
      thrown++;
    }
    struck = reads > nth;
  }
  assert.ok(thrown > 0);
  const result = repairVolume(v.meta, v.data, repairOptions("safe"));
  assert.ok(isSound(result.after) && !result.lossy);
  assert.equal(result.commits, 1);
  assert.deepEqual(v.data.toImage(), sound.toImage());
});

Deno.test("repair: a crashed mount is recovered without its allocators", async () => {
  const m = await newLocalFs({ fmtVers: 2 });
  const inos = await fill(m, 1, 20);
  await m.sync();
  const { meta, data } = m.cluster;
  const v: Volume = { meta: meta.snapshot(), data: data.snapshot(), inos };
  const healthy = manifest(v.meta, v.data);
  assert.ok(!checkVolume(v.meta, v.data).cleanlyUnmounted);
  const result = repairVolume(v.meta, v.data, repairOptions("safe"));
  assert.ok(result.recovered);
  assert.ok(!result.lossy);
  assert.deepEqual(problemsOf(v.meta, v.data), []);
  assert.ok(checkVolume(v.meta, v.data).cleanlyUnmounted);
  mustKeep(v, healthy, []);
  m.fs.abort();
});

Deno.test("repair: a volume with merges and compactions under way is recovered", () => {
  const v: Volume = { ...makeSample(), inos: new Map() };
  const healthy = manifest(v.meta, v.data);
  const result = repairVolume(v.meta, v.data, repairOptions());
  assert.equal(result.stopped, null);
  assert.ok(result.recovered);
  assert.deepEqual(problemsOf(v.meta, v.data).map((p) => p.message), []);
  mustKeep(v, healthy, []);
});

Deno.test("repair: a crash at any write leaves a volume that a second run mends", async () => {
  const v = await healthyVolume();
  const healthy = manifest(v.meta, v.data);
  const s = new Surgeon(v.meta);
  s.editSuper((sb) => {
    sb.metaAlloc(0).totalLen += 9;
    sb.dataAlloc.zero();
  });
  s.editInode(v.inos.get("a")!, (i) => i.nlink = 77);
  s.editBlock(logLeaves(s)[0] as number, ({ buf }) => void (buf[0]! ^= 1), false);
  v.meta.startRecording();
  const whole = copyOf(v);
  whole.meta.startRecording();
  assert.equal(repairVolume(whole.meta, whole.data, repairOptions()).stopped, null);
  const points = whole.meta.log.length;
  assert.ok(points > 4, `${points} operations`);
  for (let at = 0; at <= points; at++) {
    for (const keep of [0, 1, 2]) {
      const meta = whole.meta.replayKeeping(at, (_, page) => keep === 0 || page % 2 === keep - 1);
      const crashed: Volume = { meta, data: whole.data.snapshot(), inos: v.inos };
      const again = repairVolume(crashed.meta, crashed.data, repairOptions());
      assert.equal(again.stopped, null, `after operation ${at}`);
      assert.deepEqual(problemsOf(crashed.meta, crashed.data).map((p) => p.message), []);
      mustKeep(crashed, healthy, []);
    }
  }
});

Deno.test("repair: a crash while shared data blocks are copied loses nothing", async () => {
  const v = await healthyVolume();
  const s = new Surgeon(v.meta), healthy = manifest(v.meta, v.data);
  const extentOf = (path: string): { key: Key; val: Uint8Array } => {
    const ino = v.inos.get(path)!;
    for (const { root } of s.itemTrees()) {
      const at = root.height === 0
        ? null
        : s.firstFrom(root, Key.of(ZONE_FS, ino, TYPE_DATA_EXTENT));
      if (at === null) continue;
      let key = Key.ZEROS;
      s.editBlock(at.blkno, (b) => void (key = itemKey(b, at.offset)));
      if (key.type === TYPE_DATA_EXTENT && key.first === ino) return { key, val: s.value(key)! };
    }
    throw new Error(`${path} has no extent`);
  };
  // The first extent of a larger file leads to the blocks of a smaller one, and the next ones.
  const one = extentOf("file12"), other = extentOf("a/b/file17");
  s.editItem(other.key, (val) => val.set(one.val));
  const broken = copyOf(v);
  const { dataWrites } = forEachCrash(
    v.meta,
    v.data,
    (meta, data) => assert.equal(repairVolume(meta, data, repairOptions()).stopped, null),
    (meta, data, name) => {
      assert.equal(repairVolume(meta, data, repairOptions()).stopped, null, name);
      assert.deepEqual(problemsOf(meta, data).map((p) => p.message), [], name);
      mustKeep({ meta, data, inos: v.inos }, healthy, ["/a/b/file17", "/a/b/hard"]);
    },
  );
  assert.ok(dataWrites > 0, "blocks were copied");
  assert.ok(problemsOf(broken.meta, broken.data).some((p) => p.code === "data-block-twice"));
});

Deno.test("repair: with little memory it takes more rounds to mend the same", () => {
  const inodes = 9000, { metaBlocks, dataBlocks } = generatedSize(inodes);
  const meta = new MemDevice(metaBlocks * LG_SIZE), data = new MemDevice(dataBlocks * SM_SIZE);
  generate(meta, data, inodes);
  const healthy = manifest(meta, data), s = new Surgeon(meta), sb = s.superBlock();
  assert.deepEqual(problemsOf(meta, data), []);
  // All leaves with nothing but index items, which can be made anew.
  let wiped = 0;
  walkBlocks({ cache: s.cache() }, sb.fsRoot, ({ blkno, level, hi }) => {
    if (level > 0 || hi.zone > ZONE_INODE_INDEX) return true;
    s.editBlock(blkno, ({ buf }) => buf.fill(0), false);
    wiped++;
    return true;
  });
  assert.ok(wiped > 3, `${wiped} leaves`);
  let rounds = 0;
  const result = repairVolume(meta, data, {
    ...repairOptions(),
    memory: 1 << 20,
    onRound: (n) => rounds = n,
  });
  assert.equal(result.stopped, null);
  assert.ok(rounds > 5, `${rounds} rounds`);
  assert.deepEqual(problemsOf(meta, data), []);
  assert.deepEqual([...manifest(meta, data)], [...healthy]);
});

Deno.test("repair: a mended volume can be mounted and used", async () => {
  const m = await newLocalFs({ fmtVers: 2 });
  const inos = await fill(m, 1, 30);
  await m.sync();
  await m.unmount();
  const { cluster } = m;
  const v: Volume = { meta: cluster.meta, data: cluster.data, inos };
  const s = new Surgeon(v.meta);
  s.editSuper((sb) => {
    sb.metaAlloc(0).zero();
    sb.dataAlloc.zero();
  });
  s.editInode(inos.get("a")!, (i) => i.size = 1);
  const healthy = manifest(v.meta, v.data);
  assert.equal(repairVolume(v.meta, v.data, repairOptions()).stopped, null);
  const again = await LocalFs.mount(await LocalCluster.open(v.meta, v.data));
  const more = await again.run((op, fs) => create(op, fs, 1, bytes("after"), 0o40755, 0));
  await fill(again, more, 12);
  await again.sync();
  await again.unmount();
  assert.deepEqual(problemsOf(v.meta, v.data).map((p) => p.message), []);
  mustKeep(v, healthy, []);
});

Deno.test("structure: a bloom block of two log trees, one of them empty", async () => {
  const v = await healthyVolume(), s = new Surgeon(v.meta), { logsRoot } = s.superBlock();
  const before = manifest(v.meta, v.data);
  const leaf = s.leafOf(logsRoot, Key.ZEROS) as number;
  s.editBlock(leaf, (b) => {
    const item = firstItem(b), first = LogTrees.at(itemVal(b, item));
    const other = LogTrees.at(itemVal(b, item).slice());
    other.nr = first.nr + 40;
    other.itemRoot.zero();
    for (const list of [other.metaAvail, other.metaFreed]) list.zero();
    for (const alloc of [other.dataAvail, other.dataFreed]) alloc.zero();
    other.srchFile.zero();
    other.inodeCountDelta = 0;
    insertItem(b, logTreesKey(other.rid, other.nr), itemSeq(b, item), 0, other.bytes);
  });
  const codes = problemsOf(v.meta, v.data).map((p) => p.code);
  assert.deepEqual([...new Set(codes)], ["meta-block-twice"]);
  const { stopped } = repairVolume(v.meta, v.data, repairOptions());
  assert.equal(stopped, null);
  assert.deepEqual(problemsOf(v.meta, v.data), []);
  assert.deepEqual([...manifest(v.meta, v.data)], [...before]);
});
