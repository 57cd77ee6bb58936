/**
 * `scoutfs install-mount-helper`: puts small scripts where mount(8) and fsck(8) look for helpers, so
 * that `mount -t scoutfs -o metadev_path=… /dev/data /mnt`, `fsck -t scoutfs /dev/data` and fstab lines
 * work as they do with the reference's kernel module.
 */

import { EACCES, EIO, errnoNumber, strerror } from "../format/errno.ts";
import { FsError } from "../fs/errors.ts";
import type { CommandSpec } from "./command.ts";
import { printLine } from "./output.ts";

/** Name and script of each helper. */
const HELPERS: readonly (readonly [name: string, script: (program: string) => string])[] = [
  ["mount.scoutfs", mountScript],
  ["fsck.scoutfs", fsckScript],
];
const DEFAULT_DIR = "/sbin";
/** So that removal never touches somebody else's file. */
const MARK = "# Written by scoutfs install-mount-helper.";

export const command: CommandSpec = {
  setup(c) {
    c.option("-d, --directory <dir>", "where mount(8) and fsck(8) look for helpers", DEFAULT_DIR)
      .option("-r, --remove", "take the helpers away again")
      .action((opts) => {
        const { directory } = opts, remove = opts.remove === true;
        // Somebody else's files are found before any is written.
        for (const [name] of HELPERS) refuseForeign(`${directory}/${name}`);
        for (const [name, script] of HELPERS) {
          const path = `${directory}/${name}`;
          try {
            if (!remove) install(path, script(thisProgram()));
            else if (!uninstall(path)) continue;
          } catch (e) {
            if (e instanceof FsError) throw e;
            const errno = errnoNumber((e as { code?: string }).code ?? "") ?? EIO;
            throw new FsError(errno, `${path}: ${strerror(errno)}`);
          }
          printLine(`${remove ? "removed" : "installed"} ${path}`);
        }
      });
  },
};

/**
 * mount(8) calls a helper as `mount.scoutfs SOURCE DIR [-sfnv] [-N NS] [-o OPTIONS] [-t TYPE]`;
 * ours takes the options, and nothing but them means anything to us.
 */
function mountScript(program: string): string {
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
exec ${program} mount -o "$options" "$source" "$dir"
`;
}

/**
 * fsck(8) calls a helper as `fsck.scoutfs [options] DEVICE`, at boot with -a; the other device is found
 * in fstab. -f, "even if it is clean", is what a check of ours does always, and must not become our
 * --force.
 */
function fsckScript(program: string): string {
  return `#!/bin/sh
${MARK}
left=$#
while [ "$left" -gt 0 ]; do
  word=$1
  shift
  left=$((left - 1))
  case $word in
  --*) ;;
  -?*)
    letters=\${word#-}
    word=-
    while [ -n "$letters" ]; do
      rest=\${letters#?}
      case $letters in
      C*) break ;; # with its number
      [frVTM]*) ;;
      a*) word=\${word}p ;;
      *) word=$word\${letters%"$rest"} ;;
      esac
      letters=$rest
    done
    [ "$word" != - ] || continue
    ;;
  esac
  set -- "$@" "$word"
done
for file in ${programFiles().map(quote).join(" ")}; do
  [ -r "$file" ] && continue
  echo "fsck.scoutfs: $file cannot be read" >&2
  exit 128
done
# A runtime that cannot begin ends with 1, which says that the volume was mended.
if ! why=$(${program} --version 2>&1); then
  printf '%s\\n' "fsck.scoutfs: the program cannot be run:" "$why" >&2
  exit 128
fi
exec ${program} fsck "$@"
`;
}

const quote = (word: string): string => `'${word.replaceAll("'", `'\\''`)}'`;

/** The words that run this program, for a shell. */
function thisProgram(): string {
  return programWords().map(quote).join(" ");
}

/** What must be there for the program to run. */
const programFiles = (): string[] => programWords().filter((word) => word.startsWith("/"));

function programWords(): string[] {
  if (Deno.build.standalone) return [Deno.execPath()];
  const main = Deno.mainModule.startsWith("file:")
    ? decodeURIComponent(new URL(Deno.mainModule).pathname)
    : Deno.mainModule;
  return [Deno.execPath(), "run", "--quiet", "--no-prompt", "-A", main];
}

function install(path: string, script: string): void {
  Deno.writeTextFileSync(`${path}.new`, script, { mode: 0o755 });
  Deno.chmodSync(`${path}.new`, 0o755);
  Deno.renameSync(`${path}.new`, path);
}

/** False if there was none. */
function uninstall(path: string): boolean {
  try {
    Deno.removeSync(path);
    return true;
  } catch (e) {
    if (e instanceof Deno.errors.NotFound) return false;
    throw e;
  }
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
