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

import { BlockCache } from "../../block_cache.ts";
import type { Device } from "../../device.ts";
import type { Random } from "../../env.ts";
import { assert, FsError, isDamage } from "../../errors.ts";
import type { QuorumSlotSetting } from "../../mkfs.ts";
import {
  type CheckOptions,
  type CheckResult,
  DEFAULT_MEMORY,
  isSound,
  type Report,
  runCheck,
} from "../check.ts";
import type { BadBlock, CheckContext } from "../context.ts";
import { FS_ROOT, isAllocator, isBloom, isItemTree, isServerTree, logTreeOf } from "../names.ts";
import type { ServerItems } from "../pass_roots.ts";
import { type ProblemCode, PROBLEMS, type Values } from "../problems.ts";
import { refBlkno } from "../raw.ts";
import type { Problem } from "../report.ts";
import { freeDataRuns, SharedExtents } from "./data_space.ts";
import { Entries } from "./entries.ts";
import { Ladder, MOST_VAIN_ROUNDS } from "./escalation.ts";
import { Findings } from "./findings.ts";
import { ChangedError, FixedArea } from "./fixed_area.ts";
import { Fixers } from "./fixers.ts";
import { isOfItems } from "./fixers_give_up.ts";
import { FixScope } from "./fixers_scope.ts";
import { ItemPatch } from "./item_patch.ts";
import { Round } from "./round.ts";
import {
  expectedHole,
  findLooseLeaves,
  type Hole,
  LEAKED,
  LOG_TREES,
  type Loose,
  type LooseLeaf,
  mayHaveLeaked,
  NOTHING_LOOSE,
} from "./lost_blocks.ts";
import { findLostLogTree, NO_LOG_TREE } from "./lost_log_tree.ts";
import { isNews, salvage } from "./salvage.ts";
import { ServerTrees } from "./server_trees.ts";
import { mayHaveLostFiles, needsMoreThanPreening } from "./preening.ts";
import {
  contradictsMerge,
  isDataSpaceProblem,
  isSpaceProblem,
  needsRecovery,
  quorumSlots,
} from "./problem_kinds.ts";
import { mendItemTrees, mendServerTrees, namedBy, type Structure } from "./structure.ts";
import { closeSlots, resetSlots } from "./quorum_slots.ts";
import { FULL, growMeta } from "./volume_sizes.ts";
import { mendSuperBlocks } from "./super_blocks.ts";
import { TempFileError } from "../temp_file.ts";
import { mendSlots } from "./supers.ts";
import { BTREE_MAX_HEIGHT } from "../../../format/constants.ts";
import { Key } from "../../../format/key.ts";
import { FormatError } from "../../../format/bytes.ts";
import { ENOSPC } from "../../../format/errno.ts";

/** From this round on each must leave fewer problems than any before: else it goes in circles. */
const MAX_ROUNDS = 20;
/** For looking up what results of a merge hold. */
const MERGE_CACHE_BYTES = 16 << 20;
/** Problems that go when the tree, search file or merge that they are about is made anew. */
const MENDED_WITH_A_TREE =
  /^(meta-block-twice|block-|btree-|root-|ref-range|item-(?!seq)|srch-file|srch-comp|merge)/;

export interface RepairOptions extends CheckOptions {
  /** `safe`: only what loses nothing; `all`: everything that can be mended. */
  readonly mode: "safe" | "all";
  readonly random: Random;
  /** Time of new inodes. */
  readonly now: { readonly sec: number; readonly nsec: number };
  /** The rung of the ladder (escalation.ts) for what is found first; 0 unless a test climbs it. */
  readonly rung?: number;
  /** Whether problems of this kind shall be mended; asked once a code. Default: yes. */
  readonly ask?: (code: ProblemCode, count: number) => boolean;
  /** Quorum slots of a volume of whose super blocks none that is left has any. */
  readonly slots?: readonly QuorumSlotSetting[];
  /** The data device is the volume's even if nothing shows it. */
  readonly trustData?: boolean;
  /** The fixed blocks as they were when the volume was found unused; default: as they are now. */
  readonly fixed?: FixedArea;
  /** One line about something that was done. */
  readonly log?: (line: string) => void;
  /** Before the check of round 1, 2, …, whose problems `onProblem` is then told. */
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
  /** It was no damage that stopped it: the devices are no pair, or not all there; one failed. */
  readonly failed: boolean;
}

