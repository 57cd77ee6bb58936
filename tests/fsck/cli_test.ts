/**
 * `scoutfs fsck` as people and scripts see it: exit statuses, text, records of JSON, what is refused
 * in one line, undo files that must not be believed, signals.
 */

import assert from "node:assert/strict";
import { LG_SIZE } from "../../format/constants.ts";
import { PROBLEMS } from "../../fs/check/problems.ts";
import type { Device } from "../../fs/device.ts";
import { openDevice } from "../../fs/sys/device.ts";
import { LocalCluster } from "../helpers/local_cluster.ts";
import { LocalFs } from "../helpers/local_fs.ts";
import { ended, fsck, type Run, start, text } from "./program.ts";
import { fill, Surgeon, type Volume } from "./repair_support.ts";

/** Writes a device into a file, without what is zero. */
async function save(dev: Device, path: string): Promise<void> {
  const file = await Deno.open(path, { create: true, write: true, truncate: true });
  await file.truncate(dev.size);
  const buf = dev.allocBuffer(LG_SIZE);
  const words = new BigUint64Array(buf.buffer, buf.byteOffset, LG_SIZE / 8);
  for (let off = 0; off < dev.size; off += LG_SIZE) {
    dev.read(buf, off);
    if (words.every((w) => w === 0n)) continue;
    await file.seek(off, Deno.SeekMode.Start);
    await file.write(buf);
  }
  file.close();
}

/** Two image files that are what they were made of, or not. */
class Images {
  readonly meta: string;
  readonly data: string;

  private constructor(readonly dir: string) {
    this.meta = `${dir}/m`;
    this.data = `${dir}/d`;
  }

  static async of(v: Volume): Promise<Images> {
    const images = new Images(await Deno.makeTempDir({ prefix: "fsck-cli-" }));
    await save(v.meta, images.meta);
    await save(v.data, images.data);
    await images.keep();
    return images;
  }

  /** What they hold now is what `unchanged` compares with. */
  async keep(): Promise<void> {
    for (const path of [this.meta, this.data]) {
      await run("cp", "--sparse=always", path, `${path}.kept`);
    }
  }

  async unchanged(): Promise<boolean> {
    for (const path of [this.meta, this.data]) {
      const { code } = await new Deno.Command("cmp", { args: ["-s", path, `${path}.kept`] })
        .output();
      if (code !== 0) return false;
    }
    return true;
  }

  damage(how: (s: Surgeon) => void): void {
    const dev = openDevice(this.meta, { write: true });
    how(new Surgeon(dev));
    dev.close();
  }

  async remove(): Promise<void> {
    await Deno.remove(this.dir, { recursive: true });
  }
}

async function run(command: string, ...args: string[]): Promise<void> {
  const { code, stderr } = await new Deno.Command(command, { args }).output();
  assert.equal(code, 0, text(stderr));
}

/** A sound volume with a data device that is quickly copied. */
async function smallVolume(): Promise<Volume> {
  const m = await LocalFs.mount(await LocalCluster.make({ dataBytes: 64 << 20 }));
  const inos = await fill(m, 1);
  await m.sync();
  await m.unmount();
  const { meta, data } = m.cluster;
  return { meta, data, inos };
}

let made: Promise<Volume> | null = null;

/** Runs a test with the images of a sound volume. */
async function withImages(body: (images: Images, v: Volume) => Promise<void>): Promise<void> {
  const v = await (made ??= smallVolume());
  const images = await Images.of(v);
  try {
    await body(images, v);
  } finally {
    await images.remove();
  }
}

const records = (out: string): Record<string, unknown>[] =>
  out.trimEnd().split("\n").map((line) => JSON.parse(line));

Deno.test("fsck: text says what was found, mended and left, with paths", async () => {
  await withImages(async (images, v) => {
    const { meta, data } = images;
    images.damage((s) => {
      s.editInode(v.inos.get("a/b/file2")!, (i) => i.nlink = 7);
      s.editInode(v.inos.get("file3")!, (i) => i.flags = 0x4000);
    });
    await images.keep();
    const seen = await fsck("-n", meta, data);
    assert.equal(seen.code, 4);
    assert.match(
      seen.out,
      /inode \d+ \(\/a\/b\/file2\): nlink is 7, it should be 1 \[inode-nlink\]/,
    );
    assert.match(seen.out, /: 2 errors found, nothing was changed; 45 inodes/);
    assert.match(seen.out, /next: fsck -y --undo FILE, which may lose what 1 of the problems/);
    assert.ok(await images.unchanged());

    const preened = await fsck("-p", meta, data);
    assert.equal(preened.code, 1 | 4, preened.out + preened.err);
    assert.match(preened.out, /^inode-nlink: 1 found, 1 mended\. The count is corrected/m);
    assert.match(preened.out, /^inode-field: 1 found, 1 left$/m);
    assert.match(preened.out, /the volume was changed: 2 problems found, 1 mended, 1 left;/);
    assert.match(preened.out, /^what is left:\nerror: inode \d+ \(\/file3\): flags/m);

    const mended = await fsck("-y", meta, data);
    assert.equal(mended.code, 1, mended.out + mended.err);
    assert.match(mended.out, /the volume was changed: \d+ problems? found, \d+ mended, 0 left;/);
    const clean = await fsck("-y", "--undo", `${images.dir}/u`, meta, data);
    assert.equal(clean.code, 0);
    assert.match(clean.out, /^[^\n]*: no problems; 45 inodes[^\n]*\n$/);
    await assert.rejects(Deno.stat(`${images.dir}/u`), Deno.errors.NotFound, "nothing to undo");
  });
});

