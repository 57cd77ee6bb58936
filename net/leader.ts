/**
 * Finding the leader (04 §7) by reading the device: a hint, taken anew for every attempt, which may
 * name a leader that is still starting or already dead.
 */

import { QUORUM_EVENT_ELECT } from "../format/constants.ts";
import { EINVAL } from "../format/errno.ts";
import type { Ipv4Addr } from "../fs/env.ts";
import { FsError } from "../fs/errors.ts";
import { mayLead, presentSlots, slotsOf, type SmallBlocks } from "./quorum_blocks.ts";

export interface Leader {
  readonly slot: number;
  readonly addr: Ipv4Addr;
  readonly term: number;
  readonly rid: bigint;
}

/**
 * The recorded leader of the greatest term, or null. Reads the super block too: a volume of another
 * format version than `fmtVers`, or any unreadable block, fails the lookup (FsError).
 */
export function findLeader(blocks: SmallBlocks, fmtVers: number): Leader | null {
  const sb = blocks.readSuper();
  if (sb.fmtVers !== fmtVers) {
    throw new FsError(EINVAL, `format version changed from ${fmtVers} to ${sb.fmtVers}`);
  }
  const slots = slotsOf(sb.qconf);
  let best: Leader | null = null;
  for (const slot of presentSlots(slots)) {
    const record = blocks.readSlot(slot);
    const { term, rid } = record.events[QUORUM_EVENT_ELECT];
    if (mayLead(record) && (best === null || term > best.term)) {
      best = { slot, addr: slots[slot]!, term, rid };
    }
  }
  return best;
}
