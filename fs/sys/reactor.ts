/**
 * The event loop of a worker: one poll(2) on everything (sockets, wake-ups from other threads, and
 * whatever file descriptors are added, such as the FUSE session), timers, and promise jobs.
 *
 * The loop blocks its isolate while it waits. It runs as ordinary (macro-task) code and drains
 * promise jobs itself after every callback round, so a chain of promises runs to its end before the
 * next wait. Now and then, at the latest when it is about to sleep, it lets the runtime have a turn
 * of its own loop (unhandled rejections, messages, finalizers).
 *
 * Callbacks run from the loop, never from inside a call (fs/env.ts). What is sent during a round
 * leaves in one system call at its end.
 */

import { setImmediate } from "node:timers";
import { EAGAIN, EINPROGRESS, EINTR, ETIMEDOUT, strerror } from "../../format/errno.ts";
import type {
  Ipv4Addr,
  Listener,
  Reactor,
  Stream,
  TcpOptions,
  TimerId,
  UdpSocket,
} from "../env.ts";
import { assert, FsError } from "../errors.ts";
import { SystemClock } from "./clock.ts";
import { closeFd, errno, libc, POLLERR, POLLHUP, POLLIN, POLLOUT, sysError } from "./libc.ts";
import { mapMemory } from "./memory.ts";
import {
  acceptSocket,
  formatAddr,
  listenSocket,
  localAddr,
  readAddr,
  socketError,
  startConnect,
  tuneTcp,
  udpSocket,
  writeAddr,
} from "./sockets.ts";
import { TimerHeap } from "./timers.ts";

/** A watched file descriptor. */
export interface FdHandle {
  /** Which of POLLIN and POLLOUT to wait for. */
  setEvents(events: number): void;
  /** Stops watching; does not close the descriptor. */
  remove(): void;
}

/**
 * Called when poll reports `revents`. Returns true when it stopped early and has more to do at
 * once: the loop then looks at its other sources without waiting and calls again.
 */
export type OnReady = (revents: number) => boolean;

export interface ReactorOptions {
  /** Never sleep longer than this, for use inside a program that needs the runtime's own loop. */
  maxSleepMs?: number;
}

interface Watch {
  fd: number;
  events: number;
  ready: OnReady;
  more: boolean;
  removed: boolean;
}

/** How long the runtime's own loop may be kept waiting. */
const TURN_MS = 20;
const RECEIVE_BYTES = 256 << 10;
const POLLFD = 8;

/** Runs promise jobs to their end. The runtime's own function, as no public one exists. */
const drainJobs: () => void = findDrain();

function findDrain(): () => void {
  const { internal } = Deno as unknown as { internal: symbol };
  const inner =
    (Deno as unknown as Record<symbol, { core: { runMicrotasks?: () => void } }>)[internal];
  const drain = inner?.core.runMicrotasks;
  if (drain === undefined) throw new Error("this version of Deno cannot drain promise jobs");
  return drain;
}

export class SystemReactor extends SystemClock implements Reactor {
  /** Write 8 bytes (a nonzero u64) to this eventfd from any thread to end a sleep. */
  readonly wakeFd: number;
  /** Called after a wake-up. */
  onWake: () => void = () => {};

  private readonly timers = new TimerHeap();
  private watches: Watch[] = [];
  private pollfds = new DataView(new ArrayBuffer(POLLFD * 16));
  private pollBytes = new Uint8Array(this.pollfds.buffer);
  private watchesChanged = true;
  private readonly dirty: TcpStream[] = [];
  private readonly deferred: (() => void)[] = [];
  private readonly receiveBuffer = mapMemory(RECEIVE_BYTES);
  private readonly maxSleepMs: number;
  private readonly turnMs: number;
  private stopped = false;
  private running = false;
  private lastTurn = 0;
  private outsiders = 0;
  private slept = false;