Deno.test("fsck: long series are cut short, but not with -v or --json", async () => {
  await withImages(async (images, v) => {
    const { meta, data } = images;
    const files = [...v.inos].filter(([path]) => path.includes("file"));
    images.damage((s) => {
      for (const [, ino] of files) s.editInode(ino, (i) => i.onlineBlocks += 3);
    });
    const lines = (r: Run) => r.out.match(/\[extents-missing\]/g)?.length ?? 0;
    const short = await fsck("-n", meta, data);
    assert.equal(lines(short), 10);
    assert.match(short.out, /^… more like the line above/m);
    assert.match(short.out, new RegExp(`^extents-missing: ${files.length} found$`, "m"));
    assert.equal(lines(await fsck("-n", "-v", meta, data)), files.length);
    const all = records((await fsck("-n", "--json", meta, data)).out);
    assert.equal(all.filter((r) => r.code === "extents-missing").length, files.length);
  });
});

Deno.test("fsck: --json is one record a line: problems, what is left, the summary, errors", async () => {
  await withImages(async (images, v) => {
    const { meta, data } = images, ino = v.inos.get("file3")!;
    images.damage((s) => {
      s.editInode(ino, (i) => i.flags = 0x4000);
      s.editInode(v.inos.get("file0")!, (i) => i.nlink = 5);
    });
    const { code, out, err } = await fsck("-p", "--json", meta, data);
    assert.equal(code, 1 | 4, err);
    assert.equal(err, "");
    const all = records(out);
    const problem = all.find((r) => r.record === "problem" && r.code === "inode-field");
    assert.deepEqual(
      { ...problem, values: undefined, message: undefined },
      {
        record: "problem",
        round: 1,
        code: "inode-field",
        severity: "error",
        message: undefined,
        values: undefined,
        paths: { [ino]: "/file3" },
        mending: "lossy",
      },
    );
    assert.equal((problem?.values as { ino: number }).ino, ino);
    assert.deepEqual(all.filter((r) => r.record === "left").map((r) => r.code), ["inode-field"]);
    const summary = all.at(-1);
    assert.equal(summary?.record, "summary");
    assert.equal(summary?.status, 5);
    assert.equal(summary?.modified, true);
    assert.deepEqual([summary?.found, summary?.mended, summary?.left], [2, 1, 1]);

    const failed = await fsck("--json", meta, `${images.dir}/missing`);
    assert.equal(failed.code, 8);
    assert.equal(failed.err, "");
    assert.match(String(records(failed.out)[0]?.message), /No such file/);
    assert.equal(records(failed.out)[0]?.record, "error");
  });
});

Deno.test("fsck: what is no volume is refused in one line, and not written", async () => {
  await withImages(async (images) => {
    const { meta, data, dir } = images;
    const ext = `${dir}/ext`, other = `${dir}/other`;
    const bytes = new Uint8Array(1 << 20);
    bytes.set([0x53, 0xef], 1080);
    await Deno.writeFile(ext, bytes);
    await Deno.symlink(meta, `${dir}/link`);
    // A data device of another volume: both fsid and uuid differ.
    await run("cp", "--sparse=always", data, other);
    const dev = openDevice(other, { write: true }), s = new Surgeon(dev);
    s.editSuper((sb) => {
      sb.hdr.fsid ^= 0xffn;
      sb.uuid.fill(9);
    });
    dev.close();
    const cases: [string[], RegExp][] = [
      [[meta, meta], /are the same device/],
      [[meta, `${dir}/link`], /are the same device/],
      [[data, meta], /name them in this order: \S+\/m \S+\/d$/m],
      [[meta, other], /belong to different volumes/],
      [[ext, data], /seems to hold ext;/],
      [[meta, ext], /seems to hold ext;/],
      [[meta, "/dev/null"], /neither a block device nor an image file/],
      [[meta, dir], /neither a block device nor an image file/],
      [[meta, `${dir}/missing`], /No such file or directory/],
    ];
    for (const [devices, why] of cases) {
      for (const mode of ["-n", "-y"]) {
        const { code, out, err } = await fsck(mode, ...devices);
        assert.equal(code, 8, `${devices}: ${out}${err}`);
        assert.equal(out, "");
        assert.match(err, why);
        assert.equal(err.trimEnd().split("\n").length, 1, err);
      }
    }
    assert.ok(await images.unchanged());
  });
});

