/**
 * An offline checker of the volume's books (03 §26.1–26.4): every metadata block has exactly one
 * owner, every data block is accounted for, counts equal what they count. It reads the device with
 * the format's codecs only, so that it shares no tree, list or allocator code with what it checks.
 */

import {
  AllocListBlock,
  type AllocListHead,
  type AllocRoot,
  decodeFreeExtent,
  extentOrder,
  freeExtentKeyOrder,
} from "../../format/alloc.ts";
import { BlockHeader, BlockRef } from "../../format/block.ts";
import type { BtreeRoot } from "../../format/btree.ts";
import {
  type BlockBytes,
  blockLevel,
  firstItem,
  itemFlags,
  itemKey,
  itemSeq,
  itemVal,
  nextItem,
} from "../../format/btree_block.ts";
import { verifyBtreeBlock } from "../../format/btree_verify.ts";
import { BloomBlock } from "../../format/bloom.ts";
import {
  DATA_DEV_START_BLKNO,
  ITEM_FLAG_DELETION,
  LG_SIZE,
  MAGIC_ALLOC_LIST,
  MAGIC_BLOOM,
  MAGIC_BTREE,
  MAGIC_SRCH_BLOCK,
  MAGIC_SRCH_PARENT,
  META_DEV_START_BLKNO,
  SM_SIZE,
  SRCH_COMPACT_DELETE,
  SRCH_PARENT_REFS,
  SUPER_BLKNO,
  TYPE_DATA_EXTENT,
  TYPE_INODE,
  TYPE_SRCH_BLOCKS,
  TYPE_SRCH_BUSY,
  TYPE_SRCH_LOG,
  TYPE_SRCH_PENDING,
  ZONE_FREE_EXTENT_BLKNO,
  ZONE_FREE_EXTENT_ORDER,
  ZONE_FS,
  ZONE_LOG_MERGE_COMPLETE,
  ZONE_LOG_MERGE_FREEING,
  ZONE_LOG_MERGE_RANGE,
  ZONE_LOG_MERGE_REQUEST,
  ZONE_LOG_MERGE_STATUS,
} from "../../format/constants.ts";
import { blockCrcOk } from "../../format/crc32c.ts";
import { bloomBits } from "../../format/hash.ts";
import { DataExtentVal } from "../../format/items.ts";
import { Key, rangesOverlap } from "../../format/key.ts";
import { lockRangeOfItem } from "../../format/lock_ranges.ts";
import { LogTrees } from "../../format/log_trees.ts";
import {
  LogMergeComplete,
  LogMergeFreeing,
  LogMergeRange,
  LogMergeRequest,
  LogMergeStatus,
} from "../../format/merge.ts";
import { SrchCompact, SrchFile, SrchParent } from "../../format/srch.ts";
import { SuperBlock } from "../../format/super.ts";
import type { Device } from "../../fs/device.ts";

export interface Ownership {
  /** Empty for a sound volume. */
  problems: string[];
  superBlock: SuperBlock;
  logTrees: LogTrees[];
  mountedRids: bigint[];
  /** Free blocks as STATFS counts them (03 §15.12). */
  freeMeta: number;
  freeData: number;
  /** Inode items of the resolved view. */
  inodes: number;
  /**
   * Blocks with no owner; not a problem where they look like those that the reference leaks (T2).
   */
  leaked: number[];
}

/** Checks the volume whose metadata device is `dev`, as its super block says. */
export function checkOwnership(dev: Device): Ownership {
  return new Checker(dev).run();
}

interface Version {
  seq: number;
  flags: number;
  key: Key;
  val: Uint8Array;
}

class Checker {
  private readonly problems: string[] = [];
  private readonly sb: SuperBlock;
  private readonly scratch: Uint8Array;
  private readonly owner: (string | undefined)[];
  private readonly dataOwner: Uint8Array;
  private readonly resolved = new Map<string, Version>();
  private readonly logTrees: LogTrees[] = [];
  private readonly busyRids = new Set<bigint>();
  private freeMeta = 0;
  private freeData = 0;

