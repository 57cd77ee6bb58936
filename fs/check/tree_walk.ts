/**
 * Walking a btree from its root for a check: claims every block, verifies it with the bounds of its
 * ancestors, and gives the leaves in key order. Leaves are read in batches, in device order; while
 * one batch is worked on, the next is being read if the device can do that.
 *
 * A walk may be for a range of keys. Then it claims and verifies the blocks whose lower bound lies in
 * its range; those that reach into it from before belong to the walk of an earlier range and are only
 * used. All ranges together do to each block what one walk does.
 *
 * Relies on: nothing but the root's place being right.
 * Guarantees: ends on any bytes (a block is entered once); keys are handed out in ascending order
 * within a leaf, and across leaves as far as parents can be believed.
 */

import { type BlockBytes, itemKey, itemVal, itemValLen, KEY } from "../../format/btree_block.ts";
import type { BtreeRoot } from "../../format/btree.ts";
import type { BtreeExpectation } from "../../format/btree_verify.ts";
import {
  BTREE_MAX_HEIGHT,
  LG_SIZE,
  MAGIC_BTREE,
  META_DEV_START_BLKNO,
} from "../../format/constants.ts";
import { Key } from "../../format/key.ts";
import { checkBlock, itemOrder } from "./btree_check.ts";
import { MAX_ITEMS, scanBlock } from "./block_scan.ts";
import { claim, inRange, isForeign, reportBad, toRef, type WalkContext } from "./context.ts";
import { NOBODY } from "./owners.ts";
import type { ProblemCode } from "./problems.ts";
import { isZero, rawU64, refBlkno, viewOf } from "./raw.ts";
import {
  BAD_CRC,
  BAD_READ,
  BAD_SEQ,
  type OrderedRead,
  type RawBlock,
  rawBlock,
  type Ref,
} from "./source.ts";

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
  /** Leaves of a batch; two batches are in memory. */
  readonly window?: number;
  readonly range?: WalkRange;
}

/** A part of the keys, walked on its own. */
export interface WalkRange {
  /** The first key. */
  readonly from: Key;
  /** The first key beyond; null: there is no end. */
  readonly to: Key | null;
  /** Which blocks of earlier ranges can be used; null when that is found out later. */
  readonly lent: ReadonlySet<string> | null;
  /** Blocks of earlier ranges that were used. */
  readonly borrowed: string[];
  /** Blocks of this range that later ones can use. */
  readonly lending: string[];
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
  blkno: number;
  readonly b: RawBlock;
  /** Offsets of the items to believe, in key order. */
  readonly order: Uint16Array;
  nr: number;
  /** Read whole and found right. */
  sound: boolean;
  /** Of this walk's range, not used from before it. */
  owned: boolean;
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
  readonly ref: Ref;
  readonly lo: Key;
  readonly hi: Key;
  readonly rightSpine: boolean;
  /** Of this walk's range. */
  readonly owned: boolean;
}

/** Leaves that are read together. */
interface Batch {
  readonly window: Uint8Array;
  readonly leaves: Leaf[];
  refs: LeafRef[];
  /** Where in the window each of `refs` lies; −1 for those that are not read. */
  slots: Int32Array;
  reading: OrderedRead;
}

