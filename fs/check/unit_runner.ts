/**
 * Does one unit of an `ItemJob` at a time: reads its part of all trees, checks every version and
 * every visible item in it, and says what came of it. Nothing outside is changed; blocks are claimed
 * on a copy of the map of owners, and taken back after each unit.
 *
 * Relies on: the trees' roots and bloom blocks being what the passes before have found.
 * Guarantees: the result depends on the job and the unit only, unless `truth` is given. A unit may be
 * one inode with any number of items: records beyond `keptWords` go to `overflow` meanwhile.
 */

import { compareKeyAt, Key } from "../../format/key.ts";
import { KEY } from "../../format/btree_block.ts";
import { BtreeRoot } from "../../format/btree.ts";
import { SuperBlock } from "../../format/super.ts";
import type { BadBlock, WalkContext } from "./context.ts";
import { FactBook } from "./facts.ts";
import { InodeCheck } from "./inode_check.ts";
import {
  type ItemJob,
  keyOfWords,
  type Overflow,
  type UnitProblem,
  type UnitResult,
} from "./item_job.ts";
import { VersionCheck } from "./item_versions.ts";
import { BlockOwners } from "./owners.ts";
import { Directories } from "./parents.ts";
import { fieldU64 } from "./raw.ts";
import { Reporter } from "./report.ts";
import type { MetaSource, RawBlock } from "./source.ts";
import { FileExtents } from "./space.ts";
import { streamItems, type StreamTree } from "./stream.ts";
import { type Leaf, type Parent, TreeWalk, type WalkRange } from "./tree_walk.ts";
import { VisibleItems } from "./visible_items.ts";

/**
 * What the units before have really left, for one that must be done again. Its claims stay in
 * `owners`, and are not told in the result.
 */
export interface Truth {
  readonly owners: BlockOwners;
  readonly lent: ReadonlySet<string>;
}

export class UnitRunner {
  readonly #job: ItemJob;
  readonly #source: MetaSource;
  readonly #owners: BlockOwners;
  readonly #bounds: readonly Key[];
  readonly #unmerged: readonly { start: Key; end: Key }[] | null;
  readonly #blooms: (RawBlock | null)[];
  readonly #facts = new FactBook();
  readonly #extents: FileExtents;
  readonly #directories = new Directories();
  readonly #fmtVers: number;
  #unit = -1;

  /** Without `overflow` everything is kept. */
  constructor(
    source: MetaSource,
    job: ItemJob,
    overflow: ((o: Overflow) => void) | null = null,
  ) {
    const over = (what: Overflow["what"]) =>
      overflow && ((records: ArrayBuffer) => overflow({ unit: this.#unit, what, records }));
    this.#extents = new FileExtents(job.keptWords, over("extents"));
    this.#job = job;
    this.#source = source;
    this.#owners = BlockOwners.from(job.owners);
    this.#bounds = job.bounds.map(keyOfWords);
    this.#unmerged = job.unmerged?.map(({ start, end }) => ({
      start: keyOfWords(start),
      end: keyOfWords(end),
    })) ?? null;
    this.#fmtVers = fieldU64(SuperBlock.at(new Uint8Array(job.superBlock)), 40);
    if (job.collect !== null) {
      this.#facts.gather(job.collect, job.keptWords, over("facts"));
    }
    this.#blooms = job.trees.map(({ bloom }) => {
      if (bloom === null) return null;
      const b = source.acquire();
      return source.readRaw(b, bloom) ? b : null;
    });
  }

  get units(): number {
    return this.#bounds.length + 1;
  }

  /** Gives the buffers back. */
  end(): void {
    for (const b of this.#blooms) if (b !== null) this.#source.release(b);
  }

  run(unit: number, truth: Truth | null): UnitResult {
    const job = this.#job;
    this.#unit = unit;
    const from = unit === 0 ? Key.ZEROS : this.#bounds[unit - 1] as Key;
    const to = this.#bounds[unit] ?? null;
    const problems: UnitProblem[] = [], badBlocks: BadBlock[] = [], lastParents: Parent[] = [];
    const report = new Reporter(({ code, values }) => void problems.push({ code, values }), 0);
    report.muted = job.collect !== null;
    const owners = truth?.owners ?? this.#owners, journal: number[] = [];
    owners.journal = journal;
    const cx: WalkContext = {
      source: this.#source,
      report,
      owners,
      fmtVers: this.#fmtVers,
      metaBlocks: job.metaBlocks,
      dataBlocks: job.dataBlocks,
      badBlocks,
    };
    const range = {
      from,
      to,
      lent: truth?.lent ?? null,
      borrowed: [],
      lending: [],
    } satisfies WalkRange;
    const { bytesRead } = this.#source;
    const inodes = new InodeCheck(
      cx,
      this.#facts,
      job.collect === null ? this.#extents : null,
      this.#directories,
      job.nextIno,
      job.maxSeq,
    );
    const sink = new VisibleItems(cx, this.#facts, inodes);
    const onParent = (p: Parent) => void (p.level === 1 && lastParents.push(p));
    const trees = job.trees.map((tree, i): StreamTree => {
      const { what, owner, log, maxSeq, cls } = tree;
      const versions = new VersionCheck(cx, what, log, maxSeq, this.#blooms[i] ?? null);
      const root = BtreeRoot.at(new Uint8Array(tree.root));
      const spec = { what, owner, log, window: job.window, range };
      const wantsParents = job.wantsParents && cls === "fs";
      return {
        walk: new TreeWalk(cx, root, wantsParents ? { ...spec, onParent } : spec),
        cls,
        onLeaf: (leaf) => {
          versions.leaf(leaf);
          cut(leaf, from, to);
        },
      };
    });
    streamItems(trees, sink, this.#merged());
    sink.finish();
    owners.journal = null;
    const claims = truth === null ? [...journal] : [];
    if (truth === null) owners.undo(journal);
    const extentBlocks = this.#extents.used;
    this.#extents.used = 0;
    return {
      unit,
      problems,
      claims,
      borrowed: range.borrowed,
      lending: range.lending,
      badBlocks,
      lastParents,
      facts: this.#facts.take(),
      extents: this.#extents.take(),
      extentBlocks,
      directoryPairs: this.#directories.take(),
      inodes: inodes.inodes,
      directories: inodes.directories,
      items: sink.items,
      rootSeen: sink.rootSeen,
      bytesRead: this.#source.bytesRead - bytesRead,
    };
  }

  /** Which keys a running merge is done with; null when there is none. */
  #merged(): ((v: DataView, key: number) => boolean) | null {
    const ranges = this.#unmerged;
    if (ranges === null) return null;
    return (v, at) => {
      const key = Key.read(v, at);
      return !ranges.some((r) => key.compare(r.start) >= 0 && key.compare(r.end) <= 0);
    };
  }
}

/** Drops the items of a leaf that belong to other units. */
function cut(leaf: Leaf, from: Key, to: Key | null): void {
  const { v } = leaf.b, { order } = leaf;
  let first = 0, end = leaf.nr;
  while (first < end && compareKeyAt(v, (order[first] as number) + KEY, from) < 0) first++;
  while (to !== null && end > first && compareKeyAt(v, (order[end - 1] as number) + KEY, to) >= 0) {
    end--;
  }
  if (first > 0) order.copyWithin(0, first, end);
  leaf.nr = end - first;
}
