/** How `scoutfs fsck` works in surroundings that are not what they should be. */

import assert from "node:assert/strict";
import { bytesEqual } from "../../format/bytes.ts";
import { QUORUM_BLKNO, SM_SIZE } from "../../format/constants.ts";
import { ended, MAIN, type Run, start, text, withGenerated } from "./program.ts";

const INODES = 40_000;

/** The status of a shell's command line, in which `$FSCK` is the program. */
async function shell(line: string): Promise<number> {
  const { code } = await new Deno.Command("sh", {
    args: ["-c", line],
    env: { FSCK: `${Deno.execPath()} run -A ${MAIN} fsck` },
    stdin: "null",
  }).output();
  return code;
}

Deno.test("operating: a status does not depend on who takes the messages", async () => {
  for (const to of ["2>/dev/full", "2>&-"]) {
    assert.equal(await shell(`$FSCK --nonsense ${to}`), 16, to);
    assert.equal(await shell(`$FSCK -n /nonexistent/m /nonexistent/d ${to}`), 8, to);
  }
});

/** A volume with thousands of problems. */
const withVolume = (run: Parameters<typeof withGenerated>[2]): Promise<void> =>
  withGenerated(INODES, "no-index", run);

/** What a check that has begun, and cannot go on because nobody reads it, is told then. */
async function inTheMiddle(args: string[], happens: () => void): Promise<Run> {
  const child = start(...args);
  const reader = child.stdout.getReader();
  let out = text((await reader.read()).value ?? new Uint8Array(0));
  assert.match(out, /index-missing/);
  happens();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    out += text(value);
  }
  const [{ code }, err] = await Promise.all([child.status, new Response(child.stderr).text()]);
  return { code, out, err };
}

Deno.test("operating: a device that is cut short in the middle is not the volume's damage, and not mended", async () => {
  for (const mode of ["-n", "-y"]) {
    await withVolume(async (meta, data) => {
      const { size } = Deno.statSync(meta), left = 8 << 20;
      const { code, out } = await inTheMiddle(
        [mode, "-v", "--json", meta, data],
        () => Deno.truncateSync(meta, left),
      );
      const why =
        `meta: was cut short while fsck worked on it: it had ${size} bytes, ${left} are left`;
      const last = out.trimEnd().split("\n").map((line) => JSON.parse(line)).findLast((r) =>
        r.record === (mode === "-n" ? "error" : "summary")
      );
      assert.equal(code, 8, JSON.stringify(last));
      assert.ok(String(mode === "-n" ? last.message : last.stopped).endsWith(why));
      assert.equal(Deno.statSync(meta).size, left, "nothing was written");
    });
  }
});

Deno.test("operating: a volume that another host changes while it is checked", async () => {
  await withVolume(async (meta, data) => {
    const { code, out } = await inTheMiddle(["-n", "-v", "--json", meta, data], () => {
      const file = Deno.openSync(meta, { write: true });
      file.seekSync(QUORUM_BLKNO * SM_SIZE, Deno.SeekMode.Start);
      file.writeSync(new Uint8Array(SM_SIZE).fill(1));
      file.close();
    });
    assert.equal(code, 8);
    assert.match(out, /"error".*the block of quorum slot 0 was changed by something else/);
    assert.doesNotMatch(out, /"summary"/);
  });
});

Deno.test("operating: a read-only block device is checked, and no mending is begun", async () => {
  await withVolume(async (meta, data) => {
    const attach = async (...args: string[]) => {
      const { code, stdout } = await new Deno.Command("losetup", {
        args: ["-f", "--show", ...args],
        stderr: "null",
      }).output();
      return code === 0 ? text(stdout).trim() : null;
    };
    const loops = [await attach("-r", meta), await attach(data)];
    try {
      const [m, d] = loops as [string | null, string | null];
      if (m === null || d === null) return console.log("skipped: no right to make loop devices");
      assert.equal((await ended(start("-n", m, d))).code, 4);
      for (const args of [["-y"], ["-p", "--undo", `${meta}.undo`], ["--undo-apply", "none"]]) {
        const { code, out, err } = await ended(start(...args, m, d));
        assert.deepEqual(
          { code, out, err },
          {
            code: 8,
            out: "",
            err: `fsck: ${m}: is read-only: nothing can be mended, -n only checks it\n`,
          },
        );
      }
    } finally {
      for (const loop of loops) {
        if (loop !== null) await new Deno.Command("losetup", { args: ["-d", loop] }).output();
      }
    }
  });
});

