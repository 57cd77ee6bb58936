/**
 * Threads that help to check a volume. A check is one synchronous run of one thread; the others take
 * units of its job (item_job.ts) as it does, by a counter in shared memory, and post what came of
 * them. The checking thread fetches that without returning to its event loop.
 *
 * A thread is started when there is a job that is worth it, and kept for the next one. If one fails,
 * the check fails: its error is thrown where the results are fetched. If one is gone without a word, the
 * check fails when it waits for somebody next: it looks whether the kernel still has its threads.
 */

import { receiveMessageOnPort } from "node:worker_threads";
import { assert, FsError } from "../errors.ts";
import { EIO } from "../../format/errno.ts";
import {
  type ItemJob,
  type Overflow,
  receivedResult,
  type SentResult,
  type UnitResult,
} from "./item_job.ts";

/** The device, as a thread of the same process can use it. */
export interface SharedDevice {
  readonly name: string;
  readonly fd: number;
  readonly size: number;
  readonly isBlockDevice: boolean;
  readonly direct: boolean;
}

/** Words of the shared memory of a job. */
export const NEXT = 0;
export const MERGED = 1;
/** Counts whatever somebody may be waiting for. */
export const EVENTS = 2;
export const STOPPED = 3;
/** Overflows that have been sent and not fetched. */
const OVERFLOWS = 4;
/** From here on the kernel's number of each helper's thread, once it has begun. */
const THREADS = 5;

/** Overflows that may be under way. */
const MOST_OVERFLOWS = 4;

/** Sent to a helper. */
export interface HelperJob {
  readonly nr: number;
  readonly job: ItemJob;
  readonly units: number;
  readonly ahead: number;
  readonly shared: Int32Array<SharedArrayBuffer>;
  readonly meta: SharedDevice;
  /** Which of the helpers it is. */
  readonly helper: number;
}

/** Posted by a helper. */
export type HelperMessage =
  | { readonly is: "result"; readonly job: number; readonly result: SentResult }
  | { readonly is: "overflow"; readonly job: number; readonly overflow: Overflow }
  | { readonly is: "failed"; readonly message: string };

/** How the units of a job are shared out. */
export interface Turns {
  /** A unit for the caller to do; null when there is none now. */
  take(): number | null;
  /** What others have done since. */
  results(): UnitResult[];
  /** Sleeps until there may be a result. */
  wait(): void;
  /** The results of so many units have been used: units that lie further ahead may be taken. */
  merged(units: number): void;
  /** Nothing more is wanted. */
  end(): void;
}

/** Takes the next unit if it is not too far ahead of what is used; null if it is, or there is none. */
export function takeUnit(shared: Int32Array, units: number, ahead: number): number | null {
  for (;;) {
    const next = Atomics.load(shared, NEXT);
    if (next >= units || next >= Atomics.load(shared, MERGED) + ahead) return null;
    if (Atomics.compareExchange(shared, NEXT, next, next + 1) === next) return next;
  }
}

/** Said by a helper before it takes its first unit of a job. */
export function tellPresence(j: HelperJob): void {
  const thread = /\/task\/(\d+)$/.exec(Deno.readLinkSync("/proc/thread-self"))?.[1];
  Atomics.store(j.shared, THREADS + j.helper, Number(thread ?? 0));
}

/** Said by a helper after each overflow that it posts: waits until some have been fetched. */
export function tellOverflow(shared: Int32Array): void {
  Atomics.add(shared, OVERFLOWS, 1);
  tellEvent(shared);
  for (;;) {
    const waiting = Atomics.load(shared, OVERFLOWS);
    if (waiting < MOST_OVERFLOWS || Atomics.load(shared, STOPPED) !== 0) return;
    Atomics.wait(shared, OVERFLOWS, waiting, PULSE_MS);
  }
}

export function tellEvent(shared: Int32Array): void {
  Atomics.add(shared, EVENTS, 1);
  Atomics.notify(shared, EVENTS);
}

/** All units are for the calling thread. */
export class Alone implements Turns {
  #next = 0;
  constructor(private readonly units: number) {}
  take(): number | null {
    return this.#next < this.units ? this.#next++ : null;
  }
  results(): UnitResult[] {
    return [];
  }
  wait(): void {
    assert(false, "a check waits for nobody");
  }
  merged(): void {}
  end(): void {}
}

interface Helper {
  readonly worker: Worker;
  readonly port: MessagePort;
}

/** Without a sign of a helper that has units for so long, it is given up. */
const SILENCE_MS = 600_000;
/** After so long without a sign it is seen whether all helpers are still there. */
const PULSE_MS = 500;

/** Gives jobs to whoever helps. */
export interface Crew {
  /**
   * Begins a job of `units` units; none is done `ahead` units before it is wanted. `keep` is given
   * what units do not keep, before their results.
   */
  begin(job: ItemJob, units: number, ahead: number, keep: (o: Overflow) => void): Turns;
}

