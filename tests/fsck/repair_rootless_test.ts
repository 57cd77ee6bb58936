/**
 * Volumes that were mended once: log trees have the leaves of what was lost, the root inode among them,
 * and fs_root has the rest, or nothing. Older trees, also with the root inode, are still about. When the
 * super block is lost as well the newest trees are found all the same.
 */

import assert from "node:assert/strict";
import { BlockHeader } from "../../format/block.ts";
import { firstItem, itemKey, nextItem, nrItems, removeItem } from "../../format/btree_block.ts";
import {
  LG_SIZE,
  LOG_TREES_FINALIZED,
  META_DEV_START_BLKNO,
  SM_SIZE,
  TYPE_INODE,
  TYPE_XATTR,
  ZONE_FS,
  ZONE_QUOTA,
} from "../../format/constants.ts";
import { sealBlock } from "../../format/crc32c.ts";
import { inodeKey, QuotaRuleVal } from "../../format/items.ts";
import type { Key } from "../../format/key.ts";
import { LogTrees, logTreesKey } from "../../format/log_trees.ts";
import { checkVolume, isSound } from "../../fs/check/check.ts";
import { repairVolume } from "../../fs/check/repair/repair.ts";
import { DeviceError } from "../../fs/errors.ts";
import { MemDevice } from "../../fs/memory_device.ts";
import { create, unlink } from "../../fs/ops/names.ts";
import { VolumeReader } from "../../fs/reader.ts";
import { useFastCrc32c } from "../../fs/sys/crc.ts";
import { openVolume } from "../../fs/volume.ts";
import { newLocalFs } from "../helpers/local_fs.ts";
import { SeededRandom } from "../helpers/sim_reactor.ts";
import { readBlock } from "./damage.ts";
import { generate, generatedSize } from "./generate.ts";
import { DIR, FILE, Namespace } from "./namespace.ts";
import { bytes, manifest, repairOptions, Surgeon } from "./repair_support.ts";
import { changes, OLD_RID, SAMPLE_FSID } from "./sample.ts";
import { wipe } from "./supers_support.ts";
import { freeData, VolumeBuilder } from "./volume_builder.ts";

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

/** A volume without a super block, and without the leaf of fs_root that has the root inode. */
function withoutRootInode(damage: (v: Generated, leaf: number, free: number) => void): Generated {
  const v = generated(LOST_ROOT_INODES), s = new Surgeon(v.meta), root = s.superBlock().fsRoot;
  assert.equal(root.height, 2);
  const leaf = s.leafOf(root, inodeKey(1)) as number;
  const free = v.meta.size / LG_SIZE - 3;
  damage(v, leaf, free);
  wipe(v.meta);
  return v;
}

const LOST_ROOT_INODES = 12_000;

const ZEROS = new Uint8Array(LG_SIZE);

for (
  const [name, damage] of [
    ["the one of mkfs is about", (v, leaf, free) => {
      putRootInode(v, leaf, free);
      v.meta.write(ZEROS, leaf * LG_SIZE);
    }],
    ["it has another seq", ({ meta }, leaf) => {
      new Surgeon(meta).editBlock(leaf, (b) => b.buf[16]! ^= 1);
    }],
  ] as [string, (v: Generated, leaf: number, free: number) => void][]
) {
  Deno.test(`rootless: the leaf of the root inode is lost with the super block; ${name}`, () => {
    const { meta, data } = withoutRootInode(damage);
    const { after, stopped } = repairVolume(meta, data, repairOptions());
    assert.equal(stopped, null);
    assert.ok(isSound(after) && isSound(checkVolume(meta, data)));
    // What the leaf has is named by other leaves, but for what none names.
    assert.ok(after.stats.inodes > 0.99 * LOST_ROOT_INODES, `${after.stats.inodes} inodes`);
  });
}

