/**
 * The lock server (04 §22): who holds which cluster lock in which mode, who waits, who is being
 * asked to give up. It knows only start keys. Deterministic, without I/O: messages go out through
 * the holder objects it is given.
 *
 * Invariants (04 §22.6, §28 19–27): a holder has at most one entry in granted ∪ invalidating of a
 * lock; a grant answers a queued request exactly once, in FIFO order per lock, and only when no
 * granted entry is incompatible and nothing is being invalidated; an invalidation is WRITE→READ or
 * X→NULL with old = the granted mode, one at a time per holder and lock; nothing is sent while
 * recovery is pending. Compatibility is never checked among granted entries: recovered ones may
 * seem to conflict (§22.7).
 */

import { FormatError, getU64, setU64 } from "../format/bytes.ts";
import {
  LOCK_MODE_NR,
  LOCK_NULL,
  LOCK_READ,
  LOCK_RECOVER_MAX,
  LOCK_WRITE,
  LOCK_WRITE_ONLY,
  LockRecover,
  NetLock,
} from "../format/wire.ts";
import { Key } from "../format/key.ts";
import { assert } from "../fs/errors.ts";
import { ProtocolError } from "./frame.ts";

/** A client as the lock server sees it: from first contact until it is reclaimed. */
export interface LockHolder {
  /** Whether messages can be submitted to it (a client waiting to reconnect: yes). */
  readonly reachable: boolean;
  /** Answers LOCK request `id` with a 48-byte grant. */
  grantLock(id: number, payload: Uint8Array): void;
  /** Sends an invalidation; the response comes to `LockServer.invalidated`. */
  invalidateLock(payload: Uint8Array): void;
}

export interface LockServerEnv {
  /** Next value of the global sequence counter. */
  readonly nextSeq: () => number;
  /** Raises the counter to a recovered write_seq. */
  readonly raiseSeq: (n: number) => void;
  /** Whether some client's locks are still to be recovered. */
  readonly recovering: () => boolean;
}

interface Entry {
  readonly holder: LockHolder;
  mode: number;
  /** Message id of a request; 0 otherwise. */
  readonly id: number;
}

/** All that is known of one lock; freed when its lists are empty. */
interface Lock {
  readonly key: Uint8Array;
  readonly hash: number;
  granted: Entry[];
  requested: Entry[];
  invalidating: Entry[];
  /** Next lock of the same hash. */
  next: Lock | null;
}

/** A holder's entry of a lock, for tests and status displays. */
export interface LockView {
  readonly key: Key;
  readonly granted: readonly { holder: LockHolder; mode: number }[];
  readonly requested: readonly { holder: LockHolder; mode: number }[];
  readonly invalidating: readonly { holder: LockHolder; mode: number }[];
}

const KEY_BYTES = 32;
const COMPATIBLE = -1;

/** 04 §22.2: COMPATIBLE, or the mode that the granted entry must be reduced to. */
function reduceTo(granted: number, requested: number, same: boolean): number {
  switch (granted) {
    case LOCK_NULL:
      return same ? LOCK_NULL : COMPATIBLE;
    case LOCK_READ:
      if (requested === LOCK_READ) return COMPATIBLE;
      if (same) return requested === LOCK_WRITE ? COMPATIBLE : LOCK_NULL;
      return requested === LOCK_NULL ? COMPATIBLE : LOCK_NULL;
    case LOCK_WRITE:
      if (requested === LOCK_READ) return LOCK_READ;
      return requested === LOCK_NULL && !same ? COMPATIBLE : LOCK_NULL;
    default:
      if (requested === LOCK_WRITE_ONLY) return COMPATIBLE;
      return requested === LOCK_NULL && !same ? COMPATIBLE : LOCK_NULL;
  }
}

export class LockServer {
  readonly #env: LockServerEnv;
  readonly #buckets = new Map<number, Lock>();
  #count = 0;
  readonly #out = NetLock.alloc();
  readonly #outBytes = this.#out.bytes;

  constructor(env: LockServerEnv) {
    this.#env = env;
  }

  /** Number of locks with state. */
  get count(): number {
    return this.#count;
  }

  /** A LOCK request (04 §22.4); throws ProtocolError when malformed. */
  request(holder: LockHolder, id: number, payload: Uint8Array): void {
    const mode = requireLock(payload)[41];
    const lock = this.#find(payload, 0) ?? this.#create(payload, 0);
    lock.requested.push({ holder, mode, id });
    this.#process(lock);
  }

