/** Writes docs/fsck-problems.md from the table of fs/check/problems.ts; a test compares the two. */

import { PROBLEMS } from "../../fs/check/problems.ts";

export const PROBLEMS_PAGE = new URL("../../docs/fsck-problems.md", import.meta.url);

const MENDED = { safe: "`-p`, `-y`", lossy: "`-y`", none: "–" } as const;
const escape = (text: string) => text.replaceAll("|", "\\|");

/** The page: one row a code. */
export function problemsPage(): string {
  const rows = Object.entries(PROBLEMS).map(([code, p]) =>
    `| \`${code}\` | ${p.severity} | ${escape(p.text)} | ${MENDED[p.mending]} | ${escape(p.how)} |`
  );
  return [
    "# Problems that fsck reports",
    "",
    "Made from the table in `fs/check/problems.ts`; `scoutfs fsck --explain CODE` prints one of them.",
    "An error contradicts the format, a warning is a contradiction that nothing depends on; both make",
    "the exit status 4 unless they are mended. An info is no problem. `-p` mends only what loses",
    "nothing, `-y` everything that can be mended.",
    "",
    "| Code | Severity | Message | Mended by | How |",
    "|---|---|---|---|---|",
    ...rows,
    "",
  ].join("\n");
}

if (import.meta.main) Deno.writeTextFileSync(PROBLEMS_PAGE, problemsPage());
