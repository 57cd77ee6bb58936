/**
 * Every wrong mount ends with one line that names what is wrong and where, a verdict and a non-zero
 * exit, and the devices are as before. A corrupt block met at run time gives EIO for what needs it,
 * one line in the log, and a mount that goes on serving the rest.
 */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { BlockHeader } from "../../format/block.ts";
import type { BtreeRoot } from "../../format/btree.ts";
import { LG_SIZE, SM_SIZE, SUPER_BLKNO, ZONE_FS } from "../../format/constants.ts";
import { sealBlock } from "../../format/crc32c.ts";
import { SuperBlock } from "../../format/super.ts";
import { BlockCache } from "../../fs/block_cache.ts";
import { walkBlocks } from "../../fs/btree.ts";
import { forEachLogTree } from "../../fs/forest.ts";
import { ImageDevice } from "../helpers/image_device.ts";
import { SeededRandom } from "../helpers/sim_reactor.ts";
import { mountTest, type Ran, run, TestVolume, withoutPatience } from "../helpers/volume.ts";

const SMALL = { metaBytes: 96 << 20, dataBytes: 8 << 20 };

function readAt(path: string, off: number, bytes: number): Uint8Array<ArrayBuffer> {
  using file = Deno.openSync(path);
  file.seekSync(off, Deno.SeekMode.Start);
  const buf = new Uint8Array(bytes);
  assert.equal(file.readSync(buf), bytes);
  return buf;
}

/** Changes bytes of an image in place. */
function patch(path: string, off: number, bytes: number, change: (b: Uint8Array) => void): void {
  const buf = readAt(path, off, bytes);
  change(buf);
  using file = Deno.openSync(path, { write: true });
  file.seekSync(off, Deno.SeekMode.Start);
  assert.equal(file.writeSync(buf), bytes);
}

const patchSuper = (
  path: string,
  change: (sb: SuperBlock, bytes: Uint8Array) => void,
  seal = true,
) =>
  patch(path, SUPER_BLKNO * SM_SIZE, SM_SIZE, (bytes) => {
    change(SuperBlock.at(bytes), bytes);
    if (seal) sealBlock(bytes);
  });

const superOf = (path: string): SuperBlock =>
  SuperBlock.at(readAt(path, SUPER_BLKNO * SM_SIZE, SM_SIZE));

/** What changes with every write to a file: its times; and a hash of what a mount writes first. */
async function digest(path: string): Promise<string> {
  try {
    const { size, mtime, ctime } = await Deno.stat(path);
    const head = readAt(path, 0, Math.min(size, 1 << 18));
    const hash = createHash("sha256").update(head).digest("hex");
    return `${size} ${mtime?.getTime()} ${ctime?.getTime()} ${hash}`;
  } catch (e) {
    if (!(e instanceof Deno.errors.NotFound)) throw e;
    return "absent";
  }
}

/** One line and the verdict, which every command ends with. */
function assertOneLine(r: Ran, expected: RegExp): void {
  assert.notEqual(r.code, 0, "it succeeded");
  const lines = r.err.trimEnd().split("\n");
  assert.match(lines[0]!, expected);
  assert.deepEqual(
    lines.slice(1).filter((l) => !/^scoutfs: mount failed: /.test(l)),
    [],
    r.err,
  );
  assert.equal(r.out, "");
}

/** Images that a case may spoil, made from the pristine ones. */
interface Images {
  meta: string;
  data: string;
}

async function refused(
  v: TestVolume,
  expected: RegExp,
  spoil: (images: Images) => void | Promise<void>,
): Promise<void> {
  const dir = await Deno.makeTempDir({ dir: v.dir });
  const images = { meta: `${dir}/meta.img`, data: `${dir}/data.img` };
  for (const [from, to] of [[v.meta, images.meta], [v.data, images.data]] as const) {
    assert.equal((await run("cp", ["--sparse=always", from, to])).code, 0);
  }
  await spoil(images);
  const both = () => Promise.all([digest(images.meta), digest(images.data)]);
  const before = await both();
  const options = `metadev_path=${images.meta},quorum_slot_nr=0`;
  const r = await v.scoutfs("mount", "-o", options, images.data, v.mnt);
  if (v.mounted) await v.umountAndWait();
  assertOneLine(r, expected);
  assert.deepEqual(await both(), before, `${expected}: the devices are untouched`);
  await Deno.remove(dir, { recursive: true });
}

/** The root block of a tree, spoiled. */
function spoilRoot(
  meta: string,
  root: (sb: SuperBlock) => BtreeRoot,
  change: (hdr: BlockHeader, bytes: Uint8Array) => void,
  seal = true,
): void {
  const { blkno } = root(superOf(meta)).ref;
  patch(meta, blkno * LG_SIZE, LG_SIZE, (bytes) => {
    change(BlockHeader.at(bytes), bytes);
    if (seal) sealBlock(bytes);
  });
}

