/**
 * Sizes and offsets of every structure (01, 04 §19, 05 §9): a table written from the
 * specification. For each scalar field, setting it on a zeroed structure must change the bytes at
 * its offset and none elsewhere, and reading must give back what was set.
 */

import assert from "node:assert/strict";
import { AllocListBlock, AllocListHead, AllocRoot } from "../../format/alloc.ts";
import { BlockHeader, BlockRef, InetAddr, parseIpv4, Timespec } from "../../format/block.ts";
import { BloomBlock } from "../../format/bloom.ts";
import { BtreeBlock, BtreeRoot } from "../../format/btree.ts";
import {
  bytesEqual,
  FormatError,
  getI64,
  getU64,
  setI64,
  setU64,
  type View,
  type ViewClass,
} from "../../format/bytes.ts";
import * as ioctl from "../../format/ioctl.ts";
import {
  DataExtentVal,
  Dirent,
  Inode,
  QuotaRuleVal,
  Xattr,
  XattrTotlVal,
} from "../../format/items.ts";
import { Key } from "../../format/key.ts";
import { LogTrees } from "../../format/log_trees.ts";
import {
  LogMergeComplete,
  LogMergeFreeing,
  LogMergeRange,
  LogMergeRequest,
  LogMergeStatus,
} from "../../format/merge.ts";
import { MountedClientBtreeVal } from "../../format/mounted_client.ts";
import { QuorumBlock, QuorumBlockEvent, QuorumMessage } from "../../format/quorum.ts";
import {
  SrchBlock,
  SrchCompact,
  SrchCompactInput,
  SrchEntry,
  SrchFile,
  SrchParent,
} from "../../format/srch.ts";
import { QuorumConfig, QuorumSlot, SuperBlock, VolumeOptions } from "../../format/super.ts";
import * as wire from "../../format/wire.ts";

import { sealed } from "./helpers.ts";

type AnyView = ViewClass<View>;

