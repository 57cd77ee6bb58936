/**
 * The two devices of a filesystem and the checks before anything else is believed of them (01 §5.2,
 * §16). Every refusal is one line that names device and reason; nothing is ever written here.
 */

import { bytesEqual, FormatError, toHex } from "../format/bytes.ts";
import {
  FMT_VERS_MAX,
  FMT_VERS_MIN,
  LG_MAX,
  LG_SIZE,
  MAGIC_SUPER,
  SM_MAX,
  SM_SIZE,
  SUPER_BLKNO,
} from "../format/constants.ts";
import { blockCrcOk } from "../format/crc32c.ts";
import { EINVAL } from "../format/errno.ts";
import { SuperBlock } from "../format/super.ts";
import type { Device } from "./device.ts";
import { FsError } from "./errors.ts";

/** A filesystem whose two super blocks have been read and found to belong together. */
export interface Volume {
  readonly meta: Device;
  readonly data: Device;
  /** The metadata device's super block as it was when the volume was opened. */
  readonly superBlock: SuperBlock;
  readonly fsid: bigint;
  readonly fmtVers: number;
}

const refuse = (dev: Device, reason: string) => new FsError(EINVAL, `${dev.name}: ${reason}`);

/** The raw super block of a device: not checked in any way. Throws DeviceError. */
export function readRawSuper(dev: Device): Uint8Array {
  if (dev.size < (SUPER_BLKNO + 1) * SM_SIZE) {
    throw refuse(dev, `${dev.size} bytes are too small to hold a super block`);
  }
  const block = dev.allocBuffer(SM_SIZE);
  dev.read(block, SUPER_BLKNO * SM_SIZE);
  return block;
}

/**
 * Reads and checks the super block of one device: magic, crc, place, format version. Throws FsError
 * (EINVAL) that says what is wrong, DeviceError when it cannot be read.
 */
export function readSuperBlock(dev: Device): SuperBlock {
  const block = readRawSuper(dev);
  const sb = SuperBlock.at(block);
  try {
    checkSuper(dev, sb, block);
  } catch (e) {
    if (e instanceof FormatError) throw refuse(dev, `super block is corrupt: ${e.message}`);
    throw e;
  }
  return sb;
}

function checkSuper(dev: Device, sb: SuperBlock, block: Uint8Array): void {
  if (sb.hdr.magic !== MAGIC_SUPER) throw refuse(dev, "no ScoutFS super block found");
  if (!blockCrcOk(block)) throw refuse(dev, "super block is corrupt: wrong checksum");
  if (sb.hdr.blkno !== SUPER_BLKNO) {
    throw refuse(dev, `super block is corrupt: it says that it is block ${sb.hdr.blkno}`);
  }
  if (sb.fmtVers < FMT_VERS_MIN || sb.fmtVers > FMT_VERS_MAX) {
    throw refuse(
      dev,
      `format version ${sb.fmtVers} is not supported, only ${FMT_VERS_MIN} to ${FMT_VERS_MAX}`,
    );
  }
  if (sb.totalMetaBlocks > LG_MAX || sb.totalDataBlocks > SM_MAX) {
    throw refuse(dev, "super block is corrupt: it claims more blocks than the format has");
  }
}

/**
 * Checks that the devices hold the two halves of one filesystem, complete, and in this order.
 * Throws FsError (EINVAL) or DeviceError.
 */
export function openVolume(meta: Device, data: Device): Volume {
  const metaSuper = readSuperBlock(meta);
  const dataSuper = readSuperBlock(data);
  if (!metaSuper.isMetaDev) {
    const hint = dataSuper.isMetaDev ? " (are the devices swapped?)" : "";
    throw refuse(meta, `this is a data device, not a metadata device${hint}`);
  }
  if (dataSuper.isMetaDev) throw refuse(data, "this is a metadata device, not a data device");
  if (metaSuper.hdr.fsid !== dataSuper.hdr.fsid) {
    throw refuse(
      data,
      `data device of another filesystem: fsid ${hex(dataSuper.hdr.fsid)}, but ${meta.name} has ${
        hex(metaSuper.hdr.fsid)
      }`,
    );
  }
  if (!bytesEqual(metaSuper.uuid, dataSuper.uuid)) {
    throw refuse(
      data,
      `data device of another filesystem: uuid ${
        formatUuid(dataSuper.uuid)
      }, but ${meta.name} has ${formatUuid(metaSuper.uuid)}`,
    );
  }
  if (metaSuper.fmtVers !== dataSuper.fmtVers) {
    throw refuse(
      data,
      `format version ${dataSuper.fmtVers}, but ${meta.name} has ${metaSuper.fmtVers}`,
    );
  }
  for (const sb of [metaSuper, dataSuper]) {
    checkFits(meta, "metadata", sb.totalMetaBlocks, LG_SIZE);
    checkFits(data, "data", sb.totalDataBlocks, SM_SIZE);
  }
  return {
    meta,
    data,
    superBlock: metaSuper,
    fsid: metaSuper.hdr.fsid,
    fmtVers: metaSuper.fmtVers,
  };
}

/**
 * Besides `openVolume`, for whoever is going to allocate: free space that the device does not have
 * is found in volumes that the reference made on devices too small for it (01 §2.4). They can be read
 * only. Throws FsError (EINVAL).
 */
export function checkFreeSpace(volume: Volume): void {
  const { meta, data, superBlock: sb } = volume;
  const check = (dev: Device, free: bigint, blocks: number): void => {
    if (free > BigInt(blocks)) {
      throw refuse(
        dev,
        `cannot be used, only read: ${free} of ${blocks} blocks are said to be free`,
      );
    }
  };
  for (let i = 0; i < 2; i++) check(meta, sb.metaAlloc(i).totalLenBig, sb.totalMetaBlocks);
  check(data, sb.dataAlloc.totalLenBig, sb.totalDataBlocks);
}

function checkFits(dev: Device, what: string, blocks: number, blockSize: number): void {
  if (blocks > Math.floor(dev.size / blockSize)) {
    throw refuse(
      dev,
      `${dev.size} bytes are too few: the filesystem uses ${
        blocks * blockSize
      } bytes of its ${what} device`,
    );
  }
}

const hex = (n: bigint) => n.toString(16).padStart(16, "0");

/** `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` */
export function formatUuid(uuid: Uint8Array): string {
  const h = toHex(uuid);
  return [h.slice(0, 8), h.slice(8, 12), h.slice(12, 16), h.slice(16, 20), h.slice(20)].join("-");
}
