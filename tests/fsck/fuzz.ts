/**
 * Random damage: 1–50 damaged bytes, blocks or items of a volume at a time. Whatever the damage is, a
 * check ends, takes bounded time and memory, and does not say "clean" when something was changed that
 * matters; a second check says the same. With repair, a second run is clean and what is left can be
 * read.
 *
 *   deno run -A tests/fsck/fuzz_main.ts [RUNS] [SEED] [SECONDS]
 *
 * The oracle does not use the checker: a byte matters when it lies in a referenced block and no rule
 * leaves it unspecified. Where damage is made with the checksum right again, a volume may come out
 * sound; then it must read exactly as before, or the change is one of a field that cannot matter,
 * which the corpus tests decide field by field: here it counts as "silent" and is reported as a number.
 */

import { LG_SIZE, SM_SIZE, SUPER_BLKNO } from "../../format/constants.ts";
import { sealBlock } from "../../format/crc32c.ts";
import { checkVolume, isSound } from "../../fs/check/check.ts";
import { repairVolume } from "../../fs/check/repair/repair.ts";
import type { Device } from "../../fs/device.ts";
import { VolumeReader } from "../../fs/reader.ts";
import { SystemRandom } from "../../fs/sys/clock.ts";
import { FsError } from "../../fs/errors.ts";
import { openVolume } from "../../fs/volume.ts";
import { OverlayDevice } from "../helpers/overlay_device.ts";
import { SeededRandom } from "../helpers/sim_reactor.ts";
import {
  type Damage,
  itemDamage,
  matteringBlocks,
  referenceDamage,
  referencedBlocks,
} from "./damage.ts";

export interface Subject {
  readonly name: string;
  readonly meta: Device;
  readonly data: Device;
}

export interface FuzzCounts {
  runs: number;
  /** By what was damaged. */
  kinds: Record<string, number>;
  /** Damage that breaks a checksum or an identity: always reported. */
  mustReport: number;
  /** Changes with right checksums that no rule contradicts. */
  silent: number;
  /** Milliseconds of the slowest check. */
  slowest: number;
  /** Volumes that a repair made sound, and that it gave up, by its reason. */
  mended: number;
  refused: Record<string, number>;
}

export interface FuzzFailure {
  readonly subject: string;
  readonly seed: number;
  readonly what: string;
}

const KINDS = ["bytes", "sealed bytes", "blocks", "items", "fixed", "free"] as const;
type Kind = typeof KINDS[number];

/** One volume with what fuzzing needs to know of it. */
export class Target {
  readonly blocks: readonly number[];
  readonly #mattering: ReadonlySet<number>;
  readonly #items: readonly Damage[];

  constructor(readonly subject: Subject) {
    this.blocks = referencedBlocks(subject.meta);
    this.#mattering = new Set(matteringBlocks(subject.meta));
    this.#items = [...itemDamage(subject.meta, 4), ...referenceDamage(subject.meta)];
  }

  /** Damages `meta`; says what must be true of a check of it. */
  damage(meta: Device, random: SeededRandom, kind: Kind): "reported" | "any" | "as before" {
    const count = 1 + random.below(random.below(3) === 0 ? 50 : 4);
    switch (kind) {
      case "bytes":
        for (let i = 0; i < count; i++) this.#bytes(meta, random, false);
        // Two changes can undo each other: then nothing was damaged.
        return this.#differs(meta) ? "reported" : "any";
      case "sealed bytes":
        for (let i = 0; i < count; i++) this.#bytes(meta, random, true);
        return "any";
      case "blocks":
        for (let i = 0; i < count; i++) this.#block(meta, random);
        return this.#differs(meta) ? "reported" : "any";
      case "items":
        for (let i = 0; i < Math.min(count, 10); i++) {
          this.#items[random.below(this.#items.length)]!.apply(meta);
        }
        return "any";
      case "fixed":
        for (let i = 0; i < count; i++) this.#fixed(meta, random);
        return "any";
      case "free":
        for (let i = 0; i < count; i++) this.#free(meta, random);
        return "as before";
    }
  }

