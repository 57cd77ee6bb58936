/** How `scoutfs fsck` works in surroundings that are not what they should be. */

import assert from "node:assert/strict";

const MAIN = new URL("../../scoutfs.ts", import.meta.url).pathname;

/** The status of a shell's command line, in which `$FSCK` is the program. */
async function shell(line: string): Promise<number> {
  const { code } = await new Deno.Command("sh", {
    args: ["-c", line],
    env: { FSCK: `${Deno.execPath()} run -A ${MAIN} fsck` },
    stdin: "null",
  }).output();
  return code;
}

Deno.test("operating: a status does not depend on who takes the messages", async () => {
  for (const to of ["2>/dev/full", "2>&-"]) {
    assert.equal(await shell(`$FSCK --nonsense ${to}`), 16, to);
    assert.equal(await shell(`$FSCK -n /nonexistent/m /nonexistent/d ${to}`), 8, to);
  }
});
