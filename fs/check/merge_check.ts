/**
 * What a log merge that is under way says about fs_root and its inputs (03 §17, §26.2): where its
 * requests began, which parts of fs_root its completions replace, and how far it has handed out work.
 *
 * Relies on: fs_root and the input trees have been walked, so that their blocks have their owner.
 * Guarantees: a completion that is not part of fs_root yet frees exactly what it replaces, fits in its
 * place, and has only items that fs_root may have; requests, completions and their remainders begin at
 * an item of an input; no part of fs_root that is being merged will be handed out once more; what
 * completions and trees that are being freed still have is claimed.
 *
 * Whether the items of a completion are what merging makes of the inputs is not judged.
 */

import { bytesEqual } from "../../format/bytes.ts";
import { itemKey, itemVal, itemValLen } from "../../format/btree_block.ts";
import type { BtreeRoot } from "../../format/btree.ts";
import {
  ALLOC_LIST_MAX_BLOCKS,
  BTREE_MAX_HEIGHT,
  LOG_MERGE_COMP_REMAIN,
  LOG_MERGE_REQUEST_SUBTREE,
  MAGIC_ALLOC_LIST,
  MAGIC_BTREE,
  META_DEV_START_BLKNO,
} from "../../format/constants.ts";
import { Key } from "../../format/key.ts";
import type { AllocListHead } from "../../format/alloc.ts";
import type { LogMergeComplete, LogMergeStatus } from "../../format/merge.ts";
import { MAX_ITEMS } from "./block_scan.ts";
import { itemOrder } from "./btree_check.ts";
import { type CheckContext, toRef } from "./context.ts";
import { VersionCheck } from "./item_versions.ts";
import {
  greatestSeq,
  isSpliced,
  type LogTree,
  type MergeState,
  type ServerItems,
} from "./pass_roots.ts";
import { rawU64, viewOf } from "./raw.ts";
import type { RawBlock, Ref } from "./source.ts";
import { keyText } from "./text.ts";
import { type Leaf, type Parent, TreeWalk } from "./tree_walk.ts";

const REF_BYTES = 16;
const ITEM_SEQ = 40;

/** `parents`: the last-level parents of fs_root, as far as they can be read. */
export function checkMergeRoots(
  cx: CheckContext,
  items: ServerItems,
  parents: readonly Parent[],
): void {
  const { merge } = items;
  if (merge.requests.length + merge.completions.length === 0) return;
  const check = new MergeCheck(cx, items, parents);
  check.requests();
  check.completions();
}

/** Claims the blocks of completions and of trees that are being freed (03 §26.1, §26.2). */
export function checkMergeTrees(cx: CheckContext, items: ServerItems): void {
  const maxSeq = greatestSeq(cx, items);
  for (const { c, what } of items.merge.completions) {
    if (isSpliced(c)) continue;
    const owner = cx.owners.define(what, false);
    const spec = { what, owner, subtree: true, shared: cx.fsRootOwner };
    const walk = new TreeWalk(cx, c.root, spec),
      versions = new VersionCheck(cx, what, false, 0, null);
    for (let leaf = walk.next(); leaf !== null; leaf = walk.next()) {
      if (leaf.sound) checkResult(cx, leaf, versions, maxSeq, what);
    }
  }
  for (const { f, what } of items.merge.freeing) {
    if (f.key.equals(Key.ONES)) continue;
    const owner = cx.owners.define(what, false);
    const spec = { what, owner, log: true, from: f.key, leavesUnread: true };
    const walk = new TreeWalk(cx, f.root, spec);
    while (walk.next() !== null) { /* claims and verifies on the way */ }
  }
}

/** The items of a leaf that will be one of fs_root: the first one that no reader could use. */
function checkResult(
  cx: CheckContext,
  { b, order, nr }: Leaf,
  versions: VersionCheck,
  maxSeq: number,
  what: string,
): void {
  for (let i = 0; i < nr; i++) {
    const item = order[i] as number, seq = rawU64(b.v, item + ITEM_SEQ);
    const why = versions.faultOf(b, item) !== null
      ? "is none that fs_root can have"
      : seq > maxSeq
      ? `has version ${seq}, beyond ${maxSeq}`
      : null;
    if (why === null) continue;
    cx.report.add("merge", { what, why: `item ${keyText(b.v, item)} of its tree ${why}` });
    return;
  }
}

class MergeCheck {
  readonly #merge: MergeState;
  readonly #status: LogMergeStatus | null;
  readonly #inputs: readonly BtreeRoot[];
  /** Requests are for a last-level parent of fs_root, or for all of it (03 §17.3). */
  readonly #subtrees: boolean;

