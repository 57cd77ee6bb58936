/** Sizes for people: a value divided by 1024 until it is below, two decimals (05 §12.1). */

const UNITS = ["B", "KB", "MB", "GB", "TB", "PB", "EB"] as const;

/** E.g. `256.00MB`, or with a space between as `256.00 MB`. */
export function formatSize(bytes: number | bigint, space: "" | " " = ""): string {
  let value = Number(bytes);
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${value.toFixed(2)}${space}${UNITS[unit]}`;
}
