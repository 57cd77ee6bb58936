/**
 * Super blocks that cannot be used as they are (01 §8): both devices have one, and what does not
 * change after mkfs stands in both, in the quorum blocks and in every metadata block.
 *
 * A metadata super block with impossible fixed fields is completed from those; what is written has
 * been tried on a check first: it must lead to inodes. One that is gone is made anew by meta_super.ts,
 * that of the data device by data_super.ts.
 */

import { bytesEqual } from "../../../format/bytes.ts";
import {
  AF_IPV4,
  DATA_DEV_START_BLKNO,
  FMT_VERS_MAX,
  FMT_VERS_MIN,
  LG_SIZE,
  MAGIC_QUORUM,
  MAGIC_SUPER,
  META_DEV_START_BLKNO,
  QUORUM_BLKNO,
  QUORUM_MAX_SLOTS,
  SM_SIZE,
  SUPER_BLKNO,
  SUPER_FLAG_META_DEV,
} from "../../../format/constants.ts";
import { blockCrcOk, sealBlock } from "../../../format/crc32c.ts";
import { BlockHeader } from "../../../format/block.ts";
import { SuperBlock } from "../../../format/super.ts";
import type { Device } from "../../device.ts";
import { DeviceError } from "../../errors.ts";
import { type CheckOptions, checkVolume, type Report } from "../check.ts";
import { fieldU64, isExact, rawU64, refBlkno, viewOf } from "../raw.ts";

/**
 * Makes the metadata super block usable if it can be; true when it was written. `options` are those
 * of the check that tries it.
 */
export function mendMetaSuper(meta: Device, data: Device, options: CheckOptions): boolean {
  const raw = completeSuper(meta, data);
  return raw !== null && leadsToInodes(meta, data, raw, options) && writeMetaSuper(meta, raw);
}

/** Where mkfs puts fs_root (01 §17.1): block 2, seq 1, height 1. */
const MKFS_ROOT = (() => {
  const bytes = new Uint8Array(24);
  bytes[0] = 2;
  bytes[8] = 1;
  bytes[16] = 1;
  return bytes;
})();

/**
 * A data device's super block: it names the trees that mkfs made, or none (01 §2.3). On the metadata
 * device, with another flag, it would make the volume an empty one.
 */
export const isDataCopy = (sb: SuperBlock): boolean =>
  (fieldU64(sb, 48) & SUPER_FLAG_META_DEV) === 0 &&
  (sb.fsRoot.isEmpty || bytesEqual(sb.fsRoot.bytes, MKFS_ROOT));

/** Why two devices cannot be what they were given as; null if nothing shows it. */
export function wrongDevices(meta: Device, data: Device): string | null {
  const m = wholeSuper(meta), d = wholeSuper(data);
  if (d === null || (fieldU64(d, 48) & SUPER_FLAG_META_DEV) === 0) return null;
  // A volume that mkfs has just made differs in the flags alone, and in what the super block names.
  if (m !== null && isDataCopy(m) && !namesBlocks(meta, m)) {
    return "the devices are given in the wrong order: the metadata device comes first";
  }
  // A flag alone may be damage.
  return namesBlocks(data, d) ? "what was given as the data device is a metadata device" : null;
}

/** The super block, if its magic and checksum are right. */
export function wholeSuper(dev: Device): SuperBlock | null {
  const raw = readSuper(dev);
  if (raw === null || !blockCrcOk(raw)) return null;
  const sb = SuperBlock.at(raw);
  return sb.hdr.magic === MAGIC_SUPER ? sb : null;
}

/**
 * As `mendMetaSuper` where no inodes can be reached any more: the super block is kept if a block that
 * it names is there in the very version that it names, of 64 random bits (01 §5.3).
 */
export function keepMetaSuper(meta: Device, data: Device): boolean {
  const raw = completeSuper(meta, data);
  return raw !== null && namesBlocks(meta, SuperBlock.at(raw)) && writeMetaSuper(meta, raw);
}

export function writeMetaSuper(meta: Device, block: Uint8Array): boolean {
  meta.write(block, SUPER_BLKNO * SM_SIZE);
  meta.flush();
  return true;
}

