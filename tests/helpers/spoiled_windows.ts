/**
 * Finds whoever keeps a window of the item cache for too long. Windows are good until the run that
 * got them ends; here every page's values move and the bytes where they were become nonsense
 * whenever a run is cut short, and whenever the test says so.
 */

import type { Fs } from "../../fs/fs.ts";
import { Page } from "../../fs/item_page.ts";
import { SeededRandom } from "./sim_reactor.ts";

/** Every window that was handed out up to now shows nonsense. */
export function spoilWindows(fs: Fs): void {
  // A commit reads through windows; nothing can be changed while it does.
  if (fs.trans.state === "writing") return;
  for (const lock of fs.locks.all()) {
    for (const page of lock.pages) {
      const old = page.vals;
      moveValues(page);
      old.fill(0xa5);
    }
  }
}

function moveValues(page: Page): void {
  page.vals = page.vals.slice();
  page.view = new DataView(page.vals.buffer);
}

/** The randomness of paranoid mode: a run that it cuts short loses its windows at once. */
export class SpoilingRandom extends SeededRandom {
  fs: Fs | null = null;

  constructor(seed: number, private readonly suspendPerMille: number) {
    super(seed);
  }

  override below(n: number): number {
    const drawn = super.below(n);
    if (drawn < this.suspendPerMille && this.fs !== null) spoilWindows(this.fs);
    return drawn;
  }
}

/** While `run` runs, every creation of an item moves all values of its page, as a full one does. */
export async function movingAtCreation(run: () => Promise<void>): Promise<void> {
  const { insert } = Page.prototype;
  Page.prototype.insert = function (this: Page, ...args) {
    moveValues(this);
    insert.apply(this, args);
  };
  try {
    await run();
  } finally {
    Page.prototype.insert = insert;
  }
}
