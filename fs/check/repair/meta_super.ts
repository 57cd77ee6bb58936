/**
 * A metadata super block made anew when nothing of it is left, or nothing that leads to inodes: what
 * does not change after mkfs comes from what is left of both super blocks and from every block of the
 * volume (volume_identity.ts); the roots of fs_root and logs_root are searched for (find_roots.ts) and
 * tried, newest first, with a check of the whole volume. Everything else that the super block names is
 * left empty and made anew by the rounds that follow: free space of both devices, search files,
 * counts. A merge that was under way begins anew.
 *
 * Guessed are: the address of quorum slots that were changed after mkfs, volume options, whether the
 * volume used all of a device that is larger than it was, and numbers that only must not be given
 * twice, which continue beyond the greatest that was found anywhere.
 *
 * Without both super blocks quorum slots are known from nowhere and must be given; the data device
 * must then be shown to be the volume's before anything is written.
 */

import { LG_SIZE, SM_SIZE, SUPER_BLKNO } from "../../../format/constants.ts";
import { Key } from "../../../format/key.ts";
import { LogTrees } from "../../../format/log_trees.ts";
import { sealBlock } from "../../../format/crc32c.ts";
import type { BtreeRoot } from "../../../format/btree.ts";
import { SuperBlock } from "../../../format/super.ts";
import { BlockCache } from "../../block_cache.ts";
import { forEachItem } from "../../btree.ts";
import type { Device } from "../../device.ts";
import type { Random } from "../../env.ts";
import type { QuorumSlotSetting } from "../../mkfs.ts";
import type { CheckOptions, Report } from "../check.ts";
import { fieldU64, hex16 } from "../raw.ts";
import { reasonAgainst } from "./data_super.ts";
import { findRoots, type FoundRoots, type RootCandidate } from "./find_roots.ts";
import { trySuper, WithSuper } from "./supers.ts";
import { fixedFields, fsidOf, type Remains, remainsOf, slotsOf } from "./volume_identity.ts";

/** Groups of roots of one age that are tried, and how many of each. */
const TRIED_AGES = 4;
const TRIED_EACH = 3;
/** For reading log trees once. */
const CACHE_BYTES = 16 << 20;
/** Numbers that may have been given out beyond what is found. */
const SEQ_MARGIN = 1 << 16;
const INO_MARGIN = 1 << 20;
/** Errors that are expected while free space, counts and search files wait to be made anew. */
const EXPECTED =
  /^(meta-(?!block-twice)|data-|list-|alloc-|super-|srch-|quorum-|inode-count|inode-next-ino|owner-)/;

export interface RebuildOptions extends CheckOptions {
  readonly random: Random;
  /** Quorum slots, where they are known better than what is left of the super blocks says. */
  readonly slots?: readonly QuorumSlotSetting[];
  /** The data device is the volume's whatever it looks like. */
  readonly trustData?: boolean;
}

export interface Rebuilt {
  readonly written: boolean;
  /** What was found and what is guessed. */
  readonly notes: readonly string[];
  /** Why nothing was written. */
  readonly refused: string | null;
  /** That is because of the devices: they may be no pair, or of no volume. */
  readonly wrongDevices: boolean;
  /** There is no tree to begin with: what is wrong is not the super block alone. */
  readonly treeless: boolean;
  /** fs_root itself is lost, or all but a leaf of it: its other leaves are to be searched for. */
  readonly fsRootLost: boolean;
}

const refuse = (refused: string, treeless = false): Rebuilt => ({
  written: false,
  notes: [],
  refused,
  wrongDevices: false,
  treeless,
  fsRootLost: false,
});

const refuseDevices = (why: string): Rebuilt => ({ ...refuse(why), wrongDevices: true });

