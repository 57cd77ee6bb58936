/**
 * Every frame and datagram of a captured conversation between two nodes of the reference
 * implementation: our decoder sees what the transcript says, our encoder makes the same bytes.
 */

import assert from "node:assert/strict";
import { toHex } from "../../format/bytes.ts";
import { CMD_GREETING, CMD_LOCK, CMD_NAMES, Greeting, NetLock } from "../../format/wire.ts";
import { QuorumMessage } from "../../format/quorum.ts";
import { encodeFrame, FrameReader, type Side, stampRecvSeq } from "../../net/frame.ts";
import { MESSAGE_NAMES } from "../../net/quorum.ts";
import { goldenFile, goldenTest } from "../helpers/golden.ts";

interface Packet {
  src: string;
  udp: Uint8Array | null;
  tcp: { seq: number; data: Uint8Array; syn: boolean; flow: string } | null;
}

/** IPv4 packets of an Ethernet capture, without the echoes of the virtual network. */
function packets(file: Uint8Array): Packet[] {
  const v = new DataView(file.buffer, file.byteOffset, file.length);
  assert.equal(v.getUint32(0, true), 0xa1b2c3d4);
  const found: Packet[] = [];
  const seen = new Set<string>();
  for (let o = 24; o < file.length;) {
    const len = v.getUint32(o + 8, true);
    const ip = o + 16 + 14;
    o += 16 + len;
    const headerBytes = (file[ip] & 15) * 4;
    const total = v.getUint16(ip + 2);
    const src = file.subarray(ip + 12, ip + 16).join(".");
    const bytes = file.subarray(ip, ip + total);
    if (seen.has(toHex(bytes))) continue;
    seen.add(toHex(bytes));
    const l4 = ip + headerBytes;
    const end = ip + total;
    if (file[ip + 9] === 17) {
      found.push({ src, udp: file.slice(l4 + 8, end), tcp: null });
    } else if (file[ip + 9] === 6) {
      const data = file.slice(l4 + (file[l4 + 12] >> 4) * 4, end);
      const flow = `${src}:${v.getUint16(l4)}`;
      const syn = (file[l4 + 13] & 2) !== 0;
      found.push({ src, udp: null, tcp: { seq: v.getUint32(l4 + 4), data, syn, flow } });
    }
  }
  return found;
}

interface Line {
  from: string;
  name: string;
  fields: Map<string, string>;
  text: string;
}

/** The transcript's messages; TCP control lines are left out. */
function transcript(text: string, protocol: "UDP" | "TCP"): Line[] {
  const lines: Line[] = [];
  for (const line of text.split("\n")) {
    const m = /^\s*[\d.]+ node(\d)→node\d (UDP|TCP) (\S+) (.*)$/.exec(line);
    if (m === null || m[2] !== protocol || m[3] === "--") continue;
    const fields = new Map<string, string>();
    for (const word of m[4].split(" ")) {
      const at = word.indexOf("=");
      if (at > 0) fields.set(word.slice(0, at), word.slice(at + 1));
      else fields.set(word, "");
    }
    lines.push({ from: `10.9.0.1${m[1]}`, name: m[3], fields, text: line });
  }
  return lines;
}

const errnoOfName: Record<string, number> = { "0": 0, ENOENT: 2 };

goldenTest("captured datagrams decode to the transcript and are encoded the same", () => {
  const pcap = goldenFile("cluster.pcap");
  const text = new TextDecoder().decode(goldenFile("cluster.transcript.txt"));
  const datagrams = packets(pcap).filter((p) => p.udp !== null);
  const lines = transcript(text, "UDP");
  assert.equal(datagrams.length, lines.length);
  assert.ok(lines.length > 50);
  // The order of capture and transcript is the same.
  datagrams.forEach((p, i) => {
    const line = lines[i];
    const m = QuorumMessage.at(p.udp!);
    assert.equal(p.src, line.from);
    assert.ok(m.crcOk(), line.text);
    assert.equal(MESSAGE_NAMES[m.type], line.name);
    assert.equal(String(m.term), line.fields.get("term"));
    assert.equal(String(m.from), line.fields.get("from"));
    const ours = QuorumMessage.alloc();
    ours.fsid = m.fsid;
    ours.term = m.term;
    ours.type = m.type;
    ours.from = m.from;
    ours.seal();
    assert.deepEqual(ours.bytes, p.udp);
  });
});

