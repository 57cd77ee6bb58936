/**
 * Data zones (03 §5.4): where on the data device each mount's free extents lie, so that mounts
 * keep apart. Only a placement hint, in force when the volume option is set.
 */

import type { LogTrees } from "../format/log_trees.ts";
import { forEachExtent, markZones, ZONE_BITMAP_BYTES, type Zones } from "../fs/extent_alloc.ts";
import type { StoreCore } from "./store_core.ts";

/** Zones where `rid` should get data blocks; undefined without the volume option. */
export function dataZonesFor(core: StoreCore, rid: bigint): Zones | undefined {
  const { volopt, totalDataBlocks } = core.dirty;
  if (!volopt.isSet(0)) return undefined;
  const blocks = volopt.dataAllocZoneBlocks;
  const exclusive = new Uint8Array(ZONE_BITMAP_BYTES);
  const others = new Uint8Array(ZONE_BITMAP_BYTES);
  core.forEachLogTrees((lt) => {
    const size = lt.dataAllocZoneBlocks;
    if (size === 0) return;
    const bits = lt.rid === rid ? exclusive : others;
    // An item may have been recorded under another zone size.
    for (let zone = 0; zone < ZONE_BITMAP_BYTES * 8; zone++) {
      if (lt.hasZone(zone)) markZones(bits, blocks, zone * size, size);
    }
  });
  const vacant = new Uint8Array(ZONE_BITMAP_BYTES);
  markZones(vacant, blocks, 0, totalDataBlocks);
  for (let i = 0; i < ZONE_BITMAP_BYTES; i++) {
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
  const zones = new Uint8Array(ZONE_BITMAP_BYTES);
  forEachExtent(core.readTree, lt.dataAvail, (e) => markZones(zones, blocks, e.start, e.len));
  lt.dataAllocZoneBlocks = blocks;
  lt.dataAllocZones.set(zones);
}