  constructor(private readonly dev: Device) {
    this.scratch = dev.allocBuffer(LG_SIZE);
    const buf = this.fetch(SUPER_BLKNO * SM_SIZE, SM_SIZE);
    this.sb = SuperBlock.at(buf);
    this.owner = new Array<string | undefined>(this.sb.totalMetaBlocks);
    this.dataOwner = new Uint8Array(this.sb.totalDataBlocks);
    if (!blockCrcOk(buf)) this.problem("super block: bad crc");
  }

  run(): Ownership {
    const { sb } = this;
    for (let i = 0; i < META_DEV_START_BLKNO; i++) this.claim(i, "static");
    for (let i = 0; i < DATA_DEV_START_BLKNO; i++) this.dataOwner[i] = 1;
    this.tree(sb.fsRoot, "fs_root", (v) => {
      if ((v.flags & ITEM_FLAG_DELETION) !== 0) this.problem(`fs_root: deletion item ${v.key}`);
      this.resolve(v);
    });
    for (let i = 0; i < 2; i++) {
      this.extents(sb.metaAlloc(i), `meta_alloc[${i}]`, "meta");
      this.list(sb.serverMetaAvail(i), `server_meta_avail[${i}]`);
      this.list(sb.serverMetaFreed(i), `server_meta_freed[${i}]`);
    }
    this.extents(sb.dataAlloc, "data_alloc", "data");
    this.tree(sb.logsRoot, "logs_root", (v) => this.logTree(v));
    const mountedRids: bigint[] = [];
    this.tree(sb.mountedClients, "mounted_clients", (v) => {
      if (v.val.length !== 40) this.problem(`mounted client ${v.key}: ${v.val.length} bytes`);
      mountedRids.push(v.key.firstBig);
    });
    this.srch();
    this.merge();
    this.owners(mountedRids);
    const inodes = this.accountData();
    const delta = this.logTrees.reduce((sum, lt) => sum + lt.inodeCountDelta, 0);
    if (inodes !== sb.inodeCount + delta) {
      this.problem(`${inodes} inodes, but inode_count ${sb.inodeCount} and deltas ${delta}`);
    }
    const leaked: number[] = [];
    for (let i = 0; i < this.owner.length; i++) if (this.owner[i] === undefined) leaked.push(i);
    const ours = leaked.filter((blkno) => !this.isLevelOne(blkno));
    if (ours.length > 0) this.problem(`leaked metadata blocks: ${ours.slice(0, 20)}`);
    return {
      problems: this.problems,
      superBlock: sb,
      logTrees: this.logTrees,
      mountedRids,
      freeMeta: this.freeMeta,
      freeData: this.freeData,
      inodes,
      leaked,
    };
  }

  private problem(text: string): void {
    this.problems.push(text);
  }

  private claim(blkno: number, what: string): boolean {
    if (!(blkno < this.owner.length)) {
      this.problem(`${what}: block ${blkno} is outside the device`);
      return false;
    }
    const before = this.owner[blkno];
    if (before !== undefined) {
      this.problem(`block ${blkno} belongs to ${before} and to ${what}`);
      return false;
    }
    this.owner[blkno] = what;
    return true;
  }

  /** A copy of `len` bytes of the device; direct I/O wants the device's own buffers. */
  private fetch(off: number, len: number): Uint8Array {
    const window = this.scratch.subarray(0, len);
    this.dev.read(window, off);
    return window.slice();
  }

  private isLevelOne(blkno: number): boolean {
    const buf = this.fetch(blkno * LG_SIZE, LG_SIZE);
    return BlockHeader.at(buf).magic === MAGIC_BTREE && blockLevel({ buf, v: viewOf(buf) }) === 1;
  }

