/** Runs of bits are set like one bit after the other. */

import assert from "node:assert/strict";
import fc from "fast-check";
import { Bitmap } from "../../fs/dump/bitmap.ts";

Deno.test("runs of a bitmap are what single bits would be", () => {
  const size = 100;
  const runs = fc.array(fc.tuple(fc.nat(size - 1), fc.nat(size)), { maxLength: 4 });
  fc.assert(fc.property(runs, (runs) => {
    const bits = new Bitmap(size), expected = new Set<number>();
    for (const [first, wanted] of runs) {
      const length = Math.min(wanted, size - first);
      bits.setRun(first, length);
      for (let n = first; n < first + length; n++) expected.add(n);
    }
    for (let n = 0; n < size; n++) assert.equal(bits.has(n), expected.has(n), `bit ${n}`);
  }));
});

Deno.test("bits of a large device keep apart", () => {
  const far = 2 ** 31 + 9, bits = new Bitmap(far + 1);
  bits.set(far);
  assert.deepEqual([bits.has(far), bits.has(far - 1), bits.has(9)], [true, false, false]);
});