  /** The response to an invalidation; throws ProtocolError when it answers none. */
  invalidated(holder: LockHolder, payload: Uint8Array): void {
    const mode = requireLock(payload)[41];
    const lock = this.#find(payload, 0);
    const i = lock === null ? -1 : indexOf(lock.invalidating, holder);
    if (lock === null || i < 0) {
      throw new ProtocolError("LOCK response without an invalidation");
    }
    const [entry] = lock.invalidating.splice(i, 1);
    if (mode !== LOCK_NULL) {
      entry.mode = mode;
      lock.granted.push(entry);
    }
    this.#process(lock);
    this.#freeIfUnused(lock);
  }

  /**
   * A page of recovered locks (04 §22.7). Returns the key to continue from, or null after the last
   * page. Throws ProtocolError when malformed or contradicting what was reported before.
   */
  recovered(holder: LockHolder, payload: Uint8Array): Key | null {
    if (payload.length < LockRecover.SIZE) throw new ProtocolError("short LOCK_RECOVER response");
    const page = LockRecover.at(payload);
    const { nr } = page;
    if (nr > LOCK_RECOVER_MAX || payload.length !== LockRecover.SIZE + nr * NetLock.SIZE) {
      throw new ProtocolError(`LOCK_RECOVER response of ${payload.length} bytes for ${nr} locks`);
    }
    if (nr === 0) return null;
    for (let i = 0; i < nr; i++) {
      const off = LockRecover.SIZE + i * NetLock.SIZE;
      const one = payload.subarray(off, off + NetLock.SIZE);
      this.#recoverOne(holder, one);
    }
    return page.lock(nr - 1).key.inc();
  }

