/**
 * `scoutfs fsck`: checks a volume that is not mounted, and mends it. The exit status has e2fsck's
 * bits: 0 no problems, 1 problems were mended, 4 problems are left, 8 the check could not be done, 16
 * wrong use.
 */

import {
  type CheckOptions,
  checkVolume,
  isSound,
  type Problem,
  type Progress,
  type Report,
} from "../fs/check/check.ts";
import { ThreadCrew } from "../fs/check/crew.ts";
import { evidenceOfUse, runningMounts } from "../fs/check/in_use.ts";
import { isProblemCode, type ProblemCode, PROBLEMS } from "../fs/check/problems.ts";
import { repairVolume } from "../fs/check/repair/repair.ts";
import { applyUndo, UndoDevice, UndoFile, type UndoIdentity } from "../fs/check/repair/undo.ts";
import { checkOnline } from "../fs/check/online.ts";
import { FsError } from "../fs/errors.ts";
import { readSuperBlock } from "../fs/volume.ts";
import { HostRecords } from "../net/host_record.ts";
import { MountedClientsReader } from "../net/mounted_clients.ts";
import { SystemClock, SystemRandom } from "../fs/sys/clock.ts";
import { runtimeDir, stateDir } from "./mount/paths.ts";
import { liveRecords } from "./mount/record.ts";
import { useFastCrc32c } from "../fs/sys/crc.ts";
import { type BlockDevice, openDevice } from "../fs/sys/device.ts";
import { RingReader } from "../fs/sys/uring.ts";
import { type CommandSpec, UsageError } from "./command.ts";
import { type DevicePair, devicesOf } from "./fstab.ts";
import { ProgressLine } from "./fsck_progress.ts";
import { Output, printError, printLine } from "./output.ts";
import { parseSize } from "./parse.ts";
import { formatSize } from "./sizes.ts";

const EXIT_MENDED = 1;
const EXIT_PROBLEMS_LEFT = 4;
const EXIT_FAILED = 8;

const MAX_DEFAULT_WORKERS = 4;
const MAX_WORKERS = 64;

/** What may be changed: nothing, what loses nothing, everything, or what the user says. */
type Mode = "report" | "safe" | "all" | "ask";

interface FsckOptions {
  readonly mode: Mode;
  readonly undo: string | undefined;
  readonly force: boolean;
  readonly json: boolean;
  readonly progress: boolean;
  readonly memory: number | undefined;
  /** Threads, this one among them. */
  readonly workers: number;
  readonly tempDir: string | undefined;
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
      .option("-p, --preen", "mend what can be mended without losing anything")
      .option("-y, --yes", "mend everything that can be mended")
      .option("--undo <file>", "before mending save what is overwritten in a new file")
      .option("--undo-apply <file>", "bring the devices back to what an undo file has saved")
      .option("-f, --force", "go on although the volume seems to be mounted somewhere")
      .option("--json", "print problems and the summary as JSON, one record a line")
      .option("--progress", "show progress on standard error even where that is no terminal")
      .option("--memory <size>", "memory for large structures before they go to disk", "1G")
      .option("--workers <n>", "threads that check large volumes", String(defaultWorkers()))
      .option("--temp-dir <dir>", "directory of temporary files")
      .option("--online <mountpoint>", "check the committed state of a mounted volume, read-only")
      .option("--explain <code>", "explain a problem code and exit")
      .action(async (metaPath, dataPath, o) => {
        if (o.explain !== undefined) {
          explain(o.explain);
          return;
        }
        const online = o.online;
        if (online === undefined && metaPath === undefined) {
          throw new UsageError("must provide metadata and data device path arguments");
        }
        const options: FsckOptions = {
          mode: modeOf(o.changes === false, o.preen === true, o.yes === true),
          undo: o.undo,
          force: o.force === true,
          json: o.json === true,
          progress: o.progress === true,
          memory: Number(parseSize(o.memory)),
          workers: parseWorkers(o.workers),
          tempDir: o.tempDir,
        };
        await useFastCrc32c();
        if (online !== undefined) {
          if (metaPath !== undefined || options.mode === "safe" || options.mode === "all") {
            throw new UsageError("--online checks a mountpoint, and changes nothing");
          }
          Deno.exitCode = await checkMounted(online, options);
          return;
        }
        const { undoApply } = o;
        const write = undoApply !== undefined || options.mode !== "report";
        const pair = bothDevices(metaPath ?? "", dataPath);
        if (pair === null) return;
        const devices = { ...pair, write, exclusive: true };
        Deno.exitCode = await withDevices(devices, (meta, data) => {
          if (undoApply !== undefined) return undo(undoApply, meta, data);
          return withHelp(
            meta,
            options,
            (help) =>
              options.mode === "report"
                ? check(meta, data, options, help)
                : mend(meta, data, options, help),
          );
        });
      });
  },
};

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

