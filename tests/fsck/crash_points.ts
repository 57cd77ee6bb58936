/** Crashes of work that writes to both devices: every state that a crash in it can leave. */

import type { Device } from "../../fs/device.ts";
import type { MemDevice } from "../../fs/memory_device.ts";

/** How much of each device's record had happened at some moment. */
interface Moment {
  readonly meta: number;
  readonly data: number;
}

/** A device that notes after each write and flush how far both are. */
class Tap implements Device {
  constructor(private readonly dev: MemDevice, private readonly happened: () => void) {}

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
    this.dev.write(buf, off);
    this.happened();
  }
  writev(bufs: readonly Uint8Array[], off: number): void {
    this.dev.writev(bufs, off);
    this.happened();
  }
  flush(): void {
    this.dev.flush();
    this.happened();
  }
  close(): void {
    this.dev.close();
  }
}

/**
 * Runs `work` on the two devices, then calls `visit` with what a crash after each of its writes and
 * flushes leaves: of the pages that were not flushed all, or the even or the odd ones of each device.
 */
export function forEachCrash(
  meta: MemDevice,
  data: MemDevice,
  work: (meta: Device, data: Device) => void,
  visit: (meta: MemDevice, data: MemDevice, name: string) => void,
): { metaWrites: number; dataWrites: number } {
  meta.startRecording();
  data.startRecording();
  const moments: Moment[] = [{ meta: 0, data: 0 }];
  const happened = () => void moments.push({ meta: meta.log.length, data: data.log.length });
  work(new Tap(meta, happened), new Tap(data, happened));
  const keeps = (keep: number) => (_: number, page: number) => keep === 0 || page % 2 === keep - 1;
  for (const [i, at] of moments.entries()) {
    for (const [metaKeep, dataKeep] of [[0, 0], [1, 2], [2, 1]] as const) {
      visit(
        meta.replayKeeping(at.meta, keeps(metaKeep)),
        data.replayKeeping(at.data, keeps(dataKeep)),
        `crash ${i} of ${moments.length} (${metaKeep}, ${dataKeep})`,
      );
    }
  }
  const writes = (dev: MemDevice) => dev.log.filter(({ kind }) => kind === "write").length;
  return { metaWrites: writes(meta), dataWrites: writes(data) };
}
