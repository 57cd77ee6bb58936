/** A device that refuses writes: image files on a host filesystem that is full for a while. */
import assert from "node:assert/strict";
import { isRunning } from "../../net/host_record.ts";
import { mountTest, run, type TestVolume, until } from "../helpers/volume.ts";

async function must(command: string, ...args: string[]): Promise<void> {
  const r = await run(command, args);
  assert.equal(r.code, 0, `${command} ${args.join(" ")}: ${r.err}`);
}

/** A fresh volume in images that may grow to `room` together, mounted in place of `v`'s own. */
async function onSmallHost(v: TestVolume, room: string, body: (host: string) => Promise<void>) {
  const host = `${v.dir}/host`;
  await Deno.mkdir(host);
  await must("mount", "-t", "tmpfs", "-o", `size=${room}`, "none", host);
  try {
    const [meta, data] = [`${host}/meta.img`, `${host}/data.img`];
    const made = await v.scoutfs(
      "mkfs",
      "-A",
      "-Q",
      `0,127.0.0.1,${v.port}`,
      "--size",
      "256M",
      meta,
      data,
    );
    assert.equal(made.code, 0, made.err);
    const options = `metadev_path=${meta},quorum_slot_nr=0`;
    const r = await v.scoutfs("mount", "-o", options, data, v.mnt);
    assert.equal(r.code, 0, r.err);
    await body(host);
    const servers = v.servers();
    await v.umount();
    for (const pid of servers) await until(() => !isRunning(pid), "the end of the mount");
  } finally {
    if (v.mounted) await run("umount", ["-l", v.mnt]);
    await v.kill();
    await must("umount", "-l", host);
  }
}

mountTest("commits wait for a device that refuses writes, and lose nothing", {}, async (v) => {
  await onSmallHost(v, "24m", async (host) => {
    await v.sh("echo early > early && sync early");
    // Written into memory and to the device as far as that goes.
    const writer = new Deno.Command("sh", {
      args: ["-c", "seq 1 4000000 > big && exec sync big"],
      cwd: v.mnt,
    }).spawn();
    await until(
      () => /writing file data: .*No space left.*trying again/.test(logOf(v)),
      "the first refusal",
    );
    // Reading goes on, and nobody has to wait who is killed.
    assert.equal(await v.sh("cat early"), "early\n");
    const killed = await run("timeout", ["-s", "KILL", "1", "sync", `${v.mnt}/early`]);
    assert.notEqual(killed.code, 0);
    // So it is for whoever writes beyond what fits into memory.
    await run("timeout", ["-s", "KILL", "3", "dd", "if=/dev/zero", `of=${v.mnt}/more`, "bs=1M"]);
    await must("mount", "-o", "remount,size=400m", host);
    assert.equal((await writer.status).code, 0);
    const [count = ""] = (await v.sh("wc -l < big; seq 1 4000000 | cmp - big")).split("\n");
    assert.equal(count.trim(), "4000000");
  });
});

function logOf(v: TestVolume): string {
  try {
    return Deno.readTextFileSync(`${v.dir}/run/mount.log`);
  } catch {
    return "";
  }
}
