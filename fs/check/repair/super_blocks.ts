/** Which of the two super blocks a repair writes, and when it must not go on without them. */

import type { Device } from "../../device.ts";
import type { Random } from "../../env.ts";
import type { CheckOptions } from "../check.ts";
import type { ProblemCode } from "../problems.ts";
import { mendDataSuper } from "./data_super.ts";
import type { Findings } from "./findings.ts";
import { rebuildMetaSuper } from "./meta_super.ts";
import { keepMetaSuper, mendMetaSuper } from "./supers.ts";

/** Problems of a super block of which nothing can be used as it is. */
const USELESS: ReadonlySet<ProblemCode> = new Set<ProblemCode>([
  "super-read",
  "super-magic",
  "super-crc",
  "super-blkno",
]);

/** Problems that make a super block unusable, or the two contradict each other. */
const SUPER_CODES: ReadonlySet<ProblemCode> = new Set<ProblemCode>([
  ...USELESS,
  "super-version",
  "super-role",
  "super-flags",
  "super-reserved",
  "super-size",
  "super-pair",
]);

const LOST = "the root of fs_root is lost";

export interface SuperOptions extends CheckOptions {
  readonly mode: "safe" | "all";
  readonly random: Random;
  readonly log?: (line: string) => void;
  /** What the check found. */
  readonly findings: Findings;
  /** Whether problems of this kind are to be mended. */
  readonly may: (code: ProblemCode) => boolean;
}

/**
 * Writes one super block that cannot be used as it is: whether one was, or why nothing may be written
 * at all, and whether leaves of fs_root are to be searched for. Nothing is mended against a device
 * that may not be the volume's.
 */
export function mendSuperBlocks(
  meta: Device,
  data: Device,
  options: SuperOptions,
): { written: boolean; refused: string | null; fsRootLost: boolean } {
  const { findings, may, mode } = options;
  const none = { written: false, refused: null, fsRootLost: false };
  if (mode !== "all") {
    const unsafe = findings.problems.some(({ code, values }) =>
      code === "super-pair" || code === "super-size" ||
      USELESS.has(code) && values["dev"] === "data"
    );
    return unsafe ? { ...none, refused: "the super blocks must be mended first, with -y" } : none;
  }
  const wrong = findings.problems.filter(({ code }) => SUPER_CODES.has(code) && may(code));
  if (wrong.length === 0) return none;
  const done = (notes: readonly string[], fsRootLost = false) => {
    options.log?.("a super block was written anew");
    for (const note of notes) options.log?.(note);
    return { written: true, refused: null, fsRootLost };
  };
  if (mendMetaSuper(meta, data, options)) return done([]);
  if (wrong.some(({ code, values }) => USELESS.has(code) && values["dev"] === "metadata")) {
    const { written, notes, refused, fsRootLost } = rebuildMetaSuper(meta, data, options);
    if (written) return done(notes, fsRootLost);
    return keepMetaSuper(meta, data) ? done([LOST]) : { ...none, refused };
  }
  const { written, note, refused } = mendDataSuper(meta, data, options.random);
  if (written) return done(note === null ? [] : [note]);
  return refused === null && keepMetaSuper(meta, data) ? done([LOST]) : { ...none, refused };
}