  /** All recovery is complete: serves what was queued. */
  recoveryFinished(): void {
    assert(!this.#env.recovering(), "locks served during recovery");
    for (const lock of this.#all()) this.#process(lock);
  }

  /** Reclaim of a client (04 §22.5): it holds, wants and owes nothing any more. Idempotent. */
  removeHolder(holder: LockHolder): void {
    for (const lock of this.#all()) {
      const others = (e: Entry): boolean => e.holder !== holder;
      const before = lock.granted.length + lock.requested.length + lock.invalidating.length;
      lock.granted = lock.granted.filter(others);
      lock.requested = lock.requested.filter(others);
      lock.invalidating = lock.invalidating.filter(others);
      const after = lock.granted.length + lock.requested.length + lock.invalidating.length;
      if (after !== before) this.#process(lock);
      this.#freeIfUnused(lock);
    }
  }

  /** A snapshot of every lock. */
  *locks(): Generator<LockView> {
    const view = (e: Entry): { holder: LockHolder; mode: number } => ({
      holder: e.holder,
      mode: e.mode,
    });
    for (const lock of this.#all()) {
      yield {
        key: Key.read(new DataView(lock.key.buffer), 0),
        granted: lock.granted.map(view),
        requested: lock.requested.map(view),
        invalidating: lock.invalidating.map(view),
      };
    }
  }

  #recoverOne(holder: LockHolder, one: Uint8Array): void {
    const mode = requireLock(one)[41];
    this.#env.raiseSeq(writeSeqOf(one));
    if (mode === LOCK_NULL) return; // a reference client lists locks it only waits for (H12)
    const lock = this.#find(one, 0) ?? this.#create(one, 0);
    const known = lock.granted.find((e) => e.holder === holder);
    // A client that greeted twice during recovery reports twice (04 §16), then perhaps less.
    if (known === undefined) lock.granted.push({ holder, mode, id: 0 });
    else if (known.mode !== mode && !(known.mode === LOCK_WRITE && mode === LOCK_READ)) {
      throw new ProtocolError("lock recovered twice, in different modes");
    }
  }

  /** 04 §22.3. */
  #process(lock: Lock): void {
    if (lock.invalidating.length > 0 || this.#env.recovering()) return;
    while (lock.requested.length > 0) {
      const req = lock.requested[0];
      if (!this.#clearTheWay(lock, req) || !req.holder.reachable) return;
      const held = indexOf(lock.granted, req.holder);
      let old = LOCK_NULL;
      if (held >= 0) {
        old = lock.granted[held].mode;
        lock.granted.splice(held, 1);
      }
      lock.requested.shift();
      const writes = req.mode === LOCK_WRITE || req.mode === LOCK_WRITE_ONLY;
      const seq = writes ? this.#env.nextSeq() : 0;
      if (req.mode !== LOCK_NULL) {
        lock.granted.push({ holder: req.holder, mode: req.mode, id: 0 });
      }
      req.holder.grantLock(req.id, this.#message(lock, seq, old, req.mode));
    }
    this.#freeIfUnused(lock);
  }

  /** Asks incompatible holders to give up; true when `req` can be granted now. */
  #clearTheWay(lock: Lock, req: Entry): boolean {
    for (let i = 0; i < lock.granted.length;) {
      const g = lock.granted[i];
      const target = reduceTo(g.mode, req.mode, g.holder === req.holder);
      if (target === COMPATIBLE) {
        i++;
        continue;
      }
      if (!g.holder.reachable) return false; // its reclaim comes back to this lock
      lock.granted.splice(i, 1);
      lock.invalidating.push(g);
      g.holder.invalidateLock(this.#message(lock, 0, g.mode, target));
    }
    return lock.invalidating.length === 0;
  }

  /** The payload in the one output buffer, to be copied by whoever sends it. */
  #message(lock: Lock, seq: number, oldMode: number, newMode: number): Uint8Array {
    this.#outBytes.set(lock.key, 0);
    setU64(this.#out.v, 32, seq);
    this.#outBytes[40] = oldMode;
    this.#outBytes[41] = newMode;
    return this.#outBytes;
  }

  #find(b: Uint8Array, o: number): Lock | null {
    let lock = this.#buckets.get(hashKey(b, o)) ?? null;
    while (lock !== null && !sameKey(lock.key, b, o)) lock = lock.next;
    return lock;
  }

  #create(b: Uint8Array, o: number): Lock {
    const hash = hashKey(b, o);
    const key = b.slice(o, o + KEY_BYTES);
    key.fill(0, KEY_BYTES - 5); // padding takes no part
    const lock: Lock = {
      key,
      hash,
      granted: [],
      requested: [],
      invalidating: [],
      next: this.#buckets.get(hash) ?? null,
    };
    this.#buckets.set(hash, lock);
    this.#count++;
    return lock;
  }

  #freeIfUnused(lock: Lock): void {
    if (lock.granted.length + lock.requested.length + lock.invalidating.length > 0) return;
    const head = this.#buckets.get(lock.hash);
    if (head === undefined) return;
    if (head === lock) {
      if (lock.next === null) this.#buckets.delete(lock.hash);
      else this.#buckets.set(lock.hash, lock.next);
      this.#count--;
      return;
    }
    for (let at = head; at.next !== null; at = at.next) {
      if (at.next === lock) {
        at.next = lock.next;
        this.#count--;
        return;
      }
    }
  }

  /** A copy of the list of locks: processing may free some. */
  #all(): Lock[] {
    const all: Lock[] = [];
    for (const head of this.#buckets.values()) {
      for (let lock: Lock | null = head; lock !== null; lock = lock.next) all.push(lock);
    }
    return all;
  }
}

function requireLock(payload: Uint8Array): Uint8Array {
  if (payload.length !== NetLock.SIZE) {
    throw new ProtocolError(`LOCK payload of ${payload.length} bytes`);
  }
  if (payload[40] >= LOCK_MODE_NR || payload[41] >= LOCK_MODE_NR) {
    throw new ProtocolError("LOCK with an invalid mode");
  }
  return payload;
}

function writeSeqOf(lock: Uint8Array): number {
  try {
    return getU64(new DataView(lock.buffer, lock.byteOffset, lock.length), 32);
  } catch (e) {
    if (e instanceof FormatError) throw new ProtocolError(`write_seq: ${e.message}`);
    throw e;
  }
}

function indexOf(entries: readonly Entry[], holder: LockHolder): number {
  for (let i = 0; i < entries.length; i++) if (entries[i].holder === holder) return i;
  return -1;
}

/** The 27 meaningful bytes of a stored key. */
const KEY_USED = 27;

function hashKey(b: Uint8Array, o: number): number {
  let h = 0x811c9dc5;
  for (let i = o; i < o + KEY_USED; i++) h = Math.imul(h ^ b[i], 0x01000193);
  return h >>> 0;
}

function sameKey(key: Uint8Array, b: Uint8Array, o: number): boolean {
  for (let i = 0; i < KEY_USED; i++) if (key[i] !== b[o + i]) return false;
  return true;
}
