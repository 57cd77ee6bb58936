/**
 * A long fuzz campaign. Seeds are consecutive numbers; a seed chooses the volume and the damage.
 *
 *   deno run -A tests/fsck/fuzz_main.ts FIRST COUNT [SECONDS] [check | mount] [--jobs N]   a campaign
 *   deno run -A tests/fsck/fuzz_main.ts one BASE SEED [mount]           one run again, as reported
 *
 * A campaign `mount` mounts the damaged volumes (fuzz_mount.ts) instead of checking them; every fourth
 * is repaired afterwards.
 *
 * The runs are made by child processes, N at a time, of which each takes every Nth seed. They are
 * watched: a run of more than a minute of processor time is a hang, more than 2 GiB of memory is too
 * much, and an end without a result is a crash; each counts as a failure of its seed, and the campaign
 * goes on with the next.
 */

import { parseArgs } from "node:util";
import { baseNames, makeBase } from "./fuzz_bases.ts";
import { type Outcome, Target } from "./fuzz.ts";
import { MountTarget } from "./fuzz_mount.ts";

/** Of the processor for one run, and of the wall clock, which others may make slow. */
const HANG_CPU_MS = 60_000;
const HANG_MS = 600_000;
/** Ticks of /proc/PID/stat. */
const TICK_MS = 10;
const MEMORY_KIB = 2 << 20;
const LOOK_MS = 1000;
const PROGRESS = 2000;

const targets = new Map<string, Target | MountTarget>();

/** `mode`: "repair", "check" or "mount". */
async function runOne(base: string, seed: number, mode: string): Promise<Outcome> {
  let target = targets.get(base);
  if (target === undefined) {
    const subject = await makeBase(base);
    target = mode === "mount" ? new MountTarget(subject) : new Target(subject);
    targets.set(base, target);
  }
  return await target.run(seed, mode === "mount" ? seed % 4 === 0 : mode !== "check");
}

/** The seeds from `first` to before `end`, in steps of `step`. */
interface Seeds {
  readonly first: number;
  readonly end: number;
  readonly step: number;
}

/** Runs seeds, an outcome a line. */
async function child({ first, end, step }: Seeds, seconds: number, mode: string) {
  const stop = performance.now() + seconds * 1000, names = baseNames();
  for (let seed = first; seed < end && performance.now() < stop; seed += step) {
    const outcome = await runOne(names[seed % names.length] as string, seed, mode);
    console.log(JSON.stringify(outcome));
  }
}

class Campaign {
  readonly #counts = new Map<string, number>();
  readonly #byBase = new Map<string, Map<string, number>>();
  runs = 0;
  failures = 0;
  #peakKib = 0;
  readonly #processes = new Set<Deno.ChildProcess>();
  #stopped = false;

  add(o: Outcome): void {
    if (++this.runs % PROGRESS === 0) console.log(`… ${this.runs} runs, ${this.failures} failures`);
    this.#count(this.#counts, `${o.kind}: ${o.what}`);
    let base = this.#byBase.get(o.base);
    if (base === undefined) this.#byBase.set(o.base, base = new Map());
    this.#count(base, o.what.replace(/:.*/, ""));
    if (o.failure === null) return;
    this.failures++;
    console.log(`${o.base} ${o.seed} (${o.kind}): ${o.what}\n${o.failure}\n`);
  }

