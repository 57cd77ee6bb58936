/**
 * Making a filesystem (01 §17.1), byte for byte what the reference writes given the same identity
 * and time. Nothing here draws random numbers or reads a clock: they are parameters.
 *
 * Only the blocks named in 01 §17.1 are written, each in full; the metadata super last, after a
 * flush of everything it refers to, so that a volume exists completely or not at all.
 */

import {
  AllocListBlock,
  type AllocRoot,
  freeExtentKey,
  freeExtentOrderKey,
} from "../format/alloc.ts";
import { BlockHeader } from "../format/block.ts";
import { BtreeBlock, type BtreeRoot } from "../format/btree.ts";
import {
  BTREE_HEADER_BYTES,
  BTREE_ITEM_BYTES,
  BTREE_LEAF_FREE,
  DATA_ALLOC_MAX_ZONES,
  DATA_ALLOC_ZONE_BLOCKS_MIN,
  DATA_DEV_START_BLKNO,
  DIRENT_FIRST_POS,
  FIRST_FREE_INO,
  FMT_VERS_MAX,
  FMT_VERS_MIN,
  LEAF_ITEM_HASH_OFF,
  LG_SIZE,
  MAGIC_ALLOC_LIST,
  MAGIC_BTREE,
  MAGIC_QUORUM,
  MAGIC_SUPER,
  META_DEV_START_BLKNO,
  QUORUM_BLKNO,
  QUORUM_BLOCKS,
  QUORUM_MAX_SLOTS,
  ROOT_INO,
  SM_SIZE,
  SUPER_BLKNO,
  SUPER_FLAG_META_DEV,
  UUID_BYTES,
  VOLOPT_DATA_ALLOC_ZONE_BLOCKS,
} from "../format/constants.ts";
import { sealBlock } from "../format/crc32c.ts";
import { EINVAL } from "../format/errno.ts";
import { keyBucket } from "../format/hash.ts";
import { Inode, inodeKey, metaSeqKey } from "../format/items.ts";
import type { Key } from "../format/key.ts";
import { SuperBlock } from "../format/super.ts";
import type { Device } from "./device.ts";
import { assert, FsError } from "./errors.ts";

/** Blocks handed to the first server transaction: 64 MiB. */
const SERVER_AVAIL_BLOCKS = 1024;
const FS_ROOT_BLKNO = META_DEV_START_BLKNO;
const SERVER_AVAIL_BLKNO = FS_ROOT_BLKNO + 1;
const FIRST_AVAIL_BLKNO = SERVER_AVAIL_BLKNO + 1;
const DATA_ALLOC_BLKNO = FIRST_AVAIL_BLKNO + SERVER_AVAIL_BLOCKS;
const META_ALLOC_BLKNO = DATA_ALLOC_BLKNO + 1;
/** First block of the free metadata extents. */
const FIRST_FREE_META_BLKNO = META_ALLOC_BLKNO + 2;

/** Fewest blocks with which every free extent has at least one block (01 §2.4). */
export const MIN_META_BLOCKS = FIRST_FREE_META_BLKNO + 2;
export const MIN_DATA_BLOCKS = DATA_DEV_START_BLKNO + 1;

/** Every block is born in generation 1. */
const SEQ = 1n;

export interface QuorumSlotSetting {
  /** 0 … 14. */
  nr: number;
  /** The number a<<24|b<<16|c<<8|d. */
  addr: number;
  port: number;
}

export interface MkfsParams {
  /** Random. */
  fsid: bigint;
  /** 16 bytes, a version 4 UUID. */
  uuid: Uint8Array;
  /** Times of the root directory. */
  time: { sec: number; nsec: number };
  fmtVers: number;
  /** Bytes to use of each device; the rest is left alone. */
  metaBytes: number;
  dataBytes: number;
  slots: readonly QuorumSlotSetting[];
  /** Value of the volume option, absent to leave it unset. */
  dataAllocZoneBlocks?: number;
}

