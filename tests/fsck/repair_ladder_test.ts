/**
 * The ladder of a repair: when what a problem is about was mended in vain it goes, and what is left is
 * a sound volume all the same. Each case of item damage is mended on each rung.
 */

import assert from "node:assert/strict";
import { isSound } from "../../fs/check/check.ts";
import { Ladder, MOST_VAIN_ROUNDS, RUNGS } from "../../fs/check/repair/escalation.ts";
import { repairVolume } from "../../fs/check/repair/repair.ts";
import { CASES, entryFinder } from "./item_cases.ts";
import { readAll } from "./fuzz.ts";
import { healthyVolume, problemsOf, repairOptions, Surgeon } from "./repair_support.ts";

const MEMORY = 64 << 20;

/** The rungs of the same problem in rounds that follow each other. */
function rungs(rounds: number, values: (round: number) => Record<string, number>): number[] {
  const ladder = new Ladder(0, MEMORY);
  return Array.from({ length: rounds }, (_, i) => {
    ladder.nextRound();
    return ladder.climb("inode-size", values(i));
  });
}

Deno.test("ladder: a problem that comes back climbs to the top", () => {
  const climbed = rungs(MOST_VAIN_ROUNDS + 2, () => ({ ino: 5, found: 1 }));
  assert.deepEqual(climbed, [0, 0, 0, 1, 1, 2, 2, 2, 2]);
  assert.ok(climbed.lastIndexOf(RUNGS - 1) - climbed.indexOf(RUNGS - 1) > 1);
});

Deno.test("ladder: a problem whose values change climbs as well, later", () => {
  assert.deepEqual(
    rungs(14, (round) => ({ ino: 5, found: round })),
    [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 2, 2, 2],
  );
});

Deno.test("ladder: many problems of one object in a round are one try; others are their own", () => {
  const ladder = new Ladder(0, MEMORY);
  for (let round = 0; round < 3; round++) {
    ladder.nextRound();
    for (let id = 0; id < 20; id++) assert.equal(ladder.climb("xattr", { ino: 5, id }), 0);
  }
  ladder.nextRound();
  assert.equal(ladder.climb("xattr", { ino: 6, id: 1 }), 0);
  assert.equal(ladder.climb("xattr", { ino: 5, id: 1 }), 1);
  assert.equal(ladder.climbs, 2);
});

for (let rung = 1; rung < RUNGS; rung++) {
  for (const c of CASES) {
    Deno.test(`ladder: ${c.name}, on rung ${rung}`, async () => {
      const v = await healthyVolume(), s = new Surgeon(v.meta);
      c.damage(s, v, entryFinder(s, v));
      const result = repairVolume(v.meta, v.data, { ...repairOptions(), rung });
      assert.ok(isSound(result.after), `left: ${result.after.problems.map((p) => p.message)}`);
      assert.deepEqual(problemsOf(v.meta, v.data), []);
      assert.equal(repairVolume(v.meta, v.data, repairOptions()).commits, 0);
      readAll(v);
    });
  }
}
