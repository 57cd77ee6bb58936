/** Numbers, sizes and times as commands take them (05 §11, §12.1). */

import assert from "node:assert/strict";
import { parseNumber, parseS64, parseSize, parseTimespec, parseU64 } from "../../cli/parse.ts";
import { formatSize } from "../../cli/sizes.ts";
import { EINVAL, ERANGE } from "../../format/errno.ts";
import { FsError } from "../../fs/errors.ts";

const fails = (fn: () => unknown, errno: number, line: string) =>
  assert.throws(fn, (e) => e instanceof FsError && e.errno === errno && e.message === line);

Deno.test("unsigned numbers in C notation", () => {
  for (
    const [text, value] of [
      ["0", 0n],
      ["10", 10n],
      ["0x10", 16n],
      ["0X1f", 31n],
      ["010", 8n],
      ["18446744073709551615", 2n ** 64n - 1n],
      ["-1", 2n ** 64n - 1n],
    ] as const
  ) assert.equal(parseU64(text), value, text);
  for (const bad of ["", "abc", "1x", "08", "0x", "1 ", "1.5", "18446744073709551616"]) {
    fails(() => parseU64(bad), EINVAL, `invalid 64bit value: '${bad}'`);
  }
});

Deno.test("signed numbers and ranges", () => {
  assert.equal(parseS64("-1"), -1n);
  assert.equal(parseS64("9223372036854775807"), 2n ** 63n - 1n);
  fails(
    () => parseS64("9223372036854775808"),
    EINVAL,
    "invalid 64bit value: '9223372036854775808'",
  );
  assert.equal(parseNumber("7", 0, 14), 7);
  fails(() => parseNumber("15", 0, 14), ERANGE, "value '15' must be between 0 and 14");
});

Deno.test("sizes: one suffix letter counts, what follows is ignored", () => {
  for (
    const [text, value] of [
      ["1024", 1024n],
      ["10K", 10240n],
      ["10KB", 10240n],
      ["10KiB", 10240n],
      ["1M", 1n << 20n],
      ["3G", 3n << 30n],
      ["0x10T", 16n << 40n],
      ["1P", 1n << 50n],
    ] as const
  ) assert.equal(parseSize(text), value, text);
  fails(() => parseSize("10k"), ERANGE, "unknown suffix: 'k'");
  fails(() => parseSize("10x"), ERANGE, "unknown suffix: 'x'");
  fails(() => parseSize("K"), EINVAL, "invalid 64bit value: 'K'");
  fails(() => parseSize("-1"), EINVAL, "invalid 64bit value: '-1'");
  fails(() => parseSize("17000000P"), ERANGE, "size '17000000P' is beyond 2^64−1 bytes");
});

Deno.test("times are two integers", () => {
  assert.deepEqual(parseTimespec("5.1"), { sec: 5n, nsec: 1 });
  assert.deepEqual(parseTimespec("-2.999999999"), { sec: -2n, nsec: 999999999 });
  for (const bad of ["5", "5.", ".5", "a.b", "1.2.3", "1.1000000001"]) {
    fails(() => parseTimespec(bad), EINVAL, `invalid timespec string: '${bad}'`);
  }
});

Deno.test("sizes for people", () => {
  for (
    const [bytes, text] of [
      [0, "0.00B"],
      [1023, "1023.00B"],
      [1024, "1.00KB"],
      [256 * 2 ** 20, "256.00MB"],
      [71630848, "68.31MB"],
      [64 * 2 ** 30, "64.00GB"],
      [2 ** 40, "1.00TB"],
      [2 ** 60, "1.00EB"],
      [2n ** 64n, "16.00EB"],
    ] as const
  ) assert.equal(formatSize(bytes), text);
  assert.equal(formatSize(256 * 2 ** 20, " "), "256.00 MB");
});
