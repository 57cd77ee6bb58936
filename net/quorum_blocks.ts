/**
 * Quorum blocks on the metadata device (04 §4): reading and validating any slot's block, recording
 * events in our own. Reads bypass every cache; a record is durable when it returns.
 *
 * Invariants: only the mount that holds a slot writes its block, and after BEGIN only if the
 * block's BEGIN still carries its rid (04 §4.3); events of other kinds are preserved.
 */

import {
  MAGIC_QUORUM,
  MAGIC_SUPER,
  QUORUM_EVENT_BEGIN,
  QUORUM_EVENT_ELECT,
  QUORUM_EVENT_FENCE,
  QUORUM_EVENT_NR,
  QUORUM_EVENT_STOP,
  QUORUM_MAX_SLOTS,
  SM_SIZE,
  SUPER_BLKNO,
} from "../format/constants.ts";
import { blockCrcOk, sealBlock } from "../format/crc32c.ts";
import { EINVAL } from "../format/errno.ts";
import { quorumBlkno, QuorumBlock } from "../format/quorum.ts";
import { type QuorumConfig, SuperBlock } from "../format/super.ts";
import type { Device } from "../fs/device.ts";
import type { Clock, Ipv4Addr } from "../fs/env.ts";
import { CorruptError, FsError } from "../fs/errors.ts";

/** Addresses of the 15 slots; null where none is configured. */
export type Slots = readonly (Ipv4Addr | null)[];

export function slotsOf(config: QuorumConfig): Slots {
  const slots: (Ipv4Addr | null)[] = [];
  for (let i = 0; i < QUORUM_MAX_SLOTS; i++) {
    const { addr } = config.slots(i);
    slots.push(addr.isPresent ? { addr: addr.addr, port: addr.port } : null);
  }
  return slots;
}

export function presentSlots(slots: Slots): number[] {
  const nrs: number[] = [];
  slots.forEach((s, nr) => {
    if (s !== null) nrs.push(nr);
  });
  return nrs;
}

/** The rules of 04 §3 for a member in `slot`; throws FsError(EINVAL) naming what is wrong. */
export function checkSlots(slots: Slots, slot: number): void {
  const bad = (why: string): FsError => new FsError(EINVAL, `quorum configuration: ${why}`);
  const seen = new Set<string>();
  slots.forEach((s, nr) => {
    if (s === null) return;
    const first = s.addr >>> 24;
    if (first === 0 || (first >= 224 && first < 240) || s.addr === 0xffffffff) {
      throw bad(`the address of slot ${nr} is not a unicast IPv4 address`);
    }
    if (s.port === 0 || s.port === 65535) throw bad(`slot ${nr} has port ${s.port}`);
    const both = `${s.addr}:${s.port}`;
    if (seen.has(both)) throw bad(`slot ${nr} has the address and port of another slot`);
    seen.add(both);
  });
  if (seen.size === 0) throw bad("no slot is configured");
  if (slots[slot] === undefined || slots[slot] === null) {
    throw bad(`slot ${slot}, given as quorum_slot_nr, is not configured`);
  }
}

/** One event as plain values. */
export interface EventRecord {
  readonly writeNr: number;
  readonly rid: bigint;
  readonly term: number;
}

/** A slot's block as plain values, events by number. */
export interface SlotRecord {
  readonly slot: number;
  readonly events: readonly EventRecord[];
}

/** Elected and not recorded as stopped (04 §4.4). */
export const mayLead = (r: SlotRecord): boolean =>
  r.events[QUORUM_EVENT_ELECT].term > r.events[QUORUM_EVENT_STOP].term;

/** An older leader that was overwritten by a newer election and never stopped (04 §4.4). */
export const olderMayLead = (r: SlotRecord): boolean =>
  r.events[QUORUM_EVENT_FENCE].term > r.events[QUORUM_EVENT_STOP].term &&
  r.events[QUORUM_EVENT_FENCE].term < r.events[QUORUM_EVENT_ELECT].term;

/** A leader of an earlier term that did not record its stop. */
export interface PreviousLeader {
  readonly slot: number;
  readonly rid: bigint;
  readonly term: number;
}

