/** metadump and metarestore as a user meets them: files, refusals, exit statuses. */

import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { bytesEqual } from "../../format/bytes.ts";

const PROGRAM = fileURLToPath(new URL("../../scoutfs.ts", import.meta.url));

function scoutfs(dir: string, ...args: string[]): { code: number; out: string; err: string } {
  const { code, stdout, stderr } = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", PROGRAM, ...args],
    cwd: dir,
    stdin: "null",
  }).outputSync();
  const text = (b: Uint8Array) => new TextDecoder().decode(b);
  return { code, out: text(stdout), err: text(stderr) };
}

const exists = (path: string): boolean => {
  try {
    Deno.statSync(path);
    return true;
  } catch (e) {
    if (e instanceof Deno.errors.NotFound) return false;
    throw e;
  }
};

Deno.test("metadump and metarestore: a volume there and back, and what is refused", () => {
  const dir = Deno.makeTempDirSync({ prefix: "scoutfs-dump-" });
  try {
    const made = scoutfs(dir, "mkfs", "--size", "256M", "meta", "data");
    assert.equal(made.code, 0, made.err);

    const dumped = scoutfs(dir, "metadump", "-d", "data", "meta", "dump");
    assert.equal(dumped.code, 0, dumped.err);
    assert.match(dumped.err, /^\d+ blocks in [\d.]+ KB\n$/);
    assert.ok(Deno.statSync(`${dir}/dump`).size < 10_000);
    const again = scoutfs(dir, "metadump", "meta", "dump");
    assert.equal(again.code, 1);
    assert.match(again.err, /^dump: exists already: -f replaces it\n/);

    const restored = scoutfs(dir, "metarestore", "dump", "meta2", "data2");
    assert.deepEqual([restored.code, restored.err], [0, ""]);
    assert.equal(scoutfs(dir, "print", "meta2").out, scoutfs(dir, "print", "meta").out);
    assert.equal(Deno.statSync(`${dir}/meta2`).size, Deno.statSync(`${dir}/meta`).size);
    assert.equal(Deno.statSync(`${dir}/data2`).size, Deno.statSync(`${dir}/data`).size);
    const checked = scoutfs(dir, "fsck", "-n", "meta2", "data2");
    assert.equal(checked.code, 0, checked.out + checked.err);

    // The name that a dump has until it is whole may be anything's.
    Deno.copyFileSync(`${dir}/meta`, `${dir}/copy.part`);
    const own = scoutfs(dir, "metadump", "copy.part", "copy");
    assert.equal(own.code, 1);
    assert.match(
      own.err,
      /^copy.part: exists: another dump is being written, or one was cut short/,
    );
    assert.deepEqual(Deno.readFileSync(`${dir}/copy.part`), Deno.readFileSync(`${dir}/meta`));
    const dumpBytes = Deno.readFileSync(`${dir}/dump`);
    for (const targets of [["dump"], ["made", "dump"]]) {
      const onto = scoutfs(dir, "metarestore", "-f", "dump", ...targets);
      assert.equal(onto.code, 1);
      assert.match(onto.err, /^dump: is the dump itself\n/);
    }
    assert.deepEqual(Deno.readFileSync(`${dir}/dump`), dumpBytes);
    assert.ok(!exists(`${dir}/made`));

    const over = scoutfs(dir, "metarestore", "dump", "meta2");
    assert.equal(over.code, 1);
    assert.match(over.err, /^meta2: appears to contain a ScoutFS filesystem: -f overwrites it\n/);
    assert.equal(scoutfs(dir, "metarestore", "-f", "dump", "meta2").code, 0);

    const bytes = Deno.readFileSync(`${dir}/dump`);
    Deno.writeFileSync(`${dir}/short`, bytes.subarray(0, bytes.length - 30));
    const short = scoutfs(dir, "metarestore", "short", "meta3");
    assert.equal(short.code, 1);
    assert.match(short.err, /^short: the metadata dump is cut short\nscoutfs: metarestore failed/);
    assert.ok(!exists(`${dir}/meta3`), "a failed restore leaves its new file behind");
    const other = scoutfs(dir, "metarestore", "meta", "meta3");
    assert.match(other.err, /^meta: not a metadata dump\n/);
    Deno.writeFileSync(`${dir}/zeros`, new Uint8Array(1 << 20));
    const none = scoutfs(dir, "metadump", "zeros", "x");
    assert.equal(none.code, 1);
    assert.match(none.err, /^zeros: no ScoutFS super block found\n/);
    const data = scoutfs(dir, "metadump", "data", "x");
    assert.equal(data.code, 1);
    assert.match(data.err, /^data: this is a data device, not a metadata device\n/);
    assert.ok(!exists(`${dir}/x`), "a failed dump leaves a file behind");
  } finally {
    Deno.removeSync(dir, { recursive: true });
  }
});

Deno.test("metadump: where the dump cannot be written is said, and nothing of it stays", () => {
  const dir = Deno.makeTempDirSync({ prefix: "scoutfs-dump-" });
  try {
    const made = scoutfs(dir, "mkfs", "--size", "256M", "meta", "data");
    assert.equal(made.code, 0, made.err);
    const { code, stderr } = new Deno.Command("sh", {
      args: [
        "-c",
        `"$0" run -A --no-check "$1" metadump meta - >/dev/full`,
        Deno.execPath(),
        PROGRAM,
      ],
      cwd: dir,
      stdin: "null",
    }).outputSync();
    assert.equal(code, 1);
    assert.match(
      new TextDecoder().decode(stderr),
      /^failed to write standard output: No space left on device \(28\)\n/,
    );
    assert.deepEqual([...Deno.readDirSync(dir)].map((e) => e.name).sort(), ["data", "meta"]);
  } finally {
    Deno.removeSync(dir, { recursive: true });
  }
});

Deno.test("metarestore -f: nothing of one device is lost before the other is known to be of use", () => {
  const dir = Deno.makeTempDirSync({ prefix: "scoutfs-dump-" });
  try {
    assert.equal(scoutfs(dir, "mkfs", "--size", "256M", "meta", "data").code, 0);
    assert.equal(scoutfs(dir, "metadump", "-d", "data", "meta", "dump").code, 0);
    const before = Deno.readFileSync(`${dir}/meta`);
    for (const data of ["meta", "."]) {
      const refused = scoutfs(dir, "metarestore", "-f", "dump", "meta", data);
      assert.equal(refused.code, 1, refused.err);
      assert.ok(bytesEqual(Deno.readFileSync(`${dir}/meta`), before), refused.err);
    }
    const restored = scoutfs(dir, "metarestore", "-f", "dump", "meta", "data");
    assert.equal(restored.code, 0, restored.err);
    assert.equal(scoutfs(dir, "fsck", "-n", "meta", "data").code, 0);
  } finally {
    Deno.removeSync(dir, { recursive: true });
  }
});
