/**
 * Mounted-client items, and the reclaim of clients that will never write again (03 §23, 04 §15.4).
 *
 * Reclaim runs from the top in every step: what is done already is found done. The mounted-client
 * item goes last, in the same commit as the final changes, because its presence is what makes a
 * later server repeat the rest.
 */

import {
  MOUNTED_CLIENT_QUORUM,
  TYPE_SRCH_BUSY,
  ZONE_LOG_MERGE_REQUEST,
  ZONE_MOUNTED_CLIENT,
  ZONE_SRCH,
} from "../format/constants.ts";
import { EEXIST, ENOENT } from "../format/errno.ts";
import { InetAddr } from "../format/block.ts";
import type { BtreeRoot } from "../format/btree.ts";
import { Key } from "../format/key.ts";
import {
  LOG_MERGE_STATUS_KEY,
  LogMergeRange,
  logMergeRangeKey,
  LogMergeRequest,
  LogMergeStatus,
} from "../format/merge.ts";
import { MountedClientBtreeVal, mountedClientKey } from "../format/mounted_client.ts";
import { SrchCompact, srchPendingKey } from "../format/srch.ts";
import { dirtyItem, forEachItem, insert, lookup, next, remove } from "../fs/btree.ts";
import { FsError } from "../fs/errors.ts";
import type { MountedClient } from "./store_api.ts";
import { exactly, type Step, type StoreCore } from "./store_core.ts";
import { retireLogTrees } from "./store_log_trees.ts";

/** The mounted-client items under `root`, in rid order. */
export function mountedClients(core: StoreCore, root: BtreeRoot): MountedClient[] {
  const clients: MountedClient[] = [];
  forEachItem(core.readTree, root, Key.ZEROS, ({ key, val }) => {
    if (key.zone !== ZONE_MOUNTED_CLIENT) return;
    const item = MountedClientBtreeVal.at(exactly(val, MountedClientBtreeVal.SIZE, key));
    const addr = InetAddr.alloc();
    addr.copyFrom(item.addr);
    clients.push({ rid: key.firstBig, addr, quorum: item.isQuorum });
  });
  return clients;
}

export function isMountedClient(core: StoreCore, root: BtreeRoot, rid: bigint): boolean {
  return lookup(core.readTree, root, mountedClientKey(rid)) !== null;
}

/** The item of a mount's first greeting. */
export function insertMountedClient(
  core: StoreCore,
  rid: bigint,
  addr: InetAddr,
  quorum: boolean,
): Step {
  const item = MountedClientBtreeVal.alloc();
  item.addr.setIpv4(addr.addr, addr.port);
  item.flags = quorum ? MOUNTED_CLIENT_QUORUM : 0;
  return () => {
    if (
      unlessErrno(EEXIST, () => {
        insert(core.tree, core.dirty.mountedClients, mountedClientKey(rid), item.bytes);
      })
    ) core.mountedCount++;
    return true;
  };
}

/** 03 §23 steps 2, 3, 4 and 6. */
export function reclaim(core: StoreCore, rid: bigint): Step {
  return () => {
    if (!retireLogTrees(core, rid)) return false;
    cancelCompactions(core, rid);
    cancelMergeRequests(core, rid);
    if (
      unlessErrno(ENOENT, () => {
        remove(core.tree, core.dirty.mountedClients, mountedClientKey(rid));
      })
    ) core.mountedCount--;
    return true;
  };
}

/** Rids that own something although no mounted-client item says so (03 §16.4, §26.4). */
export function orphanRids(core: StoreCore): bigint[] {
  const { dirty } = core;
  const owners = new Set<bigint>();
  core.forEachLogTrees((lt) => {
    // items come in (rid, nr) order: the last of a rid decides
    if (lt.isFinalized) owners.delete(lt.rid);
    else owners.add(lt.rid);
  });
  forEachItem(
    core.readTree,
    dirty.srchRoot,
    busyFrom(0n),
    ({ key }) => void owners.add(key.secondBig),
  );
  forEachItem(core.readTree, dirty.logMerge, requestFrom(0n), ({ key }) => {
    if (key.zone !== ZONE_LOG_MERGE_REQUEST) return false;
    owners.add(key.firstBig);
    return true;
  });
  return [...owners].filter((rid) => !isMountedClient(core, dirty.mountedClients, rid));
}

const busyFrom = (rid: bigint): Key => Key.of(ZONE_SRCH, 0, TYPE_SRCH_BUSY, rid);
const requestFrom = (rid: bigint): Key => Key.of(ZONE_LOG_MERGE_REQUEST, rid, 0);

/**
 * BUSY compactions of `rid` wait for another client again, with the value of their last commit:
 * lists that hold every block the dead client may have written, and what is done of the work (T14).
 */
function cancelCompactions(core: StoreCore, rid: bigint): void {
  const { tree, dirty } = core;
  for (;;) {
    const item = next(core.readTree, dirty.srchRoot, busyFrom(rid));
    if (item === null || item.key.type !== TYPE_SRCH_BUSY || item.key.secondBig !== rid) return;
    const busy = item.key;
    const compact = exactly(item.val, SrchCompact.SIZE, busy).slice();
    remove(tree, dirty.srchRoot, busy);
    insert(tree, dirty.srchRoot, srchPendingKey(SrchCompact.at(compact).id), compact);
  }
}

/**
 * Merge requests of `rid` become ranges again; their stored lists hold every block that the
 * dead client may have written. A range whose key another one occupies (T8) stays a request: it is
 * nobody's then, and the next reclaim or server start tries again.
 */
function cancelMergeRequests(core: StoreCore, rid: bigint): void {
  const { tree, dirty } = core;
  if (lookup(core.readTree, dirty.logMerge, LOG_MERGE_STATUS_KEY) === null) return;
  const postponed: Key[] = [];
  let from = requestFrom(rid);
  for (;;) {
    const item = next(core.readTree, dirty.logMerge, from);
    if (item === null || item.key.zone !== ZONE_LOG_MERGE_REQUEST || item.key.firstBig !== rid) {
      break;
    }
    const { key } = item;
    from = key.inc();
    const request = LogMergeRequest.alloc();
    request.bytes.set(exactly(item.val, LogMergeRequest.SIZE, key));
    const rangeKey = logMergeRangeKey(request.start);
    if (lookup(core.readTree, dirty.logMerge, rangeKey) !== null) {
      postponed.push(key);
      continue;
    }
    const range = LogMergeRange.alloc();
    range.start = request.start;
    range.end = request.end;
    insert(tree, dirty.logMerge, rangeKey, range.bytes);
    remove(tree, dirty.logMerge, key);
    const status = dirtyItem(tree, dirty.logMerge, LOG_MERGE_STATUS_KEY);
    LogMergeStatus.at(exactly(status.val, LogMergeStatus.SIZE, status.key)).nrRequests--;
    core.splice(request.metaAvail);
    core.splice(request.metaFreed);
  }
  for (const key of postponed) {
    core.options.log?.(`log merge request ${key} of a departed mount waits for another range`);
  }
}

/** Runs `change`; false when it failed with `errno`, which means that it was done before. */
function unlessErrno(errno: number, change: () => void): boolean {
  try {
    change();
    return true;
  } catch (e) {
    if (e instanceof FsError && e.errno === errno) return false;
    throw e;
  }
}
