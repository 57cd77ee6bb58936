/**
 * What a repair must keep: the files that the damage did not touch are what they were, with names,
 * attributes and contents.
 *
 * The damage is looked at before anything is mended. An inode is touched when one of its items lies
 * in a leaf that was damaged; of leaves with the right checksum and a sound shape only the items that
 * changed count. Damaged parents and roots touch nothing: what was below them is found, as long as the
 * free blocks are known; the same holds for everything that is derived. A leaf whose reference is gone
 * without a trace is found because it leaked, which it did not where a merge's trees name it as well:
 * then its inodes are touched. Where more was damaged than that nothing is demanded.
 *
 * Entries that lead to a touched inode may be gone, and names in a touched directory may be others;
 * what they lead to must be there with all its contents, under whatever name.
 */

import { Buffer } from "node:buffer";
import {
  blockLevel,
  firstItem,
  itemFlags,
  itemKey,
  itemVal,
  itemValOff,
  nextItem,
  nrItems,
} from "../../format/btree_block.ts";
import { checkBtreeShape } from "../../format/btree_verify.ts";
import {
  BTREE_HEADER_BYTES,
  BTREE_ITEM_BYTES,
  LG_SIZE,
  MAGIC_BLOOM,
  SEF_OFFLINE,
  SM_SIZE,
  SUPER_BLKNO,
  TYPE_DATA_EXTENT,
  TYPE_INODE,
  TYPE_LINK_BACKREF,
  TYPE_SYMLINK,
  TYPE_XATTR,
  ZONE_FS,
} from "../../format/constants.ts";
import { blockCrcOk } from "../../format/crc32c.ts";
import { DataExtentVal, Dirent, Inode } from "../../format/items.ts";
import { Key } from "../../format/key.ts";
import { SuperBlock } from "../../format/super.ts";
import { rawU64 } from "../../fs/check/raw.ts";
import type { Device } from "../../fs/device.ts";
import { VolumeReader } from "../../fs/reader.ts";
import { openVolume } from "../../fs/volume.ts";
import { SeededRandom } from "../helpers/sim_reactor.ts";
import { blocksOfMerge, treeBlocks } from "./damage.ts";
import type { FuzzDevice, Image } from "./fuzz_device.ts";

const S_IFMT = 0o170000;
const S_IFDIR = 0o040000;
const FIXED = Math.floor(SUPER_BLKNO * SM_SIZE / LG_SIZE);
const MAX_ITEMS = Math.floor((LG_SIZE - BTREE_HEADER_BYTES) / BTREE_ITEM_BYTES);

interface Extent {
  readonly end: number;
  readonly len: number;
  readonly blkno: number;
  readonly flags: number;
}

interface FileState {
  inode: Inode;
  /** Values of attributes and targets, by key. */
  readonly items: Map<string, string>;
  readonly extents: Extent[];
  /** `DIR/NAME`, the name as latin1. */
  readonly names: Set<string>;
}

/** Which inodes some damage touched; null for all of them. */
export type Hit = ReadonlySet<number> | null;

interface Node {
  readonly tree: string;
  readonly level: number;
}

const latin1 = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("latin1");

/** All inodes of a volume, as readers see them. Throws what reading throws. */
function filesOf(meta: Device, data: Device): Map<number, FileState> {
  const volume = openVolume(meta, data);
  const reader = new VolumeReader(volume, new SeededRandom(1));
  const files = new Map<number, FileState>();
  let state: FileState | null = null, ino = -1;
  for (const { key, val } of reader.items(Key.of(ZONE_FS, 0, 0))) {
    if (key.zone !== ZONE_FS) continue;
    if (key.first !== ino) {
      ino = key.first;
      state = null;
    }
    if (key.type === TYPE_INODE) {
      const inode = Inode.read(val, volume.fmtVers);
      state = { inode, items: new Map(), extents: [], names: new Set() };
      files.set(ino, state);
    }
    switch (state === null ? -1 : key.type) {
      case TYPE_XATTR:
      case TYPE_SYMLINK:
        state?.items.set(key.toString(), latin1(val));
        break;
      case TYPE_DATA_EXTENT: {
        const { blkno, flags } = DataExtentVal.at(val);
        state?.extents.push({ end: key.second, len: key.third, blkno, flags });
        break;
      }
      case TYPE_LINK_BACKREF:
        state?.names.add(`${key.second}/${latin1(val.subarray(Dirent.SIZE))}`);
        break;
    }
  }
  return files;
}

export class Keeper {
  readonly #files: ReadonlyMap<number, FileState>;
  readonly #nodes = new Map<number, Node>();
  readonly #ofMerge: ReadonlySet<number>;

