/** Super blocks that are gone: what a repair makes of the rest of both devices, and what it refuses. */

import assert from "node:assert/strict";
import { LG_SIZE, SM_SIZE } from "../../format/constants.ts";
import type { Device } from "../../fs/device.ts";
import { DeviceError } from "../../fs/errors.ts";
import { MemDevice } from "../../fs/memory_device.ts";
import { repairVolume } from "../../fs/check/repair/repair.ts";
import { create, unlink } from "../../fs/ops/names.ts";
import { useFastCrc32c } from "../../fs/sys/crc.ts";
import { openDevice } from "../../fs/sys/device.ts";
import { goldenImages, goldenTest } from "../helpers/golden.ts";
import { LocalCluster } from "../helpers/local_cluster.ts";
import { LocalFs, newLocalFs } from "../helpers/local_fs.ts";
import { ImageCache, OverlayDevice } from "../helpers/overlay_device.ts";
import { forEachCrash } from "./crash_points.ts";
import {
  bytes,
  copyOf,
  fill,
  healthyVolume,
  manifest,
  problemsOf,
  repairOptions,
  Surgeon,
} from "./repair_support.ts";
import { makeSample } from "./sample.ts";
import { editSuper, mustRecover, mustRefuse, SUPER_OFF, wipe } from "./supers_support.ts";

const META_DAMAGE: readonly (readonly [string, (meta: Device) => void])[] = [
  ["is wiped", wipe],
  ["is of something else", (meta) => editSuper(meta, (raw) => void raw.fill(0x77))],
  [
    "has lost the sector with its roots",
    (meta) => editSuper(meta, (raw) => void raw.fill(0, 512, 1024)),
  ],
  ["has lost its first sector", (meta) => editSuper(meta, (raw) => void raw.fill(0xff, 0, 512))],
];

for (const [name, damage] of META_DAMAGE) {
  Deno.test(`supers: the metadata super block ${name}`, async () => {
    for (const v of [await healthyVolume(), makeSample()]) {
      const healthy = manifest(v.meta, v.data);
      damage(v.meta);
      mustRecover(v, healthy);
    }
  });
}

Deno.test("supers: of two sizes that cannot be relied on the greater one takes nothing away", () => {
  const small = makeSample(), healthy = manifest(small.meta, small.data);
  const { totalMetaBlocks, totalDataBlocks } = new Surgeon(small.meta).superBlock();
  // The volume does not use all of its devices.
  const larger = (dev: MemDevice) => {
    const copy = new MemDevice(2 * dev.size), block = dev.allocBuffer(LG_SIZE);
    for (let off = 0; off < dev.size; off += LG_SIZE) {
      dev.read(block, off);
      if (block.some((b) => b !== 0)) copy.write(block, off);
    }
    return copy;
  };
  const v = { meta: larger(small.meta), data: larger(small.data) };
  editSuper(v.meta, (raw, sb) => {
    sb.totalMetaBlocks = 1040;
    raw[0]! ^= 1;
  });
  editSuper(v.data, (raw, sb) => {
    sb.totalDataBlocks -= 8;
    raw[0]! ^= 1;
  });
  mustRecover(v, healthy);
  const mended = new Surgeon(v.meta).superBlock();
  assert.equal(mended.totalMetaBlocks, totalMetaBlocks);
  assert.equal(mended.totalDataBlocks, totalDataBlocks);
});

Deno.test("supers: a metadata super block that cannot be read is written anew", async () => {
  const v = await healthyVolume(), healthy = manifest(v.meta, v.data);
  /** A sector that can be read again once it was written. */
  class BadSector extends OverlayDevice {
    bad = true;
    override read(buf: Uint8Array, off: number): void {
      const hit = off <= SUPER_OFF && SUPER_OFF < off + buf.length;
      if (this.bad && hit) throw new DeviceError(this.name, "read error");
      super.read(buf, off);
    }
    override write(buf: Uint8Array, off: number): void {
      if (off === SUPER_OFF) this.bad = false;
      super.write(buf, off);
    }
  }
  mustRecover({ meta: new BadSector(v.meta), data: v.data }, healthy);
});