function parseWorkers(text: string): number {
  const n = Number(text);
  if (!Number.isInteger(n) || n < 1 || n > MAX_WORKERS) {
    throw new UsageError(`--workers must be a number from 1 to ${MAX_WORKERS}`);
  }
  return n;
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

/** The devices as they were given, or both by fstab if one was. Says why there is no other. */
function bothDevices(first: string, second: string | undefined): DevicePair | null {
  if (second !== undefined) return { meta: first, data: second };
  try {
    return devicesOf(first);
  } catch (e) {
    if (!(e instanceof FsError)) throw e;
    printError(`fsck: ${e.message}`);
    Deno.exitCode = EXIT_FAILED;
    return null;
  }
}

/** Opens the devices, if exclusive for this program alone; 8 when that is not possible. */
async function withDevices(
  devices: { meta: string; data: string; write: boolean; exclusive: boolean },
  run: (meta: BlockDevice, data: BlockDevice) => number | Promise<number>,
): Promise<number> {
  const open: BlockDevice[] = [];
  try {
    const { write, exclusive } = devices;
    for (const path of [devices.meta, devices.data]) {
      open.push(openDevice(path, { write, exclusive }));
    }
    return await run(open[0] as BlockDevice, open[1] as BlockDevice);
  } catch (e) {
    if (!(e instanceof FsError)) throw e;
    printError(`fsck: ${e.message}`);
    return EXIT_FAILED;
  } finally {
    for (const dev of open) dev.close();
  }
}

/** Whether the volume may be worked on; says why not. */
function mayUse(meta: BlockDevice, o: FsckOptions): boolean {
  const reasons = evidenceOfUse(meta);
  if (reasons.length === 0) return true;
  if (o.mode !== "report" && provablyUnused(meta)) {
    printError("fsck: its last mounts ended in a crash: their processes on this host are gone");
    return true;
  }
  printError(`fsck: ${meta.name}: the volume may be mounted somewhere:`);
  for (const reason of reasons) printError(`  ${reason}`);
  if (o.force) return true;
  printError(
    "If a mount ended in a crash, mounting the volume once recovers it. If no host at all has it " +
      `mounted, --force ${o.mode === "report" ? "checks it as it is" : "recovers and mends it"}.`,
  );
  return false;
}

/** All mounts that the volume speaks of ran on this host, and their processes are gone. */
function provablyUnused(meta: BlockDevice): boolean {
  try {
    const { fsid } = readSuperBlock(meta).hdr;
    const records = new HostRecords(stateDir(), fsid);
    const rids = [
      ...new MountedClientsReader(meta, fsid, new SystemRandom()).rids(),
      ...runningMounts(meta),
    ];
    return rids.every((rid) => records.provablyDead(rid));
  } catch (e) {
    if (e instanceof FsError) return false;
    throw e;
  }
}

function check(meta: BlockDevice, data: BlockDevice, o: FsckOptions, help: Help): number {
  if (!mayUse(meta, o)) return EXIT_FAILED;
  const show = new Display(o);
  const report = checkVolume(meta, data, { ...show.checkOptions(), ...help });
  show.end(meta.name, report);
  return isSound(report) ? 0 : EXIT_PROBLEMS_LEFT;
}

/** Checks what a mount of this host serves; the mount goes on. */
async function checkMounted(mountpoint: string, o: FsckOptions): Promise<number> {
  const path = Deno.realPathSync(mountpoint);
  const record = liveRecords(runtimeDir()).find((r) => r.mountpoint === path);
  if (record === undefined) {
    printError(`fsck: ${mountpoint}: no mount of this program on this host`);
    return EXIT_FAILED;
  }
  const { meta, data } = record;
  const devices = { meta, data, write: false, exclusive: false };
  const run = (metaDev: BlockDevice, dataDev: BlockDevice, help: Help): number => {
    const show = new Display(o), options = { ...show.checkOptions(), ...help };
    const { report, attempts, settled } = checkOnline(metaDev, dataDev, options);
    show.end(mountpoint, report);
    if (!settled) {
      printError(
        `fsck: ${mountpoint}: the volume changed during each of ${attempts} attempts: what was ` +
          "found may be of no meaning; check it again at a quieter time, or unmounted",
      );
      return EXIT_FAILED;
    }
    return isSound(report) ? 0 : EXIT_PROBLEMS_LEFT;
  };
  return await withDevices(
    devices,
    (metaDev, dataDev) => withHelp(metaDev, o, (help) => run(metaDev, dataDev, help)),
  );
}

function mend(meta: BlockDevice, data: BlockDevice, o: FsckOptions, help: Help): number {
  if (!mayUse(meta, o)) return EXIT_FAILED;
  const show = new Display(o), clock = new SystemClock();
  const file = o.undo === undefined ? null : new UndoFile(o.undo, undoIdentity(meta, data));
  const saved = (dev: BlockDevice, index: number) =>
    file === null ? dev : new UndoDevice(dev, file, index);
  try {
    const result = repairVolume(saved(meta, 0), saved(data, 1), {
      ...show.checkOptions(),
      ...help,
      mode: o.mode === "safe" ? "safe" : "all",
      random: new SystemRandom(),
      now: clock.realtime(),
      log: (line) => show.note(line),
      ...(o.mode === "ask" ? { ask: (code, count) => show.ask(code, count) } : {}),
    });
    show.end(meta.name, result.after);
    if (result.stopped !== null) printError(`fsck: mending stopped: ${result.stopped}`);
    if (file !== null && file.bytesSaved > 0) {
      show.note(`${file.path} can bring the volume back: scoutfs fsck --undo-apply`);
    }
    const mended = result.commits > 0 ? EXIT_MENDED : 0;
    return isSound(result.after) ? mended : mended | EXIT_PROBLEMS_LEFT;
  } finally {
    file?.close();
  }
}

function undoIdentity(meta: BlockDevice, data: BlockDevice): UndoIdentity {
  let fsid = "unknown";
  try {
    fsid = readSuperBlock(meta).hdr.fsid.toString(16).padStart(16, "0");
  } catch (e) {
    if (!(e instanceof FsError)) throw e;
  }
  return { fsid, devices: [meta, data].map(({ name, size }) => ({ name, size })) };
}

function undo(path: string, meta: BlockDevice, data: BlockDevice): number {
  const { restored, torn } = applyUndo(path, meta, data);
  printLine(
    `${meta.name}: ${formatSize(restored)} were restored` +
      (torn ? "; the repair had been interrupted before its last write" : ""),
  );
  return 0;
}

/** What a check says while it runs, and at its end. */
class Display {
  readonly #output = new Output();
  readonly #line: ProgressLine | null;

  constructor(private readonly o: FsckOptions) {
    this.#line = o.progress || Deno.stderr.isTerminal() ? new ProgressLine() : null;
  }

  checkOptions(): CheckOptions {
    const { o } = this, line = this.#line;
    return {
      ...(o.memory === undefined ? {} : { memory: o.memory }),
      ...(o.tempDir === undefined ? {} : { tempDir: o.tempDir }),
      onProblem: (p) =>
        this.#write(o.json ? problemJson(p) : `${p.severity}: ${p.message} [${p.code}]\n`),
      ...(line === null ? {} : { onProgress: (p: Progress) => line.show(p) }),
    };
  }

  note(line: string): void {
    this.#write(this.o.json ? JSON.stringify({ record: "mended", line }) + "\n" : `${line}\n`);
  }

  ask(code: ProblemCode, count: number): boolean {
    this.#line?.clear();
    if (code === "not-clean") {
      return confirm(
        "Mounts ended in a crash. What they left behind must be taken back first. Do it?",
      );
    }
    const { how, mending } = PROBLEMS[code];
    const risk = mending === "lossy" ? " This may lose information." : "";
    return confirm(`${code}${count > 1 ? ` (${count} times)` : ""}: ${how}${risk} Do it?`);
  }

  end(name: string, report: Report): void {
    this.#line?.clear();
    printLine(this.o.json ? summaryJson(report) : summaryText(name, report));
  }

  #write(text: string): void {
    this.#line?.clear();
    this.#output.write(text);
    this.#output.flush();
  }
}

