/**
 * When -p must leave a volume as it is.
 *
 * What -p mends loses nothing by itself. But where something is wrong that only -y mends, a count that
 * does not fit may be all that tells what is missing, a data block that nobody has may be a lost
 * file's, a free block may hold the only copy of a lost leaf, and writing free space anew makes a
 * guess of what was known. So -p does nothing at all then: -y, or whoever looks at the volume by
 * other means, finds it as it was. What says nothing about anything but itself is no reason.
 */

import type { CheckContext } from "../context.ts";
import { type ProblemCode, PROBLEMS } from "../problems.ts";
import { tracesOfLoss } from "./lost_blocks.ts";

/** Problems that only -y mends, and that are about one field which nothing else is judged by. */
const CONTAINED: ReadonlySet<ProblemCode> = new Set<ProblemCode>([
  "super-flags",
  "super-slot",
  "super-no-slots",
  "super-option",
  "quorum-read",
  "quorum-block",
  "quorum-event",
  "inode-field",
  "quota-rule",
]);

/** Whether problems of these kinds are beyond what loses nothing. */
export function needsMoreThanPreening(counts: ReadonlyMap<ProblemCode, number>): boolean {
  return [...counts.keys()].some((code) => {
    const { severity, mending } = PROBLEMS[code];
    return severity !== "info" && mending !== "safe" && !CONTAINED.has(code);
  });
}

/** Whether data blocks that nobody has may be those of files that are not all there. */
export const mayHaveLostFiles = ({ report: { counts } }: CheckContext): boolean =>
  counts.has("data-leak") && tracesOfLoss(counts).some((code) => code !== "data-leak");
