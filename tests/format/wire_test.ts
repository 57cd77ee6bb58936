/** Datagrams, quorum blocks and frames against the byte vectors of 04 §30; errno translation. */

import assert from "node:assert/strict";
import { toHex } from "../../format/bytes.ts";
import { MAGIC_QUORUM } from "../../format/constants.ts";
import {
  EEXIST,
  EINVAL,
  EIO,
  ENOENT,
  ENOLINK,
  ENOMEM,
  ENOSPC,
  errnoName,
  errnoNumber,
  ESTALE,
  strerror,
} from "../../format/errno.ts";
import { inodeLockRange } from "../../format/items.ts";
import { Key } from "../../format/key.ts";
import { MountedClientBtreeVal, mountedClientKey } from "../../format/mounted_client.ts";
import {
  QUORUM_MSG_HEARTBEAT,
  QUORUM_MSG_REQUEST_VOTE,
  QUORUM_MSG_RESIGNATION,
  QUORUM_MSG_VOTE,
  quorumBlkno,
  QuorumBlock,
  QuorumMessage,
} from "../../format/quorum.ts";
import {
  CMD_FAREWELL,
  CMD_GREETING,
  CMD_LOCK,
  CMD_LOCK_RECOVER,
  CMD_NAMES,
  CMD_NR,
  CMD_OPEN_INO_MAP,
  errnoToWire,
  Greeting,
  GREETING_FLAG_QUORUM,
  LOCK_NULL,
  LOCK_READ,
  LOCK_WRITE,
  LockRecover,
  NET_ERROR_NR,
  NET_FLAG_RESPONSE,
  NetHeader,
  NetLock,
  OpenInoMap,
  OpenInoMapArgs,
  wireToErrno,
} from "../../format/wire.ts";
import { sealed, unhex } from "./helpers.ts";

const FSID = 0x0123456789abcdefn;
const RID = 0xfeedfacecafef00dn;

/** A dump in the specification's form, without its offsets. */
const dump = (s: string) => toHex(unhex(s.replace(/^\s*[0-9a-f]{4}:/gm, "")));

Deno.test("quorum datagrams (04 §30.2)", () => {
  for (
    const [type, from, term, second] of [
      [QUORUM_MSG_HEARTBEAT, 1, 5, "05 00 00 00 00 00 00 00 02 01 00 00 92 b1 72 d9"],
      [QUORUM_MSG_REQUEST_VOTE, 2, 6, "06 00 00 00 00 00 00 00 00 02 00 00 30 2e a9 df"],
      [QUORUM_MSG_VOTE, 0, 6, "06 00 00 00 00 00 00 00 01 00 00 00 85 d6 83 4d"],
      [QUORUM_MSG_RESIGNATION, 1, 5, "05 00 00 00 00 00 00 00 03 01 00 00 2a 1b 37 04"],
    ] as const
  ) {
    const m = QuorumMessage.alloc();
    m.fsid = FSID;
    m.term = term;
    m.type = type;
    m.from = from;
    m.seal();
    assert.equal(toHex(m.bytes), dump("ef cd ab 89 67 45 23 01 00 00 00 00 00 00 00 00" + second));
    assert.ok(m.crcOk());
    m.term = term + 1;
    assert.ok(!m.crcOk());
  }
});

Deno.test("quorum block of slot 1 (04 §30.3)", () => {
  const bytes = new Uint8Array(4096);
  const block = QuorumBlock.at(bytes);
  block.hdr.magic = MAGIC_QUORUM;
  block.hdr.fsid = FSID;
  block.hdr.seq = 1n;
  block.hdr.blkno = quorumBlkno(1);
  block.writeNr = 4;
  for (
    const [i, term, sec, nsec] of [[0, 4, 1000, 5], [1, 5, 1001, 6], [2, 5, 1001, 7], [
      3,
      5,
      1002,
      8,
    ]] as const
  ) {
    const event = block.events(i);
    event.writeNr = i + 1;
    event.rid = RID;
    event.term = term;
    event.ts.set(sec, nsec);
  }
  assert.equal(sealed(bytes), 0x21a3c88e);
  assert.equal(
    toHex(bytes.subarray(0, 0xd0)),
    dump(`
      0000: 8e c8 a3 21 68 08 31 bc ef cd ab 89 67 45 23 01
      0010: 01 00 00 00 00 00 00 00 12 00 00 00 00 00 00 00
      0020: 04 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00
      0030: 0d f0 fe ca ce fa ed fe 04 00 00 00 00 00 00 00
      0040: e8 03 00 00 00 00 00 00 05 00 00 00 00 00 00 00
      0050: 02 00 00 00 00 00 00 00 0d f0 fe ca ce fa ed fe
      0060: 05 00 00 00 00 00 00 00 e9 03 00 00 00 00 00 00
      0070: 06 00 00 00 00 00 00 00 03 00 00 00 00 00 00 00
      0080: 0d f0 fe ca ce fa ed fe 05 00 00 00 00 00 00 00
      0090: e9 03 00 00 00 00 00 00 07 00 00 00 00 00 00 00
      00a0: 04 00 00 00 00 00 00 00 0d f0 fe ca ce fa ed fe
      00b0: 05 00 00 00 00 00 00 00 ea 03 00 00 00 00 00 00
      00c0: 08 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00`),
  );
  assert.ok(block.mayRun && block.mayLead);
  assert.ok(block.events(3).isSet && !block.events(4).isSet);
  block.events(4).term = 5;
  block.events(5).writeNr = 5;
  assert.ok(!block.mayRun && !block.mayLead);
  assert.throws(() => quorumBlkno(15));
});

