/**
 * Lines of the reference's `print` (05 §13) for the structures that embed one another and for
 * items. Everything is read as raw 64-bit values: a dump must show numbers that the rest of the
 * program refuses.
 */

import type { AllocListHead, AllocRoot } from "../format/alloc.ts";
import { type BlockRef, ipv4Text } from "../format/block.ts";
import type { BtreeRoot } from "../format/btree.ts";
import type { View, ViewClass } from "../format/bytes.ts";
import {
  ITEM_FLAG_DELETION,
  TYPE_DATA_EXTENT,
  TYPE_DIRENT,
  TYPE_INODE,
  TYPE_INODE_INDEX_DATA_SEQ,
  TYPE_INODE_INDEX_META_SEQ,
  TYPE_LINK_BACKREF,
  TYPE_ORPHAN,
  TYPE_QUOTA_RULE,
  TYPE_READDIR,
  TYPE_SRCH_BUSY,
  TYPE_SRCH_PENDING,
  TYPE_SYMLINK,
  TYPE_XATTR,
  ZONE_FREE_EXTENT_BLKNO,
  ZONE_FS,
  ZONE_INODE_INDEX,
  ZONE_LOG_MERGE_COMPLETE,
  ZONE_LOG_MERGE_FREEING,
  ZONE_LOG_MERGE_RANGE,
  ZONE_LOG_MERGE_REQUEST,
  ZONE_LOG_MERGE_STATUS,
  ZONE_ORPHAN,
  ZONE_QUOTA,
  ZONE_XATTR_INDX,
  ZONE_XATTR_TOTL,
} from "../format/constants.ts";
import {
  DataExtentVal,
  decodeXattrIndxKey,
  Dirent,
  Inode,
  QuotaRuleVal,
  Xattr,
  XattrTotlVal,
} from "../format/items.ts";
import { Key } from "../format/key.ts";
import { LogTrees } from "../format/log_trees.ts";
import {
  LogMergeComplete,
  LogMergeFreeing,
  LogMergeRange,
  LogMergeRequest,
  LogMergeStatus,
} from "../format/merge.ts";
import { MountedClientBtreeVal } from "../format/mounted_client.ts";
import { SrchCompact, type SrchEntry, SrchFile } from "../format/srch.ts";

/** An item of a tree block as a dump sees it. */
export interface PrintItem {
  readonly key: Key;
  readonly seq: bigint;
  readonly flags: number;
  /** Byte offset of the value in `block`; the value of a leaf item only. */
  readonly valOff: number;
  readonly valLen: number;
  /** The whole block: the reference shows bytes after short values (05 §13). */
  readonly block: Uint8Array;
}

/** The 64-bit value at byte `off` of a view. */
export const u64 = (view: View, off: number): bigint => view.v.getBigUint64(view.o + off, true);
export const hex16 = (n: bigint): string => n.toString(16).padStart(16, "0");
export const hex8 = (n: number): string => n.toString(16).padStart(8, "0");

export const refText = (r: BlockRef): string => `blkno ${u64(r, 0)} seq ${u64(r, 8)}`;
/** A time with at least eight digits of nanoseconds, as the reference prints it. */
const timeText = (ts: View): string =>
  `${u64(ts, 0)}.${String(ts.v.getUint32(ts.o + 8, true)).padStart(8, "0")}`;
export const eventTime = timeText;

export const listHeadText = (h: AllocListHead): string =>
  `${refText(h.ref)} total_nr ${u64(h, 16)} first_nr ${h.firstNr} flags 0x${h.flags.toString(16)}`;

export const allocRootText = (a: AllocRoot): string =>
  `${refText(a.root.ref)} height ${a.root.height} total_len ${u64(a, 0)} flags 0x${
    a.flags.toString(16)
  }`;

/** A root in the super block's lines: seq in hexadecimal before the height. */
export const superRootText = (r: BtreeRoot): string =>
  `blkno ${u64(r, 0)} seq ${hex16(u64(r, 8))} height ${r.height}`;

const mergeRootText = (r: BtreeRoot): string => `${refText(r.ref)} height ${r.height}`;

export const entryText = (e: SrchEntry): string =>
  `${u64(e, 0).toString(16).padStart(16, "0")}.${u64(e, 8)}.${u64(e, 16)}`;

