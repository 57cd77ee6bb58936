/**
 * The data device as the files say it is: their extents in device order, and all the rest, which is
 * free (01 §19 "Data block accounting").
 *
 * Relies on: every leaf of fs_root and the log trees could be read.
 */

import { KEY } from "../../../format/btree_block.ts";
import {
  DATA_DEV_START_BLKNO,
  SEF_UNWRITTEN,
  SM_SIZE,
  TYPE_DATA_EXTENT,
  ZONE_FS,
} from "../../../format/constants.ts";
import { DataExtentVal, extentKey, lastInodeKey } from "../../../format/items.ts";
import type { Key } from "../../../format/key.ts";
import { assert, DeviceError } from "../../errors.ts";
import { BlockOwners } from "../owners.ts";
import type { CheckContext } from "../context.ts";
import type { ServerItems } from "../pass_roots.ts";
import { hiWord, joinWords, loWord, rawU64 } from "../raw.ts";
import { Sorter } from "../sorter.ts";
import { streamItems, type StreamTree } from "../stream.ts";
import { TreeWalk } from "../tree_walk.ts";
import { extentOf } from "../names.ts";
import type { Run } from "./free_blocks.ts";
import type { ItemPatch } from "./item_patch.ts";
import type { Round } from "./round.ts";
import { RunList, type Runs, type RunVisitor } from "./run_list.ts";

const VAL_OFF = 48;
const VAL_LEN = 50;

/**
 * Reads all items once more; returns the maximal runs of data blocks that no file has, which the
 * caller closes.
 */
export function freeDataRuns(cx: CheckContext, items: ServerItems): RunList {
  const sorter = new Sorter({
    words: 4,
    keyWords: 4,
    memory: cx.memory / 4,
    tempDir: cx.tempDir,
  });
  cx.report.muted = true;
  try {
    const quiet = { ...cx, owners: new BlockOwners(cx.metaBlocks), badBlocks: [] };
    const owner = quiet.owners.define("items", false);
    const tree = (root: typeof cx.sb.fsRoot, log: boolean): StreamTree => ({
      walk: new TreeWalk(quiet, root, { what: "items", owner, log }),
      cls: log ? "log" : "fs",
      onLeaf: () => {},
    });
    const trees = [tree(cx.sb.fsRoot, false)];
    for (const { lt } of items.logTrees) trees.push(tree(lt.itemRoot, true));
    streamItems(trees, {
      item(b, item) {
        const v = b.v, key = item + KEY;
        if (v.getUint8(key + 25) !== ZONE_FS || v.getUint8(key + 26) !== TYPE_DATA_EXTENT) return;
        if (v.getUint16(item + VAL_LEN, true) !== 16) return;
        const start = rawU64(v, v.getUint16(item + VAL_OFF, true)), len = rawU64(v, key + 16);
        if (start < DATA_DEV_START_BLKNO || len < 1 || start + len > cx.dataBlocks) return;
        const at = sorter.slot(), buf = sorter.buffer;
        buf[at] = hiWord(start);
        buf[at + 1] = loWord(start);
        buf[at + 2] = hiWord(len);
        buf[at + 3] = loWord(len);
      },
      totl() {},
      stale() {},
    });
    const runs = new RunList(cx.memory / 8, cx.tempDir);
    let end = DATA_DEV_START_BLKNO;
    sorter.forEach((w, at) => {
      const start = joinWords(w[at] as number, w[at + 1] as number);
      if (start > end) runs.push(end, start - end);
      end = Math.max(end, start + joinWords(w[at + 2] as number, w[at + 3] as number));
    });
    if (cx.dataBlocks > end) runs.push(end, cx.dataBlocks - end);
    return runs;
  } finally {
    cx.report.muted = false;
    sorter.close();
  }
}

/** Bytes copied at a time. */
const COPY_BYTES = 1 << 20;
/** Runs among which a long one is looked for. */
const RUNS_LOOKED_AT = 64;

/** Free data blocks that a repair takes some of, the first ones first. Visits what is left of them. */
export class FreeData implements Runs {
  /** The first run of which something may be left. */
  #at = 0;
  /** Blocks taken from the front of runs: of some of the next ones. */
  #taken = new Map<number, number>();
  #left: number;

  constructor(private readonly runs: RunList) {
    this.#left = runs.total;
  }

  get left(): number {
    return this.#left;
  }

