/** Checksums and hashes against the vectors of 01 §5.1 and §6. */

import assert from "node:assert/strict";
import fc from "fast-check";
import {
  blockCrcOk,
  type Crc32c,
  crc32c,
  crc32cTable,
  sealBlock,
  setCrc32c,
} from "../../format/crc32c.ts";
import {
  bloomBits,
  direntHash,
  fnv1a32,
  fnv1a64,
  fnv1a64Words,
  keyBucket,
  srchNameHash,
  type Words,
  xattrNameHash,
} from "../../format/hash.ts";
import { Key } from "../../format/key.ts";
import { BloomBlock } from "../../format/bloom.ts";
import { QuotaRuleVal } from "../../format/items.ts";
import { sealed, text, unhex, words } from "./helpers.ts";

const joined = (w: Words) => BigInt(w.hi) << 32n | BigInt(w.lo);

Deno.test("crc32c register values", () => {
  for (
    const [input, expected] of [
      ["", 0xffffffff],
      ["a", 0x3e2fbccf],
      ["foobar", 0xf2a0a380],
      ["scoutfs", 0xa991d2b1],
      ["123456789", 0x1cf96d7c],
    ] as const
  ) assert.equal(crc32c(text(input)), expected, input);
  assert.equal(crc32c(new Uint8Array(4092)), 0x58cda791);
  assert.equal(crc32c(new Uint8Array(65532)), 0xe8a56956);
});

Deno.test("crc32c of a window equals that of a copy, for every alignment and length", () => {
  const bitwise = (bytes: Uint8Array) => {
    let c = 0xffffffff;
    for (const b of bytes) {
      c ^= b;
      for (let i = 0; i < 8; i++) c = c & 1 ? c >>> 1 ^ 0x82f63b78 : c >>> 1;
    }
    return c >>> 0;
  };
  const bytes = fc.uint8Array({ minLength: 32, maxLength: 80 });
  fc.assert(fc.property(bytes, fc.nat(12), fc.nat(18), (b, off, cut) => {
    const len = b.length - off - cut;
    assert.equal(crc32cTable(b, off, len), bitwise(b.slice(off, off + len)));
  }));
});

Deno.test("a plugged-in crc32c is used, and sealing detects any flipped bit", () => {
  let calls = 0;
  const counting: Crc32c = (b, off, len) => {
    calls++;
    return crc32cTable(b, off, len);
  };
  setCrc32c(counting);
  try {
    const block = Uint8Array.from({ length: 4096 }, (_, i) => i);
    sealBlock(block);
    assert.ok(blockCrcOk(block));
    assert.equal(calls, 2);
    for (const bit of [0, 17, 32, 4096 * 8 - 1]) {
      const at = bit >> 3;
      block[at] = (block[at] as number) ^ 1 << (bit & 7);
      assert.ok(!blockCrcOk(block), `bit ${bit}`);
      block[at] = (block[at] as number) ^ 1 << (bit & 7);
    }
  } finally {
    setCrc32c(crc32cTable);
  }
});

Deno.test("FNV-1a", () => {
  for (
    const [input, h32, h64] of [
      ["", 0x811c9dc5, 0xcbf29ce484222325n],
      ["a", 0xe40c292c, 0xaf63dc4c8601ec8cn],
      ["foobar", 0xbf9cf968, 0x85944171f73967e8n],
      ["scoutfs", 0x6da0019e, 0x43ec4dc9b043a9fen],
      ["123456789", 0xbb86b11c, 0x06d5573923c6cdfcn],
    ] as const
  ) {
    assert.equal(fnv1a32(text(input)), h32, input);
    assert.equal(fnv1a64(text(input)), h64, input);
  }
});

Deno.test("FNV-1a 64 on words equals FNV-1a 64 on bigints", () => {
  fc.assert(fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
    let h = 0xcbf29ce484222325n;
    for (const b of bytes) h = BigInt.asUintN(64, (h ^ BigInt(b)) * 0x100000001b3n);
    assert.equal(joined(fnv1a64Words(bytes)), h);
  }));
});

