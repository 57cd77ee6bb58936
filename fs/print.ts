/**
 * `print`: every metadata structure of a volume in the reference's words (05 §13), in its order
 * (01 §17.6). Reads blocks as they are, without the checks of 01 §5.2, so that damage can be looked
 * at; a live device may give inconsistent output. What cannot be shown is reported to `warn` and
 * left out, and the rest goes on: nothing here loops or fails on hostile blocks.
 *
 * Btrees are shown level by level from the root. Unlike the reference this also holds for
 * `srch_root` and `logs_root` with more than one level.
 */

import { AllocListBlock, type AllocListHead, type AllocRoot } from "../format/alloc.ts";
import { BlockHeader, type BlockRef } from "../format/block.ts";
import { type BtreeRoot } from "../format/btree.ts";
import {
  blockLevel,
  firstItem,
  HEIGHT,
  ITEM_ROOT,
  itemFlags,
  itemKey,
  LEFT,
  midFreeLen,
  nextItem,
  nrItems,
  PARENT,
  RIGHT,
  totalItemBytes,
} from "../format/btree_block.ts";
import { checkBtreeShape } from "../format/btree_verify.ts";
import {
  ALLOC_LIST_MAX_BLOCKS,
  BTREE_HEADER_BYTES,
  BTREE_ITEM_BYTES,
  BTREE_MAX_HEIGHT,
  LEAF_ITEM_HASH_NR,
  LEAF_ITEM_HASH_OFF,
  LG_SIZE,
  MAGIC_SUPER,
  QUORUM_BLKNO,
  QUORUM_BLOCKS,
  SM_SIZE,
  SRCH_BLOCK_ENTRIES_BYTES,
  SRCH_BLOCK_SAFE_BYTES,
  SRCH_PARENT_REFS,
} from "../format/constants.ts";
import { blockCrc, storedCrc } from "../format/crc32c.ts";
import { EINVAL, EIO } from "../format/errno.ts";
import { LogTrees } from "../format/log_trees.ts";
import { QuorumBlock } from "../format/quorum.ts";
import {
  decodeSrchEntry,
  SrchBlock,
  SrchCompact,
  SrchEntry,
  SrchFile,
  SrchParent,
} from "../format/srch.ts";
import { SuperBlock } from "../format/super.ts";
import type { Device } from "./device.ts";
import { FsError } from "./errors.ts";
import {
  allocRootText,
  entryText,
  eventTime,
  EXTENT_ITEMS,
  FS_ITEMS,
  hex16,
  hex8,
  isCompaction,
  type ItemPrinter,
  listHeadText,
  LOG_MERGE_ITEMS,
  LOG_TREES_ITEMS,
  MOUNTED_CLIENT_ITEMS,
  type PrintItem,
  refText,
  SRCH_ITEMS,
  superRootText,
  u64,
} from "./print_text.ts";
import { formatUuid, readRawSuper } from "./volume.ts";

export interface PrintOptions {
  /** Leave out free extents, contents of srch files and `fs_root`: what is likely to be huge. */
  skipLikelyHuge?: boolean;
  /** Takes pieces of output, lines with their newlines. */
  out(text: string): void;
  /** Takes a line about something that could not be shown. */
  warn(line: string): void;
}

/** Characters before an item hash table is wrapped, and before a list of extents is. */
const HASH_COLUMNS = 78;
const EXTS_COLUMNS = 72;
/** A radix of 4094 references a block needs no more to reach every 48-bit block number. */
const SRCH_MAX_LEVEL = 4;

/**
 * Prints the metadata device. Throws FsError(EINVAL) after the super block of a data device, and
 * for anything without a super block; FsError(EIO) at the end when some parts could not be shown.
 */
export function printVolume(dev: Device, options: PrintOptions): void {
  const block = readRawSuper(dev);
  const sb = SuperBlock.at(block);
  if (sb.hdr.magic !== MAGIC_SUPER) {
    throw new FsError(EINVAL, `${dev.name}: no ScoutFS super block found`);
  }
  const printer = new Printer(dev, options);
  printer.superBlock(sb, block);
  if (!sb.isMetaDev) {
    throw new FsError(EINVAL, "**** Printing from data device is not allowed ****");
  }
  printer.volume(sb);
  if (printer.problems > 0) {
    throw new FsError(EIO, `${printer.problems} structures could not be printed completely`);
  }
}

