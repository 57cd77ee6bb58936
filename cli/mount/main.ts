/**
 * The main isolate of a mount: checks everything before anything is touched, starts the workers,
 * mounts, waits for signals or the kernel, ends everything in order.
 *
 * Order of the beginning: options, mount point, devices (exclusively), super blocks, quorum slot;
 * then the host record, quorum (its BEGIN is the first write), the client until the root is read,
 * the kernel mount. Order of the end: the filesystem commits and says farewell, the server and
 * quorum stop and record it, records and locks go. A worker that dies takes the mount with it:
 * nothing is written any more, the kernel's mount is detached, the exit status is not zero.
 */

import { EBUSY, EINTR, EIO } from "../../format/errno.ts";
import { FsError } from "../../fs/errors.ts";
import { checkMountable, type KernelMount, kernelMount } from "../../fs/fuse/mount.ts";
import { Gate } from "../../fs/gate.ts";
import { type MountOptions, requireMetadev } from "../../fs/options.ts";
import { SystemRandom } from "../../fs/sys/clock.ts";
import { useFastCrc32c } from "../../fs/sys/crc.ts";
import { type BlockDevice, openDevice } from "../../fs/sys/device.ts";
import { type Mailbox, openMailbox, post } from "../../fs/sys/mailbox.ts";
import { checkRoots } from "../../fs/preflight.ts";
import { checkFreeSpace, openVolume, type Volume } from "../../fs/volume.ts";
import { FenceDirectory } from "../../net/fence_agents.ts";
import { mountName, ridText } from "../../net/fence.ts";
import { HostRecords } from "../../net/host_record.ts";
import { rememberedMounts } from "../../net/mounted_clients.ts";
import {
  checkSlots,
  presentSlots,
  previousLeaders,
  slotsOf,
  SmallBlocks,
} from "../../net/quorum_blocks.ts";
import type { ToFs, ToMain, ToQuorum, ToServer, WorkerInit } from "./messages.ts";
import { runtimeDir, stateDir } from "./paths.ts";
import { writeControlTree } from "./control_tree.ts";
import { openWhenFree, removeControlTree, removeRecord, sweepDead, writeRecord } from "./record.ts";

export interface MountParams {
  dataPath: string;
  mountpoint: string;
  options: MountOptions;
}

export interface MountEvents {
  /** One line for the administrator, without the mount's name. */
  log: (line: string) => void;
  /** The mount is usable. */
  onReady: () => void;
}

/** The volume, exclusively ours on this host until `close`. */
interface Guarded {
  readonly volume: Volume;
  readonly meta: BlockDevice;
  readonly data: BlockDevice;
  /** The kernel keeps a block device for itself once it is mounted: the probe before is all. */
  readonly blockDevice: boolean;
}

/** Mounts and serves until unmounted. Throws FsError when it could not be mounted, or failed. */
export async function runMount(params: MountParams, events: MountEvents): Promise<void> {
  const { options } = params;
  requireMetadev(options);
  checkMountable(params.mountpoint);
  await useFastCrc32c();
  const guarded = await openGuarded(options.metadevPath, params.dataPath);
  try {
    const { superBlock, fsid } = guarded.volume;
    const records = new HostRecords(stateDir(), fsid);
    sweepDead(runtimeDir());
    FenceDirectory.removeLeftovers(runtimeDir(), fsid, records.deadMounts());
    if (options.quorumSlotNr >= 0) {
      const slots = slotsOf(superBlock.qconf);
      checkSlots(slots, options.quorumSlotNr);
      if (presentSlots(slots).length === 1) checkNotLed(guarded, options, records);
    }
    await new RunningMount(params, guarded, records, events).run();
  } finally {
    guarded.meta.close();
    guarded.data.close();
  }
}

/**
 * Where ours is the only slot nobody else can answer for a leader that did not record its end: it
 * must be known to be dead, or there must be a way to fence it, before anything is written.
 */
function checkNotLed(guarded: Guarded, options: MountOptions, records: HostRecords): void {
  if (options.assumeFenced || options.fenceRun !== "") return;
  const { meta, volume } = guarded;
  const blocks = new SmallBlocks(meta, volume.fsid);
  const found = previousLeaders([blocks.readSlot(options.quorumSlotNr)], Infinity, 0n)
    .find((leader) => !records.provablyDead(leader.rid));
  if (found === undefined) return;
  throw new FsError(
    EBUSY,
    `${meta.name}: mount ${mountName(volume.fsid, found.rid)} did not record its end and may ` +
      "still run on another host; if it certainly does not, mount with -o assume_fenced",
  );
}

