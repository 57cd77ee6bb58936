/**
 * Making a volume of a metadata dump. The super block is written last, after everything else is
 * durable, and what stood in its place before is wiped first: a restore that was cut short leaves
 * no volume at all.
 */

import { LG_SIZE, SM_SIZE, SUPER_BLKNO } from "../../format/constants.ts";
import { sealBlock } from "../../format/crc32c.ts";
import { EINVAL } from "../../format/errno.ts";
import { SuperBlock } from "../../format/super.ts";
import type { Device } from "../device.ts";
import { FsError } from "../errors.ts";
import { DumpError, type DumpReader, SMALL_DATA } from "./dump_file.ts";

export interface RestoreTargets {
  readonly meta: Device;
  /** Gets the dumped data super, or one derived from the metadata device's; no file contents. */
  readonly data?: Device;
}

const SUPER_OFF = SUPER_BLKNO * SM_SIZE;

/**
 * Writes all of a dump; returns the number of its pieces. `onBlock` is told how many large blocks have
 * been written. Throws DumpError for a broken dump, FsError for unsuitable devices.
 */
export function restoreVolume(
  reader: DumpReader,
  to: RestoreTargets,
  onBlock?: (blocks: number) => void,
): number {
  const { metaBytes, dataBytes } = reader.header;
  mustHold(to.meta, metaBytes);
  if (to.data !== undefined) mustHold(to.data, dataBytes);
  wipe(to.meta);
  if (to.data !== undefined) wipe(to.data);

  let metaSuper: Uint8Array | undefined, dataSuper: Uint8Array | undefined;
  const large = to.meta.allocBuffer(LG_SIZE);
  let blocks = 0;
  const pieces = reader.forEach((kind, off, bytes) => {
    if (kind === SMALL_DATA) {
      if (off === SUPER_OFF) dataSuper = bytes;
      return;
    }
    if (off === SUPER_OFF) {
      metaSuper = bytes;
      return;
    }
    const buf = large.subarray(0, bytes.length);
    buf.set(bytes);
    to.meta.write(buf, off);
    if (bytes.length === LG_SIZE) onBlock?.(++blocks);
  });
  if (metaSuper === undefined) throw new DumpError("the metadata dump holds no super block");
  to.meta.flush();
  if (to.data !== undefined) writeSuper(to.data, dataSuper ?? dataSuperOf(metaSuper));
  writeSuper(to.meta, metaSuper);
  return pieces;
}

/** Throws FsError if a device has no room for the one that was dumped. */
export function mustHold(dev: Device, bytes: number): void {
  if (dev.size < bytes) {
    throw new FsError(
      EINVAL,
      `${dev.name}: ${dev.size} bytes are too few: the dumped device has ${bytes}`,
    );
  }
}

function wipe(dev: Device): void {
  dev.write(dev.allocBuffer(SM_SIZE), SUPER_OFF);
  dev.flush();
}

function writeSuper(dev: Device, bytes: Uint8Array): void {
  const block = dev.allocBuffer(SM_SIZE);
  block.set(bytes);
  dev.write(block, SUPER_OFF);
  dev.flush();
}

/** As mkfs makes it: the metadata device's super without the flag (01 §2.3). */
function dataSuperOf(metaSuper: Uint8Array): Uint8Array {
  const block = metaSuper.slice();
  SuperBlock.at(block).flags = 0;
  sealBlock(block);
  return block;
}
