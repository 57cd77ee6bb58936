/**
 * Checking in units: whoever does them, in whatever order they are done, the report is the same; and
 * how many there are changes nothing of what is found. SCOUTFS_LONG=1 tries every damage.
 */

import assert from "node:assert/strict";
import { type CheckOptions, checkVolume, type Report } from "../../fs/check/check.ts";
import { type Crew, ThreadCrew, type Turns } from "../../fs/check/crew.ts";
import {
  type ItemJob,
  type Overflow,
  receivedResult,
  sentResult,
  type UnitResult,
} from "../../fs/check/item_job.ts";
import { MetaSource } from "../../fs/check/source.ts";
import { UnitRunner } from "../../fs/check/unit_runner.ts";
import type { Device } from "../../fs/device.ts";
import { openDevice } from "../../fs/sys/device.ts";
import { SuperBlock } from "../../format/super.ts";
import { blockDamage, type Damage, itemDamage, referenceDamage } from "../fsck/damage.ts";
import { makeSample } from "../fsck/sample.ts";
import { OverlayDevice } from "../helpers/overlay_device.ts";
import { mutationsOf, placesOf } from "./corpus.ts";

const LONG = Deno.env.get("SCOUTFS_LONG") === "1";
const sample = makeSample();

/** One helper without a thread, which takes and delivers units as chance will have it. */
class ChanceCrew implements Crew {
  helped = 0;

  constructor(private readonly meta: Device, private seed: number) {}

