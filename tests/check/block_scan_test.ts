/**
 * The one-pass check of a btree block against the thorough one of 01 §10.7: both say the same of any
 * block, and a sound one's items come in the same order.
 */

import assert from "node:assert/strict";
import { MAX_ITEMS, scanBlock } from "../../fs/check/block_scan.ts";
import { itemOrder } from "../../fs/check/btree_check.ts";
import { type RawBlock, rawBlock } from "../../fs/check/source.ts";
import {
  findItemGE,
  firstItem,
  hasRoom,
  initBtreeBlock,
  insertItem,
  itemKey,
  nrItems,
  removeItem,
  updateItem,
} from "../../format/btree_block.ts";
import {
  type BtreeExpectation,
  checkBtreeShape,
  verifyBtreeBlock,
} from "../../format/btree_verify.ts";
import { LEAF_ITEM_HASH_OFF, LG_SIZE } from "../../format/constants.ts";
import { Key } from "../../format/key.ts";

class Chance {
  constructor(private seed: number) {}
  below(n: number): number {
    this.seed = Math.imul(this.seed, 1664525) + 1013904223 >>> 0;
    return Math.floor(this.seed / 0x1_0000_0000 * n);
  }
}

/** Keys that share fields, and some that need all their bits. */
function anyKey(c: Chance): Key {
  const word = () =>
    [c.below(4), c.below(300), c.below(70_000), c.below(0x1_0000_0000)][c.below(4)]!;
  const high = () => c.below(5) === 0 ? c.below(0x1_0000_0000) : 0;
  const zone = [4, 8, 16][c.below(3)]!, type = c.below(6);
  return Key.words(zone, high(), word(), type, high(), word(), high(), word(), c.below(3));
}

function makeBlock(c: Chance, level: number, log: boolean): RawBlock {
  const b = rawBlock(new Uint8Array(LG_SIZE));
  initBtreeBlock(b, level);
  const wanted = c.below(4) === 0 ? 1 + c.below(3) : 1 + c.below(1200);
  const value = () => new Uint8Array(level > 0 ? 16 : c.below(7) === 0 ? 0 : c.below(150)).fill(7);
  for (let i = 0; i < wanted; i++) {
    const key = anyKey(c), found = findItemGE(b, key), val = value();
    if (found !== 0 && itemKey(b, found).equals(key)) {
      if (hasRoom(b, val.length)) updateItem(b, found, val);
    } else if (c.below(8) === 0 && nrItems(b) > 1 && found !== 0) removeItem(b, found);
    else {
      const deletion = log && level === 0 && c.below(9) === 0;
      const stored = deletion ? new Uint8Array(0) : val;
      if (hasRoom(b, stored.length)) insertItem(b, key, i, deletion ? 1 : 0, stored);
    }
  }
  return b;
}

function compare(b: RawBlock, expect: BtreeExpectation, what: string): boolean {
  const order = new Uint16Array(MAX_ITEMS), other = new Uint16Array(MAX_ITEMS);
  const n = scanBlock(b, expect, order);
  const findings = verifyBtreeBlock(b, expect), shape = checkBtreeShape(b);
  const sound = findings.length === 0 && shape === null;
  assert.equal(n >= 0, sound, `${what}: ${shape ?? findings[0]?.message ?? "nothing is wrong"}`);
  if (sound) {
    assert.equal(n, itemOrder(b, expect.lo, expect.hi, other), what);
    assert.deepEqual(order.subarray(0, n), other.subarray(0, n), what);
  }
  return sound;
}

Deno.test("scanning a block says what the thorough check says, of sound and of damaged ones", () => {
  let sound = 0, damaged = 0;
  for (let seed = 1; seed <= 60; seed++) {
    const c = new Chance(seed), level = c.below(3) === 0 ? 1 : 0, logTree = c.below(2) === 0;
    const b = makeBlock(c, level, logTree);
    const keys: Key[] = [];
    for (let slot = 0; slot < nrItems(b); slot++) keys.push(itemKey(b, 48 + 56 * slot));
    keys.sort((x, y) => x.compare(y));
    const least = keys[0] as Key, most = keys.at(-1) as Key;
    const expect = { level, lo: least, hi: most, rightSpine: false, logTree };
    assert.ok(compare(b, expect, `seed ${seed}`) || level > 0 && firstItem(b) === 0);
    for (
      const other of [
        { ...expect, level: 1 - level },
        { ...expect, lo: least.inc() },
        { ...expect, hi: most.dec() },
        { ...expect, hi: most.inc() },
        { ...expect, lo: Key.ZEROS, hi: Key.ONES, rightSpine: true },
        { ...expect, logTree: !logTree },
      ]
    ) compare(b, other, `seed ${seed}, other bounds`);
    const itemsEnd = 48 + 56 * nrItems(b);
    for (let i = 0; i < 400; i++) {
      // Somewhere, in the fixed part, among the items, in the hash table.
      const at = [
        c.below(LG_SIZE),
        32 + c.below(16),
        48 + c.below(itemsEnd - 48),
        LEAF_ITEM_HASH_OFF + c.below(LG_SIZE - LEAF_ITEM_HASH_OFF),
      ][i % 4]!;
      const before = b.buf[at]!;
      b.buf[at] = c.below(2) === 0 ? before ^ 1 << c.below(8) : c.below(256);
      if (compare(b, expect, `seed ${seed}, byte ${at}`)) sound++;
      else damaged++;
      b.buf[at] = before;
    }
  }
  assert.ok(sound > 1000 && damaged > 5000, `${sound} sound, ${damaged} damaged`);
});

Deno.test("scanning a block of random bytes ends", () => {
  const c = new Chance(99), order = new Uint16Array(MAX_ITEMS);
  const b = rawBlock(new Uint8Array(LG_SIZE));
  const expect = { level: 0, lo: Key.ZEROS, hi: Key.ONES, rightSpine: true, logTree: true };
  for (let i = 0; i < 200; i++) {
    for (let at = 0; at < LG_SIZE; at++) b.buf[at] = c.below(256);
    // Plausible counts, so that it gets further than the first look.
    b.buf.fill(0, 40, 48);
    b.v.setUint16(34, c.below(1100), true);
    b.v.setUint16(38, 0, true);
    b.v.setUint16(32, 16 + 56 * c.below(1100), true);
    assert.equal(scanBlock(b, expect, order), -1);
  }
});
