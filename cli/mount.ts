/**
 * `scoutfs mount`: mounts a volume. Without -f a child process in the background serves it, and
 * this command returns when the mount is usable, or prints the child's one-line error.
 */

import { EINTR, EIO, strerror } from "../format/errno.ts";
import { FsError } from "../fs/errors.ts";
import { parseMountOptions } from "../fs/options.ts";
import { cString, libc, O_RDWR } from "../fs/sys/libc.ts";
import { type CommandSpec, UsageError } from "./command.ts";
import { MountLog } from "./mount/log.ts";
import { runMount } from "./mount/main.ts";
import { runtimeDir } from "./mount/paths.ts";
import { errnoOfFailure, printError, printLine } from "./output.ts";

/** Set in the child's environment: it reports on standard output. */
const CHILD = "SCOUTFS_MOUNT_CHILD";

export const command: CommandSpec = {
  setup(c) {
    c.argument("[data-device]", "the data device or image file")
      .argument("[mountpoint]", "the directory to mount on")
      .option("-f, --foreground", "stay in front and log to standard error")
      .option("-o, --options <options>", "mount options, metadev_path=PATH among them", collect, [])
      .action(async (dataPath, mountpoint, opts) => {
        if (dataPath === undefined || mountpoint === undefined) {
          throw new UsageError("must provide a data device and a mount point");
        }
        const options = parseMountOptions((opts.options as string[]).join(","));
        const params = { dataPath, mountpoint, options };
        if (opts.foreground === true) {
          await runMount(params, {
            log: logToStderr,
            onReady: () => {},
          });
          Deno.exit(0);
        }
        if (Deno.env.get(CHILD) === "1") await serveInBackground(params);
        else await startChild();
      });
  },
};

/** A line of a mount in front. A terminal or pipe that is gone must not end a mount. */
function logToStderr(line: string): void {
  try {
    console.error(line);
  } catch {
    // There is nobody to tell.
  }
}

function collect(value: string, before: string[]): string[] {
  return [...before, value];
}

/** After this a waiting mount says that it waits. */
const PATIENCE_MS = 10_000;

/** The parent: starts this same command line again, detached, and waits for its word. */
async function startChild(): Promise<void> {
  const self = Deno.build.standalone
    ? []
    : ["run", "--quiet", "--no-prompt", "-A", Deno.mainModule];
  const child = new Deno.Command(Deno.execPath(), {
    args: [...self, ...Deno.args],
    env: { [CHILD]: "1" },
    stdin: "null",
    stdout: "piped",
    stderr: "inherit",
    detached: true,
  }).spawn();
  // Whoever gives up waiting for us gives up the mount.
  let givenUp = false;
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    Deno.addSignalListener(signal, () => {
      givenUp = true;
      try {
        child.kill("SIGTERM");
      } catch {
        // It has ended; what it said is read below.
      }
    });
  }
  const waiting = setTimeout(
    () => printError(`still waiting for the cluster; see ${runtimeDir()}/mount.log`),
    PATIENCE_MS,
  );
  let said = "";
  const decoder = new TextDecoder();
  for await (const bytes of child.stdout) {
    said += decoder.decode(bytes, { stream: true });
    if (said.includes("\n")) break;
  }
  clearTimeout(waiting);
  const [line = ""] = said.split("\n");
  if (line === "ready") Deno.exit(0);
  const [, errno, message] = /^error (\d+) (.*)$/.exec(line) ?? [];
  if (message === undefined) {
    // It had not yet come to listening for signals.
    if (givenUp) throw new FsError(EINTR, "interrupted while mounting");
    throw new FsError(EIO, `the mount process ended without a word; see ${runtimeDir()}/mount.log`);
  }
  throw new FsError(Number(errno), message);
}

/** The child: tells its parent how it went, then has nothing to do with any terminal. */
async function serveInBackground(params: Parameters<typeof runMount>[0]): Promise<never> {
  let log: MountLog | null = null;
  let told = false;
  const parent = Deno.ppid;
  const watch = setInterval(() => {
    if (Deno.ppid !== parent) Deno.kill(Deno.pid, "SIGTERM");
  }, 1000);
  try {
    const file = log = new MountLog(runtimeDir());
    await runMount(params, {
      log: (line) => file.write(line),
      onReady: () => {
        told = true;
        clearInterval(watch);
        printLine("ready");
        leaveTerminal();
      },
    });
  } catch (e) {
    const message = e instanceof Error ? e.message : String(e);
    const errno = errnoOfFailure(e) ?? EIO;
    if (!told) printLine(`error ${errno} ${message.split("\n")[0] ?? strerror(errno)}`);
    if (errnoOfFailure(e) === undefined) {
      log?.write(`scoutfs error: ${(e as Error).stack ?? message}`);
    }
    Deno.exit(1);
  }
  Deno.exit(0);
}

/**
 * Lets go of standard input, output and error, of which the runtime holds copies in every isolate:
 * whoever waits for the end of our output must not wait for the end of the mount.
 */
function leaveTerminal(): void {
  const link = (fd: string): string => {
    try {
      return Deno.readLinkSync(`/proc/self/fd/${fd}`);
    } catch {
      return ""; // Closed, as the descriptor of this very listing.
    }
  };
  const standard = new Set(["0", "1", "2"].map(link));
  standard.delete("");
  const copies = [...Deno.readDirSync("/proc/self/fd")].map((e) => e.name)
    .filter((fd) => standard.has(link(fd)));
  const nowhere = libc.open(cString("/dev/null"), O_RDWR, 0);
  for (const fd of copies) libc.dup2(nowhere, Number(fd));
  Deno.chdir("/");
}
