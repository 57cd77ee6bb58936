/** The server of a quorum member, while this node leads, in its own isolate. */

import { SystemRandom } from "../../fs/sys/clock.ts";
import { type BlockDevice, openDevice } from "../../fs/sys/device.ts";
import { post } from "../../fs/sys/mailbox.ts";
import { readSuperBlock } from "../../fs/volume.ts";
import { FenceDirectory } from "../../net/fence_agents.ts";
import { mountName } from "../../net/fence.ts";
import { slotsOf } from "../../net/quorum_blocks.ts";
import { Server } from "../../net/server.ts";
import { openServerStore } from "../../net/store.ts";
import { writeIsLeader } from "./control_tree.ts";
import type { ToQuorum, ToServer } from "./messages.ts";
import { runWorker } from "./worker.ts";

runWorker<ToServer>((context) => {
  const { init, reactor, gate, log, knownDead } = context;
  const device = openDevice(init.metaPath, { write: true, gate });
  const data: BlockDevice = openDevice(init.dataPath, { write: false });
  const random = new SystemRandom();
  const name = mountName(init.fsid, init.rid);
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
        schedule: (turn) => reactor.defer(turn),
        dataDeviceSize: () => data.size,
      }),
    fenceAgents: [new FenceDirectory(reactor, init.runtimeDir, init.fsid, init.rid)],
    knownDead,
    log,
  });
  server.onState = () => {
    const message: ToQuorum = { do: "serverState", state: server.state };
    post(init.quorumBox, message);
    writeIsLeader(init.runtimeDir, name, server.state === "up");
  };
  return (message) => {
    if (message.do === "start") {
      server.start(message.term, message.inherited.map((rid) => BigInt(`0x${rid}`)));
    } else {
      server.stop();
    }
  };
});
