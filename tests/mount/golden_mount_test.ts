/**
 * Copies of the reference's volumes through a real mount: what ordinary system calls and raw ioctls
 * of other processes say equals what the reference's mount said (the manifests). Then the volume
 * is changed, unmounted, checked and read again through the library.
 */

import assert from "node:assert/strict";
import {
  copyGolden,
  goldenFile,
  type GoldenImages,
  type GoldenName,
  goldenTest,
} from "../helpers/golden.ts";
import { byPath, checkLibrary } from "../helpers/golden_library.ts";
import { checkVolume } from "../helpers/check_volume.ts";
import { ImageDevice } from "../helpers/image_device.ts";
import { callIoctls } from "../helpers/ioctl_caller.ts";
import {
  fromLatin1,
  latin1,
  type Manifest,
  parseFiles,
  parseSum,
  parseWalk,
  parseXattrs,
  readFileList,
  readManifest,
} from "../helpers/manifest.ts";
import { TestVolume, whyNoMounts } from "../helpers/volume.ts";

const FIND = "%p|%y|%m|%U|%G|%s|%n|%i|%b|%T@|%C@|%l\\n";
const why = whyNoMounts();
if (why !== null) console.log(`skipping mounts of golden images: ${why}`);

/** A mounted copy of a golden volume. */
function goldenMount(
  name: GoldenName,
  title: string,
  options: string,
  body: (v: TestVolume, images: GoldenImages) => Promise<void>,
): void {
  goldenTest(`mount: ${name} ${title}`, async () => {
    if (why !== null) return;
    const images = copyGolden(name);
    const v = await TestVolume.of(images.meta, images.data);
    try {
      await v.mount(options);
      await body(v, images);
    } finally {
      await v.remove();
    }
  });
}