mountTest("spoiled super blocks are refused, the devices untouched", SMALL, async (v) => {
  const other = await TestVolume.make(SMALL);
  assert.ok(other !== null);
  try {
    const cases: [RegExp, (i: Images) => void | Promise<void>][] = [
      [/meta\.img: no ScoutFS super/, (i) => patchSuper(i.meta, (sb) => sb.hdr.magic = 1)],
      [/data\.img: no ScoutFS super/, (i) => patchSuper(i.data, (sb) => sb.hdr.magic = 1)],
      [/meta\.img: .*checksum/, (i) => patchSuper(i.meta, (_, b) => b[2000]! ^= 1, false)],
      [/data\.img: .*checksum/, (i) => patchSuper(i.data, (_, b) => b[60]! ^= 1, false)],
      [/meta\.img: .*block 17/, (i) => patchSuper(i.meta, (sb) => sb.hdr.blkno = 17)],
      [/meta\.img: format version 3 is not/, (i) => patchSuper(i.meta, (sb) => sb.fmtVers = 3)],
      [/data\.img: format version 0 is not/, (i) => patchSuper(i.data, (sb) => sb.fmtVers = 0)],
      [/data\.img: format version 1, but/, (i) => patchSuper(i.data, (sb) => sb.fmtVers = 1)],
      [
        /data\.img: .*another filesystem: fsid/,
        (i) => patchSuper(i.data, (sb) => sb.hdr.fsid = 7n),
      ],
      [
        /data\.img: .*another filesystem: uuid/,
        (i) => patchSuper(i.data, (sb) => sb.uuid[3]! ^= 1),
      ],
      [
        /data\.img: .*another filesystem: fsid/,
        async (i) => void await Deno.copyFile(other.data, i.data),
      ],
      [/meta\.img: .*too few/, (i) => Deno.truncate(i.meta, SMALL.metaBytes - 65536)],
      [/data\.img: .*too few/, (i) => Deno.truncate(i.data, SMALL.dataBytes - 4096)],
      [/meta\.img: .*too small/, (i) => Deno.truncate(i.meta, 4096)],
      [/data\.img: .*too small/, (i) => Deno.truncate(i.data, 0)],
      [/data\.img: No such file/, (i) => Deno.remove(i.data)],
      [/meta\.img: .*data device.*swapped/, async (i) => {
        await Deno.rename(i.meta, `${i.meta}.x`);
        await Deno.rename(i.data, i.meta);
        await Deno.rename(`${i.meta}.x`, i.data);
      }],
      [
        /quorum configuration: no slot/,
        (i) => patchSuper(i.meta, (sb) => sb.qconf.slots(0).zero()),
      ],
    ];
    for (const [expected, spoil] of cases) await refused(v, expected, spoil);
  } finally {
    await other.remove();
  }
});

mountTest("spoiled blocks that a mount begins with are refused", {}, async (v) => {
  // So that every tree of the super block has something in it.
  await v.mount();
  await v.sh("mkdir d && echo hello > d/f && setfattr -n scoutfs.srch.s -v 1 d/f");
  await v.umountAndWait();
  const trees: [string, (sb: SuperBlock) => BtreeRoot][] = [
    ["fs_root", (sb) => sb.fsRoot],
    ["logs_root", (sb) => sb.logsRoot],
    ["meta_alloc", (sb) => sb.metaAlloc(0).root],
    ["meta_alloc", (sb) => sb.metaAlloc(1).root],
    ["data_alloc", (sb) => sb.dataAlloc.root],
    ["srch_root", (sb) => sb.srchRoot],
  ];
  for (const [name, root] of trees) {
    const { blkno } = root(superOf(v.meta)).ref;
    if (blkno === 0) continue;
    const where = new RegExp(`meta\\.img: ${name}\\S* is damaged: .*block ${blkno}\\b`);
    await refused(v, where, (i) => spoilRoot(i.meta, root, (_, b) => b[65000]! ^= 4, false));
    if (name !== "fs_root") continue;
    await refused(v, where, (i) => spoilRoot(i.meta, root, (hdr) => hdr.blkno++));
    await refused(v, where, (i) => spoilRoot(i.meta, root, (hdr) => hdr.seq ^= 1n));
  }
});

mountTest("a volume that another node may have mounted is refused", {}, async (v) => {
  await v.mount();
  await v.sh("echo kept > file && sync file");
  await v.crash();
  // The host's record of its mounts is what proves that this one is dead.
  await Deno.rename(`${v.dir}/state`, `${v.dir}/elsewhere`);
  const before = await digest(v.meta);
  const r = await v.tryMount();
  assertOneLine(r, /meta\.img: mount f\.\w+\.r\.\w+ .*another host.*assume_fenced/);
  assert.equal(await digest(v.meta), before);
  await v.mount("assume_fenced");
  assert.equal(await v.sh("cat file"), "kept\n");
});

