/**
 * The server's persistent state (03 §13–16, §23): `openServerStore` and the dispatch of requests.
 *
 *   store_core.ts       transaction, commit, space           03 §13, §14
 *   reserve.ts          how much to hand out and keep back   03 §13.4, §25
 *   store_log_trees.ts  transactions of clients              03 §15.2, §15.3, §16.3
 *   store_zones.ts      data zones                           03 §5.4
 *   store_reclaim.ts    mounted clients, reclaim, orphans    03 §16.4, §23
 *   store_misc.ts       everything small                     03 §15
 *
 * Log merging (03 §17, §19) and srch compaction (§20.4, §20.6) are not served: clients are
 * told that there is no work. What another server left of them in the volume is preserved, and
 * taken back from departed clients by reclaim, so that such a server can go on at any time.
 */

import type { InetAddr } from "../format/block.ts";
import { LogTrees } from "../format/log_trees.ts";
import { EINVAL, EIO, ENOENT } from "../format/errno.ts";
import { SrchCompact } from "../format/srch.ts";
import { VolumeOptions } from "../format/super.ts";
import {
  CMD_ALLOC_INODES,
  CMD_CLEAR_VOLOPT,
  CMD_COMMIT_LOG_MERGE,
  CMD_COMMIT_LOG_TREES,
  CMD_GET_LAST_SEQ,
  CMD_GET_LOG_MERGE,
  CMD_GET_LOG_TREES,
  CMD_GET_ROOTS,
  CMD_GET_VOLOPT,
  CMD_RESIZE_DEVICES,
  CMD_SET_VOLOPT,
  CMD_SRCH_COMMIT_COMPACT,
  CMD_SRCH_GET_COMPACT,
  CMD_STATFS,
  NetAllocInodes,
  NetResizeDevices,
} from "../format/wire.ts";
import type { Device } from "../fs/device.ts";
import { asCorrupt, CorruptError, FsError } from "../fs/errors.ts";
import type { MountedClient, ServerStore } from "./store_api.ts";
import { StoreCore, type StoreOptions } from "./store_core.ts";
import { checkNumbers, commitLogTrees, getLogTrees } from "./store_log_trees.ts";
import {
  allocInodes,
  changeVolopt,
  getLastSeq,
  getRoots,
  getVolopt,
  resizeDevices,
  statfs,
  undoVolopt,
} from "./store_misc.ts";
import {
  insertMountedClient,
  isMountedClient,
  mountedClients,
  orphanRids,
  reclaim,
} from "./store_reclaim.ts";

export type { MountedClient, ServerStore } from "./store_api.ts";
export type { StoreOptions } from "./store_core.ts";

/**
 * Opens the volume's server state on its metadata device. `superBuf` holds the 4 KiB super block,
 * read just now (after fencing, 04 §15.2 step 3) and verified (03 §3.6); it is copied. Throws
 * CorruptError, DeviceError.
 */
export function openServerStore(
  dev: Device,
  superBuf: Uint8Array,
  options: StoreOptions,
): ServerStore {
  try {
    return new Store(new StoreCore(dev, superBuf, options));
  } catch (e) {
    throw asCorrupt(e, "the server's structures");
  }
}

/**
 * Beyond the counter that was saved, when mounts may still hold locks: their write_seqs were drawn
 * after the last commit and are not known before lock recovery (03 §7 Note).
 */
const COUNTER_GAP = 2 ** 20;

/** Counting on must stay exact for longer than any volume lives. */
const COUNTER_LIMIT = 2 ** 52;

const EMPTY = new Uint8Array(0);

class Store implements ServerStore {
  readonly fsid: bigint;
  readonly fmtVers: number;

  constructor(private readonly core: StoreCore) {
    const { dirty } = core;
    this.fsid = dirty.hdr.fsid;
    this.fmtVers = dirty.fmtVers;
    core.forEachLogTrees((lt) => core.counterRaise(lt.maxItemSeq));
    core.mountedCount = this.mountedClients().length;
    if (core.mountedCount > 0) core.counterRaise(core.counter + COUNTER_GAP);
    if (core.counter >= COUNTER_LIMIT) {
      throw new CorruptError(`no volume has reached the sequence number ${core.counter}`);
    }
  }