/** Whom the leader of `term`, mount `rid`, has to fence before it touches the volume (04 §8). */
export function previousLeaders(
  records: readonly SlotRecord[],
  term: number,
  rid: bigint,
): PreviousLeader[] {
  let fenced = 0;
  const candidates: PreviousLeader[] = [];
  for (const r of records) {
    const elect = r.events[QUORUM_EVENT_ELECT];
    const fence = r.events[QUORUM_EVENT_FENCE];
    if (mayLead(r)) candidates.push({ slot: r.slot, rid: elect.rid, term: elect.term });
    if (olderMayLead(r)) candidates.push({ slot: r.slot, rid: fence.rid, term: fence.term });
    fenced = Math.max(fenced, fence.term);
  }
  // A leader of exactly the newest fenced term is itself still to be fenced.
  return candidates.filter((c) =>
    c.term > 0 && c.term >= fenced && c.term <= term && c.rid !== rid
  );
}

/** Access to the small blocks of a volume; one buffer, so not reentrant. */
export class SmallBlocks {
  readonly #buf: Uint8Array;
  constructor(readonly device: Device, readonly fsid: bigint) {
    this.#buf = device.allocBuffer(SM_SIZE);
  }

  /** Reads and validates a slot's block (04 §4.2); throws CorruptError or DeviceError. */
  readSlot(slot: number): SlotRecord {
    const block = this.#readQuorumBlock(slot);
    const events: EventRecord[] = [];
    for (let e = 0; e < QUORUM_EVENT_NR; e++) {
      const { writeNr, rid, term } = block.events(e);
      events.push({ writeNr, rid, term });
    }
    return { slot, events };
  }

  /** Records an event in our own slot (04 §4.3); throws CorruptError or DeviceError. */
  record(slot: number, event: number, term: number, rid: bigint, clock: Clock): void {
    const block = this.#readQuorumBlock(slot);
    if (event !== QUORUM_EVENT_BEGIN && block.events(QUORUM_EVENT_BEGIN).rid !== rid) {
      throw new CorruptError(`quorum slot ${slot} is used by another mount`);
    }
    block.writeNr++;
    const e = block.events(event);
    e.writeNr = block.writeNr;
    e.rid = rid;
    e.term = term;
    const { sec, nsec } = clock.monotonic();
    e.ts.sec = sec;
    e.ts.nsec = nsec;
    this.#buf.fill(0, QuorumBlock.SIZE);
    sealBlock(this.#buf);
    this.device.write(this.#buf, quorumBlkno(slot) * SM_SIZE);
    this.device.flush();
  }

  /** Reads and validates the super block; the view lives until the next call of this object. */
  readSuper(): SuperBlock {
    this.device.read(this.#buf, SUPER_BLKNO * SM_SIZE);
    const s = SuperBlock.at(this.#buf);
    this.#validate(MAGIC_SUPER, SUPER_BLKNO, "super block");
    return s;
  }

  /** A copy of the bytes read last. */
  copy(): Uint8Array {
    const copy = this.device.allocBuffer(SM_SIZE);
    copy.set(this.#buf);
    return copy;
  }

  #readQuorumBlock(slot: number): QuorumBlock {
    this.device.read(this.#buf, quorumBlkno(slot) * SM_SIZE);
    this.#validate(MAGIC_QUORUM, quorumBlkno(slot), `quorum block of slot ${slot}`);
    return QuorumBlock.at(this.#buf);
  }

  #validate(magic: number, blkno: number, what: string): void {
    const { hdr } = SuperBlock.at(this.#buf);
    const bad = (why: string): CorruptError =>
      new CorruptError(`${this.device.name}: ${what}: ${why}`);
    if (!blockCrcOk(this.#buf)) throw bad("wrong crc");
    if (hdr.magic !== magic) throw bad("wrong magic");
    if (hdr.fsid !== this.fsid) throw bad("belongs to another filesystem");
    if (hdr.blkno !== blkno) throw bad(`claims to be block ${hdr.blkno}`);
  }
}