  private read(ref: BlockRef, magic: number, what: string): BlockBytes | null {
    if (ref.blkno < META_DEV_START_BLKNO || ref.blkno >= this.sb.totalMetaBlocks) {
      this.problem(`${what}: reference to block ${ref.blkno}`);
      return null;
    }
    const buf = this.fetch(ref.blkno * LG_SIZE, LG_SIZE);
    const hdr = BlockHeader.at(buf);
    const bad = !blockCrcOk(buf)
      ? "crc"
      : hdr.magic !== magic
      ? "magic"
      : hdr.fsid !== this.sb.hdr.fsid
      ? "fsid"
      : hdr.blkno !== ref.blkno
      ? "blkno"
      : hdr.seq !== ref.seq
      ? "seq"
      : null;
    if (bad !== null) {
      this.problem(`${what}: block ${ref.blkno} has a wrong ${bad}`);
      return null;
    }
    return { buf, v: viewOf(buf) };
  }

  /**
   * Claims the blocks of a tree and visits its items in key order. `shared`: blocks of that owner
   * are met again and left to it. `from`: what lies wholly below it has been freed.
   */
  private tree(
    root: BtreeRoot,
    what: string,
    visit: (v: Version) => void,
    opts: { log?: boolean; shared?: string; from?: Key; subtree?: boolean } = {},
  ): void {
    if (root.height === 0) {
      if (!root.ref.isNull) this.problem(`${what}: empty root with a reference`);
      return;
    }
    const walk = (ref: BlockRef, level: number, lo: Key, hi: Key, rightSpine: boolean): void => {
      if (opts.shared !== undefined && this.owner[ref.blkno] === opts.shared) return;
      if (!this.claim(ref.blkno, what)) return;
      const b = this.read(ref, MAGIC_BTREE, what);
      if (b === null) return;
      const expected = { level, lo, hi, rightSpine, logTree: opts.log === true };
      for (const f of verifyBtreeBlock(b, expected)) {
        this.problem(`${what}: block ${ref.blkno}: ${f.message}`);
      }
      let childLo = lo;
      for (let i = firstItem(b); i !== 0; i = nextItem(b, i)) {
        const key = itemKey(b, i);
        if (level === 0) {
          visit({ seq: itemSeq(b, i), flags: itemFlags(b, i), key, val: itemVal(b, i).slice() });
          continue;
        }
        const last = nextItem(b, i) === 0;
        if (opts.from === undefined || key.compare(opts.from) >= 0) {
          walk(refOf(itemVal(b, i)), level - 1, childLo, last ? hi : key, rightSpine && last);
        }
        childLo = key.inc();
      }
    };
    walk(root.ref, root.height - 1, Key.ZEROS, Key.ONES, opts.subtree !== true);
  }

  /**
   * A list: its blocks are used, what they list is free. `skip`: entries that are owned elsewhere.
   */
  private list(head: AllocListHead, what: string, skip?: (blkno: number) => boolean): void {
    let total = 0, first = true;
    let ref = head.ref;
    if (ref.isNull && (head.totalNr !== 0 || head.firstNr !== 0)) {
      this.problem(`${what}: counts without blocks`);
    }
    while (!ref.isNull) {
      if (!this.claim(ref.blkno, `list block of ${what}`)) return;
      const b = this.read(ref, MAGIC_ALLOC_LIST, what);
      if (b === null) return;
      const block = AllocListBlock.at(b.buf);
      if (first && block.nr !== head.firstNr) {
        this.problem(`${what}: first_nr ${head.firstNr}, block has ${block.nr}`);
      }
      first = false;
      total += block.nr;
      for (let i = 0; i < block.nr; i++) {
        const blkno = block.entry(block.start + i);
        if (skip?.(blkno) === true) continue;
        this.claim(blkno, `free in ${what}`);
      }
      ref = block.next;
    }
    if (total !== head.totalNr) {
      this.problem(`${what}: total_nr ${head.totalNr}, blocks have ${total}`);
    }
    this.freeMeta += total;
  }

