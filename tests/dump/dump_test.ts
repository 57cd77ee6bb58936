/** Metadata dumps: what comes back is what was there, also of broken volumes; broken files are found. */

import assert from "node:assert/strict";
import fc from "fast-check";
import { BlockRef } from "../../format/block.ts";
import { LG_SIZE, SM_SIZE, SUPER_BLKNO } from "../../format/constants.ts";
import { sealBlock } from "../../format/crc32c.ts";
import { direntHash, xattrNameHash } from "../../format/hash.ts";
import { SuperBlock } from "../../format/super.ts";
import { checkVolume } from "../../fs/check/check.ts";
import type { Device } from "../../fs/device.ts";
import { DeviceError } from "../../fs/errors.ts";
import { DumpError, DumpReader } from "../../fs/dump/dump_file.ts";
import { type DumpOptions, type DumpResult, dumpVolume } from "../../fs/dump/dump.ts";
import { MIN_REPLACEABLE, NameReplacer } from "../../fs/dump/names.ts";
import { visitReachable } from "../../fs/dump/reach.ts";
import { restoreVolume } from "../../fs/dump/restore.ts";
import { MemDevice } from "../../fs/memory_device.ts";
import { printVolume } from "../../fs/print.ts";
import { VolumeReader } from "../../fs/reader.ts";
import { SystemRandom } from "../../fs/sys/clock.ts";
import { openDevice } from "../../fs/sys/device.ts";
import { openVolume } from "../../fs/volume.ts";
import { goldenImages, type GoldenName, goldenTest } from "../helpers/golden.ts";
import { byPath, walkTree } from "../helpers/golden_library.ts";
import type { ManifestFile } from "../helpers/manifest.ts";
import { OverlayDevice } from "../helpers/overlay_device.ts";

const NAMES: readonly GoldenName[] = [
  "fresh-v1",
  "fresh-v2",
  "fresh-3quorum",
  "fresh-zoned",
  "features-v2",
  "tall",
  "crash",
];

function dump(
  meta: Device,
  options: Partial<DumpOptions> = {},
): { file: Uint8Array; result: DumpResult; warnings: string[] } {
  const parts: Uint8Array[] = [], warnings: string[] = [];
  const result = dumpVolume(meta, (bytes) => void parts.push(bytes.slice()), {
    time: 1,
    warn: (line) => void warnings.push(line),
    ...options,
  });
  const file = new Uint8Array(result.bytes);
  let at = 0;
  for (const p of parts) {
    file.set(p, at);
    at += p.length;
  }
  return { file, result, warnings };
}

function reader(file: Uint8Array): DumpReader {
  let at = 0;
  return new DumpReader((into) => {
    const n = Math.min(into.length, file.length - at);
    into.set(file.subarray(at, at + n));
    at += n;
    return n;
  }, "x.dump");
}

function restore(file: Uint8Array): { meta: MemDevice; data: MemDevice } {
  const r = reader(file);
  const meta = new MemDevice(r.header.metaBytes, { name: "meta" });
  const data = new MemDevice(r.header.dataBytes, { name: "data" });
  restoreVolume(r, { meta, data });
  return { meta, data };
}

function printed(meta: Device): string {
  const out: string[] = [];
  printVolume(meta, {
    skipLikelyHuge: false,
    out: (text) => void out.push(text),
    warn: (line) => void out.push(line),
  });
  return out.join("\n");
}

function blocks(meta: Device): Map<number, Uint8Array> {
  const found = new Map<number, Uint8Array>();
  const fixed = meta.allocBuffer(16 * SM_SIZE);
  meta.read(fixed, SUPER_BLKNO * SM_SIZE);
  found.set(1, fixed);
  visitReachable(meta, SuperBlock.at(fixed), {
    block: (blkno, bytes) => void found.set(blkno, bytes.slice()),
    unreadable: () => {},
  });
  return found;
}

function files(meta: Device, data: Device): ManifestFile[] {
  const found: ManifestFile[] = [];
  walkTree(new VolumeReader(openVolume(meta, data), new SystemRandom()), ".", 1, found);
  return found.sort(byPath);
}

