/**
 * Volumes of which both super blocks are lost, or of which one is lost and the other one is not what it
 * should be: what is known from elsewhere, what must be given, and what is never believed.
 */

import assert from "node:assert/strict";
import { FMT_VERS_MIN, LG_SIZE, QUORUM_BLKNO, SM_SIZE } from "../../format/constants.ts";
import { QuorumBlock } from "../../format/quorum.ts";
import { SuperBlock } from "../../format/super.ts";
import type { Device } from "../../fs/device.ts";
import { MemDevice } from "../../fs/memory_device.ts";
import type { QuorumSlotSetting } from "../../fs/mkfs.ts";
import { useFastCrc32c } from "../../fs/sys/crc.ts";
import { openDevice } from "../../fs/sys/device.ts";
import { openVolume } from "../../fs/volume.ts";
import { goldenImages, type GoldenName, goldenTest } from "../helpers/golden.ts";
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
} from "./repair_support.ts";
import { create } from "../../fs/ops/names.ts";
import { repairVolume } from "../../fs/check/repair/repair.ts";
import { makeSample } from "./sample.ts";
import { editSuper, mustRecover, mustRefuse, SUPER_OFF, wipe } from "./supers_support.ts";

const SLOTS: readonly QuorumSlotSetting[] = [
  { nr: 0, addr: 0x7f00_0001, port: 42000 },
  { nr: 2, addr: 0x7f00_0001, port: 42002 },
];

function superOf(dev: Device): SuperBlock {
  const raw = dev.allocBuffer(SM_SIZE);
  dev.read(raw, SUPER_OFF);
  return SuperBlock.at(raw);
}

const slotsOf = (sb: SuperBlock): string =>
  sb.qconf.presentSlots().map((nr) => `${nr} ${sb.qconf.slots(nr).addr}`).join();

function wipeBoth(v: { meta: Device; data: Device }): void {
  wipe(v.meta);
  wipe(v.data);
}

/** Both super blocks are gone, and it is said what the quorum slots were. */
function mustRebuildBoth(v: { meta: Device; data: Device }, trustData = false): string[] {
  const healthy = manifest(v.meta, v.data), { fsid, fmtVers } = openVolume(v.meta, v.data);
  wipeBoth(v);
  const notes = mustRecover(v, healthy, { slots: SLOTS, trustData });
  const now = openVolume(v.meta, v.data);
  assert.equal(now.fsid, fsid);
  assert.equal(now.fmtVers, fmtVers);
  assert.equal(slotsOf(now.superBlock), "0 127.0.0.1:42000,2 127.0.0.1:42002");
  assert.deepEqual(superOf(v.meta).uuid, superOf(v.data).uuid);
  return notes;
}

Deno.test("identity: without both super blocks all files come back", async () => {
  // The sample's files hold zeros: nothing but the user can say that its data device is the right one.
  for (const [v, trust] of [[await healthyVolume(), false], [makeSample(), true]] as const) {
    const notes = mustRebuildBoth(v, trust);
    assert.ok(notes.includes("the volume has a new uuid"), `${notes}`);
    assert.ok(notes.includes("the quorum slots are those that were given"), `${notes}`);
  }
});

Deno.test("identity: slots that neither super block has any more can be given", async () => {
  const v = await healthyVolume(), healthy = manifest(v.meta, v.data);
  const forget = (_raw: Uint8Array, sb: SuperBlock) => {
    for (const nr of sb.qconf.presentSlots()) sb.qconf.slots(nr).zero();
  };
  editSuper(v.meta, forget, true);
  editSuper(v.data, forget, true);
  repairVolume(v.meta, v.data, repairOptions());
  assert.deepEqual(problemsOf(v.meta, v.data).map((p) => p.code), ["super-no-slots"]);
  const notes: string[] = [], log = (line: string) => void notes.push(line);
  repairVolume(v.meta, v.data, { ...repairOptions(), slots: SLOTS, log });
  assert.deepEqual(notes, ["the quorum slots are those that were given"]);
  assert.deepEqual(problemsOf(v.meta, v.data), []);
  assert.equal(slotsOf(superOf(v.meta)), "0 127.0.0.1:42000,2 127.0.0.1:42002");
  assert.deepEqual([...manifest(v.meta, v.data)], [...healthy]);
});

