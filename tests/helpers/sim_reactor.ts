/**
 * A whole network and clock in one process: virtual time, seeded, with delays, losses, duplicates,
 * partitions, broken connections and crashing hosts. Every node gets a `SimReactor`, an
 * implementation of `Reactor` that cannot be told from the real one by what runs on it. One seed
 * and one program give one history.
 */

import { setImmediate } from "node:timers";
import { EADDRINUSE, ECONNREFUSED, ECONNRESET, ETIMEDOUT } from "../../format/errno.ts";
import type {
  Ipv4Addr,
  Listener,
  Random,
  Reactor,
  Stream,
  TcpOptions,
  TimerId,
  UdpSocket,
} from "../../fs/env.ts";
import { assert, FsError } from "../../fs/errors.ts";

/** xorshift128+: the same seed gives the same numbers everywhere. */
export class SeededRandom implements Random {
  #a: number;
  #b: number;
  #c: number;
  #d: number;
  constructor(seed: number) {
    this.#a = seed >>> 0;
    this.#b = 0x9e3779b9;
    this.#c = 0x243f6a88;
    this.#d = 0xb7e15162 ^ seed;
    for (let i = 0; i < 20; i++) this.u32();
  }
  u32(): number {
    const t = (this.#a + this.#b + this.#d) >>> 0;
    this.#d = (this.#d + 1) >>> 0;
    this.#a = (this.#b ^ this.#b >>> 9) >>> 0;
    this.#b = (this.#c + (this.#c << 3)) >>> 0;
    this.#c = ((this.#c << 21 | this.#c >>> 11) + t) >>> 0;
    return t;
  }
  u64(): bigint {
    return BigInt(this.u32()) << 32n | BigInt(this.u32());
  }
  below(n: number): number {
    return Math.floor(this.u32() / 0x1_0000_0000 * n);
  }
  /** True once in `n`. */
  oneIn(n: number): boolean {
    return this.below(n) === 0;
  }
}

interface SimEvent {
  at: number;
  order: number;
  /** Runs only while this process lives. */
  host: SimReactor | null;
  run: () => void;
  cancelled: boolean;
}

export interface NetOptions {
  /** One-way delay in milliseconds, uniform. */
  minDelay: number;
  maxDelay: number;
  /** Datagrams lost and doubled, per thousand. */
  udpLoss: number;
  udpDuplicate: number;
  /** TCP bytes arrive in pieces of random size. */
  chunked: boolean;
}

const key = (a: Ipv4Addr): string => `${a.addr}:${a.port}`;

export class SimWorld {
  now = 0;
  readonly random: SeededRandom;
  readonly net: NetOptions;
  #heap: SimEvent[] = [];
  #order = 0;
  readonly listeners = new Map<string, SimListener>();
  readonly udp = new Map<string, SimUdp>();
  readonly streams = new Set<SimStream>();
  readonly #cuts = new Set<string>();
  /** A failure to report from `run`: an exception in some callback. */
  failure: unknown = null;

  constructor(seed: number, net: Partial<NetOptions> = {}) {
    this.random = new SeededRandom(seed);
    this.net = { minDelay: 0.1, maxDelay: 2, udpLoss: 0, udpDuplicate: 0, chunked: true, ...net };
  }

  /** The reactor of a new process on the host with address `addr`. */
  process(addr: number): SimReactor {
    return new SimReactor(this, addr);
  }

  nextPort = 40000;

  /** No packet passes between the two hosts any more. */
  cut(a: number, b: number): void {
    this.#cuts.add(`${a}|${b}`).add(`${b}|${a}`);
  }
  heal(a: number, b: number): void {
    this.#cuts.delete(`${a}|${b}`);
    this.#cuts.delete(`${b}|${a}`);
  }
  healAll(): void {
    this.#cuts.clear();
  }
  isCut(a: number, b: number): boolean {
    return this.#cuts.has(`${a}|${b}`);
  }

  /** Resets established connections, each with probability 1/n; in-flight bytes are lost. */
  breakConnections(n = 1): void {
    for (const stream of [...this.streams]) {
      if (stream.client && this.random.oneIn(n)) stream.reset();
    }
  }

  delay(): number {
    const { minDelay, maxDelay } = this.net;
    return minDelay + this.random.u32() / 0x1_0000_0000 * (maxDelay - minDelay);
  }

