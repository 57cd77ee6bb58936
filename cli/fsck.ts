/**
 * `scoutfs fsck`: checks a volume that is not mounted, and mends it. The exit status has e2fsck's
 * bits: 0 no problems, 1 problems were mended, 4 problems are left, 8 the check could not be done, 16
 * wrong use, 32 interrupted, 128 the program could not be loaded. 2, "reboot", never happens: no
 * system boots from such a volume.
 */

import { type CheckOptions, checkVolume, isSound } from "../fs/check/check.ts";
import { ThreadCrew } from "../fs/check/crew.ts";
import { checkOnline } from "../fs/check/online.ts";
import { PathFinder } from "../fs/check/paths.ts";
import { isProblemCode, type ProblemCode, PROBLEMS } from "../fs/check/problems.ts";
import { TempFile } from "../fs/check/temp_file.ts";
import { FixedArea } from "../fs/check/repair/fixed_area.ts";
import { repairVolume } from "../fs/check/repair/repair.ts";
import { applyUndo, UndoDevice, UndoFile, undoIdentity } from "../fs/check/repair/undo.ts";
import type { Device } from "../fs/device.ts";
import { EINVAL } from "../format/errno.ts";
import { FsError } from "../fs/errors.ts";
import { type QuorumSlotSetting, slotConflict } from "../fs/mkfs.ts";
import { SystemClock, SystemRandom } from "../fs/sys/clock.ts";
import { useFastCrc32c } from "../fs/sys/crc.ts";
import type { BlockDevice } from "../fs/sys/device.ts";
import { RingReader } from "../fs/sys/uring.ts";
import { type CommandSpec, UsageError } from "./command.ts";
import { Constancy, NotedWrites, reasonAgainstPair, useOf, withDevices } from "./fsck_devices.ts";
import { Display, type Mode, takeBack } from "./fsck_display.ts";
import { type DevicePair, devicesOf } from "./fstab.ts";
import { Interrupt, MENDED } from "./interrupt.ts";
import { liveRecords } from "./mount/record.ts";
import { runtimeDir } from "./mount/paths.ts";
import { printLine } from "./output.ts";
import { parseQuorumSlot, parseSize } from "./parse.ts";
import { formatSize } from "./sizes.ts";

const EXIT_PROBLEMS_LEFT = 4;
const EXIT_FAILED = 8;

const MAX_DEFAULT_WORKERS = 4;
const MAX_WORKERS = 64;

interface FsckOptions {
  readonly mode: Mode;
  readonly undo: string | undefined;
  readonly force: boolean;
  readonly json: boolean;
  readonly verbose: boolean;
  readonly progress: boolean;
  readonly memory: number;
  /** Threads, this one among them. */
  readonly workers: number;
  readonly tempDir: string | undefined;
  /** What only the user knows of a volume that has lost its super blocks. */
  readonly slots: readonly QuorumSlotSetting[];
  readonly trustData: boolean;
}

