/**
 * Pass 0: what lies at fixed places: the super blocks of both devices and the quorum blocks (01 §8,
 * §9, §19 "Fixed blocks").
 *
 * Relies on: nothing.
 * Guarantees: a metadata super block whose fsid, totals and roots may be followed, or none; what
 * says that the volume is in use is known.
 */

import {
  AF_IPV4,
  AF_NONE,
  DATA_ALLOC_MAX_ZONES,
  DATA_ALLOC_ZONE_BLOCKS_MIN,
  DATA_DEV_START_BLKNO,
  FIRST_FREE_INO,
  FMT_VERS_MAX,
  FMT_VERS_MIN,
  LG_SIZE,
  MAGIC_QUORUM,
  MAGIC_SUPER,
  META_DEV_START_BLKNO,
  QUORUM_BLKNO,
  QUORUM_EVENT_NR,
  QUORUM_MAX_SLOTS,
  SM_SIZE,
  SUPER_BLKNO,
  SUPER_FLAG_META_DEV,
} from "../../format/constants.ts";
import { blockCrcOk } from "../../format/crc32c.ts";
import { bytesEqual } from "../../format/bytes.ts";
import { QuorumBlock } from "../../format/quorum.ts";
import { SuperBlock } from "../../format/super.ts";
import { COUNTER_LIMIT, fieldU64, isExact, isZero, rawU64, viewOf } from "./raw.ts";
import type { Device } from "../device.ts";
import { DeviceError } from "../errors.ts";
import type { Reporter } from "./report.ts";

/** Structural minimum of the metadata device (01 §2.4). */
const MIN_META_BLOCKS = 1033;
/** Where mkfs' free metadata extents begin. */
export const MKFS_FREE_META = 1031;

export interface FixedBlocks {
  /** The metadata super block, null when nothing of it may be followed. */
  readonly sb: SuperBlock | null;
  /** Slots whose quorum service may be running. */
  readonly runningSlots: readonly number[];
}

interface RawSuper {
  readonly sb: SuperBlock;
  readonly block: Uint8Array;
  /** Magic, crc, place and version are right. */
  readonly good: boolean;
}

export function checkFixed(meta: Device, data: Device, report: Reporter): FixedBlocks {
  const m = readSuper(meta, "metadata", report);
  const d = readSuper(data, "data", report);
  if (m === null) return { sb: null, runningSlots: [] };
  const isMeta = (fieldU64(m.sb, 48) & SUPER_FLAG_META_DEV) !== 0;
  if (m.good && !isMeta) {
    report.add("super-role", { dev: "metadata", flags: fieldU64(m.sb, 48) });
    return { sb: null, runningSlots: [] };
  }
  if (m.good) {
    checkIdentity(m.sb, m.block, "metadata", SUPER_FLAG_META_DEV, report);
    checkTotals(m.sb, meta, data, "metadata", report);
    checkCounters(m.sb, report);
    checkQuorumConfig(m.sb, report);
    checkVolumeOptions(m.sb, report);
  }
  if (d !== null && d.good) {
    if ((fieldU64(d.sb, 48) & SUPER_FLAG_META_DEV) !== 0) {
      report.add("super-role", { dev: "data", flags: fieldU64(d.sb, 48) });
    } else checkIdentity(d.sb, d.block, "data", 0, report);
    checkTotals(d.sb, meta, data, "data", report);
    if (m.good) comparePair(m.sb, d.sb, report);
  }
  const usable = m.good && exactTotals(m.sb);
  return usable
    ? { sb: m.sb, runningSlots: checkQuorumBlocks(meta, m.sb, report) }
    : { sb: null, runningSlots: [] };
}

