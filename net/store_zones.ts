/**
 * Data zones (03 §5.4): where on the data device each mount's free extents lie, so that mounts
 * keep apart. Only a placement hint, in force when the volume option is set.
 */

import { DATA_ALLOC_MAX_ZONES } from "../format/constants.ts";
import type { LogTrees } from "../format/log_trees.ts";
import { type DataZones, forEachExtent } from "../fs/extent_alloc.ts";
import type { StoreCore } from "./store_core.ts";

/** Zones where `rid` should get data blocks; undefined without the volume option. */
export function dataZonesFor(core: StoreCore, rid: bigint): DataZones | undefined {
  const { volopt, totalDataBlocks } = core.dirty;
  if (!volopt.isSet(0)) return undefined;
  const blocks = volopt.dataAllocZoneBlocks;
  const exclusive = new Uint8Array(DATA_ALLOC_MAX_ZONES / 8);
  const others = new Uint8Array(DATA_ALLOC_MAX_ZONES / 8);
  core.forEachLogTrees((lt) => {
    const size = lt.dataAllocZoneBlocks;
    if (size === 0) return;
    const bits = lt.rid === rid ? exclusive : others;
    for (let zone = 0; zone < DATA_ALLOC_MAX_ZONES; zone++) {
      if (lt.hasZone(zone)) setZones(bits, blocks, zone * size, size);
    }
  });
  const vacant = new Uint8Array(DATA_ALLOC_MAX_ZONES / 8);
  setZones(vacant, blocks, 0, totalDataBlocks);
  for (let i = 0; i < vacant.length; i++) {
    vacant[i]! &= ~(exclusive[i]! | others[i]!);
    exclusive[i]! &= ~others[i]!;
  }
  return { blocks, exclusive, vacant };
}

/** Records the zones that the item's free extents lie in, or none without the volume option. */
export function recordDataZones(core: StoreCore, lt: LogTrees): void {
  const { volopt } = core.dirty;
  if (!volopt.isSet(0)) {
    if (lt.dataAllocZoneBlocks === 0) return;
    lt.dataAllocZoneBlocks = 0;
    lt.dataAllocZones.fill(0);
    return;
  }
  const blocks = volopt.dataAllocZoneBlocks;
  const zones = new Uint8Array(DATA_ALLOC_MAX_ZONES / 8);
  forEachExtent(core.readTree, lt.dataAvail, (e) => setZones(zones, blocks, e.start, e.len));
  lt.dataAllocZoneBlocks = blocks;
  lt.dataAllocZones.set(zones);
}

/** Sets the bits of all zones of `blocks` blocks that [start, start+len) touches; clamped (T16). */
function setZones(bits: Uint8Array, blocks: number, start: number, len: number): void {
  const last = Math.min(DATA_ALLOC_MAX_ZONES - 1, Math.floor((start + len - 1) / blocks));
  for (let zone = Math.floor(start / blocks); zone <= last; zone++) {
    bits[zone >> 3]! |= 1 << (zone & 7);
  }
}