  private extents(root: AllocRoot, what: string, kind: "meta" | "data"): void {
    const byBlock: string[] = [], byOrder: string[] = [];
    let total = 0, lastEnd = -1;
    this.tree(root.root, what, (v) => {
      const e = decodeFreeExtent(v.key);
      if (v.val.length !== 0) this.problem(`${what}: ${v.key} has a value`);
      if (v.key.zone === ZONE_FREE_EXTENT_ORDER) {
        byOrder.push(`${e.start}+${e.len}`);
        if (freeExtentKeyOrder(v.key) !== extentOrder(e.len)) {
          this.problem(`${what}: order of ${v.key}`);
        }
        return;
      }
      if (v.key.zone !== ZONE_FREE_EXTENT_BLKNO) this.problem(`${what}: key ${v.key}`);
      byBlock.push(`${e.start}+${e.len}`);
      if (e.start <= lastEnd) this.problem(`${what}: extents touch at ${e.start}`);
      lastEnd = e.start + e.len;
      total += e.len;
      if (kind === "data") this.claimData(e.start, e.len, what);
      else for (let i = 0; i < e.len; i++) this.claim(e.start + i, `free in ${what}`);
    });
    if (byBlock.sort().join() !== byOrder.sort().join()) this.problem(`${what}: indexes differ`);
    if (total !== root.totalLen) {
      this.problem(`${what}: total_len ${root.totalLen}, extents ${total}`);
    }
    if (kind === "data") this.freeData += total;
    else this.freeMeta += total;
  }

  private claimData(start: number, len: number, what: string): void {
    for (let i = start; i < start + len; i++) {
      if (!(i < this.dataOwner.length)) this.problem(`${what}: data block ${i} outside the device`);
      else if (this.dataOwner[i] !== 0) this.problem(`${what}: data block ${i} owned twice`);
      this.dataOwner[i] = 1;
    }
  }

  private resolve(v: Version): void {
    const name = v.key.toString();
    const known = this.resolved.get(name);
    if (known === undefined || v.seq > known.seq) this.resolved.set(name, v);
  }

  private logTree(v: Version): void {
    const lt = LogTrees.at(v.val);
    const what = `log tree ${lt.rid}.${lt.nr}`;
    if (v.val.length !== LogTrees.SIZE) this.problem(`${what}: ${v.val.length} bytes`);
    if (lt.rid !== v.key.firstBig || lt.nr !== v.key.second) this.problem(`${what}: key ${v.key}`);
    const previous = this.logTrees.at(-1);
    if (previous?.rid === lt.rid && !previous.isFinalized) {
      this.problem(`${what}: an older tree of the mount is not finalized`);
    }
    this.logTrees.push(lt);
    if (lt.commitTransSeq > lt.getTransSeq) this.problem(`${what}: commit after get`);
    if (lt.getTransSeq > this.sb.seq) this.problem(`${what}: get_trans_seq beyond super.seq`);
    if (lt.finalizeSeq > this.sb.seq) this.problem(`${what}: finalize_seq beyond super.seq`);
    if (lt.isFinalized) {
      if (lt.finalizeSeq === 0) this.problem(`${what}: no finalize_seq`);
      if (lt.commitTransSeq !== lt.getTransSeq) this.problem(`${what}: finalized while open`);
      // A LOW flag may be left (01 §13.1: zero or total 0).
      const lists = [lt.metaAvail, lt.metaFreed], trees = [lt.dataAvail, lt.dataFreed];
      const empty = lists.every((l) => l.ref.isZero() && l.totalNr === 0) &&
        trees.every((t) => t.root.isZero() && t.totalLen === 0) && lt.srchFile.isZero();
      if (!empty) this.problem(`${what}: finalized with allocators or a srch file`);
    }
    this.list(lt.metaAvail, `meta_avail of ${what}`);
    this.list(lt.metaFreed, `meta_freed of ${what}`);
    this.extents(lt.dataAvail, `data_avail of ${what}`, "data");
    this.extents(lt.dataFreed, `data_freed of ${what}`, "data");
    this.srchFile(lt.srchFile, `srch_file of ${what}`);
    let bloom: BlockBytes | null = null;
    if (!lt.bloomRef.isNull) {
      this.claim(lt.bloomRef.blkno, `bloom of ${what}`);
      bloom = this.read(lt.bloomRef, MAGIC_BLOOM, `bloom of ${what}`);
    } else if (lt.itemRoot.height > 0) this.problem(`${what}: items without a bloom block`);
    this.tree(lt.itemRoot, `items of ${what}`, (item) => {
      if (item.seq > lt.maxItemSeq) this.problem(`${what}: ${item.key} is newer than max_item_seq`);
      const range = lockRangeOfItem(item.key);
      if (range === undefined) this.problem(`${what}: ${item.key} belongs to no lock`);
      else if (bloom !== null && !bloomBits(range.start).every((n) => bitSet(bloom, n))) {
        this.problem(`${what}: ${item.key} is not in the bloom filter`);
      }
      this.resolve(item);
    }, { log: true });
  }

