/** Mounts of a LocalCluster, for tests of the client engine. */

import { Key } from "../../format/key.ts";
import { ZONE_FS } from "../../format/constants.ts";
import { Fs, type FsParts } from "../../fs/fs.ts";
import { DEFAULT_ENGINE_LIMITS, DEFAULT_MOUNT_OPTIONS } from "../../fs/options.ts";
import type { LocalCluster, LocalLink } from "./local_cluster.ts";
import { SpoilingRandom } from "./spoiled_windows.ts";

export interface TestMount {
  readonly fs: Fs;
  readonly link: LocalLink;
  /** Lines that the mount logged. */
  readonly lines: string[];
}

/** A mount that is ready for operations; `parts` overrides what it is made of. */
export async function mount(
  cluster: LocalCluster,
  parts: Partial<FsParts> & { suspendPerMille?: number } = {},
): Promise<TestMount> {
  const link = await cluster.connect();
  const lines: string[] = [];
  const { suspendPerMille, ...rest } = parts;
  const seed = Number(link.rid & 0xffffn);
  const random = suspendPerMille === undefined ? null : new SpoilingRandom(seed, suspendPerMille);
  const fs = new Fs({
    meta: cluster.meta,
    data: cluster.data,
    superBlock: cluster.superBlock(),
    rid: link.rid,
    link,
    clock: cluster.timers,
    random: cluster.random,
    options: { ...DEFAULT_MOUNT_OPTIONS, vfs: [] },
    limits: { ...DEFAULT_ENGINE_LIMITS },
    log: (line) => lines.push(line),
    paranoid: random === null || suspendPerMille === undefined ? null : { random, suspendPerMille },
    ...rest,
  });
  if (random !== null) random.fs = fs;
  await fs.start();
  return { fs, link, lines };
}

/** Unmounts, farewell included. */
export async function unmount(cluster: LocalCluster, m: TestMount): Promise<void> {
  await m.fs.stop();
  await cluster.disconnect(m.link);
}

/** A type that no filesystem operation uses: tests keep items of their own below an inode. */
export const TEST_TYPE = 200;

/** Key of test item `n` of inode `ino`. */
export const testKey = (ino: number, n: number): Key => Key.of(ZONE_FS, ino, TEST_TYPE, n);
