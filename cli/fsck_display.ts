/**
 * What fsck says: problems as they are found, what was done, and at the end how many problems of each
 * kind were found, mended and left. As text for people, in which long series of like problems are cut
 * short, or as records of JSON, one a line, in which nothing is (docs/fsck.md describes both).
 *
 * A repair checks again after each round of mending: problems that were said already are not said
 * again, new ones are. What the last check found is what is left.
 */

import { isSound, type Problem, type Progress, type Report } from "../fs/check/check.ts";
import type { PathFinder } from "../fs/check/paths.ts";
import { type ProblemCode, PROBLEMS } from "../fs/check/problems.ts";
import { ProgressLine } from "./fsck_progress.ts";
import { type CodeTally, Shown, Tally } from "./fsck_tally.ts";
import { tryPrintError } from "./output.ts";
import { formatSize } from "./sizes.ts";

/** What may be changed: nothing, what loses nothing, everything, or what the user says. */
export type Mode = "report" | "safe" | "all" | "ask";

export interface DisplayOptions {
  readonly mode: Mode;
  readonly json: boolean;
  readonly verbose: boolean;
  readonly progress: boolean;
}

/** How a run ended. */
export interface Outcome {
  readonly report: Report;
  /** A device was written to. */
  readonly modified: boolean;
  /** Something was done that may have lost information. */
  readonly lossy?: boolean;
  /** Why mending stopped before nothing was left to do. */
  readonly stopped: string | null;
  /** The volume is mounted: only a snapshot of it was checked. */
  readonly mounted?: boolean;
  /** A file that can take back what was done. */
  readonly undo: string | null;
  readonly status: number;
}

/** Lines of one kind that are shown without -v. */
const LINES_OF_A_KIND = 10;
const REMEMBERED_LINES = 500_000;
/** An inode by its number, as messages and notes write it. */
const INODE = /\b(inode|directory|symlink|parent) (\d+)\b/g;

const encoder = new TextEncoder();

export class Display {
  readonly #line: ProgressLine | null;
  readonly #tally = new Tally();
  readonly #shown = new Shown(REMEMBERED_LINES);
  readonly #kinds = new Map<string, number>();
  #cut = false;
  #paths: PathFinder | null = null;
  #round = 0;
  /** Inodes that the volume said it had, if that was not what was found. */
  #counted = 0;
  #outputGone = false;

  constructor(private readonly o: DisplayOptions) {
    this.#line = o.progress || Deno.stderr.isTerminal() ? new ProgressLine() : null;
  }

