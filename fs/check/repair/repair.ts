/**
 * Repair (e2fsck's way: one problem table, passes that run until nothing is left to mend).
 *
 * A repair is a number of rounds. Each checks the whole volume, mends what it may, and switches to
 * the mended volume with one write of the super block (round.ts); then the next round checks that.
 * Structure comes first: trees whose blocks are damaged, what crashed mounts left, free space. Only
 * in a volume whose trees can all be read items are mended, in the order inodes, entries, counts,
 * indexes, each of which the next round sees settled.
 *
 * The end is a check that finds nothing more to mend; what it still finds is what is left.
 */

import type { Device } from "../../device.ts";
import type { Random } from "../../env.ts";
import { assert, FsError } from "../../errors.ts";
import { type CheckOptions, type CheckResult, isSound, type Report, runCheck } from "../check.ts";
import type { BadBlock } from "../context.ts";
import { type ProblemCode, PROBLEMS } from "../problems.ts";
import type { Problem } from "../report.ts";
import { freeDataRuns } from "./data_space.ts";
import { Entries } from "./entries.ts";
import { Findings, isItemTree } from "./findings.ts";
import { Fixers } from "./fixers.ts";
import { ItemPatch, parseKey } from "./item_patch.ts";
import { Round } from "./round.ts";
import { type ServerTree, ServerTrees } from "./server_trees.ts";
import { closeSlots, resetSlot } from "./quorum_slots.ts";
import { rewriteTree } from "./tree_rewrite.ts";
import type { Key } from "../../../format/key.ts";
import { LogTrees } from "../../../format/log_trees.ts";

/** A repair that needs more rounds than this goes in circles. */
const MAX_ROUNDS = 16;

export interface RepairOptions extends CheckOptions {
  /** `safe`: only what loses nothing; `all`: everything that can be mended. */
  readonly mode: "safe" | "all";
  readonly random: Random;
  /** Time of new inodes. */
  readonly now: { readonly sec: number; readonly nsec: number };
  /** Whether problems of this kind shall be mended; asked once a code. Default: yes. */
  readonly ask?: (code: ProblemCode, count: number) => boolean;
  /** One line about something that was done. */
  readonly log?: (line: string) => void;
  /** Before the check of round 1, 2, … */
  readonly onRound?: (round: number) => void;
}

export interface RepairResult {
  /** The first check: what was there. */
  readonly before: Report;
  /** The last check: what is left. */
  readonly after: Report;
  /** Super block writes. */
  readonly commits: number;
  /** What crashed mounts had left was taken back. */
  readonly recovered: boolean;
  /** Something that may lose information was done. */
  readonly lossy: boolean;
  /** Why mending stopped, when that was not because nothing is left to do. */
  readonly stopped: string | null;
}

/** Checks and mends a volume that nothing else uses. Throws DeviceError when a device fails. */
export function repairVolume(meta: Device, data: Device, options: RepairOptions): RepairResult {
  return new Repair(meta, data, options).run();
}

class Repair {
  #commits = 0;
  #recovered = false;
  #lossy = false;
  readonly #answers = new Map<ProblemCode, boolean>();

  constructor(
    private readonly meta: Device,
    private readonly data: Device,
    private readonly options: RepairOptions,
  ) {}

  run(): RepairResult {
    let before: Report | null = null, stopped: string | null = null, last = "";
    for (let n = 1;; n++) {
      this.options.onRound?.(n);
      const findings = new Findings();
      const { onProblem, ...rest } = this.options;
      const result = runCheck(this.meta, this.data, {
        ...rest,
        onProblem: (p) => {
          findings.add(p);
          if (n === 1) onProblem?.(p);
        },
      });
      const after = result.report;
      before ??= after;
      const done = (): RepairResult => ({
        before: before as Report,
        after,
        commits: this.#commits,
        recovered: this.#recovered,
        lossy: this.#lossy,
        stopped,
      });
      if (result.cx === null || result.items === null) return done();
      if (isSound(after) && !needsRecovery(result)) {
        if (!after.cleanlyUnmounted) {
          for (const slot of closeSlots(this.meta)) {
            this.options.log?.(`quorum slot ${slot} was marked as ended`);
          }
        }
        return done();
      }
      const state = JSON.stringify([...after.counts]);
      if (n > MAX_ROUNDS || state === last) {
        stopped = "mending did not change anything any more";
        return done();
      }
      last = state;
      try {
        if (!this.#round(result, findings)) return done();
      } catch (e) {
        if (!(e instanceof FsError)) throw e;
        stopped = e.message;
        return done();
      }
      this.#commits++;
    }
  }

  /** Whether problems of this kind are to be mended. */
  #may(code: ProblemCode, count: number): boolean {
    const { mending } = PROBLEMS[code];
    if (mending === "none" || mending === "lossy" && this.options.mode !== "all") return false;
    let answer = this.#answers.get(code);
    if (answer === undefined) {
      answer = this.options.ask?.(code, count) ?? true;
      this.#answers.set(code, answer);
    }
    return answer;
  }

