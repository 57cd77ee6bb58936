/**
 * Pass 3: all filesystem items, in one ordered reading of fs_root and every log item tree.
 *
 * Relies on: the log trees of pass 1, bloom blocks by their references.
 * Guarantees: the blocks of these trees are claimed; every version of every item has a key and a
 * length that its tree allows and is found by readers (bloom bits, sequences); what is visible has
 * been checked inode by inode; the fact book holds what the inodes and their indexes say of each
 * other; all data extents of files are in the space sorter.
 */

import { bytesEqual } from "../../format/bytes.ts";
import { BloomBlock } from "../../format/bloom.ts";
import { type BlockBytes, KEY } from "../../format/btree_block.ts";
import {
  FOREST_BLOOM_BITS,
  ITEM_FLAG_DELETION,
  LOG_MERGE_REQUEST_SUBTREE,
  MAGIC_BLOOM,
  NAME_MAX,
  QUOTA_NAME_SELECT,
  QUOTA_RULE_TOTL_COUNT,
  QUOTA_SOURCE_GID,
  ROOT_INO,
  TYPE_DATA_EXTENT,
  TYPE_DIRENT,
  TYPE_INODE,
  TYPE_INODE_INDEX_DATA_SEQ,
  TYPE_INODE_INDEX_META_SEQ,
  TYPE_LINK_BACKREF,
  TYPE_ORPHAN,
  TYPE_QUOTA_RULE,
  TYPE_READDIR,
  TYPE_SYMLINK,
  TYPE_XATTR,
  XATTR_PART_SIZE,
  ZONE_FS,
  ZONE_INODE_INDEX,
  ZONE_ORPHAN,
  ZONE_QUOTA,
  ZONE_XATTR_INDX,
  ZONE_XATTR_TOTL,
} from "../../format/constants.ts";
import { bloomBits, fnv1a64 } from "../../format/hash.ts";
import { Dirent, Inode, QuotaRuleVal } from "../../format/items.ts";
import { Key } from "../../format/key.ts";
import { type CheckContext, follow, toRef } from "./context.ts";
import {
  FACT_DATA_INDEX,
  FACT_INDX,
  FACT_META_INDEX,
  FACT_ORPHAN,
  FACT_SRCH,
  type FactBook,
  SIDE_ITEM,
} from "./facts.ts";
import { InodeCheck, keyText } from "./inode_check.ts";
import { ParentMap } from "./parents.ts";
import { type LogTree, type MergeState, type ServerItems, unmergedRanges } from "./pass_roots.ts";
import { fieldU64, hiWord, isZero, loWord, rawU64 } from "./raw.ts";
import type { RawBlock } from "./source.ts";
import type { SpaceMap } from "./space.ts";
import { type ItemSink, streamItems, type StreamTree } from "./stream.ts";
import { type Leaf, type Parent, TreeWalk } from "./tree_walk.ts";
import type { SrchEntry } from "../../format/srch.ts";

const SEQ = 40;
const VAL_OFF = 48;
const FLAGS = 52;

/** Leaves that all trees together read ahead, and the least a tree gets. */
const READ_AHEAD = 128;
const MIN_WINDOW = 4;

export interface ItemTotals {
  inodes: number;
  directories: number;
  items: number;
}

