/**
 * Everything that an offline checker can say of a volume (01 §19, 03 §26, 02 §24): the books
 * (ownership.ts), the namespace (check_namespace.ts), and here the rules that neither has: both
 * super blocks, quorum blocks, zones, sequence numbers, bloom blocks, search files, and what a clean
 * volume must not have any more. It trusts the trees' structure only after the books were found
 * sound.
 */

import { BlockHeader } from "../../format/block.ts";
import { BloomBlock } from "../../format/bloom.ts";
import type { BtreeRoot } from "../../format/btree.ts";
import {
  FOREST_BLOOM_BITS,
  LG_SIZE,
  MAGIC_BLOOM,
  MAGIC_QUORUM,
  MAGIC_SUPER,
  QUORUM_BLKNO,
  QUORUM_BLOCKS,
  QUORUM_EVENT_BEGIN,
  QUORUM_EVENT_END,
  SM_SIZE,
  SUPER_BLKNO,
  TYPE_DATA_EXTENT,
  TYPE_INODE,
  TYPE_SRCH_BLOCKS,
  TYPE_SRCH_LOG,
  ZONE_FS,
  ZONE_INODE_INDEX,
  ZONE_ORPHAN,
  ZONE_QUOTA,
  ZONE_XATTR_INDX,
  ZONE_XATTR_TOTL,
} from "../../format/constants.ts";
import { blockCrcOk } from "../../format/crc32c.ts";
import { bytesEqual } from "../../format/bytes.ts";
import { DataExtentVal, Inode } from "../../format/items.ts";
import { Key } from "../../format/key.ts";
import { QuorumBlock } from "../../format/quorum.ts";
import { forEachSrchEntry, SrchBlock, SrchEntry, SrchFile, srchHeight } from "../../format/srch.ts";
import { SuperBlock } from "../../format/super.ts";
import { BlockCache } from "../../fs/block_cache.ts";
import { forEachItem } from "../../fs/btree.ts";
import type { Device } from "../../fs/device.ts";
import { forEachLogTree } from "../../fs/forest.ts";
import { walkSrchBlocks } from "../../fs/srch_file.ts";
import { checkNamespace, collectItems, collectSearch } from "./check_namespace.ts";
import { checkOwnership, type Ownership } from "./ownership.ts";
import { SeededRandom } from "./sim_reactor.ts";

export interface VolumeCheckOptions {
  /** Nothing is mounted and everything was unmounted properly. */
  clean?: boolean;
}

export interface VolumeCheck extends Ownership {
  /** Inodes without links, which wait for their deletion. */
  orphans: number[];
}

/** All violations are in `problems`, one line each. */
export function checkVolume(
  meta: Device,
  data: Device,
  options: VolumeCheckOptions = {},
): VolumeCheck {
  const books = checkOwnership(meta);
  const check = { ...books, problems: [...books.problems], orphans: [] as number[] };
  const bad = (text: string): void => void check.problems.push(text);
  checkSupers(meta, data, books.superBlock, bad);
  checkQuorumBlocks(meta, books.superBlock, options.clean === true, bad);
  if (options.clean === true) checkClean(books, bad);
  if (books.problems.length > 0) return check;

  const cache = new BlockCache(meta, books.superBlock.hdr.fsid, {
    limitBytes: 32 << 20,
    random: new SeededRandom(1),
  });
  const { fsRoot, logsRoot, srchRoot } = books.superBlock;
  checkSeqs(cache, books, bad);
  checkBlooms(cache, books, bad);
  checkSearchFiles(cache, books, bad);
  const items = collectItems(cache, { fsRoot, logsRoot });
  for (
    const line of checkNamespace(items, books.inodes, collectSearch(cache, { srchRoot, logsRoot }))
  ) {
    bad(line);
  }
  for (const { key, val } of items) {
    if (key.zone === ZONE_ORPHAN) check.orphans.push(key.second);
    if (key.zone !== ZONE_FS) continue;
    if (key.first >= books.superBlock.nextIno) bad(`${key}: inode number beyond next_ino`);
    const native = books.superBlock.fmtVers === 1 ? Inode.V1_SIZE : Inode.SIZE;
    // Upgrading rewrites no items (01 §16).
    if (key.type === TYPE_INODE && val.length !== Inode.V1_SIZE && val.length !== native) {
      bad(`${key}: ${val.length} bytes`);
    }
    if (key.type === TYPE_DATA_EXTENT && (DataExtentVal.at(val).flags & ~3) !== 0) {
      bad(`${key}: unknown flags`);
    }
  }
  checkRegularOnly(items, bad);
  return check;
}

