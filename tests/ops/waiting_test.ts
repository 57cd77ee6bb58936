// Claims (fs/claims.ts) and data waiters (02 §17.4).

import assert from "node:assert/strict";
import { EINTR, EIO } from "../../format/errno.ts";
import { Claims } from "../../fs/claims.ts";
import { errnoOf } from "../../fs/errors.ts";
import { DataWaiters, WAIT_READ, WAIT_WRITE } from "../../fs/ops/wait.ts";

Deno.test("claims: shared together, exclusive alone, in the order of asking", async () => {
  const claims = new Claims();
  const order: string[] = [];
  assert.ok(claims.tryShared(1));
  assert.ok(claims.tryShared(1));
  assert.ok(!claims.tryExclusive(1));
  assert.ok(claims.tryExclusive(2), "other inodes are free");
  const writer = claims.exclusive(1).then(() => order.push("writer"));
  assert.ok(!claims.tryShared(1), "a waiting writer is not starved");
  const readers = [
    claims.shared(1).then(() => order.push("reader")),
    claims.shared(1).then(() => order.push("reader")),
  ];
  const second = claims.exclusive(1).then(() => order.push("second"));
  claims.releaseShared(1);
  claims.releaseShared(1);
  await writer;
  assert.deepEqual(order, ["writer"]);
  claims.releaseExclusive(1);
  await Promise.all(readers);
  assert.deepEqual(order, ["writer", "reader", "reader"]);
  claims.releaseShared(1);
  claims.releaseShared(1);
  await second;
  claims.releaseExclusive(1);
  claims.releaseExclusive(2);
  assert.ok(claims.idle);
});

Deno.test("claims: released after results, rejections and exceptions; no promise without need", async () => {
  const claims = new Claims();
  assert.equal(claims.withExclusive(1, () => 5), 5);
  assert.throws(() =>
    claims.withExclusive(1, () => {
      throw new Error("x");
    })
  );
  await assert.rejects(async () =>
    await claims.withShared(1, () => Promise.reject(new Error("y")))
  );
  assert.equal(
    await claims.withExclusivePair(9, 3, async () => {
      // What ends within the turn is not recorded: nobody else could see it.
      await null;
      assert.ok(!claims.tryShared(3) && !claims.tryShared(9));
      return 7;
    }),
    7,
  );
  assert.ok(claims.idle);
});

Deno.test("waiters: woken, interrupted, failed, listed", async () => {
  const waiters = new DataWaiters();
  const outcome = (p: Promise<void>) => p.then(() => 0, (e) => errnoOf(e));
  const at = waiters.changes;
  const a = outcome(waiters.park(10, 5, WAIT_READ, 1, at));
  const b = outcome(waiters.park(10, 5, WAIT_WRITE, 2, at));
  const c = outcome(waiters.park(11, 0, WAIT_READ, 3n, at));
  const d = outcome(waiters.park(2000, 9, WAIT_READ, 4, at));
  assert.deepEqual(waiters.list(0, 0, 10), [
    { ino: 10, iblock: 5, op: 3 },
    { ino: 11, iblock: 0, op: 1 },
    { ino: 2000, iblock: 9, op: 1 },
  ]);
  assert.deepEqual(waiters.list(10, 5, 1), [{ ino: 11, iblock: 0, op: 1 }]);
  assert.deepEqual(waiters.list(10, 4, 1), [{ ino: 10, iblock: 5, op: 3 }]);
  assert.equal(waiters.fail(10, 0, 4, 7, EIO), 0);
  assert.equal(waiters.fail(10, 5, 5, WAIT_WRITE, EIO), 1);
  assert.ok(waiters.interrupt(3n));
  assert.ok(!waiters.interrupt(3n));
  waiters.wake(10);
  waiters.wakeRange(1024, 2047);
  assert.deepEqual(await Promise.all([a, b, c, d]), [0, EIO, EINTR, 0]);
  assert.equal(waiters.size, 0);
  // What happened between looking and parking is not lost.
  await waiters.park(10, 0, WAIT_READ, 5, at);
  const e = outcome(waiters.park(10, 0, WAIT_READ, 6, waiters.changes));
  waiters.close(EINTR);
  assert.equal(await e, EINTR);
  assert.equal(await outcome(waiters.park(10, 0, WAIT_READ, 7, waiters.changes)), EINTR);
});