Deno.test("identity: the format version shows in the items", async () => {
  const m = await newLocalFs({ fmtVers: FMT_VERS_MIN, seed: 7 });
  await fill(m, 1, 12);
  await m.unmount();
  const notes = mustRebuildBoth(m.cluster);
  assert.ok(notes.includes("format version 1 is what the items are of"), `${notes}`);
});

Deno.test("identity: without the quorum blocks the fsid is what most blocks carry", async () => {
  const v = await healthyVolume();
  v.meta.write(new Uint8Array(15 * SM_SIZE), QUORUM_BLKNO * SM_SIZE);
  mustRebuildBoth(v);
});

for (const name of ["features-v2", "crash", "tall", "fresh-3quorum", "fresh-zoned"] as const) {
  goldenTest(`identity: golden ${name} without both super blocks`, async () => {
    await withGolden(name, (v) => void mustRebuildBoth(v));
  });
}

async function withGolden(
  name: GoldenName,
  test: (v: { meta: Device; data: Device }) => void,
): Promise<void> {
  await useFastCrc32c();
  const images = goldenImages(name);
  const base = [images.meta, images.data].map((path) =>
    new ImageCache(openDevice(path, { write: false }))
  ) as [ImageCache, ImageCache];
  test({ meta: new OverlayDevice(base[0]), data: new OverlayDevice(base[1]) });
  for (const dev of base) dev.close();
}

Deno.test("identity: without both super blocks the slots must be given", async () => {
  const v = await healthyVolume();
  wipeBoth(v);
  const block = v.meta.allocBuffer(SM_SIZE), off = (QUORUM_BLKNO + 3) * SM_SIZE;
  v.meta.read(block, off);
  QuorumBlock.at(block).writeNr = 4;
  v.meta.write(block, off);
  mustRefuse(
    v,
    /--quorum-slot NR,ADDR,PORT, as it was given to mkfs \(mounts have used slots 3\)$/,
  );
});

Deno.test("identity: a device that may be another one is not made part of the volume", async () => {
  const base = await healthyVolume(), healthy = manifest(base.meta, base.data);
  const blank = { meta: base.meta.snapshot(), data: new MemDevice(base.data.size) };
  wipe(blank.meta);
  mustRefuse(blank, /nothing shows that the data device is the volume's.*--trust-data-device/, {
    slots: SLOTS,
  });
  const small = { meta: base.meta.snapshot(), data: new MemDevice(300 * SM_SIZE) };
  wipe(small.meta);
  mustRefuse(small, /the data device/, { slots: SLOTS });
  const trusted = copyOf(base);
  wipeBoth(trusted);
  mustRecover(trusted, healthy, { slots: SLOTS, trustData: true });
});

Deno.test("identity: a data device of another volume tells nothing, and stays what it is", async () => {
  const base = await healthyVolume();
  const other = await newLocalFs({ fmtVers: 2, seed: 99 });
  await fill(other, 1, 3);
  await other.unmount();
  const wrong = { meta: base.meta.snapshot(), data: other.cluster.data.snapshot() };
  editSuper(wrong.data, (_, sb) => {
    sb.hdr.fsid = 0x0bad_cafe_dead_beefn;
    sb.uuid.fill(0x5a);
  }, true);
  const torn = { meta: wrong.meta.snapshot(), data: wrong.data.snapshot() };
  mustRefuse(wrong, /belongs to another volume/);
  wipe(wrong.meta);
  mustRefuse(wrong, /belongs to another volume/);
  mustRefuse(wrong, /belongs to another volume/, { slots: SLOTS });
  editSuper(torn.meta, (raw) => void raw.fill(0, 512, 1024));
  mustRefuse(torn, /belongs to another volume/);
});

Deno.test("identity: fsid and uuid of the data device with some wrong bytes", async () => {
  const v = await healthyVolume(), healthy = manifest(v.meta, v.data);
  editSuper(v.data, (_, sb) => {
    sb.hdr.fsid ^= 0xff00n;
    sb.uuid[3] = (sb.uuid[3] as number) ^ 0x77;
  }, true);
  mustRecover(v, healthy);
});

Deno.test("identity: the data device's super block in the place of the metadata device's", async () => {
  for (const flags of [0n, 0x8000_0000n]) {
    const v = await healthyVolume(), healthy = manifest(v.meta, v.data);
    const raw = v.data.allocBuffer(SM_SIZE);
    v.data.read(raw, SUPER_OFF);
    v.meta.write(raw, SUPER_OFF);
    editSuper(v.meta, (_, sb) => sb.v.setBigUint64(sb.o + 48, flags, true), true);
    mustRecover(v, healthy);
  }
});

