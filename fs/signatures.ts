/**
 * Recognising that a device already holds something that nobody wants overwritten: filesystems,
 * volume managers and partition tables, by their magic bytes. A second opinion beside libblkid's,
 * and the only one where that is not installed.
 */

import { MAGIC_SUPER, SM_SIZE, SUPER_BLKNO } from "../format/constants.ts";
import type { Device } from "./device.ts";

export interface Signature {
  readonly kind: "scoutfs" | "filesystem" | "partition table";
  /** What it is called, e.g. "ext4". */
  readonly type: string;
}

/** Byte offset and text of a magic. */
type Magic = readonly [type: string, off: number, magic: string];

const FILESYSTEMS: readonly Magic[] = [
  ["xfs", 0, "XFSB"],
  ["ntfs", 3, "NTFS    "],
  ["exfat", 3, "EXFAT   "],
  ["vfat", 54, "FAT1"],
  ["vfat", 82, "FAT32"],
  ["ext", 1080, "\x53\xef"],
  ["bcache", 4120, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca"],
  ["swap", 4086, "SWAPSPACE2"],
  ["swap", 4086, "SWAP-SPACE"],
  ["btrfs", 65600, "_BHRfS_M"],
  ["reiserfs", 65588, "ReIsEr"],
  ["jfs", 32768, "JFS1"],
  ["iso9660", 32769, "CD001"],
  ["gfs2", 65536, "\x01\x16\x19\x70"],
  ["f2fs", 1024, "\x10\x20\xf5\xf2"],
  ["squashfs", 0, "hsqs"],
  ["erofs", 1024, "\xe2\xe1\xf5\xe0"],
  ["crypto_LUKS", 0, "LUKS\xba\xbe"],
  ["LVM2_member", 536, "LVM2 001"],
  ["LVM2_member", 24, "LVM2 001"],
  ["linux_raid_member", 4096, "\xfc\x4e\x2b\xa9"],
  ["ubi", 0, "UBI#"],
  ["zfs_member", 135168, "\x0c\xb1\xba\x00\x00\x00\x00\x00"],
];

const PARTITION_TABLES: readonly Magic[] = [
  ["gpt", 512, "EFI PART"],
  ["gpt", 4096, "EFI PART"],
];

/** Bytes at the start of a device that hold all of the magics. */
const LOOKED_AT = 256 * 1024;

/** What the device seems to hold, undefined when nothing known. Throws DeviceError. */
export function findSignature(dev: Device): Signature | undefined {
  const length = Math.min(LOOKED_AT, Math.floor(dev.size / SM_SIZE) * SM_SIZE);
  if (length === 0) return undefined;
  const head = dev.allocBuffer(length);
  dev.read(head, 0);
  const superOff = SUPER_BLKNO * SM_SIZE;
  if (length >= superOff + SM_SIZE) {
    const v = new DataView(head.buffer, head.byteOffset + superOff, SM_SIZE);
    if (v.getUint32(4, true) === MAGIC_SUPER) return { kind: "scoutfs", type: "ScoutFS" };
  }
  for (const [type, off, magic] of FILESYSTEMS) {
    if (matches(head, off, magic)) return { kind: "filesystem", type };
  }
  for (const [type, off, magic] of PARTITION_TABLES) {
    if (matches(head, off, magic)) return { kind: "partition table", type };
  }
  return isDosTable(head) ? { kind: "partition table", type: "dos" } : undefined;
}

function matches(head: Uint8Array, off: number, magic: string): boolean {
  for (let i = 0; i < magic.length; i++) {
    if (head[off + i] !== magic.charCodeAt(i)) return false;
  }
  return true;
}

/**
 * A DOS partition table: the boot signature with four plausible entries of which one is used. The
 * signature alone is also that of a boot sector.
 */
function isDosTable(head: Uint8Array): boolean {
  if (head[510] !== 0x55 || head[511] !== 0xaa) return false;
  let used = 0;
  for (let off = 446; off < 510; off += 16) {
    const boot = head[off], type = head[off + 4];
    if (boot !== 0 && boot !== 0x80) return false;
    if (type !== 0) used++;
  }
  return used > 0;
}
