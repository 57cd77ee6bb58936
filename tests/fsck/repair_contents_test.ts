/**
 * Repair of what inodes hold, where what else is stored tells what was there: the flags of extents by
 * the inode's block counts, attributes by their names and lengths.
 */

import assert from "node:assert/strict";
import { SEF_OFFLINE, SEF_UNWRITTEN, TYPE_DATA_EXTENT } from "../../format/constants.ts";
import { DataExtentVal, extentKey } from "../../format/items.ts";
import type { Key } from "../../format/key.ts";
import { repairVolume } from "../../fs/check/repair/repair.ts";
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

const log = (lines: string[]) => ({
  ...repairOptions(),
  log: (line: string) => lines.push(line),
});

/** The first extent of a file. */
function extentOf(v: Volume, path: string): { s: Surgeon; ino: number; key: Key } {
  const s = new Surgeon(v.meta), ino = v.inos.get(path)!;
  return { s, ino, key: firstKey(s, ino, TYPE_DATA_EXTENT) };
}

function setFlags(s: Surgeon, key: Key, flags: number): void {
  assert.ok(s.editItem(key, (val) => void (DataExtentVal.at(val).flags = flags)) > 0);
}

/** A file of which the first extent is offline: mapped, for what was preallocated, or not. */
async function offlineVolume(
  mapped: boolean,
): Promise<{ v: Volume; s: Surgeon; ino: number; key: Key }> {
  const v = await healthyVolume(), { s, ino, key } = extentOf(v, "file39");
  s.editItem(key, (val) => {
    const e = DataExtentVal.at(val);
    e.flags = mapped ? SEF_OFFLINE | SEF_UNWRITTEN : SEF_OFFLINE;
    if (!mapped) e.blkno = 0;
  });
  s.editInode(ino, (inode) => {
    inode.onlineBlocks -= key.third;
    inode.offlineBlocks += key.third;
  });
  repairVolume(v.meta, v.data, repairOptions());
  assert.deepEqual(problemsOf(v.meta, v.data), []);
  return { v, s, ino, key };
}

Deno.test("repair: written blocks that the inode counts stay so, whatever their flags say", async () => {
  for (const flags of [SEF_OFFLINE, 4, SEF_OFFLINE | 8, SEF_UNWRITTEN | 4]) {
    const v = await healthyVolume(), { s, key } = extentOf(v, "file39"), lines: string[] = [];
    const healthy = manifest(v.meta, v.data);
    setFlags(s, key, flags);
    mustMend(v, healthy, ["extent-item"], [], log(lines));
    assert.equal(DataExtentVal.at(s.value(key)!).flags, 0, `flags ${flags}`);
    assert.ok(!lines.some((line) => /lost/.test(line)), lines.join("\n"));
  }
});

Deno.test("repair: offline blocks that the inode counts stay offline", async () => {
  for (const mapped of [false, true]) {
    const { v, s, ino, key } = await offlineVolume(mapped), lines: string[] = [];
    const healthy = manifest(v.meta, v.data);
    const right = s.value(key)!;
    setFlags(s, key, mapped ? SEF_OFFLINE : 0);
    mustMend(v, healthy, ["extent-item"], [], log(lines));
    assert.deepEqual(s.value(key), right);
    assert.ok(!lines.some((line) => /lost|removed/.test(line)), lines.join("\n"));
    assert.ok(healthy.get("/file39")?.includes("offline"), `inode ${ino}`);
  }
});

Deno.test("repair: an extent that means nothing and is not counted goes", async () => {
  const v = await healthyVolume(), { s, ino, key } = extentOf(v, "file39"), lines: string[] = [];
  const healthy = manifest(v.meta, v.data);
  s.insertItem(extentKey(ino, key.second + 1000, 5), DataExtentVal.alloc().bytes);
  mustMend(v, healthy, ["extent-item"], [], log(lines));
  assert.ok(lines.includes(`inode ${ino}: an extent that means nothing was removed`));
});
