/** The program: `scoutfs COMMAND …`. */

import { main } from "./cli/main.ts";

Deno.exitCode = await main(Deno.args);
