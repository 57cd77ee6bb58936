/**
 * Mending what items lie in: the server's trees, the trees of items, and what these say of themselves.
 * Search files, compactions and merges that cannot be used are given up; trees of items are written
 * anew where they are damaged (tree_rewrite.ts).
 */

import { ZONE_LOG_MERGE_FREEING } from "../../../format/constants.ts";
import type { Key } from "../../../format/key.ts";
import type { LogTrees } from "../../../format/log_trees.ts";
import type { BadBlock } from "../context.ts";
import {
  FS_ROOT,
  isBloom,
  isCompaction,
  isItemTree,
  isMergeItem,
  isMergeItemOf,
  isSearch,
  isServerTree,
  itemsOf,
  logTreeOf,
} from "../names.ts";
import type { ProblemCode, Values } from "../problems.ts";
import type { Problem } from "../report.ts";
import type { Findings } from "./findings.ts";
import { parseKey } from "./item_patch.ts";
import type { Hole, LooseLeaf } from "./lost_blocks.ts";
import { type Round, SEQ_LIMIT } from "./round.ts";
import type { ServerTrees } from "./server_trees.ts";
import { rewriteTree } from "./tree_rewrite.ts";

/** What mending structure needs to know. */
export interface Structure {
  readonly round: Round;
  readonly servers: ServerTrees;
  readonly findings: Findings;
  /** What may be mended. */
  readonly allowed: readonly Problem[];
  readonly mayMend: (bad: BadBlock) => boolean;
  /** Names of what was mended in vain (escalation.ts). */
  readonly stubborn: ReadonlySet<string>;
  /** One line about something that was done. */
  readonly log: (line: string) => void;
}

/** What is to be done about the server's trees, search files, compactions and merges. */
export function mendServerTrees(s: Structure): void {
  const { servers, findings, allowed, log } = s;
  for (const what of s.stubborn) rebuild(servers, what, log);
  for (const { code, values } of allowed) {
    const what = namedBy(code, values);
    if (
      isMergeItemOf(what, ZONE_LOG_MERGE_FREEING) &&
      /^(meta-block-twice|block-|btree-|ref-range|root-|merge)/.test(code)
    ) {
      servers.dropFreeing();
    }
    if (code === "root-pad" && isMergeItem(what)) servers.clearPads();
    if (isCompaction(what) && /^(meta-block-twice|block-|ref-range|srch-|root-)/.test(code)) {
      servers.dropCompactions();
    }
    if (isServerTree(what) && findings.serverTrees.has(what)) servers.touch(what);
    switch (code) {
      case "log-tree":
      case "log-tree-open":
      case "owner-unknown":
        servers.touch("logs_root");
        break;
      case "mounted-client":
        servers.touch("mounted_clients");
        break;
      case "srch-file":
      case "meta-block-twice":
      case "ref-range":
      case "block-read":
      case "block-crc":
      case "block-magic":
      case "block-fsid":
      case "block-seq":
      case "block-blkno":
        if (servers.dropSearchFile(what)) {
          log(
            `${what} was dropped, its entries are made anew from the attributes`,
          );
        }
        break;
      case "srch-compaction":
        servers.dropCompactions();
        break;
      case "merge":
        if (/^(log_merge: )?nr_/.test(String(values["why"]))) servers.recountMerge();
        break;
      default:
        break;
    }
  }
}

/** The structure that a problem is about: of a block that two have, the one that came later. */
export const namedBy = (code: ProblemCode, values: Values): string =>
  String(values[code === "meta-block-twice" ? "second" : "what"] ?? "");

/** What comes back although it was mended is given up, or written anew as a whole. */
function rebuild(servers: ServerTrees, what: string, log: (line: string) => void): void {
  if (isMergeItem(what) || what === "log_merge") {
    servers.dropFreeing();
    servers.abandonMerge();
    log("a log merge was given up: it could not be mended");
  } else if (isSearch(what) || isCompaction(what) || what === "srch_root") {
    servers.dropCompactions();
    if (servers.dropSearchFile(what)) log(`${what} was dropped: it could not be mended`);
    servers.touch("srch_root");
  }
  servers.touch(isServerTree(what) ? what : "logs_root");
}

