/** The super block with the structures that only it embeds (01 §8). */

import { AllocListHead, AllocRoot } from "./alloc.ts";
import { BlockHeader, InetAddr } from "./block.ts";
import { BtreeRoot } from "./btree.ts";
import { checkSize, getU64, setU64, View } from "./bytes.ts";
import { QUORUM_MAX_SLOTS, SUPER_FLAG_META_DEV } from "./constants.ts";

/**
 * Address of a quorum member (01 §8.3), 32 bytes.
 *
 *      0 inet_addr        addr
 */
export class QuorumSlot extends View {
  static readonly SIZE = 32;
  /** Only `family`, `port`, `addr` of the IPv4 layout are meaningful. */
  get addr(): InetAddr {
    return new InetAddr(this.v, this.o);
  }
  /** Whether the slot is configured. */
  get isPresent(): boolean {
    return this.addr.isPresent;
  }
}
checkSize(QuorumSlot.SIZE, 32, "QuorumSlot");

/**
 * Quorum configuration (01 §8.3), 488 bytes.
 *
 *      0 le64             version
 *      8 quorum_slot[15]  slots
 */
export class QuorumConfig extends View {
  static readonly SIZE = 488;
  /** 1 from mkfs; each offline change of the configuration adds 1. */
  get version(): number {
    return getU64(this.v, this.o);
  }
  set version(n: number) {
    setU64(this.v, this.o, n);
  }
  /** Slot `i`, 0 … 14. Bytes behind address and port may hold noise (01 §8.4). */
  slots(i: number): QuorumSlot {
    return new QuorumSlot(this.v, this.o + 8 + 32 * i);
  }
  /** Numbers of the configured slots, ascending. */
  presentSlots(): number[] {
    const nrs: number[] = [];
    for (let nr = 0; nr < QUORUM_MAX_SLOTS; nr++) if (this.slots(nr).isPresent) nrs.push(nr);
    return nrs;
  }
}
checkSize(QuorumConfig.SIZE, 8 + 480, "QuorumConfig");

/**
 * Volume options (01 §8.5), 520 bytes.
 *
 *      0 le64             set_bits
 *      8 le64             data_alloc_zone_blocks
 *     16 le64[63]         future
 */
export class VolumeOptions extends View {
  static readonly SIZE = 520;
  /** Bit i: option i is set. */
  get setBits(): bigint {
    return this.v.getBigUint64(this.o, true);
  }
  set setBits(n: bigint) {
    this.v.setBigUint64(this.o, n, true);
  }
  /** Option 0, if set: small blocks in a data zone (01 §11.6). */
  get dataAllocZoneBlocks(): number {
    return getU64(this.v, this.o + 8);
  }
  set dataAllocZoneBlocks(n: number) {
    setU64(this.v, this.o + 8, n);
  }
  /** Whether option `i` is set. */
  isSet(i: number): boolean {
    return (this.v.getUint8(this.o + (i >> 3)) >> (i & 7) & 1) !== 0;
  }
  option(i: number): bigint {
    return this.v.getBigUint64(this.o + 8 + 8 * i, true);
  }
  setOption(i: number, value: bigint): void {
    const at = this.o + (i >> 3);
    this.v.setUint8(at, this.v.getUint8(at) | 1 << (i & 7));
    this.v.setBigUint64(this.o + 8 + 8 * i, value, true);
  }
  clearOption(i: number): void {
    const at = this.o + (i >> 3);
    this.v.setUint8(at, this.v.getUint8(at) & ~(1 << (i & 7)));
    this.v.setBigUint64(this.o + 8 + 8 * i, 0n, true);
  }
}
checkSize(VolumeOptions.SIZE, 8 + 8 + 504, "VolumeOptions");

/**
 * The super block (01 §8.1), 1488 bytes.
 *
 *      0 block_header     hdr
 *     32 le64             id
 *     40 le64             fmt_vers
 *     48 le64             flags
 *     56 u8[16]           uuid
 *     72 le64             seq
 *     80 le64             next_ino
 *     88 le64             inode_count
 *     96 le64             total_meta_blocks
 *    104 le64             total_data_blocks
 *    112 quorum_config    qconf
 *    600 alloc_root[2]    meta_alloc
 *    680 alloc_root       data_alloc
 *    720 alloc_list_head[2] server_meta_avail
 *    784 alloc_list_head[2] server_meta_freed
 *    848 btree_root       fs_root
 *    872 btree_root       logs_root
 *    896 btree_root       log_merge
 *    920 btree_root       mounted_clients
 *    944 btree_root       srch_root
 *    968 volume_options   volopt
 */
