/** The program as a user or a script meets it: texts, streams, exit statuses (05 §11, §12.1). */

import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { openDevice } from "../../fs/sys/device.ts";
import { openVolume } from "../../fs/volume.ts";

const PROGRAM = fileURLToPath(new URL("../../scoutfs.ts", import.meta.url));
const MIB = 1 << 20;

interface Result {
  code: number;
  out: string;
  err: string;
}

function scoutfs(dir: string, ...args: string[]): Result {
  const { code, stdout, stderr } = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", PROGRAM, ...args],
    cwd: dir,
    stdin: "null",
  }).outputSync();
  const text = (b: Uint8Array) => new TextDecoder().decode(b);
  return { code, out: text(stdout), err: text(stderr) };
}

function inFolder(name: string, fn: (dir: string) => void): void {
  Deno.test(name, () => {
    const dir = Deno.makeTempDirSync({ prefix: "scoutfs-cli-" });
    try {
      fn(dir);
    } finally {
      Deno.removeSync(dir, { recursive: true });
    }
  });
}

const exists = (path: string) => {
  try {
    Deno.statSync(path);
    return true;
  } catch {
    return false;
  }
};

inFolder("no or an unknown command: usage on standard error, status 1; --help: status 0", (dir) => {
  const none = scoutfs(dir);
  assert.equal(none.code, 1);
  assert.equal(none.out, "");
  assert.match(none.err, /Core admin:[\s\S]*mkfs [\s\S]*Supported format version: 1-2\n$/);
  const unknown = scoutfs(dir, "nothing");
  assert.equal(unknown.code, 1);
  assert.match(unknown.err, /^scoutfs: unrecognized command: 'nothing'\n/);
  const help = scoutfs(dir, "--help");
  assert.deepEqual([help.code, help.err], [0, ""]);
  assert.match(help.out, /mkfs/);
});

inFolder("output that cannot be written is a failure with a reason", (dir) => {
  for (const args of ["--help", "--version", "mkfs --help"]) {
    const command = `"${Deno.execPath()}" run -A --no-check "${PROGRAM}" ${args} > /dev/full`;
    const r = new Deno.Command("sh", { args: ["-c", command], cwd: dir }).outputSync();
    assert.equal(r.code, 1);
    assert.match(new TextDecoder().decode(r.stderr), /failed: No space left on device \(28\)\n$/);
  }
});

inFolder("usage errors: status 64 and two lines", (dir) => {
  const tries = "Try `mkfs --help' or `mkfs --usage' for more information.\n";
  const slot = ["-Q", "0,127.0.0.1,53000"];
  for (
    const [args, message] of [
      [[], "no metadata device argument given"],
      [["m"], "no data device argument given"],
      [["m", "d", "x"], null],
      [["--bogus"], null],
      [["--f", "m", "d"], "option '--f' is ambiguous; possibilities: '--force' '--format-version'"],
      [["-V", "3", "m", "d"], "format-version 3 is outside supported range of 1-2"],
      [
        [...slot, ...slot, "m", "d"],
        "Quorum slot 0 already specified before slot '0,127.0.0.1,53000'",
      ],
      [[...slot, "-Q", "1,127.0.0.1,53000", "m", "d"], "invalid quorum slot configuration"],
    ] as const
  ) {
    const r = scoutfs(dir, "mkfs", ...args);
    assert.equal(r.code, 64, r.err);
    assert.ok(r.err.startsWith(message === null ? "mkfs: " : `mkfs: ${message}\n`), r.err);
    assert.ok(r.err.endsWith(tries), r.err);
  }
  const help = scoutfs(dir, "mkfs", "--help");
  assert.deepEqual([help.code, help.err], [0, ""]);
  assert.match(help.out, /--quorum-slot/);
  assert.equal(scoutfs(dir, "mkfs", "-?").out, help.out);
  const names = [...scoutfs(dir, "--help").out.matchAll(/^ {2}([a-z-]+) /gm)].map((m) =>
    m[1] ?? ""
  );
  assert.ok(names.length > 5);
  for (const name of names) {
    assert.match(scoutfs(dir, name, "--help").out, new RegExp(`Example:\n  scoutfs ${name} `));
  }
  assert.match(scoutfs(dir, "mkfs", "--usage").out, /^Usage: mkfs /);
});

