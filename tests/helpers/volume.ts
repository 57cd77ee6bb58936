/**
 * Volumes for tests of real mounts: image files (or loop devices over them) in a directory of their
 * own, made, mounted and unmounted by the program's command line. Needs root and FUSE.
 */

import assert from "node:assert/strict";
import { QUORUM_MAX_SLOTS, SM_SIZE, SUPER_BLKNO } from "../../format/constants.ts";
import { sealBlock } from "../../format/crc32c.ts";
import { SuperBlock } from "../../format/super.ts";
import { checkMountable, mountTable } from "../../fs/fuse/mount.ts";
import { FsError } from "../../fs/errors.ts";
import { isRunning, readFile } from "../../net/host_record.ts";
import { type LoopDevice, loopDevice } from "./loop.ts";
import { freePort } from "./ports.ts";

const PROGRAM = new URL("../../scoutfs.ts", import.meta.url).pathname;

export interface Ran {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** Runs a program to its end; what it says is English. */
export async function run(
  command: string,
  args: readonly string[],
  { env, cwd }: { env?: Record<string, string>; cwd?: string } = {},
): Promise<Ran> {
  const r = await new Deno.Command(command, {
    args: [...args],
    stdin: "null",
    env: { LC_ALL: "C", ...env },
    ...(cwd === undefined ? {} : { cwd }),
  }).output();
  const decoder = new TextDecoder();
  return { code: r.code, out: decoder.decode(r.stdout), err: decoder.decode(r.stderr) };
}

/** Without what a mount says beside the matter on a machine that is slow just now. */
export function withoutPatience(ran: Ran): Ran {
  return { ...ran, err: ran.err.replace(/^still waiting for the cluster; see \S+\n/m, "") };
}

/** Why real mounts cannot be tested here, or null. */
export function whyNoMounts(): string | null {
  if (Deno.uid() !== 0) return "needs root";
  try {
    checkMountable("/");
  } catch (e) {
    // "/" is taken, and that is all that is wrong.
    if (e instanceof FsError && e.message.includes("mounted there already")) return null;
    return e instanceof Error ? e.message : String(e);
  }
  return null;
}

export interface VolumeOptions {
  metaBytes?: number;
  dataBytes?: number;
  /** Loop devices instead of image files. */
  loop?: boolean;
  mkfs?: readonly string[];
}

export class TestVolume {
  private constructor(
    readonly dir: string,
    readonly meta: string,
    readonly data: string,
    readonly mnt: string,
    /** Of the only quorum slot, on 127.0.0.1. */
    readonly port: number,
    private readonly loops: readonly LoopDevice[],
  ) {}

  /** A fresh filesystem with one quorum slot; null where there are no loop devices to be had. */
  static async make(options: VolumeOptions = {}): Promise<TestVolume | null> {
    const dir = await Deno.realPath(await Deno.makeTempDir({ prefix: "scoutfs-test-" }));
    const sizes = [options.metaBytes ?? 256 << 20, options.dataBytes ?? 256 << 20];
    const loops: LoopDevice[] = [];
    const paths: string[] = [];
    for (const [i, bytes] of sizes.entries()) {
      if (options.loop === true) {
        const loop = await loopDevice(bytes, dir);
        if (loop === null) {
          for (const l of loops) await l.detach();
          await Deno.remove(dir, { recursive: true });
          return null;
        }
        loops.push(loop);
        paths.push(loop.path);
      } else {
        const path = `${dir}/${i === 0 ? "meta" : "data"}.img`;
        await Deno.writeFile(path, new Uint8Array());
        await Deno.truncate(path, bytes);
        paths.push(path);
      }
    }
    const mnt = `${dir}/mnt`;
    await Deno.mkdir(mnt);
    const port = freePort();
    const volume = new TestVolume(dir, paths[0] ?? "", paths[1] ?? "", mnt, port, loops);
    const made = await volume.scoutfs(
      "mkfs",
      "-A",
      "-f",
      "-Q",
      `0,127.0.0.1,${port}`,
      ...(options.mkfs ?? []),
      volume.meta,
      volume.data,
    );
    if (made.code !== 0) await volume.remove();
    assert.equal(made.code, 0, made.err);
    return volume;
  }

