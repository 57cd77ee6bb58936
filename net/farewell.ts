/**
 * Farewells at the server (04 §17.2): plain clients may always leave; quorum members only while
 * more than a majority of mounted members would remain, or all together once everyone else is gone
 * or going. A farewell is answered after the client's resources were reclaimed and its
 * mounted-client item is durably deleted (§28, 29, 30).
 */

/** What `decideFarewells` knows of a mounted-client item. */
export interface MountedMember {
  readonly rid: bigint;
  readonly quorum: boolean;
}

export interface FarewellRequest {
  readonly rid: bigint;
  /** Message id to answer. */
  readonly id: number;
}

/** One pass of the rule: who of `requests` may leave now. The rest keep waiting, in order. */
export function decideFarewells(
  requests: readonly FarewellRequest[],
  mounted: readonly MountedMember[],
  votesNeeded: number,
): FarewellRequest[] {
  const isQuorum = new Map(mounted.map((m) => [m.rid, m.quorum]));
  let members = mounted.filter((m) => m.quorum).length;
  let others = mounted.length - members;
  const ready: FarewellRequest[] = [];
  const kept: FarewellRequest[] = [];
  for (const r of requests) {
    const quorum = isQuorum.get(r.rid);
    if (quorum === true) kept.push(r);
    else ready.push(r); // a plain client, or one that was reclaimed before
    if (quorum === false) others--;
  }
  let leaving = kept.length;
  for (const r of kept) {
    if (members > votesNeeded || (leaving === members && others === 0)) {
      ready.push(r);
      members--;
      leaving--;
    }
  }
  return ready;
}

export interface FarewellEnv {
  readonly mounted: () => readonly MountedMember[];
  readonly votesNeeded: number;
  readonly locksPending: (rid: bigint) => boolean;
  /** Reclaims everything of `rid`, durably. */
  readonly reclaim: (rid: bigint) => Promise<void>;
  readonly respond: (request: FarewellRequest) => void;
  /** A failed reclaim stops the server. */
  readonly onError: (error: unknown) => void;
}

/** The single worker that handles farewells, one pass at a time. */
export class FarewellWorker {
  readonly #env: FarewellEnv;
  #requests: FarewellRequest[] = [];
  #running: Promise<void> | null = null;
  #again = false;
  #stopped = false;

  constructor(env: FarewellEnv) {
    this.#env = env;
  }

  add(request: FarewellRequest): void {
    this.#requests.push(request);
    this.kick();
  }

  /** The client's connection was destroyed: nobody to answer. */
  discard(rid: bigint): void {
    this.#requests = this.#requests.filter((r) => r.rid !== rid);
  }

  /** Something changed that may let somebody leave. */
  kick(): void {
    if (this.#stopped) return;
    this.#again = true;
    this.#running ??= this.#run();
  }

  /** No pass begins any more; resolves when the present one is over. */
  async stop(): Promise<void> {
    this.#stopped = true;
    if (this.#running !== null) await this.#running;
  }

  async #run(): Promise<void> {
    try {
      while (this.#again && !this.#stopped) {
        this.#again = false;
        await this.#pass();
      }
    } catch (e) {
      this.#stopped = true;
      this.#env.onError(e);
    } finally {
      this.#running = null;
    }
  }

  async #pass(): Promise<void> {
    const { mounted, votesNeeded, locksPending, reclaim, respond } = this.#env;
    if (this.#requests.length === 0) return;
    const ready = decideFarewells(this.#requests, mounted(), votesNeeded)
      .filter((r) => !locksPending(r.rid));
    for (const r of ready) await reclaim(r.rid);
    for (const r of ready) {
      // Its connection may have been destroyed meanwhile, and the request with it.
      if (!this.#requests.includes(r)) continue;
      this.#requests = this.#requests.filter((other) => other !== r);
      respond(r);
    }
  }
}