/** Class, bytes, then `field offset` of scalar fields and live sub-structures. */
const LAYOUTS: readonly [AnyView, number, string][] = [
  [BlockHeader, 32, "crc 0, magic 4, fsid 8, seq 16, blkno 24"],
  [BlockRef, 16, "blkno 0, seq 8, seqLo 8, seqHi 12"],
  [Timespec, 16, "sec 0, nsec 8"],
  [InetAddr, 32, "family 0, port 2, addr 4"],
  [BtreeRoot, 24, "ref 0, height 16"],
  [BtreeBlock, 48, "hdr 0, itemRoot 32, nrItems 34, totalItemBytes 36, midFreeLen 38, level 40"],
  [AllocRoot, 40, "totalLen 0, flags 8, root 16"],
  [AllocListHead, 32, "ref 0, totalNr 16, firstNr 24, flags 28"],
  [AllocListBlock, 56, "hdr 0, next 32, start 48, nr 52"],
  [BloomBlock, 40, "hdr 0, totalSet 32"],
  [QuorumSlot, 32, "addr 0"],
  [QuorumConfig, 488, "version 0"],
  [VolumeOptions, 520, "setBits 0, dataAllocZoneBlocks 8"],
  [
    SuperBlock,
    1488,
    "hdr 0, id 32, fmtVers 40, flags 48, uuid 56, seq 72, nextIno 80, inodeCount 88, " +
    "totalMetaBlocks 96, totalDataBlocks 104, qconf 112, dataAlloc 680, fsRoot 848, logsRoot 872, " +
    "logMerge 896, mountedClients 920, srchRoot 944, volopt 968",
  ],
  [QuorumBlockEvent, 40, "writeNr 0, rid 8, term 16, ts 24"],
  [QuorumBlock, 280, "hdr 0, writeNr 32"],
  [QuorumMessage, 32, "fsid 0, version 8, term 16, type 24, from 25, crc 28"],
  [
    LogTrees,
    472,
    "metaAvail 0, metaFreed 32, itemRoot 64, bloomRef 88, dataAvail 104, dataFreed 144, " +
    "srchFile 184, dataAllocZoneBlocks 272, dataAllocZones 280, inodeCountDelta 408, " +
    "getTransSeq 416, commitTransSeq 424, maxItemSeq 432, finalizeSeq 440, rid 448, nr 456, flags 464",
  ],
  [MountedClientBtreeVal, 40, "addr 0, flags 32"],
  [SrchEntry, 24, "hash 0, ino 8, id 16"],
  [SrchFile, 88, "first 0, last 24, ref 48, blocks 64, entries 72, height 80"],
  [SrchParent, 32, "hdr 0"],
  [SrchBlock, 112, "hdr 0, first 32, last 56, tail 80, entryNr 104, entryBytes 108"],
  [SrchCompactInput, 104, "sfl 0, blk 88, pos 96"],
  [SrchCompact, 584, "metaAvail 0, metaFreed 32, id 64, nr 72, flags 73, out 80"],
  [LogMergeStatus, 56, "nrRequests 32, nrComplete 40, seq 48"],
  [LogMergeRange, 64, ""],
  [
    LogMergeRequest,
    208,
    "metaAvail 0, metaFreed 32, logsRoot 64, root 88, inputSeq 176, rid 184, seq 192, flags 200",
  ],
  [LogMergeComplete, 208, "metaAvail 0, metaFreed 32, root 64, rid 184, seq 192, flags 200"],
  [LogMergeFreeing, 64, "root 0, seq 56"],
  [
    Inode,
    168,
    "size 0, metaSeq 8, dataSeq 16, dataVersion 24, onlineBlocks 32, offlineBlocks 40, " +
    "nextReaddirPos 48, nextXattrId 56, version 64, nlink 72, uid 76, gid 80, mode 84, rdev 88, " +
    "flags 92, atime 96, ctime 112, mtime 128, crtime 144, proj 160",
  ],
  [Dirent, 32, "ino 0, hash 8, pos 16, type 24"],
  [Xattr, 8, "valLen 0, nameLen 2"],
  [DataExtentVal, 16, "blkno 0, flags 8"],
  [QuotaRuleVal, 48, "limit 24, prio 32, op 33, ruleFlags 34"],
  [XattrTotlVal, 16, "total 0, count 8"],
  [wire.NetHeader, 32, "seq 0, recvSeq 8, id 16, dataLen 24, cmd 26, flags 27, error 28"],
  [wire.Greeting, 40, "fsid 0, fmtVers 8, serverTerm 16, rid 24, flags 32"],
  [wire.NetAllocInodes, 16, "ino 0, nr 8"],
  [wire.NetRoots, 72, "fsRoot 0, logsRoot 24, srchRoot 48"],
  [wire.NetU64, 8, "value 0"],
  [wire.NetLock, 48, "writeSeq 32, oldMode 40, newMode 41"],
  [wire.LockRecover, 8, "nr 0"],
  [wire.OpenInoMapArgs, 16, "groupNr 0, reqId 8"],
  [wire.OpenInoMap, 144, "args 0, bits 16"],
  [wire.NetResizeDevices, 16, "newTotalMetaBlocks 0, newTotalDataBlocks 8"],
  [
    wire.NetStatfs,
    56,
    "uuid 0, freeMetaBlocks 16, totalMetaBlocks 24, freeDataBlocks 32, totalDataBlocks 40, inodeCount 48",
  ],
  [ioctl.IocWalkInodesEntry, 24, "major 0, ino 8, minor 16"],
  [ioctl.IocWalkInodes, 72, "first 0, last 24, entriesPtr 48, nrEntries 56, index 60"],
  [ioctl.IocInoPath, 40, "ino 0, dirIno 8, dirPos 16, resultPtr 24, resultBytes 32"],
  [ioctl.IocInoPathResult, 24, "dirIno 0, dirPos 8, pathBytes 16"],
  [ioctl.IocRelease, 24, "offset 0, length 8, dataVersion 16"],
  [ioctl.IocStage, 32, "dataVersion 0, bufPtr 8, offset 16, length 24"],
  [
    ioctl.IocStatMore,
    56,
    "metaSeq 0, dataSeq 8, dataVersion 16, onlineBlocks 24, offlineBlocks 32, crtimeSec 40, crtimeNsec 48",
  ],
  [ioctl.IocDataWaiting, 40, "flags 0, afterIno 8, afterIblock 16, entsPtr 24, entsNr 32"],
  [ioctl.IocDataWaitingEntry, 24, "ino 0, iblock 8, op 16"],
  [
    ioctl.IocSetattrMore,
    48,
    "dataVersion 0, iSize 8, flags 16, ctimeSec 24, ctimeNsec 32, crtimeNsec 36, crtimeSec 40",
  ],
  [ioctl.IocListxattrHidden, 24, "idPos 0, bufPtr 8, bufBytes 16, hashPos 20"],
  [
    ioctl.IocSearchXattrs,
    56,
    "nextIno 0, lastIno 8, namePtr 16, inodesPtr 24, outputFlags 32, nrInodes 40, nameBytes 48",
  ],
  [
    ioctl.IocStatfsMore,
    48,
    "fsid 0, rid 8, committedSeq 16, totalMetaBlocks 24, totalDataBlocks 32, reservedMetaBlocks 40",
  ],
  [ioctl.IocDataWaitErr, 48, "ino 0, dataVersion 8, offset 16, count 24, op 32, err 40"],
  [ioctl.IocAllocDetail, 16, "entriesPtr 0, entriesNr 8"],
  [ioctl.IocAllocDetailEntry, 24, "id 0, blocks 8, type 16, flags 17"],
  [ioctl.IocMoveBlocks, 48, "fromFd 0, fromOff 8, len 16, toOff 24, dataVersion 32, flags 40"],
  [ioctl.IocResizeDevices, 16, "newTotalMetaBlocks 0, newTotalDataBlocks 8"],
  [ioctl.IocReadXattrTotals, 40, "totalsPtr 24, totalsBytes 32"],
  [ioctl.IocXattrTotal, 40, "total 24, count 32"],
  [ioctl.IocGetAllocatedInos, 24, "startIno 0, inosPtr 8, inosBytes 16"],
  [
    ioctl.IocGetReferringEntries,
    40,
    "ino 0, dirIno 8, dirPos 16, entriesPtr 24, entriesBytes 32",
  ],
  [
    ioctl.IocInodeAttrX,
    104,
    "xMask 0, xFlags 8, metaSeq 16, dataSeq 24, dataVersion 32, onlineBlocks 40, offlineBlocks 48, " +
    "ctimeSec 56, ctimeNsec 64, crtimeNsec 68, crtimeSec 72, size 80, bits 88, projectId 96",
  ],
  [ioctl.IocGetQuotaRules, 32, "rulesPtr 16, rulesNr 24"],
  [ioctl.IocXattrIndexEntry, 24, "minor 0, ino 8, major 16"],
  [ioctl.IocReadXattrIndex, 72, "flags 0, first 8, last 32, entriesPtr 56, entriesNr 64"],
  [ioctl.IocPunchOffline, 32, "offset 0, len 8, dataVersion 16, flags 24"],
  [ioctl.IocInjectTotlDelta, 40, "total 24, count 32"],
];