Deno.test("directory entry name hashes", () => {
  const cyclic = Uint8Array.from({ length: 200 }, (_, i) => 0x41 + i % 26);
  for (
    const [name, expected] of [
      [text("a"), 0x61000000e40c292cn],
      [text("b"), 0x62000000e70c2de5n],
      [text("foo"), 0x666f6f00a9f37ed7n],
      [text("abcd"), 0x61626364ce3479bdn],
      [text("abcde"), 0x61626364749bcf08n],
      [text("abcdefg"), 0x616263642a9eb737n],
      [text("abcdefgh"), 0x4554455676daaa8dn],
      [text("file.txt"), 0x566474640bc16a85n],
      [text("README.md"), 0x1000207618eb20e2n],
      [text("hello world"), 0x64667457d58b3fa7n],
      [text("0123456789abcdef0123456789abcdef"), 0x0000000086d04db5n],
      [unhex("c3a974c3a9"), 0xc3a974c3ffb58817n],
      [cyclic, 0x3322330048702d35n],
      [text("x".repeat(255)), 0x0f0f0f0f6318963fn],
    ] as const
  ) {
    assert.equal(joined(direntHash(name)), expected);
    const padded = Uint8Array.from([1, 2, 3, ...name, 4]);
    assert.equal(joined(direntHash(padded, 3, name.length)), expected);
  }
});

Deno.test("directory entry name hashes sample the bits that they should, whatever the length", () => {
  for (let len = 1; len <= 255; len++) {
    const name = Uint8Array.from({ length: len }, (_, i) => Math.imul(i + len, 0x9e3779b1) >>> 13);
    const bits = [...name].map((byte) => byte.toString(2).padStart(8, "0")).join("");
    const skip = Math.max(1, Math.floor(bits.length / 32));
    let sampled = "";
    for (let i = 0; i < 32; i++) sampled += bits[i * skip] ?? "0";
    assert.equal(direntHash(name).hi, parseInt(sampled, 2), `${len} bytes`);
  }
});

Deno.test("xattr name and search hashes", () => {
  for (
    const [name, hash, srch] of [
      ["user.a", 0x8ef14919, 0xf84162aa75418a8fn],
      ["user.foo", 0xa47a061b, 0x23f3f1c8eab4ccfcn],
      ["trusted.overlay.opaque", 0x30c4b523, 0x51aea02526590f33n],
      ["security.selinux", 0x118241bd, 0x6853fe6533e196f3n],
      ["system.posix_acl_access", 0x0cad41c7, 0x0cea5bb44587e165n],
      ["scoutfs.hide.srch.myattr", 0x204da4c6, 0x963d984a18893727n],
      ["scoutfs.hide.totl.acct.1.2.3", 0x0776dbb4, 0xebc1d3d931115da6n],
      ["scoutfs.indx.foo.5.1000", 0x201d4595, 0x13fac36c59dc9c6bn],
    ] as const
  ) {
    assert.equal(xattrNameHash(text(name)), hash, name);
    assert.equal(srchNameHash(text(name)), srch, name);
  }
});

Deno.test("stored key bytes, leaf hash buckets and hashes of whole keys", () => {
  const max = 0xffff_ffff_ffff_ffffn;
  for (
    const [key, bytes, h32, bucket, h64] of [
      [Key.ZEROS, "00".repeat(32), 0x0b2ae445, 845, 0x0c8210784d8af5a5n],
      [Key.ONES, "ff".repeat(27) + "00".repeat(5), 0x3e1627b4, 1380, 0x6a26c4cb1c886874n],
      [
        Key.of(4, 0, 4, 0, 1, 0),
        words(0n, 0n, 1n) + "0004040000000000",
        0xf6d1cdfc,
        252,
        0x1a939d52aaedaadcn,
      ],
      [
        Key.of(16, 1, 4),
        words(1n, 0n, 0n) + "0010040000000000",
        0x1aacbf90,
        1040,
        0xe9f7856b100ac9f0n,
      ],
      [
        Key.of(16, 1024, 12, 0x1122334455667788n, 2),
        words(1024n, 0x1122334455667788n, 2n) + "00100c0000000000",
        0x775f9cb7,
        367,
        0xb1f7ea79a9815097n,
      ],
      [
        Key.of(16, 5000, 8, 0xdeadbeef, 3, 1),
        words(5000n, 0xdeadbeefn, 3n) + "0110080000000000",
        0xbaeadbc8,
        848,
        0x38db9ebda180c708n,
      ],
      [
        Key.of(40, max - 3n, 0, 2563, 1533),
        words(max - 3n, 2563n, 1533n) + "0028000000000000",
        0x0486dea9,
        1441,
        0x64dd34c37050c729n,
      ],
      [
        Key.of(32, 0, 8, 100, 2000),
        words(0n, 100n, 2000n) + "0020080000000000",
        0x82a35164,
        516,
        0xe121f1d011d34264n,
      ],
    ] as const
  ) {
    const stored = key.toBytes();
    assert.deepEqual(stored, unhex(bytes), `${key}`);
    assert.equal(fnv1a32(stored), h32);
    assert.equal(keyBucket(new DataView(stored.buffer), 0), bucket);
    assert.equal(fnv1a64(stored), h64);
  }
});

