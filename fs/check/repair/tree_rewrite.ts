/**
 * Mending a btree whose blocks are damaged: the paths to the bad blocks are written anew, everything
 * else is kept as it is.
 *
 * A block that can be read as what it should be is copied with the items that can be believed: their
 * key lies in the block's range and their value in the block, and what they say of themselves is right
 * (believable.ts); a sound older copy of the same version is better. One that cannot is left out of its
 * parent; the keys that it covered belong to its right neighbour's range afterwards, or, at the
 * right edge of a block, to the left one's. Items under given keys can be left out too. A sound leaf
 * with keys beyond its bounds has wrong parents: it is left out as well, and whole.
 *
 * What could not be read is told as holes, which salvage.ts fills with what it finds elsewhere, and
 * with such leaves.
 */

import { BlockRef } from "../../../format/block.ts";
import type { BtreeRoot } from "../../../format/btree.ts";
import {
  blockLevel,
  findLeafItem,
  firstItem,
  hasRoom,
  insertItem,
  itemFlags,
  itemKey,
  itemVal,
  itemValLen,
  lastItem,
  LEVEL,
  nextItem,
  removeItem,
} from "../../../format/btree_block.ts";
import { checkBtreeShape } from "../../../format/btree_verify.ts";
import {
  BTREE_MAX_HEIGHT,
  ITEM_FLAG_DELETION,
  MAGIC_BTREE,
  META_DEV_START_BLKNO,
} from "../../../format/constants.ts";
import { blockCrcOk } from "../../../format/crc32c.ts";
import { Key } from "../../../format/key.ts";
import { MAX_ITEMS } from "../block_scan.ts";
import { itemOrder } from "../btree_check.ts";
import { type BadBlock, type CheckContext, isForeign, toRef } from "../context.ts";
import { NOBODY } from "../owners.ts";
import { isExact, rawU64, viewOf } from "../raw.ts";
import {
  BAD_BLKNO,
  BAD_CRC,
  BAD_READ,
  BAD_SEQ,
  type MetaSource,
  type RawBlock,
  type Ref,
} from "../source.ts";
import { believableItems } from "./believable.ts";
import { type Hole, type LooseLeaf, readableLeaf } from "./lost_blocks.ts";
import { type Round, SEQ_LIMIT } from "./round.ts";
import { newTreeBlock } from "./tree_builder.ts";

const REF_BYTES = 16;
/** Older copies that are looked at for one torn leaf. */
const MOST_COPIES = 16;

export interface Damage {
  /** Bad blocks of this tree. */
  readonly bad: readonly BadBlock[];
  /** Keys of items that must not be in it. */
  readonly unwanted: readonly Key[];
  /** Keys of items whose version is impossible: they become as new as anything that is there. */
  readonly late: readonly Key[];
  /** The newest version of this tree. */
  readonly newest: number;
  /** Leaves may hold deletion items. */
  readonly log: boolean;
  /** What holes in it are called. */
  readonly name: string;
  /** Leaves that nothing refers to: older copies, among others. */
  readonly copies: readonly LooseLeaf[];
  /** Every block is to be written anew. */
  readonly whole: boolean;
}

export interface RewriteResult {
  /** Blocks of which nothing could be kept. */
  lostBlocks: number;
  /** Items left out because they were unwanted. */
  dropped: number;
  /** Items left out because their numbers are impossible, or they cannot be believed. */
  unusable: number;
  /** Items kept although the checksum of their block is wrong: their values may be. */
  doubtful: number;
  /** Keys of which some or all items were lost. */
  readonly holes: Hole[];
}

/** What stands in a parent for a child. */
type Child = Uint8Array | null;

export function rewriteTree(round: Round, root: BtreeRoot, damage: Damage): RewriteResult {
  const result = { lostBlocks: 0, dropped: 0, unusable: 0, doubtful: 0, holes: [] as Hole[] };
  const height = root.height = heightOf(round.cx, root);
  if (height === 0 || height > BTREE_MAX_HEIGHT) {
    if (height > 0) result.lostBlocks++;
    const level = BTREE_MAX_HEIGHT;
    result.holes.push({ tree: damage.name, level, lo: Key.ZEROS, hi: Key.ONES });
    root.zero();
    return result;
  }
  const rewriter = new Rewriter(round, damage, result);
  const child = rewriter.rewrite(toRef(root.ref), height - 1, Key.ZEROS, Key.ONES);
  if (child === null) root.zero();
  else root.ref.bytes.set(child);
  root.bytes.fill(0, 17);
  round.changed = true;
  return result;
}

class Rewriter {
  readonly #bad: Map<number, BadBlock[]>;
  readonly #unwanted: ReadonlySet<string>;

