/**
 * For tests of repair: a volume with one of everything, damage done in place with right checksums,
 * a manifest of what files hold, and the rules that every repair must keep.
 */

import assert from "node:assert/strict";
import { BtreeRoot } from "../../format/btree.ts";
import {
  findItemGE,
  findLeafItem,
  insertItem,
  itemVal,
  removeItem,
  updateItem,
} from "../../format/btree_block.ts";
import { LG_SIZE, SM_SIZE, SUPER_BLKNO } from "../../format/constants.ts";
import { sealBlock } from "../../format/crc32c.ts";
import { fnv1a64 } from "../../format/hash.ts";
import { Inode, inodeKey } from "../../format/items.ts";
import { Key } from "../../format/key.ts";
import { LogTrees } from "../../format/log_trees.ts";
import { SuperBlock } from "../../format/super.ts";
import { ROOT_CALLER } from "../../fs/caller.ts";
import { BlockCache } from "../../fs/block_cache.ts";
import { forEachItem, walkBlocks } from "../../fs/btree.ts";
import { checkVolume, isSound, type Problem } from "../../fs/check/check.ts";
import {
  type RepairOptions,
  type RepairResult,
  repairVolume,
} from "../../fs/check/repair/repair.ts";
import type { Device } from "../../fs/device.ts";
import type { MemDevice } from "../../fs/memory_device.ts";
import { write } from "../../fs/ops/data.ts";
import { create, link, symlink } from "../../fs/ops/names.ts";
import { setXattr } from "../../fs/ops/xattr.ts";
import { VolumeReader } from "../../fs/reader.ts";
import { openVolume } from "../../fs/volume.ts";
import { type LocalFs, newLocalFs } from "../helpers/local_fs.ts";
import { SeededRandom } from "../helpers/sim_reactor.ts";

const caller = { ...ROOT_CALLER, umask: 0o022 };
let nextId = 1;

export const bytes = (s: string): Uint8Array => new TextEncoder().encode(s);

export interface Volume {
  readonly meta: MemDevice;
  readonly data: MemDevice;
  /** Inode numbers by path. */
  readonly inos: ReadonlyMap<string, number>;
}

export const copyOf = (v: Volume): Volume => ({
  meta: v.meta.snapshot(),
  data: v.data.snapshot(),
  inos: v.inos,
});

let made: Promise<Volume> | null = null;

/** A cleanly unmounted volume; two finalized log trees lie over fs_root. */
export async function healthyVolume(): Promise<Volume> {
  return copyOf(await (made ??= makeVolume()));
}

async function makeVolume(): Promise<Volume> {
  const m = await newLocalFs({ fmtVers: 2 });
  const inos = await fill(m, 1);
  await m.sync();
  await m.unmount();
  const { meta, data } = m.cluster;
  return { meta: meta.snapshot(), data: data.snapshot(), inos };
}

/** Directories, files with data, links, symlinks, attributes of all kinds under directory `top`. */
export async function fill(m: LocalFs, top: number, files = 40): Promise<Map<string, number>> {
  const inos = new Map<string, number>();
  const make = async (dir: number, path: string, mode: number) => {
    const name = bytes(path.slice(path.lastIndexOf("/") + 1));
    const ino = await m.run((op, fs) => create(op, fs, dir, name, mode, 0));
    inos.set(path, ino);
    return ino;
  };
  const a = await make(top, "a", 0o40755), ab = await make(a, "a/b", 0o40755);
  await make(ab, "a/b/c", 0o40755);
  for (let i = 0; i < files; i++) {
    const dir = [top, a, ab][i % 3] as number, prefix = ["", "a/", "a/b/"][i % 3] as string;
    const ino = await make(dir, `${prefix}file${i}`, 0o100644);
    await put(m, ino, pattern(ino, 1000 + 3000 * i));
    if (i % 5 === 0) await attr(m, ino, `scoutfs.srch.tag${i}`, "x");
    if (i % 7 === 0) await attr(m, ino, `scoutfs.totl.size.1.2.${i % 2}`, String(i));
    if (i % 11 === 0 && m.fs.fmtVers >= 2) await attr(m, ino, `scoutfs.indx.sort.${i}.77`, "");
    if (i % 4 === 0) await attr(m, ino, "user.big", "y".repeat(20_000));
  }
  await m.run((op, fs) => link(op, fs, inos.get("file0")!, ab, bytes("hard")));
  const s = await m.run((op, fs) => symlink(op, fs, a, bytes("sym"), bytes("b/c")));
  inos.set("a/sym", s);
  for (const ino of inos.values()) m.fs.refs.forget(ino, 1);
  return inos;
}

async function attr(m: LocalFs, ino: number, name: string, value: string): Promise<void> {
  await m.run((op, fs) => setXattr(op, fs, ino, bytes(name), bytes(value), 0));
}

