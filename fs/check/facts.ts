/**
 * Facts that two places of a volume must agree on: an entry and its twins, an index item and the
 * inode that it stands for. Both sides tell the book; sums of strong hashes, independent of order,
 * say in no memory at all whether the two sides tell the same. Only for classes that differ the
 * items are read once more, with the facts going to an external sorter that names the offenders.
 *
 * Relies on: each side telling each fact once, in any order, the second reading the same as the first.
 * Guarantees: a class whose two sides differ is named; of such a class the sorter has every fact.
 *
 * A wrong "equal" needs a collision of 64-bit sums of damaged records: accidents do not find one.
 */

import { assert } from "../errors.ts";
import { Records } from "./records.ts";
import { Sorter } from "./sorter.ts";

export const FACT_META_INDEX = 0;
export const FACT_DATA_INDEX = 1;
export const FACT_ORPHAN = 2;
/** Entries: dirent against readdir, and dirent against backref, are two classes of one record. */
export const FACT_READDIR = 3;
export const FACT_BACKREF = 4;
export const FACT_INDX = 5;
export const FACT_TOTL = 6;
export const FACT_SRCH = 7;
const CLASSES = 8;

/** The side that is derived: an index item, a twin. */
export const SIDE_ITEM = 0;
/** The side that it is derived from: an inode, a dirent, an xattr. */
export const SIDE_SOURCE = 1;

/** Words that identify a fact. */
export const FACT_KEY_WORDS = 7;
/** Words that go with it and are told in the report. */
export const FACT_EXTRA_WORDS = 4;
const WORDS = 1 + FACT_KEY_WORDS + 1 + FACT_EXTRA_WORDS;

const START_A = 0x9747b28c;
const START_B = 0x2f0b4c47;

/** Two chains of multiplications, each of which no single changed word can leave as it was. */
function mixA(h: number, k: number): number {
  h = Math.imul(h ^ k, 0xcc9e2d51);
  return h ^ h >>> 15;
}

function mixB(h: number, k: number): number {
  h = Math.imul(h ^ k, 0x85ebca6b);
  return h ^ h >>> 13;
}

function finish(h: number): number {
  h ^= h >>> 16;
  h = Math.imul(h, 0x85ebca6b);
  h ^= h >>> 13;
  h = Math.imul(h, 0xc2b2ae35);
  return h ^ h >>> 16;
}

/** What a book amounts to, as it can be sent to another thread. */
export interface FactSums {
  readonly first: readonly number[];
  readonly second: readonly number[];
  readonly counts: readonly number[];
  readonly totals: bigint;
  /** Facts that were collected. */
  readonly collected: ArrayBuffer;
}

export class FactBook {
  /** Source minus item, two independent 32-bit sums a class, then the difference of counts. */
  readonly #first = new Int32Array(CLASSES);
  readonly #second = new Int32Array(CLASSES);
  readonly #counts = new Float64Array(CLASSES);
  #collect: Sorter | Records | null = null;
  #wanted = 0;
  #totals = 0n;

  /** A fact of four words, of a class that does not cancel by parity. */
  addShort(cls: number, side: number, k0: number, k1: number, k2: number, k3: number): void {
    if (this.#collect !== null) {
      this.add(cls, side, k0, k1, k2, k3);
      return;
    }
    const a = mixA(mixA(mixA(mixA(START_A, k0), k1), k2), k3);
    const b = mixB(mixB(mixB(mixB(START_B, k3), k2), k1), k0);
    this.#sum(cls, side, finish(a), finish(b));
  }

