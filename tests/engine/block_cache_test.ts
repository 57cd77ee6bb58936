/** The block cache and writers: identity, eviction, failures of the device, crashes. */

import assert from "node:assert/strict";
import { BlockRef } from "../../format/block.ts";
import { LG_SIZE, MAGIC_BLOOM, MAGIC_BTREE, MAGIC_SRCH_BLOCK } from "../../format/constants.ts";
import { blockCrcOk } from "../../format/crc32c.ts";
import { BlockWriter } from "../../fs/block_cache.ts";
import { AssertionError, CorruptError, DeviceError, StaleError } from "../../fs/errors.ts";
import { MemDevice } from "../../fs/memory_device.ts";
import { CountingAlloc, FSID, newCache, newTree } from "./support.ts";

const FILLER = 1000;

/** `count` committed blocks, each filled with its index. */
function committed(count: number, limitBytes?: number) {
  const t = newTree(1024, limitBytes);
  const refs: BlockRef[] = [];
  for (let i = 0; i < count; i++) {
    const ref = BlockRef.alloc();
    t.writer.dirty(ref, MAGIC_BLOOM, t.alloc).buf.fill(i, FILLER);
    refs.push(ref);
  }
  t.writer.write();
  t.alloc.commit();
  return { t, refs };
}

Deno.test("a written block has its header and crc on the device", () => {
  const { t, refs } = committed(1);
  const buf = t.dev.allocBuffer(LG_SIZE);
  t.dev.read(buf, refs[0]!.blkno * LG_SIZE);
  const v = new DataView(buf.buffer);
  assert.ok(blockCrcOk(buf));
  assert.equal(v.getUint32(4, true), MAGIC_BLOOM);
  assert.equal(v.getBigUint64(8, true), FSID);
  assert.equal(v.getBigUint64(16, true), refs[0]!.seq);
  assert.equal(v.getBigUint64(24, true), BigInt(refs[0]!.blkno));
});

Deno.test("dirtying copies to a new number with a new seq, once per transaction", () => {
  const { t, refs } = committed(1);
  const ref = refs[0]!, before = ref.blkno, seq = ref.seq;
  const block = t.writer.dirty(ref, MAGIC_BLOOM, t.alloc);
  assert.notEqual(ref.blkno, before);
  assert.notEqual(ref.seq, seq);
  assert.equal(block.buf[FILLER], 0);
  block.buf[FILLER] = 42;
  assert.equal(t.writer.dirty(ref, MAGIC_BLOOM, t.alloc), block);
  assert.deepEqual([...t.alloc.used], [ref.blkno]);
  const old = BlockRef.alloc();
  old.set(before, Number(seq >> 32n), Number(seq & 0xffff_ffffn));
  assert.equal(t.cache.read(old, MAGIC_BLOOM).buf[FILLER], 0, "the old block is as it was");
});

Deno.test("a moved block keeps its memory; the old one comes from the device, a pinned one stays", () => {
  for (const pins of [0, 1]) {
    const { t, refs } = committed(1);
    const ref = refs[0]!, old = BlockRef.alloc(), before = t.cache.read(ref, MAGIC_BLOOM);
    old.copyFrom(ref);
    before.pins = pins;
    const [read, wrote] = [t.dev.reads, t.dev.writes];
    const block = t.writer.moveTo(ref, MAGIC_BLOOM, 500);
    assert.deepEqual([ref.blkno, block.blkno, t.cache.peek(500)], [500, 500, block]);
    assert.notEqual(ref.seq, old.seq);
    assert.equal(block === before, pins === 0);
    block.buf.fill(42, FILLER);
    const again = t.cache.read(old, MAGIC_BLOOM);
    assert.equal(again.buf[FILLER], 0, "the old block is as it was");
    assert.equal(t.dev.reads - read, pins === 0 ? 1 : 0);
    assert.equal(t.dev.writes, wrote);
    t.writer.write();
    t.cache.drop(500);
    assert.equal(t.cache.read(ref, MAGIC_BLOOM).buf[FILLER], 42);
    assert.equal(t.cache.read(old, MAGIC_BLOOM).buf[FILLER], 0);
    before.pins = 0;
  }
});

