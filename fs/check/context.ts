/**
 * What all passes of one check share: the devices, the super block as it is believed, who owns
 * which block, where problems go. Also the one way in which a reference to a metadata block is
 * followed: in range, claimed once, judged, reported.
 */

import type { BlockRef } from "../../format/block.ts";
import { META_DEV_START_BLKNO } from "../../format/constants.ts";
import type { SuperBlock } from "../../format/super.ts";
import type { Key } from "../../format/key.ts";
import type { Device } from "../device.ts";
import type { Crew } from "./crew.ts";
import type { BlockOwners } from "./owners.ts";
import { NOBODY } from "./owners.ts";
import { refBlkno } from "./raw.ts";
import type { Reporter } from "./report.ts";
import {
  BAD_BLKNO,
  BAD_CRC,
  BAD_FSID,
  BAD_MAGIC,
  BAD_READ,
  BAD_SEQ,
  type MetaSource,
  type RawBlock,
  type Ref,
} from "./source.ts";

export interface Progress {
  /** What is being done, e.g. "items". */
  readonly phase: string;
  /** 0 … 1 of this stage of the work, as far as is known; less than before where a stage begins. */
  readonly share: number;
  readonly bytesRead: number;
}

/** What walking trees and checking items takes: as much as other threads have of a check. */
export interface WalkContext {
  readonly source: MetaSource;
  readonly report: Reporter;
  readonly owners: BlockOwners;
  readonly fmtVers: number;
  /** Large blocks that references may lead to: total_meta_blocks, more for undersized volumes. */
  readonly metaBlocks: number;
  readonly dataBlocks: number;
  /** Bad btree blocks, for repair. */
  readonly badBlocks: BadBlock[];
}

export interface CheckContext extends WalkContext {
  readonly meta: Device;
  readonly data: Device;
  /** A copy of the metadata super block. */
  readonly sb: SuperBlock;
  /** Made so small that mkfs' free extents wrap (01 §2.4). */
  readonly undersized: boolean;
  /** Bytes of memory that large structures may take together. */
  readonly memory: number;
  readonly tempDir: string | undefined;
  /** Owner number of fs_root. */
  readonly fsRootOwner: number;
  /** Threads that help. */
  readonly crew: Crew | null;
  /** Leaves, and words of records, of a unit of the items' pass, where that is not left to it. */
  readonly unitLeaves: number | undefined;
  readonly unitWords: number | undefined;
}

/** A btree block that must be written anew. */
export interface BadBlock {
  readonly tree: string;
  readonly ref: Ref;
  readonly level: number;
  readonly lo: Key;
  readonly hi: Key;
  /** Nothing of its contents can be believed. */
  readonly lost: boolean;
}

export function toRef(ref: BlockRef): Ref {
  return { blkno: refBlkno(ref), seqLo: ref.seqLo, seqHi: ref.seqHi };
}

/** Whether `blkno` is a block that can be referenced; reports it otherwise. */
export function inRange(cx: WalkContext, blkno: number, what: string): boolean {
  if (blkno >= META_DEV_START_BLKNO && blkno < cx.metaBlocks) return true;
  cx.report.add("ref-range", { what, blkno });
  return false;
}

/** Claims a block that is in range; reports and returns false when it has an owner already. */
export function claim(cx: WalkContext, blkno: number, owner: number): boolean {
  const before = cx.owners.of(blkno);
  if (before === NOBODY) {
    cx.owners.claim(blkno, owner);
    return true;
  }
  reportConflict(cx, blkno, before, owner);
  return false;
}

export function reportConflict(
  cx: WalkContext,
  blkno: number,
  before: number,
  owner: number,
): void {
  const values = { blkno, first: cx.owners.name(before), second: cx.owners.name(owner) };
  const frees = (cx.owners.isFree(before) ? 1 : 0) + (cx.owners.isFree(owner) ? 1 : 0);
  cx.report.add(
    frees === 2 ? "meta-free-twice" : frees === 1 ? "meta-free-in-use" : "meta-block-twice",
    values,
  );
}

/** A block was reached through a reference that it does not answer: it is another block now. */
export const isForeign = (bad: number): boolean =>
  (bad & (BAD_MAGIC | BAD_FSID | BAD_SEQ | BAD_BLKNO)) !== 0;

/** Reports each rule of 01 §5.2 that a block breaks. */
export function reportBad(cx: WalkContext, bad: number, blkno: number, what: string): void {
  if (bad & BAD_READ) cx.report.add("block-read", { what, blkno });
  if (bad & BAD_CRC) cx.report.add("block-crc", { what, blkno });
  if (bad & BAD_MAGIC) cx.report.add("block-magic", { what, blkno });
  if (bad & BAD_FSID) cx.report.add("block-fsid", { what, blkno });
  if (bad & BAD_SEQ) cx.report.add("block-seq", { what, blkno });
  if (bad & BAD_BLKNO) cx.report.add("block-blkno", { what, blkno });
}

/**
 * Follows a reference: reads, judges, claims. False when nothing of the block may be used; a block
 * that has only a wrong crc is reported and still handed over when `salvage` is set.
 */
export function follow(
  cx: WalkContext,
  ref: Ref,
  magic: number,
  owner: number,
  into: RawBlock,
  salvage = false,
): boolean {
  const what = cx.owners.name(owner);
  if (!inRange(cx, ref.blkno, what)) return false;
  const bad = cx.source.read(into, ref, magic);
  if (bad !== 0) reportBad(cx, bad, ref.blkno, what);
  if (isForeign(bad)) return false;
  if (!claim(cx, ref.blkno, owner)) return false;
  return bad === 0 || salvage && bad === BAD_CRC;
}
