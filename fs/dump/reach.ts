/**
 * Every metadata block that a volume's super block leads to, for dumps. Made for broken volumes: a
 * block is handed over as it is, and what it references is followed as long as it looks at all like
 * what was expected. Nothing here throws on hostile bytes, loops, or visits a block more than once
 * in each of its roles.
 *
 * Blocks are read wave by wave (a wave is what the blocks of the last one reference) in ascending
 * order, neighbours with one call. Memory: a bitmap of the device per role, and the block numbers of
 * one wave. On the way it learns which blocks are listed as free, so that lost ones can be told.
 *
 * Snapshots that may be older than a reuse of their blocks (merge requests, trees and search files
 * that are being freed, 01 §13.3–13.4) are followed only where the expected seq is still there.
 */

import type { AllocListHead, AllocRoot } from "../../format/alloc.ts";
import type { BlockRef } from "../../format/block.ts";
import type { BtreeRoot } from "../../format/btree.ts";
import {
  ALLOC_LIST_MAX_BLOCKS,
  BTREE_HEADER_BYTES,
  BTREE_ITEM_BYTES,
  LG_SIZE,
  MAGIC_ALLOC_LIST,
  MAGIC_BLOOM,
  MAGIC_BTREE,
  MAGIC_SRCH_BLOCK,
  MAGIC_SRCH_PARENT,
  META_DEV_START_BLKNO,
  SRCH_PARENT_REFS,
  ZONE_FREE_EXTENT_BLKNO,
  ZONE_LOG_MERGE_COMPLETE,
  ZONE_LOG_MERGE_FREEING,
  ZONE_LOG_MERGE_REQUEST,
} from "../../format/constants.ts";
import { LogTrees } from "../../format/log_trees.ts";
import { LogMergeComplete, LogMergeFreeing, LogMergeRequest } from "../../format/merge.ts";
import { SrchCompact, SrchFile } from "../../format/srch.ts";
import type { SuperBlock } from "../../format/super.ts";
import type { Device } from "../device.ts";
import { DeviceError } from "../errors.ts";
import { Bitmap } from "./bitmap.ts";

/** What a block is reached as. The numbers are part of `code`. */
const TREE = 0; // a btree whose values hold no references
const LOGS = 1;
const SRCH_TREE = 2;
const MERGE = 3;
const LIST = 4;
const SRCH = 5; // a srch file's block, with its level
const BLOOM = 6;
const OLD_TREE = 7; // only while the seq matches
const OLD_SRCH = 8;
const META_FREE = 9; // the extents of free metadata
const ROLES = 10;

const MAGICS: readonly number[] = [
  MAGIC_BTREE,
  MAGIC_ALLOC_LIST,
  MAGIC_BLOOM,
  MAGIC_SRCH_BLOCK,
  MAGIC_SRCH_PARENT,
];

/** Largest single read, in blocks. */
const MAX_RUN = 32;
const MAX_LEVEL = 31;
const TWO32 = 0x1_0000_0000;

export interface ReachVisitor {
  /**
   * A referenced block, once; the buffer is good until the call returns. `seq` is what the reference
   * expects, where `held` is there to ask for it.
   */
  block(blkno: number, bytes: Uint8Array, seq: bigint | undefined): void;
  /** The bytes of a block that need not be read, if the caller has this version of it. */
  held?(blkno: number, seq: bigint): Uint8Array | undefined;
  /** A referenced block that the device cannot give. */
  unreadable(blkno: number, why: string): void;
}

/** A large block of this kind carries one of the format's magics. */
export function hasLargeMagic(v: DataView): boolean {
  return MAGICS.includes(v.getUint32(4, true));
}

/** The le64 at `o`, rounded above 2^53. */
const rawU64 = (v: DataView, o: number): number =>
  v.getUint32(o + 4, true) * TWO32 + v.getUint32(o, true);

/** Visits all blocks that `sb` leads to; see the head of this file. */
export function visitReachable(dev: Device, sb: SuperBlock, visitor: ReachVisitor): Reached {
  const walk = new ReachWalk(dev, visitor);
  walk.start(sb);
  walk.run();
  return walk;
}

/** What a walk has learnt of each block. */
export interface Reached {
  /** It has been handed over. */
  has(blkno: number): boolean;
  /** An allocator lists it as free. */
  isFree(blkno: number): boolean;
}

class ReachWalk implements Reached {
  readonly #blocks: number;
  readonly #seen: (Bitmap | undefined)[] = new Array(ROLES);
  readonly #given: Bitmap;
  readonly #free: Bitmap;
  readonly #window: Uint8Array;
  #wave: number[] = [];
  /** Expected seqs of the blocks of the present wave that may be old, or held, by code. */
  #expected = new Map<number, bigint>();

  constructor(private readonly dev: Device, private readonly visitor: ReachVisitor) {
    this.#blocks = Math.floor(dev.size / LG_SIZE);
    this.#given = new Bitmap(this.#blocks);
    this.#free = new Bitmap(this.#blocks);
    this.#window = dev.allocBuffer(MAX_RUN * LG_SIZE);
  }

