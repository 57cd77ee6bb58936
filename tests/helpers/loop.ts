/** Loop devices over temporary image files, for tests that run as root. */

export interface LoopDevice {
  readonly path: string;
  readonly image: string;
  /** Detaches the device and removes its image. */
  detach(): Promise<void>;
}

/** What a program says; null when it fails or is not there. */
async function tell(command: string, ...args: string[]): Promise<string | null> {
  try {
    const out = await new Deno.Command(command, { args, stderr: "null" }).output();
    return out.success ? new TextDecoder().decode(out.stdout).trim() : null;
  } catch {
    return null;
  }
}

/** A loop device of `bytes` zeros, or null where this machine does not allow one. */
export async function loopDevice(bytes: number, dir?: string): Promise<LoopDevice | null> {
  const home = await Deno.makeTempDir(dir === undefined ? {} : { dir });
  const image = `${home}/image`;
  await Deno.writeFile(image, new Uint8Array());
  await Deno.truncate(image, bytes);
  const path = await tell("losetup", "--find", "--show", "--direct-io=on", image) ??
    await tell("losetup", "--find", "--show", image);
  if (path === null || path === "") {
    await Deno.remove(home, { recursive: true });
    return null;
  }
  // What an earlier user of the number forbade outlives him.
  await tell("blockdev", "--setrw", path);
  return {
    path,
    image,
    async detach() {
      await tell("losetup", "--detach", path);
      await Deno.remove(home, { recursive: true });
    },
  };
}
