/**
 * The golden files (images and captures made by the reference implementation): not part of the
 * repository. Found in $SCOUTFS_GOLDEN, or in shared/golden beside the repository.
 */

/** The path of a golden file, or null when there is none on this machine. */
export function goldenPath(name: string): string | null {
  const dirs = [
    Deno.env.get("SCOUTFS_GOLDEN"),
    new URL("../../../shared/golden", import.meta.url).pathname,
  ];
  for (const dir of dirs) {
    if (dir === undefined) continue;
    try {
      Deno.statSync(`${dir}/${name}`);
      return `${dir}/${name}`;
    } catch (e) {
      if (!(e instanceof Deno.errors.NotFound)) throw e;
    }
  }
  return null;
}

/** As `goldenPath`, saying why a test that needs the file is skipped. */
export function goldenOrSkip(name: string): string | null {
  const path = goldenPath(name);
  if (path === null) console.log(`skipped: no golden file ${name} (set SCOUTFS_GOLDEN)`);
  return path;
}
