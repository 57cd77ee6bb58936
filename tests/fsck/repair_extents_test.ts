/**
 * Repair of many extents of one file: of those that overlap the inode's counts say which is right, and
 * however many are bad the file is looked through once.
 */

import assert from "node:assert/strict";
import { SEF_OFFLINE, SM_SIZE, TYPE_DATA_EXTENT } from "../../format/constants.ts";
import { DataExtentVal, extentKey } from "../../format/items.ts";
import type { Key } from "../../format/key.ts";
import { repairVolume } from "../../fs/check/repair/repair.ts";
import { FixScope } from "../../fs/check/repair/fixers_scope.ts";
import { firstKey } from "./item_cases.ts";
import {
  healthyVolume,
  manifest,
  mustMend,
  problemsOf,
  repairOptions,
  Surgeon,
  type Volume,
} from "./repair_support.ts";

const PAIRS = 14;

const value = (blkno: number, flags = 0): Uint8Array => {
  const val = DataExtentVal.alloc();
  val.blkno = blkno;
  val.flags = flags;
  return val.bytes;
};

/** A file whose first blocks are 14 extents of two and one of one, in reverse order on the device. */
function scatter(v: Volume): { s: Surgeon; ino: number; blkno: number; end: number } {
  const s = new Surgeon(v.meta), ino = v.inos.get("file39")!;
  const key: Key = firstKey(s, ino, TYPE_DATA_EXTENT);
  const { blkno } = DataExtentVal.at(s.value(key)!), end = 2 * PAIRS;
  assert.equal(key.third, end + 1);
  s.removeItem(key);
  for (let i = 0; i < PAIRS; i++) {
    s.insertItem(extentKey(ino, 2 * i + 1, 2), value(blkno + end - 2 * i - 1));
  }
  s.insertItem(extentKey(ino, end, 1), value(blkno));
  assert.deepEqual(problemsOf(v.meta, v.data), []);
  return { s, ino, blkno, end };
}

Deno.test("repair: of extents that overlap the one with a wrong length gets the right one", async () => {
  const v = await healthyVolume(), { s, ino, blkno, end } = scatter(v);
  const healthy = manifest(v.meta, v.data), lines: string[] = [];
  s.removeItem(extentKey(ino, end, 1));
  s.insertItem(extentKey(ino, end, end + 1), value(blkno));
  mustMend(v, healthy, ["extent-file-overlap", "inode-blocks"], [], {
    ...repairOptions(),
    log: (line) => lines.push(line),
  });
  assert.ok(lines.includes(`inode ${ino}: of the 29 blocks of the extent at block 0 it counts 1`));
  assert.ok(!lines.some((line) => /lost|mapped twice/.test(line)), lines.join("\n"));
});

Deno.test("repair: of extents that overlap one that is not counted goes", async () => {
  for (const flags of [0, SEF_OFFLINE]) {
    const v = await healthyVolume(), { s, ino, blkno } = scatter(v);
    const healthy = manifest(v.meta, v.data);
    s.insertItem(extentKey(ino, 12, 10), value(flags === 0 ? blkno + 3 : 0, flags));
    mustMend(v, healthy, ["extent-file-overlap"]);
  }
});

Deno.test("repair: where counts do not tell which extent is wrong the later one is cut", async () => {
  const v = await healthyVolume(), { s, ino } = scatter(v), lines: string[] = [];
  s.editInode(ino, (inode) => inode.onlineBlocks += 100);
  s.insertItem(extentKey(ino, 12, 10), value(0, SEF_OFFLINE));
  repairVolume(v.meta, v.data, { ...repairOptions(), log: (line) => lines.push(line) });
  assert.deepEqual(problemsOf(v.meta, v.data), []);
  assert.ok(lines.some((line) => line.includes("mapped twice")), lines.join("\n"));
});

Deno.test("repair: a file is looked through once a round, however many of its extents are bad", async () => {
  for (const code of ["extent-outside", "extent-file-overlap"]) {
    const v = await healthyVolume(), { s, ino, blkno, end } = scatter(v);
    for (let i = 0; i < PAIRS; i++) {
      const key = extentKey(ino, 2 * i + 1, 2);
      if (code === "extent-outside") s.replaceItem(key, value(v.data.size / SM_SIZE + 2 * i));
      else if (i > 0) {
        s.removeItem(key);
        s.insertItem(extentKey(ino, 2 * i + 1, 3), value(blkno + end - 2 * i - 2));
      }
    }
    const found = problemsOf(v.meta, v.data).filter((p) => p.code === code);
    assert.ok(found.length >= PAIRS - 1, `${found.length}`);
    let rounds = 0, looks = 0;
    const { each } = FixScope.prototype;
    FixScope.prototype.each = function (...range) {
      if (range[0] === ino && range[1] === TYPE_DATA_EXTENT) looks++;
      return each.apply(this, range);
    };
    try {
      repairVolume(v.meta, v.data, { ...repairOptions(), onRound: () => rounds++ });
    } finally {
      FixScope.prototype.each = each;
    }
    assert.deepEqual(problemsOf(v.meta, v.data), []);
    assert.ok(looks > 0 && looks <= rounds, `${looks} looks in ${rounds} rounds`);
  }
});
