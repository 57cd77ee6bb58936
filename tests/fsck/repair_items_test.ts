/** Repair of items: entries, inodes, indexes, totals, search. */

import assert from "node:assert/strict";
import { TYPE_DATA_EXTENT } from "../../format/constants.ts";
import { direntHash } from "../../format/hash.ts";
import { Dirent, direntKey } from "../../format/items.ts";
import { repairVolume } from "../../fs/check/repair/repair.ts";
import { CASES, entryFinder, firstKey, type StoredEntry } from "./item_cases.ts";
import {
  bytes,
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

Deno.test("repair: data with unknown flags is kept when its inode counts it", async () => {
  const v = await healthyVolume(), s = new Surgeon(v.meta), healthy = manifest(v.meta, v.data);
  s.editItem(firstKey(s, v.inos.get("a/file4")!, TYPE_DATA_EXTENT), (val) => val[8] = 0x8a);
  assert.equal(problemsOf(v.meta, v.data)[0]?.code, "extent-item");
  repairVolume(v.meta, v.data, repairOptions());
  assert.deepEqual(problemsOf(v.meta, v.data), []);
  assert.deepEqual(manifest(v.meta, v.data), healthy);
});

Deno.test("repair: -p removes no entry that leads nowhere, and leaves all as it was", async () => {
  const dangling = CASES.find((c) => c.name === "an entry that leads nowhere")!;
  const samePosition = (s: Surgeon, { dir, pos }: StoredEntry) => {
    const name = bytes("dangling"), hash = direntHash(name);
    const val = new Uint8Array(Dirent.SIZE + name.length), d = Dirent.at(val);
    d.ino = 999_999;
    d.hashHi = hash.hi;
    d.hashLo = hash.lo;
    d.pos = pos;
    d.type = 4;
    val.set(name, Dirent.SIZE);
    s.insertItem(direntKey(dir, hash, pos), val);
  };
  for (const twice of [false, true]) {
    const v = await healthyVolume(), s = new Surgeon(v.meta), find = entryFinder(s, v);
    if (twice) samePosition(s, find("file3"));
    else dangling.damage(s, v, find);
    s.editSuper((sb) => sb.dataAlloc.totalLen += 7);
    const codes = problemsOf(v.meta, v.data).map((p) => p.code);
    assert.equal(codes.includes("dir-pos-twice"), twice, codes.join());
    const { writes } = v.meta, result = repairVolume(v.meta, v.data, repairOptions("safe"));
    assert.equal(result.commits, 0);
    assert.equal(v.meta.writes, writes);
    assert.deepEqual(
      result.after.problems.map((p) => p.code),
      result.before.problems.map((p) => p.code),
    );
    assert.equal(repairVolume(v.meta, v.data, repairOptions()).stopped, null);
    assert.deepEqual(problemsOf(v.meta, v.data), []);
  }
});
