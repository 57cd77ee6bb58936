/**
 * The data device's super block, made to agree with that of the metadata device. It is written only to
 * a device that belongs to the volume:
 *
 * - fsid or uuid are the volume's, or enough bytes of them that no chance explains it; or
 * - the super block is damaged, and what is left of it is the volume's: both totals, or the quorum
 *   slots; or
 * - nothing is left of it, the device holds nothing that is known, it is large enough, and where files
 *   of the volume have data there is some.
 *
 * A whole super block of another volume is never overwritten, unless the user says that the device is
 * the right one; one of a metadata device never is (super_blocks.ts).
 */

import { bytesEqual } from "../../../format/bytes.ts";
import {
  FMT_VERS_MAX,
  FMT_VERS_MIN,
  LG_SIZE,
  MAGIC_SUPER,
  SEF_OFFLINE,
  SEF_UNWRITTEN,
  SM_SIZE,
  SUPER_BLKNO,
  SUPER_FLAG_META_DEV,
  TYPE_DATA_EXTENT,
  ZONE_FS,
} from "../../../format/constants.ts";
import { blockCrcOk, sealBlock } from "../../../format/crc32c.ts";
import { Key } from "../../../format/key.ts";
import { SuperBlock } from "../../../format/super.ts";
import { BlockCache } from "../../block_cache.ts";
import type { Device } from "../../device.ts";
import type { Random } from "../../env.ts";
import { assert, DeviceError, FsError } from "../../errors.ts";
import { ItemTrees } from "../../resolve.ts";
import { findSignature } from "../../signatures.ts";
import { fieldU64, isZero, rawU64, viewOf } from "../raw.ts";
import { readBlock, readSuper } from "./supers.ts";
import { isRelated } from "./volume_identity.ts";

/** The id in a super block, which is always 0. */
const ID = 32;
/** Allocators and roots in a super block: of no meaning on the data device. */
const ROOTS = 600;
const ROOTS_END = 968;
/** Extents of files that are looked at. */
const SAMPLES = 64;

export interface DataSuper {
  readonly written: boolean;
  /** What makes the device the right one, if that is not its fsid or uuid. */
  readonly note: string | null;
  /** Why nothing was written: the device may not be the volume's. */
  readonly refused: string | null;
}

const refuse = (refused: string): DataSuper => ({ written: false, note: null, refused });

/** `trusted`: the user says that the device is the volume's. */
export function mendDataSuper(
  meta: Device,
  data: Device,
  random: Random,
  trusted: boolean,
): DataSuper {
  const ours = readSuper(meta);
  if (ours === null || !isMetaSuper(ours)) return { written: false, note: null, refused: null };
  const raw = readSuper(data) ?? new Uint8Array(SM_SIZE);
  const sb = SuperBlock.at(ours), other = SuperBlock.at(raw);
  const whole = other.hdr.magic === MAGIC_SUPER && blockCrcOk(raw);
  let note: string | null = null;
  const ourOwn = isRelated(other, sb.hdr.fsid, sb);
  if (!ourOwn) {
    if (whole && !trusted) return refuse("the data device belongs to another volume");
    const proof = proofOfDevice(meta, data, sb, other, raw, random, trusted);
    if (proof.refused !== null) return proof;
    note = proof.note;
  }
  const made = data.allocBuffer(SM_SIZE);
  made.set(ours);
  const copy = SuperBlock.at(made);
  // What only the metadata device uses stays as mkfs left it, if it is readable at all.
  if (other.hdr.magic === MAGIC_SUPER && ourOwn) made.set(raw.subarray(112, SuperBlock.SIZE), 112);
  else made.fill(0, ROOTS, ROOTS_END);
  for (const [at, dev, unit] of [[96, meta, LG_SIZE], [104, data, SM_SIZE]] as const) {
    const has = Math.floor(dev.size / unit), theirs = fieldU64(other, at);
    // A size that is damaged is not handed on.
    if (fieldU64(copy, at) <= has) continue;
    copy.v.setBigUint64(copy.o + at, BigInt(theirs > 0 && theirs <= has ? theirs : has), true);
  }
  copy.flags = 0;
  copy.hdr.seq = 1n;
  sealBlock(made);
  if (bytesEqual(made, raw)) return { written: false, note: null, refused: null };
  data.write(made, SUPER_BLKNO * SM_SIZE);
  data.flush();
  return { written: true, note, refused: null };
}

/**
 * Zeroes what is reserved in a super block of the data device that is sound otherwise. Throws DeviceError
 * when it cannot be read any more.
 */
export function clearReserved(data: Device): void {
  const block = readSuper(data);
  if (block === null) throw new DeviceError(data.name, "its super block cannot be read any more");
  block.fill(0, ID, ID + 8);
  sealBlock(block);
  data.write(block, SUPER_BLKNO * SM_SIZE);
  data.flush();
}