function withGolden(name: GoldenName, fn: (meta: Device, data: Device) => void): void {
  const images = goldenImages(name);
  const meta = openDevice(images.meta, { write: false });
  const data = openDevice(images.data, { write: false });
  try {
    fn(meta, data);
  } finally {
    meta.close();
    data.close();
  }
}

const counts = (meta: Device, data: Device) => Object.fromEntries(checkVolume(meta, data).counts);

for (const name of NAMES) {
  goldenTest(`dump ${name}: the same volume comes back`, () =>
    withGolden(name, (meta, data) => {
      const { file, warnings } = dump(meta, { data });
      assert.deepEqual(warnings, []);
      const back = restore(file);
      assert.deepEqual(blocks(back.meta), blocks(meta));
      assert.equal(printed(back.meta), printed(meta).replaceAll(meta.name, back.meta.name));
      assert.deepEqual(files(back.meta, back.data), files(meta, data));
      assert.deepEqual(counts(back.meta, back.data), counts(meta, data));
    }));

  goldenTest(
    `dump ${name}: with unreferenced blocks it checks the same`,
    () =>
      withGolden(name, (meta, data) => {
        const { file } = dump(meta, { data, unreferenced: true });
        const back = restore(file);
        assert.deepEqual(counts(back.meta, back.data), counts(meta, data));
      }),
  );

  goldenTest(`dump ${name}: obscured it checks the same`, () =>
    withGolden(name, (meta, data) => {
      const { file } = dump(meta, { data, unreferenced: true, obscure: new Uint8Array([1, 2]) });
      const back = restore(file);
      assert.deepEqual(counts(back.meta, back.data), counts(meta, data));
      const strip = (f: ManifestFile) => ({ ...f, path: f.path.length, link: f.link.length });
      const lengths = (list: ManifestFile[]) =>
        list.map(strip).sort((a, b) => a.path - b.path || a.ino - b.ino);
      assert.deepEqual(lengths(files(back.meta, back.data)), lengths(files(meta, data)));
    }));
}

goldenTest(
  "dump: obscured names cannot be found in the file's blocks",
  () =>
    withGolden("features-v2", (meta, data) => {
      const back = restore(dump(meta, { obscure: new Uint8Array([7]), unreferenced: true }).file);
      const text = new TextDecoder("latin1");
      const all = [...blocks(back.meta).values()].map((b) => text.decode(b)).join("");
      const original = [...blocks(meta).values()].map((b) => text.decode(b)).join("");
      let looked = 0;
      for (const f of files(meta, data)) {
        const name = f.path.slice(f.path.lastIndexOf("/") + 1);
        if (
          name.length <= MIN_REPLACEABLE || !/^[ -~]+$/.test(name) || f.link.includes(name)
        ) continue;
        assert.ok(original.includes(name));
        assert.ok(!all.includes(name), name);
        looked++;
      }
      assert.ok(looked > 10, `${looked} names`);
    }),
);

goldenTest(
  "dump: a broken volume comes back broken in the same way",
  () =>
    withGolden("features-v2", (golden, data) => {
      const base = restore(dump(golden).file).meta;
      const meta = new OverlayDevice(base);
      const sound = blocks(base);
      const damaged = [...sound.keys()].filter((b) => b > 1).slice(0, 60);
      for (const [i, blkno] of damaged.entries()) {
        const block = (sound.get(blkno) as Uint8Array).slice();
        // Wrong contents with a right crc, a wrong crc, a wrong magic, in turn.
        const at = [32 + i % 16, 1000 + i, 4 + i % 4][i % 3] as number;
        block[at] = (block[at] as number) ^ 0x41;
        if (i % 3 === 0) sealBlock(block);
        meta.write(block, blkno * LG_SIZE);
      }
      const back = restore(dump(meta, { data, unreferenced: true }).file);
      assert.deepEqual(blocks(back.meta), blocks(meta));
      const expected = counts(meta, data);
      assert.ok(Object.keys(expected).length > 3, JSON.stringify(expected));
      assert.deepEqual(counts(back.meta, back.data), expected);
    }),
);

