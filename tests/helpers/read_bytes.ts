/** Reading file data as a program would: into bytes of its own. */

import type { Fs } from "../../fs/fs.ts";
import { read, type ReadRequest } from "../../fs/ops/data.ts";
import { ReadParts } from "../../fs/read_parts.ts";

/** What a read request returns. */
export async function readBytes(fs: Fs, rq: ReadRequest): Promise<Uint8Array> {
  const parts = new ReadParts();
  const own = new Uint8Array(rq.length);
  const done = read(fs, rq, parts, () => own);
  // At once if it is no promise: the parts are good until something else runs.
  if (typeof done === "number") parts.moveTo(own);
  return own.subarray(0, await done);
}
