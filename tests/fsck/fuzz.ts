/**
 * Random damage: 1–50 damaged bytes, blocks or items of a volume at a time. Whatever the damage is, a
 * check ends, takes bounded time and memory, and does not say "clean" when something was changed that
 * matters. After a repair a second run is clean, everything that is left can be read, and a mount can
 * work on it.
 *
 *   deno run -A tests/fsck/fuzz_main.ts --help
 *
 * The oracle does not use the checker: a byte matters when it lies in a referenced block and no rule
 * leaves it unspecified. Where damage is made with the checksum right again, a volume may come out
 * sound; then each changed byte must be explained (fuzz_explain.ts).
 */

import { LG_SIZE, SM_SIZE, SUPER_BLKNO } from "../../format/constants.ts";
import { blockCrcOk, sealBlock } from "../../format/crc32c.ts";
import { checkVolume, isSound, type Problem, type Report } from "../../fs/check/check.ts";
import { type RepairOptions, repairVolume } from "../../fs/check/repair/repair.ts";
import type { Device } from "../../fs/device.ts";
import { FsError } from "../../fs/errors.ts";
import { create, unlink } from "../../fs/ops/names.ts";
import { VolumeReader } from "../../fs/reader.ts";
import { openVolume } from "../../fs/volume.ts";
import { LocalCluster } from "../helpers/local_cluster.ts";
import { assertSound, LocalFs } from "../helpers/local_fs.ts";
import { SeededRandom } from "../helpers/sim_reactor.ts";
import {
  type Damage,
  inodeLeaves,
  itemDamage,
  matteringBlocks,
  readSuper,
  referenceDamage,
  referencedBlocks,
} from "./damage.ts";
import type { Subject } from "./fuzz_bases.ts";
import { Buffers, FuzzDevice, Image } from "./fuzz_device.ts";
import { Keeper } from "./fuzz_kept.ts";
import { Explainer, reasonOf, seenReason } from "./fuzz_explain.ts";
import { bytes, fill } from "./repair_support.ts";

const KINDS = [
  "bytes",
  "sealed bytes",
  "blocks",
  "items",
  "fixed",
  "free",
  "unreadable",
  "mixed",
] as const;
type Kind = typeof KINDS[number];

/** The block of 64 KiB that holds the super block and the quorum blocks. */
const FIXED = Math.floor(SUPER_BLKNO * SM_SIZE / LG_SIZE);

/** What a run came to. */
export interface Outcome {
  readonly base: string;
  readonly seed: number;
  readonly kind: string;
  /** `clean: …` with a reason, `mended`, or `left: …`, which the corpus allows. */
  readonly what: string;
  /** What went wrong, with all there is to know. */
  readonly failure: string | null;
}

/** What a repair may leave: each with its reason. */
const LEFT: readonly (readonly [what: RegExp, reason: string])[] = [
  [/^(super-no-slots|super-slot):/, "nothing tells the address of a quorum slot"],
  [
    /^super-pair:|^super-.* the data device/,
    "a data device that is not provably the right one is not written",
  ],
];

/** Reasons to stop that no repair can overcome: the devices may be no pair, or nothing is left. */
const REFUSED =
  /^the data device belongs to another volume$|^the metadata device has no blocks of volume /;

/** May a repair leave these problems, or have stopped for that reason? */
export function mayLeave(left: readonly Problem[], stopped: string | null): boolean {
  return stopped !== null && REFUSED.test(stopped) ||
    left.every((p) => LEFT.some(([what]) => what.test(`${p.code}: ${p.message}`)));
}

export interface Volume {
  readonly meta: FuzzDevice;
  readonly data: FuzzDevice;
}

/** A change of the volume, and whether the lists explain why nobody would notice. */
interface Change {
  readonly name: string;
  readonly explained: boolean;
}

