/** Damaged volumes under the real kernel: what is damaged gives EIO, one line each; the rest works. */

import assert from "node:assert/strict";
import { inodeKey } from "../../format/item_keys.ts";
import { extentKey } from "../../format/items.ts";
import { openDevice } from "../../fs/sys/device.ts";
import { Surgeon } from "../fsck/repair_support.ts";
import { isRunning } from "../../net/host_record.ts";
import { mountTest, type TestVolume, until } from "../helpers/volume.ts";

/** Writes files of one block each, unmounts, damages; their inode numbers in order. */
async function damage(
  v: TestVolume,
  files: readonly string[],
  change: (s: Surgeon, inos: number[]) => void,
): Promise<void> {
  await v.mount();
  await v.sh(files.map((f) => `echo ${f} > ${f} && sync ${f}`).join(" && "));
  const inos = (await v.sh(`stat -c %i ${files.join(" ")}`)).trim().split("\n").map(Number);
  await v.umountAndWait();
  const dev = openDevice(v.meta, { write: true });
  change(new Surgeon(dev), inos);
  dev.close();
}

mountTest("inodes and extents that cannot be give EIO, the rest works", {}, async (v) => {
  await damage(v, ["whole", "version", "counter", "extent"], (s, inos) => {
    const [, version, counter, extent] = inos as [number, number, number, number];
    const set = (ino: number, off: number, n: bigint) =>
      s.editItem(inodeKey(ino), (val) => {
        new DataView(val.buffer, val.byteOffset).setBigUint64(off, n, true);
      });
    assert.ok(set(version, 64, (1n << 64n) - 1n) > 0);
    assert.ok(set(counter, 56, 1n << 60n) > 0);
    const beyond = new Uint8Array(16).fill(0xff, 0, 6);
    assert.ok(s.replaceItem(extentKey(extent, 0, 1), beyond) > 0);
  });
  await v.mount();
  const [pid = 0] = v.servers();
  const fails = async (command: string) => {
    const said = await v.sh(`${command} 2>&1 || echo failed`);
    assert.match(said, /Input\/output error[^]*failed/, command);
  };
  await v.sh("touch version && chmod 600 version && mv version moved && echo more >> moved");
  await fails("stat counter");
  await fails("mv counter elsewhere");
  await fails("cat extent");
  await v.sh("echo new > new && sync new && cat whole moved && rm whole && ln new newer");
  const log = await v.log();
  assert.equal(log.match(/inode \d+: next_xattr_id 1152921504606846976/g)?.length, 1, log);
  assert.equal(log.match(/data extent .*: block 281474976710655, flags 0/g)?.length, 1, log);
  assert.doesNotMatch(log, /error: (defect|mount ends)| {4}at /);
  assert.ok(isRunning(pid));
  await v.umountAndWait();
  assert.equal((await v.scoutfs("fsck", "-y", v.meta, v.data)).code, 1);
  const clean = await v.scoutfs("fsck", "-n", v.meta, v.data);
  assert.equal(clean.code, 0, clean.out);
});

mountTest("blocks of two files end the mount when both free them, in words", {}, async (v) => {
  await damage(v, ["one", "two"], (s, [one, two]) => {
    const extent = s.value(extentKey(one!, 0, 1))!;
    assert.ok(s.replaceItem(extentKey(two!, 0, 1), extent) > 0);
  });
  await v.mount();
  const [pid = 0] = v.servers();
  await v.sh("truncate -s 0 one two; echo x > x; sync x; true").catch(() => "");
  await until(() => !isRunning(pid), "the mount process to end");
  assert.equal(v.mounted, false);
  const log = await v.log();
  assert.match(log, / error: mount ends: .* is free already; run fsck$/m);
  assert.doesNotMatch(log, / {4}at /);
  const mended = await v.scoutfs("fsck", "-y", v.meta, v.data);
  assert.equal(mended.code, 1, mended.out + mended.err);
  await v.mount();
  assert.equal(await v.sh("cat one"), "one\n");
  await v.umountAndWait();
});
