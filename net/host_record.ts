/**
 * Proof of death on one host. Every mount leaves a small record of its process in a local state
 * directory; a later mount on the same host can then show that the process of an earlier rid is
 * gone and will never write again, so that nobody has to fence it by hand.
 *
 * What proves it: the record was made on this machine (machine id and hardware id equal), and
 * either the machine, which has an id, has booted since (boot id differs), or the process it names is gone: no such
 * pid, the pid now belongs to a process started at another time, or it is a zombie without other
 * threads (its file descriptors, and with them all I/O, are gone). Pids are compared only within
 * one pid namespace. Everything that cannot be read or does not fit proves nothing: false means
 * "unknown", and the ordinary timeouts and fencing apply.
 */

import { ridText } from "./fence.ts";

/** What identifies this host and boot. */
export interface HostIdentity {
  readonly machineId: string;
  /** Hardware or virtual machine uuid where readable: tells apart clones with one machine id. */
  readonly hardwareId: string;
  readonly bootId: string;
  /** Inode of the pid namespace. */
  readonly pidNamespace: string;
}

/** The record of one mount. */
export interface HostRecord extends HostIdentity {
  readonly rid: string;
  readonly pid: number;
  /** Field 22 of /proc/PID/stat: clock ticks between boot and the start of the process. */
  readonly startTime: string;
}

export interface ProcessState {
  readonly startTime: string;
  /** State letter of proc(5). */
  readonly state: string;
  readonly threads: number;
}

/** What is asked of /proc; tests supply their own. */
export interface ProcessTable {
  identity(): HostIdentity | null;
  /** What is known of a process; null when there certainly is none. */
  process(pid: number): ProcessState | null | "unknown";
}

/** The records of one volume on this host. */
export class HostRecords {
  readonly #dir: string;
  constructor(
    stateDir: string,
    fsid: bigint,
    private readonly table: ProcessTable = linuxProcesses,
  ) {
    this.#dir = `${stateDir}/${ridText(fsid)}`;
  }