Deno.test("operating: fsck.scoutfs where the runtime cannot begin, and where there are no other programs", async () => {
  await withVolume(async (meta, data, dir) => {
    const installed = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", MAIN, "install-mount-helper", "-d", dir],
    }).output();
    assert.ok(installed.success);
    const helper = (before: string, env: Record<string, string>, ...args: string[]) =>
      ended(
        new Deno.Command("/bin/sh", {
          args: ["-c", `${before} exec ${dir}/fsck.scoutfs "$@"`, "sh", ...args, meta, data],
          env,
          stdin: "null",
          stdout: "piped",
          stderr: "piped",
        }).spawn(),
      );
    // The runtime cannot begin where its directory is gone, or with so few files.
    for (const before of [`mkdir ${dir}/x && cd ${dir}/x && rmdir ${dir}/x &&`, "ulimit -n 15;"]) {
      const { code, err } = await helper(before, {}, "-a");
      assert.equal(code, 128, err);
      assert.match(err, /^fsck.scoutfs: the program cannot be run:$/m);
    }
    const bare = { PATH: `${dir}/no-programs` };
    const undone = await helper("", bare, "-fnC0", "--undo", `${dir}/u`);
    assert.equal(undone.code, 16, "-n reaches the program");
    assert.match(undone.err, /--undo is for mending/);
    assert.equal((await helper("", bare, "-VTM", "-frC7", "-va")).code, 1);
    assert.equal((await helper("", bare, "-aC0", "-f")).code, 0);
  });
});

Deno.test("operating: a directory of temporary files that is of no use is named, at once if it was given", async () => {
  await withVolume(async (meta, data, dir) => {
    const given = await ended(start("-n", "--temp-dir", `${dir}/none`, meta, data));
    assert.deepEqual([given.code, given.out], [8, ""]);
    assert.match(given.err, /^fsck: a temporary file in .*\/none cannot be used: [^\n]*\n$/);
    const usual = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", MAIN, "fsck", "-n", "--memory", "1M", meta, data],
      env: { TMPDIR: `${dir}/none` },
      stdin: "null",
    }).output();
    assert.equal(usual.code, 8);
    assert.match(text(usual.stderr), /^fsck: a temporary file in .*\/none cannot be used: /);
  });
});

Deno.test("operating: a repair that is cut short says what takes it back", async () => {
  await withVolume(async (meta, data, dir) => {
    const undo = `${dir}/undo`, args = ["-y", "--memory", "1M", "--undo", undo];
    const before = Deno.readFileSync(meta);
    const sizeOf = () => Deno.stat(undo).then(({ size }) => size, () => 0);
    const cutShort = async (temp: string) => {
      Deno.mkdirSync(temp);
      const run = ended(start(...args, "--temp-dir", temp, meta, data));
      let over = false;
      const end = run.finally(() => over = true);
      // After the first write there is at least one more check, which needs temporary files.
      while (!over && await sizeOf() <= 4096) {
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
      Deno.removeSync(temp, { recursive: true });
      return await end;
    };
    let attempt = 1, { code, err } = await cutShort(`${dir}/temp1`);
    // It was at its end before we came to remove anything.
    for (; code === 1 && attempt < 10; ({ code, err } = await cutShort(`${dir}/temp${attempt}`))) {
      attempt++;
      Deno.removeSync(undo);
      Deno.writeFileSync(meta, before);
    }
    assert.equal(code, 9, err);
    assert.match(
      err,
      /mending was cut short, a second run goes on with it\n {2}to take this back: .*\/undo /,
    );
    assert.equal((await ended(start("--undo-apply", undo, meta, data))).code, 0);
    assert.ok(bytesEqual(Deno.readFileSync(meta), before), "all bytes are back");
  });
});