/** A leaf as mkfs makes it: the root inode and its index item. */
function putRootInode({ meta }: Generated, leaf: number, at: number): void {
  const b = readBlock(meta, leaf), kept = new Set([inodeKey(1).toString()]);
  for (let item = firstItem(b); item !== 0;) {
    const key = itemKey(b, item);
    if (nrItems(b) <= 2 || kept.has(key.toString())) {
      item = nextItem(b, item);
      continue;
    }
    removeItem(b, item);
    item = firstItem(b);
  }
  BlockHeader.at(b.buf).blkno = at;
  sealBlock(b.buf);
  meta.write(b.buf, at * LG_SIZE);
}

Deno.test("rootless: attributes and quota rules that only leaves of a lost fs_root have", () => {
  const meta = new MemDevice(1200 * LG_SIZE, { name: "meta" });
  const data = new MemDevice(16_384 * SM_SIZE, { name: "data" });
  const b = new VolumeBuilder(meta, data, {
    ...{ fsid: SAMPLE_FSID, metaBlocks: 1200, dataBlocks: 16_384, maxItems: 8 },
  });
  const filesystem = (files: number): Namespace => {
    const ns = new Namespace();
    ns.node(1, DIR, { metaSeq: files > 0 ? 140 : 100 });
    for (let i = 0; i < 30; i++) ns.attr(1, `user.attribute${i}`, "value");
    for (let i = 0; i < 40; i++) {
      const rule = QuotaRuleVal.alloc();
      rule.limit = BigInt(1000 + i);
      rule.prio = i;
      ns.rule(rule);
    }
    for (let i = 0; i < files; i++) {
      ns.node(2000 + i, FILE);
      ns.link(1, `new file ${i}`, 2000 + i);
    }
    return ns;
  };
  const before = filesystem(0), after = filesystem(5), sb = b.super;
  const logged = changes(before.items(), after.items(), 140);
  sb.fsRoot.copyFrom(b.tree(before.items(100)));
  const lt = LogTrees.alloc();
  lt.itemRoot.copyFrom(b.tree(logged));
  lt.bloomRef.copyFrom(b.bloom(logged));
  lt.inodeCountDelta = 5;
  lt.getTransSeq = lt.commitTransSeq = lt.maxItemSeq = 140;
  lt.finalizeSeq = 150;
  lt.rid = OLD_RID;
  lt.nr = 1;
  lt.flags = LOG_TREES_FINALIZED;
  sb.logsRoot.copyFrom(b.tree([{ key: logTreesKey(OLD_RID, 1), val: lt.bytes, seq: 0 }]));
  sb.seq = 500;
  sb.nextIno = 40960;
  sb.inodeCount = 1;
  b.finish(freeData(16_384, []));
  assert.deepEqual(checkVolume(meta, data).problems.filter((p) => p.severity !== "info"), []);
  const s = new Surgeon(meta), { fsRoot } = s.superBlock();
  const first = s.leafOf(fsRoot, inodeKey(1)) as number, lost = { rules: 0, attrs: 0 };
  const count = (key: Key, into: { rules: number; attrs: number }) => {
    if (key.zone === ZONE_QUOTA) into.rules++;
    if (key.zone === ZONE_FS && key.type === TYPE_XATTR) into.attrs++;
  };
  const block = readBlock(meta, first);
  for (let item = firstItem(block); item !== 0; item = nextItem(block, item)) {
    count(itemKey(block, item), lost);
  }
  for (const { blkno, level } of s.blocksOf(fsRoot)) {
    if (level > 0 || blkno === first) meta.write(ZEROS, blkno * LG_SIZE);
  }
  wipe(meta);
  const { stopped } = repairVolume(meta, data, repairOptions());
  assert.equal(stopped, null);
  assert.ok(isSound(checkVolume(meta, data)));
  const kept = { rules: 0, attrs: 0 };
  for (const { key } of new VolumeReader(openVolume(meta, data), new SeededRandom(1)).items()) {
    count(key, kept);
  }
  assert.deepEqual(kept, { rules: 40 - lost.rules, attrs: 30 - lost.attrs });
});