  progress(): { onProgress?: (p: Progress) => void } {
    const line = this.#line;
    return line === null ? {} : { onProgress: (p) => line.show(p, this.#round) };
  }

  /** A check begins, of a volume whose inodes `paths` can name. */
  begin(paths: PathFinder): void {
    this.#round++;
    this.#paths = paths;
    this.#tally.begin();
  }

  problem(p: Problem): void {
    this.#tally.add(p.code);
    if (p.code === "inode-count" && this.#round === 1) this.#counted = Number(p.values["value"]);
    if (!this.#shown.isNew(`${p.code} ${p.message}`)) return;
    if (this.o.json) this.#record({ record: "problem", round: this.#round, ...this.#json(p) });
    else if (this.#mayShow(p.code)) this.#say(this.#text(p));
  }

  /** Something that was done. */
  note(line: string): void {
    if (this.o.json) this.#record({ record: "note", message: line, ...this.#pathsIn(line) });
    else if (this.#mayShow(line.replace(/[0-9a-f]*\d[0-9a-f]*/g, "#"))) {
      this.#say(`done: ${this.#withPaths(line)}`);
    }
  }

  /** Something about the run that is no problem of the volume. */
  remark(line: string): void {
    if (this.o.json) this.#record({ record: "note", message: line });
    else this.#error(`fsck: ${line}`);
  }

  /** Why the run cannot be, or what cut it short. */
  failure(line: string, details: readonly string[] = []): void {
    if (this.o.json) {
      this.#record({ record: "error", message: line, ...(details.length > 0 ? { details } : {}) });
      return;
    }
    this.#error(`fsck: ${line}`);
    for (const detail of details) this.#error(`  ${detail}`);
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

  end(name: string, outcome: Outcome): void {
    this.#line?.clear();
    if (this.o.json) this.#endJson(name, outcome);
    else this.#endText(name, outcome);
  }

  /** Anything else on standard output. */
  line(text: string, record: Readonly<Record<string, unknown>>): void {
    if (this.o.json) this.#record(record);
    else this.#say(text);
  }

  /** Whether one more line of a kind is shown; says so when the first is not. */
  #mayShow(kind: string): boolean {
    const n = (this.#kinds.get(kind) ?? 0) + 1;
    this.#kinds.set(kind, n);
    if (this.o.verbose || n <= LINES_OF_A_KIND) return true;
    if (n === LINES_OF_A_KIND + 1) this.#say(`… more like the line above are not shown without -v`);
    this.#cut = true;
    return false;
  }

  #text(p: Problem): string {
    return `${p.severity}: ${this.#withPaths(p.message)} [${p.code}]`;
  }

  #withPaths(message: string): string {
    return message.replace(INODE, (words, _, number: string) => {
      const path = this.#pathOf(number);
      return path === null ? words : `${words} (${path})`;
    });
  }

  #pathOf(number: string): string | null {
    const ino = Number(number);
    return Number.isSafeInteger(ino) ? this.#paths?.pathOf(ino) ?? null : null;
  }

  #json({ code, severity, message, values }: Problem): Record<string, unknown> {
    const { mending } = PROBLEMS[code];
    return { code, severity, message, values, ...this.#pathsIn(message), mending };
  }

  #pathsIn(message: string): { paths?: Record<string, string> } {
    const paths: Record<string, string> = {};
    for (const [, , number] of message.matchAll(INODE)) {
      const path = this.#pathOf(number as string);
      if (path !== null) paths[number as string] = path;
    }
    return Object.keys(paths).length > 0 ? { paths } : {};
  }

  #endJson(name: string, { report, modified, lossy, stopped, undo, status }: Outcome): void {
    const { codes } = this.#tally;
    if (this.o.mode !== "report") {
      for (const p of report.problems) {
        if (p.severity !== "info") this.#record({ record: "left", ...this.#json(p) });
      }
    }
    const total = sum(codes);
    this.#record({
      record: "summary",
      volume: name,
      status,
      modified,
      ...total,
      codes: Object.fromEntries(codes.map(({ code, found, left }) => [
        code,
        { found, mended: found - left, left },
      ])),
      errors: report.errors,
      warnings: report.warnings,
      infos: report.infos,
      lossy: lossy === true,
      inodesGone: lossy === true ? Math.max(0, this.#counted - report.stats.inodes) : 0,
      stopped,
      undo,
      cleanlyUnmounted: report.cleanlyUnmounted,
      ...report.stats,
    });
  }

