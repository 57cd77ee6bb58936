/** Every invariant of the item cache that can be seen from the pages of all locks. */

import { assert } from "../../fs/errors.ts";
import type { ItemCache } from "../../fs/item_cache.ts";
import { ITEM_DIRTY } from "../../fs/item_page.ts";
import { type ClusterLock, readable } from "../../fs/lock_client.ts";
import type { Key } from "../../format/key.ts";

/** Throws when one is broken; `locks` are all that the mount knows. */
export function verifyItems(items: ItemCache, locks: Iterable<ClusterLock>): void {
  let bytes = 0;
  let pages = 0;
  let dirty = 0;
  for (const lock of locks) {
    assert(lock.pages.length === 0 || lock.mode !== 0, `${lock} has items without a mode`);
    let last: Key | null = null;
    for (const page of lock.pages) {
      const { start, end } = page;
      assert(page.attached && page.lock === lock, "a page of another lock");
      assert(page.blind || readable(lock.mode), "read items under a lock that may not read");
      assert(last === null || last.compare(start) < 0, "pages overlap");
      assert(start.compare(end) <= 0 && lock.covers(start) && lock.covers(end), "page range");
      let live = 0;
      let pageDirty = 0;
      let key: Key | null = null;
      for (let i = 0; i < page.count; i++) {
        const k = page.key(i);
        assert(key === null || key.compare(k) < 0, "items out of order");
        assert(start.compare(k) <= 0 && k.compare(end) <= 0, "item outside of its page");
        key = k;
        live += page.length(i);
        if ((page.flags(i) & ITEM_DIRTY) !== 0) pageDirty++;
      }
      assert(live === page.live && live <= page.top, "live bytes");
      assert(page.view.buffer === page.vals.buffer, "two buffers of values");
      assert(pageDirty === page.dirty, "dirty count of a page");
      assert(pageDirty === 0 || page.listed, "a dirty page is not listed");
      dirty += pageDirty;
      bytes += page.bytes;
      pages++;
      last = end;
    }
  }
  assert(bytes === items.bytes && pages === items.pages, "memory of pages is miscounted");
  assert(dirty === items.dirtyItems, "dirty items are miscounted");
}