Deno.test("mounted client item (04 §30.4)", () => {
  const rid = "0d f0 fe ca ce fa ed fe";
  assert.equal(
    toHex(mountedClientKey(RID).toBytes()),
    dump(rid + "00".repeat(16) + "001c00" + "00".repeat(5)),
  );
  const val = MountedClientBtreeVal.alloc();
  val.addr.setIpv4(0xc0000214, 40000);
  val.flags = 1;
  assert.ok(val.isQuorum);
  assert.equal(
    toHex(val.bytes),
    dump("01 00 40 9c 14 02 00 c0" + "00".repeat(24) + "01" + "00".repeat(7)),
  );
});

interface Frame {
  seq: number;
  recvSeq: number;
  id: number;
  cmd: number;
  flags?: number;
  error?: number;
  payload?: Uint8Array;
}

function frame(f: Frame): string {
  const h = NetHeader.alloc();
  h.seq = f.seq;
  h.recvSeq = f.recvSeq;
  h.id = f.id;
  h.cmd = f.cmd;
  h.flags = f.flags ?? 0;
  h.error = f.error ?? 0;
  h.dataLen = f.payload?.length ?? 0;
  return toHex(h.bytes) + toHex(f.payload ?? new Uint8Array());
}

function greeting(serverTerm: number, flags: number): Uint8Array {
  const g = Greeting.alloc();
  g.fsid = FSID;
  g.fmtVers = 2;
  g.serverTerm = serverTerm;
  g.rid = RID;
  g.flags = flags;
  return g.bytes;
}

function lock(ino: number, oldMode: number, newMode: number, writeSeq = 0): Uint8Array {
  const l = NetLock.alloc();
  l.key = inodeLockRange(ino).start;
  l.oldMode = oldMode;
  l.newMode = newMode;
  l.writeSeq = writeSeq;
  return l.bytes;
}

Deno.test("greeting frames (04 §30.5)", () => {
  const zero = "00 00 00 00 00 00 00 00";
  const id = `01 00 00 00 00 00 00 00 ${zero} 01 00 00 00 00 00 00 00`;
  const rest = "ef cd ab 89 67 45 23 01 02 00 00 00 00 00 00 00";
  const rid = "0d f0 fe ca ce fa ed fe";
  const first = { seq: 1, recvSeq: 0, id: 1, cmd: CMD_GREETING };
  assert.equal(
    frame({ ...first, payload: greeting(0, GREETING_FLAG_QUORUM) }),
    dump(`${id} 28 00 00 00 00 00 00 00 ${rest} ${zero} ${rid} 02 00 00 00 00 00 00 00`),
  );
  assert.equal(
    frame({ ...first, flags: NET_FLAG_RESPONSE, payload: greeting(5, 0) }),
    dump(`${id} 28 00 00 01 00 00 00 00 ${rest} 05 00 00 00 00 00 00 00 ${rid} ${zero}`),
  );
  assert.equal(
    frame({ ...first, flags: NET_FLAG_RESPONSE, error: errnoToWire(EINVAL) }),
    dump(`${id} 00 00 00 01 05 00 00 00`),
  );
});

Deno.test("lock and open map frames (04 §30.6)", () => {
  assert.equal(
    frame({ seq: 2, recvSeq: 0, id: 2, cmd: CMD_LOCK, payload: lock(1, LOCK_NULL, LOCK_READ) }),
    dump(`
      0000: 02 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
      0010: 02 00 00 00 00 00 00 00 30 00 07 00 00 00 00 00
      0020: 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
      0030: 00 00 00 00 00 00 00 00 00 10 00 00 00 00 00 00
      0040: 00 00 00 00 00 00 00 00 00 01 00 00 00 00 00 00`),
  );
  assert.equal(
    frame({
      seq: 3,
      recvSeq: 3,
      id: 3,
      cmd: CMD_LOCK,
      flags: NET_FLAG_RESPONSE,
      payload: lock(5555, LOCK_NULL, LOCK_WRITE, 0x1234),
    }),
    dump(`
      0000: 03 00 00 00 00 00 00 00 03 00 00 00 00 00 00 00
      0010: 03 00 00 00 00 00 00 00 30 00 07 01 00 00 00 00
      0020: 00 14 00 00 00 00 00 00 00 00 00 00 00 00 00 00
      0030: 00 00 00 00 00 00 00 00 00 10 00 00 00 00 00 00
      0040: 34 12 00 00 00 00 00 00 00 02 00 00 00 00 00 00`),
  );
  assert.equal(
    frame({ seq: 4, recvSeq: 3, id: 1, cmd: CMD_LOCK, payload: lock(5555, LOCK_WRITE, LOCK_READ) }),
    dump(`
      0000: 04 00 00 00 00 00 00 00 03 00 00 00 00 00 00 00
      0010: 01 00 00 00 00 00 00 00 30 00 07 00 00 00 00 00
      0020: 00 14 00 00 00 00 00 00 00 00 00 00 00 00 00 00
      0030: 00 00 00 00 00 00 00 00 00 10 00 00 00 00 00 00
      0040: 00 00 00 00 00 00 00 00 02 01 00 00 00 00 00 00`),
  );
  const args = OpenInoMapArgs.alloc();
  args.groupNr = 5;
  assert.equal(
    frame({ seq: 5, recvSeq: 4, id: 4, cmd: CMD_OPEN_INO_MAP, payload: args.bytes }),
    dump(`
      0000: 05 00 00 00 00 00 00 00 04 00 00 00 00 00 00 00
      0010: 04 00 00 00 00 00 00 00 10 00 0d 00 00 00 00 00
      0020: 05 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00`),
  );
});

