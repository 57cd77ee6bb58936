/**
 * Every version of an item in one tree, visible to readers or not: a key and a length that a
 * filesystem item can have, a sequence number that was given out, and bloom bits that let readers
 * find it (01 §12, §15).
 *
 * Relies on: a leaf whose items lie within the block and are in key order.
 * Guarantees: items that no reader could use are reported and taken out of the leaf's order; the rest
 * can be read by all that follows without looking at keys and lengths again.
 */

import { BloomBlock } from "../../format/bloom.ts";
import { KEY } from "../../format/btree_block.ts";
import {
  ITEM_FLAG_DELETION,
  NAME_MAX,
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
import { bloomBits } from "../../format/hash.ts";
import { Dirent, Inode, QuotaRuleVal } from "../../format/items.ts";
import { Key } from "../../format/key.ts";
import type { WalkContext } from "./context.ts";
import { hiWord, loWord, rawU64 } from "./raw.ts";
import type { RawBlock } from "./source.ts";
import { keyText } from "./text.ts";
import type { Leaf } from "./tree_walk.ts";

const SEQ = 40;
const VAL_OFF = 48;
const FLAGS = 52;

type Fault = "item-zone" | "item-key-fields" | "item-length";

export class VersionCheck {
  // The lock range that the last item belonged to.
  #zone = -1;
  #type = -1;
  #groupHi = -1;
  #groupLo = -1;

  constructor(
    private readonly cx: WalkContext,
    private readonly what: string,
    private readonly log: boolean,
    private readonly maxSeq: number,
    private readonly bloom: RawBlock | null,
  ) {}

  /** Checks a leaf of this walk's range; of one before it only drops what cannot be used. */
  leaf(leaf: Leaf): void {
    if (!leaf.owned) {
      this.#drop(leaf);
      return;
    }
    const { u32 } = leaf.b, { order, nr } = leaf;
    const maxHi = hiWord(this.maxSeq), maxLo = loWord(this.maxSeq);
    let kept = 0;
    for (let i = 0; i < nr; i++) {
      const item = order[i] as number;
      const fault = this.faultOf(leaf.b, item);
      if (fault === null) order[kept++] = item;
      else this.#report(fault, leaf.b, item);
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

  #drop(leaf: Leaf): void {
    let kept = 0;
    for (let i = 0; i < leaf.nr; i++) {
      const item = leaf.order[i] as number;
      if (this.faultOf(leaf.b, item) === null) leaf.order[kept++] = item;
    }
    leaf.nr = kept;
  }

  #report(fault: Fault, b: RawBlock, item: number): void {
    const values = { what: this.what, key: keyText(b.v, item) };
    if (fault !== "item-length") this.cx.report.add(fault, values);
    else this.cx.report.add(fault, { ...values, len: b.v.getUint16(item + VAL_OFF + 2, true) });
  }

  /** Why no filesystem item can have this key or length; null when it can. */
  faultOf(b: RawBlock, item: number): Fault | null {
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
    if (!right) return "item-zone";
    if (!fields) return "item-key-fields";
    return (deletion ? length === 0 : length >= low && length <= high) ? null : "item-length";
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