export const command: CommandSpec = {
  statuses: { usage: 16, failure: EXIT_FAILED },
  setup(c) {
    c.argument(
      "[meta-device]",
      "metadata device or image file; alone: either device of a line of fstab",
    )
      .argument("[data-device]", "data device or image file")
      .option("-n, --no-changes", "only report, change nothing; the default without a terminal")
      .option("-p, --preen", "mend what loses nothing, where nothing else is wrong")
      .option("-y, --yes", "mend everything that can be mended")
      .option("--undo <file>", "before mending save what is overwritten in a new file")
      .option("--undo-apply <file>", "bring the devices back to what an undo file has saved")
      .option(
        "-f, --force",
        "go on although the volume seems to be mounted, or a device not its own",
      )
      .option(
        "-Q, --quorum-slot <NR,ADDR,PORT>",
        "a quorum slot of a volume that has lost both super blocks, as mkfs was given it; repeatable",
        (value: string, previous: string[] | undefined) => [...previous ?? [], value],
      )
      .option("--trust-data-device", "the data device is the volume's even if nothing shows it")
      .option("-v, --verbose", "show every problem, not only the first ten of each kind")
      .option("--json", "print problems and the summary as JSON, one record a line")
      .option("--progress", "show progress on standard error even where that is no terminal")
      .option("--memory <size>", "memory for large structures before they go to disk", "1G")
      .option("--workers <n>", "threads that check large volumes", String(defaultWorkers()))
      .option("--temp-dir <dir>", "directory of temporary files")
      .option("--online <mountpoint>", "check the committed state of a mounted volume, read-only")
      .option("--explain [code]", "explain a problem code, or list all of them, and exit")
      .addHelpText("after", STATUS_HELP)
      .action(async (metaPath, dataPath, o) => {
        if (o.explain !== undefined) {
          explain(o.explain);
          return;
        }
        const { online, undoApply } = o;
        if (online === undefined && metaPath === undefined) {
          throw new UsageError("must provide metadata and data device path arguments");
        }
        const mode = modeOf(o.changes === false, o.preen === true, o.yes === true);
        if (online !== undefined && (metaPath !== undefined || mode === "safe" || mode === "all")) {
          throw new UsageError("--online checks a mountpoint, and changes nothing");
        }
        if (o.undo !== undefined && (mode === "report" || online !== undefined)) {
          throw new UsageError("--undo is for mending: -p, -y or a terminal to be asked on");
        }
        if (undoApply !== undefined && o.undo !== undefined) {
          throw new UsageError("--undo is for mending, not for --undo-apply");
        }
        if (undoApply !== undefined && (online !== undefined || o.changes === false)) {
          throw new UsageError(
            "--undo-apply writes to the devices of a volume that is not mounted",
          );
        }
        const options: FsckOptions = {
          mode: online === undefined ? mode : "report",
          undo: o.undo,
          force: o.force === true,
          json: o.json === true,
          verbose: o.verbose === true,
          progress: o.progress === true,
          memory: parseMemory(o.memory),
          workers: parseWorkers(o.workers),
          tempDir: o.tempDir,
          slots: parseSlots(o.quorumSlot ?? []),
          trustData: o.trustDataDevice === true,
        };
        const interrupt = await Interrupt.watch(options.json);
        const show = new Display(options);
        try {
          // A directory that was named, and is of no use, is better known before hours of work.
          if (options.tempDir !== undefined) new TempFile(options.tempDir).close();
          await useFastCrc32c();
          Deno.exitCode = online !== undefined
            ? await checkMounted(online, options, show)
            : await checkUnmounted(
              metaPath ?? "",
              dataPath,
              undoApply,
              options,
              show,
              interrupt,
            );
        } catch (e) {
          if (!(e instanceof FsError)) throw e;
          show.failure(e.message);
          Deno.exitCode = EXIT_FAILED;
        } finally {
          interrupt.close();
        }
      });
  },
};

const STATUS_HELP = `
Exit status, added up: 0 no problems, 1 problems were mended, 4 problems are left, 8 it could not be
done, 16 wrong use, 32 interrupted, 128 the program could not be loaded.`;

function modeOf(no: boolean, preen: boolean, yes: boolean): Mode {
  if (Number(no) + Number(preen) + Number(yes) > 1) {
    throw new UsageError("only one of -n, -p and -y can be given");
  }
  if (preen) return "safe";
  if (yes) return "all";
  return no || !Deno.stdin.isTerminal() || !Deno.stdout.isTerminal() ? "report" : "ask";
}

function defaultWorkers(): number {
  return Math.min(MAX_DEFAULT_WORKERS, navigator.hardwareConcurrency);
}

function parseMemory(text: string): number {
  try {
    return Number(parseSize(text));
  } catch (e) {
    if (!(e instanceof FsError)) throw e;
    throw new UsageError(`--memory: ${e.message}`);
  }
}

function parseWorkers(text: string): number {
  const n = Number(text);
  if (!Number.isInteger(n) || n < 1 || n > MAX_WORKERS) {
    throw new UsageError(`--workers must be a number from 1 to ${MAX_WORKERS}`);
  }
  return n;
}

function parseSlots(texts: readonly string[]): QuorumSlotSetting[] {
  const slots = texts.map((text) => {
    const slot = parseQuorumSlot(text);
    if (typeof slot === "string") throw new UsageError(slot);
    return slot;
  });
  const conflict = slotConflict(slots);
  if (conflict !== undefined) throw new UsageError(conflict);
  return slots;
}

/** What makes a check quicker. */
type Help = Pick<CheckOptions, "crew" | "readAhead">;

/** Runs something that checks a volume, with the threads and reads ahead that it may have. */
async function withHelp(
  meta: BlockDevice,
  o: FsckOptions,
  run: (help: Help) => number,
): Promise<number> {
  const crew = o.workers > 1 ? new ThreadCrew(o.workers - 1, meta) : null;
  const ring = RingReader.open(meta.fd);
  try {
    return run({
      ...(crew === null ? {} : { crew }),
      ...(ring === null ? {} : { readAhead: ring }),
    });
  } finally {
    ring?.close();
    await crew?.close();
  }
}

