/**
 * Frames and connections: the conversations of 04 §30.5–30.7 byte by byte, bad headers one by one,
 * then random traffic over breaking sockets: every request handled once, every completion run once,
 * seqs rising on every socket (04 §28, 14–17).
 */

import assert from "node:assert/strict";
import fc from "fast-check";
import { toHex } from "../../format/bytes.ts";
import { Key } from "../../format/key.ts";
import {
  CMD_FAREWELL,
  CMD_GREETING,
  CMD_LOCK,
  CMD_LOCK_RECOVER,
  CMD_OPEN_INO_MAP,
  Greeting,
  LockRecover,
  NetLock,
  OpenInoMapArgs,
} from "../../format/wire.ts";
import { FsError } from "../../fs/errors.ts";
import { Gate } from "../../fs/gate.ts";
import { Connection } from "../../net/connection.ts";
import { encodeFrame, FrameReader, ProtocolError, type Side } from "../../net/frame.ts";
import { SeededRandom } from "../helpers/sim_reactor.ts";

const hex = (text: string): Uint8Array =>
  Uint8Array.from(text.trim().split(/\s+/).map((b) => parseInt(b, 16)));

const turn = (): Promise<void> => new Promise((resolve) => queueMicrotask(resolve));

function lockPayload(first: number, oldMode: number, newMode: number, writeSeq = 0): Uint8Array {
  const m = NetLock.alloc();
  m.key = Key.of(16, first, 0);
  m.oldMode = oldMode;
  m.newMode = newMode;
  m.writeSeq = writeSeq;
  return m.bytes;
}

/** One end with a recording socket. */
class End {
  readonly gate = new Gate();
  readonly sent: Uint8Array[] = [];
  readonly requests: { cmd: number; id: number; payload: Uint8Array }[] = [];
  readonly connection: Connection;
  readonly reader: FrameReader;
  constructor(side: Side) {
    this.connection = new Connection({
      gate: this.gate,
      firstSeq: side === "server" ? 2 : 1,
      ignoreMismatch: side === "server",
      onRequest: (cmd, id, payload) => this.requests.push({ cmd, id, payload: payload.slice() }),
    });
    this.reader = new FrameReader(side, (h, payload) => {
      if (h.cmd !== CMD_GREETING) this.connection.receive(h, payload);
    });
  }
  attach(): void {
    this.connection.attach({ send: (bytes) => this.sent.push(bytes.slice()) });
  }
  async takeHex(): Promise<string> {
    await turn();
    return this.sent.splice(0).map(toHex).join(" ");
  }
}

Deno.test("greetings as in 04 §30.5", () => {
  const g = Greeting.alloc();
  g.fsid = 0x0123456789abcdefn;
  g.fmtVers = 2;
  g.rid = 0xfeedfacecafef00dn;
  g.flags = 2;
  assert.equal(
    toHex(encodeFrame(1, 1, CMD_GREETING, false, 0, g.bytes)),
    "01000000000000000000000000000000010000000000000028000000000000" +
      "00efcdab89674523010200000000000000000000000000" +
      "00000df0fecacefaedfe0200000000000000",
  );
  assert.equal(
    toHex(encodeFrame(1, 1, CMD_GREETING, true, 22, null)),
    "0100000000000000000000000000000001000000000000000000000105000000",
  );
});

