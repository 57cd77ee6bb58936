/** What fsck advises to do next about what it leaves. */

import assert from "node:assert/strict";
import { advice } from "../../cli/fsck_display.ts";
import type { ProblemCode } from "../../fs/check/problems.ts";

const left = (...codes: ProblemCode[]) => codes.map((code) => ({ code, found: 1, left: 1 }));

Deno.test("advice: what loses nothing before what may lose something", () => {
  assert.equal(
    advice(left("inode-nlink"), "report"),
    "next: fsck -p, which mends without losing anything",
  );
  assert.equal(
    advice(left("inode-nlink", "inode-field"), "report"),
    "next: fsck -y --undo FILE, which may lose what 1 of the problems is about",
  );
  assert.match(advice(left("data-leak", "index-extra"), "safe"), /^next: fsck -y /);
  assert.equal(
    advice(left("xattr", "inode-field"), "safe"),
    "next: fsck -y --undo FILE, which may lose what 2 of the problems are about",
  );
});

Deno.test("advice: a device that is cut short comes first, as mending refuses it", () => {
  assert.match(
    advice(left("super-size", "extent-range"), "report"),
    /^first: give a device that is cut short its size back; next: /,
  );
});
