/** Ports on loopback for tests that listen themselves or start programs that do. */

import { EADDRINUSE } from "../../format/errno.ts";
import { FsError } from "../../fs/errors.ts";
import { closeFd } from "../../fs/sys/libc.ts";
import { listenSocket, localAddr, udpSocket } from "../../fs/sys/sockets.ts";

const LOOPBACK = 0x7f000001;
const FIRST = 20_000;

/** Where the ports begin that the kernel gives to whoever asks for any: it could give one of ours. */
function firstOfKernel(): number {
  try {
    return Number(Deno.readTextFileSync("/proc/sys/net/ipv4/ip_local_port_range").split(/\s/)[0]);
  } catch {
    return 32_768;
  }
}

/** Other processes begin elsewhere, and none comes twice in this one before all have come. */
let next = Math.floor(Math.random() * 10_000);

/** A port that is free for TCP and UDP, and stays so unless somebody asks for just that one. */
export function freePort(): number {
  const count = firstOfKernel() - FIRST;
  for (let tries = 0; tries < count; tries++) {
    const port = FIRST + next++ % count;
    if (isFree(port)) return port;
  }
  // All belong to the kernel here.
  const fd = listenSocket({ addr: LOOPBACK, port: 0 });
  const { port } = localAddr(fd);
  closeFd(fd);
  return port;
}

function isFree(port: number): boolean {
  const at = { addr: LOOPBACK, port };
  try {
    closeFd(listenSocket(at));
    closeFd(udpSocket(at));
    return true;
  } catch (e) {
    if (e instanceof FsError && e.errno === EADDRINUSE) return false;
    throw e;
  }
}
