/**
 * What -p promises, demanded of one damaged volume: it loses nothing. Everything that readers saw
 * before is there afterwards, nothing is taken from a later -y that a -y alone would have kept, and
 * a -p that mends nothing writes nothing.
 */

import { FormatError } from "../../format/bytes.ts";
import { isSound, type Report } from "../../fs/check/check.ts";
import { type RepairOptions, repairVolume } from "../../fs/check/repair/repair.ts";
import type { Device } from "../../fs/device.ts";
import { FsError } from "../../fs/errors.ts";
import { type Facts, factsOf, lostFrom } from "./facts.ts";

interface Volume {
  readonly meta: Device;
  readonly data: Device;
}

/** The facts of a volume that can be read; null for one that cannot. */
function readable({ meta, data }: Volume): Facts | null {
  try {
    return factsOf(meta, data);
  } catch (e) {
    // Values that are shorter than what is read of them, too.
    if (!(e instanceof FsError || e instanceof FormatError || e instanceof RangeError)) throw e;
    return null;
  }
}

const problemsOf = (r: Report): string =>
  r.problems.filter((p) => p.severity !== "info").map((p) => `  ${p.code}: ${p.message}`)
    .slice(0, 40).join("\n");

/** What it came to: `what` in a few words, and what went wrong, if anything did. */
export interface Preened {
  readonly what: string;
  readonly failure: string | null;
}

/**
 * `before`: the facts of the undamaged volume. `damaged` and `again` are equal volumes; both are
 * written.
 */
export function preen(
  before: Facts,
  damaged: Volume,
  again: Volume,
  options: Omit<RepairOptions, "mode">,
): Preened {
  const failed = (what: string, why: string): Preened => ({ what: `FAILED ${what}`, failure: why });
  const seen = readable(damaged);
  const safe = repairVolume(damaged.meta, damaged.data, { ...options, mode: "safe" });
  const problems = `of\n${problemsOf(safe.before)}\nleft by -p\n${problemsOf(safe.after)}`;
  if (safe.lossy) return failed("-p says that it lost something", problems);
  if (safe.commits > 0 && !safe.recovered && problemsOf(safe.before) === problemsOf(safe.after)) {
    return failed("-p changes nothing, and writes", problems);
  }
  const second = repairVolume(damaged.meta, damaged.data, { ...options, mode: "safe" });
  if (second.commits > 0) return failed("a second -p writes", problems);
  const mended = readable(damaged);
  if (seen !== null) {
    const lost = mended === null ? ["cannot be read any more"] : lostFrom(before, seen, mended);
    if (lost.length > 0) return failed("-p loses something", `${lost.join("\n")}\n${problems}`);
  }
  const alone = repairVolume(again.meta, again.data, { ...options, mode: "all" });
  const both = repairVolume(damaged.meta, damaged.data, { ...options, mode: "all" });
  if (!isSound(alone.after)) return { what: "left", failure: null };
  if (!isSound(both.after)) {
    return failed("-y cannot mend what -p leaves", `${problemsOf(both.after)}\n${problems}`);
  }
  const lost = lostFrom(
    before,
    factsOf(again.meta, again.data),
    factsOf(damaged.meta, damaged.data),
  );
  if (lost.length > 0) {
    return failed("-p takes something from -y", `${lost.slice(0, 60).join("\n")}\n${problems}`);
  }
  if (isSound(safe.before)) return { what: "clean", failure: null };
  const what = isSound(safe.after) ? "mended" : safe.commits > 0 ? "mended in part" : "left to -y";
  return { what, failure: null };
}