mountTest("mount points and machines that cannot do it", SMALL, async (v) => {
  const both = () => Promise.all([digest(v.meta), digest(v.data)]);
  const before = await both();
  const at = (mountpoint: string) => v.scoutfs("mount", "-o", v.options, v.data, mountpoint);
  assertOneLine(await at(`${v.dir}/absent`), /absent: No such file or directory/);
  await Deno.writeTextFile(`${v.dir}/plain`, "");
  assertOneLine(await at(`${v.dir}/plain`), /plain: Not a directory/);

  /** Runs the mount in a namespace of its own in which `script` ran before. */
  const unshared = async (what: string, script: string): Promise<Ran> => {
    const program = new URL("../../scoutfs.ts", import.meta.url).pathname;
    const command =
      `${Deno.execPath()} run -A --no-check ${program} mount -o ${v.options} ${v.data} ${v.mnt}`;
    const inside = [what, "sh", "-c", `${script.trim()} && exec ${command}`];
    return withoutPatience(await run("unshare", inside, { env: v.env }));
  };
  assertOneLine(
    await unshared(
      "-m",
      `
      mkdir ${v.dir}/dev && for n in null zero random urandom; do
        touch ${v.dir}/dev/$n && mount --bind /dev/$n ${v.dir}/dev/$n
      done && mount --rbind ${v.dir}/dev /dev
    `,
    ),
    /\/dev\/fuse/,
  );
  assertOneLine(
    await unshared(
      "-m",
      `
      for f in /usr/lib/*/libfuse3.so.3* /lib/*/libfuse3.so.3*; do
        test -e $f && mount --bind /dev/null $f
      done; true
    `,
    ),
    /libfuse3/,
  );
  // In a user namespace without a map nobody is root, and root's files can still be read. Where the
  // administrator lets users mount for others (fuse.conf) nothing is wrong with that, and some
  // machines have no such namespaces.
  const fuseConf = await Deno.readTextFile("/etc/fuse.conf").catch(() => "");
  const namespaces = (await run("unshare", ["-U", "true"])).code === 0;
  if (namespaces && !/^\s*user_allow_other/m.test(fuseConf)) {
    assertOneLine(await unshared("-U", "true"), /not root: .*user_allow_other/);
  }
  assert.deepEqual(await both(), before, "the devices are untouched");
});

/** A leaf of the log trees that holds items of inodes only, and those inodes' numbers. */
function findLeaf(meta: string): { blkno: number; first: number; last: number } {
  const dev = new ImageDevice(meta);
  const sb = superOf(meta);
  const cache = new BlockCache(dev, sb.hdr.fsid, {
    limitBytes: 8 << 20,
    random: new SeededRandom(1),
  });
  const leaves: { blkno: number; first: number; last: number }[] = [];
  forEachLogTree({ cache }, sb.logsRoot, (lt) => {
    walkBlocks({ cache }, lt.itemRoot, ({ level, blkno, lo, hi }) => {
      const inside = lo.zone === ZONE_FS && hi.zone === ZONE_FS && lo.first >= 1024;
      if (level === 0 && inside) leaves.push({ blkno, first: lo.first, last: hi.first });
    });
  });
  dev.close();
  assert.ok(leaves.length >= 3, `${leaves.length} leaves`);
  return leaves[leaves.length >> 1]!;
}

mountTest("a corrupt block at run time is EIO for what needs it, and no more", {}, async (v) => {
  await v.mount();
  await v.sh(`
    mkdir d other && for i in $(seq 1 2500); do echo $i > d/file-$i; done
    echo fine > other/file
  `);
  const inos = new Map<number, string>();
  for await (const e of Deno.readDir(`${v.mnt}/d`)) {
    inos.set((await Deno.stat(`${v.mnt}/d/${e.name}`)).ino!, e.name);
  }
  await v.umountAndWait();
  const leaf = findLeaf(v.meta);
  patch(v.meta, leaf.blkno * LG_SIZE, LG_SIZE, (b) => b[3000]! ^= 0x40);

  await v.mount();
  let lost = 0, there = 0;
  for (const [ino, name] of inos) {
    const stat = await Deno.stat(`${v.mnt}/d/${name}`).catch((e: unknown) => e as Error);
    if (stat instanceof Error) {
      assert.match(stat.message, /os error 5/, `${name}: ${stat.message}`);
      lost++;
    } else {
      assert.ok(ino < leaf.first || ino > leaf.last || ino === leaf.first || ino === leaf.last);
      there++;
    }
  }
  assert.ok(lost > 50, `${lost} files of the block's inodes ${leaf.first} to ${leaf.last}`);
  assert.ok(there > 100, `${there} other files`);
  const named = new RegExp(`block ${leaf.blkno}\\b`);
  const lines = (await v.log()).split("\n").filter((l) => named.test(l));
  assert.ok(lines.length >= 1 && lines.length <= 3, `the log names the block: ${lines.join("\n")}`);
  // The rest is served, written and committed.
  assert.equal(await v.sh("cat other/file"), "fine\n");
  await v.sh("echo more > other/new && sync other/new && mkdir new-dir && mv other/file new-dir");
  await v.umountAndWait();
  await v.mount();
  assert.equal(await v.sh("cat new-dir/file other/new"), "fine\nmore\n");
});
