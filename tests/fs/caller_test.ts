/** Who may do what: capabilities and groups of calling processes. */

import assert from "node:assert/strict";
import { CAP_FSETID, CAP_SYS_ADMIN, procCredentials, type ProcessTable } from "../../fs/caller.ts";

const status = (capEff: string, groups: string) =>
  `Name:\tx\nUid:\t1001\nGroups:\t${groups}\nCapEff:\t${capEff}\n`;

const PROCESSES: Record<string, { status: string; namespace: string | null }> = {
  self: { status: "", namespace: "user:[1]" },
  10: { status: status("000001ffffffffff", "0"), namespace: "user:[1]" },
  11: { status: status("0000000000000000", "1001 3000"), namespace: "user:[1]" },
  12: { status: status("000001ffffffffff", "65534"), namespace: "user:[2]" },
  13: { status: status("000001ffffffffff", "0"), namespace: null },
  14: { status: status("0000000000000010", "0"), namespace: "user:[1]" },
};
const TABLE: ProcessTable = {
  status: (pid) => PROCESSES[pid]?.status ?? null,
  userNamespace: (pid) => PROCESSES[pid]?.namespace ?? null,
};
const caller = (pid: number, uid: number, gid = uid) => ({ uid, gid, pid, umask: 0 });

Deno.test("capabilities count only in our own user namespace, and only of living processes", () => {
  const c = procCredentials(TABLE);
  assert.ok(c.capable(caller(10, 0), CAP_SYS_ADMIN));
  assert.ok(!c.capable(caller(11, 1001), CAP_SYS_ADMIN));
  assert.ok(!c.capable(caller(12, 1001), CAP_SYS_ADMIN), "root of a namespace of its own");
  assert.ok(!c.capable(caller(13, 0), CAP_SYS_ADMIN), "ended meanwhile");
  assert.ok(!c.capable(caller(99, 0), CAP_SYS_ADMIN), "not there");
  assert.ok(c.capable(caller(14, 1001), CAP_FSETID) && !c.capable(caller(14, 0), CAP_SYS_ADMIN));
  // Of a process that we cannot see nothing is known but its user.
  assert.ok(c.capable(caller(0, 0), CAP_SYS_ADMIN) && !c.capable(caller(0, 5), CAP_SYS_ADMIN));
});

Deno.test("groups are the own one and the supplementary ones", () => {
  const c = procCredentials(TABLE);
  assert.ok(c.inGroup(caller(11, 1001, 7), 7) && c.inGroup(caller(11, 1001, 7), 3000));
  assert.ok(!c.inGroup(caller(11, 1001, 7), 300) && !c.inGroup(caller(99, 0), 3000));
});
