/** The server of a quorum member, while this node leads, in its own isolate. */

import { errnoOf, FsError } from "../../fs/errors.ts";
import { SystemRandom } from "../../fs/sys/clock.ts";
import { type BlockDevice, openDevice } from "../../fs/sys/device.ts";
import { post } from "../../fs/sys/mailbox.ts";
import { readSuperBlock } from "../../fs/volume.ts";
import { type FenceAgent, mountName } from "../../net/fence.ts";
import { FenceDirectory, FenceHook } from "../../net/fence_agents.ts";
import { slotsOf } from "../../net/quorum_blocks.ts";
import { Server } from "../../net/server.ts";
import { openServerStore } from "../../net/store.ts";
import { writeQuorumFile } from "./control_tree.ts";
import type { ToQuorum, ToServer } from "./messages.ts";
import { failure, runWorker } from "./worker.ts";

runWorker<ToServer>((context) => {
  const { init, reactor, gate, log, tell, knownDead } = context;
  const device = openDevice(init.metaPath, { write: true, gate });
  const data: BlockDevice = openDevice(init.dataPath, { write: false });
  const random = new SystemRandom();
  const name = mountName(init.fsid, init.rid);
  const { fenceRun, fenceRunArgs } = init.options;
  const fenceAgents: FenceAgent[] = [
    new FenceDirectory(reactor, init.runtimeDir, init.fsid, init.rid),
  ];
  if (fenceRun !== "") {
    fenceAgents.push(new FenceHook(fenceRun, fenceRunArgs, log, (p) => reactor.outside(p)));
  }
  const server = new Server({
    reactor,
    device,
    fsid: init.fsid,
    slots: slotsOf(readSuperBlock(device).qconf),
    slot: init.options.quorumSlotNr,
    rid: init.rid,
    gate,
    keepaliveMs: init.options.tcpKeepaliveTimeoutMs,
    openStore: (superBuf, hooks) =>
      openServerStore(device, superBuf, {
        random,
        ...hooks,
        log,
        // Whoever leads next finds the same: no commit would ever be answered.
        onDamage: (e) => tell(failure(new FsError(e.errno, `${e.message}; run fsck`))),
        schedule: (turn) => reactor.defer(turn),
        dataDeviceSize: () => data.size,
      }),
    fenceAgents,
    knownDead,
    log,
  });
  server.onStartFailed = (e) => {
    tell({ is: "serverFailed", errno: errnoOf(e), message: e instanceof Error ? e.message : "" });
  };
  server.onState = () => {
    // The file first: once quorum knows that the server is down the mount may end, and its files go.
    writeQuorumFile(init.runtimeDir, name, "is_leader", server.state === "up" ? "1" : "0");
    const message: ToQuorum = { do: "serverState", state: server.state };
    post(init.quorumBox, message);
  };
  return (message) => {
    if (message.do === "start") {
      server.start(message.term, message.inherited.map((rid) => BigInt(`0x${rid}`)));
    } else {
      server.stop();
    }
  };
});