  has(blkno: number): boolean {
    return this.#given.has(blkno);
  }

  isFree(blkno: number): boolean {
    return this.#free.has(blkno);
  }

  start(sb: SuperBlock): void {
    for (const i of [0, 1] as const) {
      this.#tree(sb.metaAlloc(i).root, META_FREE);
      this.#list(sb.serverMetaAvail(i));
      this.#list(sb.serverMetaFreed(i));
    }
    this.#alloc(sb.dataAlloc);
    this.#tree(sb.fsRoot, TREE);
    this.#tree(sb.logsRoot, LOGS);
    this.#tree(sb.logMerge, MERGE);
    this.#tree(sb.mountedClients, TREE);
    this.#tree(sb.srchRoot, SRCH_TREE);
  }

  run(): void {
    while (this.#wave.length > 0) {
      const wave = this.#wave, expected = this.#expected;
      this.#wave = [];
      this.#expected = new Map();
      const codes = Float64Array.from(this.#visitHeld(wave, expected)).sort();
      let at = 0;
      while (at < codes.length) {
        const first = blknoOf(codes[at] as number);
        let end = at + 1, blocks = 1;
        for (; end < codes.length; end++) {
          const blkno = blknoOf(codes[end] as number);
          if (blkno === first + blocks - 1) continue;
          if (blkno !== first + blocks || blocks === MAX_RUN) break;
          blocks++;
        }
        const readable = this.#read(first, blocks);
        for (let i = at; i < end; i++) {
          const code = codes[i] as number, slot = blknoOf(code) - first;
          if (readable === null || readable[slot] === 1) {
            const bytes = this.#window.subarray(slot * LG_SIZE, (slot + 1) * LG_SIZE);
            this.#visit(code, bytes, expected.get(code));
          }
        }
        at = end;
      }
    }
  }

  /** Visits what need not be read; returns the rest. */
  #visitHeld(wave: number[], expected: ReadonlyMap<number, bigint>): number[] {
    const { visitor } = this;
    if (visitor.held === undefined) return wave;
    return wave.filter((code) => {
      const seq = expected.get(code);
      const bytes = seq === undefined ? undefined : visitor.held?.(blknoOf(code), seq);
      if (bytes !== undefined) this.#visit(code, bytes, seq);
      return bytes === undefined;
    });
  }

  /** Reads a run into the window; null when all went well, else which blocks did. */
  #read(first: number, blocks: number): Uint8Array | null {
    try {
      this.dev.read(this.#window.subarray(0, blocks * LG_SIZE), first * LG_SIZE);
      return null;
    } catch (e) {
      if (!(e instanceof DeviceError)) throw e;
    }
    const readable = new Uint8Array(blocks);
    for (let i = 0; i < blocks; i++) {
      try {
        const one = this.#window.subarray(i * LG_SIZE, (i + 1) * LG_SIZE);
        this.dev.read(one, (first + i) * LG_SIZE);
        readable[i] = 1;
      } catch (e) {
        if (!(e instanceof DeviceError)) throw e;
        this.visitor.unreadable(first + i, e.message);
      }
    }
    return readable;
  }

