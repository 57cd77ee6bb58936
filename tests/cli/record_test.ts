/** How a mount waits for an earlier one of its devices that is about to end. */

import assert from "node:assert/strict";
import { openWhenFree, removeRecord, writeRecord } from "../../cli/mount/record.ts";
import { EBUSY } from "../../format/errno.ts";
import { FsError } from "../../fs/errors.ts";

const record = {
  name: "f.000001.r.000002",
  pid: Deno.pid,
  meta: "/images/meta",
  data: "/images/data",
  mountpoint: "/nowhere",
  fsid: "1",
  rid: "2",
};

/** Opens `path` when it is free at the attempt after `busy` that failed; `each` runs at every attempt. */
async function attempts(
  runtimeDir: string,
  busy: number,
  each: (attempt: number) => void = () => {},
): Promise<number> {
  let made = 0;
  return await openWhenFree(runtimeDir, record.meta, () => {
    each(++made);
    if (made <= busy) throw new FsError(EBUSY, `${record.meta}: in use`);
    return made;
  });
}

Deno.test("a device is waited for while a mount of ours ends, and not for anybody else", async () => {
  const dir = Deno.makeTempDirSync({ prefix: "scoutfs-record-" });
  try {
    const inUse = (e: unknown) => e instanceof FsError && e.errno === EBUSY;
    assert.equal(await attempts(dir, 0), 1);
    await assert.rejects(attempts(dir, 10), inUse, "somebody else's");
    writeRecord(dir, record);
    assert.equal(await attempts(dir, 3), 4);
    // It ends between an attempt and the look at the records, at once or later.
    for (const last of [1, 3]) {
      writeRecord(dir, record);
      const end = (attempt: number) => {
        if (attempt === last) removeRecord(dir, record.name);
      };
      assert.equal(await attempts(dir, last, end), last + 1);
    }
  } finally {
    Deno.removeSync(dir, { recursive: true });
  }
});
