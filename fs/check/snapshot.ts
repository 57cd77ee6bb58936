/**
 * A mounted volume that holds still: all blocks that one super block leads to, except those of fs_root,
 * copied into memory, and a device that shows them in place of what the mounts write meanwhile.
 *
 * A block of a tree is never changed in place, and every reference names the version that it means
 * (01 §5). So a copy is exact when each block in it is the version that was referenced, whatever was
 * committed while it was made. Where one is not, it was freed and used again: the copy is made anew from
 * the super block of then, of which only what has changed must be read. What is wrong in the same way
 * again and again is damage, and belongs into the copy.
 *
 * fs_root, nearly all of a volume that has been merged, changes only when log trees are merged.
 */

import { LG_SIZE, SM_SIZE, SUPER_BLKNO } from "../../format/constants.ts";
import { blockCrcOk } from "../../format/crc32c.ts";
import { SuperBlock } from "../../format/super.ts";
import type { Device } from "../device.ts";
import { visitReachable } from "../dump/reach.ts";
import { assert } from "../errors.ts";
import { viewOf } from "./raw.ts";

const PASSES = 50;
/** So many passes in which the same blocks are wrong: they are damaged. */
const PERSISTENT = 3;
const SUPER_OFF = SUPER_BLKNO * SM_SIZE;

/** Copies a mounted volume; null when it takes more than `limit` bytes, or never holds still. */
export function takeSnapshot(meta: Device, limit: number): SnapshotDevice | null {
  let blocks = new Map<number, Uint8Array>(), wrongBefore = "", persistent = 0;
  for (let pass = 0; pass < PASSES; pass++) {
    const raw = meta.allocBuffer(SM_SIZE);
    meta.read(raw, SUPER_OFF);
    const copy = copyBlocks(meta, raw, blocks, limit);
    if (copy === null) return null;
    if (copy.wrong.length === 0) return new SnapshotDevice(meta, raw, copy.blocks);
    const wrong = copy.wrong.sort().join();
    persistent = wrong === wrongBefore ? persistent + 1 : 0;
    if (persistent === PERSISTENT) return new SnapshotDevice(meta, raw, copy.blocks);
    wrongBefore = wrong;
    blocks = copy.blocks;
  }
  return null;
}

interface Copy {
  readonly blocks: Map<number, Uint8Array>;
  /** Block number and expected version of blocks that are another version, torn or unreadable. */
  readonly wrong: string[];
}

/** Copies what a super block leads to; what `held` has in the right version is not read again. */
function copyBlocks(
  meta: Device,
  raw: Uint8Array,
  held: ReadonlyMap<number, Uint8Array>,
  limit: number,
): Copy | null {
  const sb = SuperBlock.at(raw.slice());
  sb.fsRoot.zero();
  const blocks = new Map<number, Uint8Array>(), wrong: string[] = [];
  visitReachable(meta, sb, {
    held: (blkno, seq) => {
      const bytes = held.get(blkno);
      return bytes !== undefined && isVersion(bytes, seq) ? bytes : undefined;
    },
    block: (blkno, bytes, seq) => {
      if (blocks.size * LG_SIZE >= limit) return;
      const known = held.get(blkno);
      if (bytes === known) blocks.set(blkno, known);
      else {
        const own = bytes.slice();
        blocks.set(blkno, own);
        if (seq === undefined || !isVersion(own, seq) || !blockCrcOk(own)) {
          wrong.push(`${blkno}.${seq}`);
        }
      }
    },
    unreadable: (blkno) => wrong.push(`${blkno}.unreadable`),
  });
  return blocks.size * LG_SIZE >= limit ? null : { blocks, wrong };
}

const isVersion = (bytes: Uint8Array, seq: bigint): boolean =>
  viewOf(bytes).getBigUint64(16, true) === seq;

/** The metadata device of a snapshot; can only be read. */
export class SnapshotDevice implements Device {
  readonly name: string;
  readonly size: number;

  constructor(
    private readonly dev: Device,
    readonly superBytes: Uint8Array,
    private readonly blocks: ReadonlyMap<number, Uint8Array>,
  ) {
    this.name = dev.name;
    this.size = dev.size;
  }

  allocBuffer(bytes: number): Uint8Array {
    return this.dev.allocBuffer(bytes);
  }

  read(buf: Uint8Array, off: number): void {
    this.dev.read(buf, off);
    const end = off + buf.length;
    if (off <= SUPER_OFF && SUPER_OFF < end) buf.set(this.superBytes, SUPER_OFF - off);
    for (let blkno = Math.floor(off / LG_SIZE); blkno * LG_SIZE < end; blkno++) {
      const bytes = this.blocks.get(blkno);
      if (bytes === undefined) continue;
      const at = blkno * LG_SIZE - off;
      buf.set(
        bytes.subarray(Math.max(0, -at), Math.min(LG_SIZE, end - blkno * LG_SIZE)),
        Math.max(0, at),
      );
    }
  }

  write(): void {
    assert(false, "a snapshot was written to");
  }
  writev(): void {
    assert(false, "a snapshot was written to");
  }
  flush(): void {}
  close(): void {}
}
