/**
 * Pass 2: search files (01 §14): those of srch_root, of log trees, and what compactions own.
 *
 * Relies on: the items of pass 1.
 * Guarantees: every block of every search file is claimed once; each file's radix is complete and
 * its counts and bounds are those of its entries; all entries that count have been told to `entry`;
 * the output of a compaction is what it says to have consumed of its inputs.
 */

import {
  MAGIC_SRCH_BLOCK,
  MAGIC_SRCH_PARENT,
  SRCH_BLOCK_ENTRIES_BYTES,
  SRCH_BLOCK_SAFE_BYTES,
  SRCH_COMPACT_DELETE,
  SRCH_COMPACT_NR,
  SRCH_COMPACT_SORTED,
  SRCH_PARENT_REFS,
} from "../../format/constants.ts";
import {
  decodeSrchEntry,
  SrchBlock,
  SrchEntry,
  SrchFile,
  srchHeight,
  SrchParent,
} from "../../format/srch.ts";
import { FormatError } from "../../format/bytes.ts";
import { type CheckContext, claim, follow, inRange } from "./context.ts";
import { inputOf, outputOf, searchLogOf } from "./names.ts";
import { FACT_SRCH, FactBook } from "./facts.ts";
import type { Compaction, ServerItems } from "./pass_roots.ts";
import { isZero, rawU64, refBlkno, viewOf } from "./raw.ts";
import type { RawBlock, Ref } from "./source.ts";
import { srchFact } from "./visible_items.ts";

/** A radix of 4094 references a block reaches every 48-bit number of blocks with five levels. */
const MAX_HEIGHT = 5;

export interface EntrySink {
  entry(e: SrchEntry): void;
}

interface FileState {
  what: string;
  owner: number;
  file: SrchFile;
  sorted: boolean;
  sink: EntrySink | null;
  entries: number;
  blocks: number;
  complete: boolean;
  /** Least and greatest entry. */
  first: SrchEntry;
  last: SrchEntry;
  /** Entry before, for the order of sorted files. */
  before: SrchEntry;
  /** A compaction's place in the file, or of the file in the compaction. */
  part: CompactionPart | null;
}

/** How far a compaction of sorted files has come in one of its files, as the file shows it. */
class CompactionPart {
  /** The place is one where an entry begins, or the end. */
  found = false;
  /** All of the file was read. */
  whole = false;
  /** The first entry at the place or behind it. */
  next: SrchEntry | null = null;

  /** Entries before block `blk`, byte `pos`, are consumed and told to `book`. */
  constructor(
    readonly root: number,
    private readonly blk: number,
    private readonly pos: number,
    private readonly book: FactBook,
  ) {}

  /** An entry begins at byte `at` of logical block `block`. */
  entry(e: SrchEntry, block: number, at: number): void {
    if (block < this.blk || block === this.blk && at < this.pos) {
      srchFact(this.book, e);
      return;
    }
    this.edge(block, at);
    if (this.next !== null) return;
    this.next = SrchEntry.alloc();
    this.next.copyFrom(e);
  }

  edge(block: number, at: number): void {
    if (block === this.blk && at === this.pos) this.found = true;
  }
}

/** A compaction that merges sorted files: what it has consumed must be what its output has. */
interface Merging {
  readonly what: string;
  readonly inputs: readonly CompactionPart[];
  readonly output: CompactionPart;
  readonly outputLast: SrchEntry;
  /** Told each entry that was consumed and each that was put out: the two cancel. */
  readonly book: FactBook;
}

export function checkSearch(cx: CheckContext, items: ServerItems, sink: EntrySink): void {
  const merging = items.compactions.flatMap(mergingOf);
  const parts = new Map(merging.flatMap((m) => m.inputs).map((part) => [part.root, part]));
  const check = (
    file: SrchFile,
    sorted: boolean,
    what: string,
    counts: boolean,
    part: CompactionPart | null = null,
  ) => {
    new FileCheck(cx, {
      what,
      owner: cx.owners.define(what, false),
      file,
      sorted,
      sink: counts ? sink : null,
      entries: 0,
      blocks: 0,
      complete: true,
      first: SrchEntry.alloc(),
      last: SrchEntry.alloc(),
      before: SrchEntry.alloc(),
      part,
    }).run();
  };
  for (const { file, sorted, what } of items.srchFiles) {
    check(file, sorted, what, true, parts.get(refBlkno(file.ref)) ?? null);
  }
  for (const { lt, what } of items.logTrees) {
    check(lt.srchFile, false, searchLogOf(what), true);
  }
  for (const { sc, what } of items.compactions) {
    if ((sc.flags & SRCH_COMPACT_DELETE) === 0) {
      const { output = null } = merging.find((m) => m.what === what) ?? {};
      check(sc.out, true, outputOf(what), false, output);
      continue;
    }
    for (let i = 0; i < Math.min(sc.nr, 4); i++) {
      const { sfl, blk, pos } = sc.in(i);
      claimUnfreed(cx, sfl, Math.max(pos, 1), blk, inputOf(what, i));
    }
  }
  for (const m of merging) checkProgress(cx, m);
}

