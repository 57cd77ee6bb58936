/** Checking a volume that changes meanwhile. */

import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { isSound } from "../../fs/check/check.ts";
import { checkOnline } from "../../fs/check/online.ts";
import { SM_SIZE, SUPER_BLKNO } from "../../format/constants.ts";
import { sealBlock } from "../../format/crc32c.ts";
import { SuperBlock } from "../../format/super.ts";
import type { Device } from "../../fs/device.ts";
import { makeSample } from "../fsck/sample.ts";
import { OverlayDevice } from "../helpers/overlay_device.ts";
import { mountTest } from "../helpers/volume.ts";

/** Runs `before` in front of every nth large read. */
function interrupting(dev: Device, every: number, before: () => void): Device {
  let reads = 0;
  return {
    name: dev.name,
    size: dev.size,
    allocBuffer: (n) => dev.allocBuffer(n),
    read: (buf, off) => {
      if (buf.length > SM_SIZE && ++reads % every === 0) before();
      dev.read(buf, off);
    },
    write: () => assert.fail("a check wrote"),
    writev: () => assert.fail("a check wrote"),
    flush: () => {},
    close: () => {},
  };
}

/** A commit: the super block counts on. */
function bumpSuper(dev: Device): void {
  const block = dev.allocBuffer(SM_SIZE);
  dev.read(block, SUPER_BLKNO * SM_SIZE);
  const sb = SuperBlock.at(block);
  sb.hdr.seq = sb.hdr.seq + 1n;
  sealBlock(block);
  dev.write(block, SUPER_BLKNO * SM_SIZE);
}

function spoilRoot(dev: Device): () => void {
  const block = dev.allocBuffer(65536);
  const raw = dev.allocBuffer(SM_SIZE);
  dev.read(raw, SUPER_BLKNO * SM_SIZE);
  const at = SuperBlock.at(raw).fsRoot.ref.blkno * 65536;
  dev.read(block, at);
  const good = block.slice();
  block.fill(7);
  dev.write(block, at);
  return () => dev.write(good, at);
}

Deno.test("online: commits during the check do not matter while its blocks stay", () => {
  const { meta, data } = makeSample();
  const live = new OverlayDevice(meta);
  const { report, attempts } = checkOnline(interrupting(live, 5, () => bumpSuper(live)), data);
  assert.ok(isSound(report));
  assert.equal(attempts, 1);
});

Deno.test("online: a block reused during the check means another attempt, not a problem", () => {
  const { meta, data } = makeSample();
  const live = new OverlayDevice(meta);
  const restore = spoilRoot(live);
  let done = false;
  const dev = interrupting(live, 80, () => {
    if (done) return;
    done = true;
    restore();
    bumpSuper(live);
  });
  const seen: string[] = [];
  const { report, attempts, settled } = checkOnline(dev, data, {
    onProblem: (p) => seen.push(p.code),
  });
  assert.ok(isSound(report) && settled);
  assert.equal(attempts, 2);
  assert.deepEqual(seen.filter((code) => code !== "not-clean"), []);
});

Deno.test("online: damage is damage when nothing was committed meanwhile", () => {
  const { meta, data } = makeSample();
  const live = new OverlayDevice(meta);
  spoilRoot(live);
  const { report, attempts, settled } = checkOnline(live, data);
  assert.ok(settled && !isSound(report));
  assert.equal(attempts, 1);
});

mountTest(
  "online: a mounted volume that is written to checks clean and is not stopped",
  {},
  async (v) => {
    await v.mount();
    const busy = v.sh(
      "for i in $(seq 1 400); do echo $i > f$i; [ $((i % 20)) = 0 ] && sync .; done; true",
    );
    const program = fileURLToPath(new URL("../../scoutfs.ts", import.meta.url));
    for (let run = 0; run < 3; run++) {
      const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
        args: ["run", "-A", "--no-check", program, "fsck", "--online", v.mnt],
        env: { SCOUTFS_RUNTIME_DIR: `${v.dir}/run`, SCOUTFS_STATE_DIR: `${v.dir}/state` },
      }).output();
      const text = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
      assert.equal(code, 0, text);
      assert.match(text, /no problems/);
    }
    await busy;
    assert.equal(await v.sh("ls | wc -l"), "400\n");
    await v.umount();
  },
);