  /** Up to `len` blocks in one piece: so many if one of the next runs is that long. */
  take(len: number): Run {
    assert(this.#left > 0, "free data blocks have been counted");
    while (this.#rest(this.#at).len === 0) this.#taken.delete(this.#at++);
    const end = Math.min(this.#at + RUNS_LOOKED_AT, this.runs.length);
    let long = this.#at;
    while (long < end && this.#rest(long).len < len) long++;
    const i = long < end ? long : this.#at, run = this.#rest(i);
    const taken = { start: run.start, len: Math.min(run.len, len) };
    this.#taken.set(i, (this.#taken.get(i) ?? 0) + taken.len);
    this.#left -= taken.len;
    return taken;
  }

  /** Returns what gives back all that is taken from now on. */
  mark(): () => void {
    const at = this.#at, taken = new Map(this.#taken), left = this.#left;
    return () => {
      this.#at = at;
      this.#taken = taken;
      this.#left = left;
    };
  }

  /** What is left of run `i`. */
  #rest(i: number): Run {
    const { start, len } = this.runs.at(i), taken = this.#taken.get(i) ?? 0;
    return { start: start + taken, len: len - taken };
  }

  forEach(visit: RunVisitor): void {
    for (let i = this.#at; i < this.runs.length; i++) {
      const { start, len } = this.#rest(i);
      if (len > 0) visit(start, len);
    }
  }

  close(): void {
    this.runs.close();
  }
}

/**
 * Of two files with the same data blocks the later one gets blocks of its own; the round gets what is
 * free without them.
 */
export class SharedExtents {
  /** Lines for the user. */
  readonly notes: string[] = [];
  #free: FreeData | null = null;
  readonly #done = new Set<string>();

  constructor(private readonly round: Round, private readonly patch: ItemPatch) {}

  /** `owner`: the later one, as a problem names it. False if nothing was changed. */
  mend(owner: string): boolean {
    const extent = extentOf(owner);
    if (extent === null || this.#done.has(owner)) return false;
    this.#done.add(owner);
    const { cx, items } = this.round, { ino, iblock } = extent;
    this.#free ??= new FreeData(freeDataRuns(cx, items));
    this.round.dataRuns = this.#free;
    const copied = copyExtent(cx, this.patch, this.#free, ino, iblock);
    if (copied === "unreadable") {
      this.notes.push(
        `inode ${ino} got no copy of blocks that another file has as well: they cannot be read`,
      );
    }
    if (copied !== true) return false;
    this.notes.push(`inode ${ino} got a copy of blocks that another file has as well`);
    return true;
  }
}

/**
 * Gives the extent of inode `ino` at logical block `iblock` blocks of its own, taken from `free`,
 * with what its blocks hold now. False if there is no such extent, or not enough free space; where its blocks
 * cannot be read all stays as it is.
 */
function copyExtent(
  cx: CheckContext,
  patch: ItemPatch,
  free: FreeData,
  ino: number,
  iblock: number,
): boolean | "unreadable" {
  const found = patch.first(extentKey(ino, iblock, 1), lastInodeKey(ino, TYPE_DATA_EXTENT));
  if (found === null || found.val.length !== 16) return false;
  const end = found.key.second, len = found.key.third, first = end - len + 1;
  const old = DataExtentVal.at(found.val);
  if (first > iblock || old.blkno === 0 || old.blkno + len > cx.dataBlocks) return false;
  if (free.left < len) return false;
  const giveBack = free.mark(), pieces: { key: Key; val: Uint8Array }[] = [];
  for (let done = 0; done < len;) {
    const { start, len: count } = free.take(len - done);
    if ((old.flags & SEF_UNWRITTEN) === 0 && !copyBlocks(cx, old.blkno + done, start, count)) {
      giveBack();
      return "unreadable";
    }
    const val = DataExtentVal.alloc();
    val.blkno = start;
    val.flags = old.flags;
    pieces.push({ key: extentKey(ino, first + done + count - 1, count), val: val.bytes });
    done += count;
  }
  patch.remove(found.key);
  for (const { key, val } of pieces) patch.set(key, val);
  return true;
}

/** False if they cannot be read. */
function copyBlocks(cx: CheckContext, from: number, to: number, count: number): boolean {
  const step = COPY_BYTES / SM_SIZE;
  for (let done = 0; done < count; done += step) {
    const n = Math.min(step, count - done);
    const buf = cx.data.allocBuffer(n * SM_SIZE);
    try {
      cx.data.read(buf, (from + done) * SM_SIZE);
    } catch (e) {
      if (!(e instanceof DeviceError)) throw e;
      return false;
    }
    cx.data.write(buf, (to + done) * SM_SIZE);
  }
  return true;
}