  schedule(host: SimReactor | null, ms: number, run: () => void): SimEvent {
    const event: SimEvent = {
      at: this.now + Math.max(0, ms),
      order: this.#order++,
      host,
      run,
      cancelled: false,
    };
    push(this.#heap, event);
    return event;
  }

  /** Runs until the virtual time, or earlier when `done()`; returns whether it was done. */
  async run(ms: number, done: () => boolean = () => false): Promise<boolean> {
    const end = this.now + ms;
    await settle();
    while (true) {
      if (this.failure !== null) throw this.failure;
      if (done()) return true;
      const event = this.#heap[0];
      if (event === undefined || event.at > end) break;
      pop(this.#heap);
      if (event.cancelled) continue;
      if (event.host !== null && event.host.dead) continue;
      this.now = Math.max(this.now, event.at);
      event.run();
      await settle();
    }
    this.now = end;
    return done();
  }

  /** Fails the test when `done()` does not come true within `ms`. */
  async until(ms: number, done: () => boolean, what: string): Promise<void> {
    if (!await this.run(ms, done)) throw new Error(`after ${ms} virtual ms still not: ${what}`);
  }
}

/** Lets every promise job run. */
const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

export class SimReactor implements Reactor {
  /** Crashed: nothing of it runs any more, nothing it still asks for happens. */
  dead = false;
  #timers = new Map<TimerId, SimEvent>();
  #nextTimer = 1;
  constructor(readonly world: SimWorld, readonly addr: number) {}

  now(): number {
    return this.world.now;
  }
  monotonic(): { sec: number; nsec: number } {
    const sec = Math.floor(this.world.now / 1000);
    return { sec, nsec: Math.floor((this.world.now - sec * 1000) * 1e6) };
  }
  realtime(): { sec: number; nsec: number } {
    const t = this.monotonic();
    return { sec: 1_700_000_000 + t.sec, nsec: t.nsec };
  }
  setTimer(ms: number, fire: () => void): TimerId {
    const id = this.#nextTimer++;
    if (this.dead) return id;
    this.#timers.set(
      id,
      this.world.schedule(this, ms, () => {
        this.#timers.delete(id);
        fire();
      }),
    );
    return id;
  }
  clearTimer(id: TimerId): void {
    const event = this.#timers.get(id);
    if (event !== undefined) event.cancelled = true;
    this.#timers.delete(id);
  }
  get timers(): number {
    return this.#timers.size;
  }

  listenTcp(at: Ipv4Addr, _options: TcpOptions, accept: (s: Stream) => void): Listener {
    assert(!this.dead, "a dead process listens");
    if (this.world.listeners.has(key(at))) throw new FsError(EADDRINUSE, `${key(at)} in use`);
    const listener = new SimListener(this, at, accept);
    this.world.listeners.set(key(at), listener);
    return listener;
  }

  connectTcp(to: Ipv4Addr, timeoutMs: number, options: TcpOptions): Promise<Stream> {
    return new Promise((resolve, reject) => {
      const { world } = this;
      if (this.dead) return;
      const fail = (ms: number, errno: number, why: string): void => {
        world.schedule(this, ms, () => reject(new FsError(errno, why)));
      };
      const there = world.delay();
      world.schedule(null, there, () => {
        const listener = world.listeners.get(key(to));
        if (world.isCut(this.addr, to.addr)) return fail(timeoutMs - there, ETIMEDOUT, "timed out");
        if (listener === undefined) return fail(world.delay(), ECONNREFUSED, "refused");
        const mine = new SimStream(this, { ...to }, options, true);
        const theirs = new SimStream(
          listener.host,
          { addr: this.addr, port: this.world.nextPort++ },
          options,
          false,
        );
        mine.join(theirs);
        listener.accept(theirs);
        world.schedule(this, world.delay(), () => {
          if (!mine.dead) resolve(mine);
          else reject(new FsError(ECONNRESET, "reset"));
        });
      });
    });
  }

  bindUdp(at: Ipv4Addr, receive: (bytes: Uint8Array, from: Ipv4Addr) => void): UdpSocket {
    if (this.world.udp.has(key(at))) throw new FsError(EADDRINUSE, `udp ${key(at)} in use`);
    const socket = new SimUdp(this, at, receive);
    this.world.udp.set(key(at), socket);
    return socket;
  }

  /** The process dies: its peers get a reset, unless they are cut off. */
  crash(): void {
    this.dead = true;
    this.#timers.clear();
    for (const [k, l] of this.world.listeners) if (l.host === this) this.world.listeners.delete(k);
    for (const [k, u] of this.world.udp) if (u.host === this) this.world.udp.delete(k);
    for (const s of [...this.world.streams]) if (s.host === this) s.reset();
  }
}

export class SimListener implements Listener {
  constructor(
    readonly host: SimReactor,
    readonly local: Ipv4Addr,
    readonly accept: (s: Stream) => void,
  ) {}
  close(): void {
    const { listeners } = this.host.world;
    if (listeners.get(key(this.local)) === this) listeners.delete(key(this.local));
  }
}

export class SimStream implements Stream {
  onData: (bytes: Uint8Array) => void = () => {};
  onClose: (why: string) => void = () => {};
  dead = false;
  #other: SimStream | null = null;
  /** When the last byte sent so far arrives: the order of a byte stream. */
  #lastArrival = 0;
  #closed = false;
  constructor(
    readonly host: SimReactor,
    readonly peer: Ipv4Addr,
    readonly options: TcpOptions,
    /** The connecting end. */
    readonly client: boolean,
  ) {}

