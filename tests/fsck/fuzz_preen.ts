/**
 * A fuzz campaign of -p (preen.ts): the damage of fuzz.ts, seed by seed.
 *
 *   deno run -A tests/fsck/fuzz_preen.ts FIRST COUNT        a campaign
 *   deno run -A tests/fsck/fuzz_preen.ts one BASE SEED      one run again
 */

import { type Facts, factsOf } from "./facts.ts";
import { type Outcome, Target } from "./fuzz.ts";
import { baseNames, makeBase, type Subject } from "./fuzz_bases.ts";
import { preen } from "./preen.ts";
import { SeededRandom } from "../helpers/sim_reactor.ts";

/** One volume whose damage -p meets. */
export class PreenTarget {
  readonly #target: Target;
  readonly #before: Facts;

  constructor(private readonly subject: Subject) {
    this.#target = new Target(subject);
    this.#before = factsOf(subject.meta, subject.data);
  }

  run(seed: number): Outcome {
    const { v, again, kind, names } = this.#target.damaged(seed);
    const base = { base: this.subject.name, seed, kind };
    try {
      const random = new SeededRandom(seed), now = { sec: 1_700_000_000, nsec: 0 };
      const { what, failure } = preen(this.#before, v, again(), { random, now });
      return { ...base, what, failure: failure === null ? null : `${failure}\n${names}` };
    } catch (e) {
      const why = e instanceof Error ? e.stack ?? e.message : String(e);
      return { ...base, what: "FAILED threw", failure: why };
    }
  }
}

const targets = new Map<string, PreenTarget>();

async function run(base: string, seed: number): Promise<Outcome> {
  let target = targets.get(base);
  if (target === undefined) targets.set(base, target = new PreenTarget(await makeBase(base)));
  return target.run(seed);
}

async function campaign(first: number, count: number): Promise<number> {
  const names = baseNames(), counts = new Map<string, number>();
  let failures = 0;
  for (let seed = first; seed < first + count; seed++) {
    const o = await run(names[seed % names.length] as string, seed);
    const what = `${o.kind}: ${o.what}`;
    counts.set(what, (counts.get(what) ?? 0) + 1);
    if (o.failure === null) continue;
    failures++;
    console.log(`${o.base} ${seed} (${o.kind}): ${o.what}\n${o.failure}\n`);
  }
  for (const [what, n] of [...counts].sort(([a], [b]) => a < b ? -1 : 1)) {
    console.log(`${String(n).padStart(7)}  ${what}`);
  }
  console.log(`${count} runs, ${failures} failures`);
  return failures;
}

if (import.meta.main) {
  const [first, second, third] = Deno.args;
  if (first === "one") {
    const { what, failure } = await run(second as string, Number(third));
    console.log(`${what}\n${failure ?? ""}`);
    Deno.exit(failure === null ? 0 : 1);
  }
  Deno.exit(await campaign(Number(first ?? 1), Number(second ?? 1000)) === 0 ? 0 : 1);
}
