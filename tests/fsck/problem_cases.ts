/**
 * A case for each problem of the table that brings it about: a change of the corpora on the sample
 * volume, or damage made here. For the test that holds the table to its word.
 */

import { freeExtentKey, freeExtentOrderKey } from "../../format/alloc.ts";
import { BloomBlock } from "../../format/bloom.ts";
import {
  findLeafItem,
  insertItem,
  itemVal,
  removeItem,
  updateItem,
} from "../../format/btree_block.ts";
import type { BtreeRoot } from "../../format/btree.ts";
import {
  LG_SIZE,
  LOG_TREES_FINALIZED,
  SM_SIZE,
  SUPER_BLKNO,
  TYPE_SRCH_LOG,
} from "../../format/constants.ts";
import { direntHash } from "../../format/hash.ts";
import {
  backrefKey,
  DataExtentVal,
  Dirent,
  direntKey,
  extentKey,
  inodeKey,
  orphanKey,
  readdirKey,
} from "../../format/items.ts";
import { Key } from "../../format/key.ts";
import { LogTrees, logTreesKey } from "../../format/log_trees.ts";
import { quorumBlkno } from "../../format/quorum.ts";
import { SrchFile } from "../../format/srch.ts";
import { forEachItem } from "../../fs/btree.ts";
import type { ProblemCode } from "../../fs/check/problems.ts";
import { DeviceError } from "../../fs/errors.ts";
import type { MemDevice } from "../../fs/memory_device.ts";
import { treeBlocks } from "./damage.ts";
import { bytes, Surgeon } from "./repair_support.ts";
import type { Pair } from "./repair_trial.ts";
import { makeSample, RID } from "./sample.ts";

/** The name of a change of the corpora, damage of the sample volume, or a volume of its own. */
export type Cause = RegExp | ((v: Pair) => void) | { readonly make: () => Pair };

/** Reading [from, from + len) fails until it is written. */
function makeUnreadable(dev: MemDevice, from: number, len: number): void {
  const read = dev.read.bind(dev), writev = dev.writev.bind(dev);
  let bad = true;
  dev.read = (buf, off) => {
    if (bad && off < from + len && from < off + buf.length) {
      throw new DeviceError(dev.name, "bad sector");
    }
    read(buf, off);
  };
  dev.writev = (bufs, off) => {
    writev(bufs, off);
    const end = bufs.reduce((at, b) => at + b.length, off);
    if (off <= from && end >= from + len) bad = false;
  };
}

const NONE = new Uint8Array(0);

/** An item of a tree gives way to others, in the leaves where they belong. */
function replace(
  s: Surgeon,
  root: BtreeRoot,
  gone: Key,
  items: readonly (readonly [Key, Uint8Array])[],
): void {
  s.editBlock(s.leafOf(root, gone) as number, (b) => removeItem(b, findLeafItem(b, gone)));
  for (const [key, val] of items) {
    s.editBlock(s.leafOf(root, key) as number, (b) => void insertItem(b, key, 1, 0, val));
  }
}

function splitFileExtent({ meta }: Pair): void {
  const s = new Surgeon(meta);
  const half = (end: number, blkno: number) => {
    const v = DataExtentVal.alloc();
    v.blkno = blkno;
    return [extentKey(3000, end, 5), v.bytes] as const;
  };
  replace(s, s.superBlock().fsRoot, extentKey(3000, 9, 10), [half(4, 1000), half(9, 1005)]);
}

function splitFreeExtent({ meta }: Pair): void {
  const s = new Surgeon(meta), { root } = s.superBlock().dataAlloc;
  let first: Key | null = null;
  forEachItem({ cache: s.cache() }, root, Key.ZEROS, ({ key }) => void (first ??= key));
  const { first: end, second: len } = first as unknown as Key, start = end - len + 1;
  for (const key of [freeExtentKey, freeExtentOrderKey]) {
    replace(s, root, key(start, len), [[key(start, 1), NONE], [key(start + 1, len - 1), NONE]]);
  }
}

/** The open log tree is not the newest one of its mount. */
function addNewerLogTree({ meta }: Pair): void {
  const s = new Surgeon(meta), lt = LogTrees.alloc();
  lt.rid = RID;
  lt.nr = 2;
  lt.flags = LOG_TREES_FINALIZED;
  lt.getTransSeq = lt.commitTransSeq = lt.finalizeSeq = 300;
  const key = logTreesKey(RID, 2), leaf = s.leafOf(s.superBlock().logsRoot, key) as number;
  s.editBlock(leaf, (b) => void insertItem(b, key, 0, 0, lt.bytes));
}

