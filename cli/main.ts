/**
 * The `scoutfs` command line (05 §11): finds the command, loads its file alone, lets it parse and
 * run, and turns every way of ending into the exit status and the lines on standard error that
 * scripts know. No stack trace ever reaches a user; SCOUTFS_DEBUG=1 adds one for developers.
 */

import { Command, CommanderError } from "@commander-js/extra-typings";
import config from "../deno.json" with { type: "json" };
import { EIO, errnoName, strerror } from "../format/errno.ts";
import { COMMAND_GROUPS, type CommandEntry, UsageError } from "./command.ts";
import { errnoOfFailure, printError, printLine, tryPrintError } from "./output.ts";

/** Exit status of usage errors, EX_USAGE of sysexits, and of failures. */
const STATUSES = { usage: 64, failure: 1 };

const COMMANDS: readonly CommandEntry[] = [
  {
    name: "mkfs",
    group: "Core admin",
    synopsis: "META-DEVICE DATA-DEVICE -Q NR,ADDR,PORT …",
    summary: "Make a filesystem on a metadata and a data device",
    example: "mkfs -Q 0,10.0.0.1,47000 -Q 1,10.0.0.2,47000 -Q 2,10.0.0.3,47000 /dev/sdb /dev/sdc",
    load: () => import("./mkfs.ts"),
  },
  {
    name: "mount",
    group: "Core admin",
    synopsis: "[-f] -o OPTIONS DATA-DEVICE MOUNTPOINT",
    summary: "Mount a filesystem",
    example: "mount -o metadev_path=/dev/sdb,quorum_slot_nr=0 /dev/sdc /mnt",
    load: () => import("./mount.ts"),
  },
  {
    name: "install-mount-helper",
    group: "Core admin",
    synopsis: "[-d DIRECTORY] [-r]",
    summary: "Install mount.scoutfs and fsck.scoutfs, for mount -t scoutfs and fsck -t scoutfs",
    example: "install-mount-helper && mount -t scoutfs -o metadev_path=/dev/sdb /dev/sdc /mnt",
    load: () => import("./install-mount-helper.ts"),
  },
  {
    name: "fsck",
    group: "Core admin",
    synopsis: "[-n | -p | -y] META-DEVICE DATA-DEVICE",
    summary: "Check a filesystem and mend it",
    example: "fsck -n /dev/sdb /dev/sdc",
    unloadable: 128,
    load: () => import("./fsck.ts"),
  },
  {
    name: "print",
    group: "Debugging commands",
    synopsis: "META-DEVICE",
    summary: "Print the metadata structures of a device",
    example: "print /dev/sdb | less",
    load: () => import("./print.ts"),
  },
  {
    name: "metadump",
    group: "Debugging commands",
    synopsis: "[-a] [-f] [-o] [-d DATA-DEVICE] META-DEVICE FILE",
    summary: "Write the metadata of a volume to a file, for keeping or sending",
    example: "metadump /dev/sdb volume.dump",
    load: () => import("./metadump.ts"),
  },
  {
    name: "metarestore",
    group: "Debugging commands",
    synopsis: "[-f] FILE META-DEVICE [DATA-DEVICE]",
    summary: "Make a volume of a metadata dump",
    example: "metarestore volume.dump meta.img",
    load: () => import("./metarestore.ts"),
  },
  {
    name: "df",
    group: "Core admin",
    synopsis: "[-h] [-p PATH]",
    summary: "Show used and free space of the two devices",
    example: "df -h -p /mnt",
    load: () => import("./df.ts"),
  },
  {
    name: "stat",
    group: "Additional Information",
    synopsis: "FILE [-s FIELD]",
    summary: "Show attributes of an inode that stat(2) does not",
    example: "stat -s data_version /mnt/file",
    load: () => import("./stat.ts"),
  },
  {
    name: "statfs",
    group: "Additional Information",
    synopsis: "[-p PATH] [-s FIELD]",
    summary: "Show what statfs(2) does not of a volume",
    example: "statfs -p /mnt",
    load: () => import("./statfs.ts"),
  },
  {
    name: "walk-inodes",
    group: "Search Acceleration",
    synopsis: "[-p PATH] meta_seq|data_seq FIRST LAST",
    summary: "List inodes by when they changed last",
    example: "walk-inodes -p /mnt meta_seq 0 -- -1",
    load: () => import("./walk-inodes.ts"),
  },
];

function usageText(): string {
  const lines = ["usage: scoutfs <command> [options] [arguments]"];
  for (const group of COMMAND_GROUPS) {
    const entries = COMMANDS.filter((c) => c.group === group);
    if (entries.length === 0) continue;
    lines.push("", `${group}:`);
    for (const c of entries) lines.push(`  ${c.name} ${c.synopsis}`, `    ${c.summary}`);
  }
  lines.push("", "Supported format version: 1-2");
  return lines.join("\n");
}

