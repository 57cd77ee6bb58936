/**
 * Making and unmaking the kernel's side of a mount, through libfuse's session functions: it knows
 * privileged mounts and `fusermount3` for ordinary users. The protocol on the descriptor is ours.
 *
 * Order of use: `prepareMount` (checks that everything is there), `mount`, serve its `fd`; then
 * either the kernel ends the session (umount), or `unmount` does.
 */

import {
  EBUSY,
  EIO,
  ENODEV,
  ENOENT,
  ENOTDIR,
  EPERM,
  errnoNumber,
  strerror,
} from "../../format/errno.ts";
import { FsError } from "../errors.ts";
import {
  addressOf,
  cString,
  errno,
  F_GETFL,
  F_SETFL,
  libc,
  libcNonblocking,
  MNT_DETACH,
  O_CLOEXEC,
  O_NONBLOCK,
  O_RDWR,
} from "../sys/libc.ts";

export interface MountRequest {
  mountpoint: string;
  /** What /proc/mounts shows as the source. */
  source: string;
  /** On a block device: type `fuseblk`, where sync and umount reach us and are waited for. */
  blockDevice: boolean;
  readOnly: boolean;
  /** Further options for mount(2), such as `noatime`. */
  options?: readonly string[];
}

const FUSE_SYMBOLS = {
  fuse_session_new: { parameters: ["buffer", "buffer", "usize", "pointer"], result: "pointer" },
  fuse_session_mount: { parameters: ["pointer", "buffer"], result: "i32" },
  fuse_session_fd: { parameters: ["pointer"], result: "i32" },
  fuse_session_unmount: { parameters: ["pointer"], result: "void" },
  fuse_session_destroy: { parameters: ["pointer"], result: "void" },
} as const;

type Libfuse = Deno.DynamicLibrary<typeof FUSE_SYMBOLS>["symbols"];

function openLibfuse(): Libfuse {
  for (const name of ["libfuse3.so.3", "libfuse3.so.4", "libfuse3.so"]) {
    try {
      return Deno.dlopen(name, FUSE_SYMBOLS).symbols;
    } catch {
      // Another version, or none.
    }
  }
  throw new FsError(ENOENT, "libfuse3.so.3: not found; install the package libfuse3-3 and fuse3");
}

/** Everything a mount needs, before anything is touched. Throws FsError, one line. */
export function checkMountable(mountpoint: string): void {
  let info: Deno.FileInfo;
  try {
    info = Deno.statSync(mountpoint);
  } catch (e) {
    const code = errnoNumber((e as { code?: string }).code ?? "") ?? EIO;
    throw new FsError(code, `mount point ${mountpoint}: ${strerror(code)}`);
  }
  if (!info.isDirectory) {
    throw new FsError(ENOTDIR, `mount point ${mountpoint}: ${strerror(ENOTDIR)}`);
  }
  const real = Deno.realPathSync(mountpoint);
  if (mountTable().some((m) => m.target === real)) {
    throw new FsError(EBUSY, `mount point ${mountpoint}: something is mounted there already`);
  }
  const fd = libc.open(cString("/dev/fuse"), O_RDWR | O_CLOEXEC, 0);
  if (fd < 0) {
    const code = errno();
    const hint = code === ENOENT || code === ENODEV
      ? "the kernel has no FUSE; try modprobe fuse"
      : code === EPERM || code === 13
      ? "only root may open it; run as root"
      : "";
    throw new FsError(code, `/dev/fuse: ${strerror(code)}${hint === "" ? "" : ` (${hint})`}`);
  }
  libc.close(fd);
  openLibfuse();
  if (Deno.uid() !== 0 && !usersMayAllowOthers()) {
    throw new FsError(
      EPERM,
      "not root: other users can mount only where /etc/fuse.conf has user_allow_other",
    );
  }
}

/** Does the administrator let ordinary users mount for everybody, as we always do? */
function usersMayAllowOthers(): boolean {
  try {
    return /^\s*user_allow_other\b/m.test(Deno.readTextFileSync("/etc/fuse.conf"));
  } catch {
    return false;
  }
}

export interface MountEntry {
  /** The kernel's number of the mount, unique among those that exist. */
  readonly id: number;
  readonly source: string;
  readonly target: string;
  readonly type: string;
  /** MAJOR:MINOR of the mounted filesystem. */
  readonly device: string;
}

/** What is mounted, as /proc/self/mountinfo has it. */
export function mountTable(): MountEntry[] {
  const unescape = (s: string) =>
    s.replace(/\\([0-7]{3})/g, (_, o: string) => String.fromCharCode(parseInt(o, 8)));
  return Deno.readTextFileSync("/proc/self/mountinfo").trimEnd().split("\n").map((line) => {
    const [left = "", right = ""] = line.split(" - ");
    const l = left.split(" "), r = right.split(" ");
    return {
      id: Number(l[0]),
      source: unescape(r[1] ?? ""),
      target: unescape(l[4] ?? ""),
      type: r[0] ?? "",
      device: l[2] ?? "",
    };
  });
}

