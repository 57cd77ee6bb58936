/**
 * Checking a volume (01 §19, 02 §24, 03 §26): runs the passes in their order and gathers what they
 * found. Nothing is ever written.
 *
 * Relies on: devices that nobody writes to meanwhile (online.ts is for the others).
 * Guarantees: ends on any bytes; each promise of docs/fsck-invariants.md that the volume breaks is
 * reported, or hidden by another problem that is: mending that one brings it up.
 *
 * Memory: a byte a metadata block where owners mix, for each thread, two bits a directory, and lists
 * and sorts that spill beyond `memory`. Metadata is read once; a second time only when facts disagree.
 */

import { LG_SIZE, MAGIC_BTREE, META_DEV_START_BLKNO, SM_SIZE } from "../../format/constants.ts";
import { blockCrcOk } from "../../format/crc32c.ts";
import { SuperBlock } from "../../format/super.ts";
import type { Device, ReadAhead } from "../device.ts";
import type { CheckContext, Progress } from "./context.ts";
import type { Crew } from "./crew.ts";
import { FactBook } from "./facts.ts";
import { checkMergeTrees } from "./merge_check.ts";
import { FS_ROOT } from "./names.ts";
import { BlockOwners, KIND_FREE, KIND_USED } from "./owners.ts";
import { checkAllocators } from "./pass_alloc.ts";
import { reportFacts } from "./pass_facts.ts";
import { checkFixed, isUndersized, MKFS_FREE_META } from "./pass_fixed.ts";
import { checkItems } from "./pass_items.ts";
import { checkRoots, type ServerItems } from "./pass_roots.ts";
import { checkSearch } from "./pass_srch.ts";
import { fieldU64, rawU64 } from "./raw.ts";
import { type CheckStats, type Problem, type Report, Reporter } from "./report.ts";
import { ProgressTeller } from "./progress.ts";
import { MetaSource, type RawBlock } from "./source.ts";
import { SpaceMap } from "./space.ts";
import { srchFact } from "./visible_items.ts";

export type { Progress } from "./context.ts";
export type { CheckStats, Problem, Report } from "./report.ts";
export { isSound } from "./report.ts";

export interface CheckOptions {
  /** Bytes that large structures may take together; default 1 GiB. */
  readonly memory?: number;
  /** Directory of temporary files; default the system's. */
  readonly tempDir?: string;
  /** Threads that help; without them everything is done by the calling one. */
  readonly crew?: Crew;
  /** Reads of the metadata device that go on by themselves, for the calling thread. */
  readonly readAhead?: ReadAhead;
  /** For tests: leaves of the parts in which items are read, and words of records that one keeps. */
  readonly unitLeaves?: number;
  readonly unitWords?: number;
  /** Called for each problem as it is found. */
  readonly onProblem?: (problem: Problem) => void;
  /** Called now and then, at most every few MiB of reading. */
  readonly onProgress?: (progress: Progress) => void;
}

export const DEFAULT_MEMORY = 1 << 30;
/** Reading is about this part of the time of a check, and of a second reading. */
const CHECK_READING = 0.95;
const COMPARE_READING = 0.7;
/** Leaked runs up to this many blocks are read to see what they hold. */
const LONGEST_READ_LEAK = 256;

/** Checks a volume that nothing changes meanwhile. Throws only for defects. */
export function checkVolume(meta: Device, data: Device, options: CheckOptions = {}): Report {
  return runCheck(meta, data, options).report;
}

/** A finished check with what repair needs of it. */
export interface CheckResult {
  readonly report: Report;
  /** Null when there was no super block to go by. */
  readonly cx: CheckContext | null;
  readonly items: ServerItems | null;
}