  #count(counts: Map<string, number>, what: string): void {
    counts.set(what, (counts.get(what) ?? 0) + 1);
  }

  print(): void {
    const sorted = (m: Map<string, number>) => [...m].sort(([a], [b]) => a < b ? -1 : 1);
    for (const [what, n] of sorted(this.#counts)) console.log(`${String(n).padStart(7)}  ${what}`);
    for (const [base, counts] of this.#byBase) {
      console.log(`${base}: ${sorted(counts).map(([what, n]) => `${n} ${what}`).join(", ")}`);
    }
    const peak = Math.round(this.#peakKib / 1024);
    console.log(`${this.runs} runs, ${this.failures} failures, peak memory ${peak} MiB`);
  }

  /** Ends the children; what they have done counts. */
  stop(): void {
    this.#stopped = true;
    for (const process of this.#processes) process.kill("SIGKILL");
  }

  /** Runs children, one after the other, until all seeds are done or the time is up. */
  async run({ first, end, step }: Seeds, seconds: number, mode: string): Promise<void> {
    const started = performance.now(), names = baseNames();
    for (let next = first; next < end;) {
      const left = seconds - (performance.now() - started) / 1000;
      if (left <= 0) break;
      const { done, why } = await this.#child({ first: next, end, step }, left, mode);
      if (why === null || this.#stopped) break;
      const seed = next + done * step, base = names[seed % names.length] as string;
      this.add({ base, seed, kind: "mixed", what: `FAILED ${why}`, failure: why });
      next = seed + step;
    }
  }

  async #child(
    { first, end, step }: Seeds,
    seconds: number,
    mode: string,
  ): Promise<{ done: number; why: string | null }> {
    const args = ["run", "-A", import.meta.filename as string, "child"];
    const process = new Deno.Command(Deno.execPath(), {
      args: [...args, ...[first, end, step, seconds].map(String), mode],
      stdout: "piped",
    }).spawn();
    this.#processes.add(process);
    let done = 0, why: string | null = null;
    let last = performance.now(), spent = 0;
    const watch = setInterval(() => {
      const kib = memoryOf(process.pid);
      this.#peakKib = Math.max(this.#peakKib, kib);
      const hangs = performance.now() - last > HANG_MS ||
        cpuOf(process.pid) - spent > HANG_CPU_MS;
      if (hangs) why = "hangs";
      else if (kib > MEMORY_KIB) why = `takes ${kib} KiB of memory`;
      if (why !== null) process.kill("SIGKILL");
    }, LOOK_MS);
    let rest = "";
    for await (const part of process.stdout.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + part).split("\n");
      rest = lines.pop() as string;
      for (const line of lines) {
        this.add(JSON.parse(line) as Outcome);
        done++;
        last = performance.now();
        spent = cpuOf(process.pid);
      }
    }
    const { code } = await process.status;
    clearInterval(watch);
    this.#processes.delete(process);
    return { done, why: why ?? (code === 0 ? null : `crashed with status ${code}`) };
  }
}

const memoryOf = (pid: number): number =>
  Number(/VmRSS:\s*(\d+)/.exec(procFile(pid, "status"))?.[1] ?? 0);

/** Milliseconds of processor time that a process has had. */
function cpuOf(pid: number): number {
  // Behind the name in parentheses: state is field 3, utime and stime are 14 and 15.
  const fields = procFile(pid, "stat").replace(/^.*\) /, "").split(" ");
  return TICK_MS * (Number(fields[11] ?? 0) + Number(fields[12] ?? 0));
}

/** A file of /proc about a process; empty when it has just ended. */
function procFile(pid: number, name: string): string {
  try {
    return Deno.readTextFileSync(`/proc/${pid}/${name}`);
  } catch (e) {
    if (e instanceof Deno.errors.NotFound) return "";
    throw e;
  }
}

const [command, ...rest] = Deno.args;
if (command === "one") {
  const outcome = await runOne(rest[0] as string, Number(rest[1]), rest[2] ?? "repair");
  console.log(`${outcome.kind}: ${outcome.what}\n${outcome.failure ?? ""}`);
  Deno.exit(outcome.failure === null ? 0 : 1);
} else if (command === "child") {
  const [first, end, step, seconds] = rest.map(Number) as [number, number, number, number];
  await child({ first, end, step }, seconds, rest[4] as string);
} else {
  const { positionals, values } = parseArgs({
    args: Deno.args,
    allowPositionals: true,
    options: { jobs: { type: "string", default: "1" } },
  });
  const modes = ["check", "mount"], mode = positionals.find((a) => modes.includes(a)) ?? "repair";
  const [first = 1, count = 1000, seconds = Infinity] = positionals.filter((a) => a !== mode)
    .map(Number);
  const jobs = Number(values.jobs);
  if (!(Number.isInteger(jobs) && jobs > 0 && count > 0)) throw new Error("wrong use");
  const campaign = new Campaign();
  Deno.addSignalListener("SIGINT", () => campaign.stop());
  const job = (i: number) => ({ first: first + i, end: first + count, step: jobs });
  await Promise.all(
    Array.from({ length: jobs }, (_, i) => campaign.run(job(i), seconds, mode)),
  );
  campaign.print();
  Deno.exit(campaign.failures === 0 ? 0 : 1);
}
