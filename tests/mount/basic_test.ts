/** A volume from mkfs to unmount through the real kernel, on image files and on block devices. */
import assert from "node:assert/strict";
import { closeFd } from "../../fs/sys/libc.ts";
import { udpSocket } from "../../fs/sys/sockets.ts";
import { isRunning } from "../../net/host_record.ts";
import { mountTest, processOf, signal, type TestVolume, until } from "../helpers/volume.ts";

/** Makes one of everything; `look` describes it so that two states can be compared. */
const MAKE = `
  mkdir -p d/e/f && echo hello > d/file && ln d/file d/hard && ln -s d/file soft
  mkfifo fifo && mknod null c 1 3 && mknod disk b 7 200
  head -c 3000001 /dev/urandom > big
  truncate -s 1M sparse && printf x | dd of=sparse bs=1 seek=500000 conv=notrunc status=none
  touch -d '1999-12-31 23:59:59.123456789' old
  chmod 6755 d/file && chown 12:34 d/hard
  setfattr -n user.colour -v blue d/file && setfattr -n trusted.t -v secret d
  mv d/e/f moved && rm -f gone && touch gone && rm gone
  for i in $(seq 1 300); do : > d/e/name-$i; done
`;
const LOOK = `
  find . -printf '%P %y %m %U %G %s %n %T@ %i %l\\n' | sort
  find . -type f | sort | xargs cksum
  getfattr -R -d -m - . 2>/dev/null | grep -v '^$' | sort
  stat -c '%n %t:%T' null disk
`;

async function lifeOfAVolume(v: TestVolume, type: string): Promise<void> {
  await v.mount();
  const table = await Deno.readTextFile("/proc/mounts");
  assert.match(table, new RegExp(`^\\S+ ${v.mnt} ${type} `, "m"));
  await v.sh(MAKE);
  const [control = ""] = [...Deno.readDirSync(`${v.dir}/run/fs/scoutfs`)].map((e) => e.name);
  assert.match(control, /^f\.[0-9a-f]{6}\.r\.[0-9a-f]{6}$/);
  const file = (path: string) => Deno.readTextFile(`${v.dir}/run/fs/scoutfs/${control}/${path}`);
  assert.match(await file("fsid"), new RegExp(`^${control.slice(2, 8)}[0-9a-f]{10}\n$`));
  assert.equal(await file("quorum/is_leader"), "1");
  assert.match(await file("quorum/status"), /^quorum_slot_nr 0\nterm \d+\n/);
  assert.equal(await file("mount_options/quorum_slot_nr"), "0\n");
  const before = await v.sh(LOOK);
  assert.match(before, /^d\/e\/name-300 f/m);
  assert.match(before, /^old f 644 0 0 0 1 946684799\.1234567890/m);
  await v.umount();
  await v.mount();
  assert.equal(await v.sh(LOOK), before, "a second mount sees what the first left");
  await v.sh("rm -rf ./* && sync");
  assert.equal(await v.sh("ls -A | wc -l"), "0\n");
  const pids = v.servers();
  await v.umount();
  for (const pid of pids) await until(() => !isRunning(pid), "the mount process to end");
  assert.deepEqual(v.servers(), [], "records of ended mounts are gone");
  assert.deepEqual([...Deno.readDirSync(`${v.dir}/run/fs/scoutfs`)], []);
  assert.doesNotMatch(await v.log(), / error: /);
}

mountTest("a volume in image files lives over unmounts", {}, (v) => {
  return lifeOfAVolume(v, "fuse.scoutfs");
});

mountTest("a volume on block devices lives over unmounts", { loop: true }, async (v) => {
  await lifeOfAVolume(v, "fuseblk.scoutfs");
  // umount waited for everything: the devices are free at once.
  await v.mount();
  await v.umount();
  assert.deepEqual(v.servers(), []);
});

mountTest(
  "SIGTERM unmounts cleanly; a busy mount goes on; more signals do no harm",
  {},
  async (v) => {
    await v.mount();
    await v.sh("echo kept > file");
    const [pid = 0] = v.servers();
    const refusals = () => logOf(v).match(/busy; it goes on/g)?.length ?? 0;
    const holder = new Deno.Command("sleep", { args: ["infinity"], cwd: v.mnt }).spawn();
    try {
      Deno.kill(pid, "SIGTERM");
      await until(() => refusals() === 1, "the refusal");
      assert.equal(await v.sh("cat file"), "kept\n");
    } finally {
      holder.kill();
      await holder.status;
    }
    let refused = 0;
    await until(() => {
      // What has just ended may be let go by the kernel a moment later: then it is refused once more.
      if (refusals() > refused) {
        refused = refusals();
        for (const name of ["SIGTERM", "SIGINT", "SIGTERM"] as const) signal(processOf(pid), name);
      }
      return !isRunning(pid);
    }, "the mount process to end");
    assert.equal(v.mounted, false);
    await v.mount();
    assert.equal(await v.sh("cat file"), "kept\n");
    assert.doesNotMatch(await v.log(), / error: /);
  },
);

function logOf(v: TestVolume): string {
  try {
    return Deno.readTextFileSync(`${v.dir}/run/mount.log`);
  } catch {
    return "";
  }
}

