/**
 * The lock server: the table of 04 §22.2 row by row, then random clients that hold, want, shrink,
 * vanish and recover, against the invariants of 04 §28, 19–23 and 27–28.
 */

import assert from "node:assert/strict";
import fc from "fast-check";
import { Key } from "../../format/key.ts";
import {
  LOCK_NULL,
  LOCK_READ,
  LOCK_WRITE,
  LOCK_WRITE_ONLY,
  LockRecover,
  NetLock,
} from "../../format/wire.ts";
import { ProtocolError } from "../../net/frame.ts";
import { type LockHolder, LockServer } from "../../net/lock_server.ts";
import { SeededRandom } from "../helpers/sim_reactor.ts";

const KEYS = [0, 1024, 2048].map((ino) => Key.of(16, ino, 0));

function lockMessage(key: Key, oldMode: number, newMode: number, writeSeq = 0): Uint8Array {
  const m = NetLock.alloc();
  m.key = key;
  m.oldMode = oldMode;
  m.newMode = newMode;
  m.writeSeq = writeSeq;
  return m.bytes.slice();
}

interface Sent {
  kind: "grant" | "invalidate";
  id: number;
  key: Key;
  oldMode: number;
  newMode: number;
  writeSeq: number;
}

class Recorder implements LockHolder {
  reachable = true;
  sent: Sent[] = [];
  constructor(readonly name: string) {}
  grantLock(id: number, payload: Uint8Array): void {
    this.#note("grant", id, payload);
  }
  invalidateLock(payload: Uint8Array): void {
    this.#note("invalidate", 0, payload);
  }
  #note(kind: Sent["kind"], id: number, payload: Uint8Array): void {
    const m = NetLock.at(payload.slice());
    const { key, oldMode, newMode, writeSeq } = m;
    this.sent.push({ kind, id, key, oldMode, newMode, writeSeq });
  }
  take(): string[] {
    const modes = ["NULL", "READ", "WRITE", "WRITE_ONLY"];
    const texts = this.sent.map((s) => `${s.kind} ${modes[s.oldMode]}→${modes[s.newMode]}`);
    this.sent = [];
    return texts;
  }
}

function newServer(recovering: () => boolean = () => false): { server: LockServer; seq: number[] } {
  const seq = [100];
  const server = new LockServer({
    nextSeq: () => ++seq[0],
    raiseSeq: (n) => seq[0] = Math.max(seq[0], n),
    recovering,
  });
  return { server, seq };
}

/** 04 §22.2: granted mode → requested mode → what another holder and the same holder get told. */
const TABLE: [number, number, number | null, number | null][] = [
  [LOCK_READ, LOCK_READ, null, null],
  [LOCK_READ, LOCK_WRITE, LOCK_NULL, null],
  [LOCK_READ, LOCK_WRITE_ONLY, LOCK_NULL, LOCK_NULL],
  [LOCK_READ, LOCK_NULL, null, LOCK_NULL],
  [LOCK_WRITE, LOCK_READ, LOCK_READ, LOCK_READ],
  [LOCK_WRITE, LOCK_WRITE, LOCK_NULL, LOCK_NULL],
  [LOCK_WRITE, LOCK_WRITE_ONLY, LOCK_NULL, LOCK_NULL],
  [LOCK_WRITE, LOCK_NULL, null, LOCK_NULL],
  [LOCK_WRITE_ONLY, LOCK_READ, LOCK_NULL, LOCK_NULL],
  [LOCK_WRITE_ONLY, LOCK_WRITE, LOCK_NULL, LOCK_NULL],
  [LOCK_WRITE_ONLY, LOCK_WRITE_ONLY, null, null],
  [LOCK_WRITE_ONLY, LOCK_NULL, null, LOCK_NULL],
];

