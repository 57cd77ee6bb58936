/**
 * What a check found. Problems are handed on as they are found and counted by code; only the first
 * few thousand are kept, so that a volume with a hundred million problems needs no more memory
 * than a sound one.
 */

import { type ProblemCode, PROBLEMS, problemText, type Severity, type Values } from "./problems.ts";

export interface Problem {
  readonly code: ProblemCode;
  readonly severity: Severity;
  readonly message: string;
  /** What the message was made of: block numbers, inodes, keys. */
  readonly values: Values;
}

/** Numbers of a checked volume, for summaries. */
export interface CheckStats {
  inodes: number;
  directories: number;
  items: number;
  logTrees: number;
  metaBlocksUsed: number;
  metaBlocksFree: number;
  metaBlocksLeaked: number;
  dataBlocksUsed: number;
  dataBlocksFree: number;
  dataBlocksLeaked: number;
  metaBytesRead: number;
}

export interface Report {
  /** The first problems, infos among them, in the order in which they were found. */
  readonly problems: readonly Problem[];
  /** How many of each code there are. */
  readonly counts: ReadonlyMap<ProblemCode, number>;
  readonly errors: number;
  readonly warnings: number;
  readonly infos: number;
  readonly stats: CheckStats;
  /** Every mount went away properly, or nothing has been mounted. */
  readonly cleanlyUnmounted: boolean;
}

/** No errors and no warnings. */
export const isSound = (r: Report): boolean => r.errors === 0 && r.warnings === 0;

const KEPT = 5000;

export class Reporter {
  readonly problems: Problem[] = [];
  readonly counts = new Map<ProblemCode, number>();
  readonly bySeverity: Record<Severity, number> = { error: 0, warning: 0, info: 0 };
  /** Swallows everything while a pass runs again only to name offenders. */
  muted = false;

  /** `kept` problems are kept. */
  constructor(
    private readonly onProblem: ((p: Problem) => void) | undefined,
    private readonly kept: number = KEPT,
  ) {}

  add(code: ProblemCode, values: Values): void {
    if (this.muted) return;
    const severity = PROBLEMS[code].severity;
    this.counts.set(code, (this.counts.get(code) ?? 0) + 1);
    this.bySeverity[severity]++;
    const problem = { code, severity, message: problemText(code, values), values };
    if (this.problems.length < this.kept) this.problems.push(problem);
    this.onProblem?.(problem);
  }

  has(code: ProblemCode): boolean {
    return this.counts.has(code);
  }
}