  constructor(
    private readonly round: Round,
    private readonly damage: Damage,
    private readonly result: RewriteResult,
  ) {
    this.#bad = Map.groupBy(damage.bad, ({ ref }) => ref.blkno);
    this.#unwanted = new Set(damage.unwanted.map((key) => key.toString()));
  }

  /** The reference to use for a child; the same bytes if it needs no change, null if it is lost. */
  rewrite(ref: Ref, level: number, lo: Key, hi: Key): Child {
    if (!this.#touches(lo, hi)) return refBytes(ref);
    const { round } = this, { source, memory } = round.cx;
    // What is dirty now is complete, and nothing refers to it before the super block does.
    if (round.writer.dirtyBytes > memory / 4) round.writer.write();
    const b = source.acquire();
    try {
      const own = this.#bad.get(ref.blkno)?.find((x) => x.lo.equals(lo) && x.level === level);
      if (!this.#readable(b, ref, level, own)) {
        this.result.lostBlocks++;
        this.#hole(level, lo, hi);
        this.#abandon(ref, own);
        return null;
      }
      if (level === 0 && own?.lost !== true && this.#isStray(b, ref, lo, hi)) return null;
      const made = level === 0 ? this.#leaf(b, ref, lo, hi) : this.#parent(b, level, lo, hi);
      this.#abandon(ref, own);
      return made;
    } finally {
      source.release(b);
    }
  }

  /** Whether anything in [lo, hi] is to be changed. */
  #touches(lo: Key, hi: Key): boolean {
    const { bad, unwanted, late, whole } = this.damage;
    if (whole) return true;
    const inside = (key: Key) => key.compare(lo) >= 0 && key.compare(hi) <= 0;
    return bad.some((x) => inside(x.lo)) || unwanted.some(inside) || late.some(inside);
  }

  #hole(level: number, lo: Key, hi: Key): void {
    this.result.holes.push({ tree: this.damage.name, level, lo, hi });
  }

