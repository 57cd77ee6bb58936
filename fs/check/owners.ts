/**
 * Who has which metadata block: one byte a block, in pages that exist only where owners differ, so
 * that large free extents cost nothing. An owner is a tree, a list, a file; 253 of them are told
 * apart by name, later ones share one.
 *
 * Invariant: a block has the first owner that claimed it, for good; only parts of a check that are
 * tried on a copy of the map take claims back.
 */

import { assert } from "../errors.ts";

/** Blocks that a page of the map covers. */
const PAGE = 1 << 12;

export const NOBODY = 0;

/** What runs of blocks are told apart by. */
export const KIND_NOBODY = 0;
export const KIND_USED = 1;
export const KIND_FREE = 2;
export type OwnerKind = typeof KIND_NOBODY | typeof KIND_USED | typeof KIND_FREE;
/** Owners beyond what a byte can tell apart. */
const SHARED_USED = 254;
const SHARED_FREE = 255;

/** A map as it can be sent to another thread. */
export interface OwnersCopy {
  readonly total: number;
  readonly next: number;
  readonly names: readonly (string | undefined)[];
  readonly free: readonly boolean[];
  readonly pages: readonly (ArrayBuffer | number)[];
}

export class BlockOwners {
  /** Told of each block and its owner when it is claimed; for parts of a check that may be undone. */
  journal: number[] | null = null;
  /** A page, or the one owner of all its blocks. */
  #pages: (Uint8Array<ArrayBuffer> | number)[] = [];
  #names: string[] = ["nobody"];
  #free: boolean[] = [false];
  #next = NOBODY + 1;
  #total: number;

  constructor(totalBlocks: number) {
    this.#total = totalBlocks;
    for (let at = 0; at < totalBlocks; at += PAGE) this.#pages.push(NOBODY);
    this.#names[SHARED_USED] = "one of many trees";
    this.#names[SHARED_FREE] = "one of many free lists";
    for (let i = 1; i <= SHARED_FREE; i++) this.#free[i] = i === SHARED_FREE;
  }

  /** A map of its own with the same contents. */
  static from(copy: OwnersCopy): BlockOwners {
    const owners = new BlockOwners(0);
    owners.#total = copy.total;
    owners.#next = copy.next;
    owners.#names = copy.names.map((name) => name ?? "nobody");
    owners.#free = [...copy.free];
    owners.#pages = copy.pages.map((p) => typeof p === "number" ? p : new Uint8Array(p.slice(0)));
    return owners;
  }

  copy(): OwnersCopy {
    return {
      total: this.#total,
      next: this.#next,
      names: [...this.#names],
      free: [...this.#free],
      pages: this.#pages.map((p) => typeof p === "number" ? p : p.slice().buffer),
    };
  }

  get total(): number {
    return this.#total;
  }

  /** A new owner. `free`: it says that its blocks are free. */
  define(name: string, free: boolean): number {
    if (this.#next >= SHARED_USED) return free ? SHARED_FREE : SHARED_USED;
    const id = this.#next++;
    this.#names[id] = name;
    this.#free[id] = free;
    return id;
  }

  name(owner: number): string {
    return this.#names[owner] ?? "nobody";
  }

  isFree(owner: number): boolean {
    return this.#free[owner] === true;
  }

  of(blkno: number): number {
    const page = this.#pages[Math.floor(blkno / PAGE)];
    if (page === undefined) return NOBODY;
    return typeof page === "number" ? page : page[blkno % PAGE] as number;
  }

  /** Makes `owner` the block's owner if it has none; returns the owner it has now. */
  claim(blkno: number, owner: number): number {
    assert(blkno < this.#total, "a block outside the device cannot be owned");
    const at = Math.floor(blkno / PAGE);
    const page = this.#pages[at];
    if (page === undefined || typeof page === "number") {
      if (page !== NOBODY) return page ?? NOBODY;
      const fresh = new Uint8Array(PAGE);
      fresh[blkno % PAGE] = owner;
      this.#pages[at] = fresh;
      this.journal?.push(blkno, owner);
      return owner;
    }
    const before = page[blkno % PAGE] as number;
    if (before !== NOBODY) return before;
    page[blkno % PAGE] = owner;
    this.journal?.push(blkno, owner);
    return owner;
  }

  /** Takes back what the journal tells, and empties it. */
  undo(journal: number[]): void {
    for (let i = 0; i < journal.length; i += 2) {
      const blkno = journal[i] as number, page = this.#pages[Math.floor(blkno / PAGE)];
      assert(page instanceof Uint8Array, "a claim is taken back that was not made");
      page[blkno % PAGE] = NOBODY;
    }
    journal.length = 0;
  }

  /**
   * Claims a run; calls `conflict` for each block of it that has an owner already. Whole pages are
   * claimed at once.
   */
  claimRun(
    start: number,
    len: number,
    owner: number,
    conflict: (blkno: number, before: number) => void,
  ): void {
    let at = start;
    const end = start + len;
    while (at < end) {
      const index = Math.floor(at / PAGE), first = index * PAGE;
      if (at === first && end >= first + PAGE && this.#pages[index] === NOBODY) {
        this.#pages[index] = owner;
        at += PAGE;
        continue;
      }
      const before = this.of(at);
      if (before === NOBODY) this.claim(at, owner);
      else conflict(at, before);
      at++;
    }
  }

  /** Visits the maximal runs [start, start+len) of [from, total) of one kind of owner. */
  forEachRun(from: number, visit: (start: number, len: number, kind: OwnerKind) => void): void {
    const kinds = this.#free.map((free, i) =>
      i === NOBODY ? KIND_NOBODY : free ? KIND_FREE : KIND_USED
    );
    let start = from, at = from, kind: OwnerKind = KIND_NOBODY;
    const turn = (next: OwnerKind) => {
      if (at > start) visit(start, at - start, kind);
      start = at;
      kind = next;
    };
    while (at < this.#total) {
      const index = Math.floor(at / PAGE);
      const page = this.#pages[index] as Uint8Array | number;
      const end = Math.min((index + 1) * PAGE, this.#total);
      if (typeof page === "number") {
        if (kinds[page] !== kind) turn(kinds[page] as OwnerKind);
        at = end;
        continue;
      }
      for (; at < end; at++) {
        const next = kinds[page[at % PAGE] as number] as OwnerKind;
        if (next !== kind) turn(next);
      }
    }
    turn(kind);
  }
}
