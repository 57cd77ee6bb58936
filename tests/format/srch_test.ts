/** Search file entries and blocks (01 §14). */

import assert from "node:assert/strict";
import fc from "fast-check";
import { FormatError, toHex } from "../../format/bytes.ts";
import {
  appendSrchEntry,
  decodeSrchEntry,
  encodeSrchEntry,
  forEachSrchEntry,
  SrchBlock,
  SrchEntry,
  srchHeight,
  SrchParent,
  srchParentIndex,
} from "../../format/srch.ts";
import { sealed, unhex } from "./helpers.ts";

const MAX = 0xffff_ffff_ffff_ffffn;

function entry(hash: bigint, ino: bigint, id: bigint): SrchEntry {
  const e = SrchEntry.alloc();
  for (const [i, n] of [hash, ino, id].entries()) e.v.setBigUint64(8 * i, n, true);
  return e;
}

/** One entry encoded after another as hexadecimal. */
function encoded(e: SrchEntry, prev: SrchEntry): string {
  const bytes = new Uint8Array(32).fill(0xee);
  const n = encodeSrchEntry(new DataView(bytes.buffer), 0, e, prev);
  assert.ok(bytes.subarray(n).every((b) => b === 0xee), "wrote beyond its length");
  return toHex(bytes.subarray(0, n));
}

Deno.test("encodings of 01 §14.3, both ways", () => {
  const h = 0x1122334455667788n;
  const chain = [
    [entry(0n, 0n, 0n), entry(h, 1024n, 0n), "28 00 10 ef cc aa 88 66 44 22 00 08"],
    [entry(h, 1024n, 0n), entry(h, 1024n, 0n), "00 00"],
    [entry(h, 1024n, 0n), entry(h, 1025n, 3n), "10 01 02 06"],
    [entry(h, 1025n, 3n), entry(h, 1000n, 3n), "10 00 31"],
    [entry(h, 1000n, 3n), entry(0n, 1n, 0n), "28 01 0f ef cc aa 88 66 44 22 cd 07 05"],
    [entry(0n, 1n, 0n), entry(MAX, MAX, MAX), "11 01 01 03 01"],
    [
      entry(MAX, MAX, MAX),
      entry(0x8000000000000000n, 5n, 7n),
      "18 01 fd ff ff ff ff ff ff ff 0c 10",
    ],
  ] as const;
  for (const [prev, e, hex] of chain) {
    const bytes = unhex(hex);
    assert.equal(encoded(e, prev), toHex(bytes));
    const out = SrchEntry.alloc();
    const v = new DataView(bytes.buffer);
    assert.equal(decodeSrchEntry(v, 0, bytes.length, prev, out), bytes.length);
    assert.deepEqual(out.bytes, e.bytes);
    assert.throws(
      () => decodeSrchEntry(v, 0, bytes.length - 1, prev, out),
      FormatError,
      "must not read past the end",
    );
  }
});

Deno.test("any entry after any other round trips", () => {
  const u64 = fc.oneof(
    fc.bigInt({ min: 0n, max: MAX }),
    fc.constantFrom(0n, 1n, MAX, 1n << 63n, (1n << 63n) - 1n, 0xffff_ffffn),
  );
  const anyEntry = fc.tuple(u64, u64, u64).map((f) => entry(...f));
  fc.assert(
    fc.property(anyEntry, anyEntry, (prev, e) => {
      const bytes = new Uint8Array(26);
      const v = new DataView(bytes.buffer);
      const n = encodeSrchEntry(v, 0, e, prev);
      const both = SrchEntry.alloc();
      both.copyFrom(prev);
      assert.equal(decodeSrchEntry(v, 0, n, both, both), n);
      assert.deepEqual(both.bytes, e.bytes);
    }),
    { numRuns: 1000 },
  );
});

Deno.test("decoding accepts lengths that are not minimal, clamps them, ignores the top nibble", () => {
  const bytes = unhex("39 f1 02 00 00 00 00 00 00 00 06 00 00 08");
  const out = SrchEntry.alloc();
  const n = decodeSrchEntry(new DataView(bytes.buffer), 0, bytes.length, SrchEntry.alloc(), out);
  assert.equal(n, bytes.length);
  assert.deepEqual([out.hash, out.ino, out.id], [1n, 3, 4]);
});

Deno.test("log block of 01 §14.3", () => {
  const bytes = new Uint8Array(65536);
  const block = SrchBlock.at(bytes);
  block.hdr.magic = 0x897e4a7d;
  block.hdr.fsid = 0x0123456789abcdefn;
  block.hdr.seq = 0x77n;
  block.hdr.blkno = 300;
  const a = entry(0x1122334455667788n, 1024n, 0n), b = entry(0x1000n, 1030n, 2n);
  for (const e of [a, b, a]) assert.ok(appendSrchEntry(block, e));
  assert.deepEqual([block.entryNr, block.entryBytes], [3, 36]);
  for (const [got, want] of [[block.first, b], [block.last, a], [block.tail, a]] as const) {
    assert.deepEqual(got.bytes, want.bytes);
  }
  assert.equal(sealed(bytes), 0x13d1b6ce);
  const seen: string[] = [];
  forEachSrchEntry(block, (e, n) => seen.push(`${e.hash}.${e.ino}.${e.id} ${n}`));
  const [ta, tb] = [`${a.hash}.1024.0`, `${b.hash}.1030.2`];
  assert.deepEqual(seen, [`${ta} 12`, `${tb} 12`, `${ta} 12`]);
});

Deno.test("a block takes entries until no maximal one would fit, and counts must agree", () => {
  const block = SrchBlock.at(new Uint8Array(65536));
  const ends = [entry(0n, 0n, 0n), entry(1n << 63n, 1n << 63n, 1n << 63n)] as const;
  let nr = 0;
  while (appendSrchEntry(block, ends[nr + 1 & 1] as SrchEntry)) nr++;
  assert.equal(block.entryNr, nr);
  assert.ok(block.entryBytes > 65398 && block.entryBytes <= 65424);
  let seen = 0;
  forEachSrchEntry(block, () => seen++);
  assert.equal(seen, nr);
  block.entryNr = nr + 1;
  assert.throws(() => forEachSrchEntry(block, () => {}), FormatError);
  block.entryNr = nr - 1;
  assert.throws(() => forEachSrchEntry(block, () => {}), FormatError);
});

Deno.test("radix geometry (01 §14.2)", () => {
  for (
    const [blk, height] of [
      [0, 1],
      [1, 2],
      [4093, 2],
      [4094, 3],
      [4094 ** 2 - 1, 3],
      [4094 ** 2, 4],
    ] as const
  ) assert.equal(srchHeight(blk), height, `${blk}`);
  assert.equal(srchParentIndex(1, 4095), 1);
  assert.equal(srchParentIndex(2, 4095), 1);
  assert.equal(srchParentIndex(2, 4093), 0);
});

Deno.test("parent block of 01 §20", () => {
  const bytes = new Uint8Array(65536);
  const parent = SrchParent.at(bytes);
  parent.hdr.magic = 0xb23a2a05;
  parent.hdr.fsid = 0x0123456789abcdefn;
  parent.hdr.seq = 0x7bn;
  parent.hdr.blkno = 303;
  parent.ref(0).set(300, 0, 0x77);
  parent.ref(1).set(310, 0, 0x7a);
  assert.equal(sealed(bytes), 0x7eba67ce);
});