for (const [Class, size, fields] of LAYOUTS) {
  Deno.test(`layout of ${Class.name}`, () => {
    assert.equal(Class.SIZE, size);
    for (const spec of fields === "" ? [] : fields.split(", ")) {
      const [field, at] = spec.split(" ") as [string, string];
      const off = 16 + Number(at);
      const bytes = new Uint8Array(16 + size + 16);
      const view = new Class(new DataView(bytes.buffer), 16);
      const value = Reflect.get(view, field) as unknown;
      if (typeof value === "number" || typeof value === "bigint") {
        const one = typeof value === "number" ? 0x7d : 0x7dn;
        assert.ok(Reflect.set(view, field, one), field);
        assert.equal(Reflect.get(view, field), one, field);
        assert.equal(bytes.findIndex((b) => b !== 0), off, `${field} starts at ${off - 16}`);
        assert.equal(bytes.findLastIndex((b) => b !== 0), off, field);
      } else if (value instanceof Uint8Array) {
        value[0] = 1;
        assert.equal(bytes.indexOf(1), off, field);
      } else {
        assert.equal((value as View).o, off, field);
        assert.equal((value as View).v.buffer, bytes.buffer);
      }
    }
  });
}

Deno.test("places of array elements and keys", () => {
  const sb = SuperBlock.alloc();
  assert.deepEqual([0, 1].map((i) => sb.metaAlloc(i).o), [600, 640]);
  assert.deepEqual([0, 1].map((i) => sb.serverMetaAvail(i).o), [720, 752]);
  assert.deepEqual([0, 1].map((i) => sb.serverMetaFreed(i).o), [784, 816]);
  assert.deepEqual([0, 2, 14].map((i) => sb.qconf.slots(i).o), [120, 184, 568]);
  assert.deepEqual([0, 5].map((i) => QuorumBlock.alloc().events(i).o), [40, 240]);
  assert.deepEqual([0, 3].map((i) => SrchCompact.alloc().in(i).o), [168, 480]);
  const placed = (bytes: Uint8Array, key: { toBytes(): Uint8Array }, off: number) =>
    assert.deepEqual(bytes.subarray(off, off + 32), key.toBytes());
  const request = LogMergeRequest.alloc(), complete = LogMergeComplete.alloc();
  const range = LogMergeRange.alloc(), status = LogMergeStatus.alloc(), lock = wire.NetLock.alloc();
  const freeing = LogMergeFreeing.alloc();
  for (
    const [view, field, off] of [
      [request, "start", 112],
      [request, "end", 144],
      [complete, "start", 88],
      [complete, "end", 120],
      [complete, "remain", 152],
      [range, "start", 0],
      [range, "end", 32],
      [status, "nextRangeKey", 0],
      [freeing, "key", 24],
      [lock, "key", 0],
    ] as const
  ) {
    const key = someKey(off);
    assert.ok(Reflect.set(view, field, key));
    placed(view.bytes, key, off);
    assert.ok(Reflect.get(view, field).equals(key));
  }
});