export const srchFileText = (f: SrchFile): string =>
  `f ${entryText(f.first)} l ${entryText(f.last)} blks ${u64(f, 64)} ents ${
    u64(f, 72)
  } hei ${f.height} blkno ${u64(f, 48)} seq ${hex16(u64(f, 56))}`;

/** Bytes of a name: unprintable ones as dots, at most 255. */
function printable(bytes: Uint8Array): string {
  let s = "";
  for (const b of bytes.subarray(0, 255)) s += b >= 0x20 && b < 0x7f ? String.fromCharCode(b) : ".";
  return s;
}

/** Formats the key part and the value of items of one kind of tree. */
export interface ItemPrinter {
  /** Lines of an item in a parent block, where only the key is known. */
  key(item: PrintItem): string;
  /** Lines of a leaf item. */
  leaf(item: PrintItem): string;
}

/** The value's bytes, cut at the end of the block. */
const value = (item: PrintItem) =>
  item.block.subarray(item.valOff, Math.min(item.valOff + item.valLen, item.block.length));

/** A view of the value; undefined when it is too short to be one. */
function valueAs<T extends View>(cls: ViewClass<T>, item: PrintItem): T | undefined {
  const bytes = value(item);
  if (bytes.length < cls.SIZE) return undefined;
  return new cls(new DataView(bytes.buffer, bytes.byteOffset, bytes.length));
}

const shortValue = (item: PrintItem) => `      (value of ${item.valLen} bytes is too short)\n`;

/** Filesystem items, in `fs_root` and log trees. */
export const FS_ITEMS: ItemPrinter = {
  key: (item) => `    ${item.key} ${item.seq} ${deletion(item) ? "d" : "-"}\n`,
  leaf: (item) => FS_ITEMS.key(item) + (deletion(item) ? "" : fsItemText(item)),
};

const deletion = (item: PrintItem) => (item.flags & ITEM_FLAG_DELETION) !== 0;

function fsItemText(item: PrintItem): string {
  const { key } = item;
  switch (key.zone) {
    case ZONE_INODE_INDEX:
      if (key.type === TYPE_INODE_INDEX_META_SEQ || key.type === TYPE_INODE_INDEX_DATA_SEQ) {
        return `      index: major ${key.secondBig} ino ${key.thirdBig}\n`;
      }
      break;
    case ZONE_ORPHAN:
      if (key.type === TYPE_ORPHAN) return `    orphan: ino ${key.secondBig}\n`;
      break;
    case ZONE_QUOTA:
      if (key.type === TYPE_QUOTA_RULE) return quotaText(item);
      break;
    case ZONE_XATTR_TOTL: {
      const val = valueAs(XattrTotlVal, item);
      if (val === undefined) return shortValue(item);
      const total = BigInt.asIntN(64, val.total);
      return `    xattr totl: ${key.firstBig}.${key.secondBig}.${key.thirdBig} = ${total}, ${val.count}\n`;
    }
    case ZONE_XATTR_INDX: {
      const { major, minor, ino, xid } = decodeXattrIndxKey(key);
      return `    xattr indx: major ${major} minor ${minor} ino ${ino} xid ${xid}`;
    }
    case ZONE_FS:
      return perInodeText(item);
  }
  return unknownText(key);
}

const unknownText = (key: Key) => `      (unknown zone ${key.zone} type ${key.type})\n`;

function perInodeText(item: PrintItem): string {
  const { key } = item;
  const ino = key.firstBig;
  switch (key.type) {
    case TYPE_INODE:
      return inodeText(item);
    case TYPE_XATTR:
      return `    xattr: ino ${ino} name_hash ${
        hex8(key.secondLo)
      } id ${key.thirdBig} part ${key.fourth}\n` +
        (key.fourth === 0 ? xattrHeadText(item) : "");
    case TYPE_DIRENT:
    case TYPE_READDIR:
    case TYPE_LINK_BACKREF: {
      const d = valueAs(Dirent, item);
      if (d === undefined) return shortValue(item);
      return `    dirent: dir ${ino} hash ${hex16(d.hash)} pos ${u64(d, 16)} type ${d.type} ino ${
        u64(d, 0)
      }\n      name ${printable(value(item).subarray(Dirent.SIZE))}\n`;
    }
    case TYPE_SYMLINK: {
      const bytes = value(item);
      const target = bytes.at(-1) === 0 ? bytes.subarray(0, -1) : bytes;
      return `    symlink: ino ${ino} nr ${key.secondBig}\n      target ${printable(target)}\n`;
    }
    case TYPE_DATA_EXTENT: {
      const e = valueAs(DataExtentVal, item);
      if (e === undefined) return shortValue(item);
      const iblock = BigInt.asUintN(64, key.secondBig - key.thirdBig + 1n);
      return `    extent: ino ${ino} iblock ${iblock} len ${key.thirdBig} blkno ${
        u64(e, 0)
      } flags ${e.flags.toString(16)}\n`;
    }
    default:
      return unknownText(key);
  }
}

