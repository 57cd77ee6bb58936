/** `scoutfs metarestore`: makes a volume of a file written by metadump. */

import { EEXIST, EINVAL, EIO, EROFS, errnoNumber } from "../format/errno.ts";
import { DumpReader } from "../fs/dump/dump_file.ts";
import { mustHold, restoreVolume } from "../fs/dump/restore.ts";
import { FsError } from "../fs/errors.ts";
import { findSignature } from "../fs/signatures.ts";
import { useFastCrc32c } from "../fs/sys/crc.ts";
import { type BlockDevice, openDevice } from "../fs/sys/device.ts";
import { CountLine } from "./count_line.ts";
import { type CommandSpec, failedTo, UsageError } from "./command.ts";

/** The least that a device must have. */
const PAGE = 4096;

export const command: CommandSpec = {
  setup(c) {
    c.argument("[file]", "a dump written by metadump, - for standard input")
      .argument("[meta-device]", "metadata device or image file; a new file is made sparse")
      .argument("[data-device]", "also make a data device, without the contents of files")
      .option("-f, --force", "overwrite a device that seems to hold something")
      .action(async (file, metaPath, dataPath, options) => {
        if (file === undefined || metaPath === undefined) {
          throw new UsageError("must provide file and metadata device arguments");
        }
        await useFastCrc32c();
        const force = options.force === true;
        for (const path of [metaPath, ...(dataPath === undefined ? [] : [dataPath])]) {
          if (isSameFile(path, file)) throw new FsError(EINVAL, `${path}: is the dump itself`);
        }
        const input = openInput(file);
        const opened: BlockDevice[] = [], made: string[] = [];
        const line = new CountLine("restored");
        let done = false;
        try {
          const reader = new DumpReader((into) => input.readSync(into) ?? 0, file);
          const { metaBytes, dataBytes } = reader.header;
          if (dataPath !== undefined && dataBytes === 0) {
            throw new FsError(
              EINVAL,
              `${file}: the dump does not say how large the data device is`,
            );
          }
          const targets = [{ path: metaPath, bytes: metaBytes }];
          if (dataPath !== undefined) targets.push({ path: dataPath, bytes: dataBytes });
          for (const { path, bytes } of targets) opened.push(openTarget(path, bytes, force, made));
          // Nothing of either is lost before both are known to be of use.
          for (const [i, { path, bytes }] of targets.entries()) {
            const dev = opened[i] as BlockDevice;
            if (!dev.isBlockDevice && !made.includes(path)) opened[i] = emptied(dev, bytes);
          }
          const [meta, data] = opened as [BlockDevice, BlockDevice | undefined];
          restoreVolume(
            reader,
            data === undefined ? { meta } : { meta, data },
            (blocks) => line.show(blocks),
          );
          done = true;
        } finally {
          line.clear();
          for (const dev of opened) dev.close();
          if (file !== "-") input.close();
          if (!done) { for (const path of made) Deno.removeSync(path); }
        }
      });
  },
};

function openInput(path: string): { readSync(into: Uint8Array): number | null; close(): void } {
  if (path === "-") return Deno.stdin;
  try {
    return Deno.openSync(path);
  } catch (e) {
    throw failedTo(`open '${path}'`, errnoOf(e));
  }
}

function isSameFile(a: string, b: string): boolean {
  try {
    const x = Deno.statSync(a), y = Deno.statSync(b);
    return x.dev === y.dev && x.ino === y.ino;
  } catch (e) {
    if (e instanceof Deno.errors.NotFound) return false;
    throw failedTo(`open '${a}' and '${b}'`, errnoOf(e));
  }
}

const errnoOf = (e: unknown): number =>
  errnoNumber(e instanceof Error && "code" in e ? String(e.code) : "") ?? EIO;

/**
 * Opens what is to be written. A file that does not exist is made. What seems to hold something is
 * refused unless forced, and so is a device that cannot take the dump.
 */
function openTarget(path: string, bytes: number, force: boolean, made: string[]): BlockDevice {
  let isFile = true;
  try {
    isFile = Deno.statSync(path).isFile;
  } catch (e) {
    if (!(e instanceof Deno.errors.NotFound)) throw failedTo(`open '${path}'`, errnoOf(e));
    try {
      Deno.createSync(path).close();
    } catch (why) {
      throw failedTo(`make '${path}'`, errnoOf(why));
    }
    made.push(path);
  }
  // A file that is too small holds nothing that could be looked at.
  const small = isFile && Deno.statSync(path).size < PAGE;
  if (small) Deno.truncateSync(path, bytes);
  const dev = openDevice(path, { write: true, exclusive: true });
  try {
    if (dev.isReadOnly()) throw new FsError(EROFS, `${path}: is read-only`);
    if (!isFile) mustHold(dev, bytes);
    const found = force ? undefined : findSignature(dev);
    if (found === undefined) return dev;
    throw new FsError(
      EEXIST,
      `${path}: appears to contain a ${found.type} ${
        found.kind === "scoutfs" ? "filesystem" : found.kind
      }: -f overwrites it`,
    );
  } catch (e) {
    dev.close();
    throw e;
  }
}

/** An image file that was there becomes empty first, so that nothing of what it held shines through. */
function emptied(dev: BlockDevice, bytes: number): BlockDevice {
  // The lock of the open device keeps others out meanwhile.
  const path = dev.name, size = Math.max(bytes, Deno.statSync(path).size);
  Deno.truncateSync(path, 0);
  Deno.truncateSync(path, size);
  if (size === dev.size) return dev;
  dev.close();
  return openDevice(path, { write: true, exclusive: true });
}
