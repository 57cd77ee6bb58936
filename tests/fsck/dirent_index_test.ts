/** Dirents of a directory by position, in more memory than there is. */

import assert from "node:assert/strict";
import fc from "fast-check";
import { TYPE_DIRENT, ZONE_FS } from "../../format/constants.ts";
import { Key } from "../../format/key.ts";
import { DirentIndex, posOf } from "../../fs/check/repair/dirent_index.ts";

const LITTLE = { memory: 1, tempDir: undefined };
const DIR = 2 ** 33 + 7;

const keyOf = (hash: bigint, pos: bigint, fourth = 0): Key =>
  Key.of(ZONE_FS, DIR, TYPE_DIRENT, hash, pos, fourth);
const inOrder = (keys: Key[]): Key[] => keys.sort((a, b) => a.compare(b));
const texts = (keys: readonly Key[]): string[] => keys.map((key) => key.toString());

Deno.test("dirents are found by position, all of one position in the order of their keys", () => {
  const hash = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
  const pos = fc.oneof(fc.bigInt({ min: 0n, max: 6n }), hash);
  const dirent = fc.tuple(hash, pos, fc.constantFrom(0, 0, 255));
  fc.assert(fc.property(fc.array(dirent, { maxLength: 60 }), fc.nat(7), (dirents, limit) => {
    const unique = new Map(dirents.map((d) => [keyOf(...d).toString(), keyOf(...d)]));
    const keys = inOrder([...unique.values()]);
    const index = new DirentIndex(DIR, keys, LITTLE);
    for (const asked of [...keys.map(posOf), 3, 2 ** 40]) {
      assert.deepEqual(texts(index.keysAt(asked)), texts(keys.filter((k) => posOf(k) === asked)));
    }
    const below = keys.map(posOf).filter((p) => p < limit);
    assert.equal(index.greatestBelow(limit), Math.max(-1, ...below));
    index.close();
  }));
});

Deno.test("more dirents than memory holds are found by position", () => {
  const count = 40_000;
  const keys = inOrder(Array.from(
    { length: count },
    (_, i) => keyOf(BigInt(i * 7919 % count) << 30n, BigInt(2 + i)),
  ));
  const index = new DirentIndex(DIR, keys, LITTLE);
  assert.ok(index.spilled);
  for (const i of [0, 1, count - 1, 12_345, 39_000, 5]) {
    assert.deepEqual(texts(index.keysAt(2 + i)), [
      keyOf(BigInt(i * 7919 % count) << 30n, BigInt(2 + i)).toString(),
    ]);
  }
  assert.deepEqual(index.keysAt(1), []);
  assert.deepEqual(index.keysAt(2 + count), []);
  assert.equal(index.greatestBelow(2 ** 52), 1 + count);
  index.close();
});
