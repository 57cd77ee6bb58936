/**
 * Log trees that nothing leads to any more: their items are gone from logs_root. Nothing but blocks
 * that are neither used nor free may tell of them, among blocks that were free.
 */

import assert from "node:assert/strict";
import { findLeafItem, itemVal, removeItem } from "../../format/btree_block.ts";
import { Key } from "../../format/key.ts";
import { LogTrees } from "../../format/log_trees.ts";
import type { Device } from "../../fs/device.ts";
import { forEachItem } from "../../fs/btree.ts";
import { isSound } from "../../fs/check/check.ts";
import { repairVolume } from "../../fs/check/repair/repair.ts";
import { create, unlink } from "../../fs/ops/names.ts";
import { checkVolume as checkIndependently } from "../helpers/check_volume.ts";
import { LocalCluster } from "../helpers/local_cluster.ts";
import { LocalFs, newLocalFs } from "../helpers/local_fs.ts";
import {
  bytes,
  copyOf,
  fill,
  manifest,
  problemsOf,
  repairOptions,
  Surgeon,
  type Volume,
} from "./repair_support.ts";

const MODES = ["safe", "all"] as const;

/** Takes log trees out of logs_root, and counts them. */
function loseLogTrees(meta: Device, which: (lt: LogTrees) => boolean): number {
  const s = new Surgeon(meta), { logsRoot } = s.superBlock(), keys: Key[] = [];
  forEachItem({ cache: s.cache() }, logsRoot, Key.ZEROS, ({ key, val }) => {
    const lt = LogTrees.at(val.slice());
    if (lt.itemRoot.height > 0 && which(lt)) keys.push(key);
  });
  for (const key of keys) {
    const leaf = s.leafOf(logsRoot, key);
    assert.ok(leaf !== null);
    s.editBlock(leaf, (b) => removeItem(b, findLeafItem(b, key)));
  }
  return keys.length;
}

const codesOf = (v: Volume): Set<string> => new Set(problemsOf(v.meta, v.data).map((p) => p.code));

async function make(m: LocalFs, dir: number, name: string, mode = 0o100644): Promise<number> {
  const ino = await m.run((op, fs) => create(op, fs, dir, bytes(name), mode, 0));
  m.fs.refs.forget(ino, 1);
  return ino;
}

/** One run brings all of it back; another one finds and changes nothing. */
function mustBringBack(broken: Volume, healthy: ReadonlyMap<string, string>, mode: "safe" | "all") {
  const v = copyOf(broken);
  const result = repairVolume(v.meta, v.data, repairOptions(mode));
  assert.deepEqual(problemsOf(v.meta, v.data).map((p) => p.message), []);
  assert.deepEqual([...manifest(v.meta, v.data)], [...healthy], mode);
  assert.equal(result.lossy, false);
  assert.deepEqual(checkIndependently(v.meta, v.data, { clean: true }).problems, []);
  const again = repairVolume(v.meta, v.data, repairOptions(mode));
  assert.ok(isSound(again.before));
  assert.equal(again.commits, 0);
}

/** A clean volume whose merged files were made by mounts before the last one. */
async function merged(): Promise<LocalCluster> {
  const m = await newLocalFs({ fmtVers: 2 });
  await fill(m, 1);
  await make(m, 1, "removed later");
  await m.sync();
  await m.unmount();
  return m.cluster;
}

/** A volume whose newest log tree, of several blocks, is not in logs_root; its root, and all as it was. */
async function withoutNewest() {
  const { meta, data } = await merged();
  const m = await LocalFs.mount(await LocalCluster.open(meta, data, 1));
  // All that another log tree has of the root is older.
  const dir = await make(m, 1, "new", 0o40755);
  for (let i = 0; i < 700; i++) await make(m, dir, `new${i}`);
  await m.run((op, fs) => unlink(op, fs, 1, bytes("removed later")));
  await m.sync();
  await m.unmount();
  const v = { meta: meta.snapshot(), data: data.snapshot(), inos: new Map<string, number>() };
  const healthy = manifest(v.meta, v.data);
  let newest = 0, root = 0;
  loseLogTrees(v.meta.snapshot(), (lt) => {
    if (lt.maxItemSeq > newest) [newest, root] = [lt.maxItemSeq, lt.itemRoot.ref.blkno];
    return false;
  });
  assert.equal(loseLogTrees(v.meta, (lt) => lt.maxItemSeq === newest), 1);
  return { v, healthy, root };
}

