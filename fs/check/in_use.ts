/**
 * Whether a volume is or may be mounted somewhere (01 §17.2, 05): what its own blocks say. The
 * devices of this host are guarded by exclusive opens besides.
 *
 * Relies on: nothing. A block that cannot be read speaks for a mount; one that is no quorum block at all
 * says nothing, and is damage that the check reports.
 * Guarantees: no reason is told only if the block of each slot that may be present was read and none says
 * that its slot is in use, and, as far as there is a super block to believe, no client is mounted.
 */

import {
  MAGIC_QUORUM,
  MAGIC_SUPER,
  QUORUM_BLKNO,
  QUORUM_BLOCKS,
  QUORUM_EVENT_BEGIN,
  SM_SIZE,
} from "../../format/constants.ts";
import { blockCrcOk } from "../../format/crc32c.ts";
import { QuorumBlock } from "../../format/quorum.ts";
import { SuperBlock } from "../../format/super.ts";
import type { Device } from "../device.ts";
import { DeviceError } from "../errors.ts";
import { readRawSuper } from "../volume.ts";
import { hex16, rawU64, refBlkno, viewOf } from "./raw.ts";

/**
 * One line per reason to believe that a mount is using the volume; none when it is idle. Blocks that
 * cannot be read are such a reason, the super block alone is not.
 */
export function evidenceOfUse(meta: Device): string[] {
  const reasons: string[] = [];
  const raw = readable(() => readRawSuper(meta)) ?? new Uint8Array(SM_SIZE);
  const sb = SuperBlock.at(raw);
  // Without a super block to believe, any slot may be a present one.
  const good = sb.hdr.magic === MAGIC_SUPER && blockCrcOk(raw);
  const slots = good ? sb.qconf.presentSlots() : Array.from({ length: QUORUM_BLOCKS }, (_, i) => i);
  if (good && refBlkno(sb.mountedClients.ref) !== 0) {
    reasons.push("its mounted_clients tree is not empty: mounts are active, or ended in a crash");
  }
  const block = meta.allocBuffer(SM_SIZE);
  for (const slot of slots) {
    const off = (QUORUM_BLKNO + slot) * SM_SIZE;
    if (readable(() => (meta.read(block, off), true)) === null) {
      reasons.push(`the block of quorum slot ${slot} cannot be read: a mount may be using it`);
      continue;
    }
    const v = viewOf(block);
    if (v.getUint32(4, true) !== MAGIC_QUORUM) continue;
    if (rawU64(v, 40) <= rawU64(v, 240)) continue;
    const rid = QuorumBlock.at(block).events(QUORUM_EVENT_BEGIN).rid;
    const at = good ? ` (${sb.qconf.slots(slot).addr})` : "";
    reasons.push(`quorum slot ${slot}${at} is in use by mount ${hex16(rid)}`);
  }
  return reasons;
}

/** What a read gives; null when the device cannot. */
function readable<T>(read: () => T): T | null {
  try {
    return read();
  } catch (e) {
    if (e instanceof DeviceError) return null;
    throw e;
  }
}

/** Mounts whose quorum service may be running, by the blocks of the slots. Throws DeviceError. */
export function runningMounts(meta: Device): bigint[] {
  const rids: bigint[] = [];
  const sb = SuperBlock.at(readRawSuper(meta));
  const block = meta.allocBuffer(SM_SIZE);
  for (const slot of sb.qconf.presentSlots()) {
    meta.read(block, (QUORUM_BLKNO + slot) * SM_SIZE);
    if (rawU64(viewOf(block), 40) <= rawU64(viewOf(block), 240)) continue;
    rids.push(QuorumBlock.at(block).events(QUORUM_EVENT_BEGIN).rid);
  }
  return rids;
}