Deno.test("fail-over, recovery and farewell frames (04 §30.7)", () => {
  const held = new Uint8Array(LockRecover.SIZE + 2 * NetLock.SIZE);
  const recover = LockRecover.at(held);
  recover.nr = 2;
  recover.lock(0).bytes.set(lock(0, LOCK_READ, LOCK_READ));
  recover.lock(1).bytes.set(lock(0x1400, LOCK_WRITE, LOCK_WRITE, 0x1234));
  assert.equal(
    frame({
      seq: 58,
      recvSeq: 2,
      id: 1,
      cmd: CMD_LOCK_RECOVER,
      flags: NET_FLAG_RESPONSE,
      payload: held,
    }),
    dump(`
      0000: 3a 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00
      0010: 01 00 00 00 00 00 00 00 68 00 08 01 00 00 00 00
      0020: 02 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
      0030: 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
      0040: 00 10 00 00 00 00 00 00 00 00 00 00 00 00 00 00
      0050: 01 01 00 00 00 00 00 00 00 14 00 00 00 00 00 00
      0060: 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
      0070: 00 10 00 00 00 00 00 00 34 12 00 00 00 00 00 00
      0080: 02 02 00 00 00 00 00 00`),
  );
  assert.equal(
    frame({
      seq: 3,
      recvSeq: 58,
      id: 2,
      cmd: CMD_LOCK_RECOVER,
      payload: Key.of(16, 0x1400, 0).inc().toBytes(),
    }),
    dump(`
      0000: 03 00 00 00 00 00 00 00 3a 00 00 00 00 00 00 00
      0010: 02 00 00 00 00 00 00 00 20 00 08 00 00 00 00 00
      0020: 00 14 00 00 00 00 00 00 00 00 00 00 00 00 00 00
      0030: 00 00 00 00 00 00 00 00 01 10 00 00 00 00 00 00`),
  );
  assert.equal(
    frame({ seq: 4, recvSeq: 60, id: 42, cmd: CMD_FAREWELL, flags: NET_FLAG_RESPONSE }),
    dump(`
      0000: 04 00 00 00 00 00 00 00 3c 00 00 00 00 00 00 00
      0010: 2a 00 00 00 00 00 00 00 00 00 13 01 00 00 00 00`),
  );
});

Deno.test("open inode maps", () => {
  const map = OpenInoMap.alloc();
  map.setBit(0);
  map.setBit(1023);
  assert.ok(map.test(0) && map.test(1023) && !map.test(1));
  assert.deepEqual([map.v.getUint8(16), map.v.getUint8(143)], [1, 0x80]);
});

Deno.test("errno translation (04 §10)", () => {
  const table = [0, ENOENT, ENOMEM, EIO, ENOSPC, EINVAL, ENOLINK];
  assert.equal(table.length, NET_ERROR_NR);
  for (const [code, errno] of table.entries()) {
    assert.equal(errnoToWire(errno), code);
    assert.equal(wireToErrno(code), errno);
  }
  assert.equal(errnoToWire(EEXIST), 5);
  assert.equal(errnoToWire(ESTALE), 5);
  assert.throws(() => wireToErrno(7));
});

Deno.test("errno names and messages agree with the numbers", () => {
  assert.deepEqual([ENOENT, ENOMEM, EIO, ENOSPC, EINVAL, ENOLINK], [2, 12, 5, 28, 22, 67]);
  assert.equal(errnoName(ESTALE), "ESTALE");
  assert.equal(errnoNumber("ENOLINK"), 67);
  assert.equal(errnoName(9999), "E9999");
  assert.equal(strerror(EINVAL), "Invalid argument");
});

Deno.test("every command has a name", () => {
  assert.equal(CMD_NAMES.length, CMD_NR);
  assert.equal(CMD_NAMES[CMD_FAREWELL], "FAREWELL");
});
