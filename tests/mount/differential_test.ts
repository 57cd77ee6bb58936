/**
 * Seeded random programs of system calls run on a mount of ours and on ext4 side by side
 * (differential.py): every answer must be the same, and after a remount the trees still are.
 *
 * SCOUTFS_DIFFERENTIAL=SEEDS,CALLS[,FIRST] runs that many programs of that length instead of the few
 * of every day.
 */

import assert from "node:assert/strict";
import { loopDevice } from "../helpers/loop.ts";
import { mountTest, run, type TestVolume } from "../helpers/volume.ts";

const SCRIPT = new URL("./differential.py", import.meta.url).pathname;

const [SEEDS = 8, CALLS = 500, FIRST = 1] = (Deno.env.get("SCOUTFS_DIFFERENTIAL")?.split(",") ?? [])
  .map(Number);
/** Programs between two remounts. */
const ROUND = 12;

/** Runs `body` with a mounted ext4; says why when there is none to be had. */
async function withExt4(v: TestVolume, body: (dir: string) => Promise<void>): Promise<void> {
  const loop = await loopDevice(1 << 30, v.dir);
  if (loop === null) return console.log("skipped: no loop devices to be had");
  try {
    // With large attributes, as we have them.
    const made = await run("mkfs.ext4", ["-q", "-O", "ea_inode", loop.path]).catch(() => null);
    if (made?.code !== 0) return console.log("skipped: no mkfs.ext4");
    const dir = `${v.dir}/ext4`;
    await Deno.mkdir(dir);
    const mounted = await run("mount", ["-t", "ext4", loop.path, dir]);
    if (mounted.code !== 0) return console.log(`skipped: no ext4: ${mounted.err.trim()}`);
    try {
      await body(dir);
    } finally {
      await run("umount", ["-l", dir]);
    }
  } finally {
    await loop.detach();
  }
}

async function differential(...args: string[]): Promise<void> {
  const r = await run("python3", [SCRIPT, ...args], { cwd: "/" });
  assert.equal(r.code, 0, r.out + r.err);
}

async function compareWithExt4(v: TestVolume): Promise<void> {
  if (!await run("python3", ["--version"]).then((r) => r.code === 0, () => false)) {
    return console.log("skipped: no python3");
  }
  await withExt4(v, async (ext4) => {
    await v.mount();
    for (let i = 0; i < SEEDS; i += ROUND) {
      const seeds = Array.from({ length: Math.min(ROUND, SEEDS - i) }, (_, k) => FIRST + i + k);
      for (const seed of seeds) await differential("run", v.mnt, ext4, `${seed}`, `${CALLS}`);
      await v.umountAndWait();
      const checked = await v.scoutfs("fsck", "-n", v.meta, v.data);
      assert.equal(checked.code, 0, checked.out + checked.err);
      await v.mount();
      for (const seed of seeds) {
        await differential("compare", `${v.mnt}/seed${seed}`, `${ext4}/seed${seed}`);
      }
      await v.sh(`rm -rf ./* '${ext4}'/seed*`);
    }
    assert.doesNotMatch(await v.log(), / error: /);
    await v.umountAndWait();
  });
}

for (const loop of [false, true]) {
  mountTest(
    `random programs find no difference to ext4 on ${loop ? "block devices" : "image files"}`,
    { loop, dataBytes: 1 << 30 },
    compareWithExt4,
  );
}