function shortenInode({ meta }: Pair): void {
  const s = new Surgeon(meta), key = inodeKey(2010);
  s.editBlock(s.leafOf(s.superBlock().fsRoot, key) as number, (b) => {
    const item = findLeafItem(b, key);
    updateItem(b, item, (s.value(key) as Uint8Array).slice(0, 164));
  });
}

/** Directory 1024, the parent of 1025, becomes an entry of 1025. */
function makeCycle({ meta }: Pair): void {
  const s = new Surgeon(meta), name = bytes("directory"), hash = direntHash(name);
  const root = s.superBlock().fsRoot;
  const val = s.value(readdirKey(1, 2)) as Uint8Array, moved = val.slice();
  Dirent.at(moved).pos = 900;
  replace(s, root, direntKey(1, hash, 2), [[direntKey(1025, hash, 900), moved]]);
  replace(s, root, readdirKey(1, 2), [[readdirKey(1025, 900), moved]]);
  replace(s, root, backrefKey(1024, 1, 2), [[backrefKey(1024, 1025, 900), moved]]);
}

/** A lock's bit is missing from the bloom block of a log tree, which counts rightly. */
function clearBloomBit({ meta }: Pair): void {
  const s = new Surgeon(meta);
  let blkno = 0;
  forEachItem({ cache: s.cache() }, s.superBlock().logsRoot, Key.ZEROS, ({ val }) => {
    blkno = LogTrees.at(val.slice()).bloomRef.blkno;
  });
  s.editBlock(blkno, ({ buf, v }) => {
    const at = buf.findIndex((byte, i) => i >= BloomBlock.SIZE && byte !== 0);
    const byte = buf[at] as number;
    buf[at] = byte & byte - 1;
    v.setUint32(32, v.getUint32(32, true) - 1, true);
  });
}

/** The bounds of a search log of several blocks leave out its least entry. */
function narrowBounds({ meta }: Pair): void {
  const s = new Surgeon(meta), root = s.superBlock().srchRoot;
  let found: Key | null = null;
  forEachItem({ cache: s.cache() }, root, Key.ZEROS, ({ key, val }) => {
    if (key.type === TYPE_SRCH_LOG && SrchFile.at(val.slice()).blocks > 1) found = key;
  });
  const key = found as unknown as Key;
  s.editBlock(s.leafOf(root, key) as number, (b) => {
    const { first } = SrchFile.at(itemVal(b, findLeafItem(b, key)));
    first.v.setBigUint64(first.o, first.v.getBigUint64(first.o, true) + 1n, true);
  });
}

/** An extent takes a free block, and leaves one to nobody. */
function moveExtent({ meta }: Pair): void {
  new Surgeon(meta).editItem(extentKey(3001, 7, 8), (val) => DataExtentVal.at(val).blkno++);
}

function addOrphan({ meta }: Pair): void {
  const s = new Surgeon(meta), key = orphanKey(2010), root = s.superBlock().fsRoot;
  s.editBlock(s.leafOf(root, key) as number, (b) => void insertItem(b, key, 1, 0, NONE));
}

