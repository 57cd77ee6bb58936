/**
 * The metadata blocks that a repair may write (03 R2, 01 §5.4): only those that the check has proven
 * free, and what the repair itself has taken out of use only once the next super block is durable.
 *
 * Invariants: a block that anything reachable from the stable super block refers to is never given
 * out; neither is one about which two claims contradict each other. Blocks are taken from the front
 * of the runs, so what is left needs no map of its own.
 */

import { META_DEV_START_BLKNO } from "../../../format/constants.ts";
import type { MetaAllocator } from "../../block_cache.ts";
import { noSpace } from "../../errors.ts";
import { type BlockOwners, KIND_FREE, KIND_NOBODY, NOBODY } from "../owners.ts";
import type { Runs, RunVisitor } from "./run_list.ts";

export interface Run {
  readonly start: number;
  readonly len: number;
}

export interface FreeBlocksOptions {
  /**
   * Every reference of the volume could be followed, so that blocks nobody claims are free. Else
   * they may belong to something that could not be read, and stay as they are.
   */
  readonly complete: boolean;
  /** Blocks with contradicting claims: free afterwards if they are, but not written now. */
  readonly conflicts: ReadonlySet<number>;
  /** Free blocks that belong to a list which stays. */
  readonly kept: ReadonlySet<number>;
  /** Blocks that nobody claims but that are free all the same, ascending. */
  readonly blank: readonly number[];
  /** Free blocks with copies that are not written now, as far as others are free. */
  readonly spared: readonly number[];
}

/** Of the free blocks at most this share is spared. */
const SPARED_SHARE = 1 / 4;

/** Those of `blknos` that leave most of the free blocks to write to. */
function mostOf(owners: BlockOwners, blknos: readonly number[], complete: boolean): Set<number> {
  let free = 0;
  owners.forEachRun(META_DEV_START_BLKNO, (_, len, kind) => {
    if (kind === KIND_FREE || complete && kind === KIND_NOBODY) free += len;
  });
  return new Set(blknos.slice(0, Math.floor(free * SPARED_SHARE)));
}

export class FreeBlocks implements MetaAllocator {
  #starts: number[] = [];
  #lens: number[] = [];
  /** Where the next block comes from. */
  #run = 0;
  #used = 0;
  /** Blocks that are free when the repair is durable, and are not written before. */
  readonly #later = new Set<number>();
  readonly #isUsed: (blkno: number) => boolean;
  /** Blocks left to give out. */
  available = 0;

  constructor(owners: BlockOwners, options: FreeBlocksOptions) {
    const { complete, kept } = options;
    const spared = mostOf(owners, options.spared, complete);
    const conflicts = options.conflicts.union(spared);
    const free = (o: number) => owners.isFree(o) || complete && o === NOBODY;
    const add = (start: number, len: number) => {
      if (len === 0) return;
      this.#starts.push(start);
      this.#lens.push(len);
      this.available += len;
    };
    const holes = [...conflicts, ...kept].filter((b) => free(owners.of(b))).sort((a, b) => a - b);
    let hole = 0, nextBlank = 0;
    const { blank } = options;
    owners.forEachRun(META_DEV_START_BLKNO, (start, len, kind) => {
      while (nextBlank < blank.length && (blank[nextBlank] as number) < start + len) {
        add(blank[nextBlank++] as number, 1);
      }
      if (kind !== KIND_FREE && !(complete && kind === KIND_NOBODY)) return;
      let from = start;
      const end = start + len;
      while (hole < holes.length && (holes[hole] as number) < end) {
        const blkno = holes[hole++] as number;
        if (blkno < from) continue;
        add(from, blkno - from);
        from = blkno + 1;
        if (!kept.has(blkno)) this.#later.add(blkno);
      }
      add(from, end - from);
    });
    this.#isUsed = (blkno) => {
      const owner = owners.of(blkno);
      return owner !== NOBODY && !owners.isFree(owner) && !conflicts.has(blkno) &&
        !kept.has(blkno);
    };
  }

  allocMeta(): number {
    const start = this.#starts[this.#run];
    if (start === undefined) throw noSpace();
    const blkno = start + this.#used;
    this.available--;
    if (++this.#used === this.#lens[this.#run]) {
      this.#run++;
      this.#used = 0;
    }
    return blkno;
  }

  /**
   * A block that the repaired volume does not refer to. One whose use has not been proven is left
   * alone: the next check sees whether it is free.
   */
  freeMeta(blkno: number): void {
    if (this.#isUsed(blkno) || this.#isTaken(blkno)) this.#later.add(blkno);
  }

  /** Given out by this repair. */
  #isTaken(blkno: number): boolean {
    for (let i = 0; i <= this.#run && i < this.#starts.length; i++) {
      const start = this.#starts[i] as number;
      const len = i < this.#run ? this.#lens[i] as number : this.#used;
      if (blkno >= start && blkno < start + len) return true;
    }
    return false;
  }

  /** How many runs `remaining` has, at most. */
  get runs(): number {
    return this.#starts.length - this.#run + this.#later.size;
  }

  /** All blocks that are free once the repair is durable, as maximal runs: what is left now. */
  remaining(): Runs {
    const later = Float64Array.from(this.#later).sort();
    return { forEach: (visit) => this.#forEachLeft(later, visit) };
  }

  #forEachLeft(later: Float64Array, visit: RunVisitor): void {
    let from = 0, end = 0;
    const add = (start: number, len: number) => {
      if (start !== end) {
        if (end > from) visit(from, end - from);
        from = start;
      }
      end = start + len;
    };
    let l = 0;
    for (let i = this.#run; i < this.#starts.length; i++) {
      const skip = i === this.#run ? this.#used : 0;
      const start = (this.#starts[i] as number) + skip;
      while (l < later.length && (later[l] as number) < start) add(later[l++] as number, 1);
      add(start, (this.#lens[i] as number) - skip);
    }
    while (l < later.length) add(later[l++] as number, 1);
    if (end > from) visit(from, end - from);
  }
}

/** Blocks set aside for writing the allocators themselves; what is not used goes into a list. */
export class BlockPool implements MetaAllocator {
  readonly left: number[] = [];

  constructor(from: FreeBlocks, count: number) {
    for (let i = 0; i < count; i++) this.left.push(from.allocMeta());
  }

  allocMeta(): number {
    const blkno = this.left.pop();
    if (blkno === undefined) throw noSpace();
    return blkno;
  }

  /** Only blocks of the pool come back: everything built from it is new. */
  freeMeta(blkno: number): void {
    this.left.push(blkno);
  }
}
