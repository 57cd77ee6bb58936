/**
 * A small volume that holds something of everything the format has: all kinds of inodes, attributes
 * and extents; a finalized and an open log tree with new versions, deletions and deltas; search logs,
 * sorted files and compactions in each phase; a log merge with ranges, a request, completions before
 * and after splicing, and a tree that is half freed; block lists of several blocks.
 *
 * It is consistent: a checker finds nothing but that it was not unmounted.
 */

import { InetAddr } from "../../format/block.ts";
import { BtreeRoot } from "../../format/btree.ts";
import { firstItem, itemKey, itemVal, nextItem } from "../../format/btree_block.ts";
import {
  LG_SIZE,
  LOG_TREES_FINALIZED,
  SRCH_COMPACT_DELETE,
  SRCH_COMPACT_LOG,
  SRCH_COMPACT_SORTED,
  ZONE_XATTR_TOTL,
} from "../../format/constants.ts";
import { QuotaRuleVal, XattrTotlVal } from "../../format/items.ts";
import { Key } from "../../format/key.ts";
import { LogTrees, logTreesKey } from "../../format/log_trees.ts";
import {
  LOG_MERGE_STATUS_KEY,
  LogMergeComplete,
  logMergeCompleteKey,
  LogMergeFreeing,
  logMergeFreeingKey,
  LogMergeRange,
  logMergeRangeKey,
  LogMergeRequest,
  logMergeRequestKey,
  LogMergeStatus,
} from "../../format/merge.ts";
import { MountedClientBtreeVal, mountedClientKey } from "../../format/mounted_client.ts";
import {
  decodeSrchEntry,
  SrchBlock,
  srchBlocksKey,
  srchBusyKey,
  SrchCompact,
  SrchEntry,
  SrchFile,
  srchLogKey,
  SrchParent,
  srchPendingKey,
} from "../../format/srch.ts";
import { MemDevice } from "../../fs/memory_device.ts";
import { DIR, FILE, LINK, Namespace, sortItems } from "./namespace.ts";
import {
  type BuildItem,
  compareEntries,
  type Entry,
  freeData,
  VolumeBuilder,
} from "./volume_builder.ts";

export const SAMPLE_FSID = 0x5a3c_0011_2233_4455n;
/** The mount whose log tree is open. */
export const RID = 0x1111_2222_3333_4444n;
/** A mount that is gone; its log tree is finalized. */
export const OLD_RID = 0x0abc_0000_0000_0001n;
const SEQ = 500;
const MERGE_SEQ = 160;
const SIZE = { metaBlocks: 1200, dataBlocks: 16384 };

export interface SampleVolume {
  readonly meta: MemDevice;
  readonly data: MemDevice;
}

/** How far the made-up filesystem has come: 0 is merged, 1 finalized, 2 in the open log tree. */
type Stage = 0 | 1 | 2;

