/**
 * The tree of directories: a parent for each directory but the root, and every chain of parents
 * ends at the root (02 §24). Directories come in ascending inode order, so two typed arrays and
 * binary search are all it takes: 17 bytes a directory.
 */

/** States of a directory; 0 is one not looked at yet. */
const ON_PATH = 1;
const GOOD = 2;
const BAD = 3;

export class ParentMap {
  #inos = new Float64Array(1024);
  #parents = new Float64Array(1024);
  #n = 0;
  #pendingIno = -1;
  #pendingParent = -1;

  /** The parent that a backref of directory `ino` names; told before `exists`. */
  add(ino: number, parent: number): void {
    this.#pendingIno = ino;
    this.#pendingParent = parent;
  }

  /** Directory `ino` is there. Unlinked ones need no parent. */
  exists(ino: number, unlinked: boolean): void {
    if (this.#n === this.#inos.length) {
      this.#inos = grow(this.#inos);
      this.#parents = grow(this.#parents);
    }
    this.#inos[this.#n] = ino;
    this.#parents[this.#n] = this.#pendingIno === ino ? this.#pendingParent : unlinked ? 0 : -1;
    this.#n++;
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
