/** For tests of repairs without super blocks: damaging them, and what a repair must keep or refuse. */

import assert from "node:assert/strict";
import { SM_SIZE, SUPER_BLKNO } from "../../format/constants.ts";
import { sealBlock } from "../../format/crc32c.ts";
import { SuperBlock } from "../../format/super.ts";
import { isSound } from "../../fs/check/check.ts";
import {
  type RepairOptions,
  type RepairResult,
  repairVolume,
} from "../../fs/check/repair/repair.ts";
import type { Device } from "../../fs/device.ts";
import type { MemDevice } from "../../fs/memory_device.ts";
import { manifest, problemsOf, repairOptions } from "./repair_support.ts";

export interface Devices {
  readonly meta: Device;
  readonly data: Device;
}

export const SUPER_OFF = SUPER_BLKNO * SM_SIZE;

export function editSuper(
  dev: Device,
  change: (raw: Uint8Array, sb: SuperBlock) => void,
  seal = false,
): void {
  const raw = dev.allocBuffer(SM_SIZE);
  dev.read(raw, SUPER_OFF);
  change(raw, SuperBlock.at(raw));
  if (seal) sealBlock(raw);
  dev.write(raw, SUPER_OFF);
}

export const wipe = (dev: Device) => editSuper(dev, (raw) => void raw.fill(0));

/** One run mends everything; all files are what they were. Returns what was said. */
export function mustRecover(
  v: Devices,
  healthy: ReadonlyMap<string, string>,
  more: Partial<RepairOptions> = {},
): string[] {
  const notes: string[] = [];
  const result = repairVolume(v.meta, v.data, {
    ...repairOptions(),
    ...more,
    log: (line) => notes.push(line),
  });
  assert.equal(result.stopped, null);
  assert.ok(result.lossy);
  assert.deepEqual(problemsOf(v.meta, v.data).map((p) => p.message), []);
  const again = repairVolume(v.meta, v.data, repairOptions());
  assert.ok(isSound(again.before));
  assert.equal(again.commits, 0);
  assert.deepEqual([...manifest(v.meta, v.data)], [...healthy]);
  return notes;
}

export function mustRefuse(
  v: { meta: MemDevice; data: MemDevice },
  why: RegExp,
  more: Partial<RepairOptions> = {},
): RepairResult {
  const meta = v.meta.toImage(), data = v.data.toImage();
  const result = repairVolume(v.meta, v.data, { ...repairOptions(), ...more });
  assert.match(result.stopped ?? "", why);
  assert.equal(result.commits, 0);
  assert.deepEqual(v.meta.toImage(), meta, "the metadata device is left alone");
  assert.deepEqual(v.data.toImage(), data, "the data device is left alone");
  return result;
}