/** A program's output as one character a byte; `input` is given to it as such. */
async function output(v: TestVolume, args: string[], input = ""): Promise<string> {
  const child = new Deno.Command(args[0]!, {
    args: args.slice(1),
    cwd: v.mnt,
    env: { ...v.env, LC_ALL: "C" },
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const fed = (async () => {
    const writer = child.stdin.getWriter();
    await writer.write(fromLatin1(input));
    await writer.close();
  })();
  const { code, stdout, stderr } = await child.output();
  await fed;
  assert.equal(code, 0, `${args.join(" ")}: ${latin1(stderr)}`);
  return latin1(stdout);
}

const lines = (text: string): string[] => text.split("\n").filter((l) => l !== "");
const nulList = (paths: Iterable<string>): string => [...paths].map((p) => `${p}\0`).join("");

const find = async (v: TestVolume) =>
  parseFiles(lines(await output(v, ["find", ".", "-printf", FIND]))).sort(byPath);

async function sums(v: TestVolume, manifest: Manifest): Promise<Map<string, string>> {
  const paths = nulList(manifest.sha256.keys());
  return new Map(lines(await output(v, ["xargs", "-0", "sha256sum"], paths)).map(parseSum));
}

async function walk(v: TestVolume, index: string): Promise<[number, number][]> {
  const r = await v.scoutfs("walk-inodes", "-p", v.mnt, index, "0", "-1");
  assert.equal(r.code, 0, r.err);
  return parseWalk(lines(r.out));
}

async function checkAcls(v: TestVolume, manifest: Manifest): Promise<void> {
  // Versions of getfacl differ in whether they show the leading "./".
  const expected = manifest.section("acls").map((l) => l.replace("# file: ./", "# file: "));
  const paths = expected.filter((l) => l.startsWith("# file: ")).map((l) => l.slice(8));
  assert.ok(paths.length > 0);
  const got = await output(v, ["xargs", "-0", "getfacl", "-n"], nulList(paths));
  assert.deepEqual(lines(got).map((l) => l.replace("# file: ./", "# file: ")), expected);
}

const littleEndian = (hex: string): DataView =>
  new DataView(Uint8Array.from(hex.match(/../g) ?? [], (x) => parseInt(x, 16)).buffer);

/** STAT_MORE, GET_ATTR_X and LISTXATTR_HIDDEN of every file of the manifest's `stat` section. */
async function checkIoctls(v: TestVolume, manifest: Manifest): Promise<void> {
  const section = manifest.section("scoutfs stat");
  const paths = section.filter((l) => l.startsWith("-- ")).map((l) => l.slice(3));
  const results = await callIoctls(paths.flatMap((p) => {
    const path = latin1(new TextEncoder().encode(v.mnt)) + p.slice(1);
    return [
      { path, command: 0x8038e805, argument: "00".repeat(56) },
      { path, command: 0x4068e812, argument: "4003" + "00".repeat(102) },
      {
        path,
        command: 0xc018e808,
        argument: "00".repeat(16) + "00100000" + "00000000",
        buffers: [{ at: 8, bytes: 4096 }],
      },
    ];
  }));
  const seen: string[] = [];
  paths.forEach((path, i) => {
    const [stat, attrs, hidden] = results.slice(3 * i, 3 * i + 3);
    assert.ok(stat!.result === 0 && attrs!.result === 0 && hidden!.result >= 0, path);
    const s = littleEndian(stat!.argument);
    const fields = ["meta_seq", "data_seq", "data_version", "online_blocks", "offline_blocks"]
      .map((name, nr) => `${name} ${s.getBigUint64(8 * nr, true)};`);
    const [sec, nsec] = [s.getBigInt64(40, true), s.getUint32(48, true)];
    const a = littleEndian(attrs!.argument);
    seen.push(
      `-- ${path}`,
      `${fields.join("")}crtime ${sec}.${String(nsec).padStart(9, "0")};` +
        `crtime: ${a.getBigInt64(72, true)}.${a.getUint32(68, true)};` +
        `retention: ${a.getBigUint64(88, true)};project_id: ${a.getBigUint64(96, true)};`,
    );
    const names = latin1(new Uint8Array(littleEndian(hidden!.buffers[0]!).buffer));
    for (const name of names.slice(0, hidden!.result).split("\0").slice(0, -1)) {
      seen.push(`hidden: ${name}`);
    }
  });
  // Of hidden names the order is the hash's.
  assert.deepEqual(seen, section);
}

/** What the reference keeps back of the metadata for one client (05 §9.10); ours scales. */
const REFERENCE_RESERVED = 16370 + 18311;

/** `scoutfs df` and statfs(2): totals and data exactly, metadata but for what the mount itself took. */
async function checkSpace(v: TestVolume, manifest: Manifest): Promise<void> {
  const r = await v.scoutfs("df", "-p", v.mnt);
  assert.equal(r.code, 0, r.err);
  const numbers = (line: string) => (line.match(/\d+/g) ?? []).map(Number);
  const [meta, data] = lines(r.out).slice(1).map(numbers);
  const [metaThen, dataThen] = manifest.section("df").slice(1).map(numbers);
  assert.deepEqual(data, dataThen);
  assert.deepEqual(meta!.slice(0, 2), metaThen!.slice(0, 2));
  const [more] = await callIoctls([{
    path: v.mnt,
    command: 0x8030e80a,
    argument: "00".repeat(48),
  }]);
  const reserved = Number(littleEndian(more!.argument).getBigUint64(40, true));
  const inUse = [meta![2]! - reserved, metaThen![2]! - REFERENCE_RESERVED];
  assert.ok(inUse.every((n) => n > 0) && Math.abs(inUse[0]! - inUse[1]!) <= 64, `${inUse}`);
  const stat = lines(await output(v, ["stat", "-f", "."]));
  const then = manifest.section("statfs");
  assert.deepEqual(stat[2], then.find((l) => l.startsWith("Block size")));
  const field = (list: string[], pattern: RegExp) =>
    Number(list.map((l) => pattern.exec(l)).find((m) => m !== null)?.[1]);
  for (const pattern of [/Blocks: Total: (\d+)/, /Inodes: Total: (\d+)/, /Namelen: (\d+)/]) {
    assert.equal(field(stat, pattern), field(then, pattern));
  }
  const shown = await v.scoutfs("statfs", "-p", v.mnt);
  assert.equal(lines(shown.out)[0], then[0], "the fsid");
}

/** Waits of a reader, as DATA_WAITING tells: [ino, block, operations]. */
async function dataWaiters(v: TestVolume): Promise<number[][]> {
  const [r] = await callIoctls([{
    path: v.mnt,
    command: 0x4028e806,
    argument: "00".repeat(32) + "1000" + "00".repeat(6),
    buffers: [{ at: 24, bytes: 16 * 24 }],
  }]);
  assert.ok(r!.result >= 0, `DATA_WAITING: errno ${r!.errno}`);
  const entries = littleEndian(r!.buffers[0]!);
  return Array.from({ length: r!.result }, (_, i) => [
    Number(entries.getBigUint64(24 * i, true)),
    Number(entries.getBigUint64(24 * i + 8, true)),
    entries.getUint8(24 * i + 16),
  ]);
}

/** A read of offline data waits, disturbs nobody, and ends with the process. */
async function checkOffline(v: TestVolume): Promise<void> {
  const file = `${v.mnt}/feat/data/rel-mid`;
  const { ino } = await Deno.stat(file);
  // The online parts before and behind read at once.
  await v.sh("head -c 262144 feat/data/rel-mid | cmp -n 262144 - feat/data/rel-staged");
  await v.sh("dd if=feat/data/rel-mid of=/dev/null bs=4096 skip=192 count=64 status=none");
  const reader = new Deno.Command("dd", {
    args: [`if=${file}`, "of=/dev/null", "bs=4096", "skip=100", "count=1", "status=none"],
    stderr: "null",
  }).spawn();
  let waiting: number[][] = [];
  for (let i = 0; i < 2000 && waiting.length === 0; i++) waiting = await dataWaiters(v);
  assert.deepEqual(waiting, [[ino, 100, 1]]);
  assert.equal((await Deno.stat(file)).size, 1 << 20);
  await v.sh("cat feat/data/d4097 > /dev/null");
  reader.kill("SIGINT");
  assert.equal((await reader.status).signal, "SIGINT");
  assert.deepEqual(await dataWaiters(v), []);
  // Whoever waits when the volume goes is let go.
  const killed = new Deno.Command("cat", { args: [`${v.mnt}/feat/data/rel-all`] }).spawn();
  waiting = [];
  for (let i = 0; i < 2000 && waiting.length === 0; i++) waiting = await dataWaiters(v);
  killed.kill("SIGKILL");
  assert.equal((await killed.status).success, false);
}

goldenMount(
  "features-v2",
  "equals its manifest, is changed and left clean",
  "",
  async (v, images) => {
    const manifest = readManifest("features-v2");
    const before = await find(v);
    assert.deepEqual(before, manifest.files.sort(byPath));
    assert.deepEqual(await sums(v, manifest), manifest.sha256);
    const xattrs = lines(
      await output(v, ["getfattr", "-h", "-R", "-d", "-m", "-", "-e", "hex", "."]),
    );
    assert.deepEqual(parseXattrs(xattrs), manifest.xattrs);
    await checkAcls(v, manifest);
    await checkIoctls(v, manifest);
    assert.deepEqual(await walk(v, "meta_seq"), manifest.metaSeq);
    assert.deepEqual(await walk(v, "data_seq"), manifest.dataSeq);
    await checkSpace(v, manifest);
    await checkOffline(v);
    assert.doesNotMatch(await v.log(), /corrupt|error:/);
    await v.umountAndWait();

    // Mounting, reading and unmounting changed nothing that can be seen.
    const check = (clean: boolean) => {
      const found = checkVolume(new ImageDevice(images.meta), new ImageDevice(images.data), {
        clean,
      });
      assert.deepEqual(found.problems, []);
    };
    check(true);
    checkLibrary(images, manifest);

    // A changed copy stays sound, and what was not changed stays as it was.
    await v.mount();
    await v.sh(`
    mkdir new && echo text > new/file && setfattr -n user.x -v y new/file
    mv feat/hl1 new/renamed && rm -r feat/deep && rm feat/data/d300k feat/data/rel-all
    truncate -s 100 feat/data/every-other && setfattr -x user.a feat/xattr/small
    head -c 100000 /dev/urandom >> feat/data/trunc && chmod 600 feat/data/sparse
  `);
    const sparse = await v.sh("sha256sum feat/data/sparse feat/data/d4097");
    await v.umountAndWait();
    check(true);
    await v.mount();
    assert.equal(await v.sh("sha256sum feat/data/sparse feat/data/d4097"), sparse);
    const changed = /^\.\/new|^\.\/feat\/(hl|deep|sub|data|xattr\/small)|^\.(\/feat)?$/;
    const others = <T extends { path: string }>(list: T[]) =>
      list.filter((f) => !changed.test(f.path));
    assert.deepEqual(others(await find(v)), others(before));
    await v.umountAndWait();
    check(true);
  },
);

goldenMount("tall", "equals its manifest", "", async (v, images) => {
  const { files, rest } = readFileList("tall");
  assert.deepEqual(await find(v), files.sort(byPath));
  for (const line of rest) {
    const m = /^-- (\S+) nxattrs (\d+) sha256\(.*\) ([0-9a-f]{64})/.exec(line);
    if (m === null) continue;
    const count = `getfattr -d -m - -e hex ${m[1]} | grep = | sort`;
    assert.equal((await v.sh(`${count} | wc -l`)).trim(), m[2]);
    assert.equal((await v.sh(`${count} | sha256sum`)).slice(0, 64), m[3], line);
  }
  // Changes of a merged tree go to our log tree.
  await v.sh("rm many/x1 && setfattr -n user.new -v 1 many/x3 && mkdir many/d && touch many/d/f");
  await v.umountAndWait();
  const found = checkVolume(new ImageDevice(images.meta), new ImageDevice(images.data), {
    clean: true,
  });
  assert.deepEqual(found.problems, []);
});

goldenMount(
  "crash",
  "is recovered: all that was synced, the orphans deleted",
  "assume_fenced,orphan_scan_delay_ms=100",
  async (v, images) => {
    const manifest = readManifest("crash");
    const found = await find(v);
    assert.deepEqual(found, manifest.files.sort(byPath));
    const synced = parseFiles(
      lines(latin1(goldenFile("crash.synced-before-crash.txt"))).map(withChange),
    );
    const byName = new Map(found.map((f) => [f.path, f]));
    assert.equal(synced.length, 447);
    for (const { path, type, mode, uid, gid, size, nlink, ino, blocks512, mtime } of synced) {
      const { ctime: _, link: __, ...now } = byName.get(path)!;
      assert.deepEqual(now, { path, type, mode, uid, gid, size, nlink, ino, blocks512, mtime });
    }
    assert.deepEqual(await sums(v, manifest), manifest.sha256);
    const xattrs = ["getfattr", "-h", "-R", "-d", "-m", "-", "-e", "hex", "."];
    assert.deepEqual(parseXattrs(lines(await output(v, xattrs))), manifest.xattrs);
    await checkIoctls(v, manifest);
    assert.deepEqual(await walk(v, "data_seq"), manifest.dataSeq);
    // The two inodes that were open and unlinked at the crash go with the first scan (02 §6.6).
    const orphans = [11716, 11717];
    for (let i = 0; i < 1000; i++) {
      await v.sh("sync -f .");
      if (!(await walk(v, "meta_seq")).some(([, ino]) => orphans.includes(ino))) break;
    }
    assert.deepEqual(
      await walk(v, "meta_seq"),
      manifest.metaSeq.filter(([, ino]) => !orphans.includes(ino)),
    );
    await v.umountAndWait();
    const left = checkVolume(new ImageDevice(images.meta), new ImageDevice(images.data), {
      clean: true,
    });
    assert.deepEqual(left.problems, []);
    assert.deepEqual(left.orphans, []);
  },
);

/** Lines of the synced list lack ctime. */
const withChange = (line: string): string => {
  const fields = line.split("|");
  fields.splice(10, 0, "0.0000000000");
  return fields.join("|");
};

for (const name of ["fresh-3quorum", "fresh-zoned"] as const) {
  goldenMount(name, "is used", "", async (v, images) => {
    assert.equal((await find(v)).length, 1);
    await v.sh("mkdir d && echo hello > d/f && sync -f . && cat d/f");
    await v.umountAndWait();
    const found = checkVolume(new ImageDevice(images.meta), new ImageDevice(images.data), {
      clean: true,
    });
    assert.deepEqual(found.problems, []);
  });
}

// The reference made these on devices too small for it: their free extents wrap (01 §2.4).
for (const name of ["fresh-v1", "fresh-v2"] as const) {
  goldenTest(`mount: ${name} is refused, untouched`, async () => {
    if (why !== null) return;
    const images = copyGolden(name);
    const v = await TestVolume.of(images.meta, images.data);
    try {
      const bytes = () => Promise.all([images.meta, images.data].map((p) => Deno.readFile(p)));
      const before = await bytes();
      const r = await v.tryMount();
      assert.equal(r.code, 1);
      assert.match(
        r.err,
        /meta\.img: cannot be used, only read: \d+ of 1024 blocks are said to be/,
      );
      assert.deepEqual(await bytes(), before);
    } finally {
      await v.remove();
    }
  });
}
