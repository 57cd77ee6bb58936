/**
 * Damaged volumes are mounted as they are, without a check before, and worked on. Rules:
 *
 * - A mount is refused with one line, or every operation ends with a result or an errno, in bounded
 *   (virtual) time; nothing but an FsError is ever thrown, and no stack trace is logged.
 * - The mount lives until it is unmounted, or ends by itself with one line, and only where what
 *   every commit needs is damaged (log tree, allocators, the server's trees).
 * - Afterwards a repair mends the volume: what a mount wrote on damage never makes it worse than
 *   what can be mended.
 *
 *   deno run -A tests/fsck/fuzz_main.ts FIRST COUNT [SECONDS] mount
 */

import { firstItem, itemKey, itemValLen, itemValOff, nextItem } from "../../format/btree_block.ts";
import {
  LG_SIZE,
  MAGIC_ALLOC_LIST,
  SM_SIZE,
  SUPER_BLKNO,
  ZONE_FS,
  ZONE_INODE_INDEX,
  ZONE_ORPHAN,
} from "../../format/constants.ts";
import { sealBlock } from "../../format/crc32c.ts";
import { EIO } from "../../format/errno.ts";
import type { Key } from "../../format/key.ts";
import { SuperBlock } from "../../format/super.ts";
import { checkVolume, isSound, type Report } from "../../fs/check/check.ts";
import { repairVolume } from "../../fs/check/repair/repair.ts";
import type { Device } from "../../fs/device.ts";
import { FsError } from "../../fs/errors.ts";
import { MemDevice } from "../../fs/memory_device.ts";
import { checkRoots } from "../../fs/preflight.ts";
import { VolumeReader } from "../../fs/reader.ts";
import { checkFreeSpace, openVolume } from "../../fs/volume.ts";
import { checkSlots, presentSlots, slotsOf } from "../../net/quorum_blocks.ts";
import { LocalCluster, settle } from "../helpers/local_cluster.ts";
import { LocalFs } from "../helpers/local_fs.ts";
import { SeededRandom } from "../helpers/sim_reactor.ts";
import {
  type Damage,
  itemDamage,
  readBlock,
  referenceDamage,
  referencedBlocks,
  treeBlocks,
} from "./damage.ts";
import { mayLeave, type Outcome, readAll } from "./fuzz.ts";
import type { Subject } from "./fuzz_bases.ts";
import { type Population, Work } from "./mount_work.ts";
import { repairOptions, Surgeon } from "./repair_support.ts";

const KINDS = [
  "fields",
  "items",
  "fields and items",
  "shared",
  "sealed bytes",
  "blocks",
  "unreadable",
] as const;
type Kind = typeof KINDS[number];

const OPERATIONS = 60;
/** Virtual time in which a mount must end. */
const END_STEPS = 20;
const STEP_MS = 1000;

/** Some bytes of a block. */
interface Place {
  readonly blkno: number;
  readonly off: number;
  readonly length: number;
}

/** The value of an item. */
interface Field extends Place {
  readonly key: Key;
}

/** Lines that say that a mount ended by itself, and why. */
const ENDED = /^the mount cannot go on: (commit of transaction \d+: .*; run fsck|.*)$/;

export class MountTarget {
  readonly name: string;
  readonly #meta: MemDevice;
  readonly #data: MemDevice;
  readonly #population: Population;
  readonly #fields: readonly Field[];
  readonly #items: readonly Damage[];
  readonly #logTrees: readonly Place[];
  readonly #lists: readonly Place[];
  readonly #blocks: readonly number[];
  readonly #treeBlocks: readonly number[];
  readonly #undersized: boolean;

