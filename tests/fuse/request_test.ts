/** Names of requests: good until the answer, whatever their number and length. */

import assert from "node:assert/strict";
import { EINVAL } from "../../format/errno.ts";
import { IN_HEADER } from "../../fs/fuse/abi.ts";
import { bufferOf, FuseRequest, OUT_BYTES } from "../../fs/fuse/request.ts";

const text = (u: Uint8Array): string => new TextDecoder().decode(u);

/** A request whose arguments are `strings`, each with a NUL. */
function receive(req: FuseRequest, strings: readonly string[], ending = "\0"): void {
  const args = new TextEncoder().encode(strings.join("\0") + ending);
  req.in.view.setUint32(0, IN_HEADER + args.length, true);
  req.in.bytes.set(args, IN_HEADER);
  req.decode(IN_HEADER + args.length);
}

const newRequest = (): FuseRequest =>
  new FuseRequest(bufferOf(new Uint8Array(16384)), bufferOf(new Uint8Array(OUT_BYTES + 4096)));

Deno.test("names of a request stay apart and outlive its arguments", () => {
  const req = newRequest();
  for (
    const lengths of [[1, 1], [9, 9], [255, 255], [3, 4000], [300, 5], [256, 257], [1, 2, 3, 4]]
  ) {
    const strings = lengths.map((n, i) => String.fromCharCode(97 + i).repeat(n));
    receive(req, strings);
    let at = 0;
    const names = strings.map((s) => {
      const name = req.name(at);
      at += s.length + 1;
      return name;
    });
    req.in.bytes.fill(0x7a, IN_HEADER);
    assert.deepEqual(names.map(text), strings);
  }
});

Deno.test("the names of a request are not those of another", () => {
  const one = newRequest(), two = newRequest();
  receive(one, ["first"]);
  const name = one.name(0);
  receive(two, ["other"]);
  two.name(0);
  assert.equal(text(name), "first");
});

Deno.test("a name without an end is refused", () => {
  const req = newRequest();
  receive(req, ["endless"], "");
  assert.throws(() => req.name(0), { errno: EINVAL });
  receive(req, ["x"]);
  assert.throws(() => req.name(2), { errno: EINVAL });
});
