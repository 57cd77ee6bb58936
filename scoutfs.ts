/** The program: `scoutfs COMMAND …`. */

import { main } from "./cli/main.ts";

// Output is written when main returns. A worker of a mount that was given up may still sit in a wait:
// the program must not sit there with it.
Deno.exit(await main(Deno.args));
