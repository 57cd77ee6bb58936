/**
 * One damaged volume through everything that is demanded of a repair: one -y run mends it, a second
 * run finds nothing and writes nothing, what the damage did not touch reads back identical, an
 * independent checker agrees, and a mount can work on it.
 *
 * What a damage touches is found without the checker: the inodes of the items that differ between the
 * two versions of a leaf; all of a leaf that is damaged beyond its items. Whatever else is damaged
 * (parents, roots, allocators, the server's trees, search files, super blocks) touches no file.
 */

import { Buffer } from "node:buffer";
import { blockCrcOk } from "../../format/crc32c.ts";
import { itemVal, itemValLen, itemValOff, nrItems } from "../../format/btree_block.ts";
import {
  BTREE_HEADER_BYTES,
  BTREE_ITEM_BYTES,
  LEAF_ITEM_HASH_OFF,
  TYPE_DIRENT,
  TYPE_LINK_BACKREF,
  TYPE_READDIR,
  ZONE_FS,
} from "../../format/constants.ts";
import { EDQUOT } from "../../format/errno.ts";
import { Key } from "../../format/key.ts";
import { checkVolume, isSound, type Problem, type Report } from "../../fs/check/check.ts";
import { repairVolume } from "../../fs/check/repair/repair.ts";
import type { Device } from "../../fs/device.ts";
import { errnoOf } from "../../fs/errors.ts";
import type { MemDevice } from "../../fs/memory_device.ts";
import { create, unlink } from "../../fs/ops/names.ts";
import { VolumeReader } from "../../fs/reader.ts";
import { openVolume } from "../../fs/volume.ts";
import { mutationsOf, placesOf } from "../check/corpus.ts";
import { checkVolume as checkIndependently } from "../helpers/check_volume.ts";
import { LocalCluster } from "../helpers/local_cluster.ts";
import { LocalFs } from "../helpers/local_fs.ts";
import { SeededRandom } from "../helpers/sim_reactor.ts";
import { blockDamage, itemDamage, readBlock, referenceDamage, treeBlocks } from "./damage.ts";
import { bytes, contentOf, repairOptions } from "./repair_support.ts";

export interface Pair {
  readonly meta: MemDevice;
  readonly data: MemDevice;
}

export interface Mutant {
  readonly name: string;
  damage(meta: MemDevice, data: MemDevice): void;
}

/** Every damage of the corpora that a volume can have. */
export function mutantsOf(base: Pair): Mutant[] {
  const out: Mutant[] = [];
  for (const place of placesOf(base.meta)) {
    const onMeta = place.dev === "meta";
    for (const m of mutationsOf(place, onMeta ? base.meta : base.data)) {
      out.push({ name: m.name, damage: (meta, data) => m.apply(onMeta ? meta : data) });
    }
  }
  const damages = [
    ...blockDamage(base.meta),
    ...referenceDamage(base.meta),
    ...itemDamage(base.meta, 6),
  ];
  for (const d of damages) out.push({ name: d.name, damage: (meta) => d.apply(meta) });
  return out;
}

/** What a reader finds: of each inode what it is and holds, and where each path leads. */
export interface Namespace {
  readonly inodes: ReadonlyMap<number, string>;
  /** Path → the inodes on the way, the last one its own. */
  readonly paths: ReadonlyMap<string, readonly number[]>;
}

export function readNamespace(meta: Device, data: Device): Namespace {
  const reader = new VolumeReader(openVolume(meta, data), new SeededRandom(1));
  const inodes = new Map<number, string>(), paths = new Map<string, readonly number[]>();
  const visit = (ino: number, path: string, way: readonly number[]): void => {
    const inode = reader.inode(ino), format = inode.mode & 0o170000;
    paths.set(path, way);
    if (!inodes.has(ino)) {
      const attrs = [...reader.xattrs(ino)].map(({ name, value }) => `${name}=${value}`).sort();
      let what = "";
      if (format === 0o100000) what = contentOf(reader, ino, Number(inode.sizeBig));
      if (format === 0o120000) what = `${reader.readlink(ino)}`;
      const size = format === 0o040000 ? 0 : inode.size;
      const owner = `${inode.uid}:${inode.gid} ${inode.mode.toString(8)} ${inode.rdev}`;
      inodes.set(ino, `${owner} ${size} ${what} ${attrs.join(";")}`);
    }
    if (format !== 0o040000) return;
    for (const e of reader.readdir(ino)) {
      visit(e.ino, `${path}/${new TextDecoder().decode(e.name)}`, [...way, e.ino]);
    }
  };
  visit(1, "", [1]);
  return { inodes, paths };
}

const isItemTree = (tree: string): boolean => tree === "fs_root" || / log tree$/.test(tree);

type Block = ReturnType<typeof readBlock>;

export class Trial {
  readonly #healthy: Namespace;
  readonly #leaves: readonly { blkno: number; block: Block }[];

  constructor(private readonly base: Pair) {
    this.#healthy = readNamespace(base.meta, base.data);
    this.#leaves = treeBlocks(base.meta)
      .filter(({ tree, level }) => level === 0 && isItemTree(tree))
      .map(({ blkno }) => ({ blkno, block: readBlock(base.meta, blkno) }));
  }

