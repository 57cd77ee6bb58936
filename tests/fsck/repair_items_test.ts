/** Repair of items: entries, inodes, indexes, totals, search. */

import assert from "node:assert/strict";
import { TYPE_DATA_EXTENT } from "../../format/constants.ts";
import { repairVolume } from "../../fs/check/repair/repair.ts";
import { CASES, entryFinder, firstKey } from "./item_cases.ts";
import {
  healthyVolume,
  manifest,
  mustMend,
  problemsOf,
  repairOptions,
  Surgeon,
} from "./repair_support.ts";

for (const c of CASES) {
  Deno.test(`repair: ${c.name}`, async () => {
    const v = await healthyVolume();
    const healthy = manifest(v.meta, v.data);
    const s = new Surgeon(v.meta);
    c.damage(s, v, entryFinder(s, v));
    mustMend(v, healthy, c.codes, c.touched);
    c.after?.(manifest(v.meta, v.data), v);
  });
}

Deno.test("repair: what is lost is said", async () => {
  const v = await healthyVolume(), s = new Surgeon(v.meta), holey = v.inos.get("a/file4")!;
  s.removeItem(firstKey(s, holey, TYPE_DATA_EXTENT));
  const dangling = CASES.find((c) => c.name === "an entry that leads nowhere")!;
  dangling.damage(s, v, entryFinder(s, v));
  const lines: string[] = [];
  repairVolume(v.meta, v.data, { ...repairOptions(), log: (line) => lines.push(line) });
  assert.deepEqual(problemsOf(v.meta, v.data), []);
  const dir = v.inos.get("a");
  assert.deepEqual(lines, [
    `entry dangling of directory ${dir} was removed: inode 999999 does not exist`,
    `inode ${holey}: it counts 4 blocks, its extents have 0: what it had there is lost`,
  ]);
});
