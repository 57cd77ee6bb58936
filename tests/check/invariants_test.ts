/**
 * docs/fsck-invariants.md against the table of problems and the files of the checker: what it names
 * exists, and each problem is named.
 */

import assert from "node:assert/strict";
import { isProblemCode, PROBLEMS } from "../../fs/check/problems.ts";

const PAGE = new URL("../../docs/fsck-invariants.md", import.meta.url);
const CHECKS = new URL("../../fs/check/", import.meta.url);

/** Cells of the rows of all tables with `columns` columns, without their heads. */
function rowsOf(columns: number): string[][] {
  return Deno.readTextFileSync(PAGE).split("\n")
    .filter((line) => line.startsWith("| "))
    .map((line) => line.slice(1, -1).split("|").map((cell) => cell.trim()))
    .filter((cells) => cells.length === columns && !["Promise", "Code"].includes(cells[0] ?? ""));
}

const quoted = (cell: string): string[] => [...cell.matchAll(/`([^`]+)`/g)].map((m) => m[1] ?? "");

Deno.test("invariants: each code and each file that the page names exists", () => {
  const rows = rowsOf(4);
  assert.ok(rows.length > 60, `only ${rows.length} promises`);
  for (const [promise, files, codes, mending] of rows as [string, string, string, string][]) {
    assert.ok(promise !== "" && files !== "" && codes !== "" && mending !== "", promise);
    for (const file of quoted(files)) {
      assert.ok(Deno.statSync(new URL(file, CHECKS)).isFile, `${promise}: ${file}`);
    }
    for (const code of quoted(codes)) assert.ok(isProblemCode(code), `${promise}: ${code}`);
  }
});

Deno.test("invariants: each code belongs to a promise, or is beyond the specification", () => {
  const beyond = rowsOf(2).map(([code]) => quoted(code ?? "")[0] ?? "");
  for (const code of beyond) assert.ok(isProblemCode(code), code);
  const named = new Set([...rowsOf(4).flatMap(([, , codes]) => quoted(codes ?? "")), ...beyond]);
  const missing = Object.keys(PROBLEMS).filter((code) => !named.has(code));
  assert.deepEqual(missing, [], "codes that docs/fsck-invariants.md does not name");
});