  /**
   * Existing images, which the test may change. Their quorum configuration becomes one slot on
   * loopback, as the offline tool would make it.
   */
  static async of(meta: string, data: string): Promise<TestVolume> {
    const dir = await Deno.realPath(await Deno.makeTempDir({ prefix: "scoutfs-test-" }));
    const mnt = `${dir}/mnt`;
    await Deno.mkdir(mnt);
    const port = freePort();
    makeLone(meta, port);
    return new TestVolume(dir, meta, data, mnt, port, []);
  }

  get env(): Record<string, string> {
    return { SCOUTFS_RUNTIME_DIR: `${this.dir}/run`, SCOUTFS_STATE_DIR: `${this.dir}/state` };
  }

  /** The program's command line, in this volume's environment. */
  async scoutfs(...args: string[]): Promise<Ran> {
    const command = ["run", "-A", "--no-check", PROGRAM, ...args];
    return withoutPatience(await run(Deno.execPath(), command, { env: this.env }));
  }

  /** Starts `scoutfs mount -f`, for tests that watch the process itself. */
  spawnForeground(options = this.options): Deno.ChildProcess {
    return new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-check", PROGRAM, "mount", "-f", "-o", options, this.data, this.mnt],
      env: this.env,
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    }).spawn();
  }

  get options(): string {
    return `metadev_path=${this.meta},quorum_slot_nr=0`;
  }

  async tryMount(more = ""): Promise<Ran> {
    const options = more === "" ? this.options : `${this.options},${more}`;
    return await this.scoutfs("mount", "-o", options, this.data, this.mnt);
  }

  async mount(more = ""): Promise<void> {
    const r = await this.tryMount(more);
    assert.equal(r.code, 0, `${r.err}\n${await this.log()}`);
  }

  /** Unmounts. A process that has just ended may be let go by the kernel a moment later. */
  async umount(): Promise<void> {
    let r = await run("umount", [this.mnt]);
    for (let tries = 0; tries < 300 && /target is busy/.test(r.err); tries++) {
      await new Promise((resolve) => setTimeout(resolve, 100));
      r = await run("umount", [this.mnt]);
    }
    assert.equal(r.code, 0, r.err);
  }

  /** Unmounts and waits for the process to end: on plain fuse umount(8) does not. */
  async umountAndWait(): Promise<void> {
    const servers = this.servers();
    await this.umount();
    for (const pid of servers) await until(() => !isRunning(pid), `process ${pid} to end`);
  }

  /** Runs a shell script in the mount; fails the test when it fails. */
  async sh(script: string): Promise<string> {
    const r = await this.trySh(script);
    assert.equal(r.code, 0, `${script}: ${r.err}`);
    return r.out;
  }

  trySh(script: string): Promise<Ran> {
    return run("sh", ["-c", script], { cwd: this.mnt });
  }

  get mounted(): boolean {
    return mountTable().some((m) => m.target === this.mnt);
  }

  /** Pids of the processes that serve this volume. */
  servers(): number[] {
    return serversIn(`${this.dir}/run`);
  }

  /** kill -9 of the serving process; the dead mount stays. */
  async kill(): Promise<void> {
    for (const pid of this.servers().filter(isRunning)) {
      signal(processOf(pid), "SIGKILL");
      await until(() => !isRunning(pid), `process ${pid} to end`);
    }
  }

  /** kill -9 of the serving process, and what an administrator does then. */
  async crash(): Promise<void> {
    await this.kill();
    if (this.mounted) await run("umount", ["-l", this.mnt]);
    await Deno.remove(`${this.dir}/run/mounts`, { recursive: true });
  }

  async log(): Promise<string> {
    return await Deno.readTextFile(`${this.dir}/run/mount.log`).catch(() => "");
  }

  /**
   * Unmounts if need be and removes everything. A process that has let its mount go, and taken its
   * record away, may still write the last line of its log: all of ours must have ended.
   */
  async remove(): Promise<void> {
    if (this.mounted) await run("umount", ["-l", this.mnt]);
    await until(() => processesWith(this.env).length === 0, "all processes of the volume to end");
    for (const l of this.loops) await l.detach();
    await Deno.remove(this.dir, { recursive: true });
  }
}

