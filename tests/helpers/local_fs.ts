/**
 * Mounts in this process over a LocalCluster, and what tests of operations need of them: running
 * operations, committing, reading all committed items, checking the namespace.
 */

import type { Caller } from "../../fs/caller.ts";
import type { ReadAhead } from "../../fs/device.ts";
import { assert } from "../../fs/errors.ts";
import { Fs } from "../../fs/fs.ts";
import type { Op, ParanoidOptions } from "../../fs/op.ts";
import { SuperBlock } from "../../format/super.ts";
import { inodeCount } from "../../fs/forest.ts";
import { BlockCache } from "../../fs/block_cache.ts";
import {
  DEFAULT_ENGINE_LIMITS,
  DEFAULT_MOUNT_OPTIONS,
  type EngineLimits,
  type MountOptions,
} from "../../fs/options.ts";
import { checkNamespace, collectItems, collectSearch, type StoredItem } from "./check_namespace.ts";
import { LocalCluster, type LocalLink } from "./local_cluster.ts";

export interface LocalMountOptions {
  readonly options?: Partial<MountOptions>;
  readonly limits?: Partial<EngineLimits>;
  readonly paranoid?: ParanoidOptions | null;
  readonly readAhead?: ReadAhead;
}

/** One mount. */
export class LocalFs {
  private constructor(
    readonly cluster: LocalCluster,
    readonly link: LocalLink,
    readonly fs: Fs,
    /** Lines it logged. */
    readonly log: string[],
  ) {}

  static async mount(cluster: LocalCluster, how: LocalMountOptions = {}): Promise<LocalFs> {
    const link = await cluster.connect();
    const log: string[] = [];
    const fs = new Fs({
      meta: cluster.meta,
      data: cluster.data,
      superBlock: cluster.superBlock(),
      rid: link.rid,
      link,
      clock: cluster.timers,
      random: cluster.random,
      options: { ...DEFAULT_MOUNT_OPTIONS, vfs: [], ...how.options },
      limits: { ...DEFAULT_ENGINE_LIMITS, ...how.limits },
      log: (line) => void log.push(line),
      paranoid: how.paranoid ?? null,
      ...(how.readAhead === undefined ? {} : { readAhead: how.readAhead }),
    });
    await fs.start();
    return new LocalFs(cluster, link, fs, log);
  }

  /** Runs one operation to its end. */
  async run<T>(fn: (op: Op, fs: Fs) => T, caller: Caller | null = null): Promise<T> {
    return await this.fs.runner.run((op) => fn(op, this.fs), caller);
  }

  /** As syncfs. */
  async sync(): Promise<void> {
    await this.fs.trans.sync();
  }

  async unmount(): Promise<void> {
    await this.fs.stop();
    await this.cluster.disconnect(this.link);
  }

  /** The mount dies without a word and is reclaimed. */
  async crash(): Promise<void> {
    this.fs.abort();
    await this.cluster.disconnect(this.link);
  }
}

/** A new volume with one mount. */
export async function newLocalFs(
  how: LocalMountOptions & { fmtVers?: number; seed?: number } = {},
): Promise<LocalFs> {
  const cluster = await LocalCluster.make({
    ...(how.fmtVers === undefined ? {} : { fmtVers: how.fmtVers }),
    ...(how.seed === undefined ? {} : { seed: how.seed }),
  });
  return await LocalFs.mount(cluster, how);
}

/** All items of the volume's stable state, as a reader without a mount sees them. */
export function committedItems(cluster: LocalCluster): StoredItem[] {
  const { cache, sb } = stable(cluster);
  return collectItems(cache, { fsRoot: sb.fsRoot, logsRoot: sb.logsRoot });
}

function stable(cluster: LocalCluster): { cache: BlockCache; sb: SuperBlock } {
  const sb = cluster.superBlock();
  const cache = new BlockCache(cluster.meta, sb.hdr.fsid, {
    limitBytes: 8 << 20,
    random: cluster.random,
  });
  return { cache, sb };
}

/** Throws, naming what is wrong and not tolerated, unless the committed namespace is sound. */
export function assertSound(cluster: LocalCluster, tolerated?: RegExp): void {
  const { cache, sb } = stable(cluster);
  const items = collectItems(cache, { fsRoot: sb.fsRoot, logsRoot: sb.logsRoot });
  const search = collectSearch(cache, { srchRoot: sb.srchRoot, logsRoot: sb.logsRoot });
  const count = inodeCount({ cache }, sb.inodeCount, sb.logsRoot);
  const problems = checkNamespace(items, count, search).filter((p) => !tolerated?.test(p));
  assert(problems.length === 0, `unsound namespace:\n${problems.join("\n")}`);
}
