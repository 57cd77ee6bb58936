/**
 * The btree block codec against the vectors of 01 §20, byte for byte by their crc, and against a
 * plain model; the checks of btree_verify.ts against blocks that are right and blocks that are not.
 */

import assert from "node:assert/strict";
import fc from "fast-check";
import { BlockHeader } from "../../format/block.ts";
import {
  type BlockBytes,
  compactValues,
  findItemGE,
  findItemLE,
  findLeafItem,
  firstItem,
  hasRoom,
  HEIGHT,
  initBtreeBlock,
  insertItem,
  ITEM_ROOT,
  itemFlags,
  itemKey,
  itemSeq,
  itemVal,
  itemValOff,
  lastItem,
  LEFT,
  MID_FREE_LEN,
  midFreeLen,
  moveItems,
  nextItem,
  nrItems,
  PARENT,
  prevItem,
  removeItem,
  RIGHT,
  setItemVersion,
  setParentKey,
  totalItemBytes,
  updateItem,
} from "../../format/btree_block.ts";
import {
  type BtreeExpectation,
  checkBtreeShape,
  verifyBtreeBlock,
} from "../../format/btree_verify.ts";
import {
  LEAF_ITEM_HASH_NR,
  LEAF_ITEM_HASH_OFF,
  LG_SIZE,
  MAGIC_BTREE,
} from "../../format/constants.ts";
import { blockCrc } from "../../format/crc32c.ts";
import { Key } from "../../format/key.ts";

function newBlock(level: number): BlockBytes {
  const buf = new Uint8Array(LG_SIZE);
  const b = { buf, v: new DataView(buf.buffer) };
  const hdr = new BlockHeader(b.v, 0);
  hdr.magic = MAGIC_BTREE;
  hdr.fsid = 0x0123456789abcdefn;
  hdr.seq = 0x5555n;
  hdr.blkno = 100;
  initBtreeBlock(b, level);
  return b;
}

function copyOf(b: BlockBytes): BlockBytes {
  const buf = b.buf.slice();
  return { buf, v: new DataView(buf.buffer) };
}

const WHOLE: BtreeExpectation = {
  level: 0,
  lo: Key.ZEROS,
  hi: Key.ONES,
  rightSpine: true,
  logTree: true,
};

function assertSound(b: BlockBytes, expect: Partial<BtreeExpectation> = {}): void {
  assert.deepEqual(verifyBtreeBlock(b, { ...WHOLE, ...expect }), []);
  assert.equal(checkBtreeShape(b), null);
}

const crcOf = (b: BlockBytes) => blockCrc(b.buf).toString(16).padStart(8, "0");

/** `itemRoot nr total midFree` of the fixed part. */
function summary(b: BlockBytes): number[] {
  return [b.v.getUint16(ITEM_ROOT, true), nrItems(b), totalItemBytes(b), midFreeLen(b)];
}

/** `first parent left right height val_off val_len` per slot. */
function slots(b: BlockBytes): number[][] {
  const rows: number[][] = [];
  for (let slot = 0; slot < nrItems(b); slot++) {
    const item = 48 + 56 * slot;
    const val = itemVal(b, item);
    rows.push([
      Number(itemKey(b, item).firstBig),
      b.v.getUint16(item + PARENT, true),
      b.v.getUint16(item + LEFT, true),
      b.v.getUint16(item + RIGHT, true),
      b.v.getUint8(item + HEIGHT),
      itemValOff(b, item),
      val.length,
    ]);
  }
  return rows;
}

function buckets(b: BlockBytes): string {
  const used: string[] = [];
  for (let i = 0; i < LEAF_ITEM_HASH_NR; i++) {
    const item = b.v.getUint16(LEAF_ITEM_HASH_OFF + 2 * i, true);
    if (item !== 0) used.push(`${i}=${item}`);
  }
  return used.join(" ");
}

const key = (n: number) => Key.of(16, n, 4);

function v1(): BlockBytes {
  const b = newBlock(0);
  for (const n of [5, 2, 8, 1, 9, 3, 7, 4, 6, 10]) {
    insertItem(b, key(n), 100 + n, 0, new Uint8Array(3 * n).fill(n));
  }
  return b;
}

function v2(): BlockBytes {
  const b = v1();
  removeItem(b, findLeafItem(b, key(5)));
  return b;
}