function filesystem(stage: Stage): Namespace {
  const ns = new Namespace();
  ns.node(1, DIR);
  ns.node(1024, DIR);
  ns.link(1, "directory", 1024);
  ns.node(1025, DIR);
  ns.link(1024, "sub", 1025);
  for (let i = 0; i < 24; i++) {
    ns.node(2000 + i, FILE, { size: 100 * i });
    ns.link(i % 3 === 0 ? 1 : 1025, `some file called ${i * i}.txt`, 2000 + i);
  }
  ns.link(1024, "second name", 2003);
  ns.link(1, "third name", 2003);
  const mapped = ns.node(3000, FILE, { size: 60 * 4096 });
  ns.link(1, "mapped", 3000);
  mapped.extents.push(
    { start: 0, len: 10, blkno: 1000 },
    { start: 10, len: 5, blkno: 1010, flags: 2 },
    { start: 20, len: 7, blkno: 0, flags: 1 },
    { start: 27, len: 3, blkno: 2000, flags: 3 },
    { start: 40, len: 20, blkno: 3000 },
  );
  const cut = ns.node(3001, FILE, { size: 5000, flags: 1 });
  ns.link(1, "being truncated", 3001);
  cut.extents.push({ start: 0, len: 8, blkno: 1500 });
  ns.node(3002, LINK, { target: "a/long/target/".repeat(90) });
  ns.link(1, "long link", 3002);
  ns.node(3003, LINK, { target: "x" });
  ns.link(1, "l", 3003);
  ns.node(3004, 0o10600);
  ns.link(1025, "fifo", 3004);
  ns.node(3005, 0o20600, { rdev: 5 << 20 | 1 });
  ns.link(1025, "tty", 3005);
  ns.node(3006, 0o60600, { rdev: 7 << 20 });
  ns.link(1025, "disk", 3006);
  ns.node(3007, 0o140600);
  ns.link(1025, "socket", 3007);
  ns.node(3008, FILE, { bytes: 160 });
  ns.link(1, "from version 1", 3008);
  ns.node(3009, FILE, { flags: 2 });
  ns.link(1, "retained", 3009);
  ns.node(3010, FILE); // unlinked, not deleted yet
  ns.attr(2000, "user.small", "v");
  ns.attr(2000, "user.large", "0123456789".repeat(250));
  ns.attr(2001, "trusted.overlay.opaque", "y");
  ns.attr(2001, "security.selinux", "label");
  for (const i of [2, 3, 4]) ns.attr(2000 + i, "scoutfs.hide.totl.acct.1.2.3", `${i * 10}`);
  ns.attr(2005, "scoutfs.totl.acct.9.8.7", "0x10");
  for (const i of [6, 7]) ns.attr(2000 + i, `scoutfs.hide.indx.by.${i}.100${i}`);
  for (let i = 0; i < 12; i++) ns.attr(2008 + i % 6, `scoutfs.hide.srch.found${i}`, "s");
  ns.rule(quotaRule(1n, 5000n, 0, 0));
  ns.rule(quotaRule(2n, 77n, 1, 1));
  if (stage >= 1) {
    ns.node(4000, FILE, { size: 1 });
    ns.link(1024, "made later", 4000);
    ns.attr(4000, "scoutfs.hide.totl.acct.1.2.3", "100");
  }
  if (stage >= 2) {
    ns.node(5000, FILE, { size: 4096 }).extents.push({ start: 0, len: 1, blkno: 4000 });
    ns.link(1025, "made last", 5000);
    ns.attr(5000, "scoutfs.hide.totl.acct.1.2.3", "1000");
    ns.attr(5000, "scoutfs.hide.srch.newest", "s");
    ns.nodes.get(2000)!.metaSeq = 200;
    ns.nodes.get(2001)!.dataSeq = 199;
    ns.nodes.get(1025)!.metaSeq = 200;
  }
  return ns;
}

function quotaRule(value: bigint, limit: bigint, op: number, source: number): QuotaRuleVal {
  const r = QuotaRuleVal.alloc();
  r.v.setBigUint64(0, value, true);
  r.v.setBigUint64(8, 2n, true);
  r.v.setBigUint64(16, 3n, true);
  r.limit = limit;
  r.prio = 9;
  r.op = op;
  r.v.setUint8(35, source);
  r.v.setUint8(38, source === 0 ? 0 : 1);
  return r;
}

/** What turns `before` into `after`, as a log tree holds it. */
export function changes(before: BuildItem[], after: BuildItem[], seq: number): BuildItem[] {
  const old = new Map(before.map((i) => [i.key.toString(), i]));
  const items: BuildItem[] = [];
  for (const { key, val } of after) {
    const was = old.get(key.toString());
    old.delete(key.toString());
    if (was !== undefined && was.val.every((b, i) => b === val[i])) continue;
    items.push({ key, val: key.zone === ZONE_XATTR_TOTL ? difference(was?.val, val) : val, seq });
  }
  for (const { key } of old.values()) items.push({ key, val: new Uint8Array(0), seq, flags: 1 });
  return sortItems(items);
}

function difference(was: Uint8Array | undefined, now: Uint8Array): Uint8Array {
  const delta = XattrTotlVal.at(now.slice());
  if (was !== undefined) {
    for (const at of [0, 8]) {
      delta.v.setBigUint64(
        at,
        delta.v.getBigUint64(at, true) -
          new DataView(was.buffer, was.byteOffset).getBigUint64(at, true),
        true,
      );
    }
  }
  return delta.bytes;
}

/** Makes the volume. Deterministic. A mount wants more room than the format does. */
export function makeSample(size = SIZE): SampleVolume {
  const meta = new MemDevice(size.metaBlocks * LG_SIZE, { name: "meta" });
  const data = new MemDevice(size.dataBlocks * 4096, { name: "data" });
  const b = new VolumeBuilder(meta, data, {
    fsid: SAMPLE_FSID,
    ...size,
    maxItems: 8,
    maxEntries: 6,
  });
  new SampleWriter(b, meta, size.dataBlocks).write();
  return { meta, data };
}

