/** Reads through an io_uring: contents, ends of files, more than fit at once. */
import assert from "node:assert/strict";
import { openDevice } from "../../fs/sys/device.ts";
import { RingReader } from "../../fs/sys/uring.ts";

const PAGE = 4096;
const PAGES = 512;

async function withReader(
  body: (ring: RingReader, alloc: (bytes: number) => Uint8Array) => void,
): Promise<void> {
  const path = await Deno.makeTempFile();
  const bytes = new Uint8Array(PAGES * PAGE);
  for (let p = 0; p < PAGES; p++) bytes.fill(p & 255, p * PAGE, (p + 1) * PAGE);
  await Deno.writeFile(path, bytes);
  const dev = openDevice(path, { write: false });
  const ring = RingReader.open(dev.fd);
  try {
    if (ring === null) console.log("skipped: the kernel allows no io_uring here");
    else body(ring, (n) => dev.allocBuffer(n));
  } finally {
    ring?.close();
    dev.close();
    await Deno.remove(path);
  }
}

Deno.test("io_uring: many reads at once, each ends once with its bytes", () =>
  withReader((ring, alloc) => {
    let ended = 0;
    for (let round = 0; round < 50; round++) {
      const first = (round * 7) % 400;
      for (let i = 0; i < 10; i++) {
        const buf = alloc(2 * PAGE);
        const page = first + i * 3;
        while (
          !ring.start(buf, page * PAGE, (ok) => {
            ended++;
            assert.ok(ok);
            assert.equal(buf[0], page & 255);
            assert.equal(buf[2 * PAGE - 1], (page + 1) & 255);
          })
        ) ring.reap(true);
      }
    }
    while (ended < 500) ring.reap(true);
    // With nothing under way there is nothing to wait for.
    ring.reap(true);
    assert.equal(ended, 500);
  }));

Deno.test("io_uring: a full ring says so; a read beyond the end fails", () =>
  withReader((ring, alloc) => {
    const buf = alloc(4 * PAGE);
    const results: boolean[] = [];
    let started = 0;
    while (ring.start(buf.subarray(0, PAGE), 0, (ok) => results.push(ok))) started++;
    assert.equal(started, 32);
    while (results.length < started) ring.reap(true);
    assert.ok(results.every((ok) => ok));
    let failed = false;
    assert.ok(ring.start(buf, (PAGES - 1) * PAGE, (ok) => failed = !ok));
    ring.reap(true);
    assert.ok(failed);
  }));