function readSuper(dev: Device, name: string, report: Reporter): RawSuper | null {
  const block = readSmall(dev, SUPER_BLKNO);
  if (block === null) {
    report.add("super-read", { dev: name });
    return null;
  }
  const v = viewOf(block);
  let good = true;
  const bad = (condition: boolean, code: "super-magic" | "super-crc" | "super-blkno"): void => {
    if (!condition) return;
    report.add(code, { dev: name });
    good = false;
  };
  bad(v.getUint32(4, true) !== MAGIC_SUPER, "super-magic");
  bad(!blockCrcOk(block), "super-crc");
  bad(rawU64(v, 24) !== SUPER_BLKNO, "super-blkno");
  const sb = SuperBlock.at(block);
  const vers = fieldU64(sb, 40);
  if (good && !(vers >= FMT_VERS_MIN && vers <= FMT_VERS_MAX)) {
    report.add("super-version", { dev: name, vers });
    good = false;
  }
  return { sb, block, good };
}

function readSmall(dev: Device, blkno: number): Uint8Array | null {
  if (dev.size < (blkno + 1) * SM_SIZE) return null;
  const block = dev.allocBuffer(SM_SIZE);
  try {
    dev.read(block, blkno * SM_SIZE);
  } catch (e) {
    if (e instanceof DeviceError) return null;
    throw e;
  }
  return block;
}

function checkIdentity(
  sb: SuperBlock,
  block: Uint8Array,
  dev: string,
  flags: number,
  report: Reporter,
): void {
  if (fieldU64(sb, 48) !== flags) report.add("super-flags", { dev, flags: fieldU64(sb, 48) });
  if (fieldU64(sb, 32) !== 0) report.add("super-reserved", { dev, what: "id" });
  if (!isZero(block, SuperBlock.SIZE, SM_SIZE - SuperBlock.SIZE)) {
    report.add("super-reserved", { dev, what: "the bytes behind the structure" });
  }
}

function exactTotals(sb: SuperBlock): boolean {
  return isExact(fieldU64(sb, 96)) && isExact(fieldU64(sb, 104));
}

function checkTotals(
  sb: SuperBlock,
  meta: Device,
  data: Device,
  dev: string,
  report: Reporter,
): void {
  const metaBlocks = fieldU64(sb, 96), dataBlocks = fieldU64(sb, 104);
  const metaHas = Math.floor(meta.size / LG_SIZE), dataHas = Math.floor(data.size / SM_SIZE);
  const complain = (what: string, blocks: number, has: number) =>
    report.add("super-size", { dev, what, blocks, has });
  if (metaBlocks > metaHas || metaBlocks <= META_DEV_START_BLKNO) {
    complain("metadata", metaBlocks, metaHas);
  }
  if (dataBlocks > dataHas || dataBlocks <= DATA_DEV_START_BLKNO) {
    complain("data", dataBlocks, dataHas);
  }
}

export const isUndersized = (sb: SuperBlock): boolean => fieldU64(sb, 96) < MIN_META_BLOCKS;

function checkCounters(sb: SuperBlock, report: Reporter): void {
  const seq = fieldU64(sb, 72), nextIno = fieldU64(sb, 80);
  if (seq < 1 || seq >= COUNTER_LIMIT) report.add("super-seq", { seq });
  if (nextIno < FIRST_FREE_INO || nextIno >= COUNTER_LIMIT) {
    report.add("super-next-ino", { nextIno });
  }
}

function checkQuorumConfig(sb: SuperBlock, report: Reporter): void {
  const seen = new Map<string, number>();
  let present = 0;
  for (let i = 0; i < QUORUM_MAX_SLOTS; i++) {
    const addr = sb.qconf.slots(i).addr;
    const bad = (why: string) => report.add("super-slot", { slot: i, why });
    if (addr.family === AF_NONE) continue;
    if (addr.family !== AF_IPV4) {
      bad(`address family ${addr.family}`);
      continue;
    }
    present++;
    const top = addr.addr >>> 24;
    if (addr.addr === 0 || addr.addr === 0xffff_ffff) bad(`address ${addr.addrText}`);
    if (addr.port === 0) bad("port 0");
    // The offline tools take these, a mount does not (01 §8.3).
    if (addr.addr !== 0 && (top === 0 || top >= 224 && top < 240) || addr.port === 65535) {
      report.add("super-slot-unmountable", { slot: i, addr: addr.toString() });
    }
    const name = addr.toString(), other = seen.get(name);
    if (other !== undefined) bad(`same address as slot ${other}`);
    seen.set(name, i);
  }
  if (present === 0) report.add("super-no-slots", {});
  if (fieldU64(sb.qconf, 0) < 1) report.add("super-slot-version", {});
}

