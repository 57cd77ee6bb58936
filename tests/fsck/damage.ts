/**
 * Damage beyond single fields, each as a named change of a volume's metadata device: blocks that are
 * torn, swapped, stale, wiped or unreadable; references that are missing or lead to a block of
 * another place; items that are missing, doubled under another key, or in another tree. Checksums
 * are right wherever the damage is not one of the checksum.
 */

import { BlockRef } from "../../format/block.ts";
import type { BtreeRoot } from "../../format/btree.ts";
import {
  blockLevel,
  findLeafItem,
  firstItem,
  hasRoom,
  insertItem,
  itemFlags,
  itemKey,
  itemSeq,
  itemVal,
  itemValOff,
  nextItem,
  nrItems,
  removeItem,
} from "../../format/btree_block.ts";
import {
  LG_SIZE,
  MAGIC_BTREE,
  SM_SIZE,
  SRCH_COMPACT_DELETE,
  SUPER_BLKNO,
  TYPE_INODE,
  TYPE_SRCH_BUSY,
  TYPE_SRCH_PENDING,
  ZONE_FS,
  ZONE_LOG_MERGE_COMPLETE,
  ZONE_LOG_MERGE_FREEING,
  ZONE_LOG_MERGE_REQUEST,
} from "../../format/constants.ts";
import { sealBlock } from "../../format/crc32c.ts";
import { Key } from "../../format/key.ts";
import { LogTrees } from "../../format/log_trees.ts";
import { LogMergeComplete, LogMergeFreeing, LogMergeRequest } from "../../format/merge.ts";
import { SrchCompact } from "../../format/srch.ts";
import { SuperBlock } from "../../format/super.ts";
import type { Device } from "../../fs/device.ts";
import { visitReachable } from "../../fs/dump/reach.ts";

export interface Damage {
  readonly name: string;
  apply(meta: Device): void;
}

interface TreeBlock {
  readonly tree: string;
  readonly level: number;
  readonly blkno: number;
}

interface Block {
  readonly buf: Uint8Array;
  readonly v: DataView;
}

export function readBlock(dev: Device, blkno: number): Block {
  const buf = dev.allocBuffer(LG_SIZE);
  dev.read(buf, blkno * LG_SIZE);
  return { buf, v: new DataView(buf.buffer, buf.byteOffset, LG_SIZE) };
}

export function readSuper(dev: Device): SuperBlock {
  const buf = dev.allocBuffer(SM_SIZE);
  dev.read(buf, SUPER_BLKNO * SM_SIZE);
  return SuperBlock.at(buf);
}

/** Block numbers of all referenced blocks, ascending. */
export function referencedBlocks(meta: Device): number[] {
  const found: number[] = [];
  visitReachable(meta, readSuper(meta), {
    block: (blkno) => void found.push(blkno),
    unreadable: () => {},
  });
  return found.sort((a, b) => a - b);
}

/**
 * Referenced blocks whose contents somebody will read: leaves of trees and search files that are
 * being freed are freed unread (01 §13.3–13.4), nothing can be wrong with what is in them.
 */
export function matteringBlocks(meta: Device): number[] {
  const sb = readSuper(meta), unread = new Set<number>();
  const children = (blkno: number, at: (b: Block) => Iterable<number>): void => {
    for (const off of at(readBlock(meta, blkno))) {
      unread.add(Number(readBlock(meta, blkno).v.getBigUint64(off, true)));
    }
  };
  const leaves = (root: BtreeRoot): void => {
    if (root.height === 1) unread.add(root.ref.blkno);
    if (root.height === 2) {
      children(root.ref.blkno, function* (b) {
        for (let i = firstItem(b); i !== 0; i = nextItem(b, i)) yield itemValOff(b, i);
      });
    }
  };
  forEachLeafItem(meta, sb.logMerge, (key, val) => {
    if (key.zone === ZONE_LOG_MERGE_FREEING) leaves(LogMergeFreeing.at(val).root);
  });
  forEachLeafItem(meta, sb.srchRoot, (key, val) => {
    if (key.type !== TYPE_SRCH_PENDING && key.type !== TYPE_SRCH_BUSY) return;
    const c = SrchCompact.at(val);
    for (let i = 0; i < c.nr && (c.flags & SRCH_COMPACT_DELETE) !== 0; i++) {
      const { sfl } = c.in(i);
      if (sfl.height === 1) unread.add(sfl.ref.blkno);
      if (sfl.height === 2) {
        children(sfl.ref.blkno, function* () {
          for (let n = 0; n < sfl.blocks; n++) yield 32 + 16 * n;
        });
      }
    }
  });
  return referencedBlocks(meta).filter((blkno) => !unread.has(blkno));
}

