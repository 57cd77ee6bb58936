// File data on real mounts: shared mappings and what survives of them, fio's verified patterns, and
// caches (the kernel's and ours) that never show the past.

import assert from "node:assert/strict";
import { mountTest } from "../helpers/volume.ts";

mountTest(
  "stores to a shared mapping that msync or fsync acknowledged survive a crash",
  {},
  async (v) => {
    await v.mount();
    // The same steps on the host's filesystem say what is right.
    const steps = (file: string) => `
    xfs_io -f -c 'pwrite -q -S 0x11 0 1m' ${file}
    xfs_io -c 'mmap -rw 0 1m' -c 'mwrite -S 0xaa 5000 20000' -c 'msync -s' ${file}
    xfs_io -c 'mmap -rw 0 1m' -c 'mwrite -S 0xbb 900000 100' -c 'mwrite -S 0xcc 0 4096' -c fsync ${file}
    xfs_io -f -c 'truncate 300k' -c 'mmap -rw 0 300k' -c 'mwrite -S 0xdd 100000 70000' -c 'msync -s' ${file}-sparse
  `;
    await v.sh(`set -e; ${steps("../want")} ${steps("mapped")}
    cmp ../want mapped; cmp ../want-sparse mapped-sparse`);
    await v.crash();
    await v.mount();
    await v.sh("set -e; cmp ../want mapped; cmp ../want-sparse mapped-sparse");
  },
);

mountTest("a mapping sees writes, and reads see stores to it", {}, async (v) => {
  await v.mount();
  // Again the host's filesystem is the judge; only the dumped bytes are compared.
  const steps = (file: string) => `
    xfs_io -f -c 'pwrite -q -S 0x31 0 64k' ${file}
    xfs_io -c 'mmap -rw 0 64k' -c 'mread -v 0 4' -c 'pwrite -q -S 0x32 4096 100' \
      -c 'mread -v 4090 110' -c 'mwrite -S 0x33 8192 10' -c 'pread -v 8190 16' ${file} |
      grep '^0' > ${file}-seen
  `;
  await v.sh(`set -e; ${steps("../want")} ${steps("f")}
    test $(wc -l < f-seen) -ge 9; cmp ../want-seen f-seen; cmp ../want f`);
});

mountTest("fio finds what it wrote: random, mixed, direct, mapped", {}, async (v) => {
  await v.mount();
  const jobs = [
    "--ioengine=psync --rw=randwrite --bs=4k",
    "--ioengine=psync --rw=randrw --bsrange=512-70k --bs_unaligned",
    "--ioengine=psync --rw=randwrite --bs=4k --direct=1",
    "--ioengine=libaio --iodepth=16 --rw=randwrite --bsrange=4k-128k --blockalign=4k --direct=1",
    "--ioengine=mmap --rw=randwrite --bs=4k",
    "--ioengine=psync --rw=write --bs=1m",
  ];
  for (const [i, job] of jobs.entries()) {
    await v.sh(
      `fio --name=job${i} --size=12m --verify=crc32c --verify_fatal=1 --do_verify=1 ` +
        `--end_fsync=1 --randseed=7 --filename=job${i} --output=/dev/null ${job}`,
    );
  }
  const before = await v.sh("cksum job*");
  await v.umount();
  await v.mount();
  const after = await v.sh("cksum job*");
  if (after !== before) throw new Error(`contents changed:\n${before}\n${after}`);
});

mountTest("what was read before does not hide what is written after", {}, async (v) => {
  await v.mount();
  await v.sh("head -c 6000000 /dev/urandom > ../want; cp ../want f; cp ../want g");
  await v.umount();
  await v.mount();
  await v.sh(`set -e
    change() { # file, block size, block: the same bytes into both
      dd if=/dev/urandom of=../piece bs=$2 count=1 status=none
      for file in ../want $1; do dd if=../piece of=$file bs=$2 seek=$3 conv=notrunc status=none; done
    }
    same() { cmp ../want $1; dd if=$1 bs=64k iflag=direct status=none | cmp - ../want; }
    exec 5<f
    same f
    for how in "4096 3" "100 7777" "262144 2" "1048576 1" "4096 1464"; do change f $how; same f; done
    cmp ../want /dev/fd/5
    truncate -s 2000001 ../want f; same f
    truncate -s 3000000 ../want f; same f
    fallocate -l 4000000 ../want; fallocate -l 4000000 f; same f
    change f 8192 400; same f
    sync; same f
    rm f; cp ../want h; same h; exec 5<&-`);
});

