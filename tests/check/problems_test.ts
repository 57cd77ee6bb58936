/** The problem table: complete messages, a page that is up to date. */

import assert from "node:assert/strict";
import { PROBLEMS } from "../../fs/check/problems.ts";
import { PROBLEMS_PAGE, problemsPage } from "./problems_doc.ts";

Deno.test("docs/fsck-problems.md is made from the problem table", () => {
  assert.equal(
    Deno.readTextFileSync(PROBLEMS_PAGE),
    problemsPage(),
    "run: deno run -A tests/check/problems_doc.ts",
  );
});

Deno.test("every code is a name and says what it is about", () => {
  for (const [code, p] of Object.entries(PROBLEMS)) {
    assert.match(code, /^[a-z]+(-[a-z]+)*$/);
    assert.ok(p.text.length > 10 && !p.text.endsWith("."), code);
    assert.ok(p.how.endsWith("."), `${code}: ${p.how}`);
    if (p.severity === "info") assert.equal(p.mending, "none", code);
  }
});