/** Leaves one quorum slot, number 0 at 127.0.0.1, in the super block of an image. */
function makeLone(meta: string, port: number): void {
  const file = Deno.openSync(meta, { read: true, write: true });
  try {
    const bytes = new Uint8Array(SM_SIZE);
    file.seekSync(SUPER_BLKNO * SM_SIZE, Deno.SeekMode.Start);
    assert.equal(file.readSync(bytes), SM_SIZE);
    const { qconf } = SuperBlock.at(bytes);
    for (let nr = 0; nr < QUORUM_MAX_SLOTS; nr++) qconf.slots(nr).zero();
    qconf.slots(0).addr.setIpv4(0x7f000001, port);
    qconf.version++;
    sealBlock(bytes);
    file.seekSync(SUPER_BLKNO * SM_SIZE, Deno.SeekMode.Start);
    assert.equal(file.writeSync(bytes), SM_SIZE);
  } finally {
    file.close();
  }
}

/** Pids of the processes that serve a mount, as a runtime directory's records name them. */
export function serversIn(runtimeDir: string): number[] {
  const dir = `${runtimeDir}/mounts`;
  let names: string[];
  try {
    names = [...Deno.readDirSync(dir)].map((e) => e.name);
  } catch (e) {
    if (!(e instanceof Deno.errors.NotFound)) throw e;
    return []; // No mount was ever made.
  }
  return names.filter((name) => name.endsWith(".json")).flatMap((name) => {
    const text = readFile(`${dir}/${name}`); // It may end while we look.
    return text === null ? [] : [(JSON.parse(text) as { pid: number }).pid];
  });
}

/** Pids of the processes, zombies aside, that were started with all of these in their environment. */
export function processesWith(env: Record<string, string>): number[] {
  const wanted = Object.entries(env).map(([name, value]) => `${name}=${value}`);
  return [...Deno.readDirSync("/proc")].map((e) => Number(e.name)).filter((pid) => {
    if (!Number.isInteger(pid)) return false;
    const has = new Set((readFile(`/proc/${pid}/environ`) ?? "").split("\0"));
    return wanted.every((pair) => has.has(pair));
  });
}

/** Sends a signal to a process that may end, or have ended, by itself. */
export function signal(process: { kill(name: Deno.Signal): void }, name: Deno.Signal): void {
  try {
    process.kill(name);
  } catch (e) {
    // What the runtime throws for a child that it has seen end.
    if (!(e instanceof Deno.errors.NotFound || e instanceof TypeError)) throw e;
  }
}

/** Any process, as `signal` wants it. */
export const processOf = (pid: number) => ({
  kill: (name: Deno.Signal): void => Deno.kill(pid, name),
});

/** Polls until `done`; fails after a time that no working machine needs. */
export async function until(done: () => boolean, what: string): Promise<void> {
  for (let i = 0; i < 12_000; i++) {
    if (done()) return;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  assert.fail(`waited in vain for ${what}`);
}

/** A test on a mounted volume, skipped with the reason where none can be had. */
export function mountTest(
  name: string,
  options: VolumeOptions,
  body: (v: TestVolume) => Promise<void>,
): void {
  const why = whyNoMounts();
  Deno.test({
    name: why === null ? name : `${name} (skipped: ${why})`,
    ignore: why !== null,
    fn: async () => {
      const volume = await TestVolume.make(options);
      if (volume === null) {
        console.log(`skipped: no loop devices to be had`);
        return;
      }
      try {
        await body(volume);
      } catch (e) {
        // What went wrong first is what counts.
        await volume.remove().catch((also: unknown) => console.error(also));
        throw e;
      }
      await volume.remove();
    },
  });
}
