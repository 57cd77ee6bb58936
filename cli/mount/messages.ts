/**
 * How the isolates of a mount talk. Everybody has a mailbox (a pipe) but main, which gets ordinary
 * worker messages. What must not wait for main's event loop (quorum and server) goes directly.
 */

import type { MountOptions } from "../../fs/options.ts";
import type { ServerState } from "../../net/quorum.ts";

/** What every worker is started with. */
export interface WorkerInit {
  metaPath: string;
  dataPath: string;
  fsid: bigint;
  rid: bigint;
  options: MountOptions;
  /** Shared word of the write gate. */
  gate: SharedArrayBuffer;
  /** Mounts whose death the administrator vouches for. */
  assumedDead: bigint[];
  /** Where records of mounts on this host are kept. */
  stateDir: string;
  /** Where fence requests are published. */
  runtimeDir: string;
  /** The receiver's own mailbox. */
  mailbox: number;
  /** Mailboxes to write to. */
  quorumBox: number;
  serverBox: number;
  readOnly: boolean;
  blockDevice: boolean;
}

/** Main to the fs worker. */
export type ToFs =
  | { do: "serve"; fd: number }
  /** Main has ended everything else: DESTROY may be answered. */
  | { do: "released" }
  /** Leave the cluster without having been mounted. */
  | { do: "leave" };

/** Main and the server worker to the quorum worker. */
export type ToQuorum =
  | { do: "stop" }
  | { do: "serverState"; state: ServerState };

/** The quorum worker and main to the server worker. */
export type ToServer =
  /** rids in hexadecimal, see ServerControl.start. */
  | { do: "start"; term: number; inherited: string[] }
  | { do: "stop" };

/** Any worker to main. */
export type ToMain =
  | { is: "log"; line: string }
  /** The worker cannot begin, or cannot go on. */
  | { is: "failed"; errno: number; message: string }
  /** quorum: the slot is bound and recorded. fs: the root inode was read. */
  | { is: "ready" }
  /** server: a term could not begin. */
  | { is: "serverFailed"; errno: number; message: string }
  /** fs: the kernel ends the session, or has. */
  | { is: "unmounting"; why: string }
  /** fs: the session is over, no request can come any more. */
  | { is: "ended" }
  /** fs: committed and left. */
  | { is: "stopped" }
  /** quorum: ended. `accounted`: nobody has to fence this mount as a former leader. */
  | { is: "left"; accounted: boolean };