/** Drops records of dead mounts that the volume has forgotten too. */
function pruneRecords(guarded: Guarded, records: HostRecords, log: (line: string) => void): void {
  const { meta, volume } = guarded;
  try {
    records.prune(rememberedMounts(meta, volume.fsid, new SystemRandom()));
  } catch (e) {
    // A server that is at work elsewhere rewrites what is read here.
    if (!(e instanceof FsError)) throw e;
    log(`records of former mounts are kept: ${e.message}`);
  }
}

async function openGuarded(metaPath: string, dataPath: string): Promise<Guarded> {
  const runtime = runtimeDir();
  const [metaReal, dataReal] = [realPath(metaPath), realPath(dataPath)];
  const meta = await openWhenFree(
    runtime,
    metaReal,
    () => openDevice(metaPath, { write: false, exclusive: true }),
  );
  try {
    const data = await openWhenFree(runtime, dataReal, () => {
      if (dataReal === metaReal) return openDevice(dataPath, { write: false });
      const probe = openDevice(dataPath, { write: false, exclusive: true });
      if (!probe.isBlockDevice) return probe;
      probe.close();
      return openDevice(dataPath, { write: false });
    });
    try {
      const volume = openVolume(meta, data);
      checkFreeSpace(volume);
      checkRoots(volume, new SystemRandom());
      return { volume, meta, data, blockDevice: data.isBlockDevice };
    } catch (e) {
      data.close();
      throw e;
    }
  } catch (e) {
    meta.close();
    throw e;
  }
}

/** Absolute and without symbolic links; the path itself where that cannot be told. */
function realPath(path: string): string {
  try {
    return Deno.realPathSync(path);
  } catch {
    return path;
  }
}

/** MAJ:MIN of a block device, or of the device that a file lies on. */
function deviceNumber(path: string, blockDevice: boolean): string {
  const info = Deno.statSync(path);
  const dev = (blockDevice ? info.rdev : info.dev) ?? 0;
  const major = Math.floor(dev / 256) % 4096, minor = dev % 256 + Math.floor(dev / 2 ** 20) * 256;
  return `${major}:${minor}`;
}

type WorkerName = "quorum" | "server" | "fs";

interface Peer {
  readonly worker: Worker;
  readonly box: Mailbox;
  readonly ready: Promise<void>;
  readonly stopped: Promise<void>;
  /** fs: no request can come any more. */
  readonly ended: Promise<void>;
}

/** One mount from its first write to its end. */
class RunningMount {
  private readonly gate = new Gate();
  private readonly rid: bigint;
  private readonly name: string;
  private readonly peers = new Map<WorkerName, Peer>();
  private kernel: KernelMount | null = null;
  /** Settled when our own first look at the mount, which keeps it busy, is over. */
  private looked: Promise<unknown> = Promise.resolve();
  private readonly boxes = new Map<WorkerName, Mailbox>();
  /** Resolves when the kernel ended the session, or a signal the wait for a server. */
  private readonly ended: Promise<void>;
  private sessionEnded: () => void = () => {};
  /** Rejects when a mount that is not usable yet will never be. */
  private readonly givenUp: Promise<never>;
  private giveUp: (e: FsError) => void = () => {};
  /** Rejects when a worker failed. */
  private readonly failure: Promise<never>;
  private fail: (e: FsError) => void = () => {};
  private failed = false;
  /** Somebody may have to prove that this mount is dead: it left something undone behind it. */
  private owes = false;

  constructor(
    private readonly params: MountParams,
    private readonly guarded: Guarded,
    private readonly records: HostRecords,
    private readonly events: MountEvents,
  ) {
    const random = new SystemRandom();
    let rid = random.u64();
    while (rid === 0n || rid === 0xffff_ffff_ffff_ffffn) rid = random.u64();
    this.rid = rid;
    this.name = mountName(guarded.volume.fsid, rid);
    this.ended = new Promise((resolve) => this.sessionEnded = resolve);
    this.givenUp = new Promise((_, reject) => this.giveUp = reject);
    this.givenUp.catch(() => {});
    this.failure = new Promise((_, reject) => {
      this.fail = (e) => {
        this.failed = true;
        reject(e);
      };
    });
    this.failure.catch(() => {});
  }