function smallBlock(dev: Device, blkno: number): Uint8Array {
  const buf = new Uint8Array(SM_SIZE);
  dev.read(buf, blkno * SM_SIZE);
  return buf;
}

function checkSupers(
  meta: Device,
  data: Device,
  sb: SuperBlock,
  bad: (text: string) => void,
): void {
  const bytes = smallBlock(data, SUPER_BLKNO);
  const copy = SuperBlock.at(bytes);
  if (!blockCrcOk(bytes)) bad("data super: bad crc");
  for (const [what, s] of [["meta", sb], ["data", copy]] as const) {
    if (s.hdr.magic !== MAGIC_SUPER || s.hdr.blkno !== SUPER_BLKNO) bad(`${what} super: header`);
    if (s.flags !== (what === "meta" ? 1 : 0)) bad(`${what} super: flags ${s.flags}`);
    // On the data device the options are those of mkfs and never updated (01 §2.3).
    if (s === sb && (s.volopt.setBits & ~1n) !== 0n) bad(`${what} super: unknown options`);
  }
  if (copy.hdr.fsid !== sb.hdr.fsid || !bytesEqual(copy.uuid, sb.uuid)) {
    bad("data super: of another volume");
  }
  if (copy.fmtVers !== sb.fmtVers) bad("data super: other format version");
  if (sb.totalMetaBlocks > Math.floor(meta.size / LG_SIZE)) bad("meta super: beyond the device");
  if (sb.totalDataBlocks > Math.floor(data.size / SM_SIZE)) bad("data super: beyond the device");
}

function checkQuorumBlocks(
  meta: Device,
  sb: SuperBlock,
  clean: boolean,
  bad: (text: string) => void,
): void {
  for (let i = 0; i < QUORUM_BLOCKS; i++) {
    const bytes = smallBlock(meta, QUORUM_BLKNO + i);
    const q = QuorumBlock.at(bytes);
    const what = `quorum block ${i}`;
    if (!blockCrcOk(bytes)) bad(`${what}: bad crc`);
    const { magic, fsid, blkno } = q.hdr;
    if (magic !== MAGIC_QUORUM || fsid !== sb.hdr.fsid || blkno !== QUORUM_BLKNO + i) {
      bad(`${what}: header`);
    }
    for (let e = 0; e < 6; e++) {
      if (q.events(e).writeNr > q.writeNr) bad(`${what}: event ${e} is newer than the block`);
    }
    if (clean && q.events(QUORUM_EVENT_BEGIN).writeNr > q.events(QUORUM_EVENT_END).writeNr) {
      bad(`${what}: its service did not end`);
    }
  }
}

function checkClean(books: Ownership, bad: (text: string) => void): void {
  if (books.mountedRids.length > 0) bad(`clean, but mounted: ${books.mountedRids}`);
  for (const lt of books.logTrees) {
    if (!lt.isFinalized) bad(`clean, but log tree ${lt.rid}.${lt.nr} is not finalized`);
  }
}

const ITEM_ZONES = new Set([
  ZONE_INODE_INDEX,
  ZONE_ORPHAN,
  ZONE_QUOTA,
  ZONE_XATTR_TOTL,
  ZONE_XATTR_INDX,
  ZONE_FS,
]);

/** Zones of items, and the rules of their sequence numbers (03 §26.4). */
function checkSeqs(cache: BlockCache, books: Ownership, bad: (text: string) => void): void {
  const { superBlock: sb } = books;
  const merged = new Map<string, number>();
  const logged = new Map<string, { seq: number; flags: number; val: Uint8Array }>();
  let greatest = sb.seq;
  forEachLogTree({ cache }, sb.logsRoot, (lt) => {
    greatest = Math.max(greatest, lt.maxItemSeq);
  });
  const visit = (root: BtreeRoot, inLog: boolean): void => {
    forEachItem({ cache }, root, Key.ZEROS, ({ key, seq, flags, val }) => {
      if (!ITEM_ZONES.has(key.zone)) bad(`item ${key} in a zone of other trees`);
      if (seq > greatest) bad(`item ${key}: seq ${seq} was never given out`);
      const name = key.toString();
      if (!inLog) {
        merged.set(name, seq);
        return;
      }
      const other = logged.get(name);
      if (other !== undefined && other.seq === seq && key.zone !== ZONE_XATTR_TOTL) {
        if (other.flags !== flags || !bytesEqual(other.val, val)) {
          bad(`item ${key}: two versions of seq ${seq} differ`);
        }
      }
      if (other === undefined || other.seq < seq) {
        logged.set(name, { seq, flags, val: val.slice() });
      }
    });
  };
  visit(sb.fsRoot, false);
  forEachLogTree({ cache }, sb.logsRoot, (lt) => visit(lt.itemRoot, true));
  for (const [name, { seq }] of logged) {
    const old = merged.get(name);
    if (old !== undefined && old > seq) bad(`item ${name}: merged seq ${old}, logged ${seq}`);
  }
}

