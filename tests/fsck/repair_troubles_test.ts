/** Repair of items when something goes wrong around it: no room for temporary files. */

import assert from "node:assert/strict";
import { ENOSPC } from "../../format/errno.ts";
import { DirentIndex } from "../../fs/check/repair/dirent_index.ts";
import { repairVolume } from "../../fs/check/repair/repair.ts";
import { TempFileError } from "../../fs/check/temp_file.ts";
import { CASES, entryFinder } from "./item_cases.ts";
import { healthyVolume, problemsOf, repairOptions, Surgeon } from "./repair_support.ts";

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
