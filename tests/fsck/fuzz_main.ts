/** A long fuzz campaign: `deno run -A tests/fsck/fuzz_main.ts [RUNS] [SEED] [SECONDS] [repair]`. */

import { useFastCrc32c } from "../../fs/sys/crc.ts";
import { fuzz, Target } from "./fuzz.ts";
import { makeSample } from "./sample.ts";

const repair = Deno.args.includes("repair");
const [runs, seed, seconds] = Deno.args.filter((a) => a !== "repair").map(Number);
await useFastCrc32c();
const sample = makeSample();
const target = new Target({ name: "sample", meta: sample.meta, data: sample.data });
const { counts, failures } = fuzz(
  [target],
  seed ?? 1,
  runs ?? 10_000,
  seconds ?? Infinity,
  repair,
);
for (const f of failures) console.log(`${f.subject} seed ${f.seed}: ${f.what}`);
console.log(JSON.stringify(counts), `${failures.length} failures`);
const peak = /VmHWM:\s*(.*)/.exec(Deno.readTextFileSync("/proc/self/status"));
console.log(`peak memory ${peak?.[1]}`);
Deno.exit(failures.length === 0 ? 0 : 1);
