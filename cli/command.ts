/**
 * What a command file offers to main, and the ways in which a command ends. A file `cli/NAME.ts`
 * exports `command: CommandSpec`; main.ts lists it and loads only the one that is run.
 *
 * An action returns when the command succeeded (status 0, or what it put in `Deno.exitCode`) and
 * throws otherwise: UsageError for wrong arguments (status 64), FsError for a failure (its message
 * as a line of its own, then `scoutfs: NAME failed: STRERROR (ERRNO)`, status 1).
 */

import type { Command } from "@commander-js/extra-typings";
import { FsError } from "../fs/errors.ts";
import { EINVAL, strerror } from "../format/errno.ts";

export type { Command };

export interface CommandSpec {
  /**
   * Declares arguments, options and the action. Name, description, help and the handling of errors
   * are set already. Arguments that the reference reports in words of its own are declared
   * optional and checked by the action.
   */
  setup(command: Command): void;
  /** Exit status of wrong use and of failures where they are not 64 and 1. */
  readonly statuses?: { readonly usage: number; readonly failure: number };
}

/** A command as the usage text lists it. */
export interface CommandEntry {
  readonly name: string;
  readonly group: CommandGroup;
  /** Arguments in one line. */
  readonly synopsis: string;
  /** One sentence without a full stop. */
  readonly summary: string;
  /** A command line that does something useful, without `scoutfs`. */
  readonly example: string;
  /** Exit status when the command cannot even be loaded, where that is not 1. */
  readonly unloadable?: number;
  load(): Promise<{ command: CommandSpec }>;
}

export const COMMAND_GROUPS = [
  "Core admin",
  "Additional Information",
  "Search Acceleration",
  "Archival Agent Support",
  "Debugging commands",
] as const;
export type CommandGroup = typeof COMMAND_GROUPS[number];

/** Wrong use of a command: exit status 64. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

/** EINVAL with the line that says what is wrong with a value. */
export const invalidValue = (line: string): FsError => new FsError(EINVAL, line);

/** An error of a system call on `what`, e.g. `failed to open 'x': No such file or directory (2)`. */
export const failedTo = (what: string, errno: number): FsError =>
  new FsError(errno, `failed to ${what}: ${strerror(errno)} (${errno})`);

/** Usual words for errors: `No such file or directory (2)`. */
export const errnoText = (errno: number): string => `${strerror(errno)} (${errno})`;
