/**
 * Quorum blocks (01 §9, 04 §4) and the datagrams of the election (04 §5).
 */

import { BlockHeader, Timespec } from "./block.ts";
import { checkSize, getU64, setU64, View } from "./bytes.ts";
import {
  QUORUM_BLKNO,
  QUORUM_BLOCKS,
  QUORUM_EVENT_BEGIN,
  QUORUM_EVENT_ELECT,
  QUORUM_EVENT_END,
  QUORUM_EVENT_STOP,
} from "./constants.ts";
import { crc32c } from "./crc32c.ts";

export const QUORUM_MSG_REQUEST_VOTE = 0;
export const QUORUM_MSG_VOTE = 1;
export const QUORUM_MSG_HEARTBEAT = 2;
export const QUORUM_MSG_RESIGNATION = 3;
export const QUORUM_MSG_TYPES = 4;

/**
 * One recorded event of a slot (01 §9), 40 bytes.
 *
 *      0 le64             write_nr
 *      8 le64             rid
 *     16 le64             term
 *     24 timespec         ts
 */
export class QuorumBlockEvent extends View {
  static readonly SIZE = 40;
  /** Block `write_nr` at the time this event was last recorded; 0 = never. */
  get writeNr(): number {
    return getU64(this.v, this.o);
  }
  set writeNr(n: number) {
    setU64(this.v, this.o, n);
  }
  /** Mount id that recorded it; 0 = never. */
  get rid(): bigint {
    return this.v.getBigUint64(this.o + 8, true);
  }
  set rid(n: bigint) {
    this.v.setBigUint64(this.o + 8, n, true);
  }
  /** Election term. */
  get term(): number {
    return getU64(this.v, this.o + 16);
  }
  set term(n: number) {
    setU64(this.v, this.o + 16, n);
  }
  /** Monotonic time since boot of the writer, not wall clock. */
  get ts(): Timespec {
    return new Timespec(this.v, this.o + 24);
  }
  /** Whether it was ever recorded. */
  get isSet(): boolean {
    return this.v.getUint32(this.o, true) !== 0 || this.v.getUint32(this.o + 4, true) !== 0;
  }
}
checkSize(QuorumBlockEvent.SIZE, 8 + 8 + 8 + 16, "QuorumBlockEvent");

/**
 * The block of a quorum slot (01 §9), 280 bytes.
 *
 *      0 block_header     hdr
 *     32 le64             write_nr
 *     40 quorum_block_event[6] events
 */
export class QuorumBlock extends View {
  static readonly SIZE = 280;
  get hdr(): BlockHeader {
    return new BlockHeader(this.v, this.o);
  }
  /** Incremented by every event update. */
  get writeNr(): number {
    return getU64(this.v, this.o + 32);
  }
  set writeNr(n: number) {
    setU64(this.v, this.o + 32, n);
  }
  /** Event `i`, QUORUM_EVENT_*. */
  events(i: number): QuorumBlockEvent {
    return new QuorumBlockEvent(this.v, this.o + 40 + 40 * i);
  }
  /** Whether a quorum service may be running in the slot (04 §4.4). */
  get mayRun(): boolean {
    return this.events(QUORUM_EVENT_BEGIN).writeNr > this.events(QUORUM_EVENT_END).writeNr;
  }
  /** Whether the slot holds an elected leader that has not recorded its stop (04 §4.4). */
  get mayLead(): boolean {
    return this.events(QUORUM_EVENT_ELECT).term > this.events(QUORUM_EVENT_STOP).term;
  }
}
checkSize(QuorumBlock.SIZE, 32 + 8 + 240, "QuorumBlock");

/**
 * A datagram between quorum members (04 §5), 32 bytes.
 *
 *      0 le64             fsid
 *      8 le64             version
 *     16 le64             term
 *     24 u8               type
 *     25 u8               from
 *     26 u8[2]            pad
 *     28 le32             crc
 */
export class QuorumMessage extends View {
  static readonly SIZE = 32;
  get fsid(): bigint {
    return this.v.getBigUint64(this.o, true);
  }
  set fsid(n: bigint) {
    this.v.setBigUint64(this.o, n, true);
  }
  /** Sent as 0, not checked on receipt. */
  get version(): number {
    return getU64(this.v, this.o + 8);
  }
  set version(n: number) {
    setU64(this.v, this.o + 8, n);
  }
  get term(): number {
    return getU64(this.v, this.o + 16);
  }
  set term(n: number) {
    setU64(this.v, this.o + 16, n);
  }
  /** QUORUM_MSG_*. */
  get type(): number {
    return this.v.getUint8(this.o + 24);
  }
  set type(n: number) {
    this.v.setUint8(this.o + 24, n);
  }
  /** Sender's slot number. */
  get from(): number {
    return this.v.getUint8(this.o + 25);
  }
  set from(n: number) {
    this.v.setUint8(this.o + 25, n);
  }
  /** CRC of bytes 0…27. */
  get crc(): number {
    return this.v.getUint32(this.o + 28, true);
  }
  set crc(n: number) {
    this.v.setUint32(this.o + 28, n, true);
  }
  /** Stores the crc over the other fields. */
  seal(): void {
    this.crc = crc32c(this.bytes, 0, 28);
  }
  crcOk(): boolean {
    return this.crc === crc32c(this.bytes, 0, 28);
  }
}
checkSize(QuorumMessage.SIZE, 8 + 8 + 8 + 1 + 1 + 2 + 4, "QuorumMessage");

/** Small block number of a slot's quorum block. */
export function quorumBlkno(slot: number): number {
  if (!(slot >= 0 && slot < QUORUM_BLOCKS)) throw new Error(`no quorum slot ${slot}`);
  return QUORUM_BLKNO + slot;
}
