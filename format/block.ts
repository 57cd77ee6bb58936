/**
 * The small structures that everything else embeds: block headers and references, times and
 * addresses (01 §4), and the identity rule of blocks (01 §5.2).
 */

import { checkSize, getI64, getU64, setI64, setU64, View } from "./bytes.ts";
import { AF_IPV4 } from "./constants.ts";

/**
 * First bytes of every metadata block, super block and quorum block (01 §4), 32 bytes.
 *
 *      0 le32             crc
 *      4 le32             magic
 *      8 le64             fsid
 *     16 le64             seq
 *     24 le64             blkno
 */
export class BlockHeader extends View {
  static readonly SIZE = 32;
  /** Over the whole block except these 4 bytes (01 §5.1). */
  get crc(): number {
    return this.v.getUint32(this.o, true);
  }
  set crc(n: number) {
    this.v.setUint32(this.o, n, true);
  }
  /** MAGIC_*. */
  get magic(): number {
    return this.v.getUint32(this.o + 4, true);
  }
  set magic(n: number) {
    this.v.setUint32(this.o + 4, n, true);
  }
  /** Filesystem id; equal in every block of one filesystem. */
  get fsid(): bigint {
    return this.v.getBigUint64(this.o + 8, true);
  }
  set fsid(n: bigint) {
    this.v.setBigUint64(this.o + 8, n, true);
  }
  get fsidLo(): number {
    return this.v.getUint32(this.o + 8, true);
  }
  set fsidLo(n: number) {
    this.v.setUint32(this.o + 8, n, true);
  }
  get fsidHi(): number {
    return this.v.getUint32(this.o + 12, true);
  }
  set fsidHi(n: number) {
    this.v.setUint32(this.o + 12, n, true);
  }
  /** Block version, must equal the referencing `block_ref.seq`. */
  get seq(): bigint {
    return this.v.getBigUint64(this.o + 16, true);
  }
  set seq(n: bigint) {
    this.v.setBigUint64(this.o + 16, n, true);
  }
  get seqLo(): number {
    return this.v.getUint32(this.o + 16, true);
  }
  set seqLo(n: number) {
    this.v.setUint32(this.o + 16, n, true);
  }
  get seqHi(): number {
    return this.v.getUint32(this.o + 20, true);
  }
  set seqHi(n: number) {
    this.v.setUint32(this.o + 20, n, true);
  }
  /** This block's own number, in small blocks for super and quorum blocks, else in large ones. */
  get blkno(): number {
    return getU64(this.v, this.o + 24);
  }
  set blkno(n: number) {
    setU64(this.v, this.o + 24, n);
  }
}
checkSize(BlockHeader.SIZE, 4 + 4 + 8 + 8 + 8, "BlockHeader");

/**
 * A reference to a large metadata block (01 §4), 16 bytes.
 *
 *      0 le64             blkno
 *      8 le64             seq
 */
export class BlockRef extends View {
  static readonly SIZE = 16;
  /** Large block number; 0 = no block. */
  get blkno(): number {
    return getU64(this.v, this.o);
  }
  set blkno(n: number) {
    setU64(this.v, this.o, n);
  }
  /** Expected `hdr.seq`; 0 when blkno is 0. */
  get seq(): bigint {
    return this.v.getBigUint64(this.o + 8, true);
  }
  set seq(n: bigint) {
    this.v.setBigUint64(this.o + 8, n, true);
  }
  get seqLo(): number {
    return this.v.getUint32(this.o + 8, true);
  }
  set seqLo(n: number) {
    this.v.setUint32(this.o + 8, n, true);
  }
  get seqHi(): number {
    return this.v.getUint32(this.o + 12, true);
  }
  set seqHi(n: number) {
    this.v.setUint32(this.o + 12, n, true);
  }
  /** Whether it refers to no block. */
  get isNull(): boolean {
    return this.v.getUint32(this.o, true) === 0 && this.v.getUint32(this.o + 4, true) === 0;
  }
  equals(other: BlockRef): boolean {
    for (let i = 0; i < 16; i += 4) {
      if (this.v.getUint32(this.o + i, true) !== other.v.getUint32(other.o + i, true)) return false;
    }
    return true;
  }
  set(blkno: number, seqHi: number, seqLo: number): void {
    this.blkno = blkno;
    this.seqLo = seqLo;
    this.seqHi = seqHi;
  }
}
checkSize(BlockRef.SIZE, 8 + 8, "BlockRef");

