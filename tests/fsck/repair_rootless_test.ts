/**
 * Volumes that were mended once: log trees have the leaves of what was lost, the root inode among them,
 * and fs_root has the rest, or nothing. Older trees, also with the root inode, are still about. When the
 * super block is lost as well the newest trees are found all the same.
 */

import assert from "node:assert/strict";
import { firstItem, itemKey, nextItem } from "../../format/btree_block.ts";
import {
  LG_SIZE,
  META_DEV_START_BLKNO,
  SM_SIZE,
  TYPE_INODE,
  ZONE_FS,
} from "../../format/constants.ts";
import { checkVolume, isSound } from "../../fs/check/check.ts";
import { repairVolume } from "../../fs/check/repair/repair.ts";
import { DeviceError } from "../../fs/errors.ts";
import { MemDevice } from "../../fs/memory_device.ts";
import { create, unlink } from "../../fs/ops/names.ts";
import { useFastCrc32c } from "../../fs/sys/crc.ts";
import { newLocalFs } from "../helpers/local_fs.ts";
import { readBlock } from "./damage.ts";
import { generate, generatedSize } from "./generate.ts";
import { bytes, manifest, repairOptions, Surgeon } from "./repair_support.ts";
import { wipe } from "./supers_support.ts";

await useFastCrc32c();

/** Enough for a tree of three levels. */
const INODES = 78_000;

interface Generated {
  readonly meta: MemDevice;
  readonly data: MemDevice;
}

function generated(inodes = INODES): Generated {
  const { metaBlocks, dataBlocks } = generatedSize(inodes);
  const meta = new MemDevice(metaBlocks * LG_SIZE), data = new MemDevice(dataBlocks * SM_SIZE);
  generate(meta, data, inodes);
  return { meta, data };
}

/** Mends a volume of which no inode is lost; what was said, and the codes of all rounds. */
function mustMendAll({ meta, data }: Generated): { notes: string[]; codes: Set<string> } {
  const notes: string[] = [], codes = new Set<string>();
  const { after, stopped } = repairVolume(meta, data, {
    ...repairOptions(),
    log: (line) => notes.push(line),
    onProblem: ({ code }) => codes.add(code),
  });
  assert.equal(stopped, null);
  assert.ok(isSound(after));
  assert.equal(after.stats.inodes, INODES);
  assert.ok(isSound(checkVolume(meta, data)));
  return { notes, codes };
}

/** Blocks of fs_root by level. */
const fsRootBlocks = (meta: MemDevice, level: number): number[] => {
  const s = new Surgeon(meta);
  return s.blocksOf(s.superBlock().fsRoot).filter((b) => b.level === level).map((b) => b.blkno);
};

/** Inodes that a leaf has. */
function inodesOf(meta: MemDevice, blkno: number): number[] {
  const b = readBlock(meta, blkno), inos: number[] = [];
  for (let item = firstItem(b); item !== 0; item = nextItem(b, item)) {
    const { zone, type, first } = itemKey(b, item);
    if (zone === ZONE_FS && type === TYPE_INODE) inos.push(first);
  }
  return inos;
}

Deno.test("rootless: a parent was lost, then the super block", () => {
  const v = generated();
  const [parent] = fsRootBlocks(v.meta, 1);
  v.meta.write(new Uint8Array(LG_SIZE), parent! * LG_SIZE);
  mustMendAll(v);
  assert.ok(fsRootBlocks(v.meta, 0).length > 0, "fs_root has what was not lost");
  const root = new Surgeon(v.meta).superBlock().fsRoot.ref.blkno;
  wipe(v.meta);
  const { notes, codes } = mustMendAll(v);
  assert.ok(
    notes.some((n) => n.startsWith(`fs_root was found at block ${root}:`)),
    notes.join("\n"),
  );
  assert.ok(!codes.has("inode-missing") && !codes.has("meta-block-twice"), [...codes].join());
});

Deno.test("rootless: the root was lost, then the super block", () => {
  const v = generated();
  // One bad sector is as bad as all of them where leaves are found without it: nothing is lost.
  const root = new Surgeon(v.meta).superBlock().fsRoot.ref.blkno;
  const read = v.meta.read.bind(v.meta), bad = root * LG_SIZE + 3 * SM_SIZE;
  v.meta.read = (buf, off) => {
    if (off <= bad && off + buf.length > bad) throw new DeviceError("meta", "bad sector");
    read(buf, off);
  };
  mustMendAll(v);
  // The older tree is whole again, but its leaves are those of a log tree now.
  v.meta.read = read;
  assert.equal(new Surgeon(v.meta).superBlock().fsRoot.height, 0);
  wipe(v.meta);
  const { notes, codes } = mustMendAll(v);
  assert.ok(notes.includes("fs_root is empty: log trees have everything"), notes.join("\n"));
  assert.ok(!codes.has("meta-block-twice"), "nothing is claimed by an older tree as well");
});

Deno.test("rootless: nothing but leaves is left, without that of the root inode", () => {
  const inodes = 4000, v = generated(inodes), s = new Surgeon(v.meta);
  const blocks = s.blocksOf(s.superBlock().fsRoot), leaves = blocks.filter((b) => b.level === 0);
  const first = leaves.find(({ blkno }) => inodesOf(v.meta, blkno).includes(1))!;
  const lost = inodesOf(v.meta, first.blkno).length;
  for (const { blkno, level } of blocks) {
    if (level > 0 || blkno === first.blkno) v.meta.write(new Uint8Array(LG_SIZE), blkno * LG_SIZE);
  }
  wipe(v.meta);
  const { after, stopped } = repairVolume(v.meta, v.data, repairOptions());
  assert.equal(stopped, null);
  assert.ok(isSound(after) && isSound(checkVolume(v.meta, v.data)));
  assert.ok(leaves.length > 4 && after.stats.inodes >= inodes - lost, `${after.stats.inodes}`);
});

Deno.test("rootless: where log trees have everything nothing that was deleted comes back", async () => {
  const m = await newLocalFs({ fmtVers: 2 });
  for (let i = 0; i < 300; i++) {
    const ino = await m.run((op, fs) => create(op, fs, 1, bytes(`a${i}`), 0o100644, 0));
    m.fs.refs.forget(ino, 1);
    if (i % 10 === 0) await m.sync();
  }
  for (let i = 1; i < 300; i += 3) {
    await m.run((op, fs) => unlink(op, fs, 1, bytes(`a${i}`)));
    if (i % 100 === 1) await m.sync();
  }
  await m.unmount();
  const { meta, data } = m.cluster, before = manifest(meta, data);
  wipe(meta);
  meta.write(new Uint8Array(LG_SIZE), META_DEV_START_BLKNO * LG_SIZE);
  const { after, stopped } = repairVolume(meta, data, repairOptions());
  assert.ok(stopped === null && isSound(after));
  assert.deepEqual([...manifest(meta, data)], [...before]);
});