  constructor(subject: Subject) {
    this.name = subject.name;
    this.#meta = inMemory(subject.meta, "meta", () => referencedBlocks(subject.meta));
    this.#data = inMemory(subject.data, "data", () => []);
    if (this.name === "sample") giveServerBlocks(this.#meta, this.#data);
    this.#population = populationOf(this.#meta, this.#data);
    this.#fields = fieldsOf(this.#meta, isItemTree);
    this.#logTrees = fieldsOf(this.#meta, (tree) => tree === "logs_root");
    this.#items = [...itemDamage(this.#meta, 30), ...referenceDamage(this.#meta)]
      .filter((d) => /^(fs_root|open log tree|finalized log tree) /.test(d.name));
    this.#blocks = referencedBlocks(this.#meta);
    this.#lists = this.#blocks
      .filter((blkno) => readBlock(this.#meta, blkno).v.getUint32(4, true) === MAGIC_ALLOC_LIST)
      .map((blkno) => ({ blkno, off: 32, length: 128 }));
    this.#treeBlocks = treeBlocks(this.#meta)
      .filter(({ tree }) => isItemTree(tree))
      .map(({ blkno }) => blkno);
    this.#undersized = checkVolume(this.#meta, this.#data).counts.has("undersized");
  }

  /** One damaged volume, mounted and worked on, and repaired if `repair`. */
  async run(seed: number, repair: boolean): Promise<Outcome> {
    const random = new SeededRandom(seed);
    const kind = KINDS[random.below(KINDS.length)]!;
    const meta = this.#meta.snapshot(), data = this.#data.snapshot();
    const done = (what: string, failure: string | null = null): Outcome => ({
      base: this.name,
      seed,
      kind: `mount, ${kind}`,
      what,
      failure,
    });
    const log: string[] = [];
    try {
      const damaged = this.#damage(meta, random, kind);
      const what = await this.#mountAndWork(meta, data, random, damaged, seed, log);
      const bad = log.find((line) => line.includes("\n") || line.startsWith("defect"));
      if (bad !== undefined) return done("FAILED logged", bad);
      if (new Set(log).size !== log.length) {
        return done("FAILED logged again and again", log.join("\n"));
      }
      if (what === "ended" && !log.some((line) => ENDED.test(line))) {
        return done("FAILED ended without a word", log.join("\n"));
      }
      if (!repair) return done(what);
      // The device reads again what was unreadable.
      meta.clearFaults();
      const left = this.#mend(meta, data, random);
      return left === null ? done(what) : done(`FAILED ${what}, then not mended`, left);
    } catch (e) {
      const why = e instanceof Error ? e.stack ?? e.message : String(e);
      return done("FAILED threw", `${why}\nlog:\n${log.join("\n")}`);
    }
  }

  async #mountAndWork(
    meta: MemDevice,
    data: MemDevice,
    random: SeededRandom,
    damaged: readonly number[],
    seed: number,
    log: string[],
  ): Promise<string> {
    let cluster: LocalCluster;
    let m: LocalFs;
    try {
      const volume = openVolume(meta, data);
      checkFreeSpace(volume);
      const slots = slotsOf(volume.superBlock.qconf);
      checkSlots(slots, presentSlots(slots)[0] ?? 0);
      checkRoots(volume, random);
      cluster = await LocalCluster.open(meta, data, seed);
      m = await inTime(cluster, LocalFs.mount(cluster));
    } catch (e) {
      if (!(e instanceof FsError)) throw e;
      return `refused: ${e.message.replace(/[0-9a-f]*\d[0-9a-f.]*/g, "N").slice(0, 60)}`;
    }
    cluster.onDamage = (e) => {
      log.push(`the mount cannot go on: ${e.message}`);
      m.fs.abort();
    };
    m.fs.callerMemory = { read: () => new Uint8Array(0), write: () => {} };
    const work = new Work(m, random, this.#population, damaged);
    try {
      await work.run(OPERATIONS);
      if (isOver(m)) return "ended";
      await inTime(cluster, m.fs.stop());
      if (isOver(m)) return "ended";
      await inTime(cluster, cluster.disconnect(m.link));
      const failed = work.outcomes.get(EIO) !== undefined;
      if (failed && m.log.length === 0 && cluster.refused.length === 0) {
        throw new Error("EIO, and nothing in the log");
      }
      return `worked: ${failed ? "some" : "no"} EIO`;
    } catch (e) {
      if (!(e instanceof FsError)) throw e;
      return isOver(m) ? "ended" : `unmounted: ${e.message}`;
    } finally {
      log.push(...m.log);
    }
  }

  /** What a repair leaves, or null. */
  #mend(meta: MemDevice, data: MemDevice, random: SeededRandom): string | null {
    const result = repairVolume(meta, data, {
      mode: "all",
      random,
      now: { sec: 1_700_000_000, nsec: 0 },
    });
    const after = checkVolume(meta, data);
    if (isSound(after)) {
      readAll({ meta, data });
      return null;
    }
    const left = after.problems.filter((p) => p.severity !== "info");
    if (this.#undersized || mayLeave(left, result.stopped)) return null;
    // A super block that may be of another volume, or of a larger device, is not written.
    if (result.stopped !== null && /super-(size|pair)/.test(problems(after))) return null;
    return `${result.stopped}\n${problems(after)}\nof\n${problems(result.before)}`;
  }

  /** Damages the metadata device; the inodes that it is about, as far as that is known. */
  #damage(meta: MemDevice, random: SeededRandom, kind: Kind): number[] {
    const count = 1 + random.below(random.oneIn(3) ? 30 : 4), inos: number[] = [];
    const fields = kind === "fields" ? count : kind === "fields and items" ? 1 + count >> 1 : 0;
    const items = kind === "items" ? count : kind === "fields and items" ? 1 + count >> 1 : 0;
    for (let i = 0; i < fields; i++) this.#field(meta, random, inos);
    for (let i = 0; i < items; i++) {
      const damage = this.#items[random.below(this.#items.length)]!;
      damage.apply(meta);
      const ino = / item 16\.(\d+)\./.exec(damage.name);
      if (ino !== null) inos.push(Number(ino[1]));
    }
    if (fields > 0 || items > 0) return inos;
    for (let i = 0; i < count; i++) {
      if (kind === "shared") {
        this.#shared(meta, random);
        continue;
      }
      const some = random.oneIn(3) ? this.#blocks : this.#treeBlocks;
      const blkno = some[random.below(some.length)]!;
      if (kind === "unreadable") {
        const from = blkno * LG_SIZE;
        const fault = { op: "read", kind: "fail", nth: 0, sticky: true } as const;
        meta.inject({ ...fault, from, to: from + LG_SIZE });
        continue;
      }
      const { buf } = readBlock(meta, blkno);
      const span = [64, 512, 4096, LG_SIZE][random.below(4)]!;
      const at = (random.below(2) === 0 ? 0 : LG_SIZE - span) + random.below(span);
      if (kind === "blocks" && random.oneIn(3)) buf.fill(0);
      else buf[at]! ^= 1 + random.below(255);
      if (kind === "sealed bytes") sealBlock(buf);
      meta.write(buf, blkno * LG_SIZE);
    }
    return inos;
  }

  /** One field of one item becomes something else. */
  #field(meta: MemDevice, random: SeededRandom, inos: number[]): void {
    const field = this.#fields[random.below(this.#fields.length)]!;
    const { buf, v } = readBlock(meta, field.blkno);
    changeField(v, field.off, field.length, random);
    sealBlock(buf);
    meta.write(buf, field.blkno * LG_SIZE);
    if (field.key.zone === ZONE_FS) inos.push(Number(field.key.firstBig));
  }

  /** A field of the super block, of a log tree, or of a block list. */
  #shared(meta: MemDevice, random: SeededRandom): void {
    const some = random.below(3);
    if (some === 0) {
      const buf = meta.allocBuffer(SM_SIZE);
      meta.read(buf, SUPER_BLKNO * SM_SIZE);
      changeField(new DataView(buf.buffer, buf.byteOffset), 32, SuperBlock.SIZE - 32, random);
      sealBlock(buf);
      meta.write(buf, SUPER_BLKNO * SM_SIZE);
      return;
    }
    const from = some === 1 ? this.#logTrees : this.#lists;
    if (from.length === 0) return;
    const { blkno, off, length } = from[random.below(from.length)]!;
    const { buf, v } = readBlock(meta, blkno);
    changeField(v, off, length, random);
    sealBlock(buf);
    meta.write(buf, blkno * LG_SIZE);
  }
}