Deno.test("compatibility of granted and requested modes", () => {
  for (const [held, wanted, other, same] of TABLE) {
    for (const self of [false, true]) {
      const { server } = newServer();
      const holder = new Recorder("holder");
      const asker = self ? holder : new Recorder("asker");
      server.request(holder, 1, lockMessage(KEYS[0], LOCK_NULL, held));
      assert.deepEqual(holder.sent.map((s) => s.kind), ["grant"]);
      holder.sent = [];
      server.request(asker, 2, lockMessage(KEYS[0], held, wanted));
      const target = self ? same : other;
      const what = `${held} held, ${wanted} wanted by ${self ? "the same" : "another"}`;
      if (target === null) {
        assert.deepEqual(asker.sent.map((s) => [s.kind, s.newMode]), [["grant", wanted]], what);
        assert.equal(asker.sent[0].oldMode, self ? held : LOCK_NULL, what);
        continue;
      }
      assert.deepEqual(
        holder.sent.map((s) => [s.kind, s.oldMode, s.newMode]),
        [["invalidate", held, target]],
        what,
      );
      holder.sent = [];
      server.invalidated(holder, lockMessage(KEYS[0], held, target));
      assert.deepEqual(asker.sent.map((s) => [s.kind, s.newMode]), [["grant", wanted]], what);
      assert.equal(asker.sent[0].oldMode, self ? target : LOCK_NULL, what);
    }
  }
});

Deno.test("write grants carry rising seqs, others 0", () => {
  const { server } = newServer();
  const a = new Recorder("a");
  server.request(a, 1, lockMessage(KEYS[0], 0, LOCK_READ));
  server.request(a, 2, lockMessage(KEYS[0], 0, LOCK_WRITE));
  server.request(a, 3, lockMessage(KEYS[1], 0, LOCK_WRITE_ONLY));
  assert.deepEqual(a.sent.map((s) => s.writeSeq), [0, 101, 102]);
});

Deno.test("the oldest request blocks later ones (27)", () => {
  const { server } = newServer();
  const [a, b, c] = ["a", "b", "c"].map((n) => new Recorder(n));
  server.request(a, 1, lockMessage(KEYS[0], 0, LOCK_READ));
  server.request(b, 1, lockMessage(KEYS[0], 0, LOCK_WRITE));
  server.request(c, 1, lockMessage(KEYS[0], 0, LOCK_READ)); // compatible with a, but later than b
  assert.deepEqual([a.take(), b.take(), c.take()], [
    ["grant NULL→READ", "invalidate READ→NULL"],
    [],
    [],
  ]);
  server.invalidated(a, lockMessage(KEYS[0], LOCK_READ, LOCK_NULL));
  assert.deepEqual([b.take(), c.take()], [["grant NULL→WRITE", "invalidate WRITE→READ"], []]);
  server.invalidated(b, lockMessage(KEYS[0], LOCK_WRITE, LOCK_READ));
  assert.deepEqual(c.take(), ["grant NULL→READ"]);
});

Deno.test("reclaim frees what the dead held, wanted and owed, and serves who waited", () => {
  const { server } = newServer();
  const [dead, b] = ["dead", "b"].map((n) => new Recorder(n));
  server.request(dead, 1, lockMessage(KEYS[0], 0, LOCK_WRITE));
  server.request(b, 1, lockMessage(KEYS[0], 0, LOCK_WRITE));
  server.request(dead, 2, lockMessage(KEYS[0], 0, LOCK_READ));
  server.request(dead, 3, lockMessage(KEYS[1], 0, LOCK_WRITE));
  dead.reachable = false;
  server.request(b, 2, lockMessage(KEYS[1], 0, LOCK_READ));
  assert.deepEqual(b.take(), []);
  server.removeHolder(dead);
  assert.deepEqual(b.take(), ["grant NULL→WRITE", "grant NULL→READ"]);
  server.removeHolder(dead);
  server.removeHolder(b);
  assert.equal(server.count, 0, "unused locks are freed");
});

Deno.test("malformed and unexpected lock messages are protocol errors", () => {
  const { server } = newServer();
  const a = new Recorder("a");
  const bad = (run: () => void): void => assert.throws(run, ProtocolError);
  bad(() => server.request(a, 1, new Uint8Array(47)));
  bad(() => server.request(a, 1, lockMessage(KEYS[0], 0, 4)));
  bad(() => server.invalidated(a, lockMessage(KEYS[0], LOCK_READ, LOCK_NULL)));
  bad(() => server.recovered(a, new Uint8Array(8 + 47)));
  assert.equal(server.count, 0);
});

