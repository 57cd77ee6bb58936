/** Opening volumes: every pair of devices that must be refused, and in which words (01 §5.2). */

import assert from "node:assert/strict";
import { SM_SIZE } from "../../format/constants.ts";
import { sealBlock } from "../../format/crc32c.ts";
import { EINVAL } from "../../format/errno.ts";
import { SuperBlock } from "../../format/super.ts";
import { FsError } from "../../fs/errors.ts";
import { MemDevice } from "../../fs/memory_device.ts";
import { makeFilesystem, type MkfsParams } from "../../fs/mkfs.ts";
import { findSignature } from "../../fs/signatures.ts";
import { formatUuid, openVolume } from "../../fs/volume.ts";

const MIB = 1 << 20;
const PARAMS: MkfsParams = {
  fsid: 0xf51dn,
  uuid: Uint8Array.from({ length: 16 }, (_, i) => 0x11 * i),
  time: { sec: 1700000000, nsec: 0 },
  fmtVers: 2,
  metaBytes: 128 * MIB,
  dataBytes: 64 * MIB,
  slots: [{ nr: 0, addr: 0x7f000001, port: 53000 }],
};

function volume(change: Partial<MkfsParams> = {}) {
  const params = { ...PARAMS, ...change };
  const meta = new MemDevice(params.metaBytes, { name: "M" });
  const data = new MemDevice(params.dataBytes, { name: "D" });
  makeFilesystem(meta, data, params);
  return { meta, data };
}

/** Changes the super block of a device, sealed again unless told not to. */
function edit(dev: MemDevice, change: (sb: SuperBlock) => void, seal = true): void {
  const block = dev.allocBuffer(SM_SIZE);
  dev.read(block, 16 * SM_SIZE);
  change(SuperBlock.at(block));
  if (seal) sealBlock(block);
  dev.write(block, 16 * SM_SIZE);
}

function refused(meta: MemDevice, data: MemDevice, message: RegExp): void {
  const writes = meta.writes + data.writes;
  assert.throws(() => openVolume(meta, data), (e) => {
    assert.ok(e instanceof FsError && e.errno === EINVAL);
    assert.match(e.message, message);
    assert.doesNotMatch(e.message, /\n/);
    return true;
  });
  assert.equal(meta.writes + data.writes, writes);
}

Deno.test("a volume opens", () => {
  const { meta, data } = volume();
  const v = openVolume(meta, data);
  assert.equal(v.fsid, 0xf51dn);
  assert.equal(v.fmtVers, 2);
  assert.equal(formatUuid(v.superBlock.uuid), "00112233-4455-6677-8899-aabbccddeeff");
});

Deno.test("refused supers", () => {
  const cases: [string, (sb: SuperBlock) => void, RegExp, boolean?][] = [
    ["magic", (sb) => sb.hdr.magic = 1, /no ScoutFS super block found/],
    ["crc", (sb) => sb.nextIno = 5000, /super block is corrupt: wrong checksum/, false],
    ["blkno", (sb) => sb.hdr.blkno = 17, /says that it is block 17/],
    ["version 0", (sb) => sb.fmtVers = 0, /format version 0 is not supported/],
    ["version 3", (sb) => sb.fmtVers = 3, /format version 3 is not supported/],
    ["huge number", (sb) => sb.v.setBigUint64(40, 2n ** 60n, true), /corrupt: 64-bit value/],
    ["impossible total", (sb) => sb.totalMetaBlocks = 2 ** 50, /more blocks than the format has/],
    ["size of meta", (sb) => sb.totalMetaBlocks = 2049, /134217728 bytes are too few/],
    ["size of data", (sb) => sb.totalDataBlocks = 16385, /67108864 bytes are too few/],
  ];
  for (const [, change, message, seal] of cases) {
    for (const which of ["meta", "data"] as const) {
      const v = volume();
      edit(v[which], change, seal);
      refused(v.meta, v.data, message);
    }
  }
});

Deno.test("devices that do not belong together", () => {
  const a = volume(), b = volume({ fsid: 7n });
  refused(
    a.data,
    a.meta,
    /^D: this is a data device, not a metadata device \(are the devices swapped\?\)$/,
  );
  refused(a.data, b.data, /^D: this is a data device, not a metadata device$/);
  refused(a.meta, b.meta, /^M: this is a metadata device, not a data device$/);
  refused(
    a.meta,
    b.data,
    /^D: data device of another filesystem: fsid 0000000000000007, but M has 000000000000f51d$/,
  );
  edit(a.data, (sb) => sb.uuid[0] = 0xff);
  refused(a.meta, a.data, /^D: data device of another filesystem: uuid ff112233-/);
  const c = volume();
  edit(c.data, (sb) => sb.fmtVers = 1);
  refused(c.meta, c.data, /^D: format version 1, but M has 2$/);
  refused(new MemDevice(SM_SIZE, { name: "T" }), c.data, /^T: 4096 bytes are too small/);
});

Deno.test("signatures of what must not be overwritten", () => {
  const put = (bytes: [number, number[]][]) => {
    const dev = new MemDevice(MIB);
    for (const [off, values] of bytes) {
      const page = dev.allocBuffer(SM_SIZE);
      const at = off - off % SM_SIZE;
      dev.read(page, at);
      page.set(values, off % SM_SIZE);
      dev.write(page, at);
    }
    return findSignature(dev);
  };
  const text = (s: string) => [...s].map((c) => c.charCodeAt(0));
  assert.equal(put([]), undefined);
  assert.deepEqual(findSignature(volume().meta), { kind: "scoutfs", type: "ScoutFS" });
  assert.deepEqual(findSignature(volume().data), { kind: "scoutfs", type: "ScoutFS" });
  assert.deepEqual(put([[0, text("XFSB")]]), { kind: "filesystem", type: "xfs" });
  assert.deepEqual(put([[1080, [0x53, 0xef]]]), { kind: "filesystem", type: "ext" });
  assert.deepEqual(put([[65600, text("_BHRfS_M")]]), { kind: "filesystem", type: "btrfs" });
  assert.deepEqual(put([[512, text("EFI PART")]]), { kind: "partition table", type: "gpt" });
  assert.equal(put([[510, [0x55, 0xaa]]]), undefined);
  assert.deepEqual(put([[446, [0x80, 0, 0, 0, 0x83]], [510, [0x55, 0xaa]]]), {
    kind: "partition table",
    type: "dos",
  });
  assert.equal(findSignature(new MemDevice(SM_SIZE)), undefined);
});