  /** Reads a block; false if it is not the one meant, or one of another level. */
  #readable(b: RawBlock, ref: Ref, level: number, own: BadBlock | undefined): boolean {
    const { cx } = this.round;
    if (ref.blkno < 2 || ref.blkno >= cx.metaBlocks) return false;
    let rules = cx.source.read(b, ref, MAGIC_BTREE);
    if ((rules & BAD_READ) !== 0) {
      // A leaf of which some pages cannot be read is one that is torn.
      if (level > 0 || !cx.source.readPages(b, ref.blkno)) return false;
      rules = cx.source.judge(b, ref, MAGIC_BTREE);
    }
    if (isForeign(rules)) {
      // Whatever else the block is, it must be nobody's.
      if (cx.owners.of(ref.blkno) !== NOBODY || !isBehindHeader(b, ref, rules, cx.source)) {
        return false;
      }
    } else if (own?.lost === true && level > 0) {
      // A parent that another tree claimed first leads to that tree's blocks.
      return false;
    }
    return blockLevel(b) === level || putLevelRight(b, level);
  }

  /**
   * Whether the items of a leaf can be read, but with keys outside of its bounds, which are wrong then:
   * it becomes part of another tree, as it is if it is sound.
   */
  #isStray(b: RawBlock, ref: Ref, lo: Key, hi: Key): boolean {
    if (this.round.cx.source.judge(b, ref, MAGIC_BTREE) !== 0) return false;
    const leaf = readableLeaf(b, ref.blkno);
    if (leaf === null || leaf.first.compare(lo) >= 0 && leaf.last.compare(hi) <= 0) return false;
    const { first, last } = leaf;
    this.result.holes.push({ tree: this.damage.name, level: 0, lo: first, hi: last, stray: leaf });
    return true;
  }

  /** The leaves that can be read below a block whose place in its parent is wrong. */
  #findStrays(ref: Ref, level: number): void {
    const { cx } = this.round;
    const lost = this.#bad.get(ref.blkno)?.some((x) => x.lost) === true;
    if (lost || ref.blkno < META_DEV_START_BLKNO || ref.blkno >= cx.metaBlocks) return;
    const b = cx.source.acquire();
    if (cx.source.read(b, ref, MAGIC_BTREE) === 0 && blockLevel(b) === level) {
      if (level === 0) this.#isStray(b, ref, Key.ONES, Key.ZEROS);
      else if (isShaped(b, level)) {
        for (let item = firstItem(b); item !== 0; item = nextItem(b, item)) {
          this.#findStrays(refOf(itemVal(b, item)), level - 1);
        }
      }
    }
    cx.source.release(b);
  }

  /** The old block is not referred to by this tree any more. */
  #abandon(ref: Ref, own: BadBlock | undefined): void {
    // A lost block may be somebody else's.
    if (own?.lost !== true) this.round.release(ref.blkno);
  }

  #isClaimedElsewhere(ref: Ref, lo: Key): boolean {
    const own = this.#bad.get(ref.blkno)?.find((x) => x.lo.equals(lo) && x.level === 0);
    return own?.lost === true;
  }

  #leaf(b: RawBlock, at: Ref, lo: Key, hi: Key): Child {
    const order = new Uint16Array(MAX_ITEMS);
    const n = itemOrder(b, lo, hi, order);
    // A leaf that has its place elsewhere in the tree: that of this place is lost.
    if (n === 0 && this.#isClaimedElsewhere(at, lo)) {
      this.#hole(0, lo, hi);
      return null;
    }
    const torn = this.round.cx.source.judge(b, at, MAGIC_BTREE) !== 0;
    const believed = torn ? believableItems(b, order, n, this.round.cx.dataBlocks) : null;
    const copies = torn ? this.#copiesOf(lo, hi) : [];
    const unusable = this.result.unusable;
    const { block, ref } = newTreeBlock(this.round.t, 0);
    for (let i = 0; i < n; i++) {
      const item = order[i] as number, key = itemKey(b, item);
      if (this.#unwanted.has(key.toString())) {
        this.result.dropped++;
        continue;
      }
      const stored = rawU64(b.v, item + 40);
      const seq = isExact(stored) && stored < SEQ_LIMIT ? stored : this.damage.newest;
      const deletion = itemFlags(b, item) === ITEM_FLAG_DELETION;
      const len = itemValLen(b, item);
      const copy = sameVersion(copies, key, stored);
      if (copy !== null && hasRoom(block, copy.val.length)) {
        insertItem(block, key, seq, copy.flags, copy.val);
        continue;
      }
      const usable = believed?.has(item) !== false && hasRoom(block, len) &&
        (itemFlags(b, item) === 0 || deletion && len === 0 && this.damage.log);
      if (usable) insertItem(block, key, seq, deletion ? ITEM_FLAG_DELETION : 0, itemVal(b, item));
      else this.result.unusable++;
      if (usable && torn) this.result.doubtful++;
    }
    for (const copy of copies) this.round.cx.source.release(copy);
    if (this.result.unusable > unusable || torn && checkBtreeShape(b) !== null) {
      this.#hole(0, lo, hi);
    }
    return ref.bytes;
  }

  /** The newest leaves that nothing refers to, of keys in [lo, hi]; buffers to give back. */
  #copiesOf(lo: Key, hi: Key): RawBlock[] {
    const { source } = this.round.cx;
    const near = this.damage.copies.filter((leaf) =>
      leaf.first.compare(hi) <= 0 && leaf.last.compare(lo) >= 0
    ).sort((a, b) => b.newest - a.newest).slice(0, MOST_COPIES);
    const blocks: RawBlock[] = [];
    for (const leaf of near) {
      const b = source.acquire();
      if (source.read(b, leaf, MAGIC_BTREE) === 0) blocks.push(b);
      else source.release(b);
    }
    return blocks;
  }

  #parent(b: RawBlock, level: number, lo: Key, hi: Key): Child {
    const order = new Uint16Array(MAX_ITEMS);
    const n = itemOrder(b, lo, hi, order);
    const children: { key: Key; val: Uint8Array }[] = [];
    let from = lo, whole = checkBtreeShape(b) === null;
    for (let i = 0; i < n; i++) {
      const item = order[i] as number;
      // The last child reaches to the end of the block's range, whatever its key says.
      const key = i === n - 1 ? hi : itemKey(b, item);
      const usable = key.compare(from) >= 0 && key.compare(hi) <= 0 &&
        itemValLen(b, item) === REF_BYTES;
      if (!usable) {
        whole = false;
        if (itemValLen(b, item) === REF_BYTES) this.#findStrays(refOf(itemVal(b, item)), level - 1);
        continue;
      }
      const val = this.rewrite(refOf(itemVal(b, item)), level - 1, from, key);
      from = key.inc();
      if (val !== null) children.push({ key, val });
    }
    if (!whole) this.#hole(level, lo, hi);
    const last = children.at(-1);
    if (last === undefined) return null;
    const { block, ref } = newTreeBlock(this.round.t, level);
    for (const child of children) {
      if (child !== last) insertItem(block, child.key, 0, 0, child.val);
      else insertItem(block, hi, 0, 0, this.#widened(child, level - 1, hi));
    }
    return ref.bytes;
  }

  /** A child that covers keys up to `hi` now: what was to the right of it is lost. */
  #widened({ key, val }: { key: Key; val: Uint8Array }, level: number, hi: Key): Uint8Array {
    if (level === 0 || key.equals(hi)) return val;
    const { writer, alloc } = this.round.t, ref = BlockRef.at(val.slice());
    const block = writer.dirty(ref, MAGIC_BTREE, alloc);
    const item = lastItem(block);
    const child = { key: itemKey(block, item), val: itemVal(block, item).slice() };
    removeItem(block, item);
    insertItem(block, hi, 0, 0, this.#widened(child, level - 1, hi));
    return ref.bytes;
  }
}

