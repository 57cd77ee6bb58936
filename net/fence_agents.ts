/**
 * Who carries out fence requests on a real host (04 §18): the directory tree that the reference's
 * daemon and scripts know, and a built-in hook with the daemon's contract: a command that gets the
 * request in its environment and says by its exit status whether the mount was fenced.
 */

import { ipv4Text } from "../format/block.ts";
import type { TimerId, Timers } from "../fs/env.ts";
import { type FenceAgent, type FenceRequest, mountName, ridText } from "./fence.ts";
import type { Log } from "./log.ts";

/** How often the files are looked at while a request is published. */
const POLL_MS = 200;

interface Published {
  readonly request: FenceRequest;
  readonly dir: string;
  readonly answer: (ok: boolean) => void;
  answered: boolean;
}

/**
 * Publishes requests below `<root>/fs/scoutfs/f.XXXXXX.r.YYYYYY/fence/`. Any write to `fenced` or
 * `error` counts, whatever its content: files are stamped with the epoch when published, so that
 * any later time of modification is a write.
 */
export class FenceDirectory implements FenceAgent {
  readonly dir: string;
  readonly #timers: Timers;
  readonly #published = new Map<bigint, Published>();
  #timer: TimerId | null = null;

  /** `root` stands for /sys; `rid` is this mount's. Throws when the tree cannot be made. */
  constructor(timers: Timers, root: string, fsid: bigint, rid: bigint) {
    this.#timers = timers;
    this.dir = `${root}/fs/scoutfs/${mountName(fsid, rid)}/fence`;
    Deno.mkdirSync(this.dir, { recursive: true });
  }

  publish(request: FenceRequest, answer: (ok: boolean) => void): void {
    const dir = `${this.dir}/${ridText(request.rid)}`;
    const making = `${this.dir}/.${ridText(request.rid)}`;
    Deno.mkdirSync(making, { recursive: true });
    const file = (name: string, mode: number, content: string): void => {
      Deno.writeTextFileSync(`${making}/${name}`, content, { mode });
      Deno.chmodSync(`${making}/${name}`, mode);
    };
    file("elapsed_secs", 0o444, "0");
    file("ipv4_addr", 0o444, ipv4Text(request.ip));
    file("reason", 0o444, request.reason);
    file("rid", 0o444, ridText(request.rid));
    for (const name of ["fenced", "error"]) {
      file(name, 0o644, "0");
      Deno.utimeSync(`${making}/${name}`, 0, 0);
    }
    Deno.renameSync(making, dir); // a reader sees all files or none
    this.#published.set(request.rid, { request, dir, answer, answered: false });
    this.#arm();
  }

  withdraw(rid: bigint): void {
    const p = this.#published.get(rid);
    if (p === undefined) return;
    this.#published.delete(rid);
    removeTree(p.dir);
  }

  /** Takes the tree away; the mount ends. */
  close(): void {
    if (this.#timer !== null) this.#timers.clearTimer(this.#timer);
    for (const rid of [...this.#published.keys()]) this.withdraw(rid);
    removeTree(this.dir.slice(0, -"/fence".length));
  }

  /**
   * Removes what mounts left behind that died without `close`: a daemon must not act on requests
   * that nobody waits for, since by now the address may belong to a living mount.
   */
  static removeLeftovers(root: string, fsid: bigint, dead: readonly bigint[]): void {
    for (const rid of dead) removeTree(`${root}/fs/scoutfs/${mountName(fsid, rid)}`);
  }

  #arm(): void {
    if (this.#timer !== null || this.#published.size === 0) return;
    this.#timer = this.#timers.setTimer(POLL_MS, () => {
      this.#timer = null;
      for (const p of [...this.#published.values()]) this.#look(p);
      this.#arm();
    });
  }

  #look(p: Published): void {
    if (!exists(p.dir)) return; // taken away by somebody: the 30 s limit decides
    this.#showElapsed(p);
    if (p.answered) return;
    const fenced = written(`${p.dir}/fenced`);
    const error = written(`${p.dir}/error`);
    if (!fenced && !error) return;
    p.answered = true;
    Deno.writeTextFileSync(`${p.dir}/${error ? "error" : "fenced"}`, "1");
    p.answer(!error);
  }

  #showElapsed(p: Published): void {
    const secs = Math.floor((this.#timers.now() - p.request.createdAt) / 1000);
    const making = `${p.dir}/.elapsed_secs`;
    Deno.writeTextFileSync(making, String(secs));
    Deno.chmodSync(making, 0o444);
    Deno.renameSync(making, `${p.dir}/elapsed_secs`);
  }
}

function exists(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch (e) {
    if (e instanceof Deno.errors.NotFound) return false;
    throw e;
  }
}

function removeTree(path: string): void {
  if (exists(path)) Deno.removeSync(path, { recursive: true });
}

/** Whether somebody wrote the file since it was stamped with the epoch. */
function written(path: string): boolean {
  const { mtime } = Deno.statSync(path);
  return mtime !== null && mtime.getTime() !== 0;
}

/** Runs a command per request, one after the other, as scoutfs-fenced does (04 §18.2). */
export class FenceHook implements FenceAgent {
  #queue: Promise<void> = Promise.resolve();
  readonly #live = new Set<bigint>();

  /** `command` and `args` as the daemon's SCOUTFS_FENCED_RUN and SCOUTFS_FENCED_RUN_ARGS. */
  constructor(
    private readonly command: string,
    private readonly args: readonly string[],
    private readonly log: Log,
    /** Waits for what the runtime's own loop settles, where another loop runs (Reactor). */
    private readonly outside: <T>(p: Promise<T>) => Promise<T> = (p) => p,
  ) {}

  publish(request: FenceRequest, answer: (ok: boolean) => void): void {
    this.#live.add(request.rid);
    this.#queue = this.#queue.then(async () => {
      if (!this.#live.has(request.rid)) return;
      answer(await this.#run(request));
    });
  }

  withdraw(rid: bigint): void {
    this.#live.delete(rid);
  }

  async #run(request: FenceRequest): Promise<boolean> {
    try {
      const run = new Deno.Command(this.command, {
        args: [...this.args],
        env: {
          SCOUTFS_FENCED_REQ_RID: ridText(request.rid),
          SCOUTFS_FENCED_REQ_IP: ipv4Text(request.ip),
        },
        stdin: "null",
        stdout: "null",
        stderr: "null",
      }).output();
      const { success, code } = await this.outside(run);
      if (!success) this.log(`fence command ${this.command} failed with status ${code}`);
      return success;
    } catch (e) {
      this.log(`fence command ${this.command} could not run: ${String(e)}`);
      return false;
    }
  }
}
