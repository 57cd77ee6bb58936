/** Volumes of real mounts that lost blocks or a super block, mended by `scoutfs fsck -y`, and mounted again. */

import assert from "node:assert/strict";
import { SM_SIZE, SUPER_BLKNO } from "../../format/constants.ts";
import { openDevice } from "../../fs/sys/device.ts";
import { Surgeon } from "../fsck/repair_support.ts";
import { mountTest, type TestVolume } from "../helpers/volume.ts";

/** Everything that a reader sees: names, modes, contents, attributes. */
const state = (v: TestVolume): Promise<string> =>
  v.sh(
    "find . -printf '%p %y %m %s %l\\n' | sort; find . -type f | sort | xargs sha256sum; getfattr -R -d . 2>/dev/null",
  );

async function populate(v: TestVolume): Promise<void> {
  await v.sh("mkdir -p one/two three && for i in $(seq 200); do echo file $i > one/two/$i; done");
  await v.sh(
    "for i in $(seq 60); do head -c $((i * 700)) /dev/urandom > three/r$i; done; sync three/r1",
  );
  await v.sh("ln one/two/7 hard && ln -s one/two soft && rm one/two/9 && mv one/two/8 moved");
  await v.sh(
    "for i in $(seq 40); do setfattr -n user.big -v $(head -c 1500 /dev/urandom | base64 -w0) three/r$i; done",
  );
}

/** What `damage` does to the metadata device of a volume in use is mended; files are what they were. */
async function mendAndMount(v: TestVolume, damage: (meta: string) => void): Promise<string> {
  await v.mount();
  await populate(v);
  const before = await state(v);
  await v.umountAndWait();
  damage(v.meta);
  const damaged = await Deno.readFile(v.meta), undo = `${v.dir}/undo`;
  const found = await v.scoutfs("fsck", "-n", v.meta, v.data);
  assert.equal(found.code, 4, found.out + found.err);
  const mended = await v.scoutfs("fsck", "-y", "--undo", undo, v.meta, v.data);
  assert.equal(mended.code, 1, mended.out + mended.err);
  const undone = await v.scoutfs("fsck", "--undo-apply", undo, v.meta, v.data);
  assert.equal(undone.code, 0, undone.err);
  assert.deepEqual(await Deno.readFile(v.meta), damaged, "the repair can be undone");
  assert.equal((await v.scoutfs("fsck", "-y", v.meta, v.data)).code, 1);
  const clean = await v.scoutfs("fsck", "-n", v.meta, v.data);
  assert.equal(clean.code, 0, clean.out);
  await v.mount();
  assert.equal(await state(v), before);
  await v.sh("rm -r one && echo more > three/more && sync three/more");
  await v.umountAndWait();
  const after = await v.scoutfs("fsck", "-n", v.meta, v.data);
  assert.equal(after.code, 0, after.out);
  return found.out + mended.out;
}

mountTest("a volume whose log tree lost its root is mended and mounted", {}, async (v) => {
  const said = await mendAndMount(v, (path) => {
    const dev = openDevice(path, { write: true }), s = new Surgeon(dev);
    const { root } = s.itemTrees().find((t) => t.name === "log" && t.root.height > 1)!;
    s.editBlock(root.ref.blkno, ({ buf }) => buf.fill(0), false);
    dev.close();
  });
  assert.match(said, /leaves that nothing led to were found/);
});

mountTest("a volume without metadata super block is mended and mounted", {}, async (v) => {
  const said = await mendAndMount(v, (path) => {
    const dev = openDevice(path, { write: true });
    const block = dev.allocBuffer(SM_SIZE);
    block.fill(0);
    dev.write(block, SUPER_BLKNO * SM_SIZE);
    dev.close();
  });
  assert.match(said, /logs_root was found at block/);
});
