/** Space and inode counts of the volume (02 §21, 05 §2.1), and its pools of free blocks (05 §9.12). */

import {
  LG_SIZE,
  SM_SIZE,
  SUPER_BLKNO,
  TYPE_SRCH_BUSY,
  TYPE_SRCH_PENDING,
  ZONE_LOG_MERGE_COMPLETE,
  ZONE_LOG_MERGE_REQUEST,
  ZONE_SRCH,
} from "../../format/constants.ts";
import { Key } from "../../format/key.ts";
import { LogMergeComplete, LogMergeRequest } from "../../format/merge.ts";
import { SrchCompact } from "../../format/srch.ts";
import { SuperBlock } from "../../format/super.ts";
import { CMD_STATFS, NetStatfs } from "../../format/wire.ts";
import { forEachItem } from "../btree.ts";
import { asCorrupt, StaleError } from "../errors.ts";
import { forEachLogTree } from "../forest.ts";
import type { Fs } from "../fs.ts";

/** Values of statfs(2). */
export interface StatFs {
  bsize: number;
  frsize: number;
  blocks: number;
  bfree: number;
  bavail: number;
  files: number;
  ffree: number;
  namelen: number;
  /** `f_fsid.val`. */
  fsid: [number, number];
}

const SM_PER_LG = LG_SIZE / SM_SIZE;
/** Metadata bytes per inode in the estimate of capacity. */
const BYTES_PER_INODE = 2048;

/** From the server's last stable super: what is dirty in open transactions is not seen. */
export async function statfs(fs: Fs): Promise<StatFs> {
  const st = NetStatfs.at(await fs.link.request(CMD_STATFS, new Uint8Array(0)));
  const { uuid } = st;
  const words = new DataView(uuid.buffer, uuid.byteOffset, uuid.length);
  const word = (i: number) => words.getUint32(i * 4, true);
  const free = st.freeMetaBlocks * SM_PER_LG + st.freeDataBlocks;
  const files = st.totalMetaBlocks * (LG_SIZE / BYTES_PER_INODE);
  return {
    bsize: SM_SIZE,
    frsize: SM_SIZE,
    blocks: st.totalMetaBlocks * SM_PER_LG + st.totalDataBlocks,
    bfree: free,
    bavail: free,
    files,
    ffree: Math.max(0, files - st.inodeCount),
    namelen: 255,
    fsid: [(word(0) ^ word(1)) >>> 0, (word(2) ^ word(3)) >>> 0],
  };
}

/** The super block as it is on the metadata device. */
export function readSuper(fs: Fs): SuperBlock {
  const buf = fs.meta.allocBuffer(SM_SIZE);
  fs.meta.read(buf, SUPER_BLKNO * SM_SIZE);
  return SuperBlock.at(buf);
}

/** A pool of blocks; metadata pools count 64 KiB, data pools 4 KiB blocks. */
export interface AllocPool {
  id: bigint;
  blocks: number;
  meta: boolean;
  avail: boolean;
}

/** Newer supers are read at most so often while others commit. */
const STALE_RETRIES = 10;

/** Every pool of free or freed blocks, as committed. */
export function allocPools(fs: Fs): AllocPool[] {
  for (let tries = 1;; tries++) {
    try {
      return readPools(fs, readSuper(fs));
    } catch (e) {
      if (!(e instanceof StaleError)) throw asCorrupt(e, "the pools of free blocks");
      if (tries === STALE_RETRIES) throw e.asDamage;
    }
  }
}

function readPools(fs: Fs, sb: SuperBlock): AllocPool[] {
  const pools: AllocPool[] = [];
  const add = (id: bigint, blocks: number, meta: boolean, avail: boolean) => {
    pools.push({ id, blocks, meta, avail });
  };
  const lists = (
    id: bigint,
    v: { metaAvail: { totalNr: number }; metaFreed: { totalNr: number } },
  ) => {
    add(id, v.metaAvail.totalNr, true, true);
    add(id, v.metaFreed.totalNr, true, false);
  };
  const tree = { cache: fs.cache };

  add(0n, sb.metaAlloc(0).totalLen, true, true);
  add(0n, sb.metaAlloc(1).totalLen, true, true);
  add(0n, sb.dataAlloc.totalLen, false, true);
  for (const i of [0, 1]) add(1n, sb.serverMetaAvail(i).totalNr, true, true);
  for (const i of [0, 1]) add(1n, sb.serverMetaFreed(i).totalNr, true, false);
  forEachLogTree(tree, sb.logsRoot, (lt) => {
    lists(lt.rid, lt);
    add(lt.rid, lt.dataAvail.totalLen, false, true);
    add(lt.rid, lt.dataFreed.totalLen, false, false);
  });
  forEachItem(tree, sb.srchRoot, Key.of(ZONE_SRCH, 0, TYPE_SRCH_PENDING), (item) => {
    if (item.key.type !== TYPE_SRCH_PENDING && item.key.type !== TYPE_SRCH_BUSY) return;
    const compact = SrchCompact.at(item.val);
    lists(BigInt(compact.id), compact);
  });
  forEachItem(tree, sb.logMerge, Key.of(ZONE_LOG_MERGE_REQUEST, 0, 0), (item) => {
    if (item.key.zone === ZONE_LOG_MERGE_REQUEST) {
      const request = LogMergeRequest.at(item.val);
      lists(request.rid, request);
    } else if (item.key.zone === ZONE_LOG_MERGE_COMPLETE) {
      const complete = LogMergeComplete.at(item.val);
      lists(complete.rid, complete);
    }
  });
  return pools;
}
