/**
 * Which volume a metadata device without usable super block has, and what mkfs made it of: fsid, uuid,
 * format version, sizes, quorum slots, options (01 §8). All of that stands in both super blocks; the
 * fsid also in the quorum blocks and in every metadata block, the format version shows in the items,
 * sizes are the devices'.
 *
 * What is left of a super block is believed where it is possible; a whole one of another volume never.
 */

import { bytesEqual } from "../../../format/bytes.ts";
import {
  AF_IPV4,
  DATA_ALLOC_MAX_ZONES,
  DATA_ALLOC_ZONE_BLOCKS_MIN,
  DATA_DEV_START_BLKNO,
  FMT_VERS_MAX,
  FMT_VERS_MIN,
  LG_SIZE,
  MAGIC_ALLOC_LIST,
  MAGIC_BTREE,
  MAGIC_QUORUM,
  MAGIC_SUPER,
  META_DEV_START_BLKNO,
  QUORUM_BLKNO,
  QUORUM_MAX_SLOTS,
  SM_SIZE,
  SUPER_BLKNO,
  SUPER_FLAG_META_DEV,
} from "../../../format/constants.ts";
import { blockCrcOk } from "../../../format/crc32c.ts";
import { QuorumConfig, SuperBlock } from "../../../format/super.ts";
import type { Device } from "../../device.ts";
import type { Random } from "../../env.ts";
import type { QuorumSlotSetting } from "../../mkfs.ts";
import { fieldU64, rawU64, viewOf } from "../raw.ts";
import type { FoundRoots } from "./find_roots.ts";
import { FsidVotes, isDataCopy, quorumVotes, readBlock, readSuper } from "./supers.ts";

/** Heads of blocks that are asked for their fsid where quorum blocks do not tell. */
const ASKED = 1000;
/** Equal bytes of two random identities that no chance explains. */
const RELATED_FSID = 5;
const RELATED_UUID = 10;

/** What is left of the two super blocks. */
export interface Remains {
  /** The metadata device's. */
  readonly own: SuperBlock | null;
  /** It is a data device's super block: its roots mean nothing. */
  readonly isCopy: boolean;
  /** The data device's, if it is of this volume. */
  readonly other: SuperBlock | null;
  /** The data device has a whole super block of another volume. */
  readonly foreign: boolean;
}

/** The fsid of the volume on a metadata device; null when nothing there has one. */
export function fsidOf(meta: Device, data: Device): bigint | null {
  const votes = new FsidVotes();
  quorumVotes(meta, votes);
  for (const dev of [meta, data]) {
    const raw = readSuper(dev);
    if (raw !== null && SuperBlock.at(raw).hdr.magic === MAGIC_SUPER) {
      votes.add(SuperBlock.at(raw).hdr.fsid);
    }
  }
  const best = votes.best();
  if (best !== null && votes.of(best) > 2) return best;
  const total = Math.floor(meta.size / LG_SIZE);
  let asked = 0;
  for (let blkno = META_DEV_START_BLKNO; blkno < total && asked < ASKED; blkno++) {
    const head = readBlock(meta, blkno * LG_SIZE);
    if (head === null || !MAGICS.has(head.getUint32(4, true)) || rawU64(head, 24) !== blkno) {
      continue;
    }
    votes.add(head.getBigUint64(8, true));
    asked++;
  }
  return votes.best();
}

const MAGICS: ReadonlySet<number> = new Set([MAGIC_BTREE, MAGIC_ALLOC_LIST]);

export function remainsOf(meta: Device, data: Device, fsid: bigint): Remains {
  const own = readable(readSuper(meta), fsid), theirs = readable(readSuper(data), fsid);
  const isCopy = own !== null && isDataCopy(own);
  const ours = theirs !== null && isRelated(theirs, fsid, own);
  return {
    own,
    isCopy,
    other: ours ? theirs : null,
    foreign: theirs !== null && !ours && isSound(theirs),
  };
}

/** A super block that can be recognised as one. */
function readable(raw: Uint8Array | null, fsid: bigint): SuperBlock | null {
  if (raw === null) return null;
  const sb = SuperBlock.at(raw);
  const known = sb.hdr.magic === MAGIC_SUPER ||
    rawU64(viewOf(raw), 24) === SUPER_BLKNO && sb.hdr.fsid === fsid;
  return known ? sb : null;
}

const isSound = (sb: SuperBlock): boolean =>
  sb.hdr.magic === MAGIC_SUPER &&
  blockCrcOk(new Uint8Array(sb.v.buffer, sb.v.byteOffset, SM_SIZE));

/** Whether a super block is one of the volume, however damaged its fsid or uuid are. */
export function isRelated(sb: SuperBlock, fsid: bigint, known: SuperBlock | null): boolean {
  if (sb.hdr.fsid === fsid || known !== null && bytesEqual(sb.uuid, known.uuid)) return true;
  const mine = new Uint8Array(8);
  viewOf(mine).setBigUint64(0, fsid, true);
  const fsids = equalBytes(sb.bytes.subarray(8, 16), mine);
  const uuids = known === null ? 0 : equalBytes(sb.uuid, known.uuid);
  return fsids >= RELATED_FSID || uuids >= RELATED_UUID;
}

function equalBytes(a: Uint8Array, b: Uint8Array): number {
  let n = 0;
  // Zeros are what damage leaves.
  for (let i = 0; i < a.length; i++) if (a[i] === b[i] && a[i] !== 0) n++;
  return n;
}

/** The quorum slots of a volume, and what is to be said about where they are from. */
export interface Slots {
  readonly config: QuorumConfig;
  readonly note: string | null;
}

