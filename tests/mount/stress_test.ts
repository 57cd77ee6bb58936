/**
 * Load of other people's making on a real mount: stress-ng's filesystem stressors and fio's verify
 * jobs, then a clean unmount, the checker, and fio's verification once more from a new mount.
 *
 * By default the stressors run a second each, several at once; SCOUTFS_STRESS_SECONDS runs each
 * alone for that long.
 */

import assert from "node:assert/strict";
import { checkVolume } from "../helpers/check_volume.ts";
import { ImageDevice } from "../helpers/image_device.ts";
import { mountTest, run, type TestVolume } from "../helpers/volume.ts";

/**
 * stress-ng's class "filesystem" as far as ext4 passes it, without those that leave the given
 * directory alone (bind-mount, binderfs, procfs). `fiemap` and `verity` find that the kernel's FUSE
 * does not have these and skip.
 */
const STRESSORS = [
  ..."access chattr chdir chmod chown copy-file dentry dir dirdeep dirmany dnotify dup".split(" "),
  ..."eventfd fallocate fanotify fcntl fiemap file-ioctl filename flock fpunch fsize".split(" "),
  ..."fstat getdent handle hdd inode-flags inotify io iomix ioprio lease link".split(" "),
  ..."locka lockf lockofd mknod open rename symlink sync-file touch utime verity xattr".split(" "),
];

const seconds = Deno.env.get("SCOUTFS_STRESS_SECONDS");
const AT_ONCE = seconds === undefined ? 6 : 1;

const VERIFY = ["--verify=crc32c", "--verify_fatal=1", "--size=24m", "--group_reporting"];
const FIO: [string, string[]][] = [
  ["random", ["--rw=randwrite", "--bs=4k", "--ioengine=psync"]],
  ["mixed", ["--rw=randrw", "--bsrange=512-64k", "--ioengine=psync", "--fsync=256", "--size=16m"]],
  ["mmap", ["--rw=randwrite", "--bs=4k", "--ioengine=mmap", "--fsync=512"]],
  ["direct", ["--rw=randwrite", "--bs=4k", "--direct=1", "--ioengine=libaio", "--iodepth=16"]],
  ["stream", ["--rw=write", "--bs=1m", "--ioengine=psync", "--end_fsync=1"]],
  ["append", ["--rw=write", "--bs=3k", "--ioengine=sync", "--file_append=1", "--size=6m"]],
];

async function stress(v: TestVolume): Promise<void> {
  const dir = `${v.mnt}/stress`;
  for (let i = 0; i < STRESSORS.length; i += AT_ONCE) {
    await Deno.mkdir(dir);
    const names = STRESSORS.slice(i, i + AT_ONCE);
    const r = await run("stress-ng", [
      ...names.flatMap((name) => [`--${name}`, "1"]),
      ...["-t", `${seconds ?? 1}s`, "--temp-path", dir, "--verify"],
      ...["--hdd-bytes", "64m", "--iomix-bytes", "64m"],
    ], { cwd: "/" });
    assert.equal(r.code, 0, `stress-ng ${names.join(" ")}: ${r.out}${r.err}`);
    await Deno.remove(dir, { recursive: true });
  }
}

async function fio(v: TestVolume, only: boolean): Promise<void> {
  for (const [name, args] of FIO) {
    // What an appending job wrote can be checked only while it remembers where.
    if (only && name === "append") continue;
    const r = await run("fio", [
      `--name=${name}`,
      `--directory=${v.mnt}`,
      ...VERIFY,
      ...args,
      only ? "--verify_only=1" : "--do_verify=1",
    ], { cwd: v.dir });
    assert.equal(r.code, 0, `fio ${name}: ${r.out}${r.err}`);
  }
}

async function left(v: TestVolume): Promise<void> {
  assert.doesNotMatch(await v.log(), / error: |I\/O error|corruption/);
  await v.umountAndWait();
  using devices = new DisposableStack();
  const open = (path: string) => devices.adopt(new ImageDevice(path), (d) => d.close());
  assert.deepEqual(checkVolume(open(v.meta), open(v.data), { clean: true }).problems, []);
}

for (const loop of [true, false]) {
  const where = loop ? "block devices" : "image files";
  const size = { loop, metaBytes: 512 << 20, dataBytes: 1 << 30 };
  mountTest(`fio verifies what it wrote, also after a remount: ${where}`, size, async (v) => {
    await v.mount();
    await fio(v, false);
    await left(v);
    await v.mount();
    await fio(v, true);
  });
}

mountTest(
  "stress-ng's filesystem stressors pass",
  { loop: true, metaBytes: 512 << 20, dataBytes: 1 << 30 },
  async (v) => {
    await v.mount();
    await stress(v);
    await left(v);
  },
);
