/** `scoutfs fsck` as a process, and files of generated volumes for it. */

import { LG_SIZE, SM_SIZE } from "../../format/constants.ts";
import { useFastCrc32c } from "../../fs/sys/crc.ts";
import { openDevice } from "../../fs/sys/device.ts";
import { type Damage, generate, generatedSize } from "./generate.ts";

export const MAIN = new URL("../../scoutfs.ts", import.meta.url).pathname;

export const text = (b: Uint8Array): string => new TextDecoder().decode(b);

/** What a process that has ended said. */
export interface Run {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

export function start(...args: string[]): Deno.ChildProcess {
  return new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", MAIN, "fsck", ...args],
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
}

export async function ended(child: Deno.ChildProcess): Promise<Run> {
  const { code, stdout, stderr } = await child.output();
  return { code, out: text(stdout), err: text(stderr) };
}

export const fsck = (...args: string[]): Promise<Run> => ended(start(...args));

/** Runs something with the files of a volume, in a directory that is removed afterwards. */
export async function withGenerated(
  inodes: number,
  damage: Damage | undefined,
  run: (meta: string, data: string, dir: string) => Promise<void>,
): Promise<void> {
  await useFastCrc32c();
  const dir = Deno.makeTempDirSync({ prefix: "scoutfs-fsck-test-" });
  try {
    const { metaBlocks, dataBlocks } = generatedSize(inodes);
    const open = (name: string, bytes: number) => {
      Deno.writeFileSync(`${dir}/${name}`, new Uint8Array(0));
      Deno.truncateSync(`${dir}/${name}`, bytes);
      return openDevice(`${dir}/${name}`, { write: true });
    };
    const meta = open("meta", metaBlocks * LG_SIZE), data = open("data", dataBlocks * SM_SIZE);
    generate(meta, data, inodes, damage);
    meta.close();
    data.close();
    await run(`${dir}/meta`, `${dir}/data`, dir);
  } finally {
    Deno.removeSync(dir, { recursive: true });
  }
}
