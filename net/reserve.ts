/**
 * How much space the server keeps back and how much it hands out at a time. All of this is policy,
 * not format (03 §13.4): the lists and trees may hold any number of blocks, and every choice here
 * only says when the server refills, stops or commits.
 *
 * From FULL_META_BLOCKS on (64 GiB, the least that mkfs accepts without being told otherwise) the
 * numbers are the reference's (03 §25). Below, they shrink with the device so that a volume of 4096
 * blocks (256 MiB), of which mkfs leaves 3065 in extents and 1024 in the server's list, serves one
 * client with up to 512 blocks in each server list, 128 in the client's and 414 kept back.
 *
 * Why the small numbers are safe:
 *
 * - A handler starts only with `holdBudget + commitBudget` blocks available and slots free in the
 *   active lists, and stops moving extents before it would touch `commitBudget` (03 §5.3 budgets).
 *   A commit refills a list below `serverLow ≥ holdBudget + commitBudget`, so that after the swap
 *   the next handler can start.
 * - `moveBudget` is above 15·(2+h+h′) for every pair of heights that fits the device, so a
 *   budgeted move always moves at least one extent, and work in steps ends.
 * - Refilling a client never takes `meta_alloc` below `floor`: the server's own lists can always be
 *   refilled first. The server's use is circular (it frees a block for each that it rewrites), so
 *   the floor is needed for what is between freeing and reuse only.
 * - `reserved` is an eighth of the device or more than the floor and two lists of every client, so
 *   that when allocating operations begin to fail with ENOSPC (LOW), deletions still get blocks
 *   while those that they free come back.
 */

import { ALLOC_LIST_MAX_BLOCKS } from "../format/constants.ts";

/** 64 GiB in metadata blocks. */
const FULL_META_BLOCKS = 1 << 20;

/** Freed numbers gathered at most: a commit of a single fsync frees some four of each kind. */
const KEPT = 512;

/** Client lists with fewer blocks than this are filled up by every GET_LOG_TREES. */
const TOPPED_UP = 512;

export interface MetaPolicy {
  /** The server's idle avail list is filled to `serverTarget` when its first block has fewer. */
  serverLow: number;
  serverTarget: number;
  /** The same for the lists of clients. */
  clientLow: number;
  clientTarget: number;
  /**
   * Freed numbers that a client's list gathers before they are made available again, unless blocks
   * are wanted: that reads and rewrites list blocks, which a commit that frees a few can do without.
   */
  clientKeeps: number;
  /** Blocks (and as many frees) that one handler may use before it must wait for a commit. */
  holdBudget: number;
  /** Blocks left over for the commit itself. */
  commitBudget: number;
  /** Blocks that one step of moving extents may use (03 §5.3). */
  moveBudget: number;
  /**
   * Numbers that the idle freed list may hold before they are brought back to `meta_alloc[F]`,
   * unless space is short: emptying it scatters over that tree's leaves, each of which the commit
   * writes.
   */
  drainAt: number;
  /** `meta_alloc[A]` at or below this is LOW: clients refuse allocating operations. */
  reserved: number;
  /** What refills of clients leave in `meta_alloc[A]`. */
  floor: number;
  /**
   * With this many blocks in the idle list a commit may go on although `meta_alloc[A]` ran dry
   * (03 T5): enough for a commit without handlers, which brings freed blocks back.
   */
  commitMinimum: number;
}

function clamp(n: number, least: number, most: number): number {
  return Math.max(least, Math.min(most, Math.floor(n)));
}

/** The policy for a metadata device of `totalBlocks` shared by `clients` mounts. */
export function metaPolicy(totalBlocks: number, clients: number): MetaPolicy {
  const shares = Math.max(1, clients);
  const full = totalBlocks >= FULL_META_BLOCKS;
  const serverTarget = clamp(totalBlocks / 8, 512, ALLOC_LIST_MAX_BLOCKS);
  const clientTarget = full
    ? ALLOC_LIST_MAX_BLOCKS
    : clamp(totalBlocks / (32 * shares), 64, ALLOC_LIST_MAX_BLOCKS);
  const budget = clamp(serverTarget / 4, 128, 500);
  // The reference keeps two lists for the server, and for each client two lists, a merge request
  // (1028) and a subtree's leaves (913).
  const perClient = 2 * clientTarget + Math.floor(clientTarget * 1941 / ALLOC_LIST_MAX_BLOCKS);
  return {
    serverLow: serverTarget >> 1,
    serverTarget,
    // Short lists are topped up each time: half of one may be too little for a single operation. Of
    // the others a commit that used little leaves the list block alone.
    clientLow: clientTarget >= TOPPED_UP ? clientTarget >> 1 : clientTarget,
    clientTarget,
    clientKeeps: Math.min(KEPT, clientTarget >> 1),
    holdBudget: budget,
    commitBudget: budget,
    moveBudget: Math.min(250, budget),
    drainAt: Math.min(2048, serverTarget >> 2),
    reserved: full ? 2 * serverTarget + shares * perClient : Math.min(
      Math.min(2 * serverTarget, Math.floor(totalBlocks / 32)) + shares * perClient,
      Math.floor(totalBlocks / 8),
    ),
    floor: budget,
    commitMinimum: 128,
  };
}

export interface DataPolicy {
  /**
   * A client's pool is refilled to `target` when it has fewer than `low`; LOW if it then still has.
   */
  low: number;
  target: number;
}

/** Below this a client asks for a refill unless its pool is flagged LOW (03 §11.4). */
const CLIENT_ASKS_BELOW = 65536;

/**
 * The data pool of each of `clients` mounts on a data device of `totalBlocks`. `low` is never less
 * than the limit at which clients ask for more: a pool between the two would be neither refilled
 * nor flagged, and its client would commit for ever.
 */
export function dataPolicy(totalBlocks: number, clients: number): DataPolicy {
  const target = clamp(totalBlocks / (4 * Math.max(1, clients)), 2 * CLIENT_ASKS_BELOW, 1 << 20);
  return { low: clamp(target / 4, CLIENT_ASKS_BELOW, 1 << 18), target };
}