  constructor(options: ReactorOptions = {}) {
    super();
    this.maxSleepMs = options.maxSleepMs ?? Infinity;
    this.turnMs = Math.min(TURN_MS, this.maxSleepMs / 2);
    this.wakeFd = libc.eventfd(0, 0o2004000); // EFD_NONBLOCK | EFD_CLOEXEC
    if (this.wakeFd < 0) throw sysError("eventfd");
    const count = new Uint8Array(8);
    this.watch(this.wakeFd, POLLIN, () => {
      libc.read(this.wakeFd, count, 8);
      this.onWake();
      return false;
    });
  }

  /** Runs until `stop`; rejects with what a callback threw. */
  run(): Promise<void> {
    assert(!this.running, "the reactor runs already");
    this.running = true;
    this.stopped = false;
    return new Promise((resolve, reject) => {
      const turn = () => {
        try {
          if (this.rounds()) {
            setImmediate(turn);
            return;
          }
          this.running = false;
          resolve();
        } catch (e) {
          this.running = false;
          reject(e);
        }
      };
      setImmediate(turn);
    });
  }

  /** Runs until `promise` is settled and gives its result; `stop` ends it early with an error. */
  async runUntil<T>(promise: Promise<T>): Promise<T> {
    let settled = false;
    const watched = promise.finally(() => {
      settled = true;
      this.stop();
    });
    await Promise.all([this.run(), watched.catch(() => {})]);
    assert(settled, "the reactor was stopped");
    return await watched;
  }

  /** Ends `run` after the present round. */
  stop(): void {
    this.stopped = true;
  }

  /** Releases the wake-up descriptor; the reactor is not used again. */
  dispose(): void {
    assert(!this.running, "dispose of a running reactor");
    closeFd(this.wakeFd);
  }

  /** Watches `fd` for `events` (POLLIN, POLLOUT). */
  watch(fd: number, events: number, ready: OnReady): FdHandle {
    const w: Watch = { fd, events, ready, more: false, removed: false };
    this.watches.push(w);
    this.watchesChanged = true;
    return {
      setEvents: (e) => {
        if (w.events === e) return;
        w.events = e;
        this.watchesChanged = true;
      },
      remove: () => {
        w.removed = true;
        this.watchesChanged = true;
      },
    };
  }

  setTimer(ms: number, fire: () => void): TimerId {
    return this.timers.add(this.now() + ms, fire);
  }

  clearTimer(id: TimerId): void {
    this.timers.remove(id);
  }

  listenTcp(at: Ipv4Addr, options: TcpOptions, accept: (s: Stream) => void): Listener {
    const fd = listenSocket(at);
    const handle = this.watch(fd, POLLIN, () => {
      for (;;) {
        const peer = { addr: 0, port: 0 };
        const accepted = acceptSocket(fd, peer);
        if (accepted < 0) return false;
        tuneTcp(accepted, options.keepaliveMs);
        accept(new TcpStream(this, accepted, peer));
      }
    });
    let open = true;
    return {
      local: localAddr(fd),
      close: () => {
        if (!open) return;
        open = false;
        handle.remove();
        closeFd(fd);
      },
    };
  }

  connectTcp(to: Ipv4Addr, timeoutMs: number, options: TcpOptions): Promise<Stream> {
    return new Promise((resolve, reject) => {
      const { fd, error } = startConnect(to);
      const where = `connect to ${formatAddr(to)}`;
      if (error !== 0 && error !== EINPROGRESS) {
        closeFd(fd);
        reject(new FsError(error, `${where}: ${strerror(error)}`));
        return;
      }
      const finish = (code: number) => {
        handle.remove();
        this.clearTimer(timer);
        if (code === 0) {
          tuneTcp(fd, options.keepaliveMs);
          resolve(new TcpStream(this, fd, { ...to }));
        } else {
          closeFd(fd);
          reject(new FsError(code, `${where}: ${strerror(code)}`));
        }
      };
      const timer = this.setTimer(timeoutMs, () => finish(ETIMEDOUT));
      const handle = this.watch(fd, POLLOUT, () => {
        finish(socketError(fd));
        return false;
      });
    });
  }

