/**
 * The data device's super block, made to agree with that of the metadata device. It is written only to
 * a device that belongs to the volume:
 *
 * - fsid or uuid are the volume's; or
 * - the super block is damaged, and what is left of it is the volume's: both totals, or the quorum
 *   slots; or
 * - nothing is left of it, the device holds nothing that is known, it is large enough, and where files
 *   of the volume have data there is some.
 *
 * A whole super block of another volume is never overwritten, nor one of a metadata device.
 */

import { bytesEqual } from "../../../format/bytes.ts";
import {
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
import { DeviceError, FsError } from "../../errors.ts";
import { ItemTrees } from "../../resolve.ts";
import { findSignature } from "../../signatures.ts";
import { fieldU64, isZero, rawU64, viewOf } from "../raw.ts";
import { readSuper } from "./supers.ts";

/** Allocators and roots in a super block: of no meaning on the data device. */
const ROOTS = 600;
const ROOTS_END = 968;
/** Extents of files that are looked at. */
const SAMPLES = 64;

export interface DataSuper {
  readonly written: boolean;
  /** What makes the device the right one, if that is not its fsid or uuid. */
  readonly note: string | null;
  /** Why nothing was written. */
  readonly refused: string | null;
}

const refuse = (refused: string): DataSuper => ({ written: false, note: null, refused });

export function mendDataSuper(meta: Device, data: Device, random: Random): DataSuper {
  const ours = readSuper(meta);
  if (ours === null || !isMetaSuper(ours)) return { written: false, note: null, refused: null };
  const raw = readSuper(data) ?? new Uint8Array(SM_SIZE);
  const sb = SuperBlock.at(ours), other = SuperBlock.at(raw);
  const whole = other.hdr.magic === MAGIC_SUPER && blockCrcOk(raw);
  if (whole && (fieldU64(other, 48) & SUPER_FLAG_META_DEV) !== 0) {
    // One flag is no reason to take a metadata device, whose super block names a tree, for ours.
    if (!other.fsRoot.isEmpty && !bytesEqual(other.fsRoot.bytes, MKFS_ROOT)) {
      return refuse("what was given as the data device is a metadata device");
    }
  }
  let note: string | null = null;
  if (sb.hdr.fsid !== other.hdr.fsid && !bytesEqual(sb.uuid, other.uuid)) {
    if (whole) return refuse("the data device belongs to another volume");
    const proof = proofOfDevice(meta, data, sb, other, raw, random);
    if (proof.refused !== null) return proof;
    note = proof.note;
  }
  const made = data.allocBuffer(SM_SIZE);
  made.set(ours);
  const copy = SuperBlock.at(made);
  // What only the metadata device uses stays as mkfs left it, if it is readable at all.
  if (other.hdr.magic === MAGIC_SUPER) made.set(raw.subarray(112, SuperBlock.SIZE), 112);
  else made.fill(0, ROOTS, ROOTS_END);
  copy.flags = 0;
  copy.hdr.seq = 1n;
  sealBlock(made);
  if (bytesEqual(made, raw)) return { written: false, note: null, refused: null };
  data.write(made, SUPER_BLKNO * SM_SIZE);
  data.flush();
  return { written: true, note, refused: null };
}

/** Where mkfs puts fs_root (01 §17.1): block 2, seq 1, height 1. The data device's copy names it. */
const MKFS_ROOT = (() => {
  const bytes = new Uint8Array(24);
  bytes[0] = 2;
  bytes[8] = 1;
  bytes[16] = 1;
  return bytes;
})();

function isMetaSuper(raw: Uint8Array): boolean {
  const sb = SuperBlock.at(raw);
  return sb.hdr.magic === MAGIC_SUPER && blockCrcOk(raw) &&
    fieldU64(sb, 48) === SUPER_FLAG_META_DEV;
}

function proofOfDevice(
  meta: Device,
  data: Device,
  sb: SuperBlock,
  other: SuperBlock,
  raw: Uint8Array,
  random: Random,
): DataSuper {
  const proven = (note: string): DataSuper => ({ written: false, note, refused: null });
  const blocks = Math.floor(data.size / SM_SIZE);
  if (blocks < fieldU64(sb, 104)) {
    return refuse(`the data device has ${blocks} blocks, the volume ${fieldU64(sb, 104)}`);
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
  if (sampled === 0 || filled * 2 > sampled) {
    return proven(`${filled} of ${sampled} extents of files that were looked at hold data`);
  }
  return refuse(
    `nothing shows that the data device is the volume's: ${
      sampled - filled
    } of ${sampled} extents ` +
      "of files that were looked at are empty",
  );
}

function sameSlots(a: SuperBlock, b: SuperBlock): boolean {
  const slots = (s: SuperBlock) =>
    s.qconf.presentSlots().map((nr) => `${nr} ${s.qconf.slots(nr).addr}`).join();
  return slots(a) === slots(b);
}

/** Whether written extents of files begin with anything but zeros on the device. */
function sampleData(
  meta: Device,
  data: Device,
  sb: SuperBlock,
  random: Random,
): { sampled: number; filled: number } {
  let sampled = 0, filled = 0;
  const cache = new BlockCache(meta, sb.hdr.fsid, { random });
  const block = data.allocBuffer(SM_SIZE);
  try {
    const first = Key.of(ZONE_FS, 0, 0), last = Key.of(ZONE_FS + 1, 0, 0);
    for (const { key, val } of new ItemTrees(cache, sb).items(first, last)) {
      if (key.type !== TYPE_DATA_EXTENT || val.length !== 16) continue;
      const blkno = rawU64(viewOf(val), 0);
      const mapped = ((val[8] as number) & (SEF_OFFLINE | SEF_UNWRITTEN)) === 0 && blkno > 0;
      if (!mapped || (blkno + 1) * SM_SIZE > data.size) continue;
      data.read(block, blkno * SM_SIZE);
      sampled++;
      if (!isZero(block, 0, SM_SIZE)) filled++;
      if (sampled === SAMPLES) break;
    }
  } catch (e) {
    // What can be read is enough.
    if (!(e instanceof FsError) && !(e instanceof DeviceError)) throw e;
  }
  return { sampled, filled };
}