function mergingOf({ sc, what }: Compaction): Merging[] {
  if ((sc.flags & SRCH_COMPACT_SORTED) === 0 || sc.nr > SRCH_COMPACT_NR) return [];
  const book = new FactBook();
  const inputs = Array.from({ length: sc.nr }, (_, i) => {
    const { sfl, blk, pos } = sc.in(i);
    return new CompactionPart(refBlkno(sfl.ref), blk, pos, book);
  });
  const output = new CompactionPart(refBlkno(sc.out.ref), Infinity, 0, book);
  return [{ what, inputs, output, outputLast: sc.out.last, book }];
}

/** The output has each entry that was consumed, but those that cancelled, and ends before the rest. */
function checkProgress(
  cx: CheckContext,
  { what, inputs, output, outputLast, book }: Merging,
): void {
  const bad = (why: string) => cx.report.add("srch-compaction", { what, why });
  const parts = [...inputs, output];
  if (!parts.every((part) => part.whole)) return; // Reported with the file.
  for (const { root, found } of inputs) {
    if (!found) bad(`progress of input ${root} is not at an entry`);
  }
  if (!book.agrees(FACT_SRCH)) bad("its output is not what it has consumed");
  const behind = inputs.some(({ next }) => next !== null && next.compare(outputLast) < 0);
  if (behind) bad("its output goes beyond what it has consumed");
}

class FileCheck {
  constructor(private readonly cx: CheckContext, private readonly s: FileState) {}

  run(): void {
    const { s, cx } = this, f = s.file;
    if (!isZero(f.bytes, 81, 7)) this.bad("padding is not zero");
    if (f.height === 0) {
      if (!f.isZero()) this.bad("empty, but with contents");
      else if (s.part !== null) s.part.whole = true;
      return;
    }
    if (f.height > MAX_HEIGHT || f.blocks === 0 || f.height !== srchHeight(f.blocks - 1)) {
      this.bad(`height ${f.height} for ${f.blocks} blocks`);
      if (f.height > MAX_HEIGHT) return;
    }
    if (f.blocks > cx.metaBlocks) {
      this.bad(`${f.blocks} blocks are more than the device has`);
      return;
    }
    const ref = { blkno: refBlkno(f.ref), seqLo: f.ref.seqLo, seqHi: f.ref.seqHi };
    this.walk(ref, f.height - 1, 0);
    if (!s.complete) return;
    s.part?.edge(f.blocks, 0);
    if (s.part !== null) s.part.whole = true;
    if (s.blocks !== f.blocks) this.bad(`${s.blocks} of ${f.blocks} blocks are there`);
    if (s.entries !== f.entries) this.bad(`entries is ${f.entries}, there are ${s.entries}`);
    if (s.entries > 0) this.bounds();
  }

  /** The reference leaves bounds of log files too narrow (03 T11). */
  private bounds(): void {
    const { s } = this, f = s.file;
    if (f.first.compare(s.first) === 0 && f.last.compare(s.last) === 0) return;
    const narrow = !s.sorted && s.blocks > 1 && f.first.compare(s.first) >= 0 &&
      f.last.compare(s.last) <= 0;
    if (narrow) this.cx.report.add("srch-bounds-narrow", { what: s.what });
    else this.bad("first and last are not those of its entries");
  }

  private bad(why: string): void {
    this.cx.report.add("srch-file", { what: this.s.what, why });
  }

  private walk(ref: Ref, level: number, block: number): void {
    const { cx, s } = this;
    const b = cx.source.acquire();
    const magic = level === 0 ? MAGIC_SRCH_BLOCK : MAGIC_SRCH_PARENT;
    if (!follow(cx, ref, magic, s.owner, b)) {
      s.complete = false;
      cx.source.release(b);
      return;
    }
    if (level === 0) this.block(b, block);
    else this.parent(b, level, block);
    cx.source.release(b);
  }

