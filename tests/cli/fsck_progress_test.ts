/** The progress of a check: never backwards within a stage, and honest about the time left. */

import assert from "node:assert/strict";
import { checkVolume, type Progress } from "../../fs/check/check.ts";
import { LG_SIZE, SM_SIZE } from "../../format/constants.ts";
import { MemDevice } from "../../fs/memory_device.ts";
import { ProgressLine } from "../../cli/fsck_progress.ts";
import { generate, generatedSize } from "../fsck/generate.ts";

/** What a check of a generated volume tells, in stages. */
function stagesOf(damage?: "wrong-nlink" | "no-index"): Progress[][] {
  const inodes = 12_000, { metaBlocks, dataBlocks } = generatedSize(inodes);
  const meta = new MemDevice(metaBlocks * LG_SIZE), data = new MemDevice(dataBlocks * SM_SIZE);
  generate(meta, data, inodes, damage);
  const stages: Progress[][] = [];
  let before = Infinity;
  checkVolume(meta, data, {
    onProgress: (p) => {
      if (p.share < before) stages.push([]);
      stages.at(-1)!.push(p);
      before = p.share;
    },
  });
  return stages;
}

Deno.test("fsck progress: one stage for a check, another one where facts are compared", () => {
  for (const [damage, count] of [[undefined, 1], ["wrong-nlink", 1], ["no-index", 2]] as const) {
    const stages = stagesOf(damage);
    assert.equal(stages.length, count, `${damage}`);
    for (const stage of stages) {
      assert.ok(stage[0]!.share < 0.05);
      assert.ok(stage.at(-1)!.share > 0.65 && stage.at(-1)!.share <= 1);
    }
    assert.ok(stages[0]!.at(-1)!.share > 0.9 && stages[0]!.length > 3);
  }
});

Deno.test("fsck progress: the time left is that of the pace, and each stage has its own", () => {
  let now = 0, text = "";
  const line = new ProgressLine(() => now, (s) => void (text = s));
  const left = () => {
    const m = /, (?:(\d+) min )?(\d+) s left$/.exec(text);
    return m === null ? null : 60 * Number(m[1] ?? 0) + Number(m[2]);
  };
  const show = (share: number, round = 1) =>
    line.show({ phase: "items", share, bytesRead: share * 1e9 }, round);
  show(0);
  assert.equal(text, "\r\x1b[Kitems: 0.0 %, 0 MB/s");
  for (now = 1000; now <= 50_000; now += 1000) {
    show(now / 100_000);
    if (now >= 3000) assert.equal(left(), 100 - now / 1000);
  }
  assert.equal(text, "\r\x1b[Kitems: 50.0 %, 10 MB/s, 50 s left");
  // Twice as slow: within the seconds of the pace it is known.
  for (let share = 0.5; now <= 70_000; now += 1000, share += 0.005) show(share);
  assert.ok((left() ?? 0) > 75, text);
  show(0, 2);
  assert.equal(text, "\r\x1b[Kround 2, items: 0.0 %, 0 MB/s");
  line.clear();
  assert.equal(text, "\r\x1b[K");
});
