/** Nonblocking IPv4 sockets: making them, their options (04 §9), their addresses. */

import { EINTR, strerror } from "../../format/errno.ts";
import type { Ipv4Addr } from "../env.ts";
import { FsError } from "../errors.ts";
import { closeFd, errno, libc, sysError } from "./libc.ts";

const AF_INET = 2;
const SOCK_STREAM = 1;
const SOCK_DGRAM = 2;
const SOCK_FLAGS = 0o2004000; // SOCK_NONBLOCK | SOCK_CLOEXEC
const SOL_SOCKET = 1;
const SO_REUSEADDR = 2;
const SO_ERROR = 4;
const SO_KEEPALIVE = 9;
const IPPROTO_TCP = 6;
const TCP_NODELAY = 1;
const TCP_KEEPIDLE = 4;
const TCP_KEEPINTVL = 5;
const TCP_KEEPCNT = 6;
const TCP_USER_TIMEOUT = 18;
const BACKLOG = 255;

/** Stores a `sockaddr_in` in 16 bytes. */
export function writeAddr(to: Uint8Array, a: Ipv4Addr): void {
  to.fill(0);
  to[0] = AF_INET;
  to[2] = a.port >>> 8;
  to[3] = a.port & 255;
  for (let i = 0; i < 4; i++) to[4 + i] = a.addr >>> (24 - 8 * i) & 255;
}

export function readAddr(from: Uint8Array): Ipv4Addr {
  const b = (i: number) => from[i] ?? 0;
  return {
    addr: ((b(4) << 24) | (b(5) << 16) | (b(6) << 8) | b(7)) >>> 0,
    port: b(2) << 8 | b(3),
  };
}

export function formatAddr(a: Ipv4Addr): string {
  return `${a.addr >>> 24}.${a.addr >>> 16 & 255}.${a.addr >>> 8 & 255}.${a.addr & 255}:${a.port}`;
}

function sockaddr(a: Ipv4Addr): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(16);
  writeAddr(bytes, a);
  return bytes;
}

function newSocket(type: number): number {
  const fd = libc.socket(AF_INET, type | SOCK_FLAGS, 0);
  if (fd < 0) throw sysError("socket");
  return fd;
}

function setOption(fd: number, level: number, option: number, value: number): boolean {
  const bytes = new Uint8Array(new Int32Array([value]).buffer);
  return libc.setsockopt(fd, level, option, bytes, 4) === 0;
}

function bindSocket(fd: number, at: Ipv4Addr): void {
  if (libc.bind(fd, sockaddr(at), 16) === 0) return;
  const code = errno();
  closeFd(fd);
  throw new FsError(code, `cannot bind to ${formatAddr(at)}: ${strerror(code)}`);
}

export function listenSocket(at: Ipv4Addr): number {
  const fd = newSocket(SOCK_STREAM);
  if (!setOption(fd, SOL_SOCKET, SO_REUSEADDR, 1)) throw sysError("setsockopt");
  bindSocket(fd, at);
  if (libc.listen(fd, BACKLOG) !== 0) {
    const code = errno();
    closeFd(fd);
    throw new FsError(code, `cannot listen at ${formatAddr(at)}: ${strerror(code)}`);
  }
  return fd;
}

/** The next connection, its address in `peer`; -1 when there is none. */
export function acceptSocket(fd: number, peer: Ipv4Addr): number {
  const address = new Uint8Array(16);
  const length = new Uint8Array([16, 0, 0, 0]);
  const accepted = libc.accept4(fd, address, length, SOCK_FLAGS);
  if (accepted >= 0) Object.assign(peer, readAddr(address));
  return accepted;
}

export function udpSocket(at: Ipv4Addr): number {
  const fd = newSocket(SOCK_DGRAM);
  bindSocket(fd, at);
  return fd;
}

/** Begins to connect: the socket and 0, EINPROGRESS, or why it failed at once. */
export function startConnect(to: Ipv4Addr): { fd: number; error: number } {
  const fd = newSocket(SOCK_STREAM);
  const address = sockaddr(to);
  for (;;) {
    if (libc.connect(fd, address, 16) === 0) return { fd, error: 0 };
    const error = errno();
    if (error !== EINTR) return { fd, error };
  }
}

/** SO_ERROR: 0 when a connect succeeded. */
export function socketError(fd: number): number {
  const value = new Int32Array(1);
  const length = new Uint8Array([4, 0, 0, 0]);
  const bytes = new Uint8Array(value.buffer);
  if (libc.getsockopt(fd, SOL_SOCKET, SO_ERROR, bytes, length) !== 0) throw sysError("getsockopt");
  return value[0] ?? 0;
}

export function localAddr(fd: number): Ipv4Addr {
  const address = new Uint8Array(16);
  const length = new Uint8Array([16, 0, 0, 0]);
  if (libc.getsockname(fd, address, length) !== 0) throw sysError("getsockname");
  return readAddr(address);
}

/**
 * The options of every established connection (04 §9). A socket that refuses them has already
 * failed, and says so at its next use.
 */
export function tuneTcp(fd: number, keepaliveMs: number): void {
  setOption(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  setOption(fd, IPPROTO_TCP, TCP_KEEPIDLE, Math.max(1, Math.floor(keepaliveMs / 1000) - 3));
  setOption(fd, IPPROTO_TCP, TCP_KEEPINTVL, 1);
  setOption(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
  setOption(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, keepaliveMs);
  setOption(fd, IPPROTO_TCP, TCP_NODELAY, 1);
}