Deno.test("recovery: nothing is sent before it ends; duplicates and weaker repeats are tolerated", () => {
  let recovering = true;
  const { server, seq } = newServer(() => recovering);
  const [a, b] = ["a", "b"].map((n) => new Recorder(n));
  const page = (locks: [Key, number, number][]): Uint8Array => {
    const bytes = new Uint8Array(LockRecover.SIZE + locks.length * NetLock.SIZE);
    LockRecover.at(bytes).nr = locks.length;
    locks.forEach(([k, mode, ws], i) =>
      bytes.set(lockMessage(k, mode, mode, ws), LockRecover.SIZE + i * NetLock.SIZE)
    );
    return bytes;
  };
  server.request(b, 1, lockMessage(KEYS[0], 0, LOCK_READ));
  const next = server.recovered(a, page([[KEYS[0], LOCK_WRITE, 5000], [KEYS[1], LOCK_NULL, 0]]));
  assert.deepEqual(next, KEYS[1].inc());
  assert.deepEqual(server.recovered(a, page([[KEYS[0], LOCK_READ, 5000]])), KEYS[0].inc());
  assert.throws(() => server.recovered(a, page([[KEYS[0], LOCK_WRITE_ONLY, 1]])), ProtocolError);
  assert.equal(server.recovered(a, page([])), null);
  assert.equal(seq[0], 5000);
  assert.deepEqual([a.take(), b.take()], [[], []]);
  recovering = false;
  server.recoveryFinished();
  assert.deepEqual([a.take(), b.take()], [["invalidate WRITE→READ"], []]);
});

// Random clients

/** A client by 04 §21, its messages in two queues that move when told. */
class ModelClient implements LockHolder {
  reachable = true;
  readonly inbox: { kind: "grant" | "invalidate"; m: NetLock }[] = [];
  readonly outbox: { kind: "request" | "invalidated"; bytes: Uint8Array }[] = [];
  readonly locks = KEYS.map(() => ({
    mode: LOCK_NULL,
    invalidating: LOCK_NULL,
    pending: false,
    holding: LOCK_NULL,
    queue: [] as NetLock[],
  }));
  constructor(readonly nr: number, readonly granted: (m: NetLock) => void) {}

  grantLock(_id: number, payload: Uint8Array): void {
    this.granted(NetLock.at(payload));
    this.inbox.push({ kind: "grant", m: NetLock.at(payload.slice()) });
  }
  invalidateLock(payload: Uint8Array): void {
    this.inbox.push({ kind: "invalidate", m: NetLock.at(payload.slice()) });
  }
  effective(i: number): number {
    const l = this.locks[i];
    return l.invalidating !== LOCK_NULL ? l.invalidating : l.mode;
  }
}

const satisfies = (g: number, w: number): boolean =>
  g === w || (g === LOCK_WRITE && w === LOCK_READ);
const compatible = (a: number, b: number): boolean =>
  a === LOCK_NULL || b === LOCK_NULL || (a === b && a !== LOCK_WRITE);
/** 04 §28, 20: NULL < READ < WRITE, NULL < WRITE_ONLY. */
const atMost = (a: number, b: number): boolean => a === LOCK_NULL || satisfies(b, a);

