/**
 * The corruption corpus over the volume that holds something of everything: what golden images do
 * not have (merges and compactions in every phase, lists of several blocks, tall trees) and damage
 * beyond single fields. Every change is reported with the right code (right_codes.ts), or is on the
 * list of those that cannot matter.
 *
 * SCOUTFS_LONG=1 tries every change; otherwise each 40th, others in each run of the list.
 */

import assert from "node:assert/strict";
import { AllocListBlock } from "../../format/alloc.ts";
import { LG_SIZE } from "../../format/constants.ts";
import { Key } from "../../format/key.ts";
import { LogTrees } from "../../format/log_trees.ts";
import { BlockCache } from "../../fs/block_cache.ts";
import { forEachItem } from "../../fs/btree.ts";
import { checkVolume, isSound, type Report } from "../../fs/check/check.ts";
import type { Device } from "../../fs/device.ts";
import { DeviceError } from "../../fs/errors.ts";
import { useFastCrc32c } from "../../fs/sys/crc.ts";
import { CANNOT_MATTER } from "../check/cannot_matter.ts";
import { type Mutation, mutationsOf, placesOf } from "../check/corpus.ts";
import { rightCodes } from "../check/right_codes.ts";
import { OverlayDevice } from "../helpers/overlay_device.ts";
import { SeededRandom } from "../helpers/sim_reactor.ts";
import { blockDamage, itemDamage, matteringBlocks, readSuper, referenceDamage } from "./damage.ts";
import { makeSample, SAMPLE_FSID } from "./sample.ts";
import { SILENT } from "./silent.ts";

const LONG = Deno.env.get("SCOUTFS_LONG") === "1";
const STEP = LONG ? 1 : 40;
const sample = makeSample();

const codesOf = (r: Report): string[] => [...r.counts.keys()].filter((c) => c !== "not-clean");

await useFastCrc32c();

interface Change {
  readonly name: string;
  apply(meta: Device): void;
}

const KNOWN = [...CANNOT_MATTER, ...SILENT];

/** Changes of the list that nobody reports and nobody explains, or that are reported as another. */
function unexplained(changes: readonly Change[]): string[] {
  const wrong: string[] = [];
  for (let i = 0; i < changes.length; i += STEP) {
    const { name, apply } = changes[i]!;
    const meta = new OverlayDevice(sample.meta);
    apply(meta);
    const codes = problemCodes(checkVolume(meta, sample.data));
    const right = rightCodes(name);
    if (codes.length === 0) {
      if (!KNOWN.some(([pattern]) => pattern.test(name))) wrong.push(`${name}: nothing`);
    } else if (right === null) wrong.push(`${name}: no code is on the list`);
    else if (!codes.some((code) => right.includes(code))) wrong.push(`${name}: ${codes.join(" ")}`);
  }
  return wrong;
}

const problemCodes = (r: Report): string[] => [
  ...new Set(r.problems.filter((p) => p.severity !== "info").map((p) => p.code)),
];

const fieldsOfSample = () =>
  placesOf(sample.meta).filter((p) => p.dev === "meta")
    .flatMap((p) => mutationsOf(p, sample.meta)).filter(isInUse);

/** What lies behind the last entry of a list of blocks is none of its fields. */
function isInUse({ place, field }: Mutation): boolean {
  const [, index] = /^blknos\[(\d+)\]/.exec(field.path) ?? [];
  if (place.struct !== "alloc_list_block" || index === undefined) return true;
  const buf = sample.meta.allocBuffer(place.blockSize);
  sample.meta.read(buf, place.block);
  return Number(index) < AllocListBlock.at(buf).nr;
}

Deno.test("sample: where ranges of a merge end matters wherever an input has an item", () => {
  const keys: Key[] = [];
  const { logsRoot, logMerge } = readSuper(sample.meta);
  const cache = new BlockCache(sample.meta, SAMPLE_FSID, { random: new SeededRandom(1) });
  forEachItem({ cache }, logsRoot, Key.ZEROS, ({ val }) => {
    const lt = LogTrees.at(val.slice());
    if (!lt.isFinalized) return;
    forEachItem({ cache }, lt.itemRoot, Key.ZEROS, ({ key }) => void keys.push(key));
  });
  assert.ok(keys.length > 5 && logMerge.height > 0);
  let silent = 0;
  for (const m of fieldsOfSample()) {
    const [, struct] = /log_merge_(range|request)\.end\.(?!pad)/.exec(m.name) ?? [];
    if (struct === undefined) continue;
    const meta = new OverlayDevice(sample.meta);
    m.apply(meta);
    if (!isSound(checkVolume(meta, sample.data))) continue;
    const end = (dev: Device): Key => {
      const buf = dev.allocBuffer(LG_SIZE);
      dev.read(buf, m.place.block);
      const at = m.place.off + (struct === "range" ? 32 : 144);
      return Key.read(new DataView(buf.buffer, buf.byteOffset), at);
    };
    const ends = [end(sample.meta), end(meta)].sort((a, b) => a.compare(b)) as [Key, Key];
    const between = keys.filter((k) => k.compare(ends[0]) > 0 && k.compare(ends[1]) <= 0);
    assert.deepEqual(between.map(String), [], m.name);
    silent++;
  }
  assert.ok(silent > 0);
});

Deno.test("the sample volume is sound, twice", () => {
  for (let run = 0; run < 2; run++) {
    const report = checkVolume(sample.meta, sample.data);
    assert.ok(isSound(report), report.problems.map((p) => p.message).join("\n"));
    assert.deepEqual(codesOf(report), []);
  }
});

Deno.test("sample: every field matters or is known not to", () => {
  const all = fieldsOfSample();
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

/** Nobody sees an item of fs_root of which a log tree has a version: it may as well be missing. */
const inLogTrees = new Set<string>();
{
  const { logsRoot } = readSuper(sample.meta);
  const cache = new BlockCache(sample.meta, SAMPLE_FSID, { random: new SeededRandom(1) });
  forEachItem({ cache }, logsRoot, Key.ZEROS, ({ val }) => {
    const { itemRoot } = LogTrees.at(val.slice());
    forEachItem({ cache }, itemRoot, Key.ZEROS, ({ key }) => void inLogTrees.add(`${key}`));
  });
}
const isHidden = (damage: string): boolean =>
  inLogTrees.has(/^fs_root .* item (\S+): missing$/.exec(damage)?.[1] ?? "");

Deno.test("sample: every missing, extra or foreign item is reported or cannot matter", () => {
  const all = itemDamage(sample.meta, 6).filter(({ name }) => !isHidden(name));
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