/** Checks all items; `again` repeats the reading only to collect facts. */
export function checkItems(
  cx: CheckContext,
  items: ServerItems,
  facts: FactBook,
  space: SpaceMap | null,
): ItemTotals {
  const superSeq = fieldU64(cx.sb, 72);
  let maxSeq = superSeq;
  for (const { lt } of items.logTrees) maxSeq = Math.max(maxSeq, lt.maxItemSeq);
  const mergeSeq = items.merge.status?.seq ?? 0;
  const window = Math.max(MIN_WINDOW, Math.floor(READ_AHEAD / (1 + items.logTrees.length)));
  const trees: StreamTree[] = [], lastParents: Parent[] = [];
  const fsRoot = new VersionCheck(cx, "fs_root", false, maxSeq, null);
  trees.push({
    walk: new TreeWalk(cx, cx.sb.fsRoot, {
      what: "fs_root",
      owner: cx.fsRootOwner,
      window,
      ...(items.merge.requests.length === 0
        ? {}
        : { onParent: (p: Parent) => void (p.level === 1 && lastParents.push(p)) }),
    }),
    cls: "fs",
    onLeaf: (leaf) => fsRoot.leaf(leaf),
  });
  const blooms: RawBlock[] = [];
  for (const tree of items.logTrees) {
    const bloom = readBloom(cx, tree, blooms);
    const { lt, what } = tree;
    const versions = new VersionCheck(cx, what, true, Math.min(lt.maxItemSeq, maxSeq), bloom);
    const input = lt.isFinalized && (mergeSeq === 0 || lt.finalizeSeq < mergeSeq);
    const owner = cx.owners.define(`items of ${what}`, false);
    trees.push({
      walk: new TreeWalk(cx, lt.itemRoot, { what: `items of ${what}`, owner, log: true, window }),
      cls: input ? "input" : "log",
      onLeaf: (leaf) => versions.leaf(leaf),
    });
  }
  const parents = new ParentMap();
  const nextIno = fieldU64(cx.sb, 80);
  const sink = new VisibleItems(
    cx,
    facts,
    new InodeCheck(cx, facts, space, parents, nextIno, maxSeq),
  );
  streamItems(trees, sink, mergedKeys(items.merge));
  sink.finish();
  checkMergeRoots(cx, items.merge, lastParents);
  for (const b of blooms) cx.source.release(b);
  parents.check(
    ROOT_INO,
    (ino, parent) => cx.report.add("dir-parent-missing", { ino, parent }),
    (ino) => cx.report.add("dir-cycle", { ino }),
  );
  if (!sink.rootSeen) cx.report.add("root-inode", { why: "it is missing" });
  return { inodes: sink.inodes.inodes, directories: sink.inodes.directories, items: sink.items };
}

/** Which keys a running merge is done with; null when there is none. */
function mergedKeys(merge: MergeState): ((v: DataView, key: number) => boolean) | null {
  if (merge.status === null) return null;
  const ranges = unmergedRanges(merge);
  return (v, at) => {
    const key = Key.read(v, at);
    return !ranges.some((r) => key.compare(r.start) >= 0 && key.compare(r.end) <= 0);
  };
}

/** Requests and completions are for a last-level parent of fs_root, or for all of it (03 §17.3). */
function checkMergeRoots(cx: CheckContext, merge: MergeState, parents: readonly Parent[]): void {
  const subtrees = cx.sb.fsRoot.height > 2;
  const bad = (what: string, why: string) => cx.report.add("merge", { what, why });
  for (const { r, what } of merge.requests) {
    if (((r.flags & LOG_MERGE_REQUEST_SUBTREE) !== 0) !== subtrees) {
      bad(what, `flags ${r.flags} with fs_root of height ${cx.sb.fsRoot.height}`);
    }
    if (!subtrees) {
      if (!bytesEqual(r.root.bytes, cx.sb.fsRoot.bytes)) bad(what, "its root is not fs_root");
      continue;
    }
    const ref = toRef(r.root.ref);
    const parent = parents.find((p) =>
      p.ref.blkno === ref.blkno && p.ref.seqLo === ref.seqLo && p.ref.seqHi === ref.seqHi
    );
    if (parent === undefined || r.root.height !== 2) bad(what, "its root is no part of fs_root");
    else if (r.start.compare(parent.lo) < 0 || r.end.compare(parent.hi) > 0) {
      bad(what, "its range is not within its root");
    }
  }
}

/** Claims and checks the bloom block of a log tree; null when there is none to test with. */
function readBloom(cx: CheckContext, tree: LogTree, blooms: RawBlock[]): RawBlock | null {
  const { lt, what } = tree;
  if (lt.bloomRef.isNull) return null;
  const b = cx.source.acquire();
  const owner = cx.owners.define(`bloom block of ${what}`, false);
  if (!follow(cx, toRef(lt.bloomRef), MAGIC_BLOOM, owner, b)) {
    cx.source.release(b);
    return null;
  }
  blooms.push(b);
  let set = 0;
  const words = new Uint32Array(
    b.buf.buffer,
    b.buf.byteOffset + BloomBlock.SIZE,
    FOREST_BLOOM_BITS / 32,
  );
  for (let w of words) {
    for (; w !== 0; w &= w - 1) set++;
  }
  const total = rawU64(b.v, 32);
  if (total !== set) cx.report.add("bloom-count", { what, value: total, found: set });
  return b;
}