function isMetaSuper(raw: Uint8Array): boolean {
  const sb = SuperBlock.at(raw);
  const version = fieldU64(sb, 40);
  return sb.hdr.magic === MAGIC_SUPER && blockCrcOk(raw) &&
    fieldU64(sb, 48) === SUPER_FLAG_META_DEV && version >= FMT_VERS_MIN && version <= FMT_VERS_MAX;
}

/**
 * What speaks against a data device without super block being that of the volume on `meta`, whose super
 * block can be read; null when it is shown to be.
 */
export function reasonAgainst(meta: Device, data: Device, random: Random): string | null {
  const ours = readSuper(meta), raw = readSuper(data) ?? new Uint8Array(SM_SIZE);
  assert(ours !== null, "the metadata device has a super block");
  const sb = SuperBlock.at(ours);
  return proofOfDevice(meta, data, sb, SuperBlock.at(raw), raw, random, false).refused;
}

function proofOfDevice(
  meta: Device,
  data: Device,
  sb: SuperBlock,
  other: SuperBlock,
  raw: Uint8Array,
  random: Random,
  trusted: boolean,
): DataSuper {
  const proven = (note: string): DataSuper => ({ written: false, note, refused: null });
  const blocks = Math.floor(data.size / SM_SIZE);
  if (blocks < fieldU64(sb, 104)) {
    return refuse(`the data device has ${blocks} blocks, the volume ${fieldU64(sb, 104)}`);
  }
  if (trusted) return proven("the data device was said to be the right one");
  if (namesVolume(other)) {
    return refuse(
      "the data device's damaged super block is another volume's; if the device is this one's, " +
        "--trust-data-device says so",
    );
  }
  if (fieldU64(sb, 96) === fieldU64(other, 96) && fieldU64(sb, 104) === fieldU64(other, 104)) {
    return proven("the sizes in its damaged super block are the volume's");
  }
  if (!isZero(raw, 120, 480) && sameSlots(sb, other)) {
    return proven("the quorum slots in its damaged super block are the volume's");
  }
  const signature = findSignature(data);
  if (signature !== undefined && signature.kind !== "scoutfs") {
    return refuse(`the data device holds something else: ${signature.type}`);
  }
  const { sampled, filled } = sampleData(meta, data, sb, random);
  // Where no file has data a device that nothing has been written to is as good as any.
  if (sampled === 0 ? isZero(raw, 0, SM_SIZE) : filled * 2 > sampled) {
    return proven(`${filled} of ${sampled} extents of files that were looked at hold data`);
  }
  return refuse(
    "nothing shows that the data device is the volume's: " +
      (sampled === 0
        ? "no file has data, and the device is not empty"
        : `${sampled - filled} of ${sampled} extents of files that were looked at are empty`) +
      "; if it is, --trust-data-device says so",
  );
}

/** Whether a damaged super block still says which volume it is of, whole in all that says it. */
const namesVolume = (sb: SuperBlock): boolean =>
  sb.hdr.magic === MAGIC_SUPER && fieldU64(sb, 24) === SUPER_BLKNO && sb.hdr.fsid !== 0n &&
  sb.uuid.some((b) => b !== 0);

function sameSlots(a: SuperBlock, b: SuperBlock): boolean {
  const slots = (s: SuperBlock) =>
    s.qconf.presentSlots().map((nr) => `${nr} ${s.qconf.slots(nr).addr}`).join();
  return slots(a) === slots(b);
}

/**
 * Whether written extents of files begin with anything but zeros on the device: some of all of them, as
 * accidents happen to the front of a device.
 */
function sampleData(
  meta: Device,
  data: Device,
  sb: SuperBlock,
  random: Random,
): { sampled: number; filled: number } {
  const chosen: number[] = [];
  let extents = 0;
  const cache = new BlockCache(meta, sb.hdr.fsid, { random });
  try {
    const first = Key.of(ZONE_FS, 0, 0), last = Key.of(ZONE_FS + 1, 0, 0);
    for (const { key, val } of new ItemTrees(cache, sb).items(first, last)) {
      if (key.type !== TYPE_DATA_EXTENT || val.length !== 16) continue;
      const blkno = rawU64(viewOf(val), 0);
      const mapped = ((val[8] as number) & (SEF_OFFLINE | SEF_UNWRITTEN)) === 0 && blkno > 0;
      if (!mapped || (blkno + 1) * SM_SIZE > data.size) continue;
      // Each extent has the same chance to be among those that are left in the end.
      const at = random.below(++extents);
      if (chosen.length < SAMPLES) chosen.push(blkno);
      else if (at < SAMPLES) chosen[at] = blkno;
    }
  } catch (e) {
    // What can be read is enough.
    if (!(e instanceof FsError) && !(e instanceof DeviceError)) throw e;
  }
  let filled = 0;
  for (const blkno of chosen) {
    const block = readBlock(data, blkno * SM_SIZE);
    if (
      block !== null && !isZero(new Uint8Array(block.buffer, block.byteOffset, SM_SIZE), 0, SM_SIZE)
    ) {
      filled++;
    }
  }
  return { sampled: chosen.length, filled };
}
