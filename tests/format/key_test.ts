/** Keys, item keys, extents in keys, lock ranges (01 §7, §15; 04 §20.2). */

import assert from "node:assert/strict";
import fc from "fast-check";
import {
  decodeFreeExtent,
  extentOrder,
  freeExtentKey,
  freeExtentKeyOrder,
  freeExtentOrderKey,
} from "../../format/alloc.ts";
import { FormatError, toHex } from "../../format/bytes.ts";
import {
  backrefKey,
  dataSeqKey,
  decodeXattrIndxKey,
  direntKey,
  extentKey,
  indexLockRange,
  inodeKey,
  inodeLockRange,
  lastInodeKey,
  lockRangeOfItem,
  metaSeqKey,
  ORPHAN_LOCK_RANGE,
  orphanKey,
  QUOTA_LOCK_RANGE,
  quotaRuleKey,
  readdirKey,
  RENAME_LOCK_RANGE,
  symlinkKey,
  xattrIndxKey,
  xattrKey,
  xattrTotlKey,
} from "../../format/items.ts";
import { compareKeyAt, Key, maxKey, minKey, rangesOverlap } from "../../format/key.ts";
import {
  LOG_MERGE_STATUS_KEY,
  logMergeCompleteKey,
  logMergeFreeingKey,
  logMergeRangeKey,
  logMergeRequestKey,
} from "../../format/merge.ts";
import { logTreesKey } from "../../format/log_trees.ts";
import { mountedClientKey } from "../../format/mounted_client.ts";
import { srchBlocksKey, srchBusyKey, srchLogKey, srchPendingKey } from "../../format/srch.ts";
import { words } from "./helpers.ts";

const MAX = 0xffff_ffff_ffff_ffffn;

/** Mostly boundary values, where carries happen. */
const u64 = fc.oneof(
  fc.constantFrom(0n, 1n, 0xffff_ffffn, 0x1_0000_0000n, MAX - 1n, MAX),
  fc.bigInt({ min: 0n, max: MAX }),
);
const u8 = fc.oneof(fc.constantFrom(0, 1, 254, 255), fc.nat(255));
const anyKey = fc.tuple(u8, u64, u8, u64, u64, u8).map((f) => Key.of(...f));

/** The key as the 272-bit number that 01 §7.3 describes. */
const asNumber = (k: Key) =>
  ((((BigInt(k.zone) << 64n | k.firstBig) << 8n | BigInt(k.type)) << 64n | k.secondBig) << 64n |
      k.thirdBig) << 8n | BigInt(k.fourth);
const WRAP = 1n << 272n;

Deno.test("order, increment and decrement are those of one big number", () => {
  fc.assert(
    fc.property(anyKey, anyKey, (a, b) => {
      const [na, nb] = [asNumber(a), asNumber(b)];
      assert.equal(Math.sign(a.compare(b)), na < nb ? -1 : na > nb ? 1 : 0);
      assert.equal(a.equals(b), na === nb);
      const v = new DataView(new ArrayBuffer(40));
      a.write(v, 8);
      assert.equal(Math.sign(compareKeyAt(v, 8, b)), Math.sign(a.compare(b)));
      assert.ok(Key.read(v, 8).equals(a));
      assert.equal(asNumber(a.inc()), (na + 1n) % WRAP);
      assert.equal(asNumber(a.dec()), (na + WRAP - 1n) % WRAP);
      assert.equal(minKey(a, b).compare(maxKey(a, b)) <= 0, true);
    }),
    { numRuns: 1000 },
  );
});

Deno.test("increment and decrement of 01 §7.3", () => {
  for (
    const [from, to] of [
      [Key.of(16, 1, 4), "16.1.4.0.0.1"],
      [Key.of(16, 1, 4, 5, MAX, 255), "16.1.4.6.0.0"],
      [Key.of(16, 1, 255, MAX, MAX, 255), "16.2.0.0.0.0"],
      [Key.of(16, MAX, 255, MAX, MAX, 255), "17.0.0.0.0.0"],
      [Key.ONES, "0.0.0.0.0.0"],
    ] as const
  ) assert.equal(`${from.inc()}`, to);
  assert.equal(`${Key.of(16, 1, 4).dec()}`, `16.1.3.${MAX}.${MAX}.255`);
  assert.ok(Key.ZEROS.dec().equals(Key.ONES));
});

