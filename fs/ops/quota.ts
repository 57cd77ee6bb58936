/**
 * Quotas (02 §19): rules that refuse with EDQUOT what would be charged to a total that has reached
 * its limit. Rules are read once under the quota lock and kept until it is lost; totals are read
 * weakly, from committed trees up to 5 s old (02 §18), and usage itself is entirely userspace's.
 */

import {
  QUOTA_NAME_SELECT,
  QUOTA_OP_DATA,
  QUOTA_RULE_TOTL_COUNT,
  QUOTA_SOURCE_GID,
  QUOTA_SOURCE_LITERAL,
  QUOTA_SOURCE_PROJ,
  QUOTA_SOURCE_UID,
  SM_SIZE,
  SUPER_BLKNO,
} from "../../format/constants.ts";
import { EDQUOT, EIO } from "../../format/errno.ts";
import { quotaRuleKey, xattrTotlKey } from "../../format/item_keys.ts";
import { QuotaRuleVal, XattrTotlVal } from "../../format/items.ts";
import type { Key } from "../../format/key.ts";
import { LOG_MERGE_STATUS_KEY, LogMergeStatus } from "../../format/merge.ts";
import { SuperBlock } from "../../format/super.ts";
import { blockCrcOk } from "../../format/crc32c.ts";
import { LOCK_READ } from "../../format/wire.ts";
import type { BlockCache } from "../block_cache.ts";
import { lookup } from "../btree.ts";
import type { Device } from "../device.ts";
import { assert, CorruptError, errnoError, FsError, StaleError } from "../errors.ts";
import { forEachLogTree } from "../forest.ts";
import type { Fs } from "../fs.ts";
import type { Op } from "../op.ts";

const NAMES = 3;
/** How long results and roots are believed, in milliseconds. */
const WEAK_MS = 5000;
const STALE_RETRIES = 8;
/** Cached results; all are dropped beyond that. */
const RESULT_LIMIT = 10_000;

/** What a check is about: QUOTA_OP_INODE or QUOTA_OP_DATA, on behalf of whom. */
export interface QuotaInput {
  readonly op: number;
  readonly proj: bigint;
  readonly uid: number;
  readonly gid: number;
}

/** A valid rule's value may only have these. Throws EIO for one that is not valid. */
function checkRule(rule: QuotaRuleVal, key: Key): void {
  let valid = rule.op <= QUOTA_OP_DATA && (rule.ruleFlags & ~QUOTA_RULE_TOTL_COUNT) === 0;
  for (let i = 0; i < NAMES; i++) {
    const flags = rule.nameFlags(i);
    const source = rule.nameSource(i);
    if ((flags & ~QUOTA_NAME_SELECT) !== 0) valid = false;
    if ((flags & QUOTA_NAME_SELECT) === 0) continue;
    if (source === QUOTA_SOURCE_LITERAL || source > QUOTA_SOURCE_GID) valid = false;
    for (let j = 0; j < i; j++) {
      const same = rule.nameSource(j) === source && (rule.nameFlags(j) & QUOTA_NAME_SELECT) !== 0;
      if (same && rule.nameVal(j) !== rule.nameVal(i)) valid = false;
    }
  }
  if (!valid) throw new CorruptError(`quota rule ${key} is not valid`);
}

/** The attribute that a name's source stands for; null for literals. */
function attribute(source: number, input: QuotaInput): bigint | null {
  switch (source) {
    case QUOTA_SOURCE_PROJ:
      return input.proj;
    case QUOTA_SOURCE_UID:
      return BigInt(input.uid);
    case QUOTA_SOURCE_GID:
      return BigInt(input.gid);
    default:
      return null;
  }
}

function matches(rule: QuotaRuleVal, input: QuotaInput): boolean {
  if (rule.op !== input.op) return false;
  for (let i = 0; i < NAMES; i++) {
    if ((rule.nameFlags(i) & QUOTA_NAME_SELECT) === 0) continue;
    if (attribute(rule.nameSource(i), input) !== rule.nameVal(i)) return false;
  }
  return true;
}

/** Positive when `a` goes before `b`: the order of 02 §19.3, greatest first. */
export function compareRules(a: QuotaRuleVal, b: QuotaRuleVal): number {
  let c = a.prio - b.prio;
  for (let i = 0; i < NAMES && c === 0; i++) {
    const [x, y] = [a.nameVal(i), b.nameVal(i)];
    c = x < y ? -1 : x > y ? 1 : 0;
    if (c === 0) c = a.nameSource(i) - b.nameSource(i);
    if (c === 0) c = a.nameFlags(i) - b.nameFlags(i);
  }
  if (c === 0) c = a.op - b.op;
  if (c === 0) c = a.limit < b.limit ? -1 : a.limit > b.limit ? 1 : 0;
  return c === 0 ? a.ruleFlags - b.ruleFlags : c;
}

interface Result {
  readonly until: number;
  readonly refused: boolean;
}

export interface Total {
  readonly total: bigint;
  readonly count: bigint;
}

/** The quota state of one mount. */
export class Quota {
  /** In order, greatest first; null: to be read. */
  #rules: QuotaRuleVal[] | null = null;
  #loading: Promise<void> | null = null;
  readonly #results = new Map<string, Result>();

  readonly #totals: CommittedTotals;

  constructor(private readonly fs: Fs) {
    this.#totals = new CommittedTotals(fs.meta, fs.cache);
  }

  /** The quota lock was lost, or rules were changed here. */
  drop(): void {
    this.#rules = null;
    this.#results.clear();
  }

