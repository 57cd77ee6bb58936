/**
 * What a check found, in the form in which repair needs it: problems that may be mended, what is
 * known to be incomplete, which blocks have contradicting claims.
 *
 * Memory is bounded: problems of items wait in a file; of more others than a round can mend the rest
 * is left to the next round, whose check reports them again.
 */

import { isSearch, isServerTree, listsFreeMetadata, type ServerTree } from "../names.ts";
import { type ProblemCode, PROBLEMS, type Values } from "../problems.ts";
import type { Problem } from "../report.ts";
import type { Run } from "./free_blocks.ts";
import { ProblemQueue } from "./problem_queue.ts";

/** Problems that are kept for mending in one round, whatever memory there is. */
const MOST = 300_000;
const LEAST = 1000;
/** What one takes, with what mending it keeps in memory. */
const PROBLEM_BYTES = 2048;
/** What a leaked run of data blocks, and a block about which claims conflict, takes. */
const LEAK_BYTES = 128;
const CONFLICT_BYTES = 64;

const CONFLICTS: ReadonlySet<ProblemCode> = new Set<ProblemCode>([
  "meta-block-twice",
  "meta-free-in-use",
  "meta-free-twice",
]);

/** Reads of structures behind which there are blocks that nothing else leads to. */
const HIDING: ReadonlySet<ProblemCode> = new Set<ProblemCode>([
  "block-read",
  "block-crc",
  "block-magic",
  "block-fsid",
  "block-seq",
  "block-blkno",
  "ref-range",
  "root-height",
  "item-length",
  "item-number",
  "item-zone",
  "btree-header",
  "btree-items",
  "btree-value",
  "btree-key",
  "btree-parent",
]);

/** The rank of problems that have been put off, and what they have among their values. */
const LATE = "late";

/** Inodes come before the entries that lead to them; what is not named comes last, as it was found. */
const ITEM_ORDER: ReadonlyMap<ProblemCode | typeof LATE, number> = new Map(
  ([
    "root-inode",
    "inode-missing",
    "inode-length",
    "inode-field",
    // Of what an inode is decides what its entries say.
    "extents-in-other",
    "entries-in-file",
    "symlink",
    "entry-value",
    "entry-twins-differ",
    "entry-without-twin",
    "twin-without-entry",
    LATE,
    "entry-type",
    "dir-name-twice",
    "dir-parent-missing",
    "dir-cycle",
    "dir-parents",
  ] as (ProblemCode | typeof LATE)[]).map((code, i) => [code, i]),
);

/** Problems that only mending items looks at. There may be as many as there are items. */
const ONLY_ITEMS: ReadonlySet<ProblemCode> = new Set<ProblemCode>([
  "item-stale",
  "srch-missing",
  "srch-extra",
  "inode-length",
  "inode-missing",
  "inode-field",
  "inode-size",
  "inode-nlink",
  "inode-blocks",
  "extents-missing",
  "orphan-missing",
  "orphan-extra",
  "index-missing",
  "index-extra",
  "entry-value",
  "entry-type",
  "entry-without-twin",
  "twin-without-entry",
  "entry-twins-differ",
  "dir-pos-twice",
  "dir-name-twice",
  "dir-next-pos",
  "dir-parents",
  "dir-parent-missing",
  "dir-cycle",
  "entries-in-file",
  "symlink",
  "extent-item",
  "extent-file-overlap",
  "extent-outside",
  "extents-in-other",
  "xattr",
  "xattr-name-twice",
  "xattr-id-twice",
  "xattr-next-id",
  "xattr-headless",
  "totl",
  "indx-missing",
  "indx-extra",
]);

export class Findings {
  /** What may be mended, but for problems that only mending items looks at. */
  readonly problems: Problem[] = [];
  /** Everything that may be mended, in the order in which items are. */
  readonly queue: ProblemQueue;
  readonly conflicts = new Set<number>();
  /** Server trees with damage of their own. */
  readonly serverTrees = new Set<ServerTree>();
  /** Some blocks in use may not have been found. */
  incomplete = false;
  /** Every free metadata block has been found. */
  freeKnown = true;
  /** Log trees may be missing: items of logs_root are. */
  logTreesLost = false;
  /** Data blocks that are neither free nor a file's. */
  readonly dataLeaks: Run[] = [];
  /** Greatest number of an inode that next_ino would give again, 0 if there is none. */
  greatestIno = 0;
  /** What is wrong with each bad block. */
  readonly #blocks = new Map<number, Set<ProblemCode>>();
  readonly #limit: number;

  /** `memory`: bytes that a repair may use; a quarter of it is for this. */
  constructor(private readonly memory: number, tempDir: string | undefined) {
    this.queue = new ProblemQueue(ITEM_ORDER.size + 1, tempDir);
    this.#limit = Math.max(LEAST, Math.min(MOST, Math.floor(memory / 8 / PROBLEM_BYTES)));
  }

  add(problem: Problem): void {
    const { code, values } = problem;
    const what = String(values["what"] ?? "");
    if (CONFLICTS.has(code)) {
      if (this.conflicts.size < this.memory / 16 / CONFLICT_BYTES) {
        this.conflicts.add(Number(values["blkno"]));
      }
    }
    if (code === "inode-next-ino") {
      this.greatestIno = Math.max(this.greatestIno, Number(values["ino"]));
    }
    if (isServerTree(what) && code !== "merge") {
      this.serverTrees.add(what);
      if (HIDING.has(code)) {
        this.incomplete = true;
        if (what !== "mounted_clients") this.freeKnown = false;
        if (what === "logs_root") this.logTreesLost = true;
      }
    }
    if ((HIDING.has(code) || /^(list|extent)-/.test(code)) && listsFreeMetadata(what)) {
      this.freeKnown = false;
    }
    if (code === "data-leak" && this.dataLeaks.length < this.memory / 16 / LEAK_BYTES) {
      this.dataLeaks.push({ start: Number(values["start"]), len: Number(values["len"]) });
    }
    if (isSearch(what) && HIDING.has(code) || code === "srch-file") this.incomplete = true;
    if (code.startsWith("block-") || code.startsWith("btree-")) {
      const blkno = Number(values["blkno"]);
      const codes = this.#blocks.get(blkno);
      if (codes === undefined) this.#blocks.set(blkno, new Set([code]));
      else codes.add(code);
    }
    // What nothing mends must not take the place of what something does.
    if (PROBLEMS[code].mending === "none") return;
    this.queue.push(ITEM_ORDER.get(code) ?? ITEM_ORDER.size, code, values);
    if (ONLY_ITEMS.has(code)) return;
    if (this.problems.length < this.#limit) this.problems.push(problem);
  }

  /** Puts a problem off, once, until all others of entries have been mended, if it `waits` for them. */
  putOff(code: ProblemCode, values: Values, waits: () => boolean): boolean {
    if (values[LATE] !== undefined || !waits()) return false;
    this.queue.push(ITEM_ORDER.get(LATE) as number, code, { ...values, [LATE]: 1 });
    return true;
  }

  [Symbol.dispose](): void {
    this.queue[Symbol.dispose]();
  }

  /** What is wrong with a bad block; one without damage of its own is somebody else's as well. */
  codesOf(blkno: number): readonly ProblemCode[] {
    return [...this.#blocks.get(blkno) ?? ["meta-block-twice" as const]];
  }
}
