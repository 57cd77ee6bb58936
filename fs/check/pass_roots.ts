/**
 * Pass 1: the small trees of the server: logs_root, srch_root, log_merge, mounted_clients (01 §13).
 *
 * Relies on: a usable super block.
 * Guarantees: the blocks of these trees are claimed; their items have the right keys and lengths and
 * what they say agrees with itself; the items are in memory for the passes that follow them.
 */

import {
  AF_IPV4,
  DATA_ALLOC_ZONE_BLOCKS_MIN,
  LOG_MERGE_COMP_REMAIN,
  LOG_MERGE_REQUEST_SUBTREE,
  LOG_TREES_FINALIZED,
  MOUNTED_CLIENT_QUORUM,
  SRCH_BLOCK_ENTRIES_BYTES,
  SRCH_COMPACT_DELETE,
  SRCH_COMPACT_LOG,
  SRCH_COMPACT_NR,
  SRCH_COMPACT_SORTED,
  TYPE_SRCH_BLOCKS,
  TYPE_SRCH_BUSY,
  TYPE_SRCH_LOG,
  TYPE_SRCH_PENDING,
  ZONE_LOG_MERGE_COMPLETE,
  ZONE_LOG_MERGE_FREEING,
  ZONE_LOG_MERGE_RANGE,
  ZONE_LOG_MERGE_REQUEST,
  ZONE_LOG_MERGE_STATUS,
  ZONE_LOG_TREES,
  ZONE_MOUNTED_CLIENT,
  ZONE_SRCH,
} from "../../format/constants.ts";
import { Key, rangesOverlap } from "../../format/key.ts";
import { LogTrees, logTreesKey } from "../../format/log_trees.ts";
import {
  LogMergeComplete,
  logMergeCompleteKey,
  LogMergeFreeing,
  logMergeFreeingKey,
  LogMergeRange,
  logMergeRangeKey,
  LogMergeRequest,
  logMergeRequestKey,
  LogMergeStatus,
} from "../../format/merge.ts";
import { MountedClientBtreeVal } from "../../format/mounted_client.ts";
import { srchBlocksKey, SrchCompact, SrchFile, srchHeight, srchLogKey } from "../../format/srch.ts";
import { bytesEqual, type View } from "../../format/bytes.ts";
import type { CheckContext } from "./context.ts";
import { compactionName, logTreeName, mergeItem, searchFile } from "./names.ts";
import { COUNTER_LIMIT, fieldU64, hex16, isExact, isZero } from "./raw.ts";
import { collectTree, type SmallItem } from "./tree_walk.ts";

export interface LogTree {
  readonly lt: LogTrees;
  /** "log tree RID.NR" */
  readonly what: string;
}

export interface SrchItem {
  readonly file: SrchFile;
  readonly sorted: boolean;
  readonly what: string;
}

export interface Compaction {
  readonly sc: SrchCompact;
  readonly busy: boolean;
  readonly rid: bigint;
  readonly what: string;
}

export interface MergeState {
  readonly status: LogMergeStatus | null;
  readonly ranges: readonly LogMergeRange[];
  readonly requests: readonly { r: LogMergeRequest; what: string }[];
  readonly completions: readonly { c: LogMergeComplete; what: string }[];
  readonly freeing: readonly { f: LogMergeFreeing; what: string }[];
}

export interface ServerItems {
  readonly logTrees: readonly LogTree[];
  readonly srchFiles: readonly SrchItem[];
  readonly compactions: readonly Compaction[];
  readonly merge: MergeState;
  readonly mounted: readonly bigint[];
}

/** Values whose numbers all fit are safe for the accessors of format/. */
function numbersFit(view: View, offsets: readonly number[]): number | null {
  for (const at of offsets) if (!isExact(fieldU64(view, at))) return at;
  return null;
}

