/**
 * Pass 3: all filesystem items, in one ordered reading of fs_root and every log item tree.
 *
 * Relies on: the log trees of pass 1, bloom blocks by their references.
 * Guarantees: the blocks of these trees are claimed; every version of every item has a key and a
 * length that its tree allows and is found by readers (bloom bits, sequences); what is visible has
 * been checked inode by inode; the fact book holds what the inodes and their indexes say of each
 * other; all data extents of files are in the space sorter.
 *
 * The reading is done in units (item_job.ts), by this thread and by those of the crew; what comes of
 * them is taken in the order of their keys. A unit is done for itself, as if no other one claimed
 * blocks; where it turns out that one did, it is done again with what the units before really left.
 */

import { BloomBlock } from "../../format/bloom.ts";
import { FOREST_BLOOM_BITS, MAGIC_BLOOM, ROOT_INO } from "../../format/constants.ts";
import { type CheckContext, follow, toRef } from "./context.ts";
import { Alone } from "./crew.ts";
import type { FactBook } from "./facts.ts";
import {
  type ItemJob,
  type JobTree,
  KEPT_WORDS,
  keyWords,
  unitBounds,
  type UnitResult,
} from "./item_job.ts";
import { checkMergeRoots } from "./merge_check.ts";
import { bloomOf, FS_ROOT, itemsOf } from "./names.ts";
import { NOBODY } from "./owners.ts";
import { ParentMap } from "./parents.ts";
import { Overflows } from "./overflows.ts";
import { greatestSeq, type LogTree, type ServerItems, unmergedRanges } from "./pass_roots.ts";
import { fieldU64, rawU64, refBlkno } from "./raw.ts";
import type { SpaceMap } from "./space.ts";
import type { Parent } from "./tree_walk.ts";
import { UnitRunner } from "./unit_runner.ts";

/** Leaves that all trees together read at a time, and the least a tree does. */
const READ_TOGETHER = 32;
const MIN_WINDOW = 4;

/** Fewer units are not worth another thread. */
const WORTH_HELP = 4;

/** Units that may be done before the next one in order is. */
const MAX_AHEAD = 8;

export interface ItemTotals {
  inodes: number;
  directories: number;
  items: number;
}

/** Checks all items; without `space` it only collects facts of the classes `collect`. */
export function checkItems(
  cx: CheckContext,
  items: ServerItems,
  facts: FactBook,
  space: SpaceMap | null,
  collect: readonly number[] | null = null,
): ItemTotals {
  const job = makeJob(cx, items, collect);
  const pass = new ItemPass(cx, job, facts, space);
  pass.run();
  checkMergeRoots(cx, items, pass.lastParents);
  pass.parents.check(
    ROOT_INO,
    (ino, parent) => cx.report.add("dir-parent-missing", { ino, parent }),
    (ino) => cx.report.add("dir-cycle", { ino }),
  );
  if (!pass.rootSeen) cx.report.add("root-inode", { why: "it is missing" });
  return pass.totals;
}

function makeJob(
  cx: CheckContext,
  items: ServerItems,
  collect: readonly number[] | null,
): ItemJob {
  const maxSeq = greatestSeq(cx, items);
  const mergeSeq = items.merge.status?.seq ?? 0;
  const trees: JobTree[] = [{
    what: FS_ROOT,
    owner: cx.fsRootOwner,
    root: cx.sb.fsRoot.bytes.slice().buffer,
    cls: "fs",
    log: false,
    maxSeq,
    bloom: null,
  }];
  for (const tree of items.logTrees) {
    const { lt } = tree, what = itemsOf(tree.what);
    const bloom = checkBloom(cx, tree);
    const input = lt.isFinalized && (mergeSeq === 0 || lt.finalizeSeq < mergeSeq);
    trees.push({
      what,
      owner: cx.owners.define(what, false),
      root: lt.itemRoot.bytes.slice().buffer,
      cls: input ? "input" : "log",
      log: true,
      maxSeq: Math.min(lt.maxItemSeq, maxSeq),
      bloom,
    });
  }
  return {
    superBlock: cx.sb.bytes.slice().buffer,
    metaBlocks: cx.metaBlocks,
    dataBlocks: cx.dataBlocks,
    owners: cx.owners.copy(),
    trees,
    window: Math.max(MIN_WINDOW, Math.floor(READ_TOGETHER / trees.length)),
    maxSeq,
    nextIno: fieldU64(cx.sb, 80),
    unmerged: items.merge.status === null ? null : unmergedRanges(items.merge).map(
      ({ start, end }) => ({ start: keyWords(start), end: keyWords(end) }),
    ),
    keptWords: cx.unitWords ?? KEPT_WORDS,
    wantsParents: items.merge.requests.length + items.merge.completions.length > 0,
    collect,
    bounds: unitBounds(cx.source, trees, cx.unitLeaves).map(keyWords),
  };
}

