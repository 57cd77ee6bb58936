/**
 * ScoutFS volumes as a library: open devices or image files for reading, without a mount, and look
 * at everything in them.
 *
 * @example List the root directory and read a file
 * ```ts
 * import { openVolumeReader } from "./mod.ts";
 *
 * const volume = openVolumeReader("meta.img", "data.img");
 * for (const entry of volume.readdir(1)) {
 *   console.log(entry.ino, new TextDecoder().decode(entry.name));
 * }
 * const bytes = volume.read(volume.resolve("dir/file"), 0, 1024);
 * console.log(bytes.length);
 * volume.close();
 * ```
 *
 * Failures are `FsError`s with a Linux errno and one line that says what and where.
 *
 * @module
 */

import { VolumeReader } from "./fs/reader.ts";
import { SystemRandom } from "./fs/sys/clock.ts";
import { useFastCrc32c } from "./fs/sys/crc.ts";
import { openDevice } from "./fs/sys/device.ts";
import { openVolume } from "./fs/volume.ts";

export { VolumeReader } from "./fs/reader.ts";
export type { DirEntry, FileExtent, IndexEntry } from "./fs/reader.ts";
export type { TreeItem } from "./fs/btree.ts";
export type { Device } from "./fs/device.ts";
export { CorruptError, DeviceError, FsError, StaleError } from "./fs/errors.ts";
export { openVolume } from "./fs/volume.ts";
export { checkVolume, isSound } from "./fs/check/check.ts";
export type { CheckOptions, CheckStats, Problem, Report } from "./fs/check/check.ts";
export { Inode } from "./format/items.ts";
export { Key } from "./format/key.ts";

/**
 * Opens a volume for reading. The devices may be in use: the reader sees the state that was last
 * committed when it opened them. Throws FsError or DeviceError.
 */
export function openVolumeReader(metaPath: string, dataPath: string): VolumeReader {
  useFastCrc32c();
  const meta = openDevice(metaPath, { write: false });
  try {
    const data = openDevice(dataPath, { write: false });
    try {
      return new VolumeReader(openVolume(meta, data), new SystemRandom());
    } catch (e) {
      data.close();
      throw e;
    }
  } catch (e) {
    meta.close();
    throw e;
  }
}
