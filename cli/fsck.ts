/**
 * `scoutfs fsck`: checks a volume that is not mounted. The exit status has e2fsck's bits: 0 no
 * problems, 4 problems are left, 8 the check could not be done, 16 wrong use.
 */

import { checkVolume, isSound, type Problem, type Report } from "../fs/check/check.ts";
import { evidenceOfUse } from "../fs/check/in_use.ts";
import { isProblemCode, type ProblemCode, PROBLEMS } from "../fs/check/problems.ts";
import { FsError } from "../fs/errors.ts";
import { useFastCrc32c } from "../fs/sys/crc.ts";
import { type BlockDevice, openDevice } from "../fs/sys/device.ts";
import { type CommandSpec, UsageError } from "./command.ts";
import { ProgressLine } from "./fsck_progress.ts";
import { Output, printError, printLine } from "./output.ts";
import { parseSize } from "./parse.ts";
import { formatSize } from "./sizes.ts";

const EXIT_PROBLEMS_LEFT = 4;
const EXIT_FAILED = 8;

interface FsckOptions {
  readonly force: boolean;
  readonly json: boolean;
  readonly progress: boolean;
  readonly memory: number | undefined;
  readonly tempDir: string | undefined;
}

export const command: CommandSpec = {
  statuses: { usage: 16, failure: EXIT_FAILED },
  setup(c) {
    c.argument("[meta-device]", "metadata device or image file")
      .argument("[data-device]", "data device or image file")
      .option("-n, --no-changes", "only report, change nothing")
      .option("-f, --force", "go on although the volume seems to be mounted somewhere")
      .option("--json", "print problems and the summary as JSON, one record a line")
      .option("--progress", "show progress on standard error even where that is no terminal")
      .option("--memory <size>", "memory for large structures before they go to disk", "1G")
      .option("--temp-dir <dir>", "directory of temporary files")
      .option("--explain <code>", "explain a problem code and exit")
      .action(async (metaPath, dataPath, o) => {
        if (o.explain !== undefined) {
          explain(o.explain);
          return;
        }
        if (metaPath === undefined || dataPath === undefined) {
          throw new UsageError("must provide metadata and data device path arguments");
        }
        const options = {
          force: o.force === true,
          json: o.json === true,
          progress: o.progress === true,
          memory: Number(parseSize(o.memory)),
          tempDir: o.tempDir,
        };
        await useFastCrc32c();
        Deno.exitCode = withDevices(metaPath, dataPath, (meta, data) => fsck(meta, data, options));
      });
  },
};

/** Opens the devices for this program alone; 8 when that is not possible. */
function withDevices(
  metaPath: string,
  dataPath: string,
  run: (meta: BlockDevice, data: BlockDevice) => number,
): number {
  const open: BlockDevice[] = [];
  try {
    for (const path of [metaPath, dataPath]) {
      open.push(openDevice(path, { write: false, exclusive: true }));
    }
    return run(open[0] as BlockDevice, open[1] as BlockDevice);
  } catch (e) {
    if (!(e instanceof FsError)) throw e;
    printError(`fsck: ${e.message}`);
    return EXIT_FAILED;
  } finally {
    for (const dev of open) dev.close();
  }
}

function fsck(meta: BlockDevice, data: BlockDevice, o: FsckOptions): number {
  const reasons = evidenceOfUse(meta);
  if (reasons.length > 0 && !o.force) {
    printError(`fsck: ${meta.name}: the volume may be mounted somewhere:`);
    for (const reason of reasons) printError(`  ${reason}`);
    printError(
      "If a mount ended in a crash, mounting the volume once recovers it. If no host at all has it " +
        "mounted, --force checks it as it is.",
    );
    return EXIT_FAILED;
  }
  const output = new Output();
  const line = o.progress || Deno.stderr.isTerminal() ? new ProgressLine() : null;
  const report = checkVolume(meta, data, {
    ...(o.memory === undefined ? {} : { memory: o.memory }),
    ...(o.tempDir === undefined ? {} : { tempDir: o.tempDir }),
    onProblem: (p) => {
      line?.clear();
      output.write(o.json ? problemJson(p) : `${p.severity}: ${p.message} [${p.code}]\n`);
      output.flush();
    },
    ...(line === null ? {} : { onProgress: (p) => line.show(p) }),
  });
  line?.clear();
  printLine(o.json ? summaryJson(report) : summaryText(meta.name, report));
  return isSound(report) ? 0 : EXIT_PROBLEMS_LEFT;
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
