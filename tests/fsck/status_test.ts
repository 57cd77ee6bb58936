/**
 * Which bit of the exit status a repair that stops is worth: 8 where the devices are at fault, not what
 * is on them; 4 where damage is left.
 */

import assert from "node:assert/strict";
import { QUORUM_BLKNO, SM_SIZE } from "../../format/constants.ts";
import { sealBlock } from "../../format/crc32c.ts";
import { QuorumBlock } from "../../format/quorum.ts";
import { type RepairResult, repairVolume } from "../../fs/check/repair/repair.ts";
import { MemDevice } from "../../fs/memory_device.ts";
import { healthyVolume, repairOptions, Surgeon, type Volume } from "./repair_support.ts";
import { editSuper, wipe } from "./supers_support.ts";

const MAIN = new URL("../../scoutfs.ts", import.meta.url).pathname;

const mend = (v: Volume): RepairResult => repairVolume(v.meta, v.data, repairOptions());

Deno.test("status: wrong devices are none of the volume's damage", async () => {
  const cases: [string, (v: Volume) => Volume, RegExp, boolean][] = [
    [
      "another volume's data device",
      (v) => {
        wipe(v.meta);
        editSuper(v.data, (_, sb) => {
          sb.hdr.fsid ^= 0xffff_ffff_ffffn;
          sb.uuid.fill(9);
        }, true);
        return v;
      },
      /belongs to another volume/,
      true,
    ],
    [
      "a data device of which nothing is left",
      (v) => {
        const data = new MemDevice(v.data.size);
        return { ...v, data };
      },
      /nothing shows that the data device is the volume's/,
      true,
    ],
    [
      "no volume at all",
      (v) => {
        return { ...v, meta: new MemDevice(v.meta.size), data: new MemDevice(v.data.size) };
      },
      /has no blocks of any volume/,
      true,
    ],
    [
      "both super blocks are lost",
      (v) => {
        wipe(v.meta);
        wipe(v.data);
        return v;
      },
      /give each of them with --quorum-slot/,
      false,
    ],
  ];
  for (const [name, change, why, failed] of cases) {
    const result = mend(change(await healthyVolume()));
    assert.match(result.stopped ?? "", why, name);
    assert.equal(result.failed, failed, name);
    assert.equal(result.commits, 0, name);
  }
});

Deno.test("status: a device that takes no writes", async () => {
  const v = await healthyVolume();
  new Surgeon(v.meta).editInode(v.inos.get("file0")!, (i) => i.nlink = 9);
  v.meta.inject({ op: "write", kind: "fail", nth: 0, sticky: true });
  const result = mend(v);
  assert.match(result.stopped ?? "", /write of .*Input\/output error/);
  assert.equal(result.failed, true);
  assert.equal(result.commits, 0);
  assert.ok(result.after.counts.has("inode-nlink"));
});

Deno.test("status: a device that is cut short is refused with status 8, not written, and reported with 4", async () => {
  const dir = await Deno.makeTempDir({ prefix: "fsck-status-" });
  try {
    const v = await healthyVolume(), meta = `${dir}/m`, data = `${dir}/d`;
    await Deno.writeFile(meta, v.meta.toImage());
    await Deno.writeFile(data, v.data.toImage().subarray(0, 100 * SM_SIZE));
    const fsck = async (mode: string) => {
      const { code, stderr } = await new Deno.Command(Deno.execPath(), {
        args: ["run", "-A", MAIN, "fsck", mode, meta, data],
        stdin: "null",
      }).output();
      return { code, err: new TextDecoder().decode(stderr) };
    };
    for (const mode of ["-p", "-y"]) {
      const { code, err } = await fsck(mode);
      assert.equal(code, 8, err);
      assert.match(err, /the data device has 100 blocks, the volume \d+: this is not all of it/);
      assert.equal(err.trimEnd().split("\n").length, 1, err);
    }
    assert.equal((await fsck("-n")).code, 4);
    assert.deepEqual(await Deno.readFile(meta), v.meta.toImage());
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

Deno.test("status: a repair of a volume that may be mounted is not undone without --force", async () => {
  const dir = await Deno.makeTempDir({ prefix: "fsck-status-" });
  try {
    const v = await healthyVolume(), meta = `${dir}/m`, data = `${dir}/d`, undo = `${dir}/u`;
    new Surgeon(v.meta).editInode(v.inos.get("file0")!, (i) => i.nlink = 9);
    await Deno.writeFile(meta, v.meta.toImage());
    await Deno.writeFile(data, v.data.toImage());
    const fsck = async (...args: string[]) => {
      const { code, stderr } = await new Deno.Command(Deno.execPath(), {
        args: ["run", "-A", MAIN, "fsck", ...args, meta, data],
        stdin: "null",
      }).output();
      return { code, err: new TextDecoder().decode(stderr) };
    };
    assert.equal((await fsck("-p", "--undo", undo)).code, 1);
    const off = QUORUM_BLKNO * SM_SIZE;
    const file = await Deno.readFile(meta), block = file.subarray(off, off + SM_SIZE);
    const q = QuorumBlock.at(block);
    q.writeNr = q.events(0).writeNr = q.writeNr + 1;
    q.events(0).rid = 5n;
    sealBlock(block);
    await Deno.writeFile(meta, file);
    const refused = await fsck("--undo-apply", undo);
    assert.equal(refused.code, 8, refused.err);
    assert.match(
      refused.err,
      /may be mounted somewhere:\n.*is in use by mount .*\n.*--force restores/,
    );
    assert.deepEqual(await Deno.readFile(meta), file, "nothing was written");
    assert.equal((await fsck("--force", "--undo-apply", undo)).code, 0);
    const before = v.meta.toImage();
    before.set(block, off);
    assert.deepEqual(await Deno.readFile(meta), before, "what the repair wrote is undone");
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});
