/**
 * SIGINT, SIGTERM and SIGHUP while a volume is checked or mended: the process ends at once, whatever it
 * is doing, with e2fsck's status for that. It may do so because a repair can be cut off between any
 * two writes (fs/check/repair/round.ts); a file of an interrupted --undo is whole up to the last write.
 * Taking a repair back is another matter: one that was interrupted must be done again.
 */

/** Bits of the exit status. */
export const MENDED = 1;
export const CANCELLED = 32;

/** Index of the shared word that counts finished rounds of mending. */
export const ROUNDS = 0;
/** What it holds while a repair is being taken back. */
export const UNDOING = -1;

export interface Watch {
  readonly shared: Int32Array<SharedArrayBuffer>;
  /** Output is records of JSON. */
  readonly json: boolean;
}

export class Interrupt {
  readonly #shared = new Int32Array(new SharedArrayBuffer(4));
  #worker: Worker | null = null;

  /** Signals end the process in order from when this has resolved until `close`. */
  static async watch(json: boolean): Promise<Interrupt> {
    const watch = new Interrupt();
    const worker = new Worker(new URL("./interrupt_worker.ts", import.meta.url), {
      type: "module",
      name: "signals",
    });
    watch.#worker = worker;
    await new Promise<void>((resolve, reject) => {
      worker.onmessage = () => resolve();
      worker.onerror = (e) => {
        e.preventDefault();
        reject(new Error(`signals cannot be watched: ${e.message}`));
      };
      worker.postMessage({ shared: watch.#shared, json } satisfies Watch);
    });
    return watch;
  }

  /** So many rounds of mending are finished. */
  roundsDone(n: number): void {
    Atomics.store(this.#shared, ROUNDS, n);
  }

  /** From now on a repair is being taken back: what that had made durable is overwritten. */
  undoing(): void {
    Atomics.store(this.#shared, ROUNDS, UNDOING);
  }

  close(): void {
    this.#worker?.terminate();
    this.#worker = null;
  }
}
