/**
 * Messages to a worker that sleeps in its reactor: a pipe that any thread of the process writes
 * lines of JSON to. A message is at most PIPE_BUF bytes, so that it is written whole.
 */

import { assert } from "../errors.ts";
import { libc, O_CLOEXEC, O_NONBLOCK, POLLIN, sysError } from "./libc.ts";
import type { SystemReactor } from "./reactor.ts";

const PIPE_BUF = 4096;

/** The two ends, valid in all threads of the process. */
export interface Mailbox {
  readonly readFd: number;
  readonly writeFd: number;
}

export function openMailbox(): Mailbox {
  const fds = new Int32Array(2);
  const bytes = new Uint8Array(fds.buffer);
  if (libc.pipe2(bytes, O_CLOEXEC | O_NONBLOCK) !== 0) throw sysError("pipe");
  return { readFd: fds[0] ?? -1, writeFd: fds[1] ?? -1 };
}

const encoder = new TextEncoder();

/** Sends; what a worker that has ended did not read is lost. */
export function post(writeFd: number, message: unknown): void {
  const bytes = encoder.encode(JSON.stringify(message) + "\n");
  assert(bytes.length <= PIPE_BUF, "a message to a worker is too long");
  const n = libc.write(writeFd, bytes, bytes.length);
  if (n !== bytes.length) throw sysError("message to a worker");
}

/** Calls `receive` from the reactor's loop for every message. */
export function listen(
  reactor: SystemReactor,
  readFd: number,
  receive: (message: unknown) => void,
): void {
  const buffer = new Uint8Array(PIPE_BUF);
  const decoder = new TextDecoder();
  let rest = "";
  reactor.watch(readFd, POLLIN, () => {
    const n = libc.read(readFd, buffer, buffer.length);
    if (n <= 0) return false;
    const lines = (rest + decoder.decode(buffer.subarray(0, n), { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) receive(JSON.parse(line));
    return n === buffer.length;
  });
}
