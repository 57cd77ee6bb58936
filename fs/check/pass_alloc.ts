/**
 * Pass 4: the allocators of both devices (01 §11): lists of metadata blocks and trees of free
 * extents, wherever they are.
 *
 * Relies on: all used metadata blocks have been claimed by the passes before, so that a conflict
 * here means that a list or a tree is wrong about a block being free.
 * Guarantees: every free metadata block is claimed; every free data extent is in the space sorter.
 */

import type { AllocListHead, AllocRoot } from "../../format/alloc.ts";
import { extentOrder } from "../../format/alloc.ts";
import { KEY } from "../../format/btree_block.ts";
import {
  ALLOC_FLAG_LOW,
  ALLOC_LIST_MAX_BLOCKS,
  DATA_DEV_START_BLKNO,
  MAGIC_ALLOC_LIST,
  MAGIC_BTREE,
  META_DEV_START_BLKNO,
  ZONE_FREE_EXTENT_BLKNO,
  ZONE_FREE_EXTENT_ORDER,
} from "../../format/constants.ts";
import { type CheckContext, claim, follow, inRange, reportConflict, toRef } from "./context.ts";
import { allocOf, DATA_ALLOC, freeIn, listBlockOf, metaAllocName, serverList } from "./names.ts";
import type { ServerItems } from "./pass_roots.ts";
import { MKFS_FREE_META } from "./pass_fixed.ts";
import { fieldU64, isExact, isZero, rawU64, refBlkno } from "./raw.ts";
import type { SpaceMap } from "./space.ts";
import { keyText } from "./text.ts";
import { checkUnusedSeq, TreeWalk } from "./tree_walk.ts";

export function checkAllocators(cx: CheckContext, items: ServerItems, space: SpaceMap): void {
  const sb = cx.sb;
  for (let i = 0; i < 2; i++) {
    checkList(cx, sb.serverMetaAvail(i), serverList("meta_avail", i), false);
    checkList(cx, sb.serverMetaFreed(i), serverList("meta_freed", i), false);
  }
  for (const { lt, what } of items.logTrees) {
    checkList(cx, lt.metaAvail, allocOf("meta_avail", what), true);
    checkList(cx, lt.metaFreed, allocOf("meta_freed", what), false);
    checkExtents(cx, lt.dataAvail, allocOf("data_avail", what), space, true);
    checkExtents(cx, lt.dataFreed, allocOf("data_freed", what), space, false);
  }
  for (const { sc, what } of items.compactions) {
    checkList(cx, sc.metaAvail, allocOf("meta_avail", what), false);
    checkList(cx, sc.metaFreed, allocOf("meta_freed", what), false);
  }
  for (const { r, what } of items.merge.requests) {
    checkList(cx, r.metaAvail, allocOf("meta_avail", what), false);
    checkList(cx, r.metaFreed, allocOf("meta_freed", what), false);
  }
  const fsRoot = items.merge.completions.length > 0 ? cx.fsRootOwner : -1;
  for (const { c, what } of items.merge.completions) {
    checkList(cx, c.metaAvail, allocOf("meta_avail", what), false);
    // Until it is spliced in, what it replaces is still part of fs_root (03 §26.2).
    checkList(cx, c.metaFreed, allocOf("meta_freed", what), false, fsRoot);
  }
  for (let i = 0; i < 2; i++) checkMetaExtents(cx, sb.metaAlloc(i), i);
  checkExtents(cx, sb.dataAlloc, DATA_ALLOC, space, false);
}

