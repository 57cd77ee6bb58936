/** `scoutfs df`: used and free space of the two devices (05 §12.1). */

import { LG_SIZE, SM_SIZE } from "../format/constants.ts";
import { EIO, EOVERFLOW, strerror } from "../format/errno.ts";
import {
  IOC_ALLOC_DETAIL,
  IOC_ALLOC_DETAIL_META,
  IOC_STATFS_MORE,
  IocAllocDetail,
  IocAllocDetailEntry,
  IocStatfsMore,
} from "../format/ioctl.ts";
import { FsError } from "../fs/errors.ts";
import type { CommandSpec } from "./command.ts";
import { IoctlError, mountPath, OpenPath, pointerTo } from "./ioctl.ts";
import { printLine } from "./output.ts";
import { formatSize } from "./sizes.ts";

/** Space of one device, in blocks of `blockSize` bytes. */
export interface Space {
  type: "MetaData" | "Data";
  blockSize: number;
  total: number;
  used: number;
  free: number;
  /** Whole percent. */
  usedPercent: number;
}

/** Blocks in all pools of one kind. */
export interface FreeBlocks {
  meta: number;
  data: number;
}

/** What df reports: the reserve does not count as free metadata space. */
export function computeSpace(st: IocStatfsMore, free: FreeBlocks): [Space, Space] {
  const row = (
    type: Space["type"],
    blockSize: number,
    total: number,
    freeBlocks: number,
  ): Space => {
    const used = total - freeBlocks;
    const usedPercent = total === 0 ? 0 : Math.trunc(used * 100 / total);
    return { type, blockSize, total, used, free: freeBlocks, usedPercent };
  };
  const metaFree = Math.max(0, free.meta - st.reservedMetaBlocks);
  return [
    row("MetaData", LG_SIZE, st.totalMetaBlocks, metaFree),
    row("Data", SM_SIZE, st.totalDataBlocks, free.data),
  ];
}

/** The table: every column right-aligned to its widest cell and followed by two spaces. */
export function formatSpace(rows: readonly Space[], human: boolean): string[] {
  const blocks = (r: Space, n: number) => human ? formatSize(n * r.blockSize) : `${n}`;
  const cells = [
    ["Type", "Size", "Total", "Used", "Free", "Use%"],
    ...rows.map((r) => [
      r.type,
      `${r.blockSize / 1024}KB`,
      blocks(r, r.total),
      blocks(r, r.used),
      blocks(r, r.free),
      `${r.usedPercent}`,
    ]),
  ];
  const widths = cells[0]!.map((_, i) => Math.max(...cells.map((row) => row[i]!.length)));
  return cells.map((row) => row.map((cell, i) => cell.padStart(widths[i]!) + "  ").join(""));
}

function statfsMore(path: OpenPath): IocStatfsMore {
  const st = IocStatfsMore.alloc();
  try {
    path.ioctl(IOC_STATFS_MORE, st.bytes);
  } catch (e) {
    if (!(e instanceof IoctlError)) throw e;
    const { errno } = e;
    throw new FsError(EIO, `statfs_more returned -1: error ${strerror(errno)} (${errno})`);
  }
  return st;
}

/** Sums all pools; the buffer grows until they fit. */
function freeBlocks(path: OpenPath): FreeBlocks {
  for (let nr = 1024;; nr *= 2) {
    const entries = new Uint8Array(nr * IocAllocDetailEntry.SIZE);
    const arg = IocAllocDetail.alloc();
    arg.entriesPtr = pointerTo(entries);
    arg.entriesNr = BigInt(nr);
    let count: number;
    try {
      count = path.ioctl(IOC_ALLOC_DETAIL, arg.bytes);
    } catch (e) {
      if (e instanceof IoctlError && e.errno === EOVERFLOW) continue;
      throw e;
    }
    const free: FreeBlocks = { meta: 0, data: 0 };
    for (let i = 0; i < count; i++) {
      const entry = IocAllocDetailEntry.at(entries, i * IocAllocDetailEntry.SIZE);
      free[(entry.flags & IOC_ALLOC_DETAIL_META) !== 0 ? "meta" : "data"] += entry.blocks;
    }
    return free;
  }
}

export const command: CommandSpec = {
  setup(c) {
    c.option("-h, --human-readable", "print sizes with units instead of blocks")
      .option("-p, --path <path>", "any path of the mount (default: current directory)")
      .option("--json", "print one JSON array")
      .action((options) => {
        using path = new OpenPath(mountPath(options.path));
        const rows = computeSpace(statfsMore(path), freeBlocks(path));
        if (options.json) printLine(JSON.stringify(rows));
        else for (const line of formatSpace(rows, options.humanReadable === true)) printLine(line);
      });
  },
};
