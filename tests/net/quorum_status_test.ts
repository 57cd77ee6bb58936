/** The text of quorum/status (05 §4.4). */
import assert from "node:assert/strict";
import { type QuorumState, QuorumTraffic } from "../../net/quorum_status.ts";

const state: QuorumState = {
  slot: 0,
  role: "leader",
  term: 5,
  serverTerm: 5,
  serverEvent: 2,
  voteFor: -1,
  voteBits: 1,
  deadline: 40_012.345678,
};

Deno.test("quorum/status shows role, votes and the last message of each slot", () => {
  const traffic = new QuorumTraffic();
  traffic.received(2, 4, 1, 28_000);
  traffic.sent(1, 5, 2, 39_955);
  traffic.sent(1, 5, 2, 39_975);
  assert.equal(
    traffic.text(state, 40_000),
    `quorum_slot_nr 0
term 5
server_start_term 5
server_event 2
role 2 (leader)
vote_for -1
vote_bits 0x1 (count 1)
timeout_in_secs 0.012345678
last_send to 1 term 5 type 2 secs_since 0.025000000
last_recv from 2 term 4 type 1 secs_since 12.000000000
`,
  );
  assert.match(
    traffic.text({ ...state, voteBits: 0b101, role: "candidate" }, 50_000),
    /^role 1 \(candidate\)\nvote_for -1\nvote_bits 0x5 \(count 2\)\ntimeout_in_secs 0\.000000000$/m,
  );
});

Deno.test("heartbeats that come late are counted by whole seconds", () => {
  const traffic = new QuorumTraffic();
  for (const at of [0, 900, 2_000, 3_100, 6_200]) traffic.heartbeat(at);
  traffic.leaderless();
  traffic.heartbeat(60_000);
  assert.match(
    traffic.text(state, 63_200),
    /\nHB Delay\(s\) {6}Count {2}Secs Since\n {10}1 {10}2 {2}60\.100000000\n {10}3 {10}1 {2}57\.000000000\n$/,
  );
});