  bindUdp(at: Ipv4Addr, receive: (bytes: Uint8Array, from: Ipv4Addr) => void): UdpSocket {
    const fd = udpSocket(at);
    const address = new Uint8Array(16);
    const length = new Uint8Array(4);
    const handle = this.watch(fd, POLLIN, () => {
      for (let i = 0; i < 64; i++) {
        length[0] = 16;
        const n = libc.recvfrom(fd, this.receiveBuffer, RECEIVE_BYTES, 0, address, length);
        if (n < 0) {
          if (errno() === EAGAIN) return false;
          continue; // ECONNREFUSED and the like concern some earlier datagram.
        }
        receive(this.receiveBuffer.subarray(0, n), readAddr(address));
        if (!open) return false;
      }
      return true;
    });
    let open = true;
    const target = new Uint8Array(16);
    return {
      send: (bytes, to) => {
        if (!open) return;
        writeAddr(target, to);
        libc.sendto(fd, bytes as Uint8Array<ArrayBuffer>, bytes.length, 0, target, 16);
      },
      close: () => {
        if (!open) return;
        open = false;
        handle.remove();
        closeFd(fd);
      },
    };
  }

  /**
   * Waits for a promise that the runtime settles (a call on another thread, a file operation): its
   * loop gets a turn every millisecond meanwhile.
   */
  async outside<T>(promise: Promise<T>): Promise<T> {
    this.outsiders++;
    try {
      return await promise;
    } finally {
      this.outsiders--;
    }
  }

  /** Runs `fn` from the loop, after the present callback. */
  defer(fn: () => void): void {
    this.deferred.push(fn);
  }

  /** `stream` has something to send at the end of the round. */
  queueFlush(stream: TcpStream): void {
    this.dirty.push(stream);
  }

  /** The buffer that streams receive into. */
  get scratch(): Uint8Array<ArrayBuffer> {
    return this.receiveBuffer;
  }

  /** Rounds until a turn of the runtime's loop is due (true) or the reactor is stopped (false). */
  private rounds(): boolean {
    for (;;) {
      this.settle();
      if (this.stopped) return false;
      const now = this.now();
      if (now - this.lastTurn > (this.outsiders > 0 ? 0.5 : this.turnMs)) {
        this.lastTurn = now;
        return true;
      }
      const limit = this.outsiders > 0 ? Math.min(1, this.maxSleepMs) : this.maxSleepMs;
      const wait = Math.min(this.timers.nextAt() - now, limit);
      this.poll(wait <= 0 ? 0 : wait);
      // While requests keep coming without a sleep, the time of the round's beginning will do.
      this.timers.fireDue(this.slept ? this.now() : now);
    }
  }

  /** Promise jobs, deferred calls and queued output, until there are no more. */
  private settle(): void {
    drainJobs();
    while (this.deferred.length > 0 || this.dirty.length > 0) {
      for (const fn of this.deferred.splice(0)) fn();
      drainJobs();
      for (const s of this.dirty.splice(0)) s.flush();
    }
  }

  private poll(waitMs: number): void {
    if (this.watchesChanged) this.rebuild();
    const watches = this.watches;
    let again = false;
    for (let i = 0; i < watches.length; i++) again ||= watches[i]?.more === true;
    // Rounded up: waking a moment early would only poll again.
    const timeout = again ? 0 : waitMs > 0x7fffffff ? -1 : Math.ceil(waitMs);
    this.slept = timeout !== 0;
    const n = libc.poll(this.pollBytes, watches.length, timeout);
    if (n < 0) {
      if (errno() !== EINTR) throw sysError("poll");
      return;
    }
    if (n === 0 && !again) return;
    const count = watches.length;
    for (let i = 0; i < count; i++) {
      const w = watches[i];
      if (w === undefined || w.removed) continue;
      const revents = this.pollfds.getInt16(i * POLLFD + 6, true);
      if (revents === 0 && !w.more) continue;
      w.more = w.ready(revents);
    }
  }

