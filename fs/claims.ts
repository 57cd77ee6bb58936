/**
 * Per-inode claims: exclusion between the multi-step operations of this mount on one inode (02
 * §2.3). A single thread removes data races, not interleaving: between the steps of a truncate, a
 * write or a stage others run. A claim is taken before any cluster lock and never while one is
 * held; two inodes are claimed in inode order. Waiters are served first come, first served.
 *
 * Exclusive: write, truncate, fallocate, release, stage, move, punch. Shared: reads, until their
 * reply. Nothing is claimed by whoever waits for offline data, and by the kernel's page write-out.
 */

import { assert } from "./errors.ts";

interface Waiter {
  exclusive: boolean;
  resolve: () => void;
}

export class Claims {
  /** > 0: that many shared holders; −1: one exclusive holder. Absent: free. */
  readonly #held = new Map<number, number>();
  /** Only inodes somebody waits for. */
  readonly #queues = new Map<number, Waiter[]>();

  /** Takes a shared claim if that needs no waiting. */
  tryShared(ino: number): boolean {
    const held = this.#held.get(ino);
    if (held !== undefined && (held < 0 || this.#queues.has(ino))) return false;
    this.#held.set(ino, held === undefined ? 1 : held + 1);
    return true;
  }

  /** Takes the exclusive claim if that needs no waiting. */
  tryExclusive(ino: number): boolean {
    if (this.#held.has(ino)) return false;
    this.#held.set(ino, -1);
    return true;
  }

  shared(ino: number): Promise<void> {
    return this.tryShared(ino) ? Promise.resolve() : this.#wait(ino, false);
  }

  exclusive(ino: number): Promise<void> {
    return this.tryExclusive(ino) ? Promise.resolve() : this.#wait(ino, true);
  }

  releaseShared(ino: number): void {
    const held = this.#held.get(ino);
    assert(held !== undefined && held > 0, "a shared claim is released but not held");
    if (held > 1) this.#held.set(ino, held - 1);
    else this.#free(ino);
  }

  releaseExclusive(ino: number): void {
    assert(this.#held.get(ino) === -1, "an exclusive claim is released but not held");
    this.#free(ino);
  }

  /** Nobody holds or waits for a claim. */
  get idle(): boolean {
    return this.#held.size === 0;
  }

  /**
   * Runs `body` under the exclusive claim; without a promise when neither has to wait. A body that
   * is done when it returns leaves nobody a chance to notice: only others are recorded.
   */
  withExclusive<T>(ino: number, body: () => T | Promise<T>): T | Promise<T> {
    if (this.#held.has(ino)) return this.#wait(ino, true).then(() => this.#run(ino, true, body));
    const result = body();
    if (!(result instanceof Promise)) return result;
    assert(this.tryExclusive(ino), "the body of a claim took it itself");
    return result.finally(() => this.releaseExclusive(ino));
  }

  /** Runs `body` under a shared claim; without a promise when neither has to wait. */
  withShared<T>(ino: number, body: () => T | Promise<T>): T | Promise<T> {
    const held = this.#held.get(ino);
    if (held !== undefined && (held < 0 || this.#queues.has(ino))) {
      return this.#wait(ino, false).then(() => this.#run(ino, false, body));
    }
    const result = body();
    if (!(result instanceof Promise)) return result;
    assert(this.tryShared(ino), "the body of a claim took it itself");
    return result.finally(() => this.releaseShared(ino));
  }

  /** Both inodes exclusively, lower number first. */
  async withExclusivePair<T>(a: number, b: number, body: () => T | Promise<T>): Promise<T> {
    assert(a !== b, "the two inodes of a pair are the same");
    return await this.withExclusive(
      Math.min(a, b),
      () => this.withExclusive(Math.max(a, b), body),
    );
  }

  #run<T>(ino: number, exclusive: boolean, body: () => T | Promise<T>): T | Promise<T> {
    let result: T | Promise<T>;
    try {
      result = body();
    } catch (e) {
      this.#release(ino, exclusive);
      throw e;
    }
    if (result instanceof Promise) return result.finally(() => this.#release(ino, exclusive));
    this.#release(ino, exclusive);
    return result;
  }

  #release(ino: number, exclusive: boolean): void {
    if (exclusive) this.releaseExclusive(ino);
    else this.releaseShared(ino);
  }

  #wait(ino: number, exclusive: boolean): Promise<void> {
    return new Promise((resolve) => {
      const queue = this.#queues.get(ino);
      if (queue === undefined) this.#queues.set(ino, [{ exclusive, resolve }]);
      else queue.push({ exclusive, resolve });
    });
  }

  /** The last holder left: hands the inode to the next exclusive waiter or a run of shared ones. */
  #free(ino: number): void {
    this.#held.delete(ino);
    const queue = this.#queues.get(ino);
    if (queue === undefined) return;
    let shared = 0;
    while (queue.length > 0 && !queue[0]!.exclusive) {
      shared++;
      queue.shift()!.resolve();
    }
    if (shared > 0) {
      this.#held.set(ino, shared);
    } else {
      this.#held.set(ino, -1);
      queue.shift()!.resolve();
    }
    if (queue.length === 0) this.#queues.delete(ino);
  }
}
