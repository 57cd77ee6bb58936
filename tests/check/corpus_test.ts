/**
 * Every field of every structure of two golden volumes, changed one at a time with the checksum made
 * right again: fsck reports each with the right code (right_codes.ts) and with no code that is not
 * recorded beside this file, or the field is on the list of those that cannot matter. SCOUTFS_LONG=1 tries all changes of a field, not one;
 * SCOUTFS_UPDATE=1 (with it) records the codes anew.
 */

import assert from "node:assert/strict";
import { checkVolume, isSound } from "../../fs/check/check.ts";
import { useFastCrc32c } from "../../fs/sys/crc.ts";
import { openDevice } from "../../fs/sys/device.ts";
import { goldenImages, type GoldenName, goldenTest } from "../helpers/golden.ts";
import { ImageCache, OverlayDevice } from "../helpers/overlay_device.ts";
import { CANNOT_MATTER } from "./cannot_matter.ts";
import { type Mutation, mutationsOf, placesOf } from "./corpus.ts";
import { rightCodes } from "./right_codes.ts";

const LONG = Deno.env.get("SCOUTFS_LONG") === "1";
const UPDATE = Deno.env.get("SCOUTFS_UPDATE") === "1";

const recordOf = (name: GoldenName) => new URL(`./corpus_${name}.txt`, import.meta.url);
const fieldOf = (m: Mutation) => `${m.place.label} ${m.place.struct}.${m.field.path}`;

function readRecord(name: GoldenName): Map<string, Set<string>> {
  const record = new Map<string, Set<string>>();
  for (const line of Deno.readTextFileSync(recordOf(name)).split("\n")) {
    const [field, codes] = line.split(": ") as [string, string?];
    if (codes !== undefined) record.set(field, new Set(codes.split(" ")));
  }
  return record;
}

/** In `crash` the first inodes of fs_root have newer versions in the log tree, which hide them. */
const hidden = (name: GoldenName, mutation: string): boolean =>
  name === "crash" &&
  /^fs_root \d+\.\d+ (inode|dirent|xattr|data_extent_val|xattr_totl_val)\./.test(mutation);

for (const name of ["features-v2", "crash"] as const) {
  goldenTest(`every field of ${name} matters or is known not to`, async () => {
    await useFastCrc32c();
    const images = goldenImages(name);
    const meta = new ImageCache(openDevice(images.meta, { write: false }));
    const data = new ImageCache(openDevice(images.data, { write: false }));
    const record = UPDATE ? new Map<string, Set<string>>() : readRecord(name);
    const silent: string[] = [], wrong: string[] = [];
    let tried = 0, index = 0;
    for (const place of placesOf(meta)) {
      const all = mutationsOf(place, place.dev === "meta" ? meta : data);
      const byField = Map.groupBy(all, fieldOf);
      for (const [field, mutations] of byField) {
        const chosen = LONG ? mutations : [mutations[index++ % mutations.length] as Mutation];
        for (const mutation of chosen) {
          const m = new OverlayDevice(meta), d = new OverlayDevice(data);
          mutation.apply(place.dev === "meta" ? m : d);
          const report = checkVolume(m, d);
          tried++;
          const codes = report.problems.filter((p) => p.severity !== "info").map((p) => p.code);
          if (isSound(report)) silent.push(mutation.name);
          else {
            const right = rightCodes(mutation.name);
            if (!codes.some((code) => right?.includes(code))) {
              wrong.push(`${mutation.name}: ${codes.join(" ")}`);
            }
          }
          const known = record.get(field) ?? new Set();
          if (UPDATE) record.set(field, new Set([...known, ...codes].sort()));
          else {
            for (const code of codes) {
              assert.ok(known.has(code), `${mutation.name}: unexpected ${code}`);
            }
          }
        }
      }
    }
    const explained = (m: string) => CANNOT_MATTER.some(([pattern]) => pattern.test(m));
    const unexplained = silent.filter((m) => !explained(m) && !hidden(name, m));
    assert.deepEqual(unexplained, [], "changes that fsck does not see and nobody explains");
    assert.deepEqual(wrong, [], "changes that are reported as something else");
    assert.ok(tried > 500, `only ${tried} changes were tried`);
    if (UPDATE) {
      const lines = [...record].filter(([, codes]) => codes.size > 0)
        .map(([field, codes]) => `${field}: ${[...codes].join(" ")}\n`);
      Deno.writeTextFileSync(recordOf(name), lines.join(""));
    }
    meta.close();
    data.close();
  });
}