/** By the number of the rule in 01 §10.7; 0 is for what none of them sees. */
const RULE_CODES: readonly ProblemCode[] = [
  "btree-items",
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
/** Offset of an item's version. */
const SEQ = 40;

export class TreeWalk {
  readonly #frames: Frame[] = [];
  readonly #spare: Frame[] = [];
  #refs: LeafRef[] = [];
  /** The batch that is being handed out, and the one that is being read. */
  #current: Batch | null = null;
  #next: Batch | null = null;
  readonly #spareBatches: Batch[] = [];
  #at = 0;
  readonly #windowBlocks: number;
  /** Rules of 01 §5.2 that the block read last breaks. */
  #broken = 0;
  /** Whether the block scanned last keeps all rules. */
  #sound = false;

  constructor(
    private readonly cx: WalkContext,
    root: BtreeRoot,
    private readonly spec: TreeSpec,
  ) {
    this.#windowBlocks = root.height <= 1 ? 1 : spec.window ?? DEFAULT_WINDOW;
    this.#start(root);
  }

  /** The next leaf in key order; null at the end, when all buffers have been given back. */
  next(): Leaf | null {
    for (;;) {
      const batch = this.#current;
      if (batch !== null) {
        while (this.#at < batch.refs.length) {
          const leaf = this.#leaf(batch, this.#at++);
          if (leaf !== null) return leaf;
        }
        this.#spareBatches.push(batch);
      }
      this.#current = this.#next ?? this.#gather();
      this.#at = 0;
      if (this.#current === null) {
        this.#end();
        return null;
      }
      this.#next = this.#gather();
      this.#current.reading.finish();
    }
  }

  #end(): void {
    const { source } = this.cx;
    for (const batch of this.#spareBatches) source.releaseWindow(batch.window);
    this.#spareBatches.length = 0;
    for (const f of this.#spare) source.release(f.block);
    this.#spare.length = 0;
  }

  #start(root: BtreeRoot): void {
    const { spec } = this, { report } = this.cx;
    const height = root.height, blkno = refBlkno(root.ref);
    const owned = this.#owns(Key.ZEROS);
    if (owned && !isZero(root.bytes, 17, 7)) report.add("root-pad", { what: spec.what });
    const empty = height === 0 && root.ref.isNull && root.ref.seqLo === 0 && root.ref.seqHi === 0;
    if (empty) return;
    if (height === 0 || height > BTREE_MAX_HEIGHT) {
      if (owned) report.add("root-height", { what: spec.what, height, blkno });
      return;
    }
    const rightSpine = !spec.subtree;
    const ref = { ref: toRef(root.ref), lo: Key.ZEROS, hi: Key.ONES, rightSpine, owned };
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
    if (!this.#readParent(frame.block, at, level)) {
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
        if (this.#broken === 0) this.#verify(frame.block, { ...at, hi: frame.hi }, level);
      }
    } else {
      frame.nr = this.#scan(frame.block, at, level, this.#broken, frame.order);
    }
    this.#frames.push(frame);
    if (at.owned) spec.onParent?.({ ref: at.ref, level, lo: at.lo, hi: frame.hi });
  }

  /**
   * Whether a block is somebody else's whom it is shared with. Then only its place here is judged:
   * version and keys; all else its owner's walk has seen.
   */
  #isShared(at: LeafRef, level: number): boolean {
    const { cx, spec } = this, { blkno } = at.ref;
    if (spec.shared === undefined || cx.owners.of(blkno) !== spec.shared) return false;
    const b = cx.source.acquire();
    const bad = cx.source.read(b, at.ref, MAGIC_BTREE);
    if ((bad & BAD_SEQ) !== 0) {
      reportBad(cx, BAD_SEQ, blkno, spec.what);
      this.#bad(at, level, true);
    } else if (bad === 0) this.#verify(b, at, level);
    cx.source.release(b);
    return true;
  }

  /** Reads a parent block; false when nothing of it may be used. */
  #readParent(b: RawBlock, at: LeafRef, level: number): boolean {
    const { cx, spec } = this, { blkno } = at.ref;
    if (!at.owned) {
      if (!this.#mayBorrow(at, level)) return false;
      this.#broken = cx.source.read(b, at.ref, MAGIC_BTREE);
      return this.#borrow(at, level);
    }
    if (!inRange(cx, blkno, spec.what)) {
      this.#bad(at, level, true);
      return false;
    }
    if (this.#isShared(at, level)) return false;
    this.#broken = cx.source.read(b, at.ref, MAGIC_BTREE);
    if (!this.#judged(at, level)) return false;
    if (claim(cx, blkno, spec.owner)) {
      if ((this.#broken & BAD_READ) !== 0) return false;
      this.#lend(at, level);
      return true;
    }
    if ((this.#broken & BAD_READ) === 0) this.#bad(at, level, true);
    return false;
  }

  /** Reports what is wrong with the block just read; false when it is another block. */
  #judged(at: LeafRef, level: number): boolean {
    const bad = this.#broken;
    if (bad === 0) return true;
    reportBad(this.cx, bad, at.ref.blkno, this.spec.what);
    this.#bad(at, level, bad !== BAD_CRC);
    return !isForeign(bad);
  }

  #owns(lo: Key): boolean {
    const { range } = this.spec;
    return range === undefined || lo.compare(range.from) >= 0;
  }

  #token(at: LeafRef, level: number): string {
    return `${this.spec.what}/${level}/${at.ref.blkno}`;
  }

  /** Whether a block of an earlier range is one that its walk could use. */
  #mayBorrow(at: LeafRef, level: number): boolean {
    const lent = this.spec.range?.lent ?? null, { blkno } = at.ref;
    if (lent !== null) return lent.has(this.#token(at, level));
    return blkno >= META_DEV_START_BLKNO && blkno < this.cx.metaBlocks &&
      this.cx.owners.of(blkno) === NOBODY;
  }

  /** Notes that the block just read is used; false when it cannot be. */
  #borrow(at: LeafRef, level: number): boolean {
    if (isForeign(this.#broken) || (this.#broken & BAD_READ) !== 0) return false;
    this.spec.range?.borrowed.push(this.#token(at, level));
    return true;
  }

  #lend(at: LeafRef, level: number): void {
    const { range } = this.spec;
    if (range === undefined || range.to === null || at.hi.compare(range.to) < 0) return;
    range.lending.push(this.#token(at, level));
  }

  /** The items to believe of a block that breaks the rules `bad`, in key order. */
  #scan(b: RawBlock, at: LeafRef, level: number, bad: number, order: Uint16Array): number {
    this.#sound = false;
    if (bad === 0) {
      const nr = scanBlock(b, this.#expectation(at, level), order);
      this.#sound = nr >= 0 || !at.owned || this.#verify(b, at, level);
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
      cx.report.add(RULE_CODES[f.rule] ?? "btree-items", {
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

  /** Gathers leaf references until a batch is full or the tree ends, and begins to read them. */
  #gather(): Batch | null {
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
    return refs.length === 0 ? null : this.#read();
  }

  #child(frame: Frame): void {
    const { spec, cx } = this;
    const b = frame.block, item = frame.order[frame.index++] as number;
    const last = frame.index === frame.nr;
    const key = itemKey(b, item);
    const lo = frame.childLo;
    frame.childLo = key.inc();
    if (spec.from !== undefined && key.compare(spec.from) < 0) return;
    const hi = last ? frame.hi : key, { range } = spec;
    if (range !== undefined) {
      if (hi.compare(range.from) < 0) return;
      if (range.to !== null && lo.compare(range.to) >= 0) {
        frame.index = frame.nr;
        return;
      }
    }
    if (itemValLen(b, item) !== 16) return; // Reported by the block's check.
    const val = itemVal(b, item), v = viewOf(val);
    const ref = {
      blkno: rawU64(v, 0),
      seqLo: v.getUint32(8, true),
      seqHi: v.getUint32(12, true),
    };
    const at = { ref, lo, hi, rightSpine: frame.rightSpine && last, owned: this.#owns(lo) };
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

  /** Begins to read the gathered leaves in device order; they are handed out in key order. */
  #read(): Batch {
    const { cx, spec } = this, { source } = cx;
    const refs = this.#refs;
    this.#refs = [];
    const usable: number[] = [];
    for (let i = 0; i < refs.length; i++) {
      const at = refs[i] as LeafRef;
      if (!at.owned) {
        if (this.#mayBorrow(at, 0)) usable.push(i);
      } else if (!inRange(cx, at.ref.blkno, spec.what)) this.#bad(at, 0, true);
      else if (!this.#isShared(at, 0)) usable.push(i);
    }
    const blknoOf = (i: number) => (refs[i] as LeafRef).ref.blkno;
    usable.sort((a, b) => blknoOf(a) - blknoOf(b));
    const slots = new Int32Array(refs.length).fill(-1);
    usable.forEach((i, slot) => slots[i] = slot);
    const blknos = Float64Array.from(usable, blknoOf);
    const spare = this.#spareBatches.pop();
    const window = spare?.window ??
      source.acquireWindow(Math.min(this.#windowBlocks, roundUpToPower(refs.length)));
    const reading = source.readOrdered(blknos, window);
    return { window, leaves: spare?.leaves ?? [], refs, slots, reading };
  }

  /** The leaf at place `index` of a batch that has been read; null when it cannot be used. */
  #leaf(batch: Batch, index: number): Leaf | null {
    const { cx, spec } = this;
    const at = batch.refs[index] as LeafRef, slot = batch.slots[index] as number;
    if (slot < 0) return null;
    let leaf = batch.leaves[slot];
    if (leaf === undefined) {
      const buf = batch.window.subarray(slot * LG_SIZE, (slot + 1) * LG_SIZE);
      const order = new Uint16Array(MAX_ITEMS);
      leaf = { blkno: 0, b: rawBlock(buf), order, nr: 0, sound: true, owned: true };
      batch.leaves[slot] = leaf;
    }
    this.#broken = batch.reading.unreadable(slot)
      ? BAD_READ
      : cx.source.judge(leaf.b, at.ref, MAGIC_BTREE);
    if (at.owned ? !this.#judged(at, 0) : !this.#borrow(at, 0)) return null;
    if (at.owned) {
      if (!claim(cx, at.ref.blkno, spec.owner)) {
        this.#bad(at, 0, true);
        return null;
      }
      if ((this.#broken & BAD_READ) !== 0) return null;
      this.#lend(at, 0);
    }
    const nr = this.#scan(leaf.b, at, 0, this.#broken, leaf.order);
    leaf.blkno = at.ref.blkno;
    leaf.sound = this.#sound;
    leaf.owned = at.owned;
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

/**
 * The version of an item of a tree that has no versions: it means nothing (01 §12.1), but a number
 * that nothing could have given out ends those who read it.
 */
export function checkUnusedSeq(cx: WalkContext, what: string, v: DataView, item: number): void {
  if (v.getUint32(item + SEQ + 4, true) < 0x20_0000) return;
  cx.report.add("item-seq", {
    what,
    key: Key.read(v, item + KEY).toString(),
    seq: v.getBigUint64(item + SEQ, true),
    max: Number.MAX_SAFE_INTEGER,
  });
}

/** All items of a small tree, copied, in key order. */
export function collectTree(cx: WalkContext, root: BtreeRoot, spec: TreeSpec): SmallItem[] {
  const items: SmallItem[] = [];
  const walk = new TreeWalk(cx, root, spec);
  for (let leaf = walk.next(); leaf !== null; leaf = walk.next()) {
    for (let i = 0; i < leaf.nr; i++) {
      const item = leaf.order[i] as number;
      checkUnusedSeq(cx, spec.what, leaf.b.v, item);
      items.push({
        key: Key.read(leaf.b.v, item + KEY),
        flags: leaf.b.v.getUint8(item + 52),
        seq: rawU64(leaf.b.v, item + SEQ),
        val: itemVal(leaf.b, item).slice(),
      });
    }
  }
  return items;
}
