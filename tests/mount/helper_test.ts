/** `mount -t scoutfs` by the installed helper. */
import assert from "node:assert/strict";
import { mountTest, run } from "../helpers/volume.ts";

mountTest("mount(8) mounts by the helper that the program installs", {}, async (v) => {
  // mount(8) looks in a fixed place; somebody's real helper must survive the test.
  const path = "/sbin/mount.scoutfs";
  const there = await Deno.stat(path).then(() => true, () => false);
  if (there) return console.log(`skipped: ${path} exists`);
  const installed = await v.scoutfs("install-mount-helper");
  assert.equal(installed.code, 0, installed.err);
  try {
    const r = await run("mount", ["-t", "scoutfs", "-o", v.options, v.data, v.mnt], {
      env: v.env,
    });
    assert.equal(r.code, 0, r.err);
    await v.sh("touch a && ls");
    await v.umount();
    const bad = await run("mount", ["-t", "scoutfs", "-o", "nonsense", v.data, v.mnt], {
      env: v.env,
    });
    assert.notEqual(bad.code, 0);
    assert.match(bad.err, /nonsense/);
  } finally {
    assert.equal((await v.scoutfs("install-mount-helper", "--remove")).code, 0);
  }
  for (const name of ["mount.scoutfs", "fsck.scoutfs"]) {
    await Deno.mkdir(`${v.dir}/${name}.d`);
    await Deno.writeTextFile(`${v.dir}/${name}.d/${name}`, "#!/bin/sh\n");
    const foreign = await v.scoutfs("install-mount-helper", "-d", `${v.dir}/${name}.d`);
    assert.notEqual(foreign.code, 0);
    assert.match(foreign.err, /is not ours/);
    const left = [...Deno.readDirSync(`${v.dir}/${name}.d`)].map((e) => e.name);
    assert.deepEqual(left, [name], "nothing was written beside it");
  }
});
