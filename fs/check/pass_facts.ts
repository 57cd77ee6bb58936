/**
 * Pass 5: names the offenders where two places of the volume disagree. Runs only for classes of
 * facts whose sums differ, over facts that a second reading of the items has collected.
 *
 * Relies on: a fact book that has been told everything twice, the second time into a sorter.
 * Guarantees: each disagreement is reported by name.
 */

import type { CheckContext } from "./context.ts";
import {
  type Fact,
  FACT_BACKREF,
  FACT_DATA_INDEX,
  FACT_INDX,
  FACT_META_INDEX,
  FACT_ORPHAN,
  FACT_READDIR,
  FACT_SRCH,
  FACT_TOTL,
  forEachFactGroup,
  SIDE_ITEM,
  SIDE_SOURCE,
} from "./facts.ts";
import { joinWords } from "./raw.ts";
import type { Sorter } from "./sorter.ts";

const FACTS_BETWEEN = 1 << 14;

/** `done` is told now and then what share of the facts has been looked at. */
export function reportFacts(
  cx: CheckContext,
  sorter: Sorter,
  done: (share: number) => void,
): void {
  let seen = 0, told = 0;
  forEachFactGroup(sorter, (group) => {
    seen += group.length;
    if (seen - told >= FACTS_BETWEEN) {
      told = seen;
      done(seen / sorter.count);
    }
    const cls = (group[0] as Fact).cls;
    if (cls === FACT_SRCH) search(cx, group);
    else if (cls === FACT_TOTL) totals(cx, group);
    else pairs(cx, group, cls);
  });
  sorter.close();
}

function big(words: Uint32Array, at: number): bigint {
  return BigInt(words[at] as number) << 32n | BigInt(words[at + 1] as number);
}

function num(words: Uint32Array, at: number): number {
  return joinWords(words[at] as number, words[at + 1] as number);
}

function pairs(cx: CheckContext, group: readonly Fact[], cls: number): void {
  const items = group.filter((f) => f.side === SIDE_ITEM);
  const sources = group.filter((f) => f.side === SIDE_SOURCE);
  const key = (group[0] as Fact).key;
  const { report } = cx;
  if (cls === FACT_READDIR || cls === FACT_BACKREF) {
    const kind = cls === FACT_READDIR ? "readdir entry" : "link backref";
    const dir = num(key, 0), pos = num(key, 2);
    if (sources.length > 1) report.add("dir-pos-twice", { dir, pos });
    // Each inode that one of them names: mending looks for the backrefs of these.
    const add = (code: "entry-without-twin" | "twin-without-entry" | "entry-twins-differ") => {
      const children = new Set(group.map((f) => num(f.extra, 2)));
      for (const child of children) report.add(code, { dir, pos, child, kind });
    };
    if (items.length === 0) add("entry-without-twin");
    else if (sources.length === 0) add("twin-without-entry");
    else if (
      items.length > 1 || sources.length === 1 &&
        (items[0] as Fact).extra.some((w, i) => w !== (sources[0] as Fact).extra[i])
    ) add("entry-twins-differ");
    return;
  }
  if (items.length === sources.length) return;
  const extra = items.length > sources.length;
  if (cls === FACT_META_INDEX || cls === FACT_DATA_INDEX) {
    const index = cls === FACT_META_INDEX ? "meta_seq" : "data_seq";
    const values = { index, seq: num(key, 0), ino: num(key, 2) };
    report.add(extra ? "index-extra" : "index-missing", values);
  } else if (cls === FACT_ORPHAN) {
    report.add(extra ? "orphan-extra" : "orphan-missing", { ino: num(key, 0) });
  } else if (cls === FACT_INDX) {
    const text = `${big(key, 0).toString(16)}.${big(key, 2).toString(16)}.${
      big(key, 4).toString(16)
    }.${key[6]}`;
    report.add(extra ? "indx-extra" : "indx-missing", { key: text });
  }
}

/** An entry exists when it was told an odd number of times. */
function search(cx: CheckContext, group: readonly Fact[]): void {
  const entries = group.filter((f) => f.side === SIDE_ITEM).length;
  const xattrs = group.length - entries;
  if (entries % 2 === xattrs % 2) return;
  const key = (group[0] as Fact).key;
  const values = { hash: big(key, 0).toString(16), ino: num(key, 2), id: num(key, 4) };
  cx.report.add(xattrs > 0 ? "srch-missing" : "srch-extra", values);
}

function totals(cx: CheckContext, group: readonly Fact[]): void {
  let total = 0n, count = 0n, foundTotal = 0n, foundCount = 0n;
  for (const f of group) {
    if (f.side === SIDE_ITEM) {
      total += big(f.extra, 0);
      count += big(f.extra, 2);
    } else {
      foundTotal += big(f.extra, 0);
      foundCount += big(f.extra, 2);
    }
  }
  const wrap = (n: bigint) => BigInt.asUintN(64, n);
  if (wrap(total) === wrap(foundTotal) && wrap(count) === wrap(foundCount)) return;
  const key = (group[0] as Fact).key;
  cx.report.add("totl", {
    name: `${big(key, 0)}.${big(key, 2)}.${big(key, 4)}`,
    total: wrap(total),
    count: BigInt.asIntN(64, count),
    foundTotal: wrap(foundTotal),
    foundCount: wrap(foundCount),
  });
}
