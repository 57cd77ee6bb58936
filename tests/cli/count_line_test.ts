/** The line of work whose end is not known: a few times a second, and gone before anything else is printed. */

import assert from "node:assert/strict";
import { CountLine } from "../../cli/count_line.ts";

Deno.test("count line: blocks and rate, a few times a second, and it can be taken away", () => {
  const lines: string[] = [];
  let now = 0;
  const line = new CountLine("dumped", true, () => now, (text) => lines.push(text));
  line.clear();
  assert.deepEqual(lines, [], "nothing to take away");
  for (now = 100; now <= 1000; now += 100) line.show(now);
  assert.equal(lines.length, 5);
  assert.equal(lines.at(-1), "\r\x1b[Kdumped 900 blocks (56.25 MB), 62.50 MB/s");
  line.clear();
  assert.equal(lines.at(-1), "\r\x1b[K");
});

Deno.test("count line: nothing where standard error is no terminal", () => {
  const line = new CountLine("dumped", false, () => 0, () => assert.fail("it was shown"));
  line.show(1);
  line.clear();
});
