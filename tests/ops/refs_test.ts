/** fs/refs.ts: counts against a plain map, the open map, and who is told of unused inodes. */

import assert from "node:assert/strict";
import fc from "fast-check";
import { InodeRefs, OPEN_MAP_BYTES } from "../../fs/refs.ts";

const inos = fc.oneof(
  fc.integer({ min: 1, max: 40 }),
  fc.integer({ min: 1000, max: 1100 }),
  fc.constantFrom(2 ** 32, 2 ** 32 + 5, 2 ** 40 + 1024, Number.MAX_SAFE_INTEGER),
);

Deno.test("inode references: random operations equal a plain model", () => {
  fc.assert(fc.property(
    fc.array(
      fc.tuple(fc.constantFrom("lookup", "forget", "open", "release", "unlink"), inos, fc.nat(3)),
      { maxLength: 400 },
    ),
    (steps) => {
      const refs = new InodeRefs();
      const model = new Map<number, { lookups: number; opens: number; unlinked: boolean }>();
      const told: string[] = [];
      const expected: string[] = [];
      refs.onUnused = (ino, unlinked) => void told.push(`${ino} ${unlinked}`);
      for (const [what, ino, n] of steps) {
        const m = model.get(ino) ?? { lookups: 0, opens: 0, unlinked: false };
        if (what === "lookup") {
          refs.addLookup(ino, n + 1);
          m.lookups += n + 1;
        } else if (what === "open") {
          refs.open(ino);
          m.opens++;
        } else if (what === "unlink") {
          assert.equal(refs.setUnlinked(ino, n > 0), model.has(ino));
          m.unlinked = n > 0;
          if (!model.has(ino)) continue;
        } else if (what === "forget") {
          if (m.lookups === 0) continue;
          const k = Math.min(m.lookups, n + 1);
          m.lookups -= k;
          if (m.lookups + m.opens === 0) expected.push(`${ino} ${m.unlinked}`);
          refs.forget(ino, k);
        } else {
          if (m.opens === 0) continue;
          m.opens--;
          if (m.lookups + m.opens === 0) expected.push(`${ino} ${m.unlinked}`);
          refs.release(ino);
        }
        if (m.lookups + m.opens === 0) model.delete(ino);
        else model.set(ino, m);
      }
      assert.deepEqual(told, expected);
      assert.equal(refs.size, model.size);
      for (const [ino, m] of model) {
        assert.equal(refs.lookupCount(ino), m.lookups);
        assert.equal(refs.openCount(ino), m.opens);
      }
    },
  ));
});

Deno.test("inode references: table grows, shrinks and keeps everything", () => {
  const refs = new InodeRefs();
  for (let i = 1; i <= 50_000; i++) refs.addLookup(i * 3, 2);
  for (let i = 1; i <= 50_000; i++) if (i % 100 !== 0) refs.forget(i * 3, 2);
  assert.equal(refs.size, 500);
  for (let i = 1; i <= 50_000; i++) assert.equal(refs.isUsed(i * 3), i % 100 === 0);
});

Deno.test("inode references: the open map of a group", () => {
  const refs = new InodeRefs();
  refs.addLookup(1024);
  refs.open(2047);
  refs.addLookup(1033);
  refs.addLookup(2048);
  const bits = new Uint8Array(OPEN_MAP_BYTES).fill(0xff);
  refs.openMap(1, bits);
  const want = new Uint8Array(OPEN_MAP_BYTES);
  want[0] = 1;
  want[1] = 2;
  want[127] = 0x80;
  assert.deepEqual(bits, want);
});

Deno.test("inode references: forgetting everything reports unlinked inodes", () => {
  const refs = new InodeRefs();
  const told: number[] = [];
  refs.onUnused = (ino, unlinked) => unlinked && told.push(ino);
  refs.addLookup(5, 3);
  refs.addLookup(6);
  refs.open(6);
  refs.setUnlinked(6, true);
  refs.forgetAll();
  assert.deepEqual(told, [6]);
  assert.equal(refs.size, 0);
});

Deno.test("inode references: a count never goes below zero", () => {
  const refs = new InodeRefs();
  refs.addLookup(9);
  assert.throws(() => refs.forget(9, 2), /more lookups forgotten/);
  assert.throws(() => refs.release(9), /not open/);
  assert.throws(() => refs.forget(10, 1), /more lookups forgotten/);
});
