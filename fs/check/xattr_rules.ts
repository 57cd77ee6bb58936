/**
 * What the name of an extended attribute says about its value (02 §12, §13): what no mount would have
 * stored, and none can work with.
 */

import { FsError } from "../errors.ts";
import { parseAcl } from "../ops/acl_rules.ts";
import {
  isAclXattr,
  isSupportedXattr,
  parseIndxName,
  parseNumber,
  parseTags,
  parseTotlName,
  TAG_INDX,
  TAG_TOTL,
} from "../ops/tags.ts";

/** Whether a mount can work with the value of an ACL attribute. */
export function isAclValue(value: Uint8Array): boolean {
  try {
    parseAcl(value);
    return true;
  } catch (e) {
    if (e instanceof FsError) return false;
    throw e;
  }
}

/** Whether there can be an attribute of that name with that value. */
export function isPossibleXattr(name: Uint8Array, value: Uint8Array): boolean {
  const tags = parseTags(name), total = (tags & TAG_TOTL) !== 0, index = (tags & TAG_INDX) !== 0;
  if (!isSupportedXattr(name) || tags < 0 || total && index) return false;
  if (total) return parseTotlName(name) !== null && parseNumber(value) !== null;
  if (index) return parseIndxName(name) !== null && value.length === 0;
  return !isAclXattr(name) || isAclValue(value);
}
