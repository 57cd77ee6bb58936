/**
 * What problems of a kind ask of a round of repair (repair.ts).
 */

import { ZONE_LOG_MERGE_FREEING } from "../../../format/constants.ts";
import type { CheckResult } from "../check.ts";
import { isAllocator, isDataAllocator, isMergeItemOf } from "../names.ts";
import type { Problem } from "../report.ts";

/** A merge that cannot be ended as it stands. */
export function contradictsMerge({ code, values }: Problem): boolean {
  if (code === "item-unmerged") return true;
  return code === "merge" && !/^nr_/.test(String(values["why"])) &&
    !isMergeItemOf(String(values["what"]), ZONE_LOG_MERGE_FREEING);
}

/** Whether crashed mounts, or servers, have left something. */
export function needsRecovery({ items }: CheckResult): boolean {
  return items !== null && (
    items.logTrees.some(({ lt }) => !lt.isFinalized) || items.mounted.length > 0 ||
    items.compactions.some(({ busy }) => busy) || items.merge.requests.length > 0
  );
}

/** Slots whose quorum blocks are wrong. */
export function quorumSlots(problems: readonly Problem[]): Set<number> {
  const bad = problems.filter(({ code }) => code.startsWith("quorum-"));
  return new Set(bad.map(({ values }) => Number(values["slot"])));
}

/** Writing the allocators anew is all that these need. */
export function isSpaceProblem({ code, values }: Problem): boolean {
  return /^(list-|alloc-|meta-leak$|meta-free-|meta-block-|super-|root-pad$)/.test(code) ||
    /^extent-(key|range|order|overlap|index|total)$/.test(code) ||
    code.startsWith("data-") && code !== "data-block-twice" ||
    isAllocator(String(values["what"] ?? ""));
}

/** Free data extents are not what they should be. */
export function isDataSpaceProblem({ code, values }: Problem): boolean {
  if (code.startsWith("data-")) return true;
  return isDataAllocator(String(values["what"] ?? ""));
}
