/**
 * Lost and damaged blocks of item trees: what a repair finds again. A lost parent or root costs
 * nothing, a lost leaf what no older copy of it has, and nothing that was deleted comes back.
 */

import assert from "node:assert/strict";
import { BlockRef } from "../../format/block.ts";
import {
  firstItem,
  HEIGHT,
  itemVal,
  KEY,
  MID_FREE_LEN,
  nextItem,
} from "../../format/btree_block.ts";
import {
  BTREE_HEADER_BYTES,
  BTREE_ITEM_BYTES,
  LEAF_ITEM_HASH_OFF,
  LG_SIZE,
  MAGIC_SUPER,
  SM_SIZE,
} from "../../format/constants.ts";
import { Key } from "../../format/key.ts";
import type { Device } from "../../fs/device.ts";
import { isSound } from "../../fs/check/check.ts";
import { type RepairResult, repairVolume } from "../../fs/check/repair/repair.ts";
import { create, unlink } from "../../fs/ops/names.ts";
import { useFastCrc32c } from "../../fs/sys/crc.ts";
import { openDevice } from "../../fs/sys/device.ts";
import { goldenImages, type GoldenName, goldenTest } from "../helpers/golden.ts";
import { LocalCluster } from "../helpers/local_cluster.ts";
import { LocalFs, newLocalFs } from "../helpers/local_fs.ts";
import { ImageCache, OverlayDevice } from "../helpers/overlay_device.ts";
import { readBlock } from "./damage.ts";
import {
  bytes,
  copyOf,
  fill,
  healthyVolume,
  manifest,
  problemsOf,
  repairOptions,
  Surgeon,
  type Volume,
} from "./repair_support.ts";
import { makeSample } from "./sample.ts";

interface Devices {
  readonly meta: Device;
  readonly data: Device;
}

/** Ways in which a block is lost. */
const LOSSES: readonly (readonly [name: string, damage: (buf: Uint8Array) => void])[] = [
  ["wiped", (buf) => buf.fill(0)],
  ["torn", (buf) => buf.fill(0xa5, 32768)],
  ["overwritten at its start", (buf) => buf.fill(0xff, 0, 4096)],
];

function lose(meta: Device, blkno: number, damage: (buf: Uint8Array) => void): void {
  new Surgeon(meta).editBlock(blkno, ({ buf }) => damage(buf), false);
}

interface Kept {
  readonly result: RepairResult;
  /** Files that are what they were, and those that are not. */
  readonly same: number;
  readonly lost: readonly string[];
  /** Paths that there were none of, but those below lost+found. */
  readonly risen: readonly string[];
}

/** One run mends everything, a second one finds nothing to do; what is left of the files. */
function mend(v: Devices, healthy: ReadonlyMap<string, string>, what: string): Kept {
  const found = problemsOf(v.meta, v.data);
  assert.ok(found.length > 0, `${what} is not noticed`);
  const result = repairVolume(v.meta, v.data, repairOptions());
  assert.equal(result.stopped, null, what);
  assert.deepEqual(problemsOf(v.meta, v.data).map((p) => p.message), [], what);
  const again = repairVolume(v.meta, v.data, repairOptions());
  assert.ok(isSound(again.before), what);
  assert.equal(again.commits, 0, what);
  const now = manifest(v.meta, v.data);
  const lost = [...healthy].filter(([path, is]) => now.get(path) !== is).map(([path]) => path);
  const risen = [...now.keys()].filter((p) => !healthy.has(p) && !p.startsWith("/lost+found"));
  return { result, same: healthy.size - lost.length, lost, risen };
}

function itemBlocks(meta: Device, wanted: (level: number) => boolean): number[] {
  const s = new Surgeon(meta);
  return s.itemTrees().flatMap(({ root }) => root.height === 0 ? [] : s.blocksOf(root))
    .filter(({ level }) => wanted(level)).map(({ blkno }) => blkno);
}

/** Each parent and root of `make`'s item trees is lost in each way; nothing is missing afterwards. */
function losingParentsCostsNothing(make: () => Devices): void {
  const v = make(), healthy = manifest(v.meta, v.data);
  const parents = itemBlocks(v.meta, (level) => level > 0);
  assert.ok(parents.length > 0);
  for (const blkno of parents) {
    for (const [name, damage] of LOSSES) {
      const broken = make();
      lose(broken.meta, blkno, damage);
      const { lost, risen } = mend(broken, healthy, `block ${blkno} ${name}`);
      assert.deepEqual(lost, [], `block ${blkno} ${name}`);
      assert.deepEqual(risen, []);
    }
  }
}

