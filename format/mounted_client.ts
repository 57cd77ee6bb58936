/** The value of a `mounted_clients` item (01 §13.2). */

import { InetAddr } from "./block.ts";
import { checkSize, View } from "./bytes.ts";
import { MOUNTED_CLIENT_QUORUM, ZONE_MOUNTED_CLIENT } from "./constants.ts";
import { Key } from "./key.ts";

/**
 * A mount known to the servers (01 §13.2), 40 bytes.
 *
 *      0 inet_addr        addr
 *     32 u8               flags
 *     33 u8[7]            pad
 */
export class MountedClientBtreeVal extends View {
  static readonly SIZE = 40;
  /** IPv4 address and port the client connected from, rest zero. */
  get addr(): InetAddr {
    return new InetAddr(this.v, this.o);
  }
  /** Bit 0 = quorum member. */
  get flags(): number {
    return this.v.getUint8(this.o + 32);
  }
  set flags(n: number) {
    this.v.setUint8(this.o + 32, n);
  }
  get isQuorum(): boolean {
    return (this.flags & MOUNTED_CLIENT_QUORUM) !== 0;
  }
}
checkSize(MountedClientBtreeVal.SIZE, 32 + 1 + 7, "MountedClientBtreeVal");

export const mountedClientKey = (rid: bigint): Key => Key.of(ZONE_MOUNTED_CLIENT, rid, 0);