/** The metadata super block with possible fixed fields; null if it has them, or cannot be read. */
function completeSuper(meta: Device, data: Device): Uint8Array | null {
  const raw = readSuper(meta), other = readSuper(data);
  if (raw === null || isDataCopy(SuperBlock.at(raw))) return null;
  const sb = SuperBlock.at(raw), copy = other === null ? null : SuperBlock.at(other);
  const before = raw.slice(), isWhole = blockCrcOk(raw);
  sb.hdr.magic = MAGIC_SUPER;
  sb.hdr.blkno = SUPER_BLKNO;
  sb.v.setBigUint64(sb.o + 48, BigInt(SUPER_FLAG_META_DEV), true);
  sb.v.setBigUint64(sb.o + 32, 0n, true);
  sb.hdr.fsid = likeliestFsid(meta, sb, copy);
  const version = (s: SuperBlock) => fieldU64(s, 40);
  const known = (n: number) => n >= FMT_VERS_MIN && n <= FMT_VERS_MAX;
  if (!known(version(sb))) {
    const theirs = copy === null ? FMT_VERS_MAX : version(copy);
    sb.fmtVers = known(theirs) ? theirs : FMT_VERS_MAX;
  }
  const pair = copy !== null && (copy.hdr.fsid === sb.hdr.fsid || bytesEqual(copy.uuid, sb.uuid));
  const blocks = (at: number, dev: Device, size: number, least: number) => {
    const most = Math.floor(dev.size / size);
    const fits = (n: number) => isExact(n) && n > least && n <= most;
    const ours = fieldU64(sb, at), theirs = copy === null ? 0 : fieldU64(copy, at);
    if (fits(ours)) {
      // Of two numbers that both may be wrong the greater one takes nothing away.
      if (!isWhole && pair && fits(theirs) && theirs > ours) set(at, theirs);
    } else set(at, fits(theirs) ? theirs : most);
  };
  const set = (at: number, n: number) => sb.v.setBigUint64(sb.o + at, BigInt(n), true);
  blocks(96, meta, LG_SIZE, META_DEV_START_BLKNO);
  // A device that is too small may be another volume's: then it is not the size that is wrong.
  if (pair) blocks(104, data, SM_SIZE, DATA_DEV_START_BLKNO);
  sealBlock(raw);
  return bytesEqual(raw, before) ? null : raw;
}

/** Whether a block that a super block names is there in the version that it names. */
function namesBlocks(meta: Device, sb: SuperBlock): boolean {
  const roots = [sb.fsRoot, sb.logsRoot, sb.logMerge, sb.mountedClients, sb.srchRoot];
  for (const space of [sb.metaAlloc(0), sb.metaAlloc(1), sb.dataAlloc]) roots.push(space.root);
  const refs = roots.map((root) => root.ref);
  for (const i of [0, 1]) refs.push(sb.serverMetaAvail(i).ref, sb.serverMetaFreed(i).ref);
  const head = meta.allocBuffer(SM_SIZE), hdr = BlockHeader.at(head);
  return refs.some((ref) => {
    const blkno = refBlkno(ref);
    if (blkno < META_DEV_START_BLKNO || blkno >= Math.floor(meta.size / LG_SIZE)) return false;
    try {
      meta.read(head, blkno * LG_SIZE);
    } catch (e) {
      if (e instanceof DeviceError) return false;
      throw e;
    }
    return hdr.fsid === sb.hdr.fsid && rawU64(hdr.v, hdr.o + 24) === blkno &&
      hdr.seq === ref.seq;
  });
}

/** Quorum slots that nothing can use become what the data device remembers of them, or absent. */
export function mendSlots(sb: SuperBlock, data: Device, slots: readonly number[]): void {
  const raw = readSuper(data);
  for (const slot of slots) {
    const ours = sb.qconf.slots(slot);
    ours.zero();
    if (raw === null || !blockCrcOk(raw)) continue;
    const { addr } = SuperBlock.at(raw).qconf.slots(slot);
    const taken = sb.qconf.presentSlots().some((other) =>
      other !== slot && sb.qconf.slots(other).addr.addr === addr.addr &&
      sb.qconf.slots(other).addr.port === addr.port
    );
    const usable = addr.family === AF_IPV4 && addr.port !== 0 && addr.addr !== 0 &&
      addr.addr !== 0xffff_ffff && !taken;
    if (usable) ours.addr.setIpv4(addr.addr, addr.port);
  }
}

