/**
 * The reading of all filesystem items as a job in parts: what a thread must know to do any part, the
 * parts, and what comes of one. Everything here can be sent to another thread as it is.
 *
 * A part ("unit") is a range of keys that ends where an inode ends. What comes of it depends on the
 * device and on this description only, not on who does it or when; so the whole comes out the same
 * whatever threads there are.
 *
 * Relies on: parents of the trees only for dividing the work: wrong ones make parts large or small.
 * Guarantees: the parts cover all keys, each once, and no inode is in two of them.
 */

import { itemKey, itemValLen, itemValOff } from "../../format/btree_block.ts";
import { BTREE_MAX_HEIGHT, MAGIC_BTREE, ZONE_FS, ZONE_QUOTA } from "../../format/constants.ts";
import { Key } from "../../format/key.ts";
import { checkBtreeShape } from "../../format/btree_verify.ts";
import { BtreeRoot } from "../../format/btree.ts";
import { MAX_ITEMS } from "./block_scan.ts";
import { itemOrder } from "./btree_check.ts";
import { type BadBlock, toRef } from "./context.ts";
import type { FactSums } from "./facts.ts";
import type { OwnersCopy } from "./owners.ts";
import type { ProblemCode, Values } from "./problems.ts";
import { rawU64 } from "./raw.ts";
import type { MetaSource, Ref } from "./source.ts";
import type { TreeClass } from "./stream.ts";
import type { Parent } from "./tree_walk.ts";

/** Leaves that a unit has about. */
const UNIT_LEAVES = 512;
/** Leaves for each tree: all units begin with a path into each. */
const LEAVES_FOR_A_TREE = 16;
/** Memory for records of a kind that a unit keeps. */
export const KEPT_WORDS = 1 << 20;
/** Leaves below a last parent, where they are not counted. */
const LEAVES_BELOW = 600;

/** A key as it is sent: the arguments of `Key.words`. */
export type KeyWords = readonly [
  number,
  number,
  number,
  number,
  number,
  number,
  number,
  number,
  number,
];

export function keyWords(k: Key): KeyWords {
  return [
    k.zone,
    k.firstHi,
    k.firstLo,
    k.type,
    k.secondHi,
    k.secondLo,
    k.thirdHi,
    k.thirdLo,
    k.fourth,
  ];
}

export const keyOfWords = (words: KeyWords): Key => Key.words(...words);

export interface JobTree {
  readonly what: string;
  readonly owner: number;
  /** The bytes of its root. */
  readonly root: ArrayBuffer;
  readonly cls: TreeClass;
  readonly log: boolean;
  /** No item of it can be newer. */
  readonly maxSeq: number;
  /** Its bloom block, when that is usable. */
  readonly bloom: number | null;
}

export interface ItemJob {
  readonly superBlock: ArrayBuffer;
  readonly metaBlocks: number;
  readonly dataBlocks: number;
  readonly owners: OwnersCopy;
  readonly trees: readonly JobTree[];
  /** Leaves that are read together, a tree. */
  readonly window: number;
  readonly maxSeq: number;
  readonly nextIno: number;
  /** What a merge that is under way has yet to do; null when there is none. */
  readonly unmerged: readonly { readonly start: KeyWords; readonly end: KeyWords }[] | null;
  /** Words of a kind of records that a unit keeps; more are told before the unit is done. */
  readonly keptWords: number;
  /** Whether last-level parents of fs_root are wanted. */
  readonly wantsParents: boolean;
  /** Classes of facts to collect, instead of checking anything. */
  readonly collect: readonly number[] | null;
  /** First keys of all units but the first. */
  readonly bounds: readonly KeyWords[];
}

/** Records of a unit that is under way: those that it does not keep. */
export interface Overflow {
  readonly unit: number;
  readonly what: "extents" | "facts";
  readonly records: ArrayBuffer;
}

export interface UnitProblem {
  readonly code: ProblemCode;
  readonly values: Values;
}

/** What one unit has found. */
export interface UnitResult {
  readonly unit: number;
  readonly problems: readonly UnitProblem[];
  /** Blocks with their owners, by turns. */
  readonly claims: readonly number[];
  readonly borrowed: readonly string[];
  readonly lending: readonly string[];
  readonly badBlocks: readonly BadBlock[];
  readonly lastParents: readonly Parent[];
  readonly facts: FactSums;
  readonly extents: ArrayBuffer;
  readonly extentBlocks: number;
  readonly directoryPairs: ArrayBuffer;
  readonly inodes: number;
  readonly directories: number;
  readonly items: number;
  readonly rootSeen: boolean;
  readonly bytesRead: number;
}

