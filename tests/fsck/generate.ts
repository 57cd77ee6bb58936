/**
 * Volumes of any number of inodes, written bottom-up in one pass over the sorted items: directories
 * of a thousand files with names, sizes, an extent each and an attribute on every tenth. Or of a
 * shape that is hard in some way (shapes.ts), or damaged in many places.
 *
 *   deno run -A tests/fsck/generate.ts INODES META-FILE DATA-FILE [SHAPE | DAMAGE]
 */

import {
  LG_SIZE,
  SM_SIZE,
  TYPE_DIRENT,
  TYPE_INODE,
  TYPE_LINK_BACKREF,
  XATTR_PART_SIZE,
  ZONE_FS,
  ZONE_INODE_INDEX,
} from "../../format/constants.ts";
import { direntHash, type Words, xattrNameHash } from "../../format/hash.ts";
import {
  backrefKey,
  DataExtentVal,
  dataSeqKey,
  Dirent,
  direntKey,
  extentKey,
  Inode,
  inodeKey,
  metaSeqKey,
  readdirKey,
  Xattr,
  xattrKey,
} from "../../format/items.ts";
import type { Device } from "../../fs/device.ts";
import { useFastCrc32c } from "../../fs/sys/crc.ts";
import { type BlockDevice, openDevice } from "../../fs/sys/device.ts";
import { generateShape, SHAPES, shapeSize } from "./shapes.ts";
import { type BuildItem, VolumeBuilder } from "./volume_builder.ts";

const FILES_PER_DIR = 1000;
const FIRST_INO = 1024;
const FILE_BLOCKS = 4;
const FIRST_DATA = 64;
const DIR_MODE = 0o40755;
const FILE_MODE = 0o100644;
const NONE = new Uint8Array(0);

/** Sizes of the devices for so many inodes. */
export function generatedSize(inodes: number): { metaBlocks: number; dataBlocks: number } {
  return {
    metaBlocks: 1100 + Math.ceil(inodes / 70),
    dataBlocks: FIRST_DATA + FILE_BLOCKS * inodes + 100_000,
  };
}

/** What is wrong with all items, or with many. */
export const DAMAGES = {
  /** No index items at all. */
  "no-index": ({ key }: BuildItem) => key.zone !== ZONE_INODE_INDEX,
  /** No link backrefs at all. */
  "no-backrefs": ({ key }: BuildItem) => key.zone !== ZONE_FS || key.type !== TYPE_LINK_BACKREF,
  /** Every tenth file has no name. */
  "nameless": ({ key, val }: BuildItem) =>
    key.zone !== ZONE_FS || key.type < TYPE_DIRENT || key.type > TYPE_LINK_BACKREF ||
    Dirent.at(val).type !== 4 || Dirent.at(val).ino % 10 !== 0,
  /** Every hundredth file says that it has more names. */
  "wrong-nlink": ({ key, val }: BuildItem) => {
    if (key.zone !== ZONE_FS || key.type !== TYPE_INODE) return true;
    const inode = Inode.at(val);
    if (inode.mode === FILE_MODE && key.first % 100 === 7) inode.nlink = 5;
    return true;
  },
} as const;
export type Damage = keyof typeof DAMAGES;

function* spoiled(
  items: Iterable<BuildItem>,
  keeps: (item: BuildItem) => boolean,
): Generator<BuildItem> {
  for (const item of items) if (keeps(item)) yield item;
}

/** Writes a volume of `inodes` inodes (the root, directories and files). */
export function generate(
  meta: Device,
  data: Device,
  inodes: number,
  damage?: Damage,
): VolumeBuilder {
  const { metaBlocks, dataBlocks } = generatedSize(inodes);
  const b = new VolumeBuilder(meta, data, { fsid: 0x7357_0000_0000_0000n, metaBlocks, dataBlocks });
  const population = new Population(inodes);
  const items = population.items();
  b.super.fsRoot.copyFrom(b.tree(damage === undefined ? items : spoiled(items, DAMAGES[damage])));
  b.super.seq = population.seqOf(FIRST_INO + inodes) + 1;
  b.super.nextIno = FIRST_INO + inodes;
  b.super.inodeCount = inodes;
  const start = FIRST_DATA + FILE_BLOCKS * population.files;
  b.finish([{ start, len: dataBlocks - start }]);
  return b;
}

interface Name {
  readonly bytes: Uint8Array;
  readonly hash: Words;
  readonly pos: number;
  readonly ino: number;
}

class Population {
  readonly dirs: number;
  readonly files: number;
  readonly #utf8 = new TextEncoder();

  constructor(readonly inodes: number) {
    this.dirs = Math.ceil((inodes - 1) / (FILES_PER_DIR + 1));
    this.files = inodes - 1 - this.dirs;
  }

  seqOf(ino: number): number {
    return 10 + Math.floor(ino / 100);
  }