const someKey = (n: number) => Key.of(200, n + 1, 201, n + 2, n + 3, 202);

Deno.test("64-bit numbers: exact up to 2^53−1, refused beyond", () => {
  const v = new DataView(new ArrayBuffer(8));
  for (const n of [0, 1, 2 ** 32 - 1, 2 ** 32, 2 ** 53 - 1]) {
    setU64(v, 0, n);
    assert.equal(getU64(v, 0), n);
    assert.equal(v.getBigUint64(0, true), BigInt(n));
    setI64(v, 0, -n);
    assert.equal(getI64(v, 0) + n, 0);
    assert.equal(v.getBigInt64(0, true), -BigInt(n));
  }
  for (const bad of [-1, 0.5, 2 ** 53, NaN, Infinity]) {
    assert.throws(() => setU64(v, 0, bad), FormatError);
  }
  for (const bad of [0.5, 2 ** 53, -(2 ** 54), NaN]) {
    assert.throws(() => setI64(v, 0, bad), FormatError);
  }
  v.setBigUint64(0, 2n ** 53n, true);
  assert.throws(() => getU64(v, 0), FormatError);
  assert.throws(() => getI64(v, 0), FormatError);
  v.setBigInt64(0, -(2n ** 53n) - 1n, true);
  assert.throws(() => getI64(v, 0), FormatError);
});

Deno.test("views are live windows, refuse short buffers, and know when they are zero", () => {
  const bytes = new Uint8Array(64);
  const ref = BlockRef.at(bytes, 8);
  assert.ok(ref.isNull && ref.isZero());
  ref.set(5, 6, 7);
  assert.equal(ref.seq, 6n << 32n | 7n);
  assert.equal(bytes[8], 5);
  assert.ok(bytesEqual(ref.bytes, bytes.subarray(8, 24)));
  const copy = BlockRef.alloc();
  copy.copyFrom(ref);
  assert.ok(copy.equals(ref));
  ref.zero();
  assert.ok(ref.isZero() && !copy.isZero() && !copy.equals(ref));
  assert.throws(() => BlockRef.at(bytes, 49), FormatError);
});

Deno.test("inode values of both lengths", () => {
  const short = Inode.read(new Uint8Array(200).subarray(10, 170), 1);
  assert.equal(short.proj, 0n);
  assert.equal(short.bytes.length, 160);
  assert.throws(() => short.proj = 1n, FormatError);
  const long = Inode.read(new Uint8Array(168), 2);
  long.proj = 0xffff_ffff_ffff_ffffn;
  assert.equal(long.proj, 0xffff_ffff_ffff_ffffn);
  assert.equal(Inode.read(new Uint8Array(160), 2).hasProj, false);
  assert.throws(() => Inode.read(new Uint8Array(168), 1), FormatError);
  assert.throws(() => Inode.read(new Uint8Array(161), 2), FormatError);
  assert.deepEqual([Inode.sizeOf(1), Inode.sizeOf(2)], [160, 168]);
});

Deno.test("inode sizes up to 2^63−1", () => {
  const inode = Inode.alloc();
  inode.size = 2 ** 53 - 1;
  assert.equal(inode.size, 2 ** 53 - 1);
  inode.sizeBig = 2n ** 63n - 1n;
  assert.equal(inode.size, Number(2n ** 63n - 2048n));
  assert.equal(Math.ceil(inode.size / 4096), 2 ** 51);
  assert.equal(inode.sizeBig, 2n ** 63n - 1n);
});

