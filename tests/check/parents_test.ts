/** The tree of directories against a plain model, in memory and spilled to disk. */

import assert from "node:assert/strict";
import fc from "fast-check";
import { Directories, ParentMap } from "../../fs/check/parents.ts";
import { WordStore } from "../../fs/check/word_store.ts";

interface Dir {
  readonly ino: number;
  /** null: unlinked; undefined: has no backref. */
  readonly parent: number | null | undefined;
}

const ROOT = 1;

interface Verdict {
  missing: string[];
  cycles: number[];
}

function checked(dirs: readonly Dir[], memory: number): Verdict & { spilled: boolean } {
  const list = new Directories(), map = new ParentMap(memory, undefined);
  dirs.forEach(({ ino, parent }, i) => {
    if (typeof parent === "number") list.add(ino, parent);
    list.exists(ino, parent === null);
    if (i % 1000 === 999) map.append(list.take());
  });
  map.append(list.take());
  assert.equal(map.count, dirs.length);
  const verdict: Verdict = { missing: [], cycles: [] };
  map.check(
    ROOT,
    (ino, parent) => verdict.missing.push(`${ino} in ${parent}`),
    (ino) => verdict.cycles.push(ino),
  );
  return { ...verdict, spilled: map.spilled };
}

function model(dirs: readonly Dir[]): Verdict {
  const parents = new Map(dirs.map((d) => [d.ino, d.parent]));
  const verdict: Verdict = { missing: [], cycles: [] }, known = new Set<number>();
  for (const { ino } of dirs) {
    const path = new Set<number>();
    let at = ino;
    while (!known.has(at)) {
      if (path.has(at)) {
        verdict.cycles.push(at);
        break;
      }
      path.add(at);
      const parent = parents.get(at);
      if (at === ROOT || parent === null || parent === undefined) break;
      if (!parents.has(parent)) {
        verdict.missing.push(`${at} in ${parent}`);
        break;
      }
      at = parent;
    }
    for (const i of path) known.add(i);
  }
  return verdict;
}

Deno.test("directories that do not reach the root are found", () => {
  const parent = fc.oneof(
    { weight: 8, arbitrary: fc.nat(40) },
    { weight: 1, arbitrary: fc.constantFrom(null, undefined, 2 ** 40 + 3, 2 ** 53 - 2) },
  );
  fc.assert(fc.property(fc.array(parent, { maxLength: 40 }), (list) => {
    const dirs = list.map((p, i) => ({ ino: i + 1, parent: p === 0 ? null : p }));
    const { spilled, ...verdict } = checked(dirs, 1 << 20);
    assert.deepEqual(verdict, model(dirs));
    assert.equal(spilled, false);
  }));
});

Deno.test("many directories are checked in little memory, with the same result", () => {
  let seed = 5;
  const below = (n: number) =>
    (seed = Math.imul(seed, 1664525) + 1013904223 >>> 0) / 0x1_0000_0000 * n | 0;
  const count = 300_000, inoOf = (i: number) => 2 ** 33 + 3 * i;
  // Mostly older parents; some younger, some gone, long chains among them.
  const dirs: Dir[] = [{ ino: ROOT, parent: undefined }];
  for (let i = 0; i < count; i++) {
    const kind = below(1000);
    const parent = kind < 2
      ? inoOf(below(count)) + 1
      : kind < 4
      ? inoOf(Math.min(count - 1, i + below(3)))
      : kind < 500 && i > 0
      ? inoOf(i - 1)
      : i > 0 && kind < 990
      ? inoOf(below(i))
      : ROOT;
    dirs.push({ ino: inoOf(i), parent });
  }
  const { spilled, ...verdict } = checked(dirs, 1);
  assert.equal(spilled, true);
  assert.ok(verdict.missing.length > 100 && verdict.cycles.length > 0);
  assert.deepEqual(verdict, model(dirs));
});

Deno.test("a store of words gives back what was put in, from memory and from disk", () => {
  const store = new WordStore(1, undefined), count = 300_001;
  for (let i = 0; i < count; i++) store.push(Math.imul(i, 0x9e3779b1) >>> 0);
  assert.ok(store.spilled && store.length === count);
  for (let k = 0; k < 3; k++) {
    for (let i = k; i < count; i += 7919) {
      assert.equal(store.get(i), Math.imul(i, 0x9e3779b1) >>> 0);
      assert.equal(store.get(count - 1 - i), Math.imul(count - 1 - i, 0x9e3779b1) >>> 0);
    }
  }
  store.close();
});
