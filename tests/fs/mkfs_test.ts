/** mkfs against the worked examples of 01 §18, and what it must refuse. */

import assert from "node:assert/strict";
import { LG_SIZE, SM_SIZE } from "../../format/constants.ts";
import { storedCrc } from "../../format/crc32c.ts";
import { toHex } from "../../format/bytes.ts";
import { FsError } from "../../fs/errors.ts";
import { MemDevice } from "../../fs/memory_device.ts";
import {
  makeFilesystem,
  MIN_DATA_BLOCKS,
  MIN_META_BLOCKS,
  type MkfsParams,
} from "../../fs/mkfs.ts";

const MIB = 1 << 20;
const GIB = 1024 * MIB;

const EXAMPLE: MkfsParams = {
  fsid: 0x0123456789abcdefn,
  uuid: Uint8Array.from({ length: 16 }, (_, i) => 0x11 * i),
  time: { sec: 1700000000, nsec: 123456000 },
  fmtVers: 2,
  metaBytes: 256 * MIB,
  dataBytes: 64 * MIB,
  slots: [{ nr: 0, addr: 0x7f000001, port: 53000 }, { nr: 2, addr: 0x0a010203, port: 12345 }],
};

function make(params: MkfsParams) {
  const meta = new MemDevice(params.metaBytes, { record: true });
  const data = new MemDevice(params.dataBytes, { record: true });
  makeFilesystem(meta, data, params);
  const block = (dev: MemDevice, blkno: number, size: number) => {
    const buf = dev.allocBuffer(size);
    dev.read(buf, blkno * size);
    return buf;
  };
  return {
    meta,
    data,
    sm: (blkno: number) => block(meta, blkno, SM_SIZE),
    lg: (blkno: number) => block(meta, blkno, LG_SIZE),
    dataSuper: () => block(data, 16, SM_SIZE),
  };
}

const crc = (block: Uint8Array) => storedCrc(block).toString(16).padStart(8, "0");

const QUORUM_CRCS = [
  "e27b9178",
  "b69d7726",
  "799b0743",
  "1f50bb9a",
  "d056cbff",
  "84b02da1",
  "4bb65dc4",
  "49275413",
  "86212476",
  "d2c7c228",
  "1dc1b24d",
  "7b0a0e94",
  "b40c7ef1",
  "e0ea98af",
  "2fece8ca",
];

for (
  const [fmtVers, metaSuper, dataSuper, fsRoot] of [
    [2, "75a81d5d", "f36ddfff", "cc694307"],
    [1, "bb56fa83", "3d933821", "bc990ada"],
  ] as const
) {
  Deno.test(`every block of the worked example, format version ${fmtVers} (01 §18.1)`, () => {
    const fs = make({ ...EXAMPLE, fmtVers });
    assert.equal(crc(fs.sm(16)), metaSuper);
    assert.equal(crc(fs.dataSuper()), dataSuper);
    for (const [i, expected] of QUORUM_CRCS.entries()) assert.equal(crc(fs.sm(17 + i)), expected);
    assert.equal(crc(fs.lg(2)), fsRoot);
    assert.equal(crc(fs.lg(3)), "cc67ce93");
    assert.equal(crc(fs.lg(1028)), "605a0ee5");
    assert.equal(crc(fs.lg(1029)), "23c6b11c");
    assert.equal(crc(fs.lg(1030)), "3e94601d");
  });
}

Deno.test("bytes of the worked example's super and fs_root leaf (01 §18.2, §18.3)", () => {
  const fs = make(EXAMPLE);
  const at = (block: Uint8Array, off: number, hex: string) =>
    assert.equal(toHex(block.subarray(off, off + hex.length / 2)), hex, `offset ${off}`);
  const sb = fs.sm(16);
  at(sb, 56, "00112233445566778899aabbccddeeff");
  at(sb, 120, "010008cf0100007f");
  at(sb, 184, "010039300302010a");
  at(sb, 600, "fd05000000000000");
  at(sb, 736, "000400000000000000040000");
  const leaf = fs.lg(2);
  at(leaf, 32, "480002001801e8f2");
  at(leaf, 152, "88f3a800");
  at(leaf, 62440, "00f153650000000000ca5b07");
  at(leaf, 63016, "3000");
  at(leaf, 64592, "6800");
});

Deno.test("minimum-size production image with zones (01 §18.6)", () => {
  const fs = make({
    ...EXAMPLE,
    metaBytes: 64 * GIB,
    dataBytes: 128 * GIB,
    slots: EXAMPLE.slots.slice(0, 1),
    dataAllocZoneBlocks: 1048576,
  });
  assert.equal(crc(fs.lg(1029)), "d70b4f6a");
  assert.equal(crc(fs.lg(1030)), "3fdbdebb");
  assert.equal(crc(fs.lg(1028)), "d69e9def");
  assert.equal(crc(fs.sm(16)), "71ecc0a6");
  assert.equal(crc(fs.dataSuper()), "f7290204");
});

Deno.test("writes only the blocks of 01 §17.1, the metadata super last and after a flush", () => {
  const { meta, data } = make(EXAMPLE);
  const log = meta.log;
  const written = log.flatMap((r) => r.kind === "write" ? [[r.off, r.bytes.length]] : []);
  const expected = [
    ...[2, 3, 1028, 1029, 1030].map((b) => [b * LG_SIZE, LG_SIZE]),
    ...Array.from({ length: 15 }, (_, i) => [(17 + i) * SM_SIZE, SM_SIZE]),
    [16 * SM_SIZE, SM_SIZE],
  ];
  assert.deepEqual(written, expected);
  assert.deepEqual(log.slice(-3).map((r) => r.kind), ["flush", "write", "flush"]);
  assert.deepEqual(data.log.map((r) => r.kind), ["write", "flush"]);
});

Deno.test("sizes at and below the structural minimum (01 §2.4)", () => {
  const least = { metaBytes: MIN_META_BLOCKS * LG_SIZE, dataBytes: MIN_DATA_BLOCKS * SM_SIZE };
  assert.equal(least.metaBytes, 67698688);
  make({ ...EXAMPLE, ...least });
  assert.throws(
    () => make({ ...EXAMPLE, ...least, metaBytes: least.metaBytes - LG_SIZE }),
    FsError,
  );
  assert.throws(
    () => make({ ...EXAMPLE, ...least, dataBytes: least.dataBytes - SM_SIZE }),
    FsError,
  );
});

Deno.test("refused parameters leave the devices untouched", () => {
  const slot = { nr: 0, addr: 0x7f000001, port: 53000 };
  const wrong: Partial<MkfsParams>[] = [
    { fmtVers: 0 },
    { fmtVers: 3 },
    { slots: [] },
    { slots: [slot, { ...slot, nr: 1 }] },
    { slots: [slot, { ...slot, port: 1 }] },
    { slots: [{ ...slot, nr: 15 }] },
    { slots: [{ ...slot, addr: 0xffff_ffff }] },
    { slots: [{ ...slot, port: 0 }] },
    { dataAllocZoneBlocks: 1048575 },
    { dataAllocZoneBlocks: 1048576 }, // more than the 64 MiB device has
  ];
  for (const change of wrong) {
    const meta = new MemDevice(EXAMPLE.metaBytes), data = new MemDevice(EXAMPLE.dataBytes);
    assert.throws(() => makeFilesystem(meta, data, { ...EXAMPLE, ...change }), FsError);
    assert.equal(meta.writes + data.writes, 0);
  }
});
