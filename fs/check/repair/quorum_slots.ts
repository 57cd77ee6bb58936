/**
 * Quorum blocks (01 §9) of a volume that nobody uses: the marks of mounts that ended in a crash are
 * closed once everything they left has been taken back, and blocks that mean nothing, or cannot be read,
 * are replaced by empty ones. They lie at fixed places and belong to no commit; each is one atomic write.
 */

import {
  MAGIC_QUORUM,
  QUORUM_BLKNO,
  QUORUM_EVENT_BEGIN,
  QUORUM_EVENT_ELECT,
  QUORUM_EVENT_END,
  QUORUM_EVENT_STOP,
  QUORUM_MAX_SLOTS,
  SM_SIZE,
} from "../../../format/constants.ts";
import { blockCrcOk, sealBlock } from "../../../format/crc32c.ts";
import { QuorumBlock } from "../../../format/quorum.ts";
import type { Device } from "../../device.ts";
import { DeviceError } from "../../errors.ts";
import { isExact, rawU64 } from "../raw.ts";

/** Marks every slot as one whose mount has ended; returns those that it changed. */
export function closeSlots(meta: Device): number[] {
  const closed: number[] = [];
  for (let slot = 0; slot < QUORUM_MAX_SLOTS; slot++) {
    const block = meta.allocBuffer(SM_SIZE), off = (QUORUM_BLKNO + slot) * SM_SIZE;
    try {
      meta.read(block, off);
    } catch (e) {
      if (e instanceof DeviceError) continue;
      throw e;
    }
    const q = QuorumBlock.at(block);
    if (!blockCrcOk(block) || q.hdr.magic !== MAGIC_QUORUM || !isExact(rawU64(q.v, q.o + 32))) {
      continue;
    }
    const run = rawU64(q.v, q.o + 40) > rawU64(q.v, q.o + 240);
    const lead = rawU64(q.v, q.o + 136) > rawU64(q.v, q.o + 216);
    if (!run && !lead) continue;
    if (lead) record(q, QUORUM_EVENT_STOP, QUORUM_EVENT_ELECT);
    if (run) record(q, QUORUM_EVENT_END, QUORUM_EVENT_BEGIN);
    sealBlock(block);
    meta.write(block, off);
    closed.push(slot);
  }
  if (closed.length > 0) meta.flush();
  return closed;
}

/** Records an event of the mount, and the term, that another event names. */
function record(q: QuorumBlock, event: number, like: number): void {
  const to = q.events(event), from = q.events(like);
  q.writeNr++;
  to.copyFrom(from);
  to.writeNr = q.writeNr;
}

/**
 * Writes empty blocks for slots but those that are `dead`: whose blocks the device has not taken before.
 * Whether it took any.
 */
export function resetSlots(
  meta: Device,
  fsid: bigint,
  slots: ReadonlySet<number>,
  dead: Set<number>,
  log: (line: string) => void,
): boolean {
  let any = false;
  for (const slot of slots) {
    if (dead.has(slot)) continue;
    const why = resetSlot(meta, fsid, slot);
    if (why === null) any = true;
    else dead.add(slot);
    log(
      why === null
        ? `the quorum block of slot ${slot} was replaced by an empty one`
        : `the quorum block of slot ${slot} cannot be replaced: ${why}`,
    );
  }
  return any;
}

/** Writes an empty block, as mkfs does; why the device does not take it, null if it does. */
function resetSlot(meta: Device, fsid: bigint, slot: number): string | null {
  const block = meta.allocBuffer(SM_SIZE);
  const { hdr } = QuorumBlock.at(block);
  hdr.magic = MAGIC_QUORUM;
  hdr.fsid = fsid;
  hdr.seq = 1n;
  hdr.blkno = QUORUM_BLKNO + slot;
  sealBlock(block);
  try {
    meta.write(block, (QUORUM_BLKNO + slot) * SM_SIZE);
    meta.flush();
  } catch (e) {
    if (e instanceof DeviceError) return e.message;
    throw e;
  }
  return null;
}