/**
 * Checks and mends a volume that nothing else uses. Throws DeviceError when a device fails, and
 * ChangedError when something else has written to it after all.
 */
export function repairVolume(meta: Device, data: Device, options: RepairOptions): RepairResult {
  const fixed = options.fixed ?? new FixedArea(meta);
  return new Repair(fixed.guardMeta(meta), fixed.guardData(data), options).run();
}

class Repair {
  #commits = 0;
  #recovered = false;
  #lossy = false;
  /** Leaves of fs_root that nothing leads to are to be searched for in the next round. */
  #fsRootLost = false;
  /** Free space was made anew of what was known: blocks that are not in it may be free all the same. */
  #freeForgotten = false;
  /**
   * What can be found of an fs_root that has nothing left has been found. What turns up afterwards
   * are leaves that this repair itself has written anew.
   */
  #fsRootSought = false;
  /** Quorum slots whose blocks the device does not take. */
  readonly #deadSlots = new Set<number>();
  /** A round has changed something: from now on what it has let go of leaks as well. */
  #mended = false;
  /** What this round has done, to be said when it is. */
  #notes: string[] = [];
  readonly #answers = new Map<ProblemCode, boolean>();
  /** Problems that come back; null where nothing may be lost, or somebody is asked before it is. */
  readonly #ladder: Ladder | null;

  constructor(
    private readonly meta: Device,
    private readonly data: Device,
    private readonly options: RepairOptions,
  ) {
    const { mode, rung, memory, ask } = options;
    this.#ladder = mode === "all" && ask === undefined
      ? new Ladder(rung ?? 0, memory ?? DEFAULT_MEMORY)
      : null;
  }