  async run(): Promise<void> {
    const signals = this.watchSignals();
    try {
      this.log(`mounting ${this.guarded.data.name} at ${this.params.mountpoint}`);
      pruneRecords(this.guarded, this.records, (line) => this.log(line));
      this.records.record(this.rid, Deno.pid);
      try {
        await this.begin();
      } catch (e) {
        if (this.failed) throw e;
        this.log(`mount given up: ${e instanceof Error ? e.message : e}`);
        await this.leave();
        throw e;
      }
      this.events.onReady();
      await this.unlessFailed(this.ended);
      await this.finish();
    } catch (e) {
      await this.breakOff(e);
      if (!this.owes) this.records.forget(this.rid);
      throw e;
    } finally {
      signals.close();
      for (const { worker } of this.peers.values()) worker.terminate();
      removeRecord(runtimeDir(), this.name);
      removeControlTree(runtimeDir(), this.name);
    }
    this.log("unmounted");
  }

  /** Up to the point where the mount is usable. */
  private async begin(): Promise<void> {
    const { params, guarded } = this;
    const init = this.workerInit();
    if (params.options.quorumSlotNr >= 0) {
      this.start("server", init);
      await this.unlessEnded(this.start("quorum", init).ready);
    }
    this.owes = true;
    const fs = this.start("fs", init);
    await this.unlessEnded(fs.ready);
    this.kernel = kernelMount({
      mountpoint: params.mountpoint,
      source: guarded.blockDevice ? guarded.data.name : realPath(guarded.data.name),
      blockDevice: guarded.blockDevice,
      readOnly: init.readOnly,
      options: params.options.vfs.filter((o) => KERNEL_OPTIONS.has(o)),
    });
    writeRecord(runtimeDir(), {
      name: this.name,
      pid: Deno.pid,
      meta: realPath(guarded.meta.name),
      data: realPath(guarded.data.name),
      mountpoint: this.kernel.mountpoint,
      fsid: ridText(guarded.volume.fsid),
      rid: ridText(this.rid),
    });
    writeControlTree(runtimeDir(), this.name, {
      fsid: ridText(guarded.volume.fsid),
      rid: ridText(this.rid),
      fmtVers: guarded.volume.fmtVers,
      dataDevice: deviceNumber(guarded.data.name, guarded.blockDevice),
      options: params.options,
    });
    this.send(fs, { do: "serve", fd: this.kernel.fd });
    // Answered by our worker: from here on everybody is.
    const look = Deno.stat(this.kernel.mountpoint);
    this.looked = look.catch(() => {}); // Its failure is that of the wait below.
    await this.unlessEnded(look);
    this.kernel.tune();
    this.log("mounted");
  }

  /** No other slot could elect a server while ours cannot begin. */
  private get alone(): boolean {
    return presentSlots(slotsOf(this.guarded.volume.superBlock.qconf)).length === 1;
  }

  private workerInit(): WorkerInit {
    const { options, dataPath } = this.params;
    const { volume, meta, blockDevice } = this.guarded;
    return {
      metaPath: meta.name,
      dataPath,
      fsid: volume.fsid,
      rid: this.rid,
      options,
      gate: this.gate.shared,
      assumedDead: options.assumeFenced
        ? [...rememberedMounts(meta, volume.fsid, new SystemRandom())]
        : [],
      stateDir: stateDir(),
      runtimeDir: runtimeDir(),
      mailbox: -1,
      quorumBox: openMailboxFor(this.boxes, "quorum").writeFd,
      serverBox: openMailboxFor(this.boxes, "server").writeFd,
      readOnly: options.vfs.includes("ro"),
      blockDevice,
    };
  }
  private start(name: WorkerName, init: WorkerInit): Peer {
    const box = openMailboxFor(this.boxes, name);
    const worker = new Worker(new URL(WORKERS[name], import.meta.url), { type: "module", name });
    let onReady = () => {}, onStopped = () => {}, onEnded = () => {};
    const ready = new Promise<void>((resolve) => onReady = resolve);
    const stopped = new Promise<void>((resolve) => onStopped = resolve);
    const ended = new Promise<void>((resolve) => onEnded = resolve);
    worker.onmessage = (e: MessageEvent<ToMain>) => {
      const m = e.data;
      switch (m.is) {
        case "log":
          this.log(m.line);
          break;
        case "failed":
          this.workerFailed(name, new FsError(m.errno, m.message));
          break;
        case "ready":
          onReady();
          break;
        case "serverFailed":
          if (this.alone) this.giveUp(new FsError(m.errno, m.message));
          break;
        case "left":
          this.owes = !m.accounted;
          onStopped();
          break;
        case "stopped":
          onStopped();
          break;
        case "ended":
          onEnded();
          break;
        case "unmounting":
          this.log(`unmounting: ${m.why}`);
          this.sessionEnded();
          break;
      }
    };
    worker.onerror = (e) => {
      e.preventDefault();
      this.workerFailed(name, new FsError(EIO, `the ${name} worker died: ${e.message}`));
    };
    worker.postMessage({ ...init, mailbox: box.readFd } satisfies WorkerInit);
    const peer = { worker, box, ready, stopped, ended };
    this.peers.set(name, peer);
    return peer;
  }