  #isDir(index: number): boolean {
    return index % (FILES_PER_DIR + 1) === 0;
  }

  *items(): Generator<BuildItem> {
    const last = this.inodes - 1;
    yield { key: metaSeqKey(this.seqOf(1), 1), val: NONE };
    for (let i = 0; i < last; i++) {
      const ino = FIRST_INO + i;
      yield { key: metaSeqKey(this.seqOf(ino), ino), val: NONE };
    }
    for (let i = 0; i < last; i++) {
      const ino = FIRST_INO + i;
      if (!this.#isDir(i)) yield { key: dataSeqKey(this.seqOf(ino), ino), val: NONE };
    }
    const dirs = Array.from(
      { length: this.dirs },
      (_, d) => this.#name(`directory-${d}`, 2 + d, FIRST_INO + d * (FILES_PER_DIR + 1)),
    );
    yield* this.#directory(1, dirs, DIR_MODE, null);
    let file = 0;
    for (const [d, dir] of dirs.entries()) {
      const first = d * (FILES_PER_DIR + 1) + 1;
      const nr = Math.min(FILES_PER_DIR, last - first);
      const names = Array.from(
        { length: nr },
        (_, f) => this.#name(`data-file-${d}-${f}.bin`, 2 + f, FIRST_INO + first + f),
      );
      yield* this.#directory(dir.ino, names, FILE_MODE, dir);
      for (const name of names) yield* this.#file(name, dir.ino, file++);
    }
  }

  #name(text: string, pos: number, ino: number): Name {
    const bytes = this.#utf8.encode(text);
    return { bytes, hash: direntHash(bytes), pos, ino };
  }

  #entry(n: Name, mode: number): Uint8Array {
    const val = new Uint8Array(Dirent.SIZE + n.bytes.length);
    const d = Dirent.at(val);
    d.ino = n.ino;
    d.hashHi = n.hash.hi;
    d.hashLo = n.hash.lo;
    d.pos = n.pos;
    d.type = mode === DIR_MODE ? 2 : 4;
    val.set(n.bytes, Dirent.SIZE);
    return val;
  }

  *#directory(ino: number, names: Name[], mode: number, self: Name | null): Generator<BuildItem> {
    const inode = Inode.alloc();
    inode.size = names.reduce((sum, n) => sum + n.bytes.length, 0);
    inode.metaSeq = this.seqOf(ino);
    inode.nextReaddirPos = 2 + names.length;
    inode.nlink = mode === DIR_MODE ? 2 + names.length : 2;
    inode.mode = DIR_MODE;
    yield { key: inodeKey(ino), val: inode.bytes };
    const byHash = [...names].sort((a, b) => a.hash.hi - b.hash.hi || a.hash.lo - b.hash.lo);
    const entries = new Map(names.map((n) => [n.pos, this.#entry(n, mode)]));
    for (const n of byHash) yield { key: direntKey(ino, n.hash, n.pos), val: entries.get(n.pos)! };
    for (const n of names) yield { key: readdirKey(ino, n.pos), val: entries.get(n.pos)! };
    if (self !== null) {
      yield { key: backrefKey(ino, 1, self.pos), val: this.#entry(self, DIR_MODE) };
    }
  }

  *#file(name: Name, dir: number, index: number): Generator<BuildItem> {
    const { ino } = name, hasAttr = index % 10 === 0;
    const inode = Inode.alloc();
    inode.size = FILE_BLOCKS * SM_SIZE;
    inode.metaSeq = inode.dataSeq = this.seqOf(ino);
    inode.dataVersion = 1;
    inode.onlineBlocks = FILE_BLOCKS;
    inode.nextReaddirPos = 2;
    inode.nextXattrId = hasAttr ? 1 : 0;
    inode.nlink = 1;
    inode.mode = FILE_MODE;
    yield { key: inodeKey(ino), val: inode.bytes };
    if (hasAttr) yield this.#attr(ino);
    yield { key: backrefKey(ino, dir, name.pos), val: this.#entry(name, FILE_MODE) };
    const extent = DataExtentVal.alloc();
    extent.blkno = FIRST_DATA + FILE_BLOCKS * index;
    yield { key: extentKey(ino, FILE_BLOCKS - 1, FILE_BLOCKS), val: extent.bytes };
  }

  #attr(ino: number): BuildItem {
    const name = this.#utf8.encode("user.checksum"), value = this.#utf8.encode(`sum of ${ino}`);
    const val = new Uint8Array(Xattr.SIZE + name.length + value.length);
    if (val.length > XATTR_PART_SIZE) throw new Error("one part is enough");
    const x = Xattr.at(val);
    x.nameLen = name.length;
    x.valLen = value.length;
    val.set(name, Xattr.SIZE);
    val.set(value, Xattr.SIZE + name.length);
    return { key: xattrKey(ino, xattrNameHash(name), 0, 0), val };
  }
}

function open(path: string, bytes: number): BlockDevice {
  Deno.createSync(path).close();
  Deno.truncateSync(path, bytes);
  return openDevice(path, { write: true, exclusive: true });
}

if (import.meta.main) {
  const [count, metaPath, dataPath, name] = Deno.args;
  const inodes = Number(count), shape = SHAPES.find((s) => s === name);
  const damage = (Object.keys(DAMAGES) as Damage[]).find((d) => d === name);
  const known = name === undefined || shape !== undefined || damage !== undefined;
  if (!(inodes > 1) || metaPath === undefined || dataPath === undefined || !known) {
    const names = [...SHAPES, ...Object.keys(DAMAGES)].join(" | ");
    console.error(`usage: generate.ts INODES META-FILE DATA-FILE [${names}]`);
    Deno.exit(64);
  }
  const { metaBlocks, dataBlocks } = shape === undefined
    ? generatedSize(inodes)
    : shapeSize(shape, inodes);
  await useFastCrc32c();
  const meta = open(metaPath, metaBlocks * LG_SIZE), data = open(dataPath, dataBlocks * SM_SIZE);
  const t0 = performance.now();
  const { written } = shape === undefined
    ? generate(meta, data, inodes, damage)
    : generateShape(meta, data, shape, inodes);
  meta.flush();
  const seconds = (performance.now() - t0) / 1000;
  console.log(`${inodes} ${name ?? "inodes"}, ${written} blocks in ${seconds.toFixed(1)} s`);
  meta.close();
  data.close();
}