/** One volume with what fuzzing needs to know of it. */
export class Target {
  readonly name: string;
  readonly #meta: Image;
  readonly #data: Image;
  readonly #buffers = new Buffers();
  readonly #blocks: readonly number[];
  readonly #used: ReadonlySet<number>;
  readonly #mattering: ReadonlySet<number>;
  /** Parents that the reference has left (03 T2): known by what they hold. */
  readonly #leaked: ReadonlySet<number>;
  readonly #inodeLeaves: readonly number[];
  readonly #items: readonly Damage[];
  readonly #explainer: Explainer;
  readonly #keeper: Keeper;
  readonly #undersized: boolean;
  /** What an administrator can tell a repair. */
  readonly #told: Pick<RepairOptions, "slots" | "trustData">;

  constructor(subject: Subject) {
    this.name = subject.name;
    this.#meta = new Image(subject.meta);
    this.#data = new Image(subject.data);
    const { meta, data } = this.#open();
    this.#blocks = referencedBlocks(meta);
    this.#used = new Set(this.#blocks);
    this.#mattering = new Set(matteringBlocks(meta));
    this.#inodeLeaves = inodeLeaves(meta);
    this.#items = [...itemDamage(meta, 4), ...referenceDamage(meta)];
    this.#explainer = new Explainer(this.#meta, meta, data, this.#mattering);
    const { qconf } = readSuper(meta);
    const slots = qconf.presentSlots().map((nr) => {
      const { addr, port } = qconf.slots(nr).addr;
      return { nr, addr, port };
    });
    this.#told = { slots, trustData: true };
    this.#keeper = new Keeper(this.#meta, this.#data, meta, data);
    const report = checkVolume(meta, data);
    this.#undersized = report.counts.has("undersized");
    this.#leaked = new Set(
      report.problems.flatMap(({ code, values }) =>
        code === "meta-leak-parent" ? [Number(values["blkno"])] : []
      ),
    );
    if (!isSound(report)) throw new Error(`${this.name} is not sound: ${problems(report)}`);
  }

  #open(): Volume {
    return {
      meta: new FuzzDevice("meta", this.#meta, this.#buffers),
      data: new FuzzDevice("data", this.#data, this.#buffers),
    };
  }

  #randomOf(seed: number): { random: SeededRandom; kind: Kind } {
    const random = new SeededRandom(seed);
    return { random, kind: KINDS[random.below(KINDS.length)] as Kind };
  }

  /** Another volume with the damage of a seed, and what was done. Older ones can be used no more. */
  damaged(seed: number): { v: Volume; again: () => Volume; kind: string; names: string } {
    this.#buffers.reclaim();
    const make = () => {
      const { random, kind } = this.#randomOf(seed), v = this.#open();
      return { v, kind, names: names(this.#damage(v, random, kind)) };
    };
    return { ...make(), again: () => make().v };
  }

  /** A check, which must not write. */
  #checked({ meta, data }: Volume): Report {
    const state = () => [meta.changed.length, data.changed.length, ...meta.unreadable].join();
    const before = state(), report = checkVolume(meta, data);
    if (state() !== before) throw new Error("the check wrote");
    return report;
  }

  /** One damaged volume, repaired if `repair`. */
  async run(seed: number, repair: boolean): Promise<Outcome> {
    // The first buffers belong to the target itself.
    this.#buffers.reclaim();
    const { random, kind } = this.#randomOf(seed);
    const v = this.#open();
    const done = (what: string, failure: string | null = null): Outcome => ({
      base: this.name,
      seed,
      kind,
      what,
      failure,
    });
    const failed = (what: string, why: string) => done(`FAILED ${what}`, why);
    try {
      const changes = this.#damage(v, random, kind);
      const verdict = this.#verdict(v, kind), hit = this.#keeper.hit(v.meta);
      const harmed = new Set([...v.meta.changed, ...v.meta.unreadable]);
      const nothingWhole = harmed.has(FIXED) && this.#inodeLeaves.every((b) => harmed.has(b));
      // What a check alone says; a repair begins with the same check.
      const alone = !repair || random.oneIn(4) ? this.#checked(v) : null;
      if (random.oneIn(4)) readWhatCanBe(v);
      const options = { mode: "all", random, now: { sec: 1_700_000_000, nsec: 0 } } as const;
      let result = repair ? repairVolume(v.meta, v.data, options) : null;
      const first = result?.before ?? alone as Report;
      if (alone !== null && text(first) !== text(alone)) {
        return failed("a second check differs", `${text(first)}\nand\n${text(alone)}`);
      }
      if (isSound(first)) {
        if (verdict === "reported") return failed("damage is not reported", names(changes));
        // The repair has closed what was left open: the same damage again.
        const again = this.#open();
        this.#damage(again, this.#randomOf(seed).random, kind);
        return this.#clean(again, changes, done);
      }
      if (verdict === "as before") return failed("sound, but reported", problems(first));
      if (result === null) return done("reported");
      let mended = "mended";
      if (!isSound(result.after) && mayLeave(bad(result.after), result.stopped)) {
        // What only an administrator knows is told.
        const why = result.stopped === null ? codes(result.after) : general(result.stopped);
        mended = `mended, when told: ${why}`;
        result = repairVolume(v.meta, v.data, { ...options, ...this.#told });
      }
      const after = random.oneIn(3) ? checkVolume(v.meta, v.data) : result.after;
      if (!isSound(result.after) || !isSound(after)) {
        if (this.#undersized) return done("left: the volume is too small");
        if (nothingWhole) return done("left: no leaf with inodes is whole");
        const why = result.stopped === null ? "left" : `stopped (${general(result.stopped)})`;
        return failed(`${why}: ${codes(after)}`, `${problems(after)}\nof\n${problems(first)}`);
      }
      if (text(result.after) !== text(after)) {
        return failed(
          "the second run says something else",
          `${text(result.after)}\n${text(after)}`,
        );
      }
      readAll(v);
      const lost = hit === null ? [] : this.#keeper.lost(v.meta, v.data, hit);
      if (lost.length > 0) {
        const why = `${lost.join("\n")}\nof\n${problems(first)}\n${names(changes)}`;
        return failed("what was not damaged is not what it was", why);
      }
      // What is too small is mended where that needs no space, but never mounted.
      if (random.oneIn(12) && !this.#undersized) await mountAndWork(v, seed);
      return done(mended);
    } catch (e) {
      return failed("threw", e instanceof Error ? e.stack ?? e.message : String(e));
    }
  }

  /** Why a damaged volume may be called clean. */
  #clean(
    v: Volume,
    changes: readonly Change[],
    done: (what: string, failure?: string | null) => Outcome,
  ): Outcome {
    if (v.data.changed.length > 0) return done("clean: fields of the data device's super block");
    const seen = this.#explainer.seen(v.meta, v.data);
    const strange = seen.fields.filter((name) => seenReason(name) === null);
    if (strange.length > 0) {
      return done("FAILED clean, but readers see it", `${strange.join("\n")}\n${names(changes)}`);
    }
    if (changes.length > 0 && changes.every((c) => c.explained)) return done("clean: known items");
    if (this.#undersized) return done("clean: free space of a volume that is too small");
    const reasons = new Set<string>(), left = new Set<string>();
    for (const index of v.meta.changed) {
      const before = this.#meta.block(index), now = v.meta.block(index);
      if (index !== FIXED && !this.#mattering.has(index)) {
        if (!same(now, before)) {
          reasons.add(this.#used.has(index) ? "unread blocks" : "free blocks");
        }
        continue;
      }
      for (let i = 0; i < now.length; i++) {
        if (now[i] === before[i] || i % (index === FIXED ? SM_SIZE : LG_SIZE) < 4) continue;
        const off = index * LG_SIZE + i;
        const reason = this.#explainer.byte(off, seen);
        if (reason !== null) reasons.add(reason);
        // Items that move within their block change many bytes: what readers see decides.
        else if (!changes.some((c) => !c.explained && c.name.includes(" item "))) {
          left.add(this.#explainer.nameOf(off));
        }
      }
    }
    if (left.size > 0) return done("FAILED clean, unexplained", [...left].join("\n"));
    const why = reasons.size === 0
      ? "nothing changed"
      : reasons.size === 1
      ? [...reasons][0]
      : "several reasons";
    return done(`clean: ${why}`);
  }

  /** Damages the volume; names what was done to items. */
  #damage(v: Volume, random: SeededRandom, kind: Kind): Change[] {
    const count = 1 + random.below(random.below(3) === 0 ? 50 : 4);
    const kinds: Kind[] = [];
    for (let i = 0; i < (kind === "items" ? Math.min(count, 10) : count); i++) {
      kinds.push(kind === "mixed" ? KINDS[random.below(7)] as Kind : kind);
    }
    // Items are found in what is sound, and what cannot be read cannot be damaged.
    const order = (k: Kind) => k === "items" ? 0 : k === "unreadable" ? 2 : 1;
    kinds.sort((x, y) => order(x) - order(y));
    const changes: Change[] = [];
    for (const one of kinds) this.#damageOnce(v, random, one, changes);
    return changes;
  }

  #damageOnce({ meta, data }: Volume, random: SeededRandom, kind: Kind, changes: Change[]): void {
    switch (kind) {
      case "bytes":
        return this.#bytes(meta, random, false);
      case "sealed bytes":
        return this.#bytes(meta, random, true);
      case "blocks":
        return this.#block(meta, random);
      case "items": {
        const damage = this.#items[random.below(this.#items.length)] as Damage;
        damage.apply(meta);
        changes.push({ name: damage.name, explained: reasonOf(damage.name) !== null });
        return;
      }
      case "fixed":
        return this.#fixed(random.oneIn(4) ? data : meta, random, data);
      case "free":
        return this.#free(meta, random);
      case "unreadable":
        return meta.makeUnreadable(this.#pick(random) * 16 + random.below(16));
      default:
        throw new Error(`no damage ${kind}`);
    }
  }

  #pick(random: SeededRandom): number {
    return this.#blocks[random.below(this.#blocks.length)] as number;
  }

  /** What is sure to be true of a check. */
  #verdict({ meta, data }: Volume, kind: Kind): "reported" | "any" | "as before" {
    if (kind === "free") return "as before";
    const differs = (now: Uint8Array, before: Uint8Array) => !same(now, before);
    for (const [dev, image] of [[meta, this.#meta], [data, this.#data]] as const) {
      if (!dev.changed.includes(FIXED)) continue;
      const now = dev.block(FIXED), before = image.block(FIXED);
      for (let at = 0; at < now.length; at += SM_SIZE) {
        const block = now.subarray(at, at + SM_SIZE);
        if (differs(block, before.subarray(at, at + SM_SIZE)) && !blockCrcOk(block)) {
          return "reported";
        }
      }
    }
    for (const blkno of meta.changed) {
      if (!this.#mattering.has(blkno)) continue;
      const now = meta.block(blkno), before = this.#meta.block(blkno);
      if (!differs(now, before)) continue;
      // The header of a block that somebody refers to says what it is.
      if (!blockCrcOk(now) || !same(now.subarray(4, 32), before.subarray(4, 32))) return "reported";
    }
    return "any";
  }

  #read(dev: Device, blkno: number): Uint8Array {
    const buf = dev.allocBuffer(LG_SIZE);
    if (dev instanceof FuzzDevice) buf.set(dev.block(blkno));
    else dev.read(buf, blkno * LG_SIZE);
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
    let buf = this.#read(meta, blkno);
    switch (random.below(5)) {
      case 0:
        buf.fill(0);
        break;
      case 1:
        buf = this.#read(meta, this.#pick(random));
        break;
      case 2:
        buf.copyWithin(4096 * (1 + random.below(15)), 0, 4096);
        break;
      case 3: {
        const words = new Uint32Array(buf.buffer, buf.byteOffset, LG_SIZE / 4);
        for (let i = 0; i < words.length; i++) words[i] = random.u32();
        break;
      }
      default:
        buf[16 + random.below(8)]! ^= 1 << random.below(8);
        sealBlock(buf);
    }
    meta.write(buf, blkno * LG_SIZE);
  }

  /** The super blocks and the quorum blocks. */
  #fixed(dev: FuzzDevice, random: SeededRandom, data: FuzzDevice): void {
    const blkno = SUPER_BLKNO + (dev === data || random.below(2) === 0 ? 0 : random.below(16));
    const buf = dev.allocBuffer(SM_SIZE);
    dev.read(buf, blkno * SM_SIZE);
    const at = random.below(1488);
    buf[at] = buf[at]! ^ 1 + random.below(255);
    if (random.below(4) !== 0) sealBlock(buf);
    dev.write(buf, blkno * SM_SIZE);
  }

  #free(meta: FuzzDevice, random: SeededRandom): void {
    const total = Math.floor(meta.size / LG_SIZE);
    let blkno: number;
    do blkno = 2 + random.below(total - 2); while (
      this.#used.has(blkno) || this.#leaked.has(blkno)
    );
    const buf = this.#read(meta, blkno);
    buf[random.below(LG_SIZE)] = random.below(256);
    meta.write(buf, blkno * LG_SIZE);
  }
}

function same(a: Uint8Array, b: Uint8Array): boolean {
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

const text = (r: Report): string =>
  JSON.stringify([...r.counts].filter(([code]) => code !== "not-clean"));
const names = (changes: readonly Change[]): string => changes.map((c) => c.name).join("\n");
const general = (why: string): string => why.replace(/[0-9a-f]*\d[0-9a-f.]*/g, "N");

const bad = (r: Report): Problem[] => r.problems.filter((p) => p.severity !== "info");
const codes = (r: Report): string => [...new Set(bad(r).map((p) => p.code))].sort().join(" ");

function problems(r: Report): string {
  const all = bad(r), some = all.slice(0, 40).map((p) => `  ${p.code}: ${p.message}`);
  if (all.length > 40) some.push(`  and ${all.length - 40} more`);
  return some.join("\n");
}

/** Reads everything that can be read of a damaged volume; only errors of the engine may come. */
function readWhatCanBe({ meta, data }: Volume, limit = 2000): void {
  let reads = 0;
  const guard = (read: () => void): void => {
    try {
      read();
    } catch (e) {
      if (!(e instanceof FsError)) throw e;
    }
  };
  guard(() => {
    const volume = new VolumeReader(openVolume(meta, data), new SeededRandom(1));
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
}

/** Reads all of a sound volume, of files the first and the last block; any error is one. */
export function readAll({ meta, data }: { meta: Device; data: Device }): void {
  const volume = new VolumeReader(openVolume(meta, data), new SeededRandom(1));
  const queue = [1];
  for (let ino = queue.pop(); ino !== undefined; ino = queue.pop()) {
    const inode = volume.inode(ino);
    for (const _ of volume.xattrs(ino));
    const format = inode.mode & 0o170000;
    if (format === 0o040000) {
      for (const e of volume.readdir(ino)) queue.push(e.ino);
    } else if (format === 0o120000) volume.readlink(ino);
    else if (format === 0o100000) {
      const extents = [...volume.extents(ino)], last = extents.at(-1);
      if (last === undefined || extents.some((e) => e.offline)) continue;
      volume.read(ino, 0, SM_SIZE);
      volume.read(ino, (last.start + last.length - 1) * SM_SIZE, SM_SIZE);
    }
  }
}

/** A mount opens the volume, makes and removes files, and leaves a sound volume. */
async function mountAndWork(v: Volume, seed: number): Promise<void> {
  const meta = v.meta.copy(), data = v.data.copy();
  const cluster = await LocalCluster.open(meta, data, seed);
  const m = await LocalFs.mount(cluster);
  const make = (name: string, mode: number) =>
    m.run((op, fs) => create(op, fs, 1, bytes(name), mode, 0));
  const dir = await make("made by the fuzzer", 0o40755);
  m.fs.refs.forget(await make("gone again", 0o100644), 1);
  await fill(m, dir, 6);
  await m.run((op, fs) => unlink(op, fs, 1, bytes("gone again")));
  m.fs.refs.forget(dir, 1);
  await m.sync();
  await m.unmount();
  if (m.log.length > 0) throw new Error(`the mount says: ${m.log.join("\n")}`);
  // That knows nothing of merges (02 §18.3). A repair does not join neighbours that were damaged.
  if (cluster.superBlock().logMerge.isEmpty) assertSound(cluster, /extents not merged/);
  const report = checkVolume(meta, data);
  if (!isSound(report)) throw new Error(`after a mount: ${problems(report)}`);
  readAll({ meta, data });
}