const LIST_HEAD_NUMBERS = [0, 16];
const at = (base: number, offsets: readonly number[]) => offsets.map((o) => base + o);
/** Offsets of le64 fields that are numbers. */
const LOG_TREES_NUMBERS = [
  ...at(0, LIST_HEAD_NUMBERS),
  ...at(32, LIST_HEAD_NUMBERS),
  64,
  88,
  104,
  120,
  144,
  160,
  ...at(184, [48, 64, 72]),
  272,
  416,
  424,
  432,
  440,
  456,
  464,
];
const SRCH_FILE_NUMBERS = [48, 64, 72];
const COMPACT_NUMBERS = [
  ...LIST_HEAD_NUMBERS,
  ...at(32, LIST_HEAD_NUMBERS),
  64,
  ...at(80, SRCH_FILE_NUMBERS),
  ...[0, 1, 2, 3].flatMap((i) => at(168 + 104 * i, [...SRCH_FILE_NUMBERS, 88, 96])),
];
const REQUEST_NUMBERS = [...LIST_HEAD_NUMBERS, ...at(32, LIST_HEAD_NUMBERS), 64, 88, 176, 192, 200];
const COMPLETE_NUMBERS = [...LIST_HEAD_NUMBERS, ...at(32, LIST_HEAD_NUMBERS), 64, 192, 200];

export function checkRoots(cx: CheckContext): ServerItems {
  const sb = cx.sb;
  const collect = (what: string, root: typeof sb.logsRoot) =>
    collectTree(cx, root, { what, owner: cx.owners.define(what, false) });
  const logTrees = logTreesOf(cx, collect("logs_root", sb.logsRoot));
  const srch = srchOf(cx, collect("srch_root", sb.srchRoot));
  const merge = mergeOf(cx, collect("log_merge", sb.logMerge));
  const mounted = clientsOf(cx, collect("mounted_clients", sb.mountedClients));
  checkOwnersOfWork(cx, logTrees, srch.compactions, merge, mounted);
  return { logTrees, srchFiles: srch.files, compactions: srch.compactions, merge, mounted };
}

/** The value of an item if it has the right length and exact numbers; reports otherwise. */
function valueOf<T extends View>(
  cx: CheckContext,
  tree: string,
  item: SmallItem,
  cls: { readonly SIZE: number; new (v: DataView, o?: number): T },
  numbers: readonly number[],
): T | null {
  const key = item.key.toString();
  if (item.val.length !== cls.SIZE) {
    cx.report.add("item-length", { what: tree, key, len: item.val.length });
    return null;
  }
  const view = new cls(new DataView(item.val.buffer, item.val.byteOffset, item.val.length));
  const huge = numbersFit(view, numbers);
  if (huge !== null) {
    cx.report.add("item-number", { what: tree, key, at: huge, value: fieldU64(view, huge) });
    return null;
  }
  return view;
}

function wrongZone(cx: CheckContext, tree: string, item: SmallItem): void {
  cx.report.add("item-zone", { what: tree, key: item.key.toString() });
}

function checkKey(cx: CheckContext, tree: string, item: SmallItem, expected: Key): void {
  if (!item.key.equals(expected)) {
    cx.report.add("item-key", {
      what: tree,
      key: item.key.toString(),
      expected: expected.toString(),
    });
  }
}