  /** Gather: are there rules at all? Reads them if need be; EIO when one is damaged. */
  applies(op: Op): boolean {
    if (this.fs.fmtVers < 2) return false;
    if (this.#rules === null) op.wait(this.#loading ??= this.#load());
    return this.#rules.length > 0;
  }

  /** Throws EDQUOT when `input` must be refused, EIO for damaged totals. Only if `applies`. */
  check(input: QuotaInput): void {
    const rules = this.#rules;
    assert(rules !== null, "quota rules are used before they were read");
    const now = this.fs.clock.now();
    const name = `${input.op} ${input.proj} ${input.uid} ${input.gid}`;
    let result = this.#results.get(name);
    if (result === undefined || result.until <= now) {
      if (this.#results.size >= RESULT_LIMIT) this.#results.clear();
      result = { until: now + WEAK_MS, refused: this.#refuses(rules, input) };
      this.#results.set(name, result);
    }
    if (result.refused) throw errnoError(EDQUOT);
  }

  /** Reads the rules in an operation of its own: it needs the quota lock only for a moment. */
  async #load(): Promise<void> {
    try {
      await this.fs.runner.run((op) => {
        const rules = this.#read(op);
        op.apply();
        this.#rules = rules;
      });
    } finally {
      this.#loading = null;
    }
  }

  #read(op: Op): QuotaRuleVal[] {
    const { fs } = this;
    const lock = fs.locks.quota();
    op.lock(lock, LOCK_READ);
    const rules: QuotaRuleVal[] = [];
    for (let key = quotaRuleKey(0n, 0);;) {
      const item = fs.items.next(op, lock, key, lock.end);
      if (item === null) break;
      if (item.length !== QuotaRuleVal.SIZE) {
        throw new CorruptError(`quota rule ${item.key} of ${item.length} bytes`);
      }
      const rule = QuotaRuleVal.at(item.val.slice());
      checkRule(rule, item.key);
      rules.push(rule);
      key = item.key.inc();
    }
    return rules.sort((a, b) => compareRules(b, a));
  }

  #refuses(rules: readonly QuotaRuleVal[], input: QuotaInput): boolean {
    const rule = rules.find((r) => matches(r, input));
    if (rule === undefined) return false;
    const name = (i: number): bigint => attribute(rule.nameSource(i), input) ?? rule.nameVal(i);
    const total = this.#totals.read(xattrTotlKey(name(0), name(1), name(2)));
    if (total === null) return false;
    const use = (rule.ruleFlags & QUOTA_RULE_TOTL_COUNT) !== 0 ? total.count : total.total;
    return BigInt.asUintN(64, use) >= rule.limit;
  }
}

/** Sums of one bucket of 02 §18.3. */
class Bucket {
  present = false;
  seq = 0;
  total = 0n;
  count = 0n;

  add(seq: number, val: Uint8Array, key: Key): void {
    if (val.length !== XattrTotlVal.SIZE) {
      throw new CorruptError(`total ${key} of ${val.length} bytes`);
    }
    const v = XattrTotlVal.at(val);
    this.present = true;
    this.seq = Math.max(this.seq, seq);
    this.total += v.total;
    this.count += v.count;
  }
}

/** Totals as the committed trees have them now (02 §18.2, §18.3), read without locks. */
export class CommittedTotals {
  #superBytes: Uint8Array | null = null;

  constructor(private readonly meta: Device, private readonly cache: BlockCache) {}

  /** The total `key` names; null when there is none. */
  read(key: Key): Total | null {
    for (let i = 0; i < STALE_RETRIES; i++) {
      try {
        const sb = this.#stableSuper();
        if (sb !== null) return this.#resolve(sb, key);
      } catch (e) {
        if (!(e instanceof StaleError)) throw e;
      }
    }
    throw new FsError(EIO, `total ${key}: the trees change too fast or are damaged`);
  }

  /** The super block on the device; null when it is just being written. */
  #stableSuper(): SuperBlock | null {
    this.#superBytes ??= this.meta.allocBuffer(SM_SIZE);
    this.meta.read(this.#superBytes, SUPER_BLKNO * SM_SIZE);
    return blockCrcOk(this.#superBytes) ? SuperBlock.at(this.#superBytes) : null;
  }

  #resolve(sb: SuperBlock, key: Key): Total | null {
    const t = { cache: this.cache };
    let mergeSeq = 0;
    if (sb.logMerge.height > 0) {
      const status = lookup(t, sb.logMerge, LOG_MERGE_STATUS_KEY);
      if (status !== null) mergeSeq = LogMergeStatus.at(status.val).seq;
    }
    const merged = new Bucket();
    const inputs = new Bucket();
    const logs = new Bucket();
    const item = lookup(t, sb.fsRoot, key);
    if (item !== null) merged.add(item.seq, item.val, key);
    forEachLogTree(t, sb.logsRoot, (lt) => {
      const delta = lookup(t, lt.itemRoot, key);
      if (delta === null) return;
      const isInput = lt.isFinalized && (mergeSeq === 0 || lt.finalizeSeq < mergeSeq);
      (isInput ? inputs : logs).add(delta.seq, delta.val, key);
    });
    let { total, count } = merged;
    if (merged.present ? inputs.present && inputs.seq > merged.seq : inputs.count > 0n) {
      total += inputs.total;
      count += inputs.count;
    }
    total = BigInt.asUintN(64, total + logs.total);
    count = BigInt.asIntN(64, count + logs.count);
    return total === 0n && count === 0n ? null : { total, count };
  }
}
