/** Repair of items: entries, inodes, indexes, totals, search. */

import { CASES, entryFinder } from "./item_cases.ts";
import { healthyVolume, manifest, mustMend, Surgeon } from "./repair_support.ts";

for (const c of CASES) {
  Deno.test(`repair: ${c.name}`, async () => {
    const v = await healthyVolume();
    const healthy = manifest(v.meta, v.data);
    const s = new Surgeon(v.meta);
    c.damage(s, v, entryFinder(s, v));
    mustMend(v, healthy, c.codes, c.touched);
    c.after?.(manifest(v.meta, v.data), v);
  });
}