function logTreesOf(cx: CheckContext, items: readonly SmallItem[]): LogTree[] {
  const trees: LogTree[] = [];
  const report = cx.report, superSeq = fieldU64(cx.sb, 72);
  for (const item of items) {
    if (item.key.zone !== ZONE_LOG_TREES) {
      wrongZone(cx, "logs_root", item);
      continue;
    }
    const lt = valueOf(cx, "logs_root", item, LogTrees, LOG_TREES_NUMBERS);
    if (lt === null) continue;
    const what = logTreeName(item.key.firstBig, item.key.secondBig);
    const own = logTreesKey(lt.rid, lt.nr);
    checkKey(cx, "logs_root", item, own);
    const original = items.find((i) => i !== item && i.key.equals(own));
    // A copy under another key: counting it would give all its blocks two owners.
    if (original !== undefined && bytesEqual(original.val, item.val)) continue;
    const bad = (why: string) => report.add("log-tree", { what, why });
    if (lt.rid === 0n || lt.rid === 0xffff_ffff_ffff_ffffn) bad("its rid is no mount's");
    if (lt.nr === 0) bad("nr is 0");
    if ((lt.flags & ~LOG_TREES_FINALIZED) !== 0) bad(`unknown flags ${lt.flags}`);
    if (lt.commitTransSeq > lt.getTransSeq) bad("commit_trans_seq is beyond get_trans_seq");
    if (lt.getTransSeq > superSeq) bad("get_trans_seq is beyond the super block's seq");
    if (lt.maxItemSeq >= COUNTER_LIMIT) bad("max_item_seq is more than can be counted");
    if (lt.finalizeSeq > superSeq) bad("finalize_seq is beyond the super block's seq");
    if (lt.isFinalized) {
      if (lt.finalizeSeq === 0) bad("finalized without finalize_seq");
      if (lt.commitTransSeq !== lt.getTransSeq) bad("finalized with an open transaction");
      const empty = emptyList(lt.metaAvail) && emptyList(lt.metaFreed) &&
        emptyAlloc(lt.dataAvail) &&
        emptyAlloc(lt.dataFreed);
      if (!empty) bad("finalized with allocators");
      if (!lt.srchFile.ref.isNull || lt.srchFile.blocks !== 0) bad("finalized with a search file");
    } else if (lt.finalizeSeq !== 0) bad("finalize_seq is set but it is not finalized");
    if (lt.itemRoot.height > 0 && lt.bloomRef.isNull) {
      bad("it has items but no bloom block: readers do not see them");
    }
    if (lt.bloomRef.isNull && !lt.bloomRef.isZero()) bad("no bloom block, but its seq");
    checkZones(lt, fieldU64(cx.sb, 104), bad);
    const previous = trees.at(-1)?.lt;
    if (previous !== undefined && previous.rid === lt.rid && !previous.isFinalized) {
      report.add("log-tree-open", { what: (trees.at(-1) as LogTree).what });
    }
    trees.push({ lt, what });
  }
  return trees;
}

const emptyList = (h: LogTrees["metaAvail"]) => h.ref.isNull && h.totalNr === 0;
const emptyAlloc = (a: LogTrees["dataAvail"]) => a.root.height === 0 && a.totalLen === 0;

/** Bits of zones that the data device does not have. */
function checkZones(lt: LogTrees, dataBlocks: number, bad: (why: string) => void): void {
  const z = lt.dataAllocZoneBlocks;
  if (z === 0) {
    if (!isZero(lt.dataAllocZones, 0, 128)) bad("data zone bits without a zone size");
    return;
  }
  if (z < DATA_ALLOC_ZONE_BLOCKS_MIN) bad(`data zones of ${z} blocks`);
  const zones = Math.ceil(dataBlocks / z);
  for (let n = zones; n < 1024; n++) {
    if (lt.hasZone(n)) {
      bad(`data zone ${n} does not exist`);
      return;
    }
  }
}

function srchOf(
  cx: CheckContext,
  items: readonly SmallItem[],
): { files: SrchItem[]; compactions: Compaction[] } {
  const files: SrchItem[] = [], compactions: Compaction[] = [];
  for (const item of items) {
    const { key } = item;
    if (key.zone !== ZONE_SRCH) {
      wrongZone(cx, "srch_root", item);
      continue;
    }
    switch (key.type) {
      case TYPE_SRCH_LOG:
      case TYPE_SRCH_BLOCKS: {
        const file = valueOf(cx, "srch_root", item, SrchFile, SRCH_FILE_NUMBERS);
        if (file === null) break;
        const sorted = key.type === TYPE_SRCH_BLOCKS, root = file.ref.blkno;
        checkKey(
          cx,
          "srch_root",
          item,
          sorted ? srchBlocksKey(file.blocks, root) : srchLogKey(root),
        );
        files.push({ file, sorted, what: searchFile(sorted, root) });
        break;
      }
      case TYPE_SRCH_PENDING:
      case TYPE_SRCH_BUSY: {
        const sc = valueOf(cx, "srch_root", item, SrchCompact, COMPACT_NUMBERS);
        if (sc === null) break;
        const busy = key.type === TYPE_SRCH_BUSY;
        const id = Key.of(ZONE_SRCH, 0, key.type, busy ? key.secondBig : sc.id, busy ? sc.id : 0);
        checkKey(cx, "srch_root", item, id);
        compactions.push({ sc, busy, rid: busy ? key.secondBig : 0n, what: compactionName(sc.id) });
        break;
      }
      default:
        wrongZone(cx, "srch_root", item);
    }
  }
  checkCompactions(cx, files, compactions);
  return { files, compactions };
}

