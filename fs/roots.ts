/**
 * Tree roots of the last stable super, from the server (03 §10.1, 04 §19.5), shared by all reads
 * of a while.
 *
 * A lock's items may be read through roots that were asked for after the lock became readable:
 * later commits of others cannot have touched its range. Two things end the use of roots: our own
 * next commit (items that it wrote may be evicted afterwards and must be found again), and a block
 * that was reused since (ESTALE), for which retries are bounded (03 §3.5, T1).
 */

import { FormatError } from "../format/bytes.ts";
import { CMD_GET_ROOTS, NetRoots } from "../format/wire.ts";
import type { StaleError } from "./errors.ts";
import type { ServerLink } from "./link.ts";
import type { ClusterLock } from "./lock_client.ts";

const NONE = new Uint8Array(0);

export class Roots {
  #current: NetRoots | null = null;
  /** When `#current` was asked for. */
  #since = 0;
  #flight: Promise<void> | null = null;
  #generation = 0;
  /** The roots of the last ESTALE. */
  #stale: NetRoots | null = null;

  constructor(
    private readonly link: ServerLink,
    /** The lock client's clock of grants. */
    private readonly clock: { tick: number },
  ) {}

  /** Roots that serve reads under `lock`, or null: then `fetch` and look again. */
  usable(lock: ClusterLock): NetRoots | null {
    return this.#since > lock.readableSince ? this.#current : null;
  }

  /** Asks for roots to be shared; one request at a time. */
  fetch(): Promise<void> {
    this.#flight ??= this.#fetch().finally(() => this.#flight = null);
    return this.#flight;
  }

  async #fetch(): Promise<void> {
    const since = ++this.clock.tick;
    const generation = this.#generation;
    const roots = await this.fresh();
    if (generation !== this.#generation) return;
    this.#current = roots;
    this.#since = since;
  }

  /** New roots for one walk of the caller's own. */
  async fresh(): Promise<NetRoots> {
    const payload = await this.link.request(CMD_GET_ROOTS, NONE);
    if (payload.length !== NetRoots.SIZE) throw new FormatError("roots of a wrong size");
    return NetRoots.at(payload);
  }

  /** A commit of ours became stable: what was or is being fetched is too old. */
  forget(): void {
    this.#generation++;
    this.#current = null;
  }

  /** Reading with `roots` met a reused block. Throws EIO if the same roots failed before. */
  failed(roots: NetRoots, error: StaleError): void {
    const before = this.#stale;
    if (
      before !== null && sameRef(before.fsRoot.ref, roots.fsRoot.ref) &&
      sameRef(before.logsRoot.ref, roots.logsRoot.ref)
    ) throw error.asDamage;
    this.#stale = roots;
    this.forget();
  }

  /** Reading with `roots` went well. */
  succeeded(): void {
    this.#stale = null;
  }
}

interface Ref {
  readonly blkno: number;
  readonly seqLo: number;
  readonly seqHi: number;
}

function sameRef(a: Ref, b: Ref): boolean {
  return a.blkno === b.blkno && a.seqLo === b.seqLo && a.seqHi === b.seqHi;
}
