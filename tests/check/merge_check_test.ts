/**
 * What a log merge that is under way has made and not yet put in its place: the sample volume's
 * completion, whose tree no reader sees before the server makes it part of fs_root.
 */

import assert from "node:assert/strict";
import {
  findLeafItem,
  firstItem,
  insertItem,
  itemKey,
  itemVal,
  nextItem,
  updateItem,
} from "../../format/btree_block.ts";
import { ZONE_LOG_MERGE_COMPLETE } from "../../format/constants.ts";
import { metaSeqKey } from "../../format/items.ts";
import { Key } from "../../format/key.ts";
import {
  LOG_MERGE_STATUS_KEY,
  LogMergeComplete,
  logMergeCompleteKey,
  LogMergeStatus,
} from "../../format/merge.ts";
import { forEachItem } from "../../fs/btree.ts";
import { checkVolume, isSound } from "../../fs/check/check.ts";
import { repairVolume } from "../../fs/check/repair/repair.ts";
import { useFastCrc32c } from "../../fs/sys/crc.ts";
import { repairOptions, Surgeon } from "../fsck/repair_support.ts";
import { type Pair, readNamespace } from "../fsck/repair_trial.ts";
import { makeSample } from "../fsck/sample.ts";

await useFastCrc32c();
const sample = makeSample();
const before = readNamespace(sample.meta, sample.data);

/** The completion whose tree is not part of fs_root yet. */
function completion(s: Surgeon): LogMergeComplete {
  let found: LogMergeComplete | null = null;
  forEachItem({ cache: s.cache() }, s.superBlock().logMerge, Key.ZEROS, ({ key, val }) => {
    if (key.zone !== ZONE_LOG_MERGE_COMPLETE) return;
    const c = LogMergeComplete.at(val.slice());
    if (!c.metaAvail.isZero()) found = c;
  });
  assert.ok(found !== null, "the sample volume has such a completion");
  return found;
}

/** The block of its first leaf, which is the one that its merge has written. */
function firstLeaf(s: Surgeon): number {
  const leaf = s.leafOf(completion(s).root, Key.ZEROS);
  assert.ok(leaf !== null);
  return leaf;
}

/** Damage that is found with code `merge`, and that -p mends without changing what readers see. */
function mended(name: string, damage: (s: Surgeon) => void, why: RegExp): void {
  Deno.test(name, () => {
    const v: Pair = { meta: sample.meta.snapshot(), data: sample.data.snapshot() };
    damage(new Surgeon(v.meta));
    const found = checkVolume(v.meta, v.data).problems.filter((p) => p.severity !== "info");
    assert.ok(
      found.some((p) => p.code === "merge" && why.test(p.message)),
      found.map((p) => p.message).join("; "),
    );
    const repaired = repairVolume(v.meta, v.data, repairOptions("safe"));
    assert.equal(repaired.lossy, false);
    const again = checkVolume(v.meta, v.data);
    assert.ok(isSound(again), again.problems.map((p) => p.message).join("; "));
    assert.deepEqual(readNamespace(v.meta, v.data), before);
  });
}

/** Changes the first item of the leaf that has a value. */
function editItem(s: Surgeon, change: (b: Parameters<typeof updateItem>[0], item: number) => void) {
  s.editBlock(firstLeaf(s), (b) => {
    for (let item = firstItem(b); item !== 0; item = nextItem(b, item)) {
      if (itemVal(b, item).length < 32) continue;
      change(b, item);
      return;
    }
    assert.fail("the leaf has no item with a value");
  });
}

mended(
  "merge: a completion with an item of a length that its type does not have",
  (s) => editItem(s, (b, item) => updateItem(b, item, new Uint8Array(8))),
  /item .* of its tree is none that fs_root can have/,
);

mended(
  "merge: a completion with an item of a version that nobody gave out",
  (s) => editItem(s, (b, item) => b.v.setBigUint64(item + 40, 1n << 40n, true)),
  /item .* of its tree has version 1099511627776, beyond/,
);

mended(
  "merge: a completion with an item that belongs before what it replaces",
  (s) =>
    s.editBlock(firstLeaf(s), (b) => {
      const early = metaSeqKey(0, 1);
      assert.ok(itemKey(b, firstItem(b)).compare(early) > 0);
      insertItem(b, early, 1, 0, new Uint8Array(0));
    }),
  /its root begins before what it replaces does/,
);

mended(
  "merge: more completions than are counted while they are spliced",
  (s) => {
    const root = s.superBlock().logMerge;
    const leaf = s.leafOf(root, LOG_MERGE_STATUS_KEY) as number;
    s.editBlock(leaf, (b) => {
      LogMergeStatus.at(itemVal(b, findLeafItem(b, LOG_MERGE_STATUS_KEY))).nrComplete = 8;
      for (let seq = 900; seq < 910; seq++) {
        const c = LogMergeComplete.alloc(), at = Key.of(20, seq, 0);
        c.start = c.end = c.remain = at;
        c.rid = 7n;
        c.seq = seq;
        insertItem(b, logMergeCompleteKey(seq), 0, 0, c.bytes);
      }
    });
  },
  /nr_complete is 8, there are 12/,
);
