/**
 * A metadata super block made anew when nothing of it is left, or nothing that leads to inodes: what
 * does not change after mkfs comes from the data device's super block and from every block of the
 * volume; the roots of fs_root and logs_root are searched for (find_roots.ts) and tried, newest first,
 * with a check of the whole volume. Everything else that the super block names is left empty and
 * made anew by the rounds that follow: free space of both devices, search files, counts. A merge that
 * was under way begins anew.
 *
 * Guessed are: the address of quorum slots that were changed after mkfs, volume options, whether the
 * volume used all of a device that is larger than it was, and numbers that only must not be given
 * twice, which continue beyond the greatest that was found anywhere.
 */

import {
  AF_IPV4,
  DATA_ALLOC_MAX_ZONES,
  DATA_ALLOC_ZONE_BLOCKS_MIN,
  DATA_DEV_START_BLKNO,
  FMT_VERS_MAX,
  FMT_VERS_MIN,
  LG_SIZE,
  MAGIC_SUPER,
  META_DEV_START_BLKNO,
  SM_SIZE,
  SUPER_BLKNO,
  SUPER_FLAG_META_DEV,
} from "../../../format/constants.ts";
import { blockCrcOk, sealBlock } from "../../../format/crc32c.ts";
import type { BtreeRoot } from "../../../format/btree.ts";
import { SuperBlock } from "../../../format/super.ts";
import type { Device } from "../../device.ts";
import { assert } from "../../errors.ts";
import type { CheckOptions, Report } from "../check.ts";
import { fieldU64, hex16 } from "../raw.ts";
import { findRoots, type FoundRoots, type RootCandidate } from "./find_roots.ts";
import { likeliestFsid, readSuper, trySuper } from "./supers.ts";

/** Groups of roots of one age that are tried, and how many of each. */
const TRIED_AGES = 4;
const TRIED_EACH = 3;
/** Numbers that may have been given out beyond what is found. */
const SEQ_MARGIN = 1 << 16;
const INO_MARGIN = 1 << 20;
/** Errors that are expected while free space, counts and search files wait to be made anew. */
const EXPECTED =
  /^(meta-|data-|list-|alloc-|super-|srch-|quorum-|inode-count|inode-next-ino|owner-)/;

export interface Rebuilt {
  readonly written: boolean;
  /** What was found and what is guessed. */
  readonly notes: readonly string[];
  /** Why nothing was written. */
  readonly refused: string | null;
  /** fs_root itself is lost, or all but a leaf of it: its other leaves are to be searched for. */
  readonly fsRootLost: boolean;
}

const refuse = (refused: string): Rebuilt => ({
  written: false,
  notes: [],
  refused,
  fsRootLost: false,
});

export function rebuildMetaSuper(meta: Device, data: Device, options: CheckOptions): Rebuilt {
  const own = readable(readSuper(meta)), other = readable(readSuper(data));
  const remains = own ?? other;
  if (remains === null) {
    return refuse("neither device has a super block: nothing tells whose volume this is");
  }
  if (own === null && !isSound(other)) {
    return refuse(
      "the data device's super block is damaged too: nothing else knows the quorum slots",
    );
  }
  const fsid = likeliestFsid(meta, own ?? SuperBlock.alloc(), other);
  const found = findRoots(meta, fsid, (blocks, total) => {
    if (blocks % 1024 !== 0) return;
    options.onProgress?.({ phase: "roots", share: blocks / total, bytesRead: blocks * LG_SIZE });
  });
  if (found.fsRoots.length + found.logsRoots.length === 0) {
    return refuse(
      found.blocks === 0
        ? `the metadata device has no blocks of volume ${hex16(fsid)}`
        : `no tree of items or of log trees was found in ${found.blocks} btree blocks`,
    );
  }
  const notes: string[] = [];
  const block = meta.allocBuffer(SM_SIZE), sb = SuperBlock.at(block);
  fixedFields(sb, meta, data, own, other, found, notes);
  sb.hdr.fsid = fsid;
  sb.seq = found.greatestSeq + SEQ_MARGIN;
  sb.nextIno = Math.ceil((found.greatestIno + INO_MARGIN) / 1024) * 1024;
  const best = bestRoots(meta, data, block, own, found, options);
  if (best === null) return refuse("no tree that was found leads to inodes");
  notes.unshift(
    best.fs === null
      ? "fs_root was not found"
      : `fs_root was found at block ${best.fs.blkno}: ${tree(best.fs)}; of ${found.fsRoots.length}`,
    best.logs === null
      ? "no log trees were found"
      : `logs_root was found at block ${best.logs.blkno}: ${
        tree(best.logs)
      }; of ${found.logsRoots.length}`,
  );
  setRoots(block, best.fs, best.logs);
  meta.write(block, SUPER_BLKNO * SM_SIZE);
  meta.flush();
  const fsRootLost = best.fs === null || best.fs.isPart;
  if (fsRootLost) notes.push("its leaves are searched for, older ones among them");
  return { written: true, notes, refused: null, fsRootLost };
}

