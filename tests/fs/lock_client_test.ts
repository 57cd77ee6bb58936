/** The lock client alone: messages against 04 §21, pins, closing, recovery pages, shrinking. */

import assert from "node:assert/strict";
import { bytesEqual } from "../../format/bytes.ts";
import { Key } from "../../format/key.ts";
import { TYPE_INODE_INDEX_META_SEQ } from "../../format/constants.ts";
import { ENOLINK } from "../../format/errno.ts";
import {
  CMD_LOCK,
  CMD_LOCK_RECOVER,
  LOCK_NULL,
  LOCK_READ,
  LOCK_WRITE,
  LOCK_WRITE_ONLY,
  LockRecover,
  NetLock,
} from "../../format/wire.ts";
import { FsError } from "../../fs/errors.ts";
import type { ServerLink } from "../../fs/link.ts";
import { type ClusterLock, LockClient, type LockHooks } from "../../fs/lock_client.ts";
import { LockSet } from "../../fs/op.ts";
import { settle } from "../helpers/local_cluster.ts";

type Handler = (payload: Uint8Array, respond: (payload: Uint8Array) => void) => void;

/** A server of the test's own: it sees requests and answers them when told. */
class Wire implements ServerLink {
  readonly ownServer = false;
  readonly sent: { msg: NetLock; complete: (errno: number, payload: Uint8Array) => void }[] = [];
  readonly #handlers = new Map<number, Handler>();
  #seq = 100;
  /** Grants at once. */
  auto = true;

  request(): Promise<Uint8Array> {
    throw new Error("locks are not asked for by request()");
  }
  submit(
    cmd: number,
    payload: Uint8Array,
    complete: (errno: number, payload: Uint8Array) => void,
  ): void {
    assert.equal(cmd, CMD_LOCK);
    this.sent.push({ msg: NetLock.at(payload.slice()), complete });
    if (this.auto) queueMicrotask(() => this.grant());
  }
  setHandler(cmd: number, fn: Handler): void {
    this.#handlers.set(cmd, fn);
  }
  /** Answers the oldest request. */
  grant(oldMode = LOCK_NULL): void {
    const { msg, complete } = this.sent.shift()!;
    msg.oldMode = oldMode;
    msg.writeSeq = msg.newMode >= LOCK_WRITE ? ++this.#seq : 0;
    complete(0, msg.bytes);
  }
  ask(cmd: number, payload: Uint8Array): { answer: Uint8Array | null } {
    const result: { answer: Uint8Array | null } = { answer: null };
    this.#handlers.get(cmd)!(payload, (bytes) => result.answer = bytes.slice());
    return result;
  }
  invalidate(lock: ClusterLock, oldMode: number, newMode: number) {
    const msg = NetLock.alloc();
    msg.key = lock.start;
    msg.oldMode = oldMode;
    msg.newMode = newMode;
    msg.writeSeq = 77;
    return { sent: msg.bytes.slice(), result: this.ask(CMD_LOCK, msg.bytes) };
  }
}

interface World {
  readonly wire: Wire;
  readonly locks: LockClient;
  readonly did: string[];
  readonly hooks: LockHooks;
}

function world(lockIdleCount = 1000): World {
  const wire = new Wire();
  const did: string[] = [];
  const hooks: LockHooks = {
    openSeq: () => 50,
    makeDurable: () => {
      did.push("commit");
      return Promise.resolve();
    },
    dropItems: (lock) => did.push(`drop ${lock.start.first}`),
    onInvalidateQuota: () => did.push("quota"),
    onInvalidateInodes: (first, last, mode) => void did.push(`inodes ${first} ${last} ${mode}`),
  };
  return { wire, did, hooks, locks: new LockClient(wire, hooks, { lockIdleCount }) };
}

const pin = (w: World, wanted: [ClusterLock, number][], writeOut = false): Promise<LockSet> => {
  const set = new LockSet();
  for (const [lock, mode] of wanted) set.merge(lock, mode);
  return w.locks.acquireAll(set, writeOut);
};