export interface NewFilesystem {
  /** Of the metadata device. */
  superBlock: SuperBlock;
}

/**
 * Checks `params` and writes the filesystem. Throws FsError(EINVAL) before the first write when
 * the parameters cannot make a sound volume, DeviceError when a write fails.
 */
export function makeFilesystem(meta: Device, data: Device, params: MkfsParams): NewFilesystem {
  const { fsid, fmtVers } = params;
  const totalMeta = Math.floor(params.metaBytes / LG_SIZE);
  const totalData = Math.floor(params.dataBytes / SM_SIZE);
  assert(params.uuid.length === UUID_BYTES, "a uuid has 16 bytes");
  checkParams(params, totalMeta, totalData);
  assert(params.metaBytes <= meta.size && params.dataBytes <= data.size, "sizes exceed devices");

  const lg = meta.allocBuffer(LG_SIZE);
  const writeLg = (blkno: number, fill: (block: Uint8Array) => void) => {
    lg.fill(0);
    fill(lg);
    sealBlock(lg);
    meta.write(lg, blkno * LG_SIZE);
  };
  const writeExtentLeaf = (blkno: number, start: number, len: number) =>
    writeLg(blkno, (block) => {
      fillHeader(BlockHeader.at(block), MAGIC_BTREE, fsid, blkno);
      fillLeaf(block, [
        { key: freeExtentKey(start, len) },
        { key: freeExtentOrderKey(start, len) },
      ]);
    });

  const freeMeta = totalMeta - FIRST_FREE_META_BLKNO;
  const metaLens = [Math.ceil(freeMeta / 2), Math.floor(freeMeta / 2)] as const;
  const dataLen = totalData - DATA_DEV_START_BLKNO;

  writeLg(FS_ROOT_BLKNO, (block) => {
    fillHeader(BlockHeader.at(block), MAGIC_BTREE, fsid, FS_ROOT_BLKNO);
    fillLeaf(block, [
      { key: metaSeqKey(0, ROOT_INO) },
      { key: inodeKey(ROOT_INO), val: rootInode(fmtVers, params.time) },
    ]);
  });
  writeLg(SERVER_AVAIL_BLKNO, (block) => {
    const list = AllocListBlock.at(block);
    fillHeader(list.hdr, MAGIC_ALLOC_LIST, fsid, SERVER_AVAIL_BLKNO);
    list.nr = SERVER_AVAIL_BLOCKS;
    for (let i = 0; i < SERVER_AVAIL_BLOCKS; i++) list.setEntry(i, FIRST_AVAIL_BLKNO + i);
  });
  writeExtentLeaf(DATA_ALLOC_BLKNO, DATA_DEV_START_BLKNO, dataLen);
  writeExtentLeaf(META_ALLOC_BLKNO, FIRST_FREE_META_BLKNO, metaLens[0]);
  writeExtentLeaf(META_ALLOC_BLKNO + 1, FIRST_FREE_META_BLKNO + metaLens[0], metaLens[1]);

  const sm = meta.allocBuffer(SM_SIZE);
  for (let i = 0; i < QUORUM_BLOCKS; i++) {
    sm.fill(0);
    fillHeader(BlockHeader.at(sm), MAGIC_QUORUM, fsid, QUORUM_BLKNO + i);
    sealBlock(sm);
    meta.write(sm, (QUORUM_BLKNO + i) * SM_SIZE);
  }
  meta.flush();

  const superBytes = data.allocBuffer(SM_SIZE);
  const sb = SuperBlock.at(superBytes);
  fillHeader(sb.hdr, MAGIC_SUPER, fsid, SUPER_BLKNO);
  sb.fmtVers = fmtVers;
  sb.uuid.set(params.uuid);
  sb.seq = 1;
  sb.nextIno = FIRST_FREE_INO;
  sb.inodeCount = 1;
  sb.totalMetaBlocks = totalMeta;
  sb.totalDataBlocks = totalData;
  fillQuorumConfig(sb, params.slots);
  fillAllocRoot(sb.metaAlloc(0), metaLens[0], META_ALLOC_BLKNO);
  fillAllocRoot(sb.metaAlloc(1), metaLens[1], META_ALLOC_BLKNO + 1);
  fillAllocRoot(sb.dataAlloc, dataLen, DATA_ALLOC_BLKNO);
  const avail = sb.serverMetaAvail(0);
  avail.ref.blkno = SERVER_AVAIL_BLKNO;
  avail.ref.seq = SEQ;
  avail.totalNr = SERVER_AVAIL_BLOCKS;
  avail.firstNr = SERVER_AVAIL_BLOCKS;
  fillRoot(sb.fsRoot, FS_ROOT_BLKNO);
  if (params.dataAllocZoneBlocks !== undefined) {
    sb.volopt.setOption(VOLOPT_DATA_ALLOC_ZONE_BLOCKS, BigInt(params.dataAllocZoneBlocks));
  }

  sealBlock(superBytes);
  data.write(superBytes, SUPER_BLKNO * SM_SIZE);
  data.flush();
  sm.set(superBytes);
  const metaSuper = SuperBlock.at(sm);
  metaSuper.flags = SUPER_FLAG_META_DEV;
  sealBlock(sm);
  meta.write(sm, SUPER_BLKNO * SM_SIZE);
  meta.flush();

  const superBlock = SuperBlock.alloc();
  superBlock.copyFrom(metaSuper);
  return { superBlock };
}