  /** Null, or what went wrong. `may` tells what a repair may leave. */
  async run(mutant: Mutant, may: (left: readonly Problem[]) => boolean): Promise<string | null> {
    const meta = this.base.meta.snapshot(), data = this.base.data.snapshot();
    mutant.damage(meta, data);
    const touched = this.#touched(meta);
    try {
      const { after, stopped, before } = repairVolume(meta, data, repairOptions());
      if (!isSound(after)) {
        const left = problemsIn(after);
        return may(left) ? null : `left (${stopped}): ${text(left)}`;
      }
      const writes = meta.writes + data.writes;
      const second = repairVolume(meta, data, repairOptions());
      if (problemsIn(second.before).length > 0) {
        return `a second run: ${text(problemsIn(second.before))}`;
      }
      if (meta.writes + data.writes !== writes) return "a second run writes";
      const changed = this.#changed(readNamespace(meta, data), touched);
      if (changed !== null) return `${changed} (of ${text(problemsIn(before))})`;
      // Extents of a file that could be one are no problem (01 §19, tolerances), nor are narrow bounds
      // of search logs (03 T11).
      const others = checkIndependently(meta, data, { clean: true }).problems
        .filter((line) => !/extents not merged|^srch file 32\.0\.4\..*first or last/.test(line));
      if (others.length > 0) return `the independent checker: ${others.slice(0, 3).join("; ")}`;
      return await mountAndWork(meta, data);
    } catch (e) {
      return `threw ${e instanceof Error ? e.stack : e}`;
    }
  }

  /** Inodes that the damage touches. */
  #touched(meta: Device): ReadonlySet<number> {
    const touched = new Set<number>();
    for (const { blkno, block } of this.#leaves) {
      const now = readBlock(meta, blkno);
      if (sameBytes(now.buf, block.buf)) continue;
      const before = itemsOf(block) as Map<string, Item>;
      const after =
        blockCrcOk(now.buf) && sameBytes(now.buf.subarray(4, 32), block.buf.subarray(4, 32))
          ? itemsOf(now)
          : null;
      for (const [key, item] of before) {
        if (after?.get(key)?.what !== item.what) addInodes(item, touched);
      }
      if (after === null) continue;
      for (const [key, item] of after) if (!before.has(key)) addInodes(item, touched);
    }
    return touched;
  }

  #changed(now: Namespace, touched: ReadonlySet<number>): string | null {
    for (const [ino, what] of this.#healthy.inodes) {
      if (touched.has(ino) || now.inodes.get(ino) === what) continue;
      return now.inodes.has(ino)
        ? `inode ${ino} reads otherwise: ${what.slice(0, 100)} ... ${
          now.inodes.get(ino)?.slice(0, 100)
        }`
        : `inode ${ino} is gone`;
    }
    for (const [path, way] of this.#healthy.paths) {
      if (way.some((ino) => touched.has(ino))) continue;
      if (now.paths.get(path)?.at(-1) !== way.at(-1)) return `${path} is not there`;
    }
    for (const [path, way] of now.paths) {
      if (this.#healthy.paths.has(path)) continue;
      if (way.some((ino) => touched.has(ino) || !this.#healthy.inodes.has(ino))) continue;
      return `${path} was not there`;
    }
    return null;
  }
}

interface Item {
  readonly key: Key;
  readonly val: Uint8Array;
  readonly what: string;
}

/** The items of a leaf by their slots; null when some lie outside of it. */
function itemsOf(b: Block): Map<string, Item> | null {
  const items = new Map<string, Item>();
  const nr = nrItems(b);
  if (BTREE_HEADER_BYTES + BTREE_ITEM_BYTES * nr > LEAF_ITEM_HASH_OFF) return null;
  for (let slot = 0; slot < nr; slot++) {
    const at = BTREE_HEADER_BYTES + BTREE_ITEM_BYTES * slot;
    if (itemValOff(b, at) + itemValLen(b, at) > LEAF_ITEM_HASH_OFF) return null;
    const key = Key.read(b.v, at + 8), val = itemVal(b, at).slice();
    const seqAndFlags = b.buf.subarray(at + 40, at + 56);
    items.set(key.toString(), { key, val, what: `${seqAndFlags} ${val}` });
  }
  return items;
}

/** The inodes that an item names, as far as files depend on it. */
function addInodes({ key, val }: Item, touched: Set<number>): void {
  if (key.zone !== ZONE_FS) return;
  const low = (n: bigint) => Number(BigInt.asUintN(53, n));
  touched.add(low(key.firstBig));
  if (key.type !== TYPE_DIRENT && key.type !== TYPE_READDIR && key.type !== TYPE_LINK_BACKREF) {
    return;
  }
  if (key.type === TYPE_LINK_BACKREF) touched.add(low(key.secondBig));
  if (val.length >= 8) {
    touched.add(low(new DataView(val.buffer, val.byteOffset).getBigUint64(0, true)));
  }
}

const sameBytes = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;

const problemsIn = (r: Report): Problem[] => r.problems.filter((p) => p.severity !== "info");
const text = (problems: readonly Problem[]): string =>
  problems.slice(0, 4).map((p) => `${p.code}: ${p.message}`).join("; ");

/** A mount makes and removes files and leaves a volume that is sound for both checkers. */
async function mountAndWork(meta: MemDevice, data: MemDevice): Promise<string | null> {
  const m = await LocalFs.mount(await LocalCluster.open(meta, data, 1));
  try {
    const dir = await m.run((op, fs) => create(op, fs, 1, bytes("made by a test"), 0o40755, 0));
    m.fs.refs.forget(dir, 1);
    const gone = await m.run((op, fs) => create(op, fs, dir, bytes("gone again"), 0o100644, 0));
    m.fs.refs.forget(gone, 1);
    await m.run((op, fs) => unlink(op, fs, dir, bytes("gone again")));
  } catch (e) {
    // A rule whose limit is damaged is still a rule.
    if (errnoOf(e) !== EDQUOT) throw e;
  }
  await m.sync();
  await m.unmount();
  if (m.log.length > 0) return `the mount says: ${m.log.join("; ")}`;
  const after = checkVolume(meta, data);
  return isSound(after) ? null : `after a mount: ${text(problemsIn(after))}`;
}