/** Runs one command line; returns the exit status. */
export async function main(args: readonly string[]): Promise<number> {
  const [first, ...rest] = args;
  if (first === undefined) {
    printError(usageText());
    return 1;
  }
  if (first === "help" && rest.length > 0) return main([rest[0] as string, "--help"]);
  if (first === "--help" || first === "-h" || first === "-?" || first === "help") {
    return say("help", [usageText(), "Each command explains itself: scoutfs COMMAND --help"]);
  }
  if (first === "--version") return say("version", [`scoutfs ${config.version}`]);
  const entry = COMMANDS.find((c) => c.name === first);
  if (entry === undefined) {
    printError(`scoutfs: unrecognized command: '${first}'`);
    printError(usageText());
    return 1;
  }
  return await runCommand(entry, rest);
}

/** Prints what was asked for; returns the exit status. */
function say(name: string, lines: readonly string[]): number {
  try {
    for (const line of lines) printLine(line);
    return 0;
  } catch (e) {
    return report(name, e, STATUSES);
  }
}

async function runCommand(entry: CommandEntry, args: string[]): Promise<number> {
  let statuses = { usage: STATUSES.usage, failure: entry.unloadable ?? STATUSES.failure };
  try {
    const { command: spec } = await entry.load();
    statuses = spec.statuses ?? STATUSES;
    const command = new Command(entry.name)
      .description(entry.summary + ".")
      .helpOption("-?, --help", "show this help")
      .allowExcessArguments(false)
      .exitOverride()
      .configureOutput({ writeErr: () => {}, writeOut: (text) => printLine(text.trimEnd()) });
    spec.setup(command as Command);
    command.addHelpText("after", `\nExample:\n  scoutfs ${entry.example}`);
    const long = command.options.flatMap((o) => o.long === undefined ? [] : [o.long]);
    const expanded = expandPrefixes(args, [...long, "--help", "--usage"]);
    if (usageAsked(expanded)) {
      printLine(`Usage: ${entry.name} ${command.usage()}`);
      return 0;
    }
    await command.parseAsync(expanded, { from: "user" });
    return Number(Deno.exitCode);
  } catch (e) {
    return report(entry.name, e, statuses);
  }
}

/** Completes long options that were given as an unambiguous prefix, as GNU programs do. */
function expandPrefixes(args: readonly string[], options: readonly string[]): string[] {
  const out: string[] = [];
  let ended = false;
  for (const arg of args) {
    if (arg === "--") ended = true;
    if (ended || !/^--[^=]/.test(arg)) {
      out.push(arg);
      continue;
    }
    const [name, value] = splitOnce(arg, "=");
    const matching = options.filter((o) => o.startsWith(name));
    if (matching.length === 1 || options.includes(name)) {
      const full = options.includes(name) ? name : matching[0] as string;
      out.push(value === undefined ? full : `${full}=${value}`);
    } else if (matching.length > 1) {
      throw new UsageError(
        `option '${name}' is ambiguous; possibilities: ${matching.map((o) => `'${o}'`).join(" ")}`,
      );
    } else out.push(arg);
  }
  return out;
}

function usageAsked(args: readonly string[]): boolean {
  const end = args.indexOf("--");
  return args.slice(0, end < 0 ? args.length : end).includes("--usage");
}

function splitOnce(text: string, separator: string): [string, string | undefined] {
  const at = text.indexOf(separator);
  return at < 0 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)];
}

/** Says on standard error why a command ended, if anybody takes it; returns the exit status. */
function report(name: string, e: unknown, statuses: typeof STATUSES): number {
  if (e instanceof CommanderError && e.exitCode === 0) return 0;
  if (Deno.env.get("SCOUTFS_DEBUG") === "1" && e instanceof Error) {
    tryPrintError(e.stack ?? e.message);
  }
  if (e instanceof CommanderError || e instanceof UsageError) {
    const message = e.message.replace(/^error: /, "");
    tryPrintError(`${name}: ${message}`);
    tryPrintError(`Try \`${name} --help' or \`${name} --usage' for more information.`);
    return statuses.usage;
  }
  const known = errnoOfFailure(e);
  const errno = known ?? EIO;
  const message = e instanceof Error ? e.message : String(e);
  if (known === undefined) tryPrintError(`internal error: ${message}`);
  else if (message !== errnoName(errno)) tryPrintError(message);
  tryPrintError(`scoutfs: ${name} failed: ${strerror(errno)} (${errno})`);
  return statuses.failure;
}