  #pick(random: SeededRandom): number {
    return this.blocks[random.below(this.blocks.length)]!;
  }

  #read(dev: Device, blkno: number): Uint8Array {
    const buf = dev.allocBuffer(LG_SIZE);
    dev.read(buf, blkno * LG_SIZE);
    return buf;
  }

  /** Some bytes of a block, near its start or in what it uses rather than anywhere. */
  #bytes(meta: Device, random: SeededRandom, seal: boolean): void {
    const blkno = this.#pick(random), buf = this.#read(meta, blkno);
    const span = [64, 512, 4096, LG_SIZE][random.below(4)]!;
    const start = random.below(2) === 0 ? 0 : LG_SIZE - span;
    const at = start + random.below(span);
    buf[at] = buf[at]! ^ 1 + random.below(255);
    if (seal) sealBlock(buf);
    meta.write(buf, blkno * LG_SIZE);
  }

  #block(meta: Device, random: SeededRandom): void {
    const blkno = this.#pick(random);
    let buf: Uint8Array;
    switch (random.below(5)) {
      case 0:
        buf = new Uint8Array(LG_SIZE);
        break;
      case 1:
        buf = this.#read(meta, this.#pick(random));
        break;
      case 2:
        buf = this.#read(meta, blkno);
        buf.copyWithin(4096 * (1 + random.below(15)), 0, 4096);
        break;
      case 3:
        buf = Uint8Array.from({ length: LG_SIZE }, () => random.below(256));
        break;
      default:
        buf = this.#read(meta, blkno);
        buf[16 + random.below(8)]! ^= 1 << random.below(8);
        sealBlock(buf);
    }
    meta.write(buf, blkno * LG_SIZE);
  }

  /** The super block and the quorum blocks. */
  #fixed(meta: Device, random: SeededRandom): void {
    const blkno = SUPER_BLKNO + (random.below(2) === 0 ? 0 : random.below(16));
    const buf = meta.allocBuffer(SM_SIZE);
    meta.read(buf, blkno * SM_SIZE);
    const at = random.below(1488);
    buf[at] = buf[at]! ^ 1 + random.below(255);
    if (random.below(4) !== 0) sealBlock(buf);
    meta.write(buf, blkno * SM_SIZE);
  }

  #free(meta: Device, random: SeededRandom): void {
    const used = new Set(this.blocks), total = Math.floor(meta.size / LG_SIZE);
    let blkno: number;
    do blkno = 2 + random.below(total - 2); while (used.has(blkno));
    const buf = this.#read(meta, blkno);
    buf[random.below(LG_SIZE)] = random.below(256);
    meta.write(buf, blkno * LG_SIZE);
  }

  #differs(meta: Device): boolean {
    return this.blocks.some((blkno) => {
      if (!this.#mattering.has(blkno)) return false;
      const a = this.#read(meta, blkno), b = this.#read(this.subject.meta, blkno);
      return a.some((byte, i) => byte !== b[i]);
    });
  }
}

/** Reads everything that can be read; only errors of the engine may come out of it. */
export function readAll(meta: Device, data: Device, limit = 100_000): number {
  let reads = 0;
  const guard = (read: () => void): void => {
    try {
      read();
    } catch (e) {
      if (!(e instanceof FsError)) throw e;
    }
  };
  guard(() => {
    const volume = new VolumeReader(openVolume(meta, data), new SystemRandom());
    const queue = [1], seen = new Set(queue);
    for (let ino = queue.pop(); ino !== undefined && reads < limit; ino = queue.pop()) {
      const at: number = ino;
      reads++;
      guard(() => void volume.inode(at));
      guard(() => void [...volume.xattrs(at)]);
      guard(() => void volume.read(at, 0, 4096));
      guard(() => {
        for (const e of volume.readdir(at)) {
          if (!seen.has(e.ino)) queue.push(e.ino);
          seen.add(e.ino);
        }
      });
    }
  });
  return reads;
}

