/**
 * The tree of directories: a parent for each directory but the root, and every chain of parents
 * ends at the root (02 §24). Directories come in ascending inode order, so two typed arrays and
 * binary search are all it takes: 17 bytes a directory.
 */

/** States of a directory; 0 is one not looked at yet. */
const ON_PATH = 1;
const GOOD = 2;
const BAD = 3;

/** Instead of a parent: an unlinked directory needs none, a directory without a backref lacks it. */
const NEEDS_NONE = 0;
const LACKS_ONE = -1;

/** Directories as they come, in ascending inode order, for a `ParentMap` elsewhere. */
export class Directories {
  #pairs: number[] = [];
  #pendingIno = -1;
  #pendingParent = -1;

  /** The parent that a backref of directory `ino` names; told before `exists`. */
  add(ino: number, parent: number): void {
    this.#pendingIno = ino;
    this.#pendingParent = parent;
  }

  /** Directory `ino` is there. Unlinked ones need no parent. */
  exists(ino: number, unlinked: boolean): void {
    const known = this.#pendingIno === ino;
    this.#pairs.push(ino, known ? this.#pendingParent : unlinked ? NEEDS_NONE : LACKS_ONE);
  }

  /** Inode and parent of each as doubles; nothing is left here. */
  take(): ArrayBuffer {
    const taken = Float64Array.from(this.#pairs).buffer;
    this.#pairs = [];
    return taken;
  }
}

export class ParentMap {
  #inos = new Float64Array(1024);
  #parents = new Float64Array(1024);
  #n = 0;

  /** Adds what `Directories` gathered. */
  append(directories: ArrayBuffer): void {
    const pairs = new Float64Array(directories);
    for (let i = 0; i < pairs.length; i += 2) {
      if (this.#n === this.#inos.length) {
        this.#inos = grow(this.#inos);
        this.#parents = grow(this.#parents);
      }
      this.#inos[this.#n] = pairs[i] as number;
      this.#parents[this.#n] = pairs[i + 1] as number;
      this.#n++;
    }
  }

  get count(): number {
    return this.#n;
  }

  #index(ino: number): number {
    let lo = 0, hi = this.#n;
    while (lo < hi) {
      const mid = lo + hi >>> 1;
      if ((this.#inos[mid] as number) < ino) lo = mid + 1;
      else hi = mid;
    }
    return lo < this.#n && this.#inos[lo] === ino ? lo : -1;
  }

  /**
   * Visits directories from which the root is not reached: `missing` when the parent is no
   * directory, `cycle` for one directory of each circle.
   */
  check(
    root: number,
    missing: (ino: number, parent: number) => void,
    cycle: (ino: number) => void,
  ): void {
    const state = new Uint8Array(this.#n);
    const path: number[] = [];
    for (let first = 0; first < this.#n; first++) {
      path.length = 0;
      let at = first, end = GOOD;
      for (;;) {
        if (state[at] === GOOD || state[at] === BAD) {
          end = state[at] as number;
          break;
        }
        if (state[at] === ON_PATH) {
          cycle(this.#inos[at] as number);
          end = BAD;
          break;
        }
        state[at] = ON_PATH;
        path.push(at);
        const ino = this.#inos[at] as number, parent = this.#parents[at] as number;
        if (ino === root || parent === 0) break;
        if (parent < 0) {
          // Reported with the directory itself: it has no backref.
          end = BAD;
          break;
        }
        const next = this.#index(parent);
        if (next < 0) {
          missing(ino, parent);
          end = BAD;
          break;
        }
        at = next;
      }
      for (const i of path) state[i] = end;
    }
  }
}

function grow(a: Float64Array<ArrayBuffer>): Float64Array<ArrayBuffer> {
  const bigger = new Float64Array(a.length * 2);
  bigger.set(a);
  return bigger;
}
