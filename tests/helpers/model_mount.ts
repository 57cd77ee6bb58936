/**
 * A mount as the cluster sees it: a lock client by 04 §21 over a real ClientConnection, with one
 * log tree that it commits when a write lock is taken back. It wants, holds and gives up locks at
 * random, and lets a judge compare everybody's modes at every change.
 */

import assert from "node:assert/strict";
import { Key } from "../../format/key.ts";
import {
  CMD_COMMIT_LOG_TREES,
  CMD_GET_LOG_TREES,
  CMD_LOCK,
  CMD_LOCK_RECOVER,
  CMD_OPEN_INO_MAP,
  CMD_SYNC_LOG_TREES,
  LOCK_NULL,
  LOCK_READ,
  LOCK_RECOVER_MAX,
  LOCK_WRITE,
  LOCK_WRITE_ONLY,
  LockRecover,
  NetLock,
  OpenInoMap,
} from "../../format/wire.ts";
import { LogTrees } from "../../format/log_trees.ts";
import type { ClientConnection } from "../../net/client.ts";
import type { SeededRandom, SimReactor } from "./sim_reactor.ts";

export const satisfies = (g: number, w: number): boolean =>
  g === w || (g === LOCK_WRITE && w === LOCK_READ);
export const compatible = (a: number, b: number): boolean =>
  a === LOCK_NULL || b === LOCK_NULL || (a === b && a !== LOCK_WRITE);

interface Invalidation {
  oldMode: number;
  newMode: number;
  respond: () => void;
}

export class ModelLock {
  mode = LOCK_NULL;
  invalidating = LOCK_NULL;
  pending = false;
  writeSeq = 0;
  dirty = false;
  /** An invalidation is between its steps 2 and 7. */
  working = false;
  readonly queue: Invalidation[] = [];
  /** Users by mode. */
  readonly users = [0, 0, 0, 0];
  readonly waiters: { want: number; hold: () => void }[] = [];
  constructor(readonly key: Key) {}

  get effective(): number {
    return this.invalidating !== LOCK_NULL ? this.invalidating : this.mode;
  }
}

/** Compares all mounts' modes of one lock. */
export type Judge = (key: Key) => void;

export class ModelMount {
  readonly locks: ModelLock[];
  grants = 0;
  commits = 0;
  #logTrees: LogTrees | null = null;
  #stopped = false;

  constructor(
    readonly client: ClientConnection,
    readonly reactor: SimReactor,
    readonly random: SeededRandom,
    readonly judge: Judge,
    readonly pauseMs: number,
    nrLocks = 6,
  ) {
    this.locks = Array.from({ length: nrLocks }, (_, i) => new ModelLock(Key.of(16, i * 1024, 0)));
    client.setHandler(CMD_LOCK, (payload, respond) => this.#invalidate(payload, respond));
    client.setHandler(CMD_LOCK_RECOVER, (payload, respond) => this.#recover(payload, respond));
    client.setHandler(CMD_SYNC_LOG_TREES, (_payload, respond) => respond(new Uint8Array(0)));
    client.setHandler(CMD_OPEN_INO_MAP, (payload, respond) => {
      const map = OpenInoMap.alloc();
      map.args.bytes.set(payload);
      respond(map.bytes);
    });
  }

  /** Opens a transaction, then uses locks at random until `stop`. */
  async work(): Promise<void> {
    await this.#openTransaction();
    for (let i = 0; i < 2; i++) this.#again();
  }

  /** Wants nothing more. */
  stop(): void {
    this.#stopped = true;
  }

  /** No waiter is left (28). */
  get satisfied(): boolean {
    return this.locks.every((l) => l.waiters.length === 0);
  }

  lockOf(key: Key): ModelLock | undefined {
    return this.locks.find((l) => l.key.equals(key));
  }

  async #openTransaction(): Promise<void> {
    const response = await this.client.request(CMD_GET_LOG_TREES, new Uint8Array(0));
    const lt = LogTrees.at(response);
    const before = this.#logTrees?.getTransSeq ?? 0;
    assert.ok(lt.getTransSeq > lt.commitTransSeq, "the transaction is open");
    assert.ok(lt.getTransSeq > before, "trans seqs of a client rise (Q2)");
    this.#logTrees = lt;
  }

  async #commit(): Promise<void> {
    await this.client.request(CMD_COMMIT_LOG_TREES, this.#logTrees!.bytes);
    this.commits++;
    await this.#openTransaction();
  }

  #again(): void {
    if (this.#stopped) return;
    this.reactor.setTimer(this.random.below(this.pauseMs), () => {
      if (this.#stopped) return;
      const l = this.locks[this.random.below(this.locks.length)];
      if (this.random.oneIn(5)) this.#shrink(l);
      const want = [LOCK_READ, LOCK_WRITE, LOCK_WRITE_ONLY][this.random.below(3)];
      this.lock(l, want, () => {
        if (want !== LOCK_READ) l.dirty = true;
        this.reactor.setTimer(this.random.below(20), () => {
          l.users[want]--;
          this.#progress(l);
          this.#again();
        });
      });
    });
  }

  lock(l: ModelLock, want: number, hold: () => void): void {
    l.waiters.push({ want, hold });
    this.#progress(l);
  }

  /** 04 §21.5. */
  #shrink(l: ModelLock): void {
    const idle = !l.pending && l.queue.length === 0 && l.waiters.length === 0 &&
      l.users.every((n) => n === 0);
    if (idle && l.mode !== LOCK_NULL) this.#send(l, LOCK_NULL);
  }

  #send(l: ModelLock, want: number): void {
    l.pending = true;
    const m = NetLock.alloc();
    m.key = l.key;
    m.oldMode = l.mode;
    m.newMode = want;
    this.client.submit(CMD_LOCK, m.bytes, (errno, payload) => {
      if (!this.reactor.dead && errno === 0) this.#granted(l, NetLock.at(payload));
    });
  }

