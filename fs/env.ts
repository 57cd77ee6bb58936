/**
 * What the deterministic core takes from outside: time, randomness, timers, network. The real
 * ones live in fs/sys; a simulator supplies its own, so that one seed replays a whole cluster.
 */

/** An IPv4 address and port; `addr` is the number a<<24|b<<16|c<<8|d, unsigned. */
export interface Ipv4Addr {
  addr: number;
  port: number;
}

export interface Clock {
  /** Monotonic milliseconds, with a fraction. */
  now(): number;
  /** Monotonic time since boot, for quorum events (04 §4.1). */
  monotonic(): { sec: number; nsec: number };
  /** Wall-clock time of inode timestamps. */
  realtime(): { sec: number; nsec: number };
}

export interface Random {
  u32(): number;
  u64(): bigint;
  /** Uniform integer in [0, n). */
  below(n: number): number;
}

export type TimerId = number;

export interface Timers extends Clock {
  setTimer(ms: number, fire: () => void): TimerId;
  clearTimer(id: TimerId): void;
}

/** One TCP connection. Callbacks run from the reactor's loop, never from inside a call. */
export interface Stream {
  readonly peer: Ipv4Addr;
  /** Bytes as they arrive; the buffer is only valid during the call. */
  onData: (bytes: Uint8Array) => void;
  /** Once, for end of stream, error, or after `close`. */
  onClose: (why: string) => void;
  /** Queues a copy; never blocks. Ignored after close. */
  send(bytes: Uint8Array): void;
  close(): void;
}

export interface Listener {
  readonly local: Ipv4Addr;
  close(): void;
}

export interface UdpSocket {
  /** Best effort: failures are ignored. */
  send(bytes: Uint8Array, to: Ipv4Addr): void;
  close(): void;
}

export interface TcpOptions {
  /** 04 §9: `tcp_keepalive_timeout_ms`. */
  keepaliveMs: number;
}

/** Sockets and timers of one event loop. */
export interface Reactor extends Timers {
  /** Throws FsError (EADDRINUSE, …) when the address cannot be bound. */
  listenTcp(at: Ipv4Addr, options: TcpOptions, accept: (s: Stream) => void): Listener;
  /** Rejects with FsError when refused or not connected within `timeoutMs`. */
  connectTcp(to: Ipv4Addr, timeoutMs: number, options: TcpOptions): Promise<Stream>;
  /** Throws FsError when the address cannot be bound. */
  bindUdp(at: Ipv4Addr, receive: (bytes: Uint8Array, from: Ipv4Addr) => void): UdpSocket;
}

/** Resolves after `ms`. */
export function sleep(timers: Timers, ms: number): Promise<void> {
  return new Promise((resolve) => timers.setTimer(ms, resolve));
}