/** An item as a sound block has it, of this version: equal versions are equal (01 §12.2). */
function sameVersion(
  copies: readonly RawBlock[],
  key: Key,
  seq: number,
): { flags: number; val: Uint8Array } | null {
  for (const b of copies) {
    const item = findLeafItem(b, key);
    if (item === 0 || rawU64(b.v, item + 40) !== seq || seq === 0) continue;
    return { flags: itemFlags(b, item), val: itemVal(b, item) };
  }
  return null;
}

/**
 * Whether a block whose header does not answer the reference is the one meant all the same. It is if
 * its checksum is that of the same contents under the right header; the header is put right then. If
 * the checksum is wrong for other reasons, the 64 random bits of the seq are proof enough.
 */
function isBehindHeader(b: RawBlock, ref: Ref, rules: number, source: MetaSource): boolean {
  if ((rules & BAD_CRC) === 0) return false;
  if ((rules & (BAD_SEQ | BAD_BLKNO)) === 0) return true;
  const { v } = b, header = b.buf.slice(0, 32);
  v.setUint32(4, MAGIC_BTREE, true);
  v.setUint32(8, source.fsidLo, true);
  v.setUint32(12, source.fsidHi, true);
  v.setUint32(16, ref.seqLo, true);
  v.setUint32(20, ref.seqHi, true);
  v.setBigUint64(24, BigInt(ref.blkno), true);
  if (blockCrcOk(b.buf)) return true;
  b.buf.set(header);
  return false;
}

/**
 * The height of a tree: that of its root block and its children, if they are sound and say so; else
 * what the root says.
 */
function heightOf(cx: CheckContext, root: BtreeRoot): number {
  const { source } = cx, b = source.acquire();
  const levelOf = (ref: Ref): number | null => {
    const inDevice = ref.blkno >= META_DEV_START_BLKNO && ref.blkno < cx.metaBlocks;
    const sound = inDevice && source.read(b, ref, MAGIC_BTREE) === 0 && isShaped(b, blockLevel(b));
    return sound ? blockLevel(b) : null;
  };
  const level = levelOf(toRef(root.ref));
  let agreed = level === 0;
  if (level !== null && level > 0 && level !== root.height - 1) {
    const children: Ref[] = [];
    for (let item = firstItem(b); item !== 0; item = nextItem(b, item)) {
      children.push(refOf(itemVal(b, item)));
    }
    agreed = children.some((child) => levelOf(child) === level - 1);
  }
  source.release(b);
  return level !== null && level < BTREE_MAX_HEIGHT && agreed ? level + 1 : root.height;
}

function refOf(val: Uint8Array): Ref {
  const v = viewOf(val);
  return { blkno: rawU64(v, 0), seqLo: v.getUint32(8, true), seqHi: v.getUint32(12, true) };
}

/** Whether a block is shaped like one of `level`. */
function isShaped(b: RawBlock, level: number): boolean {
  return checkBtreeShape(b) === null &&
    (level === 0 || everyItem(b, (item) => itemValLen(b, item) === REF_BYTES));
}

/** Whether a block is sound but for its level, which is put right then. */
function putLevelRight(b: RawBlock, level: number): boolean {
  const said = blockLevel(b);
  b.v.setUint8(LEVEL, level);
  const sound = isShaped(b, level);
  if (!sound) b.v.setUint8(LEVEL, said);
  return sound;
}

function everyItem(b: RawBlock, test: (item: number) => boolean): boolean {
  for (let item = firstItem(b); item !== 0; item = nextItem(b, item)) {
    if (!test(item)) return false;
  }
  return true;
}

function refBytes(ref: Ref): Uint8Array {
  const bytes = new Uint8Array(REF_BYTES), v = viewOf(bytes);
  v.setBigUint64(0, BigInt(ref.blkno), true);
  v.setUint32(8, ref.seqLo, true);
  v.setUint32(12, ref.seqHi, true);
  return bytes;
}
