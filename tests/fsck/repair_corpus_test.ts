/**
 * Repair against the corruption corpora: single wrong fields, damaged, swapped, stale and torn
 * blocks, wrong and missing references, missing and doubled items, each in a volume made by mounts
 * and in one with everything that the format knows. What is demanded of each: repair_trial.ts.
 *
 * A sample by default, and in any case what once lost files. `SCOUTFS_REPAIR_STRIDE=1` runs all of
 * some 14,200, in about 25 minutes of one processor; `SCOUTFS_REPAIR_SHARD=0/2` every second of them.
 */

import assert from "node:assert/strict";
import type { Problem } from "../../fs/check/check.ts";
import { useFastCrc32c } from "../../fs/sys/crc.ts";
import { healthyVolume } from "./repair_support.ts";
import { type Mutant, mutantsOf, type Pair, Trial } from "./repair_trial.ts";
import { makeSample } from "./sample.ts";

const STRIDE = Number(Deno.env.get("SCOUTFS_REPAIR_STRIDE") ?? 61);
const [SHARD, SHARDS] = (Deno.env.get("SCOUTFS_REPAIR_SHARD") ?? "0/1").split("/").map(Number) as [
  number,
  number,
];

assert.ok(SHARD < SHARDS, "SCOUTFS_REPAIR_SHARD is a number below that of all: 0/2, 1/2");

/** What cannot be mended, each with its reason. */
const LEFT: readonly (readonly [codes: RegExp, reason: string])[] = [
  [/^(super-no-slots|super-slot)$/, "nothing tells the address of a quorum slot"],
  [/^super-(magic|pair|role)$/, "a device that is not provably the right one is not written"],
];

/** Damage that once lost what it did not touch: bounds, levels, heights and counts of whole blocks. */
const ALWAYS =
  /log tree .*(parent btree_item\.key\.(first|zone)|btree_block\.(level|nr_items)|item_root\.height)/;

async function volume(name: string): Promise<Pair> {
  // A mount wants more room than the format does.
  if (name === "sample") return makeSample({ metaBlocks: 4096, dataBlocks: 1 << 18 });
  return await healthyVolume();
}

const mayBeLeft = (left: readonly Problem[]): boolean =>
  left.every((p) => LEFT.some(([codes]) => codes.test(p.code)));

for (const name of ["mounts", "sample"]) {
  Deno.test(`repair: the corpora on a volume of ${name}`, async () => {
    await useFastCrc32c();
    const base = await volume(name), all = mutantsOf(base), trial = new Trial(base);
    const chosen = [...all.entries()].filter(([i, { name }]) =>
      (i % STRIDE === 0 || STRIDE > 1 && i % 3 === 0 && ALWAYS.test(name)) && i % SHARDS === SHARD
    );
    const failures: string[] = [];
    for (const [i, mutant] of chosen as [number, Mutant][]) {
      const failure = await trial.run(mutant, mayBeLeft);
      if (failure === null) continue;
      failures.push(`#${i} ${mutant.name}: ${failure}`);
      if (STRIDE === 1) console.log(failures.at(-1));
    }
    if (STRIDE === 1) console.log(`${name}: ${chosen.length} of ${all.length} tried`);
    assert.deepEqual(failures, []);
  });
}
