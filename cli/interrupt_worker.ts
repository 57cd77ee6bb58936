/**
 * A thread that ends the process when it is told to by a signal (interrupt.ts). The main thread of a
 * check never comes back to its event loop, so it could not hear of signals itself.
 */

import { libc } from "../fs/sys/libc.ts";
import { CANCELLED, MENDED, ROUNDS, UNDOING, type Watch } from "./interrupt.ts";

const STDOUT = 1;
const STDERR = 2;
const SIGHUP = 1;
const POLLOUT = 4;
const PATIENCE_MS = 1000;

/** The isolate's own side of a Worker. */
const scope = self as unknown as {
  onmessage: ((e: MessageEvent<Watch>) => void) | null;
  postMessage(message: unknown): void;
};

scope.onmessage = ({ data: { shared, json } }) => {
  const end = (signal: string) => {
    const rounds = Atomics.load(shared, ROUNDS);
    const message = `interrupted by ${signal}: ` +
      (rounds === UNDOING
        ? "the volume may be restored in part: apply the same undo file again before anything else"
        : rounds === 0
        ? "nothing was mended"
        : `${rounds} ${
          rounds === 1 ? "round" : "rounds"
        } of mending had been finished, run it again`);
    if (json) say(STDOUT, JSON.stringify({ record: "error", message }));
    else say(STDERR, `${Deno.stderr.isTerminal() ? "\r\x1b[K" : ""}fsck: ${message}`);
    libc._exit(CANCELLED | (rounds !== 0 ? MENDED : 0));
  };
  // Before any listener is added: the runtime watches some signals itself from then on.
  const nohup = isIgnored(SIGHUP);
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    Deno.addSignalListener(signal, () => end(signal));
  }
  // Under nohup(1) the work goes on without its terminal.
  Deno.addSignalListener("SIGHUP", nohup ? () => {} : () => end("SIGHUP"));
  // A write beyond the largest size that a file may have is an error of that write.
  Deno.addSignalListener("SIGXFSZ", () => {});
  scope.postMessage("ready");
};

/** Whether whoever started the process had it ignore a signal. */
function isIgnored(signal: number): boolean {
  const mask = /^SigIgn:\s*([0-9a-f]+)$/m.exec(Deno.readTextFileSync("/proc/self/status"))?.[1];
  return (BigInt(`0x${mask ?? "0"}`) >> BigInt(signal - 1) & 1n) === 1n;
}

/**
 * A line, if it is taken within a second: the process ends whether anybody reads that or not. By the
 * system's own call, because the checking thread may hold the runtime's stream while it waits for the
 * same reader.
 */
function say(fd: number, line: string): void {
  const bytes = new TextEncoder().encode(line + "\n");
  const pollfd = new Int32Array([fd, POLLOUT]);
  if (libc.poll(new Uint8Array(pollfd.buffer), 1, PATIENCE_MS) !== 1) return;
  libc.write(fd, bytes, bytes.length);
}