/** A kernel mount of ours. */
export class KernelMount {
  /** As it stood in the table once mounted: another mount may take its place later. */
  private readonly entry: MountEntry | null;

  constructor(
    private readonly libfuse: Libfuse,
    private readonly session: Deno.PointerObject,
    /** Requests are read from it and answered to it; nonblocking. */
    readonly fd: number,
    /** Absolute, without symbolic links. */
    readonly mountpoint: string,
  ) {
    // The last of several is on top.
    this.entry = mountTable().findLast((m) => m.target === mountpoint) ?? null;
  }

  /**
   * umount(2) off the calling thread, since the serving thread must answer meanwhile. True when
   * unmounted; false when busy. `lazy` detaches at once and serves until the last use ends.
   */
  async unmount(lazy: boolean): Promise<boolean> {
    const r = await libcNonblocking.umount2(cString(this.mountpoint), lazy ? MNT_DETACH : 0);
    if (r === 0) return true;
    if (!this.mounted) return true;
    if (Deno.uid() === 0) return false;
    const args = lazy ? ["-u", "-z", this.mountpoint] : ["-u", this.mountpoint];
    const out = await new Deno.Command("fusermount3", { args, stderr: "null" }).output();
    return out.success;
  }

  /** Whether the kernel still has it at its place. */
  get mounted(): boolean {
    const { entry } = this;
    return entry !== null &&
      mountTable().some((m) => m.id === entry.id && m.device === entry.device);
  }

  /** After the session's end: frees libfuse's session and the descriptor. */
  destroy(): void {
    this.libfuse.fuse_session_unmount(this.session);
    this.libfuse.fuse_session_destroy(this.session);
  }

  /**
   * Lets the kernel read ahead and write back in pieces of 1 MiB: a FUSE mount starts with 128 KiB
   * and strict limits. Where sysfs is not writable the mount is slower, not wrong.
   */
  tune(): void {
    const { entry } = this;
    if (entry === null) return;
    // A mount on a block device has its number, but not its settings: those are that device's own.
    const name = entry.type.startsWith("fuseblk") ? `${entry.device}-fuseblk` : entry.device;
    const settings = { read_ahead_kb: "1024", strict_limit: "0", max_ratio: "100" };
    for (const [setting, value] of Object.entries(settings)) {
      try {
        Deno.writeTextFileSync(`/sys/class/bdi/${name}/${setting}`, value);
      } catch {
        // Not ours to set here.
      }
    }
  }
}

/** Mounts; throws FsError. From here on callers of the filesystem wait until `fd` is served. */
export function kernelMount(request: MountRequest): KernelMount {
  const libfuse = openLibfuse();
  const mountpoint = Deno.realPathSync(request.mountpoint);
  const options = [
    `fsname=${request.source.replaceAll(/[\\,]/g, "\\$&")}`,
    "subtype=scoutfs",
    "allow_other",
    "default_permissions",
    ...(Deno.uid() === 0 ? ["suid", "dev"] : []),
    ...(request.blockDevice ? ["blkdev", "blksize=4096"] : []),
    ...(request.readOnly ? ["ro"] : []),
    ...(request.options ?? []),
  ];
  const session = newSession(libfuse, ["scoutfs", "-o", options.join(",")]);
  if (libfuse.fuse_session_mount(session, cString(mountpoint)) !== 0) {
    libfuse.fuse_session_destroy(session);
    throw new FsError(EIO, `mount at ${mountpoint} failed; see the line above`);
  }
  const fd = libfuse.fuse_session_fd(session);
  setNonblocking(fd);
  return new KernelMount(libfuse, session, fd, mountpoint);
}

/** libfuse copies what it needs of the arguments; the operations table is empty. */
function newSession(libfuse: Libfuse, argv: readonly string[]): Deno.PointerObject {
  const strings = argv.map(cString);
  const pointers = new BigUint64Array(strings.length + 1);
  strings.forEach((s, i) => pointers[i] = addressOf(s));
  const args = new DataView(new ArrayBuffer(24));
  args.setInt32(0, strings.length, true);
  args.setBigUint64(8, addressOf(new Uint8Array(pointers.buffer)), true);
  const session = libfuse.fuse_session_new(
    new Uint8Array(args.buffer),
    new Uint8Array(8),
    8n,
    null,
  );
  if (session === null || strings.length === 0) {
    throw new FsError(EIO, "libfuse refuses the mount options");
  }
  return session;
}

function setNonblocking(fd: number): void {
  const flags = libc.fcntl(fd, F_GETFL, 0);
  libc.fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}