function v3(): BlockBytes {
  const b = v2();
  removeItem(b, findLeafItem(b, key(2)));
  updateItem(b, findLeafItem(b, key(8)), new Uint8Array(40).fill(0xee));
  return b;
}

function v4(): BlockBytes {
  const b = v3();
  compactValues(b);
  return b;
}

Deno.test("V0: an empty leaf", () => {
  const b = newBlock(0);
  assert.deepEqual(summary(b), [0, 0, 0, 62464]);
  assert.equal(crcOf(b), "f582b79b");
  assertSound(b);
});

Deno.test("V1: ten inserts", () => {
  const b = v1();
  assert.deepEqual(summary(b), [16, 10, 760, 61704]);
  assert.deepEqual(slots(b), [
    [5, 0, 72, 128, 4, 62496, 15],
    [2, 16, 184, 296, 3, 62488, 6],
    [8, 16, 352, 240, 3, 62464, 24],
    [1, 72, 0, 0, 1, 62456, 3],
    [9, 128, 0, 520, 2, 62424, 27],
    [3, 72, 0, 408, 2, 62408, 9],
    [7, 128, 464, 0, 2, 62384, 21],
    [4, 296, 0, 0, 1, 62368, 12],
    [6, 352, 0, 0, 1, 62344, 18],
    [10, 240, 0, 0, 1, 62312, 30],
  ]);
  assert.equal(
    buckets(b),
    "66=328 189=440 265=160 423=496 499=552 1019=104 1040=216 1156=48 1390=384 1480=272",
  );
  assert.equal(crcOf(b), "deec2264");
  assertSound(b);
});

Deno.test("V2: a delete of an item with two children", () => {
  const b = v2();
  assert.deepEqual(summary(b), [464, 9, 688, 61760]);
  assert.deepEqual(slots(b), [
    [10, 240, 0, 0, 1, 62312, 30],
    [2, 464, 184, 296, 3, 62488, 6],
    [8, 464, 352, 240, 3, 62464, 24],
    [1, 72, 0, 0, 1, 62456, 3],
    [9, 128, 0, 16, 2, 62424, 27],
    [3, 72, 0, 408, 2, 62408, 9],
    [7, 128, 0, 0, 1, 62384, 21],
    [4, 296, 0, 0, 1, 62368, 12],
    [6, 0, 72, 128, 4, 62344, 18],
  ]);
  assert.equal(
    buckets(b),
    "66=328 189=440 265=160 423=496 499=48 1019=104 1040=216 1390=384 1480=272",
  );
  assert.equal(crcOf(b), "a0b18b5c");
  assertSound(b);
});

Deno.test("V3: another delete and an update that grows", () => {
  const b = v3();
  assert.deepEqual(summary(b), [72, 8, 640, 61776]);
  assert.deepEqual(slots(b), [
    [10, 240, 0, 0, 1, 62312, 30],
    [6, 0, 296, 128, 4, 62344, 18],
    [8, 72, 352, 240, 3, 62272, 40],
    [1, 296, 0, 0, 1, 62456, 3],
    [9, 128, 0, 16, 2, 62424, 27],
    [3, 72, 184, 408, 2, 62408, 9],
    [7, 128, 0, 0, 1, 62384, 21],
    [4, 296, 0, 0, 1, 62368, 12],
  ]);
  assert.equal(buckets(b), "66=328 189=440 265=160 423=104 499=48 1040=216 1390=384 1480=272");
  assert.equal(crcOf(b), "ad79bf00");
  assertSound(b);
});

Deno.test("V4: compacting the values", () => {
  const b = v4();
  assert.equal(midFreeLen(b), 61824);
  assert.deepEqual(
    slots(b).map((row) => row[5]),
    [62360, 62392, 62320, 62504, 62472, 62456, 62432, 62416],
  );
  assert.equal(crcOf(b), "6bbf374b");
  assertSound(b);
});

