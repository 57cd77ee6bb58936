/**
 * That nobody else changes a volume while it is mended, or brought back to what it was. Exclusive opens
 * keep out this host; another one that mounts a shared device is seen by what it writes: the block of a
 * quorum slot when it begins, the super block with each commit (01 §9, §17.2).
 *
 * Relies on: what the fixed blocks held when it was found that nobody uses the volume.
 * Guarantees: before the first write after a flush, and before each write of a fixed block, they are
 * read again and hold what they held then or what was written here since; a quorum block that could
 * not be read before does not speak of a mount. What lies between that look and the write is some
 * microseconds for a fixed block; else at most what is written between two flushes, to blocks that the
 * volume does not refer to unless a repair is undone.
 */

import { bytesEqual } from "../../../format/bytes.ts";
import {
  MAGIC_QUORUM,
  QUORUM_BLKNO,
  QUORUM_BLOCKS,
  SM_SIZE,
  SUPER_BLKNO,
} from "../../../format/constants.ts";
import { EBUSY } from "../../../format/errno.ts";
import type { Device } from "../../device.ts";
import { assert, DeviceError, FsError } from "../../errors.ts";
import { rawU64, viewOf } from "../raw.ts";

/** The super block and the quorum blocks behind it. */
const BLOCKS = QUORUM_BLKNO - SUPER_BLKNO + QUORUM_BLOCKS;
const OFF = SUPER_BLKNO * SM_SIZE;
const END = OFF + BLOCKS * SM_SIZE;

const CHANGED = "was changed by something else while fsck worked on the volume, " +
  "which must not be mounted on any host";

/** Something else writes, or may write, to the volume: nothing more may be. */
export class ChangedError extends FsError {
  constructor(device: string, what: string) {
    super(EBUSY, `${device}: ${what}`);
  }
}

/** The fixed blocks of a metadata device as they must be. */
export class FixedArea {
  /** A block each; null for one that could not be read. */
  readonly #blocks: (Uint8Array | null)[];
  /** Room for them as they are on the device now. */
  readonly #now: Uint8Array;
  /** They have been looked at since the last flush. */
  #looked = false;

  constructor(private readonly meta: Device) {
    this.#now = meta.allocBuffer(END - OFF);
    this.#blocks = this.#read().map((block) => block?.slice() ?? null);
  }

  /** The metadata device of this area, with these guarantees. */
  guardMeta(dev: Device): Device {
    return new GuardedDevice(dev, this, true);
  }

  /** The data device of the same volume. */
  guardData(dev: Device): Device {
    return new GuardedDevice(dev, this, false);
  }

  /** Something is about to be written, to fixed blocks or elsewhere. Throws ChangedError. */
  beforeWrite(fixed: boolean): void {
    if (this.#looked && !fixed) return;
    this.#read().forEach((found, i) => {
      const block = this.#blocks[i] as Uint8Array | null;
      // A sector that has gone bad is nobody's doing.
      if (found === null || block !== null && bytesEqual(block, found)) return;
      const why = block === null ? whyNotTaken(found, i) : CHANGED;
      if (why !== null) {
        const what = i === 0 ? "the super block" : `the block of quorum slot ${i - 1}`;
        throw new ChangedError(this.meta.name, `${what} ${why}`);
      }
      this.#blocks[i] = found.slice();
    });
    this.#looked = true;
  }

  /** We have written `bytes` at `off`; if that failed they may be there or not. */
  wrote(bytes: Uint8Array, off: number, failed: boolean): void {
    const now = failed ? this.#read() : null;
    for (let i = 0; i < BLOCKS; i++) {
      const at = OFF + i * SM_SIZE - off;
      if (at < 0 || at + SM_SIZE > bytes.length) continue;
      const block = now === null ? bytes.subarray(at, at + SM_SIZE) : now[i];
      this.#blocks[i] = block?.slice() ?? null;
    }
  }

  flushed(): void {
    this.#looked = false;
  }

  /** The blocks on the device, null for one that cannot be read; they last until the next call. */
  #read(): (Uint8Array | null)[] {
    const block = (i: number) => this.#now.subarray(i * SM_SIZE, (i + 1) * SM_SIZE);
    const blocks = Array.from({ length: BLOCKS }, (_, i) => block(i));
    if (readInto(this.meta, this.#now, OFF)) return blocks;
    return blocks.map((b, i) => readInto(this.meta, b, OFF + i * SM_SIZE) ? b : null);
  }
}

/**
 * What speaks against taking block `i` as it is now that it can be read, which it could not be at first;
 * null if nothing does. What was decided without the super block is not done over one that is there.
 */
function whyNotTaken(block: Uint8Array, i: number): string | null {
  if (i === 0) return "could not be read at first and can be now: another run makes use of it";
  const v = viewOf(block);
  const inUse = v.getUint32(4, true) === MAGIC_QUORUM && rawU64(v, 40) > rawU64(v, 240);
  return inUse ? "could not be read at first, and says now that a mount is using it" : null;
}

function readInto(dev: Device, buf: Uint8Array, off: number): boolean {
  if (off + buf.length > dev.size) return false;
  try {
    dev.read(buf, off);
  } catch (e) {
    if (e instanceof DeviceError) return false;
    throw e;
  }
  return true;
}

class GuardedDevice implements Device {
  constructor(
    private readonly dev: Device,
    private readonly area: FixedArea,
    private readonly isMeta: boolean,
  ) {}

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
    this.dev.read(buf, off);
  }
  write(buf: Uint8Array, off: number): void {
    if (!this.#isFixed(off, buf.length)) {
      this.area.beforeWrite(false);
      this.dev.write(buf, off);
      return;
    }
    this.area.beforeWrite(true);
    let failed = true;
    try {
      this.dev.write(buf, off);
      failed = false;
    } finally {
      this.area.wrote(buf, off, failed);
    }
  }
  writev(bufs: readonly Uint8Array[], off: number): void {
    assert(!this.#isFixed(off, 1), "fixed blocks are written by themselves");
    this.area.beforeWrite(false);
    this.dev.writev(bufs, off);
  }
  flush(): void {
    this.dev.flush();
    this.area.flushed();
  }
  close(): void {
    this.dev.close();
  }

  #isFixed(off: number, len: number): boolean {
    return this.isMeta && off < END && off + len > OFF;
  }
}