Deno.test("salvage: a lost parent of a log tree costs nothing", async () => {
  const v = await healthyVolume();
  losingParentsCostsNothing(() => copyOf(v));
});

Deno.test("salvage: lost parents beside merges and open log trees cost nothing", () => {
  losingParentsCostsNothing(makeSample);
});

Deno.test("salvage: all roots and parents lost at once cost nothing", () => {
  const v = makeSample(), healthy = manifest(v.meta, v.data);
  const parents = itemBlocks(v.meta, (level) => level > 0);
  for (const blkno of parents) lose(v.meta, blkno, (buf) => buf.fill(0));
  const { lost, risen } = mend(v, healthy, `${parents.length} blocks`);
  assert.deepEqual(lost, []);
  assert.deepEqual(risen, []);
});

/** What a leaf of items can be read without, broken. */
const SLIPS: readonly (readonly [name: string, slip: (buf: Uint8Array) => void])[] = [
  ["the height of an item", (buf) => void (buf[BTREE_HEADER_BYTES + HEIGHT]! ^= 130)],
  ["the free middle", (buf) => void (buf[MID_FREE_LEN]! ^= 128)],
  ["the version of an item", (buf) => void (buf[BTREE_HEADER_BYTES + 47] = 0x7f)],
  ["padding", (buf) => void (buf[BTREE_HEADER_BYTES + BTREE_ITEM_BYTES - 1] = 1)],
  ["the hash table", (buf) => {
    const table = new Uint16Array(buf.slice(LEAF_ITEM_HASH_OFF).buffer);
    const from = table.findIndex((item) => item !== 0), to = table.indexOf(0);
    const v = new DataView(buf.buffer, buf.byteOffset + LEAF_ITEM_HASH_OFF);
    v.setUint16(2 * to, table[from] as number, true);
    v.setUint16(2 * from, 0, true);
  }],
];

Deno.test("salvage: a leaf with a slip, below a parent with two keys exchanged, costs nothing", async () => {
  const v = await healthyVolume(), healthy = manifest(v.meta, v.data);
  const slips = SLIPS.filter(([name]) => /height|middle|hash/.test(name));
  let tried = 0;
  for (const parent of itemBlocks(v.meta, (level) => level > 0)) {
    const block = readBlock(v.meta, parent), items: number[] = [];
    for (let i = firstItem(block); i !== 0; i = nextItem(block, i)) items.push(i);
    for (const [n, item] of items.slice(0, -2).entries()) {
      const next = items[n + 1] as number, child = BlockRef.at(itemVal(block, item)).blkno;
      for (const [name, slip] of slips) {
        const broken = copyOf(v), s = new Surgeon(broken.meta);
        s.editBlock(child, (b) => slip(b.buf));
        s.editBlock(parent, (b) => {
          const key = b.buf.slice(item + KEY, item + KEY + Key.SIZE);
          b.buf.copyWithin(item + KEY, next + KEY, next + KEY + Key.SIZE);
          b.buf.set(key, next + KEY);
        });
        const what = `${name} of block ${child} below ${parent}`;
        const { lost, risen } = mend(broken, healthy, what);
        assert.deepEqual(lost, [], what);
        assert.deepEqual(risen, [], what);
        tried++;
      }
    }
  }
  assert.ok(tried > 5, `${tried} volumes`);
});

Deno.test("salvage: below a lost parent a leaf that can be read costs nothing", async () => {
  const v = await healthyVolume(), healthy = manifest(v.meta, v.data);
  const parents = itemBlocks(v.meta, (level) => level > 0);
  const leaves = itemBlocks(v.meta, (level) => level === 0);
  for (const [name, slip] of SLIPS) {
    for (const leaf of leaves) {
      const broken = copyOf(v), what = `${name} of leaf ${leaf}`;
      new Surgeon(broken.meta).editBlock(leaf, ({ buf }) => slip(buf));
      for (const blkno of parents) lose(broken.meta, blkno, (buf) => buf.fill(0));
      const { lost, risen } = mend(broken, healthy, what);
      assert.deepEqual(lost, [], what);
      assert.deepEqual(risen, []);
    }
  }
});

Deno.test("salvage: without the tree of log trees their leaves are found", async () => {
  const v = await healthyVolume();
  const healthy = manifest(v.meta, v.data);
  lose(v.meta, new Surgeon(v.meta).superBlock().logsRoot.ref.blkno, (buf) => buf.fill(0));
  const { lost, risen } = mend(v, healthy, "logs_root");
  assert.deepEqual(lost, []);
  assert.deepEqual(risen, []);
});