const plain = (_: string, value: unknown): unknown =>
  typeof value === "bigint" ? value.toString() : value;

function problemJson(p: Problem): string {
  const { code, severity, message, values } = p;
  return JSON.stringify({ record: "problem", code, severity, message, values }, plain) + "\n";
}

function summaryJson(r: Report): string {
  return JSON.stringify({
    record: "summary",
    errors: r.errors,
    warnings: r.warnings,
    infos: r.infos,
    codes: Object.fromEntries(r.counts),
    cleanlyUnmounted: r.cleanlyUnmounted,
    ...r.stats,
  });
}

function summaryText(name: string, r: Report): string {
  const s = r.stats;
  const verdict = isSound(r)
    ? "no problems"
    : `${r.errors} errors and ${r.warnings} warnings were found`;
  return `${name}: ${verdict}; ${s.inodes} inodes (${s.directories} directories), ` +
    `${s.metaBlocksUsed} metadata blocks used, ${s.metaBlocksFree} free, ` +
    `${s.dataBlocksUsed} data blocks used, ${s.dataBlocksFree} free, ` +
    `${formatSize(s.metaBytesRead)} read`;
}

function explain(code: string): void {
  if (!isProblemCode(code)) throw new UsageError(`no problem has the code '${code}'`);
  printLine(explanation(code));
}

function explanation(code: ProblemCode): string {
  const p = PROBLEMS[code];
  const mended = { safe: "-p and -y mend it", lossy: "-y mends it", none: "only reported" };
  return `${code} (${p.severity}): ${p.text}\n${mended[p.mending]}. ${p.how}`;
}
