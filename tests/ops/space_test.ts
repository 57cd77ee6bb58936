/** A volume whose metadata space runs out: ENOSPC, nothing damaged, and removing still works. */

import assert from "node:assert/strict";
import { ENOSPC } from "../../format/errno.ts";
import { create, unlink } from "../../fs/ops/names.ts";
import { setXattr } from "../../fs/ops/xattr.ts";
import { LocalCluster } from "../helpers/local_cluster.ts";
import { assertSound, LocalFs } from "../helpers/local_fs.ts";

const b = (s: string): Uint8Array => new TextEncoder().encode(s);
const BIG = new Uint8Array(65535);
/** More files than fit. */
const LIMIT = 4000;
const REMOVED = 50;

/** A file with as much metadata as one can have in one attribute. */
async function addFile(m: LocalFs, name: string): Promise<void> {
  const ino = await m.run((op, fs) => create(op, fs, 1, b(name), 0o100644));
  m.fs.refs.forget(ino, 1);
  await m.run((op, fs) => setXattr(op, fs, ino, b("user.big"), BIG, 0));
}

Deno.test("space: a volume full of metadata stays sound and lets files be removed", async () => {
  const cluster = await LocalCluster.make();
  const m = await LocalFs.mount(cluster);
  let files = 0;
  await assert.rejects(
    async () => {
      for (; files < LIMIT; files++) await addFile(m, `f${files}`);
    },
    { errno: ENOSPC },
  );
  assert.ok(files > 500, `only ${files} files fit`);
  await m.sync();
  assertSound(cluster);
  for (let i = 0; i < REMOVED; i++) await m.run((op, fs) => unlink(op, fs, 1, b(`f${i}`)));
  await m.fs.orphans.drain();
  await m.sync();
  assertSound(cluster);
  assert.deepEqual(m.log, []);
  await m.unmount();
  assertSound(cluster);
});
