/**
 * Walking a btree from its root for a check: claims every block, verifies it with the bounds of its
 * ancestors, and gives the leaves in key order. Leaves are read ahead in large ordered reads.
 *
 * Relies on: nothing but the root's place being right.
 * Guarantees: ends on any bytes (a block is entered once); keys are handed out in ascending order
 * within a leaf, and across leaves as far as parents can be believed.
 */

import { type BlockBytes, itemKey, itemVal, itemValLen, KEY } from "../../format/btree_block.ts";
import type { BtreeRoot } from "../../format/btree.ts";
import type { BtreeExpectation } from "../../format/btree_verify.ts";
import { BTREE_MAX_HEIGHT, LG_SIZE, MAGIC_BTREE } from "../../format/constants.ts";
import { Key } from "../../format/key.ts";
import { checkBlock, itemOrder } from "./btree_check.ts";
import { MAX_ITEMS, scanBlock } from "./block_scan.ts";
import { type CheckContext, claim, inRange, isForeign, reportBad, toRef } from "./context.ts";
import type { ProblemCode } from "./problems.ts";
import { isZero, rawU64, refBlkno, viewOf } from "./raw.ts";
import { BAD_CRC, BAD_READ, type RawBlock, rawBlock, type Ref } from "./source.ts";

export interface TreeSpec {
  /** What messages call the tree; also its owner's name. */
  readonly what: string;
  readonly owner: number;
  /** Leaves may hold deletion items. */
  readonly log?: boolean;
  /** A part of a tree: its greatest key is not all-ones (01 §10.5). */
  readonly subtree?: boolean;
  /** Blocks of this owner are met again and left alone, with all below them. */
  readonly shared?: number;
  /** What lies wholly below this key has been freed (01 §13.4). */
  readonly from?: Key;
  /** Claim leaves without reading them. */
  readonly leavesUnread?: boolean;
  /** Told of each parent block that could be entered. */
  readonly onParent?: (parent: Parent) => void;
  /** Leaves to read ahead. */
  readonly window?: number;
}

/** A parent block with the keys that it covers. */
export interface Parent {
  readonly ref: Ref;
  readonly level: number;
  readonly lo: Key;
  readonly hi: Key;
}

/** A leaf: its buffer is good until the next call of `next`. */
export interface Leaf {
  readonly blkno: number;
  readonly b: RawBlock;
  /** Offsets of the items to believe, in key order. */
  readonly order: Uint16Array;
  nr: number;
  /** Read whole and found right. */
  sound: boolean;
}

interface Frame {
  readonly block: RawBlock;
  readonly order: Uint16Array;
  nr: number;
  index: number;
  level: number;
  lo: Key;
  hi: Key;
  rightSpine: boolean;
  /** Lower bound of the next child. */
  childLo: Key;
}

interface LeafRef {
  ref: Ref;
  lo: Key;
  hi: Key;
  rightSpine: boolean;
}

const RULE_CODES: readonly ProblemCode[] = [
  "btree-shape",
  "btree-header",
  "btree-items",
  "btree-avl",
  "btree-key",
  "btree-value",
  "btree-total",
  "btree-free",
  "btree-hash",
  "btree-parent",
  "btree-flags",
];

const DEFAULT_WINDOW = 16;

export class TreeWalk {
  readonly #frames: Frame[] = [];
  readonly #spare: Frame[] = [];
  #refs: LeafRef[] = [];
  #ready = 0;
  #at = 0;
  /** Made when the first leaves are read, no larger than they need. */
  #window: Uint8Array | null = null;
  readonly #windowBlocks: number;
  readonly #leaves: Leaf[] = [];
  readonly #sequence: (Leaf | null)[] = [];
  /** Whether the block scanned last keeps all rules. */
  #sound = false;

  constructor(
    private readonly cx: CheckContext,
    root: BtreeRoot,
    private readonly spec: TreeSpec,
  ) {
    this.#windowBlocks = root.height <= 1 ? 1 : spec.window ?? DEFAULT_WINDOW;
    this.#start(root);
  }