goldenTest("captured frames decode to the transcript and are encoded the same", () => {
  const pcap = goldenFile("cluster.pcap");
  const text = new TextDecoder().decode(goldenFile("cluster.transcript.txt"));
  const lines = transcript(text, "TCP");
  const streams = new Map<string, { next: number; bytes: number[]; src: string }>();
  for (const { src, tcp } of packets(pcap)) {
    if (tcp === null) continue;
    const s = streams.get(tcp.flow);
    if (tcp.syn) streams.set(tcp.flow, { next: (tcp.seq + 1) >>> 0, bytes: [], src });
    else if (s !== undefined && tcp.seq === s.next && tcp.data.length > 0) {
      s.bytes.push(...tcp.data);
      s.next = (s.next + tcp.data.length) >>> 0;
    }
  }
  let frames = 0;
  for (const { bytes, src } of streams.values()) {
    const stream = Uint8Array.from(bytes);
    const side: Side = src === "10.9.0.10" ? "server" : "client"; // who reads what node 0 sends
    const expected = lines.filter((l) => l.from === src);
    for (const piece of [stream.length, 1, 7]) {
      let i = 0;
      let at = 0;
      const reader = new FrameReader(side, (h, payload) => {
        const line = expected[i++];
        assert.equal(CMD_NAMES[h.cmd], line.name, line.text);
        assert.equal(h.response, line.fields.has("response"), line.text);
        assert.equal(String(h.id), line.fields.get("id"), line.text);
        assert.equal(String(h.seq), line.fields.get("seq"), line.text);
        assert.equal(String(h.recvSeq), line.fields.get("recv_seq"), line.text);
        assert.equal(h.errno, errnoOfName[line.fields.get("error") ?? ""], line.text);
        assert.equal(String(payload.length), line.fields.get("len"), line.text);
        if (h.cmd === CMD_GREETING) checkGreeting(Greeting.at(payload), line);
        if (h.cmd === CMD_LOCK) checkLock(NetLock.at(payload), line);
        const ours = encodeFrame(h.seq, h.id, h.cmd, h.response, h.errno, payload);
        stampRecvSeq(ours, 0, h.recvSeq);
        assert.deepEqual(ours, stream.slice(at, at + ours.length), line.text);
        at += ours.length;
        frames++;
      });
      for (let o = 0; o < stream.length; o += piece) reader.feed(stream.subarray(o, o + piece));
      assert.equal(at, stream.length);
      if (stream.length > 0) assert.equal(i, expected.length);
    }
  }
  assert.equal(frames, 3 * lines.length);
  assert.ok(lines.length > 60);
});

function checkGreeting(g: Greeting, line: Line): void {
  assert.equal(g.fsid.toString(16).padStart(16, "0"), line.fields.get("fsid"));
  assert.equal(g.rid.toString(16).padStart(16, "0"), line.fields.get("rid"));
  assert.equal(String(g.fmtVers), line.fields.get("fmt_vers"));
  assert.equal(String(g.serverTerm), line.fields.get("server_term"));
  assert.equal(String(g.flags), line.fields.get("flags")?.split("(")[0]);
}

function checkLock(l: NetLock, line: Line): void {
  const modes = ["NULL", "READ", "WRITE", "WRITE_ONLY"];
  assert.equal(l.key.toString(), line.fields.get("key"), line.text);
  assert.equal(modes[l.oldMode], line.fields.get("old"), line.text);
  assert.equal(modes[l.newMode], line.fields.get("new"), line.text);
  assert.equal(String(l.writeSeq), line.fields.get("write_seq"), line.text);
}
