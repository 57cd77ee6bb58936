// The map of dirty file data (fs/dirty_data.ts) against a plain map of blocks.

import assert from "node:assert/strict";
import fc from "fast-check";
import { DeviceError } from "../../fs/errors.ts";
import { DirtyData } from "../../fs/dirty_data.ts";
import { MemDevice } from "../../fs/memory_device.ts";

const BLOCKS = 4096;

Deno.test("dirty data: a stream is written in large pieces", () => {
  const dev = new MemDevice(BLOCKS * 4096);
  const dirty = new DirtyData(dev, { streamPages: 512, limitPages: 1024 });
  for (let b = 100; b < 1124; b++) {
    dirty.add(b).fill(b & 255);
    if (dirty.streaming) dirty.flushStep();
  }
  assert.equal(dev.writes, 3);
  dirty.flush();
  assert.equal(dev.writes, 4);
  assert.equal(dirty.pages, 0);
  const buf = new Uint8Array(4096);
  for (let b = 100; b < 1124; b += 37) {
    dev.read(buf, b * 4096);
    assert.ok(buf.every((x) => x === (b & 255)));
  }
});

Deno.test("dirty data: what cannot be written stays dirty", () => {
  const dev = new MemDevice(BLOCKS * 4096);
  const dirty = new DirtyData(dev);
  dirty.add(7).fill(7);
  dirty.add(9).fill(9);
  dev.inject({ op: "write", kind: "fail", nth: 1 });
  assert.throws(() => dirty.flush(), DeviceError);
  assert.equal(dirty.pages, 2);
  dirty.flush();
  assert.equal(dirty.pages, 0);
  const buf = new Uint8Array(4096);
  dev.read(buf, 9 * 4096);
  assert.equal(buf[0], 9);
});

Deno.test("dirty data: random pages, drops and flushes equal a plain map", () => {
  const opArb = fc.record({
    kind: fc.constantFrom("put", "put", "put", "drop", "step", "flush"),
    at: fc.nat(700),
    len: fc.oneof(fc.integer({ min: 1, max: 8 }), fc.integer({ min: 1, max: 400 })),
    byte: fc.integer({ min: 1, max: 255 }),
  });
  fc.assert(
    fc.property(fc.array(opArb, { maxLength: 80 }), (ops) => {
      const dev = new MemDevice(BLOCKS * 4096);
      const dirty = new DirtyData(dev, { streamPages: 16, limitPages: 100000 });
      const memory = new Map<number, number>();
      const disk = new Map<number, number>();
      for (const op of ops) {
        if (op.kind === "put") {
          for (let b = op.at; b < op.at + op.len; b++) {
            (dirty.page(b) ?? dirty.add(b)).fill(op.byte);
            memory.set(b, op.byte);
          }
        } else if (op.kind === "drop") {
          dirty.drop(op.at, op.len);
          for (let b = op.at; b < op.at + op.len; b++) memory.delete(b);
        } else if (op.kind === "step") {
          const before = memory.size;
          assert.equal(dirty.flushStep(), before > 256);
          for (const [b, byte] of [...memory].slice(0, 256)) {
            disk.set(b, byte);
            memory.delete(b);
          }
        } else {
          dirty.flush();
          for (const [b, byte] of memory) disk.set(b, byte);
          memory.clear();
        }
        assert.equal(dirty.pages, memory.size);
      }
      const buf = new Uint8Array(4096);
      for (let b = 0; b < 1200; b++) {
        const page = dirty.page(b);
        assert.equal(page === null ? undefined : page[0], memory.get(b));
        if (page !== null) assert.ok(page.every((x) => x === page[0]));
        dev.read(buf, b * 4096);
        assert.equal(buf[0], disk.get(b) ?? 0);
        assert.equal(buf[4095], disk.get(b) ?? 0);
      }
    }),
    { numRuns: 60 },
  );
});
