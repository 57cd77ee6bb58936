/**
 * Who asks: the credentials of a request, and what the process behind them may do. A request carries
 * uid, gid and pid only; groups and capabilities are looked up by pid, and only where a rule needs
 * them (02 §26 item 10).
 */

/** The credentials of one request. `umask` counts only where something is created. */
export interface Caller {
  readonly uid: number;
  readonly gid: number;
  /** 0 when the process is of a foreign pid namespace: then nothing more is known about it. */
  readonly pid: number;
  readonly umask: number;
}

export const CAP_DAC_READ_SEARCH = 2;
export const CAP_FOWNER = 3;
export const CAP_FSETID = 4;
export const CAP_SYS_ADMIN = 21;

/** What is known of a process beyond its request. */
export interface Credentials {
  capable(caller: Caller, cap: number): boolean;
  /** Is the caller in `gid`, as its own or as a supplementary group? */
  inGroup(caller: Caller, gid: number): boolean;
}

/** Judges by uid and gid alone: for callers without a process, such as the library and tests. */
export const plainCredentials: Credentials = {
  capable: (caller) => caller.uid === 0,
  inGroup: (caller, gid) => caller.gid === gid,
};

/** The administrator, for work done on behalf of the mount itself. */
export const ROOT_CALLER: Caller = { uid: 0, gid: 0, pid: 0, umask: 0 };

/** What procCredentials looks at; null when there is no such process any more. */
export interface ProcessTable {
  /** The text of /proc/PID/status. */
  status(pid: number): string | null;
  /** The user namespace of a process, as /proc/PID/ns/user names it. */
  userNamespace(pid: number | "self"): string | null;
}

/**
 * Reads effective capabilities and supplementary groups of the calling process. Capabilities count
 * only in the user namespace that they are shown in: everybody may make a namespace and has them
 * all there, and none of them over our files.
 */
export function procCredentials(processes: ProcessTable): Credentials {
  const ours = processes.userNamespace("self");
  const field = (caller: Caller, name: string): string | null => {
    if (caller.pid === 0) return null;
    const text = processes.status(caller.pid);
    if (text === null) return null;
    const at = text.indexOf(`\n${name}:`);
    if (at < 0) return null;
    const start = at + name.length + 2;
    const end = text.indexOf("\n", start);
    return text.slice(start, end < 0 ? text.length : end).trim();
  };
  return {
    capable(caller, cap) {
      if (caller.pid === 0) return plainCredentials.capable(caller, cap);
      const hex = field(caller, "CapEff");
      if (hex === null || !/^[0-9a-f]+$/i.test(hex)) return false;
      const namespace = processes.userNamespace(caller.pid);
      if (namespace === null || namespace !== ours) return false;
      return ((BigInt(`0x${hex}`) >> BigInt(cap)) & 1n) === 1n;
    },
    inGroup(caller, gid) {
      if (caller.gid === gid) return true;
      const groups = field(caller, "Groups");
      return groups !== null && groups.split(/\s+/).includes(String(gid));
    },
  };
}
