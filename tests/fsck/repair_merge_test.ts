/**
 * Repairs of volumes with a log merge under way: its requests, its results that are not part of fs_root
 * yet, and the trees that are being freed (01 §13.4).
 */

import assert from "node:assert/strict";
import { BlockHeader, BlockRef } from "../../format/block.ts";
import { firstItem, itemVal, nextItem } from "../../format/btree_block.ts";
import { LG_SIZE, ZONE_LOG_MERGE_FREEING } from "../../format/constants.ts";
import { sealBlock } from "../../format/crc32c.ts";
import { Key } from "../../format/key.ts";
import { LogMergeFreeing } from "../../format/merge.ts";
import { forEachItem } from "../../fs/btree.ts";
import { blocksOfMerge, readBlock, referenceDamage, treeBlocks } from "./damage.ts";
import { manifest, mustMend, problemsOf, Surgeon } from "./repair_support.ts";
import { makeSample } from "./sample.ts";

Deno.test("merge: a tree that is being freed leads to a block of fs_root", () => {
  const v = { ...makeSample(), inos: new Map<string, number>() };
  const healthy = manifest(v.meta, v.data), s = new Surgeon(v.meta);
  const leaf = treeBlocks(v.meta).find((b) => b.tree === "fs_root" && b.level === 0);
  assert.ok(leaf !== undefined);
  const { blkno } = leaf, { seq } = BlockHeader.at(readBlock(v.meta, blkno).buf);
  let damaged = 0;
  forEachItem({ cache: s.cache() }, s.superBlock().logMerge, Key.ZEROS, ({ key, val }) => {
    if (key.zone !== ZONE_LOG_MERGE_FREEING) return;
    const { root } = LogMergeFreeing.at(val.slice());
    s.editBlock(root.ref.blkno, (b) => {
      let last = firstItem(b);
      for (let i = last; i !== 0; i = nextItem(b, i)) last = i;
      const ref = BlockRef.at(itemVal(b, last));
      ref.blkno = blkno;
      ref.seq = seq;
      damaged++;
    });
  });
  assert.equal(damaged, 1);
  mustMend(v, healthy, ["meta-block-twice"]);
});

Deno.test("merge: what fs_root has lost without a trace is in the results", () => {
  const v = { ...makeSample(), inos: new Map<string, number>() };
  const healthy = manifest(v.meta, v.data);
  const [root] = treeBlocks(v.meta).filter((b) => b.tree === "fs_root");
  assert.ok(root !== undefined && root.level === 2, "fs_root has parents below its root");
  const lose = referenceDamage(v.meta).find(({ name }) =>
    name === `fs_root level 2 block ${root.blkno}: first child missing`
  );
  assert.ok(lose !== undefined);
  lose.apply(v.meta);
  lose.apply(v.meta);
  mustMend(v, healthy, ["root-inode", "merge", "meta-leak"]);
});

Deno.test("merge: its results do not stand for the leaves that a log tree has lost", () => {
  const v = { ...makeSample({ metaBlocks: 1400, dataBlocks: 16384 }), inos: new Map() };
  const healthy = manifest(v.meta, v.data), free = 1390;
  const leaves = treeBlocks(v.meta).filter((b) => b.tree === "finalized log tree" && b.level === 0);
  let lost = 0;
  for (const { blkno } of leaves) {
    const w = { meta: v.meta.snapshot(), data: v.data.snapshot(), inos: v.inos };
    const copy = readBlock(w.meta, blkno).buf.slice();
    const header = BlockHeader.at(copy);
    header.blkno = free;
    sealBlock(copy);
    w.meta.write(copy, free * LG_SIZE);
    assert.deepEqual(problemsOf(w.meta, w.data), [], "an older copy in a free block is no problem");
    w.meta.write(new Uint8Array(LG_SIZE), blkno * LG_SIZE);
    mustMend(w, healthy, ["block-magic"]);
    lost++;
  }
  assert.ok(lost > 1, `${lost} leaves`);
});

Deno.test("merge: a bad block of a result does not hide which blocks are free", () => {
  const sample = makeSample(), healthy = manifest(sample.meta, sample.data);
  const [root] = treeBlocks(sample.meta).filter((b) => b.tree === "fs_root");
  const lose = referenceDamage(sample.meta).filter(({ name }) =>
    name.startsWith("fs_root level 1") && name.endsWith("first child missing")
  );
  assert.ok(root !== undefined && lose.length > 2);
  let tried = 0;
  for (const blkno of blocksOfMerge(sample.meta)) {
    if (treeBlocks(sample.meta).some((b) => b.blkno === blkno)) continue;
    for (const { apply } of lose) {
      const v = { meta: sample.meta.snapshot(), data: sample.data.snapshot(), inos: new Map() };
      apply(v.meta);
      new Surgeon(v.meta).editBlock(blkno, (b) => b.buf[0]! ^= 1, false);
      mustMend(v, healthy, ["block-crc"]);
      tried++;
    }
  }
  assert.ok(tried > 3, `${tried} pairs`);
});