/** A block buffer seen both ways, as the block codec wants it. */
class RawBlock {
  readonly v: DataView;
  constructor(readonly buf: Uint8Array) {
    this.v = new DataView(buf.buffer, buf.byteOffset, buf.length);
  }
}

class Printer {
  problems = 0;
  #srchBlocksSeen = 0;
  readonly #dev: Device;
  readonly #out: (text: string) => void;
  readonly #options: PrintOptions;
  readonly #blocks: number;
  readonly #block: RawBlock;

  constructor(dev: Device, options: PrintOptions) {
    this.#dev = dev;
    this.#options = options;
    this.#out = options.out;
    this.#blocks = Math.floor(dev.size / LG_SIZE);
    this.#block = new RawBlock(dev.allocBuffer(LG_SIZE));
  }

  superBlock(sb: SuperBlock, block: Uint8Array): void {
    const lines = [
      `super blkno ${u64(sb, 24)}`,
      headerLine(sb.hdr, block),
      `  fmt_vers ${u64(sb, 40)} uuid ${formatUuid(sb.uuid)}`,
      `  flags: 0x${hex16(u64(sb, 48))}`,
      `  next_ino ${u64(sb, 80)} inode_count ${u64(sb, 88)} seq ${u64(sb, 72)}`,
      `  total_meta_blocks ${u64(sb, 96)} total_data_blocks ${u64(sb, 104)}`,
      `  meta_alloc[0]: ${allocRootText(sb.metaAlloc(0))}`,
      `  meta_alloc[1]: ${allocRootText(sb.metaAlloc(1))}`,
      `  data_alloc: ${allocRootText(sb.dataAlloc)}`,
      `  server_meta_avail[0]: ${listHeadText(sb.serverMetaAvail(0))}`,
      `  server_meta_avail[1]: ${listHeadText(sb.serverMetaAvail(1))}`,
      `  server_meta_freed[0]: ${listHeadText(sb.serverMetaFreed(0))}`,
      `  server_meta_freed[1]: ${listHeadText(sb.serverMetaFreed(1))}`,
      `  fs_root: ${superRootText(sb.fsRoot)}`,
      `  logs_root: ${superRootText(sb.logsRoot)}`,
      `  log_merge: ${superRootText(sb.logMerge)}`,
      `  mounted_clients: ${superRootText(sb.mountedClients)}`,
      `  srch_root: ${superRootText(sb.srchRoot)}`,
      "  volume options:",
      `    set_bits: ${hex16(sb.volopt.setBits)}`,
    ];
    if (sb.volopt.isSet(0)) lines.push(`    data_alloc_zone_blocks: ${sb.volopt.option(0)}`);
    lines.push(`  quorum config version ${u64(sb.qconf, 0)}`);
    for (const nr of sb.qconf.presentSlots()) {
      lines.push(`    quorum slot ${String(nr).padStart(2)}: ${sb.qconf.slots(nr).addr}`);
    }
    this.#out(lines.join("\n") + "\n");
  }