  /** `image` holds the undamaged metadata device, as `meta` does; `dataImage` and `data` likewise. */
  constructor(
    private readonly image: Image,
    private readonly dataImage: Image,
    meta: Device,
    data: Device,
  ) {
    this.#files = filesOf(meta, data);
    this.#ofMerge = blocksOfMerge(meta);
    for (const { tree, level, blkno } of treeBlocks(meta)) this.#nodes.set(blkno, { tree, level });
  }

  /** What the damage touched. To be asked before anything is mended. */
  hit(meta: FuzzDevice): Hit {
    const inos = new Set<number>();
    let parents = 0, others = 0;
    for (const blkno of new Set([...meta.changed, ...meta.unreadable])) {
      const unreadable = meta.unreadable.includes(blkno);
      const before = this.image.block(blkno), now = meta.block(blkno);
      if (!unreadable && Buffer.compare(before, now) === 0) continue;
      const node = this.#nodes.get(blkno);
      if (blkno === FIXED) {
        if (unreadable || !sameRoots(before, now)) return null;
        others++;
      } else if (node === undefined || !isItems(node.tree)) {
        if (node?.tree === "logs_root") parents++;
        if (hidesFreeBlocks(node?.tree, before)) others++;
      } else if (node.level > 0) {
        parents++;
        for (const child of this.#ofMerge) {
          if (refersTo(before, child) && !refersTo(now, child)) {
            addAll(inos, this.image.block(child));
          }
        }
      } else if (unreadable) addAll(inos, before);
      else addChanged(inos, before, now, blkno);
    }
    return parents > 0 && others > 0 ? null : inos;
  }

  /** What differs of the files that were not touched, a line each. */
  lost(meta: FuzzDevice, data: FuzzDevice, hit: ReadonlySet<number>): string[] {
    const now = filesOf(meta, data), lines: string[] = [];
    const changed = new Set(data.changed);
    for (const [ino, was] of this.#files) {
      if (hit.has(ino) || was.inode.nlink === 0) continue;
      const is = now.get(ino);
      if (is === undefined) {
        lines.push(`inode ${ino} is gone`);
        continue;
      }
      for (const field of differing(was.inode, is.inode)) {
        lines.push(`inode ${ino}: another ${field}`);
      }
      for (const key of new Set([...was.items.keys(), ...is.items.keys()])) {
        if (was.items.get(key) !== is.items.get(key)) {
          lines.push(`inode ${ino}: another item ${key}`);
        }
      }
      if (!this.#sameContents(was, is, data, changed)) lines.push(`inode ${ino}: other contents`);
      lines.push(...names(ino, was, is, hit));
    }
    return lines;
  }

  #sameContents(
    was: FileState,
    is: FileState,
    data: FuzzDevice,
    changed: ReadonlySet<number>,
  ): boolean {
    // What is copied may be in other pieces than it was.
    const before = blocksOf(was), now = blocksOf(is);
    if (before.size !== now.size) return false;
    for (const [iblock, { blkno, flags }] of before) {
      const other = now.get(iblock);
      if (other === undefined || other.flags !== flags) return false;
      if (blkno === 0 || (flags & SEF_OFFLINE) !== 0) continue;
      if (other.blkno === blkno && !changed.has(Math.floor(blkno * SM_SIZE / LG_SIZE))) continue;
      const a = small(this.dataImage, blkno), b = small(data, other.blkno);
      if (Buffer.compare(a, b) !== 0) return false;
    }
    return true;
  }
}

/** Whether damage of a block that holds no items may hide which metadata blocks are free. */
const hidesFreeBlocks = (tree: string | undefined, block: Uint8Array): boolean =>
  tree === undefined
    ? viewed(block).v.getUint32(4, true) !== MAGIC_BLOOM
    : !/^(mounted_clients|data_alloc|(open|finalized) data_(avail|freed))$/.test(tree);

/** Whether two super blocks lead to the same trees of items, and are the same volume's. */
function sameRoots(before: Uint8Array, now: Uint8Array): boolean {
  const at = SUPER_BLKNO * SM_SIZE % LG_SIZE;
  const [a, b] = [before, now].map((block) => SuperBlock.at(block.subarray(at, at + SM_SIZE)));
  const parts = (sb: SuperBlock) => [
    sb.hdr.bytes.subarray(4),
    sb.fsRoot.bytes,
    sb.logsRoot.bytes,
    sb.logMerge.bytes,
  ];
  const was = parts(a as SuperBlock), is = parts(b as SuperBlock);
  return was.every((part, i) => Buffer.compare(part, is[i] as Uint8Array) === 0);
}

const isItems = (tree: string): boolean => /^(fs_root|(open|finalized) log tree)$/.test(tree);

/** A block of 4 KiB. */
function small(dev: { block(index: number): Uint8Array }, blkno: number): Uint8Array {
  const off = blkno * SM_SIZE, at = off % LG_SIZE;
  return dev.block(Math.floor(off / LG_SIZE)).subarray(at, at + SM_SIZE);
}