export const CAUSES: { readonly [code in ProblemCode]: Cause } = {
  "super-read": ({ meta }) => makeUnreadable(meta, SUPER_BLKNO * SM_SIZE, SM_SIZE),
  "super-magic": /^meta super_block\.hdr\.magic \+1/,
  "super-crc": /^meta super_block\.hdr\.crc \+1/,
  "super-blkno": /^meta super_block\.hdr\.blkno \+1/,
  "super-version": /^meta super_block\.fmt_vers top bit/,
  "super-role": /^meta super_block\.flags zero/,
  "super-flags": /^data super_block\.flags top bit/,
  "super-reserved": /^meta super_block\.id \+1/,
  "super-size": /^meta super_block\.total_data_blocks top bit/,
  "super-seq": /^meta super_block\.seq top bit/,
  "super-next-ino": /^meta super_block\.next_ino top bit/,
  "super-slot": /^meta super_block\.qconf\.slots\[1\]\.addr\.family \+1/,
  "super-slot-unmountable": /^meta super_block\.qconf\.slots\[0\]\.addr\.port ones/,
  "super-no-slots": /^meta super_block\.qconf\.slots\[0\]\.addr\.family zero/,
  "super-slot-version": /^meta super_block\.qconf\.version zero/,
  "super-option": /^meta super_block\.volopt\.set_bits \+1/,
  "super-pair": /^data super_block\.uuid \+1/,
  "quorum-read": ({ meta }) => makeUnreadable(meta, quorumBlkno(3) * SM_SIZE, SM_SIZE),
  "quorum-block": /^slot 0 quorum_block\.hdr\.crc \+1/,
  "quorum-event": /^slot 0 quorum_block\.write_nr \+1/,
  "undersized": { make: () => makeSample({ metaBlocks: 1000, dataBlocks: 16384 }) },
  "not-clean": () => {},
  "ref-range": /^fs_root parent block_ref\.blkno top bit/,
  "root-height": /^meta super_block\.fs_root\.height top bit/,
  "root-pad": /^meta super_block\.meta_alloc\[0\]\.pad \+1/,
  "block-read": ({ meta }) => {
    const leaf = treeBlocks(meta).find((b) => b.tree === "fs_root" && b.level === 0);
    makeUnreadable(meta, (leaf as { blkno: number }).blkno * LG_SIZE, LG_SIZE);
  },
  "block-crc": /^fs_root level 0 btree_block\.hdr\.crc \+1/,
  "block-magic": /^fs_root level 0 btree_block\.hdr\.magic \+1/,
  "block-fsid": /^fs_root level 0 btree_block\.hdr\.fsid \+1/,
  "block-seq": /^fs_root level 0 btree_block\.hdr\.seq \+1/,
  "block-blkno": /^fs_root level 0 btree_block\.hdr\.blkno \+1/,
  "btree-header": /^fs_root level 0 btree_block\.pad \+1/,
  "btree-items": /^fs_root level 0 btree_block\.nr_items top bit/,
  "btree-avl": /^fs_root level 0 btree_block\.item_root \+1/,
  "btree-key": /^fs_root 16\.12 btree_item\.node_pad \+1/,
  "btree-value": /^fs_root 16\.12 btree_item\.val_off \+1/,
  "btree-total": /^fs_root level 0 btree_block\.total_item_bytes \+1/,
  "btree-free": /^fs_root level 0 btree_block\.mid_free_len ones/,
  "btree-hash": /^fs_root 16\.12 btree_item\.key\.third \+1/,
  "btree-parent": /^fs_root parent btree_item\.key\.third \+1/,
  "btree-flags": /^fs_root 16\.12 btree_item\.flags \+1/,
  "item-zone": /^fs_root 8\.4 item .*: one of an unknown type/,
  "item-key": /^log_merge 48\.\d+ log_merge_range\.start\.first \+1/,
  "item-key-fields": /^fs_root 8\.4 item .*: again/,
  "item-length": /^fs_root 10\.4 btree_item\.val_len zero/,
  "item-number": /^logs_root 24\.0 log_trees\.nr top bit/,
  "item-seq": /^logs_root 24\.0 btree_item\.seq top bit/,
  "item-stale": /^log tree 16\.4 btree_item\.seq zero/,
  "item-unmerged": /^log_merge 48\.\d+ log_merge_range\.start\.zone \+1/,
  "log-tree": /^logs_root 24\.0 log_trees\.data_alloc_zone_blocks \+1/,
  "log-tree-open": addNewerLogTree,
  "bloom-count": /^bloom bloom_block\.total_set \+1/,
  "bloom-bits": clearBloomBit,
  "owner-unknown": /^mounted_clients 28\.0 btree_item\.key\.first \+1/,
  "mounted-client": /^mounted_clients 28\.0 mounted_client_btree_val\.addr\.family \+1/,
  "merge": /^log_merge 44\.0 log_merge_status\.next_range_key\.first zero/,
  "srch-file": /^log srch_file srch_block\.first\.hash \+1/,
  "srch-bounds-narrow": narrowBounds,
  "srch-compaction": /^srch_root 32\.12 srch_compact\.in\[0\]\.pos \+1/,
  "srch-missing": /^log srch_file srch_block\.entry_nr zero/,
  "srch-extra": /^srch_root 32\.8 item .*: missing/,
  "alloc-flags": /^meta super_block\.meta_alloc\[0\]\.flags \+1/,
  "list-count": /^meta super_block\.server_meta_avail\[0\]\.total_nr \+1/,
  "list-shape": /^server_meta_freed\[0\] alloc_list_block\.next\.seq \+1/,
  "extent-key": /^meta_alloc\[0\] 40\.0 item .*: one of an unknown type/,
  "extent-range": /^meta_alloc\[0\] 40\.0 item 40\.\d+\.0\.3\.2\.0: again/,
  "extent-order": /^meta_alloc\[0\] 40\.0 btree_item\.key\.first \+1/,
  "extent-overlap": /^meta_alloc\[0\] 36\.0 item .*: again/,
  "extent-touch": splitFreeExtent,
  "extent-index": /^meta_alloc\[0\] 40\.0 item .*: missing/,
  "extent-total": /^meta super_block\.meta_alloc\[0\]\.total_len \+1/,
  "meta-block-twice": /^fs_root level 1 .*: second child is the first/,
  "meta-free-in-use": /^log_merge 60\.0 log_merge_freeing\.key\.second zero/,
  "meta-free-twice": /^server_meta_avail\[0\] alloc_list_block\.blknos\[0\] \+1/,
  "meta-leak": /^log_merge 60\.0 log_merge_freeing\.key\.first \+1/,
  "meta-leak-parent": /^log_merge 60\.0 item .*: missing/,
  "data-block-twice": /^fs_root 16\.28 data_extent_val\.blkno \+1/,
  "data-free-in-use": moveExtent,
  "data-free-twice": /^log data_avail 36\.0 btree_item\.key\.second \+1/,
  "data-leak": /^meta super_block\.data_alloc\.root\.height zero/,
  "root-inode": /^fs_root 16\.4 item 16\.1\.4\.0\.0\.0: missing/,
  "inode-count": /^meta super_block\.inode_count \+1/,
  "inode-length": shortenInode,
  "inode-missing": /^log tree 16\.28 btree_item\.key\.first \+1/,
  "inode-next-ino": /^meta super_block\.next_ino zero/,
  "inode-field": /^fs_root 16\.4 inode\.data_seq top bit/,
  "inode-size": /^fs_root 16\.4 inode\.size \+1/,
  "inode-nlink": /^fs_root 16\.4 inode\.nlink \+1/,
  "inode-blocks": ({ meta }) => new Surgeon(meta).editInode(3001, (i) => i.onlineBlocks--),
  "extents-missing": /^fs_root 16\.28 item .*: missing/,
  "orphan-missing": /^fs_root 8\.4 item .*: missing/,
  "orphan-extra": addOrphan,
  "index-missing": /^log tree 4\.4 btree_item\.flags \+1/,
  "index-extra": /^fs_root 4\.4 item .*: again/,
  "entry-value": /^fs_root 16\.12 btree_item\.key\.second \+1/,
  "entry-type": /^fs_root 16\.20 dirent\.type \+1/,
  "entry-without-twin": /^fs_root 16\.16 item .*: missing/,
  "twin-without-entry": /^fs_root 16\.12 item .*: missing/,
  "entry-twins-differ": /^fs_root 16\.12 dirent\.ino \+1/,
  "dir-pos-twice": /^fs_root 16\.12 dirent\.pos \+1/,
  "dir-name-twice": /^fs_root 16\.12 item .*: again/,
  "dir-next-pos": /^finalized log tree 16\.4 item 16\.1024\.4\.0\.0\.0: missing/,
  "dir-parents": /^fs_root 16\.20 item 16\.1024\..*: missing/,
  "dir-parent-missing": ({ meta }) => new Surgeon(meta).editInode(1024, (i) => i.mode = 0o140755),
  "dir-cycle": makeCycle,
  "entries-in-file": /^fs_root 16\.4 inode\.mode ones/,
  "symlink": /^fs_root 16\.24 item .*: missing/,
  "extent-item": /^fs_root 16\.28 data_extent_val\.flags \+1/,
  "extent-file-overlap": /^fs_root 16\.28 item 16\.3000\.28\.14\.5\.0: again/,
  "extent-file-touch": splitFileExtent,
  "extent-beyond-size": ({ meta }) => new Surgeon(meta).editInode(3001, (i) => i.flags = 0),
  "extent-outside": /^fs_root 16\.28 data_extent_val\.blkno top bit/,
  "extents-in-other": ({ meta }) =>
    void new Surgeon(meta).editInode(3001, (i) => i.mode = 0o140600),
  "xattr": /^fs_root 16\.8 btree_item\.val_len \+1/,
  "xattr-name-twice": /^fs_root 16\.8 item 16\.2000\..*: again/,
  "xattr-id-twice": /^fs_root 16\.8 btree_item\.key\.third \+1/,
  "xattr-next-id": /^log tree 16\.4 inode\.next_xattr_id zero/,
  "xattr-headless": /^fs_root 16\.8 item 16\.2000\.8\.3933823609\.\S+: missing/,
  "totl": /^fs_root 12\.0 xattr_totl_val\.total \+1/,
  "indx-missing": /^fs_root 14\.0 item .*: missing/,
  "indx-extra": /^fs_root 14\.0 item .*: again/,
  "quota-rule": /^fs_root 10\.4 quota_rule_val\.name_val\[0\] \+1/,
};
