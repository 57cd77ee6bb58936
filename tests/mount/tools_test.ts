// walk-inodes, stat, statfs and df on real mounts: ioctl(2) from another process, results through
// pointers into its memory (05 §8, §12); file data written, cut, and read back by programs.

import assert from "node:assert/strict";
import { mountTest, type TestVolume } from "../helpers/volume.ts";

async function walked(v: TestVolume, index: string, first = "0"): Promise<number[]> {
  const r = await v.scoutfs("walk-inodes", "--json", "-p", v.mnt, "--", index, first, "-1");
  assert.equal(r.code, 0, r.err);
  return r.out.trim().split("\n").filter((l) => l !== "").map((l) => Number(JSON.parse(l).ino));
}

async function inoOf(v: TestVolume, name: string): Promise<number> {
  return Number(await v.sh(`stat -c %i ${name}`));
}

async function lifeOfAnIndex(v: TestVolume): Promise<void> {
  await v.mount();
  await v.sh("touch one two && sync");
  const one = await inoOf(v, "one");
  const two = await inoOf(v, "two");
  assert.deepEqual(await walked(v, "data_seq"), [one, two]);
  const st = await v.scoutfs("stat", "-s", "meta_seq", `${v.mnt}/two`);
  const after = `${Number(st.out) + 1}`;
  assert.deepEqual(await walked(v, "meta_seq", after), []);
  await v.sh("touch one && sync");
  assert.deepEqual(await walked(v, "meta_seq", after), [one]);
  assert.deepEqual(await walked(v, "data_seq", after), [], "times are not data");
  await v.sh("echo data > two && sync");
  assert.deepEqual(await walked(v, "data_seq", after), [two]);
  // More entries than one buffer of the command holds.
  await v.sh("mkdir many && cd many && seq 1 2500 | xargs touch && sync");
  const many = await walked(v, "meta_seq", after);
  assert.equal(new Set(many).size, many.length);
  // The root, the directory, its files, and the two from before.
  assert.equal(many.length, 2504);
  const table = await v.scoutfs("walk-inodes", "-p", v.mnt, "data_seq", "0", "5000000");
  assert.match(table.out, /^# {20}major {16}minor {6}ino {17}\n0 {20}/);
}

mountTest("walk-inodes shows what changed (image files)", {}, lifeOfAnIndex);
mountTest("walk-inodes shows what changed (block devices)", { loop: true }, lifeOfAnIndex);

mountTest("stat, statfs and df print what the volume holds", {}, async (v) => {
  await v.mount();
  await v.sh("head -c 1000000 /dev/zero > file && sync file");
  const st = await v.scoutfs("stat", `${v.mnt}/file`);
  assert.equal(st.code, 0, st.err);
  assert.match(
    st.out,
    /^meta_seq {10}\d+\ndata_seq {10}\d+\ndata_version {6}\d+\nonline_blocks {5}245\noffline_blocks {4}0\ncrtime {12}\d+\.\d{9}\n$/,
  );
  assert.equal((await v.scoutfs("stat", "-s", "online_blocks", `${v.mnt}/file`)).out, "245\n");
  assert.equal(JSON.parse((await v.scoutfs("stat", "--json", v.mnt)).out).offline_blocks, 0);
  const unknown = await v.scoutfs("stat", "-s", "foo", v.mnt);
  assert.deepEqual([unknown.code, unknown.err], [1, "unknown field: 'foo'\n"]);
  const foreign = await v.scoutfs("stat", v.dir);
  assert.deepEqual(
    [foreign.code, foreign.err],
    [0, "ioctl failed: Inappropriate ioctl for device (25)\n"],
  );
  const statfs = await v.scoutfs("statfs", "-p", v.mnt);
  assert.match(statfs.out, /^fsid {14}[0-9a-f]{16}\nrid {15}[0-9a-f]{16}\ncommitted_seq {5}\d+\n/);
  assert.equal((await v.scoutfs("statfs", "-p", v.mnt, "-s", "total_data_blocks")).out, "65536\n");
  const df = await v.scoutfs("df", "-p", v.mnt);
  assert.match(df.out, /^ {4}Type {2}Size +Total +Used +Free {2}Use% {2}\nMetaData {2}64KB /);
  const rows = JSON.parse((await v.scoutfs("df", "--json", "-p", v.mnt)).out);
  // 245 blocks of data and what the stream of writes preallocated.
  assert.deepEqual([rows[1].total, rows[1].used], [65536, 64 + 256]);
  const missing = await v.scoutfs("statfs", "-p", `${v.mnt}/none`);
  assert.equal(missing.code, 1);
  assert.match(missing.err, /^failed to open '.*none': No such file or directory \(2\)\n/);
});

mountTest("sparse files, holes, preallocation, O_DIRECT, append, truncation", {}, async (v) => {
  await v.mount();
  await v.sh(`set -e
    truncate -s 10M sparse; printf end >> sparse
    test $(stat -c %s sparse) = 10485763; test $(stat -c %b sparse) = 8
    head -c 10485760 sparse | cmp - /dev/zero -n 10485760
    fallocate -l 5M pre; test $(stat -c %s:%b pre) = 5242880:0; cmp -n 5242880 pre /dev/zero
    fallocate -n -o 5M -l 1M pre; test $(stat -c %s pre) = 5242880
    ! fallocate -p -l 4096 pre 2>/dev/null
    head -c 3000000 /dev/urandom > ../random
    for bs in 100 4096 5000 65536 1M; do dd if=../random of=copy-$bs bs=$bs status=none; cmp ../random copy-$bs; done
    head -c 2097152 ../random > ../aligned
    dd if=../aligned of=direct bs=64k oflag=direct status=none; cmp ../aligned direct
    dd if=direct of=../back bs=128k iflag=direct status=none; cmp ../aligned ../back
    for i in 1 2 3 4 5; do echo line-$i >> log; done; test $(wc -l < log) = 5
    truncate -s 5000 copy-4096; truncate -s 9000 copy-4096
    head -c 5000 ../random > ../want; head -c 4000 /dev/zero >> ../want; cmp ../want copy-4096
  `);
  const before = await v.sh("cksum sparse pre copy-* direct log");
  await v.umount();
  await v.mount();
  assert.equal(await v.sh("cksum sparse pre copy-* direct log"), before);
});

mountTest("a mount that dies keeps what fsync acknowledged", {}, async (v) => {
  await v.mount();
  await v.sh(`set -e
    head -c 2000003 /dev/urandom > ../random
    dd if=../random of=kept bs=30011 conv=fsync status=none
    printf tail >> kept; sync -d kept
    head -c 500000 /dev/urandom > lost-or-kept`);
  await v.crash();
  await v.mount();
  await v.sh("set -e; cp ../random ../want; printf tail >> ../want; cmp ../want kept");
});
