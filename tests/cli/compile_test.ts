/** The standalone executable: made, and used for a volume without Deno at hand. */

import assert from "node:assert/strict";
import { freePort } from "../helpers/ports.ts";
import { processesWith, until } from "../helpers/volume.ts";

const ROOT = new URL("../..", import.meta.url).pathname;

function run(command: string, args: string[], env: Record<string, string>): string {
  const done = new Deno.Command(command, { args, clearEnv: true, env }).outputSync();
  const text = new TextDecoder();
  assert.ok(done.success, `${command} ${args.join(" ")}: ${text.decode(done.stderr)}`);
  return text.decode(done.stdout);
}

Deno.test("the standalone executable makes, mounts and prints a volume", {
  ignore: Deno.uid() !== 0,
}, async () => {
  const dir = Deno.makeTempDirSync({ prefix: "scoutfs-standalone-" });
  const mnt = `${dir}/mnt`;
  Deno.mkdirSync(mnt);
  const made = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", `${ROOT}tests/compile.ts`, `${dir}/scoutfs`],
  }).outputSync();
  assert.ok(made.success, new TextDecoder().decode(made.stderr));
  // A machine where only the executable is known: no cache, no Deno in the path.
  const own = { SCOUTFS_RUNTIME_DIR: `${dir}/run`, SCOUTFS_STATE_DIR: `${dir}/state` };
  const env = { PATH: "/usr/bin:/bin:/usr/sbin:/sbin", HOME: dir, ...own };
  const scoutfs = (...args: string[]) => run(`${dir}/scoutfs`, args, env);
  const meta = `${dir}/meta.img`;
  const data = `${dir}/data.img`;
  const port = freePort();
  const mount = () => {
    scoutfs("mount", "-o", `metadev_path=${meta},quorum_slot_nr=0`, data, mnt);
  };
  const ended = () => until(() => processesWith(own).length === 0, "the mounts to end");
  scoutfs("mkfs", "-Q", `0,127.0.0.1,${port}`, "--size", "256M", meta, data);
  let mounted = false;
  try {
    mount();
    mounted = true;
    Deno.writeTextFileSync(`${mnt}/file`, "kept");
    run("umount", [mnt], env);
    mounted = false;
    // The second mount waits for the end of the first one's daemon.
    mount();
    mounted = true;
    assert.equal(Deno.readTextFileSync(`${mnt}/file`), "kept");
    run("umount", [mnt], env);
    mounted = false;
    await ended();
    assert.match(scoutfs("print", "-S", meta), /mounted_clients: blkno 0 /);
    assert.match(scoutfs("fsck", "-p", "--workers", "2", meta, data), /no problems/);
  } finally {
    if (mounted) new Deno.Command("umount", { args: ["-l", mnt] }).outputSync();
    await ended();
    Deno.removeSync(dir, { recursive: true });
  }
});
