/**
 * Takes back what the kernel caches. Invalidating attributes never blocks and is written at once;
 * invalidating data can block while a READ or WRITE of the inode is unanswered, so it is written by
 * a thread of the runtime's pool while the serving thread goes on.
 */

import { setU64 } from "../../format/bytes.ts";
import { EBADF, ENODEV, ENOENT, ENOTCONN, strerror } from "../../format/errno.ts";
import { errno, libc, libcNonblocking } from "../sys/libc.ts";
import type { SystemReactor } from "../sys/reactor.ts";
import { NOTIFY_INVAL_INODE, OUT_HEADER } from "./abi.ts";

const INVAL_INODE = OUT_HEADER + 24;

export class Notifier {
  private readonly attributes = invalInode();

  constructor(
    private readonly reactor: SystemReactor,
    private readonly fd: number,
    private readonly log: (line: string) => void,
  ) {}

  /** The next stat of the inode asks us. */
  invalidateAttributes(ino: number): void {
    const { view, bytes } = this.attributes;
    setU64(view, OUT_HEADER, ino);
    view.setBigInt64(OUT_HEADER + 8, -1n, true);
    view.setBigInt64(OUT_HEADER + 16, 0n, true);
    if (libc.write(this.fd, bytes, bytes.length) >= 0) return;
    const code = errno();
    // The kernel does not know the inode, or the mount is over.
    if (code !== ENOENT && code !== ENODEV && code !== ENOTCONN && code !== EBADF) {
      this.log(`error: invalidating attributes of inode ${ino}: ${strerror(code)}`);
    }
  }

  /** Attributes and all cached pages; resolves when they are gone. */
  invalidateData(ino: number): Promise<void> {
    const { view, bytes } = invalInode();
    setU64(view, OUT_HEADER, ino);
    // The errno of a call on another thread is lost; all that can fail is that nothing is cached.
    const written = libcNonblocking.write(this.fd, bytes, BigInt(bytes.length));
    return this.reactor.outside(written).then(() => {});
  }
}

/** A notification for all of an inode: offset 0, length 0. */
function invalInode(): { view: DataView; bytes: Uint8Array<ArrayBuffer> } {
  const bytes = new Uint8Array(INVAL_INODE);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, INVAL_INODE, true);
  view.setInt32(4, NOTIFY_INVAL_INODE, true);
  return { view, bytes };
}
