/**
 * The mounted_clients tree as anybody may read it from the device (04 §14.2, §15.4): which mounts
 * may hold resources. A server may be rewriting it meanwhile, so a read can fail with StaleError;
 * what it returns was true at some moment of the call.
 */

import { mountedClientKey } from "../format/mounted_client.ts";
import { BlockCache } from "../fs/block_cache.ts";
import { forEachItem, lookup } from "../fs/btree.ts";
import type { Device } from "../fs/device.ts";
import type { Random } from "../fs/env.ts";
import { presentSlots, slotsOf, SmallBlocks } from "./quorum_blocks.ts";

export class MountedClientsReader {
  readonly #blocks: SmallBlocks;
  readonly #cache: BlockCache;

  constructor(device: Device, fsid: bigint, random: Random) {
    this.#blocks = new SmallBlocks(device, fsid);
    this.#cache = new BlockCache(device, fsid, { random, limitBytes: 0 });
  }

  /** Whether `rid` has an item; throws FsError (StaleError included) when that is uncertain. */
  has(rid: bigint): boolean {
    const { mountedClients } = this.#blocks.readSuper();
    return lookup({ cache: this.#cache }, mountedClients, mountedClientKey(rid)) !== null;
  }

  /** All rids with an item; throws like `has`. */
  rids(): bigint[] {
    const rids: bigint[] = [];
    const { mountedClients } = this.#blocks.readSuper();
    forEachItem({ cache: this.#cache }, mountedClients, mountedClientKey(0n), (item) => {
      rids.push(item.key.firstBig);
    });
    return rids;
  }
}

/**
 * Every mount that the volume remembers at this moment: mounted clients, and whoever recorded a
 * quorum event. `assume_fenced` says that these, and only these, are dead: mounts that come later
 * are not covered, whoever leads by then. Throws FsError.
 */
export function rememberedMounts(device: Device, fsid: bigint, random: Random): Set<bigint> {
  const rids = new Set(new MountedClientsReader(device, fsid, random).rids());
  const blocks = new SmallBlocks(device, fsid);
  for (const slot of presentSlots(slotsOf(blocks.readSuper().qconf))) {
    for (const { rid } of blocks.readSlot(slot).events) if (rid !== 0n) rids.add(rid);
  }
  return rids;
}