inFolder("wrong slots are named on standard output", (dir) => {
  for (
    const [slot, line] of [
      [
        "15,127.0.0.1,1",
        "invalid nr '15' in quorum slot '15,127.0.0.1,1', must be between 0 and 14",
      ],
      ["0,127.0.0.1", "extra unparsed trailing characters in quorum slot '0,127.0.0.1'"],
      ["0,127.0.0.1,1,2", "extra unparsed trailing characters in quorum slot '0,127.0.0.1,1,2'"],
      ["0,0.0.0.0,1", "invalid ipv4 address '0.0.0.0' in quorum slot '0,0.0.0.0,1'"],
      ["0,1.2.3,1", "invalid ipv4 address '1.2.3' in quorum slot '0,1.2.3,1'"],
      [
        "0,1.2.3.4,65536",
        "invalid ipv4 port '65536' in quorum slot '0,1.2.3.4,65536', must be between 1 and 65535",
      ],
    ] as const
  ) {
    const r = scoutfs(dir, "mkfs", "-Q", slot, "m", "d");
    assert.equal(r.code, 1);
    assert.equal(r.out, line + "\n");
    assert.equal(r.err, "scoutfs: mkfs failed: Invalid argument (22)\n");
  }
});

inFolder("mkfs --size makes sparse images that open as a volume", (dir) => {
  const r = scoutfs(dir, "mkfs", "--size", "1G", "m.img", "d.img");
  assert.equal(r.code, 0, r.err);
  assert.match(
    r.out,
    new RegExp(
      "^Created scoutfs filesystem:\n" +
        "  meta device path:       m.img\n" +
        "  data device path:       d.img\n" +
        "  fsid:                   [0-9a-f]{1,16}\n" +
        "  uuid:                   [0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\n" +
        "  format version:         2\n" +
        "  64KB metadata blocks:   4096 \\(256.00 MB\\)\n" +
        "  4KB data blocks:        262144 \\(1.00 GB\\)\n" +
        "  quorum config version:  1\n" +
        "  quorum slots:           0: 127.0.0.1:\\d+\n$",
    ),
  );
  assert.match(r.err, /^note: 256.00MB of metadata .*\n$/);
  const stat = Deno.statSync(`${dir}/m.img`);
  assert.equal(stat.size, 256 * MIB);
  assert.ok((stat.blocks ?? 0) * 512 < MIB);
  const meta = openDevice(`${dir}/m.img`, { write: false });
  const data = openDevice(`${dir}/d.img`, { write: false });
  try {
    const volume = openVolume(meta, data);
    assert.equal(volume.fmtVers, 2);
    assert.equal(volume.superBlock.totalDataBlocks, 262144);
  } finally {
    meta.close();
    data.close();
  }

  const again = scoutfs(dir, "mkfs", "--size", "1G", "m.img", "d.img");
  assert.equal(again.code, 1);
  assert.match(again.err, /^m.img: exists already: --size is for new image files\n/);
  const taken = scoutfs(dir, "mkfs", "-A", "m.img", "d.img");
  assert.equal(taken.code, 1);
  assert.match(taken.err, /^m.img: appears to contain an existing ScoutFS superblock\n/);
  const small = scoutfs(dir, "mkfs", "-f", "m.img", "d.img");
  assert.equal(small.code, 1);
  assert.match(small.err, /^256.00MB too small for min 64.00GB meta device\n/);
  const same = scoutfs(dir, "mkfs", "-f", "-A", "m.img", "./m.img");
  assert.match(same.err, /^.\/m.img: is given for both the metadata and the data device\n/);
  const forced = scoutfs(dir, "mkfs", "-f", "--size=512M", "-V1", "m.img", "d.img");
  assert.equal(forced.code, 0, forced.err);
  assert.match(forced.out, /format version: {9}1\n[\s\S]*131072 \(512.00 MB\)/);
});

