/** Mount options (05 §3.2): defaults, ranges, parsing, and what /proc/mounts-like listings show. */

import { EINVAL, ERANGE } from "../format/errno.ts";
import { FsError } from "./errors.ts";

/** Options of one mount. The engine reads those that may change at run time at every use. */
export interface MountOptions {
  /** POSIX ACLs are enforced and can be set. */
  acl: boolean;
  /** Data preallocation in 4 KiB blocks. */
  dataPreallocBlocks: number;
  /** Preallocate only for streaming appends; else aligned regions. */
  dataPreallocContigOnly: boolean;
  /** Inode numbers used out of each lock group of 1024. */
  inoAllocPerLock: number;
  /** Cluster locks beyond this number are given up when idle. */
  lockIdleCount: number;
  /** How long our server waits for other mounts' commits before a log merge, ms. */
  logMergeWaitTimeoutMs: number;
  /** Path of the metadata device. */
  metadevPath: string;
  /** Average delay between scans for orphans, ms. */
  orphanScanDelayMs: number;
  /** Silence after which this quorum member starts an election, ms. */
  quorumHeartbeatTimeoutMs: number;
  /** −1: not a quorum member. */
  quorumSlotNr: number;
  tcpKeepaliveTimeoutMs: number;
  /** The administrator vouches that every former mount is dead. */
  assumeFenced: boolean;
  /** Command that fences a mount (net/fence_agents.ts, FenceHook); "": none. */
  fenceRun: string;
  /** Its arguments. */
  fenceRunArgs: string[];
  /** Generic mount flags (`ro`, `nosuid`, …), not interpreted here. */
  vfs: string[];
}

export const DEFAULT_MOUNT_OPTIONS: Readonly<MountOptions> = {
  acl: true,
  dataPreallocBlocks: 2048,
  dataPreallocContigOnly: true,
  inoAllocPerLock: 1024,
  lockIdleCount: 10000,
  logMergeWaitTimeoutMs: 500,
  metadevPath: "",
  orphanScanDelayMs: 10000,
  quorumHeartbeatTimeoutMs: 10000,
  quorumSlotNr: -1,
  tcpKeepaliveTimeoutMs: 24000,
  assumeFenced: false,
  fenceRun: "",
  fenceRunArgs: [],
  vfs: [],
};

/** Memory that the engine may use; not visible as mount options. */
export interface EngineLimits {
  /** Cached items; the dirty ones may exceed it. */
  itemCacheBytes: number;
  /** Dirty items, as bytes in leaves, at which holds wait for a commit. */
  dirtyItemBytes: number;
  /** Clean metadata blocks. */
  blockCacheBytes: number;
  /** Clean file data. */
  dataCacheBytes: number;
}

export const DEFAULT_ENGINE_LIMITS: Readonly<EngineLimits> = {
  itemCacheBytes: 128 << 20,
  dirtyItemBytes: 32 << 20,
  blockCacheBytes: 128 << 20,
  dataCacheBytes: 256 << 20,
};

type NumberField = {
  [K in keyof MountOptions]: MountOptions[K] extends number ? K : never;
}[keyof MountOptions];

interface NumberOption {
  readonly field: NumberField;
  readonly min: number;
  readonly max: number;
  /** Giving it twice is an error. */
  readonly once?: boolean;
}

const NUMBERS = new Map<string, NumberOption>([
  ["data_prealloc_blocks", { field: "dataPreallocBlocks", min: 1, max: 4503599627370495 }],
  ["ino_alloc_per_lock", { field: "inoAllocPerLock", min: 1, max: 1024 }],
  ["lock_idle_count", { field: "lockIdleCount", min: 32, max: 100000 }],
  ["log_merge_wait_timeout_ms", { field: "logMergeWaitTimeoutMs", min: 100, max: 60000 }],
  ["orphan_scan_delay_ms", { field: "orphanScanDelayMs", min: 100, max: 60000, once: true }],
  ["quorum_heartbeat_timeout_ms", { field: "quorumHeartbeatTimeoutMs", min: 2000, max: 60000 }],
  ["quorum_slot_nr", { field: "quorumSlotNr", min: 0, max: 14, once: true }],
  ["tcp_keepalive_timeout_ms", { field: "tcpKeepaliveTimeoutMs", min: 3001, max: 2147483647 }],
]);

const VFS_FLAGS = new Set(
  ("ro rw suid nosuid dev nodev exec noexec atime noatime diratime nodiratime relatime norelatime " +
    "strictatime nostrictatime lazytime nolazytime sync async dirsync mand nomand silent loud " +
    "defaults auto noauto user nouser users owner group _netdev nofail").split(" "),
);

