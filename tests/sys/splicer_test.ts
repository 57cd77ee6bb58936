/** Answers through pipes: their bytes, what is cut short, what is dropped, how many go at once. */
import assert from "node:assert/strict";
import { closeFd, cString, libc, O_RDWR } from "../../fs/sys/libc.ts";
import { SystemReactor } from "../../fs/sys/reactor.ts";
import { Splicer } from "../../fs/sys/splicer.ts";

const PAGE = 4096;
const PAGES = 600;
const O_CREAT_TRUNC = 0o1100;

interface Bed {
  splicer: Splicer;
  /** The answers' receiver, and what it got. */
  fd: number;
  received: () => Uint8Array;
}

async function withSplicer(body: (bed: Bed) => Promise<void>): Promise<void> {
  const dir = await Deno.makeTempDir();
  const bytes = new Uint8Array(PAGES * PAGE);
  for (let p = 0; p < PAGES; p++) bytes.fill(p % 251, p * PAGE, (p + 1) * PAGE);
  await Deno.writeFile(`${dir}/device`, bytes);
  const device = libc.open(cString(`${dir}/device`), O_RDWR, 0);
  const fd = libc.open(cString(`${dir}/answers`), O_RDWR | O_CREAT_TRUNC, 0o600);
  const reactor = new SystemReactor({ maxSleepMs: 2 });
  const splicer = Splicer.open(device, reactor);
  try {
    if (splicer === null) console.log("skipped: no io_uring or no large pipes here");
    else {
      const received = () => Deno.readFileSync(`${dir}/answers`);
      await reactor.runUntil(body({ splicer, fd, received }));
    }
  } finally {
    splicer?.close();
    reactor.dispose();
    closeFd(device);
    closeFd(fd);
    await Deno.remove(dir, { recursive: true });
  }
}

const header = (n: number) => new Uint8Array(16).fill(n);

Deno.test("splicer: headers and data arrive in one piece each, pipes are used again", () =>
  withSplicer(async ({ splicer, fd, received }) => {
    const pages = Math.min(128, splicer.maxBytes / PAGE);
    const want: number[] = [];
    for (let round = 0; round < 40; round++) {
      const first = (round * 11) % (PAGES - pages);
      const answer = splicer.begin(header(200 + round % 50), first * PAGE, pages * PAGE);
      assert.ok(answer !== null);
      assert.equal(await answer.ended, true);
      assert.equal(answer.send(fd), true);
      answer.drop();
      want.push(first);
    }
    const got = received();
    const size = 16 + pages * PAGE;
    assert.equal(got.length, want.length * size);
    want.forEach((first, round) => {
      const at = round * size;
      assert.deepEqual(got.subarray(at, at + 16), header(200 + round % 50));
      for (let p = 0; p < pages; p++) {
        const page = got.subarray(at + 16 + p * PAGE, at + 16 + (p + 1) * PAGE);
        assert.ok(page.every((b) => b === (first + p) % 251), `page ${first + p}`);
      }
    });
  }));

Deno.test("splicer: data cut short is no answer, and leaves nothing in the next one", () =>
  withSplicer(async ({ splicer, fd, received }) => {
    const beyond = splicer.begin(header(1), (PAGES - 2) * PAGE, 8 * PAGE);
    assert.ok(beyond !== null);
    assert.equal(await beyond.ended, false);
    assert.throws(() => beyond.send(fd), /not there/);
    beyond.drop();
    const next = splicer.begin(header(2), 0, PAGE);
    assert.ok(next !== null);
    assert.equal(await next.ended, true);
    assert.equal(next.send(fd), true);
    next.drop();
    assert.deepEqual(received(), new Uint8Array(16 + PAGE).fill(2, 0, 16));
  }));

Deno.test("splicer: dropped while being read, unsent, refused by the receiver", () =>
  withSplicer(async ({ splicer, fd, received }) => {
    const early = splicer.begin(header(1), 0, 16 * PAGE)!;
    early.drop();
    assert.equal(await early.ended, true);
    const unsent = splicer.begin(header(2), 0, 16 * PAGE)!;
    await unsent.ended;
    unsent.drop();
    const refused = splicer.begin(header(3), 0, 16 * PAGE)!;
    await refused.ended;
    assert.equal(refused.send(-1), false);
    refused.drop();
    const last = splicer.begin(header(4), PAGE, PAGE)!;
    await last.ended;
    assert.equal(last.send(fd), true);
    last.drop();
    const want = new Uint8Array(16 + PAGE).fill(1);
    want.fill(4, 0, 16);
    assert.deepEqual(received(), want);
  }));

Deno.test("splicer: too long, and too many at once, are refused", () =>
  withSplicer(async ({ splicer }) => {
    assert.equal(splicer.begin(header(0), 0, splicer.maxBytes + PAGE), null);
    const answers = [];
    for (;;) {
      const answer = splicer.begin(header(0), answers.length * PAGE, PAGE);
      if (answer === null) break;
      answers.push(answer);
    }
    assert.equal(answers.length, 16);
    for (const answer of answers) assert.equal(await answer.ended, true);
    for (const answer of answers) answer.drop();
    const again = splicer.begin(header(0), 0, PAGE);
    assert.ok(again !== null);
    await again.ended;
    again.drop();
  }));