  get reservedMetaBlocks(): number {
    return this.core.metaPolicy.reserved;
  }

  async start(): Promise<void> {
    await Promise.all(orphanRids(this.core).map((rid) => this.reclaim(rid)));
  }

  stop(): void {
    this.core.stop();
  }

  counterNext(): number {
    return this.core.counterNext();
  }

  counterRaise(n: number): void {
    this.core.counterRaise(n);
  }

  mountedClients(): MountedClient[] {
    return mountedClients(this.core, this.core.stable.mountedClients);
  }

  isMountedClient(rid: bigint): boolean {
    return isMountedClient(this.core, this.core.stable.mountedClients, rid);
  }

  insertMountedClient(rid: bigint, addr: InetAddr, quorum: boolean): Promise<void> {
    return this.core.run(insertMountedClient(this.core, rid, addr, quorum));
  }

  reclaim(rid: bigint): Promise<void> {
    return this.core.run(reclaim(this.core, rid));
  }

  async request(cmd: number, rid: bigint, payload: Uint8Array): Promise<Uint8Array> {
    try {
      return await this.answer(cmd, rid, payload);
    } catch (e) {
      throw asCorrupt(e, "the server's structures");
    }
  }

  private async answer(cmd: number, rid: bigint, payload: Uint8Array): Promise<Uint8Array> {
    const { core } = this;
    switch (cmd) {
      case CMD_GET_LOG_TREES: {
        const answer = LogTrees.alloc();
        await core.run(getLogTrees(core, rid, answer));
        return answer.bytes;
      }
      case CMD_COMMIT_LOG_TREES: {
        const sent = LogTrees.at(sized(payload, LogTrees.SIZE));
        checkNumbers(sent);
        await core.run(commitLogTrees(core, rid, sent));
        return EMPTY;
      }
      case CMD_ALLOC_INODES: {
        const answer = NetAllocInodes.alloc();
        const count = view(sized(payload, 8)).getBigUint64(0, true);
        await core.run(allocInodes(core, count, answer));
        return answer.bytes;
      }
      case CMD_GET_ROOTS:
        return getRoots(core);
      case CMD_GET_LAST_SEQ:
        return getLastSeq(core);
      case CMD_STATFS:
        return statfs(core);
      case CMD_GET_VOLOPT:
        return getVolopt(core);
      case CMD_SET_VOLOPT:
      case CMD_CLEAR_VOLOPT: {
        const wanted = VolumeOptions.at(sized(payload, VolumeOptions.SIZE));
        const step = changeVolopt(core, wanted, cmd === CMD_SET_VOLOPT);
        await core.run(step, () => undoVolopt(core));
        return EMPTY;
      }
      case CMD_RESIZE_DEVICES: {
        const wanted = NetResizeDevices.at(sized(payload, NetResizeDevices.SIZE));
        checkSizes(wanted);
        await core.run(resizeDevices(core, wanted));
        return EMPTY;
      }
      case CMD_SRCH_GET_COMPACT:
        return SrchCompact.alloc().bytes; // nr 0: nothing to do
      case CMD_SRCH_COMMIT_COMPACT:
      case CMD_GET_LOG_MERGE:
      case CMD_COMMIT_LOG_MERGE:
        throw new FsError(ENOENT, "log merging and srch compaction are not served");
      default:
        throw new FsError(EIO, `command ${cmd} is not the store's`);
    }
  }
}

/** Block counts beyond 2^53 are beyond every device. */
function checkSizes(wanted: NetResizeDevices): void {
  const v = wanted.v;
  for (const o of [wanted.o, wanted.o + 8]) {
    if (v.getUint32(o + 4, true) > 0xf_ffff) throw new FsError(EINVAL, "no device has that size");
  }
}

/** A copy of `payload`, which must have exactly `size` bytes. */
function sized(payload: Uint8Array, size: number): Uint8Array {
  if (payload.length !== size) {
    throw new FsError(EINVAL, `payload of ${payload.length} bytes instead of ${size}`);
  }
  return payload.slice();
}

function view(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}
