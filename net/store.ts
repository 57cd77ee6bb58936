/**
 * The server's persistent state (03 §13–15, §23).
 */

import type { Device } from "../fs/device.ts";
import type { Random } from "../fs/env.ts";
import type { ServerStore } from "./store_api.ts";

export type { MountedClient, ServerStore } from "./store_api.ts";

export interface StoreOptions {
  /** Block seqs. */
  random: Random;
  /** How many clients share the volume, for reserves; mounted-client items are counted without it. */
  clientCount?: () => number;
  /** Sends SYNC_LOG_TREES to a client (03 §16.2); unknown or disconnected ones are ignored. */
  sendSync?: (rid: bigint) => void;
  /** Runs `turn` soon, after the requests of this loop turn have arrived. Default: a microtask. */
  schedule?: (turn: () => void) => void;
  /** One line for the administrator. */
  log?: (line: string) => void;
  /** Block cache bytes. */
  cacheBytes?: number;
}

/**
 * Opens the volume's server state on its metadata device. `superBuf` holds the 4 KiB super block
 * read just now, after fencing (04 §15.2 step 3). Throws CorruptError, DeviceError, FsError.
 */
export function openServerStore(
  _dev: Device,
  _superBuf: Uint8Array,
  _options: StoreOptions,
): ServerStore {
  throw new Error("openServerStore: being written");
}
