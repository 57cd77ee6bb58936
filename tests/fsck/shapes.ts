/**
 * Volumes that are hard to check in one way each: a directory of a million entries, an inode of a
 * million names, a file of a million extents, hundreds of attributes an inode, a chain of directories,
 * orphans only, most items in log trees that lie over one another, data blocks that nobody or two
 * files own, extents in no order. Each is a stream of inodes in ascending order, of any number.
 */

import {
  DIRENT_FIRST_POS,
  ITEM_FLAG_DELETION,
  LOG_TREES_FINALIZED,
  ROOT_INO,
  SM_SIZE,
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
  orphanKey,
  readdirKey,
  Xattr,
  xattrKey,
} from "../../format/items.ts";
import { LogTrees, logTreesKey } from "../../format/log_trees.ts";
import type { Device } from "../../fs/device.ts";
import { assert } from "../../fs/errors.ts";
import { type BuildItem, type Run, VolumeBuilder } from "./volume_builder.ts";

export const SHAPES = [
  "one-directory",
  "hard-links",
  "extents",
  "attributes",
  "chain",
  "orphans",
  "log-trees",
  "scattered",
  "leaks",
  "claimed-twice",
] as const;
export type Shape = typeof SHAPES[number];

const FIRST_INO = 1024;
const FIRST_DATA = 64;
const DIR_MODE = 0o40755;
const FILE_MODE = 0o100644;
const NONE = new Uint8Array(0);
const FILES_PER_DIR = 1000;
/** Log trees of "log-trees". */
const LOG_TREES = 24;
const ATTRIBUTES = 300;
/** Data blocks between two extents of "leaks", the first of which is used. */
const LEAK_STRIDE = 3;

interface Name {
  readonly bytes: Uint8Array;
  readonly hash: Words;
  readonly pos: number;
  readonly ino: number;
  readonly mode: number;
}

/** One inode with what belongs to it. */
interface Node {
  readonly ino: number;
  readonly mode: number;
  /** Its names, as its link backrefs tell them. */
  readonly links: readonly { readonly dir: number; readonly name: Name }[];
  /** Entries, of a directory. */
  readonly entries?: () => Name[];
  /** Data blocks of its extents of one block each, of a file; every second block is a hole. */
  readonly extents?: () => Iterable<number>;
  readonly attributes?: number;
}

const utf8 = new TextEncoder();

function nameOf(text: string, pos: number, ino: number, mode: number): Name {
  const bytes = utf8.encode(text);
  return { bytes, hash: direntHash(bytes), pos, ino, mode };
}

/** Sizes of the devices for a shape of `count`. */
export function shapeSize(shape: Shape, count: number): { metaBlocks: number; dataBlocks: number } {
  const perBlock = { "attributes": 1.5, "chain": 40, "hard-links": 100, "extents": 400 };
  const per = (perBlock as Partial<Record<Shape, number>>)[shape] ?? 45;
  return {
    metaBlocks: 2200 + Math.ceil(count / per),
    dataBlocks: FIRST_DATA + LEAK_STRIDE * count + 100_000,
  };
}

/** Writes a volume of that shape, of about `count` of what it is about. */
export function generateShape(
  meta: Device,
  data: Device,
  shape: Shape,
  count: number,
): VolumeBuilder {
  const sizes = shapeSize(shape, count);
  const b = new VolumeBuilder(meta, data, { fsid: 0x7357_0000_0000_0001n, ...sizes });
  const nodes = new Nodes(shape, count);
  const sb = b.super;
  sb.seq = seqOf(nodes.nextIno) + 1000;
  sb.nextIno = nodes.nextIno;
  if (shape === "log-trees") logTrees(b, nodes);
  else sb.fsRoot.copyFrom(b.tree(items(nodes)));
  sb.inodeCount = nodes.inodes;
  b.finish(nodes.freeData(sizes.dataBlocks));
  return b;
}

class Nodes {
  inodes = 0;
  readonly nextIno: number;

  constructor(readonly shape: Shape, readonly count: number) {
    this.nextIno = FIRST_INO + 2 * count + 10;
  }

  freeData(total: number): Run[] {
    const { shape, count } = this;
    const used = shape === "claimed-twice"
      ? Math.ceil(count / 2)
      : shape === "leaks"
      ? LEAK_STRIDE * count
      : shape === "extents" || shape === "scattered"
      ? this.#modulus
      : 0;
    return [{ start: FIRST_DATA + used, len: total - FIRST_DATA - used }];
  }

