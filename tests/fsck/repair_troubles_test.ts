/** Repair of items when something goes wrong around it: no room for temporary files, data that cannot be read. */

import assert from "node:assert/strict";
import { SM_SIZE, TYPE_DATA_EXTENT } from "../../format/constants.ts";
import { ENOSPC } from "../../format/errno.ts";
import { DataExtentVal } from "../../format/items.ts";
import { DirentIndex } from "../../fs/check/repair/dirent_index.ts";
import { repairVolume } from "../../fs/check/repair/repair.ts";
import { TempFileError } from "../../fs/check/temp_file.ts";
import { CASES, entryFinder, firstKey } from "./item_cases.ts";
import {
  healthyVolume,
  manifest,
  mustKeep,
  problemsOf,
  repairOptions,
  Surgeon,
} from "./repair_support.ts";

Deno.test("repair: no room for a temporary file stops it before anything is written", async () => {
  const v = await healthyVolume(), s = new Surgeon(v.meta);
  CASES.find((c) => c.name === "a missing dirent")!.damage(s, v, entryFinder(s, v));
  const { writes } = v.meta, { keysAt } = DirentIndex.prototype;
  DirentIndex.prototype.keysAt = () => {
    throw new TempFileError(ENOSPC, "no room");
  };
  try {
    for (const mode of ["safe", "all"] as const) {
      assert.throws(() => repairVolume(v.meta, v.data, repairOptions(mode)), TempFileError);
    }
  } finally {
    DirentIndex.prototype.keysAt = keysAt;
  }
  assert.equal(v.meta.writes, writes);
  repairVolume(v.meta, v.data, repairOptions());
  assert.deepEqual(problemsOf(v.meta, v.data), []);
});

Deno.test("repair: shared data that cannot be read stays shared, all else is mended", async () => {
  const v = await healthyVolume(), s = new Surgeon(v.meta), healthy = manifest(v.meta, v.data);
  const extent = (path: string) => firstKey(s, v.inos.get(path)!, TYPE_DATA_EXTENT);
  const { blkno } = DataExtentVal.at(s.value(extent("a/file37"))!);
  s.editItem(extent("file39"), (val) => DataExtentVal.at(val).blkno = blkno);
  s.editSuper((sb) => sb.inodeCount += 5);
  const found = problemsOf(v.meta, v.data).map((p) => p.code);
  assert.ok(found.includes("data-block-twice") && found.includes("inode-count"), found.join());
  const at = (blkno + 2) * SM_SIZE, lines: string[] = [];
  const bad = {
    op: "read",
    kind: "fail",
    nth: 0,
    sticky: true,
    from: at,
    to: at + SM_SIZE,
  } as const;
  v.data.inject(bad);
  const result = repairVolume(v.meta, v.data, {
    ...repairOptions(),
    log: (line) => lines.push(line),
  });
  assert.equal(result.failed, false);
  assert.deepEqual(result.after.problems.map((p) => p.code), ["data-block-twice"]);
  assert.ok(lines.some((line) => /no copy .* cannot be read/.test(line)), lines.join("\n"));
  assert.deepEqual(DataExtentVal.at(s.value(extent("file39"))!).blkno, blkno);
  // The sector answers again.
  v.data.clearFaults();
  repairVolume(v.meta, v.data, repairOptions());
  assert.deepEqual(problemsOf(v.meta, v.data), []);
  mustKeep(v, healthy, ["/file39"]);
});