mountTest("-f stays in front and ends with the mount", {}, async (v) => {
  const child = v.spawnForeground();
  let said = "", asked = 0;
  for await (const text of child.stderr.pipeThrough(new TextDecoderStream())) {
    said += text;
    if (asked === 0 && said.includes(": mounted")) {
      await v.sh("touch file");
      child.kill("SIGINT");
      asked++;
    }
    // As a person would: what has just ended may be let go by the kernel a moment later.
    if (asked > 0 && (said.match(/busy; it goes on/g)?.length ?? 0) === asked) {
      child.kill("SIGINT");
      asked++;
    }
  }
  assert.equal((await child.status).code, 0, said);
  assert.equal(v.mounted, false);
});

mountTest("what fsync acknowledged survives kill -9, without a human", {}, async (v) => {
  for (let round = 0; round < 3; round++) {
    await v.mount();
    for (let i = 0; i < round; i++) {
      assert.equal(await v.sh(`cat synced-${i}`), `content ${i}\n`);
    }
    await v.sh(`echo content ${round} > synced-${round} && sync synced-${round}; touch unsynced`);
    await v.crash();
  }
  await v.mount();
  assert.equal(await v.sh("cat synced-2"), "content 2\n");
  assert.doesNotMatch(await v.log(), / error: /);
});

mountTest("each wrong mount is one line that names what is wrong", {}, async (v) => {
  const image = (path: string) => Deno.readFile(path);
  const heads =
    async () => [(await image(v.meta)).slice(0, 1 << 20), (await image(v.data)).slice(0, 1 << 20)];
  const before = await heads();
  const fails = async (args: string[], expected: RegExp) => {
    const r = await v.scoutfs("mount", ...args);
    assert.notEqual(r.code, 0);
    assert.match(r.err, expected);
    assert.ok(r.err.trimEnd().split("\n").length <= 2, `more than a line and a verdict: ${r.err}`);
    assert.equal(v.mounted, false);
  };
  const good = v.options;
  await fails(["-o", `${good},nonsense`, v.data, v.mnt], /nonsense/);
  await fails(["-o", "quorum_slot_nr=0", v.data, v.mnt], /metadev_path/);
  await fails(["-o", good, v.data, `${v.dir}/absent`], /absent: No such file or directory/);
  await fails(["-o", good, `${v.dir}/absent`, v.mnt], /absent: No such file or directory/);
  await fails(["-o", good, v.meta, v.mnt], /metadata device, not a data device/);
  await fails(
    ["-o", `metadev_path=${v.data},quorum_slot_nr=0`, v.meta, v.mnt],
    /data device, not a metadata device.*swapped/,
  );
  await fails(["-o", good.replace("nr=0", "nr=3"), v.data, v.mnt], /slot 3.*not configured/);
  await fails(["-o", good, "/dev/null", v.mnt], /neither a block device nor an image file/);
  await Deno.writeFile(`${v.dir}/short`, (await image(v.data)).slice(0, 1 << 20));
  await fails(["-o", good, `${v.dir}/short`, v.mnt], /short: .*too few/);
  await Deno.writeFile(`${v.dir}/blank`, new Uint8Array(1 << 20));
  await fails(["-o", good, `${v.dir}/blank`, v.mnt], /blank: no ScoutFS super block/);
  assert.deepEqual(await heads(), before, "the devices are untouched");

  await v.mount();
  const again = await v.scoutfs("mount", "-o", good, v.data, v.mnt);
  assert.match(again.err, /mounted there already/);
  await Deno.mkdir(`${v.dir}/other`);
  const busy = await v.scoutfs("mount", "-o", good, v.data, `${v.dir}/other`);
  assert.match(busy.err, new RegExp(`in use: mounted at ${v.mnt} by process ${v.servers()[0]}`));
  await v.sh("echo kept > file && sync file");
  for (const size of [["--size", "256M"], []]) {
    // The image that is not in use comes first: it must not be touched either.
    await Deno.writeTextFile(`${v.dir}/free`, "precious");
    const made = await v.scoutfs("mkfs", "-f", "-A", ...size, `${v.dir}/free`, v.data);
    assert.match(made.err, size.length > 0 ? /img: in use: .* locked\n/ : /free: 8 bytes are too/);
    assert.equal(await Deno.readTextFile(`${v.dir}/free`), "precious");
    const both = await v.scoutfs("mkfs", "-f", "-A", ...size, v.meta, v.data);
    assert.match(both.err, /img: in use: .* locked\n/);
  }
  await v.umount();
  await v.mount();
  assert.equal(await v.sh("cat file"), "kept\n");
});

mountTest("a taken port fails the mount and leaves nothing behind", {}, async (v) => {
  const { port } = v;
  const taken = udpSocket({ addr: 0x7f000001, port });
  try {
    const r = await v.tryMount();
    assert.equal(r.code, 1);
    assert.match(r.err, new RegExp(`127\\.0\\.0\\.1:${port}: Address already in use`));
    assert.deepEqual(v.servers(), []);
  } finally {
    closeFd(taken);
  }
  await v.mount();
});