function inodeText(item: PrintItem): string {
  if (item.valLen < Inode.V1_SIZE || item.valOff + Inode.SIZE > item.block.length) {
    return shortValue(item);
  }
  // Of a 160-byte value the reference shows the 8 bytes behind it as project id.
  const i = Inode.at(item.block, item.valOff);
  return `    inode: ino ${item.key.firstBig} size ${i.sizeBig} version ${u64(i, 64)} proj ${
    u64(i, 160)
  } nlink ${i.nlink}
      uid ${i.uid} gid ${i.gid} mode 0${i.mode.toString(8)} rdev 0x${i.rdev.toString(16)} flags 0x${
    i.flags.toString(16)
  }
      next_readdir_pos ${u64(i, 48)} meta_seq ${u64(i, 8)} data_seq ${u64(i, 16)} data_version ${
    u64(i, 24)
  }
      atime ${timeText(i.atime)} ctime ${timeText(i.ctime)}
      mtime ${timeText(i.mtime)}
`;
}

function xattrHeadText(item: PrintItem): string {
  const x = valueAs(Xattr, item);
  if (x === undefined) return shortValue(item);
  const name = value(item).subarray(Xattr.SIZE, Xattr.SIZE + x.nameLen);
  return `      name_len ${x.nameLen} val_len ${x.valLen} name ${printable(name)}\n`;
}

function quotaText(item: PrintItem): string {
  const r = valueAs(QuotaRuleVal, item);
  if (r === undefined) return shortValue(item);
  const names = [0, 1, 2].map((i) =>
    `${r.nameVal(i)},${r.nameSource(i)},${r.nameFlags(i).toString(16)}`
  );
  return `    quota rule: hash 0x${hex16(item.key.secondBig)} coll_nr ${item.key.thirdBig}
      [${r.prio} ${names.join(" ")} ${r.op} ${r.limit} ${r.ruleFlags.toString(16)}]
`;
}

/** Free extents of an allocator's tree. */
export const EXTENT_ITEMS: ItemPrinter = {
  key: ({ key }) => {
    if (key.zone === ZONE_FREE_EXTENT_BLKNO) {
      const start = BigInt.asUintN(64, key.firstBig - key.secondBig + 1n);
      return `    free extent: blkno ${start} len ${key.secondBig} end ${key.firstBig}\n`;
    }
    const start = BigInt.asUintN(64, key.secondBig - key.thirdBig + 1n);
    const order = BigInt.asUintN(64, ~key.firstBig);
    return `    free extent: blkno ${start} len ${key.thirdBig} order ${order}\n`;
  },
  leaf: (item) => EXTENT_ITEMS.key(item),
};

export const MOUNTED_CLIENT_ITEMS: ItemPrinter = {
  key: ({ key }) => `    rid ${hex16(key.firstBig)}\n`,
  leaf: (item) => {
    const c = valueAs(MountedClientBtreeVal, item);
    if (c === undefined) return MOUNTED_CLIENT_ITEMS.key(item) + shortValue(item);
    return `    rid ${hex16(item.key.firstBig)} ipv4_addr ${ipv4Text(c.addr.addr)} flags 0x${
      c.flags.toString(16)
    }\n`;
  },
};

export const SRCH_ITEMS: ItemPrinter = {
  key: ({ key }) => `    ${key}\n`,
  leaf: (item) => SRCH_ITEMS.key(item) + srchItemText(item),
};

/** Whether a key of `srch_root` holds a compaction rather than a file. */
export const isCompaction = (key: Key): boolean =>
  key.type === TYPE_SRCH_PENDING || key.type === TYPE_SRCH_BUSY;