  volume(sb: SuperBlock): void {
    const huge = this.#options.skipLikelyHuge !== true;
    for (let slot = 0; slot < QUORUM_BLOCKS; slot++) this.#quorumBlock(slot);
    this.#tree("mounted_clients", sb.mountedClients, MOUNTED_CLIENT_ITEMS);
    this.#tree("log_merge", sb.logMerge, LOG_MERGE_ITEMS);
    for (const i of [0, 1]) this.#list(`server_meta_avail[${i}]`, sb.serverMetaAvail(i));
    for (const i of [0, 1]) this.#list(`server_meta_freed[${i}]`, sb.serverMetaFreed(i));
    if (huge) {
      for (const i of [0, 1]) this.#extents(`meta_alloc[${i}]`, sb.metaAlloc(i));
      this.#extents("data_alloc", sb.dataAlloc);
    }
    const files: SrchFile[] = [];
    this.#tree("srch_root", sb.srchRoot, SRCH_ITEMS, (item) => collectFiles(item, files));
    const logs: LogTrees[] = [];
    this.#tree("logs_root", sb.logsRoot, LOG_TREES_ITEMS, (item) => {
      if (item.valLen >= LogTrees.SIZE && item.valOff + LogTrees.SIZE <= LG_SIZE) {
        logs.push(LogTrees.at(item.block.slice(item.valOff, item.valOff + LogTrees.SIZE)));
      }
    });
    if (huge) { for (const f of files) this.#srchFile(f); }
    for (const lt of logs) {
      this.#list("lt_meta_avail", lt.metaAvail);
      this.#list("lt_meta_freed", lt.metaFreed);
      this.#extents("data_avail", lt.dataAvail);
      this.#extents("data_freed", lt.dataFreed);
      this.#srchFile(lt.srchFile);
      this.#tree("", lt.itemRoot, FS_ITEMS);
    }
    if (huge) this.#tree("fs_root", sb.fsRoot, FS_ITEMS);
  }

  #problem(line: string): void {
    this.problems++;
    this.#options.warn(line);
  }

  #quorumBlock(slot: number): void {
    const blkno = QUORUM_BLKNO + slot;
    const buf = this.#block.buf.subarray(0, SM_SIZE);
    if (!this.#readAt(buf, blkno * SM_SIZE, `quorum block ${blkno}`)) return;
    const q = QuorumBlock.at(buf);
    let text = `quorum blkno ${u64(q, 24)} (slot ${slot})\n${headerLine(q.hdr, buf)}\n` +
      `  write_nr ${u64(q, 32)}\n`;
    for (const [i, name] of ["begin", "term", "elect", "fence", "stop", "end"].entries()) {
      const e = q.events(i);
      text += `  ${name.padStart(12)}: rid ${hex16(e.rid)} term ${u64(e, 16)} write_nr ${
        u64(e, 0)
      } ts ${eventTime(e.ts)}\n`;
    }
    this.#out(text);
  }

  /** Reads into `buf`; false, and reported, when the device cannot give it. */
  #readAt(buf: Uint8Array, off: number, what: string): boolean {
    try {
      this.#dev.read(buf, off);
      return true;
    } catch (e) {
      if (!(e instanceof FsError)) throw e;
      this.#problem(`${what}: ${e.message}`);
      return false;
    }
  }

  /** Reads a large block into `into`; false, and reported, when there is no such block. */
  #read(blkno: bigint, what: string, into: RawBlock = this.#block): boolean {
    if (blkno >= BigInt(this.#blocks)) {
      this.#problem(`${what}: block ${blkno} is beyond the end of ${this.#dev.name}`);
      return false;
    }
    return this.#readAt(into.buf, Number(blkno) * LG_SIZE, what);
  }

  #extents(name: string, alloc: AllocRoot): void {
    this.#tree(name, alloc.root, EXTENT_ITEMS);
  }

  /** Prints a tree level by level, and calls `leaf` for the leaf items in key order. */
  #tree(name: string, root: BtreeRoot, items: ItemPrinter, leaf?: (item: PrintItem) => void): void {
    const first = u64(root, 0);
    if (first === 0n) return;
    let level = root.height - 1;
    if (level < 0 || level >= BTREE_MAX_HEIGHT) {
      this.#problem(`${name} btree: impossible height ${root.height}`);
      return;
    }
    for (let blknos = [first]; blknos.length > 0; level--) {
      const below: bigint[] = [];
      for (const blkno of blknos) {
        if (!this.#read(blkno, `${name} btree block ${blkno}`)) continue;
        this.#btreeBlock(name, blkno, level, items, below, leaf);
        if (below.length > this.#blocks) {
          this.#problem(`${name} btree: more references than ${this.#dev.name} has blocks`);
          return;
        }
      }
      blknos = below;
    }
  }

  #btreeBlock(
    name: string,
    blkno: bigint,
    level: number,
    items: ItemPrinter,
    below: bigint[],
    leaf: ((item: PrintItem) => void) | undefined,
  ): void {
    const block = this.#block;
    const { v, buf } = block;
    const hdr = BlockHeader.at(buf);
    const nr = nrItems(block);
    let text = `${name} btree blkno ${u64(hdr, 24)}
  crc ${hex8(hdr.crc)} fsid ${hdr.fsid.toString(16)} seq ${hdr.seq} blkno ${u64(hdr, 24)} 
  total_item_bytes ${totalItemBytes(block)} mid_free_len ${midFreeLen(block)}
  level ${blockLevel(block)} nr_items ${nr} item_root.node ${v.getUint16(ITEM_ROOT, true)}
`;
    if (blockLevel(block) === 0) text += hashTableText(v);
    this.#out(text);
    if (blockLevel(block) !== level) {
      this.#problem(`${name} btree block ${blkno}: level ${blockLevel(block)} instead of ${level}`);
      return;
    }
    const offs = this.#itemOrder(block, `${name} btree block ${blkno}`);
    for (const [i, off] of offs.entries()) {
      const link = (at: number) => v.getUint16(off + at, true);
      const item: PrintItem = {
        key: itemKey(block, off),
        seq: v.getBigUint64(off + 40, true),
        flags: itemFlags(block, off),
        valOff: v.getUint16(off + 48, true),
        valLen: v.getUint16(off + 50, true),
        block: buf,
      };
      this.#out(
        `  [${i}] off ${off} par ${link(PARENT)} l ${link(LEFT)} r ${link(RIGHT)} h ${
          v.getUint8(off + HEIGHT)
        } vo ${item.valOff} vl ${item.valLen}\n`,
      );
      if (level === 0) {
        this.#out(items.leaf(item));
        leaf?.(item);
      } else {
        const ref = item.valOff + 16 <= LG_SIZE ? v.getBigUint64(item.valOff, true) : 0n;
        const seq = item.valOff + 16 <= LG_SIZE ? v.getBigUint64(item.valOff + 8, true) : 0n;
        this.#out(`${items.key(item)}    ref blkno ${ref} seq ${seq}\n`);
        below.push(ref);
      }
    }
  }

  /** Offsets of a block's items in key order; in slot order where the AVL tree is damaged. */
  #itemOrder(block: RawBlock, what: string): number[] {
    const offs: number[] = [];
    const problem = checkBtreeShape(block);
    if (problem === null) {
      for (let off = firstItem(block); off !== 0; off = nextItem(block, off)) offs.push(off);
      return offs;
    }
    this.#problem(`${what}: ${problem}`);
    const end = LG_SIZE - BTREE_ITEM_BYTES;
    for (let i = 0, off = BTREE_HEADER_BYTES; i < nrItems(block) && off <= end; i++) {
      offs.push(off);
      off += BTREE_ITEM_BYTES;
    }
    return offs;
  }

  #list(name: string, head: AllocListHead): void {
    let blkno = u64(head, 0);
    for (let count = 0; blkno !== 0n; count++) {
      if (count > this.#blocks) {
        this.#problem(`${name}: list has more blocks than ${this.#dev.name}`);
        return;
      }
      if (!this.#read(blkno, `${name} alloc_list_block ${blkno}`)) return;
      const list = AllocListBlock.at(this.#block.buf);
      this.#out(
        `${name} alloc_list_block blkno ${u64(list, 24)}\n${
          headerLine(list.hdr, this.#block.buf)
        }\n  next ${refText(list.next)} start ${list.start} nr ${list.nr}\n${extentsText(list)}`,
      );
      blkno = u64(list, 32);
    }
  }

  #srchFile(file: SrchFile): void {
    if (file.height === 0 || u64(file, 48) === 0n) return;
    this.#srchBlocks(file.ref, file.height - 1);
  }

  #srchBlocks(ref: BlockRef, level: number): void {
    const blkno = u64(ref, 0);
    if (this.#srchBlocksSeen++ > this.#blocks) {
      this.#problem(`srch block ${blkno}: more references than ${this.#dev.name} has blocks`);
      return;
    }
    if (!this.#read(blkno, `srch block ${blkno}`)) return;
    if (level === 0) {
      this.#srchBlock(SrchBlock.at(this.#block.buf), blkno);
      return;
    }
    if (level > SRCH_MAX_LEVEL) {
      this.#problem(`srch block ${blkno}: impossible level ${level}`);
      return;
    }
    const bytes = this.#block.buf.slice();
    const parent = SrchParent.at(bytes);
    let text = `srch parent block blkno ${u64(parent, 24)}\n${headerLine(parent.hdr, bytes)}\n`;
    const children: BlockRef[] = [];
    for (let i = 0; i < SRCH_PARENT_REFS; i++) {
      const child = parent.ref(i);
      if (u64(child, 0) === 0n) continue;
      text += `  [${i}]: ${refText(child)}\n`;
      children.push(child);
    }
    this.#out(text);
    for (const child of children) this.#srchBlocks(child, level - 1);
  }

  #srchBlock(block: SrchBlock, blkno: bigint): void {
    this.#out(
      `srch block blkno ${u64(block, 24)}\n${headerLine(block.hdr, this.#block.buf)}\n  first ${
        entryText(block.first)
      } last ${entryText(block.last)} tail ${
        entryText(block.tail)
      }\n  entry_nr ${block.entryNr} entry_bytes ${block.entryBytes}\n`,
    );
    const entry = SrchEntry.alloc();
    const end = SrchBlock.SIZE + Math.min(block.entryBytes, SRCH_BLOCK_ENTRIES_BYTES);
    let off = SrchBlock.SIZE;
    for (let i = 0; i < block.entryNr; i++) {
      if (off - SrchBlock.SIZE > SRCH_BLOCK_SAFE_BYTES || off + 2 > end) {
        this.#problem(`srch block ${blkno}: entry ${i} does not fit`);
        return;
      }
      const n = decodeSrchEntry(block.v, off, LG_SIZE, entry, entry);
      this.#out(`  [${i}]: (${n}) ${entryText(entry)}\n`);
      off += n;
    }
  }
}

