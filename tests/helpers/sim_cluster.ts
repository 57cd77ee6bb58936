/**
 * A cluster in one process: a volume in memory, nodes with the real quorum service, server, store
 * and client connection on a simulated network, a fencing oracle, and model mounts that use the
 * locks and commit. What must never happen is asserted as it would happen (04 §28).
 */

import assert from "node:assert/strict";
import { QUORUM_BLKNO, QUORUM_BLOCKS, SM_SIZE, SUPER_BLKNO } from "../../format/constants.ts";
import { SuperBlock } from "../../format/super.ts";
import type { Key } from "../../format/key.ts";
import type { Device } from "../../fs/device.ts";
import { Gate } from "../../fs/gate.ts";
import { MemDevice } from "../../fs/memory_device.ts";
import { makeFilesystem } from "../../fs/mkfs.ts";
import { ClientConnection } from "../../net/client.ts";
import { type FenceAgent, type FenceRequest, ridText } from "../../net/fence.ts";
import { type Slots, slotsOf, SmallBlocks } from "../../net/quorum_blocks.ts";
import { QuorumService } from "../../net/quorum_service.ts";
import { Server } from "../../net/server.ts";
import { openServerStore, type ServerStore } from "../../net/store.ts";
import { compatible, ModelMount } from "./model_mount.ts";
import { SeededRandom, type SimReactor, SimWorld } from "./sim_reactor.ts";

export const FSID = 0x0123456789abcdefn;
export const FMT_VERS = 2;
const PORT = 42000;

export const slotAddr = (slot: number): number => 0x0a000001 + slot;

/** How the fencing oracle answers. */
export type FenceMode = "kill" | "refuse" | "absent";

export interface ClusterOptions {
  slots: number;
  fence?: FenceMode;
  chunked?: boolean;
  udpLoss?: number;
  /** Prints what nodes log. */
  verbose?: boolean;
}

export class SimCluster {
  readonly world: SimWorld;
  readonly meta: MemDevice;
  readonly data: MemDevice;
  readonly slots: Slots;
  readonly nodes = new Map<bigint, SimNode>();
  fence: FenceMode;
  readonly verbose: boolean;
  readonly log: string[] = [];
  /** Rids that completed a farewell, that were fenced, and that were reclaimed. */
  readonly farewells = new Set<bigint>();
  readonly fenced = new Set<bigint>();
  readonly reclaimed = new Set<bigint>();
  /** Greatest term of a server that was up (invariant 7). */
  maxUpTerm = 0;
  #superSeq: bigint;

  constructor(seed: number, options: ClusterOptions) {
    this.world = new SimWorld(seed, {
      chunked: options.chunked ?? true,
      udpLoss: options.udpLoss ?? 0,
    });
    this.fence = options.fence ?? "kill";
    this.verbose = options.verbose ?? false;
    const metaBytes = 256 << 20;
    const dataBytes = 1 << 30;
    this.meta = new MemDevice(metaBytes, { name: "meta" });
    this.data = new MemDevice(dataBytes, { name: "data" });
    makeFilesystem(this.meta, this.data, {
      fsid: FSID,
      uuid: new Uint8Array(16).fill(7),
      time: { sec: 1_600_000_000, nsec: 0 },
      fmtVers: FMT_VERS,
      metaBytes,
      dataBytes,
      slots: Array.from(
        { length: options.slots },
        (_, nr) => ({ nr, addr: slotAddr(nr), port: PORT }),
      ),
    });
    const sb = new SmallBlocks(this.meta, FSID).readSuper();
    this.slots = slotsOf(sb.qconf);
    this.#superSeq = sb.hdr.seq;
  }

  /** A new mount: of a quorum slot, or a plain client on host `addr`. */
  node(slot: number | null, options: Partial<NodeOptions> = {}): SimNode {
    const addr = slot === null ? options.addr ?? 0x0a000101 : slotAddr(slot);
    const node = new SimNode(this, slot, addr, options);
    this.nodes.set(node.rid, node);
    return node;
  }

  get leader(): SimNode | null {
    let best: SimNode | null = null;
    for (const node of this.nodes.values()) {
      if (node.alive && node.server.state === "up" && node.term > (best?.term ?? 0)) best = node;
    }
    return best;
  }

