/**
 * Blocks with changed bytes and right crcs: every operation on such a tree ends, with a result or
 * with an error that says so; never with a crash, and never in a loop.
 */

import assert from "node:assert/strict";
import fc from "fast-check";
import { FormatError } from "../../format/bytes.ts";
import { BtreeRoot } from "../../format/btree.ts";
import { verifyBtreeBlock } from "../../format/btree_verify.ts";
import { LEAF_ITEM_HASH_OFF, LG_SIZE } from "../../format/constants.ts";
import { sealBlock } from "../../format/crc32c.ts";
import { Key } from "../../format/key.ts";
import { BlockWriter, type MetaAllocator } from "../../fs/block_cache.ts";
import {
  forEachItem,
  insert,
  lookup,
  next,
  prev,
  readItems,
  remove,
  update,
  walkBlocks,
} from "../../fs/btree.ts";
import { insertList } from "../../fs/btree_log.ts";
import { FsError } from "../../fs/errors.ts";
import { newCache, newTree } from "./support.ts";

const key = (n: number) => Key.of(16, n, 4);
const ITEMS = 500;

function committed() {
  const t = newTree(256), root = BtreeRoot.alloc();
  for (let n = 0; n < ITEMS; n++) insert(t, root, key(n), new Uint8Array(n % 5 * 90).fill(n));
  t.writer.write();
  const blocks: { blkno: number; level: number }[] = [];
  walkBlocks(t, root, ({ blkno, level }) => {
    blocks.push({ blkno, level });
  });
  assert.ok(blocks.length >= 3 && root.height === 2);
  return { dev: t.dev, root, blocks };
}

/** Runs `step`; what it throws must be an error about what is stored. */
function attempt(step: () => void): void {
  try {
    step();
  } catch (e) {
    if (!(e instanceof FsError || e instanceof FormatError)) throw e;
  }
}

Deno.test("trees of mutated blocks give results or errors", () => {
  const volume = committed();
  const place = fc.oneof(
    fc.integer({ min: 16, max: 47 }),
    fc.integer({ min: 48, max: 48 + 56 * 12 }),
    fc.integer({ min: 48, max: LG_SIZE - 1 }),
    fc.integer({ min: LEAF_ITEM_HASH_OFF, max: LG_SIZE - 1 }),
  );
  const mutation = fc.record({
    block: fc.nat(volume.blocks.length - 1),
    at: place,
    value: fc.oneof(fc.nat(255), fc.constantFrom(0, 1, 16, 255)),
  });
  let broken = 0;
  fc.assert(
    fc.property(
      fc.array(mutation, { minLength: 1, maxLength: 5 }),
      fc.array(fc.nat(ITEMS + 20), { minLength: 3, maxLength: 6 }),
      (mutations, probes) => {
        const dev = volume.dev.snapshot();
        for (const m of mutations) {
          const off = volume.blocks[m.block]!.blkno * LG_SIZE;
          const buf = dev.allocBuffer(LG_SIZE);
          dev.read(buf, off);
          buf[m.at] = m.value;
          sealBlock(buf);
          dev.write(buf, off);
        }
        const root = BtreeRoot.alloc();
        root.copyFrom(volume.root);
        const cache = newCache(dev);
        const reader = { cache };
        for (const n of probes) {
          attempt(() => lookup(reader, root, key(n)));
          attempt(() => next(reader, root, key(n)));
          attempt(() => prev(reader, root, key(n)));
          const range = { start: key(0), end: key(ITEMS) };
          attempt(() => readItems(reader, root, key(n), range, () => {}));
        }
        let items = 0;
        attempt(() =>
          forEachItem(reader, root, Key.ZEROS, () => {
            items++;
          })
        );
        assert.ok(items <= 2 * ITEMS);
        const seen = new Set<number>();
        walkBlocks(reader, root, (b) => {
          if (b.error !== null) broken++;
          else verifyBtreeBlock(b.block!, { ...b, logTree: true });
          if (seen.has(b.blkno)) return false;
          seen.add(b.blkno);
          return true;
        });

        const writer = new BlockWriter(cache);
        let unused = 200;
        const alloc: MetaAllocator = { allocMeta: () => unused++ % 56 + 200, freeMeta: () => {} };
        const tree = { cache, writer, alloc };
        for (const n of probes) {
          if (writer.dirtyCount > 40) break;
          attempt(() => insert(tree, root, key(n), new Uint8Array(100)));
          attempt(() => update(tree, root, key(n), new Uint8Array(500)));
          attempt(() => remove(tree, root, key(n)));
          attempt(() =>
            insertList(tree, root, [
              { key: key(n), seq: 9, flags: 0, val: new Uint8Array(9) },
              { key: key(n + 1), seq: 9, flags: 1, val: new Uint8Array(0) },
            ])
          );
        }
      },
    ),
    { numRuns: 800 },
  );
  assert.ok(broken > 50, "mutations were noticed");
});
