/**
 * Checking a volume while it is mounted, without stopping anything. A super block that was read
 * once is a snapshot of the whole volume: every metadata block is copied on write, and every
 * reference names the version that it means (01 §5). So a check that meets no wrong block has seen
 * exactly the state of its super block, and its verdict is as good as that of an idle volume.
 *
 * Blocks that were freed since may be in use again. A check that finds anything is therefore
 * believed only if the super block is still the same at its end; otherwise it is made again.
 */

import { SM_SIZE, SUPER_BLKNO } from "../../format/constants.ts";
import { bytesEqual } from "../../format/bytes.ts";
import type { Device } from "../device.ts";
import { type CheckOptions, checkVolume, isSound, type Report } from "./check.ts";

export interface OnlineResult {
  readonly report: Report;
  readonly attempts: number;
  /** False: in every attempt the volume changed under the check, what was found may be old news. */
  readonly settled: boolean;
}

const ATTEMPTS = 10;

/**
 * Checks the committed state of a volume that may be mounted. `onProblem` is called at the end, for
 * the attempt that counts.
 */
export function checkOnline(meta: Device, data: Device, options: CheckOptions = {}): OnlineResult {
  const { onProblem, ...rest } = options;
  for (let attempts = 1;; attempts++) {
    const before = superBytes(meta);
    const report = checkVolume(meta, data, rest);
    const settled = isSound(report) || bytesEqual(before, superBytes(meta));
    if (!settled && attempts < ATTEMPTS) continue;
    if (onProblem !== undefined) report.problems.forEach(onProblem);
    return { report, attempts, settled };
  }
}

function superBytes(meta: Device): Uint8Array {
  const block = meta.allocBuffer(SM_SIZE);
  meta.read(block, SUPER_BLKNO * SM_SIZE);
  return block;
}
