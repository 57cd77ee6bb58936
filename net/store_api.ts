/**
 * What the rest of the server sees of its persistent state (03 §13–16, §23). The implementation
 * is net/store.ts; network, locks and recovery (net/server.ts) know only this interface.
 */

import type { InetAddr } from "../format/block.ts";

/** One item of the mounted_clients tree (01 §13.2): this mount may hold resources. */
export interface MountedClient {
  rid: bigint;
  /** Where its greeting came from; a copy. */
  addr: InetAddr;
  quorum: boolean;
}

/**
 * Everything here is settled by the last stable super or waits for the next one: a returned
 * promise resolves only after a commit that contains the effect was written and flushed. Errors
 * are `FsError`; after a device error nothing is lost and the caller may ask again.
 */
export interface ServerStore {
  /** `super.hdr.fsid`. */
  readonly fsid: bigint;
  /** 1 or 2. */
  readonly fmtVers: number;
  /** Metadata blocks that allocating operations must leave (03 §13.4), for statfs_more. */
  readonly reservedMetaBlocks: number;

  /**
   * Background work of a starting server: orphan log trees (03 §16.4). Run once, before `request`.
   */
  start(): Promise<void>;
  /** No commit is written from now on; pending requests fail with ENOLINK. */
  stop(): void;

  /** The next value of the sequence counter (03 §7): transactions, lock grants, … */
  counterNext(): number;
  /** Raises the counter to at least `n` (write_seqs of recovered locks). */
  counterRaise(n: number): void;

  /** From the stable super, in rid order. */
  mountedClients(): MountedClient[];
  /** Whether `rid` has an item in the stable super. */
  isMountedClient(rid: bigint): boolean;
  /** A greeting with server term 0 (04 §15.4); finding the item there is fine. */
  insertMountedClient(rid: bigint, addr: InetAddr, quorum: boolean): Promise<void>;
  /**
   * 03 §23 steps 2–4 and 6 for a client that can never write again; the mounted-client item goes
   * last, in the final commit. Idempotent. Lock and open-map state (steps 1, 5) are the caller's.
   */
  reclaim(rid: bigint): Promise<void>;

  /**
   * Commands 1–3, 5, 6, 9–12, 14–18 of 04 §19.1 from client `rid`. The payload is copied before
   * the call returns; the response is a buffer of its own. Rejects with FsError.
   */
  request(cmd: number, rid: bigint, payload: Uint8Array): Promise<Uint8Array>;
}