Deno.test("the lock conversation of 04 §30.6, both ends", async () => {
  const client = new End("client");
  const server = new End("server");
  client.connection.takeGreetingNumbers();
  client.attach();
  server.attach();
  const grants: number[] = [];
  const done = (errno: number, p: Uint8Array): void => {
    assert.equal(errno, 0);
    grants.push(NetLock.at(p).newMode);
  };
  const relay = async (from: End, to: End): Promise<string> => {
    await turn();
    const bytes = from.sent.splice(0);
    for (const b of bytes) to.reader.feed(b);
    return bytes.map(toHex).join("");
  };
  client.connection.request(CMD_LOCK, lockPayload(0, 0, 1), done);
  assert.equal(
    (await relay(client, server)).slice(0, 64),
    "0200000000000000000000000000000002000000000000003000070000000000",
  );
  server.connection.respond(CMD_LOCK, server.requests[0].id, 0, lockPayload(0, 0, 1));
  assert.equal(
    (await relay(server, client)).slice(0, 64),
    "0200000000000000020000000000000002000000000000003000070100000000",
  );
  client.connection.request(CMD_LOCK, lockPayload(0x1400, 0, 2), done);
  assert.equal(
    await relay(client, server),
    toHex(hex(`03 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00
      03 00 00 00 00 00 00 00 30 00 07 00 00 00 00 00
      00 14 00 00 00 00 00 00 00 00 00 00 00 00 00 00
      00 00 00 00 00 00 00 00 00 10 00 00 00 00 00 00
      00 00 00 00 00 00 00 00 00 02 00 00 00 00 00 00`)),
  );
  server.connection.respond(CMD_LOCK, server.requests[1].id, 0, lockPayload(0x1400, 0, 2, 0x1234));
  server.connection.request(CMD_LOCK, lockPayload(0x1400, 2, 1), done);
  assert.equal(
    await relay(server, client), // one send for both frames
    toHex(hex(`03 00 00 00 00 00 00 00 03 00 00 00 00 00 00 00
      03 00 00 00 00 00 00 00 30 00 07 01 00 00 00 00
      00 14 00 00 00 00 00 00 00 00 00 00 00 00 00 00
      00 00 00 00 00 00 00 00 00 10 00 00 00 00 00 00
      34 12 00 00 00 00 00 00 00 02 00 00 00 00 00 00
      04 00 00 00 00 00 00 00 03 00 00 00 00 00 00 00
      01 00 00 00 00 00 00 00 30 00 07 00 00 00 00 00
      00 14 00 00 00 00 00 00 00 00 00 00 00 00 00 00
      00 00 00 00 00 00 00 00 00 10 00 00 00 00 00 00
      00 00 00 00 00 00 00 00 02 01 00 00 00 00 00 00`)),
  );
  assert.deepEqual(grants, [1, 2]);
  const invalidation = client.requests[0];
  client.connection.respond(CMD_LOCK, invalidation.id, 0, invalidation.payload);
  const args = OpenInoMapArgs.alloc();
  args.groupNr = 5;
  client.connection.request(CMD_OPEN_INO_MAP, args.bytes, done);
  const text = await relay(client, server);
  assert.equal(
    text.slice(0, 64),
    "0400000000000000040000000000000001000000000000003000070100000000",
  );
  assert.equal(
    text.slice(160),
    "050000000000000004000000000000000400000000000000" + "10000d0000000000" +
      "05000000000000000000000000000000",
  );
  assert.deepEqual(grants, [1, 2, 1], "the server's invalidation was answered");
});

Deno.test("fail-over and farewell of 04 §30.7: old ids and seqs, a fresh recv_seq", async () => {
  const client = new End("client");
  const { connection } = client;
  for (let i = 1; i < 41; i++) connection.takeGreetingNumbers();
  for (let i = 41; i < 57; i++) { // responses to the old server
    connection.respond(CMD_LOCK, i, 0, lockPayload(0, 2, 1));
  }
  client.attach();
  connection.detach();
  client.sent.length = 0;
  assert.deepEqual(connection.takeGreetingNumbers(), { seq: 57, id: 41 });
  connection.peerRestarted();
  client.attach();
  assert.equal(await client.takeHex(), "", "the old server's answers are dropped");
  client.reader.feed(encodeFrame(2, 1, CMD_LOCK_RECOVER, false, 0, new Uint8Array(32)));
  assert.equal(client.requests.length, 1);
  const page = new Uint8Array(LockRecover.SIZE);
  connection.respond(CMD_LOCK_RECOVER, 1, 0, page);
  assert.equal(
    await client.takeHex(),
    "3a00000000000000" + "0200000000000000" + "0100000000000000" + "0800080100000000" +
      "0000000000000000",
  );
  let left = false;
  connection.request(CMD_FAREWELL, new Uint8Array(0), () => left = true);
  assert.equal(
    await client.takeHex(),
    "3b00000000000000" + "0200000000000000" + "2a00000000000000" + "0000130000000000",
  );
  client.reader.feed(encodeFrame(4, 42, CMD_FAREWELL, true, 0, null));
  assert.ok(left);
});

Deno.test("bad headers kill the connection before their payload arrives", () => {
  const good = (): Uint8Array => encodeFrame(5, 6, CMD_LOCK, false, 0, new Uint8Array(48));
  const cases: [string, (b: Uint8Array) => void, Side?][] = [
    ["seq 0", (b) => b[0] = 0],
    ["id 0", (b) => b[16] = 0],
    ["command 20", (b) => b[26] = 20],
    ["unknown flag", (b) => b[27] = 2],
    ["error 7", (b) => (b[27] = 1, b[28] = 7)],
    ["request with an error", (b) => b[28] = 1],
    ["payload of 1101", (b) => (b[24] = 0x4d, b[25] = 4)],
    ["seq of 2^60", (b) => b[7] = 0x10],
    ["greeting response at the server", (b) => (b[26] = CMD_GREETING, b[27] = 1)],
    ["greeting request at the client", (b) => b[26] = CMD_GREETING, "client"],
  ];
  for (const [what, spoil, side] of cases) {
    const bytes = good();
    spoil(bytes);
    const reader = new FrameReader(side ?? "server", () => assert.fail("delivered"));
    assert.throws(() => reader.feed(bytes.subarray(0, 32)), ProtocolError, what);
  }
  const twice = new FrameReader("server", () => {});
  const greeting = encodeFrame(1, 1, CMD_GREETING, false, 0, new Uint8Array(40));
  twice.feed(greeting);
  assert.throws(() => twice.feed(greeting), ProtocolError);
});