export function runCheck(meta: Device, data: Device, options: CheckOptions = {}): CheckResult {
  const reporter = new Reporter(options.onProblem);
  const stats: CheckStats = {
    inodes: 0,
    directories: 0,
    items: 0,
    logTrees: 0,
    metaBlocksUsed: 0,
    metaBlocksFree: 0,
    metaBlocksLeaked: 0,
    dataBlocksUsed: 0,
    dataBlocksFree: 0,
    dataBlocksLeaked: 0,
    metaBytesRead: 0,
  };
  const fixed = checkFixed(meta, data, reporter);
  if (fixed.sb === null) {
    return { report: makeReport(reporter, stats, false), cx: null, items: null };
  }
  const cx = makeContext(meta, data, fixed.sb, reporter, options);
  const progress = makeProgress(cx, options);

  progress.stage(CHECK_READING);
  progress.phase("server trees");
  const items = checkRoots(cx);
  stats.logTrees = items.logTrees.length;
  const clean = reportState(cx, items, fixed.runningSlots);

  progress.phase("search files");
  const facts = new FactBook();
  checkSearch(cx, items, { entry: (e) => srchFact(facts, e) });

  progress.phase("items");
  const space = new SpaceMap(cx.memory / 2, cx.tempDir);
  const totals = checkItems(cx, items, facts, space);
  Object.assign(stats, totals);
  checkInodeCount(cx, items, totals.inodes);

  progress.phase("merge");
  checkMergeTrees(cx, items);

  progress.phase("allocators");
  checkAllocators(cx, items, space);
  accountMetadata(cx, stats);

  progress.phase("data space");
  if (cx.dataBlocks > 0) space.sweep(cx.dataBlocks, reporter, (done) => progress.rest(done));
  progress.rest(1);
  stats.dataBlocksUsed = space.used;
  stats.dataBlocksFree = space.free;
  stats.dataBlocksLeaked = space.leaked;

  const differing = facts.differing();
  if (differing.length > 0) {
    progress.stage(COMPARE_READING);
    progress.phase("comparing");
    nameOffenders(cx, items, facts, differing, progress);
  }
  stats.metaBytesRead = cx.source.bytesRead;
  return { report: makeReport(reporter, stats, clean), cx, items };
}

function makeReport(r: Reporter, stats: CheckStats, cleanlyUnmounted: boolean): Report {
  return {
    problems: r.problems,
    counts: r.counts,
    errors: r.bySeverity.error,
    warnings: r.bySeverity.warning,
    infos: r.bySeverity.info,
    stats,
    cleanlyUnmounted,
  };
}

function makeContext(
  meta: Device,
  data: Device,
  sb: SuperBlock,
  report: Reporter,
  options: CheckOptions,
): CheckContext {
  const undersized = isUndersized(sb);
  const onDevice = Math.floor(meta.size / LG_SIZE);
  // mkfs writes up to block 1030 whatever the size (01 §2.4).
  const wanted = undersized ? Math.max(fieldU64(sb, 96), MKFS_FREE_META) : fieldU64(sb, 96);
  const metaBlocks = Math.min(wanted, onDevice);
  const owners = new BlockOwners(metaBlocks);
  return {
    meta,
    data,
    source: new MetaSource(meta, sb.hdr.fsidLo, sb.hdr.fsidHi, options.readAhead),
    report,
    owners,
    sb,
    fmtVers: fieldU64(sb, 40),
    metaBlocks,
    dataBlocks: Math.min(fieldU64(sb, 104), Math.floor(data.size / SM_SIZE)),
    undersized,
    memory: options.memory ?? DEFAULT_MEMORY,
    tempDir: options.tempDir,
    badBlocks: [],
    fsRootOwner: owners.define(FS_ROOT, false),
    crew: options.crew ?? null,
    unitLeaves: options.unitLeaves,
    unitWords: options.unitWords,
  };
}

function makeProgress(cx: CheckContext, options: CheckOptions): ProgressTeller {
  // What is not in the free extents is used or soon found to be free in a list.
  const sb = cx.sb;
  const free = Math.min(fieldU64(sb, 600) + fieldU64(sb, 640), cx.metaBlocks);
  return new ProgressTeller(cx.source, cx.metaBlocks - free, options.onProgress);
}