  mountedRids(): bigint[] {
    return this.leader?.store?.mountedClients().map((m) => m.rid) ?? [];
  }

  /** Invariants of super writes: 7 and 10. */
  superWritten(node: SimNode, bytes: Uint8Array): void {
    const { hdr } = SuperBlock.at(bytes);
    assert.equal(hdr.seq, this.#superSeq + 1n, "super.hdr.seq grows by one per write (10)");
    this.#superSeq = hdr.seq;
    assert.ok(node.term >= this.maxUpTerm, `super written in term ${node.term} (7)`);
  }

  /** Invariant 19: what mounts may do under one lock is compatible, until they are reclaimed. */
  judge(key: Key): void {
    const holders: SimNode[] = [];
    for (const node of this.nodes.values()) {
      if (!node.left && !this.reclaimed.has(node.rid)) holders.push(node);
    }
    for (const a of holders) {
      for (const b of holders) {
        if (a.rid >= b.rid) continue;
        const modes = [a, b].map((n) => n.mount.lockOf(key)?.effective ?? 0);
        assert.ok(
          compatible(modes[0], modes[1]),
          `lock ${key}: ${ridText(a.rid)} has ${modes[0]}, ${ridText(b.rid)} has ${modes[1]} (19)`,
        );
      }
    }
  }

  /** Invariant 12: who is reclaimed said farewell or was fenced. */
  reclaiming(rid: bigint): void {
    assert.ok(
      this.farewells.has(rid) || this.fenced.has(rid),
      `reclaim of ${ridText(rid)} without farewell or fencing (12)`,
    );
    this.reclaimed.add(rid);
  }
}

export interface NodeOptions {
  addr: number;
  knownDead: (rid: bigint) => boolean;
  /** Does not start a client: only quorum and server. */
  noClient: boolean;
  /** Longest pause of the model mount between two locks. */
  pauseMs: number;
}

/** A device whose writes pass a node's gate and are watched. */
class NodeDevice implements Device {
  constructor(readonly inner: MemDevice, readonly node: SimNode) {}
  get name(): string {
    return this.inner.name;
  }
  get size(): number {
    return this.inner.size;
  }
  allocBuffer(bytes: number): Uint8Array {
    return this.inner.allocBuffer(bytes);
  }
  read(buf: Uint8Array, off: number): void {
    this.inner.read(buf, off);
  }
  write(buf: Uint8Array, off: number): void {
    this.node.gate.check();
    this.#check(buf, off);
    this.inner.write(buf, off);
  }
  writev(bufs: readonly Uint8Array[], off: number): void {
    this.node.gate.check();
    assert.ok(off >= 1 << 17, "vectored writes go to large blocks");
    this.inner.writev(bufs, off);
  }
  flush(): void {
    this.inner.flush();
  }
  close(): void {}

  #check(buf: Uint8Array, off: number): void {
    const blkno = off / SM_SIZE;
    if (blkno === SUPER_BLKNO) this.node.cluster.superWritten(this.node, buf);
    if (blkno >= QUORUM_BLKNO && blkno < QUORUM_BLKNO + QUORUM_BLOCKS) {
      assert.equal(blkno - QUORUM_BLKNO, this.node.slot, "a mount writes its own block (3)");
    }
  }
}

class FenceOracle implements FenceAgent {
  constructor(readonly node: SimNode) {}
  publish(request: FenceRequest, answer: (ok: boolean) => void): void {
    const { cluster, reactor } = this.node;
    const { rid } = request;
    if (cluster.fence === "absent") return;
    reactor.setTimer(10 + cluster.world.random.below(3_000), () => {
      if (cluster.fence === "refuse") return answer(false);
      cluster.nodes.get(rid)?.crash();
      cluster.fenced.add(rid);
      answer(true);
    });
  }
  withdraw(): void {}
}