Deno.test("supers: the newest trees are found among older ones", async () => {
  const m = await newLocalFs({ fmtVers: 2 });
  await fill(m, 1);
  await m.sync();
  for (let round = 0; round < 5; round++) {
    const name = bytes(`round${round}`);
    const ino = await m.run((op, fs) => create(op, fs, 1, name, 0o100644, 0));
    m.fs.refs.forget(ino, 1);
    await m.sync();
    if (round > 0) await m.run((op, fs) => unlink(op, fs, 1, bytes(`round${round - 1}`)));
    await m.sync();
  }
  await m.unmount();
  const { meta, data } = m.cluster;
  const healthy = manifest(meta, data);
  assert.ok(healthy.has("/round4") && !healthy.has("/round3"));
  wipe(meta);
  const notes = mustRecover({ meta, data }, healthy);
  assert.ok(
    notes.some((n) => /^logs_root was found at block \d+: .*; of (?!1$)/.test(n)),
    `${notes}`,
  );
});

Deno.test("supers: without super block and with lost blocks most is found", async () => {
  const v = await healthyVolume(), healthy = manifest(v.meta, v.data), s = new Surgeon(v.meta);
  const tree = s.itemTrees().find(({ name, root }) => name === "log" && root.height > 1);
  assert.ok(tree !== undefined);
  const blocks = s.blocksOf(tree.root), leaf = blocks.findLast(({ level }) => level === 0);
  s.editBlock(leaf!.blkno, ({ buf }) => buf.fill(0), false);
  wipe(v.meta);
  const result = repairVolume(v.meta, v.data, repairOptions());
  assert.equal(result.stopped, null);
  assert.deepEqual(problemsOf(v.meta, v.data).map((p) => p.message), []);
  const now = manifest(v.meta, v.data);
  const same = [...healthy].filter(([path, what]) => now.get(path) === what).length;
  assert.ok(same * 10 > healthy.size * 6, `${same} of ${healthy.size}`);
});

Deno.test("supers: without super block, root and parents the leaves are found", () => {
  const v = makeSample(), healthy = manifest(v.meta, v.data), s = new Surgeon(v.meta);
  for (const { root } of s.itemTrees()) {
    for (const { blkno, level } of s.blocksOf(root)) {
      if (level > 0) s.editBlock(blkno, ({ buf }) => buf.fill(0), false);
    }
  }
  wipe(v.meta);
  const result = repairVolume(v.meta, v.data, repairOptions());
  assert.equal(result.stopped, null);
  assert.deepEqual(problemsOf(v.meta, v.data).map((p) => p.message), []);
  const now = manifest(v.meta, v.data);
  const same = [...healthy].filter(([path, what]) => now.get(path) === what).length;
  assert.ok(same * 10 > healthy.size * 8, `${same} of ${healthy.size}`);
});

Deno.test("supers: a size with which the volume would be too small for its own structures", () => {
  for (const alone of [true, false]) {
    const v = makeSample({ metaBlocks: 4096, dataBlocks: 1 << 18 }), s = new Surgeon(v.meta);
    const healthy = manifest(v.meta, v.data);
    s.editSuper((sb) => void (sb.totalMetaBlocks = 1024));
    if (!alone) {
      // With the right size more is found wrong than with the damaged one: what is neither used nor
      // free counts then.
      const sb = s.superBlock(), lists = [sb.serverMetaAvail(0), sb.serverMetaFreed(1)];
      for (const { ref } of lists) s.editBlock(ref.blkno, ({ buf }) => buf.fill(0), false);
    }
    const result = repairVolume(v.meta, v.data, repairOptions());
    assert.equal(result.stopped, null);
    assert.deepEqual(problemsOf(v.meta, v.data).map((p) => p.message), []);
    assert.equal(s.superBlock().totalMetaBlocks, 4096);
    assert.deepEqual(manifest(v.meta, v.data), healthy);
  }
});

Deno.test("supers: the root inode's leaf is lost as well", async () => {
  const v = await healthyVolume(), healthy = manifest(v.meta, v.data), s = new Surgeon(v.meta);
  s.editBlock(s.superBlock().fsRoot.ref.blkno, ({ buf }) => buf.fill(0), false);
  wipe(v.meta);
  mustRecover(v, healthy);
});

Deno.test("supers: the only leaf of a new volume is damaged as well", async () => {
  const { meta, data } = await LocalCluster.make({ fmtVers: 2 }), s = new Surgeon(meta);
  s.editBlock(s.superBlock().fsRoot.ref.blkno, ({ buf }) => buf.fill(0x5a, 32), false);
  editSuper(meta, (raw) => void (raw[0]! ^= 1));
  const { stopped } = repairVolume(meta, data, repairOptions());
  assert.equal(stopped, null);
  assert.deepEqual(problemsOf(meta, data), []);
});

