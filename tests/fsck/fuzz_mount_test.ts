/**
 * A few hundred mounts of damaged volumes, and seeds that failed. With SCOUTFS_FUZZ_MOUNTS=N so many
 * more of each volume; `fuzz_main.ts … mount` runs campaigns.
 */

import assert from "node:assert/strict";
import { makeBase } from "./fuzz_bases.ts";
import type { Outcome } from "./fuzz.ts";
import { MountTarget } from "./fuzz_mount.ts";

const MORE = Number(Deno.env.get("SCOUTFS_FUZZ_MOUNTS") ?? 0);
const RUNS: readonly (readonly [base: string, runs: number])[] = [
  ["sample", 130],
  ["mounts", 130],
  ["mounts-v1", 60],
];

/** Runs that once went wrong. */
const SEEDS: Readonly<Record<string, readonly number[]>> = {
  sample: [2381],
  mounts: [2161, 104618],
  "mounts-v1": [2629, 2662],
};

for (const [base, least] of RUNS) {
  const runs = least + MORE;
  Deno.test(`fuzz: ${runs} damaged volumes of ${base} are mounted as they are`, async () => {
    const target = new MountTarget(await makeBase(base));
    const outcomes: Outcome[] = [];
    const consecutive = Array.from({ length: runs }, (_, i) => i + 1);
    for (const seed of [...SEEDS[base] ?? [], ...consecutive]) {
      outcomes.push(await target.run(seed, true));
    }
    assert.deepEqual(outcomes.filter((o) => o.failure !== null), []);
    assert.ok(outcomes.filter((o) => o.what.startsWith("worked")).length > runs / 3);
    assert.ok(outcomes.some((o) => o.what === "worked: some EIO"));
  });
}