  /** The least number from the count on by which a step around a circle meets all places. */
  get #modulus(): number {
    let n = this.count;
    while (n % 7919 === 0) n++;
    return n;
  }

  #data(index: number): number {
    switch (this.shape) {
      case "claimed-twice":
        return FIRST_DATA + (index >> 1);
      case "leaks":
        return FIRST_DATA + LEAK_STRIDE * index;
      default:
        return FIRST_DATA + index * 7919 % this.#modulus;
    }
  }

  /** All inodes in ascending order, the root first. */
  *all(): Generator<Node> {
    this.inodes = 0;
    for (const node of this.#shaped()) {
      this.inodes++;
      yield node;
    }
  }

  *#shaped(): Generator<Node> {
    const { count } = this, dir = FIRST_INO;
    const inDir = nameOf("directory", 2, dir, DIR_MODE);
    const root = (names: Name[]): Node => ({
      ino: ROOT_INO,
      mode: DIR_MODE,
      links: [],
      entries: () => names,
    });
    const file = (i: number) => nameOf(`file-${i}.data`, 2 + i, dir + 1 + i, FILE_MODE);
    const directory = (entries: () => Name[]): Node => ({
      ino: dir,
      mode: DIR_MODE,
      links: [{ dir: ROOT_INO, name: inDir }],
      entries,
    });
    const many = (n: number, name: (i: number) => Name) => () =>
      Array.from({ length: n }, (_, i) => name(i));
    switch (this.shape) {
      case "one-directory":
        yield root([inDir]);
        yield directory(many(count, file));
        for (let i = 0; i < count; i++) {
          yield { ino: dir + 1 + i, mode: FILE_MODE, links: [{ dir, name: file(i) }] };
        }
        return;
      case "hard-links": {
        const name = (i: number) => nameOf(`name-${i}`, 2 + i, dir + 1, FILE_MODE);
        yield root([inDir]);
        yield directory(many(count, name));
        const links = many(count, name)().map((n) => ({ dir, name: n }));
        yield { ino: dir + 1, mode: FILE_MODE, links };
        return;
      }
      case "extents": {
        const name = file(0), at = (i: number) => this.#data(i);
        yield root([inDir]);
        yield directory(() => [name]);
        const extents = function* () {
          for (let i = 0; i < count; i++) yield at(i);
        };
        yield { ino: name.ino, mode: FILE_MODE, links: [{ dir, name }], extents };
        return;
      }
      case "chain":
        yield root([inDir]);
        for (let i = 0; i < count; i++) {
          const own = i === 0 ? inDir : nameOf("deeper", 2, dir + i, DIR_MODE);
          const child = nameOf("deeper", 2, dir + i + 1, DIR_MODE);
          yield {
            ino: dir + i,
            mode: DIR_MODE,
            links: [{ dir: i === 0 ? ROOT_INO : dir + i - 1, name: own }],
            entries: () => i === count - 1 ? [] : [child],
          };
        }
        return;
      case "orphans":
        yield root([]);
        for (let i = 0; i < count; i++) yield { ino: dir + 1 + i, mode: FILE_MODE, links: [] };
        return;
      default:
        yield* this.#directories();
    }
  }

  /** Directories of a thousand files each. */
  *#directories(): Generator<Node> {
    const { count, shape } = this, dirs = Math.ceil(count / FILES_PER_DIR);
    const inoOf = (d: number) => FIRST_INO + d * (FILES_PER_DIR + 1);
    const dirName = (d: number) => nameOf(`directory-${d}`, 2 + d, inoOf(d), DIR_MODE);
    const names = Array.from({ length: dirs }, (_, d) => dirName(d));
    yield { ino: ROOT_INO, mode: DIR_MODE, links: [], entries: () => names };
    for (const [d, name] of names.entries()) {
      const first = d * FILES_PER_DIR, nr = Math.min(FILES_PER_DIR, count - first);
      const file = (f: number) => nameOf(`file-${d}-${f}`, 2 + f, name.ino + 1 + f, FILE_MODE);
      const files = Array.from({ length: nr }, (_, f) => file(f));
      const links = [{ dir: ROOT_INO, name }];
      yield { ino: name.ino, mode: DIR_MODE, links, entries: () => files };
      for (const [f, own] of files.entries()) {
        yield {
          ino: own.ino,
          mode: FILE_MODE,
          links: [{ dir: name.ino, name: own }],
          ...(shape === "attributes" ? { attributes: ATTRIBUTES } : {}),
          ...(shape === "attributes" || shape === "log-trees"
            ? {}
            : { extents: () => [this.#data(first + f)] }),
        };
      }
    }
  }
}

/** All items of a volume in key order. */
function* items(nodes: Nodes): Generator<BuildItem> {
  for (const { ino } of nodes.all()) yield { key: metaSeqKey(seqOf(ino), ino), val: NONE };
  for (const { ino, mode } of nodes.all()) {
    if (mode === FILE_MODE) yield { key: dataSeqKey(seqOf(ino), ino), val: NONE };
  }
  for (const { ino, links } of nodes.all()) {
    if (links.length === 0 && ino !== ROOT_INO) yield { key: orphanKey(ino), val: NONE };
  }
  for (const node of nodes.all()) yield* nodeItems(node);
}

/** Ascends with inode numbers, so that index items come in the same order. */
const seqOf = (ino: number): number => 10 + Math.floor(ino / 100);

function* nodeItems(node: Node): Generator<BuildItem> {
  const { ino, mode, links } = node;
  const entries = node.entries?.() ?? [], blocks = node.extents === undefined ? [] : node.extents();
  const data = [...blocks], attributes = node.attributes ?? 0;
  const inode = Inode.alloc();
  const subdirs = entries.filter((e) => e.mode === DIR_MODE).length;
  inode.mode = mode;
  inode.metaSeq = seqOf(ino);
  if (mode === FILE_MODE) inode.dataSeq = seqOf(ino);
  inode.nlink = mode === DIR_MODE ? 2 + subdirs : links.length;
  inode.size = mode === DIR_MODE
    ? entries.reduce((sum, e) => sum + e.bytes.length, 0)
    : 2 * data.length * SM_SIZE;
  inode.onlineBlocks = data.length;
  inode.nextReaddirPos = entries.reduce((next, e) => Math.max(next, e.pos + 1), DIRENT_FIRST_POS);
  inode.nextXattrId = attributes;
  yield { key: inodeKey(ino), val: inode.bytes };
  yield* attributeItems(ino, attributes);
  const byHash = [...entries].sort((a, b) =>
    a.hash.hi - b.hash.hi || a.hash.lo - b.hash.lo || a.pos - b.pos
  );
  for (const e of byHash) yield { key: direntKey(ino, e.hash, e.pos), val: entryValue(e) };
  for (const e of entries) yield { key: readdirKey(ino, e.pos), val: entryValue(e) };
  for (const { dir, name } of links) {
    yield { key: backrefKey(ino, dir, name.pos), val: entryValue(name) };
  }
  for (const [i, blkno] of data.entries()) {
    const extent = DataExtentVal.alloc();
    extent.blkno = blkno;
    yield { key: extentKey(ino, 2 * i, 1), val: extent.bytes };
  }
}

function* attributeItems(ino: number, count: number): Generator<BuildItem> {
  const all = Array.from({ length: count }, (_, id) => {
    const name = utf8.encode(`user.attribute-${id}`);
    return { id, name, hash: xattrNameHash(name) };
  });
  for (const { id, name, hash } of all.sort((a, b) => a.hash - b.hash || a.id - b.id)) {
    const value = utf8.encode(`value ${id} of ${ino}`);
    const val = new Uint8Array(Xattr.SIZE + name.length + value.length);
    const x = Xattr.at(val);
    x.nameLen = name.length;
    x.valLen = value.length;
    val.set(name, Xattr.SIZE);
    val.set(value, Xattr.SIZE + name.length);
    yield { key: xattrKey(ino, hash, id, 0), val };
  }
}

function entryValue(n: Name): Uint8Array {
  const val = new Uint8Array(Dirent.SIZE + n.bytes.length);
  const d = Dirent.at(val);
  d.ino = n.ino;
  d.hashHi = n.hash.hi;
  d.hashLo = n.hash.lo;
  d.pos = n.pos;
  d.type = n.mode === DIR_MODE ? 2 : 4;
  val.set(n.bytes, Dirent.SIZE);
  return val;
}

/**
 * Finalized log trees over one another: of every item one of them has the newest version, by turns,
 * and fs_root, or another one, an older one.
 */
function logTrees(b: VolumeBuilder, nodes: Nodes): void {
  const sb = b.super, list: BuildItem[] = [], base = sb.seq - 900;
  const part = function* (tree: number): Generator<BuildItem> {
    let i = 0;
    for (const item of items(nodes)) {
      const turn = i++ % LOG_TREES;
      if (turn === tree) yield { ...item, seq: base + tree };
      else if (turn === (tree + 5) % LOG_TREES && turn < 3) {
        yield { key: item.key, val: NONE, seq: 10, flags: ITEM_FLAG_DELETION };
      }
    }
  };
  sb.fsRoot.copyFrom(b.tree(
    (function* () {
      let i = 0;
      for (const item of items(nodes)) if (i++ % LOG_TREES < 6) yield { ...item, seq: 5 };
    })(),
  ));
  for (let tree = 0; tree < LOG_TREES; tree++) {
    const lt = LogTrees.alloc();
    lt.itemRoot.copyFrom(b.tree(part(tree)));
    lt.bloomRef.copyFrom(b.bloom(part(tree)));
    lt.maxItemSeq = base + 100;
    lt.getTransSeq = lt.commitTransSeq = base + 100;
    lt.finalizeSeq = base + 200 + tree;
    lt.rid = BigInt(1000 + tree);
    lt.nr = 1;
    lt.flags = LOG_TREES_FINALIZED;
    list.push({ key: logTreesKey(lt.rid, 1), val: lt.bytes, seq: 0 });
  }
  assert(list.length === LOG_TREES, "a log tree is missing");
  sb.logsRoot.copyFrom(b.tree(list));
}