/** A word, or a byte, of `length` bytes becomes something else. */
function changeField(v: DataView, from: number, length: number, random: SeededRandom): void {
  const words = Math.max(1, Math.floor(length / 8));
  const at = from + 8 * random.below(words);
  if (at + 8 > from + length || random.oneIn(3)) {
    const off = from + random.below(length);
    v.setUint8(off, v.getUint8(off) ^ 1 + random.below(255));
    return;
  }
  const old = v.getBigUint64(at, true);
  const values = [
    0n,
    1n,
    old + 1n,
    old - 1n,
    old ^ 1n << BigInt(random.below(64)),
    1n << 53n,
    (1n << 53n) - 1n,
    (1n << 52n) - 1n,
    (1n << 63n) - 1n,
    -1n,
    BigInt(random.u32()),
  ];
  v.setBigUint64(at, BigInt.asUintN(64, values[random.below(values.length)]!), true);
}

const isOver = (m: LocalFs): boolean => m.fs.trans.state === "dead";

/** Waits for something that may need time to pass, but not for ever. */
async function inTime<T>(cluster: LocalCluster, result: Promise<T>): Promise<T> {
  let over = false;
  const end = () => void (over = true);
  result.then(end, end);
  for (let i = 0; !over && i < END_STEPS; i++) {
    await settle();
    if (!over) await cluster.timers.advance(STEP_MS);
  }
  await settle();
  if (!over) throw new Error("the mount does not begin or end");
  return await result;
}