export function rebuildMetaSuper(meta: Device, data: Device, options: RebuildOptions): Rebuilt {
  const fsid = fsidOf(meta, data);
  if (fsid === null) return refuseDevices("the metadata device has no blocks of any volume");
  const remains = remainsOf(meta, data, fsid);
  if (remains.foreign && options.trustData !== true) {
    return refuseDevices("the data device belongs to another volume");
  }
  const slots = slotsOf(meta, remains, options.slots);
  if (typeof slots === "string") return refuse(slots);
  const found = findRoots(meta, fsid, options, (blocks, total) => {
    if (blocks % 1024 !== 0) return;
    options.onProgress?.({ phase: "roots", share: blocks / total, bytesRead: blocks * LG_SIZE });
  });
  if (found.fsRoots.length + found.logsRoots.length === 0 && !found.inodes) {
    const refused = found.blocks === 0
      ? refuseDevices(`the metadata device has no blocks of volume ${hex16(fsid)}`)
      : refuse(`no tree of items or of log trees was found in ${found.blocks} btree blocks`);
    return { ...refused, treeless: true };
  }
  const notes: string[] = [];
  const block = meta.allocBuffer(SM_SIZE), sb = SuperBlock.at(block);
  fixedFields(sb, meta, data, remains, slots, found, options.random, notes);
  sb.hdr.fsid = fsid;
  sb.seq = found.greatestSeq + SEQ_MARGIN;
  sb.nextIno = Math.ceil((found.greatestIno + INO_MARGIN) / 1024) * 1024;
  // Where no tree leads to inodes there may be leaves that have some.
  const best = bestRoots(meta, data, block, rootsOf(remains), found, options) ??
    (found.inodes ? { fs: null, logs: found.logsRoots[0] ?? null } : null);
  if (best === null) return refuse("there is no inode in what was found", true);
  notes.unshift(
    best.empty === true
      ? "fs_root is empty: log trees have everything"
      : best.fs === null
      ? "fs_root was not found"
      : `fs_root was found at block ${best.fs.blkno}: ${tree(best.fs)}; of ${found.fsRoots.length}`,
    best.logs === null
      ? "no log trees were found"
      : `logs_root was found at block ${best.logs.blkno}: ${
        tree(best.logs)
      }; of ${found.logsRoots.length}`,
  );
  // A leaf does not show that it is a part: without any tree a later run looks for leaves again.
  const single = best.fs !== null && best.fs.isPart && best.fs.height === 1;
  setRoots(block, single ? null : best.fs, best.logs);
  if (remains.other === null && options.trustData !== true) {
    const against = reasonAgainst(new WithSuper(meta, block), data, options.random);
    if (against !== null) return refuseDevices(against);
  }
  meta.write(block, SUPER_BLKNO * SM_SIZE);
  meta.flush();
  const fsRootLost = best.fs === null ? best.empty !== true : best.fs.isPart;
  if (fsRootLost) {
    notes.push(
      "its leaves are searched for, older ones among them: what was deleted since may be back",
    );
  }
  return {
    written: true,
    notes,
    refused: null,
    wrongDevices: false,
    treeless: false,
    fsRootLost,
  };
}

/** The damaged super block whose roots are worth trying first. */
const rootsOf = ({ own, isCopy }: Remains): SuperBlock | null => isCopy ? null : own;

const tree = (r: RootCandidate): string =>
  `${r.items} items, the newest of ${r.newest}` +
  (r.missing > 0 ? `, ${r.missing} blocks are missing` : "");

interface Roots {
  readonly fs: RootCandidate | null;
  /** Nothing is wrong without an fs_root: log trees have everything. */
  readonly empty?: boolean;
  readonly logs: RootCandidate | null;
}

/** What a check finds with some roots. */
interface Tried extends Roots {
  readonly inodes: number;
  readonly errors: number;
}

/**
 * The newest roots that lead to inodes; of those that are as new the ones with which least is wrong. If
 * something is, and nothing at all with another tree over which there are as many inodes, that one was
 * fs_root. A leaf that only was a part of it does not stand for a tree that leads to more inodes, but
 * not to that leaf any more.
 */
