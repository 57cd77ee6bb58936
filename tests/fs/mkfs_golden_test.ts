/** Our mkfs against volumes that the reference's mkfs made, with their identity and times. */

import assert from "node:assert/strict";
import { LG_SIZE, SM_SIZE, VOLOPT_DATA_ALLOC_ZONE_BLOCKS } from "../../format/constants.ts";
import { sealBlock } from "../../format/crc32c.ts";
import { Inode } from "../../format/items.ts";
import { SuperBlock } from "../../format/super.ts";
import type { Device } from "../../fs/device.ts";
import { MemDevice } from "../../fs/memory_device.ts";
import { makeFilesystem } from "../../fs/mkfs.ts";
import { openDevice } from "../../fs/sys/device.ts";
import { readSuperBlock } from "../../fs/volume.ts";
import { goldenImages, type GoldenName, goldenTest } from "../helpers/golden.ts";

/** A super block with the noise that the reference leaves in quorum slots taken out. */
function withoutNoise(block: Uint8Array): Uint8Array {
  const sb = SuperBlock.at(block);
  for (const nr of sb.qconf.presentSlots()) sb.qconf.slots(nr).bytes.fill(0, 8);
  sealBlock(block);
  return block;
}

for (const name of ["fresh-3quorum", "fresh-zoned"] as GoldenName[]) {
  goldenTest(`mkfs writes what the reference wrote: ${name}`, () => {
    const images = goldenImages(name);
    const meta = openDevice(images.meta, { write: false });
    // The data image of fresh-zoned is 16 GiB of zeros: only that of the other is worth restoring.
    const data = name === "fresh-zoned" ? null : openDevice(images.data, { write: false });
    try {
      const sb = readSuperBlock(meta);
      const { fmtVers } = sb;
      const dataBytes = sb.totalDataBlocks * SM_SIZE;
      const leaf = meta.allocBuffer(LG_SIZE);
      meta.read(leaf, 2 * LG_SIZE);
      const root = Inode.at(leaf, 62512 - Inode.sizeOf(fmtVers));
      const ours = {
        meta: new MemDevice(meta.size, { record: true }),
        data: new MemDevice(dataBytes, { record: true }),
      };
      makeFilesystem(ours.meta, ours.data, {
        fsid: sb.hdr.fsid,
        uuid: sb.uuid,
        fmtVers,
        time: { sec: root.mtime.sec, nsec: root.mtime.nsec },
        metaBytes: meta.size,
        dataBytes,
        slots: sb.qconf.presentSlots().map((nr) => {
          const { addr, port } = sb.qconf.slots(nr).addr;
          return { nr, addr, port };
        }),
        ...(sb.volopt.isSet(VOLOPT_DATA_ALLOC_ZONE_BLOCKS)
          ? { dataAllocZoneBlocks: sb.volopt.dataAllocZoneBlocks }
          : {}),
      });
      sameBlocks(ours.meta, meta);
      if (data !== null) sameBlocks(ours.data, data);
    } finally {
      meta.close();
      data?.close();
    }
  });
}

/** Every block that we wrote equals the reference's. */
function sameBlocks(ours: MemDevice, reference: Device): void {
  let compared = 0;
  for (const record of ours.log) {
    if (record.kind !== "write") continue;
    const theirs = reference.allocBuffer(record.bytes.length);
    reference.read(theirs, record.off);
    const expected = record.off === 16 * SM_SIZE ? withoutNoise(theirs) : theirs;
    assert.deepEqual(record.bytes, expected, `${reference.name} at ${record.off}`);
    compared++;
  }
  assert.ok(compared > 0);
}