  #granted(l: ModelLock, m: NetLock): void {
    assert.ok(l.pending);
    assert.equal(l.invalidating, LOCK_NULL);
    const held = l.mode === LOCK_READ || l.mode === LOCK_WRITE;
    const said = m.oldMode === LOCK_READ || m.oldMode === LOCK_WRITE;
    assert.equal(said, held, "old_mode is what we hold (22.6)");
    if (m.newMode === LOCK_WRITE || m.newMode === LOCK_WRITE_ONLY) {
      assert.ok(m.writeSeq > l.writeSeq, "write_seqs rise (21)");
      l.writeSeq = m.writeSeq;
    }
    l.mode = m.newMode;
    l.pending = false;
    this.grants++;
    this.judge(l.key);
    this.#progress(l);
  }

  #invalidate(payload: Uint8Array, respond: (payload: Uint8Array) => void): void {
    const m = NetLock.at(payload.slice());
    const l = this.lockOf(m.key);
    const answer = (): void => respond(m.bytes);
    if (l === undefined) return answer();
    l.queue.push({ oldMode: m.oldMode, newMode: m.newMode, respond: answer });
    this.#progress(l);
  }

  /** Whatever can go on with this lock goes on. */
  #progress(l: ModelLock): void {
    for (let i = 0; i < l.waiters.length;) {
      const w = l.waiters[i];
      if (!satisfies(l.mode, w.want)) {
        i++;
        continue;
      }
      l.waiters.splice(i, 1);
      l.users[w.want]++;
      w.hold();
    }
    if (l.waiters.length > 0 && !l.pending) this.#send(l, l.waiters[0].want);
    if (l.queue.length > 0 && !l.working) this.#startInvalidation(l);
  }

  /** 04 §21.4. */
  #startInvalidation(l: ModelLock): void {
    const { oldMode, newMode } = l.queue[0];
    for (let mode = 1; mode < 4; mode++) {
      if (l.users[mode] > 0 && !satisfies(newMode, mode)) return;
    }
    l.working = true;
    l.invalidating = l.mode;
    l.mode = newMode;
    const finish = (): void => {
      if (this.reactor.dead) return;
      l.dirty = false;
      l.invalidating = LOCK_NULL;
      l.working = false;
      const [first] = l.queue.splice(0, 1);
      first.respond();
      this.judge(l.key);
      this.#progress(l);
    };
    const wrote = oldMode === LOCK_WRITE || oldMode === LOCK_WRITE_ONLY;
    if (wrote && l.dirty && this.#logTrees !== null) {
      this.#serialCommit().then(finish, (e) => {
        if (!this.reactor.dead && this.client.state !== "closed") throw e;
      });
    } else this.reactor.setTimer(this.random.below(5), finish);
  }

  #committing: Promise<void> = Promise.resolve();
  /** One commit after the other. */
  #serialCommit(): Promise<void> {
    const next = this.#committing.then(() => this.#commit());
    this.#committing = next.catch(() => {});
    return next;
  }

  #recover(payload: Uint8Array, respond: (payload: Uint8Array) => void): void {
    const from = Key.read(new DataView(payload.buffer, payload.byteOffset), 0);
    const found = this.locks.filter((l) => l.effective !== LOCK_NULL && l.key.compare(from) >= 0)
      .slice(0, this.random.below(2) === 0 ? 2 : LOCK_RECOVER_MAX);
    const bytes = new Uint8Array(LockRecover.SIZE + found.length * NetLock.SIZE);
    const page = LockRecover.at(bytes);
    page.nr = found.length;
    found.forEach((l, i) => {
      const m = page.lock(i);
      m.key = l.key;
      m.oldMode = m.newMode = l.effective;
      m.writeSeq = l.writeSeq;
    });
    respond(bytes);
  }
}
