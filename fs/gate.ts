/**
 * The gate of a mount: one shared word that every worker checks before each device write and each
 * send. Whoever learns that this mount must not act any more (forced unmount, lost leadership,
 * fenced by a local hook, stalled for too long) closes it; it never opens again (04 §12.2, §29).
 */

import { ENOLINK } from "../format/errno.ts";
import { FsError } from "./errors.ts";

export class Gate {
  readonly #word: Int32Array;

  /** Pass `shared` of another worker's gate to join it. */
  constructor(readonly shared: SharedArrayBuffer = new SharedArrayBuffer(4)) {
    this.#word = new Int32Array(shared);
  }

  get open(): boolean {
    return Atomics.load(this.#word, 0) === 0;
  }

  /** From now on nothing is written or sent. Cannot be undone. */
  close(): void {
    Atomics.store(this.#word, 0, 1);
  }

  /** Throws ENOLINK when closed. */
  check(): void {
    if (!this.open) {
      throw new FsError(ENOLINK, "this mount was cut off: it writes and sends nothing");
    }
  }
}
