/** `scoutfs metadump`: the metadata of a volume in a small file, to be sent or kept. */

import { EEXIST, EINVAL, EIO, errnoNumber } from "../format/errno.ts";
import { evidenceOfUse } from "../fs/check/in_use.ts";
import type { Device } from "../fs/device.ts";
import { dumpVolume } from "../fs/dump/dump.ts";
import { FsError } from "../fs/errors.ts";
import { useFastCrc32c } from "../fs/sys/crc.ts";
import { openDevice } from "../fs/sys/device.ts";
import { CountLine } from "./count_line.ts";
import { type CommandSpec, failedTo, UsageError } from "./command.ts";
import { tryPrintError } from "./output.ts";
import { formatSize } from "./sizes.ts";

export const command: CommandSpec = {
  setup(c) {
    c.argument("[meta-device]", "metadata device or image file")
      .argument("[file]", "where to write the dump, - for standard output")
      .option("-a, --all", "also free blocks that still hold metadata of this volume")
      .option("-d, --data <device>", "keep the super block of the data device too")
      .option("-f, --force", "replace FILE if it exists")
      .option(
        "-o, --obscure",
        "replace names, xattr values and symlink targets (lengths and hashes stay)",
      )
      .action(async (path, file, options) => {
        if (path === undefined || file === undefined) {
          throw new UsageError("must provide metadata device and file arguments");
        }
        await useFastCrc32c();
        const meta = openDevice(path, { write: false });
        const data = options.data === undefined
          ? undefined
          : openDevice(options.data, { write: false });
        const out = openOutput(
          file,
          options.force === true,
          [path, ...(options.data === undefined ? [] : [options.data])],
        );
        const line = new CountLine("dumped");
        let done = false;
        try {
          warnIfMounted(meta);
          const result = dumpVolume(meta, out.write, {
            ...(data === undefined ? {} : { data }),
            unreferenced: options.all === true,
            ...(options.obscure === true
              ? { obscure: crypto.getRandomValues(new Uint8Array(16)) }
              : {}),
            time: Math.floor(Date.now() / 1000),
            warn: (text) => {
              line.clear();
              tryPrintError(text);
            },
            onBlock: (blocks) => line.show(blocks),
          });
          done = true;
          line.clear();
          const lost = result.unreadable === 0 ? "" : `, ${result.unreadable} could not be read`;
          const extra = result.unreferenced === 0
            ? ""
            : `, ${result.unreferenced} of them not referenced`;
          tryPrintError(
            `${result.blocks} blocks${extra} in ${formatSize(result.bytes, " ")}${lost}`,
          );
        } finally {
          line.clear();
          out.close(done);
          data?.close();
          meta.close();
        }
      });
  },
};

interface OutputFile {
  write(bytes: Uint8Array): void;
  /** Unless it is complete nothing of it stays. */
  close(complete: boolean): void;
}

/**
 * The dump is written beside FILE and gets its name when it is complete: what FILE held is there until
 * then. A device is never written to: naming one here is a mistake that would cost its contents.
 */
function openOutput(path: string, force: boolean, sources: readonly string[]): OutputFile {
  if (path === "-") {
    return { write: (bytes) => writeAll(Deno.stdout, bytes, "standard output"), close: () => {} };
  }
  const old = statOf(path);
  if (old?.isBlockDevice === true) {
    throw new FsError(EINVAL, `${path}: is a block device: a dump is written to a file`);
  }
  if (old !== null && sources.some((source) => isSame(old, statOf(source)))) {
    throw new FsError(EINVAL, `${path}: is what is to be dumped`);
  }
  if (old?.isFile === true && !force) {
    throw new FsError(EEXIST, `${path}: exists already: -f replaces it`);
  }
  // A pipe or a terminal has no other name.
  const making = old === null || old.isFile ? `${path}.part` : path;
  let file: Deno.FsFile;
  try {
    // Whatever has that name already, it may be what is to be dumped.
    file = Deno.openSync(making, { write: true, createNew: making !== path });
  } catch (e) {
    if (e instanceof Deno.errors.AlreadyExists) {
      throw new FsError(
        EEXIST,
        `${making}: exists: another dump is being written, or one was cut short: remove it then`,
      );
    }
    throw failedTo(`write '${making}'`, errnoOf(e));
  }
  return {
    write: (bytes) => writeAll(file, bytes, `'${making}'`),
    close(complete) {
      if (complete && making !== path) file.syncSync();
      file.close();
      if (making === path) return;
      if (complete) Deno.renameSync(making, path);
      else Deno.removeSync(making);
    },
  };
}

const errnoOf = (e: unknown): number =>
  errnoNumber(e instanceof Error && "code" in e ? String(e.code) : "") ?? EIO;

function statOf(path: string): Deno.FileInfo | null {
  try {
    return Deno.statSync(path);
  } catch (e) {
    if (e instanceof Deno.errors.NotFound) return null;
    throw failedTo(`open '${path}'`, errnoOf(e));
  }
}

const isSame = (a: Deno.FileInfo, b: Deno.FileInfo | null): boolean =>
  b !== null && a.dev === b.dev && a.ino === b.ino;

function writeAll(
  to: { writeSync(p: Uint8Array): number },
  bytes: Uint8Array,
  name: string,
): void {
  try {
    for (let rest = bytes; rest.length > 0;) rest = rest.subarray(to.writeSync(rest));
  } catch (e) {
    throw failedTo(`write ${name}`, errnoOf(e));
  }
}

function warnIfMounted(meta: Device): void {
  if (evidenceOfUse(meta).length > 0) {
    tryPrintError(
      `${meta.name}: warning: the volume may be mounted; the dump of a volume that is changing can ` +
        `contradict itself`,
    );
  }
}