  join(other: SimStream): void {
    this.#other = other;
    other.#other = this;
    this.host.world.streams.add(this);
    this.host.world.streams.add(other);
  }

  send(bytes: Uint8Array): void {
    if (this.dead || this.#closed || bytes.length === 0) return;
    const { world } = this.host;
    const copy = bytes.slice();
    for (let at = 0; at < copy.length;) {
      const n = world.net.chunked ? 1 + world.random.below(copy.length - at) : copy.length - at;
      const piece = copy.subarray(at, at + n);
      at += n;
      this.#deliver(() => this.#other!.onData(piece));
    }
  }

  close(): void {
    if (this.dead || this.#closed) return;
    this.#closed = true;
    this.host.world.schedule(this.host, 0, () => this.#die("closed"));
    this.#deliver(() => this.#other!.#die("end of stream"));
  }

  /** Both ends fail, what is on the way is lost. */
  reset(): void {
    const other = this.#other!;
    for (const end of [this, other]) {
      if (end.dead) continue;
      end.#closed = true;
      const { onClose } = end;
      end.#silence();
      const late = end.host.world.delay();
      end.host.world.schedule(end.host, late, () => onClose("connection reset"));
    }
  }

  #deliver(run: () => void): void {
    const { world } = this.host;
    const other = this.#other!;
    const at = Math.max(world.now + world.delay(), this.#lastArrival);
    this.#lastArrival = at;
    const cutSince = { at: -1 };
    const attempt = (): void => {
      if (other.dead) return;
      if (world.isCut(this.host.addr, other.host.addr)) {
        if (cutSince.at < 0) cutSince.at = world.now;
        if (world.now - cutSince.at >= this.options.keepaliveMs) return this.reset();
        // Retransmitted later; bytes behind this piece queue up in order.
        this.#lastArrival = Math.max(this.#lastArrival, world.now + 50);
        this.#waiting.push(run);
        if (this.#waiting.length === 1) this.#retry(cutSince.at);
        return;
      }
      if (this.#waiting.length > 0) this.#waiting.push(run);
      else run();
    };
    world.schedule(null, at - world.now, attempt);
  }

  #waiting: (() => void)[] = [];

  #retry(since: number): void {
    const { world } = this.host;
    world.schedule(null, 50, () => {
      const other = this.#other!;
      if (other.dead) return;
      if (world.isCut(this.host.addr, other.host.addr)) {
        if (world.now - since >= this.options.keepaliveMs) return this.reset();
        return this.#retry(since);
      }
      const runs = this.#waiting;
      this.#waiting = [];
      for (const run of runs) if (!other.dead) run();
    });
  }

  #die(why: string): void {
    if (this.dead) return;
    const { onClose } = this;
    this.#silence();
    onClose(why);
    this.#closed = true;
  }

  #silence(): void {
    this.dead = true;
    this.onData = () => {};
    this.onClose = () => {};
    this.host.world.streams.delete(this);
  }
}

export class SimUdp implements UdpSocket {
  constructor(
    readonly host: SimReactor,
    readonly local: Ipv4Addr,
    readonly receive: (bytes: Uint8Array, from: Ipv4Addr) => void,
  ) {}
  send(bytes: Uint8Array, to: Ipv4Addr): void {
    const { world } = this.host;
    if (this.host.dead) return;
    const copy = bytes.slice();
    const copies = world.random.below(1000) < world.net.udpDuplicate ? 2 : 1;
    for (let i = 0; i < copies; i++) {
      if (world.random.below(1000) < world.net.udpLoss) continue;
      world.schedule(null, world.delay(), () => {
        const target = world.udp.get(key(to));
        if (target !== undefined && !world.isCut(this.host.addr, to.addr)) {
          target.receive(copy, this.local);
        }
      });
    }
  }
  close(): void {
    const { udp } = this.host.world;
    if (udp.get(key(this.local)) === this) udp.delete(key(this.local));
  }
}

const before = (a: SimEvent, b: SimEvent): boolean =>
  a.at !== b.at ? a.at < b.at : a.order < b.order;

function push(heap: SimEvent[], e: SimEvent): void {
  heap.push(e);
  let i = heap.length - 1;
  while (i > 0) {
    const up = i - 1 >> 1;
    if (!before(heap[i], heap[up])) break;
    [heap[i], heap[up]] = [heap[up], heap[i]];
    i = up;
  }
}

function pop(heap: SimEvent[]): void {
  const last = heap.pop();
  assert(last !== undefined, "pop of an empty heap");
  if (heap.length === 0) return;
  heap[0] = last;
  for (let i = 0;;) {
    let least = i;
    for (const child of [2 * i + 1, 2 * i + 2]) {
      if (child < heap.length && before(heap[child], heap[least])) least = child;
    }
    if (least === i) return;
    [heap[i], heap[least]] = [heap[least], heap[i]];
    i = least;
  }
}