/** Leaves of trees that hold inodes: whoever has lost all of them has no file left to name. */
export function inodeLeaves(meta: Device): number[] {
  return referencedBlocks(meta).filter((blkno) => {
    const b = readBlock(meta, blkno);
    if (b.v.getUint32(4, true) !== MAGIC_BTREE || blockLevel(b) > 0) return false;
    for (let i = firstItem(b); i !== 0; i = nextItem(b, i)) {
      const { zone, type } = itemKey(b, i);
      if (zone === ZONE_FS && type === TYPE_INODE) return true;
    }
    return false;
  });
}

/**
 * The parents of leaves that are being freed, each with the key to go on at: of children before it the
 * blocks are free already, and nobody follows the references to them (01 §13.4).
 */
export function freedBefore(meta: Device): Map<number, Key> {
  const parents = new Map<number, Key>();
  forEachLeafItem(meta, readSuper(meta).logMerge, (key, val) => {
    if (key.zone !== ZONE_LOG_MERGE_FREEING) return;
    const { root, key: next } = LogMergeFreeing.at(val);
    if (root.height === 2) parents.set(root.ref.blkno, next);
  });
  return parents;
}

function forEachLeafItem(
  meta: Device,
  root: BtreeRoot,
  visit: (key: Key, val: Uint8Array) => void,
): void {
  const walk = (blkno: number): void => {
    const b = readBlock(meta, blkno);
    for (let i = firstItem(b); i !== 0; i = nextItem(b, i)) {
      if (blockLevel(b) > 0) walk(BlockRef.at(itemVal(b, i)).blkno);
      else visit(itemKey(b, i), itemVal(b, i).slice());
    }
  };
  if (root.height > 0) walk(root.ref.blkno);
}

/** All btree blocks with the tree they belong to. */
export function treeBlocks(meta: Device): TreeBlock[] {
  const sb = readSuper(meta), found: TreeBlock[] = [];
  const walk = (root: BtreeRoot, tree: string, leafVisit?: (val: Uint8Array) => void): void => {
    const visit = (blkno: number): void => {
      const b = readBlock(meta, blkno), level = blockLevel(b);
      found.push({ tree, level, blkno });
      for (let i = firstItem(b); i !== 0; i = nextItem(b, i)) {
        if (level > 0) visit(BlockRef.at(itemVal(b, i)).blkno);
        else leafVisit?.(itemVal(b, i));
      }
    };
    if (root.height > 0) visit(root.ref.blkno);
  };
  for (const i of [0, 1] as const) walk(sb.metaAlloc(i).root, `meta_alloc[${i}]`);
  walk(sb.dataAlloc.root, "data_alloc");
  walk(sb.fsRoot, "fs_root");
  walk(sb.mountedClients, "mounted_clients");
  walk(sb.srchRoot, "srch_root");
  walk(sb.logMerge, "log_merge");
  walk(sb.logsRoot, "logs_root", (val) => {
    const lt = LogTrees.at(val.slice()), kind = lt.isFinalized ? "finalized" : "open";
    walk(lt.itemRoot, `${kind} log tree`);
    walk(lt.dataAvail.root, `${kind} data_avail`);
    walk(lt.dataFreed.root, `${kind} data_freed`);
  });
  return found;
}

/** Blocks of the trees that a merge's requests and completions name: parts of fs_root, as it was. */
export function blocksOfMerge(meta: Device): Set<number> {
  const blocks = new Set<number>();
  const add = (blkno: number): void => {
    blocks.add(blkno);
    const b = readBlock(meta, blkno);
    if (b.v.getUint32(4, true) !== MAGIC_BTREE || blockLevel(b) === 0) return;
    for (let i = firstItem(b); i !== 0; i = nextItem(b, i)) add(BlockRef.at(itemVal(b, i)).blkno);
  };
  forEachLeafItem(meta, readSuper(meta).logMerge, (key, val) => {
    const root = key.zone === ZONE_LOG_MERGE_REQUEST
      ? LogMergeRequest.at(val).root
      : key.zone === ZONE_LOG_MERGE_COMPLETE
      ? LogMergeComplete.at(val).root
      : null;
    if (root !== null && root.height > 0) add(root.ref.blkno);
  });
  return blocks;
}

/** A change of one block's bytes; the checksum is made right unless `raw`. */
function edit(blkno: number, change: (b: Block) => void, raw = false): (meta: Device) => void {
  return (meta) => {
    const b = readBlock(meta, blkno);
    change(b);
    if (!raw) sealBlock(b.buf);
    meta.write(b.buf, blkno * LG_SIZE);
  };
}