async function put(m: LocalFs, ino: number, data: Uint8Array): Promise<void> {
  for (let at = 0; at < data.length; at += 65536) {
    const piece = data.subarray(at, at + 65536);
    await write(m.fs, {
      ino,
      offset: at,
      data: piece,
      append: false,
      direct: false,
      sync: false,
      killSuidgid: false,
      pageWrite: false,
      caller,
      id: nextId++,
    });
  }
}

function pattern(seed: number, length: number): Uint8Array {
  const out = new Uint8Array(length);
  let x = seed * 2654435761 >>> 0;
  for (let i = 0; i < length; i++) {
    x = Math.imul(x, 1664525) + 1013904223 >>> 0;
    out[i] = x >>> 24;
  }
  return out;
}

/** Every path with what its inode holds. Throws what reading throws. */
export function manifest(meta: Device, data: Device): Map<string, string> {
  const reader = new VolumeReader(openVolume(meta, data), new SeededRandom(1));
  const out = new Map<string, string>();
  const visit = (ino: number, path: string): void => {
    const inode = reader.inode(ino);
    const attrs = [...reader.xattrs(ino)].map((x) =>
      `${new TextDecoder().decode(x.name)}=${fnv1a64(x.value)}`
    ).sort();
    const format = inode.mode & 0o170000;
    let content = "";
    if (format === 0o100000) content = contentOf(reader, ino, Number(inode.sizeBig));
    if (format === 0o120000) content = new TextDecoder().decode(reader.readlink(ino));
    const what = format === 0o040000 ? "dir" : `${inode.size} ${content}`;
    out.set(path, `${inode.mode.toString(8)} ${what} ${attrs.join(",")}`);
    if (format !== 0o040000) return;
    for (const e of reader.readdir(ino)) {
      visit(e.ino, `${path}/${new TextDecoder().decode(e.name)}`);
    }
  };
  visit(1, "");
  return out;
}

/** Hashes of a file's runs of data; holes are left out. */
export function contentOf(reader: VolumeReader, ino: number, size: number): string {
  // Holes are left out: files can be larger than memory.
  const runs: { at: number; end: number }[] = [];
  for (const e of reader.extents(ino)) {
    if (e.offline) return "offline";
    const at = e.start * SM_SIZE, end = Math.min(at + e.length * SM_SIZE, size), last = runs.at(-1);
    if (at >= end) continue;
    if (last !== undefined && last.end === at) last.end = end;
    else runs.push({ at, end });
  }
  const hashes = runs.map(({ at, end }) => `${at}:${fnv1a64(reader.read(ino, at, end - at))}`);
  return hashes.join(" ");
}

/** Changes blocks in place, with right checksums. */
export class Surgeon {
  constructor(readonly meta: Device) {}

  superBlock(): SuperBlock {
    const block = this.meta.allocBuffer(SM_SIZE);
    this.meta.read(block, SUPER_BLKNO * SM_SIZE);
    return SuperBlock.at(block);
  }

  editSuper(change: (sb: SuperBlock) => void): void {
    const block = this.meta.allocBuffer(SM_SIZE);
    this.meta.read(block, SUPER_BLKNO * SM_SIZE);
    change(SuperBlock.at(block));
    sealBlock(block);
    this.meta.write(block, SUPER_BLKNO * SM_SIZE);
  }

  /** fs_root and the item trees of all log trees. */
  itemTrees(): { name: string; root: BtreeRoot }[] {
    const sb = this.superBlock();
    const trees = [{ name: "fs_root", root: sb.fsRoot }];
    forEachItem({ cache: this.cache() }, sb.logsRoot, Key.ZEROS, ({ val }) => {
      const lt = LogTrees.at(val.slice());
      trees.push({ name: "log", root: lt.itemRoot });
    });
    return trees;
  }

  cache(): BlockCache {
    return new BlockCache(this.meta, this.superBlock().hdr.fsid, { random: new SeededRandom(3) });
  }

  /** The leaf of a tree that covers `key`; its parents are left alone. */
  leafOf(root: BtreeRoot, key: Key): number | null {
    let found: number | null = null;
    walkBlocks({ cache: this.cache() }, root, (b) => {
      if (b.lo.compare(key) > 0 || b.hi.compare(key) < 0) return false;
      if (b.level === 0) found = b.blkno;
      return true;
    });
    return found;
  }

  /** All blocks of a tree: number and level. */
  blocksOf(root: BtreeRoot): { blkno: number; level: number }[] {
    const out: { blkno: number; level: number }[] = [];
    walkBlocks({ cache: this.cache() }, root, ({ blkno, level }) => {
      out.push({ blkno, level });
      return true;
    });
    return out;
  }

