/**
 * A large population: creates a million files, a thousand in each directory, and then 200,000 in one
 * directory, and writes and reads files of data, so that all caches are full; prints what each 100,000
 * cost, the memory that the mount needed, and what a cold mount, listing one directory and walking
 * all inodes take then. The server's processor time (user and system, all threads) is the number to
 * compare where other work shares the machine.
 *
 * `deno run -A tests/bench/million.ts [--files N] [--huge N]`
 *
 * The volume is on loop devices over sparse files in a tmpfs; server and load share processor 0.
 */

import { BENCH_PACKAGES, ensurePackages } from "../setup.ts";
import { freePort, loopDevice, must, ROOT, serve, tmpfs } from "./beds.ts";

interface Options {
  files: number;
  huge: number;
}

/** The largest population of one directory in the first part. */
const PER_DIRECTORY = 1000;
const LINE = 100_000;
/** Clock ticks of /proc, microseconds each. */
const TICK = 10_000;
/** Of these files two fill the cache of file data; larger ones are not kept in it. */
const FILES_MIB = 128;

function options(args: string[]): Options {
  const o: Options = { files: 1_000_000, huge: 200_000 };
  for (let i = 0; i < args.length; i++) {
    if (args[i] === "--files") o.files = Number(args[++i]);
    else if (args[i] === "--huge") o.huge = Number(args[++i]);
    else throw new Error(`unknown argument ${args[i]}`);
  }
  return o;
}

/** The process that serves `mountpoint`. */
function server(mountpoint: string): number {
  for (const entry of Deno.readDirSync("/proc")) {
    if (!/^\d+$/.test(entry.name)) continue;
    let args: string[];
    try {
      args = Deno.readTextFileSync(`/proc/${entry.name}/cmdline`).split("\0");
    } catch {
      continue; // It ended meanwhile.
    }
    if (!args.includes(mountpoint) || !args.includes("mount") || args.includes("taskset")) continue;
    return Number(entry.name);
  }
  throw new Error(`no process serves ${mountpoint}`);
}

/** Mebibytes of a field of the status of a process. */
function memory(pid: number, field: string): number {
  const status = Deno.readTextFileSync(`/proc/${pid}/status`);
  return Number(new RegExp(`^${field}:\\s*(\\d+) kB`, "m").exec(status)![1]) / 1024;
}

/** Processor time of a process, µs. */
function processorTime(pid: number): number {
  const stat = Deno.readTextFileSync(`/proc/${pid}/stat`);
  // Behind the name, which may contain anything: state is field 3, utime 14, stime 15.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) * TICK;
}

/** Runs a part and prints how long it took. */
async function timed(what: string, run: () => unknown): Promise<void> {
  const start = performance.now();
  const said = await run();
  const seconds = ((performance.now() - start) / 1000).toFixed(2);
  console.log(`${what}: ${seconds} s${typeof said === "string" ? ` (${said})` : ""}`);
}

/** Creates `count` files and prints every line; the last line's rate against the first one's. */
async function populate(
  workload: string,
  pid: number,
  dir: string,
  count: number,
  per: number,
): Promise<void> {
  const child = new Deno.Command("taskset", {
    args: ["-c", "0", workload, "populate", dir, `${count}`, `${per}`],
    stdout: "piped",
  }).spawn();
  const wall: number[] = [], processor: number[] = [];
  let before = processorTime(pid), made = 0;
  let text = "";
  for await (const chunk of child.stdout.pipeThrough(new TextDecoderStream())) {
    text += chunk;
    for (let end = text.indexOf("\n"); end >= 0; end = text.indexOf("\n")) {
      const files = Math.min(LINE, count - made), now = processorTime(pid);
      wall.push(Number(text.slice(0, end)) / 1000);
      processor.push((now - before) / files);
      before = now;
      made += files;
      text = text.slice(end + 1);
      console.log(
        `  ${made} files: ${wall.at(-1)!.toFixed(1)} µs each, ` +
          `${processor.at(-1)!.toFixed(1)} µs of the server's processor time, ` +
          `${memory(pid, "VmRSS").toFixed(0)} MiB resident`,
      );
    }
  }
  if (!(await child.status).success) throw new Error("the load failed");
  const ratio = (micros: number[]) => (micros[0]! / micros.at(-1)!).toFixed(2);
  console.log(
    `  the last ${LINE} at ${ratio(wall)} of the first ones' rate, ` +
      `by the server's processor time ${ratio(processor)}`,
  );
}