Deno.test("a block that another node rewrote is read again; only then it is stale", () => {
  const { t, refs } = committed(1);
  const ref = refs[0]!;
  // another node reuses the number
  const other = newCache(t.dev, 77), writer = new BlockWriter(other);
  const theirs = BlockRef.alloc();
  writer.moveTo(theirs, MAGIC_SRCH_BLOCK, ref.blkno).buf.fill(9, FILLER);
  writer.write();
  assert.equal(t.cache.read(ref, MAGIC_BLOOM).buf[FILLER], 0, "our cached copy is still good");
  assert.equal(t.cache.read(theirs, MAGIC_SRCH_BLOCK).buf[FILLER], 9, "theirs replaces it");
  assert.throws(() => t.cache.read(ref, MAGIC_BLOOM), StaleError);
  assert.throws(
    () => t.cache.getOwned(ref.blkno, ref.seqLo, ref.seqHi, MAGIC_BLOOM),
    CorruptError,
  );
});

Deno.test("a read that was torn once succeeds; errors of the device are passed on", () => {
  const { t, refs } = committed(1);
  const cache = newCache(t.dev);
  t.dev.inject({ op: "read", kind: "corrupt", nth: 0 });
  assert.equal(cache.read(refs[0]!, MAGIC_BLOOM).buf[FILLER], 0);
  cache.drop(refs[0]!.blkno);
  t.dev.inject({ op: "read", kind: "fail", nth: 0 });
  assert.throws(() => cache.read(refs[0]!, MAGIC_BLOOM), DeviceError);
  t.dev.inject({ op: "read", kind: "corrupt", nth: 0, sticky: true });
  assert.throws(() => cache.read(refs[0]!, MAGIC_BLOOM), /crc .* computed/);
  t.dev.clearFaults();
  assert.equal(cache.read(refs[0]!, MAGIC_BLOOM).buf[FILLER], 0);
  assert.throws(() => cache.read(BlockRef.alloc(), MAGIC_BLOOM), CorruptError);
});

Deno.test("a btree block of a wrong shape is corrupt, not stale", () => {
  const t = newTree(), ref = BlockRef.alloc();
  t.writer.dirty(ref, MAGIC_BTREE, t.alloc).v.setUint16(34, 3, true);
  t.writer.write();
  assert.throws(() => newCache(t.dev).read(ref, MAGIC_BTREE), CorruptError);
});

Deno.test("clean blocks leave in order of use, never the last 64, nor pinned or dirty ones", () => {
  const { t, refs } = committed(300);
  const cache = newCache(t.dev, 5, 100 * LG_SIZE);
  const first = cache.read(refs[0]!, MAGIC_BLOOM);
  const pinned = cache.read(refs[1]!, MAGIC_BLOOM);
  pinned.pins++;
  const writer = new BlockWriter(cache);
  const alloc = new CountingAlloc(1024);
  alloc.allocMeta = () => 1000;
  alloc.freeMeta = () => {};
  const dirty = writer.dirty(refs[2]!, MAGIC_BLOOM, alloc);
  for (const ref of refs.slice(3)) {
    cache.read(ref, MAGIC_BLOOM);
    cache.read(refs[0]!, MAGIC_BLOOM);
  }
  assert.equal(cache.peek(refs[0]!.blkno), first, "in use all the time");
  assert.equal(cache.peek(refs[1]!.blkno), pinned);
  assert.equal(cache.peek(1000), dirty);
  assert.equal(pinned.buf[FILLER], 1);
  assert.equal(dirty.buf[FILLER], 2);
  const kept = refs.slice(3).map((ref) => cache.peek(ref.blkno) !== null);
  const gone = kept.lastIndexOf(false);
  assert.ok(kept.slice(gone + 1).length >= 63 && kept.indexOf(true) === gone + 1);
  assert.ok(cache.memoryBytes <= 112 * LG_SIZE);
  for (const [i, ref] of refs.entries()) {
    if (i !== 2) assert.equal(cache.read(ref, MAGIC_BLOOM).buf[FILLER], i & 255);
  }
});

