/**
 * The corruption corpus over the volume that holds something of everything: what golden images do
 * not have (merges and compactions in every phase, lists of several blocks, tall trees) and damage
 * beyond single fields. Every change is reported, or is on the list of those that cannot matter.
 *
 * SCOUTFS_LONG=1 tries every change; otherwise each 40th, others in each run of the list.
 */

import assert from "node:assert/strict";
import { checkVolume, isSound, type Report } from "../../fs/check/check.ts";
import type { Device } from "../../fs/device.ts";
import { DeviceError } from "../../fs/errors.ts";
import { CANNOT_MATTER } from "../check/cannot_matter.ts";
import { mutationsOf, placesOf } from "../check/corpus.ts";
import { OverlayDevice } from "../helpers/overlay_device.ts";
import { blockDamage, itemDamage, matteringBlocks, referenceDamage } from "./damage.ts";
import { makeSample } from "./sample.ts";
import { SILENT, UNSEEN } from "./silent.ts";

const LONG = Deno.env.get("SCOUTFS_LONG") === "1";
const STEP = LONG ? 1 : 40;
const sample = makeSample();

const codesOf = (r: Report): string[] => [...r.counts.keys()].filter((c) => c !== "not-clean");

/** Changes of the list that nobody reports and nobody explains. */
function unexplained(changes: readonly { name: string; apply(meta: Device): void }[]): string[] {
  const silent: string[] = [];
  for (let i = 0; i < changes.length; i += STEP) {
    const change = changes[i]!;
    const meta = new OverlayDevice(sample.meta);
    change.apply(meta);
    const report = checkVolume(meta, sample.data);
    if (isSound(report)) silent.push(change.name);
  }
  const known = [...CANNOT_MATTER, ...SILENT, ...UNSEEN];
  return silent.filter((name) => !known.some(([pattern]) => pattern.test(name)));
}

Deno.test("the sample volume is sound, twice", () => {
  for (let run = 0; run < 2; run++) {
    const report = checkVolume(sample.meta, sample.data);
    assert.ok(isSound(report), report.problems.map((p) => p.message).join("\n"));
    assert.deepEqual(codesOf(report), []);
  }
});

Deno.test("sample: every field matters or is known not to", () => {
  const all = placesOf(sample.meta).filter((p) => p.dev === "meta").flatMap((place) =>
    mutationsOf(place, sample.meta)
  );
  assert.ok(all.length > 2500, `${all.length} mutations`);
  assert.deepEqual(unexplained(all), []);
});

Deno.test("sample: every damaged block is reported", () => {
  const all = blockDamage(sample.meta);
  assert.ok(all.length > 700);
  assert.deepEqual(unexplained(all), []);
});

Deno.test("sample: every wrong reference is reported", () => {
  assert.deepEqual(unexplained(referenceDamage(sample.meta)), []);
});

Deno.test("sample: every missing, extra or foreign item is reported or cannot matter", () => {
  const all = itemDamage(sample.meta, 3);
  assert.ok(all.length > 250, `${all.length} damages`);
  assert.deepEqual(unexplained(all), []);
});

Deno.test("sample: every unreadable block is reported", () => {
  const blocks = matteringBlocks(sample.meta);
  for (let i = 0; i < blocks.length; i += LONG ? 1 : 10) {
    const bad = blocks[i]! * 65536;
    const meta = new OverlayDevice(sample.meta), read = meta.read.bind(meta);
    meta.read = (buf, off) => {
      if (off < bad + 65536 && bad < off + buf.length) throw new DeviceError("meta", "bad sector");
      read(buf, off);
    };
    const report = checkVolume(meta, sample.data);
    assert.ok(report.counts.has("block-read"), `block ${blocks[i]}: ${codesOf(report)}`);
  }
});
