/** Numbers of inodes that a mount refuses (EIO): a check reports each, a repair mends it. */

import assert from "node:assert/strict";
import { direntHash, fnv1a64, xattrNameHash } from "../../format/hash.ts";
import {
  backrefKey,
  direntKey,
  extentKey,
  Inode,
  inodeKey,
  readdirKey,
  xattrKey,
} from "../../format/items.ts";
import { checkVolume, isSound } from "../../fs/check/check.ts";
import { repairVolume } from "../../fs/check/repair/repair.ts";
import { CorruptError } from "../../fs/errors.ts";
import { VolumeReader } from "../../fs/reader.ts";
import { openVolume } from "../../fs/volume.ts";
import { SeededRandom } from "../helpers/sim_reactor.ts";
import {
  bytes,
  copyOf,
  healthyVolume,
  manifest,
  repairOptions,
  Surgeon,
} from "./repair_support.ts";

const FIELDS: readonly (readonly [name: string, off: number])[] = [
  ["size", 0],
  ["meta_seq", 8],
  ["data_seq", 16],
  ["online_blocks", 32],
  ["offline_blocks", 40],
  ["next_readdir_pos", 48],
  ["next_xattr_id", 56],
  ["mode", 80],
];
const NUMBERS = [1n << 52n, 1n << 53n, 1n << 63n, 0xffff_ffff_ffff_ffffn];

Deno.test("fsck: every number that a mount refuses is reported and mended", async () => {
  const healthy = await healthyVolume();
  const wrong: string[] = [];
  for (const path of ["file0", "a", "a/sym"]) {
    const ino = healthy.inos.get(path)!;
    for (const [name, off] of FIELDS) {
      for (const number of NUMBERS) {
        const v = copyOf(healthy), key = inodeKey(ino);
        let refused = false;
        new Surgeon(v.meta).editItem(key, (val) => {
          new DataView(val.buffer, val.byteOffset).setBigUint64(off, number, true);
          refused = Inode.read(val, 2).fault !== null;
        });
        if (!refused) continue;
        const what = `${path}: ${name} ${number}`;
        if (isSound(checkVolume(v.meta, v.data))) wrong.push(`${what} is not reported`);
        const { after } = repairVolume(v.meta, v.data, repairOptions());
        if (!isSound(after)) wrong.push(`${what} is not mended`);
        const reader = new VolumeReader(openVolume(v.meta, v.data), new SeededRandom(1));
        for (const item of reader.items(key, key)) {
          const { fault } = Inode.read(item.val, 2);
          if (fault !== null) wrong.push(`${what}: still ${fault} after the repair`);
        }
      }
    }
  }
  assert.deepEqual(wrong, []);
});

Deno.test("library: data beyond the device is corruption, however far", async () => {
  const healthy = await healthyVolume(), ino = healthy.inos.get("file0")!;
  for (const blkno of [1n << 40n, (1n << 52n) + 1n, (1n << 53n) - 1n, 1n << 63n]) {
    const v = copyOf(healthy);
    new Surgeon(v.meta).editItem(extentKey(ino, 0, 1), (val) => {
      new DataView(val.buffer, val.byteOffset).setBigUint64(0, blkno, true);
    });
    const reader = new VolumeReader(openVolume(v.meta, v.data), new SeededRandom(1));
    assert.throws(() => reader.read(ino, 0, 4096), CorruptError);
    assert.ok(!isSound(checkVolume(v.meta, v.data)));
  }
});

Deno.test("fsck: positions and ids behind which no counter can be are mended", async () => {
  const healthy = await healthyVolume(), ino = healthy.inos.get("file0")!;
  const name = bytes("file0"), hash = direntHash(name);
  for (const far of [2 ** 52 + 1, 2 ** 53 - 2, 2 ** 53 - 1]) {
    const attribute = copyOf(healthy);
    const val = new Uint8Array(15);
    val.set([1, 0, 6]);
    val.set(bytes("user.zv"), 8);
    const key = xattrKey(healthy.inos.get("a")!, xattrNameHash(bytes("user.z")), far, 0);
    new Surgeon(attribute.meta).insertItem(key, val);

    const entry = copyOf(healthy), s = new Surgeon(entry.meta);
    let pos = 2;
    const text = (v: Uint8Array | null) =>
      v === null ? "" : new TextDecoder().decode(v.subarray(32));
    while (text(s.value(readdirKey(1, pos))) !== "file0") pos++;
    const moved = s.value(readdirKey(1, pos))!;
    new DataView(moved.buffer).setBigUint64(16, BigInt(far), true);
    const keys = (at: number) => [
      direntKey(1, hash, at),
      readdirKey(1, at),
      backrefKey(ino, 1, at),
    ];
    for (const old of keys(pos)) s.removeItem(old);
    for (const now of keys(far)) s.insertItem(now, moved);

    for (const v of [attribute, entry]) {
      assert.ok(!isSound(checkVolume(v.meta, v.data)));
      const { after } = repairVolume(v.meta, v.data, repairOptions());
      assert.deepEqual(after.problems.filter((p) => p.severity !== "info"), []);
    }
    // What had them has others now, and is all there.
    const [was, named, tagged] = [healthy, entry, attribute].map((v) => manifest(v.meta, v.data));
    assert.deepEqual(named, was);
    assert.equal(tagged?.get("/a"), `${was?.get("/a")}user.z=${fnv1a64(bytes("v"))}`);
  }
});