Deno.test("reading and writing never touches neighbouring bytes; padding is stored as zero", () => {
  const bytes = new Uint8Array(48).fill(0xaa);
  Key.ONES.write(new DataView(bytes.buffer), 8);
  assert.equal(toHex(bytes), "aa".repeat(8) + "ff".repeat(27) + "00".repeat(5) + "aa".repeat(8));
});

Deno.test("field offsets", () => {
  const key = Key.of(0x10, 0x0807060504030201n, 0x0c, 0x1817161514131211n, 0x2827262524232221n, 9);
  assert.equal(
    toHex(key.toBytes()),
    words(0x0807060504030201n, 0x1817161514131211n, 0x2827262524232221n) + "09100c0000000000",
  );
});

Deno.test("number accessors refuse what they cannot hold", () => {
  const key = Key.of(12, 2n ** 53n - 1n, 0, 2n ** 53n, 0);
  assert.equal(key.first, Number.MAX_SAFE_INTEGER);
  assert.throws(() => key.second, FormatError);
  assert.equal(key.secondBig, 2n ** 53n);
  for (const bad of [-1, 0.5, 2 ** 53, NaN]) {
    assert.throws(() => Key.of(16, bad, 4), FormatError);
    assert.throws(() => Key.of(16, 1, 4, 0, bad), FormatError);
  }
});

Deno.test("ranges overlap unless one ends before the other begins", () => {
  const k = (n: number) => Key.of(16, n, 0);
  assert.ok(rangesOverlap(k(1), k(5), k(5), k(9)));
  assert.ok(rangesOverlap(k(5), k(9), k(1), k(5)));
  assert.ok(rangesOverlap(k(1), k(9), k(4), k(5)));
  assert.ok(!rangesOverlap(k(1), k(4), k(5), k(9)));
  assert.ok(!rangesOverlap(k(5), k(9), k(1), k(4)));
});

Deno.test("keys of all items (01 §7.4)", () => {
  const big = 2 ** 40 + 7;
  for (
    const [key, expected] of [
      [metaSeqKey(9, big), `4.0.4.9.${big}.0`],
      [dataSeqKey(9, big), `4.0.8.9.${big}.0`],
      [orphanKey(big), `8.0.4.${big}.0.0`],
      [quotaRuleKey(MAX, 2), `10.0.4.${MAX}.2.0`],
      [xattrTotlKey(1n, 2n, MAX), `12.1.0.2.${MAX}.0`],
      [inodeKey(big), `16.${big}.4.0.0.0`],
      [xattrKey(big, 0xffffffff, 5, 73), `16.${big}.8.4294967295.5.73`],
      [
        direntKey(big, { hi: 0xffffffff, lo: 1 }, big),
        `16.${big}.12.${MAX - 0xfffffffen}.${big}.0`,
      ],
      [readdirKey(big, 2), `16.${big}.16.2.0.0`],
      [backrefKey(big, 1, 3), `16.${big}.20.1.3.0`],
      [symlinkKey(big, 4), `16.${big}.24.4.0.0`],
      [extentKey(big, 99, 10), `16.${big}.28.99.10.0`],
      [logTreesKey(MAX - 1n, 3), `24.${MAX - 1n}.0.3.0.0`],
      [mountedClientKey(MAX - 1n), `28.${MAX - 1n}.0.0.0.0`],
      [srchLogKey(8), "32.0.4.8.0.0"],
      [srchBlocksKey(100, 2000), "32.0.8.100.2000.0"],
      [srchPendingKey(8), "32.0.12.8.0.0"],
      [srchBusyKey(5n, 8), "32.0.16.5.8.0"],
      [LOG_MERGE_STATUS_KEY, "44.0.0.0.0.0"],
      [logMergeRangeKey(Key.of(16, 1, 4, 2, 3, 5)), "48.1.4.2.3.5"],
      [logMergeRequestKey(7n, 9), "52.7.0.9.0.0"],
      [logMergeCompleteKey(9), "56.9.0.0.0.0"],
      [logMergeFreeingKey(9), "60.9.0.0.0.0"],
      [lastInodeKey(5, 8), `16.5.8.${MAX}.${MAX}.255`],
    ] as const
  ) assert.equal(`${key}`, expected);
});

