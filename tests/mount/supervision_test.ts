/** A worker that dies takes the mount with it: no hung callers, no further writes, an error told. */
import assert from "node:assert/strict";
import { isRunning } from "../../net/host_record.ts";
import { mountTest, until } from "../helpers/volume.ts";

/** Writes nonsense into the mailbox of each worker, which none of them can survive. */
async function killWorkers(pid: number): Promise<void> {
  const boxes = new Map<string, string>();
  for (const { name } of Deno.readDirSync(`/proc/${pid}/fd`)) {
    const path = `/proc/${pid}/fd/${name}`;
    const target = await Deno.readLink(path).catch(() => "");
    if (target.startsWith("pipe:")) boxes.set(target, path);
  }
  // All are opened before the first is written: that one alone may end the process.
  const opened: Deno.FsFile[] = [];
  for (const path of boxes.values()) {
    const flags = await Deno.readTextFile(path.replace("/fd/", "/fdinfo/"));
    // Ours do not block; the runtime's own pipes do.
    if (!/^flags:\s+0[0-7]*4[0-7]{3}$/m.test(flags)) continue;
    opened.push(await Deno.open(path, { write: true }));
  }
  assert.notEqual(opened.length, 0, "no worker has a mailbox");
  for (const box of opened) {
    try {
      await box.write(new TextEncoder().encode("nonsense\n"));
    } catch (error) {
      if (!(error instanceof Deno.errors.BrokenPipe)) throw error; // its reader is gone already
    } finally {
      box.close();
    }
  }
}

mountTest("a dying worker ends the mount, loudly and at once", {}, async (v) => {
  await v.mount();
  await v.sh("echo kept > file && sync file");
  const [pid = 0] = v.servers();
  const user = await Deno.open(`${v.mnt}/file`);
  await killWorkers(pid);
  await until(() => !isRunning(pid), "the mount process to end");
  assert.equal(v.mounted, false);
  await assert.rejects(user.read(new Uint8Array(10)), "an open file still reads");
  user.close();
  assert.match(await v.log(), / error: \w+: the \w+ worker died: /);
  assert.match(await v.log(), / error: mount ends: /);
  // What it left is recovered like any crash.
  await v.mount();
  assert.equal(await v.sh("cat file"), "kept\n");
});
