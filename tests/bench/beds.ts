/**
 * The systems that the benchmark compares, each mounted on storage in memory: scoutfs, ext4,
 * ntfs-3g and fuse2fs on loop devices over files in a tmpfs, passthrough_hp over a tmpfs folder.
 *
 * Servers run on processor 0, where the load runs too: a wake-up across processors costs several
 * times what any of them does for a request.
 */

export const ROOT = new URL("../..", import.meta.url).pathname.replace(/\/$/, "");

export interface Bed {
  name: string;
  /** Where the load works. */
  dir: string;
  close(): void | Promise<void>;
}

/** Runs a program to its end; its standard output, or an error with what it said. */
export function must(command: string, args: string[], cwd?: string): string {
  const done = new Deno.Command(command, { args, ...(cwd ? { cwd } : {}) }).outputSync();
  if (!done.success) {
    const said = new TextDecoder().decode(done.stderr).trim();
    throw new Error(`${command} ${args.join(" ")}: ${said || `exit ${done.code}`}`);
  }
  return new TextDecoder().decode(done.stdout);
}

/** A tmpfs of its own. */
export function tmpfs(): { path: string; close(): Promise<void> } {
  const path = Deno.makeTempDirSync({ prefix: "scoutfs-bench-" });
  must("mount", ["-t", "tmpfs", "-o", "size=12g", "tmpfs", path]);
  return {
    path,
    async close() {
      // A loop device lets go of its file when its last user, a server that is ending, does.
      for (let tries = 0;; tries++) {
        try {
          must("umount", [path]);
          break;
        } catch (e) {
          if (tries === 50) throw e;
          await new Promise((resolve) => setTimeout(resolve, 100));
        }
      }
      Deno.removeSync(path);
    },
  };
}

/** A loopback port that nobody uses just now. */
export function freePort(): number {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  listener.close();
  return port;
}

/** A loop device over a new sparse file in `store`. */
export function loopDevice(store: string, name: string, bytes: number): string {
  const image = `${store}/${name}.img`;
  Deno.writeFileSync(image, new Uint8Array());
  Deno.truncateSync(image, bytes);
  return must("losetup", ["-f", "--show", "--direct-io=on", image]).trim();
}

/** Starts a foreground server on processor 0 and waits until its mount point shows it. */
export async function serve(
  command: string,
  args: string[],
  mountpoint: string,
): Promise<() => Promise<void>> {
  const child = new Deno.Command("taskset", {
    args: ["-c", "0", command, ...args],
    stdout: "null",
    stderr: "inherit",
  }).spawn();
  let ended = false;
  const end = child.status.then(() => ended = true);
  for (let tries = 0; !isMounted(mountpoint); tries++) {
    if (ended || tries > 300) throw new Error(`${command} did not mount ${mountpoint}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  return async () => {
    must("umount", [mountpoint]);
    await end;
  };
}

function isMounted(path: string): boolean {
  return Deno.readTextFileSync("/proc/self/mountinfo").includes(` ${path} `);
}

function passthroughSource(store: string): string {
  // The example is in the source package, not in the development package.
  const dir = `${store}/fuse-source`;
  for (const sub of ["", "/lists", "/lists/partial", "/parts"]) Deno.mkdirSync(dir + sub);
  for (const entry of Deno.readDirSync("/etc/apt/sources.list.d")) {
    const text = Deno.readTextFileSync(`/etc/apt/sources.list.d/${entry.name}`);
    const source = text.replaceAll(/^Types: deb$/gm, "Types: deb-src").replaceAll(
      /^deb /gm,
      "deb-src ",
    );
    Deno.writeTextFileSync(`${dir}/parts/${entry.name}`, source);
  }
  const apt = [
    "-q",
    "-o",
    "Dir::Etc::SourceList=/etc/apt/sources.list",
    "-o",
    `Dir::Etc::SourceParts=${dir}/parts`,
    "-o",
    `Dir::State::Lists=${dir}/lists`,
  ];
  must("apt-get", [...apt, "update"], dir);
  must("apt-get", [...apt, "source", "--download-only", "fuse3"], dir);
  const archive = [...Deno.readDirSync(dir)].find((e) => /\.orig\.tar\.\w+$/.test(e.name))!;
  must("tar", ["xf", archive.name, "--strip-components=1"], dir);
  const flags = must("pkg-config", ["--cflags", "--libs", "fuse3"]).trim().split(/\s+/);
  const binary = `${store}/passthrough_hp`;
  must("g++", ["-O2", "-o", binary, `${dir}/example/passthrough_hp.cc`, ...flags, "-lpthread"]);
  return binary;
}

/** The named systems (none: all of them), mounted, ours first. */
export async function beds(store: string, names: readonly string[] = []): Promise<Bed[]> {
  const made: Bed[] = [];
  const wanted = (name: string) => names.length === 0 || names.includes(name);
  const mountpoint = (name: string) => {
    const dir = `${store}/${name}`;
    Deno.mkdirSync(dir);
    return dir;
  };
  const add = (name: string, dir: string, stop: () => unknown, loops: string[]) =>
    made.push({
      name,
      dir,
      async close() {
        await stop();
        for (const loop of loops) must("losetup", ["-d", loop]);
      },
    });
  try {
    if (wanted("scoutfs")) {
      const meta = loopDevice(store, "meta", 2 ** 30);
      const data = loopDevice(store, "data", 2 ** 31);
      const dir = mountpoint("scoutfs");
      const scoutfs = ["run", "-A", `${ROOT}/scoutfs.ts`];
      must(Deno.execPath(), [
        ...scoutfs,
        "mkfs",
        "-A",
        "-Q",
        `0,127.0.0.1,${freePort()}`,
        meta,
        data,
      ]);
      const options = `metadev_path=${meta},quorum_slot_nr=0`;
      const args = [...scoutfs, "mount", "-f", "-o", options, data, dir];
      const stop = await serve(Deno.execPath(), args, dir);
      add("scoutfs", dir, stop, [meta, data]);
    }
    if (wanted("passthrough_hp")) {
      const binary = passthroughSource(store);
      const source = mountpoint("passthrough-source");
      const dir = mountpoint("passthrough");
      const stop = await serve(binary, ["--foreground", "--nocache", source, dir], dir);
      add("passthrough_hp", dir, stop, []);
    }
    if (wanted("ntfs-3g")) {
      const device = loopDevice(store, "ntfs", 2 ** 31);
      must("mkfs.ntfs", ["-Q", "-F", device]);
      const dir = mountpoint("ntfs-3g");
      const stop = await serve("ntfs-3g", ["-o", "no_detach", device, dir], dir);
      add("ntfs-3g", dir, stop, [device]);
    }
    if (wanted("fuse2fs")) {
      const device = loopDevice(store, "fuse2fs", 2 ** 31);
      must("mkfs.ext4", ["-q", "-F", device]);
      const dir = mountpoint("fuse2fs");
      const stop = await serve("fuse2fs", ["-f", device, dir], dir);
      add("fuse2fs", dir, stop, [device]);
    }
    if (wanted("ext4")) {
      const device = loopDevice(store, "ext4", 2 ** 31);
      must("mkfs.ext4", ["-q", "-F", device]);
      const dir = mountpoint("ext4");
      must("mount", [device, dir]);
      add("ext4", dir, () => must("umount", [dir]), [device]);
    }
    return made;
  } catch (e) {
    for (const bed of made.toReversed()) await bed.close();
    throw e;
  }
}