function checkVolumeOptions(sb: SuperBlock, report: Reporter): void {
  const o = sb.volopt;
  const known = o.setBits & 1n;
  if (o.setBits !== known) report.add("super-option", { why: `unknown bits ${o.setBits}` });
  if (!isZero(o.bytes, 16, 504)) report.add("super-option", { why: "unknown values" });
  const z = fieldU64(o, 8), total = fieldU64(sb, 104);
  if (known === 0n) {
    if (z !== 0) report.add("super-option", { why: `a value ${z} that is not set` });
  } else if (
    z < DATA_ALLOC_ZONE_BLOCKS_MIN || z < Math.floor(total / DATA_ALLOC_MAX_ZONES) || z > total
  ) report.add("super-option", { why: `data_alloc_zone_blocks ${z}` });
}

function comparePair(m: SuperBlock, d: SuperBlock, report: Reporter): void {
  if (m.hdr.fsidLo !== d.hdr.fsidLo || m.hdr.fsidHi !== d.hdr.fsidHi) {
    report.add("super-pair", { what: "fsid" });
  }
  if (!bytesEqual(m.uuid, d.uuid)) report.add("super-pair", { what: "uuid" });
  if (fieldU64(m, 40) !== fieldU64(d, 40)) report.add("super-pair", { what: "format version" });
}

/** Checks all quorum blocks; the slots whose service may be running. */
function checkQuorumBlocks(meta: Device, sb: SuperBlock, report: Reporter): number[] {
  const running: number[] = [];
  for (let slot = 0; slot < QUORUM_MAX_SLOTS; slot++) {
    const block = readSmall(meta, QUORUM_BLKNO + slot);
    if (block === null) {
      report.add("quorum-read", { slot });
      continue;
    }
    const q = QuorumBlock.at(block), v = viewOf(block);
    const why = !blockCrcOk(block)
      ? "wrong crc"
      : v.getUint32(4, true) !== MAGIC_QUORUM
      ? "wrong magic"
      : q.hdr.fsidLo !== sb.hdr.fsidLo || q.hdr.fsidHi !== sb.hdr.fsidHi
      ? "wrong fsid"
      : rawU64(v, 24) !== QUORUM_BLKNO + slot
      ? `says that it is block ${rawU64(v, 24)}`
      : null;
    if (why !== null) {
      report.add("quorum-block", { slot, why });
      continue;
    }
    checkEvents(q, block, slot, report);
    if (rawU64(v, 40) > rawU64(v, 240)) running.push(slot);
  }
  return running;
}

function checkEvents(q: QuorumBlock, block: Uint8Array, slot: number, report: Reporter): void {
  const writeNr = fieldU64(q, 32);
  const bad = (why: string) => report.add("quorum-event", { slot, why });
  if (!isExact(writeNr)) bad(`write_nr ${writeNr}`);
  let newest = 0;
  for (let i = 0; i < QUORUM_EVENT_NR; i++) {
    const e = q.events(i), nr = fieldU64(e, 0);
    if (nr > writeNr) bad(`event ${i} has write_nr ${nr}, the block has ${writeNr}`);
    newest = Math.max(newest, nr);
    if (nr === 0 && !isZero(e.bytes, 0, 40)) bad(`event ${i} was never written and is not zero`);
    if (nr !== 0 && e.rid === 0n) bad(`event ${i} has no rid`);
    if (!isExact(fieldU64(e, 16))) bad(`event ${i} has term ${fieldU64(e, 16)}`);
    if (e.ts.nsec >= 1e9) bad(`event ${i} has ${e.ts.nsec} nanoseconds`);
    if (!isZero(e.bytes, 36, 4)) bad(`event ${i} has padding that is not zero`);
  }
  if (newest !== writeNr) bad(`write_nr ${writeNr}, but the newest event has ${newest}`);
  if (!isZero(block, QuorumBlock.SIZE, SM_SIZE - QuorumBlock.SIZE)) {
    bad("the bytes behind the structure are not zero");
  }
}
