/** A signal ends a check whether anybody reads what it says or not. */

import assert from "node:assert/strict";

const MODULE = new URL("../../cli/interrupt.ts", import.meta.url).href;

for (const json of [false, true]) {
  Deno.test(`interrupt: nobody reads the output any more, ${json ? "records" : "text"}`, async () => {
    const dir = await Deno.makeTempDir({ prefix: "interrupt-" }), ready = `${dir}/ready`;
    try {
      const program = `
        import { Interrupt } from ${JSON.stringify(MODULE)};
        await Interrupt.watch(${json});
        Deno.writeTextFileSync(${JSON.stringify(ready)}, "");
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 60_000);`;
      await Deno.writeTextFile(`${dir}/busy.ts`, program);
      const child = new Deno.Command(Deno.execPath(), {
        args: ["run", "-A", "--no-check", `${dir}/busy.ts`],
        stdin: "null",
        stdout: "piped",
        stderr: "piped",
      }).spawn();
      await child.stdout.cancel();
      await child.stderr.cancel();
      while (!(await Deno.stat(ready).then(() => true, () => false))) {
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      child.kill("SIGTERM");
      assert.equal((await child.status).code, 32);
    } finally {
      await Deno.remove(dir, { recursive: true });
    }
  });
}
