/**
 * The quick start: makes a filesystem in two image files, mounts it, changes files and shows after
 * each `sync` what the metadata index says about it, unmounts, and checks that nothing is left.
 */

import { ensurePackages, MOUNT_PACKAGES } from "./setup.ts";

const SCOUTFS = new URL("../scoutfs.ts", import.meta.url).pathname;
/** Below those that the kernel gives to whoever asks for any. */
const PORT = 26000 + (Deno.pid % 1000);

function fail(message: string): never {
  console.error(`quick start: ${message}`);
  Deno.exit(1);
}

/** Runs a program and returns what it printed. */
function run(command: string, args: string[], shown = `${command} ${args.join(" ")}`): string {
  console.log(`$ ${shown.trimEnd()}`);
  const done = new Deno.Command(command, { args, cwd: dir }).outputSync();
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
const dir = Deno.realPathSync(Deno.makeTempDirSync({ prefix: "scoutfs-quickstart-" }));
const mnt = `${dir}/mnt`;
Deno.mkdirSync(mnt);
const mounted = () => Deno.readTextFileSync("/proc/self/mountinfo").includes(` ${mnt} `);

/** Walks the index of metadata changes and says what each entry is, and what moved since last. */
function walk(names: Map<number, string>, before: Map<number, number>): Map<number, number> {
  run("sync", []);
  const walked = scoutfs("walk-inodes", "--json", "-p", "mnt", "meta_seq", "0", "--", "-1");
  const entries: Entry[] = walked.trim().split("\n").map((line) => JSON.parse(line));
  for (const { ino, major } of entries) {
    const name = names.get(ino) ?? `inode ${ino}`;
    const old = before.get(ino);
    const what = old === undefined
      ? before.size === 0 ? "" : ": new"
      : old === major
      ? ": unchanged"
      : `: changed, it was at ${old}`;
    console.log(`  position ${major}  inode ${ino}  ${name}${what}`);
  }
  return new Map(entries.map((e) => [e.ino, e.major]));
}

/**
 * umount returns when the kernel let go; the daemon then writes its last commit, says farewell to
 * the cluster and ends. After that no mount is recorded in the volume and nobody locks the images.
 */
async function untilClean(): Promise<void> {
  for (let tries = 0; tries < 600; tries++) {
    const lock = new Deno.Command("flock", { args: ["-n", `${dir}/meta.img`, "true"] });
    if (lock.outputSync().success) {
      const left = scoutfs("print", "-S", "meta.img");
      if (/mounted_clients: blkno 0 /.test(left)) return;
      throw new Error("the volume was not left clean");
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error("the daemon did not end");
}

try {
  console.log(
    scoutfs("mkfs", "-Q", `0,127.0.0.1,${PORT}`, "--size", "512M", "meta.img", "data.img"),
  );
  scoutfs("mount", "-o", "metadev_path=meta.img,quorum_slot_nr=0", "data.img", "mnt");
  const names = new Map([[1, "the root directory"]]);
  const touch = (name: string) => {
    run("touch", [`mnt/${name}`]);
    names.set(Deno.lstatSync(`${mnt}/${name}`).ino!, `'${name}'`);
  };
  let seen = walk(names, new Map());
  touch("one");
  seen = walk(names, seen);
  touch("two");
  seen = walk(names, seen);
  touch("one");
  walk(names, seen);
  run("umount", ["mnt"]);
  if (mounted()) throw new Error(`${mnt} is still mounted`);
  await untilClean();
  console.log("unmounted; the volume is clean");
} catch (e) {
  if (mounted()) new Deno.Command("umount", { args: ["-l", mnt] }).outputSync();
  fail(e instanceof Error ? e.message : String(e));
} finally {
  Deno.removeSync(dir, { recursive: true });
}
console.log(`done in ${((performance.now() - start) / 1000).toFixed(1)} s`);