/** A block list: its blocks are used, what they list is free. */
function checkList(
  cx: CheckContext,
  head: AllocListHead,
  what: string,
  mayBeLow: boolean,
  ignoreOwner = -1,
): void {
  const { report } = cx;
  const totalNr = fieldU64(head, 16);
  if ((head.flags & ~(mayBeLow ? ALLOC_FLAG_LOW : 0)) !== 0) {
    report.add("alloc-flags", { what, flags: head.flags });
  }
  if (head.ref.isNull) {
    if (totalNr !== 0 || head.firstNr !== 0 || head.ref.seqLo !== 0 || head.ref.seqHi !== 0) {
      report.add("list-count", { what, field: "an empty list's head", value: totalNr, found: 0 });
    }
    return;
  }
  const used = cx.owners.define(listBlockOf(what), false);
  const free = cx.owners.define(freeIn(what), true);
  const b = cx.source.acquire();
  let ref = toRef(head.ref), total = 0, first = true, complete = true;
  while (ref.blkno !== 0) {
    if (!follow(cx, ref, MAGIC_ALLOC_LIST, used, b)) {
      complete = false;
      break;
    }
    const v = b.v, start = v.getUint32(48, true), nr = v.getUint32(52, true);
    if (start + nr > ALLOC_LIST_MAX_BLOCKS) {
      report.add("list-shape", { what, blkno: ref.blkno, start, nr });
      complete = false;
      break;
    }
    if (nr === 0 && start !== 0) report.add("list-shape", { what, blkno: ref.blkno, start, nr });
    if (first && nr !== head.firstNr) {
      report.add("list-count", { what, field: "first_nr", value: head.firstNr, found: nr });
    }
    first = false;
    total += nr;
    for (let i = start; i < start + nr; i++) {
      const blkno = rawU64(v, 56 + 8 * i);
      if (ignoreOwner >= 0 && cx.owners.of(blkno) === ignoreOwner) continue;
      if (inRange(cx, blkno, what)) claim(cx, blkno, free);
    }
    ref = { blkno: rawU64(v, 32), seqLo: v.getUint32(40, true), seqHi: v.getUint32(44, true) };
    if (ref.blkno === 0 && (ref.seqLo !== 0 || ref.seqHi !== 0)) {
      report.add("list-shape", { what, blkno: ref.blkno, start, nr });
    }
  }
  cx.source.release(b);
  if (complete && total !== totalNr) {
    report.add("list-count", { what, field: "total_nr", value: totalNr, found: total });
  }
}

function checkMetaExtents(cx: CheckContext, root: AllocRoot, index: number): void {
  const what = metaAllocName(index);
  if (cx.undersized && isWrappedByMkfs(cx, root, index)) {
    // Only the tree's own block can be accounted for.
    const ref = toRef(root.root.ref);
    const b = cx.source.acquire();
    follow(cx, ref, MAGIC_BTREE, cx.owners.define(what, false), b);
    cx.source.release(b);
    return;
  }
  const free = cx.owners.define(freeIn(what), true);
  walkExtents(cx, root, what, false, META_DEV_START_BLKNO, cx.metaBlocks, (start, len) => {
    cx.owners.claimRun(start, len, free, (blkno, before) => {
      reportConflict(cx, blkno, before, free);
    });
  });
}

/** The free extents that mkfs computes for a device that is too small (01 §2.4, §17.1). */
function isWrappedByMkfs(cx: CheckContext, root: AllocRoot, index: number): boolean {
  const blocks = BigInt(fieldU64(cx.sb, 96));
  const wrap = (n: bigint) => BigInt.asUintN(64, n);
  const l0 = wrap(blocks - BigInt(MKFS_FREE_META - 1)) / 2n;
  const len = index === 0 ? l0 : wrap(blocks - BigInt(MKFS_FREE_META) - l0);
  return root.v.getBigUint64(root.o, true) === len && root.root.height === 1 &&
    refBlkno(root.root.ref) === 1029 + index;
}

function checkExtents(
  cx: CheckContext,
  root: AllocRoot,
  what: string,
  space: SpaceMap,
  mayBeLow: boolean,
): void {
  const owner = space.defineFree(what);
  walkExtents(cx, root, what, mayBeLow, DATA_DEV_START_BLKNO, cx.dataBlocks, (start, len) => {
    space.addFree(start, len, owner);
  });
}