function blocksOf({ extents }: FileState): Map<number, { blkno: number; flags: number }> {
  const blocks = new Map<number, { blkno: number; flags: number }>();
  for (const { end, len, blkno, flags } of extents) {
    for (let i = 0; i < len; i++) {
      const mapped = blkno === 0 ? 0 : blkno + i;
      blocks.set(end - len + 1 + i, { blkno: mapped, flags });
    }
  }
  return blocks;
}

function addAll(inos: Set<number>, block: Uint8Array): void {
  const b = viewed(block), most = Math.min(nrItems(b), MAX_ITEMS);
  for (let i = 0; i < most; i++) {
    const key = itemKey(b, BTREE_HEADER_BYTES + BTREE_ITEM_BYTES * i);
    if (key.zone === ZONE_FS) inos.add(Number(key.firstBig));
  }
}

/** Whether a parent has a reference to a block. */
function refersTo(block: Uint8Array, blkno: number): boolean {
  const b = viewed(block);
  if (checkBtreeShape(b) !== null) return false;
  for (let item = firstItem(b); item !== 0; item = nextItem(b, item)) {
    if (rawU64(b.v, itemValOff(b, item)) === blkno) return true;
  }
  return false;
}

/** The inodes whose items are not the same in two versions of a leaf. */
function addChanged(inos: Set<number>, before: Uint8Array, now: Uint8Array, blkno: number): void {
  const b = viewed(now);
  const header = Buffer.compare(before.subarray(4, 32), now.subarray(4, 32)) === 0;
  if (header && blockCrcOk(now) && blockLevel(b) === 0 && checkBtreeShape(b) === null) {
    const was = itemsOf(viewed(before)), is = itemsOf(b);
    for (const name of new Set([...was.keys(), ...is.keys()])) {
      if (was.get(name) !== is.get(name)) inos.add(Number(name.split(".")[1]));
    }
    return;
  }
  addAll(inos, before);
  // Items that damage has given to others can be believed.
  if (rawU64(b.v, 24) === blkno) addAll(inos, now);
}

function itemsOf(b: { buf: Uint8Array; v: DataView }): Map<string, string> {
  const items = new Map<string, string>();
  for (let item = firstItem(b); item !== 0; item = nextItem(b, item)) {
    const key = itemKey(b, item);
    if (key.zone !== ZONE_FS) continue;
    items.set(
      key.toString(),
      `${rawU64(b.v, item + 40)} ${itemFlags(b, item)} ${latin1(itemVal(b, item))}`,
    );
  }
  return items;
}

const viewed = (buf: Uint8Array) => ({
  buf,
  v: new DataView(buf.buffer, buf.byteOffset, buf.length),
});

/** Fields of an inode that a repair must not change. */
function differing(was: Inode, is: Inode): string[] {
  const isDir = (was.mode & S_IFMT) === S_IFDIR;
  const fields: [string, unknown, unknown][] = [
    ["mode", was.mode, is.mode],
    ["uid", was.uid, is.uid],
    ["gid", was.gid, is.gid],
    ["proj", was.proj, is.proj],
    ["rdev", was.rdev, is.rdev],
    ["flags", was.flags, is.flags],
    ["data_version", was.dataVersion, is.dataVersion],
    ["data_seq", was.dataSeq, is.dataSeq],
    ["online_blocks", was.onlineBlocks, is.onlineBlocks],
    ["offline_blocks", was.offlineBlocks, is.offlineBlocks],
    ...(["atime", "ctime", "mtime", "crtime"] as const).map((
      t,
    ): [string, unknown, unknown] => [
      t,
      `${was[t].sec}.${was[t].nsec}`,
      `${is[t].sec}.${is[t].nsec}`,
    ]),
  ];
  // A directory's size counts its entries, some of which may have had to go.
  if (!isDir) fields.push(["size", was.sizeBig, is.sizeBig]);
  return fields.filter(([, a, b]) => a !== b).map(([name]) => name);
}

/** Names that are missing, or more than there were. */
function names(ino: number, was: FileState, is: FileState, hit: ReadonlySet<number>): string[] {
  const lines: string[] = [];
  const dirOf = (name: string) => Number(name.slice(0, name.indexOf("/")));
  const missing = [...was.names].filter((name) => !is.names.has(name));
  for (const name of missing) {
    if (!hit.has(dirOf(name))) lines.push(`inode ${ino} is not ${name} any more`);
  }
  if (is.names.size === 0 && was.names.size > 0) lines.push(`inode ${ino} has no name`);
  if (missing.length > 0) return lines;
  for (const name of is.names) {
    if (!was.names.has(name) && !hit.has(dirOf(name))) lines.push(`inode ${ino} is also ${name}`);
  }
  return lines;
}