/** The device, or of an image file a copy of the given blocks and of the super blocks'. */
function inMemory(dev: Device, name: string, blocks: () => readonly number[]): MemDevice {
  if (dev instanceof MemDevice) return dev;
  const copy = new MemDevice(dev.size, { name });
  for (const blkno of [SUPER_BLKNO * SM_SIZE / LG_SIZE, ...blocks()]) {
    copy.write(readBlock(dev, blkno).buf, blkno * LG_SIZE);
  }
  return copy;
}

/** Its server lists, made to test lists, are too short for any server to begin: new ones. */
function giveServerBlocks(meta: MemDevice, data: MemDevice): void {
  new Surgeon(meta).editSuper((sb) => {
    for (let i = 0; i < 2; i++) sb.serverMetaAvail(i).zero();
  });
  repairVolume(meta, data, repairOptions());
}

function populationOf(meta: Device, data: Device): Population {
  const volume = new VolumeReader(openVolume(meta, data), new SeededRandom(1));
  const inos = [1], entries: { dir: number; name: Uint8Array }[] = [];
  const xattrs: { ino: number; name: Uint8Array }[] = [], seen = new Set(inos);
  for (let i = 0; i < inos.length; i++) {
    const ino = inos[i]!;
    for (const { name } of volume.xattrs(ino)) xattrs.push({ ino, name: name.slice() });
    if ((volume.inode(ino).mode & 0o170000) !== 0o040000) continue;
    for (const e of volume.readdir(ino)) {
      entries.push({ dir: ino, name: e.name.slice() });
      if (!seen.has(e.ino)) inos.push(e.ino);
      seen.add(e.ino);
    }
  }
  return { inos, entries, xattrs };
}

const isItemTree = (tree: string): boolean => tree === "fs_root" || tree.endsWith(" log tree");

/** The values of items in some trees, wherever they are stored. */
function fieldsOf(meta: Device, trees: (name: string) => boolean): Field[] {
  const fields: Field[] = [];
  for (const { tree, level, blkno } of treeBlocks(meta)) {
    if (level > 0 || !trees(tree)) continue;
    const b = readBlock(meta, blkno);
    for (let item = firstItem(b); item !== 0; item = nextItem(b, item)) {
      const key = itemKey(b, item), length = itemValLen(b, item);
      if (key.zone === ZONE_INODE_INDEX || key.zone === ZONE_ORPHAN || length === 0) continue;
      fields.push({ key, blkno, off: itemValOff(b, item), length });
    }
  }
  return fields;
}

function problems(r: Report): string {
  const bad = r.problems.filter((p) => p.severity !== "info").slice(0, 40);
  return bad.map((p) => `  ${p.code}: ${p.message}`).join("\n");
}