/** What must hold for every version in one tree, visible or not. */
class VersionCheck {
  // The lock range that the last item belonged to.
  #zone = -1;
  #type = -1;
  #groupHi = -1;
  #groupLo = -1;

  constructor(
    private readonly cx: CheckContext,
    private readonly what: string,
    private readonly log: boolean,
    private readonly maxSeq: number,
    private readonly bloom: RawBlock | null,
  ) {}

  leaf(leaf: Leaf): void {
    const { u32 } = leaf.b, { order, nr } = leaf;
    const maxHi = hiWord(this.maxSeq), maxLo = loWord(this.maxSeq);
    let kept = 0;
    for (let i = 0; i < nr; i++) {
      const item = order[i] as number;
      if (this.#allowed(leaf.b, item)) order[kept++] = item;
      const seqHi = u32[item + SEQ + 4 >> 2] as number;
      if (seqHi > maxHi || seqHi === maxHi && (u32[item + SEQ >> 2] as number) > maxLo) {
        this.cx.report.add("item-seq", {
          what: this.what,
          key: keyText(leaf.b.v, item),
          seq: rawU64(leaf.b.v, item + SEQ),
          max: this.maxSeq,
        });
      }
      if (this.bloom !== null) this.#bloomed(leaf.b.v, item);
    }
    leaf.nr = kept;
  }

  /** Key and length are ones that a filesystem item can have. */
  #allowed(b: RawBlock, item: number): boolean {
    const { u32 } = b, w = item + KEY >> 2;
    const firstLo = u32[w]!, firstHi = u32[w + 1]!, secondLo = u32[w + 2]!, secondHi = u32[w + 3]!;
    const thirdLo = u32[w + 4]!, thirdHi = u32[w + 5]!, rest = u32[w + 6]!;
    const fourth = rest & 255, zone = rest >>> 8 & 255, type = rest >>> 16 & 255;
    // Numbers of the format are below 2^53.
    const first = firstHi < 0x20_0000, second = secondHi < 0x20_0000, third = thirdHi < 0x20_0000;
    let right = false, low = 0, high = 0, fields = true;
    switch (zone) {
      case ZONE_INODE_INDEX:
        right = type === TYPE_INODE_INDEX_META_SEQ || type === TYPE_INODE_INDEX_DATA_SEQ;
        fields = (firstLo | firstHi | fourth) === 0 && second && third;
        break;
      case ZONE_ORPHAN:
        right = type === TYPE_ORPHAN;
        fields = (firstLo | firstHi | thirdLo | thirdHi | fourth) === 0 && second;
        break;
      case ZONE_QUOTA:
        right = type === TYPE_QUOTA_RULE && this.cx.fmtVers >= 2;
        fields = (firstLo | firstHi | fourth) === 0;
        low = high = QuotaRuleVal.SIZE;
        break;
      case ZONE_XATTR_TOTL:
        right = type === 0;
        fields = fourth === 0;
        low = high = 16;
        break;
      case ZONE_XATTR_INDX:
        right = type === 0 && this.cx.fmtVers >= 2;
        break;
      case ZONE_FS:
        right = true;
        switch (type) {
          case TYPE_INODE:
            fields = (secondLo | secondHi | thirdLo | thirdHi | fourth) === 0 && first;
            low = Inode.V1_SIZE;
            high = Inode.SIZE;
            break;
          case TYPE_XATTR:
            fields = first && third;
            low = 1;
            high = XATTR_PART_SIZE;
            break;
          case TYPE_DIRENT:
            fields = first && third;
            low = Dirent.SIZE + 1;
            high = Dirent.SIZE + NAME_MAX;
            break;
          case TYPE_READDIR:
            fields = first && second;
            low = Dirent.SIZE + 1;
            high = Dirent.SIZE + NAME_MAX;
            break;
          case TYPE_LINK_BACKREF:
            fields = first && second && third;
            low = Dirent.SIZE + 1;
            high = Dirent.SIZE + NAME_MAX;
            break;
          case TYPE_SYMLINK:
            fields = first && second;
            low = 1;
            high = XATTR_PART_SIZE;
            break;
          case TYPE_DATA_EXTENT:
            fields = first && second && third;
            low = high = 16;
            break;
          default:
            right = false;
        }
    }
    const length = u32[item + VAL_OFF >> 2]! >>> 16;
    const deletion = this.log && (u32[item + FLAGS >> 2]! & 255) === ITEM_FLAG_DELETION;
    if (right && fields && (deletion ? length === 0 : length >= low && length <= high)) return true;
    const values = { what: this.what, key: keyText(b.v, item) };
    if (!right) this.cx.report.add("item-zone", values);
    else if (!fields) this.cx.report.add("item-key-fields", values);
    else this.cx.report.add("item-length", { ...values, len: length });
    return false;
  }