  private srchFile(file: SrchFile, what: string, level = 0, firstBlock = 0): void {
    if (file.blocks === 0 || file.height === 0) return;
    const walk = (ref: BlockRef, at: number, block: number): void => {
      if (at < level - 1) return;
      // What has been freed may be something else by now.
      if (at < level && block < firstBlock && at < file.height - 1) return;
      this.claim(ref.blkno, what);
      if (at === 0) {
        // Blocks of entries are freed unread.
        if (level === 0) this.read(ref, MAGIC_SRCH_BLOCK, what);
        return;
      }
      const b = this.read(ref, MAGIC_SRCH_PARENT, what);
      if (b === null) return;
      const step = SRCH_PARENT_REFS ** (at - 1);
      for (let i = 0; i < SRCH_PARENT_REFS && block + i * step < file.blocks; i++) {
        walk(refOf(b.buf.subarray(SrchParent.SIZE + 16 * i)), at - 1, block + i * step);
      }
    };
    walk(file.ref, file.height - 1, 0);
  }

  private srch(): void {
    const inputs = new Set<number>();
    const files = new Set<number>();
    const compactions: { sc: SrchCompact; what: string }[] = [];
    this.tree(this.sb.srchRoot, "srch_root", (v) => {
      if (v.key.type === TYPE_SRCH_LOG || v.key.type === TYPE_SRCH_BLOCKS) {
        const file = SrchFile.at(v.val);
        files.add(file.ref.blkno);
        this.srchFile(file, `srch file ${v.key}`);
      } else if (v.key.type === TYPE_SRCH_PENDING || v.key.type === TYPE_SRCH_BUSY) {
        if (v.key.type === TYPE_SRCH_BUSY) this.busyRids.add(v.key.secondBig);
        compactions.push({ sc: SrchCompact.at(v.val), what: `compaction ${v.key}` });
      } else this.problem(`srch_root: key ${v.key}`);
    });
    for (const { sc, what } of compactions) {
      this.list(sc.metaAvail, `meta_avail of ${what}`);
      this.list(sc.metaFreed, `meta_freed of ${what}`);
      const deleting = (sc.flags & SRCH_COMPACT_DELETE) !== 0;
      if (!deleting) this.srchFile(sc.out, `output of ${what}`);
      for (let i = 0; i < sc.nr; i++) {
        const input = sc.in(i);
        const root = input.sfl.ref.blkno;
        if (inputs.has(root)) this.problem(`${what}: input ${root} is in two compactions`);
        inputs.add(root);
        if (!deleting && !files.has(root)) this.problem(`${what}: input ${root} is no file`);
        const level = Math.max(input.pos, 1);
        if (deleting && level <= input.sfl.height) {
          this.srchFile(input.sfl, `input of ${what}`, level, input.blk);
        }
      }
    }
  }