  constructor(
    private readonly cx: CheckContext,
    items: ServerItems,
    private readonly parents: readonly Parent[],
  ) {
    this.#merge = items.merge;
    const status = this.#status = items.merge.status;
    const isInput = ({ lt }: LogTree) =>
      status !== null && lt.isFinalized && lt.finalizeSeq < status.seq;
    this.#inputs = items.logTrees.filter(isInput).map(({ lt }) => lt.itemRoot);
    this.#subtrees = cx.sb.fsRoot.height > 2;
  }

  #bad(what: string, why: string): void {
    this.cx.report.add("merge", { what, why });
  }

  requests(): void {
    const { fsRoot } = this.cx.sb;
    for (const { r, what } of this.#merge.requests) {
      this.#begins(r.start, what, "it begins");
      const { height } = r.logsRoot;
      if (height === 0 || height > BTREE_MAX_HEIGHT) this.#bad(what, "it has no log trees");
      if (((r.flags & LOG_MERGE_REQUEST_SUBTREE) !== 0) !== this.#subtrees) {
        this.#bad(what, `flags ${r.flags} with fs_root of height ${fsRoot.height}`);
      }
      if (!this.#subtrees) {
        if (!bytesEqual(r.root.bytes, fsRoot.bytes)) this.#bad(what, "its root is not fs_root");
        continue;
      }
      const ref = toRef(r.root.ref);
      const parent = this.parents.find((p) =>
        p.ref.blkno === ref.blkno && p.ref.seqLo === ref.seqLo && p.ref.seqHi === ref.seqHi
      );
      if (parent === undefined || r.root.height !== 2) {
        this.#bad(what, "its root is no part of fs_root");
      } else if (r.start.compare(parent.lo) < 0 || r.end.compare(parent.hi) > 0) {
        this.#bad(what, "its range is not within its root");
      } else this.#handedOut(parent, what);
    }
  }

  completions(): void {
    for (const { c, what } of this.#merge.completions) {
      const remains = (c.flags & LOG_MERGE_COMP_REMAIN) !== 0;
      if (remains) this.#begins(c.remain, what, "what remains begins");
      if (isSpliced(c)) continue;
      this.#begins(c.start, what, "it begins");
      if (this.#subtrees) this.#replacesParent(c, what);
      else this.#replaces(c, toRef(this.cx.sb.fsRoot.ref), this.cx.sb.fsRoot.height, what);
    }
  }

  #replacesParent(c: LogMergeComplete, what: string): void {
    const parent = this.parents.find((p) =>
      c.start.compare(p.lo) >= 0 && c.start.compare(p.hi) <= 0
    );
    if (parent === undefined) return; // That part of fs_root cannot be read.
    if (c.root.height !== 2) this.#bad(what, `a root of height ${c.root.height}`);
    else if (c.end.compare(parent.hi) > 0) this.#bad(what, "its range is beyond what it replaces");
    else if (this.#greatestKey(c.root)?.equals(parent.hi) === false) {
      this.#bad(what, "its root does not end where what it replaces does");
    } else if ((this.#leastKey(c.root)?.compare(parent.lo) ?? 0) < 0) {
      this.#bad(what, "its root begins before what it replaces does");
    } else {
      this.#handedOut(parent, what);
      this.#replaces(c, parent.ref, 2, what);
    }
  }

  /** A parent that is being merged must not be handed out again before that is done. */
  #handedOut({ hi }: Parent, what: string): void {
    const next = this.#status?.nextRangeKey;
    if (next === undefined || next.compare(hi) > 0 || next.equals(Key.ONES)) return;
    this.#bad(what, `it would be handed out once more, as next_range_key is ${next}`);
  }

  /** Requests begin at the first item that there is to merge. */
  #begins(at: Key, what: string, where: string): void {
    if (this.#inputs.some((root) => this.#mayHave(root, at))) return;
    this.#bad(what, `${where} at ${at}, where no input has an item`);
  }

  /** Whether a tree has an item, or cannot be read there. */
  #mayHave(root: BtreeRoot, key: Key): boolean {
    if (root.height === 0 || root.height > BTREE_MAX_HEIGHT) return false;
    let ref = toRef(root.ref);
    for (let level = root.height - 1;; level--) {
      const found = this.#withItems(ref, level, (b, items) => {
        const item = items.find((i) => itemKey(b, i).compare(key) >= 0);
        if (item === undefined) return "absent";
        if (level > 0) return itemValLen(b, item) === REF_BYTES ? refOf(itemVal(b, item)) : null;
        return itemKey(b, item).equals(key) ? "present" : "absent";
      });
      if (found === null || found === "present") return true;
      if (found === "absent") return false;
      ref = found;
    }
  }

  #greatestKey(root: BtreeRoot): Key | null {
    return this.#withItems(
      toRef(root.ref),
      root.height - 1,
      (b, items) => items.length === 0 ? null : itemKey(b, items.at(-1) as number),
    );
  }

  /** The least key of the items of a tree of two levels. */
  #leastKey(root: BtreeRoot): Key | null {
    const leaf = this.#withItems(
      toRef(root.ref),
      1,
      (b, items) =>
        items.length > 0 && itemValLen(b, items[0] as number) === REF_BYTES
          ? refOf(itemVal(b, items[0] as number))
          : null,
    );
    if (leaf === null) return null;
    return this.#withItems(
      leaf,
      0,
      (b, items) => items.length === 0 ? null : itemKey(b, items[0] as number),
    );
  }

  /**
   * The blocks of the old part of fs_root, a tree of `height` from `ref` on, that the completion does
   * not share must be those of fs_root in its freed list: they are free once it is part of fs_root.
   */
  #replaces(c: LogMergeComplete, ref: Ref, height: number, what: string): void {
    const old = new Set<number>(), made = new Set<number>(), freed = new Set<number>();
    const whole = this.#collect(ref, height - 1, old) &&
      this.#collect(toRef(c.root.ref), c.root.height - 1, made) &&
      this.#listed(c.metaFreed, freed);
    if (!whole) return;
    const replaced = old.difference(made);
    const ofFsRoot = [...freed].filter((b) => this.cx.owners.of(b) === this.cx.fsRootOwner);
    if (ofFsRoot.length === replaced.size && ofFsRoot.every((b) => replaced.has(b))) return;
    this.#bad(what, "what it frees of fs_root is not what it replaces");
  }

  /** Adds the blocks of a tree; leaves are not read. False if some cannot be known. */
  #collect(ref: Ref, level: number, blocks: Set<number>): boolean {
    if (level < 0 || level >= BTREE_MAX_HEIGHT || blocks.has(ref.blkno)) return false;
    blocks.add(ref.blkno);
    if (level === 0) return true;
    const children = this.#withItems(
      ref,
      level,
      (b, items) =>
        items.every((i) => itemValLen(b, i) === REF_BYTES)
          ? items.map((i) => refOf(itemVal(b, i)))
          : null,
    );
    return children !== null && children.every((child) => this.#collect(child, level - 1, blocks));
  }

  /** Adds the entries of a list; false if it cannot be read. */
  #listed(head: AllocListHead, entries: Set<number>): boolean {
    const { source } = this.cx, b = source.acquire(), seen = new Set<number>();
    let ref = toRef(head.ref), whole = true;
    while (ref.blkno !== 0 && whole) {
      whole = this.#inDevice(ref) && !seen.has(ref.blkno) &&
        source.read(b, ref, MAGIC_ALLOC_LIST) === 0;
      if (!whole) break;
      seen.add(ref.blkno);
      const start = b.v.getUint32(48, true), nr = b.v.getUint32(52, true);
      whole = start + nr <= ALLOC_LIST_MAX_BLOCKS;
      for (let i = start; whole && i < start + nr; i++) entries.add(rawU64(b.v, 56 + 8 * i));
      ref = refOf(b.buf.subarray(32, 48));
    }
    source.release(b);
    return whole;
  }

  #inDevice = ({ blkno }: Ref): boolean =>
    blkno >= META_DEV_START_BLKNO && blkno < this.cx.metaBlocks;

  /** What `use` says of a block of a tree and its items in key order; null if it cannot be read. */
  #withItems<T>(
    ref: Ref,
    level: number,
    use: (b: RawBlock, items: readonly number[]) => T | null,
  ): T | null {
    const { source } = this.cx;
    if (!this.#inDevice(ref)) return null;
    const b = source.acquire();
    let result: T | null = null;
    if (source.read(b, ref, MAGIC_BTREE) === 0 && b.v.getUint8(40) === level) {
      const order = new Uint16Array(MAX_ITEMS);
      const nr = itemOrder(b, Key.ZEROS, Key.ONES, order);
      result = use(b, [...order.subarray(0, nr)]);
    }
    source.release(b);
    return result;
  }
}

function refOf(bytes: Uint8Array): Ref {
  const v = viewOf(bytes);
  return { blkno: rawU64(v, 0), seqLo: v.getUint32(8, true), seqHi: v.getUint32(12, true) };
}