/** One damaged volume; null when all is as it must be. */
export function fuzzOnce(
  target: Target,
  seed: number,
  counts: FuzzCounts,
  repair = false,
): string | null {
  const random = new SeededRandom(seed);
  const kind = KINDS[random.below(KINDS.length)]!;
  const { subject } = target;
  const meta = new OverlayDevice(subject.meta), data = new OverlayDevice(subject.data);
  const expected = target.damage(meta, random, kind);
  counts.runs++;
  counts.kinds[kind] = (counts.kinds[kind] ?? 0) + 1;
  try {
    const start = performance.now();
    const first = checkVolume(meta, data);
    counts.slowest = Math.max(counts.slowest, performance.now() - start);
    if (data.changedBytes > 0) return `${kind}: the check wrote`;
    const sound = isSound(first);
    if (expected === "reported") {
      counts.mustReport++;
      if (sound) return `${kind}: a damaged block is not reported`;
    } else if (expected === "as before") {
      if (!sound) return `${kind}: ${first.problems.map((p) => p.message).join("; ")}`;
    } else if (sound) counts.silent++;
    const second = checkVolume(meta, data);
    const a = JSON.stringify([...first.counts]), b = JSON.stringify([...second.counts]);
    if (a !== b) return `${kind}: a second check differs: ${a} and ${b}`;
    readAll(meta, data, 2000);
    if (repair && !sound) return mend(kind, meta, data, random, counts);
  } catch (e) {
    return `${kind}: ${e instanceof Error ? e.stack ?? e.message : e}`;
  }
  return null;
}

/** Repairs; a second run must find nothing and everything that is left must be readable. */
function mend(
  kind: string,
  meta: Device,
  data: Device,
  random: SeededRandom,
  counts: FuzzCounts,
): string | null {
  const result = repairVolume(meta, data, {
    mode: "all",
    random,
    now: { sec: 1_700_000_000, nsec: 0 },
  });
  if (!isSound(result.after)) {
    // Honest giving up is no failure of the fuzz run; it is counted.
    if (result.stopped !== null) {
      const why = result.stopped.replace(/[0-9a-f]*\d[0-9a-f.]*/g, "N");
      counts.refused[why] = (counts.refused[why] ?? 0) + 1;
      return null;
    }
    return `${kind}: repair leaves ${result.after.problems.map((p) => p.message).join("; ")}`;
  }
  counts.mended++;
  const again = checkVolume(meta, data);
  if (!isSound(again)) {
    return `${kind}: after repair: ${again.problems.map((p) => p.message).join("; ")}`;
  }
  readEverything(meta, data);
  return null;
}

/** Reads all of a sound volume; any error is one. */
function readEverything(meta: Device, data: Device): void {
  const volume = new VolumeReader(openVolume(meta, data), new SystemRandom());
  const queue = [1];
  for (let ino = queue.pop(); ino !== undefined; ino = queue.pop()) {
    const inode = volume.inode(ino);
    for (const _ of volume.xattrs(ino));
    if ((inode.mode & 0o170000) === 0o040000) {
      for (const e of volume.readdir(ino)) queue.push(e.ino);
    } else if ((inode.mode & 0o170000) === 0o120000) volume.readlink(ino);
  }
}

export function newCounts(): FuzzCounts {
  return { runs: 0, kinds: {}, mustReport: 0, silent: 0, slowest: 0, mended: 0, refused: {} };
}

/** Runs of consecutive seeds; stops at the deadline. */
export function fuzz(
  targets: readonly Target[],
  seed: number,
  runs: number,
  seconds = Infinity,
  repair = false,
): { counts: FuzzCounts; failures: FuzzFailure[] } {
  const counts = newCounts(), failures: FuzzFailure[] = [];
  const end = performance.now() + seconds * 1000;
  for (let i = 0; i < runs && performance.now() < end; i++) {
    const target = targets[i % targets.length]!;
    const what = fuzzOnce(target, seed + i, counts, repair);
    if (what !== null) failures.push({ subject: target.subject.name, seed: seed + i, what });
  }
  return { counts, failures };
}