goldenTest(
  "dump: blocks that cannot be read are named and the rest is dumped",
  () =>
    withGolden("features-v2", (golden) => {
      const base = restore(dump(golden).file).meta;
      const meta = new OverlayDevice(base);
      const root = new BlockRef(new DataView(blocks(base).get(1)!.buffer), 848);
      const bad = root.blkno * LG_SIZE, read = meta.read.bind(meta);
      meta.read = (buf, off) => {
        if (off <= bad && bad < off + buf.length) throw new DeviceError("failing", "bad sector");
        read(buf, off);
      };
      const { result, warnings } = dump(meta);
      assert.equal(result.unreadable, 1);
      assert.equal(warnings.length, 1);
      assert.match(warnings[0]!, new RegExp(`^metadata block ${root.blkno} cannot be read`));
      assert.ok(result.blocks > 5 && result.blocks < dump(base).result.blocks);
    }),
);

goldenTest(
  "dump: a file that is cut short or damaged is refused with one line",
  () =>
    withGolden("fresh-zoned", (meta) => {
      const { file } = dump(meta);
      for (let len = 0; len < file.length; len += 1 + Math.floor(file.length / 97)) {
        assert.throws(
          () => restore(file.subarray(0, len)),
          (e) => e instanceof DumpError && !e.message.includes("\n"),
          `${len} bytes`,
        );
      }
      for (let at = 0; at < file.length; at += 1 + Math.floor(file.length / 211)) {
        const bad = file.slice();
        bad[at] = (bad[at] as number) ^ 0x20;
        assert.throws(() => restore(bad), DumpError, `byte ${at}`);
      }
    }),
);

goldenTest(
  "dump: a restore that failed leaves no volume",
  () =>
    withGolden("fresh-zoned", (meta, data) => {
      const { file } = dump(meta);
      const target = MemDevice.fromImage(new Uint8Array(0x20000));
      assert.throws(() => restoreVolume(reader(file), { meta: target }), /too few/);
      const old = new MemDevice(meta.size);
      restoreVolume(reader(file), { meta: old });
      assert.throws(() => restoreVolume(reader(file.subarray(0, file.length - 5)), { meta: old }));
      assert.throws(() => openVolume(old, data), /no ScoutFS super block/);
    }),
);

Deno.test("obscuring: replaced entry names keep length and hash", () => {
  const replacer = new NameReplacer(new Uint8Array([1, 2, 3]));
  let same = 0, runs = 0;
  fc.assert(
    fc.property(
      fc.uint8Array({ minLength: 1, maxLength: 255 })
        .map((a) => a.map((b) => b === 0 || b === 0x2f ? 0x61 : b)),
      (name) => {
        const other = replacer.entryName(name);
        assert.equal(other.length, name.length);
        assert.deepEqual(direntHash(other), direntHash(name));
        assert.ok(!other.includes(0) && !other.includes(0x2f));
        assert.deepEqual(replacer.entryName(name), other);
        if (name.length <= MIN_REPLACEABLE) return;
        runs++;
        if (other.every((b, i) => b === name[i])) same++;
      },
    ),
    { numRuns: 150 },
  );
  assert.ok(same * 20 <= runs, `${same} of ${runs} names kept`);
});

Deno.test("obscuring: names as people give them are all replaced", () => {
  const replacer = new NameReplacer(new Uint8Array([7]));
  for (const pattern of ["#.tar.zst", "IMG_2024_#.jpeg", "a long name of a thing, number #.dat"]) {
    for (let i = 0; i < 100; i++) {
      const name = new TextEncoder().encode(pattern.replace("#", `${100_000 + i}`));
      const other = replacer.entryName(name);
      assert.deepEqual(direntHash(other), direntHash(name));
      assert.notDeepEqual(other, name, pattern);
    }
  }
});

Deno.test("obscuring: replaced xattr names keep prefix, length and hash", () => {
  const replacer = new NameReplacer(new Uint8Array([9]));
  const prefix = new TextEncoder().encode("user.");
  fc.assert(
    fc.property(
      fc.uint8Array({ minLength: 1, maxLength: 250 }).map((a) => a.map((b) => b === 0 ? 1 : b)),
      (tail) => {
        const name = new Uint8Array([...prefix, ...tail]);
        const other = replacer.xattrName(name, prefix.length);
        assert.equal(xattrNameHash(other), xattrNameHash(name));
        assert.deepEqual(other.subarray(0, 5), prefix);
        assert.ok(!other.includes(0));
        if (tail.length > 5) assert.notDeepEqual(other, name);
      },
    ),
    { numRuns: 300 },
  );
});