Deno.test("volume options", () => {
  const vol = VolumeOptions.alloc();
  vol.setOption(0, 1048576n);
  assert.ok(vol.isSet(0) && !vol.isSet(1));
  assert.equal(vol.dataAllocZoneBlocks, 1048576);
  vol.setOption(63, 5n);
  assert.equal(vol.v.getBigUint64(512, true), 5n);
  assert.equal(vol.setBits, 1n << 63n | 1n);
  vol.clearOption(0);
  vol.clearOption(63);
  assert.ok(vol.isZero());
});

Deno.test("data zone bitmap of a log tree", () => {
  const lt = LogTrees.alloc();
  lt.setZone(0);
  lt.setZone(65);
  lt.setZone(1023);
  assert.ok(lt.hasZone(0) && lt.hasZone(65) && lt.hasZone(1023) && !lt.hasZone(64));
  assert.equal(lt.v.getBigUint64(280, true), 1n);
  assert.equal(lt.v.getBigUint64(288, true), 2n);
  assert.equal(lt.v.getBigUint64(400, true), 1n << 63n);
});

Deno.test("IPv4 addresses as text", () => {
  assert.equal(parseIpv4("127.0.0.1"), 0x7f000001);
  assert.equal(parseIpv4("255.255.255.255"), 0xffffffff);
  for (const bad of ["", "1.2.3", "1.2.3.256", "1.2.3.4.5", "a.b.c.d", "1.2.3.4 "]) {
    assert.equal(parseIpv4(bad), undefined, bad);
  }
  const addr = InetAddr.alloc();
  assert.ok(!addr.isPresent);
  addr.setIpv4(0xc000020a, 12345);
  assert.equal(`${addr}`, "192.0.2.10:12345");
});

Deno.test("ioctl numbers (05 §8)", () => {
  const expected = {
    WALK_INODES: 0x4048e801,
    INO_PATH: 0x4028e802,
    RELEASE: 0x4018e803,
    STAGE: 0x4020e804,
    STAT_MORE: 0x8038e805,
    DATA_WAITING: 0x4028e806,
    SETATTR_MORE: 0x4030e807,
    LISTXATTR_HIDDEN: 0xc018e808,
    SEARCH_XATTRS: 0x4038e809,
    STATFS_MORE: 0x8030e80a,
    DATA_WAIT_ERR: 0x4030e80b,
    ALLOC_DETAIL: 0x4010e80c,
    MOVE_BLOCKS: 0x4030e80d,
    RESIZE_DEVICES: 0x4010e80e,
    READ_XATTR_TOTALS: 0x4028e80f,
    GET_ALLOCATED_INOS: 0x4018e810,
    GET_REFERRING_ENTRIES: 0x4028e811,
    GET_ATTR_X: 0x4068e812,
    SET_ATTR_X: 0x4068e813,
    GET_QUOTA_RULES: 0x8020e814,
    ADD_QUOTA_RULE: 0x4030e815,
    DEL_QUOTA_RULE: 0x4030e816,
    READ_XATTR_INDEX: 0x8048e817,
    PUNCH_OFFLINE: 0x4020e818,
    INJECT_TOTL_DELTA: 0x4028e819,
  };
  for (const [name, nr] of Object.entries(expected)) {
    assert.equal(Reflect.get(ioctl, `IOC_${name}`), nr, name);
  }
});

Deno.test("entries of GET_REFERRING_ENTRIES are multiples of 16 bytes with room for the NUL", () => {
  assert.deepEqual([1, 2, 3, 18, 255].map(ioctl.referringEntryBytes), [32, 32, 48, 48, 288]);
});

Deno.test("allocator list block of 01 §20", () => {
  const bytes = new Uint8Array(65536);
  const list = AllocListBlock.at(bytes);
  list.hdr.magic = 0x8a93ac83;
  list.hdr.fsid = 0x0123456789abcdefn;
  list.hdr.seq = 0x79n;
  list.hdr.blkno = 302;
  list.next.set(500, 0, 0x99);
  list.start = 2;
  list.nr = 3;
  for (const [i, blkno] of [2000, 2001, 2010].entries()) list.setEntry(2 + i, blkno);
  assert.equal(sealed(bytes), 0x2715a054);
  assert.equal(list.entry(4), 2010);
});