/** Damage of whole blocks that matter, whatever they hold. */
export function blockDamage(meta: Device): Damage[] {
  const blocks = matteringBlocks(meta), out: Damage[] = [];
  for (const [i, blkno] of blocks.entries()) {
    const other = blocks[(i + 1) % blocks.length] as number;
    const add = (what: string, apply: (meta: Device) => void) =>
      out.push({ name: `block ${blkno}: ${what}`, apply });
    add("one bit", edit(blkno, (b) => (b.buf[4 + i * 577 % (LG_SIZE - 4)]! ^= 1 << i % 8), true));
    add("checksum", edit(blkno, (b) => (b.buf[i % 4]! ^= 1 << i % 8), true));
    add("wiped", edit(blkno, (b) => b.buf.fill(0), true));
    add("torn", edit(blkno, (b) => b.buf.fill(0xa5, 4096 * (1 + i % 15)), true));
    add("of another time", edit(blkno, (b) => (b.buf[16]! ^= 1)));
    add(`swapped with ${other}`, (dev) => {
      const a = readBlock(dev, blkno).buf, c = readBlock(dev, other).buf;
      dev.write(c, blkno * LG_SIZE);
      dev.write(a, other * LG_SIZE);
    });
    add(`a copy of ${other}`, (dev) => dev.write(readBlock(dev, other).buf, blkno * LG_SIZE));
  }
  return out;
}

/** Missing and wrong references in parents. */
export function referenceDamage(meta: Device): Damage[] {
  const out: Damage[] = [];
  for (const { tree, level, blkno } of treeBlocks(meta)) {
    if (level === 0) continue;
    const b = readBlock(meta, blkno);
    const add = (what: string, change: (b: Block) => void) =>
      out.push({
        name: `${tree} level ${level} block ${blkno}: ${what}`,
        apply: edit(blkno, change),
      });
    const first = firstItem(b), second = nextItem(b, first);
    add("first child missing", (b) => removeItem(b, firstItem(b)));
    if (second === 0) continue;
    const secondOf = (b: Block) => nextItem(b, firstItem(b)) || firstItem(b);
    add("second child is the first", (b) => itemVal(b, secondOf(b)).set(itemVal(b, firstItem(b))));
    add("first child is this block", (b) => {
      const ref = BlockRef.at(itemVal(b, firstItem(b)));
      ref.blkno = blkno;
      ref.v.setBigUint64(ref.o + 8, b.v.getBigUint64(16, true), true);
    });
    add("children exchanged", (b) => {
      const one = firstItem(b), two = secondOf(b);
      const a = itemVal(b, one).slice(), c = itemVal(b, two).slice();
      b.buf.set(c, itemValOff(b, one));
      b.buf.set(a, itemValOff(b, two));
    });
  }
  return out;
}

/** A key next to `key` that is of the same kind. */
function neighbour(key: Key): Key {
  const { zone, type } = key;
  return Key.of(zone, key.firstBig, type, key.secondBig, key.thirdBig ^ 1n, key.fourth);
}

/**
 * Missing, extra and misplaced items, of each kind in each tree. They can be applied one after the
 * other: what is not there any more is left alone.
 */
export function itemDamage(meta: Device, perKind: number): Damage[] {
  const out: Damage[] = [], seen = new Map<string, number>();
  for (const { tree, level, blkno } of treeBlocks(meta)) {
    if (level > 0) continue;
    const b = readBlock(meta, blkno);
    for (let item = firstItem(b); item !== 0; item = nextItem(b, item)) {
      const key = itemKey(b, item), kind = `${tree} ${key.zone}.${key.type}`;
      const nr = seen.get(kind) ?? 0;
      seen.set(kind, nr + 1);
      if (nr >= perKind) continue;
      const deletion = itemFlags(b, item) === 1 ? " (deletion)" : "";
      const add = (what: string, change: (b: Block) => void) =>
        out.push({ name: `${kind} item ${key}${deletion}: ${what}`, apply: edit(blkno, change) });
      if (nrItems(b) > 1) {
        add("missing", (b) => {
          const found = findLeafItem(b, key);
          if (found !== 0) removeItem(b, found);
        });
      }
      const val = itemVal(b, item).slice();
      if (!hasRoom(b, val.length)) continue;
      const seq = itemSeq(b, item), flags = itemFlags(b, item);
      const insert = (b: Block, at: Key): void => {
        if (hasRoom(b, val.length) && findLeafItem(b, at) === 0) insertItem(b, at, seq, flags, val);
      };
      const near = neighbour(key);
      if (findLeafItem(b, near) === 0) add(`again at ${near}`, (b) => insert(b, near));
      const foreign = Key.of(key.zone, key.firstBig, 30, key.secondBig, key.thirdBig, key.fourth);
      add("one of an unknown type beside it", (b) => insert(b, foreign));
    }
  }
  return out;
}
