/** Where mounts of this host keep what outlives or describes a process. */

/** Control files, fence requests, records of running mounts, the log: gone after a reboot. */
export function runtimeDir(): string {
  return Deno.env.get("SCOUTFS_RUNTIME_DIR") ?? "/run/scoutfs";
}

/** Proofs of death (net/host_record.ts): must survive a reboot. */
export function stateDir(): string {
  return Deno.env.get("SCOUTFS_STATE_DIR") ?? "/var/lib/scoutfs";
}