Deno.test("identity: a metadata super block that says it is the data device's", async () => {
  const v = await healthyVolume(), healthy = manifest(v.meta, v.data);
  editSuper(v.meta, (_, sb) => void (sb.flags = 0), true);
  mustRecover(v, healthy);
});

Deno.test("identity: a data device with the flag of a metadata device", async () => {
  const v = await healthyVolume(), healthy = manifest(v.meta, v.data);
  const mirror = { meta: v.meta.snapshot(), data: v.meta.snapshot() };
  mustRefuse(mirror, /is a metadata device/);
  editSuper(v.data, (_, sb) => {
    sb.flags = 1;
    sb.fsRoot.ref.blkno = 77;
  }, true);
  mustRecover(v, healthy);
});

Deno.test("identity: a new volume of which both devices say that they are the other one", async () => {
  const { meta, data } = await LocalCluster.make({ fmtVers: 2 }), healthy = manifest(meta, data);
  editSuper(meta, (_, sb) => void (sb.flags = 0), true);
  editSuper(data, (_, sb) => void (sb.flags = 1), true);
  mustRecover({ meta, data }, healthy);
});

Deno.test("identity: a format version that does not exist is not copied to the data device", async () => {
  const v = await healthyVolume(), healthy = manifest(v.meta, v.data);
  editSuper(v.meta, (_, sb) => void sb.v.setBigUint64(sb.o + 40, 12034n, true), true);
  mustRecover(v, healthy);
  assert.equal(superOf(v.data).fmtVers, 2);
});

Deno.test("identity: sizes that are less than what the volume uses", async () => {
  const changes: ((sb: SuperBlock, v: { meta: Device; data: Device }) => void)[] = [
    (sb) => void (sb.totalMetaBlocks = 40),
    (sb) => void (sb.totalDataBlocks = 100),
    (sb, { data }) => {
      sb.totalMetaBlocks = 40;
      sb.totalDataBlocks = 100;
      wipe(data);
    },
  ];
  for (const change of changes) {
    const v = await healthyVolume(), healthy = manifest(v.meta, v.data), sizes = superOf(v.meta);
    editSuper(v.meta, (_, sb) => change(sb, v), true);
    mustRecover(v, healthy);
    assert.equal(superOf(v.meta).totalMetaBlocks, sizes.totalMetaBlocks);
    assert.equal(superOf(v.meta).totalDataBlocks, sizes.totalDataBlocks);
  }
});

Deno.test("identity: a data device whose front was overwritten is still the volume's", async () => {
  const m = await newLocalFs({ fmtVers: 2 });
  await fill(m, 1, 150);
  await m.unmount();
  const { meta, data } = m.cluster, end = 4 << 20;
  for (let off = 0; off < end; off += SM_SIZE) data.write(new Uint8Array(SM_SIZE), off);
  const result = repairVolume(meta, data, repairOptions());
  assert.equal(result.stopped, null);
  assert.deepEqual(problemsOf(meta, data).map((p) => p.message), []);
});

Deno.test("identity: a device that is cut short is not made the volume", async () => {
  const base = await healthyVolume(), sizes = superOf(base.meta);
  const cut = (dev: MemDevice, bytes: number): MemDevice => {
    const short = new MemDevice(bytes), block = new Uint8Array(SM_SIZE);
    for (let off = 0; off < bytes; off += SM_SIZE) {
      dev.read(block, off);
      if (block.some((b) => b !== 0)) short.write(block, off);
    }
    return short;
  };
  const meta = cut(base.meta, 800 * LG_SIZE), data = cut(base.data, 100 * SM_SIZE);
  mustRefuse(
    { meta, data: base.data.snapshot() },
    /device has 800 blocks, the volume 4096: .*268435456 bytes/,
  );
  mustRefuse({ meta: base.meta.snapshot(), data }, /device has 100 blocks, the volume/);
  // After a resize the data device knows the old size only; what is there says which one is right.
  const resized = base.data.snapshot();
  editSuper(resized, (_, sb) => void (sb.totalMetaBlocks = 700), true);
  mustRefuse({ meta, data: resized }, /device has 800 blocks/);
  // A number that nothing agrees with is damage.
  const v = copyOf(base), healthy = manifest(v.meta, v.data);
  editSuper(v.meta, (_, sb) => void (sb.totalMetaBlocks = 1 << 30), true);
  mustRecover(v, healthy);
  assert.equal(superOf(v.meta).totalMetaBlocks, sizes.totalMetaBlocks);
});