const tree = (r: RootCandidate): string =>
  `${r.items} items, the newest of ${r.newest}` +
  (r.missing > 0 ? `, ${r.missing} blocks are missing` : "");

const isSound = (sb: SuperBlock | null): boolean =>
  sb !== null && blockCrcOk(new Uint8Array(sb.v.buffer, sb.v.byteOffset, SM_SIZE));

/** A super block that can be recognised as one. */
function readable(raw: Uint8Array | null): SuperBlock | null {
  if (raw === null) return null;
  const sb = SuperBlock.at(raw);
  return sb.hdr.magic === MAGIC_SUPER ? sb : null;
}

/** Everything but roots and counters. */
function fixedFields(
  sb: SuperBlock,
  meta: Device,
  data: Device,
  own: SuperBlock | null,
  other: SuperBlock | null,
  found: FoundRoots,
  notes: string[],
): void {
  const known = [other, own].filter((s): s is SuperBlock => s !== null)
    .sort((a, b) => Number(isSound(b)) - Number(isSound(a)));
  const first = known[0];
  assert(first !== undefined, "something is left of a super block");
  sb.hdr.magic = MAGIC_SUPER;
  sb.hdr.blkno = SUPER_BLKNO;
  sb.hdr.seq = 1n;
  sb.flags = SUPER_FLAG_META_DEV;
  const versions = known.map((s) => fieldU64(s, 40));
  sb.fmtVers = versions.find((n) => n >= FMT_VERS_MIN && n <= FMT_VERS_MAX) ?? FMT_VERS_MAX;
  sb.uuid.set(first.uuid);
  const total = (at: number, dev: Device, unit: number, least: number, name: string): number => {
    const most = Math.floor(dev.size / unit);
    // The data device's super block does not learn of a resize (01 §17.5).
    for (const s of own === null ? known : [own, ...known]) {
      const n = fieldU64(s, at);
      if (n >= least && n <= most) return n;
    }
    notes.push(
      `the size of the ${name} device is taken as that of the volume's part: ${most} blocks`,
    );
    return most;
  };
  const metaEnd = Math.max(found.metaEnd, META_DEV_START_BLKNO + 1);
  sb.totalMetaBlocks = total(96, meta, LG_SIZE, metaEnd, "metadata");
  const dataEnd = Math.max(found.dataEnd, DATA_DEV_START_BLKNO + 1);
  sb.totalDataBlocks = total(104, data, SM_SIZE, dataEnd, "data");
  const slots = own !== null && hasSlots(own) ? own : other ?? first;
  sb.qconf.copyFrom(slots.qconf);
  if (slots !== own) notes.push("the quorum slots are those that mkfs wrote");
  const options = known.find(hasZoneOption);
  if (options !== undefined) {
    sb.volopt.setBits = 1n;
    sb.volopt.dataAllocZoneBlocks = fieldU64(options.volopt, 8);
  } else notes.push("volume options that were set after mkfs are not known");
}

function hasSlots(sb: SuperBlock): boolean {
  const present = sb.qconf.presentSlots();
  return present.length > 0 && present.every((nr) => {
    const { addr } = sb.qconf.slots(nr);
    return addr.family === AF_IPV4 && addr.port !== 0 && addr.addr !== 0;
  });
}

function hasZoneOption(sb: SuperBlock): boolean {
  const z = fieldU64(sb.volopt, 8), total = fieldU64(sb, 104);
  return sb.volopt.setBits === 1n && z >= DATA_ALLOC_ZONE_BLOCKS_MIN && z <= total &&
    z >= Math.floor(total / DATA_ALLOC_MAX_ZONES);
}

interface Roots {
  readonly fs: RootCandidate | null;
  readonly logs: RootCandidate | null;
}

/** The newest roots that lead to inodes; of those that are as new the ones with which least is wrong. */
function bestRoots(
  meta: Device,
  data: Device,
  block: Uint8Array,
  own: SuperBlock | null,
  found: FoundRoots,
  options: CheckOptions,
): Roots | null {
  const fsRoots: (RootCandidate | null)[] = ownFirst(found.fsRoots, own?.fsRoot);
  const logsRoots: (RootCandidate | null)[] = ownFirst(found.logsRoots, own?.logsRoot);
  if (logsRoots.length === 0) logsRoots.push(null);
  if (fsRoots.length === 0) fsRoots.push(null);
  for (const sameLogs of byAge(logsRoots).slice(0, TRIED_AGES)) {
    for (const sameFs of byAge(fsRoots).slice(0, TRIED_AGES)) {
      let best: Roots | null = null, least = Infinity;
      for (const logs of sameLogs) {
        for (const fs of sameFs) {
          setRoots(block, fs, logs);
          const report = trySuper(meta, data, block, options), errors = unexpected(report);
          if (report.stats.inodes === 0 || errors >= least) continue;
          least = errors;
          best = { fs, logs };
          if (errors === 0) return best;
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
