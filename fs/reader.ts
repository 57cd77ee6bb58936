/**
 * A volume opened for reading without a mount: its namespace, file data, xattrs and items, as the
 * super block of the moment of opening describes them. Nothing is ever written. Of a volume that is
 * mounted somewhere this sees the last committed state, and a block that is reused meanwhile shows
 * as a StaleError.
 */

import {
  SEF_OFFLINE,
  SEF_UNWRITTEN,
  SM_SIZE,
  TYPE_DATA_EXTENT,
  TYPE_INODE_INDEX_DATA_SEQ,
  TYPE_INODE_INDEX_META_SEQ,
  TYPE_XATTR,
  ZONE_INODE_INDEX,
  ZONE_XATTR_TOTL,
} from "../format/constants.ts";
import { ENOENT, ENOTDIR } from "../format/errno.ts";
import { direntHash, xattrNameHash } from "../format/hash.ts";
import {
  backrefKey,
  DataExtentVal,
  Dirent,
  direntKey,
  extentSearchKey,
  Inode,
  inodeKey,
  lastInodeKey,
  readdirKey,
  symlinkKey,
  Xattr,
  xattrKey,
  XattrTotlVal,
} from "../format/items.ts";
import { bytesEqual } from "../format/bytes.ts";
import { Key } from "../format/key.ts";
import { BlockCache } from "./block_cache.ts";
import type { TreeItem } from "./btree.ts";
import { asCorrupt, CorruptError, FsError } from "./errors.ts";
import type { Random } from "./env.ts";
import { inodeCount } from "./forest.ts";
import { ItemTrees } from "./resolve.ts";
import type { Volume } from "./volume.ts";

/** A directory entry. */
export interface DirEntry {
  name: Uint8Array;
  ino: number;
  /** Stable position in the directory; entries come in this order. */
  pos: number;
  /** 01 §15.3: 0 FIFO, 1 character device, 2 directory, 3 block device, 4 file, 5 symlink, 6 socket. */
  type: number;
}

/** A run of a file's blocks (4096 bytes each). */
export interface FileExtent {
  /** First logical block and number of blocks. */
  start: number;
  length: number;
  /** First block on the data device, 0 if none. */
  blkno: number;
  offline: boolean;
  unwritten: boolean;
}

/** A position of an inode index. */
export interface IndexEntry {
  seq: number;
  ino: number;
}

const U64_MAX = 0xffff_ffff_ffff_ffffn;

/** What is read of a file at a time, in blocks of 4 KiB. */
const PIECE_BLOCKS = 256;

export class VolumeReader {
  readonly #cache: BlockCache;
  readonly #trees: ItemTrees;

  /** `random` seeds nothing that is written; the block cache wants a source. */
  constructor(readonly volume: Volume, random: Random) {
    this.#cache = new BlockCache(volume.meta, volume.fsid, { random });
    this.#trees = new ItemTrees(this.#cache, volume.superBlock);
  }

