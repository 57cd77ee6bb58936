/** fsck finds nothing wrong with what the reference left. */

import assert from "node:assert/strict";
import { checkVolume, isSound } from "../../fs/check/check.ts";
import { openDevice } from "../../fs/sys/device.ts";
import { goldenImages, type GoldenName, goldenTest } from "../helpers/golden.ts";

const EXPECTED: Readonly<Record<GoldenName, Readonly<Record<string, number>>>> = {
  "fresh-v1": { undersized: 1 },
  "fresh-v2": { undersized: 1 },
  "fresh-3quorum": { "super-slot-unmountable": 1 },
  "fresh-zoned": {},
  "features-v2": { "meta-leak-parent": 1 },
  "tall": { "meta-leak-parent": 3 },
  "crash": { "not-clean": 1, "meta-leak-parent": 1 },
};

for (const name of Object.keys(EXPECTED) as GoldenName[]) {
  goldenTest(`golden ${name}: no problems, twice`, () => {
    const images = goldenImages(name);
    const meta = openDevice(images.meta, { write: false });
    const data = openDevice(images.data, { write: false });
    try {
      for (let run = 0; run < 2; run++) {
        const report = checkVolume(meta, data);
        assert.ok(isSound(report), report.problems.map((p) => p.message).join("\n"));
        assert.deepEqual(Object.fromEntries(report.counts), EXPECTED[name]);
      }
    } finally {
      meta.close();
      data.close();
    }
  });
}
