/**
 * The server's small requests: inode numbers, roots, sequence numbers, totals, volume options,
 * device sizes (03 §15, 04 §24), and the answers to clients that ask for background work.
 */

import type { AllocListHead } from "../format/alloc.ts";
import {
  SM_SIZE,
  TYPE_SRCH_BUSY,
  TYPE_SRCH_PENDING,
  ZONE_LOG_MERGE_COMPLETE,
  ZONE_LOG_MERGE_REQUEST,
  ZONE_SRCH,
} from "../format/constants.ts";
import { EINVAL } from "../format/errno.ts";
import { Key } from "../format/key.ts";
import { LogMergeComplete, LogMergeRequest } from "../format/merge.ts";
import { LogTrees } from "../format/log_trees.ts";
import { SrchCompact } from "../format/srch.ts";
import type { VolumeOptions } from "../format/super.ts";
import { NetAllocInodes, NetResizeDevices, NetRoots, NetStatfs, NetU64 } from "../format/wire.ts";
import { forEachItem } from "../fs/btree.ts";
import { FsError } from "../fs/errors.ts";
import { insertExtent, removeExtent } from "../fs/extent_alloc.ts";
import { exactly, type Step, type StoreCore } from "./store_core.ts";
import { isMountedClient } from "./store_reclaim.ts";

/** Inode numbers are JavaScript numbers here; the format would go on to 2^64−2. */
const LAST_INO = Number.MAX_SAFE_INTEGER;

/** ALLOC_INODES (§15.1): `count` numbers or as many as are left. */
export function allocInodes(core: StoreCore, count: bigint, answer: NetAllocInodes): Step {
  return () => {
    const ino = core.dirty.nextIno;
    const left = LAST_INO - ino;
    const nr = count < BigInt(left) ? Number(count) : left;
    core.dirty.nextIno = ino + nr;
    answer.ino = ino;
    answer.nr = nr;
    return true;
  };
}

/** GET_ROOTS (§15.4): of the stable super. */
export function getRoots(core: StoreCore): Uint8Array {
  const answer = NetRoots.alloc();
  answer.fsRoot.copyFrom(core.stable.fsRoot);
  answer.logsRoot.copyFrom(core.stable.logsRoot);
  answer.srchRoot.copyFrom(core.stable.srchRoot);
  return answer.bytes;
}

/** GET_LAST_SEQ (§7): every transaction with a seq up to this one is committed. */
export function getLastSeq(core: StoreCore): Uint8Array {
  let last = core.counter - 1;
  let newest = { rid: 0n, open: 0 };
  const settle = () => {
    if (newest.open === 0 || newest.open > last) return;
    if (isMountedClient(core, core.dirty.mountedClients, newest.rid)) last = newest.open - 1;
  };
  core.forEachLogTrees((lt) => {
    if (lt.rid !== newest.rid) settle();
    newest = { rid: lt.rid, open: lt.isOpen ? lt.getTransSeq : 0 };
  });
  settle();
  const answer = NetU64.alloc();
  answer.value = last;
  return answer.bytes;
}

/** STATFS (§15.12): sums over the stable super, which nothing overwrites meanwhile. */
export function statfs(core: StoreCore): Uint8Array {
  const { stable, readTree } = core;
  let freeMeta = stable.metaAlloc(0).totalLen + stable.metaAlloc(1).totalLen;
  let freeData = stable.dataAlloc.totalLen;
  const addLists = (owner: { metaAvail: AllocListHead; metaFreed: AllocListHead }) => {
    freeMeta += owner.metaAvail.totalNr + owner.metaFreed.totalNr;
  };
  for (let i = 0; i < 2; i++) {
    addLists({ metaAvail: stable.serverMetaAvail(i), metaFreed: stable.serverMetaFreed(i) });
  }
  let inodes = stable.inodeCount;
  forEachItem(readTree, stable.logsRoot, Key.ZEROS, ({ key, val }) => {
    const lt = LogTrees.at(exactly(val, LogTrees.SIZE, key));
    addLists(lt);
    inodes += lt.inodeCountDelta;
    freeData += lt.dataAvail.totalLen + lt.dataFreed.totalLen;
  });
  forEachItem(
    readTree,
    stable.srchRoot,
    Key.of(ZONE_SRCH, 0, TYPE_SRCH_PENDING),
    ({ key, val }) => {
      if (key.type === TYPE_SRCH_PENDING || key.type === TYPE_SRCH_BUSY) {
        addLists(SrchCompact.at(exactly(val, SrchCompact.SIZE, key)));
      }
    },
  );
  forEachItem(readTree, stable.logMerge, Key.of(ZONE_LOG_MERGE_REQUEST, 0, 0), ({ key, val }) => {
    if (key.zone === ZONE_LOG_MERGE_REQUEST) {
      addLists(LogMergeRequest.at(exactly(val, LogMergeRequest.SIZE, key)));
    } else if (key.zone === ZONE_LOG_MERGE_COMPLETE) {
      addLists(LogMergeComplete.at(exactly(val, LogMergeComplete.SIZE, key)));
    }
  });
  const answer = NetStatfs.alloc();
  answer.uuid.set(stable.uuid);
  answer.freeMetaBlocks = freeMeta;
  answer.totalMetaBlocks = stable.totalMetaBlocks;
  answer.freeDataBlocks = freeData;
  answer.totalDataBlocks = stable.totalDataBlocks;
  answer.inodeCount = Math.max(0, inodes);
  return answer.bytes;
}

