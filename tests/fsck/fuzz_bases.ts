/**
 * The volumes that fuzzing damages: one with something of everything (sample.ts), volumes that mounts
 * of ours made in both format versions, and those of the reference implementation. How often each is
 * taken is its weight.
 */

import { useFastCrc32c } from "../../fs/sys/crc.ts";
import { openDevice } from "../../fs/sys/device.ts";
import type { Device } from "../../fs/device.ts";
import { goldenImages, type GoldenName, hasGolden } from "../helpers/golden.ts";
import { newLocalFs } from "../helpers/local_fs.ts";
import { fill, healthyVolume } from "./repair_support.ts";
import { makeSample } from "./sample.ts";

export interface Subject {
  readonly name: string;
  readonly meta: Device;
  readonly data: Device;
}

const GOLDEN: readonly (readonly [name: GoldenName, weight: number])[] = [
  ["features-v2", 1],
  ["crash", 1],
  ["fresh-v1", 1],
  ["fresh-3quorum", 4],
  ["fresh-zoned", 1],
];

const OWN: readonly (readonly [name: string, weight: number])[] = [
  ["sample", 7],
  ["mounts", 10],
  ["mounts-v1", 8],
];

/** Names of the volumes that are there (but the large one), each as often as its weight says. */
export function baseNames(): string[] {
  const golden = hasGolden() ? GOLDEN : [];
  return [...OWN, ...golden].flatMap(([name, weight]) => Array<string>(weight).fill(name));
}

export async function makeBase(name: string): Promise<Subject> {
  await useFastCrc32c();
  if (name === "sample") {
    return { name, ...makeSample({ metaBlocks: 4096, dataBlocks: 1 << 18 }) };
  }
  if (name === "mounts") return { name, ...await healthyVolume() };
  if (name === "mounts-v1") {
    const m = await newLocalFs({ fmtVers: 1, seed: 5 });
    await fill(m, 1, 24);
    await m.unmount();
    return { name, meta: m.cluster.meta.snapshot(), data: m.cluster.data.snapshot() };
  }
  const golden = [...GOLDEN.map(([known]) => known), "tall" as const].find((k) => k === name);
  if (golden === undefined) throw new Error(`there is no volume '${name}'`);
  const images = goldenImages(golden);
  return {
    name,
    meta: openDevice(images.meta, { write: false }),
    data: openDevice(images.data, { write: false }),
  };
}
