/**
 * `scoutfs install-mount-helper`: puts a small script where mount(8) looks for helpers, so that
 * `mount -t scoutfs -o metadev_path=… /dev/data /mnt` and fstab lines work as they do with the
 * reference's kernel module.
 */

import { EACCES, EIO, errnoNumber, strerror } from "../format/errno.ts";
import { FsError } from "../fs/errors.ts";
import type { CommandSpec } from "./command.ts";
import { printLine } from "./output.ts";

export const HELPER = "mount.scoutfs";
const DEFAULT_DIR = "/sbin";
/** So that removal never touches somebody else's file. */
const MARK = "# Written by scoutfs install-mount-helper.";

export const command: CommandSpec = {
  setup(c) {
    c.option("-d, --directory <dir>", "where mount(8) looks for helpers", DEFAULT_DIR)
      .option("-r, --remove", "take the helper away again")
      .action((opts) => {
        const path = `${opts.directory}/${HELPER}`;
        try {
          if (opts.remove === true) removeHelper(path);
          else installHelper(path);
        } catch (e) {
          if (e instanceof FsError) throw e;
          const errno = errnoNumber((e as { code?: string }).code ?? "") ?? EIO;
          throw new FsError(errno, `${path}: ${strerror(errno)}`);
        }
        printLine(`${opts.remove === true ? "removed" : "installed"} ${path}`);
      });
  },
};

/**
 * mount(8) calls a helper as `mount.scoutfs SOURCE DIR [-sfnv] [-N NS] [-o OPTIONS] [-t TYPE]`;
 * ours takes the options, and nothing but them means anything to us.
 */
export function helperScript(program: readonly string[]): string {
  return `#!/bin/sh
${MARK}
source=$1
dir=$2
shift 2
options=
while getopts sfnvN:o:t: letter; do
  case $letter in
  f) exit 0 ;; # a mount that is only pretended
  o) options=$OPTARG ;;
  N) echo "mount.scoutfs: mount namespaces are not supported" >&2; exit 1 ;;
  esac
done
exec ${program.map(quote).join(" ")} mount -o "$options" "$source" "$dir"
`;
}

const quote = (word: string): string => `'${word.replaceAll("'", `'\\''`)}'`;

/** The command line that runs this program. */
function thisProgram(): string[] {
  if (Deno.build.standalone) return [Deno.execPath()];
  const main = Deno.mainModule.startsWith("file:")
    ? decodeURIComponent(new URL(Deno.mainModule).pathname)
    : Deno.mainModule;
  return [Deno.execPath(), "run", "--quiet", "--no-prompt", "-A", main];
}

function installHelper(path: string): void {
  refuseForeign(path);
  Deno.writeTextFileSync(`${path}.new`, helperScript(thisProgram()), { mode: 0o755 });
  Deno.chmodSync(`${path}.new`, 0o755);
  Deno.renameSync(`${path}.new`, path);
}

function removeHelper(path: string): void {
  refuseForeign(path);
  Deno.removeSync(path);
}

function refuseForeign(path: string): void {
  let text: string;
  try {
    text = Deno.readTextFileSync(path);
  } catch (e) {
    if (e instanceof Deno.errors.NotFound) return;
    throw e;
  }
  if (!text.includes(MARK)) throw new FsError(EACCES, `${path}: is not ours, left alone`);
}
