/**
 * Makes `build/scoutfs` (or the file of its argument), one executable that needs no Deno installation.
 *
 * `deno compile` makes it where its runtime can be downloaded. Elsewhere the executable is a shell
 * stub followed by an archive of the Deno program, our source and the packages it uses; it unpacks
 * itself once into a cache folder named by the archive's hash and runs from there.
 */

import { createHash } from "node:crypto";
import { existsSync } from "node:fs";

const ROOT = new URL("..", import.meta.url).pathname.replace(/\/$/, "");
const SOURCES = ["scoutfs.ts", "mod.ts", "cli", "fs", "format", "net", "deno.json", "deno.lock"];
/** Modules that are loaded by name at run time, which a module graph does not show. */
const ENTRIES = ["scoutfs.ts", ...commandModules(), ...workerModules()];

function commandModules(): string[] {
  return [...Deno.readDirSync(`${ROOT}/cli`)]
    .filter((e) => e.isFile && e.name.endsWith(".ts") && !e.name.endsWith("_worker.ts"))
    .map((e) => `cli/${e.name}`);
}

function workerModules(): string[] {
  return ["cli", "cli/mount", "fs/check"].flatMap((dir) =>
    [...Deno.readDirSync(`${ROOT}/${dir}`)]
      .filter((e) => e.isFile && e.name.endsWith("_worker.ts"))
      .map((e) => `${dir}/${e.name}`)
  );
}

function must(command: string, args: string[], env: Record<string, string> = {}): void {
  const done = new Deno.Command(command, { args, cwd: ROOT, env }).outputSync();
  if (!done.success) {
    throw new Error(`${command} ${args[0]}: ${new TextDecoder().decode(done.stderr).trim()}`);
  }
}

function compile(target: string): boolean {
  const includes = ENTRIES.slice(1).flatMap((path) => ["--include", path]);
  const args = ["compile", "-A", "--quiet", ...includes, "-o", target, "scoutfs.ts"];
  return new Deno.Command(Deno.execPath(), { args, cwd: ROOT, stderr: "null" }).outputSync()
    .success;
}

function stub(hash: string): string {
  return `#!/bin/sh
# scoutfs, with its runtime: unpacks once, then runs from the cache.
set -e
base="\${SCOUTFS_CACHE:-\${XDG_CACHE_HOME:-\${HOME:-/var/tmp}/.cache}/scoutfs}"
dir="$base/${hash}"
if [ ! -e "$dir/ready" ]; then
  mkdir -p "$base"
  part=$(mktemp -d "$base/part.XXXXXX")
  tail -n +__LINES__ "$0" | gzip -dc | tar -x -C "$part"
  : > "$part/ready"
  mv -T "$part" "$dir" 2>/dev/null || rm -rf "$part"
fi
export DENO_DIR="$dir/cache" DENO_NO_UPDATE_CHECK=1
exec "$dir/deno" run -A --quiet --no-check --cached-only --config "$dir/app/deno.json" "$dir/app/scoutfs.ts" "$@"
`;
}

/** What our lock file names of the packages that this Deno has already: only others are downloaded. */
function copyPackages(to: string): void {
  const { stdout } = new Deno.Command(Deno.execPath(), { args: ["info", "--json"], cwd: ROOT })
    .outputSync();
  const { npmCache } = JSON.parse(new TextDecoder().decode(stdout)) as { npmCache: string };
  const lock = JSON.parse(Deno.readTextFileSync(`${ROOT}/deno.lock`)) as { npm: object };
  const registries = existsSync(npmCache) ? [...Deno.readDirSync(npmCache)].map((e) => e.name) : [];
  for (const key of Object.keys(lock.npm)) {
    const [, name = "", version = ""] = /^(@?[^@]+)@([^_]+)/.exec(key) ?? [];
    for (const place of registries.map((registry) => `${registry}/${name}`)) {
      if (!existsSync(`${npmCache}/${place}/${version}`)) continue;
      Deno.mkdirSync(`${to}/${place}`, { recursive: true });
      for (const part of [version, "registry.json"].map((part) => `${npmCache}/${place}/${part}`)) {
        if (existsSync(part)) must("cp", ["-r", part, `${to}/${place}/`]);
      }
    }
  }
}

function pack(target: string): void {
  const dir = Deno.makeTempDirSync({ prefix: "scoutfs-pack-" });
  try {
    Deno.mkdirSync(`${dir}/app`);
    for (const name of SOURCES) {
      if (existsSync(`${ROOT}/${name}`)) must("cp", ["-r", `${ROOT}/${name}`, `${dir}/app/`]);
    }
    must("cp", [Deno.execPath(), `${dir}/deno`]);
    copyPackages(`${dir}/cache/npm`);
    const entries = ENTRIES.map((path) => `${dir}/app/${path}`);
    const config = ["--config", `${dir}/app/deno.json`];
    must(`${dir}/deno`, ["cache", ...config, ...entries], { DENO_DIR: `${dir}/cache` });
    const archive = `${dir}/archive.tgz`;
    must("sh", ["-c", `tar -c -C ${dir} deno app cache | gzip -1 > ${archive}`]);
    const body = Deno.readFileSync(archive);
    const hash = createHash("sha256").update(body).digest("hex").slice(0, 16);
    const text = stub(hash);
    const head = text.replace("__LINES__", String(text.split("\n").length));
    Deno.writeFileSync(target, new TextEncoder().encode(head));
    Deno.writeFileSync(target, body, { append: true });
    Deno.chmodSync(target, 0o755);
  } finally {
    Deno.removeSync(dir, { recursive: true });
  }
}

const target = Deno.args[0] ?? `${ROOT}/build/scoutfs`;
Deno.mkdirSync(target.slice(0, target.lastIndexOf("/")), { recursive: true });
const how = compile(target) ? "compiled" : (pack(target), "self-extracting");
const size = (Deno.statSync(target).size / 2 ** 20).toFixed(0);
console.log(`${target}: ${how}, ${size} MiB`);
