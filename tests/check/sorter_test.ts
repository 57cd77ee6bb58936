/** External sorting, and the sums that say whether two sides agree. */

import assert from "node:assert/strict";
import fc from "fast-check";
import { FACT_READDIR, FACT_SRCH, FactBook, SIDE_ITEM, SIDE_SOURCE } from "../../fs/check/facts.ts";
import { Sorter } from "../../fs/check/sorter.ts";
import { TempFileError } from "../../fs/check/temp_file.ts";

function sortAll(
  records: readonly number[][],
  memory: number,
): { out: number[][]; spilled: boolean } {
  const sorter = new Sorter({ words: 3, keyWords: 2, memory, tempDir: undefined });
  for (const r of records) {
    const at = sorter.slot(), buf = sorter.buffer;
    for (let k = 0; k < 3; k++) buf[at + k] = r[k]!;
  }
  const out: number[][] = [];
  sorter.forEach((w, at) => void out.push([w[at]!, w[at + 1]!, w[at + 2]!]));
  const spilled = sorter.spilled;
  sorter.close();
  return { out, spilled };
}

const byKey = (a: readonly number[], b: readonly number[]) => a[0]! - b[0]! || a[1]! - b[1]!;

Deno.test("records come back in the order of their keys, equal ones as they were pushed", () => {
  const word = fc.oneof(fc.nat(3), fc.integer({ min: 0, max: 0xffff_ffff }));
  fc.assert(fc.property(fc.array(fc.tuple(word, word, word), { maxLength: 300 }), (records) => {
    assert.deepEqual(sortAll(records, 1 << 20).out, records.toSorted(byKey));
  }));
});

Deno.test("more records than memory spill to a file and are merged; the file is removed", () => {
  let seed = 1;
  const next = () => (seed = Math.imul(seed, 1664525) + 1013904223 >>> 0);
  const records = Array.from({ length: 100_000 }, (_, i) => [next() % 5000, next(), i]);
  const { out, spilled } = sortAll(records, 1);
  assert.ok(spilled);
  const keys = (list: readonly number[][]) => list.map(([a, b]) => `${a}.${b}`);
  assert.deepEqual(keys(out), keys(records.toSorted(byKey)));
});

Deno.test("more runs than can be merged together are merged in groups, equal records as they came", () => {
  const WORDS = 512, NR = 10_000;
  let seed = 7;
  const next = () => (seed = Math.imul(seed, 1664525) + 1013904223 >>> 0);
  const sorter = new Sorter({ words: WORDS, keyWords: 1, memory: 1, tempDir: undefined });
  const keys: number[] = [];
  for (let i = 0; i < NR; i++) {
    const at = sorter.slot(), buf = sorter.buffer;
    buf[at] = next() % 1000;
    buf.fill(i, at + 1, at + WORDS);
    keys.push(buf[at]!);
  }
  const expected = keys.map((key, i) => [key, i]).sort((a, b) => a[0]! - b[0]! || a[1]! - b[1]!);
  let nr = 0;
  sorter.forEach((w, at) => {
    const [key, i] = expected[nr++] as [number, number];
    assert.deepEqual([w[at], w[at + 1], w[at + WORDS - 1]], [key, i, i]);
  });
  assert.equal(nr, NR);
  sorter.close();
});

Deno.test("a temporary file that cannot be made or written is told in one line", () => {
  const fill = (dir: string) => {
    const sorter = new Sorter({ words: 512, keyWords: 1, memory: 1, tempDir: dir });
    for (let i = 0; i < 1000; i++) {
      const at = sorter.slot();
      sorter.buffer[at] = i;
    }
  };
  const says = (text: RegExp) => (e: unknown): boolean =>
    e instanceof TempFileError && text.test(e.message) && !e.message.includes("\n");
  assert.throws(() => fill("/does/not/exist"), says(/^a temporary file in \/does\/not\/exist/));
});

Deno.test("both sides of a fact agree in any order, and differ when one word differs", () => {
  const fact = fc.array(fc.integer({ min: 0, max: 0xffff_ffff }), { minLength: 11, maxLength: 11 });
  const add = (book: FactBook, side: number, f: readonly number[]) => {
    const [a, b, c, d, ...rest] = f as [number, number, number, number, ...number[]];
    book.add(FACT_READDIR, side, a, b, c, d, ...rest as []);
  };
  fc.assert(fc.property(
    fc.array(fact, { minLength: 1, maxLength: 30 }),
    fc.nat(),
    fc.nat(10),
    (facts, which, word) => {
      const same = new FactBook(), different = new FactBook();
      for (const f of facts) add(same, SIDE_SOURCE, f);
      for (const f of facts.toReversed()) add(same, SIDE_ITEM, f);
      assert.deepEqual(same.differing(), []);
      for (const f of facts) add(different, SIDE_SOURCE, f);
      const changed = facts.map((f) => [...f]);
      changed[which % facts.length]![word]! ^= 1;
      for (const f of changed) add(different, SIDE_ITEM, f);
      assert.deepEqual(different.differing(), [FACT_READDIR]);
    },
  ));
});

Deno.test("search entries count by parity", () => {
  const book = new FactBook();
  const entry = (side: number) => book.add(FACT_SRCH, side, 1, 2, 3, 4, 5, 6);
  entry(SIDE_ITEM);
  assert.deepEqual(book.differing(), [FACT_SRCH]);
  entry(SIDE_SOURCE);
  assert.deepEqual(book.differing(), []);
  entry(SIDE_ITEM);
  entry(SIDE_ITEM);
  assert.deepEqual(book.differing(), []);
});