  #chance(): boolean {
    this.seed = Math.imul(this.seed, 1664525) + 1013904223 >>> 0;
    return this.seed >>> 31 === 1;
  }

  begin(job: ItemJob, units: number, ahead: number, keep: (o: Overflow) => void): Turns {
    const { fsidLo, fsidHi } = SuperBlock.at(new Uint8Array(job.superBlock)).hdr;
    const source = new MetaSource(this.meta, fsidLo, fsidHi);
    const runner = new UnitRunner(source, structuredClone(job), (o) => keep(structuredClone(o)));
    let next = 0, merged = 0, waits = false;
    const ready: UnitResult[] = [];
    const mayTake = () => next < Math.min(units, merged + ahead);
    return {
      take: () => mayTake() && this.#chance() ? next++ : null,
      results: () => {
        while (mayTake() && (waits || this.#chance())) {
          waits = false;
          this.helped++;
          const result = structuredClone(sentResult(runner.run(next++, null)));
          if (this.#chance()) ready.push(receivedResult(result));
          else ready.unshift(receivedResult(result));
        }
        const keep = this.#chance() ? 0 : 1;
        return ready.splice(keep, ready.length);
      },
      wait: () => {
        waits = true;
      },
      merged: (n) => void (merged = n),
      end: () => {},
    };
  }
}

/** A crew whose helpers do everything. */
class Lazy implements Crew {
  constructor(private readonly crew: Crew) {}
  begin(job: ItemJob, units: number, ahead: number, keep: (o: Overflow) => void): Turns {
    return { ...this.crew.begin(job, units, ahead, keep), take: () => null };
  }
}

function everyDamage(): Damage[] {
  const fields = placesOf(sample.meta).filter((p) => p.dev === "meta").flatMap((place) =>
    mutationsOf(place, sample.meta)
  );
  return [
    ...fields,
    ...blockDamage(sample.meta),
    ...referenceDamage(sample.meta),
    ...itemDamage(sample.meta, 3),
  ];
}

function damaged(damage: Damage | null): OverlayDevice {
  const meta = new OverlayDevice(sample.meta);
  damage?.apply(meta);
  return meta;
}

const plain = (r: Report) => ({ ...r, counts: [...r.counts] });
const codes = (r: Report) => [...r.counts.keys()].sort();

Deno.test("units: the report is the same whoever does them", () => {
  const all = [null, ...everyDamage()];
  let helped = 0, problems = 0;
  for (let i = 0; i < all.length; i += LONG ? 1 : 83) {
    const damage = all[i] as Damage | null, options: CheckOptions = { unitLeaves: 2 };
    const alone = checkVolume(damaged(damage), sample.data, options);
    const meta = damaged(damage), crew = new ChanceCrew(meta, i + 1);
    const together = checkVolume(meta, sample.data, { ...options, unitWords: 1, crew });
    assert.deepEqual(plain(together), plain(alone), damage?.name ?? "sound");
    helped += crew.helped;
    problems += alone.errors;
  }
  assert.ok(helped > all.length / 83 && problems > 100, `${helped} units, ${problems} problems`);
});

Deno.test("units: how many there are changes nothing of what is found", () => {
  const all = everyDamage();
  for (let i = 0; i < all.length; i += LONG ? 1 : 151) {
    const damage = all[i] as Damage;
    const whole = checkVolume(damaged(damage), sample.data, { unitLeaves: Infinity });
    const parts = checkVolume(damaged(damage), sample.data, { unitLeaves: 1, unitWords: 1 });
    assert.deepEqual(codes(parts), codes(whole), damage.name);
    for (const key of ["inodes", "directories", "items", "metaBlocksUsed"] as const) {
      assert.equal(parts.stats[key], whole.stats[key], `${damage.name}: ${key}`);
    }
  }
});

async function withFiles(
  damage: Damage | null,
  run: (meta: ReturnType<typeof openDevice>, data: Device) => Promise<void>,
): Promise<void> {
  const dir = Deno.makeTempDirSync({ prefix: "scoutfs-units-" });
  try {
    const source = damaged(damage), piece = source.allocBuffer(1 << 20);
    const path = `${dir}/meta`, file = Deno.openSync(path, { write: true, create: true });
    for (let off = 0; off < source.size; off += piece.length) {
      const part = piece.subarray(0, Math.min(piece.length, source.size - off));
      source.read(part, off);
      file.writeSync(part);
    }
    file.close();
    const meta = openDevice(path, { write: false });
    try {
      await run(meta, sample.data);
    } finally {
      meta.close();
    }
  } finally {
    Deno.removeSync(dir, { recursive: true });
  }
}

Deno.test("units: threads find what one thread finds, in the same order, check after check", async () => {
  const all = everyDamage();
  for (const damage of [null, all[7] as Damage, all[all.length - 20] as Damage]) {
    await withFiles(damage, async (meta, data) => {
      const options = { unitLeaves: 1 };
      const alone = checkVolume(meta, data, options);
      const threads = new ThreadCrew(2, meta);
      for (const crew of [new Lazy(threads), threads, new Lazy(threads)]) {
        const together = checkVolume(meta, data, { ...options, unitWords: 1, crew });
        assert.deepEqual(plain(together), plain(alone));
      }
      await threads.close();
    });
  }
});

Deno.test("units: a helper that fails fails the check", async () => {
  await withFiles(null, async (meta, data) => {
    const broken = new URL("./broken_helper.ts", import.meta.url);
    const crew = new ThreadCrew(1, meta, broken);
    assert.throws(
      () => checkVolume(meta, data, { unitLeaves: 1, crew: new Lazy(crew) }),
      /a thread of the check failed: this helper is broken/,
    );
    await crew.close();
  });
});

Deno.test("units: a helper that is gone without a word fails the check at once", async () => {
  for (const how of ["throws", "closes"]) {
    await withFiles(null, async (meta, data) => {
      const url = new URL(`./broken_helper.ts?${how}`, import.meta.url);
      const crew = new ThreadCrew(1, meta, url);
      assert.throws(
        () => checkVolume(meta, data, { unitLeaves: 1, crew: new Lazy(crew) }),
        /a thread of the check has ended without a word/,
      );
      // What it did not catch may become known when the check is over.
      await crew.close().catch((e) => assert.match(String(e), /nobody catches this/));
    });
  }
});
