/**
 * The mount's directory of control files (05 §4.1, §4.2, §4.4) below the runtime directory, which
 * stands for /sys: `fs/scoutfs/f.FFFFFF.r.RRRRRR/`. What is here describes the mount and cannot be
 * written yet; fence requests appear in the same directory (net/fence_agents.ts).
 */

import type { MountOptions } from "../../fs/options.ts";

export interface ControlFacts {
  readonly fsid: string;
  readonly rid: string;
  readonly fmtVers: number;
  /** MAJ:MIN of the data device; of an image file, of the device that it lies on. */
  readonly dataDevice: string;
  readonly options: MountOptions;
}

export const controlDir = (runtimeDir: string, name: string): string =>
  `${runtimeDir}/fs/scoutfs/${name}`;

export function writeControlTree(runtimeDir: string, name: string, facts: ControlFacts): void {
  const dir = controlDir(runtimeDir, name);
  const file = (path: string, content: string): void =>
    Deno.writeTextFileSync(`${dir}/${path}`, content, { mode: 0o444 });
  Deno.mkdirSync(`${dir}/mount_options`, { recursive: true });
  file("data_device_maj_min", `${facts.dataDevice}\n`);
  file("format_version", `${facts.fmtVers}\n`);
  file("fsid", `${facts.fsid}\n`);
  file("rid", `${facts.rid}\n`);
  const o = facts.options;
  const values: Record<string, string | number> = {
    data_prealloc_blocks: o.dataPreallocBlocks,
    data_prealloc_contig_only: o.dataPreallocContigOnly ? 1 : 0,
    ino_alloc_per_lock: o.inoAllocPerLock,
    lock_idle_count: o.lockIdleCount,
    log_merge_wait_timeout_ms: o.logMergeWaitTimeoutMs,
    metadev_path: o.metadevPath,
    orphan_scan_delay_ms: o.orphanScanDelayMs,
    quorum_heartbeat_timeout_ms: o.quorumHeartbeatTimeoutMs,
    quorum_slot_nr: `${o.quorumSlotNr}\n`,
  };
  for (const [option, value] of Object.entries(values)) file(`mount_options/${option}`, `${value}`);
}

/** Replaces `quorum/FILE` as a whole: `is_leader` ("1" or "0") or `status` (05 §4.4). */
export function writeQuorumFile(
  runtimeDir: string,
  name: string,
  file: "is_leader" | "status",
  content: string,
): void {
  const dir = `${controlDir(runtimeDir, name)}/quorum`;
  try {
    Deno.mkdirSync(dir, { recursive: true });
    Deno.writeTextFileSync(`${dir}/.${file}`, content, { mode: 0o444 });
    Deno.renameSync(`${dir}/.${file}`, `${dir}/${file}`);
  } catch {
    // A runtime directory that is full or gone must not end a mount; the file is old, or missing.
  }
}