  private parent(b: RawBlock, level: number, first: number): void {
    const { s } = this;
    const step = SRCH_PARENT_REFS ** (level - 1);
    let i = 0;
    for (; i < SRCH_PARENT_REFS && first + i * step < s.file.blocks; i++) {
      const at = SrchParent.SIZE + 16 * i, block = first + i * step;
      const ref = {
        blkno: rawU64(b.v, at),
        seqLo: b.v.getUint32(at + 8, true),
        seqHi: b.v.getUint32(at + 12, true),
      };
      if (ref.blkno === 0) {
        this.bad(`logical block ${block} is missing`);
        s.complete = false;
      } else this.walk(ref, level - 1, block);
    }
    const unused = SrchParent.SIZE + 16 * i;
    if (isZero(b.buf, unused, SrchParent.SIZE + 16 * SRCH_PARENT_REFS - unused)) return;
    for (; i < SRCH_PARENT_REFS; i++) {
      if (isZero(b.buf, SrchParent.SIZE + 16 * i, 16)) continue;
      this.bad(`a reference to logical block ${first + i * step}, beyond its end`);
    }
  }

  private block(b: RawBlock, index: number): void {
    const { s } = this;
    const sb = new SrchBlock(b.v);
    const bad = (why: string) => this.bad(`logical block ${index}: ${why}`);
    s.blocks++;
    const nr = sb.entryNr, bytes = sb.entryBytes;
    if (bytes > SRCH_BLOCK_ENTRIES_BYTES) {
      bad(`${bytes} bytes of entries`);
      s.complete = false;
      return;
    }
    const entry = SrchEntry.alloc(), least = SrchEntry.alloc(), most = SrchEntry.alloc();
    let at = 0, order = true, count = 0;
    while (count < nr) {
      if (at > SRCH_BLOCK_SAFE_BYTES || at >= bytes) break;
      const from = at;
      try {
        at += decodeSrchEntry(b.v, SrchBlock.SIZE + at, SrchBlock.SIZE + bytes, entry, entry);
      } catch (e) {
        if (!(e instanceof FormatError)) throw e;
        break;
      }
      if (rawU64(entry.v, entry.o + 8) === 0) bad(`entry ${count} is of inode 0`);
      if (count === 0 || entry.compare(least) < 0) least.copyFrom(entry);
      if (count === 0 || entry.compare(most) > 0) most.copyFrom(entry);
      if (s.entries > 0 && entry.compare(s.before) < 0) order = false;
      if (s.entries === 0 || entry.compare(s.first) < 0) s.first.copyFrom(entry);
      if (s.entries === 0 || entry.compare(s.last) > 0) s.last.copyFrom(entry);
      s.before.copyFrom(entry);
      s.entries++;
      count++;
      s.sink?.entry(entry);
      s.part?.entry(entry, index, from);
    }
    s.part?.edge(index, at);
    if (count !== nr || at !== bytes) {
      bad(`${count} of ${nr} entries decode, in ${at} of ${bytes} bytes`);
      s.complete = false;
      return;
    }
    if (s.sorted && !order) bad("its entries are out of order");
    if (nr === 0) return;
    if (sb.first.compare(least) !== 0) bad("first is not its least entry");
    if (sb.last.compare(most) !== 0) bad("last is not its greatest entry");
    if (sb.tail.compare(entry) !== 0) bad("tail is not its last entry");
  }
}

/** Blocks of a compaction's input that DELETE has not freed yet (03 §26.1 item 8). */
function claimUnfreed(
  cx: CheckContext,
  file: SrchFile,
  level: number,
  from: number,
  what: string,
): void {
  if (file.height === 0 || level > file.height || file.height > MAX_HEIGHT) return;
  const owner = cx.owners.define(what, false);
  const walk = (ref: Ref, at: number, block: number): void => {
    if (at < level - 1) return;
    const owned = at >= level || block >= from || at === file.height - 1;
    if (at === 0 || at === level - 1) {
      // Contents do not matter any more, only whose the block is.
      if (owned && inRange(cx, ref.blkno, what)) claim(cx, ref.blkno, owner);
      return;
    }
    const b = cx.source.acquire();
    if (follow(cx, ref, MAGIC_SRCH_PARENT, owner, b)) {
      const step = SRCH_PARENT_REFS ** (at - 1);
      for (let i = 0; i < SRCH_PARENT_REFS && block + i * step < file.blocks; i++) {
        const v = viewOf(b.buf.subarray(SrchParent.SIZE + 16 * i, SrchParent.SIZE + 16 * i + 16));
        walk(
          { blkno: rawU64(v, 0), seqLo: v.getUint32(8, true), seqHi: v.getUint32(12, true) },
          at - 1,
          block + i * step,
        );
      }
    }
    cx.source.release(b);
  };
  walk(
    { blkno: refBlkno(file.ref), seqLo: file.ref.seqLo, seqHi: file.ref.seqHi },
    file.height - 1,
    0,
  );
}
