/**
 * A thread that ends the process when it is told to by a signal (interrupt.ts). The main thread of a
 * check never comes back to its event loop, so it could not hear of signals itself.
 */

import { libc } from "../fs/sys/libc.ts";
import { tryPrintError, tryPrintLine } from "./output.ts";
import { CANCELLED, MENDED, ROUNDS, UNDOING, type Watch } from "./interrupt.ts";

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
    // The process ends whether anybody reads that or not.
    if (json) tryPrintLine(JSON.stringify({ record: "error", message }));
    else tryPrintError(`${Deno.stderr.isTerminal() ? "\r\x1b[K" : ""}fsck: ${message}`);
    libc._exit(CANCELLED | (rounds !== 0 ? MENDED : 0));
  };
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    Deno.addSignalListener(signal, () => end(signal));
  }
  scope.postMessage("ready");
};
