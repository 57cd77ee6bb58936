/** What applications expect of a file system, tried by another program on a real mount. */
import assert from "node:assert/strict";
import { mountTest, run } from "../helpers/volume.ts";

const SCRIPT = new URL("./posix.py", import.meta.url).pathname;

for (const loop of [false, true]) {
  mountTest(`POSIX behaviour on ${loop ? "block devices" : "image files"}`, { loop }, async (v) => {
    const python = await run("python3", ["--version"]).then((r) => r.code === 0, () => false);
    if (!python) return console.log("skipped: no python3");
    await v.mount();
    const r = await run("python3", [SCRIPT], { cwd: v.mnt });
    assert.equal(r.code, 0, r.out + r.err);
    assert.equal(r.out.trimEnd().split("\n").length, 14);
    await v.umount();
    assert.doesNotMatch(await v.log(), / error: /);
  });
}
