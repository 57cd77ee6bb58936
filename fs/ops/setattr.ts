/** The whole of a setattr request: the size first, the other attributes after it (02 §11.2). */

import type { Caller } from "../caller.ts";
import type { Fs } from "../fs.ts";
import { type AttrChanges, setattr } from "./attr.ts";
import { truncate } from "./truncate.ts";

export interface SetattrRequest extends AttrChanges {
  readonly size?: number;
}

/**
 * Truncates or extends to `size` if given (may wait for offline data; several holds), then changes
 * the rest in a hold of its own. `id` is the request's, by which a wait can be interrupted. A
 * promise only if something had to be waited for. Errors: those of `truncate` and `setattr`.
 */
export function setattrJob(
  fs: Fs,
  ino: number,
  request: SetattrRequest,
  caller: Caller | null,
  id: number,
): void | Promise<void> {
  const rest = (): void | Promise<void> =>
    fs.runner.run((op) => setattr(op, fs, ino, request), caller);
  if (request.size === undefined) return rest();
  const sized = truncate(fs, ino, request.size, caller, id);
  return sized instanceof Promise ? sized.then(rest) : rest();
}