  /** Mends what one round can; false if that is nothing. */
  #round(result: CheckResult, findings: Findings): boolean {
    const { cx, items, report } = result;
    assert(cx !== null && items !== null, "a round needs a checked volume");
    if (cx.undersized) return false;
    const allowed = findings.problems.filter((p) =>
      this.#may(p.code, report.counts.get(p.code) ?? 1)
    );
    const itemTreesBad = cx.badBlocks.some((b) => isItemTree(b.tree));
    const lostParent = cx.badBlocks.some((b) => b.lost && b.level > 0 && !isAllocator(b.tree));
    const rootLost = findings.problems.some((p) =>
      p.code === "root-height" && isItemTree(String(p.values["what"]))
    );
    const round = new Round(cx, items, {
      random: this.options.random,
      complete: !findings.incomplete && !lostParent && !rootLost,
      conflicts: findings.conflicts,
    });
    for (const slot of quorumSlots(allowed)) {
      resetSlot(this.meta, cx.sb.hdr.fsid, slot);
      this.options.log?.(`the quorum block of slot ${slot} was replaced by an empty one`);
      round.changed = true;
    }
    const servers = new ServerTrees(round);
    if (servers.recover()) {
      this.#recovered = true;
      this.options.log?.("what crashed mounts had left behind was taken back");
    }
    this.#mendServerTrees(servers, findings, allowed);
    const structure = this.#mendItemTrees(round, servers, findings, allowed);
    const readable = !itemTreesBad && !rootLost && !findings.incomplete;
    if (allowed.some((p) => p.code === "inode-next-ino")) round.raiseNextIno(findings.greatestIno);
    if (!structure && readable) this.#mendItems(round, servers, allowed);
    if (allowed.some((p) => isSpaceProblem(p.code))) round.changed = true;
    if (allowed.some((p) => isDataSpaceProblem(p))) round.dataSpaceWrong = true;
    if (round.dataSpaceWrong && readable && !structure) {
      round.dataRuns ??= freeDataRuns(cx, items);
      round.changed = true;
    }
    if (!round.changed) return false;
    if (allowed.some((p) => PROBLEMS[p.code].mending === "lossy")) this.#lossy = true;
    servers.write();
    round.commit();
    return true;
  }

  #mendServerTrees(
    servers: ServerTrees,
    findings: Findings,
    allowed: readonly Problem[],
  ): void {
    for (const { code, values } of allowed) {
      const what = String(values["what"] ?? "");
      if (findings.serverTrees.has(what)) servers.touch(what as ServerTree);
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
          if (servers.dropSearchFile(what)) {
            this.options.log?.(
              `${what} was dropped, its entries are made anew from the attributes`,
            );
          }
          break;
        case "srch-compaction":
          servers.dropCompactions();
          break;
        case "merge":
          if (/^nr_/.test(String(values["why"]))) servers.recountMerge();
          break;
        default:
          break;
      }
    }
  }

  /** Writes anew what is damaged in fs_root and log trees; false if nothing is. */
  #mendItemTrees(
    round: Round,
    servers: ServerTrees,
    findings: Findings,
    allowed: readonly Problem[],
  ): boolean {
    const unwanted = Map.groupBy(
      allowed.filter(({ code, values }) =>
        (code === "item-zone" || code === "item-key-fields" || code === "item-length") &&
        isItemTree(String(values["what"]))
      ),
      ({ values }) => String(values["what"]),
    );
    const keysOf = (what: string): Key[] =>
      (unwanted.get(what) ?? []).flatMap(({ values }) => parseKey(String(values["key"])) ?? []);
    const badOf = (tree: string): BadBlock[] =>
      round.cx.badBlocks.filter((b) => b.tree === tree && this.#mayMend(b, findings));
    const rootBad = (what: string): boolean =>
      allowed.some((p) => p.code === "root-height" && p.values["what"] === what);
    let any = false;
    const mend = (what: string, bad: BadBlock[], keys: Key[], root: typeof round.sb.fsRoot) => {
      if (bad.length === 0 && keys.length === 0 && !rootBad(what)) return;
      const log = what !== "fs_root";
      const { lostBlocks, unusable } = rewriteTree(round, root, { bad, unwanted: keys, log });
      any = true;
      if (log) servers.touch("logs_root");
      if (lostBlocks > 0) this.options.log?.(`${what}: ${lostBlocks} blocks were lost`);
      if (unusable > 0) this.options.log?.(`${what}: ${unusable} items were lost`);
    };
    if (round.fsRootIsOurs) mend("fs_root", badOf("fs_root"), keysOf("fs_root"), round.sb.fsRoot);
    for (const { lt, what } of round.items.logTrees) {
      mend(`items of ${what}`, badOf(`items of ${what}`), keysOf(what), lt.itemRoot);
    }
    if (any || round.cx.badBlocks.some((b) => isItemTree(b.tree))) return any;
    this.#mendVersions(servers, allowed);
    return false;
  }

  #mayMend(bad: BadBlock, findings: Findings): boolean {
    return this.options.mode === "all" || findings.mendingOf(bad.ref.blkno) === "safe";
  }

  /** What a log tree says of its own items: their greatest seq, the locks that they are under. */
  #mendVersions(servers: ServerTrees, allowed: readonly Problem[]): void {
    const { logTrees } = servers;
    const byWhat = new Map(servers.named());
    const blooms = new Set<LogTrees>();
    for (const { code, values } of allowed) {
      const what = String(values["what"] ?? "");
      if (code === "item-seq") {
        const seq = Number(values["seq"]);
        const lt = byWhat.get(what);
        if (lt !== undefined && seq > lt.maxItemSeq) {
          lt.maxItemSeq = seq;
          servers.touch("logs_root");
        }
        servers.raiseSeq(seq);
      }
      const lt = byWhat.get(what.replace(/^bloom block of /, ""));
      const blooming = code === "bloom-bits" || code === "bloom-count" ||
        code.startsWith("block-") && what.startsWith("bloom block of ") || code === "log-tree";
      if (blooming && lt !== undefined) blooms.add(lt);
    }
    for (const lt of logTrees) {
      const missing = lt.itemRoot.height > 0 && lt.bloomRef.isNull;
      if (missing || blooms.has(lt)) servers.rebuildBloom(lt);
    }
  }

  #mendItems(round: Round, servers: ServerTrees, allowed: readonly Problem[]): void {
    const lossy = this.options.mode === "all";
    const patch = new ItemPatch(round);
    const entries = new Entries(patch, this.options.now, lossy);
    const fixers = new Fixers(round, servers, patch, entries, lossy);
    const problems = allowed.map((p) => ({ p, order: ITEM_ORDER.get(p.code) ?? ITEM_ORDER.size }))
      .sort((a, b) => a.order - b.order);
    let mended = false;
    for (const { p } of problems) {
      if (patch.isFull) break;
      try {
        if (fixers.mend(p.code, p.values)) mended = true;
      } catch (e) {
        // The item that it needs cannot be read: the next round sees whether that has changed.
        if (!(e instanceof FsError)) throw e;
      }
    }
    fixers.finish();
    for (const note of fixers.notes) this.options.log?.(note);
    const count = allowed.find((p) => p.code === "inode-count");
    if (count !== undefined) {
      patch.inodeDelta += Number(count.values["found"]) - Number(count.values["value"]);
      mended = true;
    }
    if (mended) round.changed = true;
    patch.write(servers);
  }
}

