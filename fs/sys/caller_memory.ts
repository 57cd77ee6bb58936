/**
 * Another process's memory by process_vm_readv(2) and process_vm_writev(2). A caller from a foreign
 * pid namespace (pid 0), a process that is gone, one we may not touch, and unmapped addresses are
 * all EFAULT to whoever asked.
 */

import { EFAULT } from "../../format/errno.ts";
import type { CallerMemory } from "../caller_memory.ts";
import { errnoError } from "../errors.ts";
import { Iovecs, libc } from "./libc.ts";

/** The kernel moves at most this much in one call; larger buffers go in pieces. */
const PIECE = 1 << 30;

class ProcessMemory implements CallerMemory {
  readonly #local = new Iovecs(1);
  readonly #remote = new BigUint64Array(2);
  readonly #remoteBytes = new Uint8Array(this.#remote.buffer);

  read(pid: number, addr: bigint, buf: Uint8Array): void {
    this.#transfer(libc.process_vm_readv, pid, addr, buf);
  }

  write(pid: number, addr: bigint, buf: Uint8Array): void {
    this.#transfer(libc.process_vm_writev, pid, addr, buf);
  }

  #transfer(
    call: typeof libc.process_vm_readv,
    pid: number,
    addr: bigint,
    buf: Uint8Array,
  ): void {
    if (buf.length === 0) return;
    if (pid === 0) throw errnoError(EFAULT);
    for (let done = 0; done < buf.length;) {
      const piece = buf.subarray(done, Math.min(buf.length, done + PIECE));
      this.#local.set(0, piece);
      this.#remote[0] = BigInt.asUintN(64, addr + BigInt(done));
      this.#remote[1] = BigInt(piece.length);
      const moved = call(
        pid,
        this.#local.bytes as Uint8Array<ArrayBuffer>,
        1,
        this.#remoteBytes,
        1,
        0,
      );
      if (moved <= 0) throw errnoError(EFAULT);
      done += moved;
    }
  }
}

/** The memory of processes on this host. */
export function processMemory(): CallerMemory {
  return new ProcessMemory();
}