  #sum(cls: number, side: number, a: number, b: number): void {
    const sign = side === SIDE_SOURCE ? 1 : -1;
    this.#first[cls]! += sign * a;
    this.#second[cls]! += sign * b;
    this.#counts[cls]! += sign;
  }

  /** `k0` … `k6` identify the fact, `extra` words (a value's hash) must agree as well. */
  add(
    cls: number,
    side: number,
    k0: number,
    k1: number,
    k2: number,
    k3: number,
    k4 = 0,
    k5 = 0,
    k6 = 0,
    x0 = 0,
    x1 = 0,
    x2 = 0,
    x3 = 0,
  ): void {
    if (this.#collect !== null) {
      if ((this.#wanted >> cls & 1) !== 0) {
        this.#push(cls, side, k0, k1, k2, k3, k4, k5, k6, x0, x1, x2, x3);
      }
      return;
    }
    // In opposite orders, so that no exchange of words goes unseen; words at the end that most
    // classes leave at 0 are passed over.
    let a = mixA(mixA(mixA(mixA(START_A, k0), k1), k2), k3);
    let b = mixB(mixB(mixB(mixB(START_B, k3), k2), k1), k0);
    if ((x0 | x1 | x2 | x3) !== 0) {
      a = mixA(mixA(mixA(mixA(a, x0), x1), x2), x3);
      b = mixB(mixB(mixB(mixB(b, x3), x2), x1), x0);
    }
    if ((k4 | k5 | k6) !== 0) {
      a = mixA(mixA(mixA(a, k4), k5), k6 ^ 0x55555555);
      b = mixB(mixB(mixB(b, k6 ^ 0x55555555), k5), k4);
    }
    a = finish(a);
    b = finish(b);
    if (cls === FACT_SRCH) {
      // Parity: equal entries cancel, whoever tells them.
      this.#first[cls]! ^= a;
      this.#second[cls]! ^= b;
      return;
    }
    this.#sum(cls, side, a, b);
  }

  /**
   * A contribution to the total a.b.c: value and count, from an xattr (source) or an item. The sums
   * are linear, so many xattrs and one item agree.
   */
  addTotal(
    side: number,
    a: bigint,
    b: bigint,
    c: bigint,
    total: bigint,
    count: bigint,
  ): void {
    if (this.#collect !== null) {
      if ((this.#wanted >> FACT_TOTL & 1) !== 0) {
        const t = BigInt.asUintN(64, total), n = BigInt.asUintN(64, count);
        const hi = (x: bigint) => Number(x >> 32n), lo = (x: bigint) => Number(x & 0xffff_ffffn);
        this.#push(
          FACT_TOTL,
          side,
          hi(a),
          lo(a),
          hi(b),
          lo(b),
          hi(c),
          lo(c),
          0,
          hi(t),
          lo(t),
          hi(n),
          lo(n),
        );
      }
      return;
    }
    let h = 0n;
    for (const x of [a, b, c]) {
      h = BigInt.asUintN(64, (h ^ x) * 0x9e3779b97f4a7c15n + 0x7f4a7c15f39cc060n);
      h ^= h >> 29n;
    }
    const weight = h | 1n, other = BigInt.asUintN(64, h * 0xd6e8feb86659fd93n) | 1n;
    const sum = total * weight + count * other;
    this.#totals = BigInt.asUintN(
      64,
      side === SIDE_SOURCE ? this.#totals + sum : this.#totals - sum,
    );
  }

  agrees(cls: number): boolean {
    if (cls === FACT_TOTL) return this.#totals === 0n;
    return this.#first[cls] === 0 && this.#second[cls] === 0 && this.#counts[cls] === 0;
  }

  /** Classes whose sides differ. */
  differing(): number[] {
    const out: number[] = [];
    for (let cls = 0; cls < CLASSES; cls++) if (!this.agrees(cls)) out.push(cls);
    return out;
  }

  /** From now on facts of these classes are kept for `take` (see `Records`), all others forgotten. */
  gather(
    classes: readonly number[],
    most: number,
    overflow: ((records: ArrayBuffer) => void) | null,
  ): void {
    this.#wanted = classes.reduce((bits, cls) => bits | 1 << cls, 0);
    this.#collect = new Records(WORDS, most, overflow);
  }

  /** Everything told so far; the book is empty afterwards. */
  take(): FactSums {
    const kept = this.#collect;
    const sums = {
      first: [...this.#first],
      second: [...this.#second],
      counts: [...this.#counts],
      totals: this.#totals,
      collected: kept instanceof Records ? kept.take() : new ArrayBuffer(0),
    };
    this.#first.fill(0);
    this.#second.fill(0);
    this.#counts.fill(0);
    this.#totals = 0n;
    return sums;
  }

  /** Adds facts that another book has gathered. */
  addCollected(records: ArrayBuffer): void {
    if (this.#collect instanceof Sorter) this.#collect.append(new Uint32Array(records));
  }

  /** Adds what another book amounts to. */
  addAll(sums: FactSums): void {
    this.addCollected(sums.collected);
    for (let cls = 0; cls < CLASSES; cls++) {
      if (cls === FACT_SRCH) {
        this.#first[cls]! ^= sums.first[cls] as number;
        this.#second[cls]! ^= sums.second[cls] as number;
        continue;
      }
      this.#first[cls]! += sums.first[cls] as number;
      this.#second[cls]! += sums.second[cls] as number;
      this.#counts[cls]! += sums.counts[cls] as number;
    }
    this.#totals = BigInt.asUintN(64, this.#totals + sums.totals);
  }

  /** From now on facts of these classes go to a sorter, all others nowhere. */
  collect(classes: readonly number[], memory: number, tempDir: string | undefined): Sorter {
    this.#wanted = classes.reduce((bits, cls) => bits | 1 << cls, 0);
    const keyWords = 1 + FACT_KEY_WORDS + 1;
    const sorter = new Sorter({ words: WORDS, keyWords, memory, tempDir });
    this.#collect = sorter;
    return sorter;
  }

  #push(
    cls: number,
    side: number,
    k0: number,
    k1: number,
    k2: number,
    k3: number,
    k4: number,
    k5: number,
    k6: number,
    x0: number,
    x1: number,
    x2: number,
    x3: number,
  ): void {
    const kept = this.#collect;
    assert(kept !== null, "facts are not being collected");
    const at = kept.slot(), buf = kept.buffer;
    buf[at] = cls;
    buf[at + 1] = k0;
    buf[at + 2] = k1;
    buf[at + 3] = k2;
    buf[at + 4] = k3;
    buf[at + 5] = k4;
    buf[at + 6] = k5;
    buf[at + 7] = k6;
    buf[at + 8] = side;
    buf[at + 9] = x0;
    buf[at + 10] = x1;
    buf[at + 11] = x2;
    buf[at + 12] = x3;
  }
}

/** A collected fact as it is visited. */
export interface Fact {
  cls: number;
  side: number;
  key: Uint32Array;
  extra: Uint32Array;
}

/** Visits the collected facts in groups of equal class and key; of a total one a side, the sum. */
export function forEachFactGroup(sorter: Sorter, visit: (group: readonly Fact[]) => void): void {
  let group: Fact[] = [];
  sorter.forEach((words, at) => {
    const fact: Fact = {
      cls: words[at] as number,
      key: words.slice(at + 1, at + 1 + FACT_KEY_WORDS),
      side: words[at + 1 + FACT_KEY_WORDS] as number,
      extra: words.slice(at + 2 + FACT_KEY_WORDS, at + WORDS),
    };
    const first = group[0];
    if (
      first !== undefined &&
      (first.cls !== fact.cls || first.key.some((w, i) => w !== fact.key[i]))
    ) {
      visit(group);
      group = [];
    }
    const last = group.at(-1);
    if (fact.cls === FACT_TOTL && last?.side === fact.side) addExtra(last.extra, fact.extra);
    else group.push(fact);
  });
  if (group.length > 0) visit(group);
}

/** Adds numbers of two words, modulo 2^64. */
function addExtra(to: Uint32Array, other: Uint32Array): void {
  for (let at = 0; at < to.length; at += 2) {
    const low = (to[at + 1] as number) + (other[at + 1] as number);
    to[at] = (to[at] as number) + (other[at] as number) + (low > 0xffff_ffff ? 1 : 0);
    to[at + 1] = low;
  }
}