/** Says in which state the volume was left; whether every mount went away properly. */
function reportState(
  cx: CheckContext,
  items: ServerItems,
  runningSlots: readonly number[],
): boolean {
  if (cx.undersized) cx.report.add("undersized", { blocks: fieldU64(cx.sb, 96) });
  const open = items.logTrees.filter((t) => !t.lt.isFinalized).length;
  const busy = items.compactions.filter((c) => c.busy).length;
  const requests = items.merge.requests.length, clients = items.mounted.length;
  const clean = open === 0 && busy === 0 && requests === 0 && clients === 0 &&
    runningSlots.length === 0;
  if (!clean) {
    cx.report.add("not-clean", { clients, open, slots: runningSlots.join(", ") || "none" });
  }
  return clean;
}

function checkInodeCount(cx: CheckContext, items: ServerItems, inodes: number): void {
  const stored = cx.sb.v.getBigUint64(cx.sb.o + 88, true);
  let total = stored;
  for (const { lt } of items.logTrees) total += lt.v.getBigInt64(lt.o + 408, true);
  if (BigInt.asUintN(64, total) !== BigInt(inodes)) {
    cx.report.add("inode-count", { value: BigInt.asIntN(64, total), found: inodes });
  }
}

/** Finds the blocks that nothing accounts for. */
function accountMetadata(cx: CheckContext, stats: CheckStats): void {
  const { owners } = cx;
  const b = cx.source.acquire();
  owners.forEachRun(META_DEV_START_BLKNO, (start, len, kind) => {
    if (kind === KIND_FREE) stats.metaBlocksFree += len;
    else if (kind === KIND_USED) stats.metaBlocksUsed += len;
    else {
      stats.metaBlocksLeaked += len;
      if (!cx.undersized) reportLeaks(cx, b, start, len);
    }
  });
  cx.source.release(b);
}

function reportLeaks(cx: CheckContext, b: RawBlock, start: number, len: number): void {
  let from = start;
  const leak = (to: number) => {
    if (to > from) cx.report.add("meta-leak", { start: from, len: to - from });
  };
  // The reference leaks single blocks here and there: a long run is no such thing, and not read.
  for (let blkno = start; len <= LONGEST_READ_LEAK && blkno < start + len; blkno++) {
    if (!isMergedParent(cx, b, blkno)) continue;
    leak(blkno);
    cx.report.add("meta-leak-parent", { blkno });
    from = blkno + 1;
  }
  leak(start + len);
}

/** The remains of a merged log tree's last-level parent, which the reference leaks (03 T2). */
function isMergedParent(
  cx: CheckContext,
  b: RawBlock,
  blkno: number,
): boolean {
  if (!cx.source.readRaw(b, blkno)) return false;
  const v = b.v;
  return v.getUint32(4, true) === MAGIC_BTREE && v.getUint32(8, true) === cx.source.fsidLo &&
    v.getUint32(12, true) === cx.source.fsidHi && rawU64(v, 24) === blkno &&
    v.getUint8(40) === 1 && blockCrcOk(b.buf);
}

/** Reads the items again to learn whose facts differ. */
function nameOffenders(
  cx: CheckContext,
  items: ServerItems,
  facts: FactBook,
  differing: readonly number[],
  progress: ProgressTeller,
): void {
  const sorter = facts.collect(differing, cx.memory / 2, cx.tempDir);
  cx.report.muted = true;
  const again = { ...cx, owners: new BlockOwners(cx.metaBlocks), badBlocks: [] };
  const quiet = { ...again, fsRootOwner: again.owners.define(FS_ROOT, false) };
  checkSearch(quiet, items, { entry: (e) => srchFact(facts, e) });
  checkItems(quiet, items, facts, null, differing);
  cx.report.muted = false;
  reportFacts(cx, sorter, (done) => progress.rest(done));
}
