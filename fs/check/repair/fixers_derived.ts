/**
 * Mending items that other items determine, totals and quota rules: they are made anew or filed anew.
 */

import { ZONE_QUOTA, ZONE_XATTR_TOTL } from "../../../format/constants.ts";
import { bytesEqual } from "../../../format/bytes.ts";
import { fnv1a64 } from "../../../format/hash.ts";
import { quotaRuleKey } from "../../../format/items.ts";
import { Key } from "../../../format/key.ts";
import { viewOf } from "../raw.ts";
import { type Values } from "../problems.ts";
import { type FixScope, text, U64_MAX } from "./fixers_scope.ts";
import { parseKey } from "./item_patch.ts";

/** A key's newest version stands in fs_root: it is put over the older ones in log trees. */
export function rewriteItem(s: FixScope, name: string): boolean {
  const key = parseKey(name);
  if (key === null) return false;
  if (key.zone === ZONE_XATTR_TOTL) {
    s.patch.confirmTotal(key);
    return true;
  }
  const val = s.patch.get(key);
  if (val === null) s.patch.remove(key);
  else s.patch.set(key, val);
  return true;
}

export function fixTotal(s: FixScope, values: Values): boolean {
  const parts = text(values, "name").split(".").map(BigInt) as [bigint, bigint, bigint];
  const total = BigInt(values["foundTotal"] ?? 0), count = BigInt(values["foundCount"] ?? 0);
  s.patch.setTotal(...parts, total, count);
  return true;
}

/**
 * A rule in which one bit is wrong becomes what its hash says. One under the wrong hash or number is filed
 * anew; one that means nothing goes.
 */
export function refileQuotaRule(s: FixScope, name: string): boolean {
  const key = parseKey(name);
  if (key === null) return false;
  const val = s.patch.get(key);
  if (val === null) return true;
  s.patch.remove(key);
  restoreRule(val, key.secondBig);
  const rule = viewOf(val);
  let valid = rule.getUint8(33) <= 1 && (rule.getUint8(34) & ~1) === 0;
  for (let i = 35; i < 38; i++) if (rule.getUint8(i) > 3) valid = false;
  for (let i = 38; i < 41; i++) {
    const flags = rule.getUint8(i);
    if ((flags & ~1) !== 0 || flags === 1 && rule.getUint8(i - 3) === 0) valid = false;
  }
  for (let i = 41; i < 48; i++) rule.setUint8(i, 0);
  if (!valid) {
    s.notes.push(`quota rule ${key} was removed: it means nothing`);
    return s.lossy;
  }
  const hash = fnv1a64(val);
  const same = s.patch.range(
    quotaRuleKey(hash, 0),
    Key.of(ZONE_QUOTA, 0, key.type, hash, U64_MAX, 255),
  );
  if (same.some((item) => bytesEqual(item.val, val))) return true;
  let nr = 0;
  while (same.some((item) => item.key.thirdBig === BigInt(nr))) nr++;
  s.patch.set(quotaRuleKey(hash, nr), val);
  return true;
}

/** Turns the one bit without which a rule does not have its hash, if there is such a bit. */
function restoreRule(val: Uint8Array, hash: bigint): void {
  if (fnv1a64(val) === hash) return;
  for (let bit = 0; bit < 8 * val.length; bit++) {
    val[bit >>> 3]! ^= 1 << (bit & 7);
    if (fnv1a64(val) === hash) return;
    val[bit >>> 3]! ^= 1 << (bit & 7);
  }
}
