/**
 * The test command: formatting, lint, types, then every test. Ends with one line of counts.
 *
 * `deno task test [FILTER…]` runs only the test files whose path contains one of the words.
 */

import { ensurePackages, TEST_PACKAGES } from "./setup.ts";

const root = new URL("..", import.meta.url).pathname;
const deno = Deno.execPath();

function step(name: string, args: string[]): void {
  console.log(`== ${name}`);
  const done = new Deno.Command(deno, { args, cwd: root, stdout: "inherit", stderr: "inherit" })
    .outputSync();
  if (!done.success) {
    console.error(`${name} failed`);
    Deno.exit(1);
  }
}

/** All `*_test.ts` files below `dir`, sorted. */
function testFiles(dir: string): string[] {
  const found: string[] = [];
  for (const entry of Deno.readDirSync(dir)) {
    const path = `${dir}/${entry.name}`;
    if (entry.isDirectory) found.push(...testFiles(path));
    else if (entry.name.endsWith("_test.ts")) found.push(path);
  }
  return found.sort();
}

/** Passes bytes on to standard output, which may be a pipe that takes some now and some later. */
async function show(bytes: Uint8Array): Promise<void> {
  for (let rest = bytes; rest.length > 0;) {
    try {
      rest = rest.subarray(Deno.stdout.writeSync(rest));
    } catch (e) {
      if (!(e instanceof Deno.errors.WouldBlock)) throw e;
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }
}

interface Counts {
  passed: number;
  failed: number;
  skipped: number;
}

/** Runs the tests, showing their output, and returns their counts from deno's closing line. */
async function runTests(files: string[], golden: string): Promise<Counts> {
  const child = new Deno.Command(deno, {
    args: ["test", "-A", "--no-check", ...files],
    cwd: root,
    env: { NO_COLOR: "1", DENO_NO_UPDATE_CHECK: "1", SCOUTFS_GOLDEN_CACHE: golden },
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  let tail = "";
  for await (const chunk of child.stdout) {
    await show(chunk);
    tail = (tail + new TextDecoder().decode(chunk)).slice(-4096);
  }
  const { success } = await child.status;
  const line = tail.match(/(\d+) passed.*?\| (\d+) failed(?:.*?\| (\d+) ignored)?/);
  if (line === null) {
    console.error("the tests ended without counts");
    Deno.exit(1);
  }
  const counts = { passed: +line[1], failed: +line[2], skipped: +(line[3] ?? 0) };
  if (!success && counts.failed === 0) counts.failed = 1;
  return counts;
}

ensurePackages(TEST_PACKAGES);
const words = Deno.args;
if (words.length === 0) {
  step("format", ["fmt", "--check", "--quiet"]);
  step("lint", ["lint", "--quiet"]);
  step("types", ["check", "--quiet", "."]);
}
console.log("== tests");
const files = testFiles(`${root}tests`).filter((f) =>
  words.length === 0 || words.some((w) => f.includes(w))
);
const golden = Deno.makeTempDirSync({ prefix: "scoutfs-golden-" });
const { passed, failed, skipped } = await runTests(files, golden)
  .finally(() => Deno.removeSync(golden, { recursive: true }));
await show(new TextEncoder().encode(`${passed} passed, ${failed} failed, ${skipped} skipped\n`));
Deno.exit(failed === 0 && passed > 0 ? 0 : 1);
