/** Mounts that cannot begin, and mounts that end otherwise than by umount(8). */
import assert from "node:assert/strict";
import { listenSocket } from "../../fs/sys/sockets.ts";
import { closeFd } from "../../fs/sys/libc.ts";
import { isRunning } from "../../net/host_record.ts";
import { mountTest, run, signal, type TestVolume, until } from "../helpers/volume.ts";

const meta = (v: TestVolume) => Deno.readFile(v.meta);

/** Names of the records by which a later mount could prove that an earlier one is dead. */
function hostRecords(v: TestVolume): string[] {
  try {
    return [...Deno.readDirSync(`${v.dir}/state`)]
      .flatMap((e) => [...Deno.readDirSync(`${v.dir}/state/${e.name}`)].map((f) => f.name));
  } catch {
    return [];
  }
}

mountTest("a TCP port in use fails the mount before anything is written", {}, async (v) => {
  const before = await meta(v);
  const fd = listenSocket({ addr: 0x7f000001, port: v.port });
  try {
    const r = await v.tryMount();
    assert.equal(r.code, 1);
    assert.match(r.err, new RegExp(`^cannot bind to 127\\.0\\.0\\.1:${v.port}: Address already`));
  } finally {
    closeFd(fd);
  }
  assert.deepEqual(await meta(v), before);
  assert.deepEqual(hostRecords(v), []);
  await v.mount();
});

mountTest("without a runtime directory no mount, without a writable log one", {}, async (v) => {
  await Deno.writeTextFile(`${v.dir}/run`, "");
  const r = await v.tryMount();
  assert.equal(r.code, 1);
  assert.match(r.err, /^runtime directory \S+\/run: File exists\nscoutfs: mount failed: .*\n$/);
  assert.deepEqual(hostRecords(v), []);
  await Deno.remove(`${v.dir}/run`);
  await Deno.mkdir(`${v.dir}/run/mount.log`, { recursive: true });
  await v.mount();
  await v.sh("echo kept > file");
});

for (const moment of ["mounting", "server of term", "connected to", "mounted"]) {
  mountTest(`SIGTERM at "${moment}" ends the mount and its process`, {}, async (v) => {
    const child = v.spawnForeground();
    let said = "", asked = false;
    for await (const text of child.stderr.pipeThrough(new TextDecoderStream())) {
      said += text;
      if (!asked && said.includes(moment)) {
        asked = true;
        child.kill("SIGTERM");
      }
    }
    const { code, signal } = await child.status;
    assert.ok(asked, said);
    assert.equal(signal, null);
    // It may have become usable before it heard.
    if (code !== 0) assert.match(said, /scoutfs: mount failed: Interrupted system call \(4\)\n$/);
    assert.equal(v.mounted, false);
    assert.deepEqual(hostRecords(v), [], "it left the cluster in order");
    await v.mount();
  });
}

mountTest("SIGTERM is obeyed while the kernel has just mounted", {}, async (v) => {
  for (let round = 0; round < 5; round++) {
    const child = v.spawnForeground();
    const said = new Response(child.stderr).text();
    let ended = false;
    const status = child.status.finally(() => ended = true);
    while (!v.mounted && !ended) await new Promise((resolve) => setTimeout(resolve, 0));
    assert.ok(!ended, ended ? await said : "");
    child.kill("SIGTERM");
    await until(() => ended, "the end of the mount");
    assert.deepEqual([(await status).code, v.mounted], [0, false], await said);
  }
  assert.deepEqual(hostRecords(v), [], "it left the cluster in order");
});

mountTest("kill -9 at any stage of mounting and unmounting needs no human", {}, async (v) => {
  const mounting = ["mounting", "starting at", "ready at", "connected to", "accepted", ": mounted"];
  for (const moment of [...mounting, "unmounting", "disconnected"]) {
    const child = v.spawnForeground();
    let said = "", unmounting: Promise<void> | null = null, killed = false;
    for await (const text of child.stderr.pipeThrough(new TextDecoderStream())) {
      said += text;
      if (killed) continue;
      if (said.includes(moment)) {
        killed = true;
        // It may have come to its end before it is killed.
        signal(child, "SIGKILL");
      } else if (unmounting === null && said.includes(": mounted")) {
        await v.sh(`touch '${moment}'`);
        unmounting = v.umount();
      }
    }
    await Promise.all([child.status, unmounting]);
    assert.ok(killed, said);
    if (v.mounted) await run("umount", ["-l", v.mnt]);
    await v.mount();
    await v.umountAndWait();
  }
  const checked = await v.scoutfs("fsck", "-n", v.meta, v.data);
  assert.equal(checked.code, 0, checked.out + checked.err);
});

mountTest("umount -f of a busy mount ends it and frees its place", {}, async (v) => {
  await v.mount();
  await v.sh("echo kept > file && sync file");
  const [pid = 0] = v.servers();
  const user = await Deno.open(`${v.mnt}/file`);
  await run("umount", ["-f", v.mnt]);
  await until(() => !isRunning(pid), "the mount process to end");
  await assert.rejects(user.read(new Uint8Array(10)), "an open file still reads");
  user.close();
  assert.equal(v.mounted, false);
  assert.deepEqual(hostRecords(v), [], "it left the cluster in order");
  await v.mount();
  assert.equal(await v.sh("cat file"), "kept\n");
});

mountTest("a volume that another host may have mounted is left alone", {}, async (v) => {
  await v.mount();
  await v.sh("echo kept > file && sync file");
  await v.crash();
  assert.equal(hostRecords(v).length, 1);
  // What proves that the mount is dead goes: as if it had been made on another host.
  await Deno.remove(`${v.dir}/state`, { recursive: true });
  const before = await meta(v);
  const refused = await v.tryMount();
  assert.equal(refused.code, 1);
  assert.match(
    refused.err,
    /^\S+: mount f\.\w{6}\.r\.\w{6} did not record its end .* assume_fenced\n/,
  );
  assert.deepEqual(await meta(v), before, "the metadata device is untouched");
  assert.deepEqual(hostRecords(v), []);

  const [rid = ""] = [...Deno.readDirSync(`${v.dir}/run/fs/scoutfs`)].map((e) => e.name);
  await Deno.writeTextFile(
    `${v.dir}/fence`,
    `#!/bin/sh\necho "$SCOUTFS_FENCED_REQ_RID $SCOUTFS_FENCED_REQ_IP $*" > ${v.dir}/fenced\n`,
    { mode: 0o755 },
  );
  await v.mount(
    `quorum_heartbeat_timeout_ms=2000,fence_run=${v.dir}/fence,fence_run_args=-x  now`,
  );
  assert.equal(await v.sh("cat file"), "kept\n");
  const asked = await Deno.readTextFile(`${v.dir}/fenced`);
  assert.match(asked, /^[0-9a-f]{16} 127\.0\.0\.1 -x now\n$/);
  assert.equal(rid.slice(-6), asked.slice(0, 6));
  await v.umount();
});

mountTest("what killed mounts left on this host goes with later ones", {}, async (v) => {
  for (let i = 0; i < 3; i++) {
    await v.mount();
    await v.crash();
  }
  // The last one is remembered by the volume, the others by nobody any more.
  await v.mount();
  assert.ok(hostRecords(v).length <= 2, `${hostRecords(v).length} records`);
  assert.equal([...Deno.readDirSync(`${v.dir}/run/fs/scoutfs`)].length, 1);
  const pids = v.servers();
  await v.umount();
  for (const pid of pids) await until(() => !isRunning(pid), "the mount process to end");
  await v.mount();
  assert.equal(hostRecords(v).length, 1);
});
