/** The memory of other processes, by process_vm_readv(2) and process_vm_writev(2). */

import { EFAULT, EPERM } from "../../format/errno.ts";
import type { CallerMemory } from "../caller_memory.ts";
import { errnoError } from "../errors.ts";
import { addressOf, errno, libc } from "./libc.ts";

/** Needs ptrace rights over the callers: the daemon runs as root. */
export function processMemory(): CallerMemory {
  const words = new BigUint64Array(4);
  const local = new Uint8Array(words.buffer, 0, 16);
  const remote = new Uint8Array(words.buffer, 16, 16);
  type Transfer = typeof libc.process_vm_readv;
  const transfer = (call: Transfer, pid: number, addr: bigint, buf: Uint8Array): void => {
    // A process of a foreign pid namespace has no number here.
    if (pid === 0) throw errnoError(EFAULT);
    for (let done = 0; done < buf.length;) {
      const part = buf.subarray(done);
      words[0] = addressOf(part);
      words[1] = words[3] = BigInt(part.length);
      words[2] = BigInt.asUintN(64, addr + BigInt(done));
      const n = call(pid, local, 1, remote, 1, 0);
      if (n <= 0) throw errnoError(n < 0 && errno() === EPERM ? EPERM : EFAULT);
      done += n;
    }
  };
  return {
    read: (pid, addr, buf) => transfer(libc.process_vm_readv, pid, addr, buf),
    write: (pid, addr, buf) => transfer(libc.process_vm_writev, pid, addr, buf),
  };
}