  #visit(code: number, bytes: Uint8Array, seq: bigint | undefined): void {
    const blkno = blknoOf(code), role = roleOf(code), level = code % 32;
    const v = new DataView(bytes.buffer, bytes.byteOffset, LG_SIZE);
    if (isOld(role) && v.getBigUint64(16, true) !== seq) return;
    const magic = v.getUint32(4, true);
    if (!this.has(blkno)) {
      this.#given.set(blkno);
      this.visitor.block(blkno, bytes, seq);
    }
    // A damaged magic does not make it another block; one of another kind does.
    if (MAGICS.includes(magic) && !expects(role, level, magic)) return;
    if (role === BLOOM) return;
    if (role === LIST) this.#listBlock(v);
    else if (role === SRCH || role === OLD_SRCH) this.#radix(v, role, level);
    else this.#btree(v, role, level);
  }

  #btree(v: DataView, role: number, level: number): void {
    const max = Math.floor((LG_SIZE - BTREE_HEADER_BYTES) / BTREE_ITEM_BYTES);
    const nr = Math.min(v.getUint16(34, true), max);
    const isParent = level > 0 || v.getUint8(40) > 0;
    for (let i = 0; i < nr; i++) {
      const item = BTREE_HEADER_BYTES + BTREE_ITEM_BYTES * i;
      const off = v.getUint16(item + 48, true), len = v.getUint16(item + 50, true);
      if (off + len > LG_SIZE) continue;
      if (isParent) {
        if (len === 16) this.#follow(v, off, role, Math.max(0, level - 1));
      } else if (role === META_FREE) {
        if (v.getUint8(item + 33) === ZONE_FREE_EXTENT_BLKNO) {
          this.#extent(rawU64(v, item + 8), rawU64(v, item + 16));
        }
      } else if (role === LOGS) {
        if (len >= LogTrees.SIZE) this.#logTrees(new LogTrees(v, off));
      } else if (role === SRCH_TREE) {
        if (len >= SrchCompact.SIZE) this.#compaction(new SrchCompact(v, off));
        else if (len >= SrchFile.SIZE) this.#file(new SrchFile(v, off), SRCH);
      } else if (role === MERGE) this.#mergeItem(v, v.getUint8(item + 33), off, len);
    }
  }

  #listBlock(v: DataView): void {
    this.#follow(v, 32, LIST, 0);
    const start = v.getUint32(48, true), nr = v.getUint32(52, true);
    for (let i = start; i < Math.min(start + nr, ALLOC_LIST_MAX_BLOCKS); i++) {
      const blkno = rawU64(v, 56 + 8 * i);
      if (blkno < this.#blocks) this.#free.set(blkno);
    }
  }

  /** The extent of a free extent item (01 §11.1) that ends with block `last`. */
  #extent(last: number, len: number): void {
    if (last >= this.#blocks || len > last + 1) return;
    this.#free.setRun(last - len + 1, len);
  }

  #radix(v: DataView, role: number, level: number): void {
    if (level === 0) return;
    for (let i = 0; i < SRCH_PARENT_REFS; i++) this.#follow(v, 32 + 16 * i, role, level - 1);
  }

  #logTrees(lt: LogTrees): void {
    this.#list(lt.metaAvail);
    this.#list(lt.metaFreed);
    this.#tree(lt.itemRoot, TREE);
    this.#ref(lt.bloomRef, BLOOM, 0);
    this.#alloc(lt.dataAvail);
    this.#alloc(lt.dataFreed);
    this.#file(lt.srchFile, SRCH);
  }

  #compaction(c: SrchCompact): void {
    this.#list(c.metaAvail);
    this.#list(c.metaFreed);
    this.#file(c.out, SRCH);
    for (let i = 0; i < 4; i++) this.#file(c.in(i).sfl, OLD_SRCH);
  }

  #mergeItem(v: DataView, zone: number, off: number, len: number): void {
    if (zone === ZONE_LOG_MERGE_REQUEST && len >= LogMergeRequest.SIZE) {
      const r = new LogMergeRequest(v, off);
      this.#list(r.metaAvail);
      this.#list(r.metaFreed);
      this.#tree(r.root, OLD_TREE);
    } else if (zone === ZONE_LOG_MERGE_COMPLETE && len >= LogMergeComplete.SIZE) {
      const c = new LogMergeComplete(v, off);
      this.#list(c.metaAvail);
      this.#list(c.metaFreed);
      this.#tree(c.root, OLD_TREE);
    } else if (zone === ZONE_LOG_MERGE_FREEING && len >= LogMergeFreeing.SIZE) {
      this.#tree(new LogMergeFreeing(v, off).root, OLD_TREE);
    }
  }

  #alloc(root: AllocRoot): void {
    this.#tree(root.root, TREE);
  }

  #list(head: AllocListHead): void {
    this.#ref(head.ref, LIST, 0);
  }

  #tree(root: BtreeRoot, role: number): void {
    this.#ref(root.ref, role, Math.max(0, root.height - 1));
  }

  #file(file: SrchFile, role: number): void {
    this.#ref(file.ref, role, Math.max(0, file.height - 1));
  }

  #ref(ref: BlockRef, role: number, level: number): void {
    this.#follow(ref.v, ref.o, role, level);
  }

  /** Puts the block that the reference at byte `o` names in the next wave. */
  #follow(v: DataView, o: number, role: number, level: number): void {
    const blkno = rawU64(v, o);
    if (blkno < META_DEV_START_BLKNO || blkno >= this.#blocks) return;
    let seen = this.#seen[role];
    if (seen === undefined) {
      seen = new Bitmap(this.#blocks);
      this.#seen[role] = seen;
    }
    if (seen.has(blkno)) return;
    seen.set(blkno);
    const code = (blkno * 16 + role) * 32 + Math.min(level, MAX_LEVEL);
    if (isOld(role) || this.visitor.held !== undefined) {
      this.#expected.set(code, v.getBigUint64(o + 8, true));
    }
    this.#wave.push(code);
  }
}

const isOld = (role: number): boolean => role === OLD_TREE || role === OLD_SRCH;
const blknoOf = (code: number): number => Math.floor(code / 512);
const roleOf = (code: number): number => Math.floor(code / 32) % 16;

function expects(role: number, level: number, magic: number): boolean {
  if (role === LIST) return magic === MAGIC_ALLOC_LIST;
  if (role === BLOOM) return magic === MAGIC_BLOOM;
  if (role === SRCH || role === OLD_SRCH) {
    return magic === (level === 0 ? MAGIC_SRCH_BLOCK : MAGIC_SRCH_PARENT);
  }
  return magic === MAGIC_BTREE;
}