  editBlock(
    blkno: number,
    change: (b: { buf: Uint8Array; v: DataView }) => void,
    seal = true,
  ): void {
    const buf = this.meta.allocBuffer(LG_SIZE);
    this.meta.read(buf, blkno * LG_SIZE);
    change({ buf, v: new DataView(buf.buffer, buf.byteOffset, buf.length) });
    if (seal) sealBlock(buf);
    this.meta.write(buf, blkno * LG_SIZE);
  }

  /** Runs `change` on every stored version of an item; the number of versions. */
  editItem(key: Key, change: (val: Uint8Array) => void): number {
    return this.#eachVersion(key, (b, item) => change(itemVal(b, item)));
  }

  replaceItem(key: Key, val: Uint8Array): number {
    return this.#eachVersion(key, (b, item) => updateItem(b, item, val));
  }

  /** The item is gone, as if it had never been. */
  removeItem(key: Key): number {
    return this.#eachVersion(key, (b, item) => removeItem(b, item));
  }

  #eachVersion(
    key: Key,
    change: (b: { buf: Uint8Array; v: DataView }, item: number) => void,
  ): number {
    let n = 0;
    for (const { root } of this.itemTrees()) {
      const leaf = root.height === 0 ? null : this.leafOf(root, key);
      if (leaf === null) continue;
      this.editBlock(leaf, (b) => {
        const item = findLeafItem(b, key);
        if (item === 0) return;
        change(b, item);
        n++;
      });
    }
    return n;
  }

  /** A new item in the log tree, or in fs_root, that has room for it and lets readers see it. */
  insertItem(key: Key, val: Uint8Array = new Uint8Array(0)): void {
    const trees = this.itemTrees().filter(({ root }) => root.height > 0);
    const { root } = trees[0]!;
    const leaf = this.leafOf(root, key);
    assert.ok(leaf !== null);
    const seq = 1;
    this.editBlock(leaf, (b) => void insertItem(b, key, seq, 0, val));
  }

  editInode(ino: number, change: (inode: Inode) => void): void {
    const n = this.editItem(inodeKey(ino), (val) => change(Inode.read(val, 2)));
    assert.ok(n > 0, `inode ${ino} is stored somewhere`);
  }

  /** The newest value of an item in any tree. */
  value(key: Key): Uint8Array | null {
    let out: Uint8Array | null = null;
    this.#eachVersion(key, (b, item) => void (out = itemVal(b, item).slice()));
    return out;
  }

  firstFrom(root: BtreeRoot, key: Key): { blkno: number; offset: number } | null {
    const blkno = this.leafOf(root, key);
    if (blkno === null) return null;
    let offset = 0;
    this.editBlock(blkno, (b) => void (offset = findItemGE(b, key)));
    return offset === 0 ? null : { blkno, offset };
  }
}

export function repairOptions(mode: "safe" | "all" = "all"): RepairOptions {
  return {
    mode,
    random: new SeededRandom(77),
    now: { sec: 1_700_000_000, nsec: 5 },
    memory: 64 << 20,
  };
}

export function problemsOf(meta: Device, data: Device): Problem[] {
  return checkVolume(meta, data).problems.filter((p) => p.severity !== "info");
}

const text = (problems: readonly Problem[]): string =>
  problems.map((p) => `  ${p.code}: ${p.message}`).join("\n");

/**
 * Repairs a damaged volume and holds it to the rules: what was wrong is reported with `expected`
 * codes, afterwards a check finds nothing, a second repair changes nothing, and all files but those
 * under `touched` are what they were.
 */
export function mustMend(
  v: Volume,
  healthy: ReadonlyMap<string, string>,
  expected: readonly string[],
  touched: readonly string[] = [],
  options: RepairOptions = repairOptions(),
): RepairResult {
  const found = problemsOf(v.meta, v.data);
  for (const code of expected) {
    assert.ok(
      found.some((p) => p.code === code),
      `no ${code} was found, but:\n${text(found)}`,
    );
  }
  const result = repairVolume(v.meta, v.data, options);
  assert.ok(
    isSound(result.after),
    `repair left (${result.stopped}):\n${text(problemsOf(v.meta, v.data))}\nof:\n${text(found)}`,
  );
  assert.deepEqual(text(problemsOf(v.meta, v.data)), "");
  const writes = v.meta.writes;
  const again = repairVolume(v.meta, v.data, options);
  assert.equal(again.commits, 0);
  assert.equal(v.meta.writes, writes, "a second repair writes nothing");
  mustKeep(v, healthy, touched);
  return result;
}

/** Files that damage and repair did not touch are what they were. */
export function mustKeep(
  v: Volume,
  healthy: ReadonlyMap<string, string>,
  touched: readonly string[],
): void {
  const now = manifest(v.meta, v.data);
  for (const [path, what] of healthy) {
    if (touched.some((t) => path === t || path.startsWith(`${t}/`))) continue;
    assert.equal(now.get(path), what, `'${path}' is not what it was`);
  }
}
