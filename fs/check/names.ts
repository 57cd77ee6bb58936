/**
 * The names of a volume's structures: made here by the passes, for messages and as owners of blocks,
 * and recognised here by repair. A name is the field's name in the specification, with the names of
 * what it is part of: "free in meta_freed of log tree 0123456789abcdef.2".
 *
 * Names are unique within a volume, so that a problem's name leads back to the structure.
 */

import { ZONE_LOG_MERGE_FREEING } from "../../format/constants.ts";
import type { Key } from "../../format/key.ts";
import { hex16 } from "./raw.ts";

export const FS_ROOT = "fs_root";
export const DATA_ALLOC = "data_alloc";
export const LOG_MERGE = "log_merge";

/** The server's btrees, each an entry of the super block. */
export type ServerTree = "logs_root" | "srch_root" | "log_merge" | "mounted_clients";
const SERVER_TREES: ReadonlySet<string> = new Set<ServerTree>([
  "logs_root",
  "srch_root",
  "log_merge",
  "mounted_clients",
]);
export const isServerTree = (name: string): name is ServerTree => SERVER_TREES.has(name);

// Log trees.

export const logTreeName = (rid: bigint, nr: bigint): string => `log tree ${hex16(rid)}.${nr}`;
export const itemsOf = (logTree: string): string => `items of ${logTree}`;
export const bloomOf = (logTree: string): string => `bloom block of ${logTree}`;
/** The log tree that a name of it, of its items or of its bloom block means; others as they are. */
export const logTreeOf = (name: string): string =>
  name.replace(/^(items|bloom block) of (?=log tree )/, "");
export const isBloom = (name: string): boolean => name.startsWith("bloom block of ");
/** Whether a tree holds items of the filesystem: fs_root or a log tree. */
export const isItemTree = (name: string): boolean =>
  name === FS_ROOT || name.startsWith("items of log tree ") || name.startsWith("log tree ");

// Search.

export const searchFile = (sorted: boolean, root: number): string =>
  `search ${sorted ? "file" : "log"} ${root}`;
export const searchLogOf = (logTree: string): string => `search log of ${logTree}`;
export const compactionName = (id: number): string => `compaction ${id}`;
export const outputOf = (compaction: string): string => `output of ${compaction}`;
export const inputOf = (compaction: string, i: number): string => `input ${i} of ${compaction}`;
export const isCompaction = (name: string): boolean => /compaction \d+$/.test(name);
export const isSearch = (name: string): boolean =>
  /^(search |output of compaction|input \d+ of compaction)/.test(name);

// The items of a log merge, by their keys.

export const mergeItem = (key: Key): string => `merge item ${key}`;
export const isMergeItem = (name: string): boolean => name.startsWith("merge item ");
/** Whether a name is that of a merge item in `zone`. */
export const isMergeItemOf = (name: string, zone: number): boolean =>
  name.startsWith(`merge item ${zone}.`);

// Allocators. Lists and trees of extents have the same names.

export type AllocField = "meta_avail" | "meta_freed" | "data_avail" | "data_freed";
export const allocOf = (field: AllocField, owner: string): string => `${field} of ${owner}`;
export const serverList = (field: "meta_avail" | "meta_freed", i: number): string =>
  `server_${field}[${i}]`;
export const metaAllocName = (i: number): string => `meta_alloc[${i}]`;
/** Blocks that a list of free blocks is made of. */
export const listBlockOf = (list: string): string => `list block of ${list}`;
/** Blocks that an allocator says are free. */
export const freeIn = (allocator: string): string => `free in ${allocator}`;

/** The allocator that a name of it, of its blocks or of what is free in it means, else null. */
function allocatorOf(name: string): "meta" | "data" | null {
  const m = /^(?:list block of |free in )?(?:server_)?(meta|data)_(?:alloc|avail|freed)\b/.exec(
    name,
  );
  return m === null ? null : m[1] as "meta" | "data";
}

export const isAllocator = (name: string): boolean => allocatorOf(name) !== null;
/** Whether it says which data blocks are free. */
export const isDataAllocator = (name: string): boolean => allocatorOf(name) === "data";
/** Whether it says which metadata blocks are free: allocators, and trees that are being freed. */
export const listsFreeMetadata = (name: string): boolean =>
  allocatorOf(name) === "meta" || isMergeItemOf(name, ZONE_LOG_MERGE_FREEING);

// Files.

export const extentName = (ino: number, iblock: number): string =>
  `inode ${ino} at block ${iblock}`;
/** Inode and logical block of the extent that a name means, else null. */
export function extentOf(name: string): { ino: number; iblock: number } | null {
  const m = /^inode (\d+) at block (\d+)$/.exec(name);
  return m === null ? null : { ino: Number(m[1]), iblock: Number(m[2]) };
}