Deno.test("more dirty blocks than the limit are all kept", () => {
  const t = newTree(1024, 64 * LG_SIZE);
  const refs = Array.from({ length: 200 }, (_, i) => {
    const ref = BlockRef.alloc();
    t.writer.dirty(ref, MAGIC_BLOOM, t.alloc).buf.fill(i, FILLER);
    return ref;
  });
  t.writer.write();
  const cache = newCache(t.dev);
  refs.forEach((ref, i) => assert.equal(cache.read(ref, MAGIC_BLOOM).buf[FILLER], i));
});

Deno.test("a failed write leaves everything dirty and can be repeated", () => {
  const t = newTree();
  const refs = Array.from({ length: 5 }, () => {
    const ref = BlockRef.alloc();
    t.writer.dirty(ref, MAGIC_BLOOM, t.alloc);
    t.alloc.allocMeta(); // a gap: every block is a write of its own
    return ref;
  });
  t.dev.inject({ op: "write", kind: "short", nth: 2 });
  assert.throws(() => t.writer.write(), DeviceError);
  assert.equal(t.writer.dirtyCount, 5);
  t.cache.peek(refs[0]!.blkno)!.buf[FILLER] = 7;
  t.writer.write();
  assert.equal(t.writer.dirtyCount, 0);
  const cache = newCache(t.dev);
  for (const ref of refs) cache.read(ref, MAGIC_BLOOM);
  assert.equal(cache.read(refs[0]!, MAGIC_BLOOM).buf[FILLER], 7);
});

Deno.test("forgotten blocks are gone; what they copied stays", () => {
  const { t, refs } = committed(1);
  const copy = BlockRef.alloc();
  copy.copyFrom(refs[0]!);
  t.writer.dirty(copy, MAGIC_BLOOM, t.alloc).buf[FILLER] = 5;
  t.writer.forgetAll();
  assert.equal(t.cache.peek(copy.blkno), null);
  assert.equal(t.writer.dirtyCount, 0);
  assert.equal(t.cache.read(refs[0]!, MAGIC_BLOOM).buf[FILLER], 0);
});

Deno.test("misuse is noticed: two writers, a number in use, changes during a write", () => {
  const { t, refs } = committed(2);
  t.writer.dirty(refs[0]!, MAGIC_BLOOM, t.alloc);
  const second = new BlockWriter(t.cache);
  assert.throws(() => second.dirty(refs[0]!, MAGIC_BLOOM, t.alloc), AssertionError);
  // Lists that are damaged may say so.
  assert.throws(
    () => second.moveTo(BlockRef.alloc(), MAGIC_BLOOM, refs[0]!.blkno),
    CorruptError,
  );
  assert.throws(() => t.cache.drop(refs[0]!.blkno), AssertionError);
  assert.throws(() => second.moveTo(BlockRef.alloc(), MAGIC_BLOOM, 1), AssertionError);
  t.writer.dirty(refs[1]!, MAGIC_BLOOM, t.alloc);
  assert.equal(t.writer.writeSlice(0), false);
  assert.throws(() => t.writer.dirty(BlockRef.alloc(), MAGIC_BLOOM, t.alloc), AssertionError);
});

Deno.test("a crash at any point of a write leaves the committed blocks readable", () => {
  const dev = new MemDevice(256 * LG_SIZE);
  const cache = newCache(dev), writer = new BlockWriter(cache), alloc = new CountingAlloc(256);
  const refs = Array.from({ length: 20 }, () => BlockRef.alloc());
  for (const ref of refs) writer.dirty(ref, MAGIC_BLOOM, alloc);
  writer.write();
  dev.flush();
  alloc.commit();
  dev.startRecording();
  const stable = refs.map((ref) => {
    const copy = BlockRef.alloc();
    copy.copyFrom(ref);
    return copy;
  });
  for (const ref of refs) writer.dirty(ref, MAGIC_BLOOM, alloc);
  writer.write();
  for (let at = 0; at <= dev.log.length; at++) {
    const crashed = newCache(dev.replayKeeping(at, (_, page) => page % 3 === 0));
    for (const ref of stable) crashed.read(ref, MAGIC_BLOOM);
  }
});
