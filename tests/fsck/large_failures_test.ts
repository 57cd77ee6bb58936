/**
 * What goes wrong around the check of a large volume: no room for temporary files, hardly any memory,
 * more threads than processors, a signal in the middle, a device that stops to answer. One line, the
 * right status, nothing left behind, nothing written.
 */

import assert from "node:assert/strict";
import { LG_SIZE, SM_SIZE } from "../../format/constants.ts";
import { checkVolume } from "../../fs/check/check.ts";
import { DeviceError } from "../../fs/errors.ts";
import { MemDevice } from "../../fs/memory_device.ts";
import { generate, generatedSize } from "./generate.ts";
import { fsck, start, text, withGenerated } from "./program.ts";

const INODES = 40_000;

async function digest(path: string): Promise<string> {
  const hash = await crypto.subtle.digest("SHA-256", Deno.readFileSync(path));
  return new Uint8Array(hash).toHex();
}

/** Runs something with a directory that holds next to nothing; false if there can be none. */
async function withFullDirectory(dir: string, run: (full: string) => Promise<void>) {
  const full = `${dir}/full`;
  Deno.mkdirSync(full);
  const mount = await new Deno.Command("mount", {
    args: ["-t", "tmpfs", "-o", "size=64k", "tmpfs", full],
    stderr: "null",
  }).output();
  if (!mount.success) {
    console.log("a full temporary directory: skipped, no right to mount one");
    return;
  }
  try {
    await run(full);
  } finally {
    await new Deno.Command("umount", { args: ["-l", full] }).output();
  }
}

Deno.test("fsck at scale: no room for temporary files is one line and status 8, and nothing is written", async () => {
  await withGenerated(INODES, "no-index", async (meta, data, dir) => {
    const before = await digest(meta);
    const missing = await fsck("-n", "--memory", "1M", "--temp-dir", `${dir}/none`, meta, data);
    assert.equal(missing.code, 8, missing.out + missing.err);
    assert.match(missing.err, /^fsck: a temporary file in .*\/none cannot be used: [^\n]*\n$/);
    await withFullDirectory(dir, async (full) => {
      for (const mode of ["-n", "-y"]) {
        const { code, err } = await fsck(mode, "--memory", "1M", "--temp-dir", full, meta, data);
        assert.equal(code, 8, err);
        assert.match(err, /^fsck: a temporary file in .*\/full cannot be used: No space[^\n]*\n$/);
        assert.deepEqual([...Deno.readDirSync(full)], []);
      }
    });
    assert.equal(await digest(meta), before);
  });
});

Deno.test("fsck at scale: what cannot be saved for an undo is not written, and nothing is said to be lost", async () => {
  await withGenerated(INODES, "no-index", async (meta, data, dir) => {
    const before = await digest(meta);
    await withFullDirectory(dir, async (full) => {
      Deno.writeFileSync(`${full}/other`, new Uint8Array(60 << 10));
      const { code, out, err } = await fsck("-y", "--undo", `${full}/undo`, meta, data);
      assert.equal(code, 8, out + err);
      assert.match(out, /nothing was changed/);
      assert.match(err, /mending stopped: .*No space left/);
      assert.doesNotMatch(out + err, /are gone/);
    });
    assert.equal(await digest(meta), before);
  });
});

Deno.test("fsck at scale: hardly any memory and more threads than processors check as well", async () => {
  await withGenerated(INODES, undefined, async (meta, data) => {
    const plain = await fsck("-n", "--json", meta, data);
    assert.equal(plain.code, 0, plain.err);
    for (const args of [["--memory", "1"], ["--workers", "64"]]) {
      assert.deepEqual(await fsck("-n", "--json", ...args, meta, data), plain, args.join(" "));
    }
  });
});

Deno.test("fsck at scale: a signal leaves no temporary files", async () => {
  await withGenerated(INODES, "no-index", async (meta, data, dir) => {
    const temp = `${dir}/temp`;
    Deno.mkdirSync(temp);
    for (const signal of ["SIGINT", "SIGTERM"] as const) {
      // Nobody reads what it says beyond the beginning, so that it is in the middle of its work.
      const args = ["-n", "-v", "--json", "--memory", "1M", "--temp-dir", temp, meta, data];
      const child = start(...args);
      const reader = child.stdout.getReader();
      const { value } = await reader.read();
      assert.match(text(value ?? new Uint8Array(0)), /index-missing/);
      assert.deepEqual([...Deno.readDirSync(temp)], [], "its files have no names");
      child.kill(signal);
      while (!(await reader.read()).done);
      reader.releaseLock();
      assert.equal((await child.status).code, 32, signal);
      await child.stderr.cancel();
      assert.deepEqual([...Deno.readDirSync(temp)], []);
    }
  });
});

/** Cannot be read from a byte on. */
class HalfDead extends MemDevice {
  deadFrom = Infinity;
  override read(buf: Uint8Array, off: number): void {
    if (off + buf.length > this.deadFrom) throw new DeviceError("meta", "read failed: EIO");
    super.read(buf, off);
  }
}

Deno.test("fsck at scale: a device that cannot be read beyond its first part is reported block by block", () => {
  const inodes = 12_000, { metaBlocks, dataBlocks } = generatedSize(inodes);
  const meta = new HalfDead(metaBlocks * LG_SIZE), data = new MemDevice(dataBlocks * SM_SIZE);
  const { written } = generate(meta, data, inodes);
  const sound = checkVolume(meta, data);
  assert.equal(sound.errors, 0);
  const first = Math.floor(sound.stats.metaBytesRead / LG_SIZE / 2);
  meta.deadFrom = (64 + first) * LG_SIZE;
  const { counts, errors } = checkVolume(meta, data);
  const unread = counts.get("block-read") ?? 0;
  assert.ok(unread > 0 && unread < written && errors >= unread, `${unread} of ${written} blocks`);
});
