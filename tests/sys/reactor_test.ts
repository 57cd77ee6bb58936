/** The event loop: timers, promise jobs, sockets, wake-ups. */
import assert from "node:assert/strict";
import fc from "fast-check";
import { sleep } from "../../fs/env.ts";
import type { Ipv4Addr, Stream } from "../../fs/env.ts";
import { FsError } from "../../fs/errors.ts";
import { EADDRINUSE, ECONNREFUSED } from "../../format/errno.ts";
import { libc } from "../../fs/sys/libc.ts";
import { SystemReactor } from "../../fs/sys/reactor.ts";
import { TimerHeap } from "../../fs/sys/timers.ts";
import { freePort } from "../helpers/ports.ts";

const LOOPBACK = 0x7f000001;
const any: Ipv4Addr = { addr: LOOPBACK, port: 0 };
const keepalive = { keepaliveMs: 24000 };
/** On loopback a connection is there at once, or never. */
const CONNECT_MS = 60_000;

async function withReactor(body: (r: SystemReactor) => Promise<void>): Promise<void> {
  const r = new SystemReactor();
  try {
    await r.runUntil(body(r));
  } finally {
    r.dispose();
  }
}

Deno.test("timers fire in order, cleared ones never", async () => {
  await withReactor(async (r) => {
    const seen: number[] = [];
    r.setTimer(9, () => seen.push(9));
    r.setTimer(3, () => seen.push(3));
    const gone = r.setTimer(5, () => seen.push(5));
    r.clearTimer(gone);
    await sleep(r, 15);
    assert.deepEqual(seen, [3, 9]);
  });
});

Deno.test("the timer heap gives times in order, whatever is removed", () => {
  fc.assert(fc.property(
    fc.array(fc.record({ at: fc.nat(50), gone: fc.boolean() }), { maxLength: 60 }),
    (timers) => {
      const heap = new TimerHeap();
      const fired: number[] = [];
      const ids = timers.map(({ at }) => heap.add(at, () => fired.push(at)));
      timers.forEach((t, i) => t.gone && heap.remove(ids[i] ?? 0));
      const expected = timers.filter((t) => !t.gone).map((t) => t.at).sort((a, b) => a - b);
      assert.equal(heap.nextAt(), expected[0] ?? Infinity);
      heap.fireDue(25);
      assert.deepEqual(fired, expected.filter((at) => at <= 25));
      heap.fireDue(100);
      assert.deepEqual(fired, expected);
      assert.equal(heap.nextAt(), Infinity);
    },
  ));
});

Deno.test("a long chain of promise jobs runs to its end before the loop sleeps", async () => {
  await withReactor(async () => {
    for (let i = 0; i < 1000; i++) await null;
  });
});

Deno.test("what a callback throws ends the loop with that error", async () => {
  const r = new SystemReactor();
  r.setTimer(0, () => {
    throw new Error("from a timer");
  });
  await assert.rejects(r.run(), /from a timer/);
  r.dispose();
});

Deno.test("another thread's write to the eventfd ends a sleep", async () => {
  const r = new SystemReactor();
  const woken = new Promise<void>((resolve) => r.onWake = resolve);
  const worker = new Worker(
    URL.createObjectURL(
      new Blob([`
        const libc = Deno.dlopen("libc.so.6", {
          write: { parameters: ["i32", "buffer", "usize"], result: "i32" } }).symbols;
        onmessage = (e) => { libc.write(e.data, new Uint8Array([1,0,0,0,0,0,0,0]), 8n); close(); };
      `], { type: "application/javascript" }),
    ),
    { type: "module" },
  );
  worker.postMessage(r.wakeFd);
  await r.runUntil(woken);
  worker.terminate();
  r.dispose();
});

Deno.test("TCP carries megabytes both ways, in order, and reports the end", async () => {
  await withReactor(async (r) => {
    const closed: string[] = [];
    const listener = r.listenTcp(any, keepalive, (s) => {
      s.onData = (b) => s.send(b); // echo
      s.onClose = (why) => closed.push(why);
    });
    const s = await r.connectTcp(listener.local, CONNECT_MS, keepalive);
    const out = new Uint8Array(3_000_000).map((_, i) => i * 7 + (i >> 8));
    const got: Uint8Array[] = [];
    let received = 0;
    const all = new Promise<void>((resolve) =>
      s.onData = (b) => {
        got.push(b.slice());
        received += b.length;
        if (received === out.length) resolve();
      }
    );
    for (let at = 0; at < out.length; at += 100_000) s.send(out.subarray(at, at + 100_000));
    await all;
    const back = new Uint8Array(received);
    let at = 0;
    for (const b of got) {
      back.set(b, at);
      at += b.length;
    }
    assert.ok(back.every((b, i) => b === out[i]));
    const own = new Promise<string>((resolve) => s.onClose = resolve);
    s.close();
    assert.equal(await own, "closed");
    while (closed.length === 0) await sleep(r, 1);
    assert.deepEqual(closed, ["end of stream"]);
    listener.close();
  });
});

Deno.test("callbacks never run from inside send or close", async () => {
  await withReactor(async (r) => {
    let accepted: Stream | null = null;
    const listener = r.listenTcp(any, keepalive, (s) => accepted = s);
    const s = await r.connectTcp(listener.local, CONNECT_MS, keepalive);
    let inside = true;
    const done = new Promise<void>((resolve) =>
      s.onClose = () => {
        assert.equal(inside, false);
        resolve();
      }
    );
    s.close();
    inside = false;
    await done;
    while (accepted === null) await sleep(r, 1);
    (accepted as Stream).close();
    listener.close();
  });
});

Deno.test("a refused connection and a taken port are FsErrors", async () => {
  await withReactor(async (r) => {
    const listener = r.listenTcp(any, keepalive, () => {});
    const at = listener.local;
    assert.throws(
      () => r.listenTcp(at, keepalive, () => {}),
      (e) => e instanceof FsError && e.errno === EADDRINUSE && e.message.includes("127.0.0.1"),
    );
    listener.close();
    await assert.rejects(
      r.connectTcp(at, CONNECT_MS, keepalive),
      (e) => e instanceof FsError && e.errno === ECONNREFUSED,
    );
  });
});

Deno.test("UDP datagrams keep their bounds and tell their sender", async () => {
  await withReactor(async (r) => {
    const seen: { text: string; from: Ipv4Addr }[] = [];
    const at = { addr: LOOPBACK, port: freePort() };
    const both = new Promise<void>((resolve) => {
      const a = r.bindUdp(at, (bytes, from) => {
        seen.push({ text: new TextDecoder().decode(bytes), from });
        if (seen.length === 2) {
          a.close();
          resolve();
        }
      });
    });
    const b = r.bindUdp(any, () => {});
    b.send(new TextEncoder().encode("one"), at);
    b.send(new TextEncoder().encode("two"), at);
    await both;
    assert.deepEqual(seen.map((s) => s.text), ["one", "two"]);
    assert.equal(seen[0]?.from.addr, LOOPBACK);
    b.close();
  });
});

Deno.test("a watcher that has more to do is called again while others get their turn", async () => {
  await withReactor(async (r) => {
    let rounds = 0;
    let timer = false;
    r.setTimer(2, () => timer = true);
    const fd = libc.eventfd(1, 0o2004000);
    await new Promise<void>((resolve) => {
      const handle = r.watch(fd, 1, () => {
        rounds++;
        if (!timer) return true;
        handle.remove();
        libc.close(fd);
        resolve();
        return false;
      });
    });
    assert.ok(rounds > 1);
  });
});
