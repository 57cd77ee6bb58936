/**
 * The devices of a volume that is to be checked: opened for fsck alone, not obviously the wrong ones,
 * and shown to be unused.
 */

import { bytesEqual } from "../format/bytes.ts";
import { EINVAL, EIO, EROFS } from "../format/errno.ts";
import type { SuperBlock } from "../format/super.ts";
import { evidenceOfUse, runningMounts } from "../fs/check/in_use.ts";
import type { Device } from "../fs/device.ts";
import { DeviceError, FsError } from "../fs/errors.ts";
import { findSignature, type Signature } from "../fs/signatures.ts";
import { SystemRandom } from "../fs/sys/clock.ts";
import { type BlockDevice, openDevice } from "../fs/sys/device.ts";
import { readRawSuper, readSuperBlock } from "../fs/volume.ts";
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

/** Runs something with both devices open. Throws FsError. */
export async function withDevices<T>(
  { meta, data, write, exclusive }: DevicePaths,
  run: (meta: BlockDevice, data: BlockDevice) => T | Promise<T>,
): Promise<T> {
  if (isSame(meta, data)) {
    throw new FsError(EINVAL, `${meta} and ${data} are the same device: a volume has two`);
  }
  const metaDev = openDevice(meta, { write, exclusive });
  try {
    const dataDev = openDevice(data, { write, exclusive });
    try {
      const readOnly = write ? [metaDev, dataDev].find((dev) => dev.isReadOnly()) : undefined;
      if (readOnly !== undefined) {
        const why = "is read-only: nothing can be mended, -n only checks it";
        throw new FsError(EROFS, `${readOnly.name}: ${why}`);
      }
      return await run(metaDev, dataDev);
    } finally {
      dataDev.close();
    }
  } finally {
    metaDev.close();
  }
}

/** Throws FsError if a device has become smaller since it was opened. */
function mustHaveItsSize(dev: BlockDevice): void {
  const now = dev.sizeNow();
  if (now >= dev.size) return;
  throw new FsError(
    EIO,
    `${dev.name}: was cut short while fsck worked on it: it had ${dev.size} bytes, ${now} are left`,
  );
}

/**
 * Shows after a check that it was one of devices that stayed what they were: without that, what it
 * found says nothing about the volume.
 */
export class Constancy {
  readonly #readable: readonly BlockDevice[];

  constructor(private readonly devices: readonly BlockDevice[]) {
    this.#readable = devices.filter(hasReadableSuper);
  }

  /** Throws FsError if one is cut short or has gone. */
  mustHold(): void {
    for (const dev of this.devices) mustHaveItsSize(dev);
    for (const dev of this.#readable) {
      if (hasReadableSuper(dev)) continue;
      throw new FsError(
        EIO,
        `${dev.name}: its super block could be read at first, and cannot be read any more`,
      );
    }
  }
}

function hasReadableSuper(dev: BlockDevice): boolean {
  try {
    readRawSuper(dev);
    return true;
  } catch (e) {
    if (e instanceof FsError) return false;
    throw e;
  }
}

function isSame(a: string, b: string): boolean {
  try {
    const [x, y] = [Deno.statSync(a), Deno.statSync(b)];
    if (x.isBlockDevice && y.isBlockDevice) return x.rdev === y.rdev;
    return x.dev === y.dev && x.ino === y.ino;
  } catch {
    return false; // Opening it says what is wrong.
  }
}

/**
 * Why these are certainly not the two devices of one volume, in this order: swapped, of two volumes,
 * or one without a super block that holds something else. Null when they may be.
 */
export function reasonAgainstPair(meta: BlockDevice, data: BlockDevice): string | null {
  const [m, d] = [superOf(meta), superOf(data)];
  if (m?.isMetaDev === false && d?.isMetaDev === true) {
    return `${meta.name} is the data device, ${data.name} the metadata device: name them in this order: ` +
      `${data.name} ${meta.name}`;
  }
  if (m !== null && d !== null && m.hdr.fsid !== d.hdr.fsid && !bytesEqual(m.uuid, d.uuid)) {
    return `${meta.name} and ${data.name} belong to different volumes`;
  }
  for (const dev of [meta, data]) {
    const found = signatureOf(dev);
    if (found !== undefined && found.kind !== "scoutfs") {
      return `${dev.name}: has no super block of scoutfs, but seems to hold ${found.type}; ` +
        "if it is the right device all the same, --force goes on";
    }
  }
  return null;
}

/** What a device seems to hold; nothing when its beginning cannot be read. */
function signatureOf(dev: BlockDevice): Signature | undefined {
  try {
    return findSignature(dev);
  } catch (e) {
    if (e instanceof DeviceError) return undefined;
    throw e;
  }
}

/** The super block; null without one that can be believed. */
function superOf(dev: BlockDevice): SuperBlock | null {
  try {
    return readSuperBlock(dev);
  } catch (e) {
    if (e instanceof FsError) return null;
    throw e;
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

/**
 * A device that remembers whether anything was written to it. One that is cut short meanwhile is not
 * written any more: what is missing of it would be taken for lost, and mended.
 */
export class NotedWrites implements Device {
  written = false;

  constructor(private readonly dev: BlockDevice) {}

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
    this.#begin();
    this.dev.write(buf, off);
  }
  writev(bufs: readonly Uint8Array[], off: number): void {
    this.#begin();
    this.dev.writev(bufs, off);
  }
  flush(): void {
    this.dev.flush();
  }
  close(): void {
    this.dev.close();
  }

  #begin(): void {
    mustHaveItsSize(this.dev);
    this.written = true;
  }
}