  private merge(): void {
    const ranges: { start: Key; end: Key; what: string }[] = [];
    let status: LogMergeStatus | null = null;
    let requests = 0, others = 0, complete = 0;
    this.tree(this.sb.logMerge, "log_merge", (v) => {
      const what = `log_merge ${v.key}`;
      switch (v.key.zone) {
        case ZONE_LOG_MERGE_STATUS:
          status = LogMergeStatus.at(v.val);
          break;
        case ZONE_LOG_MERGE_RANGE: {
          const { start, end } = LogMergeRange.at(v.val);
          ranges.push({ start, end, what });
          break;
        }
        case ZONE_LOG_MERGE_REQUEST: {
          const r = LogMergeRequest.at(v.val);
          requests++;
          this.busyRids.add(v.key.firstBig);
          ranges.push({ start: r.start, end: r.end, what });
          this.list(r.metaAvail, `meta_avail of ${what}`);
          this.list(r.metaFreed, `meta_freed of ${what}`);
          break;
        }
        case ZONE_LOG_MERGE_COMPLETE: {
          const c = LogMergeComplete.at(v.val);
          complete++;
          if (c.metaAvail.isZero() && c.metaFreed.isZero()) break;
          this.list(c.metaAvail, `meta_avail of ${what}`);
          this.list(c.metaFreed, `meta_freed of ${what}`, (b) => this.owner[b] === "fs_root");
          this.tree(c.root, what, () => {}, { shared: "fs_root", subtree: true });
          break;
        }
        case ZONE_LOG_MERGE_FREEING: {
          const f = LogMergeFreeing.at(v.val);
          if (!f.key.equals(Key.ONES)) {
            this.tree(f.root, what, () => {}, { log: true, from: f.key });
          }
          others++;
          break;
        }
        default:
          this.problem(`log_merge: key ${v.key}`);
      }
    });
    for (const [i, a] of ranges.entries()) {
      for (const b of ranges.slice(i + 1)) {
        if (rangesOverlap(a.start, a.end, b.start, b.end)) {
          this.problem(`${a.what} overlaps ${b.what}`);
        }
      }
    }
    const found = status as LogMergeStatus | null;
    if (found === null) {
      if (ranges.length + complete > 0) this.problem("log_merge: items without a status");
    } else {
      if (found.nrRequests !== requests) this.problem(`log_merge: nr_requests ${found.nrRequests}`);
      if (found.nrComplete < complete) this.problem(`log_merge: nr_complete ${found.nrComplete}`);
    }
  }

  private owners(mounted: readonly bigint[]): void {
    for (const lt of this.logTrees) if (!lt.isFinalized) this.busyRids.add(lt.rid);
    for (const rid of this.busyRids) {
      if (!mounted.includes(rid)) this.problem(`rid ${rid} owns something but is not mounted`);
    }
  }

  private accountData(): number {
    let inodes = 0;
    for (const { key, flags, val } of this.resolved.values()) {
      if ((flags & ITEM_FLAG_DELETION) !== 0 || key.zone !== ZONE_FS) continue;
      if (key.type === TYPE_INODE) inodes++;
      if (key.type !== TYPE_DATA_EXTENT) continue;
      const blkno = DataExtentVal.at(val).blkno;
      if (blkno !== 0) this.claimData(blkno, key.third, `file extent ${key}`);
    }
    const lost = this.dataOwner.reduce((n, o) => n + (o === 0 ? 1 : 0), 0);
    if (lost > 0) {
      this.problem(`${lost} data blocks belong to nobody, first ${this.dataOwner.indexOf(0)}`);
    }
    return inodes;
  }
}

function viewOf(buf: Uint8Array): DataView {
  return new DataView(buf.buffer, buf.byteOffset, buf.length);
}

function refOf(val: Uint8Array): BlockRef {
  return BlockRef.at(val);
}

function bitSet(bloom: BlockBytes, n: number): boolean {
  return (bloom.v.getUint8(BloomBlock.SIZE + (n >> 3)) >> (n & 7) & 1) !== 0;
}