/** GET_VOLOPT (§15.10): of the last successful commit. */
export function getVolopt(core: StoreCore): Uint8Array {
  return core.stable.volopt.bytes.slice();
}

const OPTION_ZONE_BLOCKS = 0;
const KNOWN_OPTIONS = 1n << BigInt(OPTION_ZONE_BLOCKS);

/** SET_VOLOPT and CLEAR_VOLOPT (§15.10). */
export function changeVolopt(core: StoreCore, wanted: VolumeOptions, set: boolean): Step {
  return () => {
    if ((wanted.setBits & ~KNOWN_OPTIONS) !== 0n) {
      throw new FsError(EINVAL, "unknown volume option");
    }
    if (!wanted.isSet(OPTION_ZONE_BLOCKS)) return true;
    const { volopt, totalDataBlocks } = core.dirty;
    if (!set) {
      volopt.clearOption(OPTION_ZONE_BLOCKS);
      return true;
    }
    const blocks = wanted.option(OPTION_ZONE_BLOCKS);
    const least = Math.max(1 << 20, Math.floor(totalDataBlocks / 1024));
    if (blocks < BigInt(least) || blocks > BigInt(totalDataBlocks)) {
      throw new FsError(EINVAL, `data_alloc_zone_blocks must be ${least} to ${totalDataBlocks}`);
    }
    volopt.setOption(OPTION_ZONE_BLOCKS, blocks);
    return true;
  };
}

/** Undoes `changeVolopt` when its commit failed: the old options stay in effect (04 §24). */
export function undoVolopt(core: StoreCore): void {
  core.dirty.volopt.copyFrom(core.stable.volopt);
}

/** RESIZE_DEVICES (§15.11): 0 or the current total leaves a device alone; devices only grow. */
export function resizeDevices(core: StoreCore, wanted: NetResizeDevices): Step {
  return () => {
    const { dirty, tree, options } = core;
    const oldMeta = dirty.totalMetaBlocks, oldData = dirty.totalDataBlocks;
    const meta = wanted.newTotalMetaBlocks || oldMeta;
    const data = wanted.newTotalDataBlocks || oldData;
    checkGrowth("metadata", oldMeta, meta, tree.alloc.deviceBlocks);
    checkGrowth("data", oldData, data, Math.floor((options.dataDeviceSize?.() ?? 0) / SM_SIZE));
    if (meta > oldMeta) insertExtent(tree, core.metaAvail, oldMeta, meta - oldMeta);
    try {
      if (data > oldData) insertExtent(tree, dirty.dataAlloc, oldData, data - oldData);
    } catch (e) {
      if (meta > oldMeta) removeExtent(tree, core.metaAvail, oldMeta, meta - oldMeta);
      throw e;
    }
    dirty.totalMetaBlocks = meta;
    dirty.totalDataBlocks = data;
    core.totalsChanged();
    return true;
  };
}

function checkGrowth(what: string, old: number, wanted: number, limit: number): void {
  if (wanted === old) return;
  if (wanted < old || wanted > limit) {
    throw new FsError(
      EINVAL,
      `${what} device: cannot go from ${old} to ${wanted} of ${limit} blocks`,
    );
  }
}