mountTest(
  "the kernel reads ahead in large pieces, the device's own settings stay",
  { loop: true },
  async (v) => {
    const setting = (name: string) => Deno.readTextFile(`/sys/class/bdi/${name}/read_ahead_kb`);
    const device = (await v.sh(`lsblk -dno MAJ:MIN ${v.data}`)).trim();
    const before = await setting(device);
    await v.mount();
    assert.equal((await setting(`${device}-fuseblk`)).trim(), "1024");
    assert.equal(await setting(device), before);
  },
);

mountTest(
  "a direct read of a large file's last blocks ends where the file ends",
  { dataBytes: 512 << 20 },
  async (v) => {
    await v.mount();
    // One byte less than whole blocks: the last read asks for just those. What the kernel keeps of
    // the file, and what we do, makes no difference.
    const bytes = (150 << 20) - 1;
    await v.sh(`set -e
      head -c ${bytes} /dev/urandom > ../want
      cp ../want big; sync big
      direct() { dd if=big bs=1M iflag=direct status=none | cmp - ../want; }
      direct; cat big | cmp - ../want; direct
      truncate -s ${bytes - (1 << 20)} ../want big; sync big
      direct; cat big | cmp - ../want; direct`);
  },
);

for (const loop of [false, true]) {
  mountTest(
    `a large file is read whole, again after it changed, beside its changes${
      loop ? " (loop)" : ""
    }`,
    { loop, dataBytes: 512 << 20 },
    async (v) => {
      await v.mount();
      // Larger than what the cache keeps of a file; a hole and an odd end among its blocks.
      await v.sh(`set -e
      head -c 150000001 /dev/urandom > ../want
      dd if=../want of=big bs=1M status=none
      same() { cat big | cmp - ../want; dd if=big bs=300k status=none | cmp - ../want; }
      same
      for at in 0 77 120; do
        dd if=/dev/urandom of=../piece bs=300k count=1 status=none
        for file in ../want big; do dd if=../piece of=$file bs=1M seek=$at conv=notrunc status=none; done
        same
      done
      for file in ../want big; do
        truncate -s 155000001 $file
        dd if=../piece of=$file bs=300k seek=525 conv=notrunc status=none
      done
      same; same`);
      await v.umount();
      await v.mount();
      // Readers beside a writer of another part, and mappings of what is read.
      await v.sh(`set -e
      for n in 1 2 3; do (head -c 140000000 big | cmp -n 140000000 - ../want) & readers="$readers $!"; done
      for n in 1 2 3 4 5 6; do
        dd if=/dev/urandom of=../piece bs=1M count=1 status=none
        for file in ../want big; do dd if=../piece of=$file bs=1M seek=140 conv=notrunc status=none; done
      done
      for reader in $readers; do wait $reader; done
      xfs_io -r -c 'mmap -r 0 140m' -c 'mread 0 140m' big
      cmp big ../want
      echo 3 > /proc/sys/vm/drop_caches
      timeout -s KILL 0.05 cat big > ../dev-null || true; rm -f ../dev-null
      cmp big ../want`);
    },
  );
}

mountTest(
  "reading again what is open reaches nobody: the server may stand still",
  {},
  async (v) => {
    await v.mount();
    const [pid] = v.servers();
    await v.sh(`head -c 6000000 /dev/urandom > ../want; cp ../want f
    perl -e '
      my ($pid, $want) = @ARGV;
      sub whole { my $all = ""; sysseek($_[0], 0, 0); 1 while sysread($_[0], $all, 1 << 20, length $all); $all }
      open(my $w, "<", "../want"); open(my $f, "<", "f") or die "open: $!";
      my $bytes = whole($w);
      whole($f) eq $bytes or die "first";
      # What was read last changed the time of access, which the kernel asks for once.
      stat $f;
      kill STOP => $pid;
      # Whoever waits for it cannot be woken by us.
      defined(my $watch = fork) or die "fork";
      if (!$watch) { sleep 60; kill CONT => $pid; kill KILL => getppid; exit }
      my @stat = stat $f;
      my $again = whole($f);
      kill KILL => $watch;
      kill CONT => $pid;
      $again eq $bytes or die "again"; $stat[7] == length $bytes or die "size";
    ' ${pid}`);
  },
);