  /** Without the three bits of its lock's start key an item is hidden from readers. */
  #bloomed(v: DataView, item: number): void {
    const key = item + KEY, zone = v.getUint8(key + 25), type = v.getUint8(key + 26);
    let hi = 0, lo = 0, lockType = 0;
    if (zone === ZONE_FS) {
      hi = v.getUint32(key + 4, true);
      lo = (v.getUint32(key, true) & ~1023) >>> 0;
    } else if (zone === ZONE_INODE_INDEX) {
      hi = v.getUint32(key + 12, true);
      lo = (v.getUint32(key + 8, true) & ~1023) >>> 0;
      lockType = type;
    } else if (zone === ZONE_ORPHAN) lockType = TYPE_ORPHAN;
    const same = zone === this.#zone && lockType === this.#type && hi === this.#groupHi &&
      lo === this.#groupLo;
    if (same) return;
    this.#zone = zone;
    this.#type = lockType;
    this.#groupHi = hi;
    this.#groupLo = lo;
    const start = zone === ZONE_INODE_INDEX
      ? Key.words(zone, 0, 0, lockType, hi, lo, 0, 0, 0)
      : Key.words(zone, hi, lo, lockType, 0, 0, 0, 0, 0);
    const bits = (this.bloom as RawBlock).buf;
    for (const bit of bloomBits(start)) {
      if (((bits[BloomBlock.SIZE + (bit >>> 3)] as number) >>> (bit & 7) & 1) === 0) {
        this.cx.report.add("bloom-bits", {
          what: this.what,
          key: keyText(v, item),
          lock: start.toString(),
        });
        return;
      }
    }
  }
}

/** What a reader sees. */
class VisibleItems implements ItemSink {
  #inoHi = -1;
  #inoLo = -1;
  #quotaHash = 0n;
  #quotaNext = 0;
  /** Rules of the current hash. */
  #quotaTwins: Uint8Array[] = [];
  items = 0;
  rootSeen = false;

  constructor(
    private readonly cx: CheckContext,
    private readonly facts: FactBook,
    readonly inodes: InodeCheck,
  ) {}

