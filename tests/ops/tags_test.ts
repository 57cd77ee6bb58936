/** fs/ops/tags.ts: the tag grammar and numbers of 02 §12.4, §12.6 and §12.7. */

import assert from "node:assert/strict";
import {
  isAclXattr,
  isSupportedXattr,
  parseIndxName,
  parseNumber,
  parseTags,
  parseTotlName,
  TAG_HIDE,
  TAG_INDX,
  TAG_SRCH,
  TAG_TOTL,
} from "../../fs/ops/tags.ts";

const b = (s: string): Uint8Array => new TextEncoder().encode(s);

Deno.test("xattr tags: the table of the specification", () => {
  const cases: [string, number][] = [
    ["scoutfs.hide.srch.x", TAG_HIDE | TAG_SRCH],
    ["scoutfs.srch.hide.x", TAG_HIDE | TAG_SRCH],
    ["scoutfs.hide.foo.srch.", TAG_HIDE],
    ["scoutfs.hide.hide.x", -1],
    ["scoutfs.unknown", -1],
    ["scoutfs.abc", 0],
    ["scoutfs.hide.", 0],
    ["scoutfs.hide.srch.", TAG_HIDE | TAG_SRCH],
    ["scoutfs.totl.1.2.3", TAG_TOTL],
    ["scoutfs.indx.totl.1.2.3", TAG_TOTL | TAG_INDX],
    ["user.scoutfs.hide.x", 0],
    ["scoutfs.hideX12345", -1],
    ["scoutfs.hide.srch", TAG_HIDE],
  ];
  for (const [name, tags] of cases) assert.equal(parseTags(b(name)), tags, name);
});

Deno.test("xattr names: namespaces", () => {
  for (const ok of ["user.a", "trusted.x", "security.selinux", "scoutfs.hide.x", "user."]) {
    assert.ok(isSupportedXattr(b(ok)), ok);
  }
  for (const no of ["system.posix_acl", "system.x", "foo", "user", "btrfs.x", ""]) {
    assert.ok(!isSupportedXattr(b(no)), no);
  }
  assert.ok(
    isAclXattr(b("system.posix_acl_access")) && isSupportedXattr(b("system.posix_acl_default")),
  );
});

Deno.test("numbers in names and values", () => {
  const good: [string, bigint][] = [
    ["0", 0n],
    ["5", 5n],
    ["18446744073709551615", 0xffff_ffff_ffff_ffffn],
    ["0x1F", 31n],
    ["0Xff", 255n],
    ["017", 15n],
    ["00", 0n],
    ["00000000000000000000017", 15n],
    ["12\0", 12n],
    ["12\0junk", 12n],
    ["12\n\0", 12n],
  ];
  for (const [text, value] of good) assert.equal(parseNumber(b(text)), value, JSON.stringify(text));
  const wrong = [
    "",
    "+1",
    "-1",
    " 1",
    "1 ",
    "1\n",
    "0x",
    "0xg",
    "08",
    "a",
    "1.5",
    "\0",
    "\n\0",
    "12\n\n\0",
    "18446744073709551616",
    "0x10000000000000000",
    "000000000000000000000001",
  ];
  for (const text of wrong) assert.equal(parseNumber(b(text)), null, JSON.stringify(text));
});

Deno.test("totl and indx names", () => {
  assert.deepEqual(parseTotlName(b("scoutfs.totl.1.2.3")), { a: 1n, b: 2n, c: 3n });
  assert.deepEqual(parseTotlName(b("scoutfs.hide.totl.acct.0x10.017.4")), {
    a: 16n,
    b: 15n,
    c: 4n,
  });
  for (const no of ["scoutfs.totl.2.3", "scoutfs.totl.1.2.", "scoutfs.totl.a.1..3", "1.2.3"]) {
    assert.equal(parseTotlName(b(no)), null, no);
  }
  assert.deepEqual(parseIndxName(b("scoutfs.indx.foo.5.1000")), { major: 5, minor: 1000n });
  assert.deepEqual(parseIndxName(b("scoutfs.indx.255.18446744073709551615")), {
    major: 255,
    minor: 0xffff_ffff_ffff_ffffn,
  });
  for (const no of ["scoutfs.indx.256.1", "scoutfs.indx.x.1", "scoutfs.indx.1"]) {
    assert.equal(parseIndxName(b(no)), null, no);
  }
});
