/** Mount options: 05 §3.2, §3.3. */

import assert from "node:assert/strict";
import { EINVAL, ERANGE } from "../../format/errno.ts";
import { FsError } from "../../fs/errors.ts";
import {
  DEFAULT_MOUNT_OPTIONS,
  parseMountOptions,
  requireMetadev,
  showMountOptions,
} from "../../fs/options.ts";

Deno.test("defaults are those of the reference", () => {
  assert.deepEqual(parseMountOptions(""), DEFAULT_MOUNT_OPTIONS);
  const o = parseMountOptions("metadev_path=/dev/m,quorum_slot_nr=0");
  requireMetadev(o);
  assert.equal(
    showMountOptions(o),
    "acl,data_prealloc_blocks=2048,data_prealloc_contig_only=1,ino_alloc_per_lock=1024," +
      "metadev_path=/dev/m,orphan_scan_delay_ms=10000,quorum_slot_nr=0,tcp_keepalive_timeout_ms=24000",
  );
});

Deno.test("numbers are decimal, hexadecimal or octal; the last one of a repeated option counts", () => {
  const o = parseMountOptions(
    "rw,noacl,data_prealloc_blocks=0x10,lock_idle_count=0100,lock_idle_count=32," +
      "data_prealloc_contig_only=0,metadev_path=/a=b,assume_fenced,noatime",
  );
  assert.deepEqual(
    [o.dataPreallocBlocks, o.lockIdleCount, o.dataPreallocContigOnly, o.metadevPath, o.acl],
    [16, 32, false, "/a=b", false],
  );
  assert.ok(o.assumeFenced);
  assert.deepEqual(o.vfs, ["rw", "noatime"]);
  assert.match(showMountOptions(o), /,noacl,/);
});

Deno.test("the fence command and its arguments", () => {
  const o = parseMountOptions("fence_run=/usr/bin/fence,fence_run_args= -a  b ");
  assert.equal(o.fenceRun, "/usr/bin/fence");
  assert.deepEqual(o.fenceRunArgs, ["-a", "b"]);
});

Deno.test("what is wrong is refused with one line that names the option", () => {
  const wrong: [string, number][] = [
    ["data_prealloc_blocks=0", EINVAL],
    ["data_prealloc_blocks=4503599627370496", EINVAL],
    ["data_prealloc_blocks=99999999999999999999", ERANGE],
    ["data_prealloc_contig_only=2", EINVAL],
    ["ino_alloc_per_lock=1025", EINVAL],
    ["lock_idle_count=31", EINVAL],
    ["log_merge_wait_timeout_ms=60001", EINVAL],
    ["orphan_scan_delay_ms=99", EINVAL],
    ["orphan_scan_delay_ms=100,orphan_scan_delay_ms=100", EINVAL],
    ["quorum_heartbeat_timeout_ms=1999", EINVAL],
    ["quorum_slot_nr=15", EINVAL],
    ["quorum_slot_nr=-1", EINVAL],
    ["quorum_slot_nr=1,quorum_slot_nr=1", EINVAL],
    ["tcp_keepalive_timeout_ms=3000", EINVAL],
    ["tcp_keepalive_timeout_ms", EINVAL],
    ["lock_idle_count=40x", EINVAL],
    ["lock_idle_count=09", EINVAL],
    ["metadev_path=", EINVAL],
    ["fence_run=relative/path", EINVAL],
    ["fence_run", EINVAL],
    ["acl=1", EINVAL],
    ["nonsense", EINVAL],
    ["nonsense=1", EINVAL],
  ];
  for (const [text, errno] of wrong) {
    assert.throws(
      () => parseMountOptions(text),
      (e) =>
        e instanceof FsError && e.errno === errno && !e.message.includes("\n") &&
        e.message.includes(text.split("=")[0]!.split(",")[0]!),
      text,
    );
  }
  assert.throws(() => requireMetadev(parseMountOptions("acl")), /metadev_path/);
});
