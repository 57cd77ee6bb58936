/** Dumps of volumes that have lost their super block, and where `metadump` refuses to write. */

import assert from "node:assert/strict";
import { SM_SIZE, SUPER_BLKNO } from "../../format/constants.ts";
import { checkVolume } from "../../fs/check/check.ts";
import { repairVolume } from "../../fs/check/repair/repair.ts";
import type { Device } from "../../fs/device.ts";
import { dumpVolume } from "../../fs/dump/dump.ts";
import { DumpReader } from "../../fs/dump/dump_file.ts";
import { restoreVolume } from "../../fs/dump/restore.ts";
import { FsError } from "../../fs/errors.ts";
import { MemDevice } from "../../fs/memory_device.ts";
import { SystemRandom } from "../../fs/sys/clock.ts";
import { healthyVolume } from "../fsck/repair_support.ts";
import { makeSample } from "../fsck/sample.ts";

const MAIN = new URL("../../scoutfs.ts", import.meta.url).pathname;

function wipeSuper(dev: Device): void {
  dev.write(dev.allocBuffer(SM_SIZE), SUPER_BLKNO * SM_SIZE);
}

function dumped(meta: Device, data?: Device): { file: Uint8Array; warnings: string[] } {
  const pieces: Uint8Array[] = [], warnings: string[] = [];
  dumpVolume(meta, (bytes) => void pieces.push(bytes.slice()), {
    ...(data === undefined ? {} : { data }),
    time: 0,
    warn: (line) => warnings.push(line),
  });
  return { file: new Uint8Array(pieces.flatMap((p) => [...p])), warnings };
}

function restored(file: Uint8Array, dataSize: number): { meta: MemDevice; data: MemDevice } {
  let at = 0;
  const reader = new DumpReader((into) => {
    const n = Math.min(into.length, file.length - at);
    into.set(file.subarray(at, at + n));
    at += n;
    return n;
  }, "x.dump");
  const meta = new MemDevice(reader.header.metaBytes, { name: "meta" });
  const data = new MemDevice(dataSize, { name: "data" });
  restoreVolume(reader, reader.header.dataBytes === 0 ? { meta } : { meta, data });
  return { meta, data };
}

Deno.test("dump: a volume without its super block is dumped whole, and can be mended from that", async () => {
  const { meta, data } = await healthyVolume();
  wipeSuper(meta);
  const { file, warnings } = dumped(meta, data);
  assert.match(warnings.join("\n"), /no super block: all blocks of its filesystem are dumped/);
  const back = restored(file, data.size);
  const found = (m: Device, d: Device) => Object.fromEntries(checkVolume(m, d).counts);
  assert.deepEqual(found(back.meta, back.data), found(meta, data));
  const mend = (m: Device, d: Device) =>
    repairVolume(m, d, { mode: "all", random: new SystemRandom(), now: { sec: 1, nsec: 0 } }).after;
  assert.equal(mend(back.meta, back.data).stats.inodes, mend(meta, data).stats.inodes);
});

Deno.test("dump: without either super block the filesystem is the one of most blocks", async () => {
  const { meta, data } = await healthyVolume();
  wipeSuper(meta);
  wipeSuper(data);
  assert.ok(dumped(meta).file.length > 20_000);
  // Of a data device of another volume nothing is on the metadata device.
  assert.ok(dumped(meta, makeSample().data).file.length > 20_000);
  assert.throws(() => dumped(new MemDevice(64 << 20, { name: "blank" })), FsError);
});

Deno.test("metadump: never writes over what it reads, nor over a file unless told, nor half a dump", async () => {
  const dir = await Deno.makeTempDir({ prefix: "metadump-" });
  const metadump = async (...args: string[]) => {
    const { code, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", MAIN, "metadump", ...args],
      stdin: "null",
    }).output();
    return { code, err: new TextDecoder().decode(stderr) };
  };
  try {
    const meta = `${dir}/m`, dump = `${dir}/dump`, junk = new Uint8Array(1 << 20).fill(3);
    await Deno.writeFile(meta, junk);
    await Deno.symlink(meta, `${dir}/link`);
    for (const target of [meta, `${dir}/link`]) {
      const { code, err } = await metadump("-f", meta, target);
      assert.equal(code, 1);
      assert.match(err, /is what is to be dumped/);
    }
    assert.deepEqual(await Deno.readFile(meta), junk);
    await Deno.writeTextFile(dump, "an older dump");
    assert.match((await metadump(meta, dump)).err, /exists already: -f replaces it/);
    assert.match((await metadump("-f", meta, dump)).err, /no ScoutFS super block found/);
    assert.equal(await Deno.readTextFile(dump), "an older dump", "kept until a new one is whole");
    assert.deepEqual([...Deno.readDirSync(dir)].map((e) => e.name).sort(), ["dump", "link", "m"]);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});