function srchItemText(item: PrintItem): string {
  if (!isCompaction(item.key)) {
    const f = valueAs(SrchFile, item);
    return f === undefined ? shortValue(item) : `      ${srchFileText(f)}\n`;
  }
  const c = valueAs(SrchCompact, item);
  if (c === undefined) return shortValue(item);
  const state = item.key.type === TYPE_SRCH_PENDING ? "pending" : "busy";
  let text = `      compact ${state}: nr ${c.nr} flags 0x${c.flags.toString(16)}\n`;
  for (let i = 0; i < Math.min(c.nr, 4); i++) {
    const input = c.in(i);
    text += `        [${i}] blk ${u64(input, 88)} pos ${u64(input, 96)} sfl ${
      srchFileText(input.sfl)
    }\n`;
  }
  return text;
}

export const LOG_TREES_ITEMS: ItemPrinter = {
  key: ({ key }) => `    rid ${key.firstBig} nr ${key.secondBig}\n`,
  leaf: (item) => {
    const lt = valueAs(LogTrees, item);
    return LOG_TREES_ITEMS.key(item) + (lt === undefined ? shortValue(item) : logTreesText(lt));
  },
};

function logTreesText(lt: LogTrees): string {
  const { itemRoot } = lt;
  const lines = [
    `meta_avail: ${listHeadText(lt.metaAvail)}`,
    `meta_freed: ${listHeadText(lt.metaFreed)}`,
    `item_root: height ${itemRoot.height} ${refText(itemRoot.ref)}`,
    `bloom_ref: ${refText(lt.bloomRef)}`,
    `data_avail: ${allocRootText(lt.dataAvail)}`,
    `data_freed: ${allocRootText(lt.dataFreed)}`,
    `srch_file: ${srchFileText(lt.srchFile)}`,
    `inode_count_delta: ${BigInt.asIntN(64, u64(lt, 408))}`,
    `get_trans_seq: ${u64(lt, 416)}`,
    `commit_trans_seq: ${u64(lt, 424)}`,
    `max_item_seq: ${u64(lt, 432)}`,
    `finalize_seq: ${u64(lt, 440)}`,
    `rid: ${hex16(lt.rid)}`,
    `nr: ${u64(lt, 456)}`,
    `flags: ${u64(lt, 464).toString(16)}`,
    `data_alloc_zone_blocks: ${u64(lt, 272)}`,
  ];
  let zones = "data_alloc_zones: ";
  for (let n = 0; n < 1024; n++) if (lt.hasZone(n)) zones += `${n} `;
  return [...lines, zones].map((line) => `      ${line}\n`).join("");
}

export const LOG_MERGE_ITEMS: ItemPrinter = {
  key: () => "",
  leaf: (item) => mergeItemText(item) ?? shortValue(item),
};

function mergeItemText(item: PrintItem): string | undefined {
  switch (item.key.zone) {
    case ZONE_LOG_MERGE_STATUS: {
      const s = valueAs(LogMergeStatus, item);
      return s &&
        `    status: next_range_key ${s.nextRangeKey} nr_req ${u64(s, 32)} nr_comp ${
          u64(s, 40)
        } seq ${u64(s, 48)}\n`;
    }
    case ZONE_LOG_MERGE_RANGE: {
      const r = valueAs(LogMergeRange, item);
      return r && `    range: start ${r.start} end ${r.end}\n`;
    }
    case ZONE_LOG_MERGE_REQUEST: {
      const r = valueAs(LogMergeRequest, item);
      // The second "logs_root" is the subtree of fs_root: so the reference calls both.
      return r &&
        `    request: logs_root ${mergeRootText(r.logsRoot)} logs_root ${
          mergeRootText(r.root)
        } start ${r.start} end ${r.end} input_seq ${u64(r, 176)} rid ${hex16(r.rid)} seq ${
          u64(r, 192)
        } flags 0x${u64(r, 200).toString(16)}\n`;
    }
    case ZONE_LOG_MERGE_COMPLETE: {
      const c = valueAs(LogMergeComplete, item);
      return c &&
        `    complete: root ${
          mergeRootText(c.root)
        } start ${c.start} end ${c.end} remain ${c.remain} rid ${hex16(c.rid)} seq ${
          u64(c, 192)
        } flags ${u64(c, 200).toString(16)}\n`;
    }
    case ZONE_LOG_MERGE_FREEING: {
      const f = valueAs(LogMergeFreeing, item);
      return f && `    freeing: root ${mergeRootText(f.root)} key ${f.key} seq ${u64(f, 56)}\n`;
    }
    default:
      return unknownText(item.key);
  }
}
