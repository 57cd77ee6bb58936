/**
 * The quorum service of a member in its own isolate, so that votes and heartbeats wait for nothing
 * but its own socket and block.
 */

import { openDevice } from "../../fs/sys/device.ts";
import { SystemRandom } from "../../fs/sys/clock.ts";
import { post } from "../../fs/sys/mailbox.ts";
import { readSuperBlock } from "../../fs/volume.ts";
import { mountName } from "../../net/fence.ts";
import type { ServerState } from "../../net/quorum.ts";
import { slotsOf } from "../../net/quorum_blocks.ts";
import { QuorumService, type ServerControl } from "../../net/quorum_service.ts";
import { writeQuorumFile } from "./control_tree.ts";
import type { ToQuorum, ToServer } from "./messages.ts";
import { failure, runWorker } from "./worker.ts";

/** How often the control file `quorum/status` is written. */
const STATUS_MS = 1000;

/** The server in the other worker. Its states arrive in order, after our "starting". */
class RemoteServer implements ServerControl {
  state: ServerState = "down";
  onState: () => void = () => {};

  constructor(private readonly box: number) {}

  start(term: number, inherited: readonly bigint[]): void {
    this.state = "starting";
    this.send({ do: "start", term, inherited: inherited.map((rid) => rid.toString(16)) });
  }

  stop(): void {
    this.send({ do: "stop" });
  }

  changed(state: ServerState): void {
    this.state = state;
    this.onState();
  }

  private send(message: ToServer): void {
    post(this.box, message);
  }
}

runWorker<ToQuorum>((context) => {
  const { init, reactor, gate, log, tell, knownDead } = context;
  const device = openDevice(init.metaPath, { write: true, gate });
  const server = new RemoteServer(init.serverBox);
  const slots = slotsOf(readSuperBlock(device).qconf);
  const keepaliveMs = init.options.tcpKeepaliveTimeoutMs;
  const service = new QuorumService({
    reactor,
    random: new SystemRandom(),
    device,
    fsid: init.fsid,
    slots,
    slot: init.options.quorumSlotNr,
    rid: init.rid,
    gate,
    heartbeatTimeoutMs: () => init.options.quorumHeartbeatTimeoutMs,
    server,
    knownDead,
    log,
    onFailure: (e) => tell(failure(e)),
  });
  // A server of ours must be able to listen, whenever it is elected: better to know it now.
  const own = slots[init.options.quorumSlotNr];
  if (own !== undefined && own !== null) reactor.listenTcp(own, { keepaliveMs }, () => {}).close();
  service.start();
  const name = mountName(init.fsid, init.rid);
  const showStatus = () => {
    writeQuorumFile(init.runtimeDir, name, "status", service.statusText());
    statusTimer = reactor.setTimer(STATUS_MS, showStatus);
  };
  let statusTimer = reactor.setTimer(0, showStatus);
  tell({ is: "ready" });
  return (message) => {
    switch (message.do) {
      case "serverState":
        server.changed(message.state);
        break;
      case "stop":
        reactor.clearTimer(statusTimer);
        service.stop().then(
          () => tell({ is: "left", accounted: service.accounted }),
          (e) => tell(failure(e)),
        );
        break;
    }
  };
});