/** Options of every check, with what makes it quicker. */
function checkOptions(o: FsckOptions, show: Display, help: Help): CheckOptions {
  return {
    memory: o.memory,
    ...(o.tempDir === undefined ? {} : { tempDir: o.tempDir }),
    onProblem: (p) => show.problem(p),
    ...show.progress(),
    ...help,
  };
}

function checkUnmounted(
  first: string,
  second: string | undefined,
  undoApply: string | undefined,
  o: FsckOptions,
  show: Display,
  interrupt: Interrupt,
): Promise<number> {
  const pair: DevicePair = second === undefined ? devicesOf(first) : { meta: first, data: second };
  const write = undoApply !== undefined || o.mode !== "report";
  return withDevices({ ...pair, write, exclusive: true }, (meta, data) => {
    // First: what is written from here on is seen.
    const fixed = new FixedArea(meta);
    if (undoApply !== undefined) {
      if (!mayUse(meta, o, show, "restores what the file holds")) return EXIT_FAILED;
      interrupt.undoing();
      return undo(undoApply, meta, data, fixed, o, show);
    }
    const wrong = o.force || o.trustData ? null : reasonAgainstPair(meta, data);
    if (wrong !== null) throw new FsError(EINVAL, wrong);
    const forced = o.mode === "report" ? "checks it as it is" : "recovers and mends it";
    if (!mayUse(meta, o, show, forced)) return EXIT_FAILED;
    return withHelp(
      meta,
      o,
      (help) =>
        o.mode === "report"
          ? check(meta, data, fixed, o, show, help)
          : mend(meta, data, fixed, o, show, help, interrupt),
    );
  });
}

/** Whether the volume may be worked on; says why not, and what --force does all the same. */
function mayUse(meta: BlockDevice, o: FsckOptions, show: Display, forced: string): boolean {
  const { reasons, ended } = useOf(meta);
  if (reasons.length === 0) return true;
  if (ended) {
    show.remark("its last mounts ended in a crash: their processes on this host are gone");
    return true;
  }
  if (o.force) {
    for (const reason of reasons) show.remark(`--force, although ${reason}`);
    return true;
  }
  show.failure(`${meta.name}: the volume may be mounted somewhere:`, [
    ...reasons,
    "If a mount ended in a crash, mounting the volume once recovers it. If no host at all has it " +
    `mounted, --force ${forced}.`,
  ]);
  return false;
}

function check(
  meta: BlockDevice,
  data: BlockDevice,
  fixed: FixedArea,
  o: FsckOptions,
  show: Display,
  help: Help,
): number {
  show.begin(new PathFinder(meta, new SystemRandom()));
  const constancy = new Constancy([meta, data]);
  const report = checkVolume(meta, data, checkOptions(o, show, help));
  constancy.mustHold();
  // As before a write: nobody else may have changed it meanwhile, unless that was said not to matter.
  if (!o.force) fixed.beforeWrite(true);
  const status = isSound(report) ? 0 : EXIT_PROBLEMS_LEFT;
  show.end(meta.name, { report, modified: false, stopped: null, undo: null, status });
  return status;
}

/** Checks what a mount of this host serves; the mount goes on. */
async function checkMounted(mountpoint: string, o: FsckOptions, show: Display): Promise<number> {
  const path = realPath(mountpoint);
  const record = liveRecords(runtimeDir()).find((r) => r.mountpoint === path);
  if (record === undefined) {
    const why = `is not the mountpoint of a mount that is recorded in ${runtimeDir()}/mounts`;
    show.failure(`${mountpoint}: ${why}`);
    return EXIT_FAILED;
  }
  const { meta, data } = record;
  const devices = { meta, data, write: false, exclusive: false };
  const run = (metaDev: BlockDevice, dataDev: BlockDevice, help: Help): number => {
    show.begin(new PathFinder(metaDev, new SystemRandom()));
    const { report, attempts, settled } = checkOnline(
      metaDev,
      dataDev,
      checkOptions(o, show, help),
    );
    const status = !settled ? EXIT_FAILED : isSound(report) ? 0 : EXIT_PROBLEMS_LEFT;
    if (!settled) {
      show.failure(
        `${mountpoint}: the volume changed during each of ${attempts} attempts: what was ` +
          "found may be of no meaning; check it again at a quieter time, or unmounted",
      );
    }
    show.end(mountpoint, {
      report,
      modified: false,
      stopped: null,
      mounted: true,
      undo: null,
      status,
    });
    return status;
  };
  return await withDevices(
    devices,
    (metaDev, dataDev) => withHelp(metaDev, o, (help) => run(metaDev, dataDev, help)),
  );
}