/** The block as it is, zeros behind the structure; null when it cannot be read. */
export function readSuper(dev: Device): Uint8Array | null {
  if (dev.size < (SUPER_BLKNO + 1) * SM_SIZE) return null;
  const block = dev.allocBuffer(SM_SIZE);
  try {
    dev.read(block, SUPER_BLKNO * SM_SIZE);
  } catch (e) {
    if (e instanceof DeviceError) return null;
    throw e;
  }
  block.fill(0, SuperBlock.SIZE);
  return block;
}

/** What is known to say which fsid, and how often. */
export class FsidVotes {
  readonly #votes = new Map<bigint, number>();

  add(fsid: bigint): void {
    if (fsid !== 0n) this.#votes.set(fsid, (this.#votes.get(fsid) ?? 0) + 1);
  }

  of(fsid: bigint): number {
    return this.#votes.get(fsid) ?? 0;
  }

  /** The fsid with most votes, `first` if none has more; null without any. */
  best(first: bigint | null = null): bigint | null {
    let best = first;
    for (const [fsid, n] of this.#votes) if (best === null || n > this.of(best)) best = fsid;
    return best;
  }
}

/** The fsid that most of what carries it says: supers, quorum blocks, the root of fs_root. */
function likeliestFsid(meta: Device, sb: SuperBlock, copy: SuperBlock | null): bigint {
  const votes = new FsidVotes();
  votes.add(sb.hdr.fsid);
  if (copy !== null && copy.hdr.magic === MAGIC_SUPER) votes.add(copy.hdr.fsid);
  quorumVotes(meta, votes);
  const root = refBlkno(sb.fsRoot.ref);
  if (isExact(root) && root >= META_DEV_START_BLKNO && root < Math.floor(meta.size / LG_SIZE)) {
    const hdr = readHeader(meta, root * LG_SIZE);
    if (hdr !== null && rawU64(hdr.v, hdr.o + 24) === root) votes.add(hdr.fsid);
  }
  return votes.best(sb.hdr.fsid) ?? 0n;
}

/** What the quorum blocks say. */
export function quorumVotes(meta: Device, votes: FsidVotes): void {
  for (let slot = 0; slot < QUORUM_MAX_SLOTS; slot++) {
    const hdr = readHeader(meta, (QUORUM_BLKNO + slot) * SM_SIZE);
    if (hdr !== null && hdr.magic === MAGIC_QUORUM) votes.add(hdr.fsid);
  }
}

/** The header of a block; null when it cannot be read. */
function readHeader(meta: Device, off: number): BlockHeader | null {
  const v = readBlock(meta, off);
  return v === null ? null : new BlockHeader(v);
}

/** 4 KiB of a device; null when they cannot be read. */
export function readBlock(dev: Device, off: number): DataView | null {
  const small = dev.allocBuffer(SM_SIZE);
  if (off + SM_SIZE > dev.size) return null;
  try {
    dev.read(small, off);
  } catch (e) {
    if (e instanceof DeviceError) return null;
    throw e;
  }
  return viewOf(small);
}

/** A device with another super block than the one it has. */
export class WithSuper implements Device {
  constructor(private readonly dev: Device, private readonly superBlock: Uint8Array) {}
  get name(): string {
    return this.dev.name;
  }
  get size(): number {
    return this.dev.size;
  }
  allocBuffer(bytes: number): Uint8Array {
    return this.dev.allocBuffer(bytes);
  }
  read(buf: Uint8Array, off: number): void {
    const only = off === SUPER_BLKNO * SM_SIZE && buf.length === SM_SIZE;
    if (!only) this.dev.read(buf, off);
    const at = SUPER_BLKNO * SM_SIZE - off;
    if (at >= 0 && at + SM_SIZE <= buf.length) buf.set(this.superBlock, at);
  }
  write(): void {
    throw new DeviceError(this.dev.name, "is only tried");
  }
  writev(): void {
    this.write();
  }
  flush(): void {}
  close(): void {}
}

function leadsToInodes(
  meta: Device,
  data: Device,
  superBlock: Uint8Array,
  options: CheckOptions,
): boolean {
  return trySuper(meta, data, superBlock, options).stats.inodes > 0;
}

/** What a check finds with another super block on the metadata device. */
export function trySuper(
  meta: Device,
  data: Device,
  superBlock: Uint8Array,
  options: CheckOptions,
): Report {
  const { memory, tempDir } = options;
  return checkVolume(new WithSuper(meta, superBlock), data, {
    ...(memory === undefined ? {} : { memory }),
    ...(tempDir === undefined ? {} : { tempDir }),
  });
}
