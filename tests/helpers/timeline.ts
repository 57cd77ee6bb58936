/** Two recording devices and the order of what was done to both: a volume that can crash at any point. */

import { MemDevice } from "../../fs/memory_device.ts";

/** How much of each device's record had been written at a point. */
interface Point {
  readonly meta: number;
  readonly data: number;
}

class TimedDevice extends MemDevice {
  onChange: () => void = () => {};

  override writev(bufs: readonly Uint8Array[], off: number): void {
    super.writev(bufs, off);
    this.onChange();
  }

  override flush(): void {
    super.flush();
    this.onChange();
  }
}

export class Timeline {
  readonly meta: MemDevice;
  readonly data: MemDevice;
  readonly #points: Point[] = [{ meta: 0, data: 0 }];

  private constructor(meta: TimedDevice, data: TimedDevice) {
    this.meta = meta;
    this.data = data;
    const note = () => this.#points.push({ meta: meta.log.length, data: data.log.length });
    meta.onChange = data.onChange = note;
    meta.startRecording();
    data.startRecording();
  }

  /** Blank devices. */
  static blank(metaBytes: number, dataBytes: number): Timeline {
    return new Timeline(
      new TimedDevice(metaBytes, { name: "meta" }),
      new TimedDevice(dataBytes, { name: "data" }),
    );
  }

  /** Goes on from the content of two devices. */
  static from(meta: MemDevice, data: MemDevice): Timeline {
    return new Timeline(copyOf(meta), copyOf(data));
  }

  /** Writes and flushes of both devices so far: a crash can come after each. */
  get length(): number {
    return this.#points.length - 1;
  }

  /**
   * What a crash after `point` operations leaves when of the pages not yet flushed those stay for
   * which `keep` says so.
   */
  crash(point: number, keep: () => boolean): { meta: MemDevice; data: MemDevice } {
    const at = this.#points[point]!;
    return {
      meta: this.meta.replayKeeping(at.meta, keep),
      data: this.data.replayKeeping(at.data, keep),
    };
  }
}

function copyOf(dev: MemDevice): TimedDevice {
  const copy = new TimedDevice(dev.size, { name: dev.name });
  dev.copyTo(copy);
  return copy;
}
