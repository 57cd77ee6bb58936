/**
 * A lone node over real sockets on loopback: quorum service, server and client connection on the
 * system's event loop, the volume in memory.
 */

import assert from "node:assert/strict";
import { CMD_GET_LOG_TREES, CMD_GET_ROOTS } from "../../format/wire.ts";
import { QUORUM_EVENT_ELECT, QUORUM_EVENT_END, QUORUM_EVENT_STOP } from "../../format/constants.ts";
import { Gate } from "../../fs/gate.ts";
import { MemDevice } from "../../fs/memory_device.ts";
import { makeFilesystem } from "../../fs/mkfs.ts";
import { SystemRandom } from "../../fs/sys/clock.ts";
import { SystemReactor } from "../../fs/sys/reactor.ts";
import { ClientConnection } from "../../net/client.ts";
import { slotsOf, SmallBlocks } from "../../net/quorum_blocks.ts";
import { QuorumService } from "../../net/quorum_service.ts";
import { Server } from "../../net/server.ts";
import { openServerStore } from "../../net/store.ts";
import { freePort } from "../helpers/ports.ts";

const FSID = 0x1122334455667788n;
const LOOPBACK = 0x7f000001;

/** Runs `body` with the client of a lone node; afterwards nothing must be left of the mount. */
async function loneNode(
  body: (client: ClientConnection, logged: (line: RegExp) => Promise<void>) => Promise<void>,
): Promise<void> {
  const metaBytes = 256 << 20;
  const dataBytes = 1 << 30;
  const meta = new MemDevice(metaBytes);
  makeFilesystem(meta, new MemDevice(dataBytes), {
    fsid: FSID,
    uuid: new Uint8Array(16).fill(7),
    time: { sec: 1_600_000_000, nsec: 0 },
    fmtVers: 2,
    metaBytes,
    dataBytes,
    slots: [{ nr: 0, addr: LOOPBACK, port: freePort() }],
  });
  const blocks = new SmallBlocks(meta, FSID);
  const slots = slotsOf(blocks.readSuper().qconf);
  const reactor = new SystemReactor();
  const random = new SystemRandom();
  const gate = new Gate();
  const rid = 0xfeedfacecafef00dn;
  const common = { reactor, random, device: meta, fsid: FSID, slots, slot: 0, rid, gate };
  const knownDead = (): boolean => false;
  const awaited: { line: RegExp; come: () => void }[] = [];
  const logged = (line: RegExp) => new Promise<void>((come) => awaited.push({ line, come }));
  const log = (text: string): void => {
    for (const { line, come } of awaited) if (line.test(text)) come();
  };
  const server = new Server({
    ...common,
    keepaliveMs: 24_000,
    openStore: (superBuf, hooks) => openServerStore(meta, superBuf, { random, ...hooks }),
    fenceAgents: [],
    knownDead,
    log,
  });
  const quorum = new QuorumService({
    ...common,
    heartbeatTimeoutMs: () => 10_000,
    server,
    knownDead,
    log,
    onFailure: (e) => {
      throw e;
    },
  });
  const client = new ClientConnection({
    reactor,
    device: meta,
    random,
    fsid: FSID,
    fmtVers: 2,
    rid,
    slot: 0,
    keepaliveMs: 24_000,
    gate,
    log,
  });
  await reactor.runUntil((async () => {
    quorum.start();
    await body(client, logged);
    await quorum.stop();
  })());
  reactor.dispose();
  assert.ok(blocks.readSuper().mountedClients.ref.isNull);
  const { events } = blocks.readSlot(0);
  assert.equal(events[QUORUM_EVENT_STOP].term, events[QUORUM_EVENT_ELECT].term);
  assert.ok(events[QUORUM_EVENT_END].writeNr > events[QUORUM_EVENT_STOP].writeNr);
}

Deno.test("a lone node on loopback: elect, greet, commit, leave", () =>
  loneNode(async (client) => {
    client.start();
    const logTrees = await client.request(CMD_GET_LOG_TREES, new Uint8Array(0));
    assert.equal(logTrees.length, 472);
    for (let i = 0; i < 100; i++) await client.request(CMD_GET_ROOTS, new Uint8Array(0));
    await client.farewell();
  }));

Deno.test("a mount that is given up while it greets says farewell all the same", () =>
  loneNode(async (client, logged) => {
    const known = logged(/^client \S+ connected from/);
    client.start();
    await known;
    assert.equal(client.state, "greeting");
    await client.farewell();
    assert.equal(client.state, "closed");
  }));