function checkCompactions(
  cx: CheckContext,
  files: readonly SrchItem[],
  compactions: readonly Compaction[],
): void {
  const inputs = new Set<number>(), ids = new Set<number>();
  for (const { sc, what } of compactions) {
    const bad = (why: string) => cx.report.add("srch-compaction", { what, why });
    const phases = SRCH_COMPACT_LOG | SRCH_COMPACT_SORTED | SRCH_COMPACT_DELETE;
    const phase = sc.flags & phases;
    if ((sc.flags & ~phases) !== 0) bad(`unknown flags ${sc.flags}`);
    if (
      phase !== SRCH_COMPACT_LOG && phase !== SRCH_COMPACT_SORTED && phase !== SRCH_COMPACT_DELETE
    ) bad(`no single phase in flags ${sc.flags}`);
    if (ids.has(sc.id)) bad("its id is that of another one");
    ids.add(sc.id);
    if (sc.nr < 1 || sc.nr > SRCH_COMPACT_NR) bad(`${sc.nr} inputs`);
    else if (sc.in(0).sfl.ref.blkno !== sc.id) bad("its id is not the root of its first input");
    if (!isZero(sc.bytes, 74, 6) || !isZero(sc.out.bytes, 81, 7)) bad("padding is not zero");
    const deleting = (sc.flags & SRCH_COMPACT_DELETE) !== 0;
    // Unsorted files are put together in one go (03 §20.5).
    if (phase === SRCH_COMPACT_LOG && !sc.out.isZero()) bad("it combines logs and has output");
    for (let i = 0; i < SRCH_COMPACT_NR; i++) {
      const input = sc.in(i);
      if (i >= sc.nr) {
        if (!input.isZero()) bad(`unused input ${i} is not zero`);
        continue;
      }
      const root = input.sfl.ref.blkno;
      if (inputs.has(root)) bad(`input ${root} is in two compactions`);
      inputs.add(root);
      if (!isZero(input.sfl.bytes, 81, 7)) bad(`padding of input ${root} is not zero`);
      const { height, blocks } = input.sfl;
      if (blocks === 0 ? height !== 0 : height !== srchHeight(blocks - 1)) {
        bad(`input ${root} has height ${height} for ${blocks} blocks`);
      }
      if (deleting) continue;
      const logs = (sc.flags & SRCH_COMPACT_LOG) !== 0;
      const item = files.find((f) => f.file.ref.blkno === root);
      if (item === undefined) bad(`input ${root} is no file`);
      else if (item.sorted === logs) bad(`input ${root} is of the wrong kind`);
      else if (!bytesEqual(input.sfl.bytes, item.file.bytes)) {
        bad(`input ${root} differs from its file`);
      }
      if (logs && (input.blk !== 0 || input.pos !== 0)) bad(`input log ${root} has progress`);
      if (input.pos > SRCH_BLOCK_ENTRIES_BYTES) {
        bad(`progress of input ${root} is beyond its block`);
      }
      if (input.blk > input.sfl.blocks) bad(`progress of input ${root} is beyond its end`);
    }
  }
}