/** The quorum slots, or why there are none: nothing but super blocks holds their addresses. */
export function slotsOf(
  meta: Device,
  { own, other }: Remains,
  given: readonly QuorumSlotSetting[] = [],
): Slots | string {
  if (given.length > 0) {
    const config = QuorumConfig.alloc();
    config.version = 1;
    for (const { nr, addr, port } of given) config.slots(nr).addr.setIpv4(addr, port);
    return { config, note: "the quorum slots are those that were given" };
  }
  if (own !== null && allValid(own)) return { config: own.qconf, note: null };
  if (other !== null && allValid(other)) {
    const note = isSound(other)
      ? "the quorum slots are those that mkfs wrote"
      : "the quorum slots are from the data device's damaged super block: look at them";
    return { config: other.qconf, note };
  }
  const some = [own, other].find((sb) => sb !== null && validSlots(sb) > 0) ?? null;
  if (some !== null) {
    return { config: some.qconf, note: "the quorum slots are from a damaged super block" };
  }
  const used = usedSlots(meta);
  return "nothing is left that tells the quorum slots: give each of them with --quorum-slot " +
    "NR,ADDR,PORT, as it was given to mkfs" +
    (used.length === 0 ? "" : ` (mounts have used slots ${used.join(", ")})`);
}

function validSlots(sb: SuperBlock): number {
  return sb.qconf.presentSlots().filter((nr) => {
    const { addr } = sb.qconf.slots(nr);
    return addr.family === AF_IPV4 && addr.port !== 0 && addr.addr !== 0;
  }).length;
}

function allValid(sb: SuperBlock): boolean {
  const valid = validSlots(sb);
  return valid > 0 && valid === sb.qconf.presentSlots().length;
}

/** Slots whose quorum blocks say that a mount has used them. */
function usedSlots(meta: Device): number[] {
  const used: number[] = [];
  for (let slot = 0; slot < QUORUM_MAX_SLOTS; slot++) {
    const v = readBlock(meta, (QUORUM_BLKNO + slot) * SM_SIZE);
    if (v?.getUint32(4, true) === MAGIC_QUORUM && rawU64(v, 32) > 0) used.push(slot);
  }
  return used;
}

/** Everything but fsid, roots and counters. */
export function fixedFields(
  sb: SuperBlock,
  meta: Device,
  data: Device,
  { own, other }: Remains,
  slots: Slots,
  found: FoundRoots,
  random: Random,
  notes: string[],
): void {
  const known = [other, own].filter((s): s is SuperBlock => s !== null)
    .sort((a, b) => Number(isSound(b)) - Number(isSound(a)));
  sb.hdr.magic = MAGIC_SUPER;
  sb.hdr.blkno = SUPER_BLKNO;
  sb.hdr.seq = 1n;
  sb.flags = SUPER_FLAG_META_DEV;
  const versions = known.map((s) => fieldU64(s, 40));
  const version = versions.find((n) => n >= FMT_VERS_MIN && n <= FMT_VERS_MAX);
  sb.fmtVers = version ?? found.fmtVers;
  if (version === undefined) {
    notes.push(`format version ${found.fmtVers} is what the items are of`);
  }
  const named = known.find(({ uuid }) => uuid.some((b) => b !== 0));
  if (named !== undefined) sb.uuid.set(named.uuid);
  else {
    newUuid(sb.uuid, random);
    notes.push("the volume has a new uuid");
  }
  const total = (at: number, dev: Device, unit: number, least: number, name: string): number => {
    const most = Math.floor(dev.size / unit);
    // The data device's super block does not learn of a resize (01 §17.5). Of numbers that cannot be
    // relied on the greatest takes least away.
    const possible = (s: SuperBlock) => fieldU64(s, at) >= least && fieldU64(s, at) <= most;
    if (own !== null && isSound(own) && possible(own)) return fieldU64(own, at);
    const totals = known.filter(possible).map((s) => fieldU64(s, at));
    if (totals.length > 0) return Math.max(...totals);
    notes.push(
      `the size of the ${name} device is taken as that of the volume's part: ${most} blocks`,
    );
    return most;
  };
  const metaEnd = Math.max(found.metaEnd, META_DEV_START_BLKNO + 1);
  sb.totalMetaBlocks = total(96, meta, LG_SIZE, metaEnd, "metadata");
  const dataEnd = Math.max(found.dataEnd, DATA_DEV_START_BLKNO + 1);
  sb.totalDataBlocks = total(104, data, SM_SIZE, dataEnd, "data");
  sb.qconf.copyFrom(slots.config);
  if (slots.note !== null) notes.push(slots.note);
  const options = known.find(hasZoneOption);
  if (options !== undefined) {
    sb.volopt.setBits = 1n;
    sb.volopt.dataAllocZoneBlocks = fieldU64(options.volopt, 8);
  } else notes.push("volume options that were set after mkfs are not known");
}

/** A random version 4 UUID. */
function newUuid(uuid: Uint8Array, random: Random): void {
  for (let i = 0; i < uuid.length; i++) uuid[i] = random.below(256);
  uuid[6] = (uuid[6] as number) & 0x0f | 0x40;
  uuid[8] = (uuid[8] as number) & 0x3f | 0x80;
}

function hasZoneOption(sb: SuperBlock): boolean {
  const z = fieldU64(sb.volopt, 8), total = fieldU64(sb, 104);
  return sb.volopt.setBits === 1n && z >= DATA_ALLOC_ZONE_BLOCKS_MIN && z <= total &&
    z >= Math.floor(total / DATA_ALLOC_MAX_ZONES);
}