Deno.test("V5: a split", () => {
  const right = v4(), left = newBlock(0);
  moveItems(right, left, Math.floor(totalItemBytes(right) / 2), "least");
  assert.deepEqual(summary(left), [72, 5, 368, 62096]);
  assert.deepEqual(slots(left), [
    [1, 72, 0, 0, 1, 62504, 3],
    [3, 0, 16, 184, 3, 62488, 9],
    [4, 184, 0, 0, 1, 62472, 12],
    [6, 72, 128, 240, 2, 62448, 18],
    [7, 184, 0, 0, 1, 62424, 21],
  ]);
  assert.equal(buckets(left), "66=104 189=160 423=216 1040=48 1390=272");
  assert.equal(crcOf(left), "fae90e98");
  assert.deepEqual(summary(right), [72, 3, 272, 62104]);
  assert.deepEqual(slots(right), [
    [10, 72, 0, 0, 1, 62360, 30],
    [9, 0, 128, 16, 2, 62472, 27],
    [8, 72, 0, 0, 1, 62320, 40],
  ]);
  assert.equal(buckets(right), "265=160 499=48 1480=104");
  assert.equal(crcOf(right), "5d82c71e");
  assert.equal(itemSeq(left, findLeafItem(left, key(6))), 106, "items keep their version");
  assertSound(left);
  assertSound(right);
});

function childRef(blkno: number, seq: number): Uint8Array {
  const ref = new Uint8Array(16);
  const v = new DataView(ref.buffer);
  v.setUint32(0, blkno, true);
  v.setUint32(8, seq, true);
  return ref;
}

Deno.test("V6: a root parent after the first split", () => {
  const b = newBlock(1);
  insertItem(b, Key.ONES, 0, 0, childRef(200, 0x77));
  insertItem(b, key(6), 0, 0, childRef(201, 0x78));
  assert.deepEqual(summary(b), [16, 2, 144, 65344]);
  assert.deepEqual(slots(b).map((row) => row.slice(1)), [
    [0, 72, 0, 2, 65520, 16],
    [16, 0, 0, 1, 65504, 16],
  ]);
  assert.equal(crcOf(b), "c9a6cf29");
  assertSound(b, { level: 1, logTree: false });
});

Deno.test("V7: the hash table wraps around", () => {
  const b = newBlock(0);
  for (const n of [261, 328, 474, 676]) insertItem(b, key(n), 1, 0, new Uint8Array(0));
  assert.equal(buckets(b), "0=160 1=216 1510=104 1511=48");
  assert.equal(b.v.getUint16(ITEM_ROOT, true), 72);
  assert.equal(crcOf(b), "0da1e7c3");
  assertSound(b);
  removeItem(b, findLeafItem(b, key(261)));
  assert.equal(buckets(b), "0=160 1510=104 1511=48");
  assert.equal(b.v.getUint16(ITEM_ROOT, true), 128);
  assert.equal(crcOf(b), "cfce57a4");
  assertSound(b);
  assert.equal(findLeafItem(b, key(261)), 0);
  assert.equal(findLeafItem(b, key(676)), 48);
});

Deno.test("V8: seven ascending inserts make a perfect tree", () => {
  const b = newBlock(0);
  for (let i = 1; i <= 7; i++) insertItem(b, Key.of(36, 100 * i, 0, 10), 0, 0, new Uint8Array(0));
  assert.equal(b.v.getUint16(ITEM_ROOT, true), 184);
  assert.deepEqual(slots(b).map((row) => row[4]), [1, 2, 1, 3, 1, 2, 1]);
  assert.equal(crcOf(b), "83daf7b0");
});

Deno.test("V9: a double rotation", () => {
  const b = newBlock(0);
  for (const n of [10, 30, 20]) insertItem(b, Key.of(36, n, 0, 1), 0, 0, new Uint8Array(0));
  assert.deepEqual(slots(b).map((row) => row.slice(1, 5)), [
    [128, 0, 0, 1],
    [128, 0, 0, 1],
    [0, 16, 72, 2],
  ]);
  assert.equal(b.v.getUint16(ITEM_ROOT, true), 128);
  assert.equal(crcOf(b), "026ef81d");
});

Deno.test("a free middle that is no multiple of 8 is damage, and moves no value out of place", () => {
  const b = newBlock(0);
  insertItem(b, key(1), 1, 0, new Uint8Array(40));
  const expect = { level: 0, lo: Key.ZEROS, hi: Key.ONES, rightSpine: true, logTree: false };
  const rules = () => verifyBtreeBlock(b, expect).map(({ rule }) => rule);
  assert.deepEqual(rules(), []);
  b.v.setUint16(MID_FREE_LEN, midFreeLen(b) - 54, true);
  assert.deepEqual(rules(), [7]);
  insertItem(b, key(2), 1, 0, new Uint8Array(30).fill(2));
  assert.equal(itemValOff(b, findLeafItem(b, key(2))) % 8, 0);
  assert.equal(checkBtreeShape(b), null);
  assert.deepEqual(rules(), []);
});