export class SuperBlock extends View {
  static readonly SIZE = 1488;
  /** Its seq is incremented at each write by a server (01 §5.3). */
  get hdr(): BlockHeader {
    return new BlockHeader(this.v, this.o);
  }
  /** Unused, 0. */
  get id(): number {
    return getU64(this.v, this.o + 32);
  }
  set id(n: number) {
    setU64(this.v, this.o + 32, n);
  }
  /** Format version, 1 or 2; meta and data supers must agree. */
  get fmtVers(): number {
    return getU64(this.v, this.o + 40);
  }
  set fmtVers(n: number) {
    setU64(this.v, this.o + 40, n);
  }
  /** Bit 0 (0x01): this is the metadata device. Set on meta, clear on data. Other bits 0. */
  get flags(): number {
    return getU64(this.v, this.o + 48);
  }
  set flags(n: number) {
    setU64(this.v, this.o + 48, n);
  }
  /** Must match between the two devices. */
  get uuid(): Uint8Array {
    return new Uint8Array(this.v.buffer, this.v.byteOffset + this.o + 56, 16);
  }
  /** Last value handed out by the server's sequence counter as of this commit (≥ 1). */
  get seq(): number {
    return getU64(this.v, this.o + 72);
  }
  set seq(n: number) {
    setU64(this.v, this.o + 72, n);
  }
  /** Next never-allocated inode number. */
  get nextIno(): number {
    return getU64(this.v, this.o + 80);
  }
  set nextIno(n: number) {
    setU64(this.v, this.o + 80, n);
  }
  /** Inodes accounted in `fs_root`; true total adds every log_trees `inode_count_delta`. */
  get inodeCount(): number {
    return getU64(this.v, this.o + 88);
  }
  set inodeCount(n: number) {
    setU64(this.v, this.o + 88, n);
  }
  /** Large blocks in use of the meta device, counting blocks 0 and 1. */
  get totalMetaBlocks(): number {
    return getU64(this.v, this.o + 96);
  }
  set totalMetaBlocks(n: number) {
    setU64(this.v, this.o + 96, n);
  }
  /** Small blocks in use of the data device, counting blocks 0–63. */
  get totalDataBlocks(): number {
    return getU64(this.v, this.o + 104);
  }
  set totalDataBlocks(n: number) {
    setU64(this.v, this.o + 104, n);
  }
  get qconf(): QuorumConfig {
    return new QuorumConfig(this.v, this.o + 112);
  }
  /** Free metadata extents; a server refills from one and frees to the other (01 §11.4). */
  metaAlloc(i: number): AllocRoot {
    return new AllocRoot(this.v, this.o + 600 + 40 * i);
  }
  /** Free data extents. */
  get dataAlloc(): AllocRoot {
    return new AllocRoot(this.v, this.o + 680);
  }
  /** Blocks that server transactions may allocate (01 §11.4). */
  serverMetaAvail(i: number): AllocListHead {
    return new AllocListHead(this.v, this.o + 720 + 32 * i);
  }
  /** Blocks that server transactions freed. */
  serverMetaFreed(i: number): AllocListHead {
    return new AllocListHead(this.v, this.o + 784 + 32 * i);
  }
  /** Merged filesystem items (01 §15). */
  get fsRoot(): BtreeRoot {
    return new BtreeRoot(this.v, this.o + 848);
  }
  /** log_trees items (01 §13.1). */
  get logsRoot(): BtreeRoot {
    return new BtreeRoot(this.v, this.o + 872);
  }
  /** State of log merging (01 §13.4). */
  get logMerge(): BtreeRoot {
    return new BtreeRoot(this.v, this.o + 896);
  }
  /** Mounts that servers know (01 §13.2). */
  get mountedClients(): BtreeRoot {
    return new BtreeRoot(this.v, this.o + 920);
  }
  /** Search files and compactions (01 §13.3). */
  get srchRoot(): BtreeRoot {
    return new BtreeRoot(this.v, this.o + 944);
  }
  get volopt(): VolumeOptions {
    return new VolumeOptions(this.v, this.o + 968);
  }
  /** Whether this is the super block of the metadata device. */
  get isMetaDev(): boolean {
    return (this.v.getUint8(this.o + 48) & SUPER_FLAG_META_DEV) !== 0;
  }
}
checkSize(
  SuperBlock.SIZE,
  32 + 8 + 8 + 8 + 16 + 8 + 8 + 8 + 8 + 8 + 488 + 80 + 40 + 64 + 64 + 24 + 24 + 24 + 24 + 24 + 520,
  "SuperBlock",
);