type Sent<T extends { lo: Key; hi: Key }> = Omit<T, "lo" | "hi"> & { lo: KeyWords; hi: KeyWords };

/** A result as it is sent. */
export interface SentResult extends Omit<UnitResult, "badBlocks" | "lastParents"> {
  readonly badBlocks: readonly Sent<BadBlock>[];
  readonly lastParents: readonly Sent<Parent>[];
}

const sent = <T extends { lo: Key; hi: Key }>(b: T): Sent<T> => ({
  ...b,
  lo: keyWords(b.lo),
  hi: keyWords(b.hi),
});

export function sentResult(r: UnitResult): SentResult {
  return { ...r, badBlocks: r.badBlocks.map(sent), lastParents: r.lastParents.map(sent) };
}

export function receivedResult(r: SentResult): UnitResult {
  const bounds = ({ lo, hi }: { lo: KeyWords; hi: KeyWords }) => ({
    lo: keyOfWords(lo),
    hi: keyOfWords(hi),
  });
  return {
    ...r,
    badBlocks: r.badBlocks.map((b) => ({ ...b, ...bounds(b) })),
    lastParents: r.lastParents.map((p) => ({ ...p, ...bounds(p) })),
  };
}

/**
 * Where units begin: keys between leaves, as parent blocks tell them, rounded down to the first key of
 * an inode. They only divide the work: parents that cannot be read divide nothing.
 */
export function unitBounds(
  source: MetaSource,
  trees: readonly JobTree[],
  unitLeaves: number = Math.max(UNIT_LEAVES, LEAVES_FOR_A_TREE * trees.length),
): Key[] {
  const hints: { key: Key; leaves: number }[] = [], seen = new Set<number>();
  for (const { root } of trees) {
    const r = BtreeRoot.at(new Uint8Array(root));
    if (r.height >= 2 && r.height <= BTREE_MAX_HEIGHT) {
      gatherHints(source, toRef(r.ref), r.height - 1, r.height === 2 ? 1 : 2, hints, seen);
    }
  }
  hints.sort((a, b) => a.key.compare(b.key));
  const bounds: Key[] = [];
  let leaves = 0;
  for (const hint of hints) {
    leaves += hint.leaves;
    if (leaves < unitLeaves) continue;
    const bound = firstKeyOf(hint.key), before = bounds.at(-1) ?? Key.ZEROS;
    if (bound.compare(before) <= 0 || hint.key.equals(Key.ONES)) continue;
    bounds.push(bound);
    leaves = 0;
  }
  return bounds;
}

/** Greatest keys of the children of the blocks at level `low`, each of which is entered once. */
function gatherHints(
  source: MetaSource,
  ref: Ref,
  level: number,
  low: number,
  hints: { key: Key; leaves: number }[],
  seen: Set<number>,
): void {
  if (seen.has(ref.blkno)) return;
  seen.add(ref.blkno);
  const b = source.acquire(), order = new Uint16Array(MAX_ITEMS);
  const good = ref.blkno * 65536 < source.dev.size && source.read(b, ref, MAGIC_BTREE) === 0 &&
    checkBtreeShape(b) === null && b.v.getUint8(40) === level;
  const nr = good ? itemOrder(b, Key.ZEROS, Key.ONES, order) : 0;
  for (let i = 0; i < nr; i++) {
    const item = order[i] as number;
    if (level === low) {
      hints.push({ key: itemKey(b, item), leaves: level === 1 ? 1 : LEAVES_BELOW });
    } else if (itemValLen(b, item) === 16) {
      const { v } = b, off = itemValOff(b, item);
      const child = {
        blkno: rawU64(v, off),
        seqLo: v.getUint32(off + 8, true),
        seqHi: v.getUint32(off + 12, true),
      };
      gatherHints(source, child, level - 1, low, hints, seen);
    }
  }
  source.release(b);
}

/** The first key that must be in one unit with `key`. */
function firstKeyOf(key: Key): Key {
  if (key.zone === ZONE_FS) {
    return Key.words(ZONE_FS, key.firstHi, key.firstLo, 0, 0, 0, 0, 0, 0);
  }
  return key.zone === ZONE_QUOTA ? Key.of(ZONE_QUOTA, 0, 0) : key;
}