Deno.test("any sequence of changes leaves a sound block with the model's items", () => {
  const change = fc.record({
    what: fc.constantFrom("put", "put", "put", "remove", "compact"),
    n: fc.nat(60),
    len: fc.nat(900).map((len) => Math.min(len, 896)),
  });
  fc.assert(
    fc.property(fc.array(change, { maxLength: 150, size: "max" }), (changes) => {
      const b = newBlock(0);
      const model = new Map<number, { len: number; seq: number }>();
      let seq = 0;
      for (const c of changes) {
        const item = findLeafItem(b, key(c.n));
        assert.equal(item !== 0, model.has(c.n));
        if (c.what === "compact") compactValues(b);
        else if (c.what === "remove") {
          if (item === 0) continue;
          removeItem(b, item);
          model.delete(c.n);
        } else {
          if (!hasRoom(b, c.len)) compactValues(b);
          if (!hasRoom(b, c.len)) continue;
          seq++;
          const val = new Uint8Array(c.len).fill(seq);
          if (item === 0) insertItem(b, key(c.n), seq, 0, val);
          else {
            updateItem(b, item, val);
            setItemVersion(b, item, seq, 0);
          }
          model.set(c.n, { len: c.len, seq });
        }
        assertSound(b);
      }
      const sorted = [...model.keys()].sort((x, y) => x - y);
      const up: number[] = [], down: number[] = [];
      for (let i = firstItem(b); i !== 0; i = nextItem(b, i)) {
        const n = itemKey(b, i).first, m = model.get(n)!;
        up.push(n);
        assert.equal(itemSeq(b, i), m.seq);
        assert.deepEqual(itemVal(b, i), new Uint8Array(m.len).fill(m.seq));
      }
      for (let i = lastItem(b); i !== 0; i = prevItem(b, i)) down.push(itemKey(b, i).first);
      assert.deepEqual(up, sorted);
      assert.deepEqual(down, sorted.toReversed());
      for (let n = 0; n <= 61; n++) {
        const ge = findItemGE(b, key(n)), le = findItemLE(b, key(n));
        assert.equal(ge === 0 ? undefined : itemKey(b, ge).first, sorted.find((x) => x >= n));
        assert.equal(le === 0 ? undefined : itemKey(b, le).first, sorted.findLast((x) => x <= n));
      }
    }),
    { numRuns: 60 },
  );
});

Deno.test("a full leaf of value-less items holds 1115 and every one is found", () => {
  const b = newBlock(0);
  let n = 0;
  while (hasRoom(b, 0)) insertItem(b, key(n++), 1, 0, new Uint8Array(0));
  assert.equal(n, 1115);
  assertSound(b);
  assert.throws(() => insertItem(b, key(n), 1, 0, new Uint8Array(0)), /no room/);
  for (let i = 0; i < n; i += 3) removeItem(b, findLeafItem(b, key(i)));
  assertSound(b);
});

Deno.test("inserting a key twice is refused", () => {
  const b = v1();
  assert.throws(() => insertItem(b, key(5), 1, 0, new Uint8Array(0)), /already/);
  assertSound(b);
});

Deno.test("the two-item chain of mkfs is sound, and repaired by the first change", () => {
  const mkfs = newBlock(0);
  insertItem(mkfs, key(1), 1, 0, new Uint8Array(0));
  insertItem(mkfs, key(2), 1, 0, new Uint8Array(0));
  mkfs.v.setUint16(ITEM_ROOT, 72, true);
  mkfs.v.setUint16(48 + PARENT, 72, true);
  mkfs.v.setUint16(48 + RIGHT, 0, true);
  mkfs.v.setUint8(48 + HEIGHT, 1);
  mkfs.v.setUint16(104 + PARENT, 0, true);
  mkfs.v.setUint16(104 + LEFT, 16, true);
  mkfs.v.setUint8(104 + HEIGHT, 0);
  assertSound(mkfs);
  insertItem(mkfs, key(3), 1, 0, new Uint8Array(0));
  assertSound(mkfs);
  assert.deepEqual(slots(mkfs).map((row) => row[4]), [1, 2, 1]);
});