  #endText(name: string, { report, modified, lossy, stopped, mounted, undo }: Outcome): void {
    const { codes } = this.#tally, { found, mended, left } = sum(codes);
    const mending = this.o.mode !== "report";
    if (mending || this.#cut) this.#table(codes, mending);
    if (mending && modified && left > 0) {
      this.#say("what is left:");
      this.#kinds.clear();
      for (const p of report.problems) {
        if (p.severity !== "info" && this.#mayShow(p.code)) this.#say(this.#text(p));
      }
    }
    if (stopped !== null) this.#error(`fsck: mending stopped: ${stopped}`);
    const changed = modified ? "the volume was changed" : "nothing was changed";
    if (found === 0) {
      this.#say(`${name}: no problems; ${modified ? `${changed}; ` : ""}${statsText(report)}`);
    } else if (mending) {
      this.#say(
        `${name}: ${changed}: ${count(found, "problem")} found, ${mended} mended, ${left} left; ` +
          statsText(report),
      );
    } else {
      const { errors, warnings } = report;
      const what = [
        ...(errors > 0 ? [count(errors, "error")] : []),
        ...(warnings > 0 ? [count(warnings, "warning")] : []),
      ].join(" and ");
      this.#say(`${name}: ${what} found, ${changed}; ${statsText(report)}`);
    }
    const gone = lossy === true ? this.#counted - report.stats.inodes : 0;
    if (gone > 0) {
      this.#say(
        `${name}: ${gone} of the ${count(this.#counted, "inode")} that it counted ${
          gone === 1 ? "is" : "are"
        } gone: ` +
          'the lines above that begin with "done" say what was lost, all of them with -v',
      );
    }
    if (!isSound(report) && stopped === null) {
      const first = mounted === true ? "unmount it everywhere first; " : "";
      this.#say(`${name}: ${first}${advice(codes, this.o.mode)}`);
    }
    if (undo !== null) {
      this.#say(takeBack(undo));
    }
  }

  /** How many problems of each code there were, and what was done about them, each thing said once. */
  #table(codes: readonly CodeTally[], mending: boolean): void {
    const said = new Set<string>();
    for (const { code, found, left } of codes) {
      const mended = found - left;
      const parts = [`${found} found`];
      if (mended > 0) parts.push(`${mended} mended`);
      if (left > 0 && mending) parts.push(`${left} left`);
      const { how } = PROBLEMS[code];
      const what = mended > 0 && !said.has(how) ? `. ${how}` : "";
      said.add(how);
      this.#say(`${code}: ${parts.join(", ")}${what}`);
    }
  }

  #record(value: Readonly<Record<string, unknown>>): void {
    this.#say(JSON.stringify(value, plain));
  }

  /**
   * A line on standard output. If nobody takes it a repair goes on all the same: what it does must not
   * depend on who listens.
   */
  #say(line: string): void {
    this.#line?.clear();
    if (this.#outputGone) return;
    for (let rest = encoder.encode(line + "\n"); rest.length > 0;) {
      try {
        rest = rest.subarray(Deno.stdout.writeSync(rest));
      } catch (e) {
        if (e instanceof Deno.errors.WouldBlock) continue;
        this.#outputGone = true;
        if (e instanceof Deno.errors.BrokenPipe) return;
        this.#error(`fsck: standard output: ${e instanceof Error ? e.message : e}`);
        return;
      }
    }
  }

  /** A line on standard error, as on standard output. */
  #error(line: string): void {
    this.#line?.clear();
    tryPrintError(line);
  }
}

const plain = (_: string, value: unknown): unknown =>
  typeof value === "bigint" ? value.toString() : value;

const count = (n: number, what: string): string => `${n} ${what}${n === 1 ? "" : "s"}`;

function sum(codes: readonly CodeTally[]): { found: number; mended: number; left: number } {
  let found = 0, left = 0;
  for (const c of codes) {
    found += c.found;
    left += c.left;
  }
  return { found, mended: found - left, left };
}

/** How to take back what the repair did that made this undo file. */
export const takeBack = (undo: string): string =>
  `to take this back: scoutfs fsck --undo-apply ${undo} META-DEVICE DATA-DEVICE`;

/** What can be done about what is left. */
export function advice(codes: readonly CodeTally[], mode: Mode): string {
  const left = (mending: string) =>
    codes.filter((c) => PROBLEMS[c.code].mending === mending).reduce((n, c) => n + c.left, 0);
  const safe = left("safe"), lossy = left("lossy"), none = left("none");
  if (mode === "all" || mode === "ask") return "fsck --explain CODE says what can be done";
  const parts: string[] = [];
  // Mending refuses it; that a number in the super block is damaged is the rarer case.
  if (codes.some((c) => c.code === "super-size" && c.left > 0)) {
    parts.push("first: give a device that is cut short its size back");
  }
  if (lossy > 0) {
    const are = lossy === 1 ? "is" : "are";
    parts.push(
      `next: fsck -y --undo FILE, which may lose what ${lossy} of the problems ${are} about`,
    );
  } else if (safe > 0 && mode === "safe") {
    parts.push("next: fsck -y --undo FILE: what is left may be traces of something lost");
  } else if (safe > 0) parts.push("next: fsck -p, which mends without losing anything");
  if (none > 0) parts.push(`nothing mends ${none} of the problems: fsck --explain CODE`);
  return parts.join("; ");
}

function statsText({ stats: s }: Report): string {
  return `${s.inodes} inodes (${s.directories} directories), ` +
    `${s.metaBlocksUsed} metadata blocks used, ${s.metaBlocksFree} free, ` +
    `${s.dataBlocksUsed} data blocks used, ${s.dataBlocksFree} free, ` +
    `${formatSize(s.metaBytesRead)} read`;
}
