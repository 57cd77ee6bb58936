/**
 * The filesystem in its own isolate: client of the cluster, engine, FUSE session, in one loop.
 *
 * Life: connect, read the root, tell main "ready"; serve the descriptor that main mounted; when the
 * kernel ends the session, or before (DESTROY, on block devices), commit, say farewell, tell main
 * "stopped"; answer DESTROY when main has ended the rest.
 */

import { EINTR } from "../../format/errno.ts";
import { procCredentials, type ProcessTable } from "../../fs/caller.ts";
import { Fs } from "../../fs/fs.ts";
import { serve } from "../../fs/fuse/serve.ts";
import { SystemRandom } from "../../fs/sys/clock.ts";
import { processMemory } from "../../fs/sys/caller_memory.ts";
import { openDevice } from "../../fs/sys/device.ts";
import { RingReader } from "../../fs/sys/uring.ts";
import { openVolume } from "../../fs/volume.ts";
import { ClientConnection } from "../../net/client.ts";
import { metaPolicy } from "../../net/reserve.ts";
import type { ToFs } from "./messages.ts";
import { failure, runWorker } from "./worker.ts";

/** `read`'s result; null where the process that it asks about is gone. */
function unlessGone(read: () => string): string | null {
  try {
    return read();
  } catch {
    return null;
  }
}

const PROCESSES: ProcessTable = {
  status: (pid) => unlessGone(() => Deno.readTextFileSync(`/proc/${pid}/status`)),
  userNamespace: (pid) => unlessGone(() => Deno.readLinkSync(`/proc/${pid}/ns/user`)),
};

runWorker<ToFs>((context) => {
  const { init, reactor, gate, log, tell } = context;
  const meta = openDevice(init.metaPath, { write: true, gate });
  const data = openDevice(init.dataPath, { write: true, gate });
  const volume = openVolume(meta, data);
  const random = new SystemRandom();
  const link = new ClientConnection({
    reactor,
    device: meta,
    random,
    fsid: init.fsid,
    fmtVers: volume.fmtVers,
    rid: init.rid,
    slot: init.options.quorumSlotNr,
    keepaliveMs: init.options.tcpKeepaliveTimeoutMs,
    gate,
    log,
  });
  const readAhead = RingReader.open(data.fd);
  const fs = new Fs({
    meta,
    data,
    ...(readAhead === null ? {} : { readAhead }),
    superBlock: volume.superBlock,
    rid: init.rid,
    link,
    clock: reactor,
    random,
    options: init.options,
    log,
  });
  fs.credentials = procCredentials(PROCESSES);
  fs.callerMemory = processMemory();
  // What our server keeps back for one mount; further ones are not counted here.
  const { reserved } = metaPolicy(volume.superBlock.totalMetaBlocks, 1);
  fs.reservedMetaBlocks = () => reserved;
  fs.hooks.onDefect = (e) => tell(failure(e));

  let started = false;
  let leaving: Promise<void> | null = null;
  /** Commits, leaves the cluster; main then ends quorum and guards. */
  const leave = (): Promise<void> => leaving ??= doLeave();
  const doLeave = async (): Promise<void> => {
    try {
      if (started) {
        // Nobody is left to be answered.
        fs.waiters.close(EINTR);
        // The kernel knows no inode any more: what was unlinked while open can be deleted.
        fs.refs.forgetAll();
        await fs.stop();
      }
      await link.farewell();
      tell({ is: "stopped" });
    } catch (e) {
      tell(failure(e));
    }
  };
  let release: () => void = () => {};
  const released = new Promise<void>((resolve) => release = resolve);

  link.start();
  fs.start().then(
    () => {
      started = true;
      tell({ is: "ready" });
    },
    (e) => {
      if (leaving === null) tell(failure(e));
    },
  );

  return (message) => {
    switch (message.do) {
      case "serve":
        serve({
          fs,
          reactor,
          fd: message.fd,
          readOnly: init.readOnly,
          blockDevice: init.blockDevice,
          log,
          onDestroy: async () => {
            tell({ is: "unmounting", why: "unmounted" });
            await leave();
            await released;
          },
          onEnd: (why) => {
            if (leaving === null) tell({ is: "unmounting", why });
            tell({ is: "ended" });
            void leave();
          },
        });
        break;
      case "released":
        release();
        break;
      case "leave":
        void leave();
        break;
    }
  };
});
