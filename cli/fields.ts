/** `NAME VALUE` lines of `stat` and `statfs`, one field alone, or JSON (05 §12.2). */

import { printError, printLine } from "./output.ts";

const NAME_WIDTH = 17;

/** Names and values in the order of printing; `text` is what the reference prints. */
export interface Field {
  readonly name: string;
  readonly text: string;
  readonly json: string | number;
}

export interface FieldOptions {
  singleField?: string;
  json?: true;
}

/** Prints all fields, or the one asked for; an unknown one is status 1. */
export function printFields(fields: readonly Field[], options: FieldOptions): void {
  const { singleField } = options;
  if (singleField !== undefined) {
    const field = fields.find((f) => f.name === singleField);
    if (field === undefined) {
      printError(`unknown field: '${singleField}'`);
      Deno.exitCode = 1;
    } else printLine(options.json ? JSON.stringify(field.json) : field.text);
  } else if (options.json) {
    printLine(JSON.stringify(Object.fromEntries(fields.map((f) => [f.name, f.json]))));
  } else {
    for (const f of fields) printLine(`${f.name.padEnd(NAME_WIDTH)} ${f.text}`);
  }
}

/** A count: JSON numbers as long as they are exact. */
export function countField(name: string, value: number | bigint): Field {
  const exact = value <= Number.MAX_SAFE_INTEGER;
  return { name, text: `${value}`, json: exact ? Number(value) : `${value}` };
}
