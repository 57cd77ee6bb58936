/** Copies of volumes that change while they are copied. */

import assert from "node:assert/strict";
import { LG_SIZE, SM_SIZE } from "../../format/constants.ts";
import { checkVolume, isSound } from "../../fs/check/check.ts";
import { takeSnapshot } from "../../fs/check/snapshot.ts";
import type { Device } from "../../fs/device.ts";
import { readSuper } from "../fsck/damage.ts";
import { makeSample } from "../fsck/sample.ts";

const NO_LIMIT = 1 << 30;

/** A device on which the nth read of a block finds it in use for something else. */
function reusing(dev: Device, blkno: number, isReused: (read: number) => boolean): Device {
  let reads = 0;
  const at = blkno * LG_SIZE;
  return {
    name: dev.name,
    size: dev.size,
    allocBuffer: (n) => dev.allocBuffer(n),
    read: (buf, off) => {
      dev.read(buf, off);
      if (off <= at && at < off + buf.length && buf.length > SM_SIZE && isReused(++reads)) {
        buf.fill(7, at - off, at - off + LG_SIZE);
      }
    },
    write: () => assert.fail("a check wrote"),
    writev: () => assert.fail("a check wrote"),
    flush: () => {},
    close: () => {},
  };
}

Deno.test("snapshot: blocks that are in use again are sought until the copy is exact", () => {
  const { meta, data } = makeSample();
  const root = readSuper(meta).logsRoot.ref.blkno;
  const live = reusing(meta, root, (read) => read !== 3);
  const copy = takeSnapshot(live, NO_LIMIT);
  assert.ok(copy !== null);
  assert.ok(isSound(checkVolume(copy, data)), "the copy is the volume");
  assert.ok(!isSound(checkVolume(live, data)), "which the device is not any more");
});

Deno.test("snapshot: damage that stays belongs into the copy", () => {
  const { meta, data } = makeSample();
  const root = readSuper(meta).logsRoot.ref.blkno;
  const copy = takeSnapshot(reusing(meta, root, () => true), NO_LIMIT);
  assert.ok(copy !== null);
  assert.ok(!isSound(checkVolume(copy, data)));
});

Deno.test("snapshot: none where there is no memory for it", () => {
  const { meta } = makeSample();
  assert.equal(takeSnapshot(meta, 4 * LG_SIZE), null);
});