  private rebuild(): void {
    this.watches = this.watches.filter((w) => !w.removed);
    const count = this.watches.length;
    if (count * POLLFD > this.pollBytes.length) {
      this.pollfds = new DataView(new ArrayBuffer(count * POLLFD * 2));
      this.pollBytes = new Uint8Array(this.pollfds.buffer);
    }
    for (let i = 0; i < count; i++) {
      const w = this.watches[i];
      assert(w !== undefined, "sparse watch list");
      this.pollfds.setInt32(i * POLLFD, w.fd, true);
      this.pollfds.setInt16(i * POLLFD + 4, w.events, true);
      this.pollfds.setInt16(i * POLLFD + 6, 0, true);
    }
    this.watchesChanged = false;
  }
}

/** A connected TCP socket. Output is queued and leaves when the loop's round ends. */
export class TcpStream implements Stream {
  onData: (bytes: Uint8Array) => void = () => {};
  onClose: (why: string) => void = () => {};
  private readonly handle: FdHandle;
  /** Queued output, oldest first. */
  private queue: Uint8Array[] = [];
  private flushQueued = false;
  private open = true;

  constructor(
    private readonly reactor: SystemReactor,
    private readonly fd: number,
    readonly peer: Ipv4Addr,
  ) {
    this.handle = reactor.watch(fd, POLLIN, (revents) => this.ready(revents));
  }

  send(bytes: Uint8Array): void {
    if (!this.open || bytes.length === 0) return;
    this.queue.push(bytes.slice());
    if (!this.flushQueued) {
      this.flushQueued = true;
      this.reactor.queueFlush(this);
    }
  }

  close(): void {
    if (!this.open) return;
    // What was sent before should arrive, as far as the socket takes it.
    this.write();
    this.shut("closed");
  }

  /** The loop's: sends what is queued. */
  flush(): void {
    this.flushQueued = false;
    if (this.open) this.write();
  }

  private write(): void {
    while (this.queue.length > 0) {
      // One system call for all that a round queued.
      const all = this.queue.length === 1 ? this.queue[0] : concat(this.queue);
      if (all === undefined) return;
      this.queue = [all];
      const n = libc.send(this.fd, all as Uint8Array<ArrayBuffer>, all.length, MSG_NOSIGNAL);
      if (n < 0) {
        const code = errno();
        if (code === EINTR) continue;
        if (code === EAGAIN) {
          this.handle.setEvents(POLLIN | POLLOUT);
          return;
        }
        this.shut(strerror(code));
        return;
      }
      this.queue = n === all.length ? [] : [all.subarray(n)];
    }
    this.handle.setEvents(POLLIN);
  }

  private ready(revents: number): boolean {
    if ((revents & POLLOUT) !== 0) this.write();
    if ((revents & (POLLIN | POLLERR | POLLHUP)) === 0 || !this.open) return false;
    const buf = this.reactor.scratch;
    const n = libc.recv(this.fd, buf, buf.length, 0);
    if (n > 0) {
      this.onData(buf.subarray(0, n));
      return false;
    }
    if (n === 0) {
      this.shut("end of stream");
      return false;
    }
    const code = errno();
    if (code !== EAGAIN && code !== EINTR) this.shut(strerror(code));
    return false;
  }

  private shut(why: string): void {
    if (!this.open) return;
    this.open = false;
    this.queue = [];
    this.handle.remove();
    closeFd(this.fd);
    this.reactor.defer(() => this.onClose(why));
  }
}

const MSG_NOSIGNAL = 0x4000;

function concat(parts: readonly Uint8Array[]): Uint8Array {
  let length = 0;
  for (const p of parts) length += p.length;
  const all = new Uint8Array(length);
  let at = 0;
  for (const p of parts) {
    all.set(p, at);
    at += p.length;
  }
  return all;
}