  /** All inodes, as the super block and the log trees count them. */
  get inodeCount(): number {
    const { inodeCount: merged, logsRoot } = this.volume.superBlock;
    return inodeCount({ cache: this.#cache }, merged, logsRoot);
  }

  /** The current items from `first` to `last`, inclusive, in key order. */
  items(first: Key = Key.ZEROS, last: Key = Key.ONES): Generator<TreeItem, void, undefined> {
    return this.#trees.items(first, last);
  }

  /** The inode; throws ENOENT. */
  inode(ino: number): Inode {
    const item = this.#trees.item(inodeKey(ino));
    if (item === null) throw new FsError(ENOENT, `inode ${ino} does not exist`);
    return exact(item, () => Inode.read(item.val, this.volume.fmtVers));
  }

  /** The inode number behind a name in a directory, or null. */
  lookup(dir: number, name: Uint8Array): number | null {
    const hash = direntHash(name);
    const first = direntKey(dir, hash, 0);
    const last = Key.words(
      first.zone,
      first.firstHi,
      first.firstLo,
      first.type,
      first.secondHi,
      first.secondLo,
      0xffff_ffff,
      0xffff_ffff,
      0xff,
    );
    for (const item of this.items(first, last)) {
      const entry = decodeEntry(item);
      if (bytesEqual(entry.name, name)) return entry.ino;
    }
    return null;
  }

  /** The inode number of a path from the root, e.g. `a/b`; symlinks are not followed. */
  resolve(path: string): number {
    let ino = 1;
    for (const part of path.split("/").filter((p) => p !== "" && p !== ".")) {
      if ((this.inode(ino).mode & 0o170000) !== 0o040000) {
        throw new FsError(ENOTDIR, `'${path}': inode ${ino} is not a directory`);
      }
      const next = this.lookup(ino, new TextEncoder().encode(part));
      if (next === null) throw new FsError(ENOENT, `'${path}': no entry '${part}'`);
      ino = next;
    }
    return ino;
  }

  /** The entries of a directory, in the order of their creation; without `.` and `..`. */
  *readdir(dir: number): Generator<DirEntry, void, undefined> {
    const last = Key.of(16, dir, readdirKey(dir, 0).type, U64_MAX, U64_MAX, 0xff);
    for (const item of this.items(readdirKey(dir, 0), last)) yield decodeEntry(item);
  }

  /** The names of an inode: in which directory, under which name. */
  *links(ino: number): Generator<{ dir: number; name: Uint8Array }, void, undefined> {
    const first = backrefKey(ino, 0, 0);
    const last = Key.of(16, ino, first.type, U64_MAX, U64_MAX, 0xff);
    for (const item of this.items(first, last)) {
      yield exact(item, () => ({ dir: item.key.second, name: decodeEntry(item).name }));
    }
  }

  /** The text of a symlink. */
  readlink(ino: number): Uint8Array {
    const size = this.inode(ino).size;
    const parts: number[] = [];
    for (let nr = 0; parts.length < size; nr++) {
      const item = this.#trees.item(symlinkKey(ino, nr));
      if (item === null) throw new CorruptError(`symlink ${ino} lacks part ${nr}`);
      parts.push(...item.val);
    }
    if (parts.length !== size || parts[size - 1] !== 0) {
      throw new CorruptError(`symlink ${ino}: target of ${parts.length} bytes, size ${size}`);
    }
    return Uint8Array.from(parts.slice(0, parts.indexOf(0)));
  }

  /** All xattrs of an inode, hidden ones too, in the order of their hashes. */
  *xattrs(ino: number): Generator<{ name: Uint8Array; value: Uint8Array; id: number }> {
    const first = xattrKey(ino, 0, 0, 0);
    const last = lastInodeKey(ino, TYPE_XATTR);
    let whole: Uint8Array = new Uint8Array(0);
    let have = 0;
    for (const item of this.items(first, last)) {
      if (item.key.fourth === 0) {
        const head = Xattr.at(item.val);
        whole = new Uint8Array(Xattr.SIZE + head.nameLen + head.valLen);
        have = 0;
      }
      if (have + item.val.length > whole.length) {
        throw new CorruptError(`xattr part ${item.key} is longer than its header says`);
      }
      whole.set(item.val, have);
      have += item.val.length;
      if (have < whole.length) continue;
      const { nameLen } = Xattr.at(whole);
      const name = whole.subarray(Xattr.SIZE, Xattr.SIZE + nameLen);
      const { hash, id } = exact(item, () => ({ hash: item.key.second, id: item.key.third }));
      if (xattrNameHash(name) !== hash) {
        throw new CorruptError(`xattr ${item.key}: its name has another hash`);
      }
      yield { name, value: whole.subarray(Xattr.SIZE + nameLen), id };
    }
  }

  /** The extents of a file that end at or after `block`. */
  *extents(ino: number, block = 0): Generator<FileExtent, void, undefined> {
    const last = lastInodeKey(ino, TYPE_DATA_EXTENT);
    for (const item of this.items(extentSearchKey(ino, block), last)) {
      yield exact(item, () => {
        const { blkno, flags } = DataExtentVal.at(item.val);
        return {
          start: item.key.second - item.key.third + 1,
          length: item.key.third,
          blkno,
          offline: (flags & SEF_OFFLINE) !== 0,
          unwritten: (flags & SEF_UNWRITTEN) !== 0,
        };
      });
    }
  }

  /**
   * Up to `length` bytes of a file from `offset`, fewer at its end; holes read as zeros. Throws
   * FsError for offline data, which is in the archive.
   */
  read(ino: number, offset: number, length: number): Uint8Array {
    const size = this.inode(ino).size;
    const end = Math.min(offset + length, size);
    const out = new Uint8Array(Math.max(0, end - offset));
    if (out.length === 0) return out;
    const firstBlock = Math.floor(offset / SM_SIZE), lastBlock = Math.floor((end - 1) / SM_SIZE);
    const most = Math.min(PIECE_BLOCKS, lastBlock - firstBlock + 1);
    const piece = this.volume.data.allocBuffer(most * SM_SIZE);
    for (const e of this.extents(ino, firstBlock)) {
      if (e.start > lastBlock) break;
      if (e.offline) {
        throw new FsError(ENOENT, `inode ${ino}: block ${e.start} is offline`);
      }
      if (e.unwritten) continue;
      if (e.blkno + e.length > this.volume.superBlock.totalDataBlocks) {
        throw new CorruptError(`inode ${ino}: block ${e.start} is beyond the data device`);
      }
      let block = Math.max(e.start, firstBlock);
      const stop = Math.min(e.start + e.length, lastBlock + 1);
      while (block < stop) {
        const count = Math.min(most, stop - block);
        const buf = piece.subarray(0, count * SM_SIZE);
        this.volume.data.read(buf, (e.blkno + block - e.start) * SM_SIZE);
        const from = Math.max(offset, block * SM_SIZE);
        const to = Math.min(end, (block + count) * SM_SIZE);
        out.set(buf.subarray(from - block * SM_SIZE, to - block * SM_SIZE), from - offset);
        block += count;
      }
    }
    return out;
  }

  /** An inode index in the order of its positions, from `first` on. */
  *walk(index: "meta_seq" | "data_seq", first: IndexEntry = { seq: 0, ino: 0 }) {
    const type = index === "meta_seq" ? TYPE_INODE_INDEX_META_SEQ : TYPE_INODE_INDEX_DATA_SEQ;
    const start = Key.of(ZONE_INODE_INDEX, 0, type, first.seq, first.ino);
    const last = Key.of(ZONE_INODE_INDEX, 0, type, U64_MAX, U64_MAX, 0xff);
    for (const item of this.items(start, last)) {
      yield exact<IndexEntry>(item, () => ({ seq: item.key.second, ino: item.key.third }));
    }
  }

  /** The totals of tagged xattrs. */
  *totals() {
    const last = Key.of(ZONE_XATTR_TOTL, U64_MAX, 0xff, U64_MAX, U64_MAX, 0xff);
    for (const { key, val } of this.items(Key.of(ZONE_XATTR_TOTL, 0, 0), last)) {
      const { total, count } = XattrTotlVal.at(val);
      yield { name: [key.firstBig, key.secondBig, key.thirdBig] as const, total, count };
    }
  }

  close(): void {
    this.volume.meta.close();
    this.volume.data.close();
  }
}

function decodeEntry(item: TreeItem): DirEntry {
  if (item.val.length <= Dirent.SIZE) {
    throw new CorruptError(`entry ${item.key} of ${item.val.length} bytes`);
  }
  return exact(item, () => {
    const { ino, pos, type } = Dirent.at(item.val);
    return { ino, pos, type, name: item.val.subarray(Dirent.SIZE) };
  });
}

/** What `read` decodes of an item; numbers that no volume can have are corruption. */
function exact<T>(item: TreeItem, read: () => T): T {
  try {
    return read();
  } catch (e) {
    throw asCorrupt(e, `item ${item.key}`);
  }
}