function checkBlooms(cache: BlockCache, books: Ownership, bad: (text: string) => void): void {
  for (const lt of books.logTrees) {
    if (lt.bloomRef.isNull) continue;
    const block = cache.read(lt.bloomRef, MAGIC_BLOOM);
    const bits = block.buf.subarray(BloomBlock.SIZE, BloomBlock.SIZE + FOREST_BLOOM_BITS / 8);
    let set = 0;
    for (let byte of bits) for (; byte !== 0; byte &= byte - 1) set++;
    const { totalSet } = BloomBlock.at(block.buf);
    if (set !== totalSet) {
      bad(`bloom of log tree ${lt.rid}.${lt.nr}: ${set} bits, total_set ${totalSet}`);
    }
  }
}

function checkSearchFiles(cache: BlockCache, books: Ownership, bad: (text: string) => void): void {
  for (const lt of books.logTrees) {
    checkSearchFile(cache, lt.srchFile, false, `srch file of ${lt.rid}.${lt.nr}`, bad);
  }
  forEachItem({ cache }, books.superBlock.srchRoot, Key.ZEROS, ({ key, val }) => {
    if (key.type !== TYPE_SRCH_LOG && key.type !== TYPE_SRCH_BLOCKS) return;
    const file = SrchFile.at(val.slice());
    checkSearchFile(cache, file, key.type === TYPE_SRCH_BLOCKS, `srch file ${key}`, bad);
  });
}

function checkSearchFile(
  cache: BlockCache,
  file: SrchFile,
  sorted: boolean,
  what: string,
  bad: (text: string) => void,
): void {
  if (file.blocks === 0) return;
  if (file.height !== srchHeight(file.blocks - 1)) bad(`${what}: height ${file.height}`);
  const first = SrchEntry.alloc(), last = SrchEntry.alloc();
  const blockFirst = SrchEntry.alloc(), blockLast = SrchEntry.alloc(), tail = SrchEntry.alloc();
  let blocks = 0, entries = 0;
  const grow = (low: SrchEntry, high: SrchEntry, e: SrchEntry, n: number): void => {
    if (n === 0 || e.compare(low) < 0) low.copyFrom(e);
    if (n === 0 || e.compare(high) > 0) high.copyFrom(e);
  };
  walkSrchBlocks({ cache }, file, ({ buf }, level, blk) => {
    if (level > 0) return;
    if (BlockHeader.at(buf).blkno === 0 || blk !== blocks) bad(`${what}: block ${blk} is missing`);
    blocks++;
    const block = SrchBlock.at(buf);
    let n = 0;
    forEachSrchEntry(block, (e) => {
      if (sorted && entries > 0 && e.compare(tail) < 0) bad(`${what}: block ${blk} is not sorted`);
      grow(blockFirst, blockLast, e, n);
      grow(first, last, e, entries);
      tail.copyFrom(e);
      n++;
      entries++;
    });
    const same = n === 0 || block.first.compare(blockFirst) === 0 &&
        block.last.compare(blockLast) === 0 && block.tail.compare(tail) === 0;
    if (!same) bad(`${what}: first, last or tail of block ${blk}`);
  });
  if (blocks !== file.blocks) bad(`${what}: ${blocks} blocks, should be ${file.blocks}`);
  if (entries !== file.entries) bad(`${what}: ${entries} entries, should be ${file.entries}`);
  if (file.first.compare(first) !== 0 || file.last.compare(last) !== 0) {
    bad(`${what}: first or last`);
  }
}

/** Extents belong to regular files only. */
function checkRegularOnly(
  items: readonly { key: Key; val: Uint8Array }[],
  bad: (text: string) => void,
): void {
  let ino = 0, regular = false;
  for (const { key, val } of items) {
    if (key.zone !== ZONE_FS) continue;
    if (key.type === TYPE_INODE) {
      ino = key.first;
      regular = (Inode.read(val, 2).mode & 0o170000) === 0o100000;
    }
    if (key.type === TYPE_DATA_EXTENT && (key.first !== ino || !regular)) {
      bad(`${key}: extent of what is no regular file`);
    }
  }
}
