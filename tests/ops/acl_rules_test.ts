/** fs/ops/acl_rules.ts: encoding, validity and arithmetic of POSIX ACLs (02 §13). */

import assert from "node:assert/strict";
import fc from "fast-check";
import { EINVAL, EOPNOTSUPP } from "../../format/errno.ts";
import {
  type Acl,
  ACL_GROUP,
  ACL_GROUP_OBJ,
  ACL_MASK,
  ACL_OTHER,
  ACL_USER,
  ACL_USER_OBJ,
  encodeAcl,
  equivalentMode,
  inheritedAccess,
  isMinimal,
  parseAcl,
  withMode,
} from "../../fs/ops/acl_rules.ts";

const NO_ID = 0xffff_ffff;
const entry = (tag: number, perm: number, id = NO_ID) => ({ tag, perm, id });
const minimal = (u: number, g: number, o: number): Acl => [
  entry(ACL_USER_OBJ, u),
  entry(ACL_GROUP_OBJ, g),
  entry(ACL_OTHER, o),
];
const extended = (u: number, g: number, m: number, o: number): Acl => [
  entry(ACL_USER_OBJ, u),
  entry(ACL_USER, 7, 1000),
  entry(ACL_GROUP_OBJ, g),
  entry(ACL_GROUP, 5, 50),
  entry(ACL_MASK, m),
  entry(ACL_OTHER, o),
];
const refused = (acl: Acl, errno = EINVAL): void => {
  assert.throws(() => parseAcl(encodeAcl(acl)), { errno });
};
const perm = fc.integer({ min: 0, max: 7 });

Deno.test("ACL values: stored layout", () => {
  assert.deepEqual(
    [...encodeAcl([entry(ACL_USER_OBJ, 6), entry(ACL_USER, 4, 0x1234)])],
    [2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 0x34, 0x12, 0, 0],
  );
});

Deno.test("ACL values: valid ones survive a round trip", () => {
  fc.assert(fc.property(perm, perm, perm, perm, fc.boolean(), (u, g, m, o, ext) => {
    const acl = ext ? extended(u, g, m, o) : minimal(u, g, o);
    assert.deepEqual(parseAcl(encodeAcl(acl)), acl);
  }));
});

Deno.test("ACL values: invalid ones are refused", () => {
  const [u, g, o] = minimal(7, 5, 1) as [Acl[0], Acl[0], Acl[0]];
  refused([u, g]);
  refused([g, u, o]);
  refused([u, u, g, o]);
  refused([u, entry(ACL_USER, 7, 3), g, o]);
  refused([u, g, entry(ACL_MASK, 7), entry(ACL_MASK, 7), o]);
  refused([u, g, entry(ACL_GROUP, 7, NO_ID), entry(ACL_MASK, 7), o]);
  refused([u, entry(ACL_GROUP_OBJ, 8), o]);
  refused([u, g, o, entry(ACL_MASK, 7)]);
  refused([u, g, entry(64, 1), o]);
  assert.throws(() => parseAcl(new Uint8Array([1, 0, 0, 0])), { errno: EOPNOTSUPP });
  assert.throws(() => parseAcl(new Uint8Array([2, 0, 0, 0, 1])), { errno: EINVAL });
  assert.throws(() => parseAcl(new Uint8Array([2, 0])), { errno: EINVAL });
  assert.equal(parseAcl(new Uint8Array([2, 0, 0, 0])), null);
  assert.equal(parseAcl(new Uint8Array(0)), null);
});

Deno.test("ACLs and permission bits", () => {
  assert.equal(equivalentMode(minimal(7, 5, 1)), 0o751);
  assert.equal(equivalentMode(extended(6, 7, 4, 0)), 0o640);
  assert.ok(isMinimal(minimal(0, 0, 0)) && !isMinimal(extended(0, 0, 0, 0)));
  assert.deepEqual(withMode(extended(7, 7, 7, 7), 0o640), extended(6, 7, 4, 0));
  assert.deepEqual(withMode(minimal(7, 7, 7), 0o640), minimal(6, 4, 0));
  assert.deepEqual(inheritedAccess(extended(7, 5, 6, 4), 0o750), extended(7, 5, 4, 0));
  assert.deepEqual(inheritedAccess(minimal(6, 6, 6), 0o755), minimal(6, 4, 4));
});
