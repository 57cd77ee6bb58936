/**
 * The golden images: volumes made by the reference implementation. Their folder is
 * `../shared/golden` beside the repository, or SCOUTFS_GOLDEN. Images are restored sparse into one
 * temporary folder per test file, once each, and removed when its tests are done.
 */

import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

const FOLDER = Deno.env.get("SCOUTFS_GOLDEN") ??
  fileURLToPath(new URL("../../../shared/golden", import.meta.url));

export type GoldenName =
  | "fresh-v1"
  | "fresh-v2"
  | "fresh-3quorum"
  | "fresh-zoned"
  | "features-v2"
  | "tall"
  | "crash";

/** Paths of restored images; never write to them, take a `copyGolden` for that. */
export interface GoldenImages {
  readonly meta: string;
  readonly data: string;
}

/** Why golden tests cannot run here, undefined when they can. */
function whyNot(): string | undefined {
  try {
    Deno.statSync(`${FOLDER}/README.md`);
  } catch {
    return `no golden images in ${FOLDER}`;
  }
  try {
    new Deno.Command("zstd", { args: ["--version"], stdout: "null", stderr: "null" }).outputSync();
  } catch {
    return "the program zstd is not installed";
  }
  return undefined;
}

const reason = whyNot();

/** Whether the golden images can be had here. */
export const hasGolden = (): boolean => reason === undefined;

let saidWhy = false;

/** `Deno.test` for what needs the golden images: ignored, with one line why, where they are absent. */
export function goldenTest(name: string, fn: (t: Deno.TestContext) => void | Promise<void>): void {
  if (reason !== undefined && !saidWhy) {
    saidWhy = true;
    console.log(`skipping golden tests: ${reason}`);
  }
  Deno.test({ name, ignore: reason !== undefined, fn });
}

/** Restored images of a whole test run, which the runner makes and removes; else one file's own. */
const SHARED = Deno.env.get("SCOUTFS_GOLDEN_CACHE");
let folder: string | undefined;
const restored = new Map<string, string>();

function workFolder(): string {
  if (folder === undefined) {
    const made = Deno.makeTempDirSync({ prefix: "scoutfs-golden-" });
    folder = made;
    globalThis.addEventListener("unload", () => {
      // Somebody may have tidied up the temporary files already.
      if (existsSync(made)) Deno.removeSync(made, { recursive: true });
    });
  }
  return folder;
}

function restore(file: string): string {
  let path = restored.get(file);
  if (path === undefined) {
    path = `${SHARED ?? workFolder()}/${file}`;
    if (!existsSync(path)) {
      zstd(["-d", "-q", "--sparse", "-o", `${path}.part`, `${FOLDER}/${file}.zst`]);
      Deno.renameSync(`${path}.part`, path);
    }
    restored.set(file, path);
  }
  return path;
}

function zstd(args: string[]): Uint8Array {
  const { success, stdout, stderr } = new Deno.Command("zstd", { args }).outputSync();
  if (!success) throw new Error(`zstd ${args.join(" ")}: ${new TextDecoder().decode(stderr)}`);
  return stdout;
}

/** The images of a volume; each is restored when its path is first read. */
export function goldenImages(name: GoldenName): GoldenImages {
  return {
    get meta() {
      return restore(`${name}.meta.img`);
    },
    get data() {
      return restore(`${name}.data.img`);
    },
  };
}

/** Sparse copies that a test may change; they go with the temporary folder. */
export function copyGolden(name: GoldenName): GoldenImages {
  const from = goldenImages(name);
  const dir = Deno.makeTempDirSync({ dir: workFolder() });
  for (const [kind, path] of [["meta", from.meta], ["data", from.data]] as const) {
    const { success, stderr } = new Deno.Command("cp", {
      args: ["--sparse=always", path, `${dir}/${kind}.img`],
    }).outputSync();
    if (!success) throw new Error(`cp ${path}: ${new TextDecoder().decode(stderr)}`);
  }
  return { meta: `${dir}/meta.img`, data: `${dir}/data.img` };
}

/** Bytes of a file of the folder, stored plain or as `FILE.zst`. */
export function goldenFile(file: string): Uint8Array {
  try {
    return Deno.readFileSync(`${FOLDER}/${file}`);
  } catch (e) {
    if (!(e instanceof Deno.errors.NotFound)) throw e;
    return zstd(["-d", "-q", "-c", `${FOLDER}/${file}.zst`]);
  }
}
