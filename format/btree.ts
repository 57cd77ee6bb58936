/**
 * B-tree structures (01 §10.1, §10.2): the root, and where the fields of blocks and items lie. The
 * block codec is btree_block.ts.
 */

import { BlockHeader, BlockRef } from "./block.ts";
import { checkSize, View } from "./bytes.ts";

/**
 * Root of a b-tree (01 §10.1), 24 bytes.
 *
 *      0 block_ref        ref
 *     16 u8               height
 *     17 u8[7]            pad
 */
export class BtreeRoot extends View {
  static readonly SIZE = 24;
  /** Root block, zero when empty. */
  get ref(): BlockRef {
    return new BlockRef(this.v, this.o);
  }
  /** 0 = empty tree (then ref is all zero); 1 = root is a leaf; max 20. */
  get height(): number {
    return this.v.getUint8(this.o + 16);
  }
  set height(n: number) {
    this.v.setUint8(this.o + 16, n);
  }
  /** Whether the tree has no block. */
  get isEmpty(): boolean {
    return this.height === 0;
  }
}
checkSize(BtreeRoot.SIZE, 16 + 1 + 7, "BtreeRoot");

/**
 * Fixed part of a b-tree block (01 §10.2), 48 bytes.
 *
 *      0 block_header     hdr
 *     32 le16             item_root
 *     34 le16             nr_items
 *     36 le16             total_item_bytes
 *     38 le16             mid_free_len
 *     40 u8               level
 *     41 u8[7]            pad
 */
export class BtreeBlock extends View {
  static readonly SIZE = 48;
  get hdr(): BlockHeader {
    return new BlockHeader(this.v, this.o);
  }
  /** AVL root: distance of its item from this field, 0 = no items (01 §10.3). */
  get itemRoot(): number {
    return this.v.getUint16(this.o + 32, true);
  }
  set itemRoot(n: number) {
    this.v.setUint16(this.o + 32, n, true);
  }
  /** Number of items in the dense array. */
  get nrItems(): number {
    return this.v.getUint16(this.o + 34, true);
  }
  set nrItems(n: number) {
    this.v.setUint16(this.o + 34, n, true);
  }
  /** Sum over items of 56 + roundup(val_len, 8). */
  get totalItemBytes(): number {
    return this.v.getUint16(this.o + 36, true);
  }
  set totalItemBytes(n: number) {
    this.v.setUint16(this.o + 36, n, true);
  }
  /** Contiguous free bytes following the item array. */
  get midFreeLen(): number {
    return this.v.getUint16(this.o + 38, true);
  }
  set midFreeLen(n: number) {
    this.v.setUint16(this.o + 38, n, true);
  }
  /** 0 = leaf. */
  get level(): number {
    return this.v.getUint8(this.o + 40);
  }
  set level(n: number) {
    this.v.setUint8(this.o + 40, n);
  }
}
checkSize(BtreeBlock.SIZE, 32 + 2 + 2 + 2 + 2 + 1 + 7, "BtreeBlock");
