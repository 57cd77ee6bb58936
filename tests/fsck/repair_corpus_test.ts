/**
 * Repair against the corruption corpus: single wrong fields, and damaged, swapped, stale and torn
 * blocks, wrong references, missing and doubled items, each in a volume made by mounts and in one
 * with everything that the format knows. Whatever a check reports is mended, and a second check
 * finds nothing.
 *
 * A sample by default; `SCOUTFS_REPAIR_STRIDE=1` runs all of some 13,000.
 */

import assert from "node:assert/strict";
import { checkVolume, isSound } from "../../fs/check/check.ts";
import { repairVolume } from "../../fs/check/repair/repair.ts";
import type { MemDevice } from "../../fs/memory_device.ts";
import { mutationsOf, placesOf } from "../check/corpus.ts";
import { blockDamage, itemDamage, referenceDamage } from "./damage.ts";
import { healthyVolume, repairOptions } from "./repair_support.ts";
import { makeSample } from "./sample.ts";

interface Mutant {
  readonly name: string;
  damage(meta: MemDevice, data: MemDevice): void;
}

const STRIDE = Number(Deno.env.get("SCOUTFS_REPAIR_STRIDE") ?? 61);

/** What cannot be mended yet: each with its reason. */
const LEFT: readonly (readonly [codes: RegExp, reason: string])[] = [
  [/^(super-no-slots|super-slot)$/, "nothing tells the address of a quorum slot"],
  [/^super-(magic|pair|role)$/, "a device that is not provably the right one is not written"],
];

function mutants(base: { meta: MemDevice; data: MemDevice }): Mutant[] {
  const out: Mutant[] = [];
  for (const place of placesOf(base.meta)) {
    const onMeta = place.dev === "meta";
    for (const m of mutationsOf(place, onMeta ? base.meta : base.data)) {
      out.push({ name: m.name, damage: (meta, data) => m.apply(onMeta ? meta : data) });
    }
  }
  const damages = [
    ...blockDamage(base.meta),
    ...referenceDamage(base.meta),
    ...itemDamage(base.meta, 6),
  ];
  for (const d of damages) out.push({ name: d.name, damage: (meta) => d.apply(meta) });
  return out;
}

async function volume(name: string): Promise<{ meta: MemDevice; data: MemDevice }> {
  return name === "sample" ? makeSample() : await healthyVolume();
}

for (const name of ["mounts", "sample"]) {
  Deno.test(`repair: the corpus on a volume of ${name}`, async () => {
    const base = await volume(name), all = mutants(base), failures: string[] = [];
    for (let i = 0; i < all.length; i += STRIDE) {
      const mutant = all[i] as Mutant;
      const meta = base.meta.snapshot(), data = base.data.snapshot();
      mutant.damage(meta, data);
      repairVolume(meta, data, repairOptions());
      const after = checkVolume(meta, data, { memory: 64 << 20 });
      if (isSound(after)) continue;
      const left = after.problems.filter((p) => p.severity !== "info");
      if (left.every((p) => LEFT.some(([codes]) => codes.test(p.code)))) continue;
      failures.push(`#${i} ${mutant.name}: ${left.map((p) => p.message).slice(0, 3).join("; ")}`);
    }
    assert.deepEqual(failures, []);
  });
}