/** Helpers that are threads of this process. */
export class ThreadCrew implements Crew {
  readonly #helpers: Helper[] = [];
  #failure: string | null = null;
  #job = 0;
  /** Of the job that was begun last. */
  #shared: Int32Array | null = null;
  #keep: (o: Overflow) => void = () => {};
  /** Value of EVENTS before results were fetched last. */
  #seen = 0;

  /** `helpers` threads besides the caller's, each running the module at `url`. */
  constructor(
    private readonly helpers: number,
    private readonly meta: SharedDevice,
    private readonly url: URL = new URL("./crew_worker.ts", import.meta.url),
  ) {}

  begin(job: ItemJob, units: number, ahead: number, keep: (o: Overflow) => void): Turns {
    this.#keep = keep;
    while (this.#helpers.length < this.helpers) this.#helpers.push(this.#start());
    const shared = new Int32Array(new SharedArrayBuffer(4 * (THREADS + this.helpers)));
    const nr = ++this.#job;
    for (const [helper, { port }] of this.#helpers.entries()) {
      port.postMessage(
        { nr, job, units, ahead, shared, meta: this.meta, helper } satisfies HelperJob,
      );
    }
    this.#shared = shared;
    return {
      take: () => takeUnit(shared, units, ahead),
      results: () => this.#results(shared),
      wait: () => this.#wait(shared),
      merged: (n) => {
        Atomics.store(shared, MERGED, n);
        tellEvent(shared);
      },
      end: () => {
        Atomics.store(shared, STOPPED, 1);
        tellEvent(shared);
      },
    };
  }

  /** Ends the helpers; rejects if one has failed of which nobody knows yet. */
  async close(): Promise<void> {
    // Errors of a thread that could not even begin come by the event loop.
    if (this.#helpers.length > 0) await new Promise((resolve) => setTimeout(resolve, 0));
    this.#fetch();
    for (const { worker, port } of this.#helpers) {
      port.close();
      worker.terminate();
    }
    this.#helpers.length = 0;
    this.#throwFailure();
  }

  #start(): Helper {
    const worker = new Worker(this.url, { type: "module", name: "fsck helper" });
    const { port1, port2 } = new MessageChannel();
    worker.onerror = (e) => {
      e.preventDefault();
      this.#failure ??= e.message;
    };
    worker.postMessage(port2, [port2]);
    return { worker, port: port1 };
  }

  #throwFailure(): void {
    const message = this.#failure;
    this.#failure = null;
    if (message !== null) throw new FsError(EIO, `a thread of the check failed: ${message}`);
  }

  #results(shared: Int32Array): UnitResult[] {
    this.#seen = Atomics.load(shared, EVENTS);
    const results = this.#fetch();
    this.#throwFailure();
    return results;
  }

  #fetch(): UnitResult[] {
    const results: UnitResult[] = [];
    for (const { port } of this.#helpers) {
      for (let message = receive(port); message !== null; message = receive(port)) {
        if (message.is === "failed") this.#failure ??= message.message;
        else if (message.job !== this.#job) continue;
        else if (message.is === "result") results.push(receivedResult(message.result));
        else this.#overflow(message.overflow);
      }
    }
    return results;
  }

  #overflow(overflow: Overflow): void {
    const shared = this.#shared;
    assert(shared !== null, "an overflow comes of a job");
    Atomics.sub(shared, OVERFLOWS, 1);
    Atomics.notify(shared, OVERFLOWS);
    this.#keep(overflow);
  }

  #wait(shared: Int32Array): void {
    for (let silent = 0; silent < SILENCE_MS; silent += PULSE_MS) {
      if (Atomics.wait(shared, EVENTS, this.#seen, PULSE_MS) !== "timed-out") return;
      const gone = shared.subarray(THREADS).some((thread) => thread !== 0 && !isAlive(thread));
      // The last thing that it did may have been to say why.
      if (gone && Atomics.load(shared, EVENTS) === this.#seen) {
        throw new FsError(EIO, "a thread of the check has ended without a word");
      }
    }
    throw new FsError(EIO, "a thread of the check does not answer any more");
  }
}

/** Whether a thread of this process is still there. */
function isAlive(thread: number): boolean {
  try {
    Deno.statSync(`/proc/self/task/${thread}`);
    return true;
  } catch (e) {
    if (e instanceof Deno.errors.NotFound) return false;
    throw e;
  }
}

function receive(port: MessagePort): HelperMessage | null {
  // The port of the web is the one of Node here.
  const received = receiveMessageOnPort(
    port as unknown as Parameters<typeof receiveMessageOnPort>[0],
  );
  return received === undefined ? null : received.message as HelperMessage;
}