ensurePackages(BENCH_PACKAGES);
const o = options(Deno.args);
const store = tmpfs();
const loops: string[] = [];
let unmount: (() => Promise<void>) | null = null;
try {
  const workload = `${store.path}/workload`;
  must("cc", ["-O2", "-o", workload, `${ROOT}/tests/bench/workload.c`, "-lpthread"]);
  const meta = loopDevice(store.path, "meta", 2 ** 33);
  loops.push(meta);
  const data = loopDevice(store.path, "data", 2 ** 31);
  loops.push(data);
  const dir = `${store.path}/mnt`;
  Deno.mkdirSync(dir);
  const scoutfs = ["run", "-A", `${ROOT}/scoutfs.ts`];
  must(Deno.execPath(), [...scoutfs, "mkfs", "-A", "-Q", `0,127.0.0.1,${freePort()}`, meta, data]);
  const mount = async () => {
    const args = ["mount", "-f", "-o", `metadev_path=${meta},quorum_slot_nr=0`, data, dir];
    unmount = await serve(Deno.execPath(), [...scoutfs, ...args], dir);
  };
  const walk = (index: string) => {
    const args = [...scoutfs, "walk-inodes", "--json", "-p", dir, index, "0", "--", "-1"];
    const out = new Deno.Command(Deno.execPath(), { args }).outputSync();
    if (!out.success) throw new Error(new TextDecoder().decode(out.stderr));
    return `${out.stdout.reduce((n, byte) => byte === 10 ? n + 1 : n, 0)} entries`;
  };

  await mount();
  let pid = server(dir);
  const mostMemory = () => console.log(`resident at most: ${memory(pid, "VmHWM").toFixed(0)} MiB`);
  console.log(`${o.files} files, ${PER_DIRECTORY} in each directory`);
  await populate(workload, pid, dir, o.files, PER_DIRECTORY);
  mostMemory();
  const huge = `${dir}/huge`;
  Deno.mkdirSync(huge);
  console.log(`${o.huge} files in one directory`);
  await populate(workload, pid, huge, o.huge, o.huge);
  mostMemory();
  console.log(`files of ${FILES_MIB} MiB written and read`);
  for (const place of [dir, huge, `${dir}/d00000000`]) {
    must(workload, ["seqwrite", place, `${FILES_MIB}`]);
    must(workload, ["seqread", place, `${FILES_MIB}`]);
  }
  mostMemory();
  await timed("unmount", unmount!);
  unmount = null;

  await timed("cold mount", mount);
  pid = server(dir);
  await timed("ls of 1000 files, cold", () => void must("ls", [`${dir}/d00000000`]));
  await timed("ls -l of 1000 files, cold", () => void must("ls", ["-l", `${dir}/d00000001`]));
  await timed("ls of the huge directory", () => void must("ls", ["-f", `${huge}/d00000000`]));
  await timed("walk-inodes meta_seq, all", () => walk("meta_seq"));
  await timed("walk-inodes data_seq, all", () => walk("data_seq"));
  await timed("find, all", () => void must("find", [dir, "-name", "nothing"]));
  mostMemory();
  const used = [...Deno.readDirSync(store.path)].filter((e) => e.name.endsWith(".img"))
    .map((e) =>
      `${e.name} ${((Deno.statSync(`${store.path}/${e.name}`).blocks ?? 0) / 2048) | 0} MiB`
    );
  console.log(`images: ${used.join(", ")}`);
} finally {
  if (unmount !== null) await (unmount as () => Promise<void>)();
  for (const loop of loops) must("losetup", ["-d", loop]);
  await store.close();
}