Deno.test("fsck --undo-apply: believes no damaged file, and no volume that was changed since", async () => {
  await withImages(async (images, v) => {
    const { meta, data, dir } = images, undo = `${dir}/u`;
    images.damage((s) => s.editInode(v.inos.get("file0")!, (i) => i.nlink = 9));
    await images.keep();
    assert.equal((await fsck("-y", "--undo", undo, meta, data)).code, 1);
    const whole = await Deno.readFile(undo);
    const apply = async (bytes: Uint8Array, ...words: string[]) => {
      await Deno.writeFile(undo, bytes);
      return await fsck(...words, "--undo-apply", undo, meta, data);
    };
    const spoiled = (at: number) => {
      const copy = whole.slice();
      copy[at]! ^= 0x55;
      return copy;
    };
    await run("cp", "--sparse=always", meta, `${dir}/mended`);
    for (const at of [4096, 4096 + 8, 2 * 4096 + 100]) {
      const refused = await apply(spoiled(at));
      assert.equal(refused.code, 8);
      assert.match(refused.err, /the file is damaged, nothing was restored/);
    }
    assert.match((await apply(whole.subarray(0, 3000))).err, /this is no undo file/);
    await run("cmp", meta, `${dir}/mended`);

    // A mount commits: the super block is none that the file knows.
    images.damage((s) => s.editSuper((sb) => sb.hdr.seq += 1n));
    const late = await apply(whole);
    assert.equal(late.code, 8);
    assert.match(late.err, /has been changed since that repair/);
    const forced = await apply(whole, "--force");
    assert.equal(forced.code, 0, forced.err);
    assert.doesNotMatch(forced.out, /interrupted/);
    assert.ok(await images.unchanged(), "all bytes are back");
    assert.equal((await apply(whole)).code, 0, "once more does no harm");
    const cut = await apply(whole.subarray(0, whole.length - 4096));
    assert.match(cut.out, /that repair had been interrupted, or the end of the file is lost/);
  });
});

Deno.test("fsck: a signal ends it at once with status 32; what was begun is undone or gone on with", async () => {
  await withImages(async (images, v) => {
    const { meta, data, dir } = images, undo = `${dir}/u`;
    images.damage((s) => {
      for (const [path, ino] of v.inos) {
        if (path.includes("file")) s.editInode(ino, (i) => i.nlink = 9);
      }
    });
    await images.keep();
    const statuses = new Set<number>();
    for (let delay = 100; delay <= 1500; delay += 140) {
      const child = start("-y", "--undo", undo, meta, data);
      await new Promise((resolve) => setTimeout(resolve, delay));
      try {
        child.kill("SIGINT");
      } catch (e) {
        if (!(e instanceof TypeError)) throw e; // It has ended.
      }
      const { code, err } = await ended(child);
      statuses.add(code);
      // Before it can listen the signal has its usual effect.
      assert.ok([1, 32, 33, 130].includes(code), `${code}: ${err}`);
      if (code === 32) assert.match(err, /interrupted by SIGINT: nothing was mended/);
      if (code === 33) assert.match(err, /interrupted by SIGINT: 1 round of mending/);
      const made = await Deno.stat(undo).then(() => true, () => false);
      if (made) {
        const applied = await fsck("--undo-apply", undo, meta, data);
        assert.equal(applied.code, 0, applied.err);
        await Deno.remove(undo);
      }
      assert.ok(await images.unchanged(), `after ${delay} ms and status ${code}`);
    }
    assert.ok(statuses.size > 0);
  });
});

Deno.test("fsck --explain: one code, all codes, no such code", async () => {
  const all = await fsck("--explain");
  assert.equal(all.code, 0);
  for (const code of Object.keys(PROBLEMS)) assert.match(all.out, new RegExp(`^${code} `, "m"));
  const one = await fsck("--explain", "inode-nlink");
  assert.match(one.out, /-p and -y mend it/);
  assert.equal((await fsck("--explain", "no-such")).code, 16);
});

Deno.test("fsck: wrong use is status 16", async () => {
  const wrong = [
    ["-p", "-y", "m", "d"],
    ["-n", "--undo", "u", "m", "d"],
    ["--online", "/mnt", "m"],
    ["--online", "/mnt", "-y"],
    ["-n", "--undo-apply", "u", "m", "d"],
    ["--workers", "0", "m", "d"],
    ["--no-such", "m", "d"],
    [],
  ];
  for (const args of wrong) {
    const { code, err } = await fsck(...args);
    assert.equal(code, 16, `${args}: ${err}`);
  }
});