/**
 * A time (01 §4), 16 bytes.
 *
 *      0 le64             sec
 *      8 le32             nsec
 *     12 u8[4]            pad
 */
export class Timespec extends View {
  static readonly SIZE = 16;
  /** Seconds since the epoch, negative before it; in quorum events since boot. */
  get sec(): number {
    return getI64(this.v, this.o);
  }
  set sec(n: number) {
    setI64(this.v, this.o, n);
  }
  /** The exact seconds, however many. */
  get secBig(): bigint {
    return this.v.getBigInt64(this.o, true);
  }
  /** 0–999999999. */
  get nsec(): number {
    return this.v.getUint32(this.o + 8, true);
  }
  set nsec(n: number) {
    this.v.setUint32(this.o + 8, n, true);
  }
  set(sec: number, nsec: number): void {
    this.sec = sec;
    this.nsec = nsec;
  }
}
checkSize(Timespec.SIZE, 8 + 4 + 4, "Timespec");

/**
 * A socket address in its IPv4 layout (01 §4), 32 bytes.
 *
 *      0 le16             family
 *      2 le16             port
 *      4 le32             addr
 *      8 u8[24]           pad
 */
export class InetAddr extends View {
  static readonly SIZE = 32;
  /** 0 none, 1 IPv4, 2 IPv6 (reserved, never used). */
  get family(): number {
    return this.v.getUint16(this.o, true);
  }
  set family(n: number) {
    this.v.setUint16(this.o, n, true);
  }
  /** Port in host order, stored little-endian. */
  get port(): number {
    return this.v.getUint16(this.o + 2, true);
  }
  set port(n: number) {
    this.v.setUint16(this.o + 2, n, true);
  }
  /** The number a<<24|b<<16|c<<8|d. */
  get addr(): number {
    return this.v.getUint32(this.o + 4, true);
  }
  set addr(n: number) {
    this.v.setUint32(this.o + 4, n, true);
  }
  /** Whether it holds an IPv4 address: a quorum slot that is present. */
  get isPresent(): boolean {
    return this.family === AF_IPV4;
  }
  /** Stores an IPv4 address and zeroes the rest. */
  setIpv4(addr: number, port: number): void {
    this.zero();
    this.family = AF_IPV4;
    this.port = port;
    this.addr = addr;
  }
  /** `a.b.c.d` */
  get addrText(): string {
    return ipv4Text(this.addr);
  }
  /** `a.b.c.d:port` */
  override toString(): string {
    return `${this.addrText}:${this.port}`;
  }
}
checkSize(InetAddr.SIZE, 2 + 2 + 4 + 24, "InetAddr");

/** `a.b.c.d` of the number a<<24|b<<16|c<<8|d. */
export function ipv4Text(addr: number): string {
  return `${addr >>> 24}.${addr >>> 16 & 255}.${addr >>> 8 & 255}.${addr & 255}`;
}

/**
 * The number of a dotted IPv4 address, undefined for any other text. Exactly four decimal parts:
 * the octal and short forms of inet_aton are not addresses here.
 */
export function parseIpv4(text: string): number | undefined {
  const m = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/.exec(text);
  if (m === null) return undefined;
  let addr = 0;
  for (const part of m.slice(1)) {
    if (Number(part) > 255) return undefined;
    addr = addr * 256 + Number(part);
  }
  return addr;
}