function mergeOf(cx: CheckContext, items: readonly SmallItem[]): MergeState {
  const tree = "log_merge", superSeq = fieldU64(cx.sb, 72);
  let status: LogMergeStatus | null = null;
  const ranges: LogMergeRange[] = [];
  const requests: { r: LogMergeRequest; what: string }[] = [];
  const completions: { c: LogMergeComplete; what: string }[] = [];
  const freeing: { f: LogMergeFreeing; what: string }[] = [];
  const spans: { start: Key; end: Key; what: string }[] = [];
  const bad = (what: string, why: string) => cx.report.add("merge", { what, why });
  /** Padding behind roots (7 bytes at each offset) and of keys (5 bytes at their end). */
  const pads = (what: string, view: View, roots: readonly number[], keys: readonly number[]) => {
    const bytes = new Uint8Array(view.v.buffer, view.v.byteOffset + view.o);
    const zero = roots.every((o) => isZero(bytes, o, 7)) &&
      keys.every((o) => isZero(bytes, o + 27, 5));
    if (!zero) bad(what, "padding is not zero");
  };
  const span = (start: Key, end: Key, what: string) => {
    if (start.compare(end) > 0) bad(what, "its range is empty");
    else spans.push({ start, end, what });
  };
  for (const item of items) {
    const what = mergeItem(item.key);
    switch (item.key.zone) {
      case ZONE_LOG_MERGE_STATUS: {
        const s = valueOf(cx, tree, item, LogMergeStatus, [32, 40, 48]);
        if (s === null) break;
        checkKey(cx, tree, item, Key.of(ZONE_LOG_MERGE_STATUS, 0, 0));
        pads(what, s, [], [0]);
        if (s.seq === 0 || s.seq > superSeq) bad(what, `seq ${s.seq}`);
        status = s;
        break;
      }
      case ZONE_LOG_MERGE_RANGE: {
        const r = valueOf(cx, tree, item, LogMergeRange, []);
        if (r === null) break;
        checkKey(cx, tree, item, logMergeRangeKey(r.start));
        pads(what, r, [], [0, 32]);
        span(r.start, r.end, what);
        ranges.push(r);
        break;
      }
      case ZONE_LOG_MERGE_REQUEST: {
        const r = valueOf(cx, tree, item, LogMergeRequest, REQUEST_NUMBERS);
        if (r === null) break;
        checkKey(cx, tree, item, logMergeRequestKey(r.rid, r.seq));
        if ((r.flags & ~LOG_MERGE_REQUEST_SUBTREE) !== 0) bad(what, `unknown flags ${r.flags}`);
        pads(what, r, [81, 105], [112, 144]);
        span(r.start, r.end, what);
        requests.push({ r, what });
        break;
      }
      case ZONE_LOG_MERGE_COMPLETE: {
        const c = valueOf(cx, tree, item, LogMergeComplete, COMPLETE_NUMBERS);
        if (c === null) break;
        checkKey(cx, tree, item, logMergeCompleteKey(c.seq));
        if ((c.flags & ~LOG_MERGE_COMP_REMAIN) !== 0) bad(what, `unknown flags ${c.flags}`);
        pads(what, c, [81], [88, 120, 152]);
        if (c.rid === 0n) bad(what, "its rid is no mount's");
        span(c.start, c.end, what);
        const remains = (c.flags & LOG_MERGE_COMP_REMAIN) !== 0;
        const within = c.remain.compare(c.start) >= 0 && c.remain.compare(c.end) <= 0;
        if (remains ? !within : !c.remain.equals(c.end)) bad(what, `remain is ${c.remain}`);
        completions.push({ c, what });
        break;
      }
      case ZONE_LOG_MERGE_FREEING: {
        const f = valueOf(cx, tree, item, LogMergeFreeing, [0, 56]);
        if (f === null) break;
        checkKey(cx, tree, item, logMergeFreeingKey(f.seq));
        pads(what, f, [], [24]);
        freeing.push({ f, what });
        break;
      }
      default:
        wrongZone(cx, tree, item);
    }
  }
  spans.sort((a, b) => a.start.compare(b.start));
  for (let i = 1; i < spans.length; i++) {
    const a = spans[i - 1] as typeof spans[0], b = spans[i] as typeof spans[0];
    if (rangesOverlap(a.start, a.end, b.start, b.end)) bad(b.what, `its range overlaps ${a.what}`);
  }
  checkMergeCounts(status, ranges.length, requests, completions.length, bad);
  return { status, ranges, requests, completions, freeing };
}

