/** Devices with bad sectors in the fixed blocks: looked at, dumped, mended and undone all the same. */

import assert from "node:assert/strict";
import { LG_SIZE, QUORUM_BLKNO, SM_SIZE, SUPER_BLKNO } from "../../format/constants.ts";
import { checkVolume } from "../../fs/check/check.ts";
import { evidenceOfUse } from "../../fs/check/in_use.ts";
import { applyUndo, UndoDevice, UndoFile, undoIdentity } from "../../fs/check/repair/undo.ts";
import type { Device } from "../../fs/device.ts";
import { dumpVolume } from "../../fs/dump/dump.ts";
import { DeviceError } from "../../fs/errors.ts";
import { MemDevice } from "../../fs/memory_device.ts";
import { referencedBlocks } from "../fsck/damage.ts";
import { healthyVolume } from "../fsck/repair_support.ts";

/** A device of which some pages cannot be read until they are written. */
function withBadPages(dev: Device, pages: readonly number[]): Device {
  const bad = new Set(pages);
  const each = (off: number, len: number, visit: (page: number) => void) => {
    for (let at = off; at < off + len; at += SM_SIZE) visit(at / SM_SIZE);
  };
  return {
    name: dev.name,
    size: dev.size,
    allocBuffer: (n) => dev.allocBuffer(n),
    read: (buf, off) => {
      each(off, buf.length, (page) => {
        if (bad.has(page)) throw new DeviceError(dev.name, `page ${page} cannot be read`);
      });
      dev.read(buf, off);
    },
    write: (buf, off) => {
      each(off, buf.length, (page) => bad.delete(page));
      dev.write(buf, off);
    },
    writev: () => assert.fail("not used here"),
    flush: () => dev.flush(),
    close: () => {},
  };
}

Deno.test("unreadable: the block of a slot is a reason not to go on, the super block is none", async () => {
  const { meta } = await healthyVolume();
  assert.deepEqual(evidenceOfUse(withBadPages(meta, [0, SUPER_BLKNO])), []);
  assert.match(
    evidenceOfUse(withBadPages(meta, [QUORUM_BLKNO])).join(),
    /quorum slot 0 cannot be read: a mount may be using it/,
  );
});

Deno.test("unreadable: fixed blocks are reported, and the rest is dumped", async () => {
  const { meta, data } = await healthyVolume();
  const bad = withBadPages(meta, [SUPER_BLKNO]);
  assert.ok(checkVolume(bad, data).counts.has("super-read"));
  for (const page of [SUPER_BLKNO, QUORUM_BLKNO + 3]) {
    const warnings: string[] = [];
    const { blocks } = dumpVolume(withBadPages(meta, [page]), () => {}, {
      time: 0,
      warn: (line) => warnings.push(line),
    });
    assert.ok(blocks > 10);
    assert.match(warnings.join("\n"), new RegExp(`page ${page} cannot be read`));
  }
});

Deno.test("unreadable: without a super block a bad sector costs one block of the dump", async () => {
  const { meta } = await healthyVolume();
  const used = referencedBlocks(meta);
  const dump = (pages: number[]) => {
    const warnings: string[] = [];
    const { blocks, unreadable } = dumpVolume(
      withBadPages(meta, [SUPER_BLKNO, ...pages]),
      () => {},
      {
        time: 0,
        warn: (line) => warnings.push(line),
      },
    );
    return { blocks, unreadable, warnings };
  };
  const all = dump([]), one = dump([used[0]! * (LG_SIZE / SM_SIZE) + 3]);
  assert.equal(one.blocks, all.blocks - 1);
  assert.equal(one.unreadable, 1);
  assert.match(one.warnings.join("\n"), new RegExp(`metadata block ${used[0]} cannot be read`));
});

Deno.test("unreadable: a page that is overwritten is not saved, its neighbours are", async () => {
  const dir = await Deno.makeTempDir({ prefix: "undo-" });
  try {
    const meta = new MemDevice(1 << 20, { name: "m" }),
      data = new MemDevice(1 << 20, { name: "d" });
    const fill = (byte: number) => {
      const buf = meta.allocBuffer(4 * SM_SIZE);
      buf.fill(byte);
      return buf;
    };
    meta.write(fill(1), 32 * SM_SIZE);
    const dev = withBadPages(meta, [33]);
    const file = new UndoFile(`${dir}/u`, undoIdentity(meta, data));
    new UndoDevice(dev, file, 0).write(fill(2), 32 * SM_SIZE);
    file.end();
    file.close();
    assert.equal(file.pagesLost, 1);
    assert.equal(file.bytesSaved, 3 * SM_SIZE);
    assert.equal(applyUndo(`${dir}/u`, dev, data, false).unfinished, false);
    const now = meta.allocBuffer(4 * SM_SIZE);
    meta.read(now, 32 * SM_SIZE);
    assert.deepEqual([0, 1, 2, 3].map((i) => now[i * SM_SIZE]), [1, 2, 1, 1]);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});
