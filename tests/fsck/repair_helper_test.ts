/** `fsck.scoutfs`, as fsck(8) calls it: one device, the other one by fstab; options; exit statuses. */

import assert from "node:assert/strict";
import { scoutfsLines } from "../../cli/fstab.ts";
import { openDevice } from "../../fs/sys/device.ts";
import { healthyVolume, Surgeon } from "./repair_support.ts";

const MAIN = new URL("../../scoutfs.ts", import.meta.url).pathname;

Deno.test("fstab: devices of scoutfs lines", () => {
  const text = [
    "# /dev/a /x scoutfs metadev_path=/dev/b 0 0",
    "/dev/sda1 / ext4 defaults 0 1",
    "/dev/data\\0401  /mnt  scoutfs  rw,metadev_path=/dev/meta\\0401,quorum_slot_nr=0,_netdev 0 0",
    "UUID=12-34 /y scoutfs metadev_path=LABEL=m",
    "/dev/c /z scoutfs quorum_slot_nr=0 0 0",
    "",
  ].join("\n");
  assert.deepEqual(scoutfsLines(text), [
    { data: "/dev/data 1", meta: "/dev/meta 1" },
    { data: "/dev/disk/by-uuid/12-34", meta: "/dev/disk/by-label/m" },
  ]);
});

Deno.test("fsck.scoutfs: the installed helper checks and mends by one device", async () => {
  const dir = await Deno.makeTempDir();
  const env = { LIBMOUNT_FSTAB: `${dir}/fstab` };
  const run = async (command: string, ...args: string[]) => {
    const { code, stdout, stderr } = await new Deno.Command(command, {
      args,
      env,
      stdin: "null",
    }).output();
    const text = (b: Uint8Array): string => new TextDecoder().decode(b);
    return { code, out: text(stdout) + text(stderr) };
  };
  try {
    const installed = await run(
      Deno.execPath(),
      ...["run", "-A", MAIN, "install-mount-helper", "-d", dir],
    );
    assert.equal(installed.code, 0, installed.out);
    const helper = `${dir}/fsck.scoutfs`, meta = `${dir}/meta`, data = `${dir}/data`;
    const v = await healthyVolume();
    await Deno.writeFile(meta, v.meta.toImage());
    await Deno.writeFile(data, v.data.toImage());
    await Deno.writeTextFile(env.LIBMOUNT_FSTAB, "/dev/x / ext4 defaults 0 0\n");
    const unknown = await run(helper, "-a", data);
    assert.equal(unknown.code, 8, unknown.out);
    assert.match(unknown.out, /its other device is not known.*metadev_path/);

    const line = `${data} /mnt scoutfs metadev_path=${meta},quorum_slot_nr=0 0 0\n`;
    await Deno.writeTextFile(env.LIBMOUNT_FSTAB, line);
    assert.equal((await run(helper, "-a", "-C0", data)).code, 0, "at boot");
    assert.equal((await run(helper, "-n", meta)).code, 0, "the metadata device does as well");

    // fsck(8) itself finds the helper in PATH, and calls it with what follows the device.
    if ((await run("sh", "-c", "command -v fsck")).code === 0) {
      const path = { PATH: `${dir}:${Deno.env.get("PATH")}` };
      const byFsck = await new Deno.Command("fsck", {
        args: ["-t", "scoutfs", data, "--", "-n"],
        env: { ...env, ...path },
        stdin: "null",
      }).output();
      const text = new TextDecoder().decode(byFsck.stdout) +
        new TextDecoder().decode(byFsck.stderr);
      assert.equal(byFsck.code, 0, text);
      assert.match(text, /no problems/);
    }

    const dev = openDevice(meta, { write: true });
    const s = new Surgeon(dev);
    s.editSuper((sb) => sb.dataAlloc.totalLen += 7);
    s.editInode(v.inos.get("file3")!, (i) => i.flags = 0x4000);
    dev.close();
    assert.equal((await run(helper, "-f", "-n", data)).code, 4);
    assert.equal((await run(helper, "-a", data)).code, 1 | 4, "what loses nothing is mended");
    const mended = await run(helper, "-fy", data);
    assert.equal(mended.code, 1, mended.out);
    assert.equal((await run(helper, "-p", data)).code, 0);

    // Without the program nothing was checked, and least of all mended.
    const script = await Deno.readTextFile(helper), lost = `${dir}/lost`;
    await Deno.writeTextFile(lost, script.replaceAll(MAIN, `${dir}/gone.ts`), { mode: 0o755 });
    const without = await run(lost, "-a", data);
    assert.equal(without.code, 128, without.out);
    assert.match(without.out, /gone.ts cannot be read/);

    // A volume that is in use is left alone, -f or not.
    const running = openDevice(meta, { write: true });
    const block = running.allocBuffer(4096);
    running.read(block, 17 * 4096);
    const q = new DataView(block.buffer, block.byteOffset);
    q.setBigUint64(40, q.getBigUint64(240, true) + 1n, true);
    running.write(block, 17 * 4096);
    running.close();
    for (const words of [["-f", "-y"], ["-yf"]]) {
      const used = await run(helper, ...words, data);
      assert.equal(used.code, 8, used.out);
      assert.match(used.out, /may be mounted somewhere/);
    }
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});
