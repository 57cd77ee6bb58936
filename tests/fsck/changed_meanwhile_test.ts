/**
 * Another host mounts the volume while it is mended or brought back: whatever it writes first, nothing is
 * written over it, and the repair ends with one clear error.
 */

import assert from "node:assert/strict";
import {
  LG_SIZE,
  MAGIC_QUORUM,
  QUORUM_BLKNO,
  SM_SIZE,
  SUPER_BLKNO,
} from "../../format/constants.ts";
import { sealBlock } from "../../format/crc32c.ts";
import { QuorumBlock } from "../../format/quorum.ts";
import { isSound } from "../../fs/check/check.ts";
import { evidenceOfUse } from "../../fs/check/in_use.ts";
import { ChangedError, FixedArea } from "../../fs/check/repair/fixed_area.ts";
import { repairVolume } from "../../fs/check/repair/repair.ts";
import { applyUndo, UndoDevice, UndoFile, undoIdentity } from "../../fs/check/repair/undo.ts";
import { EBUSY } from "../../format/errno.ts";
import { MemDevice } from "../../fs/memory_device.ts";
import { copyOf, healthyVolume, repairOptions, Surgeon, type Volume } from "./repair_support.ts";
import { editSuper, wipe } from "./supers_support.ts";

/** A mount of another host begins: it writes the block of its slot. */
function beginMount(meta: MemDevice): void {
  const block = meta.allocBuffer(SM_SIZE), off = QUORUM_BLKNO * SM_SIZE;
  meta.read(block, off);
  const q = QuorumBlock.at(block);
  assert.equal(q.hdr.magic, MAGIC_QUORUM);
  q.writeNr++;
  q.events(0).writeNr = q.writeNr;
  q.events(0).rid = 0x1234n;
  sealBlock(block);
  meta.write(block, off);
  assert.match(evidenceOfUse(meta).join(), /quorum slot 0 .*is in use by mount/);
}

/** A server of another host commits. */
const commitThere = (meta: MemDevice): void => editSuper(meta, (_, sb) => sb.hdr.seq += 1n, true);

async function damagedVolume(): Promise<Volume> {
  const v = await healthyVolume();
  new Surgeon(v.meta).editInode(v.inos.get("file0")!, (i) => i.nlink = 9);
  return v;
}

/** Both devices. */
const images = (v: Volume) => [v.meta.toImage(), v.data.toImage()];

/** The first write of blocks is followed by something. */
function afterFirstBlock(meta: MemDevice, then: () => void): void {
  const writev = meta.writev.bind(meta);
  let first = true;
  meta.writev = (bufs, off) => {
    writev(bufs, off);
    if (!first || off < 2 * LG_SIZE) return;
    first = false;
    then();
  };
}

Deno.test("changed meanwhile: seen before the first write, whoever wrote what", async () => {
  const cases: [string, (v: Volume) => void, (v: Volume) => void, RegExp][] = [
    ["a mount begins", () => {}, ({ meta }) => beginMount(meta), /the block of quorum slot 0 was/],
    ["a server commits", () => {}, ({ meta }) => commitThere(meta), /the super block was changed/],
    [
      "before a super block is mended",
      (v) => wipe(v.data),
      (v) => beginMount(v.meta),
      /quorum slot 0/,
    ],
    ["one that was lost", (v) => wipe(v.meta), (v) => beginMount(v.meta), /quorum slot 0/],
  ];
  for (const [name, damage, meanwhile, why] of cases) {
    const v = await damagedVolume();
    damage(v);
    let then: Uint8Array[] = [];
    const onRound = (n: number) => {
      if (n > 1) return;
      meanwhile(v);
      then = images(v);
    };
    assert.throws(() => repairVolume(v.meta, v.data, { ...repairOptions(), onRound }), (e) => {
      assert.ok(e instanceof ChangedError, `${name}: ${e}`);
      assert.equal(e.errno, EBUSY);
      assert.match(e.message, why, name);
      return true;
    });
    assert.deepEqual(images(v), then, `${name}: nothing was written`);
  }
});

Deno.test("changed meanwhile: what was found unused before the check counts", async () => {
  const v = await damagedVolume(), fixed = new FixedArea(v.meta);
  beginMount(v.meta);
  const then = images(v);
  assert.throws(() => repairVolume(v.meta, v.data, { ...repairOptions(), fixed }), ChangedError);
  assert.deepEqual(images(v), then);
});