Deno.test("lock request and grant: one request for all waiters, versions and generations", async () => {
  const w = world();
  w.wire.auto = false;
  const lock = w.locks.inode(5000);
  assert.equal(lock, w.locks.inode(4096 + 1023));
  const readers = [pin(w, [[lock, LOCK_READ]]), pin(w, [[lock, LOCK_READ]])];
  const writer = pin(w, [[lock, LOCK_WRITE]]);
  assert.equal(w.wire.sent.length, 1);
  const { msg } = w.wire.sent[0]!;
  assert.ok(msg.key.equals(Key.of(16, 4096, 0)));
  assert.deepEqual([msg.oldMode, msg.newMode], [LOCK_NULL, LOCK_READ]);
  w.wire.grant();
  const sets = await Promise.all(readers);
  assert.equal(lock.users[LOCK_READ], 2);
  assert.equal(lock.refreshGen, 1);
  assert.equal(w.wire.sent.length, 1, "then the stronger mode is asked for");
  assert.deepEqual([w.wire.sent[0]!.msg.oldMode, w.wire.sent[0]!.msg.newMode], [1, 2]);
  w.wire.grant(LOCK_READ);
  sets.push(await writer);
  assert.equal(lock.refreshGen, 1, "it was readable all the time");
  assert.equal(lock.writeSeq, 101);
  for (const set of sets) w.locks.unpin(set);
  assert.ok(lock.idle);
});

Deno.test("invalidation to NULL: waits for users, commits what is dirty, drops, echoes", async () => {
  const w = world();
  const lock = w.locks.inode(5000);
  const set = await pin(w, [[lock, LOCK_WRITE]]);
  lock.dirtySeq = 50;
  const { sent, result } = w.wire.invalidate(lock, LOCK_WRITE, LOCK_NULL);
  await settle();
  assert.deepEqual([w.did, result.answer], [[], null]);
  w.locks.unpin(set);
  await settle();
  assert.deepEqual(w.did, ["inodes 4096 5119 0", "commit", "drop 4096"]);
  assert.ok(result.answer !== null && bytesEqual(result.answer, sent));
  assert.equal(w.locks.count, 0, "an idle NULL lock is freed");
});

Deno.test("invalidation to READ keeps items and readers; nothing dirty, no commit", async () => {
  const w = world();
  const lock = w.locks.inode(5000);
  const [write, read] = [await pin(w, [[lock, LOCK_WRITE]]), await pin(w, [[lock, LOCK_READ]])];
  lock.dirtySeq = 49;
  const { result } = w.wire.invalidate(lock, LOCK_WRITE, LOCK_READ);
  w.locks.unpin(write);
  await settle();
  assert.ok(result.answer !== null);
  assert.deepEqual(w.did, ["inodes 4096 5119 1"]);
  assert.equal(lock.mode, LOCK_READ);
  w.locks.unpin(read);
});

Deno.test("a closing lock: new users wait, write-out does not, then it is asked for again", async () => {
  const w = world();
  const lock = w.locks.inode(5000);
  const first = await pin(w, [[lock, LOCK_WRITE]]);
  let flushed = () => {};
  w.hooks.onInvalidateInodes = () => new Promise((resolve) => flushed = resolve);
  const { result } = w.wire.invalidate(lock, LOCK_WRITE, LOCK_NULL);
  let late: LockSet | null = null;
  const waiting = pin(w, [[lock, LOCK_READ]]).then((set) => late = set);
  await settle();
  assert.equal(late, null);
  w.locks.unpin(first);
  await settle();
  // The kernel writes pages out because of the invalidation.
  const writeOut = await pin(w, [[lock, LOCK_WRITE]], true);
  flushed();
  await settle();
  assert.equal(result.answer, null, "the write-out has not ended");
  w.locks.unpin(writeOut);
  await settle();
  assert.ok(result.answer !== null);
  await waiting;
  assert.equal(lock.mode, LOCK_READ);
});

Deno.test("an invalidation right behind the grant comes after it; several are served in order", async () => {
  const w = world();
  w.wire.auto = false;
  const lock = w.locks.quota();
  const waiting = pin(w, [[lock, LOCK_WRITE]]);
  w.wire.grant();
  const a = w.wire.invalidate(lock, LOCK_WRITE, LOCK_READ);
  const b = w.wire.invalidate(lock, LOCK_READ, LOCK_NULL);
  const set = await waiting;
  assert.equal(lock.mode, LOCK_WRITE, "the waiter was served first");
  await settle();
  assert.equal(a.result.answer, null);
  w.locks.unpin(set);
  await settle();
  assert.ok(a.result.answer !== null && b.result.answer !== null);
  assert.deepEqual(w.did, ["quota", "drop 0"]);
  assert.equal(w.locks.count, 0);
});

Deno.test("an invalidation of a lock that does not exist is echoed; nonsense closes the connection", () => {
  const w = world();
  const lock = w.locks.inode(5000);
  const other = world().locks.inode(90000);
  const { sent, result } = w.wire.invalidate(other, LOCK_READ, LOCK_NULL);
  assert.ok(result.answer !== null && bytesEqual(result.answer, sent));
  assert.throws(() => w.wire.invalidate(lock, LOCK_READ, LOCK_WRITE));
  assert.throws(() => w.wire.ask(CMD_LOCK, new Uint8Array(47)));
});