function checkParams(params: MkfsParams, totalMeta: number, totalData: number): void {
  const refuse = (message: string) => new FsError(EINVAL, message);
  if (params.fmtVers < FMT_VERS_MIN || params.fmtVers > FMT_VERS_MAX) {
    throw refuse(
      `format-version ${params.fmtVers} is outside supported range of ${FMT_VERS_MIN}-${FMT_VERS_MAX}`,
    );
  }
  if (totalMeta < MIN_META_BLOCKS) {
    throw refuse(
      `metadata size of ${params.metaBytes} bytes is too small: a volume needs at least ${
        MIN_META_BLOCKS * LG_SIZE
      } bytes`,
    );
  }
  if (totalData < MIN_DATA_BLOCKS) {
    throw refuse(
      `data size of ${params.dataBytes} bytes is too small: a volume needs at least ${
        MIN_DATA_BLOCKS * SM_SIZE
      } bytes`,
    );
  }
  const zone = params.dataAllocZoneBlocks;
  if (zone !== undefined) {
    const least = Math.max(
      DATA_ALLOC_ZONE_BLOCKS_MIN,
      Math.floor(totalData / DATA_ALLOC_MAX_ZONES),
    );
    if (zone < least || zone > totalData) {
      throw refuse(
        `data-alloc-zone-blocks ${zone} must be between ${least} and ${totalData} for this data device`,
      );
    }
  }
  if (params.slots.length === 0) throw refuse("at least one quorum slot is needed");
  const problem = slotConflict(params.slots);
  if (problem !== undefined) throw refuse(problem);
}

/** What is wrong with a set of quorum slots (01 §17.1), undefined for a valid one. */
export function slotConflict(slots: readonly QuorumSlotSetting[]): string | undefined {
  const sorted = [...slots].sort((a, b) => a.nr - b.nr);
  for (const [i, a] of sorted.entries()) {
    if (!Number.isInteger(a.nr) || a.nr < 0 || a.nr >= QUORUM_MAX_SLOTS) {
      return `quorum slot nr ${a.nr} must be between 0 and ${QUORUM_MAX_SLOTS - 1}`;
    }
    if (a.addr === 0 || a.addr === 0xffff_ffff) {
      return `quorum slot nr ${a.nr} has no usable address`;
    }
    if (a.port < 1 || a.port > 65535) return `quorum slot nr ${a.nr} has an invalid port ${a.port}`;
    for (const b of sorted.slice(i + 1)) {
      if (a.nr === b.nr) return `quorum slot nr ${a.nr} is given twice`;
      if (a.addr === b.addr && a.port === b.port) {
        return `quorum slot nr ${a.nr} and ${b.nr} have the same address ${slotAddress(a)}`;
      }
    }
  }
  return undefined;
}