Deno.test("supers: what cannot be made anew is refused with a reason", async () => {
  const base = await healthyVolume();
  const empty = copyOf(base);
  for (let blkno = 2; blkno < empty.meta.size / LG_SIZE; blkno++) {
    empty.meta.write(new Uint8Array(LG_SIZE), blkno * LG_SIZE);
  }
  wipe(empty.meta);
  mustRefuse(empty, /has no blocks of volume/);
  const swapped = { meta: base.data.snapshot(), data: base.meta.snapshot() };
  mustRefuse(swapped, /in the wrong order/);
});

Deno.test("supers: -p writes none", async () => {
  const v = await healthyVolume();
  wipe(v.meta);
  const before = v.meta.toImage();
  repairVolume(v.meta, v.data, repairOptions("safe"));
  assert.deepEqual(v.meta.toImage(), before);
});

Deno.test("supers: the data device's, wiped or damaged", async () => {
  const damages: ((data: Device) => void)[] = [
    wipe,
    (data) =>
      editSuper(data, (_, sb) => {
        sb.hdr.fsid ^= 0xffn;
        sb.uuid.fill(9);
      }),
    (data) => editSuper(data, (raw) => void raw.fill(0xee, 0, 112)),
    (data) => editSuper(data, (_, sb) => void (sb.hdr.magic = 5), true),
  ];
  for (const damage of damages) {
    const v = await healthyVolume(), healthy = manifest(v.meta, v.data);
    damage(v.data);
    mustRecover(v, healthy);
  }
});

Deno.test("supers: a device that may be another one is not made part of the volume", async () => {
  const base = await healthyVolume();
  const blank = { meta: base.meta.snapshot(), data: new MemDevice(base.data.size) };
  mustRefuse(blank, /nothing shows that the data device is the volume's/);
  const small = { meta: base.meta.snapshot(), data: new MemDevice(base.data.size / 2) };
  mustRefuse(small, /the volume \d+/);
  const ext4 = { meta: base.meta.snapshot(), data: base.data.snapshot() };
  wipe(ext4.data);
  const page = new Uint8Array(SM_SIZE);
  page.set([0x53, 0xef], 1080);
  ext4.data.write(page, 0);
  mustRefuse(ext4, /holds something else: ext/);
  const foreign = copyOf(base);
  editSuper(foreign.data, (_, sb) => {
    sb.hdr.fsid = 0x1234_5678_9abc_def0n;
    sb.uuid.fill(1);
  }, true);
  mustRefuse(foreign, /belongs to another volume/);
});

Deno.test("supers: a crash at any write leaves a volume that a second run mends", async () => {
  const v = await healthyVolume(), healthy = manifest(v.meta, v.data);
  wipe(v.meta);
  editSuper(v.data, (_, sb) => sb.uuid.fill(3), true);
  const { metaWrites, dataWrites } = forEachCrash(
    v.meta,
    v.data,
    (meta, data) => assert.equal(repairVolume(meta, data, repairOptions()).stopped, null),
    (meta, data, name) => {
      assert.equal(repairVolume(meta, data, repairOptions()).stopped, null, name);
      assert.deepEqual(problemsOf(meta, data).map((p) => p.message), [], name);
      assert.deepEqual([...manifest(meta, data)], [...healthy], name);
    },
  );
  assert.ok(metaWrites > 2, `${metaWrites} and ${dataWrites} writes`);
});

Deno.test("supers: a volume with a new super block can be mounted and used", async () => {
  const m = await newLocalFs({ fmtVers: 2 });
  await fill(m, 1, 30);
  await m.sync();
  await m.unmount();
  const { meta, data } = m.cluster, healthy = manifest(meta, data);
  wipe(meta);
  mustRecover({ meta, data }, healthy);
  const again = await LocalFs.mount(await LocalCluster.open(meta, data));
  const dir = await again.run((op, fs) => create(op, fs, 1, bytes("after"), 0o40755, 0));
  await fill(again, dir, 12);
  await again.sync();
  await again.unmount();
  assert.deepEqual(problemsOf(meta, data).map((p) => p.message), []);
  const now = manifest(meta, data);
  for (const [path, what] of healthy) assert.equal(now.get(path), what);
});

for (const name of ["features-v2", "crash", "tall"] as const) {
  goldenTest(`supers: golden ${name} without its metadata super block`, async () => {
    await useFastCrc32c();
    const images = goldenImages(name);
    const base = [images.meta, images.data].map((path) =>
      new ImageCache(openDevice(path, { write: false }))
    ) as [ImageCache, ImageCache];
    const v = { meta: new OverlayDevice(base[0]), data: new OverlayDevice(base[1]) };
    const healthy = manifest(v.meta, v.data);
    wipe(v.meta);
    mustRecover(v, healthy);
    for (const dev of base) dev.close();
  });
}
