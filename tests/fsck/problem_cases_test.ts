/**
 * The table of problems keeps its word, problem by problem: a check reports it; -p mends what loses
 * nothing and leaves the rest; -y mends all that can be mended; and where nothing but what loses
 * nothing was wrong, everything is what it was before the damage.
 */

import assert from "node:assert/strict";
import { checkVolume, isSound } from "../../fs/check/check.ts";
import { type ProblemCode, PROBLEMS } from "../../fs/check/problems.ts";
import { repairVolume } from "../../fs/check/repair/repair.ts";
import { useFastCrc32c } from "../../fs/sys/crc.ts";
import { factsOf } from "./facts.ts";
import { preen } from "./preen.ts";
import { CAUSES } from "./problem_cases.ts";
import { repairOptions } from "./repair_support.ts";
import { type Mutant, mutantsOf, type Pair, readNamespace } from "./repair_trial.ts";
import { makeSample } from "./sample.ts";

await useFastCrc32c();
const sample = makeSample();
const mutants: readonly Mutant[] = mutantsOf(sample);
const before = readNamespace(sample.meta, sample.data);

/** The volume with what causes a problem. */
function broken(code: ProblemCode): Pair {
  const cause = CAUSES[code];
  if (typeof cause === "object" && "make" in cause) return cause.make();
  const v = { meta: sample.meta.snapshot(), data: sample.data.snapshot() };
  if (typeof cause === "function") cause(v);
  else {
    const mutant = mutants.find(({ name }) => cause.test(name));
    assert.ok(mutant !== undefined, `there is no change ${cause}`);
    mutant.damage(v.meta, v.data);
  }
  return v;
}

for (const code of Object.keys(PROBLEMS) as ProblemCode[]) {
  Deno.test(`problem ${code}: found, and mended as the table says`, () => {
    const { mending, severity } = PROBLEMS[code];
    const v = broken(code), found = checkVolume(v.meta, v.data);
    const codes = found.problems.filter((p) => p.severity !== "info").map((p) => p.code);
    assert.ok(found.counts.has(code), `not found, but: ${[...new Set(codes)].join(" ")}`);
    assert.equal(found.problems.find((p) => p.code === code)?.severity, severity);

    const safe = repairVolume(v.meta, v.data, repairOptions("safe"));
    assert.equal(safe.lossy, false);
    const harmless = codes.every((c) => PROBLEMS[c].mending === "safe");
    if (mending === "safe") {
      if (harmless) assert.ok(isSound(safe.after), left(safe.after));
    } else if (severity !== "info") {
      assert.ok(safe.after.counts.has(code), "-p has mended what may lose something");
    }
    if (harmless && severity !== "info") same(v);

    const w = broken(code), all = repairVolume(w.meta, w.data, repairOptions());
    if (mending === "none") {
      if (severity !== "info") assert.ok(all.after.counts.has(code));
    } else assert.ok(isSound(all.after), `${all.stopped}: ${left(all.after)}`);
    if (harmless && severity !== "info") same(w);
  });
}

Deno.test("problems: -p takes nothing from a -y that follows", () => {
  const facts = factsOf(sample.meta, sample.data), what: string[] = [];
  for (const code of Object.keys(PROBLEMS) as ProblemCode[]) {
    const cause = CAUSES[code];
    if (typeof cause === "object" && "make" in cause) continue;
    const { random, now } = repairOptions();
    const result = preen(facts, broken(code), broken(code), { random, now });
    assert.equal(result.failure, null, code);
    what.push(result.what);
  }
  assert.ok(what.filter((w) => w === "mended").length > 30, what.join());
});

const left = (r: ReturnType<typeof checkVolume>): string =>
  r.problems.filter((p) => p.severity !== "info").map((p) => `${p.code}: ${p.message}`).join("; ");

function same({ meta, data }: Pair): void {
  const now = readNamespace(meta, data);
  assert.deepEqual([...now.inodes], [...before.inodes]);
  assert.deepEqual([...now.paths], [...before.paths]);
}
