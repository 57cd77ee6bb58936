/**
 * Mending what files hold: extents (01 §15.5) and the targets of symlinks (01 §15.6).
 */

import {
  SEF_OFFLINE,
  SEF_UNWRITTEN,
  SM_MAX,
  TYPE_DATA_EXTENT,
  TYPE_SYMLINK,
  ZONE_FS,
} from "../../../format/constants.ts";
import { Key } from "../../../format/key.ts";
import { isExact, rawU64, viewOf } from "../raw.ts";
import { restoreType } from "./fixers_inodes.ts";
import { type FixScope, S_IFLNK, type UncountedBlocks } from "./fixers_scope.ts";

const KNOWN_FLAGS = SEF_OFFLINE | SEF_UNWRITTEN;

export function fixSymlink(s: FixScope, ino: number): boolean {
  if (s.patch.peekInode(ino) === null) return false;
  if (!s.isOf(ino, S_IFLNK) && !restoreType(s, ino, S_IFLNK)) {
    return s.loseRange(ino, TYPE_SYMLINK, TYPE_SYMLINK, "parts of a target of what is no symlink");
  }
  const parts = s.range(ino, TYPE_SYMLINK, TYPE_SYMLINK);
  let bytes = 0, whole = parts.length > 0;
  parts.forEach(({ key, val }, i) => {
    bytes += val.length;
    const last = i === parts.length - 1;
    if (key.secondBig !== BigInt(i) || key.thirdBig !== 0n || key.fourth !== 0) whole = false;
    if (!last && val.length !== 896 || last && val.at(-1) !== 0) whole = false;
  });
  if (!whole || bytes < 2 || bytes > 4096) return s.removeFile(ino);
  return s.edit(ino, (i) => i.size = bytes);
}

export function fixExtentItem(s: FixScope, ino: number, end: number, count: number): boolean {
  // There may be millions of extents, and as many problems: only where its numbers are exact do they
  // lead to an item.
  const near = isExact(end) && isExact(count)
    ? s.patch.range(
      Key.of(ZONE_FS, ino, TYPE_DATA_EXTENT, end, count),
      Key.of(ZONE_FS, ino, TYPE_DATA_EXTENT, end, count, 255),
    )
    : s.range(ino, TYPE_DATA_EXTENT, TYPE_DATA_EXTENT);
  const items = near.filter(({ key }) =>
    Number(key.secondBig) === end && Number(key.thirdBig) === count
  );
  for (const { key, val } of items) {
    const misplaced = key.fourth !== 0 || val.length !== 16 || end > SM_MAX || count < 1 ||
      end - count + 1 < 0;
    const v = viewOf(val);
    const blkno = misplaced ? 0 : rawU64(v, 0);
    const stored = misplaced ? 0 : v.getUint8(8), known = stored & KNOWN_FLAGS;
    let flags = known;
    if (blkno === 0) {
      // What an archive holds is not to read as zeros.
      if (flags !== 0 || !misplaced && fits(s, ino, "offline", count)) flags = SEF_OFFLINE;
    } else if (known !== stored || known === SEF_OFFLINE) {
      // Nor is data that is there, which is not to be staged once more either.
      if (fits(s, ino, "online", count)) flags = 0;
      else if (known === SEF_OFFLINE) flags |= SEF_UNWRITTEN;
    }
    // What was found wrong about the counts was found with the wrong flags: they are counted again.
    if (!misplaced && countOf(blkno, flags) !== countOf(blkno, stored)) s.cut.add(ino);
    if (misplaced || blkno === 0 && flags === 0) {
      if (!s.lossy) return false;
      s.patch.remove(key);
      s.notes.push(`inode ${ino}: an extent that means nothing was removed`);
      continue;
    }
    const mended = new Uint8Array(16);
    mended.set(val.subarray(0, 8));
    mended[8] = flags;
    s.patch.set(key, mended);
  }
  return true;
}

type Count = "online" | "offline" | "neither";

/** Whether an inode counts the blocks of an extent with wrong flags, beside those of the others. */
function fits(s: FixScope, ino: number, count: "online" | "offline", blocks: number): boolean {
  if (s.uncounted?.ino !== ino) s.uncounted = uncountedBlocks(s, ino);
  const left = s.uncounted;
  if (blocks > left[count]) return false;
  left[count] -= blocks;
  return true;
}

function uncountedBlocks(s: FixScope, ino: number): UncountedBlocks {
  const inode = s.patch.peekInode(ino);
  if (inode === null) return { ino, online: 0, offline: 0 };
  const left = {
    ino,
    online: rawU64(inode.v, inode.o + 32),
    offline: rawU64(inode.v, inode.o + 40),
  };
  for (const { key, val } of s.each(ino, TYPE_DATA_EXTENT, TYPE_DATA_EXTENT)) {
    if (val.length !== 16) continue;
    const v = viewOf(val), blkno = rawU64(v, 0), flags = v.getUint8(8);
    if ((flags & ~KNOWN_FLAGS) !== 0 || blkno !== 0 && flags === SEF_OFFLINE) continue;
    const count = countOf(blkno, flags);
    if (count !== "neither") left[count] -= Number(key.thirdBig);
  }
  return left;
}

