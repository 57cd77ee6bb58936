/** The devices of a volume that is to be checked: opened for fsck alone, and shown to be unused. */

import { evidenceOfUse, runningMounts } from "../fs/check/in_use.ts";
import type { Device } from "../fs/device.ts";
import { FsError } from "../fs/errors.ts";
import { SystemRandom } from "../fs/sys/clock.ts";
import { type BlockDevice, openDevice } from "../fs/sys/device.ts";
import { readSuperBlock } from "../fs/volume.ts";
import { HostRecords } from "../net/host_record.ts";
import { MountedClientsReader } from "../net/mounted_clients.ts";
import { stateDir } from "./mount/paths.ts";

export interface DevicePaths {
  readonly meta: string;
  readonly data: string;
  readonly write: boolean;
  /** Refuse what anything else on this host uses. */
  readonly exclusive: boolean;
}

/** Runs something with both devices open. Throws DeviceError. */
export async function withDevices<T>(
  { meta, data, write, exclusive }: DevicePaths,
  run: (meta: BlockDevice, data: BlockDevice) => T | Promise<T>,
): Promise<T> {
  const metaDev = openDevice(meta, { write, exclusive });
  try {
    const dataDev = openDevice(data, { write, exclusive });
    try {
      return await run(metaDev, dataDev);
    } finally {
      dataDev.close();
    }
  } finally {
    metaDev.close();
  }
}

/** What is known of the use of a volume. */
export interface Use {
  /** Why it may be mounted somewhere, a line each; none: it is not. */
  readonly reasons: readonly string[];
  /** All mounts that the volume speaks of ran on this host, and their processes are gone. */
  readonly ended: boolean;
}

export function useOf(meta: BlockDevice): Use {
  const reasons = evidenceOfUse(meta);
  return { reasons, ended: reasons.length > 0 && provablyUnused(meta) };
}

function provablyUnused(meta: BlockDevice): boolean {
  try {
    const { fsid } = readSuperBlock(meta).hdr;
    const records = new HostRecords(stateDir(), fsid);
    const rids = [
      ...new MountedClientsReader(meta, fsid, new SystemRandom()).rids(),
      ...runningMounts(meta),
    ];
    return rids.every((rid) => records.provablyDead(rid));
  } catch (e) {
    if (e instanceof FsError) return false;
    throw e;
  }
}

/** A device that remembers whether anything was written to it. */
export class NotedWrites implements Device {
  written = false;

  constructor(private readonly dev: Device) {}

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
    this.written = true;
    this.dev.write(buf, off);
  }
  writev(bufs: readonly Uint8Array[], off: number): void {
    this.written = true;
    this.dev.writev(bufs, off);
  }
  flush(): void {
    this.dev.flush();
  }
  close(): void {
    this.dev.close();
  }
}
