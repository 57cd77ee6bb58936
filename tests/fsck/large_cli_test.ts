/** `scoutfs fsck` on a volume that is large enough for its threads, and too large for its memory. */

import assert from "node:assert/strict";
import { openDevice } from "../../fs/sys/device.ts";
import { LG_SIZE, SM_SIZE, TYPE_INODE, ZONE_FS } from "../../format/constants.ts";
import { firstItem, itemKey, itemValOff, nextItem } from "../../format/btree_block.ts";
import { sealBlock } from "../../format/crc32c.ts";
import { useFastCrc32c } from "../../fs/sys/crc.ts";
import type { Device } from "../../fs/device.ts";
import { treeBlocks } from "./damage.ts";
import { generate, generatedSize } from "./generate.ts";

const INODES = 330_000;
const MAIN = new URL("../../scoutfs.ts", import.meta.url).pathname;

async function fsck(...args: string[]): Promise<{ code: number; out: string; err: string }> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", MAIN, "fsck", "-n", ...args],
    stdin: "null",
  }).output();
  const text = (b: Uint8Array) => new TextDecoder().decode(b);
  return { code, out: text(stdout), err: text(stderr) };
}

/** Sets the link count of an inode in those leaves that have one; returns how many that are. */
function spoil(meta: Device, leaves: readonly number[]): number {
  let spoiled = 0;
  const buf = meta.allocBuffer(LG_SIZE);
  const b = { buf, v: new DataView(buf.buffer, buf.byteOffset, LG_SIZE) };
  for (const blkno of leaves) {
    meta.read(buf, blkno * LG_SIZE);
    for (let item = firstItem(b); item !== 0; item = nextItem(b, item)) {
      const { zone, type } = itemKey(b, item);
      if (zone !== ZONE_FS || type !== TYPE_INODE) continue;
      b.v.setUint32(itemValOff(b, item) + 72, 77, true);
      spoiled++;
      break;
    }
    sealBlock(buf);
    meta.write(buf, blkno * LG_SIZE);
  }
  return spoiled;
}

Deno.test("fsck: a large volume is reported the same by any number of threads in any memory", async () => {
  await useFastCrc32c();
  const dir = Deno.makeTempDirSync({ prefix: "scoutfs-large-" });
  try {
    const meta = `${dir}/meta`, data = `${dir}/data`;
    const { metaBlocks, dataBlocks } = generatedSize(INODES);
    for (
      const [path, bytes] of [[meta, metaBlocks * LG_SIZE], [data, dataBlocks * SM_SIZE]] as const
    ) {
      Deno.writeFileSync(path, new Uint8Array(0));
      Deno.truncateSync(path, bytes);
    }
    const dev = openDevice(meta, { write: true }), dataDev = openDevice(data, { write: true });
    generate(dev, dataDev, INODES);
    const sound = await fsck("--workers", "2", "--progress", meta, data);
    assert.equal(sound.code, 0, sound.out + sound.err);
    assert.match(sound.err, /items: \d+\.\d %, \d+ MB\/s/);

    const leaves = treeBlocks(dev).filter((b) => b.tree === "fs_root" && b.level === 0);
    const { length } = leaves, at = [0.5, 0.6, 0.7, 0.8, 0.9, 0.99];
    const spoiled = spoil(dev, at.map((share) => leaves[Math.floor(share * length)]!.blkno));
    dev.close();
    dataDev.close();
    const one = await fsck("--workers", "1", "--json", meta, data);
    assert.equal(one.code, 4, one.err);
    assert.equal(one.out.match(/"code":"inode-nlink"/g)?.length, spoiled, one.out);
    assert.ok(spoiled >= 3);
    const two = await fsck("--workers", "2", "--json", meta, data);
    assert.deepEqual(two, one);
    const small = await fsck(
      "--workers",
      "3",
      "--memory",
      "1M",
      "--temp-dir",
      dir,
      "--json",
      meta,
      data,
    );
    assert.deepEqual(small, one);
    assert.deepEqual([...Deno.readDirSync(dir)].map((e) => e.name).sort(), ["data", "meta"]);
    assert.equal((await fsck("--workers", "0", meta, data)).code, 16);
  } finally {
    Deno.removeSync(dir, { recursive: true });
  }
});