Deno.test("recovery: all held locks in key order, at most 22 a page, an empty page at the end", async () => {
  const w = world();
  for (let i = 0; i < 50; i++) {
    const lock = i % 5 === 0
      ? w.locks.index(TYPE_INODE_INDEX_META_SEQ, i * 5000)
      : w.locks.inode((97 * i % 50 + 1) * 1024);
    w.locks.unpin(await pin(w, [[lock, i % 5 === 0 ? LOCK_WRITE_ONLY : 1 + i % 2]]));
  }
  w.locks.inode(10_000_000); // NULL: not reported
  const found: Key[] = [];
  let from = Key.ZEROS;
  const pages: number[] = [];
  for (;;) {
    const bytes = w.wire.ask(CMD_LOCK_RECOVER, from.toBytes()).answer!;
    const page = LockRecover.at(bytes);
    assert.equal(bytes.length, LockRecover.SIZE + page.nr * NetLock.SIZE);
    pages.push(page.nr);
    if (page.nr === 0) break;
    for (let i = 0; i < page.nr; i++) {
      const { key, oldMode, newMode } = page.lock(i);
      assert.ok(oldMode === newMode && newMode !== LOCK_NULL);
      assert.ok(found.length === 0 || found.at(-1)!.compare(key) < 0);
      found.push(key);
    }
    from = found.at(-1)!.inc();
  }
  assert.deepEqual(pages, [22, 22, 6, 0]);
});

Deno.test("recovery reports the mode before an invalidation that is in progress", async () => {
  const w = world();
  const lock = w.locks.inode(5000);
  w.locks.unpin(await pin(w, [[lock, LOCK_WRITE]]));
  lock.dirtySeq = 50;
  let committed = () => {};
  w.hooks.makeDurable = () => new Promise((resolve) => committed = resolve);
  const { result } = w.wire.invalidate(lock, LOCK_WRITE, LOCK_NULL);
  await settle();
  assert.equal(lock.mode, LOCK_NULL);
  const page = LockRecover.at(w.wire.ask(CMD_LOCK_RECOVER, Key.ZEROS.toBytes()).answer!);
  assert.deepEqual([page.nr, page.lock(0).newMode, page.lock(0).writeSeq], [1, LOCK_WRITE, 101]);
  committed();
  await settle();
  assert.ok(result.answer !== null);
  const after = LockRecover.at(w.wire.ask(CMD_LOCK_RECOVER, Key.ZEROS.toBytes()).answer!);
  assert.equal(after.nr, 0);
});

Deno.test("idle locks beyond the limit are given up, locks in use are not", async () => {
  const w = world(32);
  const kept = await pin(w, [[w.locks.inode(0), LOCK_WRITE]]);
  w.wire.auto = false;
  for (let i = 1; i < 200; i++) {
    const taken = pin(w, [[w.locks.inode(i * 1024), LOCK_READ]]);
    w.wire.grant();
    w.locks.unpin(await taken);
    // The server answers a request for NULL by taking the lock away, then granting NULL.
    while (w.wire.sent.length > 0) {
      const { msg } = w.wire.sent[0]!;
      assert.equal(msg.newMode, LOCK_NULL);
      w.wire.invalidate(w.locks.inode(msg.key.first), msg.oldMode, LOCK_NULL);
      await settle();
      w.wire.grant();
    }
  }
  assert.ok(w.locks.count <= 34, `${w.locks.count} locks are left`);
  assert.equal(w.locks.inode(0).mode, LOCK_WRITE);
  w.locks.unpin(kept);
});

Deno.test("after a stop lock calls fail, and invalidations are answered without work", async () => {
  const w = world();
  const lock = w.locks.inode(5000);
  w.locks.unpin(await pin(w, [[lock, LOCK_WRITE]]));
  lock.dirtySeq = 50;
  w.wire.auto = false;
  const waiting = pin(w, [[w.locks.inode(9000), LOCK_READ]]);
  w.locks.stop();
  const dead = (e: unknown) => e instanceof FsError && e.errno === ENOLINK;
  await assert.rejects(waiting, dead);
  await assert.rejects(pin(w, [[lock, LOCK_READ]]), dead);
  const { result } = w.wire.invalidate(lock, LOCK_WRITE, LOCK_NULL);
  await settle();
  assert.ok(result.answer !== null);
  assert.deepEqual(w.did, ["drop 4096"]);
});