Deno.test("salvage: a block whose header alone is damaged costs nothing", async () => {
  const v = await healthyVolume();
  const healthy = manifest(v.meta, v.data);
  for (const blkno of itemBlocks(v.meta, () => true)) {
    const broken = copyOf(v);
    lose(broken.meta, blkno, (buf) => void (buf[10]! ^= 0x40, buf[17]! ^= 1, buf[25]! ^= 1));
    assert.deepEqual(mend(broken, healthy, `header of block ${blkno}`).lost, []);
  }
});

Deno.test("salvage: a page of a leaf that cannot be read costs no more than one of zeros", async () => {
  const v = await healthyVolume();
  const healthy = manifest(v.meta, v.data);
  const leaf = itemBlocks(v.meta, (level) => level === 0).at(-1) as number;
  for (const page of [1, 12]) {
    const from = leaf * LG_SIZE + page * SM_SIZE, to = from + SM_SIZE;
    const broken = copyOf(v), zeroed = copyOf(v);
    broken.meta.inject({ op: "read", kind: "fail", nth: 0, sticky: true, from, to });
    zeroed.meta.write(zeroed.meta.allocBuffer(SM_SIZE), from);
    const { lost } = mend(broken, healthy, `page ${page} of block ${leaf}`);
    assert.deepEqual(lost, mend(zeroed, healthy, `zeros in page ${page} of block ${leaf}`).lost);
  }
});

Deno.test("salvage: blocks that cannot be read", async () => {
  const v = await healthyVolume();
  const healthy = manifest(v.meta, v.data);
  for (const blkno of itemBlocks(v.meta, () => true)) {
    const broken = copyOf(v), from = blkno * LG_SIZE, to = from + LG_SIZE;
    broken.meta.inject({ op: "read", kind: "fail", nth: 0, sticky: true, from, to });
    const isLeaf = itemBlocks(v.meta, (level) => level === 0).includes(blkno);
    const { lost } = mend(broken, healthy, `block ${blkno}`);
    assert.ok(isLeaf ? lost.length < healthy.size : lost.length === 0, `${blkno}: ${lost}`);
  }
});

/** A volume in which most leaves have older copies, and files were deleted and moved since. */
async function agedVolume(): Promise<Volume & { deleted: readonly string[] }> {
  const m = await newLocalFs({ fmtVers: 2 });
  const inos = await fill(m, 1);
  await m.sync();
  const doomed: string[] = [];
  for (let i = 0; i < 20; i++) {
    const name = `doomed${i}`;
    const ino = await m.run((op, fs) => create(op, fs, 1, bytes(name), 0o100644, 0));
    m.fs.refs.forget(ino, 1);
    doomed.push(`/${name}`);
  }
  await m.sync();
  for (const path of doomed) {
    await m.run((op, fs) => unlink(op, fs, 1, bytes(path.slice(1))));
  }
  await m.sync();
  await m.unmount();
  const { meta, data } = m.cluster;
  return { meta: meta.snapshot(), data: data.snapshot(), inos, deleted: doomed };
}

Deno.test("salvage: older copies fill a lost leaf, what was deleted stays deleted", async () => {
  const v = await agedVolume(), healthy = manifest(v.meta, v.data);
  let files = 0, kept = 0, fromCopies = 0;
  for (const blkno of itemBlocks(v.meta, (level) => level === 0)) {
    for (const [name, damage] of LOSSES) {
      const broken = copyOf(v), lines: string[] = [];
      lose(broken.meta, blkno, damage);
      const probe = copyOf(broken);
      repairVolume(probe.meta, probe.data, { ...repairOptions(), log: (l) => lines.push(l) });
      if (lines.some((l) => /older copies/.test(l))) fromCopies++;
      const { same, risen } = mend(broken, healthy, `leaf ${blkno} ${name}`);
      assert.deepEqual(risen.filter((p) => v.deleted.includes(p)), [], `leaf ${blkno} ${name}`);
      files += healthy.size;
      kept += same;
    }
  }
  assert.ok(fromCopies > 0, "older copies were of use");
  assert.ok(kept / files > 0.85, `${kept} of ${files} files were kept`);
});

Deno.test("salvage: where all leaves are found no older copy is used", async () => {
  const v = await agedVolume();
  losingParentsCostsNothing(() => copyOf(v));
});

Deno.test("salvage: -p takes nothing from copies and attaches nothing", async () => {
  const v = await healthyVolume();
  lose(v.meta, itemBlocks(v.meta, (level) => level > 0)[0] as number, (buf) => buf.fill(0));
  const before = problemsOf(v.meta, v.data).length;
  const result = repairVolume(v.meta, v.data, repairOptions("safe"));
  assert.equal(result.lossy, false);
  assert.ok(before > 0 && !isSound(result.after));
});