/**
 * Parses `name=value,flag,…`. Throws FsError (EINVAL or ERANGE) with one line that names the option.
 * `metadev_path` is checked by `requireMetadev`.
 */
export function parseMountOptions(text: string): MountOptions {
  const options: MountOptions = { ...DEFAULT_MOUNT_OPTIONS, fenceRunArgs: [], vfs: [] };
  const seen = new Set<string>();
  for (const part of text.split(",")) {
    if (part === "") continue;
    const eq = part.indexOf("=");
    const name = eq < 0 ? part : part.slice(0, eq);
    const value = eq < 0 ? null : part.slice(eq + 1);
    const number = NUMBERS.get(name);
    if (number !== undefined) {
      if (number.once === true && seen.has(name)) {
        throw new FsError(EINVAL, `mount option ${name} is given twice`);
      }
      options[number.field] = parseNumber(name, value, number.min, number.max);
    } else if (name === "data_prealloc_contig_only") {
      options.dataPreallocContigOnly = parseNumber(name, value, 0, 1) === 1;
    } else if (name === "metadev_path") {
      if (value === null || value === "") {
        throw new FsError(EINVAL, "mount option metadev_path needs a path");
      }
      options.metadevPath = value;
    } else if (name === "fence_run") {
      if (value === null || !value.startsWith("/")) {
        throw new FsError(EINVAL, "mount option fence_run needs the absolute path of a command");
      }
      options.fenceRun = value;
    } else if (name === "fence_run_args") {
      options.fenceRunArgs = (value ?? "").split(/\s+/).filter((arg) => arg !== "");
    } else if (value !== null) {
      throw new FsError(EINVAL, unknown(name, true));
    } else if (name === "acl" || name === "noacl") {
      options.acl = name === "acl";
    } else if (name === "assume_fenced") {
      options.assumeFenced = true;
    } else if (VFS_FLAGS.has(name)) {
      options.vfs.push(name);
    } else {
      throw new FsError(EINVAL, unknown(name, false));
    }
    seen.add(name);
  }
  return options;
}

function unknown(name: string, valued: boolean): string {
  const flag = name === "acl" || name === "noacl" || name === "assume_fenced" ||
    VFS_FLAGS.has(name);
  return valued && flag
    ? `mount option ${name} takes no value`
    : `unknown mount option ${JSON.stringify(name)}`;
}

/** Throws EINVAL when the metadata device was not named. */
export function requireMetadev(options: MountOptions): void {
  if (options.metadevPath === "") {
    throw new FsError(EINVAL, "the mount option metadev_path=PATH is required");
  }
}

/** Decimal, 0x hexadecimal or 0 octal. */
function parseNumber(name: string, text: string | null, min: number, max: number): number {
  if (text === null || text === "") {
    throw new FsError(EINVAL, `mount option ${name} needs a number`);
  }
  let n = NaN;
  if (/^0[xX][0-9a-fA-F]+$/.test(text)) n = Number(text);
  else if (/^0[0-7]*$/.test(text)) n = parseInt(text, 8);
  else if (/^[1-9][0-9]*$/.test(text)) n = Number(text);
  if (Number.isNaN(n)) {
    throw new FsError(EINVAL, `mount option ${name}: ${JSON.stringify(text)} is not a number`);
  }
  if (!Number.isSafeInteger(n)) {
    throw new FsError(ERANGE, `mount option ${name}: ${text} is too large`);
  }
  if (n < min || n > max) {
    throw new FsError(EINVAL, `mount option ${name}: ${n} is not between ${min} and ${max}`);
  }
  return n;
}

/** The options as /proc/mounts shows them in the reference (05 §3.3), without a leading comma. */
export function showMountOptions(o: MountOptions): string {
  const shown: string[] = [];
  if (o.acl) shown.push("acl");
  shown.push(`data_prealloc_blocks=${o.dataPreallocBlocks}`);
  shown.push(`data_prealloc_contig_only=${o.dataPreallocContigOnly ? 1 : 0}`);
  shown.push(`ino_alloc_per_lock=${o.inoAllocPerLock}`);
  shown.push(`metadev_path=${o.metadevPath}`);
  if (!o.acl) shown.push("noacl");
  shown.push(`orphan_scan_delay_ms=${o.orphanScanDelayMs}`);
  if (o.quorumSlotNr >= 0) shown.push(`quorum_slot_nr=${o.quorumSlotNr}`);
  shown.push(`tcp_keepalive_timeout_ms=${o.tcpKeepaliveTimeoutMs}`);
  return shown.join(",");
}
