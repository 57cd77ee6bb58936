/** Our print of the golden images against the reference's. */

import assert from "node:assert/strict";
import fc from "fast-check";
import { initBtreeBlock, insertItem } from "../../format/btree_block.ts";
import { SrchFile, srchLogKey, SrchParent } from "../../format/srch.ts";
import { SuperBlock } from "../../format/super.ts";
import { FsError } from "../../fs/errors.ts";
import { MemDevice } from "../../fs/memory_device.ts";
import { makeFilesystem } from "../../fs/mkfs.ts";
import { printVolume } from "../../fs/print.ts";
import { openDevice } from "../../fs/sys/device.ts";
import { goldenFile, goldenImages, type GoldenName, goldenTest } from "../helpers/golden.ts";

/** Lines of our print. */
function printed(path: string): string[] {
  const dev = openDevice(path, { write: false });
  const pieces: string[] = [], warnings: string[] = [];
  try {
    printVolume(dev, { out: (text) => pieces.push(text), warn: (line) => warnings.push(line) });
  } finally {
    dev.close();
  }
  assert.deepEqual(warnings, []);
  return pieces.join("").split("\n");
}

const decoder = new TextDecoder("latin1");

/** Compares line by line and names the first that differs. */
function compare(ours: string[], reference: string[]): void {
  for (const [i, line] of reference.entries()) {
    assert.equal(ours[i], line, `line ${i + 1}`);
  }
  assert.equal(ours.length, reference.length);
}

const WHOLE: GoldenName[] = [
  "fresh-v1",
  "fresh-v2",
  "fresh-3quorum",
  "fresh-zoned",
  "features-v2",
  "crash",
];

for (const name of WHOLE) {
  goldenTest(`print of ${name} equals the reference's`, () => {
    const reference = decoder.decode(goldenFile(`${name}.print.txt`)).split("\n");
    compare(printed(goldenImages(name).meta), reference);
  });
}

goldenTest(
  "print of tall equals what is kept of the reference's: 30,000 lines of 200 columns",
  () => {
    const reference = decoder.decode(goldenFile("tall.print.txt")).trimEnd().split("\n");
    const ours = printed(goldenImages("tall").meta);
    assert.ok(ours.length > 30000);
    compare(ours.slice(0, reference.length).map((line) => line.slice(0, 200)), reference);
  },
);

goldenTest("a data device prints its super block and is refused", () => {
  const dev = openDevice(goldenImages("fresh-v2").data, { write: false });
  const pieces: string[] = [];
  try {
    assert.throws(
      () => printVolume(dev, { out: (text) => pieces.push(text), warn: () => {} }),
      (e) =>
        e instanceof FsError && e.message === "**** Printing from data device is not allowed ****",
    );
  } finally {
    dev.close();
  }
  assert.match(pieces.join(""), /^super blkno 16\n {2}hdr: crc [0-9a-f]{8} magic 103c428b/);
});

Deno.test("something without a super block is refused before any output", () => {
  const pieces: string[] = [];
  assert.throws(
    () =>
      printVolume(new MemDevice(1 << 20), {
        out: (text) => pieces.push(text),
        warn: () => {},
      }),
    /memory: no ScoutFS super block found/,
  );
  assert.deepEqual(pieces, []);
});

/** A volume whose dump exercises every kind of block, small enough to print thousands of times. */
function smallVolume(): MemDevice {
  const meta = new MemDevice(128 << 20), data = new MemDevice(1 << 20);
  makeFilesystem(meta, data, {
    fsid: 1n,
    uuid: new Uint8Array(16),
    time: { sec: 0, nsec: 0 },
    fmtVers: 2,
    metaBytes: meta.size,
    dataBytes: data.size,
    slots: [{ nr: 0, addr: 0x7f000001, port: 1 }],
  });
  return meta;
}

Deno.test("damaged blocks are printed or reported: never an endless or broken dump", () => {
  const good = smallVolume();
  // Bytes that lead somewhere: super fields, tree headers and items, list heads.
  const places = [
    { at: 16 * 4096, size: 4096, used: 1488 },
    { at: 2 * 65536, size: 65536, used: 160 },
    { at: 3 * 65536, size: 65536, used: 80 },
    { at: 1029 * 65536, size: 65536, used: 160 },
  ];
  const change = fc.record({
    place: fc.constantFrom(...places),
    off: fc.nat(65535),
    byte: fc.nat(255),
  });
  fc.assert(
    fc.property(fc.array(change, { minLength: 1, maxLength: 8 }), (changes) => {
      const meta = good.snapshot();
      for (const { place, off, byte } of changes) {
        const buf = meta.allocBuffer(place.size);
        meta.read(buf, place.at);
        buf[off % place.used] = byte;
        meta.write(buf, place.at);
      }
      let length = 0;
      try {
        printVolume(meta, { out: (text) => length += text.length, warn: () => {} });
      } catch (e) {
        assert.ok(e instanceof FsError, `${e}`);
      }
      assert.ok(length < 1 << 24);
    }),
    { numRuns: 300 },
  );
});

Deno.test("search blocks that refer to themselves end", () => {
  const meta = smallVolume();
  const block = meta.allocBuffer(65536);
  const parent = SrchParent.at(block);
  for (let i = 0; i < 4094; i++) parent.ref(i).set(40, 0, 1);
  meta.write(block, 40 * 65536);
  const leaf = new MemBlock();
  initBtreeBlock(leaf, 0);
  const file = SrchFile.alloc();
  file.ref.set(40, 0, 1);
  file.height = 4;
  insertItem(leaf, srchLogKey(40), 0, 0, file.bytes);
  meta.write(leaf.buf, 41 * 65536);
  const sm = meta.allocBuffer(4096);
  meta.read(sm, 16 * 4096);
  const sb = SuperBlock.at(sm);
  sb.srchRoot.ref.set(41, 0, 1);
  sb.srchRoot.height = 1;
  meta.write(sm, 16 * 4096);
  const warnings: string[] = [];
  assert.throws(
    () => printVolume(meta, { out: () => {}, warn: (line) => warnings.push(line) }),
    /structures could not be printed completely/,
  );
  assert.ok(warnings.some((w) => /more references than memory has blocks/.test(w)));
});

class MemBlock {
  readonly buf = new Uint8Array(65536);
  readonly v = new DataView(this.buf.buffer);
}
