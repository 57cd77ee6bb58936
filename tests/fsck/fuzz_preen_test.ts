/** What -p promises, of a few hundred damaged volumes (fuzz_preen.ts runs as many as one likes). */

import assert from "node:assert/strict";
import { makeBase } from "./fuzz_bases.ts";
import { PreenTarget } from "./fuzz_preen.ts";

/** Volumes, how many seeds of each, and seeds that once failed. */
const RUNS: readonly (readonly [base: string, runs: number, seeds: readonly number[]])[] = [
  ["sample", 150, [41000027, 45001377]],
  ["mounts", 120, [41000005, 41000034, 41000040, 41000138, 44000533]],
  ["mounts-v1", 60, [41000147]],
];

for (const [base, runs, seeds] of RUNS) {
  Deno.test(`fuzz: -p loses nothing of ${runs} damaged volumes of ${base}`, async () => {
    const target = new PreenTarget(await makeBase(base));
    const consecutive = Array.from({ length: runs }, (_, i) => i + 1);
    const outcomes = [...seeds, ...consecutive].map((seed) => target.run(seed));
    assert.deepEqual(outcomes.filter((o) => o.failure !== null), []);
    const some = (what: RegExp) => outcomes.filter((o) => what.test(o.what)).length;
    assert.ok(some(/^mended/) > runs / 20, "-p mends what it may");
    assert.ok(some(/^left/) > runs / 5);
  });
}