/** Remembers copies of the files that an item of `srch_root` names; of a compaction its inputs. */
function collectFiles(item: PrintItem, files: SrchFile[]): void {
  const size = isCompaction(item.key) ? SrchCompact.SIZE : SrchFile.SIZE;
  if (item.valLen < size || item.valOff + size > LG_SIZE) return;
  const copy = item.block.slice(item.valOff, item.valOff + size);
  if (!isCompaction(item.key)) files.push(SrchFile.at(copy));
  else {
    const compact = SrchCompact.at(copy);
    for (let i = 0; i < Math.min(compact.nr, 4); i++) files.push(compact.in(i).sfl);
  }
}

/** The line of a block header; a wrong crc is shown with the right one. */
function headerLine(hdr: BlockHeader, block: Uint8Array): string {
  const computed = blockCrc(block), stored = storedCrc(block);
  const wrong = computed === stored ? "" : ` (!= ${hex8(computed)})`;
  return `  hdr: crc ${hex8(stored)}${wrong} magic ${hex8(hdr.magic)} fsid ${
    hdr.fsid.toString(16)
  } blkno ${u64(hdr, 24)} seq ${hdr.seq}`;
}

/** The populated buckets of a leaf's hash table, wrapped as the reference wraps them. */
function hashTableText(v: DataView): string {
  let text = "  item hash: ";
  let column = text.length;
  let used = 0;
  for (let i = 0; i < LEAF_ITEM_HASH_NR; i++) {
    const off = v.getUint16(LEAF_ITEM_HASH_OFF + 2 * i, true);
    if (off === 0) continue;
    used++;
    const entry = `${i},${off} `;
    column += entry.length;
    if (column >= HASH_COLUMNS) {
      text += "\n   ";
      column = 3;
    }
    text += entry;
  }
  if (column !== 3) text += "\n";
  const load = Math.floor(used * 100 / LEAF_ITEM_HASH_NR);
  return `${text}    (${used} / ${LEAF_ITEM_HASH_NR} populated, ${load}% load)\n`;
}

/** The runs of consecutive numbers in a list block, in array order. */
function extentsText(list: AllocListBlock): string {
  const end = Math.min(list.start + list.nr, ALLOC_LIST_MAX_BLOCKS);
  if (list.start >= end) return "";
  const entry = (i: number) => u64(list, AllocListBlock.SIZE + 8 * i);
  let text = "  exts: ";
  let column = text.length;
  for (let i = list.start; i < end;) {
    const start = entry(i);
    let len = 1;
    while (i + len < end && entry(i + len) === start + BigInt(len)) len++;
    if (column >= EXTS_COLUMNS) {
      text += "\n        ";
      column = 9;
    }
    const run = `${start},${len} `;
    text += run;
    column += run.length;
    i += len;
  }
  return text + "\n";
}