function realPath(path: string): string {
  try {
    return Deno.realPathSync(path);
  } catch (e) {
    throw new FsError(EINVAL, `${path}: ${e instanceof Error ? e.message : e}`);
  }
}

function mend(
  meta: BlockDevice,
  data: BlockDevice,
  fixed: FixedArea,
  o: FsckOptions,
  show: Display,
  help: Help,
  interrupt: Interrupt,
): number {
  const file = o.undo === undefined ? null : new UndoFile(o.undo, undoIdentity(meta, data));
  // What could not be saved for an undo is not written.
  const noted = [new NotedWrites(meta), new NotedWrites(data)] as const;
  const undoable = (index: 0 | 1): Device =>
    file === null ? noted[index] : new UndoDevice(noted[index], file, index);
  const modified = () => noted.some((dev) => dev.written);
  try {
    const { after: report, commits, lossy, stopped, failed } = repairVolume(
      undoable(0),
      undoable(1),
      {
        ...checkOptions(o, show, help),
        mode: o.mode === "safe" ? "safe" : "all",
        random: new SystemRandom(),
        now: new SystemClock().realtime(),
        slots: o.slots,
        trustData: o.trustData,
        fixed,
        onRound: (n) => {
          interrupt.roundsDone(n - 1);
          show.begin(new PathFinder(meta, new SystemRandom()));
        },
        log: (line) => show.note(line),
        ...(o.mode === "ask" ? { ask: (code, count) => show.ask(code, count) } : {}),
      },
    );
    const mended = commits > 0 || modified() ? MENDED : 0;
    const left = isSound(report) ? 0 : EXIT_PROBLEMS_LEFT;
    const status = mended | (failed ? EXIT_FAILED : left);
    const undo = file !== null && file.bytesSaved > 0 ? file.path : null;
    if (file !== null && file.pagesLost > 0) {
      show.remark(`${file.path} lacks ${file.pagesLost} pages that could not be read`);
    }
    file?.end();
    const losing = lossy && commits > 0;
    show.end(meta.name, { report, modified: modified(), lossy: losing, stopped, undo, status });
    return status;
  } catch (e) {
    if (!(e instanceof FsError)) throw e;
    show.failure(
      e.message + (modified() ? "; mending was cut short, a second run goes on with it" : ""),
      file !== null && file.bytesSaved > 0 ? [takeBack(file.path)] : [],
    );
    return EXIT_FAILED | (modified() ? MENDED : 0);
  } finally {
    file?.close();
    if (file !== null && file.bytesSaved === 0) Deno.removeSync(file.path);
  }
}

function undo(
  path: string,
  meta: BlockDevice,
  data: BlockDevice,
  fixed: FixedArea,
  o: FsckOptions,
  show: Display,
): number {
  const { restored, unfinished } = applyUndo(path, meta, data, o.force, fixed);
  show.line(
    `${meta.name}: ${formatSize(restored)} were restored` +
      (unfinished ? "; that repair had been interrupted, or the end of the file is lost" : ""),
    { record: "undone", volume: meta.name, bytes: restored, unfinished },
  );
  return 0;
}

function explain(code: string | true): void {
  if (code === true) {
    const codes = Object.keys(PROBLEMS).filter(isProblemCode);
    const width = Math.max(...codes.map((c) => c.length));
    for (const c of codes) {
      const { severity, text } = PROBLEMS[c];
      printLine(`${c.padEnd(width)}  ${severity.padEnd(7)}  ${text}`);
    }
    return;
  }
  if (!isProblemCode(code)) {
    throw new UsageError(`no problem has the code '${code}': --explain alone lists them all`);
  }
  printLine(explanation(code));
}

function explanation(code: ProblemCode): string {
  const p = PROBLEMS[code];
  const mended = { safe: "-p and -y mend it", lossy: "-y mends it", none: "only reported" };
  return `${code} (${p.severity}): ${p.text}\n${mended[p.mending]}. ${p.how}`;
}
