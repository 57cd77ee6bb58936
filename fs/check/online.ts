/**
 * Checking a volume while it is mounted, without stopping anything. A super block that was read
 * once is a snapshot of the whole volume: every metadata block is copied on write, and every
 * reference names the version that it means (01 §5). So a check that meets no wrong block has seen
 * exactly the state of its super block, and its verdict is as good as that of an idle volume.
 *
 * Relies on: devices that show what the mounts have written, and mounts that keep the rule above.
 * Guarantees: a verdict is that of one committed state; where none is reached that is said.
 *
 * Blocks that were freed since may be in use again. A check that finds anything is therefore
 * believed only if the super block is still the same at its end; otherwise it is made again, and if
 * that does not help either, of a copy of the blocks that change (snapshot.ts).
 */

import { SM_SIZE, SUPER_BLKNO } from "../../format/constants.ts";
import { bytesEqual } from "../../format/bytes.ts";
import { SuperBlock } from "../../format/super.ts";
import type { Device } from "../device.ts";
import { type CheckOptions, checkVolume, DEFAULT_MEMORY, isSound, type Report } from "./check.ts";
import { type SnapshotDevice, takeSnapshot } from "./snapshot.ts";

export interface OnlineResult {
  readonly report: Report;
  readonly attempts: number;
  /** False: in every attempt the volume changed under the check, what was found may be old news. */
  readonly settled: boolean;
}

const ATTEMPTS = 10;
/** Attempts of the devices as they are. */
const PLAIN = 2;

/**
 * Checks the committed state of a volume that may be mounted. `onProblem` is called at the end, for
 * the attempt that counts.
 */
export function checkOnline(meta: Device, data: Device, options: CheckOptions = {}): OnlineResult {
  const { onProblem, ...rest } = options;
  for (let attempts = 1;; attempts++) {
    const copy = attempts > PLAIN ? takeSnapshot(meta, (rest.memory ?? DEFAULT_MEMORY) / 2) : null;
    const { report, settled } = copy === null
      ? checkAsItIs(meta, data, rest)
      : checkCopy(meta, copy, data, rest);
    if (!settled && attempts < ATTEMPTS) continue;
    if (onProblem !== undefined) report.problems.forEach(onProblem);
    return { report, attempts, settled };
  }
}

type Attempt = Pick<OnlineResult, "report" | "settled">;

function checkAsItIs(meta: Device, data: Device, options: CheckOptions): Attempt {
  const before = superBytes(meta);
  const report = checkVolume(meta, data, options);
  return { report, settled: isSound(report) || bytesEqual(before, superBytes(meta)) };
}

/** Threads and reads ahead go past a copy. What is not in it must not have changed: fs_root. */
function checkCopy(
  meta: Device,
  copy: SnapshotDevice,
  data: Device,
  { crew: _, readAhead: __, ...options }: CheckOptions,
): Attempt {
  const report = checkVolume(copy, data, options);
  const then = SuperBlock.at(copy.superBytes).fsRoot, now = SuperBlock.at(superBytes(meta)).fsRoot;
  return { report, settled: isSound(report) || bytesEqual(then.bytes, now.bytes) };
}

function superBytes(meta: Device): Uint8Array {
  const block = meta.allocBuffer(SM_SIZE);
  meta.read(block, SUPER_BLKNO * SM_SIZE);
  return block;
}