  item(b: BlockBytes, item: number): void {
    const v = b.v, key = item + KEY;
    this.items++;
    switch (v.getUint8(key + 25)) {
      case ZONE_FS: {
        const hi = v.getUint32(key + 4, true), lo = v.getUint32(key, true);
        if (hi !== this.#inoHi || lo !== this.#inoLo) {
          if (this.#inoHi >= 0) this.inodes.end();
          this.#inoHi = hi;
          this.#inoLo = lo;
          if (hi === 0 && lo === ROOT_INO && v.getUint8(key + 26) === TYPE_INODE) {
            this.rootSeen = true;
          }
          this.inodes.begin(hi, lo);
        }
        this.inodes.item(b, item);
        break;
      }
      case ZONE_INODE_INDEX:
        this.facts.add(
          v.getUint8(key + 26) === TYPE_INODE_INDEX_META_SEQ ? FACT_META_INDEX : FACT_DATA_INDEX,
          SIDE_ITEM,
          v.getUint32(key + 12, true),
          v.getUint32(key + 8, true),
          v.getUint32(key + 20, true),
          v.getUint32(key + 16, true),
        );
        break;
      case ZONE_ORPHAN:
        this.facts.add(
          FACT_ORPHAN,
          SIDE_ITEM,
          v.getUint32(key + 12, true),
          v.getUint32(key + 8, true),
          0,
          0,
        );
        break;
      case ZONE_QUOTA:
        this.#quota(b, item);
        break;
      case ZONE_XATTR_INDX:
        this.facts.add(
          FACT_INDX,
          SIDE_ITEM,
          v.getUint32(key + 4, true),
          v.getUint32(key, true),
          v.getUint32(key + 12, true),
          v.getUint32(key + 8, true),
          v.getUint32(key + 20, true),
          v.getUint32(key + 16, true),
          v.getUint8(key + 24),
        );
        break;
    }
  }

  totl(b: BlockBytes, item: number, total: bigint, count: bigint): void {
    const v = b.v, key = item + KEY;
    this.items++;
    this.facts.addTotal(
      SIDE_ITEM,
      v.getBigUint64(key, true),
      v.getBigUint64(key + 8, true),
      v.getBigUint64(key + 16, true),
      total,
      count,
    );
  }

  unmerged(b: BlockBytes, item: number): void {
    this.cx.report.add("item-unmerged", { key: keyText(b.v, item) });
  }

  stale(b: BlockBytes, item: number): void {
    this.cx.report.add("item-stale", { key: keyText(b.v, item) });
  }

  finish(): void {
    if (this.#inoHi >= 0) this.inodes.end();
  }

  #quota(b: BlockBytes, item: number): void {
    const v = b.v, key = item + KEY, off = v.getUint16(item + VAL_OFF, true);
    const val = b.buf.subarray(off, off + QuotaRuleVal.SIZE);
    const rule = QuotaRuleVal.at(val);
    const bad = (why: string) => this.cx.report.add("quota-rule", { key: keyText(v, item), why });
    const hash = v.getBigUint64(key + 8, true), nr = rawU64(v, key + 16);
    if (hash !== fnv1a64(val)) bad("its hash is not that of its value");
    const expected = hash === this.#quotaHash ? this.#quotaNext : 0;
    if (nr !== expected) bad(`number ${nr} of its hash, expected ${expected}`);
    if (hash !== this.#quotaHash) this.#quotaTwins.length = 0;
    if (this.#quotaTwins.some((other) => bytesEqual(other, val))) bad("it is there twice");
    this.#quotaTwins.push(val.slice());
    this.#quotaHash = hash;
    this.#quotaNext = nr + 1;
    if (rule.op > 2) bad(`operation ${rule.op}`);
    if ((rule.ruleFlags & ~QUOTA_RULE_TOTL_COUNT) !== 0) bad(`unknown flags ${rule.ruleFlags}`);
    if (!isZero(val, 41, 7)) bad("padding is not zero");
    for (let i = 0; i < 3; i++) {
      const source = rule.nameSource(i), flags = rule.nameFlags(i);
      if (source > QUOTA_SOURCE_GID) bad(`source ${source} of name part ${i}`);
      if ((flags & ~QUOTA_NAME_SELECT) !== 0) bad(`unknown flags ${flags} of name part ${i}`);
      if ((flags & QUOTA_NAME_SELECT) === 0) continue;
      if (source === 0) bad(`name part ${i} selects by a literal`);
      for (let k = 0; k < i; k++) {
        const selects = (rule.nameFlags(k) & QUOTA_NAME_SELECT) !== 0;
        if (selects && rule.nameSource(k) === source && rule.nameVal(k) !== rule.nameVal(i)) {
          bad(`name parts ${k} and ${i} select different values of one attribute`);
        }
      }
    }
  }
}

/** A search entry for the fact book. */
export function srchFact(facts: FactBook, e: SrchEntry): void {
  const v = e.v, o = e.o;
  facts.add(
    FACT_SRCH,
    SIDE_ITEM,
    v.getUint32(o + 4, true),
    v.getUint32(o, true),
    v.getUint32(o + 12, true),
    v.getUint32(o + 8, true),
    v.getUint32(o + 20, true),
    v.getUint32(o + 16, true),
  );
}
