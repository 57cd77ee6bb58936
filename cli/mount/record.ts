/**
 * The record of a running mount: who serves what where, for people, tools and later mounts of the
 * same images. One JSON file per mount below the runtime directory, removed at its end.
 */

import { errnoOf, FsError } from "../../fs/errors.ts";
import { mountTable } from "../../fs/fuse/mount.ts";
import { controlDir } from "./control_tree.ts";
import { EBUSY } from "../../format/errno.ts";
import { isRunning } from "../../net/host_record.ts";

export interface MountRecord {
  /** f.FFFFFF.r.RRRRRR */
  readonly name: string;
  readonly pid: number;
  /** Absolute paths. */
  readonly meta: string;
  readonly data: string;
  readonly mountpoint: string;
  readonly fsid: string;
  readonly rid: string;
}

/** How long a mount waits for an earlier mount of its devices that is about to end. */
const ENDING_MS = 60_000;

const dirOf = (runtimeDir: string) => `${runtimeDir}/mounts`;

export function writeRecord(runtimeDir: string, record: MountRecord): void {
  Deno.mkdirSync(dirOf(runtimeDir), { recursive: true });
  const path = `${dirOf(runtimeDir)}/${record.name}.json`;
  Deno.writeTextFileSync(`${path}.new`, JSON.stringify(record) + "\n");
  Deno.renameSync(`${path}.new`, path);
}

export function removeRecord(runtimeDir: string, name: string): void {
  removeIfThere(`${dirOf(runtimeDir)}/${name}.json`);
}

/** The mount's directory of control files (05 §4), fence requests among them. */
export function removeControlTree(runtimeDir: string, name: string): void {
  removeIfThere(controlDir(runtimeDir, name));
}

function removeIfThere(path: string): void {
  try {
    Deno.removeSync(path, { recursive: true });
  } catch (e) {
    if (!(e instanceof Deno.errors.NotFound)) throw e;
  }
}

/** The records of mounts whose process is alive. */
export function liveRecords(runtimeDir: string): MountRecord[] {
  return allRecords(runtimeDir).filter((r) => isRunning(r.pid));
}

/** Removes what mounts that were killed left in the runtime directory. */
export function sweepDead(runtimeDir: string): void {
  for (const { name, pid } of allRecords(runtimeDir)) {
    if (isRunning(pid)) continue;
    removeRecord(runtimeDir, name);
    removeControlTree(runtimeDir, name);
  }
}

function allRecords(runtimeDir: string): MountRecord[] {
  let entries: Deno.DirEntry[];
  try {
    entries = [...Deno.readDirSync(dirOf(runtimeDir))];
  } catch {
    return []; // No mount was ever made.
  }
  const records: MountRecord[] = [];
  for (const { name } of entries) {
    if (!name.endsWith(".json")) continue;
    try {
      records.push(JSON.parse(Deno.readTextFileSync(`${dirOf(runtimeDir)}/${name}`)));
    } catch {
      continue; // It ended while we looked, or was torn by a crash.
    }
  }
  return records;
}

/**
 * Runs `open`, which fails with EBUSY while the device is used. An earlier mount of it on this host
 * that is unmounted already, but still commits, is waited for; any other user is an error at once,
 * with the mount that has it if it is one of ours.
 */
export async function openWhenFree<T>(
  runtimeDir: string,
  path: string,
  open: () => T,
): Promise<T> {
  const until = performance.now() + ENDING_MS;
  for (;;) {
    try {
      return open();
    } catch (e) {
      if (errnoOf(e) !== EBUSY) throw e;
      const user = liveRecords(runtimeDir).find((r) => r.meta === path || r.data === path);
      // One that ended between the attempt and this look has freed it, and took its record away then.
      if (user === undefined) return open();
      const mounted = mountTable().some((m) => m.target === user.mountpoint);
      if (mounted || performance.now() > until) {
        throw new FsError(
          EBUSY,
          `${path}: in use: mounted at ${user.mountpoint} by process ${user.pid}`,
        );
      }
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}