  /**
   * Records that process `pid` (the one that does the I/O) carries mount `rid`; before BEGIN is
   * written. Durable when it returns. False when the host cannot be identified: nothing is recorded.
   */
  record(rid: bigint, pid: number): boolean {
    const identity = this.table.identity();
    const process = this.table.process(pid);
    if (identity === null || process === null || process === "unknown") return false;
    const record: HostRecord = {
      rid: ridText(rid),
      pid,
      startTime: process.startTime,
      ...identity,
    };
    Deno.mkdirSync(this.#dir, { recursive: true });
    const making = `${this.#path(rid)}.new`;
    const file = Deno.openSync(making, { write: true, create: true, truncate: true, mode: 0o600 });
    try {
      file.writeSync(new TextEncoder().encode(JSON.stringify(record)));
      file.syncSync();
    } finally {
      file.close();
    }
    Deno.renameSync(making, this.#path(rid));
    // The names must survive a power loss too: the record's, and the directory's own.
    for (const dir of [this.#dir, `${this.#dir}/..`]) {
      const names = Deno.openSync(dir);
      try {
        names.syncSync();
      } finally {
        names.close();
      }
    }
    return true;
  }

  /** Whether the process of mount `rid` is provably gone. False: unknown. */
  provablyDead(rid: bigint): boolean {
    const record = this.#read(rid);
    const here = this.table.identity();
    if (record === null || here === null || record.rid !== ridText(rid)) return false;
    if (record.machineId !== here.machineId || record.hardwareId !== here.hardwareId) return false;
    if (record.bootId !== here.bootId) return here.machineId !== "";
    if (record.pidNamespace !== here.pidNamespace) return false;
    const now = this.table.process(record.pid);
    if (now === "unknown") return false;
    if (now === null || now.startTime !== record.startTime) return true;
    return hasEnded(now);
  }

  /** All mounts of this volume on this host that are provably dead. */
  deadMounts(): bigint[] {
    const dead: bigint[] = [];
    for (const name of listDir(this.#dir)) {
      const rid = /^([0-9a-f]{16})\.json$/.exec(name);
      if (rid !== null && this.provablyDead(BigInt(`0x${rid[1]}`))) {
        dead.push(BigInt(`0x${rid[1]}`));
      }
    }
    return dead;
  }

  /** Removes the records of dead mounts that the volume does not remember either. */
  prune(remembered: ReadonlySet<bigint>): void {
    for (const rid of this.deadMounts()) if (!remembered.has(rid)) this.forget(rid);
  }

  /** The mount ended cleanly or was reclaimed: its record serves no purpose any more. */
  forget(rid: bigint): void {
    try {
      Deno.removeSync(this.#path(rid));
    } catch (e) {
      if (!(e instanceof Deno.errors.NotFound)) throw e;
    }
  }

  #path(rid: bigint): string {
    return `${this.#dir}/${ridText(rid)}.json`;
  }

  #read(rid: bigint): HostRecord | null {
    const text = readFile(this.#path(rid));
    if (text === null) return null;
    try {
      const value: unknown = JSON.parse(text);
      return isRecord(value) ? value : null;
    } catch (e) {
      if (e instanceof SyntaxError) return null; // torn by a crash: proves nothing
      throw e;
    }
  }
}

/** Names in a directory; none when it does not exist. */
function listDir(path: string): string[] {
  try {
    return [...Deno.readDirSync(path)].map((entry) => entry.name).sort();
  } catch (e) {
    if (e instanceof Deno.errors.NotFound) return [];
    throw e;
  }
}

function isRecord(value: unknown): value is HostRecord {
  if (typeof value !== "object" || value === null) return false;
  const fields = value as Record<string, unknown>;
  return typeof fields.pid === "number" &&
    ["rid", "startTime", "machineId", "hardwareId", "bootId", "pidNamespace"].every((name) =>
      typeof fields[name] === "string"
    );
}

/**
 * The file's text without surrounding white space; null when it cannot be read. The file of a process
 * that ends between its opening and its reading gives ESRCH, which the runtime tells in words only.
 */
export function readFile(path: string): string | null {
  try {
    return Deno.readTextFileSync(path).trim();
  } catch (e) {
    if (e instanceof Deno.errors.NotFound || e instanceof Deno.errors.PermissionDenied) return null;
    if (!(e instanceof Error)) throw e;
    if ("code" in e && (e.code === "ESRCH" || e.code === "EACCES")) return null;
    if (e.message.includes("(os error 3)")) return null;
    throw e;
  }
}

/** Whether no thread of a process runs any more: the first may be a zombie before the others. */
const hasEnded = ({ state, threads }: ProcessState): boolean =>
  (state === "Z" || state === "X") && threads <= 1;

/** Whether a process of this host runs, or may. */
export function isRunning(pid: number): boolean {
  const now = linuxProcesses.process(pid);
  return now === "unknown" || now !== null && !hasEnded(now);
}

/** The real /proc. */
export const linuxProcesses: ProcessTable = {
  identity(): HostIdentity | null {
    const bootId = readFile("/proc/sys/kernel/random/boot_id");
    const machineId = readFile("/etc/machine-id") ?? readFile("/var/lib/dbus/machine-id") ?? "";
    if (bootId === null) return null;
    return {
      bootId,
      machineId,
      hardwareId: readFile("/sys/class/dmi/id/product_uuid") ?? "",
      pidNamespace: Deno.readLinkSync("/proc/self/ns/pid"),
    };
  },
  process(pid: number): ProcessState | null | "unknown" {
    const stat = readFile(`/proc/${pid}/stat`);
    if (stat === null) {
      // With hidepid the processes of others are invisible, not gone: init shows which it is.
      return readFile("/proc/1/stat") === null ? "unknown" : null;
    }
    // The name, in parentheses, may hold anything; the fields after it begin with the state.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return { state: fields[0], threads: Number(fields[17]), startTime: fields[19] };
  },
};