/** `a.b.c.d:port` */
export function slotAddress(slot: QuorumSlotSetting): string {
  const { addr, port } = slot;
  return `${addr >>> 24}.${addr >>> 16 & 255}.${addr >>> 8 & 255}.${addr & 255}:${port}`;
}

function fillHeader(hdr: BlockHeader, magic: number, fsid: bigint, blkno: number): void {
  hdr.magic = magic;
  hdr.fsid = fsid;
  hdr.seq = SEQ;
  hdr.blkno = blkno;
}

function fillRoot(root: BtreeRoot, blkno: number): void {
  root.ref.blkno = blkno;
  root.ref.seq = SEQ;
  root.height = 1;
}

function fillAllocRoot(alloc: AllocRoot, totalLen: number, blkno: number): void {
  alloc.totalLen = totalLen;
  fillRoot(alloc.root, blkno);
}

function fillQuorumConfig(sb: SuperBlock, slots: readonly QuorumSlotSetting[]): void {
  sb.qconf.version = 1;
  for (const { nr, addr, port } of slots) sb.qconf.slots(nr).addr.setIpv4(addr, port);
}

function rootInode(fmtVers: number, time: { sec: number; nsec: number }): Uint8Array {
  const inode = Inode.alloc();
  inode.nextReaddirPos = DIRENT_FIRST_POS;
  inode.nlink = 2;
  inode.mode = 0o40755;
  for (const ts of [inode.atime, inode.ctime, inode.mtime, inode.crtime]) {
    ts.set(time.sec, time.nsec);
  }
  return inode.bytes.subarray(0, Inode.sizeOf(fmtVers));
}

interface LeafItem {
  key: Key;
  val?: Uint8Array;
}

/**
 * Fills a leaf with two items in key order, linked as the reference's mkfs links them: the second
 * is the root with height 0 and the first its left child with height 1 (01 §10.3 Note).
 */
function fillLeaf(block: Uint8Array, items: readonly [LeafItem, LeafItem]): void {
  const v = new DataView(block.buffer, block.byteOffset, block.length);
  const off = (slot: number) => BTREE_HEADER_BYTES + BTREE_ITEM_BYTES * slot;
  const node = (slot: number) => off(slot) - 32;
  const head = BtreeBlock.at(block);
  let valueEnd = LEAF_ITEM_HASH_OFF;
  let itemBytes = 0;
  for (const [slot, { key, val }] of items.entries()) {
    const at = off(slot);
    key.write(v, at + 8);
    v.setBigUint64(at + 40, SEQ, true);
    itemBytes += BTREE_ITEM_BYTES;
    if (val !== undefined) {
      assert(val.length % 8 === 0, "value of a first leaf is not a multiple of 8 bytes");
      valueEnd -= val.length;
      itemBytes += val.length;
      block.set(val, valueEnd);
      v.setUint16(at + 48, valueEnd, true);
      v.setUint16(at + 50, val.length, true);
    }
    let bucket = keyBucket(v, at + 8);
    while (v.getUint16(LEAF_ITEM_HASH_OFF + 2 * bucket, true) !== 0) bucket++;
    v.setUint16(LEAF_ITEM_HASH_OFF + 2 * bucket, at, true);
  }
  v.setUint16(off(0), node(1), true); // parent of slot 0
  v.setUint8(off(0) + 6, 1);
  v.setUint16(off(1) + 2, node(0), true); // left child of slot 1
  head.itemRoot = node(1);
  head.nrItems = items.length;
  head.totalItemBytes = itemBytes;
  head.midFreeLen = BTREE_LEAF_FREE - itemBytes;
}