/** Sum of hashes of extents, to compare the two indexes without keeping either. */
class ExtentSum {
  #a = 0;
  #b = 0;
  count = 0;
  add(end: number, len: number, sign: number): void {
    const h = Math.imul(end ^ Math.imul(len, 0x9e3779b1), 0x85ebca6b) ^ (end / 0x1_0000_0000 | 0);
    const g = Math.imul(len ^ Math.imul(end, 0xc2b2ae35), 0x27d4eb2f) ^ (len / 0x1_0000_0000 | 0);
    this.#a = this.#a + sign * (h ^ h >>> 15) | 0;
    this.#b = this.#b + sign * (g ^ g >>> 13) | 0;
    this.count += sign;
  }
  get isZero(): boolean {
    return this.#a === 0 && this.#b === 0 && this.count === 0;
  }
}

/** An extent tree: both indexes, the order they file by, the total, the range. */
function walkExtents(
  cx: CheckContext,
  root: AllocRoot,
  what: string,
  mayBeLow: boolean,
  from: number,
  to: number,
  visit: (start: number, len: number) => void,
): void {
  const { report } = cx;
  if ((root.flags & ~(mayBeLow ? ALLOC_FLAG_LOW : 0)) !== 0) {
    report.add("alloc-flags", { what, flags: root.flags });
  }
  if (!isZero(root.bytes, 12, 4)) report.add("root-pad", { what });
  const sum = new ExtentSum();
  let total = 0, previousEnd = -1, complete = true;
  const problems = report.bySeverity.error;
  const walk = new TreeWalk(cx, root.root, { what, owner: cx.owners.define(what, false) });
  for (let leaf = walk.next(); leaf !== null; leaf = walk.next()) {
    const v = leaf.b.v;
    for (let i = 0; i < leaf.nr; i++) {
      const item = leaf.order[i] as number, key = item + KEY;
      const zone = v.getUint8(key + 25);
      const name = () => keyText(v, item);
      if (v.getUint16(item + 50, true) !== 0) {
        report.add("item-length", { what, key: name(), len: v.getUint16(item + 50, true) });
      }
      checkUnusedSeq(cx, what, v, item);
      const byOrder = zone === ZONE_FREE_EXTENT_ORDER;
      if (!byOrder && zone !== ZONE_FREE_EXTENT_BLKNO) {
        report.add("item-zone", { what, key: name() });
        continue;
      }
      const end = rawU64(v, byOrder ? key + 8 : key), len = rawU64(v, byOrder ? key + 16 : key + 8);
      const unused = v.getUint8(key + 26) !== 0 || v.getUint8(key + 24) !== 0 ||
        !byOrder && (v.getUint32(key + 16, true) !== 0 || v.getUint32(key + 20, true) !== 0);
      if (unused) report.add("extent-key", { what, key: name() });
      if (!isExact(end) || !isExact(len) || len < 1 || end - len + 1 < from || end >= to) {
        report.add("extent-range", { what, key: name() });
        continue;
      }
      sum.add(end, len, byOrder ? -1 : 1);
      if (byOrder) {
        if (
          v.getUint32(key + 4, true) !== 0xffff_ffff ||
          v.getUint32(key, true) !== 0xffff_ffff - extentOrder(len)
        ) report.add("extent-order", { what, key: name() });
        continue;
      }
      const start = end - len + 1;
      if (start <= previousEnd) report.add("extent-overlap", { what, start, len });
      else {
        if (start === previousEnd + 1 && previousEnd >= 0) {
          report.add("extent-touch", { what, start, len });
        }
        visit(start, len);
      }
      total += len;
      previousEnd = Math.max(previousEnd, end);
    }
  }
  complete = report.bySeverity.error === problems;
  if (complete && !sum.isZero) report.add("extent-index", { what });
  if (complete && fieldU64(root, 0) !== total) {
    report.add("extent-total", { what, value: fieldU64(root, 0), found: total });
  }
}