/** Which of an inode's counts has the blocks of an extent. */
function countOf(blkno: number, flags: number): Count {
  if (blkno !== 0 && (flags & SEF_UNWRITTEN) === 0) return "online";
  return (flags & SEF_OFFLINE) !== 0 ? "offline" : "neither";
}

export function removeOutsideExtents(s: FixScope, ino: number): boolean {
  if (!s.lossy) return false;
  if (s.sifted.has(ino)) return true;
  s.sifted.add(ino);
  const outside: Key[] = [];
  for (const { key, val } of s.each(ino, TYPE_DATA_EXTENT, TYPE_DATA_EXTENT)) {
    if (val.length !== 16) continue;
    const blkno = rawU64(viewOf(val), 0), len = Number(key.thirdBig);
    if (blkno !== 0 && (blkno < 64 || blkno + len > s.round.cx.dataBlocks)) outside.push(key);
  }
  for (const key of outside) s.patch.remove(key);
  if (outside.length > 0) s.notes.push(`inode ${ino} lost extents that lay outside the device`);
  return true;
}

interface Extent {
  readonly key: Key;
  readonly val: Uint8Array;
  readonly start: number;
  readonly end: number;
  readonly len: number;
}

/**
 * Of extents that overlap one gets another length if that makes the inode's counts come out right; else
 * the later one gives way.
 */
export function cutOverlappingExtents(s: FixScope, ino: number): boolean {
  if (!s.lossy) return false;
  if (s.cut.has(ino)) return true;
  s.cut.add(ino);
  const extents: Extent[] = s.range(ino, TYPE_DATA_EXTENT, TYPE_DATA_EXTENT)
    .map(({ key, val }) => {
      const end = Number(key.secondBig), len = Number(key.thirdBig);
      return { key, val, start: end - len + 1, end, len };
    })
    .filter((e) => e.val.length === 16 && e.end <= SM_MAX && e.len >= 1 && e.start >= 0)
    .sort((a, b) => a.start - b.start || a.end - b.end);
  const wrong = wrongLength(s, ino, extents);
  if (wrong !== null) {
    const { key, val, start, end, len } = wrong.extent;
    s.patch.remove(key);
    if (wrong.right > 0) {
      s.patch.set(Key.of(ZONE_FS, ino, TYPE_DATA_EXTENT, end, wrong.right), val.slice());
    }
    s.notes.push(
      `inode ${ino}: of the ${len} blocks of the extent at block ${start} it counts ${wrong.right}`,
    );
    return true;
  }
  let free = 0;
  for (const { key, val, start, end, len } of extents) {
    const cut = free - start;
    if (cut > 0) {
      s.patch.remove(key);
      s.notes.push(
        `inode ${ino}: ${Math.min(cut, len)} blocks were mapped twice, one of them was kept`,
      );
      if (cut < len) {
        const rest = val.slice(), v = viewOf(rest), blkno = rawU64(v, 0);
        if (blkno !== 0) v.setBigUint64(0, BigInt(blkno + cut), true);
        s.patch.set(Key.of(ZONE_FS, ino, TYPE_DATA_EXTENT, end, len - cut), rest);
      }
    }
    free = Math.max(free, end + 1);
  }
  return true;
}

/**
 * The extent that alone explains that some overlap: with another length, 0 if it is one too many, none
 * do, and the inode's counts come out right. Null if there is none, or either of two may be it.
 */
function wrongLength(
  s: FixScope,
  ino: number,
  extents: readonly Extent[],
): { extent: Extent; right: number } | null {
  const inode = s.patch.peekInode(ino),
    second = extents.findIndex((e, i) => i > 0 && e.start <= (extents[i - 1] as Extent).end);
  if (inode === null || second < 0) return null;
  // Blocks more than the inode counts.
  const more = {
    online: -rawU64(inode.v, inode.o + 32),
    offline: -rawU64(inode.v, inode.o + 40),
    neither: 0,
  };
  for (const e of extents) more[countedAs(e)] += e.len;
  const found: { extent: Extent; right: number }[] = [];
  for (const extent of extents.slice(second - 1, second + 1)) {
    const counted = countedAs(extent);
    if (counted === "neither" || more[counted === "online" ? "offline" : "online"] !== 0) continue;
    const right = extent.len - more[counted];
    if (right < 0 || right >= extent.len) continue;
    if (isApart(extents, extent, right)) found.push({ extent, right });
  }
  const [only, other] = found;
  return other === undefined ? only ?? null : null;
}

function countedAs({ val }: Extent): Count {
  const v = viewOf(val);
  return countOf(rawU64(v, 0), v.getUint8(8));
}

/** Whether no extents, in the order of their starts, overlap if `changed` has the last `len` blocks only. */
function isApart(extents: readonly Extent[], changed: Extent, len: number): boolean {
  let free = 0;
  for (const e of extents) {
    if (e === changed) continue;
    if (e.start < free) return false;
    if (len > 0 && e.start <= changed.end && e.end > changed.end - len) return false;
    free = e.end + 1;
  }
  return true;
}