class SampleWriter {
  readonly stages = ([0, 1, 2] as const).map(filesystem) as [Namespace, Namespace, Namespace];
  readonly fsRoot: BtreeRoot;
  readonly srchItems: BuildItem[] = [];
  /** Data blocks in allocators of log trees. */
  readonly dataAvail = [{ start: 5000, len: 300 }, { start: 6000, len: 64 }];
  readonly dataFreed = [{ start: 7000, len: 9 }];
  /** Leaves of a tree that is being freed. */
  readonly freedLeaves: number[] = [];

  constructor(
    private readonly b: VolumeBuilder,
    private readonly meta: MemDevice,
    private readonly dataBlocks: number,
  ) {
    b.hole(2);
    this.fsRoot = b.tree(this.stages[0].items(100));
    b.hole(5);
  }

  write(): void {
    const { b, stages } = this, sb = b.super;
    sb.seq = SEQ;
    sb.nextIno = 40960;
    sb.inodeCount = stages[0].nodes.size;
    sb.fsRoot.copyFrom(this.fsRoot);
    sb.logsRoot.copyFrom(b.tree(this.#logTrees()));
    sb.logMerge.copyFrom(b.tree(this.#merge()));
    sb.srchRoot.copyFrom(b.tree(sortItems(this.srchItems)));
    sb.mountedClients.copyFrom(b.tree([this.#client()]));
    sb.serverMetaAvail(0).copyFrom(b.list(b.take(11), 4));
    sb.serverMetaAvail(1).copyFrom(b.list(b.take(3)));
    sb.serverMetaFreed(0).copyFrom(b.list([...b.take(2), ...this.freedLeaves]));
    sb.serverMetaFreed(1).copyFrom(b.list(b.take(9), 3));
    const used = [...stages[2].usedData(), ...this.dataAvail, ...this.dataFreed];
    b.hole(3);
    b.finish(freeData(this.dataBlocks, used));
  }

  #client(): BuildItem {
    const val = MountedClientBtreeVal.alloc();
    const addr = InetAddr.alloc();
    addr.family = 1;
    addr.port = 4242;
    addr.addr = 0x7f000001;
    val.addr.copyFrom(addr);
    val.flags = 1;
    return { key: mountedClientKey(RID), val: val.bytes, seq: 0 };
  }

  #logTrees(): BuildItem[] {
    const { b, stages } = this;
    const finalized = changes(stages[0].items(), stages[1].items(), 140);
    const open = changes(stages[1].items(), stages[2].items(), 200);
    const nodes = stages.map((s) => s.nodes.size) as [number, number, number];

    const old = LogTrees.alloc();
    old.itemRoot.copyFrom(b.tree(finalized));
    old.bloomRef.copyFrom(b.bloom(finalized));
    old.inodeCountDelta = nodes[1] - nodes[0];
    old.getTransSeq = old.commitTransSeq = 140;
    old.maxItemSeq = 140;
    old.finalizeSeq = 150;
    old.rid = OLD_RID;
    old.nr = 3;
    old.flags = LOG_TREES_FINALIZED;

    const lt = LogTrees.alloc();
    lt.metaAvail.copyFrom(b.list(b.take(11), 6));
    lt.metaFreed.copyFrom(b.list(b.take(3)));
    lt.itemRoot.copyFrom(b.tree(open));
    lt.bloomRef.copyFrom(b.bloom(open));
    lt.dataAvail.copyFrom(b.extents(this.dataAvail));
    lt.dataFreed.copyFrom(b.extents(this.dataFreed));
    lt.srchFile.copyFrom(b.srch(this.#search()));
    lt.inodeCountDelta = nodes[2] - nodes[1];
    lt.getTransSeq = 201;
    lt.commitTransSeq = 200;
    lt.maxItemSeq = 200;
    lt.rid = RID;
    lt.nr = 1;
    return [
      { key: logTreesKey(OLD_RID, 3), val: old.bytes, seq: 0 },
      { key: logTreesKey(RID, 1), val: lt.bytes, seq: 0 },
    ];
  }

  /** Writes all search files but the open log, whose entries it returns. */
  #search(): Entry[] {
    const { b } = this;
    const real = this.stages[2].searchEntries();
    // Attributes that came and went.
    const gone = Array.from({ length: 40 }, (_, i) => ({
      hash: BigInt(i + 1) * 0x9e37_79b9_7f4a_7c15n & 0xffff_ffff_ffff_ffffn,
      ino: 2000 + i % 9,
      id: i,
    }));
    const log = (entries: Entry[]): SrchFile => {
      const file = b.srch(entries);
      this.srchItems.push({ key: srchLogKey(file.ref.blkno), val: file.bytes, seq: 0 });
      return file;
    };
    const sorted = (entries: Entry[]): SrchFile => {
      const file = b.srch([...entries].sort(compareEntries));
      const key = srchBlocksKey(file.blocks, file.ref.blkno);
      this.srchItems.push({ key, val: file.bytes, seq: 0 });
      return file;
    };
    const logs = [
      log(real.slice(0, 4)),
      log(gone.slice(0, 8)),
      log(gone.slice(0, 8).reverse()),
      log(gone.slice(8, 10)),
    ];
    log(gone.slice(8, 10));
    const contents = [
      real.slice(4, 11),
      gone.slice(10, 27),
      gone.slice(10, 27),
      gone.slice(27, 30),
    ];
    const files = contents.map(sorted);
    const out = sorted(gone.slice(27, 30));

    const busy = this.#compact(SRCH_COMPACT_LOG, logs);
    this.srchItems.push({ key: srchBusyKey(RID, busy.id), val: busy.bytes, seq: 0 });
    const half = this.#compact(SRCH_COMPACT_SORTED, files);
    this.#consume(half, contents);
    this.srchItems.push({ key: srchPendingKey(half.id), val: half.bytes, seq: 0 });
    const inputs = [14, 3, 2, 5].map((nr) => b.srch(gone.slice(0, nr)));
    // Of the first the first block is freed, the third is freed wholly.
    const freed = [this.#child(inputs[0] as SrchFile), (inputs[2] as SrchFile).ref.blkno];
    const done = this.#compact(SRCH_COMPACT_DELETE, inputs, freed);
    done.out.copyFrom(out);
    done.in(0).blk = 1;
    done.in(0).pos = 1;
    done.in(2).pos = 2;
    this.srchItems.push({ key: srchPendingKey(done.id), val: done.bytes, seq: 0 });
    return real.slice(11);
  }

  /** What a compaction of sorted files has done when it has come halfway. */
  #consume(half: SrchCompact, contents: readonly (readonly Entry[])[]): void {
    const all = contents.flat().sort(compareEntries);
    const limit = all[Math.floor(all.length / 2)] as Entry;
    const output = new Map<string, Entry>();
    contents.forEach((entries, i) => {
      const consumed = entries.filter((e) => compareEntries(e, limit) < 0);
      for (const e of consumed) {
        const name = `${e.hash}.${e.ino}.${e.id}`;
        if (!output.delete(name)) output.set(name, e);
      }
      [half.in(i).blk, half.in(i).pos] = this.#placeOf(half.in(i).sfl, consumed.length);
    });
    if (output.size === 0) throw new Error("the compaction has put out nothing");
    half.out.copyFrom(this.b.srch([...output.values()].sort(compareEntries)));
  }

  /** Logical block and byte of the entry with this number in a search file. */
  #placeOf(file: SrchFile, number: number): [block: number, byte: number] {
    const root = this.#read(file.ref.blkno).v, entry = SrchEntry.alloc();
    for (let block = 0, left = number; block < file.blocks; block++) {
      const blkno = file.height === 1
        ? file.ref.blkno
        : Number(root.getBigUint64(SrchParent.SIZE + 16 * block, true));
      const { v } = this.#read(blkno), { entryNr, entryBytes } = new SrchBlock(v);
      entry.zero();
      let at = 0;
      for (let nr = 0; nr < entryNr; nr++, left--) {
        if (left === 0) return [block, at];
        const from = SrchBlock.SIZE + at;
        at += decodeSrchEntry(v, from, SrchBlock.SIZE + entryBytes, entry, entry);
      }
    }
    return [file.blocks, 0];
  }

  /** The block of a search file's first entries. */
  #child(file: SrchFile): number {
    return Number(this.#read(file.ref.blkno).v.getBigUint64(32, true));
  }

  #compact(flags: number, inputs: readonly SrchFile[], freed: number[] = []): SrchCompact {
    const { b } = this, c = SrchCompact.alloc();
    c.metaAvail.copyFrom(b.list(b.take(3)));
    c.metaFreed.copyFrom(b.list([...b.take(1), ...freed]));
    c.id = (inputs[0] as SrchFile).ref.blkno;
    c.nr = inputs.length;
    c.flags = flags;
    inputs.forEach((file, i) => c.in(i).sfl.copyFrom(file));
    return c;
  }

  #read(blkno: number): { buf: Uint8Array; v: DataView } {
    const buf = this.meta.allocBuffer(LG_SIZE);
    this.meta.read(buf, blkno * LG_SIZE);
    return { buf, v: new DataView(buf.buffer, buf.byteOffset, buf.length) };
  }

  /** Children of a parent block: upper bound and reference. */
  #children(blkno: number): { key: Key; blkno: number; item: number; ref: Uint8Array }[] {
    const block = this.#read(blkno), children = [];
    for (let item = firstItem(block); item !== 0; item = nextItem(block, item)) {
      const ref = itemVal(block, item).slice();
      const at = Number(new DataView(ref.buffer).getBigUint64(0, true));
      children.push({ key: itemKey(block, item), blkno: at, item, ref });
    }
    return children;
  }

  /** fs_root is three levels high; its first last-level parents are being merged. */
  #merge(): BuildItem[] {
    const { b } = this;
    if (this.fsRoot.height !== 3) throw new Error(`fs_root has height ${this.fsRoot.height}`);
    const parents = this.#children(this.fsRoot.ref.blkno);
    const inputs = changes(this.stages[0].items(), this.stages[1].items(), 140);
    const bounds = (i: number): [Key, Key] => [
      i === 0 ? Key.ZEROS : parents[i - 1]!.key.inc(),
      parents[i]!.key,
    ];
    // A request begins at the first item that there is to merge (03 §17.3).
    const requested = (i: number): [Key, Key] => {
      const [lo, hi] = bounds(i);
      const first = inputs.find(({ key }) => key.compare(lo) >= 0 && key.compare(hi) <= 0);
      if (first === undefined) throw new Error(`no input has an item for part ${i} of fs_root`);
      return [first.key, hi];
    };
    const items: BuildItem[] = [];

    const request = LogMergeRequest.alloc();
    request.metaAvail.copyFrom(b.list(b.take(4)));
    request.metaFreed.copyFrom(b.list(b.take(1)));
    request.logsRoot.copyFrom(b.super.logsRoot);
    request.root.ref.bytes.set(parents[0]!.ref);
    request.root.height = 2;
    [request.start, request.end] = requested(0);
    request.inputSeq = MERGE_SEQ;
    request.rid = RID;
    request.seq = 171;
    request.flags = 1;
    items.push({ key: logMergeRequestKey(RID, 171), val: request.bytes, seq: 0 });

    // The first leaf of the second parent has been rewritten, and with it the parent.
    const parent = parents[1]!, leaf = this.#children(parent.blkno)[0]!;
    const newLeaf = b.copyBlock(this.#read(leaf.blkno).buf);
    const newParent = b.copyBlock(this.#read(parent.blkno).buf, (v) => {
      const at = v.getUint16(leaf.item + 48, true);
      new Uint8Array(v.buffer, v.byteOffset + at, 16).set(newLeaf.bytes);
    });
    const complete = LogMergeComplete.alloc();
    complete.metaAvail.copyFrom(b.list(b.take(2)));
    complete.metaFreed.copyFrom(b.list([parent.blkno, leaf.blkno, ...b.take(1)]));
    complete.root.ref.copyFrom(newParent);
    complete.root.height = 2;
    [complete.start, complete.end] = requested(1);
    complete.remain = complete.end;
    complete.rid = RID;
    complete.seq = 172;
    items.push({ key: logMergeCompleteKey(172), val: complete.bytes, seq: 0 });

    // Spliced already; its root is history.
    const spliced = LogMergeComplete.alloc();
    spliced.root.ref.bytes.set(parents[2]!.ref);
    spliced.root.height = 2;
    [spliced.start, spliced.end] = bounds(2);
    spliced.remain = spliced.end;
    spliced.rid = RID;
    spliced.seq = 173;
    items.push({ key: logMergeCompleteKey(173), val: spliced.bytes, seq: 0 });

    const range = LogMergeRange.alloc();
    range.start = parents[2]!.key.inc();
    range.end = Key.ONES;
    items.push({ key: logMergeRangeKey(range.start), val: range.bytes, seq: 0 });

    const status = LogMergeStatus.alloc();
    status.nextRangeKey = range.start;
    status.nrRequests = 1;
    status.nrComplete = 2;
    status.seq = MERGE_SEQ;
    items.push({ key: LOG_MERGE_STATUS_KEY, val: status.bytes, seq: 0 });

    items.push(this.#freeing());
    return sortItems(items);
  }

  /** A merged log tree whose first leaves have been freed. */
  #freeing(): BuildItem {
    const { b } = this;
    const gone = this.stages[0].items(90).slice(0, 60);
    const root = b.tree(gone);
    const children = this.#children(root.ref.blkno);
    const freeing = LogMergeFreeing.alloc();
    freeing.root.copyFrom(root);
    freeing.key = children[1]!.key.inc();
    freeing.seq = 95;
    this.freedLeaves.push(children[0]!.blkno, children[1]!.blkno);
    return { key: logMergeFreeingKey(95), val: freeing.bytes, seq: 0 };
  }
}
