/**
 * A volume in memory with the real server state, lock server and open maps, and any number of
 * mounts in this process, joined by direct links instead of sockets: for tests of what runs on a
 * mount. Messages are delivered in order, each from its own turn, as over a connection.
 */

import { InetAddr } from "../../format/block.ts";
import { SuperBlock } from "../../format/super.ts";
import { SM_SIZE, SUPER_BLKNO } from "../../format/constants.ts";
import { CMD_LOCK, CMD_NAMES, CMD_OPEN_INO_MAP, CMD_SYNC_LOG_TREES } from "../../format/wire.ts";
import type { TimerId, Timers } from "../../fs/env.ts";
import { assert, errnoOf, FsError } from "../../fs/errors.ts";
import type { ServerLink } from "../../fs/link.ts";
import { MemDevice } from "../../fs/memory_device.ts";
import { makeFilesystem } from "../../fs/mkfs.ts";
import { type LockHolder, LockServer } from "../../net/lock_server.ts";
import { type OpenMapPeer, OpenMaps } from "../../net/omap.ts";
import { openServerStore, type ServerStore } from "../../net/store.ts";
import { SeededRandom } from "./sim_reactor.ts";

/** A clock that is read from outside and timers that fire when told; zero delays fire soon. */
export class ManualTimers implements Timers {
  #now = 0;
  #next = 1;
  readonly #pending = new Map<TimerId, { at: number; fire: () => void }>();
  /** Wall clock: grows by a microsecond per look, so that times differ. */
  #wall = 1_700_000_000_000_000;

  now(): number {
    return this.#now;
  }
  monotonic(): { sec: number; nsec: number } {
    return { sec: Math.floor(this.#now / 1000), nsec: (this.#now % 1000) * 1_000_000 };
  }
  realtime(): { sec: number; nsec: number } {
    const us = ++this.#wall;
    return { sec: Math.floor(us / 1_000_000), nsec: (us % 1_000_000) * 1000 };
  }
  setTimer(ms: number, fire: () => void): TimerId {
    const id = this.#next++;
    this.#pending.set(id, { at: this.#now + ms, fire });
    if (ms <= 0) queueMicrotask(() => this.#fire(id));
    return id;
  }
  clearTimer(id: TimerId): void {
    this.#pending.delete(id);
  }
  #fire(id: TimerId): void {
    const timer = this.#pending.get(id);
    this.#pending.delete(id);
    timer?.fire();
  }
  /** Lets `ms` pass, firing what becomes due in order. */
  async advance(ms: number): Promise<void> {
    const until = this.#now + ms;
    for (;;) {
      let first: TimerId | null = null;
      for (const [id, t] of this.#pending) {
        if (t.at <= until && (first === null || t.at < this.#pending.get(first)!.at)) first = id;
      }
      if (first === null) break;
      this.#now = Math.max(this.#now, this.#pending.get(first)!.at);
      this.#fire(first);
      await settle();
    }
    this.#now = until;
  }
}

/** Lets everything that can go on without timers go on. */
export async function settle(): Promise<void> {
  for (let i = 0; i < 200; i++) await null;
}

type Handler = (payload: Uint8Array, respond: (payload: Uint8Array) => void) => void;

/** One mount's connection to the server. */
export class LocalLink implements ServerLink, LockHolder, OpenMapPeer {
  readonly #handlers = new Map<number, Handler>();
  readonly #inbox: (() => void)[] = [];
  readonly #waiting = new Map<number, (errno: number, payload: Uint8Array) => void>();
  #nextId = 1;
  #pumping = false;
  reachable = true;

  constructor(
    private readonly cluster: LocalCluster,
    readonly rid: bigint,
    readonly ownServer: boolean,
  ) {}

  request(cmd: number, payload: Uint8Array): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      this.submit(cmd, payload, (errno, answer) => {
        if (errno !== 0) reject(new FsError(errno));
        else resolve(answer.slice());
      });
    });
  }

  submit(
    cmd: number,
    payload: Uint8Array,
    complete: (errno: number, payload: Uint8Array) => void,
  ): void {
    const { cluster } = this;
    const id = this.#nextId++;
    const copy = payload.slice();
    this.#waiting.set(id, complete);
    cluster.requests.push(cmd);
    if (cmd === CMD_LOCK) cluster.locks.request(this, id, copy);
    else if (cmd === CMD_OPEN_INO_MAP) cluster.maps.request(this, id, copy);
    else {
      cluster.store.request(cmd, this.rid, copy).then(
        (answer) => this.#answer(id, 0, answer),
        (e: unknown) => {
          assert(e instanceof FsError, `server request ${cmd} failed: ${e}`);
          cluster.refused.push(`${CMD_NAMES[cmd]}: ${e.message}`);
          this.#answer(id, errnoOf(e), new Uint8Array(0));
        },
      );
    }
  }

  setHandler(cmd: number, fn: Handler): void {
    this.#handlers.set(cmd, fn);
  }

  #answer(id: number, errno: number, payload: Uint8Array): void {
    this.#post(() => {
      const complete = this.#waiting.get(id);
      this.#waiting.delete(id);
      complete?.(errno, payload);
    });
  }

  /** Runs `fn` in its own turn, after everything posted before. */
  #post(fn: () => void): void {
    this.#inbox.push(fn);
    if (this.#pumping) return;
    this.#pumping = true;
    queueMicrotask(() => {
      for (let next = this.#inbox.shift(); next !== undefined; next = this.#inbox.shift()) next();
      this.#pumping = false;
    });
  }

  #ask(cmd: number, payload: Uint8Array, answered: (payload: Uint8Array) => void): void {
    const copy = payload.slice();
    this.#post(() => {
      const handler = this.#handlers.get(cmd);
      assert(handler !== undefined, `the mount does not serve command ${cmd}`);
      handler(copy, (answer) => {
        const bytes = answer.slice();
        queueMicrotask(() => answered(bytes));
      });
    });
  }

  // What the server sees of it.

  grantLock(id: number, payload: Uint8Array): void {
    this.#answer(id, 0, payload.slice());
  }
  invalidateLock(payload: Uint8Array): void {
    this.#ask(CMD_LOCK, payload, (answer) => this.cluster.locks.invalidated(this, answer));
  }
  askOpenMap(payload: Uint8Array): void {
    this.#ask(CMD_OPEN_INO_MAP, payload, (answer) => this.cluster.maps.response(this, answer));
  }
  answerOpenMap(id: number, payload: Uint8Array): void {
    this.#answer(id, 0, payload.slice());
  }
  sync(): void {
    this.#ask(CMD_SYNC_LOG_TREES, new Uint8Array(0), () => {});
  }
  /** The connection is gone for good. */
  drop(): void {
    this.reachable = false;
    this.#waiting.clear();
  }
}