Deno.test("broken blocks are reported by the rule they break", () => {
  const broken: [number, string, (b: BlockBytes) => void][] = [
    [1, "level", (b) => b.v.setUint8(40, 3)],
    [1, "block padding", (b) => b.v.setUint8(44, 1)],
    [2, "too many items", (b) => b.v.setUint16(34, 1200, true)],
    [3, "link to nowhere", (b) => b.v.setUint16(48 + LEFT, 17, true)],
    [3, "loop", (b) => b.v.setUint16(104 + LEFT, 16, true)],
    [3, "height", (b) => b.v.setUint8(160 + HEIGHT, 9)],
    [3, "order", (b) => key(99).write(b.v, 216 + 8)],
    [4, "item padding", (b) => b.v.setUint8(48 + 55, 1)],
    [4, "key padding", (b) => b.v.setUint8(48 + 39, 1)],
    [5, "overlap", (b) => b.v.setUint16(48 + 48, 62488, true)],
    [5, "value in the items", (b) => b.v.setUint16(48 + 48, 56, true)],
    [6, "total", (b) => b.v.setUint16(36, 8, true)],
    [5, "free middle too long", (b) => b.v.setUint16(38, 61712, true)],
    [7, "free middle past the end", (b) => b.v.setUint16(38, 64000, true)],
    [8, "hash bucket emptied", (b) => b.v.setUint16(LEAF_ITEM_HASH_OFF + 2 * 66, 0, true)],
    [8, "wild hash bucket", (b) => b.v.setUint16(LEAF_ITEM_HASH_OFF + 2 * 67, 49, true)],
    [10, "flags", (b) => b.v.setUint8(48 + 52, 1)],
  ];
  for (const [rule, what, damage] of broken) {
    const b = v1();
    damage(b);
    const findings = verifyBtreeBlock(b, WHOLE);
    assert.ok(findings.some((f) => f.rule === rule), `${what}: ${JSON.stringify(findings)}`);
  }
  const outside = verifyBtreeBlock(v1(), { ...WHOLE, lo: key(2), hi: key(9) });
  assert.deepEqual(outside.map((f) => f.rule), [4, 4]);
});

Deno.test("parents: bound of the greatest key, length of references, emptiness", () => {
  const b = newBlock(1);
  const rules = (expect: Partial<BtreeExpectation>) =>
    verifyBtreeBlock(b, { ...WHOLE, level: 1, ...expect }).map((f) => f.rule);
  assert.deepEqual(rules({}), [9]);
  insertItem(b, key(6), 0, 0, childRef(7, 7));
  assert.deepEqual(rules({}), [9]);
  assert.deepEqual(rules({ rightSpine: false, hi: key(6) }), []);
  setParentKey(b, firstItem(b), Key.ONES);
  assert.deepEqual(rules({}), []);
  insertItem(b, key(1), 0, 0, new Uint8Array(8));
  assert.deepEqual(rules({}), [9]);
});

Deno.test("deletion items are right only in leaves of log trees and without a value", () => {
  const b = newBlock(0);
  insertItem(b, key(1), 5, 1, new Uint8Array(0));
  assertSound(b);
  assert.equal(itemFlags(b, firstItem(b)), 1);
  assert.deepEqual(verifyBtreeBlock(b, { ...WHOLE, logTree: false }).map((f) => f.rule), [10]);
});

Deno.test("whatever the bytes, checking ends, and a passed shape check makes walking safe", () => {
  const base = [v1(), v3(), newBlock(0)];
  fc.assert(
    fc.property(
      fc.nat(2),
      fc.array(fc.tuple(fc.nat(700), fc.nat(255)), { minLength: 1, maxLength: 6 }),
      (which, bytes) => {
        const b = copyOf(base[which]!);
        // the front of the block, and the hash table behind it
        for (const [at, value] of bytes) {
          b.buf[at < 640 ? 32 + at : LEAF_ITEM_HASH_OFF + at * 4] = value;
        }
        verifyBtreeBlock(b, WHOLE);
        if (checkBtreeShape(b) !== null) return;
        let count = 0;
        for (let i = firstItem(b); i !== 0; i = nextItem(b, i)) {
          itemVal(b, i);
          count++;
        }
        assert.equal(count, nrItems(b));
      },
    ),
    { numRuns: 2000 },
  );
});
