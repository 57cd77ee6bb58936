/** Our print of the golden images against the reference's. */

import assert from "node:assert/strict";
import { FsError } from "../../fs/errors.ts";
import { MemDevice } from "../../fs/memory_device.ts";
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
