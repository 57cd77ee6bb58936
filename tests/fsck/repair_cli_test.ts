/** `scoutfs fsck` on image files: -p, -y, --undo, --undo-apply and their exit statuses. */

import assert from "node:assert/strict";
import { openDevice } from "../../fs/sys/device.ts";
import type { Device } from "../../fs/device.ts";
import { healthyVolume, manifest, Surgeon } from "./repair_support.ts";
import { editSuper, wipe } from "./supers_support.ts";

const MAIN = new URL("../../scoutfs.ts", import.meta.url).pathname;
const text = (b: Uint8Array): string => new TextDecoder().decode(b);

async function fsck(...args: string[]): Promise<{ code: number; out: string; err: string }> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", MAIN, "fsck", ...args],
    stdin: "null",
  }).output();
  return { code, out: text(stdout), err: text(stderr) };
}

Deno.test("fsck: mends, undoes, and says so with its exit status", async () => {
  const dir = await Deno.makeTempDir();
  try {
    const meta = `${dir}/meta`, data = `${dir}/data`, undo = `${dir}/undo`;
    const v = await healthyVolume();
    await Deno.writeFile(meta, v.meta.toImage());
    await Deno.writeFile(data, v.data.toImage());
    assert.equal((await fsck("-n", meta, data)).code, 0);
    assert.equal((await fsck("-p", meta, data)).code, 0);
    assert.deepEqual(await Deno.readFile(meta), v.meta.toImage(), "a sound volume is not written");

    const dev = openDevice(meta, { write: true });
    const s = new Surgeon(dev);
    s.editSuper((sb) => sb.dataAlloc.totalLen += 7);
    s.editInode(v.inos.get("file3")!, (i) => i.flags = 0x4000);
    dev.close();
    const damaged = await Deno.readFile(meta);

    assert.equal((await fsck("-n", meta, data)).code, 4);
    assert.deepEqual(await Deno.readFile(meta), damaged, "-n writes nothing");
    const preened = await fsck("-p", "--undo", undo, meta, data);
    assert.equal(preened.code, 1 | 4, preened.out + preened.err);
    assert.match(preened.out, /extent-total/);
    assert.equal((await fsck("-y", "--undo", undo, meta, data)).code, 8, "undo files are kept");
    const mended = await fsck("-y", "--undo", `${undo}2`, meta, data);
    assert.equal(mended.code, 1, mended.out + mended.err);
    assert.equal((await fsck("-n", meta, data)).code, 0);

    // Another device of the same size, with a super block that the repair did not see.
    const other = `${dir}/other`;
    await Deno.copyFile(data, other);
    const sb = openDevice(other, { write: true });
    editSuper(sb, (_, block) => block.hdr.seq += 5n, true);
    sb.close();
    const foreign = await Deno.readFile(other);
    const refused = await fsck("--undo-apply", `${undo}2`, meta, other);
    assert.equal(refused.code, 8, refused.out);
    assert.match(refused.err, /other has been changed since that repair/);
    assert.deepEqual(await Deno.readFile(other), foreign);

    for (const file of [`${undo}2`, undo]) {
      const applied = await fsck("--undo-apply", file, meta, data);
      assert.equal(applied.code, 0, applied.err);
    }
    assert.deepEqual(await Deno.readFile(meta), damaged, "all bytes are back");
    assert.deepEqual(await Deno.readFile(data), v.data.toImage());
    assert.equal((await fsck("--undo-apply", undo, data, meta)).code, 8, "swapped devices");
    assert.equal((await fsck("-p", "-y", meta, data)).code, 16);
    assert.equal((await fsck("--undo", "x", "--undo-apply", undo, meta, data)).code, 16);
    assert.match((await fsck("--undo-apply", dir, meta, data)).err, /this is no undo file/);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

Deno.test("fsck: both super blocks are gone, the quorum slots are given", async () => {
  const dir = await Deno.makeTempDir();
  try {
    const meta = `${dir}/meta`, data = `${dir}/data`;
    const v = await healthyVolume(), healthy = [...manifest(v.meta, v.data)];
    wipe(v.meta);
    wipe(v.data);
    const lost = [v.meta.toImage(), v.data.toImage()];
    await Deno.writeFile(meta, lost[0] as Uint8Array);
    await Deno.writeFile(data, lost[1] as Uint8Array);
    const refused = await fsck("-y", meta, data);
    assert.equal(refused.code, 4, refused.out + refused.err);
    assert.match(refused.out + refused.err, /--quorum-slot NR,ADDR,PORT/);
    assert.deepEqual([await Deno.readFile(meta), await Deno.readFile(data)], lost);
    for (const slot of ["15,127.0.0.1,1", "0,127.0.0.1,0", "0,300.0.0.1,1", "0,127.0.0.1"]) {
      assert.equal((await fsck("-y", "--quorum-slot", slot, meta, data)).code, 16, slot);
    }
    const slots = ["--quorum-slot", "0,127.0.0.1,42000", "-Q", "1,127.0.0.1,42001"];
    const mended = await fsck("-y", ...slots, meta, data);
    assert.equal(mended.code, 1, mended.out + mended.err);
    assert.equal((await fsck("-n", meta, data)).code, 0);
    const devices = [meta, data].map((path) => openDevice(path, { write: false }));
    assert.deepEqual([...manifest(devices[0] as Device, devices[1] as Device)], healthy);
    for (const dev of devices) dev.close();
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});
