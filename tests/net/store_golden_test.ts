/** Volumes that the reference implementation left are taken over by our server, and stay sound. */

import { deepStrictEqual as same, ok, strictEqual as equal } from "node:assert/strict";
import { CMD_STATFS, NetStatfs } from "../../format/wire.ts";
import { openDevice } from "../../fs/sys/device.ts";
import { copyGolden, type GoldenName, goldenTest } from "../helpers/golden.ts";
import { ModelClient, openStore } from "../helpers/model_client.ts";
import { checkOwnership } from "../helpers/ownership.ts";
import { SeededRandom } from "../helpers/sim_reactor.ts";

const NOTHING = new Uint8Array(0);

for (const name of ["features-v2", "crash"] satisfies GoldenName[]) {
  goldenTest(`store: takes over the reference's volume ${name}`, async () => {
    const dev = openDevice(copyGolden(name).meta, { write: true });
    try {
      const left = checkOwnership(dev);
      same(left.problems, []);
      const store = openStore(dev, 5);
      await store.start();
      equal(store.mountedClients().length, name === "crash" ? 1 : 0);
      for (const { rid } of store.mountedClients()) await store.reclaim(rid);
      const reclaimed = checkOwnership(dev);
      same(reclaimed.problems, []);
      equal(reclaimed.inodes, left.inodes);
      ok(reclaimed.logTrees.every((lt) => lt.isFinalized));

      const c = new ModelClient(77n, dev, store, new SeededRandom(5), left.superBlock.hdr.fsid);
      await c.mount();
      ok(c.lt.getTransSeq > Math.max(...left.logTrees.map((lt) => lt.maxItemSeq)));
      await c.create();
      await c.commit();
      const after = checkOwnership(dev);
      same(after.problems, []);
      equal(after.inodes, left.inodes + 1);
      const statfs = NetStatfs.at(await store.request(CMD_STATFS, 77n, NOTHING));
      equal(statfs.freeMetaBlocks, after.freeMeta);
      equal(statfs.freeDataBlocks, after.freeData);
      equal(statfs.inodeCount, after.inodes);
      await store.reclaim(77n);
      const end = checkOwnership(dev);
      same(end.problems, []);
      same(end.leaked, left.leaked);
    } finally {
      dev.close();
    }
  });
}