/** Claims and checks the bloom block of a log tree; null when there is none to test with. */
function checkBloom(cx: CheckContext, { lt, what }: LogTree): number | null {
  if (lt.bloomRef.isNull) return null;
  const b = cx.source.acquire();
  const owner = cx.owners.define(bloomOf(what), false);
  const good = follow(cx, toRef(lt.bloomRef), MAGIC_BLOOM, owner, b);
  if (good) {
    let set = 0;
    const from = BloomBlock.SIZE >> 2;
    for (let w of b.u32.subarray(from, from + FOREST_BLOOM_BITS / 32)) {
      for (; w !== 0; w &= w - 1) set++;
    }
    const total = rawU64(b.v, 32);
    if (total !== set) cx.report.add("bloom-count", { what, value: total, found: set });
  }
  cx.source.release(b);
  return good ? refBlkno(lt.bloomRef) : null;
}

class ItemPass {
  readonly parents: ParentMap;
  readonly lastParents: Parent[] = [];
  readonly totals: ItemTotals = { inodes: 0, directories: 0, items: 0 };
  rootSeen = false;
  /** Blocks of the units so far that later ones can use. */
  readonly #lent = new Set<string>();
  readonly #runner: UnitRunner;
  readonly #overflows: Overflows;

  constructor(
    private readonly cx: CheckContext,
    private readonly job: ItemJob,
    private readonly facts: FactBook,
    private readonly space: SpaceMap | null,
  ) {
    this.#overflows = new Overflows(cx.tempDir);
    this.#runner = new UnitRunner(cx.source, job, (o) => this.#overflows.keep(o));
    this.parents = new ParentMap(cx.memory / 8, cx.tempDir);
  }

  run(): void {
    const units = this.#runner.units, { crew } = this.cx;
    const turns = crew === null || units < WORTH_HELP
      ? new Alone(units)
      : crew.begin(this.job, units, MAX_AHEAD, (o) => this.#overflows.keep(o));
    const done = new Map<number, UnitResult>();
    try {
      for (let merged = 0; merged < units;) {
        for (const result of turns.results()) {
          this.cx.source.count(result.bytesRead);
          done.set(result.unit, result);
        }
        const ready = done.get(merged);
        if (ready !== undefined) {
          done.delete(merged);
          this.#take(ready);
          turns.merged(++merged);
          continue;
        }
        const unit = turns.take();
        if (unit === null) turns.wait();
        else done.set(unit, this.#runner.run(unit, null));
      }
    } finally {
      turns.end();
      this.#overflows[Symbol.dispose]();
    }
    this.#runner.end();
  }

  #take(result: UnitResult): void {
    if (this.#contradicts(result)) {
      this.#overflows.drop(result.unit);
      const truth = { owners: this.cx.owners, lent: this.#lent };
      this.#add(this.#runner.run(result.unit, truth));
    } else this.#add(result);
  }

  /** The unit claimed or used something that the units before have or did not leave. */
  #contradicts(r: UnitResult): boolean {
    for (let i = 0; i < r.claims.length; i += 2) {
      if (this.cx.owners.of(r.claims[i] as number) !== NOBODY) return true;
    }
    return r.borrowed.some((block) => !this.#lent.has(block));
  }

  #add(r: UnitResult): void {
    const { cx, totals } = this;
    for (const { code, values } of r.problems) cx.report.add(code, values);
    for (let i = 0; i < r.claims.length; i += 2) {
      cx.owners.claim(r.claims[i] as number, r.claims[i + 1] as number);
    }
    for (const block of r.lending) this.#lent.add(block);
    for (const bad of r.badBlocks) cx.badBlocks.push(bad);
    for (const parent of r.lastParents) this.lastParents.push(parent);
    this.#overflows.take(r.unit, (what, records) => {
      if (what === "facts") this.facts.addCollected(records);
      else this.space?.addFiles(records, 0);
    });
    this.facts.addAll(r.facts);
    this.space?.addFiles(r.extents, r.extentBlocks);
    this.parents.append(r.directoryPairs);
    totals.inodes += r.inodes;
    totals.directories += r.directories;
    totals.items += r.items;
    this.rootSeen ||= r.rootSeen;
  }
}