  /** The next leaf in key order; null at the end, when all buffers have been given back. */
  next(): Leaf | null {
    for (;;) {
      while (this.#at < this.#ready) {
        const leaf = this.#sequence[this.#at++];
        if (leaf !== null && leaf !== undefined) return leaf;
      }
      if (!this.#fill()) {
        if (this.#window !== null) this.cx.source.releaseWindow(this.#window);
        this.#window = null;
        for (const f of this.#spare) this.cx.source.release(f.block);
        this.#spare.length = 0;
        this.#ready = 0;
        this.#at = 0;
        return null;
      }
    }
  }

  #start(root: BtreeRoot): void {
    const { cx, spec } = this, report = cx.report;
    const height = root.height, blkno = refBlkno(root.ref);
    if (!isZero(root.bytes, 17, 7)) report.add("root-pad", { what: spec.what });
    if (height === 0) {
      if (!root.ref.isNull || root.ref.seqLo !== 0 || root.ref.seqHi !== 0) {
        report.add("root-height", { what: spec.what, height, blkno });
      }
      return;
    }
    if (height > BTREE_MAX_HEIGHT) {
      report.add("root-height", { what: spec.what, height, blkno });
      return;
    }
    const ref = { ref: toRef(root.ref), lo: Key.ZEROS, hi: Key.ONES, rightSpine: !spec.subtree };
    if (height === 1) this.#refs.push(ref);
    else this.#enter(ref, height - 1);
  }

  /** Reads a parent and puts it on the stack. */
  #enter(at: LeafRef, level: number): void {
    const { cx, spec } = this;
    const frame = this.#spare.pop() ?? {
      block: cx.source.acquire(),
      order: new Uint16Array(MAX_ITEMS),
      nr: 0,
      index: 0,
      level,
      lo: at.lo,
      hi: at.hi,
      rightSpine: at.rightSpine,
      childLo: at.lo,
    };
    if (!inRange(cx, at.ref.blkno, spec.what)) {
      this.#bad(at, level, true);
      this.#spare.push(frame);
      return;
    }
    if (spec.shared !== undefined && cx.owners.of(at.ref.blkno) === spec.shared) {
      this.#spare.push(frame);
      return;
    }
    const bad = cx.source.read(frame.block, at.ref, MAGIC_BTREE);
    if (bad !== 0) {
      reportBad(cx, bad, at.ref.blkno, spec.what);
      this.#bad(at, level, bad !== BAD_CRC);
    }
    const foreign = isForeign(bad);
    if (foreign || !claim(cx, at.ref.blkno, spec.owner) || (bad & BAD_READ) !== 0) {
      if (!foreign && (bad & BAD_READ) === 0) this.#bad(at, level, true);
      this.#spare.push(frame);
      return;
    }
    frame.level = level;
    frame.lo = at.lo;
    frame.hi = at.hi;
    frame.childLo = at.lo;
    frame.rightSpine = at.rightSpine;
    frame.index = 0;
    if (this.#frames.length === 0 && spec.subtree === true) {
      // The bound of a subtree's root is known only to the whole tree.
      frame.nr = itemOrder(frame.block, at.lo, at.hi, frame.order);
      if (frame.nr > 0) {
        frame.hi = itemKey(frame.block, frame.order[frame.nr - 1] as number);
        if (bad === 0) this.#verify(frame.block, { ...at, hi: frame.hi }, level);
      }
    } else {
      frame.nr = this.#scan(frame.block, at, level, bad, frame.order);
    }
    this.#frames.push(frame);
    spec.onParent?.({ ref: at.ref, level, lo: at.lo, hi: frame.hi });
  }

  /** The items to believe of a block that breaks the rules `bad`, in key order. */
  #scan(b: RawBlock, at: LeafRef, level: number, bad: number, order: Uint16Array): number {
    this.#sound = false;
    if (bad === 0) {
      const nr = scanBlock(b, this.#expectation(at, level), order);
      this.#sound = nr >= 0 || this.#verify(b, at, level);
      if (nr >= 0) return nr;
    }
    return itemOrder(b, at.lo, at.hi, order);
  }

  #expectation(at: LeafRef, level: number): BtreeExpectation {
    const { lo, hi, rightSpine } = at;
    return { level, lo, hi, rightSpine, logTree: this.spec.log === true };
  }

  #verify(b: BlockBytes, at: LeafRef, level: number): boolean {
    const { cx, spec } = this;
    const findings = checkBlock(b, this.#expectation(at, level));
    if (findings.length === 0) return true;
    for (const f of findings) {
      cx.report.add(RULE_CODES[f.rule] ?? "btree-shape", {
        what: spec.what,
        blkno: at.ref.blkno,
        level,
        why: f.message,
      });
    }
    this.#bad(at, level, false);
    return false;
  }

  #bad(at: LeafRef, level: number, lost: boolean): void {
    this.cx.badBlocks.push({
      tree: this.spec.what,
      ref: at.ref,
      level,
      lo: at.lo,
      hi: at.hi,
      lost,
    });
  }

  /** Gathers leaf references until a window is full or the tree ends; reads them. */
  #fill(): boolean {
    const refs = this.#refs;
    while (refs.length < this.#windowBlocks) {
      const frame = this.#frames.at(-1);
      if (frame === undefined) break;
      if (frame.index === frame.nr) {
        this.#frames.pop();
        this.#spare.push(frame);
        continue;
      }
      this.#child(frame);
    }
    if (refs.length === 0) return false;
    this.#read();
    return true;
  }

  #child(frame: Frame): void {
    const { spec, cx } = this;
    const b = frame.block, item = frame.order[frame.index++] as number;
    const last = frame.index === frame.nr;
    const key = itemKey(b, item);
    const lo = frame.childLo;
    frame.childLo = key.inc();
    if (spec.from !== undefined && key.compare(spec.from) < 0) return;
    if (itemValLen(b, item) !== 16) return; // Reported by the block's check.
    const val = itemVal(b, item), v = viewOf(val);
    const ref = {
      blkno: rawU64(v, 0),
      seqLo: v.getUint32(8, true),
      seqHi: v.getUint32(12, true),
    };
    const at = { ref, lo, hi: last ? frame.hi : key, rightSpine: frame.rightSpine && last };
    if (frame.level > 1) {
      this.#enter(at, frame.level - 1);
      return;
    }
    if (spec.leavesUnread === true) {
      if (inRange(cx, ref.blkno, spec.what)) claim(cx, ref.blkno, spec.owner);
      return;
    }
    this.#refs.push(at);
  }

  /** Reads the gathered leaves in device order; they are handed out in key order. */
  #read(): void {
    const { cx, spec } = this;
    const refs = this.#refs;
    this.#refs = [];
    this.#ready = refs.length;
    this.#at = 0;
    const usable: number[] = [];
    for (let i = 0; i < refs.length; i++) {
      this.#sequence[i] = null;
      const at = refs[i] as LeafRef;
      if (!inRange(cx, at.ref.blkno, spec.what)) this.#bad(at, 0, true);
      else if (spec.shared === undefined || cx.owners.of(at.ref.blkno) !== spec.shared) {
        usable.push(i);
      }
    }
    const blknoOf = (i: number) => (refs[i] as LeafRef).ref.blkno;
    usable.sort((a, b) => blknoOf(a) - blknoOf(b));
    const blknos = Float64Array.from(usable, blknoOf);
    const unreadable = new Uint8Array(usable.length);
    this.#window ??= cx.source.acquireWindow(
      Math.min(this.#windowBlocks, roundUpToPower(refs.length)),
    );
    cx.source.readOrdered(blknos, usable.length, this.#window, unreadable);
    // Judged in key order, so that of two claims the first in the tree wins.
    const slotOf = new Map(usable.map((i, slot) => [i, slot]));
    for (let i = 0; i < refs.length; i++) {
      const slot = slotOf.get(i);
      if (slot === undefined) continue;
      this.#sequence[i] = this.#leaf(refs[i] as LeafRef, slot, unreadable[slot] === 1);
    }
  }

  #leaf(at: LeafRef, slot: number, unreadable: boolean): Leaf | null {
    const { cx, spec } = this;
    let leaf = this.#leaves[slot];
    if (leaf === undefined) {
      const buf = (this.#window as Uint8Array).subarray(slot * LG_SIZE, (slot + 1) * LG_SIZE);
      leaf = {
        blkno: 0,
        b: rawBlock(buf),
        order: new Uint16Array(MAX_ITEMS),
        nr: 0,
        sound: true,
      };
      this.#leaves[slot] = leaf;
    }
    const bad = unreadable ? BAD_READ : cx.source.judge(leaf.b, at.ref, MAGIC_BTREE);
    if (bad !== 0) {
      reportBad(cx, bad, at.ref.blkno, spec.what);
      this.#bad(at, 0, bad !== BAD_CRC);
    }
    if (isForeign(bad)) return null;
    if (!claim(cx, at.ref.blkno, spec.owner)) {
      this.#bad(at, 0, true);
      return null;
    }
    if ((bad & BAD_READ) !== 0) return null;
    (leaf as { blkno: number }).blkno = at.ref.blkno;
    const nr = this.#scan(leaf.b, at, 0, bad, leaf.order);
    leaf.sound = this.#sound;
    leaf.nr = leaf.b.v.getUint8(40) === 0 ? nr : 0;
    return leaf;
  }
}

const roundUpToPower = (n: number): number => 2 ** Math.ceil(Math.log2(Math.max(1, n)));

export interface SmallItem {
  readonly key: Key;
  readonly flags: number;
  readonly seq: number;
  /** A copy. */
  readonly val: Uint8Array;
}

/** All items of a small tree, copied, in key order. */
export function collectTree(cx: CheckContext, root: BtreeRoot, spec: TreeSpec): SmallItem[] {
  const items: SmallItem[] = [];
  const walk = new TreeWalk(cx, root, spec);
  for (let leaf = walk.next(); leaf !== null; leaf = walk.next()) {
    for (let i = 0; i < leaf.nr; i++) {
      const item = leaf.order[i] as number;
      items.push({
        key: Key.read(leaf.b.v, item + KEY),
        flags: leaf.b.v.getUint8(item + 52),
        seq: rawU64(leaf.b.v, item + 40),
        val: itemVal(leaf.b, item).slice(),
      });
    }
  }
  return items;
}