function run(seed: number, steps: number): void {
  const random = new SeededRandom(seed);
  const { server } = newServer();
  let lastSeq = 0;
  const granted = (m: NetLock): void => {
    const writes = m.newMode === LOCK_WRITE || m.newMode === LOCK_WRITE_ONLY;
    assert.ok(writes ? m.writeSeq > lastSeq : m.writeSeq === 0, "(21)");
    if (writes) lastSeq = m.writeSeq;
  };
  const clients = [0, 1, 2, 3].map((nr) => new ModelClient(nr, granted));
  const keyIndex = (m: NetLock): number => KEYS.findIndex((k) => k.equals(m.key));

  const check = (): void => {
    KEYS.forEach((key, i) => {
      for (const a of clients) {
        for (const b of clients) {
          if (a.nr < b.nr) {
            assert.ok(compatible(a.effective(i), b.effective(i)), `seed ${seed}: (19) lock ${i}`);
          }
        }
      }
      const view = [...server.locks()].find((l) => l.key.equals(key));
      for (const c of clients) {
        const entries = [...view?.granted ?? [], ...view?.invalidating ?? []]
          .filter((e) => e.holder === c);
        assert.ok(entries.length <= 1, "one entry per holder");
        assert.ok(atMost(c.effective(i), entries[0]?.mode ?? LOCK_NULL), `seed ${seed}: (20)`);
      }
    });
  };

  const receive = (c: ModelClient): void => {
    const { kind, m } = c.inbox.shift()!;
    const i = keyIndex(m);
    const l = c.locks[i];
    if (kind === "grant") {
      assert.ok(l.pending, "a grant answers a request");
      const readable = l.mode === LOCK_READ || l.mode === LOCK_WRITE;
      assert.equal(m.oldMode === LOCK_READ || m.oldMode === LOCK_WRITE, readable, "22.6 rule 2");
      l.mode = m.newMode;
      l.pending = false;
    } else {
      assert.equal(m.oldMode, l.mode, "22.6 rule 4: old mode is what is held");
      assert.ok(
        m.newMode === LOCK_NULL || (m.oldMode === LOCK_WRITE && m.newMode === LOCK_READ),
      );
      assert.equal(l.queue.length, 0, "22.6 rule 5: one invalidation at a time");
      l.queue.push(m);
    }
  };

  const act = (c: ModelClient): void => {
    const i = random.below(KEYS.length);
    const l = c.locks[i];
    const what = random.below(6);
    if (what === 0 && !l.pending) {
      const want = [LOCK_READ, LOCK_WRITE, LOCK_WRITE_ONLY, LOCK_NULL][random.below(4)];
      if (
        want === LOCK_NULL
          ? l.mode === LOCK_NULL || l.holding !== LOCK_NULL
          : satisfies(l.mode, want)
      ) return;
      l.pending = true;
      c.outbox.push({ kind: "request", bytes: lockMessage(KEYS[i], l.mode, want) });
    } else if (what === 1 && l.mode !== LOCK_NULL) l.holding = l.mode;
    else if (what === 2) l.holding = LOCK_NULL;
    else if (what === 3 && l.queue.length > 0) {
      const next = l.queue[0].newMode;
      if (l.holding !== LOCK_NULL && !satisfies(next, l.holding)) return;
      l.invalidating = l.mode;
      l.mode = next;
    } else if (what === 4 && l.invalidating !== LOCK_NULL) {
      const m = l.queue.shift()!;
      l.invalidating = LOCK_NULL;
      c.outbox.push({ kind: "invalidated", bytes: m.bytes.slice() });
    } else if (what === 5 && random.oneIn(40)) {
      c.reachable = false; // it dies and is reclaimed
      server.removeHolder(c);
      clients[c.nr] = new ModelClient(c.nr, granted);
    }
  };

  const deliver = (c: ModelClient): void => {
    const { kind, bytes } = c.outbox.shift()!;
    if (kind === "request") server.request(c, 1, bytes);
    else server.invalidated(c, bytes);
  };

  const turn = (c: ModelClient): void => {
    if (c.outbox.length > 0 && random.oneIn(2)) deliver(c);
    else if (c.inbox.length > 0 && random.oneIn(2)) receive(c);
    else act(c);
    check();
  };
  for (let s = 0; s < steps; s++) turn(clients[random.below(clients.length)]);

  // (28) If holders unlock, every request is granted.
  for (let s = 0; s < 1000; s++) {
    let busy = false;
    for (const c of clients) {
      while (c.outbox.length > 0) deliver(c), busy = true;
      while (c.inbox.length > 0) receive(c), busy = true;
      c.locks.forEach((l) => {
        l.holding = LOCK_NULL;
        if (l.queue.length === 0) return;
        const m = l.queue.shift()!;
        l.mode = m.newMode;
        l.invalidating = LOCK_NULL;
        c.outbox.push({ kind: "invalidated", bytes: m.bytes.slice() });
        busy = true;
      });
      check();
    }
    if (!busy) break;
  }
  for (const c of clients) for (const l of c.locks) assert.ok(!l.pending, `seed ${seed}: (28)`);
}

Deno.test("random clients never hold conflicting locks, and always get theirs in the end", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 1e9 }), (seed) => run(seed, 400)),
    { numRuns: 60, seed: 20261123 },
  );
});
