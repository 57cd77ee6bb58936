/** A few hundred damaged volumes (fuzz_main.ts runs as many as one likes), and seeds that failed. */

import assert from "node:assert/strict";
import { makeBase } from "./fuzz_bases.ts";
import { type Outcome, Target } from "./fuzz.ts";

const RUNS: readonly (readonly [base: string, runs: number])[] = [
  ["sample", 150],
  ["mounts", 60],
  ["mounts-v1", 30],
];

/** Runs that once went wrong. */
const SEEDS: Readonly<Record<string, readonly number[]>> = {
  sample: [
    803320,
    461,
    700,
    302845,
    401814,
    1304788,
    2425105,
    6100385,
    8200039,
    8200042,
    70014285,
    70026105,
    100012144,
  ],
  mounts: [60091458, 85, 303711, 2604730, 1518247, 2207385, 2212364, 2215630, 5200313],
  "mounts-v1": [610982, 2600684, 2612004, 1503009, 1505709],
};

for (const [base, runs] of RUNS) {
  Deno.test(`fuzz: ${runs} damaged volumes of ${base} are mended`, async () => {
    const target = new Target(await makeBase(base));
    const outcomes: Outcome[] = [];
    const consecutive = Array.from({ length: runs }, (_, i) => i + 1);
    for (const seed of [...SEEDS[base] ?? [], ...consecutive]) {
      outcomes.push(await target.run(seed, true));
    }
    assert.deepEqual(outcomes.filter((o) => o.failure !== null), []);
    assert.ok(outcomes.filter((o) => o.what === "mended").length > runs / 2);
  });
}
