/**
 * Volumes with hardly a free metadata block: what can be mended in a few blocks is mended, else nothing
 * is half done, it is said what to do, and doing it helps.
 */

import assert from "node:assert/strict";
import { LG_SIZE, SM_SIZE } from "../../format/constants.ts";
import { isSound, runCheck } from "../../fs/check/check.ts";
import { type RepairResult, repairVolume } from "../../fs/check/repair/repair.ts";
import { VolumeReader } from "../../fs/reader.ts";
import { openVolume } from "../../fs/volume.ts";
import { MemDevice } from "../../fs/memory_device.ts";
import { useFastCrc32c } from "../../fs/sys/crc.ts";
import { SeededRandom } from "../helpers/sim_reactor.ts";
import { newLocalFs } from "../helpers/local_fs.ts";
import { generate, generatedSize } from "./generate.ts";
import { fill, manifest, problemsOf, repairOptions, Surgeon } from "./repair_support.ts";
import { editSuper, wipe } from "./supers_support.ts";

/** Just beyond what a volume has at least. */
const INODES = 86_500;
/** What mending any of this takes. */
const ENOUGH = 12;

interface Volume {
  readonly meta: MemDevice;
  readonly data: MemDevice;
}

let made: Promise<{ volume: Volume; end: number }> | null = null;

async function makeBase(): Promise<{ volume: Volume; end: number }> {
  await useFastCrc32c();
  const { metaBlocks, dataBlocks } = generatedSize(INODES);
  const meta = new MemDevice(metaBlocks * LG_SIZE), data = new MemDevice(dataBlocks * SM_SIZE);
  generate(meta, data, INODES);
  let end = 0;
  runCheck(meta, data).cx?.owners.forEachRun(2, (start, len, kind) => {
    if (kind === 1) end = start + len;
  });
  return { volume: { meta, data }, end };
}

/** A sound volume with `free` free blocks on a device with `spare` blocks more than it uses. */
async function fullVolume(free: number, spare = 0): Promise<Volume> {
  const { volume, end } = await (made ??= makeBase());
  const total = end + free, data = volume.data.snapshot();
  const v = { meta: copyTo(volume.meta, end, total), data };
  for (const dev of [v.meta, v.data]) {
    editSuper(dev, (_, sb) => void (sb.totalMetaBlocks = total), true);
  }
  // Its free extents are made to fit.
  const result = repairVolume(v.meta, v.data, repairOptions());
  assert.ok(isSound(result.after) && result.after.stats.metaBlocksFree < free, `${result.stopped}`);
  return { meta: copyTo(v.meta, total, total + spare), data };
}

function copyTo(from: MemDevice, blocks: number, total: number): MemDevice {
  const to = new MemDevice(total * LG_SIZE), block = new Uint8Array(LG_SIZE);
  for (let blkno = 0; blkno < blocks; blkno++) {
    from.read(block, blkno * LG_SIZE);
    to.write(block, blkno * LG_SIZE);
  }
  return to;
}

const loseRoot = (s: Surgeon) =>
  s.editBlock(s.superBlock().fsRoot.ref.blkno, ({ buf }) => void buf.fill(0), false);
const loseLists = (s: Surgeon) =>
  s.editSuper((sb) => {
    sb.metaAlloc(0).zero();
    sb.metaAlloc(1).zero();
    sb.serverMetaAvail(0).zero();
  });

const DAMAGE: readonly (readonly [name: string, damage: (v: Volume, s: Surgeon) => void])[] = [
  ["a link count", (_, s) => s.editInode(1030, (i) => void (i.nlink = 9))],
  ["the root of fs_root", (_, s) => loseRoot(s)],
  ["all free lists", (_, s) => loseLists(s)],
  ["the super block", (v) => wipe(v.meta)],
  ["the super block and the root of fs_root", (v, s) => {
    loseRoot(s);
    wipe(v.meta);
  }],
  ["all free lists and the root of fs_root", (_, s) => {
    loseRoot(s);
    loseLists(s);
  }],
];

/** Nothing is left to mend, and all files are there. */
function assertWhole(v: Volume, result: RepairResult, name: string): void {
  assert.equal(result.stopped, null, name);
  assert.deepEqual(problemsOf(v.meta, v.data).map((p) => p.message), [], name);
  assert.equal(result.after.stats.inodes, INODES, name);
  const reader = new VolumeReader(openVolume(v.meta, v.data), new SeededRandom(1));
  let names = 0;
  for (const dir of reader.readdir(1)) for (const _ of reader.readdir(dir.ino)) names++;
  assert.equal(names, INODES - 1 - Math.ceil((INODES - 1) / 1001), name);
}

for (const [name, damage] of DAMAGE) {
  Deno.test(`full: ${name} of a volume with few free blocks`, async () => {
    const some = await fullVolume(ENOUGH), s = new Surgeon(some.meta);
    damage(some, s);
    assertWhole(some, repairVolume(some.meta, some.data, repairOptions()), name);
  });

  Deno.test(`full: ${name} of a volume without free blocks`, async () => {
    const v = await fullVolume(2);
    damage(v, new Surgeon(v.meta));
    const before = v.meta.toImage(), result = repairVolume(v.meta, v.data, repairOptions());
    if (result.stopped !== null) {
      assert.match(result.stopped, /^no metadata block is free.*truncate -s \+64M/);
      // What is written is a super block at most, or nothing.
      if (result.commits === 0) assert.deepEqual(v.meta.toImage(), before);
      else assert.match(name, /super block/);
      const blocks = v.meta.size / LG_SIZE;
      const larger = { meta: copyTo(v.meta, blocks, blocks + 2048), data: v.data };
      const notes: string[] = [];
      const again = repairVolume(larger.meta, larger.data, {
        ...repairOptions(),
        log: (line) => notes.push(line),
      });
      assertWhole(larger, again, name);
      assert.ok(notes.some((n) => /was given \d+ more/.test(n)), `${notes}`);
    } else assertWhole(v, result, name);
  });
}

Deno.test("full: a device with more room is used only as far as needed", async () => {
  const v = await fullVolume(2, 5000), total = new Surgeon(v.meta).superBlock().totalMetaBlocks;
  new Surgeon(v.meta).editInode(1030, (i) => void (i.nlink = 9));
  assertWhole(v, repairVolume(v.meta, v.data, repairOptions()), "");
  assert.equal(new Surgeon(v.meta).superBlock().totalMetaBlocks, total + 1024);
});

Deno.test("full: a data device without a free block", async () => {
  const m = await newLocalFs({ fmtVers: 2 });
  await fill(m, 1, 12);
  await m.unmount();
  const { meta, data } = m.cluster, healthy = manifest(meta, data);
  const { stats } = repairVolume(meta, data, repairOptions()).after;
  let last = 0;
  const reader = new VolumeReader(openVolume(meta, data), new SeededRandom(1));
  for (const { ino } of [...reader.readdir(1)]) {
    for (const e of reader.extents(ino)) last = Math.max(last, e.blkno + e.length);
  }
  assert.ok(last > 64 && stats.dataBlocksFree > 0);
  for (const change of [(s: Surgeon) => s.editSuper((sb) => sb.dataAlloc.zero()), loseLists]) {
    const v = { meta: meta.snapshot(), data: data.snapshot() };
    change(new Surgeon(v.meta));
    assert.equal(repairVolume(v.meta, v.data, repairOptions()).stopped, null);
    assert.deepEqual(problemsOf(v.meta, v.data).map((p) => p.message), []);
    assert.deepEqual([...manifest(v.meta, v.data)], [...healthy]);
  }
});
