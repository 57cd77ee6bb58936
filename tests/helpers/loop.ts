/** Loop devices over temporary image files, for tests that run as root. */

export interface LoopDevice {
  readonly path: string;
  readonly image: string;
  /** Detaches the device and removes its image. */
  detach(): Promise<void>;
}

async function losetup(...args: string[]): Promise<string | null> {
  try {
    const out = await new Deno.Command("losetup", { args, stderr: "null" }).output();
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
  const path = await losetup("--find", "--show", "--direct-io=on", image) ??
    await losetup("--find", "--show", image);
  if (path === null || path === "") {
    await Deno.remove(home, { recursive: true });
    return null;
  }
  return {
    path,
    image,
    async detach() {
      await losetup("--detach", path);
      await Deno.remove(home, { recursive: true });
    },
  };
}