inFolder("mkfs with limits, zones and several slots, as the reference words it", (dir) => {
  Deno.createSync(`${dir}/m`).close();
  Deno.truncateSync(`${dir}/m`, 256 * MIB);
  Deno.createSync(`${dir}/d`).close();
  Deno.truncateSync(`${dir}/d`, 8192 * MIB);
  const slots = ["-Q", "4,10.1.1.2,5001", "-Q", "3,10.1.1.1,5000"];
  const r = scoutfs(
    dir,
    "mkfs",
    "-A",
    ...slots,
    "--max-meta-size",
    "71681024",
    "-d",
    "1T",
    "-z",
    "1048576",
    "m",
    "d",
  );
  assert.equal(r.code, 0, r.err);
  assert.equal(
    r.err,
    "68.31MB too small for min 64.00GB meta device, allowing with -A\n" +
      "8.00GB too small for min 64.00GB data device, allowing with -A\n",
  );
  assert.ok(r.out.startsWith(
    "Meta dev size 71681024 rounded down to 71630848 bytes\n" +
      "Limiting use of 256.00MB meta device to 68.31MB\n" +
      "Device size limit of 1.00TB for data device is greater than 8.00GB available, ignored.\n" +
      "Created scoutfs filesystem:\n",
  ));
  assert.ok(r.out.endsWith(
    "  quorum slots:           3: 10.1.1.1:5000\n                          4: 10.1.1.2:5001\n",
  ));
  const print = scoutfs(dir, "print", "-S", "m");
  assert.equal(print.code, 0, print.err);
  assert.match(print.out, /\n {4}data_alloc_zone_blocks: 1048576\n/);
  assert.doesNotMatch(print.out, /fs_root btree/);
  assert.match(scoutfs(dir, "print", "m").out, /fs_root btree blkno 2\n/);
});

inFolder("what mkfs refuses it leaves untouched, and images it made are removed", (dir) => {
  const r = scoutfs(dir, "mkfs", "--size", "1G", "--meta-size", "1M", "m.img", "d.img");
  assert.equal(r.code, 1);
  assert.match(r.err, /metadata size of 1048576 bytes is too small/);
  assert.ok(!exists(`${dir}/m.img`) && !exists(`${dir}/d.img`));
  const missing = scoutfs(dir, "mkfs", "-A", "m.img", "d.img");
  assert.equal(missing.code, 1);
  assert.equal(
    missing.err,
    "m.img: No such file or directory\n" +
      "scoutfs: mkfs failed: No such file or directory (2)\n",
  );
  const disk = new Uint8Array(64 * MIB);
  disk.set([0x53, 0xef], 1080);
  Deno.writeFileSync(`${dir}/ext`, disk);
  const ext = scoutfs(dir, "mkfs", "-A", "ext", "ext2");
  assert.equal(ext.code, 1);
  assert.match(ext.err, /^ext: appears to contain an existing ext\S* superblock\n/);
  assert.deepEqual(Deno.readFileSync(`${dir}/ext`), disk);
});

inFolder("print of what is no metadata device", (dir) => {
  const none = scoutfs(dir, "print");
  assert.equal(none.code, 64);
  const missing = scoutfs(dir, "print", "nothing");
  assert.deepEqual([missing.code, missing.out], [1, ""]);
  assert.match(
    missing.err,
    /^nothing: No such file or directory\nscoutfs: print failed: .*\(2\)\n$/,
  );
  Deno.writeFileSync(`${dir}/zeros`, new Uint8Array(MIB));
  assert.match(scoutfs(dir, "print", "zeros").err, /^zeros: no ScoutFS super block found\n/);
});
