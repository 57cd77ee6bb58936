/**
 * Compares a scoutfs mount with other filesystems in one run and prints a table of medians and
 * ratios.
 *
 * Every system lives on tmpfs-backed storage (loop devices, or a tmpfs directory below
 * passthrough_hp); server and client share one core; the rounds of all systems are interleaved.
 * The last line of each row is our rate divided by the peer's: above 1 we are faster.
 *
 * `deno task bench [--rounds N] [--warmup N] [--files N] [--mib N] [--systems A,B] [--json FILE] [ROW…]`
 * measures the rows whose names contain a given ROW, and those that they need.
 */

import { BENCH_PACKAGES, ensurePackages } from "../setup.ts";
import { type Bed, beds, must, ROOT, tmpfs } from "./beds.ts";

/** `count` scales the work; rates are per second, or bytes per second for `unit: "B/s"`. */
interface Row {
  name: string;
  op: string;
  count: (o: Options) => number;
  /** After caches were dropped. */
  cold?: boolean;
  /** After the same once, not measured: dropping caches for one system drops those of all. */
  warm?: boolean;
  /** The row that makes what this one works on. */
  needs?: string;
  unit?: "B/s";
}

interface Options {
  rounds: number;
  /** Rounds before those, not measured: a mount's code is compiled as it runs. */
  warmup: number;
  files: number;
  mib: number;
  json: string | null;
  /** Names; empty for all. The first is compared with the others. */
  systems: string[];
  rows: string[];
}

const WRITE_ROW = "sequential write 1 MiB";

/** In order: later rows use what earlier ones made, and the last rows of a round remove it. */
const ROWS: Row[] = [
  { name: "create+close", op: "create", count: (o) => o.files },
  { name: "stat warm", op: "stat", count: (o) => o.files, needs: "create+close" },
  { name: "stat cold", op: "stat", count: (o) => o.files, cold: true, needs: "create+close" },
  { name: "fstat", op: "fstat", count: (o) => o.files * 10, needs: "create+close" },
  { name: "ls -l cold", op: "lsl", count: (o) => o.files, cold: true, needs: "create+close" },
  { name: "readdir", op: "readdir", count: (o) => o.files, cold: true, needs: "create+close" },
  { name: "mkdir", op: "mkdir", count: (o) => o.files / 4 },
  { name: "rmdir", op: "rmdir", count: (o) => o.files / 4, needs: "mkdir" },
  { name: "fsync append 4 KiB", op: "fsync", count: () => 200 },
  { name: WRITE_ROW, op: "seqwrite", count: (o) => o.mib, unit: "B/s" },
  {
    name: "sequential read 1 MiB",
    op: "seqread",
    count: (o) => o.mib,
    unit: "B/s",
    cold: true,
    needs: WRITE_ROW,
  },
  {
    name: "re-read 1 MiB",
    op: "seqread",
    count: (o) => o.mib,
    unit: "B/s",
    warm: true,
    needs: WRITE_ROW,
  },
  { name: "random read 4 KiB, depth 1", op: "rand1", count: (o) => o.files, needs: WRITE_ROW },
  { name: "random read 4 KiB, depth 16", op: "rand16", count: (o) => o.files, needs: WRITE_ROW },
  { name: "unlink", op: "unlink", count: (o) => o.files, needs: "create+close" },
  { name: "rename", op: "rename", count: (o) => o.files / 4 },
];

function options(args: string[]): Options {
  const o: Options = {
    rounds: 3,
    warmup: 2,
    files: 4000,
    mib: 128,
    json: null,
    systems: [],
    rows: [],
  };
  for (let i = 0; i < args.length; i++) {
    if (args[i] === "--rounds") o.rounds = Number(args[++i]);
    else if (args[i] === "--warmup") o.warmup = Number(args[++i]);
    else if (args[i] === "--files") o.files = Number(args[++i]);
    else if (args[i] === "--mib") o.mib = Number(args[++i]);
    else if (args[i] === "--systems") o.systems = (args[++i] ?? "").split(",");
    else if (args[i] === "--json") o.json = args[++i];
    else o.rows.push(args[i]);
  }
  return o;
}

const median = (xs: number[]): number => xs.toSorted((a, b) => a - b)[xs.length >> 1];

function measure(workload: string, bed: Bed, row: Row, o: Options): number {
  const count = Math.max(1, Math.floor(row.count(o)));
  // What `rename` renames: unlink has taken the files of the create row.
  if (row.op === "rename") must("taskset", ["-c", "0", workload, "create", bed.dir, `${count}`]);
  if (row.cold) {
    must("sync", []);
    Deno.writeTextFileSync("/proc/sys/vm/drop_caches", "3");
  }
  const run = () => must("taskset", ["-c", "0", workload, row.op, bed.dir, `${count}`]);
  if (row.warm) run();
  const out = run();
  return row.unit === "B/s" ? Number(out) : 1e9 / Number(out);
}

function clean(bed: Bed): void {
  for (const entry of Deno.readDirSync(bed.dir)) {
    if (/^[fdra]\d{8}$|^big\d{8}$/.test(entry.name)) {
      Deno.removeSync(`${bed.dir}/${entry.name}`);
    }
  }
}

function show(row: Row, rate: number): string {
  if (row.unit === "B/s") return `${(rate / 1e6).toFixed(0)} MB/s`;
  return `${(1e6 / rate).toFixed(1)} µs`;
}

ensurePackages(BENCH_PACKAGES);
const o = options(Deno.args);
const rows = ROWS.filter((r) => o.rows.length === 0 || o.rows.some((w) => r.name.includes(w)));
const run = ROWS.filter((r) => rows.includes(r) || rows.some((w) => w.needs === r.name));
const store = tmpfs();
const all = await beds(store.path, o.systems);
try {
  const workload = `${store.path}/workload`;
  must("cc", ["-O2", "-o", workload, `${ROOT}/tests/bench/workload.c`, "-lpthread"]);
  const rates = new Map<string, number[]>();
  for (let round = -o.warmup; round < o.rounds; round++) {
    for (const row of run) {
      for (const bed of all) {
        const rate = measure(workload, bed, row, o);
        if (round < 0) continue;
        const key = `${row.name}\t${bed.name}`;
        rates.set(key, [...(rates.get(key) ?? []), rate]);
      }
    }
    for (const bed of all) clean(bed);
  }
  const of = (row: Row, bed: Bed) => median(rates.get(`${row.name}\t${bed.name}`)!);
  const [ours, ...peers] = all;
  console.log(
    `| operation | ${ours.name} | ` + peers.map((p) => `${p.name} | ratio`).join(" | ") + " |",
  );
  console.log(`|${"---|".repeat(2 + 2 * peers.length)}`);
  for (const row of rows) {
    const mine = of(row, ours);
    const cells = peers.map((p) => {
      const theirs = of(row, p);
      return `${show(row, theirs)} | ${(mine / theirs).toFixed(2)}`;
    });
    console.log(`| ${row.name} | ${show(row, mine)} | ${cells.join(" | ")} |`);
  }
  if (o.json !== null) {
    Deno.writeTextFileSync(o.json, JSON.stringify(Object.fromEntries(rates), null, 1));
  }
} finally {
  for (const bed of all.toReversed()) await bed.close();
  await store.close();
}
