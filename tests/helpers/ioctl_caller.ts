/**
 * ioctl(2) from another process: this file is a program that makes the calls it is told on its
 * standard input, knowing nothing of the structures, and what tests use to run it. Arguments and
 * buffers are hex; pointers to buffers are put where the test says.
 */

/** One call. */
export interface IoctlCall {
  /** One character a byte, so that names need not be UTF-8. */
  path: string;
  command: number;
  /** The argument's bytes in hex; empty for a null pointer. */
  argument: string;
  /** Buffers of the caller, and where in the argument their addresses belong. */
  buffers?: { at: number; bytes: number }[];
  /** Pointers that lead nowhere: offsets in the argument. */
  wild?: number[];
  /** open(2) flags; read-only if absent. */
  flags?: number;
}

export interface IoctlResult {
  /** What ioctl(2) returned, −1 included. */
  result: number;
  errno: number;
  /** The argument afterwards, in hex. */
  argument: string;
  buffers: string[];
}

/**
 * Makes the calls in a process of its own, in order; as user `uid`, whom it becomes once it runs (the
 * runtime may lie where that user may not go), or not in its first thread.
 */
export async function callIoctls(
  calls: readonly IoctlCall[],
  { uid, thread = false }: { uid?: number; thread?: boolean } = {},
): Promise<IoctlResult[]> {
  const child = new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "-A", "--no-check", "--no-config", new URL(import.meta.url).pathname],
      ...(thread ? ["thread"] : uid === undefined ? [] : [`${uid}`]),
    ],
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const writer = child.stdin.getWriter();
  await writer.write(new TextEncoder().encode(JSON.stringify(calls)));
  await writer.close();
  const { code, stdout, stderr } = await child.output();
  if (code !== 0) throw new Error(`the caller failed: ${new TextDecoder().decode(stderr)}`);
  return JSON.parse(new TextDecoder().decode(stdout)) as IoctlResult[];
}

const toHex = (b: Uint8Array): string =>
  Array.from(b, (n) => n.toString(16).padStart(2, "0")).join("");
const fromHex = (s: string): Uint8Array<ArrayBuffer> =>
  Uint8Array.from(s.match(/../g) ?? [], (pair) => parseInt(pair, 16));

function run(calls: readonly IoctlCall[], uid?: number): IoctlResult[] {
  const { symbols: libc } = Deno.dlopen("libc.so.6", {
    setgroups: { parameters: ["usize", "pointer"], result: "i32" },
    setuid: { parameters: ["u32"], result: "i32" },
    open: { parameters: ["buffer", "i32"], result: "i32" },
    close: { parameters: ["i32"], result: "i32" },
    ioctl: { parameters: ["i32", "u64", "pointer"], result: "i32" },
    __errno_location: { parameters: [], result: "pointer" },
  });
  const place = libc.__errno_location()!;
  const errno = (): number => new Deno.UnsafePointerView(place).getInt32();
  if (uid !== undefined && (libc.setgroups(0n, null) !== 0 || libc.setuid(uid) !== 0)) {
    throw new Error(`become user ${uid}: errno ${errno()}`);
  }
  return calls.map((call) => {
    const path = Uint8Array.from([...call.path, "\0"], (c) => c.charCodeAt(0));
    const fd = libc.open(path, call.flags ?? 0);
    if (fd < 0) throw new Error(`open ${call.path}: errno ${errno()}`);
    const argument = fromHex(call.argument);
    const view = new DataView(argument.buffer);
    const buffers = (call.buffers ?? []).map(({ at, bytes }) => {
      const buffer = new Uint8Array(bytes).fill(0xee);
      const address = Deno.UnsafePointer.value(Deno.UnsafePointer.of(buffer));
      view.setBigUint64(at, BigInt(address), true);
      return buffer;
    });
    for (const at of call.wild ?? []) view.setBigUint64(at, 4096n, true);
    const pointer = argument.length === 0 ? null : Deno.UnsafePointer.of(argument);
    const result = libc.ioctl(fd, BigInt(call.command), pointer);
    const error = result < 0 ? errno() : 0;
    libc.close(fd);
    return { result, errno: error, argument: toHex(argument), buffers: buffers.map(toHex) };
  });
}

if (typeof WorkerGlobalScope !== "undefined" && globalThis.name === "ioctl caller") {
  globalThis.onmessage = ({ data }: MessageEvent) => postMessage(run(data as IoctlCall[]));
} else if (import.meta.main) {
  const calls = JSON.parse(await new Response(Deno.stdin.readable).text()) as IoctlCall[];
  if (Deno.args[0] === "thread") {
    const worker = new Worker(import.meta.url, { type: "module", name: "ioctl caller" });
    worker.onmessage = ({ data }) => {
      console.log(JSON.stringify(data));
      worker.terminate();
    };
    worker.postMessage(calls);
  } else {
    const uid = Deno.args[0] === undefined ? undefined : Number(Deno.args[0]);
    console.log(JSON.stringify(run(calls, uid)));
  }
}
