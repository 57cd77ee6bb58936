/**
 * The quick start: makes a filesystem in two image files, mounts it, changes files and shows after
 * each `sync` what the metadata index says about it, unmounts, and checks that nothing is left.
 */

import { ensurePackages, MOUNT_PACKAGES } from "./setup.ts";

const SCOUTFS = new URL("../scoutfs.ts", import.meta.url).pathname;
const PORT = 46000 + (Deno.pid % 1000);

function fail(message: string): never {
  console.error(`quick start: ${message}`);
  Deno.exit(1);
}

/** Runs a program and returns what it printed. */
function run(command: string, args: string[], shown = `${command} ${args.join(" ")}`): string {
  console.log(`$ ${shown}`);
  const done = new Deno.Command(command, { args }).outputSync();
  const out = new TextDecoder().decode(done.stdout);
  if (!done.success) {
    throw new Error(`${shown}: ${new TextDecoder().decode(done.stderr).trim()}`);
  }
  return out;
}

function scoutfs(...args: string[]): string {
  return run(Deno.execPath(), ["run", "-A", SCOUTFS, ...args], `scoutfs ${args.join(" ")}`);
}

interface Entry {
  major: number;
  ino: number;
}

if (Deno.uid() !== 0) fail("mounting needs root");
ensurePackages(MOUNT_PACKAGES);
const start = performance.now();
const dir = Deno.makeTempDirSync({ prefix: "scoutfs-quickstart-" });
const meta = `${dir}/meta.img`;
const data = `${dir}/data.img`;
const mnt = `${dir}/mnt`;
Deno.mkdirSync(mnt);
const mounted = () => Deno.readTextFileSync("/proc/self/mountinfo").includes(` ${mnt} `);

/** Walks the index of metadata changes and says what each entry is. */
function walk(names: Map<number, string>, before: Map<number, number>): Map<number, number> {
  run("sync", []);
  const out = scoutfs("walk-inodes", "--json", "-p", mnt, "meta_seq", "0", "--", "-1");
  const entries: Entry[] = JSON.parse(out);
  console.log(out.trimEnd());
  const now = new Map(entries.map((e) => [e.ino, e.major]));
  for (const { ino, major } of entries) {
    const name = names.get(ino) ?? `inode ${ino}`;
    const old = before.get(ino);
    if (old === undefined) console.log(`  ${name} appeared, at position ${major}`);
    else if (old !== major) console.log(`  ${name} moved from ${old} to ${major}: it changed`);
    else console.log(`  ${name} stayed at ${major}: unchanged`);
  }
  return now;
}

try {
  console.log(scoutfs("mkfs", "-Q", `0,127.0.0.1,${PORT}`, "--size", "512M", meta, data));
  scoutfs("mount", "-o", `metadev_path=${meta},quorum_slot_nr=0`, data, mnt);
  const names = new Map([[1, "the root directory"]]);
  const touch = (name: string) => {
    run("touch", [`${mnt}/${name}`]);
    names.set(Deno.lstatSync(`${mnt}/${name}`).ino!, `'${name}'`);
  };
  let seen = walk(names, new Map());
  touch("one");
  seen = walk(names, seen);
  touch("two");
  seen = walk(names, seen);
  touch("one");
  walk(names, seen);
  run("umount", [mnt]);
  if (mounted()) throw new Error(`${mnt} is still mounted`);
  // The daemon writes its last commit and its farewell, then ends: a check waits for that.
  const left = scoutfs("print", "-S", meta);
  if (!/mounted_clients: blkno 0 /.test(left)) throw new Error("the volume was not left clean");
  console.log("unmounted; the volume is clean");
} catch (e) {
  if (mounted()) new Deno.Command("umount", { args: ["-l", mnt] }).outputSync();
  fail(e instanceof Error ? e.message : String(e));
} finally {
  Deno.removeSync(dir, { recursive: true });
}
console.log(`done in ${((performance.now() - start) / 1000).toFixed(1)} s`);
