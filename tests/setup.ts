/**
 * Installs the Debian packages that a task needs, or says which are missing.
 *
 * A package counts as present when its probe file exists, so that a machine which got the same
 * program elsewhere is left alone.
 */

import { existsSync, readdirSync } from "node:fs";

interface Package {
  name: string;
  /** Any one of these paths proves it; a trailing `*` matches a file name's beginning. */
  probes: string[];
}

const libraries = [
  "/usr/lib/x86_64-linux-gnu",
  "/usr/lib/aarch64-linux-gnu",
  "/usr/lib64",
  "/usr/lib",
];
const inLibraries = (start: string) => libraries.map((dir) => `${dir}/${start}*`);
const program = (name: string) =>
  ["/usr/bin/", "/usr/sbin/", "/bin/", "/sbin/"].map((d) => d + name);

const PACKAGES = {
  fuse3: { name: "fuse3", probes: program("fusermount3") },
  libfuse: { name: "libfuse3-3", probes: inLibraries("libfuse3.so.3") },
  isal: { name: "libisal2", probes: inLibraries("libisal.so.2") },
  zstd: { name: "zstd", probes: program("zstd") },
  attr: { name: "attr", probes: program("setfattr") },
  acl: { name: "acl", probes: program("setfacl") },
  stress: { name: "stress-ng", probes: program("stress-ng") },
  fio: { name: "fio", probes: program("fio") },
  xfsio: { name: "xfsprogs", probes: program("xfs_io") },
  ext4: { name: "e2fsprogs", probes: program("mkfs.ext4") },
  ntfs: { name: "ntfs-3g", probes: program("ntfs-3g") },
  fuse2fs: { name: "fuse2fs", probes: program("fuse2fs") },
  fusedev: { name: "libfuse3-dev", probes: ["/usr/include/fuse3/fuse.h"] },
  gxx: { name: "g++", probes: program("g++") },
  pkgconfig: { name: "pkg-config", probes: program("pkg-config") },
} satisfies Record<string, Package>;

export type PackageName = keyof typeof PACKAGES;

/** What a mount needs. */
export const MOUNT_PACKAGES: PackageName[] = ["fuse3", "libfuse", "isal"];
/** What the tests need besides. */
export const TEST_PACKAGES: PackageName[] = [
  ...MOUNT_PACKAGES,
  "zstd",
  "attr",
  "acl",
  "stress",
  "fio",
  "xfsio",
  "ext4",
];
/** What the comparison with other filesystems needs besides. */
export const BENCH_PACKAGES: PackageName[] = [
  ...TEST_PACKAGES,
  "ntfs",
  "fuse2fs",
  "fusedev",
  "gxx",
  "pkgconfig",
];

function present(probe: string): boolean {
  if (!probe.endsWith("*")) return existsSync(probe);
  const slash = probe.lastIndexOf("/");
  const dir = probe.slice(0, slash);
  const start = probe.slice(slash + 1, -1);
  return existsSync(dir) && readdirSync(dir).some((name) => name.startsWith(start));
}

function run(command: string, args: string[]): boolean {
  const done = new Deno.Command(command, {
    args,
    env: { DEBIAN_FRONTEND: "noninteractive" },
    stdout: "null",
    stderr: "piped",
  }).outputSync();
  if (!done.success) console.error(new TextDecoder().decode(done.stderr).trimEnd());
  return done.success;
}

/** Installs what is missing of `names`; ends the process with one line when it cannot. */
export function ensurePackages(names: PackageName[]): void {
  const missing = names.map((n) => PACKAGES[n]).filter((p) => !p.probes.some(present));
  if (missing.length === 0) return;
  const list = missing.map((p) => p.name).join(" ");
  if (Deno.uid() !== 0 || !existsSync("/usr/bin/apt-get")) {
    console.error(`missing packages (Debian's names), please install them: ${list}`);
    Deno.exit(1);
  }
  console.log(`installing ${list}`);
  // Somebody else may be installing, and a download may fail once.
  const apt = (...args: string[]) =>
    run("apt-get", ["-q", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3", ...args]);
  apt("update");
  // Old lists may do as well.
  if (!apt("install", "-y", ...missing.map((p) => p.name))) {
    console.error(`could not install: ${list}`);
    Deno.exit(1);
  }
}