Deno.test("salvage: a crash at any write leaves a volume that a second run mends as well", async () => {
  const v = await healthyVolume(), healthy = manifest(v.meta, v.data);
  for (const blkno of itemBlocks(v.meta, (level) => level > 0)) {
    lose(v.meta, blkno, (buf) => buf.fill(0));
  }
  v.meta.startRecording();
  assert.equal(repairVolume(v.meta, v.data, repairOptions()).stopped, null);
  const points = v.meta.log.length;
  for (let at = 0; at <= points; at++) {
    for (const keep of [0, 1, 2]) {
      const meta = v.meta.replayKeeping(at, (_, page) => keep === 0 || page % 2 === keep - 1);
      const crashed = { meta, data: v.data.snapshot() };
      assert.equal(repairVolume(meta, crashed.data, repairOptions()).stopped, null);
      assert.deepEqual(problemsOf(meta, crashed.data).map((p) => p.message), []);
      assert.deepEqual([...manifest(meta, crashed.data)], [...healthy], `after operation ${at}`);
    }
  }
});

Deno.test("salvage: what was attached again can be mounted, changed and deleted", async () => {
  const m = await newLocalFs({ fmtVers: 2 });
  const inos = await fill(m, 1, 30);
  await m.sync();
  await m.unmount();
  const v: Volume = { meta: m.cluster.meta, data: m.cluster.data, inos };
  const healthy = manifest(v.meta, v.data);
  for (const blkno of itemBlocks(v.meta, (level) => level > 0)) {
    lose(v.meta, blkno, (buf) => buf.fill(0));
  }
  assert.deepEqual(mend(v, healthy, "parents").lost, []);
  const again = await LocalFs.mount(await LocalCluster.open(v.meta, v.data));
  await again.run((op, fs) => unlink(op, fs, 1, bytes("file3")));
  const dir = await again.run((op, fs) => create(op, fs, 1, bytes("after"), 0o40755, 0));
  await fill(again, dir, 12);
  await again.sync();
  await again.unmount();
  assert.deepEqual(problemsOf(v.meta, v.data).map((p) => p.message), []);
  const now = manifest(v.meta, v.data);
  assert.ok(!now.has("/file3"));
  for (const [path, is] of healthy) if (path !== "/file3") assert.equal(now.get(path), is);
});

/** Overlays of a golden volume. */
function goldenVolume(name: GoldenName): { make: () => Devices; close: () => void } {
  const images = goldenImages(name);
  const meta = new ImageCache(openDevice(images.meta, { write: false }));
  const data = new ImageCache(openDevice(images.data, { write: false }));
  return {
    make: () => ({ meta: new OverlayDevice(meta), data: new OverlayDevice(data) }),
    close() {
      meta.close();
      data.close();
    },
  };
}

for (const name of ["features-v2", "crash", "tall"] as const) {
  goldenTest(`salvage: golden ${name} without a root or parent`, async () => {
    await useFastCrc32c();
    const { make, close } = goldenVolume(name);
    const v = make(), healthy = manifest(v.meta, v.data);
    const parents = itemBlocks(v.meta, (level) => level > 0);
    for (const [i, blkno] of parents.entries()) {
      const [how, damage] = LOSSES[i % LOSSES.length] as typeof LOSSES[0];
      const broken = make();
      lose(broken.meta, blkno, damage);
      const { lost } = mend(broken, healthy, `block ${blkno} ${how}`);
      assert.deepEqual(lost, [], `block ${blkno} ${how}`);
    }
    const sb = new Surgeon(v.meta).superBlock();
    assert.equal(sb.hdr.magic, MAGIC_SUPER);
    close();
  });
}

goldenTest("salvage: golden tall has older copies of its leaves", async () => {
  await useFastCrc32c();
  const { make, close } = goldenVolume("tall");
  const v = make(), healthy = manifest(v.meta, v.data), s = new Surgeon(v.meta);
  const leaves = s.blocksOf(s.superBlock().fsRoot).filter(({ level }) => level === 0);
  let lostFiles = 0, tried = 0;
  for (let i = 0; i < leaves.length; i += 300) {
    const broken = make();
    lose(broken.meta, leaves[i]!.blkno, (buf) => buf.fill(0));
    lostFiles += mend(broken, healthy, `leaf ${leaves[i]!.blkno}`).lost.length;
    tried++;
  }
  assert.ok(tried >= 4 && lostFiles <= tried, `${lostFiles} files lost by ${tried} leaves`);
  close();
});
