/** Which of the two super blocks a repair writes, and when it must not go on without them. */

import type { Device } from "../../device.ts";
import type { Report } from "../check.ts";
import type { ProblemCode } from "../problems.ts";
import { clearReserved, mendDataSuper } from "./data_super.ts";
import type { Findings } from "./findings.ts";
import { rebuildMetaSuper, type RebuildOptions } from "./meta_super.ts";
import { needsMoreThanPreening } from "./preening.ts";
import { keepMetaSuper, mendMetaSuper, wrongDevices } from "./supers.ts";
import { cutShort, mendTotals } from "./volume_sizes.ts";

/** Problems of a super block of which nothing can be used as it is. */
const USELESS: ReadonlySet<ProblemCode> = new Set<ProblemCode>([
  "super-read",
  "super-magic",
  "super-crc",
  "super-blkno",
]);

/** Problems of the metadata super block with which no check can go on. */
const UNUSABLE: ReadonlySet<ProblemCode> = new Set<ProblemCode>([
  ...USELESS,
  "super-version",
  "super-role",
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

/** What a total in the super block that is too small makes of what is there. */
const BEYOND: readonly ProblemCode[] = ["ref-range", "extent-range", "extent-outside"];

const LOST = "the root of fs_root is lost";

export interface SuperOptions extends RebuildOptions {
  readonly mode: "safe" | "all";
  readonly log?: (line: string) => void;
  /** What the check found. */
  readonly report: Report;
  readonly findings: Findings;
  /** Whether problems of this kind are to be mended. */
  readonly may: (code: ProblemCode) => boolean;
}

export interface MendedSuper {
  readonly written: boolean;
  /** Something may have been lost with that. */
  readonly lossy: boolean;
  /** Why nothing may be written at all. */
  readonly refused: string | null;
  /** That is because of the devices, not of damage: they are no pair, or not all there. */
  readonly wrongDevices: boolean;
  /** Leaves of fs_root are to be searched for. */
  readonly fsRootLost: boolean;
}

const NONE: MendedSuper = {
  written: false,
  lossy: false,
  refused: null,
  wrongDevices: false,
  fsRootLost: false,
};

/**
 * Writes one super block that cannot be used as it is. Nothing is mended against a device that may not
 * be the volume's.
 */
export function mendSuperBlocks(meta: Device, data: Device, options: SuperOptions): MendedSuper {
  const { findings, may, mode, report } = options;
  const refuse = (refused: string): MendedSuper => ({ ...NONE, refused });
  const mistaken = wrongDevices(meta, data) ?? cutShort(meta, data, report);
  if (mistaken !== null) return { ...refuse(mistaken), wrongDevices: true };
  if (mode !== "all") {
    const unsafe = findings.problems.some(({ code, values }) =>
      code === "super-pair" || code === "super-size" ||
      USELESS.has(code) && values["dev"] === "data"
    );
    if (unsafe) return refuse("the super blocks must be mended first, with -y");
    const reserved = findings.problems.some(({ code, values }) =>
      code === "super-reserved" && values["dev"] === "data" && may(code)
    );
    if (!reserved || needsMoreThanPreening(report.counts)) return NONE;
    clearReserved(data);
    options.log?.("what is reserved in the super block of the data device was cleared");
    return { ...NONE, written: true };
  }
  const done = (notes: readonly string[], fsRootLost = false): MendedSuper => {
    options.log?.("a super block was written anew");
    for (const note of notes) options.log?.(note);
    return { ...NONE, written: true, lossy: true, fsRootLost };
  };
  const wrong = findings.problems.filter(({ code }) => SUPER_CODES.has(code) && may(code));
  if (wrong.length === 0) {
    const beyond = BEYOND.filter((code) => report.counts.has(code));
    if (!beyond.every((code) => may(code))) return NONE;
    return mendTotals(meta, data, report, options)
      ? done(["its sizes were less than what the volume uses"])
      : NONE;
  }
  if (mendMetaSuper(meta, data, options)) return done([]);
  if (wrong.some(({ code, values }) => UNUSABLE.has(code) && values["dev"] === "metadata")) {
    const rebuilt = rebuildMetaSuper(meta, data, options), { refused, wrongDevices } = rebuilt;
    if (rebuilt.written) return done(rebuilt.notes, rebuilt.fsRootLost);
    if (rebuilt.treeless && keepMetaSuper(meta, data)) return done([LOST]);
    return { ...NONE, refused, wrongDevices };
  }
  const trusted = options.trustData === true;
  const { written, note, refused } = mendDataSuper(meta, data, options.random, trusted);
  if (written) return done(note === null ? [] : [note]);
  if (refused === null && keepMetaSuper(meta, data)) return done([LOST]);
  return { ...NONE, refused, wrongDevices: refused !== null };
}