function bestRoots(
  meta: Device,
  data: Device,
  block: Uint8Array,
  own: SuperBlock | null,
  found: FoundRoots,
  options: RebuildOptions,
): Roots | null {
  const attempt = (fs: RootCandidate | null, logs: RootCandidate | null): Tried => {
    setRoots(block, fs, logs);
    const report = trySuper(meta, data, block, options);
    return { fs, logs, inodes: report.stats.inodes, errors: unexpected(report) };
  };
  const best = newestRoots(own, found, attempt);
  if (best === null) return null;
  const isEmpty = ({ fs, logs }: Roots) =>
    fs === null && found.oldest >= oldestLogged(meta, block, logs, options.random);
  if (best.errors === 0) return { ...best, empty: isEmpty(best) };
  for (const fs of best.logs === null ? [] : [null, ...found.rootless.slice(0, TRIED_EACH)]) {
    const other = attempt(fs, best.logs);
    if (other.errors > 0 || other.inodes < best.inodes) continue;
    if (fs === null && !isEmpty(other)) continue;
    return { ...other, empty: fs === null };
  }
  if (best.fs?.height !== 1) return best;
  return found.torn.slice(0, TRIED_EACH).map((fs) => attempt(fs, best.logs))
    .reduce((most, other) => other.inodes > most.inodes ? other : most, best);
}

/**
 * The least version of an item in log trees. What is older was part of fs_root, as items of log trees
 * are newer than what has been merged (03 §16.1): there are attributes and rules that nothing misses.
 */
function oldestLogged(
  meta: Device,
  block: Uint8Array,
  logs: RootCandidate | null,
  random: Random,
): number {
  setRoots(block, null, logs);
  const { hdr, logsRoot } = SuperBlock.at(block);
  const cache = new BlockCache(meta, hdr.fsid, { random, limitBytes: CACHE_BYTES });
  let oldest = Infinity;
  forEachItem({ cache }, logsRoot, Key.ZEROS, ({ val }) => {
    const { itemRoot } = LogTrees.at(val.slice());
    forEachItem({ cache }, itemRoot, Key.ZEROS, ({ seq }) => void (oldest = Math.min(oldest, seq)));
  });
  return oldest;
}

function newestRoots(
  own: SuperBlock | null,
  found: FoundRoots,
  attempt: (fs: RootCandidate | null, logs: RootCandidate | null) => Tried,
): Tried | null {
  const fsRoots: (RootCandidate | null)[] = ownFirst(found.fsRoots, own?.fsRoot);
  const logsRoots: (RootCandidate | null)[] = ownFirst(found.logsRoots, own?.logsRoot);
  if (logsRoots.length === 0) logsRoots.push(null);
  if (fsRoots.length === 0) fsRoots.push(null);
  for (const sameLogs of byAge(logsRoots).slice(0, TRIED_AGES)) {
    for (const sameFs of byAge(fsRoots).slice(0, TRIED_AGES)) {
      let best: Tried | null = null;
      for (const logs of sameLogs) {
        for (const fs of sameFs) {
          const tried = attempt(fs, logs);
          if (tried.inodes === 0 || best !== null && tried.errors >= best.errors) continue;
          best = tried;
          if (best.errors === 0) return best;
        }
      }
      if (best !== null) return best;
    }
  }
  return null;
}

/** Neighbours that are as new as each other, of each group the first few. */
function byAge<T extends RootCandidate | null>(roots: readonly T[]): T[][] {
  const groups: T[][] = [];
  for (const root of roots) {
    const last = groups.at(-1);
    if (last === undefined || last[0]?.newest !== root?.newest) groups.push([root]);
    else if (last.length < TRIED_EACH) last.push(root);
  }
  return groups;
}

/** The root that the damaged super block still names is the right one if it exists. */
function ownFirst(found: readonly RootCandidate[], named: BtreeRoot | undefined): RootCandidate[] {
  const isNamed = (r: RootCandidate) =>
    named !== undefined && named.ref.seqLo === r.seqLo && named.ref.seqHi === r.seqHi &&
    fieldU64(named.ref, 0) === r.blkno;
  return [...found.filter(isNamed), ...found.filter((r) => !isNamed(r))];
}

function unexpected(report: Report): number {
  let n = 0;
  for (const [code, count] of report.counts) if (!EXPECTED.test(code)) n += count;
  return n;
}

function setRoots(block: Uint8Array, fs: RootCandidate | null, logs: RootCandidate | null): void {
  const sb = SuperBlock.at(block);
  const set = (root: BtreeRoot, found: RootCandidate | null) => {
    root.zero();
    if (found === null) return;
    root.ref.set(found.blkno, found.seqHi, found.seqLo);
    root.height = found.height;
  };
  set(sb.fsRoot, fs);
  set(sb.logsRoot, logs);
  sealBlock(block);
}
