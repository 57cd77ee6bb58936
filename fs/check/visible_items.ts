/**
 * The items that a reader sees, in key order, sent to where each kind is checked: the items of inodes
 * to `InodeCheck`, index items as facts to compare with the inodes, quota rules here.
 *
 * Relies on: the stream of resolved items (stream.ts), each key once, ascending.
 * Guarantees: every visible item has been checked or told to the fact book.
 */

import { bytesEqual } from "../../format/bytes.ts";
import { KEY } from "../../format/btree_block.ts";
import {
  QUOTA_NAME_SELECT,
  QUOTA_OP_DATA,
  QUOTA_RULE_TOTL_COUNT,
  QUOTA_SOURCE_GID,
  ROOT_INO,
  TYPE_INODE,
  TYPE_INODE_INDEX_META_SEQ,
  ZONE_FS,
  ZONE_INODE_INDEX,
  ZONE_ORPHAN,
  ZONE_QUOTA,
  ZONE_XATTR_INDX,
} from "../../format/constants.ts";
import { fnv1a64 } from "../../format/hash.ts";
import { QuotaRuleVal } from "../../format/items.ts";
import type { SrchEntry } from "../../format/srch.ts";
import type { WalkContext } from "./context.ts";
import {
  FACT_DATA_INDEX,
  FACT_INDX,
  FACT_META_INDEX,
  FACT_ORPHAN,
  FACT_SRCH,
  type FactBook,
  SIDE_ITEM,
} from "./facts.ts";
import type { InodeCheck } from "./inode_check.ts";
import { LOG_MERGE } from "./names.ts";
import { isZero, rawU64 } from "./raw.ts";
import type { RawBlock } from "./source.ts";
import type { ItemSink } from "./stream.ts";
import { keyText } from "./text.ts";

const VAL_OFF = 48;

export class VisibleItems implements ItemSink {
  #inoHi = -1;
  #inoLo = -1;
  #quotaHash = 0n;
  #quotaNext = 0;
  /** Rules of the current hash. */
  #quotaTwins: Uint8Array[] = [];
  items = 0;
  rootSeen = false;

  constructor(
    private readonly cx: WalkContext,
    private readonly facts: FactBook,
    readonly inodes: InodeCheck,
  ) {}

  item(b: RawBlock, item: number): void {
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
        this.facts.addShort(
          v.getUint8(key + 26) === TYPE_INODE_INDEX_META_SEQ ? FACT_META_INDEX : FACT_DATA_INDEX,
          SIDE_ITEM,
          v.getUint32(key + 12, true),
          v.getUint32(key + 8, true),
          v.getUint32(key + 20, true),
          v.getUint32(key + 16, true),
        );
        break;
      case ZONE_ORPHAN:
        this.facts.addShort(
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

  totl(b: RawBlock, item: number, total: bigint, count: bigint): void {
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

  unmerged(b: RawBlock, item: number): void {
    this.cx.report.add("item-unmerged", { key: keyText(b.v, item) });
  }

  remerged(b: RawBlock, item: number): void {
    this.cx.report.add("merge", {
      what: LOG_MERGE,
      why: `total ${keyText(b.v, item)} is part of fs_root already and would be added once more`,
    });
  }

  stale(b: RawBlock, item: number): void {
    this.cx.report.add("item-stale", { key: keyText(b.v, item) });
  }

  finish(): void {
    if (this.#inoHi >= 0) this.inodes.end();
  }

  #quota(b: RawBlock, item: number): void {
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
    if (rule.op > QUOTA_OP_DATA) bad(`operation ${rule.op}`);
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
