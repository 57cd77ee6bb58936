/** Quorum blocks that cannot be read: replaced, if the device takes it; else said, and nothing else waits. */

import assert from "node:assert/strict";
import { QUORUM_BLKNO, SM_SIZE } from "../../format/constants.ts";
import { checkVolume, isSound } from "../../fs/check/check.ts";
import { repairVolume } from "../../fs/check/repair/repair.ts";
import { DeviceError } from "../../fs/errors.ts";
import type { MemDevice } from "../../fs/memory_device.ts";
import { healthyVolume, manifest, mustKeep, repairOptions, Surgeon } from "./repair_support.ts";

const SLOT = 3;
const OFF = (QUORUM_BLKNO + SLOT) * SM_SIZE;

/** The block of the slot cannot be read until it is written, which the device takes or not. */
function breakSlot(dev: MemDevice, takesWrites: boolean): void {
  const read = dev.read.bind(dev), writev = dev.writev.bind(dev);
  let bad = true;
  dev.read = (buf, off) => {
    if (bad && off <= OFF && off + buf.length > OFF) throw new DeviceError(dev.name, "bad sector");
    read(buf, off);
  };
  dev.writev = (bufs, off) => {
    if (off === OFF && !takesWrites) throw new DeviceError(dev.name, "write of a bad sector");
    writev(bufs, off);
    if (off === OFF) bad = false;
  };
}

Deno.test("quorum block: one that cannot be read is replaced with -y, left by -p", async () => {
  const v = await healthyVolume(), healthy = manifest(v.meta, v.data);
  breakSlot(v.meta, true);
  const safe = repairVolume(v.meta, v.data, repairOptions("safe"));
  assert.deepEqual([safe.commits, safe.lossy], [0, false]);
  assert.ok(safe.after.counts.has("quorum-read"));
  const notes: string[] = [];
  const all = repairVolume(v.meta, v.data, {
    ...repairOptions(),
    log: (line) => notes.push(line),
  });
  assert.ok(isSound(all.after) && all.lossy);
  assert.equal(all.stopped, null);
  assert.deepEqual(notes, [`the quorum block of slot ${SLOT} was replaced by an empty one`]);
  assert.ok(isSound(checkVolume(v.meta, v.data)));
  mustKeep(v, healthy, []);
});

Deno.test("quorum block: if it cannot be written either that is said once, and the rest is mended", async () => {
  const v = await healthyVolume(), healthy = manifest(v.meta, v.data);
  new Surgeon(v.meta).editInode(v.inos.get("file0")!, (i) => i.nlink = 9);
  breakSlot(v.meta, false);
  const notes: string[] = [];
  const { after, stopped } = repairVolume(v.meta, v.data, {
    ...repairOptions(),
    log: (line) => notes.push(line),
  });
  assert.deepEqual(
    after.problems.filter((p) => p.severity !== "info").map((p) => p.message),
    [`the quorum block of slot ${SLOT} cannot be read`],
  );
  assert.equal(stopped, null);
  const said = notes.filter((line) => line.includes(`quorum block of slot ${SLOT}`));
  assert.equal(said.length, 1, notes.join("\n"));
  assert.match(said[0] as string, /cannot be replaced: .*write of a bad sector$/);
  mustKeep(v, healthy, []);
});