/** Writes anew what is damaged in fs_root and log trees; false if nothing is. */
export function mendItemTrees(
  s: Structure,
  holes: Hole[],
  copies: readonly LooseLeaf[],
): boolean {
  const { round, servers, allowed, log } = s;
  const unwanted = Map.groupBy(
    allowed.filter(({ code, values }) =>
      (code === "item-zone" || code === "item-key-fields" || code === "item-length") &&
      isItemTree(String(values["what"]))
    ),
    ({ values }) => treeOf(values),
  );
  const lateVersions = (what: string): Key[] =>
    allowed.filter(({ code, values }) =>
      code === "item-seq" && treeOf(values) === what && Number(values["seq"]) >= SEQ_LIMIT
    ).flatMap(({ values }) => parseKey(String(values["key"])) ?? []);
  const keysOf = (what: string): Key[] =>
    (unwanted.get(what) ?? []).flatMap(({ values }) => parseKey(String(values["key"])) ?? []);
  const badOf = (tree: string): BadBlock[] =>
    round.cx.badBlocks.filter((b) => b.tree === tree && s.mayMend(b));
  const rootBad = (what: string): boolean =>
    allowed.some((p) => p.code === "root-height" && p.values["what"] === what);
  let any = false;
  const mend = (
    what: string,
    bad: BadBlock[],
    items: string,
    root: typeof round.sb.fsRoot,
    newest: number,
  ) => {
    const keys = keysOf(items), late = lateVersions(items);
    const whole = s.stubborn.has(what) || s.stubborn.has(items);
    if (bad.length + keys.length + late.length === 0 && !rootBad(what) && !whole) return;
    const inLog = what !== FS_ROOT;
    const damage = { bad, unwanted: keys, late, newest, log: inLog, name: what, copies, whole };
    const { lostBlocks, unusable, doubtful, holes: left } = rewriteTree(round, root, damage);
    any = true;
    for (const hole of left) holes.push(hole);
    if (inLog) servers.touch("logs_root");
    if (lostBlocks > 0) log(`${what}: ${lostBlocks} blocks were lost`);
    if (unusable > 0) log(`${what}: ${unusable} items were lost`);
    if (doubtful > 0) {
      log(
        `${what}: ${doubtful} items of blocks with a wrong checksum were kept: they may be wrong`,
      );
    }
  };
  const bad = badOf(FS_ROOT);
  if (!round.fsRootIsOurs && !round.mergeAbandoned && (bad.length > 0 || rootBad(FS_ROOT))) {
    // Its completions can neither be spliced into a damaged fs_root nor become ranges again. Totals
    // that it had added already are found wrong by the next round.
    servers.abandonMerge();
    log("a log merge was given up: the next one begins anew");
  }
  if (round.fsRootIsOurs || round.mergeAbandoned) {
    mend(FS_ROOT, bad, FS_ROOT, round.sb.fsRoot, round.newest);
  }
  for (const { lt, what } of round.items.logTrees) {
    mend(itemsOf(what), badOf(itemsOf(what)), what, lt.itemRoot, lt.maxItemSeq);
  }
  if (any || round.cx.badBlocks.some((b) => isItemTree(b.tree))) return any;
  mendVersions(s);
  return false;
}

/** What a log tree says of its own items: their greatest seq, the locks that they are under. */
function mendVersions({ servers, allowed }: Structure): void {
  const { logTrees } = servers;
  const byWhat = new Map(servers.named());
  const blooms = new Set<LogTrees>();
  for (const { code, values } of allowed) {
    const what = String(values["what"] ?? "");
    if (code === "item-seq") {
      const seq = Number(values["seq"]);
      const lt = byWhat.get(treeOf(values));
      if (seq >= SEQ_LIMIT) continue;
      if (lt !== undefined && seq > lt.maxItemSeq) {
        lt.maxItemSeq = seq;
        servers.touch("logs_root");
      }
      servers.raiseSeq(seq);
    }
    const lt = byWhat.get(treeOf(values));
    const blooming = code.startsWith("bloom-") || isBloom(what) || code === "log-tree";
    if (blooming && lt !== undefined) blooms.add(lt);
    // A block that two trees have: the later one gets its own, whatever else is wrong with them.
    const second = String(values["second"] ?? "");
    const later = byWhat.get(logTreeOf(second));
    if (code === "meta-block-twice" && isBloom(second) && later !== undefined) blooms.add(later);
  }
  for (const lt of logTrees) {
    const missing = lt.itemRoot.height > 0 && lt.bloomRef.isNull;
    if (missing || blooms.has(lt)) servers.rebuildBloom(lt);
  }
}

/** Problems name a log tree, the tree of its items, or its bloom block. */
const treeOf = (values: Values): string => logTreeOf(String(values["what"]));
