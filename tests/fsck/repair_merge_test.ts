/**
 * Repairs of volumes with a log merge under way: its requests, its results that are not part of fs_root
 * yet, and the trees that are being freed (01 §13.4).
 */

import assert from "node:assert/strict";
import { BlockHeader, BlockRef } from "../../format/block.ts";
import { firstItem, itemVal, nextItem } from "../../format/btree_block.ts";
import { ZONE_LOG_MERGE_FREEING } from "../../format/constants.ts";
import { Key } from "../../format/key.ts";
import { LogMergeFreeing } from "../../format/merge.ts";
import { forEachItem } from "../../fs/btree.ts";
import { readBlock, referenceDamage, treeBlocks } from "./damage.ts";
import { manifest, mustMend, Surgeon } from "./repair_support.ts";
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
