/**
 * Sizes in super blocks against the devices and against what the volume refers to (01 §2.4): a number
 * that is damaged is made what the other super block or the device says; a device that is cut short is
 * not, as everything beyond its end would be lost.
 */

import { bytesEqual } from "../../../format/bytes.ts";
import {
  LG_MAX,
  LG_SIZE,
  SM_MAX,
  SM_SIZE,
  ZONE_FREE_EXTENT_BLKNO,
} from "../../../format/constants.ts";
import { sealBlock } from "../../../format/crc32c.ts";
import { SuperBlock } from "../../../format/super.ts";
import type { Device } from "../../device.ts";
import type { CheckOptions, Problem, Report } from "../check.ts";
import { isUndersized } from "../pass_fixed.ts";
import { fieldU64, isExact } from "../raw.ts";
import { parseKey } from "./item_patch.ts";
import { readSuper, trySuper, wholeSuper, writeMetaSuper } from "./supers.ts";

/**
 * Raises totals of the metadata super block beyond which the volume has blocks that are there: to what
 * the data device's super block says, or to the devices' sizes. True when that was written, because
 * a check finds less with it, or finds out anything at all.
 */
export function mendTotals(
  meta: Device,
  data: Device,
  before: Report,
  options: CheckOptions,
): boolean {
  const raw = readSuper(meta), other = readSuper(data);
  const beyond = before.problems.filter(isBeyond);
  if (raw === null || beyond.length === 0) return false;
  const dataToo = beyond.some(isDataProblem), metaToo = !beyond.every(isDataProblem);
  const metaHas = Math.floor(meta.size / LG_SIZE), dataHas = Math.floor(data.size / SM_SIZE);
  const tooSmall = isUndersized(SuperBlock.at(raw)), tried: Uint8Array[] = [];
  const offer = (metaBlocks: number, dataBlocks: number) => {
    const block = meta.allocBuffer(SM_SIZE), sb = SuperBlock.at(block);
    block.set(raw);
    const raise = (at: number, blocks: number, has: number) => {
      if (blocks <= fieldU64(sb, at) || blocks > has) return;
      sb.v.setBigUint64(sb.o + at, BigInt(blocks), true);
    };
    if (metaToo) raise(96, metaBlocks, metaHas);
    if (dataToo) raise(104, dataBlocks, dataHas);
    sealBlock(block);
    if (![raw, ...tried].some((known) => bytesEqual(known, block))) tried.push(block);
  };
  if (other !== null) {
    offer(fieldU64(SuperBlock.at(other), 96), fieldU64(SuperBlock.at(other), 104));
  }
  // The check of a volume that is said to be too small tells less, and nothing of it can be mended.
  const enough = tried.find((block) => tooSmall && !isUndersized(SuperBlock.at(block)));
  if (enough !== undefined) return writeMetaSuper(meta, enough);
  offer(metaHas, dataHas);
  let best: Uint8Array | null = null, least = before.errors;
  for (const block of tried) {
    const { errors } = trySuper(meta, data, block, options);
    if (errors >= least) continue;
    least = errors;
    best = block;
  }
  return best !== null && writeMetaSuper(meta, best);
}

/** What a volume that is full is given of its device at a time: blocks at least, and a share of it. */
const GROWTH = 1024;
const GROWTH_SHARE = 1 / 64;

/**
 * Gives a volume without free metadata blocks some of what its device has beyond it, as a resize does
 * (01 §17.5); how many blocks, 0 if there are none. They are found free by the next check.
 */
export function growMeta(meta: Device): number {
  const raw = readSuper(meta);
  if (raw === null) return 0;
  const sb = SuperBlock.at(raw), total = fieldU64(sb, 96);
  const wanted = total + Math.max(GROWTH, Math.floor(total * GROWTH_SHARE));
  const grown = Math.min(Math.floor(meta.size / LG_SIZE), LG_MAX, wanted);
  if (grown <= total) return 0;
  sb.totalMetaBlocks = grown;
  sb.hdr.seq = BigInt.asUintN(64, sb.hdr.seq + 1n);
  sealBlock(raw);
  writeMetaSuper(meta, raw);
  return grown - total;
}

/** What to do about a volume without a free metadata block for mending. */
export const FULL =
  "no metadata block is free for the rest of what is to be mended; the volume is as the last finished " +
  "round left it. Give the metadata device more space (64 MiB are enough for most; an image file: " +
  "truncate -s +64M) and run this again: it takes what it needs of that";

const isBeyond = ({ code }: Problem): boolean =>
  code === "ref-range" || code === "extent-range" || code === "extent-outside";

const isDataProblem = ({ code, values }: Problem): boolean =>
  code === "extent-outside" || code === "extent-range" && /^data_/.test(String(values["what"]));

/** What shows that a device was larger: by this factor at most, by so many references to what is missing. */
const MOST_MISSING = 16;
const ENOUGH_MISSING = 8;

/**
 * Why a device is not all of what the volume has there; null if it is, or the number that it falls short
 * of is what is wrong: no other super block says the same, and nothing refers to what is missing.
 */
export function cutShort(meta: Device, data: Device, report: Report): string | null {
  const m = wholeSuper(meta), d = wholeSuper(data);
  const judge = (name: string, at: number, dev: Device, unit: number, data: boolean) => {
    const has = Math.floor(dev.size / unit);
    for (const sb of [m, d]) {
      if (sb === null) continue;
      const blocks = fieldU64(sb, at), other = sb === m ? d : m;
      if (blocks <= has || blocks > (data ? SM_MAX : LG_MAX)) continue;
      const agreed = other !== null && other.hdr.fsid === sb.hdr.fsid &&
        fieldU64(other, at) === blocks;
      const missing = report.problems.filter((p) =>
        isBeyond(p) && isDataProblem(p) === data && endOf(p) > has && endOf(p) <= blocks
      );
      // After a resize the metadata device alone knows it. A few damaged references prove nothing.
      const used = sb === m && blocks <= MOST_MISSING * has &&
        (missing.length >= ENOUGH_MISSING ||
          missing.some((p) => p.code === "extent-range" && endOf(p) === blocks));
      if (!agreed && !used) continue;
      return `the ${name} device has ${has} blocks, the volume ${blocks}: this is not all of it; ` +
        `give it back its size of ${blocks * unit} bytes first (an image file: truncate -s)`;
    }
    return null;
  };
  return judge("metadata", 96, meta, LG_SIZE, false) ?? judge("data", 104, data, SM_SIZE, true);
}

/** End of the blocks that a problem with a block outside of the device names; 0 when it is not said. */
function endOf({ code, values }: Problem): number {
  if (code === "ref-range") return Number(values["blkno"]) + 1;
  if (code === "extent-outside") return Number(values["blkno"]) + Number(values["count"]);
  const key = parseKey(String(values["key"]));
  return key?.zone === ZONE_FREE_EXTENT_BLKNO && isExact(Number(key.firstBig))
    ? Number(key.firstBig) + 1
    : 0;
}
