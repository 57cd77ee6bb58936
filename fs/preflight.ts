/**
 * What must be readable before a mount writes anything: the root block of every tree and the first
 * block of every list of the super block (01 §8). Damage there would only be met when the server has
 * started already; damage further below is met when it is needed, and is that access's EIO.
 *
 * Another node may be at work and reuse what the super block led to: a failure counts when the same
 * super block leads to it again.
 */

import type { AllocListHead } from "../format/alloc.ts";
import type { BtreeRoot } from "../format/btree.ts";
import { MAGIC_ALLOC_LIST, MAGIC_BTREE } from "../format/constants.ts";
import { EIO } from "../format/errno.ts";
import type { SuperBlock } from "../format/super.ts";
import { BlockCache } from "./block_cache.ts";
import type { Random } from "./env.ts";
import { FsError, StaleError } from "./errors.ts";
import { readSuperBlock, type Volume } from "./volume.ts";

/** Throws FsError (EIO) that names device, structure and block. */
export function checkRoots(volume: Volume, random: Random): void {
  for (let sb = volume.superBlock;;) {
    try {
      readRoots(volume, sb, random);
      return;
    } catch (e) {
      const now = readSuperBlock(volume.meta);
      if (!(e instanceof FsError) || now.hdr.seq === sb.hdr.seq) throw e;
      sb = now;
    }
  }
}

function readRoots({ meta, fsid }: Volume, sb: SuperBlock, random: Random): void {
  const cache = new BlockCache(meta, fsid, { limitBytes: 1 << 20, random });
  const check = (what: string, ref: BtreeRoot["ref"], magic: number): void => {
    if (ref.isNull) return;
    try {
      cache.read(ref, magic);
    } catch (e) {
      if (!(e instanceof StaleError)) throw e;
      throw new FsError(EIO, `${meta.name}: ${what} is damaged: ${e.message}`);
    }
  };
  const tree = (what: string, root: BtreeRoot) => check(what, root.ref, MAGIC_BTREE);
  const list = (what: string, head: AllocListHead) => check(what, head.ref, MAGIC_ALLOC_LIST);
  tree("fs_root", sb.fsRoot);
  tree("logs_root", sb.logsRoot);
  tree("log_merge", sb.logMerge);
  tree("mounted_clients", sb.mountedClients);
  tree("srch_root", sb.srchRoot);
  tree("data_alloc", sb.dataAlloc.root);
  for (let i = 0; i < 2; i++) {
    tree(`meta_alloc[${i}]`, sb.metaAlloc(i).root);
    list(`server_meta_avail[${i}]`, sb.serverMetaAvail(i));
    list(`server_meta_freed[${i}]`, sb.serverMetaFreed(i));
  }
}
