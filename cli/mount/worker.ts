/** What the workers of a mount have in common: how they start, report and end. */

import { errnoOf, FsError } from "../../fs/errors.ts";
import { Gate } from "../../fs/gate.ts";
import { useFastCrc32c } from "../../fs/sys/crc.ts";
import { listen } from "../../fs/sys/mailbox.ts";
import { SystemReactor } from "../../fs/sys/reactor.ts";
import { HostRecords } from "../../net/host_record.ts";
import type { ToMain, WorkerInit } from "./messages.ts";

export interface WorkerContext {
  readonly init: WorkerInit;
  readonly reactor: SystemReactor;
  readonly gate: Gate;
  readonly tell: (message: ToMain) => void;
  readonly log: (line: string) => void;
  /** True only if that mount can certainly never write again. */
  readonly knownDead: (rid: bigint) => boolean;
}

/** The isolate's own side of a Worker. */
const scope = self as unknown as {
  onmessage: ((e: MessageEvent<WorkerInit>) => void) | null;
  postMessage(message: ToMain): void;
};

/**
 * Waits for the worker's `WorkerInit`, calls `start`, which gives the handler of its mailbox, and
 * runs the loop for good. Errors that `start` throws are reported to main; what escapes later ends
 * the worker, which main notices.
 */
export function runWorker<M>(
  start: (context: WorkerContext) => Promise<(message: M) => void> | ((message: M) => void),
): void {
  scope.onmessage = async (e) => {
    const init = e.data;
    const tell = (message: ToMain) => scope.postMessage(message);
    await useFastCrc32c();
    const reactor = new SystemReactor();
    const assumed = new Set(init.assumedDead);
    const records = new HostRecords(init.stateDir, init.fsid);
    const context: WorkerContext = {
      init,
      reactor,
      gate: new Gate(init.gate),
      tell,
      log: (line) => tell({ is: "log", line }),
      knownDead: (rid) => assumed.has(rid) || records.provablyDead(rid),
    };
    try {
      const receive = await start(context);
      listen(reactor, init.mailbox, (message) => receive(message as M));
    } catch (error) {
      tell(failure(error));
      return;
    }
    await reactor.run();
  };
}

/** The report of something that ends the mount. */
export function failure(e: unknown): ToMain {
  const message = e instanceof FsError ? e.message : e instanceof Error ? `${e.stack}` : String(e);
  return { is: "failed", errno: errnoOf(e), message };
}