Deno.test("bloom bits of lock start keys", () => {
  for (
    const [key, bits] of [
      [Key.of(16, 0, 0), [349301, 400905, 383775]],
      [Key.of(16, 1024, 0), [410633, 362016, 181083]],
      [Key.of(16, 2048, 0), [473565, 323127, 461399]],
      [Key.of(4, 0, 4), [30749, 251904, 427980]],
      [Key.of(4, 0, 8, 1024), [257053, 505895, 283397]],
      [Key.of(8, 0, 4), [418537, 160996, 431949]],
      [Key.of(10, 0, 0), [64599, 21928, 350900]],
      [Key.of(12, 0, 0), [509345, 323443, 200855]],
      [Key.of(14, 0, 0), [430123, 100990, 9851]],
    ] as const
  ) assert.deepEqual(bloomBits(key), bits, `${key}`);
});

Deno.test("bloom block of 01 §12.3", () => {
  const block = new Uint8Array(65536);
  const bloom = BloomBlock.at(block);
  bloom.hdr.magic = 0x31995604;
  bloom.hdr.fsid = 0x0123456789abcdefn;
  bloom.hdr.seq = 0x78n;
  bloom.hdr.blkno = 301;
  const a = Key.of(16, 1024, 0), b = Key.of(4, 0, 4);
  assert.equal(bloom.setKey(a), 3);
  assert.ok(!bloom.testKey(b));
  assert.equal(bloom.setKey(b), 3);
  assert.equal(bloom.setKey(a), 0);
  assert.ok(bloom.testKey(a) && bloom.testKey(b));
  assert.equal(bloom.totalSet, 6);
  for (
    const [off, byte] of [[51369, 2], [45292, 1], [22675, 8], [3883, 0x20], [31528, 1], [
      53537,
      0x10,
    ]] as const
  ) assert.equal(block[off], byte);
  assert.equal(sealed(block), 0xd0b6b6cf);
});

Deno.test("quota rule hashes (01 §6.7)", () => {
  for (
    const [hex, hash] of [
      ["00".repeat(48), 0xa09d945a1cd8d6e5n],
      [
        "0100000000000000 0200000000000000 0300000000000000 e803000000000000 00 00 00 000000 000000 00000000000000",
        0x2c6741d524d085fcn,
      ],
      [
        "0100000000000000 0200000000000000 0300000000000000 e803000000000000 07 01 01 000000 000000 00000000000000",
        0xbcf572afbab2f8d9n,
      ],
      [
        "0100000000000000 e803000000000000 0300000000000000 0000000000010000 00 00 00 000200 000100 00000000000000",
        0x933cca9ed6c4a518n,
      ],
      [
        "2a00000000000000 0000000000000000 0000000000000000 ffffffffffffffff ff 00 00 010003 010000 00000000000000",
        0x30c6d2078cbde10fn,
      ],
    ] as const
  ) {
    const stored = unhex(hex);
    assert.equal(stored.length, 48);
    assert.equal(fnv1a64(stored), hash);
  }
  const rule = QuotaRuleVal.alloc();
  rule.setNameVal(0, 42n);
  rule.limit = 0xffff_ffff_ffff_ffffn;
  rule.prio = 255;
  rule.setNameSource(0, 1);
  rule.setNameSource(2, 3);
  rule.setNameFlags(0, 1);
  assert.equal(fnv1a64(rule.bytes), 0x30c6d2078cbde10fn);
});
