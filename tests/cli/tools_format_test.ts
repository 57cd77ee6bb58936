// What walk-inodes, stat, statfs and df print (05 §12), without a mount.

import assert from "node:assert/strict";
import { IocStatfsMore } from "../../format/ioctl.ts";
import { computeSpace, formatSpace } from "../../cli/df.ts";
import { formatEntry, nextPosition, parsePosition } from "../../cli/walk-inodes.ts";
import { FsError } from "../../fs/errors.ts";

Deno.test("walk-inodes: columns and headings as the reference's", () => {
  const e = { major: 4n, minor: 0, ino: 1024n };
  assert.equal(
    formatEntry(0, e),
    "#                    major                minor      ino                 \n" +
      "0                    4                    0          1024                \n",
  );
  assert.equal(
    formatEntry(1, e),
    "1                    4                    0          1024                \n",
  );
  assert.ok(formatEntry(25, e).startsWith("#"));
});

Deno.test("walk-inodes: positions", () => {
  assert.deepEqual(parsePosition("1.2.3", "first"), { major: 1n, minor: 2, ino: 3n });
  assert.deepEqual(parsePosition("0x10", "first"), { major: 16n, minor: 0, ino: 0n });
  assert.deepEqual(parsePosition("-1", "last"), { major: 2n ** 64n - 1n, minor: 0, ino: 0n });
  assert.deepEqual(parsePosition("5.-1.-1", "last"), {
    major: 5n,
    minor: 0xffffffff,
    ino: 2n ** 64n - 1n,
  });
  for (const bad of ["", "x", "1.y", "1.2.3.4", "1..2"]) {
    assert.throws(() => parsePosition(bad, "first"), (e) => e instanceof FsError && e.errno === 22);
  }
  const max = 2n ** 64n - 1n;
  assert.deepEqual(nextPosition({ major: 1n, minor: 0, ino: 5n }), {
    major: 1n,
    minor: 0,
    ino: 6n,
  });
  assert.deepEqual(nextPosition({ major: 1n, minor: 0, ino: max }), {
    major: 1n,
    minor: 1,
    ino: 0n,
  });
  assert.equal(nextPosition({ major: max, minor: 0xffffffff, ino: max }), null);
});

Deno.test("df: the reference's table", () => {
  const st = IocStatfsMore.alloc();
  st.totalMetaBlocks = 1048576;
  st.totalDataBlocks = 4194304;
  st.reservedMetaBlocks = 34681;
  const rows = computeSpace(st, { meta: 1045066 + 34681, data: 4193664 });
  assert.deepEqual(formatSpace(rows, false), [
    "    Type  Size    Total  Used     Free  Use%  ",
    "MetaData  64KB  1048576  3510  1045066     0  ",
    "    Data   4KB  4194304   640  4193664     0  ",
  ]);
  assert.match(formatSpace(rows, true)[1]!, /64\.00GB/);
  assert.equal(computeSpace(st, { meta: 5, data: 0 })[0].free, 0);
});