Deno.test("a LOCK response for another lock: the server ignores it, the client gives up (H8)", async () => {
  for (const side of ["server", "client"] as const) {
    const end = new End(side);
    end.attach();
    let completed = 0;
    end.connection.request(CMD_LOCK, lockPayload(0x1400, 2, 0), () => completed++);
    await turn();
    const wrong = encodeFrame(10, 1, CMD_LOCK, true, 0, lockPayload(0, 2, 0));
    if (side === "client") assert.throws(() => end.reader.feed(wrong), ProtocolError);
    else end.reader.feed(wrong);
    assert.equal(completed, 0);
    const right = encodeFrame(11, 1, CMD_LOCK, true, 0, lockPayload(0x1400, 2, 0));
    if (side === "server") {
      end.reader.feed(right);
      assert.equal(completed, 1);
    }
  }
});

Deno.test("abort fails what is pending and refuses what comes", () => {
  const end = new End("client");
  const errnos: number[] = [];
  end.connection.request(CMD_LOCK, lockPayload(0, 0, 1), (errno) => errnos.push(errno));
  end.connection.abort();
  assert.deepEqual(errnos, [67]);
  assert.throws(() => end.connection.request(CMD_LOCK, lockPayload(0, 0, 1), () => {}), FsError);
});

Deno.test("a closed gate sends nothing", async () => {
  const end = new End("client");
  end.attach();
  end.gate.close();
  end.connection.request(CMD_LOCK, lockPayload(0, 0, 1), () => {});
  assert.equal(await end.takeHex(), "");
});

Deno.test("random traffic over breaking sockets: everything once, in order", async () => {
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: 1, max: 1e9 }), traffic),
    { numRuns: 40, seed: 4711 },
  );
});

async function traffic(seed: number): Promise<void> {
  const random = new SeededRandom(seed);
  const ends = [new End("client"), new End("server")];
  /** Bytes on the way to end i. */
  let wires: number[][] = [[], []];
  let readers: FrameReader[] = [];
  let lastSeq: number[] = [];
  const handled = [new Set<number>(), new Set<number>()];
  const completed = [new Set<number>(), new Set<number>()];
  const asked = [0, 0];
  const todo: number[][] = [[], []];

  const connect = (): void => {
    wires = [[], []];
    lastSeq = [0, 0];
    readers = ends.map((end, i) =>
      new FrameReader(i === 0 ? "client" : "server", (h, payload) => {
        assert.ok(h.seq > lastSeq[i], "seqs rise on a socket (14)");
        lastSeq[i] = h.seq;
        end.connection.receive(h, payload);
      })
    );
    ends.forEach((end, i) =>
      end.connection.attach({ send: (bytes) => wires[1 - i].push(...bytes) })
    );
  };
  const serve = (i: number): void => {
    for (const r of ends[i].requests.splice(0)) {
      const value = new DataView(r.payload.buffer).getUint32(0, true);
      assert.ok(!handled[i].has(value), "a request is handled once (15)");
      handled[i].add(value);
      todo[i].push(r.id, value);
    }
  };
  const word = (value: number): Uint8Array => new Uint8Array(Uint32Array.of(value).buffer);
  const act = (i: number): void => {
    const what = random.below(4);
    if (what === 0 && asked[i] < 100) {
      const value = asked[i]++;
      ends[i].connection.request(CMD_OPEN_INO_MAP, word(value), (errno, payload) => {
        assert.equal(errno, 0);
        assert.equal(new DataView(payload.slice().buffer).getUint32(0, true), value);
        assert.ok(!completed[i].has(value), "a completion runs once (15)");
        completed[i].add(value);
      });
    } else if (what === 1 && todo[i].length > 0) {
      const at = random.below(todo[i].length / 2) * 2;
      const [id, value] = todo[i].splice(at, 2);
      ends[i].connection.respond(CMD_OPEN_INO_MAP, id, 0, word(value));
    } else if (what >= 2 && wires[i].length > 0 && ends[i].connection.attached) {
      readers[i].feed(Uint8Array.from(wires[i].splice(0, 1 + random.below(wires[i].length))));
      serve(i);
    }
  };
  connect();
  for (let step = 0; step < 1500; step++) {
    act(random.below(2));
    if (random.oneIn(3)) await turn();
    if (random.oneIn(40)) {
      for (const end of ends) end.connection.detach();
      if (random.oneIn(2)) { for (let k = 0; k < 5; k++) act(random.below(2)); }
      connect();
    }
  }
  for (let step = 0; step < 5000; step++) {
    await turn();
    act(step % 2);
  }
  for (const i of [0, 1]) {
    assert.equal(handled[1 - i].size, asked[i], `seed ${seed}: every request arrived`);
    assert.equal(completed[i].size, asked[i], `seed ${seed}: every request was answered`);
    assert.equal(ends[i].connection.pendingRequests, 0);
  }
}