Deno.test("changed meanwhile: seen before the switch, and in later rounds", async () => {
  for (const meanwhile of [beginMount, commitThere]) {
    const v = await damagedVolume();
    let fixedBlocks = new Uint8Array(0);
    afterFirstBlock(v.meta, () => {
      meanwhile(v.meta);
      fixedBlocks = v.meta.toImage().slice(LG_SIZE, 2 * LG_SIZE);
    });
    assert.throws(() => repairVolume(v.meta, v.data, repairOptions()), ChangedError);
    assert.deepEqual(v.meta.toImage().slice(LG_SIZE, 2 * LG_SIZE), fixedBlocks);
    assert.ok(fixedBlocks.length > 0);
  }
  const v = await damagedVolume();
  wipe(v.data);
  let then: Uint8Array[] = [], rounds = 0;
  const onRound = (n: number) => {
    rounds = n;
    if (n !== 2) return;
    beginMount(v.meta);
    then = images(v);
  };
  assert.throws(
    () => repairVolume(v.meta, v.data, { ...repairOptions(), onRound }),
    ChangedError,
  );
  assert.equal(rounds, 2, "the data device's super block was written in round 1");
  assert.deepEqual(images(v), then);
});

Deno.test("changed meanwhile: a fixed block that could not be read at first", async () => {
  const base = await damagedVolume();
  /** The reads of all the blocks and of this one fail once. */
  const unreadableAtFirst = (blkno: number): Volume => {
    const v = copyOf(base), from = blkno * SM_SIZE;
    for (const _ of [1, 2]) {
      v.meta.inject({ op: "read", kind: "fail", nth: 0, from, to: from + SM_SIZE });
    }
    return v;
  };
  for (const slot of [0, 9]) {
    const v = unreadableAtFirst(QUORUM_BLKNO + slot);
    assert.ok(isSound(repairVolume(v.meta, v.data, repairOptions()).after), `slot ${slot}`);
  }
  const cases: [number, (v: Volume) => void, RegExp][] = [
    [QUORUM_BLKNO, (v) => beginMount(v.meta), /slot 0 could not be .* a mount is using it/],
    [SUPER_BLKNO, () => {}, /super block could not be read at first and can be now/],
  ];
  for (const [blkno, meanwhile, why] of cases) {
    const v = unreadableAtFirst(blkno), fixed = new FixedArea(v.meta);
    meanwhile(v);
    const then = images(v), options = { ...repairOptions(), fixed };
    assert.throws(() => repairVolume(v.meta, v.data, options), (e) => {
      assert.ok(e instanceof ChangedError, `${e}`);
      assert.match(e.message, why);
      return true;
    });
    assert.deepEqual(images(v), then);
  }
  // Once it has been read it must stay as it is.
  const v = unreadableAtFirst(QUORUM_BLKNO), fixed = new FixedArea(v.meta);
  fixed.beforeWrite(false);
  fixed.flushed();
  beginMount(v.meta);
  assert.throws(() => fixed.beforeWrite(false), /slot 0 was changed by something else/);
});

Deno.test("changed meanwhile: a repair is not undone under a mount", async () => {
  const dir = await Deno.makeTempDir({ prefix: "undo-" });
  try {
    const v = await damagedVolume(), before = images(v), path = `${dir}/u`;
    const file = new UndoFile(path, undoIdentity(v.meta, v.data));
    const { after } = repairVolume(
      new UndoDevice(v.meta, file, 0),
      new UndoDevice(v.data, file, 1),
      repairOptions(),
    );
    file.end();
    file.close();
    assert.ok(isSound(after));
    const fixed = new FixedArea(v.meta);
    const quiet = v.meta.snapshot();
    beginMount(v.meta);
    const then = images(v);
    for (const force of [false, true]) {
      assert.throws(() => applyUndo(path, v.meta, v.data, force, fixed), ChangedError);
    }
    assert.deepEqual(images(v), then);
    applyUndo(path, quiet, v.data, false);
    assert.deepEqual([quiet.toImage(), v.data.toImage()], before);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});

Deno.test("changed meanwhile: a mount that begins in the midst of undoing much is seen", async () => {
  const dir = await Deno.makeTempDir({ prefix: "undo-" });
  try {
    const { meta } = copyOf(await healthyVolume()), piece = 8 << 20, pieces = 10;
    const data = new MemDevice(pieces * piece), path = `${dir}/u`;
    const file = new UndoFile(path, undoIdentity(meta, data));
    for (let i = 0; i < pieces; i++) file.save(1, new Uint8Array(piece), i * piece);
    file.end();
    file.close();
    const write = data.write.bind(data);
    data.write = (buf, off) => {
      write(buf, off);
      if (data.writes === 1) beginMount(meta);
    };
    assert.throws(() => applyUndo(path, meta, data, false), ChangedError);
    assert.equal(data.writes * piece, 64 << 20, "no more than what lies between two looks");
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});
