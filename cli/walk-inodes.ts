/** `scoutfs walk-inodes INDEX FIRST LAST`: inodes by when they changed last (05 §12.3). */

import { EINVAL } from "../format/errno.ts";
import { IOC_WALK_INODES, IocWalkInodes, IocWalkInodesEntry } from "../format/ioctl.ts";
import { FsError } from "../fs/errors.ts";
import { type CommandSpec, UsageError } from "./command.ts";
import { mountPath, OpenPath, pointerTo } from "./ioctl.ts";
import { Output, printError } from "./output.ts";
import { parseU64 } from "./parse.ts";

/** A position of an index. */
export interface Position {
  major: bigint;
  minor: number;
  ino: bigint;
}

const INDEXES: ReadonlyMap<string, number> = new Map([["meta_seq", 0], ["data_seq", 1]]);
const U32_MAX = 0xffff_ffffn;
const U64_MAX = 0xffff_ffff_ffff_ffffn;
const ENTRIES = 1024;
const HEADER_EVERY = 25;

/** `MAJOR[.MINOR[.INO]]`, numbers in C notation, −1 the greatest; what is left out is 0. */
export function parsePosition(text: string, which: "first" | "last"): Position {
  const parts = text.split(".");
  const numbers = parts.map((part) => {
    try {
      return parseU64(part);
    } catch (e) {
      if (!(e instanceof FsError)) throw e;
      return null;
    }
  });
  const bad = numbers.findIndex((n) => n === null);
  const minor = numbers[1] ?? 0n;
  if (bad >= 0 || parts.length > 3 || (minor > U32_MAX && minor !== U64_MAX)) {
    printError(`bad index pos at '${parts.slice(bad < 0 ? 1 : bad).join(".")}'`);
    throw new FsError(EINVAL, `invalid ${which} position '${text}', try '1.2.3' or '-1'`);
  }
  return { major: numbers[0]!, minor: Number(minor & U32_MAX), ino: numbers[2] ?? 0n };
}

/** The position right after an entry. */
export function nextPosition({ major, minor, ino }: Position): Position | null {
  if (ino < U64_MAX) return { major, minor, ino: ino + 1n };
  if (minor < Number(U32_MAX)) return { major, minor: minor + 1, ino: 0n };
  return major < U64_MAX ? { major: major + 1n, minor: 0, ino: 0n } : null;
}

const row = (nr: string, major: string, minor: string, ino: string): string =>
  `${nr.padEnd(20)} ${major.padEnd(20)} ${minor.padEnd(10)} ${ino.padEnd(20)}\n`;

/** The table's line for entry number `nr`, after the heading when that is due. */
export function formatEntry(nr: number, e: Position): string {
  const heading = nr % HEADER_EVERY === 0 ? row("#", "major", "minor", "ino") : "";
  return heading + row(`${nr}`, `${e.major}`, `${e.minor}`, `${e.ino}`);
}

/** All entries from `first` to `last`, a buffer at a time. */
function* walk(path: OpenPath, index: number, first: Position, last: Position) {
  const entries = new Uint8Array(ENTRIES * IocWalkInodesEntry.SIZE);
  for (let from: Position | null = first; from !== null;) {
    const arg = IocWalkInodes.alloc();
    setPosition(arg.first, from);
    setPosition(arg.last, last);
    arg.entriesPtr = pointerTo(entries);
    arg.nrEntries = ENTRIES;
    arg.index = index;
    const count = path.ioctl(IOC_WALK_INODES, arg.bytes);
    if (count === 0) return;
    let position: Position = from;
    for (let i = 0; i < count; i++) {
      const entry = IocWalkInodesEntry.at(entries, i * IocWalkInodesEntry.SIZE);
      position = { major: entry.major, minor: entry.minor, ino: entry.ino };
      yield position;
    }
    from = nextPosition(position);
  }
}

function setPosition(to: IocWalkInodesEntry, p: Position): void {
  to.major = p.major;
  to.minor = p.minor;
  to.ino = p.ino;
}

export const command: CommandSpec = {
  setup(c) {
    c.argument("[index]", "meta_seq or data_seq")
      .argument("[first]", "first position, MAJOR[.MINOR[.INO]]")
      .argument("[last]", "last position; -1 (after --) is the end")
      .option("-p, --path <path>", "any path of the mount (default: current directory)")
      .option("--json", "print one JSON object a line")
      .action((name, firstText, lastText, options) => {
        if (name === undefined) throw new UsageError("must provide index name");
        if (firstText === undefined) throw new UsageError("must provide first position");
        if (lastText === undefined) throw new UsageError("must provide last position");
        const index = INDEXES.get(name.toLowerCase());
        if (index === undefined) {
          throw new FsError(EINVAL, `unknown index '${name}', try 'meta_seq' or 'data_seq'`);
        }
        const first = parsePosition(firstText, "first");
        const last = parsePosition(lastText, "last");
        using path = new OpenPath(mountPath(options.path));
        const out = new Output();
        let nr = 0;
        try {
          for (const entry of walk(path, index, first, last)) {
            if (options.json) {
              const { major, minor, ino } = entry;
              out.write(`{"major":${major},"minor":${minor},"ino":${ino}}\n`);
            } else out.write(formatEntry(nr, entry));
            nr++;
          }
        } finally {
          out.flush();
        }
      });
  },
};
