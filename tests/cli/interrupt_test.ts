/**
 * Signals for a check whose output nobody reads, any more or yet, whose terminal has gone, and whose
 * files may not grow.
 */

import assert from "node:assert/strict";

const MODULE = new URL("../../cli/interrupt.ts", import.meta.url).href;
/** A process that no signal ends is ended so, and fails the test. */
const GIVEN_UP_MS = 300_000;

/** Runs `body` as a checking thread does, once signals are watched; `use` gets the process then. */
async function watched(
  json: boolean,
  body: string,
  use: (child: Deno.ChildProcess, dir: string) => Promise<void>,
  prefix: readonly [string, ...string[]] = ["env"],
): Promise<void> {
  const dir = await Deno.makeTempDir({ prefix: "interrupt-" }), ready = `${dir}/ready`;
  try {
    await Deno.writeTextFile(
      `${dir}/busy.ts`,
      `import { Interrupt } from ${JSON.stringify(MODULE)};
      const interrupt = await Interrupt.watch(${json});
      Deno.writeTextFileSync(${JSON.stringify(ready)}, "");
      ${body}
      interrupt.close();`,
    );
    const [command, ...args] = prefix;
    const child = new Deno.Command(command, {
      args: [...args, Deno.execPath(), "run", "-A", "--no-check", `${dir}/busy.ts`, dir],
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const givenUp = setTimeout(() => child.kill("SIGKILL"), GIVEN_UP_MS);
    try {
      await made(ready, child);
      await use(child, dir);
    } finally {
      clearTimeout(givenUp);
    }
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

/** Waits until a process has made a file. */
async function made(path: string, child: Deno.ChildProcess): Promise<void> {
  let over = false;
  child.status.then(() => over = true);
  while (!(await Deno.stat(path).then(() => true, () => false))) {
    assert.ok(!over, `the process ended before it made ${path}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

const text = (b: Uint8Array): string => new TextDecoder().decode(b);

for (const json of [false, true]) {
  const stream = json ? "stdout" : "stderr";
  Deno.test(`interrupt: nobody reads ${stream} any more`, async () => {
    const body = `Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);`;
    await watched(json, body, async (child) => {
      await child.stdout.cancel();
      await child.stderr.cancel();
      child.kill("SIGTERM");
      assert.equal((await child.status).code, 32);
    });
  });

  Deno.test(`interrupt: nobody reads ${stream}, which is full`, async () => {
    const body = `
      const line = new Uint8Array(4096).fill(97);
      Deno.writeTextFileSync(Deno.args[0] + "/writing", "");
      for (;;) Deno.${stream}.writeSync(line);`;
    await watched(json, body, async (child, dir) => {
      await made(`${dir}/writing`, child);
      child.kill("SIGTERM");
      // Not output(): that would read.
      assert.equal((await child.status).code, 32);
      await child.stdout.cancel();
      await child.stderr.cancel();
    });
  });
}

Deno.test("interrupt: under nohup the end of the terminal ends nothing", async () => {
  const body = `
    const wait = (ms) => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
    const sent = () => [...Deno.readDirSync(Deno.args[0])].some((e) => e.name === "sent");
    while (!sent()) wait(20);
    wait(1000);
    console.log("done");`;
  await watched(false, body, async (child, dir) => {
    child.kill("SIGHUP");
    await Deno.writeTextFile(`${dir}/sent`, "");
    const { code, stdout } = await child.output();
    assert.deepEqual([code, text(stdout)], [0, "done\n"]);
  }, ["nohup"]);
});

Deno.test("interrupt: a file that may not grow is an error, not the end of the process", async () => {
  const body = `
    try {
      Deno.writeFileSync(Deno.args[0] + "/large", new Uint8Array(64 << 20));
    } catch (e) {
      console.log(e.message.split(":")[0]);
    }`;
  await watched(false, body, async (child) => {
    const { code, stdout } = await child.output();
    assert.deepEqual([code, text(stdout)], [0, "File too large (os error 27)\n"]);
  }, ["prlimit", `--fsize=${32 << 20}`]);
});
