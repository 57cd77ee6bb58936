/** Image files and block devices as devices; crc32c implementations. */
import assert from "node:assert/strict";
import { crc32cTable } from "../../format/crc32c.ts";
import { crc32c } from "../../format/crc32c.ts";
import { DeviceError, FsError } from "../../fs/errors.ts";
import { Gate } from "../../fs/gate.ts";
import { useFastCrc32c } from "../../fs/sys/crc.ts";
import { openDevice, probeExclusive } from "../../fs/sys/device.ts";
import { loopDevice } from "../helpers/loop.ts";

async function withImage(bytes: number, body: (path: string) => Promise<void> | void) {
  const dir = await Deno.makeTempDir();
  try {
    const path = `${dir}/image`;
    await Deno.writeFile(path, new Uint8Array());
    await Deno.truncate(path, bytes);
    await body(path);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

function roundTrip(path: string) {
  const dev = openDevice(path, { write: true, exclusive: true });
  const out = dev.allocBuffer(128 << 10);
  for (let i = 0; i < out.length; i++) out[i] = i * 31 + (i >> 12);
  dev.write(out, 65536);
  dev.writev([out.subarray(4096, 8192), out.subarray(0, 4096)], 4096);
  const many = Array.from(
    { length: 100 },
    (_, i) => out.subarray((i % 32) * 4096).subarray(0, 4096),
  );
  dev.writev(many, 1 << 20);
  dev.flush();
  const back = dev.allocBuffer(128 << 10);
  dev.read(back, 65536);
  assert.deepEqual(back, out);
  dev.read(back.subarray(0, 8192), 4096);
  assert.deepEqual(back.subarray(0, 4096), out.subarray(4096, 8192));
  dev.read(back.subarray(0, 4096), (1 << 20) + 99 * 4096);
  assert.deepEqual(back.subarray(0, 4096), out.subarray(3 * 4096, 4 * 4096));
  dev.close();
}

Deno.test("an image file keeps what is written", async () => {
  await withImage(4 << 20, roundTrip);
});

Deno.test("a loop device keeps what is written, and its exclusive user keeps others out", async (t) => {
  const loop = await loopDevice(4 << 20);
  if (loop === null) {
    return void await t.step({ name: "no loop devices here", fn: () => {}, ignore: true });
  }
  try {
    roundTrip(loop.path);
    const dev = openDevice(loop.path, { write: true, exclusive: true });
    assert.equal(dev.size, 4 << 20);
    assert.ok(dev.isBlockDevice);
    assert.throws(() => probeExclusive(loop.path), /in use/);
    openDevice(loop.path, { write: false }).close();
    dev.close();
    probeExclusive(loop.path);
    assert.throws(
      () => openDevice(loop.image, { write: true, exclusive: true }),
      /in use: \/dev\/loop\d+ stands on this image file/,
    );
  } finally {
    await loop.detach();
  }
});

Deno.test("an image file has one exclusive user", async () => {
  await withImage(1 << 20, (path) => {
    const first = openDevice(path, { write: true, exclusive: true });
    assert.throws(() => openDevice(path, { write: true, exclusive: true }), /image: in use/);
    first.close();
    openDevice(path, { write: true, exclusive: true }).close();
  });
});

Deno.test("errors name the path, the place and the reason", async () => {
  await withImage(1 << 20, async (path) => {
    const message = (fn: () => unknown) => {
      try {
        fn();
      } catch (e) {
        assert.ok(e instanceof DeviceError, String(e));
        return e.message;
      }
      return "no error";
    };
    assert.equal(
      message(() => openDevice(`${path}.missing`, { write: false })),
      `${path}.missing: No such file or directory`,
    );
    assert.equal(
      message(() => openDevice("/dev/null", { write: false })),
      "/dev/null: neither a block device nor an image file",
    );
    assert.match(message(() => openDevice("/proc", { write: false })), /neither a block device/);
    assert.equal(
      message(() => openDevice(path, { write: false, minBytes: 2 << 20 })),
      `${path}: 1048576 bytes are too small, at least 2097152 needed`,
    );
    const dev = openDevice(path, { write: true });
    const buf = dev.allocBuffer(8192);
    assert.match(message(() => dev.read(buf, (1 << 20) - 4096)), /beyond the end of the device/);
    await Deno.truncate(path, 65536);
    assert.equal(
      message(() => dev.read(buf, 65536 - 4096)),
      `${path}: read of 8192 bytes at offset 61440: short read of 4096 bytes: end of device`,
    );
    dev.close();
  });
});

Deno.test("a closed gate stops writes and flushes, not reads", async () => {
  await withImage(1 << 20, (path) => {
    const gate = new Gate();
    const dev = openDevice(path, { write: true, gate });
    const buf = dev.allocBuffer(4096);
    dev.write(buf, 0);
    gate.close();
    assert.throws(() => dev.write(buf, 0), FsError);
    assert.throws(() => dev.writev([buf], 0), FsError);
    assert.throws(() => dev.flush(), FsError);
    dev.read(buf, 0);
    dev.close();
  });
});

Deno.test("the fast crc32c equals the table's at every length and offset", async () => {
  await useFastCrc32c();
  const bytes = Uint8Array.from({ length: 70_000 }, (_, i) => (i * i) >> 3);
  for (const [off, len] of [[0, 0], [1, 1], [3, 7], [4, 65532], [0, 70_000], [4, 4092]] as const) {
    assert.equal(crc32c(bytes, off, len), crc32cTable(bytes, off, len));
  }
});