export class SimNode {
  readonly rid: bigint;
  readonly reactor: SimReactor;
  readonly random: SeededRandom;
  readonly gate = new Gate();
  readonly device: Device;
  readonly server: Server;
  readonly quorum: QuorumService | null;
  readonly client: ClientConnection;
  readonly mount: ModelMount;
  /** The store of the running server. */
  store: ServerStore | null = null;
  term = 0;
  alive = true;
  /** Left cleanly. */
  left = false;
  quorumFailed = false;

  constructor(
    readonly cluster: SimCluster,
    readonly slot: number | null,
    readonly addr: number,
    options: Partial<NodeOptions>,
  ) {
    const { world, slots } = cluster;
    this.random = new SeededRandom(world.random.u32());
    this.rid = this.random.u64() | 1n;
    this.reactor = world.process(addr);
    this.device = new NodeDevice(cluster.meta, this);
    const log = (line: string): void => {
      const text = `${world.now.toFixed(1)} ${slot ?? "c"} ${
        ridText(this.rid).slice(0, 6)
      } ${line}`;
      cluster.log.push(text);
      if (cluster.verbose) console.log(text);
    };
    const knownDead = (rid: bigint): boolean => {
      const dead = options.knownDead?.(rid) ?? false;
      if (dead) {
        assert.ok(!cluster.nodes.get(rid)?.alive, "known dead, yet alive");
        cluster.fenced.add(rid);
      }
      return dead;
    };
    this.server = new Server({
      reactor: this.reactor,
      device: this.device,
      fsid: FSID,
      slots,
      slot: slot ?? 0,
      rid: this.rid,
      gate: this.gate,
      keepaliveMs: 24_000,
      openStore: (superBuf, hooks) => {
        this.store = this.#watch(openServerStore(this.device, superBuf, {
          random: this.random,
          cacheBytes: 8 << 20,
          ...hooks,
          log,
        }));
        return this.store;
      },
      fenceAgents: [new FenceOracle(this)],
      knownDead,
      log,
    });
    this.quorum = slot === null ? null : new QuorumService({
      reactor: this.reactor,
      random: this.random,
      device: this.device,
      fsid: FSID,
      slots,
      slot,
      rid: this.rid,
      gate: this.gate,
      heartbeatTimeoutMs: () => 10_000,
      server: this.#watchServer(),
      knownDead,
      log,
      onFailure: () => this.quorumFailed = true,
    });
    this.quorum?.start();
    this.client = new ClientConnection({
      reactor: this.reactor,
      device: this.device,
      random: this.random,
      fsid: FSID,
      fmtVers: FMT_VERS,
      rid: this.rid,
      slot: slot ?? -1,
      keepaliveMs: 24_000,
      gate: this.gate,
      log,
    });
    this.mount = new ModelMount(
      this.client,
      this.reactor,
      this.random,
      (key) => cluster.judge(key),
      options.pauseMs ?? 100,
    );
    if (options.noClient !== true) this.client.start();
  }

  #watchServer(): Server {
    const { server, cluster } = this;
    const { start } = server;
    server.start = (term: number, inherited: readonly bigint[]): void => {
      this.term = term;
      start.call(server, term, inherited);
    };
    return Object.defineProperty(server, "onState", {
      get: () => this.#onState,
      set: (fn: () => void) => {
        this.#onState = () => {
          if (server.state === "up") cluster.maxUpTerm = Math.max(cluster.maxUpTerm, this.term);
          if (server.state === "down") this.store = null;
          fn();
        };
      },
    });
  }
  #onState: () => void = () => {};

  #watch(store: ServerStore): ServerStore {
    const { cluster } = this;
    const { reclaim } = store;
    store.reclaim = (rid: bigint): Promise<void> => {
      cluster.reclaiming(rid);
      return reclaim.call(store, rid);
    };
    return store;
  }

  /** The process dies. */
  crash(): void {
    if (!this.alive) return;
    this.alive = false;
    this.gate.close();
    this.reactor.crash();
  }

  /** Leaves cleanly: farewell, then the quorum service and the server. */
  async unmount(): Promise<void> {
    this.mount.stop();
    this.cluster.farewells.add(this.rid);
    await this.client.farewell();
    await this.quorum?.stop();
    this.left = true;
    if (this.alive) {
      this.alive = false;
      this.gate.close();
    }
  }
}
