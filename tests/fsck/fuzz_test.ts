/** A few hundred damaged volumes (fuzz_main.ts runs as many as one likes). */

import assert from "node:assert/strict";
import { useFastCrc32c } from "../../fs/sys/crc.ts";
import { fuzz, Target } from "./fuzz.ts";
import { makeSample } from "./sample.ts";

Deno.test("fuzz: no crash, no wrong verdict", async () => {
  await useFastCrc32c();
  const sample = makeSample();
  const target = new Target({ name: "sample", meta: sample.meta, data: sample.data });
  const { counts, failures } = fuzz([target], 1, 240);
  assert.deepEqual(failures.slice(0, 5), []);
  assert.equal(counts.runs, 240);
  assert.ok(counts.mustReport > 40);
});
