/** A heap of timers in order of their time; equal times fire in the order they were set. */

interface Timer {
  readonly id: number;
  readonly at: number;
  fire: (() => void) | null;
}

export class TimerHeap {
  private readonly heap: Timer[] = [];
  private readonly byId = new Map<number, Timer>();
  private nextId = 1;

  /** `fire` is called by the first `fireDue` at or after `at`. */
  add(at: number, fire: () => void): number {
    const t: Timer = { id: this.nextId++, at, fire };
    this.byId.set(t.id, t);
    this.heap.push(t);
    this.up(this.heap.length - 1);
    return t.id;
  }

  /** No effect when it has fired or was removed. */
  remove(id: number): void {
    const t = this.byId.get(id);
    if (t === undefined) return;
    this.byId.delete(id);
    // It leaves the heap when it comes to the top.
    t.fire = null;
    while (this.heap[0]?.fire === null) this.pop();
  }

  /** The earliest time, Infinity without timers. */
  nextAt(): number {
    return this.heap[0]?.at ?? Infinity;
  }

  /** Fires what is due at `now`, but nothing that was added meanwhile. */
  fireDue(now: number): void {
    const limit = this.nextId;
    while (true) {
      const top = this.heap[0];
      if (top === undefined || top.at > now || top.id >= limit) return;
      this.pop();
      const { fire } = top;
      if (fire === null) continue;
      this.byId.delete(top.id);
      fire();
    }
  }

  private pop(): void {
    const last = this.heap.pop();
    if (last === undefined || this.heap.length === 0) return;
    this.heap[0] = last;
    let i = 0;
    for (;;) {
      let least = i;
      for (const child of [2 * i + 1, 2 * i + 2]) {
        if (child < this.heap.length && this.before(child, least)) least = child;
      }
      if (least === i) return;
      this.swap(i, least);
      i = least;
    }
  }

  private up(i: number): void {
    while (i > 0) {
      const parent = (i - 1) >> 1;
      if (!this.before(i, parent)) return;
      this.swap(i, parent);
      i = parent;
    }
  }

  private before(i: number, j: number): boolean {
    const a = this.heap[i], b = this.heap[j];
    if (a === undefined || b === undefined) return false;
    return a.at < b.at || (a.at === b.at && a.id < b.id);
  }

  private swap(i: number, j: number): void {
    const a = this.heap[i], b = this.heap[j];
    if (a === undefined || b === undefined) return;
    this.heap[i] = b;
    this.heap[j] = a;
  }
}
