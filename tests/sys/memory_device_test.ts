/** MemDevice: sparse content, crash replay, fault injection. */
import assert from "node:assert/strict";
import { MemDevice } from "../../fs/memory_device.ts";
import { DeviceError } from "../../fs/errors.ts";

const page = (fill: number, pages = 1) => new Uint8Array(4096 * pages).fill(fill);

Deno.test("unwritten bytes read as zero, written ones as written, whole and in part", () => {
  const dev = new MemDevice(1 << 20);
  dev.writev([page(1), page(2, 2)], 4096);
  const buf = page(9, 5);
  dev.read(buf, 0);
  assert.deepEqual(
    [0, 1, 2, 2, 0].map((f) => page(f)),
    [0, 1, 2, 3, 4].map((i) => buf.slice(i * 4096, (i + 1) * 4096)),
  );
  assert.equal(dev.storedBytes, 3 * 4096);
});

Deno.test("a write keeps its own copy", () => {
  const dev = new MemDevice(1 << 20, { record: true });
  const buf = page(1);
  dev.write(buf, 0);
  buf.fill(7);
  const out = page(0);
  dev.read(out, 0);
  assert.deepEqual(out, page(1));
  dev.replay(1).read(out, 0);
  assert.deepEqual(out, page(1));
});

Deno.test("replay rebuilds every prefix; only unflushed pages can be lost", () => {
  const dev = new MemDevice(1 << 20, { record: true });
  dev.write(page(1), 0);
  dev.flush();
  dev.write(page(2, 2), 0);
  dev.write(page(3), 4096);
  const first = (d: MemDevice, off: number) => {
    const b = page(0);
    d.read(b, off);
    return b[0];
  };
  assert.equal(first(dev.replay(0), 0), 0);
  assert.equal(first(dev.replay(2), 0), 1);
  assert.equal(first(dev.replay(3), 4096), 2);
  assert.equal(first(dev.replay(4), 4096), 3);
  const lost = dev.replayKeeping(4, () => false);
  assert.deepEqual([first(lost, 0), first(lost, 4096)], [1, 0]);
  const torn = dev.replayKeeping(4, (r, p) => r === 2 && p === 1);
  assert.deepEqual([first(torn, 0), first(torn, 4096)], [1, 2]);
});

Deno.test("a recording may begin later, on the content of that moment", () => {
  const dev = MemDevice.fromImage(page(5), { record: true });
  dev.write(page(6), 0);
  const out = page(0);
  dev.replay(0).read(out, 0);
  assert.deepEqual(out, page(5));
});

Deno.test("faults strike the nth operation of their kind and range, once", () => {
  const dev = new MemDevice(1 << 20, { record: true });
  dev.inject({ op: "write", kind: "fail", nth: 1, from: 8192 });
  dev.write(page(1), 0);
  dev.write(page(1), 8192);
  assert.throws(() => dev.write(page(1), 8192), DeviceError);
  dev.write(page(1), 8192);
  dev.inject({ op: "write", kind: "short", nth: 0 });
  assert.throws(() => dev.write(page(4, 2), 65536), /short write/);
  const out = page(0, 2);
  dev.read(out, 65536);
  assert.deepEqual([out[0], out[4096]], [4, 0]);
  dev.inject({ op: "read", kind: "corrupt", nth: 0 });
  const one = page(0);
  dev.read(one, 0);
  assert.notDeepEqual(one, page(1));
  dev.inject({ op: "flush", kind: "fail", nth: 0 });
  assert.throws(() => dev.flush(), /flush failed/);
  dev.flush();
});

Deno.test("accesses beyond the end fail; misaligned ones are defects", () => {
  const dev = new MemDevice(8192, { name: "small" });
  assert.throws(() => dev.read(page(0, 2), 4096), /small: read of 8192 bytes at offset 4096: bey/);
  assert.throws(() => dev.write(new Uint8Array(512), 0), /not aligned/);
});