Deno.test("lost log trees: one of which nothing but its blocks is left, by either mode", async () => {
  const { v, healthy } = await withoutNewest();
  assert.deepEqual([...codesOf(v)], ["meta-leak"]);
  for (const mode of MODES) mustBringBack(v, healthy, mode);
});

Deno.test("lost log trees: -p frees nothing that may be part of one that is not whole", async () => {
  const { v, healthy, root } = await withoutNewest(), s = new Surgeon(v.meta);
  s.editBlock(root, (b) => b.buf[5000]! ^= 1, false);
  for (const traced of [false, true]) {
    if (traced) s.editInode(1, (inode) => inode.nlink += 1);
    const before = problemsOf(v.meta, v.data).map((p) => p.message);
    assert.equal(repairVolume(v.meta, v.data, repairOptions("safe")).commits, 0);
    assert.deepEqual(problemsOf(v.meta, v.data).map((p) => p.message), before);
  }
  // Something misses what leaked: all of its leaves are found, not one that looks like a whole tree.
  assert.equal(repairVolume(v.meta, v.data, repairOptions()).lossy, false);
  assert.deepEqual(problemsOf(v.meta, v.data), []);
  assert.deepEqual([...manifest(v.meta, v.data)], [...healthy]);
});

Deno.test("lost log trees: -p frees nothing where it is not sure which blocks are free", async () => {
  const { v } = await withoutNewest(), s = new Surgeon(v.meta);
  s.editSuper((sb) => sb.metaAlloc(0).totalLen += 1);
  const codes = codesOf(v);
  assert.ok(codes.has("meta-leak") && codes.size === 2, [...codes].join());
  assert.equal(repairVolume(v.meta, v.data, repairOptions("safe")).commits, 0);
});

Deno.test("lost log trees: -y says that it frees what may be part of one", async () => {
  const { v, root } = await withoutNewest(), s = new Surgeon(v.meta), lines: string[] = [];
  s.editBlock(root, (b) => b.buf[5000]! ^= 1, false);
  const log = (line: string) => void lines.push(line);
  assert.equal(repairVolume(v.meta, v.data, { ...repairOptions(), log }).stopped, null);
  assert.ok(lines.some((line) => line.includes("may have been a lost log tree's")), lines.join());
});

/** The log tree that a mount had open, and took many commits to write, when it crashed. */
async function crashed(): Promise<{ v: Volume; healthy: ReadonlyMap<string, string> }> {
  const { meta, data } = await merged();
  const m = await LocalFs.mount(await LocalCluster.open(meta, data, 1));
  const dir = await make(m, 1, "new", 0o40755);
  for (let turn = 0; turn < 12; turn++) {
    for (let i = 0; i < 60; i++) await make(m, dir, `new${turn}.${i}`);
    await make(m, dir, "comes and goes");
    await m.sync();
    await m.run((op, fs) => unlink(op, fs, dir, bytes("comes and goes")));
    await m.sync();
  }
  await m.run((op, fs) => unlink(op, fs, 1, bytes("removed later")));
  await m.sync();
  const v = { meta: meta.snapshot(), data: data.snapshot(), inos: new Map<string, number>() };
  await m.crash();
  return { v, healthy: manifest(v.meta, v.data) };
}

Deno.test("lost log trees: an open one, whose older copies are not free any more either", async () => {
  const { v, healthy } = await crashed();
  assert.equal(loseLogTrees(v.meta, (lt) => !lt.isFinalized), 1);
  assert.ok(codesOf(v).has("meta-leak"));
  for (const mode of MODES) mustBringBack(v, healthy, mode);
});

Deno.test("lost log trees: free blocks that are not known to be free bring nothing back", async () => {
  for (const lists of ["meta_alloc", "lists of the log tree"] as const) {
    const { v, healthy } = await crashed();
    const s = new Surgeon(v.meta);
    if (lists === "meta_alloc") {
      s.editSuper((sb) => sb.metaAlloc(sb.metaAlloc(0).root.isEmpty ? 1 : 0).zero());
    } else {
      const { logsRoot } = s.superBlock();
      forEachItem({ cache: s.cache() }, logsRoot, Key.ZEROS, ({ key, val }) => {
        if (LogTrees.at(val.slice()).isFinalized) return;
        const leaf = s.leafOf(logsRoot, key);
        assert.ok(leaf !== null);
        s.editBlock(leaf, (b) => {
          const lt = LogTrees.at(itemVal(b, findLeafItem(b, key)));
          lt.metaAvail.zero();
          lt.metaFreed.zero();
        });
      });
    }
    assert.ok(codesOf(v).has("meta-leak"), lists);
    for (const mode of MODES) mustBringBack(v, healthy, mode);
  }
});