Deno.test("identity: counters that no server would go on from", async () => {
  const limit = 2 ** 52,
    changes: ((sb: SuperBlock) => void)[] = [
      (sb) => void (sb.seq = limit),
      (sb) => void (sb.seq = limit - 2 ** 20),
      (sb) => void (sb.nextIno = limit),
      (sb) => sb.v.setBigUint64(sb.o + 72, 2n ** 63n, true),
    ];
  for (const change of changes) {
    const v = await healthyVolume(), healthy = manifest(v.meta, v.data);
    editSuper(v.meta, (_, sb) => change(sb), true);
    const result = repairVolume(v.meta, v.data, repairOptions("safe"));
    assert.equal(result.stopped, null);
    assert.deepEqual(problemsOf(v.meta, v.data).map((p) => p.message), []);
    assert.deepEqual([...manifest(v.meta, v.data)], [...healthy]);
    const now = superOf(v.meta);
    assert.ok(now.seq < limit / 2 && now.nextIno < limit / 2, `${now.seq} ${now.nextIno}`);
  }
});

Deno.test("identity: a crash at any write leaves a volume that a second run mends", async () => {
  const v = await healthyVolume(), healthy = manifest(v.meta, v.data);
  wipeBoth(v);
  const options = () => ({ ...repairOptions(), slots: SLOTS });
  const { metaWrites, dataWrites } = forEachCrash(
    v.meta,
    v.data,
    (meta, data) => assert.equal(repairVolume(meta, data, options()).stopped, null),
    (meta, data, name) => {
      assert.equal(repairVolume(meta, data, options()).stopped, null, name);
      assert.deepEqual(problemsOf(meta, data).map((p) => p.message), [], name);
      assert.deepEqual([...manifest(meta, data)], [...healthy], name);
    },
  );
  assert.ok(metaWrites > 2 && dataWrites > 0, `${metaWrites} and ${dataWrites} writes`);
});

Deno.test("identity: a volume without both super blocks can be mounted again", async () => {
  const m = await newLocalFs({ fmtVers: 2 });
  await fill(m, 1, 20);
  await m.unmount();
  const { meta, data } = m.cluster, healthy = manifest(meta, data);
  wipeBoth({ meta, data });
  mustRecover({ meta, data }, healthy, { slots: SLOTS.slice(0, 1) });
  const again = await LocalFs.mount(await LocalCluster.open(meta, data));
  const dir = await again.run((op, fs) => create(op, fs, 1, bytes("after"), 0o40755, 0));
  again.fs.refs.forget(dir, 1);
  await again.unmount();
  assert.deepEqual(problemsOf(meta, data).map((p) => p.message), []);
  for (const [path, what] of healthy) {
    if (path !== "/") assert.equal(manifest(meta, data).get(path), what);
  }
  assert.ok(meta.size > LG_SIZE);
});

Deno.test("identity: a damaged super block that names another volume is not taken over", async () => {
  const v = copyOf(await healthyVolume());
  editSuper(v.data, (raw, sb) => {
    sb.hdr.fsid ^= 0x5a5a_5a5a_5a5a_5a5an;
    sb.uuid.fill(0x93);
    raw[700]! ^= 1;
  });
  mustRefuse(v, /damaged super block is another volume's/);
  // Without any data in files a device that holds something may be anybody's.
  const m = await newLocalFs({ fmtVers: 2 });
  await m.unmount();
  const { meta, data } = m.cluster;
  const foreign = new MemDevice(data.size), junk = new Uint8Array(SM_SIZE).fill(0x5b);
  for (let i = 0; i < 64; i++) foreign.write(junk, i * SM_SIZE);
  mustRefuse({ meta, data: foreign }, /no file has data, and the device is not empty/);
});

Deno.test("identity: what is asked about the sizes in a super block is heeded", () => {
  const v = makeSample(), asked: string[] = [];
  editSuper(v.meta, (_, sb) => sb.totalDataBlocks = 4000, true);
  const before = v.meta.toImage();
  const ask = (code: string) => {
    asked.push(code);
    return false;
  };
  const { commits } = repairVolume(v.meta, v.data, { ...repairOptions(), ask });
  assert.equal(commits, 0);
  assert.ok(asked.length > 0);
  assert.deepEqual(v.meta.toImage(), before);
});