  private workerFailed(name: WorkerName, e: FsError): void {
    this.log(`error: ${name}: ${e.message}`);
    // Whatever is in memory cannot be trusted any more, or has nobody to protect it.
    this.gate.close();
    this.fail(e);
  }

  private send(peer: Peer, message: ToFs | ToQuorum | ToServer): void {
    post(peer.box.writeFd, message);
  }

  /** `promise`, unless the mount fails or is asked to end meanwhile. */
  private async unlessEnded<T>(promise: Promise<T>): Promise<T> {
    const ended = this.ended.then(() => {
      throw new FsError(EINTR, "interrupted while mounting");
    });
    return await this.unlessFailed(Promise.race([promise, ended, this.givenUp]));
  }

  private unlessFailed<T>(promise: Promise<T>): Promise<T> {
    return Promise.race([promise, this.failure]);
  }

  /** The kernel's session is over, or asked to be by DESTROY. */
  private async finish(): Promise<void> {
    const fs = this.peers.get("fs");
    if (fs !== undefined) await this.unlessFailed(fs.stopped);
    await this.stopQuorum();
    this.guarded.meta.close();
    this.guarded.data.close();
    removeRecord(runtimeDir(), this.name);
    if (!this.owes) this.records.forget(this.rid);
    const { kernel } = this;
    if (fs === undefined || kernel === null) return;
    // On a block device umount(8) waits for that answer.
    this.send(fs, { do: "released" });
    await this.unlessFailed(fs.ended);
    // A session that was aborted leaves a dead mount in its place.
    if (kernel.mounted) await kernel.unmount(true);
    kernel.destroy();
  }

  /** Leaves the cluster after a mount that did not come about. */
  private async leave(): Promise<void> {
    const fs = this.peers.get("fs");
    if (fs !== undefined) {
      this.send(fs, { do: "leave" });
      await this.unlessFailed(fs.stopped);
    }
    await this.stopQuorum();
  }

  private async stopQuorum(): Promise<void> {
    const quorum = this.peers.get("quorum");
    if (quorum === undefined) {
      this.owes = false;
      return;
    }
    this.send(quorum, { do: "stop" });
    await this.unlessFailed(quorum.stopped);
  }

  /** Nothing more is written; the kernel's mount goes, its users get errors. */
  private async breakOff(e: unknown): Promise<void> {
    this.gate.close();
    this.log(`error: mount ends: ${e instanceof Error ? e.message : e}`);
    if (this.kernel !== null) await this.kernel.unmount(true);
  }

  /** SIGTERM and SIGINT unmount; a busy mount goes on. */
  private watchSignals(): { close(): void } {
    let busy = false;
    const onSignal = async () => {
      if (busy) return; // The first is being obeyed: a second changes nothing.
      busy = true;
      try {
        if (this.kernel === null) {
          this.sessionEnded();
          return;
        }
        await this.looked;
        if (!await this.kernel.unmount(false)) {
          this.log("warning: asked to unmount, but the mount is busy; it goes on");
        }
      } finally {
        busy = false;
      }
    };
    const names = ["SIGTERM", "SIGINT"] as const;
    for (const s of names) Deno.addSignalListener(s, onSignal);
    // A terminal that goes away is no reason to end.
    const ignore = () => {};
    Deno.addSignalListener("SIGHUP", ignore);
    return {
      close: () => {
        for (const s of names) Deno.removeSignalListener(s, onSignal);
        Deno.removeSignalListener("SIGHUP", ignore);
      },
    };
  }

  private log(line: string): void {
    const severity = /^(error|warning): /.exec(line);
    const head = severity === null ? "" : ` ${severity[1]}`;
    const text = severity === null ? line : line.slice(severity[0].length);
    this.events.log(`scoutfs ${this.name}${head}: ${text}`);
  }
}

const WORKERS: Record<WorkerName, string> = {
  quorum: "./quorum_worker.ts",
  server: "./server_worker.ts",
  fs: "./fs_worker.ts",
};

/** Generic options that mount(2) knows; the others of fstab mean nothing here. */
const KERNEL_OPTIONS = new Set(
  ("nosuid nodev noexec noatime nodiratime relatime norelatime strictatime lazytime sync dirsync")
    .split(" "),
);

function openMailboxFor(boxes: Map<WorkerName, Mailbox>, name: WorkerName): Mailbox {
  let box = boxes.get(name);
  if (box === undefined) {
    box = openMailbox();
    boxes.set(name, box);
  }
  return box;
}