function checkMergeCounts(
  status: LogMergeStatus | null,
  ranges: number,
  requests: readonly { r: LogMergeRequest; what: string }[],
  completions: number,
  bad: (what: string, why: string) => void,
): void {
  if (status === null) {
    if (ranges + requests.length + completions > 0) {
      bad("log_merge", "ranges, requests or completions without a status");
    }
    return;
  }
  if (status.nrRequests !== requests.length) {
    bad("log_merge", `nr_requests is ${status.nrRequests}, there are ${requests.length}`);
  }
  // While completions are spliced the count is forced to 8 or more, and they become fewer.
  const splicing = completions > 0 && status.nrComplete >= 8 && status.nrComplete > completions;
  if (status.nrComplete !== completions && !splicing) {
    bad("log_merge", `nr_complete is ${status.nrComplete}, there are ${completions}`);
  }
  for (const { r, what } of requests) {
    if (r.inputSeq !== status.seq) bad(what, `input_seq ${r.inputSeq} is not the status' seq`);
  }
}

function clientsOf(cx: CheckContext, items: readonly SmallItem[]): bigint[] {
  const rids: bigint[] = [];
  for (const item of items) {
    if (item.key.zone !== ZONE_MOUNTED_CLIENT) {
      wrongZone(cx, "mounted_clients", item);
      continue;
    }
    const rid = item.key.firstBig;
    checkKey(cx, "mounted_clients", item, Key.of(ZONE_MOUNTED_CLIENT, rid, 0));
    rids.push(rid);
    const c = valueOf(cx, "mounted_clients", item, MountedClientBtreeVal, []);
    if (c === null) continue;
    const bad = (why: string) => cx.report.add("mounted-client", { rid: hex16(rid), why });
    if (rid === 0n || rid === 0xffff_ffff_ffff_ffffn) bad("its rid is no mount's");
    if ((c.flags & ~MOUNTED_CLIENT_QUORUM) !== 0) bad(`unknown flags ${c.flags}`);
    if (c.addr.family !== AF_IPV4) bad(`address family ${c.addr.family}`);
    else if (c.addr.port === 0) bad("port 0");
  }
  return rids;
}

/** The greatest version that an item of the volume can have. */
export function greatestSeq(cx: CheckContext, items: ServerItems): number {
  let maxSeq = fieldU64(cx.sb, 72);
  for (const { lt } of items.logTrees) maxSeq = Math.max(maxSeq, lt.maxItemSeq);
  return maxSeq;
}

/** Keys that a running merge has yet to bring into fs_root, as disjoint ranges. */
export function unmergedRanges(merge: MergeState): { start: Key; end: Key }[] {
  const ranges: { start: Key; end: Key }[] = [...merge.ranges];
  for (const { r } of merge.requests) ranges.push(r);
  for (const { c } of merge.completions) {
    if (!isSpliced(c)) ranges.push(c);
    else if ((c.flags & LOG_MERGE_COMP_REMAIN) !== 0) ranges.push({ start: c.remain, end: c.end });
  }
  return ranges;
}

/** Whether a completion's result is part of fs_root already: its lists are gone (03 §17.5). */
export const isSpliced = (c: LogMergeComplete): boolean =>
  c.metaAvail.isZero() && c.metaFreed.isZero();

/** A rid that owns unfinished work is a mount that may come back or must be reclaimed. */
function checkOwnersOfWork(
  cx: CheckContext,
  logTrees: readonly LogTree[],
  compactions: readonly Compaction[],
  merge: MergeState,
  mounted: readonly bigint[],
): void {
  const known = new Set(mounted), said = new Set<bigint>();
  const check = (rid: bigint, what: string) => {
    if (known.has(rid) || said.has(rid)) return;
    said.add(rid);
    cx.report.add("owner-unknown", { rid: hex16(rid), what });
  };
  for (const { lt, what } of logTrees) if (!lt.isFinalized) check(lt.rid, what);
  for (const c of compactions) if (c.busy) check(c.rid, c.what);
  for (const { r, what } of merge.requests) check(r.rid, what);
}