/** Inodes come before the entries that lead to them, what only counts comes last. */
const ITEM_ORDER: ReadonlyMap<ProblemCode, number> = new Map(
  ([
    "root-inode",
    "inode-missing",
    "inode-length",
    "inode-field",
    "entry-value",
    "entry-twins-differ",
    "entry-without-twin",
    "twin-without-entry",
    "entry-type",
    "dir-name-twice",
    "dir-parent-missing",
    "dir-cycle",
    "dir-parents",
  ] as ProblemCode[]).map((code, i) => [code, i]),
);

const isAllocator = (tree: string): boolean =>
  /^(meta_alloc|data_alloc|data_avail|data_freed)/.test(tree);

function needsRecovery({ items }: CheckResult): boolean {
  return items !== null && (
    items.logTrees.some(({ lt }) => !lt.isFinalized) || items.mounted.length > 0 ||
    items.compactions.some(({ busy }) => busy) || items.merge.requests.length > 0
  );
}

function quorumSlots(problems: readonly Problem[]): Set<number> {
  const bad = problems.filter(({ code }) => code === "quorum-block" || code === "quorum-event");
  return new Set(bad.map(({ values }) => Number(values["slot"])));
}

/** Writing the allocators anew is all that these need. */
function isSpaceProblem(code: ProblemCode): boolean {
  return /^(list-|alloc-|meta-leak$|meta-free-|meta-block-|super-|root-pad$)/.test(code) ||
    /^extent-(key|range|order|overlap|index|total)$/.test(code) ||
    code.startsWith("data-") && code !== "data-block-twice";
}

function isDataSpaceProblem({ code, values }: Problem): boolean {
  if (code.startsWith("data-")) return true;
  const what = String(values["what"] ?? "");
  return /^(data_alloc|data_avail|data_freed)/.test(what);
}