  run(): RepairResult {
    let before: Report | null = null, stopped: string | null = null, failed = false;
    let last = "", vain = 0, fewest = Infinity;
    for (let n = 1;; n++) {
      this.options.onRound?.(n);
      const { memory, tempDir } = this.options;
      using findings = new Findings(memory ?? DEFAULT_MEMORY, tempDir);
      const { onProblem, ...rest } = this.options;
      const result = runCheck(this.meta, this.data, {
        ...rest,
        onProblem: (p) => {
          findings.add(p);
          onProblem?.(p);
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
        failed,
      });
      if (n <= MAX_ROUNDS) {
        const { written, lossy, refused, wrongDevices, fsRootLost } = mendSuperBlocks(
          this.meta,
          this.data,
          {
            ...this.options,
            report: after,
            findings,
            may: (code) => this.#may(code, after.counts.get(code) ?? 1),
          },
        );
        if (written) {
          this.#lossy ||= lossy;
          this.#fsRootLost ||= fsRootLost;
          this.#commits++;
          continue;
        }
        // Nothing is mended against a device that may not be the volume's.
        if (refused !== null) {
          stopped = refused;
          failed = wrongDevices;
          return done();
        }
      }
      if (result.cx === null || result.items === null) return done();
      if (isSound(after) && !needsRecovery(result)) {
        if (!after.cleanlyUnmounted && this.#mayRecover()) {
          for (const slot of closeSlots(this.meta)) {
            this.options.log?.(`quorum slot ${slot} was marked as ended`);
          }
        }
        return done();
      }
      const state = JSON.stringify([[...after.counts], after.problems.map((p) => p.message)]);
      const left = after.errors + after.warnings;
      vain = state === last ? vain + 1 : 0;
      const climbs = this.#ladder?.climbs ?? 0;
      if (n > MAX_ROUNDS && left >= fewest || vain > (climbs > 0 ? MOST_VAIN_ROUNDS : 0)) {
        // What may not be mended is no reason.
        if (this.#mayAll()) stopped = "mending did not change anything any more";
        return done();
      }
      this.#ladder?.nextRound();
      last = state;
      fewest = Math.min(fewest, left);
      try {
        if (!this.#round(result, findings)) return done();
      } catch (e) {
        if (!(e instanceof FsError) || e instanceof TempFileError || e instanceof ChangedError) {
          throw e;
        }
        if (e.errno !== ENOSPC) {
          stopped = e.message;
          failed = !isDamage(e);
          return done();
        }
        const blocks = growMeta(this.meta);
        if (blocks === 0) {
          stopped = FULL;
          return done();
        }
        this.options.log?.(
          `no metadata block was free: the volume was given ${blocks} more of its device`,
        );
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

  /** Whether everything that can be mended may be. */
  #mayAll(): boolean {
    return this.options.mode === "all" && ![...this.#answers.values()].includes(false);
  }

  /** The rung on which a problem is to be mended. */
  #rung(code: ProblemCode, values: Values): number {
    const rung = this.#ladder?.climb(code, values) ?? 0;
    if (rung > 0) this.#lossy = true;
    return rung;
  }

  /** Names of trees, merges and search files that are mended in every round, and were in vain. */
  #stubborn(allowed: readonly Problem[]): Set<string> {
    const names = new Set<string>();
    for (const { code, values } of allowed) {
      const what = namedBy(code, values);
      if (!MENDED_WITH_A_TREE.test(code)) continue;
      if (isAllocator(what) || isBloom(what)) continue;
      // Once and again; what cannot be read then is another's business.
      if (this.#rung(code, values) === 1) names.add(logTreeOf(what));
    }
    return names;
  }

  #mayRecover(): boolean {
    let answer = this.#answers.get("not-clean");
    if (answer === undefined) {
      answer = this.options.ask?.("not-clean", 1) ?? true;
      this.#answers.set("not-clean", answer);
    }
    return answer;
  }

  /** Mends what one round can; false if that is nothing. */
  #round(result: CheckResult, findings: Findings): boolean {
    const { cx, items, report } = result;
    assert(cx !== null && items !== null, "a round needs a checked volume");
    if (cx.undersized) return false;
    this.#notes = [];
    const preening = this.options.mode === "safe";
    if (preening && needsMoreThanPreening(report.counts)) return false;
    // Their trees are written anew from the items that can be read: the others would be gone.
    const losing = ({ code, values }: Problem) =>
      PROBLEMS[code].mending === "lossy" && isServerTree(String(values["what"])) &&
      !this.#may(code, report.counts.get(code) ?? 1);
    if (findings.problems.some(losing)) return false;
    // Nothing can be mended before what crashed mounts left has been taken back.
    if (needsRecovery(result) && !this.#mayRecover()) return false;
    const allowed = findings.problems.filter((p) =>
      this.#may(p.code, report.counts.get(p.code) ?? 1)
    );
    const itemTreesBad = cx.badBlocks.some((b) => isItemTree(b.tree));
    const lostParent = cx.badBlocks.some((b) => b.lost && b.level > 0 && !isAllocator(b.tree));
    // What is not to be mended now may be mended later, so nobody else gets its block.
    const lostLeaf = cx.badBlocks.some((b) =>
      b.lost && isItemTree(b.tree) && !this.#mayMend(b, findings)
    );
    const rootLost = findings.problems.some((p) =>
      p.code === "root-height" && isItemTree(String(p.values["what"]))
    );
    // A repair that was cut short had begun with a tree to the right of which there must be more.
    this.#fsRootLost ||= !this.#freeIsKnown(cx, findings) &&
      allowed.some((p) =>
        p.code === "btree-parent" && p.values["what"] === FS_ROOT &&
        p.values["blkno"] === refBlkno(cx.sb.fsRoot.ref)
      );
    const loose = this.#searchLost(cx, items, findings, allowed);
    // Of these nothing shows that they are what was there last.
    const doubtful = loose.remains === true ||
      loose.lostLogTree !== true && loose.leaves.some((leaf) => leaf.live);
    if (preening && doubtful) return false;
    if (loose.remains === true && !loose.leaves.some((leaf) => leaf.live)) {
      this.#notes.push(
        "leaves that may have been a lost log tree's, but not all of it, were freed",
      );
    }
    // What may be all that is left of something is not written before it has been brought back.
    const live = loose.leaves.some((leaf) => leaf.live) || loose.alone.length > 0 ||
      this.#fsRootLost;
    using round = new Round(cx, items, {
      random: this.options.random,
      complete: !findings.incomplete && !lostParent && !lostLeaf && !rootLost && !live,
      conflicts: findings.conflicts,
      spared: loose.leaves.filter((leaf) => !leaf.live).sort((a, b) => b.newest - a.newest)
        .map(({ blkno }) => blkno),
    });
    const log = (line: string) => this.options.log?.(line);
    const { fsid } = cx.sb.hdr;
    if (resetSlots(this.meta, fsid, quorumSlots(allowed), this.#deadSlots, log)) {
      round.changed = true;
    }
    const servers = new ServerTrees(round), recovered = servers.recover();
    if (recovered) this.#notes.push("what crashed mounts had left behind was taken back");
    const mender: Structure = {
      round,
      servers,
      findings,
      allowed,
      mayMend: (bad) => this.#mayMend(bad, findings),
      stubborn: this.#stubborn(allowed),
      log: (line) => void this.#notes.push(line),
    };
    mendServerTrees(mender);
    const holes = this.#wholeHoles(cx, findings, allowed);
    if (loose.lostLogTree === true) holes.push(wholeHole(LEAKED));
    const structure = mendItemTrees(mender, holes, loose.leaves);
    const { found, more } = this.#salvage(round, servers, holes, loose, findings);
    const ofFsRoot = holes.some((h) => h.tree === FS_ROOT && h.level > 0);
    const freeKnown = this.#freeIsKnown(cx, findings);
    const seekAgain = ofFsRoot && more;
    const readable = !itemTreesBad && !rootLost && !findings.incomplete &&
      findings.serverTrees.size === 0;
    if (allowed.some((p) => p.code === "inode-next-ino")) round.raiseNextIno(findings.greatestIno);
    if (preening && !found && mayHaveLostFiles(cx)) return false;
    if (!structure && !found && readable) {
      if (!this.#mendItems(round, servers, findings, report, allowed)) return false;
    }
    if (allowed.some(isSpaceProblem)) round.changed = true;
    const slots = allowed.filter((p) => p.code === "super-slot");
    mendSlots(round.sb, this.data, [...new Set(slots.map((p) => Number(p.values["slot"])))]);
    if (report.counts.has("super-no-slots")) this.#setSlots(round);
    if (allowed.some((p) => p.code === "super-slot-version")) round.sb.qconf.version = 1;
    if (allowed.some((p) => p.code === "super-option")) round.clearOptions();
    if (allowed.some((p) => isDataSpaceProblem(p))) round.dataSpaceWrong = true;
    if (round.dataSpaceWrong && readable && !structure) {
      round.dataRuns ??= freeDataRuns(cx, items);
      round.changed = true;
    }
    if (!round.changed) return false;
    const codes = [...allowed.map((p) => p.code), ...findings.queue.codes];
    const mended = (code: ProblemCode) => this.#answers.get(code) === true;
    if (codes.some((code) => PROBLEMS[code].mending === "lossy" && mended(code))) {
      this.#lossy = true;
    }
    servers.write();
    round.commit();
    this.#recovered ||= recovered;
    for (const note of this.#notes) this.options.log?.(note);
    if (holes.some((h) => h.tree === FS_ROOT) && (freeKnown || !more)) this.#fsRootSought = true;
    if (ofFsRoot && !freeKnown) this.#freeForgotten = true;
    this.#fsRootLost = seekAgain;
    this.#mended = true;
    return true;
  }

  /** Gives a super block that has no quorum slot any more those that the administrator knows. */
  #setSlots(round: Round): void {
    const { sb } = round, { slots } = this.options;
    if (slots === undefined || sb.qconf.presentSlots().length > 0) return;
    for (const { nr, addr, port } of slots) sb.qconf.slots(nr).addr.setIpv4(addr, port);
    round.changed = true;
    this.#notes.push("the quorum slots are those that were given");
  }

  /**
   * Whether all free metadata blocks have been found. A volume without any free extents is one whose
   * free space waits to be made anew.
   */
  #freeIsKnown(cx: CheckContext, findings: Findings): boolean {
    return findings.freeKnown && !this.#freeForgotten &&
      (!cx.sb.metaAlloc(0).root.isEmpty || !cx.sb.metaAlloc(1).root.isEmpty);
  }

  /** Looks for what lost blocks of item trees held, if any are to be mended. */
  #searchLost(
    cx: CheckContext,
    items: ServerItems,
    findings: Findings,
    allowed: readonly Problem[],
  ): Loose {
    const { onProgress } = this.options;
    const onRead = (blocks: number, total: number) => {
      if (blocks % 1024 !== 0) return;
      const share = blocks / total, bytesRead = cx.source.bytesRead;
      onProgress?.({ phase: "lost blocks", share, bytesRead });
    };
    const freeKnown = this.#freeIsKnown(cx, findings);
    const leaked = !this.#mended && allowed.some((p) => p.code === "meta-leak");
    const tree = leaked && (freeKnown || this.options.mode === "safe")
      ? findLostLogTree(cx, items, this.options.random, onRead)
      : NO_LOG_TREE;
    // Among free blocks there are older versions of log trees that are known: nothing says that it is not one.
    const lost = freeKnown ? tree.leaves : [];
    const remains = tree.remains || tree.leaves.length > lost.length;
    const holes = this.#wholeHoles(cx, findings, allowed)
      .filter((h) => lost.length === 0 || h.tree !== LEAKED);
    for (const bad of cx.badBlocks) {
      if (!isItemTree(bad.tree) || !this.#mayMend(bad, findings)) continue;
      const hole = expectedHole(cx, bad);
      if (hole !== null) holes.push(hole);
    }
    const merging = items.merge.completions.length > 0, logTrees = items.logTrees.length;
    const found = holes.length === 0
      ? NOTHING_LOOSE
      : findLooseLeaves(cx, holes, freeKnown, { merging, logTrees }, onRead);
    const loose = holes.every((h) => h.tree === LEAKED) && found.leaves.some(isMerged)
      ? { ...found, leaves: this.#newsOf(cx, items, found.leaves) }
      : found;
    if (lost.length === 0) return { ...loose, remains };
    const known = new Set(lost.map(({ blkno }) => blkno));
    const leaves = [...lost, ...loose.leaves.filter(({ blkno }) => !known.has(blkno))];
    return { ...loose, leaves, lostLogTree: true };
  }

  /** Without the results of a merge of which the trees have everything. */
  #newsOf(cx: CheckContext, items: ServerItems, leaves: readonly LooseLeaf[]): LooseLeaf[] {
    const limitBytes = Math.min(cx.memory / 16, MERGE_CACHE_BYTES);
    const cache = new BlockCache(cx.meta, cx.sb.hdr.fsid, {
      random: this.options.random,
      limitBytes,
    });
    const roots = [cx.sb.fsRoot, ...items.logTrees.map(({ lt }) => lt.itemRoot)];
    return leaves.filter((leaf) => !isMerged(leaf) || isNews(cx, cache, roots, leaf));
  }

  /** Trees of which nothing is left but, perhaps, blocks that nothing leads to. */
  #wholeHoles(
    cx: CheckContext,
    findings: Findings,
    allowed: readonly Problem[],
  ): Hole[] {
    const holes: Hole[] = [];
    const whole = (tree: string) => holes.push(wholeHole(tree));
    // fs_root has at least the root inode.
    const empty = cx.sb.fsRoot.height === 0 && allowed.some((p) => p.code === "root-inode");
    if (this.#fsRootLost || empty && !this.#fsRootSought) whole(FS_ROOT);
    if (findings.logTreesLost && allowed.some((p) => p.values["what"] === "logs_root")) {
      whole(LOG_TREES);
    }
    for (const { code, values } of allowed) {
      const what = String(values["what"]);
      if (code === "root-height" && isItemTree(what)) whole(what);
    }
    if (!this.#mended && mayHaveLeaked(cx.report.counts)) whole(LEAKED);
    return holes;
  }

  /** Fills holes with what was found; whether that was anything, and whether there is more of it. */
  #salvage(
    round: Round,
    servers: ServerTrees,
    holes: readonly Hole[],
    loose: Loose,
    findings: Findings,
  ): { found: boolean; more: boolean } {
    const { leaves, staleItems, more } = salvage(round, servers, holes, loose, findings.dataLeaks);
    if (leaves > 0) this.#notes.push(`${leaves} leaves that nothing led to were found`);
    if (staleItems > 0) {
      this.#notes.push(
        `${staleItems} items were taken from older copies of lost blocks: they may be out of date`,
      );
    }
    return { found: leaves + staleItems > 0, more };
  }

  #mayMend(bad: BadBlock, findings: Findings): boolean {
    return findings.codesOf(bad.ref.blkno).every((code) => this.#may(code, 1));
  }

  /** False, with nothing written, if some of it loses something and nothing may be lost. */
  #mendItems(
    round: Round,
    servers: ServerTrees,
    findings: Findings,
    report: Report,
    allowed: readonly Problem[],
  ): boolean {
    const lossy = this.options.mode === "all";
    const patch = new ItemPatch(round);
    if (allowed.some(contradictsMerge)) {
      servers.abandonMerge();
      patch.settleTotals();
      this.#notes.push("a log merge was given up: the next one begins anew");
    }
    using entries = new Entries(
      patch,
      this.options.now,
      lossy,
      (line) => void this.#notes.push(line),
      { memory: round.cx.memory / 16, tempDir: round.cx.tempDir },
    );
    const scope = new FixScope(round, patch, entries, lossy);
    const fixers = new Fixers(scope, servers);
    const shared = new SharedExtents(round, patch);
    let mended = false, refused = false;
    findings.queue.forEach((code, values) => {
      if (patch.isFull || fixers.isFull) return false;
      if (!this.#may(code, report.counts.get(code) ?? 1)) return true;
      patch.settle();
      if (code === "data-block-twice") {
        if (shared.mend(String(values["second"]))) mended = true;
        return true;
      }
      try {
        if (findings.putOff(code, values, () => fixers.waits(code, values))) return true;
        const rung = isOfItems(code) ? this.#rung(code, values) : 0;
        if (fixers.mend(code, values, rung)) mended = true;
        else if (!lossy && isOfItems(code)) refused = true;
      } catch (e) {
        if (e instanceof TempFileError) throw e;
        // What it needs cannot be read, or no key can name it: the next round looks again.
        if (!(e instanceof FsError || e instanceof FormatError)) throw e;
        refused ||= !lossy;
      }
      return !refused;
    });
    if (refused) return false;
    fixers.finish();
    for (const note of scope.notes) this.#notes.push(note);
    for (const note of shared.notes) this.#notes.push(note);
    if (mended) round.changed = true;
    const count = allowed.find((p) => p.code === "inode-count");
    if (count !== undefined) servers.setInodeCount(Number(count.values["found"]));
    patch.write(servers);
    return true;
  }
}

const isMerged = ({ from }: LooseLeaf): boolean => from === "merge";

/** All of a tree is missing. */
const wholeHole = (tree: string): Hole => ({
  tree,
  level: BTREE_MAX_HEIGHT,
  lo: Key.ZEROS,
  hi: Key.ONES,
});