Deno.test("xattr index keys (01 §15.11)", () => {
  const a = xattrIndxKey(5, 1000n, 1027, 3);
  assert.deepEqual(
    [a.firstBig, a.secondBig, a.thirdBig, a.fourth],
    [0x0500000000000003n, 0xe800000000000004n, 0x0300000000000000n, 3],
  );
  const b = xattrIndxKey(255, 0x1122334455667788n, 0x99aabbccddeeff01n, 0x0203040506070809n);
  assert.deepEqual(
    [b.firstBig, b.secondBig, b.thirdBig, b.fourth],
    [0xff11223344556677n, 0x8899aabbccddeeffn, 0x0102030405060708n, 9],
  );
  fc.assert(fc.property(u8, u64, u64, u64, (major, minor, ino, xid) => {
    assert.deepEqual(decodeXattrIndxKey(xattrIndxKey(major, minor, ino, xid)), {
      major,
      minor,
      ino,
      xid,
    });
  }));
});

Deno.test("extent orders (01 §7.5)", () => {
  for (
    const [len, order] of [
      [1, 0],
      [7, 0],
      [8, 1],
      [63, 1],
      [64, 2],
      [511, 2],
      [512, 3],
      [4095, 3],
      [4096, 4],
      [16320, 4],
      [32767, 4],
      [32768, 5],
      [524288, 6],
      [33554368, 8],
      [2 ** 52 - 1, 17],
    ] as const
  ) assert.equal(extentOrder(len), order, `${len}`);
});

Deno.test("free extent keys round trip and sort larger orders first", () => {
  assert.equal(`${freeExtentKey(1031, 1533)}`, "36.2563.0.1533.0.0");
  assert.equal(`${freeExtentOrderKey(1031, 1533)}`, `40.${MAX - 3n}.0.2563.1533.0`);
  const extent = fc.tuple(fc.nat(2 ** 40), fc.integer({ min: 1, max: 2 ** 40 }));
  fc.assert(fc.property(extent, extent, ([start, len], [start2, len2]) => {
    const key = freeExtentOrderKey(start, len);
    assert.deepEqual(decodeFreeExtent(key), { start, len });
    assert.deepEqual(decodeFreeExtent(freeExtentKey(start, len)), { start, len });
    assert.equal(freeExtentKeyOrder(key), extentOrder(len));
    if (extentOrder(len) > extentOrder(len2)) {
      assert.ok(key.compare(freeExtentOrderKey(start2, len2)) < 0);
    }
  }));
  assert.throws(() => decodeFreeExtent(Key.of(36, 5, 0, 0)), FormatError);
  assert.throws(() => decodeFreeExtent(Key.of(36, 5, 0, 7)), FormatError);
  assert.throws(() => decodeFreeExtent(inodeKey(1)), FormatError);
});

Deno.test("lock ranges (04 §20.2)", () => {
  const range = (r: { start: Key; end: Key }) => `${r.start} ${r.end}`;
  assert.equal(range(inodeLockRange(5555)), `16.5120.0.0.0.0 16.6143.255.${MAX}.${MAX}.255`);
  assert.equal(range(indexLockRange(4, 0x12345)), `4.0.4.73728.0.0 4.0.4.74751.${MAX}.0`);
  assert.equal(
    toHex(indexLockRange(4, 0x12345).start.toBytes()),
    "00".repeat(8) + "0020010000000000" + "00".repeat(8) + "000404" + "00".repeat(5),
  );
  assert.equal(range(ORPHAN_LOCK_RANGE), `8.0.4.0.0.0 8.0.4.${MAX}.0.0`);
  assert.equal(range(QUOTA_LOCK_RANGE), `10.0.0.0.0.0 10.${MAX}.255.${MAX}.${MAX}.255`);
  assert.equal(range(RENAME_LOCK_RANGE), "20.0.4.0.0.0 20.0.4.0.0.0");
});

Deno.test("every item lies in the range of the lock that covers it", () => {
  const items = [
    metaSeqKey(5000, 77),
    dataSeqKey(1023, 1),
    orphanKey(123456),
    quotaRuleKey(MAX, 1),
    xattrTotlKey(MAX, MAX, MAX),
    xattrIndxKey(255, MAX, MAX, MAX),
    inodeKey(1023),
    lastInodeKey(1024, 255),
    extentKey(2 ** 40 + 1023, 5, 1),
  ];
  for (const key of items) {
    const range = lockRangeOfItem(key);
    assert.ok(range !== undefined, `${key}`);
    assert.ok(range.start.compare(key) <= 0 && key.compare(range.end) <= 0, `${key}`);
  }
  assert.equal(lockRangeOfItem(logTreesKey(1n, 1)), undefined);
  assert.equal(lockRangeOfItem(Key.of(4, 0, 12, 1)), undefined);
});