export interface ClusterOptions {
  readonly metaBytes?: number;
  readonly dataBytes?: number;
  readonly fmtVers?: number;
  readonly seed?: number;
}

export class LocalCluster {
  /** The server's structures are damaged; a mount in its process would end. */
  onDamage: (e: FsError) => void = () => {};
  /** Do mounts connected from now on take the server for their own process's? */
  ownServer = true;
  readonly timers = new ManualTimers();
  readonly random: SeededRandom;
  /** Commands that mounts have sent, for counting. */
  readonly requests: number[] = [];
  /** What the server could not answer, and why. */
  readonly refused: string[] = [];
  locks: LockServer;
  maps: OpenMaps;
  store: ServerStore;
  readonly #links = new Map<bigint, LocalLink>();
  #nextRid = 1n;

  private constructor(
    readonly meta: MemDevice,
    readonly data: MemDevice,
    seed: number,
  ) {
    this.random = new SeededRandom(seed);
    this.store = this.#openStore();
    this.locks = this.#newLocks();
    this.maps = new OpenMaps(() => false);
  }

  /** A new filesystem. */
  static async make(options: ClusterOptions = {}): Promise<LocalCluster> {
    const metaBytes = options.metaBytes ?? 256 << 20;
    const dataBytes = options.dataBytes ?? 1 << 30;
    const meta = new MemDevice(metaBytes, { name: "meta" });
    const data = new MemDevice(dataBytes, { name: "data" });
    makeFilesystem(meta, data, {
      fsid: 0x1122334455667788n,
      uuid: new Uint8Array(16).fill(7),
      time: { sec: 1_600_000_000, nsec: 0 },
      fmtVers: options.fmtVers ?? 2,
      metaBytes,
      dataBytes,
      slots: [{ nr: 0, addr: 0x7f000001, port: 7 }],
    });
    return await LocalCluster.open(meta, data, options.seed);
  }

  /** The server of an existing volume; what former mounts left is reclaimed. */
  static async open(meta: MemDevice, data: MemDevice, seed = 1): Promise<LocalCluster> {
    const cluster = new LocalCluster(meta, data, seed);
    await cluster.store.start();
    for (const { rid } of cluster.store.mountedClients()) await cluster.store.reclaim(rid);
    return cluster;
  }

  #newLocks(): LockServer {
    return new LockServer({
      nextSeq: () => this.store.counterNext(),
      raiseSeq: (n) => this.store.counterRaise(n),
      recovering: () => false,
    });
  }

  #openStore(): ServerStore {
    return openServerStore(this.meta, this.superBytes(), {
      random: this.random,
      onDamage: (e) => this.onDamage(e),
      sendSync: (rid) => this.#links.get(rid)?.sync(),
      cacheBytes: 32 << 20,
    });
  }

  /** The stable super block as it is on the metadata device. */
  superBytes(): Uint8Array {
    const bytes = this.meta.allocBuffer(SM_SIZE);
    this.meta.read(bytes, SUPER_BLKNO * SM_SIZE);
    return bytes;
  }
  superBlock(): SuperBlock {
    return SuperBlock.at(this.superBytes());
  }

  /** A new mount's link, its mounted-client item stored. */
  async connect(): Promise<LocalLink> {
    const rid = this.random.u64() ^ (this.#nextRid++ << 1n);
    const link = new LocalLink(this, rid, this.ownServer);
    await this.store.insertMountedClient(rid, InetAddr.alloc(), true);
    this.#links.set(rid, link);
    this.maps.addClient(link);
    return link;
  }

  /** Farewell, or the end of a dead mount: its locks and log trees are taken back. */
  async disconnect(link: LocalLink): Promise<void> {
    link.drop();
    this.#links.delete(link.rid);
    this.maps.removeClient(link);
    this.locks.removeHolder(link);
    await this.store.reclaim(link.rid);
  }

  /** The server stops; nothing more is written. */
  stop(): void {
    this.store.stop();
  }
}
