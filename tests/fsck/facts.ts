/**
 * What a volume says, fact by fact, as readers see it: fields of inodes, attributes, targets, names,
 * and each block of contents. For tests of what a repair keeps.
 */

import { Buffer } from "node:buffer";
import {
  SEF_OFFLINE,
  SEF_UNWRITTEN,
  SM_SIZE,
  TYPE_DATA_EXTENT,
  TYPE_INODE,
  TYPE_READDIR,
  TYPE_SYMLINK,
  TYPE_XATTR,
  ZONE_FS,
  ZONE_QUOTA,
} from "../../format/constants.ts";
import { toHex } from "../../format/bytes.ts";
import { crc32c } from "../../format/crc32c.ts";
import { DataExtentVal, Dirent, Inode } from "../../format/items.ts";
import { Key } from "../../format/key.ts";
import { rawU64 } from "../../fs/check/raw.ts";
import type { Device } from "../../fs/device.ts";
import { VolumeReader } from "../../fs/reader.ts";
import { openVolume } from "../../fs/volume.ts";
import { SeededRandom } from "../helpers/sim_reactor.ts";

/** Values by the name of what has them. */
export type Facts = ReadonlyMap<string, string>;

const latin1 = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("latin1");

/** All facts of a volume. Throws what reading throws. */
export function factsOf(meta: Device, data: Device): Facts {
  const volume = openVolume(meta, data), reader = new VolumeReader(volume, new SeededRandom(1));
  const facts = new Map<string, string>(), block = data.allocBuffer(SM_SIZE);
  for (const { key, val } of reader.items(Key.of(ZONE_QUOTA, 0, 0))) {
    if (key.zone === ZONE_QUOTA) facts.set(`quota rule ${key}`, latin1(val));
    if (key.zone !== ZONE_FS) continue;
    const ino = key.first;
    switch (key.type) {
      case TYPE_INODE:
        for (const [field, value] of fieldsOf(Inode.read(val, volume.fmtVers))) {
          facts.set(`inode ${ino}: ${field}`, value);
        }
        break;
      case TYPE_XATTR:
        // Ids may change. A part by itself says little, but none may be missing.
        facts.set(`inode ${ino}: attribute ${key.second} part ${key.fourth}: ${latin1(val)}`, "");
        break;
      case TYPE_SYMLINK:
        facts.set(`inode ${ino}: target ${key.second}`, latin1(val));
        break;
      case TYPE_READDIR:
        facts.set(
          `entry ${JSON.stringify(latin1(val.subarray(Dirent.SIZE)))} of directory ${ino}`,
          String(Dirent.at(val).ino),
        );
        break;
      case TYPE_DATA_EXTENT: {
        const { blkno, flags } = DataExtentVal.at(val), len = key.third;
        for (let i = 0; i < len; i++) {
          let what = "";
          if (blkno !== 0 && (flags & (SEF_OFFLINE | SEF_UNWRITTEN)) === 0) {
            data.read(block, (blkno + i) * SM_SIZE);
            what = String(crc32c(block));
          }
          facts.set(`inode ${ino}: block ${key.second - len + 1 + i}`, `${flags} ${what}`);
        }
        break;
      }
    }
  }
  return facts;
}

function* fieldsOf(i: Inode): Generator<[string, string]> {
  const { v, o } = i;
  // A directory's follow from its entries.
  if ((i.mode & 0o170000) !== 0o040000) {
    yield ["size", String(rawU64(v, o))];
    yield ["nlink", String(i.nlink)];
  }
  yield ["data_seq", String(rawU64(v, o + 16))];
  yield ["data_version", String(rawU64(v, o + 24))];
  yield ["online_blocks", String(rawU64(v, o + 32))];
  yield ["offline_blocks", String(rawU64(v, o + 40))];
  yield ["owner", `${i.uid} ${i.gid} ${i.proj}`];
  yield ["mode", i.mode.toString(8)];
  yield ["rdev", String(i.rdev)];
  yield ["flags", String(i.flags)];
  for (const name of ["atime", "ctime", "mtime", "crtime"] as const) {
    yield [name, toHex(i[name].bytes)];
  }
}

/** The facts of `before` that `one` still has and `other` has not. */
export function lostFrom(before: Facts, one: Facts, other: Facts): string[] {
  const lost: string[] = [];
  for (const [name, value] of before) {
    if (one.get(name) !== value || other.get(name) === value) continue;
    lost.push(`${name} was ${shown(value)}, is ${shown(other.get(name))}`);
  }
  return lost;
}

const shown = (value: string | undefined): string =>
  value === undefined ? "gone" : JSON.stringify(value.slice(0, 40));
